"""Adapters of a style and of a length, loaded together: their changes add up, and what does not fit is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import synthetic
import torch
from safetensors.torch import load_file
from tiny_testbed import GRID, tiny_spec, tiny_transformer

from benchmark.records import make_record
from benchmark.tuning import adapters
from benchmark.tuning.places import WEIGHTS
from benchmark.tuning.settings import TuningSettings

SPEC = tiny_spec()


def write_adapter(folder: Path, rank: int, seed: int, base: str = "a" * 64) -> Path:
    """An adapter with random factors, and the record of its tuning."""
    model = adapters.attach(tiny_transformer(SPEC), TuningSettings(rank=rank, seed=seed))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_" in name:
                value.copy_(0.2 * torch.randn(value.shape, generator=generator))
    made = folder.with_name(f".{folder.name}")
    adapters.save(model, TuningSettings(rank=rank, seed=seed), made)
    of = replace(synthetic.cell("dense"), tuned=True, tuning_settings={"rank": rank})
    record = make_record("tune", of, "passed", {"tuning_s": 1.0}, hashes={"weights": base}, device=synthetic.DEVICE)
    adapters.put(made, folder, record)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    """A length adapter of rank 3 and a style adapter of rank 2."""
    where = tmp_path_factory.mktemp("adapters")
    return [write_adapter(where / "length", 3, 1), write_adapter(where / "style", 2, 2)]


def delta(folder: Path) -> dict[str, torch.Tensor]:
    """What an adapter adds to each weight, by the weight's name: B A, for its alpha is its rank."""
    state = {key.removeprefix("base_model.model."): value.float() for key, value in load_file(folder / WEIGHTS).items()}
    layers = {key.rpartition(".lora_")[0] for key in state}
    return {f"{one}.weight": state[f"{one}.lora_B.weight"] @ state[f"{one}.lora_A.weight"] for one in layers}


def added(*changes: dict[str, torch.Tensor]) -> torch.nn.Module:
    """The base model with changes added to its weights by hand."""
    model = tiny_transformer(SPEC)
    with torch.no_grad():
        for name, value in model.named_parameters():
            for change in changes:
                if name in change:
                    value += change[name]
    return model


def output(model: torch.nn.Module) -> torch.Tensor:
    noise = torch.randn(1, *SPEC.latent_shape(GRID), generator=torch.Generator().manual_seed(5))
    text = torch.randn(
        1, SPEC.text_tokens, SPEC.transformer_config["text_dim"], generator=torch.Generator().manual_seed(6)
    )
    with torch.no_grad():
        return model(noise, torch.tensor([500.0]), text, return_dict=False)[0]


def test_the_merged_model_is_the_base_with_both_changes_added(folders):
    changes = [delta(folder) for folder in folders]
    assert len(changes[0]) == 4 * SPEC.layers and changes[0].keys() == changes[1].keys()
    both = output(adapters.load_merged(tiny_transformer(SPEC), folders))
    torch.testing.assert_close(both, output(added(*changes)), rtol=1e-4, atol=1e-5)
    alone = output(adapters.load_merged(tiny_transformer(SPEC), folders[:1]))
    torch.testing.assert_close(alone, output(added(changes[0])), rtol=1e-4, atol=1e-5)
    for one in ([], changes[:1], changes[1:]):
        assert float((both - output(added(*one))).abs().max()) > 1e-2
    turned = output(adapters.load_merged(tiny_transformer(SPEC), folders[::-1]))
    torch.testing.assert_close(both, turned, rtol=1e-4, atol=1e-5)


def test_nothing_of_peft_is_left_in_the_layers(folders):
    merged = adapters.load_merged(tiny_transformer(SPEC), folders)
    names = [name for name, _ in tiny_transformer(SPEC).named_parameters()]
    assert [name for name, _ in merged.named_parameters()] == names


def test_what_cannot_be_merged_is_refused(folders, tmp_path):
    model = tiny_transformer(SPEC)
    with pytest.raises(ValueError, match="none: a folder or several, each once"):
        adapters.load_merged(model, [])
    with pytest.raises(ValueError, match="a folder or several, each once"):
        adapters.load_merged(model, [folders[0], folders[0] / ".." / "length"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: no tune.json; a folder that the verb tune wrote"):
        adapters.load_merged(model, [folders[0], tmp_path / "empty"])
    other = write_adapter(tmp_path / "other", 2, 3, base="b" * 64)
    with pytest.raises(
        ValueError, match=r"other: tuned from the weights bbbbbbbbbbbb; those of .*length are aaaaaaaaaaaa"
    ):
        adapters.load_merged(model, [folders[0], other])
