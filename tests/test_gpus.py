"""GPUs for jobs that run side by side, with an nvidia-smi that is played."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmark import gpus

CLAIM = """
import os
from benchmark import gpus
held = gpus.claim(poll_s=0.05)
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
input()
"""


@pytest.fixture
def two_gpus(tmp_path, monkeypatch):
    """Two GPUs, as nvidia-smi lists them."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho '0, GPU-aa'\necho '1, GPU-bb'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
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


def test_jobs_side_by_side_take_different_gpus_and_wait_for_one(two_gpus):
    def start():
        return subprocess.Popen(
            [sys.executable, "-c", CLAIM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ.copy(),
        )

    jobs = [start() for _ in range(2)]
    taken = [job.stdout.readline().strip() for job in jobs]
    assert sorted(taken) == ["GPU-aa", "GPU-bb"]
    third = start()
    jobs[1].communicate("\n", timeout=10)
    assert third.stdout.readline().strip() == taken[1]
    for job in (jobs[0], third):
        job.communicate("\n", timeout=10)
