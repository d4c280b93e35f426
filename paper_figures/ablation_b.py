"""Ablation B: how many of the first steps are dense, with the operations of a generation held equal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from paper_figures import published
from paper_figures.ablations import COMPARED, DENSE_STEPS, Ablation, choice, make_both, paper, paper_place

if TYPE_CHECKING:
    from paper_figures.testbed import Testbed

READS = "testbed"


def sentences() -> list[str]:
    """What is said below this table alone, and where the paper's Table 1 prints other numbers for the row it chose."""
    said = ["Rows stand beside the paper's of the same share of dense steps, for its models take 50 steps."]
    chosen = next(row for row in paper(ABLATION) if paper_place(ABLATION, row) == choice(ABLATION))
    names = ("psnr", "ssim", "lpips")
    for row in published.rows("table1"):
        same = (row.model, row.frames, row.method) == (chosen.model, chosen.frames, "radial")
        if same and any(row.text(name) != chosen.text(name) for name in names):
            told, other = (" / ".join(one.text(name) for name in names) for one in (chosen, row))
            said.append(
                f"For {chosen.cells['value']} dense steps the paper prints {told} here, {other} in its Table 1."
            )
    return said


ABLATION = Ablation(
    "B", "Dense steps at the trained length", DENSE_STEPS, ("radial",), COMPARED, sentences, by_share=True
)


def make(source: Testbed, out: Path) -> list[Path]:
    """Writes the table and the figure. Returns their files."""
    return make_both(ABLATION, source, out)
