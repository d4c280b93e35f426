"""The results of one experiment, as tables and figures read them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmark.records import read_record


@dataclass(frozen=True)
class Experiment:
    """A folder of results.

    Args:
        folder: ``results/<experiment>``.
        table: the tidy table of its records, from ``collect``; ``folder/records.parquet`` unless another is given.
    """

    folder: Path
    table: Path

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The tidy rows, as ``benchmark.collect`` sorted them.

        Raises:
            ValueError: the table is missing, damaged, or lacks columns.
        """
        import pyarrow
        import pyarrow.parquet

        from benchmark.collect import COLUMNS

        try:
            rows = pyarrow.parquet.read_table(self.table).to_pylist()
        except FileNotFoundError:
            raise ValueError(f"{self.table}: the table of records is missing; 'collect' writes it") from None
        except pyarrow.ArrowInvalid as error:
            raise ValueError(f"{self.table}: no Parquet table ({str(error).splitlines()[0]})") from None
        if not rows:
            raise ValueError(f"{self.table}: it has no rows; 'collect' writes at least one")
        lacking = [name for name in COLUMNS if name not in rows[0]]
        if lacking:
            raise ValueError(f"{self.table}: column {lacking[0]} is missing; collect the records anew")
        return rows

    def cells(self) -> list[CellRows]:
        """The cells that have records, in the order of the rows."""
        grouped: dict[tuple, list[dict[str, Any]]] = {}
        for row in self.rows:
            key = (row["model"], row["length"], row["method"], row["tuning"], row["variant"] or "")
            grouped.setdefault(key, []).append(row)
        return [CellRows(*key[:4], rows, key[4]) for key, rows in grouped.items()]

    def file(self, *parts: str) -> Path:
        """A file of the experiment.

        Raises:
            ValueError: it is missing.
        """
        path = self.folder.joinpath(*parts)
        if not path.is_file():
            raise ValueError(f"{path}: the file is missing; run the experiment first")
        return path

    def record(self, cell: CellRows, kind: str) -> dict[str, Any]:
        """A record of a cell in full, with what each clip measured.

        Raises:
            ValueError: it is missing.
        """
        return read_record(self.folder.joinpath("records", *cell.path, f"{kind}.json"))


@dataclass(frozen=True)
class CellRows:
    """The tidy rows of one cell; ``variant`` is empty where its experiment has none."""

    model: str
    length: str
    method: str
    tuning: str
    rows: list[dict[str, Any]]
    variant: str = ""

    @property
    def path(self) -> tuple[str, str, str, str]:
        """The cell's folder below ``records`` and ``clips``."""
        return self.model, self.length, self.method, self.variant or self.tuning

    def fact(self, name: str) -> Any:
        """What is the same in all rows of the cell: title, frames, budget, ..."""
        return self.rows[0][name]

    def find(self, metric: str) -> dict[str, Any] | None:
        """The row of a metric, passed or not; None where nobody measured it."""
        return next((row for row in self.rows if row["metric"] == metric), None)

    def failed(self, kind: str) -> dict[str, Any] | None:
        """The row that stands for a whole record without numbers; None where it passed or is not there."""
        from benchmark.collect import WHOLE_RECORD

        return next((row for row in self.rows if row["kind"] == kind and row["metric"] == WHOLE_RECORD), None)
