"""Times, exact attention of sampled queries, and the verb that holds kernels against it before it times them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmark import kernel_times, kernels, records, timing, watch
from benchmark.__main__ import main
from benchmark.again import remove_transient
from benchmark.kernels import reference, sdpa
from benchmark.masks import BlockMask
from benchmark.records import read_record
from benchmark.sampled_oracle import errors, exact, kernel_errors, own_errors, sample_rows
from benchmark.speed import clock

SHAPE = ["--model", "testbed-nano", "--frames", "8", "--heads", "2", "--block", "64", "--device", "cpu"]
SHAPE += ["--repeat", "2", "--warmup", "1", "--rows", "40"]

HOSTS = 2**22 + 7
"""A number that no process has here, since Linux goes up to 2**22: one of a host, seen from a container."""

WRONG = """
from benchmark.kernels import sdpa

SKIPS_BLOCKS = False


def unavailable(device):
    return None


def skips(block):
    return False


def unsupported(block, dtype, head_dim):
    return None


def attend(q, k, v, mask, out=None):
    result = sdpa.attend(q, k, v, mask, out)
    {fault}
    return result
"""


@pytest.fixture
def add_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Drops a kernel with a fault among the others, until the test ends."""
    monkeypatch.setattr(kernels, "__path__", [*kernels.__path__, str(tmp_path)])
    added = []

    def add(name: str, fault: str) -> str:
        (tmp_path / f"{name}.py").write_text(WRONG.replace("{fault}", fault))
        added.append(f"benchmark.kernels.{name}")
        return name

    yield add
    for module in added:
        sys.modules.pop(module, None)


def _run(tmp_path: Path, *words: str) -> dict:
    path = tmp_path / "record.json"
    assert main(["kernels_bench", *SHAPE, "--record", str(path), *words]) == 0
    return read_record(path)


def _entries(record: dict) -> dict[tuple[str, str], dict]:
    return {(entry["method"], entry["kernel"]): entry for entry in record["details"]["entries"]}


# --- times -----------------------------------------------------------------------------------------------------------


def test_calls_are_timed_after_those_that_warm_up() -> None:
    made = []

    def call() -> None:
        made.append(1)
        time.sleep(0.01 if len(made) > 2 else 0.1)

    samples = timing.time_calls(call, warmup=2, calls=3, device="cpu")
    assert len(made) == 5 and len(samples) == 3
    assert all(0.01 <= sample < 0.1 for sample in samples)
    with pytest.raises(ValueError, match="2 warm-up and 0 timed calls"):
        timing.time_calls(call, warmup=2, calls=0)


def test_quartiles_are_those_of_numpy() -> None:
    import numpy as np

    for number in (1, 2, 3, 10, 11):
        samples = [math.sin(n) for n in range(number)]
        assert timing.quartiles(samples) == pytest.approx(np.quantile(samples, [0.25, 0.5, 0.75]))
    with pytest.raises(ValueError, match="no samples"):
        timing.quartiles([])


def _answers(monkeypatch: pytest.MonkeyPatch, answer: str | Exception, used_mib: int = 1600) -> None:
    def ask(device: torch.device, query: str) -> str:
        if isinstance(answer, Exception):
            raise answer
        return answer

    timing._be_listed.cache_clear()
    monkeypatch.setattr(timing, "ask", ask)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 900 * 2**20)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: ((80000 - used_mib) * 2**20, 80000 * 2**20))


def test_the_state_of_a_gpu_is_what_nvidia_smi_says(monkeypatch: pytest.MonkeyPatch) -> None:
    _answers(monkeypatch, "1980, 2619, 45, 612.50, 700.00, [N/A]\n")
    assert timing.gpu_state("cuda") == {
        "sm_clock_mhz": 1980,
        "memory_clock_mhz": 2619,
        "temperature_c": 45,
        "power_w": 612.5,
        "power_limit_w": 700,
    }
    assert timing.gpu_state("cpu") == {}
    _answers(monkeypatch, FileNotFoundError("no nvidia-smi"))
    assert timing.gpu_state("cuda") == {"unread": "nvidia-smi: no nvidia-smi"}


def test_records_name_the_gpu_that_ran_and_have_its_clocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stands first in nvidia-smi's list of all GPUs."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text(
        '#!/bin/sh\ncase "$*" in\n*--id=GPU-bb*) echo "580.1, 1980, 2619, 60, 650.50";;\n'
        '*) echo "580.1, 345, 2619, 30, 70.00"; echo "580.1, 1980, 2619, 60, 650.50";;\nesac\n'
    )
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="bb"))
    found = records.describe_device("cuda")
    assert (found["name"], found["uuid"], found["sm_clock_mhz"], found["power_w"]) == (
        "Some GPU",
        "GPU-bb",
        "1980",
        "650.50",
    )
    smi.write_text("#!/bin/sh\nexit 9\n")
    assert "not read" in records.describe_device("cuda")["driver"]


def test_other_processes_are_all_but_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing.os, "getpid", lambda: 7)
    _answers(monkeypatch, "7, 1000\n8, 30\n")
    assert timing.other_processes("cuda") == [{"pid": 8, "memory_mib": 30}]
    _answers(monkeypatch, f"{HOSTS}, 1000\n")  # this one, as the host numbers it
    assert timing.other_processes("cuda") == []
    _answers(monkeypatch, f"{HOSTS + 1}, 30\n{HOSTS}, 1000\n")
    assert timing.other_processes("cuda") == [{"pid": HOSTS + 1, "memory_mib": 30}]
    _answers(monkeypatch, f"{HOSTS}, [N/A]\n")  # nor its memory
    assert timing.other_processes("cuda") == []
    _answers(monkeypatch, "")  # lists nobody, not even this process
    assert timing.other_processes("cuda") == []
    _answers(monkeypatch, "", used_mib=3600)
    assert timing.other_processes("cuda") == [{"pid": None, "memory_mib": 2700}]
    _answers(monkeypatch, subprocess.CalledProcessError(9, "nvidia-smi"))
    assert timing.other_processes("cuda") is None
    assert timing.other_processes("cpu") == []


def test_nobody_else_is_taken_for_this_process() -> None:
    foreign = {"pid": HOSTS, "memory_mib": 30000}
    assert timing.without_own([foreign], 99, 0, 0) == [foreign]  # more than this one can hold
    small = {"pid": HOSTS, "memory_mib": 500}
    assert timing.without_own([small], 99, 900, 950) == [small]  # less than it holds
    assert timing.without_own([small], 99, 400, 1000) == []  # while it was looked this one may have held so much
    here = {"pid": os.getppid(), "memory_mib": 1000}  # not a number of the host: somebody has it here
    assert timing.without_own([here], 99, 900, 900) == [here]
    two = [{"pid": HOSTS, "memory_mib": 1300}, {"pid": HOSTS + 1, "memory_mib": 1400}]
    assert timing.without_own(two, 99, 900, 900) == two[1:]


def test_this_process_is_on_the_gpu_before_it_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    _answers(monkeypatch, "")
    info, ask = torch.cuda.mem_get_info, timing.ask
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: order.append("context") or info(device))
    monkeypatch.setattr(timing, "ask", lambda *words: order.append("looked") or ask(*words))
    timing.other_processes("cuda")
    assert order[:2] == ["context", "looked"]


def test_a_process_that_comes_and_goes_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([[], [{"pid": 8, "memory_mib": 30}], None, [{"pid": 8, "memory_mib": 40}], []])
    done = threading.Event()

    def look(device: str) -> list | None:
        found = next(looks, "over")
        if found == "over":
            done.set()
            return []
        return found

    monkeypatch.setattr(watch, "WATCH_S", 0.001)
    monkeypatch.setattr(timing, "gpu_state", lambda device: {"power_w": 70.0})
    monkeypatch.setattr(timing, "other_processes", look)
    with watch.Watch("cuda") as looking:
        assert done.wait(10)
    assert looking.others == [{"pid": 8, "memory_mib": 30}] and looking.seen()["power_w"] == [70.0] * 3
    assert watch.disturbance(looking.others) == "another process was on the GPU: 8 (30 MiB); end it and run again"
    assert watch.disturbance([]) is None and "cannot be told" in watch.disturbance(None)


# --- exact attention of sampled queries ------------------------------------------------------------------------------


def _inputs(tokens: int = 300, heads: int = 2) -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(3, 1, tokens, heads, 16, generator=torch.Generator().manual_seed(3)).bfloat16())


def _mask(heads: int, tokens: int = 300, block: int = 64) -> BlockMask:
    side = -(-tokens // block)
    blocks = torch.rand(heads, side, side, generator=torch.Generator().manual_seed(4)) < 0.4
    return BlockMask(blocks | torch.eye(side, dtype=torch.bool), block, tokens)


@pytest.mark.parametrize("heads", [1, 2])
def test_sampled_queries_have_the_attention_and_the_gradients_of_the_oracle(heads: int) -> None:
    q, k, v = _inputs()
    mask, rows = _mask(heads), sample_rows(300, 25)
    assert rows[0] == 0 and rows[-1] == 299 and len(rows) == 25 and rows.unique().equal(rows)
    assert sample_rows(20, 25).tolist() == list(range(20))
    dout = torch.randn(25, 2, 16, generator=torch.Generator().manual_seed(5))
    found = exact(q, k, v, rows, mask, dout)
    leaves = [x.float().requires_grad_() for x in (q, k, v)]
    out = reference.attend_float32(*leaves, mask)
    whole = torch.zeros_like(out).index_copy(1, rows, dout[None])
    dq, dk, dv = torch.autograd.grad(out, leaves, whole)
    expected = type(found)(out[0, rows], dq[0, rows], dk[0], dv[0])
    assert all(error < 1e-5 for error in errors(found, expected).values())


def test_a_fault_of_a_kernel_is_an_error_far_above_what_rounding_costs() -> None:
    q, k, v = _inputs()
    mask, rows = _mask(2), sample_rows(300, 40)
    dout = torch.randn(40, 2, 16, generator=torch.Generator().manual_seed(5)).bfloat16()
    allowed = own_errors(q, k, v, rows, dout)
    assert set(allowed) == {"out", "dq", "dk", "dv"} and all(1e-4 < error < 1e-2 for error in allowed.values())
    right = kernel_errors(sdpa.attend, q, k, v, mask, rows, dout)
    assert all(right[name] <= 2 * allowed[name] for name in allowed)

    def one_block_more(q, k, v, mask, out=None):
        blocks = mask.blocks.clone()
        blocks[1, 0, (~blocks[1, 0]).nonzero()[0, 0]] = True
        return sdpa.attend(q, k, v, BlockMask(blocks, mask.block, mask.tokens), out)

    def one_row_missing(q, k, v, mask, out=None):
        result = sdpa.attend(q, k, v, mask, out)
        result[0, 150, 1, 3] = float("nan")
        return result

    def no_gradient_of_values(q, k, v, mask, out=None):
        return sdpa.attend(q, k, v.detach() + 0 * v, mask, out)

    assert kernel_errors(one_block_more, q, k, v, mask, rows)["out"] > 10 * allowed["out"]
    assert kernel_errors(one_row_missing, q, k, v, mask, rows) == {"out": math.inf}
    wrong = kernel_errors(no_gradient_of_values, q, k, v, mask, rows, dout)
    assert wrong["dv"] == pytest.approx(1) and wrong["dq"] <= 2 * allowed["dq"]


# --- the verb ---------------------------------------------------------------------------------------------------------


def test_kernels_are_checked_and_timed_under_every_method(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ("--methods", "radial,svg,sana", "--set", "radial.decay=0.5", "--kernels", "sdpa", "--backward")
    record = _run(tmp_path, *words, "--complete")
    assert record["kind"] == "kernels" and record["status"] == "passed"
    assert record["cell"] == {
        "model": "testbed-nano", "frames": 8, "height": 48, "width": 48, "text": 0, "block": 64, "heads": 2,
        "head_dim": 32, "tokens": 512, "seed": 0,
    }  # fmt: skip
    assert record["provenance"]["device"]["type"] == "cpu" and record["values"]["matmul_tflops"] > 0
    entries = _entries(record)
    assert list(entries) == [("dense", "sdpa"), ("radial", "sdpa"), ("svg", "sdpa"), ("sana", "method")]
    for (method, _), entry in entries.items():
        values = entry["values"]
        assert entry["status"] == "passed" and values["complete_s"] > 0
        if method == "sana":
            assert set(entry["values"]) == {
                f"complete_{what}" for what in ("s", "low_s", "high_s", "tflops", "matmul_share")
            }
            continue
        assert entry["errors"].keys() == {"out"} and entry["training"]["errors"].keys() == {"out", "dq", "dk", "dv"}
        for checked in (entry, entry["training"]):
            assert all(checked["errors"][name] <= checked["allowed"][name] for name in checked["errors"])
        pairs = 512**2 * entry["density"]
        assert entry["executed_pairs"] == pytest.approx(pairs)
        for name, factor in (("forward", 1), ("training", 3.5)):
            assert values[f"{name}_low_s"] <= values[f"{name}_s"] <= values[f"{name}_high_s"]
            rate = factor * 4 * 2 * 32 * pairs / values[f"{name}_s"] / 1e12
            assert values[f"{name}_tflops"] == pytest.approx(rate)
            assert values[f"{name}_matmul_share"] == pytest.approx(rate / record["values"]["matmul_tflops"])
            dense = entries["dense", "sdpa"]["values"][f"{name}_tflops"]
            assert values[f"{name}_dense_share"] == pytest.approx(rate / dense)
    assert entries["dense", "sdpa"]["values"]["forward_dense_share"] == 1
    assert entries["radial", "sdpa"]["density"] < 1 and entries["radial", "sdpa"]["knobs"]["decay"] == 0.5
    assert [plan["method"] for plan in record["details"]["planning"]] == ["dense", "radial", "svg"]
    printed = capsys.readouterr().out
    assert "TFLOP/s" in printed and printed.count("training") == 3


def test_planning_is_that_of_what_each_kernel_reads(tmp_path: Path, add_kernel, capsys) -> None:
    add_kernel("listed", "pass")
    path = tmp_path / "listed.py"
    made = "\n\nMADE = []\n\n\ndef prepare(mask, k, variant=None):\n"
    slow = "    time.sleep(0.0 if MADE else 0.2)\n    MADE.append((mask, dict(mask._forms)))\n"
    path.write_text(f"import time\n{path.read_text()}{made}{slow}")
    record = _run(tmp_path, "--methods", "radial", "--kernels", "listed,reference")
    assert all(plan.keys() == {"method", "tokens", "heads", "seconds", "peak_mib"} for plan in _plans(record))
    entries = _entries(record)
    assert entries["dense", "listed"]["lists"]["seconds"] < 0.2  # the first call does not count
    assert entries["radial", "listed"]["lists"].keys() == {"seconds", "peak_mib"}
    assert "lists" not in entries["radial", "reference"]
    masks = kernels.load("listed").MADE
    assert len({id(mask) for mask, _ in masks}) == len(masks) == 4 and not any(forms for _, forms in masks)
    assert "planning radial: lists of listed 0.0" in capsys.readouterr().out


def _plans(record: dict) -> list[dict]:
    return record["details"]["planning"]


def test_entries_say_by_what_backend_pytorch_computed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    entries = _entries(_run(tmp_path, "--methods", "radial", "--kernels", "sdpa,sdpa:cudnn,reference"))
    assert entries["dense", "sdpa"]["backends"] == entries["radial", "sdpa"]["backends"] == ["FLASH_ATTENTION"]
    assert "backends" not in entries["dense", "reference"]
    variant = entries["dense", "sdpa:cudnn"]
    assert (variant["status"], variant["values"]) == ("unsupported", {})
    assert "CUDNN_ATTENTION is chosen on NVIDIA GPUs only" in variant["reason"]
    assert "computed by FLASH_ATTENTION" in capsys.readouterr().out


def test_a_wrong_kernel_gets_no_time(tmp_path: Path, add_kernel, capsys: pytest.CaptureFixture) -> None:
    add_kernel("off", "result[:, :64] *= 1.05")
    add_kernel("lazy", "result[:, -1] = float('nan')")
    add_kernel("broken", "raise RuntimeError('it broke')")
    add_kernel("greedy", "import torch; raise torch.OutOfMemoryError('too much')")
    entries = _entries(_run(tmp_path, "--methods", "dense", "--kernels", "off,lazy,broken,greedy,flash4,sdpa"))
    statuses = {name: entry["status"] for (_, name), entry in entries.items()}
    assert statuses == {
        "off": "incorrect", "lazy": "incorrect", "broken": "error", "greedy": "out_of_memory",
        "flash4": "unsupported", "sdpa": "passed",
    }  # fmt: skip
    for (_, name), entry in entries.items():
        assert bool(entry["values"]) == (name == "sdpa")
        assert bool(entry["reason"]) == (name != "sdpa")
    assert "relative error against float32: out " in entries["dense", "off"]["reason"]
    assert "flash-attn-4 runs on NVIDIA GPUs only" in capsys.readouterr().out


def test_a_wrong_gradient_gets_no_training_time(tmp_path: Path, add_kernel) -> None:
    add_kernel("stuck", "result = result + 0.1 * (v - v.detach())")
    add_kernel("forward_only", "assert not q.requires_grad, 'no gradients'")
    words = ("--methods", "dense", "--kernels", "stuck,forward_only,sdpa", "--backward")
    entries = _entries(_run(tmp_path, *words))
    statuses = {name: entry["training"]["status"] for (_, name), entry in entries.items()}
    assert statuses == {"stuck": "incorrect", "forward_only": "error", "sdpa": "passed"}
    for (_, name), entry in entries.items():
        assert entry["status"] == "passed" and entry["values"]["forward_s"] > 0
        assert ("training_s" in entry["values"]) == (name == "sdpa")
    assert ": dv " in entries["dense", "stuck"]["training"]["reason"]


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ([{"pid": 9, "memory_mib": 10}], [], "another process was on the GPU: 9 (10 MiB)"),
        ([], [{"pid": 9, "memory_mib": 10}], "another process was on the GPU: 9 (10 MiB)"),
        (None, [], "whether another process used the GPU cannot be told"),
        ([], None, "whether another process used the GPU cannot be told"),
    ],
)
def test_another_process_voids_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: list | None, after: list | None, words: str
) -> None:
    looks = iter([before, after])
    monkeypatch.setattr(kernel_times, "other_processes", lambda device: next(looks))
    record = _run(tmp_path, "--methods", "dense", "--kernels", "sdpa")
    assert record["status"] == "error" and words in record["reason"]
    assert not record["values"] and "entries" not in record["details"]
    assert record["details"]["transient"] == []  # the next run makes it again


def test_a_process_that_took_the_memory_is_named_and_memory_that_is_too_small_stays(tmp_path, monkeypatch) -> None:
    def too_much(device):
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr(kernel_times, "matmul_rate", too_much)
    looks = iter([[], [{"pid": 9, "memory_mib": 10}]])
    monkeypatch.setattr(kernel_times, "other_processes", lambda device: next(looks))
    record = _run(tmp_path, "--methods", "dense", "--kernels", "sdpa")
    assert record["status"] == "error" and "another process was on the GPU: 9" in record["reason"]
    assert record["details"]["transient"] == []
    monkeypatch.setattr(kernel_times, "other_processes", lambda device: [])
    record = _run(tmp_path, "--methods", "dense", "--kernels", "sdpa")
    assert record["status"] == "out_of_memory" and "transient" not in record["details"]


@pytest.mark.parametrize(("package", "due"), [("torch", True), ("no-such-package", False)])
def test_kernels_are_measured_again_where_a_package_has_been_installed_since(tmp_path: Path, package, due) -> None:
    record = _run(tmp_path, "--methods", "dense", "--kernels", "sdpa")
    record["details"]["packages"] = {package: "missing"}
    made, by_hand = (tmp_path / "kernels" / f"{name}.json" for name in ("model-shape", "by-hand"))
    for path in (made, by_hand):
        records.write_json(path, record)
    assert remove_transient(tmp_path, ["snakemake", "-n"], [made]) == []
    assert remove_transient(tmp_path, ["snakemake"], [made]) == [made] * due and made.exists() != due
    assert by_hand.exists()  # no job makes it


def test_the_next_run_measures_kernels_again_that_were_disturbed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(kernel_times, "other_processes", lambda device: None)
    path = tmp_path / "kernels" / "model-shape.json"
    records.write_json(path, _run(tmp_path, "--methods", "dense", "--kernels", "sdpa"))
    assert remove_transient(tmp_path, ["snakemake"], [path, path.with_name("none.json")]) == [path]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_machine_without_a_gpu_gets_a_record_that_says_so(tmp_path: Path) -> None:
    record = _run(tmp_path, "--device", "cuda")
    assert (record["status"], record["reason"]) == ("unsupported", "PyTorch finds no CUDA GPU")
    assert record["details"]["transient"] == []


def test_what_cannot_be_asked_for_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "record.json"
    for words, line in (
        (["--kernels", "sdpb"], "kernel 'sdpb' is unknown: did you mean 'sdpa'"),
        (["--kernels", "sdpa:flesh"], "kernel 'sdpa:flesh' is unknown: did you mean 'flash'"),
        (["--kernels", "flash4:column5"], "kernel 'flash4:column5' is unknown: did you mean 'columns5'"),
        (["--methods", "radiall"], "radiall"),
        (["--methods", "radial", "--set", "decay=1"], "--set decay=1: METHOD.KNOB=VALUE is needed"),
        (["--repeat", "0"], "repeat=0: at least 1 is needed"),
        (["--limit-s", "0"], "limit-s=0: more than 0 seconds are needed"),
    ):
        assert main(["kernels_bench", *SHAPE, "--record", str(path), *words]) == 2
        assert line in capsys.readouterr().err
    assert not path.exists()


def test_a_variant_is_tried_where_it_differs(tmp_path: Path) -> None:
    record = _run(tmp_path, "--methods", "radial", "--kernels", "flash4", "--tune")
    names = {method: [] for method in ("dense", "radial")}
    for entry in record["details"]["entries"]:
        names[entry["method"]].append(entry["kernel"])
    assert names == {
        "dense": ["flash4"],
        "radial": ["flash4", "flash4:frames", "flash4:columns5"],
    }
    assert json.dumps(record["details"]["options"]["tune"]) == "true"


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every timed call takes ten seconds, and nothing else takes any; with a warm-up and two calls 40 s a kernel."""
    now = [0.0]

    def time_calls(function, warmup, calls, device):
        now[0] += 10 * (warmup + calls)
        return [10.0] * calls

    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(kernel_times, "time_calls", time_calls)
    monkeypatch.setattr(kernel_times, "matmul_rate", lambda device: (1e12, 1.0))


def test_what_the_time_does_not_reach_is_left_out_by_name(tmp_path: Path, slow, capsys: pytest.CaptureFixture) -> None:
    """The kernel that is asked for first is timed under every method, dense attention's other kernels are not."""
    record = _run(tmp_path, "--methods", "radial,sana", "--kernels", "reference,sdpa", "--limit-s", "100")
    assert record["status"] == "passed" and list(_entries(record)) == [("dense", "reference"), ("radial", "reference")]
    assert [plan["method"] for plan in _plans(record)] == ["dense", "radial"]
    left_out = [(entry["method"], entry["kernel"]) for entry in record["details"]["left_out"]]
    assert left_out == [("dense", "sdpa"), ("radial", "sdpa"), ("sana", "method")]
    assert "left out, since the time was over: dense sdpa, radial sdpa, sana method" in capsys.readouterr().out


def test_a_backward_pass_that_would_end_too_late_is_left_out_by_name(tmp_path: Path, slow, capsys) -> None:
    words = ("--methods", "dense", "--kernels", "sdpa", "--backward")
    record = _run(tmp_path, *words, "--limit-s", "70")
    entry = _entries(record)["dense", "sdpa"]
    assert entry["status"] == "passed" and entry["values"]["forward_s"] == 10 and "training" not in entry
    assert record["details"]["left_out"] == [{"method": "dense", "kernel": "sdpa", "what": "training"}]
    assert "left out, since the time was over: dense sdpa training" in capsys.readouterr().out
    record = _run(tmp_path, *words, "--limit-s", "200")
    assert _entries(record)["dense", "sdpa"]["values"]["training_s"] == 10 and not record["details"]["left_out"]


def test_every_job_on_a_gpu_ends_by_the_limit_of_the_configuration() -> None:
    rules = (records.ROOT / "benchmark" / "rules" / "speed.smk").read_text().split("\nrule ")[1:]
    on_gpu = {text.partition(":")[0]: "--limit-s {params.limit} " in text for text in rules if "--one-gpu" in text}
    assert on_gpu == {"speed_measure": True, "speed_kernels": True, "speed_audit": True}
