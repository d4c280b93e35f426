"""Keeps a job's work in a child process, so that a job whose process is killed still leaves a record.

The kernel kills a process that takes too much memory, and one that crashes in native code; neither can write anything
more. So ``generate`` and ``measure`` run in a child of a small process, which has loaded nothing but this module. The
child ``announce``s which record it is about to write. If it then ends by a signal, the parent writes that record: with
the status ``out_of_memory`` where the kernel counted such a kill meanwhile, else ``error`` with the signal's name.

Whoever stops a job on purpose gets no record: SIGINT, SIGTERM and SIGHUP are passed on to the child and end both, and a
run that is killed takes the parent with it, and the parent the child.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.processes import die_with_parent

if TYPE_CHECKING:
    from benchmark.cell import Cell

VARIABLE = "BENCHMARK_SUPERVISOR"
"""The environment variable that tells the child the number of its pipe to the parent."""

_STOPS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
_HALF_WRITTEN_CLIP = re.compile(r"\.\d+\.[0-9a-f]{32}\.mkv")


def announce(kind: str, cell: Cell, record: Path, folders: Iterable[Path] = ()) -> None:
    """Tells the supervising process, where there is one, what to do if this process is killed.

    Args:
        kind: the record's kind.
        cell: the cell that it is about.
        record: where it is to be written.
        folders: folders besides that of the record in which half-written files are to be cleared away.
    """
    if VARIABLE in os.environ:
        told = {"kind": kind, "cell": cell.settings(), "record": str(record), "folders": [str(f) for f in folders]}
        os.write(int(os.environ[VARIABLE]), json.dumps(told).encode())


def supervise(work: Callable[[], int]) -> int:
    """Does the work in a child process and returns its exit status; where the kernel is not Linux, just does it.

    Call it before anything starts threads or loads much: the child is a fork. It returns in both processes, in the
    child with the work's own exit status.
    """
    if sys.platform != "linux":
        return work()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, the child's end would go unseen
    reader, writer = os.pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_STOPS, signal.SIGCHLD})
    kills, parent = memory_kills(), os.getpid()
    child = os.fork()
    if child == 0:
        os.close(reader)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if not die_with_parent(parent):
            sys.exit(1)
        os.environ[VARIABLE] = str(writer)
        return work()
    os.close(writer)
    status, stopped = _wait(child)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if status >= 0:
        return status
    if stopped or -status in _STOPS:
        ending = -status if -status in _STOPS else signal.SIGTERM
        signal.signal(ending, signal.SIG_DFL)
        os.kill(parent, ending)
    grown = [name for name, count in memory_kills().items() if count > kills.get(name, count)]
    return _write(reader, child, signal.Signals(-status), grown)


def _wait(child: int) -> tuple[int, bool]:
    """Passes signals on until the child ends. Returns its exit status, and whether it was asked to stop."""
    stopped = False
    while True:
        info = signal.sigwaitinfo({*_STOPS, signal.SIGCHLD})
        if info.si_signo != signal.SIGCHLD:
            stopped = True
            if info.si_code <= 0:  # from a process; what a terminal sends, it sends to the child as well
                os.kill(child, info.si_signo)
        else:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status), stopped


def memory_kills() -> dict[str, int]:
    """How many processes the kernel has killed for want of memory, by the file that counts it.

    The files are those of this process's control group (version 1 or 2), and of the whole machine.
    """
    places = [Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events")]
    for line in _lines(Path("/proc/self/cgroup")):
        _, names, path = line.split(":", 2)
        if not names:
            places += [Path(f"/sys/fs/cgroup{root}{path}/memory.events") for root in ("", "/unified")]
        elif "memory" in names.split(","):
            places.append(Path(f"/sys/fs/cgroup/memory{path}/memory.oom_control"))
    found = {}
    for place in places:
        for line in _lines(place):
            if line.startswith("oom_kill "):
                found[str(place)] = int(line.split()[1])
    return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _write(reader: int, child: int, killed: signal.Signals, grown: list[str]) -> int:
    """Writes the record that the child cannot write any more. Returns the exit status."""
    os.set_blocking(reader, False)  # a process that the child started may still hold the other end
    try:
        said = os.read(reader, 2**16)
    except BlockingIOError:
        said = b""
    name = f"{killed.name} ({signal.strsignal(killed)})"
    if not said:
        print(f"the job ended by {name} before it knew its cell", file=sys.stderr)
        return 1
    told = json.loads(said)
    if killed == signal.SIGKILL and grown:
        status, reason = (
            "out_of_memory",
            f"the kernel killed the job for want of memory (counted in {', '.join(grown)})",
        )
    else:
        status, reason = "error", f"the job ended by {name}, which its run did not send"
        if killed == signal.SIGKILL:
            reason += "; too little memory may be why"
    print(f"{told['kind']}: {reason}", file=sys.stderr)
    try:
        _clear([Path(told["record"]).parent, *map(Path, told["folders"])], child)
        _write_record(told, status, reason)
    except OSError as error:
        print(f"{told['kind']}: {error}", file=sys.stderr)
        return 1
    return 0


def _write_record(told: Mapping[str, Any], status: str, reason: str) -> None:
    from benchmark.cell import Cell
    from benchmark.records import make_record, transient, write_json

    cell = Cell(**told["cell"])
    write_json(told["record"], make_record(told["kind"], cell, status, reason=reason, details=transient()))


def _clear(folders: Iterable[Path], child: int) -> None:
    """Removes files that the child was writing."""
    for folder in folders:
        for path in folder.glob(".*"):
            if path.name.endswith(f".{child}.part") or _HALF_WRITTEN_CLIP.fullmatch(path.name):
                path.unlink()
