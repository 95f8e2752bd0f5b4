"""budgets.py: the same methods under several budgets and recipes."""

from tests.reports import blank_charts, refused_folders  # skips this file where report.py's packages are missing

# isort: split
import json

import pytest
from matplotlib import pyplot as plt

import report
from budgets import changes, read_conditions, shared_methods, what_differs
from charts import draw_budgets
from tables import budget_table
from tests.report_rows import JITTER, rows_of, write


def folder_of(path, epochs, eca, ghost=60.0, **other):
    """Runs at a budget: the ResNet at 60, ECA and GhostNet at their means."""
    rows = rows_of("resnet", 60, epochs=epochs)
    for arch, mean in (("eca_resnet", eca), ("ghostnet_resnet", ghost)):
        rows += rows_of(arch, mean, jitter=-JITTER, epochs=epochs, **other)
    return write(path, rows)


def test_a_budget_that_turns_a_method_is_told(tmp_path):
    long, short = folder_of(tmp_path / "long", 50, eca=58), folder_of(tmp_path / "short", 5, eca=63)
    conditions = read_conditions([long, short])
    assert [each.label for each in conditions] == ["5 epochs", "50 epochs"]
    header, *rows = budget_table(conditions)
    assert header == ["method", "5 epochs", "50 epochs"]
    cells = {name: cells for name, *cells in rows}
    assert cells["eca_resnet"][0].startswith("+3.00 ± ") and cells["eca_resnet"][0].endswith(" helps")
    assert cells["eca_resnet"][1].startswith("-2.00 ± ") and cells["eca_resnet"][1].endswith(" hurts")
    assert changes(conditions) == [("eca_resnet", "from helps to hurts; its mean changes sign")]


def test_a_budget_is_the_images_seen_not_the_steps(tmp_path):
    few, large = folder_of(tmp_path / "a", 10, eca=61), folder_of(tmp_path / "b", 20, eca=61)
    change_rows(large, batch_size=512)
    assert [each.label for each in read_conditions([large, few])] == ["10 epochs", "20 epochs"]


def test_a_method_with_other_knobs_is_another_one(tmp_path):
    rows = rows_of("resnet", 60, epochs=50) + rows_of(
        "eca_resnet", 61, {"eca.kernel_size": 9}, jitter=-JITTER, epochs=50
    )
    long = write(tmp_path / "b", rows + rows_of("ghostnet_resnet", 60, jitter=-JITTER, epochs=50))
    conditions = read_conditions([folder_of(tmp_path / "a", 5, eca=61), long])
    assert shared_methods(conditions) == ["ghostnet_resnet"]
    short = write(tmp_path / "c", [content | {"epochs": 5} for content in rows])
    figure = plt.figure()
    draw_budgets(figure, read_conditions([short, long]))
    assert "eca" in [label.get_text() for label in figure.axes[0].get_yticklabels()]
    plt.close(figure)


def test_noise_changes_no_sign(tmp_path):
    """A quarter of a point either way, within its interval; but with one seed, which has none, any change is told."""
    short, long = folder_of(tmp_path / "a", 5, eca=60.25), folder_of(tmp_path / "b", 50, eca=59.75)
    assert changes(read_conditions([short, long])) == []
    for folder in (short, long):
        for path in folder.glob("*/result.json"):
            if json.loads(path.read_text())["seed"]:
                path.unlink()
    assert changes(read_conditions([short, long])) == [("eca_resnet", "its mean changes sign")]


def test_conditions_are_of_the_same_data_and_say_in_what_else_they_differ(tmp_path):
    short, long = folder_of(tmp_path / "a", 5, eca=61), folder_of(tmp_path / "b", 50, eca=61)
    change_rows(long, lr=0.1)
    assert what_differs(read_conditions([short, long])) == "budget and lr"
    for other in ({"data": "another"}, {"data": None, "image_size": 64}):
        change_rows(long, **other)
        with pytest.raises(SystemExit):
            read_conditions([short, long])


def change_rows(folder, **changes):
    for path in folder.glob("*/result.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_steps_are_the_budget_where_they_end_a_run(tmp_path):
    whole, cut = folder_of(tmp_path / "a", 10, eca=61), folder_of(tmp_path / "b", 50, eca=61, max_steps=200)
    change_rows(cut, max_steps=200)  # the ResNet's, too
    assert [each.label for each in read_conditions([whole, cut])] == ["200 steps", "10 epochs"]


def test_the_report_is_of_the_largest_budget_with_a_chart_of_all(tmp_path):
    folders = [folder_of(tmp_path / "long", 50, eca=58), folder_of(tmp_path / "short", 5, eca=63)]
    report.main([*map(str, folders), "--out", str(tmp_path / "out")])
    text = (tmp_path / "out" / "report.md").read_text()
    assert text.split("\n\n")[1].startswith("After 50 epochs")
    section = text.split("### Effect of the budget")[1].split("\n### ")[0]
    assert "- eca_resnet: from helps to hurts; its mean changes sign" in section
    assert "(budgets.png)" in section and (tmp_path / "out" / "budgets.png").exists()
    with blank_charts():
        report.main([str(folders[0]), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out" / "budgets.png").exists()


def test_a_method_of_one_folder_alone_is_not_in_the_chart(tmp_path):
    both = folder_of(tmp_path / "a", 5, eca=63), folder_of(tmp_path / "b", 50, eca=62)
    write(tmp_path / "b" / "more", rows_of("gmlp_resnet", 61, epochs=50))
    assert set(shared_methods(read_conditions(both))) == {"eca_resnet", "ghostnet_resnet"}


@blank_charts()
def test_own_recipes_are_told_from_one_recipe_for_all(tmp_path):
    """At one budget: ECA with a learning rate of its own, and with the baseline's."""
    own, one = folder_of(tmp_path / "own", 5, eca=63, lr=0.05), folder_of(tmp_path / "one", 5, eca=61)
    conditions = read_conditions([own, one])
    assert [each.label for each in conditions] == ["5 epochs, one recipe", "5 epochs, own recipes"]
    assert [row[0] for row in budget_table(conditions)[1:]] == ["eca_resnet", "ghostnet_resnet"]
    report.main([str(own), str(one), "--out", str(tmp_path / "out")])
    text = (tmp_path / "out" / "report.md").read_text()
    assert "\n### Effect of the recipe\n" in text and "\n### Recipes\n" in text


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (rows_of("resnet", 60, epochs=9, dataset="cifar10") + rows_of("eca_resnet", 61, epochs=9, dataset="cifar10"),
         "one chart cannot show two datasets: dataset is shapes100 in "),
        (rows_of("resnet", 60, epochs=9) + rows_of("gmlp_resnet", 61, epochs=9), "share no method that was trained with its baseline"),
        (rows_of("eca_resnet", 61, epochs=9), "share no method that was trained with its baseline in each"),
        (rows_of("resnet", 60, epochs=5) + rows_of("eca_resnet", 61, epochs=5), "have the same budget"),
    ],
)  # fmt: skip
def test_folders_that_make_no_common_chart_are_refused(rows, message, tmp_path, capsys):
    folders = [folder_of(tmp_path / "a", 5, eca=63), write(tmp_path / "b", rows)]
    refused_folders(folders, tmp_path, capsys, message)


def test_several_folders_and_recipes_do_not_mix(tmp_path, capsys):
    folders = [folder_of(tmp_path / "a", 5, eca=63), folder_of(tmp_path / "b", 9, eca=63)]
    refused_folders(
        [*folders, "--recipes"],
        tmp_path,
        capsys,
        "--recipes and costs.json make a report of one folder or file: give one at a time",
    )
