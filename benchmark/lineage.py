"""What records say of each other: whose adapter drew the clips, what a tuning began with, what clips were held to.

A tuning that is repeated gives another adapter, and clips that are drawn again may be others; records of before and
after may then not stand in one table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.cell import REFERENCE

Place = tuple[str, ...]
"""Model, length, method, and variant or else tuning, as in the paths of records."""


def combined(hashes: Sequence[str]) -> str:
    """The hash of several adapters that are merged, from theirs: that of one alone is its own."""
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def place_of(path: str | Path) -> Place:
    """The place of the cell of a record, from the record's path."""
    return Path(path).parts[-5:-1]


def check(records: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses records that name another adapter, or other reference clips, than the records among them made.

    What is not among the records, or has no hash, is not compared.

    Args:
        records: by the names that a message shall have.

    Raises:
        ValueError: clips were drawn with another adapter than their cell's tuning made, or than those that the cell
            merges; a tuning began with another one than the tuning made that it names; a measurement is against other
            clips than the dense cell's of its model, length and seed.
    """
    adapters = {_place(record): (_hash(record, "adapter"), name) for name, record in _of(records, "tune")}
    dense = {
        _inputs(record): (_hash(record, "clips"), name)
        for name, record in _of(records, "generate")
        if record["cell"]["method"] == REFERENCE and not record["cell"]["tuned"]
    }
    for name, record in _of(records, "generate"):
        if record["cell"]["tuned"]:
            merged = record["cell"].get("merged")
            made = _made(adapters, [place_of(path) for path in merged] if merged else [_place(record)])
            _same(name, "adapter", _hash(record, "adapter"), made, "draw its clips anew")
    for name, record in _of(records, "tune"):
        start = record["cell"].get("start")
        made = _made(adapters, [place_of(start)] if start else [])
        _same(name, "start", _hash(record, "start"), made, "tune it anew")
    for name, record in _of(records, "measure"):
        _same(name, "reference_clips", _hash(record, "reference_clips"), dense.get(_inputs(record)), "remeasure")


def _of(records: Mapping[str, Mapping[str, Any]], kind: str) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """The records of a kind that passed."""
    return [(name, held) for name, held in records.items() if (held["kind"], held["status"]) == (kind, "passed")]


def _made(adapters: Mapping[Place, tuple[str | None, str]], places: Sequence[Place]) -> tuple[str | None, str] | None:
    """The hash of the adapters of some tunings, and the records that have it; None where one is not there."""
    found = [adapters.get(place, (None, "")) for place in places]
    if not found or any(made is None for made, _ in found):
        return None
    return combined([made for made, _ in found]), " and ".join(name for _, name in found)


def _same(name: str, what: str, told: str | None, made: tuple[str | None, str] | None, remedy: str) -> None:
    if told is None or made is None or made[0] is None or told == made[0]:
        return
    raise ValueError(f"record {name}: its {what} {told} is not that of {made[1]}, {made[0]}; {remedy}")


def _hash(record: Mapping[str, Any], name: str) -> str | None:
    return record["provenance"]["hashes"].get(name) or None


def _inputs(record: Mapping[str, Any]) -> tuple:
    cell = record["cell"]
    return cell["model"], cell["length"], cell["seed"]


def _place(record: Mapping[str, Any]) -> Place:
    cell = record["cell"]
    last = cell.get("variant") or ("tuned" if cell["tuned"] else "untuned")
    return cell["model"], cell["length"], cell["method"], last
