"""The testbeds: small video models in pixel space, of Wan's architecture and with weights of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmark.models.spec import ModelSpec, Shape, build
from benchmark.records import sha256_file
from benchmark.testbed import shards
from benchmark.testbed.grammar import TEXT_DIM, TEXT_TOKENS

if TYPE_CHECKING:
    from diffusers import ModelMixin

SPEC = ModelSpec(
    name="testbed-nano",
    paper_name="testbed-nano",  # not a model of the paper
    parameters=3.8e6,  # bfloat16 weights must fit into 8 MB
    passes=1,
    temporal_compression=1,
    vae_compression=1,
    default=Shape(16, 48, 48),
    lengths={"1x": 16, "2x": 32, "4x": 64},
    text_tokens=TEXT_TOKENS,
    joint_text=False,
    transformer_class="WanTransformer3DModel",
    transformer_config={
        "patch_size": (1, 6, 6),
        "num_attention_heads": 6,
        "attention_head_dim": 32,
        "in_channels": 3,
        "out_channels": 3,
        "text_dim": TEXT_DIM,
        "freq_dim": 64,
        "ffn_dim": 704,
        "num_layers": 6,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "eps": 1e-6,
        "image_dim": None,
        "added_kv_proj_dim": None,
        "rope_max_seq_len": 128,
        "pos_embed_seq_len": None,
    },
    steps=16,
)

BASE = ModelSpec(
    name="testbed-base",
    paper_name="testbed-base",  # not a model of the paper
    parameters=9.5e6,  # bfloat16 weights must fit into 20 MB
    passes=1,
    temporal_compression=1,
    vae_compression=1,
    # 32 frames: with fewer than 30, frames at power-of-two distances (``pa``) are more than a third of all pairs.
    default=Shape(32, 64, 64),
    lengths={"1x": 32, "2x": 64, "4x": 128},
    text_tokens=TEXT_TOKENS,
    joint_text=False,
    transformer_class="WanTransformer3DModel",
    transformer_config={
        "patch_size": (1, 4, 4),
        "num_attention_heads": 4,
        "attention_head_dim": 64,  # heads of 32 would spend more time on exponentials than on products
        "in_channels": 3,
        "out_channels": 3,
        "text_dim": TEXT_DIM,
        "freq_dim": 64,
        "ffn_dim": 1152,
        "num_layers": 8,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "eps": 1e-6,
        "image_dim": None,
        "added_kv_proj_dim": None,
        "rope_max_seq_len": 128,
        "pos_embed_seq_len": None,
    },
    steps=25,  # 6 dense steps are the paper's share of 24 %
)

WEIGHTS_FOLDER = Path(__file__).resolve().parent.parent / "testbed" / "weights"


def manifest(name: str) -> dict[str, Any]:
    """What is known of a testbed's published weights: file, SHA-256, adherence, repetition.

    Raises:
        ValueError: none are published under that name.
    """
    path = WEIGHTS_FOLDER / "manifest.json"
    published = json.loads(path.read_text()) if path.exists() else {}
    if name not in published:
        raise ValueError(
            f"weights of {name!r}: none are published in {path}; it lists {', '.join(published) or 'none'}"
        )
    return published[name]


def stated_files(name: str) -> dict[Path, str]:
    """The files of a testbed's published weights, and the SHA-256 that the manifest states, directly or by an index.

    Raises:
        ValueError: none are published under that name, or their index cannot be read.
    """
    known = manifest(name)
    path = WEIGHTS_FOLDER / known["file"]
    return {path: known["sha256"]} | (shards.stated(path) if shards.is_index(path) and path.exists() else {})


def load(
    name: str, device: torch.device | str = "cpu", folder: Path = WEIGHTS_FOLDER, spec: ModelSpec | None = None
) -> ModelMixin:
    """A testbed's transformer with its published weights, in bfloat16, in evaluation mode.

    Norms, modulation and time embedding stay in float32, as diffusers keeps them when it loads Wan in bfloat16.

    Args:
        folder: where ``<name>.safetensors`` lies, or ``<name>.safetensors.index.json`` with the shards that it names.
        spec: what the weights were trained for; None for the testbed of that name.

    Raises:
        ValueError: a file is missing, is not the one that the manifest or the index names, or holds another model's
            weights.
    """
    from safetensors import SafetensorError

    from benchmark import models

    spec = models.get(name) if spec is None else spec
    path = shards.find(folder, name)
    if folder.resolve() == WEIGHTS_FOLDER and (found := sha256_file(path)) != manifest(name)["sha256"]:
        raise ValueError(f"weights {path}: SHA-256 is {found}, the manifest says {manifest(name)['sha256']}")
    transformer = build(spec, device)
    try:
        transformer.load_state_dict(shards.read(path, device), strict=True)
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"weights {path}: not those of {spec.name}: {' '.join(str(error).split())[:300]}") from None
    kept = tuple(transformer._keep_in_fp32_modules)
    for full_name, parameter in transformer.named_parameters():
        if not any(part in kept for part in full_name.split(".")):
            parameter.data = parameter.data.to(torch.bfloat16)
    return transformer
