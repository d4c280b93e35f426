"""LongLoRA's shifted sparse attention: tokens attend within groups, and half of the heads shift the groups by half of
one.

S^2 attention (arXiv 2309.12307): the sequence is cut into groups; in the second half of the heads it is rolled by half
a group first, round the end, and rolled back after. The original trains so and infers with dense attention; the
sparsities that the Radial Attention paper prints mean groups of about 1/5 and 1/8.6 of the sequence at inference too,
and so it is run here. Only video tokens are grouped; text attends to everything and everything to text. Blocks that
straddle two groups are kept for both. The roll is rounded to whole blocks, so that both halves of the heads run the
same mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmark.layout import VideoLayout
from benchmark.masks import BlockMask, unit_mask
from benchmark.method import Method, Pattern, knob, with_text


@dataclass(frozen=True)
class LongLoRA(Method):
    """Attention within groups, shifted in half of the heads."""

    title = "LongLoRA"
    source = "arXiv 2309.12307"
    budget_knob = "group"

    group: float = knob(0.2, "share of the video tokens in a group", low=1e-6, high=1.0)

    def group_tokens(self, layout: VideoLayout, block: int) -> int:
        """Tokens in a group: the share that ``group`` asks for, in whole blocks; the last group may be smaller."""
        return min(max(round(self.group * layout.video / block), 1) * block, layout.video)

    def block_mask(self, layout: VideoLayout, block: int, device: torch.device | str = "cpu") -> BlockMask:
        """Blocks within one group."""
        unit = torch.arange(layout.video, device=device) // self.group_tokens(layout, block)
        return unit_mask(layout, block, unit, torch.eye(int(unit[-1]) + 1, dtype=torch.bool), device)

    def pattern(self, layout: VideoLayout, block: int, heads: int = 1, device: torch.device | str = "cpu") -> Pattern:
        """The same groups in two orders: frame-major, and rolled by half a group for the second half of the heads."""
        shift = round(self.group_tokens(layout, block) / 2 / block) * block
        rolled = torch.arange(layout.video, device=device).roll(-shift)
        second = torch.arange(heads, device=device) >= (heads + 1) // 2
        return Pattern(self.block_mask(layout, block, device), (None, with_text(rolled, layout)), second.long())
