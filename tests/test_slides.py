from tests.reports import make, slide_texts, table_after  # skips this file where report.py's packages are missing

# isort: split
from types import SimpleNamespace
from zipfile import ZipFile

import numpy as np
import pptx
import pytest

from slides import (
    CHARACTER,
    LARGEST,
    LINE,
    Deck,
    answer_lines,
    fair_lines,
    font_that_fits,
    with_short_cells,
    word_columns,
)
from tests.report_rows import JITTER, SEEDS, campaign_rows, rows_of, timed, widths
from verdicts import analyse

MOST_SLIDES, MOST_WORDS = 12, 40


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The report of the campaign on CIFAR-100 with two modules together: the talk has all of its slides."""
    rows = [*campaign_rows(), *rows_of("eca_ghostnet_resnet", 60, jitter=-JITTER)]
    rng = np.random.default_rng(0)
    for content in rows:
        per_class = rng.uniform(content["top1"] - 5, content["top1"], 100).tolist()
        content |= {"dataset": "cifar100", "classes": 100, "per_class_top1": per_class}
    folder = tmp_path_factory.mktemp("made")
    text = make(rows, folder, timed(rows), drawn=True)
    return SimpleNamespace(
        folder=folder / "report", text=text, rows=rows, deck=deck_of(folder), slides=slides_of(folder)
    )


def deck_of(folder):
    return pptx.Presentation(folder / "report" / "slides.pptx")


def slides_of(folder):
    return slide_texts(folder / "report" / "slides.pptx")


def talk(slides):
    """The slides before the appendix."""
    return [(title, texts) for title, texts in slides if not title.startswith("Appendix")]


def test_nothing_unfinished_is_left(made):
    assert not list(made.folder.glob("*.tmp"))


def test_the_talk_is_in_order_and_the_appendix_last(made):
    titles = [title for title, _ in made.slides]
    n_talk = len(talk([(title, ()) for title in titles]))
    assert titles[:n_talk] == [
        "Which module is worth adding to a ResNet?", "Which module is worth adding?", "The ResNet", "Where each method goes",
        "A fair comparison", "Differences from the baseline", "Accuracy against parameters", "Ablations",
        "What helped and what did not", "Limits and future work",
    ]  # fmt: skip
    assert n_talk + 2 <= MOST_SLIDES  # budgets and contributions
    assert all(title.startswith("Appendix: ") for title in titles[n_talk:])


def test_without_methods_the_cost_charts_are_in_the_appendix(tmp_path):
    make(widths(), tmp_path)
    titles = [title for title, _ in slides_of(tmp_path)]
    assert {"Appendix: top-1 against parameters", "Appendix: top-1 against MACs"} <= set(titles)


def test_what_the_talk_says(made):
    slides = dict(made.slides)
    assert slides["Which module is worth adding?"][0].split("\n") == [
        "1 of 5 helps: ECA +3.00 ± 0.16 points.",
        "1 is not clearly ahead of a wider ResNet, 1 hurts, 2 show no evidence.",
        "After 10 epochs; longer training may change this.",
    ]
    assert slides["What helped and what did not"] == [
        "helps", "ECA", "no better than widening", "HorNet", "no evidence", "ECA + GhostNet\nGhostNet", "hurts", "gMLP",
    ]  # fmt: skip
    assert slides["Limits and future work"][0].split("\n") == [
        "One dataset, 10 epochs",
        "Differences below 0.3 to 0.7 points may go unnoticed",
        "One recipe for all, not each method's own",
        "Next: longer training, more seeds, a second dataset",
    ]


def test_the_same_rows_give_the_same_file_at_any_time(made):
    with ZipFile(made.folder / "slides.pptx") as parts:
        assert {part.date_time for part in parts.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_a_slide_of_the_talk_has_few_words(made):
    """Words in text boxes; those inside drawings and charts are theirs."""
    for title, texts in talk(made.slides):
        n_words = len(" ".join([title, *texts]).split())
        assert 0 < n_words <= MOST_WORDS, title


def test_the_appendix_holds_the_reports_tables(made):
    by_title = dict(made.slides)
    for heading, title in (
        ("### Verdicts", "verdicts"),
        ("### All networks", "all networks"),
        ("### Equal cost", "points over a ResNet of equal cost"),
        ("### Two modules together", "two modules together"),
        ("### Ablations of eca_resnet", "ablations of eca_resnet"),
    ):
        for first, cells in table_after(made.text, heading).items():
            if first != "---":
                assert {first, *cells} <= set(by_title[f"Appendix: {title}"]), first


def test_the_notes_hold_the_numbers_behind_a_slide(made):
    answer = made.text.split("\n\n")[1]
    notes = {}
    for slide in made.deck.slides:
        if slide.has_notes_slide:
            notes[slide.shapes[0].text_frame.text] = slide.notes_slide.notes_text_frame.text
    assert notes["Which module is worth adding?"].splitlines()[:4] == answer.replace(". ", ".\n").splitlines()
    assert "helps: ECA +3.00 ± " in notes["Differences from the baseline"]
    assert (
        "ECA: +3.00 ± " in notes["Accuracy against parameters"]
        and "at equal MACs" in notes["Accuracy against parameters"]
    )
    assert "eca_resnet: eca.kernel_size=9 (-2.00 ± " in notes["Ablations"]
    results = analyse(made.rows)
    top1 = results.top1(next(net for net in results.nets if net.name == "resnet"))
    assert f"resnet: top-1 {top1.mean:.2f} ± {top1.half:.2f} %" in notes["The ResNet"]
    assert "ECA (Wang et al., ECA-Net, CVPR 2020): Weights each channel" in notes["Where each method goes"]


def test_nothing_on_a_slide_leaves_it(made):
    deck = made.deck
    for slide in deck.slides:
        for shape in slide.shapes:
            height = sum(r.height for r in shape.table.rows) if shape.has_table else shape.height
            assert shape.left >= 0 and shape.top >= 0
            assert shape.left + shape.width <= deck.slide_width and shape.top + height <= deck.slide_height


def test_words_and_charts_of_the_talk_can_be_read_from_the_last_row(made):
    """Text of the talk has 18 points at least, and its charts are wide."""
    for slide in made.deck.slides:
        texts = [shape for shape in slide.shapes if shape.has_text_frame]
        if texts[0].text_frame.text.startswith("Appendix"):
            break
        for shape in texts:
            assert all(p.font.size.pt >= 18 for p in shape.text_frame.paragraphs), texts[0].text_frame.text


@pytest.mark.parametrize("archs", [("resnet",), ("resnet", "plain20", "plain56", "resnet56"), ("vit",)])
def test_a_report_without_methods_has_slides_all_the_same(archs, tmp_path):
    make([content for arch in archs for content in rows_of(arch, 60)], tmp_path)
    titles = [title for title, _ in slides_of(tmp_path)]
    assert "Limits and future work" in titles and "Differences from the baseline" not in titles


def test_font_shrinks_until_the_text_fits():
    assert font_that_fits(["short"], 12, 5) == LARGEST
    small = font_that_fits(["word " * 400], 12, 5)
    assert 9 < small < LARGEST
    assert 2000 / (72 * 12 / (CHARACTER * small)) * LINE * small <= 72 * 5


@pytest.mark.parametrize(
    ("archs", "title", "is_drawn"),
    [
        (("alexnet", "resnet18", "multiscale_resnet18"), "The ResNet", True),
        (("plain20", "eca_plain20", "resnet", "eca_resnet"), "The ResNet", True),
        (("resnet50", "eca_resnet50"), "The ResNet", False),  # its blocks are bottlenecks
        (("plain20", "eca_plain20"), "The baseline: plain20", False),
    ],
)
def test_the_baseline_is_one_that_was_compared_with(archs, title, is_drawn, tmp_path):
    text = make([content for arch in archs for content in rows_of(arch, 60)], tmp_path)
    titles = [slide.shapes[0].text_frame.text for slide in deck_of(tmp_path).slides]
    (slide,) = [slide for slide in deck_of(tmp_path).slides if slide.shapes[0].text_frame.text == title]
    assert any(hasattr(shape, "shapes") for shape in slide.shapes) == is_drawn
    assert sum(each.startswith(("The ResNet", "The baseline")) for each in titles) == 1
    assert ("are bottlenecks" in text) == ("resnet50" in archs)


def test_the_talk_counts_what_helps():
    means = [("eca_resnet", 63), ("se_resnet", 62)], [("eca_resnet", 57), ("gmlp_resnet", 56)]
    both, none = (
        answer_lines(
            analyse(
                rows_of("resnet", 60)
                + [content for arch, mean in nets for content in rows_of(arch, mean, jitter=-JITTER)]
            )
        )
        for nets in means
    )
    assert both[0] == "2 of 2 help: ECA and SE."
    assert none[:2] == ["Neither method is shown to help.", "Both hurt."]


def test_the_talk_says_whose_seeds_are_the_same():
    rows = rows_of("resnet", 60) + rows_of("eca_resnet", 63, jitter=-JITTER)
    same = ["Same data, same 10 epochs, one recipe", "Same seeds for everything compared: 0, 1, 2 and 3"]
    assert fair_lines(analyse(rows), SEEDS) == same
    rows += rows_of("se_resnet", 61, seeds=(0,))
    assert fair_lines(analyse(rows), SEEDS)[1] == "Seeds 0, 1, 2 and 3; some networks lack some"


def test_a_long_table_goes_on_on_the_next_slide():
    deck = Deck()
    deck.table("All", [["name"], *([str(i)] for i in range(20))])
    tables = [shape.table for slide in deck.file.slides for shape in slide.shapes if shape.has_table]
    found = [[row.cells[0].text for row in table.rows] for table in tables]
    assert found == [["name", *map(str, range(10))], ["name", *map(str, range(10, 20))]]
    assert [slide.shapes[0].text_frame.text for slide in deck.file.slides] == ["All", "All (continued)"]


def test_networks_that_do_not_fit_are_counted():
    archs = [f"{method}_resnet" for method in ("eca", "se", "ghostnet", "gmlp", "mixer", "cspnet")]
    rows = [content for arch in archs for content in rows_of(arch, 63, jitter=-JITTER)]
    ((word, names),) = word_columns(analyse(rows_of("resnet", 60) + rows))
    assert word == "helps" and len(names) == 5 and names[4] == "and 2 more"
    assert with_short_cells([["networks"], [", ".join(archs)]]) == [["networks"], ["6 networks"]]


def test_a_method_in_each_slot_fits_its_slide(tmp_path):
    methods = ("productpool", "eca", "cspnet", "ghostnet", "gmlp")
    archs = ("resnet", *(f"{method}_resnet" for method in methods))
    make([content for arch in archs for content in rows_of(arch, 60)], tmp_path)
    deck = deck_of(tmp_path)
    (slide,) = [s for s in deck.slides if s.shapes[0].text_frame.text == "Where each method goes"]
    assert sum(hasattr(shape, "shapes") for shape in slide.shapes) == 5
    for shape in slide.shapes:
        assert shape.left + shape.width <= deck.slide_width and shape.top + shape.height <= deck.slide_height


@pytest.mark.parametrize(("archs", "stages"), [(("gmlp_resnet",), 1), (("gmlp_resnet", "convnext_resnet"), 4)])
def test_methods_of_the_third_stage_are_drawn_there(archs, stages, tmp_path):
    make([content for arch in ("resnet", *archs) for content in rows_of(arch, 60)], tmp_path)
    (slide,) = [s for s in deck_of(tmp_path).slides if s.shapes[0].text_frame.text == "Where each method goes"]
    drawings = [shape.shapes for shape in slide.shapes if hasattr(shape, "shapes")]
    texts = [shape.text_frame.text for shapes in drawings for shape in shapes if shape.has_text_frame]
    assert texts.count("module") == stages and texts.count("basic blocks") == 2
    lines = [shape.text_frame.text for shape in slide.shapes if shape.has_text_frame]
    assert lines[lines.index("Blocks of the third stage") + 1] == "gMLP"
