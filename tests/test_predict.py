import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import decode
import hub
from tests.processes import ROOT
from tests.runs import run

CLASSES = ["apple", "boat", "cat", "dog", "elm", "fox"]


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    settings = {"resnet.depth": 8, "resnet.width": 4}
    model = hub.Classifier("resnet", CLASSES, settings, 16, [120.0] * 3, [60.0] * 3).eval()
    model.save_pretrained(tmp_path / "model")
    return model


@pytest.fixture
def images(tmp_path):
    """A folder with images of several sizes and modes, one below another folder, one damaged, and a text."""
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "below" / "wide.png")
    Image.fromarray(pixels[:16, :16]).save(folder / "small.png")
    Image.fromarray(pixels[..., 0]).save(folder / "grey.JPG")
    (folder / "damaged.png").write_bytes((folder / "small.png").read_bytes()[:60])
    (folder / "notes.txt").write_text("no image")
    return folder


def predicted(tmp_path, path, *flags):
    """The exit code of a prediction."""
    with pytest.raises(SystemExit) as exit:
        run("--predict", str(path), "--init-from", str(tmp_path / "model"), *flags)
    return exit.value.code


def test_prediction_is_that_of_the_network_on_the_pixels_of_training(model, images, tmp_path, capsys):
    assert predicted(tmp_path, images / "below" / "wide.png", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    pixels = np.array(decode.resize(Image.open(images / "below" / "wide.png"), 16))
    with torch.no_grad():
        expected = model(torch.from_numpy(pixels).permute(2, 0, 1)[None]).softmax(1)[0]
    assert [entry["class"] for entry in row["top"]] == [CLASSES[i] for i in expected.argsort(descending=True)[:5]]
    for entry in row["top"]:
        assert entry["probability"] == pytest.approx(expected[CLASSES.index(entry["class"])].item(), abs=1e-5)


def test_lines_say_in_percent_what_json_says(model, images, tmp_path, capsys):
    file = images / "small.png"
    assert predicted(tmp_path, file, "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert predicted(tmp_path, file) == 0
    top = ", ".join(f"{entry['class']} {100 * entry['probability']:.1f} %" for entry in row["top"])
    assert capsys.readouterr().out == f"{file}: {top}\n"


def test_unreadable_image_costs_a_line_and_not_the_others(model, images, tmp_path, capsys):
    assert predicted(tmp_path, images) == 1
    out, err = capsys.readouterr()
    names = [str(images / name) for name in ("below/wide.png", "grey.JPG", "small.png")]
    assert [line.split(": ")[0] for line in out.splitlines()] == names
    assert all(line.count(" %") == 5 for line in out.splitlines())
    left_out, unreadable = err.splitlines()
    assert left_out == f"train.py: left out of {images}: 1 file without an image's suffix"
    assert unreadable.startswith(f"train.py: {images}/damaged.png: cannot read the image (")
    assert predicted(tmp_path, images, "--json") == 1
    assert [row["image"] for row in json.loads(capsys.readouterr().out)] == names


def test_images_of_several_batches(model, images, tmp_path, capsys, monkeypatch):
    (images / "damaged.png").unlink()
    assert predicted(tmp_path, images, "--json") == 0
    together = json.loads(capsys.readouterr().out)
    monkeypatch.setattr("predict.BATCH", 2)
    assert predicted(tmp_path, images, "--json") == 0
    apart = json.loads(capsys.readouterr().out)
    assert [row["image"] for row in apart] == [row["image"] for row in together]
    assert len(apart) == 3
    for one, other in zip(apart, together, strict=True):
        assert [top["class"] for top in one["top"]] == [top["class"] for top in other["top"]]


@pytest.mark.parametrize(
    ("path", "message"), [("nowhere", "no such file or folder"), ("model", "no image in this folder")]
)
def test_nothing_to_predict_is_refused(model, tmp_path, capsys, path, message):
    assert predicted(tmp_path, tmp_path / path) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_folder_of_files_that_are_not_read_says_so(model, tmp_path, capsys):
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "photo.HEIC").touch()
    assert predicted(tmp_path, tmp_path / "phone") == 2
    assert "phone: no image in this folder (" in capsys.readouterr().err


def test_name_that_is_not_unicode_is_told(model, images, tmp_path):
    """As in a folder from an old archive; the terminal takes UTF-8 alone."""
    odd = os.fsencode(images) + b"/caf\xe9.png"
    with open(odd, "wb") as file:
        file.write((images / "small.png").read_bytes())
    command = [
        sys.executable,
        str(ROOT / "train.py"),
        "--predict",
        str(images / "below"),
        "--init-from",
        str(tmp_path / "model"),
    ]
    os.rename(odd, os.fsencode(images / "below") + b"/caf\xe9.png")
    environ = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stdout.count("\n")) == (0, 2) and "caf\\udce9.png: " in done.stdout


def test_single_unreadable_image(model, images, tmp_path, capsys):
    assert predicted(tmp_path, images / "notes.txt", "--json") == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == []
    assert "notes.txt: cannot read the image" in err


def test_two_classes_have_a_top_two(tmp_path):
    from predict import top_classes

    hub.Classifier("resnet", ["a", "b"], {"resnet.depth": 8}, 16, [0.0] * 3, [1.0] * 3).save_pretrained(tmp_path)
    (top,) = top_classes(hub.load(tmp_path), torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    assert sum(p for _, p in top) == pytest.approx(1)
    assert top[0][1] >= top[1][1]


def test_names_with_a_leading_dot_are_no_images(model, images, tmp_path, capsys):
    (images / "damaged.png").unlink()
    (images / "notes.txt").unlink()
    (images / "._small.png").write_bytes(b"\0\5\x16\7")  # as macOS leaves them on foreign disks
    (images / ".ipynb_checkpoints").mkdir()
    (images / ".ipynb_checkpoints" / "small.png").write_bytes((images / "small.png").read_bytes())
    assert predicted(tmp_path, images) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    assert err == f"train.py: left out of {images}: 2 names that begin with a dot\n"


def test_picture_is_predicted_as_it_is_seen(model, images, tmp_path, capsys):
    """The same picture, stored upright, and stored upside down with a word of it in its EXIF data."""
    exif = Image.Exif()
    exif[0x0112] = 3
    picture = Image.open(images / "small.png")
    picture.save(tmp_path / "upright.png")
    picture.rotate(180).save(tmp_path / "turned.png", exif=exif)
    tops = []
    for name in ("upright.png", "turned.png"):
        assert predicted(tmp_path, tmp_path / name, "--json") == 0
        tops.append(json.loads(capsys.readouterr().out)[0]["top"])
    assert tops[0] == tops[1]
