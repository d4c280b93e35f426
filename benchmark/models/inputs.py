"""Random inputs of a transformer, for measurements in which values do not matter."""

from __future__ import annotations

import torch

from benchmark.layout import VideoLayout
from benchmark.models.spec import ModelSpec

_TIMESTEP = 500.0  # of 1000
_GUIDANCE = 6000.0  # 6.0, in thousandths as HunyuanVideo's pipeline passes it


def example_inputs(
    spec: ModelSpec,
    layout: VideoLayout,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    batch: int = 1,
) -> dict[str, torch.Tensor]:
    """Keyword arguments of the transformer's forward pass: normally distributed latents and text embeddings.

    All text tokens are valid: those of the layout where text is in the sequence, else ``spec.text_tokens``.

    Args:
        layout: the token grid of the clip; see ``spec.layout``.
        dtype: of latents and embeddings.
        seed: the same seed gives other values on another kind of device.
        batch: samples.
    """
    device = torch.device(device)
    generator = None if device.type == "meta" else torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    config = spec.transformer_config
    text = layout.text if spec.joint_text else spec.text_tokens
    inputs = {
        "hidden_states": normal(batch, *spec.latent_shape(layout)),
        "timestep": torch.full((batch,), _TIMESTEP, device=device),
    }
    if spec.transformer_class == "WanTransformer3DModel":
        return inputs | {"encoder_hidden_states": normal(batch, text, config["text_dim"])}
    inputs["encoder_hidden_states"] = normal(batch, text, config["text_embed_dim"])
    inputs["encoder_attention_mask"] = torch.ones(batch, text, dtype=torch.bool, device=device)
    if spec.transformer_class == "HunyuanVideoTransformer3DModel":
        inputs["pooled_projections"] = normal(batch, config["pooled_projection_dim"])
        if config["guidance_embeds"]:
            inputs["guidance"] = torch.full((batch,), _GUIDANCE, device=device, dtype=dtype)
    return inputs
