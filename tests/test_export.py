"""export.py and hub.py --export: files that give the network's answers, and what is refused."""

import json
import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

import export
import hub
from tests.nets import COMBINED, DEEPER, KNOBS, SLIM, SMALL
from tests.refusals import refusal
from tests.test_hub import RECIPE, RESULT, classifier, saved

BATCHES = (1, 2, 7)


def imgs_of(n, size=16):
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(n))


def finished_run(folder):
    hub.save(classifier("eca_resnet"), folder / "model", RECIPE, RESULT)
    (folder / "result.json").write_text(json.dumps(RESULT | {"status": "finished"}))
    (folder / "last.pt").touch()
    return folder


ALONE = [net for net in SMALL if net not in COMBINED]  # what combinations consist of
WITHOUT_OWN_OPERATORS = [  # each of their operators is in another network too, whose ONNX is written
    *(
        (f"{name}_resnet", SLIM)
        for name in ("convnext", "cspnet", "ghostnet", "lsknet", "mscan", "multiscale", "se", "segnext")
    ),
    ("hornet_resnet", SLIM),
    ("gmlp_resnet", DEEPER),
    ("resnet", SLIM),
    ("eca_resnet50", {"resnet.width": 8}),
    ("plain20", {"resnet.width": 8}),
    ("vgg16", {}),
    ("multiscale_resnet", SLIM | {"multiscale.form": "depthwise"}),
    ("multiscale_resnet", SLIM | {"multiscale.form": "cascade"}),
    ("ghostnet_resnet", SLIM | {"ghostnet.ratio": 4}),
    ("resnest_resnet", SLIM | {"resnest.cardinality": 2}),
    ("lsknet_resnet", SLIM | {"lsknet.selection": "channel"}),
    ("segnext_resnet", SLIM | {"segnext.branch": "lka"}),
    ("coatnet_resnet", SLIM | {"coatnet.layout": "TTT"}),
    ("coatnet_resnet", SLIM | {"coatnet.relative_bias": False}),
    ("gmlp_resnet", DEEPER | {"gmlp.gate": "whole"}),
    ("resnet", SLIM | {"resnet.drop_path": 0.2}),
]


@pytest.mark.parametrize(("arch", "settings"), [*ALONE, *KNOBS])
def test_every_network_is_exported_and_becomes_onnx(arch, settings, tmp_path, monkeypatch):
    """Both leave the batch open. ONNX is written from the program that was exported first, where it brings an operator."""
    torch.manual_seed(0)
    model = hub.Classifier(arch, list("abcdefg"), settings, 32, [120.0] * 3, [60.0] * 3).eval()
    program = export.trace(model)
    exported = program.module()
    with torch.no_grad():
        for n in BATCHES:
            torch.testing.assert_close(exported(imgs_of(n, 32)), model(imgs_of(n, 32)), rtol=1e-4, atol=1e-5)

    if (arch, settings) in WITHOUT_OWN_OPERATORS:
        return
    pytest.importorskip("onnxruntime", reason="exported, but not written as ONNX: no onnxruntime")
    pytest.importorskip("onnxscript", reason="exported, but not written as ONNX: no onnxscript")
    monkeypatch.setattr(export, "trace", lambda _: program)
    difference, largest = export.write(model, {}, tmp_path / "net.onnx")  # which runs the file, too
    assert difference < 1e-5 * largest  # which is far from 1 in some networks that have not been trained


def test_run_becomes_onnx_with_its_classes_size_and_scores(tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    run, out = finished_run(tmp_path / "run"), tmp_path / "net.onnx"
    hub.main([str(run), "--export", str(out)])
    assert "on 100 images it gives the network's classes, and its logits differ by" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(out)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == ["a", "b"]
    assert (metadata["image_size"], metadata["arch"]) == ("16", "eca_resnet")
    assert json.loads(metadata["scores"]) == {
        name: RESULT[name] for name in ("dataset", "n_test", "top1", "top5", "loss", "ece")
    }
    (logits,) = session.run(None, {"images": np.zeros((3, 3, 16, 16), np.uint8)})
    assert logits.shape == (3, 2)
    (run / "model" / "README.md").write_text("---\na: [\n---\n")  # edited by hand
    (run / "result.json").unlink()
    assert hub.scores_of(run / "model") == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "run"]  # nothing is left beside it


def test_model_folder_becomes_pt2_with_the_scores_of_its_card(tmp_path):
    folder, out = saved(tmp_path / "published"), tmp_path / "net.pt2"
    hub.main([str(folder), "--export", str(out)])
    extra = {export.METADATA: ""}
    program, model = torch.export.load(out, extra_files=extra).module(), hub.load(folder)
    for n in BATCHES:
        with torch.no_grad():
            torch.testing.assert_close(program(imgs_of(n)), model(imgs_of(n)))
    scores = json.loads(json.loads(extra[export.METADATA])["scores"])
    assert scores == {"dataset": "shapes100", "top1": 62.5, "top5": 100.0}


# ------------------------------------------------------------------------------------------------------------ refusals


def refused(capsys, *flags, code=1):
    return refusal(capsys, hub.main, [*map(str, flags)], code=code)


def test_file_of_another_kind_is_refused(tmp_path, capsys):
    line = refused(capsys, finished_run(tmp_path / "run"), "--export", "net.tflite", code=2)
    assert "--export takes a file that ends in .onnx or .pt2, got net.tflite" in line


def test_unfinished_run_and_checkpoint_are_refused(tmp_path, capsys):
    run = finished_run(tmp_path / "run")
    (run / "result.json").unlink()
    assert "is an unfinished run: finish it" in refused(capsys, run, "--export", tmp_path / "net.pt2")
    line = refused(capsys, run / "last.pt", "--export", tmp_path / "net.pt2")
    assert "is a checkpoint: give the folder of its run" in line


def test_folders_that_are_not_there_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = finished_run(tmp_path / "run")
    line = refused(capsys, run, "--export", tmp_path / "nowhere" / "net.pt2")
    assert f"no folder {tmp_path}/nowhere: make it first" in line
    assert "no such run" in refused(capsys, "nosuchrun", "--export", "net.pt2")


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_package_is_named(tmp_path, capsys, monkeypatch, package):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    monkeypatch.setitem(sys.modules, package, None)
    line = refused(capsys, finished_run(tmp_path / "run"), "--export", tmp_path / "net.onnx")
    assert f"needs the package {package}: pip install -r requirements-export.txt" in line


class Untraceable(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :2] * (1 if x.sum() > 0 else 2)


class ForgetsTheRest(nn.Module):
    """Answers by what a trace cannot see: how often it was called."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        sign = 1 if self.calls == 1 else -1
        return sign * x.mean((1, 2, 3))[:, None] * torch.tensor([1.0, -1.0])


def test_weights_that_need_a_second_file_are_refused(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from torch.onnx._internal.exporter import _onnx_program

    monkeypatch.setattr(_onnx_program, "_LARGE_MODEL_THRESHOLD", 1000)
    with pytest.raises(ValueError, match=r"^the weights of resnet do not fit into one ONNX file"):
        export.write(classifier(), {}, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("margin", "is_refused"), [(1e-6, False), (1e-2, True)])
def test_classes_of_equal_logits_may_change_places(margin, is_refused):
    expected = torch.tensor([[1.0, 1.0 - margin]])
    model = Constant(expected)
    refused = pytest.raises(ValueError, match="gives 1 of 1 images another class") if is_refused else nullcontext()
    with refused:
        export.compare(model, [torch.zeros(1, 3, 4, 4)], expected.flip(1))


def test_answers_that_are_not_finite_are_refused():
    """Whose largest is nan, at the place of the network's class."""
    model, found = Constant(torch.tensor([[1.0, 0.0]])), torch.tensor([[torch.nan, 0.0]])
    with pytest.raises(ValueError, match="difference of a logit is nan"):
        export.compare(model, [torch.zeros(1, 3, 4, 4)], found)


class Constant(nn.Module):
    arch = "resnet"

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, x):
        return self.logits


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (Untraceable(), "resnet cannot be exported with a dynamic batch ("),
        (ForgetsTheRest(), "the exported resnet gives 100 of 100 images another class than the network"),
    ],
)
def test_network_that_cannot_be_exported_leaves_no_file(tmp_path, net, message):
    model = classifier()
    model.net = net
    with pytest.raises(ValueError) as error:
        export.write(model, {}, tmp_path / "net.pt2")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
