"""The quality experiments on a trained testbed, as tables and figures read them: cells by what they are for.

Which cells belong to a table is said by the configuration (``for`` of each variant); what they measured by the records.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmark.cell import REFERENCE
from benchmark.config import outline, variants_for
from paper_figures.experiment import CellRows, Experiment

logger = logging.getLogger(__name__)

CONFIG = Path(__file__).resolve().parent.parent / "config" / "testbed.yaml"


@dataclass(frozen=True)
class Testbed:
    """The records of an experiment with variants.

    Args:
        experiment: ``results/<experiment>``, or the committed ``results/reference/<experiment>``, whose table need not
            be there: nothing is measured then.
        config: the configuration that names the variants, such as ``load`` reads it.
    """

    experiment: Experiment
    config: Mapping[str, Any]

    @cached_property
    def _cells(self) -> list[CellRows]:
        if not self.experiment.table.exists():
            logger.info("%s: no such table; nothing is measured yet", self.experiment.table)
            return []
        return self.experiment.cells()

    def cells(self, purpose: str) -> list[CellRows]:
        """The cells of all variants that are for a table or figure, in the configuration's order.

        Within a variant: models, then lengths, then methods, in the order of tables. The references are none of them.

        Args:
            purpose: what stands under ``for``, such as ``table1``.

        Raises:
            ValueError: no table or figure is named so, or the table of records is damaged.
        """
        return [cell for name in variants_for(self.config, purpose) for cell in self.variant(name)]

    def variant(self, name: str) -> list[CellRows]:
        """The measured cells of a variant; empty where there are none."""
        return [cell for cell in self._cells if cell.variant == name]

    def find(self, variant: str, method: str, length: str, model: str | None = None) -> CellRows | None:
        """A cell of a variant, of the first model with one where none is named; None where there is none."""
        for cell in self.variant(variant):
            if (cell.method, cell.length) == (method, length) and model in (None, cell.model):
                return cell
        return None

    def references(self) -> list[CellRows]:
        """The untuned dense cells of the experiment's own seed, by model and length."""
        return [cell for cell in self._cells if _is_reference(cell) and not cell.variant]

    def reference(self, cell: CellRows) -> CellRows | None:
        """The untuned dense cell that a cell's clips are compared with: of its model, length and seed."""
        for other in self._cells:
            same = (other.model, other.length, other.fact("seed")) == (cell.model, cell.length, cell.fact("seed"))
            if same and _is_reference(other):
                return other
        return None

    def label(self, variant: str) -> str:
        """What tables call a variant: its label, or else its name."""
        return self.config["variants"].get(variant, {}).get("label", variant)


def _is_reference(cell: CellRows) -> bool:
    return cell.method == REFERENCE and cell.tuning == "untuned"


def load(folder: Path, table: Path | None = None, config: Path = CONFIG) -> Testbed:
    """The records in a folder.

    Args:
        folder: ``results/<experiment>`` or ``results/reference/<experiment>``; nothing need be there.
        table: the tidy table of its records; ``folder/records.parquet`` unless another is given.
        config: the experiment's configuration; methods that it names need not be there any more.

    Raises:
        ValueError: the configuration is missing, not in order, or has no variants.
    """
    held = outline(config)
    if "variants" not in held:
        raise ValueError(f"{config}: variants: the key is missing; a testbed's tables are made of variants")
    return Testbed(Experiment(folder, table or folder / "records.parquet"), held)
