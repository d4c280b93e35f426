"""The verb ``estimate``: jobs, operations, hours and disk of a configuration before it is run.

Operations are counted, not estimated: they follow from the configuration as in ``generate``. Jobs are those that
Snakemake plans for a run from nothing. Hours and disk are estimates from rates: those of earlier results of the same
experiment where there are any, else those of ``DEFAULTS``, and every answer says which.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmark import gpus
from benchmark.blame import planning
from benchmark.canonical import record_files
from benchmark.cell import Cell, from_record
from benchmark.cells import cells
from benchmark.config import ROOT, is_speed, load, read
from benchmark.records import read_record

logger = logging.getLogger(__name__)

DEFAULTS = MappingProxyType({"cpu": 12_500.0, "cuda": 13.7})
"""Seconds a PFLOP where nothing was measured, by device; ``DEFAULT_SOURCES`` says where they are from."""

DEFAULT_SOURCES = MappingProxyType(
    {
        "cpu": "12,500 s a PFLOP: all clips of the quick configuration on an Intel Xeon with bf16, one core a job",
        "cuda": "13.7 s a PFLOP: the shipped weights' training on an H100 (36.6 PFLOP in 500 s, 64 clips at a time); "
        "drawn one at a time, small clips take much longer, so this is a least",
    }
)

JOB_SECONDS = MappingProxyType(
    {
        "inputs": 2.0,
        "generate": 6.7,  # start-up, weights and masks, without the clips
        "measure": 4.5,
        "tune": 6.0,  # start-up, weights and masks, without the training
        "collect": 1.8,
        "operations": 9.9,
        "probe": 10.5,
        "output_error": 11.0,
        "table": 2.6,
        "figure": 5.2,
        "ablation": 6.0,
        "collect_committed": 1.8,
        "report_page": 16.6,
        "train": 500.0,
    }
)
"""Seconds of a job besides drawing clips, where nothing was measured: those of the quick configuration, as above."""

OTHER_JOB_SECONDS = 5.0
BENCHMARK_FILES = MappingProxyType({"report_page": "report"})  # those that are not named after their rule
BUDGETS_CHECKED = "BENCHMARK_BUDGETS_CHECKED"
"""The environment variable that tells the Snakefile that budgets were held against the methods before."""

GPU_RULES = ("generate", "tune")
TARGETS = ("all", "tables", "figures")  # names of groups of outputs; nothing runs

BYTES_A_PIXEL = 1.25
"""Bytes a pixel and frame of a stored clip, where there is none to look at: the mean of the quick configuration."""
RECORD_BYTES, PROMPT_BYTES, OTHER_BYTES = 3_800, 200, 12_500_000
"""A record; a prompt with its seed; tables, figures, attention maps and tables of records (quick)."""

EXAMPLE = """example:
  python -m benchmark estimate --configfile config/quick.yaml
  python -m benchmark estimate --configfile config/smoke.yaml --json
"""


def estimate(
    path: Path | str, device: str | None = None, results: Path | str = "results", workers: int = 1
) -> dict[str, Any]:
    """What a run of a configuration comes to, from nothing.

    Args:
        path: the configuration file.
        device: ``cpu`` or ``cuda``; what is there where None.
        results: folder in which earlier results of the experiment are looked for.
        workers: processes that solve budgets and count operations, forked from this one.

    Returns:
        ``jobs`` by rule with ``count``, ``hours`` and ``source`` of the time; ``cells`` with ``pflop`` of all clips,
        ``pflop_dense`` (the same clips under dense attention), ``hours`` and ``source`` of the rate; ``pflop``,
        ``pflop_dense``, ``cpu_hours`` (one core a job), ``gpu_hours``; ``disk_bytes`` by kind with ``source``.

    Raises:
        ValueError: the configuration is not possible, in one line that begins with its name.
    """
    planning = start_planning(path)  # Snakemake plans while operations are counted
    try:
        config = load(path)
    except ValueError:
        planning.kill()
        planning.communicate()
        raise
    found = cells(config)
    device = device or ("cuda" if gpus.visible() else "cpu")
    folder = Path(results) / config["experiment"]
    earlier = _earlier(config["experiment"], results, device)
    counted = _counted(found, workers)
    lines = [_line(cell, count, earlier, device) for cell, count in zip(found, counted, strict=True)]
    trained = not (config.get("tuned") or {}).get("shipped_only", False)
    tunings = [_tuning(cell, device, trained) for cell in found if cell.tuned and not cell.merged]
    jobs = {rule: {"count": count} for rule, count in planned_jobs(path, planning).items()}
    startup, startup_source = _startup(folder, earlier)
    for rule, job in jobs.items():
        seconds, job["source"] = _job_seconds(rule, folder)
        if rule == "generate":
            clips = sum(line["hours"] for line in lines)
            job["source"] = f"{startup_source}; and the clips"
            job["hours"] = clips + job["count"] * startup / 3600
        elif rule == "tune":
            trained = sum(tuning["trained"] for tuning in tunings)
            job["source"] = f"{len(tunings) - trained} taken over, as they are shipped; {trained} trained"
            if trained:
                job["source"] += f": 3 forward passes of {DEFAULT_SOURCES[device].partition(':')[0]} a clip and step"
            startup = JOB_SECONDS[rule]  # of earlier jobs it is not known which of them trained
            job["hours"] = sum(tuning["hours"] for tuning in tunings) + job["count"] * startup / 3600
        else:
            job["hours"] = job["count"] * seconds / 3600
    return {
        "experiment": config["experiment"],
        "device": device,
        "jobs": jobs,
        "jobs_in_all": sum(job["count"] for job in jobs.values()),
        "cells": lines,
        "pflop": sum(line["pflop"] for line in lines),
        "pflop_dense": sum(line["pflop_dense"] for line in lines),
        "cpu_hours": sum(job["hours"] for job in jobs.values()),
        "gpu_hours": sum(jobs.get(rule, {"hours": 0.0})["hours"] for rule in GPU_RULES) if device == "cuda" else 0.0,
        "disk_bytes": _disk(found, folder, earlier),
    }


def start_planning(path: Path | str) -> subprocess.Popen[str]:
    """Starts Snakemake on a run from nothing that is only planned; budgets are held against the methods here."""
    words = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(ROOT)]
    words += ["--configfile", str(Path(path).resolve()), "--dry-run", "--forceall", "--nolock", "--quiet", "rules"]
    environment = os.environ | {BUDGETS_CHECKED: "1"}
    return subprocess.Popen(
        words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def planned_jobs(path: Path | str, planning: subprocess.Popen[str]) -> dict[str, int]:
    """How many jobs of each rule Snakemake plans for a run from nothing, targets without a command left out.

    Args:
        planning: from ``start_planning``.

    Raises:
        ValueError: Snakemake refuses.
    """
    said, _ = planning.communicate()
    counts = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", said.partition("Job stats:")[2], re.M)}
    if planning.returncode or not counts.pop("total", 0):
        last = [line for line in said.splitlines() if line.strip()][-1:]
        raise ValueError(f"{path}: snakemake cannot plan it: {' '.join(last) or 'no jobs'}")
    return {name: count for name, count in sorted(counts.items()) if name not in TARGETS}


def _counted(found: list[Cell], workers: int) -> list[dict[str, float] | str]:
    """The operations of a clip of each cell, in their order."""
    from tqdm import tqdm

    if workers == 1:
        return [_operations(cell) for cell in tqdm(found, desc="counting operations", unit="cell")]
    # The longest clips take longest: they come first, so that no process is left with one of them at the end.
    order = sorted(range(len(found)), key=lambda n: -found[n].frames)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("fork")) as pool:
        counted = pool.map(_operations, [found[n] for n in order])
        done = dict(zip(order, tqdm(counted, desc="counting operations", unit="cell", total=len(found)), strict=True))
    return [done[n] for n in range(len(found))]


def _operations(cell: Cell) -> dict[str, float] | str:
    """The operations of a clip, as ``generate`` counts them; the reason where the method cannot be run so."""
    from benchmark import models, registry
    from benchmark.budget import at_budget
    from benchmark.operations import cell_operations

    spec = models.get(cell.model)
    layout = spec.layout(cell.frames, cell.height, cell.width)
    try:
        method = registry.get(cell.method, cell.knobs)
        with planning(cell.method, cell.length):
            if cell.budget is not None:
                method = at_budget(method, layout, cell.block, cell.budget)
            return cell_operations(cell, spec, layout, method)
    except ValueError as error:  # such a cell gets a record that says so, and draws nothing
        return str(error)


def _line(cell: Cell, counted: Mapping[str, float] | str, earlier: list[dict[str, Any]], device: str) -> dict[str, Any]:
    """Operations of all clips of a cell, and the hours that they are estimated to take."""
    line = {"model": cell.model, "length": cell.length, "method": cell.method, "clips": cell.clips}
    line |= {"tuned": True} if cell.tuned else {}
    line |= {"variant": cell.variant} if cell.variant else {}
    if isinstance(counted, str):
        return line | {"pflop": 0.0, "pflop_dense": 0.0, "hours": 0.0, "source": f"unsupported: {counted}"}
    rate, source = _rate(cell, earlier, device)
    count, dense = (cell.clips * counted[key] for key in ("pflop", "pflop_dense"))
    return line | {"pflop": count, "pflop_dense": dense, "hours": count * rate / 3600, "source": source}


def _tuning(cell: Cell, device: str, trained: bool = True) -> dict[str, Any]:
    """Whether a tuned cell's adapter has to be trained, and the hours of that besides its job's start.

    A step of a clip is counted as three forward passes: one forward, two backward; adapters save a part of the second.
    """
    from dataclasses import replace

    from benchmark.models import testbed
    from benchmark.tuning import places
    from benchmark.tuning.settings import from_mapping

    if not trained or places.shipped(cell, testbed.manifest(cell.model)["sha256"]) is not None:
        return {"trained": False, "hours": 0.0}
    settings = from_mapping(cell.tuning_settings)
    step = replace(cell, steps=1, dense_steps=0, dense_layers=settings.dense_layers)
    counted = _operations(step)
    if isinstance(counted, str):  # such a cell gets a record that says so
        return {"trained": False, "hours": 0.0}
    clips = settings.steps * settings.batch
    return {"trained": True, "hours": 3 * clips * counted["pflop"] * DEFAULTS[device] / 3600}


def _earlier(experiment: str, results: Path | str, device: str) -> list[dict[str, Any]]:
    """The experiment's ``generate`` records that passed on this kind of device."""
    try:
        paths = record_files(experiment, results)
    except ValueError:
        return []
    records = [read_record(path) for path in paths if path.name == "generate.json"]
    return [
        record
        for record in records
        if record["status"] == "passed" and record["provenance"]["device"]["type"] == device
    ]


def _rate(cell: Cell, earlier: Iterable[Mapping[str, Any]], device: str) -> tuple[float, str]:
    """Seconds a PFLOP of a cell's clips, and where this is from: the records that are nearest to it."""
    for names in (("model", "length", "method"), ("model", "method"), ("model",)):
        near = [record for record in earlier if all(record["cell"][name] == getattr(cell, name) for name in names)]
        operations = sum(record["values"]["pflop"] for record in near)
        if operations:
            rate = sum(record["values"]["generation_s"] for record in near) / operations
            count = f"{len(near)} record{'s' * (len(near) > 1)}"
            return rate, f"measured: {rate:,.0f} s a PFLOP, {count} of the same {', '.join(names)}"
    return DEFAULTS[device], f"default: {DEFAULT_SOURCES[device]}"


def _startup(folder: Path, earlier: Iterable[Mapping[str, Any]]) -> tuple[float, str]:
    """Seconds of a ``generate`` job besides its clips."""
    rest = []
    for record in earlier:
        name = f"{'-'.join(from_record(record).path.parts)}.tsv"
        whole = _benchmarks([folder / "benchmarks" / "generate" / name])
        rest += [max(0.0, seconds - sum(clip["seconds"] for clip in record["clips"])) for seconds in whole]
    if rest:
        return statistics.median(rest), f"measured: {len(rest)} jobs in {folder}/benchmarks"
    return JOB_SECONDS["generate"], f"default: {JOB_SECONDS['generate']} s a job, as of the quick configuration"


def _job_seconds(rule: str, folder: Path) -> tuple[float, str]:
    """Seconds of a job of a rule that draws no clips."""
    place = folder / "benchmarks"
    name = BENCHMARK_FILES.get(rule, rule)
    measured = _benchmarks([place / f"{name}.tsv", *sorted((place / name).glob("*.tsv"))])
    if measured:
        return statistics.mean(measured), f"measured: {len(measured)} job{'s' * (len(measured) > 1)} in {place}"
    if rule in JOB_SECONDS:
        return JOB_SECONDS[rule], f"default: {JOB_SECONDS[rule]} s a job, as of the quick configuration"
    return OTHER_JOB_SECONDS, f"default: {OTHER_JOB_SECONDS} s, a guess for a rule that has not run"


def _benchmarks(paths: Iterable[Path]) -> list[float]:
    """The seconds that Snakemake wrote into its benchmark files; those that are not there or not whole do not count."""
    found = []
    for path in paths:
        if path.exists():
            lines = path.read_text().splitlines()
            found += [float(lines[1].split("\t")[0])] if len(lines) > 1 else []
    return found


def _disk(found: list[Cell], folder: Path, earlier: list[dict[str, Any]]) -> dict[str, Any]:
    """Bytes by kind, their sum ``all``, and the ``source`` of what is not counted."""
    from benchmark import models

    stored = [
        (record, Path(record["details"]["folder"]) / clip["name"]) for record in earlier for clip in record["clips"]
    ]
    stored = [(record, path.stat().st_size) for record, path in stored if path.exists()]
    pixels = sum(record["cell"]["frames"] * record["cell"]["height"] * record["cell"]["width"] for record, _ in stored)
    size = sum(length for _, length in stored) / pixels if pixels else BYTES_A_PIXEL
    shapes = {}
    clips = 0.0
    for cell in found:
        clips += size * cell.clips * cell.frames * cell.height * cell.width
        shapes[cell.inputs] = cell
    inputs = 0
    for cell in shapes.values():
        spec = models.get(cell.model)
        noise = 4 * math.prod(spec.latent_shape(spec.layout(cell.frames, cell.height, cell.width)))
        inputs += cell.clips * (noise + PROMPT_BYTES)
    others = [path for path in folder.iterdir() if path.name not in ("clips", "inputs", "records")] if earlier else []
    other = sum(map(_size, others)) or OTHER_BYTES
    disk: dict[str, Any] = {
        "clips": round(clips),
        "inputs": inputs,
        "records": (2 * len(found) + sum(cell.tuned and not cell.merged for cell in found)) * RECORD_BYTES,
        "tables, figures and the rest": other,
    }
    disk["all"] = sum(disk.values())
    origin = f"measured: {len(stored)} clips in {folder}" if pixels else "default: clips of the quick configuration"
    disk["source"] = f"{size:.2f} bytes a pixel and frame ({origin}); the rest as of {folder if others else 'quick'}"
    return disk


def _size(path: Path) -> int:
    return sum(inner.stat().st_size for inner in (path.rglob("*") if path.is_dir() else [path]) if inner.is_file())


def describe(found: Mapping[str, Any], cores: int) -> str:
    """An estimate as lines of text."""
    lines = [f"{found['experiment']} on {found['device']}, from nothing: {found['jobs_in_all']} jobs", ""]
    lines.append(f"{'rule':<14}{'jobs':>6}{'CPU-hours':>12}  from")
    for rule, job in found["jobs"].items():
        lines.append(f"{rule:<14}{job['count']:>6}{job['hours']:>12.4f}  {job['source']}")
    lines += ["", f"{'clips of':<24}{'methods':>8}{'clips':>7}{'PFLOP':>12}{'dense':>12}{'hours':>10}"]
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for cell in found["cells"]:
        groups.setdefault((cell["model"], cell["length"]), []).append(cell)
    for (model, length), group in groups.items():
        clips, *numbers = (sum(cell[key] for cell in group) for key in ("clips", "pflop", "pflop_dense", "hours"))
        lines.append(
            f"{model + ' ' + length:<24}{len(group):>8}{clips:>7}" + "{:>12.6f}{:>12.6f}{:>10.4f}".format(*numbers)
        )
    sources: dict[str, int] = {}
    for cell in found["cells"]:
        # Measured rates differ from cell to cell: here it is enough to say how near the records are.
        said = re.sub(r"^measured: [\d,]+ s a PFLOP, \d+ records?", "measured: records", cell["source"])
        sources[said] = sources.get(said, 0) + 1
    lines += [f"  rate of {count} cells: {source}" for source, count in sources.items()]
    disk = found["disk_bytes"]
    lines += ["", f"disk: {disk['all'] / 1e6:.1f} MB"]
    lines += [f"  {kind:<30}{disk[kind] / 1e6:>10.2f} MB" for kind in disk if kind not in ("all", "source")]
    lines += [f"  {disk['source']}", ""]
    lines.append(f"operations: {found['pflop']:.6f} PFLOP (all dense: {found['pflop_dense']:.6f})")
    hours = f"{found['cpu_hours']:.3f} CPU-hours (one core a job)"
    if found["device"] == "cuda":
        hours += f", {found['gpu_hours']:.3f} GPU-hours"
    lines.append(f"hours: {hours}; {60 * found['cpu_hours'] / cores:.1f} minutes if {cores} cores are always busy")
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.description = "Jobs, operations, hours and disk of a configuration before it is run."
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--configfile", type=Path, required=True, metavar="FILE", help="such as config/quick.yaml")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="what draws the clips (default: what is there)")
    parser.add_argument("--json", action="store_true", help="print JSON, with every cell")


def run(args: argparse.Namespace) -> int:
    """Estimates and prints."""
    import torch

    torch.set_num_threads(1)  # many small steps, for which more threads only wait for each other
    if is_speed(read(args.configfile)):
        from benchmark.speed import foresight

        speed = foresight.estimate(args.configfile)
        print(json.dumps(speed, indent=1) if args.json else foresight.describe(speed))
        return 0
    found = estimate(args.configfile, args.device, workers=os.cpu_count() or 1)
    print(json.dumps(found, indent=1) if args.json else describe(found, os.cpu_count() or 1))
    return 0
