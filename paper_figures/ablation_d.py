"""Ablation D: how many of the first layers attend densely in tuning, at four times the length."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from paper_figures.ablations import DENSE_LAYERS, JUDGED, Ablation, make_both, printed_otherwise

if TYPE_CHECKING:
    from paper_figures.testbed import Testbed

READS = "testbed"
TUNING_NOTE = (
    "Pairs in tuning are the share of query-key pairs that a tuning step executes over all layers. The paper's rows "
    "take equal operations; ours do where these shares are equal."
)


def sentences() -> list[str]:
    """What is said below this table alone."""
    return [TUNING_NOTE, *printed_otherwise(ABLATION)]


ABLATION = Ablation("D", "Dense layers in tuning", DENSE_LAYERS, ("radial",), JUDGED, sentences)


def make(source: Testbed, out: Path) -> list[Path]:
    """Writes the table and the figure. Returns their files."""
    return make_both(ABLATION, source, out)
