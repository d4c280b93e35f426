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

from benchmark.layout import VideoLayout
from benchmark.masks import BlockMask, band_mask
from benchmark.method import Method, Pattern, knob, with_text


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
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: VideoLayout, block: int
    ) -> Pattern:
        """Classes the heads and gives each its order."""
        pattern = self.pattern(layout, block, q.shape[2], q.device)
        temporal_band = self.block_mask(layout, block, q.device) if self.sink else pattern.mask
        classes = self.classify(q, k, v, layout, (pattern.mask, temporal_band), pattern.orders[1])
        mask = pattern.mask
        if self.sink:
            mask = BlockMask(torch.cat([mask.blocks, temporal_band.blocks])[classes], block, layout.tokens)
        return Pattern(mask, pattern.orders, classes)

    def classify(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        layout: VideoLayout,
        masks: tuple[BlockMask, BlockMask],
        order: torch.Tensor,
    ) -> torch.Tensor:
        """0 for a spatial head, 1 for a temporal one: int64 (heads,).

        Args:
            q, k, v: (1, tokens, heads, head size).
            masks: the spatial and the temporal mask, each in its own order.
            order: the token-major order, int64 (tokens,).
        """
        generator = torch.Generator().manual_seed(self.seed)
        rows = torch.randperm(layout.video, generator=generator)[: self.rows].to(q.device)
        place = torch.empty_like(order).scatter_(0, order, torch.arange(layout.tokens, device=q.device))
        queries = q[0, rows].transpose(0, 1).float()
        keys, values = k[0].transpose(0, 1).float(), v[0].transpose(0, 1).float()
        scores = queries @ keys.transpose(1, 2) / math.sqrt(q.shape[3])
        dense = scores.softmax(dim=-1) @ values
        errors = []
        for mask, where in ((masks[0], None), (masks[1], place)):
            index = (torch.arange(layout.tokens, device=q.device) if where is None else where) // mask.block
            kept = mask.blocks[0][index[rows]][:, index]
            sparse = scores.masked_fill(~kept, -math.inf).softmax(dim=-1) @ values
            errors.append((sparse - dense).square().mean(dim=(1, 2)))
        return (errors[1] < errors[0]).long()

    def attention_operations(self, layout: VideoLayout, block: int, heads: int, head_dim: int) -> float:
        """The band's pairs, and those of the sampled rows: one product of scores, three with the values."""
        sampled = 8.0 * heads * head_dim * min(self.rows, layout.video) * layout.tokens
        return super().attention_operations(layout, block, heads, head_dim) + sampled
