"""Wan2.1-14B, text to video (Alibaba, arXiv 2503.20314): text enters by cross-attention, padded to 512 tokens."""

from __future__ import annotations

from benchmark.models.spec import ModelSpec, Shape

SPEC = ModelSpec(
    name="wan2.1-14b",
    paper_name="Wan2.1-14B",
    parameters=14e9,
    passes=2,
    temporal_compression=4,
    vae_compression=8,
    default=Shape(81, 720, 1280),
    lengths={"1x": 81, "2x": 161},  # Table 2 has no 4x for this model
    text_tokens=512,
    joint_text=False,
    transformer_class="WanTransformer3DModel",
    transformer_config={
        "patch_size": (1, 2, 2),
        "num_attention_heads": 40,
        "attention_head_dim": 128,
        "in_channels": 16,
        "out_channels": 16,
        "text_dim": 4096,
        "freq_dim": 256,
        "ffn_dim": 13824,
        "num_layers": 40,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "eps": 1e-6,
        "image_dim": None,
        "added_kv_proj_dim": None,
        "rope_max_seq_len": 1024,
        "pos_embed_seq_len": None,
    },
    table1=Shape(69, 768, 1280),
)
