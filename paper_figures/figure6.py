"""Figure 6: sample frames of every method at the trained length."""

from __future__ import annotations

from pathlib import Path

from paper_figures.experiment import Experiment
from paper_figures.strips import draw, strip

LENGTH = "1x"
CLIPS = (0, 1)
FRAMES = 5


def make(source: Experiment, out: Path) -> list[Path]:
    """Writes the figure: two prompts of the first model, or the only one. Returns its files.

    Raises:
        ValueError: no record is of the trained length.
    """
    cells = [cell for cell in source.cells() if cell.length == LENGTH]
    if not cells:
        raise ValueError(f"{source.table}: no record of length {LENGTH}; Figure 6 needs them")
    cells = [cell for cell in cells if cell.model == cells[0].model]
    clips = [clip for clip in CLIPS if clip < cells[0].fact("clips")]
    return draw([strip(source, cells, clip, FRAMES) for clip in clips], out, "figure6")
