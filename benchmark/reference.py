"""Where records are committed, those of speed and those of the quality experiments, and how a file gets there."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmark.records import ROOT

REFERENCE = ROOT / "results" / "reference"


def copy_file(path: Path, copy: Path) -> Path:
    """Copies a file, with folders as needed. Returns the copy."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, copy)
    return copy
