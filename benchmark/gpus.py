"""Which GPUs there are, and one for each job; only jobs whose times do not count may share one."""

from __future__ import annotations

import fcntl
import logging
import os
import random
import shutil
import stat
import subprocess
import time
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)

FOLDERS = (Path("/run/lock"), Path("/tmp"))
"""Where GPUs are locked: the first of them that all users may write to. Never ``TMPDIR``, which schedulers set to
another folder for each job or user: two jobs of one machine would not see each other's locks."""


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


def claim(count: int = 1, poll_s: float = 2.0, shared: bool = False) -> tuple[IO[str], ...] | None:
    """Takes GPUs for this process: ``CUDA_VISIBLE_DEVICES`` names them and no others.

    A GPU that another process of this machine holds in the same way is not taken, whoever started it; where too few are
    free, this waits. The hold ends with the process.

    Args:
        count: how many.
        shared: whether others that say the same may hold them at the same time; how many, their run has to limit.

    Returns:
        The locked files, to be kept open while the GPUs are used; None where one is asked for and there is none.

    Raises:
        ValueError: more are asked for than there are, or they can't be locked here.
    """
    devices = visible()
    if count < 1 or (count > len(devices) and (devices or count > 1)):
        allowed = f"from 1 to {len(devices)} can be had" if devices else "there is none"
        raise ValueError(f"gpus={count}: {allowed} on this machine")
    if not devices:
        return None
    waited = False
    while True:
        held: dict[str, IO[str]] = {}
        for device in random.sample(devices, len(devices)) if shared else devices:
            file = _lock(device, shared) if len(held) < count else None
            if file is not None:
                held[device] = file
        if len(held) == count:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(held)
            logger.info("runs on %s, locked in %s", ", ".join(held), folder())
            return tuple(held.values())
        for file in held.values():  # two jobs that each hold one and wait for another would wait for ever
            file.close()
        if not waited:
            logger.info("%d of %d GPUs are free, %d needed; waiting", len(held), len(devices), count)
            waited = True
        time.sleep(poll_s)


def folder() -> Path:
    """The folder of the locks, the same for all users and jobs of this machine.

    Raises:
        ValueError: there is none that all users may write to.
    """
    for path in FOLDERS:
        # The mode, since root may write anywhere; and access, since a file system may be read-only.
        if path.is_dir() and path.stat().st_mode & stat.S_IWOTH and os.access(path, os.W_OK | os.X_OK):
            return path
    raise ValueError(
        f"GPUs are locked in {' or '.join(map(str, FOLDERS))}: a folder that all users may write to is needed"
    )


def _lock(device: str, shared: bool = False) -> IO[str] | None:
    file = _open(folder() / f"sparse-attention-benchmark-{device}.lock")
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _open(path: Path) -> IO[str]:
    """A file that all users of the machine may lock: for that it need only be readable, whatever the umask."""
    mask = os.umask(0)
    try:
        return open(os.open(path, os.O_RDONLY | os.O_CREAT, 0o444))
    except PermissionError:  # another user's, in a folder where nobody may create what is there already
        pass
    finally:
        os.umask(mask)
    try:
        return open(path)
    except PermissionError:
        raise ValueError(f"{path}: another user's, who has to make it readable for all (chmod a+r)") from None
