"""The verb ``compare``: files, folders, refusals and what it prints."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from benchmark.clips import write_clip
from benchmark.compare import add_arguments, compare_clips, pair_clips, run


@pytest.fixture(autouse=True)
def no_trunk_weights(tmp_path, monkeypatch):
    """An empty hub cache, so that no test depends on this machine's files."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))


def clip(level: int, frames: int = 3, size: int = 32) -> np.ndarray:
    random = np.random.default_rng(level)
    return random.integers(level, level + 60, (frames, size, size, 3), dtype=np.uint8)


def shifted(frames: np.ndarray, by: int) -> np.ndarray:
    return (frames + by).astype(np.uint8)


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """Two clips of 3 and 5 frames; the candidates differ by 10 and by 20 everywhere."""
    for name, level, frames, by in (("a.mkv", 20, 3, 10), ("b.mkv", 120, 5, 20)):
        write_clip(tmp_path / "dense" / name, clip(level, frames))
        write_clip(tmp_path / "radial" / name, shifted(clip(level, frames), by))
    return tmp_path / "dense", tmp_path / "radial"


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmark compare")
    add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def db(difference: float) -> float:
    return 20 * np.log10(255 / difference)


def test_two_files(folders):
    result = compare_clips(folders[0] / "a.mkv", folders[1] / "a.mkv")
    assert result["frames"] == 3
    assert result["psnr"] == pytest.approx(db(10))
    assert 0.5 < result["ssim"] < 1
    assert result["lpips_untrained"] > 0
    assert "lpips" not in result
    assert "not LPIPS" in result["footnotes"]["lpips_untrained"]
    assert result["status"] == {"lpips": "passed", "psnr": "passed", "ssim": "passed"}
    assert [entry["name"] for entry in result["clips"]] == ["a.mkv"]


def test_two_folders_are_paired_by_name_and_each_clip_counts_once(folders):
    result = compare_clips(*folders, metrics=["psnr"])
    assert [(entry["name"], entry["frames"]) for entry in result["clips"]] == [("a.mkv", 3), ("b.mkv", 5)]
    assert [entry["values"]["psnr"] for entry in result["clips"]] == pytest.approx([db(10), db(20)])
    assert result["psnr"] == pytest.approx((db(10) + db(20)) / 2)
    assert result["frames"] == 8
    assert "ssim" not in result


def test_identical_folders(folders):
    result = compare_clips(folders[0], folders[0])
    assert result["psnr"] == 100
    assert result["flags"] == {"psnr_capped": 8}
    assert result["ssim"] == pytest.approx(1)
    assert result["lpips_untrained"] == 0


def test_swapped_clips_score_lower(tmp_path):
    for name, other, level in (("a.mkv", "b.mkv", 20), ("b.mkv", "a.mkv", 120)):
        write_clip(tmp_path / "reference" / name, clip(level))
        write_clip(tmp_path / "right" / name, shifted(clip(level), 8))
        write_clip(tmp_path / "swapped" / other, shifted(clip(level), 8))
    right = compare_clips(tmp_path / "reference", tmp_path / "right")
    swapped = compare_clips(tmp_path / "reference", tmp_path / "swapped")
    assert right["psnr"] > swapped["psnr"]
    assert right["ssim"] > swapped["ssim"]
    assert right["lpips_untrained"] < swapped["lpips_untrained"]


def test_missing_partners_are_named(folders):
    reference, candidate = folders
    (candidate / "b.mkv").rename(candidate / "c.mkv")
    with pytest.raises(ValueError, match="dense: lacks c.mkv, which .*radial has"):
        compare_clips(reference, candidate)
    (candidate / "c.mkv").unlink()
    with pytest.raises(ValueError, match="radial: lacks b.mkv, which .*dense has"):
        compare_clips(reference, candidate)


def test_other_files_of_a_folder_are_passed_over(folders):
    (folders[0] / "notes.txt").write_text("x")
    (folders[1] / ".a.123.mkv").write_bytes(b"x")
    assert [pair.name for pair in pair_clips(*folders)] == ["a.mkv", "b.mkv"]


def test_frame_counts_and_sizes_that_differ_are_refused(folders):
    reference, candidate = folders
    with pytest.raises(ValueError, match="a.mkv against .*b.mkv: .* 3 frames and the candidate 5"):
        compare_clips(reference / "a.mkv", candidate / "b.mkv")
    write_clip(candidate / "b.mkv", clip(1, 4))
    with pytest.raises(ValueError, match="b.mkv against .* 5 frames and the candidate 4"):
        compare_clips(reference, candidate)
    write_clip(candidate / "b.mkv", clip(1, 5, 33))
    with pytest.raises(ValueError, match="32x32 pixels and of the candidate 33x33"):
        compare_clips(reference, candidate)


def test_paths_that_do_not_pair_are_refused(folders, tmp_path):
    reference, candidate = folders
    with pytest.raises(ValueError, match="missing.mkv: no such clip or folder"):
        compare_clips(reference / "a.mkv", candidate / "missing.mkv")
    with pytest.raises(ValueError, match="is a folder and .* a file"):
        compare_clips(reference, candidate / "a.mkv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: holds no clip"):
        compare_clips(reference, tmp_path / "empty")


def test_damaged_clips_are_named(folders):
    path = folders[1] / "b.mkv"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="radial/b.mkv: cut short"):
        compare_clips(*folders)


def test_frames_too_small_for_a_metric_are_refused(tmp_path):
    small = write_clip(tmp_path / "small.mkv", clip(5, size=10))
    with pytest.raises(ValueError, match="metric ssim: frames of 10x10 pixels; at least 11x11"):
        compare_clips(small, small, ["ssim"])
    assert compare_clips(small, small, ["psnr"])["psnr"] == 100


def test_an_unsupported_metric_has_a_status_and_no_number(folders):
    result = compare_clips(*folders, metrics=["psnr", "vision_reward"])
    assert result["status"] == {"psnr": "passed", "vision_reward": "unsupported"}
    assert "judge" in result["reasons"]["vision_reward"]
    assert "vision_reward" not in result


def test_json_of_the_verb(folders, capsys):
    words = [folders[0] / "a.mkv", folders[1] / "a.mkv", "--json"]
    assert run(arguments(*words)) == 0
    result = json.loads(capsys.readouterr().out)
    assert {"psnr", "ssim", "lpips_untrained", "frames", "clips", "flags", "footnotes", "status"} <= set(result)
    assert result["frames"] == 3
    assert result["psnr"] == pytest.approx(db(10))


def test_table_of_the_verb(folders, capsys):
    assert run(arguments(*folders)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "clip"
    assert "PSNR (dB)" in lines[0]
    assert "LPIPS (untrained)*" in lines[0]
    assert lines[1].startswith("a.mkv")
    assert f"{db(10):.1f}" in lines[1]
    assert lines[3].startswith("mean")
    assert lines[-1].startswith("* lpips_untrained is not LPIPS")
    assert run(arguments(folders[0], folders[0], "--metrics", "psnr,vision_reward")) == 0
    out = capsys.readouterr().out
    assert "psnr_capped: 8 of 8 frames" in out
    assert "vision_reward: unsupported: " in out


def test_options_of_the_verb(folders, tmp_path):
    with pytest.raises(ValueError, match="did you mean 'ssim'"):
        run(arguments(*folders, "--metrics", "psnr,sim"))
    with pytest.raises(ValueError, match="no metric is named"):
        run(arguments(*folders, "--metrics", ","))
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"other")
    with pytest.raises(ValueError, match="SHA-256 starts with"):
        run(arguments(*folders, "--lpips-weights", weights))


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit):
        arguments("--help")
    assert "python -m benchmark compare results/dense.mkv" in capsys.readouterr().out
