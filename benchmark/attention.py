"""What stands between a model and a method: which attention runs in which layer at which step.

A model's attention processors hand their queries, keys and values to an ``AttentionRouter``. The first steps and
layers run dense attention, the same for all methods; the rest runs the method.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmark.layout import VideoLayout
from benchmark.masks import BlockMask, dense_mask
from benchmark.method import Kernel, Method, Pattern, Rotation


@dataclass(frozen=True)
class Schedule:
    """When attention is dense whatever the method.

    Args:
        steps: sampling steps in all.
        dense_steps: the first so many run dense in every layer.
        dense_layers: the first so many run dense in every step.

    Raises:
        ValueError: more dense steps than steps, or a negative number.
    """

    steps: int
    dense_steps: int = 0
    dense_layers: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"schedule: steps={self.steps}: at least 1 is needed")
        if not 0 <= self.dense_steps <= self.steps:
            raise ValueError(f"schedule: dense_steps={self.dense_steps}: 0 to {self.steps} is needed")
        if self.dense_layers < 0:
            raise ValueError(f"schedule: dense_layers={self.dense_layers}: at least 0 is needed")

    def sparse(self, step: int, layer: int) -> bool:
        """Whether the method runs in a layer (from 0) at a step (from 0)."""
        return step >= self.dense_steps and layer >= self.dense_layers


class AttentionRouter:
    """Runs each layer's attention, densely or by the method.

    Set ``step`` before each sampling step. The method's pattern is planned once for every layout, block size, number of
    heads and device, and kept.
    """

    def __init__(self, method: Method, layout: VideoLayout, block: int, kernel: Kernel, schedule: Schedule) -> None:
        self.method = method
        self.layout = layout
        self.block = block
        self.kernel = kernel
        self.schedule = schedule
        self.step = 0
        self._patterns: dict[tuple[VideoLayout, int, int, str], Pattern] = {}
        self._dense: dict[tuple[VideoLayout, int, str], BlockMask] = {}

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rotate: Rotation) -> torch.Tensor:
        """The self-attention of a layer at the current step.

        Args:
            q, k, v: (batch, tokens, heads, head size), q and k not yet rotated.
            rotate: applies the rotary embedding.

        Raises:
            ValueError: the tokens are not those of the layout.
        """
        if q.shape[1] != self.layout.tokens:
            raise ValueError(f"attention over {q.shape[1]} tokens: the layout {self.layout} has {self.layout.tokens}")
        if not self.schedule.sparse(self.step, layer):
            return self.kernel(rotate(q), rotate(k), v, self._dense_mask(q.device))
        pattern = None if self.method.dynamic else self._pattern(q.shape[2], q.device)
        return self.method.attend(q, k, v, rotate, self.layout, self.block, self.kernel, pattern)

    def _pattern(self, heads: int, device: torch.device) -> Pattern:
        key = (self.layout, self.block, heads, str(device))
        if key not in self._patterns:
            self._patterns[key] = self.method.pattern(self.layout, self.block, heads, device)
        return self._patterns[key]

    def _dense_mask(self, device: torch.device) -> BlockMask:
        key = (self.layout, self.block, str(device))
        if key not in self._dense:
            self._dense[key] = dense_mask(self.layout, self.block, device)
        return self._dense[key]
