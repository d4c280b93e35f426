"""FlashAttention in Triton for masks in small blocks, those of testbeds, on a GPU.

Kernels that leave out whole tiles of 128x128 tokens gain little from a mask in blocks of 8: radial attention at a
density of 0.3 touches every tile of such a grid. Here a tile is 64 queries, and the keys that any of them sees are
gathered block by block: every block of queries reads few keys beyond its own. Forward and backward pass; sums are in a
fixed order, so that the same call gives the same bits. A mask that keeps everything is left to ``sdpa``.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from typing import NamedTuple

import torch

from benchmark.kernels import check_inputs, sdpa
from benchmark.masks import BlockMask

SKIPS_BLOCKS = True
CAPTURES_MASKS = True
DENSE_KERNEL = "sdpa"

_ROWS = 64  # tokens of the tile that a program holds
# Tokens that it takes from its list at a time, warps, and stages of loading: the fastest tried on an H100, for all
# three kernels alike.
_SETTINGS = dict.fromkeys(("forward", "query_gradient", "key_gradients"), (128, 4, 2))
_BLOCKS = (4, 8, 16, 32, 64)
_LISTED_AT_ONCE = 2**24  # entries made at once


def unavailable(device: torch.device) -> str | None:
    """Why the kernel can't run on a device, or None."""
    if torch.device(device).type != "cuda":
        return "Triton's kernels run on a GPU only"
    if not torch.cuda.is_available():
        return "PyTorch finds no CUDA GPU"
    return None if importlib.util.find_spec("triton") is not None else "Triton is not installed"


def skips(block: int) -> bool:
    """Whether what is left out is never read: not so where several blocks of queries share a tile."""
    return block == _ROWS


def unsupported(block: int, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why the kernel can't take a mask or tensors like that, or None."""
    if block not in _BLOCKS:
        return f"blocks of {block} tokens: {', '.join(map(str, _BLOCKS))} are allowed"
    if dtype not in (torch.bfloat16, torch.float32):
        return f"{dtype}: bfloat16 and float32 are allowed"
    if head_dim not in (16, 32, 64, 128):
        return f"heads of {head_dim} channels: 16, 32, 64 and 128 are allowed"
    return None


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: BlockMask, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Softmax attention over a block mask.

    Args:
        q, k, v: (batch, tokens, heads, head size).
        out: where the result is written, of the same shape; a new tensor where None.

    Returns:
        (batch, tokens, heads, head size).

    Raises:
        ValueError: tensors and mask do not belong together, or ``unsupported`` refuses them.
    """
    check_inputs(q, k, v, mask, out)
    if mask.is_dense:  # DENSE_KERNEL
        return sdpa.attend(q, k, v, mask, out)
    reason = unsupported(mask.block, q.dtype, q.shape[3])
    if reason is not None:
        raise ValueError(f"gathered: {reason}")
    mask = mask.to(q.device)
    q, k, v = (x if x.stride(3) == 1 else x.contiguous() for x in (q, k, v))
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        result = _Attention.apply(q, k, v, mask)
        return result if out is None else out.copy_(result)
    result = out if out is not None and out.stride(3) == 1 else torch.empty(q.shape, dtype=v.dtype, device=v.device)
    _forward(q, k, v, mask, result)
    return result if out is None or out is result else out.copy_(result)


def prepare(mask: BlockMask, k: torch.Tensor, variant: None = None) -> None:
    """Makes the lists that a forward pass reads of a mask on the device of the keys, and keeps them with it."""
    if not mask.is_dense:
        mask.form("gathered", lists)


class Lists(NamedTuple):
    """What each tile of rows sees.

    Args:
        index: blocks that any row of the tile sees, ascending, int32 (heads, tiles, entries); 0 past the count.
        bits: bit n of an entry says whether the tile's n-th block of rows sees it; int32 like ``index``.
        counts: int32 (heads, tiles).
    """

    index: torch.Tensor
    bits: torch.Tensor
    counts: torch.Tensor


def lists(mask: BlockMask, transposed: bool = False) -> Lists:
    """A mask's lists for tiles of query blocks; transposed, for tiles of key blocks."""
    blocks = mask.blocks.transpose(1, 2) if transposed else mask.blocks
    heads, side, _ = blocks.shape
    each = _ROWS // mask.block
    tiles = -(-side // each)
    weights = 2 ** torch.arange(each, dtype=torch.int32, device=blocks.device)
    made = []
    step = max(_LISTED_AT_ONCE // (heads * each * side), 1)
    for first in range(0, tiles, step):
        part = blocks[:, first * each : (first + step) * each]
        part = torch.nn.functional.pad(part, (0, 0, 0, -part.shape[1] % each)).unflatten(1, (-1, each))
        bits = (part * weights[:, None]).sum(dim=2, dtype=torch.int32)
        order = torch.argsort((bits == 0).to(torch.uint8), dim=2, stable=True)
        bits = bits.gather(2, order)
        made.append((torch.where(bits != 0, order, 0).to(torch.int32), bits))
    index, bits = (torch.cat(parts, dim=1) for parts in zip(*made, strict=True))
    counts = (bits != 0).sum(dim=2, dtype=torch.int32)
    longest = int(counts.max())
    return Lists(index[:, :, :longest].contiguous(), bits[:, :, :longest].contiguous(), counts)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, mask):
        out = torch.empty(q.shape, dtype=v.dtype, device=v.device)
        lse = _forward(q, k, v, mask, out)
        ctx.mask = mask
        ctx.save_for_backward(q, k, v, out, lse)
        return out

    @staticmethod
    def backward(ctx, grad):
        return *_backward(*ctx.saved_tensors, grad, ctx.mask), None


def _forward(q, k, v, mask, out) -> torch.Tensor:
    """Writes ``out``; returns the logarithms to base 2 of the denominators, float32 (batch, heads, tokens)."""
    batch, tokens, heads, size = q.shape
    listed = mask.form("gathered", lists)
    lse = torch.empty(batch, heads, tokens, dtype=torch.float32, device=q.device)
    _run(
        "forward", mask, q, k, v, out, lse, *listed, *_strides(q, k, v, out),
        tokens, heads, *_shape(listed), _scale(size),
    )  # fmt: skip
    return lse


def _backward(q, k, v, out, lse, grad, mask) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of queries, keys and values."""
    tokens, heads, size = q.shape[1:]
    grad = grad if grad.stride(3) == 1 else grad.contiguous()
    delta = (out.float() * grad.float()).sum(dim=3).transpose(1, 2).contiguous()
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    factor = 1 / math.sqrt(size)
    for name, targets, transposed in (("query_gradient", (dq,), False), ("key_gradients", (dk, dv), True)):
        form = "gathered transposed" if transposed else "gathered"
        listed = mask.form(form, functools.partial(lists, transposed=transposed))
        _run(
            name, mask, q, k, v, grad, lse, delta, *targets, *listed, *_strides(q, k, v, grad, *targets),
            tokens, heads, *_shape(listed), _scale(size), factor,
        )  # fmt: skip
    return dq, dk, dv


def _run(name: str, mask: BlockMask, q: torch.Tensor, *arguments) -> None:
    """Runs a kernel, one program for each tile of each head and sample; ``q`` is its first argument."""
    from benchmark.kernels import _gathered_triton as kernels

    width, warps, stages = _SETTINGS[name]
    exact = q.dtype == torch.float32
    grid = (-(-mask.side // (_ROWS // mask.block)), q.shape[0] * q.shape[2])
    getattr(kernels, name)[grid](
        q, *arguments, BLOCK=mask.block, ROWS=_ROWS, WIDTH=max(width // 2, mask.block) if exact else width,
        SIZE=q.shape[3], EXACT=exact, num_warps=warps, num_stages=1 if exact else stages,
    )  # fmt: skip


def _strides(*tensors: torch.Tensor) -> tuple[int, ...]:
    """Steps between samples, tokens and heads, of each tensor."""
    return tuple(step for x in tensors for step in x.stride()[:3])


def _shape(listed: Lists) -> tuple[int, int, int]:
    """Tiles, entries a list, and heads of the mask."""
    heads, tiles, entries = listed.index.shape
    return tiles, entries, heads


def _scale(size: int) -> float:
    """What turns products into exponents of two."""
    return math.log2(math.e) / math.sqrt(size)
