"""Two trained networks on the test images: pair.py writes what report.py draws."""

from tests.reports import report  # skips this file where report.py's packages are missing

# isort: split
import json
import os
import shutil
from unittest.mock import Mock

import numpy as np
import pytest
from matplotlib import pyplot as plt
from PIL import Image

import pair
from pictures import FIELDS, N_BINS, Pair, confusion, draw_confusion, draw_disagreements, draw_reliability, reliability
from rows import settings_of
from tests.refusals import refusal
from tests.report_rows import row, write
from tests.runs import result_of, run

CLASSES = 10


def arrays(n=200, seed=0, **other):
    """A pair.npz of two networks on n images of ten classes, the first of which knows more."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, CLASSES, n)
    logits = rng.normal(0, 1, (2, n, CLASSES))
    logits[:, np.arange(n), targets] += np.array([[3], [1]])
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return {
        "archs": np.array(["eca_resnet", "resnet"]), "seeds": np.array([0, 0]), "settings": np.array(["{}", "{}"]),
        "dataset": np.array("shapes100"), "classes": np.array([f"class {i}" for i in range(CLASSES)]), "targets": targets,
        "probabilities": probabilities.astype(np.float16), "shown": np.arange(4), "images": np.zeros((4, 8, 8, 3), np.uint8),
    } | other  # fmt: skip


@pytest.fixture
def runs(tmp_path):
    return write(tmp_path / "runs", [row(), row("eca_resnet")])


def test_the_report_shows_what_the_two_do(runs, tmp_path):
    content = arrays(classes=np.array(["$100_$200", os.fsdecode(b"caf\xe9"), *"cdefghij"]))  # of which any may be drawn
    np.savez(runs / "pair.npz", **content)
    report.main([str(runs), "--out", str(tmp_path / "out")])
    section = (tmp_path / "out" / "report.md").read_text().split("### Two networks on the test images\n\n")[1]
    predicted = content["probabilities"].argmax(-1)
    right = predicted == content["targets"]
    assert section.startswith(
        f"eca_resnet (seed 0) and resnet (seed 0) agree on {np.mean(predicted[0] == predicted[1]):.1%} of 200 test images. "
        f"On {(right[0] & ~right[1]).sum()} images only the first is right, on {(right[1] & ~right[0]).sum()} only the second."
    )
    for name in ("confusion", "reliability", "disagreements"):
        assert f"({name}.png)" in section and (tmp_path / "out" / f"{name}.png").exists()
    (runs / "pair.npz").unlink()
    report.main([str(runs), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out" / "confusion.png").exists()


def test_a_pair_with_published_weights_is_of_its_rows(tmp_path):
    runs = write(tmp_path / "runs", [row("vit"), row("vit", pretrained=True)])
    settings = np.array(["{}", json.dumps(settings_of(row("vit", pretrained=True)))])
    np.savez(runs / "pair.npz", **arrays(archs=np.array(["vit", "vit"]), settings=settings))
    report.main([str(runs), "--out", str(tmp_path / "out")])
    assert "vit (seed 0) and vit pretrained=true (seed 0) agree on" in (tmp_path / "out" / "report.md").read_text()


def test_pictures_say_what_the_probabilities_do():
    content = arrays(shown=np.array([5, 2]), images=np.zeros((2, 8, 8, 3), np.uint8))
    both, targets = content["probabilities"].astype(np.float32), content["targets"]
    names = [str(name) for name in content["classes"]]
    two = Pair(("one", "two"), "shapes100", names, targets, both, content["shown"], content["images"])
    figure, titles = plt.figure(), []
    draw_reliability(figure, two)
    for name, p in zip(two.names, both, strict=True):
        top, right = p.max(-1), p.argmax(-1) == targets
        bins = np.minimum((top * N_BINS).astype(int), N_BINS - 1)
        off = sum(abs(top[bins == b].sum() - right[bins == b].sum()) for b in range(N_BINS))
        titles.append(f"{name}: ECE {100 * off / len(targets):.1f} %")
    assert [ax.get_title() for ax in figure.axes] == titles
    for ax, p in zip(figure.axes, both, strict=True):
        confidence, accuracy, _ = reliability(p, targets)
        assert np.allclose(ax.lines[1].get_xydata(), np.transpose([confidence, accuracy]))
        assert np.allclose([bar.get_height() for bar in ax.patches], accuracy)
    figure.clear()
    draw_confusion(figure, two)
    for ax, p in zip(figure.axes, both, strict=False):  # the third is of the colours
        (image,) = ax.images
        assert np.allclose(image.get_array(), confusion(p.argmax(-1), targets, np.arange(CLASSES)))
    figure.clear()
    draw_disagreements(figure, two)
    for ax, i in zip(figure.axes, (5, 2), strict=True):
        told = [f"{k}: {names[p[i].argmax()]} {p[i].max():.0%}" for k, p in zip("12", both, strict=True)]
        assert ax.get_title(loc="left") == "\n".join([f"true: {names[targets[i]]}", *told])
    plt.close(figure)


def test_confusion_counts_by_group():
    targets, predicted, groups = np.array([0, 0, 1, 2, 3]), np.array([0, 1, 2, 2, 0]), np.array([0, 0, 1, 1])
    assert confusion(predicted, targets, groups) == pytest.approx(np.array([[200 / 3, 100 / 3], [50, 50]]))


def test_reliability_is_the_runs_calibration_error():
    """Its bins give the expected calibration error that engine.py computes."""
    content = arrays(2000)
    probabilities, targets = content["probabilities"][0].astype(float), content["targets"]
    confidence, accuracy, n = reliability(probabilities, targets)
    assert n.sum() == 2000 and len(n) <= N_BINS
    top, right = probabilities.max(-1), probabilities.argmax(-1) == targets
    for low in np.arange(N_BINS) / N_BINS:
        inside = (top >= low) & (top < low + 1 / N_BINS)
        if inside.any():
            at = np.flatnonzero(np.isclose(confidence, top[inside].mean()))
            assert len(at) == 1 and accuracy[at[0]] == pytest.approx(right[inside].mean()) and n[at[0]] == inside.sum()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"archs": np.array(["eca_resnet", "gmlp_resnet"])}, "is of gmlp_resnet with seed 0, and that run is not here"),
        ({"seeds": np.array([0, 7])}, "is of resnet with seed 7, and that run is not here"),
        ({"targets": np.zeros(3, int)}, "its arrays do not fit each other"),
        ({"images": np.zeros((2, 8, 8, 3))}, "its arrays do not fit each other"),
        ({"classes": np.array([object()])}, "cannot be used"),
    ],
)
def test_a_bad_pair_is_refused_in_one_line(changed, message, runs, tmp_path, capsys):
    np.savez(runs / "pair.npz", **arrays(**changed))
    refuse_pair(runs, tmp_path, capsys, message)


@pytest.mark.parametrize("name", FIELDS)
def test_a_pair_without_a_field_is_refused(name, runs, tmp_path, capsys):
    np.savez(runs / "pair.npz", **{key: value for key, value in arrays().items() if key != name})
    refuse_pair(runs, tmp_path, capsys, name)


def test_a_file_that_is_no_pair_is_refused(runs, tmp_path, capsys):
    (runs / "pair.npz").write_text("no array")
    refuse_pair(runs, tmp_path, capsys, "pair.npz cannot be used")
    np.savez(runs / "pair.npz", **arrays())
    whole = (runs / "pair.npz").read_bytes()
    (runs / "pair.npz").write_bytes(whole[: len(whole) // 2])
    refuse_pair(runs, tmp_path, capsys, "pair.npz cannot be used")


def refuse_pair(runs, folder, capsys, message):
    said = refusal(capsys, report.main, [str(runs), "--out", str(folder / "out")])
    assert message in said and "write it again with pair.py" in said
    assert not (folder / "out").exists()


# ------------------------------------------------------------------------------------------------------- pair.py


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    """A ResNet and one with ECA on the tiny image folder, with their weights: (folder of runs, flags of the data)."""
    root = tmp_path_factory.mktemp("trained")
    data_flags = ["--data-dir", str(photos), "--cache-dir", str(root / "cache")]
    for arch in ("resnet", "eca_resnet"):
        small = ["--set", "resnet.width=4", "--set", "resnet.depth=8"]
        run("--arch", arch, "--name", arch, *small, "--dataset", "folder", *data_flags, "--out", str(root / "runs"),
            "--batch-size", "20", "--epochs", "1")  # fmt: skip
    return root / "runs", data_flags


@pytest.mark.parametrize("out", ["pair", "nowhere/pair.npz"])
def test_a_file_that_cannot_be_written_is_refused_before_the_scoring(out, trained, tmp_path, monkeypatch, capsys):
    runs, data_flags = trained
    monkeypatch.setattr(pair, "score", None)
    flags = [str(runs / "eca_resnet"), str(runs / "resnet"), *data_flags, "--out", str(tmp_path / out)]
    assert "--out takes a file that ends in .npz, in a folder that exists, got" in refusal(capsys, pair.main, flags)


def test_a_full_or_foreign_disk_is_one_line(trained, tmp_path, monkeypatch, capsys):
    runs, data_flags = trained
    command = [str(runs / "eca_resnet"), str(runs / "resnet"), *data_flags, "--out", str(tmp_path / "pair.npz")]
    score = Mock(return_value={"targets": []})
    monkeypatch.setattr(pair, "score", score)
    monkeypatch.setattr(pair.np, "savez_compressed", Mock(side_effect=OSError("No space left on device")))
    assert refusal(capsys, pair.main, command) == "pair.py: No space left on device\n"
    refusal(capsys, pair.main, [*command, "--cache-dir", ""])  # of a variable that is not set: the default
    assert not score.call_args.args[-1]
    monkeypatch.setattr(pair.os, "access", lambda *_: False)
    assert refusal(capsys, pair.main, command) == f"pair.py: cannot write to {tmp_path}: give another --out\n"


def test_a_pair_of_runs_is_scored_as_the_runs_were(trained, photos, tmp_path, monkeypatch):
    runs, data_flags = trained
    kept = []
    monkeypatch.setattr(pair.machine, "keep_to_cores", lambda: kept.append(True))
    pair.main([str(runs / "eca_resnet"), str(runs / "resnet"), *data_flags, "--out", str(tmp_path / "pair.npz")])
    with np.load(tmp_path / "pair.npz") as found:
        top1 = 100 * (found["probabilities"].argmax(-1) == found["targets"]).mean(-1)
        assert list(found["archs"]) == ["eca_resnet", "resnet"]
        assert found["images"].shape[1:] == (16, 16, 3) and found["images"].dtype == np.uint8
        class_of = {np.array(Image.open(path)).tobytes(): path.parent.name for path in (photos / "test").rglob("*.png")}
        true_classes = found["classes"][found["targets"][found["shown"]]]
        assert [class_of[image.tobytes()] for image in found["images"]] == list(true_classes)
        true = found["probabilities"].astype(float)[:, np.arange(len(found["targets"])), found["targets"]]
        gap = np.abs(true[0] - true[1])
        assert gap[found["shown"]].min() >= np.delete(gap, found["shown"]).max() - 1e-3
    assert top1 == pytest.approx([result_of(runs / name)["top1"] for name in ("eca_resnet", "resnet")], abs=0.01)
    assert kept


def test_test_images_of_another_set_are_refused(trained, photos, tmp_path, capsys):
    runs, _ = trained
    shutil.copytree(photos, tmp_path / "photos")
    for split in ("train", "test"):
        (tmp_path / "photos" / split / "class0").rename(tmp_path / "photos" / split / "other")
    data_flags = ["--data-dir", str(tmp_path / "photos"), "--cache-dir", str(tmp_path)]
    flags = [str(runs / "eca_resnet"), str(runs / "resnet"), *data_flags, "--out", str(tmp_path / "pair.npz")]
    assert "are not those of these data: only one of them has class0" in refusal(capsys, pair.main, flags)
    assert not (tmp_path / "pair.npz").exists()


def test_the_best_method_and_its_baseline_are_found(tmp_path):
    """By the seeds of which both kept their weights: gMLP is ahead with seed 1, but less than SE with both."""
    top1 = {
        "resnet": (60, 68),
        "eca_resnet": (61, 69),
        "gmlp_resnet": (70, 71),
        "mixer_resnet": (90, 90),
        "se_resnet": (65, 72),
    }
    for arch, of_seeds in top1.items():
        for seed, value in enumerate(of_seeds):
            folder = tmp_path / f"{arch}-{seed}"
            (folder / "model").mkdir(parents=True)
            (folder / "result.json").write_text(json.dumps(row(arch, value, seed)))
            if arch == "mixer_resnet" or (arch, seed) == ("gmlp_resnet", 0):
                (folder / "model").rmdir()
    best, baseline = pair.best_and_baseline(tmp_path)
    assert (best.name, baseline.name) == ("se_resnet-0", "resnet-0")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["runs/run0", "runs/run1"], "is not a finished run that kept its weights"),
        (["runs"], "no method below"),
        (["runs/run0", "runs/run1", "runs/run0"], "give one folder of runs, or two runs"),
    ],
)
def test_runs_that_make_no_pair_are_refused(names, message, runs, tmp_path, capsys):
    said = refusal(capsys, pair.main, [str(tmp_path / name) for name in names])
    assert said.startswith("pair.py: ") and message in said
