"""What keeps the files readable: imports go one way, and no file and no function is too long."""

import ast
from functools import cache

import pytest

from tests.processes import ROOT

MOST_LINES, MOST_LINES_OF_A_FUNCTION = 450, 80
FILES = sorted([*ROOT.glob("*.py"), *(ROOT / "models").rglob("*.py")])
TOP = {path.stem for path in ROOT.glob("*.py")}


@cache
def imported(path):
    """The project's modules that a file imports anywhere, also inside functions: {'noise', 'models.ops.bfloat16'}."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" if node.module.split(".")[0] == "models" else node.module
                      for alias in node.names}  # fmt: skip
    return {name for name in found if name.split(".")[0] in {*TOP, "models"}}


def needed(name):
    """A top-level file and all top-level files that it imports, directly or not."""
    found, new = set(), {name}
    while new:
        found |= new
        new = {other for each in new for other in imported(ROOT / f"{each}.py") & TOP} - found
    return found


def test_models_import_nothing_from_the_top_level():
    for path in (ROOT / "models").rglob("*.py"):
        assert not imported(path) & TOP, path


def test_operations_know_no_network():
    for path in (ROOT / "models" / "ops").glob("*.py"):
        assert all(name.startswith("models.ops.") for name in imported(path)), path


def test_the_engine_knows_no_network_no_data_and_no_run():
    names = imported(ROOT / "engine.py")
    assert not names & {"data", "train", "training", "hub"}
    assert all(name.startswith("models.ops.") for name in names - TOP)


def test_data_know_no_network():
    for name in needed("data"):
        assert all(other.startswith("models.ops.") for other in imported(ROOT / f"{name}.py") - TOP), name


def test_the_report_needs_rows_alone():
    """It reads result.json, and could stand without the code that wrote it; pair.py is what connects the two."""
    files = needed("report")
    assert not files & {"engine", "data", "train", "training", "hub", "pair"}
    for name in files:
        assert not imported(ROOT / f"{name}.py") - TOP, name


def test_no_top_level_file_needs_itself():
    for name in TOP:
        for other in imported(ROOT / f"{name}.py") & TOP:
            assert name not in needed(other), f"{name}.py and {other}.py import each other"


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_a_file_has_one_subject_and_a_function_fits_a_screen(path):
    text = path.read_text()
    assert len(text.splitlines()) <= MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno + 1 <= MOST_LINES_OF_A_FUNCTION, node.name
