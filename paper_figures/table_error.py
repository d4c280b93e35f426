"""The output error of every mask: how far its attention output lies from dense attention's, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmark.records import read_record
from benchmark.tolerance import CONTROL
from paper_figures.entries import ROLES, without
from paper_figures.experiment import Experiment
from paper_figures.intervals import LEVEL, Comparison, Interval, compare, interval
from paper_figures.tables import NO_BREAK, Block, Column, Entry, Group, Line, Table, write
from paper_figures.testbed import Testbed
from paper_figures.testbed_entries import MARK, change, spread, turned

READS = "experiment and testbed"
NAME, TITLE = "table_error", "Output error. Attention under each mask against dense attention"
BASELINE = "radial"
PUBLISHED = {"radial": "3.9e-3", "svg": "4.4e-3", "sta": "1.5e-2"}
"""Mean squared errors that the paper prints, for Wan2.1-14B; its order is this one."""
PUBLISHED_MODEL = "Wan2.1-14B"
NOT_YET = "Not measured yet: there are no records of output errors."
MSE_NOTE = (
    "Mean squared error of the attention output against that of dense attention on the same queries, keys and values, "
    "over tokens, heads and channels, and over all layers and the recorded steps of dense passes: no error reaches the "
    "next layer or step. It grows with the square of the values, so that models can't be compared in it."
)
RELATIVE_NOTE = (
    "The same over the mean square of the dense output, taken in each layer, step and prompt, then averaged."
)
LAYERS_NOTE = "The relative error of the layer with the least and of the one with the most."
COMMON_NOTE = (
    "Share of the relative error that remains when the error is averaged over the tokens of each frame: what they all "
    "have in common. The rest differs from token to token, so that later layers, which mix tokens, can average it out."
)
CHANGE_NOTE = f"Difference of the relative error to {BASELINE}'s, in percentage points over the same prompts."
SPREAD = (
    "In brackets: 95 % bootstrap intervals (BCa) over the prompts, which few prompts make no more than a range. "
    f"{MARK} marks differences that are significant (p below {LEVEL} by Fisher's randomization test, with Holm's "
    "correction over all comparisons of a block)."
)
FLOOR_NOTE = "The noise floor: dense attention with its sums in another order."


def columns() -> tuple[Column, ...]:
    """The columns, in the order of the table."""
    return (
        Column("rank", "Rank"),
        Column("mse", "MSE", "", "lower", MSE_NOTE, "mse"),
        Column("relative", "Relative error", "%", "lower", RELATIVE_NOTE),
        Column("common", "of it common to a frame", "%", "", COMMON_NOTE),
        Column("layers", "in layers", "%", "", LAYERS_NOTE),
        Column("difference", f"Δ to {BASELINE}", "points", "lower", CHANGE_NOTE),
        Column("density", "Density"),
    )


def errors(folder: Path) -> list[dict[str, Any]]:
    """The records in ``output_error`` of a folder of results, by the model's name; perhaps none.

    Raises:
        ValueError: one is damaged.
    """
    return [read_record(path) for path in sorted((folder / "output_error").glob("*.json"))]


def power(value: float, digits: int = 1) -> str:
    """A number as the paper prints errors, such as 3.9e-3."""
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def passed(record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What a record says of the methods with numbers, the least error first."""
    methods = record["details"]["methods"]
    found = {name: told for name, told in methods.items() if told["status"] == "passed"}
    return dict(sorted(found.items(), key=lambda item: record["values"][f"{item[0]}_mse"]))


def percent(told: Mapping[str, Any], over: str) -> list[float]:
    """Relative errors in percent, over ``prompts``, ``layers`` or ``steps``."""
    return [100 * value for value in told["relative"][over]]


def common_share(told: Mapping[str, Any]) -> float | None:
    """How much of a method's relative error the tokens of a frame have in common, in percent; None where there is no
    error, or the record is older than this number."""
    total = sum(told["relative"]["prompts"])
    return 100 * sum(told["common"]["prompts"]) / total if total and "common" in told else None


def comparisons(found: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, str], Comparison]:
    """Relative errors in percent, one method against another, corrected together: all against radial, and those of the
    paper's order among each other."""
    pairs = [(name, BASELINE) for name in found if name not in (BASELINE, CONTROL) and BASELINE in found]
    pairs += [pair for pair in ordered_pairs(found) if BASELINE not in pair]
    return compare({pair: tuple(percent(found[name], "prompts") for name in pair) for pair in pairs})


def ordered_pairs(found: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of methods in the paper's order, the lesser error first."""
    order = [name for name in PUBLISHED if name in found]
    return [(less, more) for number, less in enumerate(order) for more in order[number + 1 :]]


def ours(
    record: Mapping[str, Any],
    name: str,
    told: Mapping[str, Any],
    rank: int | None,
    compared: Mapping[tuple[str, str], Comparison],
) -> dict[str, Entry]:
    """A method's line."""
    if told["status"] != "passed":
        return {"mse": without(told["status"], told["reason"])}
    of_prompts, layers = percent(told, "prompts"), percent(told, "layers")
    mse, held = interval(told["mse"]["prompts"]), interval(of_prompts)
    value, mean = record["values"][f"{name}_mse"], sum(of_prompts) / len(of_prompts)
    show = power if name == CONTROL else "{:.2f}".format  # the floor is far below the digits of the rest
    text = show(mean) if name == CONTROL or held is None else spread(held, 2)
    found = {
        "mse": Entry(power(value) if mse is None else _spread(mse), value, None, "passed", more=_ends(mse)),
        "relative": Entry(text, mean, None, "passed", more=_ends(held)),
        "layers": Entry(
            f"{show(min(layers))}{NO_BREAK}to{NO_BREAK}{show(max(layers))}", None, None, "passed",
            more={"least": min(layers), "most": max(layers)},
        ),
        "density": Entry(f"{told['density']:.3f}", told["density"], None, "passed"),
    }  # fmt: skip
    common = common_share(told)
    if common is not None:
        found["common"] = Entry(f"{common:.0f}" if common >= 9.5 else f"{common:.1f}", common, None, "passed")
    if rank is not None:
        found["rank"] = Entry(str(rank), rank, None, "passed")
    comparison = compared.get((name, BASELINE))
    if comparison is not None:
        more = _ends(comparison.difference) | {"p": comparison.p}
        found["difference"] = Entry(change(comparison, 2), comparison.difference.mean, None, "passed", more=more)
    return found


def _spread(found: Interval) -> str:
    """A mean squared error with its interval."""
    return f"{power(found.mean)}{NO_BREAK}[{power(found.low)},{NO_BREAK}{power(found.high)}]"


def _ends(found: Interval | None) -> dict[str, float]:
    return {} if found is None else {"low": found.low, "high": found.high}


def block(record: Mapping[str, Any]) -> Block:
    """The lines of a record: the methods by their error, the noise floor, and those without a number."""
    cell, methods, found = record["cell"], record["details"]["methods"], passed(record)
    compared = comparisons(found)
    ranked = [name for name in found if name != CONTROL]
    rest = [name for name in methods if name not in ranked]
    names = [*ranked, *sorted(rest, key=lambda name: name not in found)]
    shared = ("experiment", "model", "length", "frames", "height", "width", "budget", "block", "steps", "dense_steps")
    groups = []
    for name in names:
        told, role = methods[name], ROLES.get(name)
        rank = ranked.index(name) + 1 if name in ranked else None
        facts = {key: "" if cell[key] is None else cell[key] for key in shared}
        facts |= {"prompts": len(cell["seeds"]), "method": name, "title": told["title"]}
        printed = PUBLISHED.get(name)
        lines = ()
        if printed:
            source = f"published, {PUBLISHED_MODEL}, other model"
            lines = (Line(source, {"mse": Entry(printed, status="published")}, {"mse": printed}, PUBLISHED_MODEL),)
        label = f"{told['title']} ({role})" if role else told["title"]
        line = Line("ours", ours(record, name, told, rank, compared))
        groups.append(Group(label, line, lines, facts, (FLOOR_NOTE,) if name == CONTROL else ()))
    return Block(heading(record), tuple(groups))


def heading(record: Mapping[str, Any]) -> str:
    """What a record is of, in words."""
    cell, details = record["cell"], record["details"]
    budget = "own knobs" if cell["budget"] is None else f"density budget {cell['budget']}"
    steps = ", ".join(map(str, details["steps_recorded"]))
    return (
        f"{cell['model']} at {cell['length']}: {cell['frames']} frames of {cell['height']}x{cell['width']}, {budget}, "
        f"blocks of {cell['block']}; {_count(cell['seeds'], 'prompt')}, steps {steps} of {cell['steps']} "
        f"({cell['dense_steps']} dense ones left out), {len(details['energy']['layers'])} layers of {details['heads']} "
        "heads"
    )


def _count(items: list, word: str) -> str:
    return f"1 {word}" if len(items) == 1 else f"{len(items)} {word}s"


def verdict(record: Mapping[str, Any]) -> str:
    """Whether the paper's order of errors came out, computed from a record."""
    cell, found = record["cell"], passed(record)
    where = f"{cell['model']} at {cell['length']}"
    order = [name for name in found if name in PUBLISHED]
    printed = " < ".join(f"{name} {value}" for name, value in PUBLISHED.items())
    claim = f"The paper's order of MSE ({printed} on {PUBLISHED_MODEL}, published) on {where}"
    if len(order) < 2:
        return f"{claim}: not tested, for fewer than two of these methods have a number."
    wanted = [name for name in PUBLISHED if name in order]
    came = "came out" if order == wanted else "did not come out"
    values = record["values"]
    held = " < ".join(f"{name} {power(values[f'{name}_mse'])}" for name in order)
    compared, pairs = comparisons(found), []
    for less, more in ordered_pairs(found):
        places = _places(found[less], found[more])
        comparison = compared.get((less, more))
        if comparison is None and (more, less) in compared:
            comparison = turned(compared[more, less])
        words = f"{less} is below {more} in {sum(places)} of {len(places)} layers and steps"
        pairs.append(words if comparison is None else f"{words} (relative error {change(comparison, 2)} points)")
    said = f"{claim} {came}: {held}. In MSE {'; '.join(pairs)}."
    # Of all patterns of signs, two are as extreme as can be.
    least = 2 * len(compared) / 2 ** len(cell["seeds"])
    few = f" With {_count(cell['seeds'], 'prompt')} no difference can be significant."
    return said + few * (least >= LEVEL)


def _places(less: Mapping[str, Any], more: Mapping[str, Any]) -> list[bool]:
    """In which layers and steps the one error is below the other, prompts averaged."""
    rows = zip(less["mse"]["places"], more["mse"]["places"], strict=True)
    return [a < b for one, other in rows for a, b in zip(one, other, strict=True)]


def table(records: Iterable[Mapping[str, Any]]) -> Table:
    """The table of some records, one block each."""
    records = list(records)
    if not records:
        return Table(NAME, TITLE, (), (), (NOT_YET,))
    devices = sorted({record["provenance"]["device"]["name"] for record in records})
    remarks = (*map(verdict, records), SPREAD, f"Measured on {'; '.join(devices)}.")
    return Table(NAME, TITLE, columns(), tuple(map(block, records)), remarks)


def make(source: Experiment, out: Path, testbed: Testbed | None = None) -> list[Path]:
    """Writes the table: an experiment's errors, and those of the quality experiments below. Returns its files."""
    sources = [source] if testbed is None else [source, testbed.experiment]
    folders = dict.fromkeys(one.folder.resolve() for one in sources)
    return write(table(record for folder in folders for record in errors(folder)), out)
