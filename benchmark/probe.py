"""Looks into a testbed's attention: maps of its heads, and how the score falls with the distance of query and key.

The model runs densely on one prompt or several. At a few sampling steps, evenly spread, every layer's attention
probabilities are computed a second time from its queries and keys. Maps are means over those steps; scores against
distance are kept by step, layer and head.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark.config import is_testbed
from benchmark.inputs import read_inputs
from benchmark.layout import VideoLayout
from benchmark.probing.decay import FIT, by_frame_distance, by_place_distance, decay_of
from benchmark.probing.listening import KERNEL, dense_pass, spread_steps
from benchmark.probing.recording import Recording, choose_heads, pooling
from benchmark.records import describe_device, provenance, sha256_file, write_json

logger = logging.getLogger(__name__)

FORMAT = 2
STEPS_RECORDED = 4
LARGEST_MAP_OF_ALL = 128
"""Points a side of the maps of all heads; those of the two that are shown are larger."""

EXAMPLE = """example:
  python -m benchmark probe --model testbed-nano --inputs results/quick/inputs/testbed-nano/1x/seed7 \\
      --out results/quick/attention/testbed-nano.npz
"""


def record(
    transformer: torch.nn.Module,
    layout: VideoLayout,
    noise: torch.Tensor,
    prompts: Sequence[str],
    steps: int,
    recorded: int,
) -> Recording:
    """Samples clips densely and records their attention.

    Args:
        transformer: a ``WanTransformer3DModel`` of the testbed; its own attention is put back afterwards.
        layout: token grid of the clips.
        noise: float32 (prompts, channels, frames, height, width).
        prompts: sentences of the testbed's grammar.
        steps: sampling steps.
        recorded: how many of them are recorded.

    Returns:
        Means over the prompts.

    Raises:
        ValueError: more steps are to be recorded than there are, or none.
    """
    from benchmark import kernels

    wanted = spread_steps(steps, recorded)
    blocks = transformer.blocks
    recording = Recording.empty(
        layout, tuple(wanted), len(blocks), blocks[0].attn1.heads, len(prompts), device=noise.device
    )
    _, kernel = kernels.select(KERNEL, noise.device.type)

    def listen(step: int, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor) -> None:
        recording.add(step, layer, q, k)

    for number, prompt in enumerate(prompts):
        dense_pass(transformer, layout, noise[number : number + 1], prompt, steps, wanted, kernel, listen)
    return recording


def summarise(recording: Recording) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What is kept of a recording: arrays, and the chosen heads with the decay of all.

    Returns:
        Arrays ``temporal_distance``, ``spatial_distance``; ``temporal``, ``spatial`` (steps, layers, heads, distances),
        the mean probability of a key at that distance in the same place or the same frame; ``frames`` (layers, heads,
        frames, frames); ``maps`` of all heads; ``map_spatial``, ``map_temporal`` of the chosen ones. And ``heads``,
        ``decay`` over both distances (see ``decay_of``), ``map_pooling``.
    """
    layout = recording.layout
    temporal = by_frame_distance(recording.same_place.cpu().numpy())
    distances, spatial = by_place_distance(recording.same_frame.cpu().numpy(), layout)
    heads = choose_heads(recording)
    maps = recording.maps.cpu()
    side = maps.shape[2]
    further = pooling(side, side // layout.frames, LARGEST_MAP_OF_ALL)
    small = torch.nn.functional.avg_pool2d(maps, further)
    arrays = {
        "temporal_distance": np.arange(layout.frames),
        "spatial_distance": distances,
        "temporal": temporal.astype(np.float32),
        "spatial": spatial.astype(np.float32),
        "frames": recording.frames.cpu().numpy(),
        "maps": small.numpy().astype(np.float16),
        **{f"map_{name}": maps[place].numpy().astype(np.float16) for name, place in heads.items()},
    }
    facts = {
        "heads": {name: list(place) for name, place in heads.items()},
        "decay": {axis: decay_of(arrays[f"{axis}_distance"], arrays[axis]) for axis in ("temporal", "spatial")},
        "fit": FIT,
        "map_pooling": layout.video // side,
        "layout": [layout.frames, layout.height, layout.width],
        "steps_recorded": list(recording.steps),
    }
    return arrays, facts


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays, compressed, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            np.savez_compressed(file, **arrays)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.description = "Record a testbed's attention and fit its decay with distance."
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_pass_arguments(parser, STEPS_RECORDED)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help=".npz to write, with a .json beside it")


def add_pass_arguments(parser: argparse.ArgumentParser, recorded: int) -> None:
    """The options that state a dense pass that is looked into.

    Args:
        recorded: steps that are recorded where nothing is said.
    """
    parser.add_argument("--model", required=True, help="a testbed, as in benchmark/models")
    parser.add_argument("--inputs", type=Path, required=True, metavar="DIR", help="prompts and noise, from 'inputs'")
    parser.add_argument("--clip", type=int, default=0, help="the first of the prompts (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=1, metavar="N", help="so many from it on (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="sampling steps (default: the model's)")
    parser.add_argument("--record-steps", type=int, default=recorded, help="steps recorded (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")


def read_clips(folder: Path, model: str, clip: int, count: int) -> tuple[dict[str, Any], torch.Tensor, dict[str, str]]:
    """Some of the prompts with their noise.

    Returns:
        What ``prompts.json`` holds, with ``prompts`` and ``seeds`` of these clips alone; their noise, float32 (clips,
        channels, frames, height, width); and the hashes of both files.

    Raises:
        ValueError: a file is missing or damaged, is another model's, or there are no such clips.
    """
    content, noise, hashes = read_inputs(folder)
    if content["model"] != model:
        raise ValueError(f"inputs {folder}: made for {content['model']}; {model} is needed")
    there = len(noise)
    if clip < 0 or count < 1 or clip + count > there:
        raise ValueError(f"clip={clip}, prompts={count}: {folder} has clips 0 to {there - 1}")
    chosen = slice(clip, clip + count)
    some = {name: content[name][chosen] for name in ("prompts", "seeds")}
    return content | some, noise[chosen].float(), hashes


def is_lean(args: argparse.Namespace) -> bool:
    """Whether the job needs nothing of a testbed but its network."""
    return is_testbed(args.model)


def run(args: argparse.Namespace) -> int:
    """Records and writes. Returns the exit status."""
    from benchmark import models
    from benchmark.models.testbed import load, manifest
    from benchmark.testbed.sample import pick_device

    spec = models.get(args.model)
    check_testbed(spec)
    if args.out.suffix != ".npz":
        raise ValueError(f"--out {args.out}: a name that ends in .npz is needed")
    content, noise, hashes = read_clips(args.inputs, args.model, args.clip, args.prompts)
    layout = spec.layout(*noise.shape[2:])
    device = pick_device(args.device)
    transformer = load(args.model, device)
    steps = args.steps or spec.steps
    recording = record(transformer, layout, noise.to(device), content["prompts"], steps, args.record_steps)
    arrays, facts = summarise(recording)
    write_npz(args.out, arrays)
    told = {"format": FORMAT, "model": args.model, "prompts": content["prompts"], "steps": steps, **facts}
    hashes |= {"weights": manifest(args.model)["sha256"], "attention": sha256_file(args.out)}
    origin = {"hashes": hashes, "device": describe_device(device)}
    write_json(args.out.with_suffix(".json"), told | {"provenance": provenance() | origin})
    for axis, found in facts["decay"].items():
        fit = found["fits"]["mean"]
        logger.info("%s decay of the mean: a=%.3f, R^2=%.3f", axis, fit["a"], fit["r2"])
    return 0


def check_testbed(spec: Any) -> None:
    """Refuses what is no testbed.

    Args:
        spec: a ``ModelSpec``.

    Raises:
        ValueError: the model is none of the suite's own.
    """
    if spec.transformer_class != "WanTransformer3DModel" or spec.vae_compression != 1:
        raise ValueError(f"model {spec.name!r}: only testbeds can be looked into, such as testbed-nano")
