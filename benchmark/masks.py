"""Which blocks of keys each block of queries attends to, and what that costs.

A mask is a grid of blocks: a query token attends to a key token exactly when their blocks are kept. Whatever a pattern
means token by token, it is rounded to blocks when it is planned, so every kernel runs the same attention and the
operations counted are the operations executed. No function here makes a token-by-token matrix but
``BlockMask.to_tokens``, which is for tests and small grids.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch

from benchmark.layout import VideoLayout


@dataclass(frozen=True, eq=False)
class BlockMask:
    """A block-sparse attention mask.

    Args:
        blocks: bool, (heads, query blocks, key blocks); heads is 1 where all heads share the mask.
        block: tokens a block, for queries and keys alike.
        tokens: length of the sequence; the last block holds what is left over and may be short.

    Raises:
        ValueError: the grid does not cover the sequence, or a query block would attend to nothing.
    """

    blocks: torch.Tensor
    block: int
    tokens: int

    def __post_init__(self) -> None:
        side = -(-self.tokens // self.block)
        if self.blocks.dtype != torch.bool or self.blocks.dim() != 3 or self.blocks.shape[1:] != (side, side):
            raise ValueError(
                f"block mask {tuple(self.blocks.shape)} of {self.blocks.dtype}: {self.tokens} tokens in blocks of "
                f"{self.block} need bool of (heads, {side}, {side})"
            )
        empty = ~self.blocks.any(dim=2)
        if bool(empty.any()):
            head, row = (int(i) for i in empty.nonzero()[0])
            raise ValueError(
                f"block mask: query block {row} of head {head} attends to nothing; keep a block in each row"
            )

    @property
    def heads(self) -> int:
        """Masks held: 1 where all heads share one."""
        return self.blocks.shape[0]

    @property
    def side(self) -> int:
        """Blocks along the queries, and along the keys."""
        return self.blocks.shape[1]

    def sizes(self) -> torch.Tensor:
        """Tokens in each block: int64 (side,); all are ``block`` but perhaps the last."""
        sizes = torch.full((self.side,), self.block, dtype=torch.int64, device=self.blocks.device)
        sizes[-1] = self.tokens - self.block * (self.side - 1)
        return sizes

    def executed_pairs(self) -> float:
        """Query-key pairs computed, averaged over the heads: all pairs of every kept block."""
        sizes = self.sizes().to(torch.float64)
        total = 0.0
        for head in self.blocks:  # a head at a time, so that the float copy stays small
            counts = head[:, :-1].sum(dim=1).to(torch.float64) * self.block + head[:, -1] * sizes[-1]
            total += float((counts * sizes).sum())
        return total / self.heads

    @property
    def density(self) -> float:
        """Executed query-key pairs over those of dense attention, text included."""
        return self.executed_pairs() / float(self.tokens) ** 2

    def video_block_sparsity(self, layout: VideoLayout) -> float:
        """Share of block pairs left out, over whole blocks of video tokens, as the paper counts its sparsity.

        Raises:
            ValueError: the video is shorter than a block.
        """
        whole = layout.video // self.block
        if whole == 0:
            raise ValueError(f"block={self.block}: the video has {layout.video} tokens, not one whole block")
        return 1.0 - float(self.blocks[:, :whole, :whole].sum(dtype=torch.int64)) / (self.heads * whole * whole)

    def counts_and_indices(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Kept key blocks of every query block, as block-sparse kernels take them.

        Returns:
            counts, int32 (heads, side), and indices, int32 (heads, side, side): the first ``counts`` entries of a row
            are its kept key blocks in ascending order, the rest are the blocks left out.
        """
        counts = self.blocks.sum(dim=2, dtype=torch.int32)
        indices = torch.argsort(self.blocks.to(torch.int8), dim=2, descending=True, stable=True).to(torch.int32)
        return counts, indices

    def to_tokens(self) -> torch.Tensor:
        """The mask token by token: bool (heads, tokens, tokens). For tests and small grids."""
        index = torch.arange(self.tokens, device=self.blocks.device) // self.block
        return self.blocks[:, index][:, :, index]

    def to(self, device: torch.device | str) -> BlockMask:
        """The same mask on another device."""
        return BlockMask(self.blocks.to(device), self.block, self.tokens)

    def hash(self) -> str:
        """SHA-256 over block size, length and every bit: equal exactly for equal masks, on any device."""
        digest = hashlib.sha256(f"{self.block},{self.tokens},{tuple(self.blocks.shape)}".encode())
        for head in self.blocks.cpu().numpy():
            digest.update(bytes(memoryview(_pack(head))))
        return digest.hexdigest()


def _pack(bits):
    import numpy

    return numpy.packbits(bits)


def dense_mask(layout: VideoLayout, block: int, device: torch.device | str = "cpu") -> BlockMask:
    """Every block kept."""
    side = layout.blocks(block)
    return BlockMask(torch.ones(1, side, side, dtype=torch.bool, device=device), block, layout.tokens)


def keep_text(blocks: torch.Tensor, layout: VideoLayout, block: int) -> torch.Tensor:
    """Keeps, in place, every block that holds a text token, as query and as key: (..., side, side)."""
    if layout.text:
        first = layout.video // block
        blocks[..., first:, :] = True
        blocks[..., :, first:] = True
    return blocks


def band_mask(layout: VideoLayout, block: int, width: int, device: torch.device | str = "cpu") -> BlockMask:
    """Video tokens at most ``width`` apart in the sequence attend to each other; text always takes part.

    A block is kept when any of its pairs is within the band. The band runs along the sequence as it is given: after a
    permutation of the video tokens it is a band in that order.

    Args:
        width: one-sided width in tokens; 0 is the diagonal.

    Raises:
        ValueError: the width is negative.
    """
    if width < 0:
        raise ValueError(f"band width={width}: at least 0 tokens are needed")
    side = layout.blocks(block)
    index = torch.arange(side, device=device)
    # The nearest two tokens of blocks n apart are n * block - (block - 1) apart.
    nearest = (index[:, None] - index[None, :]).abs() * block - (block - 1)
    return BlockMask(keep_text(nearest <= width, layout, block)[None], block, layout.tokens)


def unit_mask(
    layout: VideoLayout, block: int, unit: torch.Tensor, allowed: torch.Tensor, device: torch.device | str = "cpu"
) -> BlockMask:
    """A mask given between units (frames, tiles, groups); a block is kept when it holds any allowed pair of tokens.

    Args:
        unit: int64 (video,), the unit of every video token in the order in which attention sees them; ascending.
        allowed: bool (units, units), which unit's queries attend to which unit's keys.

    Text tokens attend to everything and everything attends to them.
    """
    side = layout.blocks(block)
    held = -(-layout.video // block)
    unit = unit.to(device)
    edge = torch.arange(held, device=device) * block
    first = unit[edge]  # a block holds the units [first, after)
    after = unit[(edge + block - 1).clamp(max=layout.video - 1)] + 1
    # Running sums count the allowed pairs in a rectangle of units without looking at each.
    rows = torch.nn.functional.pad(allowed.to(device).cumsum(0, dtype=torch.int32), (0, 0, 1, 0))
    seen = rows[after] > rows[first]  # (blocks, units)
    seen = torch.nn.functional.pad(seen.cumsum(1, dtype=torch.int32), (1, 0))
    blocks = torch.zeros(side, side, dtype=torch.bool, device=device)
    blocks[:held, :held] = seen[:, after] > seen[:, first]
    return BlockMask(keep_text(blocks, layout, block)[None], block, layout.tokens)
