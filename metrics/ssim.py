"""Structural similarity (Wang et al. 2004): 11x11 Gaussian window of sigma 1.5, mean over frames and channels."""

from __future__ import annotations

import numpy as np

from benchmark.metric import Column, Measurement, Metric

SIGMA = 1.5
WINDOW = 11


def frame_ssim(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """SSIM of each frame, the mean of its three channels; K1 = 0.01, K2 = 0.03, peak 255.

    Population (not sample) covariances, and only windows that lie wholly inside the frame, as in the original paper.

    Args:
        reference, candidate: ``uint8`` (frames, height, width, 3), frames of at least 11x11 pixels.

    Returns:
        float64 (frames,), 1 for identical frames.
    """
    from skimage.metrics import structural_similarity

    return np.array(
        [
            structural_similarity(
                a, b, gaussian_weights=True, sigma=SIGMA, use_sample_covariance=False, data_range=255, channel_axis=-1
            )
            for a, b in zip(reference, candidate, strict=True)
        ]
    )


def measure(reference: np.ndarray, candidate: np.ndarray, **context: object) -> Measurement:
    """Mean over frames of SSIM."""
    return Measurement.passed({"ssim": frame_ssim(reference, candidate).mean()})


METRIC = Metric(columns=(Column("ssim", "SSIM", direction="higher"),), measure=measure, least_size=WINDOW)
