"""The verb ``inputs``: the prompts and the initial noise that all methods share at one length of one model."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch

from benchmark.records import Damaged, sha256_file, sha256_tensor, write_json

PROMPTS, NOISE = "prompts.json", "noise.safetensors"
MAX_SEED = 10**12
"""A clip's seed must fit into the 64 bits of a generator; ``config/schema.yaml`` allows no more either."""
_SEEDS_APART = 100_000  # two experiments' seeds share no clip's seed below this many clips


def clip_seeds(seed: int, clips: int) -> list[int]:
    """The seed of each clip's scene and noise, in an experiment of this seed.

    Raises:
        ValueError: a seed that is negative or above ``MAX_SEED``, or no clips.
    """
    if seed < 0:
        raise ValueError(f"inputs: seed={seed}: at least 0 is needed")
    if seed > MAX_SEED:
        raise ValueError(f"inputs: seed={seed}: at most {MAX_SEED} is allowed")
    if clips < 1:
        raise ValueError(f"inputs: clips={clips}: at least 1 is needed")
    return [seed * _SEEDS_APART + clip for clip in range(clips)]


def write_inputs(model: str, frames: int, height: int, width: int, clips: int, seed: int, out: Path) -> dict[str, Any]:
    """Writes ``prompts.json`` and ``noise.safetensors`` into a folder.

    The prompts of a seed are the same at every length; each clip's noise, float32 (channels, latent frames, latent
    rows, latent columns), comes from a generator of its own on the CPU, so that it is the same on any machine.

    Returns:
        What ``prompts.json`` holds.

    Raises:
        ValueError: the model cannot make such clips, or has no prompts of its own.
    """
    from safetensors.torch import save_file

    from benchmark import models
    from benchmark.testbed.grammar import describe
    from benchmark.testbed.world import sample_scene

    if not model.startswith("testbed-"):
        raise ValueError(f"inputs: model {model!r}: prompts are made for testbeds only; {', '.join(_testbeds())}")
    spec = models.get(model)
    shape = spec.latent_shape(spec.layout(frames, height, width))
    seeds = clip_seeds(seed, clips)
    noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(number)) for number in seeds])
    content = {
        "model": model,
        "frames": frames,
        "height": height,
        "width": width,
        "seeds": seeds,
        "prompts": [describe(sample_scene(number)) for number in seeds],
        "noise_sha256": sha256_tensor(noise),
    }
    out.mkdir(parents=True, exist_ok=True)
    part = out / f".{NOISE}.{os.getpid()}.part"
    try:
        save_file({"noise": noise}, part)
        os.replace(part, out / NOISE)
    finally:
        part.unlink(missing_ok=True)
    write_json(out / PROMPTS, content)
    return content


def read_inputs(folder: Path) -> tuple[dict[str, Any], torch.Tensor, dict[str, str]]:
    """Prompts, noise (clips, channels, latent frames, latent rows, latent columns) and the hashes of both.

    Raises:
        Damaged: the noise or the prompts cannot be read, or the noise is not that of the prompts.
        ValueError: a file is missing.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    both = (folder / PROMPTS, folder / NOISE)
    for name in (PROMPTS, NOISE):
        if not (folder / name).exists():
            raise ValueError(f"inputs {folder / name}: the file is missing; python -m benchmark inputs writes it")
    try:
        content = json.loads((folder / PROMPTS).read_text())
        noise = load_file(folder / NOISE)["noise"]
        content["noise_sha256"], content["model"], content["seeds"]
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        line = " ".join(str(error).split())
        raise Damaged(f"inputs {folder}: cannot be read ({line}); draw them again", both) from None
    found = sha256_tensor(noise)
    if found != content["noise_sha256"]:
        raise Damaged(
            f"inputs {folder / NOISE}: SHA-256 is {found}, {PROMPTS} says {content['noise_sha256']}; draw them again",
            both,
        )
    return content, noise, {"noise": found, "prompts": sha256_file(folder / PROMPTS)}


def _testbeds() -> list[str]:
    from benchmark import models

    return [name for name in models.names() if name.startswith("testbed-")]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb ``inputs``."""
    parser.description = "Writes the prompts and the initial noise that all methods share at one length."
    parser.epilog = (
        "example: python -m benchmark inputs --model testbed-nano --length 2x --frames 32 --height 48 --width 48 "
        "--clips 3 --seed 7 --out results/quick/inputs/testbed-nano/2x/seed7"
    )
    parser.add_argument("--experiment", default="adhoc", help="name of the configuration (default: %(default)s)")
    parser.add_argument("--model", required=True, help="a testbed")
    parser.add_argument("--length", default="1x", help="name of the length (default: %(default)s)")
    parser.add_argument("--frames", type=int, required=True, help="frames of the clips")
    parser.add_argument("--height", type=int, required=True, help="pixels")
    parser.add_argument("--width", type=int, required=True, help="pixels")
    parser.add_argument("--clips", type=int, default=1, help="number of prompts (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of prompts and noise (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")


def run(args: argparse.Namespace) -> int:
    """The verb ``inputs``."""
    write_inputs(args.model, args.frames, args.height, args.width, args.clips, args.seed, args.out)
    return 0
