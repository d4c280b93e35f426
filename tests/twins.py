"""Naive twins of the methods: their definitions once more, as plain loops over tokens, frames and tiles.

Nothing here is fast and nothing is shared with the methods. A twin says for every pair of places in the sequence
whether it is kept, and ``round_to_blocks`` or ``released_blocks`` makes blocks of that.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmark.layout import VideoLayout


@dataclass
class Twin:
    """What a method's ``pattern`` should be.

    Args:
        blocks: bool (side, side).
        orders: for each order the list of tokens by place, or None for frame-major order.
        head_order: the order that each head uses, where heads differ.
    """

    blocks: np.ndarray
    orders: tuple[list[int] | None, ...] = (None,)
    head_order: list[int] | None = None


def random_layouts(seed: int, number: int, most: int = 280) -> list[tuple[VideoLayout, int]]:
    """Small layouts of any proportions, of at most ``most`` video tokens, and block sizes that seldom divide them."""
    draw = random.Random(seed)
    cases = []
    while len(cases) < number:
        frames, height, width = draw.randint(1, 16), draw.randint(1, 9), draw.randint(1, 9)
        text = draw.choice([0, draw.randint(1, 9)])
        if frames * height * width <= most:
            cases.append((VideoLayout(frames, height, width, text), draw.randint(1, 20)))
    return cases


# --- from pairs of places to blocks --------------------------------------------------------------------------------


def round_to_blocks(layout: VideoLayout, block: int, kept: Callable[[int, int], bool]) -> np.ndarray:
    """A block is kept when any of its pairs is; a pair with a text token always is."""
    tokens, video = layout.tokens, layout.video
    side = math.ceil(tokens / block)
    blocks = np.zeros((side, side), dtype=bool)
    for query in range(tokens):
        for key in range(tokens):
            if query >= video or key >= video or kept(query, key):
                blocks[query // block, key // block] = True
    return blocks


def always_kept(layout: VideoLayout, block: int, blocks: np.ndarray) -> np.ndarray:
    """Text takes part in everything, and so does a last block that the video does not fill."""
    for place in range(len(blocks)):
        if (place + 1) * block > layout.video:
            blocks[place, :] = True
            blocks[:, place] = True
    return blocks


def released_blocks(
    layout: VideoLayout, block: int, kept: Callable[[int, int, int, int], bool], diagonal: bool = True
) -> np.ndarray:
    """The rounding of the released code, one frame pair after the other.

    The pair's mask, token by token, is put into a matrix that begins where the blocks of its first tokens begin and has
    room for ceil(frame tokens / block) blocks; what sticks out is lost. In each block, a column is dense when more than
    a third of the block's rows are set; the block is kept when more than 60 % of the columns that are not empty are
    dense.

    Args:
        kept: of query frame, query position, key frame and key position.
        diagonal: a query block left without any key sees itself.
    """
    size = layout.height * layout.width
    side = math.ceil(layout.tokens / block)
    room = math.ceil(size / block)
    blocks = np.zeros((side, side), dtype=bool)
    for i in range(layout.frames):
        for j in range(layout.frames):
            row_offset, column_offset = i * size % block, j * size % block
            padded = np.zeros((row_offset + size + room * block, column_offset + size + room * block), dtype=bool)
            for k in range(size):
                for m in range(size):
                    padded[row_offset + k, column_offset + m] = kept(i, k, j, m)
            for a in range(room):
                for b in range(room):
                    local = padded[a * block : (a + 1) * block, b * block : (b + 1) * block]
                    filled = [int(local[:, column].sum()) for column in range(block)]
                    dense = sum(3 * rows > block for rows in filled)
                    some = sum(rows > 0 for rows in filled)
                    row, column = i * size // block + a, j * size // block + b
                    if some and dense * 10 > some * 6 and row < side and column < side:
                        blocks[row, column] = True
    always_kept(layout, block, blocks)
    if diagonal:
        for row in range(side):
            if not blocks[row].any():
                blocks[row, row] = True
    return blocks


# --- the methods ---------------------------------------------------------------------------------------------------


def dense(layout: VideoLayout, block: int, knobs: dict, heads: int) -> Twin:
    """Every pair."""
    return Twin(round_to_blocks(layout, block, lambda query, key: True))


def radial(layout: VideoLayout, block: int, knobs: dict, heads: int) -> Twin:
    """The released algorithm, or equation 4."""
    size = layout.height * layout.width
    sink = knobs.get("sink", True)
    if knobs.get("geometry") == "equation4":

        def equation4(query: int, key: int) -> bool:
            i, k, j, m = query // size, query % size, key // size, key % size
            distance = abs(i - j)
            r = math.floor(math.log2(max(distance, 1)))
            if sink and j == 0:
                return True
            if 2**r <= size and abs(k - m) + 1 <= size / 2**r:
                return True
            return distance % math.ceil(2**r / size) == 0 and k == m

        return Twin(always_kept(layout, block, round_to_blocks(layout, block, equation4)))

    decay, neighbour = knobs.get("decay", 1.0), knobs.get("neighbour", "whole")

    def released(i: int, k: int, j: int, m: int) -> bool:
        distance = abs(i - j)
        if (sink and j == 0) or distance == 0 or (distance == 1 and neighbour == "whole"):
            return True
        if distance == 1 and neighbour == "half":
            return abs(k - m) <= size // 2
        span = 2 ** size.bit_length() / 2 ** distance.bit_length()
        if distance > 1 and span < block and distance % int(block / span) != 0:
            return False
        return abs(k - m) <= max(decay * span, block)

    return Twin(released_blocks(layout, block, released))


def harmonic(layout: VideoLayout, block: int, knobs: dict, heads: int) -> Twin:
    """A window of c frames at distance 1, of c / d frames at distance d."""
    size = layout.height * layout.width

    def kept(i: int, k: int, j: int, m: int) -> bool:
        window = knobs["c"] * size / max(abs(i - j), 1)
        return (knobs["sink"] and j == 0) or abs(k - m) <= max(window, block)

    return Twin(released_blocks(layout, block, kept))


def sta(layout: VideoLayout, block: int, knobs: dict, heads: int) -> Twin:
    """Tiles one after the other; a query tile sees the tiles of its window."""
    tile = [int(part) for part in knobs["tile"].split("x")]
    window = [int(part) for part in knobs["window"].split("x")]
    shape = (layout.frames, layout.height, layout.width)
    count = [math.ceil(extent / length) for extent, length in zip(shape, tile, strict=True)]
    order, tile_at = [], []
    for f in range(count[0]):
        for h in range(count[1]):
            for w in range(count[2]):
                for frame in range(f * tile[0], min((f + 1) * tile[0], layout.frames)):
                    for row in range(h * tile[1], min((h + 1) * tile[1], layout.height)):
                        for column in range(w * tile[2], min((w + 1) * tile[2], layout.width)):
                            order.append((frame * layout.height + row) * layout.width + column)
                            tile_at.append((f, h, w))

    def sees(query: int, key: int, tiles: int, length: int) -> bool:
        length = min(length, tiles)
        before = length // 2
        after = length // 2 + length % 2 - 1
        centre = min(max(query, before), tiles - 1 - after)
        return key in range(centre - before, centre + after + 1)

    def kept(query: int, key: int) -> bool:
        return all(
            sees(tile_at[query][axis], tile_at[key][axis], count[axis], window[axis]) for axis in range(3)
        )  # fmt: skip

    return Twin(round_to_blocks(layout, block, kept), (order + list(range(layout.video, layout.tokens)),))


def pa(layout: VideoLayout, block: int, knobs: dict, heads: int) -> Twin:
    """Frames nearer than ``local`` or at a power of two, and the first frame."""
    size = layout.height * layout.width
    powers = {2**n for n in range(20)}

    def kept(query: int, key: int) -> bool:
        i, j = query // size, key // size
        distance = abs(i - j)
        return distance < knobs["local"] or distance in powers or (knobs["sink"] and j == 0)

    return Twin(round_to_blocks(layout, block, kept))


def _token_major(layout: VideoLayout) -> list[int]:
    size = layout.height * layout.width
    order = [frame * size + position for position in range(size) for frame in range(layout.frames)]
    return order + list(range(layout.video, layout.tokens))


def _band(layout: VideoLayout, block: int, width: float) -> np.ndarray:
    width = round(width / block) * block
    return round_to_blocks(layout, block, lambda query, key: abs(query - key) <= width)


def spatial(layout: VideoLayout, block: int, knobs: dict, heads: int) -> Twin:
    """A band of ``width`` frames on each side."""
    return Twin(_band(layout, block, knobs["width"] * layout.height * layout.width))


def temporal(layout: VideoLayout, block: int, knobs: dict, heads: int) -> Twin:
    """The band of ``spatial`` in token-major order."""
    return Twin(_band(layout, block, knobs["width"] * layout.height * layout.width), (_token_major(layout),))


def svg(layout: VideoLayout, block: int, knobs: dict, heads: int) -> Twin:
    """The band of a density, in both orders; with a sink, the spatial form of it."""
    video_share = max(knobs["p"] - 2 * layout.text / layout.tokens, 0)
    blocks = _band(layout, block, layout.tokens * (1 - (1 - video_share) ** 0.5))
    if knobs["sink"]:
        for place in range(layout.height * layout.width):
            blocks[:, place // block] = True
    return Twin(blocks, (None, _token_major(layout)))


def longlora(layout: VideoLayout, block: int, knobs: dict, heads: int) -> Twin:
    """Groups; in the second half of the heads the places are rolled by half a group."""
    group = max(round(knobs["group"] * layout.video / block), 1) * block
    group = min(group, layout.video)
    shift = round(group / 2 / block) * block
    rolled = [(place + shift) % layout.video for place in range(layout.video)]
    blocks = round_to_blocks(layout, block, lambda query, key: query // group == key // group)
    first_half = math.ceil(heads / 2)
    return Twin(
        blocks,
        (None, rolled + list(range(layout.video, layout.tokens))),
        [0] * first_half + [1] * (heads - first_half),
    )


def riflex_frequencies(frequencies: list[float], frames: int, k: int) -> list[float]:
    """RIFLEx of component k, counted from 1."""
    period = round(2 * math.pi / frequencies[k - 1])
    return [
        0.9 * 2 * math.pi / frames if component == k and frames > period else frequency
        for component, frequency in enumerate(frequencies, start=1)
    ]


def sana(q: np.ndarray, k: np.ndarray, v: np.ndarray, rotate: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """SANA's operator for one head, in float64: q, k, v (tokens, head size)."""
    out = np.zeros(v.shape)
    q, k = np.maximum(q, 0), np.maximum(k, 0)
    rotated_q, rotated_k = rotate(q), rotate(k)
    for i in range(len(q)):
        total = 0.0
        for j in range(len(k)):
            out[i] += float(rotated_q[i] @ rotated_k[j]) * v[j]
            total += float(q[i] @ k[j])
        out[i] /= total + 1e-15
    return out


def attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, twin: Twin, block: int
) -> np.ndarray:  # fmt: skip
    """Softmax attention under a twin's pattern, in float64: q, k, v (tokens, heads, head size), frame-major."""
    tokens, heads, size = q.shape
    out = np.zeros(v.shape)
    for head in range(heads):
        order = twin.orders[twin.head_order[head] if twin.head_order else 0]
        place = {token: n for n, token in enumerate(order)} if order else {n: n for n in range(tokens)}
        for query in range(tokens):
            seen = [key for key in range(tokens) if twin.blocks[place[query] // block, place[key] // block]]
            scores = k[seen, head] @ q[query, head] / math.sqrt(size)
            weights = np.exp(scores - scores.max())
            out[query, head] = weights @ v[seen, head] / weights.sum()
    return out
