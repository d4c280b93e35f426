"""The procedural world: one to three coloured shapes that move, bounce and occlude each other over panning backgrounds.

Every clip is a pure function of its scene, and every position is a closed formula of time, so a clip of any length can
be drawn, and the first frames of a long clip are the frames of the short one. Lengths are in world pixels: a frame is
`WORLD` = 64 world pixels wide and high, whatever the size it is drawn at; x runs right, y runs down. Time is in frames.

The training loop samples and draws whole batches (`sample_batch`, `render_batch`); `sample_scene` and `render` are the
same code for single, named scenes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as functional

from benchmark.testbed.backgrounds import BACKGROUNDS, TILE, TILE_FRAMES, background_tiles

WORLD = 64.0
TRAINED_FRAMES = 16
MAX_OBJECTS = 3

COLOURS = {
    "red": (0.91, 0.12, 0.14),
    "green": (0.12, 0.75, 0.20),
    "blue": (0.13, 0.24, 0.94),
    "yellow": (0.97, 0.86, 0.10),
    "magenta": (0.89, 0.13, 0.82),
    "cyan": (0.10, 0.83, 0.88),
}
SHAPES = ("circle", "square", "triangle", "cross")
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
SPEEDS = {"slowly": 1.0, "quickly": 2.0}  # world pixels per frame
PANS = tuple(DIRECTIONS)  # the background drifts in the named direction
PAN_SPEED = 0.5  # world pixels per frame
PAN_START = WORLD / 4  # the background starts within this distance of its middle

MIN_RADIUS, MAX_RADIUS = 7.0, 10.0
FREE_FRAMES = 8  # no object bounces in the first FREE_FRAMES steps
# Half sizes in units of the radius, chosen so that the four shapes look about equally large.
SQUARE_HALF = 0.9
TRIANGLE_CIRCUMRADIUS = 1.2
CROSS_HALF, CROSS_ARM = 1.15, 0.42
REACHES = {"circle": 1.0, "square": SQUARE_HALF, "triangle": TRIANGLE_CIRCUMRADIUS, "cross": CROSS_HALF}

_LAYOUTS = 32  # starting layouts drawn for a clip; the first without overlap is taken


@dataclasses.dataclass(frozen=True)
class MovingObject:
    """One object: words for its looks and motion, and where it starts (centre x, y and radius in world pixels)."""

    colour: str
    shape: str
    direction: str
    speed: str
    x: float
    y: float
    radius: float


@dataclasses.dataclass(frozen=True)
class Scene:
    """The ground truth of one clip. The first object is in front of the second, the second in front of the third.

    `start` is where the background starts along its pan, in world pixels.
    """

    objects: tuple[MovingObject, ...]
    background: str
    pan: str
    start: float


@dataclasses.dataclass(frozen=True)
class SceneBatch:
    """Scenes as tensors, all on one device; words are indices into the vocabularies of this module.

    `present` (bool) and `colour`, `shape`, `direction`, `speed` (int64), `x`, `y`, `radius` (float32, world pixels)
    are (batch, MAX_OBJECTS), front object first; present objects come before absent ones. `background`, `pan` (int64)
    and `start` (float32) are (batch,).
    """

    present: torch.Tensor
    colour: torch.Tensor
    shape: torch.Tensor
    direction: torch.Tensor
    speed: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    radius: torch.Tensor
    background: torch.Tensor
    pan: torch.Tensor
    start: torch.Tensor

    def __len__(self) -> int:
        return self.present.shape[0]

    @property
    def device(self) -> torch.device:
        return self.present.device

    def to(self, device: torch.device | str) -> SceneBatch:
        """The same scenes on another device."""
        moved = {field.name: getattr(self, field.name).to(device) for field in dataclasses.fields(self)}
        return SceneBatch(**moved)


def sample_batch(generator: np.random.Generator, batch: int, device: torch.device | str = "cpu") -> SceneBatch:
    """Draw `batch` scenes without a Python loop over clips.

    Only uniform doubles are drawn from the numpy generator (PCG64), so that a seed gives the same scenes on every
    machine. Colours differ within a clip; the start leaves room for FREE_FRAMES steps before the first bounce; of
    `_LAYOUTS` random layouts the first whose objects do not overlap is taken, or the one that overlaps least.
    """
    if batch < 1:
        raise ValueError(f"batch: {batch} scenes were asked for; at least 1 is needed")
    slots = (batch, MAX_OBJECTS)
    count = _choice(generator.random(batch), MAX_OBJECTS) + 1
    colour = np.argsort(generator.random((batch, len(COLOURS))), axis=1)[:, :MAX_OBJECTS]
    shape = _choice(generator.random(slots), len(SHAPES))
    direction = _choice(generator.random(slots), len(DIRECTIONS))
    speed = _choice(generator.random(slots), len(SPEEDS))
    radius = MIN_RADIUS + (MAX_RADIUS - MIN_RADIUS) * generator.random(slots)
    background = _choice(generator.random(batch), len(BACKGROUNDS))
    pan = _choice(generator.random(batch), len(PANS))
    start = PAN_START * (2.0 * generator.random(batch) - 1.0)

    present = np.arange(MAX_OBJECTS) < count[:, None]
    margin = np.array([REACHES[name] for name in SHAPES])[shape] * radius
    heading = np.array(list(DIRECTIONS.values()))[direction]
    path = FREE_FRAMES * np.array(list(SPEEDS.values()))[speed][..., None] * heading
    low = margin[..., None] + np.maximum(-path, 0.0)
    high = WORLD - margin[..., None] - np.maximum(path, 0.0)
    layouts = low[:, None] + (high - low)[:, None] * generator.random((batch, _LAYOUTS, MAX_OBJECTS, 2))

    gap = np.full((batch, _LAYOUTS), np.inf)
    for first in range(MAX_OBJECTS):
        for second in range(first + 1, MAX_OBJECTS):
            distance = np.hypot(*np.moveaxis(layouts[:, :, first] - layouts[:, :, second], -1, 0))
            apart = distance - (radius[:, first] + radius[:, second])[:, None]
            both = (present[:, first] & present[:, second])[:, None]
            gap = np.where(both, np.minimum(gap, apart), gap)
    chosen = np.where((gap >= 0).any(axis=1), (gap >= 0).argmax(axis=1), gap.argmax(axis=1))
    position = layouts[np.arange(batch), chosen]

    def ints(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64)).to(device)

    def floats(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(device)

    return SceneBatch(
        present=torch.from_numpy(present).to(device),
        colour=ints(colour),
        shape=ints(shape),
        direction=ints(direction),
        speed=ints(speed),
        x=floats(position[..., 0]),
        y=floats(position[..., 1]),
        radius=floats(radius),
        background=ints(background),
        pan=ints(pan),
        start=floats(start),
    )


def sample_scene(seed: int) -> Scene:
    """The scene of a seed (>= 0), the same on every machine."""
    if seed < 0:
        raise ValueError(f"seed: {seed} is negative; the smallest seed is 0")
    return to_scenes(sample_batch(np.random.Generator(np.random.PCG64(seed)), 1))[0]


def to_scenes(batch: SceneBatch) -> list[Scene]:
    """The scenes of a batch as named ground truth; the inverse of `to_batch`."""
    values = {field.name: getattr(batch, field.name).tolist() for field in dataclasses.fields(batch)}
    colours, directions, speeds = list(COLOURS), list(DIRECTIONS), list(SPEEDS)
    scenes = []
    for clip in range(len(batch)):
        objects = tuple(
            MovingObject(
                colour=colours[values["colour"][clip][slot]],
                shape=SHAPES[values["shape"][clip][slot]],
                direction=directions[values["direction"][clip][slot]],
                speed=speeds[values["speed"][clip][slot]],
                x=values["x"][clip][slot],
                y=values["y"][clip][slot],
                radius=values["radius"][clip][slot],
            )
            for slot in range(MAX_OBJECTS)
            if values["present"][clip][slot]
        )
        background, pan = BACKGROUNDS[values["background"][clip]], PANS[values["pan"][clip]]
        scenes.append(Scene(objects=objects, background=background, pan=pan, start=values["start"][clip]))
    return scenes


def to_batch(scenes: Sequence[Scene], device: torch.device | str = "cpu") -> SceneBatch:
    """Scenes as tensors on `device`; an empty slot holds index 0, radius MIN_RADIUS, and `present` false."""
    if not scenes:
        raise ValueError("scenes: the list is empty; at least 1 scene is needed")
    for number, scene in enumerate(scenes):
        if not 1 <= len(scene.objects) <= MAX_OBJECTS:
            raise ValueError(f"scene {number}: {len(scene.objects)} objects; a scene holds 1 to {MAX_OBJECTS}")
    colours, directions, speeds = list(COLOURS), list(DIRECTIONS), list(SPEEDS)
    shape = (len(scenes), MAX_OBJECTS)
    present = torch.zeros(shape, dtype=torch.bool)
    words = {name: torch.zeros(shape, dtype=torch.int64) for name in ("colour", "shape", "direction", "speed")}
    numbers = {name: torch.full(shape, WORLD / 2) for name in ("x", "y")} | {"radius": torch.full(shape, MIN_RADIUS)}
    for clip, scene in enumerate(scenes):
        for slot, item in enumerate(scene.objects):
            present[clip, slot] = True
            words["colour"][clip, slot] = colours.index(item.colour)
            words["shape"][clip, slot] = SHAPES.index(item.shape)
            words["direction"][clip, slot] = directions.index(item.direction)
            words["speed"][clip, slot] = speeds.index(item.speed)
            for name, tensor in numbers.items():
                tensor[clip, slot] = getattr(item, name)
    return SceneBatch(
        present=present,
        **words,
        **numbers,
        background=torch.tensor([BACKGROUNDS.index(scene.background) for scene in scenes]),
        pan=torch.tensor([PANS.index(scene.pan) for scene in scenes]),
        start=torch.tensor([scene.start for scene in scenes], dtype=torch.float32),
    ).to(device)


def batch_trajectories(batch: SceneBatch, frames: int) -> torch.Tensor:
    """Centres of all objects, bounces included: float32 (batch, MAX_OBJECTS, frames, 2) as x, y in world pixels.

    A bounce between two walls is a reflection, so the position is a triangle wave of the unfolded straight path.
    """
    _check_frames(frames)
    device = batch.device
    time = torch.arange(frames, device=device, dtype=torch.float32)
    heading = _table(list(DIRECTIONS.values()), device)[batch.direction]
    velocity = heading * _table(list(SPEEDS.values()), device)[batch.speed][..., None]
    margin = _margin(batch)[..., None, None]
    room = WORLD - 2 * margin
    start = torch.stack([batch.x, batch.y], dim=-1)[:, :, None]
    unfolded = start - margin + velocity[:, :, None] * time[:, None]
    return margin + room - (torch.remainder(unfolded, 2 * room) - room).abs()


def trajectory(scene: Scene, frames: int) -> torch.Tensor:
    """Centres of one scene's objects: float32 (objects, frames, 2) as x, y in world pixels."""
    return batch_trajectories(to_batch([scene]), frames)[0, : len(scene.objects)]


def render_batch(batch: SceneBatch, frames: int, size: int = 64) -> torch.Tensor:
    """Draw the clips of a batch on its device: float32 (batch, frames, 3, size, size), RGB in [0, 1].

    Edges are anti-aliased over one pixel by signed distances. Raises ValueError for fewer than 1 frame or 8 pixels.
    """
    _check_frames(frames)
    if size < 8:
        raise ValueError(f"size: {size} pixels; the smallest frame is 8 pixels wide")
    scale = size / WORLD
    centre = batch_trajectories(batch, frames) * scale
    pixel = torch.arange(size, device=batch.device, dtype=torch.float32) + 0.5
    dx = (pixel - centre[..., 0:1])[:, :, :, None, :]
    dy = (pixel - centre[..., 1:2])[:, :, :, :, None]
    colour = _table(list(COLOURS.values()), batch.device)[batch.colour]
    clip = _render_backgrounds(batch, frames, size)
    for slot in reversed(range(MAX_OBJECTS)):
        radius = (batch.radius[:, slot] * scale)[:, None, None, None]
        distance = signed_distance(batch.shape[:, slot], dx[:, slot], dy[:, slot], radius)
        cover = (0.5 - distance).clamp_(0.0, 1.0) * batch.present[:, slot, None, None, None]
        clip.lerp_(colour[:, slot, None, :, None, None].expand_as(clip), cover[:, :, None].expand_as(clip))
    return clip


def render(
    scenes: Sequence[Scene], frames: int = TRAINED_FRAMES, size: int = 64, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Draw clips of named scenes: float32 (batch, frames, 3, size, size), RGB in [0, 1]."""
    return render_batch(to_batch(scenes, device), frames, size)


def to_uint8(clips: torch.Tensor) -> torch.Tensor:
    """Clips in [0, 1], channels before height and width, as uint8 with channels last: (..., height, width, 3)."""
    return (clips.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).movedim(-3, -1)


def _check_frames(frames: int) -> None:
    if frames < 1:
        raise ValueError(f"frames: {frames}; a clip has at least 1 frame")


def _choice(uniform: np.ndarray, options: int) -> np.ndarray:
    """Uniform doubles in [0, 1) as indices below `options`."""
    return (uniform * options).astype(np.int64)


def _table(values: Sequence, device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)


def _margin(batch: SceneBatch) -> torch.Tensor:
    """Distance from the walls at which an object's centre turns round: (batch, MAX_OBJECTS) in world pixels."""
    return _table([REACHES[name] for name in SHAPES], batch.device)[batch.shape] * batch.radius


def signed_distance(shape: torch.Tensor, dx: torch.Tensor, dy: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """Signed distance in pixels to the edge of a shape, negative inside.

    `shape` is (batch,), `dx` (batch, frames, 1, size), `dy` (batch, frames, size, 1), `radius` (batch, 1, 1, 1);
    returns (batch, frames, size, size). Near the edges that are drawn, the distances are exact.
    """
    across, along = dx.abs(), dy.abs()
    distances = {
        "circle": torch.hypot(dx, dy) - radius,
        "square": torch.maximum(across, along) - SQUARE_HALF * radius,
        # An upright equilateral triangle about its centroid: three half-planes at half the circumradius.
        "triangle": torch.maximum(dy, 0.75**0.5 * across - 0.5 * dy) - 0.5 * TRIANGLE_CIRCUMRADIUS * radius,
        "cross": torch.minimum(
            torch.maximum(across - CROSS_HALF * radius, along - CROSS_ARM * radius),
            torch.maximum(across - CROSS_ARM * radius, along - CROSS_HALF * radius),
        ),
    }
    chosen = distances[SHAPES[0]]
    for index, name in enumerate(SHAPES[1:], start=1):
        chosen = torch.where((shape == index)[:, None, None, None], distances[name], chosen)
    return chosen


def _render_backgrounds(batch: SceneBatch, frames: int, size: int) -> torch.Tensor:
    """The panning backgrounds alone: (batch, frames, 3, size, size)."""
    device = batch.device
    drift = batch.start[:, None] + PAN_SPEED * torch.arange(frames, device=device, dtype=torch.float32)
    heading = _table([DIRECTIONS[name] for name in PANS], device)[batch.pan]
    # The content moves with the pan, so the window over the tile moves against it.
    corner = -heading[:, None] * drift[..., None] * (size / WORLD)
    pixel = torch.arange(size, device=device, dtype=torch.float32) + 0.5
    texels = TILE / TILE_FRAMES / size
    # One wrapped texel on each side of the tile lets the interpolation run over the seam.
    tiles = functional.pad(background_tiles(str(device)), (1, 1, 1, 1), mode="circular")
    window = torch.remainder((corner[..., None] + pixel) * texels, TILE) + 1.0
    window = window * (2.0 / (TILE + 2)) - 1.0
    columns = window[:, :, 0, None, :].expand(-1, -1, size, -1)
    rows = window[:, :, 1, :, None].expand(-1, -1, -1, size)
    grid = torch.stack([columns, rows], dim=-1).reshape(len(batch), frames * size, size, 2)
    drawn = functional.grid_sample(tiles[batch.background], grid, mode="bilinear", align_corners=False)
    return drawn.reshape(len(batch), 3, frames, size, size).transpose(1, 2).contiguous()
