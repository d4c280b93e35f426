"""Records that name another adapter, or other reference clips, than were made do not stand in one table."""

from __future__ import annotations

import hashlib

import pytest

from benchmark import lineage

PATH = "results/trial/records/base/{}/tune.json"


def record(kind, place, hashes, status="passed", **changes):
    """As much of a record as is looked at; the place is LENGTH/METHOD/VARIANT."""
    length, method, variant = place.split("/")
    cell = {
        "model": "base", "length": length, "method": method, "variant": "" if variant == "untuned" else variant,
        "tuned": variant != "untuned", "seed": 7,
    }  # fmt: skip
    return {"kind": kind, "status": status, "cell": cell | changes, "provenance": {"hashes": hashes}}


@pytest.fixture
def records():
    """Dense and radial tuned at 2x, radial going on at 4x, a style, and clips of all."""
    merged = {"merged": [PATH.format("4x/radial/on"), PATH.format("1x/dense/style")]}
    both = hashlib.sha256(b"cs").hexdigest()
    return {
        "dense": record("generate", "4x/dense/untuned", {"clips": "D"}),
        "x2": record("tune", "2x/radial/x2", {"adapter": "a"}),
        "on": record("tune", "4x/radial/on", {"adapter": "c", "start": "a"}, start=PATH.format("2x/radial/x2")),
        "style": record("tune", "1x/dense/style", {"adapter": "s"}),
        "drawn": record("generate", "4x/radial/on", {"adapter": "c", "clips": "R"}),
        "measured": record("measure", "4x/radial/on", {"reference_clips": "D", "candidate_clips": "R"}),
        "both": record("generate", "4x/radial/both", {"adapter": both, "clips": "B"}, **merged),
        "again": record("generate", "4x/radial/again", {"adapter": "c"}, merged=[PATH.format("4x/radial/on")]),
    }


def test_records_that_belong_together_pass(records):
    lineage.check(records)
    assert lineage.combined(["c"]) == "c"


@pytest.mark.parametrize(
    ("changed", "hashes", "said"),
    [
        ("drawn", {"adapter": "other"}, "record drawn: its adapter other is not that of on, c; draw its clips anew"),
        ("again", {"adapter": "other"}, "record again: its adapter other is not that of on, c; draw"),
        ("style", {"adapter": "other"}, "record both: its adapter .* is not that of on and style, "),
        ("on", {"adapter": "c", "start": "other"}, "record on: its start other is not that of x2, a; tune it anew"),
        ("dense", {"clips": "other"}, "record measured: its reference_clips D is not that of dense, other; remeasure"),
    ],
)
def test_another_adapter_or_reference_is_refused(records, changed, hashes, said):
    records[changed]["provenance"]["hashes"] = hashes
    with pytest.raises(ValueError, match=said):
        lineage.check(records)


def test_what_is_not_there_is_not_compared(records):
    records["x2"]["status"] = "out_of_memory"
    records["on"]["provenance"]["hashes"]["start"] = "other"
    records["drawn"]["provenance"]["hashes"] = {}
    records["dense"]["cell"]["seed"] = 8
    records["measured"]["provenance"]["hashes"]["reference_clips"] = "other"
    del records["style"]
    lineage.check(records)
