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
from typing import Any, NamedTuple

import torch

from benchmark import kernels, registry
from benchmark.layout import VideoLayout
from benchmark.masks import BlockMask
from benchmark.method import Method, Pattern
from benchmark.plan import has_mask
from benchmark.records import describe_device, make_record, sha256_file, transient
from benchmark.sampled_oracle import kernel_errors, own_errors, sample_rows
from benchmark.speed.clock import Clock, OutOfTime
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
        limit_s: seconds after which nothing is begun, nor what would end later; None for no limit.
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
        its own, and ``details.left_out`` names those that the time did not reach, or ``what`` of them it did not.
        Another process on the GPU, before, while or after, voids all of it, and so does a GPU of which nobody can tell.
        What is so void, or has no GPU at all, is ``transient``.
    """
    timer = Clock(device, options.limit_s)
    described = describe_device(device) if device == "cpu" or torch.cuda.is_available() else {"type": device}

    def failed(status: str, reason: str, **details: Any) -> dict[str, Any]:
        return make_record("kernels", shape, status, reason=reason, details=details, device=described)

    if device != "cpu" and not torch.cuda.is_available():
        return failed("unsupported", "PyTorch finds no CUDA GPU", **transient())
    reason = disturbance(other_processes(device))
    if reason is not None:
        return failed("error", reason, **transient())
    machine = {"before": gpu_state(device)}
    entries, planning, left_out = [], {}, []
    with Watch(device) as watch:
        try:
            matmul = matmul_rate(device)
            inputs = make_inputs(shape, options, device)
        except torch.OutOfMemoryError as error:
            reason = disturbance(watch.others) or disturbance(other_processes(device))
            if reason is not None:  # it may have taken the memory
                return failed("error", reason, **transient())
            return failed("out_of_memory", _line(error))
        for job in _all_jobs(methods, shape, layout, options, inputs, matmul[0], device, timer):
            about = {"method": job.method, "kernel": job.kernel}
            try:
                if timer.left() <= 0:
                    raise OutOfTime(f"the {options.limit_s:g} s are over")
                entry = job.measure()
            except OutOfTime as error:
                logger.warning("%s: %s: left out: %s", job.method, job.kernel, error)
                left_out.append(about)
                continue
            planning |= {job.method: entry.pop("planning")} if "planning" in entry else {}
            left_out += [{**about, "what": what} for what in entry.pop("left_out", ())]
            entries.append(entry)
    entries.sort(key=lambda entry: [method.name() for method in methods].index(entry["method"]))
    add_dense_shares(entries)
    machine |= {"during": watch.seen(), "after": gpu_state(device)}
    reason = disturbance(watch.others) or disturbance(other_processes(device))
    if reason is not None:
        return failed("error", reason, **machine, **transient())
    details = {"entries": entries, "planning": list(planning.values()), "left_out": left_out, "gpu": machine}
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


class _Job(NamedTuple):
    """What makes an entry.

    Args:
        place: of its kernel among those asked for.
        method, kernel: their names.
        measure: makes the entry, which has ``planning``, and ``left_out`` where time was short.
    """

    place: int
    method: str
    kernel: str
    measure: Callable[[], dict[str, Any]]


def _all_jobs(methods: list[Method], *about: Any) -> list[_Job]:
    """What there is to measure, kernel by kernel.

    Where the time is over before all is measured, the kernels asked for last are left out, each under all methods. In
    the order of the methods dense attention, which is the slowest and comes first, would leave no time to the others.
    """
    jobs = [job for method in methods for job in _jobs(method, *about)]
    return sorted(jobs, key=lambda job: job.place)


def _jobs(
    method: Method,
    shape: Shape,
    layout: VideoLayout,
    options: Options,
    inputs: Inputs,
    rate: float,
    device: str,
    timer: Clock,
) -> Iterator[_Job]:
    """What there is to measure of one method, whose mask is planned here."""
    about = {"method": method.name(), "knobs": method.knobs()}
    job = functools.partial(_Job, method=method.name())
    last = len(options.kernels)
    if not has_mask(method):

        def operator() -> dict[str, Any]:
            return _operator_entry(method, about, shape, layout, options, inputs, rate, device, timer)

        yield job(last, kernel=OWN, measure=operator)
        return
    if timer.left() <= 0:  # not even the mask is planned, so variants are not known
        yield from (job(place, kernel=name, measure=dict) for place, name in enumerate(options.kernels))
        return
    logger.info("%s: planning", method.name())
    try:
        pattern, planning = plan(method, shape, layout, inputs, device)
    except torch.OutOfMemoryError as error:
        failed = {**about, "kernel": OWN, "status": "out_of_memory", "reason": _line(error), "values": {}}
        yield job(last, kernel=OWN, measure=lambda: failed)
        return
    mask = pattern.mask
    about |= {"density": mask.density, "executed_pairs": mask.executed_pairs(), "mask_hash": mask.hash()}
    about |= {"operations": 4.0 * shape.heads * shape.head_dim * mask.executed_pairs()}

    def measure(name: str) -> dict[str, Any]:
        logger.info("%s: %s", method.name(), name)
        entry = {**about, "kernel": name, "status": "passed", "reason": None, "values": {}, "planning": planning}
        return entry | _guarded(
            lambda: _kernel_entry(name, method, mask, pattern, shape, layout, options, inputs, rate, device, timer)
        )

    for place, name in _kernel_names(options, mask):
        yield job(place, kernel=name, measure=functools.partial(measure, name))


def _kernel_names(options: Options, mask: BlockMask) -> Iterator[tuple[int, str]]:
    """The kernels asked for, each followed by its variants, if those are wanted and differ on such a mask.

    Before the name, the place of the kernel among those asked for.
    """
    for place, name in enumerate(options.kernels):
        yield place, name
        module = kernels.load(name.partition(":")[0])
        if options.tune and ":" not in name and hasattr(module, "VARIANTS") and module.differ(mask):
            yield from ((place, f"{name}:{key}") for key in module.VARIANTS)


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


def _kernel_entry(name, method, mask, pattern, shape, layout, options, inputs, rate, device, timer) -> dict[str, Any]:
    """Check and times of one kernel under one method; ``training`` has a status of its own.

    ``backends`` names what of a library computed the check, where that chooses; ``left_out`` what the time did not
    reach once the forward pass was timed.

    Raises:
        OutOfTime: not even the forward pass could be timed.
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
    values = _times(forward, "forward", operations, options, rate, device, timer)
    if options.complete:
        with _in_time(entry, "complete"):
            values |= _complete(method, pattern, attend, shape, layout, options, inputs, rate, device, timer)

    def training() -> dict[str, Any]:
        found = _checked(kernel_errors(attend, q, k, v, mask, inputs.rows, inputs.dout), inputs.allowed)
        if found["status"] != "passed":
            return found
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        dout = torch.randn_like(v)

        def train() -> None:
            with torch.enable_grad():
                torch.autograd.grad(attend(*leaves, mask), leaves, dout)

        return found | {"values": _times(train, "training", operations * (1 + BACKWARD), options, rate, device, timer)}

    if options.backward:
        with _in_time(entry, "training"):
            # The check: forward into NaN, then forward and backward.
            timer.reserve((2 + BACKWARD) * values["forward_s"], "the check of the gradients")
            found = _guarded(training)
            values |= found.pop("values", {})
            entry["training"] = found
    return entry | {"values": values}


@contextlib.contextmanager
def _in_time(entry: dict[str, Any], what: str) -> Iterator[None]:
    """Names in an entry's ``left_out`` what the time does not reach."""
    try:
        yield
    except OutOfTime as error:
        logger.warning("%s is left out: %s", what, error)
        entry.setdefault("left_out", []).append(what)


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


def _complete(method, pattern, attend, shape, layout, options, inputs, rate, device, timer) -> dict[str, float]:
    """Times of a method's whole operator, without the rotation, which is the model's."""
    # What depends on the layout alone is planned once for all layers and steps, so it is no part of a call.
    known = method.pattern(layout, shape.block, shape.heads, device) if method.dynamic else pattern

    def call() -> torch.Tensor:
        return method.attend(inputs.q, inputs.k, inputs.v, lambda x: x, layout, shape.block, attend, known)

    operations = method.attention_operations(layout, shape.block, shape.heads, shape.head_dim)
    return _times(call, "complete", operations, options, rate, device, timer)


def _operator_entry(method, about, shape, layout, options, inputs, rate, device, timer) -> dict[str, Any]:
    """The entry of a method that is no softmax attention over a mask: only its whole operator has a time."""
    operations = method.attention_operations(layout, shape.block, shape.heads, shape.head_dim)
    entry = {**about, "kernel": OWN, "operations": operations, "status": "passed", "reason": None, "values": {}}

    def measure() -> dict[str, Any]:
        return {"values": _complete(method, None, None, shape, layout, options, inputs, rate, device, timer)}

    return entry | _guarded(measure)


def _guarded(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What is measured, or why it could not be. A kernel is anybody's code: its failure is a result.

    Raises:
        OutOfTime: the time is over, which says nothing of the kernel.
    """
    try:
        return measure()
    except OutOfTime:
        raise
    except torch.OutOfMemoryError as error:
        found = {"status": "out_of_memory", "reason": _line(error)}
    except Exception as error:
        logger.error("failed:\n%s", traceback.format_exc())
        found = {"status": "error", "reason": f"{type(error).__name__}: {_line(error)}"}
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return found


def _times(
    call: Callable[[], Any], name: str, operations: float, options: Options, rate: float, device: str, timer: Clock
) -> dict[str, float]:
    """Quartiles of a call, its TFLOP/s, and what share of the matrix product's they are.

    Raises:
        OutOfTime: the calls would end after the time is over, by what one of them takes.
    """
    with torch.no_grad():
        if options.limit_s is not None:
            [one] = time_calls(call, 0, 1, device)
            timer.reserve((options.warmup + options.repeat) * one, f"{name}: its calls")
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
