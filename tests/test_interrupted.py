"""A run may be killed at any moment: nothing of it goes on, and the same command finishes it with the same results."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from projects import ROOT, small_project, snakemake, start

from benchmark import generate, processes
from benchmark.__main__ import main
from benchmark.canonical import canonical_text, record_files
from benchmark.inputs import write_inputs
from benchmark.records import read_record

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends a job with its run on Linux only")

TARGET = "collect"


def processes_in(folder: Path) -> list[str]:
    """The commands of all processes that run in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.joinpath("cwd").readlink() == folder:
                found.append(process.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it has ended meanwhile, or is another user's
            continue
    return found


def wait_for(condition: Callable[[], object], run: subprocess.Popen | None = None, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end and (run is None or run.poll() is None), "it never came to that"
        time.sleep(0.02)


def kill(run: subprocess.Popen, group: bool) -> None:
    (os.killpg if group else os.kill)(run.pid, signal.SIGKILL)
    run.wait()
    run.stdout.close()


@pytest.fixture
def one_thread():
    """As many threads as a job has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_run_that_is_killed_again_and_again_ends_as_an_undisturbed_one(tmp_path, monkeypatch, one_thread):
    settings = {"lengths": [{"name": "1x", "frames": 4}], "prompts": {"count": 2, "seed": 7}, "metrics": ["psnr"]}
    project = small_project(tmp_path / "killed", ("dense",), **settings)
    results = project / "results" / "smoke"
    moments = (
        # While the first job runs; the run that is alive keeps others from making the same files.
        (False, lambda: any((project / ".snakemake" / "locks").glob("*.output.lock"))),
        (True, lambda: list(results.glob("clips/*/*/*/*/000.mkv"))),
        (False, lambda: list(results.glob("records/*/*/*/*/generate.json"))),
    )
    for number, (group, moment) in enumerate(moments):
        run = start(project, TARGET)
        wait_for(moment, run)
        if number == 0:
            status, said = snakemake(project, TARGET)
            assert status != 0 and run.poll() is None
            assert f"another run is alive in this folder (process {run.pid})" in said and "cannot be locked" in said
        kill(run, group)
        wait_for(lambda: not processes_in(project), seconds=2)
        assert list((project / ".snakemake" / "locks").iterdir())
        results.mkdir(parents=True, exist_ok=True)
        (results / f".records.csv.{run.pid}.part").write_text("half a file")

    status, said = snakemake(project, TARGET)
    assert status == 0, said
    assert "the last run here was killed" in said

    # The same jobs, undisturbed: what their records say was run.
    again = tmp_path / "undisturbed"
    again.mkdir()
    monkeypatch.chdir(again)
    write_inputs("testbed-nano", 4, 48, 48, 2, 7, Path("results/smoke/inputs/testbed-nano/1x/seed7"))
    for path in record_files("smoke", project / "results"):
        command = read_record(path)["provenance"]["command"]
        assert main(command.removeprefix("python -m benchmark ").split()) == 0
    canonical = [canonical_text(map(read_record, record_files("smoke", of / "results"))) for of in (project, again)]
    assert canonical[0] == canonical[1]
    made = [
        {path.relative_to(of) for kind in ("clips", "inputs", "records") for path in (of / kind).rglob("*")}
        for of in (results, again / "results" / "smoke")
    ]
    assert made[0] == made[1]
    assert not list(results.rglob(".*"))


def test_a_job_ends_with_its_run(tmp_path):
    job = f"{processes.prefix()} MARK=1 sleep 60".replace(f" {os.getpid()} ", " $PPID ")
    script = f"import subprocess; subprocess.run({job!r}, shell=True, executable='/bin/bash')"
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path)
    wait_for(lambda: "sleep 60 " in processes_in(tmp_path), parent)
    parent.kill()
    parent.wait()
    wait_for(lambda: not processes_in(tmp_path), seconds=2)


def test_a_job_whose_run_has_ended_before_it_began_does_not_begin(tmp_path):
    words = [sys.executable, "-I", processes.__file__, str(os.getppid()), "touch", str(tmp_path / "begun")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == "touch: the run that started this has ended\n"
    assert not (tmp_path / "begun").exists()


@pytest.fixture
def left(tmp_path) -> Path:
    """A folder with what a killed run leaves: Snakemake's locks, and two files in writing, one by a living process."""
    (tmp_path / ".snakemake" / "locks").mkdir(parents=True)
    (tmp_path / ".snakemake" / "locks" / "0.output.lock").write_text("results/a\n")
    (tmp_path / "results" / "records").mkdir(parents=True)
    ended = subprocess.Popen(["true"])
    ended.wait()
    for process in (ended.pid, os.getpid()):
        (tmp_path / "results" / "records" / f".a.json.{process}.part").write_text("{")
    return tmp_path


def hold(folder: Path, **more):
    return processes.hold(folder / ".snakemake", folder / "results", **more)


def test_what_a_killed_run_left_is_cleared_where_no_other_is_alive(left):
    file = hold(left)
    assert not (left / ".snakemake" / "locks").exists()
    assert [path.name for path in left.rglob("*.part")] == [f".a.json.{os.getpid()}.part"]
    file.close()


def test_nothing_is_cleared_while_any_run_is_alive(left, caplog):
    locks = left / ".snakemake" / "locks"
    first = hold(left)
    locks.mkdir()
    (locks / "0.output.lock").write_text("results/a\n")
    second = hold(left)
    assert f"another run is alive in this folder (process {os.getpid()})" in caplog.text
    first.close()
    third = hold(left)
    assert any(locks.iterdir())
    second.close()
    third.close()
    hold(left).close()
    assert not locks.exists()


def test_jobs_on_a_cluster_outlive_their_run_and_keep_its_locks(left, caplog):
    hold(left, cluster=True).close()
    locks = left / ".snakemake" / "locks"
    locks.mkdir()
    (locks / "0.output.lock").write_text("results/a\n")
    hold(left).close()
    assert any(locks.iterdir())
    assert "when none of them is left: snakemake --unlock" in caplog.text


def test_a_folder_that_cannot_be_locked_is_left_as_it_is(left, monkeypatch, caplog):
    def flock(file, how):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    assert hold(left) is None
    assert any((left / ".snakemake" / "locks").iterdir())
    assert "No locks available; locks of killed runs are not cleared" in caplog.text


def test_a_damaged_list_of_finished_clips_has_them_made_anew(tmp_path, caplog):
    for name in ("000.mkv", "progress.json", "a-user-s.mkv"):
        (tmp_path / name).write_text('{"key": "a", "cl')
    assert generate._finished(tmp_path, "a") == []
    assert [path.name for path in tmp_path.iterdir()] == ["a-user-s.mkv"]
    assert "progress.json: damaged; the clips are made anew" in caplog.text


def test_every_rule_s_shell_command_is_a_single_one():
    commands = 0
    for path in sorted((ROOT / "benchmark" / "rules").glob("*.smk")):
        for block in re.findall(r"^    shell:\n((?:        .+\n?)+)", path.read_text(), flags=re.MULTILINE):
            command = "".join(re.findall(r'"(.*)"', block))
            assert re.match(r"([A-Z_]+=\{threads\} )*python -m [a-z_.]+ ", command), f"{path.name}: {command}"
            assert not re.search(r"[;|]|&&|& |\n", command.replace("2>&1", "")), f"{path.name}: {command}"
            commands += 1
    assert commands >= 9
