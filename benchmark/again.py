"""Records of failures that were the machine's are made again by the next run.

A job that was killed, damaged weights or inputs, a lost clip, a full disk: each leaves a record that says so, so that
the tables of that run are made and show it. Such a record says nothing of the method, and must not stand for ever. Its
``details`` hold ``transient`` (see ``records.transient``), and a run removes it before it plans its jobs, like a
record of kernels that was made without a package that is installed now.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmark.packed import file_of, records_in
from benchmark.records import read_record

logger = logging.getLogger(__name__)

RUNS_NOTHING = (
    "dryrun", "touch", "lint", "list_target_rules", "list_rules", "print_compilation", "containerize", "report",
    "reporter", "generate_unit_tests", "dag", "rulegraph", "filegraph", "d3dag", "unlock", "cleanup_metadata",
    "conda_cleanup_envs", "conda_create_envs_only", "list_conda_envs", "cleanup_shadow", "container_cleanup_images",
    "list_changes", "list_input_changes", "list_params_changes", "list_untracked", "summary", "detailed_summary",
    "archive", "delete_all_output", "delete_temp_output",
)  # fmt: skip
"""Options of Snakemake, by the names of their values, with which it runs no job."""


def runs_jobs(words: Sequence[str]) -> bool:
    """Whether Snakemake with this command line, the program's name included, would run jobs.

    A command line that is not Snakemake's counts as one that would not.
    """
    if not words or "snakemake" not in Path(words[0]).parts[-1] and "snakemake" not in Path(words[0]).parts[-2:-1]:
        return False
    from snakemake.cli import parse_args

    with contextlib.redirect_stderr(io.StringIO()):  # it says again which profile it found
        _, args = parse_args(list(words[1:]))
    return args.report_after_run or all(getattr(args, name, None) in (None, False, [], ()) for name in RUNS_NOTHING)


def remove_transient(results: Path, words: Sequence[str], kernels: Iterable[Path] = ()) -> list[Path]:
    """Removes an experiment's records of failures that were the machine's, and what must be made again with them.

    Args:
        results: the experiment's folder; nothing outside it is removed.
        words: Snakemake's command line. Where it runs no job, nothing is removed.
        kernels: the records of kernels that its jobs write; others beside them, made by hand, nobody would make again.

    Returns:
        What was removed.
    """
    found = [(path, record) for path, record in _records(results, kernels) if _due(record)]
    if not found or not runs_jobs(words):
        return []
    removed = []
    for path, record in found:
        said = record["reason"] or f"without {', '.join(_installed_since(record))}"
        logger.info("%s is made again; it said: %s: %s", path, record["status"], said)
        for file in (file_of(path), *map(Path, record["details"].get("transient", ()))):
            if file.is_file() and file.resolve().is_relative_to(results.resolve()):
                file.unlink()
                removed.append(file)
    return removed


def _due(record: Mapping[str, Any]) -> bool:
    return "transient" in record["details"] or bool(_installed_since(record))


def _installed_since(record: Mapping[str, Any]) -> list[str]:
    """The packages that a record of kernels was made without, and that are there now."""
    packages = record["details"].get("packages", {}) if record["kind"] == "kernels" else {}
    missing = (name for name, version in packages.items() if version == "missing")
    return [name for name in missing if any(metadata.distributions(name=name))]


def _records(results: Path, kernels: Iterable[Path]) -> Iterator[tuple[Path, dict]]:
    """The experiment's records; what is damaged is left to those who read it, who say so."""
    folder = results / "records"
    cells, stages = records_in(folder, "*/*/*/*/*.json"), records_in(folder, "*/*/*.json")  # of cells, of a speed stage
    for path in sorted([*cells, *stages, *kernels]):
        with contextlib.suppress(OSError, ValueError):
            yield path, read_record(path)
