"""Harmonic decay: ablation A of the Radial Attention paper, a window that shrinks as 1 / distance.

A query sees frame j at positions |k - l| <= c s / max(d, 1), s being the tokens of a frame and d the distance of the
frames. The paper matches c to the budget of radial attention and publishes neither a floor nor a sink. Chosen here, so
that the decay is all that differs from radial: the same sink, a window never under the block size, the same rounding
to blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmark.layout import VideoLayout
from benchmark.masks import BlockMask
from benchmark.method import Method, knob
from benchmark.windows import window_density, window_mask


@dataclass(frozen=True)
class Harmonic(Method):
    """Windows of harmonic width."""

    title = "Harmonic"
    source = "arXiv 2506.19852, ablation A"
    budget_knob = "c"

    c: float = knob(0.5, "width of the window at distance 1, in frames", low=0.0, high=256.0)
    sink: bool = knob(True, "every query sees the whole first frame")

    def block_mask(self, layout: VideoLayout, block: int, device: torch.device | str = "cpu") -> BlockMask:
        """The harmonic mask of a layout."""
        return window_mask(layout, block, self._widths(layout, block), self.sink, "released", device)

    def density(self, layout: VideoLayout, block: int, heads: int = 1, head_dim: int = 64) -> float:
        """The density of the mask, mostly without making it."""
        return window_density(layout, block, self._widths(layout, block), self.sink, "released")

    def _widths(self, layout: VideoLayout, block: int) -> torch.Tensor:
        """The window for every distance of frames, in tokens: int64 (frames,)."""
        size = layout.frame_tokens
        widths = [max(int(self.c * size / max(distance, 1)), block) for distance in range(layout.frames)]
        return torch.tensor([min(width, size) for width in widths])
