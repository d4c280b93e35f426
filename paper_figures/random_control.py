"""What the output errors say of the control ``random``: large errors that neighbouring tokens do not have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmark.tolerance import CONTROL as FLOOR
from paper_figures.table_error import common_share, passed

RANDOM = "random"


def explanation(records: Iterable[Mapping[str, Any]], model: str, last: bool) -> str:
    """A sentence that holds the control's output error against that of the masks, computed from a model's record.

    Args:
        records: of kind ``output_error``.
        model: the testbed.
        last: whether the control came last of the masks everywhere; then there is nothing to explain.

    Returns:
        The sentence; empty where there is nothing to explain.
    """
    if last:
        return ""
    for record in records:
        if record["cell"]["model"] != model:
            continue
        found = {name: told for name, told in passed(record).items() if name != FLOOR and told["density"] < 1}
        shares = {name: common_share(told) for name, told in found.items()}
        if RANDOM in found and len(found) > 1 and None not in shares.values():
            return _sentence(record["cell"], found, shares)
    return (
        f"Why {RANDOM} does not come last is not known: its output error on {model} was not measured "
        "(table_error would show it)."
    )


def _sentence(cell: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]], shares: Mapping[str, float]) -> str:
    relative = {name: _mean(told["relative"]["prompts"]) for name, told in found.items()}
    place = sorted(relative, key=lambda name: -relative[name]).index(RANDOM) + 1
    others = ", ".join(
        f"{name} {shares[name]:.0f} %" for name in sorted(shares, key=shares.get, reverse=True) if name != RANDOM
    )
    total = {name: relative[name] * shares[name] / 100 for name in found}
    least = min(total, key=total.get)
    rank = "the largest" if place == 1 else f"number {place} by size"
    said = (
        f"Why {RANDOM} does not come last, as far as the output errors tell (table_error; {cell['model']} at "
        f"{cell['length']}, budget {cell['budget']}): in one attention call its error is {rank} of {len(found)} masks "
        f"({100 * relative[RANDOM]:.1f} % relative), and the tokens of a frame have {shares[RANDOM]:.1f} % of it "
        f"in common ({others}). "
    )
    if least != RANDOM:
        return said + f"Of what they have in common {least} has the least, so that this alone does not explain it."
    return (
        said + "What they have in common is the least of all masks. An error that differs from token to token can be "
        "averaged out by later layers and steps; one in common shifts a whole frame."
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
