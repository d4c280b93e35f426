"""A dense pass of a testbed in which somebody listens to every layer's queries, keys, values and output."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from benchmark.attention import AttentionRouter, Schedule
from benchmark.layout import VideoLayout
from benchmark.method import Kernel, Method, Rotation

Listener = Callable[[int, int, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], None]
"""Called with the place of the step among those listened to, the layer, and q, k (rotated), v and the output, each
(1, tokens, heads, head size)."""

KERNEL = "sdpa"
"""Computes dense attention on every device, and small blocks' masks without compiling anything."""


class ListeningRouter(AttentionRouter):
    """A router that leaves attention dense, and tells a listener of it at some of the steps.

    Args:
        layout: token grid of the clip.
        kernel: computes the attention.
        steps: sampling steps.
        wanted: those that are listened to.
        listen: who listens.
    """

    def __init__(
        self, layout: VideoLayout, kernel: Kernel, steps: int, wanted: Sequence[int], listen: Listener
    ) -> None:
        super().__init__(Method(), layout, layout.frame_tokens, kernel, Schedule(steps))
        self.places = {step: place for place, step in enumerate(wanted)}
        self.listen = listen

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rotate: Rotation) -> torch.Tensor:
        """The dense self-attention of a layer at the current step, of one sample."""
        q, k = rotate(q), rotate(k)
        out = super().attend(layer, q, k, v, _same)
        if self.step in self.places:
            self.listen(self.places[self.step], layer, q, k, v, out)
        return out


def _same(x: torch.Tensor) -> torch.Tensor:
    return x


def dense_pass(
    transformer: torch.nn.Module,
    layout: VideoLayout,
    noise: torch.Tensor,
    prompt: str,
    steps: int,
    wanted: Sequence[int],
    kernel: Kernel,
    listen: Listener,
) -> None:
    """Samples a clip densely, with a listener at some of the steps.

    Args:
        transformer: a ``WanTransformer3DModel`` of the testbed; its own attention is put back afterwards.
        layout: token grid of the clip.
        noise: float32 (1, channels, frames, height, width).
        prompt: a sentence of the testbed's grammar.
        steps: sampling steps; nothing is sampled after the last that is wanted.
        wanted: the steps that are listened to, in ascending order.
        kernel: computes the attention.
    """
    from benchmark.models import wan
    from benchmark.testbed.grammar import encode
    from benchmark.testbed.sample import sample

    router = ListeningRouter(layout, kernel, steps, wanted, listen)

    def before_step(step: int) -> None:
        if step > wanted[-1]:
            raise _Heard
        router.step = step

    before = [block.attn1.processor for block in transformer.blocks]
    try:
        wan.install(transformer, router)
        sample(transformer, noise, encode([prompt]).to(noise.device), steps, before_step)
    except _Heard:
        pass
    finally:
        transformer.attention_link.release()
        for block, processor in zip(transformer.blocks, before, strict=True):
            block.attn1.set_processor(processor)


class _Heard(Exception):
    """All steps that are wanted are over; the rest of the clip is of no use."""


def spread_steps(steps: int, recorded: int, dense_steps: int = 0) -> list[int]:
    """The middle steps of ``recorded`` equal parts of a schedule, its first ``dense_steps`` left out.

    Raises:
        ValueError: as many parts are not possible.
    """
    rest = steps - dense_steps
    if dense_steps < 0 or rest < 1:
        raise ValueError(f"dense steps: {dense_steps} of {steps}; from 0 to {steps - 1} are possible")
    if not 1 <= recorded <= rest:
        raise ValueError(f"steps recorded: {recorded} of {rest}; from 1 to {rest} are possible")
    return [dense_steps + int((n + 0.5) * rest / recorded) for n in range(recorded)]
