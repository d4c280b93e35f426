"""Sample strips: frames of each method's clip of one prompt, a row a method. Figures 6 and 7 are made of them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paper_figures.entries import ROLES, WORDS
from paper_figures.experiment import CellRows, Experiment
from paper_figures.shown_clips import NOT_COMMITTED
from paper_figures.style import WIDTH, look, save, styled

LABEL, END, GAP, FOOT = 0.95, 0.72, 0.12, 0.08
"""Inches: for the methods' names, the words at a row's end, between strips, below the pictures."""
HEAD, LINE = 0.4, 0.118
"""Inches above the pictures, and for each line of the prompt, and of the heading after its first, besides."""
NOT_ASKED = "not part of the experiment"
"""What stands where a method is drawn at another length alone."""


@dataclass(frozen=True)
class Strip:
    """Clips of one prompt.

    Args:
        heading: model and length.
        prompt: what the clips were asked to show.
        times: the frames that are shown.
        rows: for each method its cell, its pictures (uint8, (times, height, width, 3)) or None, and the words at the
            row's end.
    """

    heading: str
    prompt: str
    times: list[int]
    rows: list[tuple[CellRows, np.ndarray | None, str]]


Reader = Callable[[Experiment, CellRows, int], "np.ndarray | None"]
"""Reads a cell's clip by its number: uint8 (frames, height, width, 3), or None where it is not at hand."""


def strip(
    source: Experiment, cells: list[CellRows], clip: int, count: int, reader: Reader | None = None, label: str = ""
) -> Strip:
    """The strip of a clip under all methods of some cells of one model and length.

    Args:
        clip: number of the prompt.
        count: frames that are shown, evenly spread from the first to the last.
        reader: where clips come from; the experiment's own, which must be there, unless another is given.
        label: what stands in the heading besides model and length.

    Raises:
        ValueError: no clip passed, a clip is not there, or it is not the one of the record.
    """
    reader = reader or read
    frames = cells[0].fact("frames")
    times = [round(n * (frames - 1) / max(count - 1, 1)) for n in range(min(count, frames))]
    prompt, rows = None, []
    for cell in cells:
        failed = cell.failed("generate")
        if failed is not None:
            rows.append((cell, None, WORDS.get(failed["status"], failed["status"])))
            continue
        told = source.record(cell, "generate")["clips"]
        if clip >= len(told):
            raise ValueError(f"{cell.method} at {cell.length}: clip {clip} is asked for, its record names {len(told)}")
        pictures = reader(source, cell, clip)
        if pictures is None:
            rows.append((cell, None, NOT_COMMITTED))
        else:
            rows.append((cell, pictures[times], verdict(source, cell, clip)))
        prompt = prompt or told[clip]["prompt"]
    if prompt is None:
        raise ValueError(f"{source.table}: no clip of {cells[0].model} at {cells[0].length} passed")
    heading = f"{cells[0].model}, {cells[0].length} ({frames} frames)" + (f", {label}" if label else "")
    return Strip(heading, prompt, times, rows)


def read(source: Experiment, cell: CellRows, number: int) -> np.ndarray:
    """A clip of a cell's record: uint8 (frames, height, width, 3).

    Raises:
        ValueError: the file is missing, or is another than the record's.
    """
    from benchmark.clips import read_clip, sha256

    told = source.record(cell, "generate")["clips"][number]
    path = source.file("clips", *cell.path, told["name"])
    if sha256(path) != told["sha256"]:
        raise ValueError(f"{path}: not the clip that its record names; generate it anew")
    return read_clip(path)


def verdict(source: Experiment, cell: CellRows, clip: int) -> str:
    """What stands at the row's end: the clip's PSNR to the dense one."""
    if cell.method == "dense" and cell.tuning == "untuned":
        return "reference"
    failed = cell.failed("measure")
    if failed is not None:
        return WORDS.get(failed["status"], failed["status"]).replace(" ", "\n", 1)
    told = source.record(cell, "measure")["clips"][clip]
    value = told.get("values", told).get("psnr")
    if value is None:
        return "no PSNR"
    return "= dense" if value >= 100 else f"{value:.1f} dB"


def draw(strips: list[Strip], out: Path, name: str) -> list[Path]:
    """Draws strips beside each other and writes the figure. Returns its files."""
    shown = [len(one.times) for one in strips]
    side = (WIDTH - LABEL - len(strips) * END - (len(strips) - 1) * GAP) / sum(shown)
    shapes = (pictures.shape for one in strips for _, pictures, _ in one.rows if pictures is not None)
    shape = next(shapes, (1, 1, 2, 3))
    tall = side * shape[1] / shape[2]
    widths = [n * side + END for n in shown]
    prompts = [textwrap.wrap(one.prompt, int(width * 18)) for one, width in zip(strips, widths, strict=True)]
    headings = [textwrap.wrap(one.heading, int(width * 14)) for one, width in zip(strips, widths, strict=True)]
    below = LINE * (max(map(len, headings)) - 1)
    head = HEAD + LINE * max(map(len, prompts)) + below
    rows = {(cell.method, cell.tuning): cell for one in strips for cell, _, _ in one.rows}
    places = {key: head + n * (tall + 0.03) for n, key in enumerate(rows)}
    height = head + FOOT + len(rows) * (tall + 0.03)
    with styled():
        figure = Figure(figsize=(WIDTH, height))
        for key, cell in rows.items():
            _label(figure, cell, 1 - (places[key] + tall / 2) / height)
        left = LABEL
        for one, count, heading, prompt in zip(strips, shown, headings, prompts, strict=True):
            x, y = left / WIDTH, 1 - (0.21 + below) / height
            figure.text(x, 1 - 0.06 / height, "\n".join(heading), va="top", fontsize=7.5, weight="bold")
            figure.text(x, y, "\n".join(prompt), va="top", fontsize=7, style="italic")
            _frame_numbers(figure, one, left, count * side, 1 - (head - 0.03) / height)
            here = {(cell.method, cell.tuning): (pictures, words) for cell, pictures, words in one.rows}
            for key in rows:
                bottom = 1 - (places[key] + tall) / height
                middle = bottom + tall / 2 / height
                pictures, words = here.get(key, (None, NOT_ASKED))
                if pictures is None:  # the status stands where the pictures would
                    x = (left + count * side / 2) / WIDTH
                    figure.text(x, middle, words, va="center", ha="center", fontsize=7, style="italic")
                    continue
                axes = figure.add_axes((left / WIDTH, bottom, count * side / WIDTH, tall / height))
                axes.imshow(_row(pictures), interpolation="antialiased", aspect="auto")
                axes.axis("off")
                figure.text((left + count * side + 0.05) / WIDTH, middle, words, va="center", fontsize=7)
            left += count * side + END + GAP
        return save(figure, out, name)


def _row(pictures: np.ndarray) -> np.ndarray:
    """Pictures in a row, with a white line between them: uint8 (height, ..., 3)."""
    line = np.full((pictures.shape[1], max(pictures.shape[2] // 32, 1), 3), 255, np.uint8)
    parts = [part for picture in pictures for part in (picture, line)]
    return np.concatenate(parts[:-1], axis=1)


def _label(figure: Figure, cell: CellRows, y: float) -> None:
    """A method's look and name."""
    colour, marker = look(cell.method)
    text = cell.fact("title").replace(", ", ",\n")  # longer lines would run into the first frame
    if cell.tuning == "tuned":
        text += ",\ntuned"
    elif cell.method in ROLES:
        text += f"\n({ROLES[cell.method]})"
    figure.add_artist(Line2D([0.1 / WIDTH], [y], color=colour, marker=marker, markersize=5, linestyle=""))
    figure.text(0.2 / WIDTH, y, text, va="center", fontsize=7.5)


def _frame_numbers(figure: Figure, one: Strip, left: float, wide: float, y: float) -> None:
    """What stands above the columns of a strip."""
    for n, time in enumerate(one.times):
        figure.text((left + (n + 0.5) * wide / len(one.times)) / WIDTH, y, str(time), ha="center", fontsize=7)
    if left == LABEL:
        figure.text((left - 0.05) / WIDTH, y, "frame", ha="right", fontsize=7)
    figure.text((left + wide + 0.05) / WIDTH, y, "PSNR", fontsize=7)
