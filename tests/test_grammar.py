"""The grammar: prompts, their inverse, and the text conditioning."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from benchmark.testbed.backgrounds import BACKGROUNDS
from benchmark.testbed.grammar import (
    TEXT_DIM,
    TEXT_TOKENS,
    WORDS,
    Description,
    ObjectDescription,
    describe,
    description_of,
    encode,
    encode_batch,
    parse,
)
from benchmark.testbed.world import MovingObject, Scene, sample_batch, to_scenes

RED_CIRCLE = MovingObject("red", "circle", "left", "quickly", 20.0, 20.0, 8.0)
BLUE_SQUARE = MovingObject("blue", "square", "up", "slowly", 40.0, 40.0, 8.0)
CYAN_CROSS = MovingObject("cyan", "cross", "down", "slowly", 20.0, 40.0, 8.0)


def test_prompts_read_as_english():
    one = Scene((RED_CIRCLE,), "cat", "left", 0.0)
    two = Scene((RED_CIRCLE, BLUE_SQUARE), "waves", "right", 0.0)
    three = Scene((RED_CIRCLE, BLUE_SQUARE, CYAN_CROSS), "astronaut", "up", 0.0)
    assert describe(one) == "a red circle moving left quickly over a photograph of a cat panning left"
    assert describe(two) == (
        "a red circle moving left quickly and a blue square moving up slowly over waves panning right"
    )
    assert describe(three) == (
        "a red circle moving left quickly, a blue square moving up slowly and a cyan cross moving down slowly "
        "over a photograph of an astronaut panning up"
    )


def test_parse_is_the_exact_inverse():
    scenes = to_scenes(sample_batch(np.random.Generator(np.random.PCG64(0)), 300))
    for scene in scenes:
        assert parse(describe(scene)) == description_of(scene)
        assert describe(parse(describe(scene))) == describe(scene)
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)


def test_parse_overlooks_case_spaces_and_a_full_stop():
    expected = Description((ObjectDescription("red", "circle", "left", "quickly"),), "cat", "left")
    assert parse("A red  Circle moving left quickly over a photograph of a cat panning left.") == expected


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a rde circle moving left slowly over waves panning up", "colour 'rde'; did you mean 'red'"),
        ("a red sqare moving left slowly over waves panning up", "shape 'sqare'; did you mean 'square'"),
        ("a red circle moving lef slowly over waves panning up", "direction 'lef'; did you mean 'left'"),
        ("a red circle moving left slow over waves panning up", "speed 'slow'; did you mean 'slowly'"),
        ("a red circle moving left slowly over wave panning up", "background 'wave'; did you mean 'waves'"),
        ("a red circle moving left slowly over waves panning upp", "pan 'upp'; did you mean 'up'"),
        ("a red circle over waves panning up", "expected 'a COLOUR SHAPE moving DIRECTION SPEED'"),
        ("a red circle moving left slowly", "no ' over BACKGROUND'"),
        ("a red circle moving left slowly over waves", "no ' panning DIRECTION'"),
        (
            "a red circle moving left slowly and a red cross moving left slowly over waves panning up",
            "colours of a prompt must differ",
        ),
        (
            " and ".join(f"a {colour} cross moving up slowly" for colour in ("red", "green", "blue", "cyan"))
            + " over waves panning up",
            "4 objects; at most 3",
        ),
    ],
)
def test_wrong_prompts_are_refused_in_one_line_with_the_nearest_word(prompt: str, words: str):
    with pytest.raises(ValueError) as refusal:
        parse(prompt)
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


def test_the_conditioning_binds_words_to_clauses():
    tokens = encode(["a red circle moving left quickly and a blue square moving up slowly over waves panning right"])
    assert tokens.shape == (1, TEXT_TOKENS, TEXT_DIM) and tokens.dtype == torch.float32
    told = [{WORDS[index] for index in token.nonzero().flatten()} for token in tokens[0]]
    assert told == [
        {"first", "red", "circle", "left", "quickly"},
        {"second", "blue", "square", "up", "slowly"},
        {"nothing"},
        {"waves", "panning right"},
    ]
    assert tokens.unique().tolist() == [0.0, 1.0]


def test_the_vectorised_conditioning_is_identical():
    batch = sample_batch(np.random.Generator(np.random.PCG64(1)), 300)
    prompts = [describe(scene) for scene in to_scenes(batch)]
    assert torch.equal(encode(prompts), encode_batch(batch))
    assert torch.equal(encode([parse(prompt) for prompt in prompts]), encode_batch(batch))


def test_the_conditioning_tells_different_prompts_apart():
    words = list(WORDS)
    assert len(set(words)) == TEXT_DIM == len(words)
    batch = sample_batch(np.random.Generator(np.random.PCG64(2)), 200)
    descriptions = {description_of(scene) for scene in to_scenes(batch)}
    rows = {tuple(row.flatten().tolist()) for row in encode_batch(batch)}
    assert len(rows) == len(descriptions)
    # The order of depth is told too.
    scene = Scene((RED_CIRCLE, BLUE_SQUARE), "waves", "right", 0.0)
    swapped = dataclasses.replace(scene, objects=scene.objects[::-1])
    first, second = encode([describe(scene), describe(swapped)])
    assert not torch.equal(first[[1, 0, 2, 3]], second)
