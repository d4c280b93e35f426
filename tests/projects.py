"""Copies of the project in a folder of their own, small enough to be run whole in a test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("Snakefile", "benchmark", "config", "envs", "methods", "metrics", "paper_figures", "profiles")


def small_project(folder: Path, methods: Iterable[str], **changes) -> Path:
    """A copy of the project with these methods only, in whose ``config/smoke.yaml`` some settings are changed."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / part, folder / part)
    for path in (folder / "methods").glob("*.py"):
        if path.stem not in ("__init__", *methods):
            path.unlink()
    smoke = yaml.safe_load((folder / "config" / "smoke.yaml").read_text()) | {"methods": "all"} | changes
    (folder / "config" / "smoke.yaml").write_text(yaml.safe_dump(smoke))
    return folder


def start(project: Path, *words: str) -> subprocess.Popen:
    """Snakemake on a project, in a process group of its own."""
    command = [sys.executable, "-m", "snakemake", *words, "--cores", "2", "--configfile", "config/smoke.yaml"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.Popen(
        command,
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def snakemake(project: Path, *words: str) -> tuple[int, str]:
    """Runs Snakemake on a project. Returns its exit status and what it said."""
    run = start(project, *words)
    said, _ = run.communicate()
    return run.returncode, said
