"""Table 1: quality, operations and latency of every method at the trained length, beside the published numbers."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from paper_figures import entries, published
from paper_figures.experiment import CellRows, Experiment
from paper_figures.tables import Column, Entry, Table, write

LENGTH = "1x"


def columns(cells: list[CellRows]) -> tuple[Column, ...]:
    """The columns; LPIPS has a second one where only its untrained stand-in could be measured."""
    return (
        Column("psnr", "PSNR", "dB", "higher", "", "psnr"),
        Column("ssim", "SSIM", "", "higher", "", "ssim"),
        *entries.lpips_columns(cells),
        Column("vision_reward", "Vision reward", "", "higher", "", "vision_reward"),
        Column("adherence", "Adherence", "", "higher"),
        Column("density", "Density"),
        Column("pflop", "PFLOP", "", "lower", "", "pflops"),
        Column("latency_s", "Latency", "s", "lower", "", "latency_s", "speedup"),
    )


def ours(cell: CellRows) -> dict[str, Entry]:
    """Our line of a cell."""
    return {metric: entries.comparison(cell, metric) for metric in entries.COMPARISONS} | {
        "vision_reward": entries.measured(cell, "vision_reward", "measure"),
        "adherence": entries.measured(cell, "adherence", "measure"),
        "density": entries.density(cell),
        "pflop": entries.operations(cell),
        "latency_s": entries.latency(cell),
    }


def table(source: Experiment) -> Table:
    """Table 1 of an experiment: one block a model.

    Raises:
        ValueError: no record is of the trained length.
    """
    cells = [cell for cell in source.cells() if cell.length == LENGTH and cell.tuning == "untuned"]
    if not cells:
        raise ValueError(f"{source.table}: no untuned record of length {LENGTH}; Table 1 needs them")
    shown, paper = columns(cells), published.rows("table1")
    blocks = []
    for _, members in groupby(cells, key=lambda cell: cell.model):
        members = list(members)
        groups = [entries.group(cell, shown, ours(cell), entries.beside(cell, paper)) for cell in members]
        blocks.append(entries.block(members, groups))
    return Table("table1", "Table 1. Methods at the trained length", shown, tuple(blocks), entries.remarks(cells))


def make(source: Experiment, out: Path) -> list[Path]:
    """Writes the table. Returns its files."""
    return write(table(source), out)
