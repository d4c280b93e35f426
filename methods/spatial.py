"""Spatial attention: a band in frame-major order, so that a token sees its own frame and those next to it.

The spatial half of Sparse VideoGen (arXiv 2502.01776) for all heads. The Radial Attention paper gives no width; its
sparsities mean one-sided widths of 6.5 frames (HunyuanVideo 253 frames), 7.7 (509), 7.1 and 8.5 (Mochi 331, 667)
without a sink. The width is rounded to whole blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmark.layout import VideoLayout
from benchmark.masks import BlockMask, band_mask
from benchmark.method import Method, knob


@dataclass(frozen=True)
class Spatial(Method):
    """A band along the frame-major sequence."""

    title = "Spatial"
    source = "arXiv 2502.01776, spatial heads"
    budget_knob = "width"

    width: float = knob(6.5, "one-sided width of the band, in frames", low=0.0)

    def block_mask(self, layout: VideoLayout, block: int, device: torch.device | str = "cpu") -> BlockMask:
        """The band mask of a layout."""
        return band_mask(layout, block, round(self.width * layout.frame_tokens / block) * block, device)
