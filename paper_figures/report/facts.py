"""What the page says of an experiment, computed from its records alone."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from benchmark.packed import file_of, record_text
from paper_figures import entries
from paper_figures.experiment import CellRows, Experiment
from paper_figures.tables import UNTRAINED, Column, Entry

CONTROL = "random"
REPEATED = "dense_repeated"
"""Dense attention whose sums run in another order: the noise floor."""

ROW_FACTS = (
    "metric", "label", "value", "standard_error", "unit", "status", "reason", "footnote", "flags", "kind", "decimals",
)  # fmt: skip
CELL_FACTS = ("frames", "height", "width", "budget", "knobs", "block", "steps", "dense_steps", "dense_layers", "kernel")


def identifier(cell: CellRows) -> str:
    """A cell's name on the page, and the folder of its records."""
    return "/".join(cell.path)


def budget_name(cell: CellRows) -> str:
    """A cell's density budget as the filter names it; dense attention has none."""
    budget = cell.fact("budget")
    return "none" if budget is None else f"{budget:g}"


def overview_columns(cells: Iterable[CellRows]) -> tuple[Column, ...]:
    """The columns that the first screen may have."""
    return (
        Column("psnr", "PSNR", "dB", "higher"),
        Column("ssim", "SSIM", "", "higher"),
        Column("adherence", "Adherence", "", "higher"),
        Column("relative", "Operations", "% of dense", "lower"),
        Column("density", "Density"),
        *entries.lpips_columns(cells),
        Column("latency_s", "Latency", "s", "lower"),
    )


def overview_entries(cell: CellRows) -> dict[str, Entry]:
    """A cell's entries of the first screen."""
    return {metric: entries.comparison(cell, metric) for metric in entries.COMPARISONS} | {
        "adherence": entries.measured(cell, "adherence", "measure"),
        "relative": relative(cell),
        "density": entries.density(cell),
        "latency_s": entries.latency(cell),
    }


def empty_columns(columns: Iterable[Column], told: Iterable[Mapping[str, Entry]]) -> dict[str, str]:
    """The columns in which no cell has a number, by key, each with the reasons or statuses that stand in its place."""
    found = {}
    told = list(told)
    for column in columns:
        shown = [entries_of[column.key] for entries_of in told if entries_of[column.key].status != "reference"]
        if all(entry.value is None for entry in shown):
            words = (entry.reason or f"{entry.text}." for entry in shown if entry.text)
            found[column.key] = " ".join(dict.fromkeys(words))
    return found


def relative(cell: CellRows) -> Entry:
    """Operations of a whole generation as a percentage of dense attention's."""
    found, dense = entries.measured(cell, "pflop", "generate"), cell.find("pflop_dense")
    if found.value is None or dense is None or not dense["value"]:
        return found
    share = 100 * found.value / dense["value"]
    return Entry(f"{share:.1f}", share, None, found.status, found.reason, found.notes)


def status(cell: CellRows) -> tuple[str, str]:
    """A cell's status as a whole, and the reason where it did not pass."""
    failed = cell.failed("generate") or cell.failed("measure")
    if failed is not None:
        return entries.WORDS.get(failed["status"], failed["status"]), failed["reason"] or ""
    return ("reference", "") if is_reference(cell) else ("passed", "")


def is_reference(cell: CellRows) -> bool:
    """Whether the other methods are compared with this cell's clips."""
    return cell.method == "dense" and cell.tuning == "untuned"


def by_length(cells: Iterable[CellRows]) -> dict[tuple[str, str], list[CellRows]]:
    """Cells by model and length, in the order of the records."""
    grouped: dict[tuple[str, str], list[CellRows]] = {}
    for cell in cells:
        grouped.setdefault((cell.model, cell.length), []).append(cell)
    return grouped


def beaten(cells: Iterable[CellRows]) -> list[dict[str, Any]]:
    """Where the control has a higher PSNR than a method.

    Tuned cells are left out: their weights are others, and how near they come to the untuned clip is no merit.

    Returns:
        For each model and length with any such method: ``model``, ``length``, the control's ``psnr`` in words and
        ``cell``, and ``methods``, the worst first: ``cell``, ``label``, ``behind`` (dB, in words), ``close``, whether
        the gap is smaller than its standard error over the clips, and ``unset``, whether it has no density to set.
    """
    found = []
    for (model, length), members in by_length(cells).items():
        control = next((cell for cell in members if cell.method == CONTROL and cell.tuning == "untuned"), None)
        mark = control.find("psnr") if control else None
        if mark is None or mark["value"] is None:
            continue
        losers = []
        for cell in members:
            row = cell.find("psnr")
            if cell.method in (CONTROL, REPEATED) or cell.tuning != "untuned" or is_reference(cell):
                continue
            if row is None or row["value"] is None:
                continue
            gap = mark["value"] - row["value"]
            if gap > 0:
                error = math.hypot(mark["standard_error"] or 0, row["standard_error"] or 0)
                words = f"{gap:.1f}" if gap >= 0.05 else "under 0.05"
                losers.append((gap, {"cell": identifier(cell), "label": told_name(cell), "behind": words,
                                     "close": gap < error, "unset": cell.fact("settable") is False}))  # fmt: skip
        if losers:
            methods = [loser for _, loser in sorted(losers, key=lambda pair: -pair[0])]
            psnr = entries.measured(control, "psnr", "measure").text
            found.append(
                {"model": model, "length": length, "psnr": psnr, "cell": identifier(control), "methods": methods}
            )
    return found


def told_name(cell: CellRows) -> str:
    """A method as the page names it, with its role and tuning."""
    return tuned_name(entries.label(cell), cell)


def tuned_name(label: str, cell: CellRows) -> str:
    """A method's name with its variant, or else its tuning."""
    last = cell.variant or ("tuned" if cell.tuning == "tuned" else "")
    return f"{label}, {last}" if last else label


def answer(members: list[CellRows]) -> dict[str, Any]:
    """The first screen's answer for a model and length.

    Contenders are methods that leave out operations and are neither control nor ablation.

    Returns:
        ``closest`` (highest PSNR of those untuned), ``cheapest`` (fewest operations) and ``faithful`` (highest
        adherence) among the contenders, each with the cell and its numbers in words, or None, and ``near``, how many
        other contenders are behind by less than the standard error of the difference over the clips; ``control``, the
        control's PSNR where it is higher than that of every contender, or empty; ``measured`` and ``failed``, cells
        counted.
    """
    contenders = []
    for cell in members:
        share = relative(cell)
        if cell.method not in entries.ROLES and share.value is not None and share.value < 99.95:
            contenders.append((cell, share, overview_entries(cell)))

    def best(key: str, sign: int) -> dict[str, str] | None:
        ranked = [row for row in contenders if row[2][key].value is not None]
        if key == "psnr":  # other weights draw other clips
            ranked = [row for row in ranked if row[0].tuning == "untuned"]
        if not ranked:
            return None
        cell, share, told = max(ranked, key=lambda row: sign * row[2][key].value)
        numbers = {name: told[name].text for name in ("psnr", "adherence")}
        near = sum(
            abs(other[key].value - told[key].value) < _error(cell, one, key)
            for one, _, other in ranked
            if one is not cell
        )
        return {"cell": identifier(cell), "label": told_name(cell), "relative": share.text, "near": near} | numbers

    scores = {cell.method: entries.comparison(cell, "psnr").value for cell in members if cell.tuning == "untuned"}
    untuned = (told["psnr"].value for cell, _, told in contenders if cell.tuning == "untuned")
    highest = max((value for value in untuned if value is not None), default=None)
    control = next((cell for cell in members if cell.method == CONTROL and scores.get(CONTROL) is not None), None)
    ahead = control is not None and highest is not None and scores[CONTROL] > highest
    words = [status(cell)[0] for cell in members]
    failed = sum(word not in ("passed", "reference") for word in words)
    return {
        "closest": best("psnr", 1), "cheapest": best("relative", -1), "faithful": best("adherence", 1),
        "control": entries.measured(control, "psnr", "measure").text if ahead else "",
        "control_cell": identifier(control) if ahead else "",
        "measured": len(words) - failed, "failed": failed,
    }  # fmt: skip


def _error(one: CellRows, other: CellRows, metric: str) -> float:
    """Standard error of two cells' difference in a metric as if their clips were independent; 0 where it has none."""
    rows = (cell.find(metric) for cell in (one, other))
    return math.hypot(*((row["standard_error"] or 0) if row is not None else 0 for row in rows))


def controls(cells: Iterable[CellRows]) -> list[dict[str, Any]]:
    """What each model and length says of the benchmark itself: dense against itself, dense repeated, and random.

    Returns:
        For each model and length with clips that were measured: ``dense``, ``floor`` and ``random``, each with the
        ``cell`` or None, ``words`` for the reader and ``fine``, which is None where there is no record to tell;
        ``floor`` has ``psnr`` and ``ssim`` in words, or None; ``random`` has ``beaten``, as ``beaten`` has ``methods``;
        ``within``, the methods whose PSNR reaches that of dense repeated: ``cell`` and ``label``.
    """
    grouped = {
        place: members
        for place, members in by_length(cells).items()
        if any(row["kind"] == "measure" for cell in members for row in cell.rows)
    }
    losers = {
        (one["model"], one["length"]): one["methods"]
        for one in beaten(cell for members in grouped.values() for cell in members)
    }
    return [
        {
            "model": model,
            "length": length,
            "dense": _dense_itself(members),
            "random": _control(members) | {"beaten": losers.get((model, length), [])},
            **_floor(members),
        }
        for (model, length), members in grouped.items()
    ]


def _untuned(members: Iterable[CellRows], method: str) -> CellRows | None:
    return next((cell for cell in members if cell.method == method and cell.tuning == "untuned"), None)


def _unmeasured(cell: CellRows | None, method: str) -> dict[str, Any]:
    if cell is None:
        return {"cell": None, "fine": None, "words": f"{method} was not run"}
    word, reason = status(cell)
    word = "no number" if word in ("passed", "reference") else word
    return {"cell": identifier(cell), "fine": False, "words": f"{word}{f': {reason}' if reason else ''}"}


def _value(cell: CellRows | None, metric: str) -> float | None:
    row = cell.find(metric) if cell else None
    return row["value"] if row else None


def _dense_itself(members: list[CellRows]) -> dict[str, Any]:
    """Whether the dense clips, measured against themselves, equal themselves in every frame."""
    cell = _untuned(members, "dense")
    psnr = _value(cell, "psnr")
    if psnr is None:
        return _unmeasured(cell, "dense")
    frames = cell.fact("frames") * cell.fact("clips")
    same = json.loads(cell.find("psnr")["flags"] or "{}").get("psnr_capped", 0)
    words = f"identical in all {frames} frames" if same == frames else f"{frames - same} of {frames} frames differ"
    return {"cell": identifier(cell), "fine": same == frames, "words": words}


def _floor(members: list[CellRows]) -> dict[str, Any]:
    cell = _untuned(members, REPEATED)
    psnr = _value(cell, "psnr")
    if psnr is None:
        return {"floor": _unmeasured(cell, REPEATED) | {"psnr": None, "ssim": None}, "within": []}
    ssim = _value(cell, "ssim")  # so near to 1 that it needs more digits than tables have
    told = {"psnr": entries.measured(cell, "psnr", "measure").text, "ssim": "none" if ssim is None else f"{ssim:.4f}"}
    within = [
        {"cell": identifier(other), "label": told_name(other)}
        for other in members
        if other.method != REPEATED and not is_reference(other)
        and (_value(other, "psnr") or -math.inf) >= psnr
    ]  # fmt: skip
    floor = {"cell": identifier(cell), "fine": True, "words": f"PSNR {told['psnr']} dB, SSIM {told['ssim']}"}
    return {"floor": floor | told, "within": within}


def _control(members: list[CellRows]) -> dict[str, Any]:
    cell = _untuned(members, CONTROL)
    if _value(cell, "psnr") is None:
        return _unmeasured(cell, CONTROL)
    words = f"PSNR {entries.measured(cell, 'psnr', 'measure').text} dB"
    return {"cell": identifier(cell), "fine": True, "words": words}


def amiss(told: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is wrong with the controls, a sentence each with the cell that it is about or None; empty where nothing is.

    That ``random`` beats methods is said in a warning of its own. Where ``dense_repeated`` was not run, the panel of
    the controls says so; that spoils no number.
    """
    found = []
    for one in told:
        where = f"{one['model']} at {one['length']}"
        for name, key in (("dense against itself", "dense"), ("the random control", "random"),
                          ("dense repeated", "floor")):  # fmt: skip
            if one[key]["fine"] is False or (one[key]["fine"] is None and key != "floor"):
                words = f"{where}, {name}: {one[key]['words']}."
                found.append({"cell": one[key]["cell"], "model": one["model"], "length": one["length"], "words": words})
    return found


def told_cell(source: Experiment, cell: CellRows) -> dict[str, Any]:
    """What the dialog shows of a cell: its numbers and its records, each as the text of its file."""
    records = []
    for kind in dict.fromkeys(row["kind"] for row in cell.rows):
        source.record(cell, kind)  # refuses one that is damaged
        path = source.folder / f"records/{identifier(cell)}/{kind}.json"
        file = file_of(path).relative_to(source.folder).as_posix()
        records.append({"kind": kind, "file": file, "text": record_text(path)})
    return {
        "model": cell.model, "length": cell.length, "method": cell.method, "tuning": cell.tuning,
        "budget": budget_name(cell), "label": told_name(cell), "status": status(cell)[0], "reason": status(cell)[1],
        "settings": {name: cell.fact(name) for name in CELL_FACTS},
        "rows": [{name: row[name] for name in ROW_FACTS} for row in cell.rows],
        "records": records,
    }  # fmt: skip


def origins(cells: Iterable[CellRows]) -> dict[str, list[str]]:
    """Commits, versions of the code, devices and days that the records come from."""
    rows = [row for cell in cells for row in cell.rows]
    found = {name: sorted({str(row[name]) for row in rows if row[name]}) for name in ("commit", "code", "device")}
    days = sorted({str(row["date"])[:10] for row in rows if row["date"]})
    return found | {"days": days[:1] + days[-1:] if len(days) > 1 else days}


def untrained_note(cells: Iterable[CellRows]) -> str:
    """The sentence that must stand wherever the untrained stand-in of LPIPS is shown; empty where it is not."""
    for cell in cells:
        row = cell.find(UNTRAINED)
        if row is not None:
            return row["footnote"] or ""
    return ""
