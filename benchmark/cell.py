"""A cell: one model at one length under one method, with everything that decides its clips.

Every job is about one cell, and its command line states the whole cell, so that the command in a record can be run
again by hand and a change of the configuration reruns the cells that it touches and no others.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REFERENCE = "dense"
"""The method whose clips all others are compared with."""


@dataclass(frozen=True)
class Cell:
    """The settings of one cell.

    Args:
        experiment: name of the configuration; results go to ``results/<experiment>``.
        model: name of the model, as in ``benchmark/models``.
        length: name of the length, such as 1x.
        frames, height, width: the clip in frames and pixels.
        method: name of the method.
        knobs: knobs that differ from the method's defaults.
        budget: density that the method's knob is solved for; None keeps the knobs.
        block: tokens a block.
        kernel: attention kernel, or auto.
        steps: sampling steps.
        dense_steps: first steps that run dense attention.
        dense_layers: first layers that run dense attention.
        clips: number of prompts, each with its own noise.
        seed: seed of prompts and noise.
        tuned: whether the method's adapter is loaded.
        tuning_settings: how the adapter was trained, see ``tuning.settings``; empty where the cell is not tuned, or
            takes the adapters of others.
        variant: name of the variant that the cell is of, see ``variants`` of a configuration; empty where it has none.
            The reference of another seed has one, too.
        merged: records of other cells' tunings whose adapters it takes; several are merged, in their order. Empty where
            the cell has its own or none.
        start: record of the tuning that the cell's own one goes on from; empty where it starts from the base model.
    """

    experiment: str
    model: str
    length: str
    frames: int
    height: int
    width: int
    method: str
    knobs: dict[str, Any] = field(default_factory=dict)
    budget: float | None = None
    block: int = 128
    kernel: str = "auto"
    steps: int = 50
    dense_steps: int = 0
    dense_layers: int = 0
    clips: int = 1
    seed: int = 0
    tuned: bool = False
    tuning_settings: dict[str, Any] = field(default_factory=dict)
    variant: str = ""
    merged: list[str] = field(default_factory=list)
    start: str = ""

    @property
    def tuning(self) -> str:
        """``tuned`` or ``untuned``."""
        return "tuned" if self.tuned else "untuned"

    @property
    def path(self) -> Path:
        """The cell's folder below ``records`` or ``clips``: its last part is the variant, or else the tuning."""
        return Path(self.model) / self.length / self.method / (self.variant or self.tuning)

    @property
    def inputs(self) -> Path:
        """The folder of the cell's prompts and noise below ``inputs``."""
        return Path(self.model) / self.length / f"seed{self.seed}"

    def arguments(self) -> str:
        """The cell as command-line options, which ``from_arguments`` reads back."""
        words = [
            f"--experiment {self.experiment} --model {self.model} --length {self.length}",
            f"--frames {self.frames} --height {self.height} --width {self.width} --method {self.method}",
        ]
        words += [f"--set {key}={value}" for key, value in sorted(self.knobs.items())]
        if self.budget is not None:
            words.append(f"--budget {self.budget}")
        words.append(f"--block {self.block} --kernel {self.kernel} --steps {self.steps}")
        words.append(f"--dense-steps {self.dense_steps} --dense-layers {self.dense_layers}")
        words.append(f"--clips {self.clips} --seed {self.seed}")
        if self.tuned:
            words.append("--tuned")
            words += [f"--tune {key}={value}" for key, value in sorted(self.tuning_settings.items())]
            words += [f"--merge {path}" for path in self.merged]
            words += [f"--start {self.start}"] * bool(self.start)
        if self.variant:
            words.append(f"--variant {self.variant}")
        return " ".join(words)

    def settings(self) -> dict[str, Any]:
        """Every field, as it is written into records; what does not concern the cell is left out."""
        left_out = [name for name in ("variant", "merged", "start") if not getattr(self, name)]
        left_out += [] if self.tuned and not self.merged else ["tuning_settings"]
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in left_out}


def add_cell_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that state a cell."""
    group = parser.add_argument_group("the cell")
    group.add_argument("--experiment", default="adhoc", help="results go to results/EXPERIMENT (default: %(default)s)")
    group.add_argument("--model", required=True, help="model, as in benchmark/models")
    group.add_argument("--length", default="1x", help="name of the length (default: %(default)s)")
    group.add_argument("--frames", type=int, required=True, help="frames of the clip")
    group.add_argument("--height", type=int, required=True, help="pixels")
    group.add_argument("--width", type=int, required=True, help="pixels")
    group.add_argument("--method", required=True, help="method, as in methods/")
    group.add_argument("--set", dest="knobs", action="append", default=[], metavar="KNOB=VALUE", help="sets a knob")
    group.add_argument("--budget", type=float, help="density that the method's knob is solved for")
    group.add_argument("--block", type=int, default=128, help="tokens a block (default: %(default)s)")
    group.add_argument("--kernel", default="auto", help="attention kernel (default: %(default)s)")
    group.add_argument("--steps", type=int, default=50, help="sampling steps (default: %(default)s)")
    group.add_argument("--dense-steps", type=int, default=0, help="first steps run dense (default: %(default)s)")
    group.add_argument("--dense-layers", type=int, default=0, help="first layers run dense (default: %(default)s)")
    group.add_argument("--clips", type=int, default=1, help="prompts, each with its own noise (default: %(default)s)")
    group.add_argument("--seed", type=int, default=0, help="seed of prompts and noise (default: %(default)s)")
    group.add_argument("--tuned", action="store_true", help="with the method's adapter")
    group.add_argument(
        "--tune", action="append", default=[], metavar="NAME=VALUE", help="a setting of the adapter's tuning"
    )
    group.add_argument(
        "--merge",
        dest="merged",
        action="append",
        default=[],
        metavar="RECORD",
        help="with the adapter of this record of a tuning; several are merged",
    )
    group.add_argument(
        "--start", default="", metavar="RECORD", help="the cell's tuning goes on from what this record's tuning trained"
    )
    group.add_argument("--variant", default="", help="name of the variant, the last part of the cell's folder")


def from_arguments(args: argparse.Namespace) -> Cell:
    """The cell that parsed options state.

    Raises:
        ValueError: the method or a knob is unknown, or a knob's value is not allowed; a setting of a tuning is wrong,
            or stands beside an untuned cell or merged adapters.
    """
    from benchmark import registry
    from benchmark.tuning.settings import from_words

    if args.tune and not args.tuned:
        raise ValueError(f"--tune {args.tune[0]}: the cell is not tuned; --tuned is needed beside it")
    if args.merged and (args.tune or not args.tuned):
        raise ValueError(f"--merge {args.merged[0]}: --tuned is needed beside it, and no --tune: nothing is trained")
    if args.start and (args.merged or not args.tuned):
        raise ValueError(f"--start {args.start}: --tuned is needed beside it, and no --merge; a tuning starts there")
    values = {name: getattr(args, name) for name in Cell.__dataclass_fields__ if name != "tuning_settings"}
    values["tuning_settings"] = from_words(args.tune).as_dict() if args.tuned and not args.merged else {}
    values["knobs"] = registry.parse_knobs(args.method, args.knobs)
    registry.get(args.method, values["knobs"])
    return Cell(**values)


def from_record(record: dict[str, Any]) -> Cell:
    """The cell that a record was measured for."""
    return Cell(**record["cell"])


def canonical(cell: Cell) -> str:
    """The cell as one line of JSON, for hashes and comparisons."""
    return json.dumps(cell.settings(), sort_keys=True)
