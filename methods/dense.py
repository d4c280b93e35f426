"""Dense attention: every token attends to every token. The reference that all clips are compared with."""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.method import Method


@dataclass(frozen=True)
class Dense(Method):
    """Full softmax attention."""

    title = "Dense"
    sparse = False
