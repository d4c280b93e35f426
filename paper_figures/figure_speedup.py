"""Measured speed-up against the ideal, 1/density: of the attention call and of a whole generation."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from paper_figures.entries import paper_name
from paper_figures.speed import DENSE, LATENCY, Speed
from paper_figures.speed_entries import title
from paper_figures.style import GREY, WIDTH, absent_at, look, save, styled

READS = "speed"
PANELS = {"kernel": "One attention call", "generation": "Generation of a clip"}
SHAPES = ("table1", "1x", "2x", "4x")
FILLS = {"hunyuanvideo": "full", "wan2.1-14b": "none", "mochi-1": "left"}
"""How a model's markers are filled."""


class Point(NamedTuple):
    """A cell: the ideal speed-up, and those of the attention call and of the whole generation."""

    model: str
    method: str
    ideal: float
    kernel: float
    generation: float


def points(speed: Speed) -> list[Point]:
    """The cells of the paper's shapes with a mask that leaves something out, and with numbers."""
    found = []
    for cell in (cell for cells in speed.stages.values() for cell in cells if cell.shape in SHAPES):
        values = speed.passed(cell, LATENCY)
        if cell.method == DENSE or not values or "attention_call_s" not in values or values["density"] >= 1:
            continue
        if "block_sparsity" not in values:  # linear attention executes no pairs
            continue
        kernel = values["attention_call_dense_s"] / values["attention_call_s"]
        found.append(Point(cell.model, cell.method, 1 / values["density"], kernel, values["speedup"]))
    return found


def panel(axes: Axes, found: list[Point], kind: str) -> None:
    """Speed-ups of one kind against the ideal, both on logarithmic axes."""
    axes.set_title(PANELS[kind])
    values = [getattr(point, kind) for point in found]
    right, high = 1.25 * max([10.0, *(point.ideal for point in found)]), 1.4 * max(values, default=7.0)
    axes.set(xscale="log", yscale="log", xlim=(0.9, right), ylim=(0.85 * min([1.0, *values]), high))
    axes.plot([1, right], [1, right], color=GREY, linewidth=0.8, linestyle="--", zorder=1)
    for point in found:
        colour, marker = look(point.method)
        axes.plot(
            point.ideal,
            getattr(point, kind),
            color=colour,
            marker=marker,
            fillstyle=FILLS.get(point.model, "bottom"),
            markerfacecoloralt="white",
            markersize=6,
            markeredgewidth=0.9,
            linestyle="",
        )
    if not found:
        absent_at(axes, 0.7, 0.3)
    for axis, end in ((axes.xaxis, right), (axes.yaxis, high)):
        axis.set_major_locator(FixedLocator([tick for tick in (0.5, 1, 1.5, 2, 3, 5, 10, 20, 50) if tick <= end]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
        axis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
    axes.grid()
    axes.set_axisbelow(True)
    axes.set_xlabel("Ideal speed-up, 1 / density")
    axes.set_ylabel("Measured speed-up over dense")


def handles(speed: Speed, found: list[Point]) -> list[Line2D]:
    """The legend: colour and marker of each method, fill of each model, and the ideal."""
    names = {cell.method: title(cell) for cells in speed.stages.values() for cell in cells}
    made = []
    for method in dict.fromkeys(point.method for point in found):
        colour, marker = look(method)
        made.append(Line2D([], [], color=colour, marker=marker, linestyle="", markersize=6, label=names[method]))
    for model in dict.fromkeys(point.model for point in found):
        made.append(
            Line2D(
                [],
                [],
                color=GREY,
                marker="o",
                linestyle="",
                markersize=6,
                fillstyle=FILLS.get(model, "bottom"),
                markerfacecoloralt="white",
                label=paper_name(model),
            )
        )
    return [*made, Line2D([], [], color=GREY, linewidth=0.8, linestyle="--", label="ideal")]


def make(speed: Speed, out: Path) -> list[Path]:
    """Writes the figure. Returns its files."""
    found = points(speed)
    with styled():
        figure = Figure(figsize=(WIDTH, 3.5), layout="constrained")
        for axes, kind in zip(figure.subplots(1, 2), PANELS, strict=True):
            panel(axes, found, kind)
        figure.legend(handles=handles(speed, found), loc="outside right upper")
        figure.supxlabel(
            "Each point is a method at a shape of Tables 1 and 2 and a setting. An attention call is one layer in one\n"
            "pass with all that the method does there. A generation has dense steps, and time outside attention.",
            fontsize=7,
        )
        return save(figure, out, "figure_speedup")
