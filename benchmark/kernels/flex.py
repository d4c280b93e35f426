"""PyTorch's FlexAttention over block lists, always compiled: Triton on a GPU, C++ on a CPU.

FlexAttention that is not compiled ignores the block lists, so it is never called that way. Its blocks are always 128
tokens: masks in blocks of 128 are taken as they are, multiples of 128 are divided, and for other sizes a block of 128
is left out where all of it is, taken whole where all of it is kept, and else masked by reading the mask's own grid.

The first call at each shape compiles, whatever the mask: on one CPU core 14 to 22 s for the first shape of all and 4 s
for each further one.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.attention import flex_attention as flex

from benchmark.kernels import check_inputs
from benchmark.masks import BlockMask, divided

SKIPS_BLOCKS = True
CAPTURES_MASKS = True

_BLOCK = 128
# Shapes and kinds of mask compiled in one process. More than PyTorch's own few: past its limit a call would fail.
_RECOMPILE_LIMIT = 256


def unavailable(device: torch.device) -> str | None:
    """Why the kernel can't run on a device: what its compiler lacks there, or None."""
    if device.type == "cpu":
        compilers = [os.environ["CXX"]] if "CXX" in os.environ else ["g++"]
        language = "C++"
    elif device.type == "cuda":
        if not torch.cuda.is_available():
            return "PyTorch finds no CUDA GPU"
        if importlib.util.find_spec("triton") is None:
            return "Triton is not installed"
        compilers = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "cc", "clang"]
        language = "C"
    else:
        return "FlexAttention is compiled for cpu and cuda only"
    if not any(shutil.which(compiler) for compiler in compilers):
        return f"no {language} compiler ({' or '.join(compilers)}) is installed"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        return "Python's C headers (Python.h, Debian's python3-dev) are not installed"
    if device.type == "cpu" and not torch.cpu._is_avx2_supported():
        return "the CPU has no AVX2"
    return None


def skips(block: int) -> bool:
    """Whether blocks of that many tokens are skipped, not masked, when they are left out."""
    return block % _BLOCK == 0


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
    check_inputs(q, k, v, mask, out)
    trains = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    block_mask = _kept_lists(mask.to(q.device), trains)
    with torch._dynamo.config.patch(recompile_limit=_RECOMPILE_LIMIT):
        result = _compiled()(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), block_mask=block_mask)
    result = result.transpose(1, 2)
    return result if out is None else out.copy_(result)


def prepare(mask: BlockMask, k: torch.Tensor, variant: None = None) -> None:
    """Makes the lists that a forward pass reads of a mask on the device of the keys, and keeps them with it."""
    _kept_lists(mask, backward=False)


def _kept_lists(mask: BlockMask, backward: bool) -> flex.BlockMask:
    return mask.form(f"flex {backward}", functools.partial(block_lists, backward=backward))


@functools.cache
def _compiled() -> Callable[..., torch.Tensor]:
    """The compiled FlexAttention. ``fullgraph``: what cannot be compiled is an error, and never runs uncompiled."""
    return torch.compile(flex.flex_attention, dynamic=False, fullgraph=True)


def block_lists(mask: BlockMask, backward: bool = False) -> flex.BlockMask:
    """FlexAttention's form of a mask: for every 128 queries its partial and its whole blocks of 128 keys.

    All index tensors have the same shape for every mask of one size, so that one compiled kernel serves all methods.

    Args:
        backward: also the lists of the transposed mask, which the backward pass reads.
    """
    grid, block = mask.blocks, mask.block
    if block % _BLOCK == 0 and block > _BLOCK:
        grid, block = divided(grid, block // _BLOCK, -(-mask.tokens // _BLOCK)), _BLOCK
    if block == _BLOCK:
        whole, partial = grid.clone(), torch.zeros_like(grid)
    else:
        whole, partial = _coarse(grid, block, mask.tokens)
    if mask.tokens % _BLOCK:
        # The last block of keys is short: a partial block, so that the keys past the end are masked.
        partial[:, :, -1] |= whole[:, :, -1]
        whole[:, :, -1] = False
    shared = mask.heads == 1

    def kept(batch, head, query, key):
        return grid[0 if shared else head, query // block, key // block]

    return flex.BlockMask.from_kv_blocks(
        *_counts_and_indices(partial),
        *_counts_and_indices(whole),
        BLOCK_SIZE=_BLOCK,
        mask_mod=kept,
        seq_lengths=(mask.tokens, mask.tokens),
        compute_q_blocks=backward,
    )


def _coarse(grid: torch.Tensor, block: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which blocks of 128 tokens are kept whole, and which in part: two of bool (heads, sides, sides)."""
    side, sides = grid.shape[1], -(-tokens // _BLOCK)
    index = torch.arange(side, device=grid.device)
    first = index * block // _BLOCK  # a block of a size that does not divide 128 can lie in several
    last = ((index + 1) * block - 1).clamp(max=tokens - 1) // _BLOCK
    columns = torch.arange(sides, device=grid.device)
    holds = ((first[:, None] <= columns) & (columns <= last[:, None])).float()
    kept = holds.T @ grid.float() @ holds  # small whole numbers, exact in float32
    inside = holds.sum(dim=0)
    whole = kept == inside[:, None] * inside
    return whole, (kept > 0) & ~whole


def _counts_and_indices(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Counts, int32 (1, heads, sides), and indices, int32 (1, heads, sides, sides): kept columns first, ascending."""
    counts = blocks.sum(dim=2, dtype=torch.int32)
    kept = blocks.cumsum(dim=2)
    column = torch.arange(blocks.shape[2], device=blocks.device)
    place = torch.where(blocks, kept - 1, counts[:, :, None] + column - kept)
    indices = torch.empty(blocks.shape, dtype=torch.int32, device=blocks.device)
    indices.scatter_(2, place, column.to(torch.int32).expand_as(indices))
    return counts[None], indices[None]
