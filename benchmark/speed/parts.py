"""The parts of a step: a pass with attention left out, and every method's complete attention call.

``step = passes * (outside + dense layers * dense call + sparse layers * the method's call)``. The attention call is
all that a layer's router does, as it is called inside the model: permutations, classification of heads, kernel. It is
timed under a pass's conditions (``benchmark.speed.between``). The rotation of queries and keys is in the time outside.
A permutation that the model makes once a pass is timed apart.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmark import models
from benchmark.attention import AttentionRouter
from benchmark.method import Method
from benchmark.plan import has_mask
from benchmark.speed import clock, expected, planning
from benchmark.speed.between import Between, between
from benchmark.speed.cells import SpeedCell, from_settings
from benchmark.speed.clock import Clock, Measured, Timing, spread
from benchmark.speed.network import (
    DTYPE,
    FULL,
    CopyingRouter,
    Network,
    capture,
    check_device,
    check_memory,
    forget,
    kernel_of,
    kinds_of,
    layout_of,
    relative_error,
    router_of,
    spec_of,
)
from benchmark.speed.sources import fused_parts

logger = logging.getLogger(__name__)

OUTSIDE, ATTENTION, ROUNDING = "outside", "attention", "rounding"
PATTERN = "pattern"
"""Where details say, by the name of a timing, what was decided in its calls (``pattern_of``)."""
FEW, MORE = 1, 3
"""Blocks of each kind in the two transformers whose difference is a block's time, where the whole one does not fit."""
FUSED_ERROR = 2.0**-8
"""Rounding to bfloat16 is wrong by at most so much; over layers it adds like the root of their number."""


def measure(planned: Mapping[str, Any], records: Path, timer: Clock, device: str) -> None:
    """The parts of every cell of a stage, each in a record of its own; those that are there already stay.

    Raises:
        OutOfTime: the job's time is up; what is missing is for the next one.
        ValueError: a mask that ran is not the one whose density and operations the plan has.
    """
    cells = {key: from_settings(found["cell"]) for key, found in planned["cells"].items()}
    stage = next(iter(cells.values())).of_stage()
    path = records / stage.path / f"{OUTSIDE}.json"
    known = clock.done(path, stage, device)
    if known is None:
        timer.reserve(expected.outside_part_s(stage), f"{stage.stage}: time outside attention")
        known = clock.record(OUTSIDE, stage, path, device, lambda: outside(stage, timer, device))
    path = records / stage.path / f"{ROUNDING}.json"
    if planned["training_whole"] and clock.done(path, stage, device) is None:
        timer.reserve(expected.START_S["parts"] / 2, f"{stage.stage}: rounding of the fused blocks")
        clock.record(ROUNDING, stage, path, device, lambda: rounding(stage, device))
    waiting = {}
    for key, cell in cells.items():
        path = records / cell.path / f"{ATTENTION}.json"
        if clock.done(path, cell, device, mask_of(planned, key)) is None:
            waiting[key] = (cell, path)
    if not waiting:
        return
    given = Given(stage, device, *share_s(stage, known))
    for key, (cell, path) in waiting.items():
        density = min(planned["cells"][key]["density"], 1.0)
        needed = max(len(cell.mixture), 1) * expected.calls_s(expected.layer_s(cell, density), expected.share_s(cell))
        timer.reserve(needed, f"{cell.stage} {key}: its attention calls")
        made = clock.record(ATTENTION, cell, path, device, lambda c=cell: attention_calls(c, given, timer, device))
        if not clock.about(made, cell, mask_of(planned, key)):
            plan = records / cell.stage / planning.FILE
            raise ValueError(f"{plan}: the mask of {key} is not the one that ran; delete the plan, to make it anew")


def mask_of(planned: Mapping[str, Any], key: str) -> str | None:
    """The hash of a cell's mask in a plan; None where it has none, or a mixture's several."""
    found = planned["cells"][key]["mask_hash"]
    return found if isinstance(found, str) else None


class Given:
    """What attention calls of a stage are given; made when the first of them needs it, and then kept.

    Args:
        seconds: of what stands between two calls in a pass.
        source: where they come from.
    """

    def __init__(self, stage: SpeedCell, device: str, seconds: float, source: str) -> None:
        self.stage, self.device, self.seconds, self.source = stage, device, seconds, source

    @functools.cached_property
    def first_layer(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values of the first layer, from a small transformer of this shape."""
        return first_layer(self.stage, self.device)

    @functools.cached_property
    def between(self) -> Between:
        """What runs before every call."""
        return between(self.stage, self.seconds, self.source, self.device)

    def drop(self) -> None:
        """Gives up what was made."""
        for name in ("first_layer", "between"):
            self.__dict__.pop(name, None)


def share_s(stage: SpeedCell, outside: Mapping[str, Any]) -> tuple[float, str]:
    """Seconds outside attention for each layer of a pass, and where they come from: measured, else estimated."""
    if outside["status"] != "passed":
        return expected.share_s(stage), "estimate"
    return outside["values"]["outside_s"] / stage.passes / spec_of(stage).layers, OUTSIDE


def again(held: Mapping[str, Any], device: str) -> float:
    """Seconds of a record's attention call, measured now under the conditions of the record."""
    cell, facts = from_settings(held["cell"]), held["details"]["between"]
    given = Given(cell.of_stage(), device, facts["wanted_s"], facts["source"])
    return attention_calls(cell, given, Clock(device), device)[0]["call_s"]


def first_layer(cell: SpeedCell, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values of the first layer, from a transformer with one block of each kind."""
    check_device(device)
    check_memory(cell, device, weights=False)
    one = dict.fromkeys(kinds_of(spec_of(cell)), 1)
    network = Network(cell, router_of(cell, dense(), device, through=True), device, layers=one)
    found = capture(network)
    forget(network)
    return found


def outside(cell: SpeedCell, timer: Clock, device: str) -> Measured:
    """Seconds of a step outside attention, unfused and fused, and how far their outputs are apart."""
    check_device(device)
    check_memory(cell, device)
    said = {clock.FUSED: fused_parts(cell.model)}
    try:
        values, details = _outside_whole(cell, timer, device)
        return values, details | said
    except torch.OutOfMemoryError as error:
        logger.warning("%s: the whole transformer does not fit (%s); timed by blocks", cell.stage, error)
        reason = " ".join(str(error).split())[:200]
    clock.free(device)
    values, details = _outside_by_blocks(cell, timer, device)
    return values, details | said | {"by_blocks": reason}


def _outside_whole(cell: SpeedCell, timer: Clock, device: str) -> Measured:
    network = Network(cell, copying(cell, device), device)
    unfused, unfused_copies = _passes(network, timer, warmup=1, calls=3, least=2, within_s=30, what="a pass, unfused")
    plain = network.forward()
    network.fuse(FULL)
    fused, copies = _passes(network, timer, warmup=2, calls=5, least=3, within_s=40, what="a pass, fused")
    error = relative_error(network.forward(), plain)
    layers = network.spec.layers
    forget(network)
    values = {
        "outside_s": cell.passes * (fused.median - copies),
        "outside_unfused_s": cell.passes * (unfused.median - unfused_copies),
        "copies_s": cell.passes * copies,
        "fused_error": error,
    }
    return values, _judged(error, layers) | spread({"pass": fused, "pass_unfused": unfused})


def copying(cell: SpeedCell, device: str) -> CopyingRouter:
    """What stands in for attention where the time outside it is measured."""
    plain = router_of(cell, dense(), device, through=True)
    return CopyingRouter(plain.method, plain.layout, plain.block, plain.kernel, plain.schedule)


def _passes(network: Network, timer: Clock, **how: Any) -> tuple[Timing, float]:
    """Times of passes without attention, and the seconds of each that went into copies of the values."""
    found = timer.time(network.forward, **how)
    return found, network.router.copies_s(len(found.samples), network.spec.layers)


def _outside_by_blocks(cell: SpeedCell, timer: Clock, device: str) -> Measured:
    """The same from transformers of few blocks: ends + blocks of each kind x the time that one more takes."""
    spec = spec_of(cell)
    kinds = kinds_of(spec)
    timings: dict[str, Timing] = {}
    copies: dict[str, float] = {}
    counts = {"base": dict.fromkeys(kinds, FEW)}
    counts |= {kind: dict.fromkeys(kinds, FEW) | {kind: MORE} for kind in kinds}
    error = 0.0
    for name, count in counts.items():
        network = Network(cell, copying(cell, device), device, layers=count)
        plain_name = f"{name}_unfused"
        timings[plain_name], copies[plain_name] = _passes(network, timer, warmup=1, calls=3, what="few blocks, unfused")
        plain = network.forward() if name == "base" else None
        network.fuse(FULL)
        timings[name], copies[name] = _passes(network, timer, warmup=2, calls=5, what="few blocks, fused")
        if plain is not None:
            error = relative_error(network.forward(), plain)
            del plain
        forget(network)

    passes = {name: found.median - copies[name] for name, found in timings.items()}

    def whole(found: Mapping[str, float], suffix: str = "") -> float:
        base = found[f"base{suffix}"]
        blocks = {kind: (found[f"{kind}{suffix}"] - base) / (MORE - FEW) for kind in kinds}
        return base + sum((kinds[kind] - FEW) * blocks[kind] for kind in kinds)

    values = {
        "outside_s": cell.passes * whole(passes),
        "outside_unfused_s": cell.passes * whole(passes, "_unfused"),
        "copies_s": cell.passes * whole(copies),
        "fused_error": error,
    }
    return values, _judged(error, FEW * len(kinds)) | spread(timings)


def rounding(cell: SpeedCell, device: str) -> Measured:
    """How far the fused and the plain blocks are from float32, in a transformer of one block of each kind.

    Two latent frames, dense attention, the same weights, which are bfloat16 numbers. The fused one may be no more than
    ``fuse.equal_within_rounding`` allows farther from float32 than the plain one.
    """
    from benchmark import fuse, kernels

    check_device(device)
    short = replace(cell, frames=spec_of(cell).temporal_compression + 1)
    spec = spec_of(cell).resized(**dict.fromkeys(kinds_of(spec_of(cell)), FEW))
    kernel = kernels.load("sdpa").attend
    weights = models.build(spec, device, DTYPE, seed=0).state_dict()
    found = {}
    for name, dtype in (("exact", torch.float32), ("own", DTYPE), ("fused", DTYPE)):
        transformer = models.build(spec, device, dtype, seed=0)
        transformer.load_state_dict(weights)
        router = router_of(short, dense(), device, kernel)
        models.install(spec, transformer, router)
        if name == "fused":
            fuse.fuse(transformer, router, level=FULL, backend="eager" if device == "cpu" else "inductor")
        inputs = models.example_inputs(spec, layout_of(short), device, DTYPE)
        inputs = {key: value.to(dtype) if value.is_floating_point() else value for key, value in inputs.items()}
        with torch.no_grad():
            found[name] = transformer(**inputs, return_dict=False)[0]
    errors = fuse.rounding(found["fused"], found["own"], found["exact"])
    details: dict[str, Any] = {"units": {"fused_error": "", "own_error": ""}, "frames": short.frames}
    if not fuse.equal_within_rounding(found["fused"], found["own"], found["exact"]):
        reason = f"fused, it is {errors.found_error:.2e} from float32; plain, {errors.own_error:.2e}"
        details |= {"status": "incorrect", "reason": reason}
    details[clock.FUSED] = fused_parts(cell.model)
    return {"fused_error": errors.found_error, "own_error": errors.own_error}, details


def _judged(error: float, layers: int) -> dict[str, Any]:
    """Status of a fused transformer by how far its output is from the plain one's."""
    limit = 2 * FUSED_ERROR * layers**0.5
    facts: dict[str, Any] = {"fused_error_limit": limit, "units": {"fused_error": ""}}
    if error > limit:
        reason = f"the fused transformer's output differs by {error:.2e} of its norm; at most {limit:.2e} is rounding"
        facts |= {"status": "incorrect", "reason": reason}
    return facts


def attention_calls(cell: SpeedCell, given: Given, timer: Clock, device: str) -> Measured:
    """Seconds of one layer's complete attention call, and of the permutations that a pass needs besides.

    At least ten calls, and as many as fit into ``expected.FOR_S`` with what stands between them, since a GPU at its
    power limit takes seconds to settle.
    """
    check_device(device)
    name, kernel = kernel_of(cell, device)
    timings: dict[str, Timing] = {}
    masks: list[str | None] = []
    decided: dict[str, dict[str, Any]] = {}
    call = permute = 0.0
    q, k, v = given.first_layer
    around = given.between
    settled = {"warm_s": expected.WARM_S, "for_s": expected.FOR_S} if device != "cpu" else {}
    for number, (share, method) in enumerate(planning.methods_of(cell)):
        router = router_of(cell, method, device, kernel)
        order = router.hoisted_order(q.shape[2], q.device)
        router.hoisted = order is not None
        router.step = cell.dense_steps
        layer = min(cell.dense_layers, spec_of(cell).layers - 1)

        def attend(router=router, layer=layer, q=q, k=k, v=v) -> torch.Tensor:
            with torch.no_grad():
                return router.attend(layer, q, k, v, unrotated)

        found = timer.time(
            attend,
            warmup=1,
            calls=expected.CALLS,
            least=expected.CALLS,
            between=around.run,
            what=cell.method,
            **settled,
        )
        timing = f"call_{number}" if cell.mixture else "call"
        timings[timing] = found
        decided |= {timing: pattern_of(router, q, k, v)} if method.dynamic else {}
        call += share * found.median
        masks.append(router.mask(q.shape[2], q.device).hash() if has_mask(method) else None)
        if order is not None:
            stream = torch.empty(1, len(order), spec_of(cell).width, dtype=DTYPE, device=device)
            moved = timer.time(lambda s=stream, o=order: s[:, o], warmup=1, calls=5, what="permutation")
            timings[f"permutation_{number}" if cell.mixture else "permutation"] = moved
            permute += share * 2 * moved.median  # into the order, and back
            del stream
        del router, attend
        clock.free(device)
    values = {"call_s": call, "permute_s": permute}
    details = {"kernel": name, "tokens": layout_of(cell).tokens, "between": dict(around.facts)}
    details |= {PATTERN: decided} if decided else {}
    hashes = {"mask": masks[0]} if not cell.mixture and masks[0] is not None else {}
    return values, spread(timings) | details | {"hashes": hashes}


def pattern_of(router: AttentionRouter, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> dict[str, Any]:
    """What a method that decides its pattern from queries and keys decided in the calls that were timed with them.

    It is decided once more, when nothing is timed.

    Args:
        q, k, v: (1, tokens, heads, head size), as they were timed.

    Returns:
        ``density``, the executed share of the pairs, which may not be the planned one where heads differ, and where
        they do ``heads``: how many use each of the pattern's orders (of SVG the spatial, then the temporal ones).
    """
    with torch.no_grad():
        found = router.method.pattern_for(q, k, v, router.layout, router.block)
    facts: dict[str, Any] = {"density": found.mask.density}
    if found.head_order is not None:
        facts["heads"] = found.head_order.bincount(minlength=len(found.orders)).tolist()
    return facts


def unrotated(x: torch.Tensor) -> torch.Tensor:
    """The identity, for queries and keys that come rotated: rotation is in the time outside attention."""
    return x


def dense() -> Method:
    """Dense attention."""
    from benchmark import registry

    return registry.get("dense")


def finished(planned: Mapping[str, Any], records: Path, device: str) -> bool:
    """Whether every part of the stage has a record."""
    cells = [from_settings(found["cell"]) for found in planned["cells"].values()]
    stage = cells[0].of_stage()
    wanted = [(records / stage.path / f"{OUTSIDE}.json", stage)]
    wanted += [(records / stage.path / f"{ROUNDING}.json", stage)] * planned["training_whole"]
    for key, cell in zip(planned["cells"], cells, strict=True):
        wanted.append((records / cell.path / f"{ATTENTION}.json", cell, mask_of(planned, key)))
    return clock.finished(wanted, device)
