"""Tables 1 and 2 and Figure 8 of the trained testbed: numbers with intervals, and sentences that follow from them."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import synthetic

from benchmark.records import make_record, write_json
from paper_figures import (
    answers,
    entries,
    figure8,
    intervals,
    published,
    table1_testbed,
    table2_testbed,
    testbed,
    testbed_entries,
)
from paper_figures.experiment import CellRows, Experiment
from paper_figures.intervals import Comparison, Interval
from paper_figures.table1_testbed import Part
from paper_figures.tables import footnotes
from paper_figures.testbed_entries import Numbers, clip_values

CLIPS = 20
JUDGE = "Vision reward is that of the testbed's own judge."
MASKS = {"radial": 0.6, "svg": 0.4, "spatial": -0.5, "pa": -1.0, "sta": -1.5, "random": -3.0}
"""Made-up dB above 22 for each mask."""
REWARDS = {
    ("dense", "untuned"): 0.3, ("riflex", "untuned"): 0.32, ("dense", "lora"): 0.80, ("radial", "lora"): 0.805,
    ("pa", "lora"): 0.7, ("sana", "lora"): -0.4, ("dense", "full"): 0.82, ("radial", "full"): 0.81,
}  # fmt: skip
"""Made-up rewards at longer lengths."""
VARIANTS = {
    "b50": {"for": ["table1"]},
    "b30": {"for": ["table1"]},
    "b50-seed8": {"for": ["table1"]},
    "x4-untuned": {"for": ["table2"]},
    "x4-tuned": {"for": ["table2", "figure8"]},
    "x4-full": {"for": ["figure8"]},
}


def cell(method, length="1x", **changes):
    sparse = method in MASKS
    settings = {"clips": CLIPS, "steps": 25, "dense_steps": 6, "block": 8, "budget": 0.5 if sparse else None}
    return synthetic.cell(method, length, **(settings | changes))


def tuned(method, kind, length="4x"):
    settings = {"kind": kind, "rank": 16, "steps": 500, "batch": 8}
    return cell(
        method, length, dense_steps=2, variant="x4-tuned" if kind == "lora" else "x4-full", tuned=True,
        tuning_settings=settings,
    )  # fmt: skip


def clip_numbers(of, effects):
    """What each clip measured: a part that all methods share, the method's own, and noise."""
    kind = of.tuning_settings.get("kind", "lora" if of.merged else "untuned")
    words = synthetic.digest(of.method, of.variant, of.seed)
    shared, noise = np.random.default_rng(of.seed), np.random.default_rng(int(words[:8], 16))
    found = []
    for n in range(of.clips):
        base, quality = shared.normal(0, 2), shared.normal(0, 0.1)
        effect = 25 if of.method == "dense_repeated" else effects.get(of.method, 0.0)
        reward = 0.7 + effect / 50 if of.length == "1x" else REWARDS.get((of.method, kind), 0.5)
        same = of.method == "dense" and not of.tuned
        values = {
            "psnr": 100.0 if same else 22 + base + effect + noise.normal(0, 0.3),
            "ssim": 1.0 if same else 0.7 + effect / 50 + base / 50 + noise.normal(0, 0.005),
            "lpips_untrained": 0.0 if same else 0.1 - effect / 300,
            "vision_reward": reward + quality + noise.normal(0, 0.01),
            "adherence": 0.75 if n % 3 else 1.0,
            "persistence": 0.9 + noise.uniform(0, 0.1),
            "motion_repetition": 0.1 + noise.uniform(0, 0.1),
            "flicker": 0.5 + noise.uniform(0, 0.1),
        }
        if n % 4:
            values["trajectory_error"] = 1 + noise.uniform(0, 0.5)
        found.append(values)
    return found


def write(folder, of, effects=MASKS):
    """The records of a cell. Returns their paths."""
    numbers = clip_numbers(of, effects)
    keys = list(dict.fromkeys(key for values in numbers for key in values))
    means = {  # as measure does: of what every clip tells
        key: float(np.mean([values[key] for values in numbers])) for key in keys if all(key in one for one in numbers)
    }
    metrics = {
        "psnr": ["psnr"], "ssim": ["ssim"], "lpips": ["lpips_untrained"], "vision_reward": ["vision_reward"],
        "adherence": ["adherence"],
        "length_effects": ["persistence", "motion_repetition", "flicker"],
    }  # fmt: skip
    parts = {"vision_reward": {"colours": 0.5, "speeds": -0.75, "stay": 1.0}}
    if of.tuned:
        parts["vision_reward"] |= {"colours": 0.25 if of.method == "dense" else 0.1, "speeds": -0.25, "no_blocks": 1.0}
    notes = {"lpips": [synthetic.UNTRAINED_NOTE], "vision_reward": [JUDGE]}
    stated = {
        name: {"status": "passed", "flags": {}, "columns": columns, "footnotes": notes.get(name, [])}
        for name, columns in metrics.items()
    }
    inputs = {name: synthetic.digest(name, of.length, of.seed) for name in ("noise", "prompts")}
    own = synthetic.digest(str(of.path))
    names = [f"{n:03d}.mkv" for n in range(of.clips)]
    made = [{"name": name, "prompt": "p", "seed": n, "sha256": own} for n, name in enumerate(names)]
    generated = synthetic.generate_record(of, made)
    weights = {"weights": own} if of.tuned else {}
    generated["provenance"]["hashes"] |= inputs | weights | {"clips": own}
    if of.method == "dense_repeated":
        generated["values"]["density"] = 1.0
    measured = synthetic.measure_record(
        of,
        values=means,
        clips=[{"name": name, "values": values, "flags": {}} for name, values in zip(names, numbers, strict=True)],
        details={"metrics": stated, "provenance": {"vision_reward_judge": "testbed"}, "parts": parts},
        hashes=inputs | {"reference": synthetic.digest("dense"), "candidate": own},
    )
    records = {"generate": generated, "measure": measured}
    if of.tuned and not of.merged:
        values = {"tuning_s": 123.0, "peak_memory_gib": 3.25, "final_loss": 0.04}
        records["tune"] = make_record("tune", of, "passed", values, device=synthetic.DEVICE)
    for kind, record in records.items():
        write_json(synthetic.path_of(folder, of, kind), record)
    return [synthetic.path_of(folder, of, kind) for kind in records]


def cells():
    """All cells of the made-up experiment, with their effects on PSNR."""
    found = [(cell("dense", length), MASKS) for length in ("1x", "4x")]
    found.append((cell("dense", seed=8, variant="seed8"), MASKS))
    for method in (*MASKS, "dense_repeated"):
        found.append((cell(method, variant="b50"), MASKS))
    turned = MASKS | {"radial": -1.2, "svg": -1.5, "spatial": -4.0}
    for method in MASKS:
        found.append((cell(method, variant="b30", budget=0.3, dense_steps=0), turned))
    for method in ("radial", "svg", "sta"):
        found.append((cell(method, variant="b50-seed8", seed=8), MASKS))
    found.append((cell("riflex", "4x", variant="x4-untuned", dense_steps=2), MASKS))
    found += [(tuned(method, kind), MASKS) for method, kind in REWARDS if kind != "untuned"]
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The experiment's records, and both tables of them."""
    folder = tmp_path_factory.mktemp("testbed")
    paths = [path for of, effects in cells() for path in write(folder, of, effects)]
    source = testbed.Testbed(Experiment(folder, synthetic.collected(folder, paths)), {"variants": VARIANTS})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "RESAMPLES", 199)  # quick, and wide enough for what is asked here
        one, two = table1_testbed.table(source), table2_testbed.table(source)
    return source, one, two


def csv_rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def find(table, heading, label, source=None):
    """The group of a method in the block whose heading has some words."""
    block = next(block for block in table.blocks if heading in block.heading)
    return next(group for group in block.groups if group.label == label and source in (None, group.ours.source))


def plain(sentence):
    return sentence.replace("\N{NO-BREAK SPACE}", " ")


def remarks(table):
    return [plain(remark) for remark in table.remarks]


def test_a_block_for_each_variant_with_the_dense_clips_of_its_seed_first(made):
    _, one, _ = made
    told = [re.search(r"of which (\d) dense.*budget ([\d.]+), seed (\d)", block.heading) for block in one.blocks]
    assert [found.groups() for found in told] == [("6", "0.5", "7"), ("0", "0.3", "7"), ("6", "0.5", "8")]
    assert [block.groups[0].label for block in one.blocks] == ["Dense"] * 3
    assert [block.groups[0].facts["seed"] for block in one.blocks] == [7, 7, 8]
    assert find(one, "seed 8", "Dense").ours.entries["psnr"].text == "reference"
    assert [group.facts["method"] for group in one.blocks[2].groups] == ["dense", "sta", "svg", "radial"]


def test_numbers_are_the_records_own_with_intervals_over_the_clips(made):
    source, one, _ = made
    of = next(cell for cell in source.cells("table1") if (cell.variant, cell.method) == ("b50", "svg"))
    values = list(clip_values(source.experiment, of)["psnr"].values())
    entry = find(one, "budget 0.5, seed 7", "SVG").ours.entries["psnr"]
    assert len(values) == CLIPS and entry.value == pytest.approx(np.mean(values))
    assert entry.more["low"] < entry.value < entry.more["high"]
    half = 1.96 * np.std(values, ddof=1) / CLIPS**0.5
    assert entry.more["high"] - entry.more["low"] == pytest.approx(2 * half, rel=0.3)
    shown = f"{entry.value:.2f} [{entry.more['low']:.2f}, {entry.more['high']:.2f}]"
    assert plain(entry.text) == shown


def test_differences_to_radial_are_paired_and_marked(made):
    source, one, _ = made
    held = {cell.method: cell for cell in source.cells("table1") if cell.variant == "b50"}
    ours, theirs = (clip_values(source.experiment, held[method])["psnr"] for method in ("sta", "radial"))
    sta = find(one, "budget 0.5, seed 7", "STA")
    (below,) = sta.below
    assert below.source == "Δ to radial" and below.entries["psnr"].text.endswith("‡")
    mean = np.mean([ours[name] - theirs[name] for name in ours])
    more = sta.ours.entries["psnr"].more
    assert more["difference"] == pytest.approx(mean) and more["difference_p"] < 0.05
    assert more["difference_high"] - more["difference_low"] < 0.5 * (more["high"] - more["low"])
    assert find(one, "budget 0.5, seed 7", "Radial").below == ()
    # A distance to oneself is no quality, but reward and adherence can be compared.
    dense = find(one, "budget 0.5, seed 7", "Dense").below[0].entries
    assert "psnr" not in dense and "vision_reward" in dense
    assert "‡" not in find(one, "budget 0.5, seed 7", "SVG").below[0].entries["adherence"].text


def test_the_judge_is_named_and_the_untrained_lpips_says_what_it_is(made):
    for table in made[1:]:
        column = next(column for column in table.columns if column.key == "vision_reward")
        assert column.heading == "Vision reward, judge testbed" and column.note == JUDGE
    keys = [column.key for column in made[1].columns]
    assert keys == ["psnr", "ssim", "lpips_untrained", "vision_reward", "adherence", "density", "pflop"]
    assert next(iter(footnotes(made[1]).items()))[1] == "†"
    assert next(iter(footnotes(made[1]))).startswith("lpips_untrained is not LPIPS")
    # It ranks no method, so it is in no comparison, and the others are not corrected for it.
    for group in (group for block in made[1].blocks for group in block.groups):
        assert "difference_p" not in group.ours.entries["lpips_untrained"].more
        assert all("lpips_untrained" not in line.entries for line in group.below)


def test_the_noise_floor_and_the_published_lines(made):
    _, one, _ = made
    floor = find(one, "budget 0.5, seed 7", "Dense, repeated (control)")
    assert floor.notes == (table1_testbed.FLOOR_NOTE,)
    assert any(remark.startswith("Noise floor of testbed-nano at 1x: PSNR 4") for remark in remarks(one))
    radial = find(one, "budget 0.5, seed 7", "Radial")
    assert [line.entries["psnr"].text for line in radial.published] == ["27.3", "23.9"]


def test_the_floor_names_the_control_s_kernel_where_it_is_another():
    dense, control = bare("dense"), bare("dense_repeated")
    for cell, kernel in ((dense, "gathered"), (control, "gathered")):
        cell.rows[0]["kernel"] = kernel
    assert "sums in another order, held against" in entries.noise_floor([dense, control])[1]
    control.rows[0]["kernel"] = "flex"
    assert "sums in another order and by another kernel (flex), held" in entries.noise_floor([dense, control])[1]


def test_what_came_out_of_the_ranking_is_said_for_each_block(made):
    said = remarks(made[1])
    assert said[0].startswith(
        "The ranking of the paper's Table 1 (radial and svg ahead of pa and sta in PSNR at an equal"
    )
    assert said[0].endswith("is reproduced in 1 of 2 settings in which all of it was measured.")
    (families,) = [remark for remark in said if remark.startswith("The pairs of the ranking are the paper's own")]
    assert families.endswith("Corrected with all of them, the ranking is reproduced in 1 of 2 settings.")
    assert said[1] == "random comes last of the masks by PSNR in 1 of 2 settings in which all of it was measured."
    assert said[3].startswith("The order of methods is the same with another seed in 1 of 1 settings")
    at = {remark.partition(": ")[0]: remark for remark in reversed(said) if remark.startswith("At budget")}
    first = at["At budget 0.5, 6 of 25 steps dense, seed 7"]
    assert ": reproduced. In PSNR radial is ahead of pa by 1." in first
    assert "Densities: radial 0." in first
    second = at["At budget 0.3, 0 of 25 steps dense, seed 7"]
    assert ": reproduced in part. " in second and "svg is behind pa by 0." in second
    assert "(pa has no PSNR here)" in at["At budget 0.5, 6 of 25 steps dense, seed 8"]


def test_who_is_below_the_control_is_named(made):
    said = [remark for remark in remarks(made[1]) if "by mean PSNR random" in remark]
    assert len(said) == 2 and sum("by mean SSIM random" in remark for remark in remarks(made[1])) == 2
    assert "random comes last of the 6 masks; the nearest, sta is ahead of random by 1." in said[0]
    assert "random does not come last of the masks: spatial is behind random by " in said[1]
    assert "Densities: spatial 0." in said[1]


def test_methods_without_a_density_to_set_are_named(made):
    told = "Without a density to set: dense_repeated. They stand in the first block that their clips are right for."
    assert told in made[1].remarks


def test_whether_the_seeds_agree(made):
    (told,) = [remark for remark in remarks(made[1]) if remark.startswith("Seeds")]
    assert told.startswith("Seeds 7 and 8 (budget 0.5, 6 of 25 steps dense): the same order of methods by mean PSNR")
    assert re.search(r"seed 8: radial [\d.]+ \[.*\] > svg .* > sta ", told)
    assert told.endswith("What is significant of the paper's ranking is the same.")


def test_the_files_have_every_number(made, tmp_path):
    source, one, two = made
    from paper_figures.tables import write as write_table

    for table in (one, two):
        paths = write_table(table, tmp_path)
        assert [path.suffix for path in paths] == [".csv", ".md", ".tex"]
        text = paths[1].read_text()
        body, notes = [], set()
        for line in text.splitlines():
            if found := re.match(r"<sup>(\S+?)</sup> ", line):
                notes.add(found[1])
            else:
                body += re.findall(r"<sup>(.*?)</sup>", line)
        assert {mark for marks in body for mark in marks.split(",")} == notes
        latex = paths[2].read_text()
        assert latex.count("{") - latex.count("\\{") == latex.count("}") - latex.count("\\}")
        assert not any(sign in latex for sign in "Δ‡−\N{NO-BREAK SPACE}")
    rows = csv_rows(tmp_path / "table1_testbed.csv")
    row = next(row for row in rows if (row["variant"], row["method"]) == ("b50", "sta"))
    assert float(row["psnr_low"]) < float(row["psnr"]) < float(row["psnr_high"])
    assert float(row["psnr_difference"]) < -1.5 and 0 < float(row["psnr_difference_p"]) < 0.05
    assert row["psnr_published_HunyuanVideo"] == "26.7" and "density_low" not in row
    markdown = plain((tmp_path / "table1_testbed.md").read_text())
    assert re.search(r"\|  \| Δ to radial \| −2\.\d\d \[−2\.\d\d, −\d\.\d\d\] ‡ \|", markdown)


# --- The sentences, from made-up comparisons ---------------------------------------------------------------------


def bare(method, variant="b50", seed=7, tuning="untuned", length="1x"):
    """A cell with just the facts that sentences need."""
    facts = {
        "budget": 0.5, "steps": 25, "dense_steps": 6, "dense_layers": 0, "seed": seed, "frames": 16, "density": 0.5,
        "operator": "softmax", "metric": "density", "status": "passed", "value": 0.5, "kind": "generate",
    }  # fmt: skip
    return CellRows("testbed-nano", length, method, tuning, [facts], variant)


def part_of(methods, seed=7, variant="b50"):
    return Part(variant, tuple(bare(method, variant, seed) for method in methods), None)


def numbers_of(parts, means, significant=True, metric="psnr"):
    """Numbers in which every pair differs by the means' difference."""
    cells = [cell for part in parts for cell in part.all]
    clips = {cell.path: {metric: {n: means[cell.method] for n in "ab"}} for cell in cells if cell.method in means}
    compared = {}
    for one in cells:
        for two in cells:
            if one.method in means and two.method in means:
                gap = means[one.method] - means[two.method]
                held = Interval(gap, gap - 0.1, gap + 0.1, 2)
                compared[one.path, two.path, metric] = Comparison(held, 0.001 if significant and gap else 1.0)
    return Numbers(clips, compared, compared)


@pytest.mark.parametrize(
    ("means", "significant", "outcome", "words"),
    [
        ({"radial": 5, "svg": 4, "pa": 3, "sta": 2, "random": 1}, True, True, "seed 7: reproduced. "),
        ({"radial": 5, "svg": 2, "pa": 3, "sta": 1, "random": 0}, True, False, "reproduced in part"),
        ({"radial": 1, "svg": 2, "pa": 3, "sta": 4, "random": 0}, True, False, "not reproduced"),
        (
            {"radial": 5, "svg": 4, "pa": 3, "sta": 2, "random": 1},
            False,
            False,
            "radial cannot be told from pa (+2.00 dB",
        ),
        ({"radial": 5, "svg": 4, "sta": 2, "random": 1}, True, None, "(pa has no PSNR here)"),
        ({"random": 1}, True, None, "not judged, for radial and svg and pa and sta have no PSNR here"),
    ],
)
def test_the_ranking_is_said_as_it_came_out(means, significant, outcome, words):
    part = part_of(["radial", "svg", "pa", "sta", "random"])
    claim = table1_testbed.ranking(numbers_of([part], means, significant), part)
    assert claim.held is outcome and words in plain(claim.sentence)


def test_the_papers_own_numbers_have_the_ranking_that_is_asked_for():
    for model in {row.model for row in published.rows("table1")}:
        psnr = {row.method: row.number("psnr") for row in published.rows("table1") if row.model == model}
        assert min(psnr[method] for method in table1_testbed.AHEAD) > max(psnr[m] for m in table1_testbed.BEHIND)


def test_a_mask_that_is_above_the_control_by_chance_is_named():
    part = part_of(["radial", "pa", "random"])
    means = {"radial": 5, "pa": 1.01, "random": 1}
    held = numbers_of([part], means)
    near = (part.find("pa").path, part.find("random").path, "psnr")
    held = replace(held, compared=held.compared | {near: Comparison(Interval(0.01, -0.1, 0.2, 2), 0.9)})
    (claim,) = table1_testbed.last(held, part, "psnr")
    assert claim.held is True
    assert "random comes last of the 3 masks; the nearest, pa cannot be told from random" in claim.sentence
    assert claim.sentence.endswith("Above it by mean but not significantly: pa.")
    assert table1_testbed.last(held, part_of(["radial"]), "psnr") == []


def test_the_papers_pairs_are_corrected_among_themselves(made):
    source = made[0]
    blocks = table1_testbed.parts(source)
    held = table1_testbed.numbers(source, blocks, table1_testbed.columns(source, [c for b in blocks for c in b.all]))
    block = blocks[0]
    assert {pair[:2] for pair in held.claims} >= {(a.path, b.path) for a, b in table1_testbed.ranked(block)}
    assert held.claims.keys() <= held.compared.keys() | {(b, a, m) for a, b, m in held.compared}
    assert len(held.claims) < len(held.compared) and {metric for _, _, metric in held.claims} == {"psnr"}
    both = [pair for pair in held.claims if pair in held.compared or (pair[1], pair[0], pair[2]) in held.compared]
    cells = {cell.path: cell for part in blocks for cell in part.all}
    assert both
    for ours, theirs, metric in both:
        alone = held.claimed(cells[ours], cells[theirs], metric)
        with_all = held.difference(cells[ours], cells[theirs], metric)
        assert alone.difference.low == pytest.approx(with_all.difference.low) and alone.p <= with_all.p


def test_seeds_that_disagree_are_told():
    first, second = part_of(["radial", "svg", "sta"]), part_of(["radial", "svg", "sta"], 8, "b50-seed8")
    one = numbers_of([first], {"radial": 3, "svg": 2, "sta": 1})
    two = numbers_of([second], {"radial": 1, "svg": 3, "sta": 2})
    held = Numbers({**one.clips, **two.clips}, {}, {**one.claims, **two.claims})
    (claim,) = table1_testbed.seeds(held, [first, second])
    assert claim.held is False and "another order of methods by mean PSNR" in claim.sentence
    assert claim.sentence.endswith("is not the same for radial against sta.")
    other = part_of(["radial", "svg"], 8, "b30")
    other = replace(other, cells=tuple(replace(cell, rows=[cell.rows[0] | {"budget": 0.3}]) for cell in other.cells))
    assert table1_testbed.seeds(held, [first, other]) == []


# --- Table 2 -----------------------------------------------------------------------------------------------------


def test_longer_clips_stand_in_the_order_untuned_lora_full(made):
    _, _, two = made
    assert [re.search(r"at (\dx)", block.heading)[1] for block in two.blocks] == ["1x", "4x"]
    rows = [(group.label, group.ours.source) for group in two.blocks[1].groups]
    assert rows == [
        ("Dense", "ours, untuned"), ("RIFLEx", "ours, untuned"), ("Full (dense)", "ours, LoRA"),
        ("PA", "ours, LoRA"), ("SANA", "ours, LoRA"), ("Radial", "ours, LoRA"),
        ("Dense", "ours, all weights tuned"), ("Radial", "ours, all weights tuned"),
    ]  # fmt: skip
    assert "of which 2 dense" in two.blocks[1].heading and "density budget 0.5" in two.blocks[1].heading


def test_tuning_quality_and_what_does_not_apply(made):
    _, _, two = made
    ours = find(two, "at 4x", "Radial", "ours, LoRA").ours.entries
    assert (ours["tuning_s"].value, ours["peak_memory_gib"].value) == (123.0, 3.25)
    assert "tuning_s" not in find(two, "at 4x", "RIFLEx").ours.entries
    for key in ("subject_consistency", "aesthetic_quality", "imaging_quality"):
        assert (ours[key].status, ours[key].value) == ("unsupported", None) and "VBench" in ours[key].reason
    assert testbed_entries.SOME in ours["trajectory_error"].notes and ours["trajectory_error"].more["clips"] == 15
    assert 1 < ours["trajectory_error"].value < 1.5 and ours["trajectory_error"].text.startswith("1.")
    assert find(two, "at 4x", "SANA").ours.entries["sparsity_pct"].reason.endswith("counted in PFLOP.")
    assert not {"psnr", "ssim"} & {column.key for column in two.columns}
    assert table2_testbed.NO_COMPARISON in two.remarks


def test_published_lines_belong_to_the_tuning(made):
    _, _, two = made
    full = find(two, "at 4x", "Full (dense)")
    assert [line.entries["vision_reward"].text for line in full.published] == ["0.133", "0.099"]
    untuned = find(two, "at 4x", "Dense", "ours, untuned")
    assert [line.entries["vision_reward"].text for line in untuned.published] == ["0.054", "-0.091"]
    assert find(two, "at 4x", "Radial", "ours, all weights tuned").published == ()


def test_the_finding_of_table_2_is_said_part_by_part(made):
    said = remarks(made[2])
    assert said[0] == "The finding of the paper's Table 2, by vision reward: at 4x reproduced (4 of 4 parts hold)."
    assert said[1].startswith("At 4x: tuned radial matches tuned dense: tuned radial less tuned dense is +0.00")
    assert said[1].endswith("an interval within ±0.05.")
    assert said[2].startswith("At 4x: untuned dense falls behind both: untuned dense is behind tuned dense by 0.")
    assert said[3].startswith("At 4x: untuned riflex falls behind both")
    assert said[4].startswith("At 4x: SANA fails: its reward is −0.4") and "the nearest, tuned pa is ahead" in said[4]
    assert said[5] == (
        "At 4x, of the judge's answers (means, −1 no to 1 yes), tuned dense against untuned dense gains at speeds "
        "−0.75 to −0.25 and loses at colours 0.50 to 0.25."
    )
    assert said[6].startswith(
        "At 4x, the instruments read from the same clips, tuned dense against untuned dense: objects"
    )
    assert said[7].endswith("tuned radial against tuned dense loses at colours 0.25 to 0.10.")
    told = "At 4x, LoRA on q, k, v and o (rank 16, steps 500, batch 8): dense, pa, sana, radial."
    assert told in said and "At 4x, full tuning of all weights (steps 500, batch 8): dense, radial." in said


def test_a_second_seed_and_a_second_density(tmp_path, monkeypatch):
    monkeypatch.setattr(intervals, "RESAMPLES", 199)
    wider = replace(tuned("radial", "lora"), variant="x4-b30", budget=0.3)
    again = {"seed": 8, "variant": "x4-seed8", "tuned": True, "dense_steps": 2}
    drawn = [
        cell(method, "4x", merged=[f"results/testbed/records/testbed-nano/4x/{method}/x4-tuned/tune.json"], **again)
        for method in ("dense", "radial")
    ]
    untuned = [cell("dense", "4x"), cell("dense", "4x", seed=8, variant="seed8")]
    every = [*untuned, tuned("dense", "lora"), tuned("radial", "lora"), wider, *drawn]
    paths = [path for of in every for path in write(tmp_path, of)]
    variants = VARIANTS | {name: {"for": ["table2"]} for name in ("x4-b30", "x4-seed8")}
    source = testbed.Testbed(Experiment(tmp_path, synthetic.collected(tmp_path, paths)), {"variants": variants})
    two = table2_testbed.table(source)
    first, second = two.blocks
    assert first.heading.endswith("density budget 0.3 and 0.5, seed 7") and second.heading.endswith(", seed 8")
    assert [group.label for group in first.groups][1:] == ["Full (dense)", "Radial", "Radial, density 0.3"]
    assert [group.label for group in second.groups][1:] == ["Full (dense)", "Radial"]
    assert first.groups[1].ours.entries["tuning_s"].text == "123.0"
    assert "tuning_s" not in second.groups[1].ours.entries
    said = remarks(two)
    assert said[0].startswith("The finding of the paper's Table 2, by vision reward: at 4x, seed 7 ")
    assert "; at 4x, seed 8 " in said[0]
    assert any(line.startswith("At 4x, seed 7: tuned radial (density 0.3) matches tuned dense: ") for line in said)
    told = "(nothing tuned anew: each is drawn with its method's adapter of 4x, x4-tuned): dense, radial."
    assert any(line.startswith("At 4x, seed 8, LoRA") and line.endswith(told) for line in said)
    assert any(line.endswith(": dense, radial, radial (density 0.3).") for line in said)
    assert {key[1] for key in figure8.curves(source, figure8.rows(source))} == {"untuned", "lora"}
    assert all(len(points) == 1 for points in figure8.curves(source, figure8.rows(source)).values())


def rows_of(means, gaps=(), p=0.001, width=0.005):
    """A block of Table 2 and numbers in which rewards differ so; ``gaps`` replaces the p of single pairs."""
    rows = []
    for method, kind in means:
        tuning = "untuned" if kind == "untuned" else "tuned"
        rows.append(table2_testbed.Row(bare(method, f"x4-{kind}", tuning=tuning, length="4x"), kind))
    part = table2_testbed.Part("4x", tuple(rows))
    held = {row.cell.path: means[row.cell.method, row.kind] for row in rows}
    clips = {path: {"vision_reward": {"a": mean - 0.01, "b": mean + 0.01}} for path, mean in held.items()}
    compared = {}
    for one, first in held.items():
        for two, second in held.items():
            gap = first - second
            compared[one, two, "vision_reward"] = Comparison(
                Interval(gap, gap - width, gap + width, 2), dict(gaps).get((one[2], two[2]), p)
            )
    return part, Numbers(clips, compared)


@pytest.mark.parametrize(
    ("radial", "width", "outcome", "words"),
    [
        (0.80, 0.01, True, "matches tuned dense: tuned radial less tuned dense is 0.000 [−0.010, +0.010]"),
        (0.78, 0.01, True, "an interval within ±0.05"),
        (0.78, 0.06, None, "holds 0 but goes beyond ±0.05"),
        (0.60, 0.01, False, "does not match tuned dense: tuned radial less tuned dense is −0.200"),
        (0.95, 0.01, True, "exceeds tuned dense"),
    ],
)
def test_whether_tuned_radial_matches_tuned_dense(radial, width, outcome, words):
    part, held = rows_of({("dense", "lora"): 0.8, ("radial", "lora"): radial}, width=width)
    claim = table2_testbed.matches(held, part, 0.05)
    assert claim.held is outcome and words in plain(claim.sentence)


def test_whether_untuned_clips_fall_behind():
    means = {("dense", "untuned"): 0.3, ("dense", "lora"): 0.8, ("radial", "lora"): 0.7}
    part, held = rows_of(means)
    assert table2_testbed.behind(held, part, "dense").held is True
    part, held = rows_of(means | {("dense", "untuned"): 0.75})
    claim = table2_testbed.behind(held, part, "dense")
    assert claim.held is False and "does not fall behind both" in claim.sentence
    assert "untuned dense is ahead of tuned radial by 0.050" in claim.sentence
    unknown = table2_testbed.behind(held, part, "riflex")
    assert unknown.held is None and "(riflex, untuned, is not in the records)" in unknown.sentence


@pytest.mark.parametrize(
    ("sana", "p", "outcome", "words"),
    [
        (-0.3, 0.001, True, "SANA fails: its reward is −0.300"),
        (0.3, 0.001, False, "without failing outright: its reward is 0.300"),
        (0.9, 0.001, False, "SANA does not fail: its reward is 0.900"),
        (-0.3, 0.9, False, "tuned radial cannot be told from tuned sana"),
    ],
)
def test_whether_sana_fails(sana, p, outcome, words):
    means = {("dense", "lora"): 0.8, ("radial", "lora"): 0.7, ("sana", "lora"): sana}
    claim = table2_testbed.fails(rows_of(means, p=p)[1], rows_of(means, p=p)[0])
    assert claim.held is outcome and words in plain(claim.sentence)


def test_sana_that_cannot_be_told_from_one_other_is_said_to_have_the_lowest_mean():
    means = {("dense", "lora"): 0.8, ("temporal", "lora"): 0.35, ("sana", "lora"): 0.3}
    part, held = rows_of(means, gaps={("temporal", "sana"): 0.2})
    said = plain(table2_testbed.fails(held, part).sentence)
    assert said.startswith("SANA has the lowest mean of the tuned methods without failing outright: its reward is 0.3")
    assert "; 1 of 2 others are ahead; tuned temporal cannot be told from tuned sana (+0.050 " in said


def test_where_judge_and_instruments_disagree_is_said(monkeypatch):
    part, _ = rows_of({("dense", "untuned"): 0.3, ("dense", "lora"): 0.8})
    before, after = (row.cell for row in part.rows)
    told = {
        before.path: {"count": 0.85, "directions": 0.13, "no_repeat": 0.96, "stay": 0.9},
        after.path: {"count": 0.95, "directions": 0.05, "no_repeat": 0.97, "stay": 0.9},
    }
    monkeypatch.setattr(answers, "answers", lambda source, cell: told[cell.path])
    read = {
        before.path: {"count": 0.9, "directions": 0.45, "motion_repetition": 0.54, "persistence": 0.93},
        after.path: {"count": 1.0, "directions": 0.7, "motion_repetition": 0.36, "persistence": 0.95},
    }
    held = Numbers({path: {name: {"a": v} for name, v in each.items()} for path, each in read.items()}, {})
    said = answers.beside(None, held, after, before, ("tuned dense", "untuned dense"))
    assert said == (
        "the instruments read from the same clips, tuned dense against untuned dense: count 0.90 to 1.00, directions "
        "0.45 to 0.70, objects there 0.93 to 0.95, motion repeated 0.54 to 0.36 (means); the judge has it the other "
        "way at directions 0.13 to 0.05; the judge sees hardly any of it at no repeat 0.96 to 0.97"
    )
    del told[before.path]["count"], told[before.path]["directions"], told[before.path]["no_repeat"]
    assert answers.beside(None, held, after, before, ("one", "two")).endswith("motion repeated 0.54 to 0.36 (means)")
    assert answers.beside(None, Numbers({}, {}), after, before, ("one", "two")) is None


def test_another_density_never_stands_for_the_block_s_own():
    budgets = {"sta": 0.18, "pa": 0.18, "radial": 0.3}
    rows = []
    for method, budget in budgets.items():
        of = bare(method, "x4", tuning="tuned", length="4x")
        of.rows[0]["budget"] = budget
        rows.append(table2_testbed.Row(of, "lora"))
    told = table2_testbed._told_apart(rows)
    assert [row.note for row in told] == ["", "", "density 0.3"]
    assert table2_testbed.Part("4x", tuple(told)).find("radial", "lora") is None


def test_what_was_not_run_is_no_part_of_the_count():
    part, held = rows_of({("dense", "lora"): 0.8, ("radial", "lora"): 0.8})
    said = table2_testbed.verdicts(held, [part], 0.05)
    assert said[0].endswith("at 4x reproduced (1 of 1 parts hold, 3 cannot be judged).")
    assert "SANA" in said[4] and "is not known" in said[4]


def test_failed_cells_show_their_status_and_are_in_no_comparison(tmp_path, monkeypatch):
    monkeypatch.setattr(intervals, "RESAMPLES", 199)
    paths = [path for of in (cell("dense"), cell("radial", variant="b50")) for path in write(tmp_path, of)]
    of = cell("pa", variant="b50")
    for kind in ("generate", "measure"):
        paths.append(synthetic.path_of(tmp_path, of, kind))
        write_json(paths[-1], make_record(kind, of, "out_of_memory", reason="too little"))
    source = testbed.Testbed(Experiment(tmp_path, synthetic.collected(tmp_path, paths)), {"variants": VARIANTS})
    one = table1_testbed.table(source)
    failed = find(one, "at 1x", "PA")
    assert failed.ours.entries["psnr"].text == "out of memory" and failed.below == ()
    assert remarks(one)[0].endswith("is reproduced in no setting: not measured.")
    two = table2_testbed.table(source)
    assert two.blocks == () and two.remarks == ("Not measured yet.",)


# --- Figure 8, and where nothing is there ------------------------------------------------------------------------


def test_rewards_of_every_tuning_and_the_papers_beside_them(made, monkeypatch):
    monkeypatch.setattr(intervals, "RESAMPLES", 199)
    source = made[0]
    found = figure8.curves(source, figure8.rows(source))
    assert set(found) == {(m, k) for m in ("dense", "radial") for k in ("lora", "full")} | {("dense", "untuned")}
    assert [point.frames for point in found["dense", "untuned"]] == [16, 64]
    point = found["radial", "lora"][0].reward
    assert point.low < point.mean < point.high and point.mean == pytest.approx(0.8, abs=0.1)
    paper = figure8.printed()
    assert [(point.frames, point.reward.mean) for point in paper["radial", "lora"]] == [(253, 0.126), (509, 0.134)]
    assert ("radial", "full") not in paper


def test_figure_8_is_drawn_with_the_decay_that_was_probed(made, tmp_path, monkeypatch):
    monkeypatch.setattr(intervals, "RESAMPLES", 199)
    source = made[0]
    assert figure8.decay(source, synthetic.MODEL) is None
    fit = {"a": 0.2, "b": -2.0, "r2": 0.99}
    fits = {"mean": fit, "mean_from_0": fit, "layers": [fit], "steps": [fit], "heads": [[fit]]}
    scores = {"distance": [0, 1, 2, 3], "mean": [0.3, 0.1, 0.05, 0.02], "low": [0.1] * 4, "high": [0.4] * 4}
    for model in ("another", synthetic.MODEL):
        probed = {"decay": {axis: scores | {"fits": fits} for axis in ("temporal", "spatial")}}
        (source.experiment.folder / "attention").mkdir(exist_ok=True)
        (source.experiment.folder / "attention" / f"{model}.json").write_text(json.dumps(probed))
    facts = figure8.decay(source, synthetic.MODEL)
    assert facts["model"] == synthetic.MODEL and figure8.decay(source, "not probed")["model"] == "another"
    pdf, png = figure8.make(source, tmp_path)
    assert pdf.stat().st_size > 10_000 and png.stat().st_size > 10_000
    told = figure8.caption(figure8.rows(source), "testbed", facts)
    assert "20 clips a point, judge testbed" in told and f"of {synthetic.MODEL} over all layers" in told


def test_nothing_measured_is_said_in_one_line(tmp_path):
    nothing = testbed.Testbed(Experiment(tmp_path / "none", tmp_path / "none.parquet"), {"variants": VARIANTS})
    for module in (table1_testbed, table2_testbed):
        paths = module.make(nothing, tmp_path)
        assert "Not measured yet." in paths[1].read_text()
        assert csv_rows(paths[0]) == [{"remark": "Not measured yet."}]
        assert "Not measured yet." in paths[2].read_text()
    assert figure8.curves(nothing, figure8.rows(nothing)) == {}
    assert figure8.caption([], "", None) == ""


def test_numbers_in_words():
    assert (
        testbed_entries.spread(Interval(-0.0004, -0.1, 0.2, 3), 3)
        == "0.000\N{NO-BREAK SPACE}[−0.100,\N{NO-BREAK SPACE}0.200]"
    )
    found = Comparison(Interval(-1.0, -2.0, -0.5, 3), 0.01)
    assert plain(testbed_entries.change(found, 1)) == "−1.0 [−2.0, −0.5] ‡"
    assert (
        plain(testbed_entries.sentence("a", "b", found, 1, "px", better=-1)) == "a is ahead of b by 1.0 px [0.5, 2.0]"
    )
    assert testbed_entries.turned(testbed_entries.turned(found)) == found
