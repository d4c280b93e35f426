"""The configuration: what is refused and with which words, and the cells that come out."""

from __future__ import annotations

import argparse
import json
import logging
import math
from pathlib import Path

import pytest
import torch
import yaml

from benchmark import config, inputs, models, registry
from benchmark.budget import at_budget, reach
from benchmark.cell import Cell, add_cell_arguments, from_arguments
from benchmark.cells import cells as cells_of
from benchmark.metric import metric_names
from benchmark.models.testbed import manifest
from benchmark.tuning import places
from benchmark.tuning.settings import TuningSettings

SPEC = models.get("testbed-nano")
ROWS, COLUMNS = SPEC.token_pixels  # pixels a token covers


def smoke(**changes):
    """The smoke configuration with some keys changed."""
    return config.read(config.ROOT / "config" / "smoke.yaml") | changes


def refusal(budgets=False, **changes):
    """The line that a changed smoke configuration is refused with."""
    with pytest.raises(ValueError) as caught:
        config.check(smoke(**changes), budgets=budgets)
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("name", ["quick", "smoke"])
def test_shipped_configurations_are_right(name):
    checked = config.load(config.ROOT / "config" / f"{name}.yaml")
    assert checked["experiment"] == name
    found = cells_of(checked)
    assert sum(not cell.tuned for cell in found) == math.prod(len(checked[k]) for k in ("models", "lengths", "methods"))
    for cell in found:  # quick trains nothing
        assert not cell.tuned or places.shipped(cell, manifest(cell.model)["sha256"]) is not None, cell.path


def test_quick_runs_every_method_at_three_lengths_with_every_metric_but_two():
    checked = config.check(config.read(config.ROOT / "config" / "quick.yaml"), budgets=False)
    assert checked["methods"] == registry.names()
    assert [length["name"] for length in checked["lengths"]] == ["1x", "2x", "4x"]
    assert sorted([*checked["metrics"], "length_effects", "style_score"]) == metric_names()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": ["dense"]}, ["method: the key is unknown", "did you mean 'methods'?"]),
        ({"schedule": {"step": 2, "dense_steps": 1, "dense_layers": 0}}, ["schedule.step: the key", "'steps'"]),
        ({"schedule": {"steps": 2, "dense_steps": 1}}, ["schedule.dense_layers: the key is missing"]),
        ({"schedule": {"steps": 2, "dense_steps": 3, "dense_layers": 0}}, ["dense_steps=3", "at most 2"]),
        (
            {"schedule": {"steps": 2, "dense_steps": 1, "dense_layers": 99}},
            ["dense_layers=99", "all layers of testbed"],
        ),
        ({"schedule": {"steps": "two", "dense_steps": 1, "dense_layers": 0}}, ["schedule.steps='two'", "whole number"]),
        ({"methods": ["dense", "radal"]}, ["methods", "'radal'", "did you mean 'radial'?"]),
        ({"methods": "radial"}, ["methods='radial'", "all, or a list"]),
        ({"methods": ["dense", "dense"]}, ["methods=", "each once"]),
        ({"models": ["testbed-nan"]}, ["'testbed-nan'", "'testbed-nano'"]),
        ({"models": ["wan2.1-14b"]}, ["models: wan2.1-14b has no weights here", "testbed-nano"]),
        ({"metrics": ["psnrr"]}, ["metrics: 'psnrr'", "did you mean 'psnr'?"]),
        ({"kernel": "sdpaa"}, ["kernel: 'sdpaa'", "did you mean 'sdpa'?"]),
        ({"control_kernel": "flexx"}, ["control_kernel: 'flexx'", "did you mean 'flex'?"]),
        ({"lengths": ["3x"]}, ["lengths", "'3x'", "1x, 2x, 4x"]),
        ({"lengths": [{"name": "long", "frames": 4000}]}, ["lengths: long", "frames=4000", "the nearest is "]),
        ({"lengths": [{"name": "a", "frames": 9, "height": 8 * ROWS - 1}]}, [f"nearest are {7 * ROWS} and {8 * ROWS}"]),
        (
            {"lengths": [{"name": "a", "frames": 9, "width": 1}]},
            ["a: testbed-nano: width=1", f"the nearest is {COLUMNS}"],
        ),
        ({"lengths": [{"name": "x", "frames": 16, "heigth": 64}]}, ["lengths[0].heigth", "did you mean 'height'?"]),
        ({"lengths": ["1x", {"name": "1x", "frames": 8}]}, ["lengths: '1x' stands there 2 times"]),
        ({"knobs": {"radial": {"decoy": 1.0}}}, ["radial has no knob 'decoy'", "did you mean 'decay'?"]),
        ({"knobs": {"radial": {"decay": 99.0}}}, ["decay=99.0", "at most 16"]),
        ({"knobs": {"radail": {"decay": 1.0}}}, ["knobs", "'radail'", "did you mean 'radial'?"]),
        ({"budget": 1.5}, ["budget=1.5", "at most 1"]),
        ({"budget": "half"}, ["budget='half'", "a density"]),
        ({"block": 0}, ["block=0", "at least 1"]),
        ({"prompts": {"count": 0, "seed": 1}}, ["prompts.count=0", "from 1 to 999"]),
        ({"experiment": "../elsewhere"}, ["experiment='../elsewhere'", "a letter first"]),
        ({"experiment": "reference"}, ["experiment='reference'", "committed", "another name"]),
        ({"block": 4.0}, ["block=4.0", "a whole number"]),
        ({"prompts": {"count": 2.0, "seed": 7}}, ["prompts.count=2.0", "a whole number from 1 to 999"]),
        ({"prompts": {"count": {"1x": 1, "2x": 2.0}, "seed": 7}}, ["prompts.count=", "a whole number from 1 to 999"]),
        ({"schedule": {"steps": 2.0, "dense_steps": 1, "dense_layers": 0}}, ["schedule.steps=2.0", "whole number"]),
        ({"lengths": [{"name": "a", "frames": 8.0}]}, ["lengths[0]=", "8.0"]),
        ({"budget": math.nan}, ["budget=nan", "a density above 0"]),
        ({"knobs": {"radial": {"decay": math.nan}}}, ["radial: decay=nan: a finite number"]),
        ({"knobs": {"spatial": {"width": math.inf}}}, ["spatial: width=inf: a finite number"]),
        ({"knobs": {"sta": 3}}, ["knobs.sta=3", "{sink: false}"]),
        ({"knobs": 3}, ["knobs=3", "{sta: {tile: 4x4x4}}"]),
        ({"prompts": {"count": 1, "seed": 2**64}}, ["prompts.seed=18446744073709551616", "to 1000000000000"]),
        ({"vision_reward": {"judge": "x"}}, ["vision_reward.judge='x'", "testbed, visionreward-video"]),
        ({"vision_reward": {"judge": "testbed", "model": "y"}}, ["vision_reward.model='y'", "takes none"]),
        ({"vision_reward": {"judge": "visionreward-video"}}, ["vision_reward.model: the judge", "needs it, a folder"]),
        ({"vision_reward": {"model": "no/folder/at_all"}}, ["vision_reward.fps: the judge", "frames a second"]),
        (
            {"vision_reward": {"model": "no/folder/at_all", "fps": 8}},
            ["vision_reward.model='no/folder/at_all'", "is no folder"],
        ),
        ({"lpips": {"weights": 3}}, ["lpips.weights=3", "path"]),
        ({"tuned": {"methods": ["dense"]}}, ["tuned.lengths: the key is missing"]),
        ({"tuned": {"lengths": ["3x"], "methods": ["dense"]}}, ["tuned.lengths: '3x'", "1x, 2x, 4x"]),
        ({"tuned": {"lengths": ["2x"], "methods": ["radal"]}}, ["tuned.methods: 'radal'", "'radial'"]),
        ({"tuned": {"lengths": ["2x"], "methods": ["dense"], "rnk": 4}}, ["tuned.rnk: the key", "'rank'"]),
        ({"tuned": {"lengths": ["2x"], "methods": ["dense"], "rank": 0}}, ["tuned.rank=0", "at least 1"]),
        ({"tuned": {"lengths": [], "methods": [], "shipped_only": 1}}, ["tuned.shipped_only=1", "true", "or false"]),
        ({"tuned": {"lengths": ["2x"], "methods": ["dense"], "style": "dask"}}, ["tuned.style='dask'", "'dusk'"]),
        (
            {"tuned": {"lengths": ["2x"], "methods": ["dense"], "dense_layers": 99}},
            ["tuned.dense_layers=99", "all layers of testbed-nano"],
        ),
        (
            {"lengths": [{"name": "a", "frames": 9, "height": 2 * ROWS}], "tuned": {"lengths": ["a"], "methods": []}},
            ["tuned.lengths: a", "square"],
        ),
    ],
)
def test_refusals_name_the_key_the_value_and_what_is_allowed(changes, words):
    line = refusal(**changes)
    assert all(word in line for word in words), line


def test_missing_keys_are_named():
    incomplete = smoke()
    del incomplete["block"]
    with pytest.raises(ValueError, match="block: the key is missing"):
        config.check(incomplete, budgets=False)


@pytest.mark.parametrize("budget", [0.05, 0.99])
def test_a_budget_out_of_reach_is_refused_with_one_that_all_methods_reach(budget):
    line = refusal(budgets=True, budget=budget, lengths=["4x"])
    assert f"budget={budget}" in line and "reaches densities from" in line
    nearest = float(line.rpartition(" ")[2])
    checked = config.check(smoke(budget=nearest, lengths=["4x"]))
    layout = SPEC.layout(frames=SPEC.lengths["4x"])
    for name in checked["methods"]:
        at_budget(registry.get(name), layout, checked["block"], nearest)


@pytest.mark.parametrize(
    ("method", "knob", "value", "other"),
    [("radial", "decay", 0.5, {"sink": False}), ("sta", "window", "1x1x1", {"tile": "4x4x4"})],
)
def test_a_knob_that_the_budget_is_solved_for_is_refused_beside_it(method, knob, value, other):
    knobs = {"knobs": {method: {knob: value}}, "methods": ["dense", method]}
    line = refusal(budgets=True, **knobs)
    assert line == f"knobs: {method}: {knob}={value!r}: {knob} is solved for budget=0.5; leave one of them out"
    config.check(smoke(**knobs | {"budget": None}))
    config.check(smoke(**knobs | {"knobs": {method: other}, "lengths": ["2x"]}))
    variants = {"one": {"methods": [method], "budget": 0.4, "knobs": {method: {knob: value}}}}
    line = refusal(budgets=True, **knobs | {"knobs": {}, "budget": None, "variants": variants})
    assert line.startswith(f"variants.one.knobs: {method}: {knob}={value!r}: {knob} is solved for budget=0.4;")


def test_the_check_of_the_budget_agrees_with_the_solver():
    layout = SPEC.layout(frames=8)
    for name in registry.names():
        method = registry.get(name, {"tile": "4x4x4"} if name == "sta" else {})
        found = reach(method, layout, 4)
        if found is None:
            assert at_budget(method, layout, 4, 0.01) is method
            continue
        low, high = found
        for budget, possible in ((low, True), (high, True), (low / 1.2, False), (0.8 * low + 0.2 * high, True)):
            if possible:
                at_budget(method, layout, 4, min(budget, 1.0))
            else:
                with pytest.raises(ValueError, match="reaches densities"):
                    at_budget(method, layout, 4, budget)


def test_cells_say_what_decides_their_clips_and_nothing_else():
    few = cells_of(config.check(smoke(), budgets=False))
    more = cells_of(config.check(smoke(methods="all", metrics=["psnr"]), budgets=False))
    assert {cell.arguments() for cell in few} < {cell.arguments() for cell in more}
    by_method = {cell.method: cell for cell in few}
    assert by_method["dense"].budget is None  # it has no density to set: another budget shall not run it again
    assert by_method["radial"].budget == 0.5
    assert len({cell.path for cell in more}) == len(more)


def test_lengths_by_name_and_by_shape():
    checked = config.check(smoke(lengths=["2x", {"name": "small", "frames": 8, "height": 2 * ROWS}]), budgets=False)
    shapes = {cell.length: (cell.frames, cell.height, cell.width) for cell in cells_of(checked)}
    _, height, width = SPEC.default
    assert shapes == {"2x": (SPEC.lengths["2x"], height, width), "small": (8, 2 * ROWS, width)}


def test_dense_is_added_as_the_reference_and_logged(caplog):
    with caplog.at_level(logging.INFO, logger="benchmark.config"):
        checked = config.check(smoke(methods=["random"]), budgets=False)
    assert checked["methods"] == ["dense", "random"]
    assert "dense is added" in caplog.text


def test_keys_that_may_be_left_out_get_their_defaults():
    least = {key: value for key, value in smoke().items() if key not in ("budget", "kernel")}
    checked = config.check(least, budgets=False)
    assert (checked["budget"], checked["kernel"], checked["knobs"]) == (None, "auto", {})
    assert checked["lpips"] == {"weights": None, "download": False}
    assert all(cell.budget is None for cell in cells_of(checked))


def test_words_of_the_command_line_become_numbers():
    words = {"schedule": {"steps": "4"}, "budget": "null", "lengths": ["1x"], "lpips": {"download": "true"}, "n": "0.5"}
    assert config.from_words(words) == {
        "schedule": {"steps": 4},
        "budget": None,
        "lengths": ["1x"],
        "lpips": {"download": True},
        "n": 0.5,
    }


def test_knobs_reach_their_method_only():
    checked = config.check(smoke(knobs={"radial": {"sink": False}}), budgets=False)
    assert {cell.method: cell.knobs for cell in cells_of(checked)} == {
        "dense": {},
        "radial": {"sink": False},
        "random": {},
    }


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(ValueError, match="none.yaml: no such"):
        config.load(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="no configuration file that can be read: Is a directory"):
        config.load(tmp_path)
    path = tmp_path / "bad.yaml"
    path.write_text("models: [dense\n")
    with pytest.raises(ValueError, match="bad.yaml: not YAML"):
        config.load(path)
    path.write_text("- a\n")
    with pytest.raises(ValueError, match="keys and values are needed"):
        config.load(path)
    path.write_text(yaml.safe_dump(smoke(kernel="none")))
    with pytest.raises(ValueError, match="bad.yaml: kernel: 'none'"):
        config.load(path)


def test_a_seed_that_is_allowed_can_be_drawn_with():
    schema = yaml.safe_load(config.SCHEMA_FILE.read_text())["properties"]
    seeds = [schema[key]["properties"]["seed"]["maximum"] for key in ("prompts", "tuned")]
    assert seeds == [inputs.MAX_SEED] * 2
    torch.Generator().manual_seed(inputs.clip_seeds(inputs.MAX_SEED, 999)[-1])
    with pytest.raises(ValueError, match="seed=.*: at most 1000000000000"):
        inputs.clip_seeds(inputs.MAX_SEED + 1, 1)


def test_a_judge_that_is_not_measured_with_is_not_looked_for():
    config.check(smoke(vision_reward={"judge": "visionreward-video"}, metrics=["psnr"]), budgets=False)
    config.check(smoke(vision_reward={"model": "some/hub-id", "download": True, "fps": 8}), budgets=False)


def test_each_length_may_have_its_own_number_of_prompts():
    checked = config.check(smoke(prompts={"count": {"1x": 3, "2x": 1, "4x": 2}, "seed": 7}), budgets=False)
    assert {(cell.length, cell.clips) for cell in cells_of(checked)} == {("1x", 3), ("2x", 1)}  # 4x is left out
    line = refusal(prompts={"count": {"1x": 3}, "seed": 7})
    assert line == "prompts.count: 2x is missing: a number for each length is needed, or one for all"
    assert "prompts.count: '5x' is unknown" in refusal(prompts={"count": {"1x": 3, "5x": 1}, "seed": 7})
    assert "or one for each length such as" in refusal(prompts={"count": {"1x": 0}, "seed": 7})


def test_a_method_file_that_fails_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "METHODS_FOLDER", tmp_path)
    for name in ("dense", "broken"):
        (tmp_path / f"{name}.py").write_text("")
    monkeypatch.setattr("methods.__path__", [str(tmp_path)])
    (tmp_path / "broken.py").write_text("import no_such_package\n")
    line = refusal(methods=["broken"])
    assert line.startswith("methods/broken.py: cannot be used: ModuleNotFoundError")


def test_a_cell_is_read_back_from_its_words():
    import argparse

    from benchmark.cell import add_cell_arguments, from_arguments

    parser = argparse.ArgumentParser()
    add_cell_arguments(parser)
    for cell in cells_of(config.check(smoke(knobs={"radial": {"sink": False}}), budgets=False)):
        assert isinstance(cell, Cell)
        assert from_arguments(parser.parse_args(cell.arguments().split())) == cell


def test_tuned_cells_stand_beside_the_untuned_ones_and_change_none_of_them(caplog):
    plain = cells_of(config.check(smoke(), budgets=False))
    asked = {"lengths": ["2x", "4x"], "methods": ["dense", "radial", "sta"], "rank": 2, "rate": 1}
    with caplog.at_level(logging.INFO):
        checked = config.check(smoke(tuned=asked), budgets=False)
    assert "tuned.lengths: 4x left out" in caplog.text and "tuned.methods: sta left out" in caplog.text
    found = cells_of(checked)
    assert [cell for cell in found if not cell.tuned] == plain
    tuned = [cell for cell in found if cell.tuned]
    assert [cell.path.as_posix() for cell in tuned] == [
        f"testbed-nano/2x/{name}/tuned" for name in registry.names() if name in ("dense", "radial")
    ]
    for cell in tuned:
        place = found.index(cell)
        assert found[place - 1].path.parent == cell.path.parent  # its untuned one
        assert cell.tuning_settings == TuningSettings(rank=2, rate=1.0).as_dict()
        assert cell.budget == found[place - 1].budget
    assert all("tuning_settings" not in cell.settings() for cell in plain)


def test_a_tuned_cell_s_options_read_back():
    cells = cells_of(config.check(smoke(tuned={"lengths": ["2x"], "methods": ["dense", "radial"]}), budgets=False))
    for cell in cells:
        parser = argparse.ArgumentParser()
        add_cell_arguments(parser)
        assert from_arguments(parser.parse_args(cell.arguments().split())) == cell
        assert Cell(**json.loads(json.dumps(cell.settings()))) == cell
    parser = argparse.ArgumentParser()
    add_cell_arguments(parser)
    with pytest.raises(ValueError, match="--tune rank=4: the cell is not tuned"):
        from_arguments(parser.parse_args([*cells[0].arguments().split(), "--tune", "rank=4"]))


def test_weights_that_are_missing_are_named_with_what_makes_them(monkeypatch):
    config.require_weights(smoke())
    monkeypatch.setattr(config, "WEIGHTS_FOLDER", Path("nowhere"))
    with pytest.raises(ValueError) as caught:
        config.require_weights(smoke())
    line = str(caught.value)
    assert line.startswith("models: testbed-nano has no weights, nowhere/testbed-nano.safetensors is missing")
    assert "results/smoke/training/testbed-nano.training.json" in line and "\n" not in line


def test_the_control_alone_is_drawn_with_the_kernel_that_is_named_for_it():
    held = config.check(smoke(methods=["dense", "radial", "dense_repeated"], control_kernel="reference"), budgets=False)
    found = {cell.method: cell.kernel for cell in cells_of(held)}
    assert found == {"dense": "auto", "radial": "auto", "dense_repeated": "reference"}
