"""Where a pass's time outside attention goes, and what its matrix products would take at best.

The compiled transformer runs once under PyTorch's profiler, with attention left out. Every kernel on the device is put
into one of ``CLASSES`` by its name. Beside it stands the rate of a large bfloat16 matrix product that has run for
seconds: a GPU at its power limit lowers its clock, so the rate of a short trial is out of a long run's reach.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmark import operations
from benchmark.kernel_times import matmul_inputs
from benchmark.speed import clock, expected
from benchmark.speed.cells import SpeedCell, from_settings
from benchmark.speed.clock import Clock, Measured, spread
from benchmark.speed.network import FULL, Network, check_device, check_memory, forget, layout_of, spec_of
from benchmark.speed.parts import copying
from benchmark.speed.sources import fused_parts

PROFILE = "profile"
CLASSES = ("products", "cross_attention", "rows", "other")
"""Matrix products; cross-attention; norms, residuals, rotations and copies, which read and write rows; all else."""
PATTERNS = (
    ("rows", r"^triton|^_(add_norm|norm_rotate)"),  # first, for their names tell all that they were fused from
    ("cross_attention", r"sdpa|fmha|flash|attention"),
    ("products", r"nvjet|gemm|cutlass|cublas|^aten::(addmm|mm|bmm|_addmm_activation)$"),
    ("rows", r"elementwise|norm|copy|^aten::(cat|mul|add|add_|gelu|sigmoid|silu)$"),
)
"""By which a kernel's class is told from its name; the first that matches counts."""
SETTLE_S, FOR_S = 3.0, 3.0
"""Seconds for which the large product runs before it is timed, and while it is."""


def measure(planned: Mapping[str, Any], records: Path, timer: Clock, device: str) -> None:
    """The profile of a stage, in a record of its own.

    Raises:
        OutOfTime: the job's time is up.
    """
    if not planned["profile"]:
        return
    stage = from_settings(next(iter(planned["cells"].values()))["cell"]).of_stage()
    path = records / stage.path / f"{PROFILE}.json"
    if clock.done(path, stage, device) is None:
        timer.reserve(expected.profile_s(stage), f"{stage.stage}: profile")
        clock.record(PROFILE, stage, path, device, lambda: profile(stage, timer, device))


def profile(cell: SpeedCell, timer: Clock, device: str) -> Measured:
    """Seconds of a pass by class of kernel, and the rates of its matrix products and of a large one."""
    check_device(device)
    check_memory(cell, device)
    settled = {"warm_s": SETTLE_S, "for_s": FOR_S} if device != "cpu" else {}
    left, right = matmul_inputs(device)
    multiply = functools.partial(torch.matmul, left, right)
    product = timer.time(multiply, warmup=2, calls=5, what="a large matrix product", **settled)
    rate = 2 * left.shape[0] ** 3 / product.median
    del multiply, left, right
    network = Network(cell, copying(cell, device), device, FULL)
    whole = timer.time(network.forward, warmup=2, calls=3, what="a pass")
    copies = network.router.copies_s(len(whole.samples), network.spec.layers)  # no part of the time outside
    kernels = profiled(network, device)
    counted = operations.pass_operations(spec_of(cell), layout_of(cell))
    linear = counted.linear + counted.ends
    forget(network)
    seconds = by_class(kernels)
    seconds["rows"] = max(seconds["rows"] - copies, 0.0)
    outside = whole.median - copies
    values = {f"{name}_s": found for name, found in seconds.items()} | {
        "pass_s": outside,
        "idle_s": max(outside - sum(seconds.values()), 0.0),
        "products_limit_s": linear / rate,
        "products_tflops": linear / seconds["products"] / 1e12 if seconds["products"] else 0.0,
        "large_product_tflops": rate / 1e12,
    }
    units = {"products_tflops": "TFLOP/s", "large_product_tflops": "TFLOP/s"}
    longest = sorted(kernels.items(), key=lambda item: -item[1][0])[:20]
    details = {
        "kernels": [{"name": name, "seconds": time, "calls": calls} for name, (time, calls) in longest],
        "units": units,
        "passes": cell.passes,
        clock.FUSED: fused_parts(cell.model),
    }
    return values, spread({"pass": whole, "large_product": product}) | details


def profiled(network: Network, device: str) -> dict[str, tuple[float, int]]:
    """Seconds and number of calls of everything that ran on the device in one pass, by name."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    on_gpu = device != "cpu"
    with profiler(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as found:
        network.forward()
        if on_gpu:
            torch.cuda.synchronize()
    seconds: dict[str, tuple[float, int]] = {}
    for event in found.key_averages():
        time = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if time > 0:
            seconds[event.key] = (time / 1e6, event.count)
    return seconds


def by_class(kernels: Mapping[str, tuple[float, int]]) -> dict[str, float]:
    """Seconds by class of kernel, all of ``CLASSES``."""
    found = dict.fromkeys(CLASSES, 0.0)
    for name, (seconds, _) in kernels.items():
        kind = next((kind for kind, pattern in PATTERNS if re.search(pattern, name, re.IGNORECASE)), "other")
        found[kind] += seconds
    return found


def finished(planned: Mapping[str, Any], records: Path, device: str) -> bool:
    """Whether the stage's profile, if it has one, has a record."""
    stage = from_settings(next(iter(planned["cells"].values()))["cell"]).of_stage()
    return not planned["profile"] or clock.finished([(records / stage.path / f"{PROFILE}.json", stage)], device)
