"""Times on a device under the rules of the protocol, what the GPU was doing meanwhile, and records of what failed."""

from __future__ import annotations

import functools
import gc
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from benchmark import timing
from benchmark.packed import file_of
from benchmark.records import (
    code_hash,
    describe_device,
    make_record,
    provenance,
    read_record,
    transient,
    write_json,
)
from benchmark.speed.cells import SpeedCell
from benchmark.speed.sources import fused_parts, method_hash
from benchmark.watch import Watch, disturbance

logger = logging.getLogger(__name__)

PROTOCOL = MappingProxyType({"attention": 2, "lora": 2, "outside": 2})
"""By kind of record, how its numbers are taken; 1 where nothing is said. Records of an earlier way count as not there.

Calls of attention: 2 runs a pass's other work between them (``benchmark.speed.between``). Time outside attention: 2
leaves out the copies of values that are handed on."""

FUSED = "fused_parts"
"""Where details say which parts of the fused blocks ran."""

FIRST_RANK = 128
"""Rank of the adapter in records that do not say it: the committed ones are of config/h100.yaml, which says 128."""


class OutOfTime(Exception):
    """The job's time is up: what is left is for the next one."""


class Unsupported(Exception):
    """This machine cannot measure it; the words say why."""


class Disturbed(Exception):
    """Another process was on the GPU, or nobody can tell, so that what was timed does not count."""


@dataclass(frozen=True)
class Timing:
    """Seconds of each timed call, and the GPU's state before, while and after."""

    samples: list[float]
    gpu: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """The median, in seconds."""
        return timing.quartiles(self.samples).median

    @property
    def quartiles(self) -> list[float]:
        """Lower quartile, median and upper quartile, in seconds."""
        return list(timing.quartiles(self.samples))


class Clock:
    """Times calls on one device until a job's time is up.

    Args:
        device: ``cuda`` or ``cpu``.
        limit_s: seconds from now after which nothing new is begun; None for no limit.
    """

    def __init__(self, device: str, limit_s: float | None = None) -> None:
        self.device = device
        self.end = None if limit_s is None else time.monotonic() + limit_s

    def left(self) -> float:
        """Seconds that are left."""
        return float("inf") if self.end is None else self.end - time.monotonic()

    def reserve(self, seconds: float, what: str) -> None:
        """Ends the job where what comes next would not fit.

        Raises:
            OutOfTime: fewer seconds than that are left.
        """
        if self.left() < seconds:
            raise OutOfTime(f"{what} takes about {seconds:.0f} s, {max(self.left(), 0):.0f} s are left")

    def time(
        self,
        function: Callable[[], Any],
        *,
        warmup: int = 1,
        calls: int = 5,
        least: int = 1,
        within_s: float | None = None,
        warm_s: float = 0.0,
        for_s: float = 0.0,
        between: Callable[[], Any] | None = None,
        what: str = "call",
    ) -> Timing:
        """Seconds of calls, each between two CUDA events (wall time on a CPU).

        Args:
            warmup: calls before, that do not count.
            calls: calls that count.
            least: so many of them at least, where ``within_s`` does not hold all.
            within_s: seconds that the calls that count may take together.
            warm_s, for_s: seconds for which calls warm up and are timed at least, with what runs between them; they are
                more than ``warmup`` and ``calls`` then.
            between: runs before every call, and is not timed.

        Raises:
            Disturbed: another process was on the GPU before, while or after, or whether one was cannot be told.
            OutOfTime: the job's time is up before ``warm_s`` are, or not even ``least`` calls fit into what is left.
        """
        self._alone()
        before = timing.gpu_state(self.device)
        begun, warmed = time.monotonic(), 0
        while warmed < warmup or time.monotonic() - begun < warm_s:
            if warmed >= warmup and self.left() <= 0:
                raise OutOfTime(f"{what}: the time is up before the GPU has settled")
            timing.time_calls(function, warmup=0, calls=1, device=self.device, between=between)
            warmed += 1
        samples: list[float] = []
        with Watch(self.device) as watch:
            begun = time.monotonic()
            while len(samples) < calls or time.monotonic() - begun < for_s:
                if len(samples) >= least and within_s is not None and sum(samples) + samples[-1] > within_s:
                    break
                if samples and self.left() < samples[-1]:
                    if len(samples) >= least:
                        break
                    raise OutOfTime(f"{what}: a call takes {samples[-1]:.0f} s, {max(self.left(), 0):.0f} s are left")
                samples += timing.time_calls(function, warmup=0, calls=1, device=self.device, between=between)
        after = timing.gpu_state(self.device)
        self._alone()
        _undisturbed(watch.others)
        return Timing(samples, {"before": before, "during": watch.seen(), "after": after})

    def _alone(self) -> None:
        _undisturbed(timing.other_processes(self.device))


def _undisturbed(others: list[dict[str, Any]] | None) -> None:
    reason = disturbance(others)
    if reason is not None:
        raise Disturbed(reason)


def free(device: str) -> None:
    """Gives back memory that nothing uses any more."""
    if device == "cpu":
        return
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


Measured = tuple[Mapping[str, float], Mapping[str, Any]]


def record(
    kind: str,
    cell: SpeedCell,
    path: Path,
    device: str,
    measure: Callable[[], Measured],
) -> dict[str, Any]:
    """Measures and writes a record; where it fails, one that says why.

    Args:
        measure: returns values (seconds unless ``units`` in the details say otherwise) and details; what these have as
            ``hashes`` joins the method's in the provenance.

    Returns:
        The record.

    Raises:
        OutOfTime: nothing is written then; the next job begins with it.
    """
    logger.info("%s: %s %s %s", kind, cell.stage, cell.method, cell.setting)
    begun = time.monotonic()
    facts = _device(device)
    hashes = {"method": method_hash(cell.method)} if cell.method else {}
    failed = functools.partial(_failed, kind, cell, facts, hashes)
    try:
        values, details = measure()
    except OutOfTime:
        raise
    except torch.OutOfMemoryError as error:
        made = failed("out_of_memory", error)
    except MemoryError as error:
        made = failed("out_of_memory", error)
    except Unsupported as error:
        made = failed("unsupported", error)
    except Disturbed as error:
        made = failed("error", error, {"disturbed": True} | transient(_summaries(path, cell)))
    except Exception as error:  # whatever a method or a kernel raises is this cell's; the others go on
        logger.exception("%s: %s %s %s", kind, cell.stage, cell.method, cell.setting)
        made = failed("error", error)
    else:
        details = dict(details)
        status, reason = details.pop("status", "passed"), details.pop("reason", None)
        units = dict.fromkeys((name for name in values if name.endswith("_s")), "s") | details.pop("units", {})
        details |= {"job_s": time.monotonic() - begun, "protocol": PROTOCOL.get(kind, 1)}
        made = make_record(
            kind,
            cell,
            status,
            values if status == "passed" else None,
            reason=reason,
            units=units,
            details=details,
            hashes=hashes | details.pop("hashes", {}),
            device=facts,
        )
    write_json(path, made)
    if made["status"] != "passed":
        logger.warning("%s: %s: %s", path, made["status"], made["reason"])
    free(device)
    return made


def _failed(
    kind: str,
    cell: SpeedCell,
    facts: Mapping[str, Any],
    hashes: Mapping[str, str],
    status: str,
    error: BaseException,
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    reason = " ".join(str(error).split()) or type(error).__name__
    if status == "error" and not isinstance(error, Disturbed):
        reason = f"{type(error).__name__}: {reason}"
    return make_record(kind, cell, status, reason=reason[:500], details=details, hashes=hashes, device=facts)


def _summaries(path: Path, cell: SpeedCell) -> list[Path]:
    """What says that a stage's parts are done: without it, Snakemake starts the stage's jobs again."""
    folder = path.parents[len(cell.path.parts)].parent / "stages" / cell.stage
    return [folder / f"{part}.json" for part in ("parts", "profile", "whole", "ends", "training", "run")]


def done(path: Path, cell: SpeedCell, device: str, mask: str | None = None) -> dict[str, Any] | None:
    """The record at a path if it is about just this cell and need not be measured again; None where it has to be.

    What passed stays, but on another GPU than this one. What failed stays as well while code, packages and device are
    those that it failed with, unless another process was in the way.

    Args:
        mask: hash of the mask that the plan has; None where any will do.
    """
    held = _tried(path, cell, device, mask)
    return None if held is None or held["details"].get("disturbed") else held


def finished(wanted: Iterable[tuple[Path, SpeedCell] | tuple[Path, SpeedCell, str | None]], device: str) -> bool:
    """Whether there are records at all these paths that are about their cells and masks, as ``done`` has it.

    What another process disturbed counts: a job tries it once, and the next run measures it again.
    """
    return all(_tried(path, cell, device, *mask) is not None for path, cell, *mask in wanted)


def _tried(path: Path, cell: SpeedCell, device: str, mask: str | None = None) -> dict[str, Any] | None:
    """What ``done`` gives, or a record that would be that if nothing had disturbed it."""
    if not file_of(path).exists():
        return None
    try:
        held = read_record(path)
    except ValueError as error:
        logger.warning("%s; measured anew", error)
        return None
    if not about(held, cell, mask):
        return None
    origin, here = held["provenance"], device_name(device)
    same = origin["device"].get("name") == here
    if held["status"] == "passed":
        # A trial is of any processor, and without a GPU nothing better can be measured here.
        return held if same or device == "cpu" or here is None else None
    same &= origin["code"] == code_hash() and origin["packages"] == provenance()["packages"]
    return held if same else None


def about(held: Mapping[str, Any], cell: SpeedCell, mask: str | None = None) -> bool:
    """Whether a record is about just this cell, and its numbers, if it has any, were taken as they are now.

    The method's file, the parts of the fused blocks, and the mask where one is given, are compared where the record
    says which they were; the first records did not say the file, nor the parts.
    """
    have = held["cell"]
    if cell.rank is not None and "rank" not in have:
        have = {**have, "rank": held["details"].get("lora", {}).get("rank", FIRST_RANK)}
    if have != cell.settings() or outdated(held):
        return False
    if held["details"].get(FUSED) not in (None, fused_parts(cell.model)):
        return False
    said = held["provenance"]["hashes"]
    if cell.method and said.get("method") not in (None, method_hash(cell.method)):
        return False
    return mask is None or said.get("mask") in (None, mask)


def outdated(held: Mapping[str, Any]) -> bool:
    """Whether a record's numbers were taken in an earlier way; one without numbers is of no way."""
    return held["status"] == "passed" and held["details"].get("protocol", 1) != PROTOCOL.get(held["kind"], 1)


def device_name(device: str) -> str | None:
    """The name that records have for what is measured on; None where there is no GPU."""
    if device == "cpu":
        return describe_device(device)["name"]
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _device(device: str) -> dict[str, Any]:
    """What is measured on; nothing where there is no GPU."""
    here = device if device == "cpu" or torch.cuda.is_available() else None
    return {} if here is None else describe_device(here)


def spread(timings: Mapping[str, Timing]) -> dict[str, Any]:
    """What details of a record say about timings: quartiles, numbers of samples, and the GPU's state at the first."""
    first = next(iter(timings.values()))
    return {
        "quartiles": {name: found.quartiles for name, found in timings.items()},
        "samples": {name: len(found.samples) for name, found in timings.items()},
        "gpu": first.gpu,
    }
