"""Whatever goes wrong ends as one clear line or a record's status; the rest goes on, and nothing half-written stays."""

from __future__ import annotations

import csv
import errno
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import synthetic
from projects import small_project, snakemake

from benchmark.__main__ import main
from benchmark.cell import Cell
from benchmark.compare import compare_frames, summarise
from benchmark.inputs import write_inputs
from benchmark.metric import Column, Metric, PreparedMetric, prepare
from benchmark.records import read_record

CELL = Cell(
    "trial", "testbed-nano", "1x", 4, 48, 48, "dense", budget=0.5, block=4, steps=2, dense_steps=1, clips=1, seed=7
)
FRAMES = {"1x": 4, "2x": 8}
STATUSES = {"1x": "error", "2x": "incorrect"}
METHOD = """
from dataclasses import dataclass
from benchmark.method import Method


@dataclass(frozen=True)
class Failing(Method):
    def attend(self, q, *rest):
        if q.shape[1] < 400:  # at 1x
            raise RuntimeError("no such thing")
        return super().attend(q, *rest) * float("nan")
"""


def left_over(folder: Path) -> list[str]:
    """Files that were being written and never got their name."""
    return [path.name for path in folder.rglob(".*") if path.is_file()]


# Through Snakemake


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A finished run of dense attention, and of a method that raises at one length and gives NaN at the other."""
    lengths = [{"name": name, "frames": frames} for name, frames in FRAMES.items()]
    folder = small_project(tmp_path_factory.mktemp("project"), ("dense",), lengths=lengths, metrics=["psnr"])
    (folder / "methods" / "failing.py").write_text(METHOD)
    status, said = snakemake(folder, "tables")
    assert status == 0, said
    return folder


@pytest.mark.parametrize(("table", "length"), [(1, "1x"), (2, "2x")])
def test_a_method_that_fails_has_its_status_in_the_tables_beside_the_numbers_of_others(project, table, length):
    tables = project / "results" / "smoke" / "tables"
    with open(tables / f"table{table}.csv", newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file) if row["length"] == length}
    ours = {name: rows[name] for name in ("dense", "failing")}
    keys = [key for key in ("psnr", "pflop", "sparsity_pct") if key in rows["dense"]]
    assert keys
    for key in keys:
        assert (ours["failing"][key], ours["failing"][f"{key}_status"]) == ("", STATUSES[length])
    assert any(ours["dense"][f"{key}_status"] == "passed" and ours["dense"][key] for key in keys)
    reason = {"1x": "RuntimeError: no such thing", "2x": "holds values that are not finite"}[length]
    assert reason in (tables / f"table{table}.md").read_text()


def test_a_method_that_fails_leaves_no_clips_and_nothing_half_written(project):
    assert left_over(project / "results") == []
    assert {path.parent.parent.name for path in project.glob("results/smoke/clips/*/*/*/*/*.mkv")} == {"dense"}


def test_a_flipped_byte_in_the_weights_is_one_line(project):
    weights = project / "benchmark" / "testbed" / "weights" / "testbed-nano.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    words = ["generate", *CELL.arguments().split(), "--out", "x", "--record", "x.json"]
    write_inputs(CELL.model, CELL.frames, CELL.height, CELL.width, CELL.clips, CELL.seed, project / "in")
    command = [sys.executable, "-m", "benchmark", *words, "--inputs", "in"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    weights.write_bytes(whole)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("generate: weights ") and "SHA-256 is" in done.stderr
    assert not (project / "x").exists() and not (project / "x.json").exists()


# Verb by verb


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Inputs, clips and a ``generate`` record of dense attention."""
    folder = tmp_path_factory.mktemp("made")
    for verb in ("inputs", "generate"):
        assert main(words_of(verb, folder, folder)) == 0
    return folder


def words_of(verb: str, made: Path, out: Path) -> list[str]:
    """A verb's command line, which reads what was made and writes elsewhere."""
    cell, record = CELL.arguments().split(), str(made / "generate.json")
    return [
        verb,
        *{
            "inputs": f"--model {CELL.model} --frames 4 --height 48 --width 48 --seed 7 --out {out / 'in'}".split(),
            "generate": [
                *cell, "--inputs", str(made / "in"), "--out", str(out / "clips"),
                "--record", str(out / "generate.json"),
            ],
            "measure": [
                *cell, "--inputs", str(made / "in"), "--reference", record, "--candidate", record, "--metrics", "psnr",
                "--record", str(out / "measure.json"),
            ],
            "collect": [
                "--experiment", CELL.experiment, "--out-parquet", str(out / "records.parquet"),
                "--out-csv", str(out / "records.csv"), "--records", record, str(made / "measure.json"),
            ],
            "sweep": ["--experiment", CELL.experiment, "--out", str(out / "operations.json")],
        }[verb],
    ]  # fmt: skip


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS], ids=errno.errorcode.get)
@pytest.mark.parametrize("verb", ["inputs", "generate", "measure", "collect"])
def test_a_full_disk_or_a_read_only_folder_is_one_line_and_leaves_nothing(
    made, tmp_path, monkeypatch, capsys, verb, number
):
    if verb == "collect":
        assert main(words_of("measure", made, made)) == 0
    capsys.readouterr()

    def fails(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    # A disk is full when the bytes are there and are to be kept; a folder is read-only from the beginning.
    monkeypatch.setattr(os, "replace", fails) if number == errno.ENOSPC else monkeypatch.setattr(Path, "mkdir", fails)
    assert main(words_of(verb, made, tmp_path)) == 1
    monkeypatch.undo()
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(f"{verb}: [Errno {number}]") and os.strerror(number) in line
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []

    assert main(words_of(verb, made, tmp_path)) == 0


@pytest.mark.parametrize("share", [0.5, 0])
def test_a_clip_that_was_cut_short_is_the_status_of_its_cell(made, tmp_path, share):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    record = json.loads((made / "generate.json").read_text())
    clip = made / "clips" / "000.mkv"
    whole = clip.read_bytes()
    clip.write_bytes(whole[: int(share * len(whole))])
    try:
        assert main(words_of("measure", made, tmp_path)) == 0
        measured = read_record(tmp_path / "measure.json")
        assert measured["status"] == "error" and measured["values"] == {}
        assert "000.mkv: not the file that was recorded" in measured["reason"]
        assert measured["reason"].endswith("delete that method's generate.json and run again")
        # What the line says helps: the clip is made again, as it was.
        assert main(words_of("generate", made, made)) == 0
        assert clip.read_bytes() == whole
        assert read_record(made / "generate.json")["clips"][0]["sha256"] == record["clips"][0]["sha256"]
    finally:
        clip.write_bytes(whole)


def test_too_little_memory_to_measure_is_the_status_of_its_cell(made, tmp_path, monkeypatch):
    def read_clip(path):
        raise MemoryError

    monkeypatch.setattr("benchmark.clips.read_clip", read_clip)
    assert main(words_of("measure", made, tmp_path)) == 0
    record = read_record(tmp_path / "measure.json")
    assert (record["status"], record["reason"]) == ("out_of_memory", "too little memory to measure")


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["values"].update(psnr=99.0),
        lambda record: record["clips"][0]["values"].update(psnr=99.0),
        lambda record: record["provenance"]["hashes"].update(noise="0" * 64),
        lambda record: record["cell"].update(steps=50),
        lambda record: record.update(status="unsupported"),
    ],
)
def test_a_record_that_was_edited_by_hand_is_refused(tmp_path, capsys, change):
    paths = synthetic.write_records(tmp_path, ("dense", "radial"), ("1x",))
    words = ["collect", "--experiment", synthetic.EXPERIMENT, "--records", *map(str, paths)]
    words += ["--out-parquet", str(tmp_path / "records.parquet"), "--out-csv", str(tmp_path / "records.csv")]
    record = json.loads(paths[-1].read_text())
    paths[-1].write_text(json.dumps(record))  # another layout of the same content is no change
    assert main(words) == 0
    before = (tmp_path / "records.csv").read_bytes()
    change(record)
    paths[-1].write_text(json.dumps(record))
    capsys.readouterr()
    assert main(words) == 2
    line = f"collect: record {paths[-1]}: changed since it was written (its seal differs); delete it and run again\n"
    assert capsys.readouterr().err == line
    assert (tmp_path / "records.csv").read_bytes() == before


# Metrics


def clip(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)


def test_a_metric_whose_package_is_missing_is_unsupported_and_the_others_are_measured(monkeypatch):
    importlib.import_module("skimage")
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    found = compare_frames(clip(0), clip(1), prepare(["psnr", "ssim"]))
    assert found["status"] == {"psnr": "passed", "ssim": "unsupported"}
    assert found["reasons"] == {"ssim": "the package skimage is not installed"}
    assert set(found["values"]) == {"psnr"}


def test_a_metric_that_fails_has_its_status_and_the_others_are_measured(caplog):
    def measure(reference, candidate, **context):
        raise KeyError("no such thing")

    failing = PreparedMetric("failing", Metric((Column("failing", "Failing", direction="lower"),), measure), {})
    ready = [failing, *prepare(["psnr"])]
    summary = summarise([compare_frames(clip(0), clip(1), ready)], ready)
    assert summary["status"] == {"failing": "error", "psnr": "passed"}
    assert summary["reasons"] == {"failing": "KeyError: 'no such thing'"}
    assert "psnr" in summary and "failing" not in summary
    assert "Traceback" in caplog.text
