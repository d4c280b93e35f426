"""Rotary embeddings: turning pairs of channels, and giving a method's temporal frequencies to a model's tables."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmark.layout import VideoLayout
from benchmark.method import Method


def rotate_pairs(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Turns channels 2n and 2n + 1 together, in float32.

    Written without a concatenation or a strided write, so that a compiler makes one pass of it and of what precedes.

    Args:
        x: (batch, tokens, heads, head size).
        cosines, sines: float32 (tokens, heads or 1, half of the head size).

    Returns:
        float32 (batch, tokens, heads, head size).
    """
    pairs = x.float().unflatten(-1, (-1, 2))
    sign = torch.arange(-1, 2, 2, device=x.device)  # -1 for the even channel, 1 for the odd one
    return (pairs * cosines[..., None] + pairs.flip(-1) * (sines[..., None] * sign)).flatten(-2)


@dataclass(frozen=True, eq=False)
class Rotation:
    """The rotary embedding of a sequence whose first tokens are the video's; text after them is left as it is.

    Args:
        cosines, sines: float32 (video tokens, heads or 1, half of the head size).
    """

    cosines: torch.Tensor
    sines: torch.Tensor

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Rotates (batch, tokens, heads, head size)."""
        video = self.cosines.shape[0]
        rotated = rotate_pairs(x[:, :video], self.cosines, self.sines).type_as(x)
        return rotated if x.shape[1] == video else torch.cat([rotated, x[:, video:]], dim=1)


def changed_frequencies(
    own: torch.Tensor, method: Method, layout: VideoLayout, repetition: float | None
) -> torch.Tensor | None:
    """The method's temporal frequencies, in radians a latent frame; None where it keeps the model's."""
    changed = method.temporal_frequencies(own, layout.frames, repetition)
    return None if changed is own or torch.equal(own, changed) else changed


def with_temporal(
    tables: tuple[torch.Tensor, torch.Tensor], frequencies: torch.Tensor, layout: VideoLayout
) -> tuple[torch.Tensor, torch.Tensor]:
    """A model's cosines and sines with other temporal frequencies.

    Args:
        tables: each with one row of channels for every video token, in frame-major order, every value twice, and the
            temporal channels first; any dimensions of size 1.
        frequencies: (components,), in radians a latent frame.
    """
    frames = torch.arange(layout.frames, device=tables[0].device, dtype=torch.float64)
    angles = torch.outer(frames, frequencies.to(frames)).repeat_interleave(2, dim=1)
    angles = angles.repeat_interleave(layout.frame_tokens, dim=0)
    changed = []
    for table, function in zip(tables, (torch.cos, torch.sin), strict=True):
        rows = table.reshape(layout.video, -1).clone()
        rows[:, : angles.shape[1]] = function(angles).to(rows.dtype)
        changed.append(rows.reshape(table.shape))
    return changed[0], changed[1]
