"""Figure 2: operations, latency and tuning of HunyuanVideo against the number of frames, dense and radial.

The paper's three panels. Operations are counted for every number of frames; latency and tuning are of the records of
speed, in GPU-seconds beside the published points, and say so where there are no records.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from paper_figures import published, table2_speed
from paper_figures.experiment import Experiment
from paper_figures.published import Published
from paper_figures.speed import DENSE, LATENCY, RADIAL, TRAINING, Speed
from paper_figures.style import GREY, WIDTH, absent_at, look, save, styled

READS = "both"
MODEL, PAPER_MODEL = "hunyuanvideo", "HunyuanVideo"
SIZE = (720, 1280)
TITLES = {DENSE: "Dense", RADIAL: "Radial"}

TICKS = (125, 253, 381, 509)
"""Numbers of frames that an axis names."""

Curve = dict[int, Mapping[str, Any]]
Points = dict[str, dict[int, float]]
"""A number by method and frames."""


def curves(path: Path) -> dict[str, Curve]:
    """The plans of HunyuanVideo at 720x1280, by method and number of frames.

    Raises:
        ValueError: the file is no sweep, or has no such plans for dense or radial.
    """
    try:
        plans = json.loads(path.read_text())["plans"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: no operations in it; 'sweep' writes them") from None
    found: dict[str, Curve] = {}
    for method in TITLES:
        found[method] = {
            plan["frames"]: plan
            for plan in plans
            if (plan["model"], plan["height"], plan["width"], plan["method"]) == (MODEL, *SIZE, method)
        }
        if len(found[method]) < 2:
            raise ValueError(
                f"{path}: {len(found[method])} plans of {MODEL} {SIZE[0]}x{SIZE[1]} {method}; at least 2 are needed"
            )
    return found


def measured(speed: Speed | None, kind: str, name: str) -> Points:
    """A number of the speed records of HunyuanVideo at Table 2's lengths, radial as released where there is that."""
    found: Points = {method: {} for method in TITLES}
    for stage in (f"{MODEL}/{shape}" for shape in table2_speed.SHAPES) if speed else ():
        for method in TITLES:
            cells = (speed.cell(stage, method, setting) for setting in ("authors", "paper"))
            for cell in filter(None, cells):
                values = speed.passed(cell, kind)
                if name in values:
                    found[method][cell.frames] = values[name]
                    break
    return found


def printed(of: Callable[[Published], float | None]) -> Points:
    """A number that is worked out from the paper's Table 2, tuned rows where there are two."""
    found: Points = {method: {} for method in TITLES}
    for row in published.rows("table2"):
        if row.model == PAPER_MODEL and row.method in TITLES and of(row) is not None:
            found[row.method][row.frames] = of(row)
    return found


def attention_panel(axes: Axes, source: Experiment, speed: Speed | None) -> None:
    """Operations of self-attention in one forward pass, all layers sparse, with the ratios that the paper states."""
    found = curves(source.file("operations.json"))
    axes.set_title("Attention, one pass")
    points = {
        method: {frames: plan["attention_pflop_pass"] for frames, plan in curve.items()}
        for method, curve in found.items()
    }
    _lines(axes, points)
    _frame(axes, "PFLOP", points)
    stated = {row.frames: row.text("attention_ratio") for row in published.rows("figure2")}
    _ratios(axes, points, {frames: text for frames, text in stated.items() if frames in points[RADIAL]})


def latency_panel(axes: Axes, source: Experiment, speed: Speed | None) -> None:
    """Denoising of a whole clip, with the ratios that the paper's figure states."""
    axes.set_title("Latency")
    stated = {row.frames: row.text("latency_ratio") for row in published.rows("figure2")}
    gains = measured(speed, LATENCY, "speedup")[RADIAL]
    paper = printed(table2_speed.gpu_seconds)
    _beside(axes, measured(speed, LATENCY, "generation_s"), paper, stated, gains, "GPU-seconds a clip")


def training_panel(axes: Axes, source: Experiment, speed: Speed | None) -> None:
    """A tuning step of one clip; published hours are divided by the published number of steps."""
    axes.set_title("Tuning")
    stated = {row.frames: row.text("tuning_ratio") for row in published.rows("figure2")}
    paper = printed(table2_speed.step_seconds)
    gains = measured(speed, TRAINING, "speedup")[RADIAL]
    _beside(axes, measured(speed, TRAINING, "step_s"), paper, stated, gains, "GPU-seconds a LoRA step")


PANELS = (attention_panel, latency_panel, training_panel)


def _beside(
    axes: Axes, own: Points, paper: Points, stated: Mapping[int, str], gains: Mapping[int, float], unit: str
) -> None:
    """Measured curves with markers and ratios, published points hollow and dashed."""
    _lines(axes, own)
    for method, curve in paper.items():
        colour, marker = look(method)
        axes.plot(
            *_sorted(curve),
            color=colour,
            marker=marker,
            markerfacecolor="white",
            linestyle=(0, (3, 2)),
            linewidth=0.8,
            label=f"{TITLES[method]}, published",
            clip_on=False,
            zorder=1.5,
        )
    _frame(axes, unit, own, paper)
    if not any(own.values()):
        absent_at(axes, 0.72, 0.05)
    _ratios(axes, own, stated, paper, gains)


def _lines(axes: Axes, points: Points) -> None:
    for method, curve in points.items():
        if curve:
            colour, marker = look(method)
            axes.plot(*_sorted(curve), color=colour, marker=marker, label=TITLES[method], clip_on=False)


def _sorted(curve: Mapping[int, float]) -> tuple[list[int], list[float]]:
    frames = sorted(curve)
    return frames, [curve[n] for n in frames]


def _ratios(
    axes: Axes,
    own: Points,
    stated: Mapping[int, str],
    paper: Points | None = None,
    gains: Mapping[int, float] | None = None,
) -> None:
    """A line from radial to dense wherever the paper states a ratio, and both ratios beside it.

    Args:
        gains: our ratios by frames, where records have them: a speed-up divides whole steps by whole ones or parts by
            parts, which the points need not be. What the points give where None.
    """
    right, left = (0.45, 0.6) if paper is None else (0.7, 0.35)  # how far up to the next curve there is room
    for frames, text in stated.items():
        if frames in own[DENSE] and frames in own[RADIAL]:
            dense, radial = own[DENSE][frames], own[RADIAL][frames]
            axes.plot([frames, frames], [radial, dense], color=GREY, linewidth=0.8, linestyle=":", zorder=1)
            others = [curve[frames] for curve in (paper or {}).values() if frames in curve]
            above = min(value for value in (dense, *others) if value > radial)
            first = frames == min(stated)
            gain = dense / radial if gains is None else gains[frames]
            axes.annotate(
                f"{gain:.1f}×\n({text}×)",
                (frames, radial * (above / radial) ** (right if first else left)),
                (3 if first else -3, 0),
                textcoords="offset points",
                ha="left" if first else "right",
                va="center",
                fontsize=7,
                linespacing=1.0,
            )


def _frame(axes: Axes, unit: str, *points: Points) -> None:
    curves = [curve for found in points for curve in found.values()]
    frames = sorted({n for curve in curves for n in curve})
    values = [value for curve in curves for value in curve.values()]
    low, high = 0.8 * min(values), 1.25 * max(values)
    ticks = [scale * 10.0**power for power in range(-6, 9) for scale in (1, 2, 5)]
    axes.set(yscale="log", ylim=(low, high), xlabel="Frames", ylabel=unit)
    axes.set_xticks([n for n in TICKS if n in frames] or frames)
    axes.minorticks_off()
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value < 1e4 else f"{value:,.0f}"))
    axes.grid(axis="y")
    axes.set_axisbelow(True)


def caption(source: Experiment, speed: Speed | None) -> str:
    """What stands below the panels."""
    block = next(iter(curves(source.file("operations.json"))[RADIAL].values()))["block"]
    steps = " and ".join(f"{count:,} steps ({n})" for n, count in table2_speed.STEPS[PAPER_MODEL].items())
    words = [
        f"{PAPER_MODEL} {SIZE[0]}x{SIZE[1]}, blocks of {block}. Ratios are dense over radial, in brackets those of",
        "the paper's Figure 2 (that its middle one is at 381 frames is assumed). Published points: Table 2's",
        f"seconds x 8 GPUs, and its hours of tuning x 8 GPUs over {steps}.",
    ]
    cells = [speed.cell(f"{MODEL}/{shape}", DENSE, "paper") for shape in table2_speed.SHAPES] if speed else []
    shown = [cell for cell in cells if cell and speed.passed(cell, LATENCY)]
    if shown:
        last = shown[-1]
        words.append(
            f"{last.dense_steps} of {last.steps} steps and {last.dense_layers} layers are dense; random weights, one "
            f"{speed.record(last, LATENCY)['provenance']['device']['name']}."
        )
    return "\n".join(words)


def make(source: Experiment, out: Path, speed: Speed | None = None) -> list[Path]:
    """Writes the figure. Returns its files."""
    words = caption(source, speed)
    with styled():
        figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
        shown: dict[str, Any] = {}
        for axes, panel in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
            panel(axes, source, speed)
            shown |= {label: line for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(shown.values(), shown.keys(), loc="outside upper center", ncols=len(shown))
        figure.supxlabel(words, fontsize=7)
        return save(figure, out, "figure2")
