"""Figure 6 on the trained testbed: sample frames of every method at the trained length, at two densities."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from paper_figures.experiment import CellRows
from paper_figures.shown_clips import most_shown, pictures
from paper_figures.strips import draw, strip
from paper_figures.style import WIDTH, absent, save, styled

if TYPE_CHECKING:
    from paper_figures.testbed import Testbed

READS = "testbed"
FOR = "table1"
"""What stands under ``for`` in the configuration."""
STRIPS, FRAMES = 2, 5


def shown(source: Testbed, cells: Iterable[CellRows]) -> dict[tuple[str, str, str], list[CellRows]]:
    """Cells by model, length and variant, each group with its reference before it."""
    found: dict[tuple[str, str, str], list[CellRows]] = {}
    for cell in cells:
        group = found.setdefault((cell.model, cell.length, cell.variant), [])
        reference = source.reference(cell)
        if not group and reference is not None:
            group.append(reference)
        group.append(cell)
    return found


def make_strips(
    source: Testbed, groups: dict[tuple[str, str, str], list[CellRows]], out: Path, name: str
) -> list[Path]:
    """Writes a figure of strips, one a group. Returns its files; without a group it says that nothing is measured."""
    if not groups:
        with styled():
            figure = Figure(figsize=(WIDTH, 0.6))
            absent(figure.add_axes((0, 0, 1, 1), frameon=False))
            return save(figure, out, name)
    clip = most_shown(source.experiment, chain.from_iterable(groups.values()))
    strips = [
        strip(source.experiment, cells, clip, FRAMES, pictures, source.label(variant))
        for (_, _, variant), cells in groups.items()
    ]
    return draw(strips, out, name)


def at_densities(groups: dict[tuple[str, str, str], list[CellRows]]) -> dict[tuple[str, str, str], list[CellRows]]:
    """Of the first model and seed, the first variant of each density, at most ``STRIPS``."""
    first: dict[float | None, tuple[str, str, str]] = {}
    for key, cells in groups.items():
        if key[0] == next(iter(groups))[0] and cells[0].fact("seed") == next(iter(groups.values()))[0].fact("seed"):
            # Some methods have no budget, such as dense_repeated.
            budgets = (cell.fact("budget") for cell in cells)
            first.setdefault(next((budget for budget in budgets if budget is not None), None), key)
    return {key: groups[key] for key in [*first.values()][:STRIPS]}


def make(source: Testbed, out: Path) -> list[Path]:
    """Writes the figure: one prompt of the first model, in the first variants of different densities of one seed."""
    return make_strips(source, at_densities(shown(source, source.cells(FOR))), out, "figure6_testbed")
