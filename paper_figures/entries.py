"""Cells of tables, from records and from what the paper prints."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from benchmark.tolerance import CONTROL, MOVED
from paper_figures.experiment import CellRows
from paper_figures.published import Published
from paper_figures.tables import UNTRAINED, Block, Column, Entry, Group, Line

ROLES = {"random": "control", "dense_repeated": "control", "harmonic": "ablation"}
"""Methods that are no contenders: what the reader is told of them."""

COMPARISONS = ("psnr", "ssim", "lpips", UNTRAINED)
"""Metrics that compare a clip with the dense one."""

NAMES = {"psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS", UNTRAINED: "LPIPS untrained", "adherence": "adherence"}

STANDARD_ERROR = "± is the standard error of the mean over the clips."

WORDS = {"out_of_memory": "out of memory"}

LPIPS_REASON = (
    "The trained weights of LPIPS' trunk were not at hand, so there is no LPIPS here, only its untrained stand-in."
)
NO_SPEED = (
    "No speed is claimed for testbeds: their grids are far below the sizes that sparse kernels are made for, and their "
    "blocks are smaller than a kernel's tiles."
)
TUNING_TIME = "Wall time of the tuning's steps where it ran; no claim of speed is made for a testbed."
NO_VBENCH = "VBench's judges were trained on natural video and say nothing about a testbed's procedural world."
LINEAR = (
    "Linear attention computes no query-key pairs, so it has no density to set; its operations are counted in PFLOP."
)
UNTUNED_LINEAR = f"{LINEAR} It runs untuned here, with weights that were trained with softmax attention."
UNSET = "The method has no knob for its density; the budget does not apply to it."


def is_testbed(model: str) -> bool:
    """Whether a model is one of the suite's own testbeds."""
    return model.startswith("testbed")


def without(status: str, reason: str | None = None) -> Entry:
    """A cell without a number: the status in words, the reason as a footnote."""
    sentence = _sentence(reason) if reason else ""
    return Entry(WORDS.get(status, status), None, None, status, sentence, (sentence,) if sentence else ())


def _sentence(reason: str) -> str:
    """A reason as a sentence of its own."""
    reason = reason.strip()
    return reason[:1].upper() + reason[1:] + ("" if reason.endswith((".", "!", "?")) else ".")


def number(value: float, decimals: int, error: float | None = None) -> str:
    """A number, with its standard error if it has one."""
    return f"{value:.{decimals}f}" + (f" ± {error:.{decimals}f}" if error is not None else "")


def significant(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, never in powers of ten."""
    if value == 0:
        return "0"
    return f"{value:.{max(digits - 1 - math.floor(math.log10(abs(value))), 0)}f}"


def measured(cell: CellRows, metric: str, kind: str) -> Entry:
    """A metric of a cell: its mean and standard error, or the status of what failed."""
    row = cell.find(metric)
    if row is not None and row["status"] == "passed":
        notes = [row["footnote"]] if row["footnote"] and metric != UNTRAINED else []
        flags, frames = json.loads(row["flags"] or "{}"), cell.fact("frames") * cell.fact("clips")
        notes += [_flag_note(name, count, frames) for name, count in flags.items()]
        error = None if flags.get("psnr_capped") == frames else row["standard_error"]  # the cap has no spread
        return Entry(number(row["value"], row["decimals"], error), row["value"], error, "passed", "", tuple(notes))
    failed = row or cell.failed(kind) or cell.failed("generate")
    if failed is not None:
        return without(failed["status"], failed["reason"])
    return without("no record")


def _flag_note(name: str, count: int, frames: int) -> str:
    """What a number's flag means, in words."""
    if name != "psnr_capped":
        return f"{name.replace('_', ' ').capitalize()}: {count} of {frames} frames."
    share = f"All {frames}" if count == frames else f"{count} of {frames}"
    return f"{share} frames equal those of the dense clips; each counts as 100 dB."


def comparison(cell: CellRows, metric: str) -> Entry:
    """A metric that compares with the dense clip of the same noise; that clip itself is the reference."""
    if cell.method == "dense" and cell.tuning == "untuned":
        failed = cell.failed("generate")
        return without(failed["status"], failed["reason"]) if failed else Entry("reference", status="reference")
    if metric == "lpips" and cell.find("lpips") is None and cell.find(UNTRAINED) is not None:
        return without("unsupported", LPIPS_REASON)
    if metric == UNTRAINED and cell.find(UNTRAINED) is None and cell.find("lpips") is not None:
        return Entry()
    return measured(cell, metric, "measure")


def density(cell: CellRows) -> Entry:
    """The density of the sparse steps, and whether it is the one that was asked for."""
    return _density(cell, lambda value: (value, f"{value:.3f}"))


def sparsity(cell: CellRows) -> Entry:
    """100 (1 - density), in %."""
    return _density(cell, lambda value: (100 * (1 - value), f"{100 * (1 - value):.1f}"))


def _density(cell: CellRows, show: Callable[[float], tuple[float, str]]) -> Entry:
    found = measured(cell, "density", "generate")
    if found.value is None:
        return found
    if cell.fact("operator") == "own" and cell.fact("settable") is False:
        reason = LINEAR if cell.tuning == "tuned" else UNTUNED_LINEAR
        return Entry("linear operator", None, None, "not applicable", reason, (reason,))
    value, text = show(found.value)
    notes = found.notes
    budget = cell.fact("budget")
    if budget is not None and cell.fact("settable") is False and found.value < 1:
        notes += (UNSET,)
    elif budget is not None and cell.fact("settable") and abs(found.value - budget) > 0.1 * budget:
        notes += (f"The budget was {budget}; this is the nearest density in the method's reach.",)
    return Entry(text, value, None, "passed", "", notes)


def operations(cell: CellRows) -> Entry:
    """PFLOP of a whole generation of one clip, all passes and steps."""
    found = measured(cell, "pflop", "generate")
    if found.value is None:
        return found
    return Entry(significant(found.value), found.value, None, "passed", "", found.notes)


def latency(cell: CellRows) -> Entry:
    """Seconds a clip, where speed is measured at all: a testbed's time says nothing about a kernel."""
    if cell.find("latency_s") is None and is_testbed(cell.model):
        return without("unsupported", NO_SPEED)
    return measured(cell, "latency_s", "latency")


def training(cell: CellRows) -> Entry:
    """Hours of a tuning; on a testbed the wall time of its steps, and nothing for a cell that was not tuned."""
    if cell.find("training_h") is not None or not is_testbed(cell.model):
        return measured(cell, "training_h", "tune")
    if cell.tuning != "tuned":
        return without("unsupported", NO_SPEED)
    found = measured(cell, "tuning_s", "tune")
    if found.value is None:
        return found
    hours = found.value / 3600
    return Entry(significant(hours), hours, None, "passed", "", (*found.notes, TUNING_TIME))


def vbench(cell: CellRows, metric: str) -> Entry:
    """One of VBench's scores; none of them applies to a testbed."""
    if cell.find(metric) is None and is_testbed(cell.model):
        return without("unsupported", NO_VBENCH)
    return measured(cell, metric, "measure")


def label(cell: CellRows) -> str:
    """A method as tables name it."""
    role = ROLES.get(cell.method)
    return f"{cell.fact('title')} ({role})" if role else cell.fact("title")


def paper_name(model: str) -> str:
    """A model's name in the paper; that of a testbed is not there."""
    from benchmark import models

    return models.get(model).paper_name if model in models.names() else model


def beside(cell: CellRows, rows: Iterable[Published]) -> list[Published]:
    """The published rows that stand beside a cell: those of its method, and of its model if the paper has that."""
    rows = list(rows)
    same = paper_name(cell.model)
    known = {row.model for row in rows}
    return [row for row in rows if row.method == cell.method and (same not in known or row.model == same)]


def published_line(cell: CellRows, row: Published, columns: Iterable[Column]) -> Line:
    """What the paper prints for a cell's method, and for which model."""
    words = ["published", f"{row.model} {row.frames}f"]
    if row.tuning == "tuned":
        words.append("tuned")
    if row.model != paper_name(cell.model):
        words.append("other model")
    entries, cells = {}, {}
    for column in columns:
        text = row.text(column.published) if column.published else ""
        ratio = row.text(column.published_ratio) if column.published_ratio else ""
        notes = [row.notes[name] for name in (column.published, column.published_ratio) if name in row.notes]
        shown = f"{text} ({ratio}×)" if text and ratio else text
        entries[column.key] = Entry(shown, status="published", notes=tuple(dict.fromkeys(notes)) if shown else ())
        cells[column.key] = text
        if column.published_ratio:
            cells[column.published_ratio] = ratio
    tag = row.model.replace(" ", "-") + ("_tuned" if row.tuning == "tuned" else "")
    frames = (row.notes["frames"],) if "frames" in row.notes else ()
    return Line(", ".join(words), entries, cells, tag, frames)


def facts(cell: CellRows) -> dict[str, Any]:
    """What the CSV file says of a cell besides numbers."""
    names = ("frames", "height", "width")
    return {
        "model": cell.model,
        "length": cell.length,
        **{name: cell.fact(name) for name in names},
        "method": cell.method,
        "title": cell.fact("title"),
        "role": ROLES.get(cell.method, ""),
        "tuning": cell.tuning,
        "clips": cell.fact("clips"),
        "budget": "" if cell.fact("budget") is None else cell.fact("budget"),
        "knobs": cell.fact("knobs"),
    }


def group(
    cell: CellRows, columns: tuple[Column, ...], ours: Mapping[str, Entry], published: Iterable[Published]
) -> Group:
    """A method's lines: ours first."""
    lines = tuple(published_line(cell, row, columns) for row in published)
    tuned = ", tuned" if cell.tuning == "tuned" else ""
    other = any("other model" in line.source for line in lines)
    told = facts(cell) | {"published_other_model": ("yes" if other else "no") if lines else ""}
    return Group(label(cell), Line(f"ours{tuned}", ours), lines, told)


def block(cells: list[CellRows], groups: Iterable[Group]) -> Block:
    """The lines of a model at a length, and in its heading how they were made."""
    first = cells[0]
    facts = {name: first.fact(name) for name in ("frames", "height", "width", "clips", "steps", "dense_steps")}
    heading = (
        f"{first.model} at {first.length}: {facts['frames']} frames of {facts['height']}x{facts['width']}, "
        f"{facts['clips']} clips, {facts['steps']} steps of which {facts['dense_steps']} dense, "
        f"{first.fact('dense_layers')} dense layers, blocks of {first.fact('block')}"
    )
    budgets = sorted({cell.fact("budget") for cell in cells if cell.fact("budget") is not None})
    if budgets:
        heading += f", density budget {' and '.join(map(str, budgets))}"
    return Block(heading, tuple(groups))


def lpips_columns(cells: Iterable[CellRows]) -> tuple[Column, ...]:
    """LPIPS, and its untrained stand-in where any cell has that."""
    columns = (Column("lpips", "LPIPS", "", "lower", "", "lpips"),)
    for cell in cells:
        row = cell.find(UNTRAINED)
        if row is not None:
            columns += (Column(UNTRAINED, "LPIPS untrained", note=row["footnote"] or ""),)
            break
    return columns


def noise_floor(cells: Iterable[CellRows]) -> list[str]:
    """How far numbers lie apart that should be equal: as the control measured it, and as a trial on two processors did.

    Returns:
        A sentence for each model and length whose clips are compared with dense ones, and what follows from them.
    """
    compared: dict[tuple[str, str], CellRows | None] = {}
    dense: dict[tuple[str, str], str] = {}
    for cell in cells:
        if cell.method == "dense" and cell.tuning == "untuned":
            dense[cell.model, cell.length] = cell.fact("kernel")
        place, untuned = (cell.model, cell.length), cell.tuning == "untuned"
        if cell.method == CONTROL and untuned:
            compared[place] = cell
        elif not (cell.method == "dense" and untuned) and any(cell.find(metric) for metric in COMPARISONS):
            compared.setdefault(place, None)
    if not compared:
        return []
    said = [_floor(model, length, cell) for (model, length), cell in compared.items()]
    if any(cell is not None for cell in compared.values()):
        how = f"its sums in another order{_by_kernels(compared, dense)}"
        said.append(
            f"The noise floor is {CONTROL}: dense attention with {how}, held against the dense clips. A method whose "
            "clips come as near to them cannot be told from dense attention."
        )
    units = {"psnr": " dB"}
    moves = ", ".join(f"{NAMES[metric]} {value:g}{units.get(metric, '')}" for metric, value in MOVED.items())
    said.append(
        f"On another processor the methods' means moved by up to {moves} in a trial. Smaller differences between two "
        "means say nothing across machines (docs/protocol.md, The noise floor)."
    )
    return said


def _by_kernels(controls: Mapping[tuple[str, str], CellRows | None], dense: Mapping[tuple[str, str], str]) -> str:
    """With which kernels the control was drawn, where these are others than the dense clips'."""
    own = {place: cell.fact("kernel") for place, cell in controls.items() if cell is not None}
    other = sorted({name for place, name in own.items() if name and name != dense.get(place, name)})
    return f" and by another kernel ({', '.join(other)})" if other else ""


def _floor(model: str, length: str, cell: CellRows | None) -> str:
    """What the control measured at a length of a model."""
    where = f"Noise floor of {model} at {length}"
    if cell is None:
        return f"{where}: not measured, for {CONTROL} is not among the methods."
    rows = [cell.find(metric) for metric in COMPARISONS]
    found = [
        f"{NAMES[row['metric']]} {_near_equal(row['metric'], row['value'])}"
        for row in rows
        if row is not None and row["status"] == "passed"
    ]
    failed = cell.failed("measure") or cell.failed("generate")
    why = f"{CONTROL} has the status {failed['status']}" if failed else "no metric compares clips"
    return f"{where}: {', '.join(found)}." if found else f"{where}: not measured, {why}."


def _near_equal(metric: str, value: float) -> str:
    """A number of two clips that are nearly the same: with more digits than tables have."""
    return {"psnr": f"{value:.1f} dB", "ssim": f"{value:.4f}"}.get(metric) or significant(value, 2)


def remarks(cells: list[CellRows], spread: str = STANDARD_ERROR, compared: bool = True) -> tuple[str, ...]:
    """What must be said below every table.

    Args:
        spread: what stands behind a number to say how sure it is.
        compared: whether the table has metrics that compare with the dense clips.
    """
    rows = [row for cell in cells for row in cell.rows]
    said = []
    if any(row["standard_error"] is not None for row in rows):
        said.append(spread)
    said.append(
        "Density is the share of query-key pairs executed in the sparse steps and layers; PFLOP is for a whole "
        "generation of one clip (10^15 operations, a multiply-add is two). Published lines are as printed in "
        "arXiv 2506.19852 v2."
    )
    own = sorted({cell.model for cell in cells if is_testbed(cell.model)})
    if own:
        said.append(
            f"{', '.join(own)} is a small model trained on a procedural world and none of the paper's: lines "
            "marked other model show the paper's order of methods, not a level to reach."
        )
    if compared:
        said += noise_floor(cells)
    versions = len({row["code"] for row in rows})
    if versions > 1:
        said.append(f"The records come from {versions} versions of the code.")
    devices = sorted({row["device"] for row in rows if row["device"]})
    if len(devices) > 1:
        said.append(f"The records come from several devices: {'; '.join(devices)}.")
    return tuple(said)
