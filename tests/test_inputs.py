"""Prompts and initial noise: the same for everybody, and refused when they are not."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmark.__main__ import main
from benchmark.inputs import NOISE, PROMPTS, clip_seeds, read_inputs, write_inputs
from benchmark.records import sha256_file, sha256_tensor
from benchmark.testbed.grammar import describe, parse
from benchmark.testbed.world import sample_scene


def write(folder, frames=4, clips=3, seed=7, model="testbed-nano"):
    return write_inputs(model, frames, 12, 18, clips, seed, folder)


def test_prompts_are_the_same_at_every_length(tmp_path) -> None:
    contents = [write(tmp_path / str(frames), frames) for frames in (1, 4, 9)]
    assert len({json.dumps(content["prompts"]) for content in contents}) == 1
    assert len({json.dumps(content["seeds"]) for content in contents}) == 1
    for prompt, seed in zip(contents[0]["prompts"], contents[0]["seeds"], strict=True):
        assert describe(parse(prompt)) == prompt == describe(sample_scene(seed))
    assert len(set(contents[0]["prompts"])) == 3
    assert write(tmp_path / "other", seed=8)["prompts"] != contents[0]["prompts"]


def test_noise_is_each_clip_s_own_and_the_same_every_time(tmp_path) -> None:
    write(tmp_path / "three")
    write(tmp_path / "again")
    write(tmp_path / "five", clips=5)
    for name in (NOISE, PROMPTS):
        assert sha256_file(tmp_path / "three" / name) == sha256_file(tmp_path / "again" / name)
    three, five = (read_inputs(tmp_path / name)[1] for name in ("three", "five"))
    assert three.shape == (3, 3, 4, 12, 18) and three.dtype == torch.float32
    assert torch.equal(five[:3], three)
    assert abs(float(five.mean())) < 0.03 and abs(float(five.std()) - 1) < 0.03
    flat = five.flatten(1)
    assert float((torch.corrcoef(flat) - torch.eye(5)).abs().max()) < 0.1
    assert clip_seeds(7, 2) == [700_000, 700_001]
    assert torch.equal(three[1], torch.randn(3, 4, 12, 18, generator=torch.Generator().manual_seed(700_001)))


def test_what_is_read_is_what_was_written(tmp_path) -> None:
    content = write(tmp_path)
    found, noise, hashes = read_inputs(tmp_path)
    assert found == content
    assert hashes == {"noise": sha256_tensor(noise), "prompts": sha256_file(tmp_path / PROMPTS)}
    assert sorted(path.name for path in tmp_path.iterdir()) == [NOISE, PROMPTS]


def test_noise_of_other_prompts_is_refused(tmp_path) -> None:
    write(tmp_path)
    noise = load_file(tmp_path / NOISE)["noise"]
    noise[2, 0, 0, 0, 0] += 1e-6
    save_file({"noise": noise}, tmp_path / NOISE)
    with pytest.raises(ValueError, match=r"noise.safetensors: SHA-256 is .*, prompts.json says"):
        read_inputs(tmp_path)


@pytest.mark.parametrize("name", [NOISE, PROMPTS])
def test_missing_and_damaged_files_are_refused(tmp_path, name: str) -> None:
    write(tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be read"):
        read_inputs(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=f"{name}: the file is missing"):
        read_inputs(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "wan2.1-14b"}, "prompts are made for testbeds only; testbed-nano"),
        ({"model": "testbed-nani"}, "did you mean 'testbed-nano'"),
        ({"clips": 0}, "clips=0: at least 1"),
        ({"seed": -1}, "seed=-1: at least 0"),
        ({"frames": 0}, "frames=0"),
    ],
)
def test_impossible_inputs_are_refused_before_anything_is_written(tmp_path, changes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        write(tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_the_verb_writes_them(tmp_path, capsys) -> None:
    words = "inputs --model testbed-nano --length 1x --frames 2 --height 12 --width {} --clips 1 --seed 7 --out {}"
    assert main(words.format(12, tmp_path / "in").split()) == 0
    assert read_inputs(tmp_path / "in")[1].shape == (1, 3, 2, 12, 12)
    assert main(words.format(13, tmp_path / "out").split()) == 2
    error = capsys.readouterr().err.splitlines()
    assert error == [
        "inputs: testbed-nano: width=13: a multiple of 6 from 6 to 768 is needed; the nearest are 12 and 18"
    ]
