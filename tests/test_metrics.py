"""The metrics against known answers and independent computations, and the rules of their files."""

from __future__ import annotations

import hashlib
import importlib.util

import numpy as np
import pytest
import torch

from benchmark.compare import summarise
from benchmark.metric import (
    Column,
    Measurement,
    Metric,
    check_pair,
    discover,
    metric_names,
    prepare,
    select,
)
from metrics import lpips as lpips_metric
from metrics.psnr import frame_psnr
from metrics.ssim import frame_ssim


@pytest.fixture(autouse=True)
def no_trunk_weights(tmp_path, monkeypatch):
    """An empty hub cache, so that no test depends on this machine's files."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))


def scene(seed: int, frames: int = 5, height: int = 48, width: int = 64) -> np.ndarray:
    """A moving pattern of waves, another for every seed."""
    random = np.random.default_rng(seed)
    time, y, x = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    channels = []
    for _ in range(3):
        across, down, speed, phase = random.uniform([-0.6, -0.6, -0.5, 0], [0.6, 0.6, 0.5, 6.3])
        channels.append(np.sin(across * x + down * y + speed * time + phase))
    return np.rint(127.5 + 110 * np.stack(channels, axis=-1)).astype(np.uint8)


def degraded(clip: np.ndarray, sigma: float = 12, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, clip.shape)
    return np.clip(np.rint(clip + noise), 0, 255).astype(np.uint8)


def measure_one(name: str, reference: np.ndarray | None, candidate: np.ndarray) -> Measurement:
    return prepare([name])[0].measure(reference, candidate)


# Known answers


def test_identical_clips():
    clip = scene(0)
    psnr = measure_one("psnr", clip, clip.copy())
    assert psnr.values == {"psnr": 100.0}
    assert psnr.flags == {"psnr_capped": len(clip)}
    assert measure_one("ssim", clip, clip.copy()).values["ssim"] == pytest.approx(1, abs=1e-12)
    assert measure_one("lpips", clip, clip.copy()).values["lpips_untrained"] == 0


def test_noise_of_sigma_20_on_grey_is_22_11_db():
    grey = np.full((8, 128, 128, 3), 128, dtype=np.uint8)
    noisy = degraded(grey, sigma=20, seed=1)
    assert measure_one("psnr", grey, noisy).values["psnr"] == pytest.approx(22.11, abs=0.05)
    # Differences taken in uint8 wrap round and come out several dB too high.
    wrapped = np.mean((grey - noisy).astype(np.uint8) ** 2, axis=(1, 2, 3), dtype=np.float64)
    assert 10 * np.log10(255**2 / wrapped).mean() > 24


@pytest.mark.parametrize(("first", "second"), [(100, 110), (110, 100), (250, 5), (0, 255)])
def test_psnr_of_a_constant_difference(first, second):
    reference, candidate = (np.full((2, 8, 8, 3), level, dtype=np.uint8) for level in (first, second))
    expected = 20 * np.log10(255 / abs(first - second))
    np.testing.assert_allclose(frame_psnr(reference, candidate), expected, atol=1e-9)


def test_psnr_is_averaged_over_frames_and_not_over_errors():
    reference = np.full((2, 8, 8, 3), 100, dtype=np.uint8)
    candidate = reference + np.array([1, 50], dtype=np.uint8).reshape(2, 1, 1, 1)
    expected = (20 * np.log10(255) + 20 * np.log10(255 / 50)) / 2
    measured = measure_one("psnr", reference, candidate)
    assert measured.values["psnr"] == pytest.approx(expected)
    assert measured.flags == {}


def test_only_capped_frames_are_flagged():
    reference = scene(1, frames=4)
    candidate = reference.copy()
    candidate[2:] = degraded(candidate[2:])
    assert measure_one("psnr", reference, candidate).flags == {"psnr_capped": 2}


def windowed_ssim(first: np.ndarray, second: np.ndarray, kernel: np.ndarray) -> float:
    """SSIM of one channel written out: weighted moments of every window that lies inside the frame."""
    windows = [np.lib.stride_tricks.sliding_window_view(x.astype(float), kernel.shape) for x in (first, second)]

    def moment(x: np.ndarray) -> np.ndarray:
        return (x * kernel).sum(axis=(-2, -1))

    mean_a, mean_b = moment(windows[0]), moment(windows[1])
    variance_a = moment(windows[0] ** 2) - mean_a**2
    variance_b = moment(windows[1] ** 2) - mean_b**2
    covariance = moment(windows[0] * windows[1]) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return float(np.mean(similarity / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))))


def test_ssim_uses_the_gaussian_window():
    reference = scene(2, frames=2, height=33, width=41)
    candidate = degraded(reference, sigma=30)
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    gaussian = np.outer(line, line) / line.sum() ** 2
    box = np.full((7, 7), 1 / 49)

    def expected(kernel: np.ndarray) -> np.ndarray:
        frames = zip(reference, candidate, strict=True)
        return np.array([np.mean([windowed_ssim(a[..., c], b[..., c], kernel) for c in range(3)]) for a, b in frames])

    measured = frame_ssim(reference, candidate)
    np.testing.assert_allclose(measured, expected(gaussian), atol=1e-9)
    assert np.all(np.abs(measured - expected(box)) > 0.01)


def test_shuffled_pairs_score_lower():
    references = [scene(seed) for seed in range(3)]
    candidates = [degraded(clip, seed=seed) for seed, clip in enumerate(references)]
    metrics = prepare(["psnr", "ssim", "lpips"])
    right, shuffled = {}, {}
    for scores, order in ((right, (0, 1, 2)), (shuffled, (1, 2, 0))):
        for reference, index in zip(references, order, strict=True):
            for metric in metrics:
                for key, value in metric.measure(reference, candidates[index]).values.items():
                    scores.setdefault(key, []).append(value)
    assert min(right["psnr"]) > max(shuffled["psnr"])
    assert min(right["ssim"]) > max(shuffled["ssim"])
    assert max(right["lpips_untrained"]) < min(shuffled["lpips_untrained"])


def test_more_noise_scores_worse():
    clip = scene(3)
    for name, sign in (("psnr", -1), ("ssim", -1), ("lpips", 1)):
        scores = [list(measure_one(name, clip, degraded(clip, sigma)).values.values())[0] for sigma in (4, 12, 36)]
        assert np.all(np.diff(scores) * sign > 0), name


# LPIPS


def numpy_lpips(
    first: np.ndarray, second: np.ndarray, weights: dict[str, np.ndarray], heads: list[np.ndarray]
) -> float:
    """LPIPS of two images (height, width, 3) in float64, without torch's layers."""

    def windows(x: np.ndarray, size: int, stride: int) -> np.ndarray:
        return np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))[:, ::stride, ::stride]

    def convolve(x: np.ndarray, layer: int, stride: int, padding: int) -> np.ndarray:
        kernel, bias = weights[f"features.{layer}.weight"], weights[f"features.{layer}.bias"]
        padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
        out = np.tensordot(kernel, windows(padded, kernel.shape[-1], stride), axes=([1, 2, 3], [0, 3, 4]))
        return np.maximum(out + bias[:, None, None], 0)

    def features(image: np.ndarray) -> list[np.ndarray]:
        scaled = (image.astype(np.float64) / 127.5 - 1 - [-0.030, -0.088, -0.188]) / [0.458, 0.448, 0.450]
        maps = [convolve(scaled.transpose(2, 0, 1), 0, 4, 2)]
        maps.append(convolve(windows(maps[-1], 3, 2).max(axis=(-2, -1)), 3, 1, 2))
        maps.append(convolve(windows(maps[-1], 3, 2).max(axis=(-2, -1)), 6, 1, 1))
        maps.append(convolve(maps[-1], 8, 1, 1))
        maps.append(convolve(maps[-1], 10, 1, 1))
        return [x / (np.sqrt((x**2).sum(axis=0)) + 1e-10) for x in maps]

    pairs = zip(features(first), features(second), heads, strict=True)
    return sum(float(np.tensordot(head, (a - b) ** 2, axes=1).mean()) for a, b, head in pairs)


def test_lpips_numbers_against_a_computation_in_numpy():
    spec = importlib.util.find_spec("lpips")
    state = torch.load(
        f"{spec.submodule_search_locations[0]}/weights/v0.1/alex.pth", map_location="cpu", weights_only=True
    )
    heads = [state[f"lin{index}.model.1.weight"].double().numpy().reshape(-1) for index in range(5)]
    trunk = {key: value.double().numpy() for key, value in lpips_metric.untrained_trunk().state_dict().items()}
    reference, candidate = scene(4, frames=2, height=47, width=55), scene(5, frames=2, height=47, width=55)
    expected = [numpy_lpips(a, b, trunk, heads) for a, b in zip(reference, candidate, strict=True)]
    distance = lpips_metric.prepare()["distance"]
    np.testing.assert_allclose(lpips_metric.frame_distances(distance, reference, candidate), expected, rtol=1e-4)


def test_lpips_does_not_depend_on_how_frames_are_chunked():
    reference, candidate = scene(6, frames=11), scene(7, frames=11)
    distance = lpips_metric.prepare()["distance"]
    whole = lpips_metric.frame_distances(distance, reference, candidate)
    single = [lpips_metric.frame_distances(distance, reference[i : i + 1], candidate[i : i + 1])[0] for i in range(11)]
    np.testing.assert_allclose(whole, single, rtol=1e-4)
    np.testing.assert_array_equal(whole, lpips_metric.frame_distances(distance, reference, candidate))


def test_heads_are_those_of_the_package():
    heads = lpips_metric.read_heads()
    assert [len(head) for head in heads] == list(lpips_metric.CHANNELS)
    # Trained under the constraint that no weight is negative.
    assert all(head.min() >= 0 and head.max() > 0 for head in heads)


def test_untrained_trunk_follows_its_seed_alone():
    torch.manual_seed(5)
    first = lpips_metric.untrained_trunk().state_dict()
    torch.manual_seed(6)
    second = lpips_metric.untrained_trunk().state_dict()
    other = lpips_metric.untrained_trunk(seed=1).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["features.0.weight"], other["features.0.weight"])


def test_untrained_distance_ranks_nothing_and_says_so():
    metric = discover()["lpips"]
    column = metric.column("lpips_untrained")
    assert not column.ranks
    assert column.direction is None
    assert "not LPIPS" in column.footnote
    assert metric.column("lpips").ranks
    measured = measure_one("lpips", scene(8), scene(9))
    assert list(measured.values) == ["lpips_untrained"]
    assert "random, seed" in measured.provenance["lpips_trunk"]


@pytest.fixture
def trunk_file(tmp_path, monkeypatch):
    """A file like torchvision's, with other weights, and its hash made the expected one."""
    path = tmp_path / "alexnet.pth"
    state = lpips_metric.untrained_trunk(seed=3).state_dict() | {"classifier.1.weight": torch.zeros(2, 2)}
    torch.save(state, path)
    monkeypatch.setattr(lpips_metric, "TRUNK_SHA256_PREFIX", hashlib.sha256(path.read_bytes()).hexdigest()[:8])
    return path


def seed_3_distance(reference: np.ndarray, candidate: np.ndarray) -> float:
    distance = lpips_metric.PerceptualDistance(lpips_metric.untrained_trunk(seed=3), lpips_metric.read_heads())
    return lpips_metric.frame_distances(distance, reference, candidate).mean()


def test_trunk_weights_from_a_path(trunk_file):
    reference, candidate = scene(8), scene(9)
    metric = prepare(["lpips"], {"lpips": {"weights": str(trunk_file)}})[0]
    measured = metric.measure(reference, candidate)
    assert measured.values == {"lpips": pytest.approx(seed_3_distance(reference, candidate), rel=1e-5)}
    assert hashlib.sha256(trunk_file.read_bytes()).hexdigest() in measured.provenance["lpips_trunk"]


def test_trunk_weights_from_the_hub_cache(trunk_file, tmp_path):
    cache = tmp_path / "torch_home" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    trunk_file.rename(cache / lpips_metric.TRUNK_FILE)
    reference, candidate = scene(8), scene(9)
    assert list(measure_one("lpips", reference, candidate).values) == ["lpips"]


def test_trunk_weights_are_downloaded_only_when_allowed(trunk_file, tmp_path, monkeypatch):
    calls = []

    def download(url: str, destination: str, hash_prefix: str) -> None:
        calls.append((url, hash_prefix))
        trunk_file.rename(destination)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    assert prepare(["lpips"])[0].context["key"] == "lpips_untrained"
    assert calls == []
    assert prepare(["lpips"], {"lpips": {"download": True}})[0].context["key"] == "lpips"
    assert calls == [(lpips_metric.TRUNK_URL, lpips_metric.TRUNK_SHA256_PREFIX)]
    # Now it is in the cache.
    assert prepare(["lpips"], {"lpips": {"download": True}})[0].context["key"] == "lpips"
    assert len(calls) == 1


def test_a_failed_download_is_one_clear_line(monkeypatch):
    def download(*args, **kwargs):
        raise OSError("no route\nto host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(ValueError, match="download of https://.* failed") as caught:
        prepare(["lpips"], {"lpips": {"download": True}})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("where", ["path", "cache"])
def test_weights_of_another_hash_are_refused(tmp_path, where):
    cache = tmp_path / "torch_home" / "hub" / "checkpoints"
    path = tmp_path / "alexnet.pth" if where == "path" else cache / lpips_metric.TRUNK_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(lpips_metric.untrained_trunk().state_dict(), path)
    settings = {"lpips": {"weights": str(path)}} if where == "path" else {}
    with pytest.raises(ValueError, match="SHA-256 starts with .*7be5be79; the file is not used") as caught:
        prepare(["lpips"], settings)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_without_the_trunk_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(lpips_metric, "TRUNK_SHA256_PREFIX", "")
    incomplete = tmp_path / "incomplete.pth"
    torch.save({"features.0.weight": torch.zeros(64, 3, 11, 11)}, incomplete)
    text = tmp_path / "text.pth"
    text.write_text("no weights")
    for path in (incomplete, text):
        with pytest.raises(ValueError, match="do not hold AlexNet"):
            prepare(["lpips"], {"lpips": {"weights": str(path)}})
    with pytest.raises(ValueError, match="no such file"):
        prepare(["lpips"], {"lpips": {"weights": str(tmp_path / "missing.pth")}})


def test_without_the_package_lpips_is_unsupported(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "lpips" else find_spec(name))
    measured = measure_one("lpips", scene(0), scene(1))
    assert measured.status == "unsupported"
    assert measured.values == {}
    assert "not installed" in measured.reason


def test_impossible_devices_are_refused():
    with pytest.raises(ValueError, match="device 'abacus'"):
        prepare(["lpips"], {"lpips": {"device": "abacus"}})


# Rules that hold for every metric


def test_the_metrics_of_the_project():
    metrics = discover()
    assert {"lpips", "psnr", "ssim", "vision_reward"} <= set(metrics)
    assert list(metrics) == sorted(metrics) == metric_names()
    better = {column.key: column.direction for metric in metrics.values() for column in metric.columns}
    assert better["psnr"] == better["ssim"] == "higher"
    assert better["lpips"] == "lower"


@pytest.mark.parametrize("name", metric_names())
def test_every_metric_refuses_what_it_cannot_compare(name):
    metric = prepare([name])[0]
    clip = scene(0, frames=4)
    with pytest.raises(ValueError, match="uint8"):
        metric.measure(clip, clip / 255)
    if not metric.metric.needs_reference:
        return
    with pytest.raises(ValueError, match="4 frames and the candidate 3"):
        metric.measure(clip, clip[:3])
    with pytest.raises(ValueError, match=r"48x64 pixels and of the candidate 48x63"):
        metric.measure(clip, clip[:, :, 1:])
    with pytest.raises(ValueError, match="reference clip is needed"):
        metric.measure(None, clip)
    least = metric.metric.least_size
    assert metric.measure(clip[:, :least], clip[:, :least]).status == "passed"
    if least > 1:
        with pytest.raises(ValueError, match=f"{least - 1}x64 pixels; at least {least}x{least}"):
            metric.measure(clip[:, : least - 1], clip[:, : least - 1])


@pytest.mark.parametrize("name", metric_names())
def test_every_metric_leaves_the_clips_alone_and_repeats_itself(name):
    reference, candidate = scene(1), scene(2)
    copies = reference.copy(), candidate.copy()
    metric = prepare([name])[0]
    first, second = metric.measure(reference, candidate), metric.measure(reference, candidate)
    assert first == second
    np.testing.assert_array_equal(reference, copies[0])
    np.testing.assert_array_equal(candidate, copies[1])


def test_vision_reward_is_unsupported_where_no_judge_can_say_anything():
    metric = prepare(["vision_reward"])[0]
    for prompt in ("", "a cat that sleeps"):
        measured = metric.measure(None, scene(0, frames=8, width=48), prompt=prompt)
        assert measured.status == "unsupported"
        assert measured.values == {}
        assert "no judge" in measured.reason


def test_check_pair_says_both_counts():
    with pytest.raises(ValueError, match="the reference has 5 frames and the candidate 7"):
        check_pair(scene(0, frames=5), scene(0, frames=7))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"status": "passed"}, "only passed has values"),
        ({"status": "unsupported", "values": {"psnr": 1.0}, "reason": "x"}, "only passed has values"),
        ({"status": "unsupported"}, "have a reason"),
        ({"status": "passed", "values": {"psnr": float("nan")}}, "finite"),
        ({"status": "passed", "values": {"psnr": float("inf")}}, "finite"),
        ({"status": "passed", "values": {"psnr": 1.0}, "parts": {"psnr": {"a": float("nan")}}}, "part a=nan of psnr"),
        ({"status": "passed", "values": {"psnr": 1.0}, "parts": {"ssim": {"a": 1.0}}}, "parts of 'ssim'"),
        ({"status": "fine", "values": {"psnr": 1.0}}, "passed, unsupported, error"),
    ],
)
def test_measurements_that_contradict_themselves_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Measurement(**arguments)


def test_parts_are_means_over_the_clips_that_all_have():
    metric = prepare(["psnr"])
    clips = [
        {"values": {}, "status": {"psnr": "passed"}, "flags": {}, "provenance": {}, "frames": 1, "parts": parts}
        for parts in ({"a": {"x": 1.0, "y": 0.0}, "b": {"z": 1.0}}, {"a": {"x": 0.5}})
    ]
    assert summarise(clips, metric)["parts"] == {"a": {"x": 0.75}}


def test_columns_that_contradict_themselves_are_refused():
    with pytest.raises(ValueError, match="needs a direction"):
        Column("mae", "MAE")
    with pytest.raises(ValueError, match="direction='up'"):
        Column("mae", "MAE", direction="up")
    with pytest.raises(ValueError, match="at least one column"):
        Metric(columns=(), measure=lambda reference, candidate: None)


# Files of metrics

GOOD = """
from dataclasses import dataclass
from benchmark.metric import Column, Measurement, Metric

@dataclass(frozen=True)
class Scale:
    factor: float

def prepare(factor=1.0):
    return {"scale": Scale(factor)}

def measure(reference, candidate, scale, **context):
    difference = abs(reference.astype(float) - candidate.astype(float)).mean()
    return Measurement.passed({"KEY": scale.factor * difference})

METRIC = Metric(columns=(Column("KEY", "KEY", direction="lower"),), measure=measure, prepare=prepare)
"""


def test_a_file_dropped_into_the_folder_is_a_metric(tmp_path):
    (tmp_path / "mae.py").write_text("from __future__ import annotations\n" + GOOD.replace("KEY", "mae"))
    (tmp_path / "_helper.py").write_text("raise RuntimeError('not a metric')")
    metrics = discover(tmp_path)
    assert list(metrics) == ["mae"]
    ready = prepare(["mae"], {"mae": {"factor": 2.0}}, metrics)[0]
    clip = np.full((2, 4, 4, 3), 10, dtype=np.uint8)
    assert ready.measure(clip, clip + 3).values == {"mae": 6.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "METRIC = Metric"),
        ("METRIC = 3", "METRIC is int"),
        ("import no_such_module", "cannot be imported: ModuleNotFoundError"),
        ("def f(:", "cannot be imported: SyntaxError"),
        (GOOD.replace("Metric(columns", "Metric(column"), "cannot be imported: TypeError"),
    ],
)
def test_bad_files_are_named(tmp_path, text, message):
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        discover(tmp_path)
    assert str(tmp_path / "bad.py") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_metrics_with_one_column_are_refused(tmp_path):
    for name in ("first", "second"):
        (tmp_path / f"{name}.py").write_text(GOOD.replace("KEY", "mae"))
    with pytest.raises(ValueError, match="second.py: column 'mae' is already that of metric 'first'"):
        discover(tmp_path)


def test_a_value_without_a_column_is_refused(tmp_path):
    (tmp_path / "mae.py").write_text(GOOD.replace('{"KEY"', '{"other"').replace("KEY", "mae"))
    clip = np.zeros((1, 4, 4, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="column 'other'"):
        prepare(["mae"], metrics=discover(tmp_path))[0].measure(clip, clip)


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match="'pnsr' does not exist; did you mean 'psnr'"):
        select(["ssim", "pnsr"])
    with pytest.raises(ValueError, match="metric lpips: setting 'weight' does not exist; did you mean 'weights'"):
        prepare(["psnr"], {"lpips": {"weight": "x"}})
    with pytest.raises(ValueError, match="'lpip', which does not exist; did you mean 'lpips'"):
        prepare(["psnr"], {"lpip": {}})
    with pytest.raises(ValueError, match="no metric is named"):
        select([])
    assert list(select(["ssim", "psnr", "ssim"])) == ["ssim", "psnr"]
