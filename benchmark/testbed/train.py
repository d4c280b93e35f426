"""Training of the testbed's video model on clips that are drawn as it goes.

The network predicts the clean clip (``flow``); matrices of its blocks are trained by Muon, the rest by AdamW, both from
torch. The weights published are an exponential moving average. Everything is stated in ``TrainingSettings`` and in the
training record beside the weights. On a GPU the whole step is captured in a CUDA graph: the model is so small that
launching its kernels one by one takes longer than running them.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmark.models.spec import ModelSpec, build
from benchmark.records import describe_device, provenance, sha256_file, write_json
from benchmark.testbed.flow import LEAST_TIME
from benchmark.testbed.grammar import encode_batch
from benchmark.testbed.sample import pick_device
from benchmark.testbed.world import render_batch, sample_batch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained.

    Args:
        steps: optimizer steps at the most.
        seconds: training ends by then, with the learning rate at its last level; whichever comes first.
        batch: clips a step.
        frames: frames a clip.
        rate: highest learning rate; it rises over the first ``warmup`` and falls over the last ``cooldown`` of the
            run, both as shares of it, in ``levels`` equal levels.
        decay: weight decay of matrices.
        average: decay of the moving average of the weights, a step.
        least_weight_time: the clean clip's squared error is weighted by 1 / max(t, this)^2. Below it the weight would
            grow with the sharpness of edges alone, and take the gradient away from what objects are and where they go.
        time_mean, time_deviation: the noise level t is the logistic function of a normal variable with these.
        seed: seed of weights, clips and noise.

    Raises:
        ValueError: a setting is out of its range.
    """

    steps: int = 40_000
    seconds: float = 500.0
    batch: int = 64
    frames: int = 16
    rate: float = 2e-3
    warmup: float = 0.02
    cooldown: float = 0.5
    levels: int = 30
    decay: float = 0.02
    average: float = 0.999
    least_weight_time: float = 0.4
    time_mean: float = 1.0
    time_deviation: float = 1.2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "frames", "levels"):
            if getattr(self, name) < 1:
                raise ValueError(f"train: {name}={getattr(self, name)}: at least 1 is needed")
        for name in ("seconds", "rate", "least_weight_time"):
            if not getattr(self, name) > 0:
                raise ValueError(f"train: {name}={getattr(self, name)}: a number above 0 is needed")
        for name in ("warmup", "cooldown"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"train: {name}={getattr(self, name)}: a share above 0 and at most 1 is needed")
        if not 0 <= self.average < 1:
            raise ValueError(f"train: average={self.average}: at least 0 and below 1 is needed")

    def rate_at(self, progress: float) -> float:
        """The learning rate when a share of the run is over."""
        share = min((progress + 1e-3) / self.warmup, (1 - progress) / self.cooldown, 1.0)
        return self.rate * max(math.ceil(share * self.levels), 1) / self.levels


def train(spec: ModelSpec, settings: TrainingSettings, device: str, out: Path) -> dict[str, Any]:
    """Trains a model from random weights and writes ``<name>.safetensors`` (bf16) and ``<name>.training.json``.

    Args:
        device: ``cpu`` or ``cuda``.
        out: folder for weights and training record.

    Returns:
        The training record.

    Raises:
        FloatingPointError: the loss is no longer finite.
    """
    torch.manual_seed(settings.seed)
    model = build(spec, device, seed=settings.seed).train()
    averaged = [value.detach().clone() for value in model.parameters()]
    optimizers = _optimizers(model, settings, device)
    scenes = np.random.Generator(np.random.PCG64(settings.seed))
    clean, prompts = _batch(spec, settings, scenes, device)
    next_batch = _drawer(spec, settings, scenes, device)
    step_once = _step(model, optimizers, averaged, settings, clean, prompts, device)

    curve: list[dict[str, float]] = []
    total, count = torch.zeros((), device=device), 0
    start, step, progress = time.perf_counter(), 0, 0.0
    bar = tqdm(total=100, desc=f"training {spec.name}", unit="%")
    while progress < 1:
        rate = settings.rate_at(progress)
        total += step_once(rate)
        step, count = step + 1, count + 1
        if step == 1000:  # the average starts here, not at the random weights
            torch._foreach_copy_(averaged, [value.detach() for value in model.parameters()])
        progress = max(step / settings.steps, (time.perf_counter() - start) / settings.seconds)
        if step % 200 == 0 or progress >= 1:
            loss = float(total) / count
            total.zero_()
            count = 0
            if not math.isfinite(loss):
                raise FloatingPointError(f"training {spec.name}: loss {loss} at step {step}")
            curve.append({"step": step, "seconds": time.perf_counter() - start, "loss": loss, "rate": rate})
            bar.set_postfix(step=step, loss=f"{loss:.4f}")
        if progress < 1:
            for static, drawn in zip((clean, prompts), next_batch(), strict=True):
                static.copy_(drawn)
        bar.update(min(round(100 * progress), 100) - bar.n)
    bar.close()
    names = [name for name, _ in model.named_parameters()]
    weights = dict(zip(names, averaged, strict=True))
    return _save(spec, settings, weights, curve, step, time.perf_counter() - start, device, out)


def _batch(spec: ModelSpec, settings: TrainingSettings, scenes: np.random.Generator, device: str):
    """Clips (batch, 3, frames, height, width) in [-1, 1] and their prompts."""
    drawn = sample_batch(scenes, settings.batch, device)
    clips = render_batch(drawn, settings.frames, spec.default.height).movedim(2, 1).contiguous() * 2 - 1
    return clips, encode_batch(drawn)


def _drawer(spec: ModelSpec, settings: TrainingSettings, scenes: np.random.Generator, device: str):
    """A function that draws the next batch; on a GPU beside the training step, in a stream of its own."""
    if device != "cuda":
        return lambda: _batch(spec, settings, scenes, device)
    side = torch.cuda.Stream()

    def draw():
        with torch.cuda.stream(side):
            drawn = _batch(spec, settings, scenes, device)
        torch.cuda.current_stream().wait_stream(side)
        for tensor in drawn:
            tensor.record_stream(torch.cuda.current_stream())
        return drawn

    return draw


def _optimizers(model: torch.nn.Module, settings: TrainingSettings, device: str) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the transformer blocks, AdamW for everything else."""
    hidden = [value for name, value in model.named_parameters() if name.startswith("blocks.") and value.dim() == 2]
    chosen = {id(value) for value in hidden}
    others = [value for value in model.parameters() if id(value) not in chosen]
    groups = [
        {"params": [value for value in others if value.dim() >= 2], "weight_decay": settings.decay},
        {"params": [value for value in others if value.dim() < 2], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.98), capturable=device == "cuda")
    # Scaled to AdamW's update size, so that one learning rate serves both.
    muon = torch.optim.Muon(hidden, lr=settings.rate, weight_decay=settings.decay, adjust_lr_fn="match_rms_adamw")
    return [muon, adam]


def _step(model, optimizers, averaged, settings, clean, prompts, device) -> Callable[[float], torch.Tensor]:
    """A function that takes one optimizer step at a learning rate, on what ``clean`` and ``prompts`` hold then.

    It returns the loss as a tensor that the next call overwrites.
    """
    forward = torch.compile(model) if device == "cuda" else model
    parameters = list(model.parameters())
    loss = torch.zeros((), device=device)

    def once() -> None:
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        normal = torch.randn(settings.batch, device=device)
        times = torch.sigmoid(settings.time_mean + settings.time_deviation * normal).clamp(min=LEAST_TIME)
        level = times.reshape(-1, 1, 1, 1, 1)
        noisy = (1 - level) * clean + level * torch.randn_like(clean)
        # A cast of the weights must not outlive the step: a captured graph would go on using the old one.
        with torch.autocast(device, dtype=torch.bfloat16, cache_enabled=False):
            predicted = forward(noisy, times * 1000, prompts, return_dict=False)[0]
        error = (predicted.float() - clean) / level.clamp(min=settings.least_weight_time)
        value = error.square().mean()
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        torch._foreach_lerp_(averaged, [parameter.detach() for parameter in parameters], 1 - settings.average)
        loss.copy_(value.detach())

    def set_rate(rate: float) -> bool:
        changed = optimizers[0].param_groups[0]["lr"] != rate
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = rate
        return changed

    def eager(rate: float) -> torch.Tensor:
        set_rate(rate)
        once()
        return loss

    if device != "cuda":
        return eager

    graph: torch.cuda.CUDAGraph | None = None
    warm = 0

    def captured(rate: float) -> torch.Tensor:
        nonlocal graph, warm
        changed = set_rate(rate)
        if warm < 5:  # compilation, and the optimizers' state, must be there before anything is captured
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                once()
            torch.cuda.current_stream().wait_stream(side)
            warm += 1
            return loss
        if graph is None or changed:  # the learning rate is a constant of the graph
            graph = None
            torch.cuda.synchronize()
            new = torch.cuda.CUDAGraph()
            with torch.cuda.graph(new):
                once()
            graph = new
        graph.replay()
        return loss

    return captured


def _save(spec, settings, weights, curve, step, seconds, device, out: Path) -> dict[str, Any]:
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{spec.name}.safetensors"
    save_file({name: value.to(torch.bfloat16).cpu().contiguous() for name, value in weights.items()}, path)
    record = {
        "model": spec.name,
        "transformer_class": spec.transformer_class,
        "transformer_config": dict(spec.transformer_config),
        "parameters": sum(value.numel() for value in weights.values()),
        "settings": asdict(settings),
        "steps": step,
        "seconds": seconds,
        "clips": step * settings.batch,
        "curve": curve,
        "sha256": sha256_file(path),
        "provenance": provenance() | {"device": describe_device(device)},
    }
    write_json(out / f"{spec.name}.training.json", record)
    logger.info("trained %s: %d steps in %.0f s, weights in %s", spec.name, step, seconds, path)
    return record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb ``train``."""
    parser.description = "Trains a testbed model on procedural clips, from random weights."
    parser.epilog = "example: python -m benchmark train --model testbed-nano --out results/quick/training --seconds 500"
    parser.add_argument("--model", default="testbed-nano", help="model to train (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights and training record")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    for field in fields(TrainingSettings):
        option = "--" + field.name.replace("_", "-")
        parser.add_argument(option, type=type(field.default), default=field.default, help="default: %(default)s")


def run(args: argparse.Namespace) -> int:
    """The verb ``train``."""
    from benchmark import models

    if not args.model.startswith("testbed-"):
        raise ValueError(f"train: model {args.model!r}: only testbeds are trained here")
    settings = TrainingSettings(**{field.name: getattr(args, field.name) for field in fields(TrainingSettings)})
    device = pick_device(args.device)
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
    train(models.get(args.model), settings, device, args.out)
    return 0
