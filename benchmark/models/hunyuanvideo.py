"""HunyuanVideo (Tencent, arXiv 2412.03603): 20 blocks with two streams, then 40 with one; text is in the sequence."""

from __future__ import annotations

from benchmark.models.spec import ModelSpec, Shape

SPEC = ModelSpec(
    name="hunyuanvideo",
    paper_name="HunyuanVideo",
    parameters=13e9,
    passes=1,  # guidance is an input of the distilled model
    temporal_compression=4,
    vae_compression=8,
    default=Shape(125, 720, 1280),
    lengths={"1x": 125, "2x": 253, "4x": 509},  # Table 2
    text_tokens=256,
    joint_text=True,
    transformer_class="HunyuanVideoTransformer3DModel",
    transformer_config={
        "in_channels": 16,
        "out_channels": 16,
        "num_attention_heads": 24,
        "attention_head_dim": 128,
        "num_layers": 20,
        "num_single_layers": 40,
        "num_refiner_layers": 2,
        "mlp_ratio": 4.0,
        "patch_size": 2,
        "patch_size_t": 1,
        "qk_norm": "rms_norm",
        "guidance_embeds": True,
        "text_embed_dim": 4096,
        "pooled_projection_dim": 768,
        "rope_theta": 256.0,
        "rope_axes_dim": (16, 56, 56),
        "image_condition_type": None,
    },
    table1=Shape(117, 768, 1280),
)
