"""GPUs for jobs that run side by side, with an nvidia-smi that is played."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmark import gpus, tune
from benchmark.__main__ import main

CLAIM = """
import os, pathlib, sys
from benchmark import gpus
gpus.FOLDERS = (pathlib.Path(sys.argv[1]),)
held = gpus.claim(poll_s=0.05)
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
input()
"""

LOCKED_IN = gpus.FOLDERS


@pytest.fixture
def two_gpus(tmp_path, monkeypatch):
    """Two GPUs, as nvidia-smi lists them."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho '0, GPU-aa'\necho '1, GPU-bb'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    locks = tmp_path / "locks"
    locks.mkdir()
    locks.chmod(0o1777)
    monkeypatch.setattr(gpus, "FOLDERS", (tmp_path / "missing", locks))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return smi


def test_all_gpus_are_visible_unless_the_environment_says_otherwise(two_gpus, monkeypatch):
    assert gpus.visible() == ["GPU-aa", "GPU-bb"]
    for asked, found in (
        ("1", ["GPU-bb"]),
        ("", []),
        ("-1", []),
        ("GPU-aa", ["GPU-aa"]),
        ("MIG-x, 0", ["MIG-x", "GPU-aa"]),
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", asked)
        assert gpus.visible() == found


def test_no_gpu_without_nvidia_smi(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus.visible() == []
    assert gpus.claim() is None


def test_a_driver_that_fails_is_no_machine_without_gpus(two_gpus):
    two_gpus.write_text("#!/bin/sh\necho 'Driver/library version mismatch'\nexit 18\n")
    with pytest.raises(ValueError, match="nvidia-smi: fails .Driver/library version mismatch"):
        gpus.visible()


def test_jobs_side_by_side_take_different_gpus_and_wait_for_one(two_gpus, tmp_path):
    """Whatever their ``TMPDIR``, of which schedulers make one for each job."""

    def start(number):
        folder = tmp_path / f"job{number}"
        folder.mkdir()
        return subprocess.Popen(
            [sys.executable, "-c", CLAIM, str(gpus.folder())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"TMPDIR": str(folder)},
        )

    jobs = [start(number) for number in range(2)]
    taken = [job.stdout.readline().strip() for job in jobs]
    assert sorted(taken) == ["GPU-aa", "GPU-bb"]
    third = start(2)
    jobs[1].communicate("\n", timeout=10)
    assert third.stdout.readline().strip() == taken[1]
    for job in (jobs[0], third):
        job.communicate("\n", timeout=10)


def test_more_gpus_than_there_are_are_refused_at_once(two_gpus):
    for count in (0, 3):
        with pytest.raises(ValueError, match=f"gpus={count}: from 1 to 2 can be had"):
            gpus.claim(count)


def test_more_gpus_than_none_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="gpus=2: there is none"):
        gpus.claim(2)


def test_a_job_may_hold_several_gpus(two_gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    held = gpus.claim(2)
    assert len(held) == 2
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-bb,GPU-aa"
    for file in held:
        file.close()


def test_jobs_whose_times_do_not_count_share_a_gpu_among_themselves(two_gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    held = [gpus.claim(shared=True) for _ in range(2)]
    assert gpus._lock("GPU-aa") is None
    for files in held:
        files[0].close()
    alone = gpus.claim()
    assert gpus._lock("GPU-aa", shared=True) is None
    alone[0].close()


def test_a_hold_of_another_user_counts(two_gpus, monkeypatch):
    """A file that may only be read, as another user's is, is locked and respected all the same."""
    path = gpus.folder() / "sparse-attention-benchmark-GPU-aa.lock"
    path.touch(mode=0o444)
    monkeypatch.setattr(gpus.os, "open", lambda *_: (_ for _ in ()).throw(PermissionError))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    held = gpus.claim()
    assert len(held) == 1
    assert gpus._lock("GPU-aa") is None
    held[0].close()


def test_all_users_may_lock_the_file_of_one_with_a_strict_umask(two_gpus, monkeypatch, caplog):
    mask = os.umask(0o077)
    try:
        with caplog.at_level("INFO"):
            held = gpus.claim()
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(mask)
    path = gpus.folder() / "sparse-attention-benchmark-GPU-aa.lock"
    assert path.stat().st_mode & 0o777 == 0o444
    assert f"runs on GPU-aa, locked in {gpus.folder()}" in caplog.text
    held[0].close()


def test_locks_are_where_all_users_may_write_whatever_the_environment_says(two_gpus, monkeypatch, tmp_path):
    assert [str(path) for path in LOCKED_IN] == ["/run/lock", "/tmp"]
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert gpus.folder() == tmp_path / "locks"
    (tmp_path / "locks").chmod(0o755)
    with pytest.raises(ValueError, match="locks: a folder that all users may write to is needed"):
        gpus.claim()


def test_a_lock_that_only_its_owner_may_read_is_refused_in_one_line(two_gpus, monkeypatch):
    def refused(*_, **__):
        raise PermissionError

    monkeypatch.setattr(gpus.os, "open", refused)
    monkeypatch.setattr(gpus, "open", refused, raising=False)
    with pytest.raises(ValueError, match="GPU-aa.lock: another user's, who has to make it readable for all"):
        gpus.claim()


def test_a_tuning_imports_what_it_needs_before_it_takes_a_gpu(monkeypatch):
    order = []
    monkeypatch.setattr(tune, "before_gpu", lambda args: order.append("imports"))
    monkeypatch.setattr(gpus, "claim", lambda count, shared: order.append("claim"))
    monkeypatch.setattr(tune, "run", lambda args: order.append("run"))
    shape = "--model testbed-nano --frames 32 --height 48 --width 48 --method radial"
    main(["--one-gpu", "tune", *shape.split(), "--out", "x", "--record", "y"])
    assert order == ["imports", "claim", "run"]
