"""Triton kernels of ``benchmark.kernels.gathered``: FlashAttention (arXiv 2205.14135) over lists of small blocks.

Scores and sums are float32 and in powers of two. All three kernels go the same way: a program holds a tile of rows (of
queries, or of keys for the gradients of keys and values) and walks its list, some blocks at a time; a list entry has
bit n set where the n-th block of the tile's rows sees that block.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _place(index, bits, count, first, tokens, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """Of the next ``WIDTH`` columns: their tokens, whether there are such, and their bits."""
    columns = tl.arange(0, WIDTH)
    entry = first + columns // BLOCK
    listed = entry < count
    token = tl.load(index + entry, mask=listed, other=0) * BLOCK + columns % BLOCK
    seen = tl.load(bits + entry, mask=listed, other=0)
    return token, listed & (token < tokens), seen


@triton.jit
def _kept(seen, there, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    """Which columns each row sees: (ROWS, columns)."""
    row_block = tl.arange(0, ROWS) // BLOCK
    return (((seen[None, :] >> row_block[:, None]) & 1) != 0) & there[None, :]


@triton.jit
def _rows(x, row, channel, step, tokens):
    """Rows of a tensor that begins at ``x``, zeros past the end: (rows, channels)."""
    return tl.load(x + row[:, None] * step + channel[None, :], mask=row[:, None] < tokens, other=0.0)


@triton.jit
def _list(index, bits, counts, tile, head, tiles, entries):
    """Where the list of a tile in a head of the mask begins, and how many entries it has."""
    which = head * tiles + tile
    begin = which.to(tl.int64) * entries
    return index + begin, bits + begin, tl.load(counts + which)


@triton.jit
def forward(
    q, k, v, out, lse, index, bits, counts,
    q_batch, q_token, q_head, k_batch, k_token, k_head, v_batch, v_token, v_head, o_batch, o_token, o_head,
    tokens, heads, tiles, entries, mask_heads, scale,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, SIZE: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """Output and logarithm (to base 2) of the softmax's denominator, of one tile of queries in one head."""
    precision: tl.constexpr = "ieee" if EXACT else "tf32"
    tile, batch, head = tl.program_id(0), tl.program_id(1) // heads, tl.program_id(1) % heads
    row = tile * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, SIZE)
    inside = row[:, None] < tokens
    queries = _rows(q + batch * q_batch + head * q_head, row, channel, q_token, tokens)
    k += batch * k_batch + head * k_head
    v += batch * v_batch + head * v_head
    index, bits, count = _list(index, bits, counts, tile, head % mask_heads, tiles, entries)
    highest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    result = tl.zeros((ROWS, SIZE), tl.float32)
    for first in range(0, count, WIDTH // BLOCK):
        token, there, seen = _place(index, bits, count, first, tokens, BLOCK, WIDTH)
        keys = tl.load(k + token[None, :] * k_token + channel[:, None], mask=there[None, :], other=0.0)
        values = tl.load(v + token[:, None] * v_token + channel[None, :], mask=there[:, None], other=0.0)
        scores = tl.dot(queries, keys, input_precision=precision) * scale
        scores = tl.where(_kept(seen, there, BLOCK, ROWS), scores, float("-inf"))
        now = tl.maximum(highest, tl.max(scores, 1))
        base = tl.where(now == float("-inf"), 0.0, now)  # a row may see nothing of what came so far
        shares = tl.exp2(scores - base[:, None])
        shrink = tl.exp2(highest - base)
        total = total * shrink + tl.sum(shares, 1)
        result = tl.dot(shares.to(values.dtype), values, result * shrink[:, None], input_precision=precision)
        highest = now
    total = tl.where(total == 0.0, 1.0, total)  # rows past the end
    result = result / total[:, None]
    place = out + batch * o_batch + head * o_head + row[:, None] * o_token + channel[None, :]
    tl.store(place, result.to(out.dtype.element_ty), mask=inside)
    tl.store(lse + tl.program_id(1).to(tl.int64) * tokens + row, highest + tl.log2(total), mask=row < tokens)


@triton.jit
def query_gradient(
    q, k, v, grad, lse, delta, dq, index, bits, counts,
    q_batch, q_token, q_head, k_batch, k_token, k_head, v_batch, v_token, v_head, g_batch, g_token, g_head,
    d_batch, d_token, d_head,
    tokens, heads, tiles, entries, mask_heads, scale, factor,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, SIZE: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """The gradient of one tile of queries in one head."""
    precision: tl.constexpr = "ieee" if EXACT else "tf32"
    tile, batch, head = tl.program_id(0), tl.program_id(1) // heads, tl.program_id(1) % heads
    row = tile * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, SIZE)
    inside = row[:, None] < tokens
    queries = _rows(q + batch * q_batch + head * q_head, row, channel, q_token, tokens)
    grads = _rows(grad + batch * g_batch + head * g_head, row, channel, g_token, tokens)
    line = tl.program_id(1).to(tl.int64) * tokens + row
    denominator = tl.load(lse + line, mask=row < tokens, other=0.0)
    mean = tl.load(delta + line, mask=row < tokens, other=0.0)
    k += batch * k_batch + head * k_head
    v += batch * v_batch + head * v_head
    index, bits, count = _list(index, bits, counts, tile, head % mask_heads, tiles, entries)
    result = tl.zeros((ROWS, SIZE), tl.float32)
    for first in range(0, count, WIDTH // BLOCK):
        token, there, seen = _place(index, bits, count, first, tokens, BLOCK, WIDTH)
        keys = tl.load(k + token[:, None] * k_token + channel[None, :], mask=there[:, None], other=0.0)
        values = tl.load(v + token[None, :] * v_token + channel[:, None], mask=there[None, :], other=0.0)
        scores = tl.dot(queries, tl.trans(keys), input_precision=precision) * scale - denominator[:, None]
        shares = tl.where(_kept(seen, there, BLOCK, ROWS), tl.exp2(scores), 0.0)
        change = shares * (tl.dot(grads, values, input_precision=precision) - mean[:, None])
        result = tl.dot(change.to(keys.dtype), keys, result, input_precision=precision)
    place = dq + batch * d_batch + head * d_head + row[:, None] * d_token + channel[None, :]
    tl.store(place, (result * factor).to(dq.dtype.element_ty), mask=inside)


@triton.jit
def key_gradients(
    q, k, v, grad, lse, delta, dk, dv, index, bits, counts,
    q_batch, q_token, q_head, k_batch, k_token, k_head, v_batch, v_token, v_head, g_batch, g_token, g_head,
    d_batch, d_token, d_head, e_batch, e_token, e_head,
    tokens, heads, tiles, entries, mask_heads, scale, factor,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, SIZE: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """The gradients of one tile of keys and values in one head; the lists are those of the transposed mask."""
    precision: tl.constexpr = "ieee" if EXACT else "tf32"
    tile, batch, head = tl.program_id(0), tl.program_id(1) // heads, tl.program_id(1) % heads
    row = tile * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, SIZE)
    inside = row[:, None] < tokens
    keys = _rows(k + batch * k_batch + head * k_head, row, channel, k_token, tokens)
    values = _rows(v + batch * v_batch + head * v_head, row, channel, v_token, tokens)
    q += batch * q_batch + head * q_head
    grad += batch * g_batch + head * g_head
    line = tl.program_id(1).to(tl.int64) * tokens
    index, bits, count = _list(index, bits, counts, tile, head % mask_heads, tiles, entries)
    key_result = tl.zeros((ROWS, SIZE), tl.float32)
    value_result = tl.zeros((ROWS, SIZE), tl.float32)
    for first in range(0, count, WIDTH // BLOCK):
        token, there, seen = _place(index, bits, count, first, tokens, BLOCK, WIDTH)
        queries = tl.load(q + token[:, None] * q_token + channel[None, :], mask=there[:, None], other=0.0)
        grads = tl.load(grad + token[:, None] * g_token + channel[None, :], mask=there[:, None], other=0.0)
        denominator = tl.load(lse + line + token, mask=there, other=0.0)
        mean = tl.load(delta + line + token, mask=there, other=0.0)
        scores = tl.dot(keys, tl.trans(queries), input_precision=precision) * scale - denominator[None, :]
        shares = tl.where(_kept(seen, there, BLOCK, ROWS), tl.exp2(scores), 0.0)
        value_result = tl.dot(shares.to(grads.dtype), grads, value_result, input_precision=precision)
        change = shares * (tl.dot(values, tl.trans(grads), input_precision=precision) - mean[None, :])
        key_result = tl.dot(change.to(queries.dtype), queries, key_result, input_precision=precision)
    place = dk + batch * d_batch + head * d_head + row[:, None] * d_token + channel[None, :]
    tl.store(place, (key_result * factor).to(dk.dtype.element_ty), mask=inside)
    place = dv + batch * e_batch + head * e_head + row[:, None] * e_token + channel[None, :]
    tl.store(place, value_result.to(dv.dtype.element_ty), mask=inside)
