"""Training of the testbed's video model on clips that are drawn as it goes.

The loss is that of the velocity (``flow``), the weights published are an exponential moving average. Everything is stated in
``TrainingSettings`` and in the training record beside the weights.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmark.models.spec import ModelSpec, build
from benchmark.records import describe_device, provenance, sha256_file, write_json
from benchmark.testbed.flow import LEAST_TIME, velocity
from benchmark.testbed.grammar import encode_batch
from benchmark.testbed.world import render_batch, sample_batch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained.

    Args:
        steps: optimizer steps at the most.
        seconds: the learning rate has fallen to zero by then, and training ends; whichever comes first.
        batch: clips a step.
        frames: frames a clip.
        rate: highest learning rate; it warms up over ``warmup`` steps and falls linearly over the last ``cooldown``.
        decay: weight decay of matrices.
        average: decay of the moving average of the weights, a step.
        time_mean, time_deviation: the noise level t is the logistic function of a normal variable with these.
        seed: seed of weights, clips and noise.
    """

    steps: int = 30_000
    seconds: float = 480.0
    batch: int = 64
    frames: int = 16
    rate: float = 1.5e-3
    warmup: int = 500
    cooldown: float = 0.5
    decay: float = 0.02
    average: float = 0.999
    time_mean: float = 0.8
    time_deviation: float = 1.2
    seed: int = 0


def train(spec: ModelSpec, settings: TrainingSettings, device: str, out: Path) -> dict[str, Any]:
    """Trains a model from random weights and writes ``<name>.safetensors`` (bf16) and ``<name>.training.json``.

    Args:
        device: ``cpu`` or ``cuda``; on CUDA the model is compiled.
        out: folder for weights and training record.

    Returns:
        The training record.

    Raises:
        FloatingPointError: the loss is no longer finite.
    """
    model = build(spec, device, seed=settings.seed).train()
    averaged = {name: value.detach().clone() for name, value in model.named_parameters()}
    matrices = [value for value in model.parameters() if value.dim() >= 2]
    vectors = [value for value in model.parameters() if value.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.98), fused=device == "cuda")
    forward = torch.compile(model) if device == "cuda" else model
    clips = np.random.Generator(np.random.PCG64(settings.seed))
    noise = torch.Generator(device).manual_seed(settings.seed)

    curve: list[dict[str, float]] = []
    losses: list[torch.Tensor] = []
    start, step, progress = time.perf_counter(), 0, 0.0
    bar = tqdm(total=100, desc=f"training {spec.name}", unit="%", bar_format="{l_bar}{bar}{r_bar}")
    while progress < 1:
        rate = settings.rate * min((step + 1) / settings.warmup, (1 - progress) / settings.cooldown, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate
        losses.append(_step(forward, settings, clips, noise, device))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        keep = min(settings.average, (1 + step) / (10 + step))
        names, values = zip(*model.named_parameters(), strict=True)
        torch._foreach_lerp_([averaged[name] for name in names], [value.detach() for value in values], 1 - keep)
        step += 1
        if step % 100 == 0 or step == settings.steps:
            loss = float(torch.stack(losses).mean())
            losses.clear()
            if not math.isfinite(loss):
                raise FloatingPointError(f"training {spec.name}: loss {loss} at step {step}")
            curve.append({"step": step, "seconds": time.perf_counter() - start, "loss": loss, "rate": rate})
            bar.set_postfix(step=step, loss=f"{loss:.4f}")
        progress = max(step / settings.steps, (time.perf_counter() - start) / settings.seconds)
        bar.update(min(round(100 * progress), 100) - bar.n)
    bar.close()
    return _save(spec, settings, averaged, curve, step, time.perf_counter() - start, device, out)


def _step(forward, settings: TrainingSettings, clips, noise, device: str) -> torch.Tensor:
    """One batch forward and backward: its loss, not yet read back."""
    scenes = sample_batch(clips, settings.batch, device)
    clean = render_batch(scenes, settings.frames).movedim(2, 1) * 2 - 1
    prompts = encode_batch(scenes)
    normal = torch.randn(settings.batch, generator=noise, device=device)
    times = torch.sigmoid(settings.time_mean + settings.time_deviation * normal).clamp(min=LEAST_TIME)
    level = times.reshape(-1, 1, 1, 1, 1)
    eps = torch.randn(clean.shape, generator=noise, device=device)
    noisy = (1 - level) * clean + level * eps
    with torch.autocast(device, dtype=torch.bfloat16):
        predicted = forward(noisy, times * 1000, prompts, return_dict=False)[0]
    error = velocity(predicted.float(), noisy, times) - (eps - clean)
    loss = error.square().mean()
    loss.backward()
    return loss.detach()


def _save(spec, settings, averaged, curve, step, seconds, device, out: Path) -> dict[str, Any]:
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    weights = out / f"{spec.name}.safetensors"
    save_file({name: value.to(torch.bfloat16).cpu().contiguous() for name, value in averaged.items()}, weights)
    record = {
        "model": spec.name,
        "transformer_class": spec.transformer_class,
        "transformer_config": dict(spec.transformer_config),
        "parameters": sum(value.numel() for value in averaged.values()),
        "settings": asdict(settings),
        "steps": step,
        "seconds": seconds,
        "clips": step * settings.batch,
        "curve": curve,
        "sha256": sha256_file(weights),
        "provenance": provenance() | {"device": describe_device(device)},
    }
    write_json(out / f"{spec.name}.training.json", record)
    logger.info("trained %s: %d steps in %.0f s, weights in %s", spec.name, step, seconds, weights)
    return record
