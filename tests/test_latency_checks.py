"""What voids a latency, and which records count: made-up records of a tiny stage, put together without measuring."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmark import config, latency
from benchmark.models import fused
from benchmark.packed import pack, unpacked_names
from benchmark.records import ROOT, make_record, read_record, sha256_file, transient, write_json
from benchmark.speed import assemble, clock, committed, ends, expected, parts, planning, training
from benchmark.speed.cells import SpeedCell
from benchmark.speed.clock import Clock
from benchmark.speed.settings import Stage, load
from benchmark.speed.settings import stages as stages_of

RADIAL = SpeedCell("tiny", "wan2.1-14b", "tiny", 9, 64, 64, "radial", "paper", steps=10, dense_steps=2)
DENSE = replace(RADIAL, method="dense")
STAGE = RADIAL.of_stage()
SHORT = replace(STAGE, shape="short", frames=5)
FACTS = {"density": 0.25, "block_sparsity": 0.75, "pflop": 1.0, "pflop_dense": 2.0, "mask_hash": "ab", "flags": []}
GPU = {"type": "cuda", "name": "Some GPU"}


def put(records: Path, kind: str, cell: SpeedCell, values=None, reason: str | None = None, **more) -> Path:
    """Writes a record into its place: passed where it has numbers, else incorrect unless its status is said."""
    path = records / cell.path / f"{kind}.json"
    status = more.pop("status", "passed" if values else "incorrect")
    details = {"protocol": clock.PROTOCOL.get(kind, 1)} | more.pop("details", {})
    facts = {"device": GPU, "details": details} | more
    write_json(path, make_record(kind, cell, status, values, reason=reason, **facts))
    return path


def plan(records: Path, *cells: SpeedCell, **more) -> dict:
    """Writes the plan of a stage: all cells with whole steps, the last one with a whole run."""
    keys = [f"{cell.method}/{cell.setting}" for cell in cells]
    planned = {"format": planning.FORMAT, "whole": keys, "training": [], "training_whole": False, "run": keys[-1]}
    planned |= {"cells": {key: {"cell": cell.settings(), **FACTS} for key, cell in zip(keys, cells, strict=True)}}
    planned |= {"training_steps": None, "profile": False, "rank": 128, "asked": "[]"} | more
    write_json(records / cells[0].stage / planning.FILE, planned)
    return planned


def stage(records: Path) -> dict:
    """A plan, and all that a stage's latencies are put together from."""
    outside = {"outside_s": 2.0, "outside_unfused_s": 3.0, "fused_error": 0.0}
    put(records, "outside", STAGE, outside)
    for cell, call, step in ((DENSE, 1.0, 42.0), (RADIAL, 0.25, 12.0)):
        put(records, "attention", cell, {"call_s": call, "permute_s": 0.0})
        put(records, "step", cell, {"step_s": step})
    return plan(records, DENSE, RADIAL)


def latencies(planned: dict, records: Path) -> list[dict]:
    assemble.assemble(planned, records)
    return [read_record(records / cell.path / "latency.json") for cell in (DENSE, RADIAL)]


def test_whole_steps_are_put_together_where_no_check_failed(tmp_path):
    planned = stage(tmp_path)
    assert [held["values"]["step_sparse_s"] for held in latencies(planned, tmp_path)] == [42.0, 12.0]
    # A check that could not be made is no failed one.
    put(tmp_path, "whole_run", RADIAL, status="out_of_memory", reason="2 GiB were free")
    put(tmp_path, "rounding", STAGE, status="unsupported", reason="no CUDA GPU")
    assert {held["status"] for held in latencies(planned, tmp_path)} == {"passed"}


@pytest.mark.parametrize(
    ("kind", "cell", "where"),
    [
        ("outside", STAGE, "outside of wan2.1-14b/tiny"),
        ("rounding", SHORT, "rounding of wan2.1-14b/short"),
        ("whole_run", RADIAL, "whole_run of wan2.1-14b/tiny/radial/paper"),
    ],
)
def test_a_failed_check_voids_every_cell_of_the_stage(tmp_path, kind, cell, where):
    planned = stage(tmp_path)
    plan(tmp_path, replace(DENSE, shape="short", frames=5))
    put(tmp_path, kind, cell, reason="off by 5 %")
    for held in latencies(planned, tmp_path):
        assert (held["status"], held["reason"], held["values"]) == ("incorrect", f"{where}: off by 5 %", {})


def packed(records: Path) -> None:
    """Packs every record of a folder in its place, as the committed ones are."""
    for path in sorted(records.rglob("*.json")):
        if path.name != planning.FILE:
            pack(path, path)


def test_packed_records_are_put_together_as_unpacked_ones_are(tmp_path, capsys):
    planned = stage(tmp_path)
    before = [held["values"] for held in latencies(planned, tmp_path)]
    packed(tmp_path)
    assert not list(tmp_path.rglob("attention.json"))
    after = latencies(planned, tmp_path)
    assert [(held["status"], held["values"]) for held in after] == [("passed", values) for values in before]
    # What is packed is listed, summed up and published with the rest.
    packed(tmp_path)
    latency._print_records(tmp_path / STAGE.stage)
    assert "radial/paper/attention.json" in capsys.readouterr().out
    assert latency._statuses(tmp_path / STAGE.stage)["radial/paper/latency.json"] == "passed"
    names = {path.name for path in committed.publish(tmp_path, tmp_path / "public")}
    assert names == {f"{kind}.json.gz" for kind in ("attention", "step", "outside", "latency")} | {planning.FILE}


def test_packed_records_are_audited(tmp_path, monkeypatch, capsys):
    from benchmark.__main__ import main
    from benchmark.speed import audit

    stage(tmp_path / "records")
    packed(tmp_path)
    asked = []
    monkeypatch.setattr(audit, "remeasure", lambda held, device: asked.append(held["kind"]) or 1.0)
    words = ["--quiet", "latency", "--audit", str(tmp_path / "records"), "--share", "1", "--device", "cpu"]
    assert main(words) == 0 and sorted(asked) == ["attention", "attention", "step", "step"]
    packed(tmp_path)
    assert main(words) == 0 and len(asked) == 4  # what was audited is packed, and known
    assert "radial/paper/attention.json" in capsys.readouterr().out


def test_a_packed_record_of_a_disturbance_is_made_again(tmp_path):
    from benchmark.again import remove_transient

    path = put(tmp_path / "records", "attention", RADIAL, status="error", reason="disturbed", details=transient())
    packed(tmp_path)
    assert remove_transient(tmp_path, ["snakemake"]) == [path.with_name("attention.json.gz")]
    assert not list(tmp_path.rglob("attention.json*"))


def test_an_audit_of_nothing_is_refused_but_stops_no_workflow(tmp_path, capsys):
    from benchmark.__main__ import main

    summary = tmp_path / "summary.json"
    words = ["--quiet", "latency", "--audit", str(tmp_path / "records"), "--device", "cpu"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "nothing that was timed there passed" in error and error.count("\n") == 1
    assert main([*words, "--summary", str(summary)]) == 0
    assert json.loads(summary.read_text())["agrees"] is None


def test_a_failed_whole_run_voids_the_cells_of_a_job_that_leaves_its_method_out(tmp_path):
    planned = stage(tmp_path)
    put(tmp_path, "whole_run", RADIAL, reason="off by 5 %")
    assemble.assemble(latency._only(planned, {"dense"}), tmp_path)
    assert read_record(tmp_path / DENSE.path / "latency.json")["status"] == "incorrect"


def test_another_experiments_rounding_voids_nothing(tmp_path):
    planned = stage(tmp_path)
    other = replace(DENSE, shape="short", frames=5, block=64)
    plan(tmp_path, other)
    put(tmp_path, "rounding", other.of_stage(), reason="off by 5 %")
    assert {held["status"] for held in latencies(planned, tmp_path)} == {"passed"}


def test_rounding_is_measured_and_waited_for_where_all_attention_calls_are_there(tmp_path, monkeypatch):
    planned = stage(tmp_path) | {"training_whole": True}
    monkeypatch.setattr(parts, "rounding", lambda cell, device: ({"fused_error": 0.1, "own_error": 0.1}, {}))
    assert not parts.finished(planned, tmp_path, "cpu")
    parts.measure(planned, tmp_path, Clock("cpu"), "cpu")
    assert read_record(tmp_path / STAGE.path / "rounding.json")["values"]["fused_error"] == 0.1
    assert parts.finished(planned, tmp_path, "cpu")


def longer(cell: SpeedCell) -> SpeedCell:
    return replace(cell, frames=17)


def test_records_about_another_length_are_not_finished(tmp_path):
    stage(tmp_path)
    ends_of = {name: {f"{name}_s": 1.0} for name in (ends.TEXT, ends.DECODER)}
    for kind, values in {"profile": {"pass_s": 1.0}, "lora_outside": {"outside_s": 1.0}, **ends_of}.items():
        put(tmp_path, kind, STAGE, values)
    put(tmp_path, "whole_run", RADIAL, {"agreement": 0.0})
    for cell in (DENSE, RADIAL):
        put(tmp_path, "lora", cell, {"call_s": 1.0})
        put(tmp_path, "lora_step", cell, {"step_s": 1.0})
    more = {"training": ["dense/paper", "radial/paper"], "training_whole": True, "profile": True}
    put(tmp_path, "rounding", STAGE, {"fused_error": 0.1})
    for cells, done in (((DENSE, RADIAL), True), ((longer(DENSE), longer(RADIAL)), False)):
        planned = plan(tmp_path, *cells, **more)
        for part, (_, finished) in latency.MEASURE.items():
            assert finished(planned, tmp_path, "cpu") is done, part


def test_a_job_whose_time_was_up_is_not_done_whatever_records_lie_there(tmp_path, monkeypatch):
    def disturbed():
        raise clock.Disturbed("another process was on the GPU: 7")

    def out_of_time(*_):
        raise clock.OutOfTime("the time is up")

    planned = stage(tmp_path)
    path = tmp_path / RADIAL.path / "attention.json"
    clock.record("attention", RADIAL, path, "cpu", disturbed)
    assert clock.done(path, RADIAL, "cpu") is None and clock.finished([(path, RADIAL)], "cpu")
    monkeypatch.setattr(planning, "ensure", lambda *_: planned)
    one = Stage("tiny", (DENSE, RADIAL), (), (), None, False, None, 128)
    for run, done in ((lambda *_: None, True), (out_of_time, False)):
        monkeypatch.setattr(latency, "MEASURE", {"parts": (run, parts.finished)})
        assert latency.measure(one, ["parts"], tmp_path, Clock("cpu"), "cpu") == {"parts": done}


def test_a_stages_records_about_another_length_are_not_put_together(tmp_path):
    stage(tmp_path)
    planned = plan(tmp_path, longer(DENSE), longer(RADIAL))
    for cell in (longer(DENSE), longer(RADIAL)):
        put(tmp_path, "attention", cell, {"call_s": 1.0, "permute_s": 0.0})
    for held in latencies(planned, tmp_path):
        assert (held["status"], held["reason"]) == ("error", "not measured yet: time outside attention")


def test_tuning_is_held_against_whole_steps_of_the_planned_cells_alone(tmp_path):
    short = [replace(cell, shape="short", frames=5) for cell in (DENSE, RADIAL)]
    planned = plan(tmp_path, *short, training=["dense/paper"], training_whole=True)
    put(tmp_path, "lora_outside", SHORT, {"outside_s": 2.0})
    put(tmp_path, "lora", short[0], {"call_s": 1.0})
    put(tmp_path, "lora_step", short[0], {"step_s": 40.0})
    layers = assemble.layers_of(DENSE)
    assert assemble._model_agreement(planned, tmp_path) == pytest.approx((2 + layers) / 40 - 1)
    assert assemble._model_agreement(planned | {"rank": 64}, tmp_path) is None
    plan(tmp_path, *map(longer, short), training=["dense/paper"], training_whole=True)
    assert assemble._model_agreement(planned, tmp_path) is None


def test_a_changed_method_is_measured_again(tmp_path, monkeypatch):
    path = tmp_path / RADIAL.path / "attention.json"
    mask = {"hashes": {"mask": "ab"}}
    made = clock.record("attention", RADIAL, path, "cpu", lambda: ({"call_s": 1.0, "permute_s": 0.0}, dict(mask)))
    assert made["provenance"]["hashes"] == {"method": sha256_file(ROOT / "methods/radial.py"), "mask": "ab"}
    assert clock.done(path, RADIAL, "cpu", "ab") and not clock.done(path, RADIAL, "cpu", "cd")
    outside = put(tmp_path, "outside", STAGE, {"outside_s": 1.0})
    old = put(tmp_path, "step", RADIAL, {"step_s": 1.0})  # the first records do not say which file it was
    monkeypatch.setattr(clock, "method_hash", lambda name: "changed")
    assert clock.done(path, RADIAL, "cpu") is None and assemble._read(path, RADIAL) is None
    assert not clock.finished([(path, RADIAL)], "cpu")
    assert clock.done(outside, STAGE, "cpu") and clock.done(old, RADIAL, "cpu")


def test_an_estimate_leaves_out_what_is_measured(tmp_path):
    planned = stage(tmp_path) | {"training": ["radial/paper"]}
    whole = {part: expected.part_s(planned, part) for part in ("parts", "whole", "ends", "training", "run")}
    assert min(whole.values()) > 0
    done = committed.measured_in([tmp_path / "no such folder", tmp_path], planned)
    left = {part: expected.part_s(planned, part, done) for part in whole}
    assert left == whole | {"parts": 0.0, "whole": 0.0}
    (tmp_path / RADIAL.path / "attention.json").unlink()
    put(tmp_path, "step", RADIAL, reason="far off")  # did not pass
    put(tmp_path, "lora_outside", training.with_rank(STAGE, planned), {"outside_s": 1.0})
    left = {part: expected.part_s(planned, part, done) for part in whole}
    assert 0 < left["parts"] < whole["parts"] and 0 < left["whole"] < whole["whole"]
    assert 0 < left["training"] < whole["training"]
    other = planned | {"rank": 64}  # of the adapter, which the time outside a tuning step's attention depends on
    done = committed.measured_in([tmp_path], other)
    assert expected.part_s(other, "training", done) == whole["training"]


def test_other_fused_blocks_are_measured_again(tmp_path, monkeypatch):
    transformer = "WanTransformer3DModel"
    said = {clock.FUSED: list(fused.PARTS[transformer])}
    path = put(tmp_path, "outside", STAGE, {"outside_s": 1.0}, details=said)
    first = put(tmp_path, "step", RADIAL, {"step_s": 1.0})  # the first records do not say which parts they took
    assert clock.done(path, STAGE, "cpu")
    monkeypatch.setattr(fused, "PARTS", fused.PARTS | {transformer: (*fused.PARTS[transformer], "down")})
    assert clock.done(path, STAGE, "cpu") is None and clock.done(first, RADIAL, "cpu")


def test_what_failed_is_tried_again_with_another_method_or_other_packages(tmp_path, monkeypatch):
    def fails():
        raise clock.Unsupported("flash-attn-4 can't be imported")

    path = tmp_path / RADIAL.path / "attention.json"
    clock.record("attention", RADIAL, path, "cpu", fails)
    assert clock.done(path, RADIAL, "cpu")["status"] == "unsupported"
    with monkeypatch.context() as patch:
        patch.setattr(clock, "method_hash", lambda name: "mended")
        assert clock.done(path, RADIAL, "cpu") is None
    packages = clock.provenance()["packages"] | {"flash-attn-4": "4.0.0b36"}
    monkeypatch.setattr(clock, "provenance", lambda: {"packages": packages})
    assert clock.done(path, RADIAL, "cpu") is None


def test_a_mask_that_is_not_the_planned_one_ends_the_job(tmp_path, monkeypatch):
    planned = stage(tmp_path)
    (tmp_path / RADIAL.path / "attention.json").unlink()
    ran = {"call_s": 1.0, "permute_s": 0.0}, {"hashes": {"mask": "cd"}}
    monkeypatch.setattr(parts, "attention_calls", lambda *_: ran)
    with pytest.raises(ValueError, match=r"tiny/plan\.json: the mask of radial/paper is not the one that ran"):
        parts.measure(planned, tmp_path, Clock("cpu"), "cpu")
    assert not parts.finished(planned, tmp_path, "cpu")


COMMITTED = ROOT / "results" / "reference" / "h100" / "records"
STAGES = load(ROOT / "config" / "h100.yaml")


@pytest.mark.parametrize("name", ["hunyuanvideo/table1", "wan2.1-14b/table1", "mochi-1/short"])
def test_a_committed_plan_holds_while_the_methods_and_their_masks_are_the_same(tmp_path, monkeypatch, name):
    path = tmp_path / name / planning.FILE
    held = planning.read(COMMITTED / name / planning.FILE)
    monkeypatch.setattr(planning, "plan", lambda stage: {"made": "anew"})
    methods = {name: sha256_file(ROOT / f"methods/{name}.py") for name in ("dense", "radial")}
    other = {**held, "cells": {key: {**facts, "mask_hash": "another"} for key, facts in held["cells"].items()}}
    for written, anew in (
        (held, False),
        (held | {"methods": methods}, False),
        (held | {"methods": methods | {"radial": "another"}}, True),
        (other, True),
    ):
        write_json(path, written)
        assert planning.ensure(STAGES[name], tmp_path) == ({"made": "anew"} if anew else written)


def test_a_plan_says_which_files_its_methods_are_from():
    cells = (replace(DENSE, block=16, knobs={}), replace(RADIAL, block=16))
    made = planning.plan(Stage("tiny", cells, (), (), None, False, None, 128))
    assert made["methods"] == {name: sha256_file(ROOT / f"methods/{name}.py") for name in ("dense", "radial")}
    assert planning._current(made)


def test_every_committed_record_holds_on_the_gpu_that_it_was_measured_on(monkeypatch):
    monkeypatch.setattr(clock, "device_name", lambda device: "NVIDIA H100 80GB HBM3")
    of_stage = ("outside", "text_encoder", "vae_decoder", "profile", "rounding", "lora_outside")
    wanted = {}
    for path in sorted(COMMITTED.rglob(planning.FILE)):
        planned = planning.read(path)
        cells = {key: planning.cell_of(planned, key) for key in planned["cells"]}
        stage = cells["dense/paper"].of_stage()
        for kind in of_stage:
            cell = training.with_rank(stage, planned) if kind == "lora_outside" else stage
            wanted[COMMITTED / stage.path / f"{kind}.json"] = (cell, None)
        for key, cell in cells.items():
            for kind in ("attention", "step", "whole_run", "lora", "lora_step"):
                wanted[COMMITTED / cell.path / f"{kind}.json"] = (cell, parts.mask_of(planned, key))
    there = [path for path in unpacked_names(COMMITTED.rglob("*.json*")) if path in wanted]
    assert len(there) > 80
    for path in there:
        cell, mask = wanted[path]
        assert clock.done(path, cell, "cuda", mask), path


def test_what_another_gpu_measured_is_measured_again_but_kept_where_there_is_none(tmp_path, monkeypatch):
    path = put(tmp_path, "attention", RADIAL, {"call_s": 1.0})
    for gpu, held in (("Some GPU", True), ("Another GPU", False), (None, True)):
        monkeypatch.setattr(clock, "device_name", lambda device, gpu=gpu: gpu)
        assert clock.finished([(path, RADIAL)], "cuda") is held


def test_a_job_without_a_gpu_takes_over_the_plan_alone(tmp_path):
    reference, own = tmp_path / "reference", tmp_path / "own"
    path = put(reference, "attention", RADIAL, {"call_s": 1.0})
    plan(reference, DENSE, RADIAL)
    planned = own / RADIAL.stage / planning.FILE
    assert committed.take_over(RADIAL.stage, "[]", own, reference, None) == [planned]
    # What passed on another GPU is not what this one would measure.
    mine = put(own, "attention", RADIAL, {"call_s": 2.0}, device={"type": "cuda", "name": "Another GPU"})
    assert committed.take_over(RADIAL.stage, "[]", own, reference, "Some GPU") == [mine]
    assert mine.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("part", "gpu"), [("plan", None), ("parts", "Some GPU")])
def test_a_plans_job_is_of_no_gpu(tmp_path, monkeypatch, part, gpu):
    from benchmark.__main__ import main

    taken = []
    monkeypatch.setattr(clock, "device_name", lambda device: "Some GPU")
    monkeypatch.setattr(committed, "take_over", lambda *given: taken.append(given[-1]))
    monkeypatch.setattr(latency, "measure", lambda *_: {part: True})
    words = ["--config", str(ROOT / "config" / "h100.yaml"), "--stage", "mochi-1/short", "--out", str(tmp_path)]
    assert main(["--quiet", "latency", *words, "--part", part, "--resume-from", str(COMMITTED)]) == 0
    assert taken == [gpu]


def test_another_rank_is_measured_again_but_for_the_attention_calls(tmp_path, monkeypatch):
    measured = []

    def record(kind, cell, path, device, measure):
        measured.append((kind, cell.rank))
        return put(tmp_path, kind, cell, {"outside_s": 1.0}) and read_record(path)

    monkeypatch.setattr(clock, "record", record)
    more = {"training": ["dense/paper"], "training_whole": True}
    for rank, kinds in ((4, ["lora_outside", "lora", "lora_step"]), (4, []), (64, ["lora_outside", "lora_step"])):
        planned = plan(tmp_path, DENSE, rank=rank, **more)
        assert training.finished(planned, tmp_path, "cpu") is (not kinds)
        training.measure(planned, tmp_path, Clock("cpu"), "cpu")
        assert measured == [(kind, None if kind == "lora" else rank) for kind in kinds]
        assert training.finished(planned, tmp_path, "cpu")
        measured.clear()


@pytest.mark.parametrize(("said", "rank"), [({}, 128), ({"lora": {"rank": 4}}, 4)])
def test_a_record_that_does_not_have_the_rank_in_its_cell_is_of_the_committed_one(tmp_path, said, rank):
    path = put(tmp_path, "lora_outside", STAGE, {"outside_s": 1.0}, details=said)
    for asked in (4, 128):
        assert (clock.done(path, replace(STAGE, rank=asked), "cpu") is not None) is (asked == rank)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', '{"format": 1, "asked": "{", "cells": {}}'])
def test_a_damaged_plan_is_named(tmp_path, text):
    path = tmp_path / "mochi-1/short" / planning.FILE
    path.parent.mkdir(parents=True)
    path.write_text(text)
    for read in (lambda: planning.read(path), lambda: planning.ensure(STAGES["mochi-1/short"], tmp_path)):
        with pytest.raises(ValueError, match=rf"^{path}: not ") as caught:
            read()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("word", ["num_layer=1", "num_layers=1,ffn=2,num_layer=1", "device=cpu"])
def test_an_argument_that_the_transformer_has_not_is_refused(tmp_path, capsys, word):
    from benchmark.__main__ import main

    words = ["--config", str(ROOT / "config" / "h100.yaml"), "--stage", "wan2.1-14b/short", "--out", str(tmp_path)]
    assert main(["--quiet", "latency", *words, "--device", "cpu", "--part", "plan", "--resized", word]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said and all(name in said for name in ("ffn", "num_layer") if name in word)
    assert not list(tmp_path.rglob("plan.json"))


def test_a_trial_is_of_its_stage_alone():
    held = config.read(ROOT / "config" / "h100.yaml")
    trial = {"ffn_dim": 16}  # HunyuanVideo's transformer has none
    assert list(stages_of(held, trial, "wan2.1-14b/short")) == ["wan2.1-14b/short"]
    with pytest.raises(ValueError, match="hunyuanvideo: HunyuanVideoTransformer3DModel has no ffn_dim"):
        stages_of(held, trial)
