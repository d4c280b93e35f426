"""Vision reward: a judge answers yes/no questions about a clip and its prompt; their weighted mean is the score.

Two judges, named in the setting ``judge``:

- ``visionreward-video``: the released VisionReward-Video, from a local folder or a hub id (setting ``model``).
- ``testbed``: a small network that knows the testbed's procedural world and nothing else; shipped. It is the default
  where no ``model`` is named.

Scores of the two have nothing to do with each other; tables name the judge. Where no judge can say anything of a clip,
the column has the status ``unsupported``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.metric import Column, Measurement, Metric
from benchmark.registry import nearest

TESTBED, RELEASED = "testbed", "visionreward-video"
JUDGES = (TESTBED, RELEASED)
FOOTNOTES = {
    TESTBED: (
        "Vision reward is that of the testbed's own judge, a small network trained on the procedural world: from -1 to "
        "1, and not to be compared with published values."
    ),
    RELEASED: "Vision reward is that of VisionReward-Video, the judge that the paper used.",
}


def prepare(
    judge: str | None = None,
    model: str | None = None,
    trust_remote_code: bool = False,
    download: bool = False,
    fps: float | None = None,
    device: str = "cpu",
) -> Mapping[str, Any]:
    """Load a judge once.

    Args:
        judge: one of ``JUDGES``; None means visionreward-video where a model is named, else testbed.
        model: folder or hub id of VisionReward-Video.
        trust_remote_code: whether code in that folder may be run.
        download: whether a hub id may be downloaded.
        fps: frames a second of the clips, of which visionreward-video sees one a second.
        device: a torch device for visionreward-video.

    Raises:
        ValueError: a judge that does not exist, or settings that do not fit it.
    """
    chosen = _chosen(judge, model, fps)
    context: dict[str, Any] = {"judge": chosen, "fps": fps, "footnotes": {"vision_reward": FOOTNOTES[chosen]}}
    if chosen == TESTBED:
        from benchmark.reward import judge as testbed

        if not (testbed.WEIGHTS_FOLDER / testbed.WEIGHTS_FILE).is_file():
            return context | {"unsupported": f"no judge for vision reward: {testbed.WEIGHTS_FILE} is not in this clone"}
        return context | {"checklist": testbed.load()}
    if not model:
        return context | {"unsupported": "the judge visionreward-video needs its model: a folder or a hub id"}
    from benchmark.reward import checklist

    return context | {"checklist": checklist.load(model, trust_remote_code, download, device)}


def check(
    judge: str | None = None,
    model: str | None = None,
    trust_remote_code: bool = False,
    download: bool = False,
    fps: float | None = None,
) -> None:
    """Refuses settings of a configuration with which nothing could be judged once all clips are drawn.

    No network is loaded, and nothing is downloaded. The settings are those of ``prepare``.

    Raises:
        ValueError: naming the key, the value and what is allowed.
    """
    if _chosen(judge, model, fps) == TESTBED:
        return
    for key, value, needed in (("model", model, "a folder or hub id"), ("fps", fps, "the clips' frames a second")):
        if not value:
            raise ValueError(f"vision_reward.{key}: the judge {RELEASED} needs it, {needed}")
    if download and not Path(model).expanduser().is_dir():
        return  # it is not here yet
    from benchmark.reward.checklist import find_parts

    try:
        find_parts(model, trust_remote_code)
    except ValueError as error:
        raise ValueError(f"vision_reward.model={model!r}: {error}") from None


def _chosen(judge: str | None, model: str | None, fps: float | None) -> str:
    """The judge that settings ask for.

    Raises:
        ValueError: it does not exist, or the settings do not fit it; naming the key, the value and what is allowed.
    """
    chosen = judge or (RELEASED if model else TESTBED)
    if chosen not in JUDGES:
        raise ValueError(f"vision_reward.judge={chosen!r}: unknown: {nearest(chosen, list(JUDGES))}")
    if chosen == TESTBED and model:
        raise ValueError(f"vision_reward.model={model!r}: the judge {TESTBED} takes none; leave it out")
    if chosen == RELEASED and fps is not None and fps <= 0:
        raise ValueError(f"vision_reward.fps={fps}: frames a second above 0 are needed")
    return chosen


def measure(reference: None, candidate: np.ndarray, *, prompt: str = "", **context: Any) -> Measurement:
    """The judge's score of one clip; ``unsupported`` where it can say nothing of it."""
    if "unsupported" in context:
        return Measurement.unsupported(context["unsupported"])
    if not prompt:
        return Measurement.unsupported("no judge for vision reward without the clip's prompt")
    if context["judge"] == TESTBED:
        return _testbed(candidate, prompt, context["checklist"])
    from benchmark.reward.checklist import NotAnAnswer

    if context["fps"] is None:
        return Measurement.unsupported("the judge visionreward-video needs fps, the clips' frames a second")
    try:
        score = context["checklist"].judge(candidate, prompt, context["fps"])
    except NotAnAnswer as error:
        return Measurement("error", reason=f"judge visionreward-video: {error}")
    return Measurement.passed({"vision_reward": score}, provenance=context["checklist"].provenance)


def _testbed(candidate: np.ndarray, prompt: str, checklist: Any) -> Measurement:
    """The score of the testbed's judge, where the prompt and the clip are of its world."""
    from benchmark.reward.judge import can_judge
    from benchmark.testbed.grammar import parse

    frames, height, width, _ = candidate.shape
    if not can_judge(frames, height, width):
        return Measurement.unsupported(
            f"no judge for vision reward of {frames} frames of {height}x{width}: the testbed's needs 8 square frames "
            "or more, of 32 pixels or more"
        )
    try:
        parse(prompt)
    except ValueError as error:
        return Measurement.unsupported(
            f"no judge model for vision reward of clips outside the testbed's world ({error})"
        )
    score, answers = checklist.judge(candidate, prompt)
    provenance = {"vision_reward_judge": "testbed", "vision_reward_weights": checklist.sha256}
    return Measurement.passed({"vision_reward": score}, provenance=provenance, parts={"vision_reward": answers})


METRIC = Metric(
    columns=(Column("vision_reward", "Vision reward", direction="higher"),),
    measure=measure,
    needs_reference=False,
    prepare=prepare,
)
