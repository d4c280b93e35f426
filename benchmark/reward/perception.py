"""The fixed first stage of the testbed's judge: what a clip shows, as time series that a small network can read.

Objects of the procedural world are saturated and backgrounds muted, so each colour of the palette gives a soft mask of
every frame. From the masks come, for every object of the prompt, its size, place, motion and crops; from the pixels
come sharpness, noise, blocks, brightness, repetition and the motion of the background. Nothing here is learned, and
nothing is a threshold on quality: the network decides what a number means.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as functional

from benchmark.testbed.backgrounds import BACKGROUNDS
from benchmark.testbed.grammar import Description
from benchmark.testbed.world import COLOURS, DIRECTIONS, MAX_OBJECTS, PANS, REACHES, SHAPES, SPEEDS, WORLD

LARGEST = 64  # pixels; larger frames are averaged down to it
LEAST_FRAMES = 8
CELLS = 32  # masks are averaged onto a grid of so many cells, two world pixels each
CELL = WORLD / CELLS
FAINT, FULL = 0.4, 0.7  # share of a palette colour's saturation at which its mask begins and is complete
CROPS, CROP = 8, 16  # crops of an object, spread over the clip, and their size in pixels
CROP_HALF = 13.0  # world pixels from a crop's middle to its border
PICTURE = 16  # size of the pictures of the background
WINDOW = 6.5  # cells from an object's middle within which a pixel is the object's
PAN_LAG = 4  # frames in which the background moves by one cell
BLOCKS = (2, 3, 4, 5, 6, 8)  # sizes of blocks that are looked for, in pixels
PACE = 7  # the channel of an object's series that holds its steps along the prompt's direction
_AREAS = {"circle": 3.14, "square": 3.24, "triangle": 1.87, "cross": 3.16}  # in squared radii


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Prompts as tensors: ``present`` bool and words as int64, (batch, objects); ``background``, ``pan`` (batch,)."""

    present: torch.Tensor
    colour: torch.Tensor
    shape: torch.Tensor
    direction: torch.Tensor
    speed: torch.Tensor
    background: torch.Tensor
    pan: torch.Tensor


@dataclasses.dataclass(frozen=True)
class Seen:
    """What the first stage hands on, all float32 but the indices.

    ``objects`` (batch, 3, channels, frames), ``crops`` (batch, 3, crops, 2, 16, 16) with the object's mask and the
    others', ``whole`` (batch, channels, frames), ``pictures`` (batch, 3, 4, 16, 16) of background and where it is
    hidden; ``present`` (batch, 3), ``shape`` (batch, 3) and ``background`` (batch,) are the prompt's.
    """

    objects: torch.Tensor
    crops: torch.Tensor
    whole: torch.Tensor
    pictures: torch.Tensor
    present: torch.Tensor
    shape: torch.Tensor
    background: torch.Tensor


def wanted(prompts: Sequence[Description]) -> Wanted:
    """Prompts as tensors; empty places hold index 0."""
    words = {"colour": list(COLOURS), "shape": list(SHAPES), "direction": list(DIRECTIONS), "speed": list(SPEEDS)}
    tensors = {name: torch.zeros(len(prompts), MAX_OBJECTS, dtype=torch.int64) for name in words}
    present = torch.zeros(len(prompts), MAX_OBJECTS, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        for place, item in enumerate(prompt.objects):
            present[row, place] = True
            for name, options in words.items():
                tensors[name][row, place] = options.index(getattr(item, name))
    return Wanted(
        present=present,
        **tensors,
        background=torch.tensor([BACKGROUNDS.index(prompt.background) for prompt in prompts]),
        pan=torch.tensor([PANS.index(prompt.pan) for prompt in prompts]),
    )


def perceive(clips: torch.Tensor, prompts: Wanted) -> Seen:
    """The first stage.

    Args:
        clips: float32 (batch, frames, 3, size, size) in [0, 1], 8 frames of 32 pixels or more.
        prompts: one a clip.

    Raises:
        ValueError: clips of another shape.
    """
    batch, frames, channels, height, width = clips.shape
    if channels != 3 or height != width or height < CELLS or frames < LEAST_FRAMES:
        raise ValueError(
            f"clips: shape {tuple(clips.shape)}; needed is (batch, frames >= {LEAST_FRAMES}, 3, size >= {CELLS}, size)"
        )
    pixels = clips.flatten(0, 1)
    if height > LARGEST:
        pixels = functional.adaptive_avg_pool2d(pixels, LARGEST)
    small = functional.adaptive_avg_pool2d(pixels, CELLS)
    saturation, masks = _masks(small)
    grid = masks.unflatten(0, (batch, frames))
    total = grid.sum(dim=2)
    index = prompts.colour[:, None, :, None, None].expand(-1, frames, -1, CELLS, CELLS)
    slots = grid.gather(2, index) * prompts.present[:, None, :, None, None]
    stray = (total - slots.sum(dim=2)).clamp(min=0)
    objects, places = _objects(slots, total, prompts)
    return Seen(
        objects=objects,
        crops=_crops(pixels.unflatten(0, (batch, frames)), places, prompts),
        whole=_whole(pixels, small, saturation, total, stray, prompts, batch),
        pictures=_pictures(small, total, batch),
        present=prompts.present,
        shape=prompts.shape,
        background=prompts.background,
    )


def _masks(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest share of a palette colour's saturation (images, height, width), and soft masks of all colours."""
    palette = torch.tensor(list(COLOURS.values()))
    hues = palette - palette.mean(dim=1, keepdim=True)
    # Grey is orthogonal to every hue, so pixels need no centring.
    share = torch.matmul(hues / hues.square().sum(dim=1, keepdim=True), pixels.flatten(2)).unflatten(
        2, pixels.shape[2:]
    )
    best = share.max(dim=1, keepdim=True).values
    masks = ((share - FAINT) / (FULL - FAINT)).clamp(0, 1) * (share == best)
    return best[:, 0], masks


def _window_sums(maps: torch.Tensor) -> torch.Tensor:
    """Sums over a window of about an object's size: (..., cells, cells)."""
    flat = maps.flatten(0, -3)[:, None]
    rows = functional.avg_pool2d(flat, (9, 1), stride=1, padding=(4, 0))
    return (functional.avg_pool2d(rows, (1, 9), stride=1, padding=(0, 4)) * 81)[:, 0].reshape(maps.shape)


def _step(values: torch.Tensor, lag: int = 1) -> torch.Tensor:
    """Difference to ``lag`` frames before along the last axis; the first frames repeat the first difference."""
    change = values[..., lag:] - values[..., :-lag]
    return torch.cat([change[..., :1].expand(*change.shape[:-1], lag), change], dim=-1)


def _objects(slots: torch.Tensor, total: torch.Tensor, prompts: Wanted) -> tuple[torch.Tensor, torch.Tensor]:
    """Time series of each prompt object (batch, 3, channels, frames), and its places (batch, 3, frames, 2) in cells."""
    batch, frames = slots.shape[:2]
    masks = slots.transpose(1, 2)  # (batch, 3, frames, cells, cells)
    area = masks.sum(dim=(-2, -1))
    sums = _window_sums(masks)
    peak = sums.flatten(-2).max(dim=-1)
    axis = torch.arange(CELLS, dtype=torch.float32)
    place = torch.stack([peak.indices % CELLS, peak.indices // CELLS], dim=-1).float()

    def near(place: torch.Tensor) -> torch.Tensor:
        """The mask within the window round a place."""
        across = (axis - place[..., 0:1]).abs() <= WINDOW
        along = (axis - place[..., 1:2]).abs() <= WINDOW
        return masks * (along[..., :, None] & across[..., None, :])

    # The peak is a whole cell and flat; the middle of what is near it is exact.
    inside = near(place)
    for _ in range(2):
        held = inside.sum(dim=(-2, -1)).clamp(min=1e-3)
        x = (inside.sum(dim=-2) * axis).sum(dim=-1) / held
        y = (inside.sum(dim=-1) * axis).sum(dim=-1) / held
        middle = torch.stack([x, y], dim=-1)
        seen = (peak.values > 1).float()
        place = torch.lerp(torch.full_like(middle, CELLS / 2), middle, seen[..., None])
        inside = near(place)
    held = inside.sum(dim=(-2, -1))
    spread_x = (inside.sum(dim=-2) * (axis - place[..., 0:1]).square()).sum(dim=-1) / held.clamp(min=1e-3)
    spread_y = (inside.sum(dim=-1) * (axis - place[..., 1:2]).square()).sum(dim=-1) / held.clamp(min=1e-3)
    soft = (inside * (1 - inside)).sum(dim=(-2, -1)) / held.clamp(min=1)
    # How much of the window other objects take: they may hide this one.
    rest = _window_sums(total[:, None] - masks)
    hidden = rest.flatten(-2).gather(-1, peak.indices[..., None])[..., 0] / 81

    heading = torch.tensor(list(DIRECTIONS.values()))[prompts.direction][:, :, None]  # (batch, 3, 1, 2)
    side = torch.stack([-heading[..., 1], heading[..., 0]], dim=-1)
    world = (place + 0.5) * CELL
    along, across = (world * heading).sum(dim=-1), (world * side).sum(dim=-1)
    speed = torch.tensor(list(SPEEDS.values()))[prompts.speed][:, :, None]
    predicted = _predicted(world, held * CELL**2, heading, speed, prompts)
    residual = world - predicted
    pace, drift = _step(along), _step(across)
    series = [
        area / 64,
        held / 64,
        (area - held) / 64,
        peak.values / 64,
        seen,
        (world[..., 0] - WORLD / 2) / 16,
        (world[..., 1] - WORLD / 2) / 16,
        pace.clamp(-4, 4),
        drift.clamp(-4, 4),
        pace.abs().clamp(max=4) - speed,
        (_step(along, 4) / 4).clamp(-3, 3),
        (_step(across, 4) / 4).clamp(-3, 3),
        torch.log1p(_step(pace).abs() + _step(drift).abs()),
        torch.log1p((residual * heading).sum(dim=-1).abs()),
        torch.log1p((residual * side).sum(dim=-1).abs()),
        spread_x / 8,
        spread_y / 8,
        soft * 4,
        hidden * 4,
        torch.log1p(_step(held).abs()),
        speed.expand_as(area) - 1.5,
        prompts.present.sum(dim=1)[:, None, None].expand_as(area) - 2.0,
        _recurrence(world.flatten(0, 1)).reshape(batch, MAX_OBJECTS, 1).expand_as(area),
        (frames / 64) * torch.ones_like(area),
    ]
    return torch.stack(series, dim=2), place


def _predicted(
    world: torch.Tensor, area: torch.Tensor, heading: torch.Tensor, speed: torch.Tensor, prompts: Wanted
) -> torch.Tensor:
    """Where each object would be if it moved as the prompt says from where it is at the start, bouncing off the walls.

    Places are (batch, 3, frames, 2) in world pixels. The radius follows from the area that is usually seen.
    """
    frames = world.shape[2]
    time = torch.arange(frames, dtype=torch.float32)[:, None]
    early = slice(0, 6)
    start = (world[:, :, early] - heading * speed[..., None] * time[early]).median(dim=2, keepdim=True).values
    areas = torch.tensor([_AREAS[name] for name in SHAPES])[prompts.shape]
    reach = torch.tensor([REACHES[name] for name in SHAPES])[prompts.shape]
    margin = (reach * (area.median(dim=2).values / areas).clamp(min=16).sqrt()).clamp(max=13)[:, :, None, None]
    room = WORLD - 2 * margin
    unfolded = start - margin + heading * speed[..., None] * time
    return margin + room - (torch.remainder(unfolded, 2 * room) - room).abs()


def _recurrence(vectors: torch.Tensor) -> torch.Tensor:
    """How nearly the frames come back: least mean distance at one lag over the mean distance of all, (batch,).

    ``vectors`` are (batch, frames, size). Lags run from 3 frames to three quarters of the clip.
    """
    frames = vectors.shape[1]
    distance = torch.cdist(
        vectors,
        vectors,
        compute_mode="donot_use_mm_for_euclid_dist" if vectors.shape[-1] < 8 else "use_mm_for_euclid_dist",
    )
    lags = range(3, max(4, 3 * frames // 4))
    by_lag = torch.stack([distance.diagonal(lag, dim1=1, dim2=2).mean(dim=-1) for lag in lags], dim=-1)
    usual = by_lag.mean(dim=-1)
    return (by_lag.min(dim=-1).values + 1e-3) / (usual + 1e-2)


def _crops(clips: torch.Tensor, places: torch.Tensor, prompts: Wanted) -> torch.Tensor:
    """Crops of the object's mask and of all others round its place: (batch, 3, crops, 2, CROP, CROP)."""
    batch, frames = clips.shape[:2]
    chosen = torch.linspace(0, frames - 1, CROPS).round().long()
    size = clips.shape[-1]
    picked = _masks(clips[:, chosen].flatten(0, 1))[1].unflatten(0, (batch, CROPS))
    index = prompts.colour[:, None, :, None, None].expand(-1, CROPS, -1, size, size)
    own = picked.gather(2, index) * prompts.present[:, None, :, None, None]
    both = torch.stack([own, picked.sum(dim=2, keepdim=True) - own], dim=3).transpose(1, 2)
    offset = (torch.arange(CROP) + 0.5) / CROP * 2 - 1
    centre = (places[:, :, chosen] + 0.5) * (2 / CELLS) - 1
    steps = offset * (CROP_HALF / (WORLD / 2))
    x = (centre[..., 0:1] + steps)[..., None, :].expand(*centre.shape[:-1], CROP, CROP)
    y = (centre[..., 1:2] + steps)[..., :, None].expand(*centre.shape[:-1], CROP, CROP)
    grid = torch.stack([x, y], dim=-1).flatten(0, 2)
    return functional.grid_sample(both.flatten(0, 2), grid, align_corners=False).reshape(
        batch, MAX_OBJECTS, CROPS, 2, CROP, CROP
    )


def _log(values: torch.Tensor, floor: float = 1e-3) -> torch.Tensor:
    """Logarithm of what is never negative, centred for typical contrasts."""
    return (values + floor).log() + 4


def _mean(images: torch.Tensor) -> torch.Tensor:
    return images.flatten(1).mean(dim=1)


def _laplacian(images: torch.Tensor) -> torch.Tensor:
    """Absolute second differences along both axes, without the border: (images, height - 2, width - 2)."""
    middle = images[:, 1:-1, 1:-1]
    return (4 * middle - images[:, :-2, 1:-1] - images[:, 2:, 1:-1] - images[:, 1:-1, :-2] - images[:, 1:-1, 2:]).abs()


def _blockiness(profile: torch.Tensor) -> list[torch.Tensor]:
    """For each size of blocks, the largest share that one phase has of the gradients: profiles (images, size)."""
    found = []
    usual = profile.mean(dim=1) + 1e-4
    for size in BLOCKS:
        whole = profile.shape[1] // size * size
        phases = profile[:, :whole].unflatten(1, (-1, size)).mean(dim=1)
        found.append((phases.max(dim=1).values / usual).log())
    return found


def _whole(
    pixels: torch.Tensor,
    small: torch.Tensor,
    saturation: torch.Tensor,
    total: torch.Tensor,
    stray: torch.Tensor,
    prompts: Wanted,
    batch: int,
) -> torch.Tensor:
    """Time series of the whole picture: (batch, channels, frames).

    What needs every pixel of a frame is read from every second frame and stands for two.
    """
    size, frames = pixels.shape[-1], len(pixels) // batch
    light = pixels.mean(dim=1).unflatten(0, (batch, frames))
    fine = torch.stack(_texture(light[:, ::2].flatten(0, 1), pixels.unflatten(0, (batch, frames))[:, ::2]), dim=1)
    fine = fine.unflatten(0, (batch, -1)).transpose(1, 2).repeat_interleave(2, dim=2)[..., :frames]

    solid = total.flatten(0, 1)
    held = _mean(solid)
    per_image = [
        _mean(light.flatten(0, 1)) * 4 - 2,
        small.flatten(1).std(dim=1) * 8 - 1,
        held * 4,
        _mean(solid * (1 - solid)) / (held + 0.01) * 4,
        _mean(((saturation > 0.2) & (saturation < FAINT)).float()) * 8,
        _mean(((saturation > FAINT) & (saturation < 0.8)).float()) * 8,
        (saturation * solid).flatten(1).sum(dim=1) / (solid.flatten(1).sum(dim=1) + 1) - 0.5,
    ]
    rough = torch.stack(per_image, dim=1).unflatten(0, (batch, frames)).transpose(1, 2)

    steps = light[:, 1:] - light[:, :-1]
    bend = (steps[:, 1:] - steps[:, :-1]).abs().mean(dim=(2, 3))
    steps = steps.abs()
    still = (steps < 1 / 200).float().mean(dim=(2, 3))
    grid = small.unflatten(0, (batch, frames))
    timed = [
        _log(functional.pad(steps.mean(dim=(2, 3)), (1, 0), mode="replicate")),
        _log(functional.pad(bend, (2, 0), mode="replicate")),
        _log(_step(light.mean(dim=(2, 3))).abs()),
        functional.pad(still, (1, 0), mode="replicate") * 2 - 1,
        *_pan(grid, total, prompts),
        stray.sum(dim=(-2, -1)) / 16,
        _window_sums(stray).flatten(-2).max(dim=-1).values / 16,
    ]
    coarse = functional.avg_pool2d(small, 2).unflatten(0, (batch, frames)).flatten(2)
    constant = torch.stack(
        [
            _recurrence(coarse),
            torch.full((batch,), size / 64.0),
            torch.full((batch,), frames / 64.0),
            prompts.present.sum(dim=1) - 2.0,
        ],
        dim=1,
    )
    return torch.cat([fine, rough, torch.stack(timed, dim=1), constant[:, :, None].expand(-1, -1, frames)], dim=1)


def _texture(light: torch.Tensor, clips: torch.Tensor) -> list[torch.Tensor]:
    """Sharpness, noise and blocks of images; ``light`` (images, size, size), ``clips`` the same in colour."""
    rough = _laplacian(light)
    tint = _laplacian((clips[:, :, 0] - clips[:, :, 2]).flatten(0, 1))
    right, down = (light[:, :, 1:] - light[:, :, :-1]).abs(), (light[:, 1:] - light[:, :-1]).abs()
    patches = functional.avg_pool2d(rough[:, None], 8).flatten(1).sort(dim=1).values
    return [
        _log(_mean(rough)),
        _log(_mean(functional.max_pool2d(-rough[:, None], 4).neg())),
        _log(patches[:, :8].mean(dim=1)),
        _log(_mean(rough.square()).sqrt()),
        _log(rough.flatten(1).amax(dim=1)),
        _log(_mean(tint)),
        _log(_mean(functional.max_pool2d(-tint[:, None], 4).neg())),
        _log(_mean(right) + _mean(down)),
        _log(_mean((light[:, :, 2:] - light[:, :, :-2]).abs())),
        _log(_mean((light[:, :, 4:] - light[:, :, :-4]).abs())),
        _mean((right < 1 / 400).float()),
        *[(a + b) / 2 for a, b in zip(_blockiness(right.mean(dim=1)), _blockiness(down.mean(dim=2)), strict=True)],
    ]


def _pan(small: torch.Tensor, total: torch.Tensor, prompts: Wanted) -> list[torch.Tensor]:
    """How badly the background fits itself some frames before, moved as the prompt says, not, or otherwise.

    The background moves by one cell in ``PAN_LAG`` frames. Cells that objects cover do not count. Three series of
    (batch, frames): log of the misfit for the prompt's direction against that without motion, against the best of the
    other directions, and the misfit itself.
    """
    light = small.mean(dim=2)
    now, before = light[:, PAN_LAG:], light[:, :-PAN_LAG]
    free = (total < 0.1).float()
    free = (free[:, PAN_LAG:], free[:, :-PAN_LAG])
    misfits = []
    for dx, dy in [(0, 0), *((int(x), int(y)) for x, y in DIRECTIONS.values())]:
        moved, open_ = (torch.roll(item, (dy, dx), dims=(2, 3)) for item in (before, free[1]))
        valid = (free[0] * open_)[:, :, 1:-1, 1:-1]
        error = (now - moved)[:, :, 1:-1, 1:-1].abs() * valid
        misfits.append(error.sum(dim=(2, 3)) / (valid.sum(dim=(2, 3)) + 1))
    misfit = torch.stack(misfits, dim=1) + 2e-3  # (batch, 5, frames - lag)
    index = (1 + prompts.pan)[:, None, None].expand(-1, 1, misfit.shape[2])
    own = misfit.gather(1, index)[:, 0]
    others = misfit[:, 1:].scatter(1, index - 1, math.inf).min(dim=1).values
    series = [(own / misfit[:, 0]).log(), (own / others).log(), own.log() + 4]
    return [functional.pad(item, (PAN_LAG, 0), mode="replicate") for item in series]


def _pictures(small: torch.Tensor, total: torch.Tensor, batch: int) -> torch.Tensor:
    """Small pictures of the first, a middle and the last frame, and where objects hide it: (batch, 3, 4, 16, 16)."""
    frames = len(small) // batch
    chosen = torch.tensor([0, frames // 2, frames - 1])
    covered = total[:, chosen].flatten(0, 1)[:, None]
    shown = small.unflatten(0, (batch, frames))[:, chosen].flatten(0, 1)
    shown = torch.cat([(shown - 0.5) * (1 - covered) * 4, covered], dim=1)
    return functional.adaptive_avg_pool2d(shown, PICTURE).unflatten(0, (batch, 3))
