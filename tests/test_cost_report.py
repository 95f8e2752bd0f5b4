import tests.reports  # noqa: F401 -- skips this file where report.py's packages are missing

# isort: split
import csv
import json

import pytest

import report


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


@pytest.mark.parametrize("rows", [[], [{"arch": "resnet", "settings": {}, "image_size": 32}], [{"problem": "none"}]])
def test_bad_costs_are_refused_in_one_line(rows, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        make_costs(costs(rows=rows), tmp_path)
    assert exit.value.code == 2
    err = capsys.readouterr().err
    assert "cannot be used: a row needs arch" in err
    assert err.count("\n") == 1
