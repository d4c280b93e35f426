"""SANA's linear attention in place of softmax attention (arXiv 2410.10629).

o_i = sum_j relu(q_i).relu(k_j) v_j / (sum_j relu(q_i).relu(k_j) + 1e-15), in float32, without scaling. With a rotary
embedding the features of the numerator are rotated after the ReLU and those of the denominator are not. It costs O(n)
and has no density to set. A model that was trained with softmax attention needs tuning before its clips mean anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmark.layout import VideoLayout
from benchmark.method import Kernel, Method, Pattern, Rotation


@dataclass(frozen=True)
class Sana(Method):
    """ReLU linear attention."""

    title = "SANA"
    source = "arXiv 2410.10629"

    def attend(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        rotate: Rotation,
        layout: VideoLayout,
        block: int,
        kernel: Kernel,
        pattern: Pattern | None = None,
    ) -> torch.Tensor:
        """Linear attention over all tokens; the kernel is not used."""
        features_q, features_k = q.float().relu(), k.float().relu()
        state = torch.einsum("bthd,bthe->bhde", rotate(features_k), v.float())
        numerator = torch.einsum("bthd,bhde->bthe", rotate(features_q), state)
        denominator = torch.einsum("bthd,bhd->bth", features_q, features_k.sum(dim=1))
        return (numerator / (denominator[..., None] + 1e-15)).to(v.dtype)

    def attention_operations(self, layout: VideoLayout, block: int, heads: int, head_dim: int) -> float:
        """State, numerator and denominator: linear in the tokens."""
        return heads * layout.tokens * (4.0 * head_dim * head_dim + 3.0 * head_dim)

    def density(self, layout: VideoLayout, block: int, heads: int = 1, head_dim: int = 64) -> float:
        """Operations over those of dense attention, since no query-key pair is computed as such."""
        return self.attention_operations(layout, block, 1, head_dim) / (4.0 * head_dim * float(layout.tokens) ** 2)
