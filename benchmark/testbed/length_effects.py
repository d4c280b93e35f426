"""What goes wrong in clips that are longer than a model's training, each measured directly.

The procedural world is simple enough to know what must happen: the prompt's objects stay, each goes on at the speed it
has in the first frames and turns round at the walls, and nothing changes but by motion. Objects are found by colour, as
the adherence instrument finds them. A clip may put its objects elsewhere than the scene of its prompt, or move them in
another direction: what is expected of an object is told from its own first frames.

- **Persistence**: the share of frames in which each of the prompt's objects is there.
- **Trajectory error**: how far objects are from where their first frames send them.
- **Repetition**: how much nearer objects come back to where they were a number of frames before than the expected
  motion does, which has bounces, and so a period, of its own.
- **Flicker**: what changes in one frame only, and cannot have moved there.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from benchmark.testbed.adherence import AREAS, MIN_STEPS, NEAR, grow, segment
from benchmark.testbed.grammar import Description, ObjectDescription
from benchmark.testbed.world import COLOURS, DIRECTIONS, FREE_FRAMES, MAX_RADIUS, MIN_RADIUS, REACHES, SPEEDS, WORLD

LONGEST_HIDDEN = 16  # frames; an object that is not seen for longer is lost, even if another is in front of it
SNAP = 0.3  # world pixels per frame; a velocity this near to one of the world's counts as that one
WHOLE = (0.7, 1.4)  # an object is seen whole while its area is within these shares of its median
REACH = 8.0  # world pixels: two places this far apart are alike by exp(-1/2)
LEAST_PAIRS = 8  # frames that must be seen that number of frames apart, for a shift to count
SLACK = 2  # frames by which a period may be off
MOVED = 2  # pixels on each side from which a pixel's content may have come within a frame


@dataclasses.dataclass(frozen=True)
class Track:
    """One object of the prompt through a clip of T frames.

    ``there`` (T,) says whether it is seen, or hidden by another object; ``seen`` (T, 2) is its centre (x, y) in world
    pixels where it is seen whole, and not a number elsewhere; ``expected`` (T, 2) is where its first frames send it,
    None where they do not tell.
    """

    there: np.ndarray
    seen: np.ndarray
    expected: np.ndarray | None


def tracks(clip: np.ndarray, description: Description) -> list[Track]:
    """The prompt's objects through a clip: uint8 (frames, size, size, 3), RGB."""
    scale = clip.shape[1] / WORLD
    masks, copies = segment(clip, scale)
    near = np.stack([grow(mask, max(1, round(NEAR * scale))) if mask.any() else mask for mask in masks])
    names = list(COLOURS)
    found = []
    for wanted in description.objects:
        index = names.index(wanted.colour)
        others = np.delete(near, index, axis=0).any(axis=0)
        found.append(_track(masks[index], copies[index], others, wanted, scale))
    return found


def _track(mask: np.ndarray, copies: np.ndarray, others: np.ndarray, wanted: ObjectDescription, scale: float) -> Track:
    """One object: ``mask`` and ``others`` are (frames, size, size)."""
    area = mask.sum(axis=(1, 2)).astype(float)
    shown = area > 0
    pixel = np.arange(mask.shape[1]) + 0.5
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = np.stack([mask.sum(axis=1) @ pixel / area, mask.sum(axis=2) @ pixel / area], axis=1)
    whole = shown & (copies == 1) & ~(others & mask).any(axis=(1, 2))
    if whole.any():
        median = np.median(area[whole])
        whole &= (area >= WHOLE[0] * median) & (area <= WHOLE[1] * median)
    seen = np.where(whole[:, None], centre / scale, np.nan)
    there = shown | _hidden(shown, centre, others)
    first = np.flatnonzero(whole[: FREE_FRAMES + 1])
    if len(first) < MIN_STEPS:
        return Track(there, seen, None)
    radius = float(np.sqrt(np.median(area[whole]) / AREAS[wanted.shape])) / scale
    margin = REACHES[wanted.shape] * float(np.clip(radius, MIN_RADIUS - 1, MAX_RADIUS + 1))
    return Track(there, seen, _expected(first, seen[first], len(mask), margin))


def _hidden(shown: np.ndarray, centre: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Frames in which another object is where an object should be that is seen shortly before and after."""
    hidden = np.zeros_like(shown)
    frames = np.flatnonzero(shown)
    for before, after in zip(frames[:-1], frames[1:], strict=True):
        missing = np.arange(before + 1, after)
        if not 0 < len(missing) <= LONGEST_HIDDEN:
            continue
        share = ((missing - before) / (after - before))[:, None]
        column, row = ((1 - share) * centre[before] + share * centre[after]).astype(int).T
        hidden[missing] = others[missing, row, column]
    return hidden


def _expected(time: np.ndarray, places: np.ndarray, frames: int, margin: float) -> np.ndarray:
    """Motion at constant velocity that turns round at the walls, from places (n, 2) at frames ``time``: (frames, 2).

    A velocity near one of the world's is taken to be that one: nothing else tells it exactly enough for long clips.
    """
    centred = time - time.mean()
    velocity = centred @ places / (centred**2).sum()
    own = np.array([np.array(way) * speed for way in DIRECTIONS.values() for speed in SPEEDS.values()])
    nearest = own[np.linalg.norm(own - velocity, axis=1).argmin()]
    if np.linalg.norm(nearest - velocity) <= SNAP:
        velocity = nearest
    start = (places - velocity * time[:, None]).mean(axis=0)
    straight = start + velocity * np.arange(frames)[:, None]
    room = WORLD - 2 * margin
    turned = margin + room - np.abs(np.mod(straight - margin, 2 * room) - room)
    return np.where(velocity == 0, straight, turned)


def persistence(found: list[Track]) -> float:
    """Share of the frames in which each object is there, mean over objects."""
    return float(np.mean([track.there.mean() for track in found]))


def trajectory_error(found: list[Track]) -> float | None:
    """Mean distance in world pixels from where objects should be, over the frames that show them whole.

    Frames in which an object is lost do not count: ``persistence`` has them. None where no object's first frames tell
    where it goes.
    """
    errors = []
    for track in found:
        if track.expected is not None:
            errors.append(float(np.nanmean(np.linalg.norm(track.seen - track.expected, axis=1))))
    return float(np.mean(errors)) if errors else None


def repetition(found: list[Track]) -> tuple[float, int] | None:
    """How much more objects come back than they should, in [0, 1], and after how many frames.

    Two places a distance d apart are alike by exp(-d^2 / (2 REACH^2)). How far the mean likeness of places a number of
    frames apart rises again after it has fallen is compared with the same of the expected motion.

    Returns:
        None where no object's first frames tell where it goes, or too few frames show one.
    """
    judged = [track for track in found if track.expected is not None]
    if not judged:
        return None
    frames = len(judged[0].seen)
    likeness = np.zeros((2, len(judged), frames, frames))
    known = np.zeros((len(judged), frames, frames), dtype=bool)
    for number, track in enumerate(judged):
        visible = ~np.isnan(track.seen[:, 0])
        known[number] = visible[:, None] & visible
        for which, places in enumerate((np.nan_to_num(track.seen), track.expected)):
            distance = ((places[:, None] - places) ** 2).sum(axis=2)
            likeness[which, number] = np.exp(-distance / (2 * REACH**2))
    likeness *= known
    curves = []
    for shift in range(1, 3 * frames // 4):
        pairs = np.trace(known, offset=shift, axis1=1, axis2=2)
        sums = np.trace(likeness, offset=shift, axis1=2, axis2=3)
        kept = pairs >= LEAST_PAIRS
        curves.append((sums[:, kept] / pairs[kept]).mean(axis=1) if kept.any() else np.full(2, np.nan))
    curve = np.array(curves).reshape(-1, 2).T
    if curve.shape[1] == 0 or np.isnan(curve).all():
        return None
    curve = np.where(np.isnan(curve), np.inf, curve)
    lowest = np.minimum.accumulate(curve, axis=1)
    risen = np.where(np.isfinite(curve), curve - np.where(np.isfinite(lowest), lowest, 0), 0)
    padded = np.pad(risen[1], SLACK, mode="edge")
    allowed = np.lib.stride_tricks.sliding_window_view(padded, 2 * SLACK + 1).max(axis=1)
    excess = risen[0] - allowed
    # Multiples of a period are as good as the period itself: the first peak that comes near the highest is taken.
    at = int((excess >= 0.9 * excess.max()).argmax())
    while at + 1 < len(excess) and excess[at + 1] > excess[at]:
        at += 1
    return max(float(excess.max()), 0.0), at + 1


def flicker(clip: np.ndarray) -> float:
    """What changes in one frame only and cannot have moved there, in grey levels (0 to 255), mean over pixels.

    A pixel's value is explained by a neighbouring frame if it lies between the least and the greatest value that the
    frame has within ``MOVED`` pixels. What neither neighbour explains counts, by how far it lies outside. So a cut, a
    jump or an object that goes for good is no flicker: the next frame explains it.
    """
    from scipy import ndimage

    size = (1, 2 * MOVED + 1, 2 * MOVED + 1, 1)
    high = ndimage.maximum_filter(clip, size, mode="nearest").astype(np.int16)
    low = ndimage.minimum_filter(clip, size, mode="nearest").astype(np.int16)
    middle = clip[1:-1].astype(np.int16)
    outside = [np.maximum(np.maximum(middle - high[side], low[side] - middle), 0) for side in (np.s_[:-2], np.s_[2:])]
    return float(np.minimum(*outside).mean())
