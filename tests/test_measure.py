"""Measuring a cell's clips against the dense clips from the same noise, and gathering both into rows."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmark.__main__ import main
from benchmark.cell import Cell, from_record
from benchmark.clips import read_clip
from benchmark.collect import collect
from benchmark.generate import generate
from benchmark.inputs import write_inputs
from benchmark.measure import measure
from benchmark.records import read_record, write_json
from benchmark.testbed import adherence
from benchmark.testbed.grammar import parse
from metrics.adherence import METRIC

DENSE = Cell("trial", "testbed-nano", "1x", 3, 48, 48, "dense", block=4, steps=3, clips=2, seed=7)
SPATIAL = replace(DENSE, method="spatial", budget=0.5)
METRICS = ["psnr", "ssim", "lpips", "vision_reward", "adherence"]
SCORES = ["adherence", "count", "colours", "shapes", "directions"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with inputs, and the records of dense and spatial clips."""
    folder = tmp_path_factory.mktemp("made")
    write_inputs("testbed-nano", 3, 48, 48, 2, 7, folder / "inputs")
    records = [generate(cell, folder / "inputs", folder / cell.method, "cpu") for cell in (DENSE, SPATIAL)]
    assert [record["status"] for record in records] == ["passed", "passed"]
    return folder, *records


@pytest.fixture
def dense(made):
    return copy.deepcopy(made[1])


@pytest.fixture
def spatial(made):
    return copy.deepcopy(made[2])


@pytest.fixture(scope="module")
def measured(made):
    return measure(made[1], made[2], METRICS, {})


def test_dense_clips_equal_themselves(dense) -> None:
    record = measure(dense, dense, METRICS, {})
    values = record["values"]
    assert values["psnr"] == 100.0 and values["ssim"] == pytest.approx(1, abs=1e-9)
    assert values.get("lpips", values.get("lpips_untrained")) == pytest.approx(0, abs=1e-9)
    assert record["details"]["metrics"]["psnr"]["flags"] == {"psnr_capped": 6}
    assert [clip["flags"] for clip in record["clips"]] == [{"psnr_capped": 3}] * 2
    assert all(metric["flags"] == {} for name, metric in record["details"]["metrics"].items() if name != "psnr")


def test_the_record_has_what_tables_read(measured, spatial, dense) -> None:
    assert measured["kind"] == "measure" and measured["status"] == "passed"
    assert from_record(measured) == SPATIAL
    values, metrics = measured["values"], measured["details"]["metrics"]
    distance = "lpips" if "lpips" in values else "lpips_untrained"
    assert list(values) == ["psnr", "ssim", distance, *SCORES]
    assert 5 < values["psnr"] < 60 and 0 < values["ssim"] < 0.9999 and values[distance] > 0
    assert measured["units"]["psnr"] == "dB"
    assert list(metrics) == METRICS
    for name, columns in (("psnr", ["psnr"]), ("ssim", ["ssim"]), ("lpips", [distance]), ("adherence", SCORES)):
        facts = metrics[name]
        assert (facts["status"], facts["reason"], facts["columns"], facts["flags"]) == ("passed", None, columns, {})
    assert bool(metrics["lpips"]["footnotes"]) == (distance == "lpips_untrained")
    judge = metrics["vision_reward"]
    assert (judge["status"], judge["columns"]) == ("unsupported", []) and "no judge" in judge["reason"]
    assert [clip["name"] for clip in measured["clips"]] == ["000.mkv", "001.mkv"]
    for key in values:
        own = [clip["values"][key] for clip in measured["clips"]]
        assert values[key] == pytest.approx(sum(own) / 2)
    theirs, ours = dense["provenance"]["hashes"], spatial["provenance"]["hashes"]
    assert measured["provenance"]["hashes"] == {
        "noise": ours["noise"],
        "prompts": ours["prompts"],
        "reference_clips": theirs["clips"],
        "candidate_clips": ours["clips"],
    }
    assert theirs["clips"] != ours["clips"]


def test_adherence_is_that_of_the_clip_and_its_own_prompt(measured, spatial) -> None:
    for clip, found in zip(spatial["clips"], measured["clips"], strict=True):
        pixels = read_clip(Path(spatial["details"]["folder"]) / clip["name"])
        scores = adherence.score(adherence.read_clip(pixels), parse(clip["prompt"]))
        assert {key: found["values"][key] for key in SCORES} == scores


@pytest.mark.parametrize("shape", [(1, 48, 48, 3), (4, 48, 36, 3)])
def test_adherence_of_what_cannot_be_read_is_unsupported(shape) -> None:
    prompt = "a red circle moving left slowly over waves panning right"
    clip = np.zeros(shape, dtype=np.uint8)
    found = METRIC.measure(None, clip, prompt=prompt)
    assert (found.status, dict(found.values)) == ("unsupported", {}) and "square frames" in found.reason
    assert METRIC.measure(None, np.zeros((2, 48, 48, 3), dtype=np.uint8), prompt=prompt).values["adherence"] == 0
    assert METRIC.measure(None, clip).status == "unsupported"
    with pytest.raises(ValueError, match="did you mean 'red'"):
        METRIC.measure(None, clip, prompt=prompt.replace("red", "rad"))


@pytest.mark.parametrize("who", ["candidate", "reference"])
@pytest.mark.parametrize("status", ["out_of_memory", "incorrect", "error", "unsupported"])
def test_clips_that_are_not_there_are_not_measured(dense, spatial, who: str, status: str) -> None:
    failed = spatial if who == "candidate" else dense
    failed |= {"status": status, "reason": "because", "values": {}, "clips": []}
    record = measure(dense, spatial, METRICS, {})
    assert record["status"] == status
    assert record["reason"] == f"{failed['cell']['method']} clips: because"
    assert record["values"] == {} and record["clips"] == [] and from_record(record) == SPATIAL


@pytest.mark.parametrize("what", ["noise", "prompts"])
def test_clips_from_other_inputs_are_refused(dense, spatial, what: str) -> None:
    spatial["provenance"]["hashes"][what] = "0" * 64
    with pytest.raises(ValueError, match=f"spatial and its reference did not start from the same {what}"):
        measure(dense, spatial, ["psnr"], {})


def test_another_number_of_clips_is_refused(dense, spatial) -> None:
    del spatial["clips"][1]
    with pytest.raises(ValueError, match=r"clips of name \['000.mkv'\], its reference of \['000.mkv', '001.mkv'\]"):
        measure(dense, spatial, ["psnr"], {})


def test_clips_that_were_replaced_or_lost_are_refused(dense, spatial, tmp_path) -> None:
    shutil.copytree(spatial["details"]["folder"], tmp_path, dirs_exist_ok=True)
    spatial["details"]["folder"] = str(tmp_path)
    shutil.copyfile(tmp_path / "000.mkv", tmp_path / "001.mkv")
    with pytest.raises(ValueError, match="001.mkv: not the file that was recorded"):
        measure(dense, spatial, ["psnr"], {})
    (tmp_path / "001.mkv").unlink()
    with pytest.raises(ValueError, match="001.mkv: the file is missing; make spatial again"):
        measure(dense, spatial, ["psnr"], {})


def test_unknown_metrics_and_settings_are_refused(dense, spatial) -> None:
    with pytest.raises(ValueError, match="did you mean 'psnr'"):
        measure(dense, spatial, ["pnsr"], {})
    with pytest.raises(ValueError, match="setting 'weight' does not exist; did you mean 'weights'"):
        measure(dense, spatial, ["lpips"], {"lpips": {"weight": None}})


def write_all(folder: Path, records) -> list[Path]:
    paths = [folder / record["cell"]["method"] / f"{record['kind']}.json" for record in records]
    for path, record in zip(paths, records, strict=True):
        write_json(path, record)
    return paths


def test_collect_finds_what_it_wants(dense, spatial, measured, tmp_path) -> None:
    records = [dense, measure(dense, dense, ["psnr", "vision_reward"], {}), spatial, measured]
    rows = collect("trial", write_all(tmp_path, records))
    found = {(row["method"], row["metric"]): row for row in rows}
    assert json.loads(found["dense", "psnr"]["flags"]) == {"psnr_capped": 6}
    assert found["spatial", "psnr"]["flags"] is None
    assert found["spatial", "psnr"]["value"] == measured["values"]["psnr"]
    assert found["spatial", "psnr"]["density"] == spatial["values"]["density"]
    assert found["spatial", "psnr"]["standard_error"] > 0
    assert found["spatial", "psnr"]["weights_hash"] == spatial["provenance"]["hashes"]["weights"]
    assert found["spatial", "adherence"]["ranks"] is True
    if "lpips_untrained" in measured["values"]:
        row = found["spatial", "lpips_untrained"]
        assert row["ranks"] is False and "not LPIPS" in row["footnote"]
    for method in ("dense", "spatial"):
        row = found[method, "vision_reward"]
        assert (row["status"], row["value"]) == ("unsupported", None) and "no judge" in row["reason"]
    for key in ("density", "pflop", "pflop_dense", "generation_s"):
        assert found["spatial", key]["value"] == spatial["values"][key]

    measured = copy.deepcopy(measured)
    measured["provenance"]["hashes"]["candidate_clips"] = "0" * 64
    with pytest.raises(ValueError, match="its clips 0+ are not those of the cell now"):
        collect("trial", write_all(tmp_path, [*records[:3], measured]))


def test_the_verb_measures_records_of_its_own_cell_and_inputs(made, dense, spatial, tmp_path, capsys) -> None:
    paths = write_all(tmp_path, [dense, spatial])
    base = ["measure", *SPATIAL.arguments().split(), "--reference", str(paths[0]), "--candidate", str(paths[1])]
    words = [*base, "--inputs", str(made[0] / "inputs"), "--record", str(tmp_path / "measure.json")]
    assert main([*words, "--metrics", "psnr, ssim"]) == 0
    record = read_record(tmp_path / "measure.json")
    assert set(record["values"]) == {"psnr", "ssim"}
    capsys.readouterr()

    def refused(*more: str) -> str:
        assert main([*words, *more]) == 2
        return capsys.readouterr().err

    assert "is the record of another cell" in refused("--candidate", str(paths[0]))
    assert "records of the verb generate are needed" in refused("--candidate", str(tmp_path / "measure.json"))
    write_inputs("testbed-nano", 3, 48, 48, 2, 8, tmp_path / "other")
    assert "did not start from the noise in" in refused("--inputs", str(tmp_path / "other"))
