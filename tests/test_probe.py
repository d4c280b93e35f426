"""What is recorded of a model's attention, and the decay that is fitted to it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_testbed import GRID, PROMPT, tiny_noise, tiny_spec, tiny_transformer, write_inputs

from benchmark import kernels, probe
from benchmark.__main__ import main
from benchmark.layout import VideoLayout
from benchmark.probing import decay, listening
from benchmark.probing.recording import Recording, choose_heads, pooling
from benchmark.testbed.sample import sample


@pytest.fixture(scope="module")
def spec():
    return tiny_spec()


@pytest.fixture(scope="module")
def transformer(spec):
    return tiny_transformer(spec)


@pytest.fixture(scope="module")
def noise(spec):
    return tiny_noise(spec, 1)


@pytest.fixture(scope="module")
def recording(spec, transformer, noise):
    """Two of three steps."""
    return probe.record(transformer, GRID, noise, [PROMPT], 3, 2)


def test_recorded_attention_is_the_attention_that_runs():
    """The values weighted by the recorded probabilities are what the router puts out; other steps are not recorded."""
    layout, heads = VideoLayout(3, 2, 4), 2
    q, k, v = torch.randn(3, 1, layout.video, heads, 16, generator=torch.Generator().manual_seed(1))
    recording = Recording.empty(layout, (0,), 1, heads)
    _, kernel = kernels.select(listening.KERNEL, "cpu")

    def listen(step, layer, q, k, v, out):
        recording.add(step, layer, q, k)

    router = listening.ListeningRouter(layout, kernel, 2, [0], listen)
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
    same_place, same_frame = recording.same_place.mean(0), recording.same_frame.mean(0)
    for i in range(f):
        for j in range(f):
            same = torch.stack([grid[:, :, i, k, j, k] for k in range(s)]).mean(0)
            torch.testing.assert_close(same_place[:, :, i, j], same)
    torch.testing.assert_close(same_frame, torch.stack([grid[:, :, i, :, i] for i in range(f)]).mean(0))


def test_steps_are_kept_apart_and_prompts_averaged(transformer, noise, recording):
    """Each step alone is what a pass with that step alone records; two prompts are the mean of both."""
    two = torch.cat([noise, noise.flip(2)])
    kept = []
    for number in range(2):
        alone = Recording.empty(GRID, (0, 2), 2, 2)

        def listen(step, layer, q, k, v, out, alone=alone):
            alone.add(step, layer, q, k)

        _, kernel = kernels.select(listening.KERNEL, "cpu")
        listening.dense_pass(transformer, GRID, two[number : number + 1], PROMPT, 3, [0, 2], kernel, listen)
        kept.append(alone)
    torch.testing.assert_close(kept[0].same_place, recording.same_place)
    assert not torch.allclose(recording.same_place[0], recording.same_place[1], rtol=0.01)
    both = probe.record(transformer, GRID, two, [PROMPT, PROMPT], 3, 2)
    for name in ("maps", "frames", "same_place", "same_frame"):
        torch.testing.assert_close(getattr(both, name), sum(getattr(one, name) for one in kept) / 2)


@pytest.mark.parametrize("at_once", [1, 300, 500])
def test_few_rows_at_a_time_sum_to_the_same(at_once, monkeypatch):
    """A frame has 180 pairs: one at a time, and two with one left over; maps are pooled as well."""
    layout = VideoLayout(5, 2, 3)
    monkeypatch.setattr("benchmark.probing.recording.LARGEST_MAP", 15)
    q, k = torch.randn(2, 1, layout.video, 2, 8, generator=torch.Generator().manual_seed(2))
    whole, parts = (Recording.empty(layout, (3, 9), 2, 2) for _ in range(2))
    whole.add(1, 0, q, k)
    parts.add(1, 0, q, k, at_once=at_once)
    assert whole.maps.shape[2] == 15
    for name in ("maps", "frames", "same_place", "same_frame"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))
    assert not whole.same_place[0].any() and whole.same_place[1, 0].all()


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
        probe.record(transformer, GRID, noise, [PROMPT], 2, 1)
    assert torch.equal(clips[0], clean)
    assert [block.attn1.processor for block in transformer.blocks] == before


def test_the_steps_recorded_are_spread_over_the_schedule(recording):
    assert recording.steps == (0, 2)
    assert listening.spread_steps(16, 4) == [2, 6, 10, 14]
    assert listening.spread_steps(12, 3, dense_steps=3) == [4, 7, 10]
    for recorded in (0, 17):
        with pytest.raises(ValueError, match="from 1 to 16"):
            listening.spread_steps(16, recorded)
    with pytest.raises(ValueError, match="from 0 to 3"):
        listening.spread_steps(4, 1, dense_steps=4)


def test_a_pass_ends_with_the_last_step_that_is_wanted(transformer, noise):
    heard = []
    _, kernel = kernels.select(listening.KERNEL, "cpu")
    listening.dense_pass(transformer, GRID, noise, PROMPT, 1000, [0, 1], kernel, lambda *told: heard.append(told[:2]))
    assert heard == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_maps_are_averaged_to_a_size_that_can_be_kept():
    assert pooling(1024, 64, 1024) == 1
    assert pooling(1024, 64, 256) == 4
    assert pooling(24, 12, 9) == 3
    assert pooling(1000, 10, 5) == 10  # not beyond a frame


def test_means_by_distance_against_loops():
    layout = VideoLayout(5, 3, 4)
    pairs = np.random.default_rng(0).random((2, 5, 5))
    for d in range(5):
        seen = [pairs[:, i, j] for i in range(5) for j in range(5) if abs(i - j) == d]
        np.testing.assert_allclose(decay.by_frame_distance(pairs)[:, d], np.mean(seen, axis=0))
    pairs = np.random.default_rng(1).random((2, 12, 12))
    distances, means = decay.by_place_distance(pairs, layout)
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
    fit = decay.fit_decay(x, y)
    assert fit["a"] == pytest.approx(0.4, rel=1e-5) and fit["b"] == pytest.approx(-1.5, rel=1e-5)
    assert fit["r2"] == pytest.approx(1.0)
    assert decay.fit_decay(x, y, nearest=0)["r2"] < 0.99


def test_r2_is_that_of_the_scores_and_low_where_nothing_decays():
    rng = np.random.default_rng(0)
    x = np.arange(1, 40)
    y = 0.5 + 0.2 * rng.random(39)
    fit = decay.fit_decay(x, y)
    found = np.exp(-fit["a"] * x + fit["b"])
    assert fit["r2"] == pytest.approx(1 - ((y - found) ** 2).sum() / ((y - y.mean()) ** 2).sum())
    assert fit["r2"] < 0.3


@pytest.mark.parametrize(("score", "words"), [([1.0, 0.5, 0.2], "at least 3"), ([1.0, 0.5, 0.0, 0.1], "above 0")])
def test_what_cannot_be_fitted_is_refused(score, words):
    with pytest.raises(ValueError, match=words):
        decay.fit_decay(np.arange(len(score)), np.array(score))


def test_heads_are_told_apart_without_the_token_itself():
    layout = VideoLayout(2, 1, 2)
    recording = Recording.empty(layout, (0,), 2, 2)
    own_frame = [[0.3, 0.9], [0.95, 0.2]]
    own_place = [[0.1, 0.05], [0.0, 0.7]]
    itself = [[0.0, 0.0], [0.9, 0.1]]  # layer 1, head 0 only looks at the token itself
    for layer in range(2):
        for head in range(2):
            recording.frames[layer, head] = torch.eye(2) * own_frame[layer][head]
            place = torch.full((2, 2), own_place[layer][head])
            recording.same_place[0, layer, head] = place.fill_diagonal_(itself[layer][head])
    assert choose_heads(recording) == {"spatial": (0, 1), "temporal": (1, 1)}


def test_decays_of_layers_steps_and_heads_are_told_apart():
    """Each layer, step and head decays at a rate of its own; means over the others have the fits of those means."""
    x = np.arange(10)
    rates = np.array([[[0.2, 0.5], [0.3, 0.9]], [[0.25, 0.4], [0.6, 1.1]]])  # step, layer, head
    scores = np.exp(-rates[..., None] * x)
    scores[:, 1, 1, 4] = 0.0  # a head without a fit
    found = decay.decay_of(x, scores)
    fits = found["fits"]
    for layer, head in ((0, 0), (0, 1), (1, 0)):
        assert fits["heads"][layer][head] == decay.fit_decay(x, scores[:, layer, head].mean(0))
    assert "above 0" in fits["heads"][1][1]["reason"]
    for number in range(2):
        layer, step = (decay.fit_decay(x, part.mean((0, 1))) for part in (scores[:, number], scores[number]))
        assert fits["layers"][number] == pytest.approx(layer, rel=1e-4)
        assert fits["steps"][number] == pytest.approx(step, rel=1e-4)
    assert fits["mean"] == pytest.approx(decay.fit_decay(x, scores.mean((0, 1, 2))), rel=1e-4)
    assert fits["mean_from_0"] != fits["mean"]
    np.testing.assert_allclose(found["mean"], scores.mean((0, 1, 2)), rtol=1e-5)
    assert (np.array(found["low"]) <= found["mean"]).all() and (np.array(found["high"]) >= found["mean"]).all()


def test_the_verb_writes_arrays_and_facts(spec, transformer, noise, tmp_path, monkeypatch):
    write_inputs(tmp_path / "in", torch.cat([noise, noise.flip(2)]))
    monkeypatch.setattr("benchmark.models.testbed.load", lambda name, device: transformer, raising=False)
    monkeypatch.setattr("benchmark.models.get", lambda name: spec)
    words = ["probe", "--model", "testbed-nano", "--inputs", str(tmp_path / "in"), "--steps", "3", "--device", "cpu"]
    words += ["--record-steps", "2", "--prompts", "2", "--out"]
    assert main([*words, str(tmp_path / "out" / "m.npz")]) == 0
    facts = json.loads((tmp_path / "out" / "m.json").read_text())
    with np.load(tmp_path / "out" / "m.npz") as arrays:
        assert arrays["temporal"].shape == (2, 2, 2, 4) and arrays["spatial"].shape == (2, 2, 2, 5)
        assert arrays["maps"].shape == (2, 2, 48, 48) and arrays["map_spatial"].shape == (48, 48)
        layer, head = facts["heads"]["temporal"]
        np.testing.assert_allclose(arrays["map_temporal"], arrays["maps"][layer, head])
        np.testing.assert_allclose(facts["decay"]["temporal"]["mean"], arrays["temporal"].mean((0, 1, 2)), rtol=1e-5)
    assert facts["prompts"] == [PROMPT] * 2 and facts["steps_recorded"] == [0, 2] and facts["layout"] == [4, 3, 4]
    assert set(facts["decay"]) == {"temporal", "spatial"}
    assert {"attention", "noise", "prompts", "weights"} == set(facts["provenance"]["hashes"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["m.json", "m.npz"]


def test_inputs_that_are_not_there_are_refused(tmp_path, noise):
    with pytest.raises(ValueError, match="missing"):
        probe.read_clips(tmp_path, "testbed-nano", 0, 1)
    write_inputs(tmp_path, noise)
    for clip, count in ((1, 1), (0, 2), (0, 0), (-1, 1)):
        with pytest.raises(ValueError, match="clips 0 to 0"):
            probe.read_clips(tmp_path, "testbed-nano", clip, count)
    with pytest.raises(ValueError, match="made for testbed-nano; testbed-base is needed"):
        probe.read_clips(tmp_path, "testbed-base", 0, 1)
    save_file({"noise": noise + 1}, tmp_path / "noise.safetensors")
    with pytest.raises(ValueError, match="SHA-256"):
        probe.read_clips(tmp_path, "testbed-nano", 0, 1)


def test_what_is_no_testbed_is_refused(tmp_path, capsys):
    words = ["probe", "--model", "wan2.1-14b", "--inputs", str(tmp_path), "--out", str(tmp_path / "m.npz")]
    assert main(words) == 2
    assert "only testbeds" in capsys.readouterr().err
