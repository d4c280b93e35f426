"""What a GPU is doing while something is timed, and whether anybody else computes on it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from benchmark import timing

WATCH_S = 1.0  # seconds between two looks at the GPU while something is timed


class Watch:
    """Looks at the GPU every second, from a thread of its own, while something is timed: not at a CPU.

    ``states`` is what ``timing.gpu_state`` said at each look; ``others`` are the processes that were seen beside this
    one, each once, though they may be gone again. A look that nvidia-smi does not answer sees nobody: whether it
    answers at all is asked before and after.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.states: list[dict[str, Any]] = []
        self.others: list[dict[str, Any]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        if self.device != "cpu":
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(WATCH_S):
            self.states.append(timing.gpu_state(self.device))
            known = {process["pid"] for process in self.others}
            found = timing.other_processes(self.device) or []
            self.others += [process for process in found if process["pid"] not in known]

    def seen(self) -> dict[str, Any]:
        """Lowest, mean and highest of every number that was seen; empty where it was over in less than a second."""
        names = {name for state in self.states for name, value in state.items() if isinstance(value, float)}
        found: dict[str, Any] = {"looks": len(self.states)}
        for name in sorted(names):
            values = [state[name] for state in self.states if name in state]
            found[name] = [min(values), sum(values) / len(values), max(values)]
        return found


def disturbance(others: Sequence[Mapping[str, Any]] | None) -> str | None:
    """Why what was timed does not count; None where this process had the GPU for itself.

    Args:
        others: what ``timing.other_processes`` says, or ``Watch.others``.
    """
    if others is None:
        return (
            "whether another process used the GPU cannot be told: nvidia-smi does not answer; repair it and run again"
        )
    if not others:
        return None
    words = ", ".join(f"{process['pid'] or 'unlisted'} ({process['memory_mib']} MiB)" for process in others)
    return f"another process was on the GPU: {words}; end it and run again"
