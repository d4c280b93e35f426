"""Clips on disk: bit-exact, reproducible, and refused when damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmark.clips import read_clip, sha256, write_clip


def noise(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def smooth(frames: int = 9, height: int = 40, width: int = 56) -> np.ndarray:
    time, y, x = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    waves = [np.sin((x + 2 * time) / 7), np.cos(y / 5 - time), np.sin((x + y) / 9)]
    return np.rint(127.5 + 127.5 * np.stack(waves, axis=-1)).astype(np.uint8)


def write_foreign(path: Path, frames: np.ndarray, codec: str, movflags: str = "") -> None:
    """A lossy clip by another writer, without this project's marks."""
    import av

    options = {"movflags": movflags} if movflags else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=8)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 3), (3, 11, 13), (5, 63, 65), (16, 64, 64), (2, 30, 54)])
def test_round_trip_of_noise_is_bit_exact(tmp_path, shape):
    frames = noise(shape)
    path = write_clip(tmp_path / "clip.mkv", frames)
    back = read_clip(path)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, frames)


@pytest.mark.parametrize("fps", [8, 24, 29.97, 0.5])
def test_round_trip_of_smooth_content_keeps_every_frame_in_order(tmp_path, fps):
    frames = smooth(30)
    np.testing.assert_array_equal(read_clip(write_clip(tmp_path / "clip.mkv", frames, fps=fps)), frames)


@pytest.mark.parametrize("level", [0, 255])
def test_round_trip_of_flat_frames(tmp_path, level):
    frames = np.full((4, 17, 19, 3), level, dtype=np.uint8)
    np.testing.assert_array_equal(read_clip(write_clip(tmp_path / "clip.mkv", frames)), frames)


def test_views_are_written_as_they_look(tmp_path):
    frames = noise((4, 20, 24))[:, ::-1, ::2]
    np.testing.assert_array_equal(read_clip(write_clip(tmp_path / "clip.mkv", frames)), frames)


def test_same_frames_give_the_same_bytes(tmp_path):
    frames = smooth(24)
    first = write_clip(tmp_path / "first.mkv", frames)
    second = write_clip(tmp_path / "deeper" / "second.mkv", frames.copy())
    other = write_clip(tmp_path / "other.mkv", frames[::-1])
    assert first.read_bytes() == second.read_bytes()
    assert sha256(first) == sha256(second) != sha256(other)


def test_sha256_is_that_of_the_bytes(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(ValueError, match="missing.*no such file"):
        sha256(tmp_path / "missing")


def test_writing_replaces_and_leaves_nothing_else(tmp_path):
    path = write_clip(tmp_path / "clip.mkv", noise((2, 16, 16), seed=1))
    write_clip(path, noise((3, 16, 16), seed=2))
    assert len(read_clip(path)) == 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.mkv"]


@pytest.mark.parametrize("step", ["av.VideoFrame.from_ndarray", "os.replace"])
def test_failed_writing_keeps_the_old_clip(tmp_path, monkeypatch, step):
    old = noise((2, 16, 16), seed=1)
    path = write_clip(tmp_path / "clip.mkv", old)

    def fail(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr(step, fail)
    with pytest.raises(OSError, match="no space left"):
        write_clip(path, noise((3, 16, 16), seed=2))
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.mkv"]
    np.testing.assert_array_equal(read_clip(path), old)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((2, 8, 8, 3), dtype=np.float32), "float32"),
        (np.zeros((2, 8, 8), dtype=np.uint8), "shape"),
        (np.zeros((2, 8, 8, 4), dtype=np.uint8), "shape"),
        (np.zeros((0, 8, 8, 3), dtype=np.uint8), "shape"),
        ([[1]], "numpy array"),
    ],
)
def test_what_is_no_clip_is_refused(tmp_path, frames, message):
    with pytest.raises(ValueError, match=message):
        write_clip(tmp_path / "clip.mkv", frames)


@pytest.mark.parametrize("fps", [0, -8, float("nan"), float("inf"), "8"])
def test_impossible_rates_are_refused(tmp_path, fps):
    with pytest.raises(ValueError, match="fps="):
        write_clip(tmp_path / "clip.mkv", noise((2, 8, 8)), fps=fps)


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.mkv"):
        write_clip(tmp_path / "clip.mp4", noise((2, 8, 8)))


def test_arrays_are_read(tmp_path):
    frames = noise((3, 9, 7))
    np.save(tmp_path / "clip.npy", frames)
    np.testing.assert_array_equal(read_clip(tmp_path / "clip.npy"), frames)
    np.save(tmp_path / "float.npy", frames / 255)
    with pytest.raises(ValueError, match="float.npy.*float64"):
        read_clip(tmp_path / "float.npy")


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.webm", "libvpx-vp9")])
def test_lossy_clips_of_other_writers_are_read(tmp_path, name, codec):
    frames = np.full((6, 32, 48, 3), (200, 60, 30), dtype=np.uint8)
    write_foreign(tmp_path / name, frames, codec)
    back = read_clip(tmp_path / name)
    assert back.shape == frames.shape
    assert np.abs(back.astype(int) - frames).max() <= 6


def refused(path: Path) -> str:
    """The message with which a clip is refused: one line that names the file."""
    with pytest.raises(ValueError) as caught:
        read_clip(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("share", [0.0, 0.005, 0.1, 0.5, 0.9, 0.99])
def test_clips_cut_short_are_refused(tmp_path, share):
    whole = write_clip(tmp_path / "whole.mkv", noise((12, 32, 48))).read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(whole[: int(share * len(whole))])
    assert "cut short" in refused(path)


def test_clips_with_a_changed_bit_are_refused_or_unchanged(tmp_path):
    frames = noise((6, 24, 24))
    whole = write_clip(tmp_path / "whole.mkv", frames).read_bytes()
    path = tmp_path / "changed.mkv"
    random = np.random.default_rng(0)
    refusals = 0
    for position in random.integers(0, len(whole), 40):
        changed = bytearray(whole)
        changed[position] ^= 1 << int(random.integers(8))
        path.write_bytes(changed)
        try:
            np.testing.assert_array_equal(read_clip(path), frames)
        except ValueError as error:
            assert str(path) in str(error)
            refusals += 1
    assert refusals > 30


@pytest.mark.parametrize(
    ("name", "codec", "movflags"),
    [
        ("a.mp4", "libx264", ""),
        ("a.mp4", "libx264", "faststart"),
        ("a.mkv", "libx264", ""),
        ("a.webm", "libvpx-vp9", ""),
    ],
)
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_cut_clips_of_other_writers_are_refused(tmp_path, name, codec, movflags, share):
    path = tmp_path / name
    write_foreign(path, noise((12, 32, 48)), codec, movflags)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    refused(path)


def test_what_is_no_video_is_refused(tmp_path):
    text = tmp_path / "text.mkv"
    text.write_text("not a video")
    assert "cannot be decoded" in refused(text)
    broken = tmp_path / "broken.npy"
    broken.write_bytes(b"\x93NUMPY")
    assert "cannot be read" in refused(broken)
    assert "no such clip" in refused(tmp_path / "missing.mkv")
    assert "no such clip" in refused(tmp_path)
