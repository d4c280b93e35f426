"""What is recorded of a model's attention, and the decay that is fitted to it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmark import kernels, models, probe
from benchmark.__main__ import main
from benchmark.layout import VideoLayout
from benchmark.testbed.sample import sample

GRID = VideoLayout(4, 3, 4)
PROMPT = "a red circle moving left quickly over waves panning right"


@pytest.fixture(scope="module")
def spec():
    """A testbed of two layers with two heads."""
    return models.get("testbed-nano").resized(num_layers=2, num_attention_heads=2, ffn_dim=32)


@pytest.fixture(scope="module")
def transformer(spec):
    """Random weights, scaled up so that attention is far from uniform."""
    made = models.build(spec, seed=3)
    with torch.no_grad():
        for block in made.blocks:
            block.attn1.norm_q.weight *= 4
    return made


@pytest.fixture(scope="module")
def noise(spec):
    """Noise for 4 frames of 3x4 tokens."""
    return torch.randn(1, *spec.latent_shape(GRID), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def recording(spec, transformer, noise):
    """Two of three steps."""
    return probe.record(transformer, GRID, noise, PROMPT, 3, 2)


def test_recorded_attention_is_the_attention_that_runs():
    """The values weighted by the recorded probabilities are what the router puts out; other steps are not recorded."""
    layout, heads = VideoLayout(3, 2, 4), 2
    q, k, v = torch.randn(3, 1, layout.video, heads, 16, generator=torch.Generator().manual_seed(1))
    recording = probe.Recording.empty(layout, 1, heads, "cpu")
    _, kernel = kernels.select(kernels.AUTO, "cpu")
    router = probe.RecordingRouter(layout, kernel, 2, [0], recording)
    expected = router.attend(0, q, k, v, lambda x: 2 * x)
    found = torch.einsum("hqk,khd->qhd", recording.maps[0], v[0])
    assert recording.maps[0].std() > 0.01
    torch.testing.assert_close(found[None], expected, atol=2e-5, rtol=1e-4)
    before = recording.maps.clone()
    router.step = 1
    router.attend(0, q, k, v, lambda x: x)
    assert torch.equal(recording.maps, before)


def test_sums_over_frames_and_places_are_those_of_the_map(recording):
    f, s = recording.layout.frames, recording.layout.frame_tokens
    grid = recording.maps.unflatten(3, (f, s)).unflatten(2, (f, s))  # layers, heads, frame, place, frame, place
    torch.testing.assert_close(recording.frames, grid.sum(5).mean(3))
    torch.testing.assert_close(recording.frames.sum(-1), torch.ones(2, 2, f))
    for i in range(f):
        for j in range(f):
            same = torch.stack([grid[:, :, i, k, j, k] for k in range(s)]).mean(0)
            torch.testing.assert_close(recording.same_place[:, :, i, j], same)
    torch.testing.assert_close(recording.same_frame, torch.stack([grid[:, :, i, :, i] for i in range(f)]).mean(0))


def test_recording_changes_nothing_and_puts_the_processors_back(spec, transformer, noise):
    from benchmark.testbed.grammar import encode

    before = [block.attn1.processor for block in transformer.blocks]
    clean = sample(transformer, noise, encode([PROMPT]), 2)
    clips = []

    def spied(*args):
        clips.append(sample(*args))
        return clips[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmark.testbed.sample.sample", spied)
        probe.record(transformer, GRID, noise, PROMPT, 2, 1)
    assert torch.equal(clips[0], clean)
    assert [block.attn1.processor for block in transformer.blocks] == before


def test_the_steps_recorded_are_spread_over_the_schedule(recording):
    assert recording.steps == [0, 2]
    assert probe.recorded_steps(16, 4) == [2, 6, 10, 14]
    for recorded in (0, 17):
        with pytest.raises(ValueError, match="from 1 to 16"):
            probe.recorded_steps(16, recorded)


def test_maps_are_averaged_to_a_size_that_can_be_kept():
    assert probe.pooling(1024, 64, 1024) == 1
    assert probe.pooling(1024, 64, 256) == 4
    assert probe.pooling(24, 12, 9) == 3
    assert probe.pooling(1000, 10, 5) == 10  # not beyond a frame


def test_means_by_distance_against_loops():
    layout = VideoLayout(5, 3, 4)
    pairs = np.random.default_rng(0).random((2, 5, 5))
    for d in range(5):
        seen = [pairs[:, i, j] for i in range(5) for j in range(5) if abs(i - j) == d]
        np.testing.assert_allclose(probe.by_frame_distance(pairs)[:, d], np.mean(seen, axis=0))
    pairs = np.random.default_rng(1).random((2, 12, 12))
    distances, means = probe.by_place_distance(pairs, layout)
    for n, d in enumerate(distances):
        seen = [
            pairs[:, k, l]
            for k in range(12)
            for l in range(12)  # noqa: E741 - the paper's letter
            if round(((k // 4 - l // 4) ** 2 + (k % 4 - l % 4) ** 2) ** 0.5) == d
        ]
        np.testing.assert_allclose(means[:, n], np.mean(seen, axis=0))
    assert distances.tolist() == [0, 1, 2, 3, 4]


def test_a_known_decay_is_found_and_distance_0_left_out():
    x = np.arange(12)
    y = np.exp(-0.4 * x - 1.5)
    y[0] = 0.9
    fit = probe.fit_decay(x, y)
    assert fit["a"] == pytest.approx(0.4, rel=1e-5) and fit["b"] == pytest.approx(-1.5, rel=1e-5)
    assert fit["r2"] == pytest.approx(1.0)


def test_r2_is_that_of_the_scores_and_low_where_nothing_decays():
    rng = np.random.default_rng(0)
    x = np.arange(1, 40)
    y = 0.5 + 0.2 * rng.random(39)
    fit = probe.fit_decay(x, y)
    found = np.exp(-fit["a"] * x + fit["b"])
    assert fit["r2"] == pytest.approx(1 - ((y - found) ** 2).sum() / ((y - y.mean()) ** 2).sum())
    assert fit["r2"] < 0.3


@pytest.mark.parametrize(("score", "words"), [([1.0, 0.5, 0.2], "at least 3"), ([1.0, 0.5, 0.0, 0.1], "above 0")])
def test_what_cannot_be_fitted_is_refused(score, words):
    with pytest.raises(ValueError, match=words):
        probe.fit_decay(np.arange(len(score)), np.array(score))


def test_heads_are_told_apart_without_the_token_itself():
    layout = VideoLayout(2, 1, 2)
    recording = probe.Recording.empty(layout, 2, 2, "cpu")
    own_frame = [[0.3, 0.9], [0.95, 0.2]]
    own_place = [[0.1, 0.05], [0.0, 0.7]]
    itself = [[0.0, 0.0], [0.9, 0.1]]  # layer 1, head 0 only looks at the token itself
    for layer in range(2):
        for head in range(2):
            recording.frames[layer, head] = torch.eye(2) * own_frame[layer][head]
            place = torch.full((2, 2), own_place[layer][head])
            recording.same_place[layer, head] = place.fill_diagonal_(itself[layer][head])
    assert probe.choose_heads(recording) == {"spatial": (0, 1), "temporal": (1, 1)}


def test_the_verb_writes_arrays_and_facts(spec, transformer, noise, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "prompts.json").write_text(json.dumps({"prompts": [PROMPT], "seeds": [7]}))
    save_file({"noise": noise}, tmp_path / "in" / "noise.safetensors")
    monkeypatch.setattr("benchmark.models.testbed.load", lambda name, device: transformer, raising=False)
    monkeypatch.setattr("benchmark.models.get", lambda name: spec)
    words = ["probe", "--model", "testbed-nano", "--inputs", str(tmp_path / "in"), "--steps", "3"]
    words += ["--record-steps", "2", "--out"]
    assert main([*words, str(tmp_path / "out" / "m.npz")]) == 0
    facts = json.loads((tmp_path / "out" / "m.json").read_text())
    with np.load(tmp_path / "out" / "m.npz") as arrays:
        assert arrays["temporal"].shape == (2, 2, 4) and arrays["spatial"].shape == (2, 2, 5)
        assert arrays["maps"].shape == (2, 2, 48, 48) and arrays["map_spatial"].shape == (48, 48)
        layer, head = facts["heads"]["temporal"]
        np.testing.assert_allclose(arrays["map_temporal"], arrays["maps"][layer, head])
    assert facts["prompt"] == PROMPT and facts["steps_recorded"] == [0, 2] and facts["layout"] == [4, 3, 4]
    assert set(facts["fits"]) == {"mean", "spatial", "temporal"}
    assert facts["provenance"]["hashes"]["attention"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["m.json", "m.npz"]


def test_inputs_that_are_not_there_are_refused(tmp_path, noise):
    with pytest.raises(ValueError, match="missing"):
        probe.read_inputs(tmp_path, 0)
    (tmp_path / "prompts.json").write_text(json.dumps({"prompts": [PROMPT]}))
    save_file({"noise": noise}, tmp_path / "noise.safetensors")
    with pytest.raises(ValueError, match="clips 0 to 0"):
        probe.read_inputs(tmp_path, 1)
    save_file({"noise": noise, "more": noise + 1}, tmp_path / "noise.safetensors")
    with pytest.raises(ValueError, match="one is needed"):
        probe.read_inputs(tmp_path, 0)
    (tmp_path / "noise.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match="cannot be read"):
        probe.read_inputs(tmp_path, 0)
