"""Figure 7 on the trained testbed: sample frames of every method beyond the trained length, untuned and tuned."""

from __future__ import annotations

from collections.abc import Mapping
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
    return make_strips(source, by_length(shown(source, source.cells(FOR))), out, "figure7_testbed")


def by_length(groups: Mapping[tuple[str, str, str], list[CellRows]]) -> dict[tuple[str, str, str], list[CellRows]]:
    """Of the first model, all variants of a length as one strip, shorter clips first.

    The first seed of a length stands for it, and of a method's cells that are tuned, or untuned, the first: another
    seed has other prompts, and a strip's rows do not say at which density they were drawn.
    """
    merged: dict[tuple[str, str, str], list[CellRows]] = {}
    for (model, length, _), cells in groups.items():
        if model != next(iter(groups))[0]:
            continue
        strip = merged.setdefault((model, length, ""), [])
        for cell in cells:
            same = [other for other in strip if (other.method, other.tuning) == (cell.method, cell.tuning)]
            if not same and (not strip or cell.fact("seed") == strip[0].fact("seed")):
                strip.append(cell)
    return dict(sorted(merged.items(), key=lambda item: item[1][0].fact("frames")))
