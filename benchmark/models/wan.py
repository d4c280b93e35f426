"""Wan2.1-14B, text to video (Alibaba, arXiv 2503.20314): text enters by cross-attention, padded to 512 tokens."""

from __future__ import annotations

import torch

from benchmark.attention import AttentionRouter
from benchmark.models.routed import RoutedAttention, connect_with_positions
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


class WanSelfAttention(RoutedAttention):
    """The attention processor of one block: diffusers' own, with the attention itself left to a router."""

    def __call__(
        self,
        attn: torch.nn.Module,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Self-attention of (batch, tokens, channels)."""
        q = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))
        k = attn.norm_k(attn.to_k(hidden_states)).unflatten(2, (attn.heads, -1))
        v = attn.to_v(hidden_states).unflatten(2, (attn.heads, -1))
        tables = None
        if self.rotates_first:
            q, k = rotate(q, *rotary_emb), rotate(k, *rotary_emb)
        else:
            tables = half_tables(rotary_emb)
        out = self.attend(q, k, v, tables)
        return attn.to_out[1](attn.to_out[0](out.flatten(2, 3).type_as(q)))


def rotate(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Wan's rotary embedding of (batch, tokens, heads, head size): channels 2n and 2n + 1 turn together."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cosines, sines = cosines[..., 0::2], sines[..., 1::2]
    out = torch.empty_like(x)
    out[..., 0::2] = even * cosines - odd * sines
    out[..., 1::2] = even * sines + odd * cosines
    return out


def half_tables(tables: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """diffusers' tables, (1, tokens, 1, head size), as (tokens, 1, half of the head size)."""
    return tables[0][0, :, :, 0::2].contiguous(), tables[1][0, :, :, 1::2].contiguous()


def install(transformer: torch.nn.Module, router: AttentionRouter, repetition: float | None = None) -> None:
    """Gives every block's self-attention to a router, and the temporal positions to its method.

    Where the method sees the tokens in one order, they are permuted before the first block and back after the last.

    Args:
        transformer: a ``WanTransformer3DModel``.
        repetition: the period in latent frames at which the model was seen to repeat itself, if anyone looked.

    Raises:
        ValueError: the method refuses the model's temporal positions.
    """
    link = connect_with_positions(transformer, router, repetition, temporal_frequencies, half_tables, token_dim=1)

    def permute(module: torch.nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        return link.permute(output.flatten(2), token_dim=2).view(output.shape)

    link.hold(transformer.patch_embedding.register_forward_hook(permute))
    for layer, block in enumerate(transformer.blocks):
        block.attn1.set_processor(WanSelfAttention(layer, link))


def temporal_frequencies(rope: torch.nn.Module) -> torch.Tensor:
    """The model's temporal frequencies in radians a latent frame, highest first: float64 (components,)."""
    # Frame 1's angles are the frequencies themselves; none is above one radian.
    temporal = slice(0, rope.t_dim, 2)
    return torch.atan2(rope.freqs_sin[1, temporal].double(), rope.freqs_cos[1, temporal].double())
