"""Records of speed with made-up numbers, for the tests of what reads them."""

from __future__ import annotations

from pathlib import Path

from benchmark.records import make_record, write_json
from benchmark.speed import settings
from benchmark.speed.cells import SpeedCell
from paper_figures.speed import Speed

CONFIG = """
experiment: trial
speed:
  kernel: flash4
  block: 128
  lora: {rank: 128}
  stages:
    hunyuanvideo/table1:
      shape: [117, 768, 1280]
      schedule: {steps: 50, dense_steps: 10, dense_layers: 0}
      methods: [dense, sta, radial, sana]
      density: 0.32
      whole: [radial/authors]
      authors: {radial: {decay: 0.95, sink: false}}
    hunyuanvideo/2x:
      shape: [253, 720, 1280]
      schedule: {steps: 50, dense_steps: 2, dense_layers: 2}
      methods: [dense, radial]
      density: 0.192
      training: [radial/paper]
    hunyuanvideo/4x:
      shape: [509, 720, 1280]
      schedule: {steps: 50, dense_steps: 2, dense_layers: 2}
      methods: [dense, radial]
      density: 0.117
      whole: [radial/paper]
      training: [radial/paper]
"""
DEVICE = {"type": "cuda", "name": "Some GPU", "driver": "1.2"}
STATE = {"before": {"sm_clock_mhz": 1980.0}, "during": {"looks": 0}, "after": {"sm_clock_mhz": 1410.0}}
WATCHED = {"looks": 9, "sm_clock_mhz": [1300.0, 1400.0, 1500.0], "power_w": [690.0, 697.0, 701.0]}
OUTSIDE, ATTENTION = 4.0, 16.0


def speed_of(folder: Path) -> Speed:
    """An experiment of two models' worth of stages, without records."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "speed.yaml").write_text(CONFIG)
    return Speed(folder / "results", folder / "speed.yaml")


def put(speed: Speed, kind: str, cell: SpeedCell, status: str = "passed", values=None, reason=None, **changes):
    """Writes a record into its place."""
    details = {"source": {"dense": "whole", "sparse": "parts"}, "flags": [], "knobs": cell.knobs, "kernel": "flash4"}
    details |= {"layers": 60, "tokens": cell.frames * 900, "gpu": {"own_attention": STATE}, "quartiles": {}}
    details |= changes.pop("details", {})
    device = changes.pop("device", DEVICE)
    record = make_record(kind, cell, status, values, reason=reason, details=details, device=device)
    write_json(speed.folder / "records" / cell.path / f"{kind}.json", record)


def latency(density: float, seconds: float, dense: float = 1000.0, **more: float) -> dict[str, float]:
    """Numbers of a latency record: a dense step of 4 s outside attention and 16 s in it."""
    values = {"generation_s": seconds, "generation_dense_s": dense, "speedup": dense / seconds, "density": density}
    values |= {
        "pflop": 570.0 * density,
        "pflop_dense": 570.0,
        "block_sparsity": 1 - density,
        "step_dense_s": 20.0,
        "step_sparse_s": 8.0,
    }
    values |= {"outside_s": OUTSIDE, "outside_unfused_s": 7.0, "step_dense_parts_s": OUTSIDE + ATTENTION}
    return (
        values | {"attention_call_dense_s": 0.25, "attention_call_s": 0.25 * density, "agreement_worst": 0.011} | more
    )


def training(seconds: float) -> dict[str, float]:
    """Numbers of a tuning record."""
    return {"step_s": seconds, "step_dense_s": 1200.0, "speedup": 1200 / seconds, "outside_s": 100.0, "density": 0.1}


def cells(speed: Speed, stage: str) -> dict[str, SpeedCell]:
    """The cells of a stage, by method/setting."""
    return {settings.key_of(cell): cell for cell in speed.stages[stage]}


def filled(speed: Speed) -> Speed:
    """Records of all that the stages have, one of every kind of failure among them."""
    one = cells(speed, "hunyuanvideo/table1")
    put(speed, "latency", one["dense/paper"], values=latency(1.0, 1000.0, text_encoder_s=0.1, vae_decoder_s=14.2))
    flags = {"flags": ["budget_missed"]}
    put(speed, "latency", one["sta/paper"], values=latency(0.4, 500.0), details=flags)
    put(speed, "latency", one["radial/paper"], "incorrect", reason="parts differ from whole steps by 4 %")
    put(speed, "latency", one["radial/authors"], values=latency(0.25, 520.0))
    put(speed, "latency", one["sana/paper"], "out_of_memory", reason="2 GiB were free")
    for stage, seconds in (("2x", 1500.0), ("4x", 2800.0)):
        long = cells(speed, f"hunyuanvideo/{stage}")
        for key, density, own, step in (
            ("dense/paper", 1.0, 4 * seconds, 1200.0),
            ("radial/paper", 0.1, seconds, 240.0),
        ):
            put(speed, "latency", long[key], values=latency(density, own, 4 * seconds))
            put(speed, "training", long[key], values=training(step), details={"flags": ["outside_scaled"]})
    return speed


def stepped(speed: Speed) -> Speed:
    """The same with whole steps of dense and radial."""
    one = cells(filled(speed), "hunyuanvideo/table1")
    for key, seconds in (("dense/paper", 20.0), ("radial/authors", 8.0)):
        put(speed, "step", one[key], values={"step_s": seconds}, details={"gpu": {"during": WATCHED}})
    return speed
