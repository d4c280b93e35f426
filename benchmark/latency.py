"""The verb ``latency``: times at the paper's shapes, with random weights, stage by stage.

A stage is a model at a shape, and has parts, each a job of its own: ``plan`` (knobs; no GPU), ``parts`` (time outside
attention, and every method's attention call), ``whole`` (whole steps), ``ends`` (text encoder and decoder),
``training`` (a LoRA step), ``run`` (all steps of a generation in one go), ``assemble`` (the records that tables read;
no GPU). A job writes a record as soon as it is measured, ends by itself when its time is up, and goes on from there the
next time.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from benchmark.packed import records_in
from benchmark.records import read_record, write_json
from benchmark.reference import REFERENCE
from benchmark.speed import (
    assemble,
    audit,
    clock,
    committed,
    ends,
    expected,
    outside_profile,
    parts,
    planning,
    settings,
    steps,
    training,
)
from benchmark.speed.clock import Clock, OutOfTime
from benchmark.speed.settings import Stage

logger = logging.getLogger(__name__)

PARTS = ("plan", "parts", "profile", "whole", "ends", "training", "run", "assemble")
UNFINISHED = 75
"""Exit status of a job whose time was up before it was done: run it again (EX_TEMPFAIL)."""

MEASURE = MappingProxyType(
    {
        "parts": (parts.measure, parts.finished),
        "profile": (outside_profile.measure, outside_profile.finished),
        "whole": (steps.measure, steps.finished),
        "ends": (ends.measure, ends.finished),
        "training": (training.measure, training.finished),
        "run": (steps.run, steps.run_finished),
    }
)

EXAMPLE = """examples:
  python -m benchmark latency --config config/h100.yaml --estimate --resume-from results/reference/h100/records
  python -m benchmark --one-gpu latency --config config/h100.yaml --stage hunyuanvideo/table1 \\
      --out results/h100/records --limit-s 500
  python -m benchmark --one-gpu latency --config config/h100.yaml --stage mochi-1/short --part run --out ...
  python -m benchmark --one-gpu latency --audit results/h100/records
  python -m benchmark latency --publish results/h100/records      # to be committed, and on another machine:
  python -m benchmark --one-gpu latency ... --resume-from results/reference/h100/records

exit status: 75 when the time was up before all was measured; the same command goes on."""


def measure(
    stage: Stage, asked: Iterable[str], records: Path, timer: Clock, device: str, only: Iterable[str] = ()
) -> dict[str, bool]:
    """Runs parts of a stage, in order.

    Args:
        asked: names of parts.
        records: the folder of all records.
        only: methods; all where empty.

    Returns:
        By part, whether it is done.
    """
    planned = planning.ensure(stage, records)
    if only:
        planned = _only(planned, set(only))
    done = {}
    for part in (part for part in PARTS if part in asked):
        if part == "assemble":
            assemble.assemble(planned, records)
            done[part] = True
        elif part == "plan":
            done[part] = True
        else:
            run_part, finished = MEASURE[part]
            try:
                run_part(planned, records, timer, device)
            except OutOfTime as error:
                logger.warning("%s, %s: the time is up: %s; run it again to go on", stage.name, part, error)
                done[part] = False
            else:
                done[part] = finished(planned, records, device)
    return done


def _only(planned: Mapping[str, Any], methods: set[str]) -> dict[str, Any]:
    """A plan with some of its methods; dense stays, since all are compared with it."""
    methods = methods | {settings.REFERENCE}
    kept = {key: found for key, found in planned["cells"].items() if key.partition("/")[0] in methods}
    unknown = methods - {key.partition("/")[0] for key in kept}
    if unknown:
        raise ValueError(f"methods: {', '.join(sorted(unknown))}: none of this stage's")
    lists = {name: [key for key in planned[name] if key in kept] for name in ("whole", "training")}
    return {**planned, **lists, "cells": kept, "run": planned["run"] if planned["run"] in kept else None}


def estimate(
    stages: Mapping[str, Stage], records: Path | None, resume_from: Path | None = None
) -> dict[str, dict[str, float]]:
    """GPU seconds on an H100 that each part of each stage will take, roughly.

    Densities are those of the plans that are there, else the budgets.

    Args:
        stages: by name.
        records: a run's own folder of records; of its plans alone is made use.
        resume_from: records of other machines; with these, what is left once they are taken over, and what is in
            ``records`` too. None for all.
    """
    found = {}
    for name, stage in stages.items():
        folders = [folder for folder in (records, resume_from) if folder is not None]
        plans = (folder / name / planning.FILE for folder in folders)
        path = next((path for path in plans if path.exists()), None)
        left: dict[str, Any] = {}
        if path is not None:
            planned = planning.read(path) | planning.lists(stage)
            left = {"done": committed.measured_in(folders, planned)} if resume_from is not None else {}
        else:
            cells = {}
            for cell in stage.cells:
                density = 1.0 if cell.method in (settings.REFERENCE, "riflex") else cell.budget or 0.3
                cells[settings.key_of(cell)] = {"cell": cell.settings(), "density": density}
            planned = {
                "cells": cells,
                "whole": stage.whole,
                "training": stage.training,
                "training_whole": stage.training_whole,
                "run": stage.run,
            }
        found[name] = {part: expected.part_s(planned, part, **left) for part in stage.measured}
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.description = __doc__
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--config", type=Path, metavar="FILE", help="a speed experiment, such as config/h100.yaml")
    parser.add_argument("--stage", metavar="MODEL/SHAPE", help="what is timed; see --estimate for their names")
    parser.add_argument("--stage-json", metavar="JSON", help=argparse.SUPPRESS)
    parser.add_argument(
        "--part", action="append", choices=[*PARTS, "all"], help="may stand more than once; default all"
    )
    parser.add_argument("--methods", metavar="A,B", help="some methods of the stage; dense is always among them")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="the folder of records, results/h100/records")
    parser.add_argument(
        "--resume-from",
        type=Path,
        metavar="FOLDER",
        help="records of other machines, such as results/reference/h100/records, that are not measured again",
    )
    parser.add_argument(
        "--summary",
        type=Path,
        metavar="FILE",
        help="JSON written when every part asked for is done; of an audit its outcome, and the exit status is then 0",
    )
    parser.add_argument("--limit-s", type=float, metavar="SECONDS", help="begin nothing new that would end later")
    parser.add_argument("--whole-run", action="store_true", help="the same as --part run")
    parser.add_argument(
        "--estimate",
        action="store_true",
        help="print the GPU seconds that each part will take; with --resume-from those that are left",
    )
    parser.add_argument("--audit", type=Path, metavar="FOLDER", help="measure a share of the cells anew")
    parser.add_argument("--share", type=float, default=0.05, help="share that the audit takes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which ones the audit takes (default: %(default)s)")
    parser.add_argument("--publish", type=Path, metavar="FOLDER", help="copy records to results/reference")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu is a trial (default: %(default)s)"
    )
    parser.add_argument(
        "--resized",
        metavar="KEY=VALUE,...",
        help="a trial with other arguments of the transformer, such as num_layers=2",
    )


def run(args: argparse.Namespace) -> int:
    """Measures, and returns the exit status."""
    import torch

    if args.publish:
        print(f"{len(committed.publish(args.publish))} files are in {REFERENCE}")
        return 0
    if args.audit:
        if not 0 < args.share <= 1:
            raise ValueError(f"--share={args.share}: a share above 0 and at most 1 is needed")
        try:
            found = audit.audit(args.audit, args.device, args.share, args.seed, args.limit_s)
        except OutOfTime as error:
            logger.warning("audit: the time is up: %s; run it again to go on", error)
            return UNFINISHED
        for name, ratio in found.items():
            print("not measured" if ratio is None else f"{ratio:.3f}", name, sep="  ")
        if not found:
            nothing = f"--audit {args.audit}: nothing that was timed there passed, so there is nothing to audit"
            if not args.summary:
                raise ValueError(nothing)
            logger.warning(nothing)  # a run in which nothing could be timed goes on to tables that say why
        agrees = all(map(audit.agrees, found.values())) if found else None
        if args.summary:  # for a workflow: the outcome is in the records, and tables leave out what disagrees
            write_json(args.summary, {"tolerance": audit.TOLERANCE, "agrees": agrees, "new_over_old": found})
            return 0
        return int(not agrees)
    if args.config is None and args.stage_json is None:
        raise ValueError("--config is missing: a speed experiment, such as config/h100.yaml")
    trial = _trial(args)
    if args.stage_json is not None:
        stages = settings.stages(json.loads(args.stage_json), trial)
    else:
        from benchmark import config

        stages = settings.stages(config.read(args.config), trial, args.stage) if trial else settings.load(args.config)
    if args.estimate:
        _print_estimate(estimate(stages, args.out, args.resume_from))
        return 0
    if args.stage is None and len(stages) != 1:
        raise ValueError(f"--stage is missing: one of {', '.join(stages)}")
    name = args.stage or next(iter(stages))
    if name not in stages:
        from benchmark.registry import nearest

        raise ValueError(f"--stage {name}: no such stage: {nearest(name, list(stages))}")
    if args.out is None:
        raise ValueError("--out is missing: the folder of records, such as results/h100/records")
    asked = set(args.part or (["run"] if args.whole_run else ["all"]))
    asked = set(PARTS) if "all" in asked else asked
    if not any(part in MEASURE for part in asked):
        torch.set_num_threads(1)  # masks are planned in many small steps, which threads only slow down
    if args.resume_from is not None and not trial:
        gpu = clock.device_name(args.device) if asked != {"plan"} else None  # a plan's job may run anywhere
        committed.take_over(name, planning.asked(stages[name]), args.out, args.resume_from, gpu)
    only = [method for method in (args.methods or "").split(",") if method]
    done = measure(stages[name], asked, args.out, Clock(args.device, args.limit_s), args.device, only)
    _print_records(args.out / name)
    if not all(done.values()):
        return UNFINISHED
    if args.summary:
        write_json(args.summary, {"stage": name, "parts": sorted(done), "records": _statuses(args.out / name)})
    return 0


def _trial(args: argparse.Namespace) -> dict[str, Any]:
    trial: dict[str, Any] = {}
    for word in filter(None, (args.resized or "").split(",")):
        key, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"--resized {word!r}: KEY=VALUE is needed, such as num_layers=2")
        if key == "device":
            raise ValueError(f"--resized {word!r}: no argument of a transformer; --device cpu is a trial without a GPU")
        number = yaml.safe_load(value)
        trial[key] = [int(part) for part in value.split("x")] if isinstance(number, str) and "x" in value else number
    return trial | ({"device": "cpu"} if args.device == "cpu" else {})


def _statuses(folder: Path) -> dict[str, str]:
    paths = (path for path in records_in(folder, "**/*.json") if path.name != planning.FILE)
    return {path.relative_to(folder).as_posix(): read_record(path)["status"] for path in paths}


def _print_records(folder: Path) -> None:
    for path in records_in(folder, "**/*.json"):
        if path.name == planning.FILE:
            continue
        held = read_record(path)
        words = ", ".join(
            f"{name}={value:.4g}" for name, value in held["values"].items() if name.endswith("_s") or name == "speedup"
        )
        print(f"{path.relative_to(folder).as_posix():<44}{words or held['status'] + ': ' + str(held['reason'])}")


def _print_estimate(found: Mapping[str, Mapping[str, float]]) -> None:
    columns = list(MEASURE)
    print(f"{'GPU seconds on one H100':<28}" + "".join(f"{part:>10}" for part in columns))
    for name, each in found.items():
        shown = {part: f"{seconds:.0f}" if seconds else "done" for part, seconds in each.items()}
        print(f"{name:<28}" + "".join(f"{shown.get(part, ''):>10}" for part in columns))
    total = sum(sum(each.values()) for each in found.values())
    print(f"{'together':<28}{total:>10.0f} s, {total / 3600:.1f} h")
