"""Cells of the testbed's tables: means with 95 % intervals, paired differences, and what follows from them in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from paper_figures import entries
from paper_figures.experiment import CellRows, Experiment
from paper_figures.intervals import Comparison, Interval, compare, interval
from paper_figures.tables import NO_BREAK, NOT_YET, UNTRAINED, Column, Entry, Group, Line, Table

MARK = "‡"
SPREAD = (
    "In brackets: 95 % bootstrap intervals (BCa) over the prompts. Δ lines: the mean difference over the same prompts "
    f"and noise, with its interval; {MARK} marks those that are significant (p below 0.05 by Fisher's randomization "
    "test, with Holm's correction over all comparisons of this table). An interval is that of its own comparison "
    "alone, so it may leave out 0 where the corrected test finds nothing."
)
SOME = "Some clips do not tell it, such as those without the object; the mean is over the others (number: CSV file)."

Place = tuple[str, str, str, str]
"""A cell's path."""
Pair = tuple[Place, Place, str]
"""Two cells and a metric."""


@dataclass(frozen=True)
class Claim:
    """What the paper found: whether it came out here (None where that is not known), and how in a sentence."""

    held: bool | None
    sentence: str


@dataclass(frozen=True)
class Numbers:
    """What every clip of some cells measured, and the comparisons that a table makes of them.

    Args:
        clips: by cell and metric, each clip's value by the clip's name.
        compared: by cells and metric, ours against theirs, all corrected as one family.
        claims: the same of the pairs whose order the paper states beforehand, a family of their own.
    """

    clips: Mapping[Place, Mapping[str, Mapping[str, float]]]
    compared: Mapping[Pair, Comparison]
    claims: Mapping[Pair, Comparison] = field(default_factory=dict)

    def of(self, cell: CellRows, metric: str) -> Mapping[str, float]:
        """A metric of a cell's clips, by their names; empty where nobody measured it."""
        return self.clips.get(cell.path, {}).get(metric, {})

    def interval(self, cell: CellRows, metric: str) -> Interval | None:
        """A metric's mean and interval over a cell's clips; None for fewer than two."""
        return interval(list(self.of(cell, metric).values()))

    def difference(self, ours: CellRows, theirs: CellRows, metric: str) -> Comparison | None:
        """Ours against theirs, whichever way round the table compared them; None where it could not."""
        return _either_way(self.compared, ours, theirs, metric)

    def claimed(self, ours: CellRows, theirs: CellRows, metric: str) -> Comparison | None:
        """The same of a pair whose order the paper states."""
        return _either_way(self.claims, ours, theirs, metric)


def _either_way(held: Mapping[Pair, Comparison], ours: CellRows, theirs: CellRows, metric: str) -> Comparison | None:
    found = held.get((ours.path, theirs.path, metric))
    if found is None and (theirs.path, ours.path, metric) in held:
        return turned(held[theirs.path, ours.path, metric])
    return found


Pairs = Iterable[tuple[CellRows, CellRows, str]]
"""Two cells and a metric, some times over."""


def gather(source: Experiment, cells: Iterable[CellRows], pairs: Pairs, claims: Pairs = ()) -> Numbers:
    """Reads the clips of cells, and compares pairs of them in a metric as one family, and ``claims`` as another.

    A pair is compared over the clips that both have numbers of; one with fewer than two such clips is left out. Two
    cells that are compared either way round are one comparison.

    Raises:
        ValueError: a record is missing or damaged.
    """
    clips = {cell.path: clip_values(source, cell) for cell in cells}
    return Numbers(clips, _family(clips, pairs), _family(clips, claims))


def _family(clips: Mapping[Place, Mapping[str, Mapping[str, float]]], pairs: Pairs) -> dict[Pair, Comparison]:
    """The comparisons of pairs, corrected together."""
    wanted: dict[Pair, tuple[list[float], list[float]]] = {}
    for ours, theirs, metric in pairs:
        if (theirs.path, ours.path, metric) in wanted:
            continue
        first, second = (clips.get(cell.path, {}).get(metric, {}) for cell in (ours, theirs))
        names = [name for name in first if name in second]
        wanted[ours.path, theirs.path, metric] = ([first[name] for name in names], [second[name] for name in names])
    return compare(wanted)


def clip_values(source: Experiment, cell: CellRows) -> dict[str, dict[str, float]]:
    """Each metric of each clip of a cell, by metric and then by the clip's name; empty where nothing was measured."""
    if cell.failed("measure") is not None or not any(row["kind"] == "measure" for row in cell.rows):
        return {}
    found: dict[str, dict[str, float]] = {}
    for clip in source.record(cell, "measure")["clips"]:
        for metric, value in clip["values"].items():
            found.setdefault(metric, {})[clip["name"]] = value
    return found


def turned(comparison: Comparison) -> Comparison:
    """The same comparison the other way round."""
    found = comparison.difference
    return Comparison(Interval(-found.mean, -found.high, -found.low, found.count), comparison.p)


def bracketed(low: float, high: float, decimals: int, sign: str = "") -> str:
    """An interval in words, on one line."""
    return f"[{_number(low, decimals, sign)},{NO_BREAK}{_number(high, decimals, sign)}]"


def _number(value: float, decimals: int, sign: str = "") -> str:
    text = f"{value:{sign}.{decimals}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def spread(found: Interval, decimals: int) -> str:
    """A mean with its interval."""
    return f"{_number(found.mean, decimals)}{NO_BREAK}{bracketed(found.low, found.high, decimals)}"


def change(found: Comparison, decimals: int) -> str:
    """A difference with its interval, marked where it is significant."""
    difference = found.difference
    text = f"{_number(difference.mean, decimals, '+')}{NO_BREAK}"
    text += bracketed(difference.low, difference.high, decimals, "+")
    return f"{text}{NO_BREAK}{MARK}" if found.significant else text


def decimals_of(cell: CellRows, metric: str) -> int:
    """Digits behind the point that a metric is shown with: at least two, for differences are small."""
    row = cell.find(metric)
    return 3 if row is None or row["decimals"] is None else max(row["decimals"], 2)


def measured(numbers: Numbers, cell: CellRows, column: Column, other: CellRows | None) -> Entry:
    """A metric of a cell with its interval, and for the CSV file its difference to another cell.

    A sentence that the column's heading says already is not repeated.
    """
    metric = column.key
    found = entries.comparison if metric in entries.COMPARISONS else _measured
    entry = found(cell, metric)
    entry = replace(entry, notes=tuple(note for note in entry.notes if note != column.note))
    held = numbers.interval(cell, metric)
    if held is not None and entry.status == "no record":  # a record has the means of what all of its clips tell
        entry = Entry("", held.mean, None, "passed")
    if held is None or entry.value is None:
        return entry
    more = {"low": held.low, "high": held.high}
    compared = None if other is None else numbers.difference(cell, other, metric)
    if compared is not None:
        difference = compared.difference
        more |= {"difference": difference.mean, "difference_low": difference.low, "difference_high": difference.high}
        more |= {"difference_p": compared.p}
    if held.count < cell.fact("clips"):
        more |= {"clips": held.count}
        entry = replace(entry, notes=(*entry.notes, SOME))
    return replace(entry, text=spread(held, decimals_of(cell, metric)), more=more)


def _measured(cell: CellRows, metric: str) -> Entry:
    return entries.measured(cell, metric, "measure")


def differences(
    numbers: Numbers, cell: CellRows, other: CellRows | None, columns: Iterable[Column], words: str
) -> tuple[Line, ...]:
    """The line of a cell's differences to another; none where there is no number in it."""
    if other is None or other.path == cell.path:
        return ()
    found = {}
    for column in columns:
        compared = numbers.difference(cell, other, column.key)
        if compared is not None and not (column.key in entries.COMPARISONS and _is_reference(cell, other)):
            found[column.key] = Entry(change(compared, decimals_of(cell, column.key)), status="passed")
    return (Line(words, found),) if found else ()


def _is_reference(*cells: CellRows) -> bool:
    """Whether any of the cells is what others are compared with: its distance to itself is no quality."""
    return any(cell.method == "dense" and cell.tuning == "untuned" for cell in cells)


def judge(source: Experiment, cells: Iterable[CellRows]) -> str:
    """The name of the judge of vision reward, of several all; empty where no record says it."""
    found = {}
    for cell in cells:
        row = cell.find("vision_reward")
        if row is not None and row["status"] == "passed":
            told = source.record(cell, "measure")["details"].get("provenance", {})
            found[told.get("vision_reward_judge", "")] = None
    return " and ".join(name for name in found if name)


def judge_column(source: Experiment, cells: Iterable[CellRows]) -> Column:
    """The column of vision reward, with the judge's name in its heading and what the judge is as its note."""
    cells = list(cells)
    rows = [row for cell in cells if (row := cell.find("vision_reward")) is not None and row["status"] == "passed"]
    notes = dict.fromkeys(row["footnote"] for row in rows if row["footnote"])
    name = judge(source, cells)
    heading = f"Vision reward, judge {name}" if name else "Vision reward"
    return Column("vision_reward", heading, "", "higher", " ".join(notes), "vision_reward")


def lpips_columns(cells: Iterable[CellRows]) -> tuple[Column, ...]:
    """LPIPS, or its untrained stand-in alone where no cell has the real one."""
    cells = list(cells)
    columns = entries.lpips_columns(cells)
    real = any((row := cell.find("lpips")) is not None and row["status"] == "passed" for cell in cells)
    return columns if real else tuple(column for column in columns if column.key == UNTRAINED) or columns


def ranking(columns: Iterable[Column]) -> list[Column]:
    """The columns that rank methods, so that differences are claimed in them: not the untrained stand-in of LPIPS."""
    return [column for column in columns if column.direction]


def clips_of(cells: Iterable[CellRows]) -> str:
    """How many clips some cells have: ``64``, or ``32 to 64``."""
    counts = sorted({cell.fact("clips") for cell in cells})
    return " to ".join(str(count) for count in counts[:: max(len(counts) - 1, 1)])


def titled(group: Group, cell: CellRows, **changes: Any) -> Group:
    """A group with the cell's variant, seed and schedule among its facts."""
    facts = {"variant": cell.variant, **{name: cell.fact(name) for name in ("seed", "steps", "dense_steps")}}
    return replace(group, facts={**group.facts, **facts}, **changes)


def sourced(group: Group, source: str, facts: Mapping[str, Any]) -> Group:
    """A group whose own line says what it is from, with more facts."""
    return replace(group, ours=replace(group.ours, source=source), facts={**group.facts, **facts})


def ordered(comparison: Comparison | None, better: int = 1) -> int | None:
    """1 where ours is significantly better, -1 where it is significantly worse, 0 where neither is shown, None unknown.

    Args:
        better: 1 where higher is better, -1 where lower is.
    """
    return None if comparison is None else better * comparison.sign


def sentence(ours: str, theirs: str, found: Comparison, decimals: int, unit: str = "", better: int = 1) -> str:
    """A comparison in words: ``radial is ahead of sta by 2.1 dB [1.8, 2.4]``."""
    sign = ordered(found, better)
    unit = f" {unit}" if unit else ""
    if sign == 0:
        told = found.difference
        held = bracketed(told.low, told.high, decimals, "+")
        return f"{ours} cannot be told from {theirs} ({_number(told.mean, decimals, '+')}{unit} {held})"
    shown = found if found.difference.mean > 0 else turned(found)
    told = shown.difference
    words = "is ahead of" if sign == 1 else "is behind"
    return f"{ours} {words} {theirs} by {_number(told.mean, decimals)}{unit} {bracketed(told.low, told.high, decimals)}"


def empty(name: str, title: str) -> Table:
    """A table of which nothing is measured yet."""
    return Table(name, title, (), (), (f"{NOT_YET.capitalize()}.",))
