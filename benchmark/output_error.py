"""The verb ``output_error``: how far each method's attention output lies from dense attention's, layer by layer.

The model runs densely. At some of its steps each layer's queries, keys and values are attended once more under every
method's mask, and the mean squared error of that output is taken against the dense output of the same queries, keys and
values: the paper's comparison of masks, in which no error of a layer or step reaches the next. How much of the error
the tokens of a frame have in common is taken as well: what differs from token to token, later layers can average out.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark.budget import at_budget
from benchmark.config import is_testbed
from benchmark.failures import failure, first_line
from benchmark.kernels_bench import choose_methods
from benchmark.layout import VideoLayout
from benchmark.method import Kernel, Method, Pattern
from benchmark.probe import add_pass_arguments, check_testbed, read_clips
from benchmark.probing.listening import KERNEL, dense_pass, spread_steps
from benchmark.records import describe_device, make_record, write_json

logger = logging.getLogger(__name__)

KIND = "output_error"
STEPS_RECORDED = 3

EXAMPLE = """example:
  python -m benchmark output_error --model testbed-nano --inputs results/quick/inputs/testbed-nano/1x/seed7 \\
      --methods radial,svg,sta,pa --set sta.tile=4x4x4 --budget 0.5 --block 4 --prompts 3 --record error.json
"""


@dataclass(frozen=True)
class DensePass:
    """What is looked into, as the record's ``cell``: the dense passes, and the budget and blocks of the masks.

    Args:
        experiment, model, length: names.
        frames, height, width: of the clips, in frames and pixels.
        seeds: of the prompts and their noise.
        steps, dense_steps: of the schedule; the first ``dense_steps`` are not looked at.
        budget: density that the methods' knobs are solved for; None keeps the knobs.
        block: tokens a block.
        kernel: attention kernel.
    """

    experiment: str
    model: str
    length: str
    frames: int
    height: int
    width: int
    seeds: list[int]
    steps: int
    dense_steps: int
    budget: float | None
    block: int
    kernel: str

    def settings(self) -> dict[str, Any]:
        """Every field, as it is written into the record."""
        return asdict(self)


@dataclass
class Errors:
    """Errors of the methods' outputs against dense attention.

    Args:
        methods: with their patterns, by name; one that fails is taken out.
        mse: mean squared error of each, over tokens, heads and channels: float64 (prompts, steps, layers).
        common: mean square of the error's mean over the tokens of each frame: float64 (prompts, steps, layers). It
            equals ``mse`` where all tokens of a frame err alike, and is ``mse`` over their number where they err
            independently.
        energy: mean square of the dense output, of the same shape.
        failed: status and reason of the methods that failed.
    """

    methods: dict[str, tuple[Method, Pattern]]
    mse: dict[str, np.ndarray]
    common: dict[str, np.ndarray]
    energy: np.ndarray
    failed: dict[str, tuple[str, str]] = field(default_factory=dict)

    def relative(self, name: str) -> np.ndarray:
        """The mean squared error over the mean square of the dense output: float64 (prompts, steps, layers)."""
        return self.mse[name] / self.energy

    def drop(self, name: str) -> None:
        """Takes a method out."""
        for held in (self.methods, self.mse, self.common):
            del held[name]


def refusal(method: Method) -> str | None:
    """Why a method has no mask whose error could be taken; None where it has one."""
    if type(method).attend is not Method.attend:
        return "its operator is not softmax attention under a mask"
    if type(method).temporal_frequencies is not Method.temporal_frequencies:
        return "it changes positions and leaves out no pair"
    return None


def compare(
    transformer: torch.nn.Module,
    layout: VideoLayout,
    noise: torch.Tensor,
    prompts: Sequence[str],
    steps: int,
    wanted: Sequence[int],
    methods: Mapping[str, Method],
    block: int,
    kernel: Kernel,
) -> Errors:
    """Samples clips densely and takes every method's error in every layer at the steps that are wanted.

    Args:
        transformer: a ``WanTransformer3DModel`` of the testbed.
        noise: float32 (prompts, channels, frames, height, width).
        steps: sampling steps.
        wanted: those that are looked at, in ascending order.
        methods: by name, each of softmax attention under a mask.
        block: tokens a block of the masks.
        kernel: computes dense and sparse attention alike.
    """
    layers, heads = len(transformer.blocks), transformer.blocks[0].attn1.heads
    shape = (len(prompts), len(wanted), layers)
    found = Errors({}, {}, {}, np.zeros(shape))
    for name, method in methods.items():
        try:
            found.methods[name] = method, method.pattern(layout, block, heads, noise.device)
        except Exception as raised:  # a method is anybody's code: its failure is a result
            found.failed[name] = failure(raised, name)[:2]
        else:
            found.mse[name], found.common[name] = np.zeros(shape), np.zeros(shape)
    for number, prompt in enumerate(prompts):

        def listen(step, layer, q, k, v, out, number=number) -> None:
            _take(found, (number, step, layer), (q, k, v), out, layout, block, kernel)

        dense_pass(transformer, layout, noise[number : number + 1], prompt, steps, wanted, kernel, listen)
    return found


def _take(found: Errors, place: tuple[int, int, int], qkv, out, layout, block: int, kernel: Kernel) -> None:
    """Takes all methods' errors in one layer at one step of one prompt."""
    out = out.float()
    found.energy[place] = float(out.square().mean())
    for name, (method, pattern) in list(found.methods.items()):
        try:
            sparse = method.attend(*qkv, _same, layout, block, kernel, pattern)
            error = sparse.float() - out
            mse, common = float(error.square().mean()), float(_frame_means(error, layout).square().mean())
            if not math.isfinite(mse):
                raise FloatingPointError(f"its output in layer {place[2]} holds values that are not finite")
        except Exception as raised:
            found.failed[name] = failure(raised, name)[:2]
            found.drop(name)
        else:
            found.mse[name][place], found.common[name][place] = mse, common


def _frame_means(x: torch.Tensor, layout: VideoLayout) -> torch.Tensor:
    """Means over the tokens of each frame: (batch, frames, heads, head size). Text is left out."""
    return x[:, : layout.video].unflatten(1, (layout.frames, layout.frame_tokens)).mean(dim=2)


def _same(x: torch.Tensor) -> torch.Tensor:
    return x


def solve(
    methods: Sequence[Method], layout: VideoLayout, block: int, budget: float | None, heads: int
) -> tuple[dict[str, Method], dict[str, tuple[str, str]]]:
    """The methods at the budget, by name, and status and reason of those without an error to take."""
    solved, failed = {}, {}
    for method in methods:
        name, reason = method.name(), refusal(method)
        if reason is not None:
            failed[name] = ("unsupported", reason)
            continue
        try:
            solved[name] = method if budget is None else at_budget(method, layout, block, budget, heads)
        except ValueError as error:
            failed[name] = ("unsupported", first_line(error))
        except Exception as error:
            failed[name] = failure(error, name)[:2]
    return solved, failed


def entries(
    found: Errors, failed: Mapping[str, tuple[str, str]], methods: Sequence[Method]
) -> dict[str, dict[str, Any]]:
    """What the record says of each method, by name: title, status and reason, and density, knobs, mask and errors.

    ``mse``, ``relative`` and ``common`` (over the mean square of the dense output, as ``relative``) have means over
    ``prompts`` (a number for each), over ``layers`` and over ``steps``; and ``places``, over the prompts alone: a list
    for each step of a number for each layer.
    """
    told: dict[str, dict[str, Any]] = {}
    for asked in methods:
        name = asked.name()
        status, reason = failed.get(name, ("passed", None))
        told[name] = {"title": asked.title, "status": status, "reason": reason}
        if status != "passed":
            continue
        method, pattern = found.methods[name]
        told[name] |= {
            "knobs": method.knobs(),
            "density": pattern.mask.density,
            "mask": pattern.mask.hash(),
            "mse": _means(found.mse[name]),
            "relative": _means(found.relative(name)),
            "common": _means(found.common[name] / found.energy),
        }
    return told


def _means(errors: np.ndarray) -> dict[str, Any]:
    """Means of (prompts, steps, layers) over two of the three axes, and over the prompts."""
    axes = {"prompts": (1, 2), "steps": (0, 2), "layers": (0, 1), "places": 0}
    return {name: _short(errors.mean(axis=axis)) for name, axis in axes.items()}


def _short(values: np.ndarray) -> list:
    """Six digits each, so that the record stays small."""
    if values.ndim > 1:
        return [_short(row) for row in values]
    return [float(f"{value:.6g}") for value in values]


def measure(
    cell: DensePass,
    args: argparse.Namespace,
    prompts: Sequence[str],
    noise: torch.Tensor,
    hashes: Mapping[str, str],
    device: str,
) -> dict[str, Any]:
    """The record of kind ``output_error``.

    Args:
        cell: what is looked into.
        args: ``methods``, ``knobs`` and ``record_steps``, as the verb takes them.
        prompts, noise: the clips.
        hashes: SHA-256 of prompts and noise.
        device: ``cpu`` or ``cuda``.

    Raises:
        ValueError: a method or knob is unknown, or a value is not allowed.
    """
    from benchmark import kernels, models
    from benchmark.models import testbed

    spec = models.get(cell.model)
    layout = spec.layout(cell.frames, cell.height, cell.width)
    layout.blocks(cell.block)
    wanted = spread_steps(cell.steps, args.record_steps, cell.dense_steps)
    names = tuple(word.strip() for word in args.methods.split(",") if word.strip())
    chosen = choose_methods(names, args.knobs, None, layout, cell.block, spec.heads)[1:]  # the first is the reference
    name, kernel = kernels.select(cell.kernel, device, block=cell.block, head_dim=spec.head_dim)
    solved, failed = solve(chosen, layout, cell.block, cell.budget, spec.heads)
    transformer = testbed.load(cell.model, device)
    found = compare(transformer, layout, noise.to(device), prompts, cell.steps, wanted, solved, cell.block, kernel)
    return make_record(
        KIND,
        cell,
        "passed",
        {f"{one}_mse": float(mse.mean()) for one, mse in found.mse.items()},
        details={
            "methods": entries(found, failed | found.failed, chosen),
            "energy": _means(found.energy),
            "steps_recorded": wanted,
            "kernel": name,
            "layout": str(layout),
            "heads": spec.heads,
        },
        hashes={**hashes, "weights": testbed.manifest(cell.model)["sha256"]},
        device=describe_device(device),
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.description = "Take the error of each method's attention output against dense attention, layer by layer."
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_pass_arguments(parser, STEPS_RECORDED)
    parser.add_argument("--experiment", default="adhoc", help="name of the configuration (default: %(default)s)")
    parser.add_argument("--length", default="1x", help="name of the length (default: %(default)s)")
    parser.add_argument("--methods", default="radial,svg,sta", help="comma-separated (default: %(default)s)")
    parser.add_argument("--set", dest="knobs", action="append", default=[], metavar="METHOD.KNOB=VALUE")
    parser.add_argument("--budget", type=float, help="density that the methods' knobs are solved for")
    parser.add_argument("--block", type=int, default=128, help="tokens a block (default: %(default)s)")
    parser.add_argument("--dense-steps", type=int, default=0, help="first steps left out (default: %(default)s)")
    parser.add_argument("--kernel", default=KERNEL, help="attention kernel, or auto (default: %(default)s)")
    parser.add_argument("--record", type=Path, required=True, metavar="FILE", help="record to write")


def is_lean(args: argparse.Namespace) -> bool:
    """Whether the job needs nothing of a testbed but its network."""
    return is_testbed(args.model)


def run(args: argparse.Namespace) -> int:
    """Measures and writes. Returns the exit status."""
    from benchmark import models
    from benchmark.testbed.sample import pick_device

    spec = models.get(args.model)
    check_testbed(spec)
    if args.budget is not None and not 0 < args.budget <= 1:
        raise ValueError(f"budget={args.budget}: a density above 0 and at most 1 is needed")
    content, noise, hashes = read_clips(args.inputs, args.model, args.clip, args.prompts)
    cell = DensePass(
        args.experiment, args.model, args.length, content["frames"], content["height"], content["width"],
        content["seeds"], args.steps or spec.steps, args.dense_steps, args.budget, args.block, args.kernel,
    )  # fmt: skip
    record = measure(cell, args, content["prompts"], noise, hashes, pick_device(args.device))
    write_json(args.record, record)
    for name, told in record["details"]["methods"].items():
        if told["status"] == "passed":
            mse, relative = record["values"][f"{name}_mse"], np.mean(told["relative"]["prompts"])
            logger.info("%s: density %.3f, MSE %.2e, relative %.3f", name, told["density"], mse, relative)
        else:
            logger.warning("%s: %s: %s", name, told["status"], told["reason"])
    return 0
