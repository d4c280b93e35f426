"""Figure 7: sample frames of every method beyond the trained length."""

from __future__ import annotations

from pathlib import Path

from paper_figures.experiment import CellRows, Experiment
from paper_figures.figure6 import LENGTH as TRAINED
from paper_figures.strips import draw, strip

CLIP = 0
FRAMES = 5


def make(source: Experiment, out: Path) -> list[Path]:
    """Writes the figure: one prompt of the first model, at each longer length. Returns its files.

    Raises:
        ValueError: no record is of a longer length.
    """
    longer = [cell for cell in source.cells() if cell.length != TRAINED]
    if not longer:
        raise ValueError(f"{source.table}: no record of another length than {TRAINED}; Figure 7 needs them")
    lengths: dict[str, list[CellRows]] = {}
    for cell in longer:
        if cell.model == longer[0].model:
            lengths.setdefault(cell.length, []).append(cell)
    return draw([strip(source, cells, CLIP, FRAMES) for cells in lengths.values()], out, "figure7")
