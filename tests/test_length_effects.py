"""Length effects: near perfect on the world's own clips, and each fault moves the measure that is meant for it."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from benchmark.metric import Measurement, prepare
from benchmark.testbed.grammar import describe
from benchmark.testbed.length_effects import persistence, tracks, trajectory_error
from benchmark.testbed.world import (
    MovingObject,
    Scene,
    render,
    sample_batch,
    to_scenes,
    to_uint8,
    trajectory,
)

FRAMES = 48


@functools.lru_cache
def world(frames: int = FRAMES, size: int = 48, clips: int = 6) -> tuple[np.ndarray, tuple[Scene, ...]]:
    scenes = to_scenes(sample_batch(np.random.Generator(np.random.PCG64(3)), clips))
    return to_uint8(render(scenes, frames, size)).numpy(), tuple(scenes)


def measure(clip: np.ndarray, scene: Scene) -> Measurement:
    return prepare(["length_effects"])[0].measure(None, np.ascontiguousarray(clip), prompt=describe(scene))


def means(clips: np.ndarray, scenes: tuple[Scene, ...]) -> dict[str, float]:
    found = [measure(clip, scene).values for clip, scene in zip(clips, scenes, strict=True)]
    keys = ("persistence", "trajectory_error", "motion_repetition", "flicker")
    return {key: float(np.mean([values[key] for values in found if key in values])) for key in keys}


@functools.lru_cache
def truth() -> dict[str, float]:
    return means(*world())


@pytest.mark.parametrize(("frames", "size"), [(16, 64), (FRAMES, 48)])
def test_ground_truth_has_none(frames: int, size: int):
    found = means(*world(frames, size))
    assert found["persistence"] >= 0.99
    assert found["trajectory_error"] < 0.6 and found["motion_repetition"] < 0.05 and found["flicker"] < 0.1


def test_expected_motion_is_the_scene_s_own_with_bounces():
    clips, scenes = world()
    for clip, scene in zip(clips[:3], scenes, strict=False):
        for track, path in zip(tracks(clip, prompt_of(scene)), trajectory(scene, FRAMES).numpy(), strict=True):
            if track.expected is not None:
                assert np.linalg.norm(track.expected - path, axis=1).mean() < 1.0


def prompt_of(scene: Scene):
    from benchmark.testbed.grammar import description_of

    return description_of(scene)


def test_objects_may_start_elsewhere_and_go_another_way_than_in_the_prompt_s_scene():
    seen = Scene((MovingObject("red", "circle", "left", "slowly", 40.0, 20.0, 8.0),), "clouds", "up", 0.0)
    told = Scene((MovingObject("red", "circle", "down", "quickly", 30.0, 30.0, 9.0),), "clouds", "up", 0.0)
    values = measure(to_uint8(render([seen], 64))[0].numpy(), told).values
    assert values["persistence"] == 1.0 and values["trajectory_error"] < 0.6 and values["motion_repetition"] < 0.05


def test_a_removed_object_lowers_persistence_only():
    clips, scenes = world()
    several = [n for n, scene in enumerate(scenes) if len(scene.objects) > 1]
    fewer = [Scene(s.objects[1:], s.background, s.pan, s.start) for s in scenes if len(s.objects) > 1]
    half = FRAMES // 2
    broken = clips[several].copy()
    broken[:, half:] = to_uint8(render(fewer, FRAMES, 48)).numpy()[:, half:]
    kept = tuple(scenes[n] for n in several)
    found, before = means(broken, kept), means(clips[several], kept)
    lost = float(np.mean([0.5 / len(scene.objects) for scene in kept]))
    assert found["persistence"] == pytest.approx(before["persistence"] - lost, abs=0.05)
    assert found["trajectory_error"] < 0.6 and found["motion_repetition"] < 0.05
    assert found["flicker"] < before["flicker"] + 0.05


def test_a_frozen_clip_leaves_its_trajectories_only():
    clips, scenes = world()
    frozen = clips.copy()
    frozen[:, FRAMES // 2 :] = frozen[:, FRAMES // 2, None]
    found = means(frozen, scenes)
    assert found["trajectory_error"] > truth()["trajectory_error"] + 2
    assert found["persistence"] >= 0.95 and found["motion_repetition"] < 0.08
    assert found["flicker"] <= truth()["flicker"]


def test_a_looped_clip_repeats_after_its_period():
    clips, scenes = world()
    period = FRAMES // 3
    looped = clips[:, np.arange(FRAMES) % period]
    found = means(looped, scenes)
    assert found["motion_repetition"] > truth()["motion_repetition"] + 0.3
    assert found["persistence"] >= 0.95 and found["flicker"] < truth()["flicker"] + 0.05
    periods = [measure(clip, scene).values.get("repetition_period") for clip, scene in zip(looped, scenes, strict=True)]
    told = [value for value in periods if value is not None]
    assert len(told) >= 3 and np.median(told) == pytest.approx(period, abs=1)


def test_bounces_of_the_world_are_no_repetition():
    # A quick object between two walls is back where it was after as many frames as it takes to and fro.
    scene = Scene((MovingObject("blue", "square", "left", "quickly", 40.0, 30.0, 10.0),), "cat", "up", 0.0)
    values = measure(to_uint8(render([scene], 96, 48))[0].numpy(), scene).values
    assert values["motion_repetition"] < 0.05 and "repetition_period" not in values


def test_flicker_moves_flicker_only():
    clips, scenes = world()
    dimmed = clips.astype(float)
    dimmed[:, ::3] *= 0.9
    found = means(dimmed.round().astype(np.uint8), scenes)
    assert found["flicker"] > 10 * truth()["flicker"]
    for key, most in (("persistence", 0.01), ("trajectory_error", 0.1), ("motion_repetition", 0.02)):
        assert found[key] == pytest.approx(truth()[key], abs=most)


def test_a_cut_is_no_flicker_and_a_blink_is():
    clips, scenes = world()
    cut = np.concatenate([clips[0, :24], clips[1, 24:]])
    assert measure(cut, scenes[0]).values["flicker"] < 0.1
    blink = clips[0].copy()
    blink[24] = 128
    assert measure(blink, scenes[0]).values["flicker"] > 0.1


def test_a_hidden_object_is_there_and_a_lost_one_is_not():
    front = MovingObject("yellow", "square", "up", "slowly", 32.0, 32.0, 10.0)
    behind = MovingObject("blue", "circle", "right", "quickly", 10.0, 26.0, 7.0)
    both = Scene((front, behind), "clouds", "up", 0.0)
    clip = to_uint8(render([both], 24))[0].numpy()
    found = tracks(clip, prompt_of(both))
    assert persistence(found) == 1.0
    alone = to_uint8(render([Scene((front,), "clouds", "up", 0.0)], 24))[0].numpy()
    assert persistence(tracks(alone, prompt_of(both))) == 0.5


def test_without_objects_nothing_is_said_of_motion():
    scene = world()[1][0]
    grey = np.full((16, 48, 48, 3), 128, dtype=np.uint8)
    assert dict(measure(grey, scene).values) == {"persistence": 0.0, "flicker": 0.0}
    assert trajectory_error(tracks(grey, prompt_of(scene))) is None


def test_what_cannot_be_measured_is_unsupported():
    metric = prepare(["length_effects"])[0]
    clip = np.zeros((16, 48, 48, 3), dtype=np.uint8)
    assert metric.measure(None, clip) == Measurement.unsupported("length effects need the clip's prompt")
    prompt = describe(world()[1][0])
    for wrong in (clip[:8], clip[:, :40]):
        found = metric.measure(None, wrong, prompt=prompt)
        assert found.status == "unsupported" and "more than 8 square frames" in found.reason
    with pytest.raises(ValueError, match="no ' over BACKGROUND'"):
        metric.measure(None, clip, prompt="a red circle")
