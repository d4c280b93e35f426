"""Table 2, speed: latency and LoRA tuning of every method at longer lengths, in GPU-seconds beside the published."""

from __future__ import annotations

from pathlib import Path

from benchmark.speed.cells import SpeedCell
from paper_figures import published, speed_remarks
from paper_figures import speed_entries as entries
from paper_figures.entries import paper_name, significant
from paper_figures.published import Published
from paper_figures.speed import DENSE, LATENCY, TRAINING, Record, Speed, training_prediction
from paper_figures.tables import Column, Entry, Group, Line, Table, write

READS = "speed"
SHAPES = ("1x", "2x", "4x")
STEPS = {"HunyuanVideo": {253: 2400, 509: 1200}, "Mochi 1": {331: 5000, 667: 5000}, "Wan2.1-14B": {161: 2500}}
"""Steps of the published tuning, by model and frames."""
CLIPS = {"Wan2.1-14B": 8}
"""Clips in a step of the published tuning, where there is more than one."""

SPARSITY_NOTE = (
    "Block pairs left out, over whole blocks of video tokens, as the paper counts. Its verdict is on the share that is "
    "kept, 100 - sparsity. At the paper's density the knob is set for it: there it says what a method can reach."
)
LATENCY_NOTE = (
    f"{entries.LATENCY_NOTE} The paper ran HunyuanVideo and Mochi 1 on 8 GPUs: its seconds are multiplied by its GPUs, "
    "which counts what 8 GPUs lose to each other as the paper's time."
)
STEP_NOTE = (
    "A LoRA step (rank 128 on q, k, v, o, gradient checkpointing), one clip, one GPU: forward, forward again, "
    "backward, optimizer; no text encoder and no VAE."
)
TRAINING_NOTE = (
    "Step x the published number of steps x clips a step, in GPU-hours: HunyuanVideo 2,400 steps (2x) and 1,200 (4x), "
    "Mochi 1 5,000, of one clip; Wan2.1-14B 2,500 of 8 clips, one a GPU. Published hours are multiplied by 8 GPUs."
)
WAN_NOTE = (
    "The paper states 8 clips a step for Wan2.1-14B. Its 28.0 h on 8 GPUs would then be 40 GPU-seconds a clip and "
    "step, less than its own dense forward pass (5,735 s over 100 passes: 57 s), while its other tunings take 3.6 to "
    "4.9 such passes; with one clip a step it would be 5.6. So the ratio means little, and only the speed-up is judged."
)
UNTRAINED_NOTE = "The tuning step is timed at the paper's density only."
COLUMNS = (
    Column("sparsity_pct", "Sparsity", "%", "", SPARSITY_NOTE, "sparsity_pct"),
    Column("sparsity_verdict", "Density verdict"),
    Column("pflop", "PFLOP", "", "lower"),
    Column("latency_s", "Latency", "GPU-s", "lower", LATENCY_NOTE, "inference_s"),
    Column("latency_ratio", "/ published"),
    Column("speedup", "Speed-up", "×", "higher", "", "inference_speedup"),
    Column("speedup_verdict", "Speed-up verdict"),
    Column("speedup_amdahl", "Amdahl", "×"),
    Column("training_step_s", "LoRA step", "GPU-s", "lower", STEP_NOTE),
    Column("training_gpu_h", "Tuning", "GPU-h", "lower", TRAINING_NOTE, "training_h"),
    Column("training_ratio", "/ published"),
    Column("training_speedup", "Tuning speed-up", "×", "higher", "", "training_speedup"),
    Column("training_verdict", "Tuning verdict"),
    Column("training_amdahl", "Tuning Amdahl", "×"),
)
REMARKS = (
    "Setting: at the paper's density every method's knob is set for the published sparsity of its own row (for methods "
    "without a row, that of radial); the authors' setting of radial is the released one, with its defaults.",
    "The paper states two dense steps for inference at 4x and two dense blocks for tuning; its released scripts use "
    "both at every longer length, and so does this. Published lines marked tuned are of LoRA weights, which do not "
    "change speed. Mochi 1 at 1x is 162 frames in the paper's text, 163 in its table.",
)


NO_MASK = Entry("no mask", status="not applicable")
"""Instead of the density or sparsity of linear attention."""


def gpu_seconds(row: Published) -> float | None:
    """Published seconds of a generation times the GPUs they were taken on; None where none are printed."""
    seconds = row.number("inference_s")
    return None if seconds is None else seconds * int(row.text("gpus") or 1)


def gpu_hours(row: Published) -> float | None:
    """Published hours of tuning times its 8 GPUs (Wan2.1-14B was tuned on 8, too); None where none are printed."""
    hours = row.number("training_h")
    return None if hours is None else hours * 8


def step_seconds(row: Published) -> float | None:
    """Published GPU-seconds a clip and tuning step; None where hours or steps are not printed."""
    hours, steps = gpu_hours(row), STEPS.get(row.model, {}).get(row.frames)
    return None if hours is None or not steps else hours * 3600 / steps / CLIPS.get(row.model, 1)


def ours(speed: Speed, cell: SpeedCell, row: Published | None) -> Line:
    """Our line of a cell."""
    record, reason = speed.record(cell, LATENCY), speed.other(cell, LATENCY)
    latency = entries.present(record, "generation_s", significant, reason)
    gain = entries.speedup(record, cell, reason)
    sparse = sparsity(record, reason)
    printed = row.number if row else lambda _: None
    kept = None if row is None or not printed("sparsity_pct") else 1 - printed("sparsity_pct") / 100
    found = {
        "sparsity_pct": sparse,
        "sparsity_verdict": Entry(status=sparse.status) if sparse.value is None else _kept(sparse.value, kept),
        "pflop": entries.present(record, "pflop", significant, reason),
        "latency_s": entries.with_notes(latency, entries.source_note(speed, cell, record)),
        "latency_ratio": entries.ratio_to(latency, gpu_seconds(row) if row else None),
        "speedup": gain,
        "speedup_verdict": entries.judged(gain, printed("inference_speedup")),
        "speedup_amdahl": entries.predicted(record, cell),
    }
    if speed.trained(cell):
        found |= trained(speed, cell, row)
    elif printed("training_h"):
        found["training_step_s"] = Entry("not measured", None, None, "not planned", UNTRAINED_NOTE, (UNTRAINED_NOTE,))
    return Line(entries.source(cell, record), found, notes=entries.notes_of(record, cell))


def maskless(record: Record | None) -> bool:
    """Whether a record is of a method that executes no query-key pairs."""
    return record is not None and record["status"] == "passed" and "block_sparsity" not in record["values"]


def sparsity(record: Record | None, reason: str | None) -> Entry:
    """Block sparsity in %; linear attention has no blocks."""
    if maskless(record):
        return NO_MASK
    found = entries.present(record, "block_sparsity", entries.percent(1), reason)
    return found if found.value is None else Entry(found.text, 100 * found.value, None, "passed")


def _kept(percent: float, kept: float | None) -> Entry:
    share = 1 - percent / 100
    return entries.judged(Entry(value=share, status="passed"), kept) if share > 0 and kept else Entry()


def trained(speed: Speed, cell: SpeedCell, row: Published | None) -> dict[str, Entry]:
    """The columns of tuning."""
    record, reason = speed.record(cell, TRAINING), speed.other(cell, TRAINING)
    step = entries.present(record, "step_s", significant, reason)
    gain = entries.speedup(record, cell, reason)
    name = paper_name(cell.model)
    steps, clips = STEPS.get(name, {}).get(cell.frames), CLIPS.get(name, 1)
    hours = Entry(status=step.status)
    if step.value is not None and steps:
        value = step.value * steps * clips / 3600
        hours = Entry(significant(value), value, None, "passed")
    told = (WAN_NOTE,) if row is not None and row.model in CLIPS and hours.value is not None and gpu_hours(row) else ()
    known = entries.notes_of(speed.record(cell, LATENCY), cell)
    notes = [note for note in entries.notes_of(record, cell) if note not in known]
    return {
        "training_step_s": entries.with_notes(step, notes),
        "training_gpu_h": hours,
        "training_ratio": entries.with_notes(entries.ratio_to(hours, gpu_hours(row) if row else None), told),
        "training_speedup": gain,
        "training_verdict": entries.judged(gain, row.number("training_speedup") if row else None),
        "training_amdahl": entries.predicted(record, cell, training_prediction),
    }


def printed_line(row: Published) -> Line:
    """The published line, with its times in GPU-seconds and GPU-hours."""
    shown = {}
    if gpu_seconds(row) is not None and int(row.text("gpus") or 1) > 1:
        shown["latency_s"] = f"{gpu_seconds(row):.0f} ({row.text('gpus')} × {row.text('inference_s')})"
    if gpu_hours(row) is not None:
        shown["training_gpu_h"] = f"{gpu_hours(row):.0f} (8 × {row.text('training_h')})"
    return entries.published_line(row, COLUMNS, shown)


def table(speed: Speed) -> Table:
    """Table 2's speed columns: one block a model and length.

    Raises:
        ValueError: the configuration has no such stage, or the records are from two GPUs.
    """
    stages = [cells for cells in speed.stages.values() if cells[0].shape in SHAPES]
    if not stages:
        raise ValueError(f"{speed.config}: no stage is named MODEL/{' or MODEL/'.join(SHAPES)}; Table 2 needs them")
    paper, blocks = published.rows("table2"), []
    for cells in stages:
        groups = []
        for cell in cells:
            row = entries.beside(cell, paper)
            lines = (printed_line(row),) if row else ()
            notes = entries.stage_note(speed, cell) if cell.method == DENSE else ()
            told = entries.facts(cell, speed.record(cell, LATENCY), speed.record(cell, TRAINING))
            told["published_gpus"] = row.text("gpus") if row else ""
            groups.append(Group(entries.label(cell), ours(speed, cell, row), lines, told, notes))
        blocks.append(entries.block(speed, cells, groups))
    every = [cell for cells in stages for cell in cells]
    said = (*REMARKS, *speed_remarks.remarks(speed, every))
    return Table("table2_speed", "Table 2, speed. Latency and tuning of longer clips", COLUMNS, tuple(blocks), said)


def make(speed: Speed, out: Path) -> list[Path]:
    """Writes the table. Returns its files."""
    return write(table(speed), out)
