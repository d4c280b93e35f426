"""Mochi 1 (Genmo): 48 blocks with two streams of different width; text is in the sequence."""

from __future__ import annotations

import torch

from benchmark.attention import AttentionRouter
from benchmark.method import Method
from benchmark.models.routed import RoutedAttention, connect
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


class MochiAttention(RoutedAttention):
    """The attention processor of one block: diffusers' own, with the attention itself left to a router.

    The sequence of a sample is the video followed by its valid text tokens, as in diffusers; padding gets zeros.
    """

    def __call__(
        self,
        attn: torch.nn.Module,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Joint attention of (batch, video tokens, channels) and (batch, text tokens, text channels)."""
        video = hidden_states.shape[1]
        q = attn.norm_q(attn.to_q(hidden_states).unflatten(2, (attn.heads, -1)))
        k = attn.norm_k(attn.to_k(hidden_states).unflatten(2, (attn.heads, -1)))
        v = attn.to_v(hidden_states).unflatten(2, (attn.heads, -1))
        text_q = attn.norm_added_q(attn.add_q_proj(encoder_hidden_states).unflatten(2, (attn.heads, -1)))
        text_k = attn.norm_added_k(attn.add_k_proj(encoder_hidden_states).unflatten(2, (attn.heads, -1)))
        text_v = attn.add_v_proj(encoder_hidden_states).unflatten(2, (attn.heads, -1))
        tables = None
        if self.rotates_first:
            q, k = rotate(q, *image_rotary_emb), rotate(k, *image_rotary_emb)
        else:
            tables = image_rotary_emb
        q, k, v = (torch.cat(pair, dim=1) for pair in ((q, text_q), (k, text_k), (v, text_v)))
        out = self.attend(q, k, v, tables).flatten(2, 3).type_as(q)
        out, text_out = out[:, :video], out[:, video:]
        out = attn.to_out[1](attn.to_out[0](out))
        if hasattr(attn, "to_add_out"):  # not in the last block, whose text goes nowhere
            text_out = attn.to_add_out(text_out)
        return out, text_out


def rotate(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Mochi's rotary embedding of (batch, tokens, heads, head size): channels 2n and 2n + 1 turn together."""
    even, odd = x[..., 0::2].float(), x[..., 1::2].float()
    pairs = (even * cosines - odd * sines).type_as(x), (even * sines + odd * cosines).type_as(x)
    return torch.stack(pairs, dim=-1).flatten(-2)


def install(transformer: torch.nn.Module, router: AttentionRouter, repetition: float | None = None) -> None:
    """Gives every block's attention to a router.

    Where the method sees the video tokens in one order, they are permuted before the first block and back after the
    last.

    Args:
        transformer: a ``MochiTransformer3DModel``.
        repetition: without effect: a method that changes temporal frequencies is refused.

    Raises:
        ValueError: the method changes temporal frequencies. Mochi's positions are learned frequencies that mix time,
            height and width in every component, so that there is no temporal one to change.
    """
    if type(router.method).temporal_frequencies is not Method.temporal_frequencies:
        raise ValueError(
            f"{router.method.name()} on mochi-1: unsupported: its learned frequencies mix time, height and width,"
            " so there is no temporal frequency to change"
        )
    link = connect(transformer, router, transformer.config.num_attention_heads)

    def permute(module: torch.nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        # It embeds frame by frame: (batch x frames, tokens of a frame, channels).
        if not link.router.hoisted:
            return output
        frames = link.router.layout.frames
        video = link.permute(output.unflatten(0, (-1, frames)).flatten(1, 2), token_dim=1)
        return video.unflatten(1, (frames, -1)).flatten(0, 1)

    link.hold(
        transformer.register_forward_pre_hook(
            lambda module, args, kwargs: link.read_text("encoder_attention_mask", 3, args, kwargs), with_kwargs=True
        ),
        transformer.rope.register_forward_hook(lambda rope, args, output: link.positions(output, None, token_dim=0)),
        transformer.patch_embed.register_forward_hook(permute),
        transformer.norm_out.register_forward_pre_hook(link.permute_back),
    )
    for layer, block in enumerate(transformer.transformer_blocks):
        block.attn1.processor = MochiAttention(layer, link)
