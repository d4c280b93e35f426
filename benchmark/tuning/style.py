"""Styles: the same world drawn in another palette or with another texture, for style adapters (Figure F).

A style is a fixed function of the pixels, so that what objects are and where they go stays what the prompt says.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MappingProxyType

import torch

from benchmark.tuning.settings import PLAIN

HATCH_PERIOD = 8.0  # lines of the hatching: world pixels (of 64 a frame) from one to the next
HATCH_DEPTH = 0.45  # share of the brightness that a line takes away

# Rows are red, green and blue of the picture, columns those of the plain one: warm light, blue shadows.
_DUSK = ((0.80, 0.16, 0.00), (0.10, 0.62, 0.06), (0.06, 0.10, 0.62))
_DUSK_SHADOW = (0.06, 0.02, 0.22)


def _plain(clips: torch.Tensor) -> torch.Tensor:
    return clips


def _dusk(clips: torch.Tensor) -> torch.Tensor:
    palette = torch.tensor(_DUSK, dtype=clips.dtype, device=clips.device)
    shadow = torch.tensor(_DUSK_SHADOW, dtype=clips.dtype, device=clips.device)[:, None, None]
    return (torch.einsum("oc,...chw->...ohw", palette, clips) + shadow).clamp(0, 1)


def _hatched(clips: torch.Tensor) -> torch.Tensor:
    return clips * hatching(clips.shape[-1]).to(clips)


def hatching(size: int) -> torch.Tensor:
    """The diagonal lines of ``hatched``, which stand still: brightness, float32 (size, size)."""
    axis = (torch.arange(size) + 0.5) * (64 / size)
    wave = torch.cos(2 * math.pi * (axis[:, None] + axis[None, :]) / HATCH_PERIOD)
    return 1 - HATCH_DEPTH * torch.sigmoid(4 * wave)


_STYLES: MappingProxyType[str, Callable[[torch.Tensor], torch.Tensor]] = MappingProxyType(
    {PLAIN: _plain, "dusk": _dusk, "hatched": _hatched}
)


def names() -> list[str]:
    """The names of all styles."""
    return list(_STYLES)


def styled(clips: torch.Tensor, style: str) -> torch.Tensor:
    """Clips in a style.

    Args:
        clips: (..., 3, size, size), RGB in [0, 1].
        style: one of ``names()``.

    Returns:
        The same shape, in [0, 1].
    """
    return _STYLES[style](clips)


def mixed(clips: torch.Tensor, style: str, strength: float) -> torch.Tensor:
    """Clips on the way from plain to styled: the plain ones at strength 0, as ``styled`` draws them at 1."""
    return torch.lerp(clips, styled(clips, style), strength)


def unmixed(clips: torch.Tensor, style: str, strength: float) -> torch.Tensor:
    """The plain clips of which ``mixed`` made these: its inverse, but where a style's colours were cut off at 0 or 1.

    Args:
        clips: (..., 3, size, size), RGB in [0, 1].
        style: one of ``names()``.
        strength: 0 leaves them as they are.

    Raises:
        ValueError: the style has no inverse here.
    """
    if style == "hatched":
        return (clips / (1 + strength * (hatching(clips.shape[-1]).to(clips) - 1))).clamp(0, 1)
    if style == "dusk":
        palette = torch.lerp(torch.eye(3), torch.tensor(_DUSK), strength).inverse().to(clips)
        shadow = torch.tensor(_DUSK_SHADOW, dtype=clips.dtype, device=clips.device)[:, None, None]
        return torch.einsum("oc,...chw->...ohw", palette, clips - strength * shadow).clamp(0, 1)
    if style == PLAIN:
        return clips
    raise ValueError(f"style {style!r}: it has no inverse; {', '.join(names())} are allowed")
