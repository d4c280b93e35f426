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

    Text blocks, and a last block that the video does not fill, take part in everything. A query block that the rule
    leaves without any key, which happens where frames are smaller than a third of a block, keeps itself.
    """
    if rounding not in ("released", "cover"):
        raise ValueError(f"rounding={rounding!r}: 'released' or 'cover' is needed")
    size, frames = layout.frame_tokens, layout.frames
    side = layout.blocks(block)
    start = torch.arange(frames, device=device) * size
    first = start // block
    straddled = int((-(-(start + size) // block) - first).max())
    spans = -(-size // block) if rounding == "released" else straddled
    inside = torch.arange(spans, device=device) * block
    # Frames that begin at the same place of a block are cut alike: what their pairs keep is worked out once.
    offset, cut = (start % block).unique(return_inverse=True)
    # (cuts, spans): the tokens of a frame that a block holds, as positions [low, high)
    low, high = (inside - offset[:, None]).clamp(min=0), (inside + block - offset[:, None]).clamp(max=size)
    blocks = torch.zeros(side * side, dtype=torch.bool, device=device)

    def keep(query: torch.Tensor, key: torch.Tensor, width: int) -> None:
        """Keeps what pairs of frames at one distance keep: ``query[n]`` and ``key[n]`` for every n."""
        # Rows and columns of a frame pair that lie farther apart than this hold no kept pair.
        reach = min(width // block + 2, spans - 1)
        row = torch.arange(spans, device=device)[:, None]
        column = row + torch.arange(-reach, reach + 1, device=device)
        possible = (column >= 0) & (column < spans)
        row, column = row.expand_as(column)[possible], column[possible]
        (cut_query, cut_key), alike = torch.stack([cut[query], cut[key]]).unique(dim=1, return_inverse=True)
        ends = (low[cut_query][:, row], high[cut_query][:, row], low[cut_key][:, column], high[cut_key][:, column])
        kept = _kept(ends, torch.tensor(width, device=device), block, rounding)
        pair, place = kept[alike].nonzero(as_tuple=True)
        rows, columns = first[query][pair] + row[place], first[key][pair] + column[place]
        held = (rows < side) & (columns < side)
        blocks[(rows * side + columns)[held]] = True  # two frames can share a block: either may keep it

    for distance, width in enumerate(widths.tolist()):
        near = torch.arange(frames - distance, device=device)
        if width >= 0:
            keep(near, near + distance, width)
            keep(near + distance, near, width)
    if sink:
        every = torch.arange(frames, device=device)
        keep(every, torch.zeros_like(every), size)
    blocks = blocks.view(side, side)
    whole = layout.video // block
    blocks[whole:] = True
    blocks[:, whole:] = True
    blocks |= torch.diag(~blocks.any(dim=1))
    return BlockMask(keep_text(blocks, layout, block)[None], block, layout.tokens, period=size / block)


def window_density(layout: VideoLayout, block: int, widths: torch.Tensor, sink: bool, rounding: str) -> float:
    """The density of ``window_mask`` for the same arguments.

    Where frames are whole blocks and there is no text, all frame pairs at one distance keep equally many blocks. These
    are then counted for one pair and the mask is not made, which a budget's search at many small blocks would wait for.
    """
    size, frames = layout.frame_tokens, layout.frames
    if size % block or layout.text:
        return window_mask(layout, block, widths, sink, rounding).density
    spans = size // block
    row, column = torch.arange(spans)[:, None] * block, torch.arange(spans) * block
    ends = (row, row + block, column, column + block)
    counts = {width: int(_kept(ends, torch.tensor(width), block, rounding).sum()) for width in widths.unique().tolist()}
    of = [counts[width] for width in widths.tolist()]
    total = frames * of[0] + sum(2 * (frames - distance) * of[distance] for distance in range(1, frames))
    if sink:
        total += sum(spans**2 - count for count in of)
    return float(total * block**2) / float(layout.tokens) ** 2


def _kept(ends, width, block: int, rounding: str) -> torch.Tensor:
    """Which blocks of a frame pair are kept; ``ends`` are the positions as ``_columns`` takes them."""
    some = _columns(*ends, width, 1)
    if rounding == "cover":
        return some > 0
    return 5 * _columns(*ends, width, block // 3 + 1) > 3 * some  # more than one third of a block's rows


def _columns(row_low, row_high, key_low, key_high, width, least):
    """Key columns of [key_low, key_high) that at least ``least`` rows of [row_low, row_high) see within ``width``.

    The rows that see column c are [max(row_low, c - width), min(row_high, c + width + 1)). Their number rises and then
    falls with c, so the columns sought are one interval, and no column has to be looked at.
    """
    possible = (torch.minimum(row_high - row_low, 2 * width + 1) >= least) & (width >= 0)
    from_column = torch.maximum(key_low, row_low - width - 1 + least)
    to_column = torch.minimum(key_high, row_high + width - least + 1)
    return torch.where(possible, (to_column - from_column).clamp(min=0), 0)
