"""From a model's attention processors through the router to methods and kernels, on a small random Wan."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import save_file

from benchmark import kernels, registry
from benchmark.attention import AttentionRouter, PassThroughRouter, Schedule
from benchmark.budget import at_budget
from benchmark.layout import VideoLayout
from benchmark.method import Method, attend_pattern, inverse, permute_tokens
from benchmark.models import testbed, wan
from benchmark.models.spec import build

SPEC = testbed.SPEC.resized(num_layers=2, num_attention_heads=2, ffn_dim=32)
LAYOUT = SPEC.layout(5, 24, 18)  # 5 x 4 x 3 = 60 tokens
BLOCK = 7  # does not divide them
DENSE = registry.get("dense")
CPU_KERNELS = [name for name in kernels.names() if name != "flex" and kernels.load(name).unavailable("cpu") is None]


@dataclass(frozen=True)
class Refusing(Method):
    """Attention that must not be called."""

    def attend(self, *args, **kwargs):
        raise RuntimeError("the method was called")


@pytest.fixture(scope="module")
def transformer():
    """A small random model. Biases and scales that start at zero or one are drawn too, so that they count."""
    model = build(SPEC, seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for value in model.parameters():
            if value.dim() == 1:
                value.add_(0.3 * torch.randn(value.shape, generator=generator))
    return model


def inputs(layout: VideoLayout = LAYOUT, batch: int = 1, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(5)
    latent = torch.randn(batch, *SPEC.latent_shape(layout), generator=generator)
    text = torch.randn(batch, SPEC.text_tokens, SPEC.transformer_config["text_dim"], generator=generator)
    return latent.to(dtype), torch.full((batch,), 700.0), text.to(dtype)


@torch.no_grad()
def forward(model, layout: VideoLayout = LAYOUT, batch: int = 1, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return model(*inputs(layout, batch, dtype), return_dict=False)[0]


def route(model, method: Method, kernel="sdpa", schedule=None, layout=LAYOUT, repetition=None):
    """A copy of the model with its self-attention routed, and the router."""
    schedule = schedule or Schedule(steps=4)
    attend = kernels.load(kernel).attend if isinstance(kernel, str) else kernel
    router = AttentionRouter(method, layout, BLOCK, attend, schedule)
    model = copy.deepcopy(model)
    wan.install(model, router, repetition)
    return model, router


@pytest.mark.parametrize("kernel", CPU_KERNELS)
def test_dense_attention_is_the_model_s_own(transformer, kernel: str) -> None:
    routed, _ = route(transformer, DENSE, kernel)
    own = forward(transformer, batch=2)
    assert own.abs().max() > 0.1
    torch.testing.assert_close(forward(routed, batch=2), own, rtol=0, atol=2e-6)


@pytest.mark.parametrize("kernel", CPU_KERNELS)
def test_dense_attention_in_bfloat16_is_as_near_as_the_model_s_own(transformer, kernel: str, tmp_path) -> None:
    save_file(dict(transformer.named_parameters()), tmp_path / "small.safetensors")
    rounded = testbed.load("small", folder=tmp_path, spec=SPEC)
    assert rounded.patch_embedding.weight.dtype == torch.bfloat16
    assert rounded.scale_shift_table.dtype == torch.float32
    own, exact = forward(rounded, dtype=torch.bfloat16), forward(transformer)
    routed = forward(route(rounded, DENSE, kernel)[0], dtype=torch.bfloat16)
    assert routed.dtype == torch.bfloat16
    assert (routed.float() - exact).abs().max() < 2 * (own.float() - exact).abs().max()


def test_a_sparse_mask_is_the_model_s_own_attention_under_that_mask(transformer) -> None:
    from diffusers.models.transformers.transformer_wan import WanAttnProcessor

    method = at_budget(registry.get("spatial"), LAYOUT, BLOCK, 0.5)
    mask = method.block_mask(LAYOUT, BLOCK).to_tokens()[None]

    class Masked(WanAttnProcessor):
        def __call__(self, attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb):
            return super().__call__(attn, hidden_states, encoder_hidden_states, mask, rotary_emb)

    expected = copy.deepcopy(transformer)
    for block in expected.blocks:
        block.attn1.set_processor(Masked())
    routed = forward(route(transformer, method)[0])
    torch.testing.assert_close(routed, forward(expected), rtol=0, atol=2e-6)
    assert (routed - forward(transformer)).abs().max() > 1e-3


@pytest.mark.parametrize("name", registry.names())
def test_in_dense_steps_every_method_is_dense(transformer, name: str) -> None:
    schedule = Schedule(steps=3, dense_steps=3)
    routed, router = route(transformer, registry.get(name), schedule=schedule, repetition=30)
    own = forward(transformer)
    for router.step in range(3):
        torch.testing.assert_close(forward(routed), own, rtol=0, atol=2e-6)


def test_the_method_runs_exactly_in_sparse_steps_and_layers(transformer) -> None:
    calls = []

    def kernel(q, k, v, mask):
        calls.append(1)
        return kernels.load("sdpa").attend(q, k, v, mask)

    routed, router = route(transformer, Refusing(), kernel, Schedule(steps=4, dense_steps=2, dense_layers=1))
    for router.step in (0, 1):
        forward(routed)
    assert len(calls) == 4
    for router.step in (2, 3):
        with pytest.raises(RuntimeError, match="the method was called"):
            forward(routed)
    assert len(calls) == 6  # the dense layer of each

    routed, router = route(transformer, Refusing(), kernel, Schedule(steps=4, dense_layers=2))
    router.step = 3
    forward(routed)


@pytest.mark.parametrize("settings", [{"steps": 0}, {"steps": 4, "dense_steps": 5}, {"steps": 4, "dense_layers": -1}])
def test_impossible_schedules_are_refused(settings) -> None:
    with pytest.raises(ValueError, match="schedule: .* is needed"):
        Schedule(**settings)


def test_tokens_of_another_layout_are_refused(transformer) -> None:
    routed, _ = route(transformer, DENSE)
    with pytest.raises(ValueError, match="attention over 48 tokens: the layout 5x4x3 has 60"):
        forward(routed, SPEC.layout(4, 24, 18))


@pytest.mark.parametrize(
    ("returned", "found"),
    [
        (lambda q: q[:, :1], r"\(1, 1, 2, 4\)"),
        (lambda q: q.transpose(1, 2), r"\(1, 2, 60, 4\)"),
        (lambda q: None, "NoneType"),
    ],
)
def test_what_a_method_returns_has_the_shape_of_its_queries(returned, found) -> None:
    class Wrong(Method):
        def attend(self, q, *rest):
            return returned(q)

    q = torch.zeros(1, LAYOUT.tokens, 2, 4)
    router = AttentionRouter(Wrong(), LAYOUT, BLOCK, None, Schedule(steps=1))
    words = rf"methods/test_attention.py: attend returns {found}; q's \(1, 60, 2, 4\) is needed"
    with pytest.raises(ValueError, match=words):
        router.attend(0, q, q, q, lambda x: x)


def test_patterns_are_planned_once_for_each_layout() -> None:
    planned = []

    @dataclass(frozen=True)
    class Counting(type(registry.get("radial"))):
        def block_mask(self, layout, block, device="cpu"):
            planned.append((layout, block))
            return super().block_mask(layout, block, device)

    masks = []

    def kernel(q, k, v, mask):
        masks.append(mask.hash())
        return v

    def attend(layout, layer=0):
        q = torch.zeros(1, layout.tokens, 2, 4)
        router.attend(layer, q, q, q, lambda x: x)

    router = AttentionRouter(Counting(), LAYOUT, BLOCK, kernel, Schedule(steps=1))
    other = VideoLayout(10, 2, 3)  # as many tokens, in another grid
    for layer in range(3):
        attend(LAYOUT, layer)
    router.layout = other
    attend(other)
    router.layout = LAYOUT
    attend(LAYOUT)
    assert planned == [(LAYOUT, BLOCK), (other, BLOCK)]
    assert masks[0] == masks[1] == masks[2] == masks[4] != masks[3]
    router.block = 5
    attend(LAYOUT)
    assert planned[2:] == [(LAYOUT, 5)]


def test_svg_through_the_model_is_the_same_for_samples_apart(transformer) -> None:
    classes = []

    @dataclass(frozen=True)
    class Telling(type(registry.get("svg"))):
        def classify(self, *args):
            found = super().classify(*args)
            classes.append(found.tolist())
            return found

    routed, _ = route(transformer, Telling(p=0.4))
    together = forward(routed, batch=3)
    assert any(len({tuple(call[n : n + 2]) for n in (0, 2, 4)}) > 1 for call in classes)  # they differ by sample
    latent, time, text = inputs(batch=3)
    with torch.no_grad():
        for n in range(3):
            alone = routed(latent[n : n + 1], time[:1], text[n : n + 1], return_dict=False)[0]
            torch.testing.assert_close(alone, together[n : n + 1], rtol=0, atol=3e-6)


def test_sana_runs_in_place_of_softmax_attention(transformer) -> None:
    def kernel(q, k, v, mask):
        raise RuntimeError("no kernel is needed")

    found = forward(route(transformer, registry.get("sana"), kernel)[0])
    assert bool(found.isfinite().all())
    assert (found - forward(transformer)).abs().max() > 1e-3


LONG = SPEC.layout(40, 12, 18)


def test_temporal_frequencies_are_those_of_the_rotary_table(transformer) -> None:
    found = wan.temporal_frequencies(transformer.rope)
    sixths = torch.arange(6, dtype=torch.float64) / 6
    torch.testing.assert_close(found, 10000.0**-sixths, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("knobs", "repetition"), [({"k": 2}, None), ({}, 30.0)])
def test_riflex_turns_one_pair_of_channels_at_its_own_frequency(transformer, knobs, repetition) -> None:
    latent = torch.empty(1, *SPEC.latent_shape(LONG))
    rope, own = transformer.rope, transformer.rope(latent)
    changed = route(transformer, registry.get("riflex", knobs), layout=LONG, repetition=repetition)[0].rope(latent)
    frame = LONG.coordinates()[0].double()
    angles = frame * 0.9 * 2 * math.pi / LONG.frames
    for found, before, function in zip(changed, own, (torch.cos, torch.sin), strict=True):
        assert found.shape == before.shape and found.dtype == before.dtype
        for channel in (2, 3):  # component 2, the one whose period (29.2) is nearest to 30
            torch.testing.assert_close(found[0, :, 0, channel].double(), function(angles), rtol=0, atol=1e-6)
        kept = [channel for channel in range(SPEC.head_dim) if channel not in (2, 3)]
        torch.testing.assert_close(found[..., kept], before[..., kept], rtol=0, atol=1e-5)
        assert torch.equal(found[..., rope.t_dim :], before[..., rope.t_dim :])


def test_riflex_through_the_model_is_the_model_with_that_frequency(transformer) -> None:
    expected = copy.deepcopy(transformer)
    angles = torch.arange(128) * 0.9 * 2 * math.pi / LONG.frames
    expected.rope.freqs_cos[:, 2:4] = angles.cos()[:, None]
    expected.rope.freqs_sin[:, 2:4] = angles.sin()[:, None]
    for step, schedule in ((0, Schedule(steps=2, dense_steps=1)), (1, Schedule(steps=2))):  # dense steps as well
        routed, router = route(transformer, registry.get("riflex"), schedule=schedule, layout=LONG, repetition=30)
        router.step = step
        torch.testing.assert_close(forward(routed, LONG), forward(expected, LONG), rtol=0, atol=2e-5)
    assert (forward(routed, LONG) - forward(transformer, LONG)).abs().max() > 1e-3


def test_riflex_leaves_a_clip_below_the_period_alone(transformer) -> None:
    for frames, changes in ((16, False), (29, False), (30, True)):
        layout = SPEC.layout(frames, 12, 18)
        latent = torch.empty(1, *SPEC.latent_shape(layout))
        routed, _ = route(transformer, registry.get("riflex"), layout=layout, repetition=30)
        assert torch.equal(routed.rope(latent)[0], transformer.rope(latent)[0]) != changes


def test_another_router_takes_the_place_of_the_first(transformer) -> None:
    method = at_budget(registry.get("temporal"), LAYOUT, BLOCK, 0.5)
    routed, _ = route(transformer, method)
    expected = forward(routed)
    again, _ = route(routed, method)  # hooks that stayed would permute twice
    assert torch.equal(forward(again), expected)
    plain, _ = route(routed, DENSE)
    torch.testing.assert_close(forward(plain), forward(transformer), rtol=0, atol=2e-6)


@pytest.mark.parametrize("heads", [1, 3])
def test_each_head_s_tokens_are_put_in_its_own_order_and_back(heads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    orders = torch.stack([torch.randperm(11, generator=generator) for _ in range(heads)])
    whole = torch.randn(2, 11, 3 * heads, 4, generator=generator)
    joint = whole[:, :, heads : 2 * heads]  # a slice, as v is of a joint projection
    for x in (joint, joint[:1], joint.contiguous(), joint.transpose(2, 3).contiguous().transpose(2, 3)):
        found = permute_tokens(x, orders)
        for head in range(heads):
            assert torch.equal(found[:, :, head], x[:, orders[head], head])
        assert torch.equal(permute_tokens(found, torch.stack([inverse(order) for order in orders])), x)


@pytest.mark.parametrize("name", ["temporal", "longlora", "svg"])
def test_gradients_pass_through_permutations(name: str) -> None:
    method = at_budget(registry.get(name), LAYOUT, BLOCK, 0.5)
    generator = torch.Generator().manual_seed(0)
    q, k, v, weight = torch.randn(4, 1, LAYOUT.tokens, 2, 4, generator=generator)
    pattern = method.pattern_for(q, k, v, LAYOUT, BLOCK)
    mask = pattern.mask.to_tokens()
    inputs = [x.clone().requires_grad_() for x in (q, k, v)]
    attend_pattern(*inputs, pattern, kernels.load("reference").attend).mul(weight).sum().backward()
    found = [x.grad for x in inputs]
    plain = [x.clone().requires_grad_() for x in (q, k, v)]
    total = 0.0
    for head in range(2):
        order = pattern.orders[0 if pattern.head_order is None else int(pattern.head_order[head])]
        place = torch.arange(LAYOUT.tokens) if order is None else inverse(order)
        seen = mask[min(head, len(mask) - 1)][place][:, place]
        scores = (plain[0][0, :, head] @ plain[1][0, :, head].T / 2).masked_fill(~seen, -math.inf)
        total = total + (scores.softmax(dim=1) @ plain[2][0, :, head] * weight[0, :, head]).sum()
    total.backward()
    for gradient, expected in zip(found, plain, strict=True):
        torch.testing.assert_close(gradient, expected.grad, rtol=0, atol=1e-5)


def test_pass_through_returns_the_values_and_asks_neither_method_nor_kernel() -> None:
    rotated = []
    router = PassThroughRouter(Refusing(), LAYOUT, BLOCK, None, Schedule(steps=1))
    q = torch.randn(1, LAYOUT.tokens, 2, 4)
    assert torch.equal(router.attend(0, q, q, q + 1, lambda x: rotated.append(x) or x), q + 1)
    assert len(rotated) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_methods_on_a_gpu_are_those_on_the_cpu(transformer) -> None:
    for name in registry.names():
        method = registry.get(name)
        assert method.pattern(LONG, BLOCK, 2, "cuda").mask.hash() == method.pattern(LONG, BLOCK, 2).mask.hash()
        routed, router = route(transformer, method, layout=LONG, repetition=30)
        on_gpu = copy.deepcopy(transformer).to("cuda")
        wan.install(on_gpu, router, 30)
        with torch.no_grad():
            found = on_gpu(*(value.to("cuda") for value in inputs(LONG)), return_dict=False)[0].cpu()
        torch.testing.assert_close(found, forward(routed, LONG), rtol=0, atol=1e-3)
