"""How a testbed is tuned: the same for every method of an experiment, so that tuned rows can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from benchmark.registry import nearest

LORA, FULL = "lora", "full"
PLAIN = "plain"
"""The style of clips as the world draws them."""


@dataclass(frozen=True)
class TuningSettings:
    """The settings of one tuning, but for the method and the length, which the cell states.

    Args:
        kind: ``lora`` trains an adapter on q, k, v and o of the self-attention; ``full`` trains all weights.
        rank: rank of the adapter; its alpha is the same, so that the adapter's product counts as it is.
        steps: optimizer steps.
        batch: clips a step.
        rate: highest learning rate of AdamW; a full tuning needs a tenth of an adapter's or less.
        warmup: share of the steps over which the rate rises; it falls to nothing along a cosine after that.
        dense_layers: first layers that attend densely whatever the method (the paper's two dense blocks).
        seed: seed of the adapter, the clips, their noise and its levels.
        style: how the clips are drawn; see ``style``.

    Raises:
        ValueError: a setting is out of its range, in one line with what is allowed.
    """

    kind: str = LORA
    rank: int = 4
    steps: int = 600
    batch: int = 4
    rate: float = 4e-3
    warmup: float = 0.05
    dense_layers: int = 2
    seed: int = 0
    style: str = PLAIN

    def __post_init__(self) -> None:
        from benchmark.tuning.style import names

        for name, allowed in (("kind", [LORA, FULL]), ("style", names())):
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"tuned.{name}={value!r}: unknown: {nearest(str(value), allowed)}")
        for field in fields(self):
            value, number = getattr(self, field.name), type(field.default)
            if number is int and (isinstance(value, bool) or not isinstance(value, int)):
                raise ValueError(f"tuned.{field.name}={value!r}: a whole number is needed")
            if number is float and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise ValueError(f"tuned.{field.name}={value!r}: a number is needed")
        for name, least in (("rank", 1), ("steps", 1), ("batch", 1), ("dense_layers", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"tuned.{name}={getattr(self, name)}: at least {least} is needed")
        if not self.rate > 0:
            raise ValueError(f"tuned.rate={self.rate}: a number above 0 is needed")
        if not 0 < self.warmup <= 1:
            raise ValueError(f"tuned.warmup={self.warmup}: a share above 0 and at most 1 is needed")

    def as_dict(self) -> dict[str, Any]:
        """Every setting, as it stands in cells and records."""
        return asdict(self)


def from_mapping(values: Mapping[str, Any]) -> TuningSettings:
    """Settings from a mapping; what it leaves out has its default.

    Raises:
        ValueError: a setting is unknown or out of its range.
    """
    known = {field.name: type(field.default) for field in fields(TuningSettings)}
    for name in values:
        if name not in known:
            raise ValueError(f"tuned.{name}: the setting is unknown: {nearest(name, list(known))}")
    # A whole number is a number too; as a float it gives the same cell as one with a point.
    whole = {
        name: float(value) if known[name] is float and isinstance(value, int) and not isinstance(value, bool) else value
        for name, value in values.items()
    }
    return TuningSettings(**whole)


def from_words(words: Iterable[str]) -> TuningSettings:
    """Settings from command-line words, ``NAME=VALUE`` each.

    Raises:
        ValueError: a word is no such pair, or a setting is unknown or out of its range.
    """
    known = {field.name: type(field.default) for field in fields(TuningSettings)}
    values = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"--tune {word}: NAME=VALUE is needed, such as rank=4")
        try:
            values[name] = known.get(name, str)(value)
        except ValueError:
            raise ValueError(f"--tune {word}: {value!r} is not a {known[name].__name__}") from None
    return from_mapping(values)
