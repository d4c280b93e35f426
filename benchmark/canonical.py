"""The canonical form of records: what two runs of the same experiment must have in common, byte for byte.

Two undisturbed runs on one machine, or a run that was killed and gone on with, have the same canonical form. It is one
JSON file, with the records sorted by model, length, method, tuning, variant and kind, keys sorted, numbers written in
full.

Removed, because they are measured, or say when, where and by what a record was made:

- of ``values`` and ``units``, and of each clip and its values: every key that ``is_measured``: times, memory, clocks,
  power, temperature (``generation_s``, ``seconds``, ...), whether by its name or by its unit;
- of each clip: ``first``, which says whether it was the first one of its process;
- of ``details``: the same keys, and ``folder``, which says where the clips lie;
- of ``provenance``: everything but ``hashes``: date, commit, code, command, python, packages, system, device;
- the ``reason`` of a record that ran out of memory, which counts free bytes.

Kept: cell, kind, status, reason, values, units, footnotes and flags, solved knobs, kernel, and the hashes of mask,
weights, method, prompts, noise and clips.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmark.packed import PACKED, unpacked_names
from benchmark.records import read_record

FORMAT = 1
MEASURED_UNITS = frozenset(
    ("s", "ms", "us", "min", "h", "B", "kB", "MB", "GB", "KiB", "MiB", "GiB", "Hz", "MHz", "GHz", "W", "J", "Wh", "C")
    + ("s/PFLOP", "PFLOP/s", "TFLOP/s")
)
_MEASURED_NAMES = re.compile(r"seconds|.+_(s|ms|us|seconds|bytes|mb|gb|mib|gib|mhz|ghz|hz|watts?|w|joules?|celsius|c)")


def is_measured(key: str, unit: str | None = None) -> bool:
    """Whether a key, by its name or its unit, holds what differs between two runs of the same thing."""
    return unit in MEASURED_UNITS or _MEASURED_NAMES.fullmatch(key) is not None


def canonical_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without what this module's docstring lists."""
    units = record["units"]
    measured = {key for key in {*record["values"], *units} if is_measured(key, units.get(key))}
    return {
        "kind": record["kind"],
        "cell": record["cell"],
        "status": record["status"],
        "reason": None if record["status"] == "out_of_memory" else record["reason"],
        "values": {key: value for key, value in record["values"].items() if key not in measured},
        "units": {key: unit for key, unit in units.items() if key not in measured},
        "clips": [_without_measured(clip, measured | {"first"}) for clip in record["clips"]],
        "details": {
            # A knob is a setting, whatever its name ends in.
            key: value if key == "knobs" else _without_measured(value, measured)
            for key, value in record["details"].items()
            if key != "folder" and not is_measured(key)
        },
        "hashes": record["provenance"]["hashes"],
    }


def canonical_text(records: Iterable[Mapping[str, Any]]) -> str:
    """All records in their canonical form; the order in which they are given does not matter."""
    found = sorted(map(canonical_record, records), key=_place)
    return json.dumps({"format": FORMAT, "records": found}, indent=1, sort_keys=True, allow_nan=False) + "\n"


def write_canonical(paths: Iterable[Path | str], out: Path | str) -> int:
    """Writes the canonical form of records, whole or not at all. Returns how many records there are.

    Raises:
        ValueError: a record is missing or damaged.
    """
    records = [read_record(path) for path in paths]
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        part.write_text(canonical_text(records))
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)
    return len(records)


def record_files(experiment: str, results: Path | str = "results") -> list[Path]:
    """The records of an experiment's cells, in ``results/<experiment>/records/``, sorted; packed ones by the name that
    they have unpacked.

    Raises:
        ValueError: there is no such folder, or nothing in it.
    """
    folder = Path(results) / experiment / "records"
    there = (path for ending in ("json", f"json{PACKED}") for path in folder.glob(f"*/*/*/*/*.{ending}"))
    found = unpacked_names(path for path in there if not path.name.startswith("."))
    if not found:
        run = sorted(path.parent.name for path in Path(results).glob("*/records"))
        raise ValueError(
            f"experiment={experiment!r}: no records in {folder}; there are records of: {', '.join(run) or 'none'}"
        )
    return found


def _without_measured(value: Any, measured: set[str]) -> Any:
    if isinstance(value, Mapping):
        return {
            key: _without_measured(item, measured)
            for key, item in value.items()
            if key not in measured and not is_measured(key)
        }
    return [_without_measured(item, measured) for item in value] if isinstance(value, list) else value


def _place(record: Mapping[str, Any]) -> tuple:
    cell = record["cell"]
    variant = cell.get("variant", "")
    return cell["model"], cell["frames"], cell["length"], cell["method"], cell["tuned"], variant, record["kind"]
