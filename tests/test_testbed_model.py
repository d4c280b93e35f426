"""The published weights: what the manifest says of them, and that their clips show their prompts."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmark.models import testbed
from benchmark.models.spec import Shape, build
from benchmark.records import sha256_file
from benchmark.testbed.adherence import read_clip, score
from benchmark.testbed.evaluate import FIRST_SEED, autocorrelation, evaluate, make_clips, repetition
from benchmark.testbed.grammar import encode, parse
from benchmark.testbed.sample import pick_device, sample
from benchmark.testbed.world import to_uint8

NAME = "testbed-nano"
WEIGHTS = testbed.WEIGHTS_FOLDER / f"{NAME}.safetensors"
PROMPT = "a green circle moving left slowly and a red square moving up slowly over clouds panning right"


def test_the_manifest_names_the_file_that_is_there() -> None:
    entry = testbed.manifest(NAME)
    assert entry["file"] == WEIGHTS.name
    assert entry["sha256"] == sha256_file(WEIGHTS)
    assert entry["bytes"] == WEIGHTS.stat().st_size <= 8_000_000
    stored = load_file(WEIGHTS)
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}
    assert entry["parameters"] == sum(value.numel() for value in stored.values())
    assert entry["parameters"] == sum(value.numel() for value in build(testbed.SPEC, "meta").parameters())
    assert all(bool(value.isfinite().all()) for value in stored.values())


def test_the_training_record_is_that_of_the_weights() -> None:
    entry = testbed.manifest(NAME)
    record = json.loads((testbed.WEIGHTS_FOLDER / entry["training_record"]).read_text())
    assert record["sha256"] == entry["sha256"]
    assert record["transformer_config"] == json.loads(json.dumps(testbed.SPEC.transformer_config))
    assert record["settings"]["frames"] == testbed.SPEC.lengths["1x"]
    losses = [point["loss"] for point in record["curve"]]
    assert all(math.isfinite(loss) for loss in losses) and losses[-1] < 0.5 * losses[0]
    found = record["evaluation"]
    assert found["adherence"] == entry["adherence"] and entry["adherence"]["adherence"] >= 0.9
    assert found["repetition"] == entry["repetition"] == repetition(found["autocorrelation"])


def test_unpublished_and_tampered_weights_are_refused(tmp_path, monkeypatch) -> None:
    with pytest.raises(ValueError, match=f"weights of 'testbed-micro': none are published .* lists {NAME}"):
        testbed.manifest("testbed-micro")
    data = bytearray(WEIGHTS.read_bytes())
    data[-1] ^= 1
    (tmp_path / WEIGHTS.name).write_bytes(data)
    (tmp_path / "manifest.json").write_text((testbed.WEIGHTS_FOLDER / "manifest.json").read_text())
    monkeypatch.setattr(testbed, "WEIGHTS_FOLDER", tmp_path)
    with pytest.raises(ValueError, match="SHA-256 is .*, the manifest says"):
        testbed.load(NAME, folder=tmp_path)


def test_loaded_weights_are_in_bfloat16_but_for_what_diffusers_keeps() -> None:
    transformer = testbed.load(NAME)
    kinds = {name: value.dtype for name, value in transformer.named_parameters()}
    kept = {name for name, kind in kinds.items() if kind == torch.float32}
    assert kinds["patch_embedding.weight"] == kinds["blocks.0.attn1.to_q.weight"] == torch.bfloat16
    assert kinds["blocks.0.attn1.norm_q.weight"] == torch.bfloat16
    assert {"scale_shift_table", "blocks.5.scale_shift_table", "blocks.0.norm2.weight"} <= kept
    assert "condition_embedder.time_embedder.linear_1.weight" in kept
    assert transformer.rope.freqs_cos.dtype == torch.float32 and not transformer.training


def test_a_dense_clip_shows_its_prompt() -> None:
    frames, height, width = testbed.SPEC.default
    noise = torch.randn(1, 3, frames, height, width, generator=torch.Generator().manual_seed(11))
    clip = to_uint8(sample(testbed.load(NAME), noise, encode([PROMPT]), testbed.SPEC.steps)[0]).numpy()
    assert clip.shape == (frames, height, width, 3)
    found = score(read_clip(clip), parse(PROMPT))
    assert found["adherence"] >= 0.75, found
    # Another prompt of as many objects is not what the clip shows.
    other = PROMPT.replace("green", "yellow").replace("red", "blue").replace("left", "right").replace("up", "down")
    assert score(read_clip(clip), parse(other))["adherence"] <= 0.5


def periodic_clips(period: float | None, frames: int = 48, clips: int = 2) -> np.ndarray:
    """Dots on a circular path of that period, or on paths that never close."""
    found = np.full((clips, frames, 32, 32, 3), 60, dtype=np.uint8)
    rows, columns = np.mgrid[:32, :32]
    for clip in range(clips):
        for frame in range(frames):
            if period:
                angle = 2 * math.pi * (frame / period + clip / 3)
                y, x = 16 + 9 * math.sin(angle), 16 + 9 * math.cos(angle)
            else:
                y, x = 8 + 12 * clip, 2 + 28 * frame / frames
            near = (rows - y) ** 2 + (columns - x) ** 2 < 16
            found[clip, frame][near] = (230, 40, 40)
    return found


@pytest.mark.parametrize("period", [12, 15, 23, 30])
def test_repetition_is_the_period_of_periodic_clips(period: int) -> None:
    assert repetition(autocorrelation(periodic_clips(period))) == period


def test_clips_that_do_not_repeat_have_no_repetition() -> None:
    assert repetition(autocorrelation(periodic_clips(None))) is None
    assert repetition(autocorrelation(periodic_clips(44))) is None  # longer than what was looked at
    assert repetition([0.9, 0.5, 0.2, 0.4, 0.8, 0.6]) is None  # never below zero
    assert repetition([0.9, -0.2, -0.5, 0.1, 0.4, 0.2]) is None  # comes back too little
    assert repetition([0.9, -0.2, -0.5, 0.1, 0.7]) is None  # still rising
    assert repetition([0.9, -0.2, 0.6, 0.1, 0.8, 0.2, 0.7]) == 5  # the highest of two
    assert repetition([]) is None


def test_autocorrelation_of_a_periodic_clip_is_one_a_period_later() -> None:
    found = autocorrelation(periodic_clips(12))
    assert len(found) == 35
    assert found[11] == pytest.approx(1, abs=0.01) and found[5] < 0 and max(map(abs, found)) <= 1 + 1e-6


def test_evaluation_counts_its_clips_and_is_repeatable() -> None:
    spec = testbed.SPEC.resized(num_layers=1, num_attention_heads=1, ffn_dim=16)
    spec = replace(spec, default=Shape(3, 36, 36), lengths={"1x": 3, "2x": 8}, steps=2)
    model = build(spec)
    found = evaluate(model, spec, clips=1, long_clips=2, device="cpu")
    assert (found["steps"], found["clips"], found["long_clips"], found["long_frames"]) == (2, 1, 2, 8)
    assert len(found["autocorrelation"]) == len(found["autocorrelation_of_the_world"]) == 5
    for scores in (found["adherence"], found["long_adherence"]):
        assert set(scores) == {"count", "colours", "shapes", "directions", "adherence"}
    json.dumps(found, allow_nan=False)
    assert evaluate(model, spec, 1, 2, "cpu") == found
    with pytest.raises(ValueError, match="clips=1, long_clips=0: at least 1 of each"):
        evaluate(model, spec, 1, 0, "cpu")


def test_each_evaluated_clip_starts_from_noise_of_its_own() -> None:
    from benchmark.testbed.world import sample_scene

    spec = testbed.SPEC.resized(num_layers=1, num_attention_heads=1, ffn_dim=16)
    model = build(spec)
    scenes = [sample_scene(FIRST_SEED)] * 2
    clips = make_clips(model, scenes, 2, 12, 2, "cpu")
    assert clips.shape == (2, 2, 12, 12, 3) and clips.dtype == np.uint8
    assert not np.array_equal(clips[0], clips[1])


def test_a_device_is_picked_and_a_missing_one_refused(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device(None) == pick_device("cpu") == "cpu"
    with pytest.raises(ValueError, match="device cuda: no CUDA GPU is visible; cpu is allowed"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (pick_device(None), pick_device("cuda"), pick_device("cpu")) == ("cuda", "cuda", "cpu")
