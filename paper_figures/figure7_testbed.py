"""Figure 7 on the trained testbed: sample frames of every method beyond the trained length, untuned and tuned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from paper_figures.experiment import CellRows
from paper_figures.figure6_testbed import make_strips, shown

if TYPE_CHECKING:
    from paper_figures.testbed import Testbed

READS = "testbed"
FOR = "table2"
"""What stands under ``for`` in the configuration."""


def make(source: Testbed, out: Path) -> list[Path]:
    """Writes the figure: one prompt of the first model, a strip a length. Returns its files."""
    groups = shown(source, source.cells(FOR))
    merged: dict[tuple[str, str, str], list[CellRows]] = {}
    for (model, length, _), cells in groups.items():
        if model == next(iter(groups))[0]:
            strip = merged.setdefault((model, length, ""), [])
            strip += [cell for cell in cells if cell not in strip]
    shorter_first = dict(sorted(merged.items(), key=lambda item: item[1][0].fact("frames")))
    return make_strips(source, shorter_first, out, "figure7_testbed")
