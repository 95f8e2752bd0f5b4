import cmath
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.hornet import GlobalLocalFilter, GnConv, HorNet
from models.resnet import ImageNetResNet, Place, ResNet
from tests.checks import assert_learns_and_keeps_layout, n_params, no_attention, randomize


def block(ch, stage=1, size=8, attention=no_attention, **knobs):
    return HorNet(**knobs).block(ch, Place(stage, 0, size), attention, 0.0)


def gnconv(ch, order, **knobs):
    return block(ch, orders=(order,), **knobs).spatial[1]


def layer_norm(x, p, name):
    mean = x.mean(1, keepdim=True)
    var = (x - mean).square().mean(1, keepdim=True)
    scale, shift = (p[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("weight", "bias"))
    return (x - mean) / (var + 1e-6).sqrt() * scale + shift


def depthwise(x, weight):
    k, (H, W) = weight.shape[-1], x.shape[2:]
    padded = F.pad(x, [k // 2] * 4)
    return sum(
        weight[:, 0, i, j].view(1, -1, 1, 1) * padded[:, :, i : i + H, j : j + W] for i in range(k) for j in range(k)
    )


def spectral_filter(x, weight):
    """Fourier sums written out: every frequency of a real map, times its complex weight, and back."""
    H, W = x.shape[2:]
    out = torch.zeros_like(x)
    for u in range(H):
        for v in range(W // 2 + 1):
            wave = torch.tensor(
                [[cmath.exp(2j * cmath.pi * (u * h / H + v * w / W)) for w in range(W)] for h in range(H)]
            ).to(torch.complex128)
            component = (x * wave.conj()).sum((2, 3), keepdim=True) * weight[:, u, v].view(1, -1, 1, 1)
            twice = 1 if v == 0 or 2 * v == W else 2  # -v is not stored, it mirrors v
            out += twice * (component * wave).real / (H * W)
    return out


def global_local(x, p):
    normed = layer_norm(x, p, "norm_in")
    half = x.shape[1] // 2
    near = depthwise(normed[:, :half], p["local.weight"])
    far = spectral_filter(normed[:, half:], torch.complex(p["real"], p["imag"]))
    woven = torch.empty_like(x)
    for c in range(half):
        woven[:, 2 * c], woven[:, 2 * c + 1] = near[:, c], far[:, c]
    return layer_norm(woven, p, "norm_out")


def reference(x, p, order, scale=3.0, **_):
    """gnConv with a loop over pixels; p: its state."""
    B, C, H, W = x.shape
    widths = [C // 2 ** (order - 1 - i) for i in range(order)]
    starts = [sum(widths[:i]) for i in range(order)]
    both = torch.einsum("oc,bchw->bohw", p["proj_in.weight"][:, :, 0, 0], x) + p["proj_in.bias"].view(1, -1, 1, 1)
    q = both[:, widths[0] :]
    if "gate.weight" in p:
        q = depthwise(q, p["gate.weight"]) + p["gate.bias"].view(1, -1, 1, 1)
    else:
        q = global_local(q, {name.removeprefix("gate."): value for name, value in p.items()})
    out = torch.empty_like(x)
    for b in range(B):
        for i in range(H):
            for j in range(W):
                gates = [scale * q[b, s : s + w, i, j] for s, w in zip(starts, widths, strict=True)]
                v = both[b, : widths[0], i, j] * gates[0]
                for n in range(order - 1):
                    v = (p[f"widen.{n}.weight"][:, :, 0, 0] @ v + p[f"widen.{n}.bias"]) * gates[n + 1]
                out[b, :, i, j] = p["proj_out.weight"][:, :, 0, 0] @ v + p["proj_out.bias"]
    return out


@pytest.mark.parametrize("shape", [(2, 16, 8, 8), (2, 16, 5, 7)])
@pytest.mark.parametrize(("order", "knobs"), [(1, {}), (2, {}), (3, {"kernel_size": 3, "scale": 1 / 3}), (5, {})])
def test_agrees_with_the_equations(shape, order, knobs):
    net = randomize(gnconv(16, order, **knobs)).double()
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(net(x), reference(x, net.state_dict(), order, **knobs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [8, 7])
def test_global_filter_agrees_with_the_equations(size):
    net = randomize(block(16, stage=3, size=size, gate="gf", orders=(2, 2, 3)).spatial[1]).double()
    assert isinstance(net.gate, GlobalLocalFilter)
    x = torch.randn(2, 16, size, size, dtype=torch.float64)
    torch.testing.assert_close(net(x), reference(x, net.state_dict(), 3, scale=1), rtol=1e-5, atol=1e-5)


def test_block_agrees_with_the_figure():
    net = randomize(block(8)).double()
    p = net.state_dict()
    x = torch.randn(2, 8, 5, 7, dtype=torch.float64)
    inner = {name.removeprefix("spatial.1."): value for name, value in p.items()}
    expected = x + p["spatial.3.gamma"] * reference(layer_norm(x, p, "spatial.0"), inner, 2)
    hidden = torch.einsum("oc,bchw->bohw", p["channel.1.0.weight"][:, :, 0, 0], layer_norm(expected, p, "channel.0"))
    hidden = hidden + p["channel.1.0.bias"].view(1, -1, 1, 1)
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
    out = torch.einsum("oc,bchw->bohw", p["channel.1.2.weight"][:, :, 0, 0], hidden)
    expected = expected + p["channel.2.gamma"] * (out + p["channel.1.2.bias"].view(1, -1, 1, 1))
    torch.testing.assert_close(net(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("ch", "order", "bare", "whole"),
    [(16, 2, 2_160, 4_384), (32, 3, 6_656, 15_200), (64, 4, 21_280, 54_752), (64, 5, 21_520, 54_992)],
)
def test_parameter_count(ch, order, bare, whole):
    assert n_params(gnconv(ch, order)) == bare
    assert n_params(block(ch, orders=(order,))) == whole


def test_orders_are_read_by_stage():
    net = ResNet(100, 32, block=HorNet(orders=(4, 3, 2)))
    widths = [module.widths for module in net.modules() if isinstance(module, GnConv)]
    assert widths == [[2, 4, 8, 16]] * 3 + [[8, 16, 32]] * 3 + [[32, 64]] * 3


def test_four_stages_have_the_papers_orders_and_filters():
    with torch.device("meta"):
        net = ImageNetResNet(100, 32, block=HorNet(gate="gf"))
    gates = [next(m for m in stage.modules() if isinstance(m, GnConv)) for stage in net.stages]
    assert [len(gate.widths) for gate in gates] == [2, 3, 4, 5]
    assert [isinstance(gate.gate, GlobalLocalFilter) for gate in gates] == [False, False, True, True]


def test_global_filter_stands_in_stage_3_only():
    net = ResNet(100, 32, block=HorNet(gate="gf"))
    filters = [
        [isinstance(m.gate, GlobalLocalFilter) for m in s.modules() if isinstance(m, GnConv)] for s in net.stages
    ]
    assert filters == [[False] * 3, [False] * 3, [True] * 3]
    gate = next(m for m in net.modules() if isinstance(m, GlobalLocalFilter))
    assert gate.real.shape == gate.imag.shape == (60, 8, 5)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_order_n_is_homogeneous_of_degree_n_plus_1(order):
    """Without biases there is nothing but products: twice the input is 2^(n + 1) times the output."""
    net = gnconv(16, order).double()
    for name, p in net.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(p)
    x = torch.randn(2, 16, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(net(2 * x), 2 ** (order + 1) * net(x))


def test_default_start_is_alive_and_the_papers_is_not():
    x = torch.randn(4, 64, 8, 8)
    for order in (2, 3, 4, 5):
        assert gnconv(64, order)(x).std((0, 2, 3)).mean() > 0.05  # over pixels, so without what biases give
    assert gnconv(64, 4, init="trunc", scale=1 / 3)(x).std() < 1e-10


def test_gates_start_at_the_size_of_their_input():
    net, x = gnconv(64, 4), torch.randn(4, 64, 16, 16)
    q = net.proj_in(x)[:, net.widths[0] :]
    gates = net.scale * net.gate(q)[..., 3:-3, 3:-3]  # zero padding takes from the border
    assert gates.std((0, 2, 3)).square().mean().sqrt().item() == pytest.approx(1, rel=0.1)


def test_trunc_draws_every_convolution_but_the_attention_slots():
    attention = partial(nn.Conv2d, out_channels=64, kernel_size=1)
    net = block(64, stage=3, gate="gf", init="trunc", attention=attention)
    convs = [m for m in [*net.spatial[1].modules(), *net.channel.modules()] if isinstance(m, nn.Conv2d)]
    assert len(convs) == 8  # in, out, three widening, the local filter, two of the feed-forward part
    for conv in convs:
        assert conv.weight.std().item() == pytest.approx(0.02, rel=0.4)  # the smallest has 128 weights
        assert conv.bias is None or not conv.bias.any()
    parts = [p for name, p in net.named_parameters() if name.endswith((".real", ".imag"))]
    assert len(parts) == 2 and all(p.std().item() == pytest.approx(0.02, rel=0.1) for p in parts)
    assert net.spatial[2].weight.std() > 0.05


@pytest.mark.parametrize(
    "knobs",
    [{}, {"orders": (1,), "kernel_size": 3}, {"orders": (5,), "scale": 1 / 3}, {"stage": 3, "size": 7, "gate": "gf"}],
)
def test_learns_and_keeps_layout(knobs):
    x = torch.randn(2, 16, 7, 7)
    assert_learns_and_keeps_layout(
        lambda: block(16, **knobs), x, dtype=torch.float64
    )  # in float32 gates multiply the rounding


def test_bad_knobs_are_refused():
    with pytest.raises(ValueError, match=r"hornet\.kernel_size must be odd"):
        HorNet(kernel_size=4)
    with pytest.raises(ValueError, match=r"hornet\.scale must not be 0"):
        HorNet(scale=0.0)
    with pytest.raises(ValueError, match=r"hornet\.orders must be at least 1 .* got 6 for 16 channels"):
        block(16, orders=(6,))
    for order in (0, 10**12):  # 2 to the power of which takes minutes
        with pytest.raises(ValueError, match=r"hornet\.orders must be at least 1"):
            block(16, orders=(order,))
    with pytest.raises(ValueError, match=r"hornet\.orders needs an order for stage 3"):
        block(16, stage=3, orders=(2, 3))
    with pytest.raises(ValueError, match=r"hornet\.gate=gf needs an even number of channels in its gates, got 31"):
        block(16, stage=3, orders=(2, 3, 5), gate="gf")
