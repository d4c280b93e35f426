"""Ablations A to D on the trained testbed: what they share. Each is a table, and a figure with the paper's curve.

An ablation varies one thing and compares every row with the paper's choice, clip by clip. Rows of one series take equal
operations, as in the paper, and are compared with each other; series are settings of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.tolerance import CONTROL
from paper_figures import entries, published
from paper_figures import testbed_entries as cells_of
from paper_figures.experiment import CellRows, Experiment
from paper_figures.intervals import Comparison
from paper_figures.published import Published
from paper_figures.tables import Block, Column, Entry, Group, Line, Table, write
from paper_figures.testbed_entries import Numbers

if TYPE_CHECKING:
    from paper_figures.testbed import Testbed

MASK, DENSE_STEPS, DENSE_LAYERS = "mask", "dense_steps", "dense_layers_in_training"
"""What an ablation varies, as ``published/ablations.csv`` names it."""
PAPER_STEPS = 50
"""Denoising steps of the paper's models."""
MASKS = {"harmonic_series": "harmonic", "radial": "radial"}
"""The published names of ablation A's masks, and the methods that they are here."""
COMPARED, JUDGED = ("psnr", "ssim"), ("vision_reward",)
UNITS = {"psnr": "dB"}
NAMES = entries.NAMES | {"vision_reward": "vision reward"}
DIGITS = {"psnr": 2}
EQUAL = 0.05
"""Rows whose operations differ by more than this share are no series of equal operations."""
NOT_RUN = "not run here"


@dataclass(frozen=True)
class Ablation:
    """An ablation of the paper.

    Args:
        letter: A to D.
        title: what it varies, in words.
        varies: ``MASK``, ``DENSE_STEPS`` or ``DENSE_LAYERS``.
        methods: the methods that it compares.
        metrics: what its figure shows; the first one carries the claim.
        more: gives the sentences that go below its table and no other's.
        by_share: whether dense steps are compared with the paper's by their share of all steps, not by their number.
    """

    letter: str
    title: str
    varies: str
    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    more: Callable[[], Iterable[str]] = tuple
    by_share: bool = False

    @property
    def name(self) -> str:
        """Of its files, and what stands under ``for`` in the configuration."""
        return f"ablation_{self.letter.lower()}"


@dataclass(frozen=True)
class Row:
    """A cell of an ablation.

    Args:
        cell: its rows.
        value: what is varied: a method, or how many steps or layers are dense.
        place: the same so that it can be held against the paper's: a method, a number, or the share of all steps in %.
    """

    cell: CellRows
    value: str | int
    place: str | float


@dataclass(frozen=True)
class Series:
    """Rows that are compared with each other.

    Args:
        words: what sets them apart from other series; empty where there is one.
        rows: in the order of what is varied.
    """

    words: str
    rows: tuple[Row, ...]

    def find(self, place: str | float | None) -> Row | None:
        """The row at a place; None where there is none."""
        return next((row for row in self.rows if row.place == place), None)


# --- The paper's ---------------------------------------------------------------------------------------------------


def paper(ablation: Ablation) -> list[Published]:
    """The published rows of an ablation, in the paper's order."""
    return [row for row in published.rows("ablations") if row.cells["table"] == ablation.letter]


def paper_place(ablation: Ablation, row: Published) -> str | float:
    """Where a published row stands among ours, as ``Row.place``."""
    value = row.cells["value"]
    if ablation.varies == MASK:
        return MASKS[value]
    return _share(int(value), PAPER_STEPS) if ablation.by_share else float(value)


def choice(ablation: Ablation) -> str | float:
    """The place of the paper's choice: its best row in the metric that carries the claim."""
    return paper_place(ablation, max(paper(ablation), key=lambda row: row.number(ablation.metrics[0])))


def _share(count: int, total: int) -> float:
    return round(100 * count / total, 6)


# --- Ours ----------------------------------------------------------------------------------------------------------


def row_of(ablation: Ablation, source: Experiment, cell: CellRows) -> Row:
    """A cell and what its ablation varies of it.

    Raises:
        ValueError: its record is missing or damaged, or it is not tuned where tuning is what is varied.
    """
    if ablation.varies == MASK:
        return Row(cell, cell.method, cell.method)
    if ablation.varies == DENSE_STEPS:
        steps = cell.fact("dense_steps")
        return Row(cell, steps, _share(steps, cell.fact("steps")) if ablation.by_share else float(steps))
    settings = source.record(cell, cell.rows[0]["kind"])["cell"].get("tuning_settings") or {}
    if "dense_layers" not in settings:
        raise ValueError(f"{'/'.join(cell.path)}: not tuned; ablation {ablation.letter} varies the tuning")
    return Row(cell, settings["dense_layers"], float(settings["dense_layers"]))


def series(ablation: Ablation, source: Testbed) -> list[Series]:
    """The series of an ablation; empty where nothing is measured.

    Masks are compared at one setting, which is a variant. Other rows are compared where model, length, seed and tuning
    are the same and, if a value comes more than once, where operations are.
    """
    cells = [cell for cell in source.cells(ablation.name) if cell.method in ablation.methods]
    grouped: dict[tuple, list[Row]] = {}
    for cell in cells:
        key: tuple = (cell.model, cell.length, cell.fact("seed"), cell.tuning)
        key += (cell.variant,) if ablation.varies == MASK else ()
        grouped.setdefault(key, []).append(row_of(ablation, source.experiment, cell))
    parts = [part for rows in grouped.values() for part in _split(rows)]
    several = len(parts) > 1
    found = []
    for rows in parts:
        rows.sort(key=lambda row: (str(row.place) if ablation.varies == MASK else row.place, row.cell.variant))
        found.append(Series(_words(ablation, rows) if several else "", tuple(rows)))
    return found


def _split(rows: list[Row]) -> list[list[Row]]:
    """Rows of equal operations each, where a value comes more than once; rows without a count go with the first."""
    if len({row.value for row in rows}) == len(rows):
        return [rows]
    parts: list[list[Row]] = [[]]
    highest = None
    for row in sorted(rows, key=lambda row: operations(row) or 0.0):
        count = operations(row)
        if count is not None and (highest is None or count > highest):
            parts += [[]] if highest is not None else []
            highest = count * (1 + EQUAL)
        parts[-1].append(row)
    return parts


def operations(row: Row) -> float | None:
    """PFLOP of a generation of one clip; None where they were not counted."""
    found = row.cell.find("pflop")
    return found["value"] if found is not None and found["status"] == "passed" else None


def _words(ablation: Ablation, rows: list[Row]) -> str:
    """What sets a series apart."""
    first = rows[0].cell
    if ablation.varies == MASK:
        budget, steps = first.fact("budget"), f"{first.fact('dense_steps')} of {first.fact('steps')} steps dense"
        return f"density {budget}, {steps}" if budget is not None else steps
    counts = [count for row in rows if (count := operations(row)) is not None]
    tuned = f"{first.length}, {first.tuning}"
    return f"{tuned}, {entries.significant(sum(counts) / len(counts))} PFLOP" if counts else tuned


def total(ablation: Ablation, cell: CellRows) -> int | None:
    """All steps, or all layers, of which some are dense; None for masks, and for a model that is not known here."""
    if ablation.varies == DENSE_STEPS:
        return cell.fact("steps")
    return layers(cell.model) if ablation.varies == DENSE_LAYERS else None


def layers(model: str) -> int | None:
    """Layers of a model by its name here or in the paper; None where it is not known."""
    from benchmark import models

    specs = [models.get(name) for name in models.names()]
    return next((spec.layers for spec in specs if model in (spec.name, spec.paper_name)), None)


def label(ablation: Ablation, value: str | int, of: int | None) -> str:
    """A row as the table names it."""
    if ablation.varies == MASK:
        return str(value).capitalize()
    noun = {DENSE_STEPS: "steps", DENSE_LAYERS: "layers"}[ablation.varies]
    return f"{value} of {of} {noun} dense" if of is not None else f"{value} {noun} dense"


def row_label(ablation: Ablation, row: Row) -> str:
    """One of our rows as the table names it."""
    return label(ablation, row.value, total(ablation, row.cell))


def paper_label(ablation: Ablation, row: Published) -> str:
    """A published row as the table names it."""
    if ablation.varies == MASK:
        return label(ablation, MASKS[row.cells["value"]], None)
    of = PAPER_STEPS if ablation.varies == DENSE_STEPS else layers(row.model)
    return label(ablation, int(row.cells["value"]), of)


def in_sentence(text: str) -> str:
    """A row's label within a sentence."""
    return text[:1].lower() + text[1:]


# --- The table -----------------------------------------------------------------------------------------------------


def columns(ablation: Ablation, source: Testbed, cells: list[CellRows]) -> tuple[Column, ...]:
    """The columns. Tuned clips have no PSNR: tuning is there to leave the untuned dense clips behind."""
    judged = cells_of.judge_column(source.experiment, cells)
    quality = (judged, Column("adherence", "Adherence", "", "higher"))
    if ablation.metrics == COMPARED:
        near = (Column("psnr", "PSNR", "dB", "higher", "", "psnr"), Column("ssim", "SSIM", "", "higher", "", "ssim"))
        quality = (*near, *entries.lpips_columns(cells), *quality)
    tuning = (Column("tuning_pairs", "Pairs in tuning"),) if ablation.varies == DENSE_LAYERS else ()
    return (*quality, Column("density", "Density"), *tuning, Column("pflop", "PFLOP"))


def measures(shown: Iterable[Column]) -> list[Column]:
    """The columns that are means over clips."""
    return [column for column in shown if column.key not in ("density", "tuning_pairs", "pflop")]


def baseline(ablation: Ablation, one: Series) -> Row | None:
    """The row of the paper's choice; None where it was not run."""
    return one.find(choice(ablation))


def numbers(ablation: Ablation, source: Testbed, parts: list[Series], shown: Iterable[Column]) -> Numbers:
    """All clips' numbers, and as one family each row's differences to the paper's choice and to the best row."""
    compared = measures(shown)
    cells = [row.cell for one in parts for row in one.rows]
    ranking = cells_of.ranking(compared)
    alone = cells_of.gather(source.experiment, cells, ())
    pairs = []
    for one in parts:
        chosen, top = baseline(ablation, one), best(ablation, alone, one)
        if chosen is not None:
            pairs += [(row.cell, chosen.cell, col.key) for row in one.rows if row is not chosen for col in ranking]
        elif top is not None:
            pairs += [(row.cell, top.cell, ablation.metrics[0]) for row in one.rows if row is not top]
    return cells_of.gather(source.experiment, cells, pairs)


def best(ablation: Ablation, held: Numbers, one: Series) -> Row | None:
    """The row with the best mean in the metric that carries the claim; None where fewer than two have one."""
    means = {}
    for row in one.rows:
        values = held.of(row.cell, ablation.metrics[0]).values()
        if len(values) >= 2:
            means[row.cell.path] = (sum(values) / len(values), row)
    return max(means.values(), key=lambda found: found[0])[1] if len(means) >= 2 else None


def tuning_pairs(row: Row) -> Entry:
    """Share of the query-key pairs that tuning executes over all layers, of which some are dense."""
    held, count = row.cell.find("density"), layers(row.cell.model)
    if held is None or held["status"] != "passed" or count is None:
        return Entry()
    value = (row.value + (count - row.value) * held["value"]) / count
    return Entry(f"{value:.3f}", value, None, "passed")


def group(
    ablation: Ablation, held: Numbers, row: Row, chosen: Row | None, shown: tuple[Column, ...], beside: list[Published]
) -> Group:
    """Our line of a row, its difference to the paper's choice, and the published lines of the same place."""
    other = chosen.cell if chosen is not None and chosen is not row else None
    ours = {column.key: cells_of.measured(held, row.cell, column, other) for column in measures(shown)}
    ours |= {"density": entries.density(row.cell), "pflop": entries.operations(row.cell)}
    if ablation.varies == DENSE_LAYERS:
        ours["tuning_pairs"] = tuning_pairs(row)
    made = entries.group(row.cell, shown, ours, beside)
    words = f"Δ to {in_sentence(row_label(ablation, chosen))}" if chosen is not None else ""
    below = cells_of.differences(held, row.cell, other, measures(shown), words)
    made = cells_of.titled(made, row.cell, label=row_label(ablation, row), below=below)
    return cells_of.sourced(made, made.ours.source, {"varied": ablation.varies, "value": row.value})


def not_run(ablation: Ablation, cell: CellRows, told: Published, shown: tuple[Column, ...]) -> Group:
    """A published row that has no counterpart here."""
    facts = {"varied": ablation.varies, "value": "", "published_value": told.cells["value"]}
    line = entries.published_line(cell, told, shown)
    return Group(paper_label(ablation, told), Line(NOT_RUN, {}), (line,), facts)


def block(ablation: Ablation, held: Numbers, one: Series, shown: tuple[Column, ...]) -> Block:
    """A series: rows in the order of what is varied, ours and the paper's."""
    told, chosen = paper(ablation), baseline(ablation, one)
    places = {row.place for row in one.rows}
    made = []
    for row in one.rows:
        beside = [other for other in told if paper_place(ablation, other) == row.place]
        found = group(ablation, held, row, chosen, shown, beside)
        value = beside[0].cells["value"] if beside else ""
        made.append((row.place, replace(found, facts={**found.facts, "published_value": value})))
    for other in told:
        place = paper_place(ablation, other)
        if place not in places:
            made.append((place, not_run(ablation, one.rows[0].cell, other, shown)))
    if ablation.varies != MASK:
        made.sort(key=lambda found: found[0])
    return Block(heading(ablation, one), tuple(found for _, found in made))


def heading(ablation: Ablation, one: Series) -> str:
    """How the rows of a series were made."""
    first = one.rows[0].cell
    fact = first.fact
    said = (
        f"{first.model} at {first.length}: {fact('frames')} frames of {fact('height')}x{fact('width')}, "
        f"{fact('clips')} clips, {fact('steps')} steps"
    )
    if ablation.varies != DENSE_STEPS:
        said += f" of which {fact('dense_steps')} dense"
    drawn = sorted({row.cell.fact("dense_layers") for row in one.rows})
    said += f", {' to '.join(map(str, {drawn[0]: 0, drawn[-1]: 0}))} dense layers, blocks of {fact('block')}"
    budgets = sorted({row.cell.fact("budget") for row in one.rows if row.cell.fact("budget") is not None})
    if budgets:
        said += f", density budget {' to '.join(f'{budget:g}' for budget in dict.fromkeys((budgets[0], budgets[-1])))}"
    tuned = ", tuned" if first.tuning == "tuned" else ""
    return f"{said}{tuned}, seed {fact('seed')}"


# --- What came out -------------------------------------------------------------------------------------------------


def verdicts(ablation: Ablation, held: Numbers, parts: list[Series]) -> list[str]:
    """Whether the paper's choice is the best row here, too, in sentences from the records."""
    told = [verdict(ablation, held, one) for one in parts]
    known = [outcome for outcome, _ in told if outcome is not None]
    metric = NAMES[ablation.metrics[0]]
    chosen = next(row for row in paper(ablation) if paper_place(ablation, row) == choice(ablation))
    first = (
        f"The paper's ablation {ablation.letter} finds {in_sentence(paper_label(ablation, chosen))} best in {metric}"
    )
    if not known:
        return [f"{first}. Whether it is here cannot be judged yet.", *(words for _, words in told)]
    count = f"{sum(known)} of {len(known)} settings" if len(known) > 1 else ("it is so" if known[0] else "it is not so")
    words = f"here that is so in {count}" if len(known) > 1 else f"here {count}"
    return [f"{first}; {words}.", *(words for _, words in told)]


def verdict(ablation: Ablation, held: Numbers, one: Series) -> tuple[bool | None, str]:
    """Whether the paper's choice has the best mean of a series, and a sentence.

    It is not known, None, where a row that might be better has no number.
    """
    metric = ablation.metrics[0]
    name, unit, digits = NAMES[metric], UNITS.get(metric, ""), DIGITS.get(metric, 3)
    where = f"At {one.words}: " if one.words else ""
    chosen, top = baseline(ablation, one), best(ablation, held, one)
    if top is None:
        return None, f"{where}{'f' if where else 'F'}ewer than two rows have a {name}."
    level = cells_of.spread(held.interval(top.cell, metric), digits) + (f" {unit}" if unit else "")
    unknown = [in_sentence(row_label(ablation, row)) for row in one.rows if not held.of(row.cell, metric)]
    rows = f"best of the {len(one.rows) - len(unknown)} rows measured"
    lead = f"{where}by mean {name} {in_sentence(row_label(ablation, top))} is {rows} ({level})"
    lead = lead if where else lead[:1].upper() + lead[1:]
    if chosen is None or not held.of(chosen.cell, metric):
        return None, f"{lead}; the paper's choice has no number here."
    words = in_sentence(row_label(ablation, chosen))
    compared = _differences(held, one, chosen, metric)
    if top is chosen:
        near = [words for words, found in _named(ablation, compared) if found.sign == 0]
        more = f"; not to be told from it: {', '.join(near)}" if near else "; the others are significantly behind"
        more += f"; without a number: {', '.join(unknown)}" if unknown else ""
        return None if unknown else True, f"{lead}, the paper's choice{more}."
    behind = [words for words, found in _named(ablation, compared) if found.sign == -1]
    more = f" Significantly behind the paper's choice: {', '.join(behind)}." if behind else ""
    if top.cell.path not in compared:
        return False, f"{lead}, not the paper's choice; the two share too few clips to be compared.{more}"
    found = cells_of.turned(compared[top.cell.path][1])
    told = cells_of.sentence(words, in_sentence(row_label(ablation, top)), found, digits, unit)
    return False, f"{lead}; the paper's choice, {told}.{more}"


def _differences(held: Numbers, one: Series, chosen: Row, metric: str) -> dict[tuple, tuple[Row, Comparison]]:
    """Each other row of a series against the paper's choice."""
    found = {}
    for row in one.rows:
        compared = held.difference(row.cell, chosen.cell, metric) if row is not chosen else None
        if compared is not None:
            found[row.cell.path] = (row, compared)
    return found


def _named(ablation: Ablation, compared: Mapping[tuple, tuple[Row, Comparison]]) -> list[tuple[str, Comparison]]:
    return [(in_sentence(row_label(ablation, row)), found) for row, found in compared.values()]


def equality(ablation: Ablation, parts: list[Series]) -> list[str]:
    """How equal the operations of a series' rows are."""
    said = []
    for one in parts:
        counts = [count for row in one.rows if (count := operations(row)) is not None]
        if len(counts) < 2:
            continue
        where = f" ({one.words})" if one.words else ""
        apart = max(counts) / min(counts) - 1
        if apart <= EQUAL:
            said.append(f"Operations of a generation differ by {100 * apart:.1f} % at the most between rows{where}.")
        else:
            low, high = (entries.significant(value) for value in (min(counts), max(counts)))
            said.append(f"Operations of a generation are not equal: from {low} to {high} PFLOP{where}.")
    return said


def table(ablation: Ablation, source: Testbed, parts: list[Series], held: Numbers) -> Table:
    """The table of an ablation; one sentence where nothing is measured yet."""
    title = f"Ablation {ablation.letter}. {ablation.title}, on the trained testbed"
    if not parts:
        return cells_of.empty(ablation.name, title)
    cells = [row.cell for one in parts for row in one.rows]
    shown = columns(ablation, source, cells)
    blocks = tuple(block(ablation, held, one, shown) for one in parts)
    lengths = {(cell.model, cell.length) for cell in cells}
    controls = [cell for cell in source.cells("table1") if cell.method == CONTROL]
    floor = [cell for cell in controls if (cell.model, cell.length) in lengths]
    remarks = entries.remarks([*cells, *floor], cells_of.SPREAD, compared=ablation.metrics == COMPARED)
    said = (*verdicts(ablation, held, parts), *equality(ablation, parts), *ablation.more(), *remarks)
    return Table(ablation.name, title, shown, blocks, said, heads=("Row", "Source"))


def printed_otherwise(ablation: Ablation) -> list[str]:
    """Where the paper contradicts itself about an ablation at the longest length, in sentences."""
    told = paper(ablation)
    chosen = max(told, key=lambda row: row.number(ablation.metrics[0]))
    said = []
    if chosen.cells["printed_frames"] != chosen.cells["frames"]:
        said.append(
            f"The paper labels ablation {ablation.letter} {chosen.cells['printed_frames']} frames; it is about "
            f"{chosen.frames}."
        )
    for row in published.rows("table2"):
        same = (row.model, row.frames, row.method, row.tuning) == (chosen.model, chosen.frames, "radial", "tuned")
        reward, other = chosen.text("vision_reward"), row.text("vision_reward")
        if same and reward != other:
            said.append(f"For what seems to be the same setting the paper prints {reward} here and {other} in Table 2.")
    return said


def make_both(ablation: Ablation, source: Testbed, out: Path) -> list[Path]:
    """Writes the table and the figure of an ablation. Returns their files.

    Raises:
        ValueError: a record is missing or damaged.
    """
    from paper_figures.ablation_panels import draw

    parts = series(ablation, source)
    cells = [row.cell for one in parts for row in one.rows]
    held = numbers(ablation, source, parts, columns(ablation, source, cells))
    judge = cells_of.judge(source.experiment, cells)
    made = write(table(ablation, source, parts, held), out)
    return [*made, *draw(ablation, held, parts, judge, out)]
