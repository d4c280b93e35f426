"""What a job's failure is called in its record."""

from __future__ import annotations

import errno
import logging
import traceback
from typing import Any

import torch

from benchmark.records import transient

logger = logging.getLogger(__name__)

MACHINE_ERRORS = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE,
    errno.ENFILE, errno.EMFILE, errno.ENODEV, errno.ENOTCONN,
)  # fmt: skip
"""Errors of disks, quotas and rights, which say nothing of a method."""


def failure(error: Exception, what: str) -> tuple[str, str, dict[str, Any] | None]:
    """Status, reason and further details of a record whose job ended with an error.

    Args:
        what: who failed, for the log.
    """
    line = first_line(error)
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return "out_of_memory", line, None
    if isinstance(error, FloatingPointError):
        return "incorrect", line, None
    named = f"{type(error).__name__}: {line}"
    if isinstance(error, OSError):
        return "error", named, transient() if error.errno in MACHINE_ERRORS else None
    logger.error("%s failed:\n%s", what, "".join(traceback.format_exception(error)))
    # Torch's words for too little memory on a CPU.
    return "out_of_memory" if "can't allocate memory" in str(error) else "error", named, None


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
