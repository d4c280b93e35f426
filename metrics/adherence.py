"""How much of its prompt a testbed's clip shows: number of objects, their colours, shapes and directions.

The clip is read by an instrument that knows the procedural world (``benchmark/testbed/adherence.py``) and held against
the prompt. The instrument reads ground-truth clips without a mistake in at least 99 of 100; clips held against a wrong
prompt score about 0.2 to 0.4, so that is the floor.
"""

from __future__ import annotations

import numpy as np

from benchmark.metric import Column, Measurement, Metric
from benchmark.testbed.adherence import read_clip, score
from benchmark.testbed.grammar import parse


def measure(reference: None, candidate: np.ndarray, *, prompt: str = "", **context: object) -> Measurement:
    """Reads a clip and scores it against its prompt: shares in [0, 1].

    Unsupported without a prompt, and for clips of one frame or of frames that are not square.

    Raises:
        ValueError: the prompt is not one of the testbed's grammar.
    """
    if not prompt:
        return Measurement.unsupported("adherence needs the clip's prompt")
    description = parse(prompt)
    frames, height, width, _ = candidate.shape
    if frames < 2 or height != width:
        return Measurement.unsupported(f"adherence needs 2 square frames or more, not {frames} of {height}x{width}")
    return Measurement.passed(score(read_clip(candidate), description))


METRIC = Metric(
    columns=(
        Column("adherence", "Adherence", direction="higher"),
        Column("count", "Count right", direction="higher"),
        Column("colours", "Colours right", direction="higher"),
        Column("shapes", "Shapes right", direction="higher"),
        Column("directions", "Directions right", direction="higher"),
    ),
    measure=measure,
    needs_reference=False,
    least_size=32,
)
