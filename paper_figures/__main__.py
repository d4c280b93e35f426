"""Makes one table or figure: ``python -m paper_figures table1 --experiment-folder results/quick --out FOLDER``."""

from __future__ import annotations

import argparse
import importlib
import re
import shutil
import sys
from pathlib import Path

from paper_figures import testbed as testbeds
from paper_figures.experiment import Experiment
from paper_figures.options import add_records, log_to_stderr
from paper_figures.speed import Speed
from paper_figures.testbed import Testbed

FOLDER = Path(__file__).resolve().parent
NAMES = re.compile(r"(table|figure)(\d+(_speed|_testbed)?|_[a-z]+)|ablation_[a-z]")
EXPERIMENT, SPEED, BOTH, TESTBED = "experiment", "speed", "both", "testbed"
WITH_TESTBED = "experiment and testbed"
"""What a target reads, as its ``READS`` says: an experiment (where it says nothing), records of speed, both of these,
the quality experiments on a testbed, or an experiment and those, if they are given."""
PICTURES = (".pdf", ".png")


def targets() -> list[str]:
    """Names of all tables and figures: each is a file here.

    They are named ``table1``, ``table1_speed``, ``table1_testbed`` or ``table_words``, and figures likewise;
    ``ablation_a`` is a table and a figure.
    """
    return sorted(path.stem for path in FOLDER.glob("*.py") if NAMES.fullmatch(path.stem))


def reads(target: str) -> str:
    """What a target is made from: ``experiment``, ``speed``, ``both``, ``testbed``, ``experiment and testbed``."""
    return getattr(importlib.import_module(f"paper_figures.{target}"), "READS", EXPERIMENT)


def make(
    target: str, source: Experiment | None, out: Path, speed: Speed | None = None, testbed: Testbed | None = None
) -> list[Path]:
    """Makes a table or figure.

    Args:
        target: one of ``targets()``.
        source: the experiment that it shows.
        out: folder for its files.
        speed: the records of speed that it shows.
        testbed: the quality experiments that it shows.

    Returns:
        The files written.

    Raises:
        ValueError: what it needs is missing or not in order.
    """
    module, wanted = importlib.import_module(f"paper_figures.{target}"), reads(target)
    if wanted in (EXPERIMENT, BOTH, WITH_TESTBED) and source is None:
        raise ValueError("--experiment-folder is needed, such as results/quick")
    if wanted == SPEED and speed is None:
        raise ValueError("--speed-folder is needed, such as results/h100 or results/reference/h100")
    if wanted == TESTBED and testbed is None:
        raise ValueError("--testbed-folder is needed, such as results/testbed or results/reference/testbed")
    out.mkdir(parents=True, exist_ok=True)
    if wanted == BOTH:
        return module.make(source, out, speed)
    if wanted == WITH_TESTBED:
        return module.make(source, out, testbed)
    return module.make({SPEED: speed, TESTBED: testbed}.get(wanted, source), out)


def put_pictures(written: list[Path], folder: Path) -> list[Path]:
    """Moves the pictures among the files of a target into a folder of their own. Returns all files."""
    folder.mkdir(parents=True, exist_ok=True)
    return [Path(shutil.move(path, folder / path.name)) if path.suffix in PICTURES else path for path in written]


def main(words: list[str] | None = None) -> int:
    """The command line. Returns the exit status: 2 where something that the target needs is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m paper_figures",
        description="Make a table (CSV, Markdown, LaTeX) or a figure (PDF, PNG) from an experiment's results.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  python -m paper_figures table1 --experiment-folder results/quick --out results/quick/tables\n"
        "  python -m paper_figures table1_speed --speed-folder results/reference/h100 --out results/quick/tables\n"
        "  python -m paper_figures table1_testbed --testbed-folder results/testbed --out results/testbed/tables",
    )
    parser.add_argument("target", metavar="TARGET", choices=targets(), help=", ".join(targets()))
    add_records(parser, required=False)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the files go")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="where PDF and PNG go (default: as --out)")
    args = parser.parse_args(words)
    log_to_stderr()
    folder = args.experiment_folder
    source = Experiment(folder, args.records or folder / "records.parquet") if folder else None
    speed = Speed(args.speed_folder, args.speed_config) if args.speed_folder else None
    try:
        of_testbed = reads(args.target) in (TESTBED, WITH_TESTBED) and args.testbed_folder
        testbed = testbeds.load(args.testbed_folder, args.testbed_records, args.testbed_config) if of_testbed else None
        written = make(args.target, source, args.out, speed, testbed)
        written = put_pictures(written, args.pictures) if args.pictures else written
    except ValueError as error:
        print(f"{args.target}: {error}", file=sys.stderr)
        return 2
    print("\n".join(str(path) for path in written))
    return 0


if __name__ == "__main__":
    sys.exit(main())
