"""Training a testbed: settings, a few steps on a CPU, and the weights that come out."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from benchmark.__main__ import main
from benchmark.models import testbed
from benchmark.models.spec import build
from benchmark.records import sha256_file
from benchmark.testbed import train as training
from benchmark.testbed.flow import scheduler, velocity
from benchmark.testbed.sample import sample
from benchmark.testbed.train import SETTINGS, Phase, TrainingSettings, train

SPEC = testbed.SPEC.resized(num_layers=1, num_attention_heads=1, ffn_dim=16)
FEW = TrainingSettings(steps=3, batch=2, frames=2, average=0.5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return train(SPEC, FEW, "cpu", folder), folder


def test_weights_and_record_are_written(trained) -> None:
    record, folder = trained
    assert sorted(path.name for path in folder.iterdir()) == ["testbed-nano.safetensors", "testbed-nano.training.json"]
    assert json.loads((folder / "testbed-nano.training.json").read_text()) == json.loads(json.dumps(record))
    assert record["sha256"] == sha256_file(folder / "testbed-nano.safetensors")
    assert (record["steps"], record["clips"]) == (3, 6)
    assert record["parameters"] == sum(value.numel() for value in build(SPEC).parameters())
    assert record["settings"]["steps"] == 3 and record["settings"]["batch"] == 2
    (last,) = record["curve"]
    assert last["step"] == 3 and 0 < last["loss"] < 100 and 0 < last["rate"] <= FEW.rate
    assert record["provenance"]["device"]["type"] == "cpu" and record["transformer_config"]["ffn_dim"] == 16


def test_trained_weights_load_and_draw_a_clip(trained) -> None:
    folder = trained[1]
    stored = load_file(folder / "testbed-nano.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}
    transformer = testbed.load("testbed-nano", folder=folder, spec=SPEC)
    for name, value in transformer.named_parameters():
        assert torch.equal(value.float(), stored[name].float())
    untrained = build(SPEC).state_dict()
    # At a rate of 2e-3 some weights move in three steps by more than bfloat16 hides.
    moved = [name for name, value in stored.items() if (value.float() - untrained[name]).abs().max() > 2e-3]
    assert any(name.startswith("blocks.0.attn1") for name in moved) and any("patch_embedding" in name for name in moved)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(1, 3, 2, 12, 12, generator=generator)
    clip = sample(transformer, noise, torch.randn(1, SPEC.text_tokens, 32, generator=generator), 2)
    assert clip.shape == (1, 2, 3, 12, 12) and bool(clip.isfinite().all())
    assert 0 <= float(clip.min()) < float(clip.max()) <= 1


def test_another_model_s_weights_are_refused(trained, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"testbed-nano.safetensors: not those of testbed-nano: "):
        testbed.load("testbed-nano", folder=trained[1])
    with pytest.raises(ValueError, match="testbed-nano.safetensors: the file is missing"):
        testbed.load("testbed-nano", folder=tmp_path)


def test_training_is_deterministic_on_a_cpu(trained, tmp_path) -> None:
    again = train(SPEC, FEW, "cpu", tmp_path)
    assert again["sha256"] == trained[0]["sha256"]


def test_the_network_comes_to_predict_the_clean_clip() -> None:
    settings = TrainingSettings(steps=40, batch=2, frames=2, rate=5e-3)
    torch.manual_seed(0)
    model = build(SPEC)
    averaged = [value.detach().clone() for value in model.parameters()]
    clean, prompts = torch.rand(2, 3, 2, 12, 12) * 0.2 + 0.7, torch.randn(2, SPEC.text_tokens, 32)
    step = training._step(
        model, training._optimizers(model, settings, "cpu"), averaged, settings, clean, prompts, "cpu"
    )
    losses = [float(step(settings.rate)) for _ in range(40)]
    assert sum(losses[-5:]) < 0.3 * sum(losses[:5])
    with torch.no_grad():
        noisy = 0.5 * clean + 0.5 * torch.randn_like(clean)
        predicted = model(noisy, torch.full((2,), 500.0), prompts, return_dict=False)[0]
    assert (predicted - clean).square().mean() < 0.2 * clean.square().mean()


def test_training_ends_by_its_time_and_refuses_a_loss_that_is_not_finite(tmp_path, monkeypatch) -> None:
    settings = TrainingSettings(steps=1000, seconds=1e-3, batch=2, frames=2)
    record = train(SPEC, settings, "cpu", tmp_path / "short")
    assert record["steps"] == 1 and [point["step"] for point in record["curve"]] == [1]
    monkeypatch.setattr(training, "_step", lambda *args: lambda rate: torch.tensor(math.nan))
    with pytest.raises(FloatingPointError, match="training testbed-nano: loss nan at step 1"):
        train(SPEC, TrainingSettings(steps=1, batch=2, frames=2), "cpu", tmp_path / "broken")
    assert not (tmp_path / "broken").exists()


@pytest.mark.parametrize("settings", [TrainingSettings(), TrainingSettings(warmup=0.3, cooldown=0.2, levels=7)])
def test_the_rate_rises_stays_and_falls(settings: TrainingSettings) -> None:
    progress = [step / 10_000 for step in range(10_001)]
    rates = [settings.rate_at(share) for share in progress]
    assert min(rates) > 0 and max(rates) == settings.rate
    assert rates[0] <= 0.15 * settings.rate and rates[-1] == pytest.approx(settings.rate / settings.levels)
    for share, rate in zip(progress, rates, strict=True):
        if settings.warmup <= share <= 1 - settings.cooldown:
            assert rate == settings.rate
    up = rates[: int(settings.warmup * 10_000)]
    down = rates[int((1 - settings.cooldown) * 10_000) :]
    assert up == sorted(up) and down == sorted(down, reverse=True)
    assert len(set(rates)) <= settings.levels  # each level is captured once on a GPU
    assert settings.rate_at(1 - settings.cooldown / 2) == pytest.approx(settings.rate / 2, rel=2 / settings.levels)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("first_share", 1.0),
        ("first_frames", 0),
        ("checkpoint", -1.0),
        ("attention", "fast"),
        ("steps", 0),
        ("batch", 0),
        ("frames", 0),
        ("levels", 0),
        ("seconds", 0),
        ("rate", -1.0),
        ("warmup", 0.0),
    ]
    + [("cooldown", 1.5), ("average", 1.0)],
)
def test_impossible_settings_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"train: {name}={value!r}: .* (is needed|are allowed)"):
        TrainingSettings(**{name: value})


def test_the_velocity_is_noise_less_clip() -> None:
    clip, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    time = torch.tensor([1.0, 0.25])
    noisy = (1 - time)[:, None, None] * clip + time[:, None, None] * noise
    torch.testing.assert_close(velocity(clip, noisy, time), noise - clip)
    torch.testing.assert_close(velocity(clip, noise, 1.0), noise - clip)
    assert bool(velocity(clip, noise, 0.0).isfinite().all())


@pytest.mark.parametrize("steps", [2, 12, 16])
def test_the_sampler_reaches_the_clip_that_is_predicted(steps: int) -> None:
    """With a perfect prediction every number of steps ends at the clean clip."""
    generator = torch.Generator().manual_seed(2)
    clip, noisy = torch.randn(2, 1, 3, 2, 6, 6, generator=generator).unbind(0)
    schedule = scheduler(steps)
    assert len(schedule.timesteps) == steps
    assert float(schedule.sigmas[0]) > 0.99 and float(schedule.sigmas[-1]) == 0
    for sigma, moment in zip(schedule.sigmas[:-1].tolist(), schedule.timesteps, strict=True):
        assert float(moment) == pytest.approx(1000 * sigma, abs=1)  # what training calls t x 1000
        noisy = schedule.step(velocity(clip, noisy, sigma), moment, noisy, return_dict=False)[0]
    torch.testing.assert_close(noisy, clip, rtol=0, atol=0.02)


def test_the_verb_refuses_what_it_cannot_train(tmp_path, capsys) -> None:
    assert main(["train", "--model", "wan2.1-14b", "--out", str(tmp_path)]) == 2
    assert "only testbeds are trained here" in capsys.readouterr().err
    assert main(["train", "--cooldown", "0", "--out", str(tmp_path)]) == 2
    assert "cooldown=0.0: a share above 0 and at most 1 is needed" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert main(["train", "--evaluate-long", "0", "--out", str(tmp_path)]) == 2
    assert "evaluate_long=0" in capsys.readouterr().err
    assert main(["train", "--start", str(tmp_path), "--steps", "1", "--out", str(tmp_path / "new")]) == 2
    assert "testbed-nano.safetensors: the file is missing" in capsys.readouterr().err


def test_every_testbed_has_settings_for_its_length() -> None:
    from benchmark import models

    assert set(SETTINGS) == {name for name in models.names() if name.startswith("testbed-")}
    for name, settings in SETTINGS.items():
        assert settings.frames == models.get(name).default.frames
        assert settings.phases[-1] == Phase(1.0, settings.frames, settings.batch)
    assert SETTINGS["testbed-nano"] == TrainingSettings() and len(TrainingSettings().phases) == 1
    first, second = SETTINGS["testbed-base"].phases
    assert first.until < second.until == 1 and first.frames < second.frames and first.batch > second.batch


def test_training_goes_from_short_clips_to_long_ones(tmp_path, monkeypatch) -> None:
    drawn = []
    batch = training._batch

    def seen(spec, phase, scenes, device):
        clips, prompts = batch(spec, phase, scenes, device)
        drawn.append(tuple(clips.shape))
        return clips, prompts

    monkeypatch.setattr(training, "_batch", seen)
    settings = TrainingSettings(steps=4, batch=1, frames=3, first_share=0.5, first_batch=2, first_frames=2, average=0.5)
    record = train(SPEC, settings, "cpu", tmp_path)
    assert drawn == [(2, 3, 2, 48, 48)] * 2 + [(1, 3, 3, 48, 48)] * 2
    assert (record["steps"], record["clips"], record["progress"]) == (4, 6, 1.0)
    assert [(point["step"], point["frames"]) for point in record["curve"]] == [(2, 2), (4, 3)]


def test_training_goes_on_from_weights(trained, tmp_path) -> None:
    before, folder = trained
    record = train(SPEC, TrainingSettings(steps=1, batch=2, frames=2, rate=1e-9), "cpu", tmp_path, folder)
    assert record["start"] == json.loads(json.dumps(before))
    first, second = (load_file(path / "testbed-nano.safetensors") for path in (folder, tmp_path))
    # At no learning rate to speak of the weights stay, but for the norms and biases that begin below bfloat16's steps.
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(ValueError, match="not those of testbed-nano"):
        train(SPEC.resized(ffn_dim=8), FEW, "cpu", tmp_path / "other", folder)
    (tmp_path / "testbed-nano.training.json").unlink()
    with pytest.raises(ValueError, match="testbed-nano.training.json is missing"):
        train(SPEC, FEW, "cpu", tmp_path / "other", tmp_path)
    assert not (tmp_path / "other").exists()


def test_weights_are_written_as_it_goes(tmp_path, monkeypatch) -> None:
    saved = []
    save = training._save

    def noted(*args):
        record = save(*args)
        saved.append((record["steps"], record["progress"]))
        return record

    monkeypatch.setattr(training, "_save", noted)
    monkeypatch.setattr(training, "_step", lambda *args: lambda rate: torch.tensor(1.0))
    monkeypatch.setattr(training, "_batch", lambda *args: (torch.zeros(1), torch.zeros(1)))
    monkeypatch.setattr(training, "describe_device", lambda device: {})
    train(SPEC, TrainingSettings(steps=1003, checkpoint=1e-6), "cpu", tmp_path)
    assert [steps for steps, _ in saved] == [1000, 1001, 1002, 1003, 1003]
    assert saved[0][1] == pytest.approx(1000 / 1003, abs=1e-3) and saved[-1][1] == 1.0


def test_a_run_evaluates_and_draws_its_clips(tmp_path, monkeypatch) -> None:
    from dataclasses import replace

    from benchmark.models.spec import Shape

    spec = replace(SPEC, default=Shape(2, 36, 36), lengths={"1x": 2, "2x": 4}, steps=2)
    monkeypatch.setattr(testbed, "SPEC", spec)
    words = "train --steps 1 --batch 1 --frames 2 --evaluate 1 --evaluate-long 1 --samples 2 --regional false"
    assert main([*words.split(), "--device", "cpu", "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "testbed-nano.training.json").read_text())
    assert record["evaluation"]["clips"] == 1 and record["evaluation"]["long_frames"] == 4
    assert record["evaluation"]["provenance"]["device"]["type"] == "cpu"
    from PIL import Image

    with Image.open(tmp_path / "testbed-nano.samples.png") as picture:
        assert picture.size == (2 * 38, 2 * 38)


def test_weights_in_shards_are_read_back(tmp_path) -> None:
    from benchmark.testbed import shards

    weights = {name: torch.randn(100).to(torch.bfloat16) for name in "abcde"}
    path, files = shards.write(weights, tmp_path, "small", largest=450)
    assert [file["file"] for file in files] == [path.name, *(f"small-0000{n}-of-00003.safetensors" for n in (1, 2, 3))]
    assert all(sha256_file(tmp_path / file["file"]) == file["sha256"] for file in files)
    found = shards.read(shards.find(tmp_path, "small"))
    assert found.keys() == weights.keys() and all(torch.equal(found[name], weights[name]) for name in weights)
    one, files = shards.write(weights, tmp_path, "small")  # what was there before is gone
    assert [path.name for path in tmp_path.iterdir()] == [one.name] == ["small.safetensors"] and len(files) == 1
    with pytest.raises(ValueError, match="tensor a has 200 bytes; at most 100 fit"):
        shards.write(weights, tmp_path, "small", largest=100)
    broken = tmp_path / "broken.safetensors.index.json"
    broken.write_text("{}")
    with pytest.raises(ValueError, match="no index of shards"):
        shards.read(broken)
