"""Attention kernels: every file here without a leading underscore is one, under its name.

A kernel is a module with

- ``attend(q, k, v, mask, out=None)``: softmax attention over a block mask. q, k and v are (batch, tokens, heads, head
  size), bfloat16 or float32, contiguous or not; scores are scaled by 1 / sqrt(head size); the mask has one head, shared
  by all, or one for each. It returns a tensor like v, or writes into ``out`` and returns that.
- ``unavailable(device)``: why the kernel can't run there, or None.
- ``unsupported(block, dtype, head_dim)``: why it can't take masks in blocks of that many tokens, or tensors of that
  type and head size, or None.
- ``SKIPS_BLOCKS``: whether it can skip the blocks that a mask leaves out, so that they are neither read nor computed,
  and ``skips(block)``: whether it does so for blocks of that many tokens.
- ``prepare(mask, k, variant=None)``, where there is anything to do: makes the lists that a forward pass with such keys
  reads of a mask on their device, and keeps them with it, as the first call would.
- ``VARIANTS``, where there are several ways to run the same attention, by name: ``attend_as(variant, ...)`` is
  ``attend`` in one of them, ``differ(mask)`` says whether they run a mask in different ways, and
  ``unavailable_as(variant, device)``, where there is one, why one of them can't run there, or None.
- ``recorded()``, where a library chooses what computes: a context that yields the set of names of what did.
- ``DENSE_KERNEL``, where it is another one: the kernel that masks which keep everything are handed to.
- ``CAPTURES_MASKS``: whether its calls are known to run from a CUDA graph whatever the mask; with one that keeps all,
  every kernel's do.

A kernel knows neither methods nor models.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
from types import ModuleType

import torch

from benchmark.masks import BlockMask
from benchmark.method import Kernel
from benchmark.registry import nearest

AUTO = "auto"

# Kernels that ``auto`` tries, the fastest first.
_PREFERRED = {"cuda": ("flash4", "gathered", "flex", "sdpa"), "cpu": ("sdpa",)}

# Block, type and head size that every kernel takes.
_ANY = (128, torch.bfloat16, 128)

_log = logging.getLogger(__name__)


def names() -> list[str]:
    """Every kernel's name."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def load(name: str) -> ModuleType:
    """The module of a kernel.

    Raises:
        ValueError: there is no such kernel; the line has the nearest right name.
    """
    if name not in names():
        raise ValueError(f"kernel {name!r} is unknown: {nearest(str(name), [AUTO, *names()])}")
    return importlib.import_module(f"{__name__}.{name}")


def select(
    name: str,
    device: torch.device | str,
    *,
    block: int | None = None,
    dtype: torch.dtype | None = None,
    head_dim: int | None = None,
) -> tuple[str, Kernel]:
    """The kernel of that name, or for ``auto`` the fastest that runs on the device; the log says which.

    Args:
        block, dtype, head_dim: what it is to be called with: tokens a block, type and head size of queries and keys.
            A kernel that can't take them is refused, or passed over by ``auto``. None is not looked at.

    Raises:
        ValueError: there is no such kernel, or it can't run on the device or take what is asked for (the reason is
            given).
    """
    device = torch.device(device)
    if name != AUTO:
        module = load(name)
        reason = _why_not(module, device, block, dtype, head_dim)
        if reason is not None:
            raise ValueError(f"kernel {name!r} is unavailable on {device}: {reason}")
        return name, module.attend
    if device.type not in _PREFERRED:
        raise ValueError(f"kernel 'auto' on {device}: only {' and '.join(_PREFERRED)} are known; name a kernel")
    reasons = []
    for candidate in _PREFERRED[device.type]:
        module = load(candidate)
        reason = _why_not(module, device, block, dtype, head_dim)
        if reason is None:
            passed_over = f" ({'; '.join(reasons)})" if reasons else ""
            _log.log(
                logging.WARNING if reasons else logging.INFO, "kernel auto: %s on %s%s", candidate, device, passed_over
            )
            return candidate, module.attend
        reasons.append(f"{candidate} is unavailable: {reason}")
    raise ValueError(f"kernel 'auto' on {device}: {'; '.join(reasons)}")


def _why_not(
    module: ModuleType, device: torch.device, block: int | None, dtype: torch.dtype | None, head_dim: int | None
) -> str | None:
    """Why a kernel can't do what is asked for, or None. What is None stands for something that any kernel takes."""
    reason = module.unavailable(device)
    if reason is not None:
        return reason
    return module.unsupported(
        _ANY[0] if block is None else block,
        _ANY[1] if dtype is None else dtype,
        _ANY[2] if head_dim is None else head_dim,
    )


def check_inputs(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: BlockMask, out: torch.Tensor | None = None
) -> None:
    """Refuses queries, keys, values, a mask and an output that do not belong together.

    Raises:
        ValueError: naming the tensor, its shape and the one that is needed.
    """
    if q.dim() != 4:
        raise ValueError(f"q {tuple(q.shape)}: (batch, tokens, heads, head size) is needed")
    for name, tensor in (("k", k), ("v", v), ("out", out)):
        if tensor is not None and tensor.shape != q.shape:
            raise ValueError(f"{name} {tuple(tensor.shape)}: the shape of q, {tuple(q.shape)}, is needed")
    if mask.tokens != q.shape[1]:
        raise ValueError(f"mask of {mask.tokens} tokens: q has {q.shape[1]}")
    if mask.heads not in (1, q.shape[2]):
        raise ValueError(f"mask of {mask.heads} heads: 1 or {q.shape[2]}, as in q, is needed")
