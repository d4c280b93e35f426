"""Peak signal-to-noise ratio: the mean over frames of each frame's PSNR in dB."""

from __future__ import annotations

import numpy as np

from benchmark.metric import Column, Measurement, Metric

PEAK = 255.0
CAP = 100.0


def frame_psnr(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """PSNR of each frame: 10 log10(255^2 / mean squared error), at most 100 dB.

    The arithmetic is in float64: uint8 differences would wrap round. The cap stands for the infinite PSNR of identical
    frames, which has no mean.

    Args:
        reference, candidate: ``uint8`` (frames, height, width, 3).

    Returns:
        float64 (frames,), in dB.
    """
    # Frame by frame, since float64 copies of two whole clips would be eight times their size.
    errors = np.array(
        [np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2) for a, b in zip(reference, candidate, strict=True)]
    )
    least_error = PEAK**2 / 10 ** (CAP / 10)
    return np.where(errors > least_error, 10 * np.log10(PEAK**2 / np.maximum(errors, least_error)), CAP)


def measure(reference: np.ndarray, candidate: np.ndarray, **context: object) -> Measurement:
    """Mean over frames of PSNR; frames at the cap are counted in the flag ``psnr_capped``."""
    values = frame_psnr(reference, candidate)
    capped = int(np.count_nonzero(values >= CAP))
    return Measurement.passed({"psnr": values.mean()}, {"psnr_capped": capped} if capped else {})


METRIC = Metric(columns=(Column("psnr", "PSNR", unit="dB", direction="higher", decimals=1),), measure=measure)
