"""Compiled and fused blocks against diffusers' own. The compiler's backend is off: it is the graphs that are tested."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_models import BLOCK, NAMES, TEXT, forward, inputs, installed, random_model, relative, sparse, tiny

from benchmark import fuse, models, registry
from benchmark.attention import PassThroughRouter, Schedule
from benchmark.models import fused, rows

GRAPHS = {"hunyuanvideo": 3, "wan2.1-14b": 1, "mochi-1": 2}  # kinds of blocks; Mochi's last differs
LAYERS = {"hunyuanvideo": 5, "wan2.1-14b": 3, "mochi-1": 3}


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


def graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def exactly(transformer, values):
    """The same weights and inputs in float32."""
    values = {name: value.float() if value.dtype == torch.bfloat16 else value for name, value in values.items()}
    return forward(copy.deepcopy(transformer).float(), values)


@pytest.mark.parametrize(("name", "method"), [*((name, "temporal") for name in NAMES), ("hunyuanvideo", "sana")])
def test_levels_agree_and_blocks_share_their_graphs(name: str, method: str) -> None:
    spec, layout = tiny(name)
    method = sparse(method, layout)
    values = inputs(spec, layout, valid=(TEXT, 3))
    found = {}
    for level in fuse.LEVELS:
        transformer = random_model(spec)
        router = installed(spec, transformer, method, layout)
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        fuse.fuse(transformer, router, level, backend="eager")  # refuses any break of a graph
        found[level] = forward(transformer, values)
        assert graphs() <= GRAPHS[name] and (graphs() > 0) == (level != "none")
    assert relative(found["compile"], found["none"]) < 1e-6
    assert relative(found["full"], found["none"]) < 2e-6


@pytest.mark.parametrize("name", NAMES)
def test_fused_blocks_in_bfloat16_are_equal_within_rounding(name: str) -> None:
    spec, layout = tiny(name)
    values = inputs(spec, layout, torch.bfloat16, valid=(TEXT, 3))
    transformer = random_model(spec, torch.bfloat16)
    router = installed(spec, transformer, registry.get("dense"), layout)
    own, exact = forward(transformer, values), exactly(random_model(spec, torch.bfloat16), values)
    fuse.fuse(transformer, router, "full", backend="eager")
    found = forward(transformer, values)
    assert not torch.equal(found, own)  # the fused blocks were there
    assert fuse.equal_within_rounding(found, own, exact)
    assert 1e-4 < fuse.rounding(found, own, exact).found_error < 0.05
    wrong = found + 0.02 * found.std() * torch.randn(found.shape, generator=torch.Generator().manual_seed(0))
    assert not fuse.equal_within_rounding(wrong, own, exact)


def test_parts_can_be_left_out_by_name() -> None:
    for name in ("wan2.1-14b", "hunyuanvideo"):
        spec, layout = tiny(name)
        values = inputs(spec, layout)
        own = random_model(spec)
        router = installed(spec, own, registry.get("dense"), layout)
        expected = forward(own, values)
        fuse.fuse(own, router, "full", backend="eager", parts=())
        assert relative(forward(own, values), expected) < 2e-6


@pytest.mark.parametrize("name", ["wan2.1-14b", "hunyuanvideo"])
def test_rows_and_rotation_as_operations_change_nothing(name: str) -> None:
    spec, layout = tiny(name)
    values = inputs(spec, layout, valid=(TEXT, 3))
    own = random_model(spec)
    router = installed(spec, own, sparse("temporal", layout), layout)
    expected = forward(own, values)
    fuse.fuse(own, router, "full", backend="eager", parts=fused.OFFERED)
    assert relative(forward(own, values), expected) < 2e-6
    assert graphs() == {"wan2.1-14b": 1, "hunyuanvideo": 2}[name]


def test_rows_and_rotation_in_bfloat16_are_equal_within_rounding() -> None:
    spec, layout = tiny("wan2.1-14b")
    values = inputs(spec, layout, torch.bfloat16)
    transformer = random_model(spec, torch.bfloat16)
    router = installed(spec, transformer, registry.get("dense"), layout)
    own, exact = forward(transformer, values), exactly(random_model(spec, torch.bfloat16), values)
    fuse.fuse(transformer, router, "full", backend="eager", parts=fused.OFFERED)
    assert fuse.equal_within_rounding(forward(transformer, values), own, exact)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels are Triton's")
@pytest.mark.parametrize("channels", [384, 3072, 5120])
def test_kernels_of_rows_do_on_a_gpu_what_they_do_on_a_cpu(channels: int) -> None:
    generator = torch.Generator().manual_seed(0)

    def random(*size: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.randn(size, generator=generator).to(dtype)

    hidden, out, more = (random(2, 37, channels) for _ in range(3))
    gate, factor, shift = random(2, 6, channels, dtype=torch.float32)[:, 2], random(1, channels), random(2, channels)
    turns = torch.rand(37, 1, 64, generator=generator)
    qkv = random(2, 37, 3 * channels)
    there = qkv.cuda()
    calls = [(rows.norm_rows, (hidden, factor, shift, 1e-6))]
    for added, scaled in ((more, gate), (None, gate), (None, None)):
        calls.append((rows.add_norm_rows, (hidden, out, added, scaled, factor, shift, 1e-6)))
    for weight in (random(128), random(channels)):
        for tables in ((None, None), (turns.cos(), turns.sin())):
            calls.append((rows.norm_rotate, (qkv.chunk(3, dim=-1)[1], weight, *tables, channels // 128, 1e-6)))
    for operation, (x, *others) in calls:
        moved = x.cuda() if x.is_contiguous() else there.chunk(3, dim=-1)[1]  # rows that lie apart stay apart
        expected, found = operation(x, *others), operation(moved, *(_on_gpu(each) for each in others))
        for one, other in zip(*((x if isinstance(x, tuple) else (x,)) for x in (found, expected)), strict=True):
            assert relative(one.cpu().float(), other.float()) < 1e-3  # less than rounding to bfloat16 is off


def _on_gpu(x: object) -> object:
    return x.cuda() if isinstance(x, torch.Tensor) else x


def test_rerouting_compiles_nothing_anew_and_reaches_every_layer() -> None:
    spec, layout = tiny("hunyuanvideo")
    values = inputs(spec, layout)
    transformer = random_model(spec)
    method = sparse("temporal", layout)
    router = installed(spec, transformer, method, layout)
    fuse.fuse(transformer, router, "full", backend="eager")
    sparse_out, before = forward(transformer, values), graphs()
    reached = []

    class Counting(PassThroughRouter):
        def attend(self, layer, *args):
            reached.append(layer)
            return super().attend(layer, *args)

    idle = Counting(method, layout, BLOCK, None, Schedule(1))
    fuse.reroute(transformer, idle)
    idle_out = forward(transformer, values)
    assert idle.hoisted and reached == list(range(LAYERS["hunyuanvideo"]))
    dense = installed(spec, random_model(spec), registry.get("dense"), layout)
    fuse.reroute(transformer, dense)
    dense_out = forward(transformer, values)
    assert graphs() == before
    assert relative(dense_out, forward(random_model(spec), values)) < 2e-6
    assert relative(dense_out, sparse_out) > 1e-3 and relative(dense_out, idle_out) > 1e-3
    with pytest.raises(ValueError, match="reroute: sana rotates otherwise"):
        fuse.reroute(transformer, installed(spec, random_model(spec), registry.get("sana"), layout))


@pytest.mark.parametrize("level", ["none", "compile"])
def test_gradients_through_a_sparse_method_are_those_of_eager_code(level: str) -> None:
    spec, layout = tiny("wan2.1-14b")
    values = inputs(spec, layout)
    gradients = []
    for fused_level in (None, level):
        transformer = random_model(spec).requires_grad_(False)
        router = installed(spec, transformer, sparse("radial", layout), layout)
        trained = [block.attn1.to_q.weight.requires_grad_() for block in transformer.blocks]
        if fused_level:
            transformer.enable_gradient_checkpointing()
            fuse.fuse(transformer, router, fused_level, training=True, backend="eager")
        transformer.train()(**values, return_dict=False)[0].square().mean().backward()
        if fused_level == "compile":
            assert 0 < graphs() <= 8  # as many with twelve layers
        gradients.append([weight.grad for weight in trained])
    for own, found in zip(*gradients, strict=True):
        assert own.abs().max() > 0
        assert relative(found, own) < 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the fault is of code compiled for a GPU")
@pytest.mark.parametrize(("frames", "batch"), [(64, 2), (128, 1)])
def test_compiled_gradients_of_every_weight_are_those_of_eager_code_over_many_tokens(frames: int, batch: int) -> None:
    spec = models.get("testbed-base")
    layout = spec.layout(frames, 64, 64)
    values = models.example_inputs(spec, layout, device="cuda", dtype=torch.bfloat16, seed=5, batch=batch)
    gradients = []
    for compiled in (False, True):
        transformer = random_model(spec, torch.bfloat16).cuda()
        router = installed(spec, transformer, registry.get("dense"), layout)
        if compiled:
            fuse.fuse(transformer, router, "compile", training=True, options=fuse.REPEATABLE)
        transformer.train()(**values, return_dict=False)[0].float().square().mean().backward()
        gradients.append({name: value.grad for name, value in transformer.named_parameters()})
    own, found = gradients
    # A bias of all keys shifts each row of scores, which a softmax does not see: its gradient is rounding alone.
    compared = [name for name in own if name.startswith("blocks") and not name.endswith("to_k.bias")]
    assert {name: error for name in compared if not (error := relative(found[name], own[name])) < 0.05} == {}


def test_joined_weights_are_stored_once() -> None:
    layers = [torch.nn.Linear(4, n) for n in (3, 5)]
    x = torch.randn(2, 4)
    expected = torch.cat([layer(x) for layer in layers], dim=1)
    weight, bias = fused.join(layers)
    torch.testing.assert_close(torch.nn.functional.linear(x, weight, bias), expected)
    assert all(
        layer.weight.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr() for layer in layers
    )  # fmt: skip
    torch.testing.assert_close(torch.cat([layer(x) for layer in layers], dim=1), expected)


def test_what_cannot_be_fused_is_refused() -> None:
    spec, layout = tiny("wan2.1-14b")
    transformer = random_model(spec)
    with pytest.raises(ValueError, match="no router is installed"):
        fuse.fuse(transformer, None)
    router = installed(spec, transformer, registry.get("dense"), layout)
    other = installed(spec, random_model(spec), registry.get("dense"), layout)
    for words, arguments in (
        ("level='fast': one of none, compile, full", {"level": "fast"}),
        ("no backward pass", {"level": "full", "training": True}),
        ("parts=norms: some of gelu, cross, rows, rotate, up, down", {"parts": ["norms"]}),
    ):
        with pytest.raises(ValueError, match=words):
            fuse.fuse(transformer, router, **arguments)
    with pytest.raises(ValueError, match="another router"):
        fuse.fuse(transformer, other)
    fuse.fuse(transformer, router, "compile", backend="eager")
    with pytest.raises(ValueError, match="fused already, at level 'compile'"):
        fuse.fuse(transformer, router, "full")


def test_values_that_are_not_finite_are_no_rounding() -> None:
    good, bad = torch.ones(3), torch.tensor([1.0, float("nan"), 1.0])
    with pytest.raises(ValueError, match="found holds values that are not finite"):
        fuse.rounding(bad, good, good)
