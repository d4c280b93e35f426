"""How good a trained testbed is: the adherence of its dense clips, and after how many frames it repeats itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmark.records import describe_device, provenance, write_json
from benchmark.testbed.adherence import read_clip, score
from benchmark.testbed.grammar import describe, encode, parse
from benchmark.testbed.sample import sample
from benchmark.testbed.world import Scene, render, sample_scene, to_uint8

FIRST_SEED = 900_000_000  # scenes that no experiment's prompts use below the seed 9000


def make_clips(
    transformer: torch.nn.Module, scenes: Sequence[Scene], frames: int, size: int, steps: int, device: str
) -> np.ndarray:
    """Dense clips of scenes' prompts, each from noise of its own: uint8 (clips, frames, size, size, 3)."""
    clips = []
    for number, scene in enumerate(tqdm(scenes, desc=f"{frames} frames", unit="clip")):
        generator = torch.Generator().manual_seed(FIRST_SEED + number)
        noise = torch.randn(1, 3, frames, size, size, generator=generator).to(device)
        clips.append(to_uint8(sample(transformer, noise, encode([describe(scene)]).to(device), steps)[0]).cpu())
    return torch.stack(clips).numpy()


def adherence(clips: np.ndarray, scenes: Sequence[Scene]) -> dict[str, float]:
    """Mean scores of clips against their scenes' prompts, each in [0, 1]."""
    scores = [score(read_clip(clip), parse(describe(scene))) for clip, scene in zip(clips, scenes, strict=True)]
    return {key: float(np.mean([found[key] for found in scores])) for key in scores[0]}


def autocorrelation(clips: np.ndarray) -> list[float]:
    """Correlation of a clip with itself a number of frames later, over all clips: one number for each shift from 1.

    A clip's mean frame is taken away first. Shifts go to three quarters of the clip.
    """
    values = clips.astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    found = []
    for shift in range(1, 3 * clips.shape[1] // 4):
        early, late = values[:, :-shift], values[:, shift:]
        found.append(float((early * late).sum() / np.sqrt((early**2).sum() * (late**2).sum())))
    return found


def repetition(correlations: Sequence[float], least: float = 0.5) -> int | None:
    """The period in frames after which clips repeat: the highest peak once the correlation has fallen below zero.

    Returns:
        None where it does not fall below zero, or has no peak of at least ``least`` after that. Still rising at the
        end is no peak.
    """
    below = next((shift for shift, value in enumerate(correlations) if value < 0), len(correlations))
    peaks = [
        shift
        for shift in range(below + 1, len(correlations) - 1)
        if correlations[shift] >= max(least, correlations[shift - 1], correlations[shift + 1])
    ]
    return max(peaks, key=lambda shift: correlations[shift]) + 1 if peaks else None


def evaluate(transformer: torch.nn.Module, spec: Any, clips: int, long_clips: int, device: str) -> dict[str, Any]:
    """Adherence at the trained length and at the longest, and the repetition there.

    Args:
        spec: the testbed's ``ModelSpec``.
        clips, long_clips: clips at the trained length, and at the longest; at least 1 of each.

    Raises:
        ValueError: no clips.
    """
    if min(clips, long_clips) < 1:
        raise ValueError(f"evaluate: clips={clips}, long_clips={long_clips}: at least 1 of each is needed")
    size, steps, longest = spec.default.height, spec.steps, max(spec.lengths.values())
    scenes = [sample_scene(FIRST_SEED + number) for number in range(max(clips, long_clips))]
    short = make_clips(transformer, scenes[:clips], spec.default.frames, size, steps, device)
    long = make_clips(transformer, scenes[:long_clips], longest, size, steps, device)
    correlations = autocorrelation(long)
    truth = autocorrelation(to_uint8(render(scenes[:long_clips], longest, size)).numpy())
    return {
        "steps": steps,
        "clips": clips,
        "adherence": adherence(short, scenes[:clips]),
        "long_frames": longest,
        "long_clips": long_clips,
        "long_adherence": adherence(long, scenes[:long_clips]),
        "autocorrelation": correlations,
        "autocorrelation_of_the_world": truth,
        "repetition": repetition(correlations),
        "repetition_of_the_world": repetition(truth),
    }


def add_to_record(spec: Any, folder: Path, clips: int, long_clips: int, samples: int, device: str) -> None:
    """Evaluates the weights in a folder, into their training record, and draws samples beside it.

    Args:
        spec: the testbed's ``ModelSpec``.
        folder: written by the verb ``train``.
        clips, long_clips: see ``evaluate``; no evaluation where ``clips`` is 0.
        samples: clips in the picture ``<name>.samples.png``; none where 0.
    """
    from benchmark.models import testbed

    if not clips and not samples:
        return
    transformer = testbed.load(spec.name, device, folder, spec)
    if clips:
        record = folder / f"{spec.name}.training.json"
        found = evaluate(transformer, spec, clips, long_clips, device)
        found["provenance"] = provenance() | {"device": describe_device(device)}
        write_json(record, json.loads(record.read_text()) | {"evaluation": found})
    if samples:
        scenes = [sample_scene(FIRST_SEED + number) for number in range(samples)]
        drawn = make_clips(transformer, scenes, spec.default.frames, spec.default.height, spec.steps, device)
        save_picture(drawn, folder / f"{spec.name}.samples.png")


def save_picture(clips: np.ndarray, path: Path, columns: int = 8) -> None:
    """Some frames of each clip, a clip a row: uint8 (clips, frames, size, size, 3) as one PNG."""
    from PIL import Image

    chosen = np.linspace(0, clips.shape[1] - 1, min(columns, clips.shape[1])).round().astype(int)
    framed = np.pad(clips[:, chosen], ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
    rows = [np.concatenate(list(frames), axis=1) for frames in framed]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(path)
