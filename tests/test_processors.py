"""The paper's models through their attention processors: dense is diffusers' own, text is exact, orders are hoisted."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from tiny_models import BLOCK, JOINT, NAMES, TEXT, forward, inputs, installed, random_model, relative, sparse, tiny

from benchmark import kernels, models, registry
from benchmark.attention import AttentionRouter, Schedule
from benchmark.models import hunyuanvideo

DENSE = registry.get("dense")


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    spec, layout = tiny(request.param)
    return spec, layout, random_model(spec)


@pytest.fixture(scope="module", params=JOINT)
def joint(request):
    spec, layout = tiny(request.param)
    return spec, layout, random_model(spec)


@pytest.mark.parametrize("valid", [(TEXT, TEXT), (TEXT, 3), (1, 4)])
def test_dense_is_diffusers_own_at_any_length_of_text(model, valid) -> None:
    spec, layout, transformer = model
    values = inputs(spec, layout, valid=valid)
    own = forward(transformer, values)
    routed = copy.deepcopy(transformer)
    installed(spec, routed, DENSE, layout)
    assert own.abs().max() > 0.1
    assert relative(forward(routed, values), own) < 1e-6


def test_dense_in_bfloat16_is_as_near_as_diffusers_own(model) -> None:
    spec, layout, transformer = model
    values = inputs(spec, layout, torch.bfloat16, valid=(TEXT, 2))
    rounded = random_model(spec, torch.bfloat16)
    exact = forward(
        copy.deepcopy(rounded).float(),
        {name: value.float() if value.dtype == torch.bfloat16 else value for name, value in values.items()},
    )
    own = relative(forward(rounded, values), exact)
    installed(spec, rounded, DENSE, layout)
    routed = forward(rounded, values)
    assert routed.dtype == torch.bfloat16
    assert relative(routed, exact) < 1.5 * own


@pytest.mark.parametrize("name", ["radial", "temporal", "svg", "longlora", "sana"])
def test_each_sample_of_a_batch_is_what_it_is_alone_without_padding(joint, name: str) -> None:
    spec, layout, transformer = joint
    method = sparse(name, layout)
    valid = (TEXT, 2, 4)
    routed = copy.deepcopy(transformer)
    installed(spec, routed, method, layout)
    values = inputs(spec, layout, valid=valid)
    together = forward(routed, values)
    for n, text in enumerate(valid):
        alone = {key: value[n : n + 1] for key, value in values.items()}
        for key in ("encoder_hidden_states", "encoder_attention_mask"):
            alone[key] = alone[key][:, :text]
        assert relative(forward(routed, alone), together[n : n + 1]) < 1e-5


def test_a_prompt_without_any_token_works_on_mochi() -> None:
    spec, layout = tiny("mochi-1")
    transformer = random_model(spec)
    values = inputs(spec, layout, valid=(0, 5))  # what diffusers' pipeline gives for an empty negative prompt
    own = forward(transformer, values)
    installed(spec, transformer, DENSE, layout)
    assert relative(forward(transformer, values), own) < 1e-6


def test_padding_before_a_valid_token_is_refused(joint) -> None:
    spec, layout, transformer = joint
    routed = copy.deepcopy(transformer)
    installed(spec, routed, DENSE, layout)
    values = inputs(spec, layout, valid=(TEXT, TEXT))
    values["encoder_attention_mask"][1, 0] = False
    with pytest.raises(ValueError, match="encoder_attention_mask: sample 1 has padding before a valid token"):
        forward(routed, values)


def test_texts_that_do_not_fit_are_refused() -> None:
    _, layout = tiny("hunyuanvideo")
    router = AttentionRouter(DENSE, layout, BLOCK, kernels.load("sdpa").attend, Schedule(1))
    q = torch.zeros(1, layout.tokens, 2, 4)
    for router.text in ([TEXT + 1], [1, 1]):
        with pytest.raises(ValueError, match="do not fit"):
            router.attend(0, q, q, q, lambda x: x)


def test_a_sparse_mask_is_hunyuanvideo_s_own_attention_under_that_mask() -> None:
    from diffusers.models.transformers.transformer_hunyuan_video import HunyuanVideoAttnProcessor2_0

    spec, layout = tiny("hunyuanvideo")
    transformer = random_model(spec)
    method = sparse("radial", layout)
    mask = method.block_mask(layout, BLOCK).to_tokens()[None]

    class Masked(HunyuanVideoAttnProcessor2_0):
        def __call__(self, attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb):
            return super().__call__(attn, hidden_states, encoder_hidden_states, mask, image_rotary_emb)

    expected = copy.deepcopy(transformer)
    for block in [*expected.transformer_blocks, *expected.single_transformer_blocks]:
        block.attn.set_processor(Masked())
    values = inputs(spec, layout)
    dense = forward(transformer, values)
    installed(spec, transformer, method, layout)
    assert relative(forward(transformer, values), forward(expected, values)) < 1e-6
    assert relative(forward(transformer, values), dense) > 1e-3


@pytest.mark.parametrize("name", ["sta", "temporal"])
def test_an_order_is_hoisted_out_of_the_layers_and_changes_nothing(model, name: str) -> None:
    spec, layout, transformer = model
    values = inputs(spec, layout, valid=(TEXT, 3))
    routed = copy.deepcopy(transformer)
    router = installed(spec, routed, sparse(name, layout), layout, Schedule(2, dense_steps=1, dense_layers=1))
    assert router.hoisted
    found = []
    for router.hoisted in (True, False):
        for router.step in (0, 1):
            found.append(forward(routed, values))
    dense = forward(transformer, values)
    assert relative(found[0], dense) < 1e-6 and relative(found[2], dense) < 1e-6
    assert relative(found[1], found[3]) < 1e-5
    assert relative(found[1], dense) > 1e-3


@pytest.mark.parametrize("name", ["dense", "radial", "svg", "longlora", "sana"])
def test_orders_that_differ_by_head_or_call_stay_in_the_layers(name: str) -> None:
    spec, layout = tiny("wan2.1-14b")
    assert not installed(spec, random_model(spec), registry.get(name), layout).hoisted


def test_a_hoisted_order_needs_tokens_of_the_layout() -> None:
    spec, layout = tiny("hunyuanvideo")
    transformer = random_model(spec)
    installed(spec, transformer, sparse("temporal", layout), layout)
    with pytest.raises(ValueError, match="attention over 48 tokens: the layout 5x4x3"):
        forward(transformer, inputs(spec, spec.layout(13, 64, 48, TEXT)))


def test_riflex_turns_one_temporal_pair_of_hunyuanvideo() -> None:
    spec, _ = tiny("hunyuanvideo")
    spec = spec.resized(rope_axes_dim=(8, 4, 4))
    layout = spec.layout(4 * 119 + 1, 32, 16, TEXT)
    transformer = models.build(spec)
    frequencies = hunyuanvideo.temporal_frequencies(transformer.rope)
    torch.testing.assert_close(frequencies, 256.0 ** -(torch.arange(4, dtype=torch.float64) / 4))
    latent = torch.empty(1, *spec.latent_shape(layout))
    own = transformer.rope(latent)
    installed(spec, transformer, registry.get("riflex", {"k": 3}), layout)
    angles = layout.coordinates()[0].double() * 0.9 * 2 * math.pi / layout.frames
    for found, before, function in zip(transformer.rope(latent), own, (torch.cos, torch.sin), strict=True):
        for channel in (4, 5):  # component 3, of period 100.5
            torch.testing.assert_close(found[:, channel].double(), function(angles), rtol=0, atol=1e-6)
        kept = [channel for channel in range(spec.head_dim) if channel not in (4, 5)]
        torch.testing.assert_close(found[:, kept], before[:, kept], rtol=0, atol=2e-5)
        assert torch.equal(found[:, 8:], before[:, 8:])


def test_methods_that_change_temporal_frequencies_are_refused_on_mochi() -> None:
    spec, layout = tiny("mochi-1")
    with pytest.raises(ValueError, match="riflex on mochi-1: unsupported: .*no temporal frequency to change"):
        installed(spec, random_model(spec), registry.get("riflex", {"k": 1}), layout)


def test_mochi_is_built_with_positions_that_matter() -> None:
    assert models.build(tiny("mochi-1")[0]).pos_frequencies.std() > 0.5


def test_sixty_random_layers_in_bfloat16_stay_finite() -> None:
    spec, layout = tiny("hunyuanvideo")
    spec = spec.resized(num_layers=20, num_single_layers=40)
    found = forward(models.build(spec, dtype=torch.bfloat16), inputs(spec, layout, torch.bfloat16))
    assert bool(found.isfinite().all()) and found.abs().max() > 0.01


@pytest.mark.parametrize("name", [*NAMES, "testbed-nano"])
def test_example_inputs_follow_the_layout_and_the_seed(name: str) -> None:
    spec, layout = (models.get(name), models.get(name).layout(2)) if name == "testbed-nano" else tiny(name)
    one, same, other = (models.example_inputs(spec, layout, seed=seed, batch=2) for seed in (0, 0, 1))
    assert forward(models.build(spec), one).shape == (2, *spec.latent_shape(layout))
    assert all(torch.equal(value, same[key]) for key, value in one.items())
    assert not torch.equal(one["hidden_states"], other["hidden_states"])
    on_meta = models.example_inputs(spec, layout, "meta", torch.bfloat16)
    assert {key: value.shape[1:] for key, value in on_meta.items()} == {k: v.shape[1:] for k, v in one.items()}
