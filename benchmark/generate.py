"""The verb ``generate``: the clips of one cell, and a record of how they came about.

All clips of a cell are made in one process, and each is written as soon as it is done. A job that was stopped goes on
after its last finished clip, if nothing that shapes the clips has changed since.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import shutil
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from benchmark import registry
from benchmark.attention import AttentionRouter, Schedule
from benchmark.budget import at_budget, has_budget
from benchmark.cell import Cell, add_cell_arguments, canonical, from_arguments
from benchmark.inputs import read_inputs
from benchmark.records import code_hash, describe_device, make_record, sha256_file, write_json

logger = logging.getLogger(__name__)

PROGRESS = "progress.json"


def generate(cell: Cell, inputs: Path, out: Path, device: str) -> dict[str, Any]:
    """Makes a cell's clips.

    Args:
        inputs: folder written by the verb ``inputs``.
        out: folder for the clips, ``000.mkv`` and so on.
        device: ``cpu`` or ``cuda``.

    Returns:
        A record of kind ``generate``. A method that fails, runs out of memory or makes what is not a number gives a
        record that says so.

    Raises:
        ValueError: the cell cannot be: unknown names, impossible shapes, missing inputs or weights.
    """
    from benchmark import kernels, models

    spec = models.get(cell.model)
    layout = spec.layout(cell.frames, cell.height, cell.width)
    schedule = Schedule(cell.steps, cell.dense_steps, cell.dense_layers)
    prompts, noise, hashes = read_inputs(inputs)
    if tuple(noise.shape[1:]) != spec.latent_shape(layout) or len(noise) < cell.clips:
        raise ValueError(
            f"inputs {inputs}: noise {tuple(noise.shape)}: {cell.clips} clips of {spec.latent_shape(layout)} are needed"
        )
    kernel_name, kernel = kernels.select(cell.kernel, device)
    transformer, weights, repetition = _load(cell, device)
    described = describe_device(device)
    hashes |= {"weights": weights, "method": sha256_file(registry.source_file(cell.method))}
    details: dict[str, Any] = {"kernel": kernel_name, "layout": str(layout)}

    def failed(status: str, reason: str) -> dict[str, Any]:
        return make_record("generate", cell, status, reason=reason, details=details, hashes=hashes, device=described)

    method = registry.get(cell.method, cell.knobs)
    try:
        if cell.budget is not None:
            method = at_budget(method, layout, cell.block, cell.budget)
    except ValueError as error:
        return failed("unsupported", str(error))
    try:
        pattern = method.pattern(layout, cell.block, spec.heads)
        details |= {"knobs": method.knobs(), "settable": has_budget(method, layout, cell.block)}
        hashes["mask"] = pattern.mask.hash()
        router = AttentionRouter(method, layout, cell.block, kernel, schedule)
        _install(cell, transformer, router, repetition)
        values = _costs(cell, spec, layout, method)
        clips = _make_clips(cell, transformer, router, prompts, noise, out, device, hashes | {"kernel": kernel_name})
    except torch.OutOfMemoryError as error:
        return failed("out_of_memory", str(error).splitlines()[0])
    except FloatingPointError as error:
        return failed("incorrect", str(error))
    except Exception as error:  # a method is anybody's code: its failure is a result, and the traceback is in the log
        logger.error("%s failed:\n%s", cell.method, traceback.format_exc())
        return failed("error", f"{type(error).__name__}: {error}".splitlines()[0])
    # The first clip of a process also pays for planning and compiling.
    timed = [clip["seconds"] for clip in clips]
    values["generation_s"] = sum(timed) / len(timed)
    hashes["clips"] = hashlib.sha256("".join(clip["sha256"] for clip in clips).encode()).hexdigest()
    return make_record(
        "generate",
        cell,
        "passed",
        values,
        clips=clips,
        units={"density": "", "pflop": "PFLOP", "pflop_dense": "PFLOP", "generation_s": "s"},
        details=details | {"folder": str(out)},
        hashes=hashes,
        device=described,
    )


def _load(cell: Cell, device: str) -> tuple[torch.nn.Module, str, float | None]:
    """Transformer, SHA-256 of its weights, and the period at which it was seen to repeat itself."""
    from benchmark.models import testbed

    if not cell.model.startswith("testbed-"):
        raise ValueError(f"generate: model {cell.model!r}: only testbeds have weights here")
    if cell.tuned:
        raise ValueError(f"generate: {cell.method} tuned: no adapters are published yet")
    known = testbed.manifest(cell.model)
    return testbed.load(cell.model, device), known["sha256"], known.get("repetition")


def _install(cell: Cell, transformer: torch.nn.Module, router: AttentionRouter, repetition: float | None) -> None:
    from benchmark.models import wan

    wan.install(transformer, router, repetition)


def _costs(cell: Cell, spec, layout, method) -> dict[str, float]:
    """Density, and the operations of one clip's generation under the method and under dense attention, in PFLOP."""
    from benchmark.operations import generation_operations, pflop

    dense = generation_operations(spec, layout, steps=cell.steps)
    sparse = generation_operations(
        spec,
        layout,
        steps=cell.steps,
        dense_steps=cell.dense_steps,
        dense_layers=cell.dense_layers,
        sparse_layer_operations=method.attention_operations(layout, cell.block, spec.heads, spec.head_dim),
    )
    return {
        "density": method.density(layout, cell.block, spec.heads),
        "pflop": pflop(sparse.with_ends),
        "pflop_dense": pflop(dense.with_ends),
    }


def _make_clips(cell, transformer, router, prompts, noise, out: Path, device: str, hashes) -> list[dict[str, Any]]:
    """The clips that are not there yet; returns all of them."""
    from tqdm import tqdm

    from benchmark.clips import write_clip
    from benchmark.testbed.grammar import encode
    from benchmark.testbed.sample import sample
    from benchmark.testbed.world import to_uint8

    key = hashlib.sha256((canonical(cell) + json.dumps(hashes, sort_keys=True) + code_hash()).encode()).hexdigest()
    done = _finished(out, key)
    out.mkdir(parents=True, exist_ok=True)

    def before_step(step: int) -> None:
        router.step = step

    name = f"{cell.model} {cell.length} {cell.method}"
    for number in tqdm(range(len(done), cell.clips), desc=name, unit="clip", initial=len(done), total=cell.clips):
        start = time.perf_counter()
        text = encode([prompts["prompts"][number]]).to(device)
        frames = sample(transformer, noise[number : number + 1].to(device), text, cell.steps, before_step)[0]
        if not bool(torch.isfinite(frames).all()):
            raise FloatingPointError(f"clip {number} holds values that are not finite")
        pixels = to_uint8(frames).cpu().numpy()
        seconds = time.perf_counter() - start
        path = write_clip(out / f"{number:03d}.mkv", pixels)
        done.append(
            {
                "name": path.name,
                "prompt": prompts["prompts"][number],
                "seed": prompts["seeds"][number],
                "sha256": sha256_file(path),
                "seconds": seconds,
            }
        )
        write_json(out / PROGRESS, {"key": key, "clips": done})
    return done


def _finished(out: Path, key: str) -> list[dict[str, Any]]:
    """Clips that an earlier run of the very same job finished; anything else in the folder is cleared away."""
    path = out / PROGRESS
    if path.exists():
        progress = json.loads(path.read_text())
        if progress["key"] == key:
            whole = []
            for clip in progress["clips"]:
                file = out / clip["name"]
                if not file.exists() or sha256_file(file) != clip["sha256"]:
                    break
                whole.append(clip)
            logger.info("%s: %d clips are there already", out, len(whole))
            return whole
    if out.exists():
        shutil.rmtree(out)
    return []


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb ``generate``."""
    parser.description = "Makes the clips of one cell and writes a record of them."
    parser.epilog = (
        "example: python -m benchmark generate --model testbed-nano --frames 16 --height 48 --width 48 --method radial "
        "--budget 0.5 --block 4 --steps 16 --dense-steps 4 --clips 3 --seed 7 "
        "--inputs results/quick/inputs/testbed-nano/1x --out /tmp/clips --record /tmp/generate.json"
    )
    add_cell_arguments(parser)
    parser.add_argument("--inputs", type=Path, required=True, help="folder written by the verb inputs")
    parser.add_argument("--out", type=Path, required=True, help="folder for the clips")
    parser.add_argument("--record", type=Path, required=True, help="record to write")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")


def run(args: argparse.Namespace) -> int:
    """The verb ``generate``."""
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    record = generate(from_arguments(args), args.inputs, args.out, device)
    write_json(args.record, record)
    if record["status"] != "passed":
        logger.warning("%s: %s: %s", args.method, record["status"], record["reason"])
    return 0
