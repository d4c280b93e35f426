"""Why one row's vision reward differs from another's: the judge's answers by question, and beside them what the
testbed's instruments read from the same clips, so that a judge that is wrong shows."""

from __future__ import annotations

from types import MappingProxyType

from paper_figures.experiment import CellRows, Experiment
from paper_figures.testbed_entries import Numbers

LEAST = 0.05
"""Mean answers that differ by less, on the scale from -1 (no) to 1 (yes), are not told."""
MOST = 4
"""Questions told of each side."""
INSTRUMENTS = MappingProxyType(
    {
        "count": ("count", "count", 1),
        "colours": ("colours", "colours", 1),
        "shapes": ("shapes", "shapes", 1),
        "directions": ("directions", "directions", 1),
        "stay": ("persistence", "objects there", 1),
        "no_repeat": ("motion_repetition", "motion repeated", -1),
    }
)
"""For questions that an instrument answers, too: its column, what that is called, and 1 if more is better, else -1."""


def answers(source: Experiment, cell: CellRows) -> dict[str, float]:
    """The judge's mean answers over a cell's clips, from -1 (no) to 1 (yes), by question.

    Returns:
        Nothing where the cell was not measured, or by a judge or a version that does not tell them.

    Raises:
        ValueError: the record is missing or damaged.
    """
    if cell.failed("measure") is not None or not any(row["kind"] == "measure" for row in cell.rows):
        return {}
    return source.record(cell, "measure")["details"].get("parts", {}).get("vision_reward", {})


def sentence(source: Experiment, ours: CellRows, theirs: CellRows, words: tuple[str, str]) -> str | None:
    """At which questions one cell gains on another and at which it loses, the widest apart first.

    Args:
        words: what the two cells are called.

    Returns:
        A sentence without its end; None where the answers of one are not there, or none differ.
    """
    mine, other = answers(source, ours), answers(source, theirs)
    apart = {name: mine[name] - other[name] for name in mine if name in other}
    told = []
    for verb, sign in (("gains", 1), ("loses", -1)):
        names = sorted((name for name in apart if sign * apart[name] >= LEAST), key=lambda name: -sign * apart[name])
        if names:
            each = (f"{_word(name)} {_shown(other[name])} to {_shown(mine[name])}" for name in names[:MOST])
            told.append(f"{verb} at {', '.join(each)}")
    if not told:
        return None
    return f"of the judge's answers (means, −1 no to 1 yes), {words[0]} against {words[1]} {' and '.join(told)}"


def beside(source: Experiment, held: Numbers, ours: CellRows, theirs: CellRows, words: tuple[str, str]) -> str | None:
    """What the instruments read from the same two cells' clips, and where the judge sees it otherwise or not at all.

    Args:
        held: numbers of the cells' clips.
        words: what the two cells are called.

    Returns:
        A sentence without its end, of the instruments alone where the judge's answers of one are not there; None where
        the instruments' numbers are not.
    """
    mine, other = answers(source, ours), answers(source, theirs)
    told, against, unseen = [], [], []
    for question, (metric, name, better) in INSTRUMENTS.items():
        values = [held.of(cell, metric).values() for cell in (theirs, ours)]
        if not all(values):
            continue
        before, after = (sum(each) / len(each) for each in values)
        told.append(f"{name} {_shown(before)} to {_shown(after)}")
        if question not in mine or question not in other:
            continue
        change, judged = better * (after - before), mine[question] - other[question]
        answer = f"{_word(question)} {_shown(other[question])} to {_shown(mine[question])}"
        if abs(change) >= LEAST and abs(judged) < LEAST:
            unseen.append(answer)
        elif change * judged < 0 and min(abs(change), abs(judged)) >= LEAST:
            against.append(answer)
    if not told:
        return None
    said = f"the instruments read from the same clips, {words[0]} against {words[1]}: {', '.join(told)} (means)"
    said += f"; the judge has it the other way at {', '.join(against)}" if against else ""
    return said + (f"; the judge sees hardly any of it at {', '.join(unseen)}" if unseen else "")


def _word(question: str) -> str:
    """A question's name in a sentence."""
    return question.replace("_", " ")


def _shown(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")
