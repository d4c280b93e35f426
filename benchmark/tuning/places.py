"""Where a tuned cell finds its adapter, and whether it is its own. Nothing heavy is imported here: rules ask, too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmark.cell import Cell
from benchmark.records import ROOT, Damaged, read_record, sha256_file

SHIPPED = Path(__file__).resolve().parent.parent / "testbed" / "adapters"
"""Adapters that the repository ships, in folders model/length/method."""
CONFIG, WEIGHTS, ALL_WEIGHTS, RECORD = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "model.safetensors",
    "tune.json",
)
SHAPING = (
    "model", "length", "frames", "height", "width", "method", "knobs", "budget", "block", "tuning_settings", "start",
)  # fmt: skip
"""What of a cell decides its adapter: not how clips are sampled with it."""


def of_tuning(cell: Cell) -> Cell:
    """The cell as its tuning sees it: what decides only how clips are sampled is left at its default."""
    plain = {name: Cell.__dataclass_fields__[name].default for name in ("steps", "dense_steps", "dense_layers")}
    return replace(cell, **plain, clips=1, seed=0)


def shown(folder: Path) -> str:
    """A folder as records name it: one inside the repository from its root, so that they are the same everywhere."""
    whole = folder.resolve()
    return whole.relative_to(ROOT).as_posix() if whole.is_relative_to(SHIPPED) else str(folder)


def folder_of(cell: Cell, results: Path | str = "results") -> Path:
    """The folder of the adapter that the cell's experiment trains itself."""
    return Path(results) / cell.experiment / "adapters" / cell.model / cell.length / cell.method / cell.variant


def record_of(cell: Cell, results: Path | str = "results") -> Path:
    """The experiment's record of the cell's tuning."""
    return Path(results) / cell.experiment / "records" / cell.path / RECORD


def shipped(cell: Cell, base: str, adapters: Path = SHIPPED) -> Path | None:
    """The folder of the shipped adapter that was trained for exactly this cell; None where there is none.

    Args:
        base: SHA-256 of the base model's weights.

    Raises:
        ValueError: the adapter's record is damaged.
    """
    folder = adapters / cell.model / cell.length / cell.method
    if not cell.tuned or not (folder / RECORD).exists():
        return None
    record = read_record(folder / RECORD)
    wanted, found = json.loads(json.dumps(cell.settings())), record["cell"]
    same = all(found.get(name) == wanted.get(name) for name in SHAPING)
    same = same and record["status"] == "passed" and record["provenance"]["hashes"].get("weights") == base
    return folder if same else None


def find(
    cell: Cell, base: str, folder: Path | None = None, results: Path | str = "results", adapters: Path = SHIPPED
) -> tuple[Path | None, dict[str, Any]]:
    """The adapter of a tuned cell: the given one, else the shipped one, else the experiment's own.

    Args:
        base: SHA-256 of the base model's weights.
        folder: a folder that the verb ``tune`` wrote; None looks for one.

    Returns:
        Its folder, None where the tuning did not pass, and the record of the tuning.

    Raises:
        ValueError: there is none, or it is of another base, model, length or method.
        Damaged: a file is not as the record says.
    """
    folder = folder or shipped(cell, base, adapters)
    if folder is not None:
        if not (folder / RECORD).exists():
            raise ValueError(f"adapter {folder}: no {RECORD}; a folder that the verb tune wrote is needed")
        record = read_record(folder / RECORD)
    else:
        if not record_of(cell, results).exists():
            raise ValueError(
                f"adapter of {cell.path}: none is shipped for these settings, and {record_of(cell, results)} is "
                "missing; run the verb tune first, or name a folder with --adapter"
            )
        record = read_record(record_of(cell, results))
        folder = Path(record["details"].get("folder") or folder_of(cell, results))
    if record["status"] != "passed":
        return None, record
    check(record, folder, cell, base)
    return folder, record


def check(record: Mapping[str, Any], folder: Path, cell: Cell, base: str) -> None:
    """Refuses an adapter that is not the cell's, or not as it was written.

    Raises:
        ValueError: it is of another base, model, length or method, or was tuned with other settings.
        Damaged: a file is missing or differs from the record.
    """
    own, wanted = record["cell"], json.loads(json.dumps(cell.settings()))
    if own.get("model") == cell.model:
        _check_base(record, folder, cell, base)
    for name in SHAPING:
        one, other, what = own.get(name), wanted.get(name), name
        if name == "tuning_settings" and isinstance(one, Mapping):
            what = next((key for key in wanted[name] if one.get(key) != other[key]), name)
            one, other = (one.get(what), other[what]) if what != name else (one, other)
        if one != other:
            raise ValueError(f"adapter {folder}: tuned for {what}={one}; {what}={other} is needed")
    _check_files(record, folder, record_of(cell))


def find_merged(cell: Cell, base: str) -> tuple[list[Path], list[dict[str, Any]]]:
    """The adapters that a cell merges, in its order, with the records of their tunings.

    Args:
        base: SHA-256 of the base model's weights.

    Returns:
        Their folders, none where a tuning did not pass, and the records.

    Raises:
        ValueError: a record is missing or damaged, or its adapter is of another base.
        Damaged: a file is not as its record says.
    """
    records = [read_record(path) for path in cell.merged]
    if any(record["status"] != "passed" for record in records):
        return [], records
    folders = [Path(record["details"]["folder"]) for record in records]
    for path, record, folder in zip(cell.merged, records, folders, strict=True):
        _check_base(record, folder, cell, base)
        _check_files(record, folder, Path(path))
    return folders, records


def find_start(cell: Cell, base: str) -> tuple[Path | None, dict[str, Any]]:
    """What a cell's tuning goes on from.

    Args:
        base: SHA-256 of the base model's weights.

    Returns:
        Its folder, None where that tuning did not pass, and its record.

    Raises:
        ValueError: the record is missing or damaged, of another base, or its tuning was of another kind or rank.
        Damaged: a file is not as its record says.
    """
    record = read_record(Path(cell.start))
    if record["status"] != "passed":
        return None, record
    folder = Path(record["details"]["folder"])
    _check_base(record, folder, cell, base)
    for name in ("kind", "rank"):
        one, other = record["cell"]["tuning_settings"].get(name), cell.tuning_settings[name]
        if one != other:
            raise ValueError(
                f"adapter {folder}: tuned with {name}={one}; a tuning with {name}={other} cannot start there"
            )
    _check_files(record, folder, Path(cell.start))
    return folder, record


def _check_base(record: Mapping[str, Any], folder: Path, cell: Cell, base: str) -> None:
    """Refuses an adapter that was tuned from other weights than the cell's model has."""
    found = str(record["provenance"]["hashes"].get("weights"))
    if found != base:
        raise ValueError(
            f"adapter {folder}: tuned from the weights {found[:12]}; those of {cell.model} are {base[:12]}"
        )


def _check_files(record: Mapping[str, Any], folder: Path, own: Path) -> None:
    """Refuses an adapter whose files are not as its record, ``own``, says."""
    for name, expected in record["details"]["files"].items():
        path = folder / name
        found = sha256_file(path) if path.exists() else "missing"
        if found != expected:
            files = () if folder.resolve().is_relative_to(SHIPPED) else (own,)
            raise Damaged(
                f"adapter {path}: SHA-256 is {found}, its record says {expected}; put back or tune anew", files
            )
