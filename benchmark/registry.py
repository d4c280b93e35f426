"""Finding methods: every file in ``methods/`` is one, under its file's name."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.method import Method  # brings PyTorch, which names and their order do without

METHODS_FOLDER = Path(__file__).resolve().parent.parent / "methods"

# The order of rows in tables; a method that is not named here comes after these, by name.
TABLE_ORDER = (
    "dense", "riflex", "sta", "pa", "svg", "spatial", "temporal", "longlora", "sana", "harmonic", "radial", "random",
    "dense_repeated",
)  # fmt: skip


def names() -> list[str]:
    """Every method's name, in the order of tables."""
    found = [module.name for module in pkgutil.iter_modules([str(METHODS_FOLDER)])]
    return sorted(found, key=lambda name: (TABLE_ORDER.index(name) if name in TABLE_ORDER else 99, name))


def source_file(name: str) -> Path:
    """The file that defines a method."""
    return METHODS_FOLDER / f"{name}.py"


def method_class(name: str) -> type[Method]:
    """The class that a method's file defines.

    Raises:
        ValueError: there is no such method (the nearest name is given), its file cannot be imported, or defines none or
            several, or one that ``check_definition`` refuses.
    """
    if name not in names():
        raise ValueError(f"method {name!r} is unknown: {nearest(name, names())}")
    from benchmark.method import Method, check_definition

    try:
        module = importlib.import_module(f"methods.{name}")
    except Exception as error:  # whatever a file in methods/ does when it is imported
        message = " ".join(str(error).split())
        raise ValueError(f"methods/{name}.py: cannot be used: {type(error).__name__}: {message}") from error
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if len(classes) != 1:
        raise ValueError(f"methods/{name}.py: one subclass of Method is needed, {len(classes)} are there")
    check_definition(classes[0])
    return classes[0]


def get(name: str, knobs: Mapping[str, Any] | None = None) -> Method:
    """A method at its default knobs, but for those given.

    Raises:
        ValueError: the method or a knob is unknown, its file cannot be used, or a value is not allowed.
    """
    kind = method_class(name)
    known = kind().knobs()
    for key in knobs or {}:
        if key not in known:
            has = nearest(key, list(known)) if known else "it has no knobs"
            raise ValueError(f"method {name} has no knob {key!r}: {has}")
    return kind(**(knobs or {}))


def parse_knobs(name: str, settings: list[str]) -> dict[str, Any]:
    """Knobs from ``key=value`` words, each converted to the type of the knob's default.

    Raises:
        ValueError: a word is not ``key=value``, or the value cannot be read.
    """
    known = get(name).knobs()
    knobs = {}
    for word in settings:
        key, equals, text = word.partition("=")
        if not equals:
            raise ValueError(f"setting {word!r}: KNOB=VALUE is needed")
        knobs[key] = _convert(name, key, text, known[key]) if key in known else text
    return knobs


def _convert(method: str, key: str, text: str, default: Any) -> Any:
    kind = type(default)
    if kind is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() not in words:
            raise ValueError(f"{method}: {key}={text!r}: true or false is needed")
        return words[text.lower()]
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{method}: {key}={text!r}: a value like {default!r} is needed") from None


def nearest(word: str, allowed: list[str]) -> str:
    """What to say to a word that is not allowed: the nearest one that is, and all of them."""
    close = difflib.get_close_matches(word, allowed, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}allowed: {', '.join(allowed)}"
