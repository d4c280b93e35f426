"""What lies outside attention: a step of every model and shape, as diffusers runs it and fused, and where it goes."""

from __future__ import annotations

from pathlib import Path

from benchmark.speed.cells import SpeedCell
from paper_figures import speed_entries as entries
from paper_figures.entries import paper_name, significant, without
from paper_figures.peak import PEAK_NOTE, peak_tflops
from paper_figures.speed import Speed
from paper_figures.speed_remarks import machine
from paper_figures.tables import NOT_YET, Block, Column, Entry, Group, Line, Table, filled, write

READS = "speed"
OUTSIDE, PROFILE = "outside", "profile"
CLASSES = {
    "products": "Matrix products",
    "rows": "Norms, rotations",
    "cross_attention": "Cross-attention",
    "other": "Other",
    "idle": "Idle",
}
"""Parts of a fused step, by their name in profiles."""
PRODUCT_NOTE = (
    "A matrix product of 8192 x 8192 x 8192 in bfloat16 that has run for seconds, on the same card. It is no bound: "
    "how far a card at its power limit lowers its clock depends on the product."
)
LIMIT_NOTE = (
    f"Seconds that the matrix products' operations take at the tensor cores' peak. {PEAK_NOTE} A step at that clock "
    "cannot be shorter; norms, rotations and cross-attention come on top."
)
ERROR_NOTE = (
    "Norm of the difference of the fused transformer's output from the plain one's over the norm of the latter, after "
    "all blocks in bfloat16."
)
BY_BLOCKS_NOTE = (
    "The transformer did not fit: the time is that of few blocks, and for each kind of block its number times the time "
    "by which two more lengthen a pass; the difference is that of one block of each kind."
)
COLUMNS = (
    Column("unfused_s", "diffusers", "s", "lower"),
    Column("outside_s", "Fused", "s", "lower"),
    Column("fused_error", "Difference", "", "lower", ERROR_NOTE),
    *(Column(f"{name}_s", heading, "s", "lower") for name, heading in CLASSES.items()),
    Column("products_tflops", "Products", "TFLOP/s", "higher"),
    Column("large_product_tflops", "Large product", "TFLOP/s", "higher", PRODUCT_NOTE),
    Column("products_peak_s", "Products at peak", "s", "lower", LIMIT_NOTE),
)
REMARK = "Seconds of a step (all its passes) without self-attention, medians. The paper has none."
PROFILED = (
    "Where a step goes is told by the names of the kernels that ran in one profiled pass; a shape without a profile "
    "has no such numbers."
)
UNPROFILED = "Where a step goes (matrix products, norms, cross-attention) is not measured yet."


def ours(speed: Speed, stage: SpeedCell) -> Line:
    """The line of a stage."""
    record = speed.record(stage, OUTSIDE)
    found: dict[str, Entry] = {}
    if record is None:
        found["outside_s"] = Entry(NOT_YET, status="no record")
        return Line("ours", found)
    if record["status"] != "passed":
        found["outside_s"] = without(record["status"], record["reason"])
        return Line("ours", found)
    values = record["values"]
    found["unfused_s"] = _seconds(values["outside_unfused_s"])
    notes = (BY_BLOCKS_NOTE,) if entries.by_blocks(speed, stage) else ()
    found["outside_s"] = entries.with_notes(_seconds(values["outside_s"]), notes)
    found["fused_error"] = Entry(f"{values['fused_error']:.1e}", values["fused_error"], None, "passed")
    return Line("ours", found | profiled(speed, stage))


def profiled(speed: Speed, stage: SpeedCell) -> dict[str, Entry]:
    """What a stage's profile says, of a whole step; a failed one says why, and none leaves the cells empty."""
    record = speed.record(stage, PROFILE)
    if record is None:
        return {}
    if record["status"] != "passed":
        return {"products_s": without(record["status"], record["reason"])}
    values, passes = record["values"], record["details"]["passes"]
    found = {f"{name}_s": _seconds(passes * values[f"{name}_s"]) for name in CLASSES}
    peak = peak_tflops(record)
    if peak is not None:
        counted = values["products_limit_s"] * values["large_product_tflops"]  # TFLOP of a pass
        found["products_peak_s"] = _seconds(passes * counted / peak)
    for name in ("products_tflops", "large_product_tflops"):
        found[name] = Entry(f"{values[name]:.0f}", values[name], None, "passed")
    return found


def _seconds(value: float) -> Entry:
    return Entry(significant(value), value, None, "passed")


def table(speed: Speed) -> Table:
    """The stages that were measured, or may be; one block a model.

    Raises:
        ValueError: a record is damaged.
    """
    stages = [cells[0].of_stage() for cells in speed.stages.values()]
    blocks = []
    for model in dict.fromkeys(stage.model for stage in stages):
        groups = []
        for stage in (stage for stage in stages if stage.model == model):
            label = f"{stage.frames} frames of {stage.height}x{stage.width}"
            told = {name: getattr(stage, name) for name in ("model", "frames", "height", "width", "passes")}
            groups.append(Group(label, ours(speed, stage), facts=told))
        blocks.append(Block(paper_name(model), tuple(groups)))
    kept = (speed.record(stage, kind) for stage in stages for kind in (OUTSIDE, PROFILE))
    records = [record for record in kept if record is not None and record["status"] == "passed"]
    shown = filled(COLUMNS, blocks)
    classes = {f"{name}_s" for name in CLASSES}
    said = (REMARK, PROFILED if any(column.key in classes for column in shown) else UNPROFILED)
    said += (machine(records),) if records else ()
    return Table("table_outside", "Outside attention. A step without it", shown, tuple(blocks), said, ("Shape", ""))


def make(speed: Speed, out: Path) -> list[Path]:
    """Writes the table. Returns its files."""
    return write(table(speed), out)
