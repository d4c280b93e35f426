"""The report: its numbers are the records', its links lead somewhere, and it works in a browser."""

from __future__ import annotations

import csv
import json
import re
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path

import browser
import numpy as np
import pytest
import synthetic
from PIL import Image

from benchmark.records import make_record, write_json
from paper_figures.experiment import Experiment
from paper_figures.report import charts, facts
from paper_figures.report.__main__ import main
from paper_figures.report.page import gather, render
from paper_figures.report.sheets import COLUMNS, write_sheet

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
    words = ["--experiment-folder", str(folder), "--out", str(folder / "report")]
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
        links += [f"{data['clips_root']}/{clip['sheet']}" for clip in cell["clips"] if "sheet" in clip]
    return links


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
    assert "sheet" not in clips[1] and "sheet" in clips[0]


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


def test_published_lines_are_marked(page):
    lines = [row["text"] for row in page.find("tr", **{"class": "published"})]
    assert lines and all("published" in line for line in lines)
    assert any("other model" in line for line in lines)


def test_every_cell_names_its_commands(page):
    for name, cell in page.data["cells"].items():
        assert {record["kind"] for record in cell["records"]} == {"generate", "measure"}, name
        assert all(record["command"] and record["commit"] for record in cell["records"])


def test_the_page_and_its_clips_are_small(folder):
    files = [path for path in (folder / "report").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20 * MB
    assert not [path for path in files if path.suffix not in (".html", ".webp")]


def test_the_same_records_give_the_same_page(folder, page):
    source = Experiment(folder, folder / "records.parquet")
    clips = {name: cell["clips"] for name, cell in page.data["cells"].items()}
    content = gather(source, source.cells(), clips) | {"root": "..", "clips_root": "clips"}
    assert render(content) == page.path.read_text(encoding="utf-8")


def test_a_missing_table_is_one_line(tmp_path, capsys):
    assert main(["--experiment-folder", str(tmp_path), "--out", str(tmp_path / "report")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("count", [1, COLUMNS, COLUMNS + 3])
def test_a_sheet_holds_every_frame_without_loss(tmp_path, count):
    clip = np.random.default_rng(count).integers(0, 256, (count, 6, 10, 3), dtype=np.uint8)
    told = write_sheet(clip, tmp_path / "a.webp")
    assert told == {"frames": count, "width": 10, "height": 6, "reduced": ""}
    sheet = np.asarray(Image.open(tmp_path / "a.webp").convert("RGB"))
    for n in range(count):
        row, column = divmod(n, COLUMNS)
        np.testing.assert_array_equal(sheet[6 * row : 6 * row + 6, 10 * column : 10 * column + 10], clip[n])


def test_a_large_clip_is_made_smaller_and_says_so(tmp_path):
    told = write_sheet(np.zeros((200, 64, 256, 3), np.uint8), tmp_path / "a.webp")
    assert (told["frames"], told["width"], told["height"]) == (100, 128, 32)
    assert told["reduced"] == "every 2nd frame, 128x32 of 256x64 pixels"


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
    choose(seen, "#length", "2x")
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


def test_sorting_keeps_published_lines_below_ours(seen):
    values = """[...document.querySelectorAll('#methods tbody:not([hidden])')]
        .map((row) => row.rows[0].cells[1].dataset.sort)"""
    click = "document.querySelector('#methods th:nth-child(2) .sort').click()"
    for reverse in (True, False):
        seen.run(click)
        numbers = [float(value) for value in seen.run(values) if value]
        assert len(numbers) > 3 and numbers == sorted(numbers, reverse=reverse)
        assert seen.run(values)[-1] == ""  # dense has no PSNR
    seen.run("document.querySelector('#table1 thead th:nth-child(3) .sort').click()")
    groups = """[...document.querySelectorAll('#table1 tbody')]
        .map((group) => [...group.rows].map((row) => row.className))"""
    assert all(group[0] == "ours" and set(group[1:]) <= {"published"} for group in seen.run(groups))


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
    seen.run("document.querySelector('#methods [data-cell*=\"1x/radial\"][data-metric=psnr]').click()")
    text = seen.run("document.querySelector('#details[open]').innerText")
    assert "Command that made it (measure)" in text
    links = seen.run("[...document.querySelectorAll('#details a')].map((link) => link.getAttribute('href'))")
    assert "../records/testbed-nano/1x/radial/untuned/measure.json" in links
    seen.press("Escape", 27)
    seen.wait("!document.querySelector('#details').open")
    seen.run("document.querySelector('.plot:not([hidden]) .point[data-method=svg]').focus()")
    seen.press("Enter", 13, "\r")
    assert "SVG" in seen.run("document.querySelector('#details[open] h2').textContent")
    seen.run("[...document.querySelectorAll('#details button')].find((each) => /clips/.test(each.textContent)).click()")
    assert seen.run("document.querySelector('#details').open") is False


def test_every_number_on_the_page_has_its_dialog(seen):
    wrong = """[...document.querySelectorAll('.number, .point')].filter((each) => {
        each.dispatchEvent(new MouseEvent('click', {bubbles: true}));
        const dialog = document.querySelector('#details');
        const fine = dialog.open && dialog.querySelectorAll('#details-body a').length > 0;
        dialog.close();
        return !fine;
    }).map((each) => each.outerHTML.slice(0, 100))"""
    assert seen.run(wrong) == []
