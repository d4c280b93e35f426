"""The error of masks' attention output: what is taken, what is refused, and the table of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny_testbed import GRID, PROMPT, tiny_noise, tiny_spec, tiny_transformer, write_inputs

from benchmark import kernels, output_error, registry
from benchmark.__main__ import main
from benchmark.probing.listening import KERNEL, dense_pass
from benchmark.records import make_record, read_record, write_json
from paper_figures import table_error
from paper_figures.__main__ import main as figures
from paper_figures.random_control import explanation

BLOCK = 4


@pytest.fixture(scope="module")
def spec():
    return tiny_spec()


@pytest.fixture(scope="module")
def transformer(spec):
    return tiny_transformer(spec)


@pytest.fixture(scope="module")
def noise(spec):
    return tiny_noise(spec, 2)


def errors_of(transformer, noise, methods):
    """The errors at the second of two steps."""
    _, kernel = kernels.select(KERNEL, "cpu")
    prompts = [PROMPT] * len(noise)
    return output_error.compare(transformer, GRID, noise, prompts, 2, [1], methods, BLOCK, kernel)


def test_the_error_is_that_of_masked_attention(transformer, noise):
    """Against softmax over the token mask, written out, of the queries and keys that the layer had."""
    spatial = registry.get("spatial", {"width": 1})
    found = errors_of(transformer, noise[:1], {"spatial": spatial, "dense": registry.get("dense")})
    mask = spatial.block_mask(GRID, BLOCK).to_tokens()[0]
    assert not mask.all()
    expected = {}

    def listen(step, layer, q, k, v, out):
        scores = torch.einsum("qhd,khd->hqk", q[0], k[0]) / q.shape[3] ** 0.5
        shares = scores.masked_fill(~mask, -torch.inf).softmax(-1)
        error = torch.einsum("hqk,khd->qhd", shares, v[0]) - out[0]
        frames = [error[frame * GRID.frame_tokens :][: GRID.frame_tokens].mean(0) for frame in range(GRID.frames)]
        squares = error.square().mean(), torch.stack(frames).square().mean(), out.square().mean()
        expected[layer] = [float(value) for value in squares]

    _, kernel = kernels.select(KERNEL, "cpu")
    dense_pass(transformer, GRID, noise[:1], PROMPT, 2, [1], kernel, listen)
    for layer, (error, common, energy) in expected.items():
        assert found.common["spatial"][0, 0, layer] == pytest.approx(common, rel=1e-4) and 0 < common < error
        assert found.mse["spatial"][0, 0, layer] == pytest.approx(error, rel=1e-4) and error > 1e-6
        assert found.energy[0, 0, layer] == pytest.approx(energy, rel=1e-5)
        assert found.relative("spatial")[0, 0, layer] == pytest.approx(error / energy, rel=1e-4)
    assert not found.mse["dense"].any()


def test_a_method_that_fails_takes_no_other_with_it(transformer, noise, monkeypatch):
    radial, temporal = registry.get("radial"), registry.get("temporal")
    attend = type(temporal).attend

    def broken(self, q, *rest):
        if isinstance(self, type(temporal)):
            raise RuntimeError("no such luck")
        return attend(self, q, *rest)

    alone = errors_of(transformer, noise, {"radial": radial})
    monkeypatch.setattr(type(temporal), "attend", broken)
    found = errors_of(transformer, noise, {"temporal": temporal, "radial": radial})
    assert found.failed == {"temporal": ("error", "RuntimeError: no such luck")}
    np.testing.assert_array_equal(found.mse["radial"], alone.mse["radial"])

    def unplanned(self, *rest):
        raise KeyError("no plan")

    monkeypatch.undo()
    monkeypatch.setattr(type(temporal), "block_mask", unplanned)
    found = errors_of(transformer, noise[:1], {"temporal": temporal, "radial": radial})
    assert found.failed == {"temporal": ("error", "KeyError: 'no plan'")}
    assert list(found.mse) == list(found.common) == list(found.methods) == ["radial"]
    solved, failed = output_error.solve([temporal, radial], GRID, BLOCK, 1.0, 2)
    assert list(solved) == ["radial"] and failed["temporal"][0] == "error"


def test_what_has_no_mask_or_is_out_of_reach_is_told():
    chosen = [registry.get(name) for name in ("radial", "sana", "riflex", "dense_repeated")]
    solved, failed = output_error.solve(chosen, GRID, BLOCK, 0.9, 2)
    assert list(solved) == ["radial", "dense_repeated"]
    assert {name: status for name, (status, _) in failed.items()} == dict.fromkeys(("sana", "riflex"), "unsupported")
    assert "positions" in failed["riflex"][1] and "softmax" in failed["sana"][1]
    _, failed = output_error.solve(chosen[:1], GRID, BLOCK, 0.01, 2)
    assert failed["radial"][0] == "unsupported" and "reaches densities" in failed["radial"][1]


@pytest.fixture
def record(spec, transformer, noise, tmp_path, monkeypatch):
    """What the verb writes of two prompts."""
    write_inputs(tmp_path / "in", noise)
    monkeypatch.setattr("benchmark.models.testbed.load", lambda name, device: transformer)
    monkeypatch.setattr("benchmark.models.get", lambda name: spec)
    words = f"--model testbed-nano --inputs {tmp_path / 'in'} --prompts 2 --steps 3 --dense-steps 1 --record-steps 2"
    words += (
        " --device cpu --budget 0.6 --block 4 --methods spatial,svg,sta,dense_repeated,sana,radial --set sta.tile=2x2x2"
    )
    path = tmp_path / "results" / "output_error" / "testbed-nano.json"
    assert main(["output_error", *words.split(), "--record", str(path)]) == 0
    return path


def test_the_verb_writes_a_record_and_the_table_shows_it(record, tmp_path):
    found = read_record(record)
    assert found["kind"] == "output_error" and found["cell"]["seeds"] == [7, 8]
    methods, details = found["details"]["methods"], found["details"]
    assert list(methods) == ["spatial", "svg", "sta", "dense_repeated", "sana", "radial"]
    assert details["steps_recorded"] == [1, 2] and methods["sana"]["status"] == "unsupported"
    assert "reaches densities from" in methods["radial"]["reason"]  # this grid is too small for it
    for name in ("spatial", "svg", "sta"):
        told = methods[name]
        assert told["density"] == pytest.approx(0.6, abs=0.1) and told["mask"]
        assert np.shape(told["mse"]["places"]) == (2, 2)
        assert np.mean(told["mse"]["prompts"]) == pytest.approx(found["values"][f"{name}_mse"], rel=1e-5)
        assert np.mean(told["mse"]["layers"]) == pytest.approx(np.mean(told["mse"]["steps"]), rel=1e-5)
        assert told["relative"]["places"] != told["mse"]["places"]
        assert 0 < np.mean(told["common"]["prompts"]) < np.mean(told["relative"]["prompts"])
    assert found["values"]["dense_repeated_mse"] < 1e-10 < found["values"]["spatial_mse"]
    assert figures(["table_error", "--experiment-folder", str(tmp_path / "results"), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "table_error.md").read_text()
    for words in ("2 prompts, steps 1, 2 of 3", "*1.5e-2*", "The noise floor", "no difference can be significant"):
        assert words in text
    assert list(table_error.passed(found))[0] == "dense_repeated" and "sana" not in table_error.passed(found)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--methods radail", "did you mean 'radial'?"),
        ("--budget 1.5", "budget=1.5"),
        ("--prompts 3", "clips 0 to 1"),
        ("--record-steps 9 --steps 4", "from 1 to 4"),
        ("--set svg.p=0.3 --methods radial", "--set svg.p=0.3"),
    ],
)
def test_what_cannot_be_is_one_line(words, said, noise, tmp_path, capsys):
    write_inputs(tmp_path, noise)
    start = f"--model testbed-nano --inputs {tmp_path} --block 4 --device cpu --record {tmp_path / 'e.json'} {words}"
    assert main(["output_error", *start.split()]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and said in err


def made(errors, prompts=12, common=()):
    """A record with made-up errors, by method; each prompt's lie a little apart. ``common``: shares common to a frame,
    a half where none is named."""
    cell = output_error.DensePass(
        "trial", "testbed-nano", "1x", 16, 48, 48, list(range(prompts)), 12, 3, 0.5, 4, "sdpa"
    )
    methods = {}
    for name, error in errors.items():
        apart = error * (1 + 0.01 * np.arange(prompts)[:, None, None] + 0.1 * np.arange(3))
        means = output_error._means(apart * np.ones((prompts, 2, 3)))
        told = {"title": name, "status": "passed", "reason": None, "density": 0.5, "knobs": {}, "mask": ""}
        share = dict(common).get(name, 0.5)
        shared = {over: (share * np.array(values)).tolist() for over, values in means.items()}
        methods[name] = told | {"mse": means, "relative": means, "common": shared}
    values = {f"{name}_mse": float(np.mean(told["mse"]["prompts"])) for name, told in methods.items()}
    details = {"methods": methods, "energy": {"layers": [1, 1, 1]}, "steps_recorded": [4, 8], "heads": 6}
    device = {"type": "cpu", "name": "Some CPU"}
    return json.loads(json.dumps(make_record("output_error", cell, "passed", values, details=details, device=device)))


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        ({"sta": 0.03, "radial": 0.01, "svg": 0.02}, "came out: radial"),
        ({"sta": 0.03, "radial": 0.02, "svg": 0.01}, "did not come out: svg"),
        ({"radial": 0.02, "pa": 0.01}, "not tested"),
    ],
)
def test_the_papers_order_is_judged_by_the_numbers(errors, words):
    said = table_error.verdict(made(errors))
    assert words in said and "can be significant" not in said
    ranks = {
        group.facts["method"]: group.ours.entries["rank"].value for group in table_error.block(made(errors)).groups
    }
    assert list(ranks) == sorted(errors, key=errors.get) and list(ranks.values()) == [*range(1, len(errors) + 1)]


def test_differences_are_those_of_the_prompts():
    record = made({"radial": 0.01, "svg": 0.02, "sta": 0.005})
    entries = {group.facts["method"]: group.ours.entries for group in table_error.block(record).groups}
    radial, svg = (np.array(record["details"]["methods"][name]["relative"]["prompts"]) for name in ("radial", "svg"))
    assert entries["svg"]["difference"].value == pytest.approx(100 * (svg - radial).mean())
    assert table_error.MARK in entries["svg"]["difference"].text and entries["sta"]["difference"].value < 0
    assert "difference" not in entries["radial"]
    assert "is below svg in 6 of 6 layers and steps" in table_error.verdict(record)
    few = made({"radial": 0.01, "svg": 0.02}, prompts=2)
    assert table_error.MARK not in table_error.block(few).groups[1].ours.entries["difference"].text
    assert "With 2 prompts no difference can be significant." in table_error.verdict(few)
    assert table_error.power(0.0039) == "3.9e-3" and table_error.power(15.2) == "1.5e1"


def test_nothing_measured_is_said_and_a_damaged_record_refused(tmp_path, capsys):
    words = ["table_error", "--experiment-folder", str(tmp_path), "--out", str(tmp_path / "out")]
    assert figures(words) == 0
    assert "Not measured yet" in (tmp_path / "out" / "table_error.md").read_text()
    # Errors of the quality experiments stand below; those of the experiment itself only once.
    committed = tmp_path / "reference"
    write_json(committed / "output_error" / "testbed-base.json", made({"radial": 0.01}))
    for folder, lines in ((committed, 1), (tmp_path, 0)):
        assert figures([*words, "--testbed-folder", str(folder)]) == 0
        assert (tmp_path / "out" / "table_error.md").read_text().count("**radial**") == lines
    record = made({"radial": 0.01})
    path = tmp_path / "output_error" / "testbed-nano.json"
    write_json(path, record)
    path.write_text(path.read_text().replace("0.5", "0.4"))
    assert figures(words) == 2
    assert "changed since it was written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("errors", "common", "words"),
    [
        (
            {"radial": 0.02, "random": 0.06, "temporal": 0.1},
            {"random": 0.01, "radial": 0.4},
            [
                "number 2 by size of 3 masks (6.9 % relative)",
                "have 1.0 % of it in common",
                "is the least of all",
            ],
        ),
        ({"radial": 0.02, "random": 0.06}, {"radial": 0.01}, ["the largest of 2 masks", "does not explain it"]),
        ({"radial": 0.02}, {}, ["is not known"]),
    ],
)
def test_a_control_that_is_not_last_is_explained_by_its_errors(errors, common, words):
    record = made(errors, common=common)
    said = explanation([record], "testbed-nano", last=False)
    for part in words:
        assert part in said
    assert explanation([record], "testbed-nano", last=True) == ""
    assert "was not measured" in explanation([record], "testbed-base", last=False)
    older = made(errors)
    for told in older["details"]["methods"].values():
        del told["common"]
    assert "was not measured" in explanation([older], "testbed-nano", last=False)
    assert "common" not in table_error.block(older).groups[0].ours.entries
