"""Whole steps of the real transformer, and a whole run of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark.speed import clock, expected, planning
from benchmark.speed.cells import SpeedCell
from benchmark.speed.clock import Clock, Measured, Timing, spread
from benchmark.speed.network import (
    FULL,
    Network,
    WarmingRouter,
    check_device,
    check_memory,
    forget,
    kernel_of,
    router_of,
)
from benchmark.speed.sources import fused_parts

logger = logging.getLogger(__name__)

STEP, RUN = "step", "whole_run"
SHORT_S = 15.0
"""A step that takes less is run once before those that count."""
RUN_TOLERANCE = 0.02
"""A whole run may differ from steps x their medians by this share."""


def measure(planned: Mapping[str, Any], records: Path, timer: Clock, device: str) -> None:
    """Whole steps of the cells that the stage names, each in a record of its own.

    Raises:
        OutOfTime: the job's time is up.
    """
    held: list[Network] = []
    try:
        for key in planned["whole"]:
            cell = planning.cell_of(planned, key)
            path = records / cell.path / f"{STEP}.json"
            if clock.done(path, cell, device) is not None:
                continue
            density = min(planned["cells"][key]["density"], 1.0)
            timer.reserve(expected.whole_part_s(cell, density), f"{cell.stage} {key}: whole steps")
            one = expected.step_s(cell, density)
            made = clock.record(STEP, cell, path, device, lambda c=cell, s=one: steps(c, s, held, timer, device))
            if made["status"] != "passed":
                _drop(held)
    finally:
        _drop(held)


def steps(cell: SpeedCell, about_s: float, held: list[Network], timer: Clock, device: str) -> Measured:
    """Seconds of whole steps in which the method runs.

    Before, a pass in which only one dense and one sparse layer attend compiles and plans all that is needed; of short
    steps a whole one comes before, too. Steps that take less than a minute are timed five times, longer ones once or
    twice.

    Args:
        about_s: seconds that a step will take, roughly.
        held: the transformer of the cell before, used again where this cell permutes and rotates alike; kept here.
    """
    network, name = _network(cell, held, timer, device)
    number = min(cell.dense_steps, cell.steps - 1) if cell.method != "dense" else 0
    step = network.step(number)
    router = network.router
    network.reroute(WarmingRouter(router))
    network.router.step = number
    network.forward()
    network.reroute(router)
    if about_s > expected.LONG_STEP_S:
        found = timer.time(step, warmup=0, calls=2, least=1, within_s=expected.LONG_STEP_S, what="a step")
    else:
        warmup = int(about_s < SHORT_S)
        found = timer.time(step, warmup=warmup, calls=expected.STEPS, least=expected.STEPS, what="a step")
    details = {"kernel": name, "level": network.level, clock.FUSED: fused_parts(cell.model), "step": number}
    return {"step_s": found.median}, spread({"step": found}) | details


def run(planned: Mapping[str, Any], records: Path, timer: Clock, device: str) -> None:
    """All steps of a generation in one go, against the steps' medians.

    Raises:
        OutOfTime: the job's time is up.
    """
    if planned["run"] is None:
        return
    cell = planning.cell_of(planned, planned["run"])
    path = records / cell.path / f"{RUN}.json"
    if clock.done(path, cell, device) is not None:
        return
    timer.reserve(expected.part_s(planned, "run"), f"{cell.stage}: a whole run")
    clock.record(RUN, cell, path, device, lambda: whole_run(cell, timer, device))


def whole_run(cell: SpeedCell, timer: Clock, device: str) -> Measured:
    """Seconds of all steps, between two events, beside dense steps x dense + sparse steps x sparse."""
    held: list[Network] = []
    network, name = _network(cell, held, timer, device)
    few = {"warmup": 1, "calls": 5, "what": "a step"}
    medians: dict[str, Timing] = {}
    if cell.dense_steps:
        medians["dense"] = timer.time(network.step(0), **few)
    if cell.dense_steps < cell.steps:
        medians["sparse"] = timer.time(network.step(cell.dense_steps), **few)

    def everything() -> None:
        for number in range(cell.steps):
            network.step(number)()

    whole = timer.time(everything, warmup=0, calls=1, what="all steps")
    put_together = sum(
        count * medians[kind].median
        for kind, count in (("dense", cell.dense_steps), ("sparse", cell.steps - cell.dense_steps))
        if count
    )
    _drop(held)
    agreement = put_together / whole.median - 1
    values = {"generation_whole_s": whole.median, "generation_steps_s": put_together, "agreement": agreement}
    details = spread({"whole": whole} | medians) | {
        "kernel": name,
        clock.FUSED: fused_parts(cell.model),
        "units": {"agreement": ""},
    }
    if abs(agreement) > RUN_TOLERANCE:
        details["status"] = "incorrect"
        details["reason"] = (
            f"steps x medians is {agreement:+.1%} off a whole run; at most {RUN_TOLERANCE:.0%} is allowed"
        )
    return values, details


def _network(cell: SpeedCell, held: list[Network], timer: Clock, device: str) -> tuple[Network, str]:
    check_device(device)
    check_memory(cell, device)
    name, kernel = kernel_of(cell, device)
    if cell.mixture:
        raise clock.Unsupported("a mixture of settings is put together from parts")
    _, method = planning.methods_of(cell)[0]
    router = router_of(cell, method, device, kernel)
    if held:
        try:
            held[0].reroute(router)
        except ValueError as error:
            logger.info("%s: a transformer of its own: %s", cell.method, error)
            _drop(held)
    if not held:
        through = router_of(cell, method, device, kernel, through=True)
        held.append(Network(cell, through, device, FULL))
        held[0].reroute(router)
    return held[0], name


def _drop(held: list[Network]) -> None:
    while held:
        forget(held.pop())


def finished(planned: Mapping[str, Any], records: Path, device: str) -> bool:
    """Whether all whole steps that the stage names have a record."""
    cells = [planning.cell_of(planned, key) for key in planned["whole"]]
    return clock.finished(((records / cell.path / f"{STEP}.json", cell) for cell in cells), device)


def run_finished(planned: Mapping[str, Any], records: Path, device: str) -> bool:
    """Whether the stage's whole run, if it has one, has a record."""
    if planned["run"] is None:
        return True
    cell = planning.cell_of(planned, planned["run"])
    return clock.finished([(records / cell.path / f"{RUN}.json", cell)], device)
