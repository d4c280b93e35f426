"""Weights in one safetensors file, or in several with an index beside them, named as on the Hugging Face hub.

Small weights are ``<name>.safetensors``. Larger ones are ``<name>-00001-of-0000N.safetensors`` and so on, with
``<name>.safetensors.index.json``, which says in which file each tensor is. Here it also holds the SHA-256 of every
shard, so that the hash of the index stands for all of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmark.records import sha256_file, write_json

LARGEST_SHARD = 15_000_000  # bytes of tensors in one file


def is_index(path: Path) -> bool:
    """Whether a file is the index of shards."""
    return path.name.endswith(".index.json")


def find(folder: Path, name: str) -> Path:
    """The file that stands for the weights of that name: the single file, or the index of shards.

    Raises:
        ValueError: neither is there.
    """
    path, index = folder / f"{name}.safetensors", folder / f"{name}.safetensors.index.json"
    if not path.exists() and not index.exists():
        raise ValueError(f"weights {path}: the file is missing")
    return index if index.exists() else path


def stated(index: Path) -> dict[Path, str]:
    """The shards of an index, with the SHA-256 that it states for each.

    Raises:
        ValueError: the file is no such index.
    """
    try:
        listed = json.loads(index.read_text())["metadata"]["sha256"]
        return {index.parent / name: digest for name, digest in listed.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"weights {index}: no index of shards ({type(error).__name__}: {error})") from None


def parts(path: Path) -> list[Path]:
    """All files of weights: the single file, or the index and its shards.

    Raises:
        ValueError: an index that is none, or a shard that is missing.
    """
    files = [path, *(stated(path) if is_index(path) else ())]
    for file in files:
        if not file.exists():
            raise ValueError(f"weights {file}: the file is missing")
    return files


def read(path: Path, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    """All tensors, from the single file or from the shards of an index.

    Raises:
        ValueError: a shard is missing, or not the one that the index names.
        SafetensorError: a file holds no tensors.
    """
    from safetensors.torch import load_file

    if not is_index(path):
        return load_file(path, device=str(device))
    tensors: dict[str, torch.Tensor] = {}
    expected = stated(path)
    for file in parts(path)[1:]:
        if (found := sha256_file(file)) != expected[file]:
            raise ValueError(f"weights {file}: SHA-256 is {found}, {path.name} says {expected[file]}")
        tensors.update(load_file(file, device=str(device)))
    return tensors


def write(
    weights: Mapping[str, torch.Tensor], folder: Path, name: str, largest: int = LARGEST_SHARD
) -> tuple[Path, list[dict[str, Any]]]:
    """Writes tensors in their order, in as few files as their sizes allow. Files there before are replaced whole.

    Args:
        largest: bytes of tensors in one file.

    Returns:
        The file that stands for the weights, and each file's name, SHA-256 and bytes.

    Raises:
        ValueError: one tensor alone is larger than a file may be.
    """
    from safetensors.torch import save_file

    groups: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for key, tensor in weights.items():
        if tensor.nbytes > largest:
            raise ValueError(f"weights {name}: tensor {key} has {tensor.nbytes} bytes; at most {largest} fit in a file")
        if size + tensor.nbytes > largest:
            groups.append({})
            size = 0
        groups[-1][key] = tensor
        size += tensor.nbytes
    folder.mkdir(parents=True, exist_ok=True)
    single, index = folder / f"{name}.safetensors", folder / f"{name}.safetensors.index.json"
    many = len(groups) > 1
    count = len(groups)
    files = [folder / f"{name}-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)] if many else [single]
    for stale in {single, index, *folder.glob(f"{name}-*-of-*.safetensors")} - {*files, *([index] if many else [])}:
        stale.unlink(missing_ok=True)
    for file, group in zip(files, groups, strict=True):
        aside = file.with_name(f".{file.name}.part")
        save_file(group, aside)
        os.replace(aside, file)
    if many:
        content = {
            "metadata": {
                "total_size": sum(tensor.nbytes for tensor in weights.values()),
                "sha256": {file.name: sha256_file(file) for file in files},
            },
            "weight_map": {key: file.name for file, group in zip(files, groups, strict=True) for key in group},
        }
        write_json(index, content)
        files = [index, *files]
    return files[0], [{"file": f.name, "sha256": sha256_file(f), "bytes": f.stat().st_size} for f in files]
