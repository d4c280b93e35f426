"""What a metric is, and how the files in ``metrics/`` are found.

A file ``metrics/<name>.py`` defines one ``METRIC = Metric(...)``; its file name is the metric's name everywhere. The
least that it needs::

    from benchmark.metric import Column, Measurement, Metric

    def measure(reference, candidate, **context):
        difference = abs(reference.astype(float) - candidate.astype(float)).mean()
        return Measurement.passed({"mae": difference})

    METRIC = Metric(columns=(Column("mae", "MAE", direction="lower"),), measure=measure)

A metric that needs weights or settings also gives ``prepare``. It is called once a job with the settings as keywords,
and what it returns is handed to every ``measure`` as keywords. Its parameters and their defaults are the settings that
the configuration may state.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Literal

import numpy as np

from benchmark.clips import check_frames

METRICS_FOLDER = Path(__file__).resolve().parent.parent / "metrics"
STATUSES = ("passed", "unsupported", "error")


@dataclass(frozen=True)
class Column:
    """One number that a metric yields, and how a table shows it.

    Args:
        key: the number's name in records, e.g. ``psnr``.
        label: the table's heading, e.g. ``PSNR``.
        unit: e.g. ``dB``; empty for a number without one.
        direction: whether ``higher`` or ``lower`` is better; None where neither can be said.
        ranks: whether a table may order or highlight methods by it.
        footnote: a sentence that every table with this column must carry; empty for none.
        decimals: digits after the point in a table.
    """

    key: str
    label: str
    unit: str = ""
    direction: Literal["higher", "lower"] | None = None
    ranks: bool = True
    footnote: str = ""
    decimals: int = 3

    def __post_init__(self) -> None:
        if not self.key.isidentifier():
            raise ValueError(f"column key {self.key!r}: letters, digits and underscores are allowed")
        if self.direction not in ("higher", "lower", None):
            raise ValueError(f"column {self.key}: direction={self.direction!r}; higher, lower or None is allowed")
        if self.ranks and self.direction is None:
            raise ValueError(f"column {self.key}: a column that ranks needs a direction, higher or lower")


@dataclass(frozen=True)
class Measurement:
    """What a metric found on one clip, or why it found nothing.

    Args:
        status: ``passed``, ``unsupported`` or ``error``.
        values: finite numbers by column key; empty unless passed.
        flags: what a reader must know of the numbers, by name, with the number of frames concerned.
        reason: one line, why there are no numbers; empty when passed.
        provenance: what the numbers rest on besides the clips, e.g. the hash of weights.
        parts: what a number was put together from, by its column's key, e.g. a judge's answers by question. Records
            have their means over the clips; no table orders methods by them.

    Raises:
        ValueError: numbers without ``passed``, ``passed`` without numbers, a number that is not finite, or parts of a
            number that is not there.
    """

    status: str
    values: Mapping[str, float] = field(default_factory=dict)
    flags: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status {self.status!r}: {', '.join(STATUSES)} are allowed")
        if (self.status == "passed") != bool(self.values):
            raise ValueError(f"status {self.status!r} with values {dict(self.values)}: only passed has values")
        if (self.status == "passed") == bool(self.reason):
            raise ValueError(f"status {self.status!r} with reason {self.reason!r}: all but passed have a reason")
        for key, value in self.values.items():
            if not math.isfinite(value):
                raise ValueError(f"value {key}={value}: a finite number is needed")
        for key, held in self.parts.items():
            if key not in self.values:
                raise ValueError(f"parts of {key!r}: {', '.join(self.values) or 'no value'} is there, not that")
            for name, value in held.items():
                if not math.isfinite(value):
                    raise ValueError(f"part {name}={value} of {key}: a finite number is needed")

    @classmethod
    def passed(
        cls,
        values: Mapping[str, float],
        flags: Mapping[str, int] | None = None,
        provenance: Mapping[str, str] | None = None,
        parts: Mapping[str, Mapping[str, float]] | None = None,
    ) -> Measurement:
        """A measurement with numbers; they become plain floats."""
        plain = {key: float(value) for key, value in values.items()}
        return cls("passed", plain, flags or {}, "", provenance or {}, parts or {})

    @classmethod
    def unsupported(cls, reason: str) -> Measurement:
        """No numbers, because something that the metric needs is not at hand."""
        return cls("unsupported", reason=reason)


@dataclass(frozen=True)
class Metric:
    """A metric, as its file declares it.

    Args:
        columns: every number that it can yield; one clip may get some of them.
        measure: ``measure(reference, candidate, **context) -> Measurement``; both clips are ``uint8`` (frames, height,
            width, 3), the reference None where ``needs_reference`` is false. Context holds what ``prepare`` returned
            and the clip's facts (such as its ``prompt``); take ``**context`` for those it does not use.
        needs_reference: whether it compares with another clip.
        prepare: called once a job with the settings as keywords, returns a mapping.
        least_size: the smallest height and width in pixels that it can measure.
    """

    columns: tuple[Column, ...]
    measure: Callable[..., Measurement]
    needs_reference: bool = True
    prepare: Callable[..., Mapping[str, Any]] | None = None
    least_size: int = 1

    def __post_init__(self) -> None:
        if not self.columns:
            raise ValueError("a metric needs at least one column")
        keys = [column.key for column in self.columns]
        if len(set(keys)) != len(keys):
            raise ValueError(f"a metric has the same column twice: {', '.join(keys)}")

    def column(self, key: str) -> Column:
        """The column of a key.

        Raises:
            ValueError: the metric has no such column.
        """
        for column in self.columns:
            if column.key == key:
                return column
        raise ValueError(f"column {key!r}: this metric has {', '.join(column.key for column in self.columns)}")

    @property
    def settings(self) -> tuple[str, ...]:
        """The names of the settings that the configuration may state."""
        return tuple(inspect.signature(self.prepare).parameters) if self.prepare else ()


@dataclass(frozen=True)
class PreparedMetric:
    """A metric with its settings applied and its weights loaded, ready for many clips."""

    name: str
    metric: Metric
    context: Mapping[str, Any]

    def measure(self, reference: np.ndarray | None, candidate: np.ndarray, **facts: Any) -> Measurement:
        """Measure one clip.

        Args:
            reference: ``uint8`` (frames, height, width, 3); not used where the metric needs none.
            candidate: ``uint8`` of the same shape.
            facts: what is known of the clip, such as ``prompt``.

        Raises:
            ValueError: arrays that are no clips, clips that differ in shape, or frames too small for the metric.
        """
        if self.metric.needs_reference:
            if reference is None:
                raise ValueError(f"metric {self.name}: a reference clip is needed")
            check_pair(reference, candidate)
        else:
            check_frames(candidate, "candidate")
        height, width = candidate.shape[1:3]
        if min(height, width) < self.metric.least_size:
            least = self.metric.least_size
            raise ValueError(
                f"metric {self.name}: frames of {height}x{width} pixels; at least {least}x{least} is needed"
            )
        used = reference if self.metric.needs_reference else None
        measurement = self.metric.measure(used, candidate, **{**facts, **self.context})
        for key in measurement.values:
            self.metric.column(key)
        return measurement


def check_pair(reference: np.ndarray, candidate: np.ndarray) -> None:
    """Refuse two clips that cannot be compared frame by frame and pixel by pixel.

    Clips are never cut to the shorter one or resized.

    Raises:
        ValueError: arrays that are no clips, other numbers of frames, or other sizes.
    """
    check_frames(reference, "reference")
    check_frames(candidate, "candidate")
    if len(reference) != len(candidate):
        raise ValueError(
            f"the reference has {len(reference)} frames and the candidate {len(candidate)}; "
            "only clips of the same length are compared"
        )
    if reference.shape != candidate.shape:
        sizes = [f"{clip.shape[1]}x{clip.shape[2]}" for clip in (reference, candidate)]
        raise ValueError(
            f"frames of the reference are {sizes[0]} pixels and of the candidate {sizes[1]} (height x width); "
            "only clips of the same size are compared"
        )


def metric_names(folder: Path | None = None) -> list[str]:
    """The names of a folder's metrics, sorted, from its file names alone: nothing is imported.

    Files that start with an underscore are not metrics.

    Args:
        folder: where the files are; None means the project's ``metrics/``.
    """
    folder = METRICS_FOLDER if folder is None else Path(folder)
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def discover(folder: Path | None = None) -> dict[str, Metric]:
    """Import every metric of a folder.

    Args:
        folder: where the files are; None means the project's ``metrics/``.

    Returns:
        Metrics by name, sorted by name.

    Raises:
        ValueError: a file that cannot be imported or defines no metric, or two metrics with the same column.
    """
    folder = METRICS_FOLDER if folder is None else Path(folder)
    metrics: dict[str, Metric] = {}
    owners: dict[str, str] = {}
    for path in (folder / f"{name}.py" for name in metric_names(folder)):
        metric = getattr(_load(path), "METRIC", None)
        if not isinstance(metric, Metric):
            raise ValueError(f"{path}: METRIC is {type(metric).__name__}; METRIC = Metric(...) is needed")
        for column in metric.columns:
            if column.key in owners:
                raise ValueError(f"{path}: column {column.key!r} is already that of metric {owners[column.key]!r}")
            owners[column.key] = path.stem
        metrics[path.stem] = metric
    return metrics


def select(names: Iterable[str], metrics: Mapping[str, Metric] | None = None) -> dict[str, Metric]:
    """The metrics of these names, in this order.

    Args:
        names: wanted metrics; a name twice counts once.
        metrics: those to choose from; None means all of ``metrics/``.

    Raises:
        ValueError: no name, or one that is not a metric; the message says the nearest that is.
    """
    metrics = discover() if metrics is None else metrics
    chosen = {}
    for name in names:
        if name not in metrics:
            raise ValueError(f"metric {name!r} does not exist; {_nearest(name, metrics)}")
        chosen[name] = metrics[name]
    if not chosen:
        raise ValueError(f"no metric is named; {_nearest('', metrics)}")
    return chosen


def prepare(
    names: Iterable[str],
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> list[PreparedMetric]:
    """Make metrics ready: check their settings, then load what they need.

    Args:
        names: wanted metrics.
        settings: for each metric its settings by name, e.g. ``{"lpips": {"weights": "alexnet.pth"}}``. Settings of
            metrics that are not wanted are checked but not used.
        metrics: those to choose from; None means all of ``metrics/``.

    Raises:
        ValueError: an unknown metric or setting; the message says the nearest that exists.
    """
    metrics = discover() if metrics is None else metrics
    chosen = select(names, metrics)
    settings = settings or {}
    for name, values in settings.items():
        if name not in metrics:
            raise ValueError(f"settings of metric {name!r}, which does not exist; {_nearest(name, metrics)}")
        for key in values or {}:
            if key not in metrics[name].settings:
                raise ValueError(
                    f"metric {name}: setting {key!r} does not exist; {_nearest(key, metrics[name].settings)}"
                )
    return [
        PreparedMetric(
            name,
            metric,
            MappingProxyType(dict(metric.prepare(**(settings.get(name) or {}))) if metric.prepare else {}),
        )
        for name, metric in chosen.items()
    ]


def _load(path: Path) -> ModuleType:
    """Import a metric's file; the project's own under its package name, others under a name of their own."""
    own = path.parent == METRICS_FOLDER
    name = f"metrics.{path.stem}" if own else f"metric_file_{path.stem}"
    if own and name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its module up by name while the file is being read.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        message = " ".join(str(error).split())
        raise ValueError(f"{path}: cannot be imported: {type(error).__name__}: {message}") from error
    return module


def _nearest(name: str, allowed: Iterable[str]) -> str:
    """The end of a message: the nearest name that is allowed, and all of them."""
    allowed = sorted(allowed)
    near = difflib.get_close_matches(name, allowed, n=1)
    question = f"did you mean {near[0]!r}? " if near else ""
    return f"{question}allowed: {', '.join(allowed) or 'none'}"
