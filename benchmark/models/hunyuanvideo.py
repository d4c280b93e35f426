"""HunyuanVideo (Tencent, arXiv 2412.03603): 20 blocks with two streams, then 40 with one; text is in the sequence."""

from __future__ import annotations

import torch

from benchmark.attention import AttentionRouter
from benchmark.models.routed import RoutedAttention, connect_with_positions
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


class HunyuanVideoAttention(RoutedAttention):
    """The attention processor of one block of either kind: diffusers' own, with the attention itself left to a router.

    The sequence is the video followed by the text. Padding of the text is never attended to; diffusers computes
    queries for it that nothing reads, here it gets zeros.
    """

    def __call__(
        self,
        attn: torch.nn.Module,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Joint attention of (batch, video tokens, channels) and (batch, text tokens, channels)."""
        video = hidden_states.shape[1]
        if attn.add_q_proj is None:  # one stream: both pass through the same projections
            hidden_states = torch.cat([hidden_states, encoder_hidden_states], dim=1)
        q = attn.norm_q(attn.to_q(hidden_states).unflatten(2, (attn.heads, -1)))
        k = attn.norm_k(attn.to_k(hidden_states).unflatten(2, (attn.heads, -1)))
        v = attn.to_v(hidden_states).unflatten(2, (attn.heads, -1))
        if attn.add_q_proj is None:
            (q, text_q), (k, text_k) = ((x[:, :video], x[:, video:]) for x in (q, k))
        else:
            text_q = attn.norm_added_q(attn.add_q_proj(encoder_hidden_states).unflatten(2, (attn.heads, -1)))
            text_k = attn.norm_added_k(attn.add_k_proj(encoder_hidden_states).unflatten(2, (attn.heads, -1)))
            text_v = attn.add_v_proj(encoder_hidden_states).unflatten(2, (attn.heads, -1))
            v = torch.cat([v, text_v], dim=1)
        tables = None
        if self.rotates_first:
            q, k = rotate(q, *image_rotary_emb), rotate(k, *image_rotary_emb)
        else:
            tables = half_tables(image_rotary_emb)
        out = self.attend(torch.cat([q, text_q], dim=1), torch.cat([k, text_k], dim=1), v, tables)
        out = out.flatten(2, 3).type_as(q)
        out, text_out = out[:, :video], out[:, video:]
        if getattr(attn, "to_out", None) is not None:
            out = attn.to_out[1](attn.to_out[0](out))
        if getattr(attn, "to_add_out", None) is not None:
            text_out = attn.to_add_out(text_out)
        return out, text_out


def rotate(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """HunyuanVideo's rotary embedding of (batch, tokens, heads, head size): channels 2n and 2n + 1 turn together."""
    real, imaginary = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([-imaginary, real], dim=-1).flatten(-2)
    cosines, sines = cosines[:, None], sines[:, None]
    return (x.float() * cosines + turned.float() * sines).type_as(x)


def half_tables(tables: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """diffusers' tables, (tokens, head size), as (tokens, 1, half of the head size)."""
    return tables[0][:, None, 0::2].contiguous(), tables[1][:, None, 0::2].contiguous()


def install(transformer: torch.nn.Module, router: AttentionRouter, repetition: float | None = None) -> None:
    """Gives every block's attention to a router, and the temporal positions to its method.

    The token refiner keeps its own attention. Where the method sees the video tokens in one order, they are permuted
    before the first block and back after the last.

    Args:
        transformer: a ``HunyuanVideoTransformer3DModel``.
        repetition: the period in latent frames at which the model was seen to repeat itself, if anyone looked.

    Raises:
        ValueError: the method refuses the model's temporal positions.
    """
    link = connect_with_positions(transformer, router, repetition, temporal_frequencies, half_tables, token_dim=0)

    def permute(embedder: torch.nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        # diffusers hands a transposed view to the first block, which compiled code would have to treat apart.
        return link.permute(output, token_dim=1).contiguous()

    link.hold(
        transformer.register_forward_pre_hook(
            lambda module, args, kwargs: link.read_text("encoder_attention_mask", 3, args, kwargs), with_kwargs=True
        ),
        transformer.x_embedder.register_forward_hook(permute),
    )
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
    for layer, block in enumerate(blocks):
        block.attn.set_processor(HunyuanVideoAttention(layer, link))


def temporal_frequencies(rope: torch.nn.Module) -> torch.Tensor:
    """The model's temporal frequencies in radians a latent frame, highest first: float64 (components,)."""
    channels = rope.rope_dim[0]
    return rope.theta ** (-torch.arange(0, channels, 2, dtype=torch.float64) / channels)
