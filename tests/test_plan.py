"""Plans: the numbers that the paper and its code print, the schedule's defaults, and refusals."""

from __future__ import annotations

import json
import re

import pytest

from benchmark import models
from benchmark.__main__ import main
from benchmark.plan import plan


@pytest.mark.parametrize(
    ("model", "frames", "grid", "sparsity"),
    [
        ("hunyuanvideo", 253, [64, 45, 80], 80.83),
        ("mochi-1", 331, [56, 30, 53], 76.63),
        ("wan2.1-14b", 161, [41, 45, 80], 74.01),
    ],
)
def test_block_sparsity_of_radial_at_the_paper_s_shapes(model, frames, grid, sparsity):
    found = plan(model, "radial", frames=frames)
    assert found["latent_grid"] == grid
    assert found["tokens"] == grid[0] * grid[1] * grid[2]
    assert 100 * found["block_sparsity"] == pytest.approx(sparsity, abs=0.005)


@pytest.mark.parametrize(
    ("neighbour", "sparsity"),
    [("half", 73.66), ("whole", 71.29), ("decayed", 79.23)],
)
def test_block_sparsity_of_wan_as_the_released_code_prints_it(neighbour, sparsity):
    found = plan(
        "wan2.1-14b", "radial", frames=69, height=768, width=1280, knobs={"decay": 0.2, "neighbour": neighbour}
    )
    assert 100 * found["block_sparsity"] == pytest.approx(sparsity, abs=0.005)
    assert found["text_tokens"] == 0  # text enters by cross-attention


@pytest.mark.parametrize(
    ("model", "frames", "pflop", "passes"), [("wan2.1-14b", 69, 559.7, 2), ("hunyuanvideo", 117, 569.9, 1)]
)
def test_operations_of_a_dense_generation(model, frames, pflop, passes):
    found = plan(model, "dense", frames=frames, height=768, width=1280)
    assert found["pflop_dense"] == pytest.approx(pflop, abs=0.05)
    assert found["pflop"] == found["pflop_dense"] == pytest.approx(50 * passes * found["pflop_pass_dense"])
    assert (found["density"], found["block_sparsity"]) == (1.0, 0.0)


def test_the_default_schedule_depends_on_the_frames():
    short, long = plan("wan2.1-14b", "spatial", frames=149), plan("wan2.1-14b", "spatial", frames=153)
    assert [short[key] for key in ("steps", "dense_steps", "dense_layers", "passes")] == [50, 12, 0, 2]
    assert [long[key] for key in ("steps", "dense_steps", "dense_layers", "passes")] == [50, 2, 2, 2]


def test_a_generation_adds_up_from_its_passes():
    found = plan("testbed-nano", "radial", steps=10, dense_steps=4)
    dense, sparse = found["pflop_pass_dense"], found["pflop_pass"]
    assert sparse < dense
    assert found["pflop"] == pytest.approx(4 * dense + 6 * sparse)
    assert found["pflop_dense"] == pytest.approx(10 * dense)
    third = models.get("testbed-nano").layers // 3
    layered = plan("testbed-nano", "radial", steps=10, dense_steps=4, dense_layers=third)
    share = third / models.get("testbed-nano").layers
    assert layered["pflop"] == pytest.approx(4 * dense + 6 * (share * dense + (1 - share) * sparse))


def test_text_counts_in_density_and_not_in_block_sparsity():
    with_text, without = (plan("hunyuanvideo", "pa", frames=33, text_tokens=n) for n in (256, 0))
    assert with_text["text_tokens"] == 256
    assert with_text["block_sparsity"] == without["block_sparsity"]
    assert with_text["density"] > without["density"]
    assert with_text["mask_hash"] != without["mask_hash"]


def test_what_a_method_without_a_mask_has():
    found = plan("testbed-nano", "sana")
    assert found["block_sparsity"] is None and found["mask_hash"] is None
    assert found["pflop"] < found["pflop_dense"]


def test_sampled_rows_count_among_the_operations_of_svg():
    found = plan("testbed-nano", "svg")
    band = found["pflop_pass_dense"] - plan("testbed-nano", "spatial", budget=found["density"])["pflop_pass"]
    assert found["pflop_pass_dense"] - found["pflop_pass"] < band


def test_block_of_testbeds_and_of_the_paper_s_models():
    assert plan("testbed-nano", "dense")["block"] == 4
    assert plan("hunyuanvideo", "dense", frames=5)["block"] == 128
    assert plan("testbed-nano", "dense", block=8)["block"] == 8


def command(capsys, *words):
    status = main(["plan", *words])
    streams = capsys.readouterr()
    return status, streams.out, streams.err


def test_the_command_prints_json(capsys):
    status, out, _ = command(
        capsys, "--model", "wan2.1-14b", "--frames", "161", "--height", "720", "--width", "1280", "--method", "radial",
        "--json",
    )  # fmt: skip
    found = json.loads(out)
    assert status == 0
    assert 100 * found["block_sparsity"] == pytest.approx(74.01, abs=0.005)
    assert found["knobs"] == {"decay": 1.0, "sink": True, "neighbour": "whole", "geometry": "released"}
    assert len(found["mask_hash"]) == 64


def test_the_command_sets_and_solves_knobs(capsys):
    words = ("--model", "testbed-nano", "--method", "radial", "--json")
    _, out, _ = command(capsys, *words, "--set", "decay=0.5")
    assert json.loads(out)["knobs"]["decay"] == 0.5
    _, out, _ = command(capsys, *words, "--budget", "0.5")
    found = json.loads(out)
    assert found["density"] == pytest.approx(0.5, abs=0.05)
    assert found["knobs"]["decay"] != 1.0


def test_the_command_prints_lines_for_people(capsys):
    status, out, _ = command(capsys, "--model", "testbed-nano", "--method", "sana")
    assert status == 0
    assert f"of video ({models.get('testbed-nano').layout()})" in out and "no mask" in out
    numbers = re.findall(r"^(?:a pass|a generation) +([\d.]+) ([GT])FLOP, dense ([\d.]+)$", out, re.MULTILINE)
    assert len(numbers) == 2 and all(float(own) > 0 and float(dense) >= 1 for own, _, dense in numbers), out
    _, out, _ = command(capsys, "--model", "wan2.1-14b", "--method", "dense")
    assert "PFLOP" in out and "TFLOP" not in out


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--model", "wan", "--method", "radial"], ["'wan'", "did you mean 'wan2.1-14b'?"]),
        (["--model", "wan2.1-14b", "--method", "radail"], ["'radail'", "did you mean 'radial'?"]),
        (["--model", "wan2.1-14b", "--frames", "160"], ["frames=160", "the nearest are 157 and 161"]),
        (["--model", "wan2.1-14b", "--height", "721"], ["height=721", "the nearest are 720 and 736"]),
        (["--model", "wan2.1-14b", "--width", "0"], ["width=0", "the nearest is 16"]),
        (["--model", "testbed-nano", "--method", "radial", "--set", "decoy=1"], ["'decoy'", "did you mean 'decay'?"]),
        (["--model", "testbed-nano", "--method", "radial", "--set", "decay=x"], ["decay='x'", "a value like 1.0"]),
        (
            ["--model", "testbed-nano", "--method", "radial", "--budget", "0.1"],
            ["budget=0.1", "reaches densities from"],
        ),
        (
            ["--model", "testbed-nano", "--method", "radial", "--set", "decay=0.5", "--budget", "0.7"],
            ["radial: decay=0.5: decay is solved for budget=0.7; leave one of them out"],
        ),
        (["--model", "testbed-nano", "--method", "radial", "--set", "decay=nan"], ["decay=nan: a finite number"]),
        (["--model", "testbed-nano", "--method", "radial", "--budget", "nan"], ["budget=nan", "at most 1"]),
        (["--model", "testbed-nano", "--method", "radial", "--budget", "2"], ["budget=2.0", "at most 1"]),
        (["--model", "testbed-nano", "--block", "0"], ["block=0", "at least 1"]),
        (["--model", "testbed-nano", "--dense-steps", "99"], ["dense_steps=99", "from 0 to"]),
        (["--model", "wan2.1-14b", "--text-tokens", "256"], ["text_tokens=256", "only 0"]),
    ],
)
def test_refusals_are_one_line_with_the_nearest_right_value(capsys, words, parts):
    status, out, err = command(capsys, *words)
    assert status == 2 and out == ""
    assert err.startswith("plan: ") and err.count("\n") == 1
    assert all(part in err for part in parts), err
