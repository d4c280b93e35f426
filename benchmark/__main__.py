"""``python -m benchmark VERB``: any job of the benchmark, by hand. A verb is a module of this package."""

from __future__ import annotations

import argparse
import functools
import importlib
import logging
import sys
from types import MappingProxyType

# What stands in --help; a verb's module is imported only when it is asked for, so that every job starts quickly.
VERBS = MappingProxyType(
    {
        "config": "check a configuration, and list its cells",
        "inputs": "draw the prompts and the noise that all methods of a model and length share",
        "generate": "draw a cell's clips",
        "measure": "measure a cell's clips with all metrics",
        "collect": "gather records into one tidy table, and refuse those that may not meet in one",
        "audit": "measure a random share of the cells anew, and hash every file that a record names",
        "compare": "measure two clips or two folders of clips",
        "plan": "count tokens, blocks and operations of a method on a model, without a GPU",
        "latency": "time steps, attention and tuning at the paper's shapes, with random weights",
        "estimate": "jobs, operations, hours and disk of a configuration before it is run",
        "sweep": "plan the paper's models over the number of frames",
        "probe": "record attention maps of a testbed and fit their decay",
        "output_error": "take the error of each method's attention output against dense attention",
        "train": "train a testbed from nothing",
        "tune": "train a testbed's adapter for a longer length under a method",
        "train_judge": "train the judge that scores a testbed's clips",
        "publish": "copy trained weights into the repository, with their training record",
        "publish-records": "copy an experiment's records to results/reference, to be committed",
        "resume": "go on from the committed records of an experiment on another machine",
        "kernels_bench": "check and time attention kernels at a model's shape",
        "new-method": "write a new method's file, which runs as it is",
    }
)

# Verbs that draw or measure clips, or train for them: if the kernel kills one, a record says so.
SUPERVISED = ("generate", "measure", "tune")

# Verbs whose module is not their own name in this package.
MODULES = MappingProxyType({"train": "testbed.train", "train_judge": "reward.train_judge"})

EXAMPLES = """examples:
  python -m benchmark plan --model wan2.1-14b --frames 161 --height 720 --width 1280 --method radial --json
  python -m benchmark new-method my_method
  python -m benchmark VERB --help    what a verb takes, with an example
"""

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def parser_of_all() -> argparse.ArgumentParser:
    """The options before the verb, and the verb's name."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmark",
        usage="python -m benchmark [-h] [--quiet] [--traceback] [--one-gpu | --share-gpu | --gpus N] VERB ...",
        description="Any job of the benchmark, by hand.",
        epilog="verbs:\n"
        + "\n".join(f"  {name:<17}{line}" for name, line in VERBS.items())
        + "\n\n"
        + EXAMPLES
        + "\nExit status: 0 done, 1 a job failed, 2 something that was asked for is not possible.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quiet", action="store_true", help="log warnings and errors only")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error comes from")
    parser.add_argument(
        "--one-gpu", action="store_true", help="take a GPU that no other such job of this machine holds"
    )
    parser.add_argument(
        "--share-gpu",
        action="store_true",
        help="the same, but others that say this may hold it too; no time counts then",
    )
    parser.add_argument("--gpus", type=int, metavar="N", help="the same for N GPUs; refused where there are fewer")
    parser.add_argument("verb", metavar="VERB", help="one of the verbs below")
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def main(words: list[str] | None = None, alone: bool = False) -> int:
    """Runs a verb and returns its exit status; what a user got wrong is one line on stderr and status 2.

    Args:
        alone: whether the process ends with the verb, so that it may import less than another would need.
    """
    args = parser_of_all().parse_args(words)
    level = logging.WARNING if args.quiet else logging.INFO
    logging.basicConfig(level=level, format=FORMAT, datefmt="%H:%M:%S", stream=sys.stderr)
    try:
        module = importlib.import_module(f"benchmark.{module_name(args.verb)}")
        parser = argparse.ArgumentParser(prog=f"python -m benchmark {args.verb}")
        module.add_arguments(parser)
        asked = parser.parse_args(args.words)
        if args.one_gpu or args.share_gpu or args.gpus is not None:
            from benchmark import gpus

            getattr(module, "before_gpu", lambda asked: None)(asked)
            count = 1 if args.gpus is None else args.gpus
            gpu = gpus.claim(count, shared=args.share_gpu)  # noqa: F841 - held until the process ends
        if alone and getattr(module, "is_lean", lambda asked: False)(asked):
            from benchmark import lean

            lean.import_testbed()
        return module.run(asked)
    except ValueError as error:
        if args.traceback:
            raise
        print(f"{args.verb}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except (OSError, MemoryError) as error:  # a full disk, a folder that may not be written to, too little memory
        if args.traceback:
            raise
        print(f"{args.verb}: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 1


def module_name(verb: str) -> str:
    """The module of a verb, below ``benchmark``.

    Raises:
        ValueError: there is no such verb; the nearest is named.
    """
    if verb not in VERBS:
        import difflib

        close = difflib.get_close_matches(verb, VERBS, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"the verb is unknown: {hint}allowed: {', '.join(VERBS)}")
    return MODULES.get(verb, verb.replace("-", "_"))


if __name__ == "__main__":
    if parser_of_all().parse_args().verb in SUPERVISED:
        from benchmark.supervise import supervise

        sys.exit(supervise(functools.partial(main, alone=True)))
    sys.exit(main(alone=True))
