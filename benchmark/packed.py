"""Packed records: those that are committed are compressed by gzip, in a third of the room or less.

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
    """Copies a record, packed: the same record gives the same bytes. Returns where it is, ``copy`` with ``PACKED``.

    A file that lies at ``copy`` itself would be read in its stead, and goes.

    Args:
        path: the record by the name that it has unpacked, packed or not.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: the packed file is damaged.
    """
    packed = copy.with_name(copy.name + PACKED)
    packed.parent.mkdir(parents=True, exist_ok=True)
    packed.write_bytes(gzip.compress(_content(path), 9, mtime=0))
    copy.unlink(missing_ok=True)
    return packed


def unpack(path: Path, copy: Path) -> Path:
    """Copies a record, packed or not, as the file that it was before it was packed. Returns the copy.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: the packed file is damaged.
    """
    text = record_text(path)
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text(text, encoding="utf-8", newline="")
    return copy


def unpacked_names(paths: Iterable[Path]) -> list[Path]:
    """Records' files by the name they have unpacked, by which ``record_text`` and ``read_record`` find them; sorted."""
    return sorted({path.with_name(path.name.removesuffix(PACKED)) for path in paths})


def records_in(folder: Path, pattern: str) -> list[Path]:
    """The records in a folder, packed or not, by the name that they have unpacked; sorted.

    Args:
        pattern: as ``Path.glob`` has it, of that name, such as ``**/attention.json``.
    """
    return unpacked_names([*folder.glob(pattern), *folder.glob(pattern + PACKED)])


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
    return _content(path).decode("utf-8")


def _content(path: Path | str) -> bytes:
    file = file_of(path)
    if file.suffix != PACKED:
        return file.read_bytes()
    try:
        return gzip.decompress(file.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{file}: no packed record ({error})") from None
