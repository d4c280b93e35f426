"""The verb ``publish``: puts the trained weights of a testbed, or of its judge, into the repository.

Weights are inputs of the benchmark: no rule writes them, so that a clone never retrains what it was shipped with.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from pathlib import Path
from types import MappingProxyType

from benchmark.records import describe_device, provenance, sha256_file, write_json

logger = logging.getLogger(__name__)

LARGEST = MappingProxyType({"testbed-nano": 8_000_000, "testbed-base": 20_000_000})  # bytes of all weights
JUDGE = "judge"  # what of a testbed's clips the metric vision_reward asks
LARGEST_FILE = 16_000_000  # bytes of one file


def publish(name: str, source: Path, device: str, clips: int, long_clips: int) -> dict:
    """Checks and evaluates trained weights, copies them and their training record, and lists them in the manifest.

    The picture of samples is copied too, if the verb ``train`` drew one, and the loss is drawn over the steps.

    Args:
        source: folder written by the verb ``train``.
        clips, long_clips: clips to evaluate on, at the trained length and at the longest. With 0 clips the evaluation
            in the training record counts, made where the weights were trained.

    Returns:
        The entry of the manifest.

    Raises:
        ValueError: a file is missing, too large, or not the one that the training record names; or there is no
            evaluation.
    """
    from benchmark import models
    from benchmark.models import testbed
    from benchmark.testbed import shards
    from benchmark.testbed.evaluate import evaluate

    if name not in LARGEST:
        raise ValueError(f"publish: model {name!r}: what is published here: {', '.join((*LARGEST, JUDGE))}")
    spec = models.get(name)
    record = source / f"{name}.training.json"
    try:
        weights = shards.find(source, name)
    except ValueError:
        weights = source / f"{name}.safetensors"
    for path in (weights, record):
        if not path.exists():
            raise ValueError(f"publish: {path} is missing; python -m benchmark train writes it")
    files = shards.parts(weights)
    size = sum(path.stat().st_size for path in files)
    if size > LARGEST[name]:
        raise ValueError(f"publish: {weights} has {size} bytes; at most {LARGEST[name]} are allowed")
    for path in files:
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(f"publish: {path} has {path.stat().st_size} bytes; a file may have {LARGEST_FILE}")
    digest = sha256_file(weights)
    try:
        training = json.loads(record.read_text())
        stated = training["sha256"]
    except (ValueError, KeyError) as error:
        raise ValueError(f"publish: {record}: no training record ({error})") from None
    if stated != digest:
        raise ValueError(f"publish: {weights}: SHA-256 is {digest}, the training record says {stated}")
    transformer = testbed.load(name, device, source)  # also checks each shard
    if clips:
        found = evaluate(transformer, spec, clips, long_clips, device)
        found = found | {"provenance": provenance() | {"device": describe_device(device)}}
    elif "evaluation" in training:
        found = training["evaluation"]
    else:
        raise ValueError(f"publish: {record} holds no evaluation; train with --evaluate, or publish with --clips")
    folder = testbed.WEIGHTS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    picture = source / f"{name}.samples.png"
    for path in [*files, *([picture] if picture.exists() else [])]:
        if path.resolve() != (folder / path.name).resolve():  # published weights may be evaluated anew in place
            shutil.copyfile(path, folder / path.name)
    write_json(folder / record.name, training | {"evaluation": found})
    if training.get("curve"):
        draw_curve(training, folder / f"{name}.curve.png")
    entry = {
        "file": weights.name,
        "sha256": digest,
        "bytes": size,
        "parameters": training["parameters"],
        "training_record": record.name,
        "adherence": found["adherence"],
        "repetition": found["repetition"],
    }
    path = folder / "manifest.json"
    listed = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, listed | {name: entry})
    return entry


def draw_curve(training: dict, path: Path) -> None:
    """The loss over the steps of all runs that led to the weights, as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    runs = [training]
    while "start" in runs[0]:
        runs.insert(0, runs[0]["start"])
    figure, axes = pyplot.subplots(figsize=(6, 3), layout="constrained")
    done = 0
    for number, run in enumerate(runs, 1):
        which = f"run {number}: " if len(runs) > 1 else ""
        for frames in sorted({point.get("frames", run["settings"]["frames"]) for point in run["curve"]}):
            points = [p for p in run["curve"] if p.get("frames", run["settings"]["frames"]) == frames]
            steps, losses = [done + p["step"] for p in points], [p["loss"] for p in points]
            axes.semilogy(steps, losses, label=f"{which}{frames} frames")
        done += run["steps"]
    axes.set(xlabel="optimizer steps", ylabel="loss")
    axes.legend()
    figure.savefig(path, dpi=120, metadata={"Software": None})
    pyplot.close(figure)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb ``publish``."""
    parser.description = "Evaluates a testbed's trained weights and puts them into the repository; or those of a judge."
    parser.epilog = "example: python -m benchmark publish --model testbed-nano --from results/quick/training"
    parser.add_argument("--model", default="testbed-nano", help=f"the testbed, or {JUDGE} (default: %(default)s)")
    parser.add_argument(
        "--from", dest="source", type=Path, required=True, help="folder written by the verb train, or train_judge"
    )
    parser.add_argument(
        "--clips",
        type=int,
        default=64,
        help="clips at the trained length, or 0 to keep the evaluation in the training record (default: %(default)s)",
    )
    parser.add_argument("--long-clips", type=int, default=12, help="clips at the longest (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")


def run(args: argparse.Namespace) -> int:
    """The verb ``publish``."""
    from benchmark.models import testbed
    from benchmark.reward import train_judge
    from benchmark.testbed.sample import pick_device

    if args.model == JUDGE:  # its evaluation is part of its training
        entry = train_judge.publish(args.source, testbed.WEIGHTS_FOLDER)
    else:
        entry = publish(args.model, args.source, pick_device(args.device), args.clips, args.long_clips)
    print(json.dumps(entry, indent=1))
    return 0
