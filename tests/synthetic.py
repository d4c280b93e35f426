"""Records as the verbs write them, with made-up numbers, for the tests of what reads records."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmark.cell import Cell
from benchmark.records import make_record, sha256_file, write_json

EXPERIMENT = "trial"
MODEL = "testbed-nano"
FRAMES = {"1x": 16, "2x": 32, "4x": 64}
METHODS = (
    "dense", "riflex", "sta", "pa", "svg", "spatial", "temporal", "longlora", "sana", "harmonic", "radial", "random",
)  # fmt: skip
PROMPTS = (
    "a red circle moving left quickly over waves panning right",
    "a blue square moving up slowly and a green triangle moving right quickly over clouds panning left",
    "a yellow ring moving down slowly over a photograph of a cat panning up",
)
UNTRAINED_NOTE = "lpips_untrained is not LPIPS: its trunk is random. Its values rank no method."
DEVICE = {"type": "cpu", "name": "Some CPU", "threads": 2}


def digest(*words: object) -> str:
    """A SHA-256 of anything."""
    return hashlib.sha256(repr(words).encode()).hexdigest()


def cell(method: str, length: str = "1x", **changes: Any) -> Cell:
    """A cell of the trial experiment."""
    settings = {
        "experiment": EXPERIMENT, "model": MODEL, "length": length, "frames": FRAMES[length], "height": 64,
        "width": 64, "method": method, "budget": 0.5, "block": 4, "steps": 16, "dense_steps": 4, "clips": 3, "seed": 7,
    }  # fmt: skip
    return Cell(**(settings | changes))


def quality(method: str, length: str, clip: int) -> float:
    """A made-up number between 0 and 1, the same each time."""
    return int(digest(method, length, clip)[:6], 16) / 16**6


def generate_record(of: Cell, clips: list[dict[str, Any]] | None = None, **changes: Any) -> dict[str, Any]:
    """A ``generate`` record that passed."""
    linear = of.method == "sana"
    dense = of.method in ("dense", "riflex")
    density = 1.0 if dense else 0.001 if linear else 0.5 + 0.02 * (quality(of.method, of.length, 9) - 0.5)
    factor = of.frames / 16
    pflop_dense = 1.2e-4 * factor + 2e-5 * factor**2
    pflop = 1.2e-4 * factor + 2e-5 * factor**2 * (0.25 + 0.75 * density)
    settings = {
        "values": {"density": density, "pflop": pflop, "pflop_dense": pflop_dense, "generation_s": 3.1 * factor},
        "units": {"generation_s": "s"},
        "clips": clips
        if clips is not None
        else [
            {"name": f"{n:03d}.mkv", "prompt": PROMPTS[n], "seed": n, "sha256": digest(of.method, of.length, n)}
            for n in range(of.clips)
        ],
        "details": {"knobs": dict(of.knobs), "kernel": "sdpa"},
        "hashes": {
            "mask": digest("mask", of.method, of.length),
            "weights": digest("weights", of.model),
            "prompts": digest("prompts", of.length),
            "noise": digest("noise", of.model, of.length),
            "clips": digest("clips", of.method, of.length),
        },
        "device": DEVICE,
    }
    return make_record("generate", of, "passed", **(settings | changes))


def measure_record(of: Cell, **changes: Any) -> dict[str, Any]:
    """A ``measure`` record that passed, without LPIPS' trained weights and without a judge for vision reward."""
    same = of.method == "dense" or (of.method == "riflex" and of.length == "1x")
    clips = []
    for n in range(of.clips):
        q = quality(of.method, of.length, n)
        values = {
            "psnr": 100.0 if same else 18 + 8 * q,
            "ssim": 1.0 if same else 0.7 + 0.2 * q,
            "lpips_untrained": 0.0 if same else 0.3 - 0.2 * q,
            "adherence": 0.6 + 0.3 * q, "count": 0.9, "colours": 0.8, "shapes": 0.7, "directions": 0.6,
        }  # fmt: skip
        clips.append({"name": f"{n:03d}.mkv", "values": values})
    means = {key: sum(clip["values"][key] for clip in clips) / of.clips for key in clips[0]["values"]}
    capped = {"psnr_capped": of.frames * of.clips} if same else {}
    settings = {
        "values": means,
        "clips": clips,
        "details": {
            "metrics": {
                "psnr": {"status": "passed", "flags": capped, "columns": ["psnr"], "footnotes": []},
                "ssim": {"status": "passed", "flags": {}, "columns": ["ssim"], "footnotes": []},
                "lpips": {
                    "status": "passed", "flags": {}, "columns": ["lpips_untrained"], "footnotes": [UNTRAINED_NOTE],
                },
                "vision_reward": {
                    "status": "unsupported", "reason": "no judge model for vision reward is available yet",
                    "flags": {}, "columns": [], "footnotes": [],
                },
                "adherence": {
                    "status": "passed", "flags": {}, "footnotes": [],
                    "columns": ["adherence", "count", "colours", "shapes", "directions"],
                },
            }
        },
        "hashes": {
            "noise": digest("noise", of.model, of.length),
            "reference": digest("clips", "dense", of.length),
            "candidate": digest("clips", of.method, of.length),
        },
        "device": DEVICE,
    }  # fmt: skip
    return make_record("measure", of, "passed", **(settings | changes))


def path_of(folder: Path, of: Cell, kind: str) -> Path:
    """Where a record of a cell belongs."""
    return folder / "records" / of.path / f"{kind}.json"


def write_records(
    folder: Path, methods: Iterable[str] = METHODS, lengths: Iterable[str] = ("1x", "2x", "4x"), clips: bool = False
) -> list[Path]:
    """Records of all cells, with clips if they are asked for. Returns their paths."""
    paths = []
    for length in lengths:
        for method in methods:
            of = cell(method, length)
            made = write_clips(folder, of) if clips else None
            for kind, record in (("generate", generate_record(of, made)), ("measure", measure_record(of))):
                paths.append(path_of(folder, of, kind))
                write_json(paths[-1], record)
    return paths


def write_clips(folder: Path, of: Cell) -> list[dict[str, Any]]:
    """Clips of the procedural world with noise, standing for generated ones. Returns what ``generate`` says of them."""
    import numpy as np

    from benchmark.clips import write_clip

    noise = np.random.default_rng(len(of.method))
    told = []
    for n, (prompt, clip) in enumerate(_world(of.clips, of.frames)):
        noisy = clip + noise.normal(0, 0 if of.method == "dense" else 15, clip.shape)
        path = folder / "clips" / of.path / f"{n:03d}.mkv"
        write_clip(path, noisy.clip(0, 255).astype(np.uint8))
        told.append({"name": path.name, "prompt": prompt, "seed": n, "sha256": sha256_file(path)})
    return told


@functools.cache
def _world(clips: int, frames: int) -> list[tuple[str, Any]]:
    """Prompts and clips, uint8 (frames, height, width, 3)."""
    from benchmark.testbed.grammar import describe
    from benchmark.testbed.world import render, sample_scene, to_uint8

    scenes = [sample_scene(seed) for seed in range(clips)]
    return list(zip(map(describe, scenes), to_uint8(render(scenes, frames)).numpy(), strict=True))


def collected(folder: Path, paths: Iterable[Path]) -> Path:
    """Collects records as the verb does. Returns the table."""
    from benchmark.collect import collect, write_csv, write_parquet

    rows = collect(EXPERIMENT, paths)
    write_csv(rows, folder / "records.csv")
    write_parquet(rows, folder / "records.parquet")
    return folder / "records.parquet"
