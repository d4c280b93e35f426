"""Why one row's vision reward differs from another's: the judge's answers by question, as the records have them."""

from __future__ import annotations

from paper_figures.experiment import CellRows, Experiment

LEAST = 0.05
"""Mean answers that differ by less, on the scale from -1 (no) to 1 (yes), are not told."""
MOST = 4
"""Questions told of each side."""


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


def _word(question: str) -> str:
    """A question's name in a sentence."""
    return question.replace("_", " ")


def _shown(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")
