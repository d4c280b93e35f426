"""The paper's models planned over the number of frames."""

from __future__ import annotations

import json

import pytest

from benchmark import registry
from benchmark.__main__ import main
from benchmark.sweep import FIGURE2_FRAMES, points, sweep


@pytest.fixture(scope="module")
def wan():
    """The plans of Wan2.1-14B at 69 frames, by method."""
    return {found["method"]: found for found in sweep(["wan2.1-14b"]) if found["frames"] == 69}


def test_what_is_planned():
    found = points(["hunyuanvideo", "wan2.1-14b", "testbed-nano"])
    assert len(set(found)) == len(found)
    for frames in FIGURE2_FRAMES:
        assert {("hunyuanvideo", frames, 720, 1280, method) for method in ("dense", "radial")} <= set(found)
    for method in registry.names():
        assert ("hunyuanvideo", 117, 768, 1280, method) in found  # Table 1
        assert ("hunyuanvideo", 509, 720, 1280, method) in found  # Table 2
        assert ("wan2.1-14b", 161, 720, 1280, method) in found
    assert "testbed-nano" not in {model for model, *_ in found}


def test_attention_is_the_published_part_of_the_operations(wan):
    assert wan["dense"]["pflop"] == pytest.approx(559.7, abs=0.1)
    assert wan["dense"]["attention_pflop"] == pytest.approx(391.4, abs=0.1)
    assert wan["dense"]["attention_pflop"] == pytest.approx(wan["dense"]["attention_pflop_dense"])


def test_attention_follows_density_and_schedule(wan):
    for method in ("radial", "pa", "spatial"):
        found = wan[method]
        share = found["attention_pflop_pass"] / found["attention_pflop_pass_dense"]
        assert share == pytest.approx(found["density"], rel=1e-6) and share < 0.7
        dense_steps = found["dense_steps"] / found["steps"]
        whole = found["attention_pflop"] / found["attention_pflop_dense"]
        assert whole == pytest.approx(dense_steps + (1 - dense_steps) * share, rel=1e-6)


def test_the_verb_writes_all_plans(tmp_path, capsys):
    out = tmp_path / "deep" / "operations.json"
    assert main(["sweep", "--experiment", "trial", "--out", str(out), "--models", "mochi-1"]) == 0
    content = json.loads(out.read_text())
    assert content["experiment"] == "trial" and content["provenance"]["commit"]
    assert len(content["plans"]) == len(points(["mochi-1"]))
    capsys.readouterr()
    assert main(["sweep", "--out", str(out), "--models", "mochi"]) == 2
    assert "mochi-1" in capsys.readouterr().err
