"""Work like that which stands between two attention calls of a pass, so that a call is timed under a pass's conditions.

A GPU at its power limit clocks down until what it does stays within it. Attention calls one behind the other draw more
power than a pass does, in which everything outside attention stands between them, and so each of them is slower there
than in a pass (dense attention at 115,456 tokens on an H100: 253.6 ms alone, 244.8 ms within a step). Therefore
feed-forward layers of the model's width run before every call, warm-up calls included, for as long as a layer's share
of the time outside attention. They are not in the call's time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from benchmark.speed import expected
from benchmark.speed.cells import SpeedCell
from benchmark.speed.network import DTYPE, SEED, layout_of, spec_of
from benchmark.timing import quartiles, time_calls

ROWS = 16_384
"""Tokens of one such layer: few enough that a layer's share of a pass is many of them."""
WIDER = 4  # channels between the two products over those of the stream


@dataclass(frozen=True)
class Between:
    """What runs before every timed call.

    Args:
        run: queues it.
        facts: what records say of it: ``wanted_s`` and ``took_s``, seconds that it should and does take; ``layers`` of
            ``rows`` tokens; ``source``, where the seconds come from.
    """

    run: Callable[[], None]
    facts: dict[str, Any]


def between(cell: SpeedCell, seconds: float, source: str, device: str) -> Between:
    """As many feed-forward layers as take about so many seconds on this device, at least one.

    Args:
        seconds: of all that stands between two calls.
        source: where that number comes from.
    """
    layer = feed_forward(spec_of(cell).width, min(ROWS, layout_of(cell).tokens), device)
    warm, calls = (3, 9) if device != "cpu" else (0, 1)
    one = quartiles(time_calls(layer, warm, calls, device)).median
    if device != "cpu":
        settle = max(int(expected.SETTLE_S / one), 1)
        one = quartiles(time_calls(layer, settle, calls, device)).median
    number = max(round(seconds / one), 1)

    def run() -> None:
        for _ in range(number):
            layer()

    facts = {"wanted_s": seconds, "took_s": number * one, "layers": number}
    return Between(run, facts | {"rows": min(ROWS, layout_of(cell).tokens), "source": source})


def feed_forward(width: int, rows: int, device: str) -> Callable[[], torch.Tensor]:
    """A call of a feed-forward layer as it stands in a block: norm, modulation, two products, GELU, gate, residual."""
    generator = torch.Generator(device).manual_seed(SEED)

    def random(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator, device=device, dtype=DTYPE)

    x, scale, shift, gate = random(rows, width), random(width), random(width), random(width)
    up, down = random(WIDER * width, width) / width**0.5, random(width, WIDER * width) / (WIDER * width) ** 0.5

    @torch.no_grad()
    def run() -> torch.Tensor:
        normed = F.layer_norm(x, (width,)) * (1 + scale) + shift
        return x + gate * F.linear(F.gelu(F.linear(normed, up), approximate="tanh"), down)

    return run
