"""What the paper prints, as the page shows it below our numbers, each with the place that it is from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from paper_figures import entries, published
from paper_figures.experiment import CellRows
from paper_figures.tables import Column, Entry, Line

PAPER = "Radial Attention: O(n log n) Sparse Attention with Energy Decay for Long Video Generation, arXiv 2506.19852 v2"


@dataclass
class Printed:
    """The printed rows that a page shows, each once, for the dialogs of published numbers."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def number(self, row: published.Published, place: int) -> int:
        """A printed row's number on the page.

        Args:
            place: the row's place in its table, from 0.
        """
        told = {
            "table": f"Table {row.table.removeprefix('table')}",
            "file": f"paper_figures/published/{row.table}.csv",
            "line": place + 2,  # the first line has the columns' names
            "model": row.model,
            "frames": row.frames,
            "tuned": row.tuning == "tuned",
            "cells": dict(row.cells),
            "notes": dict(row.notes),
        }
        if told not in self.rows:
            self.rows.append(told)
        return self.rows.index(told)


def marked(notes: Iterable[str], marks: Mapping[str, str]) -> list[str]:
    """The marks of sentences, each once."""
    return list(dict.fromkeys(marks[note] for note in notes))


def line(
    table: str, cell: CellRows, told: Line, columns: Iterable[Column], marks: Mapping[str, str], printed: Printed
) -> dict[str, Any]:
    """One printed row beside a cell.

    Returns:
        ``row``, its number in ``printed``; ``model``, ``frames``, ``tuned`` and ``other``, whether the model is
        another than the cell's; ``marks`` of its notes; ``entries``, a column each: ``text`` (empty where the paper
        prints nothing), ``columns`` (the paper's that are meant) and ``marks``.
    """
    row, place = _row(table, cell, told)
    shown = []
    for column in columns:
        found = told.entries.get(column.key, Entry())
        names = [name for name in (column.published, column.published_ratio) if name and row.text(name)]
        shown.append({"text": found.text, "columns": " ".join(names), "marks": marked(found.notes, marks)})
    return {
        "row": printed.number(row, place), "model": row.model, "frames": row.frames, "tuned": row.tuning == "tuned",
        "other": row.model != entries.paper_name(cell.model), "marks": [marks[note] for note in told.notes],
        "entries": shown,
    }  # fmt: skip


def _row(table: str, cell: CellRows, told: Line) -> tuple[published.Published, int]:
    """The printed row that a line was made of, and its place in its table.

    Raises:
        ValueError: no printed row is of the line's method, length, model and tuning.
    """
    for place, row in enumerate(published.rows(table)):
        tag = row.model.replace(" ", "-") + ("_tuned" if row.tuning == "tuned" else "")
        if row.method == cell.method and tag == told.tag and row.cells.get("length", cell.length) == cell.length:
            return row, place
    raise ValueError(f"{table}: no published row of {cell.method} at {cell.length} is tagged {told.tag}")
