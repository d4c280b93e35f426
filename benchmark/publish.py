"""The verb ``publish``: puts a testbed's trained weights into the repository, with what is known of them.

Weights are inputs of the benchmark: no rule writes them, so that a clone never retrains what it was shipped with.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from pathlib import Path

from benchmark.records import describe_device, provenance, sha256_file, write_json

logger = logging.getLogger(__name__)

LARGEST = 8_000_000  # bytes of one file of weights


def publish(name: str, source: Path, device: str, clips: int, long_clips: int) -> dict:
    """Checks and evaluates trained weights, copies them and their training record, and lists them in the manifest.

    Args:
        source: folder written by the verb ``train``.
        clips, long_clips: clips to evaluate on, at the trained length and at the longest.

    Returns:
        The entry of the manifest.

    Raises:
        ValueError: a file is missing, too large, or not the one that the training record names.
    """
    from benchmark import models
    from benchmark.models import testbed
    from benchmark.testbed.evaluate import evaluate

    spec = models.get(name)
    weights, record = source / f"{name}.safetensors", source / f"{name}.training.json"
    for path in (weights, record):
        if not path.exists():
            raise ValueError(f"publish: {path} is missing; python -m benchmark train writes it")
    if weights.stat().st_size > LARGEST:
        raise ValueError(f"publish: {weights} has {weights.stat().st_size} bytes; at most {LARGEST} are allowed")
    digest = sha256_file(weights)
    try:
        training = json.loads(record.read_text())
        stated = training["sha256"]
    except (ValueError, KeyError) as error:
        raise ValueError(f"publish: {record}: no training record ({error})") from None
    if stated != digest:
        raise ValueError(f"publish: {weights}: SHA-256 is {digest}, the training record says {stated}")
    found = evaluate(testbed.load(name, device, source), spec, clips, long_clips, device)
    folder = testbed.WEIGHTS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    if weights.resolve() != (folder / weights.name).resolve():  # published weights may be evaluated anew in place
        shutil.copyfile(weights, folder / weights.name)
    write_json(
        folder / record.name,
        training | {"evaluation": found | {"provenance": provenance() | {"device": describe_device(device)}}},
    )
    entry = {
        "file": weights.name,
        "sha256": digest,
        "bytes": weights.stat().st_size,
        "parameters": training["parameters"],
        "training_record": record.name,
        "adherence": found["adherence"],
        "repetition": found["repetition"],
    }
    path = folder / "manifest.json"
    listed = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, listed | {name: entry})
    return entry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb ``publish``."""
    parser.description = "Evaluates a testbed's trained weights and puts them into the repository."
    parser.epilog = "example: python -m benchmark publish --model testbed-nano --from results/quick/training"
    parser.add_argument("--model", default="testbed-nano", help="the testbed (default: %(default)s)")
    parser.add_argument("--from", dest="source", type=Path, required=True, help="folder written by the verb train")
    parser.add_argument("--clips", type=int, default=64, help="clips at the trained length (default: %(default)s)")
    parser.add_argument("--long-clips", type=int, default=12, help="clips at the longest (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")


def run(args: argparse.Namespace) -> int:
    """The verb ``publish``."""
    from benchmark.testbed.sample import pick_device

    entry = publish(args.model, args.source, pick_device(args.device), args.clips, args.long_clips)
    print(json.dumps(entry, indent=1))
    return 0
