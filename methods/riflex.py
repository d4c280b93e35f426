"""RIFLEx: one temporal frequency of the rotary embedding is lowered, so that a longer video does not repeat (arXiv
2502.15894).

Attention stays dense. The intrinsic frequency is the component k (counted from 1) whose period N_k = 2 pi / frequency
lies nearest to the number of frames after which the model repeats itself. For L latent frames it becomes 0.9 * 2 pi /
L, where L is longer than N_k; at or below N_k nothing changes. Only the temporal axis is touched, and it stays so in
every step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from benchmark.method import Method, knob


@dataclass(frozen=True)
class Riflex(Method):
    """Dense attention with a lowered intrinsic frequency."""

    title = "RIFLEx"
    source = "arXiv 2502.15894"
    sparse = False

    k: int = knob(0, "intrinsic component, counted from 1; 0 takes the one nearest to the model's repetition", low=0)

    def temporal_frequencies(self, frequencies: torch.Tensor, frames: int, repetition: float | None) -> torch.Tensor:
        """The model's frequencies with the intrinsic one lowered.

        Raises:
            ValueError: the component is not one of the model's, or it is left open and the model's repetition is
            unknown.
        """
        if self.k > len(frequencies):
            raise ValueError(
                f"riflex: k={self.k}: the model's temporal embedding has components 1 to {len(frequencies)}"
            )
        periods = 2 * math.pi / frequencies.double()
        if self.k:
            component = self.k - 1
        elif repetition is None:
            raise ValueError(
                "riflex: k=0: the model states no repetition period, so the component must be named (k=...)"
            )
        else:
            component = int((periods - repetition).abs().argmin())
        if frames <= round(float(periods[component])):
            return frequencies
        changed = frequencies.clone()
        changed[component] = 0.9 * 2 * math.pi / frames
        return changed
