"""The testbed: a small video model in pixel space, of Wan's architecture and with weights of its own."""

from __future__ import annotations

from benchmark.models.spec import ModelSpec, Shape
from benchmark.testbed.grammar import TEXT_DIM, TEXT_TOKENS

SPEC = ModelSpec(
    name="testbed-nano",
    paper_name="testbed-nano",  # not a model of the paper
    parameters=3.8e6,  # bfloat16 weights must fit into 8 MB
    passes=1,
    temporal_compression=1,
    vae_compression=1,
    default=Shape(16, 64, 64),
    lengths={"1x": 16, "2x": 32, "4x": 64},
    text_tokens=TEXT_TOKENS,
    joint_text=False,
    transformer_class="WanTransformer3DModel",
    transformer_config={
        "patch_size": (1, 8, 8),
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
