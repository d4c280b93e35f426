"""The procedural world: sampling, motion, rendering and backgrounds."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from benchmark.testbed.backgrounds import (
    BACKGROUNDS,
    BRIGHTEST,
    DARKEST,
    MAX_CHROMA,
    PHOTOGRAPHS,
    TILE,
    background_tiles,
)
from benchmark.testbed.world import (
    COLOURS,
    DIRECTIONS,
    FREE_FRAMES,
    MAX_OBJECTS,
    MAX_RADIUS,
    MIN_RADIUS,
    PAN_SPEED,
    PANS,
    REACHES,
    SHAPES,
    SPEEDS,
    WORLD,
    MovingObject,
    Scene,
    batch_trajectories,
    render,
    render_batch,
    sample_batch,
    sample_scene,
    to_batch,
    to_scenes,
    to_uint8,
    trajectory,
)

GOLDEN_SEED = 4
GOLDEN_WORDS = [
    ("blue", "circle", "down", "quickly"),
    ("magenta", "cross", "right", "quickly"),
    ("red", "triangle", "right", "slowly"),
]
GOLDEN_BACKGROUND = ("cat", "up")
GOLDEN_NUMBERS = [39.3198, 13.6667, 9.9068, 23.9456, 31.7353, 9.7871, 28.0086, 53.0584, 7.5331, 14.1697]


def scene_of(*objects: MovingObject, background: str = "waves", pan: str = "right", start: float = 0.0) -> Scene:
    return Scene(objects=objects, background=background, pan=pan, start=start)


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def test_a_seed_gives_the_same_scene_on_every_machine():
    scene = sample_scene(GOLDEN_SEED)
    assert scene == sample_scene(GOLDEN_SEED) != sample_scene(GOLDEN_SEED + 1)
    assert [(item.colour, item.shape, item.direction, item.speed) for item in scene.objects] == GOLDEN_WORDS
    assert (scene.background, scene.pan) == GOLDEN_BACKGROUND
    numbers = [number for item in scene.objects for number in (item.x, item.y, item.radius)] + [scene.start]
    np.testing.assert_allclose(numbers, GOLDEN_NUMBERS, atol=1e-4)


def test_sampled_scenes_keep_the_rules_of_the_world():
    scenes = to_scenes(sample_batch(generator(0), 400))
    for scene in scenes:
        colours = [item.colour for item in scene.objects]
        assert 1 <= len(colours) <= MAX_OBJECTS and len(set(colours)) == len(colours)
        path = trajectory(scene, FREE_FRAMES + 1)
        for item, centres in zip(scene.objects, path, strict=True):
            assert MIN_RADIUS <= item.radius <= MAX_RADIUS
            step = torch.tensor(DIRECTIONS[item.direction]) * SPEEDS[item.speed]
            torch.testing.assert_close(centres.diff(dim=0), step.expand(FREE_FRAMES, 2), atol=1e-4, rtol=0)
    # Everything that can be drawn is drawn, about equally often.
    assert {len(scene.objects) for scene in scenes} == {1, 2, 3}
    for words, allowed in (
        ([scene.background for scene in scenes], BACKGROUNDS),
        ([scene.pan for scene in scenes], PANS),
        ([item.colour for scene in scenes for item in scene.objects], COLOURS),
        ([item.shape for scene in scenes for item in scene.objects], SHAPES),
        ([item.direction for scene in scenes for item in scene.objects], DIRECTIONS),
    ):
        shares = [words.count(word) / len(words) for word in allowed]
        assert min(shares) > 0.6 / len(allowed)


def test_objects_do_not_overlap_at_the_start():
    overlapping = 0
    scenes = to_scenes(sample_batch(generator(1), 1000))
    for scene in scenes:
        for index, first in enumerate(scene.objects):
            for second in scene.objects[index + 1 :]:
                gap = math.hypot(first.x - second.x, first.y - second.y) - first.radius - second.radius
                overlapping += gap < 0
                assert gap > -4.0
    assert overlapping <= 0.01 * len(scenes)


def test_bounces_agree_with_a_step_by_step_simulation():
    batch = sample_batch(generator(2), 40)
    closed = batch_trajectories(batch, 64)
    for clip, scene in enumerate(to_scenes(batch)):
        for slot, item in enumerate(scene.objects):
            position = np.array([item.x, item.y])
            step = np.array(DIRECTIONS[item.direction]) * SPEEDS[item.speed]
            margin = REACHES[item.shape] * item.radius
            for frame in range(64):
                np.testing.assert_allclose(closed[clip, slot, frame], position, atol=2e-3)
                position = position + step
                for axis in range(2):
                    if position[axis] < margin:
                        position[axis], step[axis] = 2 * margin - position[axis], -step[axis]
                    elif position[axis] > WORLD - margin:
                        position[axis], step[axis] = 2 * (WORLD - margin) - position[axis], -step[axis]
    moved = (closed[:, :, 1:] - closed[:, :, :-1]).sign()
    assert (moved[:, :, 0] * moved[:, :, -1] < 0).any(), "no object bounced: the test would prove nothing"


def test_scenes_and_batches_convert_without_loss():
    batch = sample_batch(generator(3), 30)
    scenes = to_scenes(batch)
    assert to_scenes(to_batch(scenes)) == scenes
    torch.testing.assert_close(render(scenes, 3), render_batch(batch, 3), atol=0, rtol=0)


def test_a_short_clip_is_the_beginning_of_a_long_one():
    batch = sample_batch(generator(4), 4)
    torch.testing.assert_close(render_batch(batch, 16), render_batch(batch, 64)[:, :16], atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_agree_with_supersampling(shape: str):
    item = MovingObject("blue", shape, "left", "slowly", 30.3, 33.8, 9.2)
    drawn = render([scene_of(item)], 1)[0, 0]
    empty = render([scene_of(dataclasses.replace(item, x=12.0, y=12.0))], 1)[0, 0]
    colour = torch.tensor(COLOURS["blue"])[:, None, None]
    cover = ((drawn - empty) / (colour - empty)).mean(dim=0)[22:45, 18:43]
    fine = (torch.arange(64 * 8, dtype=torch.float64) + 0.5) / 8
    x, y = (fine - item.x)[None, :], (fine - item.y)[:, None]
    unit_x, unit_y = x / item.radius, y / item.radius
    inside = {
        "circle": unit_x**2 + unit_y**2 <= 1,
        "square": (unit_x.abs() <= 0.9) & (unit_y.abs() <= 0.9),
        # Corners of the upright triangle: (0, -1.2) and (+-1.2 cos 30, 0.6).
        "triangle": (unit_y <= 0.6) & (unit_x.abs() <= (unit_y + 1.2) * math.tan(math.radians(30))),
        "cross": ((unit_x.abs() <= 1.15) & (unit_y.abs() <= 0.42)) | ((unit_x.abs() <= 0.42) & (unit_y.abs() <= 1.15)),
    }[shape]
    exact = inside.expand(512, 512).double().reshape(64, 8, 64, 8).mean(dim=(1, 3))[22:45, 18:43]
    error = (cover - exact).abs()
    assert error.max() < 0.35 and error.mean() < 0.012


def test_the_first_object_is_in_front():
    front = MovingObject("red", "circle", "left", "slowly", 30.0, 30.0, 9.0)
    behind = MovingObject("cyan", "square", "left", "slowly", 34.0, 30.0, 9.0)
    pixel = (0, 0, slice(None), 30, 32)
    torch.testing.assert_close(render([scene_of(front, behind)], 1)[pixel], torch.tensor(COLOURS["red"]))
    torch.testing.assert_close(render([scene_of(behind, front)], 1)[pixel], torch.tensor(COLOURS["cyan"]))


@pytest.mark.parametrize("pan", PANS)
@pytest.mark.parametrize("background", ["checks", "cat"])
def test_backgrounds_drift_in_the_named_direction(background: str, pan: str):
    item = MovingObject("red", "circle", "left", "slowly", 10.0, 10.0, 7.0)
    clip = render([scene_of(item, background=background, pan=pan, start=3.0)], 9)[0]
    shift = round(8 * PAN_SPEED)
    across, down = (int(component) * shift for component in DIRECTIONS[pan])
    moved = clip[0].roll((down, across), dims=(1, 2))
    here = np.s_[:, 30:56, 30:56]
    torch.testing.assert_close(moved[here], clip[8][here], atol=2e-3, rtol=0)
    assert (clip[0][here] - clip[8][here]).abs().mean() > 0.02


def test_background_tiles_are_muted_seamless_and_different():
    tiles = background_tiles("cpu")
    assert tiles.shape == (len(BACKGROUNDS), 3, TILE, TILE) and tiles.dtype == torch.float32
    assert tiles.min() >= DARKEST - 1e-6 and tiles.max() <= BRIGHTEST + 1e-6
    assert (tiles.amax(dim=1) - tiles.amin(dim=1)).max() <= MAX_CHROMA + 1e-5
    for seam in (tiles[..., 0] - tiles[..., -1], tiles[..., 0, :] - tiles[..., -1, :]):
        assert seam.abs().mean() < 0.02
    for index in range(len(tiles)):
        assert tiles[index].std() > 0.05
        for other in range(index):
            assert (tiles[index] - tiles[other]).abs().mean() > 0.05
    assert len(PHOTOGRAPHS) >= 3


def test_objects_stand_out_from_every_background():
    smallest = min(max(colour) - min(colour) for colour in COLOURS.values())
    assert smallest > 2 * MAX_CHROMA


@pytest.mark.parametrize("size", [32, 64, 96])
def test_clips_of_any_size_show_the_same_scene(size: int):
    scenes = [sample_scene(seed) for seed in range(6)]
    clips = render(scenes, 3, size)
    assert clips.shape == (6, 3, 3, size, size) and clips.min() >= 0 and clips.max() <= 1
    small = torch.nn.functional.interpolate(clips.flatten(0, 1), 16, mode="area")
    reference = torch.nn.functional.interpolate(render(scenes, 3, 64).flatten(0, 1), 16, mode="area")
    assert (small - reference).abs().mean() < 0.01


def test_to_uint8_rounds_and_puts_channels_last():
    clips = torch.zeros(2, 4, 3, 8, 8)
    clips[:, :, 1] = 0.5
    clips[:, :, 2] = 1.2
    bytes_ = to_uint8(clips)
    assert bytes_.dtype == torch.uint8 and bytes_.shape == (2, 4, 8, 8, 3)
    assert bytes_[0, 0, 0, 0].tolist() == [0, 128, 255]


def test_bad_input_is_refused_in_one_line():
    batch = sample_batch(generator(5), 1)
    for call, words in (
        (lambda: sample_scene(-1), "smallest seed is 0"),
        (lambda: sample_batch(generator(0), 0), "at least 1"),
        (lambda: render_batch(batch, 0), "at least 1 frame"),
        (lambda: render_batch(batch, 1, 4), "8 pixels"),
        (lambda: render([]), "at least 1 scene"),
        (lambda: render([scene_of()]), "1 to 3"),
    ):
        with pytest.raises(ValueError, match=words) as refusal:
            call()
        assert "\n" not in str(refusal.value)
