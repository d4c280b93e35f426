"""Builds the page: ``python -m paper_figures.report --experiment-folder results/quick --out results/quick/report``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from paper_figures import testbed as testbeds
from paper_figures.experiment import Experiment
from paper_figures.options import add_records, log_to_stderr
from paper_figures.report.page import build
from paper_figures.speed import Speed


def main(words: list[str] | None = None) -> int:
    """The command line. Returns the exit status: 2 where something that the page needs is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m paper_figures.report",
        description="Build the report of an experiment: one page that opens from the file system, without a network.",
        epilog="example: python -m paper_figures.report --experiment-folder results/quick --out results/quick/report",
    )
    add_records(parser, required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where index.html and clips/ go")
    parser.add_argument(
        "--front", type=Path, metavar="FILE", help="a second copy of the page, whose links lead to the same files"
    )
    args = parser.parse_args(words)
    log_to_stderr()
    source = Experiment(args.experiment_folder, args.records or args.experiment_folder / "records.parquet")
    speed = Speed(args.speed_folder, args.speed_config) if args.speed_folder else None
    folder, table, config = args.testbed_folder, args.testbed_records, args.testbed_config
    try:
        testbed = testbeds.load(folder, table, config) if folder else None
        written = build(source, args.out, args.front, speed=speed, testbed=testbed, testbed_config=config)
    except ValueError as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    print("\n".join(str(path) for path in written))
    return 0


if __name__ == "__main__":
    sys.exit(main())
