"""What a video model is to the benchmark: its shapes, its lengths, and how to build its transformer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from benchmark.layout import VideoLayout

if TYPE_CHECKING:
    from diffusers import ModelMixin


class Shape(NamedTuple):
    """A clip's size in frames and pixels."""

    frames: int
    height: int
    width: int


@dataclass(frozen=True, eq=False)
class ModelSpec:
    """A video diffusion transformer and the clips it makes.

    Args:
        name: the name used everywhere in the benchmark.
        paper_name: the name in the tables of the Radial Attention paper.
        parameters: parameters of the transformer as its authors state them, rounded.
        passes: forward passes a step under guidance (1 where guidance is embedded, 2 where it is classifier-free).
        temporal_compression: pixel frames a latent frame after the first, so that a clip of ``n * compression + 1``
            frames has ``n + 1`` latent frames.
        vae_compression: pixels a latent pixel along height and along width (1 without a VAE).
        default: the shape a clip has unless another is asked for.
        lengths: frames of the lengths that are compared, by name (``1x`` is the trained length).
        text_tokens: text tokens of a prompt unless other are asked for.
        joint_text: whether the text tokens are in the self-attention's sequence, after the video tokens. Where they
            are not, text enters by cross-attention, always padded to ``text_tokens``.
        transformer_class: class of the transformer in diffusers.
        transformer_config: every argument of that class, as released.
        table1: shape of the model in Table 1 of the paper, if it is there.
        steps: denoising steps of a generation.

    Raises:
        ValueError: a token would cover more than one latent frame.
    """

    name: str
    paper_name: str
    parameters: float
    passes: int
    temporal_compression: int
    vae_compression: int
    default: Shape
    lengths: Mapping[str, int]
    text_tokens: int
    joint_text: bool
    transformer_class: str
    transformer_config: Mapping[str, Any]
    table1: Shape | None = None
    steps: int = 50

    def __post_init__(self) -> None:
        if self.patch[0] != 1:
            raise ValueError(f"{self.name}: patch_size={self.patch}: one latent frame a token is needed")

    @property
    def layers(self) -> int:
        """Transformer blocks with video self-attention, of both kinds in HunyuanVideo."""
        return self.transformer_config["num_layers"] + self.transformer_config.get("num_single_layers", 0)

    @property
    def heads(self) -> int:
        """Attention heads a layer."""
        return self.transformer_config["num_attention_heads"]

    @property
    def head_dim(self) -> int:
        """Channels a head."""
        return self.transformer_config["attention_head_dim"]

    @property
    def width(self) -> int:
        """Channels of a token: heads x head size."""
        return self.heads * self.head_dim

    @property
    def in_channels(self) -> int:
        """Channels of the latent that is denoised."""
        return self.transformer_config["in_channels"]

    @property
    def patch(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns that make one token."""
        size = self.transformer_config["patch_size"]
        if isinstance(size, int):
            return self.transformer_config.get("patch_size_t", 1), size, size
        return tuple(size)

    @property
    def token_pixels(self) -> tuple[int, int]:
        """Pixel rows and columns a token covers."""
        return self.vae_compression * self.patch[1], self.vae_compression * self.patch[2]

    def layout(
        self,
        frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        text: int | None = None,
    ) -> VideoLayout:
        """The token grid of a clip.

        Args:
            frames: pixel frames; the default shape's where None.
            height: pixel rows; the default shape's where None.
            width: pixel columns; the default shape's where None.
            text: text tokens after the video tokens; ``text_tokens`` where None. Without effect where text enters by
                cross-attention, since no text token is in the sequence then.

        Raises:
            ValueError: the model can't make such a clip; the line names the nearest sizes that it can make.
        """
        frames = self.default.frames if frames is None else frames
        height = self.default.height if height is None else height
        width = self.default.width if width is None else width
        text = self.text_tokens if text is None else text
        if not _is_whole(text) or text < 0:
            raise ValueError(f"{self.name}: text={text!r}: a whole number of at least 0 is needed")
        latent_frames = 1 + self._steps_in("frames", frames, self.temporal_compression, first=1)
        rows = self._steps_in("height", height, self.token_pixels[0], first=0)
        columns = self._steps_in("width", width, self.token_pixels[1], first=0)
        return VideoLayout(latent_frames, rows, columns, text if self.joint_text else 0)

    def _steps_in(self, what: str, value: int, step: int, first: int) -> int:
        """How many ``step`` are in ``value - first``, refusing what does not divide or is out of range."""
        least = 0 if first else 1
        # The rotary table is as long as the released configuration makes it, for every axis.
        most = self.transformer_config.get("rope_max_seq_len")
        most = most - first if most is not None else None
        allowed = (
            f"{step}n+{first}" if first and step > 1 else f"a multiple of {step}" if step > 1 else "a whole number"
        )
        if most is not None:
            allowed += f" from {least * step + first} to {most * step + first}"
        else:
            allowed += f" of at least {least * step + first}"
        if not _is_whole(value):
            raise ValueError(f"{self.name}: {what}={value!r}: {allowed} is needed")
        below = (value - first) // step
        nearest = {below, below if (value - first) % step == 0 else below + 1}
        nearest = sorted({max(least, n if most is None else min(n, most)) * step + first for n in nearest})
        if value in nearest:
            return (value - first) // step
        closest = (
            f"the nearest are {nearest[0]} and {nearest[1]}" if len(nearest) == 2 else f"the nearest is {nearest[0]}"
        )
        raise ValueError(f"{self.name}: {what}={value}: {allowed} is needed; {closest}")

    def latent_shape(self, layout: VideoLayout) -> tuple[int, int, int, int]:
        """Shape (channels, latent frames, latent rows, latent columns) of the latent that has this layout."""
        time, rows, columns = self.patch
        return self.in_channels, layout.frames * time, layout.height * rows, layout.width * columns

    def resized(self, **changes: Any) -> ModelSpec:
        """The same model with some of its transformer's arguments changed, such as fewer layers for a trial.

        Raises:
            ValueError: the transformer has no such argument.
        """
        unknown = sorted(set(changes) - set(self.transformer_config))
        if unknown:
            raise ValueError(
                f"{self.name}: {self.transformer_class} has no {', '.join(unknown)};"
                f" it has {', '.join(self.transformer_config)}"
            )
        return replace(self, transformer_config={**self.transformer_config, **changes})


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def build(
    spec: ModelSpec, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0
) -> ModelMixin:
    """The model's diffusers transformer with random weights, in evaluation mode.

    Weights are made on ``device`` in ``dtype`` at once, so that a large model never exists in float32. On the device
    ``meta`` it has shapes and no memory. The state of the random generators is left as it was.

    Args:
        spec: the model; ``spec.resized(...)`` for a smaller one.
        device: where the weights are made.
        dtype: a floating-point type.
        seed: seed of the weights. The same seed gives other weights on another kind of device.
    """
    import diffusers

    device = torch.device(device)
    default_dtype = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.device(device):
        torch.manual_seed(seed)
        torch.set_default_dtype(dtype)
        try:
            transformer = getattr(diffusers, spec.transformer_class)(**spec.transformer_config)
            if hasattr(transformer, "pos_frequencies"):  # Mochi's are zeros until they are learned: no rotation at all
                torch.nn.init.normal_(transformer.pos_frequencies)
        finally:
            torch.set_default_dtype(default_dtype)
    return transformer.eval()
