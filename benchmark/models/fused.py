"""Transformer blocks that compute what diffusers' do with fewer passes over memory.

Each takes the place of a block of diffusers, with the same weights and arguments, and is compiled. What differs:

- q, k and v are one matrix product; their weights become views of one tensor, so nothing is stored twice;
- the norm of q and k, their rotation and the rounding are one pass, in float32 up to the end;
- GELU is computed where its matrix product leaves the accumulator (``linear_gelu``);
- HunyuanVideo's single-stream blocks keep video and text in one sequence from the first to the last, and multiply
  attention and feed-forward by their own halves of the output weights, so that neither is copied into a wide tensor;
- Wan's cross-attention asks for cuDNN's kernel first (``cross_attention``);
- a residual and the norm that follows are one operation, also from one block to the next, and so are the norm and the
  rotation of q and k, where these parts are asked for (``benchmark.models.rows``).

What can be switched on and off by name is in ``OFFERED``. Between operations less is rounded than in diffusers' eager
blocks, so that results differ by rounding in bfloat16 and are no farther from float32 (``benchmark.fuse.rounding``).
The blocks have no backward pass.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterable
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmark.models.rows import add_norm_rows, norm_rotate, norm_rows, normed_rotated

Tables = tuple[torch.Tensor, torch.Tensor]

OFFERED = ("gelu", "cross", "rows", "rotate", "up", "down")
"""Parts of the fused blocks: GELU in the epilogue of its product (``gelu``); cuDNN for Wan's cross-attention
(``cross``); in Wan's and HunyuanVideo's blocks residuals and norms as one operation (``rows``), and the norm and
rotation of q and k (``rotate``); the feed-forward's first and second product by the package quack-kernels (``up``,
``down``)."""
PARTS = MappingProxyType(
    {
        "WanTransformer3DModel": ("gelu", "cross", "rows", "rotate"),
        "HunyuanVideoTransformer3DModel": ("gelu", "rows", "rotate"),
        "MochiTransformer3DModel": ("gelu",),
    }
)
"""Those that are taken unless others are asked for, by transformer."""
TILES = MappingProxyType({"tile_m": 256, "tile_n": 192, "cluster_m": 2, "cluster_n": 1})
"""Of those products: output tiles of so many rows and channels, and how many tiles share what they read."""


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


@torch.library.custom_op("benchmark::tiled_linear", mutates_args=(), device_types="cuda")
def tiled_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, gelu: bool) -> torch.Tensor:
    """A linear layer, (..., channels), and GELU (tanh form) of it where wanted: on a GPU by quack-kernels."""
    config = importlib.import_module("quack.gemm_config").GemmConfig(
        **TILES, pingpong=False, is_dynamic_persistent=False, device_capacity=9
    )
    out = x.new_empty(*x.shape[:-1], weight.shape[0])
    importlib.import_module("quack.gemm_interface").gemm_act(
        x.flatten(0, -2),
        weight.t(),
        bias=bias,
        activation="gelu_tanh_approx" if gelu else None,
        postact_out=out.flatten(0, -2),
        store_preact=False,
        config=config,
    )
    return out


@tiled_linear.register_kernel("cpu")
def _(x, weight, bias, gelu):
    out = F.linear(x, weight, bias)
    return F.gelu(out, approximate="tanh") if gelu else out


@tiled_linear.register_fake
def _(x, weight, bias, gelu):
    return x.new_empty(*x.shape[:-1], weight.shape[0])


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
        one: whether norm and rotation are one operation, which the compiler does not see into.
    """

    def __init__(
        self, layers: Iterable[nn.Linear], norms: tuple[nn.Module, nn.Module], heads: int, one: bool = False
    ) -> None:
        super().__init__()
        self.one = one
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
        if self.one:
            return norm_rotate(x, norm.weight, *(tables or (None, None)), self.heads, norm.eps)
        return normed_rotated(x, norm.weight, tables, self.heads, norm.eps)


class FusedWanBlock(nn.Module):
    """A ``WanTransformerBlock``; see the module's first lines."""

    def __init__(self, block: nn.Module, parts: Collection[str]) -> None:
        super().__init__()
        self.block = block
        self.parts = frozenset(parts)
        attn = block.attn1
        self.processor = attn.processor
        self.projections = Projections(
            (attn.to_q, attn.to_k, attn.to_v), (attn.norm_q, attn.norm_k), attn.heads, "rotate" in self.parts
        )
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


class FusedWanRowsBlock(FusedWanBlock):
    """The same, given its input normalised and modulated as well, which is part of the residual before."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        normed: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        temb: torch.Tensor,
        rotary_emb: Tables,
        following: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The block's output, and that normalised and modulated for the next block.

        Args:
            following: the next block's ``scale_shift_table``.
        """
        block = self.block
        table = (block.scale_shift_table + temb.float()).unbind(1)
        _, _, gate, ff_shift, ff_scale, ff_gate = table
        out = _attend(self.processor, *_qkv(self, normed, rotary_emb), rotary_emb).flatten(2)
        out = block.attn1.to_out[0](out)
        weight, bias = block.norm2.weight[None], block.norm2.bias[None]
        hidden_states, normed = add_norm_rows(hidden_states, out, None, gate, weight, bias, block.norm2.eps)
        out = self._cross(normed, encoder_hidden_states)
        hidden_states, normed = add_norm_rows(
            hidden_states, out, None, None, 1 + ff_scale, ff_shift, block.norm3.eps
        )  # fmt: skip
        out = _feed_forward(self, block.ffn, normed)
        shift, scale = wan_modulation(following, temb)
        return add_norm_rows(hidden_states, out, None, ff_gate, 1 + scale, shift, block.norm1.eps)


class FusedWanStream(nn.Module):
    """All blocks as one module, in which a block's last residual and the next block's first norm are one operation."""

    def __init__(self, blocks: Iterable[nn.Module], parts: Collection[str]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(FusedWanRowsBlock(block, parts) for block in blocks)

    def forward(
        self, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, temb: torch.Tensor, rotary_emb: Tables
    ) -> torch.Tensor:
        """Arguments and result of a block's own, with halved rotary tables."""
        tables = [block.block.scale_shift_table.detach() for block in self.blocks]
        hidden_states = hidden_states.contiguous()
        shift, scale = wan_modulation(tables[0], temb)
        normed = norm_rows(hidden_states, 1 + scale, shift, self.blocks[0].block.norm1.eps)
        for block, following in zip(self.blocks, [*tables[1:], tables[-1]], strict=True):  # nobody follows the last
            hidden_states, normed = block(hidden_states, normed, encoder_hidden_states, temb, rotary_emb, following)
        return hidden_states


def wan_modulation(table: torch.Tensor, temb: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Shift and scale of a Wan block's first norm, (batch, channels)."""
    return (table[:, :2] + temb[:, :2].float()).unbind(1)


class TwoStreams(nn.Module):
    """What fused blocks share whose attention joins a stream of video and one of text."""

    def __init__(self, block: nn.Module, attention: nn.Module, parts: Collection[str]) -> None:
        super().__init__()
        self.block = block
        self.parts = frozenset(parts)
        self.processor = attention.processor
        self.projections, self.text_projections = _two_streams(attention)


class FusedHunyuanVideoBlock(TwoStreams):
    """A ``HunyuanVideoTransformerBlock``, of two streams; see the module's first lines."""

    def __init__(self, block: nn.Module, parts: Collection[str]) -> None:
        super().__init__(block, block.attn, parts)

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
        if "rows" in self.parts:
            shift, scale, gate, ff_shift, ff_scale, ff_gate = modulation(block.norm1, temb, 6)
            normed = norm_rows(hidden_states, 1 + scale, shift, block.norm1.norm.eps)
        else:
            normed, gate, ff_shift, ff_scale, ff_gate = block.norm1(hidden_states, emb=temb)
        text_normed, text_gate, text_shift, text_scale, text_ff_gate = block.norm1_context(
            encoder_hidden_states, emb=temb
        )
        q, k, v = _joint(self, normed, text_normed, tables)
        out = _attend(self.processor, q, k, v, tables).flatten(2)
        attended = block.attn.to_out[0](out[:, :video])
        if "rows" in self.parts:
            hidden_states, normed = add_norm_rows(
                hidden_states, attended, None, gate, 1 + ff_scale, ff_shift, block.norm2.eps
            )  # fmt: skip
        else:
            hidden_states = hidden_states + attended * gate[:, None]
            normed = block.norm2(hidden_states) * (1 + ff_scale[:, None]) + ff_shift[:, None]
        encoder_hidden_states = (
            encoder_hidden_states + block.attn.to_add_out(out[:, video:]) * text_gate[:, None]
        )  # fmt: skip
        text_normed = block.norm2_context(encoder_hidden_states) * (1 + text_scale[:, None]) + text_shift[:, None]
        hidden_states = hidden_states + ff_gate[:, None] * _feed_forward(self, block.ff, normed)
        encoder_hidden_states = encoder_hidden_states + text_ff_gate[:, None] * _feed_forward(
            self, block.ff_context, text_normed
        )
        return hidden_states, encoder_hidden_states


class FusedHunyuanVideoSingleBlock(nn.Module):
    """A ``HunyuanVideoSingleTransformerBlock``, on video and text in one sequence; see the module's first lines."""

    def __init__(self, block: nn.Module, parts: Collection[str]) -> None:
        super().__init__()
        self.block = block
        self.parts = frozenset(parts)
        attn = block.attn
        self.processor = attn.processor
        self.projections = Projections(
            (attn.to_q, attn.to_k, attn.to_v), (attn.norm_q, attn.norm_k), attn.heads, "rotate" in self.parts
        )

    def forward(self, hidden_states: torch.Tensor, temb: torch.Tensor, tables: Tables, joint: Tables) -> torch.Tensor:
        """The block's output, (batch, video and text tokens, channels).

        Args:
            tables: of the video tokens, halved.
            joint: the same with rows for the text tokens that turn nothing.
        """
        normed, gate = self.block.norm(hidden_states, emb=temb)
        out, more = self.halves(normed, tables, joint)
        return hidden_states + gate[:, None] * (out + more)

    def halves(self, normed: torch.Tensor, tables: Tables, joint: Tables) -> tuple[torch.Tensor, torch.Tensor]:
        """What attention and feed-forward part add to the output, before the gate."""
        block = self.block
        out = _attend(self.processor, *_qkv(self, normed, joint), tables).flatten(2)
        inner = _gelu_of(self, block.proj_mlp, normed)
        of_attention, of_inner = block.proj_out.weight.split([out.shape[2], inner.shape[2]], dim=1)
        more = tiled_linear(inner, of_inner, None, False) if "down" in self.parts else F.linear(inner, of_inner)
        return F.linear(out, of_attention, block.proj_out.bias), more


class FusedHunyuanVideoSingleRowsBlock(FusedHunyuanVideoSingleBlock):
    """The same, given its input normalised and modulated as well, which is part of the residual before."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        normed: torch.Tensor,
        tables: Tables,
        joint: Tables,
        gate: torch.Tensor,
        factor: torch.Tensor,
        shift: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The block's output, and that normalised and modulated for the next block.

        Args:
            gate: of this block, (batch, channels).
            factor, shift: of the next block's norm.
        """
        out, more = self.halves(normed, tables, joint)
        return add_norm_rows(hidden_states, out, more, gate, factor, shift, self.block.norm.norm.eps)


class FusedHunyuanVideoSingleStream(nn.Module):
    """All single-stream blocks as one module: video and text are joined before the first and parted after the last."""

    def __init__(self, blocks: Iterable[nn.Module], parts: Collection[str]) -> None:
        super().__init__()
        self.rows = "rows" in parts
        kind = FusedHunyuanVideoSingleRowsBlock if self.rows else FusedHunyuanVideoSingleBlock
        self.blocks = nn.ModuleList(kind(block, parts) for block in blocks)

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
        if self.rows:
            hidden_states = self._by_rows(hidden_states, temb, tables, joint)
        else:
            for block in self.blocks:
                hidden_states = block(hidden_states, temb, tables, joint)
        return hidden_states[:, :video], hidden_states[:, video:]

    def _by_rows(
        self, hidden_states: torch.Tensor, temb: torch.Tensor, tables: Tables, joint: Tables
    ) -> torch.Tensor:  # fmt: skip
        shifts, scales, gates = zip(*(modulation(block.block.norm, temb, 3) for block in self.blocks), strict=True)
        factors = [1 + scale for scale in scales]
        normed = norm_rows(hidden_states, factors[0], shifts[0], self.blocks[0].block.norm.norm.eps)
        for number, block in enumerate(self.blocks):
            following = min(number + 1, len(self.blocks) - 1)  # nobody follows the last
            hidden_states, normed = block(
                hidden_states, normed, tables, joint, gates[number], factors[following], shifts[following]
            )
        return hidden_states


def modulation(norm: nn.Module, temb: torch.Tensor, parts: int) -> tuple[torch.Tensor, ...]:
    """What an adaptive norm of diffusers (``AdaLayerNormZero``, ``AdaLayerNormZeroSingle``) makes of the embedding."""
    return norm.linear(norm.silu(temb)).chunk(parts, dim=1)


class FusedMochiBlock(TwoStreams):
    """A ``MochiTransformerBlock``; see the module's first lines. Its feed-forward is SwiGLU, which has no epilogue."""

    def __init__(self, block: nn.Module, parts: Collection[str]) -> None:
        super().__init__(block, block.attn1, parts)

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
    inner = _gelu_of(block, ff.net[0].proj, x)
    return tiled_linear(inner, ff.net[2].weight, ff.net[2].bias, False) if "down" in block.parts else ff.net[2](inner)


def _gelu_of(block: nn.Module, linear: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    if "up" in block.parts:
        return tiled_linear(x, linear.weight, linear.bias, True)
    if "gelu" in block.parts:
        return linear_gelu(x, linear.weight, linear.bias)
    return F.gelu(linear(x), approximate="tanh")
