"""What a speed experiment will take, before it is run: its part of the verb ``estimate``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from benchmark.records import ROOT
from benchmark.speed import settings
from benchmark.speed.network import layout_of, spec_of

RECORD_BYTES = 8_000
"""A record of speed: the mean of the first ones of an H100, whose states of the GPU are in it."""
RECORDS_A_CELL = 3
"""Its attention call, whole step or LoRA parts, and what is put together from them."""


def estimate(path: Path | str) -> dict[str, Any]:
    """Jobs by rule; GPU hours on one H100, dense operations of one clip, and bytes of records, by stage and in all.

    Seconds come from a model of each measurement whose rates were measured on an H100 (``expected``); densities from
    the plans in ``results/<experiment>``, where they are, else from the budgets.

    Raises:
        ValueError: the configuration is not right.
    """
    from benchmark.estimate import planned_jobs, start_planning
    from benchmark.latency import estimate as seconds_of_stages
    from benchmark.operations import generation_operations, pflop

    stages = settings.load(path)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    planning = start_planning(path)
    experiment = next(iter(stages.values())).cells[0].experiment
    seconds = seconds_of_stages(stages, ROOT / "results" / experiment / "records")
    told = {}
    for name, stage in stages.items():
        cell = stage.cells[0]
        told[name] = {
            "cells": len(stage.cells),
            "gpu_hours": sum(seconds[name].values()) / 3600,
            "pflop_dense": pflop(generation_operations(spec_of(cell), layout_of(cell), steps=cell.steps).total),
            "disk_bytes": len(stage.cells) * RECORDS_A_CELL * RECORD_BYTES,
        }
    jobs = planned_jobs(path, planning)
    return {
        "experiment": experiment,
        "jobs": jobs,
        "jobs_in_all": sum(jobs.values()),
        "stages": told,
        "gpu_hours": sum(stage["gpu_hours"] for stage in told.values()),
        "disk_bytes": sum(stage["disk_bytes"] for stage in told.values()),
    }


def describe(found: dict[str, Any]) -> str:
    """An estimate as lines of text."""
    lines = [f"{found['experiment']} on one H100, from nothing: {found['jobs_in_all']} jobs", ""]
    lines += [f"{rule:<18}{count:>6} jobs" for rule, count in found["jobs"].items()]
    lines += ["", f"{'stage':<24}{'cells':>6}{'GPU-hours':>12}{'PFLOP of a dense clip':>24}"]
    for name, stage in found["stages"].items():
        lines.append(f"{name:<24}{stage['cells']:>6}{stage['gpu_hours']:>12.3f}{stage['pflop_dense']:>24.1f}")
    lines += ["", f"disk: {found['disk_bytes'] / 1e6:.1f} MB of records; hours: {found['gpu_hours']:.2f} GPU-hours"]
    return "\n".join(lines)
