"""Table 2's quality columns on the trained testbed: longer clips, untuned and tuned, and what came out.

The paper's finding: radial, tuned for 4x, is as good as dense attention tuned for it; untuned dense attention and
RIFLEx fall behind; SANA fails. Each part is judged from the records, by vision reward.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.tuning.settings import FULL, LORA
from paper_figures import answers, entries, published, table2
from paper_figures import testbed_entries as cells_of
from paper_figures.experiment import CellRows, Experiment
from paper_figures.intervals import Comparison
from paper_figures.published import Published
from paper_figures.tables import Block, Column, Entry, Table, write
from paper_figures.testbed_entries import Claim, Numbers

if TYPE_CHECKING:
    from paper_figures.testbed import Testbed

READS = "testbed"
NAME, TITLE = "table2_testbed", "Table 2, quality. Longer clips of the trained testbed"
PURPOSE, FIGURE = "table2", "figure8"
"""Full tunings are run for the figure; the table shows them too."""
UNTUNED = "untuned"
SOURCES = {UNTUNED: "ours, untuned", LORA: "ours, LoRA", FULL: "ours, all weights tuned"}
BASELINE = "Full"
"""The paper's name for dense attention with a LoRA."""
START, MERGED = "start", "merged"
"""Beside a row's settings: length and variant of the tuning that its own went on from, or of those whose adapters it is
drawn with, without a tuning of its own."""
REWARD = "vision_reward"
DECIMALS = 3
MARGINS = {"testbed": 0.05}
OTHER_MARGIN = 0.01
"""Within this much reward two rows count as equal: a fortieth of the judge's range, from -1 to 1 for the testbed's and
from -0.216 to 0.216 for the released one."""

NO_COMPARISON = (
    "PSNR and SSIM to the untuned dense clips are left out: tuning is there to leave those clips behind, so a distance "
    "to them is no quality. They are in the records."
)
EFFECTS_NOTE = (
    "Read from the clip and its prompt by the testbed's instruments. Clips that the world itself draws have nearly 1 "
    "for objects there, and nearly 0 for the rest."
)
NO_SPEED = "No claim of speed is made for a testbed."


@dataclass(frozen=True)
class Row:
    """A cell and how it was tuned: ``untuned``, ``lora`` or ``full``, with the settings.

    ``note`` tells it from another row of its method and kind in the same block.
    """

    cell: CellRows
    kind: str
    settings: tuple[tuple[str, Any], ...] = ()
    note: str = ""

    @property
    def label(self) -> str:
        """The method as the table names it."""
        named = f"{BASELINE} (dense)" if is_baseline(self) else entries.label(self.cell)
        return f"{named}, {self.note}" if self.note else named

    @property
    def words(self) -> str:
        """The row in a sentence."""
        if is_baseline(self):
            return "tuned dense"
        prefix = {UNTUNED: "untuned", LORA: "tuned", FULL: "fully tuned"}[self.kind]
        return f"{prefix} {self.cell.method}" + (f" ({self.note})" if self.note else "")


@dataclass(frozen=True)
class Part:
    """A block: the rows of one model, length and seed, which is named where a length has several."""

    length: str
    rows: tuple[Row, ...]
    seed: int | None = None

    @property
    def place(self) -> str:
        """The block in a sentence."""
        return self.length if self.seed is None else f"{self.length}, seed {self.seed}"

    def find(self, method: str, kind: str) -> Row | None:
        """The row of a method tuned so, at the block's own density; None where there is none."""
        return next((row for row in self.rows if (row.cell.method, row.kind, row.note) == (method, kind, "")), None)

    @property
    def baseline(self) -> Row | None:
        """Dense attention with a LoRA, the paper's "Full"."""
        return self.find("dense", LORA)


def is_baseline(row: Row) -> bool:
    """Whether a row is what others are compared with."""
    return (row.cell.method, row.kind) == ("dense", LORA)


def row_of(source: Experiment, cell: CellRows) -> Row:
    """A cell with how it was tuned, from its record.

    Raises:
        ValueError: the record is missing or damaged.
    """
    if cell.tuning == UNTUNED:
        return Row(cell, UNTUNED)
    of = source.record(cell, cell.rows[0]["kind"])["cell"]
    settings = dict(of.get("tuning_settings") or {})
    if of.get("start"):
        settings[START] = _tuning(of["start"])
    if of.get("merged"):
        settings[MERGED] = " and ".join(map(_tuning, of["merged"]))
    return Row(cell, settings.get("kind", LORA), tuple(settings.items()))


def _tuning(record: str) -> str:
    """Length and variant of a tuning's record."""
    length, _, variant = Path(record).parts[-4:-1]
    return f"{length}, {variant}"


def parts(source: Testbed) -> list[Part]:
    """The blocks: a length and seed each, untuned dense first, then LoRAs and full tunings.

    Otherwise the order is the configuration's.
    """
    grouped: dict[tuple, list[CellRows]] = {}
    for cell in {cell.path: cell for purpose in (PURPOSE, FIGURE) for cell in source.cells(purpose)}.values():
        grouped.setdefault((cell.model, cell.fact("frames"), cell.length, cell.fact("seed")), []).append(cell)
    found = []
    order = (UNTUNED, LORA, FULL)
    for (model, _, length, seed), cells in sorted(grouped.items(), key=lambda item: item[0][1]):
        reference = source.reference(cells[0])
        every = {cell.path: cell for cell in ([reference] if reference is not None else []) + cells}
        rows = [row_of(source.experiment, cell) for cell in every.values()]
        rows.sort(key=lambda row: (order.index(row.kind), row.cell.method != "dense"))
        several = len({key[3] for key in grouped if (key[0], key[2]) == (model, length)}) > 1
        found.append(Part(length, tuple(_told_apart(rows)), seed if several else None))
    return found


def _told_apart(rows: list[Row]) -> list[Row]:
    """Rows of one block, where one of another density than most of its kind names it; of equally many, the first."""
    budgets: dict[str, list[float]] = {}
    for row in rows:
        if row.cell.fact("budget") is not None:
            budgets.setdefault(row.kind, []).append(row.cell.fact("budget"))
    usual = {kind: max(held, key=held.count) for kind, held in budgets.items()}
    noted = []
    for row in rows:
        own = row.cell.fact("budget")
        noted.append(row if own in (None, usual.get(row.kind)) else replace(row, note=f"density {own}"))
    return noted


def shorter(source: Testbed, blocks: list[Part]) -> list[Part]:
    """The untuned dense clips of lengths that the table has no rows of, such as the trained one."""
    held = {(row.cell.model, part.length) for part in blocks for row in part.rows}
    cells = [cell for cell in source.references() if (cell.model, cell.length) not in held]
    return [Part(cell.length, (Row(cell, UNTUNED),)) for cell in cells]


def columns(source: Testbed, cells: list[CellRows]) -> tuple[Column, ...]:
    """The columns: tuning, quality, length effects, and VBench's."""
    devices = sorted({row["device"] for cell in cells for row in cell.rows if row["kind"] == "tune" and row["device"]})
    where = f" on {' and '.join(devices)}" if devices else ""
    time, memory = f"Wall time of all steps{where}. {NO_SPEED}", f"The most memory held at a time in tuning{where}."
    return (
        Column("sparsity_pct", "Sparsity", "%", "", table2.SPARSITY_NOTE, "sparsity_pct"),
        Column("tuning_s", "Tuning", "s", "lower", time),
        Column("peak_memory_gib", "Memory", "GiB", "lower", memory),
        cells_of.judge_column(source.experiment, cells),
        Column("adherence", "Adherence", "", "higher"),
        Column("persistence", "Objects there", "", "higher", EFFECTS_NOTE),
        Column("trajectory_error", "Trajectory error", "px", "lower", EFFECTS_NOTE),
        Column("motion_repetition", "Motion repeated", "", "lower", EFFECTS_NOTE),
        Column("flicker", "Flicker", "levels", "lower", EFFECTS_NOTE),
        *(Column(key, heading, "", "higher", "", key) for key, heading in table2.VBENCH.items()),
    )


def measures(shown: Iterable[Column]) -> list[Column]:
    """The columns that are means over clips."""
    kept = (REWARD, "adherence", "persistence", "trajectory_error", "motion_repetition", "flicker")
    return [column for column in shown if column.key in kept]


def numbers(source: Testbed, blocks: list[Part], shown: tuple[Column, ...]) -> Numbers:
    """All clips' numbers, and the comparisons that the table and its sentences make, as one family."""
    pairs = []
    for part in blocks:
        full = part.baseline
        if full is not None:
            others = [row for row in part.rows if row is not full]
            pairs += [(row.cell, full.cell, column.key) for row in others for column in measures(shown)]
        radial, sana = part.find("radial", LORA), part.find("sana", LORA)
        behind = [part.find("dense", UNTUNED), part.find("riflex", UNTUNED)]
        pairs += [(row.cell, radial.cell, REWARD) for row in behind if row is not None and radial is not None]
        pairs += [(row.cell, sana.cell, REWARD) for row in tuned(part) if sana is not None and row is not sana]
    return cells_of.gather(source.experiment, [row.cell for part in blocks for row in part.rows], pairs)


def tuned(part: Part) -> list[Row]:
    """The rows with a LoRA."""
    return [row for row in part.rows if row.kind == LORA]


def line(held: Numbers, row: Row, shown: tuple[Column, ...], baseline: CellRows | None) -> dict[str, Entry]:
    """Our line of a row; what concerns tuning is empty where there was none."""
    cell = row.cell
    found = {column.key: cells_of.measured(held, cell, column, baseline) for column in measures(shown)}
    found |= {key: entries.vbench(cell, key) for key in table2.VBENCH}
    found["sparsity_pct"] = entries.sparsity(cell)
    if row.kind != UNTUNED and MERGED not in dict(row.settings):
        found |= {key: entries.measured(cell, key, "tune") for key in ("tuning_s", "peak_memory_gib")}
    return found


def beside(row: Row, paper: list[Published]) -> list[Published]:
    """The published rows of a row's length, method and tuning; the paper's Table 2 has no full tunings."""
    if row.kind == FULL:
        return []
    rows = [told for told in paper if told.cells["length"] == row.cell.length and told.tuning == row.cell.tuning]
    return entries.beside(row.cell, rows)


def block(held: Numbers, part: Part, shown: tuple[Column, ...]) -> Block:
    """One length and seed."""
    paper, full = published.rows("table2"), part.baseline
    against = full.cell if full is not None else None
    groups = []
    for row in part.rows:
        made = entries.group(row.cell, shown, line(held, row, shown, against), beside(row, paper))
        below = cells_of.differences(held, row.cell, against, measures(shown), f"Δ to {BASELINE}")
        made = cells_of.titled(made, row.cell, label=row.label, below=below)
        groups.append(cells_of.sourced(made, SOURCES[row.kind], {"tuning": row.kind}))
    # Dense steps and the budget are those of the sparse rows.
    cells = sorted((row.cell for row in part.rows), key=lambda cell: cell.fact("budget") is None)
    heading = entries.block(cells, ()).heading + (f", seed {part.seed}" if part.seed is not None else "")
    return Block(heading, tuple(groups))


def how_tuned(blocks: list[Part]) -> list[str]:
    """How the rows were tuned, a sentence for each length and kind, from the records."""
    said = []
    for part in blocks:
        for kind, words in ((LORA, "LoRA on q, k, v and o"), (FULL, "full tuning of all weights")):
            rows = [row for row in part.rows if row.kind == kind]
            for settings in dict.fromkeys(row.settings for row in rows):
                held = dict(settings)
                names = ("rank", "steps", "batch", "rate", "dense_layers", "seed")
                left_out = ("rank",) if kind == FULL else ()
                told = ", ".join(
                    f"{name.replace('_', ' ')} {held[name]}" for name in names if name in held and name not in left_out
                )
                if START in held:
                    told += f"; each goes on from its method's tuning at {held[START]}, which its time leaves out"
                if MERGED in held:
                    told = f"nothing tuned anew: each is drawn with its method's adapter of {held[MERGED]}"
                alike = [row for row in rows if row.settings == settings]
                methods = ", ".join(row.cell.method + (f" ({row.note})" if row.note else "") for row in alike)
                said.append(f"At {part.place}, {words} ({told}): {methods}.")
    return said


# --- What came out -----------------------------------------------------------------------------------------------


def verdicts(held: Numbers, blocks: list[Part], margin: float) -> list[str]:
    """What came out of the finding of the paper's Table 2, at every length and seed in short; then part by part.

    Radial at other densities than the block's is no part of the finding and stands behind it.
    """
    said, short = [], []
    for part in blocks:
        claims = [matches(held, part, margin), behind(held, part, "dense"), behind(held, part, "riflex")]
        claims.append(fails(held, part))
        known = [claim.held for claim in claims if claim.held is not None]
        if known:
            words = {len(known): "reproduced", 0: "not reproduced"}.get(sum(known), "reproduced in part")
            open_ = f", {len(claims) - len(known)} cannot be judged" if len(known) < len(claims) else ""
            words += f" ({sum(known)} of {len(known)} parts hold{open_})"
        else:
            words = "not judged (its rows have no numbers)"
        short.append(f"at {part.place} {words}")
        claims += [matches(held, part, margin, row) for row in tuned(part) if row.cell.method == "radial" and row.note]
        said += [f"At {part.place}: {claim.sentence}" for claim in claims]
    return [f"The finding of the paper's Table 2, by vision reward: {'; '.join(short)}.", *said]


def why(source: Experiment, held: Numbers, blocks: list[Part]) -> list[str]:
    """What the tuning of dense attention, and then radial's mask, does to the judge's answers, where records tell.

    Beside it stands what the instruments read from the same clips.

    Raises:
        ValueError: a record is damaged.
    """
    said = []
    for part in blocks:
        full, radial = part.baseline, part.find("radial", LORA)
        for one, other in ((full, part.find("dense", UNTUNED)), (radial, full)):
            if one is not None and other is not None:
                words = (one.words, other.words)
                told = answers.sentence(source, one.cell, other.cell, words)
                read = answers.beside(source, held, one.cell, other.cell, words)
                said += [f"At {part.place}, {sentence}." for sentence in (told, read) if sentence]
    return said


def matches(held: Numbers, part: Part, margin: float, row: Row | None = None) -> Claim:
    """Whether tuned radial is as good as tuned dense, or better: the difference's interval stays within a margin.

    It is not known where the interval holds 0 but is wider: that nothing was found is no proof that nothing is there.

    Args:
        row: radial at another density than the block's; that of the block unless it is given.
    """
    row = row or part.find("radial", LORA)
    name = "tuned radial" if row is None else row.words
    found = _compared(held, part, row or ("radial", LORA), ("dense", LORA))
    if isinstance(found, str):
        return Claim(None, f"whether {name} matches tuned dense is not known ({found}).")
    told = found.difference
    words = f"{name} less tuned dense is {cells_of.change(found, DECIMALS)}"
    if -margin <= told.low and told.high <= margin:
        return Claim(True, f"{name} matches tuned dense: {words}, an interval within ±{margin}.")
    if told.holds(0):
        wide = f"an interval that holds 0 but goes beyond ±{margin}, so that so much of a difference is not ruled out"
        return Claim(None, f"{name} cannot be told from tuned dense: {words}, {wide}.")
    better = "exceeds" if told.mean > 0 else "does not match"
    return Claim(told.mean > 0, f"{name} {better} tuned dense: {words}.")


def behind(held: Numbers, part: Part, method: str) -> Claim:
    """Whether an untuned row is significantly behind both tuned dense and tuned radial."""
    found = {
        words: _compared(held, part, (method, UNTUNED), (other, LORA))
        for other, words in (("dense", "tuned dense"), ("radial", "tuned radial"))
    }
    name = f"untuned {method}"
    unknown = [reason for reason in found.values() if isinstance(reason, str)]
    if unknown:
        return Claim(None, f"whether {name} falls behind is not known ({unknown[0]}).")
    told = "; ".join(cells_of.sentence(name, words, one, DECIMALS) for words, one in found.items())
    outcome = all(one.sign == -1 for one in found.values())
    return Claim(outcome, f"{name} {'falls' if outcome else 'does not fall'} behind both: {told}.")


def fails(held: Numbers, part: Part) -> Claim:
    """Whether SANA fails: significantly behind every other tuned method, and below 0, so that no outweighs yes."""
    sana = part.find("sana", LORA)
    others = [row for row in tuned(part) if row is not sana]
    if sana is None or not others:
        return Claim(None, "whether SANA fails is not known (it, or all others with a LoRA, were not drawn so).")
    found = {row.words: held.difference(row.cell, sana.cell, REWARD) for row in others}
    found = {words: one for words, one in found.items() if one is not None}
    own = held.interval(sana.cell, REWARD)
    if own is None or not found:
        return Claim(None, "whether SANA fails is not known (it or all others have no vision reward).")
    level = f"its reward is {cells_of.spread(own, DECIMALS)}"
    nearest = min(found, key=lambda words: found[words].difference.mean)
    words = cells_of.sentence(nearest, "tuned sana", found[nearest], DECIMALS)
    ahead = sum(one.sign == 1 for one in found.values())
    last = ahead == len(found)
    if last and own.high < 0:
        return Claim(
            True, f"SANA fails: {level}, below 0, and every other tuned method is ahead; the nearest, {words}."
        )
    if last:
        told = f"SANA comes last of the tuned methods without failing outright: {level}, not below 0"
        return Claim(False, f"{told}; the nearest, {words}.")
    if ahead and found[nearest].difference.mean > 0:
        told = f"SANA has the lowest mean of the tuned methods without failing outright: {level}"
        return Claim(False, f"{told}; {ahead} of {len(found)} others are ahead; {words}.")
    return Claim(False, f"SANA does not fail: {level}, and {words}.")


def _compared(held: Numbers, part: Part, ours: Row | tuple[str, str], theirs: tuple[str, str]) -> Comparison | str:
    """Two rows' vision reward, or why they cannot be compared; a row, or else a method and how it was tuned."""
    rows = []
    for asked in (ours, theirs):
        row = asked if isinstance(asked, Row) else part.find(*asked)
        if row is None:
            return f"{', '.join(asked)}, is not in the records"
        if len(held.of(row.cell, REWARD)) < 2:
            return f"{row.cell.method}, {row.kind}, has no vision reward"
        rows.append(row.cell)
    found = held.difference(*rows, REWARD)
    return found if found is not None else "they share too few clips"


def table(source: Testbed) -> Table:
    """The table; one sentence where there are no records yet.

    Raises:
        ValueError: a record is missing or damaged.
    """
    longer = parts(source)
    if not longer:
        return cells_of.empty(NAME, TITLE)
    blocks = [*shorter(source, longer), *longer]
    cells = [row.cell for part in blocks for row in part.rows]
    shown = columns(source, cells)
    held = numbers(source, blocks, shown)
    margin = MARGINS.get(cells_of.judge(source.experiment, cells), OTHER_MARGIN)
    made = tuple(block(held, part, shown) for part in blocks)
    said = (*verdicts(held, longer, margin), *why(source.experiment, held, longer), *how_tuned(longer), NO_COMPARISON)
    return Table(NAME, TITLE, shown, made, (*said, *entries.remarks(cells, cells_of.SPREAD, compared=False)))


def make(source: Testbed, out: Path) -> list[Path]:
    """Writes the table. Returns its files."""
    return write(table(source), out)
