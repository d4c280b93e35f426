"""What stands before and after the transformer: text encoders and the VAE's decoder, with random weights.

They are the classes of diffusers' pipelines with the released sizes:

- HunyuanVideo: Llama 3 8B as its pipeline's text encoder (95 tokens of template and 256 of prompt) and CLIP-L (77
  tokens), one prompt, since guidance is embedded. The decoder is tiled, as diffusers' documentation has it.
- Wan2.1: UMT5-XXL, 512 tokens, two prompts (positive and negative). The decoder goes frame by frame, not tiled.
- Mochi 1: T5 v1.1 XXL, 256 tokens, two prompts. The decoder is tiled.

The sizes are those in the ``config.json`` files of hunyuanvideo-community/HunyuanVideo, Wan-AI/Wan2.1-T2V-14B-Diffusers
and genmo/mochi-1-preview; the VAEs' are the defaults of their diffusers classes, which are the released ones.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from benchmark.speed import clock, expected
from benchmark.speed.cells import SpeedCell, from_settings
from benchmark.speed.clock import Clock, Measured, Unsupported, spread
from benchmark.speed.network import DTYPE, check_device, layout_of, spec_of

logger = logging.getLogger(__name__)

TEXT, DECODER = "text_encoder", "vae_decoder"


@dataclass(frozen=True)
class Encoder:
    """A text encoder: class and configuration class in transformers, its arguments, and what it is given.

    Args:
        tokens: tokens of a prompt, padding among them.
        prompts: prompts a clip.
    """

    model: str
    config: str
    arguments: Mapping[str, Any]
    tokens: int
    prompts: int


@dataclass(frozen=True)
class Ends:
    """Text encoders, and the decoder's class in diffusers with whether it is tiled."""

    encoders: tuple[Encoder, ...]
    decoder: str
    tiled: bool


_T5 = {
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
_LLAMA = {
    "vocab_size": 128320,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
}
_CLIP = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
}

ENDS = MappingProxyType(
    {
        "hunyuanvideo": Ends(
            (
                Encoder("LlamaModel", "LlamaConfig", _LLAMA, 351, 1),
                Encoder("CLIPTextModel", "CLIPTextConfig", _CLIP, 77, 1),
            ),
            "AutoencoderKLHunyuanVideo",
            tiled=True,
        ),
        "wan2.1-14b": Ends(
            (Encoder("UMT5EncoderModel", "UMT5Config", {**_T5, "vocab_size": 256384}, 512, 2),),
            "AutoencoderKLWan",
            tiled=False,
        ),
        "mochi-1": Ends(
            (Encoder("T5EncoderModel", "T5Config", {**_T5, "vocab_size": 32128}, 256, 2),),
            "AutoencoderKLMochi",
            tiled=True,
        ),
    }
)

SMALL = MappingProxyType(
    {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 32,
        "num_layers": 1,
        "num_heads": 4,
    }
)
"""Sizes in a trial."""


def measure(planned: Mapping[str, Any], records: Path, timer: Clock, device: str) -> None:
    """Text encoders and decoder of a stage, each in a record of its own.

    Raises:
        OutOfTime: the job's time is up.
    """
    stage = from_settings(next(iter(planned["cells"].values()))["cell"]).of_stage()
    for kind, function in ((TEXT, text_encoder), (DECODER, decoder)):
        path = records / stage.path / f"{kind}.json"
        if clock.done(path, stage, device) is None:
            timer.reserve(15 + (expected.decoder_s(stage) if kind == DECODER else 0), f"{stage.stage}: {kind}")
            clock.record(kind, stage, path, device, lambda f=function: f(stage, timer, device))


def text_encoder(cell: SpeedCell, timer: Clock, device: str) -> Measured:
    """Seconds in which the prompts of a clip are encoded, all encoders together."""
    check_device(device)
    timings = {}
    for encoder in _ends(cell).encoders:
        model = _build(lambda e=encoder: _encoder(e, small=bool(cell.trial)), device)
        size = model.config.vocab_size
        tokens = torch.randint(0, size, (encoder.prompts, encoder.tokens), device=device)

        def run(model=model, tokens=tokens) -> Any:
            with torch.no_grad():
                return model(input_ids=tokens, attention_mask=torch.ones_like(tokens))

        timings[encoder.model] = timer.time(run, warmup=2, calls=10, least=3, within_s=20, what=encoder.model)
        del model, run
        clock.free(device)
    total = sum(found.median for found in timings.values())
    details = {"tokens": {e.model: e.tokens for e in _ends(cell).encoders}, "dtype": str(DTYPE)}
    return {f"{TEXT}_s": total}, spread(timings) | details


def decoder(cell: SpeedCell, timer: Clock, device: str) -> Measured:
    """Seconds in which a clip's latent is decoded."""
    check_device(device)
    ends, spec, layout = _ends(cell), spec_of(cell), layout_of(cell)

    def build() -> torch.nn.Module:
        import diffusers

        return getattr(diffusers, ends.decoder)()

    vae = _build(build, device)
    if ends.tiled:
        vae.enable_tiling()
    shape = (1, *spec.latent_shape(layout))
    small = (1, spec.in_channels, 2, 16, 16)

    def run(size: tuple[int, ...] = shape) -> torch.Tensor:
        with torch.no_grad():
            return vae.decode(torch.randn(size, device=device, dtype=DTYPE), return_dict=False)[0]

    run(small)
    found = timer.time(run, warmup=0, calls=3, least=1, within_s=60, what=ends.decoder)
    return {f"{DECODER}_s": found.median}, spread({"decode": found}) | {
        "class": ends.decoder,
        "tiled": ends.tiled,
        "dtype": str(DTYPE),
    }


def _ends(cell: SpeedCell) -> Ends:
    if cell.model not in ENDS:
        raise Unsupported(f"the text encoder and decoder of {cell.model} are not described")
    return ENDS[cell.model]


def _encoder(encoder: Encoder, small: bool) -> torch.nn.Module:
    import transformers

    arguments = dict(encoder.arguments)
    if small:
        arguments |= {key: value for key, value in SMALL.items() if key in arguments}
    config = getattr(transformers, encoder.config)(**arguments)
    return getattr(transformers, encoder.model)(config)


def _build(build: Callable[[], torch.nn.Module], device: str) -> torch.nn.Module:
    """A module with random weights, made on the device in bfloat16."""
    before = torch.get_default_dtype()
    with torch.device(device):
        torch.set_default_dtype(DTYPE)
        try:
            return build().eval()
        finally:
            torch.set_default_dtype(before)


def finished(planned: Mapping[str, Any], records: Path, device: str) -> bool:
    """Whether both have a record."""
    stage = from_settings(next(iter(planned["cells"].values()))["cell"]).of_stage()
    return clock.finished([(records / stage.path / f"{kind}.json", stage) for kind in (TEXT, DECODER)], device)
