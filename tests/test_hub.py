"""Saved networks: what loads, what is refused, and a hub that is not there."""

import inspect
import json
import os
import shutil
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from huggingface_hub import HfApi, ModelCard, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from torch import nn

import checkpoints
import hub
import models

RECIPE = {"arch": "hornet_resnet", "lr": 0.2, "init_from": None}
RESULT = {"arch": "hornet_resnet", "dataset": "shapes100", "params": 1234, "macs": 5678, "classes": 2, "n_train": 10, "n_test": 8,
          "top1": 62.5, "top5": 100.0, "loss": 0.7654, "ece": 3.21, "image_size": None, "world_size": 1, "device": "a CPU",
          "torch": "2.15", "commit": "abc"}  # fmt: skip


def classifier(arch="resnet", classes=("a", "b"), **settings):
    settings = {"resnet.depth": 8, "resnet.width": 4} | settings
    return hub.Classifier(arch, list(classes), settings, 16, [120.0] * 3, [60.0] * 3).eval()


def saved(folder, *args, **settings):
    hub.save(classifier(*args, **settings), folder, RECIPE, RESULT)
    return folder


def assert_same_weights(a, b):
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name]), name


# ------------------------------------------------------------------------------------------------------ save and load


def test_floats_from_0_to_1_are_the_same_images_as_bytes():
    model = classifier()
    imgs = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(imgs / 255), model(imgs), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(imgs.long()), model(imgs))


@pytest.mark.parametrize(
    ("imgs", "message"),
    [
        (torch.full((1, 3, 16, 16), 255.0), "torch.float32 of 255 to 255"),
        (torch.full((1, 3, 16, 16), -1.0), "torch.float32 of -1 to -1"),
        (torch.full((1, 3, 16, 16), torch.nan), "torch.float32 of nan to nan"),
        (torch.full((1, 3, 16, 16), 256), "torch.int64 of 256 to 256"),
    ],
)
def test_images_of_another_range_are_refused(imgs, message):
    with pytest.raises(ValueError, match=f"images are {message}: give uint8 of 0 to 255, or floats of 0 to 1"):
        classifier()(imgs)


@pytest.mark.parametrize("folder", ["run/model", "run"])
def test_saved_network_gives_the_same_logits(tmp_path, folder):
    model = classifier("hornet_resnet", **{"hornet.orders": "2,2,3"})
    model.net.to(memory_format=torch.channels_last)
    hub.save(model, tmp_path / "run" / "model", RECIPE, RESULT)
    loaded = hub.load(tmp_path / folder)
    imgs = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(loaded(imgs), model(imgs), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(loaded(imgs), loaded.net((imgs - 120.0) / 60.0))
    assert not any(module.training for module in loaded.modules())
    assert (loaded.arch, loaded.settings, loaded.classes) == (model.arch, model.settings, ["a", "b"])


def test_checkpoint_gives_the_averaged_weights(tmp_path):
    plain, averaged = classifier(), classifier()
    published = {"arch": "resnet", "classes": ["a", "b"], "settings": plain.settings, "image_size": 16,
                 "mean": plain.mean, "std": plain.std}  # fmt: skip
    state = {"net": plain.net.state_dict()}
    checkpoints.save_checkpoint(tmp_path / "last.pt", {"model": published, "state": state})
    assert_same_weights(hub.load(tmp_path / "last.pt").net, plain.net)
    state["ema"] = averaged.net.state_dict()
    checkpoints.save_checkpoint(tmp_path / "last.pt", {"model": published, "state": state})
    assert_same_weights(hub.load(tmp_path / "last.pt").net, averaged.net)


def test_card_holds_the_metrics_for_people_and_for_the_hub(tmp_path):
    card = ModelCard.load(saved(tmp_path / "model") / "README.md")
    assert "| 62.50 | 100.00 | 0.7654 | 3.21 |" in card.text
    assert "| lr | 0.2 |" in card.text
    assert "torch 2.15, commit abc." in card.text
    resumed = hub.card(classifier(), RECIPE, RESULT | {"commit": "a1 and b2"})
    assert "torch 2.15, commits a1 and b2." in resumed
    assert {r.metric_type: r.metric_value for r in card.data.eval_results} == {
        "accuracy": 62.5,
        "top_5_accuracy": 100.0,
    }
    assert (card.data.library_name, card.data.license, card.data.tags) == ("pytorch", "mit", hub.TAGS)
    (tmp_path / "model" / ".cache").mkdir()  # as the hub's tools leave it
    again = RESULT | {"top1": 75.0}  # saved over what an interrupted run left
    hub.save(classifier(), tmp_path / "model", RECIPE | {"pretrained": True}, again)
    card = ModelCard.load(tmp_path / "model" / "README.md")
    assert "| 75.00 |" in card.text and card.data.license is None  # it is that of the published weights


def test_a_misspelt_class_of_older_models_is_respelt():
    names = [f"class {i}" for i in range(100)]
    assert classifier(classes=[*names[:26], "cra", *names[27:]]).classes == [*names[:26], "crab", *names[27:]]
    assert classifier(classes=["ant", "cra"]).classes == ["ant", "cra"]


def test_others_may_read_a_saved_network_if_the_umask_says_so(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / ".tmp1").touch()  # of a process that was killed
    before = os.umask(0o022)
    try:
        folder = saved(tmp_path / "model")
    finally:
        os.umask(before)
    assert {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()} == dict.fromkeys(
        ("README.md", "config.json", "model.safetensors"), 0o644
    )


def test_card_gives_no_license_to_weights_of_others():
    for start, license in (
        ({"init_from": "ada/nets"}, None),
        ({"pretrained": True}, None),
        ({"init_from": None}, "mit"),
    ):
        assert ModelCard(hub.card(classifier(), start, RESULT)).data.license == license


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: change_config(f, arch="eca_resnet"), r"no stages\.0\.0\.branch\.4\.conv\.weight"),
        (lambda f: change_config(f, arch="nosuch"), "unknown backbone 'nosuch'"),
        (lambda f: change_config(f, arch=None), "missing 1 required positional argument: 'arch'"),
        (lambda f: change_config(f, other=1), "unexpected keyword argument 'other'"),
        (lambda f: change_config(f, classes=["a"]), r"fc.weight of shape \(2, 16\) instead of \(1, 16\)"),
        (lambda f: change_config(f, settings={"resnet.depth": 14, "resnet.width": 4}), r"no stages.0.1.\S+, .* and \d+ more"),
        (lambda f: os.truncate(f / "model.safetensors", 20_000), "is not a readable model folder"),
        (lambda f: (f / "config.json").unlink(), "No such file"),
        (lambda f: (f / "config.json").write_text("{"), "is not a readable model folder"),
    ],
)  # fmt: skip
def test_unfit_folder_is_refused_in_one_line(tmp_path, damage, message):
    folder = saved(tmp_path / "model")
    damage(folder)
    with pytest.raises(ValueError, match=message) as error:
        hub.load(folder)
    assert "is not a readable model folder" in str(error.value)
    assert "\n" not in str(error.value)


def test_unfinished_run_is_refused(tmp_path):
    (tmp_path / "last.pt").touch()
    (tmp_path / "model").mkdir()  # it was killed while it saved the network
    (tmp_path / "model" / "README.md").touch()
    with pytest.raises(ValueError, match=r"has no complete model/: .* give its last\.pt"):
        hub.load(tmp_path)
    (tmp_path / "last.pt").unlink()
    (tmp_path / "model" / "README.md").unlink()
    (tmp_path / "model").rmdir()
    (tmp_path / "result.json").touch()
    with pytest.raises(ValueError, match="holds the scores of a run without its weights"):
        hub.load(tmp_path)


def test_a_module_of_two_names_keeps_its_weights(tmp_path, monkeypatch):
    """Which a file holds once, under one of them."""

    def build(*_):
        net = models.build("resnet", 2, {"resnet.depth": 8, "resnet.width": 4}, 16)
        net.same = net.fc
        return net

    monkeypatch.setattr(hub, "build", build)
    model = classifier()
    hub.save(model, tmp_path, RECIPE, RESULT)
    assert_same_weights(hub.load(tmp_path).net, model.net)


def test_saved_networks_are_on_the_disk_before_the_result_is(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(hub.os, "fsync", lambda file: synced.append(os.readlink(f"/proc/self/fd/{file}")))
    saved(tmp_path / "model")
    assert {str(tmp_path / "model" / name) for name in ("config.json", "model.safetensors")} <= set(synced)


def test_full_disk_is_an_oserror(tmp_path, monkeypatch):
    def full(self, folder):
        raise hub.SafetensorError("No space left on device")

    monkeypatch.setattr(hub.Classifier, "_save_pretrained", full)
    with pytest.raises(OSError, match=r"cannot write .*safetensors .*No space left"):
        saved(tmp_path / "model")


# ------------------------------------------------------------------------------------------------------------ the hub


class Hub:
    """Stands for HfApi: one repository, whose folder is a copy of what was uploaded."""

    def __init__(self, folder, reachable=True):
        self.folder, self.reachable, self.calls, self.tags, self.wanted = folder, reachable, [], {}, []

    def call(self, name, *args):
        if not self.reachable:
            raise RuntimeError("no route")  # as little an OSError as the errors of the hub's client
        self.calls.append((name, *args))

    def model_info(self, repo_id, revision=None, timeout=None):
        self.call("model_info", repo_id, revision)

    def create_repo(self, repo_id, private, exist_ok):
        assert private
        self.call("create_repo", repo_id)

    def upload_folder(self, repo_id, folder_path, commit_message):
        self.call("upload_folder", repo_id)
        shutil.copytree(folder_path, self.folder, dirs_exist_ok=True)
        return SimpleNamespace(oid=f"commit{len(self.calls)}")

    def list_repo_refs(self, repo_id):
        return SimpleNamespace(tags=[SimpleNamespace(name=tag) for tag in self.tags])

    def delete_tag(self, repo_id, tag):
        del self.tags[tag]

    def create_tag(self, repo_id, tag, revision):
        assert tag not in self.tags  # which the hub refuses
        self.tags[tag] = revision

    def snapshot_download(self, repo_id, revision, allow_patterns, local_files_only):
        if not self.folder.exists():
            raise RuntimeError("no copy from before")
        self.calls.append(("download", repo_id, revision, local_files_only))
        self.wanted.append(allow_patterns)
        return str(self.folder)


@pytest.fixture
def fake_hub(tmp_path, monkeypatch):
    there = Hub(tmp_path / "on the hub")
    monkeypatch.setattr(hub, "HfApi", lambda: there)
    monkeypatch.setattr(hub, "snapshot_download", there.snapshot_download)
    return there


def test_stand_in_takes_the_arguments_of_the_client():
    replaced = ("model_info", "create_repo", "upload_folder", "list_repo_refs", "delete_tag", "create_tag")
    for name, real in {name: getattr(HfApi, name) for name in replaced}.items() | {
        ("snapshot_download", snapshot_download)
    }:
        mine = set(inspect.signature(getattr(Hub, name)).parameters) - {"self"}
        assert mine <= set(inspect.signature(real).parameters), name


def test_pushed_run_is_tagged_and_loads_by_its_tag(tmp_path, fake_hub):
    folder = saved(tmp_path / "model")
    assert hub.push(folder, "me/nets", "vit:patch 4-seed0") == "me/nets@vit-patch-4-seed0"
    assert hub.push(folder, "me/nets", "vit:patch 4-seed0") == "me/nets@vit-patch-4-seed0"
    assert fake_hub.tags == {"vit-patch-4-seed0": "commit4"}  # that of the second push
    loaded = hub.load("me/nets@vit-patch-4-seed0")
    assert fake_hub.calls[-1] == ("download", "me/nets", "vit-patch-4-seed0", False)
    assert fake_hub.wanted[-1] == ["config.json", "model.safetensors", "README.md"]
    assert_same_weights(loaded, hub.load(folder))


def test_unreachable_hub_gives_what_was_downloaded_before_or_one_line(tmp_path, fake_hub, capsys):
    fake_hub.reachable = False
    with pytest.raises(ValueError, match=r"me/nets: no such run.* the hub could not provide it \(RuntimeError\)"):
        hub.load("me/nets")
    saved(fake_hub.folder)
    hub.load("me/nets")
    assert set(fake_hub.calls) == {("download", "me/nets", None, True)}
    assert (
        capsys.readouterr().err == "me/nets: the hub was not reached (RuntimeError), so this is an earlier download\n"
    )


def test_what_the_hub_does_not_have_is_not_taken_from_an_earlier_download(fake_hub, monkeypatch):
    """Or a bad or expired token would bring back old weights."""
    saved(fake_hub.folder)
    for kind, code in ((RepositoryNotFoundError, 404), (HfHubHTTPError, 401), (HfHubHTTPError, 403)):
        error = kind("no", response=Mock(status_code=code))
        monkeypatch.setattr(fake_hub, "model_info", Mock(side_effect=error))
        with pytest.raises(ValueError, match=rf"no such run, .*the hub has none that you may read \({kind.__name__}\)"):
            hub.load("me/nets")


def test_a_network_of_another_program_is_refused_before_its_weights_are_downloaded(fake_hub):
    fake_hub.folder.mkdir()
    (fake_hub.folder / "config.json").write_text('{"architecture": "vit_large_patch16_224"}')
    with pytest.raises(
        ValueError, match=r"^timm/vit holds no network of this code: published weights come with --pret"
    ):
        hub.load("timm/vit")
    assert [name for name, *_ in fake_hub.calls] == ["model_info", "download"]
    assert fake_hub.wanted == [["config.json"]]


def test_images_of_another_size_are_refused(tmp_path):
    model = hub.load(saved(tmp_path / "model"))
    size = model.image_size
    with pytest.raises(ValueError, match=rf"imgs must be \(B, 3, {size}, {size}\), got \(2, 3, {size}, {2 * size}\)"):
        model(torch.zeros(2, 3, size, 2 * size, dtype=torch.uint8))


def test_card_does_not_tell_where_files_lie(tmp_path):
    model = hub.load(saved(tmp_path / "model"))
    for folder in (tmp_path / "model", tmp_path / "gone"):
        text = hub.card(model, {"init_from": str(folder)}, RESULT)
        assert f"| init_from | {folder.name} |" in text and str(tmp_path) not in text


def test_name_that_is_not_unicode_does_not_keep_a_network_from_being_saved(tmp_path):
    model = hub.load(saved(tmp_path / "model"))
    hub.save(model, tmp_path / "next", RECIPE | {"init_from": "runs/caf\udce9"}, RESULT)
    assert r"runs/caf\udce9" in (tmp_path / "next" / "README.md").read_text()


@pytest.mark.parametrize("name", ["nowhere", "/no/where", "a/b/c", "../a"])
def test_what_can_be_no_hub_id_is_not_looked_up(name, fake_hub, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no such run"):
        hub.load(name)
    assert not fake_hub.calls


# --------------------------------------------------------------------------------------------------------- start_from


def started(model, classes, arch="resnet", **settings):
    settings = {"resnet.depth": 8, "resnet.width": 4} | settings
    net = models.build(arch, len(classes), settings, 16)
    head_before = net.fc.weight.clone()
    with_head = hub.start_from(model, net, {"fc.weight", "fc.bias"}, arch, settings, list(classes), 16)
    return net, with_head, torch.equal(net.fc.weight, head_before)


def test_start_takes_the_head_along_only_if_the_classes_are_the_same():
    model = classifier()
    net, with_head, head_is_new = started(model, "ab")
    assert (with_head, head_is_new) == (True, False)
    assert_same_weights(net, model.net)
    for classes in ("ba", "abc"):
        net, with_head, head_is_new = started(model, classes)
        assert (with_head, head_is_new) == (False, True)
        assert_same_weights(nn.Sequential(*net.stages), nn.Sequential(*model.net.stages))


def test_default_that_is_spelled_out_is_the_same_network():
    model = classifier()
    net, with_head, _ = started(model, "ab", **{"resnet.drop_path": 0.0})
    assert with_head
    assert_same_weights(net, model.net)


@pytest.mark.parametrize(
    ("arch", "settings", "message"),
    [
        ("eca_resnet", {}, "--init-from holds resnet, this run is eca_resnet: give the same --arch"),
        ("resnet", {"resnet.width": 8, "resnet.shortcut": "B"}, r"give --set \S+=\S+ --set \S+=\S+$"),
        (
            "resnet",
            {"resnet.width": 8},
            r"with resnet\.width=4, this run has resnet\.width=8: give --set resnet\.width=4$",
        ),
    ],
)
def test_start_from_another_network_is_refused(arch, settings, message):
    with pytest.raises(ValueError, match=message):
        started(classifier(), "ab", arch, **settings)


def test_a_stem_for_small_images_starts_a_network_for_large_ones():
    narrow, head = {"resnet.width": 4}, {"fc.weight", "fc.bias"}
    model = hub.Classifier("resnet18", ["a", "b"], narrow, 32, [0.0] * 3, [1.0] * 3)
    with pytest.raises(
        ValueError, match=r"with resnet\.stem=cifar, this run has resnet\.stem=imagenet: give --set res"
    ):
        hub.start_from(model, None, head, "resnet18", narrow, ["a", "b"], 96)
    settings = narrow | {"resnet.stem": "cifar"}
    net = models.build("resnet18", 2, settings, 96)
    assert hub.start_from(model, net, head, "resnet18", settings, ["a", "b"], 96)
    assert_same_weights(net, model.net)


def test_patch_of_a_vit_is_what_it_is_at_its_size():
    tiny = {"vit.depth": 1, "vit.width": 6}
    model = hub.Classifier("vit", ["a", "b"], tiny, 32, [0.0] * 3, [1.0] * 3)
    with pytest.raises(ValueError, match=r"with vit\.patch=4, this run has vit\.patch=8: give --set vit\.patch=4"):
        hub.start_from(model, None, {"head.weight", "head.bias"}, "vit", tiny | {"vit.patch": 8}, ["a", "b"], 32)
    with pytest.raises(ValueError, match="holds vit for images of 32 pixels: give that as --image-size"):
        hub.start_from(model, None, {"head.weight", "head.bias"}, "vit", tiny, ["a", "b"], 64)
    net = models.build("vit", 2, tiny | {"vit.patch": 4}, 32)
    assert hub.start_from(model, net, {"head.weight"}, "vit", tiny | {"vit.patch": 4}, ["a", "b"], 32)


def test_start_at_an_image_size_that_changes_the_network():
    """The relative positions of CoAtNet's attention belong to a size; nothing but the head may be new."""
    settings = {"resnet.depth": 8, "resnet.width": 4}
    model, net = classifier("coatnet_resnet"), models.build("coatnet_resnet", 2, settings, 32)
    with pytest.raises(ValueError, match=r"the weights do not fit: stages\.\S+ of shape") as error:
        hub.start_from(model, net, {"fc.weight", "fc.bias"}, "coatnet_resnet", settings, ["a", "b"], 32)
    assert "\n" not in str(error.value)
