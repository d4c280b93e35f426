"""Tables and figures of speed: verdicts, Amdahl's law, and what stands where there is no number."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest
from matplotlib.figure import Figure
from timed import CONFIG, DEVICE, STATE, WATCHED, cells, filled, latency, put, speed_of, stepped

from benchmark.records import make_record, read_record, write_json
from benchmark.speed.cells import SpeedCell
from paper_figures import (
    figure2,
    figure_speedup,
    peak,
    table1_speed,
    table2_speed,
    table_kernels,
    table_outside,
    table_rates,
)
from paper_figures.__main__ import main
from paper_figures.speed import Speed, amdahl, fit_power, ratio, verdict
from paper_figures.speed_entries import judged
from paper_figures.style import styled
from paper_figures.tables import NOT_YET, Entry, to_csv, to_latex, to_markdown, write


@pytest.fixture
def speed(tmp_path) -> Speed:
    """An experiment of two models' worth of stages, without records."""
    return speed_of(tmp_path)


def groups(table) -> dict[tuple[str, str, str], tuple]:
    """Our entries and the published ones, by shape, method and setting."""
    found = {}
    for group in (group for block in table.blocks for group in block.groups):
        key = tuple(group.facts[name] for name in ("shape", "method", "setting"))
        found[key] = (group.ours.entries, group.published[0].entries if group.published else {})
    return found


@pytest.mark.parametrize(
    ("measured", "word"),
    [(108.0, "reproduced"), (108.1, "higher"), (92.0, "reproduced"), (91.9, "lower"), (100.0, "reproduced")],
)
def test_a_verdict_turns_at_8_percent(measured, word):
    assert verdict(measured, 100.0) == word
    assert verdict(measured / 1000, 0.1) == word


def test_amdahl_as_counted_by_hand():
    # Dense steps of 20 s, sparse ones of 4 + 16 / 4 = 8 s: 1000 s become 10 * 20 + 40 * 8 = 520 s.
    assert amdahl(4, 16, 0.25, steps=50, dense_steps=10) == pytest.approx(1000 / 520)
    # Half of the layers dense: 4 + 8 + 8 / 4 = 14 s.
    assert amdahl(4, 16, 0.25, layers=4, dense_layers=2) == pytest.approx(20 / 14)
    assert amdahl(4, 16, 0.0) == pytest.approx(5.0)
    assert amdahl(4, 16, 1.0, steps=50, dense_steps=10) == 1.0
    wrong = {"outside": "from 0 on", "density": "from 0 on", "dense_steps": "1 steps", "dense_layers": "1 layers"}
    for name, words in wrong.items():
        with pytest.raises(ValueError, match=words):
            amdahl(**({"outside": 4, "attention": 16, "density": 0.5} | {name: -0.1 if "from" in words else 2}))


def test_a_ratio_needs_two_numbers_above_0():
    assert ratio(3.0, 4.0) == 0.75
    with pytest.raises(ValueError, match="above 0"):
        verdict(1.0, 0.0)


def test_a_power_is_found():
    exponent, factor = fit_power([1.0, 2.0, 5.0], [3.0, 12.0, 75.0])
    assert (exponent, factor) == (pytest.approx(2.0), pytest.approx(3.0))
    with pytest.raises(ValueError, match="at least 2"):
        fit_power([2.0, 2.0], [1.0, 3.0])


def test_without_records_every_cell_is_not_measured_yet(speed, tmp_path):
    for module in (table1_speed, table2_speed, table_kernels):
        table = module.table(speed)
        for entry in (e for block in table.blocks for group in block.groups for e in group.ours.entries.values()):
            assert entry.value is None and entry.text in (NOT_YET, "")
        assert NOT_YET in to_markdown(table) and NOT_YET in to_latex(table)
        assert "No speed record has passed yet." in table.remarks
    found = groups(table1_speed.table(speed))
    assert found["table1", "radial", "authors"][0]["latency_s"].status == "no record"
    assert found["table1", "radial", "paper"][1]["speedup"].text == "1.88"


def test_a_ratio_at_the_edge_of_a_verdict_is_told_from_one_on_its_other_side():
    told = [judged(Entry("", value, None, "passed"), 1.0).text for value in (0.918, 0.922, 1.0801, 0.87, 0.5)]
    assert told == ["lower (0.918)", "reproduced (0.92)", "higher (1.080)", "lower (0.87)", "lower (0.50)"]


def test_numbers_stand_beside_the_published_ones(speed):
    found = groups(table1_speed.table(filled(speed)))
    ours, paper = found["table1", "radial", "authors"]
    assert (ours["latency_s"].value, paper["latency_s"].text) == (520.0, "876")
    assert ours["latency_ratio"].text == "0.59"  # 520 / 876
    assert ours["speedup"].text == "1.92" and ours["speedup_verdict"].text == "reproduced (1.02)"  # published 1.88
    assert ours["speedup_amdahl"].value == pytest.approx(1000 / 520)
    assert ours["pflop_verdict"].status == "lower"  # 142.5 against 339
    sta = found["table1", "sta", "paper"][0]
    assert sta["speedup_verdict"].text == "lower (0.87)" and sta["latency_s"].notes  # 2.00 against 2.29; from parts
    dense, paper = found["table1", "dense", "paper"]
    assert dense["speedup"].text == "reference" and dense["speedup_verdict"].text == ""
    assert dense["pflop_verdict"].text == "reproduced (0.93)" and "569.9" in paper["pflop"].notes[0]
    assert "latency_verdict" not in ours


def test_a_long_clip_is_compared_in_gpu_seconds(speed):
    found = groups(table2_speed.table(filled(speed)))
    ours, paper = found["4x", "radial", "paper"]
    assert paper["latency_s"].text == "6248 (8 × 781)"
    assert ours["latency_ratio"].value == pytest.approx(2800 / 6248)
    assert ours["speedup_verdict"].text == "reproduced (1.08)"  # 4.00 against 3.71
    assert ours["training_gpu_h"].value == pytest.approx(240 * 1200 / 3600)
    assert ours["training_ratio"].value == pytest.approx(80 / (8 * 21.4))
    assert ours["training_verdict"].status == "higher"  # 5.00 against 4.37
    # 100 s outside and 1100 s in 60 layers, of which 2 are dense: (2 + 58 x 0.1) / 60 of it stay.
    assert ours["training_amdahl"].value == pytest.approx(1200 / (100 + 1100 * 7.8 / 60))
    assert ours["sparsity_pct"].text == "90.0" and ours["sparsity_verdict"].status == "lower"  # 0.100 against 0.117
    rows = list(csv.DictReader(to_csv(table2_speed.table(speed)).splitlines()))
    row = next(row for row in rows if (row["shape"], row["method"]) == ("4x", "radial"))
    assert row["latency_s_published_arXiv-2506.19852"] == "781" and row["published_gpus"] == "8"
    assert float(row["latency_s"]) == 2800.0 and row["speedup_verdict_status"] == "reproduced"


def test_rates_are_operations_over_whole_steps_beside_the_peak_at_the_clock(speed, monkeypatch):
    stage = cells(speed, "hunyuanvideo/table1")["dense/paper"].of_stage()
    profile = {"products_s": 2.0, "rows_s": 0.3, "cross_attention_s": 0.0, "other_s": 0.1, "idle_s": 0.0}
    profile |= {"products_limit_s": 2.5, "products_tflops": 700.0, "large_product_tflops": 560.0}
    details = {"gpu": {"during": WATCHED}, "passes": 2}
    put(stepped(speed), "profile", stage, values=profile, details=details)
    found = groups(table_rates.table(speed))
    dense, radial = (found["table1", *key][0] for key in (("dense", "paper"), ("radial", "authors")))
    # A dense step has 570 / 50 = 11.4 PFLOP; of 142.5 the 10 dense steps have 114, the other 40 the rest.
    assert dense["tflops"].value == pytest.approx(11400 / 20) and dense["of_product"].text == "102"
    assert radial["pflop"].value == pytest.approx((142.5 - 114) / 40)
    put(speed, "step", cells(speed, "hunyuanvideo/4x")["dense/paper"], values={"step_s": 80.0})
    assert groups(table_rates.table(speed))["4x", "dense", "paper"][0]["product_tflops"].text == "560"  # of table1's
    assert (radial["clock_mhz"].text, radial["power_w"].text) == ("1400", "697")
    assert "peak_tflops" not in radial  # of a GPU whose tensor cores nobody counted
    put(speed, "outside", stage, values={"outside_s": 5.0, "outside_unfused_s": 8.0, "fused_error": 0.01})
    assert "products_peak_s" not in table_outside.table(speed).blocks[0].groups[0].ours.entries
    monkeypatch.setattr(peak, "OPERATIONS", {"Some GPU": 100 * 4096})
    line = table_outside.table(speed).blocks[0].groups[0].ours.entries
    # 2.5 s x 560 TFLOP/s a pass, over 100 SMs x 4096 operations x 1400 MHz.
    assert line["products_peak_s"].value == pytest.approx(2 * 1400 / (100 * 4096 * 1.4e9 / 1e12))
    radial = groups(table_rates.table(speed))["table1", "radial", "authors"][0]
    assert radial["of_peak"].value == pytest.approx(100 * (1e3 * 28.5 / 40 / 8) / (4096 * 1.4e11 / 1e12))


def test_no_number_without_passed(speed):
    table = table1_speed.table(filled(speed))
    found = groups(table)
    for method, setting, word in (("radial", "paper", "incorrect"), ("sana", "paper", "out of memory")):
        entries = found["table1", method, setting][0]
        assert all(entry.value is None for entry in entries.values())
        assert entries["latency_s"].text == entries["speedup"].text == word
    text = to_markdown(table)
    assert "Parts differ from whole steps by 4 %." in text and "2 GiB were free." in text
    assert "A density of 0.32 was asked for; 0.400 is the nearest" in text
    assert "text encoder 0.100 s and the VAE decoder 14.2 s" in text
    assert "the two differ by at most 1.1%" in text and "(flash4), in the paper STA alone" in text
    assert "Measured on Some GPU, driver 1.2" in text and "SM clock 1410 to 1980 MHz" in text


def test_a_record_of_other_settings_or_of_a_trial_does_not_count(speed):
    cell = cells(speed, "hunyuanvideo/table1")["radial/authors"]
    for change, words in (({"dense_steps": 3}, "dense_steps=3"), ({"trial": {"num_layers": 2}}, "a trial")):
        put(speed, "latency", SpeedCell(**(cell.settings() | change)), values=latency(0.25, 520.0))
        fresh = Speed(speed.folder, speed.config)
        entry = groups(table1_speed.table(fresh))["table1", "radial", "authors"][0]["latency_s"]
        assert entry.text == NOT_YET and words in entry.reason


def test_a_record_of_other_knobs_than_those_configured_does_not_count(tmp_path):
    (tmp_path / "speed.yaml").write_text(
        CONFIG.replace("density: 0.32\n", "density: 0.32\n      knobs: {radial: {neighbour: decayed}}\n", 1)
    )
    speed = Speed(tmp_path / "results", tmp_path / "speed.yaml")
    one = cells(speed, "hunyuanvideo/table1")
    want = one["radial/paper"].knobs
    assert want["neighbour"] == "decayed"
    for knobs, counts in (
        (want | {"decay": 0.123}, True),  # solved for the budget
        (want | {"neighbour": "half"}, False),
        (want | {"sink": not want["sink"]}, False),
        ({"decay": 0.123}, False),  # from before the knob was there: at its default, whole
    ):
        put(speed, "latency", replace(one["radial/paper"], knobs=knobs), values=latency(0.32, 500.0))
        found = Speed(speed.folder, speed.config)
        assert (found.record(one["radial/paper"], "latency") is not None) == counts
    assert found.other(one["radial/paper"], "latency").startswith("it is about neighbour=")
    for knobs, counts in (({"window": "1x1x1"}, True), ({"tile": "1x2x2"}, False), ({}, True)):
        put(speed, "latency", replace(one["sta/paper"], knobs=knobs), values=latency(0.32, 500.0))
        found = Speed(speed.folder, speed.config)
        assert (found.record(one["sta/paper"], "latency") is not None) == counts


def test_a_changed_record_is_refused(speed, capsys):
    cell = cells(speed, "hunyuanvideo/table1")["dense/paper"]
    put(speed, "latency", cell, values=latency(1.0, 1000.0))
    path = speed.folder / "records" / cell.path / "latency.json"
    path.write_text(path.read_text().replace("1000.0", "900.0"))
    words = ["--speed-folder", str(speed.folder), "--speed-config", str(speed.config), "--out", str(speed.folder)]
    assert main(["table1_speed", *words]) == 2
    said = capsys.readouterr().err.strip()
    assert "seal" in said and "\n" not in said


def test_an_audit_that_disagrees_is_said_below_the_table(speed):
    one = cells(filled(speed), "hunyuanvideo/table1")
    audited(speed, one["dense/paper"], 1.01)
    audited(speed, one["sta/paper"], 1.2)
    said = next(words for words in table1_speed.table(speed).remarks if words.startswith("Audit"))
    assert "2 of these cells were measured anew, 1 agree within 5 %, the farthest by 1.0%" in said
    assert "The others do not: HunyuanVideo 117f STA at the paper setting: attention call 1.200" in said


def audited(speed, cell, ratio: float) -> str:
    """Writes a cell's attention call and an audit of it. Returns the seal of the call's record."""
    put(speed, "attention", cell, values={"call_s": 1.0})
    sealed = read_record(speed.folder / "records" / cell.path / "attention.json")["seal"]
    off = abs(ratio - 1) > 0.05
    details = {"audited": {"attention": sealed}, "ratios": {"attention": ratio}, "off": ["attention"] * off}
    outcome = {"status": "incorrect", "reason": f"attention call {ratio:.3f}"} if off else {"values": {"ratio": ratio}}
    put(speed, "audit", cell, details=details, **outcome)
    return sealed


def test_what_stands_on_a_call_that_an_audit_did_not_find_again_is_incorrect(speed):
    one = cells(filled(speed), "hunyuanvideo/table1")
    sealed = audited(speed, one["sta/paper"], 1.2)
    put(speed, "latency", one["sta/paper"], values=latency(0.4, 500.0), details={"records": {"own_attention": sealed}})
    found = groups(table1_speed.table(speed))
    shown = found["table1", "sta", "paper"][0]["latency_s"]
    assert (shown.text, shown.value) == ("incorrect", None)
    assert "The audit of hunyuanvideo/table1 sta/paper (attention) found 1.200 times its time" in shown.reason
    assert found["table1", "radial", "authors"][0]["latency_s"].value == 520.0  # stands on other records
    assert speed.passed(one["sta/paper"], "latency") == speed.passed(one["sta/paper"], "attention") == {}


def test_an_audit_of_a_record_that_was_measured_anew_since_is_not_shown(speed):
    one = cells(filled(speed), "hunyuanvideo/table1")
    sealed = audited(speed, one["sta/paper"], 1.2)
    put(speed, "latency", one["sta/paper"], values=latency(0.4, 500.0), details={"records": {"own_attention": sealed}})
    put(speed, "attention", one["sta/paper"], values={"call_s": 1.1})
    assert audits_of(speed) == []
    audited(speed, one["sta/paper"], 1.2)
    assert len(audits_of(speed)) == 1
    put(speed, "audit", one["sta/paper"], "incorrect", reason="of before audits named what they are of")
    assert audits_of(speed) == []
    audited(speed, one["sta/paper"], 1.2)
    other = SpeedCell(**(one["sta/paper"].settings() | {"dense_steps": 3}))
    audited(speed, other, 1.2)
    assert audits_of(speed) == []
    assert groups(table1_speed.table(speed))["table1", "sta", "paper"][0]["latency_s"].value == 500.0


def audits_of(speed) -> list:
    """The audits that tables show of Table 1's cells."""
    fresh = Speed(speed.folder, speed.config)
    return fresh.audits(fresh.stages["hunyuanvideo/table1"])


def test_a_whole_run_that_did_not_pass_is_said_below_the_table(speed):
    one = cells(filled(speed), "hunyuanvideo/table1")
    put(speed, "whole_run", one["radial/paper"], "incorrect", reason="steps x medians is -7.7% off a whole run")
    said = next(words for words in table1_speed.table(speed).remarks if "in one go" in words)
    assert said.startswith("All 50 steps in one go did not pass: HunyuanVideo 117f Radial")
    assert said.endswith("at the paper setting: steps x medians is -7.7% off a whole run.")


def test_linear_attention_has_no_density(speed):
    cell = cells(speed, "hunyuanvideo/table1")["sana/paper"]
    values = {name: value for name, value in latency(0.001, 400.0).items() if name != "block_sparsity"}
    put(speed, "latency", cell, values=values)
    shown = groups(table1_speed.table(speed))["table1", "sana", "paper"][0]["density"]
    assert (shown.text, shown.value) == ("no mask", None)


def test_a_dense_step_from_parts_stands_beside_the_whole_one(speed):
    cell = cells(speed, "hunyuanvideo/table1")["sta/paper"]
    source = {"source": {"dense": "parts", "sparse": "parts"}}
    put(speed, "latency", cell, values=latency(0.4, 500.0, step_dense_whole_s=21.5), details=source)
    shown = groups(table1_speed.table(speed))["table1", "sta", "paper"][0]["latency_s"]
    assert "a dense step put together likewise, 20.0 s; a whole one takes 21.5 s" in " ".join(shown.notes)


def test_what_is_put_together_names_the_whole_steps_that_it_was_held_against(speed):
    one = cells(speed, "hunyuanvideo/table1")
    source = {"source": {"dense": "parts", "sparse": "parts"}}
    put(speed, "latency", one["sta/paper"], values=latency(0.4, 500.0), details=source)
    put(speed, "latency", one["dense/paper"], values=latency(1.0, 1000.0, agreement=-0.011))
    notes = groups(table1_speed.table(speed))["table1", "sta", "paper"][0]["latency_s"].notes
    assert "at the same shape (Dense), the two differ by at most 1.1%" in " ".join(notes)


def test_checks_that_were_not_made_are_said_below_the_table(tmp_path):
    path = tmp_path / "speed.yaml"
    path.write_text(
        CONFIG.replace("      whole: [radial/authors]", "      whole: [radial/authors]\n      run: radial/paper")
    )
    speed = Speed(tmp_path / "results", path)

    def unmade() -> str:
        table = table1_speed.table(Speed(speed.folder, path))
        return next((words for words in table.remarks if words.startswith("Checks that are not made yet")), "")

    assert unmade().endswith(
        "yet: all steps in one go (HunyuanVideo 117f); measuring some of these cells anew (the audit)."
    )
    one = cells(filled(speed), "hunyuanvideo/table1")
    put(speed, "whole_run", one["radial/paper"], values={"generation_whole_s": 1.0, "agreement": 0.01})
    assert "in one go" not in unmade()
    audited(speed, one["dense/paper"], 1.0)
    assert unmade() == ""


def test_a_time_from_few_blocks_is_told_from_one_of_all(speed):
    stage = cells(filled(speed), "hunyuanvideo/table1")["dense/paper"].of_stage()
    values = {"outside_s": 4.0, "outside_unfused_s": 7.0, "fused_error": 1e-3}

    def shown() -> tuple[str, str]:
        fresh = Speed(speed.folder, speed.config)
        line = table_outside.table(fresh).blocks[0].groups[0].ours.entries["outside_s"]
        dense = next(group for group in table1_speed.table(fresh).blocks[0].groups if group.facts["method"] == "dense")
        return " ".join(line.notes), " ".join(dense.notes)

    put(speed, "outside", stage, values=values)
    assert not any("few blocks" in words for words in shown())
    put(speed, "outside", stage, values=values, details={"by_blocks": "CUDA out of memory"})
    assert all("few blocks" in words for words in shown())


def test_times_of_before_the_gpu_had_settled_are_told(speed):
    stage = cells(filled(speed), "hunyuanvideo/4x")["dense/paper"].of_stage()
    for details, told in (({}, True), ({"settled": True}, False)):
        put(speed, "lora_outside", stage, values={"outside_s": 100.0}, details=details)
        remarks = table2_speed.table(Speed(speed.folder, speed.config)).remarks
        assert any("before the GPU's clock had settled" in words for words in remarks) == told


def test_the_number_of_cards_is_told(speed):
    found = cells(filled(speed), "hunyuanvideo/table1")
    for key, card in (("sta/paper", "GPU-1"), ("dense/paper", "GPU-2")):
        put(speed, "latency", found[key], values=latency(0.4, 500.0), device=DEVICE | {"uuid": card})
    assert "Measured on Some GPU, 2 cards and, of " in " ".join(table1_speed.table(speed).remarks)


def test_two_gpus_are_refused(speed):
    found = cells(filled(speed), "hunyuanvideo/table1")
    put(speed, "latency", found["sta/paper"], values=latency(0.4, 500.0), device=DEVICE | {"name": "Another GPU"})
    with pytest.raises(ValueError, match="Another GPU and Some GPU"):
        table1_speed.table(Speed(speed.folder, speed.config))


def test_a_method_without_a_file_is_left_out_and_said_so(tmp_path):
    path = tmp_path / "speed.yaml"
    path.write_text(CONFIG.replace("[dense, sta,", "[dense, gone,").replace("[radial/paper]", "[gone/paper]"))
    text = path.read_text().replace("methods: [dense, radial]", "methods: [dense, gone]")
    path.write_text(text.replace("density: 0.32\n", "density: 0.32\n      knobs: {gone: {decay: 0.5}}\n", 1))
    for module in (table1_speed, table2_speed):
        table = module.table(Speed(tmp_path, path))
        assert "Left out, since there is no such file in methods/: gone." in table.remarks
        assert {key[1] for key in groups(table)} <= {"dense", "radial", "sana"}


def test_what_a_target_reads_is_asked_for(tmp_path, capsys):
    assert main(["table1_speed", "--experiment-folder", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "--speed-folder is needed" in capsys.readouterr().err
    assert main(["table1", "--speed-folder", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "--experiment-folder is needed" in capsys.readouterr().err


def test_a_kernel_that_fails_its_check_has_no_time(speed):
    from benchmark.kernels_bench import Shape

    shape = Shape("hunyuanvideo", 117, 768, 1280, 256, 128, 24, 128, 115456)
    good = {"method": "dense", "knobs": {}, "kernel": "flash4", "status": "passed", "reason": None, "density": 1.0}
    values = {"forward_s": 0.232, "forward_tflops": 702.0, "forward_matmul_share": 0.915, "forward_dense_share": 1.0}
    good |= {"values": values, "errors": {"out": 2.2e-3}}
    bad = good | {"kernel": "flex", "status": "incorrect", "reason": "out 3e-01 > 5e-03"}
    planning = [{"method": "dense", "seconds": 0.1, "lists_seconds": 0.02, "peak_mib": 50.0, "lists_peak_mib": 80.0}]
    gone = good | {"kernel": "flash4:descending"}
    details = {"entries": [good, bad, gone], "planning": planning, "gpu": STATE, "packages": {"flash-attn-4": "4.0"}}
    details |= {"options": {"repeat": 10, "warmup": 2}}
    hashes = {"method.dense": "f" * 64}
    record = make_record(
        "kernels", shape, "passed", {"matmul_tflops": 767.0}, details=details, hashes=hashes, device=DEVICE
    )
    write_json(speed.folder / "kernels" / "hunyuanvideo-table1.json", record)
    table = table_kernels.table(speed)
    one, other, _ = (group.ours.entries for group in table.blocks[0].groups)
    former, gone = table_kernels.FORMER_METHOD.format(method="dense"), table_kernels.FORMER_VARIANT
    assert [group.ours.notes for group in table.blocks[0].groups] == [(former,), (former,), (former, gone)]
    assert "medians of 10 calls after 2" in table.blocks[0].heading
    assert (one["forward_ms"].text, one["forward_tflops"].text, one["error"].text) == ("232", "702", "2.2e-03")
    assert (one["planning_s"].text, one["planning_mib"].text) == ("0.120", "80")
    assert one["planning_s"].notes == (table_kernels.FORMER_LISTS,)  # a record of before lists were the kernel's own
    assert other["forward_ms"].text == "incorrect" and all(entry.value is None for entry in other.values())
    assert "767 TFLOP/s" in to_markdown(table) and "flash-attn-4 4.0" in to_markdown(table)


def kernel_line(**more) -> dict:
    """The entries of a kernel that passed its forward check, as the table shows them."""
    entry = {"method": "radial", "knobs": {}, "kernel": "flash4", "status": "passed", "reason": None, "density": 0.1}
    entry |= {"values": {"forward_s": 0.2}, "errors": {"out": 2e-3}} | more
    return table_kernels.ours(entry, {"radial": {"method": "radial", "seconds": 0.1, "peak_mib": 50.0}})


def test_the_error_of_a_kernel_is_the_largest_of_its_gradients_too():
    training = {"status": "passed", "reason": None, "errors": {"out": 2e-3, "dq": 4e-3, "dk": 3e-3}}
    assert kernel_line(training=training)["error"].text == "4.0e-03"
    assert kernel_line()["error"].text == "2.0e-03"


def test_a_training_check_that_fails_is_said_where_its_time_would_stand():
    found = kernel_line(training={"status": "incorrect", "reason": "dv 3e-01 > 5e-03"})
    assert (found["training_ms"].text, found["training_ms"].reason) == ("incorrect", "Dv 3e-01 > 5e-03.")
    assert found["forward_ms"].value == pytest.approx(200.0)


def test_the_table_says_what_computed_a_kernel_of_pytorch():
    shown = {}
    for name, more in (("sdpa", {"backends": ["CUDNN_ATTENTION"]}), ("sdpa:flash", {"backends": ["FLASH_ATTENTION"]})):
        shown[name] = table_kernels._kernel({"kernel": name} | more)
    assert shown == {"sdpa": "sdpa (cudnn)", "sdpa:flash": "sdpa:flash"}
    assert table_kernels._kernel({"kernel": "sdpa"}) == "sdpa"


def test_planning_is_of_the_mask_and_of_the_kernels_own_lists():
    found = kernel_line(lists={"seconds": 0.02, "peak_mib": 80.0})
    assert (found["planning_s"].text, found["planning_mib"].text) == ("0.120", "80")
    assert kernel_line()["planning_s"].text == "0.100" and not found["planning_s"].notes


def operations(folder):
    """Plans of dense and radial at Figure 2's lengths."""
    plan = {"model": "hunyuanvideo", "height": 720, "width": 1280, "block": 128}
    plans = [
        plan | {"frames": frames, "method": method, "attention_pflop_pass": pflop * frames / 100}
        for frames, dense in ((125, 5.0), (253, 20.0), (509, 80.0))
        for method, pflop in (("dense", dense), ("radial", 4.0))
    ]
    folder.mkdir(exist_ok=True)
    (folder / "operations.json").write_text(json.dumps({"plans": plans}))


def test_figures_are_drawn_with_and_without_records(speed, tmp_path):
    def draw(target, folder):
        words = ["--experiment-folder", str(folder), "--speed-folder", str(folder), "--speed-config", str(speed.config)]
        assert main([target, *words, "--out", str(tmp_path / "out")]) == 0
        return (tmp_path / "out" / f"{target}.png").read_bytes(), (tmp_path / "out" / f"{target}.pdf").read_bytes()

    filled(speed)
    for name in ("results", "none"):
        operations(tmp_path / name)
    assert draw("figure2", tmp_path / "none") != draw("figure2", tmp_path / "results")
    for target, folder in (("figure_speedup", "results"), ("figure_scaling", "results")):
        picture, pdf = draw(target, tmp_path / folder)
        assert int.from_bytes(picture[16:20], "big") == 1400  # 7 inches of 200 dots
        assert b"/FontFile2" in pdf and b"/Type3" not in pdf


def test_figures_show_the_records(speed):
    filled(speed)
    own = figure2.measured(speed, "latency", "generation_s")
    assert own == {"dense": {253: 6000.0, 509: 11200.0}, "radial": {253: 1500.0, 509: 2800.0}}
    assert figure2.printed(table2_speed.gpu_seconds)["dense"] == {125: 1800.0, 253: 6376.0, 509: 23160.0}
    assert figure2.printed(table2_speed.step_seconds)["radial"][509] == pytest.approx(21.4 * 8 * 3600 / 1200)
    # Points may be of a whole dense step and of parts; a ratio never divides the one by the other.
    long = cells(speed, "hunyuanvideo/4x")
    put(speed, "latency", long["radial/paper"], values=latency(0.1, 2800.0, 11200.0) | {"speedup": 3.2})
    with styled():
        figure = Figure()
        axes = figure.subplots()
        figure2.latency_panel(axes, None, Speed(speed.folder, speed.config))
    assert any(text.get_text().startswith("3.2×") for text in axes.texts)
    found = {(point.method, point.ideal): point for point in figure_speedup.points(speed)}
    assert found["radial", 4.0].kernel == pytest.approx(4.0)
    assert found["radial", 4.0].generation == pytest.approx(1000 / 520)
    assert not any(method in ("dense", "sana") for method, _ in found)


def test_latex_is_balanced(speed, tmp_path):
    for module in (table1_speed, table2_speed):
        text = next(path for path in write(module.table(filled(speed)), tmp_path) if path.suffix == ".tex").read_text()
        assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
