from tests.reports import make  # skips this file where report.py's packages are missing

# isort: split
import base64
import re
import shlex
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from document import page
from flags import parse_args
from rows import Net, flags_of
from tests.report_rows import timed

PIXEL = b"\x89PNG"


def of(markdown, folder):
    return page(markdown, folder).split("<main>\n")[1].split("\n</main>")[0]


def test_the_command_that_repeats_a_run_has_its_flags():
    recipe = {
        "dataset": "folder",
        "val_size": None,
        "folds": 3,
        "epochs": 5,
        "lr": 0.2,
        "amp": "bfloat16",
        "flip": False,
    }
    recipe |= {"compile": True, "mixup": 0.2, "data": "90fde761", "image_size": 64}
    settings = {"hornet.orders": [2, 3], "productpool.norm": False, "pretrained": True, "freeze": "backbone"}
    net = SimpleNamespace(settings=settings, recipe=recipe, knobs=Net("vit", settings, {}).knobs)
    told = flags_of(net).split()
    args = parse_args(told)
    assert args.settings == {"hornet.orders": "2,3", "productpool.norm": "false"}
    assert (args.pretrained, args.freeze, args.folds, args.fold, args.lr) == (True, "backbone", 3, 0, 0.2)
    assert (args.dataset, args.image_size, args.flip, args.compile, args.mixup) == ("folder", 64, False, True, 0.2)
    assert args.amp == "bf16" and "None" not in told and "--val-size" not in told


@pytest.mark.parametrize(("amp", "flag"), [("bfloat16", "bf16"), ("float16", "fp16")])
def test_a_run_is_repeated_in_its_precision(amp, flag):
    recipe = {"dataset": "shapes100", "epochs": 5, "lr": 0.2, "amp": amp}
    told = flags_of(SimpleNamespace(settings={}, recipe=recipe, knobs=""))
    assert parse_args(told.split()).amp == flag


def test_values_are_quoted_and_whole():
    recipe = {"dataset": "shapes100", "epochs": 5, "lr": 0.123456789}
    net = Net("resnet", {"resnet.width": 8, "init_from": "runs/my run"}, {0: {}})
    told = flags_of(SimpleNamespace(settings=net.settings, recipe=recipe, knobs=net.knobs))
    args = parse_args(shlex.split(told))
    assert (args.init_from, args.lr, args.settings) == ("runs/my run", 0.123456789, {"resnet.width": "8"})


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"image_size": 224}, True),
        ({"image_size": 64}, False),
        ({"image_size": None, "dataset": "folder"}, True),
        ({"image_size": None}, False),
        ({"image_size": 224, "crop_scale": 0.08}, False),
    ],
)
def test_padded_crops_of_large_images_are_asked_for(changes, flag):
    recipe = {"dataset": "cifar100", "epochs": 5, "lr": 0.2, "crop_padding": 4, "crop_scale": None} | changes
    told = flags_of(SimpleNamespace(settings={}, recipe=recipe, knobs=""))
    assert ("--crop-scale 0" in told.replace("0.08", "least")) == flag


def test_a_picture_is_inside_the_page(tmp_path):
    (tmp_path / "a.png").write_bytes(PIXEL)
    data = base64.b64encode(PIXEL).decode()
    assert of("# A\n\n![words](a.png)", tmp_path).endswith(f'src="data:image/png;base64,{data}"></p>')


@pytest.mark.parametrize(("n_columns", "looks"), [(8, ""), (9, ' class="many"'), (13, ' class="many upright"')])
def test_a_table_of_many_columns_is_set_smaller(tmp_path, n_columns, looks):
    rows = [["name"] * n_columns, ["--:"] * n_columns, ["a_b_c < 1"] * n_columns]
    text = of("# A\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows), tmp_path)
    assert f'<div class="wide"><table{looks}>' in text
    assert text.count('<td style="text-align: right;">a_b_c &lt; 1</td>') == n_columns


class Checker(HTMLParser):
    """Collects addresses and checks that every tag is closed in its order."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_report_is_one_page_that_needs_nothing_else(campaign, tmp_path):
    text = make(campaign, tmp_path, timed(campaign))
    checker = Checker()
    checker.feed((tmp_path / "report" / "report.html").read_text())
    assert not checker.open
    assert checker.addresses and all(address.startswith("data:image/") for address in checker.addresses)
    assert len(checker.addresses) == len(re.findall(r"!\[", text))
    assert '<pre><code class="language-bash">python report.py' in (tmp_path / "report" / "report.html").read_text()
    words = " ".join("".join(checker.text).split())
    for cell in re.findall(r"\| ([^|]*±[^|]*) ", text):
        assert cell in words
    assert "**" not in words and "](" not in words
