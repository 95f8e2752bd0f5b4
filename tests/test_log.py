"""What TensorBoard is given, and how it looks there."""

from types import SimpleNamespace

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import log


def test_confusion_is_darker_the_more_images_of_a_class_are_given_it():
    """Each row by its own number of images; a class without any stays white. 255 (1 - 9/10) is 25.5."""
    confusion = torch.tensor([[9, 1, 0], [0, 0, 0], [1, 1, 18]])
    image = log.confusion_image(confusion)
    assert (image.shape, image.dtype) == ((3, 12, 12), torch.uint8)
    cells = torch.tensor([[25, 229, 255], [255, 255, 255], [242, 242, 25]], dtype=torch.uint8)
    assert torch.equal(image, cells.kron(torch.ones(4, 4, dtype=torch.uint8)).expand(3, 12, 12))


def test_many_classes_have_small_cells():
    assert log.confusion_image(torch.eye(501)).shape == (3, 501, 501)


def test_run_that_starts_afresh_leaves_no_curve_of_the_one_before(tmp_path):
    """Which ended before its first checkpoint, as with a learning rate that is too high."""
    config = dict.fromkeys(log.SHOWN, 1) | {"settings": {}}
    for lr, steps in ((0.9, (20, 40, 60)), (0.1, (20, 40))):
        events = log.Log(tmp_path, config | {"lr": lr}, None)
        for step in steps:
            events.scalars({"train/loss": lr}, step)
        events.writer.close()
    found = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, round(event.value, 1)) for event in found.Scalars("train/loss")] == [(20, 0.1), (40, 0.1)]


def test_run_that_goes_on_hides_what_it_logged_after_its_checkpoint(tmp_path):
    """Which it logs again: the checkpoint is of step 40."""
    config = dict.fromkeys(log.SHOWN, 1) | {"settings": {}}
    for resumed_at, steps in ((None, (20, 40, 60)), (40, (50, 60))):
        for file in tmp_path.iterdir():
            file.rename(tmp_path / "events.out.tfevents.0")  # of an earlier second
        events = log.Log(tmp_path, config, resumed_at)
        for step in steps:
            events.scalars({"train/loss": 1.0}, step)
        events.writer.close()
    found = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in found.Scalars("train/loss")] == [20, 40, 50, 60]


def test_first_batch_is_shown_as_it_was_before_it_was_normalized():
    shown = {}
    writer = SimpleNamespace(add_images=lambda tag, images, step: shown.update({tag: (images, step)}))
    imgs = torch.randint(0, 256, (70, 3, 3, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(of).view(3, 1, 1) for of in ([120.3, 99.0, 130.7], [60.1, 50.0, 70.0]))
    log.Log.first_batch(SimpleNamespace(writer=writer), (imgs - mean) / std, mean, std)
    images, step = shown["train/first_batch"]
    assert torch.equal(images, imgs[:64]) and step == 0
