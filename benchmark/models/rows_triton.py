"""Triton kernels of ``benchmark.models.rows``: one program a row, which reads the row once and keeps it in registers.

A row's length is no power of two, which Triton's blocks are, so it is taken as one block and a smaller one behind it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

WARPS = 8  # of a program


def add_norm(
    hidden: torch.Tensor,
    out: torch.Tensor | None,
    more: torch.Tensor | None,
    gate: torch.Tensor | None,
    factor: torch.Tensor,
    shift: torch.Tensor,
    eps: float,
    new: torch.Tensor | None,
    normed: torch.Tensor,
    warps: int = WARPS,
) -> None:
    """Writes ``new`` and ``normed``; see ``rows.add_norm_rows``. Without ``out`` there is no ``new``.

    Raises:
        ValueError: a tensor does not lie in memory as it must.
    """
    batch, tokens, channels = hidden.shape
    for name, x in (("hidden", hidden), ("out", out), ("more", more)):
        if x is not None and not (x.is_contiguous() and x.shape == hidden.shape):
            raise ValueError(f"add_norm: {name}: a contiguous tensor of {tuple(hidden.shape)} is needed")
    vectors = {"gate": gate, "factor": factor, "shift": shift}
    for name, x in vectors.items():
        if x is not None and (x.shape not in ((1, channels), (batch, channels)) or x.stride(1) != 1):
            raise ValueError(f"add_norm: {name}: ({batch} or 1, {channels}) is needed, not {tuple(x.shape)}")
    steps = [0 if x is None or x.shape[0] == 1 else x.stride(0) for x in vectors.values()]
    head, tail = _split(channels)
    _add_norm[(batch * tokens,)](
        hidden, out, more, gate, factor, shift, new, normed, tokens, *steps, eps,
        CHANNELS=channels, HEAD=head, TAIL=tail, num_warps=warps,
    )  # fmt: skip


def norm_rotate(
    x: torch.Tensor,
    weight: torch.Tensor,
    cosines: torch.Tensor | None,
    sines: torch.Tensor | None,
    eps: float,
    out: torch.Tensor,
    warps: int = WARPS,
) -> None:
    """Writes ``out``; see ``rows.norm_rotate``. Two channels are read and written as one number of 32 bits.

    Raises:
        ValueError: a tensor does not lie in memory as it must.
    """
    batch, tokens, heads, size = out.shape
    if weight.dtype != torch.bfloat16 or weight.shape not in ((size,), (heads * size,)):
        raise ValueError(f"norm_rotate: weight: bfloat16 ({size},) or ({heads * size},) is needed")
    if x.dtype != torch.bfloat16 or x.stride(2) != 1 or x.stride(1) % 2 or x.stride(0) % 2 or x.storage_offset() % 2:
        raise ValueError(f"norm_rotate: bfloat16 rows of pairs are needed, not {x.dtype} with strides {x.stride()}")
    if cosines is not None:
        for name, table in (("cosines", cosines), ("sines", sines)):
            if table.shape != (tokens, 1, size // 2) or not table.is_contiguous() or table.dtype != torch.float32:
                raise ValueError(f"norm_rotate: {name}: float32 ({tokens}, 1, {size // 2}) is needed")
    _norm_rotate[(batch * tokens,)](
        x.view(torch.int32), weight.view(torch.int32), cosines, sines, out.view(torch.int32), tokens,
        x.stride(0) // 2, x.stride(1) // 2, eps, HEADS=heads, ALL=triton.next_power_of_2(heads), HALF=size // 2,
        PAIRS=triton.next_power_of_2(size // 2), OVER_HEADS=weight.shape[0] == heads * size, num_warps=warps,
    )  # fmt: skip


def _split(channels: int) -> tuple[int, int]:
    """Two powers of two that hold a row; the second is the smaller and may be more than what is left."""
    head = 1 << (channels.bit_length() - 1)
    if head == channels:
        return head // 2, head // 2
    return head, triton.next_power_of_2(channels - head)


@triton.jit
def _moments(x, y, within, CHANNELS: tl.constexpr, eps):
    """Both parts of a row without their mean, and one over their deviation."""
    mean = (tl.sum(x, axis=0) + tl.sum(tl.where(within, y, 0.0), axis=0)) / CHANNELS
    x = x - mean
    y = tl.where(within, y - mean, 0.0)
    variance = (tl.sum(x * x, axis=0) + tl.sum(y * y, axis=0)) / CHANNELS
    return x, y, 1.0 / tl.sqrt(variance + eps)


@triton.jit
def _added(out, more, gate, place, vector, within):
    """What is added to the hidden state at some places of a row."""
    added = tl.load(out + place, mask=within, other=0.0).to(tl.float32)
    if more is not None:
        added += tl.load(more + place, mask=within, other=0.0).to(tl.float32)
    if gate is not None:
        added *= tl.load(gate + vector, mask=within, other=0.0).to(tl.float32)
    return added


@triton.jit
def _scaled(x, factor, factor_place, shift, shift_place, within):
    x *= tl.load(factor + factor_place, mask=within, other=0.0).to(tl.float32)
    return x + tl.load(shift + shift_place, mask=within, other=0.0).to(tl.float32)


@triton.jit
def _add_norm(
    hidden, out, more, gate, factor, shift, new, normed, tokens, gate_step, factor_step, shift_step, eps,
    CHANNELS: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    sample = row // tokens
    first, second = tl.arange(0, HEAD), HEAD + tl.arange(0, TAIL)
    whole, within = first < CHANNELS, second < CHANNELS
    place = row * CHANNELS
    x = tl.load(hidden + place + first, mask=whole, other=0.0).to(tl.float32)
    y = tl.load(hidden + place + second, mask=within, other=0.0).to(tl.float32)
    if out is not None:
        x += _added(out, more, gate, place + first, sample * gate_step + first, whole)
        y += _added(out, more, gate, place + second, sample * gate_step + second, within)
        rounded_x, rounded_y = x.to(new.dtype.element_ty), y.to(new.dtype.element_ty)
        tl.store(new + place + first, rounded_x, mask=whole)
        tl.store(new + place + second, rounded_y, mask=within)
        x, y = rounded_x.to(tl.float32), rounded_y.to(tl.float32)
    x, y, deviation = _moments(x, y, within, CHANNELS, eps)
    of_factor, of_shift = sample * factor_step, sample * shift_step
    x = _scaled(x * deviation, factor, of_factor + first, shift, of_shift + first, whole)
    y = _scaled(y * deviation, factor, of_factor + second, shift, of_shift + second, within)
    tl.store(normed + place + first, x.to(normed.dtype.element_ty), mask=whole)
    tl.store(normed + place + second, y.to(normed.dtype.element_ty), mask=within)


@triton.jit
def _halves(word):
    """The two bfloat16 numbers of a word, the first in its lower half, as float32."""
    word = word.to(tl.uint32, bitcast=True)
    return (word << 16).to(tl.float32, bitcast=True), (word & 0xFFFF0000).to(tl.float32, bitcast=True)


@triton.jit
def _word(one, other):
    one = one.to(tl.bfloat16).to(tl.uint16, bitcast=True).to(tl.uint32)
    other = other.to(tl.bfloat16).to(tl.uint16, bitcast=True).to(tl.uint32)
    return (one | (other << 16)).to(tl.int32, bitcast=True)


@triton.jit
def _norm_rotate(
    x, weight, cosines, sines, out, tokens, sample_step, row_step, eps,
    HEADS: tl.constexpr, ALL: tl.constexpr, HALF: tl.constexpr, PAIRS: tl.constexpr, OVER_HEADS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    sample, token = row // tokens, row % tokens
    head, pair = tl.arange(0, ALL)[:, None], tl.arange(0, PAIRS)[None, :]
    within = (head < HEADS) & (pair < HALF)
    place = head * HALF + pair
    one, other = _halves(tl.load(x + sample * sample_step + token * row_step + place, mask=within, other=0))
    square = tl.sum(one * one + other * other, axis=1, keep_dims=True)
    if OVER_HEADS:
        norm = 1.0 / tl.sqrt(tl.sum(square, axis=0, keep_dims=True) / (HEADS * HALF * 2) + eps)
        of_one, of_other = _halves(tl.load(weight + place, mask=within, other=0))
    else:
        norm = 1.0 / tl.sqrt(square / (HALF * 2) + eps)
        of_one, of_other = _halves(tl.load(weight + pair, mask=pair < HALF, other=0))
    one *= norm * of_one
    other *= norm * of_other
    if cosines is not None:
        turn = token * HALF + pair
        cosine = tl.load(cosines + turn, mask=pair < HALF, other=0.0)
        sine = tl.load(sines + turn, mask=pair < HALF, other=0.0)
        one, other = one * cosine - other * sine, other * cosine + one * sine
    tl.store(out + row * (HEADS * HALF) + place, _word(one, other), mask=within)
