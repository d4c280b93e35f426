"""The speed part of the page: its tables, each cell ours, the paper's and the verdict, and the records behind them."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.packed import file_of, record_text, unpacked_names
from benchmark.speed.cells import SpeedCell
from paper_figures import published
from paper_figures.entries import paper_name
from paper_figures.experiment import Experiment
from paper_figures.report import held, papers
from paper_figures.speed import KERNELS, LATENCY, PLAN, TRAINING, Speed
from paper_figures.speed_entries import beside
from paper_figures.table_outside import OUTSIDE
from paper_figures.table_rates import STEP
from paper_figures.tables import Column, Entry, Group, Table, footnotes

TABLES = ("table1_speed", "table2_speed", "table_kernels", "table_outside", "table_rates")
PRINTED = {"table1_speed": "table1", "table2_speed": "table2"}
"""The published table that stands beside a table."""
OTHERS = {"table_kernels": KERNELS, "table_outside": OUTSIDE, "table_rates": STEP}
"""The kind of record that the other tables are read from."""
JUDGED = ("_verdict", "_ratio")
"""How columns end that say how near the column before them comes to the paper; the page shows them in its cells."""
TEXTS = "speed-records.json"
"""The file inside the page that holds the records' texts and numbers."""


@dataclass
class Gathered:
    """The speed part of a page.

    Args:
        sections: the tables, as the template shows them.
        cells: what the dialogs say of a cell, by its identifier on the page.
        texts: the records' files as they are, by their path from the experiment's folder.
    """

    sections: list[dict[str, Any]]
    cells: dict[str, dict[str, Any]]
    texts: dict[str, str]

    def file(self) -> bytes:
        """Cells and texts as the page holds them."""
        return json.dumps({"cells": self.cells, "texts": self.texts}, allow_nan=False, ensure_ascii=False).encode()


def gather(speed: Speed, source: Experiment, printed: papers.Printed) -> Gathered:
    """The speed tables with all that their numbers lead to.

    Raises:
        ValueError: the configuration or a record is damaged, or records are of two GPUs.
    """
    found = Gathered([], {}, {})
    for name in TABLES:
        table: Table = importlib.import_module(f"paper_figures.{name}").table(speed)
        found.sections.append(_section(table, speed, source, printed, found))
    return found


def _section(
    table: Table, speed: Speed, source: Experiment, printed: papers.Printed, found: Gathered
) -> dict[str, Any]:
    marks = footnotes(table)
    kept = [column for column in table.columns if not column.key.endswith(JUDGED)]
    blocks = []
    for block in table.blocks:
        groups = [_group(table, kept, group, marks, speed, source, printed, found) for group in block.groups]
        facts = block.groups[0].facts
        place = {"model": str(facts.get("model", "")), "shape": _shape(facts, speed)}
        blocks.append(place | {"heading": block.heading, "groups": groups})
    command = (
        f"python -m paper_figures {table.name} --speed-folder {speed.folder.as_posix()} "
        f"--speed-config {held.relative(speed.config, Path.cwd())} --out {source.folder.as_posix()}/tables"
    )
    return {
        "name": table.name, "title": table.title, "head": table.heads[0],
        "columns": [{"column": column, "mark": marks.get(column.note, "")} for column in kept],
        "blocks": blocks, "remarks": table.remarks, "notes": [(mark, words) for words, mark in marks.items()],
        "paper": table.name in PRINTED, "command": command,
    }  # fmt: skip


def _group(
    table: Table,
    columns: Iterable[Column],
    group: Group,
    marks: Mapping[str, str],
    speed: Speed,
    source: Experiment,
    printed: papers.Printed,
    found: Gathered,
) -> dict[str, Any]:
    """A line of a table, with its published one."""
    facts = group.facts
    cell = _cell(facts, speed)
    name = _identifier(facts, cell)
    _tell(name, table, group, cell, speed, source, found)
    row = beside(cell, published.rows(PRINTED[table.name])) if cell and group.published else None
    number = "" if row is None else printed.number(row, _place(row, PRINTED[table.name]))
    line = group.published[0] if group.published else None
    judged = _judged(table.columns)
    shown = []
    for column in columns:
        own = group.ours.entries.get(column.key, Entry())
        verdict = group.ours.entries.get(judged[column.key].key, Entry()) if column.key in judged else Entry()
        paper = line.entries.get(column.key, Entry()) if line else Entry()
        shown.append({
            "metric": f"{table.name}.{column.key}", "text": own.text, "value": own.value, "status": own.status,
            "reason": own.reason or " ".join(own.notes), "marks": papers.marked((*own.notes, *verdict.notes), marks),
            "verdict": _verdict(verdict, judged.get(column.key)),
            "paper": {"text": paper.text, "columns": column.published, "marks": papers.marked(paper.notes, marks)},
        })  # fmt: skip
    return {
        "cell": name, "method": facts.get("method", ""), "shape": _shape(facts, speed), "label": group.label,
        "source": group.ours.source, "marks": papers.marked((*group.notes, *group.ours.notes), marks), "row": number,
        "entries": shown, "paper": line.source if line else "",
        "paper_marks": papers.marked(line.notes, marks) if line else [],
    }  # fmt: skip


def _cell(facts: Mapping[str, Any], speed: Speed) -> SpeedCell | None:
    """The cell that a line is about, or its stage where the line is of no method; None for what is no cell's."""
    if "method" in facts:
        return speed.cell(f"{facts.get('model')}/{facts.get('shape')}", facts["method"], facts.get("setting", ""))
    cells = speed.stages.get(f"{facts['model']}/{_shape(facts, speed)}")
    return cells[0].of_stage() if cells else None


def _tell(
    name: str, table: Table, group: Group, cell: SpeedCell | None, speed: Speed, source: Experiment, found: Gathered
) -> None:
    """Adds what the dialog says of a line: the table's numbers, the records' own, and the records."""
    facts = group.facts
    known = found.cells.get(name)
    if known is None:
        files = _files(speed, cell) if cell else _kernel_files(speed, facts)
        records = []
        for kind, path in files:
            where = held.relative(path, source.folder)
            found.texts.setdefault(where, record_text(path))
            records.append({"kind": kind, "file": where})
        settings = {key: value for key, value in facts.items() if isinstance(value, (str, int, float)) and value != ""}
        known = {
            "model": paper_name(str(facts.get("model", ""))), "length": f"{facts.get('frames', '')} frames",
            "method": facts.get("method", ""), "label": _label(group, facts), "status": "", "reason": "", "clips": [],
            "settings": {key: settings[key] for key in settings if key not in ("quartiles", "samples")},
            "rows": [], "records": records, "command": _wanted(speed, cell),
        }  # fmt: skip
        known["rows"] = [row for kind, path in files for row in _record_rows(kind, json.loads(record_text(path)))]
        found.cells[name] = known
    rows = []
    for column in table.columns:
        entry = group.ours.entries.get(column.key)
        if entry is None or not entry.text:
            continue
        rows.append({
            "metric": f"{table.name}.{column.key}", "label": column.heading, "value": entry.value,
            "standard_error": None, "unit": column.unit, "status": entry.text if entry.value is None else entry.status,
            "reason": entry.reason, "footnote": "", "kind": _kind(table, column),
            "decimals": None, "told": entry.text,
        })  # fmt: skip
    known["rows"] = rows + known["rows"]


def _wanted(speed: Speed, cell: SpeedCell | None) -> str:
    """The command that measures a line."""
    config = held.relative(speed.config, Path.cwd())
    if cell is None:
        return f"snakemake --cores all --configfile {config}"
    return f"python -m benchmark --one-gpu latency --config {config} --stage {cell.stage} --out results/h100/records"


def _kind(table: Table, column: Column) -> str:
    """The kind of record that a column is read from."""
    if table.name not in PRINTED:
        return OTHERS[table.name]
    return TRAINING if "training" in column.key else LATENCY


def _record_rows(kind: str, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A record's numbers, as the dialog lists them; of one that did not pass its status."""
    values = record["values"] or {"all": None}
    return [
        {
            "metric": "all" if name == "all" else f"{kind}.{name}", "label": f"{kind}: {name}", "value": value,
            "standard_error": None, "unit": record["units"].get(name, ""), "status": record["status"],
            "reason": record["reason"], "footnote": "", "kind": kind, "decimals": None,
        }
        for name, value in values.items()
    ]  # fmt: skip


def _files(speed: Speed, cell: SpeedCell) -> list[tuple[str, Path]]:
    """The records of a cell: those that tables read, what they were put together from, and those of its stage."""
    folder = speed.folder / "records"
    paths = [folder / cell.path / f"{kind}.json" for kind in (LATENCY, TRAINING)]
    for place in (cell.path, cell.of_stage().path):
        paths += [path for path in unpacked_names((folder / place).glob("[!.]*.json*")) if path.stem != PLAN]
    return [(path.stem, path) for path in dict.fromkeys(paths) if file_of(path).is_file()]


def _kernel_files(speed: Speed, facts: Mapping[str, Any]) -> list[tuple[str, Path]]:
    """The records of ``kernels_bench`` that are about a line's shape."""
    found = []
    for path in sorted((speed.folder / KERNELS).glob("*.json")):
        cell = json.loads(record_text(path))["cell"]
        if all(cell[key] == facts.get(key) for key in ("model", "frames", "height", "width")):
            found.append((KERNELS, path))
    return found


def _identifier(facts: Mapping[str, Any], cell: SpeedCell | None) -> str:
    """A line's name on the page."""
    if cell is not None:
        return f"speed/{cell.path.as_posix()}"
    words = ("model", "frames", "method", "kernel", "knobs")
    return "kernels/" + "/".join(str(facts[word]) for word in words if facts.get(word))


def _label(group: Group, facts: Mapping[str, Any]) -> str:
    words = {"paper": "", "authors": ", authors' setting"}.get(str(facts.get("setting", "")), "")
    return group.label + words + (f", {group.ours.source}" if "kernel" in facts and "setting" not in facts else "")


def _shape(facts: Mapping[str, Any], speed: Speed) -> str:
    """The shape that a block is of: kernels are timed at those of the stages."""
    if "shape" in facts:
        return str(facts["shape"])
    keys = ("model", "frames", "height", "width")
    for cells in speed.stages.values():
        if all(getattr(cells[0], key) == facts.get(key) for key in keys):
            return cells[0].shape
    return ""


def _judged(columns: Iterable[Column]) -> dict[str, Column]:
    """The column that says how near a column comes to the paper, by that column's key: it is the next one."""
    columns = list(columns)
    return {one.key: two for one, two in zip(columns, columns[1:], strict=False) if two.key.endswith(JUDGED)}


def _verdict(entry: Entry, column: Column | None) -> str:
    """A verdict or ratio in words; empty where nothing is published to hold a number against."""
    if column is None or not entry.text:
        return ""
    if column.key.endswith("_ratio"):
        return f"{entry.text} × published"
    # The verdict on a sparsity is on the pairs that are kept.
    return f"density {entry.text}" if column.key.startswith("sparsity") else entry.text


def _place(row: published.Published, table: str) -> int:
    """A published row's place in its table, from 0."""
    return [found.cells for found in published.rows(table)].index(row.cells)
