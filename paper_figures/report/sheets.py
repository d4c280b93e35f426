"""Clips for the page: all frames of a clip as one picture, of which a canvas shows any frame without a decoder's delay.

Frames stand in rows of ``COLUMNS``. Sheets are WebP without loss: the difference to dense is that of the pixels.
Clips larger than a testbed's are made smaller and the page says so.

A sheet inside the page holds each frame but the first as its difference from the one before, modulo 256, which takes a
fifth less room; the page adds them up again and checks the sum of all bytes. A sheet in a file of its own holds the
frames as they are, for a page from the file system may show such a picture but not read its pixels.
"""

from __future__ import annotations

import io
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paper_figures.experiment import CellRows, Experiment
from paper_figures.strips import read

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)

COLUMNS = 8
_ORDINALS = {2: "nd", 3: "rd"}
LARGEST, MOST = 128, 128
"""Pixels along a frame's longer side, and frames of a clip, that a sheet holds at most."""
CLIPS = 3
"""Clips of a cell that the page shows."""


def fitted(clip: np.ndarray) -> tuple[np.ndarray, str]:
    """A clip as the page shows it.

    Args:
        clip: uint8 (frames, height, width, 3).

    Returns:
        uint8 (frames, height, width, 3), and what was left out, in words, or an empty string.
    """
    import numpy as np
    from PIL import Image

    count, height, width, _ = clip.shape
    every = math.ceil(count / MOST)
    shown = clip[::every]
    words = []
    if every > 1:
        words.append(f"every {every}{_ORDINALS.get(every, 'th')} frame")
    if max(height, width) > LARGEST:
        scale = LARGEST / max(height, width)
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        shown = np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX)) for frame in shown])
        words.append(f"{size[0]}x{size[1]} of {width}x{height} pixels")
    return shown, ", ".join(words)


def rounded(frames: np.ndarray, step: int) -> np.ndarray:
    """Frames in colours that are multiples of a number, the nearest ones: a third fewer bytes where it is 3.

    Args:
        frames: uint8 (frames, height, width, 3).
        step: an odd divisor of 255, so that white stays white; 1 changes nothing.
    """
    import numpy as np

    return frames if step == 1 else ((frames.astype(np.uint16) + step // 2) // step * step).astype(np.uint8)


def sheet_of(frames: np.ndarray, summed: bool) -> bytes:
    """Frames as one WebP picture without loss.

    Args:
        frames: uint8 (frames, height, width, 3).
        summed: whether each frame stands as its difference from the one before, modulo 256.
    """
    import numpy as np
    from PIL import Image

    if summed:
        frames = np.concatenate([frames[:1], frames[1:] - frames[:-1]])  # uint8 wraps around, and back when summed
    count, height, width, _ = frames.shape
    rows = math.ceil(count / COLUMNS)
    sheet = np.zeros((rows * COLUMNS, height, width, 3), np.uint8)
    sheet[:count] = frames
    sheet = sheet.reshape(rows, COLUMNS, height, width, 3).swapaxes(1, 2).reshape(rows * height, COLUMNS * width, 3)
    data = io.BytesIO()
    Image.fromarray(sheet).save(data, format="WEBP", lossless=True, quality=50, method=4)
    return data.getvalue()


def clips_of(source: Experiment, cell: CellRows) -> list[tuple[dict[str, Any], np.ndarray | None]]:
    """The first clips that a cell's record names, as the page shows them.

    A clip that is missing, damaged or another than the record's has no frames, and the reason stands in its place.

    Returns:
        A clip each: what the page says of it (name, prompt, seed, sha256, its numbers, ``frames``, ``width``,
        ``height`` and ``reduced``, or ``missing``), and its frames or None.
    """
    if cell.failed("generate") is not None or not any(row["kind"] == "generate" for row in cell.rows):
        return []
    numbers: dict[str, dict[str, float]] = {}
    if any(row["kind"] == "measure" for row in cell.rows) and cell.failed("measure") is None:
        numbers = {clip["name"]: clip.get("values", {}) for clip in source.record(cell, "measure")["clips"]}
    clips = []
    for number, told in enumerate(source.record(cell, "generate")["clips"][:CLIPS]):
        clip = {key: told.get(key) for key in ("name", "prompt", "seed", "sha256")}
        clip["values"] = numbers.get(told["name"], {})
        frames = None
        try:
            frames, reduced = fitted(read(source, cell, number))
            count, height, width, _ = frames.shape
            clip |= {"frames": count, "width": width, "height": height, "reduced": reduced}
        except ValueError as error:
            logger.warning("%s", error)
            clip["missing"] = str(error)
        clips.append((clip, frames))
    return clips


def place(cell: str, name: str) -> str:
    """Where a clip's sheet lies in the folder of sheets, where they are files."""
    return f"{cell}/{Path(name).stem}.webp"
