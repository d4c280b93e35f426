"""Files inside the page: what it shows or offers to save without any file beside it."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import string
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from paper_figures.experiment import Experiment

TYPES = {
    ".csv": "text/csv", ".md": "text/markdown", ".tex": "application/x-tex", ".webp": "image/webp",
    ".parquet": "application/vnd.apache.parquet", ".json": "application/json",
    ".mp4": "video/mp4",
}  # fmt: skip
THREADS = 2
"""That encode pictures, without Python's lock: as many as the rule of the page asks for."""

ALPHABET = string.digits + string.ascii_letters + "!#$%()*+-.;=>?@[]^_{|}~"
"""The signs of base 85, by value. None of them can begin a tag, or end the element that they stand in."""


@dataclass(frozen=True)
class Held:
    """A file inside the page.

    Args:
        name: its name when it is saved.
        type: its media type.
        text: its bytes in base 85, which takes 6 % less room than base 64.
        gzipped: whether the bytes are compressed and the page unpacks them.
    """

    name: str
    type: str
    text: str
    gzipped: bool = False

    @property
    def key(self) -> str:
        """Identifier of its element; the same content is held once."""
        return "held-" + hashlib.sha256(self.text.encode()).hexdigest()[:16]


def hold(name: str, data: bytes) -> Held:
    """Bytes as a file inside the page, compressed where they are text."""
    kind = TYPES[Path(name).suffix]
    packed = not kind.startswith(("image/", "video/"))
    if packed:
        data = gzip.compress(data, 9, mtime=0)
    return Held(name, kind, encoded(data), packed)


def encoded(data: bytes) -> str:
    """Bytes in base 85: five signs for four bytes, the highest first.

    Zeros fill up the last four bytes, and as many signs are left out at the end.
    """
    import numpy as np

    fill = -len(data) % 4
    words = np.frombuffer(data + bytes(fill), ">u4").astype(np.int64)
    digits = np.stack([words // 85**place % 85 for place in (4, 3, 2, 1, 0)], axis=1)
    text = np.frombuffer(ALPHABET.encode(), np.uint8)[digits.ravel()].tobytes().decode("ascii")
    return text[: len(text) - fill]


def hold_picture(path: Path) -> Held:
    """A PNG file as WebP without loss, which is a third to two thirds of its size."""
    from PIL import Image

    with Image.open(path) as picture:
        whole = picture.convert("RGBA")
    ground = Image.new("RGBA", whole.size, "white")
    data = io.BytesIO()
    Image.alpha_composite(ground, whole).convert("RGB").save(data, "WEBP", lossless=True, quality=80, method=4)
    return hold(f"{path.stem}.webp", data.getvalue())


def files_of(source: Experiment, paths: list[str]) -> dict[str, Held]:
    """Files of the experiment's folder that are there, by their path in it; pictures as WebP."""
    there = [path for path in paths if (source.folder / path).is_file()]

    def one(path: str) -> Held:
        file = source.folder / path
        return hold_picture(file) if file.suffix == ".png" else hold(file.name, file.read_bytes())

    with ThreadPoolExecutor(THREADS) as threads:
        return dict(zip(there, threads.map(one, there), strict=True))


def relative(target: Path, start: Path) -> str:
    """A path from a folder, as links and commands have it."""
    return Path(os.path.relpath(target.resolve(), start.resolve())).as_posix()


def elements(files: Mapping[str, Held]) -> dict[str, Held]:
    """The files by their element's identifier, each content once."""
    return {held.key: held for held in files.values()}
