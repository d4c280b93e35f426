"""Block masks: what they count, how they are hashed, and that planning the largest video stays small."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import twins

from benchmark import registry
from benchmark.layout import VideoLayout
from benchmark.masks import BlockMask, band_mask, block_lists, dense_mask, unit_density, unit_mask
from benchmark.windows import window_mask

ROOT = Path(__file__).resolve().parent.parent


def _random_mask(seed: int, tokens: int, block: int, heads: int = 1, share: float = 0.4) -> BlockMask:
    side = -(-tokens // block)
    blocks = torch.rand(heads, side, side, generator=torch.Generator().manual_seed(seed)) < share
    return BlockMask(blocks | torch.eye(side, dtype=torch.bool), block, tokens)


def _random_masks(number: int):
    draw = random.Random(4)
    for seed in range(number):
        yield _random_mask(seed, draw.randint(1, 90), draw.randint(1, 20), draw.randint(1, 4))


# --- what a mask counts ----------------------------------------------------------------------------------------------


def test_executed_pairs_and_density_equal_a_count_of_the_tokens() -> None:
    for mask in _random_masks(50):
        pairs = [
            sum(
                bool(mask.blocks[head, query // mask.block, key // mask.block])
                for query in range(mask.tokens)
                for key in range(mask.tokens)
            )
            for head in range(mask.heads)
        ]
        assert mask.executed_pairs() == pytest.approx(sum(pairs) / mask.heads, rel=1e-12)
        assert mask.density == pytest.approx(sum(pairs) / mask.heads / mask.tokens**2, rel=1e-12)
        assert mask.to_tokens().sum(dim=(1, 2)).tolist() == pairs
        assert int(mask.sizes().sum()) == mask.tokens and int(mask.sizes().min()) >= 1


def test_block_lists_are_the_kept_blocks_of_every_row() -> None:
    for mask in _random_masks(50):
        counts, indices = block_lists(mask.blocks)
        assert counts.dtype == indices.dtype == torch.int32
        for head in range(mask.heads):
            for row in range(mask.side):
                kept = [column for column in range(mask.side) if mask.blocks[head, row, column]]
                count = int(counts[head, row])
                assert indices[head, row, :count].tolist() == kept
                assert sorted(indices[head, row].tolist()) == list(range(mask.side))


def test_video_sparsity_counts_whole_blocks_of_video_only() -> None:
    for layout, block in twins.random_layouts(seed=6, number=50):
        if layout.video < block:
            with pytest.raises(ValueError, match=f"block={block}"):
                dense_mask(layout, block).video_block_sparsity(layout)
            continue
        mask = _random_mask(block, layout.tokens, block)
        whole = [n for n in range(mask.side) if (n + 1) * block <= layout.video]
        left_out = sum(not mask.blocks[0, row, column] for row in whole for column in whole)
        assert mask.video_block_sparsity(layout) == pytest.approx(left_out / len(whole) ** 2)


def test_a_mask_that_does_not_fit_is_refused_in_one_line() -> None:
    whole = torch.ones(1, 3, 3, dtype=torch.bool)
    for blocks, block, tokens in (
        (whole, 4, 13),
        (whole, 4, 8),
        (whole[0], 4, 12),
        (whole.float(), 4, 12),
        (whole[:, :2], 4, 12),
    ):
        with pytest.raises(ValueError, match="block mask") as refusal:
            BlockMask(blocks, block, tokens)
        assert "\n" not in str(refusal.value)
    empty_row = whole.clone()
    empty_row[0, 1] = False
    with pytest.raises(ValueError, match="query block 1 of head 0 attends to nothing"):
        BlockMask(empty_row, 4, 12)


# --- building blocks of methods --------------------------------------------------------------------------------------


def test_bands_equal_a_loop_over_the_tokens() -> None:
    draw = random.Random(1)
    for layout, block in twins.random_layouts(seed=21, number=50):
        width = draw.randint(0, layout.video)
        expected = twins.round_to_blocks(layout, block, lambda query, key, width=width: abs(query - key) <= width)
        assert np.array_equal(band_mask(layout, block, width).blocks[0].numpy(), expected), (layout, block, width)
    with pytest.raises(ValueError, match="width=-1"):
        band_mask(VideoLayout(2, 2, 2), 4, -1)


def test_masks_between_units_equal_a_loop_over_the_tokens() -> None:
    draw = random.Random(2)
    for layout, block in twins.random_layouts(seed=22, number=50):
        units = draw.randint(1, 8)
        unit = sorted(draw.randrange(units) for _ in range(layout.video))
        allowed = np.array([[draw.random() < 0.4 or a == b for b in range(units)] for a in range(units)])
        expected = twins.round_to_blocks(
            layout, block, lambda query, key, unit=unit, allowed=allowed: allowed[unit[query], unit[key]]
        )
        arguments = layout, block, torch.tensor(unit), torch.from_numpy(allowed)
        found = unit_mask(*arguments)
        assert np.array_equal(found.blocks[0].numpy(), expected), (layout, block)
        assert unit_density(*arguments) == found.density, (layout, block)
        tiles = registry.get("sta", {"tile": "2x3x2", "window": "2x2x1"})
        assert tiles.density(layout, block) == tiles.pattern(layout, block).mask.density, (layout, block)


@pytest.mark.parametrize("rounding", ["released", "cover"])
def test_windows_of_any_widths_equal_a_loop_over_the_tokens(rounding) -> None:
    draw = random.Random(3)
    for layout, block in twins.random_layouts(seed=23, number=50):
        size, sink = layout.frame_tokens, draw.random() < 0.5
        widths = [draw.randint(-1, size) for _ in range(layout.frames)]
        widths[0] = max(widths[0], 0)

        def kept(i: int, k: int, j: int, m: int, widths=widths, sink=sink) -> bool:
            return abs(k - m) <= widths[abs(i - j)] or (sink and j == 0)

        if rounding == "released":
            expected = twins.released_blocks(layout, block, kept)
        else:
            pairs = twins.round_to_blocks(
                layout, block, lambda a, b, size=size, kept=kept: kept(a // size, a % size, b // size, b % size)
            )
            expected = twins.always_kept(layout, block, pairs)
        found = window_mask(layout, block, torch.tensor(widths), sink, rounding)
        assert np.array_equal(found.blocks[0].numpy(), expected), (layout, block, widths, sink)
    with pytest.raises(ValueError, match="rounding='up'"):
        window_mask(VideoLayout(1, 2, 2), 4, torch.tensor([1]), True, "up")


# --- hashes ----------------------------------------------------------------------------------------------------------


def test_equal_masks_have_equal_hashes() -> None:
    for mask in _random_masks(20):
        again = BlockMask(mask.blocks.clone(), mask.block, mask.tokens)
        other_strides = BlockMask(mask.blocks.transpose(1, 2).contiguous().transpose(1, 2), mask.block, mask.tokens)
        assert mask.hash() == again.hash() == other_strides.hash()


def test_any_bit_block_size_length_or_number_of_heads_changes_the_hash() -> None:
    mask = _random_mask(0, 61, 8, heads=2)
    hashes = {mask.hash()}
    for head in range(2):
        for row in range(mask.side):
            for column in range(mask.side):
                blocks = mask.blocks.clone()
                blocks[head, row, column] ^= True
                if blocks.any(dim=2).all():
                    hashes.add(BlockMask(blocks, mask.block, mask.tokens).hash())
    assert len(hashes) > 2 * mask.side * (mask.side - 1)
    whole = torch.ones(1, 8, 8, dtype=torch.bool)
    shapes = [(whole, 8, 64), (whole, 8, 63), (whole, 9, 65), (whole, 9, 64), (whole.expand(2, 8, 8), 8, 64)]
    assert len({BlockMask(*shape).hash() for shape in shapes}) == len(shapes)


def test_two_resolutions_in_one_process_have_two_masks() -> None:
    # As many tokens and blocks in all, so that nothing but the proportions can tell them apart.
    layouts = [VideoLayout(8, 8, 16), VideoLayout(16, 8, 8), VideoLayout(4, 16, 16)]
    for name in ("radial", "sta", "pa", "harmonic", "spatial"):
        knobs = {"sta": {"tile": "2x4x4", "window": "2x1x1"}, "spatial": {"width": 1.0}}.get(name, {})
        method = registry.get(name, knobs)
        first = [method.block_mask(layout, 4).hash() for layout in layouts]
        assert len(set(first)) == len(layouts), name
        assert [method.block_mask(layout, 4).hash() for layout in reversed(layouts)] == first[::-1], name
        with_text = VideoLayout(8, 8, 15, 64)  # the same tokens, some of them text
        assert method.block_mask(with_text, 4).hash() not in first, name


# --- planning the largest video --------------------------------------------------------------------------------------

PLAN = """
import sys, time
import torch
from benchmark import registry
from benchmark.layout import VideoLayout

def kilobytes(key):
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(key)))

torch.set_num_threads(1)
method = registry.get(sys.argv[1])
method.pattern(VideoLayout(3, 4, 4, 5), 4)
before = kilobytes("VmRSS")
start = time.perf_counter()
pattern = method.pattern(VideoLayout(128, 45, 80, 256), 128, heads=24)
seconds = time.perf_counter() - start
print(pattern.mask.tokens, (kilobytes("VmHWM") - before) / 1000, seconds)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
@pytest.mark.parametrize("name", ["radial", "svg", "sta", "random"])
def test_planning_509_frames_of_hunyuanvideo_takes_less_than_500_mb(name) -> None:
    run = subprocess.run(
        [sys.executable, "-c", PLAN, name], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    tokens, megabytes, seconds = (float(word) for word in run.stdout.split())
    assert tokens == 461_056
    assert 12 < megabytes <= 500  # the mask alone is 13 MB
    assert seconds < 10  # about half a second on an idle core; generous, since others may use the machine
