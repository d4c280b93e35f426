"""Packed records: those of many clips are committed compressed by gzip, in a fifth of the room.

``zcat measure.json.gz`` shows one. Whatever reads a record finds it by the name that it has unpacked.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable
from pathlib import Path

PACKED = ".gz"
"""What the name of a packed record ends with."""


def pack(path: Path, copy: Path) -> Path:
    """Copies a record, packed: the same record gives the same bytes. Returns where it is, ``copy`` with ``PACKED``."""
    packed = copy.with_name(copy.name + PACKED)
    packed.parent.mkdir(parents=True, exist_ok=True)
    packed.write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
    return packed


def unpacked_names(paths: Iterable[Path]) -> list[Path]:
    """Records' files by the name they have unpacked, by which ``record_text`` and ``read_record`` find them; sorted."""
    return sorted({path.with_name(path.name.removesuffix(PACKED)) for path in paths})


def file_of(path: Path | str) -> Path:
    """The file that holds a record: the one of that name, or the packed one beside it where that alone is there."""
    path = Path(path)
    packed = path.with_name(path.name + PACKED)
    return packed if packed.exists() and not path.exists() else path


def record_text(path: Path | str) -> str:
    """The text of a record's file, packed or not.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: the packed file is damaged.
    """
    file = file_of(path)
    if file.suffix != PACKED:
        return file.read_text(encoding="utf-8")
    try:
        return gzip.decompress(file.read_bytes()).decode("utf-8")
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{file}: no packed record ({error})") from None
