"""Where the tokens of a video sit."""

from __future__ import annotations

import pytest
import twins

from benchmark.layout import VideoLayout


def test_coordinates_and_orders_equal_a_loop_over_the_grid() -> None:
    for layout, block in twins.random_layouts(seed=1, number=50):
        grid = [
            (frame, row, column)
            for frame in range(layout.frames)
            for row in range(layout.height)
            for column in range(layout.width)
        ]
        assert list(zip(*(axis.tolist() for axis in layout.coordinates()), strict=True)) == grid
        assert layout.video == len(grid) and layout.tokens == len(grid) + layout.text
        assert layout.frame_tokens * layout.frames == layout.video
        by_position = sorted(range(len(grid)), key=lambda token: (grid[token][1:], grid[token][0]))
        assert layout.token_major().tolist() == by_position
        assert layout.blocks(block) == len({token // block for token in range(layout.tokens)})


@pytest.mark.parametrize(
    "sizes, line",
    [
        ((0, 4, 4), "frames=0.*at least 1"),
        ((4, -1, 4), "height=-1.*at least 1"),
        ((4, 4, 2.0), "width=2.0.*whole number"),
        ((4, 4, 4, -1), "text=-1.*at least 0"),
        ((True, 4, 4), "frames=True"),
    ],
)
def test_impossible_sizes_are_refused(sizes, line) -> None:
    with pytest.raises(ValueError, match=line) as refusal:
        VideoLayout(*sizes)
    assert "\n" not in str(refusal.value)


def test_a_block_of_no_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="block=0"):
        VideoLayout(2, 2, 2).blocks(0)


def test_layouts_are_equal_exactly_when_all_their_sizes_are() -> None:
    layouts = {VideoLayout(4, 2, 3), VideoLayout(4, 3, 2), VideoLayout(4, 2, 3, 5), VideoLayout(4, 2, 3)}
    assert len(layouts) == 3
    assert str(VideoLayout(4, 2, 3, 5)) == "4x2x3 + 5 text" and str(VideoLayout(4, 2, 3)) == "4x2x3"
