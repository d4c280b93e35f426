"""Making the clips of a cell: deterministic, gone on with after a stop, and honest about failures."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark import generate as verb
from benchmark import registry
from benchmark.__main__ import main
from benchmark.cell import Cell, from_record
from benchmark.clips import read_clip
from benchmark.generate import generate
from benchmark.inputs import read_inputs, write_inputs
from benchmark.models import testbed
from benchmark.operations import generation_operations, pflop
from benchmark.records import read_record, sha256_file
from benchmark.testbed import sample as sampler
from benchmark.testbed.grammar import encode
from benchmark.testbed.world import to_uint8

CELL = Cell(
    "trial", "testbed-nano", "1x", 4, 24, 24, "spatial", budget=0.5, block=4, steps=3, dense_steps=1, clips=2, seed=7
)
FAILURES = {
    "raises": 'raise RuntimeError("no such thing\\nsecond line")',
    "wordless": "raise AssertionError",
    "breaks": "return super().attend(q, *rest) * float('nan')",
    "fills": 'raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\\nmore")',
    "fills_cpu": "return torch.empty(10**16)",
    "odd": "return super().attend(q, *rest)[:, 1:]",
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs("testbed-nano", 4, 24, 24, 2, 7, folder)
    return folder


@pytest.fixture(scope="module")
def passed(inputs, tmp_path_factory):
    """A record and its folder of clips, made without a stop."""
    folder = tmp_path_factory.mktemp("clips")
    return generate(CELL, inputs, folder, "cpu"), folder


@pytest.fixture
def counted(monkeypatch):
    """Every call of the sampler, by its prompt's place; it can be made to stop at one of them."""
    calls: list[int] = []
    original = sampler.sample

    def sample(*args):
        if len(calls) == sample.stop_at:
            raise KeyboardInterrupt
        calls.append(1)
        return original(*args)

    sample.stop_at = None
    monkeypatch.setattr(sampler, "sample", sample)
    return calls, sample


@pytest.fixture
def failing_methods(tmp_path, monkeypatch):
    """A folder of methods that fail in their own ways."""
    folder = tmp_path / "methods"
    folder.mkdir()
    for name, line in FAILURES.items():
        (folder / f"{name}.py").write_text(
            "from dataclasses import dataclass\nimport torch\nfrom benchmark.method import Method\n\n"
            "@dataclass(frozen=True)\nclass Failing(Method):\n"
            f"    def attend(self, q, *rest):\n        {line}\n"
            "    def density(self, *rest):\n        return 1.0\n    attention_operations = density\n"
        )
    monkeypatch.setattr(registry, "METHODS_FOLDER", folder)
    monkeypatch.setattr("methods.__path__", [str(folder)])
    yield folder
    for name in FAILURES:
        sys.modules.pop(f"methods.{name}", None)


def bytes_of(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("*.mkv"))]


def test_the_record_says_how_the_clips_came_about(passed, inputs) -> None:
    record, folder = passed
    assert record["status"] == "passed" and record["kind"] == "generate" and record["reason"] is None
    assert from_record(record) == CELL
    method = registry.get("spatial", record["details"]["knobs"])
    layout = testbed.SPEC.layout(4, 24, 24)
    assert record["details"]["kernel"] == "sdpa" and record["details"]["folder"] == str(folder)
    mask = method.block_mask(layout, 4)
    assert record["values"]["density"] == mask.density == pytest.approx(0.5, abs=0.05)
    dense = pflop(generation_operations(testbed.SPEC, layout, steps=3).total)
    assert record["values"]["pflop_dense"] == dense > record["values"]["pflop"] > 0.3 * dense
    assert record["values"]["generation_s"] > 0
    hashes = record["provenance"]["hashes"]
    prompts, _, read = read_inputs(inputs)
    assert hashes["mask"] == mask.hash()
    assert hashes["weights"] == testbed.manifest("testbed-nano")["sha256"]
    assert hashes["method"] == sha256_file(registry.source_file("spatial"))
    assert {key: hashes[key] for key in read} == read
    assert len(hashes["clips"]) == 64
    assert record["provenance"]["device"]["type"] == "cpu"
    assert [clip["name"] for clip in record["clips"]] == ["000.mkv", "001.mkv"]
    for clip, prompt, seed in zip(record["clips"], prompts["prompts"], prompts["seeds"], strict=True):
        assert (clip["prompt"], clip["seed"]) == (prompt, seed)
        assert sha256_file(folder / clip["name"]) == clip["sha256"]
        frames = read_clip(folder / clip["name"])
        assert frames.shape == (4, 24, 24, 3) and frames.std() > 5
    assert not np.array_equal(*(read_clip(folder / clip["name"]) for clip in record["clips"]))


def test_dense_clips_are_the_sampler_s_with_the_model_s_own_attention(inputs, tmp_path) -> None:
    record = generate(replace(CELL, method="dense", budget=None), inputs, tmp_path, "cpu")
    prompts, noise, _ = read_inputs(inputs)
    transformer = testbed.load("testbed-nano")
    for number, clip in enumerate(record["clips"]):
        text = encode([prompts["prompts"][number]])
        expected = to_uint8(sampler.sample(transformer, noise[number : number + 1], text, CELL.steps)[0]).numpy()
        difference = np.abs(read_clip(tmp_path / clip["name"]).astype(int) - expected)
        assert difference.mean() < 0.5  # of 255; bfloat16 rounds


def test_two_runs_make_the_same_bytes(passed, inputs, tmp_path) -> None:
    record, folder = passed
    again = generate(CELL, inputs, tmp_path / "again", "cpu")
    assert bytes_of(tmp_path / "again") == bytes_of(folder)
    assert again["provenance"]["hashes"] == record["provenance"]["hashes"]


def test_the_method_changes_the_clips_and_only_through_its_attention(passed, inputs, tmp_path) -> None:
    """A method at a density of 1, or in dense steps alone, makes the dense clips."""
    runs = {
        "dense": replace(CELL, method="dense", budget=None),
        "whole": replace(CELL, method="spatial", budget=None, knobs={"width": 4.0}),
        "late": replace(CELL, method="spatial", dense_steps=3),
    }
    for name, cell in runs.items():
        assert generate(cell, inputs, tmp_path / name, "cpu")["status"] == "passed"
    assert bytes_of(tmp_path / "whole") == bytes_of(tmp_path / "late") == bytes_of(tmp_path / "dense")
    assert bytes_of(tmp_path / "dense")[0] != bytes_of(passed[1])[0]


def test_a_finished_job_samples_nothing_again(passed, inputs, counted) -> None:
    record, folder = passed
    before = bytes_of(folder)
    again = generate(CELL, inputs, folder, "cpu")
    assert counted[0] == []
    assert again["clips"] == record["clips"] and bytes_of(folder) == before
    assert again["values"] == record["values"]


def test_a_stopped_job_goes_on_after_its_last_clip(passed, inputs, counted, tmp_path) -> None:
    calls, sample = counted
    sample.stop_at = 1
    with pytest.raises(KeyboardInterrupt):
        generate(CELL, inputs, tmp_path, "cpu")
    assert len(calls) == 1 and len(bytes_of(tmp_path)) == 1
    written = (tmp_path / "000.mkv").stat().st_mtime_ns
    (tmp_path / f".001.{'a' * 32}.mkv").write_bytes(b"half a clip")
    sample.stop_at = None
    record = generate(CELL, inputs, tmp_path, "cpu")
    assert len(calls) == 2
    assert (tmp_path / "000.mkv").stat().st_mtime_ns == written
    assert bytes_of(tmp_path) == bytes_of(passed[1])
    assert record["provenance"]["hashes"] == passed[0]["provenance"]["hashes"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000.mkv", "001.mkv", "progress.json"]


def test_a_damaged_clip_is_made_again(passed, inputs, counted, tmp_path) -> None:
    generate(CELL, inputs, tmp_path, "cpu")
    (tmp_path / "001.mkv").write_bytes(b"nothing")
    generate(CELL, inputs, tmp_path, "cpu")
    assert len(counted[0]) == 3
    assert bytes_of(tmp_path) == bytes_of(passed[1])


@pytest.mark.parametrize("what", ["steps", "knobs", "device", "code"])
def test_whatever_shapes_the_clips_has_them_made_anew(passed, inputs, counted, tmp_path, monkeypatch, what) -> None:
    cell = replace(CELL, clips=1)
    generate(cell, inputs, tmp_path, "cpu")
    (tmp_path / "notes.txt").write_text("a user's own")
    (tmp_path / "kept.mkv").write_text("a user's own")
    (tmp_path / "001.mkv").write_text("left over")
    if what == "steps":
        cell = replace(cell, steps=4)
    elif what == "knobs":
        cell = replace(cell, budget=None, knobs={"width": 0.7})
    elif what == "device":
        monkeypatch.setattr(verb, "describe_device", lambda device: {"type": "cpu", "name": "another"})
    else:
        monkeypatch.setattr(verb, "code_hash", lambda: "another")
    generate(cell, inputs, tmp_path, "cpu")
    assert len(counted[0]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000.mkv", "kept.mkv", "notes.txt", "progress.json"]


@pytest.mark.parametrize(
    ("method", "status", "reason"),
    [
        ("raises", "error", "RuntimeError: no such thing"),
        ("wordless", "error", "AssertionError: AssertionError"),
        ("odd", "error", "ValueError: methods/odd.py: attend returns (1, 63, 6, 32)"),
        ("breaks", "incorrect", "clip 0 holds values that are not finite"),
        ("fills", "out_of_memory", "CUDA out of memory. Tried to allocate 2 GiB."),
        ("fills_cpu", "out_of_memory", "can't allocate memory"),
    ],
)
def test_a_method_that_fails_gives_a_record_without_numbers(
    failing_methods, inputs, tmp_path, method: str, status: str, reason: str
) -> None:
    record = generate(replace(CELL, method=method, budget=None), inputs, tmp_path / "out", "cpu")
    assert record["status"] == status
    assert reason in record["reason"] and "\n" not in record["reason"]
    assert record["values"] == {} and record["clips"] == []
    assert record["provenance"]["hashes"]["noise"] == read_inputs(inputs)[2]["noise"]
    assert not list((tmp_path / "out").glob("*.mkv"))


def test_a_budget_out_of_reach_is_unsupported_with_its_range(inputs, tmp_path) -> None:
    record = generate(replace(CELL, method="radial", budget=0.01), inputs, tmp_path, "cpu")
    assert record["status"] == "unsupported"
    assert "budget=0.01: radial on 4x4x4 with blocks of 4 reaches densities from 0." in record["reason"]
    assert record["values"] == {} and record["clips"] == [] and not bytes_of(tmp_path)


def test_a_full_disk_is_not_the_method_s_fault(inputs, tmp_path, monkeypatch) -> None:
    def write_clip(path, frames):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("benchmark.clips.write_clip", write_clip)
    record = generate(CELL, inputs, tmp_path, "cpu")
    assert (record["status"], record["reason"]) == ("error", "OSError: [Errno 28] No space left on device")
    assert record["details"]["transient"] == []  # the next run makes it again


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "radical"}, "method 'radical' is unknown: did you mean 'radial'"),
        ({"knobs": {"widht": 1.0}}, "has no knob 'widht': did you mean 'width'"),
        ({"model": "testbed-nanu"}, "did you mean 'testbed-nano'"),
        ({"kernel": "sdpb"}, "did you mean 'sdpa'"),
        ({"height": 25}, "height=25: a multiple of 6"),
        ({"block": 0}, "block=0: at least 1"),
        ({"steps": 1, "dense_steps": 0}, "steps=1: at least 2"),
        ({"dense_steps": 9}, "dense_steps=9: 0 to 3"),
        ({"budget": 1.5}, "budget=1.5: a density above 0 and at most 1"),
        ({"clips": 0}, "clips=0: at least 1"),
        ({"clips": 3}, r"noise \(2, 3, 4, 24, 24\): 3 clips of \(3, 4, 24, 24\) are needed"),
        ({"frames": 5}, r"2 clips of \(3, 5, 24, 24\) are needed"),
        ({"seed": 8}, r"seeds \[700000, 700001\]; \[800000, 800001\] are needed for seed=8"),
        ({"tuned": True}, "none is shipped"),
    ],
)
def test_a_cell_that_cannot_be_is_refused_before_anything_runs(inputs, tmp_path, changes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        generate(replace(CELL, **changes), inputs, tmp_path / "out", "cpu")
    assert not (tmp_path / "out").exists()


def test_the_verb_writes_the_record(passed, inputs, tmp_path, capsys) -> None:
    words = ["generate", *CELL.arguments().split(), "--inputs", str(inputs), "--out", str(tmp_path / "clips")]
    words += ["--record", str(tmp_path / "generate.json"), "--device", "cpu"]
    assert main(words) == 0
    record = read_record(tmp_path / "generate.json")
    assert record["status"] == "passed" and from_record(record) == CELL
    assert [clip["sha256"] for clip in record["clips"]] == [clip["sha256"] for clip in passed[0]["clips"]]
    assert json.loads((tmp_path / "clips" / "progress.json").read_text())["clips"] == record["clips"]
    capsys.readouterr()
    assert main([*words, "--inputs", str(tmp_path / "none")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("generate: inputs ") and error.endswith("python -m benchmark inputs writes it")
    if not torch.cuda.is_available():
        assert main([*words, "--device", "cuda"]) == 2
        assert "no CUDA GPU is visible; cpu is allowed" in capsys.readouterr().err
