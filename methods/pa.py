"""PowerAttention by frames: frames at a power-of-two distance attend to each other, and frame 0 is a sink.

PowerAttention (arXiv 2503.03588) is written for causal language models in blocks of 256 tokens; on video in token
blocks that would leave out 97 to 99 %. The Radial Attention paper does not say what it ran. Frames at distances 0 and
2^k with a first-frame sink, and any overlap rounded up to whole blocks, come within a point of the sparsities that it
prints, so that is what is run here. ``local`` widens the run of neighbouring frames that are kept whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmark.layout import VideoLayout
from benchmark.masks import BlockMask, unit_mask
from benchmark.method import Method, knob


@dataclass(frozen=True)
class PowerAttention(Method):
    """Frame distances 0 and 2^k, and a sink."""

    title = "PA"
    source = "arXiv 2503.03588"
    budget_knob = "local"

    local: int = knob(1, "frames nearer than this attend to each other", low=1)
    sink: bool = knob(True, "every query sees the whole first frame")

    def block_mask(self, layout: VideoLayout, block: int, device: torch.device | str = "cpu") -> BlockMask:
        """The mask of frames at power-of-two distances."""
        frame, _, _ = layout.coordinates(device)
        index = torch.arange(layout.frames, device=device)
        distance = (index[:, None] - index[None, :]).abs()
        allowed = (distance < self.local) | (distance & (distance - 1) == 0)  # 0 & -1 is 0: distance 0 is in
        if self.sink:
            allowed[:, 0] = True
        return unit_mask(layout, block, frame, allowed, device)
