"""The quality part of the page: tables, figures and a few clips of the trained testbed, and the records behind them."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.publish_records import CLIPS, INDEX
from paper_figures import ablations, entries
from paper_figures.ablations import Ablation
from paper_figures.experiment import CellRows, Experiment
from paper_figures.report import facts, held, papers
from paper_figures.tables import Column, Entry, Group, Line, Table, footnotes
from paper_figures.testbed import Testbed

logger = logging.getLogger(__name__)

ERROR = "table_error"
TABLES = ("table1_testbed", "table2_testbed", "ablation_a", "ablation_b", "ablation_c", "ablation_d", ERROR)
PRINTED = {"table1_testbed": "table1", "table2_testbed": "table2"}
"""The published table whose rows stand beside those of a table."""
OWN_SOURCE = "ours"
TEXTS = "testbed-records.json"
"""The file inside the page that holds the records' texts and numbers."""
ROOM = 2_500_000
"""Bytes of clips inside the page; those beyond stay where they are committed."""


@dataclass(frozen=True)
class _Sources:
    """What the tables are shown from: the testbed with its cells by name, the page's experiment, and printed rows."""

    testbed: Testbed
    cells: Mapping[str, CellRows]
    source: Experiment
    printed: papers.Printed


@dataclass
class Gathered:
    """The quality part of a page.

    Args:
        model: the testbed's name.
        words: the options of ``python -m paper_figures`` that name the records.
        place: the folder of the experiment that the page is about.
        sections: the tables with any line, as the template shows them.
        absent: the titles of the others.
        uncollected: whether they are absent because the records were left out, with ``committed: false``.
        reels: the clips that are inside, those of one prompt under one variant together, dense first: each reel with
            ``heading``, ``prompt``, ``seed`` and ``clips``, which have ``file``, ``method`` and ``label``.
        left_out: how many clips are not inside.
        files: the clips' files.
        cells: what the dialogs say of a cell, by its identifier on the page.
        texts: the records, without what they say of single clips, by their path from the experiment's folder.
    """

    model: str
    words: str
    place: str
    sections: list[dict[str, Any]] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    uncollected: bool = False
    reels: list[dict[str, Any]] = field(default_factory=list)
    left_out: int = 0
    files: dict[str, held.Held] = field(default_factory=dict)
    cells: dict[str, dict[str, Any]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def groups(self) -> list[dict[str, Any]]:
        """The groups of all tables."""
        return [group for section in self.sections for block in section["blocks"] for group in block["groups"]]

    def command(self, name: str, folder: str) -> str:
        """The command that makes a table or a figure."""
        # The table of errors reads the experiment's own results, too.
        words = f"--experiment-folder {self.place} {self.words}" if name == ERROR else self.words
        return f"python -m paper_figures {name} {words} --out {self.place}/{folder}"

    def file(self) -> bytes:
        """Cells and texts as the page holds them."""
        return json.dumps({"cells": self.cells, "texts": self.texts}, allow_nan=False, ensure_ascii=False).encode()


def gather(testbed: Testbed, config: Path, source: Experiment, printed: papers.Printed) -> Gathered:
    """The tables with all that their numbers lead to, and the clips.

    Args:
        config: the file that names the variants.
        source: the experiment that the page is about.

    Raises:
        ValueError: the table of records, a record or the index of clips is damaged.
    """
    found = Gathered(", ".join(testbed.config["models"]), _words(testbed, config), source.folder.as_posix())
    there = testbed.experiment.table.exists()
    cells = {facts.identifier(cell): cell for cell in testbed.experiment.cells()} if there else {}
    found.uncollected = not there and (testbed.experiment.folder / "records").is_dir()
    sources = _Sources(testbed, cells, source, printed)
    for name in TABLES:
        table = _table(name, testbed)
        if table.blocks:
            section = _section(table, sources, found)
            found.sections.append(section | {"command": found.command(name, "tables")})
        else:
            found.absent.append(table.title)
    _take_clips(testbed, cells, found)
    return found


def _table(name: str, testbed: Testbed) -> Table:
    module = importlib.import_module(f"paper_figures.{name}")
    if name == ERROR:
        return module.table(module.errors(testbed.experiment.folder))
    if name.startswith("ablation"):
        return _ablation(module.ABLATION, testbed)
    return module.table(testbed)


def _ablation(ablation: Ablation, testbed: Testbed) -> Table:
    parts = ablations.series(ablation, testbed)
    cells = [row.cell for one in parts for row in one.rows]
    numbers = ablations.numbers(ablation, testbed, parts, ablations.columns(ablation, testbed, cells))
    return ablations.table(ablation, testbed, parts, numbers)


def _words(testbed: Testbed, config: Path) -> str:
    folder, table = (path.as_posix() for path in (testbed.experiment.folder, testbed.experiment.table))
    place = held.relative(config, Path.cwd())
    return f"--testbed-folder {folder} --testbed-records {table} --testbed-config {place}"


def _section(table: Table, sources: _Sources, found: Gathered) -> dict[str, Any]:
    marks = footnotes(table)
    blocks = [
        {
            "heading": block.heading,
            "groups": [_group(table, group, marks, sources, found) for group in block.groups],
        }
        for block in table.blocks
    ]
    return {
        "name": table.name, "title": table.title, "head": table.heads[0],
        "columns": [{"column": column, "mark": marks.get(column.note, "")} for column in table.columns],
        "blocks": blocks, "remarks": table.remarks, "notes": [(mark, words) for words, mark in marks.items()],
    }  # fmt: skip


def _group(table: Table, group: Group, marks: Mapping[str, str], sources: _Sources, found: Gathered) -> dict[str, Any]:
    """The lines of a group: ours, those below it, and what the paper prints."""
    told = group.facts
    last = told.get("variant") or told.get("tuning", "")
    cell = sources.cells.get("/".join(str(told.get(key, "")) for key in ("model", "length", "method")) + f"/{last}")
    name = "" if cell is None else f"testbed/{facts.identifier(cell)}"
    if cell is not None:
        _tell(name, table, group, cell, sources, found)
    own = [
        {
            "metric": f"{table.name}.{column.key}", "text": entry.text, "value": entry.value, "status": entry.status,
            "reason": entry.reason or " ".join(entry.notes), "marks": papers.marked(entry.notes, marks),
        }
        for column in table.columns
        for entry in [group.ours.entries.get(column.key, Entry())]
    ]  # fmt: skip
    lines = [_line(line, table.columns, marks, "") for line in group.below]
    lines += [
        _line(line, table.columns, marks, _printed(table, cell, line, marks, sources.printed))
        for line in group.published
    ]
    words = "" if group.ours.source == OWN_SOURCE else group.ours.source
    return {
        "cell": name, "method": str(told.get("method", "")), "label": group.label, "source": words, "entries": own,
        "marks": papers.marked((*group.notes, *group.ours.notes), marks), "lines": lines,
    }  # fmt: skip


def _line(line: Line, columns: Iterable[Column], marks: Mapping[str, str], row: int | str) -> dict[str, Any]:
    """A line below ours; ``row`` is the number of a printed row, or empty."""
    shown = [
        {"text": entry.text, "columns": column.published, "marks": papers.marked(entry.notes, marks)}
        for column in columns
        for entry in [line.entries.get(column.key, Entry())]
    ]
    words = line.source.replace("published", "paper", 1)
    return {"source": words, "marks": papers.marked(line.notes, marks), "row": row, "entries": shown}


def _printed(
    table: Table, cell: CellRows | None, line: Line, marks: Mapping[str, str], printed: papers.Printed
) -> int | str:
    """The number of a published line's row on the page; empty where the dialogs know no such row."""
    if cell is None or table.name not in PRINTED:
        return ""
    return papers.line(PRINTED[table.name], cell, line, table.columns, marks, printed)["row"]


def _tell(name: str, table: Table, group: Group, cell: CellRows, sources: _Sources, found: Gathered) -> None:
    """Adds what the dialog says of a cell: the table's numbers, all of its own, and its records."""
    known, testbed = found.cells.get(name), sources.testbed
    if known is None:
        variant = f", {testbed.label(cell.variant)}" if cell.variant else ""
        known = facts.told_cell(testbed.experiment, cell) | {"label": f"{group.label}{variant}", "clips": []}
        for record in known["records"]:
            record["file"] = held.relative(testbed.experiment.folder / record["file"], sources.source.folder)
            found.texts[record["file"]] = _without_clips(record.pop("text"))
            record["part"] = "It is shown without what it says of single clips, which the file has"
        found.cells[name] = known
    rows = []
    for column in table.columns:
        entry = group.ours.entries.get(column.key)
        if any(row["metric"] == f"{table.name}.{column.key}" for row in known["rows"]):
            continue  # dense clips stand in several blocks
        if entry is not None and entry.text:
            row = cell.find(column.key)
            rows.append({
                "metric": f"{table.name}.{column.key}", "label": f"{column.heading} ({table.title.partition('.')[0]})",
                "value": entry.value, "standard_error": None, "unit": column.unit, "reason": entry.reason,
                "status": entry.text if entry.value is None else entry.status, "footnote": "", "decimals": None,
                "kind": row["kind"] if row is not None else "measure", "told": entry.text,
            })  # fmt: skip
    known["rows"] = rows + known["rows"]


def _without_clips(text: str) -> str:
    """A record's text with the number of its clips in their place."""
    record = json.loads(text)
    return json.dumps(record | {"clips": f"{len(record['clips'])} clips"}, indent=1, ensure_ascii=False)


def _take_clips(testbed: Testbed, cells: Mapping[str, CellRows], found: Gathered) -> None:
    """Takes the clips that the committed index names, in its order, as long as there is room."""
    folder = testbed.experiment.folder / CLIPS
    index = folder / INDEX
    if not index.is_file():
        return
    try:
        listed = {
            name: {key: told[key] for key in ("prompt", "seed")} for name, told in json.loads(index.read_text()).items()
        }
        data = {name: (folder / name).read_bytes() for name in listed}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index}: no index of clips ({type(error).__name__}: {error})") from None
    room, inside = ROOM, {}
    for name, told in listed.items():
        room -= len(data[name])
        if room < 0:
            found.left_out += 1
            continue
        found.files[f"{CLIPS}/{name}"] = held.hold(Path(name).name, data[name])
        inside[name] = told
    if found.left_out:
        logger.info("%d clips in %s are not inside the page, which has room for %d bytes", found.left_out, folder, ROOM)
    found.reels = _reels(testbed, cells, inside)


def _reels(
    testbed: Testbed, cells: Mapping[str, CellRows], inside: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Clips by model, length, variant and prompt, with the dense clip of the prompt first.

    Variants come in the configuration's order, methods in that of tables. Beside tuned clips the dense one is called
    untuned.
    """
    order = {place: number for number, place in enumerate(cells)}
    scenes: dict[tuple[str, str], int] = {}
    for cell in cells.values():
        scenes.setdefault((cell.model, cell.length), len(scenes))
    variants = {name: number for number, name in enumerate(testbed.config["variants"])}

    def rank(name: str) -> tuple[Any, ...]:
        place = Path(name).parent
        scene, last = place.parts[:2], len(order)
        return scenes.get(scene, last), scene, variants.get(place.name, -1), order.get(place.as_posix(), last)

    reels: dict[tuple, list[dict[str, Any]]] = {}
    references: dict[tuple, dict[str, Any]] = {}
    tuned: set[tuple] = set()
    for name in sorted(inside, key=rank):
        place = Path(name).parent
        model, length, method, tuning = place.parts
        cell = cells.get(place.as_posix())
        clip = {"file": f"{CLIPS}/{name}", "method": method, "label": method if cell is None else entries.label(cell)}
        scene = model, length, inside[name]["prompt"], inside[name]["seed"]
        reference = None if cell is None else testbed.reference(cell)
        if reference is not None and reference.path == cell.path:
            references[scene] = clip
        else:
            key = (*scene, testbed.label(tuning if cell is None else cell.variant))
            reels.setdefault(key, []).append(clip)
            if cell is not None and cell.tuning == "tuned":
                tuned.add(key)
    for scene in references:
        if all(key[:4] != scene for key in reels):
            reels[*scene, ""] = []
    found = []
    for key, clips in reels.items():
        model, length, prompt, seed, variant = key
        dense = references.get(key[:4])
        if dense is not None and key in tuned:
            dense = dense | {"label": f"{dense['label']}, untuned"}
        heading = f"{model}, {length}" + (f", {variant}" if variant else "")
        shown = [dense, *clips] if dense is not None else clips
        found.append({"heading": heading, "prompt": prompt, "seed": seed, "clips": shown})
    return found
