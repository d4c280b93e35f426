"""Random blocks: the control. A method worth having is better than this at the same density.

Each query block sees its own block and as many further key blocks, drawn at random, as the density asks for. All heads
and layers share the draw. Text always takes part.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmark.layout import VideoLayout
from benchmark.masks import BlockMask, keep_text
from benchmark.method import Method, knob


@dataclass(frozen=True)
class Random(Method):
    """Random blocks."""

    title = "Random"
    budget_knob = "share"

    share: float = knob(0.5, "share of the key blocks that a query block sees", low=0.0, high=1.0)
    seed: int = knob(0, "seed of the draw", low=0)

    def block_mask(self, layout: VideoLayout, block: int, device: torch.device | str = "cpu") -> BlockMask:
        """The drawn blocks: the same for the same layout, block size and seed, on any device."""
        side = layout.blocks(block)
        number = max(round(self.share * side), 1)
        draw = torch.rand(side, side, generator=torch.Generator().manual_seed(self.seed))
        draw.fill_diagonal_(-1.0)
        threshold = draw.kthvalue(number, dim=1, keepdim=True).values
        return BlockMask(keep_text(draw <= threshold, layout, block)[None].to(device), block, layout.tokens)
