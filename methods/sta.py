"""Sliding Tile Attention: tiles of tokens attend to whole tiles within a window (arXiv 2502.04507).

The grid is cut into tiles of frames x height x width tokens (6x8x8 in the paper) and the tokens are put in tile order.
A query tile sees all tokens of the tiles in a window of K tiles along each axis. The window is centred on the query
tile and pushed inwards at the borders, so that every query sees equally many tiles: the density is the product of K /
T. An even K keeps K/2 tiles before the centre and K/2 - 1 after it.

The authors' kernel refuses grids that tiles do not divide. Here the last tile of an axis is then smaller, and a block
that straddles tiles is kept when any of its pairs is. The authors search a window per step, layer and head; here one
window serves all: of those within 2 % of the budget the one that covers its axes most evenly, else the nearest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import prod

import torch

from benchmark.layout import VideoLayout
from benchmark.masks import BlockMask, unit_density, unit_mask
from benchmark.method import Method, knob


@dataclass(frozen=True)
class SlidingTile(Method):
    """Windows of tiles."""

    title = "STA"
    source = "arXiv 2502.04507"

    tile: str = knob("6x8x8", "tokens a tile: frames x height x width")
    window: str = knob("3x3x3", "tiles a window: frames x height x width; more than there are means all")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tile", "window"):
            axes(name, getattr(self, name))

    def tiles(self, layout: VideoLayout) -> tuple[int, int, int]:
        """Tiles along frames, height and width."""
        tile = axes("tile", self.tile)
        return (-(-layout.frames // tile[0]), -(-layout.height // tile[1]), -(-layout.width // tile[2]))

    def order(self, layout: VideoLayout, device: torch.device | str = "cpu") -> torch.Tensor:
        """Tile by tile, each tile frame-major."""
        return torch.argsort(self._tile_of_token(layout, device), stable=True)

    def block_mask(self, layout: VideoLayout, block: int, device: torch.device | str = "cpu") -> BlockMask:
        """The tiles within the window of each tile."""
        return unit_mask(layout, block, *self._tiles_seen(layout, device), device)

    def density(self, layout: VideoLayout, block: int, heads: int = 1, head_dim: int = 64) -> float:
        """The density of the mask, which is not planned for it: there are many windows to choose from."""
        tile, count = axes("tile", self.tile), self.tiles(layout)
        grid = (layout.frames, layout.height, layout.width)
        if not layout.text and prod(tile) % block == 0 and all(g % t == 0 for g, t in zip(grid, tile, strict=True)):
            window = [min(k, n) for n, k in zip(count, axes("window", self.window), strict=True)]
            return float(prod(window) * prod(count) * prod(tile) ** 2) / float(layout.tokens) ** 2
        return unit_density(layout, block, *self._tiles_seen(layout, "cpu"))

    def settings(self, layout: VideoLayout, block: int) -> Iterator[SlidingTile]:
        """Every window, those that cover their axes most evenly first."""
        count = self.tiles(layout)

        def unevenness(window: tuple[int, ...]) -> tuple[float, tuple[int, ...]]:
            shares = [k / n for k, n in zip(window, count, strict=True)]
            return max(shares) - min(shares), window

        for window in sorted(product(*(range(1, n + 1) for n in count)), key=unevenness):
            yield replace(self, window="x".join(map(str, window)))

    def _tiles_seen(self, layout: VideoLayout, device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
        """The tile of every token in tile order, int64 (video,), and which tiles see which: bool (tiles, tiles)."""
        count = self.tiles(layout)
        seen = [axis_window(n, min(k, n), device) for n, k in zip(count, axes("window", self.window), strict=True)]
        f, h, w = count
        allowed = seen[0][:, None, None, :, None, None] & seen[1][None, :, None, None, :, None]
        allowed = (allowed & seen[2][None, None, :, None, None, :]).reshape(f * h * w, f * h * w)
        return self._tile_of_token(layout, device).sort().values, allowed

    def _tile_of_token(self, layout: VideoLayout, device: torch.device | str) -> torch.Tensor:
        _, h, w = self.tiles(layout)
        tile = axes("tile", self.tile)
        frame, row, column = layout.coordinates(device)
        return (frame // tile[0] * h + row // tile[1]) * w + column // tile[2]


def axes(name: str, text: str) -> tuple[int, int, int]:
    """Three whole numbers written like 6x8x8.

    Raises:
        ValueError: it is not that.
    """
    parts = str(text).split("x")
    if len(parts) != 3 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"sta: {name}={text!r}: frames x height x width like 6x8x8 is needed")
    return int(parts[0]), int(parts[1]), int(parts[2])


def axis_window(tiles: int, window: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Which tiles of one axis each tile sees: bool (tiles, tiles), ``window`` of them in each row."""
    index = torch.arange(tiles, device=device)
    before = window // 2
    after = before + window % 2 - 1
    centre = index.clamp(before, tiles - 1 - after)[:, None]
    return (index[None] >= centre - before) & (index[None] <= centre + after)
