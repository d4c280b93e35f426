"""Figure 8: vision reward against the number of frames, and exponential fits of how attention falls with distance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from benchmark.tuning.settings import FULL, LORA
from paper_figures import decay_panels, published
from paper_figures.intervals import Interval
from paper_figures.style import WIDTH, absent, look, save, styled
from paper_figures.table2_testbed import FIGURE, REWARD, UNTUNED, Row, row_of
from paper_figures.testbed_entries import clips_of, gather, judge

if TYPE_CHECKING:
    from paper_figures.testbed import Testbed

READS = "testbed"
METHODS = ("dense", "radial")
PAPER_MODEL = "HunyuanVideo"
LINES = {UNTUNED: ":", LORA: "-", FULL: "--"}
"""How a curve is drawn, by how its points were tuned."""
WORDS = {UNTUNED: "untuned", LORA: "LoRA", FULL: "all weights"}


class Point(NamedTuple):
    """A reward at a length."""

    frames: int
    reward: Interval


Curves = Mapping[tuple[str, str], list[Point]]
"""Points by method and tuning."""


def rows(source: Testbed) -> list[Row]:
    """The cells that the figure shows: dense and radial of its variants, and untuned dense."""
    cells = source.cells(FIGURE)
    if not cells:
        return []
    cells = [*source.references(), *(cell for cell in cells if cell.method in METHODS)]
    return [row_of(source.experiment, cell) for cell in cells]


def curves(source: Testbed, shown: Iterable[Row]) -> Curves:
    """The rewards with their intervals; a cell without two clips that were judged has no point."""
    shown = list(shown)
    held = gather(source.experiment, [row.cell for row in shown], ())
    found: dict[tuple[str, str], list[Point]] = {}
    for row in sorted(shown, key=lambda row: row.cell.fact("frames")):
        reward = held.interval(row.cell, REWARD)
        if reward is not None:
            point = Point(row.cell.fact("frames"), reward)
            found.setdefault((row.cell.method, row.kind), []).append(point)
    return found


def printed() -> Curves:
    """What the paper's Table 2 prints of the same curves; it has no intervals."""
    found: dict[tuple[str, str], list[Point]] = {}
    for row in published.rows("table2"):
        reward = row.number("vision_reward")
        if row.model == PAPER_MODEL and row.method in METHODS and reward is not None:
            kind = LORA if row.tuning == "tuned" else UNTUNED
            point = Point(row.frames, Interval(reward, reward, reward, 1))
            found.setdefault((row.method, kind), []).append(point)
    return found


def reward_panel(axes: Axes, found: Curves, title: str) -> None:
    """Reward against frames, a curve for each method and tuning; points of one length stand a little apart."""
    axes.set_title(title, loc="left")
    axes.set_xlabel("Frames")
    axes.set_ylabel("Vision reward")
    keys = [(method, kind) for kind in LINES for method in METHODS if (method, kind) in found]
    if not keys:
        absent(axes)
        return
    for place, (method, kind) in enumerate(keys):
        points = found[method, kind]
        bars = any(point.reward.high > point.reward.low for point in points)
        apart = 1.05 ** (place - (len(keys) - 1) / 2) if bars else 1.0
        means = [point.reward.mean for point in points]
        ends = [
            [point.reward.mean - point.reward.low for point in points],
            [point.reward.high - point.reward.mean for point in points],
        ]
        colour, marker = look(method)
        axes.errorbar(
            [point.frames * apart for point in points], means, yerr=ends if bars else None, color=colour, marker=marker,
            linestyle=LINES[kind], linewidth=1.1, markersize=6 if marker == "*" else 4, capsize=2, elinewidth=0.8,
            markerfacecolor=colour if kind == LORA else "white", label=f"{method}, {WORDS[kind]}",
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    frames = sorted({point.frames for points in found.values() for point in points})
    axes.xaxis.set_major_locator(FixedLocator(frames))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(frames[0] / 1.25, frames[-1] * 1.25)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.legend(loc="best", handlelength=2.6)


def decay(source: Testbed, model: str | None) -> dict[str, Any] | None:
    """What was probed of a model, or else of the first that was probed; None where nothing was.

    Raises:
        ValueError: a file is not what ``probe`` writes.
    """
    found = decay_panels.decayed(source.experiment.folder)
    return next((facts for facts in found if facts["model"] == model), found[0] if found else None)


def caption(shown: list[Row], name: str, facts: Mapping[str, Any] | None) -> str:
    """What must be said of the panels, in lines that fit the page."""
    said = []
    if shown:
        judged = f"{clips_of(row.cell for row in shown)} clips a point"
        judged += f", judge {name}" if name else ""
        said.append(f"a: {shown[0].cell.model}, {judged}; bars are 95 % bootstrap intervals over the prompts.")
        said.append("The paper's judge is another one: only the shapes of the curves can be compared.")
        said.append("The paper draws full tunings too, but prints no numbers of them.")
    if facts is not None:
        said.append(f"b: mean attention score of {facts['model']} over all layers, heads and recorded steps.")
    return "\n".join(said)


def make(source: Testbed, out: Path) -> list[Path]:
    """Writes the figure. Returns its files."""
    shown = rows(source)
    model = shown[0].cell.model if shown else None
    facts = decay(source, model)
    with styled():
        figure = Figure(figsize=(WIDTH, 5.0), layout="constrained")
        panels = figure.subplots(2, 2)
        reward_panel(panels[0, 0], curves(source, shown), f"a  Ours: {model}" if model else "a  Ours")
        reward_panel(panels[0, 1], printed(), f"Published: {PAPER_MODEL}, Table 2")
        for axes, axis in zip(panels[1], decay_panels.AXES, strict=True):
            if facts is None:
                absent(axes)
            else:
                decay_panels.fit_panel(axes, facts, (axis,))
            axes.set_title(f"b  {axis.capitalize()} decay", loc="left")
        figure.supxlabel(caption(shown, judge(source.experiment, [row.cell for row in shown]), facts), fontsize=7)
        return save(figure, out, FIGURE)
