"""Cells and lines of the speed tables, from speed records and from what the paper prints."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from benchmark.speed.cells import SpeedCell
from paper_figures.entries import ROLES, paper_name, significant, without
from paper_figures.published import Published
from paper_figures.speed import DENSE, LATENCY, OUTSIDE, Record, Speed, prediction, ratio, verdict
from paper_figures.tables import NOT_YET, Block, Column, Entry, Group, Line

PAPER, AUTHORS = "paper", "authors"
TAG = "arXiv-2506.19852"
FLAGS = {
    "mixture": "A mixture of settings over heads and layers: times, density and PFLOP are means weighted by share.",
    "equal_shares": "The shares of the mixture are not published; equal ones are assumed.",
    "own_knobs": "The paper states no density here: the method's own knobs.",
    "parts_unverified": "Put together from parts, and no whole step at this shape to hold them against.",
    "outside_scaled": (
        "The time outside attention did not fit; that of a shorter clip is scaled by its tokens, in proportion."
    ),
}
"""What a flag of a record means."""
BY_BLOCKS = "from the times of few blocks, for the transformer with all of them does not fit"

LATENCY_NOTE = (
    "Seconds of all denoising steps on one GPU: dense steps x a dense step + the others x a sparse one. Text encoder "
    "and VAE decoder are not in it."
)


def present(record: Record | None, name: str, show: Callable[[float], str], reason: str | None = None) -> Entry:
    """A number of a record, or in words why there is none.

    Args:
        show: how the number is written.
        reason: why a record that lies there does not count.
    """
    if record is None:
        return Entry(
            NOT_YET, None, None, "no record", reason or "", (f"{NOT_YET.capitalize()}: {reason}.",) * bool(reason)
        )
    if record["status"] != "passed":
        if record["reason"].startswith(NOT_YET):
            return Entry(NOT_YET, None, None, "no record", record["reason"])
        return without(record["status"], record["reason"])
    if name not in record["values"]:
        return Entry(NOT_YET, None, None, "no record")
    value = record["values"][name]
    return Entry(show(value), value, None, "passed")


def with_notes(entry: Entry, notes: Iterable[str]) -> Entry:
    """The same cell with more sentences below the table."""
    return replace(entry, notes=(*entry.notes, *notes))


def decimals(digits: int) -> Callable[[float], str]:
    """Writes a number with so many decimals."""
    return lambda value: f"{value:.{digits}f}"


def percent(digits: int = 1) -> Callable[[float], str]:
    """Writes a share in %."""
    return lambda value: f"{100 * value:.{digits}f}"


def ratio_to(measured: Entry, published: float | None) -> Entry:
    """A measured number over the published one; empty without either."""
    if measured.value is None or not published:
        return Entry(status=measured.status if measured.value is None else "")
    found = ratio(measured.value, published)
    return Entry(f"{found:.2f}", found, None, "passed")


def judged(measured: Entry, published: float | None) -> Entry:
    """The verdict on a measured number with its ratio to the published one; empty without either."""
    if measured.value is None or not published:
        return Entry(status=measured.status if measured.value is None else "")
    word, found = verdict(measured.value, published), ratio(measured.value, published)
    digits = 2 if verdict(round(found, 2), 1.0) == word else 3  # else 0.918 is "lower (0.92)", and 0.92 reproduced
    return Entry(f"{word} ({found:.{digits}f})", found, None, word)


def speedup(record: Record | None, cell: SpeedCell, reason: str | None = None) -> Entry:
    """A speed-up over dense attention; dense attention itself is the reference."""
    found = present(record, "speedup", decimals(2), reason)
    if found.value is not None and cell.method == DENSE:
        return Entry("reference", status="reference")
    return found


def predicted(record: Record | None, cell: SpeedCell, found: Callable[[Record], float | None] = prediction) -> Entry:
    """The speed-up that Amdahl's law predicts; empty where there is no measured one to hold it against."""
    if record is None or record["status"] != "passed":
        return Entry(status="no record" if record is None else record["status"])
    value = None if cell.method == DENSE else found(record)
    return Entry() if value is None else Entry(f"{value:.2f}", value, None, "passed")


def notes_of(record: Record | None, cell: SpeedCell) -> tuple[str, ...]:
    """What the numbers of a line must be read with."""
    if record is None or record["status"] != "passed":
        return ()
    values, details, said = record["values"], record["details"], []
    for flag in details.get("flags", ()):
        if cell.method == DENSE and flag == "own_knobs":
            continue
        if flag == "budget_missed":
            budget, have = record["cell"]["budget"], values.get("density")
            said.append(
                f"A density of {budget:g} was asked for; {have:.3f} is the nearest that the method can be set to."
            )
        else:
            said.append(FLAGS.get(flag, f"{flag.replace('_', ' ').capitalize()}."))
    if cell.setting == AUTHORS:
        parts = [f"{part['share']:.0%} {knobs(part['knobs'])}" for part in cell.mixture]
        said.append(f"{title(cell)}, authors' setting: {'; '.join(parts) or knobs(record['cell']['knobs'])}.")
    return tuple(dict.fromkeys(said))


def source_note(speed: Speed, cell: SpeedCell, record: Record | None) -> tuple[str, ...]:
    """From what a latency was put together, where that is not whole steps, and what of it is verified."""
    if record is None or record["status"] != "passed" or "parts" not in record["details"]["source"].values():
        return ()
    worst = record["values"].get("agreement_worst")
    if worst is None:
        return ()  # the flag parts_unverified says it
    whole = [label(other) for other in speed.stages[cell.stage] if "agreement" in speed.passed(other, LATENCY)]
    return (
        "Put together from the time outside attention and the method's complete attention call; where whole steps were "
        f"timed too, at the same shape ({', '.join(dict.fromkeys(whole))}), the two differ by at most {worst:.1%}."
        f"{_both_dense(record)}",
    )


def _both_dense(record: Record) -> str:
    """The dense step that a speed-up stands on where the method's own is from parts, beside the whole one."""
    values = record["values"]
    if record["cell"]["method"] == DENSE or not {"step_dense_parts_s", "step_dense_whole_s"} <= values.keys():
        return ""
    return (
        f" The speed-up is over a dense step put together likewise, {significant(values['step_dense_parts_s'])} s; a "
        f"whole one takes {significant(values['step_dense_whole_s'])} s."
    )


def knobs(settings: Mapping[str, Any]) -> str:
    """Knobs as words."""
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or "nothing to set"


def title(cell: SpeedCell) -> str:
    """A method's title."""
    from benchmark import registry

    return registry.method_class(cell.method).title


def label(cell: SpeedCell) -> str:
    """A method as tables name it."""
    role = ROLES.get(cell.method)
    return f"{title(cell)} ({role})" if role else title(cell)


def source(cell: SpeedCell, record: Record | None) -> str:
    """Where a line's numbers are from: our measurement, and under which setting."""
    if cell.setting == AUTHORS:
        return "ours, authors' setting"
    budget = cell.budget if record is None and settable(cell) else record and record["cell"]["budget"]
    return "ours" if cell.method == DENSE or budget is None else "ours, paper's density"


def settable(cell: SpeedCell) -> bool:
    """Whether the method has a density to set at the cell's shape."""
    from benchmark import models, registry
    from benchmark.budget import has_budget

    layout = models.get(cell.model).layout(cell.frames, cell.height, cell.width)
    return has_budget(registry.get(cell.method), layout, cell.block)


def beside(cell: SpeedCell, rows: Iterable[Published]) -> Published | None:
    """The published row of a cell's model, method and frames; of two the tuned one, which has the other's numbers."""
    found = [
        row for row in rows if (row.model, row.method, row.frames) == (paper_name(cell.model), cell.method, cell.frames)
    ]
    return max(found, key=lambda row: row.tuning == "tuned", default=None)


def published_line(row: Published, columns: Iterable[Column], shown: Mapping[str, str]) -> Line:
    """What the paper prints for a cell.

    Args:
        shown: what stands in a column instead of the cell as printed.
    """
    entries, cells = {}, {}
    gpus = int(row.text("gpus") or 1)
    for column in columns:
        text = row.text(column.published) if column.published else ""
        notes = (row.notes[column.published],) if text and column.published in row.notes else ()
        entries[column.key] = Entry(shown.get(column.key, text) if text else "", status="published", notes=notes)
        if column.published:
            cells[column.key] = text
    words = ["published"] + [f"{gpus} GPUs"] * (gpus > 1) + ["tuned"] * (row.tuning == "tuned")
    frames = (row.notes["frames"],) if "frames" in row.notes else ()
    return Line(", ".join(words), entries, cells, TAG, frames)


def facts(cell: SpeedCell, latency: Record | None, training: Record | None = None) -> dict[str, Any]:
    """What the CSV file says of a cell besides numbers."""
    names = ("model", "shape", "frames", "height", "width", "method", "setting", "steps", "dense_steps", "dense_layers")
    told: dict[str, Any] = {name: getattr(cell, name) for name in names}
    details = {} if latency is None else latency["details"]
    told["title"] = title(cell)
    told["role"] = ROLES.get(cell.method, "")
    told["budget"] = "" if cell.budget is None else cell.budget
    told["knobs"] = as_json(details.get("knobs"))
    told["kernel"] = details.get("kernel") or ""
    told["source_dense"] = details.get("source", {}).get("dense", "")
    told["source_sparse"] = details.get("source", {}).get("sparse", "")
    told["flags"] = " ".join(dict.fromkeys(chain(*(r["details"].get("flags", ()) for r in (latency, training) if r))))
    told["quartiles"] = as_json(details.get("quartiles"))
    told["samples"] = as_json(details.get("samples"))
    return told


def as_json(value: Any) -> str:
    """Anything as a line of JSON; empty for nothing."""
    return json.dumps(value, sort_keys=True) if value else ""


def block(speed: Speed, cells: Sequence[SpeedCell], groups: Iterable[Group]) -> Block:
    """The lines of a model at a shape, and in its heading how they were made."""
    from benchmark import models

    first = cells[0]
    spec = models.get(first.model)
    tokens = spec.layout(first.frames, first.height, first.width).tokens
    name = f"{spec.paper_name}, {first.frames} frames of {first.height}x{first.width}"
    layers = f"{first.dense_layers} dense layer" + "s" * (first.dense_layers != 1)
    passes = "one pass" if first.passes == 1 else f"{first.passes} passes"
    heading = (
        f"{name}: {tokens:,} tokens, {first.steps} steps of which {first.dense_steps} dense, {layers}, {passes} a "
        f"step, blocks of {first.block}"
    )
    return Block(heading, tuple(groups))


def by_blocks(speed: Speed, stage: SpeedCell) -> bool:
    """Whether a stage's time outside attention is that of a few blocks, for the transformer did not fit."""
    record = speed.record(stage, OUTSIDE)
    return record is not None and record["status"] == "passed" and bool(record["details"].get("by_blocks"))


def stage_note(speed: Speed, cell: SpeedCell) -> tuple[str, ...]:
    """What was measured once for a stage: the time outside attention, and what stands around the transformer."""
    values = speed.passed(cell, LATENCY)
    said = []
    if "outside_unfused_s" in values:
        said.append(
            f"outside attention a step takes {significant(values['outside_s'])} s fused and "
            f"{significant(values['outside_unfused_s'])} s as diffusers runs it"
        )
        if by_blocks(speed, cell.of_stage()):
            said[-1] += ", " + BY_BLOCKS
    ends = {"text_encoder_s": "the text encoder", "vae_decoder_s": "the VAE decoder"}
    ends = [f"{words} {significant(values[name])} s" for name, words in ends.items() if name in values]
    said += [f"{' and '.join(ends)} are not in the latency"] * bool(ends)
    return (f"{paper_name(cell.model)} {cell.frames}f: {'; '.join(said)}.",) if said else ()
