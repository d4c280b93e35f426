"""The canonical form of records: what two runs share, byte for byte."""

from __future__ import annotations

import json
import random

import pytest
import synthetic

from benchmark.__main__ import main
from benchmark.canonical import canonical_text, is_measured, record_files
from benchmark.records import make_record, read_record, write_json


@pytest.fixture
def paths(tmp_path, monkeypatch):
    """Records of two methods at two lengths, where the verb looks for them."""
    monkeypatch.chdir(tmp_path)
    return synthetic.write_records(tmp_path / "results" / synthetic.EXPERIMENT, ("dense", "radial"), ("1x", "2x"))


def of(paths) -> str:
    return canonical_text(map(read_record, paths))


def rewrite(path, change) -> None:
    record = read_record(path)
    change(record)
    write_json(path, record)


MEASURED = {
    "date": lambda r: r["provenance"].update(date="1999-01-01"),
    "commit": lambda r: r["provenance"].update(commit="feed", code="feed"),
    "command": lambda r: r["provenance"].update(command="by hand"),
    "packages": lambda r: r["provenance"].update(packages={"torch": "9"}, python="9", system="other"),
    "device": lambda r: r["provenance"].update(device={"type": "cpu", "name": "another", "threads": 64}),
    "seconds": lambda r: [clip.update(seconds=random.random(), first=True) for clip in r["clips"]],
    "generation_s": lambda r: r["values"].update(generation_s=99.0),
    "by its unit": lambda r: (r["values"].update(peak=99.0), r["units"].update(peak="GiB")),
    "details": lambda r: r["details"].update(folder="elsewhere", sm_clock_mhz=3, planning_s=0.5),
}
KEPT = {
    "value": lambda r: r["values"].update(density=0.123),
    "clip": lambda r: r["clips"][0].update(sha256="feed"),
    "prompt": lambda r: r["clips"][0].update(prompt="another"),
    "noise": lambda r: r["provenance"]["hashes"].update(noise="feed"),
    "mask": lambda r: r["provenance"]["hashes"].update(mask="feed"),
    "weights": lambda r: r["provenance"]["hashes"].update(weights="feed"),
    "knob": lambda r: r["details"].update(knobs={"decay": 0.5, "window_s": 4}),
    "setting": lambda r: r["cell"].update(steps=17),
    "kernel": lambda r: r["details"].update(kernel="flex"),
}


@pytest.mark.parametrize("change", MEASURED.values(), ids=MEASURED)
def test_what_is_measured_is_removed(paths, change) -> None:
    before = of(paths)
    rewrite(paths[0], change)
    assert of(paths) == before


@pytest.mark.parametrize("change", KEPT.values(), ids=KEPT)
def test_what_decides_and_what_comes_out_is_kept(paths, change) -> None:
    before = of(paths)
    rewrite(paths[0], change)
    assert of(paths) != before


def test_knobs_are_settings_whatever_they_are_called(paths) -> None:
    rewrite(paths[0], lambda r: r["details"].update(knobs={"window_s": 4}))
    before = of(paths)
    rewrite(paths[0], lambda r: r["details"].update(knobs={"window_s": 5}))
    assert of(paths) != before


def test_an_edited_clip_value_shows(paths) -> None:
    measure = next(path for path in paths if path.name == "measure.json")
    before = of(paths)
    rewrite(measure, lambda r: r["clips"][0]["values"].update(psnr=99.0))
    assert of(paths) != before


def test_a_failure_keeps_its_reason_but_not_the_bytes_that_were_free(paths) -> None:
    def text(status: str, reason: str) -> str:
        return canonical_text([make_record("generate", synthetic.cell("radial"), status, reason=reason)])

    assert text("error", "one") != text("error", "two")
    assert text("out_of_memory", "1.00 GiB free") == text("out_of_memory", "1.01 GiB free")
    assert text("out_of_memory", "x") != text("error", "x")


def test_no_column_of_a_metric_counts_as_measured_time() -> None:
    from benchmark.metric import discover

    columns = [column for metric in discover().values() for column in metric.columns]
    assert columns and not [column.key for column in columns if is_measured(column.key, column.unit)]
    assert not any(map(is_measured, ("density", "pflop", "pflop_dense", "clips", "dense_steps", "status")))


def test_the_order_of_records_does_not_matter_and_all_are_there(paths) -> None:
    text = of(paths)
    assert of(paths[::-1]) == text
    held = json.loads(text)["records"]
    assert [(r["cell"]["length"], r["cell"]["method"], r["kind"]) for r in held] == [
        (length, method, kind)
        for length in ("1x", "2x")
        for method in ("dense", "radial")
        for kind in ("generate", "measure")
    ]
    assert "seconds" not in text and "date" not in held[0]


def test_by_hand_it_is_one_command(paths, tmp_path, capsys) -> None:
    words = ["collect", "--experiment", synthetic.EXPERIMENT]
    assert main([*words, "--canonical", "out/canonical.json"]) == 0
    assert (tmp_path / "out" / "canonical.json").read_text() == of(paths)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["canonical.json"]
    assert main([*words, "--records", *map(str, paths), "--canonical", "b.json", "--out-csv", "r.csv"]) == 0
    assert (tmp_path / "b.json").read_text() == of(paths) and (tmp_path / "r.csv").exists()
    capsys.readouterr()
    for wrong, line in (
        (words, "nothing to write"),
        (["collect", "--experiment", "nope", "--canonical", "c.json"], "there are records of: trial"),
    ):
        assert main(wrong) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and line in err
    paths[1].unlink()
    assert main([*words, "--canonical", "c.json"]) == 2
    assert not (tmp_path / "c.json").exists()


def test_records_are_found_and_temporary_files_are_not(paths) -> None:
    (paths[0].parent / ".generate.json.12.part").write_text("{")
    (paths[0].parent / ".x.json").write_text("{")
    assert record_files(synthetic.EXPERIMENT) == sorted(path.relative_to(path.parents[7]) for path in paths)
