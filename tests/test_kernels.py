"""Every kernel under every method against the float32 oracle, and proof that the blocks executed are those planned.

Methods are found as the benchmark finds them, so that a file dropped into ``methods/`` is tested under its own name
(``pytest -k my_method``).
"""

from __future__ import annotations

import functools
import itertools
import logging

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmark import kernels, registry
from benchmark.kernels import flex, reference, sdpa
from benchmark.layout import VideoLayout
from benchmark.masks import BlockMask, dense_mask

CPU = torch.device("cpu")
HEADS, SIZE = 4, 32

LAYOUTS = {
    "testbed": (VideoLayout(16, 6, 6), 4),
    "text": (VideoLayout(7, 5, 9, 13), 16),
    "large_blocks": (VideoLayout(3, 16, 16, 40), 128),
}
# Where the default setting keeps everything, or nearly, on layouts so small.
KNOBS = {
    "sta": {"tile": "4x3x3", "window": "2x1x2"},
    "radial": {"decay": 0.5},
    "harmonic": {"c": 0.25},
    "spatial": {"width": 1.5},
    "temporal": {"width": 1.5},
    "longlora": {"group": 0.3},
}


def _kernels():
    """Every kernel on every device that is here; one that can't run is skipped with its reason."""
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for name in kernels.names():
            reason = kernels.load(name).unavailable(torch.device(device))
            marks = pytest.mark.skipif(reason is not None, reason=f"{name} on {device}: {reason}")
            yield pytest.param((name, device), id=name if device == "cpu" else f"{name}_{device}", marks=marks)


KERNELS = list(_kernels())


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors this small are slower on several threads, most of all where other programs use them too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@functools.cache
def _inputs(tokens: int, dtype: torch.dtype = torch.bfloat16, batch: int = 1) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values as a trained model has them: peaked scores, and keys that share a direction."""
    generator = torch.Generator().manual_seed(tokens)
    q, k, v = torch.randn(3, batch, tokens, HEADS, SIZE, generator=generator)
    k = k + torch.randn(HEADS, SIZE, generator=generator)
    return tuple(x.to(dtype) for x in (1.5 * q, 1.5 * k, v))


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative to the root mean square of what is expected; infinite or NaN where the result is."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@functools.cache
def _allowed_error(tokens: int, batch: int = 1) -> float:
    """Twice that of dense bfloat16 SDPA against dense float32 attention, on the same inputs."""
    q, k, v = (x.transpose(1, 2) for x in _inputs(tokens, batch=batch))
    exact = scaled_dot_product_attention(q.float(), k.float(), v.float())
    error = _error(scaled_dot_product_attention(q, k, v), exact)
    assert 1e-4 < error < 1e-2
    return 2 * error


def _attend(kernel: tuple[str, str]):
    """The kernel on its device, made to write into a buffer full of NaN."""
    name, device = kernel

    def attend(q, k, v, mask):
        q, k, v = (x.to(device) for x in (q, k, v))
        out = torch.full_like(v, float("nan"))
        result = kernels.load(name).attend(q, k, v, mask.to(device), out=out)
        assert result is out
        return out.cpu()

    return attend


def _identity(x: torch.Tensor) -> torch.Tensor:
    return x


def _random_mask(layout: VideoLayout, block: int, heads: int = 1, share: float = 0.4, seed: int = 0) -> BlockMask:
    side = layout.blocks(block)
    blocks = torch.rand(heads, side, side, generator=torch.Generator().manual_seed(seed)) < share
    return BlockMask(blocks | torch.eye(side, dtype=torch.bool), block, layout.tokens)


def _strided(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The same values, (batch, heads, tokens, size) in memory, as models often have it."""
    return tuple(x.transpose(1, 2).contiguous().transpose(1, 2) for x in tensors)


def _rows(mask: BlockMask, row: int) -> slice:
    return slice(row * mask.block, min((row + 1) * mask.block, mask.tokens))


# --- every kernel under every method ---------------------------------------------------------------------------------


@functools.cache
def _oracle(name: str, where: str) -> torch.Tensor:
    layout, block = LAYOUTS[where]
    q, k, v = (x.float() for x in _inputs(layout.tokens))
    return registry.get(name, KNOBS.get(name)).attend(q, k, v, _identity, layout, block, reference.attend)


@pytest.mark.parametrize("where", list(LAYOUTS))
@pytest.mark.parametrize("name", registry.names())
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_equals_the_oracle(kernel: tuple[str, str], name: str, where: str) -> None:
    layout, block = LAYOUTS[where]
    q, k, v = _inputs(layout.tokens)
    method = registry.get(name, KNOBS.get(name))
    attend = _attend(kernel)
    pattern = None if method.dynamic else method.pattern(layout, block, HEADS)
    out = method.attend(q, k, v, _identity, layout, block, attend, pattern)
    assert out.dtype == torch.bfloat16 and out.shape == v.shape
    assert _error(out, _oracle(name, where)) <= _allowed_error(layout.tokens)


def test_the_inputs_tell_the_methods_apart() -> None:
    """Else the comparison above would prove nothing: the oracles differ by far more than a kernel may err."""
    for where in ("testbed", "text"):
        allowed = _allowed_error(LAYOUTS[where][0].tokens)
        shipped = (
            "dense",
            "radial",
            "harmonic",
            "sta",
            "pa",
            "svg",
            "spatial",
            "temporal",
            "longlora",
            "sana",
            "random",
        )
        for name, other in itertools.combinations(shipped, 2):
            assert _error(_oracle(name, where), _oracle(other, where)) > 10 * allowed, (name, other)


# --- masks that every kernel must get right --------------------------------------------------------------------------


@pytest.mark.parametrize("where", list(LAYOUTS))
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_full_mask_is_dense_attention_and_a_one_block_mask_is_not(kernel: tuple[str, str], where: str) -> None:
    layout, block = LAYOUTS[where]
    q, k, v = _inputs(layout.tokens)
    attend = _attend(kernel)
    exact = scaled_dot_product_attention(*(x.float().transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
    full = dense_mask(layout, block)
    assert _error(attend(q, k, v, full), exact) <= _allowed_error(layout.tokens)
    diagonal = BlockMask(torch.eye(full.side, dtype=torch.bool)[None], block, layout.tokens)
    own_block = attend(q, k, v, diagonal)
    assert _error(own_block, exact) > 0.1
    for row in range(full.side):  # attention within a block on its own
        part = [x[:, _rows(full, row)].float().transpose(1, 2) for x in (q, k, v)]
        expected = scaled_dot_product_attention(*part).transpose(1, 2)
        assert _error(own_block[:, _rows(full, row)], expected) <= 2 * _allowed_error(layout.tokens)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", ["reference", "sdpa"])
def test_masks_of_any_block_size_with_heads_of_their_own(name: str, dtype: torch.dtype) -> None:
    layout = VideoLayout(5, 6, 9, 11)
    allowed = _allowed_error(layout.tokens, batch=2) if dtype == torch.bfloat16 else 1e-5
    q, k, v = _inputs(layout.tokens, dtype, batch=2)
    attend = _attend((name, "cpu"))
    for block in (1, 4, 31, 63, 64, 100, 128, 281, 1000):
        for heads in (1, HEADS):
            mask = _random_mask(layout, block, heads, seed=block)
            out = attend(q, k, v, mask)
            assert _error(out, reference.attend_float32(q, k, v, mask)) <= allowed, (block, heads)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_mask_for_each_head_on_a_batch_of_strided_inputs(kernel: tuple[str, str]) -> None:
    layout, block = LAYOUTS["large_blocks"]
    q, k, v = _strided(*_inputs(layout.tokens, batch=2))
    assert not q.is_contiguous()
    mask = _random_mask(layout, block, HEADS)
    out = _attend(kernel)(q, k, v, mask)
    assert _error(out, reference.attend_float32(q, k, v, mask)) <= _allowed_error(layout.tokens, batch=2)
    shared = reference.attend_float32(q, k, v, BlockMask(mask.blocks[:1], block, layout.tokens))
    assert _error(out, shared) > 0.1


def test_the_oracle_is_softmax_attention_token_by_token() -> None:
    layout, block = VideoLayout(3, 4, 5, 3), 7
    q, k, v = _inputs(layout.tokens, torch.float32)
    mask = _random_mask(layout, block, HEADS)
    for out in (reference.attend(q, k, v, mask), reference.attend_float32(q, k, v, mask)):
        for head in range(HEADS):
            for token in range(layout.tokens):
                kept = mask.blocks[head, token // block].repeat_interleave(block)[: layout.tokens]
                scores = (k[0, :, head].double() @ q[0, token, head].double() / SIZE**0.5)[kept]
                expected = scores.softmax(0) @ v[0, :, head].double()[kept]
                torch.testing.assert_close(out[0, token, head].double(), expected, atol=1e-5, rtol=1e-4)
    assert reference.attend(*(x.bfloat16() for x in (q, k, v)), mask).dtype == torch.bfloat16


# --- the blocks executed are the blocks planned ----------------------------------------------------------------------


def _patterns() -> dict[str, BlockMask]:
    return {
        "testbed": registry.get("radial", KNOBS["radial"]).block_mask(*LAYOUTS["testbed"]),
        "text": _random_mask(*LAYOUTS["text"], share=0.3),
        "large_blocks": _random_mask(*LAYOUTS["large_blocks"], share=0.3),
    }


@pytest.mark.parametrize("where", list(LAYOUTS))
@pytest.mark.parametrize("kernel", KERNELS)
def test_changing_a_block_of_keys_changes_exactly_the_planned_queries(kernel: tuple[str, str], where: str) -> None:
    mask = _patterns()[where]
    q, k, v = _inputs(mask.tokens)
    attend = _attend(kernel)
    before = attend(q, k, v, mask)
    side = mask.side
    for column in sorted({0, 1, side // 2, side - 2, side - 1}):
        for changed in ("keys", "values"):
            other_k, other_v = k.clone(), v.clone()
            if changed == "keys":
                other_k[:, _rows(mask, column)] *= -1
            else:
                other_v[:, _rows(mask, column)] += 8
            after = attend(q, other_k, other_v, mask)
            rows = [not torch.equal(after[:, _rows(mask, r)], before[:, _rows(mask, r)]) for r in range(side)]
            assert rows == mask.blocks[0, :, column].tolist(), (column, changed)


@pytest.mark.parametrize("heads", [1, HEADS])
@pytest.mark.parametrize("kernel", KERNELS)
def test_blocks_left_out_are_never_read(kernel: tuple[str, str], heads: int) -> None:
    """Keys and values that are NaN reach the output of a kernel that so much as multiplies them by zero."""
    layout, block = LAYOUTS["large_blocks"]
    module, attend = kernels.load(kernel[0]), _attend(kernel)
    if not module.SKIPS_BLOCKS:
        assert not module.skips(block)
        return
    assert module.skips(block)
    mask = _random_mask(layout, block, heads, share=0.3)
    batch = 1 if heads == 1 else 2  # shapes that are compiled already
    q, k, v = _inputs(layout.tokens, batch=batch)
    if heads > 1:
        q, k, v = _strided(q, k, v)
    clean = attend(q, k, v, mask)
    for row in range(mask.side):
        poisoned_k, poisoned_v = k.clone(), v.clone()
        for head in range(HEADS):
            for column in range(mask.side):
                if not mask.blocks[head % heads, row, column]:
                    poisoned_k[:, _rows(mask, column), head] = float("nan")
                    poisoned_v[:, _rows(mask, column), head] = float("nan")
        assert poisoned_v.isnan().any() or mask.blocks[:, row].all()
        out = attend(q, poisoned_k, poisoned_v, mask)
        assert torch.equal(out[:, _rows(mask, row)], clean[:, _rows(mask, row)]), row


def test_flex_lists_are_the_planned_blocks() -> None:
    for block in (1, 4, 48, 64, 100, 128, 200, 256):
        for tokens in (90, 128, 300, 512):
            side = -(-tokens // block)
            blocks = torch.rand(2, side, side, generator=torch.Generator().manual_seed(block)) < 0.5
            mask = BlockMask(blocks | torch.eye(side, dtype=torch.bool), block, tokens)
            lists = flex.block_lists(mask)
            token = torch.arange(tokens)
            for head in range(2):
                kept = mask.to_tokens()[head]
                for row in range(-(-tokens // 128)):
                    partial = lists.kv_indices[0, head, row, : lists.kv_num_blocks[0, head, row]].tolist()
                    whole = lists.full_kv_indices[0, head, row, : lists.full_kv_num_blocks[0, head, row]].tolist()
                    for column in range(-(-tokens // 128)):
                        part = kept[row * 128 : (row + 1) * 128, column * 128 : (column + 1) * 128]
                        assert (column in whole) <= bool(part.all())
                        assert (column in whole + partial) == bool(part.any())
                        assert (column in whole) + (column in partial) <= 1
                        if part.all() and (column + 1) * 128 <= tokens:
                            assert column in whole
                mod = lists.mask_mod(torch.tensor(0), torch.tensor(head), token[:, None], token[None])
                assert torch.equal(mod, kept)


# --- choosing a kernel -----------------------------------------------------------------------------------------------


def test_auto_takes_sdpa_on_a_cpu_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        name, attend = kernels.select("auto", CPU)
    assert (name, attend) == ("sdpa", sdpa.attend)
    assert "sdpa on cpu" in caplog.text


def test_auto_takes_flex_on_a_gpu_or_says_why_not(monkeypatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(flex, "unavailable", lambda device: None)
    assert kernels.select("auto", "cuda") == ("flex", flex.attend)
    monkeypatch.setattr(flex, "unavailable", lambda device: "no C compiler")
    assert kernels.select("auto", "cuda") == ("sdpa", sdpa.attend)
    assert "flex is unavailable: no C compiler" in caplog.text
    with pytest.raises(ValueError, match="'flex' is unavailable on cuda: no C compiler"):
        kernels.select("flex", "cuda")


def test_a_kernel_by_name_is_that_kernel() -> None:
    assert {"reference", "sdpa", "flex"} <= set(kernels.names())
    for name in ("reference", "sdpa"):
        assert kernels.select(name, "cpu") == (name, kernels.load(name).attend)
    with pytest.raises(ValueError, match="kernel 'flx' is unknown: did you mean 'flex'"):
        kernels.select("flx", "cpu")
    with pytest.raises(ValueError, match="'auto' on meta"):
        kernels.select("auto", "meta")


def test_flex_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert flex.unavailable(CPU) == "no C++ compiler (no-such-compiler) is installed"
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert flex.unavailable(CPU) == "no C++ compiler (g++) is installed"
    assert flex.unavailable(torch.device("meta")) is not None
    if not torch.cuda.is_available():
        assert flex.unavailable(torch.device("cuda")) == "PyTorch finds no CUDA GPU"


@pytest.mark.parametrize("kernel", KERNELS)
def test_inputs_that_do_not_belong_together_are_refused(kernel: tuple[str, str]) -> None:
    attend = kernels.load(kernel[0]).attend
    q = torch.zeros(1, 12, HEADS, SIZE)
    mask = dense_mask(VideoLayout(3, 2, 2), 4)
    three_heads = BlockMask(mask.blocks.expand(3, -1, -1), 4, 12)
    longer = dense_mask(VideoLayout(4, 2, 2), 4)
    for arguments, line in (
        ((q, q[:, :8], q, mask), r"k \(1, 8, 4, 32\)"),
        ((q, q, q[..., :16], mask), r"v \(1, 12, 4, 16\)"),
        ((q[0], q[0], q[0], mask), "batch, tokens, heads, head size"),
        ((q, q, q, longer), "mask of 16 tokens: q has 12"),
        ((q, q, q, three_heads), "mask of 3 heads: 1 or 4"),
        ((q, q, q, mask, q[:, :4]), r"out \(1, 4, 4, 32\)"),
    ):
        with pytest.raises(ValueError, match=line):
            attend(*arguments)
