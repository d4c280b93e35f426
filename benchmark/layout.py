"""Where the tokens of a video sit: the one description of shape that masks, kernels and models share."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class VideoLayout:
    """A grid of video tokens in frame-major order, followed by text tokens.

    Token ``n`` of the video is at frame ``n // (height * width)``, row ``n // width % height`` and column
    ``n % width``. Text tokens, if the model attends to them jointly, come after the last video token.

    Args:
        frames: latent frames.
        height: token rows a frame.
        width: token columns a frame.
        text: text tokens in the same attention sequence (0 where text enters by cross-attention).

    Raises:
        ValueError: a size is not a whole number, or not in its range.
    """

    frames: int
    height: int
    width: int
    text: int = 0

    def __post_init__(self) -> None:
        for name, least in (("frames", 1), ("height", 1), ("width", 1), ("text", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"layout {name}={value!r}: a whole number of at least {least} is needed")

    @property
    def frame_tokens(self) -> int:
        """Tokens in one frame."""
        return self.height * self.width

    @property
    def video(self) -> int:
        """Video tokens in all."""
        return self.frames * self.frame_tokens

    @property
    def tokens(self) -> int:
        """Length of the attention sequence: video and text."""
        return self.video + self.text

    def blocks(self, block: int) -> int:
        """Blocks of ``block`` tokens that cover the sequence; the last may be short."""
        if block < 1:
            raise ValueError(f"block={block}: at least 1 is needed")
        return -(-self.tokens // block)

    def coordinates(self, device: torch.device | str = "cpu") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Frame, row and column of every video token: three int64 tensors of shape (video,)."""
        token = torch.arange(self.video, device=device)
        return token // self.frame_tokens, token // self.width % self.height, token % self.width

    def token_major(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """The order that puts all frames of position 0 first, then all of position 1, ...: int64 (video,)."""
        return torch.arange(self.video, device=device).reshape(self.frames, self.frame_tokens).T.flatten()

    def __str__(self) -> str:
        text = f" + {self.text} text" if self.text else ""
        return f"{self.frames}x{self.height}x{self.width}{text}"
