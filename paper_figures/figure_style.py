"""Figure F: a style adapter, a length adapter and both merged: their clips, how much style these show, their reward."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmark.tuning.settings import PLAIN
from paper_figures import published
from paper_figures.experiment import CellRows
from paper_figures.shown_clips import NOT_COMMITTED, most_shown, pictures
from paper_figures.style import WIDTH, absent, look, save, styled
from paper_figures.testbed_entries import Numbers, clips_of, gather, judge

if TYPE_CHECKING:
    from paper_figures.testbed import Testbed

READS = "testbed"
NAME = "figure_style"
FOR = "style"
"""What stands under ``for`` in the configuration."""
STYLE, LENGTH, BOTH = "style", "length", "both"
TITLES = {STYLE: "Style alone", LENGTH: "Length alone", BOTH: "Both merged"}
METHODS = ("dense", "radial")
REWARD, FREE_REWARD = "vision_reward", "style_reward"
SHOWN = 8
"""Frames of a strip."""
LABEL, GAP, HEAD, PANELS, FOOT = 1.12, 0.03, 0.36, 1.95, 0.64
"""Inches: names of the strips, between pictures, above the strips, height of the panels, the words below them."""


@dataclass(frozen=True)
class Row:
    """A cell, which adapters it has (``STYLE``, ``LENGTH`` or ``BOTH``), and its style's name; empty for a length."""

    cell: CellRows
    kind: str
    style: str

    @property
    def label(self) -> str:
        """The row's name, in two lines."""
        return f"{TITLES[self.kind]}\n{self.cell.method}, {self.cell.fact('frames')} frames"

    @property
    def short(self) -> str:
        """The row's name below a panel."""
        return f"{self.kind}\n{self.cell.method}\n{self.cell.fact('frames')}f"


def rows(source: Testbed) -> list[Row]:
    """The cells of the figure: the style alone, the length alone, both; of the methods that are merged."""
    found = [row_of(source, cell) for cell in source.cells(FOR)]
    merged = [row.cell.method for row in found if row.kind == BOTH] or METHODS
    shown = [row for row in found if row.kind == STYLE or row.cell.method in merged]
    order = list(TITLES)
    return sorted(shown, key=lambda row: (order.index(row.kind), row.cell.method != "dense", row.cell.method))


def row_of(source: Testbed, cell: CellRows) -> Row:
    """A cell and its adapters, from its record.

    Raises:
        ValueError: the record is missing or damaged, or the cell is not tuned.
    """
    told = source.experiment.record(cell, cell.rows[0]["kind"])["cell"]
    if told.get("merged"):
        return Row(cell, BOTH, "")
    style = told.get("tuning_settings", {}).get("style")
    if style is None:
        raise ValueError(f"{'/'.join(cell.path)}: not tuned; Figure F shows adapters")
    return Row(cell, LENGTH, "") if style == PLAIN else Row(cell, STYLE, style)


def passed(shown: list[Row]) -> list[Row]:
    """The rows whose clips were drawn."""
    return [row for row in shown if row.cell.failed("generate") is None]


# --- Panels --------------------------------------------------------------------------------------------------------


def bars(axes: Axes, held: Numbers, shown: list[Row], metric: str) -> bool:
    """A mean with its interval for every row. Returns whether there is any."""
    found = [(place, row, held.interval(row.cell, metric)) for place, row in enumerate(shown)]
    found = [(place, row, told) for place, row, told in found if told is not None]
    for place, row, told in found:
        ends = [[max(told.mean - told.low, 0)], [max(told.high - told.mean, 0)]]
        axes.bar(place, told.mean, 0.62, color=look(row.cell.method).colour, alpha=0.35 if row.kind != BOTH else 0.75)
        axes.errorbar(place, told.mean, yerr=ends, color="black", linewidth=0.9, capsize=2.5)
    return bool(found)


def named(axes: Axes, shown: list[Row]) -> None:
    """The rows' names below a panel."""
    axes.set_xticks(range(len(shown)), [row.short for row in shown], fontsize=6)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(shown) - 0.4)


def style_panel(axes: Axes, held: Numbers, shown: list[Row], style: str | None) -> None:
    """How much of the style the clips show."""
    axes.set_title(f"Style score{f', {style}' if style else ''}", loc="left")
    if style is None or not bars(axes, held, shown, f"style_{style}"):
        absent(axes)
        return
    axes.set_ylim(min(0.0, axes.get_ylim()[0]), 1.08)
    axes.axhline(0, color="black", linewidth=0.6)
    named(axes, shown)


def reward_panel(axes: Axes, held: Numbers, shown: list[Row], name: str) -> None:
    """Vision reward of the clips, and once the style is taken away."""
    axes.set_title(f"Vision reward{f', judge {name}' if name else ''}", loc="left")
    any_free = bars(axes, held, shown, FREE_REWARD)
    raw = [(place, told) for place, row in enumerate(shown) if (told := held.interval(row.cell, REWARD)) is not None]
    if not raw and not any_free:
        absent(axes)
        return
    for n, (place, told) in enumerate(raw):
        ends = [[max(told.mean - told.low, 0)], [max(told.high - told.mean, 0)]]
        axes.errorbar(
            place + 0.2, told.mean, yerr=ends, color="black", marker="D", markersize=3.5, markerfacecolor="white",
            linestyle="", linewidth=0.8, capsize=1.8, label="as drawn" if n == 0 else None,
        )  # fmt: skip
    axes.axhline(0, color="black", linewidth=0.6)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.18 * (high - low))
    axes.legend(loc="upper right", handletextpad=0.2, borderaxespad=0.0)
    named(axes, shown)


def paper_panel(axes: Axes) -> None:
    """What the paper prints."""
    told = published.rows("figure_f")
    axes.set_title("Published reward", loc="left")
    for place, row in enumerate(told):
        axes.bar(place, row.number("vision_reward"), 0.62, facecolor="white", edgecolor=look(row.method).colour)
    axes.set_xticks(range(len(told)), [f"{row.method}\n{row.frames}f" for row in told], fontsize=6)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(told) - 0.4)


# --- The figure ----------------------------------------------------------------------------------------------------


def strip(figure: Figure, clip: np.ndarray, left: float, bottom: float, side: float) -> None:
    """Frames of a clip, evenly spread, in a row; all lengths in inches."""
    wide, tall = figure.get_size_inches()
    for n in range(SHOWN):
        time = round(n * (len(clip) - 1) / (SHOWN - 1))
        axes = figure.add_axes(((left + n * (side + GAP)) / wide, bottom / tall, side / wide, side / tall))
        axes.imshow(clip[time], interpolation="antialiased")
        axes.axis("off")


def strips(figure: Figure, source: Testbed, shown: list[Row], side: float, number: int) -> None:
    """A strip a row, with its name; below the prompt."""
    wide, tall = figure.get_size_inches()
    drawn = passed(shown)
    if drawn:
        prompt = source.experiment.record(drawn[0].cell, "generate")["clips"][number]["prompt"]
        words = "\n".join(textwrap.wrap(prompt, 118)[:2])
        figure.text(LABEL / wide, 1 - 0.08 / tall, words, va="top", fontsize=7, style="italic")
    for place, row in enumerate(shown):
        bottom = tall - HEAD - (place + 1) * side - place * 2 * GAP
        middle = (bottom + side / 2) / tall
        figure.text(0.04 / wide, middle, row.label, va="center", fontsize=7.5)
        clip = pictures(source.experiment, row.cell, number) if row in drawn else None
        if clip is None:
            why = NOT_COMMITTED if row in drawn else row.cell.failed("generate")["status"]
            figure.text((LABEL + 4 * side) / wide, middle, why, ha="center", va="center", fontsize=7, style="italic")
        else:
            strip(figure, clip, LABEL, bottom, side)


def caption(shown: list[Row], name: str) -> str:
    """What must be said of the panels, in lines that fit the page."""
    said = []
    if shown:
        said.append(
            f"{shown[0].cell.model}, {clips_of(row.cell for row in shown)} clips a bar, 95 % bootstrap intervals. "
            "Style score: 0 for the world as it is, 1 as the style draws it."
        )
        said.append(
            "Reward: bars once the style was taken away, for the judge knows the plain world only; diamonds as drawn."
        )
        missing = [TITLES[kind].lower() for kind in TITLES if all(row.kind != kind for row in shown)]
        if missing:
            said.append(f"Not measured yet: {', '.join(missing)}.")
    told = published.rows("figure_f")[0].model
    other = f", by another judge than {name}" if name else ""
    said.append(f"Published: what Figure F of arXiv 2506.19852 v2 prints of {told} with a style LoRA{other}.")
    return "\n".join(said)


def make(source: Testbed, out: Path) -> list[Path]:
    """Writes the figure. Returns its files."""
    shown = rows(source)
    held = gather(source.experiment, [row.cell for row in shown], ())
    style = next((row.style for row in shown if row.style), None)
    name = judge(source.experiment, [row.cell for row in shown])
    side = (WIDTH - LABEL - SHOWN * GAP) / SHOWN
    tall = (HEAD + len(shown) * (side + 2 * GAP) if shown else 0.3) + PANELS + FOOT
    with styled():
        figure = Figure(figsize=(WIDTH, tall))
        if shown:
            strips(figure, source, shown, side, most_shown(source.experiment, (row.cell for row in shown)))
        panels = figure.subplots(
            1, 3, width_ratios=(1.25, 1.25, 0.8),
            gridspec_kw={
                "left": 0.07, "right": 0.99, "bottom": (FOOT + 0.3) / tall, "top": (FOOT + PANELS - 0.22) / tall,
                "wspace": 0.25,
            },
        )  # fmt: skip
        style_panel(panels[0], held, shown, style)
        reward_panel(panels[1], held, shown, name)
        paper_panel(panels[2])
        for axes in panels:
            axes.grid(axis="y")
            axes.set_axisbelow(True)
        figure.text(0.5, 0.06 / tall, caption(shown, name), ha="center", va="bottom", fontsize=7)
        return save(figure, out, NAME)
