"""What a run says last."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmark.cell import Cell
from benchmark.ending import failures, last_lines
from benchmark.records import make_record, write_json

CELL = Cell("trial", "testbed-nano", "1x", 4, 48, 48, "dense")
DILATED = replace(CELL, method="dilated")
NAME = "NameError: name 'near' is not defined"


@pytest.fixture
def experiment(tmp_path):
    """A folder of an experiment, and a function that writes a record of a cell."""

    def write(cell, kind, status, reason=None):
        write_json(tmp_path / "records" / cell.path / f"{kind}.json", make_record(kind, cell, status, reason=reason))

    return tmp_path, write


def test_cells_that_failed_are_told_once_and_unsupported_ones_are_none(experiment):
    folder, write = experiment
    cells = [CELL, DILATED, replace(DILATED, length="2x"), replace(DILATED, length="4x"), replace(CELL, length="4x")]
    for cell in cells[:2]:
        write(cell, "generate", "passed")
    assert failures(folder / "records", cells) == ""
    write(DILATED, "generate", "error", NAME)
    write(DILATED, "measure", "error", f"dilated clips: {NAME}")
    write(cells[2], "generate", "unsupported", "budget=0.5: out of reach")
    line = failures(folder / "records", cells)
    assert line == f"1 of 3 cells failed: dilated 1x: {NAME}", "two have not run"
    write(replace(cells[2], tuned=True), "tune", "out_of_memory", "2 GiB\nmore")
    line = failures(folder / "records", [*cells, replace(cells[2], tuned=True)])
    assert line == f"2 of 4 cells failed: dilated 1x: {NAME}; dilated 2x tuned: 2 GiB more"
    (folder / "records" / DILATED.path / "generate.json").write_text("{")
    assert "dilated clips" in failures(folder / "records", cells)


def test_a_method_that_fails_everywhere_does_not_fill_the_screen(experiment):
    folder, write = experiment
    cells = [replace(DILATED, length=f"{n}x") for n in range(9)]
    for cell in cells:
        write(cell, "generate", "incorrect", "not finite")
    assert failures(folder / "records", cells) == (
        "9 of 9 cells failed: dilated 0x: not finite; dilated 1x: not finite; dilated 2x: not finite; and 6 more"
    )


def test_only_what_is_there_is_named(experiment):
    folder, write = experiment
    places = {"tables": f"{folder}/tables", "figures": f"{folder}/figures", "report": f"{folder}/report/index.html"}
    assert last_lines(places, folder, [CELL], "python -m benchmark publish-records") == ""
    (folder / "tables").mkdir()
    (folder / "figures").mkdir()
    (folder / "tables" / "table1.md").write_text("")
    assert last_lines(places, folder, [CELL]) == f"tables:  {folder}/tables"
    write(CELL, "generate", "error", NAME)
    lines = last_lines(places, folder, [CELL], "python -m benchmark publish-records").splitlines()
    assert lines == [
        f"tables:  {folder}/tables",
        "publish: python -m benchmark publish-records",
        f"1 of 1 cells failed: dense 1x: {NAME}; see the tables",
    ]
    assert last_lines({}, folder, [CELL]).endswith(f"see {folder.as_posix()}/records")
