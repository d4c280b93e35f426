"""Times of calls on a device, and what else the device was doing meanwhile."""

from __future__ import annotations

import functools
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmark.nvidia_smi import ask


class Quartiles(NamedTuple):
    """Lower quartile, median and upper quartile of samples, in their unit."""

    low: float
    median: float
    high: float


def time_calls(
    function: Callable[[], Any],
    warmup: int = 2,
    calls: int = 10,
    device: torch.device | str | None = None,
    between: Callable[[], Any] | None = None,
) -> list[float]:
    """Seconds of each of ``calls`` calls, after ``warmup`` calls that do not count.

    On a GPU every call stands between two CUDA events on the current stream, and the calls are queued one behind the
    other, so that what the host needs to start one is hidden where the device is the slower. On a CPU it is wall time.

    Args:
        function: what is timed; its result is dropped.
        device: where it runs; None is the current GPU, or the CPU where there is none.
        between: runs before every call, and is not timed.

    Raises:
        ValueError: no call would be timed.
    """
    if calls < 1 or warmup < 0:
        raise ValueError(f"timing: {warmup} warm-up and {calls} timed calls: at least 0 and 1 are needed")
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device is None else device)
    between = between or _nothing
    for _ in range(warmup):
        between()
        function()
    if device.type != "cuda":
        samples = []
        for _ in range(calls):
            between()
            start = time.perf_counter()
            function()
            samples.append(time.perf_counter() - start)
        return samples
    with torch.cuda.device(device):
        torch.cuda.synchronize()
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(calls)]
        for start, end in events:
            between()
            start.record()
            function()
            end.record()
        torch.cuda.synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in events]


def _nothing() -> None:
    pass


def quartiles(samples: Sequence[float]) -> Quartiles:
    """Quartiles of samples, interpolated between them, as ``numpy.quantile`` does.

    Raises:
        ValueError: there are no samples.
    """
    if not samples:
        raise ValueError("quartiles of no samples: at least 1 is needed")
    if len(samples) == 1:
        return Quartiles(samples[0], samples[0], samples[0])
    return Quartiles(*statistics.quantiles(samples, n=4, method="inclusive"))


# What nvidia-smi is asked for, and the name it gets here.
_STATE = (
    ("clocks.sm", "sm_clock_mhz"),
    ("clocks.mem", "memory_clock_mhz"),
    ("temperature.gpu", "temperature_c"),
    ("power.draw", "power_w"),
    ("power.limit", "power_limit_w"),
    ("utilization.gpu", "utilization_pct"),
)


# What a process holds on a GPU beside PyTorch's own memory: its context, code, stacks. An H100 after five kernels: 0.7
# GiB. Whatever computes next to it and holds less than the rest of this goes unseen where nvidia-smi lists nothing.
_UNLISTED_MIB = 1536
_OWN_MIB = 4096  # the same where processes are listed: wide, since this one is among them and has only to be told apart


def gpu_state(device: torch.device | str = "cuda") -> dict[str, Any]:
    """Clocks (MHz), temperature (C), power (W) and use of a GPU at this moment.

    What nvidia-smi does not say is left out; where it can't be asked at all, ``unread`` says why. Empty on a CPU.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return {}
    try:
        line = ask(device, "--query-gpu=" + ",".join(field for field, _ in _STATE))
    except (OSError, subprocess.SubprocessError) as error:
        return {"unread": f"nvidia-smi: {error}"}
    state: dict[str, Any] = {}
    for (_, name), word in zip(_STATE, (line.splitlines() or [""])[0].split(","), strict=False):
        word = word.strip()
        try:
            state[name] = float(word)
        except ValueError:
            continue  # "[N/A]": this GPU does not tell
    return state


def other_processes(device: torch.device | str = "cuda") -> list[dict[str, Any]] | None:
    """The processes beside this one that compute on a GPU: number and memory (MiB) of each.

    A number timed while there are any does not count. In a container a process may be listed under a number of the
    host (``without_own``). Or none is listed at all, not even this one: then memory that this process can't account for
    says that there is another, without a number.

    Returns:
        None where nvidia-smi can't be asked; an empty list where this process has the GPU for itself, or on a CPU.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return []
    _be_listed(device)
    before = torch.cuda.memory_reserved(device) / 2**20
    try:
        lines = ask(device, "--query-compute-apps=pid,used_memory").splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    found = []
    for line in lines:
        pid, _, memory = (word.strip() for word in line.partition(","))
        if pid.isdigit():
            found.append({"pid": int(pid), "memory_mib": int(memory) if memory.isdigit() else None})
    free, total = (0, 0) if found else torch.cuda.mem_get_info(device)
    # What is looked at from another thread may take or give back memory meanwhile.
    own = sorted((before, torch.cuda.memory_reserved(device) / 2**20))
    if found:
        return without_own(found, os.getpid(), *own)
    foreign = (total - free) / 2**20 - own[1]
    return [{"pid": None, "memory_mib": round(foreign)}] if foreign > _UNLISTED_MIB else []


@functools.cache
def _be_listed(device: torch.device) -> None:
    """Makes this process's context on a GPU: before, nvidia-smi does not list it, and another could be taken for it."""
    torch.cuda.mem_get_info(device)


def without_own(found: list[dict[str, Any]], pid: int, least_mib: float, most_mib: float) -> list[dict[str, Any]]:
    """The processes but this one.

    That is the one of this number. Where it is not listed, numbers may be those of a host: of the processes whose
    number nobody has here and whose memory this process can hold, the one that is nearest to it is taken for this one.

    Args:
        found: number and memory (MiB, None where it is not told) of each.
        pid: this process's number.
        least_mib, most_mib: what PyTorch held for this process, at least and at most, while it was looked.
    """
    own = next((process for process in found if process["pid"] == pid), None)
    if own is None:

        def above(process: dict[str, Any]) -> float:
            return 0.0 if process["memory_mib"] is None else process["memory_mib"] - most_mib

        hosts = [process for process in found if not Path(f"/proc/{process['pid']}").exists()]
        possible = [process for process in hosts if int(least_mib - most_mib) <= above(process) <= _OWN_MIB]
        own = min(possible, key=lambda process: abs(above(process)), default=None)
    return [process for process in found if process is not own]
