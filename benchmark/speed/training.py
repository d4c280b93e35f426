"""A step of LoRA tuning: forward, backward and optimizer under gradient checkpointing, batch 1.

``step = outside + dense layers * dense call + sparse layers * the method's call``. A call here is what checkpointing
makes of a layer's attention: forward, forward again, backward. The time outside comes from transformers of few blocks
in which attention hands on its inputs and their gradients: ends + blocks of each kind x the time by which one more
lengthens a step. Whole steps are timed where they fit, and the parts are held against them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from benchmark import attention
from benchmark.speed import clock, expected, planning
from benchmark.speed.cells import SpeedCell
from benchmark.speed.clock import Clock, Measured, Timing, spread
from benchmark.speed.network import (
    DTYPE,
    Network,
    check_device,
    check_memory,
    forget,
    kernel_of,
    kinds_of,
    layout_of,
    router_of,
    spec_of,
)
from benchmark.speed.parts import FEW, MORE, PATTERN, Given, dense, pattern_of, unrotated

logger = logging.getLogger(__name__)

ATTENTION, OUTSIDE, STEP = "lora", "lora_outside", "lora_step"
MODULES = r"(transformer_blocks|single_transformer_blocks|blocks)\.\d+\.(attn|attn1|attn2)\.to_(q|k|v|out\.0)"
"""Linear layers with an adapter: q, k, v and o of every block. The output of HunyuanVideo's blocks with one stream is
part of a layer that also closes their feed-forward part; that gets one too."""
FUSED_OUTPUT = r"single_transformer_blocks\.\d+\.proj_out"
SETTLED = "settled"
"""Where details say whether the GPU had settled; the first records, which do not say it, were timed before it had."""
SHRINKS = (1, 2, 4, 8)
"""Where the time outside attention does not fit, that of a clip with so many times fewer frames is scaled by tokens."""


class _HandOn(torch.autograd.Function):
    """Values in place of attention; queries, keys and values all get the output's gradient."""

    @staticmethod
    def forward(ctx, q, k, v):
        return v.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient, gradient, gradient


class HandOnRouter(attention.AttentionRouter):
    """A router without attention through which gradients reach queries, keys and values as in a real one."""

    def attend(self, layer, q, k, v, rotate):
        """The values."""
        return _HandOn.apply(rotate(q), rotate(k), v)


def measure(planned: Mapping[str, Any], records: Path, timer: Clock, device: str) -> None:
    """The parts of a tuning step of every cell that the stage names, and whole steps where it says so.

    Raises:
        OutOfTime: the job's time is up.
    """
    if not planned["training"]:
        return
    cells = {key: planning.cell_of(planned, key) for key in planned["training"]}
    stage = next(iter(cells.values())).of_stage()
    path = records / stage.path / f"{OUTSIDE}.json"
    whole = with_rank(stage, planned)
    known = clock.done(path, whole, device)
    if known is None:
        needed = 30 + 24 * expected.outside_s(stage, "unfused") / 4 + expected.tuning_outside_settle_s()
        timer.reserve(needed, f"{stage.stage}: tuning outside attention")
        known = clock.record(OUTSIDE, whole, path, device, lambda: outside(whole, timer, device))
    if known["status"] == "passed":
        share = known["values"]["outside_s"] / spec_of(stage).layers, OUTSIDE
    else:
        share = expected.TUNING_OUTSIDE * expected.share_s(stage), "estimate"
    given = Given(stage, device, *share)
    for key, cell in cells.items():
        path = records / cell.path / f"{ATTENTION}.json"
        if clock.done(path, cell, device) is None:
            needed = expected.tuning_calls_s(cell, min(planned["cells"][key]["density"], 1.0))
            timer.reserve(needed, f"{cell.stage} {key}: attention of a tuning step")
            clock.record(ATTENTION, cell, path, device, lambda c=cell: attention_calls(c, given, timer, device))
    given.drop()
    clock.free(device)
    for key in planned["training"] if planned["training_whole"] else ():
        cell = with_rank(cells[key], planned)
        path = records / cell.path / f"{STEP}.json"
        if clock.done(path, cell, device) is None:
            timer.reserve(30 + 24 * expected.step_s(cell) / cell.passes, f"{cell.stage} {key}: whole tuning steps")
            clock.record(STEP, cell, path, device, lambda c=cell: whole_steps(c, timer, device))


def with_rank(cell: SpeedCell, planned: Mapping[str, Any]) -> SpeedCell:
    """The cell of a record that the adapter's rank decides on; the attention calls have no adapter in them."""
    return replace(cell, rank=planned["rank"])


def attention_calls(cell: SpeedCell, given: Given, timer: Clock, device: str) -> Measured:
    """Seconds of one layer's attention in a tuning step: forward, forward again, backward."""
    check_device(device)
    name, kernel = kernel_of(cell, device)
    timings: dict[str, Timing] = {}
    decided: dict[str, dict[str, Any]] = {}
    call = 0.0
    for number, (share, method) in enumerate(planning.methods_of(cell)):
        q, k, v = (x.detach().requires_grad_() for x in given.first_layer)
        router = router_of(cell, method, device, kernel)
        router.hoisted = router.hoisted_order(q.shape[2], q.device) is not None
        router.step = cell.dense_steps
        layer = min(cell.dense_layers, spec_of(cell).layers - 1)
        gradient = torch.randn_like(v)

        def run(router=router, layer=layer, q=q, k=k, v=v, gradient=gradient) -> None:
            out = checkpoint(router.attend, layer, q, k, v, unrotated, use_reentrant=False)
            torch.autograd.grad(out, (q, k, v), gradient)

        found = timer.time(
            run,
            warmup=1,
            calls=expected.CALLS,
            least=expected.LEAST,
            within_s=expected.WITHIN_S,
            between=given.between.run,
            what=f"{cell.method}, tuning",
        )
        timing = f"call_{number}" if cell.mixture else "call"
        timings[timing] = found
        decided |= {timing: pattern_of(router, q, k, v)} if method.dynamic else {}
        call += share * found.median
        del run, q, k, v, gradient
        clock.free(device)
    details = {"kernel": name, "tokens": layout_of(cell).tokens, "between": dict(given.between.facts)}
    details |= {PATTERN: decided} if decided else {}
    return {"call_s": call}, spread(timings) | details


def outside(cell: SpeedCell, timer: Clock, device: str) -> Measured:
    """Seconds of a tuning step outside attention, optimizer included; scaled by tokens where it does not fit."""
    check_device(device)
    reasons = []
    for shrink in SHRINKS:
        smaller = shrunk(cell, shrink)
        try:
            values, details = _outside(smaller, timer, device)
        except torch.OutOfMemoryError as error:
            reasons.append(" ".join(str(error).split())[:120])
            clock.free(device)
            continue
        scale = layout_of(cell).tokens / layout_of(smaller).tokens
        details |= {"measured_frames": smaller.frames, "scaled": scale, "did_not_fit": reasons}
        return {name: value * scale if name.endswith("_s") else value for name, value in values.items()}, details
    raise torch.OutOfMemoryError(f"one block of each kind does not fit at an eighth of the frames: {reasons[-1]}")


def shrunk(cell: SpeedCell, times: int) -> SpeedCell:
    """The cell with so many times fewer latent frames."""
    spec = spec_of(cell)
    latent = max(layout_of(cell).frames // times, 1)
    return cell if times == 1 else replace(cell, frames=(latent - 1) * spec.temporal_compression + 1)


def _outside(cell: SpeedCell, timer: Clock, device: str) -> Measured:
    check_memory(cell, device, weights=False)
    kinds = kinds_of(spec_of(cell))
    counts = {"base": dict.fromkeys(kinds, FEW)}
    counts |= {kind: dict.fromkeys(kinds, FEW) | {kind: MORE} for kind in kinds}
    timings: dict[str, Timing] = {}
    modules: dict[str, int] = {}
    # As long as before attention calls: a GPU that is not at its power limit yet clocks higher than under those, and
    # the time outside would be too short beside theirs.
    settle = {"warm_s": expected.SETTLE_S, "for_s": expected.FOR_S} if device != "cpu" else {}
    for name, count in counts.items():
        router = _hand_on(cell, device)
        network = Network(cell, router, device, layers=count, training=True)
        step, facts = tuning_step(network, cell.rank)
        modules[name] = facts["modules"]
        timings[name] = timer.time(
            step, warmup=1, calls=5, least=2, within_s=30, what="tuning outside attention", **settle
        )
        del step
        forget(network)
    base = timings["base"].median
    blocks = {kind: (timings[kind].median - base) / (MORE - FEW) for kind in kinds}
    values = {"outside_s": base + sum((kinds[kind] - FEW) * blocks[kind] for kind in kinds), "few_blocks_s": base}
    adapted = {kind: (modules[kind] - modules["base"]) // (MORE - FEW) for kind in kinds}  # a block's
    every = modules["base"] + sum((kinds[kind] - FEW) * adapted[kind] for kind in kinds)
    lora = {"rank": cell.rank, "modules": every}
    return values, spread(timings) | {"lora": lora, "blocks": blocks, SETTLED: bool(settle)}


def _hand_on(cell: SpeedCell, device: str) -> attention.AttentionRouter:
    plain = router_of(cell, dense(), device)
    return HandOnRouter(plain.method, plain.layout, plain.block, plain.kernel, plain.schedule)


def whole_steps(cell: SpeedCell, timer: Clock, device: str) -> Measured:
    """Seconds of whole tuning steps of the whole model."""
    check_device(device)
    check_memory(cell, device)
    name, kernel = kernel_of(cell, device)
    if cell.mixture:
        raise clock.Unsupported("a mixture of settings is put together from parts")
    router = router_of(cell, planning.methods_of(cell)[0][1], device, kernel)
    network = Network(cell, router, device, training=True)
    router.step = cell.dense_steps
    step, facts = tuning_step(network, cell.rank)
    found = timer.time(step, warmup=1, calls=5, least=3, within_s=90, what="a tuning step")
    del step
    forget(network)
    return {"step_s": found.median}, spread({"step": found}) | {"kernel": name, "lora": {"rank": cell.rank, **facts}}


def tuning_step(network: Network, rank: int) -> tuple[Callable[[], None], dict[str, Any]]:
    """A call that makes one tuning step of a transformer, which gets adapters and gradient checkpointing.

    The loss is the mean squared difference from a fixed target. AdamW updates the adapters, in bfloat16.

    Returns:
        The call, and ``modules`` with an adapter and their ``parameters``.
    """
    from peft import LoraConfig

    transformer = network.transformer
    transformer.requires_grad_(False)
    pattern = f"{MODULES}|{FUSED_OUTPUT}"
    wanted = sum(bool(re.fullmatch(pattern, name)) for name, _ in transformer.named_modules())
    transformer.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=pattern))
    adapters = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    for parameter in adapters:
        parameter.data = parameter.data.to(DTYPE)
    transformer.enable_gradient_checkpointing()
    transformer.train()
    embedding = next(
        getattr(transformer, name)
        for name in ("x_embedder", "patch_embedding", "patch_embed")
        if hasattr(transformer, name)
    )
    # Without it the first block would be spared the gradient of its input, which all others need.
    embedding.register_forward_hook(lambda module, args, output: output.requires_grad_())
    optimizer = torch.optim.AdamW(adapters, lr=1e-5, fused=network.device != "cpu")
    target: list[torch.Tensor] = []

    def run() -> None:
        with torch.enable_grad():
            out = network.transformer(**network.inputs, return_dict=False)[0]
            if not target:
                target.append(torch.zeros_like(out))
            (out - target[0]).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run, {"modules": wanted, "parameters": sum(parameter.numel() for parameter in adapters)}


def finished(planned: Mapping[str, Any], records: Path, device: str) -> bool:
    """Whether everything about tuning that the stage names has a record."""
    if not planned["training"]:
        return True
    cells = [planning.cell_of(planned, key) for key in planned["training"]]
    stage = cells[0].of_stage()
    wanted = [(records / stage.path / f"{OUTSIDE}.json", with_rank(stage, planned))]
    wanted += [(records / cell.path / f"{ATTENTION}.json", cell) for cell in cells]
    if planned["training_whole"]:
        wanted += [(records / cell.path / f"{STEP}.json", with_rank(cell, planned)) for cell in cells]
    return clock.finished(wanted, device)
