import pytest
import torch
import torch.nn.functional as F

from cost import cost
from models.resnet import DropPath
from models.vit import Block, ViT
from tests.checks import assert_learns_and_keeps_layout, n_params, randomize

TINY = {"width": 12, "depth": 2, "heads": 3}


def normed(x, norm):
    mean = x.mean(-1, keepdim=True)
    return (x - mean) / ((x - mean).square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight + norm.bias


def linear(x, layer):
    return x @ layer.weight.T + layer.bias


def attended(x, attn, n_heads):
    """Equations 5 to 8 of the paper's appendix for one image: heads one by one, queries one by one. (T, D) -> (T, D)."""
    T, D = x.shape
    q, k, v = linear(x, attn.qkv).split(D, dim=1)
    out, d = torch.empty(T, D), D // n_heads
    for head in range(n_heads):
        part = slice(head * d, (head + 1) * d)
        for t in range(T):
            weights = torch.exp(torch.stack([q[t, part] @ k[s, part] for s in range(T)]) / d**0.5)
            out[t, part] = sum(w * v[s, part] for s, w in enumerate(weights / weights.sum()))
    return linear(out, attn.proj)


def reference(img, net, patch, n_heads):
    """Equations 1 to 4 for one image (3, H, W), a patch at a time."""
    kernels, bias = net.patch_embed.proj.weight.flatten(1), net.patch_embed.proj.bias
    tokens = [net.cls_token[0, 0]]
    for i in range(0, img.shape[1], patch):
        for j in range(0, img.shape[2], patch):
            tokens.append(kernels @ img[:, i : i + patch, j : j + patch].flatten() + bias)
    x = torch.stack(tokens) + net.pos_embed[0]
    for block in net.blocks:
        x = x + attended(normed(x, block.norm1), block.attn, n_heads)
        hidden = linear(normed(x, block.norm2), block.mlp.fc1)
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
        x = x + linear(hidden, block.mlp.fc2)
    return linear(normed(x, net.norm)[0], net.head)


@pytest.mark.parametrize(("size", "patch", "heads"), [(8, 4, 3), (9, 3, 2), (8, 8, 1)])
def test_agrees_with_the_equations(size, patch, heads):
    net = randomize(ViT(5, size, patch=patch, width=12, depth=2, heads=heads)).eval()
    imgs = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected = torch.stack([reference(img, net, patch, heads) for img in imgs])
        torch.testing.assert_close(net(imgs), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("knobs", "count"),
    [({}, 5_380_132), ({"patch": 2}, 5_410_084), ({"patch": 8}, 5_398_564), ({"depth": 6}, 2_710_948)],
)
def test_parameter_count(knobs, count):
    with torch.device("meta"):
        assert n_params(ViT(100, 32, **knobs)) == count


@pytest.mark.parametrize(("size", "patch"), [(32, 4), (64, 4), (96, 16), (112, 16), (224, 16)])
def test_default_patch_goes_by_the_size_of_the_images(size, patch):
    with torch.device("meta"):
        net = ViT(5, size, **TINY)
    assert net.patch_embed.proj.kernel_size == (patch, patch)
    assert net.pos_embed.shape == (1, 1 + (size // patch) ** 2, 12)


def test_macs_by_hand():
    """Twelve blocks of 65 tokens: 12 D*D for each, and two products of all pairs; 64 patches of 48 numbers; the head."""
    T, D = 65, 192
    macs = 12 * (12 * T * D * D + 2 * T * T * D) + 64 * 48 * D + 100 * D
    assert cost("vit", 100, {}, 32) == (5_380_132, macs)


def test_gives_timms_logits_with_timms_weights():
    timm = pytest.importorskip("timm")
    theirs = randomize(timm.create_model("vit_tiny_patch16_224", num_classes=7, img_size=64)).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p.mul_(0.2)  # logits of the order of 1
    ours = ViT(7, 64, patch=16).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    imgs = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(imgs), theirs(imgs), rtol=1e-4, atol=1e-5)


def test_drop_path_rises_over_the_blocks():
    net = ViT(5, 8, width=6, depth=3, heads=2, drop_path=0.4)
    assert [module.rate for module in net.modules() if isinstance(module, DropPath)] == pytest.approx([0, 0.2, 0.4])
    imgs = torch.randn(16, 3, 8, 8)
    assert not torch.equal(net(imgs), net(imgs))
    assert torch.equal(net.eval()(imgs), net(imgs))


def test_both_branches_of_a_block_are_dropped():
    torch.manual_seed(0)
    x = torch.randn(2, 5, 6)
    assert torch.equal(Block(6, 2, 0.9999)(x), x)


def test_weights_start_as_published():
    torch.manual_seed(0)
    net = ViT(100, 32, depth=1)
    for p in (net.pos_embed, net.head.weight, net.blocks[0].attn.qkv.weight):
        assert 0.019 < p.std() < 0.021
    assert net.cls_token.std().item() == pytest.approx(0.02, rel=0.2)  # of 192 numbers: four standard deviations
    assert not net.blocks[0].mlp.fc1.bias.any()


def test_learns_and_keeps_layout():
    imgs = torch.randn(3, 3, 8, 8)
    # a key's bias adds the same to all logits of a softmax, so a third of each qkv bias has no gradient
    assert_learns_and_keeps_layout(lambda: ViT(5, 8, **TINY), imgs)


def test_attention_goes_through_the_fused_function(monkeypatch):
    called = []
    fused = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *args: called.append(1) or fused(*args))
    ViT(5, 8, **TINY)(torch.randn(1, 3, 8, 8))
    assert len(called) == 2


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"patch": 5}, r"vit\.patch must divide the 32 pixels of an image's side, got 5$"),
        ({"patch": -4}, r"vit\.patch must divide .* got -4$"),
        ({"heads": 5}, r"vit\.heads must be at least 1 and the heads divide the width, got 192, 12 and 5$"),
        ({"heads": 0}, r"got 192, 12 and 0$"),
        ({"depth": 0}, r"got 192, 0 and 3$"),
        ({"drop_path": 1.0}, r"vit\.drop_path must be in \[0, 1\), got 1\.0$"),
    ],
)
def test_bad_knobs_are_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        ViT(10, 32, **knobs)
