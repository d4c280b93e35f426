"""The small English grammar of the testbed: a scene as a sentence, a sentence as attributes, and both as text tokens.

    prompt      = objects " over " background " panning " direction
    objects     = object | object " and " object | object ", " object " and " object      (front object first)
    object      = "a " colour " " shape " moving " direction " " speed
    background  = "waves" | "checks" | "stripes" | "clouds" | "a photograph of a cat" | ...

The text conditioning is one token a clause, so that a model with cross-attention sees which attributes belong together.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Sequence

import torch

from benchmark.testbed.backgrounds import BACKGROUNDS, PHOTOGRAPHS
from benchmark.testbed.world import COLOURS, DIRECTIONS, MAX_OBJECTS, PANS, SHAPES, SPEEDS, Scene, SceneBatch

NOTHING = "nothing"
PLACES = ("first", "second", "third")  # the order of depth: the first object is in front
# Every word of the conditioning, grouped; an index into WORDS is a dimension of a text token.
WORDS = (
    NOTHING,
    *PLACES,
    *COLOURS,
    *SHAPES,
    *DIRECTIONS,
    *SPEEDS,
    *BACKGROUNDS,
    *(f"panning {pan}" for pan in PANS),
)
TEXT_TOKENS = MAX_OBJECTS + 1
TEXT_DIM = len(WORDS)

# Indefinite articles and the noun a photograph is introduced with, for every background.
BACKGROUND_PHRASES = {
    name: (f"a photograph of {'an' if name[0] in 'aeiou' else 'a'} {name}" if name in PHOTOGRAPHS else name)
    for name in BACKGROUNDS
} | {"coffee": "a photograph of a cup of coffee"}

_OBJECT_FORM = "a COLOUR SHAPE moving DIRECTION SPEED"
_PROMPT_FORM = f"{_OBJECT_FORM} [and ...] over BACKGROUND panning DIRECTION"


@dataclasses.dataclass(frozen=True)
class ObjectDescription:
    """What a prompt says of one object, in the words of the world's vocabularies."""

    colour: str
    shape: str
    direction: str
    speed: str


@dataclasses.dataclass(frozen=True)
class Description:
    """What a prompt says: one to three objects, front object first, the background's name and its pan."""

    objects: tuple[ObjectDescription, ...]
    background: str
    pan: str


def description_of(scene: Scene) -> Description:
    """The part of a scene's ground truth that its prompt tells."""
    objects = tuple(ObjectDescription(item.colour, item.shape, item.direction, item.speed) for item in scene.objects)
    return Description(objects=objects, background=scene.background, pan=scene.pan)


def describe(scene: Scene | Description) -> str:
    """The prompt of a scene, e.g. "a red circle moving left quickly over waves panning right"."""
    clauses = [f"a {item.colour} {item.shape} moving {item.direction} {item.speed}" for item in scene.objects]
    objects = " and ".join([", ".join(clauses[:-1]), clauses[-1]] if len(clauses) > 1 else clauses)
    return f"{objects} over {BACKGROUND_PHRASES[scene.background]} panning {scene.pan}"


def parse(prompt: str) -> Description:
    """Read a prompt back; the exact inverse of `describe`. Case, spaces and a final full stop do not matter.

    Raises ValueError with the clause, the wrong word and the nearest right one.
    """
    text = " ".join(prompt.lower().replace(",", " , ").split()).removesuffix(".")
    objects_text, over, rest = text.partition(" over ")
    if not over:
        raise ValueError(f"prompt '{prompt}': no ' over BACKGROUND'; expected '{_PROMPT_FORM}'")
    background_text, panning, pan = rest.rpartition(" panning ")
    if not panning:
        raise ValueError(f"prompt '{prompt}': no ' panning DIRECTION' after the background; expected '{_PROMPT_FORM}'")
    clauses = re.split(r" , and | and | , ", objects_text)
    if len(clauses) > MAX_OBJECTS:
        raise ValueError(f"prompt '{prompt}': {len(clauses)} objects; at most {MAX_OBJECTS} are allowed")
    objects = tuple(_parse_object(clause) for clause in clauses)
    colours = [item.colour for item in objects]
    if len(set(colours)) < len(colours):
        raise ValueError(f"prompt '{prompt}': two objects share a colour; the colours of a prompt must differ")
    phrases = {phrase: name for name, phrase in BACKGROUND_PHRASES.items()}
    background = phrases[_known(background_text, phrases, "background")]
    return Description(objects=objects, background=background, pan=_known(pan, PANS, "direction of the pan"))


def encode(prompts: Sequence[str] | Sequence[Description]) -> torch.Tensor:
    """Text conditioning of prompts: float32 (batch, TEXT_TOKENS, TEXT_DIM), zeros and ones.

    Tokens 0 to 2 are the object clauses (place in depth, colour, shape, direction, speed, or only "nothing"), token 3
    the background clause (background, pan).
    """
    tokens = torch.zeros(len(prompts), TEXT_TOKENS, TEXT_DIM)
    for row, prompt in enumerate(prompts):
        told = parse(prompt) if isinstance(prompt, str) else prompt
        for slot in range(MAX_OBJECTS):
            words = [NOTHING]
            if slot < len(told.objects):
                words = [PLACES[slot], *dataclasses.astuple(told.objects[slot])]
            tokens[row, slot, [WORDS.index(word) for word in words]] = 1.0
        last = [WORDS.index(told.background), WORDS.index(f"panning {told.pan}")]
        tokens[row, MAX_OBJECTS, last] = 1.0
    return tokens


def encode_batch(batch: SceneBatch) -> torch.Tensor:
    """The same conditioning straight from a scene batch, on its device, without a loop over clips."""
    place = torch.arange(MAX_OBJECTS, device=batch.device).expand_as(batch.colour)
    columns = (
        place + WORDS.index(PLACES[0]),
        batch.colour + WORDS.index(next(iter(COLOURS))),
        batch.shape + WORDS.index(SHAPES[0]),
        batch.direction + WORDS.index(next(iter(DIRECTIONS))),
        batch.speed + WORDS.index(next(iter(SPEEDS))),
    )
    told = torch.stack([torch.where(batch.present, column, WORDS.index(NOTHING)) for column in columns], dim=-1)
    tokens = torch.zeros(len(batch), TEXT_TOKENS, TEXT_DIM, device=batch.device)
    tokens[:, :MAX_OBJECTS].scatter_(-1, told, 1.0)
    tokens[:, MAX_OBJECTS].scatter_(-1, (batch.background + WORDS.index(BACKGROUNDS[0]))[:, None], 1.0)
    tokens[:, MAX_OBJECTS].scatter_(-1, (batch.pan + WORDS.index(f"panning {PANS[0]}"))[:, None], 1.0)
    return tokens


def _parse_object(clause: str) -> ObjectDescription:
    words = clause.split()
    if len(words) != 6 or words[0] != "a" or words[3] != "moving":
        raise ValueError(f"clause '{clause}': expected '{_OBJECT_FORM}'")
    return ObjectDescription(
        colour=_known(words[1], COLOURS, "colour"),
        shape=_known(words[2], SHAPES, "shape"),
        direction=_known(words[4], DIRECTIONS, "direction"),
        speed=_known(words[5], SPEEDS, "speed"),
    )


def _known(word: str, allowed: Iterable[str], kind: str) -> str:
    """`word` if it is allowed; otherwise a ValueError with the nearest right word."""
    options = list(allowed)
    if word in options:
        return word
    nearest = max(options, key=lambda option: difflib.SequenceMatcher(None, word, option).ratio())
    raise ValueError(f"unknown {kind} '{word}'; did you mean '{nearest}'? Allowed: {', '.join(options)}")
