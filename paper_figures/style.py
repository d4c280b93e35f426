"""How every figure looks: one palette, one colour and marker a method, and files that come out the same each time."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_figures.tables import NOT_YET

WIDTH = 7.0
"""Inches across a page of text."""


class Look(NamedTuple):
    """Colour and marker of a method."""

    colour: str
    marker: str


# Okabe and Ito's colours, which stay apart for colour-blind readers; methods that share one differ in marker.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE, GREY = (
    "#000000", "#e69f00", "#56b4e9", "#009e73", "#d8c300", "#0072b2", "#d55e00", "#cc79a7", "#8a8a8a",
)  # fmt: skip
LOOKS = {
    "dense": Look(BLACK, "o"),
    "riflex": Look(BLACK, "D"),
    "sta": Look(SKY, "s"),
    "pa": Look(GREEN, "^"),
    "svg": Look(BLUE, "v"),
    "spatial": Look(ORANGE, "<"),
    "temporal": Look(PURPLE, ">"),
    "longlora": Look(YELLOW, "P"),
    "sana": Look(ORANGE, "X"),
    "harmonic": Look(PURPLE, "h"),
    "radial": Look(VERMILION, "*"),
    "random": Look(GREY, "x"),
    "dense_repeated": Look(GREY, "o"),
}
SPARE = tuple(Look(colour, marker) for marker in ("p", "d", "8", "H") for colour in (SKY, GREEN, BLUE, YELLOW))
"""For methods that are not named above; none of these looks is taken."""


def look(method: str) -> Look:
    """Colour and marker of a method, the same in every figure and run, also of one that nobody has heard of."""
    if method in LOOKS:
        return LOOKS[method]
    return SPARE[int(hashlib.sha256(method.encode()).hexdigest(), 16) % len(SPARE)]


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """The settings under which figures are drawn and saved."""
    with rc_context(
        {
            "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine draws the same
            "font.size": 8,
            "axes.titlesize": 8.5,
            "axes.labelsize": 8,
            "xtick.labelsize": 7,
            "ytick.labelsize": 7,
            "legend.fontsize": 7,
            "legend.frameon": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.linewidth": 0.6,
            "xtick.major.width": 0.6,
            "ytick.major.width": 0.6,
            "lines.linewidth": 1.4,
            "lines.markersize": 4.5,
            "axes.grid": False,
            "grid.linewidth": 0.4,
            "grid.color": "#dddddd",
            "image.interpolation": "nearest",
            "pdf.fonttype": 42,
            "pdf.use14corefonts": False,
            "savefig.facecolor": "white",
        }
    ):
        yield


def save(figure: Figure, out: Path, name: str) -> list[Path]:
    """Writes a figure as PDF with embedded fonts and as PNG with 200 dots an inch; the same figure, the same bytes.

    Returns:
        The two files, each written whole or not at all.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    metadata = {"pdf": {"CreationDate": None, "Creator": None, "Producer": None}, "png": {"Software": None}}
    written = []
    for kind, facts in metadata.items():
        path = out / f"{name}.{kind}"
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            figure.savefig(part, format=kind, dpi=200, metadata=facts)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        written.append(path)
    return written


def absent(axes: Axes) -> None:
    """Says in the middle of a panel that nothing of it is measured, and takes its ticks away."""
    absent_at(axes, 0.5, 0.5)
    axes.set(xticks=[], yticks=[])
    axes.minorticks_off()


def absent_at(axes: Axes, x: float, y: float) -> None:
    """Says in a panel that our part of it is not measured, round a place in shares of its sides."""
    axes.text(x, y, NOT_YET, transform=axes.transAxes, ha="center", va="center", fontsize=7, color=GREY)
