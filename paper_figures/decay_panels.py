"""How attention falls with distance, with the exponentials fitted to it: panels of Figures 4 and 8b."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from paper_figures.style import look

CLAIM = 0.985
"""The paper's fits have an R^2 above this, in time and in space (published)."""
PUBLISHED = f"paper: R² > {CLAIM}"
AXES = ("temporal", "spatial")
UNITS = {"temporal": "Frames apart, same place", "spatial": "Tokens apart, same frame"}


def read(path: Path) -> dict[str, Any]:
    """What the verb ``probe`` says of a model: ``model``, ``decay``, ``heads``, ``layout``, ``steps_recorded``, ...

    Raises:
        ValueError: the file is missing, or not what ``probe`` writes.
    """
    try:
        facts = {"model": path.stem} | json.loads(path.read_text())
        for axis in AXES:
            found = facts["decay"][axis]
            found["fits"]["mean"]["r2"], found["distance"], found["mean"], found["low"], found["high"]
    except FileNotFoundError:
        raise ValueError(f"{path}: the file is missing; 'probe' writes it") from None
    except (KeyError, TypeError, OSError, ValueError) as error:
        raise ValueError(f"{path}: not what 'probe' writes ({error!r})") from None
    return facts


def decayed(folder: Path) -> list[dict[str, Any]]:
    """The models that were probed, by name, from ``attention/<model>.json`` of a folder of results; perhaps none.

    Raises:
        ValueError: a file is not what ``probe`` writes.
    """
    return [read(path) for path in sorted((folder / "attention").glob("*.json"))]


def curve(fit: Mapping[str, float], x: np.ndarray) -> np.ndarray:
    """A fit's values."""
    return np.exp(-fit["a"] * x + fit["b"])


def away(found: Mapping[str, Any], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Distances above 0, and one of the curves there."""
    distance, score = np.array(found["distance"]), np.array(found[name])
    return distance[distance > 0], score[distance > 0]


def fit_panel(axes: Axes, facts: Mapping[str, Any], shown: tuple[str, ...] = AXES) -> None:
    """Figure 8b's panel: the mean attention score against distance, and the exponentials, straight on this scale.

    Args:
        axes: where it is drawn.
        facts: from ``read``.
        shown: ``temporal`` (frames apart, same place), ``spatial`` (tokens apart, same frame), or both.
    """
    for axis in shown:
        found = facts["decay"][axis]
        fit, (distance, score) = found["fits"]["mean"], away(found, "mean")
        colour, marker = look(axis)
        line = np.linspace(distance[0], distance[-1], 100)
        axes.plot(line, curve(fit, line), color=colour, linewidth=1.1)
        axes.plot(distance, score, linestyle="", marker=marker, color=colour, markersize=3.4)
        words = {"temporal": "frames", "spatial": "tokens"}[axis]
        label = f"{axis} ({words}): a = {fit['a']:.2f}, R² {fit['r2']:.3f}"
        axes.plot([], [], color=colour, marker=marker, linewidth=1.1, markersize=3.4, label=label)
    axes.set_yscale("log")
    scores = np.concatenate([away(facts["decay"][axis], "mean")[1] for axis in shown])
    axes.set_ylim(scores.min() / 3, 6 * scores.max())  # room for the legend; a fit may fall far below the scores
    axes.set_xlim(0, None)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel(UNITS[shown[0]] if len(shown) == 1 else "Distance (frames, or tokens of a frame)")
    axes.set_ylabel("Attention score")
    axes.grid()
    axes.set_axisbelow(True)
    axes.plot([], [], linestyle="", label=f"lines: exp(−ax + b); {PUBLISHED}")
    axes.legend(loc="upper right", handlelength=1.2, handletextpad=0.5, labelspacing=0.25, borderaxespad=0, borderpad=0)


def spread_words(facts: Mapping[str, Any]) -> list[str]:
    """R^2 of single layers, steps and heads, and of the mean with distance 0: a line for each of the two distances."""
    said = []
    for axis in AXES:
        fits = facts["decay"][axis]["fits"]
        heads = [fit for layer in fits["heads"] for fit in layer]
        parts = []
        for name, of in (("layers", fits["layers"]), ("steps", fits["steps"]), ("heads", heads)):
            r2 = [fit["r2"] for fit in of if "r2" in fit]
            if not r2:
                parts.append(f"{name} without a fit")
                continue
            parts.append(f"{name} {min(r2):.2f} to {max(r2):.2f}")
            if name == "heads":
                good = sum(value > CLAIM for value in r2)
                parts[-1] += f" ({good} of {len(of)} above {CLAIM})"
        if "r2" in fits["mean_from_0"]:
            parts.append(f"with distance 0 all heads {fits['mean_from_0']['r2']:.3f}")
        said.append(f"{axis}: {', '.join(parts)}")
    return said
