"""What a measurement is: a status, numbers only if it passed, and where it all came from.

A record is one JSON file about one cell, written by one verb. Tables read records and nothing else.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmark.cell import Cell
from benchmark.packed import record_text

FORMAT = 1
ROOT = Path(__file__).resolve().parent.parent

STATUSES = ("passed", "incorrect", "out_of_memory", "unsupported", "error")
"""passed: the numbers count. incorrect: a check failed. out_of_memory, unsupported, error: no numbers, and a reason."""

PACKAGES = ("torch", "numpy", "diffusers", "transformers", "safetensors", "scikit-image", "lpips", "av", "snakemake")

GPU_PACKAGES = ("triton", "flash-attn-4", "nvidia-cutlass-dsl")
"""What kernels on a GPU are made with; left out where it is not installed."""

INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "bf16", "sve")
"""Instruction sets, in Linux's words, with which sums are taken in another order or rounded otherwise."""


class Damaged(ValueError):
    """A file is not as it was written: the machine's fault, or a hand's, and none of a method's.

    Args:
        message: one line: which file, what is wrong with it, what to do.
        files: results to be made again, to be rid of it.
    """

    def __init__(self, message: str, files: Iterable[Path | str] = ()) -> None:
        super().__init__(message)
        self.files = tuple(map(str, files))


def transient(files: Iterable[Path | str] = ()) -> dict[str, list[str]]:
    """What the ``details`` of a record say whose failure was the machine's, so that the next run makes it again.

    Args:
        files: results that have to be made again as well.
    """
    return {"transient": sorted(map(str, files))}


def make_record(
    kind: str,
    cell: Cell,
    status: str,
    values: Mapping[str, float] | None = None,
    *,
    clips: list[dict[str, Any]] | None = None,
    reason: str | None = None,
    units: Mapping[str, str] | None = None,
    details: Mapping[str, Any] | None = None,
    hashes: Mapping[str, str] | None = None,
    device: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A record, checked.

    Args:
        kind: the verb that measured: generate, compare, adherence, operations, ...
        values: the numbers, by metric; only a ``passed`` record has any.
        clips: numbers of each clip, in the order of the prompts.
        reason: why it did not pass.
        units: the unit of each value.
        details: what is worth knowing but is no metric: solved knobs, flags, footnotes.
        hashes: SHA-256 of mask, weights, prompts, noise, clips, ... as they apply.
        device: what it ran on, from ``describe_device``.

    Raises:
        ValueError: the status is unknown, a number is not finite, numbers stand beside a failure, or a failure has no
            reason.
    """
    if status not in STATUSES:
        raise ValueError(f"record {kind}: status={status!r}: one of {', '.join(STATUSES)} is needed")
    values = dict(values or {})
    if status == "passed":
        for name, value in values.items():
            if not math.isfinite(value):
                raise ValueError(f"record {kind}: {name}={value}: a finite number is needed")
    else:
        if values or clips:
            raise ValueError(f"record {kind}: status {status} stands beside numbers; only 'passed' may")
        if not reason:
            raise ValueError(f"record {kind}: status {status} needs a reason")
    return {
        "format": FORMAT,
        "kind": kind,
        "status": status,
        "reason": reason,
        "cell": cell.settings(),
        "values": values,
        "units": dict(units or {}),
        "clips": list(clips or []),
        "details": dict(details or {}),
        "provenance": provenance() | {"hashes": dict(hashes or {}), "device": dict(device or {})},
    }


def provenance() -> dict[str, Any]:
    """Where a measurement comes from: commit, code, command, packages, host, date."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "code": code_hash(),
        "command": " ".join(["python -m benchmark", *map(_without_folders, sys.argv[1:])]),
        "python": platform.python_version(),
        "packages": _versions(),
        "system": platform.platform(),
    }


def _without_folders(word: str) -> str:
    """An absolute path's last part: where a machine keeps its files is nobody's concern. Other words stay."""
    return Path(word).name if Path(word).is_absolute() else word


@functools.cache
def commit() -> str:
    """The commit checked out, with ``+changes`` where tracked files differ from it; ``unknown`` outside a checkout.

    The environment's ``SOURCE_COMMIT`` goes before it, with ``(stated)`` behind it, for machines that the files were
    copied to; ``code_hash`` tells whether the statement is true.
    """
    stated = os.environ.get("SOURCE_COMMIT")
    if stated:
        return f"{stated} (stated)"

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    head = git("rev-parse", "HEAD")
    if head is None:
        return "unknown"
    return head + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")


@functools.cache
def code_hash() -> str:
    """SHA-256 of the engine's and the metrics' source, so that records of different code can be told apart."""
    digest = hashlib.sha256()
    for folder in ("benchmark", "metrics"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@functools.cache
def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "missing"
    for name in GPU_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def describe_device(device: str) -> dict[str, Any]:
    """The machine's processor, or the GPU that PyTorch computes on, with its UUID, driver and clocks.

    Args:
        device: ``cpu`` or ``cuda``.
    """
    if device == "cpu":
        return {"type": "cpu", "name": _processor(), "threads": _threads(), "instructions": _instructions()}
    import torch

    from benchmark import nvidia_smi

    found: dict[str, Any] = {"type": "cuda", "name": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    found["uuid"] = nvidia_smi.uuid_of(device)
    keys = ("driver", "sm_clock_mhz", "memory_clock_mhz", "temperature_c", "power_w")
    try:
        answer = nvidia_smi.ask(device, "--query-gpu=driver_version,clocks.sm,clocks.mem,temperature.gpu,power.draw")
        words = [word.strip() for word in answer.split(",")]
        found.update(zip(keys, words, strict=True))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        found["driver"] = f"not read: {error}"
    return found


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _processor() -> str:
    return _cpuinfo("model name") or platform.machine()


def _instructions() -> str:
    """The instruction sets that choose between kernels that round otherwise: torch's own choice, and oneDNN's."""
    import torch

    flags = set((_cpuinfo("flags") or _cpuinfo("Features")).split())
    found = [name for name in INSTRUCTIONS if name in flags]
    # oneDNN can be kept from instructions that the processor has.
    limits = [f"{name}={os.environ[name]}" for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA") if name in os.environ]
    return " ".join([torch.backends.cpu.get_cpu_capability(), *found, *limits])


def _cpuinfo(key: str) -> str:
    """What Linux says of the first processor; empty where it says nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")


def sha256_file(path: Path | str) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_tensor(tensor: Any) -> str:
    """SHA-256 of a tensor's type, shape and bytes."""
    import torch

    tensor = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{tensor.dtype},{tuple(tensor.shape)}".encode())
    digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def seal(record: Mapping[str, Any]) -> str:
    """SHA-256 of all that a record says but its seal: of its JSON with sorted keys and without spaces."""
    content = {key: value for key, value in record.items() if key != "seal"}
    # Once through JSON, so that a record has the same seal before it is written and after it is read.
    plain = json.loads(json.dumps(content, allow_nan=False))
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write_json(path: Path | str, content: Any) -> None:
    """Writes JSON whole or not at all: to a temporary file beside it, renamed when it is on disk.

    A record gets its seal, so that it is told when it was changed by hand.
    """
    path = Path(path)
    if isinstance(content, Mapping) and {"format", "kind", "status", "cell"} <= content.keys():
        content = {**content, "seal": seal(content)}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "w") as file:
            json.dump(content, file, indent=1, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_record(path: Path | str) -> dict[str, Any]:
    """A record from its file, packed or not.

    Raises:
        ValueError: the file is missing, is no record, is of another format, or is not as it was written.
    """
    try:
        record = json.loads(record_text(path))
    except FileNotFoundError:
        raise ValueError(f"record {path}: the file is missing") from None
    except ValueError as error:
        raise ValueError(f"record {path}: not JSON ({error})") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT or record.get("status") not in STATUSES:
        raise ValueError(f"record {path}: not a record of format {FORMAT}")
    # Records of the first version have no seal.
    if "seal" in record and record["seal"] != seal(record):
        raise ValueError(f"record {path}: changed since it was written (its seal differs); delete it and run again")
    return record
