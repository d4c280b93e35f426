"""Figure 4: attention maps of a testbed's heads, and how the score falls with the distance in time and in space."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from paper_figures.experiment import Experiment
from paper_figures.style import BLACK, WIDTH, look, save, styled

LOOKS = {"mean": (BLACK, "o"), "spatial": look("spatial"), "temporal": look("temporal")}
NAMES = {"mean": "all heads", "spatial": "spatial", "temporal": "temporal"}
HEIGHT, SIDE, BOTTOM = 2.4, 1.3, 0.66


class Probe(NamedTuple):
    """What ``probe`` wrote about a model."""

    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]

    def curve(self, name: str, axis: str) -> np.ndarray:
        """Scores of a chosen head, or the mean of all heads, by distance."""
        scores = self.arrays[axis]
        return scores.mean((0, 1)) if name == "mean" else scores[tuple(self.facts["heads"][name])]


def probes(source: Experiment) -> list[Probe]:
    """What has been probed, by the model's name.

    Raises:
        ValueError: nothing has, or a file is not in order.
    """
    paths = sorted((source.folder / "attention").glob("*.npz"))
    if not paths:
        raise ValueError(f"{source.folder / 'attention'}: no attention maps (.npz); 'probe' writes them")
    found = []
    for path in paths:
        try:
            with np.load(path) as arrays:
                held = dict(arrays)
            facts = json.loads(source.file("attention", f"{path.stem}.json").read_text())
            found.append(Probe(held, {"model": path.stem} | facts))
            for axis in ("temporal", "spatial"):
                found[-1].curve("spatial", axis)
                facts["fits"]["mean"][axis]["r2"]
        except (KeyError, IndexError, OSError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}: not what 'probe' writes ({error!r})") from None
    return found


def make(source: Experiment, out: Path) -> list[Path]:
    """Writes the figure, a row a model. Returns its files."""
    found = probes(source)
    with styled():
        figure = Figure(figsize=(WIDTH, HEIGHT * len(found)))
        for number, probe in enumerate(found):
            below = HEIGHT * (len(found) - 1 - number)
            panels = [_panel(figure, left, below + BOTTOM, len(found)) for left in (0.4, 1.98, 3.8, 5.6)]
            for axes, name in zip(panels[:2], ("spatial", "temporal"), strict=True):
                _map(axes, probe, name)
            panels[1].set_ylabel("")
            _decay(panels[2], probe, "temporal", "Frames apart, same place")
            _decay(panels[3], probe, "spatial", "Tokens apart, same frame")
            panels[2].set_ylabel("Attention score")
            steps = ", ".join(map(str, probe.facts["steps_recorded"]))
            text = (
                f"{probe.facts['model']}, mean of sampling steps {steps}. "
                "Lines: exp(−ax + b), fitted to the points; distance 0 is left out."
            )
            figure.text(0.4 / WIDTH, (below + 0.1) / (HEIGHT * len(found)), text, fontsize=7, va="bottom")
        return save(figure, out, "figure4")


def _panel(figure: Figure, left: float, bottom: float, rows: int) -> Axes:
    return figure.add_axes((left / WIDTH, bottom / (HEIGHT * rows), SIDE / WIDTH, SIDE / (HEIGHT * rows)))


def _map(axes: Axes, probe: Probe, name: str) -> None:
    """A head's attention map, frame-major, in shades of the logarithm."""
    scores = probe.arrays[f"map_{name}"].astype(np.float32)
    frames = probe.facts["layout"][0]
    high = float(np.quantile(scores, 0.999))
    low = max(float(np.quantile(scores, 0.02)), high * 1e-4)
    axes.imshow(
        np.maximum(scores, low), cmap="magma", norm=LogNorm(low, max(high, low * 1.01)),
        extent=(0, frames, frames, 0), interpolation="antialiased",
    )  # fmt: skip
    layer, head = probe.facts["heads"][name]
    axes.set_title(f"{NAMES[name].capitalize()} head\n(layer {layer}, head {head})", fontsize=8)
    axes.set_xlabel("Key frame")
    axes.set_ylabel("Query frame")
    ticks = range(0, frames + 1, max(frames // 4, 1))
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)
    for spine in axes.spines.values():
        spine.set_visible(True)


def _decay(axes: Axes, probe: Probe, axis: str, label: str) -> None:
    """The score against a distance, and its exponential fit."""
    distance = probe.arrays[f"{axis}_distance"]
    away = distance > 0
    for name, (colour, marker) in LOOKS.items():
        score, fit = probe.curve(name, axis), probe.facts["fits"][name][axis]
        axes.plot(distance[away], score[away], linestyle="", marker=marker, color=colour, markersize=3.2)
        line = np.linspace(1, distance[-1], 200)
        text = f"{NAMES[name]}, R² {fit['r2']:.3f}"
        axes.plot(line, np.exp(-fit["a"] * line + fit["b"]), color=colour, linewidth=1.0)
        axes.plot(
            [],
            [],
            color=colour,
            marker=marker,
            linewidth=1.0,
            markersize=3.2,
            label=text,
        )
    highest = max(float(probe.curve(name, axis)[away].max()) for name in LOOKS)
    axes.set_ylim(0, 1.5 * highest)  # room for the legend
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlim(0, distance[-1] + 0.5)
    axes.set_title("Temporal decay" if axis == "temporal" else "Spatial decay", fontsize=8)
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.legend(loc="upper right", handlelength=1.2, handletextpad=0.5, labelspacing=0.25, borderaxespad=0, borderpad=0)
