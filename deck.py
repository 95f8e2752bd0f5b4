"""Slides with a title and one thing below it: words, a chart, drawings or a table."""

import math
import textwrap
from io import BytesIO
from itertools import pairwise

from pptx import Presentation
from pptx.dml.color import RGBColor
from pptx.enum.shapes import MSO_CONNECTOR, MSO_SHAPE
from pptx.enum.text import MSO_ANCHOR, PP_ALIGN
from pptx.oxml.ns import qn
from pptx.util import Inches, Pt

from charts import render
from drawings import LINE_COLOUR, MODULE_COLOUR, PLAIN_COLOUR, SIZE, Arrow

SLIDE, MARGIN, TOP = (13.333, 7.5), 0.5, 1.4  # inches
BOX = (SLIDE[0] - 2 * MARGIN, SLIDE[1] - TOP - 0.4)
LARGEST, CHART_FONT = 30, 18  # points: of words, and in charts, so that the last row can read them
ROWS_PER_SLIDE = 15
CHARACTER = 0.6  # width of a character, rather wide, as fonts differ between programs, and
LINE = 1.25  # height of a line, as parts of the font's size


def font_that_fits(paragraphs, width, height, largest=LARGEST):
    """The largest font in points, down to 9, at which the paragraphs fit a box of width x height inches."""
    for points in range(largest, 9, -1):
        per_line = int(72 * width / (CHARACTER * points))
        n_lines = sum(max(1, len(textwrap.wrap(text, per_line))) + 0.4 for text in paragraphs)
        if n_lines * LINE * points <= 72 * height:
            return points
    return 9


def inches(box):
    return tuple(Inches(side) for side in box)


class Deck:
    """A presentation that grows by one slide a call; `notes` are what the speaker sees."""

    def __init__(self):
        self.file = Presentation()
        self.file.slide_width, self.file.slide_height = inches(SLIDE)

    def slide(self, title, notes=""):
        slide = self.file.slides.add_slide(self.file.slide_layouts[6])  # of the default template: blank
        self.write(slide, [title], (MARGIN, 0.4, BOX[0], 0.9), largest=36, bold=True)
        if notes:
            slide.notes_slide.notes_text_frame.text = notes
        return slide

    def write(self, slide, paragraphs, box, largest=LARGEST, bold=False, centred=False):
        """Words in a box (left, top, width, height in inches) in the largest font that fits."""
        frame = slide.shapes.add_textbox(*inches(box)).text_frame
        frame.word_wrap = True
        size = font_that_fits(paragraphs, box[2] - 0.2, box[3] - 0.1, largest)
        for i, text in enumerate(paragraphs):
            paragraph = frame.paragraphs[0] if i == 0 else frame.add_paragraph()
            paragraph.text = text.replace(" -", " \N{MINUS SIGN}")  # a hyphen would end lines
            paragraph.font.size, paragraph.font.bold, paragraph.space_after = Pt(size), bold, Pt(0.6 * size)
            paragraph.alignment = PP_ALIGN.CENTER if centred else PP_ALIGN.LEFT

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
        slide, width = self.slide(title, notes), BOX[0] / max(1, len(columns))
        size = min(font_that_fits([heading], width - 0.3, 0.8, 26) for heading, _ in columns)
        for i, (heading, lines) in enumerate(columns):
            left = MARGIN + i * width
            self.write(slide, [heading], (left, TOP, width - 0.1, 0.9), largest=size, bold=True)
            self.write(slide, lines, (left, TOP + 1, width - 0.1, BOX[1] - 1), largest=24)

    def drawings(self, title, parts, notes=""):
        """Up to four drawings, parts of (shapes, heading, line), in two columns; one alone fills the slide's width."""
        slide = self.slide(title, notes)
        n_columns = min(2, len(parts))
        width = BOX[0] / n_columns - 0.3 * (n_columns - 1)
        height = width * SIZE[1] / SIZE[0]
        for i, (shapes, heading, line) in enumerate(parts):
            left, top = MARGIN + (i % 2) * (width + 0.6), TOP + (i // 2) * 2.9
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
            longest = [max(len(row[column]) for row in part) + 2 for column in range(len(header))]
            size = min(16, 72 * BOX[0] / (CHARACTER * sum(longest)), 72 * BOX[1] / len(part) / 1.9)
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
