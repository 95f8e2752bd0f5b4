"""report.md as one self-contained page: pictures inside, opens offline, prints well.

Knows the Markdown that document.py writes, and no more: headings, paragraphs, lists, tables, fenced code, images, links,
`code`, *emphasis*, **strong** and <br>.
"""

import base64
import re
from html import escape

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""
STYLE = """\
body { margin: 0; background: #fff; color: #1b1f23; font: 16px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1.5rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1rem; }
h2 { font-size: 1.35rem; margin: 2.5rem 0 0.75rem; padding-bottom: 0.2rem; border-bottom: 1px solid #d0d7de; }
h3 { font-size: 1.08rem; margin: 1.75rem 0 0.5rem; }
h1 + p { font-size: 1.12rem; }
p, ul { margin: 0.6rem 0; }
li { margin: 0.2rem 0; }
img { max-width: 100%; height: auto; display: block; margin: 0.8rem auto; }
td img { margin: 0; width: 21rem; max-width: none; }
code { font: 0.88em ui-monospace, Menlo, Consolas, monospace; background: #f3f4f6; padding: 0.1em 0.25em; border-radius: 3px; overflow-wrap: anywhere; }
pre { background: #f3f4f6; padding: 0.7rem 1rem; white-space: pre-wrap; }
pre code { padding: 0; background: none; }
.wide { overflow-x: auto; margin: 0.8rem 0; }
table { border-collapse: collapse; font-size: 0.86rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.6rem; border-bottom: 1px solid #e5e7eb; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #9aa4ae; vertical-align: bottom; }
.number { text-align: right; white-space: nowrap; }
table.many { font-size: 0.72rem; }
table.many th, table.many td { padding: 0.15rem 0.3rem; }
table.upright th:not(:first-child) { writing-mode: vertical-rl; padding: 0.3rem 0.1rem; text-align: left; }
@media print {
  @page { size: A4; margin: 16mm 14mm; }
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  h2, h3 { break-after: avoid; }
  img, tr, li { break-inside: avoid; }
  table { font-size: 8pt; }
  table.many { font-size: 6pt; }
  .wide { overflow: visible; }
  td img { width: 15rem; }
}
"""
MANY_COLUMNS, TOO_MANY = 9, 13  # from here on a table is set smaller, and its header upright
TYPES = {".png": "image/png", ".svg": "image/svg+xml"}


def page(markdown, folder):
    """Markdown -> the page's HTML, with the pictures that it names taken from `folder`."""
    blocks = [block for block in re.split(r"\n{2,}", markdown.strip()) if block]
    body = "\n".join(as_html(block, folder) for block in blocks)
    title = re.sub(r"^# ", "", blocks[0].splitlines()[0])
    return PAGE.format(title=escape(title), style=STYLE.strip(), body=body)


def as_html(block, folder):
    """One block of Markdown, blank lines around it -> HTML."""
    lines = block.splitlines()
    if heading := re.match(r"(#{1,6}) (.*)", lines[0]):
        level = len(heading[1])
        return f"<h{level}>{inline(heading[2], folder)}</h{level}>"
    if lines[0].startswith("```"):
        return "<pre><code>" + escape("\n".join(lines[1:-1])) + "</code></pre>"
    if lines[0].startswith("| "):
        return table(lines, folder)
    if lines[0].startswith("- "):
        items = re.split(r"^- ", block, flags=re.MULTILINE)[1:]
        return "<ul>" + "".join(f"<li>{inline(item.strip(), folder)}</li>" for item in items) + "</ul>"
    return f"<p>{inline(block, folder)}</p>"


def table(lines, folder):
    """A Markdown table's lines -> HTML; columns ruled '--:' are numbers."""
    header, rule, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    classes = [' class="number"' if cell == "--:" else "" for cell in rule]

    def row(cells, tag):
        inner = (f"<{tag}{c}>{inline(cell, folder)}</{tag}>" for cell, c in zip(cells, classes, strict=True))
        return f"<tr>{''.join(inner)}</tr>"

    looks = ["many"] * (len(header) >= MANY_COLUMNS) + ["upright"] * (len(header) >= TOO_MANY)
    many = f' class="{" ".join(looks)}"' if looks else ""
    head, body = row(header, "th"), "\n".join(row(cells, "td") for cells in rows)
    return f'<div class="wide"><table{many}><thead>{head}</thead>\n<tbody>\n{body}\n</tbody></table></div>'


def inline(text, folder):
    """The marks inside a block -> HTML; `code` keeps its characters."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(
        f"<code>{escape(part[1:-1])}</code>" if part.startswith("`") else marked(part, folder) for part in parts
    )


def marked(text, folder):
    text = escape(text, quote=False).replace("&lt;br&gt;", "<br>")
    text = re.sub(r"!\[(.*?)\]\((.+?)\)", lambda found: picture(found[1], folder / found[2]), text)
    text = re.sub(r"\[(.+?)\]\((.+?)\)", r'<a href="\2">\1</a>', text)
    text = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", text)
    return re.sub(r"\*([^*\s](?:[^*]*[^*\s])?)\*", r"<em>\1</em>", text)


def picture(words, path):
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{escape(words)}" src="data:{TYPES[path.suffix]};base64,{data}">'
