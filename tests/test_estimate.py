"""The estimate: counted where it can be counted, and a stated rate where it cannot."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import synthetic
import yaml

from benchmark import estimate as verb
from benchmark.__main__ import main
from benchmark.estimate import DEFAULTS, JOB_SECONDS, describe, estimate, planned_jobs, start_planning
from benchmark.inputs import write_inputs
from benchmark.plan import plan
from benchmark.records import write_json

SMOKE = Path(__file__).resolve().parent.parent / "config" / "smoke.yaml"
SMALL = "small.yaml"
METHODS = ("dense", "spatial", "random")
JOBS = {"generate": 6, "inputs": 2, "measure": 6, "collect": 1, "something_new": 1}


@pytest.fixture(autouse=True)
def planned(monkeypatch, tmp_path):
    """Jobs as Snakemake might plan them, which takes it seconds; and a folder without results."""
    monkeypatch.setattr(verb, "start_planning", lambda path: subprocess.Popen(["true"], stdout=subprocess.PIPE))
    monkeypatch.setattr(verb, "planned_jobs", lambda path, planning: planning.communicate() and dict(JOBS))
    monkeypatch.chdir(tmp_path)
    config(file=SMALL)


def config(file: str = "mine.yaml", **changes) -> str:
    """A configuration's file: that of ``smoke`` with short clips, and with changes."""
    small = {"lengths": [{"name": "1x", "frames": 4}, {"name": "2x", "frames": 6}], "methods": list(METHODS)}
    Path(file).write_text(yaml.safe_dump(yaml.safe_load(SMOKE.read_text()) | small | changes))
    return file


def earlier(seconds: dict[str, float], **changes) -> None:
    """Records of earlier runs of ``smoke``, by method, with so many seconds a clip."""
    for method, taken in seconds.items():
        of = synthetic.cell(method, "1x", experiment="smoke", clips=1, **changes)
        folder = Path("results/smoke/clips") / of.path
        folder.mkdir(parents=True)
        (folder / "000.mkv").write_bytes(bytes(2 * of.frames * of.height * of.width))
        record = synthetic.generate_record(
            of,
            clips=[{"name": "000.mkv", "sha256": "", "prompt": "", "seed": 0, "seconds": taken, "first": True}],
            values={"density": 0.5, "pflop": 2e-5, "pflop_dense": 3e-5, "generation_s": taken},
            details={"knobs": {}, "kernel": "sdpa", "folder": str(folder)},
        )
        write_json(synthetic.path_of(Path("results/smoke"), of, "generate"), record)
        tsv = Path("results/smoke/benchmarks/generate") / f"{of.model}-1x-{method}-untuned.tsv"
        tsv.parent.mkdir(parents=True, exist_ok=True)
        tsv.write_text(f"s\th:m:s\n{taken + 4}\t0:00:01\n")


def test_operations_are_those_of_the_plan() -> None:
    found = estimate(SMALL, "cpu")
    assert [(cell["length"], cell["method"]) for cell in found["cells"]] == [
        (length, method) for length in ("1x", "2x") for method in METHODS
    ]
    for cell in found["cells"]:
        known = plan(
            "testbed-nano", cell["method"], frames={"1x": 4, "2x": 6}[cell["length"]], steps=2, dense_steps=1,
            dense_layers=0, budget=0.5,
        )  # fmt: skip
        assert cell["pflop"] == pytest.approx(known["pflop"], rel=0.01)
        assert cell["pflop_dense"] == pytest.approx(known["pflop_dense"], rel=1e-12)
    assert found["pflop"] == pytest.approx(sum(cell["pflop"] for cell in found["cells"]))
    assert found["cells"][0]["pflop"] == found["cells"][0]["pflop_dense"] > found["cells"][1]["pflop"]


def test_several_processes_count_the_same() -> None:
    assert estimate(SMALL, "cpu", workers=2)["cells"] == estimate(SMALL, "cpu")["cells"]


def test_three_prompts_are_three_times_the_operations() -> None:
    one = estimate(SMALL, "cpu")
    three = estimate(config(prompts={"count": 3, "seed": 7}), "cpu")
    assert three["pflop"] == pytest.approx(3 * one["pflop"])
    assert three["disk_bytes"]["clips"] == pytest.approx(3 * one["disk_bytes"]["clips"], abs=2)


def test_without_results_the_stated_defaults_count() -> None:
    found = estimate(SMALL, "cpu")
    assert all(cell["hours"] == pytest.approx(cell["pflop"] * DEFAULTS["cpu"] / 3600) for cell in found["cells"])
    assert all(cell["source"].startswith("default: 12,500 s a PFLOP: ") for cell in found["cells"])
    rest = 2 * 2.0 + 6 * 6.7 + 6 * 4.5 + 1.8 + 5.0
    assert found["cpu_hours"] == pytest.approx((rest + found["pflop"] * DEFAULTS["cpu"]) / 3600)
    assert found["gpu_hours"] == 0 and found["jobs_in_all"] == 16
    assert "a guess for a rule that has not run" in found["jobs"]["something_new"]["source"]


def test_rates_come_from_the_nearest_records_and_say_so() -> None:
    earlier({"dense": 1.0, "spatial": 3.0})
    found = {(cell["length"], cell["method"]): cell for cell in estimate(SMALL, "cpu")["cells"]}
    expected = {
        ("1x", "dense"): (1.0 / 2e-5, "50,000 s a PFLOP, 1 record of the same model, length, method"),
        ("2x", "spatial"): (3.0 / 2e-5, "150,000 s a PFLOP, 1 record of the same model, method"),
        ("1x", "random"): (4.0 / 4e-5, "100,000 s a PFLOP, 2 records of the same model"),
    }
    for key, (rate, words) in expected.items():
        assert found[key]["hours"] == pytest.approx(found[key]["pflop"] * rate / 3600)
        assert found[key]["source"] == f"measured: {words}"


def test_start_up_and_other_jobs_come_from_snakemake_s_benchmarks() -> None:
    earlier({"dense": 1.0, "spatial": 3.0})
    for name, seconds in (("a", 6.0), ("b", 8.0)):
        path = Path(f"results/smoke/benchmarks/measure/{name}.tsv")
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"s\th:m:s\n{seconds}\t0:00:06\n")
    found = estimate(SMALL, "cpu")
    assert found["jobs"]["measure"]["hours"] == pytest.approx(6 * 7.0 / 3600)
    assert found["jobs"]["measure"]["source"].startswith("measured: 2 jobs in ")
    clips = sum(cell["hours"] for cell in found["cells"])
    assert found["jobs"]["generate"]["hours"] - clips == pytest.approx(6 * 4.0 / 3600)


def test_records_of_a_cpu_say_nothing_of_a_gpu() -> None:
    earlier({"dense": 1.0})
    found = estimate(SMALL, "cuda")
    assert all(cell["source"].startswith("default: 13.7 s a PFLOP") for cell in found["cells"])
    assert found["gpu_hours"] == found["jobs"]["generate"]["hours"] > 0
    assert found["cpu_hours"] > found["gpu_hours"]
    assert "GPU-hours" in describe(found, 4) and "GPU-hours" not in describe(estimate(SMALL, "cpu"), 4)


def test_disk_is_exact_for_noise_and_scaled_for_clips() -> None:
    found = estimate(SMALL, "cpu")["disk_bytes"]
    written = 0
    for frames in (4, 6):
        write_inputs("testbed-nano", frames, 48, 48, 1, 7, Path(f"inputs/{frames}"))
        written += sum(path.stat().st_size for path in Path(f"inputs/{frames}").iterdir())
    assert found["inputs"] == pytest.approx(written, rel=0.02)
    assert found["clips"] == round(1.25 * 3 * (4 + 6) * 48 * 48)
    assert found["all"] == sum(found[key] for key in found if key not in ("all", "source"))
    earlier({"dense": 1.0})
    measured = estimate(SMALL, "cpu")["disk_bytes"]
    assert measured["clips"] == 2 * 3 * (4 + 6) * 48 * 48
    assert "measured: 1 clips in results/smoke" in measured["source"]


def test_a_person_reads_a_table_and_a_program_json(capsys) -> None:
    assert main(["estimate", "--configfile", SMALL, "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("16 jobs", "testbed-nano 2x", "disk: ", "PFLOP", "CPU-hours", "minutes"))
    assert "rate of 6 cells: default: 12,500 s a PFLOP" in said
    assert main(["estimate", "--configfile", SMALL, "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(json.dumps(estimate(SMALL, "cpu")))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"methods": ["dense", "radail"]}, "methods: method 'radail' is unknown: did you mean 'radial'?"),
        ({"budgte": 0.5}, "budgte: the key is unknown"),
        ({"budget": 0.001}, "budget=0.001: "),
    ],
)
def test_a_configuration_that_cannot_be_is_one_line(capsys, changes, line) -> None:
    assert main(["estimate", "--configfile", config(**changes)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith(f"estimate: mine.yaml: {line}")
    assert main(["estimate", "--configfile", "nowhere.yaml"]) == 2
    assert capsys.readouterr().err == "estimate: nowhere.yaml: no such configuration file\n"


def test_jobs_are_those_that_snakemake_plans() -> None:
    found = planned_jobs(SMOKE, start_planning(SMOKE))
    assert {key: found[key] for key in ("inputs", "generate", "measure", "collect", "operations", "probe")} == {
        "inputs": 2, "generate": 6, "measure": 6, "collect": 1, "operations": 1, "probe": 1,
    }  # fmt: skip
    assert found["table"] >= 2 and found["figure"] >= 6
    assert not {"all", "total", "tables", "figures"} & set(found)
    assert set(found) <= set(JOB_SECONDS)  # no rule's time is a guess
    Path("broken.yaml").write_text("experiment: broken\n")
    with pytest.raises(ValueError, match="^broken.yaml: snakemake cannot plan it: .*key is missing"):
        planned_jobs("broken.yaml", start_planning("broken.yaml"))
