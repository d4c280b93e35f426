"""The panels of attention against distance."""

from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib.figure import Figure

from benchmark.probing.decay import decay_of
from benchmark.records import write_json
from paper_figures import decay_panels


@pytest.fixture
def facts(tmp_path):
    """Two axes that decay at known rates, the second layer at half the score of the first."""
    distance = np.arange(9)
    scores = {"temporal": np.exp(-0.3 * distance - 2), "spatial": np.exp(-0.8 * distance - 1)}
    decay = {}
    for axis, curve in scores.items():
        heads = np.stack([curve * (1 - 0.5 * n) for n in range(2)])[None, :, None]
        decay[axis] = decay_of(distance, heads)
    write_json(tmp_path / "attention" / "testbed-nano.json", {"decay": decay})
    return tmp_path


def test_the_panel_draws_the_fits_of_both_distances(facts):
    (found,) = decay_panels.decayed(facts)
    assert found["model"] == "testbed-nano"
    axes = Figure().subplots()
    decay_panels.fit_panel(axes, found)
    said = [text.get_text() for text in axes.get_legend().get_texts()]
    assert said[0].startswith("temporal (frames): a = 0.30, R² 1.000") and "a = 0.80" in said[1]
    assert "paper: R² > 0.985" in said[2]
    line, points = axes.lines[:2]
    np.testing.assert_allclose(points.get_xdata(), np.arange(1, 9))
    fitted = np.interp(points.get_xdata(), line.get_xdata(), line.get_ydata())
    np.testing.assert_allclose(fitted, points.get_ydata(), rtol=1e-2)
    alone = Figure().subplots()
    decay_panels.fit_panel(alone, found, ("spatial",))
    assert len(alone.get_legend().get_texts()) == 2 and "Tokens" in alone.get_xlabel()


def test_the_spread_of_single_fits_is_told(facts):
    lines = decay_panels.spread_words(decay_panels.decayed(facts)[0])
    assert [line.partition(":")[0] for line in lines] == ["temporal", "spatial"]
    assert "steps 1.00 to 1.00" in lines[0] and "heads 1.00 to 1.00 (2 of 2 above 0.985)" in lines[0]


def test_what_probe_did_not_write_is_refused(facts):
    path = facts / "attention" / "testbed-nano.json"
    held = json.loads(path.read_text())
    del held["decay"]["spatial"]
    path.write_text(json.dumps(held))
    with pytest.raises(ValueError, match="not what 'probe' writes"):
        decay_panels.decayed(facts)
    with pytest.raises(ValueError, match="missing"):
        decay_panels.read(path.with_name("other.json"))
    assert decay_panels.decayed(facts / "attention") == []
