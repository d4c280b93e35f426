"""How long a measurement will take, roughly, so that a job ends before its time is up and a run can be planned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from benchmark import operations
from benchmark.speed import settings
from benchmark.speed.cells import SpeedCell, from_settings

RATES = MappingProxyType({"dense": 650e12, "sparse": 580e12, "outside": 590e12, "unfused": 340e12})
"""Operations a second on one H100, on the careful side of what was measured."""
START_S = MappingProxyType({"parts": 60.0, "profile": 60.0, "whole": 40.0, "run": 40.0, "ends": 40.0, "training": 60.0})
"""Start of a process, building and compiling."""
CALLS, STEPS, LEAST = 10, 5, 3
LONG_STEP_S = 60.0  # a step that takes longer is timed once or twice
DECODER_S = 0.4  # seconds a frame of a million pixels
WARM_S, FOR_S = 2.0, 3.0
"""Seconds of attention calls, with what stands between them, before those that count, and of those at least."""
SETTLE_S = 8.0  # before attention calls, and steps outside attention, are timed, so that the GPU is warm
WITHIN_S = 40.0  # seconds that the timed attention calls of a tuning step may take, where ten are more
TUNING = 4.8  # a tuning step's attention call over a forward one: forward twice, and backward
TUNING_OUTSIDE = 3.0  # the same for what lies outside: forward twice, and backward to the inputs alone


def layer_s(cell: SpeedCell, density: float = 1.0) -> float:
    """Seconds of one layer's attention in one pass."""
    spec = settings.resized(cell.model, cell.trial)
    layout = spec.layout(cell.frames, cell.height, cell.width)
    rate = RATES["dense"] if density >= 1 else RATES["sparse"]
    return operations.attention_operations(spec, layout, density) / rate


def outside_s(cell: SpeedCell, rate: str = "outside") -> float:
    """Seconds of one pass outside self-attention."""
    spec = settings.resized(cell.model, cell.trial)
    found = operations.pass_operations(spec, spec.layout(cell.frames, cell.height, cell.width))
    return (found.with_ends - found.self_attention) / RATES[rate]


def step_s(cell: SpeedCell, density: float = 1.0) -> float:
    """Seconds of a whole step, all passes, every layer at that density."""
    layers = settings.resized(cell.model, cell.trial).layers
    return cell.passes * (outside_s(cell) + layers * layer_s(cell, density))


def share_s(cell: SpeedCell) -> float:
    """Seconds outside self-attention for each layer of a pass."""
    return outside_s(cell) / settings.resized(cell.model, cell.trial).layers


def calls_s(call_s: float, between_s: float) -> float:
    """Seconds that the calls of one attention take, with those to warm up, with what stands between them."""
    one = call_s + between_s
    return 1 + max(WARM_S, one) + max(CALLS * one, FOR_S)


def tuning_calls_s(cell: SpeedCell, density: float) -> float:
    """The same for the attention calls of a tuning step, of all of a cell's settings."""
    call = TUNING * layer_s(cell, density)
    calls = 1 + max(min(CALLS, WITHIN_S / call), LEAST)
    return max(len(cell.mixture), 1) * (1 + calls * (call + TUNING_OUTSIDE * share_s(cell)))


def tuning_outside_settle_s() -> float:
    """Seconds in which the GPU settles under the small transformers of a tuning step: at most three, of two kinds."""
    return 3 * (SETTLE_S + FOR_S)


def outside_part_s(cell: SpeedCell) -> float:
    """Seconds in which the time outside attention is measured, unfused and fused, building and compiling included."""
    return START_S["parts"] / 2 + 5 * outside_s(cell, "unfused") + 8 * outside_s(cell)


def profile_s(cell: SpeedCell) -> float:
    """Seconds in which a pass outside attention is profiled, building and compiling included."""
    return START_S["profile"] + 6 * outside_s(cell)


def whole_part_s(cell: SpeedCell, density: float) -> float:
    """Seconds in which whole steps of a cell are timed."""
    one = step_s(cell, density)
    calls = STEPS + 1 if one <= LONG_STEP_S else 1
    return START_S["whole"] + 1.1 * calls * one


def decoder_s(cell: SpeedCell) -> float:
    """Seconds in which a clip is decoded once."""
    return DECODER_S * cell.frames * cell.height * cell.width / 1e6


def part_s(
    planned: Mapping[str, Any], part: str, done: Callable[[str, SpeedCell], bool] = lambda kind, cell: False
) -> float:
    """GPU seconds of one part of a stage, start included; 0 where nothing of it is left.

    Args:
        done: whether a kind of record of a cell, or of the stage, is there already.
    """
    cells = {key: (from_settings(found["cell"]), found) for key, found in planned["cells"].items()}
    any_cell = next(iter(cells.values()))[0]
    stage = any_cell.of_stage()
    left: list[float] = []
    if part == "parts":
        calls = []
        for cell, found in cells.values():
            one = calls_s(layer_s(cell, min(found["density"], 1.0)), share_s(cell))
            calls += [max(len(cell.mixture), 1) * one] * (not done("attention", cell))
        outside = [] if done("outside", stage) else [outside_part_s(any_cell)]
        return sum(outside) + (START_S["parts"] / 2 + sum(calls) if calls else 0.0)
    if part == "profile":
        return 0.0 if done("profile", stage) else profile_s(any_cell)
    if part == "whole":
        for key in planned["whole"]:
            cell, found = cells[key]
            needed = whole_part_s(cell, min(found["density"], 1.0)) - START_S["whole"]
            left += [needed] * (not done("step", cell))
    elif part == "ends":
        left += [] if done("vae_decoder", stage) else [decoder_s(any_cell)]
        left += [] if done("text_encoder", stage) else [0.0]
    elif part == "training":
        for key in planned["training"]:
            cell, found = cells[key]
            density = min(found["density"], 1.0)
            left += [] if done("lora", cell) else [tuning_calls_s(cell, density)]
            if planned["training_whole"] and not done("lora_step", cell):
                left.append(30 + 6 * TUNING * step_s(cell, density) / cell.passes)
        if not done("lora_outside", stage):
            left.append(6 * TUNING_OUTSIDE * outside_s(any_cell, "unfused") / 10 + tuning_outside_settle_s())
    elif part == "run" and planned["run"]:
        cell, found = cells[planned["run"]]
        if not done("whole_run", cell):
            sparse = (cell.steps - cell.dense_steps) * step_s(cell, found["density"])
            left.append(cell.dense_steps * step_s(cell) + sparse)
    return START_S[part] + sum(left) if left else 0.0
