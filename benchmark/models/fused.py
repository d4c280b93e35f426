"""Transformer blocks that compute what diffusers' do with fewer passes over memory.

Each takes the place of a block of diffusers, with the same weights and arguments, and is compiled. What differs:

- q, k and v are one matrix product; their weights become views of one tensor, so nothing is stored twice;
- the norm of q and k, their rotation and the rounding are one pass, in float32 up to the end;
- GELU is computed where its matrix product leaves the accumulator (``linear_gelu``);
- HunyuanVideo's single-stream blocks keep video and text in one sequence from the first to the last, and multiply
  attention and feed-forward by their own halves of the output weights, so that neither is copied into a wide tensor;
- Wan's cross-attention asks for cuDNN's kernel first (``cross_attention``).

What can be switched off by name is in ``PARTS``. Between operations less is rounded than in diffusers' eager blocks, so
that results differ by rounding in bfloat16 and are no farther from float32 (``benchmark.fuse.rounding``). The blocks
have no backward pass.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmark.models.rotary import rotate_pairs

Tables = tuple[torch.Tensor, torch.Tensor]

PARTS = ("gelu", "cross")
"""Parts of the fused blocks that may be left out: GELU in the epilogue, cuDNN for Wan's cross-attention."""


@torch.library.custom_op("benchmark::linear_gelu", mutates_args=(), device_types="cuda")
def linear_gelu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """GELU (tanh form) of a linear layer, (..., channels): on a GPU in the epilogue of cuBLASLt's matrix product."""
    out = torch._addmm_activation(bias, x.flatten(0, -2), weight.t(), use_gelu=True)
    return out.view(*x.shape[:-1], -1)


@linear_gelu.register_kernel("cpu")
def _(x, weight, bias):
    return F.gelu(F.linear(x, weight, bias), approximate="tanh")


@linear_gelu.register_fake
def _(x, weight, bias):
    return x.new_empty(*x.shape[:-1], weight.shape[0])


@torch.library.custom_op("benchmark::cross_attention", mutates_args=())
def cross_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Dense attention to keys of another sequence, (batch, tokens, heads, head size)."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    order = [
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,
    ]
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    with sdpa_kernel(order, set_priority=True):
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).contiguous()


@cross_attention.register_fake
def _(q, k, v):
    return q.new_empty(q.shape)


def join(layers: Iterable[nn.Linear]) -> tuple[nn.Parameter, nn.Parameter | None]:
    """Weights and biases of linear layers of one input as one layer's; the layers' own become views of them."""
    layers = list(layers)
    weight = torch.cat([layer.weight.data for layer in layers])
    bias = torch.cat([layer.bias.data for layer in layers]) if layers[0].bias is not None else None
    sizes = [layer.out_features for layer in layers]
    for number, layer in enumerate(layers):
        layer.weight.data = weight.split(sizes)[number]
        if bias is not None:
            layer.bias.data = bias.split(sizes)[number]
    return (
        nn.Parameter(weight, requires_grad=False),
        nn.Parameter(bias, requires_grad=False) if bias is not None else None,
    )


class Projections(nn.Module):
    """q, k and v of one sequence as one matrix product, q and k normalised and rotated.

    Args:
        layers: the linear layers of q, k and v.
        norms: the RMS norms of q and k, with weights over a head or over all heads.
        heads: attention heads.
    """

    def __init__(self, layers: Iterable[nn.Linear], norms: tuple[nn.Module, nn.Module], heads: int) -> None:
        super().__init__()
        self.weight, self.bias = join(layers)
        self.norm_q, self.norm_k = norms
        self.heads = heads

    def forward(self, x: torch.Tensor, tables: Tables | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q, k and v, (batch, tokens, heads, head size), of x, (batch, tokens, channels).

        Args:
            tables: cosines and sines, (tokens, heads or 1, half of the head size); None leaves q and k unrotated.
        """
        q, k, v = F.linear(x, self.weight, self.bias).chunk(3, dim=-1)
        q, k = self._norm(q, self.norm_q, tables), self._norm(k, self.norm_k, tables)
        return q, k, v.unflatten(2, (self.heads, -1))

    def _norm(self, x: torch.Tensor, norm: nn.Module, tables: Tables | None) -> torch.Tensor:
        dtype = x.dtype
        over_heads = norm.weight.shape[0] == x.shape[2]
        x = x.float() if over_heads else x.float().unflatten(2, (self.heads, -1))
        x = x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + norm.eps) * norm.weight.float()
        x = x.unflatten(2, (self.heads, -1)) if over_heads else x
        return (x if tables is None else rotate_pairs(x, *tables)).to(dtype)


class FusedWanBlock(nn.Module):
    """A ``WanTransformerBlock``; see the module's first lines."""

    def __init__(self, block: nn.Module, parts: Collection[str] = PARTS) -> None:
        super().__init__()
        self.block = block
        self.parts = frozenset(parts)
        attn = block.attn1
        self.processor = attn.processor
        self.projections = Projections((attn.to_q, attn.to_k, attn.to_v), (attn.norm_q, attn.norm_k), attn.heads)
        cross = block.attn2
        self.text_weight, self.text_bias = join((cross.to_k, cross.to_v))

    def forward(
        self, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, temb: torch.Tensor, rotary_emb: Tables
    ) -> torch.Tensor:
        """As the block's own, with halved rotary tables."""
        block, dtype = self.block, hidden_states.dtype
        shift, scale, gate, ff_shift, ff_scale, ff_gate = (block.scale_shift_table + temb.float()).chunk(6, dim=1)
        normed = (block.norm1(hidden_states.float()) * (1 + scale) + shift).to(dtype)
        out = _attend(self.processor, *_qkv(self, normed, rotary_emb), rotary_emb).flatten(2)
        out = block.attn1.to_out[0](out)
        hidden_states = (hidden_states.float() + out * gate).to(dtype)
        normed = block.norm2(hidden_states.float()).to(dtype)
        hidden_states = hidden_states + self._cross(normed, encoder_hidden_states)
        normed = (block.norm3(hidden_states.float()) * (1 + ff_scale) + ff_shift).to(dtype)
        out = _feed_forward(self, block.ffn, normed)
        return (hidden_states.float() + out.float() * ff_gate).to(dtype)

    def _cross(self, x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        attn = self.block.attn2
        q = attn.norm_q(attn.to_q(x)).unflatten(2, (attn.heads, -1))
        k, v = F.linear(text, self.text_weight, self.text_bias).chunk(2, dim=-1)
        k, v = attn.norm_k(k).unflatten(2, (attn.heads, -1)), v.unflatten(2, (attn.heads, -1))
        if "cross" in self.parts:
            out = cross_attention(q, k, v)
        else:
            out = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
        return attn.to_out[0](out.flatten(2))


class FusedHunyuanVideoBlock(nn.Module):
    """A ``HunyuanVideoTransformerBlock``, of two streams; see the module's first lines."""

    def __init__(self, block: nn.Module, parts: Collection[str] = PARTS) -> None:
        super().__init__()
        self.block = block
        self.parts = frozenset(parts)
        self.processor = block.attn.processor
        self.projections, self.text_projections = _two_streams(block.attn)

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        temb: torch.Tensor,
        attention_mask: torch.Tensor | None,
        tables: Tables,
        *args: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As the block's own, with halved rotary tables."""
        block, video = self.block, hidden_states.shape[1]
        normed, gate, ff_shift, ff_scale, ff_gate = block.norm1(hidden_states, emb=temb)
        text_normed, text_gate, text_shift, text_scale, text_ff_gate = block.norm1_context(
            encoder_hidden_states, emb=temb
        )
        q, k, v = _joint(self, normed, text_normed, tables)
        out = _attend(self.processor, q, k, v, tables).flatten(2)
        hidden_states = hidden_states + block.attn.to_out[0](out[:, :video]) * gate[:, None]
        encoder_hidden_states = (
            encoder_hidden_states + block.attn.to_add_out(out[:, video:]) * text_gate[:, None]
        )  # fmt: skip
        normed = block.norm2(hidden_states) * (1 + ff_scale[:, None]) + ff_shift[:, None]
        text_normed = block.norm2_context(encoder_hidden_states) * (1 + text_scale[:, None]) + text_shift[:, None]
        hidden_states = hidden_states + ff_gate[:, None] * _feed_forward(self, block.ff, normed)
        encoder_hidden_states = encoder_hidden_states + text_ff_gate[:, None] * _feed_forward(
            self, block.ff_context, text_normed
        )
        return hidden_states, encoder_hidden_states


class FusedHunyuanVideoSingleBlock(nn.Module):
    """A ``HunyuanVideoSingleTransformerBlock``, on video and text in one sequence; see the module's first lines."""

    def __init__(self, block: nn.Module, parts: Collection[str] = PARTS) -> None:
        super().__init__()
        self.block = block
        self.parts = frozenset(parts)
        attn = block.attn
        self.processor = attn.processor
        self.projections = Projections((attn.to_q, attn.to_k, attn.to_v), (attn.norm_q, attn.norm_k), attn.heads)

    def forward(self, hidden_states: torch.Tensor, temb: torch.Tensor, tables: Tables, joint: Tables) -> torch.Tensor:
        """The block's output, (batch, video and text tokens, channels).

        Args:
            tables: of the video tokens, halved.
            joint: the same with rows for the text tokens that turn nothing.
        """
        block = self.block
        normed, gate = block.norm(hidden_states, emb=temb)
        out = _attend(self.processor, *_qkv(self, normed, joint), tables).flatten(2)
        inner = _gelu_of(self, block.proj_mlp, normed)
        of_attention, of_inner = block.proj_out.weight.split([out.shape[2], inner.shape[2]], dim=1)
        out = F.linear(out, of_attention, block.proj_out.bias) + F.linear(inner, of_inner)
        return hidden_states + gate[:, None] * out


class FusedHunyuanVideoSingleStream(nn.Module):
    """All single-stream blocks as one module: video and text are joined before the first and parted after the last."""

    def __init__(self, blocks: Iterable[nn.Module], parts: Collection[str] = PARTS) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(FusedHunyuanVideoSingleBlock(block, parts) for block in blocks)

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        temb: torch.Tensor,
        attention_mask: torch.Tensor | None,
        tables: Tables,
        *args: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Arguments and results of a block's own, with halved rotary tables."""
        video, text = hidden_states.shape[1], encoder_hidden_states.shape[1]
        hidden_states = torch.cat([hidden_states, encoder_hidden_states], dim=1)
        joint = tuple(
            F.pad(table, (0, 0, 0, 0, 0, text), value=value) for table, value in zip(tables, (1.0, 0.0), strict=True)
        )
        for block in self.blocks:
            hidden_states = block(hidden_states, temb, tables, joint)
        return hidden_states[:, :video], hidden_states[:, video:]


class FusedMochiBlock(nn.Module):
    """A ``MochiTransformerBlock``; see the module's first lines. Its feed-forward is SwiGLU, which has no epilogue."""

    def __init__(self, block: nn.Module, parts: Collection[str] = PARTS) -> None:
        super().__init__()
        self.block = block
        self.parts = frozenset(parts)
        self.processor = block.attn1.processor
        self.projections, self.text_projections = _two_streams(block.attn1)

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        temb: torch.Tensor,
        encoder_attention_mask: torch.Tensor,
        image_rotary_emb: Tables,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As the block's own."""
        block, video = self.block, hidden_states.shape[1]
        normed, gate, ff_scale, ff_gate = block.norm1(hidden_states, temb)
        if block.context_pre_only:
            text_normed = block.norm1_context(encoder_hidden_states, temb)
        else:
            text_normed, text_gate, text_scale, text_ff_gate = block.norm1_context(encoder_hidden_states, temb)
        q, k, v = _joint(self, normed, text_normed, image_rotary_emb)
        out = _attend(self.processor, q, k, v, image_rotary_emb).flatten(2)
        attended = block.attn1.to_out[0](out[:, :video])
        hidden_states = hidden_states + block.norm2(attended, torch.tanh(gate)[:, None])
        ff_output = block.ff(block.norm3(hidden_states, 1 + ff_scale[:, None].float()))
        hidden_states = hidden_states + block.norm4(ff_output, torch.tanh(ff_gate)[:, None])
        if block.context_pre_only:
            return hidden_states, encoder_hidden_states
        attended = block.attn1.to_add_out(out[:, video:])
        encoder_hidden_states = encoder_hidden_states + block.norm2_context(attended, torch.tanh(text_gate)[:, None])
        ff_output = block.ff_context(block.norm3_context(encoder_hidden_states, 1 + text_scale[:, None].float()))
        encoder_hidden_states = encoder_hidden_states + block.norm4_context(
            ff_output, torch.tanh(text_ff_gate)[:, None]
        )
        return hidden_states, encoder_hidden_states


def _two_streams(attn: nn.Module) -> tuple[Projections, Projections]:
    """The projections of video and of text."""
    return (
        Projections((attn.to_q, attn.to_k, attn.to_v), (attn.norm_q, attn.norm_k), attn.heads),
        Projections(
            (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj), (attn.norm_added_q, attn.norm_added_k), attn.heads
        ),
    )


def _qkv(block: nn.Module, x: torch.Tensor, tables: Tables) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, k and v, rotated unless the method rotates them itself."""
    return block.projections(x, tables if block.processor.rotates_first else None)


def _joint(
    block: nn.Module, x: torch.Tensor, text: torch.Tensor, tables: Tables
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, k and v of the video followed by those of the text."""
    pairs = zip(_qkv(block, x, tables), block.text_projections(text, None), strict=True)
    q, k, v = (torch.cat(pair, dim=1) for pair in pairs)
    return q, k, v


def _attend(processor: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, tables: Tables) -> torch.Tensor:
    return processor.attend(q, k, v, None if processor.rotates_first else tables)


def _feed_forward(block: nn.Module, ff: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A feed-forward layer with GELU in its tanh form."""
    return ff.net[2](_gelu_of(block, ff.net[0].proj, x))


def _gelu_of(block: nn.Module, linear: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    if "gelu" in block.parts:
        return linear_gelu(x, linear.weight, linear.bias)
    return F.gelu(linear(x), approximate="tanh")
