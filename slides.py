"""slides.pptx: a talk of 8 to 10 minutes, at most twelve slides, and an appendix with the tables.

A slide has at most 40 words; its numbers are in the speaker's notes.
"""

import math
import os
import textwrap
from io import BytesIO
from itertools import pairwise
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from pptx import Presentation
from pptx.dml.color import RGBColor
from pptx.enum.shapes import MSO_CONNECTOR, MSO_SHAPE
from pptx.enum.text import MSO_ANCHOR, PP_ALIGN
from pptx.oxml.ns import qn
from pptx.util import Inches, Pt

from budgets import UNCHANGED, changes, what_differs
from charts import chart_of, draw_ablations, draw_budgets, draw_cost, draw_differences, notable_ablations, render
from drawings import (
    LINE_COLOUR,
    MODULE_COLOUR,
    PLAIN_COLOUR,
    SIZE,
    THIRD_STAGE_ONLY,
    Arrow,
    around_a_stage,
    residual_block,
    stages,
)
from names import family_and_depth, has_bottlenecks
from notes import (
    bias_text,
    dataset_of,
    design_table,
    have_same_seeds,
    latency_text,
    left_out_text,
    modules_of,
    noise_text,
    speed_text,
)
from rows import COSTS, epochs_of, in_list
from sentences import (
    ablation_sentence,
    all_of_one_word,
    best_methods,
    cost_sentence,
    detectables,
    ends_of,
    first_few,
    opening,
    power_sentence,
    readable,
    verdict_counts,
    verdict_lists,
)
from tables import (
    ablation_table,
    budget_table,
    depth_table,
    equal_cost_table,
    folds_table,
    interaction_table,
    main_table,
    pm,
    recipes_table,
    top1_cell,
    verdict_table,
)
from team import title_of

SLIDE, MARGIN, TOP = (13.333, 7.5), 0.5, 1.4  # inches
BOX = (SLIDE[0] - 2 * MARGIN, SLIDE[1] - TOP - 0.4)
LARGEST, CHART_FONT = 30, 18  # points: of text, and in charts, so that the last row can read them
ROWS_PER_SLIDE = 15
CHARACTER = 0.6  # width of a character per font size; generous, as fonts differ between programs
LINE = 1.25  # height of a line per font size
SLOTS = {  # slot -> (what a module of it replaces or adds, drawing)
    "conv": ("Convolution", residual_block("module", "module")),
    "attention": ("Attention before the add", residual_block(attention="module")),
    "block": ("Whole block", stages("module")),
    "stage": ("Whole stage", around_a_stage("part of the channels")),
    "pool": ("Pooling before the classifier", stages("module", first=4)),
}
MOST_CHARACTERS = 60  # in a cell that lists networks
NAMES_PER_WORD = 4  # methods listed under a word; the notes have the rest


def write_slides(path, results, charts, team, conditions):
    """Writes the talk and its appendix; the appendix takes the pictures of `charts` from path's folder."""
    deck, seeds = Deck(), sorted({seed for net in results.nets for seed in net.seeds})
    row = results.row
    budget = f"{dataset_of(row)}, {epochs_of(row)}, {len(seeds)} seed{'s' * (len(seeds) > 1)}"
    deck.cover(title_of(team), [*([team.byline] if team else []), budget])
    deck.text(
        "Which module is worth adding?",
        answer_lines(results),
        notes="\n".join([*opening(results), *word_lines(results)]),
    )
    resnet_slide(deck, results)
    methods_slide(deck, results)
    deck.text("A fair comparison", fair_lines(results, seeds), notes=fair_notes(results))
    if "differences" in charts:
        deck.chart("Differences from the baseline", draw_differences, results, notes="\n".join(word_lines(results)))
    cost = best_cost(results, charts)
    if cost:
        deck.chart(f"Accuracy against {cost}", draw_cost, results, cost, notes=cost_notes(results))
    if len(conditions) > 1:
        title = f"What the {what_differs(conditions)} changes"
        deck.chart(title, draw_budgets, conditions, notes=budget_notes(conditions))
    if notable_ablations(results):
        deck.chart("Ablations", draw_ablations, results, notes=ablation_notes(results))
    if results.judged:
        deck.columns("What helped and what did not", word_columns(results), notes="\n".join(word_lines(results)))
    deck.text("Limits and future work", limit_lines(results), notes=limit_notes(results))
    if team:
        deck.text("Contributions", [f"{name}: {did}" for name, did in team.members])
    appendix(deck, results, charts, path.parent)
    save(deck.file, path)


def save(presentation, path):
    """Writes the slides without the archive's timestamps, so that the same rows give the same file."""
    made = BytesIO()
    presentation.save(made)
    unfinished = path.with_suffix(".tmp")
    with ZipFile(made) as parts, ZipFile(unfinished, "w") as file:
        for part in parts.infolist():
            file.writestr(ZipInfo(part.filename), parts.read(part), ZIP_DEFLATED)
    os.replace(unfinished, path)  # board.py takes a report with slides as complete


def answer_lines(results):
    """The answer in at most three lines."""
    if not results.judged:
        return opening(results)[:1]
    helps, n_judged = results.by_word("helps"), len(results.judged)
    counts = [phrase.split(" (")[0].removesuffix(" either way") for phrase in verdict_counts(results)]
    rest = [f"{', '.join(counts)}."] if counts else []
    if len(helps) == 1:
        helped = f"1 of {n_judged} helps: {best_methods(helps)} points."
    elif helps:
        helped = f"{len(helps)} of {n_judged} help: {first_few([readable(result.net) for result in helps])}."
    else:
        helped = f"{readable(results.judged[0].net)} is not shown to help."
        if n_judged > 1:
            none = "Neither method" if n_judged == 2 else f"None of the {n_judged} methods"
            helped = f"{none} is shown to help."
        if len(counts) == 1:
            rest = [all_of_one_word(counts[0], n_judged)]
    return [helped, *rest, f"After {epochs_of(results.row)}; longer training may change this."]


def word_lines(results):
    return [f"{word}: {names}" for word, names in verdict_lists(results)]


def word_columns(results):
    """[(word, names of its methods)], the best first and the rest counted."""
    found = []
    for word, _ in verdict_lists(results):
        names = [readable(result.net) for result in results.by_word(word)]
        rest = [f"and {len(names) - NAMES_PER_WORD} more"] if len(names) > NAMES_PER_WORD else []
        found.append((word, names[:NAMES_PER_WORD] + rest))
    return found


def resnet_slide(deck, results):
    """The baseline's block and its size."""
    baselines = [net for net in results.nets if net.on_curve and not net.settings]
    if not baselines:
        return
    used = [result.reference for result in results.methods if result.reference] or baselines
    net = next((each for each in used if each.arch == "resnet"), used[0])
    kind, depth = family_and_depth(net.arch) or ("", 0)
    layers = f"{depth} layers, " if depth else ""
    size = f"{layers}{net.costs['parameters']:,} parameters, {net.costs['MACs'] / 1e6:.1f} million MACs"
    title = "The ResNet" if kind == "resnet" else f"The {'baseline' if results.methods else 'network'}: {net.arch}"
    notes = "\n".join(f"{each.arch}: top-1 {top1_cell(results, each)} %" for each in baselines)
    if kind == "resnet" and not has_bottlenecks(net.arch):
        deck.drawings(title, [(residual_block(), "A block adds what it computes to its input.", size)], notes=notes)
    else:
        deck.text(title, [size], notes=notes)


def methods_slide(deck, results):
    """Where each method goes: a drawing per slot, and one for blocks of the third stage only, each with its methods' names."""
    modules = modules_of(results.networks)
    parts = []
    for slot, (heading, shapes) in SLOTS.items():
        names = {m: module.name.removesuffix(" attention") for m, module in modules.items() if module.slot == slot}
        late = [names.pop(method) for method in THIRD_STAGE_ONLY if method in names]
        if late:
            parts.append((stages("module", first=3), "Blocks of the third stage", ", ".join(late)))
        if names:
            parts.append((shapes, heading, ", ".join(names.values())))
    if parts:
        notes = "\n".join(f"{module.name} ({module.paper}): {' '.join(module.lines)}" for module in modules.values())
        deck.drawings("Where each method goes", parts, notes=notes)


def fair_lines(results, seeds):
    recipe = "each its own recipe" if results.own_recipes else "one recipe"
    used = f"Seeds {in_list(seeds)}; some networks lack some"
    if have_same_seeds(results):
        used = f"Same seeds for everything compared: {in_list(seeds)}"
    lines = [f"Same data, same {epochs_of(results.row)}, {recipe}", used]
    if results.has_curve and results.methods:
        lines.append("Against the ResNet, and against ResNets of equal cost")
    if len(results.judged) > 1:
        lines.append(f"Corrected for {len(results.judged)} comparisons")
    return lines


def fair_notes(results):
    told = [f"{part}: {value}" for part, value in design_table(results)[1:]]
    told += [noise_text(results), speed_text(results), latency_text(results.cost_pass)]
    return "\n".join(text for text in told if text)


def best_cost(results, charts):
    """The cost at which most methods can be compared with the curve; on ties, the first in COSTS. None without methods or
    charts."""
    drawn = [cost for cost in COSTS if results.methods and chart_of(cost) in charts]

    def n_compared(cost):
        return sum(not result.gaps[cost].why for result in results.methods if cost in result.gaps)

    return max(drawn, key=n_compared) if drawn else None


def cost_notes(results):
    lines = [cost_sentence(results)]
    for result in results.methods:
        gaps = [f"{pm(gap.mean, gap.half, '+')} at equal {cost}" for cost, gap in result.gaps.items() if not gap.why]
        lines += [f"{readable(result.net)}: {', '.join(gaps)}"] if gaps else []
    return "\n".join(lines)


def budget_notes(conditions):
    told = [f"{name}: {what}" for name, what in changes(conditions)] or [UNCHANGED]
    return "\n".join([*told, *("; ".join(row) for row in budget_table(conditions))])


def ablation_notes(results):
    return "\n".join(f"{arch}: {ablation_sentence(arch, compared)}" for arch, compared in results.ablations.items())


def limit_lines(results):
    lines = [f"One dataset, {epochs_of(results.row)}"]
    if sizes := detectables(results.judged):
        which = "of any size" if min(sizes) > 100 else f"below {ends_of(sizes)} points"
        lines.append(f"Differences {which} may go unnoticed")
    lines += [] if results.own_recipes else ["One recipe for all, not each method's own"]
    return [*lines, "Next: longer training, more seeds, a second dataset"]


def limit_notes(results):
    lines = [power_sentence(results.judged)] if results.judged else []
    return "\n".join([*lines, bias_text(results), *left_out_text(results)])


def appendix(deck, results, charts, folder):
    """Every table, and the charts that are not in the talk."""
    tables = [
        ("verdicts", verdict_table(results) if results.methods else None),
        ("recipes", with_short_cells(recipes_table(results))),
        ("all networks", main_table(results)),
        ("two modules together", interaction_table(results) if results.interactions else None),
        ("depth with and without shortcuts", depth_table(results)),
        ("cross-validation", folds_table(results)),
        (
            "points over a ResNet of equal cost",
            equal_cost_table(results) if results.methods and results.has_curve else None,
        ),
        *(
            (f"ablations of {arch}", ablation_table(arch, compared, results))
            for arch, compared in results.ablations.items()
        ),
    ]
    for title, table in tables:
        if table:
            deck.table(f"Appendix: {title}", table)
    cost = best_cost(results, charts)
    in_talk = ("differences", "budgets", "ablations", cost and chart_of(cost))
    for name, title in charts.items():
        if name not in in_talk:
            deck.picture(f"Appendix: {title[0].lower()}{title[1:]}", folder / f"{name}.png")


def with_short_cells(table):
    """The table with each long list of networks replaced by their number; None stays None."""
    return table and [
        [f"{cell.count(', ') + 1} networks" if len(cell) > MOST_CHARACTERS else cell for cell in line] for line in table
    ]


# --------------------------------------------------------------------------------------------------------------- slides


def font_that_fits(paragraphs, width, height, largest=LARGEST):
    """The largest font in points, down to 9, at which the paragraphs fit into a box of width x height inches."""
    for points in range(largest, 9, -1):
        per_line = int(72 * width / (CHARACTER * points))
        n_lines = sum(max(1, len(textwrap.wrap(text, per_line))) + 0.4 for text in paragraphs)
        if n_lines * LINE * points <= 72 * height:
            return points
    return 9


def inches(box):
    return tuple(Inches(side) for side in box)


class Deck:
    """A presentation that grows by one slide per call; `notes` are for the speaker."""

    def __init__(self):
        self.file = Presentation()
        self.file.slide_width, self.file.slide_height = inches(SLIDE)

    def slide(self, title, notes=""):
        slide = self.file.slides.add_slide(self.file.slide_layouts[6])  # of the default template: blank
        self.write(slide, [title], (MARGIN, 0.4, BOX[0], 0.9), largest=36, bold=True)
        if notes:
            slide.notes_slide.notes_text_frame.text = notes
        return slide

    def write(self, slide, paragraphs, box, largest=LARGEST, bold=False):
        """Writes paragraphs into a box (left, top, width, height in inches) in the largest font that fits."""
        frame = slide.shapes.add_textbox(*inches(box)).text_frame
        frame.word_wrap = True
        size = font_that_fits(paragraphs, box[2] - 0.2, box[3] - 0.1, largest)
        for i, text in enumerate(paragraphs):
            paragraph = frame.paragraphs[0] if i == 0 else frame.add_paragraph()
            paragraph.text = text.replace(" -", " \N{MINUS SIGN}")  # a hyphen would allow a line break
            paragraph.font.size, paragraph.font.bold, paragraph.space_after = Pt(size), bold, Pt(0.6 * size)
            paragraph.alignment = PP_ALIGN.LEFT

    def cover(self, title, lines):
        slide = self.file.slides.add_slide(self.file.slide_layouts[6])
        self.write(slide, [title], (1, 2.2, SLIDE[0] - 2, 1.6), largest=44, bold=True)
        self.write(slide, lines, (1, 4.1, SLIDE[0] - 2, 2), largest=26)

    def text(self, title, paragraphs, notes=""):
        self.write(self.slide(title, notes), paragraphs, (MARGIN, TOP + 0.2, *BOX))

    def chart(self, title, draw, *arguments, notes=""):
        """A chart drawn for the slide, draw(figure, *arguments), in letters that the last row can read."""
        picture = BytesIO()
        render(picture, draw, *arguments, font=CHART_FONT)
        self.slide(title, notes).shapes.add_picture(picture, *inches((MARGIN, TOP)), width=Inches(BOX[0]))

    def columns(self, title, columns, notes=""):
        """Columns of (heading, lines) side by side."""
        slide, width = self.slide(title, notes), BOX[0] / len(columns)
        size = min(font_that_fits([heading], width - 0.3, 0.8, 26) for heading, _ in columns)
        for i, (heading, lines) in enumerate(columns):
            left = MARGIN + i * width
            self.write(slide, [heading], (left, TOP, width - 0.1, 0.9), largest=size, bold=True)
            self.write(slide, lines, (left, TOP + 1, width - 0.1, BOX[1] - 1), largest=24)

    def drawings(self, title, parts, notes=""):
        """Up to six drawings, parts of (shapes, heading, line), in two rows; a single one fills the slide's width."""
        slide = self.slide(title, notes)
        n_columns = min(len(parts), 2 if len(parts) <= 4 else 3)
        gap = 0.6 / (n_columns - 1) if n_columns > 1 else 0
        width = (BOX[0] - gap * (n_columns - 1)) / n_columns
        height = width * SIZE[1] / SIZE[0]
        for i, (shapes, heading, line) in enumerate(parts):
            left, top = MARGIN + (i % n_columns) * (width + gap), TOP + (i // n_columns) * 2.9
            self.write(slide, [heading], (left, top, width, 0.6), largest=24, bold=True)
            self.draw(slide, shapes, (left, top + 0.6, width, height))
            self.write(slide, [line], (left, top + 0.65 + height, width, 0.75), largest=22)

    def draw(self, slide, shapes, box):
        """A drawing (see drawings.py) as one group of shapes in a box."""
        scale, group = box[2] / SIZE[0], slide.shapes.add_group_shape()

        def at(x, y):
            return Inches(box[0] + x * scale), Inches(box[1] + y * scale)

        for shape in shapes:
            if isinstance(shape, Arrow):
                self.arrow(group, [at(*point) for point in shape.points])
                continue
            sides = (Inches(side * scale) for side in (shape.width, shape.height))
            box_shape = group.shapes.add_shape(MSO_SHAPE.RECTANGLE, *at(shape.x, shape.y), *sides)
            self.look(box_shape, shape, points=max(8, 72 * 16 * scale))

    def arrow(self, group, points):
        for start, end in pairwise(points):
            line = group.shapes.add_connector(MSO_CONNECTOR.STRAIGHT, *start, *end).line
            line.color.rgb, line.width = RGBColor.from_string(LINE_COLOUR[1:]), Pt(1.5)
        tip = line._get_or_add_ln()
        tip.append(tip.makeelement(qn("a:tailEnd"), {"type": "triangle"}))

    def look(self, box_shape, shape, points):
        box_shape.shadow.inherit = False
        fill = {"plain": PLAIN_COLOUR, "module": MODULE_COLOUR}.get(shape.look)
        if fill:
            box_shape.fill.solid()
            box_shape.fill.fore_color.rgb = RGBColor.from_string(fill[1:])
        else:
            box_shape.fill.background()
        if shape.look == "words":
            box_shape.line.fill.background()
        else:
            box_shape.line.color.rgb, box_shape.line.width = RGBColor.from_string(LINE_COLOUR[1:]), Pt(1)
        frame = box_shape.text_frame
        frame.margin_left = frame.margin_right = frame.margin_top = frame.margin_bottom = 0
        frame.vertical_anchor, frame.word_wrap = MSO_ANCHOR.MIDDLE, False
        paragraph = frame.paragraphs[0]
        paragraph.text, paragraph.alignment = shape.text, PP_ALIGN.CENTER
        paragraph.font.size = Pt(round(points))
        paragraph.font.color.rgb = RGBColor.from_string("FFFFFF" if shape.look == "module" else "000000")

    def picture(self, title, path):
        self.slide(title).shapes.add_picture(str(path), *inches((MARGIN, TOP)), width=Inches(BOX[0]))

    def table(self, title, table):
        """A table, on as many slides as it needs."""
        header, *rows = table
        per_slide = math.ceil(len(rows) / math.ceil(len(rows) / ROWS_PER_SLIDE)) if rows else 1
        for start in range(0, len(rows), per_slide):
            part = [header, *rows[start : start + per_slide]]
            slide = self.slide(title + " (continued)" * (start > 0))
            # a header may take a line for each of its words
            longest = [max(map(len, [*cells[0].split(), *cells[1:]])) + 2 for cells in zip(*table, strict=True)]
            size = min(16, 72 * BOX[0] / (CHARACTER * sum(longest)), 72 * BOX[1] / (len(part) + 1) / 1.9)
            grid = slide.shapes.add_table(len(part), len(header), *inches((MARGIN, TOP, BOX[0], 0.1))).table
            for column, length in enumerate(longest):
                grid.columns[column].width = Inches(BOX[0] * length / sum(longest))
            for i, row in enumerate(part):
                grid.rows[i].height = Pt(1.9 * size)
                for column, text in enumerate(row):
                    self.fill(grid.cell(i, column), text, size)

    def fill(self, cell, text, size):
        cell.text = text
        cell.text_frame.paragraphs[0].font.size = Pt(size)
        cell.margin_left = cell.margin_right = Pt(0.5 * size)
        cell.margin_top = cell.margin_bottom = Pt(0.2 * size)
