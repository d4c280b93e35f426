"""The report: its numbers are the records', its links lead somewhere, and it works in a browser."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import json
import re
import shutil
import urllib.parse
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import browser
import numpy as np
import pytest
import synthetic
import timed
from PIL import Image

from benchmark.records import make_record, write_json
from paper_figures import intervals, testbed
from paper_figures.entries import ROLES
from paper_figures.experiment import Experiment
from paper_figures.report import charts, facts, papers, quality
from paper_figures.report.__main__ import main
from paper_figures.report.held import ALPHABET, encoded
from paper_figures.report.page import build
from paper_figures.report.sheets import COLUMNS, fitted, rounded, sheet_of
from paper_figures.strips import read

METHODS = ("dense", "sta", "svg", "radial", "random", "brand_new")
LENGTHS = ("1x", "2x")
VOID = {"meta", "link", "br", "input", "img", "hr"}
MB = 10**6


class Page(HTMLParser):
    """The elements of a page, and whether every one that is opened is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.elements, self.open = path, [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, "text": "", **dict(attributes)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.elements.append({"tag": tag, "text": "", **dict(attributes)})

    def handle_endtag(self, tag):
        assert self.open and self.open[-1]["tag"] == tag, f"</{tag}> at {self.getpos()}"
        self.open.pop()

    def handle_data(self, words):
        for element in self.open:
            element["text"] += words

    def find(self, tag: str, **attributes: str) -> list[dict]:
        wanted = {name.replace("_", "-"): value for name, value in attributes.items()}
        return [
            element
            for element in self.elements
            if element["tag"] == tag and all(element.get(name) == value for name, value in wanted.items())
        ]

    @property
    def data(self) -> dict:
        return json.loads(self.find("script", id="data")[0]["text"])


def write_figure(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".pdf").write_bytes(b"%PDF-1.4\n")
    Image.new("RGB", (40, 20), "white").save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """An experiment in which one method ran out of memory, one was not measured, and a clip was damaged later."""
    folder = tmp_path_factory.mktemp("results") / "trial"
    paths = synthetic.write_records(folder, METHODS, LENGTHS, clips=True)
    failed = synthetic.cell("sta", "2x")
    for kind in ("generate", "measure"):
        record = make_record(kind, failed, "out_of_memory", reason="4 GiB are not enough <b>")
        write_json(synthetic.path_of(folder, failed, kind), record)
    broken = synthetic.cell("svg", "2x")
    write_json(
        synthetic.path_of(folder, broken, "measure"), make_record("measure", broken, "error", reason="NaN in frame 3")
    )
    synthetic.collected(folder, paths)
    clip = folder / "clips" / synthetic.cell("radial", "1x").path / "001.mkv"
    clip.write_bytes(clip.read_bytes()[:-100])
    write_figure(folder / "figures" / "figure2.png")
    speed = timed.filled(timed.speed_of(folder.parent / "trial-speed"))
    words = ["--experiment-folder", str(folder), "--out", str(folder / "report")]
    words += ["--speed-folder", str(speed.folder), "--speed-config", str(speed.config)]
    assert main([*words, "--front", str(folder.parent / "report" / "index.html")]) == 0
    return folder


@pytest.fixture(scope="module")
def page(folder) -> Page:
    return Page(folder / "report" / "index.html")


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "records.csv", newline="") as file:
        return list(csv.DictReader(file))


def local_links(page: Page) -> list[str]:
    links = [element[name] for element in page.elements for name in ("href", "src") if element.get(name)]
    data = page.data
    for name, cell in data["cells"].items():
        links += [f"{data['root']}/{record['file']}" for record in cell["records"]]
        links += [f"{data['root']}/clips/{name}/{clip['name']}" for clip in cell["clips"]]
    return links


def test_nothing_that_the_page_shows_is_outside_of_it(page):
    assert not [element["src"] for element in page.elements if element.get("src")]
    assert not page.find("link", rel="stylesheet")
    held = {element["id"] for element in page.find("script", type="text/plain")}
    files = page.data["files"]
    assert {file["id"] for file in files.values()} == held
    assert {image["data-file"] for image in page.find("img")} == {"figures/figure2.png"} <= set(files)
    assert {button["data-file"] for button in page.find("button", **{"class": "save"})} <= set(files)
    assert "speed-records.json" in files
    for name, cell in page.data["cells"].items():
        for clip in cell["clips"]:
            assert (f"{name}/{clip['name']}" in files) == ("missing" not in clip)


def test_records_in_the_page_are_the_files(folder, page):
    for cell in page.data["cells"].values():
        assert {record["kind"] for record in cell["records"]} == {"generate", "measure"}
        for record in cell["records"]:
            assert record["text"] == (folder / record["file"]).read_text(encoding="utf-8")
            assert json.loads(record["text"])["provenance"]["command"]


@pytest.mark.parametrize("which", ["report/index.html", "../report/index.html"])
def test_every_link_leads_to_a_file_or_a_part_of_the_page(folder, which):
    page = Page(folder / which)
    names = {element["id"] for element in page.elements if element.get("id")}
    links = local_links(page)
    assert len(links) > 80
    for link in links:
        if link.startswith("#"):
            assert link[1:] in names, link
        elif link != "data:,":
            assert not re.match(r"[a-z]+:|//|/", link), f"{link} leads out of the results"
            assert (page.path.parent / urllib.parse.unquote(link)).exists(), link


def test_ids_are_given_once(page):
    names = [element["id"] for element in page.elements if element.get("id")]
    assert len(names) == len(set(names))


def test_numbers_are_those_of_the_records(folder, page):
    buttons = {(b["data-cell"], b.get("data-metric")): b["text"] for b in page.find("button") if "data-cell" in b}
    told = {name: {row["metric"]: row for row in cell["rows"]} for name, cell in page.data["cells"].items()}
    compared = 0
    for row in rows(folder):
        name = "/".join(row[key] for key in ("model", "length", "method", "tuning"))
        own = told[name][row["metric"]]
        assert (own["value"] if row["value"] else "") == (float(row["value"]) if row["value"] else "")
        assert own["status"] == row["status"]
        shown = buttons.get((name, row["metric"]), "")
        if row["metric"] in ("psnr", "ssim", "adherence") and row["method"] != "dense" and row["value"]:
            assert shown.split(" ± ")[0] == f"{float(row['value']):.{row['decimals']}f}"
            compared += 1
        if row["metric"] == "pflop":
            dense = float(told[name]["pflop_dense"]["value"])
            assert buttons[name, "relative"] == f"{100 * float(row['value']) / dense:.1f}"
            compared += 1
    assert compared > 30


def test_what_failed_shows_its_status_in_its_cells(page):
    cell = "testbed-nano/2x/sta/untuned"
    shown = [b for b in page.find("button", data_cell=cell) if b.get("data-metric") == "psnr"]
    assert {b["text"] for b in shown} == {"out of memory"}
    assert "4 GiB are not enough <b>" in shown[0]["title"]
    measured = {b["data-metric"]: b["text"] for b in page.find("button", data_cell="testbed-nano/2x/svg/untuned")
                if "data-metric" in b}  # fmt: skip
    assert measured["psnr"] == "error"
    assert re.fullmatch(r"\d+\.\d", measured["relative"])
    answer = next(p["text"] for p in page.find("p", data_length="2x") if "answer" in p["class"])
    assert "4 of 6 methods measured" in answer and "2 without numbers" in answer


def test_a_damaged_clip_is_told_and_not_shown(page):
    clips = page.data["cells"]["testbed-nano/1x/radial/untuned"]["clips"]
    assert "not the clip that its record names" in clips[1]["missing"]
    assert "frames" not in clips[1] and "frames" in clips[0]


def test_the_page_warns_where_the_control_beats_a_method(folder, page):
    psnr = {(row["length"], row["method"]): float(row["value"])
            for row in rows(folder) if row["metric"] == "psnr" and row["value"]}  # fmt: skip
    losers = {
        key for key, value in psnr.items() if key[1] not in ("dense", "random") and value < psnr[key[0], "random"]
    }
    assert losers
    told = facts.beaten(_cells(folder))
    named = {(one["length"], method["cell"].split("/")[2]) for one in told for method in one["methods"]}
    assert named == losers
    text = page.find("aside", id="beaten")[0]["text"]
    assert all(method["label"] in text for one in told for method in one["methods"])


def test_the_answer_says_where_the_control_beats_all(folder):
    for (_, length), members in facts.by_length(_cells(folder)).items():
        psnr = {cell.method: (cell.find("psnr") or {"value": None})["value"] for cell in members}
        best = max(value for method, value in psnr.items() if method not in ("dense", "random") and value is not None)
        assert bool(facts.answer(members)["control"]) == (psnr["random"] > best), length
        assert facts.answer(members)["closest"]["psnr"].startswith(f"{best:.1f}")


def test_the_answer_says_how_many_others_are_as_near_as_chance(folder):
    for members in facts.by_length(_cells(folder)).values():
        best = facts.answer(members)["faithful"]
        rows = {
            facts.identifier(cell): cell.find("adherence")
            for cell in members
            if cell.method not in ROLES and (facts.relative(cell).value or 100) < 99.95
        }
        rows = {name: row for name, row in rows.items() if row is not None and row["value"] is not None}
        if best is None:
            assert not rows
            continue
        own = rows.pop(best["cell"])
        assert own["value"] == max(row["value"] for row in (own, *rows.values()))
        near = [
            row
            for row in rows.values()
            if (own["value"] - row["value"]) ** 2 < own["standard_error"] ** 2 + row["standard_error"] ** 2
        ]
        assert best["near"] == len(near)


def test_tuned_cells_are_not_held_against_the_control(folder):
    def losers(cells):
        told = facts.beaten(cells)
        return {(one["length"], method["cell"].split("/")[2]) for one in told for method in one["methods"]}

    cells = _cells(folder)
    loser = min(losers(cells))
    changed = [replace(cell, tuning="tuned") if (cell.length, cell.method) == loser else cell for cell in cells]
    assert losers(changed) == losers(cells) - {loser}
    for (_, length), members in facts.by_length(changed).items():
        closest = facts.answer(members)["closest"]
        assert closest is None or (length, closest["cell"].split("/")[2]) != loser


def test_without_a_control_there_is_no_warning(folder):
    cells = [cell for cell in _cells(folder) if cell.method != "random"]
    assert facts.beaten(cells) == []


def _cells(folder: Path):
    return Experiment(folder, folder / "records.parquet").cells()


def test_untrained_lpips_is_told_apart(folder, page):
    note = next(row["footnote"] for row in rows(folder) if row["metric"] == "lpips_untrained")
    assert note.startswith("lpips_untrained is not LPIPS")
    assert f"† {note}" in " ".join(p["text"] for p in page.find("p"))
    assert any(e.get("id") == "overview-†" for e in page.elements)


def test_a_cell_has_ours_and_the_papers_and_says_which_is_which(folder, page):
    with open(Path("paper_figures/published/table1.csv"), newline="") as file:
        printed = [row for row in csv.DictReader(file) if row["method"] == "svg"]
    shown = [b for b in page.find("button") if b.get("data-published") and b.get("data-columns") == "psnr"]
    words = [b["text"] for b in shown if page.data["published"][int(b["data-published"])]["cells"]["method"] == "svg"]
    assert words == [f"paper {row['psnr']}" for row in printed]
    for button in shown:
        row = page.data["published"][int(button["data-published"])]
        assert button["text"] == f"paper {row['cells']['psnr']}"
        lines = Path(row["file"]).read_text(encoding="utf-8").splitlines()
        assert dict(zip(lines[0].split(","), lines[row["line"] - 1].split(","), strict=True)) == row["cells"]
    rows = [b["text"] for b in page.find("button") if b.get("data-published") and not b.get("data-columns")]
    other = [text for text in rows if text.startswith("paper ")]
    assert other and all(text.endswith(", other model") for text in other)
    assert set(rows) - set(other) == {"paper", "paper, 8 GPUs, tuned"}  # the models that are timed
    heads = [th["text"] for th in page.find("th", scope="row") if "Brand" in th["text"] or "brand_new" in th["text"]]
    assert any("not in the paper's table" in text for text in heads)


@pytest.mark.parametrize("length", range(9))
def test_files_are_held_in_base_85(length):
    data = bytes(range(255, 255 - length, -1))
    text = encoded(data)
    assert set(text) <= set(ALPHABET) and len(set(ALPHABET)) == 85 and not set(ALPHABET) & set("<&\"'\\")
    signs = base64.b85encode(b"".join(n.to_bytes(4, "big") for n in range(85))).decode()[4::5]  # Python's, by value
    assert base64.b85decode(text.translate(str.maketrans(ALPHABET, signs))) == data


def test_the_page_is_small(folder):
    files = [path for path in (folder / "report").rglob("*") if path.is_file()]
    assert [path.name for path in files] == ["index.html"]
    assert files[0].stat().st_size < 20 * MB


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """An experiment with all controls and few clips; ``radial`` is as near to dense as dense repeated."""
    folder = tmp_path_factory.mktemp("small") / "controls"
    paths = synthetic.write_records(folder, ("dense", "dense_repeated", "radial", "svg", "random"), ["1x"])
    for method in ("dense", "random"):
        of = synthetic.cell(method)
        write_json(
            synthetic.path_of(folder, of, "generate"),
            synthetic.generate_record(of, synthetic.write_clips(folder, of)),
        )
    for method, psnr in (("dense_repeated", 41.0), ("radial", 41.5), ("svg", 19.0), ("random", 22.0)):
        of = synthetic.cell(method)
        record = synthetic.measure_record(of)
        clips = [clip | {"values": clip["values"] | {"psnr": psnr}} for clip in record["clips"]]
        changed = synthetic.measure_record(of, values=record["values"] | {"psnr": psnr}, clips=clips)
        write_json(synthetic.path_of(folder, of, "measure"), changed)
    synthetic.collected(folder, paths)
    return folder


def page_of(small: Path, out: Path, **words) -> Path:
    return build(Experiment(small, small / "records.parquet"), out, **words)[0]


def told_sums(page: Page) -> dict[str, int]:
    return {f"{name}/{clip['name']}": clip["sum"]
            for name, cell in page.data["cells"].items() for clip in cell["clips"] if "sum" in clip}  # fmt: skip


def frames_inside(page: Page, path: str, clip: dict) -> np.ndarray:
    """The frames of a clip inside a page, as its script adds them up."""
    file = page.data["files"][path]
    signs = base64.b85encode(b"".join(n.to_bytes(4, "big") for n in range(85))).decode()[4::5]  # Python's, by value
    text = page.find("script", id=file["id"])[0]["text"].translate(str.maketrans(ALPHABET, signs))
    sheet = np.asarray(Image.open(io.BytesIO(base64.b85decode(text))).convert("RGB"))
    height, width = clip["height"], clip["width"]
    rows = [sheet[row : row + height, column : column + width]
            for row in range(0, len(sheet), height) for column in range(0, sheet.shape[1], width)]  # fmt: skip
    return np.cumsum(np.stack(rows[: clip["frames"]]).astype(np.int64), axis=0) % 256


def test_clips_are_rounded_where_the_page_would_be_too_large(small):
    exact = Page(page_of(small, small / "exact"))
    size = exact.path.stat().st_size
    less = Page(page_of(small, small / "less", largest=size - 1))
    assert "without loss" in exact.find("section", id="clips")[0]["text"]
    assert "rounded to multiples of 3 of 255" in less.find("section", id="clips")[0]["text"]
    assert less.path.stat().st_size < size and less.data["files"].keys() == exact.data["files"].keys()
    name = "testbed-nano/1x/dense/untuned"
    for n, clip in enumerate(less.data["cells"][name]["clips"]):
        path = f"{name}/{clip['name']}"
        was, now = (frames_inside(page, path, page.data["cells"][name]["clips"][n]) for page in (exact, less))
        assert np.abs(was - now).max() == 1 and not (now % 3).any()
        assert (was.sum(), now.sum()) == (told_sums(exact)[path], told_sums(less)[path])


@pytest.mark.parametrize("step", [1, 3, 5])
def test_rounded_colours_keep_black_and_white(step):
    frames = np.arange(256, dtype=np.uint8).reshape(1, 1, 256, 1).repeat(3, axis=3)
    found = rounded(frames, step)
    assert found.dtype == np.uint8 and (found[0, 0, 0, 0], found[0, 0, 255, 0]) == (0, 255)
    assert np.abs(found.astype(int) - frames).max() == step // 2


VARIANTS = {"b50": {"for": ["table1"], "label": "half of the pairs"}}
TRAINED = ("radial", "svg", "pa", "sta", "random")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> testbed.Testbed:
    """Committed records of a trained testbed, of one variant, and clips of two of them."""
    folder = tmp_path_factory.mktemp("reference") / "testbed"
    paths, listed = [], {}
    for of in [synthetic.cell("dense"), *(synthetic.cell(method, variant="b50") for method in TRAINED)]:
        for kind, make in (("generate", synthetic.generate_record), ("measure", synthetic.measure_record)):
            paths.append(synthetic.path_of(folder, of, kind))
            write_json(paths[-1], make(of))
    for n, method in enumerate(("radial", "svg")):
        name = f"testbed-nano/1x/{method}/b50/000.mp4"
        (folder / "clips" / name).parent.mkdir(parents=True)
        (folder / "clips" / name).write_bytes(bytes(1000 + n))
        listed[name] = {"prompt": "a <b>red</b> circle", "seed": 7, "sha256": "0"}
    write_json(folder / "clips" / "clips.json", listed)
    table = synthetic.collected(folder, paths)
    return testbed.Testbed(Experiment(folder, table), {"models": ["testbed-nano"], "variants": VARIANTS})


@pytest.fixture(scope="module")
def measured(small, trained) -> Page:
    """A page with what was measured on the trained testbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "RESAMPLES", 199)
        return Page(page_of(small, small / "measured", testbed=trained))


def test_a_testbed_that_nobody_measured_is_one_line(small, tmp_path):
    nothing = testbed.Testbed(
        Experiment(tmp_path, tmp_path / "none.parquet"), {"models": ["testbed-base"], "variants": {}}
    )
    page = Page(page_of(small, tmp_path / "report", testbed=nothing))
    section = page.find("section", id="quality")[0]["text"].split("\n")
    assert [line for line in section if line.strip()] == [
        "Quality on testbed-base", "Not measured yet: no record of testbed-base is at hand.",
    ]  # fmt: skip
    assert not page.find("section", **{"class": "measured"}) and not page.find("video")


def test_the_quality_tables_are_on_the_page(measured, trained):
    assert [section["id"] for section in measured.find("section", **{"class": "measured"})] == ["table1_testbed"]
    table = measured.find("section", id="table1_testbed")[0]["text"]
    assert "The ranking of the paper's Table 1 (radial and svg ahead of pa and sta" in table
    assert "Δ to radial" in table and "paper, HunyuanVideo 117f, other model" in table
    words = measured.find("section", id="quality")[0]["text"]
    assert "Not measured yet: Table 2, quality. Longer clips of the trained testbed; Ablation A." in words
    shown = {b["text"].partition("\N{NO-BREAK SPACE}")[0]
             for b in measured.find("button", data_cell="testbed/testbed-nano/1x/svg/b50")
             if b.get("data-metric") == "table1_testbed.psnr"}  # fmt: skip
    row = next(cell for cell in trained.cells("table1") if cell.method == "svg").find("psnr")
    assert shown == {f"{row['value']:.2f}"}
    ids = [element["id"] for element in measured.elements if element.get("id")]
    assert len(ids) == len(set(ids))


def test_an_experiment_of_variants_holds_no_setting_against_another(trained, tmp_path):
    page = Page(build(trained.experiment, tmp_path / "report")[0])
    assert "This experiment has variants" in page.find("section", id="overview")[0]["text"]
    shown = {element.get("id") for element in page.find("section")}
    assert not shown & {"controls", "teaser", "table1", "table2", "quality"}
    assert not page.find("aside") and not page.find("figure", **{"class": "plot"})
    names = {body["data-cell"] for body in page.find("tbody") if body.get("data-cell")}
    assert names == {f"testbed-nano/1x/{method}/b50" for method in TRAINED} | {"testbed-nano/1x/dense/untuned"}
    assert "Radial, b50" in page.find("table", id="methods")[0]["text"]


def test_clips_of_the_testbed_are_inside_the_page(measured, small, trained, monkeypatch):
    films = measured.find("video")
    assert [film["data-file"] for film in films] == [
        f"clips/testbed-nano/1x/{m}/b50/000.mp4" for m in ("svg", "radial")
    ]
    file = measured.data["files"][films[0]["data-file"]]
    assert (file["type"], file["gzipped"]) == ("video/mp4", False)
    assert "a <b>red</b> circle" in measured.find("section", id="quality")[0]["text"]
    (reel,) = measured.find("div", **{"class": "reel"})
    assert "testbed-nano, 1x, half of the pairs" in reel["text"] and "Radial" in reel["text"]
    monkeypatch.setattr(quality, "ROOM", 1500)
    printed = papers.Printed()
    found = quality.gather(trained, Path("config/testbed.yaml"), Experiment(small, small / "records.parquet"), printed)
    assert ([len(reel["clips"]) for reel in found.reels], found.left_out) == ([1], 1)
    index = trained.experiment.folder / "clips" / "clips.json"
    kept = index.read_text()
    index.write_text("[]")
    with pytest.raises(ValueError, match="no index of clips"):
        quality.gather(trained, Path("config/testbed.yaml"), Experiment(small, small / "records.parquet"), printed)
    index.write_text(kept)


def test_what_was_left_out_is_not_called_unmeasured(small, trained, tmp_path):
    source, printed = Experiment(small, small / "records.parquet"), papers.Printed()
    folder = trained.experiment.folder
    aside = replace(trained, experiment=Experiment(folder, tmp_path / "none.parquet"))
    assert quality.gather(aside, Path("config/testbed.yaml"), source, printed).uncollected
    assert not quality.gather(trained, Path("config/testbed.yaml"), source, printed).uncollected
    nothing = replace(trained, experiment=Experiment(tmp_path, tmp_path / "none.parquet"))
    assert not quality.gather(nothing, Path("config/testbed.yaml"), source, printed).uncollected


def test_the_dense_clip_of_a_prompt_comes_first(trained):
    told = {"prompt": "a red circle", "seed": 7}
    names = ["dense/untuned", "pa/b50", "svg/b50", "radial/b50", "new/b50"]
    cells = {"/".join(cell.path): cell for cell in trained.experiment.cells()}
    inside = {f"testbed-nano/1x/{name}/000.mp4": told for name in names[::-1]}
    inside["testbed-nano/1x/dense/untuned/001.mp4"] = told | {"seed": 8}
    first, second = quality._reels(trained, cells, inside)
    assert (first["heading"], first["seed"]) == ("testbed-nano, 1x, half of the pairs", 7)
    assert [clip["label"] for clip in first["clips"]] == ["Dense", "PA", "SVG", "Radial", "new"]
    assert (second["heading"], [clip["method"] for clip in second["clips"]]) == ("testbed-nano, 1x", ["dense"])


def test_clips_come_in_the_order_of_variants(trained):
    held = trained.config | {"variants": trained.config["variants"] | {"late": {"label": "style alone"}}}
    testbed = replace(trained, config=held)
    measured = {"/".join(cell.path): cell for cell in trained.experiment.cells()}
    pa = "testbed-nano/1x/pa/b50"
    late = {"testbed-nano/1x/pa/late": replace(measured[pa], variant="late")}
    inside = {
        f"{name}/000.mp4": {"prompt": "a red circle", "seed": 7} for name in (*late, "testbed-nano/1x/radial/b50")
    }
    found = quality._reels(testbed, late | measured, inside)
    assert [reel["heading"][17:] for reel in found] == [" half of the pairs", " style alone"]
    inside["testbed-nano/2x/pa/b50/000.mp4"] = {"prompt": "a red circle", "seed": 7}
    alone = [reel["heading"] for reel in quality._reels(testbed, {}, inside)]  # without a table of records
    assert [heading[14:] for heading in alone] == ["1x, half of the pairs", "1x, style alone", "2x, half of the pairs"]


def test_beside_tuned_clips_the_dense_one_is_called_untuned(trained):
    cells = {"/".join(cell.path): cell for cell in trained.experiment.cells()}
    tuned = "testbed-nano/1x/radial/b50"
    cells[tuned] = replace(cells[tuned], tuning="tuned")
    inside = {
        f"{name}/000.mp4": {"prompt": "a red circle", "seed": 7} for name in ("testbed-nano/1x/dense/untuned", tuned)
    }
    (reel,) = quality._reels(trained, cells, inside)
    assert [clip["label"] for clip in reel["clips"]] == ["Dense, untuned", "Radial"]


@pytest.fixture(scope="module")
def beside(small) -> Path:
    """Its page, as if its clips were too large to be inside."""
    return build(Experiment(small, small / "records.parquet"), small / "beside", largest=10_000)[0]


def test_the_same_records_give_the_same_page(small):
    source = Experiment(small, small / "records.parquet")
    first, second = (build(source, small / "report")[0].read_bytes() for _ in range(2))
    assert first == second


def test_clips_too_large_for_the_page_lie_beside_it(beside):
    page = Page(beside)
    assert "must go with it" in page.find("section", id="clips")[0]["text"]
    sheets = [path.relative_to(beside.parent).as_posix() for path in beside.parent.rglob("*.webp")]
    names = [f"testbed-nano/1x/{method}/untuned/{n:03d}" for method in ("dense", "random") for n in range(3)]
    assert sorted(sheets) == [f"clips/{name}.webp" for name in names]
    assert not any(path.endswith(".mkv") for path in page.data["files"])


def test_controls_are_told(small):
    one = facts.controls(_cells(small))[0]
    assert one["dense"] == {
        "cell": "testbed-nano/1x/dense/untuned",
        "fine": True,
        "words": "identical in all 48 frames",
    }
    assert one["floor"]["psnr"].startswith("41.0") and one["floor"]["fine"]
    assert [method["label"] for method in one["within"]] == ["Radial"]
    assert [method["label"] for method in one["random"]["beaten"]] == ["SVG"]
    assert facts.amiss([one]) == []


def test_controls_that_are_amiss_are_said_at_the_top(folder, small):
    def changed(cell):
        rows = [row | {"flags": '{"psnr_capped": 40}'} if row["metric"] == "psnr" else row for row in cell.rows]
        return dataclasses.replace(cell, rows=rows) if cell.method == "dense" else cell

    words = [one["words"] for one in facts.amiss(facts.controls(map(changed, _cells(small))))]
    assert words == ["testbed-nano at 1x, dense against itself: 8 of 48 frames differ."]
    without = [cell for cell in _cells(small) if cell.method not in ("dense_repeated", "random")]
    told = facts.controls(without)
    assert (told[0]["floor"]["fine"], told[0]["floor"]["psnr"]) == (None, None)
    assert [one["words"] for one in facts.amiss(told)] == [
        "testbed-nano at 1x, the random control: random was not run."
    ]


def test_a_missing_table_is_one_line(tmp_path, capsys):
    assert main(["--experiment-folder", str(tmp_path), "--out", str(tmp_path / "report")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("count", [1, COLUMNS, COLUMNS + 3])
def test_a_sheet_holds_every_frame_without_loss(count):
    clip = np.random.default_rng(count).integers(0, 256, (count, 6, 10, 3), dtype=np.uint8)
    for summed in (False, True):
        sheet = np.asarray(Image.open(io.BytesIO(sheet_of(clip, summed))).convert("RGB"))
        frame = np.zeros((6, 10, 3), np.uint8)
        for n in range(count):
            row, column = divmod(n, COLUMNS)
            own = sheet[6 * row : 6 * row + 6, 10 * column : 10 * column + 10]
            frame = frame + own if summed else own
            np.testing.assert_array_equal(frame, clip[n])


def test_a_large_clip_is_made_smaller_and_says_so():
    shown, words = fitted(np.zeros((200, 64, 256, 3), np.uint8))
    assert shown.shape == (100, 32, 128, 3)
    assert words == "every 2nd frame, 128x32 of 256x64 pixels"


def test_what_snakemakes_report_takes_has_a_category_and_a_caption():
    rules = Path("benchmark/rules")
    taken = [
        words for path in rules.glob("*.smk") for words in re.findall(r"=report\((.*?)\),\n", path.read_text(), re.S)
    ]
    told = [tuple(re.search(rf'{key}="([^"]+)"', words)[1] for key in ("category", "caption")) for words in taken]
    assert {category for category, _ in told} >= {"Tables", "Figures", "Records"}
    assert all((rules / caption).read_text().strip() for _, caption in [*told, ("", "captions/workflow.rst")])


def test_labels_of_the_plot_do_not_overlap():
    points = [charts.Point(str(n), "radial", f"method {n}", 80 + n / 10, 20 + n / 50, 0.5) for n in range(12)]
    drawn = charts.plot([charts.Point("d", "dense", "Dense", 100, None), *points])["points"]
    places = sorted(point["label_y"] for point in drawn if not point["equal"])
    assert min(np.diff(places)) > charts.ROW - 0.5
    assert all(0 < point["y"] < charts.HEIGHT for point in drawn)


# --- In a browser ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium():
    if browser.installed() is None:
        pytest.skip(f"no browser is installed: one of {', '.join(browser.NAMES)} is needed")
    with browser.Browser() as started:
        yield started


@pytest.fixture
def seen(chromium, folder):
    """The page in a browser, 1400 pixels wide; at the end of a test its console must be empty."""
    chromium.said.clear()
    chromium.size(1400, 900)
    chromium.open(folder / "report" / "index.html")
    chromium.wait("document.querySelectorAll('.tile').length > 0")
    yield chromium
    chromium.run("0")
    assert chromium.said == []


SHOWN = "[...document.querySelectorAll('#methods tbody:not([hidden])')].map((row) => row.dataset.method)"


BLOCKS = """[...document.querySelectorAll('section.paper .block:not([hidden])')]
    .map((block) => `${block.closest('section').id} ${block.dataset.length}`)"""


def choose(seen, selector: str, value: str) -> None:
    change = "each.dispatchEvent(new Event('change', {bubbles: true}))"
    seen.run(f"{{ const each = document.querySelector({selector!r}); each.value = {value!r}; {change}; }}")


@pytest.mark.parametrize("width", [1400, 400])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_wider_than_the_window(seen, folder, width, dark):
    seen.size(width, 900, dark)
    seen.open(folder / "report" / "index.html")
    assert seen.run("document.documentElement.scrollWidth <= innerWidth")
    out = """[...document.querySelectorAll('body *')].filter((each) => !each.closest('.wide, .defs, [hidden], .skip')
        && each.getBoundingClientRect().right > innerWidth + 1).map((each) => each.outerHTML.slice(0, 80))"""
    assert seen.run(out) == []


def test_filters(seen):
    assert set(seen.run(SHOWN)) == set(METHODS)
    assert set(seen.run(BLOCKS)) == {"table1 1x", "table2 1x"}
    choose(seen, "#length", "2x")
    assert set(seen.run(BLOCKS)) == {"table2 2x"}
    assert "at 1x" in seen.run("document.querySelector('#table1 .elsewhere:not([hidden])').textContent")
    seen.run("document.querySelector('#table1 .every-length').click()")
    assert set(seen.run(BLOCKS)) == {"table1 1x", "table2 2x"}
    cells = "[...document.querySelectorAll('#methods tbody:not([hidden])')].map((row) => row.dataset.length)"
    assert set(seen.run(cells)) == {"2x"}
    assert seen.run("document.querySelector('.answer:not([hidden])').dataset.length") == "2x"
    assert seen.run("document.querySelectorAll('.plot:not([hidden])').length") == 1
    seen.run("document.querySelector('input[name=method][value=sta]').click()")
    assert set(seen.run(SHOWN)) == set(METHODS) - {"sta"}
    assert "sta" not in str(seen.run("[...document.querySelectorAll('.tile')].map((tile) => tile.dataset.cell)"))
    choose(seen, "#budget", "0.5")
    assert set(seen.run(SHOWN)) <= set(METHODS) - {"sta"}
    seen.run("document.querySelector('#none').click()")
    assert seen.run(SHOWN) == []
    assert seen.run("document.querySelector('#table1 .empty').hidden") is False


TIMED = """[...document.querySelectorAll('section.timed .block:not([hidden])')]
    .map((block) => `${block.closest('section').id} ${block.dataset.shape}`)"""


def test_speed_tables_have_ours_the_papers_and_the_verdict_and_filters_of_their_own(seen, folder):
    assert set(seen.run(TIMED)) == {
        "table1_speed table1", "table2_speed 2x", "table2_speed 4x", "table_kernels ", "table_outside table1",
    }  # fmt: skip
    choose(seen, "#speed-shape", "4x")
    assert seen.run(TIMED) == ["table2_speed 4x", "table_outside table1"]
    shown = "[...document.querySelectorAll('#table_outside tbody:not([hidden]) th')].map((each) => each.innerText)"
    (label,) = seen.run(shown)
    assert label.startswith("509 frames of 720x1280")
    assert "speed-shape=4x" in seen.run("location.hash")
    choose(seen, "#speed-shape", "")
    choose(seen, "#length", "2x")  # of the clips, and of them alone
    assert "table1_speed table1" in seen.run(TIMED)
    row = "#table1_speed tbody[data-cell='speed/hunyuanvideo/table1/sta/paper']"
    cell = f"[...document.querySelectorAll(\"{row} td\")].map((each) => each.innerText.split('\\n').filter(Boolean))"
    assert ["2.00", "lower (0.87)", "paper 2.29"] in seen.run(cell)
    seen.run(f"document.querySelector(\"{row} .own [data-metric='table1_speed.speedup']\").click()")
    seen.wait("document.querySelector('#details').open")
    text = seen.run("document.querySelector('#details').innerText")
    for words in ("Speed-up: 2.00", "Speed-up verdict", "Command that made it (latency)", "latency: generation_s"):
        assert words in text
    seen.run("document.querySelector('#details .record summary').click()")
    held = json.loads(seen.run("document.querySelector('#details .record pre').textContent"))
    place = folder.parent / "trial-speed/results/records/hunyuanvideo/table1/sta/paper/latency.json"
    assert held == json.loads(place.read_text())
    seen.run("document.querySelector('#details').close()")
    seen.run("document.querySelector('input[name=method][value=sta]').click()")
    assert seen.run(f'document.querySelector("{row}").hidden') is True


def test_sorting(seen):
    values = """[...document.querySelectorAll('#methods tbody:not([hidden])')]
        .map((row) => row.rows[0].cells[1].dataset.sort)"""
    click = "document.querySelector('#methods th:nth-child(2) .sort').click()"
    for reverse in (True, False):
        seen.run(click)
        numbers = [float(value) for value in seen.run(values) if value]
        assert len(numbers) > 3 and numbers == sorted(numbers, reverse=reverse)
        assert seen.run(values)[-1] == ""  # dense has no PSNR
    seen.run("document.querySelector('#table2 thead [data-column=psnr]').click()")
    for block in seen.run("""[...document.querySelectorAll('#table2 .block')].map((block) => [...block.querySelectorAll(
            '[data-metric=psnr]')].map((number) => number.closest('td').dataset.sort))"""):
        numbers = [float(value) for value in block if value]
        assert numbers == sorted(numbers, reverse=True)


VIEW = f"""JSON.stringify([{SHOWN}, {BLOCKS}, document.querySelector('#length').value,
    [...document.querySelectorAll('th[aria-sort$=ending]')].map((head) => head.textContent),
    document.querySelector('#difference').checked, document.querySelector('#clip').selectedIndex])"""


def test_a_link_shows_the_same_view_and_back_goes_back(seen, folder):
    start = seen.run(VIEW)
    choose(seen, "#length", "2x")
    choose(seen, "#clip", "1")
    for one in ("input[name=method][value=svg]", "#methods [data-column=ssim]", "#difference"):
        seen.run(f"document.querySelector({one!r}).click()")
    view, link = seen.run(VIEW), seen.run("location.hash")
    assert view != start and "length=2x" in link
    for _ in range(5):
        seen.run("new Promise((done) => { addEventListener('popstate', done, { once: true }); history.back(); })")
    assert seen.run(VIEW) == start
    seen.call("Page.navigate", url="about:blank")
    seen.open(folder / "report" / "index.html", link)
    assert seen.run(VIEW) == view
    seen.open(folder / "report" / "index.html", "#model=none&length=9x&budget=7&methods=&sort=x.y.z&clip=99")
    assert seen.run(VIEW) == start


def test_the_page_alone_shows_its_clips_and_saves_its_files(seen, folder, tmp_path):
    alone = shutil.copy(folder / "report" / "index.html", tmp_path / "alone.html")
    seen.open(alone)
    seen.wait("document.querySelectorAll('.tile').length > 0")
    choose(seen, "#length", "2x")
    seen.run("document.querySelector('#player').focus()")
    frame = 5
    for _ in range(frame):
        seen.press("ArrowRight", 39)
    source = Experiment(folder, folder / "records.parquet")
    for cell in source.cells():
        if (cell.length, cell.method) in (("2x", "dense"), ("2x", "radial")):
            pixels = f"""(() => {{
                const canvas = document.querySelector('.tile[data-cell="{facts.identifier(cell)}"] canvas');
                const copy = new OffscreenCanvas(canvas.width, canvas.height);
                const context = copy.getContext('2d', {{ willReadFrequently: true }});
                context.drawImage(canvas, 0, 0);
                return [...context.getImageData(0, 0, canvas.width, canvas.height).data]; }})()"""
            clip = read(source, cell, 0)
            seen.wait(f"{pixels}.some((value, n) => n % 4 < 3 && value > 0)")
            shown = np.array(seen.run(pixels), np.uint8).reshape(*clip.shape[1:3], 4)
            np.testing.assert_array_equal(shown[..., :3], clip[frame])
    seen.run("document.querySelector('img[data-file]').scrollIntoView()")
    seen.wait("document.querySelector('img[data-file]').naturalWidth === 40")
    keep = "URL.createObjectURL = (blob) => { window.saved = blob.text(); return 'blob:null/0'; }"
    seen.run(f"{keep}; HTMLAnchorElement.prototype.click = () => {{}};")
    seen.run("document.querySelector('[data-file=\"records.csv\"]').click()")
    seen.wait("window.saved !== undefined")
    assert seen.run("window.saved") == (folder / "records.csv").read_text(encoding="utf-8")


def test_clips_beside_the_page_are_shown(seen, beside):
    seen.open(beside)
    seen.wait("document.querySelectorAll('.tile').length === 5")
    shown = "[...document.querySelectorAll('.tile canvas:not(.difference)')].map((each) => each.ariaLabel)"
    seen.run("new Promise((done) => setTimeout(done, 200))")
    assert seen.run(shown) == ["Clip of Dense", "Clip of Random (control)"]  # a file that is not there has no canvas


FRAME = "[Number(document.querySelector('#frame').value), document.querySelector('#at').textContent]"
PIXELS = "[...document.querySelectorAll('.tile canvas:not([hidden])')].length"


def test_clips_play_in_step_and_step_by_key(seen):
    assert seen.run(FRAME) == [0, "1 of 16"]
    seen.run("document.querySelector('#forward').click()")
    assert seen.run(FRAME) == [1, "2 of 16"]
    seen.run("document.querySelector('#play').focus()")
    seen.press("ArrowRight", 39)
    seen.press("ArrowRight", 39)
    seen.press("ArrowLeft", 37)
    assert seen.run(FRAME) == [2, "3 of 16"]
    seen.press("End", 35)
    assert seen.run(FRAME) == [15, "16 of 16"]
    choose(seen, "#speed", "16")
    seen.run("document.querySelector('#play').click()")
    seen.wait(
        "Number(document.querySelector('#frame').value) > 2 && Number(document.querySelector('#frame').value) < 15"
    )
    seen.run("document.querySelector('#play').click()")
    paused = seen.run(FRAME)
    seen.run("new Promise((done) => setTimeout(done, 300))")
    assert seen.run(FRAME) == paused


def test_the_difference_to_dense_is_black_for_dense_and_not_for_others(seen, tmp_path):
    before = seen.run(PIXELS)
    seen.run("document.querySelector('#difference').click()")
    assert seen.run(PIXELS) == 2 * before
    seen.run("document.querySelector('#clips').scrollIntoView()")
    seen.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    seen.picture(tmp_path / "seen.png")
    picture = np.asarray(Image.open(tmp_path / "seen.png").convert("RGB"))
    for method, black in (("dense", True), ("radial", False)):
        where = f"""(() => {{ const box = document.querySelector(`.tile[data-cell*="/{method}/"] .difference`)
            .getBoundingClientRect(); return [box.left, box.top, box.right, box.bottom].map(Math.round); }})()"""
        left, top, right, bottom = seen.run(where)
        inside = picture[top + 3 : bottom - 3, left + 3 : right - 3]
        assert inside.size > 10000
        assert (inside.max() == 0) == black


def test_every_number_leads_to_its_record_and_command(seen):
    seen.run("document.querySelector('#methods [data-cell*=\"1x/radial\"][data-metric=psnr]').focus()")
    seen.press("Enter", 13, "\r")
    text = seen.run("document.querySelector('#details[open]').innerText")
    assert "Command that made it (measure)" in text
    seen.run("document.querySelector('#details .record summary').click()")
    record = json.loads(seen.run("document.querySelector('#details .record pre').textContent"))
    assert (record["kind"], record["cell"]["method"]) == ("measure", "radial")
    links = seen.run("[...document.querySelectorAll('#details a')].map((link) => link.getAttribute('href'))")
    assert "../records/testbed-nano/1x/radial/untuned/measure.json" in links
    seen.press("Escape", 27)
    seen.wait("!document.querySelector('#details').open")
    assert seen.run("document.activeElement.dataset.metric") == "psnr"
    seen.run("document.querySelector('.plot:not([hidden]) .point[data-method=svg]').focus()")
    seen.press("Enter", 13, "\r")
    assert "SVG" in seen.run("document.querySelector('#details[open] h2').textContent")
    seen.run("[...document.querySelectorAll('#details button')].find((each) => /clips/.test(each.textContent)).click()")
    assert seen.run("document.querySelector('#details').open") is False


def test_a_published_number_leads_to_its_place_in_the_paper_and_to_ours(seen):
    cell = "#table1 tbody[data-method=radial] td [data-columns=psnr]"
    seen.run(f"document.querySelectorAll('{cell}')[1].click()")
    text = seen.run("document.querySelector('#details[open]').innerText")
    for words in ("psnr: 23.9 as printed", "arXiv 2506.19852", "radial, Wan2.1-14B, 69 frames",
                  "paper_figures/published/table1.csv, line 11", "ablation B prints 23.6 dB"):  # fmt: skip
        assert words in text
    seen.run("document.querySelector('#details .number').click()")
    text = seen.run("document.querySelector('#details[open]').innerText")
    assert "Command that made it (measure)" in text and "Wan2.1-14B 23.9" in text


def test_every_number_on_the_page_has_its_dialog(seen):
    seen.wait("document.body.dataset.records === 'ready'")
    wrong = """[...document.querySelectorAll('.number, .point')].filter((each) => {
        each.dispatchEvent(new MouseEvent('click', {bubbles: true}));
        const dialog = document.querySelector('#details');
        const wanted = each.dataset.published ? '.big, .facts' : 'pre';
        const fine = dialog.open && dialog.querySelectorAll(`#details-body ${wanted}`).length > 0;
        dialog.close();
        return !fine;
    }).map((each) => each.outerHTML.slice(0, 100))"""
    assert seen.run(wrong) == []


def test_a_number_of_the_testbed_leads_to_its_record(seen, measured):
    seen.open(measured.path)
    seen.wait("document.body.dataset.records === 'ready'")
    cell = "#table1_testbed [data-cell='testbed/testbed-nano/1x/radial/b50'][data-metric='table1_testbed.psnr']"
    seen.run(f'document.querySelector("{cell}").click()')
    text = seen.run("document.querySelector('#details[open]').innerText")
    for words in ("Radial, half of the pairs, testbed-nano at 1x", "PSNR (Table 1, quality): ", "HunyuanVideo 27.3",
                  "Command that made it (measure)", "All numbers of this cell"):  # fmt: skip
        assert words in text, text
    assert seen.run("document.querySelectorAll('#details .save').length") == 0  # only a part of the file is here
    seen.run("document.querySelectorAll('#details .record').forEach((each) => { each.open = true; })")
    text = seen.run("document.querySelector('#details').innerText")
    assert "without what it says of single clips" in text and '"clips": "3 clips"' in text
    methods = (
        """[...document.querySelectorAll('#table1_testbed tbody:not([hidden])')].map((row) => row.dataset.method)"""
    )
    assert seen.run(methods) == ["dense", *TRAINED[3:4], *TRAINED[2:3], "svg", "radial", "random"]
    seen.run("document.querySelector('#details').close()")
    seen.run("document.querySelector('input[name=method][value=svg]').click()")
    assert "svg" not in seen.run(methods) and "sta" in seen.run(methods)  # sta drew no clips here: it has no box


def test_every_control_is_reached_by_the_keyboard(seen):
    out = """[...document.querySelectorAll('button, select, input, summary, a[href], [role=button]')]
        .filter((each) => each.tabIndex || each.disabled).map((each) => each.outerHTML.slice(0, 80))"""
    assert seen.run(out) == []
    seen.run("document.querySelector('#model').focus()")
    for key in ("length", "budget"):
        seen.press("Tab", 9)
        assert seen.run("document.activeElement.id") == key
        assert seen.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
