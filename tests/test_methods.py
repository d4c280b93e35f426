"""Every method's pattern against its naive twin, and the numbers that the paper and the released code print."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
import twins

from benchmark import registry
from benchmark.kernels import reference
from benchmark.layout import VideoLayout
from benchmark.method import Method
from methods.radial import equation4_widths

LAYOUTS = 60

HUNYUANVIDEO_253 = VideoLayout(64, 45, 80, 256)
HUNYUANVIDEO_509 = VideoLayout(128, 45, 80, 256)
MOCHI_331 = VideoLayout(56, 30, 53, 256)
MOCHI_667 = VideoLayout(112, 30, 53, 256)
WAN_161 = VideoLayout(41, 45, 80)


def _tiles(draw: random.Random) -> str:
    return "x".join(str(draw.randint(1, 4)) for _ in range(3))


DRAWS = {
    "dense": lambda draw: {},
    "radial": lambda draw: (
        {"geometry": "equation4", "sink": draw.random() < 0.7}
        if draw.random() < 0.3
        else {
            "decay": draw.choice([0.2, 0.5, 0.95, 1.0, 2.0]),
            "sink": draw.random() < 0.7,
            "neighbour": draw.choice(["whole", "half", "decayed"]),
        }
    ),
    "harmonic": lambda draw: {"c": draw.uniform(0, 2), "sink": draw.random() < 0.7},
    "sta": lambda draw: {"tile": _tiles(draw), "window": _tiles(draw)},
    "pa": lambda draw: {"local": draw.randint(1, 5), "sink": draw.random() < 0.7},
    "svg": lambda draw: {"p": draw.uniform(0, 1), "sink": draw.random() < 0.3},
    "spatial": lambda draw: {"width": draw.uniform(0, 4)},
    "temporal": lambda draw: {"width": draw.uniform(0, 4)},
    "longlora": lambda draw: {"group": draw.uniform(0.01, 1)},
}


def _cases(name: str, number: int = LAYOUTS):
    draw = random.Random(f"{name} knobs")
    for layout, block in twins.random_layouts(seed=sum(map(ord, name)), number=number):
        yield layout, block, DRAWS[name](draw), draw.randint(1, 6)


@pytest.mark.parametrize("name", list(DRAWS))
def test_pattern_equals_its_twin(name: str) -> None:
    compared = 0
    for layout, block, knobs, heads in _cases(name):
        twin = getattr(twins, name)(layout, block, knobs, heads)
        pattern = registry.get(name, knobs).pattern(layout, block, heads)
        where = f"{name} {knobs} on {layout}, block {block}, {heads} heads"
        assert pattern.mask.heads == 1 and (pattern.mask.block, pattern.mask.tokens) == (block, layout.tokens), where
        assert np.array_equal(pattern.mask.blocks[0].numpy(), twin.blocks), where
        orders = tuple(None if order is None else order.tolist() for order in pattern.orders)
        assert orders == twin.orders, where
        head_order = None if pattern.head_order is None else pattern.head_order.tolist()
        assert head_order == twin.head_order, where
        compared += 1
    assert compared >= 50


@pytest.mark.parametrize("name", [name for name in DRAWS if name != "svg"])  # svg: see below
def test_attention_is_that_of_the_twin_in_frame_major_order(name: str) -> None:
    for number, (layout, block, knobs, heads) in enumerate(_cases(name, 4)):
        generator = torch.Generator().manual_seed(number)
        q, k, v = torch.randn(3, 1, layout.tokens, heads, 8, generator=generator, dtype=torch.float32)
        out = registry.get(name, knobs).attend(q, k, v, lambda x: x, layout, block, reference.attend)
        twin = getattr(twins, name)(layout, block, knobs, heads)
        expected = twins.attention(q[0].numpy(), k[0].numpy(), v[0].numpy(), twin, block)
        np.testing.assert_allclose(out[0].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("sink", [False, True])
def test_svg_gives_each_head_the_nearer_of_its_two_masks(sink: bool) -> None:
    classes = []
    for number, (layout, block) in enumerate(twins.random_layouts(seed=5, number=6)):
        knobs = {"p": 0.5, "rows": 10, "sink": sink}
        heads, tokens = 4, layout.tokens
        generator = torch.Generator().manual_seed(number)
        q, k, v = 2 * torch.randn(3, 1, tokens, heads, 8, generator=generator)
        method = registry.get("svg", knobs)
        pattern = method.pattern_for(q, k, v, layout, block)

        spatial = twins.svg(layout, block, knobs, heads)
        token_major = twins.svg(layout, block, {**knobs, "sink": False}, heads)
        masks = [
            twins.Twin(spatial.blocks, (None,)),
            twins.Twin(token_major.blocks, (token_major.orders[1],)),
        ]
        everything = twins.Twin(np.ones_like(spatial.blocks))
        arrays = [x[0].numpy() for x in (q, k, v)]
        exact = twins.attention(*arrays, everything, block)
        sparse = [twins.attention(*arrays, mask, block) for mask in masks]
        rows = torch.randperm(layout.video, generator=torch.Generator().manual_seed(0))[:10].numpy()
        errors = [((result - exact)[rows] ** 2).mean(axis=(0, 2)) for result in sparse]
        expected = [int(errors[1][head] < errors[0][head]) for head in range(heads)]
        assert pattern.head_order.tolist() == expected
        classes += expected

        out = method.attend(q, k, v, lambda x: x, layout, block, reference.attend)[0].numpy()
        for head, kind in enumerate(expected):
            np.testing.assert_allclose(out[:, head], sparse[kind][:, head], atol=1e-5)
    assert 0 < sum(classes) < len(classes)


@pytest.mark.parametrize("sink", [False, True])
def test_svg_plans_once_for_a_layout_and_classes_alike_in_bfloat16(sink: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = VideoLayout(6, 4, 4, 5)
    method = registry.get("svg", {"p": 0.6, "sink": sink})
    planned, made = method.pattern(layout, 4), []
    monkeypatch.setattr(type(method), "block_mask", _counted(type(method).block_mask, made))
    monkeypatch.setattr(type(method), "sample", _counted(type(method).sample, made))
    classes = []
    for seed in range(6):
        q, k, v = 2 * torch.randn(3, 1, layout.tokens, 4, 8, generator=torch.Generator().manual_seed(seed))
        found = method.pattern_for(q, k, v, layout, 4, planned)
        assert sink or found.mask is planned.mask
        half = method.pattern_for(*(x.bfloat16() for x in (q, k, v)), layout, 4, planned)
        assert half.head_order.tolist() == found.head_order.tolist()
        classes += found.head_order.tolist()
    assert 0 < sum(classes) < len(classes)
    assert sorted(made) == (["block_mask", "sample"] if sink else ["sample"])


def _counted(function, made: list[str]):
    """A function that says each time that it is called."""

    def call(*args, **kwargs):
        made.append(function.__name__)
        return function(*args, **kwargs)

    return call


def test_svg_classes_the_samples_of_a_batch_apart() -> None:
    layout = VideoLayout(6, 4, 4)
    q, k, v = 2 * torch.randn(3, 3, layout.tokens, 4, 8, generator=torch.Generator().manual_seed(0))
    method = registry.get("svg", {"p": 0.4})
    together = method.attend(q, k, v, lambda x: x, layout, 4, reference.attend)
    for sample in range(3):
        one = slice(sample, sample + 1)
        alone = method.attend(q[one], k[one], v[one], lambda x: x, layout, 4, reference.attend)
        torch.testing.assert_close(together[one], alone)


def test_random_draws_a_fixed_number_of_blocks_and_the_diagonal() -> None:
    draw = random.Random(3)
    for layout, block in twins.random_layouts(seed=11, number=LAYOUTS):
        share, seed = draw.random(), draw.randint(0, 99)
        blocks = registry.get("random", {"share": share, "seed": seed}).block_mask(layout, block).blocks[0]
        side = math.ceil(layout.tokens / block)
        video_blocks = layout.video // block if layout.text else side  # those without a text token
        where = f"share {share} on {layout}, block {block}"
        for row in range(side):
            assert blocks[row, row], where
            if row >= video_blocks:
                assert blocks[row].all(), where
                continue
            assert blocks[row, video_blocks:].all(), where
            drawn = int(blocks[row].sum())
            number = max(round(share * side), 1)
            # The drawn blocks, of which some may be text blocks, which are kept in any case.
            assert number <= drawn <= number + side - video_blocks, where
        again = registry.get("random", {"share": share, "seed": seed}).block_mask(layout, block).blocks[0]
        assert torch.equal(blocks, again), where
    layout = VideoLayout(8, 8, 8)
    hashes = {registry.get("random", {"seed": seed}).block_mask(layout, 4).hash() for seed in range(5)}
    assert len(hashes) == 5


# --- methods that do not change the pattern -------------------------------------------------------------------------


def _frequencies(theta: float, width: int) -> torch.Tensor:
    return torch.tensor([theta ** (-2 * n / width) for n in range(width // 2)], dtype=torch.float64)


@pytest.mark.parametrize("knobs, repetition", [({"k": 4}, None), ({}, 50.0)])
@pytest.mark.parametrize("frames, changes", [(33, False), (50, False), (51, True), (64, True), (128, True)])
def test_riflex_lowers_hunyuanvideo_s_fourth_component_only(knobs, repetition, frames, changes) -> None:
    frequencies = _frequencies(256.0, 16)
    assert round(2 * math.pi / float(frequencies[3])) == 50
    found = registry.get("riflex", knobs).temporal_frequencies(frequencies, frames, repetition)
    expected = frequencies.clone()
    if changes:
        expected[3] = 0.9 * 2 * math.pi / frames
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-12)
    assert torch.equal(found, frequencies) != changes
    assert torch.equal(frequencies, _frequencies(256.0, 16)), "the model's own frequencies must stay as they are"


def test_riflex_equals_its_twin_for_any_embedding() -> None:
    draw = random.Random(8)
    for _ in range(LAYOUTS):
        width, frames = 2 * draw.randint(1, 12), draw.randint(1, 200)
        k = draw.randint(1, width // 2)
        frequencies = _frequencies(draw.choice([256.0, 10000.0]), width)
        found = registry.get("riflex", {"k": k}).temporal_frequencies(frequencies, frames, None)
        expected = twins.riflex_frequencies(frequencies.tolist(), frames, k)
        assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_riflex_refuses_a_component_that_is_not_there_or_not_known() -> None:
    frequencies = _frequencies(256.0, 16)
    with pytest.raises(ValueError, match="k=9.*1 to 8"):
        registry.get("riflex", {"k": 9}).temporal_frequencies(frequencies, 64, None)
    with pytest.raises(ValueError, match="k=0"):
        registry.get("riflex").temporal_frequencies(frequencies, 64, None)


def test_every_other_method_leaves_the_frequencies_alone() -> None:
    frequencies = _frequencies(256.0, 16)
    for name in registry.names():
        if type(registry.get(name)).temporal_frequencies is Method.temporal_frequencies:
            assert registry.get(name).temporal_frequencies(frequencies, 500, 50.0) is frequencies


def test_sana_equals_its_double_loop() -> None:
    for number, (layout, block) in enumerate(twins.random_layouts(seed=2, number=50, most=100)):
        generator = torch.Generator().manual_seed(number)
        heads, size = 2, 6
        q, k, v = torch.randn(3, 1, layout.tokens, heads, size, generator=generator)
        angles = torch.rand(layout.tokens, size // 2, generator=generator) * 6

        def rotate(x: torch.Tensor, angles=angles) -> torch.Tensor:
            cos, sin = angles.cos()[:, None], angles.sin()[:, None]
            even, odd = x[..., ::2], x[..., 1::2]
            return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)

        def rotate_array(x: np.ndarray, angles=angles) -> np.ndarray:
            turned = x[:, ::2] + 1j * x[:, 1::2]
            turned = turned * np.exp(1j * angles.numpy())
            return np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)

        def no_kernel(*_):
            raise AssertionError("linear attention must not call the softmax kernel")

        out = registry.get("sana").attend(q, k, v, rotate, layout, block, no_kernel)
        for head in range(heads):
            arrays = [x[0, :, head].double().numpy() for x in (q, k, v)]
            expected = twins.sana(*arrays, rotate_array)
            assert np.isfinite(expected).all()
            np.testing.assert_allclose(out[0, :, head].numpy(), expected, atol=2e-4 * max(np.abs(expected).max(), 1))


# --- numbers of the paper and of the released code -------------------------------------------------------------------


def _sparsity(layout: VideoLayout, method: str, **knobs) -> float:
    """In %, over whole blocks of 128 video tokens."""
    return 100 * registry.get(method, knobs).block_mask(layout, 128).video_block_sparsity(layout)


@pytest.mark.parametrize(
    "layout, knobs, expected",
    [
        (HUNYUANVIDEO_253, {}, 80.83),
        (HUNYUANVIDEO_509, {}, 88.37),
        (MOCHI_331, {}, 76.63),
        (MOCHI_667, {}, 85.72),
        (WAN_161, {}, 74.01),
        (VideoLayout(30, 48, 80, 256), {}, 68.1),
        (VideoLayout(30, 48, 80, 256), {"decay": 0.95, "sink": False}, 72.54),
        (VideoLayout(18, 48, 80), {"decay": 0.2, "neighbour": "half"}, 73.66),
        (VideoLayout(18, 48, 80), {"decay": 0.2, "neighbour": "whole"}, 71.29),
        (VideoLayout(18, 48, 80), {"decay": 0.2, "neighbour": "decayed"}, 79.23),
    ],
    ids=str,
)
def test_released_radial_masks_have_their_sparsities(layout, knobs, expected) -> None:
    found = _sparsity(layout, "radial", **knobs)
    # One number is published with one decimal only.
    assert found == pytest.approx(expected, abs=0.05 if expected == 68.1 else 0.01)


def test_released_radial_mask_has_the_sparsity_that_a_user_printed() -> None:
    found = _sparsity(VideoLayout(18, 48, 80), "radial", decay=0.2, neighbour="half")
    assert found / 100 == pytest.approx(0.7366323, abs=1e-7)  # printed cut, not rounded


@pytest.mark.parametrize(
    "layout, expected",
    [(HUNYUANVIDEO_253, 74.4), (HUNYUANVIDEO_509, 84.2), (MOCHI_331, 72.1), (MOCHI_667, 82.7), (WAN_161, 65.8)],
    ids=str,
)
def test_equation_4_keeps_its_share_of_the_tokens(layout, expected) -> None:
    frames, size = layout.frames, layout.frame_tokens
    widths = equation4_widths(frames, size).tolist()
    kept = frames * size**2  # the sink
    for query in range(frames):
        for key in range(1, frames):
            width = widths[abs(query - key)]
            kept += size * (2 * width + 1) - width * (width + 1) if width >= 0 else 0
    assert 100 * (1 - kept / layout.video**2) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("layout", [VideoLayout(9, 5, 7), VideoLayout(40, 2, 3), VideoLayout(40, 1, 1)], ids=str)
def test_equation_4_widths_are_those_of_the_equation(layout) -> None:
    size = layout.frame_tokens
    for distance, width in enumerate(equation4_widths(layout.frames, size).tolist()):
        r = math.floor(math.log2(max(distance, 1)))
        kept = [
            gap
            for gap in range(size)
            if (2**r <= size and gap + 1 <= size / 2**r) or (distance % math.ceil(2**r / size) == 0 and gap == 0)
        ]
        assert width == max(kept, default=-1)


@pytest.mark.parametrize(
    "layout, computed, published",
    [
        (HUNYUANVIDEO_253, 80.65, 80.4),
        (HUNYUANVIDEO_509, 88.64, 88.2),
        (MOCHI_331, 77.27, 77.8),
        (MOCHI_667, 86.54, 86.5),
    ],
    ids=str,
)
def test_power_attention_has_the_sparsities_of_its_definition_by_frames(layout, computed, published) -> None:
    found = _sparsity(layout, "pa")
    assert found == pytest.approx(computed, abs=0.01)
    assert found == pytest.approx(published, abs=0.6)  # the paper does not say what it ran


@pytest.mark.parametrize(
    "layout, width, spatial, temporal",
    [
        (HUNYUANVIDEO_253, 6.5, 80.5, 80.7),
        (HUNYUANVIDEO_509, 7.7, 88.3, 88.2),
        (MOCHI_331, 7.1, 76.1, 76.3),
        (MOCHI_667, 8.5, 85.2, 85.4),
    ],
    ids=str,
)
def test_bands_of_the_paper_s_widths_have_its_sparsities(layout, width, spatial, temporal) -> None:
    assert _sparsity(layout, "spatial", width=width) == pytest.approx(spatial, abs=0.3)
    assert _sparsity(layout, "temporal", width=width) == pytest.approx(temporal, abs=0.3)


def test_sliding_tiles_keep_the_product_of_their_shares() -> None:
    # 30 x 48 x 80 tokens are 5 x 6 x 10 tiles, and a tile is three whole blocks of 128.
    layout = VideoLayout(30, 48, 80)
    for window in ("5x3x3", "1x6x10", "3x3x5", "5x1x10", "5x6x1"):
        f, h, w = (int(part) for part in window.split("x"))
        found = registry.get("sta", {"window": window}).block_mask(layout, 128).density
        assert found == pytest.approx(f * h * w / (5 * 6 * 10), abs=1e-12)


def test_a_longer_video_costs_radial_attention_a_smaller_share() -> None:
    shares = [registry.get("radial").density(VideoLayout(frames, 16, 16), 4) for frames in (16, 32, 64)]
    assert shares == pytest.approx([0.591, 0.410, 0.270], abs=0.001)
