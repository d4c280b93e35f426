"""Table 2: every method beyond the trained length, untuned and tuned, beside the published numbers."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from pathlib import Path

from paper_figures import entries, published, table1
from paper_figures.experiment import CellRows, Experiment
from paper_figures.published import Published
from paper_figures.tables import Column, Entry, Group, Table, write

VBENCH = {
    "subject_consistency": "Subject cons.",
    "aesthetic_quality": "Aesthetic",
    "imaging_quality": "Imaging",
}
FULL = "Full (dense)"
"""The paper's name for dense attention that was tuned."""
SPARSITY_NOTE = (
    "Ours: 100 (1 - density), over all executed pairs. The paper counts whole blocks of 128x128 among video tokens."
)


def columns(cells: list[CellRows]) -> tuple[Column, ...]:
    """The columns: the paper's, then ours."""
    return (
        Column("sparsity_pct", "Sparsity", "%", "", SPARSITY_NOTE, "sparsity_pct"),
        Column("training_h", "Training", "h", "lower", "", "training_h", "training_speedup"),
        Column("latency_s", "Inference", "s", "lower", "", "inference_s", "inference_speedup"),
        Column("vision_reward", "Vision reward", "", "higher", "", "vision_reward"),
        *(Column(key, heading, "", "higher", "", key) for key, heading in VBENCH.items()),
        Column("adherence", "Adherence", "", "higher"),
        Column("psnr", "PSNR", "dB", "higher"),
        Column("ssim", "SSIM", "", "higher"),
        *entries.lpips_columns(cells),
        Column("pflop", "PFLOP", "", "lower"),
    )


def ours(cell: CellRows) -> dict[str, Entry]:
    """Our line of a cell; comparisons are with the untuned dense clip of the same length."""
    return (
        table1.ours(cell)
        | {key: entries.vbench(cell, key) for key in VBENCH}
        | {
            "sparsity_pct": entries.sparsity(cell),
            "training_h": entries.training(cell),
        }
    )


def beside(cell: CellRows, members: list[CellRows], paper: list[Published]) -> list[Published]:
    """The published rows of a cell's length and method.

    Where both tunings of a method were run, each gets the published rows of its own; else the only one gets all.
    """
    rows = entries.beside(cell, [row for row in paper if row.cells["length"] == cell.length])
    alone = sum(other.method == cell.method for other in members) == 1
    return [row for row in rows if alone or row.tuning == cell.tuning]


def _group(cell: CellRows, heads: tuple[Column, ...], members: list[CellRows], paper: list[Published]) -> Group:
    group = entries.group(cell, heads, ours(cell), beside(cell, members, paper))
    return replace(group, label=FULL) if cell.method == "dense" and cell.tuning == "tuned" else group


def table(source: Experiment) -> Table:
    """Table 2 of an experiment: one block a model and length, and dense attention at the trained length first.

    Raises:
        ValueError: no record is of a longer length than the trained one.
    """

    def shown(cell: CellRows) -> bool:
        return cell.length != table1.LENGTH or (cell.method == "dense" and cell.tuning == "untuned")

    cells = [cell for cell in source.cells() if shown(cell)]
    if all(cell.length == table1.LENGTH for cell in cells):
        raise ValueError(f"{source.table}: no record of another length than {table1.LENGTH}; Table 2 needs them")
    heads, paper = columns(cells), published.rows("table2")
    blocks = []
    for _, members in groupby(cells, key=lambda cell: (cell.model, cell.length)):
        members = list(members)
        groups = [_group(cell, heads, members, paper) for cell in members]
        blocks.append(entries.block(members, groups))
    return Table("table2", "Table 2. Longer clips", heads, tuple(blocks), entries.remarks(cells))


def make(source: Experiment, out: Path) -> list[Path]:
    """Writes the table. Returns its files."""
    return write(table(source), out)
