"""What is said below every speed table: verdicts, kernels, the machine, and which checks were made and which not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from benchmark.registry import method_class
from benchmark.speed.cells import SpeedCell, from_settings
from paper_figures.entries import paper_name, significant
from paper_figures.speed import LATENCY, ROUNDING, TRAINING, TRAINING_OUTSIDE, WHOLE_RUN, Record, Speed
from paper_figures.speed_entries import title

NUMBERS = (
    "Verdicts: reproduced within 8 % of the published number, else higher or lower, with the measured number over the "
    "published one. Amdahl is the speed-up that Amdahl's law predicts from our own time outside attention and our own "
    "dense attention, were a sparse call's time its density's share of the dense one's. Weights are random: speed does "
    "not depend on them, but where a method decides at run time."
)
DYNAMIC = (
    "{names} sorts its heads at run time by their queries and keys, here random ones: density and operations are those "
    "of the mask that it plans for every head, and where that has a sink, heads sorted as temporal compute fewer pairs."
)
UNSETTLED = (
    "Time outside attention of LoRA steps was taken in part before the GPU's clock had settled under load, so it is "
    "short, and tuning speed-ups are high: by 5 % at the most, were it to take as much longer as the clock fell."
)
KERNEL = (
    "Absolute times have no verdict, only their ratio to the published one: here all methods share one modern kernel "
    "({kernel}), in the paper STA alone ran on FlashAttention-3 and all others on FlashAttention-2. So the published "
    "speed-ups of STA hold the gain of its kernel too, and ours do not."
)


def remarks(speed: Speed, cells: Sequence[SpeedCell]) -> tuple[str, ...]:
    """What must be said below every speed table: verdicts, kernels, the machine, and what was verified."""
    records = [record for cell in cells for kind in (LATENCY, TRAINING) if (record := speed.record(cell, kind))]
    passed = [record for record in records if record["status"] == "passed"]
    names = sorted({record["details"]["kernel"] for record in passed if record["details"].get("kernel")})
    said = [NUMBERS, KERNEL.format(kernel=" and ".join(names) or cells[0].kernel)]
    dynamic = dict.fromkeys(title(cell) for cell in cells if method_class(cell.method).dynamic)
    said += [DYNAMIC.format(names=" and ".join(dynamic))] * bool(dynamic)
    said += [*whole_runs(speed), *audit(speed, cells), *unchecked(speed, cells)]
    outside = [record for record in speed.measured(cells) if record["kind"] == TRAINING_OUTSIDE]
    said += [UNSETTLED] * any(not record["details"].get("settled") for record in outside)
    said.append(machine(list(speed.measured(cells)) or passed))
    if speed.left_out:
        said.append(f"Left out, since there is no such file in methods/: {', '.join(speed.left_out)}.")
    return tuple(said)


def whole_runs(speed: Speed) -> list[str]:
    """How far generation times that are put together from steps are from whole runs, and which runs did not pass."""
    agreed, off = [], []
    for cell in chain(*speed.stages.values()):
        record = speed.record(cell, WHOLE_RUN)
        if record is None:
            continue
        what = f"{paper_name(cell.model)} {cell.frames}f {title(cell)}"
        if record["status"] == "passed":
            values = record["values"]
            whole = significant(values["generation_whole_s"])
            agreed.append(f"{what} {whole} s, steps x medians {values['agreement']:+.1%} off it")
        else:
            off.append(_off(record))
    said = [f"All {cell.steps} steps in one go: {'; '.join(agreed)}."] * bool(agreed)
    return said + [f"All {cell.steps} steps in one go did not pass: {'; '.join(off)}."] * bool(off)


def audit(speed: Speed, cells: Sequence[SpeedCell]) -> list[str]:
    """How far cells that were measured anew are from their records."""
    records = speed.audits(cells)
    if not records:
        return []
    agreed = [record["values"]["ratio"] for record in records if record["status"] == "passed"]
    words = f"Audit: {len(records)} of these cells were measured anew, {len(agreed)} agree within 5 %"
    if agreed:
        words += f", the farthest by {max(abs(found - 1) for found in agreed):.1%}"
    off = [_off(record) for record in records if record["status"] != "passed"]
    return [f"{words}." + f" The others do not: {'; '.join(off)}." * bool(off)]


def unchecked(speed: Speed, cells: Sequence[SpeedCell]) -> list[str]:
    """Which checks of the protocol are not made yet."""
    made = [(cell, speed.record(cell, WHOLE_RUN)) for cell in speed.runs()]
    runs = [f"{paper_name(cell.model)} {cell.frames}f" for cell, record in made if record is None]
    rounded = [paper_name(stage.model) for stage in speed.rounded() if speed.record(stage, ROUNDING) is None]
    said = [f"all steps in one go ({', '.join(runs)})"] * bool(runs)
    said += [f"the rounding of the fused blocks against float32 ({', '.join(rounded)})"] * bool(rounded)
    said += ["measuring some of these cells anew (the audit)"] * (not speed.audits(cells))
    return [f"Checks that are not made yet: {'; '.join(said)}."] * bool(said)


def _off(record: Record) -> str:
    """What an audit or a whole run found where it did not pass."""
    cell = from_settings(record["cell"])
    what = f"{paper_name(cell.model)} {cell.frames}f {title(cell)} at the {cell.setting} setting"
    status = "" if record["status"] == "incorrect" else f"{record['status']}, "
    return f"{what}: {status}{record['reason']}"


def machine(records: Sequence[Record]) -> str:
    """GPU, dates, clocks and packages of records.

    Raises:
        ValueError: they are from two models of GPU.
    """
    if not records:
        return "No speed record has passed yet."
    devices = [record["provenance"]["device"] for record in records]
    names = sorted({device["name"] for device in devices if device.get("type") == "cuda"})
    if len(names) > 1:
        raise ValueError(f"speed records from {' and '.join(names)}: times of one GPU are needed in a table")
    dates = sorted(record["provenance"]["date"][:10] for record in records)
    drivers = sorted({str(device["driver"]) for device in devices if "driver" in device})
    cuda = sorted({device["cuda"] for device in devices if device.get("cuda")})
    words = [f"Measured on {names[0] if names else 'no GPU'}"]
    words += _cards(devices)
    words += [f"driver {', '.join(drivers)}"] * bool(drivers)
    words += [f"CUDA {' and '.join(cuda)}"] * bool(cuda)
    words.append(dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}")
    states = list(chain(*(_states(record["details"].get("gpu") or {}) for record in records)))
    for name, words_, unit in (
        ("sm_clock_mhz", "SM clock", "MHz"),
        ("temperature_c", "temperature", "°C"),
        ("power_w", "power", "W"),
    ):
        values = [value for state in states for value in _range(state.get(name))]
        if values:
            words.append(f"{words_} {min(values):.0f} to {max(values):.0f} {unit}")
    versions: dict[str, set[str]] = {}
    for record in records:
        packages = record["provenance"]["packages"] | (record["details"].get("packages") or {})
        for name in ("torch", "diffusers", "transformers", "flash-attn-4", "triton"):
            if packages.get(name, "missing") != "missing":
                versions.setdefault(name, set()).add(packages[name])
    words += [f"{name} {' and '.join(sorted(found))}" for name, found in versions.items()]
    commits = {record["provenance"]["code"] for record in records}
    words += [f"{len(commits)} versions of the code"] * (len(commits) > 1)
    return ", ".join(words) + "."


def _cards(devices: Iterable[Mapping[str, Any]]) -> list[str]:
    """Of how many cards the numbers are, where that is more than one; early records do not tell theirs."""
    told = [device.get("uuid") for device in devices if device.get("type") == "cuda"]
    cards, silent = len({card for card in told if card}), told.count(None)
    if cards + bool(silent) < 2:
        return []
    known = f"{cards} card{'s' * (cards != 1)}"
    return [known + f" and, of {silent} of the records, cards that they do not tell" * bool(silent)]


def _states(found: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """The GPU's states while something was timed, wherever they are; before and after it where none was seen."""
    if "during" in found and found["during"].get("looks"):
        yield found["during"]
    elif found.keys() & {"before", "after"}:
        yield from (found[name] for name in ("before", "after") if isinstance(found.get(name), Mapping))
    else:
        for below in found.values():
            if isinstance(below, Mapping):
                yield from _states(below)


def _range(value: Any) -> list[float]:
    if isinstance(value, (list, tuple)):
        return [float(value[0]), float(value[-1])]
    return [] if value is None or isinstance(value, str) else [float(value)]
