"""What longer clips do to a testbed's objects: whether they stay, go where they should, repeat themselves, or flicker.

The four measures are those of ``benchmark/testbed/length_effects.py``. They need the clip's prompt and no other clip;
clips that the world itself draws have a persistence of nearly 1 and nearly 0 in the rest.
"""

from __future__ import annotations

import numpy as np

from benchmark.metric import Column, Measurement, Metric
from benchmark.testbed import length_effects
from benchmark.testbed.grammar import parse
from benchmark.testbed.world import FREE_FRAMES

LEAST_PERIOD = 0.3  # a repetition weaker than this has no period


def measure(reference: None, candidate: np.ndarray, *, prompt: str = "", **context: object) -> Measurement:
    """The length effects of a clip; those that its objects do not tell are left out.

    Unsupported without a prompt, for frames that are not square, and for clips that end before an object may bounce.

    Raises:
        ValueError: the prompt is not one of the testbed's grammar.
    """
    if not prompt:
        return Measurement.unsupported("length effects need the clip's prompt")
    description = parse(prompt)
    frames, height, width, _ = candidate.shape
    if frames <= FREE_FRAMES or height != width:
        needed = f"more than {FREE_FRAMES} square frames"
        return Measurement.unsupported(f"length effects need {needed}, not {frames} of {height}x{width}")
    found = length_effects.tracks(candidate, description)
    values = {"persistence": length_effects.persistence(found), "flicker": length_effects.flicker(candidate)}
    error, repeated = length_effects.trajectory_error(found), length_effects.repetition(found)
    if error is not None:
        values["trajectory_error"] = error
    if repeated is not None:
        values["motion_repetition"] = repeated[0]
        if repeated[0] >= LEAST_PERIOD:
            values["repetition_period"] = repeated[1]
    return Measurement.passed(values)


METRIC = Metric(
    columns=(
        Column("persistence", "Objects there", direction="higher"),
        Column("trajectory_error", "Trajectory error", unit="px", direction="lower", decimals=2),
        Column("motion_repetition", "Motion repeated", direction="lower"),
        Column("repetition_period", "Period", unit="frames", ranks=False, decimals=1),
        Column("flicker", "Flicker", unit="levels", direction="lower", decimals=2),
    ),
    measure=measure,
    needs_reference=False,
    least_size=32,
)
