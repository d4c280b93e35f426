"""Quality against cost as inline SVG, with each method's colour and marker from the figures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from paper_figures.style import BLACK, look

WIDTH, HEIGHT = 470, 440
LEFT, RIGHT, TOP, BOTTOM = 44, 92, 34, 44
ROW, CLUSTER = 14, 95
CAP = 100.0
"""PSNR that stands for clips equal to the dense ones, in dB."""


@dataclass(frozen=True)
class Point:
    """A cell in the plot.

    Args:
        cell: its identifier.
        method: whose colour and marker it has.
        label: what stands beside it.
        x: operations, % of dense.
        y: PSNR in dB; None for the reference.
        error: standard error of y.
    """

    cell: str
    method: str
    label: str
    x: float
    y: float | None
    error: float | None = None


def marker(method: str) -> dict[str, Any]:
    """A method's marker as an SVG path in a box of 2 by 2 around 0, with its colour.

    Black becomes the text's colour, so that it is seen on a dark page as well.
    """
    from matplotlib.markers import MarkerStyle

    colour, name = look(method)
    style = MarkerStyle(name)
    polygons = style.get_path().transformed(style.get_transform()).to_polygons(closed_only=False)
    reach = max(abs(value) for polygon in polygons for point in polygon for value in point)
    path = "".join(
        "M" + "L".join(f"{x / reach:.3f},{-y / reach:.3f}" for x, y in polygon) + ("Z" if style.is_filled() else "")
        for polygon in polygons
    )
    return {"path": path, "filled": style.is_filled(), "colour": "currentColor" if colour == BLACK else colour}


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between two values, about so many."""
    step = 10 ** math.floor(math.log10((high - low) / count))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= count)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 10) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def plot(points: list[Point]) -> dict[str, Any]:
    """Where everything of the plot stands, in SVG units; the page's template draws it.

    Points whose clips equal the dense ones stand in a band of their own above the axis.

    Returns:
        ``width``, ``height``, the axes' ``frame``, ``x_ticks`` and ``y_ticks`` (place, text), and ``points``.
    """
    own = [point for point in points if point.y is not None and point.y < CAP]
    xs = [point.x for point in points] or [0, 100]
    low_x, high_x = 5 * math.floor((min(xs) - 2) / 5), 5 * math.ceil(max(xs) / 5)
    lows = [point.y - (point.error or 0) for point in own] or [0]
    highs = [point.y + (point.error or 0) for point in own] or [1]
    low_y, high_y = math.floor(min(lows)), max(math.ceil(max(highs)), math.floor(min(lows)) + 1)
    right, floor, roof = WIDTH - RIGHT, HEIGHT - BOTTOM, TOP + 26

    def across(x: float) -> float:
        return LEFT + (x - low_x) / (high_x - low_x) * (right - LEFT)

    def up(y: float) -> float:
        return floor - (y - low_y) / (high_y - low_y) * (floor - roof)

    drawn = []
    for point in points:
        equal = point.y is None or point.y >= CAP
        x, y = across(point.x), TOP + 6 if equal else up(point.y)
        error = 0 if equal or not point.error else point.error / (high_y - low_y) * (floor - roof)
        words = "the reference" if point.y is None else "equal to dense" if equal else f"{point.y:.1f} dB"
        told = f"{point.label}: {words} at {point.x:.1f} % of dense operations"
        drawn.append({"cell": point.cell, "method": point.method, "label": point.label, "x": x, "y": y,
                      "error": error, "told": told, "equal": equal})  # fmt: skip
    _place_labels(drawn)
    return {
        "width": WIDTH, "height": HEIGHT, "left": LEFT, "right": right, "floor": floor, "roof": roof, "band": TOP + 6,
        "x_ticks": [(across(x), f"{x:g}") for x in ticks(low_x, high_x)],
        "y_ticks": [(up(y), f"{y:g}") for y in ticks(low_y, high_y)],
        "points": drawn,
    }  # fmt: skip


def _place_labels(drawn: list[dict[str, Any]]) -> None:
    """Puts labels to the right of their points, those of points close to each other in one column without overlap."""
    columns: list[list[dict[str, Any]]] = []
    for band in (True, False):
        for point in sorted((point for point in drawn if point["equal"] is band), key=lambda point: point["x"]):
            if columns and columns[-1][0]["equal"] is band and point["x"] - columns[-1][-1]["x"] < CLUSTER:
                columns[-1].append(point)
            else:
                columns.append([point])
    for column in columns:
        column.sort(key=lambda point: point["y"])
        x = max(point["x"] for point in column) + 15
        if column[0]["equal"]:  # the band has one line: the names stand in it side by side
            names = ", ".join(point["label"] for point in column)
            for n, point in enumerate(column):
                point |= {"label_x": x - 5, "label_y": point["y"], "text": "" if n else names}
            continue
        places = [point["y"] for point in column]
        for _ in range(200):  # neighbours push each other apart until they are a line apart
            for n in range(len(places) - 1):
                lack = ROW - (places[n + 1] - places[n])
                if lack > 1e-6:
                    places[n], places[n + 1] = places[n] - lack / 2, places[n + 1] + lack / 2
        for point, y in zip(column, places, strict=True):
            point |= {"label_x": x, "label_y": y, "text": point["label"]}
