"""The verb ``generate``: the clips of one cell, and a record of how they came about.

All clips of a cell are made in one process, and each is written as soon as it is done. A job that was stopped goes on
after its last finished clip, if nothing that shapes the clips has changed since.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import logging
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark import registry
from benchmark.attention import AttentionRouter, Schedule
from benchmark.budget import at_budget, has_budget
from benchmark.captured import CapturedTransformer, capturable
from benchmark.cell import Cell, add_cell_arguments, canonical, from_arguments
from benchmark.config import is_testbed
from benchmark.failures import failure, first_line
from benchmark.fuse import REPEATABLE, fuse
from benchmark.inputs import clip_seeds, read_inputs
from benchmark.lineage import combined
from benchmark.operations import cell_operations
from benchmark.records import (
    Damaged,
    code_hash,
    describe_device,
    make_record,
    sha256_file,
    transient,
    write_json,
)
from benchmark.supervise import announce

logger = logging.getLogger(__name__)

PROGRESS = "progress.json"
_OWN_FILES = re.compile(r"\d{3,}\.mkv|\.\d{3,}\.[0-9a-f]+\.mkv|\.?progress\.json(\.\d+\.part)?")


def generate(
    cell: Cell, inputs: Path, out: Path, device: str, adapter: Path | None = None, eager: bool = False
) -> dict[str, Any]:
    """Makes a cell's clips.

    Args:
        inputs: folder written by the verb ``inputs``.
        out: folder for the clips, ``000.mkv`` and so on.
        device: ``cpu`` or ``cuda``.
        adapter: of a tuned cell, a folder that the verb ``tune`` wrote; None for the shipped one, or else that of the
            cell's experiment.
        eager: whether a GPU runs diffusers' own blocks as they are; else they are compiled, and the steps run from CUDA
            graphs where method and kernel allow it.

    Returns:
        A record of kind ``generate``. A method that fails, runs out of memory or makes what is not a number gives a
        record that says so; so do weights or inputs that are damaged, and a clip that cannot be written. A tuned cell
        whose tuning did not pass has the status of that.

    Raises:
        ValueError: the cell cannot be: unknown names, impossible shapes, missing inputs or weights, inputs of another
            model or seed, an adapter of another base, method or length.
    """
    from benchmark import kernels, models
    from benchmark.testbed.flow import scheduler

    spec = models.get(cell.model)
    layout = spec.layout(cell.frames, cell.height, cell.width)
    schedule = Schedule(cell.steps, cell.dense_steps, cell.dense_layers)
    # What these refuse, the method is not to blame for.
    layout.blocks(cell.block)
    scheduler(cell.steps)
    if cell.budget is not None and not 0 < cell.budget <= 1:
        raise ValueError(f"budget={cell.budget}: a density above 0 and at most 1 is needed")
    method = registry.get(cell.method, cell.knobs)
    kernel_name, kernel = kernels.select(cell.kernel, device, block=cell.block, head_dim=spec.head_dim)
    described = describe_device(device)
    hashes = {"method": sha256_file(registry.source_file(cell.method))}
    details: dict[str, Any] = {"kernel": kernel_name, "layout": str(layout)}
    dense_kernel = getattr(kernels.load(kernel_name), "DENSE_KERNEL", None)
    if dense_kernel is not None:
        details["dense_kernel"] = dense_kernel

    def failed(status: str, reason: str, more: dict[str, Any] | None = None) -> dict[str, Any]:
        told = details | (more or {})
        return make_record("generate", cell, status, reason=reason, details=told, hashes=hashes, device=described)

    try:
        prompts, noise, read = read_inputs(inputs)
        hashes |= read
        _check_inputs(cell, inputs, prompts, noise, spec.latent_shape(layout))
        transformer, weights, repetition = load_model(cell, device)
        hashes["weights"] = weights
        tuned = _adapt(cell, transformer, weights, adapter)
    except Damaged as error:
        return failed("error", str(error), transient(error.files))
    if tuned is not None:
        if tuned["status"] != "passed":
            more = {"transient": tuned["details"]["transient"]} if "transient" in tuned["details"] else None
            return failed(tuned["status"], f"its tuning: {tuned['reason']}", more)
        hashes["adapter"] = tuned["provenance"]["hashes"]["adapter"]
        details["adapter"] = tuned["details"]["folder"]
    try:
        if cell.budget is not None:
            try:
                method = at_budget(method, layout, cell.block, cell.budget)
            except ValueError as error:
                return failed("unsupported", first_line(error))
        pattern = method.pattern(layout, cell.block, spec.heads)
        details |= {"knobs": method.knobs(), "settable": has_budget(method, layout, cell.block)}
        hashes["mask"] = pattern.mask.hash()
        own = tuned is not None and not cell.merged  # adapters that are merged may be of other lengths and methods
        if own and tuned["provenance"]["hashes"]["mask"] != hashes["mask"]:
            return failed("error", "its adapter was tuned under another mask; tune anew")
        router = AttentionRouter(method, layout, cell.block, kernel, schedule)
        _install(cell, transformer, router, repetition)
        values = cell_operations(cell, spec, layout, method)
        details["compiled"] = device == "cuda" and not eager
        details["captured"] = details["compiled"] and capturable(method, kernel_name)
        if details["compiled"]:
            fuse(transformer, router, "compile", options=REPEATABLE)
        forward = CapturedTransformer(transformer, router) if details["captured"] else transformer
        way = {name: str(details[name]) for name in ("kernel", "compiled", "captured")}
        key = _key(cell, hashes | way, described)
        clips = _make_clips(cell, transformer, forward, router, prompts, noise, out, device, key)
    except Exception as error:  # a method is anybody's code: its failure is a result
        return failed(*failure(error, cell.method))
    # The first clip of a process also pays for planning and compiling: it counts only where there is no other.
    timed = [clip["seconds"] for clip in clips if not clip["first"]] or [clip["seconds"] for clip in clips]
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


def _check_inputs(cell: Cell, inputs: Path, prompts: dict[str, Any], noise: torch.Tensor, shape: tuple) -> None:
    """Refuses inputs of another model, shape or seed than the cell's, or of too few clips."""
    if prompts["model"] != cell.model:
        raise ValueError(f"inputs {inputs}: made for {prompts['model']}; {cell.model} is needed")
    seeds = clip_seeds(cell.seed, cell.clips)
    if tuple(noise.shape[1:]) != shape or len(noise) < cell.clips:
        raise ValueError(f"inputs {inputs}: noise {tuple(noise.shape)}: {cell.clips} clips of {shape} are needed")
    if prompts["seeds"][: cell.clips] != seeds:
        raise ValueError(
            f"inputs {inputs}: seeds {prompts['seeds'][: cell.clips]}; {seeds} are needed for seed={cell.seed}"
        )


def _key(cell: Cell, hashes: dict[str, str], device: dict[str, Any]) -> str:
    """A hash of everything that shapes the clips of a cell; those of another key are not gone on with."""
    machine = [device["type"], device["name"], device.get("instructions")]
    shaping = [canonical(cell), hashes, code_hash(), *machine, torch.__version__]
    return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()


def load_model(cell: Cell, device: str) -> tuple[torch.nn.Module, str, float | None]:
    """Transformer, SHA-256 of its weights, and the period at which it was seen to repeat itself."""
    from benchmark.models import testbed

    if not cell.model.startswith("testbed-"):
        raise ValueError(f"generate: model {cell.model!r}: only testbeds have weights here")
    known = testbed.manifest(cell.model)
    for path, stated in testbed.stated_files(cell.model).items():
        if path.exists() and (found := sha256_file(path)) != stated:
            raise Damaged(
                f"weights {path}: SHA-256 is {found}, the manifest says {stated}; put back the file that was there"
            )
    return testbed.load(cell.model, device), known["sha256"], known.get("repetition")


def _adapt(cell: Cell, transformer: torch.nn.Module, weights: str, folder: Path | None) -> dict[str, Any] | None:
    """Merges a tuned cell's adapter into the transformer. Returns the record of its tuning, None where there is none.

    Of several adapters the record of the first is returned, with the hash over all of theirs, or that of the first
    tuning that did not pass.

    Raises:
        ValueError: an adapter is given to a cell that is not tuned or merges others, there is none, or it is another
            cell's.
        Damaged: the adapter is not as it was written.
    """
    if not cell.tuned:
        if folder is not None:
            raise ValueError(f"adapter {folder}: the cell is not tuned; --tuned is needed beside it")
        return None
    from benchmark.tuning import adapters, places

    if cell.merged:
        if folder is not None:
            raise ValueError(f"adapter {folder}: the cell merges {' and '.join(cell.merged)}; it takes no other")
        return _merge(cell, transformer, weights)
    found, record = places.find(cell, weights, folder)
    if found is not None:
        adapters.apply(transformer, found)
        record["details"]["folder"] = places.shown(found)
    return record


def _merge(cell: Cell, transformer: torch.nn.Module, weights: str) -> dict[str, Any]:
    """Merges the adapter of another tuning, or those of several, into the transformer; see ``_adapt``."""
    from benchmark.tuning import adapters, places

    folders, records = places.find_merged(cell, weights)
    if not folders:
        return next(record for record in records if record["status"] != "passed")
    adapters.load_merged(transformer, folders)
    own = [record["provenance"]["hashes"]["adapter"] for record in records]
    merged = records[0]
    merged["provenance"]["hashes"]["adapter"] = combined(own)
    merged["details"]["folder"] = " + ".join(map(places.shown, folders))
    return merged


def _install(cell: Cell, transformer: torch.nn.Module, router: AttentionRouter, repetition: float | None) -> None:
    from benchmark.models import wan

    wan.install(transformer, router, repetition)


def _make_clips(
    cell, transformer, forward, router, prompts, noise, out: Path, device: str, key: str
) -> list[dict[str, Any]]:
    """The clips that are not there yet; returns all of them."""
    from tqdm import tqdm

    from benchmark.testbed.grammar import encode
    from benchmark.testbed.sample import sample
    from benchmark.testbed.world import to_uint8

    out.mkdir(parents=True, exist_ok=True)
    done = _finished(out, key)
    there = len(done)

    def before_step(step: int) -> None:
        router.step = step

    name = f"{cell.model} {cell.length} {cell.method}"
    for number in tqdm(range(there, cell.clips), desc=name, unit="clip", initial=there, total=cell.clips):
        start = time.perf_counter()
        text = encode([prompts["prompts"][number]]).to(device)
        frames = sample(transformer, noise[number : number + 1].to(device), text, cell.steps, before_step, forward)[0]
        if not bool(torch.isfinite(frames).all()):
            raise FloatingPointError(f"clip {number} holds values that are not finite")
        pixels = to_uint8(frames).cpu().numpy()
        seconds = time.perf_counter() - start
        path = _write(out / f"{number:03d}.mkv", pixels)
        done.append(
            {
                "name": path.name,
                "prompt": prompts["prompts"][number],
                "seed": prompts["seeds"][number],
                "sha256": sha256_file(path),
                "seconds": seconds,
                "first": number == there,
            }
        )
        write_json(out / PROGRESS, {"key": key, "clips": done})
    return done


def _write(path: Path, pixels: np.ndarray) -> Path:
    """Writes a clip and reads it back, for a library may not tell that the disk was full."""
    from benchmark.clips import read_clip, write_clip

    write_clip(path, pixels)
    try:
        whole = np.array_equal(read_clip(path), pixels)
    except ValueError:
        whole = False
    if not whole:
        path.unlink()
        raise OSError(errno.EIO, "what is read back is not the clip that was written", str(path))
    return path


def _finished(out: Path, key: str) -> list[dict[str, Any]]:
    """Clips that an earlier run of the very same job finished; whatever else such a job left is cleared away."""
    path = out / PROGRESS
    try:
        progress = json.loads(path.read_text()) if path.exists() else {}
    except ValueError:
        logger.warning("%s: damaged; the clips are made anew", path)
        progress = {}
    whole = []
    for clip in progress["clips"] if progress.get("key") == key else []:
        file = out / clip["name"]
        if not file.exists() or sha256_file(file) != clip["sha256"]:
            break
        whole.append(clip)
    kept = {clip["name"] for clip in whole} | ({PROGRESS} if whole else set())
    for file in out.iterdir():
        if _OWN_FILES.fullmatch(file.name) and file.name not in kept:
            file.unlink()
    if whole:
        logger.info("%s: %d clips are there already", out, len(whole))
    return whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb ``generate``."""
    parser.description = "Makes the clips of one cell and writes a record of them."
    parser.epilog = (
        "example: python -m benchmark generate --model testbed-nano --frames 16 --height 48 --width 48 --method radial "
        "--budget 0.5 --block 4 --steps 16 --dense-steps 4 --clips 3 --seed 7 "
        "--inputs results/quick/inputs/testbed-nano/1x/seed7 --out /tmp/clips --record /tmp/generate.json"
    )
    add_cell_arguments(parser)
    parser.add_argument("--inputs", type=Path, required=True, help="folder written by the verb inputs")
    parser.add_argument("--out", type=Path, required=True, help="folder for the clips")
    parser.add_argument("--record", type=Path, required=True, help="record to write")
    parser.add_argument("--adapter", type=Path, help="of a tuned cell (default: the shipped or the experiment's own)")
    parser.add_argument("--eager", action="store_true", help="on a GPU, compile nothing and capture no CUDA graphs")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")


def is_lean(args: argparse.Namespace) -> bool:
    """Whether the job needs nothing of a testbed but its network: no adapter, for which there is peft."""
    return is_testbed(args.model) and not args.tuned


def run(args: argparse.Namespace) -> int:
    """The verb ``generate``."""
    from benchmark.testbed.sample import pick_device

    cell = from_arguments(args)
    announce("generate", cell, args.record, [args.out])
    record = generate(cell, args.inputs, args.out, pick_device(args.device), args.adapter, args.eager)
    write_json(args.record, record)
    if record["status"] != "passed":
        logger.warning("%s: %s: %s", args.method, record["status"], record["reason"])
    return 0
