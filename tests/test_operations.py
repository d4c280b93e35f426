"""Operation counts: the published totals, and diffusers' own modules counted by PyTorch."""

from __future__ import annotations

import contextlib
from typing import Any
from unittest import mock

import pytest
import torch
import torch.fx.experimental._config
from torch.utils.flop_counter import FlopCounterMode

from benchmark.layout import VideoLayout
from benchmark.models import ModelSpec, build, get
from benchmark.operations import (
    Operations,
    attention_operations,
    generation_operations,
    pass_operations,
    pflop,
)

BLOCKS = {
    "HunyuanVideoTransformer3DModel": ("transformer_blocks", "single_transformer_blocks"),
    "MochiTransformer3DModel": ("transformer_blocks",),
    "WanTransformer3DModel": ("blocks",),
}
SMALL = {
    "hunyuanvideo": {
        "num_attention_heads": 3,
        "attention_head_dim": 16,
        "num_layers": 2,
        "num_single_layers": 3,
        "num_refiner_layers": 2,
        "mlp_ratio": 3.0,
        "in_channels": 5,
        "out_channels": 7,
        "text_embed_dim": 12,
        "pooled_projection_dim": 10,
        "rope_axes_dim": (4, 6, 6),
    },
    "wan2.1-14b": {
        "num_attention_heads": 3,
        "attention_head_dim": 16,
        "num_layers": 3,
        "in_channels": 5,
        "out_channels": 7,
        "text_dim": 12,
        "freq_dim": 18,
        "ffn_dim": 50,
    },
    "mochi-1": {
        "num_attention_heads": 3,
        "attention_head_dim": 16,
        "num_layers": 3,
        "pooled_projection_dim": 20,
        "in_channels": 5,
        "text_embed_dim": 16,
        "time_embed_dim": 14,
    },
}


def counted_by_torch(spec: ModelSpec, layout: VideoLayout) -> Operations:
    """The same counts from a pass of diffusers' transformer on the meta device, where attention is two products."""
    config = spec.transformer_config
    text = layout.text if spec.joint_text else spec.text_tokens
    width = config.get("text_dim", config.get("text_embed_dim"))
    inputs: dict[str, Any] = {
        "hidden_states": torch.empty(1, *spec.latent_shape(layout), dtype=torch.bfloat16, device="meta"),
        "timestep": torch.empty(1, dtype=torch.int64, device="meta"),
        "encoder_hidden_states": torch.empty(1, text, width, dtype=torch.bfloat16, device="meta"),
    }
    if spec.joint_text:
        inputs["encoder_attention_mask"] = torch.empty(1, text, dtype=torch.bool, device="meta")
    if "pooled_projection_dim" in config and "guidance_embeds" in config:
        inputs["pooled_projections"] = torch.empty(
            1, config["pooled_projection_dim"], dtype=torch.bfloat16, device="meta"
        )
        inputs["guidance"] = torch.empty(1, dtype=torch.bfloat16, device="meta")
    transformer = build(spec, device="meta", dtype=torch.bfloat16)
    # Mochi picks the valid text tokens with nonzero, which has no shape on this device unless all are taken as valid,
    # and makes its rotary angles under an autocast that this device does not have; in float32 it changes no count.
    all_valid = torch.fx.experimental._config.patch(meta_nonzero_assume_all_nonzero=True)
    no_autocast = mock.patch.object(torch, "autocast", return_value=contextlib.nullcontext())
    with all_valid, no_autocast, FlopCounterMode(display=False) as counter, torch.no_grad():
        transformer(**inputs)
    blocks = [
        f"{spec.transformer_class}.{group}.{index}"
        for group in BLOCKS[spec.transformer_class]
        for index in range(len(getattr(transformer, group)))
    ]
    assert len(blocks) == spec.layers
    products = {"linear": 0, "self_attention": 0, "cross_attention": 0}
    for name, counts in counter.get_flop_counts().items():
        block, _, part = name.rpartition(".")
        if name in blocks:
            products["linear"] += sum(count for op, count in counts.items() if op != torch.ops.aten.bmm)
        elif block in blocks and part.startswith("attn"):
            kind = "cross_attention" if part == "attn2" else "self_attention"
            products[kind] += counts[torch.ops.aten.bmm]
    return Operations(**products, ends=counter.get_total_flops() - sum(products.values()))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("grid", "text"), [((2, 3, 4), 6), ((5, 2, 3), 9), ((1, 1, 1), 1)])
def test_small_transformers_take_the_counted_operations(name: str, grid: tuple[int, int, int], text: int) -> None:
    spec = get(name).resized(**SMALL[name])
    layout = VideoLayout(*grid, text if spec.joint_text else 0)
    assert pass_operations(spec, layout) == counted_by_torch(spec, layout)


def test_hunyuanvideo_without_guidance_takes_the_counted_operations() -> None:
    spec = get("hunyuanvideo").resized(**SMALL["hunyuanvideo"], guidance_embeds=False)
    layout = VideoLayout(2, 3, 4, 5)
    assert pass_operations(spec, layout) == counted_by_torch(spec, layout)


@pytest.mark.parametrize("length", ["1x", "2x", "4x"])
def test_testbed_takes_the_counted_operations(length: str) -> None:
    spec = get("testbed-nano")
    layout = spec.layout(frames=spec.lengths[length])
    assert pass_operations(spec, layout) == counted_by_torch(spec, layout)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("hunyuanvideo", (117, 768, 1280)),
        ("hunyuanvideo", (509, 720, 1280)),
        ("wan2.1-14b", (69, 768, 1280)),
        ("mochi-1", (331, 480, 848)),
    ],
)
def test_released_transformers_take_the_counted_operations(name: str, shape: tuple[int, int, int]) -> None:
    spec = get(name)
    layout = spec.layout(*shape)
    assert pass_operations(spec, layout) == counted_by_torch(spec, layout)


def printed(operations: float) -> str:
    return f"{pflop(operations):.1f}"


def test_wan_69_frames_is_the_published_count() -> None:
    spec = get("wan2.1-14b")
    whole = generation_operations(spec, spec.layout(69, 768, 1280))
    assert printed(whole.linear) == "165.5"
    assert printed(whole.self_attention) == "391.4"
    assert printed(whole.cross_attention) == "2.9"
    assert f"{whole.pflop:.1f}" == "559.7"
    # What embeds patches, time and text, and the head, would move the last printed digit.
    assert printed(whole.with_ends) == "559.8"


def test_wan_81_frames_is_the_published_count() -> None:
    spec = get("wan2.1-14b")
    assert f"{generation_operations(spec, spec.layout(81, 720, 1280)).pflop:.0f}" == "652"


def test_hunyuanvideo_117_frames_is_the_known_count() -> None:
    spec = get("hunyuanvideo")
    whole = generation_operations(spec, spec.layout(117, 768, 1280))
    assert printed(whole.self_attention) == "491.4"
    assert printed(whole.linear) == "78.5"
    assert whole.cross_attention == 0
    assert f"{whole.pflop:.1f}" == "569.9"


def test_hunyuanvideo_129_frames_is_the_known_count() -> None:
    spec = get("hunyuanvideo")
    assert f"{generation_operations(spec, spec.layout(129, 720, 1280)).pflop:.1f}" == "603.4"


def test_wan_radial_count_of_the_released_scripts() -> None:
    """Sparsity 73.66 % of the released mask, with 12 dense steps and one dense layer, is 346 PFLOP."""
    spec = get("wan2.1-14b")
    layout = spec.layout(69, 768, 1280)
    sparse = attention_operations(spec, layout, density=1 - 0.7366)
    whole = generation_operations(spec, layout, dense_steps=12, dense_layers=1, sparse_layer_operations=sparse)
    assert f"{whole.pflop:.0f}" == "346"


def test_schedule_splits_layers_and_steps() -> None:
    spec = get("hunyuanvideo").resized(**SMALL["hunyuanvideo"])
    layout = VideoLayout(2, 3, 4, 5)
    one, dense = pass_operations(spec, layout), attention_operations(spec, layout)
    assert one.self_attention == spec.layers * dense
    whole = generation_operations(
        spec, layout, steps=10, dense_steps=3, dense_layers=2, sparse_layer_operations=dense / 4, passes=2
    )
    expected = 0.0
    for step in range(10):
        for layer in range(spec.layers):
            expected += 2 * (dense if step < 3 or layer < 2 else dense / 4)
    assert whole.self_attention == expected
    assert whole.linear == 20 * one.linear
    assert whole.ends == 20 * one.ends
    assert whole.with_ends == whole.linear + whole.self_attention + whole.cross_attention + whole.ends


def test_dense_is_the_end_of_every_schedule() -> None:
    spec = get("wan2.1-14b")
    layout = spec.layout(69, 768, 1280)
    dense = generation_operations(spec, layout)
    assert generation_operations(spec, layout, dense_steps=50, sparse_layer_operations=0.0) == dense
    assert generation_operations(spec, layout, dense_layers=40, sparse_layer_operations=0.0) == dense
    assert generation_operations(spec, layout, sparse_layer_operations=0.0).self_attention == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"steps": 0}, "steps=0: a whole number of at least 1"),
        ({"dense_steps": 51}, "dense_steps=51: a whole number from 0 to 50"),
        ({"dense_layers": 41}, "dense_layers=41: a whole number from 0 to 40"),
        ({"passes": 1.5}, "passes=1.5"),
        ({"sparse_layer_operations": float("nan")}, "sparse_layer_operations=nan"),
    ],
)
def test_impossible_schedules_are_refused(arguments: dict[str, Any], words: str) -> None:
    spec = get("wan2.1-14b")
    with pytest.raises(ValueError) as error:
        generation_operations(spec, spec.layout(69, 768, 1280), **arguments)
    assert words in str(error.value)


def test_configurations_that_are_not_counted_are_refused() -> None:
    with pytest.raises(ValueError, match="image_dim=8"):
        pass_operations(get("wan2.1-14b").resized(image_dim=8), VideoLayout(1, 2, 2))
    with pytest.raises(ValueError, match="only 'swiglu'"):
        pass_operations(get("mochi-1").resized(activation_fn="gelu"), VideoLayout(1, 2, 2, 3))
    with pytest.raises(ValueError, match="no text tokens belong"):
        pass_operations(get("wan2.1-14b"), VideoLayout(1, 2, 2, 3))
