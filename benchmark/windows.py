"""Masks whose window around a query's own position depends on the distance between frames.

Radial Attention and its harmonic control are of this kind: a query at frame i, position k, sees frame j at positions
|k - l| <= width(|i - j|). Two ways of rounding a frame pair to blocks are known here, see ``window_mask``.
"""

from __future__ import annotations

import torch

from benchmark.layout import VideoLayout
from benchmark.masks import BlockMask, keep_text


def window_mask(
    layout: VideoLayout,
    block: int,
    widths: torch.Tensor,
    sink: bool,
    rounding: str,
    device: torch.device | str = "cpu",
) -> BlockMask:
    """The block mask of windows that depend on the frame distance.

    Args:
        widths: int64 (frames,), for each frame distance the largest |k - l| that is kept, or -1 for none.
        sink: every query sees the whole of frame 0.
        rounding: ``released`` is the rule of the authors' released code: counted within one frame pair, a block is kept
            when more than 60 % of its non-empty key columns are more than one third full; it looks at ceil(frame
            tokens / block) blocks from the rounded-down start of a frame, so that a frame which straddles one more
            loses its last, partial one. ``cover`` keeps every block that holds a kept pair.

    Text blocks, and a last block that the video does not fill, take part in everything.
    """
    if rounding not in ("released", "cover"):
        raise ValueError(f"rounding={rounding!r}: 'released' or 'cover' is needed")
    size, frames = layout.frame_tokens, layout.frames
    side = layout.blocks(block)
    widths = widths.to(device=device, dtype=torch.int64)
    start = torch.arange(frames, device=device) * size
    first = start // block
    straddled = int((-(-(start + size) // block) - first).max())
    spans = -(-size // block) if rounding == "released" else straddled
    local = torch.arange(spans, device=device)
    target = first[:, None] + local  # (frames, spans): block of the whole sequence
    low = (target * block - start[:, None]).clamp(min=0)  # its tokens of this frame, as positions [low, high)
    high = ((target + 1) * block - start[:, None]).clamp(max=size)
    column = target.flatten().clamp(max=side - 1)
    inside = (target < side).flatten()
    key_low, key_high = low.flatten()[None], high.flatten()[None]
    enough = block // 3 + 1  # more than one third of a block's rows

    blocks = torch.zeros(side, side, dtype=torch.bool, device=device)
    for frame in range(frames):
        distance = (torch.arange(frames, device=device) - frame).abs()
        width = widths[distance]
        if sink:
            width[0] = size
        width = width.repeat_interleave(spans)[None]
        row_low, row_high = low[frame][:, None], high[frame][:, None]
        some = _columns(row_low, row_high, key_low, key_high, width, 1)
        if rounding == "released":
            kept = 5 * _columns(row_low, row_high, key_low, key_high, width, enough) > 3 * some
        else:
            kept = some > 0
        kept &= inside
        strip = torch.zeros(spans, side, dtype=torch.int32, device=device)
        strip.index_add_(1, column, kept.to(torch.int32))  # two frames can share a block: either may keep it
        rows = target[frame][target[frame] < side]
        blocks[rows] |= strip[: len(rows)] > 0

    whole = layout.video // block
    blocks[whole:] = True
    blocks[:, whole:] = True
    return BlockMask(keep_text(blocks, layout, block)[None], block, layout.tokens)


def _columns(row_low, row_high, key_low, key_high, width, least):
    """Key columns of [key_low, key_high) that at least ``least`` rows of [row_low, row_high) see within ``width``.

    The rows that see column c are [max(row_low, c - width), min(row_high, c + width + 1)). Their number rises and then
    falls with c, so the columns sought are one interval, and no column has to be looked at.
    """
    possible = (torch.minimum(row_high - row_low, 2 * width + 1) >= least) & (width >= 0)
    from_column = torch.maximum(key_low, row_low - width - 1 + least)
    to_column = torch.minimum(key_high, row_high + width - least + 1)
    return torch.where(possible, (to_column - from_column).clamp(min=0), 0)
