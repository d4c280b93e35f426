"""What bounds a step: the rate of whole steps, beside a large matrix product's and the tensor cores' peak."""

from __future__ import annotations

from pathlib import Path

from benchmark.speed.cells import SpeedCell
from paper_figures import speed_entries as entries
from paper_figures.entries import paper_name, significant
from paper_figures.peak import PEAK_NOTE, mean_while_timed, peak_tflops
from paper_figures.speed import DENSE, LATENCY, Record, Speed
from paper_figures.speed_remarks import machine
from paper_figures.table_outside import PROFILE
from paper_figures.tables import NOT_YET, Column, Entry, Group, Line, Table, filled, write

READS = "speed"
STEP = "step"
RATE_NOTE = "Operations of the query-key pairs that are computed and of all that lies outside attention, over the step."
PRODUCT_NOTE = (
    "A matrix product of 8192 x 8192 x 8192 in bfloat16 that has run for seconds, as the stage's profile has it, or "
    "that of another of the model's stages."
)
COLUMNS = (
    Column("step_s", "Step", "s", "lower"),
    Column("pflop", "PFLOP"),
    Column("tflops", "Rate", "TFLOP/s", "higher", RATE_NOTE),
    Column("product_tflops", "Large product", "TFLOP/s", "", PRODUCT_NOTE),
    Column("of_product", "Rate / large product", "%", "higher"),
    Column("power_w", "Power", "W"),
    Column("clock_mhz", "SM clock", "MHz"),
    Column("peak_tflops", "Peak at that clock", "TFLOP/s", "", PEAK_NOTE),
    Column("of_peak", "Rate / peak", "%", "higher"),
)
REMARK = (
    "Whole steps of the fused transformers, medians; the clock and the power are means while they ran. A GPU at its "
    "power limit lowers its clock, and by how much depends on what it computes: the large product is a scale, no bound "
    "(the products within a step run a little faster, see table_outside). The bound is the peak at the clock that "
    "the power allows."
)


def operations(cell: SpeedCell, latency: Record) -> float:
    """PFLOP of one of a cell's steps: of the sparse ones, or of a dense one's where the method is dense."""
    values = latency["values"]
    dense = values["pflop_dense"] / cell.steps
    if cell.method == DENSE or cell.dense_steps >= cell.steps:
        return dense
    return (values["pflop"] - cell.dense_steps * dense) / (cell.steps - cell.dense_steps)


def ours(speed: Speed, cell: SpeedCell) -> Line:
    """The line of a cell."""
    step, latency = speed.record(cell, STEP), speed.record(cell, LATENCY)
    found = {"step_s": entries.present(step, "step_s", significant, speed.other(cell, STEP))}
    line = Line(entries.source(cell, latency), found)
    if found["step_s"].value is None or latency is None or latency["status"] != "passed":
        return line
    pflop = operations(cell, latency)
    rate = 1e3 * pflop / found["step_s"].value
    peak, product = peak_tflops(step), large_product(speed, cell)
    numbers = {
        "tflops": rate,
        "product_tflops": product,
        "of_product": product and 100 * rate / product,
        "power_w": mean_while_timed(step, "power_w"),
        "clock_mhz": mean_while_timed(step, "sm_clock_mhz"),
        "peak_tflops": peak,
        "of_peak": peak and 100 * rate / peak,
    }
    found["pflop"] = Entry(significant(pflop), pflop, None, "passed")
    for name, value in numbers.items():
        if value is not None:
            found[name] = Entry(f"{value:.0f}", value, None, "passed")
    return line


def large_product(speed: Speed, cell: SpeedCell) -> float | None:
    """TFLOP/s of the large product in the profile of a cell's stage, else of its model's first that has one."""
    stages = [cells[0].of_stage() for cells in speed.stages.values() if cells[0].model == cell.model]
    stages.sort(key=lambda stage: stage.stage != cell.stage)
    rates = (speed.passed(stage, PROFILE).get("large_product_tflops") for stage in stages)
    return next((rate for rate in rates if rate is not None), None)


def table(speed: Speed) -> Table:
    """The cells whose steps are timed whole; one block a stage; stages without any are named below.

    Raises:
        ValueError: a record is damaged.
    """
    blocks, records, missing = [], [], []
    for cells in speed.stages.values():
        whole = [cell for cell in cells if speed.timed_whole(cell)]
        if not any(speed.record(cell, STEP) for cell in whole):
            missing += [f"{paper_name(cells[0].model)} {cells[0].frames}f"] * bool(whole)
            continue
        groups = [
            Group(entries.label(cell), ours(speed, cell), facts=entries.facts(cell, speed.record(cell, LATENCY)))
            for cell in whole
        ]
        blocks.append(entries.block(speed, cells, groups))
        kept = [speed.record(cell, STEP) for cell in whole] + [speed.record(cells[0].of_stage(), PROFILE)]
        records += [record for record in kept if record is not None and record["status"] == "passed"]
    said = [REMARK] + [f"{NOT_YET.capitalize()}: {', '.join(missing)}."] * bool(missing)
    said += [machine(records)] * bool(records)
    shown = filled(COLUMNS, blocks)
    return Table("table_rates", "What bounds a step. Rates of whole steps", shown, tuple(blocks), tuple(said))


def make(speed: Speed, out: Path) -> list[Path]:
    """Writes the table. Returns its files."""
    return write(table(speed), out)
