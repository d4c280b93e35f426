"""Figure 5: how much of each frame Radial Attention computes, and the masks that this becomes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap, ListedColormap, to_rgb
from matplotlib.figure import Figure

from benchmark import models, registry
from benchmark.layout import VideoLayout
from benchmark.masks import BlockMask
from paper_figures.experiment import Experiment
from paper_figures.style import BLACK, WIDTH, look, save, styled

FRAMES = 12
SMALL, SMALL_BLOCK = VideoLayout(FRAMES, 16, 16), 16
LARGE = ("hunyuanvideo", 253, 720, 1280)
LARGE_BLOCK = 128
HEIGHT, SIDE, BOTTOM = 2.85, 1.7, 0.9
PIXELS = 600
"""A picture has at most so many points a side; each then shows the share of its blocks that are kept."""


def compute_density(frames: int) -> np.ndarray:
    """Width of the window between two frames over that of a whole frame, as the paper plans it.

    2 ^ -floor(log2(max(distance, 1))), float64 (frames, frames): a band is half as dense as the one inside it.
    """
    index = np.arange(frames)
    distance = np.abs(index[:, None] - index[None, :])
    return 2.0 ** -np.floor(np.log2(np.maximum(distance, 1)))


def picture(mask: BlockMask, most: int = PIXELS) -> np.ndarray:
    """A mask as shares in [0, 1], float32 (side, side), averaged over squares where it has too many blocks."""
    blocks = mask.blocks[0].float().numpy()
    step = -(-blocks.shape[0] // most)
    side = -(-blocks.shape[0] // step)
    starts = np.arange(side) * step
    sums = np.add.reduceat(np.add.reduceat(blocks, starts, axis=0), starts, axis=1)
    sizes = np.diff(np.append(starts, blocks.shape[0]))
    return sums / (sizes[:, None] * sizes[None, :])


def make(source: Experiment, out: Path) -> list[Path]:
    """Writes the figure; it needs no records. Returns its files."""
    radial = registry.get("radial")
    model, frames, height, width = LARGE
    large = models.get(model).layout(frames, height, width)
    with styled():
        figure = Figure(figsize=(WIDTH, HEIGHT))
        first, second, third = (_panel(figure, left) for left in (0.45, 2.8, 5.12))
        _bands(figure, first)
        small_mask = radial.block_mask(SMALL, SMALL_BLOCK)
        _mask(second, small_mask, SMALL, f"Mask of {FRAMES} frames", step=2)
        name = models.get(model).paper_name
        _mask(third, radial.block_mask(large, LARGE_BLOCK), large, f"Mask of {name}, {frames}f", step=16)
        return save(figure, out, "figure5")


def _panel(figure: Figure, left: float) -> Axes:
    """A square panel, its left edge in inches."""
    return figure.add_axes((left / WIDTH, BOTTOM / HEIGHT, SIDE / WIDTH, SIDE / HEIGHT))


def _bands(figure: Figure, axes: Axes) -> None:
    density = compute_density(FRAMES)
    levels = sorted(set(density.flatten()))
    colour = np.array(to_rgb(look("radial").colour))
    shades = [1 - (1 - colour) * (0.25 + 0.75 * n / max(len(levels) - 1, 1)) for n in range(len(levels))]
    edges = [levels[0] / 2, *(np.sqrt(a * b) for a, b in zip(levels, levels[1:], strict=False)), 1.5]
    image = axes.imshow(density, cmap=ListedColormap(shades), norm=BoundaryNorm(edges, len(levels)))
    axes.set_title("Compute density")
    axes.set_xlabel("Key frame", labelpad=2)
    axes.set_ylabel("Query frame")
    axes.set_xticks(range(0, FRAMES, 2))
    axes.set_yticks(range(0, FRAMES, 2))
    _frame(axes)
    strip = figure.add_axes((axes.get_position().x0, 0.37 / HEIGHT, SIDE / WIDTH, 0.09 / HEIGHT))
    bar = figure.colorbar(image, cax=strip, orientation="horizontal", spacing="uniform")
    bar.set_ticks([(a + b) / 2 for a, b in zip(edges, edges[1:], strict=False)])
    bar.set_ticklabels(["1" if level == 1 else f"1/{round(1 / level)}" for level in levels])
    bar.ax.tick_params(length=0)
    bar.ax.minorticks_off()
    bar.set_label("width of the window / frame", labelpad=1)


def _mask(axes: Axes, mask: BlockMask, layout: VideoLayout, title: str, step: int) -> None:
    shades = LinearSegmentedColormap.from_list("kept", ["white", look("radial").colour])
    frames = layout.tokens / layout.frame_tokens  # text tokens lie beyond the last frame
    axes.imshow(picture(mask), cmap=shades, vmin=0, vmax=1, extent=(0, frames, frames, 0), interpolation="antialiased")
    axes.set_title(title)
    axes.xaxis.labelpad = 2
    axes.set_xlabel(
        f"Key frame\n{layout.frames}×{layout.height}×{layout.width} tokens"
        + (f" + {layout.text} text" if layout.text else "")
        + f"\nblocks of {mask.block}, density {mask.density:.3f}"
    )
    axes.set_ylabel("Query frame")
    axes.set_xticks(range(0, layout.frames + 1, step))
    axes.set_yticks(range(0, layout.frames + 1, step))
    if layout.frames <= 16:
        for n in range(1, layout.frames):
            axes.axhline(n, color=BLACK, linewidth=0.2, alpha=0.4)
            axes.axvline(n, color=BLACK, linewidth=0.2, alpha=0.4)
    _frame(axes)


def _frame(axes: Axes) -> None:
    for spine in axes.spines.values():
        spine.set_visible(True)
