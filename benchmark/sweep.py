"""Plans the paper's models over the number of frames: the operations of Figure 2, and those at the tables' shapes."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmark import models, registry
from benchmark.config import is_testbed
from benchmark.operations import generation_operations
from benchmark.plan import plan
from benchmark.records import provenance, write_json

logger = logging.getLogger(__name__)

FORMAT = 1
FIGURE2_FRAMES = (125, 189, 253, 317, 381, 445, 509)
"""Frames of HunyuanVideo from the trained length to four times it."""
FIGURE2_METHODS = ("dense", "radial")

EXAMPLE = """example:
  python -m benchmark sweep --experiment quick --out results/quick/operations.json
  python -m benchmark sweep --experiment quick --models hunyuanvideo --out operations.json
"""

Point = tuple[str, int, int, int, str]


def points(names: Iterable[str]) -> list[Point]:
    """What is planned: (model, frames, height, width, method).

    Figure 2's frames of HunyuanVideo with dense and radial attention, and the shapes of Tables 1 and 2 of every model
    with every method. Testbeds are left out: their operations are in their records.

    Raises:
        ValueError: a model is unknown.
    """
    found: dict[Point, None] = {}
    for name in names:
        spec = models.get(name)
        if is_testbed(name):
            continue
        if name == "hunyuanvideo":
            for frames in FIGURE2_FRAMES:
                found |= {
                    (name, frames, spec.default.height, spec.default.width, method): None for method in FIGURE2_METHODS
                }
        shapes = [(frames, spec.default.height, spec.default.width) for frames in spec.lengths.values()]
        if spec.table1:
            shapes.append(tuple(spec.table1))
        found |= {(name, *shape, method): None for shape in shapes for method in registry.names()}
    return list(found)


def sweep(names: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The plans of ``points``, methods at their default knobs, with the operations of self-attention among them.

    Yields:
        What ``plan`` returns, and in units of 10^15 operations ``attention_pflop_pass`` and
        ``attention_pflop_pass_dense`` (one forward pass, the method in all layers) and ``attention_pflop`` and
        ``attention_pflop_dense`` (a whole generation with its schedule).
    """
    for model, frames, height, width, method in points(names):
        found = plan(model, method, frames=frames, height=height, width=width)
        yield found | attention(found)


def attention(found: dict[str, Any]) -> dict[str, float]:
    """The operations of self-attention in a plan, in units of 10^15.

    A method changes no other operations, so its own are what the plan's totals leave beside those of dense attention.
    """
    spec = models.get(found["model"])
    layout = spec.layout(found["frames"], found["height"], found["width"], found["text_tokens"])
    schedule = {name: found[name] for name in ("steps", "dense_steps", "dense_layers", "passes")}
    in_pass = generation_operations(spec, layout, steps=1, passes=1).self_attention / 1e15
    in_all = generation_operations(spec, layout, **schedule).self_attention / 1e15
    return {
        "attention_pflop_pass_dense": in_pass,
        "attention_pflop_pass": in_pass - (found["pflop_pass_dense"] - found["pflop_pass"]),
        "attention_pflop_dense": in_all,
        "attention_pflop": in_all - (found["pflop_dense"] - found["pflop"]),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.description = "Plan the paper's models over the number of frames and at the shapes of its tables."
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--experiment", default="adhoc", help="whose results these are (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON file to write")
    parser.add_argument("--models", nargs="+", default=models.names(), metavar="MODEL", help="default: all models")


def run(args: argparse.Namespace) -> int:
    """Plans and writes. Returns the exit status."""
    import torch
    from tqdm import tqdm

    torch.set_num_threads(1)  # masks are planned in many small steps, which threads only slow down
    number = len(points(args.models))
    plans = list(tqdm(sweep(args.models), total=number, desc="planning", unit="plan"))
    content = {"format": FORMAT, "experiment": args.experiment, "plans": plans, "provenance": provenance()}
    write_json(args.out, content)
    logger.info("%d plans in %s", len(plans), args.out)
    return 0
