"""What the page says of an experiment, computed from its records alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from paper_figures import entries
from paper_figures.experiment import CellRows, Experiment
from paper_figures.tables import UNTRAINED, Column, Entry

CONTROL = "random"
ROW_FACTS = ("metric", "label", "value", "standard_error", "unit", "status", "reason", "footnote", "flags", "kind")
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

    Returns:
        For each model and length with any such method: ``model``, ``length``, the control's ``psnr`` in words, and
        ``methods``, the worst first: ``cell``, ``label``, ``behind`` (dB, in words), ``close``, whether the gap is
        smaller than its standard error over the clips, and ``unset``, whether the method has no density to set.
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
            if cell.method == CONTROL or is_reference(cell) or row is None or row["value"] is None:
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
            found.append({"model": model, "length": length, "psnr": psnr, "methods": methods})
    return found


def told_name(cell: CellRows) -> str:
    """A method as the page names it, with its role and tuning."""
    return entries.label(cell) + (", tuned" if cell.tuning == "tuned" else "")


def answer(members: list[CellRows]) -> dict[str, Any]:
    """The first screen's answer for a model and length.

    Contenders are methods that leave out operations and are neither control nor ablation.

    Returns:
        ``closest`` (highest PSNR), ``cheapest`` (fewest operations) and ``faithful`` (highest adherence) among the
        contenders, each with the cell and its numbers in words, or None; ``control``, the control's PSNR where it is
        higher than that of every contender, or empty; ``measured`` and ``failed``, cells counted.
    """
    contenders = []
    for cell in members:
        share = relative(cell)
        if cell.method not in entries.ROLES and share.value is not None and share.value < 99.95:
            contenders.append((cell, share, overview_entries(cell)))

    def best(key: str, sign: int) -> dict[str, str] | None:
        ranked = [row for row in contenders if row[2][key].value is not None]
        if not ranked:
            return None
        cell, share, told = max(ranked, key=lambda row: sign * row[2][key].value)
        numbers = {name: told[name].text for name in ("psnr", "adherence")}
        return {"cell": identifier(cell), "label": told_name(cell), "relative": share.text} | numbers

    scores = {cell.method: entries.comparison(cell, "psnr").value for cell in members if cell.tuning == "untuned"}
    highest = max((told["psnr"].value for _, _, told in contenders if told["psnr"].value is not None), default=None)
    control = next((cell for cell in members if cell.method == CONTROL and scores.get(CONTROL) is not None), None)
    ahead = control is not None and highest is not None and scores[CONTROL] > highest
    words = [status(cell)[0] for cell in members]
    failed = sum(word not in ("passed", "reference") for word in words)
    return {
        "closest": best("psnr", 1), "cheapest": best("relative", -1), "faithful": best("adherence", 1),
        "control": entries.measured(control, "psnr", "measure").text if ahead else "",
        "measured": len(words) - failed, "failed": failed,
    }  # fmt: skip


def told_cell(source: Experiment, cell: CellRows) -> dict[str, Any]:
    """What the dialog shows of a cell: its numbers, its records and where they come from."""
    records = []
    for kind in dict.fromkeys(row["kind"] for row in cell.rows):
        record = source.record(cell, kind)
        origin = record["provenance"]
        told = {key: origin.get(key) for key in ("command", "date", "commit", "code", "python", "system", "packages")}
        told |= {"device": origin["device"].get("name", ""), "hashes": origin["hashes"]}
        told |= {"kind": kind, "status": record["status"], "reason": record["reason"]}
        records.append(told | {"file": f"records/{identifier(cell)}/{kind}.json"})
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
