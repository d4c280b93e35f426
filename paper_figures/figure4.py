"""Figure 4: attention maps of a testbed's heads, and how the score falls with the distance in time and in space."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from paper_figures.decay_panels import AXES, PUBLISHED, UNITS, away, curve, read, spread_words
from paper_figures.experiment import Experiment
from paper_figures.style import BLACK, GREY, WIDTH, look, save, styled

LOOKS = {"mean": (BLACK, "o"), "spatial": look("spatial"), "temporal": look("temporal")}
NAMES = {"mean": "all heads", "spatial": "spatial", "temporal": "temporal"}
HEIGHT, SIDE, BOTTOM = 2.7, 1.3, 0.98


class Probe(NamedTuple):
    """What ``probe`` wrote about a model."""

    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]

    def curve(self, name: str, axis: str) -> np.ndarray:
        """Scores of a chosen head, or the mean of all heads, by distance above 0; the mean of the recorded steps."""
        found = self.facts["decay"][axis]
        if name == "mean":
            return away(found, "mean")[1]
        return self.arrays[axis].mean(0)[tuple(self.facts["heads"][name])][np.array(found["distance"]) > 0]

    def fit(self, name: str, axis: str) -> dict[str, Any]:
        """The fit of a chosen head, or of the mean of all heads; a ``reason`` where there is none."""
        fits = self.facts["decay"][axis]["fits"]
        if name == "mean":
            return fits["mean"]
        layer, head = self.facts["heads"][name]
        return fits["heads"][layer][head]


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
        facts = read(path.with_suffix(".json"))
        try:
            with np.load(path) as arrays:
                found.append(Probe(dict(arrays), facts))
            for axis in AXES:
                for name in ("spatial", "temporal"):
                    found[-1].curve(name, axis), found[-1].fit(name, axis), found[-1].arrays[f"map_{name}"]
        except (KeyError, IndexError, OSError, ValueError) as error:
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
            for axes, axis in zip(panels[2:], AXES, strict=True):
                _decay(axes, probe, axis)
            panels[2].set_ylabel("Attention score")
            figure.text(0.4 / WIDTH, (below + 0.1) / (HEIGHT * len(found)), words(probe), fontsize=7, va="bottom")
        return save(figure, out, "figure4")


def words(probe: Probe) -> str:
    """What stands below a model's row."""
    facts = probe.facts
    steps, prompts = ", ".join(map(str, facts["steps_recorded"])), len(facts["prompts"])
    of = "one prompt" if prompts == 1 else f"{prompts} prompts"
    lines = [
        f"{facts['model']}, mean of sampling steps {steps} of {of}. Lines: exp(−ax + b), least squares on the scores,",
        "not on their logarithms; distance 0 left out. Shaded: 10th to 90th percentile of all heads. R² of other fits:",
    ]
    return "\n".join(lines + spread_words(facts))


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


def _decay(axes: Axes, probe: Probe, axis: str) -> None:
    """The score against a distance with its spread, and the exponential fits."""
    found = probe.facts["decay"][axis]
    distance, low = away(found, "low")
    high = away(found, "high")[1]
    axes.fill_between(distance, low, high, color=GREY, alpha=0.3, linewidth=0)
    line = np.linspace(distance[0], distance[-1], 200)
    for name, (colour, marker) in LOOKS.items():
        fit = probe.fit(name, axis)
        axes.plot(distance, probe.curve(name, axis), linestyle="", marker=marker, color=colour, markersize=3.2)
        text = f"{NAMES[name]}, no fit"
        if "r2" in fit:
            axes.plot(line, curve(fit, line), color=colour, linewidth=1.0)
            text = f"{NAMES[name]}, R² {fit['r2']:.3f}"
        axes.plot([], [], color=colour, marker=marker, linewidth=1.0, markersize=3.2, label=text)
    axes.set_yscale("log")
    highest = max(float(high.max()), *(float(probe.curve(name, axis).max()) for name in LOOKS))
    # Single heads fall far below the mean; above there is room for the legend.
    axes.set_ylim(float(probe.curve("mean", axis).min()) / 10, 40 * highest)
    axes.yaxis.set_major_locator(LogLocator(numticks=6))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlim(0, distance[-1] + 0.5)
    axes.set_title(f"{axis.capitalize()} decay\n({PUBLISHED})", fontsize=8)
    axes.set_xlabel(UNITS[axis])
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.legend(loc="upper right", handlelength=1.2, handletextpad=0.5, labelspacing=0.25, borderaxespad=0, borderpad=0)
