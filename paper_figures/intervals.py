"""What a mean over clips is worth: its 95 % interval, paired differences, and which of many are significant.

All clips of a model and length start from the same prompts and noise, so two methods are compared clip by clip.

**Intervals** are bootstrap intervals over the prompts (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
chapter 14: BCa, bias-corrected and accelerated): PSNR of clips is skewed and scores end at 0 and 1, which an interval
of +- 1.96 standard errors knows nothing of. The generator has a fixed seed, so the same numbers give the same interval.

**Significance** is that of Fisher's randomization test: if two methods were exchangeable, each clip's difference could
as well have the other sign, and p is the share of sign patterns whose mean difference is as far from 0 as ours. It
tests the mean that the tables print and needs no distribution. Wilcoxon's test looks at ranks, so that it can call a
difference significant whose mean is not, and the reverse; Smucker, Allan and Carterette (A Comparison of Statistical
Significance Tests for Information Retrieval Evaluation, CIKM 2007) advise against it for differences of means over
prompts, and found randomization, bootstrap and t-test to agree.

**Many comparisons**: Holm's step-down correction (A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian
Journal of Statistics 6, 1979). It bounds the chance of even one false finding in a table, whatever the dependence
between its comparisons, and finds more than Bonferroni's.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np

CONFIDENCE = 0.95
LEVEL = 0.05
"""A corrected p below this is significant."""
RESAMPLES = 9_999
FLIPS = 99_999
"""Random sign patterns where there are too many to try all; with ours, p is at least 1 / 100,000."""
EXACT = 16
"""Clips up to which all sign patterns are tried."""
SEED = 0

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval.

    Args:
        mean: the mean.
        low, high: ends of the interval; the mean itself where all values are the same.
        count: how many values it is the mean of.
    """

    mean: float
    low: float
    high: float
    count: int

    def holds(self, value: float) -> bool:
        """Whether a value is in the interval."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Comparison:
    """A paired difference.

    Args:
        difference: the mean of ours - theirs over the clips that both have, with its interval.
        p: of the randomization test, corrected for all comparisons of its family.
    """

    difference: Interval
    p: float

    @property
    def significant(self) -> bool:
        """Whether the difference is significant after the correction."""
        return self.p < LEVEL

    @property
    def sign(self) -> int:
        """1 where ours is significantly higher, -1 where it is significantly lower, 0 where neither is shown."""
        return int(math.copysign(1, self.difference.mean)) if self.significant else 0


def interval(values: Sequence[float]) -> Interval | None:
    """The mean and its 95 % bootstrap interval over the values; None for fewer than two.

    Raises:
        ValueError: a value is not finite.
    """
    import numpy as np
    from scipy.stats import bootstrap

    values = _finite(values)
    if len(values) < 2:
        return None
    mean = float(values.mean())
    if np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())):
        return Interval(mean, mean, mean, len(values))
    found = bootstrap(
        (values,),
        np.mean,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        method="BCa",
        rng=np.random.default_rng(SEED),
    )
    low, high = map(float, found.confidence_interval)
    return Interval(mean, low, high, len(values))


def compare(pairs: Mapping[Key, tuple[Sequence[float], Sequence[float]]]) -> dict[Key, Comparison]:
    """Paired differences of one family, corrected together.

    Args:
        pairs: by any key, our values and theirs, clip by clip.

    Returns:
        A comparison for every pair of two clips or more, in the same order.

    Raises:
        ValueError: a pair has not as many values on both sides, or a value is not finite.
    """
    differences = {}
    for key, (ours, theirs) in pairs.items():
        if len(ours) != len(theirs):
            raise ValueError(f"comparison {key}: {len(ours)} values and {len(theirs)}; one of each clip is needed")
        if len(ours) >= 2:
            differences[key] = _finite(ours) - _finite(theirs)
    corrected = holm(randomization_test(list(differences.values())))
    return {
        key: Comparison(interval(values), p) for (key, values), p in zip(differences.items(), corrected, strict=True)
    }


def randomization_test(differences: Sequence[Sequence[float]]) -> list[float]:
    """Two-sided p of every list of paired differences, by Fisher's randomization test of the mean.

    Up to ``EXACT`` differences all sign patterns are tried; beyond, ``FLIPS`` random ones, the same for all lists of a
    length, and our own among them (Phipson and Smyth, Permutation P-values Should Never Be Zero, 2010).

    Raises:
        ValueError: a list is empty.
    """
    import numpy as np

    lists = [_finite(values) for values in differences]
    if any(len(values) == 0 for values in lists):
        raise ValueError("randomization test: no differences; at least one is needed")
    found = [0.0] * len(lists)
    for count in {len(values) for values in lists}:
        places = [place for place, values in enumerate(lists) if len(values) == count]
        columns = np.stack([lists[place] for place in places], axis=1)
        sums = np.abs(columns.sum(axis=0))
        # Sums that are equal in exact arithmetic may differ by rounding.
        least = sums - 1e-9 * np.abs(columns).sum(axis=0)
        signs = _signs(count)
        reached = (np.abs(signs @ columns) >= least).sum(axis=0)
        ours = 0 if count <= EXACT else 1  # all patterns hold ours
        for place, number in zip(places, reached, strict=True):
            found[place] = float((number + ours) / (len(signs) + ours))
    return found


def _signs(count: int) -> np.ndarray:
    """Patterns of signs, float64 (patterns, count): all, or as many random ones as ``FLIPS``."""
    import numpy as np

    if count <= EXACT:
        bits = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
    else:
        bits = np.random.default_rng(SEED).integers(0, 2, size=(FLIPS, count), dtype=np.int8)
    return bits.astype(np.float64) * 2 - 1


def holm(ps: Sequence[float]) -> list[float]:
    """P-values corrected by Holm's step-down procedure, in the order given."""
    order = sorted(range(len(ps)), key=lambda place: ps[place])
    corrected, highest = [0.0] * len(ps), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[place]))
        corrected[place] = highest
    return corrected


def _finite(values: Sequence[float]) -> np.ndarray:
    import numpy as np

    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("a clip's value is not finite; numbers are needed")
    return values
