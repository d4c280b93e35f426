"""FlashAttention 4 (the package flash-attn-4), dense and block-sparse, forward and backward, on Hopper GPUs.

It takes the block lists of a mask as they are, in bfloat16. Its tiles are 128 queries by 128 keys, so masks come in
blocks of 128 tokens or a multiple of it, which is divided; a mask that keeps everything may have any block. A short
last block needs no mask of its own: the forward pass walks a list from its end and cuts the first block that it walks
to the length of the sequence, so a short block stands there (the backward pass cuts every block).

Two things decide how much is read from memory and how much from the GPU's cache, which serves all tiles that run side
by side (132 on an H100). One is the order in which a tile walks its keys: here from the first to the last, since a tile
that starts later lies further right in the sequence, and finds in the cache what those before it have just read when
all of them ascend. The other is which tiles run side by side. In frame-major order they are a few whole frames, which
share little but their own neighbourhood. Where a mask says after how many blocks its rows repeat (``BlockMask.period``:
the blocks of a frame), the tiles of a few neighbouring places in all frames share nearly all that they see, but must be
copied there (``Variant``). That pays where keys and values of a head are much larger than the cache; see ``LARGE``.

The first call of a kind compiles, for about 5 s: dense or sparse, one mask for all heads or one for each, head size,
forward or backward. Shapes and masks do not matter.

Ways to run the same attention are in ``VARIANTS``; ``python -m benchmark kernels_bench --tune`` times them.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from benchmark.kernels import check_inputs
from benchmark.masks import BlockMask, block_lists, divided

SKIPS_BLOCKS = True
CAPTURES_MASKS = False

_BLOCK = 128
_LARGEST_HEAD = 128  # beyond, the kernel's tiles have fewer than 128 keys
_MEASURED = (9, 0)  # compute capability


@dataclass(frozen=True)
class Variant:
    """A way to run the same attention over a sparse mask.

    Args:
        columns: tiles are started column by column: those that see everything, then the first so many blocks of every
            frame, then the next. It costs a copy of the queries and one of the output; of keys and values and all
            gradients, too, where gradients are wanted. 0 leaves the sequence as it is, and so does a mask without a
            ``period`` or with one grid a head.
    """

    columns: int = 0


VARIANTS = MappingProxyType({"frames": Variant(), "columns5": Variant(columns=5)})

LARGE = 3
"""Columns are taken where keys and values of one head are more than so many times as large as the GPU's L2 cache.

Radial masks on an H100 (50 MB), in ms: at 115,456 tokens, where they are 1.1 times as large, frames 69.4, columns of 4,
5 and 6 blocks 70.6, 72.1 and 69.9 (with gradients 271.9, and 274.0 for 5); at 461,056 tokens, 4.5 times as large,
frames 519.1, columns 508.8, 508.4 and 511.1. In between, gain and loss should be even at about 3 times. Walking from
the last key to the first took 540.3 there, and 284 with gradients at 115,456 tokens."""


def differ(mask: BlockMask) -> bool:
    """Whether the variants run a mask in different ways."""
    return len({_fitting(variant, mask) for variant in VARIANTS.values()}) > 1


def preferred(one_head: int, cache: int) -> Variant:
    """The variant that ``attend`` takes where the mask allows it.

    Args:
        one_head: bytes of the keys and values of one head.
        cache: bytes of the GPU's L2 cache.
    """
    return VARIANTS["columns5" if one_head > LARGE * cache else "frames"]


def unavailable(device: torch.device) -> str | None:
    """Why the kernel can't run on a device, or None."""
    device = torch.device(device)
    if device.type != "cuda":
        return "flash-attn-4 runs on NVIDIA GPUs only"
    if not torch.cuda.is_available():
        return "PyTorch finds no CUDA GPU"
    capability = torch.cuda.get_device_capability(device)
    if capability != _MEASURED:
        return f"the GPU has compute capability {'.'.join(map(str, capability))}; measured is 9.0 (Hopper) only"
    try:
        _interface()
    except (ImportError, AttributeError, OSError, RuntimeError) as error:  # of any of the packages that it builds on
        return f"flash-attn-4 can't be imported ({error})"
    return None


def skips(block: int) -> bool:
    """Whether blocks of that many tokens are skipped, not masked, when they are left out."""
    return block % _BLOCK == 0


def unsupported(block: int, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why the kernel can't take a mask or tensors like that, or None."""
    if dtype != torch.bfloat16:
        return f"flash4 takes torch.bfloat16, not {dtype}"
    if head_dim % 8 or not 8 <= head_dim <= _LARGEST_HEAD:
        return f"flash4 takes heads of 8 to {_LARGEST_HEAD} channels, a multiple of 8, not {head_dim}"
    if block % _BLOCK:
        return f"flash4 takes sparse masks in blocks of a multiple of {_BLOCK} tokens, not {block}"
    return None


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: BlockMask, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Softmax attention over a block mask.

    Args:
        q, k, v: (batch, tokens, heads, head size), bfloat16, on a Hopper GPU.
        out: where the result is written, of the same shape; a new tensor where None.

    Returns:
        (batch, tokens, heads, head size).

    Raises:
        ValueError: they do not belong together, or are of a kind that the kernel does not take.
    """
    return attend_as(None, q, k, v, mask, out)


def attend_as(
    variant: Variant | None,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: BlockMask,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """As ``attend``, in a certain way; None takes the ``preferred`` one."""
    check_inputs(q, k, v, mask, out)
    for name, tensor in (("q", q), ("k", k), ("v", v), ("out", out)):
        if tensor is not None:
            reason = unsupported(_BLOCK, tensor.dtype, tensor.shape[3])
            if reason is None and tensor.device.type != "cuda":
                reason = f"flash4 runs on NVIDIA GPUs only, not on {tensor.device}"
            if reason is not None:
                raise ValueError(f"{name}: {reason}")
    if mask.block % _BLOCK and not mask.is_dense:
        raise ValueError(f"mask: {unsupported(mask.block, q.dtype, q.shape[3])}")
    mask = mask.to(q.device)
    variant = _chosen(variant, mask, k)
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        result = _train(variant, q, k, v, mask)
        return result if out is None else out.copy_(result)
    direct = out if out is not None and _writable(out) else torch.empty(q.shape, dtype=v.dtype, device=v.device)
    lists, rows = _forms(mask, variant)
    if rows is not None:
        there, back = rows
        result = torch.empty(q.shape, dtype=v.dtype, device=v.device)
        _forward(moved(q, there), k, v, lists, result)
        moved(result, back, direct)
    else:
        _forward(q, k, v, lists, direct)
    return direct if out is None or out is direct else out.copy_(direct)


def prepare(mask: BlockMask, k: torch.Tensor, variant: Variant | None = None) -> None:
    """Makes what a forward pass reads of a mask, and keeps it with the mask; nothing for a dense one.

    Args:
        mask: on the device of the keys.
        k: (batch, tokens, heads, head size).
        variant: None is the ``preferred`` one.
    """
    _forms(mask, _chosen(variant, mask, k))


def _chosen(variant: Variant | None, mask: BlockMask, k: torch.Tensor) -> Variant:
    """The variant, or for None the preferred one, as it can run a mask."""
    if variant is None:
        one_head = 2 * k.shape[1] * k.shape[3] * k.element_size()
        variant = preferred(one_head, torch.cuda.get_device_properties(k.device).L2_cache_size)
    return _fitting(variant, mask)


def _forms(mask: BlockMask, variant: Variant) -> tuple[Any | None, tuple[torch.Tensor, torch.Tensor] | None]:
    """What a forward pass reads of a mask: its lists, None where it is dense, and the order of its rows, if any."""
    rows = mask.form(f"flash4 rows {variant.columns}", _Rows(variant.columns)) if variant.columns else None
    return _lists(mask, variant), rows


def _interface() -> Any:
    """flash-attn-4's functions. Its import takes seconds, so it waits until it is needed."""
    return importlib.import_module("flash_attn.cute.interface")


def _fitting(variant: Variant, mask: BlockMask) -> Variant:
    """The variant as it can run a mask: in columns only where there are any, and one order serves all heads."""
    if variant.columns and (mask.is_dense or mask.period is None or mask.heads > 1):
        return VARIANTS["frames"]
    return variant


def _writable(out: torch.Tensor) -> bool:
    """Whether the kernel can write into a tensor as it lies in memory: in runs of 16 bytes."""
    *outer, last = out.stride()
    return last == 1 and out.data_ptr() % 16 == 0 and all(stride and stride % 8 == 0 for stride in outer)


def _forward(q, k, v, lists, out):
    """One forward pass into ``out``, without what a backward pass would need."""
    _interface()._flash_attn_fwd(q.detach(), k.detach(), v.detach(), block_sparse_tensors=lists, out=out)


def _train(variant, q, k, v, mask):
    """A forward pass that has a backward pass; in columns, keys and values move as well, since its tiles are keys."""
    there = back = None
    if variant.columns:
        there, back = mask.form(f"flash4 rows {variant.columns}", _Rows(variant.columns))
        q, k, v = (_Moved.apply(x, there, back) for x in (q, k, v))
    result = _interface().flash_attn_func(
        q,
        k,
        v,
        block_sparse_tensors=_lists(mask, variant, keys_moved=True),
        block_sparse_tensors_bwd=_lists(mask, variant, keys_moved=True, transposed=True),
    )[0]
    return _Moved.apply(result, back, there) if variant.columns else result


class _Moved(torch.autograd.Function):
    """``moved`` with a backward pass that is one as well."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, order: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(back)
        return moved(x, order)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return moved(gradient, *ctx.saved_tensors), None, None


def moved(x: torch.Tensor, order: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """The tiles of a sequence in another order.

    Args:
        x: (batch, tokens, heads, head size).
        order: int64 (tiles,): the tile of 128 tokens that comes to stand at each place; a short last one stays.
        out: where the result is written, of the same shape; a new tensor where None.
    """
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device) if out is None else out
    whole = x.shape[1] // _BLOCK
    edge = whole * _BLOCK
    for source, target in zip(x, out, strict=True):
        tiles = source[:edge].unflatten(0, (whole, _BLOCK)), target[:edge].unflatten(0, (whole, _BLOCK))
        if source.is_contiguous() and target.is_contiguous():  # long rows of one tile each are copied fastest
            tiles = tuple(x.flatten(1) for x in tiles)
        torch.index_select(tiles[0], 0, order[:whole], out=tiles[1])
        target[edge:] = source[edge:]
    return out


def _side(mask: BlockMask) -> int:
    """Tiles along the sequence."""
    return -(-mask.tokens // _BLOCK)


def _grid(mask: BlockMask) -> torch.Tensor:
    """The mask in blocks of 128 tokens: bool (heads, tiles, tiles)."""
    return mask.blocks if mask.block == _BLOCK else divided(mask.blocks, mask.block // _BLOCK, _side(mask))


@dataclass(frozen=True)
class _Rows:
    """The order in which the tiles of a mask with a period start, and the order that undoes it: int64 (tiles,) each."""

    columns: int

    def __call__(self, mask: BlockMask) -> tuple[torch.Tensor, torch.Tensor]:
        index = torch.arange(_side(mask), device=mask.blocks.device)
        column = (index % (mask.period * mask.block / _BLOCK)).long() // self.columns + 1
        # What takes longest starts first, so that the GPU does not wait for it at the end.
        column = torch.where(_grid(mask).all(dim=0).all(dim=1), 0, column)
        if mask.tokens % _BLOCK:
            column[-1] = len(column)  # after all others: a short tile can't move
        there = column.argsort(stable=True)
        return there, torch.empty_like(there).scatter_(0, there, index)


def _lists(mask: BlockMask, variant: Variant, keys_moved: bool = False, transposed: bool = False) -> Any | None:
    """The key blocks of every query block (transposed, as the backward pass takes them, the query blocks of every key
    block) in flash-attn-4's form; None for a dense mask, which needs none.

    Args:
        keys_moved: in columns, keys are moved as the queries are.
    """
    if mask.is_dense:
        return None
    keys_moved = keys_moved and variant.columns > 0
    name = f"flash4 {variant} {keys_moved} {transposed}"
    return mask.form(name, lambda mask: _tensors(*walks(mask, variant, keys_moved, transposed)))


def walks(
    mask: BlockMask, variant: Variant, keys_moved: bool = False, transposed: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The lists of ``_lists`` as tensors.

    Returns:
        counts, int32 (heads, tiles), and indices, int32 (heads, tiles, tiles): the first ``counts`` entries of a row
        are the blocks that its tile walks: from their end in the forward pass, from their start when transposed.
    """
    side = _side(mask)
    grid = _grid(mask).transpose(1, 2) if transposed else _grid(mask)
    stored = torch.arange(side, device=grid.device)
    if not transposed:  # a walk that goes from its end ascends where the list descends
        whole = mask.tokens // _BLOCK  # a short last block is walked first all the same
        stored[:whole] = stored[:whole].flip(0)
        grid = grid[:, :, stored]
    names = stored
    if variant.columns:
        there, back = mask.form(f"flash4 rows {variant.columns}", _Rows(variant.columns))
        grid = grid[:, there]
        names = back[stored] if keys_moved else stored
    counts, indices = block_lists(grid)
    return counts, names.int().index_select(0, indices.flatten()).view_as(indices)


def _tensors(counts: torch.Tensor, indices: torch.Tensor) -> Any:
    """flash-attn-4's form of lists: all blocks whole, and an empty list of partial ones (it can't do without it)."""
    counts, indices = counts[None].contiguous(), indices[None].contiguous()
    return importlib.import_module("flash_attn.cute.block_sparsity").BlockSparseTensorsTorch(
        mask_block_cnt=torch.zeros_like(counts),
        mask_block_idx=torch.zeros_like(indices[..., :1]),
        full_block_cnt=counts,
        full_block_idx=indices,
        block_size=(_BLOCK, _BLOCK),
    )
