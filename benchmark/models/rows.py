"""Operations on the rows of a hidden state: residual, norm and modulation, and the norm and rotation of q and k.

Each reads and writes every tensor once. On a GPU they are Triton kernels (``benchmark.models.rows_triton``), elsewhere
the same in PyTorch. They compute in float32 and round what they write; they have no backward pass.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
import torch.nn.functional as F

from benchmark.models.rotary import rotate_pairs


@torch.library.custom_op("benchmark::norm_rows", mutates_args=(), device_types="cuda")
def norm_rows(hidden: torch.Tensor, factor: torch.Tensor, shift: torch.Tensor, eps: float) -> torch.Tensor:
    """norm(hidden) x factor + shift, where norm is LayerNorm without weights.

    Args:
        hidden: (batch, tokens, channels), contiguous.
        factor, shift: (batch or 1, channels).
    """
    normed = torch.empty_like(hidden)
    _kernels().add_norm(hidden, None, None, None, factor, shift, eps, None, normed)
    return normed


@norm_rows.register_kernel("cpu")
def _(hidden, factor, shift, eps):
    return _normed(hidden, factor, shift, eps)


@norm_rows.register_fake
def _(hidden, factor, shift, eps):
    return torch.empty_like(hidden)


@torch.library.custom_op("benchmark::add_norm_rows", mutates_args=(), device_types="cuda")
def add_norm_rows(
    hidden: torch.Tensor,
    out: torch.Tensor,
    more: torch.Tensor | None,
    gate: torch.Tensor | None,
    factor: torch.Tensor,
    shift: torch.Tensor,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """new = hidden + (out + more) x gate, rounded, and norm(new) x factor + shift.

    Args:
        hidden, out, more: (batch, tokens, channels), contiguous; without ``more``, nothing is added to ``out``.
        gate, factor, shift: (batch or 1, channels); without ``gate``, it is 1.
    """
    new, normed = torch.empty_like(hidden), torch.empty_like(hidden)
    _kernels().add_norm(hidden, out, more, gate, factor, shift, eps, new, normed)
    return new, normed


@add_norm_rows.register_kernel("cpu")
def _(hidden, out, more, gate, factor, shift, eps):
    out = out.float() if more is None else out.float() + more.float()
    new = (hidden.float() + (out if gate is None else out * gate.float()[:, None])).to(hidden.dtype)
    return new, _normed(new, factor, shift, eps)


@add_norm_rows.register_fake
def _(hidden, out, more, gate, factor, shift, eps):
    return torch.empty_like(hidden), torch.empty_like(hidden)


@torch.library.custom_op("benchmark::norm_rotate", mutates_args=(), device_types="cuda")
def norm_rotate(
    x: torch.Tensor,
    weight: torch.Tensor,
    cosines: torch.Tensor | None,
    sines: torch.Tensor | None,
    heads: int,
    eps: float,
) -> torch.Tensor:
    """RMS norm and rotation of q or k.

    Args:
        x: (batch, tokens, channels); rows may lie apart, as those of a joint product of q, k and v do.
        weight: of the norm: (channels,), which is then over all heads, or (head size,), over each.
        cosines, sines: float32 (tokens, 1, half of the head size); None turns nothing.

    Returns:
        (batch, tokens, heads, head size).
    """
    out = x.new_empty(*x.shape[:2], heads, x.shape[2] // heads)
    _kernels().norm_rotate(x, weight, cosines, sines, eps, out)
    return out


@norm_rotate.register_kernel("cpu")
def _(x, weight, cosines, sines, heads, eps):
    return normed_rotated(x, weight, None if cosines is None else (cosines, sines), heads, eps)


@norm_rotate.register_fake
def _(x, weight, cosines, sines, heads, eps):
    return x.new_empty(*x.shape[:2], heads, x.shape[2] // heads)


def normed_rotated(
    x: torch.Tensor, weight: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor] | None, heads: int, eps: float
) -> torch.Tensor:
    """``norm_rotate`` in PyTorch, with tables of one row for all heads or of one for each."""
    dtype, over_heads = x.dtype, weight.shape[0] == x.shape[2]
    x = x.float() if over_heads else x.float().unflatten(2, (heads, -1))
    x = x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps) * weight.float()
    x = x.unflatten(2, (heads, -1)) if over_heads else x
    return (x if tables is None else rotate_pairs(x, *tables)).to(dtype)


def _normed(x: torch.Tensor, factor: torch.Tensor, shift: torch.Tensor, eps: float) -> torch.Tensor:
    found = F.layer_norm(x.float(), x.shape[-1:], eps=eps)
    return (found * factor.float()[:, None] + shift.float()[:, None]).to(x.dtype)


def _kernels() -> Any:
    """The Triton kernels. Machines without a GPU have no Triton, so the import waits until one is needed."""
    return importlib.import_module("benchmark.models.rows_triton")
