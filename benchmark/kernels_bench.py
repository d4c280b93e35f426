"""Attention kernels at a model's shape: first the check against exact attention, then the time.

A kernel that fails its check gets no time. All are timed in one process on one GPU with the same random inputs, beside
the matrix product that says what the GPU can do at that moment.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmark import models, registry
from benchmark.budget import at_budget, has_budget
from benchmark.kernel_times import DENSE, Options, Shape, bench, kernel
from benchmark.layout import VideoLayout
from benchmark.method import Method
from benchmark.records import write_json

EXAMPLE = """example:
  python -m benchmark kernels_bench --model hunyuanvideo --frames 117 --height 768 --width 1280 \\
      --methods dense,radial --set radial.decay=0.95 --set radial.sink=false --kernels flash4,sdpa:cudnn --record k.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``kernels_bench``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = __doc__, EXAMPLE
    parser.add_argument("--model", required=True, help="model, as in benchmark/models")
    parser.add_argument("--frames", type=int, help="frames of the clip (default: the model's)")
    parser.add_argument("--height", type=int, help="pixels (default: the model's)")
    parser.add_argument("--width", type=int, help="pixels (default: the model's)")
    parser.add_argument("--text", type=int, help="text tokens in the sequence (default: the model's)")
    parser.add_argument("--heads", type=int, help="fewer heads, for a trial (default: the model's)")
    parser.add_argument("--block", type=int, default=128, help="tokens a block (default: %(default)s)")
    parser.add_argument("--methods", default="dense,radial", help="comma-separated; dense is always measured")
    parser.add_argument("--set", dest="knobs", action="append", default=[], metavar="METHOD.KNOB=VALUE")
    parser.add_argument("--budget", type=float, help="density that the methods' knobs are solved for")
    parser.add_argument(
        "--kernels", default="flash4,flex,sdpa:cudnn,sdpa:flash", help="comma-separated (default: %(default)s)"
    )
    parser.add_argument("--backward", action="store_true", help="forward and backward together, too")
    parser.add_argument("--complete", action="store_true", help="the methods' whole operators, too")
    parser.add_argument("--tune", action="store_true", help="every variant of the kernels, too")
    parser.add_argument("--repeat", type=int, default=10, help="calls that are timed (default: %(default)s)")
    parser.add_argument("--warmup", type=int, default=2, help="calls before those (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=512, help="sampled queries of the check (default: %(default)s)")
    parser.add_argument("--limit-s", type=float, help="begin nothing after so many seconds, nor what would end later")
    parser.add_argument("--seed", type=int, default=0, help="of inputs and sampled queries (default: %(default)s)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu is for trials only")
    parser.add_argument("--record", type=Path, required=True, help="where the record is written")


def run(args: argparse.Namespace) -> int:
    """Measures, prints a table and writes the record. A machine without a GPU gets the record ``unsupported``.

    Raises:
        ValueError: an unknown model, method, knob or kernel, or a shape that the model can't have.
    """
    spec = models.get(args.model)
    layout = spec.layout(args.frames, args.height, args.width, args.text)
    layout.blocks(args.block)
    clip = [
        own if given is None else given
        for given, own in zip((args.frames, args.height, args.width), spec.default, strict=True)
    ]
    heads = spec.heads if args.heads is None else args.heads
    for name, value, least in (
        ("heads", heads, 1),
        ("repeat", args.repeat, 1),
        ("warmup", args.warmup, 0),
        ("rows", args.rows, 2),
    ):
        if value < least:
            raise ValueError(f"{name}={value}: at least {least} is needed")
    shape = Shape(args.model, *clip, layout.text, args.block, heads, spec.head_dim, layout.tokens, args.seed)
    if args.limit_s is not None and not args.limit_s > 0:
        raise ValueError(f"limit-s={args.limit_s:g}: more than 0 seconds are needed")
    options = Options(
        _words(args.kernels), args.repeat, args.warmup, args.rows, args.backward, args.complete, args.tune, args.limit_s
    )
    for name in options.kernels:
        kernel(name, replace(shape, block=128), "cpu", True)  # refuses names that are unknown, before anything runs
    methods = choose_methods(_words(args.methods), args.knobs, args.budget, layout, args.block, heads)
    record = bench(shape, layout, methods, options, args.device)
    write_json(args.record, record)
    print(table(record))
    return 0


def choose_methods(
    names: tuple[str, ...], settings: list[str], budget: float | None, layout: VideoLayout, block: int, heads: int
) -> list[Method]:
    """The methods with their knobs, solved for the budget if there is one; dense comes first, always.

    Args:
        settings: ``method.knob=value``.

    Raises:
        ValueError: a method or knob is unknown, or a value is not allowed.
    """
    names = tuple(dict.fromkeys((DENSE, *names)))
    of: dict[str, list[str]] = {name: [] for name in names}
    for setting in settings:
        name, _, rest = setting.partition(".")
        if name not in of or "=" not in rest:
            raise ValueError(f"--set {setting}: METHOD.KNOB=VALUE is needed, with a method of {', '.join(names)}")
        of[name].append(rest)
    methods = [registry.get(name, registry.parse_knobs(name, words)) for name, words in of.items()]
    if budget is None:
        return methods
    return [at_budget(one, layout, block, budget, heads) if has_budget(one, layout, block) else one for one in methods]


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def table(record: dict[str, Any]) -> str:
    """The entries of a record as text."""
    lines = [f"{record['status']}{': ' + record['reason'] if record['reason'] else ''}"]
    if record["status"] != "passed":
        return lines[0]
    lines = [f"matrix product {record['values']['matmul_tflops']:.1f} TFLOP/s; {record['details']['layout']}"]
    for found in record["details"]["planning"]:
        lines.append(f"planning {found['method']}: mask {_planned(found)}")
    for entry in record["details"]["entries"]:
        if "lists" in entry:
            lines.append(f"planning {entry['method']}: lists of {entry['kernel']} {_planned(entry['lists'])}")
    head = f"{'method':<14}{'kernel':<26}{'what':<10}{'density':>8}{'ms':>10}{'quartiles':>20}{'TFLOP/s':>9}"
    lines.append(head + f"{'matmul':>8}{'dense':>8}{'error':>10}")
    for entry in record["details"]["entries"]:
        density = f"{entry['density']:.4f}" if "density" in entry else "-"
        start = f"{entry['method']:<14}{entry['kernel']:<26}"
        if entry["status"] != "passed":
            lines.append(f"{start}{entry['status']}: {entry['reason']}")
        if entry.get("backends"):
            lines.append(f"{start}computed by {', '.join(entry['backends'])}")
        training = entry.get("training", {"status": "passed"})
        if training["status"] != "passed":
            lines.append(f"{start}training {training['status']}: {training['reason']}")
        values = entry["values"]
        for name in ("forward", "training", "complete"):
            if f"{name}_s" not in values:
                continue
            low, high = (1e3 * values[f"{name}_{end}_s"] for end in ("low", "high"))
            share = values.get(f"{name}_dense_share")
            error = entry.get("errors", {}).get("out")
            lines.append(
                f"{start}{name:<10}{density:>8}{1e3 * values[f'{name}_s']:>10.3f}{f'{low:.3f}..{high:.3f}':>20}"
                f"{values[f'{name}_tflops']:>9.1f}{values[f'{name}_matmul_share']:>8.3f}"
                f"{'-' if share is None else f'{share:.3f}':>8}{'-' if error is None else f'{error:.1e}':>10}"
            )
    names = ("method", "kernel", "what")
    left_out = ", ".join(" ".join(one[name] for name in names if name in one) for one in record["details"]["left_out"])
    return "\n".join([*lines, f"left out, since the time was over: {left_out}"] if left_out else lines)


def _planned(found: dict[str, Any]) -> str:
    """Seconds and peak memory of what was planned."""
    memory = "" if found["peak_mib"] is None else f", peak {found['peak_mib']:.0f} MiB"
    return f"{found['seconds']:.3f} s{memory}"
