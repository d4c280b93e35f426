"""Exact attention of some queries, at lengths where that of all of them would take too long.

A kernel is held against it at the very shape at which it is timed. For the backward pass, the gradient of the output
is nonzero at the sampled queries only; then the gradients of all keys and values follow from those queries alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmark.masks import BlockMask

_SCORES_AT_ONCE = 2**26  # float32 scores held at once: 256 MB, and a few times that in the backward pass


class Exact(NamedTuple):
    """Output and gradients of sampled queries, float32: each (rows or tokens, heads, head size).

    ``dq`` is at the sampled queries, ``dk`` and ``dv`` at all tokens; all three are None where none were asked for.
    """

    out: torch.Tensor
    dq: torch.Tensor | None = None
    dk: torch.Tensor | None = None
    dv: torch.Tensor | None = None


def sample_rows(tokens: int, rows: int, seed: int = 0) -> torch.Tensor:
    """Tokens to look at, int64 ascending: the first, the last, and others at random; all where there are so few."""
    if tokens <= rows:
        return torch.arange(tokens)
    drawn = torch.randperm(tokens - 2, generator=torch.Generator().manual_seed(seed))[: max(rows - 2, 0)] + 1
    return torch.cat([torch.tensor([0, tokens - 1]), drawn]).sort().values


def exact(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    rows: torch.Tensor,
    mask: BlockMask | None = None,
    dout: torch.Tensor | None = None,
) -> Exact:
    """Softmax attention of some queries over a block mask, in float32.

    Args:
        q, k, v: (1, tokens, heads, head size), of any type.
        rows: int64, the queries.
        mask: None keeps everything.
        dout: (rows, heads, head size), the gradient of the output there; None asks for no gradients.
    """
    _, tokens, heads, size = q.shape
    scale = 1 / math.sqrt(size)
    out = torch.empty(len(rows), heads, size, dtype=torch.float32, device=q.device)
    gradients = (torch.empty_like(out), *(torch.zeros(tokens, heads, size, device=q.device) for _ in "kv"))
    at_once = max(_SCORES_AT_ONCE // tokens, 1)
    for head in range(heads):
        keys, values = k[0, :, head].float(), v[0, :, head].float()
        for first in range(0, len(rows), at_once):
            part = slice(first, first + at_once)
            queries = q[0, rows[part], head].float()
            scores = queries @ keys.T * scale
            if mask is not None:
                grid = mask.blocks[head if mask.heads > 1 else 0, rows[part] // mask.block]
                scores.masked_fill_(~grid.repeat_interleave(mask.block, 1)[:, :tokens], -math.inf)
            shares = scores.softmax(dim=1)
            out[part, head] = shares @ values
            if dout is None:
                continue
            given = dout[part, head].float()
            slopes = given @ values.T
            slopes = shares * (slopes - (given * out[part, head]).sum(dim=1, keepdim=True)) * scale
            gradients[0][part, head] = slopes @ keys
            gradients[1][:, head] += slopes.T @ queries
            gradients[2][:, head] += shares.T @ given
    return Exact(out) if dout is None else Exact(out, *gradients)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over the norm of what is expected; infinite or NaN where the result is."""
    found, expected = found.detach(), expected.detach()
    difference = torch.linalg.vector_norm((found.float() - expected.float()).flatten(), dtype=torch.float64)
    return float(difference / torch.linalg.vector_norm(expected.flatten(), dtype=torch.float64))


def errors(found: Exact, expected: Exact) -> dict[str, float]:
    """The relative error of the output, and of each gradient there is."""
    pairs = zip(Exact._fields, found, expected, strict=True)
    return {name: relative_error(one, other) for name, one, other in pairs if other is not None}


def own_errors(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: torch.Tensor, dout: torch.Tensor | None = None
) -> dict[str, float]:
    """The errors of PyTorch's own dense attention in the type of the inputs: what their rounding costs."""
    with torch.enable_grad():
        leaves = [x.detach().transpose(1, 2) for x in (q[:, rows], k, v)]
        if dout is not None:
            leaves = [leaf.requires_grad_() for leaf in leaves]
        result = scaled_dot_product_attention(*leaves)
        found = [result.detach().transpose(1, 2)[0]]
        if dout is not None:
            gradients = torch.autograd.grad(result, leaves, dout[None].transpose(1, 2))
            found += [gradient.transpose(1, 2)[0] for gradient in gradients]
    return errors(Exact(*found), exact(q, k, v, rows, dout=dout))


def kernel_errors(
    attend: Callable[..., torch.Tensor],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: BlockMask,
    rows: torch.Tensor,
    dout: torch.Tensor | None = None,
) -> dict[str, float]:
    """The errors of a kernel at some queries; infinite where it left any of its output, at any query, unwritten.

    Args:
        attend: a kernel; it writes into an output full of NaN.
        dout: as in ``exact``; then the errors of the gradients too.
    """
    poisoned = torch.full_like(v, float("nan"))
    out = attend(q, k, v, mask, out=poisoned)
    expected = exact(q, k, v, rows, mask, dout)
    if not bool(out.isfinite().all()):
        return dict.fromkeys(
            (name for name, value in zip(Exact._fields, expected, strict=True) if value is not None), math.inf
        )
    found = [out[0, rows]]
    del poisoned, out
    if dout is not None:
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_() for x in (q, k, v)]
            whole = torch.zeros_like(v)
            whole[0, rows] = dout.to(v.dtype)
            dq, dk, dv = torch.autograd.grad(attend(*leaves, mask), leaves, whole)
        found += [dq[0, rows], dk[0], dv[0]]
    return errors(Exact(*found), expected)
