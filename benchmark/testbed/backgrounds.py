"""The backgrounds of the procedural world: muted, seamless tiles of textures and of photographs.

A tile is 2 x 2 frames wide, in 256 x 256 texels, and repeats without a seam in both directions. All tiles are kept
greyish and of middle brightness (chroma at most `MAX_CHROMA`), so that the saturated objects stand out from them and
can be told apart by colour alone. The photographs ship inside the scikit-image package; nothing is downloaded.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import numpy as np
import torch

TILE = 256  # texels along a side of a tile
TILE_FRAMES = 2  # frame widths that a tile spans
DARKEST, BRIGHTEST = 0.22, 0.78
MAX_CHROMA = 0.24  # largest minus smallest of R, G, B

# Name of the background in the world -> (file in scikit-image's data folder, crop left, top, side in pixels).
PHOTOGRAPHS = {
    "cat": ("chelsea.png", 85, 0, 300),
    "astronaut": ("astronaut.png", 30, 0, 400),
    "coffee": ("coffee.png", 110, 5, 390),
    "motorcycle": ("motorcycle_left.png", 130, 30, 470),
}
TEXTURES = ("waves", "checks", "stripes", "clouds")
BACKGROUNDS = (*TEXTURES, *PHOTOGRAPHS)


def _plane() -> tuple[np.ndarray, np.ndarray]:
    """x and y of every texel in turns of the tile, each (TILE, TILE) in [0, 1)."""
    axis = (np.arange(TILE) + 0.5) / TILE
    return np.meshgrid(axis, axis, indexing="xy")


def _tint(level: np.ndarray, dark: tuple[float, ...], bright: tuple[float, ...]) -> np.ndarray:
    """Blend two colours by `level` (TILE, TILE) in [0, 1]; returns (3, TILE, TILE)."""
    low, high = np.array(dark)[:, None, None], np.array(bright)[:, None, None]
    return low + (high - low) * np.clip(level, 0.0, 1.0)


def _soft_edge(wave: np.ndarray, sharpness: float) -> np.ndarray:
    """A sine-like `wave` in [-1, 1] turned into bands with soft edges, in [0, 1]."""
    return 0.5 + 0.5 * np.tanh(sharpness * wave)


def _waves() -> np.ndarray:
    x, y = _plane()
    turn = 2 * np.pi
    crest = np.sin(turn * (8 * y + 0.45 * np.sin(turn * 4 * x) + 0.2 * np.sin(turn * (2 * x + 2 * y))))
    return _tint(0.5 + 0.5 * crest, (0.32, 0.38, 0.46), (0.60, 0.66, 0.72))


def _checks() -> np.ndarray:
    x, y = _plane()
    wave = np.sin(2 * np.pi * 4 * x) * np.sin(2 * np.pi * 4 * y)
    return _tint(_soft_edge(wave, 9.0), (0.38, 0.36, 0.34), (0.68, 0.65, 0.60))


def _stripes() -> np.ndarray:
    x, y = _plane()
    return _tint(_soft_edge(np.sin(2 * np.pi * 8 * (x + y)), 3.0), (0.36, 0.42, 0.38), (0.62, 0.66, 0.60))


def _clouds() -> np.ndarray:
    # A sum of waves of whole numbers of turns repeats without a seam; amplitude ~ 1 / frequency looks like clouds.
    x, y = _plane()
    generator = np.random.Generator(np.random.PCG64(7))
    level = np.zeros_like(x)
    for turns_x in range(-9, 10):
        for turns_y in range(10):
            frequency = np.hypot(turns_x, turns_y)
            phase = 2 * np.pi * generator.random()
            if 0 < frequency <= 9:
                level += frequency**-1.6 * np.cos(2 * np.pi * (turns_x * x + turns_y * y) + phase)
    return _tint(0.5 + 0.22 * level / level.std(), (0.36, 0.37, 0.44), (0.74, 0.73, 0.72))


def _photograph(name: str) -> np.ndarray:
    """One muted photograph, mirrored in both directions: (3, TILE, TILE)."""
    from PIL import Image

    file, left, top, side = PHOTOGRAPHS[name]
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        raise ValueError(f"background '{name}': its photograph {file} ships with scikit-image, which is not installed")
    path = Path(package.origin).parent / "data" / file
    if not path.is_file():
        raise ValueError(f"background '{name}': no file {path}; it ships with scikit-image 0.26")
    texels = TILE // TILE_FRAMES
    image = Image.open(path).convert("RGB").crop((left, top, left + side, top + side))
    pixels = np.asarray(image.resize((texels, texels), Image.Resampling.LANCZOS), dtype=np.float64) / 255.0
    grey = pixels.mean(axis=-1, keepdims=True)
    # Stretch the photograph's own range over the allowed one, and keep a trace of its colours.
    low, high = np.quantile(grey, (0.02, 0.98))
    level = np.clip((grey - low) / (high - low), 0.0, 1.0)
    muted = DARKEST + (BRIGHTEST - DARKEST) * level + 0.30 * (pixels - grey)
    photo = muted.transpose(2, 0, 1)
    photo = np.concatenate([photo, photo[:, :, ::-1]], axis=2)
    return np.concatenate([photo, photo[:, ::-1, :]], axis=1)


def _mute(tile: np.ndarray) -> np.ndarray:
    """Limit chroma to `MAX_CHROMA` and brightness to [DARKEST, BRIGHTEST]; (3, TILE, TILE) in and out."""
    grey = tile.mean(axis=0, keepdims=True)
    chroma = tile.max(axis=0, keepdims=True) - tile.min(axis=0, keepdims=True)
    tile = grey + (tile - grey) * np.minimum(1.0, MAX_CHROMA / np.maximum(chroma, 1e-6))
    return np.clip(tile, DARKEST, BRIGHTEST)


@functools.lru_cache(maxsize=8)
def background_tiles(device: str = "cpu") -> torch.Tensor:
    """All tiles in the order of `BACKGROUNDS`: float32 (backgrounds, 3, TILE, TILE) in [0, 1] on `device`.

    Made once per process and device; treat the tensor as read-only.
    """
    drawn = {"waves": _waves, "checks": _checks, "stripes": _stripes, "clouds": _clouds}
    tiles = [_mute(drawn[name]() if name in drawn else _photograph(name)) for name in BACKGROUNDS]
    return torch.from_numpy(np.stack(tiles).astype(np.float32)).to(device)
