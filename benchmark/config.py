"""The configuration of an experiment: read, checked before any job starts, and turned into cells.

``config/schema.yaml`` says what a file may hold; here its names, shapes and budgets are held against what exists.
Every refusal is one line with the key, the value and what is allowed.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from benchmark.cell import Cell

if TYPE_CHECKING:
    from benchmark.models import ModelSpec

ROOT = Path(__file__).resolve().parent.parent
SCHEMA_FILE = ROOT / "config" / "schema.yaml"
WEIGHTS_FOLDER = Path("benchmark/testbed/weights")  # below the project's root
REFERENCE = "dense"

SPEED_HINT = "see python -m benchmark latency --help"

EXAMPLE = """example:
  python -m benchmark config config/quick.yaml
"""

logger = logging.getLogger(__name__)


def read(path: Path | str) -> dict[str, Any]:
    """A configuration file as it stands, not yet checked.

    Raises:
        ValueError: there is no such file, or it is not a YAML mapping.
    """
    try:
        content = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise ValueError(f"{path}: no such configuration file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: keys and values are needed, such as in config/quick.yaml")
    return content


def from_words(value: Any) -> Any:
    """Numbers, truth values and nulls that are still words, read as YAML reads them.

    Snakemake hands on what stands inside lists and mappings of its ``--config`` as words.
    """
    if isinstance(value, Mapping):
        return {key: from_words(item) for key, item in value.items()}
    if isinstance(value, list):
        return [from_words(item) for item in value]
    if isinstance(value, str):
        try:
            read_value = yaml.safe_load(value)
        except yaml.YAMLError:
            return value
        return read_value if read_value is None or isinstance(read_value, (bool, int, float)) else value
    return value


def check(config: Mapping[str, Any], budgets: bool = True) -> dict[str, Any]:
    """A configuration with nothing wrong in it, and nothing left open.

    ``methods: all`` becomes the list of all methods, a length's name its shape, and keys that may be left out get the
    schema's default. The reference, ``dense``, is added where a list of methods leaves it out, and that is logged.

    Args:
        config: as read from a file or a command line.
        budgets: whether each method's reach is held against the budget; this plans its sparsest and densest mask.

    Raises:
        ValueError: one line: the key, the value, and the nearest that is allowed.
    """
    from benchmark import kernels, metric, models

    if is_speed(config):
        raise ValueError(f"speed: this is an experiment of times, without clips; {SPEED_HINT}")
    config = _with_defaults(config, _checked_schema(config))
    config["methods"] = _methods(config["methods"], config["knobs"])
    specs = {name: models.get(name) for name in config["models"]}
    for spec in specs.values():
        if not is_testbed(spec.name):
            have = ", ".join(filter(is_testbed, models.names()))
            raise ValueError(
                f"models: {spec.name} has no weights here, so no clips can be drawn with it; allowed: {have} "
                "(what it would cost: python -m benchmark plan)"
            )
    config["lengths"] = [_length(specs, value) for value in config["lengths"]]
    names = [length["name"] for length in config["lengths"]]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"lengths: {name!r} stands there {names.count(name)} times; each once is needed")
    _check_schedule(config["schedule"], specs)
    _check_names("kernel", [config["kernel"]], [kernels.AUTO, *kernels.names()])
    _check_names("metrics", config["metrics"], metric.metric_names())
    config["tuned"] = _tuned(config, specs)
    if budgets and config["budget"] is not None:
        _check_budget(config, specs)
    return config


def load(path: Path | str) -> dict[str, Any]:
    """A configuration file, checked.

    Raises:
        ValueError: one line that begins with the file's name.
    """
    try:
        return check(read(path))
    except ValueError as error:
        line = str(error)
        raise ValueError(line if line.startswith(f"{path}:") else f"{path}: {line}") from None


def cells(config: Mapping[str, Any]) -> list[Cell]:
    """Every cell of a checked configuration: models, then lengths, then methods, each untuned and then tuned.

    A cell says everything that decides its own clips and nothing else. A method without a density to set gets no
    budget, so that another budget does not run it again.
    """
    from benchmark import models, registry
    from benchmark.budget import has_budget

    found, tuned = [], config.get("tuned")
    for model in config["models"]:
        spec = models.get(model)
        for length in config["lengths"]:
            frames, height, width = shape(spec, length)
            layout = spec.layout(frames, height, width)
            for method in config["methods"]:
                knobs = dict(config["knobs"].get(method, {}))
                solvable = has_budget(registry.get(method, knobs), layout, config["block"])
                cell = Cell(
                    experiment=config["experiment"],
                    model=model,
                    length=length["name"],
                    frames=frames,
                    height=height,
                    width=width,
                    method=method,
                    knobs=knobs,
                    budget=config["budget"] if solvable else None,
                    block=config["block"],
                    kernel=config["kernel"],
                    **config["schedule"],
                    clips=config["prompts"]["count"],
                    seed=config["prompts"]["seed"],
                )
                found.append(cell)
                if tuned and method in tuned["methods"] and length["name"] in tuned["lengths"]:
                    settings = {key: value for key, value in tuned.items() if key not in ("methods", "lengths")}
                    found.append(replace(cell, tuned=True, tuning_settings=settings))
    return found


def shape(spec: ModelSpec, length: Mapping[str, Any]) -> tuple[int, int, int]:
    """Frames, height and width in pixels of a checked length of a model."""
    frames = length["frames"] if length["frames"] is not None else spec.lengths[length["name"]]
    return frames, length["height"] or spec.default.height, length["width"] or spec.default.width


def is_speed(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is of the other kind: times at the paper's shapes, without clips; see ``speed``."""
    return "speed" in config


def check_speed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a speed experiment, held against the schema, with what was left open filled in.

    Raises:
        ValueError: one line: the key, the value and what is allowed.
    """
    if not is_speed(config):
        raise ValueError("speed: the key is missing; an experiment of times needs it, such as config/h100.yaml")
    schema = _checked_schema(config)
    speed = _with_defaults(config["speed"], schema["properties"]["speed"])
    return {"experiment": config["experiment"], "speed": speed}


def is_testbed(model: str) -> bool:
    """Whether a model is one of those whose weights are shipped."""
    return model.startswith("testbed-")


def weights_files(model: str) -> list[Path]:
    """What a testbed's clips are drawn with besides its code, below the project's root: weights and manifest.

    The first is the file whose hash stands for the weights: of weights in shards their index.
    """
    weights = [WEIGHTS_FOLDER / f"{model}.safetensors"]
    index = WEIGHTS_FOLDER / f"{model}.safetensors.index.json"
    if (ROOT / index).exists():
        weights = [index, *sorted(path.relative_to(ROOT) for path in (ROOT / WEIGHTS_FOLDER).glob(f"{model}-*-of-*"))]
    return [*weights, WEIGHTS_FOLDER / "manifest.json"]


def _checked_schema(config: Mapping[str, Any]) -> dict[str, Any]:
    """Holds a configuration against the schema, which is returned."""
    import jsonschema

    schema = yaml.safe_load(SCHEMA_FILE.read_text())
    errors = sorted(
        jsonschema.Draft202012Validator(schema).iter_errors(config),
        key=lambda error: (error.validator != "additionalProperties", list(map(str, error.absolute_path))),
    )
    if errors:
        raise ValueError(_one_line(errors[0]))
    return schema


def _one_line(error: Any) -> str:
    """A refusal of jsonschema in the words of this benchmark."""
    from benchmark.registry import nearest

    for inner in error.context or ():
        if inner.validator == "additionalProperties":  # the typing error inside one of several forms
            return _one_line(inner)
    where = ""
    for key in error.absolute_path:
        where += f"[{key}]" if isinstance(key, int) else f".{key}" if where else str(key)
    if error.validator == "additionalProperties":
        allowed = list(error.schema["properties"])
        key = next(key for key in error.instance if key not in allowed)
        return f"{where + '.' if where else ''}{key}: the key is unknown: {nearest(str(key), allowed)}"
    if error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        return f"{where + '.' if where else ''}{missing[0]}: the key is missing"
    needed = error.schema.get("description") or error.message
    return f"{where}={error.instance!r}: needed: {needed}"


def _with_defaults(config: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in which every key of the schema that has a default is there."""
    full = dict(config)
    for key, part in schema["properties"].items():
        if full.get(key) is None and "default" in part:
            full[key] = part["default"]
        if isinstance(full.get(key), Mapping):
            full[key] = _with_defaults(full[key], part) if "properties" in part else dict(full[key])
    return full


def _methods(wanted: list[str] | str, knobs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The methods to run, in the order of the tables; each is imported and its knobs are set once."""
    from benchmark import registry

    known = registry.names()
    wanted = known if wanted == "all" else wanted
    for name in (*wanted, *knobs):
        if name not in known:
            key = "methods" if name in wanted else "knobs"
            raise ValueError(f"{key}: method {name!r} is unknown: {registry.nearest(name, known)}")
    if REFERENCE not in wanted:
        logger.info("methods: %s is added, the reference that all clips are compared with", REFERENCE)
        wanted = [REFERENCE, *wanted]
    for name in {*wanted, *knobs}:
        try:
            registry.get(name, knobs.get(name, {}))
        except ValueError:
            raise
        except Exception as error:  # whatever a file in methods/ does when it is imported
            message = " ".join(str(error).split())
            raise ValueError(f"methods/{name}.py: cannot be used: {type(error).__name__}: {message}") from error
    return [name for name in known if name in wanted]


def _length(specs: Mapping[str, ModelSpec], value: str | Mapping[str, Any]) -> dict[str, Any]:
    """A length as a mapping; its shape is checked with every model, and left None where it is the model's own."""
    from benchmark.registry import nearest

    named = isinstance(value, str)
    length = {"name": value} if named else dict(value)
    length = {"frames": None, "height": None, "width": None} | length
    for spec in specs.values():
        if named and value not in spec.lengths:
            raise ValueError(f"lengths: {spec.name} has no length {value!r}: {nearest(value, list(spec.lengths))}")
        try:
            spec.layout(*shape(spec, length))
        except ValueError as error:
            raise ValueError(f"lengths: {length['name']}: {error}") from None
    return length


def _check_schedule(schedule: Mapping[str, int], specs: Mapping[str, ModelSpec]) -> None:
    if schedule["dense_steps"] > schedule["steps"]:
        raise ValueError(f"schedule.dense_steps={schedule['dense_steps']}: at most {schedule['steps']}, all steps")
    for spec in specs.values():
        if schedule["dense_layers"] > spec.layers:
            raise ValueError(
                f"schedule.dense_layers={schedule['dense_layers']}: at most {spec.layers}, all layers of {spec.name}"
            )


def _tuned(config: Mapping[str, Any], specs: Mapping[str, ModelSpec]) -> dict[str, Any] | None:
    """Which cells there are tuned as well, and the settings of the tuning; None where there are none.

    A method or a length that the experiment leaves out is left out here, too, and that is logged: so that one list of
    methods on the command line is enough.
    """
    from benchmark import registry
    from benchmark.tuning.settings import from_mapping

    if config["tuned"] is None:
        return None
    tuned = dict(config["tuned"])
    asked = {"methods": tuned.pop("methods"), "lengths": tuned.pop("lengths")}
    _check_names("tuned.methods", asked["methods"], registry.names())
    known = {name for spec in specs.values() for name in spec.lengths}
    here = {"methods": config["methods"], "lengths": [length["name"] for length in config["lengths"]]}
    _check_names("tuned.lengths", asked["lengths"], sorted(known | set(here["lengths"])))
    for key, names in asked.items():
        left_out = [name for name in names if name not in here[key]]
        if left_out:
            logger.info("tuned.%s: %s left out, as the experiment does", key, ", ".join(left_out))
        asked[key] = [name for name in here[key] if name in names]
    settings = from_mapping(tuned)
    for spec in specs.values():
        if settings.dense_layers > spec.layers:
            raise ValueError(
                f"tuned.dense_layers={settings.dense_layers}: at most {spec.layers}, all layers of {spec.name}"
            )
        for length in config["lengths"]:
            _, height, width = shape(spec, length)
            if length["name"] in asked["lengths"] and height != width:
                raise ValueError(f"tuned.lengths: {length['name']}: {height}x{width} pixels; tuning needs square clips")
    return asked | settings.as_dict()


def _check_names(key: str, wanted: list[str], allowed: list[str]) -> None:
    from benchmark.registry import nearest

    for name in wanted:
        if name not in allowed:
            raise ValueError(f"{key}: {name!r} is unknown: {nearest(name, allowed)}")


def _check_budget(config: Mapping[str, Any], specs: Mapping[str, ModelSpec]) -> None:
    """Refuses a budget that some method misses by more than a tenth of it, as ``budget.at_budget`` does in the job."""
    budget, block = config["budget"], config["block"]
    found = list(_reaches(config, specs))
    slack = 0.1 * budget + 1e-9
    out = [(where, low, high) for where, low, high in found if low > budget + slack or high < budget - slack]
    if not out:
        return
    lowest = math.ceil(1e4 * max(low for _, low, _ in found)) / 1e4
    highest = math.floor(1e4 * min(high for _, _, high in found)) / 1e4
    where, low, high = max(out, key=lambda place: max(place[1] - budget, budget - place[2]))
    line = f"budget={budget}: {where} in blocks of {block} reaches densities from {low:.4f} to {high:.4f}"
    if lowest <= highest:
        raise ValueError(f"{line}; the nearest that all methods reach is {min(max(budget, lowest), highest):.4f}")
    raise ValueError(f"{line}; no budget is within the reach of all methods")


def _reaches(config: Mapping[str, Any], specs: Mapping[str, ModelSpec]) -> Iterator[tuple[str, float, float]]:
    """Where, lowest and highest density, for every method whose density can be set."""
    from benchmark import registry
    from benchmark.budget import reach

    for spec in specs.values():
        for length in config["lengths"]:
            layout = spec.layout(*shape(spec, length))
            for name in config["methods"]:
                method = registry.get(name, config["knobs"].get(name, {}))
                densities = reach(method, layout, config["block"])
                if densities is not None:
                    yield f"{name} on {spec.name} {length['name']} ({layout})", *densities


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.description = "Check a configuration, and list its cells."
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("file", type=Path, metavar="FILE", help="the configuration, such as config/quick.yaml")
    parser.add_argument("--json", action="store_true", help="print the cells as JSON")


def run(args: argparse.Namespace) -> int:
    """Prints the cells."""
    import torch

    torch.set_num_threads(1)  # many small steps, for which more threads only wait for each other
    found = cells(load(args.file))
    if args.json:
        print(json.dumps([cell.settings() for cell in found], indent=1))
    else:
        print("\n".join(cell.arguments() for cell in found))
    return 0
