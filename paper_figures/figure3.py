"""Figure 3: how SVG and Radial Attention get their masks, side by side; the masks are those of ``methods/``."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from benchmark import registry
from benchmark.layout import VideoLayout
from paper_figures.experiment import Experiment
from paper_figures.style import WIDTH, look, save, styled

LAYOUT = VideoLayout(12, 4, 8)
BLOCK = 4
SVG_DENSITY = 0.3
HEIGHT = 4.95


def masks() -> dict[str, torch.Tensor]:
    """The three masks token by token, in frame-major order: bool (tokens, tokens).

    SVG's spatial and temporal head run one band, in two orders of the tokens.
    """
    pattern = registry.get("svg", {"p": SVG_DENSITY}).pattern(LAYOUT, BLOCK)
    band, order = pattern.mask.to_tokens()[0], pattern.orders[1]
    temporal = torch.zeros_like(band)
    temporal[order[:, None], order[None, :]] = band
    radial = registry.get("radial").block_mask(LAYOUT, BLOCK).to_tokens()[0]
    return {"spatial": band, "temporal": temporal, "radial": radial}


def make(source: Experiment, out: Path) -> list[Path]:
    """Writes the figure; it needs no records. Returns its files."""
    shown = masks()
    with styled():
        figure = Figure(figsize=(WIDTH, HEIGHT))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
        axes.axis("off")
        _svg(figure, axes, shown)
        axes.plot([4.55, 4.55], [0.1, HEIGHT - 0.1], color="#bbbbbb", linewidth=0.8)
        _radial(figure, axes, shown)
        return save(figure, out, "figure3")


def _svg(figure: Figure, axes: Axes, shown: dict[str, torch.Tensor]) -> None:
    colour = look("svg").colour
    left, middle, right = 1.2, 2.25, 3.3
    axes.text(middle, 4.68, "Sparse VideoGen (SVG): each head decided at run time", ha="center", weight="bold")
    _box(axes, middle, 4.35, 2.0, 0.3, "Q, K, V of one head", colour)
    _arrow(axes, (middle, 4.2), (middle, 4.0))
    _box(
        axes, middle, 3.71, 3.9, 0.58,
        "Online profiling: attention of sampled query rows,\nonce dense and once under each mask; smaller error wins",
        colour, filled=True,
    )  # fmt: skip
    for x, name in ((left, "spatial head"), (right, "temporal head")):
        _arrow(axes, (x, 3.42), (x, 3.15))
        axes.text(x + 0.1, 3.285, name, ha="left", va="center", fontsize=7.5)
    _box(axes, left, 3.0, 1.8, 0.3, "keep frame-major order", colour)
    _box(axes, right, 3.0, 1.8, 0.3, "permute to token-major", colour)
    for x, name in ((left, "spatial"), (right, "temporal")):
        _arrow(axes, (x, 2.85), (x, 2.65))
        _mask(figure, x, 2.0, 1.3, shown[name], colour)
    _arrow(axes, (left, 1.16), (left, 0.56))
    _arrow(axes, (right, 1.16), (right, 1.0))
    _box(axes, right, 0.87, 1.8, 0.26, "permute back", colour)
    _arrow(axes, (right, 0.74), (right, 0.56))
    _box(axes, middle, 0.41, 3.9, 0.3, "Output of the head", colour)
    axes.text(middle, 0.1, "two masks, chosen anew at every layer and step", ha="center", fontsize=7.5, style="italic")


def _radial(figure: Figure, axes: Axes, shown: dict[str, torch.Tensor]) -> None:
    colour, middle = look("radial").colour, 5.78
    axes.text(middle, 4.68, "Radial: one static mask", ha="center", weight="bold")
    _box(axes, middle, 4.35, 2.1, 0.3, "Q, K, V of all heads", colour)
    _arrow(axes, (middle, 4.2), (middle, 4.0))
    _box(axes, middle, 3.71, 2.1, 0.58, "Mask planned once,\nfrom the token grid alone", colour, filled=True)
    _arrow(axes, (middle, 3.42), (middle, 2.92))
    _mask(figure, middle, 2.02, 1.8, shown["radial"], colour)
    _arrow(axes, (middle, 0.93), (middle, 0.56))
    _box(axes, middle, 0.41, 2.1, 0.3, "Output of all heads", colour)
    axes.text(middle, 0.1, "no profiling, no permutation", ha="center", fontsize=7.5, style="italic")


def _box(axes: Axes, x: float, y: float, width: float, height: float, text: str, colour: str, filled=False) -> None:
    from matplotlib.patches import FancyBboxPatch

    shape = FancyBboxPatch(
        (x - width / 2, y - height / 2), width, height, boxstyle="round,pad=0,rounding_size=0.06", linewidth=1.0,
        edgecolor=colour, facecolor=(*_rgb(colour), 0.15) if filled else "white",
    )  # fmt: skip
    axes.add_patch(shape)
    axes.text(x, y, text, ha="center", va="center", fontsize=7.5, linespacing=1.35)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    arrow = {"arrowstyle": "-|>", "color": "#444444", "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 8}
    axes.annotate("", end, start, arrowprops=arrow)


def _mask(figure: Figure, x: float, y: float, side: float, mask: torch.Tensor, colour: str) -> None:
    """A mask as a picture, its centre and side in inches."""
    width, height = figure.get_size_inches()
    inset = figure.add_axes(((x - side / 2) / width, (y - side / 2) / height, side / width, side / height))
    inset.imshow(mask.numpy(), cmap=ListedColormap(["white", colour]), vmin=0, vmax=1, rasterized=True)
    inset.set(xticks=[], yticks=[])
    inset.set_ylabel("queries", fontsize=7, labelpad=2)
    inset.set_xlabel("keys", fontsize=7, labelpad=1.5)
    for spine in inset.spines.values():
        spine.set_visible(True)


def _rgb(colour: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    return to_rgb(colour)
