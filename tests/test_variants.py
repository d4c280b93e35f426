"""Variants of an experiment: what is refused, the cells that come out, how they are collected, what tables read."""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import synthetic
import yaml
from projects import small_project

from benchmark import config
from benchmark.cell import Cell, add_cell_arguments, from_arguments
from benchmark.cells import cells as cells_of
from benchmark.cells import reference_of
from benchmark.collect import collect, write_parquet
from benchmark.records import make_record, write_json
from benchmark.tuning import places
from paper_figures import testbed as testbeds

TUNED = {"rank": 2, "steps": 3}
VARIANTS = {
    "b80": {"for": ["table1", "ablation_a"], "label": "eighty", "methods": ["radial", "random"], "lengths": ["1x"]},
    "none": {"for": ["table1"], "methods": ["radial"], "lengths": ["1x"], "schedule": {"dense_steps": 0}},
    "b80-seed8": {
        "for": ["table1"], "methods": ["radial"], "lengths": ["1x"], "seed": 8, "knobs": {"radial": {"sink": False}},
    },
    "x2": {"for": ["table2"], "methods": ["dense", "radial"], "lengths": ["2x"], "budget": 0.7, "tuned": TUNED},
    "style": {"for": ["style"], "methods": ["dense"], "lengths": ["1x"], "tuned": {**TUNED, "style": "dusk"}},
    "both": {"for": ["style"], "methods": ["radial"], "lengths": ["2x"], "budget": 0.7, "merge": ["x2", "style"]},
}  # fmt: skip
STARTED = {
    "x1": {"methods": ["dense", "radial"], "lengths": ["1x"], "tuned": TUNED},
    "x2": {"methods": ["dense", "radial"], "lengths": ["2x"], "tuned": TUNED, "start": "x1"},
}


def experiment(variants: dict | None = None, **changes) -> dict:
    """A small experiment with variants."""
    base = config.read(config.ROOT / "config" / "smoke.yaml") | {
        "experiment": "trial",
        "lengths": [{"name": "1x", "frames": 4}, {"name": "2x", "frames": 6}],
        "methods": ["dense", "riflex", "radial", "random"],
        "budget": 0.8,
        "knobs": {"radial": {"neighbour": "half"}},
    }
    return base | {"variants": VARIANTS if variants is None else variants} | changes


def checked(variants: dict | None = None, **changes) -> dict:
    return config.check(experiment(variants, **changes), budgets=False)


def refusal(variants: dict, budgets: bool = False, **changes) -> str:
    with pytest.raises(ValueError) as caught:
        config.check(experiment(variants, **changes), budgets=budgets)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def one(**changes) -> dict:
    """Variants of which there is one."""
    return {"a": {"methods": ["radial"], **changes}}


@pytest.mark.parametrize(
    ("variants", "words"),
    [
        ({"tuned": {"methods": ["radial"]}}, ["variants.tuned: another name", "a letter first"]),
        ({"seed8": {"methods": ["radial"]}}, ["variants.seed8: another name", "seed with a number"]),
        ({"a/b": {"methods": ["radial"]}}, ["variants.a/b: another name"]),
        ({}, ["variants={}"]),
        ({"a": {"lengths": ["1x"]}}, ["variants.a.methods: the key is missing"]),
        ({"a": {"methods": ["dense"]}}, ["variants.a.methods", "untuned dense", "reference"]),
        (one(method=1), ["variants.a.method: the key is unknown", "did you mean 'methods'?"]),
        ({"a": {"methods": ["radal"]}}, ["variants.a.methods: 'radal'", "did you mean 'radial'?"]),
        (one(lengths=["3x"]), ["variants.a.lengths: '3x'", "1x, 2x"]),
        (one(**{"for": ["table3"]}), ["variants.a.for[0]='table3'", "table1"]),
        (one(budget=2), ["variants.a.budget=2", "at most 1"]),
        (one(seed=-1), ["variants.a.seed=-1"]),
        (one(schedule={"steps": 3}), ["variants.a.schedule.steps: the key is unknown"]),
        (one(schedule={"dense_steps": 3}), ["variants.a: schedule.dense_steps=3: at most 2"]),
        (one(knobs={"radial": {"decoy": 1}}), ["variants.a: ", "no knob 'decoy'", "'decay'"]),
        (one(knobs={"random": {"seed": 1}}), ["variants.a.knobs: 'random'"]),
        (one(tuned={"rnk": 2}), ["variants.a.tuned.rnk: the key is unknown", "'rank'"]),
        (one(tuned={"dense_layers": 99}), ["variants.a: tuned.dense_layers=99", "all layers of testbed-nano"]),
        (one(tuned={"kind": "half"}), ["variants.a: tuned.kind='half'", "lora, full"]),
        (one(merge=["b", "c"]), ["variants.a.merge: 'b' is none", "there are none"]),
        (one(merge=["b", "c"], tuned={}), ["variants.a: tuned and merge"]),
        (
            {**one(tuned={"kind": "full"}), "b": {"methods": ["radial"], "merge": ["a", "b"]}},
            ["variants.b.merge: 'a' is none"],
        ),
        (
            {
                "a": {"methods": ["radial", "random"], "tuned": {}}, "c": {"methods": ["dense"], "tuned": {}},
                "b": {"methods": ["riflex"], "merge": ["a", "c"]},
            },
            ["variants.b.merge: a has radial, random, not riflex"],
        ),
        (one(start="b"), ["variants.a.start: tuned is needed beside it"]),
        (one(start="a", tuned={}), ["variants.a.start: 'a' is none", "there are none"]),
        (
            {**one(start="b", tuned=TUNED), "b": {"methods": ["radial"], "tuned": {}}, "c": one(tuned=TUNED)["a"]},
            ["variants.a.start: 'b' is none", "of its kind and rank: c"],
        ),
        (
            {**one(start="b", tuned={}), "b": {"methods": ["radial"], "budget": 0.7, "tuned": {}, "start": "a"}},
            ["variants.a.start: a from b from a: one needs no start"],
        ),
        (
            {**one(tuned={}), "b": {"methods": ["radial"], "tuned": {}, "start": "a"}, "c": one(tuned={})["a"]},
            ["variants.c: radial at 1x is the same cell as in a"],
        ),
        ({**one(), "b": {"methods": ["radial"]}}, ["variants.b: radial at 1x is the same cell as in a"]),
        (
            {"a": {"methods": ["riflex"]}, "b": {"methods": ["riflex"], "schedule": {"dense_steps": 0}, "budget": 0.3}},
            ["variants.b: riflex at 1x is the same cell as in a"],
        ),
    ],
)  # fmt: skip
def test_refusals_name_the_variant_the_value_and_what_is_allowed(variants, words):
    line = refusal(variants)
    assert all(word in line for word in words), line


def test_tuned_stands_in_the_variants():
    assert "tuned: an experiment with variants" in refusal(one(), tuned={"lengths": ["2x"], "methods": ["dense"]})


def test_budgets_are_held_against_the_methods_of_each_variant():
    line = refusal({"a": {"methods": ["random"], "budget": 0.05}, "b": {"methods": ["radial"], "budget": 0.05}}, True)
    assert line.startswith("variants.b.budget=0.05: radial on testbed-nano 1x") and "reaches densities from" in line


def test_cells_are_those_of_the_variants_and_their_references():
    found = cells_of(checked())
    assert [cell.path.relative_to("testbed-nano").as_posix() for cell in found] == [
        "1x/dense/untuned", "1x/dense/seed8", "2x/dense/untuned",
        "1x/radial/b80", "1x/random/b80", "1x/radial/none", "1x/radial/b80-seed8",
        "2x/dense/x2", "2x/radial/x2", "1x/dense/style", "2x/radial/both",
    ]  # fmt: skip
    cells = {cell.path.name + cell.method: cell for cell in found}
    assert (cells["b80radial"].budget, cells["b80radial"].dense_steps, cells["b80radial"].seed) == (0.8, 1, 7)
    assert cells["noneradial"].dense_steps == 0
    assert cells["b80-seed8radial"].knobs == {"neighbour": "half", "sink": False}
    assert cells["b80-seed8radial"].inputs == Path("testbed-nano/1x/seed8")
    assert cells["x2radial"].tuned and cells["x2radial"].budget == 0.7 and cells["x2dense"].budget is None
    folder = "results/trial/records/testbed-nano"
    assert cells["bothradial"].merged == [f"{folder}/2x/radial/x2/tune.json", f"{folder}/1x/dense/style/tune.json"]
    references = {cell.path.name: reference_of(cell, found).path.name for cell in found}
    assert references["b80"] == references["none"] == references["x2"] == references["both"] == "untuned"
    assert references["b80-seed8"] == references["seed8"] == "seed8"
    for cell in found:
        parser = argparse.ArgumentParser()
        add_cell_arguments(parser)
        assert from_arguments(parser.parse_args(cell.arguments().split())) == cell
        assert Cell(**json.loads(json.dumps(cell.settings()))) == cell
    folders = [places.folder_of(cell).as_posix() for cell in found if cell.tuned]
    assert folders[0] == "results/trial/adapters/testbed-nano/2x/dense/x2"


def test_a_tuning_starts_from_its_own_method_s(tmp_path):
    found = {cell.path.relative_to("testbed-nano").as_posix(): cell for cell in cells_of(checked(STARTED))}
    for method in ("dense", "radial"):
        assert found[f"1x/{method}/x1"].start == "" and "start" not in found[f"1x/{method}/x1"].settings()
        cell = found[f"2x/{method}/x2"]
        assert cell.start == f"results/trial/records/testbed-nano/1x/{method}/x1/tune.json"
        parser = argparse.ArgumentParser()
        add_cell_arguments(parser)
        assert from_arguments(parser.parse_args(cell.arguments().split())) == cell
        assert Cell(**json.loads(json.dumps(cell.settings()))) == cell
    with pytest.raises(
        ValueError, match="variants.x2.start: x1 has dense, radial, not random; random or one is needed"
    ):
        cells_of(checked({**STARTED, "x2": {**STARTED["x2"], "methods": ["random"]}}))


def test_references_do_not_depend_on_budget_or_schedule():
    found = cells_of(checked())[:3]
    other = cells_of(checked(budget=0.6, schedule={"steps": 2, "dense_steps": 2, "dense_layers": 1}))[:3]
    assert found == other and all(cell.method == "dense" and not cell.tuned for cell in found)


def test_what_the_experiment_leaves_out_the_variants_do_too(caplog):
    with caplog.at_level(logging.INFO):
        found = checked(methods=["dense", "radial"], lengths=[{"name": "1x", "frames": 4}])["variants"]
    assert list(found) == ["b80", "none", "b80-seed8", "style"] and found["b80"]["methods"] == ["radial"]
    assert "variants.x2: left out" in caplog.text and "variants.b80.methods: random left out" in caplog.text


def test_variants_by_what_they_are_for():
    assert config.variants_for(experiment(), "table1") == ["b80", "none", "b80-seed8"]
    assert config.variants_for(checked(), "style") == ["style", "both"]
    assert config.variants_for({}, "figure8") == []
    with pytest.raises(ValueError, match="for: 'table9' is unknown"):
        config.variants_for(experiment(), "table9")


def test_the_testbed_s_experiment_is_whole():
    """Every comparison of the paper has its cells, and equal operations are equal."""
    held = config.check(config.read(testbeds.CONFIG), budgets=False)
    found = {(cell.path.name, cell.length, cell.method): cell for cell in cells_of(held)}
    for purpose in ("table1", "table2", "ablation_a", "ablation_b", "ablation_c", "ablation_d", "figure8", "style"):
        assert config.variants_for(held, purpose), purpose
    assert {("untuned", length, "dense") for length in ("1x", "2x", "4x")} | {("seed8", "1x", "dense")} <= found.keys()

    def dense_pairs(cell: Cell) -> float:
        """Attention in units of a dense layer of a step, of 8 layers."""
        sparse = cell.dense_layers + (8 - cell.dense_layers) * cell.budget
        return 8 * cell.dense_steps + (cell.steps - cell.dense_steps) * sparse

    for purpose in ("ablation_b", "ablation_c"):
        rows = [
            found[name, held["variants"][name]["lengths"][0], "radial"] for name in config.variants_for(held, purpose)
        ]
        assert len({row.dense_steps for row in rows}) == len(rows) > 3
        assert [dense_pairs(row) for row in rows] == pytest.approx([dense_pairs(rows[0])] * len(rows), rel=1e-3)


def records_of(folder: Path, cells: list[Cell]) -> list[Path]:
    """Records of cells as the verbs would write them; what is shared by seed and weights is shared."""
    paths = []
    for cell in cells:
        noise = {name: synthetic.digest(name, cell.inputs) for name in ("noise", "prompts")}
        weights = synthetic.digest("weights", cell.path if cell.tuned else "")
        clips = synthetic.digest("clips", cell.path)
        made = synthetic.generate_record(cell, hashes=noise | {"weights": weights, "clips": clips})
        measured = synthetic.measure_record(cell, hashes=noise | {"candidate_clips": clips})
        if cell.method == "dense" and cell.tuned:
            measured["values"] |= {"psnr": 20.0, "ssim": 0.5, "lpips_untrained": 0.1}
        for kind, record in (("generate", made), ("measure", measured)):
            paths.append(synthetic.path_of(folder, cell, kind))
            write_json(paths[-1], record)
        if cell.tuned and not cell.merged:
            values, units = {"tuning_s": 3.0, "peak_memory_gib": 1.0, "final_loss": 0.1}, {"tuning_s": "s"}
            of = places.of_tuning(cell)
            paths.append(synthetic.path_of(folder, cell, "tune"))
            write_json(paths[-1], make_record("tune", of, "passed", values, units=units, hashes={"weights": weights}))
    return paths


@pytest.fixture
def recorded(tmp_path):
    """The records of all cells, in a folder."""
    return records_of(tmp_path, cells_of(checked(prompts={"count": 3, "seed": 7})))


def test_variants_are_collected_side_by_side(recorded):
    rows = collect("trial", recorded)
    found = {(row["method"], row["length"], row["variant"], row["tuning"]) for row in rows}
    assert ("radial", "1x", "none", "untuned") in found and ("dense", "1x", "", "untuned") in found
    assert ("dense", "1x", "seed8", "untuned") in found and ("dense", "2x", "x2", "tuned") in found
    assert len(found) == 11


@pytest.mark.parametrize(
    ("variant", "change", "words"),
    [
        ("b80", {"dense_steps": 0}, "schedule"),
        ("b80", {"seed": 8}, "noise"),
        ("none", {"steps": 9}, "shape frames=4 .*steps=9"),
        ("none", {"clips": 2}, "shape .* clips=2"),
    ],
)
def test_a_variant_shares_its_schedule_and_all_share_the_reference_s_steps(recorded, variant, change, words):
    for path in recorded:
        if path.parts[-3:-1] == ("radial", variant):
            record = json.loads(path.read_text())
            record["cell"] |= change
            write_json(path, record)
    with pytest.raises(ValueError, match=words):
        collect("trial", recorded)


def test_tables_find_the_cells_of_a_purpose_and_their_reference(recorded, tmp_path):
    file = tmp_path / "trial.yaml"
    held = experiment(methods=["dense", "gone", "radial", "random"])
    file.write_text(yaml.safe_dump(held, sort_keys=False))
    empty = testbeds.load(tmp_path / "nothing", config=file)
    assert empty.cells("table1") == empty.references() == []
    write_parquet(collect("trial", recorded), tmp_path / "records.parquet")
    found = testbeds.load(tmp_path, config=file)
    assert [(cell.variant, cell.method) for cell in found.cells("table1")] == [
        ("b80", "radial"), ("b80", "random"), ("none", "radial"), ("b80-seed8", "radial"),
    ]  # fmt: skip
    assert [(cell.length, cell.path[-1]) for cell in found.references()] == [("1x", "untuned"), ("2x", "untuned")]
    assert found.reference(found.cells("table1")[-1]).path == ("testbed-nano", "1x", "dense", "seed8")
    assert found.reference(found.find("x2", "radial", "2x")).path == ("testbed-nano", "2x", "dense", "untuned")
    assert found.find("x2", "radial", "1x") is None and found.label("b80") == "eighty" and found.label("x2") == "x2"
    assert found.experiment.record(found.cells("style")[1], "measure")["cell"]["merged"][1].endswith("style/tune.json")


def test_a_testbed_s_configuration_needs_variants(tmp_path):
    with pytest.raises(ValueError, match="smoke.yaml: variants: the key is missing"):
        testbeds.load(tmp_path, config=config.ROOT / "config" / "smoke.yaml")


def test_the_workflow_plans_every_variant_once(tmp_path):
    """Each cell is drawn and measured once, against the clips of its own seed, from inputs of its own seed."""
    changes = {key: value for key, value in experiment().items() if key != "methods"}
    project = small_project(tmp_path, ("dense", "riflex", "radial", "random"), **changes)
    record = "results/trial/records/testbed-nano"
    targets = [f"{record}/{place}/measure.json" for place in ("1x/radial/b80-seed8", "2x/radial/both")]
    words = [*targets, "--dry-run", "--cores", "1", "--configfile", "config/smoke.yaml"]
    done = subprocess.run([sys.executable, "-m", "snakemake", *words], cwd=project, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    jobs = [job.partition("\n\n")[0] for job in said.split("\nrule ")[1:]]
    assert sorted(job.partition(":")[0] for job in jobs) == [
        *["generate"] * 4,
        *["inputs"] * 2,
        *["measure"] * 2,
        *["tune"] * 2,
    ]
    measured = next(job for job in jobs if job.startswith("measure") and "tuning=b80-seed8" in job)
    assert f"{record}/1x/dense/seed8/generate.json" in measured and "inputs/testbed-nano/1x/seed8/prompts" in measured
    merged = next(job for job in jobs if job.startswith("generate") and "tuning=both" in job)
    assert f"{record}/2x/radial/x2/tune.json" in merged and f"{record}/1x/dense/style/tune.json" in merged


def test_a_variant_s_name_changes_no_other_record():
    cell = synthetic.cell("radial")
    assert "variant" not in cell.settings() and "merged" not in cell.settings()
    assert replace(cell, variant="b50").settings() == cell.settings() | {"variant": "b50"}
