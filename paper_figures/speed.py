"""Records of speed, as tables and figures read them, and what is worked out from their numbers.

Latency and tuning records lie below ``FOLDER/records/<model>/<shape>/<method>/<setting>``. Which cells there are is
said by the configuration that they were measured under, so that a cell without a record is shown as one.
"""

from __future__ import annotations

import functools
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmark.packed import file_of, unpacked_names
from benchmark.records import read_record
from benchmark.speed.cells import SpeedCell, from_settings

logger = logging.getLogger(__name__)

CONFIG = Path(__file__).resolve().parent.parent / "config" / "h100.yaml"
LATENCY, TRAINING, KERNELS, WHOLE_RUN, AUDIT = "latency", "training", "kernels", "whole_run", "audit"
OUTSIDE, ROUNDING, TRAINING_OUTSIDE = "outside", "rounding", "lora_outside"
TOLERANCE = 0.08
"""A number is reproduced where it differs from the published one by at most so much of that."""
PLAN = "plan"
"""Holds solved knobs; it is no record."""
DENSE, RADIAL = "dense", "radial"

Record = Mapping[str, Any]


def ratio(measured: float, published: float) -> float:
    """The measured number over the published one.

    Raises:
        ValueError: one of them is not above 0.
    """
    if not (measured > 0 and published > 0):
        raise ValueError(f"ratio of {measured} to {published}: both must be above 0")
    return measured / published


def verdict(measured: float, published: float) -> str:
    """``reproduced`` within 8 % of the published number, else ``higher`` or ``lower``.

    Raises:
        ValueError: one of them is not above 0.
    """
    found = ratio(measured, published)
    if abs(found - 1) <= TOLERANCE + 1e-9:
        return "reproduced"
    return "higher" if found > 1 else "lower"


def amdahl(
    outside: float,
    attention: float,
    density: float,
    *,
    steps: int = 1,
    dense_steps: int = 0,
    layers: int = 1,
    dense_layers: int = 0,
) -> float:
    """The speed-up that Amdahl's law predicts where attention takes its density's share of its dense time, no more.

    Args:
        outside, attention: seconds of a dense step outside attention and in it.
        density: share of query-key pairs that are executed in sparse steps and layers.
        steps, dense_steps: steps, and those that are dense all through.
        layers, dense_layers: layers, and those that are dense in every step.

    Raises:
        ValueError: a time or the density is negative, or there are more dense steps or layers than any.
    """
    if min(outside, attention, density) < 0 or outside + attention == 0:
        raise ValueError(f"outside={outside}, attention={attention}, density={density}: numbers from 0 on are needed")
    if not (0 <= dense_steps <= steps and 0 <= dense_layers <= layers and steps > 0 and layers > 0):
        raise ValueError(f"dense {dense_steps} of {steps} steps, {dense_layers} of {layers} layers: no more than all")
    whole = outside + attention
    share = (dense_layers + (layers - dense_layers) * density) / layers
    sparse = outside + attention * share
    return steps * whole / (dense_steps * whole + (steps - dense_steps) * sparse)


def fit_power(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Exponent and factor of y = factor * x^exponent, in least squares on the logarithms.

    Raises:
        ValueError: fewer than two different x.
    """
    if len(set(x)) < 2 or len(x) != len(y):
        raise ValueError(f"fit of a power to {len(set(x))} points: at least 2 are needed")
    logs = [(math.log(a), math.log(b)) for a, b in zip(x, y, strict=True)]
    middle = [sum(values) / len(logs) for values in zip(*logs, strict=True)]
    above = sum((a - middle[0]) * (b - middle[1]) for a, b in logs)
    exponent = above / sum((a - middle[0]) ** 2 for a, _ in logs)
    return exponent, math.exp(middle[1] - exponent * middle[0])


@dataclass(frozen=True)
class Speed:
    """The speed records of one GPU.

    Args:
        folder: ``results/<experiment>``, or the committed ``results/reference/<experiment>``.
        config: the configuration that names the stages and cells.
    """

    folder: Path
    config: Path = CONFIG

    @cached_property
    def stages(self) -> dict[str, tuple[SpeedCell, ...]]:
        """The cells of every stage, by model/shape, in the configuration's order.

        Raises:
            ValueError: the configuration is not in order.
        """
        return {name: stage.cells for name, stage in self._settings.items()}

    @cached_property
    def _settings(self) -> dict[str, Any]:
        from benchmark import config
        from benchmark.speed import settings

        try:
            held = config.read(self.config)
            config.check_speed(held)
            return settings.stages(without(held, self.left_out))
        except ValueError as error:
            line = str(error)
            raise ValueError(line if line.startswith(f"{self.config}:") else f"{self.config}: {line}") from None

    @cached_property
    def left_out(self) -> tuple[str, ...]:
        """Methods that the configuration names and ``methods/`` does not have; nothing can be said of them."""
        from benchmark import config, registry

        stages = config.check_speed(config.read(self.config))["speed"]["stages"].values()
        named = dict.fromkeys(name for stage in stages for name in stage["methods"])
        missing = tuple(name for name in named if name not in registry.names())
        if missing:
            logger.warning("%s: no file in methods/ for %s; left out", self.config, ", ".join(missing))
        return missing

    @cached_property
    def _read(self) -> Callable[[Path], dict[str, Any]]:
        """Reads a record; once, however often it is asked for."""
        return functools.cache(read_record)

    def trained(self, cell: SpeedCell) -> bool:
        """Whether the configuration has the tuning step of a cell timed."""
        return f"{cell.method}/{cell.setting}" in self._settings[cell.stage].training

    def runs(self) -> list[SpeedCell]:
        """The cells whose steps the configuration has run all in one go."""
        return [stage.cell(stage.run) for stage in self._settings.values() if stage.run is not None]

    def rounded(self) -> list[SpeedCell]:
        """The stages in which the fused blocks' rounding is held against the plain ones'."""
        return [stage.cells[0].of_stage() for stage in self._settings.values() if stage.training_whole]

    def timed_whole(self, cell: SpeedCell) -> bool:
        """Whether the configuration has whole steps of a cell timed."""
        return f"{cell.method}/{cell.setting}" in self._settings[cell.stage].whole

    def cell(self, stage: str, method: str, *settings: str) -> SpeedCell | None:
        """The cell of a stage's method at the first of these settings that the stage has; None without any."""
        found = {(cell.method, cell.setting): cell for cell in self.stages.get(stage, ())}
        return next((found[method, name] for name in settings if (method, name) in found), None)

    def record(self, cell: SpeedCell, kind: str) -> dict[str, Any] | None:
        """A cell's record; None where there is none, or it is about a trial or other settings than the configuration's.

        One that stands on a number that an audit did not find again is ``incorrect``.

        Raises:
            ValueError: the record is damaged.
        """
        path = self.folder / "records" / cell.path / f"{kind}.json"
        if not file_of(path).is_file():
            return None
        record = self._read(path)
        if difference(record, cell) is not None:
            return None
        used = {record.get("seal"), *(record["details"].get("records") or {}).values()}
        off = [reason for sealed, reason in self._disagreeing.items() if sealed in used]
        if record["status"] == "passed" and off:
            return {**record, "status": "incorrect", "reason": "; ".join(off), "values": {}}
        return record

    @cached_property
    def _disagreeing(self) -> dict[str, str]:
        """The seals of records whose numbers an audit did not find again, and in words how far it was off."""
        found = {}
        for audited in self.audits(cell for cells in self.stages.values() for cell in cells):
            of, details = from_settings(audited["cell"]), audited["details"]
            for kind in details["off"]:
                words = f"the audit of {of.stage} {of.method}/{of.setting} ({kind}) found {details['ratios'][kind]:.3f}"
                found[details["audited"][kind]] = f"{words} times its time"
        return found

    def other(self, cell: SpeedCell, kind: str) -> str | None:
        """Why a record that lies in a cell's place does not count; None where there is none or it counts."""
        path = self.folder / "records" / cell.path / f"{kind}.json"
        return difference(self._read(path), cell) if file_of(path).is_file() else None

    def passed(self, cell: SpeedCell | None, kind: str) -> dict[str, float]:
        """The numbers of a cell's record; empty where it has none."""
        record = None if cell is None else self.record(cell, kind)
        return record["values"] if record is not None and record["status"] == "passed" else {}

    def kernels(self) -> list[dict[str, Any]]:
        """The records of ``kernels_bench``, by their place: in ``folder/kernels``, or among the others.

        Raises:
            ValueError: a record is damaged.
        """
        paths = [*self.folder.glob("kernels/*.json"), *self.folder.glob("records/**/kernels*.json")]
        paths += self.folder.glob("records/kernels/*.json")
        records = map(self._read, dict.fromkeys(sorted(paths)))
        return [record for record in records if record["kind"] == KERNELS]

    def audits(self, cells: Iterable[SpeedCell]) -> list[dict[str, Any]]:
        """The audits of cells, passed or not; not those of other settings, or of records that are others by now."""
        return [found for cell in cells if (found := self._audit(cell)) is not None]

    def _audit(self, cell: SpeedCell) -> dict[str, Any] | None:
        folder = self.folder / "records" / cell.path
        path = folder / f"{AUDIT}.json"
        found = self._read(path) if file_of(path).is_file() else None
        if found is None or difference(found, cell) is not None:
            return None
        of = {folder / f"{kind}.json": sealed for kind, sealed in found["details"].get("audited", {}).items()}
        if of and all(
            file_of(each).is_file() and self._read(each).get("seal") == sealed for each, sealed in of.items()
        ):
            return found
        logger.warning("%s: of other records than those that lie beside it; not shown", path)
        return None

    def measured(self, cells: Iterable[SpeedCell]) -> Iterator[dict[str, Any]]:
        """What was measured for cells, and for their stages: the records but those put together from others."""
        for folder in dict.fromkeys(path for cell in cells for path in (cell.of_stage().path, cell.path)):
            for path in unpacked_names((self.folder / "records" / folder).glob("[!.]*.json*")):
                if path.stem in (LATENCY, TRAINING, PLAN):
                    continue
                record = self._read(path)
                if record["status"] == "passed" and not record["cell"].get("trial"):
                    yield record


def without(config: Mapping[str, Any], methods: Iterable[str]) -> dict[str, Any]:
    """A checked configuration of speed without some of its methods."""
    gone = set(methods)

    def kept(stage: Mapping[str, Any]) -> dict[str, Any]:
        found = dict(stage)
        for key in ("methods", "whole", "training", "kernels"):
            if key in stage:
                found[key] = [name for name in stage[key] if name.partition("/")[0] not in gone]
        for key in ("authors", "density", "knobs"):
            if isinstance(stage.get(key), Mapping):
                found[key] = {name: value for name, value in stage[key].items() if name not in gone}
        if stage.get("run", "").partition("/")[0] in gone:
            del found["run"]
        return found

    stages = {name: kept(stage) for name, stage in config["speed"]["stages"].items()}
    return {**config, "speed": {**config["speed"], "stages": stages}}


def difference(record: Record, cell: SpeedCell) -> str | None:
    """In what a record's cell is another than the configuration's, in words; None where it is the same.

    Knobs are held against each other but those that are solved for the budget when a cell is planned; one that a record
    has no word of stood at its default. A method that has no density to set loses its budget when it is planned.
    """
    try:
        found = from_settings(record["cell"])
    except (KeyError, TypeError):
        return "it is not about a cell of a speed experiment"
    if found.trial:
        return "it is of a trial"
    names = [name for name in SpeedCell.__dataclass_fields__ if name not in ("experiment", "knobs", "budget", "trial")]
    names += ["knobs"] if cell.setting == "authors" else []
    for name in names:
        have, want = getattr(found, name), getattr(cell, name)
        if have != want:
            return f"it is about {name}={have}, the configuration about {want}"
    fixed = _fixed(cell.canonical()) if cell.method and cell.setting != "authors" else {}
    for name, (want, default) in fixed.items():
        have = found.knobs.get(name, default)
        if have != want:
            return f"it is about {name}={have}, the configuration about {want}"
    if found.budget is not None and found.budget != cell.budget:
        return f"it is about budget={found.budget}, the configuration about {cell.budget}"
    return None


@functools.cache
def _fixed(canonical: str) -> dict[str, tuple[Any, Any]]:
    """The knobs of a configuration's cell that are not solved for its budget: the value of each, and its default.

    Args:
        canonical: the cell as ``SpeedCell.canonical`` writes it.
    """
    from benchmark import models, registry
    from benchmark.budget import solved_knobs

    cell = from_settings(json.loads(canonical))
    method = registry.get(cell.method, cell.knobs)
    own, defaults = method.knobs(), registry.get(cell.method).knobs()
    solved: set[str] = set()
    if cell.budget is not None:
        layout = models.get(cell.model).layout(cell.frames, cell.height, cell.width)
        solved = solved_knobs(method, layout, cell.block)
    return {name: (own[name], defaults[name]) for name in own if name not in solved}


def prediction(record: Record) -> float | None:
    """The speed-up of a generation that Amdahl's law predicts from a latency record's parts; None without those."""
    values, cell, layers = record["values"], record["cell"], record["details"].get("layers")
    if layers is None or not {"outside_s", "step_dense_parts_s", "density"} <= values.keys():
        return None
    attention = values["step_dense_parts_s"] - values["outside_s"]
    schedule = {name: cell[name] for name in ("steps", "dense_steps", "dense_layers")}
    return amdahl(values["outside_s"], attention, min(values["density"], 1.0), layers=layers, **schedule)


def training_prediction(record: Record) -> float | None:
    """The same for a tuning step, which is all sparse but for its dense layers."""
    values, cell, layers = record["values"], record["cell"], record["details"].get("layers")
    if layers is None or not {"outside_s", "step_dense_s", "density"} <= values.keys():
        return None
    attention = values["step_dense_s"] - values["outside_s"]
    density, few = min(values["density"], 1.0), cell["dense_layers"]
    return amdahl(values["outside_s"], attention, density, layers=layers, dense_layers=few)
