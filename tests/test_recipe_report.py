import tests.reports  # noqa: F401 -- skips this file where report.py's packages are missing

# isort: split
import pytest

import report
from tests.report_rows import row, write


def recipes_in(folder, rows):
    report.main([str(write(folder, rows)), "--recipes"])
    return (folder / "report" / "recipes.md").read_text()


def test_recipes_are_compared_on_the_validation_split(tmp_path, capsys):
    adamw = {"optimizer": "adamw", "lr": 0.002}
    rows = [row(val_top1=40.0, top1=70.0), row(val_top1=42.0, seed=1), row(val_top1=41.5, **adamw),
            row("eca_resnet", settings={"eca.kernel_size": 5}, val_top1=50.0, **adamw), row("eca_resnet", val_top1=51.0, **adamw),
            row(val_top1=43.0, lr=0.02, commit=None)]  # fmt: skip
    text = recipes_in(tmp_path, rows)
    tables = """\
eca_resnet

| knobs | optimizer | lr | top-1 | seeds | of each seed |
| --- | --- | --: | --: | --: | --: |
| as it is | adamw | 0.002 | 51.00 | 0 | 51.00 |
| eca.kernel_size=5 | adamw | 0.002 | 50.00 | 0 | 50.00 |

## resnet

| optimizer | lr | top-1 | seeds | of each seed |
| --- | --: | --: | --: | --: |
| sgd | 0.02 | 43.00 | 0 | 43.00 |
| adamw | 0.002 | 41.50 | 0 | 41.50 |
| sgd | 0.2 | 41.00 | 0 and 1 | 40.00, 42.00 |
"""
    assert f"\n## {tables}\nAll recipes share: dataset shapes100, epochs 10, batch_size 128," in text
    assert "eca_resnet\n| knobs | optimizer" in capsys.readouterr().out
    assert "2,000 images held out of train, after the last epoch, as the mean over seeds" in text
    assert "- commits: None (1 runs); abc (5 runs)" in text


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, "resnet has seed 0 twice under one recipe"),
        ({"lr": 0.1, "n_val": 3000}, "recipes are compared on one held-out part of one dataset"),
        ({"lr": 0.1, "folds": 5, "fold": 0}, "report others, and folds, apart"),
    ],
)
def test_recipes_are_compared_on_one_held_out_part(changed, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        recipes_in(tmp_path, [row(), row() | changed])
    assert exit.value.code == 2
    assert message in capsys.readouterr().err


def test_recipes_are_not_chosen_on_the_test_set(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        recipes_in(tmp_path, [row(), row(lr=0.1, val_top1=None, val_size=0)])
    assert exit.value.code == 2
    assert "report.py: recipes are compared on held-out images" in capsys.readouterr().err
