import pytest
import torch
import torch.nn.functional as F

from models.lsknet import LSK, LSKBlocks
from models.resnet import Place
from models.van import AttentionUnit
from tests.checks import assert_learns_and_keeps_layout, n_params, no_attention, randomize

KNOBS = [
    {},
    {"kernel_sizes": (3, 5), "dilations": (1, 2), "gate": "softmax"},
    {"kernel_sizes": (3, 5, 3), "dilations": (1, 1, 2), "pooling": "max"},
    {"kernel_sizes": (9,), "dilations": (1,), "pooling": "mean"},
    {"selection": "none"},
    {"selection": "channel"},
    {"selection": "channel", "gate": "softmax", "pooling": "mean"},
]


def block(ch, **knobs):
    return LSKBlocks(**knobs).block(ch, Place(1, 0, 8), no_attention, 0.0)


def convolve(x, weight, bias, dilation=1, depthwise=False):
    """A convolution with zeros outside of the map, a tap at a time."""
    k, (H, W) = weight.shape[-1], x.shape[2:]
    padded = F.pad(x, [dilation * (k // 2)] * 4)
    out = bias.view(1, -1, 1, 1)
    for i in range(k):
        for j in range(k):
            shifted = padded[:, :, i * dilation : i * dilation + H, j * dilation : j * dilation + W]
            tap = weight[:, :, i, j]
            out = out + (tap.view(1, -1, 1, 1) * shifted if depthwise else torch.einsum("oc,bchw->bohw", tap, shifted))
    return out


def reference(x, p, kernel_sizes=(5, 7), dilations=(1, 3), selection="spatial", pooling="both", gate="sigmoid"):
    """LSK from the paper's equations; p: the module's state."""
    n, half = len(kernel_sizes), x.shape[1] // 2
    a, parts = x, []
    for i in range(n):
        a = convolve(a, p[f"kernels.{i}.weight"], p[f"kernels.{i}.bias"], dilations[i], depthwise=True)
        parts.append(convolve(a, p[f"reduce.{i}.weight"], p[f"reduce.{i}.bias"]))
    mixed = torch.zeros_like(parts[0])
    for b in range(len(x)):
        stack = torch.cat([part[b] for part in parts])  # (n C/2, H, W)
        if selection == "none":
            mixed[b] = sum(part[b] for part in parts)
            continue
        if selection == "spatial":
            pooled = {"mean": stack.sum(0)[None] / len(stack), "max": stack.max(0).values[None]}
        else:
            rows = stack.flatten(1)
            pooled = {"mean": rows.sum(1) / rows.shape[1], "max": rows.max(1).values}
            pooled = {name: values.view(-1, 1, 1) for name, values in pooled.items()}
        m = torch.cat([pooled["mean"], pooled["max"]]) if pooling == "both" else pooled[pooling]
        logits = convolve(m[None], p["squeeze.weight"], p["squeeze.bias"])[0]
        logits = [logits[i] if selection == "spatial" else logits[i * half : (i + 1) * half] for i in range(n)]
        total = sum(z.exp() for z in logits)
        for i in range(n):
            mask = 1 / (1 + (-logits[i]).exp()) if gate == "sigmoid" else logits[i].exp() / total
            mixed[b] += mask * parts[i][b]
    return x * convolve(mixed, p["mix.weight"], p["mix.bias"])


@pytest.mark.parametrize("shape", [(2, 8, 8, 8), (2, 8, 5, 7)])
@pytest.mark.parametrize("knobs", KNOBS)
def test_agrees_with_the_equations(shape, knobs):
    lsk = randomize(LSK(8, **knobs)).double()
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(lsk(x), reference(x, lsk.state_dict(), **knobs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("knobs", KNOBS)
def test_block_holds_the_gate(knobs):
    """The rest of the block is SegNeXt's, whose test has its equations."""
    net = randomize(block(8, **knobs)).double()
    gate = net.spatial[1].branch[2]
    x = torch.randn(2, 8, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(gate(x), reference(x, gate.state_dict(), **knobs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("ch", "bare", "unit", "whole"),
    [(16, 1_830, 2_374, 5_238), (32, 4_230, 6_342, 16_166), (64, 11_334, 19_654, 55_686)],
)
def test_parameter_count(ch, bare, unit, whole):
    assert n_params(LSK(ch)) == bare
    assert n_params(AttentionUnit(ch, LSK)) == unit
    assert n_params(block(ch)) == whole


@pytest.mark.parametrize(
    ("kernel_sizes", "dilations", "field"),
    [((3, 5), (1, 2), 11), ((5, 7), (1, 3), 23), ((29,), (1,), 29), ((5, 7), (1, 4), 29), ((7, 9), (1, 4), 39)],
)
def test_receptive_field(kernel_sizes, dilations, field):
    lsk = randomize(LSK(2, kernel_sizes=kernel_sizes, dilations=dilations, selection="none"))
    x = torch.randn(1, 2, 45, 45, requires_grad=True)
    lsk(x)[0, 0, 22, 22].backward()
    rows = x.grad[0].abs().sum((0, 2)).nonzero().flatten()
    assert rows.max() - rows.min() + 1 == field


def test_masks_are_independent_sigmoids_or_a_softmax():
    parts = torch.randn(2, 16, 5, 7)
    masks = randomize(LSK(16)).masks(parts)
    assert masks.shape == (2, 2, 1, 5, 7)
    assert masks.min() > 0 and masks.max() < 1
    assert (masks.sum(1) - 1).abs().max() > 0.1
    softmax = randomize(LSK(16, gate="softmax")).masks(parts)
    torch.testing.assert_close(softmax.sum(1), torch.ones(2, 1, 5, 7))
    assert randomize(LSK(16, selection="channel")).masks(parts).shape == (2, 2, 8, 1, 1)


@pytest.mark.parametrize("selection", ["spatial", "channel"])
def test_zero_squeeze_weighs_the_parts_alike(selection):
    lsk = LSK(16, selection=selection)
    torch.nn.init.zeros_(lsk.squeeze.weight)
    torch.nn.init.zeros_(lsk.squeeze.bias)
    x = torch.randn(2, 16, 8, 8)
    near = lsk.kernels[0](x)
    halves = (lsk.reduce[0](near) + lsk.reduce[1](lsk.kernels[1](near))) / 2
    torch.testing.assert_close(lsk(x), x * lsk.mix(halves))


def test_taps_that_see_padding_only_do_not_learn():
    lsk = LSK(8)
    lsk(torch.randn(2, 8, 8, 8)).square().sum().backward()
    seen = lsk.kernels[1].weight.grad.abs().sum((0, 1)) > 0
    assert seen.sum() == 25
    assert seen[1:6, 1:6].all()


@pytest.mark.parametrize("knobs", KNOBS)
def test_learns_and_keeps_layout(knobs):
    x = torch.randn(2, 16, 7, 7)
    for make in (lambda: LSK(16, **knobs), lambda: block(16, layer_scale=1.0, **knobs)):
        assert_learns_and_keeps_layout(make, x, dtype=torch.float64)  # in float32 gates multiply the rounding


@pytest.mark.parametrize("knobs", KNOBS)
def test_channels_last_all_the_way(knobs):
    lsk = LSK(16, **knobs).to(memory_format=torch.channels_last)
    layouts = []
    lsk.mix.register_forward_pre_hook(
        lambda mix, args: layouts.append(args[0].is_contiguous(memory_format=torch.channels_last))
    )
    lsk(torch.randn(2, 16, 8, 8).contiguous(memory_format=torch.channels_last))
    assert layouts == [True]


def test_bad_knobs_are_refused():
    with pytest.raises(ValueError, match=r"lsknet\.kernel_sizes must be odd"):
        LSK(16, kernel_sizes=(4, 7))
    with pytest.raises(ValueError, match=r"lsknet\.dilations positive"):
        LSK(16, dilations=(1, 0))
    with pytest.raises(ValueError, match=r"lsknet\.kernel_sizes and lsknet\.dilations must pair up"):
        LSK(16, kernel_sizes=(5, 7, 9))
    with pytest.raises(ValueError, match=r"lsknet needs an even number of channels, got 15"):
        LSK(15)
    with pytest.raises(ValueError, match=r"lsknet\.gate=softmax needs two"):
        LSK(16, kernel_sizes=(7,), dilations=(1,), gate="softmax")
    with pytest.raises(ValueError, match=r"lsknet\.gate are not read with lsknet\.selection=none"):
        LSK(16, selection="none", pooling="max")
    with pytest.raises(ValueError, match=r"lskblock\.kernel_sizes must be odd"):
        block(16, kernel_sizes=(5, 6))
    with pytest.raises(ValueError, match=r"lskblock\.expansion must be at least 1"):
        LSKBlocks(expansion=0)
