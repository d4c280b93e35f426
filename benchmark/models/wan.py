"""Wan2.1-14B, text to video (Alibaba, arXiv 2503.20314): text enters by cross-attention, padded to 512 tokens."""

from __future__ import annotations

import torch

from benchmark.attention import AttentionRouter
from benchmark.layout import VideoLayout
from benchmark.method import Method
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


class WanSelfAttention:
    """The attention processor of one block: diffusers' own, with the attention itself left to a router.

    Args:
        layer: the block's number, from 0.
        rotary: cosines and sines that replace the model's, where a method changes the positions; None keeps them.
    """

    def __init__(
        self, layer: int, router: AttentionRouter, rotary: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> None:
        self.layer = layer
        self.router = router
        self.rotary = rotary

    def __call__(
        self,
        attn: torch.nn.Module,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Self-attention of (batch, tokens, channels)."""
        rotary = self.rotary or rotary_emb
        q = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))
        k = attn.norm_k(attn.to_k(hidden_states)).unflatten(2, (attn.heads, -1))
        v = attn.to_v(hidden_states).unflatten(2, (attn.heads, -1))
        out = self.router.attend(self.layer, q, k, v, lambda x: rotate(x, *rotary))
        return attn.to_out[1](attn.to_out[0](out.flatten(2, 3).type_as(q)))


def rotate(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Wan's rotary embedding of (batch, tokens, heads, head size): channels 2n and 2n + 1 turn together."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cosines, sines = cosines[..., 0::2], sines[..., 1::2]
    out = torch.empty_like(x)
    out[..., 0::2] = even * cosines - odd * sines
    out[..., 1::2] = even * sines + odd * cosines
    return out


def install(transformer: torch.nn.Module, router: AttentionRouter, repetition: float | None = None) -> None:
    """Gives every block's self-attention to a router, and the temporal positions to its method.

    Args:
        transformer: a ``WanTransformer3DModel``.
        repetition: the period in latent frames at which the model was seen to repeat itself, if anyone looked.
    """
    rotary = rotary_of_method(transformer.rope, router.method, router.layout, repetition)
    for layer, block in enumerate(transformer.blocks):
        block.attn1.set_processor(WanSelfAttention(layer, router, rotary))


def temporal_frequencies(rope: torch.nn.Module) -> torch.Tensor:
    """The model's temporal frequencies in radians a latent frame, highest first: float64 (components,)."""
    # Frame 1's angles are the frequencies themselves; none is above one radian.
    temporal = slice(0, rope.t_dim, 2)
    return torch.atan2(rope.freqs_sin[1, temporal].double(), rope.freqs_cos[1, temporal].double())


def rotary_of_method(
    rope: torch.nn.Module, method: Method, layout: VideoLayout, repetition: float | None
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Cosines and sines with the method's temporal frequencies, each (1, tokens, 1, head size); None if unchanged."""
    own = temporal_frequencies(rope)
    changed = method.temporal_frequencies(own, layout.frames, repetition)
    if torch.equal(own, changed):
        return None
    sizes = rope.patch_size
    shape = (1, 1, layout.frames * sizes[0], layout.height * sizes[1], layout.width * sizes[2])
    cosines, sines = (table.clone() for table in rope(torch.empty(shape, device=rope.freqs_cos.device)))
    frames = torch.arange(layout.frames, device=changed.device, dtype=torch.float64)
    angles = torch.outer(frames, changed).repeat_interleave(2, dim=1).repeat_interleave(layout.frame_tokens, dim=0)
    cosines[0, :, 0, : rope.t_dim] = angles.cos().to(cosines.dtype)
    sines[0, :, 0, : rope.t_dim] = angles.sin().to(sines.dtype)
    return cosines, sines
