"""Tables 1 and 2: our numbers, the published ones beside them, and what stands where there is no number."""

from __future__ import annotations

import csv
import json
import re

import pytest
import synthetic

from benchmark.records import make_record, write_json
from paper_figures import published
from paper_figures.__main__ import main, targets
from paper_figures.entries import significant
from paper_figures.experiment import Experiment
from paper_figures.tables import Block, Column, Entry, Group, Line, filled, latex


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Both tables of all methods and a brand-new one at three lengths."""
    folder = tmp_path_factory.mktemp("trial")
    paths = synthetic.write_records(folder, [*synthetic.METHODS, "brand_new"])
    synthetic.collected(folder, paths)
    for target in ("table1", "table2"):
        assert main([target, "--experiment-folder", str(folder), "--out", str(folder / "tables")]) == 0
    return folder / "tables"


def csv_rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def lines_of(path, method):
    """Cells of a method's lines in Markdown: ours first, then the published ones; the first block that has it."""
    text = path.read_text().replace("\N{NO-BREAK SPACE}", " ")
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    start = next(n for n, line in enumerate(lines) if line[0].startswith(f"**{method}**"))
    found = [lines[start]]
    for line in path.read_text().splitlines()[_line_number(path, method) + 1 :]:
        if not line.startswith("|  |"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def _line_number(path, method):
    lines = path.read_text().splitlines()
    return next(n for n, line in enumerate(lines) if line.startswith(f"| **{method}**"))


def column(path, heading):
    """Number of a column in Markdown."""
    head = next(line for line in path.read_text().splitlines() if line.startswith("| Method"))
    head = head.replace("\N{NO-BREAK SPACE}", " ")
    cells = [re.sub(r"<sup>.*?</sup>", "", cell).strip() for cell in head.strip("|").split("|")]
    return next(n for n, cell in enumerate(cells) if cell == heading)


def test_published_cells_are_as_printed():
    assert [len(published.rows(name)) for name in ("table1", "table2", "ablations")] == [10, 38, 16]
    radial = next(row for row in published.rows("table1") if row.model == "Wan2.1-14B" and row.method == "radial")
    assert (radial.text("psnr"), radial.text("lpips"), radial.number("pflops")) == ("23.9", "0.163", 323)
    assert published.rows("ablations")[2].number("vision_reward") is None
    with pytest.raises(ValueError, match="table9"):
        published.rows("table9")


def test_every_note_belongs_to_a_printed_cell():
    rows = [row for name in published.TABLES for row in published.rows(name)]
    with open(published.FOLDER / "notes.csv", newline="") as file:
        notes = list(csv.DictReader(file))
    for note in notes:
        held = [row for row in rows if row.notes.get(note["column"]) == note["note"] and row.table == note["table"]]
        assert held, note
        assert all(row.text(note["column"]) for row in held)


def test_every_method_has_a_row_in_both_tables(run):
    methods = {*synthetic.METHODS, "brand_new"}
    one, two = csv_rows(run / "table1.csv"), csv_rows(run / "table2.csv")
    assert [row["method"] for row in one] == [*synthetic.METHODS, "brand_new"]
    for length in ("2x", "4x"):
        assert {row["method"] for row in two if row["length"] == length} == methods
    assert [row["method"] for row in two if row["length"] == "1x"] == ["dense"]


def test_our_numbers_and_the_published_ones_are_apart(run):
    row = next(row for row in csv_rows(run / "table1.csv") if row["method"] == "radial")
    clips = [18 + 8 * synthetic.quality("radial", "1x", n) for n in range(3)]
    assert float(row["psnr"]) == pytest.approx(sum(clips) / 3) and row["psnr_status"] == "passed"
    assert float(row["psnr_standard_error"]) > 0
    assert (row["psnr_published_HunyuanVideo"], row["psnr_published_Wan2.1-14B"]) == ("27.3", "23.9")
    assert (row["latency_s_published_HunyuanVideo"], row["speedup_published_HunyuanVideo"]) == ("876", "1.88")
    assert row["published_other_model"] == "yes"
    two = next(row for row in csv_rows(run / "table2.csv") if (row["method"], row["length"]) == ("radial", "4x"))
    assert (two["vision_reward_published_HunyuanVideo_tuned"], two["vision_reward_published_Mochi-1_tuned"]) == (
        "0.134", "0.113",
    )  # fmt: skip


def test_published_lines_stand_below_ours_and_say_other_model(run):
    ours, *paper = lines_of(run / "table1.md", "Radial")
    assert ours[1] == "ours"
    assert [line[1] for line in paper] == [
        "*published, HunyuanVideo 117f, other model*",
        "*published, Wan2.1-14B 69f, other model*",
    ]
    psnr = column(run / "table1.md", "PSNR (dB) ↑")
    assert re.fullmatch(r"\d\d\.\d ± \d\.\d", ours[psnr]) and paper[0][psnr] == "*27.3*"
    assert len(lines_of(run / "table1.md", "Spatial")) == 1  # not in the paper's Table 1
    tuned = lines_of(run / "table2.md", "LongLoRA")
    assert tuned[1][1] == "*published, HunyuanVideo 253f, tuned, other model*"


def test_dense_is_the_reference_and_not_compared_with_itself(run):
    ours = lines_of(run / "table1.md", "Dense")[0]
    assert ours[column(run / "table1.md", "PSNR (dB) ↑")] == "reference"
    row = csv_rows(run / "table1.csv")[0]
    assert (row["psnr"], row["psnr_status"]) == ("", "reference")
    assert row["adherence"] != ""


def test_statuses_stand_where_numbers_do_not(run):
    row = next(row for row in csv_rows(run / "table1.csv") if row["method"] == "svg")
    assert (row["vision_reward"], row["vision_reward_status"]) == ("", "unsupported")
    assert (row["latency_s"], row["latency_s_status"]) == ("", "unsupported") and "testbed" in row["latency_s_reason"]
    ours = lines_of(run / "table1.md", "SVG")[0]
    assert ours[column(run / "table1.md", "Vision reward ↑")].startswith("unsupported<sup>")
    two = next(row for row in csv_rows(run / "table2.csv") if (row["method"], row["length"]) == ("svg", "2x"))
    assert two["training_h_status"] == "unsupported" and "testbed" in two["training_h_reason"]
    assert two["subject_consistency_status"] == two["imaging_quality_status"] == "unsupported"


def test_identical_clips_are_flagged(run):
    ours = lines_of(run / "table1.md", "RIFLEx")[0]
    assert re.fullmatch(r"100\.0<sup>\w</sup>", ours[column(run / "table1.md", "PSNR (dB) ↑")])
    assert "All 48 frames equal those of the dense clips" in (run / "table1.md").read_text()


def test_linear_attention_has_no_density(run):
    assert lines_of(run / "table1.md", "SANA")[0][column(run / "table1.md", "Density")].startswith("linear operator")
    row = next(row for row in csv_rows(run / "table2.csv") if row["method"] == "sana")
    assert (row["sparsity_pct"], row["sparsity_pct_status"]) == ("", "not applicable")


def test_the_control_is_called_one(run):
    assert lines_of(run / "table1.md", "Random (control)")


def test_untrained_lpips_has_its_own_column_and_footnote_and_is_never_ranked(run):
    for table in ("table1", "table2"):
        text = (run / f"{table}.md").read_text()
        assert "LPIPS untrained<sup>†</sup> |" in text  # no arrow: neither direction is better
        assert re.search(r"^<sup>†</sup> lpips_untrained is not LPIPS", text, re.M)
        assert "\\textsuperscript{\\dag{}}~lpips\\_untrained is not LPIPS" in (run / f"{table}.tex").read_text()
    row = next(row for row in csv_rows(run / "table1.csv") if row["method"] == "radial")
    assert (row["lpips"], row["lpips_status"]) == ("", "unsupported")
    assert row["lpips_published_HunyuanVideo"] == "0.114"
    assert "lpips_untrained_published_HunyuanVideo" not in row


def test_footnotes_say_where_the_paper_contradicts_itself(run):
    one, two = (run / "table1.md").read_text(), (run / "table2.md").read_text()
    assert re.search(r"\*612\*<sup>\w+</sup>", one) and "569.9 PFLOP" in one
    assert "Truncated, not rounded" in one and "1630 s for both" in one and "ablation B prints 23.6 dB" in one
    assert "0.973 / 0.623 / 0.672" in two and "746 GPU-hours" in two and "162 frames" in two


def test_every_mark_has_its_footnote_and_every_footnote_its_mark(run):
    for table in ("table1", "table2"):
        body, notes = [], set()
        for line in (run / f"{table}.md").read_text().splitlines():
            if found := re.match(r"<sup>(\S+?)</sup> ", line):
                notes.add(found[1])
            else:
                body += re.findall(r"<sup>(.*?)</sup>", line)
        assert {mark for marks in body for mark in marks.split(",")} == notes


def test_the_noise_floor_stands_below_every_table(tmp_path, run):
    for table, lengths in (("table1", ["1x"]), ("table2", ["2x", "4x"])):
        text = (run / f"{table}.md").read_text()
        for length in lengths:
            assert f"Noise floor of testbed-nano at {length}: not measured, for dense_repeated is not among" in text
        assert text.count("Noise floor of") == len(lengths)
        assert "On another processor the methods' means moved by up to PSNR 1 dB, SSIM 0.02," in text
        assert "Noise floor of testbed-nano" in (run / f"{table}.tex").read_text()

    paths = synthetic.write_records(tmp_path, ("dense", "radial", "dense_repeated"), ("1x", "2x"))
    of = synthetic.cell("dense_repeated", "1x")
    values = {"psnr": 52.24, "ssim": 0.99964, "lpips_untrained": 0.0000123}
    write_json(synthetic.path_of(tmp_path, of, "measure"), synthetic.measure_record(of, values=values))
    failed = make_record("measure", synthetic.cell("dense_repeated", "2x"), "out_of_memory", reason="too little")
    write_json(synthetic.path_of(tmp_path, synthetic.cell("dense_repeated", "2x"), "measure"), failed)
    tables_of(tmp_path, paths)
    text = (tmp_path / "table1.md").read_text()
    assert "at 1x: PSNR 52.2 dB, SSIM 0.9996, LPIPS untrained 0.000012." in text
    assert "cannot be told from dense attention" in text
    assert lines_of(tmp_path / "table1.md", "Dense, repeated (control)")
    two = (tmp_path / "table2.md").read_text()
    assert "at 2x: not measured, dense_repeated has the status out_of_memory." in two and "at 1x: not" not in two


def test_latex_is_balanced_and_escaped(run):
    for table in ("table1", "table2"):
        text = (run / f"{table}.tex").read_text()
        for name in ("table*", "tabular"):
            assert text.count(f"\\begin{{{name}}}") == text.count(f"\\end{{{name}}}") > 0
        assert text.count("{") - text.count("\\{") == text.count("}") - text.count("\\}")
        spec = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)[1]
        rows = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(spec) - 1}
        assert all(text.count(f"\\{rule}") == text.count("\\begin{tabular}") for rule in ("toprule", "bottomrule"))
        assert not re.search(r"(?<!\\)[#_]", text.replace("\\_", "")) and "±" not in text and "×" not in text
    assert latex("50 % of a_b & -1 ± 2") == r"50 \% of a\_b \& -1 $\pm$ 2"
    assert latex("-0.205") == "$-$0.205"


def test_numbers_keep_their_significant_digits():
    assert [significant(x) for x in (0.00012345, 0.5, 12.34, 1234.0, 0.0)] == ["0.000123", "0.500", "12.3", "1234", "0"]


def tables_of(tmp_path, paths):
    source = Experiment(tmp_path, synthetic.collected(tmp_path, paths))
    from paper_figures import table1, table2

    table1.make(source, tmp_path)
    table2.make(source, tmp_path)


def test_a_record_that_did_not_pass_shows_its_status(tmp_path):
    paths = synthetic.write_records(tmp_path, ("dense", "svg", "radial"), ("1x", "2x"))
    for method, kinds in (("radial", ("generate", "measure")), ("svg", ("measure",))):
        for kind in kinds:
            of = synthetic.cell(method, "1x")
            record = make_record(kind, of, "out_of_memory", reason="48 GiB asked, 40 there")
            write_json(synthetic.path_of(tmp_path, of, kind), record)
    tables_of(tmp_path, paths)
    svg, radial = (row for row in csv_rows(tmp_path / "table1.csv") if row["method"] != "dense")
    assert svg["density_status"] == "passed" and svg["psnr_status"] == "out_of_memory"
    for key in ("psnr", "ssim", "lpips", "adherence", "density", "pflop", "vision_reward"):
        assert (radial[key], radial[f"{key}_status"]) == ("", "out_of_memory")
    assert "out of memory<sup>" in (tmp_path / "table1.md").read_text()
    assert "48 GiB asked, 40 there." in (tmp_path / "table1.md").read_text()


def test_tuned_cells_get_rows_and_the_published_ones_of_their_own(tmp_path):
    paths = synthetic.write_records(tmp_path, ("dense", "radial"), ("1x", "2x"))
    of = synthetic.cell("dense", "2x", tuned=True)
    for kind, record in (
        ("generate", synthetic.generate_record(of)),
        ("measure", synthetic.measure_record(of)),
        (
            "tune",
            make_record("tune", of, "passed", {"tuning_s": 4500.0}, units={"tuning_s": "s"}, device=synthetic.DEVICE),
        ),
    ):
        paths.append(synthetic.path_of(tmp_path, of, kind))
        write_json(paths[-1], record)
    tables_of(tmp_path, paths)
    rows = [row for row in csv_rows(tmp_path / "table2.csv") if row["length"] == "2x"]
    assert [(row["method"], row["tuning"]) for row in rows] == [
        ("dense", "untuned"), ("dense", "tuned"), ("radial", "untuned"),
    ]  # fmt: skip
    untuned, tuned = rows[:2]
    assert float(tuned["training_h"]) == 1.25 and tuned["psnr_status"] == "passed"
    assert (untuned["training_h"], untuned["training_h_status"]) == ("", "unsupported")
    assert lines_of(tmp_path / "table2.md", "Full (dense)")[0][1] == "ours, tuned"
    assert "Wall time of the tuning's steps" in (tmp_path / "table2.md").read_text()
    assert tuned["vision_reward_published_HunyuanVideo_tuned"] == "0.124"
    assert tuned["vision_reward_published_HunyuanVideo"] == ""
    assert untuned["vision_reward_published_HunyuanVideo"] == "0.122"
    assert untuned["vision_reward_published_HunyuanVideo_tuned"] == ""
    assert [row["method"] for row in csv_rows(tmp_path / "table1.csv")] == ["dense", "radial"]


def test_the_papers_own_model_is_not_called_another(tmp_path):
    paths = []
    for method in ("dense", "radial"):
        of = synthetic.cell(
            method, model="hunyuanvideo", frames=117, height=768, width=1280, block=128, budget=None, steps=50
        )
        for kind, make in (("generate", synthetic.generate_record), ("measure", synthetic.measure_record)):
            paths.append(synthetic.path_of(tmp_path, of, kind))
            write_json(paths[-1], make(of))
    from paper_figures import table1

    table1.make(Experiment(tmp_path, synthetic.collected(tmp_path, paths)), tmp_path)
    assert [line[1] for line in lines_of(tmp_path / "table1.md", "Radial")[1:]] == ["*published, HunyuanVideo 117f*"]
    row = csv_rows(tmp_path / "table1.csv")[1]
    assert row["published_other_model"] == "no" and row["latency_s_status"] == "no record"


def test_several_versions_of_the_code_are_told(tmp_path):
    paths = synthetic.write_records(tmp_path, ("dense", "radial"), ("1x", "2x"))
    record = json.loads(paths[2].read_text())
    record["provenance"]["code"] = "other"
    write_json(paths[2], record)
    tables_of(tmp_path, paths)
    assert "2 versions of the code" in (tmp_path / "table1.md").read_text()


def test_a_density_off_the_budget_is_told(tmp_path):
    paths = synthetic.write_records(tmp_path, ("dense", "sta"), ("1x", "2x"))
    record = json.loads(paths[2].read_text())
    record["values"]["density"] = 0.3
    write_json(paths[2], record)
    tables_of(tmp_path, paths)
    assert "The budget was 0.5" in (tmp_path / "table1.md").read_text()


def test_what_is_missing_is_one_line_and_exit_status_2(tmp_path, capsys):
    assert main(["table1", "--experiment-folder", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "records.parquet" in capsys.readouterr().err
    synthetic.collected(tmp_path, synthetic.write_records(tmp_path, ("dense",), ("2x",)))
    assert main(["table1", "--experiment-folder", str(tmp_path), "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said and "1x" in said
    (tmp_path / "records.parquet").write_bytes(b"nothing")
    assert main(["table2", "--experiment-folder", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "Parquet" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["table9", "--experiment-folder", str(tmp_path), "--out", str(tmp_path)])
    assert stop.value.code == 2


def test_targets_are_the_files():
    ablations = [f"ablation_{letter}" for letter in "abcd"]
    figures = [
        *sorted([*(f"figure{number}" for number in range(2, 9)), *(f"figure{number}_testbed" for number in (6, 7))])
    ]
    figures += ["figure_scaling", "figure_speedup", "figure_style"]
    tables = [f"table{number}{kind}" for number in (1, 2) for kind in ("", "_speed", "_testbed")]
    assert targets() == [*ablations, *figures, *tables, "table_error", "table_kernels", "table_outside", "table_rates"]


def test_a_column_that_nobody_took_is_left_out_and_a_status_keeps_it():
    columns = [Column(name, name) for name in ("a", "b", "c")]
    lines = [Line("ours", {"a": Entry("1", 1.0)}), Line("ours", {"c": Entry("error", status="error")})]
    blocks = [Block("one", tuple(Group("x", line) for line in lines))]
    assert [column.key for column in filled(columns, blocks)] == ["a", "c"]
