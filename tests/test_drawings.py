import tests.reports  # noqa: F401 -- skips this file where report.py's packages are missing

# isort: split
from xml.etree import ElementTree

import pytest

from drawings import SIZE, THIRD_STAGE_ONLY, Arrow, Box, drawing, svg, write_drawings
from models import METHODS
from models.prenorm import ReplacingFamily
from notes import MODULES, modules_of
from tests.report_rows import rows_of
from verdicts import analyse


def test_every_method_has_its_three_lines_and_its_slot():
    assert set(MODULES) == set(METHODS), "describe it in MODULES of notes.py"
    for name, module in MODULES.items():
        assert module.slot == METHODS[name].slot
        assert METHODS[name].paper.split(" (")[0] in module.paper
        assert all(line.endswith(".") and len(line) < 120 for line in module.lines)


@pytest.mark.parametrize("method", ["", *MODULES])
def test_a_drawing_is_whole_and_stays_in_its_frame(method):
    shapes = drawing(method, MODULES.get(method))
    boxes = [shape for shape in shapes if isinstance(shape, Box)]
    corners = [(b.x, b.y) for b in boxes] + [(b.x + b.width, b.y + b.height) for b in boxes]
    corners += [point for shape in shapes if isinstance(shape, Arrow) for point in shape.points]
    assert all(0 <= x <= SIZE[0] and 0 <= y <= SIZE[1] for x, y in corners)
    assert any(box.look == "module" for box in boxes) == bool(method)
    assert all(len(box.text) <= 12 for box in boxes if box.look == "module")  # else give a short name in drawing()
    solid = [box for box in boxes if box.look in ("plain", "module")]
    for i, a in enumerate(solid):
        for b in solid[:i]:
            assert a.x + a.width <= b.x or b.x + b.width <= a.x or a.y + a.height <= b.y or b.y + b.height <= a.y
    root = ElementTree.fromstring(svg(shapes, "A <title>"))
    assert root[0].text == "A <title>"
    assert len(root.findall("{*}rect")) == 1 + len(boxes)


def test_methods_that_replace_blocks_of_the_third_stage_are_drawn_there():
    assert {*THIRD_STAGE_ONLY} == {name for name, row in METHODS.items() if issubclass(row.make, ReplacingFamily)}


def test_drawings_show_where_a_module_stands():
    def of_module(method):
        return [box.text for box in drawing(method, MODULES[method]) if isinstance(box, Box) and box.look == "module"]

    assert of_module("eca") == ["ECA"]
    assert of_module("ghostnet") == ["GhostNet", "GhostNet"]
    assert of_module("resnest") == ["ResNeSt"]
    assert of_module("gmlp") == [""] * 2  # the first block of the stage strides
    assert of_module("convnext") == ["stem"] + [""] * 9
    assert sorted(of_module("cspnet")) == ["join", "split"]


def test_only_the_methods_of_the_report_are_drawn(tmp_path):
    nets = analyse(rows_of("resnet", 60) + rows_of("eca_ghostnet_resnet", 61)).nets
    (tmp_path / "block_gmlp.svg").write_text("of an earlier report")
    write_drawings(modules_of(nets), tmp_path)
    assert {path.stem for path in tmp_path.glob("*.svg")} == {"block_resnet", "block_eca", "block_ghostnet"}
