"""Options that the targets and the page share: where records are, and what is logged."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from paper_figures import testbed
from paper_figures.speed import CONFIG


def add_records(parser: argparse.ArgumentParser, required: bool) -> None:
    """Adds the options that say where the records of an experiment, of speed and of the quality experiments are.

    Args:
        required: whether the experiment's own must be given.
    """
    parser.add_argument(
        "--experiment-folder", type=Path, required=required, metavar="FOLDER", help="results/EXPERIMENT"
    )
    parser.add_argument("--records", type=Path, metavar="FILE", help="the tidy table (default: FOLDER/records.parquet)")
    for name, what in (("speed", "records of speed"), ("testbed", "records of the quality experiments")):
        text = f"{what} are in FOLDER/records; none need be there"
        parser.add_argument(f"--{name}-folder", type=Path, metavar="FOLDER", help=text)
    parser.add_argument(
        "--testbed-records", type=Path, metavar="FILE", help="their tidy table (default: FOLDER/records.parquet)"
    )
    for name, default, what in (
        ("speed", CONFIG, "what they were measured under (default: h100)"),
        ("testbed", testbed.CONFIG, "what names their variants (default: testbed)"),
    ):
        parser.add_argument(f"--{name}-config", type=Path, default=default, metavar="FILE", help=what)


def log_to_stderr() -> None:
    """Logs what is told from INFO on, and of libraries that tell much, only warnings."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for chatty in ("fontTools", "matplotlib", "PIL"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
