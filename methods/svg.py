"""Sparse VideoGen: each head is classed, at each call, as spatial or temporal (arXiv 2502.01776).

A spatial head attends in a band of the frame-major sequence, a temporal head in the same band of the token-major
sequence. The class of a head is the one whose attention over a sample of query rows is nearer to dense attention (mean
squared error). The band's one-sided width for a density p on L tokens is L (1 - sqrt(1 - p')), p' = p - 2 text / L,
rounded to whole blocks, as in the released code. Text always takes part.

Choices made here: the rows are drawn once from a fixed seed, from the video tokens (the released scripts draw 64 anew
at each call; the paper says 1 %). The released code keeps a sink of the first frame on Wan and none on HunyuanVideo;
the paper has one. Here it is a knob, off by default, and is kept where it is made of blocks: in spatial heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmark.layout import VideoLayout
from benchmark.masks import BlockMask, band_mask
from benchmark.method import Method, Pattern, inverse, knob, with_text


@dataclass(frozen=True)
class SparseVideoGen(Method):
    """Spatial and temporal heads, told apart by sampling."""

    title = "SVG"
    source = "arXiv 2502.01776"
    budget_knob = "p"
    dynamic = True

    p: float = knob(0.25, "density asked for", low=0.0, high=1.0)
    rows: int = knob(64, "query rows sampled to class a head", low=1)
    sink: bool = knob(False, "spatial heads see the whole first frame")
    seed: int = knob(0, "seed of the sampled rows", low=0)

    def block_mask(self, layout: VideoLayout, block: int, device: torch.device | str = "cpu") -> BlockMask:
        """The band that both classes share."""
        share = self.p - 2 * layout.text / layout.tokens
        width = layout.tokens * (1 - math.sqrt(1 - max(share, 0.0)))
        return band_mask(layout, block, round(width / block) * block, device)

    def pattern(self, layout: VideoLayout, block: int, heads: int = 1, device: torch.device | str = "cpu") -> Pattern:
        """The band (with a sink, its spatial form) in both orders; ``pattern_for`` gives each head its own."""
        band = self.block_mask(layout, block, device)
        order = layout.token_major(device)
        if self.sink:
            band = BlockMask(band.blocks.clone(), block, layout.tokens)
            band.blocks[:, :, : -(-layout.frame_tokens // block)] = True
        return Pattern(band, (None, with_text(order, layout)))

    def pattern_for(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        layout: VideoLayout,
        block: int,
        planned: Pattern | None = None,
    ) -> Pattern:
        """Classes the heads and gives each its order. The masks and the sampled rows are planned once for a layout."""
        planned = planned or self.pattern(layout, block, q.shape[2], q.device)
        mask, order = planned.mask, planned.orders[1]
        temporal = mask.form(
            "svg temporal", lambda mask: self.block_mask(layout, block, q.device) if self.sink else mask
        )
        rows, kept = mask.form(
            f"svg sample of {self.rows} by {self.seed}", lambda mask: self.sample(layout, (mask, temporal), order)
        )
        classes = self.classify(q, k, v, rows, kept)
        if self.sink:
            mask = BlockMask(torch.cat([mask.blocks, temporal.blocks])[classes], block, layout.tokens)
        return Pattern(mask, planned.orders, classes)

    def sample(
        self, layout: VideoLayout, masks: tuple[BlockMask, BlockMask], order: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The query rows that class a head, and the keys that they see densely and in both classes.

        Args:
            masks: the spatial and the temporal mask, each in its own order.
            order: the token-major order, int64 (tokens,).

        Returns:
            int64 (rows,), tokens in frame-major order, and bool (3, rows, tokens), the keys in frame-major order.
        """
        generator = torch.Generator().manual_seed(self.seed)
        rows = torch.randperm(layout.video, generator=generator)[: self.rows].to(order.device)
        frame_major = torch.arange(layout.tokens, device=order.device)
        kept = [torch.ones(len(rows), layout.tokens, dtype=torch.bool, device=order.device)]
        for mask, place in ((masks[0], frame_major), (masks[1], inverse(order))):
            index = place // mask.block
            kept.append(mask.blocks[0][index[rows]][:, index])
        return rows, torch.stack(kept)

    @torch.no_grad()
    def classify(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: torch.Tensor, kept: torch.Tensor
    ) -> torch.Tensor:
        """0 for a spatial head, 1 for a temporal one: int64 (heads,).

        The sampled queries attend three times over in one call, densely and in both classes, so that no scores are
        held and keys and values stay in their type; sums and softmax are float32 there. In bfloat16 the outputs are
        rounded to 2^-9 of themselves, which adds much the same to both errors.

        Args:
            q, k, v: (1, tokens, heads, head size).
            rows, kept: as ``sample`` returns them.
        """
        queries = q[:, rows].repeat(1, 3, 1, 1)
        result = scaled_dot_product_attention(
            *(x.transpose(1, 2) for x in (queries, k, v)), attn_mask=kept.flatten(0, 1)
        )
        dense, spatial, temporal = result[0].float().chunk(3, dim=1)  # each (heads, rows, head size)
        errors = [(sparse - dense).square().mean(dim=(1, 2)) for sparse in (spatial, temporal)]
        return (errors[1] < errors[0]).long()

    def attention_operations(self, layout: VideoLayout, block: int, heads: int, head_dim: int) -> float:
        """The band's pairs, and those of the sampled rows: their scores, counted once, and their three outputs."""
        sampled = 8.0 * heads * head_dim * min(self.rows, layout.video) * layout.tokens
        return super().attention_operations(layout, block, heads, head_dim) + sampled
