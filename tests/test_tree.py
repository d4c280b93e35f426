"""The size of what is committed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MB = 10**6


@pytest.fixture(scope="module")
def tracked() -> dict[str, int]:
    """Bytes of every tracked file, by its path."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so nothing is tracked")
    done = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=True)
    files = [ROOT / name for name in done.stdout.split("\0") if name]
    return {str(path.relative_to(ROOT)): path.stat().st_size for path in files if path.is_file()}


def test_the_tracked_tree_stays_small(tracked):
    assert sum(tracked.values()) < 36 * MB


def test_no_file_is_large(tracked):
    assert {name: size for name, size in tracked.items() if size > 16 * MB} == {}


def test_no_output_of_a_run_is_tracked(tracked):
    own = ("results/README.md", "results/reference/")
    assert [name for name in tracked if name.startswith(("results/", "logs/")) and not name.startswith(own)] == []
