"""Times at the paper's shapes: the same code at a tiny size on the CPU, what fails, and what is put together."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import yaml

from benchmark import latency
from benchmark.records import make_record, read_record, write_json
from benchmark.speed import (
    assemble,
    audit,
    clock,
    committed,
    expected,
    outside_profile,
    parts,
    planning,
    settings,
    steps,
    training,
)
from benchmark.speed.cells import SpeedCell, from_settings
from benchmark.speed.clock import Clock, Disturbed, OutOfTime, Timing
from paper_figures.speed import prediction

STAGE = "wan2.1-14b/tiny"
RESIZED = "num_layers=3,num_attention_heads=2,attention_head_dim=16,text_dim=16,freq_dim=16,ffn_dim=32"
TINY = {
    "experiment": "tiny",
    "speed": {
        "kernel": "auto",
        "block": 16,
        "lora": {"rank": 2},
        "stages": {
            STAGE: {
                "shape": [9, 64, 64],
                "schedule": {"steps": 3, "dense_steps": 1, "dense_layers": 1},
                "methods": ["dense", "radial", "sta"],
                "density": 0.5,
                "whole": ["radial/paper"],
                "training": ["radial/paper"],
                "training_whole": True,
                "run": "radial/paper",
                "profile": True,
                "authors": {
                    "sta": {
                        "mixture": [
                            {"share": 0.5, "knobs": {"tile": "1x2x2", "window": "1x1x2"}},
                            {"share": 0.5, "knobs": {"tile": "1x2x2", "window": "2x1x1"}},
                        ]
                    }
                },
            }
        },
    },
}
MEASURED = ["plan", "parts", "profile", "whole", "training", "run", "assemble"]


def command(folder, *words: str) -> int:
    """The verb, as a trial on the CPU."""
    from benchmark.__main__ import main

    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    asked = ["latency", "--config", str(path), "--stage", STAGE, "--out", str(folder / "records"), "--device", "cpu"]
    return main(["--quiet", *asked, "--resized", RESIZED, *words])


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The records of a tiny stage."""
    folder = tmp_path_factory.mktemp("latency")
    torch.set_num_threads(1)
    parts = [word for part in MEASURED for word in ("--part", part)]
    assert command(folder, *parts, "--summary", str(folder / "summary.json")) == 0
    return folder


def record(folder, name: str) -> dict:
    return read_record(folder / "records" / STAGE / f"{name}.json")


def test_every_cell_has_its_records_and_all_are_of_a_trial(measured):
    found = {path.name for path in (measured / "records" / STAGE).glob("*/*/*.json")}
    assert found == {f"{kind}.json" for kind in (
        "attention", "latency", "step", "lora", "lora_step", "training", "whole_run")}  # fmt: skip
    for path in (measured / "records" / STAGE).rglob("*.json"):
        if path.name != planning.FILE:
            held = read_record(path)
            assert held["cell"]["trial"]["device"] == "cpu"
            assert held["status"] in ("passed", "incorrect")  # the CPU's times scatter by more than what is allowed
    assert json.loads((measured / "summary.json").read_text())["stage"] == STAGE


def test_a_mixture_is_timed_by_its_settings(measured):
    held = record(measured, "sta/authors/attention")
    medians = [held["details"]["quartiles"][f"call_{n}"][1] for n in range(2)]
    assert held["values"]["call_s"] == pytest.approx(sum(medians) / 2)
    assert held["values"]["permute_s"] > 0  # the model puts the tokens into tile order once a pass


def test_the_fused_model_does_the_same(measured):
    held = record(measured, "outside")
    assert held["values"]["fused_error"] < held["details"]["fused_error_limit"]
    assert held["details"]["samples"] == {"pass": 5, "pass_unfused": 3}


def test_a_profile_says_where_the_time_goes(measured):
    held = record(measured, "profile")
    values = held["values"]
    seconds = {name: values[f"{name}_s"] for name in outside_profile.CLASSES}
    assert seconds["products"] > 0 and seconds["rows"] > 0
    assert values["idle_s"] == pytest.approx(max(values["pass_s"] - sum(seconds.values()), 0))
    kernels = held["details"]["kernels"]
    assert "aten::addmm" in {kernel["name"] for kernel in kernels}
    assert [kernel["seconds"] for kernel in kernels] == sorted((kernel["seconds"] for kernel in kernels), reverse=True)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_sm90_tst_192x192_64x4_2x1_v_bz_coopB_gelubias_TNN", "products"),
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc", "products"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128", "cross_attention"),
        ("triton_per_fused__to_copy_add_linear_gelu_mul_native_layer_norm_split_view_9", "rows"),
        ("triton_red_fused__fused_rms_norm_cross_attention_split_view_4", "rows"),
        ("_add_norm", "rows"),
        ("void at::native::elementwise_kernel<128, 4, at::native::direct_copy>", "rows"),
        ("Memset (Device)", "other"),
    ],
)
def test_kernels_are_told_apart_by_their_names(name: str, kind: str):
    assert outside_profile.by_class({name: (2.0, 1)}) == dict.fromkeys(outside_profile.CLASSES, 0.0) | {kind: 2.0}


def test_a_job_goes_on_after_the_last_record(measured, capsys):
    before = record(measured, "outside")["provenance"]["date"], record(measured, "dense/paper/attention")["seal"]
    (measured / "records" / STAGE / "sta" / "paper" / "attention.json").unlink()
    assert command(measured, "--part", "parts") == 0
    assert (measured / "records" / STAGE / "sta" / "paper" / "attention.json").exists()
    after = record(measured, "outside")["provenance"]["date"], record(measured, "dense/paper/attention")["seal"]
    assert after == before


def test_a_job_without_time_says_that_it_is_not_done(tmp_path):
    assert command(tmp_path, "--part", "parts", "--limit-s", "0.001", "--summary", str(tmp_path / "s.json")) == 75
    assert not (tmp_path / "s.json").exists()
    assert not list(tmp_path.rglob("attention.json"))


def test_trials_are_not_published(measured):
    with pytest.raises(ValueError, match="trials are not published"):
        committed.publish(measured / "records")


def test_without_a_gpu_there_are_records_that_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    stage = settings.stages(TINY)[STAGE]
    small = replace(stage, cells=tuple(replace(cell, budget=None) for cell in stage.cells[:1]))
    small = replace(small, whole=(), training=(), run=None)
    done = latency.measure(small, ["parts", "assemble"], tmp_path, Clock("cuda"), "cuda")
    assert done == {"parts": True, "assemble": True}
    for name in ("outside", "dense/paper/attention", "dense/paper/latency"):
        held = read_record(tmp_path / STAGE / f"{name}.json")
        assert held["status"] == "unsupported" and "no CUDA GPU" in held["reason"] and not held["values"]


CELL = SpeedCell("tiny", "wan2.1-14b", "tiny", 9, 64, 64, "radial", "paper", steps=10, dense_steps=2, dense_layers=1)


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory", "out of memory"),
        (clock.Unsupported("flash4: no Hopper GPU"), "unsupported", "flash4: no Hopper GPU"),
        (Disturbed("another process was on the GPU: 7"), "error", "another process was on the GPU: 7"),
        (RuntimeError("illegal memory access"), "error", "RuntimeError: illegal memory access"),
    ],
)
def test_what_fails_is_a_record_with_a_reason_and_no_numbers(tmp_path, monkeypatch, error, status, words):
    def fails():
        raise error

    clock.record("attention", CELL, tmp_path / "a.json", "cpu", fails)
    held = read_record(tmp_path / "a.json")
    assert (held["status"], held["values"]) == (status, {}) and words in held["reason"]
    # Only what somebody else spoiled is measured again the next time, until code or device are others.
    again = clock.done(tmp_path / "a.json", CELL, "cpu") is None
    assert again == isinstance(error, Disturbed)
    monkeypatch.setattr(clock, "code_hash", lambda: "another")
    assert clock.done(tmp_path / "a.json", CELL, "cpu") is None


def test_another_process_on_the_gpu_voids_what_was_timed(monkeypatch):
    others = iter([[], [{"pid": 7, "memory_mib": 100}]])
    monkeypatch.setattr(clock.timing, "other_processes", lambda device: next(others))
    with pytest.raises(Disturbed, match="7 .100 MiB."):
        Clock("cpu").time(lambda: None, calls=1)


def test_a_gpu_of_which_nobody_can_tell_voids_what_was_timed(monkeypatch):
    monkeypatch.setattr(clock.timing, "other_processes", lambda device: None)
    with pytest.raises(Disturbed, match="whether another process used the GPU cannot be told"):
        Clock("cuda").time(lambda: None, calls=1)


def test_a_process_that_came_and_went_voids_what_was_timed(monkeypatch):
    monkeypatch.setattr(clock.Watch, "__enter__", lambda self: self.others.append({"pid": 7, "memory_mib": 9}) or self)
    with pytest.raises(Disturbed, match="7 .9 MiB."):
        Clock("cpu").time(lambda: None, calls=1)


def test_the_next_run_measures_again_what_was_disturbed(tmp_path):
    from benchmark import again

    def disturbed():
        raise Disturbed("another process was on the GPU: 7")

    paths = [tmp_path / "records" / CELL.path / "attention.json", tmp_path / "records" / CELL.stage / "outside.json"]
    for path, cell in zip(paths, (CELL, CELL.of_stage()), strict=True):
        clock.record(path.stem, cell, path, "cpu", disturbed)
    summary = tmp_path / "stages" / CELL.stage / "parts.json"
    write_json(summary, {})
    assert again.remove_transient(tmp_path, ["snakemake", "-n"]) == []
    assert set(again.remove_transient(tmp_path, ["snakemake", "--cores", "1"])) == {*paths, summary}


def test_long_calls_are_timed_less_often():
    timer = Clock("cpu")
    assert len(timer.time(lambda: None, calls=10).samples) == 10
    slow = timer.time(lambda: torch.rand(400, 400) @ torch.rand(400, 400), warmup=0, calls=10, least=3, within_s=1e-9)
    assert len(slow.samples) == 3
    with pytest.raises(OutOfTime, match="a step"):
        Clock("cpu", limit_s=0.0).reserve(1.0, "a step")


def of(kind: str, values: dict, cell: SpeedCell = CELL, **details) -> dict:
    """A record as it is read back."""
    return {**make_record(kind, cell, "passed", values, details=details), "seal": "0" * 64}


FACTS = {"density": 0.25, "block_sparsity": 0.75, "pflop": 1.0, "pflop_dense": 2.0, "mask_hash": "ab", "flags": []}


def put_together(whole=None, dense_whole=None, worst=None, outside=2.0):
    dense = {"attention": of("attention", {"call_s": 1.0, "permute_s": 0.0}), "step": dense_whole}
    own = {"attention": of("attention", {"call_s": 0.25, "permute_s": 0.5}), "step": whole}
    empty = {"lora": None, "lora_step": None}
    shared = {"outside": of("outside", {"outside_s": outside, "outside_unfused_s": 3.0, "fused_error": 0.0})}
    shared |= {"lora_outside": None, "text_encoder": None, "vae_decoder": None}
    cell = replace(CELL, passes=2)
    return assemble.latency(cell, FACTS, own | empty, dense | empty, shared, worst)


def test_latency_is_put_together_from_parts():
    held = put_together(worst=0.01)
    values = held["values"]
    layers = assemble.layers_of(CELL)
    assert values["step_dense_s"] == 2 + 2 * layers
    assert values["step_sparse_s"] == 2 + 2 * (0.5 + 1 + (layers - 1) * 0.25)
    assert values["generation_s"] == 2 * values["step_dense_s"] + 8 * values["step_sparse_s"]
    assert values["speedup"] == pytest.approx(10 * values["step_dense_s"] / values["generation_s"])
    # Amdahl's law knows nothing of the permutation, which takes 1 s of each sparse step.
    assert prediction(held) == pytest.approx(10 * values["step_dense_s"] / (values["generation_s"] - 8))
    assert not [name for name in values if "amdahl" in name]  # what tables predict is worked out in one place
    assert held["details"]["source"] == {"dense": "parts", "sparse": "parts"}


def test_whole_steps_go_before_parts():
    whole, dense_whole = of("step", {"step_s": 30.0}), of("step", {"step_s": 80.0})
    held = put_together(whole, dense_whole, worst=0.5)
    assert held["status"] == "passed"
    assert (held["values"]["step_sparse_s"], held["values"]["step_dense_s"]) == (30.0, 80.0)
    assert held["values"]["agreement"] == pytest.approx(held["values"]["step_sparse_parts_s"] / 30 - 1)


def test_a_speed_up_never_divides_a_whole_step_by_one_from_parts():
    held = put_together(dense_whole=of("step", {"step_s": 80.0}), worst=0.01)
    values = held["values"]
    assert held["details"]["source"] == {"dense": "parts", "sparse": "parts"}
    assert values["step_dense_s"] == values["step_dense_parts_s"] != values["step_dense_whole_s"] == 80.0
    assert values["speedup"] == pytest.approx(put_together(worst=0.01)["values"]["speedup"])


def committed_of(tmp_path, name: str = "attention", gpu: str = "Some GPU", protocol: int = 2, **changes) -> tuple:
    """A record of one cell as another machine committed it, and the folder of those."""
    folder = tmp_path / "reference" / "tiny" / "records"
    path = folder / CELL.path / f"{name}.json"
    device = {"type": "cuda", "name": gpu}
    write_json(path, make_record(
        name, replace(CELL, **changes), "passed", {"call_s": 1.0}, details={"protocol": protocol}, device=device
    ))  # fmt: skip
    return path, folder


def test_committed_records_are_not_measured_again(tmp_path):
    path, folder = committed_of(tmp_path)
    committed_of(tmp_path, "latency")  # put together, not measured
    own = tmp_path / "records"
    failed = own / CELL.path / "attention.json"
    write_json(failed, make_record("attention", CELL, "unsupported", reason="no CUDA GPU"))
    taken = committed.take_over(CELL.stage, "", own, folder, "Some GPU")
    assert taken == [failed] and failed.read_bytes() == path.read_bytes()
    assert clock.done(failed, CELL, "cpu")["values"] == {"call_s": 1.0}
    assert clock.done(failed, replace(CELL, knobs={"decay": 0.5}), "cpu") is None  # another cell is measured anew
    assert committed.take_over(CELL.stage, "", own, folder, "Some GPU") == []
    assert committed.take_over(CELL.stage, "", tmp_path / "b", folder, "Another GPU") == []
    assert committed.take_over(CELL.stage, "", tmp_path / "c", tmp_path / "nothing", "Some GPU") == []


def test_records_of_an_earlier_protocol_are_measured_again(tmp_path):
    path, folder = committed_of(tmp_path, protocol=1)
    assert clock.done(path, CELL, "cpu") is None and not clock.finished([(path, CELL)], "cpu")
    assert assemble._read(path, CELL) is None
    assert committed.take_over(CELL.stage, "", tmp_path / "records", folder, "Some GPU") == []
    path, _ = committed_of(tmp_path, "step", protocol=1)  # nothing about whole steps has changed
    assert clock.done(path, CELL, "cpu") and clock.finished([(path, CELL)], "cpu") and assemble._read(path, CELL)


def test_work_of_a_pass_stands_between_timed_calls():
    order = []
    found = Clock("cpu").time(lambda: order.append("call"), warmup=1, calls=2, between=lambda: order.append("between"))
    assert order == ["between", "call"] * 3 and len(found.samples) == 2
    assert len(Clock("cpu").time(lambda: None, calls=2, for_s=0.05).samples) > 2


def test_a_call_that_settles_ends_with_the_jobs_time():
    with pytest.raises(OutOfTime, match="a step: the time is up before the GPU has settled"):
        Clock("cpu", limit_s=0.05).time(lambda: None, warm_s=60, what="a step")
    assert len(Clock("cpu", limit_s=60).time(lambda: None, warm_s=0.01, calls=2).samples) == 2


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_the_time_outside_a_tuning_step_is_taken_when_the_gpu_has_settled(monkeypatch, device):
    """As for attention calls; a trial on a CPU, which has no power limit to settle at, says that it has not."""
    asked = []

    class Timer:
        def time(self, step, **how):
            asked.append(how)
            return Timing([1.0])

    for name in ("check_memory", "Network", "forget", "_hand_on"):
        monkeypatch.setattr(training, name, lambda *_, **__: None)
    monkeypatch.setattr(training, "tuning_step", lambda network, rank: (lambda: None, {"modules": 1}))
    _, details = training._outside(replace(CELL, rank=2), Timer(), device)
    assert details["settled"] == (device == "cuda") and len(asked) == 2
    settle = {"warm_s": expected.SETTLE_S, "for_s": expected.FOR_S} if device == "cuda" else {}
    assert all({key: how[key] for key in how if key in ("warm_s", "for_s")} == settle for how in asked)


def test_a_tuning_record_says_whether_its_time_outside_was_settled(measured):
    assert record(measured, "lora_outside")["details"]["settled"] is False
    outside = of("lora_outside", {"outside_s": 1.0}, scaled=1, lora={"rank": 2, "modules": 4})
    call = {"lora": of("lora", {"call_s": 1.0}), "lora_step": None}
    planned = {"cells": {"radial/paper": FACTS}, "training_steps": None}
    for said in ({}, {"settled": True}):  # the first records say nothing, and hold
        shared = {"lora_outside": {**outside, "details": outside["details"] | said}}
        held = assemble.tuning(CELL, planned, call, call, shared, None)
        assert held["status"] == "passed" and held["details"]["outside_settled"] == bool(said)


def test_attention_calls_say_what_ran_between_them(measured):
    outside, held = record(measured, "outside"), record(measured, "radial/paper/attention")
    share = outside["values"]["outside_s"] / 2 / 3  # passes and layers
    facts = held["details"]["between"]
    assert (facts["wanted_s"], facts["source"]) == (pytest.approx(share), "outside")
    assert facts["layers"] == max(round(share / (facts["took_s"] / facts["layers"])), 1)
    assert outside["values"]["copies_s"] > 0 and held["details"]["samples"]["call"] >= 10
    assert parts.again(held, "cpu") > 0
    planned = planning.read(measured / "records" / STAGE / planning.FILE)
    hashes = {"mask": planned["cells"]["radial/paper"]["mask_hash"], "method": planned["methods"]["radial"]}
    assert held["provenance"]["hashes"] == hashes
    tuning = record(measured, "radial/paper/lora")["details"]["between"]
    # Modules are counted over the whole transformer, not over the few blocks that the time is taken from.
    modules = [record(measured, name)["details"]["lora"] for name in ("lora_outside", "radial/paper/lora_step")]
    assert [(one["rank"], one["modules"]) for one in modules] == [(2, modules[1]["modules"])] * 2
    assert tuning["wanted_s"] == pytest.approx(record(measured, "lora_outside")["values"]["outside_s"] / 3)


@pytest.mark.parametrize("of_tuning", [False, True])
def test_a_record_says_how_a_methods_heads_were_classed_in_the_timed_calls(measured, monkeypatch, of_tuning):
    """With a sink temporal heads run at another density than spatial ones, whose alone is planned."""
    held = record(measured, "radial/paper/attention")
    knobs = {"p": 0.25, "rows": 8, "sink": True}
    cell = replace(from_settings(held["cell"]), method="svg", knobs=knobs, dense_layers=0)
    timed = []
    svg = type(planning.methods_of(cell)[0][1])
    monkeypatch.setattr(svg, "pattern_for", noted(svg.pattern_for, timed))
    given = parts.Given(cell.of_stage(), "cpu", 0.001, "test")
    module = training if of_tuning else parts
    _, details = module.attention_calls(cell, given, Clock("cpu"), "cpu")
    pattern = details["pattern"]["call"]
    *before, asked_last = timed
    assert len(before) >= details["samples"]["call"]
    for found in before:
        assert found.mask.density == pattern["density"] == asked_last.mask.density
        assert [(found.head_order == n).sum() for n in (0, 1)] == pattern["heads"] and sum(pattern["heads"]) == 2
    assert "pattern" not in held["details"]


def noted(function, found: list):
    """A function that keeps what it returned."""

    def call(*given, **named):
        found.append(function(*given, **named))
        return found[-1]

    return call


def test_the_density_of_classed_heads_is_that_of_all_of_them(monkeypatch):
    from benchmark import registry
    from benchmark.attention import AttentionRouter, Schedule
    from benchmark.layout import VideoLayout

    layout, generator = VideoLayout(4, 8, 8), torch.Generator().manual_seed(0)
    method = registry.get("svg", {"p": 0.4, "sink": True})
    router = AttentionRouter(method, layout, 16, None, Schedule(1))
    q, k, v = (torch.randn(1, layout.tokens, 4, 8, generator=generator) for _ in range(3))
    monkeypatch.setattr(type(method), "classify", lambda *_: torch.tensor([1, 0, 1, 1]))
    found = parts.pattern_of(router, q, k, v)
    assert found["heads"] == [1, 3]
    spatial, temporal = method.pattern(layout, 16).mask.density, method.block_mask(layout, 16).density
    assert found["density"] == pytest.approx((spatial + 3 * temporal) / 4) and temporal < spatial


def test_what_a_run_measured_is_published_with_its_kernels(tmp_path):
    path, _ = committed_of(tmp_path)
    records = tmp_path / "results" / "tiny" / "records"
    kernels = records.parent / "kernels" / "wan2.1-14b-tiny.json"
    own = records / CELL.path / "attention.json"
    own.parent.mkdir(parents=True)
    own.write_bytes(path.read_bytes())
    write_json(kernels, make_record("kernels", CELL, "unsupported", reason="none", device={"type": "cuda"}))
    copies = committed.publish(records, tmp_path / "public")
    assert [copy.relative_to(tmp_path / "public" / "tiny").as_posix() for copy in copies] == [
        f"records/{CELL.path}/attention.json.gz",
        "kernels/wan2.1-14b-tiny.json",
    ]
    public, taken = tmp_path / "public" / "tiny" / "records", tmp_path / "taken"
    assert committed.measured_in([public], {"rank": 2})("attention", CELL)
    gpu = read_record(path)["provenance"]["device"]["name"]
    copy = taken / CELL.path / "attention.json"
    assert committed.take_over(CELL.stage, "", taken, public, gpu) == [copy] and copy.read_bytes() == own.read_bytes()
    kernels.write_text(kernels.read_text().replace('"none"', '"other"'))
    with pytest.raises(ValueError, match="changed since it was written"):
        committed.publish(records, tmp_path / "public")


def test_an_audit_says_what_is_off_and_stops_no_workflow(tmp_path, monkeypatch, capsys):
    from benchmark.__main__ import main

    path, folder = committed_of(tmp_path)
    monkeypatch.setattr(audit, "remeasure", lambda *_: 1.2)
    words = ["--quiet", "latency", "--audit", str(folder), "--device", "cpu"]
    assert main(words) == 1 and "1.200" in capsys.readouterr().out
    assert main([*words, "--summary", str(tmp_path / "s.json")]) == 0
    assert json.loads((tmp_path / "s.json").read_text())["agrees"] is False
    held = read_record(path.with_name("audit.json"))
    assert (held["status"], held["details"]["ratios"]) == ("incorrect", {"attention": 1.2})
    assert "attention call 1.200" in held["reason"] and held["details"]["off"] == ["attention"]
    assert held["details"]["audited"] == {"attention": read_record(path)["seal"]}


def test_an_audit_draws_cells_and_every_kind_that_was_timed(tmp_path):
    for number in range(40):
        for kind in ("attention", "lora", *["step"] * (number == 7), *["lora_step"] * (number == 9)):
            cell = replace(CELL, shape=f"s{number:02}")
            made = make_record(kind, cell, "passed", {}, details={"protocol": clock.PROTOCOL.get(kind, 1)})
            write_json(tmp_path / cell.path / f"{kind}.json", made)
    drawn = audit.draw(tmp_path, 0.05, seed=0)
    assert drawn == audit.draw(tmp_path, 0.05, seed=0) != audit.draw(tmp_path, 0.05, seed=1)
    kinds = [path.stem for paths in drawn.values() for path in paths]
    assert set(kinds) == {"attention", "lora", "step", "lora_step"} and 2 <= len(drawn) <= 4
    assert all(kinds.count(kind) == len(drawn) for kind in ("attention", "lora"))
    assert audit.draw(tmp_path / "none", 0.05, seed=0) == {}


def test_what_disagrees_is_kept_where_another_kind_fails(tmp_path, monkeypatch):
    path, folder = committed_of(tmp_path)
    committed_of(tmp_path, "lora")

    def again(held, device):
        if held["kind"] == "lora":
            raise RuntimeError("it broke")
        return 0.9

    monkeypatch.setattr(audit, "remeasure", again)
    assert list(audit.audit(folder, "cpu", 1.0, 0).values()) == [0.9, None]
    held = read_record(path.with_name("audit.json"))
    assert held["status"] == "error" and held["details"]["off"] == ["attention"]
    assert held["details"]["audited"].keys() == {"attention", "lora"}


def test_an_audit_whose_time_is_up_goes_on(tmp_path, monkeypatch):
    """Two cells: the first takes all the time; the next call measures the second alone."""
    from benchmark.__main__ import main

    folder = tmp_path / "records"
    for method in ("dense", "radial"):
        cell = replace(CELL, method=method)
        record = make_record(
            "attention", cell, "passed", {"call_s": 1.0}, details={"protocol": clock.PROTOCOL.get("attention", 1)}
        )
        write_json(folder / cell.path / "attention.json", record)
    now, asked = [0.0], []

    def again(held, device):
        asked.append(held["cell"]["method"])
        now[0] += 60
        return 1.0

    monkeypatch.setattr(audit, "remeasure", again)
    monkeypatch.setattr(audit, "time", SimpleNamespace(monotonic=lambda: now[0]))
    words = ["--quiet", "latency", "--audit", str(folder), "--share", "1", "--device", "cpu", "--limit-s", "100"]
    assert main(words) == 75 and asked == ["dense"]
    assert main(words) == 0 and asked == ["dense", "radial"]
    assert main(words) == 0 and len(asked) == 2
    assert main([*words, "--seed", "1"]) == 75 and asked[2:] == ["dense"]


def test_an_audit_that_was_disturbed_is_made_again(tmp_path, monkeypatch):
    from benchmark import again

    def disturbed(held, device):
        raise Disturbed("another process was on the GPU: 7")

    path, folder = committed_of(tmp_path)
    monkeypatch.setattr(audit, "remeasure", disturbed)
    audit.audit(folder, "cpu", 1.0, 0)
    summary, parts_done = (folder.parent / "stages" / name for name in ("audit.json", f"{CELL.stage}/parts.json"))
    for each in (summary, parts_done):
        write_json(each, {})
    removed = again.remove_transient(folder.parent, ["snakemake", "--cores", "1"])
    assert set(removed) == {path.with_name("audit.json"), summary} and parts_done.exists()


def test_all_that_an_audit_draws_can_be_measured_again(measured):
    for kind in ("attention", "step", "lora", "lora_step"):
        held = record(measured, f"radial/paper/{kind}")
        assert (held["status"], held["kind"]) == ("passed", kind) and audit.remeasure(held, "cpu") > 0


def test_parts_that_disagree_with_whole_steps_are_incorrect():
    held = put_together(worst=0.031)
    assert held["status"] == "incorrect" and "3.1%" in held["reason"] and not held["values"]


def test_what_is_missing_is_said():
    empty = dict.fromkeys(("attention", "step", "lora", "lora_step"))
    shared = dict.fromkeys(("outside", "lora_outside", "text_encoder", "vae_decoder"))
    held = assemble.latency(CELL, FACTS, empty, empty, shared, None)
    assert held["status"] == "error" and "not measured yet" in held["reason"]


def test_a_whole_run_that_disagrees_is_incorrect(monkeypatch):
    class Held:
        def step(self, number):
            return number

    class Timer:
        def time(self, function, **kwargs):
            return Timing([{0: 2.0, 2: 1.0}.get(function, 13.0)] if not callable(function) else [13.0])

    monkeypatch.setattr(steps, "_network", lambda *_: (Held(), "sdpa"))
    values, details = steps.whole_run(CELL, Timer(), "cpu")
    assert values["generation_steps_s"] == 2 * 2.0 + 8 * 1.0
    assert details["status"] == "incorrect" and "-7.7%" in details["reason"]


def test_cells_come_back_from_records(tmp_path):
    cell = replace(CELL, mixture=({"share": 1.0, "knobs": {"window": "1x1x1"}},), trial={"device": "cpu"})
    write_json(tmp_path / "r.json", make_record("attention", cell, "passed", {"call_s": 1.0}))
    assert from_settings(read_record(tmp_path / "r.json")["cell"]) == cell
