from tests.reports import (  # skips this file where report.py's packages are missing
    blank_charts,
    make,
    refused_folders,
    slide_texts,
)

# isort: split
import pytest

import report
from team import read_team
from tests.report_rows import row, write

TEAM = """
title = "A module for the ResNet"
course = "Deep Learning"
date = 2026-11-27
[[members]]
name = "Ada"
did = "the attention modules"
[[members]]
name = "Ben"
did = "the convolutions"
"""


def test_a_team_is_read(tmp_path):
    (tmp_path / "team.toml").write_text(TEAM, encoding="utf-8-sig")  # as Windows' editors write it
    team = read_team(tmp_path / "team.toml")
    assert team.byline == "Ada and Ben. Deep Learning. 2026-11-27"
    assert team.members == (("Ada", "the attention modules"), ("Ben", "the convolutions"))


@blank_charts()
def test_the_team_stands_in_report_and_slides(campaign, tmp_path):
    (tmp_path / "team.toml").write_text(TEAM)
    write(tmp_path / "runs", campaign)
    report.main([str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--team", str(tmp_path / "team.toml")])
    text = (tmp_path / "out" / "report.md").read_text()
    assert text.startswith("# A module for the ResNet\n") and "\n*Ada and Ben. Deep Learning. 2026-11-27*\n" in text
    assert text.endswith("## Contributions\n\n- Ada: the attention modules\n- Ben: the convolutions\n")
    slides = slide_texts(tmp_path / "out" / "slides.pptx")
    assert slides[0][0] == "A module for the ResNet" and "Ada and Ben. Deep Learning. 2026-11-27" in slides[0][1][0]
    assert "Ada: the attention modules" in " ".join(dict(slides)["Contributions"])


def test_without_a_team_nothing_is_invented(campaign, tmp_path):
    assert "Contributions" not in make(campaign, tmp_path)
    assert "Contributions" not in dict(slide_texts(tmp_path / "report" / "slides.pptx"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("title = 'x'", "missing field members; allowed are title, course, date and members"),
        (TEAM.replace('name = "Ada"\n', ""), "missing field name; allowed are name and did"),
        (TEAM.replace('did = "the convolutions"', ""), "missing field did"),
        ("colour = 'red'\n" + TEAM, "unknown field colour; allowed are title, course, date and members"),
        (TEAM.replace('name = "Ben"', 'name = "Ben"\nage = "3"'), "unknown field age; allowed are name and did"),
        (TEAM.replace('"Ada"', "3"), "name must be text, got 3"),
        (TEAM.replace('"Ada"', '" "'), "name must be text, got ' '"),
        (TEAM.replace('"Deep Learning"', "2026-11-27"), "course must be text, got "),
        ("members = []", "members must be one or more [[members]] tables"),
        ("members = ['Ada']", "members must be one or more [[members]] tables"),
        ("title = ", "cannot be used: "),
    ],
)
def test_a_bad_team_is_refused_in_one_line(content, message, tmp_path, capsys):
    (tmp_path / "team.toml").write_text(content)
    folder = write(tmp_path / "runs", [row()])
    refused_folders([folder, "--team", tmp_path / "team.toml"], tmp_path, capsys, message)


def test_recipes_have_no_team(tmp_path, capsys):
    (tmp_path / "team.toml").write_text(TEAM)
    folder = write(tmp_path / "runs", [row()])
    refused_folders(
        [folder, "--recipes", "--team", tmp_path / "team.toml"], tmp_path, capsys, "--team is for the report"
    )


def test_a_team_that_is_not_there_is_refused(tmp_path, capsys):
    folder = write(tmp_path / "runs", [row()])
    refused_folders([folder, "--team", tmp_path / "none.toml"], tmp_path, capsys, "none.toml cannot be used: ")
