"""Temporal attention: a band in token-major order, so that a token sees its own place, and those near it, in all
frames.

The temporal half of Sparse VideoGen (arXiv 2502.01776) for all heads: the sequence is put in token-major order (all
frames of position 0, then of position 1, ...), where the pattern is a band. Its width is given in frames' worth of
tokens, as for ``spatial``: the same number keeps the same share of the pairs, and means width / frames of the
positions. No sink.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmark.layout import VideoLayout
from benchmark.masks import BlockMask, band_mask
from benchmark.method import Method, knob


@dataclass(frozen=True)
class Temporal(Method):
    """A band along the token-major sequence."""

    title = "Temporal"
    source = "arXiv 2502.01776, temporal heads"
    budget_knob = "width"

    width: float = knob(6.5, "one-sided width of the band, in frames' worth of tokens", low=0.0)

    def order(self, layout: VideoLayout, device: torch.device | str = "cpu") -> torch.Tensor:
        """Token-major order: position by position, all frames of each."""
        return layout.token_major(device)

    def block_mask(self, layout: VideoLayout, block: int, device: torch.device | str = "cpu") -> BlockMask:
        """The band mask of a layout, in token-major order."""
        return band_mask(layout, block, round(self.width * layout.frame_tokens / block) * block, device)
