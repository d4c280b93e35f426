"""Solving a method's knob for a density."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch

from benchmark import registry
from benchmark.budget import at_budget, has_budget, reach
from benchmark.layout import VideoLayout
from benchmark.masks import BlockMask
from benchmark.method import Method, knob

TESTBED = VideoLayout(32, 8, 8)
WITH_TEXT = VideoLayout(30, 10, 10, 30)

KNOBS = {"sta": {"tile": "4x4x4"}}

METHODS = [
    name for name in registry.names() if has_budget(registry.get(name, KNOBS.get(name, {})), TESTBED, 4)
]  # fmt: skip

SHIPPED = ("radial", "harmonic", "sta", "pa", "svg", "spatial", "temporal", "longlora", "random")


@dataclasses.dataclass(frozen=True)
class Strided(Method):
    """Every so many blocks: the higher the knob, the fewer."""

    budget_knob = "stride"
    stride: int = knob(2, "keeps each of so many diagonals", low=1, high=64)

    def block_mask(self, layout, block, device="cpu"):
        index = torch.arange(layout.blocks(block), device=device)
        kept = (index[:, None] - index[None, :]) % self.stride == 0
        return BlockMask(kept[None], block, layout.tokens)


OUT_OF_REACH = {("pa", 0.3, WITH_TEXT)}  # text and a sink, and many distances below 30 are powers of two

# How near a method can come to a budget. Tiles and whole frames are coarse; a band moves by whole blocks.
NEAR = {"sta": 0.05, "pa": 0.05, "longlora": 0.04}


def test_the_methods_of_the_paper_with_a_density_are_here() -> None:
    assert set(SHIPPED) <= set(METHODS)
    for name in ("dense", "riflex", "sana"):
        method = registry.get(name)
        assert at_budget(method, TESTBED, 4, 0.5) == method, "nothing to solve: it comes back as it is"
    equation4 = registry.get("radial", {"geometry": "equation4"})
    assert at_budget(equation4, TESTBED, 4, 0.5) == equation4


@pytest.mark.parametrize("layout, block", [(TESTBED, 4), (WITH_TEXT, 8)], ids=str)
@pytest.mark.parametrize("budget", [0.5, 0.3])
@pytest.mark.parametrize("name", METHODS)
def test_a_method_reaches_a_budget(name, budget, layout, block) -> None:
    method = registry.get(name, KNOBS.get(name, {}))
    if (name, budget, layout) in OUT_OF_REACH:
        with pytest.raises(ValueError, match="reaches densities from"):
            at_budget(method, layout, block, budget, heads=6)
        return
    found = at_budget(method, layout, block, budget, heads=6)
    density = found.density(layout, block, heads=6)
    assert density == pytest.approx(budget, abs=NEAR.get(name, 0.03)), found
    changed = {key for key, value in found.knobs().items() if value != method.knobs()[key]}
    assert changed <= {"window" if name == "sta" else method.density_knob()}, "other knobs stay as they were"
    assert at_budget(found, layout, block, budget, heads=6) == found, "solving again changes nothing"


@pytest.mark.parametrize("name", METHODS)
def test_a_larger_budget_never_gives_a_sparser_mask(name) -> None:
    method = registry.get(name, KNOBS.get(name, {}))
    densities = [
        at_budget(method, TESTBED, 4, budget).density(TESTBED, 4) for budget in (0.45, 0.6, 0.8)
    ]  # fmt: skip
    assert densities == sorted(densities)
    assert densities[0] < densities[-1]


@pytest.mark.parametrize("name", [name for name in METHODS if name not in KNOBS])
def test_density_never_falls_as_the_knob_rises(name) -> None:
    method = registry.get(name)
    knob = method.density_knob()
    field = next(field for field in dataclasses.fields(method) if field.name == knob)
    high = TESTBED.frames if field.metadata["high"] is None else min(field.metadata["high"], 8)
    values = [field.metadata["low"] + (high - field.metadata["low"]) * n / 12 for n in range(13)]
    if isinstance(field.default, int):
        values = sorted({int(value) for value in values})
    densities = [dataclasses.replace(method, **{knob: value}).density(TESTBED, 4) for value in values]
    assert densities == sorted(densities)


@pytest.mark.parametrize(
    "name, layout, block, budget",
    [
        ("radial", VideoLayout(16, 8, 8), 4, 0.1),
        ("radial", VideoLayout(4, 8, 8), 128, 0.3),
        ("pa", TESTBED, 4, 0.05),
        ("sta", VideoLayout(8, 8, 8), 4, 0.01),
        ("harmonic", TESTBED, 4, 0.05),
    ],
)
def test_a_budget_out_of_reach_is_refused_with_the_range(name, layout, block, budget) -> None:
    method = registry.get(name, KNOBS.get(name, {}))
    with pytest.raises(ValueError, match=rf"budget={budget}: {name} on .* reaches densities from") as refusal:
        at_budget(method, layout, block, budget)
    assert "\n" not in str(refusal.value)
    lowest, highest = (float(number) for number in re.search(r"from ([\d.]+) to ([\d.]+)", str(refusal.value)).groups())
    assert budget < lowest <= highest <= 1
    # The end of the range is within reach.
    reached = at_budget(method, layout, block, lowest).density(layout, block)
    assert reached == pytest.approx(lowest, abs=1e-4)


@pytest.mark.parametrize("budget", [0, -0.5, 1.01, 50])
def test_a_budget_that_is_no_density_is_refused(budget) -> None:
    with pytest.raises(ValueError, match=f"budget={budget}"):
        at_budget(registry.get("radial"), TESTBED, 4, budget)


def test_a_budget_of_one_is_dense_attention_where_the_knob_goes_so_far() -> None:
    for name in ("sta", "pa", "spatial", "temporal", "longlora", "random", "svg"):
        found = at_budget(registry.get(name, KNOBS.get(name, {})), TESTBED, 4, 1.0)
        assert found.density(TESTBED, 4) == 1.0, name


def test_a_method_within_a_tenth_of_the_budget_is_taken() -> None:
    layout = VideoLayout(16, 8, 8)
    lowest = registry.get("radial", {"decay": 0.001}).density(layout, 4)
    found = at_budget(registry.get("radial"), layout, 4, lowest / 1.05)
    assert found.density(layout, 4) == pytest.approx(lowest, rel=1e-6)
    with pytest.raises(ValueError, match="reaches densities"):
        at_budget(registry.get("radial"), layout, 4, lowest / 1.2)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("radial", [{"decay": 0.05}, {"decay": 0.7, "sink": False}, {"decay": 4.0, "neighbour": "half"}]),
        ("radial", [{"geometry": "equation4"}, {"geometry": "equation4", "sink": False}]),
        ("harmonic", [{"c": 0.0}, {"c": 0.6, "sink": False}, {"c": 7.0}]),
        ("sta", [{"tile": "4x2x2", "window": "1x2x3"}, {"tile": "2x4x1", "window": "3x1x9"}]),
    ],
)
@pytest.mark.parametrize(
    ("layout", "block"),
    [(TESTBED, 8), (VideoLayout(5, 4, 6), 2), (VideoLayout(17, 4, 4), 16), (VideoLayout(6, 4, 4, 5), 4),
     (VideoLayout(7, 3, 5), 4)],
    ids=str,
)  # fmt: skip
def test_a_density_that_is_counted_is_that_of_the_mask(name, settings, layout, block) -> None:
    for knobs in settings:
        method = registry.get(name, knobs)
        assert method.density(layout, block) == method.block_mask(layout, block).density, knobs


@pytest.mark.parametrize("budget", [0.5, 0.1])
def test_a_knob_that_lowers_the_density_is_refused(budget) -> None:
    for solve in (lambda: at_budget(Strided(), TESTBED, 4, budget), lambda: reach(Strided(), TESTBED, 4)):
        with pytest.raises(
            ValueError, match=r"methods/test_budget.py: budget knob stride: the density falls"
        ) as refusal:
            solve()
        line = str(refusal.value)
        assert "1.0000 at stride=1" in line and "at stride=64" in line and "\n" not in line
