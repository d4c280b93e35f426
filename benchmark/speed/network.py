"""A transformer with random weights on the device, ready to be timed: whole, or with attention left out."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmark import attention, kernels, models
from benchmark.attention import AttentionRouter, Schedule
from benchmark.layout import VideoLayout
from benchmark.method import Kernel, Method
from benchmark.models import ModelSpec
from benchmark.speed import settings
from benchmark.speed.cells import SpeedCell
from benchmark.speed.clock import Unsupported, free

logger = logging.getLogger(__name__)

NONE, FULL = "none", "full"
DTYPE = torch.bfloat16
SEED = 0
LAYER_KEYS = ("num_layers", "num_single_layers")


def spec_of(cell: SpeedCell) -> ModelSpec:
    """The model's description, resized where the cell is a trial."""
    return settings.resized(cell.model, cell.trial)


def layout_of(cell: SpeedCell) -> VideoLayout:
    """The token grid of a cell's clip."""
    return spec_of(cell).layout(cell.frames, cell.height, cell.width)


def check_device(device: str) -> None:
    """Ends a measurement that this machine cannot do.

    Raises:
        Unsupported: there is no GPU, or the one there is is too old for bfloat16.
    """
    if device == "cpu":
        return
    if not torch.cuda.is_available():
        raise Unsupported("no CUDA GPU is visible; speed is measured on one (a trial: --device cpu --resized ...)")
    major, minor = torch.cuda.get_device_capability()
    if major < 8:
        name = torch.cuda.get_device_name()
        raise Unsupported(f"{name} has compute capability {major}.{minor}; bfloat16 needs 8.0")


def check_memory(cell: SpeedCell, device: str, weights: bool = True) -> None:
    """Ends a measurement that cannot fit, before anything is built.

    The bytes are a lower bound: the weights, and per token the residual stream, queries, keys, values, and the output
    of attention. What fits by this count and yet not in fact is caught when memory runs out.

    Raises:
        torch.OutOfMemoryError: the device's memory is smaller than that.
    """
    if device == "cpu":
        return
    spec, layout = spec_of(cell), layout_of(cell)
    size = DTYPE.itemsize
    needed = 5 * layout.tokens * spec.width * size + (spec.parameters * size if weights and not cell.trial else 0)
    total = torch.cuda.get_device_properties(0).total_memory
    if needed > total:
        raise torch.OutOfMemoryError(
            f"at least {needed / 2**30:.0f} GiB are needed at {layout.tokens:,} tokens; the GPU has {total / 2**30:.0f}"
        )


def kernel_of(cell: SpeedCell, device: str) -> tuple[str, Kernel]:
    """The cell's kernel by name.

    Raises:
        Unsupported: it can't run here.
    """
    try:
        return kernels.select(cell.kernel, device, block=cell.block, dtype=DTYPE, head_dim=spec_of(cell).head_dim)
    except ValueError as error:
        raise Unsupported(str(error)) from None


def router_of(
    cell: SpeedCell, method: Method, device: str, kernel: Kernel | None = None, through: bool = False
) -> AttentionRouter:
    """What runs a cell's attention.

    Args:
        through: attention is left out and gives back the values, so that the time outside attention remains.
    """
    kernel = kernel or kernel_of(cell, device)[1]
    schedule = Schedule(cell.steps, cell.dense_steps, cell.dense_layers)
    kind = attention.PassThroughRouter if through else AttentionRouter
    return kind(method, layout_of(cell), cell.block, kernel, schedule)


class Network:
    """One transformer with its inputs; a pass is one forward, a step is ``passes`` of them, one after the other.

    Args:
        cell: says the model and the shape.
        router: what runs its attention first.
        level: how far it is fused; see ``fuse``.
        layers: transformer arguments that say how many blocks there are, where not all.
        training: whether gradients will be asked for.
    """

    def __init__(
        self,
        cell: SpeedCell,
        router: AttentionRouter,
        device: str,
        level: str = NONE,
        layers: dict[str, int] | None = None,
        training: bool = False,
    ) -> None:
        self.cell, self.device, self.level, self.training = cell, device, level, training
        self.spec = spec_of(cell).resized(**layers) if layers else spec_of(cell)
        self.transformer = models.build(self.spec, device, DTYPE, seed=SEED)
        layout = layout_of(cell)
        self.inputs: dict[str, Any] = models.example_inputs(self.spec, layout, device, DTYPE, seed=SEED)
        self.router = router
        try:
            models.install(self.spec, self.transformer, router)
        except ValueError as error:
            raise Unsupported(str(error)) from None
        self.fuse(level)

    def fuse(self, level: str) -> None:
        """Fuses the blocks outside attention; ``full`` cannot be taken back."""
        if level == NONE:
            return
        from benchmark import fuse

        # A trial on a CPU goes through the same graphs, without a compiler.
        backend = "eager" if self.device == "cpu" else "inductor"
        fuse.fuse(self.transformer, self.router, level=level, training=self.training, backend=backend)
        self.level = level

    def reroute(self, router: AttentionRouter) -> None:
        """Hands the transformer to another router.

        Raises:
            ValueError: it rotates otherwise, so that a transformer of its own is needed.
        """
        from benchmark import fuse

        fuse.reroute(self.transformer, router)
        self.router = router

    def forward(self) -> torch.Tensor:
        """One pass."""
        with torch.no_grad():
            return self.transformer(**self.inputs, return_dict=False)[0]

    def step(self, number: int) -> Callable[[], None]:
        """A call that runs one whole step, the ``number``-th of the schedule."""

        def run() -> None:
            self.router.step = number
            for _ in range(self.cell.passes):
                self.forward()

        return run


def kinds_of(spec: ModelSpec) -> dict[str, int]:
    """Blocks of each kind, by the transformer's argument."""
    return {key: spec.transformer_config[key] for key in LAYER_KEYS if spec.transformer_config.get(key)}


def relative_error(found: torch.Tensor, other: torch.Tensor) -> float:
    """Norm of the difference over the norm of ``other``."""
    difference = (found.float() - other.float()).norm() / other.float().norm()
    value = float(difference)
    return value if math.isfinite(value) else float("inf")


def forget(network: Network) -> None:
    """Drops a transformer's weights and gives their memory back."""
    network.transformer = None
    free(network.device)


def capture(network: Network) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values as the first layer hands them to its router, in a pass that ends there.

    The transformer is one that is not compiled.
    """
    before = network.router
    network.reroute(_Capturing(before.method, before.layout, before.block, before.kernel, before.schedule))
    try:
        network.forward()
    except _CapturedError as found:
        return found.args
    finally:
        network.reroute(before)
    raise ValueError(f"{network.cell.model}: no layer handed its attention to the router")


class _CapturedError(Exception):
    """Carries what the first layer brought out of the forward pass."""


class _Capturing(attention.AttentionRouter):
    def attend(self, layer, q, k, v, rotate):
        raise _CapturedError(q, k, v)


class CopyingRouter(attention.PassThroughRouter):
    """Hands on a copy of the values, and keeps how long the copies take.

    An operation of a compiled graph may not return its argument, so values that pass through are copied. No attention
    does that (it writes its output, which is in its own time), so it does not belong to the time outside attention.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._copies: list[Callable[[], float]] = []

    def attend(self, layer, q, k, v, rotate):
        """A copy of the values."""
        rotate(q), rotate(k)
        if v.device.type != "cuda":
            begun = time.perf_counter()
            copy = v.clone(memory_format=torch.contiguous_format)
            took = time.perf_counter() - begun
            self._copies.append(lambda: took)
            return copy
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        copy = v.clone(memory_format=torch.contiguous_format)
        end.record()
        self._copies.append(lambda: start.elapsed_time(end) / 1e3)
        return copy

    def copies_s(self, passes: int, layers: int) -> float:
        """Median, over the last so many passes of so many layers, of the seconds that a pass's copies took.

        All that was queued must be over.
        """
        found = [copy() for copy in self._copies[-passes * layers :]]
        return statistics.median(sum(found[n * layers : (n + 1) * layers]) for n in range(passes))


class WarmingRouter(attention.AttentionRouter):
    """Attends in one dense and in one sparse layer, so that kernels are compiled and masks planned; else gives values.

    Args:
        target: the router that will be timed; its attention is called.
    """

    def __init__(self, target: AttentionRouter) -> None:
        super().__init__(target.method, target.layout, target.block, target.kernel, target.schedule)
        self.target = target
        self.layers = {0, target.schedule.dense_layers}

    def attend(self, layer, q, k, v, rotate):
        """The target's attention in those layers, else the values."""
        if layer not in self.layers:
            return v
        self.target.hoisted, self.target.text, self.target.step = self.hoisted, self.text, self.step
        return self.target.attend(layer, q, k, v, rotate)
