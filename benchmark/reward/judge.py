"""The testbed's judge: yes/no questions about a clip of the procedural world and its prompt, and the score from them.

The recipe is VisionReward's (arXiv 2412.21059): a model answers a checklist, and the score is the mean of weight times
answer, yes as +1 and no as -1; the weights were fitted by logistic regression on pairs of a better and a worse clip.
Two things differ. The model is a small network that was trained on this world alone. And it says how sure it is: the
expected answer, 2 p - 1 for a probability p of yes, stands in place of +1 and -1, so that a small flaw costs little.

Weights have the mean 1, so a score is between -1 and 1. It cannot be compared with scores of VisionReward-Video.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import nn

from benchmark.records import sha256_file
from benchmark.reward.perception import CELLS, LEAST_FRAMES, PACE, Seen, perceive, wanted
from benchmark.testbed.backgrounds import BACKGROUNDS
from benchmark.testbed.grammar import Description, parse
from benchmark.testbed.world import FREE_FRAMES, SHAPES

WEIGHTS_FOLDER = Path(__file__).resolve().parent.parent / "testbed" / "weights"
WEIGHTS_FILE, RECORD_FILE = "judge.safetensors", "judge.training.json"
OBJECT_CHANNELS, WHOLE_CHANNELS = 24, 37
WIDTH = 40

# [[prompt]] is where the prompt comes in, as in VisionReward's own list.
QUESTIONS = MappingProxyType(
    {
        "colours": "Does the clip show the objects of [[prompt]] in the colours that it says?",
        "count": "Does the clip show no more objects than [[prompt]] says?",
        "shapes": "Does each object keep the shape that [[prompt]] says?",
        "directions": "Does each object set out in the direction that [[prompt]] says?",
        "speeds": "Does each object move as fast as [[prompt]] says?",
        "background": "Is the background the one that [[prompt]] says?",
        "pan": "Does the background move as [[prompt]] says?",
        "stay": "Do all objects stay in the clip to its end?",
        "moving": "Does the clip keep moving to its end?",
        "smooth": "Do objects and background move without jumps?",
        "no_repeat": "Is no motion of the clip repeated?",
        "no_flicker": "Is the clip free of flicker?",
        "sharp": "Is the clip sharp?",
        "no_noise": "Is the clip free of noise?",
        "no_blocks": "Is the clip free of blocks?",
        "no_ghosts": "Is the clip free of ghosts, that is, of objects that shine through?",
    }
)


class _Series(nn.Module):
    """A time series read by two convolutions over time, as its mean, maximum and minimum: (batch, 3 x width)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.BatchNorm1d(channels, momentum=None, affine=False)
        self.layers = nn.Sequential(
            nn.Conv1d(channels, WIDTH, 5, padding=2),
            nn.GELU(),
            nn.Conv1d(WIDTH, WIDTH, 5, padding=4, dilation=2),
            nn.GELU(),
        )

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        found = self.layers(self.scale(series).clamp(-6, 6))
        return torch.cat([found.mean(dim=-1), found.amax(dim=-1), found.amin(dim=-1)], dim=1)


def _image_network(channels: int, classes: int) -> nn.Sequential:
    """A small image classifier for 16x16 pixels."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(16, 24, 3, stride=2, padding=1),
        nn.GELU(),
        nn.Conv2d(24, 32, 3, stride=2, padding=1),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(32 * 16, 48),
        nn.GELU(),
        nn.Linear(48, classes),
    )


def _head(inputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 64), nn.GELU(), nn.Linear(64, len(QUESTIONS)))


def _certainty(logits: torch.Tensor, wanted_class: torch.Tensor) -> torch.Tensor:
    """Log odds of the wanted class; logits (..., classes)."""
    own = logits.gather(-1, wanted_class[..., None])[..., 0]
    others = logits.scatter(-1, wanted_class[..., None], float("-inf")).logsumexp(dim=-1)
    return (own - others).clamp(-8, 8) / 4


class Judge(nn.Module):
    """Answers all questions for every object of the prompt and for the picture; the clip's answer is yes if all are.

    "All" is soft: the logits of a question are joined as -log(sum(exp(-logit))).
    """

    def __init__(self) -> None:
        super().__init__()
        self.objects = _Series(OBJECT_CHANNELS)
        self.whole = _Series(WHOLE_CHANNELS)
        self.shape = _image_network(2, len(SHAPES))
        self.background = _image_network(4, len(BACKGROUNDS))
        self.object_head = _head(3 * WIDTH + 3)
        self.whole_head = _head(3 * WIDTH + 3)
        # What shapes, backgrounds and first steps say by themselves; the heads add what else there is to know.
        self.trust = nn.Parameter(torch.ones(3))

    def read(self, seen: Seen) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits of yes (batch, questions), of shapes (batch, 3, crops, 4), and of backgrounds (batch, 3, 8)."""
        batch, places, crops = seen.crops.shape[:3]
        shapes = self.shape(seen.crops.flatten(0, 2)).unflatten(0, (batch, places, crops))
        backgrounds = self.background(seen.pictures.flatten(0, 1)).unflatten(0, (batch, -1))
        right = _certainty(shapes, seen.shape[:, :, None].expand(-1, -1, crops))
        object_facts = torch.cat(
            [
                self.objects(seen.objects.flatten(0, 1)),
                torch.stack([right.mean(dim=-1), right.amin(dim=-1), right[..., -1]], dim=-1).flatten(0, 1),
            ],
            dim=1,
        )
        of_objects = self.object_head(object_facts).unflatten(0, (batch, places))
        fits = _certainty(backgrounds, seen.background[:, None].expand(-1, backgrounds.shape[1]))
        of_whole = self.whole_head(torch.cat([self.whole(seen.whole), fits], dim=1))
        order = list(QUESTIONS)
        first_steps = seen.objects[:, :, PACE, 1 : FREE_FRAMES + 1].mean(dim=-1).clamp(-1, 1)
        hints = torch.zeros_like(of_objects)
        hints[..., order.index("shapes")] = self.trust[0] * (right.mean(dim=-1) + right.amin(dim=-1))
        hints[..., order.index("directions")] = self.trust[1] * (4 * first_steps - 2)
        of_objects = of_objects + hints
        hints = torch.zeros_like(of_whole)
        hints[:, order.index("background")] = self.trust[2] * (fits.mean(dim=-1) + fits.amin(dim=-1))
        of_whole = of_whole + hints
        absent = ~seen.present[:, :, None]
        doubts = torch.cat([(-of_objects).masked_fill(absent, float("-inf")), -of_whole[:, None]], dim=1)
        return -doubts.logsumexp(dim=1), shapes, backgrounds

    def forward(self, seen: Seen) -> torch.Tensor:
        """Logits of yes: (batch, questions)."""
        return self.read(seen)[0]


@dataclass(frozen=True)
class Checklist:
    """A judge with the weights of its answers.

    Args:
        network: in evaluation mode.
        weights: (questions,), none negative, mean 1.
        sha256: of the network's file.
    """

    network: Judge
    weights: torch.Tensor
    sha256: str = ""

    @torch.inference_mode()
    def answers(self, clips: torch.Tensor, prompts: Sequence[Description]) -> torch.Tensor:
        """Expected answers, from -1 (no) to 1 (yes): (batch, questions).

        Args:
            clips: float32 (batch, frames, 3, size, size) in [0, 1].
            prompts: one a clip.
        """
        return 2 * torch.sigmoid(self.network(perceive(clips, wanted(prompts)))) - 1

    def scores(self, answers: torch.Tensor) -> torch.Tensor:
        """Scores (batch,): the mean over questions of weight x answer."""
        return (answers * self.weights).mean(dim=1)

    def judge(self, clip: np.ndarray, prompt: str) -> tuple[float, dict[str, float]]:
        """The score of one clip and its expected answers by question.

        Args:
            clip: uint8 (frames, size, size, 3), 8 frames of 32 pixels or more.
            prompt: a sentence of the testbed's grammar.

        Raises:
            ValueError: the prompt is not one of the grammar, or the clip has another shape.
        """
        frames = torch.from_numpy(np.ascontiguousarray(clip)).movedim(-1, 1).float() / 255
        answers = self.answers(frames[None], [parse(prompt)])
        return float(self.scores(answers)[0]), dict(zip(QUESTIONS, answers[0].tolist(), strict=True))


def can_judge(frames: int, height: int, width: int) -> bool:
    """Whether a clip of this shape can be judged."""
    return frames >= LEAST_FRAMES and height == width and height >= CELLS


def load(folder: Path = WEIGHTS_FOLDER) -> Checklist:
    """The judge of a folder that the verb ``train_judge`` wrote; the published one unless another is named.

    Raises:
        ValueError: a file is missing, damaged, or not the one that the training record names.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    weights, record = folder / WEIGHTS_FILE, folder / RECORD_FILE
    for path in (weights, record):
        if not path.is_file():
            raise ValueError(f"judge testbed: no file {path}; python -m benchmark train_judge --out {folder} writes it")
    try:
        told = json.loads(record.read_text())
        stated, named = told["sha256"], told["questions"]
    except (ValueError, KeyError) as error:
        raise ValueError(f"judge testbed: {record}: no training record ({error})") from None
    digest = sha256_file(weights)
    if digest != stated:
        raise ValueError(f"judge testbed: {weights}: SHA-256 is {digest}, the training record says {stated}")
    if list(named) != list(QUESTIONS):
        raise ValueError(f"judge testbed: {record}: its questions are not those of this version; train it anew")
    network = Judge()
    try:
        network.load_state_dict(load_file(weights))
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"judge testbed: {weights}: not the judge's network ({str(error).splitlines()[0]})") from None
    values = torch.tensor([named[name]["weight"] for name in QUESTIONS], dtype=torch.float32)
    return Checklist(network.float().eval(), values, digest)
