"""Looks into a testbed's attention: maps of its heads, and how the score falls with the distance of query and key.

The model runs densely on one prompt. At a few sampling steps, evenly spread, a router between the model and its kernel
computes every layer's attention probabilities from its queries and keys, and averages them over those steps.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark.attention import AttentionRouter, Schedule
from benchmark.layout import VideoLayout
from benchmark.method import Kernel, Method, Rotation
from benchmark.records import describe_device, provenance, sha256_file, sha256_tensor, write_json

logger = logging.getLogger(__name__)

FORMAT = 1
STEPS_RECORDED = 4
LARGEST_MAP, LARGEST_MAP_OF_ALL = 1024, 256
"""Points a side: of the maps of the two heads that are shown, and of those of all heads."""

EXAMPLE = """example:
  python -m benchmark probe --model testbed-nano --inputs results/quick/inputs/testbed-nano/1x \\
      --out results/quick/attention/testbed-nano.npz
"""


@dataclass
class Recording:
    """Sums over the recorded steps, for every layer and head.

    Args:
        layout: grid of the video tokens.
        maps: attention probabilities, averaged over squares where they are too large to keep: (layers, heads, side,
            side).
        same_place: mean probability between the same place in two frames: (layers, heads, frames, frames).
        same_frame: mean over frames of the probability between two places of a frame: (layers, heads, frame tokens,
            frame tokens).
        frames: probability of a whole key frame, averaged over the places of a query frame: (layers, heads, frames,
            frames).
        steps: the steps recorded so far.
    """

    layout: VideoLayout
    maps: torch.Tensor
    same_place: torch.Tensor
    same_frame: torch.Tensor
    frames: torch.Tensor
    steps: list[int] = field(default_factory=list)

    @classmethod
    def empty(cls, layout: VideoLayout, layers: int, heads: int, device: torch.device | str) -> Recording:
        """Nothing recorded yet."""
        side = layout.video // pooling(layout.video, layout.frame_tokens, LARGEST_MAP)
        sizes = (side, layout.frames, layout.frame_tokens, layout.frames)
        return cls(layout, *(torch.zeros(layers, heads, size, size, device=device) for size in sizes))

    def add(self, layer: int, q: torch.Tensor, k: torch.Tensor) -> None:
        """Adds the attention of one layer at one step.

        Args:
            q, k: (1, tokens, heads, head size), rotated.
        """
        f, s = self.layout.frames, self.layout.frame_tokens
        side = self.maps.shape[2]
        scale = 1 / math.sqrt(q.shape[3])
        for head in range(q.shape[2]):  # a head at a time: one map is the largest thing held
            p = (q[0, :, head].float() @ k[0, :, head].float().T * scale).softmax(dim=-1)
            grid = p.reshape(f, s, f, s)
            self.maps[layer, head] += p.reshape(side, f * s // side, side, f * s // side).mean(dim=(1, 3))
            self.same_place[layer, head] += grid.diagonal(dim1=1, dim2=3).mean(dim=-1)
            self.same_frame[layer, head] += grid.diagonal(dim1=0, dim2=2).mean(dim=-1)
            self.frames[layer, head] += grid.sum(dim=3).mean(dim=1)


class RecordingRouter(AttentionRouter):
    """A router that leaves attention dense, and records its probabilities at some of the steps.

    Args:
        layout: token grid of the clip.
        kernel: computes the attention.
        steps: sampling steps.
        wanted: those that are recorded.
        recording: where the probabilities go.
    """

    def __init__(
        self, layout: VideoLayout, kernel: Kernel, steps: int, wanted: Iterable[int], recording: Recording
    ) -> None:
        super().__init__(Method(), layout, layout.frame_tokens, kernel, Schedule(steps))
        self.wanted = frozenset(wanted)
        self.recording = recording

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rotate: Rotation) -> torch.Tensor:
        """The dense self-attention of a layer at the current step, of one sample."""
        q, k = rotate(q), rotate(k)
        if self.step in self.wanted:
            self.recording.add(layer, q, k)
        return super().attend(layer, q, k, v, lambda x: x)


def record(
    transformer: torch.nn.Module, layout: VideoLayout, noise: torch.Tensor, prompt: str, steps: int, recorded: int
) -> Recording:
    """Samples a clip densely and records its attention.

    Args:
        transformer: a ``WanTransformer3DModel`` of the testbed; its own attention is put back afterwards.
        layout: token grid of the clip.
        noise: float32 (1, channels, frames, height, width).
        prompt: a sentence of the testbed's grammar.
        steps: sampling steps.
        recorded: how many of them are recorded.

    Returns:
        Means over the recorded steps.

    Raises:
        ValueError: more steps are to be recorded than there are, or none.
    """
    from benchmark import kernels
    from benchmark.models import wan
    from benchmark.testbed.grammar import encode
    from benchmark.testbed.sample import sample

    wanted = recorded_steps(steps, recorded)
    blocks = list(transformer.blocks)
    recording = Recording.empty(layout, len(blocks), blocks[0].attn1.heads, noise.device)
    _, kernel = kernels.select(kernels.AUTO, noise.device.type)
    router = RecordingRouter(layout, kernel, steps, wanted, recording)

    def before_step(step: int) -> None:
        router.step = step
        if step in wanted:
            recording.steps.append(step)

    before = [block.attn1.processor for block in blocks]
    try:
        wan.install(transformer, router)
        sample(transformer, noise, encode([prompt]).to(noise.device), steps, before_step)
    finally:
        transformer.attention_link.release()
        for block, processor in zip(blocks, before, strict=True):
            block.attn1.set_processor(processor)
    for sums in (recording.maps, recording.same_place, recording.same_frame, recording.frames):
        sums /= len(recording.steps)
    return recording


def recorded_steps(steps: int, recorded: int) -> list[int]:
    """The middle steps of ``recorded`` equal parts of a schedule.

    Raises:
        ValueError: as many parts are not possible.
    """
    if not 1 <= recorded <= steps:
        raise ValueError(f"steps recorded: {recorded} of {steps}; from 1 to {steps} are possible")
    return [int((n + 0.5) * steps / recorded) for n in range(recorded)]


def pooling(tokens: int, frame_tokens: int, most: int) -> int:
    """The smallest side of squares, dividing a frame, over which a map is averaged to have at most ``most`` a side.

    A whole frame where nothing smaller does.
    """
    sizes = [size for size in range(1, frame_tokens + 1) if frame_tokens % size == 0]
    return next((size for size in sizes if tokens // size <= most), frame_tokens)


def by_frame_distance(pairs: np.ndarray) -> np.ndarray:
    """Means over all pairs of frames at the same distance: (..., frames, frames) to (..., frames)."""
    frames = pairs.shape[-1]
    return np.stack(
        [
            (pairs.diagonal(n, -2, -1).sum(-1) + (pairs.diagonal(-n, -2, -1).sum(-1) if n else 0))
            / ((frames - n) * (2 if n else 1))
            for n in range(frames)
        ],
        axis=-1,
    )


def by_place_distance(pairs: np.ndarray, layout: VideoLayout) -> tuple[np.ndarray, np.ndarray]:
    """Means over all pairs of places in a frame at the same distance, rounded to whole tokens.

    Args:
        pairs: (..., frame tokens, frame tokens).

    Returns:
        The distances, (n,), and the means, (..., n).
    """
    index = np.arange(layout.frame_tokens)
    row, column = index // layout.width, index % layout.width
    exact = np.hypot(row[:, None] - row[None], column[:, None] - column[None])
    rounded = np.rint(exact).astype(int)
    found = np.unique(rounded)
    return found, np.stack([pairs[..., rounded == n].mean(-1) for n in found], axis=-1)


def fit_decay(distance: np.ndarray, score: np.ndarray) -> dict[str, float]:
    """The exponential y = exp(-a x + b) nearest to scores in least squares, and its R^2.

    Found by ``scipy.optimize.curve_fit`` on the scores themselves, from the straight line through their logarithms.
    Distance 0 is left out: it is the token itself.

    Args:
        distance, score: (n,), scores above 0.

    Returns:
        ``a``, ``b`` and ``r2``.

    Raises:
        ValueError: fewer than three distances above 0, or a score that is not above 0.
    """
    from scipy.optimize import curve_fit

    x, y = distance[distance > 0].astype(np.float64), score[distance > 0].astype(np.float64)
    if len(x) < 3:
        raise ValueError(f"energy decay: {len(x)} distances above 0; at least 3 are needed for a fit")
    if not (y > 0).all():
        raise ValueError(f"energy decay: the lowest score is {y.min()}; scores above 0 are needed for a fit")
    slope, offset = np.polyfit(x, np.log(y), 1)
    (a, b), _ = curve_fit(lambda x, a, b: np.exp(-a * x + b), x, y, p0=(-slope, offset), maxfev=10_000)
    residual = np.square(y - np.exp(-a * x + b)).sum()
    spread = np.square(y - y.mean()).sum()
    return {"a": float(a), "b": float(b), "r2": float(1 - residual / spread) if spread else 1.0}


def choose_heads(recording: Recording) -> dict[str, tuple[int, int]]:
    """The head that attends most within its own frame, and another that attends most to its own place in other frames.

    The token itself counts for neither.

    Returns:
        (layer, head) of ``spatial`` and ``temporal``.
    """
    self_share = recording.same_place.diagonal(dim1=-2, dim2=-1).mean(-1)
    own_frame = recording.frames.diagonal(dim1=-2, dim2=-1).mean(-1) - self_share
    own_place = recording.same_place.sum(-1).mean(-1) - self_share
    spatial = divmod(int(own_frame.argmax()), own_frame.shape[1])
    own_place[spatial] = -1
    return {"spatial": spatial, "temporal": divmod(int(own_place.argmax()), own_place.shape[1])}


def summarise(recording: Recording) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What is kept of a recording: arrays, and the chosen heads with the fits of their decay.

    Returns:
        Arrays ``temporal_distance``, ``spatial_distance``; ``temporal``, ``spatial`` (layers, heads, distances), the
        mean probability of a key at that distance in the same place or the same frame; ``frames`` (layers, heads,
        frames, frames); ``maps`` of all heads; ``map_spatial``, ``map_temporal`` of the chosen ones. And ``heads``,
        ``fits`` (of each chosen head and of the mean of all heads, for both distances), ``map_pooling``.
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
    curves = {
        "mean": (temporal.mean((0, 1)), spatial.mean((0, 1))),
        **{name: (temporal[place], spatial[place]) for name, place in heads.items()},
    }
    fits = {
        name: {
            "temporal": fit_decay(arrays["temporal_distance"], by_time),
            "spatial": fit_decay(distances, by_place),
        }
        for name, (by_time, by_place) in curves.items()
    }
    facts = {
        "heads": {name: list(place) for name, place in heads.items()},
        "fits": fits,
        "fit": "y = exp(-a x + b) over distances above 0, least squares on the scores (scipy.optimize.curve_fit)",
        "map_pooling": layout.video // side,
        "layout": [layout.frames, layout.height, layout.width],
        "steps_recorded": recording.steps,
    }
    return arrays, facts


def read_inputs(folder: Path, clip: int) -> tuple[str, torch.Tensor]:
    """Prompt and noise of a clip, from a folder that the verb ``inputs`` wrote.

    Returns:
        The prompt, and float32 (1, channels, frames, height, width).

    Raises:
        ValueError: a file is missing or not in order, or there is no such clip.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        prompts = json.loads((folder / "prompts.json").read_text())["prompts"]
        tensors = load_file(folder / "noise.safetensors")
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename or folder}: the file is missing; 'inputs' writes it") from None
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise ValueError(f"{folder}: prompts or noise cannot be read ({error!r})") from None
    if len(tensors) != 1:
        raise ValueError(f"{folder}/noise.safetensors: {len(tensors)} tensors ({', '.join(tensors)}); one is needed")
    noise = next(iter(tensors.values()))
    if not 0 <= clip < min(len(prompts), len(noise)):
        raise ValueError(f"clip={clip}: {folder} has clips 0 to {min(len(prompts), len(noise)) - 1}")
    return prompts[clip], noise[clip : clip + 1].float()


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
    parser.description = "Record a testbed's attention on one prompt and fit its decay with distance."
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", required=True, help="a testbed, as in benchmark/models")
    parser.add_argument("--inputs", type=Path, required=True, metavar="DIR", help="prompts and noise, from 'inputs'")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help=".npz to write, with a .json beside it")
    parser.add_argument("--clip", type=int, default=0, help="which of the prompts (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="sampling steps (default: the model's)")
    parser.add_argument(
        "--record-steps", type=int, default=STEPS_RECORDED, help="steps that are recorded (default: %(default)s)"
    )
    parser.add_argument("--device", default="cpu", help="torch device (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Records and writes. Returns the exit status."""
    from benchmark import models
    from benchmark.models.testbed import load

    spec = models.get(args.model)
    if spec.transformer_class != "WanTransformer3DModel" or spec.vae_compression != 1:
        raise ValueError(f"model {args.model!r}: only testbeds can be probed, such as testbed-nano")
    if args.out.suffix != ".npz":
        raise ValueError(f"--out {args.out}: a name that ends in .npz is needed")
    prompt, noise = read_inputs(args.inputs, args.clip)
    layout = spec.layout(*noise.shape[2:])
    transformer = load(args.model, args.device)
    steps = args.steps or spec.steps
    recording = record(transformer, layout, noise.to(args.device), prompt, steps, args.record_steps)
    arrays, facts = summarise(recording)
    write_npz(args.out, arrays)
    content = {
        "format": FORMAT,
        "model": args.model,
        "prompt": prompt,
        "steps": steps,
        **facts,
        "provenance": provenance()
        | {
            "hashes": {"noise": sha256_tensor(noise), "attention": sha256_file(args.out)},
            "device": describe_device(torch.device(args.device).type),
        },
    }
    write_json(args.out.with_suffix(".json"), content)
    for name, fit in facts["fits"].items():
        words = ", ".join(f"{axis} a={found['a']:.3f} R^2={found['r2']:.3f}" for axis, found in fit.items())
        logger.info("%s: %s", name, words)
    return 0
