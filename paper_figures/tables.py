"""What a table is, and how it is written: CSV for machines, Markdown for readers, LaTeX for papers.

A table is made of blocks (a model at a length); a block of groups (a method); a group of our line and the published
lines below it. Our line and a published one never share a cell, so neither can pass for the other.
"""

from __future__ import annotations

import csv
import io
import os
import re
import string
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

UNTRAINED = "lpips_untrained"
DAGGER = "†"
NO_BREAK = "\N{NO-BREAK SPACE}"
NOT_YET = "not measured yet"
"""What stands in tables and figures where there is no record yet."""


@dataclass(frozen=True)
class Entry:
    """One cell of a table.

    Args:
        text: what the reader sees: a number, or a status in words.
        value: our number; None where there is none.
        error: its standard error over the clips.
        status: ``passed``, ``reference``, ``no record``, or the record's.
        reason: why there is no number.
        notes: sentences that go below the table.
        more: further numbers for the CSV file, by what is added to the column's name.
    """

    text: str = ""
    value: float | None = None
    error: float | None = None
    status: str = ""
    reason: str = ""
    notes: tuple[str, ...] = ()
    more: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """A column.

    Args:
        key: its name in records and in the CSV file.
        heading: its heading.
        unit: its unit; empty for none.
        direction: ``higher`` or ``lower`` is better; empty where neither can be said.
        note: a sentence about the whole column.
        published: the published table's column; empty where the paper has none.
        published_ratio: a published column that is printed in brackets behind it.
    """

    key: str
    heading: str
    unit: str = ""
    direction: str = ""
    note: str = ""
    published: str = ""
    published_ratio: str = ""


@dataclass(frozen=True)
class Line:
    """A line: ours, or what the paper prints for the same method.

    Args:
        source: what the numbers are from: ``ours``, or the published model.
        entries: by column key; a key that is missing is an empty cell.
        cells: for a published line, the paper's cells as printed, by our column keys, for the CSV file.
        tag: for a published line, its model and tuning as it stands in the CSV file's headings.
        notes: sentences about the line.
    """

    source: str
    entries: Mapping[str, Entry]
    cells: Mapping[str, str] = field(default_factory=dict)
    tag: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """A method: our line, and the published ones.

    Args:
        label: the method as the reader sees it.
        facts: what the CSV file says of it besides the numbers.
        below: further lines of ours below the first, such as differences to another method; the CSV file has what the
            first line's entries hold of them.
    """

    label: str
    ours: Line
    published: tuple[Line, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    below: tuple[Line, ...] = ()

    @property
    def lines(self) -> tuple[Line, ...]:
        """All lines, ours first."""
        return self.ours, *self.below, *self.published


@dataclass(frozen=True)
class Block:
    """Lines under one heading."""

    heading: str
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Table:
    """A table: its name in file names, its title, what must be said of all of it, the heads of its first columns."""

    name: str
    title: str
    columns: tuple[Column, ...]
    blocks: tuple[Block, ...]
    remarks: tuple[str, ...] = ()
    heads: tuple[str, str] = ("Method", "Source")


def write(table: Table, out: Path) -> list[Path]:
    """Writes ``<name>.csv``, ``.md`` and ``.tex``, each whole or not at all. Returns the three files."""
    texts = {"csv": to_csv(table), "md": to_markdown(table), "tex": to_latex(table)}
    return [_write(Path(out) / f"{table.name}.{kind}", text) for kind, text in texts.items()]


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8", newline="")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def filled(columns: Iterable[Column], blocks: Iterable[Block]) -> tuple[Column, ...]:
    """The columns in which some line of ours has an entry, be it a status: what nobody took needs no empty column."""
    lines = [group.ours for made in blocks for group in made.groups]
    return tuple(column for column in columns if any(column.key in line.entries for line in lines))


def footnotes(table: Table) -> dict[str, str]:
    """The mark of every sentence, in reading order; the same sentence has one mark. An untrained LPIPS has a dagger."""
    marks: dict[str, str] = {}
    letters = _letters()
    for column in table.columns:
        if column.note and column.note not in marks:
            marks[column.note] = DAGGER if column.key == UNTRAINED else next(letters)
    for block in table.blocks:
        for sentence in _sentences(block, table.columns):
            if sentence not in marks:
                marks[sentence] = next(letters)
    return marks


def _letters() -> Iterator[str]:
    for first in ("", *string.ascii_lowercase):
        for second in string.ascii_lowercase:
            yield first + second


def _sentences(block: Block, columns: tuple[Column, ...]) -> Iterator[str]:
    for group in block.groups:
        yield from group.notes
        for line in group.lines:
            yield from line.notes
            for column in columns:
                yield from line.entries.get(column.key, Entry()).notes


# --- CSV -----------------------------------------------------------------------------------------------------------


def to_csv(table: Table) -> str:
    """One line a method: our number, standard error, status and reason, more of it, then the published as printed.

    Published columns are named ``<metric>_published_<model>``, with ``_tuned`` where a LoRA was trained; those in which
    the paper has nothing for any method are left out. A table without a line has one column, of what is said of it.
    """
    groups = [group for block in table.blocks for group in block.groups]
    if not groups:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([["remark"], *([remark] for remark in table.remarks)])
        return text.getvalue()
    facts = list(dict.fromkeys(key for group in groups for key in group.facts))
    printed = list(
        dict.fromkeys(
            (key, line.tag) for group in groups for line in group.published for key, text in line.cells.items() if text
        )
    )
    ours = [group.ours.entries for group in groups]
    more = {
        column.key: list(dict.fromkeys(name for line in ours for name in line.get(column.key, Entry()).more))
        for column in table.columns
    }
    keys = [column.key for column in table.columns] + [key for key, _ in printed]
    printed.sort(key=lambda pair: (keys.index(pair[0]), pair[1]))
    head = list(facts)
    for column in table.columns:
        head += [column.key, f"{column.key}_standard_error", f"{column.key}_status", f"{column.key}_reason"]
        head += [f"{column.key}_{name}" for name in more[column.key]]
    head += [f"{key}_published_{tag}" for key, tag in printed]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    for group in groups:
        row = [group.facts.get(key, "") for key in facts]
        for column in table.columns:
            entry = group.ours.entries.get(column.key, Entry())
            row += ["" if number is None else repr(number) for number in (entry.value, entry.error)]
            row += [entry.status, entry.reason]
            row += [repr(entry.more[name]) if name in entry.more else "" for name in more[column.key]]
        published = {line.tag: line.cells for line in group.published}
        row += [published.get(tag, {}).get(key, "") for key, tag in printed]
        writer.writerow(row)
    return text.getvalue()


# --- Markdown ------------------------------------------------------------------------------------------------------


def to_markdown(table: Table) -> str:
    """A section a block, and the footnotes at the end."""
    marks = footnotes(table)
    lines = [f"# {table.title}", ""]
    for block in table.blocks:
        lines += [f"## {block.heading}", "", *_markdown_block(table, block, marks), ""]
    lines += [f"{remark}\n" for remark in table.remarks]
    lines += [f"<sup>{mark}</sup> {sentence}\n" for sentence, mark in marks.items()]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_block(table: Table, block: Block, marks: Mapping[str, str]) -> list[str]:
    def mark(*sentences: str) -> str:
        found = list(dict.fromkeys(marks[sentence] for sentence in sentences if sentence))
        return f"<sup>{','.join(found)}</sup>" if found else ""

    def row(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    arrows = {"higher": f"{NO_BREAK}↑", "lower": f"{NO_BREAK}↓", "": ""}
    columns, head = table.columns, list(table.heads)
    for column in columns:
        unit = f" ({column.unit})" if column.unit else ""
        head.append(f"{column.heading}{mark(column.note)}{unit}{arrows[column.direction]}")
    out = [row(head), "|---|---|" + "---:|" * len(columns)]
    for group in block.groups:
        for line in group.lines:
            ours = line not in group.published
            first = f"**{group.label}**{mark(*group.notes)}" if line is group.ours else ""
            source = line.source if ours else f"*{line.source}*"
            cells = []
            for column in columns:
                entry = line.entries.get(column.key, Entry())
                text = entry.text.replace(" ± ", f"{NO_BREAK}±{NO_BREAK}")
                cells.append((text if ours or not text else f"*{text}*") + mark(*entry.notes))
            out.append(row([first, source + mark(*line.notes), *cells]))
    return out


# --- LaTeX ---------------------------------------------------------------------------------------------------------

_LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "Δ": r"$\Delta$",
    "‡": r"\ddag{}",
    NO_BREAK: "~",
    "−": r"$-$",
    "–": "--",
    "†": r"\dag{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}


def latex(text: str) -> str:
    """Text with everything escaped that LaTeX would take for a command."""
    escaped = "".join(_LATEX.get(sign, sign) for sign in text)
    return re.sub(r"^-(?=\d)", "$-$", escaped)  # a negative number


def to_latex(table: Table) -> str:
    """A ``table*`` a block, with the footnotes that it uses below it. Needs ``booktabs`` and ``graphicx``."""
    marks = footnotes(table)
    needs = "Needs booktabs and graphicx; shrunk to the width of the text, so give it a landscape page."
    lines = [f"% {table.title}. {needs}"]
    if not table.blocks:
        lines += [latex(remark) for remark in table.remarks]
    for number, block in enumerate(table.blocks):
        lines += _latex_block(table, block, marks, number)
    return "\n".join(lines) + "\n"


def _latex_block(table: Table, block: Block, marks: Mapping[str, str], number: int) -> list[str]:
    def mark(*sentences: str) -> str:
        found = list(dict.fromkeys(marks[sentence] for sentence in sentences if sentence))
        return f"\\textsuperscript{{{latex(','.join(found))}}}" if found else ""

    arrows = {"higher": " $\\uparrow$", "lower": " $\\downarrow$", "": ""}
    columns = table.columns
    heads = [latex(column.heading) + mark(column.note) + arrows[column.direction] for column in columns]
    units = [f"({latex(column.unit)})" if column.unit else "" for column in columns]
    lines = [
        "\\begin{table*}[tp]",
        "\\centering\\scriptsize\\setlength{\\tabcolsep}{2.5pt}",
        f"\\caption{{{latex(table.title.partition('. ')[2] or table.title)}. {latex(block.heading)}.}}",
        f"\\label{{tab:{table.name}-{number + 1}}}",
        f"\\resizebox{{\\textwidth}}{{!}}{{\\begin{{tabular}}{{ll{'r' * len(columns)}}}",
        "\\toprule",
        " & ".join([*map(latex, table.heads), *heads]) + r" \\",
    ]
    if any(units):
        lines.append(" & ".join(["", "", *units]) + r" \\")
    for group in block.groups:
        lines.append("\\midrule" if group is block.groups[0] else "\\addlinespace")
        for line in group.lines:
            ours = line not in group.published
            cells = [latex(group.label) + mark(*group.notes) if line is group.ours else ""]
            cells.append((latex(line.source) if ours else f"\\textit{{{latex(line.source)}}}") + mark(*line.notes))
            for column in columns:
                entry = line.entries.get(column.key, Entry())
                text = latex(entry.text)
                cells.append((text if ours or not text else f"\\textit{{{text}}}") + mark(*entry.notes))
            lines.append(" & ".join(cells) + r" \\")
    lines += ["\\bottomrule", "\\end{tabular}}", "", "\\medskip", "\\parbox{\\textwidth}{\\raggedright"]
    used = set(_sentences(block, columns)) | {column.note for column in columns}
    lines += [f"{latex(remark)}\\par" for remark in table.remarks]
    lines += [
        f"\\textsuperscript{{{latex(mark)}}}~{latex(sentence)}\\par"
        for sentence, mark in marks.items()
        if sentence in used
    ]
    return [*lines, "}", "\\end{table*}", ""]
