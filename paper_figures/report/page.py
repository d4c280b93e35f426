"""Puts the page together: records, tables, figures and clips into one HTML file that needs nothing beside it."""

from __future__ import annotations

import importlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paper_figures import entries
from paper_figures.experiment import CellRows, Experiment
from paper_figures.report import charts, facts, held, papers, quality
from paper_figures.report import speed as speeds
from paper_figures.report.sheets import clips_of, place, rounded, sheet_of
from paper_figures.speed import Speed
from paper_figures.tables import Entry, Table, footnotes
from paper_figures.testbed import CONFIG as TESTBED_CONFIG
from paper_figures.testbed import Testbed

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).resolve().parent
TABLES = ("table1", "table2")
TEASER = ("dense", "radial", "random")
"""The methods of the teaser: the reference, the paper's method and the control."""


LARGEST = 20_000_000
"""Bytes that the page may have with its clips inside; of a larger one they lie in files beside it."""

ROUNDINGS = (1, 3, 5)
"""What colours of clips inside the page are multiples of: the first with which it is small enough."""

FILES = (
    *(f"tables/{name}.{kind}" for name in TABLES for kind in ("csv", "md", "tex")),
    *(f"tables/{name}.csv" for name in quality.TABLES),
    "records.csv",
)
"""Files of the experiment that the page offers to save."""


def build(
    source: Experiment,
    out: Path,
    front: Path | None = None,
    largest: int = LARGEST,
    speed: Speed | None = None,
    testbed: Testbed | None = None,
    testbed_config: Path = TESTBED_CONFIG,
) -> list[Path]:
    """Builds the report of an experiment.

    Records, tables, figures and clips are inside the page. Where it would be too large with them, the clips' colours
    are rounded, and where that is not enough their sheets are files in ``out/clips``; the page says so. Links to what
    is left (PDFs, the clips' own files) lead to the experiment's folder.

    Args:
        out: folder for ``index.html``.
        front: where a second copy of the page goes, with links to the same files.
        largest: bytes that the page may have with its clips inside.
        speed: records of speed; without, the page has no such part.
        testbed: records of the trained testbed; without, the page has no such part.
        testbed_config: the file that names their variants.

    Returns:
        The pages written.

    Raises:
        ValueError: the records are missing or not in order.
    """
    out = Path(out)
    cells = source.cells()
    clips = {facts.identifier(cell): clips_of(source, cell) for cell in cells}
    files = held.files_of(source, [*FILES, *(f"figures/{name}.png" for name in figure_names())])
    told = {name: [clip for clip, _ in own] for name, own in clips.items()}
    printed = papers.Printed()
    timed = None if speed is None else speeds.gather(speed, source, printed)
    if timed is not None:
        files[speeds.TEXTS] = held.hold(speeds.TEXTS, timed.file())
    trained = None if testbed is None else quality.gather(testbed, testbed_config, source, printed)
    if trained is not None:
        files |= trained.files | {quality.TEXTS: held.hold(quality.TEXTS, trained.file())}
    content = gather(source, cells, told, files, printed, timed, speed, trained)
    pages = [out / "index.html", *([Path(front)] if front else [])]
    shutil.rmtree(out / "clips", ignore_errors=True)  # sheets of an earlier page
    bare = max(
        len(render(content | {"rounding": 1}, page.parent, source.folder, out, files).encode()) for page in pages
    )
    for step in ROUNDINGS:
        sheets = _sheets_inside(clips, step, largest - bare)
        if sheets is None:
            logger.info("with the clips inside, in colours rounded to %d, the page would be too large", step)
            continue
        shown = content | {"rounding": step}
        texts = [render(shown, page.parent, source.folder, out / "clips", files | sheets) for page in pages]
        size = max(len(text.encode()) for text in texts)
        if size <= largest:
            break
        logger.info("with the clips inside, in colours rounded to %d, the page would have %d bytes", step, size)
    else:
        logger.info("the clips go to %s, for the page may have %d bytes", out / "clips", largest)
        _sheets_beside(clips, out / "clips")
        shown = content | {"rounding": 1}
        texts = [render(shown, page.parent, source.folder, out / "clips", files) for page in pages]
    for page, text in zip(pages, texts, strict=True):
        _write(page, text)
    return pages


def _sheets_inside(clips: Mapping[str, list], step: int, room: int) -> dict[str, held.Held] | None:
    """The clips' sheets, by the clip's place, in colours that are multiples of ``step``.

    What is told of each clip gets ``sum``, that of the bytes of its frames modulo 2^32, which the page looks at.

    Args:
        room: bytes that they may have in the page. Where every fifth of them says that all will have a tenth more, the
            others are not made.

    Returns:
        None where they will not have room.
    """
    inside = [(name, *clip) for name, own in clips.items() for clip in own if clip[1] is not None]

    def sheet(name: str, told: dict[str, Any], frames: np.ndarray) -> tuple[str, held.Held]:
        shown = rounded(frames, step)
        told["sum"] = int(shown.sum(dtype="uint64") % 2**32)
        return f"{name}/{told['name']}", held.hold("sheet.webp", sheet_of(shown, summed=True))

    with ThreadPoolExecutor(held.THREADS) as threads:
        some = dict(threads.map(sheet, *zip(*inside[::5], strict=True))) if inside else {}
        expected = sum(len(one.text) for one in some.values()) * len(inside) / max(len(some), 1)
        if expected > 1.1 * room:
            return None
        return dict(threads.map(sheet, *zip(*inside, strict=True))) if inside else {}


def _sheets_beside(clips: Mapping[str, list], folder: Path) -> None:
    for name, own in clips.items():
        for told, frames in own:
            if frames is not None:
                path = folder / place(name, told["name"])
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(sheet_of(frames, summed=False))


def gather(
    source: Experiment,
    cells: list[CellRows],
    clips: Mapping[str, list[dict[str, Any]]],
    files: Mapping[str, held.Held],
    printed: papers.Printed,
    timed: speeds.Gathered | None = None,
    speed: Speed | None = None,
    trained: quality.Gathered | None = None,
) -> dict[str, Any]:
    """All that the template shows, but for where the page and the clips' sheets lie."""
    varied = any(cell.variant for cell in cells)
    alike = [] if varied else cells  # cells in one setting, which may be held against each other
    groups = facts.by_length(alike)
    controls = facts.controls(alike)
    timed_methods = {cell.method for cells in speed.stages.values() for cell in cells} if speed else ()
    drawn = figures(source, files, speed, trained)
    known = [*(cell.method for cell in cells), *sorted(timed_methods)]
    known += [] if trained is None else [group["method"] for group in trained.groups() if group["method"]]
    floors = {(one["model"], one["length"]): one["floor"]["psnr"] for one in controls}
    return {
        "experiment": cells[0].fact("experiment"),
        "models": list(dict.fromkeys(cell.model for cell in cells)),
        "lengths": list(dict.fromkeys(cell.length for cell in cells)),
        "budgets": list(dict.fromkeys(facts.budget_name(cell) for cell in cells)),
        "methods": {cell.method: cell.fact("title") for cell in cells},
        "markers": {name: charts.marker(name) for name in dict.fromkeys(known)},
        "overview": overview(cells),
        "answers": [
            {"model": model, "length": length, "setting": _setting(members), **facts.answer(members)}
            for (model, length), members in groups.items()
        ],
        "plots": [
            {"model": model, "length": length, "floor_psnr": floors.get((model, length))} | charts.plot(points(members))
            for (model, length), members in groups.items()
        ],
        "beaten": facts.beaten(alike),
        "controls": controls,
        "amiss": facts.amiss(controls),
        "untrained": facts.untrained_note(cells),
        "teaser": teaser(groups) if groups else [],
        "varied": varied,
        "tables": [] if varied else [table_of(source, name, printed, files) for name in TABLES],
        "speed": _speed(timed),
        "quality": trained,
        "quality_figures": [figure for figure in drawn if figure["of_testbed"] and figure["drawn"]],
        "figures": [figure for figure in drawn if not figure["of_testbed"]],
        "origins": facts.origins(cells),
        "testbeds": sorted({cell.model for cell in cells if entries.is_testbed(cell.model)}),
        "data": {
            "cells": {
                facts.identifier(cell): facts.told_cell(source, cell) | {"clips": clips[facts.identifier(cell)]}
                for cell in cells
            },
            "reference": "dense",
            "published": printed.rows,
            "paper": papers.PAPER,
            "experiment": source.folder.as_posix(),
        },
    }


def _speed(timed: speeds.Gathered | None) -> dict[str, Any]:
    """The speed tables, and the models and shapes that they can be narrowed to."""
    sections = [] if timed is None else timed.sections
    blocks = [block for section in sections for block in section["blocks"]]
    return {
        "sections": sections,
        "models": {block["model"]: entries.paper_name(block["model"]) for block in blocks if block["model"]},
        "shapes": list(dict.fromkeys(block["shape"] for block in blocks if block["shape"])),
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
        if cell.method == facts.REPEATED:  # far above all others: it would leave them no room
            continue
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


def table_of(source: Experiment, name: str, printed: papers.Printed, files: Mapping[str, held.Held]) -> dict[str, Any]:
    """A table of the paper as the template shows it; ``missing`` says why there is none.

    Each cell has our entry and below it what the paper prints in each of its rows for the same method.
    """
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
            lines = [papers.line(name, cell, line, table.columns, marks, printed) for line in group.published]
            shown = []
            for n, column in enumerate(table.columns):
                found = group.ours.entries.get(column.key, Entry())
                own = _entry(column.key, found, [marks[note] for note in found.notes])
                shown.append(own | {"published": [line["entries"][n] for line in lines] if column.published else []})
            label = facts.tuned_name(group.label, cell)
            groups.append(_place(cell) | {"label": label, "lines": lines, "entries": shown})
        first = {key: groups[0][key] for key in ("model", "length")}
        blocks.append(first | {"heading": block.heading, "groups": groups})
    columns = [{"column": column, "mark": marks.get(column.note, "")} for column in table.columns]
    told = {"name": name, "title": table.title, "columns": columns, "blocks": blocks, "remarks": table.remarks}
    return told | {
        "notes": [(mark, sentence) for sentence, mark in marks.items()],
        "files": [path for path in FILES if path.startswith(f"tables/{name}.") and path in files],
        "command": _command(source, name, "tables"),
    }


def _command(source: Experiment, name: str, folder: str, speed: Speed | None = None) -> str:
    from paper_figures.__main__ import EXPERIMENT, reads

    place = source.folder.as_posix()
    timed = f" --speed-folder {speed.folder.as_posix()}" if speed and reads(name) != EXPERIMENT else ""
    return f"python -m paper_figures {name} --experiment-folder {place}{timed} --out {place}/{folder}"


def figure_names() -> list[str]:
    """Every figure that there is code for."""
    from paper_figures.__main__ import targets

    return [name for name in targets() if not name.startswith("table")]


def figures(
    source: Experiment,
    files: Mapping[str, held.Held],
    speed: Speed | None = None,
    trained: quality.Gathered | None = None,
) -> list[dict[str, Any]]:
    """Every figure that there is code for: what it shows, its files if it was drawn, and the command that draws it."""
    from paper_figures.__main__ import TESTBED, reads

    found = []
    for name in figure_names():
        words = (importlib.import_module(f"paper_figures.{name}").__doc__ or "").strip().splitlines()[0]
        width, height = _size(source.folder / "figures" / f"{name}.png")
        of_testbed, command = reads(name) == TESTBED, _command(source, name, "figures", speed)
        found.append({
            "name": name,
            "width": width,
            "height": height,
            "caption": words.replace("``", ""),
            "drawn": f"figures/{name}.png" in files,
            "pdf": (source.folder / "figures" / f"{name}.pdf").is_file(),
            "of_testbed": of_testbed,
            "command": trained.command(name, "figures") if of_testbed and trained else command,
        })  # fmt: skip
    return found


def _size(picture: Path) -> tuple[int, int]:
    """Width and height in pixels; zeros where there is no such file."""
    from PIL import Image

    if not picture.is_file():
        return 0, 0
    with Image.open(picture) as opened:
        return opened.size


def render(
    content: Mapping[str, Any], page: Path, experiment: Path, sheets: Path, files: Mapping[str, held.Held]
) -> str:
    """The page as HTML.

    Args:
        content: from ``gather``.
        page: the folder that the page lies in.
        experiment: the experiment's folder.
        sheets: the folder of the clips' sheets, for clips that are not inside the page.
        files: what is inside the page, by place.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    root = held.relative(experiment, page)
    inside = {path: {"id": file.key, "name": file.name, "type": file.type, "gzipped": file.gzipped}
              for path, file in files.items()}  # fmt: skip
    data = content["data"] | {
        "root": root,
        "files": inside,
        "alphabet": held.ALPHABET,
        "clips_root": held.relative(sheets, page),
    }
    told = [told for cell in data["cells"].values() for told in cell["clips"] if "missing" not in told]
    beside = bool(told) and not any(f"{name}/{clip['name']}" in files
                                    for name, cell in data["cells"].items() for clip in cell["clips"])  # fmt: skip
    words = {name: (FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js")}
    settings = {
        "data": _embedded(data),
        "root": root,
        "beside": beside,
        "held": held.elements(files),
        "held_paths": inside,
    }
    return environment.get_template("page.html").render(
        **(content | settings), css=words["page.css"], js=words["page.js"]
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
