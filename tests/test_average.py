"""The average of the weights and statistics: how it moves, and that it is what a run scores and publishes."""

import pytest
import torch
from torch import nn

import data
import engine
import hub
from augment import eval_batches
from tests.runs import SMALL, assert_same, result_of, run, saved_state
from tests.test_engine import new_batches, new_state, tiny_net


def test_statistics_are_averaged_and_counts_are_copied():
    average, net = tiny_net(), tiny_net()
    for of, mean, var, count in ((average, 2.0, 5.0, 1), (net, 3.0, 15.0, 7)):
        of[1].running_mean.fill_(mean)
        of[1].running_var.fill_(var)
        of[1].num_batches_tracked.fill_(count)
    engine.update_average(average, net, 0.9, torch.tensor(10**6))
    assert average[1].running_mean.tolist() == pytest.approx([2.1] * 8)
    assert average[1].running_var.tolist() == pytest.approx([6.0] * 8)
    assert average[1].num_batches_tracked == 7


@pytest.mark.parametrize(("n", "decay"), [(0, 0.1), (8, 0.5), (10**6, 0.99)])
def test_decay_rises_with_the_updates(n, decay):
    average, net = nn.Linear(1, 1), nn.Linear(1, 1)
    nn.init.ones_(average.weight)
    nn.init.zeros_(net.weight)
    engine.update_average(average, net, 0.99, torch.tensor(n))
    assert average.weight.item() == pytest.approx(decay)


def test_average_agrees_with_a_plain_one():
    """Of weights and statistics, after each step; the decay reaches its full value with the third one."""
    state = new_state(ema_decay=0.25)
    expected = {name: value.clone() for name, value in state.net.state_dict().items()}
    for n, (imgs, targets) in enumerate(new_batches().epoch(0)):
        engine.train_step(state, state.net, imgs, targets)
        decay = min(0.25, (1 + n) / (10 + n))
        for name, value in state.net.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value if value.is_floating_point() else value
        torch.testing.assert_close(dict(state.eval_net.state_dict()), expected)


def test_update_that_fp16_leaves_out_moves_no_statistics():
    """One image overflows: its batch would leave inf or nan in them for ever, and so in their average."""
    state = new_state(ema_decay=0.9, amp=torch.float16)
    imgs, targets = next(new_batches().epoch(0))
    overflowing = imgs.clone()
    overflowing[3] = 1e6
    seen = []
    for images, n_bad in ((imgs, 0), (overflowing, 1), (imgs, 0)):
        engine.train_step(state, state.net, images, targets)
        assert state.n_bad == n_bad
        seen.append((state.net[1].running_mean.clone(), state.net[1].running_var.clone()))
    good, bad, good_again = seen
    assert all(map(torch.equal, good, bad))
    assert not any(map(torch.equal, bad, good_again))
    for net in (state.net, state.ema):
        assert all(value.isfinite().all() for value in net.state_dict().values())


def test_the_average_is_what_is_scored_and_published(command, photos, tmp_path):
    run(*command(*SMALL, "--ema-decay", "0.9", "--amp", "off"))
    folder = tmp_path / "runs" / "run"
    result, state, model = result_of(folder), saved_state(folder), hub.load(folder)
    assert_same(model.net.state_dict(), state["ema"])
    assert not torch.equal(state["ema"]["fc.weight"], state["net"]["fc.weight"])
    images = data.load("folder", photos, None, tmp_path / "cache")
    _, val = data.held_out(images, 0.1, None, None, seed=0)
    for split, reported in ((images.test, result), (val, result["curve"][-1])):
        batches = eval_batches(split, len(split), model.mean, model.std)
        scores = engine.start_evaluation(model.net, batches, len(split), 4, None)()
        names = {*scores} & {*reported} - {"confusion", "per_class_top1"}
        assert len(names) == (6 if split is images.test else 3)
        for name in names:
            assert reported[name] == pytest.approx(scores[name], rel=1e-5), name
