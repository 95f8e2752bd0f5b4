"""What a run writes for TensorBoard: curves, its first batch, its confusion matrix, and HPARAMS with the final scores."""

import json

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

# HPARAMS' columns, in this order: what tells runs apart
SHOWN = ("arch", "settings", "seed", "epochs", "optimizer", "lr", "weight_decay", "batch_size", "params", "macs")
METRICS = ("top1", "top5", "loss", "ece")
MOST_CLASSES = 2000  # of a confusion matrix that is kept; it grows with their square


def hparams_summaries(config):
    """TensorBoard's hparams records: (experiment, session start, session end).

    Names are the same in every run, or the HPARAMS tab drops columns; settings are no hparam, so they are text.
    """
    shown = {name: config[name] for name in SHOWN} | {"settings": str(config["settings"])}
    return hparams(shown, {f"test/{name}": 0.0 for name in METRICS})


def confusion_image(confusion):
    """Confusion counts (target, prediction) -> a grey image uint8 (3, H, W), rows scaled to their sum.

    A cell is 4x4 pixels, or one pixel with more than 500 classes.
    """
    share = confusion / confusion.sum(1, keepdim=True).clamp(min=1)
    side = 4 if len(confusion) <= 500 else 1
    grey = (255 * (1 - share)).byte().repeat_interleave(side, 0).repeat_interleave(side, 1)
    return grey.expand(3, *grey.shape)


class Log:
    """The events of one run in its folder. config: its flags, and params and macs. resumed_at: a step, or None."""

    def __init__(self, folder, config, resumed_at):
        if resumed_at is None:  # a run that ended before its first checkpoint may have had other flags
            for file in folder.glob("events.out.tfevents.*"):
                file.unlink()
        # what an interrupted run logged after its checkpoint is hidden, because it will be logged again
        self.writer = SummaryWriter(folder, purge_step=None if resumed_at is None else resumed_at + 1)
        experiment, session, self.session_end = hparams_summaries(config)
        self.writer.file_writer.add_summary(experiment)
        self.writer.file_writer.add_summary(session)
        if resumed_at is None:
            self.writer.add_text("config", f"```json\n{json.dumps(config, indent=1)}\n```", 0)

    def first_batch(self, imgs, mean, std):
        """The first 64 of normalized images (B, 3, H, W), as they go into the network."""
        self.writer.add_images("train/first_batch", (imgs[:64] * std + mean).round().clamp(0, 255).byte(), 0)

    def scalars(self, values, step):
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def flush(self):
        self.writer.flush()

    def finish(self, result, confusion, step):
        self.scalars({f"test/{name}": result[name] for name in METRICS}, step)
        if len(confusion) <= MOST_CLASSES:
            self.writer.add_image("test/confusion", confusion_image(confusion), step)
        self.writer.file_writer.add_summary(self.session_end)
        self.writer.close()
