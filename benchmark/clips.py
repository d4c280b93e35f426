"""Clips on disk: written without loss, read back bit for bit, and refused when damaged.

A clip is a ``uint8`` array of shape (frames, height, width, 3), RGB, values 0 to 255. It is stored as H.264 in RGB
(``libx264rgb`` at qp 0) inside Matroska. The file also carries its number of frames and the SHA-256 of its pixels, so
that a file that was cut short or whose pixels changed is told apart from a good one.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from av.container import InputContainer

CLIP_SUFFIX = ".mkv"
READABLE_SUFFIXES = (".mkv", ".mp4", ".webm", ".mov", ".avi", ".m4v", ".npy")

_COUNT_TAG = "FRAME_COUNT"
_PIXELS_TAG = "PIXELS_SHA256"


def check_frames(frames: np.ndarray, name: str = "clip") -> None:
    """Refuse an array that is not a clip.

    Args:
        frames: what should be ``uint8`` of shape (frames, height, width, 3), each size at least 1.
        name: how the message calls the clip.

    Raises:
        ValueError: another type or shape.
    """
    if not isinstance(frames, np.ndarray):
        raise ValueError(f"{name}: a numpy array is needed, not {type(frames).__name__}")
    if frames.dtype != np.uint8:
        raise ValueError(f"{name}: pixels are {frames.dtype}; uint8 from 0 to 255 is needed")
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"{name}: shape {frames.shape}; (frames, height, width, 3) with every size above 0 is needed")


def write_clip(path: str | os.PathLike[str], frames: np.ndarray, fps: int | float | Fraction = 8) -> Path:
    """Store a clip without loss; the same frames give the same bytes.

    The file appears under its name only when whole: it is written beside it and renamed.

    Args:
        path: where to, ending in ``.mkv``; the folder is made when missing.
        frames: ``uint8`` (frames, height, width, 3); odd heights and widths are fine.
        fps: frames a second, above 0.

    Returns:
        The path written.

    Raises:
        ValueError: frames that are no clip, another suffix, or a rate that is not above 0.
    """
    import av
    from av.codec.context import Flags

    path = Path(path)
    check_frames(frames, str(path))
    if path.suffix != CLIP_SUFFIX:
        raise ValueError(f"{path}: clips are written as {CLIP_SUFFIX} files, not {path.suffix or 'without a suffix'!r}")
    if not isinstance(fps, (int, float, Fraction)) or not 0 < fps < float("inf"):
        raise ValueError(f"{path}: fps={fps!r}; a number above 0 is needed")
    rate = Fraction(fps).limit_denominator(1001)

    frames = np.ascontiguousarray(frames)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{CLIP_SUFFIX}")
    try:
        # Without "bitexact" the container gets a random identifier and the library's version.
        with av.open(str(temporary), "w", format="matroska", options={"fflags": "+bitexact"}) as container:
            container.metadata[_COUNT_TAG] = str(len(frames))
            container.metadata[_PIXELS_TAG] = hashlib.sha256(frames).hexdigest()
            stream = container.add_stream("libx264rgb", rate=rate, options={"qp": "0", "preset": "fast"})
            stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "rgb24"
            # The number of threads changes the encoder's choices, and so the bytes.
            stream.codec_context.thread_count = 1
            stream.codec_context.flags |= Flags.bitexact
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def read_clip(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a whole clip.

    Args:
        path: a video that FFmpeg can decode, or an ``.npy`` array. Videos in YUV are turned to RGB by FFmpeg.

    Returns:
        ``uint8`` (frames, height, width, 3).

    Raises:
        ValueError: no such file, no video in it, or a file that is cut short or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such clip")
    return _read_array(path) if path.suffix == ".npy" else _read_video(path)


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits.

    Raises:
        ValueError: no such file.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_array(path: Path) -> np.ndarray:
    try:
        frames = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path}: cut short or damaged, cannot be read as an array") from error
    check_frames(frames, str(path))
    return frames


def _read_video(path: Path) -> np.ndarray:
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path}: holds no video")
            frames, end = _decode(container)
            count, pixels = container.metadata.get(_COUNT_TAG), container.metadata.get(_PIXELS_TAG)
            stream = container.streams.video[0]
            announced = int(count) if count and count.isdecimal() else stream.frames
            _check_whole(path, len(frames), announced, end, _seconds(stream.metadata.get("DURATION")))
    except av.error.FFmpegError as error:
        raise ValueError(f"{path}: cut short or damaged, cannot be decoded ({error.strerror})") from error

    if len({frame.shape for frame in frames}) != 1:
        raise ValueError(f"{path}: its frames differ in size; one size is needed")
    clip = np.stack(frames)
    if pixels and hashlib.sha256(clip).hexdigest() != pixels:
        raise ValueError(f"{path}: damaged, its pixels differ from those that were written")
    return clip


def _decode(container: InputContainer) -> tuple[list[np.ndarray], float]:
    """All frames of the first video stream, and the time in seconds at which the last one ends."""
    stream = container.streams.video[0]
    frames, end = [], 0.0
    for frame in container.decode(stream):
        if frame.is_corrupt:
            raise ValueError(f"{container.name}: damaged, frame {len(frames)} cannot be decoded")
        frames.append(frame.to_ndarray(format="rgb24"))
        if frame.time is not None:
            length = float(frame.duration * frame.time_base) if frame.duration else 0.0
            end = max(end, frame.time + length)
    return frames, end


def _check_whole(path: Path, frames: int, announced: int, end: float, duration: float) -> None:
    """Refuse a video with fewer frames than its header announces, by count or, where it has none, by time."""
    if not frames:
        raise ValueError(f"{path}: cut short or damaged, no frame could be decoded")
    if frames < announced:
        raise ValueError(f"{path}: cut short, it holds {frames} of the {announced} frames that its header announces")
    frame_length = end / frames
    if not announced and duration - end > 1.5 * frame_length:
        raise ValueError(f"{path}: cut short, it ends at {end:.3f} s of the {duration:.3f} s that its header announces")


def _seconds(duration: str | None) -> float:
    """Seconds in Matroska's ``HH:MM:SS.fraction``, 0 where there is none."""
    try:
        hours, minutes, seconds = (duration or "").split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return 0.0
