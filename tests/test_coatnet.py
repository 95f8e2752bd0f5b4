import math

import pytest
import torch
from torch import nn

from models.coatnet import CoAtNet, MBConv, RelativeAttention, TransformerBlock
from models.prenorm import ChannelNorm
from models.resnet import BasicBlock, DropPath, Place, ResNet
from tests.checks import Silence, assert_learns_and_keeps_layout, n_params, no_attention, plain_block, randomize


def test_bias_starts_small():
    torch.manual_seed(0)
    table = RelativeAttention(32, 32, size=8, head_dim=16, relative_bias=True).bias_table
    assert table.std().item() == pytest.approx(0.02, rel=0.15)  # of 450 numbers: four standard deviations


def block(letter, in_ch, out_ch, stride, size, attention=no_attention, drop_path=0.0, **knobs):
    family = CoAtNet(layout=letter, **knobs)
    return family(in_ch, out_ch, stride, Place(1, 0, size), plain_block, attention, drop_path)


def pixels(x):
    return [(b, i, j) for b in range(len(x)) for i in range(x.shape[2]) for j in range(x.shape[3])]


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def conv1x1(x, weight, bias=None):
    out = x.new_zeros(len(x), len(weight), *x.shape[2:])
    for b, i, j in pixels(x):
        out[b, :, i, j] = weight[:, :, 0, 0] @ x[b, :, i, j] + (0 if bias is None else bias)
    return out


def depthwise(x, weight, stride):
    """3x3 with one pixel of zeros around, a tap at a time."""
    H, W = x.shape[2:]
    out = x.new_zeros(*x.shape[:2], math.ceil(H / stride), math.ceil(W / stride))
    for b, i, j in pixels(out):
        for di in range(3):
            for dj in range(3):
                y, z = stride * i + di - 1, stride * j + dj - 1
                if 0 <= y < H and 0 <= z < W:
                    out[b, :, i, j] += weight[:, 0, di, dj] * x[b, :, y, z]
    return out


def pooled(x, stride, kind):
    H, W = x.shape[2:]
    out = x.new_zeros(*x.shape[:2], math.ceil(H / stride), math.ceil(W / stride))
    for b, i, j in pixels(out):
        window = x[b, :, stride * i : stride * (i + 1), stride * j : stride * (j + 1)].flatten(
            1
        )  # clipped at the border
        out[b, :, i, j] = window.max(1).values if kind == "max" else window.mean(1)
    return out


def normalized(x, p, name):
    out = x.clone()
    for b, i, j in pixels(x):
        v = x[b, :, i, j]
        if f"{name}.running_mean" in p:
            v = (v - p[f"{name}.running_mean"]) / (p[f"{name}.running_var"] + 1e-5).sqrt()
        else:
            v = (v - v.mean()) / (v.var(unbiased=False) + 1e-6).sqrt()
        out[b, :, i, j] = v * p[f"{name}.weight"] + p[f"{name}.bias"]
    return out


def shortcut(x, p, stride, pool):
    if "shortcut.1.weight" not in p:
        return x
    return conv1x1(pooled(x, stride, pool), p["shortcut.1.weight"], p["shortcut.1.bias"])


def mbconv(x, p, stride, stride_place, pool):
    """The paper's MBConv, its squeeze-excite one image at a time; p: the block's state."""
    out = normalized(x, p, "branch.0")
    if stride_place == "expand":
        out = out[:, :, ::stride, ::stride]
    out = gelu(normalized(conv1x1(out, p["branch.1.weight"]), p, "branch.2.norm"))
    out = depthwise(out, p["branch.3.weight"], stride if stride_place == "dw" else 1)
    out = gelu(normalized(out, p, "branch.4.norm"))
    if "branch.5.gate.0.weight" in p:
        for b in range(len(out)):
            hidden = p["branch.5.gate.0.weight"][:, :, 0, 0] @ out[b].mean((1, 2)) + p["branch.5.gate.0.bias"]
            hidden = hidden / (1 + torch.exp(-hidden))
            gate = p["branch.5.gate.2.weight"][:, :, 0, 0] @ hidden + p["branch.5.gate.2.bias"]
            out[b] /= (1 + torch.exp(-gate))[:, None, None]
    return shortcut(x, p, stride, pool) + conv1x1(out, p["branch.6.weight"], p["branch.6.bias"])


def attend(x, p, head_dim):
    """Relative attention by its equation, for one image, one head and one pair of pixels after the other."""
    _, _, H, W = x.shape
    out_ch = len(p["mix.2.proj.weight"])
    out = x.new_zeros(len(x), out_ch, H, W)
    for b, i, j in pixels(x):
        mixed = x.new_zeros(out_ch)
        for head in range(out_ch // head_dim):
            rows = [slice(part * out_ch + head * head_dim, part * out_ch + (head + 1) * head_dim) for part in range(3)]
            (wq, wk, wv), (bq, bk, bv) = ([p[f"mix.2.qkv.{n}"][r] for r in rows] for n in ("weight", "bias"))
            q = wq @ x[b, :, i, j] + bq
            total = 0
            for y in range(H):
                for z in range(W):
                    logit = q @ (wk @ x[b, :, y, z] + bk) / math.sqrt(head_dim)
                    if "mix.2.bias_table" in p:
                        logit = logit + p["mix.2.bias_table"][head, i - y + H - 1, j - z + W - 1]
                    total = total + logit.exp()
                    mixed[head * head_dim : (head + 1) * head_dim] += logit.exp() * (wv @ x[b, :, y, z] + bv)
            mixed[head * head_dim : (head + 1) * head_dim] /= total
        out[b, :, i, j] = p["mix.2.proj.weight"] @ mixed + p["mix.2.proj.bias"]
    return out


def transformer(x, p, stride, head_dim, pool):
    attended = attend(pooled(normalized(x, p, "mix.0"), stride, pool), p, head_dim)
    x = shortcut(x, p, stride, pool) + attended
    hidden = gelu(conv1x1(normalized(x, p, "mlp.0"), p["mlp.1.weight"], p["mlp.1.bias"]))
    return x + conv1x1(hidden, p["mlp.3.weight"], p["mlp.3.bias"])


@pytest.mark.parametrize(
    ("out_ch", "stride", "shape", "knobs"),
    [
        (8, 1, (2, 8, 4, 5), {}),
        (8, 1, (2, 8, 4, 5), {"norm": "layer", "expansion": 2, "se_ratio": 0.5}),
        (12, 2, (2, 8, 5, 7), {}),
        (12, 2, (2, 8, 7, 4), {"stride_place": "expand", "pool": "avg", "se_ratio": 0.0}),
        (8, 2, (2, 8, 6, 5), {"pool": "avg"}),
        (12, 1, (2, 8, 3, 3), {}),
    ],
)
def test_mbconv_agrees_with_the_paper(out_ch, stride, shape, knobs):
    net = randomize(block("C", shape[1], out_ch, stride, shape[2], **knobs)).double().eval()
    x = torch.randn(shape, dtype=torch.double)
    expected = mbconv(x, net.state_dict(), stride, knobs.get("stride_place", "dw"), knobs.get("pool", "max"))
    torch.testing.assert_close(net(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("out_ch", "stride", "size", "knobs"),
    [
        (8, 1, 4, {"head_dim": 4}),
        (8, 1, 3, {"head_dim": 8, "relative_bias": False, "expansion": 2}),
        (12, 2, 5, {"head_dim": 4}),
        (12, 2, 6, {"head_dim": 6, "pool": "avg"}),
        (8, 2, 7, {"head_dim": 2, "pool": "avg"}),
    ],
)
def test_transformer_agrees_with_the_paper(out_ch, stride, size, knobs):
    net = randomize(block("T", 8, out_ch, stride, size, **knobs)).double()
    x = torch.randn(2, 8, size, size, dtype=torch.double)
    expected = transformer(x, net.state_dict(), stride, knobs["head_dim"], knobs.get("pool", "max"))
    torch.testing.assert_close(net(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("ch", "count"), [(16, 3_508), (32, 12_136), (64, 44_752)])
def test_mbconv_parameter_count(ch, count):
    assert n_params(block("C", ch, ch, 1, 8)) == count


def test_whole_network_is_the_papers():
    """CoAtNet-0 for ImageNet, heads of 32, with timm's hidden layer before the classifier."""
    family, in_ch, size = CoAtNet(head_dim=32), 64, 112
    with torch.device("meta"):
        layers = [nn.Conv2d(3, 64, 3, bias=False), nn.BatchNorm2d(64), nn.Conv2d(64, 64, 3, bias=False)]
        for stage, (depth, ch) in enumerate(zip((2, 3, 5, 2), (96, 192, 384, 768), strict=True), start=1):
            for index in range(depth):
                stride = 1 if index else 2
                place = Place(stage, index, size)
                layers.append(family(in_ch, ch, stride, place, plain_block, no_attention, 0.0))
                in_ch, size = ch, size // stride
        layers += [nn.LayerNorm(768), nn.Linear(768, 768), nn.Linear(768, 1000)]
    assert n_params(nn.Sequential(*layers)) == 25_036_820


@pytest.mark.parametrize(
    ("ch", "size", "head_dim", "count"),
    [(16, 8, 16, 3_505), (32, 8, 16, 13_154), (64, 8, 16, 50_884), (64, 8, 32, 50_434), (16, 32, 16, 7_249)],
)
def test_transformer_parameter_count(ch, size, head_dim, count):
    """12 C^2 + 13 C + heads (2 H - 1)^2."""
    assert n_params(block("T", ch, ch, 1, size, head_dim=head_dim)) == count


def test_strided_transformer_parameter_count():
    assert n_params(block("T", 32, 64, 2, 16)) == 46_788


@pytest.mark.parametrize(
    ("knobs", "count"),
    [
        ({"layout": "CCC"}, 180_600),
        ({"layout": "CTT"}, 209_026),
        ({"layout": "TTT"}, 220_249),
        ({"layout": "TTTT", "relative_bias": False}, 220_249 - 3 * 63**2 - 3 * 2 * 31**2 - 3 * 4 * 15**2),
    ],
)
def test_whole_net(knobs, count):
    net = ResNet(100, 32, block=CoAtNet(**knobs))
    assert n_params(net) == count
    assert [type(layer) for layer in net.stem] == [nn.Conv2d, nn.BatchNorm2d]
    assert isinstance(net.norm, nn.LayerNorm)


def test_stem_of_large_images_rectifies_between_its_convolutions():
    stem = CoAtNet().stem(3, 16, 4)
    kinds = [type(layer) for layer in stem.modules() if not isinstance(layer, nn.Sequential)]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Conv2d, nn.BatchNorm2d]


@pytest.mark.parametrize("layout", ["CCC", "CCT", "CTT", "TTT"])
def test_whole_net_takes_odd_images(layout):
    net = ResNet(10, 15, block=CoAtNet(layout=layout)).eval()  # maps of 15, 8 and 4 pixels
    kinds = {"C": MBConv, "T": TransformerBlock}
    assert [type(stage[0]) for stage in net.stages] == [kinds[letter] for letter in layout]
    assert net(torch.randn(2, 3, 15, 15)).shape == (2, 10)


def test_bias_is_of_the_offset_only():
    attention = randomize(RelativeAttention(32, 32, size=4, head_dim=16, relative_bias=True))
    bias = attention.bias()
    assert bias.shape == (2, 16, 16)
    seen = {}
    for i in range(16):
        for j in range(16):
            offset = (i // 4 - j // 4, i % 4 - j % 4)
            assert torch.equal(seen.setdefault(offset, bias[:, i, j]), bias[:, i, j])
    assert len(seen) == 7 * 7 == len(torch.stack(list(seen.values())).unique(dim=0))  # each offset has its own number


def test_only_the_bias_knows_where_pixels_stand():
    net = randomize(block("T", 16, 16, 1, 4, head_dim=8))
    x, order = torch.randn(2, 16, 4, 4), torch.randperm(16)

    def shuffled(x):
        return x.flatten(2)[:, :, order].view_as(x)

    assert (net(shuffled(x)) - shuffled(net(x))).abs().max() > 1e-2
    nn.init.zeros_(net.mix[2].bias_table)
    torch.testing.assert_close(net(shuffled(x)), shuffled(net(x)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("letter", "knobs"),
    [
        ("C", {}),
        ("C", {"norm": "layer", "stride_place": "expand", "pool": "avg"}),
        ("C", {"se_ratio": 0.0}),
        ("T", {}),
        ("T", {"relative_bias": False, "pool": "avg", "head_dim": 8}),
    ],
)
def test_learns_and_keeps_layout(letter, knobs, stride):
    def net():
        return block(letter, 16, 16 * stride, stride, 7, **knobs)

    x = torch.randn(2, 16, 7, 7)
    # the batch norm after the first 1x1 takes away again what the shift of the pre-norm adds
    exempt = ["branch.0.bias"] if letter == "C" and "norm" not in knobs else []
    assert_learns_and_keeps_layout(net, x, exempt=exempt)


@pytest.mark.parametrize("letter", ["C", "T"])
def test_attention_and_drop_path_are_on_the_spatial_branch(letter):
    net = block(letter, 16, 32, 2, 6, attention=Silence, drop_path=0.2)
    x = torch.randn(2, 16, 6, 6)
    expected = net.shortcut(x)
    if letter == "T":
        expected = expected + net.eval().mlp(expected)
    torch.testing.assert_close(net(x), expected)
    rates = [module.rate for module in net.modules() if isinstance(module, DropPath)]
    assert rates == ([0.2] if letter == "C" else [0.2, 0.2])


def test_downsampling_native_or_the_resnets():
    native = block("C", 16, 32, 2, 8)
    pool, project = native.shortcut
    assert isinstance(pool, nn.MaxPool2d) and isinstance(project, nn.Conv2d)
    assert isinstance(block("C", 16, 32, 2, 8, downsample="resnet"), BasicBlock)
    assert isinstance(block("T", 16, 16, 1, 8, downsample="resnet"), TransformerBlock)
    assert isinstance(block("T", 16, 16, 1, 8).mix[0], ChannelNorm)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"layout": "TC"}, r"coatnet\.layout must be letters C and then letters T"),
        ({"layout": ""}, r"coatnet\.layout must be"),
        ({"layout": "CCA"}, r"coatnet\.layout must be"),
        ({"head_dim": 0}, r"coatnet\.head_dim"),
        ({"expansion": 0}, r"coatnet\.expansion"),
        ({"se_ratio": -0.5}, r"coatnet\.se_ratio"),
        ({"downsample": "resnet", "pool": "avg"}, r"coatnet\.pool are read with coatnet\.downsample=native"),
        ({"downsample": "resnet", "stride_place": "expand"}, r"coatnet\.stride_place"),
        ({"layout": "CCC", "relative_bias": False}, r"coatnet\.relative_bias is read in stages T"),
        ({"layout": "TTT", "norm": "layer"}, r"coatnet\.norm.* are read in stages C"),
        ({"layout": "TTT", "se_ratio": 0.5}, r"coatnet\.se_ratio"),
        ({"layout": "CC"}, r"coatnet\.layout has no letter for stage 3"),
        ({"layout": "TTT", "head_dim": 32}, r"coatnet\.head_dim must divide the 16 channels"),
    ],
)
def test_bad_knobs_are_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        ResNet(10, 32, block=CoAtNet(**knobs))
