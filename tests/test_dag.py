"""The whole workflow, small: a method that is dropped in is in the next tables, and nothing else runs again."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from projects import small_project

TABLES = ("table1", "table2")

# Shorter clips than those of the model's own lengths, but at two lengths, for Table 2 shows the long ones.
LENGTHS = [{"name": "1x", "frames": 8}, {"name": "2x", "frames": 12}]


@pytest.fixture
def project(tmp_path) -> Path:
    """A copy of the project with two methods and nothing that a run wrote."""
    return small_project(tmp_path, ("dense", "radial"), lengths=LENGTHS)


def snakemake(project: Path, *words: str) -> str:
    """What Snakemake says when it makes the tables of a project."""
    command = [sys.executable, "-m", "snakemake", *words, "--cores", "2", "--configfile", "config/smoke.yaml"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def jobs(said: str) -> dict[str, int]:
    """How many jobs of each rule a run had, from its statistics."""
    table = said.partition("Job stats:")[2].partition("total")[0]
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, flags=re.MULTILINE)}


def written(project: Path) -> dict[str, int]:
    """When each record, clip, prompt and noise was written last."""
    folder = project / "results" / "smoke"
    kinds = ("records", "clips", "inputs")
    files = [path for kind in kinds for path in (folder / kind).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files}


def rows(project: Path, table: int) -> str:
    """A table's rows, without its head."""
    with open(project / "results" / "smoke" / "tables" / f"table{table}.csv", newline="") as file:
        return "\n".join(",".join(row) for row in list(csv.reader(file))[1:])


def test_a_dropped_method_is_in_the_next_tables_and_no_other_job_runs_again(project):
    said = snakemake(project, *TABLES)
    assert jobs(said) == {
        "inputs": 2,
        "generate": 4,
        "measure": 4,
        "collect": 1,
        "table": 2,
        **dict.fromkeys(TABLES, 1),
    }
    before = written(project)
    assert "Dropped in" not in rows(project, 1) + rows(project, 2)

    command = [sys.executable, "-m", "benchmark", "new-method", "dropped_in"]
    subprocess.run(command, cwd=project, check=True, capture_output=True)
    said = snakemake(project, *TABLES)

    assert jobs(said) == {"generate": 2, "measure": 2, "collect": 1, "table": 2, **dict.fromkeys(TABLES, 1)}
    after = written(project)
    assert {name: after[name] for name in before} == before
    assert after.keys() > before.keys()
    assert all("/dropped_in/" in name for name in after.keys() - before.keys())
    for table in (1, 2):
        assert "Dropped in" in rows(project, table)
        assert "Radial" in rows(project, table)

    assert "Nothing to be done" in snakemake(project, *TABLES)

    # Weights are trained where someone asks for them, and by no other target.
    said = snakemake(project, "-n", "results/smoke/training/judge.training.json")
    assert jobs(said) == {"train_judge": 1}
