"""The records that tables read: latency and tuning of a cell, put together from what was measured.

Nothing is timed here. Whole steps are taken where a cell's sparse step and the dense one have both been timed whole,
else both are ``outside + layers x attention call``: a speed-up never divides one kind by the other. The two are held
against each other wherever both exist; where they differ by more than ``TOLERANCE``, the cells of that stage that
stand on parts alone are ``incorrect``. Where a check of what all of them stand on failed (``failed_check``), all are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmark.packed import file_of
from benchmark.records import make_record, read_record, write_json
from benchmark.speed import clock, ends, parts, planning, settings, steps, training
from benchmark.speed.cells import SpeedCell

LATENCY, TRAINING = "latency", "training"
TOLERANCE = 0.03
"""Parts may differ from whole steps by this share."""
DENSE = f"{settings.REFERENCE}/{settings.PAPER}"

Record = Mapping[str, Any]


def assemble(planned: Mapping[str, Any], records: Path) -> list[Path]:
    """Writes the latency and tuning records of a stage, from the records that are there.

    Returns:
        The files that were written: one for every cell, and one for every cell with a tuning step.
    """
    held = {key: _held(planned, key, records) for key in planned["cells"]}
    stage = planning.cell_of(planned, DENSE).of_stage()
    folder = records / stage.path
    shared = {kind: _read(folder / f"{kind}.json", stage) for kind in (parts.OUTSIDE, ends.TEXT, ends.DECODER)}
    shared[training.OUTSIDE] = _read(folder / f"{training.OUTSIDE}.json", training.with_rank(stage, planned))
    written = []
    worst = _worst(planned, held, shared)
    failed = failed_check(planned, records)
    for key in planned["cells"]:
        cell = planning.cell_of(planned, key)
        made = latency(cell, planned["cells"][key], held[key], held[DENSE], shared, worst, failed)
        written.append(records / cell.path / f"{LATENCY}.json")
        write_json(written[-1], made)
    for key in planned["training"]:
        cell = planning.cell_of(planned, key)
        written.append(records / cell.path / f"{TRAINING}.json")
        verified = _model_agreement(planned, records)
        write_json(written[-1], tuning(cell, planned, held[key], held[DENSE], shared, verified))
    return written


def failed_check(planned: Mapping[str, Any], records: Path) -> str | None:
    """Which check failed that every latency of a stage stands on, and why; None where none did.

    The fused blocks are rounded no worse than the plain ones, at any shape of the model (``rounding``); the fused
    transformer's output is the plain one's (``outside``); steps add up to a whole run (``whole_run``). A check that was
    not made, or could not be, is no failed one. Tuning runs blocks that are not fused: it stands on none of these.
    """
    dense = planning.cell_of(planned, DENSE)
    stage = dense.of_stage()
    found = [(parts.OUTSIDE, stage, _read(records / stage.path / f"{parts.OUTSIDE}.json", stage))]
    for other in _stages_of(dense, records):
        cell = planning.cell_of(other, DENSE).of_stage()
        found.append((parts.ROUNDING, cell, _read(records / cell.path / f"{parts.ROUNDING}.json", cell)))
        # From the file, since a job of some methods has a plan without the cell that is run whole.
        if cell == stage and other["run"] is not None:
            cell = planning.cell_of(other, other["run"])
            found.append((steps.RUN, cell, _read(records / cell.path / f"{steps.RUN}.json", cell)))
    for kind, cell, record in found:
        if record is not None and record["status"] == "incorrect":
            return f"{kind} of {cell.path.as_posix()}: {record['reason']}"
    return None


def _stages_of(cell: SpeedCell, records: Path) -> Iterator[dict[str, Any]]:
    """The plans of a model's stages that lie in a folder, of the cell's experiment and trial."""
    for path in sorted((records / cell.model).glob(f"*/{planning.FILE}")):
        planned = planning.read(path)
        other = planning.cell_of(planned, DENSE)
        if all(getattr(other, name) == getattr(cell, name) for name in ("experiment", "block", "kernel", "trial")):
            yield planned


def step_parts(cell: SpeedCell, outside: float, dense_call: float, call: float, permute: float = 0.0) -> float:
    """Seconds of a step in which the method runs: passes x (outside + dense layers x dense + the others x its call)."""
    sparse = layers_of(cell) - cell.dense_layers
    return outside + cell.passes * (permute + cell.dense_layers * dense_call + sparse * call)


def layers_of(cell: SpeedCell) -> int:
    """Layers with self-attention."""
    return settings.resized(cell.model, cell.trial).layers


def latency(
    cell: SpeedCell,
    facts: Mapping[str, Any],
    own: Mapping[str, Record | None],
    dense: Mapping[str, Record | None],
    shared: Mapping[str, Record | None],
    worst: float | None,
    failed: str | None = None,
) -> dict[str, Any]:
    """The latency record of a cell.

    Args:
        facts: density, operations and flags, from the plan.
        own, dense: what was measured of this cell and of dense attention, by kind.
        shared: what was measured of the stage, by kind.
        worst: the largest difference of parts from whole steps in this stage; None where no stage has both.
        failed: the check that voids every cell of the stage, from ``failed_check``.
    """
    if failed is not None:
        return make_record(LATENCY, cell, "incorrect", reason=failed, device=_device(own, dense, shared))
    needed = {"attention": own[parts.ATTENTION], "dense attention": dense[parts.ATTENTION]}
    needed |= {"time outside attention": shared[parts.OUTSIDE]}
    sources = {"dense": _passed(dense[steps.STEP]), "sparse": _passed(own[steps.STEP])}
    values: dict[str, float] = {}
    complete = all(_passed(record) for record in needed.values())
    if complete:
        outside = shared[parts.OUTSIDE]["values"]
        dense_call, call = dense[parts.ATTENTION]["values"]["call_s"], own[parts.ATTENTION]["values"]["call_s"]
        permute = own[parts.ATTENTION]["values"]["permute_s"]
        values |= {
            "outside_s": outside["outside_s"],
            "outside_unfused_s": outside["outside_unfused_s"],
            "fused_error": outside["fused_error"],
            "attention_call_s": call,
            "attention_call_dense_s": dense_call,
            "step_dense_parts_s": step_parts(cell, outside["outside_s"], dense_call, dense_call),
            "step_sparse_parts_s": step_parts(cell, outside["outside_s"], dense_call, call, permute),
        }
        values["attention_share"] = 1 - outside["outside_s"] / values["step_dense_parts_s"]
    for name, record in sources.items():
        if record:
            values[f"step_{name}_whole_s"] = record["values"]["step_s"]
    missing = _missing(needed if not complete else {}, sources, complete)
    hashes = {"mask": facts["mask_hash"]} if isinstance(facts["mask_hash"], str) else {}
    known = {record["provenance"]["hashes"].get("method") for record in own.values() if record is not None} - {None}
    hashes |= {"method": known.pop()} if known else {}  # one, since records of another version of the file do not count
    if missing is not None:
        return make_record(LATENCY, cell, missing[0], reason=missing[1], device=_device(own, dense, shared))
    source = dict.fromkeys(sources, "whole" if all(sources.values()) else "parts")
    for name in ("dense", "sparse"):
        values[f"step_{name}_s"] = values[f"step_{name}_{source[name]}_s"]
        whole, put = values.get(f"step_{name}_whole_s"), values.get(f"step_{name}_parts_s")
        if whole and put and (name == "sparse" or cell.method == settings.REFERENCE):
            values["agreement"] = put / whole - 1
    if worst is not None:
        values["agreement_worst"] = worst
    if worst is not None and worst > TOLERANCE and "parts" in source.values():
        reason = f"parts differ from whole steps by {worst:.1%} at this stage; at most {TOLERANCE:.0%} is allowed"
        return make_record(LATENCY, cell, "incorrect", reason=reason, device=_device(own, dense, shared))
    sparse_steps = cell.steps - cell.dense_steps
    values["generation_s"] = cell.dense_steps * values["step_dense_s"] + sparse_steps * values["step_sparse_s"]
    values["generation_dense_s"] = cell.steps * values["step_dense_s"]
    values["speedup"] = values["generation_dense_s"] / values["generation_s"]
    for kind in (ends.TEXT, ends.DECODER):
        if _passed(shared[kind]):
            values[f"{kind}_s"] = shared[kind]["values"][f"{kind}_s"]
    for name in ("density", "block_sparsity", "pflop", "pflop_dense"):
        if facts[name] is not None:
            values[name] = facts[name]
    used = {f"own_{kind}": record for kind, record in own.items()}
    used |= {f"dense_{kind}": record for kind, record in dense.items()} | dict(shared)
    used = {name: record for name, record in used.items() if "lora" not in name}
    flags = list(facts["flags"]) + (["parts_unverified"] if worst is None and "parts" in source.values() else [])
    details = _details(used) | {
        "source": source,
        "flags": flags,
        "knobs": cell.knobs or list(cell.mixture),
        "passes": cell.passes,
        "text_tokens": cell.text_tokens,
        "tokens": _tokens(cell),
        "layers": layers_of(cell),
        "trial": bool(cell.trial),
        "ends": {kind: _status(shared[kind]) for kind in (ends.TEXT, ends.DECODER)},
    }
    return make_record(
        LATENCY,
        cell,
        "passed",
        values,
        units=_units(values),
        details=details,
        hashes=hashes,
        device=_device(own, dense, shared),
    )


def tuning(
    cell: SpeedCell,
    planned: Mapping[str, Any],
    own: Mapping[str, Record | None],
    dense: Mapping[str, Record | None],
    shared: Mapping[str, Record | None],
    verified: float | None,
) -> dict[str, Any]:
    """The tuning record of a cell: seconds of a LoRA step, batch 1, one pass.

    Args:
        verified: the largest difference of parts from whole tuning steps of this model, at shapes where both fit.
    """
    needed = {"attention": own[training.ATTENTION], "dense attention": dense[training.ATTENTION]}
    needed |= {"time outside attention": shared[training.OUTSIDE]}
    device = _device(own, dense, shared)
    missing = _missing(needed, {}, all(_passed(record) for record in needed.values()))
    if missing is not None:
        return make_record(TRAINING, cell, missing[0], reason=missing[1], device=device)
    if verified is not None and verified > TOLERANCE:
        reason = f"parts differ from whole tuning steps by {verified:.1%}; at most {TOLERANCE:.0%} is allowed"
        return make_record(TRAINING, cell, "incorrect", reason=reason, device=device)
    outside = shared[training.OUTSIDE]["values"]["outside_s"]
    dense_call, call = dense[training.ATTENTION]["values"]["call_s"], own[training.ATTENTION]["values"]["call_s"]
    layers = layers_of(cell)
    values = {
        "outside_s": outside,
        "attention_s": call,
        "attention_dense_s": dense_call,
        "step_s": outside + cell.dense_layers * dense_call + (layers - cell.dense_layers) * call,
        "step_dense_s": outside + layers * dense_call,
    }
    values["speedup"] = values["step_dense_s"] / values["step_s"]
    values["density"] = planned["cells"][settings.key_of(cell)]["density"]
    whole = _passed(own[training.STEP])
    if whole:
        values["step_whole_s"] = whole["values"]["step_s"]
        values["agreement"] = values["step_s"] / values["step_whole_s"] - 1
    if verified is not None:
        values["agreement_worst"] = verified
    flags = list(planned["cells"][settings.key_of(cell)]["flags"])
    scaled = shared[training.OUTSIDE]["details"]["scaled"]
    flags += ["outside_scaled"] if scaled != 1 else []
    flags += ["parts_unverified"] if verified is None else []
    used = {f"own_{kind}": record for kind, record in own.items() if kind.startswith("lora")}
    used |= {f"dense_{kind}": record for kind, record in dense.items() if kind.startswith("lora")}
    used[training.OUTSIDE] = shared[training.OUTSIDE]
    details = _details(used) | {
        "flags": flags,
        "knobs": cell.knobs or list(cell.mixture),
        "lora": shared[training.OUTSIDE]["details"]["lora"],
        "outside_scaled": scaled,
        "outside_settled": shared[training.OUTSIDE]["details"].get(training.SETTLED, False),
        "training_steps": planned["training_steps"],
        "layers": layers,
        "tokens": _tokens(cell),
        "trial": bool(cell.trial),
    }
    return make_record(TRAINING, cell, "passed", values, units=_units(values), details=details, device=device)


def _units(values: Mapping[str, float]) -> dict[str, str]:
    units = {name: "s" for name in values if name.endswith("_s")}
    return units | {name: "PFLOP" for name in values if name.startswith("pflop")}


def _worst(
    planned: Mapping[str, Any], held: Mapping[str, Mapping[str, Record | None]], shared: Mapping[str, Record | None]
) -> float | None:
    """Largest difference of parts from whole steps among the cells that have both."""
    outside, dense = _passed(shared[parts.OUTSIDE]), _passed(held[DENSE][parts.ATTENTION])
    found = []
    for key, own in held.items():
        attention, whole = _passed(own[parts.ATTENTION]), _passed(own[steps.STEP])
        if outside and dense and attention and whole:
            call, permute = (attention["values"][name] for name in ("call_s", "permute_s"))
            cell = planning.cell_of(planned, key)
            put = step_parts(cell, outside["values"]["outside_s"], dense["values"]["call_s"], call, permute)
            found.append(abs(put / whole["values"]["step_s"] - 1))
    return max(found) if found else None


def _model_agreement(planned: Mapping[str, Any], records: Path) -> float | None:
    """Largest difference of parts from whole tuning steps of a plan's model and rank, at every shape that has both.

    Read from what was measured, so that the order in which stages are put together does not matter. Records count
    where they are about the cells of the plan that lies beside them.
    """
    found = []
    for other in _stages_of(planning.cell_of(planned, DENSE), records):
        stage = training.with_rank(planning.cell_of(other, DENSE).of_stage(), planned)
        outside = _passed(_read(records / stage.path / f"{training.OUTSIDE}.json", stage))
        dense = _passed(_held(other, DENSE, records)[training.ATTENTION])
        for key in other["training"] if other["rank"] == planned["rank"] else ():
            one = planning.cell_of(other, key)
            held = _held(other, key, records)
            whole, own = _passed(held[training.STEP]), _passed(held[training.ATTENTION])
            if whole and own and outside and dense:
                put = outside["values"]["outside_s"] + one.dense_layers * dense["values"]["call_s"]
                put += (layers_of(one) - one.dense_layers) * own["values"]["call_s"]
                found.append(abs(put / whole["values"]["step_s"] - 1))
    return max(found) if found else None


def _held(planned: Mapping[str, Any], key: str, records: Path) -> dict[str, Record | None]:
    """What was measured of a plan's cell, by kind; a record about other settings or another mask is none."""
    cell, mask = planning.cell_of(planned, key), parts.mask_of(planned, key)
    cells = dict.fromkeys((parts.ATTENTION, steps.STEP, training.ATTENTION), cell)
    cells |= {training.STEP: training.with_rank(cell, planned)}
    return {kind: _read(records / cell.path / f"{kind}.json", one, mask) for kind, one in cells.items()}


def _read(path: Path, cell: SpeedCell, mask: str | None = None) -> Record | None:
    """The record at a path; None where there is none about just this cell with numbers taken as they are now."""
    held = read_record(path) if file_of(path).exists() else None
    return held if held is not None and clock.about(held, cell, mask) else None


def _passed(record: Record | None) -> Record | None:
    return record if record is not None and record["status"] == "passed" else None


def _status(record: Record | None) -> str:
    if record is None:
        return "not measured"
    return record["status"] if record["reason"] is None else f"{record['status']}: {record['reason']}"


def _missing(
    needed: Mapping[str, Record | None], sources: Mapping[str, Record | None], complete: bool
) -> tuple[str, str] | None:
    """Status and reason of a cell that cannot be put together; None where it can."""
    if complete or (sources and all(sources.values())):
        return None
    for name, record in needed.items():
        if record is not None and record["status"] != "passed":
            return record["status"], f"{name}: {record['reason']}"
    names = ", ".join(name for name, record in needed.items() if record is None)
    return "error", f"not measured yet: {names}"


def _device(*groups: Mapping[str, Record | None]) -> dict[str, Any]:
    """The device of the first record there is."""
    for group in groups:
        for record in group.values():
            if record is not None:
                return record["provenance"]["device"]
    return {}


def _details(used: Mapping[str, Record | None]) -> dict[str, Any]:
    """Quartiles, samples, the GPU's state and decided patterns of what was measured, and the seals of its records."""
    found = {name: record for name, record in used.items() if _passed(record)}

    def of(key: str) -> dict[str, Any]:
        return {name: record["details"][key] for name, record in found.items() if key in record["details"]}

    return {
        "quartiles": of("quartiles"),
        "samples": of("samples"),
        "gpu": of("gpu"),
        parts.PATTERN: of(parts.PATTERN),
        "kernel": next(
            (record["details"]["kernel"] for record in found.values() if "kernel" in record["details"]), None
        ),
        "records": {name: record.get("seal") for name, record in found.items()},
    }


def _tokens(cell: SpeedCell) -> int:
    return settings.resized(cell.model, cell.trial).layout(cell.frames, cell.height, cell.width).tokens
