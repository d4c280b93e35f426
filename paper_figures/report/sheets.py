"""Clips for the page: all frames of a clip as one picture, of which a canvas shows any frame without a decoder's delay.

Frames stand in rows of ``COLUMNS``. Sheets are WebP without loss: the difference to dense is that of the pixels.
Clips larger than a testbed's are made smaller and the page says so.
"""

from __future__ import annotations

import logging
import math
import os
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


def write_sheet(clip: np.ndarray, path: Path) -> dict[str, Any]:
    """Writes a clip as a sheet, whole or not at all.

    Args:
        clip: uint8 (frames, height, width, 3).
        path: where to, ending in ``.webp``.

    Returns:
        ``frames``, ``width`` and ``height`` as shown, and ``reduced``: what was left out, in words, or empty.
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
    count, height, width, _ = shown.shape
    rows = math.ceil(count / COLUMNS)
    sheet = np.zeros((rows * COLUMNS, height, width, 3), np.uint8)
    sheet[:count] = shown
    sheet = sheet.reshape(rows, COLUMNS, height, width, 3).swapaxes(1, 2).reshape(rows * height, COLUMNS * width, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        Image.fromarray(sheet).save(part, format="WEBP", lossless=True, quality=50, method=4)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return {"frames": count, "width": width, "height": height, "reduced": ", ".join(words)}


def sheets(source: Experiment, cell: CellRows, folder: Path) -> list[dict[str, Any]]:
    """Writes a sheet for every clip that a cell's record names.

    A clip that is missing, damaged or another than the record's has no sheet, and the reason stands in its place.

    Args:
        folder: the sheets' folder; a sheet is ``<model>/<length>/<method>/<tuning>/<clip>.webp`` in it.

    Returns:
        A clip each: name, prompt, seed, sha256, its numbers, and either ``sheet`` with what ``write_sheet`` says of it
        or ``missing``.
    """
    if cell.failed("generate") is not None or not any(row["kind"] == "generate" for row in cell.rows):
        return []
    numbers: dict[str, dict[str, float]] = {}
    if any(row["kind"] == "measure" for row in cell.rows) and cell.failed("measure") is None:
        numbers = {clip["name"]: clip.get("values", {}) for clip in source.record(cell, "measure")["clips"]}
    clips = []
    for told in source.record(cell, "generate")["clips"]:
        clip = {key: told.get(key) for key in ("name", "prompt", "seed", "sha256")}
        clip["values"] = numbers.get(told["name"], {})
        place = Path(*cell.path) / f"{Path(told['name']).stem}.webp"
        try:
            clip |= write_sheet(read(source, cell, told), folder / place) | {"sheet": place.as_posix()}
        except ValueError as error:
            logger.warning("%s", error)
            clip["missing"] = str(error)
        clips.append(clip)
    return clips
