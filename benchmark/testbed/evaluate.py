"""How good a trained testbed is: the adherence of its dense clips, and after how many frames it repeats itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmark.testbed.adherence import read_clip, score
from benchmark.testbed.grammar import describe, encode, parse
from benchmark.testbed.sample import sample
from benchmark.testbed.world import Scene, render, sample_scene, to_uint8

FIRST_SEED = 900_000_000  # scenes that no experiment's prompts use


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
        None where it does not fall below zero, or comes back to less than ``least``.
    """
    below = next((shift for shift, value in enumerate(correlations) if value < 0), None)
    if below is None:
        return None
    peak = max(range(below, len(correlations)), key=lambda shift: correlations[shift])
    return peak + 1 if correlations[peak] >= least else None


def evaluate(transformer: torch.nn.Module, spec: Any, clips: int, long_clips: int, device: str) -> dict[str, Any]:
    """Adherence at the trained length and at the longest, and the repetition there.

    Args:
        spec: the testbed's ``ModelSpec``.
        clips, long_clips: clips at the trained length, and at the longest.
    """
    size, steps, longest = spec.default.height, spec.steps, max(spec.lengths.values())
    scenes = [sample_scene(FIRST_SEED + number) for number in range(clips)]
    short = make_clips(transformer, scenes, spec.default.frames, size, steps, device)
    long = make_clips(transformer, scenes[:long_clips], longest, size, steps, device)
    correlations = autocorrelation(long)
    truth = autocorrelation(to_uint8(render(scenes[:long_clips], longest, size)).numpy())
    return {
        "steps": steps,
        "clips": clips,
        "adherence": adherence(short, scenes),
        "long_frames": longest,
        "long_clips": long_clips,
        "long_adherence": adherence(long, scenes[:long_clips]),
        "autocorrelation": correlations,
        "autocorrelation_of_the_world": truth,
        "repetition": repetition(correlations),
        "repetition_of_the_world": repetition(truth),
    }
