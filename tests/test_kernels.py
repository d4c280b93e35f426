"""Every kernel under every method against the float32 oracle, and proof that the blocks executed are those planned.

Methods are found as the benchmark finds them, so that a file dropped into ``methods/`` is tested under its own name
(``pytest -k my_method``).
"""

from __future__ import annotations

import functools
import itertools
import logging
import types

import pytest
import torch
from torch.nn.attention import SDPBackend
from torch.nn.functional import scaled_dot_product_attention

from benchmark import kernels, registry
from benchmark.kernels import flash4, flex, gathered, reference, sdpa
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


def _needs(kernel: tuple[str, str], block: int, size: int = SIZE) -> None:
    """Skips what a kernel says that it can't take."""
    reason = kernels.load(kernel[0]).unsupported(block, torch.bfloat16, size)
    if reason is not None:
        pytest.skip(reason)


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
    _needs(kernel, block)
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
    _needs(kernel, block)
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


def test_masked_runs_of_sdpa_take_rows_of_several_frames_that_see_few_keys() -> None:
    layout = VideoLayout(16, 8, 8)
    mask = registry.get("radial", {"decay": 0.3}).block_mask(layout, 4)
    chosen = sdpa._choose_runs(mask, 64)
    assert sorted(torch.cat(chosen).tolist()) == list(range(mask.side))
    frames = {len({block // 16 for block in run.tolist()}) for run in chosen}
    assert len(frames) == 1 and 1 < frames.pop() < 16 and not any((run.diff() == 1).all() for run in chosen)
    runs = list(sdpa._masked_runs(mask, torch.float32))
    seen = sum(len(run.rows) * len(run.keys) for run in runs) / layout.tokens**2
    assert mask.density < seen < 0.8
    sequence = BlockMask(mask.blocks, mask.block, mask.tokens)  # frames are not known
    assert all(isinstance(run.rows, slice) and run.keys is None for run in sdpa._masked_runs(sequence, torch.float32))
    inputs = [x.clone().requires_grad_() for x in _inputs(layout.tokens, torch.float32)]
    out = sdpa.attend(*inputs, mask)
    assert _error(out.detach(), reference.attend_float32(*_inputs(layout.tokens, torch.float32), mask)) <= 1e-5
    gradients = [torch.autograd.grad(of.square().sum(), inputs) for of in (out, sdpa.attend(*inputs, sequence))]
    assert all(_error(one, other) <= 1e-5 for one, other in zip(*gradients, strict=True))


@pytest.mark.parametrize("where", list(LAYOUTS))
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_mask_for_each_head_on_a_batch_of_strided_inputs(kernel: tuple[str, str], where: str) -> None:
    layout, block = LAYOUTS[where]
    _needs(kernel, block)
    if kernel[0] == "flex" and where != "large_blocks":
        pytest.skip("it compiles anew for every shape")
    q, k, v = _strided(*_inputs(layout.tokens, batch=2))
    assert not q.is_contiguous()
    mask = _random_mask(layout, block, HEADS)
    out = _attend(kernel)(q, k, v, mask)
    assert _error(out, reference.attend_float32(q, k, v, mask)) <= _allowed_error(layout.tokens, batch=2)
    shared = reference.attend_float32(q, k, v, BlockMask(mask.blocks[:1], block, layout.tokens))
    assert _error(out, shared) > 0.1


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("kernel", KERNELS)
def test_head_sizes_and_lengths_that_are_no_multiple_of_a_block(kernel: tuple[str, str], size: int) -> None:
    _needs(kernel, 128, size)
    if kernel[0] == "flex":
        pytest.skip("it compiles anew for every shape; its lists are tested apart")
    generator = torch.Generator().manual_seed(size)
    for tokens, block in ((90, 128), (385, 128), (512, 128), (700, 256), (650, 100)):
        dense = block % 128 != 0  # such blocks are for masks that keep everything
        heads = 2 if tokens == 700 else 1
        side = -(-tokens // block)
        blocks = torch.rand(heads, side, side, generator=generator) < (2 if dense else 0.4)
        mask = BlockMask(blocks | torch.eye(side, dtype=torch.bool), block, tokens)
        q, k, v = (1.5 * torch.randn(3, 2, tokens, 2, size, generator=generator)).bfloat16()
        exact = reference.attend_float32(q, k, v, mask)
        everything = BlockMask(torch.ones(1, 1, 1, dtype=torch.bool), tokens, tokens)
        own = scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
        allowed = 2 * _error(own, reference.attend_float32(q, k, v, everything))
        assert _error(_attend(kernel)(q, k, v, mask), exact) <= allowed, (tokens, block)


def _gradients(attend, q, k, v, dout):
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    return torch.autograd.grad(attend(*leaves), leaves, dout)


@pytest.mark.parametrize("heads", [1, HEADS])
@pytest.mark.parametrize("where", list(LAYOUTS))
@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients_equal_those_of_the_oracle(kernel: tuple[str, str], where: str, heads: int) -> None:
    """Of queries, keys and values, with a block of keys that nobody sees (and, with text, a short last block)."""
    name, device = kernel
    if (name, device) == ("flex", "cpu"):
        pytest.skip("FlexAttention trains on GPUs only")
    layout, block = LAYOUTS[where]
    _needs(kernel, block)
    q, k, v = _inputs(layout.tokens, batch=2)
    dout = torch.randn(v.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    blocks = _random_mask(layout, block, heads).blocks.clone()
    blocks[:, :, 2] = False
    blocks[:, 2, 1] = True
    mask = BlockMask(blocks, block, layout.tokens)
    full = dense_mask(layout, block)
    wide = [x.float() for x in (q, k, v, dout)]

    def plain(q, k, v):
        return scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)

    exact_dense = _gradients(lambda *x: reference.attend(*x, full), *wide)
    own = [_error(*pair) for pair in zip(_gradients(plain, q, k, v, dout), exact_dense, strict=True)]
    module = kernels.load(name)
    for each, exact in (
        (full, exact_dense),
        (mask, _gradients(lambda *x: reference.attend(*x, mask), *wide)),
    ):
        there = each.to(device)
        inputs = [x.to(device) for x in (q, k, v, dout)]
        found = _gradients(lambda *x, there=there: module.attend(*x, there), *inputs)
        for what, one, other, error in zip("qkv", found, exact, own, strict=True):
            assert _error(one.cpu(), other) <= 2 * error, what
        if each is mask:
            unseen = _rows(mask, 2)
            assert not found[1][:, unseen].any() and not found[2][:, unseen].any()


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
    _needs(kernel, mask.block)
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
    block = 64 if kernel[0] == "gathered" else block  # the largest that it takes
    _needs(kernel, block)
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


@pytest.mark.parametrize("transposed", [False, True])
def test_gathered_lists_are_the_planned_blocks(transposed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathered, "_LISTED_AT_ONCE", 2000)  # in several parts
    for block in (4, 8, 64):
        for tokens in (90, 256, 1030):
            side, each = -(-tokens // block), 64 // block
            kept = torch.rand(2, side, side, generator=torch.Generator().manual_seed(block)) < 0.2
            kept |= torch.eye(side, dtype=torch.bool)
            found = gathered.lists(BlockMask(kept, block, tokens), transposed)
            rows = kept.transpose(1, 2) if transposed else kept
            for head in range(2):
                for tile in range(-(-side // each)):
                    mine = rows[head, tile * each : (tile + 1) * each]
                    count = found.counts[head, tile]
                    index, bits = found.index[head, tile, :count], found.bits[head, tile, :count]
                    assert index.tolist() == mine.any(dim=0).nonzero()[:, 0].tolist()
                    for row, seen in enumerate(mine):
                        assert torch.equal((bits >> row) & 1 == 1, seen[index])


# --- flash4's ways to run the same attention --------------------------------------------------------------------------

FLASH4_LACKS = flash4.unavailable(torch.device("cuda"))


def _with_text(tokens: int = 9 * 128 - 50, period: float | None = None) -> BlockMask:
    """A mask whose last query blocks see everything, and all of whose queries see the last key blocks."""
    side = -(-tokens // 128)
    blocks = torch.rand(1, side, side, generator=torch.Generator().manual_seed(5)) < 0.3
    blocks |= torch.eye(side, dtype=torch.bool)
    blocks[:, -2:] = True
    blocks[:, :, -2:] = True
    return BlockMask(blocks, 128, tokens, period)


@pytest.mark.skipif(FLASH4_LACKS is not None, reason=f"flash4: {FLASH4_LACKS}")
@pytest.mark.parametrize("name", [pytest.param(name, id=f"{name}_cuda") for name in flash4.VARIANTS])
def test_flash4_variants_are_the_same_attention(name: str) -> None:
    layout, block = LAYOUTS["large_blocks"]
    whole, short = _with_text(9 * 128, period=2.25), _with_text(period=2.25)
    for mask in (whole, short, _random_mask(layout, block, HEADS), dense_mask(layout, block)):
        q, k, v = _inputs(mask.tokens)
        out = torch.full_like(v, float("nan")).cuda()
        there = [x.cuda() for x in (q, k, v)]
        for _ in range(2):  # the second call finds its lists
            flash4.attend_as(flash4.VARIANTS[name], *there, mask.to("cuda"), out=out)
        exact = reference.attend_float32(q, k, v, mask)
        assert _error(out.cpu(), exact) <= _allowed_error(mask.tokens)
        weight = torch.randn(v.shape, generator=torch.Generator().manual_seed(6))
        leaves, plain = [x.requires_grad_() for x in there], [x.float().requires_grad_() for x in (q, k, v)]
        trained = flash4.attend_as(flash4.VARIANTS[name], *leaves, mask.to("cuda"))
        assert _error(trained.detach().cpu(), exact) <= _allowed_error(mask.tokens)
        found = torch.autograd.grad(trained, leaves, weight.to("cuda", trained.dtype))
        expected = torch.autograd.grad(reference.attend_float32(*plain, mask), plain, weight)
        for one, other in zip(found, expected, strict=True):
            assert _error(one.cpu(), other) <= 2 * _allowed_error(mask.tokens)


def test_flash4_refuses_what_it_cannot_take_in_one_line() -> None:
    assert flash4.unavailable(CPU) == "flash-attn-4 runs on NVIDIA GPUs only"
    assert flash4.unsupported(256, torch.bfloat16, 64) is None
    for block, dtype, size, line in (
        (64, torch.bfloat16, 64, "blocks of a multiple of 128 tokens, not 64"),
        (128, torch.float32, 64, "torch.bfloat16, not torch.float32"),
        (128, torch.bfloat16, 192, "8 to 128 channels, a multiple of 8, not 192"),
        (128, torch.bfloat16, 20, "8 to 128 channels, a multiple of 8, not 20"),
    ):
        assert line in flash4.unsupported(block, dtype, size)
    q = torch.zeros(1, 12, HEADS, SIZE)
    with pytest.raises(ValueError, match="q: flash4 takes torch.bfloat16, not torch.float32"):
        flash4.attend(q, q, q, dense_mask(VideoLayout(3, 2, 2), 4))
    with pytest.raises(ValueError, match="q: flash4 runs on NVIDIA GPUs only, not on cpu"):
        flash4.attend(*(q.bfloat16(),) * 3, dense_mask(VideoLayout(3, 2, 2), 4))


@pytest.mark.parametrize("tokens", [9 * 128, 9 * 128 - 50])
@pytest.mark.parametrize("variant", [*flash4.VARIANTS.values(), flash4.Variant(columns=2)])
def test_flash4_walks_every_block_of_its_tiles_from_first_to_last(variant: flash4.Variant, tokens: int) -> None:
    mask = _with_text(tokens, period=2.25)
    blocks, last = mask.blocks[0], mask.side - 1
    places = torch.arange(mask.side)
    if variant.columns:
        there, back = flash4._Rows(variant.columns)(mask)
        assert there[back].equal(places)
        # text first, but a short block last; then the first blocks of all frames: 0, 3 (2.25 on), 5 (4.5), 7 (6.75)
        video = sorted(range(mask.side - 2), key=lambda tile: (int(tile % 2.25) // variant.columns, tile))
        assert there.tolist() == ([last - 1, last, *video] if tokens % 128 == 0 else [last - 1, *video, last])
        places = there
    for transposed, moved in ((False, False), (False, True), (True, True)):
        counts, indices = flash4.walks(mask, variant, moved and variant.columns > 0, transposed)
        for row, (count, walk) in enumerate(zip(counts[0].tolist(), indices[0].tolist(), strict=True)):
            tile = int(places[row])
            seen = blocks[:, tile] if transposed else blocks[tile]
            walked = walk[:count] if transposed else walk[:count][::-1]  # the forward pass goes from the end
            walked = [int(places[place]) for place in walked] if moved else walked
            assert sorted(walked) == seen.nonzero()[:, 0].tolist()
            if tokens % 128 and not transposed:
                assert walked.pop(0) == last
            assert walked == sorted(walked)


def test_flash4_moves_whole_tiles_there_and_back() -> None:
    mask = _with_text(period=2.25)
    there, back = flash4._Rows(2)(mask)
    wide = torch.randn(2, mask.tokens, 3, 2, 16, generator=torch.Generator().manual_seed(0))
    for x in (wide[:, :, 1], wide[:1, :, 0].contiguous()):
        found = flash4.moved(x, there)
        tiles = [x[:, tile * 128 : (tile + 1) * 128] for tile in there.tolist()]
        assert torch.equal(found, torch.cat(tiles, dim=1))
        out = torch.full_like(wide[: len(x)], float("nan"))[:, :, 2]
        assert flash4.moved(found, back, out) is out and torch.equal(out, x)
    leaf = wide[:1, :, 0].double().requires_grad_()
    weight = torch.randn(leaf.shape, generator=torch.Generator().manual_seed(1)).double()
    (flash4._Moved.apply(leaf, there, back) * weight).sum().backward()
    assert torch.equal(leaf.grad, flash4.moved(weight, back))


def test_flash4_takes_columns_only_where_the_mask_has_a_period_and_one_grid() -> None:
    columns, frames = flash4.VARIANTS["columns5"], flash4.VARIANTS["frames"]
    one, dense = _with_text(period=2.25), dense_mask(*LAYOUTS["large_blocks"])
    per_head = BlockMask(one.blocks.expand(2, -1, -1), one.block, one.tokens, one.period)
    assert flash4._fitting(columns, one) == columns and flash4.differ(one)
    for mask in (_with_text(), per_head, dense):
        assert flash4._fitting(columns, mask) == frames and not flash4.differ(mask)
    megabytes = 50 * 2**20  # an H100's cache; 512 bytes a token are keys and values of 128 channels
    assert flash4.preferred(512 * 115_456, megabytes) == frames
    assert flash4.preferred(512 * 461_056, megabytes) == columns
    assert one.to("cpu").period == 2.25
    layout = VideoLayout(6, 8, 20)
    assert registry.get("radial").block_mask(layout, 64).period == 2.5


@pytest.mark.parametrize("megabytes", [1, 0])
def test_flash4_prepares_just_what_a_forward_pass_reads(megabytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = types.SimpleNamespace(L2_cache_size=megabytes * 2**20)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: cache)
    monkeypatch.setattr(flash4, "_tensors", lambda counts, indices: (counts, indices))
    mask = _with_text(period=2.25)
    k = torch.zeros(1, mask.tokens, HEADS, SIZE, dtype=torch.bfloat16)
    flash4.prepare(mask, k)
    made = dict(mask._forms)
    variant = flash4.VARIANTS["frames" if megabytes else "columns5"]
    lists, rows = flash4._forms(mask, variant)
    assert mask._forms == made and len(made) == (1 if megabytes else 2) and (rows is None) == bool(megabytes)
    expected = flash4.walks(mask, variant)
    assert all(one.equal(other) for one, other in zip(lists, expected, strict=True))
    dense = dense_mask(*LAYOUTS["large_blocks"])
    flash4.prepare(dense, k, flash4.VARIANTS["columns5"])
    assert not dense._forms


def test_gathered_names_the_kernel_that_it_hands_dense_masks_to(monkeypatch: pytest.MonkeyPatch) -> None:
    told = [name for name in kernels.names() if hasattr(kernels.load(name), "DENSE_KERNEL")]
    assert told == ["gathered"]
    asked = []
    named = kernels.load(gathered.DENSE_KERNEL)
    monkeypatch.setattr(named, "attend", lambda *tensors: asked.append(tensors))
    x = torch.randn(1, 16, 2, 16, generator=torch.Generator().manual_seed(0))
    gathered.attend(x, x, x, BlockMask(torch.ones(1, 4, 4, dtype=torch.bool), 4, 16))
    assert len(asked) == 1


def test_other_kernels_prepare_what_their_calls_read() -> None:
    mask, dense = _random_mask(*LAYOUTS["text"]), dense_mask(*LAYOUTS["text"])
    k = torch.zeros(1, mask.tokens, HEADS, SIZE)
    for module, form in ((sdpa, "sdpa torch.float32"), (flex, "flex False"), (gathered, "gathered")):
        module.prepare(mask, k)
        assert form in mask._forms
    sdpa.attend(k, k, k, mask)
    assert [name for name in mask._forms if name.startswith("sdpa t")] == ["sdpa torch.float32"]
    for module in (sdpa, gathered):
        module.prepare(dense, k)
    assert not dense._forms


@pytest.mark.parametrize("name", ["text", "large_blocks"])
def test_a_variant_of_sdpa_computes_by_its_backend_alone(name: str) -> None:
    block = 64
    layout = LAYOUTS[name][0]
    side = layout.blocks(block)
    sparse = BlockMask(torch.eye(side, dtype=torch.bool)[None], block, layout.tokens)
    q = torch.randn(1, layout.tokens, HEADS, SIZE, generator=torch.Generator().manual_seed(0))
    for mask in (sparse, dense_mask(layout, block)):
        expected = sdpa.attend(q, q, q, mask)
        for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH):  # which a CPU has
            with sdpa.recorded() as seen:
                found = sdpa.attend_as(backend, q, q, q, mask)
            assert seen == {backend.name} and torch.allclose(found, expected, atol=1e-5)
    with sdpa.recorded() as seen, pytest.raises(ValueError, match="MATH takes blocks of 64 tokens or more, not 4"):
        sdpa.attend_as(SDPBackend.MATH, q, q, q, BlockMask(torch.eye(layout.blocks(4)).bool()[None], 4, layout.tokens))
    sdpa.attend(q, q, q, sparse)
    assert not seen and not sdpa._recorders and not sdpa.differ(sparse)
    assert set(sdpa.VARIANTS) == {"cudnn", "flash"}


def test_what_follows_from_a_mask_is_made_once() -> None:
    mask, made = _random_mask(*LAYOUTS["text"]), []

    def build(mask: BlockMask) -> object:
        made.append(mask)
        return object()

    assert mask.form("a", build) is mask.form("a", build)
    assert mask.form("b", build) is not mask.form("a", build)
    assert made == [mask, mask]
    assert mask.to("cpu") is mask
    assert not mask.is_dense and dense_mask(*LAYOUTS["text"]).is_dense


# --- choosing a kernel -----------------------------------------------------------------------------------------------


def test_auto_takes_sdpa_on_a_cpu_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        name, attend = kernels.select("auto", CPU)
    assert (name, attend) == ("sdpa", sdpa.attend)
    assert "sdpa on cpu" in caplog.text


def test_auto_takes_the_fastest_on_a_gpu_or_says_why_not(monkeypatch, caplog: pytest.LogCaptureFixture) -> None:
    for module in (flash4, gathered, flex):
        monkeypatch.setattr(module, "unavailable", lambda device: None)
    assert kernels.select("auto", "cuda", block=128, dtype=torch.bfloat16, head_dim=128) == ("flash4", flash4.attend)
    assert kernels.select("auto", "cuda") == ("flash4", flash4.attend)
    assert not caplog.records
    assert kernels.select("auto", "cuda", block=4) == ("gathered", gathered.attend)
    assert (
        "flash4 is unavailable: flash4 takes sparse masks in blocks of a multiple of 128 tokens, not 4" in caplog.text
    )
    assert kernels.select("auto", "cuda", block=2) == ("flex", flex.attend)
    assert "gathered is unavailable: blocks of 2 tokens: 4, 8, 16, 32, 64 are allowed" in caplog.text
    assert kernels.select("auto", "cuda", dtype=torch.float32) == ("flex", flex.attend)
    with pytest.raises(ValueError, match="'flash4' is unavailable on cuda: .* not 4"):
        kernels.select("flash4", "cuda", block=4)
    monkeypatch.setattr(flash4, "unavailable", lambda device: "no such GPU")
    assert kernels.select("auto", "cuda") == ("flex", flex.attend)
    assert "flash4 is unavailable: no such GPU" in caplog.text
    monkeypatch.setattr(flex, "unavailable", lambda device: "no C compiler")
    assert kernels.select("auto", "cuda") == ("sdpa", sdpa.attend)
    assert "flex is unavailable: no C compiler" in caplog.text
    with pytest.raises(ValueError, match="'flex' is unavailable on cuda: no C compiler"):
        kernels.select("flex", "cuda")


def test_a_kernel_by_name_is_that_kernel() -> None:
    assert set(kernels.names()) == {"reference", "sdpa", "flex", "flash4", "gathered"}
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
