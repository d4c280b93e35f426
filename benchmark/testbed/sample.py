"""Drawing clips from noise with the testbed's transformer."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmark.testbed.flow import scheduler, velocity


def pick_device(asked: str | None) -> str:
    """The device to run on: ``cpu`` or ``cuda`` as asked; where None, cuda if there is one.

    Raises:
        ValueError: cuda is asked for and there is none.
    """
    if asked == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda: no CUDA GPU is visible; cpu is allowed")
    return asked or ("cuda" if torch.cuda.is_available() else "cpu")


@torch.inference_mode()
def sample(
    transformer: torch.nn.Module,
    noise: torch.Tensor,
    prompts: torch.Tensor,
    steps: int,
    before_step: Callable[[int], None] = lambda step: None,
    forward: Callable[..., tuple[torch.Tensor]] | None = None,
) -> torch.Tensor:
    """Clips for prompts.

    Args:
        transformer: a ``WanTransformer3DModel`` trained by ``train``.
        noise: float32 (batch, 3, frames, height, width).
        prompts: (batch, text tokens, text size), from ``grammar.encode``.
        steps: sampling steps.
        before_step: called with the number of each step before it is taken.
        forward: runs the transformer; the transformer itself where None.

    Returns:
        float32 (batch, frames, 3, height, width) in [0, 1].
    """
    forward = forward or transformer
    schedule = scheduler(steps)
    noisy = noise
    dtype = transformer.patch_embedding.weight.dtype
    for step, moment in enumerate(schedule.timesteps):
        before_step(step)
        sigma = float(schedule.sigmas[step])
        time = torch.full((len(noise),), 1000 * sigma, device=noise.device)
        clean = forward(noisy.to(dtype), time, prompts.to(dtype), return_dict=False)[0].float()
        noisy = schedule.step(velocity(clean, noisy, sigma), moment, noisy, return_dict=False)[0]
    return (noisy.movedim(2, 1) / 2 + 0.5).clamp(0, 1)
