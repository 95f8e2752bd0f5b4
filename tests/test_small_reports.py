import tests.reports  # noqa: F401 -- skips this file where report.py's packages are missing

# isort: split
import csv
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt

import report
from small_reports import draw_costs
from tests.refusals import refusal
from tests.report_rows import row, write


def costs(**other):
    """A costs.json of four networks at two sizes, one of which fits one size only."""
    rows = []
    for size in (32, 224):
        for i, arch in enumerate(("resnet", "eca_resnet", "vit")):
            macs, speed = 40_000_000 * (i + 1) * size**2 // 1024, 3000.0 / (i + 1)
            rows.append({"arch": arch, "settings": {}, "image_size": size, "params": 275_572 + i, "macs": macs,
                         "train_step_ms": 128e3 / speed, "train_imgs_per_s": speed, "eval_imgs_per_s": 3 * speed,
                         "train_tflops": 6e-12 * macs * speed, "peak_memory_mb": 700.0})  # fmt: skip
    rows.append(
        {"arch": "lenet", "settings": {"lenet.width": 2}, "image_size": 224, "problem": "lenet is for 32 pixels"}
    )
    return {
        "device": "a GPU",
        "amp": "bfloat16",
        "compile": False,
        "batch_size": 128,
        "torch": "2.15",
        "rows": rows,
    } | other


def make_costs(content, folder):
    (folder / "costs.json").write_text(json.dumps(content))
    report.main([str(folder / "costs.json")])
    return (folder / "report" / "costs.md").read_text()


def test_costs_become_a_table_a_csv_and_a_chart_for_each_size(tmp_path, capsys):
    text = make_costs(costs(), tmp_path)
    row = "| eca_resnet | 32 | 275,573 | 80.0 | 85.3 | 1,500 | 4,500 | 0.72 | 700 |"
    assert row in text
    assert row in capsys.readouterr().out
    assert "| lenet lenet.width=2 | 224 | - | - |" in text
    assert "- lenet at 224: lenet is for 32 pixels" in text
    assert "device a GPU, amp bfloat16" in text
    table = list(csv.DictReader((tmp_path / "report" / "costs.csv").open()))
    assert [(r["arch"], r["image_size"]) for r in table][2:4] == [("vit", "32"), ("resnet", "224")]
    assert (table[1]["params"], table[-1]["settings"]) == ("275573", "lenet.width=2")
    assert {file.name for file in (tmp_path / "report").glob("*.png")} == {"costs_32.png", "costs_224.png"}


def test_steps_are_drawn_against_macs_beside_the_line_of_the_best():
    rows = costs()["rows"][:2]
    rows[1] |= {"macs": 120_000_000, "train_tflops": rows[0]["train_tflops"] / 2}
    rows[0]["train_step_ms"], rows[1]["train_step_ms"] = 10.0, 60.0
    figure = plt.figure()
    draw_costs(figure, rows)
    plt.close(figure)
    line, *points = (one.get_xydata() for one in figure.axes[0].lines)
    assert [point[0].tolist() for point in points[:2]] == [[40, 10], [120, 60]]
    assert line[[0, -1]] == pytest.approx(np.array([(40, 10), (120, 30)]))  # where the best network would lie


def test_latencies_have_columns_and_a_caption(tmp_path):
    """As trained and, where it could be exported, as exported; a file of an older cost pass has neither."""
    places = {"trained": "PyTorch on a GPU", "exported": "ONNX Runtime 1.99 on a CPU, 3 threads per process"}
    content = costs(latency=places)
    for i, one in enumerate(content["rows"][:5]):
        one |= {"latency_ms": 3.25 + i, "latency_p95_ms": 12.34 if i < 2 else 1234.5}
    content["rows"][1] |= {"exported_latency_ms": 0.9876, "exported_latency_p95_ms": 1.5}
    text = make_costs(content, tmp_path)
    assert "| train img/s | eval img/s | latency, ms: median / p95 | exported, ms: median / p95 | TFLOP/s |" in text
    assert "| resnet | 32 | 275,572 | 40.0 | 42.7 | 3,000 | 9,000 | 3.25 / 12.3 | - | 0.72 | 700 |" in text
    assert "| 1,500 | 4,500 | 4.25 / 12.3 | 0.988 / 1.50 | 0.72 |" in text
    assert "| 1,000 | 3,000 | 5.25 / 1,234 | - |" in text
    assert f"(as trained: {places['trained']}; as exported: {places['exported']})." in text
    assert "torch 2.15, each network with 100 classes and in its own process" in text
    table = list(csv.DictReader((tmp_path / "report" / "costs.csv").open()))
    assert [r["exported_latency_p95_ms"] for r in table[:3]] == ["", "1.5", ""]
    assert (table[4]["latency_ms"], table[5]["latency_ms"]) == ("7.25", "")


def test_networks_without_export_have_one_column_of_latencies(tmp_path):
    content = costs(latency={"trained": "PyTorch on a CPU, 3 threads per process", "exported": None})
    content["rows"][0] |= {"latency_ms": 3.456, "latency_p95_ms": 12.34}
    text = make_costs(content, tmp_path)
    assert "| eval img/s | latency, ms: median / p95 | TFLOP/s |" in text
    assert "(as trained: PyTorch on a CPU, 3 threads per process)." in text
    assert "atency" not in make_costs(costs(), tmp_path)
    assert "latency" not in (tmp_path / "report" / "costs.csv").read_text()


@pytest.mark.parametrize("bad", [{"latency_ms": 3.0}, {"exported_latency_ms": "1", "exported_latency_p95_ms": 2.0}])
def test_bad_latencies_are_refused_in_one_line(bad, tmp_path, capsys):
    content = costs()
    content["rows"][0] |= bad
    assert "ms must be a number above 0, got" in refusal(capsys, make_costs, content, tmp_path)


@pytest.mark.parametrize("rows", [[], [{"arch": "resnet", "settings": {}, "image_size": 32}], [{"problem": "none"}]])
def test_bad_costs_are_refused_in_one_line(rows, tmp_path, capsys):
    assert "cannot be used: a row needs arch" in refusal(capsys, make_costs, costs(rows=rows), tmp_path)


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

| knobs | optimizer | lr | top-1 | seeds | each seed |
| --- | --- | --: | --: | --: | --: |
| (default) | adamw | 0.002 | 51.00 | 0 | 51.00 |
| eca.kernel_size=5 | adamw | 0.002 | 50.00 | 0 | 50.00 |

## resnet

| optimizer | lr | top-1 | seeds | each seed |
| --- | --: | --: | --: | --: |
| sgd | 0.02 | 43.00 | 0 | 43.00 |
| adamw | 0.002 | 41.50 | 0 | 41.50 |
| sgd | 0.2 | 41.00 | 0 and 1 | 40.00, 42.00 |
"""
    assert f"\n## {tables}\nAll recipes share: dataset shapes100, epochs 10, batch_size 128," in text
    assert "eca_resnet\n| knobs | optimizer" in capsys.readouterr().out
    assert "2,000 held-out training images after the last epoch, averaged over seeds" in text
    assert "- commits: None (1 run); abc (5 runs)" in text


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, "resnet has seed 0 twice under one recipe"),
        ({"lr": 0.1, "n_val": 3000}, "recipes are compared on one held-out part of one dataset"),
        ({"lr": 0.1, "folds": 5, "fold": 0}, "report other datasets separately, and folds without --recipes"),
        ({"lr": 0.1, "val_top1": None, "val_size": 0}, "report.py: recipes are compared on held-out images"),
    ],
)
def test_recipes_are_compared_on_one_held_out_part(changed, message, tmp_path, capsys):
    assert message in refusal(capsys, recipes_in, tmp_path, [row(), row() | changed])


def test_a_recipe_that_diverged_is_told(tmp_path):
    lost = tmp_path / "resnet-lr=3-seed0"
    lost.mkdir()
    (lost / "diverged").write_text("loss or gradient is not finite at step 9\n")
    text = recipes_in(tmp_path, [row(val_top1=40.0)])
    assert text.endswith("\n\nWithout a result:\n\n- resnet-lr=3-seed0: loss or gradient is not finite at step 9\n")


def test_recipes_on_a_full_disk_are_no_report(tmp_path, monkeypatch, capsys):
    """Tasks of an array that find a recipes.md newer than the runs would not write it again."""

    def write_half(path, text, encoding):
        path.write_bytes(text[: len(text) // 2].encode())
        raise OSError(28, "No space left on device")

    folder = write(tmp_path, [row(val_top1=40.0)])
    monkeypatch.setattr(Path, "write_text", write_half)
    said = refusal(capsys, report.main, [str(folder), "--recipes"], code=1)
    assert "the report cannot be written" in said and not (tmp_path / "report" / "recipes.md").exists()
