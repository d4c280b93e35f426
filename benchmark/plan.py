"""What a method on a model comes to before anything runs: tokens, blocks, density and operations. Needs no GPU."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

import torch

from benchmark import models, operations, registry
from benchmark.blame import planning
from benchmark.budget import at_budget, refuse_solved, solved_knobs
from benchmark.config import is_testbed
from benchmark.method import Method
from benchmark.models import ModelSpec

LONG_FRAMES = 150
"""Up to so many frames a generation has the paper's default schedule, above it that of its long videos."""

EXAMPLE = """examples:
  python -m benchmark plan --model wan2.1-14b --frames 161 --height 720 --width 1280 --method radial --json
  python -m benchmark plan --model hunyuanvideo --frames 117 --height 768 --method radial --set decay=0.95
  python -m benchmark plan --model mochi-1 --method svg --budget 0.35
"""


def plan(
    model: str,
    method: str,
    *,
    frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    knobs: Mapping[str, Any] | None = None,
    budget: float | None = None,
    text_tokens: int | None = None,
    block: int | None = None,
    steps: int | None = None,
    dense_steps: int | None = None,
    dense_layers: int | None = None,
    passes: int | None = None,
) -> dict[str, Any]:
    """Tokens, mask and operations of a generation.

    Args:
        model, method: names.
        frames, height, width: the clip in frames and pixels; the model's own where None.
        knobs: knobs that differ from the method's defaults.
        budget: density that the method's knob is solved for; None keeps the knobs.
        text_tokens: text tokens in the attention sequence; the model's own where None.
        block: tokens a block; 128 where None, and 4 on a testbed.
        steps, passes: sampling steps, and forward passes a step; the model's own where None.
        dense_steps, dense_layers: first steps and layers with dense attention; where None, 12 steps and no layer for
            clips of up to 150 frames, 2 steps and 2 layers for longer ones.

    Returns:
        What was asked for, and

        - ``latent_grid``: latent frames, rows and columns of tokens;
        - ``tokens``: video tokens; ``text_tokens``: text tokens in the same sequence;
        - ``block_sparsity``: share of block pairs left out, over whole blocks of video tokens in the method's own
          order, as the paper counts it; None for a method that has no mask;
        - ``density``: executed query-key pairs over all pairs, text included (its operations over those of dense
          attention for a method that has no mask);
        - ``mask_hash``: SHA-256 of the mask; None for a method that has none;
        - ``pflop_pass_dense``, ``pflop_pass``: 10^15 operations of one forward pass with dense attention, and with the
          method in all layers;
        - ``pflop_dense``, ``pflop``: those of a whole generation, dense and with its schedule. All four count the
          transformer's blocks, as the paper does.

    Raises:
        ValueError: a name, shape, knob, budget or number of the schedule that is not possible; the nearest is named.
    """
    spec = models.get(model)
    if text_tokens and not spec.joint_text:
        raise ValueError(
            f"text_tokens={text_tokens}: {model} has no text in its attention sequence; only 0 is possible"
        )
    layout = spec.layout(frames, height, width, text_tokens)
    shape = [
        given if given is not None else own for given, own in zip((frames, height, width), spec.default, strict=True)
    ]
    block = block if block is not None else 4 if is_testbed(model) else 128
    long = shape[0] > LONG_FRAMES
    schedule = {
        "steps": spec.steps if steps is None else steps,
        "dense_steps": (2 if long else 12) if dense_steps is None else dense_steps,
        "dense_layers": (2 if long else 0) if dense_layers is None else dense_layers,
        "passes": spec.passes if passes is None else passes,
    }
    chosen = registry.get(method, knobs)
    layout.blocks(block)  # what this refuses, the method is not to blame for
    if budget is not None and knobs:
        with planning(method):
            solved = solved_knobs(chosen, layout, block)
        refuse_solved(chosen, knobs, solved, budget)
    with planning(method):
        if budget is not None:
            chosen = at_budget(chosen, layout, block, budget, spec.heads)
        mask = chosen.pattern(layout, block, spec.heads).mask if has_mask(chosen) else None
        layer = layer_operations(chosen, mask, spec, layout, block)
        density = chosen.density(layout, block, spec.heads, spec.head_dim) if mask is None else mask.density
    one = {"steps": 1, "passes": 1}
    return {
        "model": model,
        "method": method,
        "knobs": chosen.knobs(),
        "budget": budget,
        **dict(zip(("frames", "height", "width"), shape, strict=True)),
        "block": block,
        **schedule,
        "latent_grid": [layout.frames, layout.height, layout.width],
        "tokens": layout.video,
        "text_tokens": layout.text,
        "block_sparsity": None if mask is None else mask.video_block_sparsity(layout),
        "density": density,
        "mask_hash": None if mask is None else mask.hash(),
        "pflop_pass_dense": operations.generation_operations(spec, layout, **one).pflop,
        "pflop_pass": operations.generation_operations(spec, layout, **one, sparse_layer_operations=layer).pflop,
        "pflop_dense": operations.generation_operations(spec, layout, **schedule).pflop,
        "pflop": operations.generation_operations(spec, layout, **schedule, sparse_layer_operations=layer).pflop,
    }


def has_mask(method: Method) -> bool:
    """Whether a method's attention is softmax attention over a mask; another operator has none."""
    return type(method).attend is Method.attend


def layer_operations(method: Method, mask, spec: ModelSpec, layout, block: int) -> float:
    """Operations of the method's attention in one layer and one pass; the mask is not planned a second time."""
    if mask is not None and type(method).attention_operations is Method.attention_operations:
        return operations.attention_operations(spec, layout, mask.density)
    return method.attention_operations(layout, block, spec.heads, spec.head_dim)


def describe(found: Mapping[str, Any]) -> str:
    """A plan as lines of text."""
    grid = "x".join(map(str, found["latent_grid"]))
    sparsity, knobs = found["block_sparsity"], ", ".join(f"{key}={value}" for key, value in found["knobs"].items())
    text = f"{found['text_tokens']:,} of text, in blocks of {found['block']}"
    lines = {
        "model": f"{found['model']}, {found['frames']} frames of {found['height']}x{found['width']} pixels",
        "method": f"{found['method']} ({knobs or 'no knobs'})",
        "tokens": f"{found['tokens']:,} of video ({grid}), {text}",
        "block sparsity": "no mask" if sparsity is None else f"{100 * sparsity:.2f} % of whole video blocks",
        "density": f"{found['density']:.4f} of all query-key pairs",
        "mask": found["mask_hash"] or "none",
        "a pass": _operations(found["pflop_pass"], found["pflop_pass_dense"], 4),
        "a generation": _operations(found["pflop"], found["pflop_dense"], 1),
        "its schedule": (
            f"{found['steps']} steps of {found['passes']} pass{'es' if found['passes'] > 1 else ''}; the first "
            f"{found['dense_steps']} steps and {found['dense_layers']} layers dense"
        ),
    }
    return "\n".join(f"{name:<16}{line}" for name, line in lines.items())


def _operations(own: float, dense: float, digits: int) -> str:
    """Operations and those of dense attention, in PFLOP, or in a unit of which a small model has one at least."""
    for unit in ("PFLOP", "TFLOP", "GFLOP", "MFLOP"):
        if dense >= 1 or unit == "MFLOP":
            break
        own, dense = 1e3 * own, 1e3 * dense
    return f"{own:.{digits}f} {unit}, dense {dense:.{digits}f}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.description = "Count tokens, blocks and operations of a method on a model, without a GPU."
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", required=True, help=f"one of {', '.join(models.names())}")
    parser.add_argument("--method", default="dense", help="method, as in methods/ (default: %(default)s)")
    parser.add_argument("--frames", type=int, help="frames of the clip (default: the model's)")
    parser.add_argument("--height", type=int, help="pixels (default: the model's)")
    parser.add_argument("--width", type=int, help="pixels (default: the model's)")
    parser.add_argument("--set", dest="knobs", action="append", default=[], metavar="KNOB=VALUE", help="sets a knob")
    parser.add_argument("--budget", type=float, metavar="DENSITY", help="density that the method's knob is solved for")
    parser.add_argument("--text-tokens", type=int, help="text tokens in the attention sequence (default: the model's)")
    parser.add_argument("--block", type=int, help="tokens a block (default: 128, on a testbed 4)")
    parser.add_argument("--steps", type=int, help="sampling steps (default: the model's)")
    parser.add_argument("--dense-steps", type=int, help="first steps run dense (default: 12, above 150 frames 2)")
    parser.add_argument("--dense-layers", type=int, help="first layers run dense (default: 0, above 150 frames 2)")
    parser.add_argument("--passes", type=int, help="forward passes a step (default: the model's)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Plans and prints."""
    torch.set_num_threads(1)  # many small steps, for which more threads only wait for each other
    asked = {key: value for key, value in vars(args).items() if key != "json"}
    asked["knobs"] = registry.parse_knobs(args.method, args.knobs)
    found = plan(**asked)
    print(json.dumps(found, indent=1) if args.json else describe(found))
    return 0
