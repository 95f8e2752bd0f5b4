import pptx

from tests.reports import make, table_after  # skips this file where report.py's packages are missing

# isort: split
from models import METHODS
from slides import CHARACTER, LINE, font_that_fits, readme_lines


def slide_texts(path):
    """[(title, texts of its paragraphs and table cells)] of every slide."""
    found = []
    for slide in pptx.Presentation(path).slides:
        texts = [shape.text_frame.text for shape in slide.shapes if shape.has_text_frame]
        cells = [cell.text for shape in slide.shapes if shape.has_table for r in shape.table.rows for cell in r.cells]
        found.append((texts[0], [*texts[1:], *cells]))
    return found


def test_slides_hold_the_numbers_in_the_assignments_order(campaign, tmp_path):
    text = make(campaign, tmp_path)
    slides = slide_texts(tmp_path / "report" / "slides.pptx")
    titles = [title for title, _ in slides]
    order = ("Goal", "The ResNet", "Design", "Results", "Efficiency", "Ablations", "What helped", "Limits")
    starts = [next(i for i, title in enumerate(titles) if title.startswith(word)) for word in order]
    assert starts == sorted(starts)
    by_title = dict(slides)
    for heading, title in (
        ("## Verdicts", "Results: verdicts"),
        ("## All networks", "Results: all networks"),
        ("## Equal cost", "Efficiency: points over a ResNet of equal cost"),
        ("## Ablations of eca_resnet", "Ablations of eca_resnet"),
    ):
        for first, cells in table_after(text, heading).items():
            if first != "---":
                assert {first, *cells} <= set(by_title[title]), first
    lines = dict(
        zip(by_title["The ResNet and the methods"][::3], by_title["The ResNet and the methods"][2::3], strict=True)
    )
    assert lines["eca"] == readme_lines()["eca"][1]
    assert "Helps: eca_resnet +3.00 ± " in " ".join(by_title["What helped and what did not"])


def test_nothing_on_a_slide_leaves_it(campaign, tmp_path):
    make(campaign, tmp_path)
    deck = pptx.Presentation(tmp_path / "report" / "slides.pptx")
    for slide in deck.slides:
        for shape in slide.shapes:
            height = sum(r.height for r in shape.table.rows) if shape.has_table else shape.height
            assert shape.left + shape.width <= deck.slide_width and shape.top + height <= deck.slide_height


def test_font_shrinks_until_the_text_fits():
    assert font_that_fits(["short"], 12, 5) == 24
    small = font_that_fits(["word " * 400], 12, 5)
    assert 9 < small < 24
    assert 2000 / (72 * 12 / (CHARACTER * small)) * LINE * small <= 72 * 5


def test_the_readme_has_a_line_for_every_method():
    assert set(readme_lines()) == set(METHODS)
