"""Ablation A: radial decay against harmonic decay, at equal budgets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from paper_figures.ablations import COMPARED, MASK, Ablation, make_both

if TYPE_CHECKING:
    from paper_figures.testbed import Testbed

READS = "testbed"
HARMONIC_NOTE = (
    "Harmonic is built here with radial's sink, least window and rounding to blocks, for the paper publishes none of "
    "its own: only the decay differs."
)


def sentences() -> list[str]:
    """What is said below this table alone."""
    return [HARMONIC_NOTE]


ABLATION = Ablation("A", "Radial and harmonic decay", MASK, ("harmonic", "radial"), COMPARED, sentences)


def make(source: Testbed, out: Path) -> list[Path]:
    """Writes the table and the figure. Returns their files."""
    return make_both(ABLATION, source, out)
