"""The verb ``resume``: makes an experiment go on, on a bare machine, from the records of it that are committed.

Of each cell whose committed records are what this configuration and this checkout would measure, the records are copied
to where a run looks for its own, so that Snakemake runs the other cells only. Clips and adapters are not committed.
Where cells are left to measure, the dense clips that they are compared with are drawn again, and a tuned cell whose
adapter another cell needs is left to be tuned again. Of a run's own folder (``--from``), which has them, adapters and
clips are taken as well, also of tuned cells whose clips are not all drawn. Prompts and noise follow from their seeds
and are written, too.

Snakemake goes by the files' dates, so everything is written here in the order in which it depends on each other; what
was taken before is written once more.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark import probed, registry
from benchmark.cell import Cell
from benchmark.cells import cells, reference_of
from benchmark.config import ROOT, load, weights_files
from benchmark.lineage import place_of
from benchmark.packed import unpacked_names
from benchmark.publish_records import OTHERS
from benchmark.records import Damaged, describe_device, read_record, sha256_file, write_json
from benchmark.reference import REFERENCE, copy_file
from benchmark.tuning import places

logger = logging.getLogger(__name__)

Records = dict[str, dict[str, Any]]
"""Records of a cell by their kind."""

FINAL = ("passed", "unsupported")
"""Statuses of which another machine of the kind would find no other."""
JUDGE = ROOT / "benchmark" / "testbed" / "weights" / "judge.safetensors"

EXAMPLE = """example:
  python -m benchmark resume --configfile config/testbed.yaml
  snakemake --cores all --configfile config/testbed.yaml
"""


@dataclass
class Resumed:
    """What a run goes on from.

    Args:
        taken: paths of the cells whose committed records were taken.
        own: those that have records of a run on this machine.
        left: those that are left to run, with the reason.
        drawn: references whose clips were drawn again, with whether they are those of the record, byte for byte.
        tuned: those among ``left`` whose adapter was taken: only their clips are left.
    """

    taken: list[str] = field(default_factory=list)
    own: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    drawn: dict[str, bool] = field(default_factory=dict)
    tuned: list[str] = field(default_factory=list)


def resume(config: Mapping[str, Any], committed: Path, results: Path | str = "results", device: str = "cpu") -> Resumed:
    """Puts inputs, records and the dense clips that are needed into place.

    Args:
        config: checked.
        committed: such as ``results/reference/testbed``, with ``records``; or a run's own folder, whose ``adapters``
            and ``clips`` are then taken as well.
        results: folder of all experiments.
        device: draws the dense clips, ``cpu`` or ``cuda``.

    Raises:
        ValueError: nothing is there to go on from, a record is not as it was written, cells are left to run and the
            records are of another kind of device, or dense clips cannot be drawn.
    """
    if not (committed / "records").exists():
        raise ValueError(f"{committed / 'records'}: no such folder; publish-records writes it")
    found, folder = Resumed(), Path(results) / config["experiment"]
    every = cells(config)
    inputs = {cell.inputs: _inputs(cell, folder) for cell in every}
    held: dict[Path, Records] = {}
    for cell in every:
        place = cell.path.as_posix()
        records, own = read(committed, cell), read(folder, cell)
        if own and own != records:
            found.own.append(place)
            continue
        reason = differs(cell, records, inputs[cell.inputs], config["metrics"])
        if reason is None:
            held[cell.path] = records
        else:
            found.left[place] = reason
    _leave_tunings(every, held, committed, found)
    if found.left:
        _check_device(held, device)
    unmeasured = [cell for cell in every if cell.path not in held and "measure" not in read(folder, cell)]
    needed = {reference_of(cell, every).path for cell in unmeasured}
    for cell in every:
        if cell.path not in needed or cell.path not in held or _has_clips(held[cell.path]["generate"]):
            continue
        if not _taken_clips(cell, held, committed):
            found.drawn[cell.path.as_posix()] = _draw(cell, held, folder, device)
    for cell in every:
        record = _taken_tuning(cell, committed) if cell.path.as_posix() in found.left else None
        if record is not None:
            write_json(places.record_of(cell, results), record)
            found.tuned.append(cell.path.as_posix())
    for kind in ("tune", "generate", "measure"):
        for path, records in held.items():
            if kind in records:
                write_json(folder / "records" / path / f"{kind}.json", records[kind])
    _take_others(committed, folder, config, every, inputs)
    found.taken = [path.as_posix() for path in held]
    return found


def _take_others(
    committed: Path,
    folder: Path,
    config: Mapping[str, Any],
    every: Sequence[Cell],
    inputs: Mapping[Path, Mapping[str, str]],
) -> None:
    """Copies what is measured of a model besides its cells, where all of it is here and it is what a run would measure.

    Without its arrays, which are not committed, attention is measured anew.
    """
    length = probed.length(config, (cell.length for cell in every))
    for model in dict.fromkeys(cell.model for cell in every):
        at = inputs[Path(model) / length / f"seed{config['prompts']['seed']}"]
        expected = {**at, "weights": sha256_file(ROOT / weights_files(model)[0])}
        for name in OTHERS:
            record = committed / name / f"{model}.json"
            own, arrays = folder / record.relative_to(committed), record.with_suffix(".npz")
            if not record.exists() or own.exists() or (name == "attention" and not arrays.exists()):
                continue
            found = _other(json.loads(record.read_text()), name, config, length, expected)
            if found is not None:
                logger.info("%s is not taken: %s", record, found)
                continue
            if arrays.exists():
                copy_file(arrays, own.with_suffix(".npz"))
            copy_file(record, own)


def _other(
    record: Mapping[str, Any], kind: str, config: Mapping[str, Any], length: str, expected: Mapping[str, str]
) -> str | None:
    """Why a record of a model is not what a run would measure; None where it is."""
    hashes = record["provenance"]["hashes"]
    other = next((name for name, value in expected.items() if hashes.get(name) != value), None)
    if other is not None:
        return f"of another {other}"
    if kind == "attention":
        asked, told = {"prompts": probed.map_prompts(config, length)}, {"prompts": len(record["prompts"])}
    else:
        cell = record["cell"]
        asked = probed.error_passes(config, length) | {name: config[name] for name in ("budget", "block")}
        told = {name: cell[name] for name in ("steps", "dense_steps", "budget", "block")}
        told |= {"prompts": len(cell["seeds"]), "record_steps": len(record["details"]["steps_recorded"])}
    differing = (name for name in asked if told[name] != asked[name])
    return next((f"{name}={told[name]}, not {asked[name]}" for name in differing), None)


def read(folder: Path, cell: Cell) -> Records:
    """The records of a cell in an experiment's folder, by their kind; perhaps none.

    Raises:
        ValueError: a record is not as it was written.
    """
    paths = unpacked_names((folder / "records" / cell.path).glob("[!.]*.json*"))
    return {path.stem: read_record(path) for path in paths}


def differs(cell: Cell, records: Records, inputs: Mapping[str, str], metrics: Iterable[str]) -> str | None:
    """Why a cell has to be run in spite of its committed records; None where they are what a run would give.

    The code that measured is not looked at: records of different versions may meet, and tables say so.

    Args:
        inputs: hashes of the cell's noise and prompts.
        metrics: those that the configuration asks for.
    """
    wanted = {"generate": cell, "measure": cell} | ({"tune": cell} if cell.tuned and not cell.merged else {})
    for kind, of in wanted.items():
        record = records.get(kind)
        if record is None:
            return f"no {kind} record"
        if record["status"] not in FINAL:
            return f"{kind}: {record['status']}: {record['reason']}"
        of = places.of_tuning(of) if kind == "tune" else of
        settings = json.loads(json.dumps(of.settings()))
        if record["cell"] != settings:
            names = [name for name in {**settings, **record["cell"]} if settings.get(name) != record["cell"].get(name)]
            return f"{kind}: of another {', '.join(names)}"
    hashes = {kind: record["provenance"]["hashes"] for kind, record in records.items()}
    expected = dict(inputs) | {
        "weights": sha256_file(ROOT / weights_files(cell.model)[0]),
        "method": sha256_file(registry.source_file(cell.method)),
    }
    shipped = "shipped" in records.get("tune", {"details": {}})["details"]  # its method is as it was then
    for kind in ("generate",) if shipped else ("tune", "generate"):
        for name, value in expected.items():
            if hashes.get(kind, {}).get(name, value) != value:
                return f"{kind}: of another {name}"
    measured = records["measure"]
    if measured["status"] != "passed":
        return None
    if hashes["measure"].get("candidate_clips") != hashes["generate"].get("clips"):
        return "measure: of other clips"
    lacking = [name for name in metrics if name not in measured["details"]["metrics"]]
    if lacking:
        return f"measure: without {', '.join(lacking)}"
    judge = measured["details"].get("provenance", {}).get("vision_reward_weights")
    if judge is not None and (not JUDGE.exists() or judge != sha256_file(JUDGE)):
        return "measure: of another judge"
    return None


def _inputs(cell: Cell, folder: Path) -> dict[str, str]:
    """Hashes of a cell's noise and prompts, which are written where they are not there."""
    from benchmark.inputs import NOISE, PROMPTS, read_inputs, write_inputs

    place = folder / "inputs" / cell.inputs
    if not ((place / PROMPTS).exists() and (place / NOISE).exists()):
        write_inputs(cell.model, cell.frames, cell.height, cell.width, cell.clips, cell.seed, place)
    return read_inputs(place)[2]


def _leave_tunings(every: list[Cell], held: dict[Path, Records], committed: Path, found: Resumed) -> None:
    """Leaves tuned cells to be tuned again whose adapters are not there and are needed by cells that are left to run.

    A cell needs what it merges, and what its own tuning starts from unless that is done; so what is left to be tuned
    again may need another. Where the committed folder has adapters, they are taken.
    """
    for records in held.values():
        if "files" in records.get("tune", {"details": {}})["details"]:
            own = Path(records["tune"]["details"]["folder"])
            there = committed / "adapters" / _adapter(own)
            if not own.exists() and there.exists():
                shutil.copytree(there, own)
    left = [cell for cell in every if cell.path.as_posix() in found.left]
    for cell in left:  # grows
        begun = [cell.start] if cell.start and not (committed / "adapters" / cell.path).exists() else []
        for needed in (Path(*place_of(record)) for record in (*cell.merged, *begun)):
            details = held.get(needed, {}).get("tune", {"details": {}})["details"]
            if "files" in details and not Path(details["folder"]).exists():
                del held[needed]
                found.left[needed.as_posix()] = f"its adapter is not there, and {cell.path.as_posix()} needs it"
                left.append(next(other for other in every if other.path == needed))


def _taken_tuning(cell: Cell, committed: Path) -> dict[str, Any] | None:
    """The record of a cell's tuning, with the adapter put into place, where the committed folder has both."""
    record = read(committed, cell).get("tune")
    if not cell.tuned or cell.merged or record is None or record["status"] != "passed":
        return None
    own = Path(record["details"]["folder"])
    there = committed / "adapters" / _adapter(own)
    method = record["provenance"]["hashes"].get("method")
    if own.exists() or not there.exists() or method != sha256_file(registry.source_file(cell.method)):
        return None
    try:
        places.check(record, there, cell, sha256_file(ROOT / weights_files(cell.model)[0]))
    except (ValueError, Damaged) as error:
        logger.warning("%s: its adapter is not taken: %s", cell.path, error)
        return None
    shutil.copytree(there, own)
    return record


def _adapter(folder: Path) -> Path:
    """An adapter's folder below ``adapters``."""
    parts = folder.parts
    return Path(*parts[parts.index("adapters") + 1 :]) if "adapters" in parts else Path(folder.name)


def _check_device(held: Mapping[Path, Records], device: str) -> None:
    """Refuses records of another kind of device, before time is spent: ``collect`` would refuse them in one table."""
    here = describe_device(device)
    for path, records in held.items():
        there = records["generate"]["provenance"]["device"]
        if there.get("type") != here["type"] or (here["type"] != "cpu" and there.get("name") != here["name"]):
            raise ValueError(
                f"{path}: drawn on {there.get('name')}, here there is {here['name']}; one GPU model is needed for all "
                "cells"
            )


def _has_clips(generated: Mapping[str, Any]) -> bool:
    """Whether all clips of a record are there."""
    folder = Path(generated["details"].get("folder", "."))
    return all(
        (folder / clip["name"]).exists() and sha256_file(folder / clip["name"]) == clip["sha256"]
        for clip in generated["clips"]
    )


def _taken_clips(cell: Cell, held: Mapping[Path, Records], committed: Path) -> bool:
    """Copies a cell's clips where the committed folder has them all. Returns whether it has."""
    generated = held[cell.path]["generate"]
    own, there = Path(generated["details"]["folder"]), committed / "clips" / cell.path
    names = [clip["name"] for clip in generated["clips"]]
    if not all((there / name).exists() for name in names):
        return False
    own.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copyfile(there / name, own / name)
    return _has_clips(generated)


def _draw(cell: Cell, held: dict[Path, Records], folder: Path, device: str) -> bool:
    """Draws a reference's clips again. Returns whether they are those of its record, byte for byte.

    Where they are not, the record of the new clips takes the place of the old one, and its measurement is left to be
    made; measurements against the old clips stay, each with the hash of the clips that it was made against.

    Raises:
        ValueError: the clips cannot be drawn.
    """
    from benchmark.generate import generate

    before = held[cell.path]["generate"]
    anew = generate(cell, folder / "inputs" / cell.inputs, folder / "clips" / cell.path, device)
    if anew["status"] != "passed":
        raise ValueError(f"{cell.path}: its clips cannot be drawn again: {anew['status']}: {anew['reason']}")
    same = [record["provenance"]["hashes"]["clips"] for record in (before, anew)]
    if same[0] == same[1]:
        return True
    logger.warning("%s: the clips drawn here are not those of its record, byte for byte", cell.path)
    held[cell.path] = {"generate": anew}
    return False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.description = (
        "Make an experiment go on from its committed records, on a machine that has none of its results."
    )
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--configfile", type=Path, required=True, metavar="FILE", help="such as config/testbed.yaml")
    parser.add_argument(
        "--from",
        dest="committed",
        type=Path,
        metavar="FOLDER",
        help="what is gone on from (default: results/reference/EXPERIMENT)",
    )
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of all experiments")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="draws the dense clips (default: cuda where it is)")


def run(args: argparse.Namespace) -> int:
    """Resumes, and prints what is taken and what is left."""
    from benchmark.testbed.sample import pick_device

    config = load(args.configfile, budgets=False)  # the run will look at them
    committed = args.committed or REFERENCE / config["experiment"]
    found = resume(config, committed, args.results, pick_device(args.device))
    for place, reason in found.left.items():
        print(f"left to run: {place} ({reason})")
    for place in found.tuned:
        print(f"tuned already: {place}")
    for place, same in found.drawn.items():
        print(f"drawn again: {place} ({'the same bytes' if same else 'other bytes'})")
    print(f"{len(found.taken)} cells taken, {len(found.own)} there already, {len(found.left)} left to run")
    return 0
