"""What a method's file does wrong when it is planned, in one line that names the file."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def planning(method: str, where: str = "") -> Iterator[None]:
    """Names the method in whatever its code raises: its file, and for what it was planned.

    A job does not use this: there a method's failure is a result, with a record of its own.

    Args:
        method: the method's name.
        where: for what it was planned, such as a length's name.

    Raises:
        ValueError: in one line: the file, the place in it and what went wrong.
    """
    try:
        yield
    except Exception as error:  # a method is anybody's code
        prefix, line = f"methods/{method}.py", " ".join(str(error).split())
        if line.startswith(prefix) or (isinstance(error, ValueError) and line.startswith("budget=")):
            raise
        prefix += f" at {where}" * bool(where)
        if isinstance(error, ValueError):
            raise ValueError(f"{prefix}: {line}") from error
        raise ValueError(f"{prefix}: {_place(error, method)}{type(error).__name__}: {line}") from error


def _place(error: Exception, method: str) -> str:
    """The innermost function of the method's file that the error passed through; empty where it is not in the file."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).stem == method]
    frames = [frame for frame in frames if Path(frame.filename).parent.name == "methods"]
    return f"{frames[-1].name}, line {frames[-1].lineno}: " if frames else ""
