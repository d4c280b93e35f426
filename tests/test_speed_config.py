"""The configuration of the speed experiment: what it holds, and what is refused."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from benchmark import config, models
from benchmark.records import write_json
from benchmark.speed import expected, planning, settings

FILE = config.ROOT / "config" / "h100.yaml"
STAGES = settings.load(FILE)


def refusal(stage: str = "hunyuanvideo/table1", **changes) -> str:
    """The line that a changed stage is refused with."""
    changed = copy.deepcopy(config.read(FILE))
    changed["speed"]["stages"][stage] |= changes
    with pytest.raises(ValueError) as caught:
        settings.stages(changed)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_every_shape_of_the_tables_is_there():
    for name in ("hunyuanvideo", "wan2.1-14b", "mochi-1"):
        spec = models.get(name)
        for length, frames in spec.lengths.items():
            cell = STAGES[f"{name}/{length}"].cells[0]
            assert (cell.frames, cell.height, cell.width) == (frames, spec.default.height, spec.default.width)
            assert (cell.dense_steps, cell.dense_layers) == (2, 2)
        if spec.table1:
            cell = STAGES[f"{name}/table1"].cells[0]
            assert (cell.frames, cell.height, cell.width) == tuple(spec.table1)
            assert cell.dense_steps == 12


def test_every_method_of_a_published_row_is_timed_at_its_density():
    from paper_figures import published

    for row in (found.cells for found in published.rows("table2")):
        model = next(name for name in models.names() if models.get(name).paper_name == row["model"])
        stage = STAGES[f"{model}/{row['length']}"]
        cell = stage.cell(f"{row['method']}/paper")
        if float(row["sparsity_pct"] or 0):
            assert cell.budget == pytest.approx(1 - float(row["sparsity_pct"]) / 100, abs=6e-4)
    for row in (found.cells for found in published.rows("table1")):
        model = next(name for name in models.names() if models.get(name).paper_name == row["model"])
        assert STAGES[f"{model}/table1"].cell(f"{row['method']}/paper").budget in (0.32, 0.20)


def test_dense_and_radial_have_whole_steps_at_every_shape():
    for stage in STAGES.values():
        assert stage.whole[0] == "dense/paper"
        assert any(key.startswith("radial/") for key in stage.whole)
    assert sum(stage.run is not None for stage in STAGES.values()) == 2


def test_published_settings_are_those_of_the_released_scripts():
    radial = STAGES["hunyuanvideo/table1"].cell("radial/authors").knobs
    assert (radial["decay"], radial["sink"], radial["neighbour"]) == (0.95, False, "whole")
    radial = STAGES["wan2.1-14b/table1"].cell("radial/authors")
    assert (radial.knobs["decay"], radial.knobs["neighbour"], radial.dense_layers) == (0.2, "half", 1)
    mixture = STAGES["hunyuanvideo/table1"].cell("sta/authors").mixture
    windows = [[int(n) for n in part["knobs"]["window"].split("x")] for part in mixture]
    density = sum(p["share"] * w[0] * w[1] * w[2] / 300 for p, w in zip(mixture, windows, strict=True))
    assert density == pytest.approx(0.166, abs=0.002)  # of the 5x6x10 tiles of 30x48x80 tokens


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape": [118, 768, 1280]}, ["hunyuanvideo/table1.shape", "frames=118", "117 and 121"]),
        ({"methods": ["dense", "radal"]}, ["methods: method 'radal'", "'radial'"]),
        ({"density": {"radal": 0.2}}, ["density: method 'radal'"]),
        ({"density": 1.5}, ["density=1.5"]),
        ({"whole": ["radial/author"]}, ["whole: 'radial/author'", "'radial/authors'"]),
        ({"run": "svgg/paper"}, ["run: 'svgg/paper'"]),
        ({"authors": {"radial": {"decoy": 1}}}, ["no knob 'decoy'", "'decay'"]),
        ({"authors": {"sta": {"mixture": [{"share": 0.5, "knobs": {}}]}}}, ["shares add up to 0.5"]),
        ({"schedule": {"steps": 5, "dense_steps": 6, "dense_layers": 0}}, ["dense_steps=6", "at most 5"]),
        ({"schedule": {"steps": 5, "dense_steps": 6}}, ["schedule.dense_layers: the key is missing"]),
        ({"wholes": []}, ["wholes: the key is unknown", "'whole'"]),
    ],
)
def test_refusals_name_the_key_the_value_and_what_is_allowed(changes, words):
    line = refusal(**changes)
    assert all(word in line for word in words), line


def test_the_two_kinds_of_experiments_are_told_apart():
    with pytest.raises(ValueError, match="experiment of times, without clips"):
        config.load(FILE)
    with pytest.raises(ValueError, match="speed: the key is missing"):
        settings.load(config.ROOT / "config" / "quick.yaml")
    both = config.read(FILE) | {"prompts": {"count": 1, "seed": 1}}
    with pytest.raises(ValueError, match="prompts: the key is unknown"):
        settings.stages(both)


def test_a_budget_out_of_reach_takes_the_nearest():
    from benchmark import registry

    layout = models.get("wan2.1-14b").layout(9, 128, 128)
    method, density = planning.solve(registry.get("radial"), layout, 16, 0.001)
    lowest, _ = planning.solve(registry.get("radial"), layout, 16, 1e-9)
    assert method == lowest and density > 0.01
    assert planning.solve(registry.get("riflex"), layout, 16, 0.2)[1] == 1.0
    window, density = planning.solve(registry.get("sta", {"tile": "1x2x2"}), layout, 16, 0.25)
    assert density == pytest.approx(0.25, rel=0.15)


def test_what_is_timed_may_change_without_a_new_plan(tmp_path, monkeypatch):
    stage = STAGES["mochi-1/short"]
    masks = {settings.key_of(cell): planning._masks(cell) for cell in stage.cells}
    cells = {settings.key_of(cell): {"cell": cell.settings()} for cell in stage.cells}
    cells = {key: facts | {"mask_hash": masks[key]} for key, facts in cells.items()}
    write_json(tmp_path / stage.name / planning.FILE, {"format": 1, **planning.lists(stage), "cells": cells})
    other = replace(stage, run=None, whole=stage.whole[:1])
    monkeypatch.delattr(planning, "plan")
    held = planning.ensure(other, tmp_path)
    assert (held["cells"], held["run"], held["whole"]) == (cells, None, ["dense/paper"])
    assert planning.ensure(other, tmp_path) == planning.read(tmp_path / stage.name / planning.FILE) == held
    with pytest.raises(NameError):  # other cells are solved anew
        planning.ensure(replace(stage, cells=stage.cells[:1]), tmp_path)


def test_the_estimate_knows_the_measured_steps():
    dense = STAGES["hunyuanvideo/table1"].cell("dense/paper")
    assert expected.step_s(dense) == pytest.approx(19.2, rel=0.2)  # measured in eager mode
    assert expected.step_s(STAGES["hunyuanvideo/4x"].cell("dense/paper")) == pytest.approx(246, rel=0.15)


def test_the_whole_of_it_is_planned_without_a_gpu():
    words = [sys.executable, "-m", "snakemake", "-n", "--forceall", "--cores", "1", "--configfile", str(FILE)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(words, cwd=config.ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", done.stdout, flags=re.MULTILINE)}
    assert jobs["speed_plan"] == jobs["speed_assemble"] == len(STAGES)
    parts = sum(1 + s.ends + s.profile + bool(s.whole) + bool(s.training) + bool(s.run) for s in STAGES.values())
    assert jobs["speed_measure"] == parts
    # A changed method is planned and measured anew, and a shape waits for the checks of its model's other shapes.
    jobs = re.findall(r"input: (.*)\n +output: results/h100/(\S+\.json)\n", done.stdout)
    inputs = {made: given for given, made in jobs}
    for made in ("records/mochi-1/short/plan.json", "stages/mochi-1/short/whole.json"):
        assert "methods/dense.py, methods/radial.py" in inputs[made]
    assert "stages/mochi-1/short/parts.json" in inputs["stages/mochi-1/1x/assemble.json"]


def test_what_the_shipped_experiment_takes_is_estimated():
    from benchmark.speed import foresight

    found = foresight.estimate(FILE)
    assert found["jobs"]["speed_plan"] == len(found["stages"]) == 13
    assert found["stages"]["hunyuanvideo/table1"]["pflop_dense"] == pytest.approx(569.9, abs=0.1)
    assert found["gpu_hours"] == pytest.approx(sum(stage["gpu_hours"] for stage in found["stages"].values()))
    assert 1 < found["gpu_hours"] < 5
    assert "hunyuanvideo/4x" in foresight.describe(found)
