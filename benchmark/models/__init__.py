"""The models of the benchmark, by name. A model is one file here, and one line in the table below."""

from __future__ import annotations

import difflib
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

from benchmark.models.inputs import example_inputs
from benchmark.models.spec import ModelSpec, Shape, build

if TYPE_CHECKING:
    import torch

    from benchmark.attention import AttentionRouter

__all__ = ["ModelSpec", "Shape", "build", "example_inputs", "get", "install", "names"]

# Where the ModelSpec of each model is; it is read when the model is asked for.
_SPECS = MappingProxyType(
    {
        "hunyuanvideo": "hunyuanvideo.SPEC",
        "wan2.1-14b": "wan.SPEC",
        "mochi-1": "mochi.SPEC",
        "testbed-nano": "testbed.SPEC",
        "testbed-base": "testbed.BASE",
    }
)

# The module with the processors of each transformer.
_PROCESSORS = MappingProxyType(
    {
        "HunyuanVideoTransformer3DModel": "hunyuanvideo",
        "WanTransformer3DModel": "wan",
        "MochiTransformer3DModel": "mochi",
    }
)


def names() -> list[str]:
    """Names of all models, in the order of the tables."""
    return list(_SPECS)


def get(name: str) -> ModelSpec:
    """The model of that name.

    Raises:
        ValueError: there is no such model; the line has the nearest right name.
    """
    if name not in _SPECS:
        nearest = difflib.get_close_matches(str(name).lower(), _SPECS, n=1, cutoff=0.0)[0]
        raise ValueError(f"model {name!r} is unknown; did you mean {nearest!r}? There are {', '.join(_SPECS)}")
    module, spec = _SPECS[name].split(".")
    return getattr(import_module(f"benchmark.models.{module}"), spec)


def install(
    spec: ModelSpec, transformer: torch.nn.Module, router: AttentionRouter, repetition: float | None = None
) -> None:
    """Gives the attention of every block of a model to a router, and the temporal positions to its method.

    Args:
        transformer: what ``build`` made of ``spec``. A router installed before is replaced.
        repetition: the period in latent frames at which the model was seen to repeat itself, if anyone looked.

    Raises:
        ValueError: the method does not work on this model; the line says why.
    """
    module = import_module(f"benchmark.models.{_PROCESSORS[spec.transformer_class]}")
    module.install(transformer, router, repetition)
