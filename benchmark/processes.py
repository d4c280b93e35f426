"""What becomes of a run that is killed: its jobs end with it, and the next run clears away what it left.

A process that gets SIGKILL can do nothing more, so both are arranged beforehand. A job asks the kernel to kill it when
the run that started it ends (``launch``). A run holds the kernel's lock on a file (``hold``), which goes with its
process whatever ends that: a run that finds nobody else's hold knows that what lies about is of the dead.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)

HOLD = "alive.lock"
_PART = re.compile(r"\..+\.(\d+)\.part")
_PR_SET_PDEATHSIG = 1


def hold(state: Path, results: Path, cluster: bool = False, alone: Callable[[], None] | None = None) -> IO[str] | None:
    """Says that a run is alive in this folder, and clears away what a killed one left if no other is.

    These are Snakemake's locks, and files that were being written. Snakemake itself then makes again what was not
    finished. Runs that make different files may be alive side by side; those that make the same are told apart by
    Snakemake's locks, which stay where any run is alive. They also stay after a run that handed its jobs to a cluster,
    for these go on without it.

    Args:
        state: Snakemake's folder, ``.snakemake``.
        results: the folder of all results.
        cluster: whether this run's jobs run on other machines.
        alone: called before any other run can begin, if none is alive.

    Returns:
        The file that is held, to be kept open as long as the run goes on; None where the file system has no locks, or
        may not be written to: then nothing is cleared.
    """
    try:
        state.mkdir(parents=True, exist_ok=True)
        file = open(state / HOLD, "a+")  # noqa: SIM115 - it stays open while the run goes on
    except OSError as error:
        logger.warning("%s: %s; locks of killed runs are not cleared", state / HOLD, error.strerror)
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        logger.warning(
            "another run is alive in this folder%s; what it makes is refused here until it ends", _who(state / HOLD)
        )
    except OSError as error:
        logger.warning("%s: %s; locks of killed runs are not cleared", state / HOLD, error.strerror)
        file.close()
        return None
    else:
        if _clear(state, results) and alone is not None:
            alone()
        file.truncate(0)
        file.write(f"{os.getpid()} {'cluster' if cluster else 'local'}\n")
        file.flush()
    # All that are alive share the hold, so that it is free only when the last of them has ended.
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


def _who(path: Path) -> str:
    words = path.read_text().split()
    return f" (process {words[0]})" if words and _alive(int(words[0])) else ""


def _clear(state: Path, results: Path) -> bool:
    """Removes Snakemake's locks and half-written files of runs that are no more; False where jobs may be alive."""
    locks = state / "locks"
    if locks.is_dir() and any(locks.iterdir()):
        if (state / HOLD).read_text().split()[1:] == ["cluster"]:
            logger.warning(
                "a run that handed its jobs to a cluster was killed; when none of them is left: snakemake --unlock"
            )
            return False
        shutil.rmtree(locks)
        logger.info("the last run here was killed; this one goes on from what it finished")
    for path in results.rglob(".*.part"):
        written = _PART.fullmatch(path.name)
        if written and not _alive(int(written[1])):
            path.unlink(missing_ok=True)
    return True


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def prefix() -> str:
    """What stands before a job's shell command, so that the job is killed when this process ends.

    The command must be a single one: the shell becomes it.
    """
    words = [sys.executable, "-I", str(Path(__file__).resolve()), str(os.getpid())]
    return f"exec {shlex.join(words)} env "


def launch(words: list[str]) -> None:
    """Becomes a command that is killed when its parent ends; where the kernel is not Linux, just the command.

    Args:
        words: the parent's process number, then the command.
    """
    parent, *command = words
    if sys.platform == "linux" and not die_with_parent(int(parent)):
        sys.exit(f"{command[0]}: the run that started this has ended")
    os.execvp(command[0], command)


def die_with_parent(parent: int) -> bool:
    """Has the kernel, Linux, kill this process when its parent ends. Returns False where that has ended already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return os.getppid() == parent


if __name__ == "__main__":
    launch(sys.argv[1:])
