"""Whether what was timed comes out the same when it is timed again: all that was measured of a share of the cells.

A record of kind ``audit`` beside a cell's says so. It names the seals of the records that it is about: when one of them
is measured anew, the audit is of no record any more.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmark.packed import file_of, records_in
from benchmark.records import read_record, seal, transient, write_json
from benchmark.speed import clock, parts, steps, training
from benchmark.speed.cells import from_settings
from benchmark.speed.clock import Clock
from benchmark.speed.network import Network, forget

logger = logging.getLogger(__name__)

AUDIT = "audit"
SUMMARY = Path("stages") / "audit.json"
"""Below an experiment's results: what tells the workflow that there was an audit."""
TOLERANCE = 0.05
"""A time that was taken again may differ by this share."""

Record = Mapping[str, Any]


def _call(held: Record, device: str) -> float:
    return parts.again(held, device)


def _step(held: Record, device: str) -> float:
    cell, about_s = from_settings(held["cell"]), held["values"]["step_s"]
    networks: list[Network] = []
    try:
        return steps.steps(cell, about_s, networks, Clock(device), device)[0]["step_s"]
    finally:
        while networks:
            forget(networks.pop())


def _tuning_call(held: Record, device: str) -> float:
    cell, facts = from_settings(held["cell"]), held["details"]["between"]
    given = parts.Given(cell.of_stage(), device, facts["wanted_s"], facts["source"])
    return training.attention_calls(cell, given, Clock(device), device)[0]["call_s"]


def _tuning_step(held: Record, device: str) -> float:
    cell = replace(from_settings(held["cell"]), rank=held["details"]["lora"]["rank"])
    return training.whole_steps(cell, Clock(device), device)[0]["step_s"]


KINDS: Mapping[str, tuple[str, str, Callable[[Record, str], float]]] = MappingProxyType(
    {
        parts.ATTENTION: ("attention call", "call_s", _call),
        steps.STEP: ("whole step", "step_s", _step),
        training.ATTENTION: ("attention of a tuning step", "call_s", _tuning_call),
        training.STEP: ("whole tuning step", "step_s", _tuning_step),
    }
)
"""What is measured again, by kind of record: in words, its number, and how (seconds, under the record's conditions)."""


def remeasure(held: Record, device: str) -> float:
    """The time of a record now, over the one that it says."""
    _, name, again = KINDS[held["kind"]]
    return again(held, device) / held["values"][name]


def draw(folder: Path, share: float, seed: int) -> dict[Path, list[Path]]:
    """The records of a share of the cells, and of one more cell for each kind that these have no record of.

    Args:
        folder: of records; those count that passed and were taken as numbers are taken now.

    Returns:
        By the cell's folder, its records, in the order of ``KINDS``.
    """
    cells: dict[Path, list[Path]] = {}
    for kind in KINDS:
        for path in records_in(folder, f"**/{kind}.json"):
            held = read_record(path)
            if held["status"] == "passed" and not clock.outdated(held):
                cells.setdefault(path.parent, []).append(path)
    order = random.Random(seed)
    every = sorted(cells)
    chosen = order.sample(every, math.ceil(share * len(every)))
    for kind in KINDS:
        having = [cell for cell in every if any(path.stem == kind for path in cells[cell])]
        if having and not set(having) & set(chosen):
            chosen.append(order.choice(having))
    return {cell: cells[cell] for cell in sorted(chosen)}


def audit(folder: Path, device: str, share: float, seed: int, limit_s: float | None = None) -> dict[str, float | None]:
    """Measures a share of the cells anew, and writes a record of kind ``audit`` beside each one's.

    What was drawn with this seed and audited already stays, while the records that it is about do.

    Args:
        limit_s: begins no cell that would end later, were it to take as long as the longest so far.

    Returns:
        New over old, by record; None where it could not be measured again.

    Raises:
        OutOfTime: cells are left; the same call goes on with them.
    """
    chosen = draw(folder, share, seed)
    found: dict[str, float | None] = {}
    begun, longest = time.monotonic(), 0.0
    for cell, paths in chosen.items():
        target = cell / f"{AUDIT}.json"
        known = _known(target, paths, seed)
        if known is None:
            started = time.monotonic()
            if limit_s is not None and started - begun + longest > limit_s:
                raise clock.OutOfTime(
                    f"{cell}: a cell took {longest:.0f} s, {limit_s - started + begun:.0f} s are left"
                )
            known = _audit(target, paths, device, seed)
            longest = max(longest, time.monotonic() - started)
        else:
            logger.info("%s: audited already with seed %d", target, seed)
        found |= known
    return found


def _known(target: Path, paths: list[Path], seed: int) -> dict[str, float | None] | None:
    """The outcome of an audit that was made of these very records; None where it has to be made."""
    if not file_of(target).exists():
        return None
    details, records = read_record(target)["details"], {path: read_record(path) for path in paths}
    sealed = {held["kind"]: seal(held) for held in records.values()}
    if "transient" in details or (details.get("seed"), details.get("audited")) != (seed, sealed):
        return None
    return {path.as_posix(): details["ratios"].get(held["kind"]) for path, held in records.items()}


def _audit(target: Path, paths: list[Path], device: str, seed: int) -> dict[str, float | None]:
    """The audit of one cell: new over old, by record."""
    records = {path: read_record(path) for path in paths}
    ratios: dict[str, float] = {}

    def again() -> clock.Measured:
        for held in records.values():
            ratios[held["kind"]] = remeasure(held, device)
            clock.free(device)
        values = {f"ratio_{kind}": ratio for kind, ratio in ratios.items()}
        values["ratio"] = max(ratios.values(), key=lambda ratio: abs(ratio - 1))
        details: dict[str, Any] = {"units": dict.fromkeys(values, "")}
        off = [f"{KINDS[kind][0]} {ratio:.3f}" for kind, ratio in ratios.items() if not agrees(ratio)]
        if off:
            words = f"measured again, times its record: {', '.join(off)}; {TOLERANCE:.0%} are allowed"
            details |= {"status": "incorrect", "reason": words}
        return values, details

    first = next(iter(records.values()))
    made = clock.record(AUDIT, from_settings(first["cell"]), target, device, again)
    # Whatever its status: a later kind may fail where an earlier one disagrees.
    off_kinds = [kind for kind, ratio in ratios.items() if not agrees(ratio)]
    facts: dict[str, Any] = {
        "audited": {held["kind"]: seal(held) for held in records.values()},
        "ratios": ratios,
        "off": off_kinds,
        "seed": seed,
    }
    if "transient" in made["details"]:  # the next run makes the audit anew, and nothing else
        facts |= transient([target.parents[len(from_settings(first["cell"]).path.parts)].parent / SUMMARY])
    write_json(target, {**made, "details": {**made["details"], **facts}})
    return {path.as_posix(): ratios.get(held["kind"]) for path, held in records.items()}


def agrees(ratio: float | None) -> bool:
    """Whether a time is within what is allowed of the record's; one that could not be taken is not."""
    return ratio is not None and abs(ratio - 1) <= TOLERANCE
