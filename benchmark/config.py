"""The configuration of an experiment: read, and checked before any job starts.

``config/schema.yaml`` says what a file may hold; here its names, shapes and budgets are held against what exists.
Every refusal is one line with the key, the value and what is allowed.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from benchmark.cell import REFERENCE, Cell, canonical
from benchmark.cells import cells, shape
from benchmark.reach import check_budgets

if TYPE_CHECKING:
    from benchmark.models import ModelSpec

ROOT = Path(__file__).resolve().parent.parent
SCHEMA_FILE = ROOT / "config" / "schema.yaml"
WEIGHTS_FOLDER = Path("benchmark/testbed/weights")  # below the project's root

_COMMITTED = "reference"  # results/reference holds what is committed

_VARIANT, _SEED = re.compile(r"[A-Za-z][A-Za-z0-9_-]*"), re.compile(r"seed\d+")

SPEED_HINT = "see python -m benchmark latency --help"

EXAMPLE = """example:
  python -m benchmark config config/quick.yaml
"""

logger = logging.getLogger(__name__)


def read(path: Path | str) -> dict[str, Any]:
    """A configuration file as it stands, not yet checked.

    Raises:
        ValueError: there is no such file, it cannot be read, or it is not a YAML mapping.
    """
    try:
        content = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise ValueError(f"{path}: no such configuration file") from None
    except OSError as error:
        raise ValueError(f"{path}: no configuration file that can be read: {error.strerror}") from None
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
    config["prompts"]["count"] = _counts(config["prompts"]["count"], names, specs)
    _check_schedule(config["schedule"], specs)
    _check_names("kernel", [config["kernel"]], [kernels.AUTO, *kernels.names()])
    if config["control_kernel"] is not None:
        _check_names("control_kernel", [config["control_kernel"]], kernels.names())
    _check_names("metrics", config["metrics"], metric.metric_names())
    if "vision_reward" in config["metrics"]:
        from metrics import vision_reward

        vision_reward.check(**config["vision_reward"])
    config["tuned"] = _tuned(config, specs)
    if "variants" in config:
        config["variants"] = _variants(config, specs)
        _check_alike(cells(config))
    if budgets:
        check_budgets(config, specs)
    return config


def load(path: Path | str, budgets: bool = True) -> dict[str, Any]:
    """A configuration file, checked.

    Args:
        budgets: as in ``check``.

    Raises:
        ValueError: one line that begins with the file's name.
    """
    try:
        return check(read(path), budgets)
    except ValueError as error:
        line = str(error)
        raise ValueError(line if line.startswith(f"{path}:") else f"{path}: {line}") from None


def variants_for(config: Mapping[str, Any], purpose: str) -> list[str]:
    """The names of the variants that are for a table or figure, in the configuration's order.

    Args:
        config: checked or not.
        purpose: what stands under ``for``, such as ``table1``.

    Raises:
        ValueError: no table or figure is named so.
    """
    schema = yaml.safe_load(SCHEMA_FILE.read_text())["properties"]["variants"]["additionalProperties"]
    _check_names("for", [purpose], schema["properties"]["for"]["items"]["enum"])
    return [name for name, variant in (config.get("variants") or {}).items() if purpose in variant.get("for", ())]


def outline(path: Path | str) -> dict[str, Any]:
    """A configuration file held against the schema only, so that it may name methods that are not there any more.

    Raises:
        ValueError: one line that begins with the file's name.
    """
    config = read(path)
    try:
        _checked_schema(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return config


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


def require_weights(config: Mapping[str, Any]) -> None:
    """Refuses an experiment whose testbed has no weights yet, before anything is planned.

    Raises:
        ValueError: the files of a model are missing; the line says how they are made.
    """
    for model in config["models"]:
        missing = [path for path in weights_files(model) if not (ROOT / path).exists()]
        if missing:
            record = f"results/{config['experiment']}/training/{model}.training.json"
            raise ValueError(
                f"models: {model} has no weights, {missing[0].as_posix()} is missing; snakemake {record} with this "
                f"configuration trains it, python -m benchmark publish --model {model} --from "
                f"{Path(record).parent.as_posix()} puts it there"
            )


def _checked_schema(config: Mapping[str, Any]) -> dict[str, Any]:
    """Holds a configuration against the schema, which is returned."""
    schema = yaml.safe_load(SCHEMA_FILE.read_text())
    errors = sorted(
        _validator(schema).iter_errors(config),
        key=lambda error: (error.validator != "additionalProperties", list(map(str, error.absolute_path))),
    )
    if errors:
        raise ValueError(_one_line(errors[0]))
    if config["experiment"].lower() == _COMMITTED:
        raise ValueError(
            f"experiment={config['experiment']!r}: results/{_COMMITTED} holds the committed records, and no experiment "
            "writes there; another name is needed"
        )
    return schema


def _validator(schema: Mapping[str, Any]) -> Any:
    """jsonschema's validator, but for numbers: 4.0 is no whole number, as which a job would fail, and nan is none."""
    import jsonschema

    def whole(_: Any, value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    def number(_: Any, value: Any) -> bool:
        return whole(_, value) or (isinstance(value, float) and math.isfinite(value))

    kind = jsonschema.Draft202012Validator
    types = kind.TYPE_CHECKER.redefine_many({"integer": whole, "number": number})
    return jsonschema.validators.extend(kind, type_checker=types)(schema)


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


def _counts(count: int | Mapping[str, int], lengths: list[str], specs: Mapping[str, ModelSpec]) -> dict[str, int]:
    """Prompts of each length that is there; those of lengths that were left out do no harm."""
    if isinstance(count, int):
        return dict.fromkeys(lengths, count)
    known = {name for spec in specs.values() for name in spec.lengths}
    _check_names("prompts.count", count, sorted(known | set(lengths)))
    for name in lengths:
        if name not in count:
            raise ValueError(f"prompts.count: {name} is missing: a number for each length is needed, or one for all")
    return {name: count[name] for name in lengths}


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
        registry.get(name, knobs.get(name, {}))
    wanted = [name for name in known if name in wanted]
    titles: dict[str, str] = {}
    for name in wanted:
        title = registry.method_class(name).title
        other = titles.setdefault(title, name)
        if other != name:
            raise ValueError(
                f"methods: {other} and {name} have one title, {title!r}, and tables could not tell their rows apart; "
                f"another is needed in methods/{name}.py"
            )
    return wanted


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
    shipped_only = tuned.pop("shipped_only", False)
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
    settings = from_mapping(tuned).as_dict()
    _check_tuning(settings, asked["lengths"], config, specs)
    return asked | {"shipped_only": shipped_only} | settings


def _variants(config: Mapping[str, Any], specs: Mapping[str, ModelSpec]) -> dict[str, dict[str, Any]]:
    """The variants, each with everything that it leaves out filled in from the experiment.

    A method or a length that the experiment leaves out is left out here, too, and that is logged; so is a variant that
    has nothing left.
    """
    if config["tuned"] is not None:
        raise ValueError("tuned: an experiment with variants has it in the variants")
    found = {}
    for name, given in config["variants"].items():
        if not _VARIANT.fullmatch(name) or name in ("tuned", "untuned") or _SEED.fullmatch(name):
            raise ValueError(
                f"variants.{name}: another name is needed: a letter first, then letters, digits, dash, underscore; not "
                "tuned, untuned or seed with a number"
            )
        variant = _variant(config, specs, name, given)
        if variant["methods"] and variant["lengths"]:
            found[name] = variant
        else:
            logger.info("variants.%s: left out, as its methods or lengths are", name)
    for name, variant in found.items():
        _check_merge(found, name, variant["merge"] or ())
        _check_start(found, name)
    if not found:
        raise ValueError("variants: none has a method and a length of the experiment's")
    return found


def _variant(
    config: Mapping[str, Any], specs: Mapping[str, ModelSpec], name: str, given: Mapping[str, Any]
) -> dict[str, Any]:
    """One variant, checked and complete."""
    from benchmark import registry
    from benchmark.tuning.settings import from_mapping

    where = f"variants.{name}"
    here = {"methods": config["methods"], "lengths": [length["name"] for length in config["lengths"]]}
    known = {name for spec in specs.values() for name in spec.lengths} | set(here["lengths"])
    asked = {"methods": given["methods"], "lengths": given.get("lengths", here["lengths"])}
    for key, allowed in (("methods", registry.names()), ("lengths", sorted(known))):
        _check_names(f"{where}.{key}", asked[key], allowed)
        left_out = [value for value in asked[key] if value not in here[key]]
        if left_out:
            logger.info("%s.%s: %s left out, as the experiment does", where, key, ", ".join(left_out))
        asked[key] = [value for value in here[key] if value in asked[key]]
    knobs = {method: dict(values) for method, values in config["knobs"].items()}
    for method, values in given.get("knobs", {}).items():
        _check_names(f"{where}.knobs", [method], given["methods"])
        knobs[method] = knobs.get(method, {}) | values
    schedule = {key: config["schedule"][key] for key in ("dense_steps", "dense_layers")} | given.get("schedule", {})
    tuned = given.get("tuned")
    try:
        for method in asked["methods"]:
            registry.get(method, knobs.get(method, {}))
        _check_schedule(config["schedule"] | schedule, specs)
        if tuned is not None:
            tuned = from_mapping(tuned).as_dict()
            _check_tuning(tuned, asked["lengths"], config, specs)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if tuned is not None and "merge" in given:
        raise ValueError(f"{where}: tuned and merge: one of them is needed; what is merged is not trained again")
    if tuned is None and "start" in given:
        raise ValueError(f"{where}.start: tuned is needed beside it; it is where a tuning starts")
    if tuned is None and "merge" not in given and REFERENCE in asked["methods"]:
        raise ValueError(f"{where}.methods: untuned {REFERENCE} is there as the reference; another method is needed")
    return {
        "for": given.get("for", []),
        "label": given.get("label", name),
        **asked,
        "budget": given.get("budget", config["budget"]),
        "schedule": schedule,
        "knobs": knobs,
        "seed": given.get("seed", config["prompts"]["seed"]),
        "tuned": tuned,
        "merge": given.get("merge"),
        "start": given.get("start"),
    }


def _check_merge(variants: Mapping[str, Mapping[str, Any]], name: str, parts: Iterable[str]) -> None:
    """Refuses to merge what is no adapter; cells say whether its lengths and methods fit."""
    from benchmark.tuning.settings import FULL

    adapters = [other for other, variant in variants.items() if variant["tuned"] and variant["tuned"]["kind"] != FULL]
    for part in parts:
        if part not in adapters:
            allowed = f"allowed are variants with an adapter: {', '.join(adapters) or 'there are none'}"
            raise ValueError(f"variants.{name}.merge: {part!r} is none; {allowed}")


def _check_start(variants: Mapping[str, Mapping[str, Any]], name: str) -> None:
    """Refuses a tuning that starts from one of another kind or rank, or, through others, from itself."""
    variant, start = variants[name], variants[name]["start"]
    if start is None:
        return
    shape = [variant["tuned"][key] for key in ("kind", "rank")]
    alike = [other for other, value in variants.items() if value["tuned"] and other != name]
    alike = [other for other in alike if [variants[other]["tuned"][key] for key in ("kind", "rank")] == shape]
    if start not in alike:
        names = ", ".join(alike) or "there are none"
        allowed = f"allowed are the experiment's other tuned variants of its kind and rank: {names}"
        raise ValueError(f"variants.{name}.start: {start!r} is none; {allowed}")
    behind = [name]
    while start is not None:
        if start in behind:
            raise ValueError(f"variants.{name}.start: {' from '.join([*behind, start])}: one needs no start")
        behind.append(start)
        start = variants[start]["start"] if start in variants else None


def _check_alike(found: Iterable[Cell]) -> None:
    """Refuses two cells that would draw the same clips under the names of two variants."""
    from benchmark import registry

    seen: dict[str, Cell] = {}
    for cell in found:
        plain = replace(cell, variant="")
        if not registry.method_class(cell.method).sparse:  # dense in every step, whatever the schedule
            plain = replace(plain, dense_steps=0, dense_layers=0)
        other = seen.setdefault(canonical(plain), cell)
        if other is not cell:
            raise ValueError(
                f"variants.{cell.variant}: {cell.method} at {cell.length} is the same cell as in {other.variant}; "
                f"one of them is needed: leave {cell.method} out of the other's methods"
            )


def _check_tuning(
    tuned: Mapping[str, Any], lengths: Iterable[str], config: Mapping[str, Any], specs: Mapping[str, ModelSpec]
) -> None:
    """Refuses settings of a tuning that a model or the shape of a length does not allow."""
    for spec in specs.values():
        if tuned["dense_layers"] > spec.layers:
            raise ValueError(
                f"tuned.dense_layers={tuned['dense_layers']}: at most {spec.layers}, all layers of {spec.name}"
            )
        for length in config["lengths"]:
            _, height, width = shape(spec, length)
            if length["name"] in lengths and height != width:
                raise ValueError(f"tuned.lengths: {length['name']}: {height}x{width} pixels; tuning needs square clips")


def _check_names(key: str, wanted: list[str], allowed: list[str]) -> None:
    from benchmark.registry import nearest

    for name in wanted:
        if name not in allowed:
            raise ValueError(f"{key}: {name!r} is unknown: {nearest(name, allowed)}")


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
