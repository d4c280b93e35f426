"""Figures from little data: all are drawn, legible, and the same each time."""

from __future__ import annotations

import importlib
import itertools
import json
import re

import numpy as np
import pytest
import synthetic

from benchmark.probing.decay import decay_of
from benchmark.records import make_record, write_json
from paper_figures import figure3, figure5, style
from paper_figures.__main__ import main
from paper_figures.experiment import Experiment
from paper_figures.strips import strip

FIGURES = ("figure2", "figure3", "figure4", "figure5", "figure6", "figure7")
METHODS = ("dense", "riflex", "radial", "brand_new")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An experiment with clips of four methods, one of them failed, and made-up operations and attention."""
    folder = tmp_path_factory.mktemp("trial")
    paths = synthetic.write_records(folder, METHODS, clips=True)
    for kind in ("generate", "measure"):
        of = synthetic.cell("radial", "4x")
        write_json(synthetic.path_of(folder, of, kind), make_record(kind, of, "out_of_memory", reason="too large"))
    synthetic.collected(folder, paths)
    write_json(folder / "operations.json", operations())
    write_attention(folder)
    return folder


def operations():
    """Plans that grow with the square of the frames, and for radial with the frames."""
    plans = []
    for frames in (125, 253, 381, 509):
        for method, power in (("dense", 2), ("radial", 1)):
            pflop = 100 * (frames / 125) ** power
            long = frames > 150
            plan = {"model": "hunyuanvideo", "frames": frames, "height": 720, "width": 1280, "method": method}
            plan |= {"block": 128, "steps": 50, "dense_steps": 2 if long else 12, "dense_layers": 2 if long else 0}
            plans.append(plan | {"pflop": pflop, "attention_pflop_pass": pflop / 50})
    return {"format": 1, "plans": plans}


def write_attention(folder):
    """A head that stays in its frame and one that stays at its place."""
    distance = np.arange(8)
    scores = np.exp(-np.outer([0.1, 0.9, 0.4, 0.3], distance)).reshape(1, 2, 2, 8)
    index = np.arange(8 * 6)
    frame, place = index // 6, index % 6
    arrays = {
        "temporal": scores,
        "spatial": scores[:, ::-1],
        "map_spatial": np.exp(-np.abs(frame[:, None] - frame[None])),
        "map_temporal": np.exp(-np.abs(place[:, None] - place[None])),
    }
    (folder / "attention").mkdir()
    np.savez(folder / "attention" / "testbed-nano.npz", **arrays)
    decay = {axis: decay_of(distance, arrays[axis]) for axis in ("temporal", "spatial")}
    facts = {"heads": {"spatial": [0, 0], "temporal": [1, 1]}, "decay": decay, "layout": [8, 2, 3]}
    facts |= {"steps_recorded": [2, 6, 10, 14], "prompts": ["a red circle"]}
    write_json(folder / "attention" / "testbed-nano.json", facts)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("target", FIGURES)
def test_a_figure_is_drawn_with_embedded_fonts(target, folder, tmp_path):
    """Warnings are errors: a glyph that a font lacks would be one."""
    assert main([target, "--experiment-folder", str(folder), "--out", str(tmp_path)]) == 0
    pdf, png = ((tmp_path / f"{target}.{kind}").read_bytes() for kind in ("pdf", "png"))
    assert len(pdf) > 5_000 and len(png) > 10_000
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf
    assert b"CreationDate" not in pdf
    width = int.from_bytes(png[16:20], "big")
    assert width == 1400  # 7 inches of 200 dots
    assert {path.name for path in tmp_path.iterdir()} == {f"{target}.pdf", f"{target}.png"}


def captured(target, folder, monkeypatch):
    """The figure that a target would save."""
    kept = []
    module = importlib.import_module(
        "paper_figures.strips" if target in ("figure6", "figure7") else f"paper_figures.{target}"
    )
    monkeypatch.setattr(module, "save", lambda figure, out, name: kept.append(figure) or [])
    importlib.import_module(f"paper_figures.{target}").make(Experiment(folder, folder / "records.parquet"), folder)
    return kept[0]


@pytest.mark.parametrize("target", FIGURES)
def test_words_are_large_enough_inside_and_apart(target, folder, monkeypatch):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    figure = captured(target, folder, monkeypatch)
    with style.styled():
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)
    texts = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    boxes = [(text.get_text(), text.get_window_extent(renderer).padded(-0.5)) for text in texts]
    width, height = figure.get_size_inches() * figure.dpi
    # Ticks beyond an axis are kept in the list but are not drawn.
    boxes = [(words, box) for words, box in boxes if not re.fullmatch(r"[−\d.]+", words) or _drawn(words, box, figure)]
    assert len(boxes) > 8
    assert min(text.get_fontsize() for text in texts) >= 7
    for words, box in boxes:
        assert box.x0 >= -1 and box.x1 <= width + 1 and box.y0 >= -1 and box.y1 <= height + 1, f"{words} is cut off"
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        assert not a.overlaps(b), f"{one!r} overlaps {other!r}"


def _drawn(words, box, figure):
    """Whether a number stands beside an axis, not beyond its end."""
    x, y = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
    for axes in figure.axes:
        edge = axes.get_window_extent()
        if edge.x0 - 1 <= x <= edge.x1 + 1 or edge.y0 - 1 <= y <= edge.y1 + 1:
            return True
    return not figure.axes


def test_the_same_figure_has_the_same_bytes(folder, tmp_path):
    for name in ("a", "b"):
        main(["figure5", "--experiment-folder", str(folder), "--out", str(tmp_path / name)])
    for kind in ("pdf", "png"):
        assert (tmp_path / "a" / f"figure5.{kind}").read_bytes() == (tmp_path / "b" / f"figure5.{kind}").read_bytes()


def test_a_method_looks_the_same_everywhere_and_like_no_other():
    looks = [style.look(name) for name in synthetic.METHODS]
    assert len(set(looks)) == len(looks)
    assert not set(style.SPARE) & set(looks) and len(set(style.SPARE)) == len(style.SPARE)
    assert style.look("brand_new") == style.look("brand_new") in style.SPARE


def test_compute_density_halves_from_band_to_band():
    density = figure5.compute_density(12)
    assert density[0].tolist() == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.125, 0.125, 0.125, 0.125]
    assert (density == density.T).all()


def test_a_picture_of_a_mask_keeps_its_mean():
    from benchmark import registry
    from benchmark.layout import VideoLayout

    mask = registry.get("radial").block_mask(VideoLayout(10, 5, 5), 4)
    assert (figure5.picture(mask) == mask.blocks[0].numpy()).all()
    small = figure5.picture(mask, 16)
    assert small.shape == (16, 16) and 0 < small.mean() < 1
    assert small[0, 0] == mask.blocks[0, :4, :4].float().mean()


def test_svgs_masks_are_one_band_in_two_orders():
    masks = figure3.masks()
    assert masks["spatial"].sum() == masks["temporal"].sum()
    assert not masks["spatial"].equal(masks["temporal"])
    size, frames = figure3.LAYOUT.frame_tokens, figure3.LAYOUT.frames
    assert all(masks["temporal"][0, n * size] for n in range(frames))  # its own place in all frames
    assert not masks["spatial"][0, (frames - 1) * size]


def cells_at(source: Experiment, length: str):
    return [cell for cell in source.cells() if cell.length == length]


def test_a_strip_shows_the_records_clips(folder):
    from benchmark.clips import read_clip

    source = Experiment(folder, folder / "records.parquet")
    shown = strip(source, cells_at(source, "1x"), 1, 4)
    assert shown.times == [0, 5, 10, 15] and shown.prompt.startswith("a ")
    rows = {cell.method: (pictures, words) for cell, pictures, words in shown.rows}
    assert list(rows) == ["dense", "riflex", "radial", "brand_new"]
    assert (rows["dense"][1], rows["riflex"][1]) == ("reference", "= dense")
    assert rows["radial"][1] == f"{18 + 8 * synthetic.quality('radial', '1x', 1):.1f} dB"
    clip = read_clip(folder / "clips" / "testbed-nano" / "1x" / "radial" / "untuned" / "001.mkv")
    assert (rows["radial"][0] == clip[shown.times]).all()


def test_a_method_without_clips_shows_its_status(folder):
    source = Experiment(folder, folder / "records.parquet")
    shown = strip(source, cells_at(source, "4x"), 0, 4)
    assert {cell.method: (pictures is None, words) for cell, pictures, words in shown.rows}["radial"] == (
        True, "out of memory",
    )  # fmt: skip


def test_clips_that_are_not_the_records_are_refused(tmp_path):
    synthetic.collected(tmp_path, synthetic.write_records(tmp_path, ("dense",), ("1x",), clips=True))
    source = Experiment(tmp_path, tmp_path / "records.parquet")
    clip = tmp_path / "clips" / "testbed-nano" / "1x" / "dense" / "untuned" / "000.mkv"
    clip.write_bytes(clip.with_name("001.mkv").read_bytes())
    with pytest.raises(ValueError, match=r"000\.mkv: not the clip"):
        strip(source, cells_at(source, "1x"), 0, 4)
    clip.unlink()
    with pytest.raises(ValueError, match="missing"):
        strip(source, cells_at(source, "1x"), 0, 4)
    with pytest.raises(ValueError, match="clip 3"):
        strip(source, cells_at(source, "1x"), 3, 4)


@pytest.mark.parametrize(
    ("target", "words"),
    [("figure2", "operations.json"), ("figure4", "probe"), ("figure6", "collect"), ("figure7", "collect")],
)
def test_what_a_figure_lacks_is_one_line_and_exit_status_2(target, words, tmp_path, capsys):
    assert main([target, "--experiment-folder", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.strip()
    assert words in said and "\n" not in said


def test_operations_that_are_none_are_refused(tmp_path, capsys):
    path = tmp_path / "operations.json"
    for text, words in (("{", "no operations"), (json.dumps({"plans": []}), "at least 2")):
        path.write_text(text)
        assert main(["figure2", "--experiment-folder", str(tmp_path), "--out", str(tmp_path)]) == 2
        assert words in capsys.readouterr().err
