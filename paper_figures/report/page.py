"""Puts the page together: records, tables and figures into one HTML file, clips into sheets beside it."""

from __future__ import annotations

import importlib
import json
import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from paper_figures import entries
from paper_figures.experiment import CellRows, Experiment
from paper_figures.report import charts, facts
from paper_figures.report.sheets import sheets
from paper_figures.tables import Entry, Table, footnotes

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).resolve().parent
TABLES = ("table1", "table2")
TEASER = ("dense", "radial", "random")
"""The methods of the teaser: the reference, the paper's method and the control."""


def build(source: Experiment, out: Path, front: Path | None = None) -> list[Path]:
    """Builds the report of an experiment.

    The page links to the records, tables and figures in the experiment's folder; nothing of them is copied.

    Args:
        out: folder for ``index.html`` and the clips' sheets.
        front: where a second copy of the page goes, with links to the same files.

    Returns:
        The pages written.

    Raises:
        ValueError: the records are missing or not in order.
    """
    out = Path(out)
    cells = source.cells()
    shutil.rmtree(out / "clips", ignore_errors=True)  # sheets of cells that are no more
    clips = {facts.identifier(cell): sheets(source, cell, out / "clips") for cell in cells}
    content = gather(source, cells, clips)
    pages = [out / "index.html", *([Path(front)] if front else [])]
    for page in pages:
        roots = {
            "root": _relative(source.folder, page.parent),
            "clips_root": _relative(out / "clips", page.parent),
        }
        _write(page, render(content | roots))
    return pages


def _relative(target: Path, start: Path) -> str:
    return Path(os.path.relpath(target.resolve(), start.resolve())).as_posix()


def gather(source: Experiment, cells: list[CellRows], clips: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """All that the template shows, but for where the page lies."""
    groups = facts.by_length(cells)
    return {
        "experiment": cells[0].fact("experiment"),
        "models": list(dict.fromkeys(cell.model for cell in cells)),
        "lengths": list(dict.fromkeys(cell.length for cell in cells)),
        "budgets": list(dict.fromkeys(facts.budget_name(cell) for cell in cells)),
        "methods": {cell.method: cell.fact("title") for cell in cells},
        "markers": {cell.method: charts.marker(cell.method) for cell in cells},
        "overview": overview(cells),
        "answers": [
            {"model": model, "length": length, "setting": _setting(members), **facts.answer(members)}
            for (model, length), members in groups.items()
        ],
        "plots": [
            {"model": model, "length": length, **charts.plot(points(members))}
            for (model, length), members in groups.items()
        ],
        "beaten": facts.beaten(cells),
        "untrained": facts.untrained_note(cells),
        "teaser": teaser(groups),
        "tables": [table_of(source, name) for name in TABLES],
        "figures": figures(source),
        "origins": facts.origins(cells),
        "testbeds": sorted({cell.model for cell in cells if entries.is_testbed(cell.model)}),
        "data": {
            "cells": {
                facts.identifier(cell): facts.told_cell(source, cell) | {"clips": clips[facts.identifier(cell)]}
                for cell in cells
            },
            "reference": "dense",
        },
    }


def _setting(members: list[CellRows]) -> str:
    first = members[0]
    told = {name: first.fact(name) for name in ("frames", "height", "width", "clips", "steps", "dense_steps")}
    return (
        f"{told['frames']} frames of {told['height']}×{told['width']}, {told['clips']} clips, {told['steps']} steps, "
        f"the first {told['dense_steps']} dense"
    )


def overview(cells: list[CellRows]) -> dict[str, Any]:
    """The first screen's table: columns, a row a cell, and ``left_out``, the columns without any number and why.

    Where no cell has any number at all, every column stays, for the statuses in it.
    """
    columns, told = facts.overview_columns(cells), [facts.overview_entries(cell) for cell in cells]
    empty = facts.empty_columns(columns, told)
    left_out = [(column.heading, empty[column.key]) for column in columns if column.key in empty]
    if len(left_out) < len(columns):
        columns = tuple(column for column in columns if column.key not in empty)
    rows = []
    for cell, own in zip(cells, told, strict=True):
        word, reason = facts.status(cell)
        shown = [_entry(column.key, own[column.key]) for column in columns]
        rows.append(_place(cell) | {"label": facts.told_name(cell), "status": word, "reason": reason, "entries": shown})
    return {"columns": columns, "rows": rows, "left_out": left_out}


def _place(cell: CellRows) -> dict[str, str]:
    """What the filters know of a row."""
    return {
        "cell": facts.identifier(cell), "model": cell.model, "length": cell.length, "method": cell.method,
        "budget": facts.budget_name(cell),
    }  # fmt: skip


def _entry(metric: str, entry: Entry, marks: Iterable[str] = ()) -> dict[str, Any]:
    return {
        "metric": metric, "text": entry.text, "value": entry.value, "status": entry.status,
        "reason": entry.reason or " ".join(entry.notes), "marks": list(dict.fromkeys(marks)),
    }  # fmt: skip


def points(members: list[CellRows]) -> list[charts.Point]:
    """The cells of a model and length that have a cost, and a quality or are the reference."""
    found = []
    for cell in members:
        share, psnr = facts.relative(cell), entries.comparison(cell, "psnr")
        if share.value is not None and (psnr.value is not None or psnr.status == "reference"):
            name = facts.told_name(cell)
            found.append(charts.Point(facts.identifier(cell), cell.method, name, share.value, psnr.value, psnr.error))
    return found


def teaser(groups: dict[tuple[str, str], list[CellRows]]) -> list[dict[str, Any]]:
    """For the first model, its shortest and longest length: the teaser's methods with cost and quality in words."""
    model = next(iter(groups))[0]
    own = [(key, members) for key, members in groups.items() if key[0] == model]
    shown = []
    for (_, length), members in dict([own[0], own[-1]]).items():
        cards = []
        for cell in members:
            if cell.method in TEASER and cell.tuning == "untuned":
                told = facts.overview_entries(cell)
                numbers = {key: _entry(key, told[key]) for key in ("relative", "psnr", "adherence", "latency_s")}
                cards.append(_place(cell) | {"label": facts.told_name(cell)} | numbers)
        cards.sort(key=lambda card: TEASER.index(card["method"]))
        shown.append({"model": model, "length": length, "frames": members[0].fact("frames"), "cards": cards})
    return shown


def table_of(source: Experiment, name: str) -> dict[str, Any]:
    """A table of the paper as the template shows it; ``missing`` says why there is none."""
    module = importlib.import_module(f"paper_figures.{name}")
    try:
        table: Table = module.table(source)
    except ValueError as error:
        return {"name": name, "title": f"Table {name.removeprefix('table')}", "missing": str(error)}
    marks = footnotes(table)
    cells = {facts.identifier(cell): cell for cell in source.cells()}
    blocks = []
    for block in table.blocks:
        groups = []
        for group in block.groups:
            told = group.facts
            cell = cells["/".join(str(told[key]) for key in ("model", "length", "method", "tuning"))]
            lines = []
            for line in (group.ours, *group.published):
                shown = [
                    _entry(column.key, found, [marks[note] for note in found.notes])
                    for column in table.columns
                    for found in [line.entries.get(column.key, Entry())]
                ]
                notes = [marks[note] for note in line.notes]
                lines.append({"source": line.source, "ours": line is group.ours, "entries": shown, "marks": notes})
            groups.append(_place(cell) | {"label": group.label, "lines": lines})
        first = {key: groups[0][key] for key in ("model", "length")}
        blocks.append(first | {"heading": block.heading, "groups": groups})
    columns = [{"column": column, "mark": marks.get(column.note, "")} for column in table.columns]
    told = {"name": name, "title": table.title, "columns": columns, "blocks": blocks, "remarks": table.remarks}
    files = [f"tables/{name}.{kind}" for kind in ("csv", "md", "tex")]
    return told | {
        "notes": [(mark, sentence) for sentence, mark in marks.items()],
        "files": [path for path in files if (source.folder / path).is_file()],
    }


def figures(source: Experiment) -> list[dict[str, Any]]:
    """Every figure that there is code for: what it shows, its files if it was drawn, and the command that draws it."""
    from paper_figures.__main__ import targets

    found = []
    for name in targets():
        if not name.startswith("figure"):
            continue
        words = (
            (importlib.import_module(f"paper_figures.{name}").__doc__ or "").strip().splitlines()[0].replace("``", "")
        )
        drawn = all((source.folder / "figures" / f"{name}.{kind}").is_file() for kind in ("png", "pdf"))
        folder = source.folder.as_posix()
        command = f"python -m paper_figures {name} --experiment-folder {folder} --out {folder}/figures"
        found.append({"name": name, "caption": words, "drawn": drawn, "command": command})
    return found


def render(content: dict[str, Any]) -> str:
    """The page as HTML."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    data = content["data"] | {key: content[key] for key in ("root", "clips_root")}
    words = {name: (FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js")}
    return environment.get_template("page.html").render(
        **(content | {"data": _embedded(data)}), css=words["page.css"], js=words["page.js"]
    )


def _embedded(data: dict[str, Any]) -> str:
    """JSON that cannot end the script element that it stands in."""
    text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
