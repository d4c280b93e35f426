"""Rectified flow in pixel space: what the testbed's network predicts, and how a clip is drawn from noise.

Along the flow x_t = (1 - t) clip + t noise, t from 1 to 0. The network is asked for the clean clip, not for the
velocity: clean patches lie on far fewer dimensions than noise does, and the network is hardly wider than a patch. The
sampler is diffusers' UniPC with flow sigmas, the one that Wan2.1 ships with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from diffusers import UniPCMultistepScheduler

SHIFT = 4.0  # sigma -> shift sigma / (1 + (shift - 1) sigma): more of the steps at high noise, where the motion is set
LEAST_TIME = 0.04  # below this time the velocity is no longer divided by it


def velocity(clean: torch.Tensor, noisy: torch.Tensor, time: torch.Tensor | float) -> torch.Tensor:
    """The flow's velocity, noise - clip, from a prediction of the clean clip.

    Args:
        clean, noisy: (batch, ...).
        time: (batch,), or a number for all; in (0, 1].
    """
    time = torch.as_tensor(time, dtype=noisy.dtype, device=noisy.device).clamp(min=LEAST_TIME)
    return (noisy - clean) / time.reshape(-1, *[1] * (noisy.dim() - 1))


def scheduler(steps: int) -> UniPCMultistepScheduler:
    """The sampler's schedule, set to a number of steps.

    Raises:
        ValueError: fewer than 2 steps.
    """
    from diffusers import UniPCMultistepScheduler

    if steps < 2:
        raise ValueError(f"steps={steps}: at least 2 are needed")
    schedule = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT)
    schedule.set_timesteps(steps)
    return schedule
