"""Attention kernels at the paper's shapes: time, rate and error of every kernel under every method."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paper_figures import speed_entries as entries
from paper_figures.entries import paper_name, significant, without
from paper_figures.speed import Record, Speed
from paper_figures.speed_remarks import machine
from paper_figures.tables import NOT_YET, Block, Column, Entry, Group, Line, Table, filled, write

READS = "speed"
KINDS = {"forward": "Forward", "training": "Fwd + bwd", "complete": "Whole operator"}
"""What is timed, by its name in records."""
COMPLETE_NOTE = (
    "All that the method does in a layer: permutations and the classification of heads too, but no rotation."
)
ERROR_NOTE = (
    "Relative error of the output against float32 attention under the same mask, at sampled queries; the largest of "
    "the gradients' too where they were checked. A kernel is allowed twice the error of PyTorch's own dense attention, "
    "and has no time where it errs more."
)
PLANNING_NOTE = (
    "Seconds on the device to make the mask and the lists that the kernel's forward pass reads of it, and the most "
    "memory that takes."
)
FORMER_LISTS = (
    "With lists of a form that no kernel reads, the first of them with the loading of code: dense attention needs none."
)
"""Of records that have ``lists_seconds``: until then the same lists were timed for every kernel, without a warm-up."""
FORMER_METHOD = "Timed with an earlier version of methods/{method}.py."
FORMER_VARIANT = "A way to run the kernel that it no longer has."
REMARK = (
    "One process a shape, random bf16 inputs, batch 1. TFLOP/s count the executed query-key pairs only (a multiply-add "
    "is two; the backward pass 2.5 times the forward pass). Of matmul: of a bf16 matrix product of 8192^3 in the same "
    "process, in a burst, which runs faster than one that goes on for seconds (table_outside). Of dense: of the same "
    "kernel's TFLOP/s under dense attention. The paper has no such numbers."
)

UNTRAINED = "Forward and backward passes together are not measured yet."


def columns() -> tuple[Column, ...]:
    """The columns, in the order of the table."""
    found = [Column("density", "Density")]
    for name, heading in KINDS.items():
        note = COMPLETE_NOTE if name == "complete" else ""
        found.append(Column(f"{name}_ms", heading, "ms", "lower", note))
        if name != "complete":
            found.append(Column(f"{name}_tflops", "TFLOP/s", "", "higher"))
            found.append(Column(f"{name}_matmul_share", "of matmul", "%", "higher"))
            found.append(Column(f"{name}_dense_share", "of dense", "%", "higher"))
    found.append(Column("error", "Error", "", "lower", ERROR_NOTE))
    found.append(Column("planning_s", "Planning", "s", "lower", PLANNING_NOTE))
    found.append(Column("planning_mib", "Planning", "MiB", "lower"))
    return tuple(found)


def ours(entry: Mapping[str, Any], planning: Mapping[str, Mapping[str, Any]]) -> dict[str, Entry]:
    """The line of a kernel under a method.

    Args:
        entry: one of a record's ``details.entries``.
        planning: that record's ``details.planning``, by method.
    """
    found: dict[str, Entry] = {}
    passed, values = entry["status"] == "passed", entry["values"]
    for name in KINDS:
        for key, of, show in (
            (f"{name}_ms", f"{name}_s", lambda value: significant(1e3 * value)),
            (f"{name}_tflops", f"{name}_tflops", entries.decimals(0)),
            (f"{name}_matmul_share", f"{name}_matmul_share", entries.percent(1)),
            (f"{name}_dense_share", f"{name}_dense_share", entries.percent(1)),
        ):
            if passed and of in values:
                value = 1e3 * values[of] if key.endswith("_ms") else values[of]
                found[key] = Entry(show(values[of]), value, None, "passed")
    if not passed:
        found["forward_ms"] = without(entry["status"], entry["reason"])
        return found
    if "density" in entry:
        found["density"] = Entry(f"{entry['density']:.3f}", entry["density"], None, "passed")
    training = entry.get("training") or {}
    if training.get("status", "passed") != "passed":
        found["training_ms"] = without(training["status"], training["reason"])
    errors = [*(entry.get("errors") or {}).values(), *(training.get("errors") or {}).values()]
    if errors:
        worst = max(errors)
        found["error"] = Entry(f"{worst:.1e}", worst, None, "passed")
    return found | _planning(entry, planning.get(entry["method"]))


def _planning(entry: Mapping[str, Any], plan: Mapping[str, Any] | None) -> dict[str, Entry]:
    """What planning takes: of the mask, and of the kernel's lists, if it has any."""
    if not plan or plan.get("seconds") is None:
        return {}
    former = "lists_seconds" in plan
    lists = {"seconds": plan["lists_seconds"], "peak_mib": plan["lists_peak_mib"]} if former else entry.get("lists")
    parts = [plan, lists] if lists else [plan]
    seconds = sum(part["seconds"] for part in parts)
    notes = (FORMER_LISTS,) if former else ()
    found = {"planning_s": Entry(f"{seconds:.3f}", seconds, None, "passed", notes=notes)}
    if plan.get("peak_mib") is not None:
        most = max(part["peak_mib"] for part in parts)
        found["planning_mib"] = Entry(f"{most:.0f}", most, None, "passed")
    return found


def block(record: Record) -> Block:
    """The lines of a record: a shape of a model."""
    cell = record["cell"]
    heading = (
        f"{paper_name(cell['model'])}, {cell['frames']} frames of {cell['height']}x{cell['width']}: {cell['tokens']:,} "
        f"tokens, {cell['heads']} heads of {cell['head_dim']}, blocks of {cell['block']}"
    )
    told = {name: cell[name] for name in ("model", "frames", "height", "width", "tokens", "heads", "head_dim", "block")}
    if record["status"] != "passed":
        line = Line("all", {"forward_ms": without(record["status"], record["reason"])})
        return Block(heading, (Group("All methods", line, facts=told | {"method": "", "kernel": ""}),))
    details = record["details"]
    planning = {plan["method"]: plan for plan in details["planning"]}
    hashes = record["provenance"]["hashes"]
    groups = []
    for entry in details["entries"]:
        facts = told | {"method": entry["method"], "kernel": entry["kernel"], "knobs": entries.as_json(entry["knobs"])}
        facts["matmul_tflops"] = record["values"]["matmul_tflops"]
        line = Line(
            _kernel(entry), ours(entry, planning), notes=_former(entry, hashes.get(f"method.{entry['method']}"))
        )
        groups.append(Group(_label(entry), line, facts=facts))
    options = details["options"]
    calls = f"{options['repeat']} calls after {options['warmup']}"
    return Block(
        f"{heading}; matrix product {record['values']['matmul_tflops']:.0f} TFLOP/s; medians of {calls}", tuple(groups)
    )


def _former(entry: Mapping[str, Any], method_file: str | None) -> tuple[str, ...]:
    """What of a timed kernel is not what it is today."""
    from benchmark import kernels, registry
    from benchmark.speed.sources import method_hash

    notes = []
    method, (kernel, _, variant) = entry["method"], entry["kernel"].partition(":")
    if method in registry.names() and method_file not in (None, method_hash(method)):
        notes.append(FORMER_METHOD.format(method=method))
    if variant and kernel in kernels.names() and variant not in kernels.load(kernel).VARIANTS:
        notes.append(FORMER_VARIANT)
    return tuple(notes)


def _label(entry: Mapping[str, Any]) -> str:
    """A method's title, with the knobs that are not at their defaults."""
    from benchmark import registry

    name = entry["method"]
    if name not in registry.names():
        return name
    defaults = registry.get(name).knobs()
    changed = {key: value for key, value in entry["knobs"].items() if defaults.get(key) != value}
    title = registry.method_class(name).title
    return f"{title} ({entries.knobs(changed)})" if changed else title


def _kernel(entry: Mapping[str, Any]) -> str:
    """A kernel's name, and what of a library computed it where that chose."""
    name = entry["kernel"]
    if name == "method":
        return "its own operator"
    chosen = [backend.replace("_ATTENTION", "").lower() for backend in entry.get("backends", ())]
    return f"{name} ({', '.join(chosen)})" if chosen and ":" not in name else name


def table(speed: Speed) -> Table:
    """The kernels that were measured, one block a shape.

    Raises:
        ValueError: a record is damaged, or the records are from two GPUs.
    """
    records = [record for record in speed.kernels() if record["provenance"]["device"].get("type") != "cpu"]
    blocks = tuple(block(record) for record in records)
    if not blocks:
        line = Line("all", {"forward_ms": Entry(NOT_YET, status="no record")})
        blocks = (Block("No shape", (Group("All methods", line, facts={"method": "", "kernel": ""}),)),)
    shown = filled(columns(), blocks)
    said = (REMARK,) if any(column.key == "training_ms" for column in shown) else (REMARK, UNTRAINED)
    said += (machine([record for record in records if record["status"] == "passed"]),)
    heads = ("Method", "Kernel")
    return Table("table_kernels", "Kernels. Attention at the paper's shapes", shown, blocks, said, heads)


def make(speed: Speed, out: Path) -> list[Path]:
    """Writes the table. Returns its files."""
    return write(table(speed), out)
