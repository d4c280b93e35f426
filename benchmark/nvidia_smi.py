"""What nvidia-smi says of the GPU that PyTorch computes on.

nvidia-smi ignores ``CUDA_VISIBLE_DEVICES`` and numbers GPUs in its own way, so a GPU is asked about by its UUID.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing it takes seconds, and whoever has a device has it
    import torch


def uuid_of(device: torch.device | str) -> str:
    """The UUID of a GPU, as nvidia-smi writes it."""
    import torch

    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"


def ask(device: torch.device | str, query: str) -> str:
    """nvidia-smi's answer about one GPU, as comma-separated lines without units.

    Args:
        query: ``--query-gpu=...`` or ``--query-compute-apps=...``.

    Raises:
        OSError: there is no nvidia-smi.
        subprocess.SubprocessError: it fails, or does not answer within 20 s.
    """
    words = ["nvidia-smi", f"--id={uuid_of(device)}", query, "--format=csv,noheader,nounits"]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=20).stdout
