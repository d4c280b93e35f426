"""What the Radial Attention paper prints: the cells of its tables, and notes where it contradicts itself."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "published"
TABLES = ("table1", "table2", "ablations", "figure2", "figure_f")


@dataclass(frozen=True)
class Published:
    """One printed row.

    Args:
        table: the file it is from.
        cells: every cell as printed, by column; empty where the paper prints nothing.
        notes: sentences about single cells, by column.
    """

    table: str
    cells: Mapping[str, str]
    notes: Mapping[str, str]

    @property
    def model(self) -> str:
        """The model's name in the paper."""
        return self.cells["model"]

    @property
    def frames(self) -> int:
        """Frames of the clips."""
        return int(self.cells["frames"])

    @property
    def method(self) -> str:
        """The method, by its name here."""
        return self.cells["method"]

    @property
    def tuning(self) -> str:
        """``tuned`` or ``untuned``; Table 1 is all untuned."""
        return "tuned" if self.cells.get("tuned") == "yes" else "untuned"

    def text(self, column: str) -> str:
        """A cell as printed; empty where there is none, or no such column."""
        return self.cells.get(column, "")

    def number(self, column: str) -> float | None:
        """A cell as a number; None where there is none."""
        text = self.text(column)
        return float(text) if text else None


def rows(table: str) -> list[Published]:
    """The rows of a published table, in the paper's order.

    Args:
        table: one of ``TABLES``.

    Raises:
        ValueError: there is no such table.
    """
    if table not in TABLES:
        raise ValueError(f"published table {table!r}: one of {', '.join(TABLES)} is needed")
    notes = [note for note in _read("notes") if note["table"] == table]
    return [Published(table, cells, _notes_of(cells, notes)) for cells in _read(table)]


def _notes_of(cells: Mapping[str, str], notes: list[dict[str, str]]) -> dict[str, str]:
    keys = ("model", "frames", "method", "tuned")
    return {
        note["column"]: note["note"] for note in notes if all(note[key] in ("", cells.get(key, "")) for key in keys)
    }


def _read(name: str) -> list[dict[str, str]]:
    with open(FOLDER / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))
