"""Which records may stand in one table, and which may not: those of clips that were not made and measured alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from benchmark import lineage
from benchmark.cell import REFERENCE

EQUAL = {"psnr": 100.0, "ssim": 1.0, "lpips": 0.0, "lpips_untrained": 0.0}
"""What metrics give for two clips that are the same."""

SHAPE = ("frames", "height", "width", "steps", "clips")
"""What of a cell its reference must share, besides prompts and noise."""


def check(records: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses records that may not stand in one table.

    Raises:
        ValueError: none at all; two of one cell and kind; a ``generate`` without ``measure`` or the reverse; two GPU
            models, or CPU and GPU for the same kind; within one model, length and seed another noise, prompts, shape
            or number of steps; within one model, length and variant another schedule or seed; within one model other
            weights, untuned; a metric by other weights, such as another judge's; a ``measure`` of clips that have been
            replaced since; a metric for which dense clips do not equal themselves; another adapter or other reference
            clips than were made (``lineage``).
    """
    if not records:
        raise ValueError("records: none are given; at least one is needed")
    _check_counterparts(records)
    _check_devices(records)
    for what, read, group in (
        ("noise", _hash("noise"), _seed_key),
        ("prompts", _hash("prompts"), _seed_key),
        ("weights", _hash("weights"), _weights_key),
        ("schedule", _settings(*SHAPE, "dense_steps", "dense_layers", "seed"), _variant_key),
        ("shape", _settings(*SHAPE), _seed_key),
    ):
        _check_same(records, what, read, group)
    for stated in sorted({key for record in records.values() for key in _by_metrics(record)}):
        _check_same(records, stated, _stated(stated), lambda record: ())
    _check_clips(records)
    _check_dense(records)
    lineage.check(records)


def _check_counterparts(records: Mapping[str, Mapping[str, Any]]) -> None:
    kinds: dict[tuple, dict[str, str]] = {}
    for name, record in records.items():
        held = kinds.setdefault(cell_key(record), {})
        if record["kind"] in held:
            raise ValueError(f"record {name}: {held[record['kind']]} is about the same cell; one of them is needed")
        held[record["kind"]] = name
    for held in kinds.values():
        for kind, other in (("generate", "measure"), ("measure", "generate")):
            if kind in held and other not in held:
                raise ValueError(f"record {held[kind]}: the {other} record of its cell is missing")


def _check_devices(records: Mapping[str, Mapping[str, Any]]) -> None:
    first_gpu: tuple[str, str] | None = None
    first_of_kind: dict[str, tuple[str, str]] = {}
    for name, record in records.items():
        device = record["provenance"]["device"]
        if not device or "shipped" in record["details"]:  # of an adapter that was made elsewhere
            continue
        if device["type"] != "cpu":
            first_gpu = first_gpu or (device["name"], name)
            if device["name"] != first_gpu[0]:
                raise ValueError(
                    f"record {name}: measured on {device['name']}, {first_gpu[1]} on {first_gpu[0]}; "
                    "one GPU model a table is allowed"
                )
        kind, other = first_of_kind.setdefault(record["kind"], (device["type"], name))
        if device["type"] != kind:
            raise ValueError(
                f"record {name}: measured on {device['type']}, {other} on {kind}; "
                f"one kind of device for all {record['kind']} records is allowed"
            )


def _check_same(
    records: Mapping[str, Mapping[str, Any]], what: str, read: Callable[..., str | None], group: Callable[..., tuple]
) -> None:
    """Refuses two records of a group that differ in something they must share."""
    first: dict[tuple, tuple[str, str]] = {}
    for name, record in records.items():
        value = read(record)
        if value is None:
            if what == "noise" and record["kind"] == "generate" and record["status"] == "passed":
                raise ValueError(f"record {name}: no hash of its noise; clips from unknown noise are not compared")
            continue
        seen, other = first.setdefault(group(record), (value, name))
        if value != seen:
            raise ValueError(f"record {name}: {what} {value} differs from that of {other}, {seen}; the same is needed")


def _check_clips(records: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses a measurement of clips other than those that the cell's ``generate`` record names."""
    made = {cell_key(record): record for record in records.values() if record["kind"] == "generate"}
    for name, record in records.items():
        if record["kind"] != "measure" or record["status"] != "passed":
            continue
        measured = _hash("candidate")(record) or _hash("candidate_clips")(record)
        current = _hash("clips")(made[cell_key(record)])
        if measured and current and measured != current:
            raise ValueError(f"record {name}: its clips {measured} are not those of the cell now, {current}; remeasure")


def _check_dense(records: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses a metric that tells the dense clips from themselves: a control of every run."""
    for name, record in records.items():
        dense = record["cell"]["method"] == REFERENCE and not record["cell"]["tuned"]
        if record["kind"] != "measure" or record["status"] != "passed" or not dense:
            continue
        for metric, equal in EQUAL.items():
            value = record["values"].get(metric, equal)
            if not math.isclose(value, equal, abs_tol=1e-6):
                raise ValueError(
                    f"record {name}: {metric} of the dense clips against themselves is {value}; {equal:g} is needed"
                )


def _hash(name: str) -> Callable[[Mapping[str, Any]], str | None]:
    return lambda record: record["provenance"]["hashes"].get(name) or None


def _by_metrics(record: Mapping[str, Any]) -> Mapping[str, str]:
    """What a measurement's metrics say that their numbers hang on, such as the hash of a judge's weights."""
    measured = record["kind"] == "measure" and record["status"] == "passed"
    return record["details"].get("provenance", {}) if measured else {}


def _stated(name: str) -> Callable[[Mapping[str, Any]], str | None]:
    return lambda record: _by_metrics(record).get(name) or None


def _settings(*names: str) -> Callable[[Mapping[str, Any]], str | None]:
    """Some of what decides how clips are drawn; a tuning draws none."""

    def read(record: Mapping[str, Any]) -> str | None:
        cell = record["cell"]
        return None if record["kind"] == "tune" else " ".join(f"{name}={cell[name]}" for name in names)

    return read


def _seed_key(record: Mapping[str, Any]) -> tuple:
    """What is compared clip by clip; a tuning has a seed of its own, and neither noise nor prompts."""
    return record["cell"]["model"], record["cell"]["length"], record["cell"]["seed"]


def _variant_key(record: Mapping[str, Any]) -> tuple:
    """Variants differ in their schedules; an experiment without any has one a length."""
    return record["cell"]["model"], record["cell"]["length"], record["cell"].get("variant", "")


def _weights_key(record: Mapping[str, Any]) -> tuple:
    """Untuned cells share a model's weights; a tuned cell has its own."""
    cell = record["cell"]
    return (cell["model"],) if not cell["tuned"] else cell_key(record)


def cell_key(record: Mapping[str, Any]) -> tuple:
    """Which cell a record is about; the records of a cell differ in their kind."""
    cell = record["cell"]
    return cell["model"], cell["length"], cell["method"], cell["tuned"], cell.get("variant", "")
