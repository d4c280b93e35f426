"""Adapters: attached to a transformer, written in peft's format, merged and combined.

A folder holds what was trained and the record of its tuning, ``tune.json``: ``adapter_config.json`` and
``adapter_model.safetensors`` of a LoRA, or ``model.safetensors``, all weights, of a full tuning. It is written whole or
not at all. Nothing but JSON and safetensors is read.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmark.records import read_record, sha256_file, write_json
from benchmark.tuning.places import ALL_WEIGHTS, CONFIG, RECORD, WEIGHTS
from benchmark.tuning.settings import FULL, TuningSettings

TARGETS = r"blocks\.\d+\.attn1\.to_(q|k|v|out\.0)"
"""The linear layers with an adapter: q, k, v and o of every block's self-attention."""


def attach(transformer: torch.nn.Module, settings: TuningSettings) -> torch.nn.Module:
    """Makes a transformer trainable: adapters that change nothing yet, or all of its weights.

    Returns:
        peft's model around the transformer, whose layers are replaced in place; the transformer itself where all
        weights are trained.
    """
    if settings.kind == FULL:
        return transformer.requires_grad_(True)
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(settings.seed)
    config = LoraConfig(r=settings.rank, lora_alpha=settings.rank, lora_dropout=0.0, target_modules=TARGETS)
    # In the network's own bfloat16: the float32 values are with the optimizer.
    return get_peft_model(transformer, config, autocast_adapter_dtype=False)


def go_on(model: torch.nn.Module, folder: Path) -> None:
    """Puts what an earlier tuning trained into a model that ``attach`` made for the same kind and rank.

    Raises:
        ValueError: the folder holds neither, or what was trained of another architecture.
    """
    from peft import PeftModel, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    lora = isinstance(model, PeftModel)
    path = folder / (WEIGHTS if lora else ALL_WEIGHTS)
    if not path.exists():
        raise ValueError(f"adapter {folder}: no {path.name}; a tuning of the same kind is needed")
    try:
        if not lora:
            model.load_state_dict(load_file(path), strict=True)
            return
        found = set_peft_model_state_dict(model, load_file(path))
    except (RuntimeError, SafetensorError, KeyError) as error:
        raise ValueError(f"adapter {folder}: not of this architecture: {_line(error)}") from None
    missing = [key for key in found.missing_keys if ".lora_" in key]
    if found.unexpected_keys or missing:
        raise ValueError(
            f"adapter {folder}: not of this architecture: {(found.unexpected_keys or missing)[0]} does not fit"
        )


def save(model: torch.nn.Module, settings: TuningSettings, folder: Path) -> dict[str, str]:
    """Writes what was trained, in bfloat16, into an empty folder.

    Returns:
        SHA-256 of its files, by their name.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    if settings.kind == FULL:
        weights = {name: value.detach().to(torch.bfloat16).cpu().contiguous() for name, value in _parameters(model)}
        save_file(weights, folder / ALL_WEIGHTS)
    else:
        model.save_pretrained(folder, safe_serialization=True)
        (folder / "README.md").unlink(missing_ok=True)  # an empty form for a model hub
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors writes files that only their owner may read
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir())}


def put(made: Path, folder: Path, record: Mapping[str, Any]) -> None:
    """Puts a folder that was made aside, with its record, into its place, whole or not at all."""
    write_json(made / RECORD, record)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(made, folder)


def _parameters(model: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    return list(model.named_parameters())


def apply(transformer: torch.nn.Module, folder: Path) -> torch.nn.Module:
    """A transformer with what a folder holds: the adapter is merged, so that nothing of peft is left in its layers.

    Args:
        transformer: the base model; it is changed in place.

    Raises:
        ValueError: the folder holds neither, or the adapter of another architecture.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if (folder / ALL_WEIGHTS).exists():
        path = folder / ALL_WEIGHTS
        try:
            transformer.load_state_dict(load_file(path), strict=True)
        except (RuntimeError, SafetensorError) as error:
            raise ValueError(f"weights {path}: not of this architecture: {_line(error)}") from None
        return transformer
    return combine(transformer, [folder])


def combine(
    transformer: torch.nn.Module, folders: Sequence[Path], weights: Sequence[float] | None = None
) -> torch.nn.Module:
    """A transformer with a weighted sum of adapters merged into it, such as those of a length and of a style.

    The sum is exact: peft puts the factors of all adapters beside each other (``cat``), whatever their ranks.

    Args:
        transformer: the base model; its layers are changed in place.
        folders: each with an adapter in peft's format.
        weights: one a folder; 1 each where None.

    Raises:
        ValueError: no folder, a folder without an adapter, or an adapter of another architecture.
    """
    weights = [1.0] * len(folders) if weights is None else list(weights)
    if not folders or len(weights) != len(folders):
        raise ValueError(f"adapters: {len(folders)} folders with {len(weights)} weights; one weight each is needed")
    from peft import LoraConfig, PeftModel, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    model, names = None, [f"adapter_{number}" for number in range(len(folders))]
    for name, folder in zip(names, folders, strict=True):
        for file in (CONFIG, WEIGHTS):
            if not (folder / file).exists():
                raise ValueError(f"adapter {folder}: no {file}; a LoRA in peft's format is needed")
        try:
            config = LoraConfig.from_pretrained(str(folder))
            state = load_file(folder / WEIGHTS)
            if model is None:
                model = PeftModel(transformer, config, name, autocast_adapter_dtype=False)
            else:
                model.add_adapter(name, config)
            found = set_peft_model_state_dict(model, state, name)
        except (SafetensorError, RuntimeError, TypeError, KeyError, ValueError) as error:
            raise ValueError(f"adapter {folder}: not of this architecture: {_line(error)}") from None
        missing = [key for key in found.missing_keys if f".{name}." in key]
        if found.unexpected_keys or missing:
            odd = (found.unexpected_keys or missing)[0]
            raise ValueError(f"adapter {folder}: not of this architecture: {odd} does not fit")
    if len(names) > 1 or weights[0] != 1.0:
        model.add_weighted_adapter(names, weights, "together", combination_type="cat")
        model.set_adapter("together")
        return model.merge_and_unload(safe_merge=True, adapter_names=["together"]).eval()
    return model.merge_and_unload(safe_merge=True, adapter_names=names).eval()


def load_merged(transformer: torch.nn.Module, folders: Sequence[Path]) -> torch.nn.Module:
    """A transformer with the adapters of other cells, such as those of a style and of a length together: they add up.

    Args:
        transformer: the base model; its layers are changed in place.
        folders: those that the verb ``tune`` wrote, each with a LoRA and its record.

    Raises:
        ValueError: no folder, one of them twice, one without adapter or record, or adapters that were
            tuned from other weights than the first.
    """
    whole = [Path(folder).resolve() for folder in folders]
    if not whole or len(set(whole)) < len(whole):
        told = ", ".join(map(str, folders)) or "none"
        raise ValueError(f"adapters: {told}: a folder or several, each once, are needed")
    bases = [_base(folder) for folder in folders]
    for folder, base in zip(folders, bases, strict=True):
        if base != bases[0]:
            raise ValueError(
                f"adapter {folder}: tuned from the weights {base[:12]}; those of {folders[0]} are {bases[0][:12]}, and "
                "only adapters of one base can be merged"
            )
    return combine(transformer, folders)


def _base(folder: Path) -> str:
    """SHA-256 of the weights that an adapter was tuned from."""
    if not (folder / RECORD).exists():
        raise ValueError(f"adapter {folder}: no {RECORD}; a folder that the verb tune wrote is needed")
    return read_record(folder / RECORD)["provenance"]["hashes"]["weights"]


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
