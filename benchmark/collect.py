"""Gathers an experiment's records into one tidy table: one row a cell and metric.

It is the only way from records to tables and figures, so whatever must not meet in one table is refused here, by
``comparable``.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmark import comparable, registry
from benchmark.records import read_record

logger = logging.getLogger(__name__)

EXAMPLE = """example:
  python -m benchmark collect --experiment quick --records results/quick/records/*/*/*/*/*.json \\
      --out-parquet results/quick/records.parquet --out-csv results/quick/records.csv
  python -m benchmark collect --experiment quick --canonical canonical.json
  python -m benchmark collect --experiment testbed --results results/reference --out-parquet testbed.parquet
"""

COLUMNS = {
    "experiment": str,
    "model": str,
    "length": str,
    "frames": int,
    "height": int,
    "width": int,
    "method": str,
    "title": str,
    "tuning": str,
    "variant": str,
    "budget": float,
    "settable": bool,
    "operator": str,
    "knobs": str,
    "density": float,
    "block": int,
    "steps": int,
    "dense_steps": int,
    "dense_layers": int,
    "kernel": str,
    "clips": int,
    "seed": int,
    "kind": str,
    "metric": str,
    "label": str,
    "value": float,
    "standard_error": float,
    "unit": str,
    "direction": str,
    "ranks": bool,
    "decimals": int,
    "status": str,
    "reason": str,
    "flags": str,
    "footnote": str,
    "record": str,
    "mask_hash": str,
    "weights_hash": str,
    "noise_hash": str,
    "device": str,
    "commit": str,
    "code": str,
    "date": str,
}
"""The columns and their types; a value that does not apply is empty."""

WHOLE_RECORD = "all"
"""The ``metric`` of the one row that a record without numbers gets."""

# How the engine's own numbers are read; metrics say it themselves, in metrics/.
_ENGINE = {
    "density": {"label": "Density", "decimals": 3},
    "pflop": {"label": "PFLOP", "unit": "PFLOP", "direction": "lower"},
    "pflop_dense": {"label": "PFLOP dense", "unit": "PFLOP"},
    "generation_s": {"label": "Generation", "unit": "s", "direction": "lower", "decimals": 2},
    "tuning_s": {"label": "Tuning", "unit": "s", "direction": "lower", "decimals": 1},
    "peak_memory_gib": {"label": "Memory of the tuning", "unit": "GiB", "direction": "lower", "decimals": 2},
    "final_loss": {"label": "Final loss", "direction": "lower", "decimals": 4},
}


def collect(experiment: str, paths: Iterable[Path | str]) -> list[dict[str, Any]]:
    """The tidy rows of an experiment's records, in an order that depends on nothing but their content.

    Args:
        experiment: its name; every record must be of it.
        paths: the files of all records that the experiment shall have.

    Returns:
        Rows with the keys of ``COLUMNS``. A metric without a number has an empty value and a status; a record without
        numbers has one row, whose metric is ``WHOLE_RECORD``.

    Raises:
        ValueError: naming the record: it is missing or no record, of another experiment, there twice, without its
            counterpart, or it differs from another in what they must share (see ``comparable``).
    """
    records = {}
    for path in paths:
        name = Path(path).as_posix()
        record = read_record(path)
        if record["cell"]["experiment"] != experiment:
            raise ValueError(f"record {name}: experiment={record['cell']['experiment']!r}; {experiment!r} is collected")
        records[name] = record
    comparable.check(records)
    for method in sorted({record["cell"]["method"] for record in records.values()} - set(registry.names())):
        logger.warning("method %s has records but no file in methods/; its name serves as its title", method)
    metrics = _metric_columns()
    generated = {comparable.cell_key(record): record for record in records.values() if record["kind"] == "generate"}
    rows = []
    for name, record in records.items():
        rows += _rows(name, record, generated.get(comparable.cell_key(record)), metrics)
    return sorted(rows, key=_position)


def _metric_columns() -> dict[str, dict[str, Any]]:
    """What is known of each metric's columns, by key."""
    from benchmark.metric import discover

    known = {key: dict(facts) for key, facts in _ENGINE.items()}
    for metric in discover().values():
        for column in metric.columns:
            known[column.key] = {
                "label": column.label,
                "unit": column.unit,
                "direction": column.direction or "",
                "ranks": column.ranks,
                "decimals": column.decimals,
                "footnote": column.footnote,
            }
    return known


def _rows(
    name: str,
    record: Mapping[str, Any],
    generated: Mapping[str, Any] | None,
    metrics: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """The rows of one record."""
    source, origin = generated or record, record["provenance"]
    cell = source["cell"]  # that of a tuning says nothing of how clips are drawn
    hashes = source["provenance"]["hashes"] | {key: value for key, value in origin["hashes"].items() if value}
    base: dict[str, Any] = dict.fromkeys(COLUMNS)
    base |= {key: cell[key] for key in COLUMNS if key in cell}
    base |= _method_facts(cell, source)
    base |= {
        "tuning": "tuned" if cell["tuned"] else "untuned",
        "variant": cell.get("variant", ""),
        "density": source["values"].get("density"),
        "kernel": source["details"].get("kernel") or cell["kernel"],
        "kind": record["kind"],
        "status": record["status"],
        "record": name,
        "mask_hash": hashes.get("mask"),
        "weights_hash": hashes.get("weights"),
        "noise_hash": hashes.get("noise"),
        "device": origin["device"].get("name"),
        "commit": origin["commit"],
        "code": origin["code"],
        "date": origin["date"],
    }
    if record["status"] != "passed":
        return [base | {"metric": WHOLE_RECORD, "reason": record["reason"]}]
    stated = record["details"].get("metrics", {})
    owner = {key: facts for facts in stated.values() for key in facts.get("columns", [])}
    rows = []
    for key, value in record["values"].items():
        facts = metrics.get(key, {})
        rows.append(
            base
            | _column_facts(key, facts, record)
            | {
                "value": float(value),
                "standard_error": standard_error(_of_clips(record, key)),
                "flags": _flags(owner.get(key, {}), key),
                "footnote": _footnote(facts, owner.get(key, {}), key),
            }
        )
    for metric, facts in stated.items():
        if facts["status"] == "passed":
            continue
        for key in _unmeasured(metric, facts):
            known = _column_facts(key, metrics.get(key, {}), record)
            rows.append(base | known | {"status": facts["status"], "reason": facts.get("reason")})
    return rows


def _unmeasured(metric: str, facts: Mapping[str, Any]) -> list[str]:
    """The columns that a metric without numbers leaves empty: the one of its name, or else all that it declares."""
    columns = facts.get("columns") or [metric]
    return [metric] if metric in columns else list(columns)


def _column_facts(key: str, facts: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "metric": key,
        "label": facts.get("label") or key,
        "unit": record["units"].get(key) or facts.get("unit", ""),
        "direction": facts.get("direction", ""),
        "ranks": facts.get("ranks", False),
        "decimals": facts.get("decimals", 3),
    }


def _footnote(facts: Mapping[str, Any], stated: Mapping[str, Any], key: str) -> str | None:
    """The sentence that must stand below a table with this column."""
    if facts.get("footnote"):
        return facts["footnote"]
    footnotes = stated.get("footnotes") or []
    if isinstance(footnotes, Mapping):
        return footnotes.get(key)
    return " ".join(footnotes) or None


def _flags(stated: Mapping[str, Any], key: str) -> str | None:
    """Flags as JSON, by name with the number of frames concerned; only those that begin with the column's key."""
    flags = stated.get("flags") or {}
    if not isinstance(flags, Mapping):
        flags = dict.fromkeys(flags, 1)
    own = {name: count for name, count in sorted(flags.items()) if name.startswith(key)}
    return json.dumps(own) if own else None


def _of_clips(record: Mapping[str, Any], key: str) -> list[float]:
    values = [clip.get("values", clip).get(key) for clip in record["clips"]]
    return [float(value) for value in values if value is not None]


def standard_error(values: list[float]) -> float | None:
    """Standard error of the mean over clips: sample deviation / sqrt(clips); None for fewer than two."""
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))


def _method_facts(cell: Mapping[str, Any], source: Mapping[str, Any]) -> dict[str, Any]:
    """Title, knobs and whether the density can be set, of a method at its solved knobs.

    A method whose file is gone keeps its name as its title, so that old records stay readable.
    """
    from benchmark.method import Method

    knobs = source["details"].get("knobs") or cell["knobs"]
    words = json.dumps(dict(sorted(knobs.items())))
    if cell["method"] not in registry.names():
        return {"title": cell["method"], "knobs": words, "settable": None, "operator": None}
    kind = registry.method_class(cell["method"])
    own = kind().knobs()
    method = kind(**{key: value for key, value in knobs.items() if key in own})
    searched = kind.settings is not Method.settings
    return {
        "title": kind.title,
        "knobs": words,
        "settable": kind.sparse and (searched or method.density_knob() is not None),
        "operator": "softmax" if kind.attend is Method.attend else "own",
    }


def _position(row: Mapping[str, Any]) -> tuple:
    """The place of a row: model, length, method in the order of tables, untuned first, variant, kind, metric."""
    order = registry.names()
    place = order.index(row["method"]) if row["method"] in order else len(order)
    cell = (row["model"], row["frames"], row["length"], place, row["method"], row["tuning"] == "tuned", row["variant"])
    return *cell, row["kind"], row["metric"]


def write_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    """Writes the rows as Parquet, whole or not at all; the same rows give the same bytes."""
    import pyarrow
    import pyarrow.parquet

    _write_whole(path, lambda part: pyarrow.parquet.write_table(_table(rows), part))


def write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    """Writes the rows as CSV with a header, whole or not at all."""
    import pyarrow.csv

    _write_whole(path, lambda part: pyarrow.csv.write_csv(_table(rows), part))


def _table(rows: list[dict[str, Any]]):
    import pyarrow

    types = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_()}
    return pyarrow.Table.from_pylist(rows, pyarrow.schema([(name, types[kind]) for name, kind in COLUMNS.items()]))


def _write_whole(path: Path, write: Callable[[Path], None]) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.description = "Gather records into one tidy table, and refuse those that may not meet in one."
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--experiment", required=True, help="experiment that every record must be of")
    parser.add_argument(
        "--records", type=Path, nargs="+", metavar="FILE", help="all its records (default: those in RESULTS/EXPERIMENT)"
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="RESULTS",
        help="folder of all experiments, or results/reference of those whose records are committed",
    )
    parser.add_argument("--out-parquet", type=Path, metavar="FILE", help="the table as Parquet")
    parser.add_argument("--out-csv", type=Path, metavar="FILE", help="the same table as CSV")
    parser.add_argument(
        "--canonical", type=Path, metavar="FILE", help="the records without what two runs of the same thing differ in"
    )


def run(args: argparse.Namespace) -> int:
    """Collect and write. Returns the exit status."""
    from benchmark.canonical import record_files, write_canonical

    writers = ((args.out_parquet, write_parquet), (args.out_csv, write_csv))
    outputs = [str(path) for path in (args.out_parquet, args.out_csv, args.canonical) if path]
    if not outputs:
        raise ValueError("nothing to write: at least one of --out-parquet, --out-csv and --canonical is needed")
    paths = args.records or record_files(args.experiment, args.results)
    rows = collect(args.experiment, paths)
    for path, write in writers:
        if path:
            write(rows, path)
    if args.canonical:
        write_canonical(sorted(set(paths)), args.canonical)
    versions = len({row["code"] for row in rows})
    if versions > 1:
        logger.warning("the records come from %d versions of the code; the tables say so", versions)
    print(f"{len(rows)} rows of {len(set(map(str, paths)))} records in {' and '.join(outputs)}")
    return 0
