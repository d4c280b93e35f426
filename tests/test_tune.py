"""Tuning: adapters that learn, are written in peft's format, merged exactly, and refused where they are another's."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import synthetic
import torch
from safetensors.torch import load_file, save_file

from benchmark import estimate, kernels, registry
from benchmark import generate as generating
from benchmark.__main__ import main
from benchmark.attention import AttentionRouter, Schedule
from benchmark.cell import Cell
from benchmark.collect import collect
from benchmark.inputs import write_inputs
from benchmark.kernels import reference
from benchmark.models import testbed, wan
from benchmark.operations import cell_operations
from benchmark.records import Damaged, read_record, write_json
from benchmark.tune import taken, tune
from benchmark.tuning import adapters, loop, places
from benchmark.tuning.settings import TuningSettings, from_mapping, from_words
from benchmark.tuning.style import names, styled

SETTINGS = TuningSettings(steps=4, batch=1, rank=2, rate=1e-2)
CELL = Cell(
    "trial", "testbed-nano", "2x", 4, 24, 24, "spatial", budget=0.5, block=4, steps=2, seed=7,
    tuned=True, tuning_settings=SETTINGS.as_dict(),
)  # fmt: skip
BASE = testbed.manifest("testbed-nano")["sha256"]
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """An adapter's folder and the record of its tuning."""
    folder = tmp_path_factory.mktemp("tuned") / "adapter"
    record = tune(CELL, folder, "cpu")
    write_json(folder.parent / "record.json", record)
    return folder, record


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs("testbed-nano", 4, 24, 24, 1, 7, folder)
    return folder


def deltas(folder: Path) -> dict[str, torch.Tensor]:
    """What an adapter adds to each weight: B A, by the layer's name. Its alpha is its rank."""
    held = {
        key.removeprefix("base_model.model."): value.float()
        for key, value in load_file(folder / places.WEIGHTS).items()
    }
    layers = {key.rpartition(".lora_")[0] for key in held}
    return {layer: held[f"{layer}.lora_B.weight"] @ held[f"{layer}.lora_A.weight"] for layer in layers}


def test_the_record_says_how_the_adapter_came_about(tuned) -> None:
    folder, record = tuned
    assert record["status"] == "passed" and record["kind"] == "tune", record["reason"]
    assert read_record(folder / "tune.json") == read_record(folder.parent / "record.json")
    values, details = record["values"], record["details"]
    assert values["tuning_s"] > 0 and values["peak_memory_gib"] > 0
    assert values["final_loss"] == pytest.approx(details["curve"][-1]["loss"]) and values["final_loss"] > 0
    assert [point["step"] for point in details["curve"]] == [1, 2, 3, 4]
    assert details["settings"] == SETTINGS.as_dict() and details["kernel"] == "sdpa" and details["clips"] == 4
    assert record["cell"]["steps"] == 50 and record["cell"]["clips"] == 1  # nothing of how clips are drawn
    hashes = record["provenance"]["hashes"]
    assert hashes["weights"] == BASE
    layout = testbed.SPEC.layout(4, 24, 24)
    assert hashes["mask"] == registry.get("spatial", details["knobs"]).block_mask(layout, 4).hash()
    assert hashes["adapter"] == details["files"]["adapter_model.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "tune.json",
    ]  # fmt: skip
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []  # no state is left


def test_the_adapter_is_peft_s_and_of_q_k_v_and_o_of_every_block(tuned) -> None:
    folder, _ = tuned
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 2, 2)
    changes = deltas(folder)
    layers = [f"blocks.{block}.attn1.{name}" for block in range(testbed.SPEC.layers) for name in PROJECTIONS]
    assert sorted(changes) == sorted(layers)
    assert all(float(change.abs().max()) > 0 for change in changes.values())
    assert all(value.dtype == torch.bfloat16 for value in load_file(folder / places.WEIGHTS).values())


def test_merged_weights_are_the_base_s_and_the_adapter_s(tuned, tmp_path) -> None:
    """One adapter, and two with weights of their own: peft's arithmetic held against ours."""
    folder, _ = tuned
    base = dict(testbed.load("testbed-nano").named_parameters())
    merged = dict(adapters.apply(testbed.load("testbed-nano"), folder).named_parameters())
    assert merged.keys() == base.keys()
    second = tmp_path / "second"
    shutil.copytree(folder, second)
    state = load_file(folder / places.WEIGHTS)
    generator = torch.Generator().manual_seed(1)
    save_file(
        {key: (torch.randn(value.shape, generator=generator) * 0.1).bfloat16() for key, value in state.items()},
        second / places.WEIGHTS,
    )
    both = dict(adapters.combine(testbed.load("testbed-nano"), [folder, second], [1.0, 0.5]).named_parameters())
    first, other = deltas(folder), deltas(second)
    for name, weight in base.items():
        layer = name.removesuffix(".weight")
        if layer not in first:
            assert torch.equal(merged[name], weight) and torch.equal(both[name], weight)
            continue
        torch.testing.assert_close(merged[name].float(), weight.float() + first[layer], rtol=1e-2, atol=2e-3)
        expected = weight.float() + first[layer] + 0.5 * other[layer]
        torch.testing.assert_close(both[name].float(), expected, rtol=1e-2, atol=2e-3)
        assert not torch.equal(merged[name], weight) and not torch.equal(both[name], merged[name])


def test_a_stopped_tuning_goes_on_to_the_same_adapter(tuned, tmp_path, monkeypatch) -> None:
    folder, record = tuned
    saved = loop._save
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)

    def save_and_stop(path, key, held, optimizer, progress):
        saved(path, key, held, optimizer, progress)
        if progress.step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        tune(CELL, tmp_path / "adapter", "cpu")
    assert not (tmp_path / "adapter").exists()
    drawn = []
    draw = loop.draw
    monkeypatch.setattr(loop, "draw", lambda *args: drawn.append(args[5]) or draw(*args))
    again = tune(CELL, tmp_path / "adapter", "cpu")
    assert drawn == [2, 3]
    assert again["provenance"]["hashes"] == record["provenance"]["hashes"]


def test_clips_of_a_tuned_cell(tuned, inputs, tmp_path, monkeypatch) -> None:
    folder, _ = tuned
    monkeypatch.chdir(tmp_path)
    plain = generating.generate(replace(CELL, tuned=False, tuning_settings={}), inputs, tmp_path / "plain", "cpu")
    record = generating.generate(CELL, inputs, tmp_path / "clips", "cpu", folder)
    assert record["status"] == "passed", record["reason"]
    assert record["details"]["adapter"] == str(folder)
    hashes, untuned = record["provenance"]["hashes"], plain["provenance"]["hashes"]
    assert hashes["adapter"] == read_record(folder / "tune.json")["provenance"]["hashes"]["adapter"]
    assert hashes["clips"] != untuned["clips"]
    assert {key: hashes[key] for key in ("weights", "mask", "noise")} == {
        key: untuned[key] for key in ("weights", "mask", "noise")
    }
    assert record["values"]["pflop"] == plain["values"]["pflop"]
    # The experiment's own adapter is found by the record of its tuning; a tuning that failed passes its status on.
    with pytest.raises(ValueError, match="none is shipped for these settings.*run the verb tune first"):
        generating.generate(CELL, inputs, tmp_path / "own", "cpu")
    own = read_record(folder / "tune.json")
    write_json(places.record_of(CELL), own | {"details": own["details"] | {"folder": str(folder)}})
    found = generating.generate(CELL, inputs, tmp_path / "own", "cpu")
    assert found["provenance"]["hashes"]["clips"] == hashes["clips"]
    write_json(places.record_of(CELL), own | {"status": "out_of_memory", "reason": "too little", "values": {}})
    failed = generating.generate(CELL, inputs, tmp_path / "own", "cpu")
    assert (failed["status"], failed["reason"]) == ("out_of_memory", "its tuning: too little")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "temporal"}, "tuned for method=spatial; method=temporal is needed"),
        ({"frames": 8}, "tuned for frames=4; frames=8 is needed"),
        ({"length": "4x"}, "tuned for length=2x; length=4x is needed"),
        ({"budget": 0.6}, "tuned for budget=0.5; budget=0.6 is needed"),
        ({"tuning_settings": replace(SETTINGS, steps=9).as_dict()}, "tuned for steps=4; steps=9 is needed"),
    ],
)
def test_an_adapter_of_another_cell_is_refused(tuned, changes, words) -> None:
    with pytest.raises(ValueError, match=words):
        places.find(replace(CELL, **changes), BASE, tuned[0])


def test_an_adapter_of_another_base_and_a_damaged_one_are_refused(tuned, tmp_path) -> None:
    with pytest.raises(ValueError, match="tuned from the weights a76a.*; those of testbed-nano are 0000"):
        places.find(CELL, "0" * 64, tuned[0])
    copy = tmp_path / "copy"
    shutil.copytree(tuned[0], copy)
    (copy / places.WEIGHTS).write_bytes(b"else")
    with pytest.raises(Damaged, match="adapter_model.safetensors: SHA-256 is .*put back or tune anew"):
        places.find(CELL, BASE, copy)
    with pytest.raises(ValueError, match="not of this architecture"):
        adapters.combine(testbed.load("testbed-nano"), [copy])
    (copy / places.WEIGHTS).unlink()
    with pytest.raises(ValueError, match="no adapter_model.safetensors"):
        adapters.combine(testbed.load("testbed-nano"), [copy])


def test_a_shipped_adapter_is_taken_where_all_settings_are_its_own(tuned, tmp_path) -> None:
    folder = tmp_path / "testbed-nano" / "2x" / "spatial"
    shutil.copytree(tuned[0], folder)
    sampled_otherwise = replace(CELL, experiment="other", steps=30, dense_steps=3, clips=5, seed=1)
    assert places.shipped(sampled_otherwise, BASE, tmp_path) == folder
    assert places.find(sampled_otherwise, BASE, adapters=tmp_path)[0] == folder
    for other in (
        replace(CELL, budget=0.6),
        replace(CELL, tuned=False, tuning_settings={}),
        replace(CELL, tuning_settings=replace(SETTINGS, seed=1).as_dict()),
    ):
        assert places.shipped(other, BASE, tmp_path) is None
    assert places.shipped(CELL, "0" * 64, tmp_path) is None
    record = taken(sampled_otherwise, folder)
    assert record["values"] == tuned[1]["values"] and record["cell"]["experiment"] == "other"
    assert record["details"]["folder"] == str(folder)
    assert record["details"]["shipped"]["commit"] == tuned[1]["provenance"]["commit"]


def test_where_only_shipped_adapters_count_nothing_is_trained(tmp_path) -> None:
    words = ["tune", *CELL.arguments().split()]
    words += ["--out", str(tmp_path / "adapter"), "--record", str(tmp_path / "r.json")]
    assert main([*words, "--shipped-only", "--device", "cpu"]) == 0
    record = read_record(tmp_path / "r.json")
    assert (record["status"], record["values"]) == ("unsupported", {}) and not (tmp_path / "adapter").exists()
    assert "no adapter is shipped for these settings; tuned.shipped_only: false tunes it" in record["reason"]
    assert main([*words, "--shipped-only", "--anew"]) == 2


def test_full_tuning_writes_all_weights(tmp_path) -> None:
    settings = replace(SETTINGS, kind="full", steps=2, rate=1e-3)
    cell = replace(CELL, method="dense", budget=None, tuning_settings=settings.as_dict())
    record = tune(cell, tmp_path / "full", "cpu")
    assert record["status"] == "passed", record["reason"]
    assert record["details"]["parameters"] == testbed.manifest("testbed-nano")["parameters"]
    base = dict(testbed.load("testbed-nano").named_parameters())
    full = dict(adapters.apply(testbed.load("testbed-nano"), tmp_path / "full").named_parameters())
    changed = [name for name in base if not torch.equal(base[name], full[name])]
    assert len(changed) > 0.9 * len(base)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_tuning_goes_on_from_what_another_trained(kind, tuned, tmp_path) -> None:
    """With a rate that changes no weight in bfloat16 what comes out is what it started from."""
    first, record = tmp_path / "first", tmp_path / "first.json"
    settings = replace(SETTINGS, kind=kind, steps=1, rate=1e-3)
    if kind == "lora":
        shutil.copytree(tuned[0], first)
        begun = tuned[1] | {"details": tuned[1]["details"] | {"folder": str(first)}}
    else:
        begun = tune(replace(CELL, tuning_settings=settings.as_dict()), first, "cpu")
    write_json(record, begun)
    still = replace(settings, rate=1e-12).as_dict()
    cell = replace(CELL, length="4x", frames=6, tuning_settings=still, start=str(record))
    found = tune(cell, tmp_path / "second", "cpu")
    assert found["status"] == "passed", found["reason"]
    name = places.WEIGHTS if kind == "lora" else places.ALL_WEIGHTS
    one, other = load_file(first / name), load_file(tmp_path / "second" / name)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert found["provenance"]["hashes"]["start"] == begun["provenance"]["hashes"]["adapter"]
    assert found["details"]["start"]["settings"] == begun["cell"]["tuning_settings"]
    assert found["cell"]["start"] == str(record)
    base = tune(replace(cell, start=""), tmp_path / "third", "cpu")
    assert base["provenance"]["hashes"]["adapter"] != found["provenance"]["hashes"]["adapter"]
    # An adapter that started elsewhere is another one.
    with pytest.raises(ValueError, match="tuned for start=.*first.json; start=None is needed"):
        places.find(replace(cell, start=""), BASE, tmp_path / "second")
    # It is refused, or passes its status on, where there is nothing to start from.
    other = replace(cell, tuning_settings=still | {"rank": 3, "kind": "lora"})
    with pytest.raises(ValueError, match="first: tuned with (kind=full|rank=2); a tuning with .* cannot start there"):
        tune(other, tmp_path / "second", "cpu")
    (first / name).write_bytes(b"else")
    damaged = tune(cell, tmp_path / "second", "cpu")
    assert damaged["status"] == "error" and "put back or tune anew" in damaged["reason"]
    write_json(record, begun | {"status": "out_of_memory", "reason": "too little", "values": {}})
    failed = tune(cell, tmp_path / "second", "cpu")
    assert (failed["status"], failed["reason"]) == ("out_of_memory", f"its start, {record}: too little")
    with pytest.raises(ValueError, match="no such record|missing|No such file"):
        tune(replace(cell, start=str(tmp_path / "none.json")), tmp_path / "second", "cpu")


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        ("return super().attend(q, *rest) * float('nan')", "incorrect", "the loss is nan"),
        ("return super().attend(q, *rest).detach()", "unsupported", "to_q.* gets no gradient"),
        ("raise torch.OutOfMemoryError('2 GiB')", "out_of_memory", "2 GiB"),
        ("raise RuntimeError('no such thing')", "error", "RuntimeError: no such thing"),
    ],
)
def test_failures_have_a_status_and_leave_no_adapter(line, status, words, tmp_path, monkeypatch) -> None:
    import re
    import sys

    (tmp_path / "failing.py").write_text(
        "from dataclasses import dataclass\nimport torch\nfrom benchmark.method import Method\n\n"
        f"@dataclass(frozen=True)\nclass Failing(Method):\n    def attend(self, q, *rest):\n        {line}\n"
        "    def density(self, *rest):\n        return 1.0\n    attention_operations = density\n"
    )
    monkeypatch.setattr(registry, "METHODS_FOLDER", tmp_path)
    monkeypatch.setattr("methods.__path__", [str(tmp_path)])
    out = tmp_path / "adapter"
    try:
        record = tune(replace(CELL, method="failing", budget=None), out, "cpu")
    finally:
        sys.modules.pop("methods.failing", None)
    assert record["status"] == status and re.search(words, record["reason"]), record["reason"]
    assert not out.exists()


@pytest.mark.parametrize("name", ["dense", "spatial", "temporal", "longlora", "pa", "sana", "radial", "sta", "svg"])
def test_every_method_carries_gradients_on_a_cpu(name) -> None:
    """Gradients of q, k and v through the router by sdpa, held against the float32 oracle's."""
    layout = testbed.SPEC.layout(8, 24, 24)
    method = registry.get(name, {"tile": "2x2x2"} if name == "sta" else {})
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(2, layout.tokens, 4, 8, generator=generator) for _ in range(4)]
    found = []
    for kernel in (kernels.select("sdpa", "cpu", block=4)[1], reference.attend):
        router = AttentionRouter(method, layout, 4, kernel, Schedule(1))
        q, k, v = (x.clone().requires_grad_() for x in given[:3])
        found.append(torch.autograd.grad(router.attend(0, q, k, v, lambda x: x), (q, k, v), given[3]))
    for one, other in zip(*found, strict=True):
        assert float(one.abs().max()) > 0
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_dense_layers_train_dense_and_the_data_are_the_same_for_all_methods(monkeypatch) -> None:
    flow = loop.flow_settings(testbed.WEIGHTS_FOLDER / "testbed-nano.training.json")
    first = loop.draw(testbed.SPEC, SETTINGS, flow, 4, 24, 3, "cpu")
    again = loop.draw(testbed.SPEC, SETTINGS, flow, 4, 24, 3, "cpu")
    other = loop.draw(testbed.SPEC, SETTINGS, flow, 4, 24, 4, "cpu")
    assert all(torch.equal(one, same) for one, same in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0]) and not torch.equal(first[2], other[2])
    assert first[0].shape == (1, 3, 4, 24, 24) and float(first[0].min()) >= -1 and float(first[0].max()) <= 1
    losses = {}
    for method, layers in (("dense", 0), ("random", testbed.SPEC.layers), ("random", 2)):
        transformer = testbed.load("testbed-nano")
        chosen = registry.get(method)
        router = AttentionRouter(
            chosen, testbed.SPEC.layout(4, 24, 24), 4, kernels.select("sdpa", "cpu")[1], Schedule(1, 0, layers)
        )
        wan.install(transformer, router)
        with torch.no_grad():
            losses[method, layers] = float(loop.flow_loss(transformer, first, flow.least_weight_time))
    assert losses["random", testbed.SPEC.layers] == losses["dense", 0] != losses["random", 2]


def test_settings_are_checked() -> None:
    assert from_words(["rank=8", "rate=1e-3", "kind=full"]) == TuningSettings(rank=8, rate=1e-3, kind="full")
    for words, line in (
        (["rnk=3"], "tuned.rnk: the setting is unknown: did you mean 'rank'"),
        (["rank=three"], "--tune rank=three: 'three' is not a int"),
        (["rank"], "NAME=VALUE is needed"),
        (["rank=0"], "tuned.rank=0: at least 1"),
        (["rate=0"], "tuned.rate=0.0: a number above 0"),
        (["warmup=2"], "tuned.warmup=2.0"),
        (["kind=lore"], "tuned.kind='lore': unknown: did you mean 'lora'"),
    ):
        with pytest.raises(ValueError, match=line):
            from_words(words)
    with pytest.raises(ValueError, match="tuned.steps=1.5: a whole number"):
        from_mapping({"steps": 1.5})
    with pytest.raises(ValueError, match="24x48|height=24, width=48.*square"):
        tune(replace(CELL, width=48), Path("nowhere"), "cpu")


def test_styles_change_looks_and_keep_the_range() -> None:
    clips = torch.rand(2, 4, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    for name in names():
        drawn = styled(clips, name)
        assert drawn.shape == clips.shape and float(drawn.min()) >= 0 and float(drawn.max()) <= 1
        assert torch.equal(drawn, clips) == (name == "plain")
        assert torch.equal(styled(clips[:, 1:3], name), drawn[:, 1:3])  # a function of the pixels alone


def test_collect_takes_tunings_beside_clips_that_another_device_drew(tuned, tmp_path) -> None:
    """A shipped adapter's tuning may be of a GPU; its rows are the cell's; two tunings of one table may not differ."""
    dense = replace(CELL, method="dense", budget=None, tuned=False, tuning_settings={}, experiment=synthetic.EXPERIMENT)
    cells, paths = [dense, replace(CELL, experiment=synthetic.EXPERIMENT)], []
    for cell in cells:
        for kind, record in (
            ("generate", synthetic.generate_record(cell)),
            ("measure", synthetic.measure_record(cell)),
        ):
            paths.append(synthetic.path_of(tmp_path, cell, kind))
            write_json(paths[-1], record)
    record = taken(cells[1], tuned[0])
    record["provenance"]["device"] = {"type": "cuda", "name": "Some GPU"}
    record["provenance"]["hashes"]["weights"] = synthetic.digest("weights", CELL.model)
    paths.append(synthetic.path_of(tmp_path, cells[1], "tune"))
    write_json(paths[-1], record)
    rows = [row for row in collect(synthetic.EXPERIMENT, paths) if row["kind"] == "tune"]
    assert {row["metric"]: row["value"] for row in rows} == record["values"]
    assert {(row["tuning"], row["steps"], row["device"]) for row in rows} == {("tuned", CELL.steps, "Some GPU")}
    record["provenance"]["hashes"]["weights"] = synthetic.digest("weights", "another")
    write_json(paths[-1], record)
    with pytest.raises(ValueError, match="tune.json: weights|weights .* differs"):
        collect(synthetic.EXPERIMENT, paths)


def test_an_estimate_counts_the_training_of_what_is_not_shipped(tuned, tmp_path, monkeypatch) -> None:
    found = estimate._tuning(CELL, "cpu")
    layout = testbed.SPEC.layout(4, 24, 24)
    forward = cell_operations(
        replace(CELL, steps=1, dense_layers=2), testbed.SPEC, layout, registry.get("spatial", {"width": 1.0})
    )
    rate = estimate.DEFAULTS["cpu"] / 3600
    assert found["trained"] and found["hours"] == pytest.approx(3 * 4 * forward["pflop"] * rate, rel=0.02)
    shutil.copytree(tuned[0], tmp_path / "testbed-nano" / "2x" / "spatial")
    monkeypatch.setattr(places.shipped, "__defaults__", (tmp_path,))
    assert estimate._tuning(CELL, "cpu") == {"trained": False, "hours": 0.0}
    assert estimate._tuning(replace(CELL, budget=0.6), "cpu", trained=False) == {"trained": False, "hours": 0.0}


def test_records_name_a_shipped_adapter_from_the_root_of_the_repository() -> None:
    assert places.shown(places.SHIPPED / "a" / "1x" / "b") == "benchmark/testbed/adapters/a/1x/b"
    assert places.shown(Path("results/a")) == "results/a"


def test_steps_that_compile_do_not_count_as_slower_ones():
    assert loop.Progress(step=104, seconds=30.0, starting=(4, 10.0)).settled_seconds() == pytest.approx(20.8)
    assert loop.Progress(step=4, seconds=10.0, starting=(4, 10.0)).settled_seconds() == 10.0  # there are no others
    assert loop.Progress(step=100, seconds=30.0).settled_seconds() == 30.0
