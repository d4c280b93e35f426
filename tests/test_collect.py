"""Collecting records: what comes out, and what is refused."""

from __future__ import annotations

import csv
import json
import math

import pyarrow.parquet
import pytest
import synthetic

from benchmark.__main__ import main
from benchmark.collect import COLUMNS, WHOLE_RECORD, collect, standard_error, write_csv, write_parquet
from benchmark.records import make_record, write_json


@pytest.fixture
def records(tmp_path):
    """Records of three methods at two lengths."""
    return synthetic.write_records(tmp_path, ("dense", "svg", "radial"), ("1x", "2x"))


def change(path, **changes):
    """Writes a record anew with another part: ``hashes``, ``device``, ``cell``, ``details``."""
    record = json.loads(path.read_text())
    for key, value in changes.items():
        place = record["cell"] if key == "cell" else record["provenance"]
        if key == "details":
            record["details"] |= value
        elif key == "cell":
            place |= value
        else:
            place[key] = place[key] | value
    write_json(path, record)


def find(rows, **facts):
    """The one row with these facts."""
    found = [row for row in rows if all(row[key] == value for key, value in facts.items())]
    assert len(found) == 1
    return found[0]


def test_one_row_a_cell_and_metric(records):
    rows = collect(synthetic.EXPERIMENT, records)
    assert all(list(row) == list(COLUMNS) for row in rows)
    keys = [(row["model"], row["length"], row["method"], row["tuning"], row["metric"]) for row in rows]
    assert len(set(keys)) == len(keys) == 6 * (4 + 8 + 1)  # generate, measure, vision reward without a number
    row = find(rows, length="2x", method="radial", metric="psnr")
    clips = [18 + 8 * synthetic.quality("radial", "2x", n) for n in range(3)]
    assert row["value"] == pytest.approx(sum(clips) / 3)
    assert row["standard_error"] == pytest.approx(standard_error(clips))
    assert (row["title"], row["kind"], row["unit"], row["direction"], row["ranks"]) == (
        "Radial", "measure", "dB", "higher", True,
    )  # fmt: skip
    assert row["density"] == find(rows, length="2x", method="radial", metric="density")["value"]
    assert row["noise_hash"] == synthetic.digest("noise", "testbed-nano", "2x")
    assert row["mask_hash"] == synthetic.digest("mask", "radial", "2x")
    assert row["record"].endswith("testbed-nano/2x/radial/untuned/measure.json")


def test_methods_stand_in_the_order_of_tables_and_a_new_one_last(tmp_path):
    paths = synthetic.write_records(tmp_path, ("radial", "brand_new", "dense"), ("1x",))
    rows = collect(synthetic.EXPERIMENT, reversed(paths))
    assert list(dict.fromkeys(row["method"] for row in rows)) == ["dense", "radial", "brand_new"]
    assert find(rows, method="brand_new", metric="psnr")["title"] == "brand_new"


def test_standard_error_over_clips():
    assert standard_error([1.0, 2.0, 4.0]) == pytest.approx(math.sqrt((16 + 1 + 25) / 9 / 2 / 3))
    assert standard_error([5.0]) is None


def test_a_metric_without_a_number_keeps_its_status_and_reason(records):
    row = find(collect(synthetic.EXPERIMENT, records), length="1x", method="svg", metric="vision_reward")
    assert row["value"] is None and row["status"] == "unsupported" and "no judge" in row["reason"]


def test_untrained_lpips_never_ranks_and_has_its_footnote(records):
    row = find(collect(synthetic.EXPERIMENT, records), length="1x", method="svg", metric="lpips_untrained")
    assert not row["ranks"] and row["direction"] == "" and "not LPIPS" in row["footnote"]


def test_flags_stay_with_their_number(records):
    rows = collect(synthetic.EXPERIMENT, records)
    assert json.loads(find(rows, length="1x", method="dense", metric="psnr")["flags"]) == {"psnr_capped": 48}
    assert find(rows, length="1x", method="dense", metric="ssim")["flags"] is None


def test_what_a_method_can_set(tmp_path):
    rows = collect(synthetic.EXPERIMENT, synthetic.write_records(tmp_path, lengths=("1x",)))
    facts = {row["method"]: (row["settable"], row["operator"]) for row in rows}
    assert facts["radial"] == facts["sta"] == facts["random"] == (True, "softmax")
    assert facts["dense"] == facts["riflex"] == (False, "softmax")
    assert facts["sana"] == (False, "own")


def test_a_record_that_did_not_pass_has_one_row_without_a_number(records, tmp_path):
    of = synthetic.cell("svg", "1x")
    write_json(
        synthetic.path_of(tmp_path, of, "measure"), make_record("measure", of, "out_of_memory", reason="48 GiB asked")
    )
    row = find(collect(synthetic.EXPERIMENT, records), length="1x", method="svg", kind="measure")
    assert (row["metric"], row["value"], row["status"], row["reason"]) == (
        WHOLE_RECORD, None, "out_of_memory", "48 GiB asked",
    )  # fmt: skip


def test_both_files_hold_the_same_and_the_order_of_records_does_not_matter(records, tmp_path):
    for name, paths in (("a", records), ("b", records[::-1])):
        rows = collect(synthetic.EXPERIMENT, paths)
        write_parquet(rows, tmp_path / name / "r.parquet")
        write_csv(rows, tmp_path / name / "r.csv")
    for kind in ("parquet", "csv"):
        assert (tmp_path / "a" / f"r.{kind}").read_bytes() == (tmp_path / "b" / f"r.{kind}").read_bytes()
    held = pyarrow.parquet.read_table(tmp_path / "a" / "r.parquet").to_pylist()
    assert held == rows
    with open(tmp_path / "a" / "r.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["metric"] for line in lines] == [row["metric"] for row in held]
    assert [line["value"] for line in lines if line["status"] == "unsupported"] == [""] * 6
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["r.csv", "r.parquet"]


def refused(records, words):
    with pytest.raises(ValueError, match=words) as error:
        collect(synthetic.EXPERIMENT, records)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_missing_record_is_refused(records):
    records[3].unlink()
    assert str(records[3]) in refused(records, "missing")


def test_a_record_that_is_none_is_refused(records):
    records[2].write_text("{}")
    assert str(records[2]) in refused(records, "not a record")


@pytest.mark.parametrize("left", [0, 1])
def test_half_of_a_cell_is_refused(records, left):
    lost = {0: "measure", 1: "generate"}[left]
    assert f"the {lost} record" in refused(records[:1] if left == 0 else records[1:2], "missing")


def test_no_records_are_refused():
    refused([], "none are given")


def test_two_records_of_one_cell_are_refused(records, tmp_path):
    copy = tmp_path / "copy.json"
    copy.write_text(records[0].read_text())
    refused([*records, copy], "same cell")


def test_another_experiment_is_refused(records):
    change(records[0], cell={"experiment": "other"})
    refused(records, "'other'")


def test_two_gpu_models_are_refused(records):
    for path in records:
        change(path, device={"type": "cuda", "name": "GPU A"})
    change(records[5], device={"name": "GPU B"})
    message = refused(records, "one GPU model")
    assert str(records[5]) in message and "GPU A" in message and "GPU B" in message


def test_one_gpu_model_is_taken(records):
    for path in records:
        change(path, device={"type": "cuda", "name": "GPU A"})
    assert {row["device"] for row in collect(synthetic.EXPERIMENT, records)} == {"GPU A"}


def test_cpu_and_gpu_for_the_same_kind_are_refused(records):
    change(records[0], device={"type": "cuda", "name": "GPU A"})
    refused(records, "one kind of device")


@pytest.mark.parametrize("kind", [0, 1])
def test_another_noise_is_refused(records, kind):
    change(records[2 + kind], hashes={"noise": "feed"})
    assert str(records[2 + kind]) in refused(records, "noise feed")


def test_unknown_noise_is_refused(records):
    change(records[2], hashes={"noise": ""})
    refused(records, "no hash of its noise")


def test_other_weights_are_refused(records):
    change(records[8], hashes={"weights": "feed"})
    refused(records, "weights feed")


def test_another_judge_is_refused(records):
    measured = [path for path in records if path.name == "measure.json"]
    for path in measured[1:]:
        change(path, details={"provenance": {"vision_reward_weights": "beef"}})
    collect(synthetic.EXPERIMENT, records)  # one that says nothing of it, as of a metric that was not asked for
    change(measured[0], details={"provenance": {"vision_reward_weights": "feed"}})
    assert str(measured[1]) in refused(records, "vision_reward_weights beef differs")


@pytest.mark.parametrize("name", ["steps", "dense_steps", "dense_layers", "seed", "clips", "frames"])
def test_another_schedule_is_refused(records, name):
    change(records[2], cell={name: 1})
    refused(records, f"{name}=1")


def test_a_measurement_of_clips_that_were_replaced_is_refused(records):
    change(records[2], hashes={"clips": "feed"})
    refused(records, "remeasure")


def test_the_verb_writes_both_files(records, tmp_path, capsys):
    out = [str(tmp_path / "out" / name) for name in ("r.parquet", "r.csv")]
    words = ["collect", "--experiment", synthetic.EXPERIMENT, "--records", *map(str, records)]
    assert main([*words, "--out-parquet", out[0], "--out-csv", out[1]]) == 0
    assert pyarrow.parquet.read_table(out[0]).num_rows == 78
    records[1].unlink()
    capsys.readouterr()
    assert main([*words, "--out-parquet", str(tmp_path / "x"), "--out-csv", out[1]]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and str(records[1]) in said[0]
    assert not (tmp_path / "x").exists()


def test_a_metric_that_tells_dense_clips_from_themselves_is_refused(tmp_path):
    paths = synthetic.write_records(tmp_path, ("dense", "radial"), ("1x",))
    record = json.loads(paths[1].read_text())
    record["values"]["psnr"] = 99.9
    write_json(paths[1], record)
    with pytest.raises(ValueError, match="psnr of the dense clips against themselves is 99.9; 100 is needed"):
        collect(synthetic.EXPERIMENT, paths)
