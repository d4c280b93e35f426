"""Which GPUs there are, and one for each job: jobs that run side by side must not share one."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)


def visible() -> list[str]:
    """The UUIDs of the NVIDIA GPUs that a process started here may use.

    ``CUDA_VISIBLE_DEVICES`` is honoured; what it names otherwise than by number or UUID (such as a MIG instance) stays
    as it is named.

    Raises:
        ValueError: nvidia-smi is there and fails.
    """
    if shutil.which("nvidia-smi") is None:
        return []
    words = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    found = subprocess.run(words, capture_output=True, text=True)
    if found.returncode != 0:
        reason = " ".join((found.stdout + found.stderr).split())
        if "No devices were found" in reason:
            return []
        raise ValueError(f"nvidia-smi: fails ({reason}); repair the driver, or set CUDA_VISIBLE_DEVICES= to do without")
    devices = dict(line.split(", ") for line in found.stdout.splitlines() if ", " in line)
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked is None:
        return list(devices.values())
    names = [name.strip() for name in asked.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]
    return [devices.get(name, name) for name in names]


def claim(poll_s: float = 2.0) -> IO[str] | None:
    """Takes one GPU for this process: ``CUDA_VISIBLE_DEVICES`` names it and no other.

    A GPU that another process of this machine holds in the same way is not taken; where all are held, this waits. The
    hold ends with the process.

    Returns:
        The locked file, to be kept open while the GPU is used; None where there is no GPU.
    """
    devices = visible()
    if not devices:
        return None
    waited = False
    while True:
        for device in devices:
            file = _lock(device)
            if file is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = device
                logger.info("runs on %s", device)
                return file
        if not waited:
            logger.info("all %d GPUs are held by other jobs; waiting for one", len(devices))
            waited = True
        time.sleep(poll_s)


def _lock(device: str) -> IO[str] | None:
    path = Path(tempfile.gettempdir()) / f"sparse-attention-benchmark-{os.getuid()}-{device}.lock"
    file = open(path, "w")  # noqa: SIM115 - it stays open while the GPU is held
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
