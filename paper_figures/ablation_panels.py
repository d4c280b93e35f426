"""The figures of the ablations: our rows with their intervals, and beside them what the paper prints."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_figures.ablations import (
    DENSE_LAYERS,
    DENSE_STEPS,
    JUDGED,
    MASK,
    NAMES,
    PAPER_STEPS,
    UNITS,
    Ablation,
    Series,
    choice,
    layers,
    paper,
    paper_place,
    total,
)
from paper_figures.intervals import Interval
from paper_figures.style import BLUE, GREEN, GREY, ORANGE, SKY, VERMILION, WIDTH, absent, look, save, styled
from paper_figures.testbed_entries import Numbers

SERIES = ((VERMILION, "o", "-"), (BLUE, "s", "--"), (GREEN, "^", "-."), (ORANGE, "v", ":"), (SKY, "D", "-"))
"""Colour, marker and line of the series of one method."""
ROW_HEIGHT, FOOT = 2.05, 0.55  # inches


class Point(NamedTuple):
    """A row in a panel; without an interval it is the number as printed."""

    place: str | float
    mean: float
    held: Interval | None


def ours(held: Numbers, one: Series, metric: str) -> list[Point]:
    """The rows of a series that have two clips or more with a metric."""
    found = ((row.place, held.interval(row.cell, metric)) for row in one.rows)
    return [Point(place, told.mean, told) for place, told in found if told is not None]


def printed(ablation: Ablation, metric: str) -> list[Point]:
    """What the paper prints of a metric, in its order."""
    found = ((paper_place(ablation, row), row.number(metric)) for row in paper(ablation))
    return [Point(place, value, None) for place, value in found if value is not None]


def axis_words(ablation: Ablation, of: int | None) -> str:
    """The words below a panel of numbers."""
    if ablation.by_share:
        return f"Dense steps, % of {of}"
    what = {DENSE_STEPS: "Dense steps", DENSE_LAYERS: "Dense layers in tuning"}[ablation.varies]
    return f"{what}, of {of}" if of is not None else what


def ends(points: Iterable[Point]) -> list[list[float]]:
    """Lengths of the error bars below and above each point."""
    told = [(point.mean, point.held) for point in points]
    low = [max(mean - held.low, 0.0) if held is not None else 0.0 for mean, held in told]
    high = [max(held.high - mean, 0.0) if held is not None else 0.0 for mean, held in told]
    return [low, high]


def filling(points: Iterable[Point], colour: str) -> str:
    """The inside of a marker: white where the number is the paper's."""
    return "white" if all(point.held is None for point in points) else colour


def curve(axes: Axes, points: list[Point], colour: str, marker: str, line: str, label: str) -> None:
    """Points with their intervals, joined."""
    axes.errorbar(
        [point.place for point in points], [point.mean for point in points], yerr=ends(points), color=colour,
        marker=marker, linestyle=line, linewidth=1.1, capsize=2.5, elinewidth=0.9, label=label,
        markerfacecolor=filling(points, colour),
    )  # fmt: skip


def number_panel(
    axes: Axes, ablation: Ablation, curves: list[tuple[str, list[Point]]], of: int | None, published: list[Point]
) -> None:
    """A metric against dense steps or layers, a curve a series, and where the paper's choice is.

    Numbers of steps or layers reach as far as those of ``published`` at least, so that what is not run is seen to be.
    """
    for (label, points), (colour, marker, line) in zip(curves, SERIES * len(curves), strict=False):
        curve(axes, points, colour, marker, line, label)
    axes.axvline(choice(ablation), color=GREY, linewidth=0.8, linestyle=":", zorder=0)
    if any(label for label, _ in curves):
        axes.legend(loc="best")
    axes.set_xlabel(axis_words(ablation, of))
    if not ablation.by_share:
        places = sorted({point.place for points in (published, *(points for _, points in curves)) for point in points})
        axes.set_xlim(places[0] - 0.2, places[-1] + 0.2)
        axes.set_xticks(places)


def mask_panel(axes: Axes, ablation: Ablation, groups: list[tuple[str, list[Point]]]) -> None:
    """A metric of each mask, in groups beside each other."""
    for number, method in enumerate(ablation.methods):
        colour, marker = look(method)
        apart = 0.14 * (number - (len(ablation.methods) - 1) / 2)
        shown = [(place + apart, point) for place, (_, points) in enumerate(groups) for point in points]
        shown = [(x, point) for x, point in shown if point.place == method]
        points = [point for _, point in shown]
        axes.errorbar(
            [x for x, _ in shown], [point.mean for point in points], yerr=ends(points), color=colour, marker=marker,
            markersize=7 if marker == "*" else 5, linestyle="", capsize=2.5, elinewidth=0.9, label=method,
            markerfacecolor=filling(points, colour),
        )  # fmt: skip
    axes.set_xticks(range(len(groups)), [label for label, _ in groups])
    axes.set_xlim(-0.6, len(groups) - 0.4)
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))


def our_panel(axes: Axes, ablation: Ablation, held: Numbers, parts: list[Series], metric: str) -> None:
    """Our rows in a metric, or that there are none."""
    found = [(one, points) for one in parts if (points := ours(held, one, metric))]
    if not found:
        absent(axes)
    elif ablation.varies == MASK:
        mask_panel(axes, ablation, [(setting(one), points) for one, points in found])
    else:
        curves = [(one.words, points) for one, points in found]
        number_panel(axes, ablation, curves, total(ablation, parts[0].rows[0].cell), printed(ablation, metric))


def setting(one: Series) -> str:
    """A setting in which masks are compared, in two short lines."""
    cell = one.rows[0].cell
    budget = cell.fact("budget")
    return f"{'' if budget is None else f'density {budget:g}'}\n{cell.fact('dense_steps')} dense steps"


def paper_panel(axes: Axes, ablation: Ablation, metric: str) -> None:
    """What the paper prints of a metric."""
    points, first = printed(ablation, metric), paper(ablation)[0]
    if ablation.varies == MASK:
        mask_panel(axes, ablation, [(f"{first.model}\n{first.frames} frames", points)])
    else:
        of = PAPER_STEPS if ablation.varies == DENSE_STEPS else layers(first.model)
        number_panel(axes, ablation, [("", points)], of, points)


def finish(axes: Axes, metric: str) -> None:
    """Grid, and the metric's name on the axis."""
    unit = f", {UNITS[metric]}" if metric in UNITS else ""
    name = NAMES[metric]
    axes.set_ylabel(f"{name[:1].upper()}{name[1:]}{unit}")
    axes.grid(axis="y")
    axes.set_axisbelow(True)


def caption(ablation: Ablation, parts: list[Series], judge: str) -> str:
    """What must be said of the panels, in lines that fit the page."""
    said = []
    if parts:
        cell = parts[0].rows[0].cell
        said.append(
            f"Left: {cell.fact('clips')} clips a point; bars are 95 % bootstrap intervals over the prompts, which all "
            "points share:"
        )
        said.append("differences of pairs, which are surer than these bars, are in the table.")
    what = f"Model, clips and judge (ours: {judge})" if judge and ablation.metrics == JUDGED else "Model and clips"
    said.append(f"Right: as printed in arXiv 2506.19852 v2. {what} differ: only the order of rows can be compared.")
    if ablation.varies != MASK:
        said.append("Dotted: the paper's choice.")
    return "\n".join(said)


def draw(ablation: Ablation, held: Numbers, parts: list[Series], judge: str, out: Path) -> list[Path]:
    """Writes the figure of an ablation. Returns its files.

    Args:
        judge: the name of our judge of vision reward; empty where nothing was judged.
    """
    first = paper(ablation)[0]
    mine = parts[0].rows[0].cell if parts else None
    with styled():
        rows = len(ablation.metrics)
        figure = Figure(figsize=(WIDTH, ROW_HEIGHT * rows + FOOT), layout="constrained")
        wide = 1.45 if ablation.varies == MASK and len(parts) > 2 else 1.0
        grid = figure.subplots(rows, 2, squeeze=False, width_ratios=(wide, 1.0), sharex="col")
        for (left, right), metric in zip(grid, ablation.metrics, strict=True):
            our_panel(left, ablation, held, parts, metric)
            paper_panel(right, ablation, metric)
            for axes in (left, right):
                finish(axes, metric)
                if metric != ablation.metrics[-1]:
                    axes.set_xlabel("")
        where = f"{mine.model}, {mine.length}" if mine is not None else "testbed"
        grid[0, 0].set_title(f"Ours: {where}", loc="left")
        grid[0, 1].set_title(f"Published: {first.model}, {first.frames} frames", loc="left")
        if ablation.varies == MASK:
            grid[0, 1].legend(loc="best", handletextpad=0.3)
        figure.supxlabel(caption(ablation, parts, judge), fontsize=7)
        return save(figure, out, ablation.name)
