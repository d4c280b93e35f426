"""Compare clips with their references: two files, or two folders whose clips are paired by file name."""

from __future__ import annotations

import argparse
import json
import logging
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.clips import READABLE_SUFFIXES, read_clip
from benchmark.metric import Measurement, Metric, PreparedMetric, check_pair, discover, prepare

logger = logging.getLogger(__name__)

EXAMPLE = """example:
  python -m benchmark compare results/dense.mkv results/radial.mkv --json
  python -m benchmark compare clips/dense/ clips/radial/ --metrics psnr,ssim
"""


@dataclass(frozen=True)
class ClipPair:
    """A candidate and the clip that it is compared with."""

    name: str
    reference: Path
    candidate: Path


def pair_clips(reference: Path, candidate: Path) -> list[ClipPair]:
    """Two files are one pair; the clips of two folders are paired by file name.

    In a folder, files whose name starts with a point or does not end like a clip's are passed over.

    Returns:
        Pairs, sorted by name.

    Raises:
        ValueError: a path that does not exist, a file against a folder, a folder without clips, or a clip without
            its partner; the message names them.
    """
    reference, candidate = Path(reference), Path(candidate)
    for path in (reference, candidate):
        if not path.exists():
            raise ValueError(f"{path}: no such clip or folder")
    if reference.is_dir() != candidate.is_dir():
        folder, file = (reference, candidate) if reference.is_dir() else (candidate, reference)
        raise ValueError(f"{folder} is a folder and {file} a file; two files or two folders are compared")
    if not reference.is_dir():
        return [ClipPair(candidate.name, reference, candidate)]

    names = {folder: _clip_names(folder) for folder in (reference, candidate)}
    for folder, found in names.items():
        if not found:
            raise ValueError(f"{folder}: holds no clip (a file ending in {', '.join(READABLE_SUFFIXES)})")
    for folder, other in ((reference, candidate), (candidate, reference)):
        if missing := sorted(names[other] - names[folder]):
            raise ValueError(f"{folder}: lacks {', '.join(missing)}, which {other} has; clips are paired by file name")
    return [ClipPair(name, reference / name, candidate / name) for name in sorted(names[reference])]


def compare_frames(
    reference: np.ndarray, candidate: np.ndarray, metrics: Sequence[PreparedMetric], **facts: Any
) -> dict[str, Any]:
    """Measure one clip with several metrics.

    Args:
        reference, candidate: ``uint8`` (frames, height, width, 3), of the same shape.
        metrics: from ``benchmark.metric.prepare``.
        facts: what is known of the clip, such as ``prompt``; handed to every metric.

    Returns:
        ``frames`` (count); ``values`` and ``flags`` by column or flag; ``status`` and ``reasons`` by metric;
        ``provenance``; ``parts`` by column. A metric whose code fails has the status ``error``, one whose package is
        missing ``unsupported``.

    Raises:
        ValueError: clips that differ in shape or are too small for a metric.
    """
    check_pair(reference, candidate)
    result: dict[str, Any] = {"frames": len(reference), "values": {}, "flags": {}, "status": {}, "reasons": {}}
    result["provenance"], result["parts"] = {}, {}
    for metric in metrics:
        measurement = _measurement(metric, reference, candidate, facts)
        result["values"].update(measurement.values)
        result["flags"].update(measurement.flags)
        result["status"][metric.name] = measurement.status
        result["provenance"].update(measurement.provenance)
        result["parts"].update(measurement.parts)
        if measurement.reason:
            result["reasons"][metric.name] = measurement.reason
    return result


def _measurement(
    metric: PreparedMetric, reference: np.ndarray, candidate: np.ndarray, facts: Mapping[str, Any]
) -> Measurement:
    """What a metric finds; one that fails, or lacks a package, takes none of the others with it."""
    try:
        return metric.measure(reference, candidate, **facts)
    except (ValueError, OSError, MemoryError):  # clips that cannot be measured so, or no room: no metric's fault
        raise
    except ModuleNotFoundError as error:
        return Measurement.unsupported(f"the package {str(error.name).partition('.')[0]} is not installed")
    except Exception as error:  # a metric is anybody's code: its failure is a result, and the traceback is in the log
        logger.error("metric %s failed:\n%s", metric.name, traceback.format_exc())
        reason = " ".join(str(error).split())
        return Measurement("error", reason=f"{type(error).__name__}: {reason}")


def compare_clips(
    reference: Path,
    candidate: Path,
    metrics: Sequence[str] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Measure one clip, or a folder of clips, against references.

    Args:
        reference, candidate: two files or two folders.
        metrics: names of metrics; None means all that compare with a reference.
        settings: settings by metric, see ``benchmark.metric.prepare``.

    Returns:
        One mean over clips for each column, by its key (each clip counts once; a column that some clip lacks is left
        out); ``frames``, the number of frames compared in all; ``flags``, summed over clips; ``status`` and
        ``reasons`` by metric; ``footnotes`` by column; ``provenance``; ``parts``, their means by column; and ``clips``,
        what ``compare_frames`` returns for each, with its ``name``.

    Raises:
        ValueError: paths that do not pair, clips that cannot be read or differ in shape, unknown metrics or settings.
    """
    from tqdm import tqdm

    available = discover()
    pairs = pair_clips(reference, candidate)
    ready = prepare(default_metrics(available) if metrics is None else metrics, settings, available)
    clips = []
    for pair in tqdm(pairs, desc="comparing clips", unit="clip", disable=None if len(pairs) > 1 else True):
        first, second = read_clip(pair.reference), read_clip(pair.candidate)
        try:
            clips.append({"name": pair.name, **compare_frames(first, second, ready)})
        except ValueError as error:
            raise ValueError(f"{pair.reference} against {pair.candidate}: {error}") from error
    return {"reference": str(reference), "candidate": str(candidate), **summarise(clips, ready)}


def summarise(clips: Sequence[Mapping[str, Any]], metrics: Sequence[PreparedMetric]) -> dict[str, Any]:
    """Means over clips, and what belongs beside them; see ``compare_clips``.

    A metric's status is ``passed`` only if every clip's is.

    Raises:
        ValueError: no clips.
    """
    if not clips:
        raise ValueError("no clips to summarise; at least one is needed")
    summary: dict[str, Any] = {}
    footnotes, status, reasons = {}, {}, {}
    for metric in metrics:
        # A metric's settings may decide what must be said of its numbers, such as whose judgement they are.
        stated = metric.context.get("footnotes", {})
        for column in metric.metric.columns:
            values = [clip["values"][column.key] for clip in clips if column.key in clip["values"]]
            footnote = stated.get(column.key, column.footnote)
            if values and footnote:
                footnotes[column.key] = footnote
            if len(values) == len(clips):
                summary[column.key] = float(np.mean(values))
        failed = [clip for clip in clips if clip["status"][metric.name] != "passed"]
        status[metric.name] = failed[0]["status"][metric.name] if failed else "passed"
        if failed:
            reasons[metric.name] = failed[0]["reasons"][metric.name]
    flags: dict[str, int] = {}
    for clip in clips:
        for name, count in clip["flags"].items():
            flags[name] = flags.get(name, 0) + count
    provenance = {key: value for clip in clips for key, value in clip["provenance"].items()}
    return {
        **summary,
        "frames": sum(clip["frames"] for clip in clips),
        "flags": flags,
        "status": status,
        "reasons": reasons,
        "footnotes": footnotes,
        "provenance": provenance,
        "parts": _mean_parts([clip["parts"] for clip in clips]),
        "clips": [dict(clip) for clip in clips],
    }


def _mean_parts(clips: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Means over clips of what numbers were put together from; what some clip lacks is left out."""
    found = {}
    for column in clips[0]:
        if all(column in clip for clip in clips):
            names = [name for name in clips[0][column] if all(name in clip[column] for clip in clips)]
            found[column] = {name: float(np.mean([clip[column][name] for clip in clips])) for name in names}
    return found


def default_metrics(available: Mapping[str, Metric]) -> list[str]:
    """The names of the metrics that compare with a reference."""
    return [name for name, metric in available.items() if metric.needs_reference]


def _clip_names(folder: Path) -> set[str]:
    return {
        path.name
        for path in folder.iterdir()
        if path.is_file() and path.suffix in READABLE_SUFFIXES and not path.name.startswith(".")
    }


def table(result: Mapping[str, Any], metrics: Mapping[str, Metric]) -> str:
    """A result of ``compare_clips`` as lines of text: one row a clip, their mean, and the notes."""
    columns = [column for name in result["status"] for column in metrics[name].columns if column.key in result]
    marks = {key: "*" * number for number, key in enumerate(result["footnotes"], start=1)}
    head = ["clip", "frames"]
    for column in columns:
        unit = f" ({column.unit})" if column.unit else ""
        head.append(f"{column.label}{unit}{marks.get(column.key, '')}")
    rows = [[clip["name"], clip["frames"], clip["values"]] for clip in result["clips"]]
    if len(rows) > 1:
        rows.append(["mean", result["frames"], result])
    cells = [
        [name, str(frames), *(f"{values[column.key]:.{column.decimals}f}" for column in columns)]
        for name, frames, values in rows
    ]
    widths = [max(len(row[index]) for row in [head, *cells]) for index in range(len(head))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in [head, *cells]]
    lines += [f"{name}: {count} of {result['frames']} frames" for name, count in result["flags"].items()]
    lines += [f"{name}: {result['status'][name]}: {reason}" for name, reason in result["reasons"].items()]
    lines += [f"{marks[key]} {text}" for key, text in result["footnotes"].items()]
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.description = "Measure two clips, or two folders of clips paired by file name, frame by frame."
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("reference", type=Path, metavar="REFERENCE", help="clip or folder to compare with")
    parser.add_argument("candidate", type=Path, metavar="CANDIDATE", help="clip or folder to measure")
    parser.add_argument("--json", action="store_true", help="print JSON: means, frames in all, flags, and each clip")
    parser.add_argument(
        "--metrics", metavar="NAMES", help="metrics, separated by commas (default: all that compare with a reference)"
    )
    parser.add_argument("--lpips-weights", metavar="PATH", help="torchvision's AlexNet weights, for LPIPS")
    parser.add_argument(
        "--lpips-download", action="store_true", help="allow these weights to be downloaded into torch's hub cache"
    )
    parser.add_argument("--device", default="cpu", help="torch device of metrics that use one (default: cpu)")


def run(args: argparse.Namespace) -> int:
    """Compare and print. Returns the exit status: 0, or 1 where a metric ended with an error."""
    available = discover()
    names = None if args.metrics is None else [name.strip() for name in args.metrics.split(",") if name.strip()]
    settings: dict[str, dict[str, Any]] = {
        name: {"device": args.device} for name, metric in available.items() if "device" in metric.settings
    }
    if args.lpips_weights is not None:
        settings.setdefault("lpips", {})["weights"] = args.lpips_weights
    if args.lpips_download:
        settings.setdefault("lpips", {})["download"] = True
    result = compare_clips(args.reference, args.candidate, names, settings)
    print(json.dumps(result, indent=2) if args.json else table(result, available))
    return 1 if "error" in result["status"].values() else 0
