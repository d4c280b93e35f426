"""What a GPU's tensor cores can do at most, at the clock that it ran at."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

OPERATIONS = MappingProxyType({"NVIDIA H100 80GB HBM3": 132 * 4096})
"""Dense bfloat16 operations a cycle, by the GPU's name: SMs x 4 tensor cores x 512 multiply-adds of two operations
(NVIDIA H100 Tensor Core GPU Architecture; 989 TFLOP/s at 1830 MHz)."""
PEAK_NOTE = (
    "Dense bfloat16 operations of all tensor cores at the mean SM clock: 132 SMs x 4096 a cycle, which is 989 TFLOP/s "
    "at 1830 MHz. A GPU at its power limit lowers its clock."
)


def mean_while_timed(record: Mapping[str, Any], name: str) -> float | None:
    """Mean of a number of the GPU's while a record's first timing ran; None where nobody looked.

    Args:
        name: as ``benchmark.watch.Watch`` has it, such as ``sm_clock_mhz`` or ``power_w``.
    """
    found = record["details"].get("gpu", {}).get("during", {}).get(name)
    return None if found is None else found[1]


def peak_tflops(record: Mapping[str, Any]) -> float | None:
    """TFLOP/s of the tensor cores at the mean SM clock of a record's first timing; None where either is not known."""
    clock = mean_while_timed(record, "sm_clock_mhz")
    operations = OPERATIONS.get(record["provenance"]["device"].get("name"))
    return None if clock is None or operations is None else operations * clock * 1e6 / 1e12
