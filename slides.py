"""slides.pptx: the report as a talk."""

import math
import re
import textwrap
from pathlib import Path

from pptx import Presentation
from pptx.util import Inches, Pt

from answer import opening, verdict_lists
from provenance import bias_text, left_out_text, speed_text
from rows import family_and_depth, in_list
from tables import ablation_table, depth_table, equal_cost_table, folds_table, main_table, verdict_table

SLIDE, MARGIN, TOP = (13.333, 7.5), 0.5, 1.3  # inches
BOX = (SLIDE[0] - 2 * MARGIN, SLIDE[1] - TOP - 0.4)
ROWS_PER_SLIDE = 15
CHARACTER = 0.55  # mean width of a character, and
LINE = 1.25  # height of a line, as parts of the font's size


def readme_lines():
    """What the README's table says of each method: {method: (paper, in a line)}."""
    text = (Path(__file__).parent / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| \w+ \| \[(.+?)\]\(.+?\) \| (.+?) \|$", text, re.MULTILINE)
    return {method: (paper, line.replace("`", "")) for method, paper, line in rows}


def font_that_fits(paragraphs, width, height, largest=24):
    """The largest font in points, down to 9, at which the paragraphs fit a box of width x height inches."""
    for points in range(largest, 9, -1):
        per_line = int(72 * width / (CHARACTER * points))
        n_lines = sum(max(1, len(textwrap.wrap(text, per_line))) + 0.4 for text in paragraphs)
        if n_lines * LINE * points <= 72 * height:
            return points
    return 9


class Deck:
    """Slides with a title and one thing below it: text, a table or a chart."""

    def __init__(self):
        self.file = Presentation()
        self.file.slide_width, self.file.slide_height = (Inches(side) for side in SLIDE)

    def slide(self, title):
        slide = self.file.slides.add_slide(self.file.slide_layouts[6])  # of the default template: blank
        self.write(slide, [title], (MARGIN, 0.4, BOX[0], 0.8), largest=32, bold=True)
        return slide

    def write(self, slide, paragraphs, box, largest=24, bold=False):
        frame = slide.shapes.add_textbox(*(Inches(side) for side in box)).text_frame
        frame.word_wrap = True
        size = font_that_fits(paragraphs, box[2] - 0.2, box[3] - 0.1, largest)
        for i, text in enumerate(paragraphs):
            paragraph = frame.paragraphs[0] if i == 0 else frame.add_paragraph()
            paragraph.text = text.replace(" -", " \N{MINUS SIGN}")  # a hyphen would end lines
            paragraph.font.size, paragraph.font.bold, paragraph.space_after = Pt(size), bold, Pt(0.4 * size)

    def text(self, title, paragraphs):
        self.write(self.slide(title), paragraphs, (MARGIN, TOP, *BOX))

    def chart(self, title, path):
        slide = self.slide(title)
        slide.shapes.add_picture(str(path), Inches(MARGIN), Inches(TOP), width=Inches(BOX[0]))

    def table(self, title, table):
        """A table, on as many slides as it needs."""
        header, *rows = table
        per_slide = math.ceil(len(rows) / math.ceil(len(rows) / ROWS_PER_SLIDE)) if rows else 1
        for start in range(0, len(rows), per_slide):
            part = [header, *rows[start : start + per_slide]]
            slide = self.slide(title + " (continued)" * (start > 0))
            longest = [max(len(row[column]) for row in part) + 2 for column in range(len(header))]
            size = min(16, 72 * BOX[0] / (CHARACTER * sum(longest)), 72 * BOX[1] / len(part) / 1.9)
            grid = slide.shapes.add_table(
                len(part), len(header), *(Inches(side) for side in (MARGIN, TOP, BOX[0], 0.1))
            ).table
            for column, length in enumerate(longest):
                grid.columns[column].width = Inches(BOX[0] * length / sum(longest))
            for i, row in enumerate(part):
                grid.rows[i].height = Pt(1.9 * size)
                for column, text in enumerate(row):
                    cell = grid.cell(i, column)
                    cell.text = text
                    cell.text_frame.paragraphs[0].font.size = Pt(size)
                    cell.margin_left = cell.margin_right = Pt(0.5 * size)
                    cell.margin_top = cell.margin_bottom = Pt(0.2 * size)


def design_text(results):
    row, seeds = results.row, sorted({seed for net in results.nets for seed in net.seeds})
    scored = "once, after the last epoch" if row["n_val"] else "after every epoch, and the last epoch counts"
    lines = [
        f"{row['dataset']}: {row['classes']} classes, {row['n_train']:,} images to train on, {row['n_val']:,} held out, "
        f"{row['n_test']:,} to test. The test set is scored {scored}.",
        f"One recipe for all: {row['epochs']} epochs, {row['batch_size']} images a step, seeds {in_list(seeds)}.",
    ]
    for backbone, curve in results.curves.items():
        if len(curve) > 1:
            widths = in_list([net.width for net in curve])
            lines.append(
                f"{backbone} at widths {widths}: methods are compared with it at equal parameters, MACs and time."
            )
    if results.judged:
        lines.append(f"Differences are paired by seed, with Holm's correction over {len(results.judged)} methods.")
    return [*lines, speed_text(results)]


def limits_text(results):
    lines = [
        opening(results)[-1],
        f"One dataset ({results.row['dataset']}) and one recipe for all methods; several were published with another "
        "optimizer, and a recipe tuned to a method may rank it higher.",
        "Distances at equal cost are not corrected for their number; only differences to the baseline are.",
        bias_text(results),
    ]
    outside = [r.net.arch for r in results.methods if any(gap.why == "outside the curve" for gap in r.gaps.values())]
    if outside:
        lines += [
            f"Outside the trained widths at some cost: {in_list(outside)}; wider or narrower ResNets would tell more."
        ]
    left_out = left_out_text(results)
    lines += [f"Left out: {'; '.join(left_out)}."] if left_out else []
    future = (
        "Future work: more seeds where the detectable difference is large, a second dataset, and a recipe per method."
    )
    return [*lines, future]


def write_slides(path, results, charts):
    """slides.pptx: goal, methods, design, results, efficiency, ablations, what helped, limits."""
    deck, lines = Deck(), readme_lines()
    out = path.parent
    deck.text("Goal: which published module is worth adding to a ResNet?", opening(results))

    used = sorted({method for net in results.nets for method in net.arch.split("_")[:-1]})
    table = [["module", "paper", "in a line"]]
    for net in results.nets:
        if net.on_curve and not net.settings:
            size = f"{net.costs['parameters']:,} parameters, {net.costs['MACs'] / 1e6:.1f} million MACs"
            family = family_and_depth(net.arch)
            kind = {"resnet": "a ResNet: ", "plain": "a ResNet without its shortcuts: "}[family[0]] if family else ""
            table.append([net.arch, "Deep Residual Learning" if family else "", kind + size])
    deck.table("The ResNet and the methods", table + [[m, *lines[m]] for m in used if m in lines])
    deck.text("Design", design_text(results))

    if results.methods:
        deck.table("Results: verdicts", verdict_table(results))
    for name in [name for name in charts if name == "differences"]:
        deck.chart(charts[name], out / f"{name}.png")
    deck.table("Results: all networks", main_table(results))
    if depths := depth_table(results):
        deck.table("Results: depth with and without shortcuts", depths)
    if folds := folds_table(results):
        deck.table(f"Results: cross-validation with {results.row['folds']} folds", folds)
    for name in [name for name in charts if name in ("learning", "superclasses")]:
        deck.chart(charts[name], out / f"{name}.png")

    if results.methods and results.has_curve:
        deck.table("Efficiency: points over a ResNet of equal cost", equal_cost_table(results))
    for name in [name for name in charts if name.startswith("cost_")]:
        deck.chart("Efficiency: " + charts[name].replace("T", "t", 1), out / f"{name}.png")
    for arch, comparisons in results.ablations.items():
        deck.table(f"Ablations of {arch}", ablation_table(arch, comparisons, results))
    deck.text("What helped and what did not", [f"{word}: {names}" for word, names in verdict_lists(results)])
    deck.text("Limits and future work", limits_text(results))
    deck.file.save(path)
