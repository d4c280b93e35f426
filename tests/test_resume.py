"""Records that are committed: what is published of a run, and how another machine goes on from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import synthetic
import yaml

from benchmark import config, probed, publish_records, registry
from benchmark.__main__ import main
from benchmark.canonical import record_files
from benchmark.cells import cells as cells_of
from benchmark.clips import read_clip
from benchmark.collect import collect
from benchmark.generate import generate
from benchmark.inputs import read_inputs, write_inputs
from benchmark.packed import file_of, record_text, unpacked_names
from benchmark.records import make_record, read_record, sha256_file, transient, write_json
from benchmark.resume import resume
from benchmark.tuning import places

METRICS = ["psnr", "ssim"]
VARIANTS = {
    "b80": {"methods": ["radial", "random"], "lengths": ["1x"]},
    "x2": {"methods": ["radial"], "lengths": ["2x"], "tuned": {"rank": 2}},
    "style": {"methods": ["dense"], "lengths": ["1x"], "tuned": {"rank": 2, "style": "dusk"}},
    "both": {"methods": ["radial"], "lengths": ["2x"], "merge": ["x2", "style"]},
}
CHANGES = {
    "experiment": "trial", "lengths": [{"name": "1x", "frames": 3}, {"name": "2x", "frames": 4}], "budget": 0.8,
    "methods": ["dense", "radial", "random"], "metrics": METRICS, "variants": VARIANTS,
    "schedule": {"steps": 2, "dense_steps": 0, "dense_layers": 0},
}  # fmt: skip
HELD = config.read(config.ROOT / "config" / "smoke.yaml") | CHANGES
RUN, COMMITTED = Path("results/trial"), Path("results/reference/trial")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with the results of all cells: the dense clips are drawn, the others are made up."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for cell in cells_of(config.check(HELD, budgets=False)):
            inputs = RUN / "inputs" / cell.inputs
            write_inputs(cell.model, cell.frames, cell.height, cell.width, cell.clips, cell.seed, inputs)
            if cell.method == "dense" and not cell.tuned:
                record = generate(cell, inputs, RUN / "clips" / cell.path, "cpu")
            else:
                record = made_up(cell, inputs)
            hashes = {"candidate_clips": record["provenance"]["hashes"]["clips"]}
            measured = synthetic.measure_record(cell, hashes=hashes)
            write_json(synthetic.path_of(RUN, cell, "generate"), record)
            write_json(synthetic.path_of(RUN, cell, "measure"), measured)
    return folder


def made_up(cell, inputs: Path):
    """A ``generate`` record without clips, and the record of a tuning with an adapter."""
    hashes = read_inputs(inputs)[2] | {
        "weights": sha256_file(config.ROOT / config.weights_files(cell.model)[0]),
        "method": sha256_file(registry.source_file(cell.method)),
        "clips": synthetic.digest(cell.path),
    }
    if cell.tuned and not cell.merged:
        folder = places.folder_of(cell)
        folder.mkdir(parents=True)
        (folder / "adapter.safetensors").write_bytes(b"adapter")
        details = {"folder": str(folder), "files": {"adapter.safetensors": sha256_file(folder / "adapter.safetensors")}}
        own = {key: hashes[key] for key in ("weights", "method")}
        record = make_record("tune", places.of_tuning(cell), "passed", {"tuning_s": 1.0}, details=details, hashes=own)
        write_json(synthetic.path_of(RUN, cell, "tune"), record)
    device = read_record(RUN / "records/testbed-nano/1x/dense/untuned/generate.json")["provenance"]["device"]
    return synthetic.generate_record(cell, hashes=hashes, device=device, clips=[])


@pytest.fixture
def published(made, tmp_path, monkeypatch) -> Path:
    """What is committed of these results, in an otherwise empty folder, in which the test runs."""
    monkeypatch.chdir(made)
    publish_records.publish("trial", "results", tmp_path / "results/reference")
    monkeypatch.chdir(tmp_path)
    return COMMITTED


def go_on(committed: Path = COMMITTED, **changes):
    """Resumes with a changed configuration."""
    return resume(config.check(HELD | changes, budgets=False), committed)


def records(folder: Path) -> dict[str, str]:
    """Every record's text, by its place."""
    paths = unpacked_names(folder.rglob("records/**/*.json*"))
    return {path.relative_to(folder).as_posix(): record_text(path) for path in paths}


def edit(path: Path, change) -> None:
    record = json.loads(record_text(path))
    change(record)
    write_json(path, record)


def place(cell: str, kind: str = "generate", folder: Path = COMMITTED) -> Path:
    return folder / "records/testbed-nano" / cell / f"{kind}.json"


def test_what_is_published_is_what_was_run_and_can_be_collected(made, published):
    assert records(published) == records(made / RUN)
    assert not list(published.rglob("*.mkv")) and not list(published.rglob("*.safetensors"))
    files = {path: path.read_bytes() for path in published.rglob("records/**/*.*")}
    assert {path.suffix for path in files} == {".gz"}
    publish_records.publish("trial", made / "results", made.parent / "again")
    assert files == {path: (made.parent / "again/trial" / path.relative_to(published)).read_bytes() for path in files}
    first = next(iter(files))
    first.write_bytes(files[first][:40])
    with pytest.raises(ValueError, match="json.gz: no packed record"):
        records(published)
    first.write_bytes(files[first])
    assert len({row["record"] for row in collect("trial", record_files("trial", "results/reference"))}) == 16
    assert main(["collect", "--experiment", "trial", "--results", "results/reference", "--out-csv", "all.csv"]) == 0


def test_a_run_that_is_whole_leaves_nothing_to_run_and_draws_nothing(made, published):
    found = go_on()
    assert len(found.taken) == 7 and not found.left and not found.drawn
    assert records(RUN) == records(published) and not (RUN / "clips").exists()
    for cell in cells_of(config.check(HELD, budgets=False)):
        assert read_inputs(RUN / "inputs" / cell.inputs)[2] == read_inputs(made / RUN / "inputs" / cell.inputs)[2]
    order = [
        max(path.stat().st_mtime_ns for path in RUN.rglob(f"*{name}"))
        for name in ("prompts.json", "tune.json", "generate.json")
    ]
    assert order == sorted(order)
    first = [min(path.stat().st_mtime_ns for path in RUN.rglob(f"{kind}.json")) for kind in ("generate", "measure")]
    assert first[0] >= order[1] and first[1] >= order[2]
    assert len(go_on().taken) == 7  # once more, for the dates


def test_dense_clips_are_drawn_again_for_what_is_left(published):
    file_of(place("1x/random/b80")).unlink()
    found = go_on()
    assert found.left == {"testbed-nano/1x/random/b80": "no generate record"}
    assert found.drawn == {"testbed-nano/1x/dense/untuned": True}  # the other length's are not needed
    assert [path.name for path in RUN.rglob("*.mkv")] == ["000.mkv"]
    assert records(RUN).keys() == records(published).keys() - {"records/testbed-nano/1x/random/b80/measure.json"}


def test_dense_clips_that_come_out_otherwise_are_said_to(published, caplog):
    file_of(place("1x/random/b80")).unlink()
    for kind, name in (("generate", "clips"), ("measure", "candidate_clips")):
        edit(place("1x/dense/untuned", kind), lambda r, name=name: r["provenance"]["hashes"].update({name: "f" * 64}))
    found = go_on()
    assert found.drawn == {"testbed-nano/1x/dense/untuned": False} and "byte for byte" in caplog.text
    assert not place("1x/dense/untuned", "measure", RUN).exists()
    assert read_record(place("1x/dense/untuned", folder=RUN))["provenance"]["hashes"]["clips"] != "f" * 64


def test_records_of_another_device_are_gone_on_with_only_where_nothing_is_left(published):
    edit(place("1x/radial/b80"), lambda r: r["provenance"]["device"].update(type="cuda", name="Some GPU"))
    assert not go_on().left
    file_of(place("1x/random/b80")).unlink()
    shutil.rmtree(RUN)
    with pytest.raises(ValueError, match="1x/radial/b80: drawn on Some GPU, here there is .*; one GPU model is needed"):
        go_on()


RADIAL, TUNED = "1x/radial/b80", "2x/radial/x2"


@pytest.mark.parametrize(
    ("cell", "kind", "where", "value", "reason"),
    [
        (RADIAL, "generate", "provenance.hashes", {"weights": "f"}, "of another weights"),
        (RADIAL, "generate", "provenance.hashes", {"method": "f"}, "of another method"),
        (RADIAL, "generate", "provenance.hashes", {"noise": "f"}, "of another noise"),
        (RADIAL, "generate", "cell", {"budget": 0.7}, "of another budget"),
        (TUNED, "tune", "cell.tuning_settings", {"rank": 1}, "of another tuning_settings"),
        (RADIAL, "measure", "provenance.hashes", {"candidate_clips": "f"}, "of other clips"),
        (RADIAL, "measure", "details", {"metrics": {"psnr": {}}}, "without ssim"),
        (RADIAL, "measure", "details", {"provenance": {"vision_reward_weights": "f"}}, "of another judge"),
        (RADIAL, "measure", "", {"status": "out_of_memory", "reason": "much"}, "out_of_memory: much"),
    ],
)
def test_cells_that_are_not_what_a_run_would_give_are_left(published, cell, kind, where, value, reason):
    def change(record):
        for key in filter(None, where.split(".")):
            record = record[key]
        record.update(value)

    edit(place(cell, kind), change)
    found = go_on()
    assert found.left == {f"testbed-nano/{cell}": f"{kind}: {reason}"}
    assert not place(cell, folder=RUN).exists()


def test_an_adapter_that_is_merged_is_tuned_again_or_taken(made, published):
    file_of(place("2x/radial/both", "measure")).unlink()
    found = go_on()
    needed = "its adapter is not there, and testbed-nano/2x/radial/both needs it"
    assert found.left == {
        "testbed-nano/2x/radial/both": "no measure record",
        "testbed-nano/2x/radial/x2": needed,
        "testbed-nano/1x/dense/style": needed,
    }
    shutil.rmtree(RUN)
    shutil.copytree(made / RUN / "adapters", published / "adapters")
    shutil.copytree(made / RUN / "clips", published / "clips")
    found = go_on()
    assert list(found.left) == ["testbed-nano/2x/radial/both"] and not found.drawn
    assert (RUN / "adapters/testbed-nano/1x/dense/style/adapter.safetensors").read_bytes() == b"adapter"
    assert list(RUN.rglob("2x/dense/untuned/*.mkv"))


def test_an_adapter_that_a_tuning_starts_from_is_tuned_again_or_taken(made, published):
    started = VARIANTS | {"on": {"methods": ["radial"], "lengths": ["1x"], "tuned": {"rank": 2}, "start": "x2"}}
    found = go_on(variants=started)
    assert found.left == {
        "testbed-nano/1x/radial/on": "no generate record",
        "testbed-nano/2x/radial/x2": "its adapter is not there, and testbed-nano/1x/radial/on needs it",
    }
    shutil.rmtree(RUN)
    shutil.copytree(made / RUN / "adapters", published / "adapters")
    assert list(go_on(variants=started).left) == ["testbed-nano/1x/radial/on"]
    assert (RUN / "adapters/testbed-nano/2x/radial/x2/adapter.safetensors").read_bytes() == b"adapter"


def test_a_tuning_that_is_made_again_needs_what_it_started_from(made, published):
    """The adapter of ``on`` is merged by a cell that is left to run; ``on`` started from ``x2``."""
    started = VARIANTS | {"on": {"methods": ["radial"], "lengths": ["1x"], "tuned": {"rank": 2}, "start": "x2"}}
    chain = started | {"again": {"methods": ["radial"], "lengths": ["1x"], "budget": 0.7, "merge": ["on"]}}
    (on,) = (c for c in cells_of(config.check(HELD | {"variants": started}, budgets=False)) if c.path.name == "on")
    shutil.copytree(made / RUN / "records", RUN / "records")  # which made_up looks at
    record = made_up(on, made / RUN / "inputs" / on.inputs)
    hashes = {"candidate_clips": record["provenance"]["hashes"]["clips"]}
    write_json(synthetic.path_of(COMMITTED, on, "generate"), record)
    write_json(synthetic.path_of(COMMITTED, on, "measure"), synthetic.measure_record(on, hashes=hashes))
    shutil.copyfile(synthetic.path_of(RUN, on, "tune"), synthetic.path_of(COMMITTED, on, "tune"))
    shutil.rmtree(RUN)
    assert not go_on(variants=started).left
    shutil.rmtree(RUN)
    assert go_on(variants=chain).left == {
        "testbed-nano/1x/radial/again": "no generate record",
        "testbed-nano/1x/radial/on": "its adapter is not there, and testbed-nano/1x/radial/again needs it",
        "testbed-nano/2x/radial/x2": "its adapter is not there, and testbed-nano/1x/radial/on needs it",
    }


def test_a_tuning_whose_clips_are_not_drawn_is_taken_with_its_adapter(made, published, caplog):
    for kind in ("generate", "measure"):
        file_of(place(TUNED, kind)).unlink()
    assert not go_on().tuned and not place(TUNED, "tune", RUN).exists()  # adapters are not committed
    shutil.rmtree(RUN)
    shutil.copytree(made / RUN / "adapters", published / "adapters")
    found = go_on()
    assert found.tuned == [f"testbed-nano/{TUNED}"] and found.left[f"testbed-nano/{TUNED}"] == "no generate record"
    assert read_record(place(TUNED, "tune", RUN)) == read_record(place(TUNED, "tune", made / RUN))
    adapter = RUN / "adapters/testbed-nano/2x/radial/x2/adapter.safetensors"
    assert adapter.read_bytes() == b"adapter"
    shutil.rmtree(RUN)
    (published / adapter.relative_to(RUN)).write_bytes(b"another")
    assert not go_on().tuned and not adapter.exists() and "its adapter is not taken: " in caplog.text


def test_records_of_this_machine_s_own_run_stay(published):
    own = place("1x/radial/b80", folder=RUN)
    own.parent.mkdir(parents=True)
    own.write_text(record_text(place("1x/radial/b80")))
    edit(own, lambda r: r["values"].update(generation_s=9.0))
    before = own.read_text()
    found = go_on()
    assert found.own == ["testbed-nano/1x/radial/b80"] and own.read_text() == before


def test_what_is_not_whole_or_does_not_fit_is_not_published(made, tmp_path, monkeypatch, caplog):
    shutil.copytree(made / RUN, tmp_path / RUN)
    monkeypatch.chdir(tmp_path)
    reference = Path("results/reference")
    place("1x/random/b80", "measure", RUN).unlink()
    edit(place("2x/radial/x2", "measure", RUN), lambda r: r["details"].update(transient()))
    with caplog.at_level("INFO"):
        publish_records.publish("trial", reference=reference)
    assert "1x/random/b80, testbed-nano/2x/radial/x2" in caplog.text
    assert not file_of(place("1x/random/b80")).exists() and file_of(place("1x/radial/b80")).exists()
    edit(place("1x/radial/b80", folder=RUN), lambda r: r["provenance"]["hashes"].update(noise="f"))
    with pytest.raises(ValueError, match="noise .* differs|differs .* noise"):
        publish_records.publish("trial", reference=reference)
    with pytest.raises(ValueError, match="no records in"):
        publish_records.publish("other", reference=reference)


def test_named_clips_are_compressed_with_what_they_are(made, tmp_path, monkeypatch):
    monkeypatch.chdir(made)
    pattern = "testbed-nano/*/dense/untuned/000.mkv"
    words = ["publish-records", "--experiment", "trial", "--reference", str(tmp_path), "--clips", pattern]
    assert main(words) == 0
    folder = tmp_path / "trial/clips"
    listed = json.loads((folder / "clips.json").read_text())
    assert list(listed) == [f"testbed-nano/{length}/dense/untuned/000.mp4" for length in ("1x", "2x")]
    for name, told in listed.items():
        whole = (RUN / "clips" / name).with_suffix(".mkv")
        assert told["sha256"] == sha256_file(whole) and told["seed"] == 700000
        error = np.mean((read_clip(folder / name).astype(float) - read_clip(whole)) ** 2)
        assert 10 * np.log10(255**2 / error) > 20
    first = (folder / name).read_bytes()
    assert main(words) == 0 and (folder / name).read_bytes() == first
    with pytest.raises(ValueError, match="no clip in .* is named so"):
        publish_records.publish("trial", reference=tmp_path, clips=["testbed-nano/*/sta/*/000.mkv"])


def test_a_committed_clip_of_a_cell_that_is_drawn_anew_goes_unless_it_is_named(made, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(made)
    old, same = (f"testbed-nano/{length}/dense/untuned/000.mp4" for length in ("1x", "2x"))
    publish_records.publish("trial", reference=tmp_path, clips=["testbed-nano/*/dense/untuned/000.mkv"])
    index = tmp_path / "trial/clips/clips.json"
    edit(index, lambda listed: listed[old].update(sha256="0" * 64))
    with caplog.at_level("INFO"):
        publish_records.publish("trial", reference=tmp_path)
    assert list(json.loads(index.read_text())) == [same] and f"removed clip {old}" in caplog.text
    assert not (index.parent / old).exists() and (index.parent / same).exists()


def test_the_verb_says_what_is_left(published, capsys):
    Path("trial.yaml").write_text(yaml.safe_dump(HELD, sort_keys=False))
    file_of(place("1x/random/b80")).unlink()
    assert main(["resume", "--configfile", "trial.yaml", "--from", str(COMMITTED), "--device", "cpu"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "left to run: testbed-nano/1x/random/b80 (no generate record)",
        "drawn again: testbed-nano/1x/dense/untuned (the same bytes)",
        "6 cells taken, 0 there already, 1 left to run",
    ]
    assert main(["resume", "--configfile", "trial.yaml", "--from", "nowhere"]) == 2
    assert "nowhere/records: no such folder" in capsys.readouterr().err


@pytest.fixture
def looked_into(made, tmp_path, monkeypatch) -> Path:
    """A run's folder with what is measured of a model besides its cells."""
    run = tmp_path / "run"
    shutil.copytree(made / RUN / "records", run / "trial/records")
    held = config.check(HELD, budgets=False)
    passes = probed.error_passes(held, "1x")
    hashes = read_inputs(made / RUN / "inputs/testbed-nano/1x/seed7")[2]
    hashes |= {"weights": sha256_file(config.ROOT / config.weights_files("testbed-nano")[0])}
    attention = {"prompts": ["a"] * probed.map_prompts(held, "1x")}
    error = {
        "cell": {"seeds": [0] * passes["prompts"], "budget": held["budget"], "block": held["block"]}
        | {name: passes[name] for name in ("steps", "dense_steps")},
        "details": {"steps_recorded": [0] * passes["record_steps"]},
    }
    for kind, told in (("attention", attention), ("output_error", error)):
        write_json(run / "trial" / kind / "testbed-nano.json", told | {"provenance": {"hashes": dict(hashes)}})
    np.savez(run / "trial/attention/testbed-nano.npz", maps=np.ones(3))
    monkeypatch.chdir(tmp_path)
    return run


def others_taken(source: Path) -> set[str]:
    shutil.rmtree(RUN, ignore_errors=True)
    resume(config.check(HELD, budgets=False), source)
    return {path.parent.name for path in RUN.glob("*/testbed-nano.json")}


def test_what_is_measured_of_a_model_is_published_without_its_arrays(looked_into):
    """Another run's folder still has them; where they are missing, the attention is measured anew."""
    publish_records.publish("trial", looked_into, Path("results/reference"))
    found = {path.relative_to(COMMITTED).as_posix() for path in COMMITTED.glob("*/testbed-nano.*")}
    assert found == {"attention/testbed-nano.json", "output_error/testbed-nano.json"}
    assert others_taken(COMMITTED) == {"output_error"}
    assert others_taken(looked_into / "trial") == {"output_error", "attention"}
    assert (RUN / "attention/testbed-nano.npz").exists()


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("attention", lambda r: r["prompts"].append("b"), "prompts=2, not 1"),
        ("attention", lambda r: r["provenance"]["hashes"].pop("weights"), "of another weights"),
        ("output_error", lambda r: r["provenance"]["hashes"].update(noise="f"), "of another noise"),
        ("output_error", lambda r: r["cell"].update(budget=0.1), "budget=0.1, not 0.8"),
        ("output_error", lambda r: r["details"]["steps_recorded"].append(1), "record_steps=2, not 1"),
    ],
)
def test_what_was_measured_of_a_model_otherwise_is_not_taken(looked_into, caplog, kind, change, said):
    edit(looked_into / f"trial/{kind}/testbed-nano.json", change)
    with caplog.at_level("INFO"):
        assert others_taken(looked_into / "trial") == {"attention", "output_error"} - {kind}
    assert f"{kind}/testbed-nano.json is not taken: {said}" in caplog.text
