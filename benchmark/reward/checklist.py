"""VisionReward-Video: the released judge, a video language model that answers a checklist of yes/no questions.

As in the authors' script (``inference-video.py`` of github.com/THUDM/VisionReward, arXiv 2412.21059):

- A clip is shown by the frames nearest to whole seconds, at most 24, as one tensor (3, frames, height, width).
- Each line of ``VisionReward_video_qa_select.txt`` is a question; ``[[prompt]]`` in it stands for the clip's prompt.
- ``model.build_conversation_input_ids(tokenizer=, query=, images=[clip], history=[], template_version="chat")`` gives
  ``input_ids``, ``token_type_ids``, ``attention_mask`` and ``images``; ``model.generate`` goes on greedily, and its
  first new token is the answer.
- The score is the mean of weight x answer, +1 for yes and -1 for no, with the weights of ``weight.json``.

Two things differ. Only that first token is generated, where the script generates up to 2048 and reads the first. And
the script counts whatever is not exactly "yes" as no, so that a model that answers nothing at all gets the lowest score
in silence; here an answer is read without regard to case and spaces, and one that is neither is an error.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark.records import sha256_file

QUESTIONS_FILE, WEIGHTS_FILE = "VisionReward_video_qa_select.txt", "weight.json"
# The authors' repository keeps both files in a folder of this name.
SUBFOLDERS = ("", "VisionReward_Video", "VisionReward-Video")
PLACEHOLDER = "[[prompt]]"
MOST_FRAMES = 24
ANSWERS = {"yes": 1.0, "no": -1.0}
NAME = "visionreward-video"

logger = logging.getLogger(__name__)


class NotAnAnswer(RuntimeError):
    """The judge's answer is neither yes nor no."""


@dataclass(frozen=True)
class VisionReward:
    """The released judge, loaded.

    Args:
        model, tokenizer: with the interface that this module's description says.
        questions: as in the file, each with its line end: the authors' script asks them so.
        weights: float64 (questions,).
        device: where the model is.
        dtype: of the frames that it gets.
        provenance: what the answers rest on.
    """

    model: Any
    tokenizer: Any
    questions: tuple[str, ...]
    weights: np.ndarray
    device: str
    dtype: torch.dtype
    provenance: dict[str, str]

    def judge(self, clip: np.ndarray, prompt: str, fps: float) -> float:
        """The score of a clip: the mean over questions of weight x answer.

        Args:
            clip: uint8 (frames, height, width, 3).
            prompt: what the clip should show.
            fps: frames a second.

        Raises:
            NotAnAnswer: an answer is neither yes nor no.
        """
        shown = torch.from_numpy(np.ascontiguousarray(clip[frames_shown(len(clip), fps)])).permute(3, 0, 1, 2)
        answers = []
        for number, question in enumerate(self.questions, start=1):
            query = question.replace(PLACEHOLDER, prompt)
            answer = self.ask(shown, query)
            key = answer.strip().lower()
            if key not in ANSWERS:
                raise NotAnAnswer(f"question {number} ({query.strip()!r}) was answered {answer!r}; yes or no is needed")
            answers.append(ANSWERS[key])
        return float(np.mean(np.array(answers) * self.weights))

    @torch.inference_mode()
    def ask(self, shown: torch.Tensor, query: str) -> str:
        """The first token that the model says about frames (3, frames, height, width)."""
        inputs = self.model.build_conversation_input_ids(
            tokenizer=self.tokenizer, query=query, images=[shown], history=[], template_version="chat"
        )
        batch = {
            name: inputs[name].unsqueeze(0).to(self.device)
            for name in ("input_ids", "token_type_ids", "attention_mask")
        }
        images = [[inputs["images"][0].to(self.device).to(self.dtype)]]
        said = self.model.generate(
            **batch, images=images, max_new_tokens=1, do_sample=False, pad_token_id=self.tokenizer.pad_token_id
        )
        new = said[0, batch["input_ids"].shape[1] :]
        return self.tokenizer.decode(new[:1]) if len(new) else ""


def frames_shown(frames: int, fps: float) -> list[int]:
    """The frames nearest to each whole second, at most 24, as indices.

    Raises:
        ValueError: fps is not above 0.
    """
    if fps <= 0:
        raise ValueError(f"judge {NAME}: fps={fps}; frames a second above 0 are needed")
    times = np.arange(frames) / fps
    seconds = range(min(MOST_FRAMES, round(float(times[-1])) + 1))
    return [int(np.abs(times - second).argmin()) for second in seconds]


def find_folder(model: str, download: bool = False) -> Path:
    """The folder of a model: a local one, or that of a hub id in the cache, downloaded only where that is allowed.

    Raises:
        ValueError: there is none.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, local_files_only=not download))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        logger.debug("looking for %s: %s", model, error)
        hint = "" if download else ", and it is not in the hub's cache (download: true allows to fetch it)"
        raise ValueError(f"judge {NAME}: model {model!r} is no folder{hint or ' and cannot be downloaded'}") from error


def find_file(folder: Path, name: str) -> Path:
    """A file of the released checklist in a model's folder.

    Raises:
        ValueError: it is not there.
    """
    for below in SUBFOLDERS:
        if (folder / below / name).is_file():
            return folder / below / name
    raise ValueError(
        f"judge {NAME}: {folder} lacks {name}; copy it there from the folder {SUBFOLDERS[1]} of the repository "
        "THUDM/VisionReward"
    )


def read_checklist(folder: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Questions and weights of a model's folder.

    Raises:
        ValueError: a file is missing or not what it should be, or their numbers differ.
    """
    paths = [find_file(folder, name) for name in (QUESTIONS_FILE, WEIGHTS_FILE)]
    lines = paths[0].read_text(encoding="utf-8").splitlines(keepends=True)
    questions = tuple(line for line in lines if line.strip())
    try:
        weights = np.array(json.loads(paths[1].read_text()), dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise ValueError(f"judge {NAME}: {paths[1]}: a list of numbers is needed ({error})") from None
    if weights.ndim != 1 or not len(questions) or not np.isfinite(weights).all():
        raise ValueError(f"judge {NAME}: {paths[1]}: a list of one finite number a question is needed")
    if len(weights) != len(questions):
        raise ValueError(
            f"judge {NAME}: {len(questions)} questions in {paths[0]} and {len(weights)} weights in {paths[1]}; "
            "one weight a question is needed"
        )
    return questions, weights


def find_parts(
    model: str, trust_remote_code: bool = False, download: bool = False
) -> tuple[Path, tuple[str, ...], np.ndarray]:
    """The folder of a model that could be loaded, its questions and their weights; the network is not loaded.

    Raises:
        ValueError: the folder or a file in it is missing, or it needs code that may not be run.
    """
    folder = find_folder(model, download)
    questions, weights = read_checklist(folder)
    config = folder / "config.json"
    if not config.is_file():
        raise ValueError(f"judge {NAME}: {folder} lacks config.json; a folder written by transformers is needed")
    try:
        own_code = "auto_map" in json.loads(config.read_text())
    except ValueError as error:
        raise ValueError(f"judge {NAME}: {config}: no JSON ({error})") from None
    if own_code and not trust_remote_code:
        raise ValueError(
            f"judge {NAME}: {folder} brings code of its own, which is run only with trust_remote_code: true; "
            "read it before"
        )
    return folder, questions, weights


def load(model: str, trust_remote_code: bool = False, download: bool = False, device: str = "cpu") -> VisionReward:
    """The released judge.

    Args:
        model: a local folder or a hub id.
        trust_remote_code: whether code that the folder brings may be run; the released model needs its own.
        download: whether a hub id may be downloaded.
        device: a torch device.

    Raises:
        ValueError: the folder or a file in it is missing, or it needs code that may not be run.
    """
    folder, questions, weights = find_parts(model, trust_remote_code, download)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
    options = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        network = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True, **options)
    except OSError as error:
        raise ValueError(f"judge {NAME}: {folder}: {' '.join(str(error).split())}") from error
    _check_interface(network, folder, ("build_conversation_input_ids", "generate"))
    return VisionReward(
        network.eval().to(device),
        tokenizer,
        questions,
        weights,
        device,
        dtype,
        {
            "vision_reward_judge": f"{NAME}, {len(questions)} questions, {model}",
            "vision_reward_questions": sha256_file(find_file(folder, QUESTIONS_FILE)),
            "vision_reward_weights": sha256_file(find_file(folder, WEIGHTS_FILE)),
            "vision_reward_config": sha256_file(folder / "config.json"),
        },
    )


def _check_interface(network: Any, folder: Path, methods: Sequence[str]) -> None:
    for method in methods:
        if not callable(getattr(network, method, None)):
            raise ValueError(
                f"judge {NAME}: the model of {folder} ({type(network).__name__}) has no {method}; a CogVLM2-Video "
                "model is needed"
            )
