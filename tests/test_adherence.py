"""The adherence instrument: right on ground truth, wrong on wrong clips."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from benchmark.testbed.adherence import Reading, read_clip, score
from benchmark.testbed.grammar import Description, description_of
from benchmark.testbed.world import (
    FREE_FRAMES,
    MovingObject,
    Scene,
    render,
    sample_batch,
    to_scenes,
    to_uint8,
)

PARTS = ("count", "colours", "shapes", "directions")


@functools.lru_cache(maxsize=4)
def ground_truth(clips: int, frames: int, seed: int) -> tuple[np.ndarray, list[Description]]:
    scenes = to_scenes(sample_batch(np.random.Generator(np.random.PCG64(seed)), clips))
    return to_uint8(render(scenes, frames)).numpy(), [description_of(scene) for scene in scenes]


def mean_scores(clips: np.ndarray, descriptions: list[Description]) -> dict[str, float]:
    scores = [score(read_clip(clip), told) for clip, told in zip(clips, descriptions, strict=True)]
    return {part: float(np.mean([one[part] for one in scores])) for part in (*PARTS, "adherence")}


def clip_of(*objects: MovingObject, frames: int = 16) -> np.ndarray:
    return to_uint8(render([Scene(objects, "motorcycle", "up", 0.0)], frames))[0].numpy()


@pytest.mark.parametrize(("clips", "frames"), [(100, 16), (20, 32), (20, 64)])
def test_ground_truth_is_read_right(clips: int, frames: int):
    means = mean_scores(*ground_truth(clips, frames, seed=frames))
    assert min(means.values()) >= 0.99, means


def test_mild_blur_and_noise_are_tolerated():
    from scipy.ndimage import gaussian_filter

    clips, descriptions = ground_truth(60, 16, seed=3)
    noise = np.random.Generator(np.random.PCG64(0)).normal(0.0, 6.0, clips.shape)
    degraded = gaussian_filter(clips.astype(np.float32), (0, 0, 0.8, 0.8, 0)) + noise
    means = mean_scores(degraded.clip(0, 255).round().astype(np.uint8), descriptions)
    assert min(means.values()) >= 0.95, means


def test_a_blank_clip_shows_nothing():
    reading = read_clip(np.full((16, 64, 64, 3), 128, dtype=np.uint8))
    assert reading == Reading(objects=()) and reading.count == 0
    _, descriptions = ground_truth(60, 16, seed=3)
    assert set(score(reading, descriptions[0]).values()) == {0.0}


def test_backgrounds_and_noise_alone_show_nothing():
    random = np.random.Generator(np.random.PCG64(0))
    assert read_clip(random.integers(0, 256, (16, 64, 64, 3), dtype=np.uint8)).count == 0
    scenes = [
        Scene((MovingObject("red", "circle", "up", "slowly", 32.0, 32.0, 0.01),), name, "up", 0.0)
        for name in ("waves", "checks", "stripes", "clouds", "cat", "astronaut", "coffee", "motorcycle")
    ]
    for clip in to_uint8(render(scenes)).numpy():
        assert read_clip(clip).count == 0


def test_another_scenes_prompt_scores_low():
    clips, descriptions = ground_truth(60, 16, seed=3)
    means = mean_scores(clips, descriptions[1:] + descriptions[:1])
    assert means["count"] < 0.6 and means["colours"] < 0.6
    assert means["shapes"] < 0.25 and means["directions"] < 0.25 and means["adherence"] < 0.4


def test_reversed_motion_has_the_wrong_directions():
    clips, descriptions = ground_truth(60, 16, seed=3)
    means = mean_scores(clips[:, FREE_FRAMES::-1], descriptions)
    assert means["directions"] <= 0.01 and means["shapes"] >= 0.95


def test_a_frozen_clip_has_no_directions():
    clips, descriptions = ground_truth(60, 16, seed=3)
    frozen = np.repeat(clips[:, :1], 16, axis=1)
    assert mean_scores(frozen, descriptions)["directions"] == 0.0
    assert all(item.direction is None for item in read_clip(frozen[0]).objects)
    assert mean_scores(frozen, descriptions)["shapes"] >= 0.95


def test_turned_clips_have_other_directions_and_shifted_hues_other_colours():
    clips, descriptions = ground_truth(60, 16, seed=3)
    assert mean_scores(clips.transpose(0, 1, 3, 2, 4), descriptions)["directions"] <= 0.01
    # A third of a turn of the hue: red becomes green, green blue, blue red.
    shifted = mean_scores(np.roll(clips, 1, axis=-1), descriptions)
    assert shifted["colours"] < 0.6 and shifted["count"] >= 0.99 and shifted["directions"] < 0.3


def test_a_second_object_of_the_same_colour_is_counted():
    red = MovingObject("red", "circle", "right", "slowly", 15.0, 15.0, 8.0)
    twin = MovingObject("red", "square", "right", "slowly", 15.0, 45.0, 8.0)
    told = description_of(Scene((red,), "motorcycle", "up", 0.0))
    assert score(read_clip(clip_of(red)), told)["count"] == 1.0
    reading = read_clip(clip_of(red, twin))
    assert reading.count == 2 and score(reading, told)["count"] == 0.0


def test_an_object_that_vanishes_is_not_counted():
    red = MovingObject("red", "circle", "right", "slowly", 15.0, 15.0, 8.0)
    blue = MovingObject("blue", "square", "right", "slowly", 15.0, 45.0, 8.0)
    clip = clip_of(red, blue)
    clip[5:] = clip_of(red)[5:]
    told = description_of(Scene((red, blue), "motorcycle", "up", 0.0))
    scores = score(read_clip(clip), told)
    assert scores["count"] == 0.0 and scores["colours"] == scores["shapes"] == scores["directions"] == 0.5


def test_a_wrong_attribute_lowers_its_own_score_only():
    seen = MovingObject("green", "triangle", "down", "quickly", 20.0, 20.0, 8.0)
    reading = read_clip(clip_of(seen))
    for attribute, word, part in (
        ("shape", "cross", "shapes"),
        ("shape", "circle", "shapes"),
        ("shape", "square", "shapes"),
        ("direction", "up", "directions"),
        ("direction", "left", "directions"),
    ):
        words = {"colour": "green", "shape": "triangle", "direction": "down", "speed": "quickly"} | {attribute: word}
        item = MovingObject(**words, x=20.0, y=20.0, radius=8.0)
        scores = score(reading, description_of(Scene((item,), "motorcycle", "up", 0.0)))
        assert scores == {name: float(name != part) for name in PARTS} | {"adherence": 0.75}


def test_a_shape_that_is_always_near_others_is_read():
    # Two objects side by side that move together are never clear of each other, and one hides a part of the other.
    for shape in ("circle", "square", "triangle", "cross"):
        front = MovingObject("yellow", "circle", "right", "slowly", 20.0, 30.0, 8.0)
        behind = MovingObject("blue", shape, "right", "slowly", 31.0, 32.0, 9.0)
        reading = read_clip(clip_of(front, behind, frames=12))
        assert score(reading, description_of(Scene((front, behind), "motorcycle", "up", 0.0)))["adherence"] == 1.0


def test_a_formless_blob_has_no_shape():
    clip = np.full((16, 64, 64, 3), 128, dtype=np.uint8)
    clip[:, 30:33, 4:60] = (230, 30, 35)
    (blob,) = read_clip(clip).objects
    assert blob.colour == "red" and blob.shape is None and blob.direction is None


@pytest.mark.parametrize(
    ("clip", "words"),
    [
        (np.zeros((16, 64, 64, 3), dtype=np.float32), "uint8"),
        (np.zeros((16, 3, 64, 64), dtype=np.uint8), "needed is"),
        (np.zeros((1, 64, 64, 3), dtype=np.uint8), "frames >= 2"),
        (np.zeros((16, 16, 16, 3), dtype=np.uint8), "size >= 32"),
    ],
)
def test_wrong_clips_are_refused(clip: np.ndarray, words: str):
    with pytest.raises(ValueError, match=words):
        read_clip(clip)
