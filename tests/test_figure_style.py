"""Figure F: which cells it shows, the clips that are there, scores with intervals, the paper's rewards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import synthetic
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from benchmark.publish_records import compress
from benchmark.records import make_record, write_json
from paper_figures import figure6_testbed, figure7_testbed, figure_style, published, strips, testbed, testbed_entries
from paper_figures.experiment import Experiment
from paper_figures.shown_clips import NOT_COMMITTED, decoded, most_shown, pictures
from paper_figures.tables import NOT_YET

CLIPS = 5
CONFIG = {"variants": {name: {"for": ["style"], "methods": ["dense"]} for name in ("x4-tuned", "style", "x4-style")}}
SCORES = {"x4-tuned": 0.02, "style": 0.95, "x4-style": 0.9}


def cells():
    plain, dusk = ({"tuned": True, "tuning_settings": {"rank": 4, "style": style}} for style in ("plain", "dusk"))
    merged = {"tuned": True, "merged": ["a/tune.json", "b/tune.json"]}
    for variant, length, methods, changes in (
        ("x4-tuned", "4x", ("dense", "pa", "radial"), plain),
        ("style", "1x", ("dense",), dusk),
        ("x4-style", "4x", ("dense", "radial"), merged),
    ):
        for method in methods:
            yield synthetic.cell(method, length, clips=CLIPS, variant=variant, **changes)


class Made:
    """What choosing cells asks of them."""

    def __init__(self, method="radial", tuning="untuned", **facts):
        self.method, self.tuning, self.fact = method, tuning, facts.__getitem__


def frames_of(of) -> np.ndarray:
    rng = np.random.default_rng(len(of.variant))
    return np.repeat(rng.integers(0, 255, (of.frames, 1, 1, 3), dtype=np.uint8), 64, 1).repeat(64, 2)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> testbed.Testbed:
    """Records of all cells; clip 2 of most is committed, none of the merged dense cell."""
    folder = tmp_path_factory.mktemp("style")
    paths, index = [], {}
    for of in cells():
        score = SCORES[of.variant]
        told = [
            {"name": f"{n:03d}.mkv", "prompt": synthetic.PROMPTS[0], "seed": n, "sha256": synthetic.digest(of.path, n)}
            for n in range(CLIPS)
        ]
        generated = synthetic.generate_record(of, told)
        clips = [
            {
                "name": clip["name"],
                "values": {
                    "vision_reward": 0.8 - 0.4 * score + 0.01 * n, "style_dusk": score + 0.01 * n,
                    "style_hatched": 0.0, "style_reward": 0.8 + 0.01 * n,
                },
            }
            for n, clip in enumerate(told)
        ]  # fmt: skip
        values = {key: sum(clip["values"][key] for clip in clips) / CLIPS for key in clips[0]["values"]}
        hashes = generated["provenance"]["hashes"]
        measured = make_record(
            "measure", of, "passed", values, clips=clips, device=synthetic.DEVICE,
            details={"metrics": {}, "provenance": {"vision_reward_judge": "testbed"}},
            hashes={"noise": hashes["noise"], "candidate": hashes["clips"]},
        )  # fmt: skip
        for kind, record in (("generate", generated), ("measure", measured)):
            paths.append(synthetic.path_of(folder, of, kind))
            write_json(paths[-1], record)
        if (of.method, of.variant) != ("dense", "x4-style"):
            place = of.path / "002.mp4"
            (folder / "clips" / place).parent.mkdir(parents=True)
            (folder / "clips" / place).write_bytes(compress(frames_of(of)))
            index[place.as_posix()] = {"prompt": synthetic.PROMPTS[0], "seed": 2, "sha256": told[2]["sha256"]}
    write_json(folder / "clips" / "clips.json", index)
    return testbed.Testbed(Experiment(folder, synthetic.collected(folder, paths)), CONFIG)


def test_rows_are_style_length_and_both_of_the_merged_methods(source):
    shown = figure_style.rows(source)
    assert [(row.kind, row.cell.method) for row in shown] == [
        ("style", "dense"), ("length", "dense"), ("length", "radial"), ("both", "dense"), ("both", "radial"),
    ]  # fmt: skip
    assert [row.style for row in shown] == ["dusk", "", "", "", ""]
    assert shown[0].label == "Style alone\ndense, 16 frames"


def test_scores_and_rewards_are_those_of_the_records(source):
    shown = figure_style.rows(source)
    held = testbed_entries.gather(source.experiment, [row.cell for row in shown], ())
    style, reward, paper = Figure().subplots(1, 3)
    figure_style.style_panel(style, held, shown, "dusk")
    heights = [bar.get_height() for bar in style.patches]
    assert heights == pytest.approx([SCORES[row.cell.variant] + 0.02 for row in shown])
    figure_style.reward_panel(reward, held, shown, "testbed")
    assert [bar.get_height() for bar in reward.patches] == pytest.approx([0.82] * 5)
    lines = [one.lines[0] for one in reward.containers if isinstance(one, ErrorbarContainer)]
    raw = [line.get_ydata()[0] for line in lines if line.get_marker() == "D"]
    assert raw == pytest.approx([0.82 - 0.4 * SCORES[row.cell.variant] for row in shown])
    figure_style.paper_panel(paper)
    assert [bar.get_height() for bar in paper.patches] == [0.066, 0.025, 0.093]
    assert [row.text("vision_reward") for row in published.rows("figure_f")] == ["0.066", "0.025", "0.093"]


def test_the_clip_is_the_one_that_most_rows_have(source):
    shown = figure_style.rows(source)
    assert most_shown(source.experiment, [row.cell for row in shown]) == 2
    clip = pictures(source.experiment, shown[0].cell, 2)
    of = next(one for one in cells() if one.variant == "style")
    assert clip.shape == (16, 64, 64, 3) and np.abs(clip.astype(int) - frames_of(of)).mean() < 12  # compressed
    assert (
        pictures(source.experiment, shown[3].cell, 2) is None and pictures(source.experiment, shown[0].cell, 0) is None
    )
    with pytest.raises(ValueError, match="dense/style: clip 9 is asked for, its record names 5"):
        pictures(source.experiment, shown[0].cell, 9)


def test_a_committed_clip_of_another_drawing_is_refused(source, tmp_path):
    cell = figure_style.rows(source)[0].cell
    for part in ("records", "clips"):
        (tmp_path / part).symlink_to(source.experiment.folder / part)
    (tmp_path / "clips").unlink()
    (tmp_path / "clips").mkdir()
    listed = json.loads((source.experiment.folder / "clips" / "clips.json").read_text())
    write_json(tmp_path / "clips" / "clips.json", {name: told | {"sha256": "0"} for name, told in listed.items()})
    with pytest.raises(ValueError, match="not of the clip that its record names"):
        pictures(Experiment(tmp_path, source.experiment.table), cell, 2)
    (tmp_path / "text.mp4").write_text("no video")
    for name in ("text.mp4", "missing.mp4"):
        with pytest.raises(ValueError, match=f"{name}: cannot be read"):
            decoded(tmp_path / name)


def test_the_figure_is_made(source, tmp_path):
    files = figure_style.make(source, tmp_path)
    assert [path.name for path in files] == ["figure_style.pdf", "figure_style.png"]
    assert all(path.stat().st_size > 10_000 for path in files)


def test_strips_show_the_committed_clips_of_each_variant(source, tmp_path):
    groups = figure6_testbed.shown(source, source.cells("style"))
    assert [key[2] for key in groups] == ["x4-tuned", "style", "x4-style"]
    assert most_shown(source.experiment, [cell for cells in groups.values() for cell in cells]) == 2
    merged = groups["testbed-nano", "4x", "x4-style"]
    one = strips.strip(source.experiment, merged, 2, 3, pictures, "merged")
    assert one.heading.endswith("4x (64 frames), merged")
    assert [words for _, clip, words in one.rows if clip is None] == [NOT_COMMITTED]
    assert [clip.shape for _, clip, _ in one.rows if clip is not None] == [(3, 64, 64, 3)]
    assert len(figure6_testbed.make_strips(source, groups, tmp_path, "figure6_testbed")) == 2


def test_one_variant_of_each_density_is_shown():
    """Cells without a budget say nothing of a variant's."""

    listed = [("b50", 7, 0.5), ("b50-none", 7, 0.5), ("b30-seed8", 8, 0.3), ("b30", 7, 0.3), ("b20", 7, 0.2)]
    groups = {
        ("base", "1x", name): [Made(seed=seed, budget=None), Made(seed=seed, budget=budget)]
        for name, seed, budget in listed
    }
    groups["base", "1x", "b50"].append(Made(seed=7, budget=None))
    groups["other", "1x", "b40"] = [Made(seed=7, budget=0.4)]
    assert [key[2] for key in figure6_testbed.at_densities(groups)] == ["b50", "b30"]
    assert figure6_testbed.at_densities({}) == {}


def test_a_second_seed_or_density_takes_no_row_of_figure_7():
    def made(method, tuning, seed=7, frames=64):
        return Made(method, tuning, seed=seed, frames=frames)

    groups = {
        ("base", "4x", "long"): [made("dense", "untuned"), made("riflex", "untuned")],
        ("base", "2x", "x2-tuned"): [made("radial", "tuned", frames=32)],
        ("base", "4x", "x4-tuned"): [made("dense", "untuned"), made("dense", "tuned"), made("radial", "tuned")],
        ("base", "4x", "x4-seed8"): [made("dense", "untuned", 8), made("radial", "tuned", 8)],
        ("base", "4x", "x4-b30"): [made("dense", "untuned"), made("radial", "tuned"), made("pa", "tuned")],
        ("other", "4x", "x4-tuned"): [made("sta", "tuned")],
    }
    strips_of = figure7_testbed.by_length(groups)
    assert [key[1] for key in strips_of] == ["2x", "4x"]
    long, b30 = groups["base", "4x", "x4-tuned"], groups["base", "4x", "x4-b30"]
    expected = [*groups["base", "4x", "long"], *long[1:], b30[2]]
    assert [id(cell) for cell in strips_of["base", "4x", ""]] == [id(cell) for cell in expected]


def test_the_caption_tells_how_many_clips_the_bars_have():
    shown = [figure_style.Row(Made(clips=n), figure_style.LENGTH, "") for n in (64, 32)]
    shown[0].cell.model = "testbed-base"
    said = figure_style.caption(shown, "testbed")
    assert "testbed-base, 32 to 64 clips a bar" in said and "Not measured yet: style alone, both merged." in said


def test_nothing_measured_says_so(tmp_path: Path):
    nothing = testbed.Testbed(Experiment(tmp_path, tmp_path / "records.parquet"), CONFIG)
    assert figure_style.rows(nothing) == []
    assert all(len(figure.make(nothing, tmp_path)) == 2 for figure in (figure6_testbed, figure7_testbed))
    assert len(figure_style.make(nothing, tmp_path)) == 2
    axes = Figure().subplots()
    figure_style.style_panel(axes, testbed_entries.gather(nothing.experiment, [], ()), [], None)
    assert [text.get_text() for text in axes.texts] == [NOT_YET]
