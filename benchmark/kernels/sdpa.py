"""PyTorch's scaled_dot_product_attention over block masks: the default on a CPU.

It takes no block lists, so blocks are left out in three ways:

- A dense mask is one plain call: on a Hopper GPU in bfloat16 to cuDNN, elsewhere to PyTorch's FlashAttention.
- Blocks of 64 tokens or more are skipped. Query blocks with equally many kept key blocks are put together, their keys
  and values are gathered, and all of them are one batched call without a mask.
- Smaller blocks, those of testbeds, are masked: query rows in runs of 64 to 256, against the keys that any row of the
  run sees, with an additive mask, which is kept for the other layers and steps. Gathering keys for every few rows would
  copy more than it saves. Where a mask says after how many blocks its rows see alike again, as radial's do from frame
  to frame, a run may take a few blocks of several frames, which see fewer keys together than whole frames do.

Milliseconds a call on one core of a Xeon with AMX: bfloat16, batch 1, 6 heads of 32, half of the pairs kept.

    random blocks of 4,136 tokens (dense: 70)       blocks of 4, tokens    1,024   2,048   4,096
    tokens a block      8    16    32    64   128   dense                    4.4      17      66
    gathered          387   155   102    86    65   sliding tiles            3.5      12      48
    masked            102   102   103    98    93

PyTorch has several backends for it, which ``VARIANTS`` names: each computes with that one or fails. What computed is
told by ``recorded``.

On one core of an EPYC (Zen 4), 2,048 and 4,096 tokens: dense 52 and 210, radial 50 and 209; in runs of sequence 66 and
255.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import math
from collections.abc import Iterator
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch.backends.cuda import SDPAParams
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmark.kernels import check_inputs
from benchmark.masks import BlockMask

SKIPS_BLOCKS = True
CAPTURES_MASKS = False  # which keys to gather is read on the host

VARIANTS = MappingProxyType({"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION})

_log = logging.getLogger(__name__)
_recorders: list[set[str]] = []

_LEAST_SKIPPED = 64  # tokens a block; smaller blocks are masked
_RUNS = (64, 128, 256)  # query rows that may share one masked call
_CALL = 8  # what a call costs besides its pairs, in rows: a run of 64 takes an eighth longer for a pair than a long one
_WORTH_GATHERING = 0.8  # a run gathers its keys when it sees no more than this share of them
_GATHERED_BYTES = {"cpu": 2**23, "cuda": 2**28}  # keys and values gathered for one call
_MASK_BYTES = 2**24  # additive mask of one call
_KEPT_BYTES = 2**27  # additive masks that are kept with a mask of blocks


def unavailable(device: torch.device) -> str | None:
    """Why the kernel can't run on a device: never, it is part of PyTorch."""
    return None


def unavailable_as(variant: SDPBackend, device: torch.device) -> str | None:
    """Why a variant can't run on a device, or None."""
    return None if device.type == "cuda" else f"sdpa's backend {variant.name} is chosen on NVIDIA GPUs only"


def differ(mask: BlockMask) -> bool:
    """Whether the variants run a mask in different ways."""
    return mask.blocks.is_cuda and (mask.is_dense or skips(mask.block))


def skips(block: int) -> bool:
    """Whether blocks of that many tokens are skipped, not masked, when they are left out."""
    return block >= _LEAST_SKIPPED


def unsupported(block: int, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why the kernel can't take a mask or tensors like that: it takes all."""
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
    """
    return attend_as(None, q, k, v, mask, out)


def attend_as(
    variant: SDPBackend | None,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: BlockMask,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """As ``attend``, by a certain backend; None takes PyTorch's choice, and for a dense mask cuDNN where that can.

    Raises:
        ValueError: a backend is named, and the mask is of small blocks, which need an additive mask.
        RuntimeError: the backend can't compute it.
    """
    if variant is None:
        return _attend(q, k, v, mask, out, _dense)
    if not mask.is_dense and not skips(mask.block):
        raise ValueError(f"sdpa by {variant.name} takes blocks of {_LEAST_SKIPPED} tokens or more, not {mask.block}")
    with sdpa_kernel(variant):
        return _attend(q, k, v, mask, out, _attention)


def _attend(q, k, v, mask, out, dense):
    """``attend``, with attention to all keys by ``dense``."""
    check_inputs(q, k, v, mask, out)
    if mask.is_dense:
        result = dense(q, k, v)
        return result if out is None else out.copy_(result)
    blocks = mask.blocks.to(q.device)
    if out is None:
        out = torch.empty(q.shape, dtype=v.dtype, device=v.device)
    if not skips(mask.block):
        _attend_masked(q, k, v, mask.to(q.device), out)
    elif mask.heads == 1:
        _attend_gathered(q, k, v, blocks[0], mask.block, out)
    else:
        for head in range(mask.heads):
            one = slice(head, head + 1)
            _attend_gathered(q[:, :, one], k[:, :, one], v[:, :, one], blocks[head], mask.block, out[:, :, one])
    return out


def prepare(mask: BlockMask, k: torch.Tensor, variant: None = None) -> None:
    """Makes the runs of rows that a call over small blocks takes, and keeps them with the mask, if they are small."""
    if not mask.is_dense and not skips(mask.block):
        _masked_runs(mask, k.dtype)


def _dense(q, k, v):
    """Attention to all keys; on a Hopper GPU by cuDNN, where that can, which is nearly twice as fast as the rest."""
    if q.device.type != "cuda":
        return _attention(q, k, v)
    with sdpa_kernel(list(_backends(q, k, v)), set_priority=True):
        return _attention(q, k, v)


def _backends(q, k, v):
    """What computes dense attention on a GPU, the preferred one first; the log says so once."""
    order = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
    if q.dtype == torch.bfloat16 and torch.cuda.get_device_capability(q.device) == (9, 0):
        heads_first = (x.transpose(1, 2) for x in (q, k, v))
        if torch.backends.cuda.can_use_cudnn_attention(SDPAParams(*heads_first, None, 0.0, False, False)):
            order = (SDPBackend.CUDNN_ATTENTION, *order)
    _say(order[0].name, str(q.dtype))
    return order


@contextlib.contextmanager
def recorded() -> Iterator[set[str]]:
    """The names of PyTorch's backends that compute the calls made within."""
    seen: set[str] = set()
    _recorders.append(seen)
    try:
        yield seen
    finally:
        _recorders[:] = [other for other in _recorders if other is not seen]


@functools.cache
def _say(backend: str, dtype: str) -> None:
    _log.info("sdpa: dense attention in %s by %s", dtype, backend)


def _attention(q, k, v, bias=None):
    """Plain attention, on (batch, tokens, heads, head size)."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    for seen in _recorders:  # PyTorch's own choice for such a call, under the backends that are allowed here
        seen.add(SDPBackend(torch._fused_sdp_choice(q, k, v, bias)).name)
    return scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2)


class _Run(NamedTuple):
    """Query rows that share one masked call.

    Args:
        rows: the rows, one after another or int64 (rows,).
        keys: the keys that any of them sees, int64 (keys,); None for all.
        bias: additive mask, (heads, rows, keys), in the type of the scores.
    """

    rows: slice | torch.Tensor
    keys: torch.Tensor | None
    bias: torch.Tensor


def _attend_masked(q, k, v, mask, out):
    """Runs of query rows against the keys that the run sees, the rest masked."""
    for run in _masked_runs(mask, q.dtype):
        keys, values = (x if run.keys is None else x.index_select(1, run.keys) for x in (k, v))
        out[:, run.rows] = _attention(q[:, run.rows], keys, values, run.bias[None])


def _masked_runs(mask, dtype):
    """The runs of a mask, kept with it where they are small: all layers and steps attend with the same ones."""
    build = functools.partial(_make_runs, dtype=dtype)
    if mask.heads * mask.tokens**2 * dtype.itemsize > _KEPT_BYTES:
        return build(mask)
    return mask.form(f"sdpa {dtype}", lambda mask: list(build(mask)))


def _make_runs(mask, dtype):
    """The runs of a mask, one by one."""
    blocks, block, tokens, side = mask.blocks, mask.block, mask.tokens, mask.side
    # An additive mask in the type of the scores is a third faster on a CPU than a boolean one.
    bias = torch.zeros(blocks.shape, dtype=dtype, device=blocks.device).masked_fill_(~blocks, -math.inf)
    most = max(min(_RUNS[-1], _MASK_BYTES // (mask.heads * tokens * dtype.itemsize)) // block, 1)
    for chosen in mask.form(f"sdpa runs of {most}", lambda mask: _choose_runs(mask, most)):
        first, count = int(chosen[0]), len(chosen)
        together = int(chosen[-1]) == first + count - 1
        rows = slice(first * block, min((first + count) * block, tokens)) if together else None
        run_bias, index = bias.index_select(1, chosen), None
        seen = blocks.index_select(1, chosen).any(dim=1).any(dim=0).nonzero()[:, 0]
        if len(seen) <= _WORTH_GATHERING * side:
            index = _tokens_of(seen, block, tokens)
            run_bias = run_bias.index_select(2, seen)
        run_bias = run_bias[:, :, None, :, None].expand(-1, -1, block, -1, block).flatten(3, 4).flatten(1, 2)
        keys = tokens if index is None else len(index)
        length = count * block if rows is None else rows.stop - rows.start
        yield _Run(_tokens_of(chosen, block, tokens) if rows is None else rows, index, run_bias[:, :length, :keys])


def _choose_runs(mask: BlockMask, most: int) -> list[torch.Tensor]:
    """The query blocks of every run, at most ``most`` in ascending order, so that the runs see few keys.

    In sequence, or, where frames are whole blocks that see alike from frame to frame, as some neighbours of several
    frames.
    """
    side, device = mask.side, mask.blocks.device
    every = torch.arange(side, device=device)
    lengths = sorted({min(max(rows // mask.block, 1), most) for rows in _RUNS})
    orders = [list(every.split(length)) for length in lengths]
    if mask.period and mask.period.is_integer() and side % mask.period == 0 and mask.tokens == side * mask.block:
        width = int(mask.period)
        grid = every.view(-1, width)
        for frames, places in itertools.product(_divisors(len(grid)), _divisors(width)):
            if frames * places in lengths and frames > 1 and places < width:
                tiles = grid.view(-1, frames, width // places, places).transpose(1, 2)
                orders.append(list(tiles.reshape(-1, frames * places)))
    return min(orders, key=lambda order: _cost(mask, order))


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _cost(mask: BlockMask, order: list[torch.Tensor]) -> float:
    """What the runs of an order take, in pairs of blocks; a run that sees most of the keys gathers none of them."""
    total = 0.0
    for chosen in order:
        seen = float(mask.blocks.index_select(1, chosen).any(dim=1).any(dim=0).sum())
        keys = seen if seen <= _WORTH_GATHERING * mask.side else mask.side
        total += (len(chosen) + _CALL / mask.block) * keys
    return total


def _tokens_of(index, block, tokens):
    """Tokens of the blocks in ``index``, (..., blocks) in ascending order, without those past the end."""
    all_tokens = (index[..., None] * block + torch.arange(block, device=index.device)).flatten(-2)
    past = int((all_tokens.reshape(-1, all_tokens.shape[-1])[0] >= tokens).sum())
    return all_tokens[..., : all_tokens.shape[-1] - past]


def _attend_gathered(q, k, v, blocks, block, out):
    """Query blocks with equally many keys together, their keys gathered. blocks: (side, side)."""
    batch, tokens, heads, size = q.shape
    side = len(blocks)
    counts = blocks.sum(dim=1)
    # Rows of one bucket have equally many queries and keys: a short last block makes buckets of its own.
    bucket = counts * 4
    if tokens % block:
        bucket += blocks[:, -1] * 2
        bucket[-1] += 1
    limit = _GATHERED_BYTES.get(q.device.type, min(_GATHERED_BYTES.values()))
    for label in bucket.unique().tolist():
        rows = (bucket == label).nonzero()[:, 0]
        query_index = _tokens_of(rows[:, None], block, tokens)
        if label // 4 == side:  # all keys: nothing to gather
            index = query_index.flatten()
            out.index_copy_(1, index, _attention(q.index_select(1, index), k, v))
            continue
        key_index = _tokens_of(blocks[rows].nonzero()[:, 1].reshape(len(rows), -1), block, tokens)
        head_bytes = 2 * batch * key_index.shape[1] * size * k.element_size()
        some_heads = max(min(limit // head_bytes, heads), 1)
        some_rows = max(limit // (head_bytes * some_heads), 1)
        for first_head in range(0, heads, some_heads):
            group = slice(first_head, first_head + some_heads)
            for first in range(0, len(rows), some_rows):
                part = slice(first, first + some_rows)
                queries = _gather(q[:, :, group], query_index[part])
                keys, values = (_gather(x[:, :, group], key_index[part]) for x in (k, v))
                result = _attention(queries, keys, values)
                result = result.reshape(batch, -1, *result.shape[2:])
                out[:, :, group].index_copy_(1, query_index[part].flatten(), result)


def _gather(x, index):
    """x: (batch, tokens, heads, head size) at index: (rows, tokens a row), as (batch * rows, tokens a row, ...)."""
    gathered = x.index_select(1, index.flatten())
    return gathered.reshape(x.shape[0] * index.shape[0], index.shape[1], *x.shape[2:])
