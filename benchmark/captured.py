"""A testbed's forward pass as CUDA graphs, when clips are drawn on a GPU.

A network so small is held up by the launching of its kernels: eagerly a GPU waits for most of a step. The kernels and
their order are the same either way.
"""

from __future__ import annotations

import torch

from benchmark.attention import AttentionRouter
from benchmark.kernels import load
from benchmark.method import Method

_WARM = 2  # eager passes before a graph is captured: in them kernels are compiled and masks brought into their form


class FixedTables(torch.nn.Module):
    """A rotary embedding whose tables are worked out once, for clips of one shape."""

    def __init__(self, tables: tuple[torch.Tensor, torch.Tensor]) -> None:
        super().__init__()
        self.tables = tables

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The tables."""
        return self.tables


def capturable(method: Method, kernel: str) -> bool:
    """Whether a method's passes with a kernel can be captured: not so where its mask is decided at each call, or where
    the kernel reads masks on the host."""
    return not method.dynamic and (not method.sparse or load(kernel).CAPTURES_MASKS)


class CapturedTransformer:
    """A transformer for inputs of one shape, with one graph for dense steps and one for the others.

    Args:
        transformer: on a GPU, with the router installed, which ``capturable`` allows. From the first call on its rotary
            tables are fixed.
        router: its ``step`` says which graph runs.

    Raises:
        RuntimeError: at a call; the method does what cannot be captured, such as reading a value on the host.
    """

    def __init__(self, transformer: torch.nn.Module, router: AttentionRouter) -> None:
        self.transformer = transformer
        self.router = router
        self._graphs: dict[bool, torch.cuda.CUDAGraph] = {}
        self._inputs: tuple[torch.Tensor, ...] = ()
        self._outputs: dict[bool, torch.Tensor] = {}

    def __call__(self, *inputs: torch.Tensor, return_dict: bool = False) -> tuple[torch.Tensor]:
        """The transformer's output for clips, times and texts, in the order of its arguments.

        Raises:
            ValueError: the inputs have other shapes than those of the first call.
        """
        if not self._inputs:
            self._inputs = tuple(value.clone() for value in inputs)
            self.transformer.rope = FixedTables(self.transformer.rope(self._inputs[0]))
        for place, value in zip(self._inputs, inputs, strict=True):
            if place.shape != value.shape:
                raise ValueError(f"captured for inputs of {tuple(place.shape)}: {tuple(value.shape)} does not fit")
            place.copy_(value)
        sparse = self.router.step >= self.router.schedule.dense_steps
        if sparse not in self._graphs:
            self._capture(sparse)
        self._graphs[sparse].replay()
        return (self._outputs[sparse].clone(),)

    def _capture(self, sparse: bool) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM):
                self.transformer(*self._inputs, return_dict=False)
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._outputs[sparse] = self.transformer(*self._inputs, return_dict=False)[0]
        self._graphs[sparse] = graph
