"""The audit: silent about results that are what their records say, and a line for whatever is not."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark import audit as verb
from benchmark.__main__ import main
from benchmark.audit import audit, what_differs
from benchmark.cell import Cell, canonical, from_record
from benchmark.clips import read_clip, write_clip
from benchmark.collect import collect, write_parquet
from benchmark.generate import generate
from benchmark.inputs import write_inputs
from benchmark.measure import measure
from benchmark.packed import pack
from benchmark.records import describe_device, read_record, sha256_file, write_json
from benchmark.testbed import shards
from benchmark.tolerance import CONTROL, LEAST_PSNR, MARGIN, least_psnr

DENSE = Cell(
    "trial", "testbed-nano", "1x", 3, 48, 48, "dense", block=4, steps=2, dense_steps=1, clips=2, seed=7
)  # fmt: skip
CELLS = (DENSE, replace(DENSE, method="spatial", budget=0.5), replace(DENSE, method="radial", budget=0.01))
METRICS = ["psnr", "ssim", "vision_reward"]
RESULTS = Path("results/trial")
INPUTS = RESULTS / "inputs" / "testbed-nano" / "1x" / "seed7"


def record_path(method: str, kind: str) -> Path:
    return RESULTS / "records" / "testbed-nano" / "1x" / method / "untuned" / f"{kind}.json"


def clip_path(method: str, name: str = "000.mkv") -> Path:
    return RESULTS / "clips" / "testbed-nano" / "1x" / method / "untuned" / name


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A project's folder with the results of three methods, of which one cannot reach its budget."""
    folder = tmp_path_factory.mktemp("project")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the jobs of a run; the audit takes as many as the record names
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_inputs("testbed-nano", 3, 48, 48, 2, 7, INPUTS)
        for cell in CELLS:
            write_json(
                record_path(cell.method, "generate"), generate(cell, INPUTS, clip_path(cell.method).parent, "cpu")
            )
            records = [read_record(record_path(method, "generate")) for method in ("dense", cell.method)]
            write_json(record_path(cell.method, "measure"), measure(*records, METRICS, {}))
        paths = [record_path(cell.method, kind) for cell in CELLS for kind in ("generate", "measure")]
        write_parquet(collect("trial", paths), RESULTS / "records.parquet")
    torch.set_num_threads(threads)
    return folder


@pytest.fixture
def project(made, tmp_path, monkeypatch) -> Path:
    """A copy of it to spoil, which is the current folder."""
    shutil.copytree(made, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


@pytest.fixture
def remembered(made, project, monkeypatch) -> None:
    """Clips are not drawn a second time, to save time: those of the undisturbed results stand for them."""

    def again(cell, inputs, out, device):
        known = json.loads((made / record_path(cell.method, "generate")).read_text())
        if canonical(cell) != canonical(from_record(known)) or sha256_file(inputs / "noise.safetensors") != sha256_file(
            made / INPUTS / "noise.safetensors"
        ):
            return generate(cell, inputs, out, device)
        if known["status"] == "passed":
            shutil.copytree(made / clip_path(cell.method).parent, out, dirs_exist_ok=True)
        return known

    monkeypatch.setattr("benchmark.generate.generate", again)


@pytest.fixture
def elsewhere(monkeypatch) -> None:
    """The audit runs on another processor than the records are from."""
    monkeypatch.setattr(verb, "describe_device", lambda device: describe_device(device) | {"name": "another"})


def edit(path: Path, change) -> None:
    record = json.loads(path.read_text())
    change(record)
    write_json(path, record)


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def tree() -> dict[str, str]:
    return {path.as_posix(): sha256_file(path) for path in sorted(Path().rglob("*")) if path.is_file()}


def the_line(share: float = 0.01, seed: int = 0) -> str:
    """The one difference that an audit finds."""
    (line,) = audit("trial", share, seed).differences
    assert "\n" not in line
    return line


def test_undisturbed_results_pass_bit_for_bit_and_stay_as_they_are(project, capsys) -> None:
    before = tree()
    assert main(["audit", "--experiment", "trial", "--share", "1", "--seed", "5"]) == 0
    said = capsys.readouterr().out
    assert "6 records of 3 cells, 10 files hashed\n" in said  # 4 clips, prompts, noise, weights, 3 methods
    assert said.count("(compared bit for bit)") == 3
    assert said.endswith("0 differences; the cells made again were drawn with --seed 5\n")
    assert tree() == before


def test_a_flipped_byte_in_a_clip(remembered, capsys) -> None:
    flip(clip_path("spatial"), -100)
    assert main(["audit", "--experiment", "trial", "--seed", "0"]) == 1
    first, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith(f"file {clip_path('spatial')}: SHA-256 is ")
    assert str(record_path("spatial", "generate")) in first
    assert the_line(share=1) == first


def test_packed_records_are_there(remembered) -> None:
    """As those that are committed."""
    for path in RESULTS.glob("records/**/*.json"):
        pack(path, path)
    assert audit("trial", seed=0).differences == []


def test_a_missing_clip(remembered) -> None:
    clip_path("dense", "001.mkv").unlink()
    assert the_line().startswith(f"file {clip_path('dense', '001.mkv')}: the file is missing")


@pytest.mark.parametrize("place", [40, -1])
def test_changed_noise(remembered, place) -> None:
    flip(INPUTS / "noise.safetensors", place)
    line = the_line(share=1)
    assert line.startswith(f"file {INPUTS / 'noise.safetensors'}: ") and line.endswith("generate.json and 4 more")


def test_changed_noise_with_its_prompts_made_to_agree(remembered) -> None:
    write_inputs("testbed-nano", 3, 48, 48, 2, 8, INPUTS)
    lines = audit("trial", 0.01, 0).differences
    assert [line.split(":")[0] for line in lines] == [
        f"file {INPUTS / name}" for name in ("noise.safetensors", "prompts.json")
    ]


@pytest.mark.parametrize("what", ["weights", "method"])
def test_weights_or_a_method_that_changed_since(remembered, what) -> None:
    edit(record_path("spatial", "generate"), lambda r: r["provenance"]["hashes"].update({what: "f" * 64}))
    line = the_line(share=1)
    assert ("testbed-nano.safetensors" if what == "weights" else "methods/spatial.py") in line and "f" * 12 in line


@pytest.fixture
def sharded(remembered, tmp_path, monkeypatch) -> Path:
    """The records are about weights in shards; the index that stands for them."""
    index, _ = shards.write({name: torch.ones(4) for name in "abc"}, tmp_path / "weights", "some", largest=20)
    monkeypatch.setattr(verb, "weights_files", lambda model: [index])
    for path in RESULTS.glob("records/**/generate.json"):
        edit(path, lambda r: r["provenance"]["hashes"].update(weights=sha256_file(index)))
    return index


@pytest.mark.parametrize("harm", ["nothing", "shard", "gone", "index"])
def test_every_shard_of_the_weights_is_hashed(sharded, harm) -> None:
    shard = sorted(sharded.parent.glob("*.safetensors"))[1]
    if harm == "nothing":
        assert audit("trial", 0.01, 0).differences == []
        return
    if harm == "shard":
        flip(shard, -1)
    elif harm == "gone":
        shard.unlink()
    else:
        sharded.write_text("{}")
    named = sharded if harm == "index" else shard
    assert the_line().startswith(f"file {named}: {'the file is missing' if harm == 'gone' else 'SHA-256 is '}")


def test_the_judge_of_the_record_judges_again(remembered) -> None:
    (RESULTS / "records.parquet").unlink()
    settings = {"judge": "visionreward-video", "model": "", "download": True}
    records = [read_record(record_path(method, "generate")) for method in ("dense", "spatial")]
    write_json(record_path("spatial", "measure"), measure(*records, METRICS, {"vision_reward": settings}))
    words = ["measure", "--vision-reward", json.dumps(settings), "--lpips-weights", "heads"]
    edit(record_path("spatial", "measure"), lambda r: r["provenance"].update(command=shlex.join(words)))
    assert audit("trial", 1, 0).differences == []
    assert verb._settings(shlex.join(words)) == {
        "lpips": {"weights": "heads", "download": False},
        "vision_reward": settings | {"download": False},
    }
    edit(record_path("spatial", "measure"), lambda r: r["provenance"].update(command="measure --vision-reward [1]"))
    lines = audit("trial", 1, 0).differences
    assert len(lines) == 1 and "cannot be measured again: the command of the record" in lines[0]


def test_an_edited_mean_is_found_without_measuring(remembered) -> None:
    (RESULTS / "records.parquet").unlink()
    edit(record_path("spatial", "measure"), lambda r: r["values"].update(psnr=r["values"]["psnr"] + 1e-6))
    assert f"record {record_path('spatial', 'measure')}: psnr is " in the_line()


def edit_psnr(record) -> None:
    for clip in record["clips"]:
        clip["values"]["psnr"] += 1
    record["values"]["psnr"] += 1


def test_an_edited_value_is_found_by_measuring_anew(remembered) -> None:
    (RESULTS / "records.parquet").unlink()
    edit(record_path("spatial", "measure"), edit_psnr)
    lines = audit("trial", 1, 0).differences
    assert len(lines) == 3 and all(f"record {record_path('spatial', 'measure')}: " in line for line in lines)
    assert "clips[0].values.psnr: " in lines[0] and "values.psnr: " in lines[2]


def test_an_edited_value_differs_from_the_collected_table(remembered) -> None:
    edit(record_path("spatial", "measure"), edit_psnr)
    lines = [line for seed in range(9) for line in audit("trial", 0.01, seed).differences]
    assert sum("records.parquet has" in line for line in lines) == 9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r["values"].update(density=0.4), "values.density: 0.4 is recorded, anew it is "),
        (lambda r: r["provenance"]["hashes"].update(mask="e" * 64), "hashes.mask: eeeeeeeeeeee is recorded, anew"),
        (lambda r: r["details"].update(kernel="flex"), "details.kernel: flex is recorded, anew it is sdpa"),
        (lambda r: r["clips"][0].update(prompt="a red dog"), "clips[0].prompt: a red dog is recorded"),
    ],
)
def test_an_edited_record_of_clips_is_found_by_making_them_again(remembered, change, words) -> None:
    (RESULTS / "records.parquet").unlink()
    edit(record_path("spatial", "generate"), change)
    lines = audit("trial", 1, 0).differences
    assert any(words in line for line in lines), lines


def test_a_failure_that_is_none_any_more(remembered) -> None:
    edit(record_path("radial", "generate"), lambda r: r["cell"].update(budget=None))
    assert any(
        "status: unsupported is recorded, anew it is passed" in line for line in audit("trial", 1, 0).differences
    )


def exchange(frames: np.ndarray) -> None:
    """Puts another clip into the place of one, and makes every hash agree."""
    write_clip(clip_path("spatial"), frames)

    def change(record):
        record["clips"][0]["sha256"] = sha256_file(clip_path("spatial"))
        together = hashlib.sha256("".join(clip["sha256"] for clip in record["clips"]).encode()).hexdigest()
        record["provenance"]["hashes"]["clips"] = together

    edit(record_path("spatial", "generate"), change)
    records = [read_record(record_path(method, "generate")) for method in ("dense", "spatial")]
    write_json(record_path("spatial", "measure"), measure(*records, METRICS, {}))


def test_a_clip_that_was_exchanged_with_all_its_hashes(remembered) -> None:
    exchange(read_clip(clip_path("spatial")) // 2 * 2)
    lines = audit("trial", 1, 0).differences
    assert any("clips[0].sha256" in line for line in lines)


@pytest.mark.parametrize("content", ["", "{}", '{"format": 1, "status": "passed"}', "[1]"])
def test_a_damaged_record_is_a_line_and_the_rest_is_audited(remembered, content) -> None:
    record_path("spatial", "measure").write_text(content)
    flip(clip_path("dense"), -100)
    lines = audit("trial", 1, 0).differences
    assert any(line.startswith(f"record {record_path('spatial', 'measure')}: ") for line in lines)
    assert any(line.startswith(f"file {clip_path('dense')}") for line in lines)
    assert all("\n" not in line for line in lines)


def test_a_record_whose_seal_is_broken_is_a_line(remembered) -> None:
    path = record_path("spatial", "measure")
    path.write_text(path.read_text().replace('"unsupported"', '"passed"'))
    (line,) = audit("trial", 1, 0).differences
    assert line.startswith(f"record {path}: ") and "seal" in line


@pytest.mark.parametrize("key", ["details", "provenance", "cell", "clips"])
def test_a_record_that_lacks_a_part_is_a_line(remembered, key) -> None:
    edit(record_path("spatial", "generate"), lambda r: r.pop(key))
    lines = audit("trial", 1, 0).differences
    assert any(line.startswith(f"record {record_path('spatial', 'generate')}: ") for line in lines)


def test_a_record_in_another_cell_s_place(remembered) -> None:
    shutil.copy(record_path("dense", "measure"), record_path("spatial", "measure"))
    assert any("it is about another cell" in line for line in audit("trial", 0.01, 0).differences)


def test_on_another_machine_a_tolerance_holds(remembered, elsewhere) -> None:
    found = audit("trial", 1, 0)
    assert found.differences == []
    assert set(found.remade.values()) == {f"to {LEAST_PSNR:.1f} dB: other name"}
    edit(record_path("spatial", "measure"), lambda r: r["clips"][0]["values"].update(ssim=0.5))
    assert any("clips[0].values.ssim: 0.5 is recorded" in line for line in audit("trial", 1, 0).differences)


def test_on_another_machine_a_clip_may_be_near_but_not_another(remembered, elsewhere) -> None:
    own = read_clip(clip_path("spatial"))
    exchange(own // 2 * 2)  # off by 1 in half of the places: 51 dB
    (RESULTS / "records.parquet").unlink()
    assert audit("trial", 1, 0).differences == []
    exchange(255 - own)
    (line,) = audit("trial", 1, 0).differences
    assert f"clip 000.mkv: {line.split('000.mkv: ')[1].split()[0]} dB to the one made anew; at least" in line


def test_what_counts_as_the_same_machine() -> None:
    one = {
        "packages": {"torch": "2", "av": "18"},
        "python": "3.11",
        "device": {"type": "cpu", "name": "a", "threads": 1},
    }
    assert what_differs(one, one) == []
    assert what_differs(one, one | {"date": "later", "commit": "other"}) == []
    assert what_differs(one, one | {"packages": {"torch": "3", "av": "18"}}) == ["torch"]
    assert what_differs(one, one | {"device": one["device"] | {"threads": 2}}) == ["threads"]
    assert what_differs(one, one | {"python": "3.12"}) == ["python"]
    assert what_differs(one, one | {"device": one["device"] | {"instructions": "AVX2"}}) == ["instructions"]


def test_on_another_machine_the_control_says_how_near_a_clip_must_be(remembered, elsewhere) -> None:
    """Clips off by 51 dB pass where rounding makes up to 70, and not where it makes 83 at most."""
    exchange(read_clip(clip_path("spatial")) // 2 * 2)
    (RESULTS / "records.parquet").unlink()
    control = json.loads(record_path("spatial", "measure").read_text())
    control["cell"]["method"] = CONTROL
    for worst, needed in ((70.0, None), (83.0, "at least 55.0 dB is needed"), (100.0, None)):
        for clip in control["clips"]:
            clip["values"]["psnr"] = worst
        write_json(record_path(CONTROL, "measure"), control)
        lines = [line for line in audit("trial", 1, 0).differences if "to the one made anew" in line]
        assert len(lines) == (needed is not None) and all(line.endswith(needed) for line in lines), lines


def test_how_near_a_clip_must_be_where_the_control_says_nothing() -> None:
    passed = {"status": "passed", "clips": [{"values": {"psnr": 52.0}}, {"values": {"psnr": 49.9}}]}
    assert least_psnr(passed) == pytest.approx(49.9 - MARGIN)
    assert least_psnr({"status": "passed", "clips": [{"values": {"psnr": 37.5}}]}) == LEAST_PSNR
    for control in (
        None,
        {"status": "error", "clips": []},
        {"status": "passed", "clips": [{"values": {"ssim": 1.0}}]},
        {"status": "passed", "clips": [{"values": {"psnr": 100.0}}, {"values": {"psnr": 60.0}}]},
    ):
        assert least_psnr(control) == LEAST_PSNR


def test_how_many_cells_are_made_again_and_which(remembered, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(verb, "_remake", lambda chosen, *rest: asked.append(chosen))
    for share, seed in ((0.05, 1), (0.34, 1), (1.0, 1), (0.05, 1), *((0.05, seed) for seed in range(20))):
        audit("trial", share, seed)
    assert [len(chosen) for chosen in asked[:3]] == [1, 2, 3] and asked[0] == asked[3]
    assert {chosen[0][2] for chosen in asked[4:]} == {"dense", "spatial", "radial"}
    assert audit("trial").seed != audit("trial").seed


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--share", "0"], "share=0.0: a share of the cells above 0 and at most 1"),
        (["--share", "1.5"], "share=1.5"),
        (["--share", "nan"], "share=nan"),
        (["--seed", "-1"], "seed=-1: at least 0"),
        (["--experiment", "trail"], "there are records of: trial"),
    ],
)
def test_what_cannot_be_audited_is_one_line(remembered, capsys, words, line) -> None:
    assert main(["audit", "--experiment", "trial", *words]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and line in err
