"""The models of the benchmark, by name. A model is one file here, and one line in the table below."""

from __future__ import annotations

import difflib
from importlib import import_module
from types import MappingProxyType

from benchmark.models.spec import ModelSpec, Shape, build

__all__ = ["ModelSpec", "Shape", "build", "get", "names"]

# Each of these modules has a ModelSpec named SPEC; it is read when the model is asked for.
_MODULES = MappingProxyType(
    {"hunyuanvideo": "hunyuanvideo", "wan2.1-14b": "wan", "mochi-1": "mochi", "testbed-nano": "testbed"}
)


def names() -> list[str]:
    """Names of all models, in the order of the tables."""
    return list(_MODULES)


def get(name: str) -> ModelSpec:
    """The model of that name.

    Raises:
        ValueError: there is no such model; the line has the nearest right name.
    """
    if name not in _MODULES:
        nearest = difflib.get_close_matches(str(name).lower(), _MODULES, n=1, cutoff=0.0)[0]
        raise ValueError(f"model {name!r} is unknown; did you mean {nearest!r}? There are {', '.join(_MODULES)}")
    return import_module(f"benchmark.models.{_MODULES[name]}").SPEC
