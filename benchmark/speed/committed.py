"""Records that are committed: how a run's get there, and how a run on another machine goes on from them.

A run that is too long for one machine's time is spread over several: each publishes what it measured, and the next one
takes it over instead of measuring it again.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmark.packed import file_of, pack, records_in, unpack
from benchmark.records import read_record
from benchmark.reference import REFERENCE, copy_file
from benchmark.speed import assemble, clock, planning, training
from benchmark.speed.cells import SpeedCell

logger = logging.getLogger(__name__)

KERNELS = "kernels"
NOT_TAKEN = (assemble.LATENCY, assemble.TRAINING, "audit")
"""Kinds that are no measurement to go on from: what is put together from others, or says how far others are off."""


def publish(folder: Path, reference: Path = REFERENCE) -> list[Path]:
    """Copies what a run measured, to be committed: its records, packed, plans, and the kernels' records beside them.

    Args:
        folder: ``results/<experiment>/records``; the kernels' are in ``results/<experiment>/kernels``.
        reference: copies go to ``<reference>/<experiment>``.

    Returns:
        The copies.

    Raises:
        ValueError: a record is not as it was written, is of a trial, or of another experiment than the others.
    """
    plans = sorted(folder.rglob(planning.FILE))
    paths = [path for path in records_in(folder, "**/*.json") if path.name != planning.FILE]
    experiments = set()
    for path in paths:
        cell = read_record(path)["cell"]
        if cell.get("trial"):
            raise ValueError(f"record {path}: of a trial ({cell['trial']}); trials are not published")
        experiments.add(cell["experiment"])
    for path in plans:
        planning.read(path)
    kernels = sorted((folder.parent / KERNELS).glob("*.json"))
    for path in kernels:
        held = read_record(path)
        if held["kind"] != KERNELS:
            raise ValueError(f"record {path}: kind={held['kind']}; {KERNELS} is needed here")
        if held["provenance"]["device"].get("type") == "cpu":
            raise ValueError(f"record {path}: of a trial on a CPU; trials are not published")
    if len(experiments) != 1:
        raise ValueError(f"{folder}: records of {len(experiments)} experiments; of one is needed")
    target = reference / experiments.pop()
    packed = [pack(path, target / path.relative_to(folder.parent)) for path in paths]
    return packed + [copy_file(path, target / path.relative_to(folder.parent)) for path in (*plans, *kernels)]


def take_over(stage: str, asked: str, records: Path, committed: Path, gpu: str | None) -> list[Path]:
    """Copies a stage's plan and committed measurements to where a run looks for its own, where it has none that passed.

    What a cell's record does not fit is measured anew: the job compares the whole cell, solved knobs included.

    Args:
        stage: model/shape.
        asked: what the plan must be made for, from ``planning.asked``.
        records: the run's folder of records.
        committed: such a folder as ``results/reference/h100/records``; nothing need be there.
        gpu: name of the GPU that this job measures on; records of another are not taken, since times of one are
            compared. None where it measures on none: then the plan alone is taken, for the GPU may be any.

    Returns:
        The copies.
    """
    taken = []
    plan = committed / stage / planning.FILE
    if plan.exists() and not (records / stage / planning.FILE).exists() and planning.read(plan)["asked"] == asked:
        taken.append(copy_file(plan, records / stage / planning.FILE))
    for path, held in _measured(committed / stage) if gpu is not None else ():
        own = records / path.relative_to(committed)
        if held["provenance"]["device"].get("name") != gpu:
            logger.warning("%s: measured on %s, not taken", path, held["provenance"]["device"].get("name"))
        elif not _passed(own, gpu):
            taken.append(unpack(path, own))
    if taken:
        logger.info("%s: %d files are those of %s", stage, len(taken), committed)
    return taken


def measured_in(folders: Iterable[Path], planned: Mapping[str, Any]) -> Callable[[str, SpeedCell], bool]:
    """Tells whether one of some folders of records has a kind of record of a cell that passed and is about just that.

    On which model of GPU it was measured is not asked.

    Args:
        folders: such as ``results/h100/records``; nothing need be there.
        planned: the stage's plan.
    """
    folders = list(folders)

    def done(kind: str, cell: SpeedCell) -> bool:
        cell = training.with_rank(cell, planned) if kind in (training.OUTSIDE, training.STEP) else cell
        paths = (folder / cell.path / f"{kind}.json" for folder in folders)
        held = (read_record(path) for path in paths if file_of(path).exists())
        return any(found["status"] == "passed" and clock.about(found, cell) for found in held)

    return done


def _passed(path: Path, gpu: str) -> bool:
    """Whether there is a record of this GPU that passed, is as it was written, and was taken as numbers are now."""
    with contextlib.suppress(ValueError):
        held = read_record(path)
        same = held["provenance"]["device"].get("name") == gpu
        return same and held["status"] == "passed" and not clock.outdated(held)
    return False


def _measured(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The measurements of a stage that passed."""
    for path in records_in(folder, "**/[!.]*.json"):
        if path.name == planning.FILE or path.stem in NOT_TAKEN:
            continue
        held = read_record(path)
        if held["status"] == "passed" and not clock.outdated(held):
            yield path, held
