"""The verb ``publish-records``: copies an experiment's records, and a few of its clips, to where they are committed.

A cell's records are only taken together, when its clips were drawn and measured, and are packed by gzip.
Clips are lossless and too large to commit, so the few that are named are compressed, and an index says what they are.
The verb ``resume`` is the way back.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.canonical import record_files
from benchmark.packed import PACKED, pack
from benchmark.records import read_record, sha256_file, write_json
from benchmark.reference import REFERENCE, copy_file

logger = logging.getLogger(__name__)

CLIPS, INDEX = "clips", "clips.json"
OTHERS = ("attention", "output_error")
"""Folders of what is measured of a model besides its cells. JSON is copied; attention maps, arrays beside it, are too
large to commit, and the JSON holds their fits and curves."""
QUALITY = "20"
"""H.264's constant rate factor: 0 is lossless, about 18 looks so."""
LARGEST = 1_200_000
"""Bytes of all clips that are committed."""

EXAMPLE = """example:
  python -m benchmark publish-records --experiment testbed \\
      --clips 'testbed-base/4x/*/x4-tuned/000.mkv' 'testbed-base/1x/*/b30/00[0-2].mkv'
"""


def publish(
    experiment: str, results: Path | str = "results", reference: Path = REFERENCE, clips: Iterable[str] = ()
) -> list[Path]:
    """Copies what a run measured, to be committed: whole cells' records, those of models, and a few clips.

    What is committed already and was not measured anew stays. Cells without their measurement, and failures that were
    the machine's, are left out, and that is logged.

    Args:
        results: folder of all experiments.
        reference: copies go to ``<reference>/<experiment>``.
        clips: which clips, as patterns below the experiment's ``clips``.

    Returns:
        The copies.

    Raises:
        ValueError: there is nothing to publish, a record is not as it was written, the records may not stand in one
            table, a pattern fits no clip, a clip is not the one recorded, or the clips are too large.
    """
    from benchmark import comparable

    folder, target = Path(results) / experiment, reference / experiment
    cells: dict[Path, dict[str, Any]] = {}
    for path in record_files(experiment, results):
        cells.setdefault(path.parent, {})[path.name] = read_record(path)
    whole = {place: held for place, held in cells.items() if _is_whole(held)}
    if len(whole) < len(cells):
        left_out = (place.relative_to(folder / "records").as_posix() for place in cells if place not in whole)
        logger.info("left out, not drawn and measured: %s", ", ".join(left_out))
    own = {place / name: record for place, held in whole.items() for name, record in held.items()}
    # Of a cell that was made anew nothing stays, such as the record of a tuning that it has no more.
    there = record_files(experiment, reference) if (target / "records").exists() else []
    replaced = {target / place.relative_to(folder) for place in whole}
    kept = [path for path in there if path.parent not in replaced]
    comparable.check({path.as_posix(): record for path, record in own.items()} | {str(p): read_record(p) for p in kept})
    shown = _compressed(folder, whole, clips)
    for path in there:
        if path.parent in replaced:
            for held in (path, path.with_name(path.name + PACKED)):
                held.unlink(missing_ok=True)
    others = [path for name in OTHERS for path in sorted((folder / name).glob("*.json"))]
    copies = [pack(path, target / path.relative_to(folder)) for path in own]
    copies += [copy_file(path, target / path.relative_to(folder)) for path in others]
    return copies + _put_clips(shown, target, {p.relative_to(folder / "records"): h for p, h in whole.items()})


def _is_whole(held: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a cell's clips were drawn and measured, and no record of it is of a failure that was the machine's."""
    if any("transient" in record["details"] for record in held.values()):
        return False
    return {"generate.json", "measure.json"} <= held.keys()


def _compressed(
    folder: Path, cells: Mapping[Path, Mapping[str, Any]], patterns: Iterable[str]
) -> dict[str, tuple[bytes, dict[str, Any]]]:
    """The clips that patterns name, compressed, with what is known of each, by their path below ``clips``."""
    from benchmark.clips import read_clip

    found: dict[str, tuple[bytes, dict[str, Any]]] = {}
    for pattern in patterns:
        paths = sorted(path for path in (folder / CLIPS).glob(pattern) if path.is_file())
        if not paths:
            raise ValueError(f"--clips {pattern}: no clip in {folder / CLIPS} is named so")
        for path in paths:
            place = path.parent.relative_to(folder / CLIPS)
            generated = cells.get(folder / "records" / place, {}).get("generate.json", {"clips": []})
            told = next((clip for clip in generated["clips"] if clip["name"] == path.name), None)
            if told is None or sha256_file(path) != told["sha256"]:
                raise ValueError(f"clip {path}: not the one of a record that is published; draw it anew")
            said = {name: told[name] for name in ("prompt", "seed", "sha256")}
            found[(place / path.name).with_suffix(".mp4").as_posix()] = (compress(read_clip(path)), said)
    size = sum(len(content) for content, _ in found.values())
    if size > LARGEST:
        raise ValueError(f"--clips: {len(found)} clips have {size} bytes; at most {LARGEST} are committed")
    return found


def compress(frames: np.ndarray, fps: int = 8) -> bytes:
    """A clip as H.264 in MP4, which every browser plays; the same frames give the same bytes.

    Args:
        frames: uint8 (frames, height, width, 3), height and width even.
        fps: frames a second.
    """
    import io

    import av
    from av.codec.context import Flags

    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": QUALITY, "preset": "slow"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.codec_context.thread_count = 1  # more threads would change the bytes
        stream.codec_context.flags |= Flags.bitexact
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def _put_clips(
    clips: Mapping[str, tuple[bytes, Mapping[str, Any]]], target: Path, cells: Mapping[Path, Mapping[str, Any]]
) -> list[Path]:
    """Writes compressed clips and their index, which goes on with what is there.

    A clip that is there already goes if its cell was drawn anew and the clip has become another one.

    Args:
        clips: see ``_compressed``.
        cells: records of the cells that were published now, by their place below ``records``.
    """
    import json

    index = target / CLIPS / INDEX
    listed = json.loads(index.read_text()) if index.exists() else {}
    drawn = {place: {clip["sha256"] for clip in held["generate.json"]["clips"]} for place, held in cells.items()}
    stale = [
        name
        for name, said in listed.items()
        if Path(name).parent in drawn and said["sha256"] not in drawn[Path(name).parent]
    ]
    if not clips and not stale:
        return []
    for name in set(stale) - set(clips):
        logger.info("removed clip %s: its cell was drawn anew, and no --clips names it", name)
        (target / CLIPS / name).unlink(missing_ok=True)
        del listed[name]
    for name, (content, said) in clips.items():
        path = target / CLIPS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        listed[name] = said
    write_json(index, dict(sorted(listed.items())))
    return [*(target / CLIPS / name for name in clips), index]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.description = "Copy an experiment's records, and a few of its clips, to results/reference, to be committed."
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--experiment", required=True, help="experiment whose records are copied")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of all experiments")
    parser.add_argument("--reference", type=Path, default=REFERENCE, help="folder of what is committed")
    parser.add_argument(
        "--clips",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="clips that are compressed and copied, such as MODEL/LENGTH/METHOD/VARIANT/000.mkv; * fits any name",
    )


def run(args: argparse.Namespace) -> int:
    """Publishes, and prints how much."""
    copies = publish(args.experiment, args.results, args.reference, args.clips)
    size = sum(path.stat().st_size for path in copies)
    print(f"{len(copies)} files of {size} bytes are in {args.reference / args.experiment}")
    return 0
