"""Check and times of attention kernels under methods, at one shape, as a record of kind ``kernels``."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import torch

from benchmark import kernels, registry
from benchmark.layout import VideoLayout
from benchmark.masks import BlockMask
from benchmark.method import Method, Pattern
from benchmark.plan import has_mask
from benchmark.records import describe_device, make_record, sha256_file
from benchmark.sampled_oracle import kernel_errors, own_errors, sample_rows
from benchmark.timing import gpu_state, other_processes, quartiles, time_calls
from benchmark.watch import Watch, disturbance

DENSE = "dense"
OWN = "method"
"""Stands for the kernel of a method that computes no query-key pairs: its operator is its own."""
BACKWARD = 2.5
"""Operations of the backward pass over those of the forward pass: five matrix products against two."""
TOLERANCE = 2.0
"""How many times the error of PyTorch's own dense attention a kernel may err."""
PACKAGES = ("flash-attn-4", "nvidia-cutlass-dsl", "quack-kernels", "triton")
"""Where the kernels come from, beside the packages that every record names."""
UNITS = {"matmul_tflops": "TFLOP/s", "matmul_s": "s"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shape:
    """What a record of this verb is about: a model's attention at one length.

    Args:
        model, frames, height, width: the model, and the clip in frames and pixels.
        text: text tokens in the sequence.
        block: tokens a block.
        heads: attention heads; fewer than the model's for a trial.
        head_dim: channels a head.
        tokens: video and text.
        seed: of the inputs and the sampled queries.
    """

    model: str
    frames: int
    height: int
    width: int
    text: int
    block: int
    heads: int
    head_dim: int
    tokens: int
    seed: int = 0

    def settings(self) -> dict[str, Any]:
        """Every field, as it is written into records."""
        return asdict(self)


@dataclass(frozen=True)
class Options:
    """What is measured.

    Args:
        kernels: names, or ``name:variant``.
        repeat, warmup: calls that are timed, and calls before.
        rows: sampled queries of the check.
        backward: forward and backward together, too.
        complete: a method's whole operator, too: with what it adds to the kernel.
        tune: every variant of each kernel, too.
        limit_s: seconds after which no further kernel is begun; None for no limit.
    """

    kernels: tuple[str, ...]
    repeat: int = 10
    warmup: int = 2
    rows: int = 512
    backward: bool = False
    complete: bool = False
    tune: bool = False
    limit_s: float | None = None


@dataclass(frozen=True)
class Inputs:
    """Random queries, keys and values, the sampled queries, and the errors allowed there."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    rows: torch.Tensor
    dout: torch.Tensor | None
    allowed: dict[str, float]


def bench(shape: Shape, layout: VideoLayout, methods: list[Method], options: Options, device: str) -> dict[str, Any]:
    """The record of all kernels under all methods.

    Returns:
        A record of kind ``kernels``; ``details.entries`` has one entry for each kernel and method, with a status of
        its own, and ``details.left_out`` names those that the time did not reach. Another process on the GPU, before,
        while or after, voids all of it, and so does a GPU of which nobody can tell.
    """
    end = None if options.limit_s is None else time.monotonic() + options.limit_s
    described = describe_device(device) if device == "cpu" or torch.cuda.is_available() else {"type": device}

    def failed(status: str, reason: str, **details: Any) -> dict[str, Any]:
        return make_record("kernels", shape, status, reason=reason, details=details, device=described)

    if device != "cpu" and not torch.cuda.is_available():
        return failed("unsupported", "PyTorch finds no CUDA GPU")
    reason = disturbance(other_processes(device))
    if reason is not None:
        return failed("error", reason)
    machine = {"before": gpu_state(device)}
    entries, planning, left_out = [], [], []
    with Watch(device) as watch:
        try:
            matmul = matmul_rate(device)
            inputs = make_inputs(shape, options, device)
        except torch.OutOfMemoryError as error:
            return failed("out_of_memory", _line(error))
        for method in methods:
            plan = None
            for name, measure in _jobs(method, shape, layout, options, inputs, matmul[0], device, end):
                if _over(end):
                    logger.warning("%s: %s: left out, the %g s are over", method.name(), name, options.limit_s)
                    left_out.append({"method": method.name(), "kernel": name})
                    continue
                entry = measure()
                plan = entry.pop("planning", plan)
                entries.append(entry)
            planning += [plan] if plan else []
    add_dense_shares(entries)
    machine |= {"during": watch.seen(), "after": gpu_state(device)}
    reason = disturbance(watch.others) or disturbance(other_processes(device))
    if reason is not None:
        return failed("error", reason, **machine)
    details = {"entries": entries, "planning": planning, "left_out": left_out, "gpu": machine}
    details |= {
        "packages": {name: _version(name) for name in PACKAGES},
        "options": asdict(options),
        "layout": str(layout),
        "matmul_size": _matmul_size(device),
    }
    hashes = {f"method.{method.name()}": sha256_file(registry.source_file(method.name())) for method in methods}
    values = {"matmul_tflops": matmul[0] / 1e12, "matmul_s": matmul[1]}
    return make_record(
        "kernels", shape, "passed", values, units=UNITS, details=details, hashes=hashes, device=described
    )


def make_inputs(shape: Shape, options: Options, device: str) -> Inputs:
    """Random bfloat16 inputs of (1, tokens, heads, head size), the sampled queries and the errors allowed there."""
    generator = torch.Generator(device).manual_seed(shape.seed)
    size = (1, shape.tokens, shape.heads, shape.head_dim)
    q, k, v = (torch.randn(size, generator=generator, device=device, dtype=torch.bfloat16) for _ in range(3))
    rows = sample_rows(shape.tokens, options.rows, shape.seed).to(device)
    dout = None
    if options.backward:
        dout = torch.randn((len(rows), *size[2:]), generator=generator, device=device, dtype=torch.bfloat16)
    allowed = {name: TOLERANCE * error for name, error in own_errors(q, k, v, rows, dout).items()}
    return Inputs(q, k, v, rows, dout, allowed)


def matmul_rate(device: str) -> tuple[float, float]:
    """Operations a second of a square bfloat16 matrix product, and the median of its seconds."""
    one, other = matmul_inputs(device)
    median = quartiles(time_calls(lambda: one @ other, warmup=5, calls=20, device=device)).median
    return 2.0 * one.shape[0] ** 3 / median, median


def matmul_inputs(device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Two square bfloat16 matrices of random numbers, large enough that their product shows a GPU's rate."""
    size = _matmul_size(device)
    return torch.randn(size, size, device=device, dtype=torch.bfloat16), torch.randn(
        size, size, device=device, dtype=torch.bfloat16
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def _matmul_size(device: str) -> int:
    return 512 if device == "cpu" else 8192


def _over(end: float | None) -> bool:
    return end is not None and time.monotonic() >= end


def _jobs(
    method: Method,
    shape: Shape,
    layout: VideoLayout,
    options: Options,
    inputs: Inputs,
    rate: float,
    device: str,
    end: float | None,
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """What there is to measure of one method: the kernel's name and what makes its entry, which has ``planning``."""
    about = {"method": method.name(), "knobs": method.knobs()}
    if not has_mask(method):
        yield OWN, lambda: _operator_entry(method, about, shape, layout, options, inputs, rate, device)
        return
    if _over(end):  # not even the mask is planned, so variants are not known
        yield from ((name, dict) for name in options.kernels)
        return
    logger.info("%s: planning", method.name())
    try:
        pattern, planning = plan(method, shape, layout, inputs, device)
    except torch.OutOfMemoryError as error:
        failed = {**about, "kernel": OWN, "status": "out_of_memory", "reason": _line(error), "values": {}}
        yield OWN, lambda: failed
        return
    mask = pattern.mask
    about |= {"density": mask.density, "executed_pairs": mask.executed_pairs(), "mask_hash": mask.hash()}
    about |= {"operations": 4.0 * shape.heads * shape.head_dim * mask.executed_pairs()}

    def measure(name: str) -> dict[str, Any]:
        logger.info("%s: %s", method.name(), name)
        entry = {**about, "kernel": name, "status": "passed", "reason": None, "values": {}, "planning": planning}
        return entry | _guarded(
            lambda: _kernel_entry(name, method, mask, pattern, shape, layout, options, inputs, rate, device)
        )

    for name in _kernel_names(options, mask):
        yield name, functools.partial(measure, name)


def _kernel_names(options: Options, mask: BlockMask) -> Iterator[str]:
    """The kernels asked for, each followed by its variants, if those are wanted and differ on such a mask."""
    for name in options.kernels:
        yield name
        module = kernels.load(name.partition(":")[0])
        if options.tune and ":" not in name and hasattr(module, "VARIANTS") and module.differ(mask):
            yield from (f"{name}:{key}" for key in module.VARIANTS)


def kernel(name: str, shape: Shape, device: str, sparse: bool) -> tuple[str | None, Callable[..., torch.Tensor]]:
    """Why a kernel can't run, or None, and its ``attend``.

    Args:
        name: of a kernel, or ``name:variant``.
        sparse: whether the mask leaves anything out; a dense one may have blocks of any size.

    Raises:
        ValueError: there is no such kernel or variant.
    """
    base, _, variant = name.partition(":")
    module = kernels.load(base)
    reason = module.unavailable(torch.device(device))
    if reason is None:
        reason = module.unsupported(shape.block if sparse else 128, torch.bfloat16, shape.head_dim)
    if not variant:
        return reason, module.attend
    variants = getattr(module, "VARIANTS", {})
    if variant not in variants:
        raise ValueError(f"kernel {name!r} is unknown: {registry.nearest(variant, list(variants) or ['no variant'])}")
    if reason is None and hasattr(module, "unavailable_as"):
        reason = module.unavailable_as(variants[variant], torch.device(device))
    return reason, functools.partial(module.attend_as, variants[variant])


def _kernel_entry(name, method, mask, pattern, shape, layout, options, inputs, rate, device) -> dict[str, Any]:
    """Check and times of one kernel under one method; ``training`` has a status of its own.

    ``backends`` names what of a library computed the check, where that chooses.
    """
    reason, attend = kernel(name, shape, device, not mask.is_dense)
    if reason is not None:
        return {"status": "unsupported", "reason": reason}
    q, k, v = inputs.q, inputs.k, inputs.v
    with getattr(kernels.load(name.partition(":")[0]), "recorded", contextlib.nullcontext)() as backends:
        entry = _checked(kernel_errors(attend, q, k, v, mask, inputs.rows), inputs.allowed)
    entry |= {"backends": sorted(backends)} if backends is not None else {}
    if entry["status"] != "passed":
        return entry
    operations = 4.0 * shape.heads * shape.head_dim * mask.executed_pairs()
    forward = functools.partial(attend, q, k, v, mask, out=torch.empty_like(v))
    entry |= _lists(name, mask, k, device)
    values = _times(forward, "forward", operations, options, rate, device)
    if options.complete:
        values |= _complete(method, pattern, attend, shape, layout, options, inputs, rate, device)

    def training() -> dict[str, Any]:
        found = _checked(kernel_errors(attend, q, k, v, mask, inputs.rows, inputs.dout), inputs.allowed)
        if found["status"] != "passed":
            return found
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        dout = torch.randn_like(v)

        def train() -> None:
            with torch.enable_grad():
                torch.autograd.grad(attend(*leaves, mask), leaves, dout)

        return found | {"values": _times(train, "training", operations * (1 + BACKWARD), options, rate, device)}

    if options.backward:
        found = _guarded(training)
        values |= found.pop("values", {})
        entry["training"] = found
    return entry | {"values": values}


def _lists(name: str, mask: BlockMask, k: torch.Tensor, device: str) -> dict[str, Any]:
    """``lists``: seconds and peak memory (MiB) to make what a kernel's forward pass reads of a mask; empty without any.

    Not of this mask, which has its lists already, but of copies: the first loads code onto the GPU, the second counts.
    """
    base, _, variant = name.partition(":")
    module = kernels.load(base)
    if not hasattr(module, "prepare"):
        return {}
    chosen = module.VARIANTS[variant] if variant else None
    copies = [BlockMask(mask.blocks, mask.block, mask.tokens, mask.period) for _ in range(2)]
    module.prepare(copies.pop(), k, chosen)
    _, seconds, peak = _measured(lambda: module.prepare(copies[0], k, chosen), device)
    return {"lists": {"seconds": seconds, "peak_mib": peak}}


def _checked(found: dict[str, float], allowed: dict[str, float]) -> dict[str, Any]:
    """Errors, what is allowed, and the status that follows."""
    wrong = [f"{name} {error:.2e} > {allowed[name]:.2e}" for name, error in found.items() if not error <= allowed[name]]
    if wrong:  # no numbers: an infinite error, of an output that is not finite, is none in JSON
        return {"status": "incorrect", "reason": f"relative error against float32: {', '.join(wrong)}"}
    return {"status": "passed", "reason": None, "errors": found, "allowed": {name: allowed[name] for name in found}}


def _complete(method, pattern, attend, shape, layout, options, inputs, rate, device) -> dict[str, float]:
    """Times of a method's whole operator, without the rotation, which is the model's."""
    # What depends on the layout alone is planned once for all layers and steps, so it is no part of a call.
    known = method.pattern(layout, shape.block, shape.heads, device) if method.dynamic else pattern

    def call() -> torch.Tensor:
        return method.attend(inputs.q, inputs.k, inputs.v, lambda x: x, layout, shape.block, attend, known)

    operations = method.attention_operations(layout, shape.block, shape.heads, shape.head_dim)
    return _times(call, "complete", operations, options, rate, device)


def _operator_entry(method, about, shape, layout, options, inputs, rate, device) -> dict[str, Any]:
    """The entry of a method that is no softmax attention over a mask: only its whole operator has a time."""
    operations = method.attention_operations(layout, shape.block, shape.heads, shape.head_dim)
    entry = {**about, "kernel": OWN, "operations": operations, "status": "passed", "reason": None, "values": {}}

    def measure() -> dict[str, Any]:
        return {"values": _complete(method, None, None, shape, layout, options, inputs, rate, device)}

    return entry | _guarded(measure)


def _guarded(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What is measured, or why it could not be. A kernel is anybody's code: its failure is a result."""
    try:
        return measure()
    except torch.OutOfMemoryError as error:
        found = {"status": "out_of_memory", "reason": _line(error)}
    except Exception as error:
        logger.error("failed:\n%s", traceback.format_exc())
        found = {"status": "error", "reason": f"{type(error).__name__}: {_line(error)}"}
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return found


def _times(
    call: Callable[[], Any], name: str, operations: float, options: Options, rate: float, device: str
) -> dict[str, float]:
    """Quartiles of a call, its TFLOP/s, and what share of the matrix product's they are."""
    with torch.no_grad():
        found = quartiles(time_calls(call, options.warmup, options.repeat, device))
    times = {f"{name}_s": found.median, f"{name}_low_s": found.low, f"{name}_high_s": found.high}
    speed = operations / found.median
    return times | {f"{name}_tflops": speed / 1e12, f"{name}_matmul_share": speed / rate}


def plan(
    method: Method, shape: Shape, layout: VideoLayout, inputs: Inputs, device: str
) -> tuple[Pattern, dict[str, Any]]:
    """The pattern of a method, and what making its mask takes: seconds and peak memory (MiB)."""

    def make() -> Pattern:
        if method.dynamic:
            return method.pattern_for(inputs.q, inputs.k, inputs.v, layout, shape.block)
        return method.pattern(layout, shape.block, shape.heads, device)

    make()  # the first call loads code onto the GPU
    pattern, seconds, peak = _measured(make, device)
    found = {"method": method.name(), "tokens": layout.tokens, "heads": pattern.mask.heads}
    return pattern, found | {"seconds": seconds, "peak_mib": peak}


def _measured(call: Callable[[], Any], device: str) -> tuple[Any, float, float | None]:
    """The result of a call, its seconds and the memory (MiB) that it took at most beyond what was in use."""
    cuda = device != "cpu"
    before = 0
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    start = time.perf_counter()
    result = call()
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return result, seconds, (torch.cuda.max_memory_allocated() - before) / 2**20 if cuda else None


def add_dense_shares(entries: list[dict[str, Any]]) -> None:
    """Adds, in place, what share of the same kernel's TFLOP/s under dense attention each time reaches."""
    dense = {entry["kernel"]: entry["values"] for entry in entries if entry["method"] == DENSE}
    for entry in entries:
        of = dense.get(entry["kernel"]) or dense.get(entry["kernel"].partition(":")[0], {})
        for name in ("forward", "training"):
            key = f"{name}_tflops"
            if key in entry["values"] and key in of:
                entry["values"][f"{name}_dense_share"] = entry["values"][key] / of[key]


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
