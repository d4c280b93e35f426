"""The oracle: softmax attention in float32, token by token. Every other kernel is tested against it."""

from __future__ import annotations

import math

import torch

from benchmark.kernels import check_inputs
from benchmark.masks import BlockMask

SKIPS_BLOCKS = False
CAPTURES_MASKS = False

_SCORES_AT_ONCE = 2**23  # float32 scores held at once: 32 MB


def unavailable(device: torch.device) -> str | None:
    """Why the kernel can't run on a device: never, it is plain PyTorch."""
    return None


def skips(block: int) -> bool:
    """Whether blocks of that many tokens are skipped, not masked, when they are left out: they never are."""
    return False


def unsupported(block: int, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why the kernel can't take a mask or tensors like that: it takes all."""
    return None


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: BlockMask, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Softmax attention over a block mask, computed in float32.

    Args:
        q, k, v: (batch, tokens, heads, head size).
        out: where the result is written, of the same shape; a new tensor where None.

    Returns:
        (batch, tokens, heads, head size), in the type of ``out`` or else of v.
    """
    check_inputs(q, k, v, mask, out)
    result = attend_float32(q, k, v, mask)
    return result.to(v.dtype) if out is None else out.copy_(result)


def attend_float32(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: BlockMask) -> torch.Tensor:
    """As ``attend``, before the result is rounded to the type of v: float32."""
    check_inputs(q, k, v, mask)
    batch, tokens, heads, size = q.shape
    token_block = torch.arange(tokens, device=q.device) // mask.block
    blocks = mask.blocks.to(q.device)
    result = torch.empty(q.shape, dtype=torch.float32, device=q.device)
    rows = max(_SCORES_AT_ONCE // (batch * tokens), 1)
    for head in range(heads):
        keys, values = k[:, :, head].float(), v[:, :, head].float()
        grid = blocks[head if mask.heads > 1 else 0]
        for first in range(0, tokens, rows):
            queries = q[:, first : first + rows, head].float()
            scores = queries @ keys.transpose(1, 2) / math.sqrt(size)
            kept = grid[token_block[first : first + rows]][:, token_block]
            scores.masked_fill_(~kept, -math.inf)
            result[:, first : first + rows, head] = scores.softmax(dim=-1) @ values
    return result
