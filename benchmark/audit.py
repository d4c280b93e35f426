"""The verb ``audit``: whether an experiment's results are still what its records say, and can be made again.

Three things are looked at:

1. Every file that a record names (clips, prompts, noise, weights, method, attention maps) is hashed again.
2. Every record is held against itself and the others: its seal, its place, its clips' common hash, the means over its
   clips, and the row that the collected table shows for it.
3. A random share of the cells is made again: clips anew from the stored noise in a temporary folder, metrics anew
   from the stored clips.

**Tolerance.** Where processor (with its instructions) or GPU, threads, Python and all packages are those of the record,
it is zero: the same bytes and the same numbers are needed. Elsewhere a clip made anew must be as near to the stored one
as the noise floor allows, which the control ``dense_repeated`` of the same results measured (``least_psnr``), and a
number measured anew from the stored clips must agree to ``RELATIVE`` of itself or ``ABSOLUTE``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import random
import secrets
import shlex
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark import registry
from benchmark.canonical import canonical_record, record_files
from benchmark.cell import REFERENCE, from_record
from benchmark.config import ROOT, weights_files
from benchmark.packed import file_of
from benchmark.records import describe_device, provenance, read_record, sha256_file
from benchmark.testbed import shards
from benchmark.tolerance import ABSOLUTE, CONTROL, RELATIVE, least_psnr

logger = logging.getLogger(__name__)

DEVICE = ("type", "name", "instructions", "threads", "cuda", "driver")
"""What of a device decides how sums are rounded."""

EXAMPLE = """example:
  python -m benchmark audit --experiment quick
  python -m benchmark audit --experiment quick --share 1 --seed 7
Exit status: 0 nothing differs, 1 something does, 2 there is nothing to audit.
"""


@dataclass
class Audit:
    """What an audit found.

    Args:
        seed: the seed that drew the cells.
        cells, records, files: how many there are; ``files`` were hashed.
        remade: the cells that were made again, with how they were compared.
        differences: one line each.
    """

    seed: int
    cells: int = 0
    records: int = 0
    files: int = 0
    remade: dict[str, str] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)


def audit(experiment: str, share: float = 0.05, seed: int | None = None, results: Path | str = "results") -> Audit:
    """Audits an experiment.

    Args:
        share: share of the cells that are made again, above 0 and at most 1; at least one is.
        seed: draws these cells; None draws a seed.
        results: folder of all experiments. Records name their clips relative to the current folder.

    Raises:
        ValueError: an impossible share or seed, or no records.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share}: a share of the cells above 0 and at most 1 is needed")
    if seed is not None and seed < 0:
        raise ValueError(f"seed={seed}: at least 0 is needed")
    folder = Path(results) / experiment
    found = Audit(secrets.randbelow(2**32) if seed is None else seed)
    records = _read(record_files(experiment, results), found)
    found.records = len(records)
    spoiled = _check_files(records, folder, found)
    for name, record in records.items():
        _guarded(found, name, lambda name=name, record=record: _check_record(name, record, records, folder))
    _check_table(records, folder, found)
    cells = sorted({_place(record) for record in records.values() if record["kind"] == "generate"})
    found.cells = len(cells)
    chosen = random.Random(found.seed).sample(cells, min(len(cells), max(1, math.ceil(share * len(cells) - 1e-9))))
    _remake(sorted(chosen), records, folder, spoiled, found)
    found.differences = list(dict.fromkeys(found.differences))
    return found


def _read(paths: Iterable[Path], found: Audit) -> dict[str, dict[str, Any]]:
    """The records by their file's name; what is none is a difference."""
    records = {}
    for path in paths:
        try:
            record = read_record(path)
            _place(record), record["kind"], record["provenance"]["hashes"], record["clips"], record["values"]
        except (KeyError, TypeError, AttributeError) as error:
            found.differences.append(f"record {path}: damaged: {type(error).__name__}: {error}")
        except ValueError as error:
            found.differences.append(_line(error))
        else:
            records[path.as_posix()] = record
    return records


def _place(record: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Model, length, method and variant or tuning, as in a record's path."""
    return from_record(record).path.parts


def _guarded(found: Audit, name: str, check) -> None:
    """Adds what a check says; a record that the check cannot read is a difference too."""
    try:
        found.differences += check()
    except (KeyError, TypeError, AttributeError) as error:
        found.differences.append(f"record {name}: damaged: {type(error).__name__}: {error}")


# --- files ------------------------------------------------------------------------------------------------------------


def _check_files(records: Mapping[str, Mapping[str, Any]], folder: Path, found: Audit) -> set[str]:
    """Hashes every file that a record names, once. Returns the records that name one that is not as recorded."""
    from tqdm import tqdm

    claims: dict[tuple[str, str, str], list[str]] = {}
    for name, record in records.items():
        try:
            for path, what, expected in _claims(record, folder):
                claims.setdefault((path.as_posix(), what, expected), []).append(name)
        except (KeyError, TypeError, AttributeError) as error:
            found.differences.append(f"record {name}: damaged: {type(error).__name__}: {error}")
    for path in sorted((folder / "attention").glob("*.json")):
        try:
            hashes = json.loads(path.read_text())["provenance"]["hashes"]
            claims[(path.with_suffix(".npz").as_posix(), "file", hashes["attention"])] = [path.as_posix()]
        except (ValueError, KeyError, TypeError) as error:
            found.differences.append(f"record {path}: damaged: {_line(error)}")
    actual = {}
    for path, what in tqdm(sorted({key[:2] for key in claims}), desc="hashing", unit="file"):
        actual[path, what] = _hash(Path(path), what)
    found.files = len({path for path, _ in actual})
    spoiled: set[str] = set()
    for (path, what, expected), names in sorted(claims.items()):
        if actual[path, what] == expected:
            continue
        spoiled.update(names)
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        says = f"SHA-256 is {actual[path, what][:12]}" if len(actual[path, what]) == 64 else actual[path, what]
        found.differences.append(f"file {path}: {says}, {str(expected)[:12]} is recorded in {names[0]}{more}")
    return spoiled


def _claims(record: Mapping[str, Any], folder: Path) -> Iterator[tuple[Path, str, str]]:
    """The files that a record names: path, what of it is hashed, and the hash recorded."""
    from benchmark.inputs import NOISE, PROMPTS

    cell, hashes = record["cell"], record["provenance"]["hashes"]
    inputs = folder / "inputs" / from_record(record).inputs
    weights = ROOT / weights_files(cell["model"])[0]
    places = {
        "noise": (inputs / NOISE, "noise"),
        "prompts": (inputs / PROMPTS, "file"),
        "method": (registry.source_file(cell["method"]), "file"),
        "weights": (weights, "file"),
    }
    for key, (path, what) in places.items():
        if key in hashes and not (key == "method" and "shipped" in record["details"]):  # as it was when it was tuned
            yield path, what, hashes[key]
    if "weights" in hashes:
        for shard, expected in _shards(weights).items():
            yield shard, "file", expected
    if record["kind"] == "tune":
        for file, expected in record["details"].get("files", {}).items():
            yield Path(record["details"]["folder"]) / file, "file", expected
    if record["kind"] == "generate":
        for clip in record["clips"]:
            yield Path(record["details"]["folder"]) / clip["name"], "file", clip["sha256"]


def _shards(weights: Path) -> dict[Path, str]:
    """The shards that an index of weights names, with the hashes that it states; none of weights in one file.

    A record's hash of weights is that of their index, so index and shards together are what the record is about. An
    index that cannot be read names none: it is a difference itself.
    """
    try:
        return shards.stated(weights) if shards.is_index(weights) else {}
    except (OSError, ValueError):
        return {}


def _hash(path: Path, what: str) -> str:
    """SHA-256 of a file, or of the noise inside it; in other words why there is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from benchmark.records import sha256_tensor

    try:
        return sha256_file(path) if what == "file" else sha256_tensor(load_file(path)["noise"])
    except FileNotFoundError:
        return "the file is missing"
    except (OSError, KeyError, SafetensorError) as error:
        return f"cannot be read ({_line(error)})"


# --- records ----------------------------------------------------------------------------------------------------------


def _check_record(
    name: str, record: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]], folder: Path
) -> list[str]:
    """What a record contradicts: its own place, itself, or the record of the clips that it is about."""
    place, kind, hashes = _place(record), record["kind"], record["provenance"]["hashes"]
    expected = _name(folder, place, kind)
    lines = [] if name == expected else [f"record {name}: it is about another cell, that of {expected}"]
    clips = record["clips"]
    if kind == "tune":  # it is about an adapter, and has no clips
        return lines
    if record["status"] == "passed" and len(clips) != record["cell"]["clips"]:
        lines.append(f"record {name}: {len(clips)} clips of {record['cell']['clips']}")
    if kind == "generate" and record["status"] == "passed":
        together = hashlib.sha256("".join(clip["sha256"] for clip in clips).encode()).hexdigest()
        if together != hashes.get("clips"):
            lines.append(f"record {name}: hashes.clips is not that of its clips")
    if kind == "generate" and not file_of(_name(folder, place, "measure")).exists():
        lines.append(f"record {name}: the measure record of its cell is missing")
    if kind == "measure" and record["status"] == "passed":
        for key, value in record["values"].items():
            own = [clip["values"][key] for clip in clips if key in clip["values"]]
            if not own or not math.isclose(sum(own) / len(own), value, rel_tol=1e-9, abs_tol=1e-12):
                mean = sum(own) / len(own) if own else None
                lines.append(f"record {name}: {key} is {value}, the mean over its clips {mean}")
        for key, of in (("candidate_clips", place), ("reference_clips", _reference(record, records))):
            made = records.get(_name(folder, of, "generate"))
            if made is None:
                if not file_of(_name(folder, of, "generate")).exists():  # a damaged one has its own line
                    lines.append(f"record {name}: the generate record of {'/'.join(of)} is missing")
            elif hashes.get(key) != made["provenance"]["hashes"].get("clips"):
                lines.append(f"record {name}: {key} is not the hash of the clips of {'/'.join(of)}")
    return lines


def _reference(record: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """The place of the dense cell that a cell's clips are compared with: of its model, length and seed."""
    wanted = from_record(record).inputs
    for other in records.values():
        cell = from_record(other)
        if other["kind"] == "generate" and cell.method == REFERENCE and not cell.tuned and cell.inputs == wanted:
            return cell.path.parts
    return (*_place(record)[:2], REFERENCE, "untuned")


def _control(record: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The measurement of the repeated dense clips of a cell's model, length and seed; None where there is none."""
    wanted = from_record(record).inputs
    for other in records.values():
        cell = from_record(other)
        if other["kind"] == "measure" and cell.method == CONTROL and not cell.tuned and cell.inputs == wanted:
            return other
    return None


def _name(folder: Path, place: tuple[str, ...], kind: str) -> str:
    return (folder / "records").joinpath(*place, f"{kind}.json").as_posix()


def _check_table(records: Mapping[str, Mapping[str, Any]], folder: Path, found: Audit) -> None:
    """Holds the collected table, where there is one, against the records that it was collected from."""
    import pyarrow
    import pyarrow.parquet

    path = folder / "records.parquet"
    if not path.exists():
        return
    try:
        rows = pyarrow.parquet.read_table(path, columns=["record", "metric", "value", "status", "date"]).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        found.differences.append(f"table {path}: cannot be read ({_line(error)})")
        return
    for row in rows:
        record = records.get(row["record"])
        # A record that was made anew since has another date: its table is old, not wrong.
        if record is None or record["provenance"].get("date") != row["date"] or row["status"] != "passed":
            continue
        value = record["values"].get(row["metric"])
        if value is None or float(value) != row["value"]:
            found.differences.append(f"record {row['record']}: {row['metric']} is {value}, {path} has {row['value']}")


# --- made again -------------------------------------------------------------------------------------------------------


def _remake(
    chosen: list[tuple[str, str, str, str]],
    records: Mapping[str, Mapping[str, Any]],
    folder: Path,
    spoiled: set[str],
    found: Audit,
) -> None:
    """Makes cells again and compares them with their records."""
    import torch
    from tqdm import tqdm

    threads = torch.get_num_threads()
    try:
        for place in tqdm(chosen, desc="made again", unit="cell"):
            name = _name(folder, place, "generate")
            if name not in records:
                continue
            cell = "/".join(place)
            try:
                control = _control(records[name], records)
                exact, lines = _remake_clips(name, records[name], folder, least_psnr(control))
            except (ValueError, TypeError, KeyError, OSError) as error:
                # A file that is not as recorded has its own line already.
                exact, lines = "not possible", [] if name in spoiled else [f"record {name}: cannot be made again: "]
                lines = [line + _line(error) for line in lines]
            found.remade[cell] = exact
            found.differences += lines
            measured = _name(folder, place, "measure")
            reference = _name(folder, _reference(records[name], records), "generate")
            if measured not in records or reference not in records or {name, reference} & spoiled:
                continue
            try:
                found.differences += _measure_again(measured, records[measured], records[reference], records[name])
            except (ValueError, TypeError, KeyError, OSError) as error:
                found.differences.append(f"record {measured}: cannot be measured again: {_line(error)}")
    finally:
        torch.set_num_threads(threads)


def _remake_clips(name: str, record: Mapping[str, Any], folder: Path, least: float) -> tuple[str, list[str]]:
    """Draws a cell's clips anew. Returns how they were compared, and the differences.

    Args:
        least: dB that a clip made on another machine must have to the stored one.
    """
    import torch

    from benchmark.generate import generate

    recorded = record["provenance"]["device"]
    device = "cuda" if recorded["type"] == "cuda" and torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(recorded.get("threads", 1))  # the number of threads changes the order of sums
    cell = from_record(record)
    with tempfile.TemporaryDirectory(prefix="audit-") as temporary:
        anew = generate(cell, folder / "inputs" / cell.inputs, Path(temporary), device)
        if "transient" in anew["details"]:
            raise ValueError(anew["reason"])
        others = what_differs(record["provenance"], provenance() | {"device": describe_device(device)})
        forms = [canonical_record(one) for one in (record, anew)]
        for form in forms:  # the files behind these hashes have been looked at
            form["hashes"] = {key: form["hashes"][key] for key in ("mask", "clips") if key in form["hashes"]}
        if not others:
            return "bit for bit", [f"record {name}: {line}" for line in _compare(*forms)]
        for form in forms:
            form["hashes"].pop("clips", None)
            form["clips"] = [{key: clip[key] for key in clip if key != "sha256"} for clip in form["clips"]]
            for name in ("kernel", "dense_kernel"):
                form["details"].pop(name, None)
        lines = list(_compare(*forms, RELATIVE, ABSOLUTE))
        lines += _far_clips(record, Path(temporary), least) if anew["status"] == record["status"] == "passed" else []
    return f"to {least:.1f} dB: other {', '.join(others)}", [f"record {name}: {line}" for line in lines]


def what_differs(recorded: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What of two provenances can change a clip's bytes and is not the same: packages, Python, device."""
    found = [
        key for key, version in sorted(here["packages"].items()) if recorded["packages"].get(key, "missing") != version
    ]
    found += ["python"] if recorded["python"] != here["python"] else []
    first, second = recorded["device"], here["device"]
    return found + [key for key in DEVICE if first.get(key) != second.get(key)]


def _far_clips(record: Mapping[str, Any], folder: Path, least: float) -> Iterator[str]:
    """The clips that lie farther from those made anew than another machine explains."""
    import numpy as np

    from benchmark.clips import read_clip

    for clip in record["clips"]:
        stored = read_clip(Path(record["details"]["folder"]) / clip["name"]).astype(np.float64)
        anew = read_clip(folder / clip["name"])
        if stored.shape != anew.shape:
            yield f"clip {clip['name']}: shape {stored.shape}, made anew {anew.shape}"
            continue
        error = float(np.mean((stored - anew) ** 2))
        psnr = math.inf if error == 0 else 10 * math.log10(255**2 / error)
        if psnr < least:
            yield f"clip {clip['name']}: {psnr:.2f} dB to the one made anew; at least {least:.1f} dB is needed"


def _measure_again(
    name: str, record: Mapping[str, Any], reference: Mapping[str, Any], candidate: Mapping[str, Any]
) -> list[str]:
    """Measures the stored clips anew, with the metrics and weights of the record."""
    from benchmark.measure import measure

    metrics = list(record["details"].get("metrics", {}))
    if record["status"] == "passed" and not metrics:
        return [f"record {name}: it names no metrics"]
    settings = _settings(record["provenance"]["command"])
    settings = {metric: settings[metric] for metric in metrics if metric in settings}
    anew = measure(dict(reference), dict(candidate), metrics, settings)
    # The machine of a measurement is that of its clips, unless these are from a GPU.
    own = record["provenance"] | {"device": {"name": record["provenance"]["system"]}}
    here = provenance()
    exact = not what_differs(own, here | {"device": {"name": here["system"]}})
    of_clips, own = candidate["provenance"]["device"], describe_device("cpu")
    if of_clips.get("type") == "cpu":
        exact = exact and all(of_clips.get(key) == own[key] for key in ("name", "instructions"))
    tolerance = (0.0, 0.0) if exact else (RELATIVE, ABSOLUTE)
    lines = list(_compare(canonical_record(record), canonical_record(anew), *tolerance))
    return [f"record {name}: {line}" for line in lines]


def _settings(command: str) -> dict[str, dict[str, Any]]:
    """The settings of metrics that a recorded command named; a download is never repeated.

    Raises:
        ValueError: they cannot be read.
    """
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--lpips-weights")
    parser.add_argument("--vision-reward", type=json.loads, default={})
    try:
        found, _ = parser.parse_known_args(shlex.split(command))
        judge = found.vision_reward | {"download": False}
    except (argparse.ArgumentError, TypeError) as error:
        raise ValueError(f"the command of the record: {error}") from None
    return {"lpips": {"weights": found.lpips_weights, "download": False}, "vision_reward": judge}


def _compare(recorded: Any, anew: Any, relative: float = 0.0, absolute: float = 0.0, where: str = "") -> Iterator[str]:
    """Every place where two trees differ, as a line."""
    if isinstance(recorded, Mapping) and isinstance(anew, Mapping):
        for key in sorted({*recorded, *anew}):
            inner = f"{where}.{key}" if where else str(key)
            if key not in recorded or key not in anew:
                yield f"{inner}: only in the {'one made anew' if key in anew else 'record'}"
            else:
                yield from _compare(recorded[key], anew[key], relative, absolute, inner)
    elif isinstance(recorded, list) and isinstance(anew, list):
        if len(recorded) != len(anew):
            yield f"{where}: {len(recorded)} entries are recorded, {len(anew)} were made anew"
        for number, (first, second) in enumerate(zip(recorded, anew, strict=False)):
            yield from _compare(first, second, relative, absolute, f"{where}[{number}]")
    elif not _agree(recorded, anew, relative, absolute):
        yield f"{where}: {_short(recorded)} is recorded, anew it is {_short(anew)}"


def _agree(recorded: Any, anew: Any, relative: float, absolute: float) -> bool:
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (recorded, anew))
    if numbers:
        return recorded == anew or math.isclose(recorded, anew, rel_tol=relative, abs_tol=absolute)
    return recorded == anew


def _short(value: Any) -> str:
    words = str(value)
    return words[:12] if len(words) == 64 and " " not in words else words


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def summary(found: Audit) -> str:
    """What was looked at and what came out, as lines of text."""
    lines = [f"{found.records} records of {found.cells} cells, {found.files} files hashed"]
    lines += [f"made again: {cell} (compared {how})" for cell, how in found.remade.items()]
    count = len(found.differences)
    lines.append(f"{count} difference{'s' * (count != 1)}; the cells made again were drawn with --seed {found.seed}")
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.description = "Measure a random share of the cells anew, and hash every file that a record names."
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--experiment", required=True, help="experiment whose results are audited")
    parser.add_argument(
        "--share", type=float, default=0.05, help="share of the cells that are made again (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, help="draws these cells (default: another one each time)")


def run(args: argparse.Namespace) -> int:
    """Audits and prints. Returns 1 where something differs."""
    found = audit(args.experiment, args.share, args.seed)
    for line in found.differences:
        print(line)
    print(summary(found))
    return 1 if found.differences else 0
