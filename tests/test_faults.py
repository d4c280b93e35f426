"""Whatever goes wrong ends as one clear line or a record's status; the rest goes on, and nothing half-written stays."""

from __future__ import annotations

import ast
import csv
import errno
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import synthetic
from projects import ROOT, small_project, snakemake

from benchmark.__main__ import main
from benchmark.again import remove_transient, runs_jobs
from benchmark.cell import Cell
from benchmark.compare import compare_frames, summarise
from benchmark.metric import Column, Metric, PreparedMetric, prepare
from benchmark.models import testbed
from benchmark.records import make_record, read_record, transient, write_json
from benchmark.supervise import memory_kills

CELL = Cell(
    "trial", "testbed-nano", "1x", 4, 48, 48, "dense", budget=0.5, block=4, steps=2, dense_steps=1, clips=1, seed=7
)
FRAMES = {"1x": 4, "2x": 8}
STATUSES = {
    "failing": {"1x": "error", "2x": "incorrect"},
    "ending": {"1x": "error", "2x": "error"},
}
REASONS = {
    "failing": {"1x": "RuntimeError: no such thing", "2x": "holds values that are not finite"},
    "ending": {"1x": "The job ended by SIGKILL (Killed)", "2x": "The job ended by SIGSEGV (Segmentation fault)"},
}
METHODS = {
    "failing": """
from dataclasses import dataclass
from benchmark.method import Method


@dataclass(frozen=True)
class Failing(Method):
    title = "Failing"

    def attend(self, q, *rest):
        if q.shape[1] < 400:  # at 1x
            raise RuntimeError("no such thing")
        return super().attend(q, *rest) * float("nan")

    def density(self, *rest):
        return 1.0

    attention_operations = density
""",
    "ending": """
import os, signal
from dataclasses import dataclass
from benchmark.method import Method


@dataclass(frozen=True)
class Ending(Method):
    title = "Ending"

    def attend(self, q, *rest):
        os.kill(os.getpid(), signal.SIGKILL if q.shape[1] < 400 else signal.SIGSEGV)

    def density(self, *rest):
        return 1.0

    attention_operations = density
""",
}


def left_over(folder: Path) -> list[str]:
    """Files that were being written and never got their name."""
    return [path.name for path in folder.rglob(".*") if path.is_file()]


# Through Snakemake


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A finished run of dense attention, of a method that raises at one length and gives NaN at the other, and of one
    whose process is killed at one length and crashes at the other."""
    lengths = [{"name": name, "frames": frames} for name, frames in FRAMES.items()]
    folder = small_project(tmp_path_factory.mktemp("project"), ("dense",), lengths=lengths, metrics=["psnr"])
    for name, code in METHODS.items():
        (folder / "methods" / f"{name}.py").write_text(code)
    status, said = snakemake(folder, "table1", "table2")
    assert status == 0, said
    # What failed is said at the end, and nothing is named that is not there.
    assert "\n4 of 6 cells failed: ending 1x: the job ended by SIGKILL" in said
    assert "; failing 1x: RuntimeError: no such thing; ending 2x: " in said and "; and 1 more; see the tables\n" in said
    assert "\ntables:  results/smoke/tables\n" in said and "figures: " not in said and "report: " not in said
    return folder


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("table", "length"), [(1, "1x"), (2, "2x")])
def test_a_method_that_fails_has_its_status_in_the_tables_beside_the_numbers_of_others(project, table, length, method):
    tables = project / "results" / "smoke" / "tables"
    with open(tables / f"table{table}.csv", newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file) if row["length"] == length}
    keys = [key for key in ("psnr", "pflop", "sparsity_pct") if key in rows["dense"]]
    assert keys
    for key in keys:
        assert (rows[method][key], rows[method][f"{key}_status"]) == ("", STATUSES[method][length])
    assert any(rows["dense"][f"{key}_status"] == "passed" and rows["dense"][key] for key in keys)
    assert REASONS[method][length] in (tables / f"table{table}.md").read_text()


def test_a_method_that_fails_leaves_no_clips_and_nothing_half_written(project):
    assert left_over(project / "results") == []
    assert {path.parent.parent.name for path in project.glob("results/smoke/clips/*/*/*/*/*.mkv")} == {"dense"}


def test_only_a_job_that_was_killed_is_made_again_and_only_by_a_run(project):
    records = {
        (method, length): project.joinpath(
            f"results/smoke/records/testbed-nano/{length}/{method}/untuned/generate.json"
        )
        for method in METHODS
        for length in FRAMES
    }
    marked = {key for key, path in records.items() if "transient" in read_record(path)["details"]}
    assert marked == {("ending", length) for length in FRAMES}
    assert runs_jobs(["snakemake", "--cores", "2"])
    for words in ([], ["pytest"], ["snakemake", "-np"], ["snakemake", "--lint"], ["snakemake", "--report", "a.html"]):
        assert not runs_jobs(words)
        assert remove_transient(project / "results" / "smoke", words) == []
    # The inputs are there: Snakemake finds nothing to do but what is cleared before.
    status, said = snakemake(project, "results/smoke/inputs/testbed-nano/1x/seed7/prompts.json")
    assert status == 0 and "Nothing to be done" in said
    assert {key for key, path in records.items() if not path.exists()} == marked
    assert "is made again; it said: error: the job ended by SIGKILL" in said
    # Tables made of it are there, so Snakemake would not ask for it if nothing else did.
    status, said = snakemake(project, "-n", "--cores", "1")
    assert status == 0 and said.count("ending/untuned/generate.json") >= len(FRAMES), said


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


def test_a_flipped_byte_in_the_weights_is_the_status_of_its_cell(made, tmp_path, monkeypatch):
    name = f"{CELL.model}.safetensors"
    whole = (testbed.WEIGHTS_FOLDER / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    shutil.copy(testbed.WEIGHTS_FOLDER / "manifest.json", tmp_path)
    monkeypatch.setattr(testbed, "WEIGHTS_FOLDER", tmp_path)
    assert main(words_of("generate", made, tmp_path)) == 0
    record = read_record(tmp_path / "generate.json")
    assert record["status"] == "error" and record["details"]["transient"] == []
    assert record["reason"].startswith(f"weights {tmp_path / name}: SHA-256 is ")
    assert record["reason"].endswith("put back the file that was there")
    assert not (tmp_path / "clips").exists()


@pytest.mark.parametrize("name", ["noise.safetensors", "prompts.json"])
@pytest.mark.parametrize("verb", ["generate", "measure"])
def test_a_flipped_byte_in_the_inputs_is_the_status_of_its_cell_until_they_are_drawn_again(made, tmp_path, verb, name):
    results = tmp_path / "results"
    folder = results / "records" / CELL.path
    shutil.copytree(made / "in", tmp_path / "whole")
    damaged = results / "in"
    shutil.copytree(made / "in", damaged)
    content = bytearray((damaged / name).read_bytes())
    content[-1 if name.startswith("noise") else 0] ^= 1
    (damaged / name).write_bytes(content)
    words = words_of(verb, made, folder)
    words[words.index("--inputs") + 1] = str(damaged)
    assert main(words) == 0
    record = read_record(folder / f"{verb}.json")
    assert record["status"] == "error" and str(damaged) in record["reason"]
    assert record["reason"].endswith("draw them again") and "\n" not in record["reason"]
    removed = remove_transient(results, ["snakemake"])
    assert removed == [folder / f"{verb}.json", damaged / "noise.safetensors", damaged / "prompts.json"]
    assert remove_transient(results, ["snakemake"]) == []


def test_nothing_outside_the_results_is_removed(made, tmp_path):
    record = make_record("generate", CELL, "error", reason="gone", details=transient([made / "in" / "prompts.json"]))
    path = tmp_path / "records" / CELL.path / "generate.json"
    write_json(path, record)
    assert remove_transient(tmp_path, ["snakemake"]) == [path]
    assert (made / "in" / "prompts.json").exists()


@pytest.mark.parametrize("how", ["told", "untold"])
def test_a_disk_that_is_full_when_a_clip_is_written_is_the_status_of_its_cell(made, tmp_path, monkeypatch, how):
    if how == "told":

        def write_clip(path, frames):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    else:

        def write_clip(path, frames):
            path.write_bytes((made / "clips" / "000.mkv").read_bytes()[:2000])

    monkeypatch.setattr("benchmark.clips.write_clip", write_clip)
    assert main(words_of("generate", made, tmp_path)) == 0
    record = read_record(tmp_path / "generate.json")
    assert record["status"] == "error" and record["details"]["transient"] == []
    assert {"told": "No space left on device", "untold": "what is read back is not"}[how] in record["reason"]
    assert not list((tmp_path / "clips").iterdir())


def test_a_file_that_the_method_does_not_find_is_its_own_failure(made, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmark.method.Method.attend", lambda *args: Path("nowhere").read_text())
    assert main([*words_of("generate", made, tmp_path), "--dense-steps", "0"]) == 0
    record = read_record(tmp_path / "generate.json")
    assert record["status"] == "error" and "FileNotFoundError" in record["reason"]
    assert "transient" not in record["details"]


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
        assert measured["reason"].endswith("; make dense again")
        assert measured["details"]["transient"] == [str(made / "generate.json")]
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


# A job whose process ends


JOB = """
import os, signal, sys, time
from pathlib import Path
from benchmark.cell import Cell
from benchmark.supervise import announce, supervise

def work():
    if sys.argv[1] == "at once":
        os.kill(os.getpid(), signal.SIGKILL)
    cell = Cell("trial", "testbed-nano", "1x", 4, 48, 48, "dense")
    announce("generate", cell, Path("generate.json"), [Path("clips")])
    Path("clips").mkdir()
    Path("clips/000.mkv").write_text("whole")
    Path(f"clips/.001.{'a' * 32}.mkv").write_text("half")
    Path(f".generate.json.{os.getpid()}.part").write_text("half")
    if sys.argv[1] == "sleep":
        print("up", flush=True)
        time.sleep(30)
    if sys.argv[1].isdecimal():
        return int(sys.argv[1])
    os.kill(os.getpid(), getattr(signal, sys.argv[1]))

if sys.argv[2] == "kills":
    import benchmark.supervise
    kills = iter([{"counter": 4}, {"counter": 5}])
    benchmark.supervise.memory_kills = lambda: next(kills)
sys.exit(supervise(work))
"""


def start_job(folder: Path, what: str, more: str = "") -> subprocess.Popen:
    command = [sys.executable, "-c", JOB, what, more]
    return subprocess.Popen(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests run in the background ignore it
    )  # fmt: skip


@pytest.mark.parametrize(
    ("what", "more", "status", "reason"),
    [
        ("SIGKILL", "kills", "out_of_memory", "killed the job for want of memory (counted in counter)"),
        ("SIGKILL", "", "error", "SIGKILL (Killed), which its run did not send; too little memory may be why"),
        ("SIGABRT", "kills", "error", "SIGABRT (Aborted)"),
    ],
)
def test_a_job_whose_process_is_killed_has_a_record_and_keeps_what_is_whole(tmp_path, what, more, status, reason):
    job = start_job(tmp_path, what, more)
    _, said = job.communicate()
    assert job.returncode == 0 and said.count("\n") == 1 and reason in said
    record = read_record(tmp_path / "generate.json")
    assert record["status"] == status and reason in record["reason"] and "transient" in record["details"]
    assert record["cell"]["method"] == "dense" and record["values"] == {}
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["000.mkv", "clips", "generate.json"]


def test_a_job_that_ends_by_itself_keeps_its_exit_status(tmp_path):
    job = start_job(tmp_path, "3")
    job.communicate()
    assert job.returncode == 3 and not (tmp_path / "generate.json").exists()


def test_a_job_that_is_killed_before_its_cell_is_known_is_one_line(tmp_path):
    job = start_job(tmp_path, "at once")
    _, said = job.communicate()
    assert job.returncode == 1 and said == "the job ended by SIGKILL (Killed) before it knew its cell\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_job_that_is_stopped_on_purpose_ends_without_a_record(tmp_path, number):
    job = start_job(tmp_path, "sleep")
    assert job.stdout.readline() == "up\n"
    (child,) = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    job.send_signal(number)
    job.communicate()
    assert job.returncode == -number
    for _ in range(100):
        if not Path(f"/proc/{child}/cmdline").exists() or not Path(f"/proc/{child}/cmdline").read_bytes():
            break
        time.sleep(0.02)
    else:
        pytest.fail("the child went on")
    assert not (tmp_path / "generate.json").exists()


def test_the_kernel_s_counts_are_read(tmp_path):
    counts = memory_kills()
    assert all(count >= 0 for count in counts.values())
    assert ("oom_kill " in Path("/proc/vmstat").read_text()) == ("/proc/vmstat" in counts)


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


# What is read runs no code


def unsafe(code: str) -> list[str]:
    """Calls that could run code which stands in a file of data."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if (
            (name == "torch.load" and options.get("weights_only") != "True")
            or re.fullmatch(r"(pickle|dill|cloudpickle|joblib|marshal|shelve)\.(load|loads|open|Unpickler)", name)
            or name in ("torch.hub.load", "torch.jit.load", "pandas.read_pickle", "eval", "exec")
            or options.get("allow_pickle", "False") != "False"
            or options.get("trust_remote_code", "False") != "False"
            # Configurations and tokenizers are JSON.
            or (
                re.search(r"(?<!Config)(?<!Tokenizer)\.from_pretrained$", name)
                and options.get("use_safetensors") != "True"
            )
        ):
            found.append(ast.unparse(node))
    return found


def test_nothing_is_unpickled_and_no_remote_code_runs():
    folders = ("benchmark", "methods", "metrics", "paper_figures")
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(paths) > 50
    assert {str(path): calls for path in paths if (calls := unsafe(path.read_text()))} == {}
    # Code of a model's folder runs only where the configuration says so, which one judge's settings can.
    named = {path.name for path in paths if "trust_remote_code" in path.read_text()}
    assert named == {"checklist.py", "vision_reward.py"}
    # The scan sees what it looks for.
    for code in (
        "torch.load(f)", "torch.load(f, weights_only=False)", "pickle.loads(b)", "np.load(f, allow_pickle=True)",
        "X.from_pretrained(n)", "X.from_config(n, trust_remote_code=True)", "eval(s)",
    ):  # fmt: skip
        assert unsafe(code) == [code]
    assert unsafe("torch.load(f, weights_only=True); np.load(f); model.eval()") == []
