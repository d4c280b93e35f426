"""A testbed of two layers with two heads and random weights, and inputs for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmark import models
from benchmark.layout import VideoLayout
from benchmark.models import ModelSpec
from benchmark.records import sha256_tensor

GRID = VideoLayout(4, 3, 4)
PROMPT = "a red circle moving left quickly over waves panning right"


def tiny_spec() -> ModelSpec:
    """The testbed's shapes, made small."""
    return models.get("testbed-nano").resized(num_layers=2, num_attention_heads=2, ffn_dim=32)


def tiny_transformer(spec: ModelSpec) -> torch.nn.Module:
    """Random weights, scaled up so that attention is far from uniform."""
    made = models.build(spec, seed=3)
    with torch.no_grad():
        for block in made.blocks:
            block.attn1.norm_q.weight *= 4
    return made


def tiny_noise(spec: ModelSpec, clips: int) -> torch.Tensor:
    """Noise of clips of 4 frames of 3x4 tokens."""
    return torch.randn(clips, *spec.latent_shape(GRID), generator=torch.Generator().manual_seed(0))


def write_inputs(folder: Path, noise: torch.Tensor, **changes: Any) -> None:
    """Prompts and noise as the verb ``inputs`` writes them, all with the same prompt."""
    count = len(noise)
    content = {"model": "testbed-nano", "frames": 4, "height": 18, "width": 24, "seeds": [*range(7, 7 + count)]}
    content |= {"prompts": [PROMPT] * count, "noise_sha256": sha256_tensor(noise)} | changes
    folder.mkdir(exist_ok=True)
    (folder / "prompts.json").write_text(json.dumps(content))
    save_file({"noise": noise}, folder / "noise.safetensors")
