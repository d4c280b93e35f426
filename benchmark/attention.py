"""What stands between a model and a method: which attention runs in which layer at which step.

A model's attention processors hand their queries, keys and values to an ``AttentionRouter``. The first steps and
layers run dense attention, the same for all methods; the rest runs the method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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

    Two attributes say how the tokens come; a model's ``install`` and its hooks set them:

    - ``hoisted``: the video tokens are in the method's own order (``hoisted_order``) already, since the model permutes
      them once a forward pass and not once a layer. Attention returns them in that order.
    - ``text``: valid text tokens of each sample, where texts are padded to one length. Padding is never attended to
      and gets zeros. None where there is none, and the sequence is the layout's.
    """

    def __init__(self, method: Method, layout: VideoLayout, block: int, kernel: Kernel, schedule: Schedule) -> None:
        self.method = method
        self.layout = layout
        self.block = block
        self.kernel = kernel
        self.schedule = schedule
        self.step = 0
        self.hoisted = False
        self.text: Sequence[int] | None = None
        self._orders: dict[tuple[VideoLayout, int, int, str], torch.Tensor | None] = {}
        self._patterns: dict[tuple[VideoLayout, int, int, str], Pattern] = {}
        self._dense: dict[tuple[VideoLayout, int, str], BlockMask] = {}

    @property
    def rotates_first(self) -> bool:
        """Whether q and k may come rotated: the operator is softmax attention, which rotates them before all else."""
        return type(self.method).attend is Method.attend

    def hoisted_order(self, heads: int, device: torch.device | str) -> torch.Tensor | None:
        """The one order of the video tokens in which all heads and layers of the method see them: int64 (video,).

        None where there is none: frame-major order, orders that differ by head, or patterns decided at each call.
        """
        if self.method.dynamic or not self.rotates_first:
            return None
        key = (self.layout, self.block, heads, str(device))
        if key not in self._orders:
            pattern = self.method.pattern(self.layout, self.block, heads, device)
            self._patterns[key] = pattern
            self._orders[key] = _single_order(pattern, self.layout)
        return self._orders[key]

    def mask(self, heads: int, device: torch.device | str) -> BlockMask:
        """The mask of the method's pattern over the layout: what its layers run with."""
        return self._pattern(self.layout, heads, device).mask

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rotate: Rotation) -> torch.Tensor:
        """The self-attention of a layer at the current step.

        Args:
            q, k, v: (batch, tokens, heads, head size), q and k not yet rotated: video tokens, then text tokens, valid
                ones first.
            rotate: applies the rotary embedding; the identity where q and k come rotated.

        Returns:
            (batch, tokens, heads, head size).

        Raises:
            ValueError: the tokens are not those of the layout, or what the method returns is not of q's shape.
        """
        if self.text is None:
            return self._attend(layer, q, k, v, rotate, self.layout)
        video, tokens = self.layout.video, q.shape[1]
        if len(self.text) != q.shape[0] or max(self.text) > tokens - video:
            raise ValueError(
                f"attention over {q.shape[0]} samples of {tokens} tokens: texts of {', '.join(map(str, self.text))}"
                f" tokens after {video} video tokens do not fit"
            )
        if len(set(self.text)) == 1:
            return self._attend_valid(layer, q, k, v, rotate, self.text[0])
        samples = [
            self._attend_valid(layer, *(x[n : n + 1] for x in (q, k, v)), rotate, text)
            for n, text in enumerate(self.text)
        ]
        return torch.cat(samples)

    def _attend_valid(self, layer, q, k, v, rotate, text: int) -> torch.Tensor:
        """Attention over the video and the first ``text`` text tokens; zeros for the rest."""
        layout = replace(self.layout, text=text)
        padding = q.shape[1] - layout.tokens
        if not padding:
            return self._attend(layer, q, k, v, rotate, layout)
        out = self._attend(layer, *(x[:, : layout.tokens] for x in (q, k, v)), rotate, layout)
        return torch.nn.functional.pad(out, (0, 0, 0, 0, 0, padding))

    def _attend(self, layer, q, k, v, rotate, layout: VideoLayout) -> torch.Tensor:
        if q.shape[1] != layout.tokens:
            raise ValueError(f"attention over {q.shape[1]} tokens: the layout {layout} has {layout.tokens}")
        if not self.schedule.sparse(self.step, layer):
            return self.kernel(rotate(q), rotate(k), v, self._dense_mask(layout, q.device))
        pattern = self._pattern(layout, q.shape[2], q.device)
        if self.hoisted:
            pattern = Pattern(pattern.mask)  # the tokens stand in its order
        out = self.method.attend(q, k, v, rotate, layout, self.block, self.kernel, pattern)
        if not isinstance(out, torch.Tensor) or out.shape != q.shape:  # some wrong shapes would broadcast unseen
            found = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
            raise ValueError(f"methods/{self.method.name()}.py: attend returns {found}; q's {tuple(q.shape)} is needed")
        return out

    def _pattern(self, layout: VideoLayout, heads: int, device: torch.device) -> Pattern:
        key = (layout, self.block, heads, str(device))
        if key not in self._patterns:
            pattern = self.method.pattern(layout, self.block, heads, device)
            if self.hoisted and not torch.equal(
                pattern.orders[0][: layout.video], self.hoisted_order(heads, device)[: layout.video]
            ):
                raise ValueError(f"{self.method.name()}: the order of the video tokens depends on the text: {layout}")
            self._patterns[key] = pattern
        return self._patterns[key]

    def _dense_mask(self, layout: VideoLayout, device: torch.device) -> BlockMask:
        key = (layout, self.block, str(device))
        if key not in self._dense:
            self._dense[key] = dense_mask(layout, self.block, device)
        return self._dense[key]


def _single_order(pattern: Pattern, layout: VideoLayout) -> torch.Tensor | None:
    """The order of the video tokens for all heads, if there is one other than frame-major and the text stays put."""
    if pattern.head_order is not None or len(pattern.orders) != 1 or pattern.orders[0] is None:
        return None
    order = pattern.orders[0]
    text_stays = torch.equal(order[layout.video :], torch.arange(layout.video, layout.tokens, device=order.device))
    return order[: layout.video] if text_stays else None


class PassThroughRouter(AttentionRouter):
    """A router without attention: values come back unchanged. It measures the time of everything outside attention.

    Given the method whose time is measured, so that what is hoisted out of its layers counts as outside attention.
    """

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rotate: Rotation) -> torch.Tensor:
        """The values; the rotary embedding is still applied, since it is no part of attention."""
        rotate(q), rotate(k)
        return v
