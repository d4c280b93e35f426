"""How far results may lie apart that should be equal: what rounding alone does to clips and to the tables' numbers.

Two floors are known. That of an experiment is measured in each run: the control ``dense_repeated`` draws the dense
clips with their sums in another order. That between processors is from two trials, told of in docs/protocol.md: the
same clips drawn with all instructions of a processor, and with AVX2 alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

CONTROL = "dense_repeated"
"""The method whose clips differ from the dense ones by rounding alone."""

LEAST_PSNR = 20.0
"""dB that a clip made on another machine or with other packages has to the stored one at least; 27.6 in the trials."""

MARGIN = 28.0
"""dB that such a clip may lie below the worst clip of the control of its model and length.

In the trials the farthest clip of all methods lay 24.3 dB below it: sparse methods amplify rounding more than dense
attention does.
"""

MOVED = MappingProxyType({"psnr": 1.0, "ssim": 0.02, "lpips_untrained": 0.002, "adherence": 0.05})
"""The largest move of a method's mean over a few clips between a trial's two processors, rounded up, by metric."""

RELATIVE, ABSOLUTE = 1e-4, 1e-5
"""How far a number may be off that is measured anew elsewhere, from the same clips."""


def least_psnr(control: Mapping[str, Any] | None) -> float:
    """dB that a clip made again elsewhere must have to the stored one.

    Args:
        control: the ``measure`` record of the control at the clip's model and length; None where there is none.

    Returns:
        The worst clip of the control less ``MARGIN``, but no less than ``LEAST_PSNR``, which it also is where the
        control did not run, did not pass, has no PSNR, or drew a clip that equals the dense one, which is no measure
        of rounding.
    """
    if control is None or control["status"] != "passed":
        return LEAST_PSNR
    found = [clip["values"]["psnr"] for clip in control["clips"] if "psnr" in clip["values"]]
    if not found or max(found) >= 100:
        return LEAST_PSNR
    return max(min(found) - MARGIN, LEAST_PSNR)
