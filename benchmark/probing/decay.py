"""How attention falls with the distance of query and key, and the exponentials that are fitted to it (the paper's
Figures 4 and 8b)."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from benchmark.layout import VideoLayout

FIT = "y = exp(-a x + b) over distances above 0, least squares on the scores (scipy.optimize.curve_fit)"
SPREAD = (10, 90)
"""Percentiles over layers and heads between which a curve's spread is shown."""


def by_frame_distance(pairs: np.ndarray) -> np.ndarray:
    """Means over all pairs of frames at the same distance: (..., frames, frames) to (..., frames)."""
    frames = pairs.shape[-1]
    return np.stack(
        [
            (pairs.diagonal(n, -2, -1).sum(-1) + (pairs.diagonal(-n, -2, -1).sum(-1) if n else 0))
            / ((frames - n) * (2 if n else 1))
            for n in range(frames)
        ],
        axis=-1,
    )


def by_place_distance(pairs: np.ndarray, layout: VideoLayout) -> tuple[np.ndarray, np.ndarray]:
    """Means over all pairs of places in a frame at the same distance, rounded to whole tokens.

    Args:
        pairs: (..., frame tokens, frame tokens).

    Returns:
        The distances, (n,), and the means, (..., n).
    """
    index = np.arange(layout.frame_tokens)
    row, column = index // layout.width, index % layout.width
    exact = np.hypot(row[:, None] - row[None], column[:, None] - column[None])
    rounded = np.rint(exact).astype(int)
    found = np.unique(rounded)
    return found, np.stack([pairs[..., rounded == n].mean(-1) for n in found], axis=-1)


def fit_decay(distance: np.ndarray, score: np.ndarray, nearest: int = 1) -> dict[str, float]:
    """The exponential y = exp(-a x + b) nearest to scores in least squares, and its R^2.

    Found by ``scipy.optimize.curve_fit`` on the scores themselves, from the straight line through their logarithms.
    Distance 0 is left out by default: it is the token itself.

    Args:
        distance, score: (n,), scores above 0.
        nearest: the least distance that counts.

    Returns:
        ``a``, ``b`` and ``r2``.

    Raises:
        ValueError: fewer than three distances, a score that is not above 0, or no fit was found.
    """
    from scipy.optimize import OptimizeWarning, curve_fit

    counted = distance >= nearest
    x, y = distance[counted].astype(np.float64), score[counted].astype(np.float64)
    if len(x) < 3:
        raise ValueError(f"energy decay: {len(x)} distances from {nearest} on; at least 3 are needed for a fit")
    if not (y > 0).all():
        raise ValueError(f"energy decay: the lowest score is {y.min()}; scores above 0 are needed for a fit")
    slope, offset = np.polyfit(x, np.log(y), 1)
    try:
        # Values may overflow on the way to the fit; its covariance, which some have none of, is not used.
        with np.errstate(over="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizeWarning)
            (a, b), _ = curve_fit(lambda x, a, b: np.exp(-a * x + b), x, y, p0=(-slope, offset), maxfev=10_000)
    except RuntimeError as error:
        raise ValueError(f"energy decay: no fit was found ({' '.join(str(error).split())})") from None
    residual = np.square(y - np.exp(-a * x + b)).sum()
    spread = np.square(y - y.mean()).sum()
    return {"a": float(a), "b": float(b), "r2": float(1 - residual / spread) if spread else 1.0}


def decay_of(distance: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """The curves over a distance, and the fits of their means.

    Args:
        distance: (n,).
        scores: (steps, layers, heads, n).

    Returns:
        ``distance``; ``mean`` over steps, layers and heads; ``low`` and ``high``, the percentiles ``SPREAD`` over
        layers and heads; and ``fits``: ``mean``, ``mean_from_0`` (the same with distance 0), and lists over ``layers``,
        ``steps`` and ``heads`` (a list for each layer) of the fit to the mean over the rest. A fit has ``a``, ``b`` and
        ``r2``; what cannot be fitted has a ``reason``.

    Raises:
        ValueError: the mean of all cannot be fitted.
    """
    by_head = scores.mean(axis=0)
    low, high = np.percentile(by_head, SPREAD, axis=(0, 1))
    curves = {"mean": by_head.mean(axis=(0, 1)), "low": low, "high": high}
    return {
        "distance": distance.tolist(),
        **{name: [_digits(value) for value in curve] for name, curve in curves.items()},
        "fits": {
            "mean": fit_decay(distance, curves["mean"]),
            "mean_from_0": _fit(distance, curves["mean"], 0),
            "layers": [_fit(distance, curve) for curve in by_head.mean(axis=1)],
            "steps": [_fit(distance, curve) for curve in scores.mean(axis=(1, 2))],
            "heads": [[_fit(distance, curve) for curve in layer] for layer in by_head],
        },
    }


def _fit(distance: np.ndarray, score: np.ndarray, nearest: int = 1) -> dict[str, Any]:
    """A fit, or why there is none."""
    try:
        return fit_decay(distance, score, nearest)
    except ValueError as error:
        return {"reason": str(error)}


def _digits(value: float) -> float:
    """Six digits, so that the file stays small."""
    return float(f"{value:.6g}")
