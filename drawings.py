"""Small drawings of where a module goes in the ResNet: rectangles, arrows and words, as SVG or for a slide.

A drawing is a list of shapes on a common grid, (width, height) = SIZE, with y downwards:

    Box(x, y, width, height, text, look)     look: 'plain', 'module' (what the method adds), 'around' (a frame) or 'words'
    Arrow(points)                             [(x, y), ...], with its head at the last point
"""

from dataclasses import dataclass
from html import escape

SIZE = (420, 92)
THIRD_STAGE_ONLY = ("gmlp", "mixer")  # methods that by default replace the blocks of the third stage alone
MODULE_COLOUR, PLAIN_COLOUR, LINE_COLOUR = "#009E73", "#E8ECF0", "#444444"


@dataclass(frozen=True)
class Box:
    x: float
    y: float
    width: float
    height: float
    text: str = ""
    look: str = "plain"


@dataclass(frozen=True)
class Arrow:
    points: tuple


def residual_block(first="", second="", attention=""):
    """A basic block from left to right, with its shortcut above. The parts named in the arguments are the module's."""
    line, top, left = 62, 42, 24
    parts = [
        Box(left + 108 * i, top, 92, 40, conv or "3x3 conv", "module" if conv else "plain")
        for i, conv in enumerate((first, second))
    ]
    end = left + 200
    if attention:
        parts.append(Box(end + 16, top, 92, 40, attention, "module"))
        end += 108
    add = Box(end + 24, line - 11, 22, 22, "+")
    arrows = [Arrow(((2, line), (left, line)))]
    for before, after in zip(parts, [*parts[1:], add], strict=True):
        arrows.append(Arrow(((before.x + before.width, line), (after.x, line))))
    arrows.append(Arrow(((add.x + 22, line), (min(add.x + 52, SIZE[0] - 4), line))))
    arrows.append(Arrow(((12, line), (12, 16), (add.x + 11, 16), (add.x + 11, line - 11))))
    return [*parts, add, *arrows]


def stages(text, first=1):
    """The network as three stages of blocks. What the module replaces has its colour: stages from `first` on.

    first: 1 (stem included), 3 (but for the block that strides), or 4 (only the pooling after the stages).
    """
    shapes, x = [Box(4, 40, 44, 36, "stem", "module" if first == 1 else "plain")], 58
    for stage in range(3):
        replaced = first <= stage + 1
        shapes.append(Box(x, 30, 98, 56, look="around"))
        for block in range(3):
            strides = first == 3 and block == 0
            shapes.append(Box(x + 6 + 30 * block, 42, 26, 32, "", "module" if replaced and not strides else "plain"))
        shapes.append(Box(x, 6, 98, 20, text if replaced else "basic blocks", "words"))
        x += 104
    head = Box(x + 2, 40, 40, 36, "pool", "module") if first == 4 else Box(x + 2, 40, 40, 36, "head")
    return [*shapes, head]


def around_a_stage(text):
    """One stage of blocks and the path around it."""
    blocks = [Box(110 + 66 * i, 48, 58, 32, "block") for i in range(3)]
    join = Box(336, 48, 44, 32, "join", "module")
    arrows = [Arrow(((2, 64), (30, 64))), Arrow(((84, 64), (110, 64))), Arrow(((300, 64), (336, 64)))]
    arrows += [Arrow(((168 + 66 * i, 64), (176 + 66 * i, 64))) for i in range(2)]
    arrows += [Arrow(((57, 48), (57, 22), (358, 22), (358, 48))), Arrow(((380, 64), (414, 64)))]
    return [Box(30, 48, 54, 32, "split", "module"), *blocks, join, Box(120, 0, 170, 18, text, "words"), *arrows]


def drawing(method, module):
    """The shapes of a method's drawing; method '' is the ResNet's plain basic block."""
    if not method:
        return residual_block()
    short = {"segnext": "SegNeXt", "lsknet": "LSKNet", "multiscale": "multi-scale"}.get(method, module.name)
    if module.slot == "attention":
        return residual_block(attention=short)
    if module.slot == "conv":
        return residual_block(short, "" if method == "resnest" else short)
    if module.slot == "stage":
        return around_a_stage("around the blocks")
    if module.slot == "pool":
        return stages(short, first=4)
    return stages(short, first=3 if method in THIRD_STAGE_ONLY else 1)


def svg(shapes, title):
    """The shapes as the text of an SVG file, with a title for screen readers."""
    width, height = SIZE
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
             f'role="img" font-family="Helvetica, Arial, sans-serif" font-size="13"><title>{escape(title)}</title>']  # fmt: skip
    parts.append('<marker id="head" refX="6" refY="3" markerWidth="6" markerHeight="6" markerUnits="userSpaceOnUse" '
                 f'orient="auto"><path d="M0,0L6,3L0,6z" fill="{LINE_COLOUR}"/></marker>')  # fmt: skip
    parts.append(f'<rect width="{width}" height="{height}" fill="white"/>')
    for shape in shapes:
        if isinstance(shape, Arrow):
            points = " ".join(f"{x:g},{y:g}" for x, y in shape.points)
            parts.append(f'<polyline points="{points}" fill="none" stroke="{LINE_COLOUR}" stroke-width="1.5" '
                         'marker-end="url(#head)"/>')  # fmt: skip
            continue
        fill = {"plain": PLAIN_COLOUR, "module": MODULE_COLOUR}.get(shape.look, "none")
        stroke = "none" if shape.look == "words" else LINE_COLOUR
        parts.append(f'<rect x="{shape.x:g}" y="{shape.y:g}" width="{shape.width:g}" height="{shape.height:g}" rx="4" '
                     f'fill="{fill}" stroke="{stroke}"/>')  # fmt: skip
        if shape.text:
            colour = "white" if shape.look == "module" else "black"
            parts.append(f'<text x="{shape.x + shape.width / 2:g}" y="{shape.y + shape.height / 2 + 4.5:g}" fill="{colour}" '
                         f'text-anchor="middle">{escape(shape.text)}</text>')  # fmt: skip
    return "\n".join([*parts, "</svg>", ""])


def write_drawings(modules, out):
    """Writes block_<method>.svg for each method, and block_resnet.svg; removes those of an earlier report."""
    for old in out.glob("block_*.svg"):
        old.unlink()
    (out / "block_resnet.svg").write_text(svg(drawing("", None), "The ResNet's basic block"), encoding="utf-8")
    for method, module in modules.items():
        text = svg(drawing(method, module), f"{module.name} in the ResNet: slot {module.slot}")
        (out / f"block_{method}.svg").write_text(text, encoding="utf-8")
