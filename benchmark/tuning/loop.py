"""The loop of a tuning: procedural clips of the cell's length, the flow's loss, and the method's attention both ways.

The network runs in bfloat16 as it does when clips are drawn; the optimizer holds what it trains in float32 and copies
it back after each step. Clips, noise and its levels follow from the seed and the number of the step alone: they are
the same for every method, and a tuning that was stopped goes on where it was. On a GPU the step is captured in a CUDA
graph, for launching the kernels of so small a network takes longer than running them, and the next clips are drawn
beside it.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark.captured import FixedTables
from benchmark.models.spec import ModelSpec
from benchmark.testbed.flow import LEAST_TIME
from benchmark.testbed.grammar import encode_batch
from benchmark.testbed.train import TrainingSettings
from benchmark.testbed.world import render_batch, sample_batch
from benchmark.tuning.settings import TuningSettings
from benchmark.tuning.style import styled

logger = logging.getLogger(__name__)

POINTS = 40  # of the loss curve
SAVE_EVERY = 60.0  # seconds between two saved states
EAGER_STEPS = 3  # before a CUDA graph is captured: kernels are compiled and the optimizer's state made in them


class NoGradient(ValueError):
    """No gradient reaches what is trained: the method's operator or the kernel has no backward pass."""


@dataclass
class Progress:
    """How far a tuning is.

    Args:
        step: steps done.
        seconds: wall time of them, with that of earlier processes.
        curve: mean loss since the last point, by step.
        starting: how many of the steps compiled something, and their share of the wall time.
    """

    step: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)
    starting: tuple[int, float] = (0, 0.0)

    def settled_seconds(self) -> float:
        """The wall time of all steps, had those that compiled something taken no longer than the others."""
        steps, seconds = self.starting
        return (self.seconds - seconds) * self.step / (self.step - steps) if self.step > steps else self.seconds

    def final_loss(self) -> float:
        """The mean loss over the last tenth of the steps, at least the last point."""
        last = [point for point in self.curve if point["step"] > 0.9 * self.step] or self.curve[-1:]
        return sum(point["loss"] for point in last) / len(last)


def flow_settings(training_record: Path) -> TrainingSettings:
    """The settings of the base model's own training, whose noise levels and weights of the loss tuning keeps.

    Raises:
        ValueError: the record is missing or says nothing of them.
    """
    try:
        stated = json.loads(training_record.read_text())["settings"]
        return TrainingSettings(**{name: stated[name] for name in ("time_mean", "time_deviation", "least_weight_time")})
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{training_record}: no settings of the training: {type(error).__name__}: {error}") from None


def rate_at(settings: TuningSettings, step: int) -> float:
    """The learning rate of a step, from 0: a linear rise, then half a cosine down to a hundredth."""
    rise = max(round(settings.warmup * settings.steps), 1)
    if step < rise:
        return settings.rate * (step + 1) / rise
    share = (step - rise) / max(settings.steps - rise, 1)
    return settings.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))


def draw(
    spec: ModelSpec, settings: TuningSettings, flow: TrainingSettings, frames: int, size: int, step: int, device: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a step is trained on, the same for every method.

    Returns:
        Clips (batch, 3, frames, size, size) in [-1, 1], their text (batch, text tokens, text size), noise like the
        clips, and its levels (batch,).
    """
    numbers = np.random.Generator(np.random.PCG64([settings.seed, step]))
    scenes = sample_batch(numbers, settings.batch, device)
    clips = styled(render_batch(scenes, frames, size), settings.style).movedim(2, 1).contiguous() * 2 - 1
    normal = torch.from_numpy(numbers.standard_normal(settings.batch).astype(np.float32)).to(device)
    levels = torch.sigmoid(flow.time_mean + flow.time_deviation * normal).clamp(min=LEAST_TIME)
    generator = torch.Generator(device).manual_seed(settings.seed * 1_000_003 + step)
    return clips, encode_batch(scenes), torch.randn(clips.shape, generator=generator, device=device), levels


def flow_loss(
    transformer: torch.nn.Module,
    given: Sequence[torch.Tensor],
    least_weight_time: float,
) -> torch.Tensor:
    """The loss that testbeds are trained with: the clean clip's squared error over the squared noise level.

    Args:
        given: as ``draw`` returns them.
        least_weight_time: noise levels below it count as it.
    """
    clean, prompts, noise, times = given
    dtype = transformer.patch_embedding.weight.dtype
    level = times.reshape(-1, 1, 1, 1, 1)
    noisy = (1 - level) * clean + level * noise
    predicted = transformer(noisy.to(dtype), times * 1000, prompts.to(dtype), return_dict=False)[0]
    return ((predicted.float() - clean) / level.clamp(min=least_weight_time)).square().mean()


def train(
    transformer: torch.nn.Module,
    spec: ModelSpec,
    settings: TuningSettings,
    flow: TrainingSettings,
    frames: int,
    size: int,
    device: str,
    state: Path,
    key: str,
    capture: bool = True,
) -> Progress:
    """Trains those parameters of a transformer that require gradients.

    Args:
        transformer: with a router installed that runs the method, and adapters if there are any.
        frames, size: frames of a clip, and its height and width in pixels.
        device: ``cpu`` or ``cuda``.
        state: file that the state is saved in now and then; a state of the same key is gone on with.
        key: a hash of everything that decides the result.
        capture: whether a GPU runs the steps from a CUDA graph.

    Raises:
        FloatingPointError: the loss is no longer finite.
        NoGradient: some trained parameter gets no gradient.
    """
    from tqdm import tqdm

    named = [(name, value) for name, value in transformer.named_parameters() if value.requires_grad]
    held = [value.detach().float().clone() for _, value in named]
    rate = torch.tensor(settings.rate, device=device) if device == "cuda" else settings.rate
    optimizer = torch.optim.AdamW(held, lr=rate, betas=(0.9, 0.99), weight_decay=0.0, capturable=device == "cuda")
    progress = _resume(state, key, held, optimizer, device)
    _copy(named, held)
    static = draw(spec, settings, flow, frames, size, progress.step, device)
    aside = torch.cuda.Stream() if device == "cuda" else None  # draws the next clips while a step runs
    if aside is not None:
        aside.wait_stream(torch.cuda.current_stream())  # which may still make what all clips share
    with torch.no_grad():
        transformer.rope = FixedTables(transformer.rope(static[0]))
    advance = _step(transformer, named, held, optimizer, static, flow.least_weight_time, capture and device == "cuda")
    every = max(settings.steps // POINTS, 1)
    total, count = torch.zeros((), device=device), 0
    before, start = progress.seconds, time.perf_counter()
    settled = progress.step + EAGER_STEPS + 1 if device == "cuda" else None
    saved = start
    bar = tqdm(total=settings.steps, initial=progress.step, desc=f"tuning {spec.name}", unit="step")
    while progress.step < settings.steps:
        group = optimizer.param_groups[0]
        if device == "cuda":
            group["lr"].fill_(rate_at(settings, progress.step))
        else:
            group["lr"] = rate_at(settings, progress.step)
        total += advance()
        progress.step, count = progress.step + 1, count + 1
        if progress.step == settled:
            torch.cuda.synchronize()
            steps, seconds = progress.starting
            progress.starting = (steps + EAGER_STEPS + 1, seconds + time.perf_counter() - start)
        last = progress.step == settings.steps
        if progress.step % every == 0 or last:
            loss = float(total) / count
            if not math.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss} after {progress.step} of {settings.steps} steps")
            total.zero_()
            count = 0
            progress.seconds = before + time.perf_counter() - start
            progress.curve.append({"step": progress.step, "seconds": progress.seconds, "loss": loss})
            bar.set_postfix(loss=f"{loss:.4f}")
            if not last and time.perf_counter() - saved > SAVE_EVERY:
                _save(state, key, held, optimizer, progress)
                saved = time.perf_counter()
        if not last:
            with torch.cuda.stream(aside):
                drawn = draw(spec, settings, flow, frames, size, progress.step, device)
            _replace(static, drawn, aside)
        bar.update(progress.step - bar.n)
    bar.close()
    if not all(bool(torch.isfinite(value).all()) for value in held):
        raise FloatingPointError("a trained weight is not finite after the last step")
    return progress


def _replace(static: Sequence[torch.Tensor], drawn: Sequence[torch.Tensor], aside: torch.cuda.Stream | None) -> None:
    """Puts what was drawn for the next step, in a stream of its own on a GPU, where the step reads it."""
    if aside is not None:
        torch.cuda.current_stream().wait_stream(aside)
    for place, value in zip(static, drawn, strict=True):
        place.copy_(value)
        if aside is not None:
            value.record_stream(torch.cuda.current_stream())  # or its memory might be drawn into before it is read


def _copy(named: Sequence[tuple[str, torch.nn.Parameter]], held: Sequence[torch.Tensor]) -> None:
    """The network's own copies of what the optimizer holds in float32."""
    with torch.no_grad():
        for (_, value), master in zip(named, held, strict=True):
            value.copy_(master)


def _step(transformer, named, held, optimizer, static, least_weight_time, capture) -> Callable[[], torch.Tensor]:
    """A function that takes one step on what ``static`` holds, and returns the loss, which the next call overwrites."""
    result = torch.zeros((), device=static[0].device)

    def once() -> None:
        for _, value in named:
            value.grad = None
        loss = flow_loss(transformer, static, least_weight_time)
        loss.backward()
        for (name, value), master in zip(named, held, strict=True):
            if value.grad is None:
                raise NoGradient(f"{name} gets no gradient: the operator or its kernel has no backward pass")
            master.grad = value.grad.float()
        torch.nn.utils.clip_grad_norm_(held, 1.0)
        optimizer.step()
        _copy(named, held)
        result.copy_(loss.detach())

    if not capture:

        def eager() -> torch.Tensor:
            once()
            return result

        return eager

    graph: torch.cuda.CUDAGraph | None = None
    warm = 0

    def captured() -> torch.Tensor:
        nonlocal graph, warm
        if warm < EAGER_STEPS:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                once()
            torch.cuda.current_stream().wait_stream(side)
            warm += 1
            return result
        if graph is None:
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                once()
        graph.replay()
        return result

    return captured


def _save(path: Path, key: str, held: Sequence[torch.Tensor], optimizer: torch.optim.Optimizer, progress: Progress):
    """Saves the state, whole or not at all."""
    from safetensors.torch import save_file

    tensors = {}
    for number, value in enumerate(held):
        tensors[f"{number}.value"] = value
        for name in ("exp_avg", "exp_avg_sq"):
            tensors[f"{number}.{name}"] = optimizer.state[value][name]
    said = {"key": key, "step": progress.step, "seconds": progress.seconds, "curve": progress.curve}
    said["starting"] = progress.starting
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
            part,
            {"progress": json.dumps(said)},
        )
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _resume(path: Path, key: str, held: Sequence[torch.Tensor], optimizer, device: str) -> Progress:
    """The state of an earlier process with the same key, put in place; a fresh start where there is none."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return Progress()
    try:
        with safe_open(path, "pt", device=device) as file:
            said: dict[str, Any] = json.loads((file.metadata() or {}).get("progress", "{}"))
            if said.get("key") != key:
                logger.info("%s is of another tuning, which is not gone on with", path)
                return Progress()
            for number, value in enumerate(held):
                value.copy_(file.get_tensor(f"{number}.value"))
                moments = {name: file.get_tensor(f"{number}.{name}").clone() for name in ("exp_avg", "exp_avg_sq")}
                step = torch.tensor(float(said["step"]), device=device if device == "cuda" else "cpu")
                optimizer.state[value] = {"step": step, **moments}
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path}: damaged ({error}); delete it to tune anew") from None
    logger.info("%s: %d steps are done already", path, said["step"])
    return Progress(said["step"], said["seconds"], said["curve"], tuple(said["starting"]))
