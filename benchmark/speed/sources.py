"""What a measurement depends on beside its cell, so that what changed since is told from what was measured.

That is the file that a method is defined in, by its hash, and which parts of the fused blocks a transformer takes.
"""

from __future__ import annotations

import functools

from benchmark import registry
from benchmark.models import fused
from benchmark.records import sha256_file
from benchmark.speed import settings


@functools.cache
def method_hash(name: str) -> str:
    """SHA-256 of the file that defines a method.

    It is read once a process, as the method is, so that a file which is edited while a job runs is not taken for what
    the job measured.
    """
    return sha256_file(registry.source_file(name))


def fused_parts(model: str) -> list[str]:
    """Parts of the fused blocks that a model's transformer takes (``fused.PARTS``)."""
    return list(fused.PARTS[settings.resized(model, {}).transformer_class])
