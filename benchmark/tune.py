"""The verb ``tune``: trains a testbed for a cell's length under the cell's method, and writes the adapter.

LoRA on q, k, v and o of the self-attention, or all weights. Where the repository ships an adapter that was trained for
exactly the cell's settings, nothing is trained and the record says where it lies.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import logging
import os
import resource
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmark.cell import Cell, add_cell_arguments, canonical, from_arguments
from benchmark.failures import failure, first_line
from benchmark.records import (
    Damaged,
    code_hash,
    describe_device,
    make_record,
    read_record,
    sha256_file,
    transient,
    write_json,
)
from benchmark.supervise import announce
from benchmark.tuning.settings import TuningSettings, from_mapping

logger = logging.getLogger(__name__)

KIND = "tune"
UNITS = {"tuning_s": "s", "peak_memory_gib": "GiB", "final_loss": ""}


def tune(cell: Cell, out: Path, device: str, eager: bool = False) -> dict[str, Any]:
    """Trains a cell's adapter, and writes it into ``out`` with its record.

    Args:
        cell: a tuned cell; what only decides how clips are sampled is not looked at.
        out: the adapter's folder; it is replaced.
        device: ``cpu`` or ``cuda``.
        eager: whether a GPU runs diffusers' own blocks as they are, and not compiled ones from a CUDA graph.

    Returns:
        A record of kind ``tune``: ``tuning_s`` (wall time of the steps, without compiling), ``peak_memory_gib``,
        ``final_loss``; settings and loss curve; hashes of base weights, adapter, method and mask. A method that fails,
        runs out of memory or gives a loss that is not finite has a record that says so, and no adapter.

    Raises:
        ValueError: the cell cannot be: unknown names, impossible shapes, no weights.
    """
    import torch

    from benchmark import kernels, models, registry
    from benchmark.attention import AttentionRouter, Schedule
    from benchmark.budget import at_budget
    from benchmark.fuse import REPEATABLE, fuse
    from benchmark.generate import load_model
    from benchmark.models import testbed, wan
    from benchmark.tuning import adapters, loop, places

    cell = places.of_tuning(cell)
    settings = from_mapping(cell.tuning_settings)
    spec = models.get(cell.model)
    layout = _layout(cell, spec, settings)
    method = registry.get(cell.method, cell.knobs)
    kernel_name, kernel = kernels.select(cell.kernel, device, block=cell.block, head_dim=spec.head_dim)
    described = describe_device(device)
    known = testbed.manifest(cell.model)
    hashes = {"method": sha256_file(registry.source_file(cell.method)), "weights": known["sha256"]}
    details: dict[str, Any] = {
        "kernel": kernel_name,
        "layout": str(layout),
        "settings": settings.as_dict(),
        "peft": metadata.version("peft"),
        "captured": device == "cuda" and not eager,
        "folder": str(out),
    }

    def failed(status: str, reason: str, more: dict[str, Any] | None = None) -> dict[str, Any]:
        if out.exists():
            shutil.rmtree(out)  # of other settings
        told = details | (more or {})
        return make_record(KIND, cell, status, reason=reason, details=told, hashes=hashes, device=described)

    flow = loop.flow_settings(testbed.WEIGHTS_FOLDER / known["training_record"])
    details["loss"] = {name: getattr(flow, name) for name in ("time_mean", "time_deviation", "least_weight_time")}
    try:
        transformer, _, repetition = load_model(cell, device)
        start = _start(cell, known["sha256"], details, hashes)
        if start is not None and start["status"] != "passed":
            return failed(start["status"], f"its start, {cell.start}: {start['reason']}")
    except Damaged as error:
        return failed("error", str(error), transient(error.files))
    out.parent.mkdir(parents=True, exist_ok=True)
    for left in out.parent.glob(f".{out.name}.*.tmp"):  # of a process that was killed
        shutil.rmtree(left)
    made, state = out.parent / f".{out.name}.{os.getpid()}.tmp", out.parent / f".{out.name}.state.safetensors"
    try:
        if cell.budget is not None:
            try:
                method = at_budget(method, layout, cell.block, cell.budget)
            except ValueError as error:
                return failed("unsupported", first_line(error))
        details["knobs"] = method.knobs()
        hashes["mask"] = method.pattern(layout, cell.block, spec.heads).mask.hash()
        model = adapters.attach(transformer.requires_grad_(False), settings)
        if start is not None:
            adapters.go_on(model, Path(start["details"]["folder"]))
        details["parameters"] = sum(value.numel() for value in model.parameters() if value.requires_grad)
        router = AttentionRouter(method, layout, cell.block, kernel, Schedule(1, 0, settings.dense_layers))
        wan.install(transformer, router, repetition)
        if details["captured"]:
            fuse(transformer, router, "compile", training=True, options=REPEATABLE)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        key = _key(cell, hashes | {"kernel": kernel_name, "captured": str(details["captured"])}, described)
        size = cell.height
        progress = loop.train(transformer, spec, settings, flow, cell.frames, size, device, state, key, not eager)
        details |= {"curve": progress.curve, "clips": settings.steps * settings.batch}
        details["compiling"] = dict(zip(("steps", "seconds"), progress.starting, strict=True))
        details["files"] = adapters.save(model, settings, made)
        hashes["adapter"] = next(value for name, value in details["files"].items() if name.endswith(".safetensors"))
        values = {
            "tuning_s": progress.settled_seconds(),
            "peak_memory_gib": _peak(device),
            "final_loss": progress.final_loss(),
        }
        record = make_record(
            KIND, cell, "passed", values, units=UNITS, details=details, hashes=hashes, device=described
        )
        adapters.put(made, out, record)
        state.unlink(missing_ok=True)
    except loop.NoGradient as error:
        return failed("unsupported", f"kernel {kernel_name}: {first_line(error)}")
    except Exception as error:  # a method is anybody's code: its failure is a result
        return failed(*failure(error, cell.method))
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return record


def _start(cell: Cell, base: str, details: dict[str, Any], hashes: dict[str, str]) -> dict[str, Any] | None:
    """The record of the tuning that the cell's goes on from, which its own will name; None where it has none."""
    from benchmark.tuning import places

    if not cell.start:
        return None
    folder, record = places.find_start(cell, base)
    if folder is not None:
        hashes["start"] = record["provenance"]["hashes"]["adapter"]
        details["start"] = {"folder": str(folder), "settings": record["cell"]["tuning_settings"]}
        details["start"] |= {"cell": "/".join(Path(cell.start).parts[-5:-1]), "tuning_s": record["values"]["tuning_s"]}
    return record


def taken(cell: Cell, folder: Path) -> dict[str, Any]:
    """The record of a cell whose adapter is shipped: the numbers of its tuning, and where and when that was."""
    from benchmark.tuning import places

    origin = read_record(folder / places.RECORD)
    told = {name: origin["provenance"][name] for name in ("date", "commit", "code")}
    return make_record(
        KIND,
        places.of_tuning(cell),
        "passed",
        origin["values"],
        units=origin["units"],
        details=origin["details"] | {"folder": places.shown(folder), "shipped": told},
        hashes=origin["provenance"]["hashes"],
        device=origin["provenance"]["device"],
    )


def not_shipped(cell: Cell, device: str) -> dict[str, Any]:
    """The record of a cell that is to have a shipped adapter where there is none: ``unsupported``."""
    from benchmark.tuning import places

    settings = from_mapping(cell.tuning_settings)
    return make_record(
        KIND,
        places.of_tuning(cell),
        "unsupported",
        reason="no adapter is shipped for these settings; tuned.shipped_only: false tunes it here "
        f"({settings.steps} steps of {settings.batch} clips)",
        details={"settings": settings.as_dict()},
        device=describe_device(device),
    )


def _layout(cell: Cell, spec: Any, settings: TuningSettings) -> Any:
    """The cell's token grid, once it is sure that it can be tuned."""
    from benchmark.config import is_testbed

    if not is_testbed(cell.model):
        raise ValueError(f"tune: model {cell.model!r}: only testbeds have weights here")
    layout = spec.layout(cell.frames, cell.height, cell.width)
    layout.blocks(cell.block)
    if cell.height != cell.width:
        raise ValueError(f"tune: height={cell.height}, width={cell.width}: the clips of the world are square")
    if cell.budget is not None and not 0 < cell.budget <= 1:
        raise ValueError(f"budget={cell.budget}: a density above 0 and at most 1 is needed")
    if settings.dense_layers > spec.layers:
        raise ValueError(f"tuned.dense_layers={settings.dense_layers}: at most {spec.layers}, all of {spec.name}")
    return layout


def _key(cell: Cell, hashes: dict[str, str], device: dict[str, Any]) -> str:
    """A hash of everything that decides the adapter; a state of another key is not gone on with."""
    import torch

    machine = [device["type"], device["name"], device.get("instructions")]
    return hashlib.sha256(
        json.dumps([canonical(cell), hashes, code_hash(), *machine, torch.__version__], sort_keys=True).encode()
    ).hexdigest()


def _peak(device: str) -> float:
    """Most memory held at a time, in GiB: by torch on a GPU, by the whole process on a CPU."""
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb ``tune``."""
    parser.description = "Tunes a testbed for a cell's length under its method, and writes the adapter and a record."
    parser.epilog = (
        "example: python -m benchmark tune --model testbed-nano --length 2x --frames 32 --height 48 --width 48 "
        "--method radial --budget 0.5 --block 4 --tune steps=600 --tune rank=4 --out /tmp/adapter "
        "--record /tmp/tune.json"
    )
    add_cell_arguments(parser)
    parser.add_argument("--full", action="store_true", help="train all weights; the same as --tune kind=full")
    parser.add_argument("--out", type=Path, required=True, help="folder for the adapter; it is replaced")
    parser.add_argument("--record", type=Path, required=True, help="record to write")
    parser.add_argument("--anew", action="store_true", help="train even where an adapter for these settings is shipped")
    parser.add_argument("--shipped-only", action="store_true", help="train nothing: what is not shipped is unsupported")
    parser.add_argument("--eager", action="store_true", help="on a GPU, compile nothing and capture no CUDA graph")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")


def before_gpu(args: argparse.Namespace) -> None:
    """Imports what a tuning needs, which takes seconds, while another one may still have the GPU."""
    if args.shipped_only or (not args.anew and _shipped(_cell(args)) is not None):
        return  # nothing is trained
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # to look for CUDA would settle which GPUs it sees
    for name in ("diffusers.models.transformers.transformer_wan", "peft", "benchmark.tuning.loop"):
        importlib.import_module(name)


def _cell(args: argparse.Namespace) -> Cell:
    """The tuned cell that was asked for."""
    words = [*args.tune, *(["kind=full"] * args.full)]
    return from_arguments(argparse.Namespace(**vars(args) | {"tuned": True, "tune": words}))


def _shipped(cell: Cell) -> Path | None:
    """The folder of the adapter that is shipped for a cell's settings; None where none is."""
    from benchmark.models import testbed
    from benchmark.tuning import places

    return places.shipped(cell, testbed.manifest(cell.model)["sha256"])


def _device(args: argparse.Namespace) -> str:
    from benchmark.testbed.sample import pick_device

    return pick_device(args.device)


def run(args: argparse.Namespace) -> int:
    """The verb ``tune``."""
    from benchmark.tuning import places

    if args.anew and args.shipped_only:
        raise ValueError("tune: --anew and --shipped-only: one of them; what is shipped is taken, or trained anew")
    cell = _cell(args)
    announce(KIND, places.of_tuning(cell), args.record, [args.out])
    folder = None if args.anew else _shipped(cell)
    if folder is not None:
        logger.info("%s is shipped for these settings; nothing is trained", folder)
        record = taken(cell, folder)
    elif args.shipped_only:
        record = not_shipped(cell, _device(args))
    else:
        record = tune(cell, args.out, _device(args), args.eager)
    write_json(args.record, record)
    if record["status"] != "passed":
        logger.warning("%s: %s: %s", args.method, record["status"], record["reason"])
    return 0
