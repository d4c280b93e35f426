"""How far a model is looked into besides its cells: at which length, with how many prompts, in which steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def length(config: Mapping[str, Any], lengths: Iterable[str]) -> str:
    """The length that is looked into: the first one of the configuration that has cells.

    Args:
        lengths: those of all cells.
    """
    used = set(lengths)
    return next(one["name"] for one in config["lengths"] if one["name"] in used)


def map_prompts(config: Mapping[str, Any], at: str) -> int:
    """Prompts whose attention maps are taken, of those of a length."""
    return max(config["prompts"]["count"][at] // 8, 1)


def error_passes(config: Mapping[str, Any], at: str) -> dict[str, int]:
    """The dense passes in which the output error of masks is taken: ``prompts``, ``steps``, ``dense_steps`` of these
    which are left out, and ``record_steps`` of the others which are looked at."""
    count, steps = config["prompts"]["count"][at], config["schedule"]["steps"]
    dense_steps = min(config["schedule"]["dense_steps"], steps - 1)
    return {
        "prompts": min(count, max(count // 4, 3)),
        "steps": steps,
        "dense_steps": dense_steps,
        "record_steps": min(max((steps - dense_steps) // 4, 1), 4),
    }
