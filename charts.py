"""The report's charts, drawn with matplotlib."""

import math
from dataclasses import dataclass

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from budgets import shared_methods, what_differs
from noise import NEAR, learned, not_undercut
from pictures import pair_charts
from rows import COSTS, SUPERCLASSES
from tables import by_seed, pm
from verdicts import baseline_in

# Okabe and Ito's palette, which colour-blind readers can tell apart; each word has its own marker too, for print in grey
LOOKS = {
    "helps": ("#009E73", "^"),
    "no better than widening": ("#E69F00", "s"),
    "better than narrowing": ("#CC79A7", "D"),
    "no evidence": ("#0072B2", "o"),
    "hurts": ("#D55E00", "v"),
    "unstable": ("#56B4E9", "X"),
    "": ("#666666", "P"),
}
CHART_SIZE = (12.3, 5.7)  # inches: what a slide leaves below its title
NEAREST = 15  # pixels from a point to its label
FEW_CELLS = 10  # of superclasses: fewer are a table only
MOST_PANELS = 3  # of ablations side by side
STYLE = {
    "font.size": 13,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 130,
    "figure.constrained_layout.use": True,
}


def short(net):
    """A method's name on a chart: without the usual backbone, and without knobs, which the tables name."""
    return net.arch.removesuffix("_resnet")


def draw_differences(figure, results):
    """Forest plot: one row per method with its difference from the baseline, the 95% interval and the word.

    An unstable method shows each seed instead; these do not stretch the axis.
    """
    shown = [result for result in results.methods if result.seeds][::-1]
    ax = figure.subplots()
    for y, result in enumerate(shown):
        colour, marker = LOOKS[result.word]
        numbers = pm(result.mean, result.half, "+")
        if result.unstable:
            numbers = by_seed(result.differences)
            ax.plot(result.differences, [y] * len(result.seeds), marker, color=colour, markersize=8)
        else:
            look = {"color": colour, "marker": marker, "markersize": 8, "linewidth": 2, "capsize": 4}
            ax.errorbar(result.mean, y, xerr=np.nan_to_num(result.half), **look)
        text = f"{numbers}   {result.word}".replace("-", "\N{MINUS SIGN}")  # as wide as a plus
        ax.annotate(text, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize="medium")
    ax.axvline(0, color="black", linewidth=1)
    steady = [result for result in shown if not result.unstable] or shown
    ends = [0.0, *(result.mean + side * np.nan_to_num(result.half) for result in steady for side in (-1, 1))]
    margin = 0.05 * np.ptp(ends) or 1
    ax.set_xlim(min(ends) - margin, max(ends) + margin)
    ax.set_yticks(range(len(shown)), [short(result.net) for result in shown])
    ax.set_ylim(-0.6, len(shown) - 0.4)
    has_bars = any(result.half > 0 for result in shown)  # nan of one seed
    label = "points of top-1 over the baseline" + ": mean over seeds, 95% interval" * has_bars
    if any(result.unstable for result in shown):
        label += "\n(crosses: the seeds of unstable methods, as far as the axis reaches)"
    ax.set_xlabel(label)


def place_labels(ax, points, texts, line):
    """Writes a text beside each point, at the nearest place where it covers no point, line or other text.

    A text far from its point gets a thin line to it, which crosses no other point if possible; one without a line is close to
    no other point if possible. points: (x, y, colour) and line: (x, y), in data coordinates.
    """
    ax.figure.canvas.draw()  # from here on, sizes and positions are known
    ax.figure.set_layout_engine("none")
    centres = ax.transData.transform([point[:2] for point in points])
    taken = [(x - 9, y - 9, x + 9, y + 9) for x, y in centres]
    taken += [(x, y, x, y) for x, y in ax.transData.transform(line)]
    size = 0.92 * plt.rcParams["font.size"]
    for (x, y, colour), centre, text in zip(points, centres, texts, strict=True):
        label = ax.annotate(text, (x, y), (0, 0), textcoords="offset pixels", ha="center", va="center", fontsize=size)
        every = list(places_around(centre, label.get_window_extent()))
        free = [place for place in every if within(place.box, ax.bbox) and not overlaps(place.box, taken)]
        place = min(free or every[-1:], key=lambda place: misleads(centre, place, centres))  # the nearest, if equal
        taken.append(place.box)
        label.set_position(place.offset)
        if place.distance > NEAREST:
            end = ax.transData.inverted().transform(place.end)
            ax.plot((x, end[0]), (y, end[1]), color=colour, linewidth=0.8, scalex=False, scaley=False)


@dataclass
class Place:
    """Where a text may go, in pixels: its offset from the point, the end of the line to it, and the box that it covers."""

    distance: float
    offset: tuple
    end: tuple
    box: tuple  # left, low, right, high


def places_around(centre, extent):
    """The Places for a text of this extent around a point, the nearest first."""
    angles = [math.radians(degrees) for degrees in (0, 180, 90, 270, 30, 330, 150, 210, 60, 300, 120, 240)]
    for distance in (NEAREST, 30, 50, 75, 105, 140, 180, 230):
        for cos, sin in ((math.cos(angle), math.sin(angle)) for angle in angles):
            # so that its side or corner is at this distance
            dx = distance * cos + extent.width / 2 * max(-1, min(2 * cos, 1))
            dy = distance * sin + extent.height / 2 * max(-1, min(2 * sin, 1))
            left, low = centre[0] + dx - extent.width / 2, centre[1] + dy - extent.height / 2
            end = (centre[0] + distance * cos, centre[1] + distance * sin)
            yield Place(distance, (dx, dy), end, (left, low, left + extent.width, low + extent.height))


def within(box, frame):
    return frame.x0 <= box[0] and box[2] <= frame.x1 and frame.y0 <= box[1] and box[3] <= frame.y1


def overlaps(box, others):
    """Whether a box (left, low, right, high) overlaps one of the others."""
    return any(b[0] < box[2] and box[0] < b[2] and b[1] < box[3] and box[1] < b[3] for b in others)


def misleads(start, place, centres, near=8):
    """Whether a text without a line is nearly as close to a point that is not its own, or its line passes one."""
    others = centres[np.hypot(*(centres - start).T) > 1]
    if place.distance > NEAREST:
        along = np.linspace(start, place.end, 24)[:, None]
        return bool((np.hypot(*np.moveaxis(along - others, -1, 0)) < near).any())
    beside = others - np.clip(others, place.box[:2], place.box[2:])  # from the nearest point of the box
    return bool((np.hypot(*beside.T) < 1.5 * NEAREST).any())


def plain_ticks(axis, values):
    """Plain numbers as ticks of a logarithmic axis, evenly spaced if the values are close to one another."""
    low, high = min(values), max(values)
    if high < 1.1 * low:  # nearly equal values should look it, and one value alone would not be drawn
        getattr(axis.axes, f"set_{axis.axis_name}lim")(low / 1.1, high * 1.1)
    narrow = high < 8 * low
    axis.set_major_locator(MaxNLocator(6) if narrow else LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.10g}"))
    axis.set_minor_locator(NullLocator())


def draw_cost(figure, results, cost):
    """Top-1 against one cost: the methods, and the widening curve with its 95% band."""
    unit, scale = {"parameters": ("parameters, thousands", 1e-3), "MACs": ("MACs per image, millions", 1e-6),
                   "training time": ("training time per image, ms", 1e3)}[cost]  # fmt: skip
    ax = figure.subplots()
    points, texts, line, has_widths, has_band = [], [], [], False, False
    ax.set_xscale("log")
    for backbone, curve in results.curves.items():
        seeds = baseline_in(curve).seeds
        drawn = [net for net in curve if not net.settings or learned(net, seeds)]
        curve = not_undercut([net for net in drawn if net.can_compare(cost)], cost)
        if not curve:
            continue
        has_widths |= len(curve) > 1
        x = np.array([net.costs[cost] * scale for net in curve])
        estimates = [results.noise_of(seeds).estimate((net, 1)) for net in curve]
        y, half = np.transpose([(each.mean, each.half) for each in estimates])
        has_band |= bool(((x[1:] <= NEAR * x[:-1]) & (half[1:] > 0)).any())
        line += draw_band(ax, x, y, half)
        points += [(*point, "black") for point in zip(x, y, strict=True)]
        whose = f"{backbone}, " if len(results.curves) > 1 else ""
        texts += [f"{whose}width {net.width}" if net.settings else backbone for net in curve]
        for result in results.stable:
            if result.net.backbone == backbone and result.net.can_compare(cost):
                colour, marker = LOOKS[result.word]
                at, top1 = result.net.costs[cost] * scale, results.top1(result.net)
                is_noisy = result.net.name in result.noisy  # its bar would stretch the axis, so its label says it
                bar = 0 if is_noisy else np.nan_to_num(top1.half)
                ax.errorbar(at, top1.mean, yerr=bar, color=colour, marker=marker, markersize=9, linewidth=1)
                points.append((at, top1.mean, colour))
                texts.append(short(result.net) + f" ± {top1.half:.1f}" * is_noisy)
                line += [(at, level) for level in np.linspace(top1.mean - bar, top1.mean + bar, 9)]
    ax.margins(0.12, 0.12)
    plain_ticks(ax.xaxis, [p[0] for p in points])
    ax.set_xlabel(f"{unit} (logarithmic)")
    has_bars = any(np.ptp(bars.get_segments()[0][:, 1]) > 0 for _, _, (bars,) in ax.containers)
    ax.set_ylabel("top-1, %" + " (bars: 95% interval)" * has_bars)
    whose = next(iter(results.curves)) if len(results.curves) == 1 else "a backbone"
    add_legend(ax, results, whose + " at several widths" * has_widths + ", 95% band" * has_band)
    place_labels(ax, points, texts, line)


def draw_band(ax, x, y, half):
    """The widening curve with its 95% band, broken where widths are not near. Returns points (x, y) along it."""
    line = []
    for near in np.split(np.arange(len(x)), np.flatnonzero(x[1:] > NEAR * x[:-1]) + 1):
        ax.fill_between(x[near], (y - half)[near], (y + half)[near], color="black", alpha=0.12, linewidth=0)
        ax.plot(x[near], y[near], color="black", marker="o", linewidth=2)
        if len(near) == 1:  # a band needs two widths
            ax.errorbar(x[near], y[near], yerr=np.nan_to_num(half[near]), color="black", linewidth=1)
        along = np.linspace(near[0], near[-1], 60 * len(near))
        log_x = np.interp(along, near, np.log(x[near]))
        line += zip(np.exp(log_x), np.interp(along, near, y[near]), strict=True)
    return line


def chart_of(cost):
    """The name of a cost's chart: 'cost_time' of 'training time'."""
    return f"cost_{cost.split()[-1].lower()}"


def add_legend(ax, results, first):
    """A legend above the axes for the line and the markers."""
    entries = [(first, "black", None)]
    words = {result.word for result in results.stable}
    entries += [(word or "no verdict", *look) for word, look in LOOKS.items() if word in words]
    handles = [plt.Line2D([], [], color=colour, marker=marker or "o", linestyle="" if marker else "-", label=text)
               for text, colour, marker in entries]  # fmt: skip
    ax.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=min(3, len(handles)), frameon=False)


def draw_learning(figure, results):
    """Small multiples: top-1 after each epoch, of every method and its baseline: means over seeds or, if one of the two is
    unstable, all seeds of both."""

    def curves(net, unstable):
        of_seeds = np.array([[epoch["top1"] for epoch in net.runs[seed]["curve"]] for seed in net.seeds])
        return of_seeds if unstable else [of_seeds.mean(0)]

    n = len(results.methods)
    n_rows = math.ceil(n / math.ceil(math.sqrt(1.7 * n)))
    columns = math.ceil(n / n_rows)
    axes = list(figure.subplots(n_rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for i in range(n, len(axes)):
        axes[i].set_axis_off()
        axes[i - columns].tick_params(labelbottom=True)
    for ax, result in zip(axes, results.methods, strict=False):
        colour, _ = LOOKS[result.word]
        for net, c in ((result.reference, "black"), (result.net, colour)):
            for y in curves(net, result.unstable) if net else ():
                ax.plot(
                    range(1, len(y) + 1), y, color=c, linewidth=1.6, marker="o" if len(y) < 10 else "", markersize=4
                )
        mean = "by seed" if result.unstable else f"{result.net.values('top1').mean():.1f}"
        ax.set_title(f"{short(result.net)} {mean}", fontsize="medium")
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    figure.supxlabel("epoch (black: the baseline; number: final top-1 on the test set)", fontsize="medium")
    figure.supylabel(f"top-1 on {'held-out images' if results.row['n_val'] else 'the test set'}, %", fontsize="medium")


def draw_superclasses(figure, results):
    """Heat map: points of top-1 over the baseline, one row per method, one column per superclass; noise stays white."""
    found = results.superclasses
    values = np.where(found.readable, found.differences, 0)
    limit = max(np.abs(values).max(), 0.1)
    ax = figure.subplots()
    ax.imshow(values, cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto")
    ax.set_xticks(
        range(len(SUPERCLASSES)), SUPERCLASSES, rotation=40, ha="right", rotation_mode="anchor", fontsize="small"
    )
    ax.set_yticks(range(len(values)), [arch.removesuffix("_resnet") for arch in found.archs])
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if abs(value) > 0.65 * limit else "black"
        text = f"{value:+.0f}" if found.readable[row, column] else ""
        ax.text(column, row, text, ha="center", va="center", fontsize="small", color=colour)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    figure.supxlabel("points of top-1 over the baseline; empty cells cannot be told apart from 0", fontsize="medium")


def draw_budgets(figure, conditions):
    """Forest plot: one row per method with its difference from the baseline, and interval, under each condition."""
    ax = figure.subplots()
    names = shared_methods(conditions)[::-1]
    shades = plt.get_cmap("viridis")(np.linspace(0, 0.75, len(conditions)))
    has_bars = False
    for i, (condition, shade) in enumerate(zip(conditions, shades, strict=True)):
        shift = 0.5 * ((len(conditions) - 1) / 2 - i) / len(conditions)
        shown = [(y + shift, condition.methods[name]) for y, name in enumerate(names) if name in condition.methods]
        steady = [(y, result) for y, result in shown if not result.unstable]
        has_bars |= any(result.half > 0 for _, result in steady)  # nan of one seed
        ax.errorbar(
            [result.mean for _, result in steady], [y for y, _ in steady],
            xerr=[np.nan_to_num(result.half) for _, result in steady],
            fmt="osD^v"[i % 5], color=shade, markersize=7, linewidth=1.8, capsize=3, label=condition.label,
        )  # fmt: skip
    ax.axvline(0, color="black", linewidth=1)
    ax.set_yticks(range(len(names)), [name.split()[0].removesuffix("_resnet") for name in names])
    ax.set_ylim(-0.6, len(names) - 0.4)
    label = f"points of top-1 over the baseline with the same {what_differs(conditions)}"
    ax.set_xlabel(label + ", 95% interval" * has_bars)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(conditions), frameon=False)


def notable_ablations(results):
    """The architectures with settings better or worse than the default, those with most first; at most MOST_PANELS."""
    n_clear = {
        arch: sum(r.change in ("better", "worse") for r in of_arch) for arch, of_arch in results.ablations.items()
    }
    return sorted((arch for arch in n_clear if n_clear[arch]), key=lambda arch: -n_clear[arch])[:MOST_PANELS]


def draw_ablations(figure, results):
    """Forest plots side by side: each architecture's settings with their differences from its default."""
    looks = {"better": LOOKS["helps"], "worse": LOOKS["hurts"], "no evidence": LOOKS["no evidence"]}
    archs = notable_ablations(results)
    for ax, arch in zip(figure.subplots(1, len(archs), squeeze=False, sharex=True).flat, archs, strict=True):
        shown = [result for result in results.ablations[arch] if result.change in looks][::-1]
        for y, result in enumerate(shown):
            colour, marker = looks[result.change]
            half = np.nan_to_num(result.half)
            ax.errorbar(result.mean, y, xerr=half, color=colour, marker=marker, markersize=9, linewidth=2, capsize=4)
        ax.axvline(0, color="black", linewidth=1)
        ax.set_yticks(range(len(shown)), [setting(result.net) for result in shown])
        ax.set_ylim(-0.6, max(len(shown) - 0.4, 1.6))
        ax.set_title(arch.removesuffix("_resnet"), fontsize="medium")
    figure.supxlabel(
        "points of top-1 over the default: mean over seeds, 95% interval\n"
        "(triangles: better or worse, corrected for all settings of a panel; circles: no evidence)",
        fontsize="medium",
    )


def setting(net):
    """A net's knobs for a chart: 'kernel size 5'."""
    pairs = (knob.split("=", 1) for knob in net.knobs.split())
    return ", ".join(f"{name.split('.')[-1].replace('_', ' ')} {value}" for name, value in pairs)


def render(file, draw, *arguments, font=STYLE["font.size"]):
    """Writes to a file what draw(figure, *arguments) draws, CHART_SIZE large, in letters of `font` points."""
    with plt.rc_context(STYLE | {"font.size": font}):
        figure = plt.figure(figsize=CHART_SIZE)
        draw(figure, *arguments)
        figure.savefig(file)
        plt.close(figure)


CHARTS = ("differences", "cost_parameters", "cost_macs", "cost_time", "learning", "superclasses", "ablations", "budgets",
          "confusion", "reliability", "disagreements")  # fmt: skip


def draw_charts(results, out, conditions, pair):
    """Writes the charts that these results allow, removes those of an earlier report, and returns {file's name: title}.

    conditions: of one folder or several, see budgets.py. pair: two networks, or None, see pictures.py.
    """
    wanted = {}
    if any(result.seeds for result in results.methods):
        wanted["differences"] = ("Differences from the baseline", draw_differences, results)
    for cost in COSTS:
        if any(net.can_compare(cost) for curve in results.curves.values() for net in curve):
            wanted[chart_of(cost)] = (f"Top-1 against {cost}", draw_cost, results, cost)
    if results.methods:
        wanted["learning"] = ("Learning curves", draw_learning, results)
    if results.superclasses and results.superclasses.readable.sum() >= FEW_CELLS:
        wanted["superclasses"] = ("Points over the baseline by superclass", draw_superclasses, results)
    if notable_ablations(results):
        wanted["ablations"] = ("Ablations with a setting better or worse than the default", draw_ablations, results)
    if len(conditions) > 1:
        title = f"Differences from the baseline at each {what_differs(conditions)}"
        wanted["budgets"] = (title, draw_budgets, conditions)
    wanted |= pair_charts(pair)
    for name in CHARTS:
        (out / f"{name}.png").unlink(missing_ok=True)
    for name, (_, draw, *arguments) in wanted.items():
        render(out / f"{name}.png", draw, *arguments)
    return {name: title for name, (title, *_) in wanted.items()}
