"""Model descriptions: shapes of the paper, refusals, and the transformers they build."""

from __future__ import annotations

import inspect

import pytest
import torch

from benchmark.layout import VideoLayout
from benchmark.models import build, get, names

TINY_HUNYUANVIDEO = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "num_refiner_layers": 1,
    "text_embed_dim": 12,
    "pooled_projection_dim": 10,
    "rope_axes_dim": (4, 6, 6),
}


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("hunyuanvideo", (117, 768, 1280), VideoLayout(30, 48, 80, 256)),
        ("hunyuanvideo", (125, 720, 1280), VideoLayout(32, 45, 80, 256)),
        ("hunyuanvideo", (253, 720, 1280), VideoLayout(64, 45, 80, 256)),
        ("hunyuanvideo", (509, 720, 1280), VideoLayout(128, 45, 80, 256)),
        ("wan2.1-14b", (69, 768, 1280), VideoLayout(18, 48, 80)),
        ("wan2.1-14b", (81, 720, 1280), VideoLayout(21, 45, 80)),
        ("wan2.1-14b", (161, 720, 1280), VideoLayout(41, 45, 80)),
        ("mochi-1", (163, 480, 848), VideoLayout(28, 30, 53, 256)),
        ("mochi-1", (331, 480, 848), VideoLayout(56, 30, 53, 256)),
        ("mochi-1", (667, 480, 848), VideoLayout(112, 30, 53, 256)),
        ("testbed-nano", (16, 48, 48), VideoLayout(16, 8, 8)),
        ("testbed-nano", (1, 48, 48), VideoLayout(1, 8, 8)),
        ("testbed-nano", (64, 48, 48), VideoLayout(64, 8, 8)),
        ("testbed-nano", (17, 48, 96), VideoLayout(17, 8, 16)),
    ],
)
def test_layout_of_published_shapes(name: str, shape: tuple[int, int, int], expected: VideoLayout) -> None:
    assert get(name).layout(*shape) == expected


def test_117_and_125_frames_have_the_same_number_of_tokens() -> None:
    spec = get("hunyuanvideo")
    assert spec.layout(117, 768, 1280).video == spec.layout(125, 720, 1280).video == 115_200


@pytest.mark.parametrize("name", names())
def test_default_and_lengths_are_possible(name: str) -> None:
    spec = get(name)
    assert spec.layout() == spec.layout(*spec.default)
    assert spec.lengths["1x"] == spec.default.frames
    grids = [spec.layout(frames=frames) for frames in spec.lengths.values()]
    assert [grid.frames for grid in grids] == sorted(grid.frames for grid in grids)
    for factor, grid in zip((1, 2, 4), grids, strict=False):
        assert abs(grid.frames / grids[0].frames - factor) < 0.05
    if spec.table1 is not None:
        assert spec.layout(*spec.table1).video in (115_200, 69_120)


def test_text_is_in_the_sequence_only_where_attention_is_joint() -> None:
    assert get("hunyuanvideo").layout(text=77).text == 77
    assert get("mochi-1").layout(text=0).text == 0
    assert get("wan2.1-14b").layout(text=77).text == 0


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("hunyuanvideo", {"frames": 118}, "frames=118: 4n+1 of at least 1 is needed; the nearest are 117 and 121"),
        ("hunyuanvideo", {"frames": 0}, "the nearest is 1"),
        ("mochi-1", {"frames": 162}, "the nearest are 157 and 163"),
        (
            "mochi-1",
            {"height": 479},
            "a multiple of 16 of at least 16 is needed; the nearest are 464 and 480",
        ),
        ("wan2.1-14b", {"width": 0}, "width=0: a multiple of 16 from 16 to 16384 is needed; the nearest is 16"),
        ("wan2.1-14b", {"frames": 4097}, "the nearest is 4093"),
        ("wan2.1-14b", {"frames": 81.0}, "frames=81.0: 4n+1"),
        ("wan2.1-14b", {"frames": True}, "frames=True"),
        ("testbed-nano", {"frames": 0}, "frames=0: a whole number from 1 to 128 is needed; the nearest is 1"),
        ("testbed-nano", {"frames": 129}, "the nearest is 128"),
        ("testbed-nano", {"height": 50}, "the nearest are 48 and 54"),
        ("hunyuanvideo", {"text": -1}, "text=-1"),
    ],
)
def test_impossible_shapes_are_refused_with_the_nearest(name: str, shape: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError) as error:
        get(name).layout(**shape)
    assert words in str(error.value)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "step", "first"), [("hunyuanvideo", 4, 1), ("mochi-1", 6, 1), ("wan2.1-14b", 4, 1)])
def test_a_frame_count_is_possible_exactly_where_the_rule_says(name: str, step: int, first: int) -> None:
    spec = get(name)
    for frames in range(1, 60):
        if (frames - first) % step == 0:
            assert spec.layout(frames=frames).frames == (frames - first) // step + 1
        else:
            with pytest.raises(ValueError, match="the nearest are"):
                spec.layout(frames=frames)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("wan", "wan2.1-14b"), ("Mochi", "mochi-1"), ("hunyuan", "hunyuanvideo"), ("nano", "testbed-nano")],
)
def test_unknown_model_is_refused_with_the_nearest_name(wrong: str, right: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean '{right}'"):
        get(wrong)


@pytest.mark.parametrize("name", names())
def test_configuration_names_every_argument_of_the_transformer(name: str) -> None:
    import diffusers

    spec = get(name)
    arguments = inspect.signature(getattr(diffusers, spec.transformer_class).__init__).parameters
    assert set(spec.transformer_config) == set(arguments) - {"self"}


@pytest.mark.parametrize("name", ["hunyuanvideo", "wan2.1-14b", "mochi-1"])
def test_released_configuration_is_the_default_of_diffusers(name: str) -> None:
    import diffusers

    spec = get(name)
    arguments = inspect.signature(getattr(diffusers, spec.transformer_class).__init__).parameters
    assert spec.transformer_config == {key: arguments[key].default for key in spec.transformer_config}


@pytest.mark.parametrize("name", names())
def test_transformer_has_the_stated_size(name: str) -> None:
    spec = get(name)
    transformer = build(spec, device="meta", dtype=torch.bfloat16)
    count = sum(weight.numel() for weight in transformer.parameters())
    assert abs(count / spec.parameters - 1) < 0.03
    assert {weight.dtype for weight in transformer.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("name", "passes", "layers", "heads", "head_dim"),
    [
        ("hunyuanvideo", 1, 60, 24, 128),
        ("wan2.1-14b", 2, 40, 40, 128),
        ("mochi-1", 2, 48, 24, 128),
        ("testbed-nano", 1, 6, 6, 32),
    ],
)
def test_numbers_of_a_model(name: str, passes: int, layers: int, heads: int, head_dim: int) -> None:
    spec = get(name)
    assert (spec.passes, spec.layers, spec.heads, spec.head_dim) == (passes, layers, heads, head_dim)
    assert spec.steps == (16 if name == "testbed-nano" else 50)


def test_testbed_weights_fit_into_eight_megabytes() -> None:
    transformer = build(get("testbed-nano"), device="meta")
    assert sum(weight.numel() for weight in transformer.parameters()) <= 4_000_000


def test_testbed_transformer_runs_at_four_times_its_length() -> None:
    spec = get("testbed-nano")
    layout = spec.layout(frames=spec.lengths["4x"])
    transformer = build(spec, device="meta")
    with torch.no_grad():
        sample = transformer(
            torch.empty(1, *spec.latent_shape(layout), device="meta"),
            timestep=torch.empty(1, device="meta"),
            encoder_hidden_states=torch.empty(1, spec.text_tokens, spec.transformer_config["text_dim"], device="meta"),
        ).sample
    assert sample.shape == (1, 3, 64, 48, 48)


def test_weights_follow_the_seed_and_leave_the_generator_alone() -> None:
    spec = get("hunyuanvideo").resized(**TINY_HUNYUANVIDEO)
    state = torch.get_rng_state()
    one, same, other = (build(spec, seed=seed).x_embedder.proj.weight for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == torch.float32


def test_resized_refuses_an_argument_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="has no layers"):
        get("wan2.1-14b").resized(layers=2)


def test_resized_refuses_temporal_patches() -> None:
    with pytest.raises(ValueError, match="one latent frame a token"):
        get("wan2.1-14b").resized(patch_size=(2, 2, 2))


def test_latent_shape_is_what_the_transformer_takes() -> None:
    for name, expected in (
        ("hunyuanvideo", (16, 32, 90, 160)),
        ("wan2.1-14b", (16, 21, 90, 160)),
        ("mochi-1", (12, 28, 60, 106)),
        ("testbed-nano", (3, 16, 48, 48)),
    ):
        spec = get(name)
        assert spec.latent_shape(spec.layout()) == expected
