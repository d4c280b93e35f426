"""The files that methods are defined in, by their hashes, so that a changed method is told from the one measured."""

from __future__ import annotations

import functools

from benchmark import registry
from benchmark.records import sha256_file


@functools.cache
def method_hash(name: str) -> str:
    """SHA-256 of the file that defines a method.

    It is read once a process, as the method is, so that a file which is edited while a job runs is not taken for what
    the job measured.
    """
    return sha256_file(registry.source_file(name))
