"""Which blocks of keys each block of queries attends to, and what that costs.

A mask is a grid of blocks: a query token attends to a key token exactly when their blocks are kept. Whatever a pattern
means token by token, it is rounded to blocks when it is planned, so every kernel runs the same attention and the
operations counted are the operations executed. No function here makes a token-by-token matrix but
``BlockMask.to_tokens``, which is for tests and small grids.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from benchmark.layout import VideoLayout

Form = TypeVar("Form")

_SORTED_AT_ONCE = 2**22  # blocks listed at once: their int64 sorting keys take 32 MB


@dataclass(frozen=True, eq=False)
class BlockMask:
    """A block-sparse attention mask. Its blocks are not to be changed: what follows from them is kept with it.

    Args:
        blocks: bool, (heads, query blocks, key blocks); heads is 1 where all heads share the mask.
        block: tokens a block, for queries and keys alike.
        tokens: length of the sequence; the last block holds what is left over and may be short.
        period: blocks (a fraction, perhaps) after which rows see much the same keys again, such as those of a frame
            under windows that repeat from frame to frame. It changes no pair: kernels may order their work by it.

    Raises:
        ValueError: the grid does not cover the sequence, or a query block would attend to nothing.
    """

    blocks: torch.Tensor
    block: int
    tokens: int
    period: float | None = None
    _forms: dict[str, object] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        side = -(-self.tokens // self.block)
        if self.blocks.dtype != torch.bool or self.blocks.dim() != 3 or self.blocks.shape[1:] != (side, side):
            raise ValueError(
                f"block mask {tuple(self.blocks.shape)} of {self.blocks.dtype}: {self.tokens} tokens in blocks of "
                f"{self.block} need bool of (heads, {side}, {side})"
            )
        empty = self.blocks.view(torch.uint8).amax(dim=2) == 0  # the same as any(), and much quicker on a CPU
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

    @functools.cached_property
    def is_dense(self) -> bool:
        """Whether every block is kept. Looked up once, since the answer waits for the device."""
        return bool(self.blocks.all())

    def form(self, name: str, build: Callable[[BlockMask], Form]) -> Form:
        """What ``build`` makes of this mask, made at the first call and kept with the mask.

        A transformer attends with one mask in all of its layers and steps, so kernels keep their lists of blocks here.

        Args:
            name: of the form; the same for the same ``build``.
        """
        if name not in self._forms:
            self._forms[name] = build(self)
        return self._forms[name]

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
            counts = head[:, :-1].sum(dim=1, dtype=torch.int32).to(torch.float64) * self.block + head[:, -1] * sizes[-1]
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

    def to_tokens(self) -> torch.Tensor:
        """The mask token by token: bool (heads, tokens, tokens). For tests and small grids."""
        index = torch.arange(self.tokens, device=self.blocks.device) // self.block
        return self.blocks[:, index][:, :, index]

    def to(self, device: torch.device | str) -> BlockMask:
        """The same mask on another device."""
        blocks = self.blocks.to(device)
        return self if blocks is self.blocks else BlockMask(blocks, self.block, self.tokens, self.period)

    def hash(self) -> str:
        """SHA-256 over block size, length and every bit: equal exactly for equal masks, on any device."""
        digest = hashlib.sha256(f"{self.block},{self.tokens},{tuple(self.blocks.shape)}".encode())
        for head in self.blocks.cpu().numpy():
            digest.update(bytes(memoryview(_pack(head))))
        return digest.hexdigest()


def _pack(bits):
    import numpy

    return numpy.packbits(bits)


def block_lists(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each row of a grid is true.

    Args:
        blocks: bool (heads, rows, columns).

    Returns:
        counts, int32 (heads, rows), and indices, int32 (heads, rows, columns): first the true columns, ascending, then
        the others, ascending.
    """
    counts = blocks.sum(dim=2, dtype=torch.int32)
    indices = torch.empty(blocks.shape, dtype=torch.int32, device=blocks.device)
    rows = max(_SORTED_AT_ONCE // blocks.shape[2], 1)
    for head, grid in enumerate(blocks):
        for first in range(0, len(grid), rows):
            some = slice(first, first + rows)
            indices[head, some] = torch.argsort(grid[some].to(torch.uint8), dim=1, descending=True, stable=True)
    return counts, indices


def divided(blocks: torch.Tensor, parts: int, side: int) -> torch.Tensor:
    """A grid in smaller blocks: each block becomes ``parts`` x ``parts``, cut to ``side`` rows and columns."""
    return blocks.repeat_interleave(parts, 1).repeat_interleave(parts, 2)[:, :side, :side].contiguous()


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
    index = torch.arange(layout.blocks(block), dtype=torch.int32, device=device)
    # The nearest two tokens of blocks n apart are n * block - (block - 1) apart.
    apart = (width + block - 1) // block
    near = (index[:, None] - index[None, :]).abs() <= apart
    return BlockMask(keep_text(near, layout, block)[None], block, layout.tokens)


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
    kept, kind = _unit_kinds(layout, block, unit.to(device), allowed.to(device))
    blocks = torch.zeros(side, side, dtype=torch.bool, device=device)
    blocks[: len(kind), : len(kind)] = kept[:, kind][kind]
    return BlockMask(keep_text(blocks, layout, block)[None], block, layout.tokens)


def unit_density(layout: VideoLayout, block: int, unit: torch.Tensor, allowed: torch.Tensor) -> float:
    """The density of ``unit_mask`` for the same arguments, counted without the grid of blocks."""
    kept, kind = _unit_kinds(layout, block, unit, allowed)
    video = layout.video // block if layout.text else len(kind)  # blocks without text
    sizes = torch.full((video,), block, dtype=torch.float64)
    sizes[-1:] = min(block, layout.video - block * (video - 1))
    tokens = torch.zeros(len(kept), dtype=torch.float64).index_add(0, kind[:video], sizes)
    executed = tokens @ kept.double() @ tokens + layout.tokens**2 - sizes.sum() ** 2
    return float(executed) / float(layout.tokens) ** 2


def _unit_kinds(
    layout: VideoLayout, block: int, unit: torch.Tensor, allowed: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Blocks that hold the same units keep the same: what each kind keeps, bool (kinds, kinds), and the kind of every
    block that holds video tokens, int64 (blocks,)."""
    edge = torch.arange(-(-layout.video // block), device=unit.device) * block
    first = unit[edge]  # a block holds the units [first, after)
    after = unit[(edge + block - 1).clamp(max=layout.video - 1)] + 1
    (first, after), kind = torch.stack([first, after]).unique(dim=1, return_inverse=True)
    # Running sums count the allowed pairs in a rectangle of units without looking at each.
    rows = torch.nn.functional.pad(allowed.cumsum(0, dtype=torch.int32), (0, 0, 1, 0))
    seen = rows[after] > rows[first]  # (kinds, units)
    seen = torch.nn.functional.pad(seen.cumsum(1, dtype=torch.int32), (1, 0))
    return seen[:, after] > seen[:, first], kind
