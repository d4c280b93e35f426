"""Dense attention once more, its sums in another order: the control that shows the noise floor.

Every query sees every key, as in ``dense``, but the video tokens are handed to the kernel last first. In exact
arithmetic nothing would change. What differs from the dense clips comes from rounding alone, so clips of a method that
lie no farther from them than these cannot be told from dense ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmark.layout import VideoLayout
from benchmark.method import Method


@dataclass(frozen=True)
class DenseRepeated(Method):
    """Full softmax attention over the video tokens in reversed order."""

    title = "Dense, repeated"
    sparse = False

    def order(self, layout: VideoLayout, device: torch.device | str = "cpu") -> torch.Tensor:
        """The last token of the video first."""
        return torch.arange(layout.video - 1, -1, -1, device=device)
