"""Ways to spoil a clip of the procedural world, each with a strength, for training and testing the testbed's judge.

A degradation takes scenes, their clean clips and strengths in [0, 1], and says which questions its clips deserve a "no"
for. Strength 0 leaves the clip as it is (but for ``wrong_*`` and the like, where it is the smallest share of the clip).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from types import MappingProxyType

import torch
import torch.nn.functional as functional

from benchmark.testbed.backgrounds import BACKGROUNDS
from benchmark.testbed.world import COLOURS, DIRECTIONS, MAX_OBJECTS, SHAPES, WORLD, SceneBatch, render_batch

Degrade = Callable[[SceneBatch, torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor]
# Of the frames that a degradation with a share of frames spoils, at strength 0 and at strength 1. Some frames always
# stay: a clip that is wrong throughout would have one flaw less, the change in its middle.
LEAST_SHARE, LARGEST_SHARE = 0.15, 0.85


@dataclasses.dataclass(frozen=True)
class Degradation:
    """One way to spoil a clip.

    Args:
        apply: ``apply(scenes, clips, strength, generator)``; clips float32 (batch, frames, 3, size, size) in [0, 1],
            strength (batch,) in [0, 1]; returns new clips.
        spoils: questions whose answer becomes no.
        unsure: questions whose answer is not known any more; they are left out of training on such a clip.
        trained: whether the judge is trained on it; the others only test it.
        least: how much of the flaw is there already at strength 0, from 0 to 1; 1 where one object is wrong altogether.
    """

    apply: Degrade
    spoils: tuple[str, ...]
    unsure: tuple[str, ...] = ()
    trained: bool = True
    least: float = 0.0


def blur_clips(clips: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Gaussian blur of every frame; ``sigma`` (batch,) in pixels."""
    reach = max(1, math.ceil(3 * float(sigma.max())))
    offset = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offset / sigma.clamp(min=0.05)[:, None]) ** 2)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    batch, frames, channels, height, width = clips.shape
    # Clips of a batch have kernels of their own, so they are the groups of one convolution.
    x = clips.permute(1, 2, 0, 3, 4).reshape(frames * channels, batch, height, width)
    x = functional.pad(x, (reach, reach, reach, reach), mode="replicate")
    x = functional.conv2d(x, kernel[:, None, None, :], groups=batch)
    x = functional.conv2d(x, kernel[:, None, :, None], groups=batch)
    return x.reshape(frames, channels, batch, height, width).permute(2, 0, 1, 3, 4)


def _each(values: torch.Tensor) -> torch.Tensor:
    """(batch,) as (batch, 1, 1, 1, 1)."""
    return values[:, None, None, None, None]


def _normal(like: torch.Tensor, generator: torch.Generator, shape: tuple[int, ...] | None = None) -> torch.Tensor:
    return torch.randn(like.shape if shape is None else shape, generator=generator)


def _last_frames(clips: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Which frames are spoilt, at the end of each clip: bool (batch, frames, 1, 1, 1)."""
    frames = clips.shape[1]
    share = LEAST_SHARE + (LARGEST_SHARE - LEAST_SHARE) * strength
    spoilt = torch.ceil(share * frames)
    return (torch.arange(frames)[None] >= (frames - spoilt)[:, None])[:, :, None, None, None]


def _draw(scenes: SceneBatch, clips: torch.Tensor) -> torch.Tensor:
    return render_batch(scenes, clips.shape[1], clips.shape[-1])


def _front(scenes: SceneBatch, generator: torch.Generator) -> torch.Tensor:
    """One of the present objects of each scene, as a bool (batch, objects)."""
    count = scenes.present.sum(dim=1)
    chosen = (torch.rand(len(scenes), generator=generator) * count).long()
    return torch.arange(MAX_OBJECTS)[None] == chosen[:, None]


def _others(values: torch.Tensor, options: int, chosen: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Indices with another one of ``options`` where ``chosen``."""
    shift = 1 + (torch.rand(values.shape, generator=generator) * (options - 1)).long()
    return torch.where(chosen, (values + shift) % options, values)


def _some(scenes: SceneBatch, strength: torch.Tensor) -> torch.Tensor:
    """The first objects, one at the least and all at strength 1: bool (batch, objects)."""
    count = torch.ceil(strength * scenes.present.sum(dim=1)).clamp(min=1)
    return torch.arange(MAX_OBJECTS)[None] < count[:, None]


def _free_colour(scenes: SceneBatch, chosen: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Colours in which the chosen object has one that no object of its scene has."""
    order = torch.rand(len(scenes), len(COLOURS), generator=generator)
    order.scatter_(1, scenes.colour, -1.0)
    return torch.where(chosen, order.argmax(dim=1)[:, None], scenes.colour)


def _blur(scenes, clips, strength, generator):
    return blur_clips(clips, (0.3 + 2.4 * strength) * clips.shape[-1] / WORLD * (strength > 0))


def _noise(scenes, clips, strength, generator):
    return clips + _each(0.2 * strength) * _normal(clips, generator)


def _flicker(scenes, clips, strength, generator):
    gain = _normal(clips, generator, (*clips.shape[:2], 1, 1, 1)).clamp(-2, 2)
    return clips * (1 + _each(0.3 * strength) * gain)


def _frozen(scenes, clips, strength, generator):
    frames = clips.shape[1]
    last = ((frames - 1) * (1 - strength)).long()
    index = torch.minimum(torch.arange(frames)[None], last[:, None])
    return clips[torch.arange(len(clips))[:, None], index]


def _vanish(scenes, clips, strength, generator):
    chosen = _front(scenes, generator)
    without = _draw(dataclasses.replace(scenes, present=scenes.present & ~chosen), clips)
    frames = clips.shape[1]
    hidden = torch.ceil((0.05 + 0.9 * strength) * frames) * (strength > 0)
    start = (torch.rand(len(clips), generator=generator) * (frames - hidden + 1)).floor()
    time = torch.arange(frames)[None]
    gone = (time >= start[:, None]) & (time < (start + hidden)[:, None])
    return torch.where(gone[:, :, None, None, None], without, clips)


def _fade(scenes, clips, strength, generator):
    without = _draw(dataclasses.replace(scenes, present=scenes.present & ~_front(scenes, generator)), clips)
    ramp = torch.linspace(0, 1, clips.shape[1])[None] * (1.2 * strength)[:, None]
    return torch.lerp(clips, without, ramp.clamp(max=1)[:, :, None, None, None])


def _duplicate(scenes, clips, strength, generator):
    chosen = _front(scenes, generator)
    moved = {}
    for name in ("x", "y"):
        # The copy starts a quarter to three quarters of the frame away.
        shift = WORLD * (0.3 + 0.4 * torch.rand(len(clips), 1, generator=generator))
        moved[name] = 12 + torch.remainder(getattr(scenes, name) + shift - 12, WORLD - 24)
    alone = dataclasses.replace(scenes, present=chosen, **moved)
    copy, background = (_draw(item, clips) for item in (alone, dataclasses.replace(alone, present=chosen & False)))
    covered = ((copy - background).abs().amax(dim=2, keepdim=True) > 1 / 64) & _last_frames(clips, strength)
    return torch.where(covered, copy, clips)


def _wrong_colour(scenes, clips, strength, generator):
    colour = _free_colour(scenes, _front(scenes, generator), generator)
    return torch.where(_last_frames(clips, strength), _draw(dataclasses.replace(scenes, colour=colour), clips), clips)


def _swapped_colours(scenes, clips, strength, generator):
    """Two objects take each other's colour; a single object takes another one."""
    count = scenes.present.sum(dim=1, keepdim=True)
    swapped = torch.where(count > 1, scenes.colour[:, [1, 0, 2]], (scenes.colour + 1) % len(COLOURS))
    return torch.where(_last_frames(clips, strength), _draw(dataclasses.replace(scenes, colour=swapped), clips), clips)


def _wrong_shape(scenes, clips, strength, generator):
    shape = _others(scenes.shape, len(SHAPES), _front(scenes, generator), generator)
    return torch.where(_last_frames(clips, strength), _draw(dataclasses.replace(scenes, shape=shape), clips), clips)


def _wrong_direction(scenes, clips, strength, generator):
    direction = _others(scenes.direction, len(DIRECTIONS), _some(scenes, strength), generator)
    return _draw(dataclasses.replace(scenes, direction=direction), clips)


def _reversed(scenes, clips, strength, generator):
    """Time runs backwards, for all objects and the background; the strength changes nothing."""
    return clips.flip(1)


def _wrong_speed(scenes, clips, strength, generator):
    speed = torch.where(_some(scenes, strength), 1 - scenes.speed, scenes.speed)
    return _draw(dataclasses.replace(scenes, speed=speed), clips)


def _wrong_pan(scenes, clips, strength, generator):
    pan = _others(scenes.pan, len(DIRECTIONS), torch.ones(len(scenes), dtype=torch.bool), generator)
    return torch.where(_last_frames(clips, strength), _draw(dataclasses.replace(scenes, pan=pan), clips), clips)


def _wrong_background(scenes, clips, strength, generator):
    every = torch.ones(len(scenes), dtype=torch.bool)
    background = _others(scenes.background, len(BACKGROUNDS), every, generator)
    other = _draw(dataclasses.replace(scenes, background=background), clips)
    return torch.where(_last_frames(clips, strength), other, clips)


def _missing(scenes, clips, strength, generator):
    """Objects that are never there, one at the least and all at strength 1."""
    return _draw(dataclasses.replace(scenes, present=scenes.present & ~_some(scenes, strength)), clips)


def _slow(scenes, clips, strength, generator):
    """Objects run late, and stand still at strength 1, while the background moves as it should."""
    background = _draw(dataclasses.replace(scenes, present=scenes.present & False), clips)
    index = torch.round(torch.arange(clips.shape[1])[None] * (1 - strength)[:, None]).long()
    row = torch.arange(len(clips))[:, None]
    covered = ((clips - background).abs().amax(dim=2, keepdim=True) > 1 / 64)[row, index]
    return torch.where(covered, clips[row, index], background)


def _ruin(scenes, clips, strength, generator):
    """The clip gives way to a small pattern that is repeated over the frame, with noise of its own."""
    batch, frames, _, size, _ = clips.shape
    cell = 4 + int(torch.randint(5, (1,), generator=generator))
    tile = 0.5 + 0.12 * _normal(clips, generator, (batch, 1, 3, cell, cell))
    pattern = tile.repeat(1, 1, 1, -(-size // cell), -(-size // cell))[..., :size, :size]
    pattern = pattern + 0.06 * _normal(clips, generator)
    share = _each((0.1 + 0.9 * strength) * (strength > 0))
    return torch.lerp(clips, pattern, share.expand_as(clips))


def _loop(scenes, clips, strength, generator):
    frames = clips.shape[1]
    period = torch.round(frames * (0.8 - 0.55 * strength)).long().clamp(min=3)
    index = torch.remainder(torch.arange(frames)[None], period[:, None])
    return clips[torch.arange(len(clips))[:, None], index]


def shift_clips(clips: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Frames moved by ``shift`` (batch, frames, 2) as x, y in pixels; borders are repeated."""
    batch, frames, channels, height, width = clips.shape
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    x = (x - shift[..., 0, None, None]) * (2 / width) - 1
    y = (y - shift[..., 1, None, None]) * (2 / height) - 1
    grid = torch.stack([x, y], dim=-1).reshape(batch * frames, height, width, 2)
    moved = functional.grid_sample(clips.flatten(0, 1), grid, padding_mode="border", align_corners=False)
    return moved.reshape(clips.shape)


def _jitter(scenes, clips, strength, generator):
    shift = _normal(clips, generator, (*clips.shape[:2], 2)).clamp(-2, 2)
    return shift_clips(clips, shift * (2.5 * strength * clips.shape[-1] / WORLD)[:, None, None])


def _shuffle(scenes, clips, strength, generator):
    """Frames change places with near ones."""
    frames = clips.shape[1]
    key = torch.arange(frames)[None] + (1 + 5 * strength)[:, None] * torch.rand(clips.shape[:2], generator=generator)
    return clips[torch.arange(len(clips))[:, None], key.argsort(dim=1)]


def _stutter(scenes, clips, strength, generator):
    """Only every n-th frame is new."""
    step = (1 + torch.round(1 + 4 * strength)).long()
    index = torch.arange(clips.shape[1])[None] // step[:, None] * step[:, None]
    return clips[torch.arange(len(clips))[:, None], index]


def _pixelate(scenes, clips, strength, generator):
    size, out = clips.shape[-1], []
    for clip, amount in zip(clips, strength.tolist(), strict=True):
        cells = max(8, round(size / (1 + 4 * amount)))
        out.append(functional.interpolate(functional.adaptive_avg_pool2d(clip, cells), size=(size, size)))
    return torch.stack(out)


def _ghost(scenes, clips, strength, generator):
    frames, lag = clips.shape[1], 4
    late = clips[:, (torch.arange(frames) - lag).clamp(min=0)]
    return torch.lerp(clips, late, _each(0.1 + 0.4 * strength).expand_as(clips))


def _motion_blur(scenes, clips, strength, generator):
    """Mean of 2 to 8 frames before."""
    frames, out = clips.shape[1], []
    for clip, amount in zip(clips, strength.tolist(), strict=True):
        lags = torch.arange(2 + round(6 * amount))
        out.append(clip[(torch.arange(frames)[:, None] - lags).clamp(min=0)].mean(dim=1))
    return torch.stack(out)


def _speckle(scenes, clips, strength, generator):
    """Single pixels turn black or white."""
    chance = torch.rand((*clips.shape[:2], 1, *clips.shape[3:]), generator=generator)
    share = _each(0.15 * strength)
    return torch.where(chance < share, (chance < share / 2).float(), clips)


def _dct(size: int = 8) -> torch.Tensor:
    """The matrix of the discrete cosine transform, orthonormal."""
    k, n = torch.arange(size)[:, None], torch.arange(size)[None] + 0.5
    matrix = torch.cos(torch.pi * k * n / size) * (2 / size) ** 0.5
    matrix[0] /= 2**0.5
    return matrix


def _blocks(scenes, clips, strength, generator):
    """Coefficients of 8x8 cosine transforms rounded coarsely, as in strong JPEG compression."""
    basis = _dct()
    batch, frames, channels, height, width = clips.shape
    tiles = clips.unflatten(4, (width // 8, 8)).unflatten(3, (height // 8, 8))
    found = torch.einsum("ij,btcyjxk,lk->btcyixl", basis, tiles, basis)
    frequency = (torch.arange(8)[:, None, None] + torch.arange(8)).float()
    step = (strength * 0.25)[:, None, None, None, None, None, None] * (1 + frequency) + 1e-4
    coarse = torch.round(found / step) * step
    back = torch.einsum("ij,btcyixl,lk->btcyjxk", basis, coarse, basis)
    return back.reshape(clips.shape)


def _desaturate(scenes, clips, strength, generator):
    return torch.lerp(clips, clips.mean(dim=2, keepdim=True).expand_as(clips), _each(0.65 * strength).expand_as(clips))


_TOUCHES_OBJECTS = ("count", "colours", "shapes", "directions", "speeds", "stay")
_TOUCHES_MOTION = ("directions", "speeds", "pan", "smooth", "moving", "no_repeat")

DEGRADATIONS = MappingProxyType(
    {
        "blur": Degradation(_blur, ("sharp",), ("shapes",)),
        "noise": Degradation(_noise, ("no_noise",), ("sharp", "no_blocks", "no_ghosts")),
        "flicker": Degradation(_flicker, ("no_flicker",), ("colours", "stay", "background")),
        "frozen": Degradation(_frozen, ("moving",), ("no_repeat", "directions", "speeds", "pan", "smooth")),
        "vanish": Degradation(_vanish, ("stay",), _TOUCHES_OBJECTS + ("smooth",)),
        "duplicate": Degradation(_duplicate, ("count",), _TOUCHES_OBJECTS + ("smooth",), least=LEAST_SHARE),
        "wrong_colour": Degradation(_wrong_colour, ("colours",), _TOUCHES_OBJECTS, least=LEAST_SHARE),
        "wrong_shape": Degradation(_wrong_shape, ("shapes",), ("smooth",), least=LEAST_SHARE),
        "wrong_direction": Degradation(_wrong_direction, ("directions",), ("speeds",), least=1.0),
        "wrong_speed": Degradation(_wrong_speed, ("speeds",), least=1.0),
        "wrong_pan": Degradation(_wrong_pan, ("pan",), ("smooth",), least=LEAST_SHARE),
        "wrong_background": Degradation(_wrong_background, ("background",), ("smooth", "pan"), least=LEAST_SHARE),
        "loop": Degradation(_loop, ("no_repeat",), (*_TOUCHES_MOTION, "stay")),
        "jitter": Degradation(_jitter, ("smooth",), ("sharp", "pan", "speeds", "directions")),
        "pixelate": Degradation(_pixelate, ("no_blocks",), ("sharp", "shapes", "colours")),
        "ghost": Degradation(_ghost, ("no_ghosts",), ("sharp", "smooth", "speeds", *_TOUCHES_OBJECTS)),
        "missing": Degradation(_missing, ("colours", "shapes", "directions", "speeds", "stay"), ("count",), least=1.0),
        "slow": Degradation(_slow, ("speeds",), ("directions", "moving", "no_repeat", "smooth")),
        "ruin": Degradation(
            _ruin,
            (
                "sharp",
                "no_noise",
                "no_blocks",
                "colours",
                "shapes",
                "directions",
                "speeds",
                "background",
                "pan",
                "stay",
            ),
            ("count", "no_ghosts", "moving", "smooth", "no_repeat"),
        ),
        "blocks": Degradation(_blocks, ("no_blocks",), trained=False),
        "speckle": Degradation(_speckle, ("no_noise",), ("sharp", "no_blocks", "no_ghosts")),
        "stutter": Degradation(_stutter, ("smooth",), ("moving", "speeds", "pan", "directions"), least=0.3),
        "shuffle": Degradation(_shuffle, ("smooth",), ("speeds", "pan", "directions", "no_repeat"), least=0.3),
        "motion_blur": Degradation(_motion_blur, ("no_ghosts",), trained=False),
        "fade": Degradation(_fade, ("stay",), trained=False),
        "swapped_colours": Degradation(_swapped_colours, ("colours",), trained=False),
        "desaturate": Degradation(_desaturate, ("colours",), trained=False),
        "reversed": Degradation(_reversed, ("directions",), trained=False),
    }
)
UNGRADED = ("reversed",)  # their strength changes nothing
BY_NUMBER = ("wrong_direction", "wrong_speed", "missing")  # their strength is a share of at most three objects


def names(trained: bool | None = None) -> list[str]:
    """The names of all degradations, or of those that the judge is trained on (or is not)."""
    return [name for name, item in DEGRADATIONS.items() if trained is None or item.trained == trained]


def degrade(
    name: str, scenes: SceneBatch, clips: torch.Tensor, strength: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Spoilt copies of clips.

    Args:
        name: one of ``DEGRADATIONS``.
        scenes: the scenes of the clips, on the CPU.
        clips: float32 (batch, frames, 3, size, size) in [0, 1], clean.
        strength: (batch,) in [0, 1].
        generator: draws what is random.

    Returns:
        float32 of the same shape, in [0, 1].

    Raises:
        ValueError: a name or a strength that does not exist.
    """
    if name not in DEGRADATIONS:
        raise ValueError(f"degradation {name!r} does not exist; allowed: {', '.join(DEGRADATIONS)}")
    if not bool(((strength >= 0) & (strength <= 1)).all()):
        raise ValueError(f"degradation {name}: strength {strength.tolist()}; 0 to 1 is allowed")
    return DEGRADATIONS[name].apply(scenes, clips, strength, generator).clamp(0, 1)
