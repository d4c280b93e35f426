"""Table 1's quality columns on the trained testbed: every method at several budgets and schedules, and a second seed.

Below the table stands what came out of the paper's ranking, computed from the records: radial and svg ahead of pa and
sta in PSNR at an equal budget, the control ``random`` last of the masks, and the same order from another seed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.tolerance import CONTROL
from paper_figures import entries, published
from paper_figures import testbed_entries as cells_of
from paper_figures.experiment import CellRows
from paper_figures.random_control import RANDOM, explanation
from paper_figures.table_error import errors
from paper_figures.tables import Block, Column, Entry, Table, write
from paper_figures.testbed_entries import Claim, Numbers

if TYPE_CHECKING:
    from paper_figures.testbed import Testbed

READS = "testbed"
NAME, TITLE = "table1_testbed", "Table 1, quality. Methods on the trained testbed"
PURPOSE = "table1"
BASELINE = "radial"
AHEAD, BEHIND = ("radial", "svg"), ("pa", "sta")
"""The paper's ranking in PSNR: each of the first is ahead of each of the second, for both models of its Table 1."""
METRICS = ("psnr", "ssim")
"""What carries the claims."""
UNITS = {"psnr": "dB"}
FLOOR_NOTE = (
    "The noise floor: dense attention with its sums in another order. What comes as near to the dense clips cannot be "
    "told from dense attention."
)


@dataclass(frozen=True)
class Part:
    """A block of the table: the cells of one variant, and the dense clips that they are measured against."""

    variant: str
    cells: tuple[CellRows, ...]
    reference: CellRows | None

    @property
    def all(self) -> tuple[CellRows, ...]:
        """The reference first, where it was drawn."""
        return (self.reference, *self.cells) if self.reference is not None else self.cells

    def find(self, method: str) -> CellRows | None:
        """The cell of a method; None where there is none."""
        return next((cell for cell in self.all if cell.method == method), None)

    @property
    def budget(self) -> float | None:
        """The density that was asked for."""
        return next((cell.fact("budget") for cell in self.cells if cell.fact("budget") is not None), None)

    @property
    def seed(self) -> int:
        """The seed of prompts and noise."""
        return self.cells[0].fact("seed")

    @property
    def words(self) -> str:
        """What sets the block apart, in words."""
        first = self.cells[0]
        budget = "no budget" if self.budget is None else f"budget {self.budget}"
        return f"{budget}, {first.fact('dense_steps')} of {first.fact('steps')} steps dense, seed {self.seed}"


def parts(source: Testbed) -> list[Part]:
    """The blocks, in the order of the configuration."""
    found = []
    for (variant, _, _), members in groupby(
        source.cells(PURPOSE), key=lambda cell: (cell.variant, cell.model, cell.length)
    ):
        members = list(members)
        reference = source.reference(members[0])
        own = tuple(cell for cell in members if reference is None or cell.path != reference.path)
        if own:
            found.append(Part(variant, own, reference))
    return found


def columns(source: Testbed, cells: list[CellRows]) -> tuple[Column, ...]:
    """The columns: quality, then density and operations."""
    return (
        Column("psnr", "PSNR", "dB", "higher", "", "psnr"),
        Column("ssim", "SSIM", "", "higher", "", "ssim"),
        *cells_of.lpips_columns(cells),
        cells_of.judge_column(source.experiment, cells),
        Column("adherence", "Adherence", "", "higher"),
        Column("density", "Density"),
        Column("pflop", "PFLOP", "", "lower", "", "pflops"),
    )


def measures(shown: Iterable[Column]) -> list[Column]:
    """The columns that are means over clips."""
    return [column for column in shown if column.key not in ("density", "pflop")]


def masks(part: Part) -> list[CellRows]:
    """The cells whose attention is softmax under a sparse mask, but for the control."""
    found = []
    for cell in part.cells:
        density = cell.find("density")
        sparse = density is not None and density["status"] == "passed" and density["value"] < 1
        if sparse and cell.fact("operator") == "softmax" and cell.method != RANDOM:
            found.append(cell)
    return found


def numbers(source: Testbed, blocks: list[Part], shown: tuple[Column, ...]) -> Numbers:
    """All clips' numbers; all comparisons as one family, and those of the paper's ranking as one of their own, too."""
    pairs, claims = [], []
    for part in blocks:
        baseline = part.find(BASELINE)
        for cell in part.all:
            if baseline is None or cell.path == baseline.path:
                continue
            reference = cell.path == part.reference.path if part.reference is not None else False
            pairs += [
                (cell, baseline, column.key)
                for column in cells_of.ranking(measures(shown))
                if not (reference and column.key in entries.COMPARISONS)
            ]
        order = [(ours, theirs, "psnr") for ours, theirs in ranked(part)]
        pairs += order
        claims += order
        control = part.find(RANDOM)
        pairs += [(cell, control, metric) for metric in METRICS for cell in masks(part) if control is not None]
    return cells_of.gather(source.experiment, [cell for part in blocks for cell in part.all], pairs, claims)


def ranked(part: Part) -> list[tuple[CellRows, CellRows]]:
    """The pairs of cells whose order the paper's ranking states; those that were run."""
    found = [(part.find(ours), part.find(theirs)) for ours in AHEAD for theirs in BEHIND]
    return [(ours, theirs) for ours, theirs in found if ours is not None and theirs is not None]


def line(held: Numbers, cell: CellRows, shown: tuple[Column, ...], baseline: CellRows | None) -> dict[str, Entry]:
    """Our line of a cell."""
    return {column.key: cells_of.measured(held, cell, column, baseline) for column in measures(shown)} | {
        "density": entries.density(cell),
        "pflop": entries.operations(cell),
    }


def block(held: Numbers, part: Part, shown: tuple[Column, ...], several_seeds: bool) -> Block:
    """One variant: the dense clips, then every method with its difference to radial and the published lines."""
    baseline, paper = part.find(BASELINE), published.rows("table1")
    groups = []
    for cell in part.all:
        made = entries.group(cell, shown, line(held, cell, shown, baseline), entries.beside(cell, paper))
        below = cells_of.differences(held, cell, baseline, measures(shown), f"Δ to {BASELINE}")
        notes = (FLOOR_NOTE,) if cell.method == CONTROL else ()
        groups.append(cells_of.titled(made, cell, below=below, notes=notes))
    heading = entries.block(list(part.cells), ()).heading + (f", seed {part.seed}" if several_seeds else "")
    return Block(heading, tuple(groups))


# --- What came out -----------------------------------------------------------------------------------------------


def verdicts(held: Numbers, blocks: list[Part]) -> list[str]:
    """What came out of the paper's ranking, of the control, and of the second seed: first in short, then each block."""
    rankings = [ranking(held, part) for part in blocks]
    controls = {metric: [claim for part in blocks for claim in last(held, part, metric)] for metric in METRICS}
    agreements = seeds(held, blocks)
    first = f"The ranking of the paper's Table 1 ({' and '.join(AHEAD)} ahead of {' and '.join(BEHIND)} in PSNR"
    said = [f"{first} at an equal budget) is reproduced in {_count(rankings)}."]
    for metric, claims in controls.items():
        said.append(f"{RANDOM} comes last of the masks by {entries.NAMES[metric]} in {_count(claims)}.")
    said.append(f"The order of methods is the same with another seed in {_count(agreements)}.")
    said += [claim.sentence for claims in (rankings, *controls.values(), agreements) for claim in claims]
    return [*said, families(held, blocks)] if held.claims else said


def families(held: Numbers, blocks: list[Part]) -> str:
    """Over which comparisons the ranking is corrected, and what comes out of it over all of the table's."""
    whole = [ranked(part) for part in blocks if all(_has(held, part, method, "psnr") for method in (*AHEAD, *BEHIND))]
    strict = sum(all(cells_of.ordered(held.difference(*pair, "psnr")) == 1 for pair in pairs) for pairs in whole)
    return (
        "The pairs of the ranking are the paper's own, so they are corrected together and without the table's other "
        f"comparisons: a pair may be told apart in those sentences and bear no {cells_of.MARK} in the table. Corrected "
        f"with all of them, the ranking is reproduced in {strict} of {len(whole)} settings."
    )


def _count(claims: list[Claim]) -> str:
    """In how many settings something came out."""
    known = [claim.held for claim in claims if claim.held is not None]
    return (
        f"{sum(known)} of {len(known)} settings in which all of it was measured"
        if known
        else "no setting: not measured"
    )


def ranking(held: Numbers, part: Part) -> Claim:
    """Whether the paper's ranking came out in a block; None where not all of it was measured."""
    missing = [method for method in (*AHEAD, *BEHIND) if not _has(held, part, method, "psnr")]
    compared = [(ours, theirs, held.claimed(ours, theirs, "psnr")) for ours, theirs in ranked(part)]
    found = [(ours, theirs, comparison) for ours, theirs, comparison in compared if comparison is not None]
    without = f"{' and '.join(missing)} {'have' if len(missing) > 1 else 'has'} no PSNR here" if missing else ""
    if not found:
        return Claim(None, f"At {part.words}: not judged, for {without}.")
    signs = [cells_of.ordered(comparison) for _, _, comparison in found]
    told = "; ".join(
        cells_of.sentence(ours.method, theirs.method, comparison, 2, "dB") for ours, theirs, comparison in found
    )
    shown = [method for method in (*AHEAD, *BEHIND) if method not in missing]
    densities = ", ".join(f"{method} {part.find(method).fact('density'):.3f}" for method in shown)
    outcome = all(sign == 1 for sign in signs)
    word = "reproduced" if outcome else "reproduced in part" if 1 in signs else "not reproduced"
    if missing:
        word += f", as far as it was measured ({without})"
    return Claim(None if missing else outcome, f"At {part.words}: {word}. In PSNR {told}. Densities: {densities}.")


def last(held: Numbers, part: Part, metric: str) -> list[Claim]:
    """Whether the control is the last of the masks in a metric; empty where it was not run."""
    control = part.find(RANDOM)
    if control is None:
        return []
    name, unit = entries.NAMES[metric], UNITS.get(metric, "")
    if not _has(held, part, RANDOM, metric):
        return [Claim(None, f"At {part.words}: no {name} of {RANDOM}, so whether it is last is not known.")]
    compared = {cell.method: held.difference(cell, control, metric) for cell in masks(part)}
    compared = {method: found for method, found in compared.items() if found is not None}
    if not compared:
        return [Claim(None, f"At {part.words}: {RANDOM} has no other mask to be held against in {name}.")]
    where = f"At {part.words}: by mean {name} {RANDOM}"
    below = [method for method, found in compared.items() if found.difference.mean < 0]
    near = [method for method in compared if method not in below and not compared[method].significant]
    digits = 2 if metric == "psnr" else 3
    if not below:
        closest = min(compared, key=lambda method: compared[method].difference.mean)
        words = cells_of.sentence(closest, RANDOM, compared[closest], digits, unit)
        told = f"{where} comes last of the {len(compared) + 1} masks; the nearest, {words}."
    else:
        words = "; ".join(cells_of.sentence(method, RANDOM, compared[method], digits, unit) for method in below)
        densities = ", ".join(f"{method} {part.find(method).fact('density'):.3f}" for method in (*below, RANDOM))
        told = f"{where} does not come last of the masks: {words}. Densities: {densities}."
    if near:
        told += f" Above it by mean but not significantly: {', '.join(near)}."
    return [Claim(not below, told)]


def unexpected(source: Testbed, held: Numbers, blocks: list[Part]) -> list[str]:
    """Why the control does not come last, as far as the models' output errors tell; empty where it does."""
    found = []
    for model in dict.fromkeys(part.cells[0].model for part in blocks):
        own = [part for part in blocks if part.cells[0].model == model]
        claims = [claim.held for part in own for claim in last(held, part, METRICS[0])]
        judged = [claim for claim in claims if claim is not None]
        if judged:
            found.append(explanation(errors(source.experiment.folder), model, all(judged)))
    return [said for said in found if said]


def seeds(held: Numbers, blocks: list[Part]) -> list[Claim]:
    """Whether blocks that differ in their seed alone show the same order of methods."""
    said = []
    for place, part in enumerate(blocks):
        for other in blocks[:place]:
            if part.seed != other.seed and _setting(part) == _setting(other):
                said.append(_agreement(held, other, part))
    return said


def _agreement(held: Numbers, first: Part, second: Part) -> Claim:
    """Whether two seeds agree: in the order by mean PSNR, and in what is significant of every pair."""
    shared = [
        cell.method
        for cell in first.cells
        if cell.method != CONTROL and all(_has(held, part, cell.method, "psnr") for part in (first, second))
    ]
    where = f"Seeds {first.seed} and {second.seed} ({first.words.rpartition(', ')[0]})"
    if len(shared) < 2:
        return Claim(None, f"{where}: fewer than two methods were measured with both, so nothing is compared.")
    orders = [sorted(shared, key=lambda method: -_mean(held, part, method)) for part in (first, second)]
    told = []
    for part, order in zip((first, second), orders, strict=True):
        listed = " > ".join(f"{method} {_told(held, part, method)}" for method in order)
        told.append(f"seed {part.seed}: {listed} dB")
    same = orders[0] == orders[1]
    words = "the same order of methods by mean PSNR" if same else "another order of methods by mean PSNR"
    pairs = [(a, b) for a in shared for b in shared if a in AHEAD and b in BEHIND]
    calls = {
        (a, b): [cells_of.ordered(held.claimed(part.find(a), part.find(b), "psnr")) for part in (first, second)]
        for a, b in pairs
    }
    differ = [f"{a} against {b}" for (a, b), (one, two) in calls.items() if one != two]
    more = ""
    if calls:
        more = " What is significant of the paper's ranking is "
        more += f"not the same for {', '.join(differ)}." if differ else "the same."
    return Claim(same, f"{where}: {words} ({'; '.join(told)}).{more}")


def _setting(part: Part) -> tuple:
    first = part.cells[0]
    names = ("frames", "steps", "dense_steps", "dense_layers")
    return part.budget, first.model, *(first.fact(name) for name in names)


def _has(held: Numbers, part: Part, method: str, metric: str) -> bool:
    """Whether a method has two clips or more with a metric."""
    cell = part.find(method)
    return cell is not None and len(held.of(cell, metric)) >= 2


def _mean(held: Numbers, part: Part, method: str) -> float:
    values = held.of(part.find(method), "psnr").values()
    return sum(values) / len(values)


def _told(held: Numbers, part: Part, method: str) -> str:
    return cells_of.spread(held.interval(part.find(method), "psnr"), 2)


def unset(blocks: list[Part]) -> list[str]:
    """Which methods stand in one block and are left out of others because no budget applies to them."""
    held: dict[str, set[str]] = {}
    for part in blocks:
        for cell in part.cells:
            if cell.fact("budget") is None:
                held.setdefault(cell.method, set()).add(part.variant)
    names = [method for method, variants in held.items() if len(variants) < len(blocks)]
    if not names:
        return []
    return [
        f"Without a density to set: {', '.join(names)}. They stand in the first block that their clips are right for."
    ]


def table(source: Testbed) -> Table:
    """The table; one sentence where there are no records yet."""
    blocks = parts(source)
    if not blocks:
        return cells_of.empty(NAME, TITLE)
    cells = [cell for part in blocks for cell in part.all]
    shown = columns(source, cells)
    held = numbers(source, blocks, shown)
    several = len({part.seed for part in blocks}) > 1
    made = tuple(block(held, part, shown, several) for part in blocks)
    said = (
        *verdicts(held, blocks),
        *unexpected(source, held, blocks),
        *unset(blocks),
        *entries.remarks(cells, cells_of.SPREAD),
    )
    return Table(NAME, TITLE, shown, made, said)


def make(source: Testbed, out: Path) -> list[Path]:
    """Writes the table. Returns its files."""
    return write(table(source), out)
