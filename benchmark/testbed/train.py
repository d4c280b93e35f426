"""Training of a testbed's video model on clips that are drawn as it goes.

The network predicts the clean clip (``flow``); matrices of its blocks are trained by Muon, the rest by AdamW, both from
torch. The weights published are an exponential moving average. Everything is stated in ``TrainingSettings``, whose
values for each testbed are in ``SETTINGS``, and in the training record beside the weights. On a GPU the whole step is
captured in a CUDA graph: the models are so small that launching kernels one by one would hold them up.

A run may begin with shorter clips: what an object looks like and where it goes is learned several times faster on
them, since attention costs the square of the length. It may also begin with the weights of another run; the optimizers
then start anew, with their warm-up.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from benchmark.fuse import gradient_options
from benchmark.models.spec import ModelSpec, build
from benchmark.records import describe_device, provenance, sha256_file, write_json
from benchmark.testbed import shards
from benchmark.testbed.flow import LEAST_TIME
from benchmark.testbed.grammar import encode_batch
from benchmark.testbed.sample import pick_device
from benchmark.testbed.world import render_batch, sample_batch

logger = logging.getLogger(__name__)

# What computes self-attention on a GPU, by the names of diffusers' backends; None leaves it to PyTorch.
ATTENTION = MappingProxyType({"default": None, "flash": "_native_flash", "cudnn": "_native_cudnn"})


class Phase(NamedTuple):
    """A part of a training run: the share of the run by which it ends, frames a clip, and clips a step."""

    until: float
    frames: int
    batch: int


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained.

    Args:
        steps: optimizer steps at the most.
        seconds: training ends by then, with the learning rate at its last level; whichever comes first.
        batch: clips a step.
        frames: frames a clip.
        first_share: share of the run that is on shorter clips, before the rest; 0 for none.
        first_batch, first_frames: clips a step and frames a clip in that share.
        rate: highest learning rate; it rises over the first ``warmup`` and falls over the last ``cooldown`` of the
            run, both as shares of it, in ``levels`` equal levels.
        decay: weight decay of matrices.
        average: decay of the moving average of the weights, a step.
        least_weight_time: the clean clip's squared error is weighted by 1 / max(t, this)^2. Below it the weight would
            grow with the sharpness of edges alone, and take the gradient away from what objects are and where they go.
        time_mean, time_deviation: the noise level t is the logistic function of a normal variable with these.
        attention: what computes self-attention on a GPU, one of ``ATTENTION``.
        captured: on a GPU, capture the step in a CUDA graph.
        regional: on a GPU, compile one block for all, in place of the whole model: seconds in place of a minute.
        checkpoint: seconds after which the average so far is written, again and again; 0 for never.
        seed: seed of weights, clips and noise.

    Raises:
        ValueError: a setting is out of its range.
    """

    steps: int = 40_000
    seconds: float = 500.0
    batch: int = 64
    frames: int = 16
    first_share: float = 0.0
    first_batch: int = 64
    first_frames: int = 8
    rate: float = 2e-3
    warmup: float = 0.02
    cooldown: float = 0.5
    levels: int = 30
    decay: float = 0.02
    average: float = 0.999
    least_weight_time: float = 0.4
    time_mean: float = 1.0
    time_deviation: float = 1.2
    attention: str = "default"
    captured: bool = True
    regional: bool = False
    checkpoint: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "frames", "first_batch", "first_frames", "levels"):
            if getattr(self, name) < 1:
                raise ValueError(f"train: {name}={getattr(self, name)}: at least 1 is needed")
        for name in ("seconds", "rate", "least_weight_time"):
            if not getattr(self, name) > 0:
                raise ValueError(f"train: {name}={getattr(self, name)}: a number above 0 is needed")
        for name in ("warmup", "cooldown"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"train: {name}={getattr(self, name)}: a share above 0 and at most 1 is needed")
        for name in ("average", "first_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"train: {name}={getattr(self, name)}: at least 0 and below 1 is needed")
        if not self.checkpoint >= 0:
            raise ValueError(f"train: checkpoint={self.checkpoint}: at least 0 is needed")
        if self.attention not in ATTENTION:
            raise ValueError(f"train: attention={self.attention!r}: {', '.join(ATTENTION)} are allowed")

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The parts of the run, in their order."""
        last = Phase(1.0, self.frames, self.batch)
        return (Phase(self.first_share, self.first_frames, self.first_batch), last) if self.first_share else (last,)

    def rate_at(self, progress: float) -> float:
        """The learning rate when a share of the run is over."""
        share = min((progress + 1e-3) / self.warmup, (1 - progress) / self.cooldown, 1.0)
        return self.rate * max(math.ceil(share * self.levels), 1) / self.levels


# What each testbed is trained with unless the command line says otherwise. ``testbed-base`` has 8 times the tokens of
# ``testbed-nano`` and 2.7 times its pixels a clip, so that the same noise hides less: its noise levels lie higher.
SETTINGS = MappingProxyType(
    {
        "testbed-nano": TrainingSettings(),
        "testbed-base": TrainingSettings(
            seconds=960.0,
            batch=24,
            frames=32,
            first_share=0.35,
            first_batch=96,
            first_frames=8,
            rate=1.5e-3,
            cooldown=0.45,
            time_mean=1.5,
            attention="cudnn",
            regional=True,
            checkpoint=180.0,
        ),
    }
)


def train(
    spec: ModelSpec, settings: TrainingSettings, device: str, out: Path, start: Path | None = None
) -> dict[str, Any]:
    """Trains a model and writes its weights (bf16, in one file or in shards) and ``<name>.training.json``.

    Args:
        device: ``cpu`` or ``cuda``.
        out: folder for weights and training record.
        start: folder with the weights to begin with, as this verb writes them; None for random weights.

    Returns:
        The training record.

    Raises:
        FloatingPointError: the loss is no longer finite.
        ValueError: the weights to begin with are missing, or another model's.
    """
    torch.manual_seed(settings.seed)
    model = build(spec, device, seed=settings.seed).train()
    earlier = None if start is None else _start_from(model, spec, start, device)
    _prepare_attention(model, settings, device)
    names = [name for name, _ in model.named_parameters()]
    averaged = [value.detach().clone() for value in model.parameters()]
    optimizers = _optimizers(model, settings, device)
    # A run that goes on must not see the clips of the run before once more.
    scenes = np.random.Generator(np.random.PCG64(settings.seed if earlier is None else [settings.seed, _runs(earlier)]))

    curve: list[dict[str, float]] = []
    total, count, clips = torch.zeros((), device=device), 0, 0
    began, step, progress = time.perf_counter(), 0, 0.0
    saved = began

    def save() -> dict[str, Any]:
        run = {"steps": step, "seconds": time.perf_counter() - began, "clips": clips, "progress": min(progress, 1.0)}
        return _save(spec, settings, dict(zip(names, averaged, strict=True)), curve, run, earlier, device, out)

    pace = _pacer(device)
    bar = tqdm(total=100, desc=f"training {spec.name}", unit="%")
    for phase in settings.phases:
        clean, prompts = _batch(spec, phase, scenes, device)
        next_batch = _drawer(spec, phase, scenes, device)
        step_once = _step(model, optimizers, averaged, settings, clean, prompts, device)
        while progress < phase.until:
            rate = settings.rate_at(progress)
            total += step_once(rate)
            pace()
            step, count, clips = step + 1, count + 1, clips + phase.batch
            if step == 1000:  # the average starts here, not at the first weights
                torch._foreach_copy_(averaged, [value.detach() for value in model.parameters()])
            progress = max(step / settings.steps, (time.perf_counter() - began) / settings.seconds)
            if step % 200 == 0 or progress >= phase.until:
                loss = float(total) / count
                total.zero_()
                count = 0
                if not math.isfinite(loss):
                    raise FloatingPointError(f"training {spec.name}: loss {loss} at step {step}")
                point = {"step": step, "seconds": time.perf_counter() - began, "loss": loss, "rate": rate}
                curve.append(point | ({"frames": phase.frames} if settings.first_share else {}))
                bar.set_postfix(step=step, frames=phase.frames, loss=f"{loss:.4f}")
            if progress < phase.until:
                for static, drawn in zip((clean, prompts), next_batch(), strict=True):
                    static.copy_(drawn)
            if settings.checkpoint and step >= 1000 and time.perf_counter() - saved > settings.checkpoint:
                save()
                saved = time.perf_counter()
            bar.update(min(round(100 * progress), 100) - bar.n)
    bar.close()
    record = save()
    logger.info("trained %s: %d steps in %.0f s, weights in %s", spec.name, step, record["seconds"], out)
    return record


def _start_from(model: torch.nn.Module, spec: ModelSpec, folder: Path, device: str) -> dict[str, Any]:
    """Puts the weights of another run into a model; returns that run's training record."""
    path, record = shards.find(folder, spec.name), folder / f"{spec.name}.training.json"
    if not record.exists():
        raise ValueError(f"train: {record} is missing; the training record of weights lies beside them")
    try:
        model.load_state_dict(shards.read(path, device), strict=True)
    except RuntimeError as error:
        raise ValueError(f"weights {path}: not those of {spec.name}: {' '.join(str(error).split())[:300]}") from None
    earlier = json.loads(record.read_text())
    if earlier.get("sha256") != sha256_file(path):
        raise ValueError(f"train: {path} is not the file that {record.name} names")
    return earlier


def _runs(record: dict[str, Any] | None) -> int:
    """How many runs led to a training record's weights."""
    return 0 if record is None else 1 + _runs(record.get("start"))


def _prepare_attention(model: torch.nn.Module, settings: TrainingSettings, device: str) -> None:
    """What computes self-attention, and whether blocks are compiled one by one; without effect on a CPU."""
    if device != "cuda":
        return
    backend = ATTENTION[settings.attention]
    if backend is not None:  # cross-attention to four tokens stays with PyTorch's choice
        for block in model.blocks:
            block.attn1.set_attention_backend(backend)
    if settings.regional:
        model.compile_repeated_blocks(fullgraph=True, dynamic=False, options=gradient_options() or None)


def _batch(spec: ModelSpec, phase: Phase, scenes: np.random.Generator, device: str):
    """Clips (batch, 3, frames, height, width) in [-1, 1] and their prompts."""
    drawn = sample_batch(scenes, phase.batch, device)
    clips = render_batch(drawn, phase.frames, spec.default.height).movedim(2, 1).contiguous() * 2 - 1
    return clips, encode_batch(drawn)


def _drawer(spec: ModelSpec, phase: Phase, scenes: np.random.Generator, device: str):
    """A function that draws the next batch; on a GPU beside the training step, in a stream of its own."""
    if device != "cuda":
        return lambda: _batch(spec, phase, scenes, device)
    side = torch.cuda.Stream()

    def draw():
        with torch.cuda.stream(side):
            drawn = _batch(spec, phase, scenes, device)
        torch.cuda.current_stream().wait_stream(side)
        for tensor in drawn:
            tensor.record_stream(torch.cuda.current_stream())
        return drawn

    return draw


def _pacer(device: str, ahead: int = 2) -> Callable[[], None]:
    """A function to call after each step, so that no more than ``ahead`` steps wait in a GPU's queue.

    Without it the time that has passed would be that of the queue, not of the training.
    """
    if device != "cuda":
        return lambda: None
    events: deque[torch.cuda.Event] = deque()

    def pace() -> None:
        event = torch.cuda.Event()
        event.record()
        events.append(event)
        if len(events) > ahead:
            events.popleft().synchronize()

    return pace


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
    whole = device == "cuda" and not settings.regional
    forward = torch.compile(model, dynamic=False, options=gradient_options() or None) if whole else model
    parameters = list(model.parameters())
    loss = torch.zeros((), device=device)

    def once() -> None:
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        normal = torch.randn(len(clean), device=device)
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

    if device != "cuda" or not settings.captured:
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


def _save(spec, settings, weights, curve, run, earlier, device, out: Path) -> dict[str, Any]:
    """Writes weights and training record; ``run`` holds its steps, seconds, clips and progress."""
    stored = {name: value.to(torch.bfloat16).cpu().contiguous() for name, value in weights.items()}
    path, files = shards.write(stored, out, spec.name)
    record = {
        "model": spec.name,
        "transformer_class": spec.transformer_class,
        "transformer_config": dict(spec.transformer_config),
        "parameters": sum(value.numel() for value in weights.values()),
        "settings": asdict(settings),
        **run,
        "curve": curve,
        "sha256": sha256_file(path),
        "files": files,
        "provenance": provenance() | {"device": describe_device(device)},
    }
    if earlier is not None:
        record["start"] = earlier
    write_json(out / f"{spec.name}.training.json", record)
    return record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb ``train``."""
    parser.description = (
        "Trains a testbed model on procedural clips, from random weights or from those of a run before."
    )
    parser.epilog = "example: python -m benchmark train --model testbed-nano --out results/quick/training --seconds 500"
    parser.add_argument("--model", default="testbed-nano", help="model to train (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights and training record")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--start", type=Path, help="folder with weights to begin with (default: random weights)")
    parser.add_argument("--evaluate", type=int, default=0, help="then evaluate on this many clips (default: none)")
    parser.add_argument("--evaluate-long", type=int, default=12, help="and at the longest length on this many")
    parser.add_argument("--samples", type=int, default=0, help="clips drawn into a picture (default: none)")
    for field in fields(TrainingSettings):
        option = "--" + field.name.replace("_", "-")
        kind = {"bool": _yes_or_no}.get(field.type, type(field.default))
        stated = ", ".join(f"{name} {getattr(values, field.name)}" for name, values in SETTINGS.items())
        parser.add_argument(option, type=kind, help=f"default: {stated}")


def _yes_or_no(word: str) -> bool:
    if word.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{word!r}: true or false is needed")
    return word.lower() == "true"


def run(args: argparse.Namespace) -> int:
    """The verb ``train``."""
    from benchmark import models
    from benchmark.testbed.evaluate import add_to_record

    if args.model not in SETTINGS:
        raise ValueError(f"train: model {args.model!r}: only testbeds are trained here: {', '.join(SETTINGS)}")
    if min(args.evaluate, args.samples) < 0 or args.evaluate_long < 1:
        raise ValueError(
            f"train: evaluate={args.evaluate}, evaluate_long={args.evaluate_long}, samples={args.samples}: "
            "at least 0, 1 and 0 are needed"
        )
    asked = {field.name: getattr(args, field.name) for field in fields(TrainingSettings)}
    settings = replace(SETTINGS[args.model], **{name: value for name, value in asked.items() if value is not None})
    device = pick_device(args.device)
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
    spec = models.get(args.model)
    train(spec, settings, device, args.out, args.start)
    add_to_record(spec, args.out, args.evaluate, args.evaluate_long, args.samples, device)
    return 0
