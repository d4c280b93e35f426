"""Solving a method's knob for a budget: the density that its mask shall have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from benchmark.layout import VideoLayout
from benchmark.method import Method, budget_knob

NEAR = 0.02
"""Of settings so near to the budget, as a share of it, the first in the method's own order is taken."""


def at_budget(method: Method, layout: VideoLayout, block: int, budget: float, heads: int = 1) -> Method:
    """The setting of a method whose density is nearest to a budget.

    The method's ``settings`` are searched in their order, if it lists any, and the first within ``NEAR`` of the budget
    is taken; else its budget knob, in which density must not fall, and of two values equally near the sparser one.

    Args:
        budget: executed query-key pairs over those of dense attention, in (0, 1].

    Returns:
        The method, other knobs unchanged. A method that always attends densely, or has no density to set, comes back
        as it is: the table shows its own density.

    Raises:
        ValueError: the budget is not in (0, 1], or farther from the method's reach than a tenth of itself (the range
            that it reaches is given); or the density falls as the budget knob rises.
    """
    if not 0 < budget <= 1:
        raise ValueError(f"budget={budget}: a density above 0 and at most 1 is needed")
    if not has_budget(method, layout, block):
        return method
    candidates = list(method.settings(layout, block))
    if candidates:
        place, reached = nearest((one.density(layout, block, heads) for one in candidates), budget)
        found = candidates[place]
    else:
        found, reached = _solve_knob(method, layout, block, budget, heads)
    if abs(reached - budget) <= 0.1 * budget + 1e-9:
        return found
    lowest, highest = reach(method, layout, block, heads)
    if not lowest <= budget <= highest:
        raise ValueError(
            f"budget={budget}: {method.name()} on {layout} with blocks of {block} reaches densities "
            f"from {lowest:.4f} to {highest:.4f}"
        )
    return found


def nearest(densities: Iterable[float], budget: float) -> tuple[int, float]:
    """The place of the first density within ``NEAR`` of a budget, else of the nearest, and that density.

    No more densities are asked for than that takes.
    """
    best: tuple[int, float] | None = None
    for place, density in enumerate(densities):
        if best is None or round(abs(density - budget), 9) < round(abs(best[1] - budget), 9):
            best = place, density
        if abs(density - budget) <= NEAR * budget:
            return place, density
    if best is None:
        raise ValueError("nearest: no densities; at least one is needed")
    return best


def has_budget(method: Method, layout: VideoLayout, block: int) -> bool:
    """Whether a method's density can be set at all."""
    return method.density_knob() is not None or next(iter(method.settings(layout, block)), None) is not None


def solved_knobs(method: Method, layout: VideoLayout, block: int) -> set[str]:
    """The knobs that a budget gives another value; empty where the density cannot be set."""
    settings = [one.knobs() for one in method.settings(layout, block)]
    if settings:  # these change some knobs, and carry the others along as they are
        return {key for key, value in method.knobs().items() if any(one[key] != value for one in settings)}
    return {method.density_knob()} - {None}


def refuse_solved(method: Method, given: Iterable[str], solved: set[str], budget: float) -> None:
    """Refuses knobs that were given a value and would lose it to a budget.

    Args:
        given: names of the knobs that were given.
        solved: those of ``solved_knobs``.

    Raises:
        ValueError: naming the knob.
    """
    for knob in given:
        if knob in solved:
            value = getattr(method, knob)
            raise ValueError(
                f"{method.name()}: {knob}={value!r}: {knob} is solved for budget={budget}; leave one of them out"
            )


def reach(method: Method, layout: VideoLayout, block: int, heads: int = 1) -> tuple[float, float] | None:
    """The lowest and the highest density that a method can be set to; None where it has none to set.

    Its ``settings`` are gone through, if it lists any; else only both ends of its budget knob are planned.

    Raises:
        ValueError: the density falls as the budget knob rises.
    """
    settings = list(method.settings(layout, block))
    if not settings and method.density_knob() is None:
        return None
    if not settings:
        ends = _ends(method, layout)
        settings = [replace(method, **{method.density_knob(): end}) for end in ends]
        densities = [setting.density(layout, block, heads) for setting in settings]
        _check_rising(method, ends, densities)
        return densities[0], densities[1]
    densities = [setting.density(layout, block, heads) for setting in settings]
    return min(densities), max(densities)


def _ends(method: Method, layout: VideoLayout) -> tuple[float, float]:
    """The lowest and the highest value of the budget knob."""
    metadata = budget_knob(type(method), method.density_knob()).metadata
    # Widths and runs of frames have no limit of their own: as many frames as there are make the whole video.
    return metadata["low"], layout.frames if metadata["high"] is None else metadata["high"]


def _check_rising(method: Method, ends: tuple[float, float], densities: Iterable[float]) -> None:
    """Refuses a knob whose low end is denser than its high end: a bisection would end far from any budget."""
    first, last = densities
    if first > last + 1e-9:
        knob = method.density_knob()
        raise ValueError(
            f"methods/{method.name()}.py: budget knob {knob}: the density falls from {first:.4f} at {knob}={ends[0]} "
            f"to {last:.4f} at {knob}={ends[1]}; it must not fall as the knob rises"
        )


def _solve_knob(method: Method, layout: VideoLayout, block: int, budget: float, heads: int):
    """Bisection on the budget knob: the method and its density."""
    name = method.density_knob()
    whole = isinstance(budget_knob(type(method), name).default, int)
    low, high = _ends(method, layout)

    tried: dict[float, tuple[float, Method]] = {}

    def density(value: float) -> float:
        if value not in tried:
            setting = replace(method, **{name: value})
            tried[value] = (setting.density(layout, block, heads), setting)
        return tried[value][0]

    _check_rising(method, (low, high), (density(low), density(high)))  # the ends are candidates, too
    steps = 0
    while steps < 40 and (high - low > 1 if whole else high - low > 1e-6 * max(abs(high), 1e-3)):
        middle = (low + high) // 2 if whole else (low + high) / 2
        if density(middle) < budget:
            low = middle
        else:
            high = middle
        steps += 1
    value = min(tried, key=lambda v: (round(abs(tried[v][0] - budget), 9), tried[v][0], v))
    return tried[value][1], tried[value][0]
