"""The configuration of a speed experiment: its stages, and the cells of each, knobs not yet solved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.speed.cells import SpeedCell

PAPER, AUTHORS = "paper", "authors"
SETTINGS = (PAPER, AUTHORS)
REFERENCE = "dense"


@dataclass(frozen=True)
class Stage:
    """A model at a shape, and what is timed there.

    Args:
        cells: every cell, knobs not yet solved for its budget.
        whole: cells whose whole steps are timed, as method/setting; dense is the first.
        training: cells whose tuning step is timed; dense is the first.
        training_steps: steps of the published tuning; None where none is published.
        training_whole: whether whole tuning steps are timed, not only their parts.
        run: the cell whose steps are all run in one go; None for none.
        ends: whether text encoders and decoder are timed.
        profile: whether it is shown where the time outside attention goes.
        rank: rank of the adapter.
        flags: by cell, what its numbers must be read with.
    """

    name: str
    cells: tuple[SpeedCell, ...]
    whole: tuple[str, ...]
    training: tuple[str, ...]
    training_steps: int | None
    training_whole: bool
    run: str | None
    rank: int
    ends: bool = True
    profile: bool = False
    flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def measured(self) -> tuple[str, ...]:
        """The parts that are measured on a GPU, in order: those of ``latency.MEASURE`` that have something to do."""
        asked = {"parts": True, "profile": self.profile, "whole": self.whole, "ends": self.ends}
        asked |= {"training": self.training, "run": self.run}
        return tuple(part for part, is_asked in asked.items() if is_asked)

    def cell(self, key: str) -> SpeedCell:
        """The cell of a key such as radial/paper."""
        return next(cell for cell in self.cells if key_of(cell) == key)


def key_of(cell: SpeedCell) -> str:
    """method/setting."""
    return f"{cell.method}/{cell.setting}"


def load(path: Path | str) -> dict[str, Stage]:
    """The stages of a configuration file, by name.

    Raises:
        ValueError: one line that begins with the file's name.
    """
    from benchmark import config

    try:
        return stages(config.read(path))
    except ValueError as error:
        line = str(error)
        raise ValueError(line if line.startswith(f"{path}:") else f"{path}: {line}") from None


def stages(
    config: Mapping[str, Any], trial: Mapping[str, Any] | None = None, only: str | None = None
) -> dict[str, Stage]:
    """The stages of a configuration as it was read, by name.

    Args:
        trial: arguments of the transformers that are changed for a trial.
        only: the one stage that the trial is of, since other stages' transformers may not have its arguments; all where
            there is none of that name.

    Raises:
        ValueError: one line: the key, the value, and the nearest that is allowed.
    """
    from benchmark import config as experiments

    checked = experiments.check_speed(config)
    asked = checked["speed"]["stages"]
    asked = {only: asked[only]} if only in asked else asked
    return {
        name: _stage(checked["experiment"], name, settings, checked["speed"], dict(trial or {}))
        for name, settings in asked.items()
    }


def resized(name: str, trial: Mapping[str, Any]):
    """The model's description, with the arguments of a trial; ``device`` is the only one that is not the transformer's.

    Raises:
        ValueError: the transformer has no such argument.
    """
    from benchmark import models

    spec = models.get(name)
    changes = {key: value for key, value in trial.items() if key != "device"}
    return spec.resized(**changes) if changes else spec


def _stage(
    experiment: str, name: str, settings: Mapping[str, Any], speed: Mapping[str, Any], trial: dict[str, Any]
) -> Stage:
    from benchmark import kernels, registry

    where = f"speed.stages.{name}"
    model, slash, shape = name.partition("/")
    if not slash or not shape or "/" in shape:
        raise ValueError(f"{where}: a stage is named model/shape, such as hunyuanvideo/table1")
    if speed["kernel"] not in (kernels.AUTO, *kernels.names()):
        have = registry.nearest(speed["kernel"], [kernels.AUTO, *kernels.names()])
        raise ValueError(f"speed.kernel: {speed['kernel']!r} is unknown: {have}")
    spec = resized(model, trial)
    try:
        spec.layout(*settings["shape"])
    except ValueError as error:
        raise ValueError(f"{where}.shape: {error}") from None
    schedule = settings["schedule"]
    if schedule["dense_steps"] > schedule["steps"]:
        raise ValueError(f"{where}.schedule.dense_steps={schedule['dense_steps']}: at most {schedule['steps']}")
    if not trial and schedule["dense_layers"] > spec.layers:
        raise ValueError(f"{where}.schedule.dense_layers={schedule['dense_layers']}: at most {spec.layers}")
    common = {
        "experiment": experiment,
        "model": model,
        "shape": shape,
        **dict(zip(("frames", "height", "width"), settings["shape"], strict=True)),
        "block": speed["block"],
        "kernel": kernels.AUTO if trial.get("device") == "cpu" else speed["kernel"],
        **schedule,
        "passes": spec.passes,
        "text_tokens": spec.text_tokens,
        "trial": trial,
    }
    if trial:
        common["dense_layers"] = min(schedule["dense_layers"], spec.layers)
    methods, authors, knobs = list(settings["methods"]), settings.get("authors") or {}, settings.get("knobs") or {}
    if REFERENCE not in methods:
        methods.insert(0, REFERENCE)
    for key, names in (
        ("methods", methods),
        ("authors", authors),
        ("knobs", knobs),
        ("density", _by_method(settings.get("density"))),
    ):
        for method in names:
            if method not in registry.names() and not (key == "density" and method == "default"):
                raise ValueError(
                    f"{where}.{key}: method {method!r} is unknown: " + registry.nearest(method, registry.names())
                )
    cells, flags = [], {}
    for method in methods:
        budget = _budget(settings.get("density"), method)
        own = registry.get(method, knobs[method]).knobs() if method in knobs else {}
        cells.append(SpeedCell(**common, method=method, setting=PAPER, knobs=own, budget=budget))
        if method in authors:
            own, mixture, found = _authors(f"{where}.authors.{method}", method, authors[method])
            cells.append(SpeedCell(**common, method=method, setting=AUTHORS, knobs=own, mixture=mixture))
            flags[f"{method}/{AUTHORS}"] = found
    keys = [key_of(cell) for cell in cells]
    lists = {key: _keys(f"{where}.{key}", settings.get(key) or [], keys) for key in ("whole", "training")}
    run = settings.get("run")
    if run is not None:
        _keys(f"{where}.run", [run], keys)
    return Stage(
        name=name,
        cells=tuple(cells),
        whole=lists["whole"],
        training=lists["training"],
        training_steps=settings.get("training_steps"),
        training_whole=bool(settings.get("training_whole")),
        run=run,
        rank=speed["lora"]["rank"],
        ends=settings.get("ends", True),
        profile=settings.get("profile", False),
        flags=flags,
    )


def _by_method(density: Any) -> Mapping[str, float]:
    return density if isinstance(density, Mapping) else {}


def _budget(density: Any, method: str) -> float | None:
    if isinstance(density, Mapping):
        return density.get(method, density.get("default"))
    return density


def _authors(where: str, method: str, settings: Mapping[str, Any]) -> tuple[dict, tuple[dict, ...], tuple[str, ...]]:
    """Knobs, mixture and flags of a published setting; every knob is checked."""
    from benchmark import registry

    flags = tuple(settings.get("flags", ()))
    if "mixture" not in settings:
        knobs = {key: value for key, value in settings.items() if key != "flags"}
        return registry.get(method, knobs).knobs(), (), flags
    parts = tuple(
        {"share": float(part["share"]), "knobs": registry.get(method, part["knobs"]).knobs()}
        for part in settings["mixture"]
    )
    total = sum(part["share"] for part in parts)
    if not math.isclose(total, 1.0, abs_tol=1e-6):
        raise ValueError(f"{where}.mixture: the shares add up to {total:.6f}; 1 is needed")
    return {}, parts, ("mixture", *flags)


def _keys(where: str, wanted: list[str], allowed: list[str]) -> tuple[str, ...]:
    """Cells as method/setting, the dense one first where there is any."""
    from benchmark.registry import nearest

    for key in wanted:
        if key not in allowed:
            raise ValueError(f"{where}: {key!r} is no cell of this stage: {nearest(key, allowed)}")
    reference = f"{REFERENCE}/{PAPER}"
    return tuple(dict.fromkeys([reference, *wanted])) if wanted else ()
