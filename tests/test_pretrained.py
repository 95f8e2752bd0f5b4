"""Weights are made here, in the layout in which they are published; the hub cannot be reached from these tests."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from models import build, libraries
from pretrained import (
    VIT_REPOSITORY,
    head_names,
    load_pretrained,
    resize_patches,
    resize_positions,
)
from tests.checks import randomize


@pytest.fixture(autouse=True)
def empty_caches(monkeypatch, tmp_path):
    """No copies of any weights, and no way to any host."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def unreachable(*args, **kwargs):
        raise ConnectionRefusedError("no network in tests")

    monkeypatch.setattr("socket.socket.connect", unreachable)
    monkeypatch.setattr("socket.getaddrinfo", unreachable)


def put_on_hub(tmp_path, repository, weights):
    """Saves weights where the hub's client keeps its downloads."""
    folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(weights, folder / "snapshots" / ("0" * 40) / "model.safetensors")


def vit_weights(**changes):
    """Those of ViT-tiny for 224 pixels and 1000 classes, by timm's names."""
    torch.manual_seed(1)
    weights = build("vit", 1000, {"vit.patch": 16}, image_size=224).state_dict() | changes
    return {name: value.contiguous() for name, value in weights.items() if value is not None}


def assert_only_head_is_kept(net, before, weights):
    head = head_names(net)
    assert head and all(torch.equal(before[name], net.state_dict()[name]) for name in head)
    for name, value in net.state_dict().items():
        if name not in head:
            assert torch.equal(value, weights[name]), name


def snapshot(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


# ---------------------------------------------------------------------------------------------------------------- vit


def test_vit_of_the_published_size_takes_all_but_the_head(tmp_path):
    weights = vit_weights()
    put_on_hub(tmp_path, VIT_REPOSITORY, weights)
    net = build("vit", 7, {"vit.patch": 16}, image_size=224)
    before = snapshot(net)
    mean, std = load_pretrained("vit", net, 224)
    assert mean == std == [127.5] * 3
    assert head_names(net) == {"head.weight", "head.bias"}
    assert_only_head_is_kept(net, before, weights)


def test_vit_of_another_size_resizes_positions_and_patches(tmp_path):
    weights = vit_weights()
    put_on_hub(tmp_path, VIT_REPOSITORY, weights)
    net = build("vit", 7)  # 32 pixels, patches of 4
    before = snapshot(net)
    load_pretrained("vit", net, 32)
    resized = {
        "pos_embed": resize_positions(weights["pos_embed"], 65),
        "patch_embed.proj.weight": resize_patches(weights["patch_embed.proj.weight"], 4),
    }
    assert_only_head_is_kept(net, before, weights | resized)


def test_positions_are_resized_without_the_class_token():
    table = torch.randn(1, 1 + 36, 5)
    resized = resize_positions(table, 1 + 9)
    assert torch.equal(resized[:, 0], table[:, 0])
    for d in range(5):
        square = table[0, 1:, d].view(1, 1, 6, 6)
        expected = F.interpolate(square, (3, 3), mode="bicubic", antialias=True)
        torch.testing.assert_close(resized[0, 1:, d], expected.flatten())
    assert resize_positions(table, 37) is table
    constant = torch.cat([torch.zeros(1, 1, 5), torch.full((1, 36, 5), 3.0)], 1)
    torch.testing.assert_close(resize_positions(constant, 101)[:, 1:], torch.full((1, 100, 5), 3.0))


def test_tokens_of_patches_that_grow_are_the_same():
    """<B x, new> = <x, old> for every patch x and its enlargement B x."""
    weight = torch.randn(6, 3, 4, 4)
    x = torch.randn(20, 3, 4, 4)
    larger = F.interpolate(x, (7, 7), mode="bicubic", antialias=True)
    tokens = F.conv2d(larger, resize_patches(weight, 7)).flatten(1)
    torch.testing.assert_close(tokens, F.conv2d(x, weight).flatten(1), rtol=1e-3, atol=1e-4)
    assert resize_patches(weight, 4) is weight


def test_tokens_of_patches_that_shrink_keep_their_size():
    """Of a flat patch, whose token is the sum of the kernel, to a few percent: a resized kernel would be 16 times smaller."""
    weight = torch.rand(6, 3, 16, 16)
    tokens = resize_patches(weight, 4).sum((1, 2, 3))
    torch.testing.assert_close(tokens, weight.sum((1, 2, 3)), rtol=0.05, atol=0)


def test_resizing_agrees_with_timms():
    pytest.importorskip("timm")
    from timm.layers import resample_abs_pos_embed, resample_patch_embed

    weight, table = torch.randn(4, 3, 16, 16), torch.randn(1, 1 + 14 * 14, 6)
    for patch in (4, 8, 32):
        torch.testing.assert_close(
            resize_patches(weight, patch), resample_patch_embed(weight, [patch, patch]), rtol=1e-3, atol=1e-4
        )
    torch.testing.assert_close(resize_positions(table, 65), resample_abs_pos_embed(table, [8, 8]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm.bias": None}, r"do not fit: no norm\.bias$"),
        ({"fc_norm.bias": torch.zeros(192)}, r"an unknown fc_norm\.bias$"),
        ({"norm.bias": torch.zeros(3)}, r"norm\.bias of shape \(3,\) instead of \(192,\)$"),
        ({"pos_embed": None}, r"no pos_embed"),
    ],
)
def test_anything_but_the_head_is_an_error(tmp_path, changes, message):
    put_on_hub(tmp_path, VIT_REPOSITORY, vit_weights(**changes))
    net = build("vit", 7, {"vit.patch": 16}, image_size=224)
    before = snapshot(net)
    with pytest.raises(ValueError, match=message) as error:
        load_pretrained("vit", net, 224)
    assert "\n" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_what_is_not_loaded_is_listed_but_not_without_end(tmp_path):
    put_on_hub(tmp_path, VIT_REPOSITORY, vit_weights())
    net = build("vit", 7, {"vit.depth": 6})
    with pytest.raises(ValueError, match=r"blocks\.10\.attn\.proj\.bias, .* and 69 more$"):
        load_pretrained("vit", net, 32)


def test_another_number_of_heads_is_refused():
    """The shapes would fit."""
    with pytest.raises(ValueError, match=r"published weights of vit have 3 heads, got vit\.heads=6"):
        load_pretrained("vit", build("vit", 7, {"vit.heads": 6, "vit.depth": 1}), 32)


def test_damaged_file_is_told_in_one_line(tmp_path):
    put_on_hub(tmp_path, VIT_REPOSITORY, {"a": torch.zeros(4)})
    (file,) = (tmp_path / "hub").rglob("model.safetensors")
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged .*: remove it$"):
        load_pretrained("vit", build("vit", 7, {"vit.depth": 1}), 32)


# ---------------------------------------------------------------------------------------------------------- libraries


def put_torchvision(tmp_path, name, net):
    from torchvision import models

    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(net.state_dict(), folder / Path(models.get_model_weights(name).DEFAULT.url).name)


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "squeezenet1_1"])
def test_torchvisions_weights(tmp_path, name):
    from torchvision import models

    theirs = randomize(models.get_model(name))
    put_torchvision(tmp_path, name, theirs)
    net = build(f"torchvision:{name}", 7, image_size=48)
    before = snapshot(net)
    mean, std = load_pretrained(f"torchvision:{name}", net, 48)
    assert mean == pytest.approx([255 * m for m in (0.485, 0.456, 0.406)])
    assert std == pytest.approx([255 * s for s in (0.229, 0.224, 0.225)])
    assert_only_head_is_kept(net, before, theirs.state_dict())


@pytest.mark.parametrize(("name", "size"), [("googlenet", 32), ("inception_v3", 96)])
def test_weights_with_auxiliary_heads(tmp_path, name, size):
    """They are published with them, and for pixels from -1 to 1."""
    from torchvision import models

    theirs = models.get_model(name, init_weights=False, aux_logits=True)
    put_torchvision(tmp_path, name, theirs)
    net = build(f"torchvision:{name}", 7, image_size=size)
    before = snapshot(net)
    mean, std = load_pretrained(f"torchvision:{name}", net, size)
    assert mean == std == [127.5] * 3
    assert_only_head_is_kept(net, before, theirs.state_dict())


def test_weights_for_another_size_of_images_are_refused(monkeypatch, tmp_path):
    from torchvision import models

    small = {"num_layers": 1, "num_heads": 1, "hidden_dim": 8, "mlp_dim": 8, "patch_size": 16, "num_classes": 5}
    networks = {
        32: models.VisionTransformer(image_size=32, **small),
        224: models.VisionTransformer(image_size=224, **small),
    }
    monkeypatch.setattr(models, "get_model", lambda name, **_: networks[224])
    put_torchvision(tmp_path, "vit_b_16", networks[224])
    with pytest.raises(
        ValueError, match=r"published for images of 224 pixels: .* encoder\.pos_embedding of shape \(1, 197, 8\)"
    ):
        load_pretrained("torchvision:vit_b_16", networks[32], 32)


def test_timms_weights(tmp_path):
    timm = pytest.importorskip("timm")
    name = "vit_tiny_patch16_224"
    assert timm.models.get_pretrained_cfg(name).custom_load  # its authors' file is read by a function of its own
    theirs = randomize(timm.create_model(name))
    put_on_hub(tmp_path, VIT_REPOSITORY, theirs.state_dict())
    net = build(f"timm:{name}", 7, image_size=224)
    before = snapshot(net)
    assert load_pretrained(f"timm:{name}", net, 224) == ([127.5] * 3, [127.5] * 3)
    assert_only_head_is_kept(net, before, theirs.state_dict())
    smaller = build(f"timm:{name}", 7, image_size=64)
    load_pretrained(f"timm:{name}", smaller, 64)  # timm resizes the position table as we do
    torch.testing.assert_close(smaller.pos_embed, resize_positions(theirs.pos_embed, 17))


@pytest.mark.parametrize(("repository", "file"), [(None, None), ("ada/net", "pytorch_model.bin")])
def test_weights_that_timm_would_unpickle_are_refused(repository, file, monkeypatch):
    timm = pytest.importorskip("timm")
    config = SimpleNamespace(hf_hub_id=repository, hf_hub_filename=file)
    monkeypatch.setattr(timm.models, "get_pretrained_cfg", lambda name: config)
    with pytest.raises(ValueError, match=r"^timm has no weights of resnet18 on the hub as safetensors"):
        load_pretrained("timm:resnet18", None, 32)


def test_our_vit_and_timms_are_the_same_network_with_published_weights(tmp_path):
    pytest.importorskip("timm")
    put_on_hub(tmp_path, VIT_REPOSITORY, vit_weights())
    ours = build("vit", 7, {"vit.patch": 16}, image_size=96).eval()
    theirs = build("timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k", 7, image_size=96).eval()
    load_pretrained("vit", ours, 96)
    load_pretrained("timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k", theirs, 96)
    theirs.head.load_state_dict(ours.head.state_dict())
    imgs = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(imgs), theirs(imgs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arch", ["vit", "torchvision:shufflenet_v2_x0_5", "timm:vit_tiny_patch16_224"])
def test_unreachable_weights_are_told_at_once_in_one_line(arch):
    if arch.startswith("timm"):
        pytest.importorskip("timm")
    net = build(arch, 7)
    started = time.perf_counter()
    with pytest.raises(ValueError, match=r"^cannot (get|reach) .*: leave out --pretrained$") as error:
        load_pretrained(arch, net, 32)
    assert time.perf_counter() - started < 5
    assert "\n" not in str(error.value)


def test_network_without_published_weights_is_refused():
    with pytest.raises(ValueError, match="no published weights for eca_resnet: use vit, torchvision:NAME or timm:NAME"):
        load_pretrained("eca_resnet", build("eca_resnet"), 32)


# ---------------------------------------------------------------------------------------------------------------- head


@pytest.mark.parametrize(
    ("arch", "head"),
    [
        ("eca_resnet", "fc"),
        ("hornet_resnet18", "fc"),
        ("vit", "head"),
        ("vgg16", "fc"),
        ("googlenet", "fc"),
        ("alexnet", "fc"),
        ("lenet", "11"),
        ("linear", "1"),
        ("torchvision:resnet18", "fc"),
        ("torchvision:densenet121", "classifier"),
        ("torchvision:vit_b_16", "heads.head"),
        ("torchvision:swin_t", "head"),
        ("torchvision:squeezenet1_1", "classifier.1"),
    ],
)
def test_head_of_every_kind_of_network(arch, head):
    with torch.device("meta"):
        net = build(arch, 7)
    assert head_names(net) == {f"{head}.weight", f"{head}.bias"}
    assert all(len(net.get_parameter(name)) == 7 for name in head_names(net))


def test_heads_of_timms_networks():
    pytest.importorskip("timm")
    with torch.device("meta"):
        for name, heads in (("resnet18", {"fc"}), ("convnext_atto", {"head.fc"}),
                            ("deit_tiny_distilled_patch16_224", {"head", "head_dist"})):  # fmt: skip
            names = head_names(libraries.make("timm", name, 7, 32))
            assert {entry.rpartition(".")[0] for entry in names} == heads
