"""Makes one table or figure: ``python -m paper_figures table1 --experiment-folder results/quick --out FOLDER``."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from pathlib import Path

from paper_figures.experiment import Experiment

FOLDER = Path(__file__).resolve().parent


def targets() -> list[str]:
    """Names of all tables and figures: each is a file here, ``table<number>.py`` or ``figure<number>.py``."""
    return sorted(
        path.stem for kind in ("table", "figure") for path in FOLDER.glob(f"{kind}[0-9]*.py") if path.stem != kind
    )


def make(target: str, source: Experiment, out: Path) -> list[Path]:
    """Makes a table or figure.

    Args:
        target: one of ``targets()``.
        source: the experiment that it shows.
        out: folder for its files.

    Returns:
        The files written.

    Raises:
        ValueError: what it needs is missing or not in order.
    """
    out.mkdir(parents=True, exist_ok=True)
    return importlib.import_module(f"paper_figures.{target}").make(source, out)


def main(words: list[str] | None = None) -> int:
    """The command line. Returns the exit status: 2 where something that the target needs is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m paper_figures",
        description="Make a table (CSV, Markdown, LaTeX) or a figure (PDF, PNG) from an experiment's results.",
        epilog="example: python -m paper_figures table1 --experiment-folder results/quick --out results/quick/tables",
    )
    parser.add_argument("target", metavar="TARGET", choices=targets(), help=", ".join(targets()))
    parser.add_argument("--experiment-folder", type=Path, required=True, metavar="FOLDER", help="results/EXPERIMENT")
    parser.add_argument("--records", type=Path, metavar="FILE", help="the tidy table (default: FOLDER/records.parquet)")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the files go")
    args = parser.parse_args(words)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for chatty in ("fontTools", "matplotlib"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    source = Experiment(args.experiment_folder, args.records or args.experiment_folder / "records.parquet")
    try:
        written = make(args.target, source, args.out)
    except ValueError as error:
        print(f"{args.target}: {error}", file=sys.stderr)
        return 2
    print("\n".join(str(path) for path in written))
    return 0


if __name__ == "__main__":
    sys.exit(main())
