"""What a run says last: which cells failed, and where its results are."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmark.cell import Cell
from benchmark.packed import record_text

FAILED = ("error", "incorrect", "out_of_memory")
"""A cell that is ``unsupported`` has not failed: it says that there is nothing to draw or measure."""

_SHOWN = 3  # failures that are spelled out; a method that fails everywhere would fill the screen


def last_lines(places: Mapping[str, str], experiment: Path, cells: Iterable[Cell] = (), publish: str = "") -> str:
    """The last lines of a run that Snakemake calls a success.

    Args:
        places: files and folders of results by what they hold; those that are not there, or are empty, are left out.
        experiment: the experiment's folder below ``results``.
        cells: its cells, whose failures are told.
        publish: the command that commits its records; said where there are records.
    """
    found = {name: place for name, place in places.items() if _holds_something(Path(place))}
    lines = [f"{name + ':':<8} {place}" for name, place in found.items()]
    if publish and _holds_something(experiment / "records"):
        lines.append(f"publish: {publish}")
    where = "the tables" if "tables" in found else (experiment / "records").as_posix()
    failed = failures(experiment / "records", cells)
    return "\n".join([*lines, *([f"{failed}; see {where}"] if failed else [])])


def failures(records: Path, cells: Iterable[Cell]) -> str:
    """One line on the cells that failed, by their records; empty where none did, or nothing has run yet.

    Args:
        records: the folder of the experiment's records. What is damaged there is left to those who read it whole.
    """
    run, failed = 0, []
    for cell in cells:
        found = [_record(records / cell.path / f"{kind}.json") for kind in ("tune", "generate", "measure")]
        found = [record for record in found if record]
        run += bool(found)
        failed += [(cell, record) for record in found if record.get("status") in FAILED][:1]
    if not failed:
        return ""
    told = [f"{_name(cell)}: {' '.join(str(record.get('reason')).split())}" for cell, record in failed[:_SHOWN]]
    told += [f"and {len(failed) - _SHOWN} more"] * (len(failed) > _SHOWN)
    return f"{len(failed)} of {run} cells failed: {'; '.join(told)}"


def _name(cell: Cell) -> str:
    return " ".join([cell.method, cell.length, *([cell.variant or "tuned"] * bool(cell.variant or cell.tuned))])


def _record(path: Path) -> dict:
    """A record as it stands; its seal is not checked, for these are many files at the end of every run."""
    with contextlib.suppress(OSError, ValueError):
        record = json.loads(record_text(path))
        return record if isinstance(record, dict) else {}
    return {}


def _holds_something(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and any(path.iterdir()))
