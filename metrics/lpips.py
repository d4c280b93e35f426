"""LPIPS (Zhang et al. 2018), version 0.1 with AlexNet, on plain torch; lower is nearer.

The linear heads are those of the ``lpips`` package, read from its folder without importing it, because it imports
torchvision. The trunk is AlexNet's convolutions with torchvision's ImageNet weights, which come from the setting
``weights``, from torch's hub cache, or, when the setting ``download`` allows it, from torchvision's address. They are
always checked by hash.

Without these weights the same distance is measured on a trunk drawn from a fixed seed. It has the key
``lpips_untrained``, ranks nothing, and every table that shows it carries ``FOOTNOTE``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmark.metric import Column, Measurement, Metric

FOOTNOTE = (
    "lpips_untrained is not LPIPS: the trained weights of its AlexNet trunk were not at hand, so the trunk is random "
    "(fixed seed). Its values cannot be compared with published LPIPS and rank no method."
)
TRUNK_FILE = "alexnet-owt-7be5be79.pth"
TRUNK_URL = f"https://download.pytorch.org/models/{TRUNK_FILE}"
# torchvision names a file of weights after the first digits of its SHA-256.
TRUNK_SHA256_PREFIX = "7be5be79"
UNTRAINED_SEED = 0
CHUNK_FRAMES = 8
CHANNELS = (64, 192, 384, 256, 256)
# The smallest frame for which the last convolution still has one position.
LEAST_SIZE = 31

log = logging.getLogger(__name__)


class AlexNetTrunk(nn.Module):
    """AlexNet's convolutions, in torchvision's order, so that its state dict's names ``features.N`` fit.

    Input (batch, 3, height, width); output the five feature maps after each ReLU, with ``CHANNELS`` channels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(64, 192, kernel_size=5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(192, 384, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, kernel_size=3, padding=1),
            nn.ReLU(),
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        maps = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                maps.append(x)
        return maps


class PerceptualDistance(nn.Module):
    """LPIPS's distance: unit-normalised features, squared differences, linear heads, spatial mean, sum of layers.

    Args:
        trunk: gives five feature maps.
        heads: five vectors of weights, one entry a channel.
    """

    def __init__(self, trunk: nn.Module, heads: list[torch.Tensor]) -> None:
        super().__init__()
        self.trunk = trunk
        for index, head in enumerate(heads):
            self.register_buffer(f"head{index}", head.float().reshape(1, -1, 1, 1))
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).reshape(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).reshape(1, 3, 1, 1))

    def forward(self, reference: torch.Tensor, candidate: torch.Tensor) -> torch.Tensor:
        """Distances (batch,) of images (batch, 3, height, width), float32 from -1 to 1."""
        maps = self.trunk((torch.cat([reference, candidate]) - self.shift) / self.scale)
        total = torch.zeros(len(reference), device=reference.device)
        for index, features in enumerate(maps):
            unit = features / (features.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)
            first, second = unit.chunk(2)
            weighted = (first - second).square() * getattr(self, f"head{index}")
            total = total + weighted.sum(dim=1).mean(dim=(1, 2))
        return total


def read_heads() -> list[torch.Tensor] | str:
    """The five linear heads of the ``lpips`` package, each (channels,); a string says why there are none."""
    spec = importlib.util.find_spec("lpips")
    if spec is None or spec.origin is None:
        return "the package lpips, which holds the linear heads, is not installed"
    path = Path(spec.origin).parent / "weights" / "v0.1" / "alex.pth"
    if not path.is_file():
        return f"the package lpips holds no linear heads (no {path.name} under weights/v0.1)"
    state = torch.load(path, map_location="cpu", weights_only=True)
    return [state[f"lin{index}.model.1.weight"].flatten() for index in range(len(CHANNELS))]


def find_trunk_weights(weights: str | None = None, download: bool = False) -> Path | None:
    """Where AlexNet's weights are: the given path, torch's hub cache, or a download into that cache.

    Returns:
        The file, its hash not yet checked; None where there is none.

    Raises:
        ValueError: a given path that is no file, or a download that failed.
    """
    if weights is not None:
        path = Path(weights).expanduser()
        if not path.is_file():
            raise ValueError(f"metric lpips: weights {path}: no such file; give the path of {TRUNK_FILE}")
        return path
    path = Path(torch.hub.get_dir()) / "checkpoints" / TRUNK_FILE
    if path.is_file():
        return path
    if not download:
        return None
    log.info("downloading %s to %s", TRUNK_URL, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(TRUNK_URL, str(path), hash_prefix=TRUNK_SHA256_PREFIX)
    except (OSError, RuntimeError) as error:
        message = " ".join(str(error).split())
        raise ValueError(
            f"metric lpips: download of {TRUNK_URL} failed ({message}); "
            "set download to false, or give the path of the file in weights"
        ) from error
    return path


def load_trunk(path: Path) -> tuple[AlexNetTrunk, str]:
    """AlexNet's trunk with the weights of a file, and the file's SHA-256.

    Raises:
        ValueError: another hash than that of torchvision's file, or a file without AlexNet's convolutions.
    """
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(TRUNK_SHA256_PREFIX):
        raise ValueError(
            f"metric lpips: weights {path}: SHA-256 starts with {digest[:8]}, that of {TRUNK_FILE} with "
            f"{TRUNK_SHA256_PREFIX}; the file is not used"
        )
    trunk = AlexNetTrunk()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        # The file also holds the classifier, which LPIPS does not use.
        trunk.load_state_dict({key: value for key, value in state.items() if key.startswith("features.")})
    except (RuntimeError, pickle.UnpicklingError, AttributeError) as error:
        raise ValueError(f"metric lpips: weights {path}: do not hold AlexNet's convolutions") from error
    return trunk, digest


def untrained_trunk(seed: int = UNTRAINED_SEED) -> AlexNetTrunk:
    """AlexNet's trunk with torch's usual initial weights (uniform within 1/sqrt(fan-in)), drawn from a seed."""
    generator = torch.Generator().manual_seed(seed)
    trunk = AlexNetTrunk()
    with torch.no_grad():
        for layer in trunk.features:
            if isinstance(layer, nn.Conv2d):
                bound = 1 / math.sqrt(layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1])
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.uniform_(-bound, bound, generator=generator)
    return trunk


def prepare(weights: str | None = None, download: bool = False, device: str = "cpu") -> Mapping[str, Any]:
    """Load heads and trunk once.

    Args:
        weights: path of torchvision's AlexNet file; None looks into torch's hub cache.
        download: whether a missing file may be downloaded into that cache.
        device: a torch device.

    Raises:
        ValueError: a device that is not there; see also ``find_trunk_weights`` and ``load_trunk``.
    """
    _check_device(device)
    heads = read_heads()
    if isinstance(heads, str):
        return {"unsupported": heads}
    path = find_trunk_weights(weights, download)
    if path is None:
        key, trunk = "lpips_untrained", untrained_trunk()
        provenance = {"lpips_trunk": f"random, seed {UNTRAINED_SEED}"}
        log.warning("no weights of %s: lpips_untrained is measured, which is not LPIPS", TRUNK_FILE)
    else:
        key = "lpips"
        trunk, digest = load_trunk(path)
        provenance = {"lpips_trunk": f"{TRUNK_FILE}, SHA-256 {digest}"}
    distance = PerceptualDistance(trunk, heads).to(device).eval().requires_grad_(False)
    return {"distance": distance, "key": key, "device": device, "lpips_provenance": provenance}


def _check_device(device: str) -> None:
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ValueError(f"metric lpips: device {device!r}: cpu, cuda or cuda:N is needed") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"metric lpips: device {device!r}: no CUDA GPU is available; use cpu")


def frame_distances(
    distance: nn.Module, reference: np.ndarray, candidate: np.ndarray, device: str = "cpu"
) -> np.ndarray:
    """The distance of each frame.

    Args:
        distance: takes two batches (batch, 3, height, width) of float32 from -1 to 1, gives (batch,).
        reference, candidate: ``uint8`` (frames, height, width, 3).
        device: where ``distance`` is.

    Returns:
        float64 (frames,).
    """

    def images(frames: np.ndarray) -> torch.Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(frames)).to(device)
        return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1

    parts = []
    # Convolutions on a GPU would otherwise round to TF32, or pick an algorithm that differs between runs.
    with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False, deterministic=True, benchmark=False):
        for start in range(0, len(reference), CHUNK_FRAMES):
            chunk = slice(start, start + CHUNK_FRAMES)
            parts.append(distance(images(reference[chunk]), images(candidate[chunk])).cpu())
    return torch.cat(parts).double().numpy()


def measure(reference: np.ndarray, candidate: np.ndarray, **context: Any) -> Measurement:
    """Mean over frames of the distance, under the key ``lpips`` or ``lpips_untrained``."""
    if "unsupported" in context:
        return Measurement.unsupported(context["unsupported"])
    values = frame_distances(context["distance"], reference, candidate, context["device"])
    return Measurement.passed({context["key"]: values.mean()}, provenance=context["lpips_provenance"])


METRIC = Metric(
    columns=(
        Column("lpips", "LPIPS", direction="lower"),
        Column("lpips_untrained", "LPIPS (untrained)", direction=None, ranks=False, footnote=FOOTNOTE),
    ),
    measure=measure,
    prepare=prepare,
    least_size=LEAST_SIZE,
)
