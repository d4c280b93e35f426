"""The adherence instrument: what a clip of the procedural world shows, and how well that follows its prompt.

Objects are found by colour: the world's backgrounds are muted, its objects saturated. A frame is *clear* for an object
when no other object is near it; shapes are read from clear frames, by overlap with the four shapes drawn at the
object's centroid with the object's area. An object that is never clear is compared with shapes at many places and sizes
instead, over the pixels that no other object may hide. Directions are read from the first steps, before any bounce.
The instrument knows nothing of the prompt while it reads.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
import torch.nn.functional as functional

from benchmark.testbed.grammar import Description
from benchmark.testbed.world import (
    COLOURS,
    CROSS_ARM,
    CROSS_HALF,
    DIRECTIONS,
    FREE_FRAMES,
    SHAPES,
    SQUARE_HALF,
    TRIANGLE_CIRCUMRADIUS,
    WORLD,
    signed_distance,
)

MIN_CHROMA = 102  # of 255; between the backgrounds (up to 61) and the palette (from 160)
MIN_PRESENCE = 0.4  # an object is seen in at least this fraction of the frames
MIN_CORE = 9  # world pixels squared that survive an erosion by one pixel, so that blended rims are no objects
NEAR = 2  # world pixels; a closer object may hide a part
SHAPE_FRAMES = 12  # clear frames that vote on the shape, spread over the clip
HIDDEN_FRAMES = 4  # frames that vote if no frame is clear: those that show most of the object
HIDDEN_RADII = tuple(0.5 * half for half in range(13, 22))  # world pixels: 6.5 to 10.5, tried if no frame is clear
HIDDEN_SHIFT = 9  # world pixels that the centre may lie from the middle of the part that shows
MIN_OVERLAP = 0.6  # intersection over union under which a blob has no shape
MIN_STEPS = 3  # frames in which an edge must be seen to tell how fast it moves
MIN_SPEED = 0.35  # world pixels per frame under which nothing moves
MIN_STRAIGHTNESS = 1.5  # the axis of motion moves at least this many times as fast as the other one

# Area of each shape in units of its squared radius.
AREAS = {
    "circle": math.pi,
    "square": (2 * SQUARE_HALF) ** 2,
    "triangle": 0.75 * 3**0.5 * TRIANGLE_CIRCUMRADIUS**2,
    "cross": 8 * CROSS_HALF * CROSS_ARM - (2 * CROSS_ARM) ** 2,
}


@dataclasses.dataclass(frozen=True)
class SeenObject:
    """One colour seen in a clip. `shape` or `direction` is None where none can be told.

    `copies` is the number of separate objects of this colour, `presence` the fraction of frames that show it,
    `overlap` the mean intersection over union with the shape (0 to 1), `velocity` (x, y) in world pixels per frame.
    """

    colour: str
    shape: str | None
    direction: str | None
    copies: int
    presence: float
    overlap: float
    velocity: tuple[float, float] | None


@dataclasses.dataclass(frozen=True)
class Reading:
    """What the instrument read from one clip."""

    objects: tuple[SeenObject, ...]

    @property
    def count(self) -> int:
        """Objects seen in the clip, copies of a colour included."""
        return sum(item.copies for item in self.objects)


def read_clip(clip: np.ndarray) -> Reading:
    """Read the objects of one clip: uint8 (frames, size, size, 3), RGB, 2 frames or more of 32 pixels or more.

    Raises ValueError for another type or shape.
    """
    if clip.dtype != np.uint8:
        raise ValueError(f"clip: {clip.dtype} values; the instrument reads uint8 values from 0 to 255")
    square = clip.ndim == 4 and clip.shape[3] == 3 and clip.shape[1] == clip.shape[2]
    if not square or clip.shape[0] < 2 or clip.shape[1] < 32:
        raise ValueError(f"clip: shape {clip.shape}; needed is (frames >= 2, size >= 32, size, 3)")
    scale = clip.shape[1] / WORLD
    masks, copies = segment(clip, scale)
    presence = masks.any(axis=(2, 3))
    seen = [index for index in range(len(masks)) if presence[index].mean() >= MIN_PRESENCE]
    near = np.stack([grow(mask, max(1, round(NEAR * scale))) for mask in masks[seen]]) if seen else masks[:0]
    names = list(COLOURS)
    objects = []
    for rank, index in enumerate(seen):
        others = np.delete(near, rank, axis=0).any(axis=0)
        clear = presence[index] & ~(others & masks[index]).any(axis=(1, 2))
        shape, overlap = (
            _read_clear_shape(masks[index][clear])
            if clear.any()
            else _read_hidden_shape(masks[index], np.delete(masks[seen], rank, axis=0).any(axis=0), scale)
        )
        velocity = _read_velocity(masks[index], others, presence[index], scale)
        in_clear = copies[index][clear]
        objects.append(
            SeenObject(
                colour=names[index],
                shape=shape,
                direction=_direction(velocity),
                copies=int(np.median(in_clear)) if len(in_clear) else 1,
                presence=float(presence[index].mean()),
                overlap=overlap,
                velocity=velocity,
            )
        )
    return Reading(objects=tuple(objects))


def score(reading: Reading, description: Description) -> dict[str, float]:
    """How well a reading follows a prompt; every number is in [0, 1].

    `count` is 1 if the number of objects is the prompt's and 0 otherwise. `colours`, `shapes` and `directions` are the
    fractions of the prompt's objects that are seen in their colour, and in that colour with the right shape and the
    right direction. `adherence` is the mean of the four.
    """
    seen = {item.colour: item for item in reading.objects}
    wanted = description.objects
    found = [(item, seen[item.colour]) for item in wanted if item.colour in seen]
    scores = {
        "count": float(reading.count == len(wanted)),
        "colours": len(found) / len(wanted),
        "shapes": sum(item.shape == shown.shape for item, shown in found) / len(wanted),
        "directions": sum(item.direction == shown.direction for item, shown in found) / len(wanted),
    }
    return scores | {"adherence": sum(scores.values()) / len(scores)}


def segment(clip: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Masks of the palette's colours (colours, frames, size, size), and their separate parts (colours, frames).

    A saturated pixel belongs to the palette colour nearest in hue. Parts without a core are dropped.
    """
    from scipy import ndimage

    red, green, blue = (clip[..., channel] for channel in range(3))
    chroma = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    saturated = chroma >= MIN_CHROMA
    palette = np.array(list(COLOURS.values()), dtype=np.float32)
    hues = palette - palette.mean(axis=1, keepdims=True)
    hues /= np.linalg.norm(hues, axis=1, keepdims=True)
    nearest = np.full(clip.shape[:3], -1, dtype=np.int8)
    # Grey is orthogonal to every hue vector, so the pixels need no centring.
    nearest[saturated] = (clip[saturated].astype(np.float32) @ hues.T).argmax(axis=1)
    masks = nearest[None] == np.arange(len(palette), dtype=np.int8)[:, None, None, None]
    copies = np.zeros(masks.shape[:2], dtype=np.int64)
    # Parts are connected within a frame, never across frames.
    within_frame = np.zeros((3, 3, 3), dtype=bool)
    within_frame[1] = True
    for index, mask in enumerate(masks):
        if not mask.any():
            continue
        parts, number = ndimage.label(mask, structure=within_frame)
        cores = np.bincount(parts[_shrink(mask)], minlength=number + 1) >= MIN_CORE * scale**2
        cores[0] = False
        masks[index] = cores[parts]
        kept = np.flatnonzero(cores)
        frame_of = np.array([part[0].start for part in ndimage.find_objects(parts)], dtype=np.int64)
        copies[index] = np.bincount(frame_of[kept - 1], minlength=len(clip))
    return masks, copies


def grow(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Dilate every frame of a mask (frames, size, size) by a square of `pixels` on each side."""
    grown = mask.copy()
    for _ in range(pixels):
        wide = grown.copy()
        wide[:, 1:] |= grown[:, :-1]
        wide[:, :-1] |= grown[:, 1:]
        grown = wide.copy()
        grown[:, :, 1:] |= wide[:, :, :-1]
        grown[:, :, :-1] |= wide[:, :, 1:]
    return grown


def _shrink(mask: np.ndarray) -> np.ndarray:
    """Erode every frame of a mask (frames, size, size) by one pixel; outside the frame counts as filled."""
    return ~grow(~mask, 1)


def _read_clear_shape(mask: np.ndarray) -> tuple[str | None, float]:
    """The shape that overlaps best over clear frames (frames, size, size), and its mean overlap."""
    frames = np.unique(np.linspace(0, len(mask) - 1, SHAPE_FRAMES).round().astype(int))
    shown = torch.from_numpy(mask[frames])
    pixel = torch.arange(mask.shape[1], dtype=torch.float32) + 0.5
    area = shown.sum(dim=(1, 2), dtype=torch.float32)
    centre_x = (shown.sum(dim=1) * pixel).sum(dim=1) / area
    centre_y = (shown.sum(dim=2) * pixel).sum(dim=1) / area
    # All templates at once: the distance function's first axis is the shape, its second the frame.
    dx = (pixel - centre_x[:, None])[None, :, None, :].expand(len(SHAPES), -1, -1, -1)
    dy = (pixel - centre_y[:, None])[None, :, :, None].expand(len(SHAPES), -1, -1, -1)
    areas = torch.tensor([AREAS[name] for name in SHAPES])
    radius = (area / areas[:, None]).sqrt()[:, :, None, None]
    template = _cover(signed_distance(torch.arange(len(SHAPES)), dx, dy, radius))
    both = (template * shown).sum(dim=(2, 3))
    return _best_shape((both / (template.sum(dim=(2, 3)) + area - both)).mean(dim=1))


def _read_hidden_shape(mask: np.ndarray, others: np.ndarray, scale: float) -> tuple[str | None, float]:
    """The shape that overlaps best, over places and sizes, where no other object is; and its mean overlap.

    `mask` and `others` are (frames, size, size); pixels of the others and one pixel around them count as unknown.
    """
    area = mask.sum(axis=(1, 2))
    frames = [frame for frame in np.argsort(-area, kind="stable")[:HIDDEN_FRAMES] if area[frame]]
    half = math.ceil(max(HIDDEN_RADII) * TRIANGLE_CIRCUMRADIUS * scale)
    reach = half + math.ceil(HIDDEN_SHIFT * scale)
    known = ~grow(others[frames], 1)
    windows = []
    for shown, clean in zip(mask[frames], known, strict=True):
        rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
        # Beyond the frame's border everything is known, and empty: objects stay inside.
        top, left = (rows[0] + rows[-1]) // 2, (columns[0] + columns[-1]) // 2
        inside = np.s_[top : top + 2 * reach + 1, left : left + 2 * reach + 1]
        windows.append([np.pad(shown & clean, reach)[inside], np.pad(clean, reach, constant_values=True)[inside]])
    window = torch.from_numpy(np.array(windows, dtype=np.float32))
    pixel = torch.arange(-half, half + 1, dtype=torch.float32)
    sizes = len(HIDDEN_RADII)
    dx, dy = pixel.expand(len(SHAPES), sizes, 1, -1), pixel[:, None].expand(len(SHAPES), sizes, -1, 1)
    radius = (torch.tensor(HIDDEN_RADII) * scale)[None, :, None, None]
    templates = _cover(signed_distance(torch.arange(len(SHAPES)), dx, dy, radius)).flatten(0, 1)[:, None]
    matched = functional.conv2d(window.flatten(0, 1)[:, None], templates)
    both, template = matched.unflatten(0, (len(frames), 2)).unbind(dim=1)
    overlap = both / (template + window[:, 0].sum(dim=(1, 2))[:, None, None, None] - both)
    # The centre may differ from frame to frame; the radius may not.
    return _best_shape(overlap.amax(dim=(2, 3)).mean(dim=0).reshape(len(SHAPES), sizes).amax(dim=1))


def _cover(distance: torch.Tensor) -> torch.Tensor:
    """The part of a pixel that a shape covers, from the signed distance of its centre."""
    return (0.5 - distance).clamp(0.0, 1.0)


def _best_shape(overlap: torch.Tensor) -> tuple[str | None, float]:
    """The best shape's name, or None if even that overlaps too little, and its overlap."""
    best = int(overlap.argmax())
    return (SHAPES[best] if overlap[best] >= MIN_OVERLAP else None), float(overlap[best])


def _read_velocity(
    mask: np.ndarray, others: np.ndarray, present: np.ndarray, scale: float
) -> tuple[float, float] | None:
    """Velocity in world pixels per frame over the steps without bounces; None if it cannot be told.

    The four extreme rows and columns of the object are followed, each in the frames in which no other object is near
    it, so that a part that is being hidden does not pass for motion. If others are near both edges of an axis in nearly
    every frame, all frames count: the object may be in front of them.
    """
    frames = np.flatnonzero(present[: FREE_FRAMES + 1])
    axes = []
    for axis in (2, 1):
        filled = mask[frames].any(axis=3 - axis)
        blocked = (mask[frames] & others[frames]).any(axis=3 - axis)
        edges = (filled.argmax(axis=1), filled.shape[1] - 1 - filled[:, ::-1].argmax(axis=1))
        free = [~blocked[np.arange(len(frames)), edge] for edge in edges]
        if all(kept.sum() < MIN_STEPS for kept in free):
            free = [np.ones(len(frames), dtype=bool)] * 2
        kept_edges = [
            (frames[kept], edge[kept]) for edge, kept in zip(edges, free, strict=True) if kept.sum() >= MIN_STEPS
        ]
        if not kept_edges:
            return None
        weights = [len(time) for time, _ in kept_edges]
        axes.append(float(np.average([_slope(*edge) for edge in kept_edges], weights=weights)) / scale)
    return axes[0], axes[1]


def _slope(time: np.ndarray, position: np.ndarray) -> float:
    """Least-squares slope of a position over time."""
    centred = time - time.mean()
    return float((centred * position).sum() / (centred**2).sum())


def _direction(velocity: tuple[float, float] | None) -> str | None:
    """The direction word of a velocity; None for an object that stands still or moves aslant."""
    if velocity is None:
        return None
    fast, slow = max(map(abs, velocity)), min(map(abs, velocity))
    if fast < MIN_SPEED or fast < MIN_STRAIGHTNESS * slow:
        return None
    return max(DIRECTIONS, key=lambda name: DIRECTIONS[name][0] * velocity[0] + DIRECTIONS[name][1] * velocity[1])
