"""The house rules: imports run downwards only, and files and functions stay short."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOP = {path.stem: path for path in sorted(ROOT.glob("*.py"))}
MODELS = sorted((ROOT / "models").rglob("*.py"))
REPORT = ["report", "verdicts", "charts", "slides", "tables", "rows", "nets", "noise", "contrasts", "interactions"]
REPORT += ["widening", "superclasses", "document", "webpage", "deck", "drawings", "modules", "method", "cost_report"]
REPORT += ["recipe_report", "team"]


def imported(path):
    """The modules that a file imports, inside functions too: full names."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", MODELS, ids=lambda path: str(path.relative_to(ROOT)))
def test_models_know_nothing_above_them(path):
    assert not {name.split(".")[0] for name in imported(path)} & set(TOP)


def test_the_engine_knows_no_network():
    of_models = {name for name in imported(TOP["engine"]) if name.split(".")[0] == "models"}
    assert all(name.startswith("models.ops") for name in of_models)


@pytest.mark.parametrize("name", REPORT)
def test_the_report_reads_files_only(name):
    if name in TOP:  # a file that was renamed has no rule left
        assert not {module.split(".")[0] for module in imported(TOP[name])} & {"models", "engine", "data", "train"}


@pytest.mark.parametrize("path", [*TOP.values(), *MODELS], ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path):
    text = path.read_text()
    assert text.count("\n") <= 450
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < 80, node.name
