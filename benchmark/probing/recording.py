"""Sums of a testbed's attention probabilities: maps of its heads, and the scores between places and between frames."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from benchmark.layout import VideoLayout

LARGEST_MAP = 512
"""Points a side of the maps that are kept."""

SCORES_AT_ONCE = 2**26
"""Probabilities held at once: 256 MB, and as much again for the scores that they are made of."""


@dataclass
class Recording:
    """Means over the prompts, for every layer and head; the two that decay are measured on also for every step.

    Args:
        layout: grid of the video tokens.
        steps: the steps that are recorded.
        maps: attention probabilities, averaged over steps, and over squares where they are too large to keep: (layers,
            heads, side, side).
        frames: probability of a whole key frame, averaged over the places of a query frame and over steps: (layers,
            heads, frames, frames).
        same_place: mean probability between the same place in two frames: (steps, layers, heads, frames, frames).
        same_frame: mean over frames of the probability between two places of a frame: (steps, layers, heads, frame
            tokens, frame tokens).
        prompts: how many are recorded.
    """

    layout: VideoLayout
    steps: tuple[int, ...]
    maps: torch.Tensor
    frames: torch.Tensor
    same_place: torch.Tensor
    same_frame: torch.Tensor
    prompts: int = 1

    @classmethod
    def empty(
        cls,
        layout: VideoLayout,
        steps: tuple[int, ...],
        layers: int,
        heads: int,
        prompts: int = 1,
        device: torch.device | str = "cpu",
    ) -> Recording:
        """Nothing recorded yet."""
        side = layout.video // pooling(layout.video, layout.frame_tokens, LARGEST_MAP)
        whole = [torch.zeros(layers, heads, size, size, device=device) for size in (side, layout.frames)]
        by_step = [
            torch.zeros(len(steps), layers, heads, size, size, device=device)
            for size in (layout.frames, layout.frame_tokens)
        ]
        return cls(layout, tuple(steps), *whole, *by_step, prompts)

    def add(self, step: int, layer: int, q: torch.Tensor, k: torch.Tensor, at_once: int = SCORES_AT_ONCE) -> None:
        """Adds the attention of one layer at one step of one prompt.

        A head at a time, and of it as many query frames as may be held, at least one.

        Args:
            step: place of the step among those recorded.
            q, k: (1, tokens, heads, head size), rotated.
            at_once: probabilities held at once.
        """
        f, s = self.layout.frames, self.layout.frame_tokens
        side = self.maps.shape[2]
        pool = f * s // side
        at_a_time = max(at_once // (f * s * s), 1)
        of_prompts, of_all = 1 / self.prompts, 1 / (self.prompts * len(self.steps))
        scale = 1 / math.sqrt(q.shape[3])
        for head in range(q.shape[2]):
            queries, keys = q[0, :, head].float() * scale, k[0, :, head].float().T
            for first in range(0, f, at_a_time):
                part = slice(first, min(first + at_a_time, f))
                p = (queries[part.start * s : part.stop * s] @ keys).softmax(dim=-1)
                grid = p.view(-1, s, f, s)
                rows = slice(part.start * s // pool, part.stop * s // pool)
                pooled = p if pool == 1 else p.view(-1, pool, side, pool).mean(dim=(1, 3))
                self.maps[layer, head, rows].add_(pooled, alpha=of_all)
                self.frames[layer, head, part].add_(grid.sum(dim=3).mean(dim=1), alpha=of_all)
                place = grid.diagonal(dim1=1, dim2=3).mean(dim=-1)
                self.same_place[step, layer, head, part].add_(place, alpha=of_prompts)
                own = grid[:, :, part].diagonal(dim1=0, dim2=2).sum(dim=-1)
                self.same_frame[step, layer, head].add_(own, alpha=of_prompts / f)


def pooling(tokens: int, frame_tokens: int, most: int) -> int:
    """The smallest side of squares, dividing a frame, over which a map is averaged to have at most ``most`` a side.

    A whole frame where nothing smaller does.
    """
    sizes = [size for size in range(1, frame_tokens + 1) if frame_tokens % size == 0]
    return next((size for size in sizes if tokens // size <= most), frame_tokens)


def choose_heads(recording: Recording) -> dict[str, tuple[int, int]]:
    """The head that attends most within its own frame, and another that attends most to its own place in other frames.

    The token itself counts for neither.

    Returns:
        (layer, head) of ``spatial`` and ``temporal``.
    """
    same_place = recording.same_place.mean(dim=0)
    self_share = same_place.diagonal(dim1=-2, dim2=-1).mean(-1)
    own_frame = recording.frames.diagonal(dim1=-2, dim2=-1).mean(-1) - self_share
    own_place = same_place.sum(-1).mean(-1) - self_share
    spatial = divmod(int(own_frame.argmax()), own_frame.shape[1])
    own_place[spatial] = -1
    return {"spatial": spatial, "temporal": divmod(int(own_place.argmax()), own_place.shape[1])}
