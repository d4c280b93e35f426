"""Figure 2: operations against the number of frames, dense and radial, at HunyuanVideo's shapes.

The left panel of the paper's figure, and the whole generation beside it. A panel is a function in ``PANELS``; those for
latency and tuning come with their records.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_figures import published
from paper_figures.experiment import Experiment
from paper_figures.style import GREY, WIDTH, look, save, styled

MODEL, PAPER_MODEL = "hunyuanvideo", "HunyuanVideo"
SIZE = (720, 1280)
TITLES = {"dense": "Dense", "radial": "Radial"}

Curve = dict[int, Mapping[str, Any]]


def curves(path: Path) -> dict[str, Curve]:
    """The plans of HunyuanVideo at 720x1280, by method and number of frames.

    Raises:
        ValueError: the file is no sweep, or has no such plans for dense or radial.
    """
    try:
        plans = json.loads(path.read_text())["plans"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: no operations in it; 'sweep' writes them") from None
    found: dict[str, Curve] = {}
    for method in TITLES:
        found[method] = {
            plan["frames"]: plan
            for plan in plans
            if (plan["model"], plan["height"], plan["width"], plan["method"]) == (MODEL, *SIZE, method)
        }
        if len(found[method]) < 2:
            raise ValueError(
                f"{path}: {len(found[method])} plans of {MODEL} {SIZE[0]}x{SIZE[1]} {method}; at least 2 are needed"
            )
    return found


def attention_panel(axes: Axes, found: dict[str, Curve]) -> None:
    """Operations of self-attention in one forward pass, all layers sparse, with the ratios that the paper states."""
    axes.set_title("Attention, one pass")
    _curves(axes, found, "attention_pflop_pass")
    stated = {row.frames: row.text("attention_ratio") for row in published.rows("figure2")}
    for frames, plan in found["radial"].items():
        if frames not in stated or frames not in found["dense"]:
            continue
        dense, radial = found["dense"][frames]["attention_pflop_pass"], plan["attention_pflop_pass"]
        axes.plot([frames, frames], [radial, dense], color=GREY, linewidth=0.8, linestyle=":", zorder=1)
        _say(axes, frames, dense, f"{dense / radial:.1f}× fewer\n({stated[frames]}× published)")


def generation_panel(axes: Axes, found: dict[str, Curve]) -> None:
    """Operations of a whole generation with its dense steps and layers, everything in the transformer counted."""
    axes.set_title("Whole generation, all operations")
    _curves(axes, found, "pflop")
    last = max(set(found["dense"]) & set(found["radial"]))
    dense, radial = (found[method][last]["pflop"] for method in ("dense", "radial"))
    axes.plot([last, last], [radial, dense], color=GREY, linewidth=0.8, linestyle=":", zorder=1)
    _say(axes, last, dense, f"{dense / radial:.1f}× fewer")


PANELS = (attention_panel, generation_panel)


def _say(axes: Axes, frames: int, value: float, text: str) -> None:
    """Words to the left of a point and above its curve."""
    axes.annotate(text, (frames, value), (-7, 0), textcoords="offset points", ha="right", va="bottom", fontsize=7)


def _curves(axes: Axes, found: dict[str, Curve], key: str) -> None:
    for method, curve in found.items():
        frames = sorted(curve)
        colour, marker = look(method)
        axes.plot(
            frames, [curve[n][key] for n in frames], color=colour, marker=marker, label=TITLES[method], clip_on=False
        )
    axes.set_xticks(sorted(found["dense"]))
    axes.set_xlabel("Frames")
    axes.set_ylabel("PFLOP")
    axes.set_ylim(0, 1.12 * max(curve[n][key] for curve in found.values() for n in curve))
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.legend(loc="upper left")


def _schedules(curve: Curve) -> str:
    """What is dense in a curve's generations, each with the frames from which it holds."""
    told, words = "", []
    for frames in sorted(curve):
        plan = curve[frames]
        dense = f"{plan['dense_steps']} of {plan['steps']} steps"
        if plan["dense_layers"]:
            dense += f" and {plan['dense_layers']} layers"
        if dense != told:
            words.append(f"{dense} from {frames} frames on")
            told = dense
    return ", ".join(words)


def make(source: Experiment, out: Path) -> list[Path]:
    """Writes the figure. Returns its files."""
    found = curves(source.file("operations.json"))
    with styled():
        figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
        for axes, panel in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
            panel(axes, found)
        first = next(iter(found["radial"].values()))
        words = (
            f"{PAPER_MODEL} {SIZE[0]}x{SIZE[1]}, blocks of {first['block']}.",
            f"Dense in a whole generation: {_schedules(found['radial'])}.",
            "Published: the ratios that the paper's Figure 2 states; that the middle one is at 381 frames is assumed.",
        )
        figure.supxlabel("\n".join(words), fontsize=7)
        return save(figure, out, "figure2")
