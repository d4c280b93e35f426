"""What a stage times, solved: the knobs of every cell, and the density and operations that follow from them.

It takes no GPU, and at long shapes minutes, so it is a job of its own whose result the timing jobs read.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmark.layout import VideoLayout
from benchmark.method import Method
from benchmark.records import provenance, write_json
from benchmark.speed import settings
from benchmark.speed.cells import SpeedCell, from_settings
from benchmark.speed.settings import Stage, key_of
from benchmark.speed.sources import method_hash

logger = logging.getLogger(__name__)

FORMAT = 1
FILE = "plan.json"
MISSED = 0.02
"""A cell farther from its budget than this share of it is flagged: coarse steps, or out of the method's reach."""


def solve(method: Method, layout: VideoLayout, block: int, budget: float) -> tuple[Method, float]:
    """The setting of a method whose density is nearest to a budget, and that density.

    Unlike ``budget.at_budget`` it refuses no budget: out of reach, the end of the reach is taken. It plans no more of a
    method's list of settings than it needs to.
    """
    from benchmark.budget import at_budget, has_budget, nearest, reach

    if not has_budget(method, layout, block):
        return method, method.density(layout, block)
    candidates = list(method.settings(layout, block))
    if candidates:
        place, density = nearest((one.density(layout, block) for one in candidates), budget)
        return candidates[place], density
    low, high = reach(method, layout, block)
    found = at_budget(method, layout, block, min(max(budget, low), high))
    return found, found.density(layout, block)


def plan(stage: Stage) -> dict[str, Any]:
    """Every cell of a stage with solved knobs.

    Returns:
        ``stage`` and its lists as in ``Stage``, and ``cells``: by method/setting the ``cell``, ``density``,
        ``block_sparsity`` (None without a mask), ``pflop``, ``pflop_dense`` (a generation of a clip), ``mask_hash`` and
        ``flags``. ``methods``: SHA-256 of each method's file, by its name.
    """
    from tqdm import tqdm

    spec = settings.resized(stage.cells[0].model, stage.cells[0].trial)
    found = {}
    for cell in tqdm(stage.cells, desc=f"planning {stage.name}", unit="cell"):
        found[key_of(cell)] = _cell(stage, cell, spec)
    methods = {cell.method: method_hash(cell.method) for cell in stage.cells}
    told = {"format": FORMAT, "stage": stage.name, **lists(stage)}
    return told | {"cells": found, "methods": methods, "provenance": provenance()}


def lists(stage: Stage) -> dict[str, Any]:
    """What of a plan is not solved: which of its cells are timed how, and what the plan is made for."""
    return {
        "whole": list(stage.whole),
        "training": list(stage.training),
        "training_steps": stage.training_steps,
        "training_whole": stage.training_whole,
        "run": stage.run,
        "profile": stage.profile,
        "rank": stage.rank,
        "asked": asked(stage),
    }


def asked(stage: Stage) -> str:
    """What a plan is made for, as one line: a plan for anything else is made anew."""
    flags = {key: list(value) for key, value in stage.flags.items()}
    cells = [cell.settings() for cell in stage.cells]
    timed = [
        stage.whole,
        stage.training,
        stage.training_steps,
        stage.training_whole,
        stage.run,
        stage.rank,
        stage.profile,
    ]
    return json.dumps([stage.name, cells, flags, timed], sort_keys=True)


def ensure(stage: Stage, records: Path) -> dict[str, Any]:
    """The plan of a stage: from its file where that is about the same cells and methods, else made and written there.

    Raises:
        ValueError: the file is damaged.
    """
    path = records / stage.name / FILE
    if path.exists():
        held = _json(path)
        if held.get("format") != FORMAT or _cells_asked(held["asked"]) != _cells_asked(asked(stage)):
            logger.info("%s is about other settings; planned anew", path)
        elif not _current(held):
            logger.info("%s is about other versions of the methods; planned anew", path)
        elif held["asked"] == asked(stage):
            return held
        else:
            held |= lists(stage)  # the same cells, timed otherwise: nothing is solved anew
            write_json(path, held)
            return held
    made = plan(stage)
    write_json(path, made)
    return made


def read(path: Path) -> dict[str, Any]:
    """A plan from its file.

    Raises:
        ValueError: there is none, or it is of another format.
    """
    if not path.exists():
        raise ValueError(f"{path}: there is no plan; --part plan makes it")
    held = _json(path)
    if held.get("format") != FORMAT:
        raise ValueError(f"{path}: not a plan of format {FORMAT}")
    return held


def _json(path: Path) -> dict[str, Any]:
    """What a plan's file holds, of whatever format."""
    try:
        held = json.loads(path.read_text())
        if isinstance(held, dict) and held.get("format") == FORMAT:
            _cells_asked(held["asked"])
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); delete it, and the plan is made anew") from None
    except KeyError:
        raise ValueError(f"{path}: not a plan; delete it, and one is made") from None
    if not isinstance(held, dict):
        raise ValueError(f"{path}: not a plan; delete it, and one is made")
    return held


def _cells_asked(line: str) -> list[Any]:
    """Of what a plan is made for, all but which cells are timed how."""
    return json.loads(line)[:-1]


def _current(held: Mapping[str, Any]) -> bool:
    """Whether a plan's methods are what they were: their files, where it says them, and the masks of their knobs."""
    if any(method_hash(name) != known for name, known in held.get("methods", {}).items()):
        return False
    try:
        return all(_masks(cell_of(held, key)) == found["mask_hash"] for key, found in held["cells"].items())
    except ValueError:  # a method has other knobs now, or refuses these
        return False


def _masks(cell: SpeedCell) -> Any:
    """The hash of a cell's mask as it would be now, or those of its mixture."""
    from benchmark.plan import has_mask

    spec = settings.resized(cell.model, cell.trial)
    layout = spec.layout(cell.frames, cell.height, cell.width)
    found = [
        method.pattern(layout, cell.block, spec.heads).mask.hash() if has_mask(method) else None
        for _, method in methods_of(cell)
    ]
    return found[0] if len(found) == 1 else found


def cell_of(planned: Mapping[str, Any], key: str) -> SpeedCell:
    """The solved cell of method/setting."""
    return from_settings(planned["cells"][key]["cell"])


def methods_of(cell: SpeedCell) -> list[tuple[float, Method]]:
    """The methods that a cell runs, with their shares: one, or those of its mixture."""
    from benchmark import registry

    if cell.mixture:
        return [(part["share"], registry.get(cell.method, part["knobs"])) for part in cell.mixture]
    return [(1.0, registry.get(cell.method, cell.knobs))]


def _cell(stage: Stage, cell: SpeedCell, spec) -> dict[str, Any]:
    from benchmark import registry

    layout = spec.layout(cell.frames, cell.height, cell.width)
    flags = list(stage.flags.get(key_of(cell), ()))
    if cell.setting == settings.PAPER:
        method = registry.get(cell.method, cell.knobs)
        if cell.budget is None:
            cell = replace(cell, knobs=method.knobs())
            flags.append("own_knobs")
        else:
            method, density = solve(method, layout, cell.block, cell.budget)
            if not _has_budget(method, layout, cell.block):
                cell = replace(cell, budget=None)  # another budget changes nothing about it
            elif abs(density - cell.budget) > MISSED * cell.budget:
                flags.append("budget_missed")
            cell = replace(cell, knobs=method.knobs())
    counted = [(share, _count(method, spec, layout, cell)) for share, method in methods_of(cell)]
    facts: dict[str, Any] = {}
    for name in ("density", "block_sparsity", "pflop", "pflop_dense"):
        values = [found[name] for _, found in counted]
        facts[name] = None if None in values else sum(s * v for (s, _), v in zip(counted, values, strict=True))
    hashes = [found["mask_hash"] for _, found in counted]
    return {"cell": cell.settings(), **facts, "mask_hash": hashes[0] if len(hashes) == 1 else hashes, "flags": flags}


def _has_budget(method: Method, layout: VideoLayout, block: int) -> bool:
    from benchmark.budget import has_budget

    return has_budget(method, layout, block)


def _count(method: Method, spec, layout: VideoLayout, cell: SpeedCell) -> dict[str, Any]:
    """Density, sparsity, mask and operations of one setting."""
    from benchmark import operations
    from benchmark.plan import has_mask, layer_operations

    mask = method.pattern(layout, cell.block, spec.heads).mask if has_mask(method) else None
    layer = layer_operations(method, mask, spec, layout, cell.block)
    schedule = {"steps": cell.steps, "dense_steps": cell.dense_steps, "dense_layers": cell.dense_layers}
    schedule["passes"] = cell.passes
    return {
        "density": method.density(layout, cell.block, spec.heads, spec.head_dim) if mask is None else mask.density,
        "block_sparsity": None if mask is None else mask.video_block_sparsity(layout),
        "mask_hash": None if mask is None else mask.hash(),
        "pflop": operations.generation_operations(spec, layout, **schedule, sparse_layer_operations=layer).pflop,
        "pflop_dense": operations.generation_operations(spec, layout, **schedule).pflop,
    }
