"""Radial Attention: a window that halves each time the distance between frames doubles (arXiv 2506.19852).

A query at frame i and position k sees frame j at the positions l within a window around its own place. The window of
nearby frames is the whole frame; it shrinks as a power of two of the frame distance, and once it would be narrower than
a block, frames are skipped instead. The number of pairs is O(n log n) in the number of frames.

Two geometries are known:

- ``released``, the authors' code, which reproduces the sparsities of the paper's Table 2. Windows never get narrower
  than a block, and a block is kept when more than 60 % of its non-empty key columns are more than one third full. The
  code's frame-skipping also applies to neighbouring frames when a frame has fewer tokens than a block; here it begins
  at distance 2.
- ``equation4``, the paper's equation 4, token by token. The paper does not say how it is rounded to blocks: here a
  block is kept when it holds any kept pair, so nothing that the equation keeps is lost. Its density cannot be set.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmark.layout import VideoLayout
from benchmark.masks import BlockMask
from benchmark.method import Method, knob
from benchmark.windows import window_density, window_mask


@dataclass(frozen=True)
class Radial(Method):
    """Radial Attention, equation 4 and the released geometry."""

    title = "Radial"
    source = "arXiv 2506.19852"
    budget_knob = "decay"

    decay: float = knob(1.0, "factor on the window widths (released geometry)", low=0.001, high=16.0)
    sink: bool = knob(True, "every query sees the whole first frame")
    neighbour: str = knob(
        "whole",
        "window of the next frame: whole, half a frame, or decayed like the rest",
        choices=("whole", "half", "decayed"),
    )
    geometry: str = knob(
        "released", "the released code's masks, or the paper's equation 4", choices=("released", "equation4")
    )

    def density_knob(self) -> str | None:
        """``decay``; equation 4 has nothing to set."""
        return None if self.geometry == "equation4" else self.budget_knob

    def block_mask(self, layout: VideoLayout, block: int, device: torch.device | str = "cpu") -> BlockMask:
        """The radial mask of a layout."""
        return window_mask(layout, block, *self._windows(layout, block), device)

    def density(self, layout: VideoLayout, block: int, heads: int = 1, head_dim: int = 64) -> float:
        """The density of the mask, mostly without making it."""
        return window_density(layout, block, *self._windows(layout, block))

    def _windows(self, layout: VideoLayout, block: int) -> tuple[torch.Tensor, bool, str]:
        """Widths by the distance of frames, whether there is a sink, and how they are rounded to blocks."""
        if self.geometry == "equation4":
            return equation4_widths(layout.frames, layout.frame_tokens), self.sink, "cover"
        widths = released_widths(layout.frames, layout.frame_tokens, block, self.decay, self.neighbour)
        return widths, self.sink, "released"


def released_widths(frames: int, size: int, block: int, decay: float, neighbour: str) -> torch.Tensor:
    """Window width for every frame distance in the released code, in tokens; -1 where the frame is skipped.

    Args:
        size: tokens a frame.

    Returns:
        int64 (frames,).
    """
    widths = []
    for distance in range(frames):
        length = 2.0 ** size.bit_length() / 2.0 ** distance.bit_length()
        if distance == 0 or (distance == 1 and neighbour == "whole"):
            width = size
        elif distance == 1 and neighbour == "half":
            width = size // 2
        elif distance > 1 and length < block and distance % int(block / length) != 0:
            width = -1
        else:
            width = int(max(decay * length, block))
        widths.append(min(width, size))
    return torch.tensor(widths)


def equation4_widths(frames: int, size: int) -> torch.Tensor:
    """Largest |k - l| that equation 4 keeps for every frame distance, in tokens; -1 for none.

    Returns:
        int64 (frames,).
    """
    widths = []
    for distance in range(frames):
        power = 2 ** (max(distance, 1).bit_length() - 1)
        if power <= size:
            widths.append(size // power - 1)
        else:
            widths.append(0 if distance % -(-power // size) == 0 else -1)
    return torch.tensor(widths)
