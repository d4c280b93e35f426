"""A cell of the speed experiment: one model at one shape under one method at one setting."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class SpeedCell:
    """Everything that decides what is timed.

    Args:
        experiment: name of the configuration; results go to ``results/<experiment>``.
        model: name of the model, as in ``benchmark/models``.
        shape: name of the shape: table1, or a length such as 4x.
        frames, height, width: the clip in frames and pixels.
        method: name of the method; empty in records about a whole stage.
        setting: ``paper`` (the density of the published row, or the method's own where none can be set) or ``authors``
            (the knobs that the method's authors published).
        knobs: the method's knobs, solved for the budget.
        mixture: settings that are mixed over heads and layers: ``{"knobs": ..., "share": ...}`` each, shares adding up
            to 1; empty where one setting serves all. Times are means weighted by share.
        budget: density that was asked for; None keeps the knobs.
        block: tokens a block.
        kernel: attention kernel, or auto.
        steps, dense_steps, dense_layers: the schedule.
        passes: forward passes a step.
        text_tokens: text tokens of the prompt, none of them padding.
        trial: arguments of the transformer that were changed for a trial, and ``device`` where it is no GPU; such a
            record never enters a table.
        rank: rank of the adapter, in records of what its modules take part in (a tuning step whole, and outside
            attention); None in all others, which then do not write it.
    """

    experiment: str
    model: str
    shape: str
    frames: int
    height: int
    width: int
    method: str = ""
    setting: str = ""
    knobs: dict[str, Any] = field(default_factory=dict)
    mixture: tuple[dict[str, Any], ...] = ()
    budget: float | None = None
    block: int = 128
    kernel: str = "auto"
    steps: int = 50
    dense_steps: int = 0
    dense_layers: int = 0
    passes: int = 1
    text_tokens: int = 256
    trial: dict[str, Any] = field(default_factory=dict)
    rank: int | None = None

    @property
    def path(self) -> Path:
        """The cell's folder below ``records``; the stage's where the cell has no method."""
        stage = Path(self.model) / self.shape
        return stage / self.method / self.setting if self.method else stage

    @property
    def stage(self) -> str:
        """The stage that the cell is measured in: model/shape."""
        return f"{self.model}/{self.shape}"

    def of_stage(self) -> SpeedCell:
        """The cell without its method: what records about the whole stage are about."""
        nothing = {"method": "", "setting": "", "knobs": {}, "mixture": (), "budget": None}
        return replace(self, **nothing)

    def settings(self) -> dict[str, Any]:
        """Every field, as it is written into records; ``rank`` only where there is one."""
        left_out = ("rank",) if self.rank is None else ()
        found = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in left_out}
        return found | {"mixture": list(self.mixture)}

    def canonical(self) -> str:
        """The cell as one line of JSON, for comparisons."""
        return json.dumps(self.settings(), sort_keys=True)


def from_settings(settings: Mapping[str, Any]) -> SpeedCell:
    """The cell of ``SpeedCell.settings``, or of a record's ``cell``."""
    return SpeedCell(**{**settings, "mixture": tuple(settings["mixture"])})
