"""VisionReward-Video's judge end to end with a tiny random model of the released one's interface."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.metric import prepare
from benchmark.reward import checklist

# A model as the released folder brings one: code of its own, named by auto_map in config.json.
CODE = """
import torch
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class TinyConfig(PretrainedConfig):
    model_type = "tiny_video_judge"

    def __init__(self, size=8, words=16, **options):
        self.size, self.vocab_size, self.num_hidden_layers = size, words, 1
        super().__init__(**options)


class TinyJudge(PreTrainedModel, GenerationMixin):
    config_class = TinyConfig

    def __init__(self, config):
        super().__init__(config)
        self.words = torch.nn.Embedding(config.vocab_size, config.size)
        self.frames = torch.nn.Linear(24, config.size)
        self.head = torch.nn.Linear(config.size, config.vocab_size)
        self.post_init()

    def build_conversation_input_ids(self, tokenizer, *, query, images, history, template_version):
        assert template_version == "chat" and history == [] and len(images) == 1
        ids = torch.tensor(tokenizer.encode(query))
        shown = torch.zeros(24)
        means = images[0].float().mean(dim=(0, 2, 3)) / 255
        shown[: len(means)] = means
        return {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "attention_mask": torch.ones_like(ids),
                "images": [shown]}

    def prepare_inputs_for_generation(self, input_ids, token_type_ids=None, attention_mask=None, images=None, **more):
        return {"input_ids": input_ids, "token_type_ids": token_type_ids, "images": images}

    def forward(self, input_ids, token_type_ids=None, attention_mask=None, images=None, **options):
        found = torch.tanh(3 * self.words(input_ids).mean(dim=1) + 3 * self.frames(images[0][0])[None])
        return CausalLMOutput(logits=self.head(found)[:, None].expand(-1, input_ids.shape[1], -1))
"""
WORDS = ("<pad>", "<unk>", "yes", "No", "maybe", "sharp", "noisy", "a", "cat", "Is", "it", "?")
LINES = ("Is it sharp ?\n", "Is it [[prompt]] ?\n", "Is it noisy ?\n", "sharp a [[prompt]] it\n", "noisy noisy cat ?")
WEIGHTS = (0.5, 0.25, -0.125, 0.75, 1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The released folder's files: checklist, weights of answers, tokenizer, code, configuration, random weights."""
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("judge")
    (folder / "modeling_tiny.py").write_text(CODE)
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(folder / "tokenizer.json"))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    code = {"AutoConfig": "modeling_tiny.TinyConfig", "AutoModelForCausalLM": "modeling_tiny.TinyJudge"}
    (folder / "config.json").write_text(json.dumps({"model_type": "tiny_video_judge", "words": 16, "auto_map": code}))
    random = torch.Generator().manual_seed(4)
    shapes = {"words.weight": (16, 8), "frames.weight": (8, 24), "frames.bias": (8,), "head.weight": (16, 8)}
    state = {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}
    # It answers yes or No, and which of them is up to its random weights.
    state["head.bias"] = torch.full((16,), -1e3).index_fill(0, torch.tensor([2, 3]), 0.0)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "VisionReward_Video").mkdir()
    (folder / "VisionReward_Video" / checklist.QUESTIONS_FILE).write_text("".join(LINES))
    (folder / "VisionReward_Video" / checklist.WEIGHTS_FILE).write_text(json.dumps(WEIGHTS))
    return folder


@pytest.fixture(scope="module")
def judge(folder, tmp_path_factory):
    """The loaded judge; what transformers copies of its code goes into a folder of the test."""
    import transformers.dynamic_module_utils as modules

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modules, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        return checklist.load(str(folder), trust_remote_code=True)


def clip(frames: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, 6, 10, 3), dtype=np.uint8)


def answers_by_hand(judge, pixels: np.ndarray, prompt: str, chosen: list[int]) -> list[float]:
    """The answers from the model's weights, without any of its methods."""
    state = judge.model.state_dict()
    shown = torch.zeros(24)
    shown[: len(chosen)] = torch.from_numpy(pixels[chosen]).float().mean(dim=(1, 2, 3)) / 255
    found = []
    for line in LINES:
        ids = [WORDS.index(word) for word in line.replace("[[prompt]]", prompt).split()]
        hidden = 3 * state["words.weight"][ids].mean(dim=0) + 3 * (
            state["frames.weight"] @ shown + state["frames.bias"]
        )
        logits = state["head.weight"] @ torch.tanh(hidden)
        found.append(1.0 if logits[2] > logits[3] else -1.0)
    return found


def test_the_score_is_the_mean_of_weight_times_answer(judge) -> None:
    told = set()
    for seed in range(6):
        pixels = clip(seed=seed) // (1 + seed)
        answers = answers_by_hand(judge, pixels, "a cat", [0, 8, 16, 24, 32, 39])
        expected = np.mean(np.array(answers) * np.array(WEIGHTS))
        assert judge.judge(pixels, "a cat", fps=8) == pytest.approx(expected)
        told.add(tuple(answers))
    assert any(-1.0 in answers and 1.0 in answers for answers in told)
    assert judge.questions == LINES


def test_an_answer_that_is_neither_yes_nor_no_is_an_error(judge, folder) -> None:
    metric = prepare(["vision_reward"])[0].metric
    bias = judge.model.head.bias
    kept = bias.detach().clone()
    try:
        bias.data[4] = 1e3
        with pytest.raises(checklist.NotAnAnswer, match=r"question 1 \('Is it sharp \?'\) was answered 'maybe'"):
            judge.judge(clip(), "a cat", fps=8)
        found = metric.measure(None, clip(), prompt="a cat", judge="visionreward-video", checklist=judge, fps=8)
        assert found.status == "error" and not found.values and "answered 'maybe'" in found.reason
    finally:
        bias.data.copy_(kept)
    found = metric.measure(None, clip(), prompt="a cat", judge="visionreward-video", checklist=judge, fps=8)
    assert found.values == {"vision_reward": judge.judge(clip(), "a cat", fps=8)}
    assert "5 questions" in found.provenance["vision_reward_judge"]


@pytest.mark.parametrize(
    ("frames", "fps", "expected"),
    [
        (117, 24, [0, 24, 48, 72, 96, 116]),  # the last frame, at 4.83 s, is the nearest to second 5
        (12, 8, [0, 8]),  # the last frame is at 1.375 s
        (1, 16, [0]),
        (2000, 10, list(range(0, 240, 10))),  # no more than 24
    ],
)
def test_one_frame_a_second_and_24_at_most(frames, fps, expected) -> None:
    assert checklist.frames_shown(frames, fps) == expected
    with pytest.raises(ValueError, match="fps=0"):
        checklist.frames_shown(10, 0)


def test_what_is_missing_is_named_in_one_line(folder, tmp_path) -> None:
    refusals = {}
    refusals["no folder"] = "no/such-model"
    bare = tmp_path / "bare"
    bare.mkdir()
    refusals["lacks VisionReward_video_qa_select.txt"] = bare
    with pytest.raises(ValueError, match="only with trust_remote_code: true"):
        checklist.load(str(folder))
    for message, where in refusals.items():
        with pytest.raises(ValueError, match=message) as caught:
            checklist.load(str(where))
        assert "\n" not in str(caught.value)
    (bare / checklist.QUESTIONS_FILE).write_text("Is it sharp?\n")
    with pytest.raises(ValueError, match="lacks weight.json; copy it there"):
        checklist.load(str(bare))
    for text, message in (("[1, 2]", "1 questions .* and 2 weights"), ("{", "a list of numbers"), ("3", "a list of")):
        (bare / checklist.WEIGHTS_FILE).write_text(text)
        with pytest.raises(ValueError, match=message):
            checklist.load(str(bare))
    (bare / checklist.WEIGHTS_FILE).write_text("[1]")
    with pytest.raises(ValueError, match="lacks config.json"):
        checklist.load(str(bare))


def test_settings_that_do_not_fit_are_refused() -> None:
    for settings, message in (
        ({"judge": "oracle"}, "vision_reward.judge='oracle': unknown: .*testbed, visionreward-video"),
        ({"judge": "testbed", "model": "x"}, "vision_reward.model='x': the judge testbed takes none"),
        (
            {"judge": "visionreward-video", "model": "x", "fps": -1},
            "vision_reward.fps=-1: frames a second above 0 are needed",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            prepare(["vision_reward"], {"vision_reward": settings})
    metric = prepare(["vision_reward"], {"vision_reward": {"judge": "visionreward-video"}})[0]
    found = metric.measure(None, clip(), prompt="a cat")
    assert found.status == "unsupported" and "needs its model" in found.reason


def test_the_verb_measure_takes_settings_as_json(capsys) -> None:
    import argparse

    from benchmark import measure

    parser = argparse.ArgumentParser()
    measure.add_arguments(parser)
    for text, message in (("[1]", "no JSON object"), ("{judge", "is no JSON")):
        with pytest.raises(SystemExit):
            parser.parse_args(["--vision-reward", text])
        assert message in capsys.readouterr().err
