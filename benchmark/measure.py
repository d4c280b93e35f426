"""The verb ``measure``: one cell's clips, measured against the dense clips from the same noise."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from benchmark.cell import Cell, add_cell_arguments, from_arguments, from_record
from benchmark.inputs import read_inputs
from benchmark.records import Damaged, make_record, read_record, sha256_file, transient, write_json
from benchmark.supervise import announce

logger = logging.getLogger(__name__)


def measure(
    reference: dict[str, Any], candidate: dict[str, Any], metrics: list[str], settings: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Measures the clips of a ``generate`` record against those of another.

    Args:
        reference: record of the dense clips.
        candidate: record of the clips that are measured.
        metrics: names of metrics.
        settings: settings by metric.

    Returns:
        A record of kind ``measure``: means over clips, and each clip's numbers. Where either record did not pass,
        neither does this one, for the reason given there.

    Raises:
        Damaged: a clip's file is missing, or not the one recorded.
        ValueError: the clips did not start from the same noise or prompts.
    """
    from tqdm import tqdm

    from benchmark.clips import read_clip
    from benchmark.compare import compare_frames, summarise
    from benchmark.metric import prepare

    for record in (reference, candidate):
        if record["kind"] != "generate":
            raise ValueError(f"measure: a record of kind {record['kind']!r}; records of the verb generate are needed")
    cell = from_record(candidate)
    for record in (candidate, reference):
        if record["status"] != "passed":
            reason = f"{record['cell']['method']} clips: {record['reason']}"
            return make_record("measure", cell, record["status"], reason=reason)
    theirs, ours = reference["provenance"]["hashes"], candidate["provenance"]["hashes"]
    for name in ("noise", "prompts"):
        if theirs[name] != ours[name]:
            raise ValueError(
                f"measure: {cell.method} and its reference did not start from the same {name} "
                f"({ours[name][:12]}, {theirs[name][:12]}); make both again"
            )
    for what in ("name", "prompt", "seed"):
        first, second = ([clip[what] for clip in record["clips"]] for record in (reference, candidate))
        if first != second:
            raise ValueError(f"measure: {cell.method} has clips of {what} {second}, its reference of {first}")
    ready = prepare(metrics, settings)
    results = []
    pairs = list(zip(reference["clips"], candidate["clips"], strict=True))
    for first, second in tqdm(pairs, desc=f"measuring {cell.model} {cell.length} {cell.method}", unit="clip"):
        paths = [_file(record, clip) for record, clip in ((reference, first), (candidate, second))]
        found = compare_frames(read_clip(paths[0]), read_clip(paths[1]), ready, prompt=second["prompt"])
        results.append({"name": second["name"], **found})
    summary = summarise(results, ready)
    values = {
        column.key: summary[column.key] for metric in ready for column in metric.metric.columns if column.key in summary
    }
    units = {column.key: column.unit for metric in ready for column in metric.metric.columns if column.key in values}
    details = {
        "metrics": {
            metric.name: {
                "status": summary["status"][metric.name],
                "reason": summary["reasons"].get(metric.name),
                "columns": [column.key for column in metric.metric.columns if column.key in values],
                "footnotes": [
                    summary["footnotes"][column.key]
                    for column in metric.metric.columns
                    if column.key in summary["footnotes"]
                ],
                "flags": {
                    flag: count
                    for flag, count in summary["flags"].items()
                    if flag.startswith(tuple(column.key for column in metric.metric.columns))
                },
            }
            for metric in ready
        },
        "frames": summary["frames"],
        "provenance": summary["provenance"],
        "parts": summary["parts"],
    }
    return make_record(
        "measure",
        cell,
        "passed",
        values,
        clips=[{"name": found["name"], "values": found["values"], "flags": found["flags"]} for found in results],
        units=units,
        details=details,
        hashes={
            "noise": ours["noise"],
            "prompts": ours["prompts"],
            "reference_clips": theirs["clips"],
            "candidate_clips": ours["clips"],
        },
    )


def _file(record: dict[str, Any], clip: dict[str, Any]) -> Path:
    """A clip's file, if it is the one recorded."""
    path = Path(record["details"]["folder"]) / clip["name"]
    if not path.exists():
        raise Damaged(f"clip {path}: the file is missing; make {record['cell']['method']} again")
    if sha256_file(path) != clip["sha256"]:
        raise Damaged(
            f"clip {path}: not the file that was recorded (SHA-256 differs); make {record['cell']['method']} again"
        )
    return path


def _settings(text: str) -> dict[str, Any]:
    """Settings of a metric from a command line.

    Raises:
        argparse.ArgumentTypeError: the text is no JSON object.
    """
    try:
        found = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON ({error})") from None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object; settings by name are needed")
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb ``measure``."""
    parser.description = "Measures the clips of one cell against the dense clips from the same noise."
    parser.epilog = (
        "example: python -m benchmark measure --model testbed-nano --frames 16 --height 48 --width 48 --method radial "
        "--inputs results/quick/inputs/testbed-nano/1x/seed7 --reference dense/generate.json --candidate "
        "radial/generate.json --metrics psnr,ssim,adherence --record measure.json"
    )
    add_cell_arguments(parser)
    parser.add_argument("--inputs", type=Path, required=True, help="folder written by the verb inputs")
    parser.add_argument("--reference", type=Path, required=True, help="record of the dense clips")
    parser.add_argument("--candidate", type=Path, required=True, help="record of the clips to measure")
    parser.add_argument("--metrics", default="psnr,ssim,lpips", help="names, with commas (default: %(default)s)")
    parser.add_argument("--lpips-weights", type=Path, help="weights of LPIPS's AlexNet trunk")
    parser.add_argument("--lpips-download", action="store_true", help="download them if they are not at hand")
    parser.add_argument(
        "--vision-reward",
        type=_settings,
        default={},
        metavar="JSON",
        help='settings of vision_reward, such as \'{"judge": "visionreward-video", "model": "FOLDER", "fps": 16}\'',
    )
    parser.add_argument("--record", type=Path, required=True, help="record to write")


def run(args: argparse.Namespace) -> int:
    """The verb ``measure``."""
    cell = from_arguments(args)
    announce("measure", cell, args.record)
    settings = {
        "lpips": {"weights": args.lpips_weights, "download": args.lpips_download},
        "vision_reward": args.vision_reward,
    }
    names = [name.strip() for name in args.metrics.split(",") if name.strip()]
    settings = {key: value for key, value in settings.items() if key in names}
    try:
        record = _measure(cell, args, names, settings)
    except Damaged as error:
        # A result of this cell, so that the tables are made and show it.
        record = make_record("measure", cell, "error", reason=str(error), details=transient(error.files))
    except MemoryError as error:
        record = make_record("measure", cell, "out_of_memory", reason=str(error) or "too little memory to measure")
    except OSError as error:
        record = make_record("measure", cell, "error", reason=f"{type(error).__name__}: {error}", details=transient())
    write_json(args.record, record)
    if record["status"] != "passed":
        logger.warning("%s: %s: %s", args.method, record["status"], record["reason"])
    return 0


def _measure(
    cell: Cell, args: argparse.Namespace, metrics: list[str], settings: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """The record of the clips that the options name.

    Raises:
        Damaged: noise, prompts or a clip are not as recorded.
        ValueError: the records are of another cell, or of other inputs.
    """
    paths = (args.reference, args.candidate)
    reference, candidate = records = [read_record(path) for path in paths]
    if from_record(candidate) != cell:
        raise ValueError(f"measure: {args.candidate} is the record of another cell: {from_record(candidate)}")
    made = all(record["kind"] == "generate" and record["status"] == "passed" for record in records)
    if made:
        _, _, hashes = read_inputs(args.inputs)
        for record, path in zip(records, paths, strict=True):
            if record["provenance"]["hashes"]["noise"] != hashes["noise"]:
                raise ValueError(
                    f"measure: the clips of {path} did not start from the noise in {args.inputs}; remake them"
                )
        for record, path in zip(records, paths, strict=True):
            _check_clips(record, path)
    return measure(reference, candidate, metrics, settings)


def _check_clips(record: dict[str, Any], path: Path) -> None:
    """Refuses a record whose clips are damaged, and says that it has to be made again."""
    try:
        for clip in record["clips"]:
            _file(record, clip)
    except Damaged as error:
        raise Damaged(str(error), [path]) from None
