"""Latency against the number of tokens, dense and radial, on logarithmic axes with fitted exponents."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from paper_figures.entries import paper_name
from paper_figures.speed import DENSE, LATENCY, RADIAL, Speed, fit_power
from paper_figures.style import WIDTH, absent, look, save, styled

READS = "speed"
TITLES = {DENSE: "Dense", RADIAL: "Radial"}
ROWS = {
    "attention_call_s": "Attention call, s",
    "step_sparse_s": "Denoising step, s",
}
"""What is shown against tokens, and the words on its axis."""
SHAPES = {"attention_call_s": ("short", "1x", "2x", "4x"), "step_sparse_s": ("1x", "2x", "4x")}
"""The shapes of one frame size; ``short`` has other dense layers, so that its steps are no part of the row."""

Curve = list[tuple[int, float]]


def curve(speed: Speed, model: str, method: str, name: str) -> Curve:
    """Tokens and seconds of a method's lengths, radial as released where that was measured."""
    found = []
    for shape in SHAPES[name]:
        settings = ("authors", "paper") if method == RADIAL else ("paper",)
        for cell in filter(None, (speed.cell(f"{model}/{shape}", method, setting) for setting in settings)):
            record = speed.record(cell, LATENCY)
            if record is not None and record["status"] == "passed" and name in record["values"]:
                found.append((record["details"]["tokens"], record["values"][name]))
                break
    return sorted(found)


def panel(axes: Axes, speed: Speed, model: str, name: str) -> bool:
    """One model: dense and radial with the power of the tokens that fits each. Returns whether one was fitted."""
    found = {method: curve(speed, model, method, name) for method in TITLES}
    tokens = sorted({n for points in found.values() for n, _ in points})
    axes.set(xscale="log", yscale="log")
    for method, points in found.items():
        colour, marker = look(method)
        label = TITLES[method]
        if len(points) > 1:
            exponent, factor = fit_power(*zip(*points, strict=True))
            label += f", tokens$^{{{exponent:.2f}}}$"
            ends = [points[0][0], points[-1][0]]
            axes.plot(ends, [factor * n**exponent for n in ends], color=colour, linewidth=0.9, linestyle="--")
        if points:
            axes.plot(
                *zip(*points, strict=True), color=colour, marker=marker, linestyle="", markersize=5.5, label=label
            )
    if not tokens:
        absent(axes)
        return False
    axes.minorticks_off()
    axes.xaxis.set_major_locator(FixedLocator(tokens))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1e3:.0f}k"))
    values = [value for points in found.values() for _, value in points]
    low, high = min(values) / 1.5, max(values) * 4  # room for the legend above
    axes.set(xlim=(tokens[0] / 1.3, tokens[-1] * 1.3), ylim=(low, high))
    ticks = [scale * 10.0**power for power in range(-5, 5) for scale in (1, 2, 5)]
    ticks = [tick for tick in ticks if low <= tick <= high]
    axes.yaxis.set_major_locator(FixedLocator(ticks[:: 2 if len(ticks) > 6 else 1]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid()
    axes.set_axisbelow(True)
    axes.legend(loc="upper left", handletextpad=0.2)
    return any(len(points) > 1 for points in found.values())


def make(speed: Speed, out: Path) -> list[Path]:
    """Writes the figure. Returns its files."""
    models = list(dict.fromkeys(cells[0].model for cells in speed.stages.values()))
    with styled():
        figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
        grid = figure.subplots(len(ROWS), len(models), squeeze=False)
        fitted = False
        for row, (name, words) in zip(grid, ROWS.items(), strict=True):
            for axes, model in zip(row, models, strict=True):
                fitted |= panel(axes, speed, model, name)
                if model == models[0]:
                    axes.set_ylabel(words)
        for axes, model in zip(grid[0], models, strict=True):
            axes.set_title(paper_name(model))
        for axes in grid[-1]:
            axes.set_xlabel("Tokens")
        dashed = "Dashed: the power of the tokens that fits best; to two\npoints it is exact."
        alone = "No power is fitted: a single length is measured."
        figure.supxlabel(
            "One GPU, random weights. An attention call is one layer in one pass, a step all passes with its dense\n"
            f"layers. Radial has its released defaults. {dashed if fitted else alone}",
            fontsize=7,
        )
        return save(figure, out, "figure_scaling")
