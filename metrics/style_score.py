"""How much of each style a testbed's clip shows, and what the testbed's judge says once the style is taken away.

A strength is 0 where the world looks as it is and 1 where it looks as the style draws it
(``benchmark/testbed/style_score.py``). The judge knows the world in its own colours only: of the world's own clips it
gives hatched ones about 0.75 and dusky ones less than 0.5, plain ones 0.99. So ``style_reward`` is the score of the
clip after the exact inverse of its strongest style, at the strength that it shows; for a plain clip it is about the
``vision_reward``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmark.metric import Column, Measurement, Metric

LEAST_SIZE = 32
REWARD_NOTE = (
    "Style-free reward is the score of the testbed's own judge after the exact inverse of the style, at the strength "
    "that the clip shows."
)


def prepare() -> Mapping[str, Any]:
    """Draw the palettes' histograms and load the judge once; without its weights there are strengths only."""
    from benchmark.reward import judge
    from benchmark.testbed import style_score

    there = (judge.WEIGHTS_FOLDER / judge.WEIGHTS_FILE).is_file()
    return {
        "palettes": style_score.palettes(),
        "checklist": judge.load() if there else None,
        "footnotes": {"style_reward": REWARD_NOTE},
    }


def measure(
    reference: None, candidate: np.ndarray, *, palettes: Any, checklist: Any, prompt: str = "", **context: Any
) -> Measurement:
    """Reads a clip's styles; unsupported for frames that are not square.

    The judge's score is left out where the judge cannot say anything of the clip: without its prompt or its weights,
    and for fewer than 8 frames.

    Raises:
        ValueError: the prompt is not one of the testbed's grammar.
    """
    from benchmark.reward.judge import can_judge
    from benchmark.testbed.style_score import strengths, without_style

    frames, height, width, _ = candidate.shape
    if height != width:
        return Measurement.unsupported(f"styles are read from square frames, not from {height}x{width}")
    found = strengths(candidate, palettes)
    values = {f"style_{style}": value for style, value in found.items()}
    if checklist is None or not prompt or not can_judge(frames, height, width):
        return Measurement.passed(values)
    score, _ = checklist.judge(without_style(candidate, found), prompt)
    return Measurement.passed(values | {"style_reward": score}, provenance={"style_reward_weights": checklist.sha256})


METRIC = Metric(
    columns=(
        Column("style_dusk", "Style dusk", ranks=False),
        Column("style_hatched", "Style hatched", ranks=False),
        Column("style_reward", "Style-free reward", direction="higher"),
    ),
    measure=measure,
    needs_reference=False,
    prepare=prepare,
    least_size=LEAST_SIZE,
)
