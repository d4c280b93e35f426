"""Ablation C: how many of the first steps are dense at four times the length, with operations held equal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from paper_figures.ablations import DENSE_STEPS, JUDGED, Ablation, make_both, printed_otherwise

if TYPE_CHECKING:
    from paper_figures.testbed import Testbed

READS = "testbed"


def sentences() -> list[str]:
    """What is said below this table alone."""
    first = "Rows stand beside the paper's of the same number of dense steps, of 50 there."
    return [first, *printed_otherwise(ABLATION)]


ABLATION = Ablation("C", "Dense steps at four times the length", DENSE_STEPS, ("radial",), JUDGED, sentences)


def make(source: Testbed, out: Path) -> list[Path]:
    """Writes the table and the figure. Returns their files."""
    return make_both(ABLATION, source, out)
