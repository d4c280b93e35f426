"""Putting trained weights into the repository: only what is whole, small enough and what its record says."""

from __future__ import annotations

import json
import shutil

import pytest

from benchmark import publish as verb
from benchmark.__main__ import main
from benchmark.models import testbed
from benchmark.publish import publish
from benchmark.records import sha256_file

NAME = "testbed-nano"
FOUND = {"adherence": {"adherence": 0.75}, "repetition": 21, "clips": 5}
SHIPPED = testbed.WEIGHTS_FOLDER


@pytest.fixture
def source(tmp_path):
    """What the verb train would have written: the weights that are shipped, under a record of their own."""
    folder = tmp_path / "training"
    folder.mkdir()
    weights = shutil.copyfile(SHIPPED / f"{NAME}.safetensors", folder / f"{NAME}.safetensors")
    record = {"parameters": 12, "steps": 3, "sha256": sha256_file(weights)}
    (folder / f"{NAME}.training.json").write_text(json.dumps(record))
    return folder


@pytest.fixture
def published(tmp_path, monkeypatch):
    """The repository's folder of weights, elsewhere; evaluation is skipped and its arguments are noted."""
    folder = tmp_path / "weights"
    monkeypatch.setattr(testbed, "WEIGHTS_FOLDER", folder)
    asked = []

    def evaluate(transformer, spec, clips, long_clips, device):
        asked.append((spec.name, clips, long_clips, device, len(transformer.blocks)))
        return dict(FOUND)

    monkeypatch.setattr("benchmark.testbed.evaluate.evaluate", evaluate)
    return folder, asked


def test_weights_are_copied_listed_and_described(source, published) -> None:
    folder, asked = published
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"testbed-base": {"sha256": "1"}, NAME: {"sha256": "2"}}))
    entry = publish(NAME, source, "cpu", 5, 2)
    assert asked == [(NAME, 5, 2, "cpu", 6)]
    weights = folder / f"{NAME}.safetensors"
    assert sha256_file(weights) == entry["sha256"] == sha256_file(source / weights.name)
    assert entry == {
        "file": weights.name,
        "sha256": entry["sha256"],
        "bytes": weights.stat().st_size,
        "parameters": 12,
        "training_record": f"{NAME}.training.json",
        "adherence": FOUND["adherence"],
        "repetition": 21,
    }
    assert json.loads((folder / "manifest.json").read_text()) == {"testbed-base": {"sha256": "1"}, NAME: entry}
    record = json.loads((folder / entry["training_record"]).read_text())
    assert record["steps"] == 3 and record["sha256"] == entry["sha256"]
    assert FOUND.items() <= record["evaluation"].items()
    assert record["evaluation"]["provenance"]["device"]["type"] == "cpu"
    assert testbed.manifest(NAME) == entry
    testbed.load(NAME, folder=folder)  # the manifest and the file agree


def test_published_weights_can_be_evaluated_anew_in_place(source, published) -> None:
    folder, _ = published
    first = publish(NAME, source, "cpu", 5, 2)
    assert publish(NAME, folder, "cpu", 5, 2) == first


def refused(source, published, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        publish(NAME, source, "cpu", 5, 2)
    assert not published[0].exists() and not published[1]


def test_tampered_weights_are_refused(source, published) -> None:
    path = source / f"{NAME}.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    refused(source, published, "SHA-256 is .*, the training record says")


def test_oversize_weights_are_refused(source, published) -> None:
    path = source / f"{NAME}.safetensors"
    path.write_bytes(path.read_bytes() + bytes(8_000_001 - path.stat().st_size))
    record = source / f"{NAME}.training.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"sha256": sha256_file(path)}))
    refused(source, published, "has 8000001 bytes; at most 8000000 are allowed")
    assert verb.LARGEST["testbed-nano"] == 8_000_000 and verb.LARGEST["testbed-base"] == 20_000_000


@pytest.mark.parametrize("name", ["safetensors", "training.json"])
def test_missing_files_are_refused(source, published, name: str) -> None:
    (source / f"{NAME}.{name}").unlink()
    refused(source, published, f"{NAME}.{name} is missing; python -m benchmark train writes it")


@pytest.mark.parametrize("content", ["{", "{}"])
def test_a_record_that_is_none_is_refused(source, published, content: str) -> None:
    (source / f"{NAME}.training.json").write_text(content)
    refused(source, published, "no training record")


def test_weights_of_another_model_are_refused(source, published) -> None:
    import torch
    from safetensors.torch import save_file

    path = source / f"{NAME}.safetensors"
    save_file({"patch_embedding.weight": torch.zeros(1)}, path)
    (source / f"{NAME}.training.json").write_text(json.dumps({"parameters": 1, "sha256": sha256_file(path)}))
    refused(source, published, "not those of testbed-nano")


def test_the_verb_says_what_is_missing(tmp_path, published, capsys) -> None:
    assert main(["publish", "--from", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("publish: ") and "is missing; python -m benchmark train writes it" in line


def test_the_evaluation_of_the_training_may_be_kept(source, published) -> None:
    folder, asked = published
    with pytest.raises(ValueError, match="holds no evaluation; train with --evaluate"):
        publish(NAME, source, "cpu", 0, 1)
    assert not folder.exists()
    path = source / f"{NAME}.training.json"
    curve = [
        {"step": 1, "seconds": 0.1, "loss": 2.0, "rate": 1e-3},
        {"step": 2, "seconds": 0.2, "loss": 1.0, "rate": 1e-3},
    ]
    more = {"evaluation": FOUND, "curve": curve, "settings": {"frames": 16}}
    path.write_text(json.dumps(json.loads(path.read_text()) | more))
    (source / f"{NAME}.samples.png").write_bytes(b"picture")
    entry = publish(NAME, source, "cpu", 0, 1)
    assert not asked and entry["adherence"] == FOUND["adherence"] and entry["repetition"] == 21
    assert json.loads((folder / entry["training_record"]).read_text())["evaluation"] == FOUND
    assert (folder / f"{NAME}.samples.png").read_bytes() == b"picture"
    assert (folder / f"{NAME}.curve.png").stat().st_size > 1000


@pytest.fixture
def sharded(tmp_path, monkeypatch):
    """A small testbed-base in three shards, as the verb train writes it."""
    from benchmark.models.spec import build
    from benchmark.testbed import shards

    small = testbed.BASE.resized(num_layers=1, num_attention_heads=1, attention_head_dim=32, ffn_dim=16)
    monkeypatch.setattr(testbed, "BASE", small)
    folder = tmp_path / "sharded"
    weights = {name: value.detach().bfloat16() for name, value in build(small).named_parameters()}
    index, files = shards.write(weights, folder, small.name, largest=sum(w.nbytes for w in weights.values()) // 2)
    record = {"parameters": 7, "steps": 3, "sha256": sha256_file(index), "files": files}
    (folder / f"{small.name}.training.json").write_text(json.dumps(record))
    return folder


def test_shards_are_published_with_their_index(sharded, published) -> None:
    folder, asked = published
    entry = publish("testbed-base", sharded, "cpu", 5, 2)
    index = sharded / "testbed-base.safetensors.index.json"
    shards = sorted(path.name for path in sharded.glob("*-of-*"))
    assert len(shards) >= 2 and entry["file"] == index.name and entry["sha256"] == sha256_file(index)
    assert entry["bytes"] == sum((sharded / name).stat().st_size for name in [index.name, *shards])
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        [*shards, index.name, "manifest.json", "testbed-base.training.json"]
    )
    assert testbed.stated_files("testbed-base") == {folder / index.name: entry["sha256"]} | {
        folder / name: sha256_file(folder / name) for name in shards
    }
    testbed.load("testbed-base", folder=folder)


@pytest.mark.parametrize("harm", ["changed", "missing"])
def test_a_harmed_shard_is_refused(sharded, published, harm: str) -> None:
    shard = max(sharded.glob("*-of-*"))
    if harm == "missing":
        shard.unlink()
    else:
        data = bytearray(shard.read_bytes())
        data[-1] ^= 1
        shard.write_bytes(data)
    with pytest.raises(ValueError, match="the file is missing" if harm == "missing" else "SHA-256 is"):
        publish("testbed-base", sharded, "cpu", 5, 2)
    assert not published[0].exists()


def test_large_files_are_refused(sharded, published, monkeypatch) -> None:
    monkeypatch.setattr(verb, "LARGEST_FILE", 1000)
    with pytest.raises(ValueError, match="a file may have 1000"):
        publish("testbed-base", sharded, "cpu", 5, 2)
    with pytest.raises(ValueError, match="what is published here: testbed-nano, testbed-base, judge"):
        publish("mochi-1", sharded, "cpu", 5, 2)


@pytest.fixture
def judge(tmp_path):
    """What the verb train_judge would have written: the judge that is shipped."""
    folder = tmp_path / "judge"
    folder.mkdir()
    for name in ("judge.safetensors", "judge.training.json"):
        shutil.copyfile(SHIPPED / name, folder / name)
    return folder


def test_the_verb_publishes_a_judge(judge, published, capsys) -> None:
    folder, _ = published
    assert main(["publish", "--model", "judge", "--from", str(judge)]) == 0
    entry = json.loads(capsys.readouterr().out)
    assert sorted(path.name for path in folder.iterdir()) == ["judge.safetensors", "judge.training.json"]
    for path in folder.iterdir():
        assert path.read_bytes() == (judge / path.name).read_bytes()
    assert entry["sha256"] == sha256_file(folder / entry["file"]) and min(entry["preferred"].values()) >= 0.95
    assert main(["publish", "--model", "judge", "--from", str(folder)]) == 0, "in place"


def worse(record: dict) -> None:
    record["evaluation"]["preferred"]["not_trained"] = 0.94


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (worse, "at least 0.95 is needed"),
        (lambda record: record.update(sha256="0" * 64), "the training record says"),
    ],
)
def test_a_judge_that_is_not_fit_is_refused(judge, published, capsys, change, words) -> None:
    path = judge / "judge.training.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    assert main(["publish", "--model", "judge", "--from", str(judge)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and not published[0].exists()
    path.unlink()
    assert main(["publish", "--model", "judge", "--from", str(judge)]) == 2
    assert "python -m benchmark train_judge" in capsys.readouterr().err
