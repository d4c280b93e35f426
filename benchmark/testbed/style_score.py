"""How much of a style a clip shows, measured from its pixels, and the clip with that style taken away.

A clip in a style is a mixture, pixel by pixel, of the plain picture and the styled one (``benchmark/tuning/style.py``).
The share of the styled one is its strength: 0 for the world as it is, 1 for the world as the style draws it. Nothing of
the scene need be known, so that clips of a model can be read, too.

- **A texture**, such as ``hatched``: the lines stand still while the world moves. The clip's mean over time is split
  into its local mean, over one period of the lines, and the rest; the strength is the least-squares share of the known
  lines in the rest.
- **A palette**, such as ``dusk``: of the histograms of colours of the world drawn at 11 strengths, the one under which
  the clip's colours are likeliest, with a parabola through the nearest three. The histograms are those of 256 scenes
  whose pictures are softened as in the training of the testbed's judge, so that a generator's look is no style.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional

from benchmark.tuning.style import HATCH_PERIOD, PLAIN, hatching, mixed, names, unmixed

BINS = 12  # of each of red, green and blue
STRENGTHS = 11  # from 0 to 1
FLOOR = 0.02  # share of a histogram that is spread evenly, for colours that the drawn scenes do not hold
SCENES = 256
SCENE_SEED = 910_000_000  # beyond the seeds of experiments and of the judge's training
SIZE = 48  # pixels of the pictures that are drawn for the histograms
TEXTURES = ("hatched",)


@dataclass(frozen=True)
class Palettes:
    """Logarithms of the histograms of colours, by style: float32 (STRENGTHS, BINS^3)."""

    likelihood: Mapping[str, torch.Tensor]


def palettes() -> Palettes:
    """The histograms of all styles that are palettes; drawn in less than a second on one core, the same each time."""
    from benchmark.reward.train_judge import soften
    from benchmark.testbed.world import render_batch, sample_batch

    scenes = sample_batch(np.random.Generator(np.random.PCG64(SCENE_SEED)), SCENES)
    clips = soften(render_batch(scenes, 1, SIZE), torch.Generator().manual_seed(0))
    found = {}
    for style in names():
        if style == PLAIN or style in TEXTURES:
            continue
        drawn = [mixed(clips, style, n / (STRENGTHS - 1)) for n in range(STRENGTHS)]
        shares = torch.stack([_histogram(clip) for clip in drawn])
        found[style] = ((1 - FLOOR) * shares + FLOOR / BINS**3).log()
    return Palettes(found)


def strengths(clip: np.ndarray, held: Palettes) -> dict[str, float]:
    """How much of each style a clip shows.

    Args:
        clip: uint8 (frames, size, size, 3), of 32 pixels or more.
        held: what ``palettes`` returned.

    Returns:
        By style: 0 where the world looks as it is, 1 where it looks as the style draws it. A texture may come out
        somewhat below 0 or above 1, a palette may not.

    Raises:
        ValueError: frames that are not square, or too small.
    """
    _check(clip)
    pixels = torch.from_numpy(clip).movedim(-1, -3).float() / 255
    return {
        style: _of_lines(pixels) if style in TEXTURES else _of_colours(pixels, held.likelihood[style])
        for style in names()
        if style != PLAIN
    }


def without_style(clip: np.ndarray, found: Mapping[str, float]) -> np.ndarray:
    """A clip with its strongest style taken away as far as it is there.

    Args:
        clip: uint8 (frames, size, size, 3).
        found: strengths by style; below 0 counts as 0, above 1 as 1.

    Returns:
        A clip of the same type and shape.
    """
    from benchmark.testbed.world import to_uint8

    style = max(found, key=lambda name: found[name])
    strength = min(max(found[style], 0.0), 1.0)
    pixels = torch.from_numpy(clip).movedim(-1, -3).float() / 255
    return to_uint8(unmixed(pixels, style, strength)).numpy()


def _check(clip: np.ndarray) -> None:
    if clip.ndim != 4 or clip.shape[3] != 3 or clip.shape[1] != clip.shape[2] or clip.shape[1] < 32:
        raise ValueError(f"clip: shape {clip.shape}; needed is (frames, size >= 32, size, 3)")


def _histogram(pixels: torch.Tensor) -> torch.Tensor:
    """Shares of the colours of (..., 3, size, size) in [0, 1]: float32 (BINS^3,)."""
    place = (pixels.clamp(0, 1) * BINS).long().clamp(max=BINS - 1)
    red, green, blue = place.unbind(-3)
    counts = torch.bincount(((red * BINS + green) * BINS + blue).flatten(), minlength=BINS**3)
    return counts.float() / counts.sum()


def _of_colours(pixels: torch.Tensor, likelihood: torch.Tensor) -> float:
    """Strength of a palette in (frames, 3, size, size): of greatest likelihood."""
    found = (likelihood.double() @ _histogram(pixels).double()).tolist()
    best = min(max(int(np.argmax(found)), 1), STRENGTHS - 2)
    before, here, after = found[best - 1 : best + 2]
    bend = before - 2 * here + after
    # At the ends the middle of the three is not the highest: the parabola's top lies beyond them, or there is none.
    shift = 0.5 * (before - after) / bend if bend < 0 else (1.0 if after > before else -1.0)
    return min(max((best + min(max(shift, -1.0), 1.0)) / (STRENGTHS - 1), 0.0), 1.0)


def _of_lines(pixels: torch.Tensor) -> float:
    """Strength of the diagonal lines in (frames, 3, size, size)."""
    size = pixels.shape[-1]
    lines = hatching(size)
    mean = float(lines.mean())
    window = max(round(HATCH_PERIOD * size / 64), 2)
    before, after = window // 2, window - 1 - window // 2
    still = pixels.mean(dim=(0, 1))
    padded = functional.pad(still[None, None], (before, after, before, after), mode="reflect")
    local = functional.avg_pool2d(padded, window, stride=1)[0, 0]
    inside = slice(before, size - after)  # reflected lines would have another phase
    rest, local, wave = ((still - local)[inside, inside], local[inside, inside], (lines - mean)[inside, inside])
    slope = float((rest * wave).sum() / (local * wave.square()).sum().clamp(min=1e-9))
    # The local mean is darker than the plain picture by the mean of the lines.
    return slope / (1 - slope * (mean - 1))
