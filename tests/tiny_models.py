"""Small random versions of the paper's models, for tests on a CPU."""

from __future__ import annotations

import torch

from benchmark import kernels, models, registry
from benchmark.attention import AttentionRouter, Schedule
from benchmark.budget import at_budget
from benchmark.layout import VideoLayout
from benchmark.method import Method
from benchmark.models import ModelSpec

BLOCK = 7  # divides no sequence here
TEXT = 6

_SHARED = {"num_attention_heads": 2, "attention_head_dim": 16}
CHANGES = {
    "hunyuanvideo": {
        "num_layers": 2,
        "num_single_layers": 3,
        "num_refiner_layers": 1,
        "text_embed_dim": 12,
        "pooled_projection_dim": 10,
        "rope_axes_dim": (4, 6, 6),
    },
    "wan2.1-14b": {"num_layers": 3, "text_dim": 12, "freq_dim": 16, "ffn_dim": 64},
    "mochi-1": {"num_layers": 3, "pooled_projection_dim": 24, "text_embed_dim": 16, "time_embed_dim": 16},
}
FRAMES = {"hunyuanvideo": 17, "wan2.1-14b": 17, "mochi-1": 25}
NAMES = list(CHANGES)
JOINT = ["hunyuanvideo", "mochi-1"]  # text is in the sequence


def tiny(name: str) -> tuple[ModelSpec, VideoLayout]:
    """The small model and a layout of 5 x 4 x 3 video tokens."""
    spec = models.get(name).resized(**_SHARED, **CHANGES[name])
    return spec, spec.layout(FRAMES[name], 64, 48, TEXT)


def sparse(name: str, layout: VideoLayout) -> Method:
    """A method at a setting that leaves out pairs on a small grid."""
    knobs = {
        "radial": {"decay": 0.2, "neighbour": "half", "sink": False},
        "sta": {"tile": "2x2x2", "window": "1x2x1"},
        "sana": {},
    }
    if name in knobs:
        return registry.get(name, knobs[name])
    return at_budget(registry.get(name), layout, BLOCK, 0.5)


def random_model(spec: ModelSpec, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """The transformer; weights that start at one are drawn too, so that they count, and gates are large."""
    transformer = models.build(spec, seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for value in transformer.parameters():
            if value.dim() == 1:
                value.add_(0.3 * torch.randn(value.shape, generator=generator))
    return transformer.to(dtype)


def inputs(
    spec: ModelSpec, layout: VideoLayout, dtype: torch.dtype = torch.float32, valid: tuple[int, ...] = (TEXT,)
) -> dict[str, torch.Tensor]:
    """Inputs of one sample for each number of valid text tokens."""
    values = models.example_inputs(spec, layout, dtype=dtype, seed=5, batch=len(valid))
    if "encoder_attention_mask" in values:
        values["encoder_attention_mask"] = torch.arange(layout.text) < torch.tensor(valid)[:, None]
    return values


def installed(
    spec: ModelSpec,
    transformer: torch.nn.Module,
    method: Method,
    layout: VideoLayout,
    schedule: Schedule = Schedule(steps=1),  # noqa: B008 (it is immutable)
    repetition: float | None = None,
) -> AttentionRouter:
    """A router with the kernel ``sdpa``, installed on the transformer."""
    router = AttentionRouter(method, layout, BLOCK, kernels.load("sdpa").attend, schedule)
    models.install(spec, transformer, router, repetition)
    return router


@torch.no_grad()
def forward(transformer: torch.nn.Module, values: dict[str, torch.Tensor]) -> torch.Tensor:
    """The transformer's output."""
    return transformer(**values, return_dict=False)[0]


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """||found - expected|| / ||expected||."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())
