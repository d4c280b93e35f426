"""Vision reward: a judge model answers questions about a clip and its prompt. The judge is not part of the suite yet.

The score of VisionReward-Video is a weighted mean of yes/no answers of a video language model. A judge belongs into
``prepare`` (weights, loaded once) and ``measure`` (which gets the clip and its ``prompt``). Until there is one, the
column stands in the tables with the status ``unsupported``: a number that no judge gave is never shown.
"""

from __future__ import annotations

import numpy as np

from benchmark.metric import Column, Measurement, Metric

REASON = "no judge model for vision reward is available yet"


def measure(reference: None, candidate: np.ndarray, **context: object) -> Measurement:
    """No number: there is no judge yet."""
    return Measurement.unsupported(REASON)


METRIC = Metric(
    columns=(Column("vision_reward", "Vision reward", direction="higher"),), measure=measure, needs_reference=False
)
