"""Whether the methods of a checked configuration reach its budgets, before any job starts."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmark.blame import planning
from benchmark.cells import shape

if TYPE_CHECKING:
    from benchmark.layout import VideoLayout
    from benchmark.method import Method
    from benchmark.models import ModelSpec

    Reach = Callable[[Method, VideoLayout], tuple[float, float] | None]


class Place(NamedTuple):
    """Where a method is run."""

    where: str  # in words
    length: str
    method: Method
    given: tuple[str, ...]  # knobs that the configuration sets
    layout: VideoLayout


def check_budgets(config: Mapping[str, Any], specs: Mapping[str, ModelSpec]) -> None:
    """Refuses a budget that some method misses by more than a tenth of it, as ``budget.at_budget`` does in the job.

    Refuses knobs, too, that the budget is solved for, and a method whose masks cannot be planned.
    """
    from benchmark.budget import reach

    reached = functools.cache(functools.partial(reach, block=config["block"]))
    if "variants" not in config:
        places = _places(config, config["methods"], config["lengths"], specs)
        _check_budget("", config["budget"], config["block"], list(places), reached)
        return
    for name, variant in config["variants"].items():
        lengths = [length for length in config["lengths"] if length["name"] in variant["lengths"]]
        places = _places(variant, variant["methods"], lengths, specs)
        _check_budget(f"variants.{name}.", variant["budget"], config["block"], list(places), reached)


def _check_budget(prefix: str, budget: float | None, block: int, places: list[Place], reached: Reach) -> None:
    """Refuses a budget that a place does not reach; ``reached`` is ``budget.reach`` of a method on a layout."""
    from benchmark.budget import refuse_solved, solved_knobs

    if budget is None:
        return
    slack = 0.1 * budget + 1e-9
    for place in places:
        with planning(place.method.name(), place.length):
            solved = solved_knobs(place.method, place.layout, block) if place.given else set()
        try:
            refuse_solved(place.method, place.given, solved, budget)
        except ValueError as error:
            raise ValueError(f"{prefix}knobs: {error}") from None
    if all(_within(place, block, budget, slack, reached) for place in places):
        return
    reaches = [(place.where, reached(place.method, place.layout)) for place in places]
    found = [(where, *densities) for where, densities in reaches if densities is not None]
    out = [(where, low, high) for where, low, high in found if low > budget + slack or high < budget - slack]
    lowest = math.ceil(1e4 * max(low for _, low, _ in found)) / 1e4
    highest = math.floor(1e4 * min(high for _, _, high in found)) / 1e4
    where, low, high = max(out, key=lambda place: max(place[1] - budget, budget - place[2]))
    line = f"{prefix}budget={budget}: {where} in blocks of {block} reaches densities from {low:.4f} to {high:.4f}"
    if lowest <= highest:
        raise ValueError(f"{line}; the nearest that all methods reach is {min(max(budget, lowest), highest):.4f}")
    raise ValueError(f"{line}; no budget is within the reach of all methods")


def _places(
    held: Mapping[str, Any],
    methods: Iterable[str],
    lengths: Iterable[Mapping[str, Any]],
    specs: Mapping[str, ModelSpec],
) -> Iterator[Place]:
    """Where methods are run, with their ``knobs``."""
    from benchmark import registry

    for spec in specs.values():
        for length in lengths:
            layout = spec.layout(*shape(spec, length))
            for name in methods:
                knobs = held["knobs"].get(name, {})
                where = f"{name} on {spec.name} {length['name']} ({layout})"
                yield Place(where, length["name"], registry.get(name, knobs), tuple(knobs), layout)


def _within(place: Place, block: int, budget: float, slack: float, reached: Reach) -> bool:
    """Whether a method that can be set reaches a budget; hundreds of settings are planned only as far as is needed."""
    with planning(place.method.name(), place.length):
        settings = list(place.method.settings(place.layout, block))
        if not settings:
            found = reached(place.method, place.layout)
            return found is None or (found[0] <= budget + slack and found[1] >= budget - slack)
        low = high = False
        for setting in (settings[0], settings[-1], *settings[1:-1]):
            density = setting.density(place.layout, block)
            low, high = low or density <= budget + slack, high or density >= budget - slack
            if low and high:
                return True
    return False
