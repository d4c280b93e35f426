"""The cells of a checked configuration, with those of its variants, and which cell each is compared with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.blame import planning
from benchmark.cell import REFERENCE, Cell
from benchmark.tolerance import CONTROL

if TYPE_CHECKING:
    from benchmark.models import ModelSpec

NOT_OF_THE_TUNING = ("methods", "lengths", "shipped_only")
"""Keys of ``tuned`` that say which cells have adapters and where from; the others are settings of the tuning."""


def cells(config: Mapping[str, Any]) -> list[Cell]:
    """Every cell of a checked configuration: models, then lengths, then methods, each untuned and then tuned.

    A cell says everything that decides its own clips and nothing else. A method without a density to set gets no
    budget, so that another budget does not run it again.

    With ``variants`` there are their cells instead, in their order, and before them the references that these are
    compared with: the untuned dense cells of each length and seed. A reference is dense in all steps whatever the
    schedule, so it states none. That of another seed than the experiment's has a variant, ``seed8`` of seed 8.
    """
    if "variants" in config:
        return [*_references(config), *_variant_cells(config)]
    found, tuned = [], config.get("tuned")
    for model in config["models"]:
        for length in config["lengths"]:
            for method in config["methods"]:
                cell = _cell(config, model, length, method)
                found.append(cell)
                if tuned and method in tuned["methods"] and length["name"] in tuned["lengths"]:
                    settings = {key: value for key, value in tuned.items() if key not in NOT_OF_THE_TUNING}
                    found.append(replace(cell, tuned=True, tuning_settings=settings))
    return found


def _cell(config: Mapping[str, Any], model: str, length: Mapping[str, Any], method: str, **changes: Any) -> Cell:
    """The untuned cell of a configuration, whose budget, knobs, schedule and others may be changed."""
    from benchmark import models, registry
    from benchmark.budget import has_budget

    spec = models.get(model)
    frames, height, width = shape(spec, length)
    knobs = dict(changes.pop("knobs", config["knobs"].get(method, {})))
    budget = changes.pop("budget", config["budget"])
    own = registry.get(method, knobs)
    with planning(method, length["name"]):
        solvable = has_budget(own, spec.layout(frames, height, width), config["block"])
    settings = {
        "experiment": config["experiment"],
        "model": model,
        "length": length["name"],
        "frames": frames,
        "height": height,
        "width": width,
        "method": method,
        "knobs": knobs,
        "budget": budget if solvable else None,
        "block": config["block"],
        "kernel": (config["control_kernel"] if method == CONTROL else None) or config["kernel"],
        **config["schedule"],
        "clips": config["prompts"]["count"][length["name"]],
        "seed": config["prompts"]["seed"],
    }
    return Cell(**(settings | changes))


def _references(config: Mapping[str, Any]) -> list[Cell]:
    """The dense cells that the cells of variants are compared with."""
    own = config["prompts"]["seed"]
    found = []
    for model in config["models"]:
        for length in config["lengths"]:
            users = [value for value in config["variants"].values() if length["name"] in value["lengths"]]
            for seed in dict.fromkeys([own] * bool(users) + [value["seed"] for value in users]):
                plain = {"dense_steps": 0, "dense_layers": 0, "seed": seed}
                name = "" if seed == own else f"seed{seed}"
                found.append(_cell(config, model, length, REFERENCE, **plain, variant=name))
    return found


def _variant_cells(config: Mapping[str, Any]) -> Iterator[Cell]:
    for model in config["models"]:
        for name in config["variants"]:
            for length in config["lengths"]:
                for method in config["methods"]:
                    variant = config["variants"][name]
                    if length["name"] in variant["lengths"] and method in variant["methods"]:
                        yield _variant_cell(config, model, length, method, name)


def _variant_cell(config: Mapping[str, Any], model: str, length: Mapping[str, Any], method: str, name: str) -> Cell:
    variant, own = config["variants"][name], (length["name"], method)
    changes: dict[str, Any] = {
        "knobs": variant["knobs"].get(method, {}),
        "budget": variant["budget"],
        **variant["schedule"],
        "seed": variant["seed"],
        "variant": name,
    }
    if variant["tuned"] is not None:
        changes |= {"tuned": True, "tuning_settings": variant["tuned"]}
    if variant["start"] is not None:
        changes["start"] = _tuning_record(config, model, _part(config, f"{name}.start", variant["start"], *own))
    if variant["merge"] is not None:
        parts = (_part(config, f"{name}.merge", part, *own) for part in variant["merge"])
        changes |= {"tuned": True, "merged": [_tuning_record(config, model, place) for place in parts]}
    return _cell(config, model, length, method, **changes)


def _tuning_record(config: Mapping[str, Any], model: str, place: Iterable[str]) -> str:
    return Path(f"results/{config['experiment']}/records", model, *place, "tune.json").as_posix()


def _part(config: Mapping[str, Any], where: str, part: str, length: str, method: str) -> tuple[str, str, str]:
    """Length, method and variant of an adapter that a variant merges or starts from: its own ones, or the only ones.

    Raises:
        ValueError: the part has several lengths or methods, and none is the variant's.
    """
    found = []
    for key, own in (("lengths", length), ("methods", method)):
        has = config["variants"][part][key]
        if own not in has and len(has) > 1:
            raise ValueError(f"variants.{where}: {part} has {', '.join(has)}, not {own}; {own} or one is needed")
        found.append(own if own in has else has[0])
    return *found, part


def reference_of(cell: Cell, all_cells: Iterable[Cell]) -> Cell:
    """The untuned dense cell whose clips a cell's are compared with: of its model, length and seed.

    Raises:
        ValueError: it is not among the cells.
    """
    for other in all_cells:
        same = (other.model, other.length, other.seed) == (cell.model, cell.length, cell.seed)
        if same and other.method == REFERENCE and not other.tuned:
            return other
    raise ValueError(f"{cell.path}: no untuned {REFERENCE} cell of its length and seed={cell.seed}")


def shape(spec: ModelSpec, length: Mapping[str, Any]) -> tuple[int, int, int]:
    """Frames, height and width in pixels of a checked length of a model."""
    frames = length["frames"] if length["frames"] is not None else spec.lengths[length["name"]]
    return frames, length["height"] or spec.default.height, length["width"] or spec.default.width
