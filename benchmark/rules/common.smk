# The checked configuration, and the names that the rules share. Nothing here is a rule.

import json
import logging
import os
import shlex
import sys
from pathlib import Path

from benchmark import again
from benchmark import config as experiments
from benchmark import gpus
from benchmark import processes
from benchmark.estimate import BUDGETS_CHECKED
from benchmark.tuning import places

logging.getLogger("benchmark").setLevel(logging.INFO)
logging.getLogger("benchmark").addHandler(logging.StreamHandler())

# The jobs' python is the one that Snakemake runs on; an environment of Snakemake's own (--sdm conda) goes before it.
# The check of the configuration plans small masks, for which more threads only wait for each other.
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
os.environ.update(PATH=PATH, OMP_NUM_THREADS="1")

try:
    # A process that Snakemake starts for a single job need not hold the budget against all methods again.
    unchecked = workflow.is_main_process and BUDGETS_CHECKED not in os.environ
    CONFIG = experiments.check(experiments.from_words(config), budgets=unchecked)
    CELLS = {cell.path.as_posix(): cell for cell in experiments.cells(CONFIG)}
    GPUS = gpus.visible()
except ValueError as error:
    where = ", ".join(map(os.path.relpath, workflow.configfiles))
    where += " with --config" if workflow.config_settings.config else ""
    print(f"{where}: {error}", file=sys.stderr)
    sys.exit(2)

RESULTS = f"results/{CONFIG['experiment']}"
LOGS = f"logs/{CONFIG['experiment']}"
TABLES = f"{RESULTS}/tables"
FIGURES = f"{RESULTS}/figures"
ENVIRONMENT = "../../envs/cuda.yaml" if GPUS else "../../envs/cpu.yaml"
LENGTHS = [length["name"] for length in CONFIG["lengths"]]

# A run may be killed at any moment: its jobs then end with it, and the next run needs no unlocking. Each rule's shell
# command has to be a single one for that.
shell.prefix(processes.prefix())
# Records of failures that were the machine's go, and are made again, if this run makes anything at all.
if workflow.is_main_process:
    HOLD = processes.hold(
        Path(".snakemake"),
        Path("results"),
        cluster=bool(workflow.resource_settings.nodes),
        alone=lambda: again.remove_transient(Path(RESULTS), sys.argv),
    )


wildcard_constraints:
    model="|".join(CONFIG["models"]),
    length="|".join(LENGTHS),
    method="|".join(CONFIG["methods"]),
    tuning="untuned|tuned",


def cell_of(wildcards):
    """The cell of a job's wildcards; a path that no cell has is no target."""
    return CELLS[f"{wildcards.model}/{wildcards.length}/{wildcards.method}/{wildcards.tuning}"]


def records(kind):
    """The records of one kind of all cells, or, of tunings, of those that are tuned."""
    return [f"{RESULTS}/records/{path}/{kind}.json" for path, cell in CELLS.items() if cell.tuned or kind != "tune"]


def tuning_record(wildcards):
    """The record of a cell's tuning, where it is tuned."""
    return [f"{RESULTS}/records/{cell_of(wildcards).path.as_posix()}/tune.json"] if wildcards.tuning == "tuned" else []


def tuning_of(wildcards):
    """The tuned cell of a job's wildcards, as its tuning sees it: nothing of how clips are drawn with the adapter."""
    return places.of_tuning(CELLS[f"{wildcards.model}/{wildcards.length}/{wildcards.method}/tuned"])


def shipped_adapter(wildcards):
    """The files of the adapter that is shipped for a model, length and method, whatever its settings."""
    folder = Path("benchmark/testbed/adapters", wildcards.model, wildcards.length, wildcards.method)
    return sorted(path.as_posix() for path in folder.glob("*.*"))


def clip_shape(wildcards):
    """The options that state the clips that all methods of a model and length draw."""
    cell = next(cell for cell in CELLS.values() if (cell.model, cell.length) == (wildcards.model, wildcards.length))
    return (
        f"--experiment {cell.experiment} --model {cell.model} --length {cell.length} --frames {cell.frames} "
        f"--height {cell.height} --width {cell.width} --clips {cell.clips} --seed {cell.seed}"
    )


def vision_reward_options():
    """The option that names the judge, where the configuration names one."""
    settings = {key: value for key, value in CONFIG["vision_reward"].items() if value}
    return f"--vision-reward {shlex.quote(json.dumps(settings))}" if settings else ""


def lpips_options():
    """The options that say where LPIPS finds its weights."""
    weights, download = CONFIG["lpips"]["weights"], CONFIG["lpips"]["download"]
    return " ".join([f"--lpips-weights {weights}"] * bool(weights) + ["--lpips-download"] * bool(download))


# What each table and figure reads besides its own source; paper.smk adds those of speed.
SOURCES = {
    "table1": [f"{RESULTS}/records.parquet"],
    "table2": [f"{RESULTS}/records.parquet"],
    "figure2": [f"{RESULTS}/operations.json"],
    "figure3": [],
    "figure4": [f"{RESULTS}/attention/{model}.npz" for model in CONFIG["models"]],
    "figure5": [],
    "figure6": [f"{RESULTS}/records.parquet"],
    "figure7": [f"{RESULTS}/records.parquet"],
}
