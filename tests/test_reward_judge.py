"""The testbed's judge: its questions, its first stage, its training, and what the published one prefers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmark.metric import prepare
from benchmark.reward import judge, train_judge
from benchmark.reward.degradations import DEGRADATIONS, UNGRADED, degrade, names
from benchmark.reward.perception import perceive, wanted
from benchmark.testbed.grammar import describe, description_of
from benchmark.testbed.world import render_batch, sample_batch, sample_scene, to_scenes, to_uint8

SMALL = train_judge.JudgeSettings(chunks=2, scenes=1, kinds=2, epochs=2, seed=3)


@pytest.fixture(scope="module")
def published() -> judge.Checklist:
    return judge.load()


def scenes_and_clips(count: int = 3, frames: int = 16, size: int = 48, seed: int = 5):
    scenes = sample_batch(np.random.Generator(np.random.PCG64(seed)), count)
    return scenes, render_batch(scenes, frames, size)


def test_degradations_grow_from_nothing_and_repeat_themselves() -> None:
    scenes, clips = scenes_and_clips()
    for name, kind in DEGRADATIONS.items():
        assert kind.spoils and not set((*kind.spoils, *kind.unsure)) - set(judge.QUESTIONS), name

        def spoil(strength: float, name: str = name) -> torch.Tensor:
            return degrade(name, scenes, clips, torch.full((3,), strength), torch.Generator().manual_seed(1))

        strong = spoil(1.0)
        assert strong.shape == clips.shape and strong.min() >= 0 and strong.max() <= 1
        assert torch.equal(strong, spoil(1.0)), name
        moved = (strong - clips).abs().mean(dim=(1, 2, 3, 4))
        assert (moved > 1e-3).all(), name
        if name not in UNGRADED:
            assert (spoil(0.5) - clips).abs().mean() < moved.mean() * 1.5, name
    with pytest.raises(ValueError, match="degradation 'blurr' does not exist"):
        degrade("blurr", scenes, clips, torch.ones(3), torch.Generator())
    with pytest.raises(ValueError, match="0 to 1 is allowed"):
        degrade("blur", scenes, clips, torch.full((3,), 1.5), torch.Generator())


def test_the_first_stage_follows_objects(published) -> None:
    from benchmark.testbed.world import batch_trajectories

    scenes, clips = scenes_and_clips(6)
    seen = perceive(clips, wanted([description_of(scene) for scene in to_scenes(scenes)]))
    truth = (batch_trajectories(scenes, 16) - 32) / 16
    places = seen.objects[:, :, 5:7].movedim(2, 3)
    apart = (places - truth).norm(dim=-1) * 16
    assert apart[scenes.present].median() < 0.5  # world pixels
    assert seen.objects.shape[2] == judge.OBJECT_CHANNELS and seen.whole.shape[1] == judge.WHOLE_CHANNELS
    for bad in (clips[:, :7], clips[..., :40], clips[..., :24, :24]):
        with pytest.raises(ValueError, match="needed is"):
            perceive(bad, wanted([description_of(scene) for scene in to_scenes(scenes)]))


def test_training_is_deterministic_and_learns() -> None:
    groups = [train_judge.draw_group(SMALL, number) for number in (0, 2)]
    again = train_judge.draw_group(SMALL, 2)
    assert torch.equal(groups[1].seen.objects, again.seen.objects) and torch.equal(groups[1].targets, again.targets)
    first, losses = train_judge.train_network(SMALL, groups)
    second, _ = train_judge.train_network(SMALL, groups)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert losses[-1] < losses[0]
    with pytest.raises(ValueError, match="kinds=99"):
        train_judge.JudgeSettings(kinds=99)


def test_targets_say_what_is_known() -> None:
    answers, known = train_judge.targets("vanish", torch.tensor([0.0, 0.2, 1.0]))
    order = list(judge.QUESTIONS)
    torch.testing.assert_close(answers[:, order.index("stay")], torch.tensor([1.0, 0.5, 1 / 32]))
    assert known[0, order.index("stay")] == known[0, order.index("sharp")] == 1
    assert known[0, order.index("shapes")] == 0
    assert train_judge.targets(None, torch.zeros(2))[0].min() == 1


def test_weights_are_those_of_the_logistic_regression() -> None:
    from scipy.optimize import approx_fprime

    random = np.random.default_rng(0)
    truth = np.array([2.0, 0.5, 0.0, 1.0])
    differences = random.normal(size=(4000, 4))
    likely = random.random(4000) < 1 / (1 + np.exp(-differences @ truth))
    differences[~likely] *= -1  # the preferred clip comes first
    weights = train_judge.fit_weights(differences, ridge=1e-4)
    np.testing.assert_allclose(weights, truth / truth.mean(), atol=0.15)
    assert train_judge.fit_weights(np.c_[differences, -differences[:, :1]], ridge=1e-4)[-1] == pytest.approx(0, abs=0.2)
    # A strong penalty leaves equal weights.
    np.testing.assert_allclose(train_judge.fit_weights(differences, ridge=1e4), 1, atol=0.03)
    # At the minimum no weight that is above 0 can be moved to gain anything.
    scale = np.linalg.lstsq(weights[:, None], truth, rcond=None)[0]
    slope = approx_fprime(weights * scale, lambda w: np.logaddexp(0, -differences @ w).mean(), 1e-6)
    assert np.abs(slope[weights > 0.1]).max() < 0.02


@pytest.fixture(scope="module")
def answers(published) -> dict[str, torch.Tensor]:
    """Scores at strengths 0, 0.4 and 1 of scenes and draws that training never met: (strengths, clips)."""
    settings = train_judge.JudgeSettings(seed=77)
    found = {}
    for name in names():
        strengths = (1.0,) if name in UNGRADED else (0.4, 1.0)
        scenes, clips = scenes_and_clips(2, seed=1000 + list(DEGRADATIONS).index(name))
        prompts = [description_of(scene) for scene in to_scenes(scenes)]
        rows = [published.scores(published.answers(clips, prompts))]
        for strength in strengths:
            generator = torch.Generator().manual_seed(settings.seed)
            spoilt = degrade(name, scenes, clips, torch.full((2,), strength), generator)
            rows.append(published.scores(published.answers(spoilt, prompts)))
        found[name] = torch.stack(rows)
    return found


def test_the_published_judge_prefers_the_cleaner_clip(answers) -> None:
    held_out = torch.cat([(answers[name][:1] > answers[name][1:]).flatten() for name in names(trained=False)]).float()
    everything = torch.cat([(scores[:1] > scores[1:]).flatten() for scores in answers.values()]).float()
    assert held_out.mean() >= 0.95 and everything.mean() >= 0.95


def test_its_score_falls_as_degradations_grow(answers) -> None:
    for name, scores in answers.items():
        means = scores.mean(dim=1)
        assert (means[1:] < means[:-1] + 0.02).all(), (name, means)
        assert means[-1] < means[0], (name, means)


def test_the_training_record_says_what_was_measured(published) -> None:
    record = json.loads((judge.WEIGHTS_FOLDER / judge.RECORD_FILE).read_text())
    found = record["evaluation"]
    assert set(found["degradations"]) == set(names())
    assert min(found["preferred"].values()) >= 0.95
    for name, item in found["degradations"].items():
        means = item["mean_score"]
        assert item["falls"] == all(np.diff(means) < 0), name
        assert max(means[1:]) < means[0] and max(np.diff(means)) < 0.005, name
    assert (judge.WEIGHTS_FOLDER / judge.WEIGHTS_FILE).stat().st_size == record["bytes"] <= 1_000_000
    assert float(published.weights.min()) >= 0 and float(published.weights.mean()) == pytest.approx(1, abs=1e-3)


def test_the_metric_asks_the_published_judge(published) -> None:
    metric = prepare(["vision_reward"])[0]
    scene = sample_scene(11)
    clip = to_uint8(render_batch(sample_batch(np.random.Generator(np.random.PCG64(11)), 1), 16, 48))[0].numpy()
    right = metric.measure(None, clip, prompt=describe(scene))
    expected, found = published.judge(clip, describe(scene))
    assert right.values == {"vision_reward": pytest.approx(expected)} and list(found) == list(judge.QUESTIONS)
    assert right.provenance["vision_reward_weights"] == published.sha256
    answers = right.parts["vision_reward"]
    assert list(answers) == list(judge.QUESTIONS)
    weighted = torch.tensor(list(answers.values())) * published.weights
    assert float(weighted.mean()) == pytest.approx(expected, abs=1e-6)
    assert "testbed's own judge" in metric.context["footnotes"]["vision_reward"]
    other = metric.measure(None, clip, prompt=describe(sample_scene(12)))
    assert other.values["vision_reward"] < expected - 0.2
    for prompt, frames in (("", clip), ("a cat", clip), (describe(scene), clip[:4])):
        said = metric.measure(None, frames, prompt=prompt)
        assert said.status == "unsupported" and "no judge" in said.reason


def test_damaged_judges_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="judge.safetensors; python -m benchmark train_judge"):
        judge.load(tmp_path)
    for name in (judge.WEIGHTS_FILE, judge.RECORD_FILE):
        (tmp_path / name).write_bytes((judge.WEIGHTS_FOLDER / name).read_bytes())
    whole = (tmp_path / judge.WEIGHTS_FILE).read_bytes()
    (tmp_path / judge.WEIGHTS_FILE).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match="SHA-256 is .*, the training record says"):
        judge.load(tmp_path)
    (tmp_path / judge.RECORD_FILE).write_text("{}")
    with pytest.raises(ValueError, match="no training record"):
        judge.load(tmp_path)
