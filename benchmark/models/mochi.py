"""Mochi 1 (Genmo): 48 blocks with two streams of different width; text is in the sequence."""

from __future__ import annotations

from benchmark.models.spec import ModelSpec, Shape

SPEC = ModelSpec(
    name="mochi-1",
    paper_name="Mochi 1",
    parameters=10e9,
    passes=2,
    temporal_compression=6,
    vae_compression=8,
    # The paper says "480p"; this is the default of diffusers' pipeline at that height.
    default=Shape(163, 480, 848),
    # Table 2. The paper's text says 162 frames for the first, which is no length this model can make.
    lengths={"1x": 163, "2x": 331, "4x": 667},
    text_tokens=256,
    joint_text=True,
    transformer_class="MochiTransformer3DModel",
    transformer_config={
        "patch_size": 2,
        "num_attention_heads": 24,
        "attention_head_dim": 128,
        "num_layers": 48,
        "pooled_projection_dim": 1536,
        "in_channels": 12,
        "out_channels": None,
        "qk_norm": "rms_norm",
        "text_embed_dim": 4096,
        "time_embed_dim": 256,
        "activation_fn": "swiglu",
        "max_sequence_length": 256,
    },
)
