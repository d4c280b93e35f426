"""Speeding up what lies outside attention: compiled and fused transformer blocks, and how they are held to be right.

The levels:

- ``none``: diffusers' blocks as they are, in eager mode;
- ``compile``: the same blocks, each compiled round its attention, which stays one opaque operation;
- ``full``: blocks of ``benchmark.models.fused``, compiled likewise.

All blocks of a class share one compiled artifact.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmark.attention import AttentionRouter
from benchmark.models import fused
from benchmark.models.routed import RoutedAttention

LEVELS = ("none", "compile", "full")
REPEATABLE = MappingProxyType({"deterministic": True})
"""Options under which the compiler tries out no kernels that round differently: the fastest in a trial may be another
one in the next process, and clips would not be the same, byte for byte."""


def gradient_options() -> dict[str, Any]:
    """The compiler's options under which gradients are right, for every compiled backward pass of this project.

    PyTorch 2.10 to 2.13 fuse a norm's backward pass with the sums over tokens that are its scale's and shift's
    gradients ("mix order reduction"). Where these are slices of one parameter, as in Wan's modulated norms, and there
    are many tokens, parts of that parameter's gradient are then never written, silently, or have another shape, an
    error (pytorch/pytorch issues 193061 and 178080): with 2.11 on an H100, tuning all weights of ``testbed-base`` on
    single clips of 128 frames stopped at it. Versions without that fusion need no option.
    """
    from torch._inductor import config

    return {"triton.mix_order_reduction": False} if hasattr(config.triton, "mix_order_reduction") else {}


def fuse(
    transformer: nn.Module,
    router: AttentionRouter,
    level: str = "full",
    *,
    training: bool = False,
    backend: str | Callable = "inductor",
    options: Mapping[str, Any] | None = None,
    parts: Collection[str] | None = None,
) -> None:
    """Compiles, and at level ``full`` replaces, the blocks of a transformer in place. Once a transformer.

    Args:
        transformer: one that a router was installed on (``models.install``).
        router: that router.
        level: one of ``LEVELS``.
        training: whether gradients are wanted. The router is then called from outside the compiled code, so that its
            kernel's own backward pass runs; there is no level ``full``.
        backend: the compiler of ``torch.compile``.
        options: its options.
        parts: those of ``fused.OFFERED`` that level ``full`` uses; None for those of ``fused.PARTS``.

    Raises:
        ValueError: the level or a part is unknown, or cannot train; no router or another one is installed; the blocks
            are fused already.
    """
    if level not in LEVELS:
        raise ValueError(f"fuse: level={level!r}: one of {', '.join(LEVELS)} is needed")
    unknown = sorted(set(parts or ()) - set(fused.OFFERED))
    if unknown:
        raise ValueError(f"fuse: parts={', '.join(unknown)}: some of {', '.join(fused.OFFERED)} are needed")
    if training and level == "full":
        raise ValueError("fuse: level='full' has no backward pass: 'none' or 'compile' is needed for training")
    link = _link(transformer)
    if link.router is not router:
        raise ValueError("fuse: another router is installed; install this one first")
    if level == "none":
        return
    if getattr(transformer, "fuse_level", "none") != "none":
        raise ValueError(f"fuse: the transformer is fused already, at level {transformer.fuse_level!r}")
    transformer.fuse_level = level
    processors = _processors(transformer)
    outside = torch.compiler.disable(RoutedAttention.ask)  # one function for all, or each layer would be compiled anew
    for processor in processors:
        if training:
            processor.direct = outside
        else:
            processor.place = link.place(processor.layer)
    blocks = _fused_blocks(transformer, parts) if level == "full" else _blocks(transformer)
    link.halved = level == "full"
    asked = (gradient_options() if training and backend == "inductor" else {}) | dict(options or {})
    for block in blocks:
        block.compile(fullgraph=not training, dynamic=False, backend=backend, options=asked or None)


def reroute(transformer: nn.Module, router: AttentionRouter) -> None:
    """Hands a transformer, fused or not, to another router, without compiling anew.

    Raises:
        ValueError: no router is installed, or the new one wants its tokens or its rotary embedding otherwise.
    """
    link = _link(transformer)
    if any(processor.rotates_first != router.rotates_first for processor in _processors(transformer)):
        raise ValueError(f"reroute: {router.method.name()} rotates otherwise than what is installed; install it anew")
    router.hoisted = router.hoisted_order(link.heads, next(transformer.parameters()).device) is not None
    link.router = router


class Rounding(NamedTuple):
    """How far two results are from a float32 run, as ||x - exact|| / ||exact||."""

    found_error: float
    own_error: float

    @property
    def ratio(self) -> float:
        """The first over the second."""
        return self.found_error / self.own_error if self.own_error else float("inf") if self.found_error else 1.0


def rounding(found: torch.Tensor, own: torch.Tensor, exact: torch.Tensor) -> Rounding:
    """How far a fused model's output and the eager model's are from the same model's in float32.

    Args:
        found, own: outputs in the lower precision.
        exact: the float32 model's output, with the same weights and inputs.

    Raises:
        ValueError: a value is not finite.
    """
    for name, values in (("found", found), ("own", own), ("exact", exact)):
        if not bool(values.isfinite().all()):
            raise ValueError(f"rounding: {name} holds values that are not finite")
    exact = exact.double()
    norm = float(exact.norm())
    return Rounding(*(float((x.double() - exact).norm()) / norm for x in (found, own)))


def equal_within_rounding(
    found: torch.Tensor, own: torch.Tensor, exact: torch.Tensor, factor: float = 1.5, floor: float = 1e-6
) -> bool:
    """Whether a result is as good as the eager one: no more than ``factor`` times as far from float32.

    Args:
        floor: an error that counts as none (float32's own rounding).
    """
    found_error, own_error = rounding(found, own, exact)
    return found_error <= max(factor * own_error, floor)


def _link(transformer: nn.Module):
    link = getattr(transformer, "attention_link", None)
    if link is None:
        raise ValueError(f"fuse: no router is installed on this {type(transformer).__name__}; models.install does that")
    return link


def _processors(transformer: nn.Module) -> list[RoutedAttention]:
    found = {}
    for module in transformer.modules():
        processor = getattr(module, "processor", None)
        if isinstance(processor, RoutedAttention):
            found[processor.layer] = processor
    return [found[layer] for layer in sorted(found)]


def _blocks(transformer: nn.Module) -> list[nn.Module]:
    """The transformer's blocks, in order."""
    names = ("blocks", "transformer_blocks", "single_transformer_blocks")
    return [block for name in names for block in getattr(transformer, name, ())]


def _fused_blocks(transformer: nn.Module, parts: Collection[str] | None) -> list[nn.Module]:
    """Puts fused blocks in place of the transformer's; returns what is to be compiled."""
    kind = type(transformer).__name__
    parts = fused.PARTS[kind] if parts is None else parts
    if kind == "WanTransformer3DModel" and "rows" in parts:
        stream = fused.FusedWanStream(transformer.blocks, parts)
        transformer.blocks = nn.ModuleList([stream])
        return list(stream.blocks)
    if kind == "WanTransformer3DModel":
        transformer.blocks = nn.ModuleList(fused.FusedWanBlock(block, parts) for block in transformer.blocks)
        return list(transformer.blocks)
    if kind == "MochiTransformer3DModel":
        transformer.transformer_blocks = nn.ModuleList(
            fused.FusedMochiBlock(block, parts) for block in transformer.transformer_blocks
        )
        return list(transformer.transformer_blocks)
    transformer.transformer_blocks = nn.ModuleList(
        fused.FusedHunyuanVideoBlock(block, parts) for block in transformer.transformer_blocks
    )
    single = fused.FusedHunyuanVideoSingleStream(transformer.single_transformer_blocks, parts)
    transformer.single_transformer_blocks = nn.ModuleList([single])
    return [*transformer.transformer_blocks, *single.blocks]
