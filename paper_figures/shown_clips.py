"""Clips for figures: the experiment's own, lossless, or else the compressed ones that are committed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchmark.publish_records import CLIPS, INDEX
from paper_figures.experiment import CellRows, Experiment

NOT_COMMITTED = "this clip is not committed"
"""What stands where a clip would."""


def pictures(source: Experiment, cell: CellRows, number: int) -> np.ndarray | None:
    """A clip of a cell: uint8 (frames, height, width, 3).

    Args:
        number: place of the clip in the cell's record.

    Returns:
        The lossless clip if it is there, else the committed one, else None: most clips are not committed.

    Raises:
        ValueError: a clip is another than the record's, its cell has fewer clips, or it cannot be read.
    """
    from benchmark.clips import read_clip, sha256

    told = source.record(cell, "generate")["clips"]
    if number >= len(told):
        raise ValueError(f"{'/'.join(cell.path)}: clip {number} is asked for, its record names {len(told)}")
    name, expected = told[number]["name"], told[number]["sha256"]
    own = source.folder.joinpath(CLIPS, *cell.path, name)
    if own.exists():
        if sha256(own) != expected:
            raise ValueError(f"{own}: not the clip that its record names; generate it anew")
        return read_clip(own)
    index = source.folder / CLIPS / INDEX
    listed = json.loads(index.read_text()) if index.exists() else {}
    place = Path(*cell.path, name).with_suffix(".mp4").as_posix()
    if place not in listed:
        return None
    if listed[place]["sha256"] != expected:
        raise ValueError(f"{index}: {place} is not of the clip that its record names; publish the records anew")
    return decoded(source.folder / CLIPS / place)


def most_shown(source: Experiment, cells: Iterable[CellRows]) -> int:
    """The clip that most of some cells can show, since only a few are committed: its number, the first of several.

    Cells whose clips were not drawn show none.
    """
    drawn = [cell for cell in cells if cell.failed("generate") is None]
    count = min((cell.fact("clips") for cell in drawn), default=1)
    there = [sum(pictures(source, cell, number) is not None for cell in drawn) for number in range(count)]
    return there.index(max(there)) if there else 0


def decoded(path: Path) -> np.ndarray:
    """The frames of a compressed clip: uint8 (frames, height, width, 3).

    Raises:
        ValueError: the file is missing, or is no video.
    """
    import av

    try:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    except (OSError, av.error.FFmpegError) as error:
        raise ValueError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    if not frames:
        raise ValueError(f"{path}: it holds no frames")
    return np.stack(frames)
