"""Draws the pictures of docs/methods.md: every method's mask on one small grid, and the positions of RIFLEx.

    PYTHONPATH=. python docs/draw_masks.py            writes docs/images/*.png
    PYTHONPATH=. python docs/draw_masks.py my_method  writes the picture of one method

All masks are drawn in frame-major order, whatever order they are planned in, a pixel a query-key pair.
"""

from __future__ import annotations

import argparse
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from benchmark import registry
from benchmark.budget import at_budget, reach
from benchmark.layout import VideoLayout
from benchmark.method import Method, Pattern
from paper_figures.style import look, styled

LAYOUT = VideoLayout(20, 6, 8)
TEXT = 32
BLOCK = 4
BUDGET = 0.4
HEADS = 2
QUERY = (9, 2, 5)
"""Frame, row and column of the query whose keys are shown frame by frame."""

KNOBS = {"sta": {"tile": "4x3x4"}}
"""What differs from a method's defaults besides the budget: the paper's tile is larger than this grid's frames."""

IMAGES = Path(__file__).resolve().parent / "images"
DPI = 160
LEFT, TOP, RIGHT, BOTTOM, GAP = 84, 76, 24, 16, 84
"""Margins of a picture, and the gap between the mask and the frames, in pixels."""
CELL, FRAMES_A_ROW, FRAME_GAP, LABEL = 12, 4, 14, 30
"""Pixels a token, frames side by side, pixels between them, and pixels for a frame's number above it."""
BACKGROUND = ((1.0, 1.0, 1.0), (0.955, 0.955, 0.955))
TEXT_BACKGROUND = (0.88, 0.92, 0.97)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class View:
    """One panel: a mask in frame-major order.

    Args:
        method: name of the method.
        title: what stands above it.
        layout: the token grid.
        kept: bool (tokens, tokens), which keys each query attends to.
        density: that of the mask.
    """

    method: str
    title: str
    layout: VideoLayout
    kept: np.ndarray
    density: float


def frame_major(pattern: Pattern, order: int = 0, head: int = 0) -> np.ndarray:
    """A pattern token by token, as the model sees it: bool (tokens, tokens).

    Args:
        order: which of the pattern's orders.
        head: which of the mask's heads, if it has several.
    """
    planned = pattern.mask.to_tokens()[head]
    where = pattern.orders[order]
    if where is None:
        return planned.numpy()
    kept = torch.zeros_like(planned)
    kept[where[:, None], where[None, :]] = planned
    return kept.numpy()


def setting(name: str) -> Method:
    """A method at the pictures' budget, or at the end of its reach that is nearest to it."""
    method = registry.get(name, KNOBS.get(name))
    found = reach(method, LAYOUT, BLOCK)
    if found is None:
        return method
    low, high = found
    return at_budget(method, LAYOUT, BLOCK, min(max(BUDGET, low), high))


def views(name: str) -> dict[str, list[View]]:
    """The panels of a method's pictures, by file name without suffix. RIFLEx has none: its mask is the dense one."""
    if name == "riflex":
        return {}
    if name == "radial":
        text = VideoLayout(LAYOUT.frames, LAYOUT.height, LAYOUT.width, TEXT)
        fourth = registry.get("radial", {"geometry": "equation4"})
        return {
            "radial": [_view(setting(name), LAYOUT)],
            "radial_equation4": [_view(fourth, LAYOUT)],
            "radial_text": [_view(setting(name), text)],
        }
    method = setting(name)
    if name == "sana":
        return {name: [_view(method, LAYOUT, ["no mask: all pairs weigh in, none is computed by itself"])]}
    halves = {
        "svg": ["spatial heads", "temporal heads"],
        "longlora": ["first half of the heads", "second half of the heads"],
    }
    return {name: [_view(method, LAYOUT, halves.get(name, [""]), n) for n in range(len(halves.get(name, [""])))]}


def _view(method: Method, layout: VideoLayout, words: list[str] | None = None, order: int = 0) -> View:
    pattern = method.pattern(layout, BLOCK, HEADS)
    said = (words or [""])[order]
    density = pattern.mask.density
    knob = method.density_knob()
    value = getattr(method, knob) if knob else None
    facts = [] if value is None else [f"{knob} {value:.3g}" if isinstance(value, float) else f"{knob} {value}"]
    if hasattr(method, "window") and hasattr(method, "tile"):
        facts = [f"tiles of {method.tile}, window {method.window}"]
    if method.name() == "radial":
        facts = [f"{method.geometry} geometry", *facts] if knob else ["equation 4"]
    if layout.text:
        facts.append(f"{layout.text} text tokens")
    title = ", ".join([method.title + (f" ({said})" if said else ""), *facts])
    if method.name() != "sana":
        title += f": density {density:.3f}"
    return View(method.name(), title, layout, frame_major(pattern, order), density)


def query_index(layout: VideoLayout) -> int:
    """Index of the query whose keys are shown."""
    frame, row, column = QUERY
    return (frame * layout.height + row) * layout.width + column


def mask_pixels(view: View) -> np.ndarray:
    """The mask as a picture, a pixel a pair: float (tokens, tokens, 3); frames alternate in tint."""
    layout = view.layout
    frame = torch.arange(layout.tokens).div(layout.frame_tokens, rounding_mode="floor").numpy()
    odd = (frame[:, None] + frame[None, :]) % 2
    picture = np.array(BACKGROUND)[odd]
    if layout.text:
        picture[layout.video :] = picture[:, layout.video :] = TEXT_BACKGROUND
    picture[view.kept] = to_rgb(look(view.method).colour)
    return picture


def frames_pixels(view: View) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """What one query sees, frame by frame, and text below it: float (height, width, 3), and each frame's corner."""
    layout = view.layout
    seen = view.kept[query_index(layout)]
    high, wide = layout.height * CELL, layout.width * CELL
    rows = -(-layout.frames // FRAMES_A_ROW)
    text_rows = -(-layout.text // (FRAMES_A_ROW * layout.width))
    height = rows * (high + LABEL + FRAME_GAP) + (text_rows * CELL + LABEL if layout.text else 0)
    picture = np.ones((height, FRAMES_A_ROW * (wide + FRAME_GAP) - FRAME_GAP, 3))
    colour = np.array(to_rgb(look(view.method).colour))

    def paint(top: int, left: int, shown: bool, background: tuple[float, ...], asks: bool = False) -> None:
        picture[top : top + CELL - 1, left : left + CELL - 1] = colour if shown else background
        if asks:  # black in a white ring, to be seen on every colour
            picture[top : top + CELL - 1, left : left + CELL - 1] = 1.0
            picture[top + 2 : top + CELL - 3, left + 2 : left + CELL - 3] = 0.0

    corners = []
    for frame in range(layout.frames):
        top = frame // FRAMES_A_ROW * (high + LABEL + FRAME_GAP) + LABEL
        left = frame % FRAMES_A_ROW * (wide + FRAME_GAP)
        corners.append((top, left))
        for place in range(layout.frame_tokens):
            token = frame * layout.frame_tokens + place
            row, column = divmod(place, layout.width)
            asks = token == query_index(layout)
            paint(top + row * CELL, left + column * CELL, bool(seen[token]), BACKGROUND[1], asks)
    for token in range(layout.text):
        row, column = divmod(token, FRAMES_A_ROW * layout.width)
        gaps = column // layout.width * FRAME_GAP
        top = rows * (high + LABEL + FRAME_GAP) + LABEL + row * CELL
        paint(top, column * CELL + gaps, bool(seen[layout.video + token]), TEXT_BACKGROUND)
    return picture, corners


def mask_corner(number: int, layout: VideoLayout) -> tuple[int, int]:
    """Pixel row and column of the upper left corner of a picture's mask, panels counted from 0."""
    return number * (layout.tokens + TOP + BOTTOM) + TOP, LEFT


def draw(panels: list[View], path: Path) -> None:
    """Writes one picture: below each other, the mask of each panel and what one query sees under it."""
    layout = panels[0].layout
    side = layout.tokens
    frames_left = LEFT + side + GAP
    width = frames_left + FRAMES_A_ROW * (layout.width * CELL + FRAME_GAP) - FRAME_GAP + RIGHT
    height = len(panels) * (side + TOP + BOTTOM)
    with styled():
        figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)

        def place(pixels: np.ndarray, top: int, left: int) -> None:
            figure.figimage(pixels, left, height - top - pixels.shape[0])

        def write(text: str, top: float, left: float, size: float = 9, **how: object) -> None:
            figure.text(left / width, 1 - top / height, text, fontsize=size, **how)

        for number, view in enumerate(panels):
            top, left = mask_corner(number, layout)
            place(mask_pixels(view), top, left)
            write(view.title, top - 42, left, 10.5, weight="bold", va="bottom")
            write("key frame", top - 8, left + 10.5 * layout.frame_tokens, va="bottom", ha="center")
            write("query frame", top + side / 2, left - 52, va="center", ha="center", rotation=90)
            for frame in range(0, layout.frames, 4):
                at = (frame + 0.5) * layout.frame_tokens
                write(str(frame), top - 8, left + at, va="bottom", ha="center")
                write(str(frame), top + at, left - 10, va="center", ha="right")
            if layout.text:
                at = layout.video + layout.text / 2
                write("text", top - 8, left + at, va="bottom", ha="center")
                write("text", top + at, left - 10, va="center", ha="right")
            pixels, corners = frames_pixels(view)
            down = top + (side - pixels.shape[0]) // 2
            place(pixels, down, frames_left)
            write("what the query in the white ring sees", down - 6, frames_left, va="bottom")
            for frame, (row, column) in enumerate(corners):
                write(str(frame), down + row - 4, frames_left + column, 8, va="bottom")
            if layout.text:
                below = corners[-1][0] + layout.height * CELL + FRAME_GAP
                write("text", down + below + 26, frames_left, 8, va="bottom")
        _save(figure, path)


def draw_positions(path: Path) -> None:
    """Writes the picture of RIFLEx: the testbed's intrinsic component over time, as it is and as it is lowered."""
    from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

    from benchmark import models
    from benchmark.models.testbed import manifest
    from benchmark.models.wan import temporal_frequencies

    spec = models.get("testbed-nano")
    own = temporal_frequencies(WanRotaryPosEmbed(spec.head_dim, spec.patch, max(spec.lengths.values())))
    repetition, frames = manifest(spec.name)["repetition"], max(spec.lengths.values())
    lowered = registry.get("riflex").temporal_frequencies(own, frames, repetition)
    component = int((own != lowered).nonzero()[0, 0])
    time = np.arange(frames)
    colour = look("svg").colour
    with styled():
        figure = Figure(figsize=(8.4, 2.5), dpi=DPI, layout="constrained")
        axes = figure.add_subplot()
        for frequency, style, word in ((own[component], "--", "the model's"), (lowered[component], "-", "RIFLEx")):
            period = 2 * np.pi / float(frequency)
            angle = float(frequency) * time
            axes.plot(time, np.cos(angle), style, color=colour, label=f"{word}: a period of {period:.1f} frames")
        axes.axvspan(0, spec.lengths["1x"] - 1, color=BACKGROUND[1], zorder=0)
        axes.text(0.4, 1.1, "trained length", fontsize=9, va="bottom")
        axes.axvline(repetition, color="black", linewidth=0.8, linestyle=":")
        axes.text(repetition + 0.5, 1.1, f"seen to repeat after {repetition} frames", fontsize=9, va="bottom")
        axes.set_xlabel("latent frame", fontsize=9)
        axes.set_ylabel("cosine", fontsize=9)
        axes.set_xlim(0, frames - 1)
        axes.set_ylim(-1.1, 1.4)
        title = f"RIFLEx: temporal component {component + 1} of {spec.name} at {frames} frames"
        figure.suptitle(title, fontsize=10.5, weight="bold")
        axes.legend(fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
        _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    """Writes a PNG, whole or not at all; the same picture gives the same bytes."""
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        picture.save(part, format="PNG", optimize=True)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def main() -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Draw the pictures of docs/methods.md.")
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="methods to draw (default: all)")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)  # many small steps, for which more threads only wait for each other
    for name in args.methods or registry.names():
        if name == "riflex":
            draw_positions(IMAGES / "riflex.png")
        for file, panels in views(name).items():
            draw(panels, IMAGES / f"{file}.png")
        logger.info("%s is drawn", name)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
