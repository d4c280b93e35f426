"""How much of a style a clip shows: held against drawn clips of known strength that the histograms never saw."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmark.metric import prepare
from benchmark.reward.train_judge import soften
from benchmark.testbed.grammar import describe
from benchmark.testbed.style_score import strengths, without_style
from benchmark.testbed.world import render_batch, sample_batch, to_scenes, to_uint8
from benchmark.tuning.style import PLAIN, mixed, names, unmixed

STYLES = [name for name in names() if name != PLAIN]
FRAMES, CLIPS = 16, 10
WITHIN = {"dusk": 0.2, "hatched": 0.12}
"""How far the score of a single clip may lie from the truth, and on the mean a quarter of it."""


@pytest.fixture(scope="module")
def drawn() -> tuple[list[str], torch.Tensor]:
    """Prompts and plain clips of scenes of their own."""
    scenes = sample_batch(np.random.Generator(np.random.PCG64(930_000_000)), CLIPS)
    return [describe(scene) for scene in to_scenes(scenes)], render_batch(scenes, FRAMES, 64)


@pytest.fixture(scope="module")
def metric():
    return prepare(["style_score"])[0]


def clips(drawn, style: str, strength: float, count: int = CLIPS) -> np.ndarray:
    """Clips of a style's strength, softened as a generator's are."""
    return to_uint8(soften(mixed(drawn[1][:count], style, strength), torch.Generator().manual_seed(1))).numpy()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_the_score_is_the_strength(drawn, metric, style, strength):
    found = [strengths(clip, metric.context["palettes"]) for clip in clips(drawn, style, strength)]
    off = np.array([one[style] - strength for one in found])
    assert np.abs(off).max() < WITHIN[style], off
    assert abs(off.mean()) < WITHIN[style] / 3, off
    others = [one[other] for one in found for other in STYLES if other != style]
    assert max(others) < WITHIN["dusk"]


def test_plain_and_styled_clips_are_told_apart_one_by_one(drawn, metric):
    for style in STYLES:
        levels = []
        for strength in (0.0, 0.25, 0.5, 0.75, 1.0):
            shown = clips(drawn, style, strength, 3)
            levels.append([strengths(clip, metric.context["palettes"])[style] for clip in shown])
        assert (np.diff(np.array(levels), axis=0) > 0.1).all()  # each clip's score rises at every step


@pytest.mark.parametrize("style", STYLES)
def test_a_style_is_taken_away_exactly(drawn, style):
    for strength in (0.0, 0.4, 1.0):
        back = unmixed(mixed(drawn[1], style, strength), style, strength)
        # Dusk cuts a few colours off at 1.
        assert float((back - drawn[1]).abs().mean()) < 1e-3
    assert torch.equal(unmixed(drawn[1], PLAIN, 1.0), drawn[1])
    with pytest.raises(ValueError, match="style 'noir': it has no inverse; plain, dusk, hatched are allowed"):
        unmixed(drawn[1], "noir", 1.0)


def test_the_strongest_style_is_taken_away(drawn):
    plain = to_uint8(drawn[1]).numpy()[0]
    shown = to_uint8(mixed(drawn[1], "hatched", 1.0)).numpy()[0]
    clean = without_style(shown, {"dusk": 0.3, "hatched": 1.0})
    assert np.abs(clean.astype(int) - plain).mean() < 1
    assert np.array_equal(without_style(plain, {"dusk": -0.1, "hatched": 0.0}), plain)


def test_the_judge_minds_no_style_that_was_taken_away(drawn, metric):
    judge = prepare(["vision_reward"])[0]
    prompt, plain = drawn[0][0], clips(drawn, "dusk", 0.0, 1)[0]
    level = judge.measure(None, plain, prompt=prompt).values["vision_reward"]
    for style in STYLES:
        shown = clips(drawn, style, 1.0, 1)[0]
        values = metric.measure(None, shown, prompt=prompt).values
        assert values["style_reward"] == pytest.approx(level, abs=0.05)
        assert judge.measure(None, shown, prompt=prompt).values["vision_reward"] < level - 0.1


def test_what_the_metric_cannot_say(drawn, metric):
    clip = clips(drawn, "dusk", 0.0, 1)[0]
    assert sorted(metric.measure(None, clip).values) == ["style_dusk", "style_hatched"]  # no prompt, no judge
    assert sorted(metric.measure(None, clip[:4], prompt=drawn[0][0]).values) == ["style_dusk", "style_hatched"]
    found = metric.measure(None, clip[:, :48])
    assert found.status == "unsupported" and "48x64" in found.reason
    with pytest.raises(ValueError, match="size >= 32"):
        strengths(clip[:, :16, :16], metric.context["palettes"])
    with pytest.raises(ValueError, match="prompt"):
        metric.measure(None, clip, prompt="a dog")
