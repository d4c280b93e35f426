# The checked configuration, and the names that the rules share. Nothing here is a rule.

import hashlib
import json
import logging
import os
import re
import shlex
import sys
from pathlib import Path

from benchmark import again, probed
from benchmark import config as experiments
from benchmark import gpus
from benchmark import processes
from benchmark.cells import cells, reference_of
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
    CELLS = {cell.path.as_posix(): cell for cell in cells(CONFIG)}
    if not any("/training/" in word for word in sys.argv):  # what is trained needs none
        experiments.require_weights(CONFIG)
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
SEED = CONFIG["prompts"]["seed"]
# What is probed needs inputs that some cell has: where all variants are of longer clips, the first length has none.
PROBED = probed.length(CONFIG, (cell.length for cell in CELLS.values()))
# The records of the quality experiments that are committed, made on a GPU.
COMMITTED = "results/reference/testbed"

# Jobs that draw clips share a GPU where the configuration says so; all others that need one have it for themselves.
SHARED = bool(GPUS) and CONFIG["gpu_jobs"] > 1
if SHARED:
    workflow.register_resource("drawing", CONFIG["gpu_jobs"] * len(GPUS))
# Tunings are timed and have a GPU for themselves, but the next one loads while it waits for that.
if GPUS:
    workflow.register_resource("tuning", 2 * len(GPUS))

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
    tuning="|".join(sorted({re.escape(cell.path.name) for cell in CELLS.values()})),
    seed="|".join(sorted({str(cell.seed) for cell in CELLS.values()})),


def cell_of(wildcards):
    """The cell of a job's wildcards; a path that no cell has is no target."""
    return CELLS[f"{wildcards.model}/{wildcards.length}/{wildcards.method}/{wildcards.tuning}"]


def records(kind):
    """The records of one kind of all cells, or, of tunings, of those that are tuned for themselves."""
    wanted = [path for path, cell in CELLS.items() if kind != "tune" or cell.tuned and not cell.merged]
    return [f"{RESULTS}/records/{path}/{kind}.json" for path in wanted]


def committed(folder):
    """SHA-256 of the committed records in a folder: hundreds of files, which as inputs would fill the log of a job."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).rglob("*.json*")):  # packed ones, too
        digest.update(path.as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def inputs_of(name):
    """A function that gives a file of a cell's inputs."""
    return lambda wildcards: f"{RESULTS}/inputs/{cell_of(wildcards).inputs.as_posix()}/{name}"


def reference_record(wildcards):
    """The record of the dense clips that a cell's clips are compared with."""
    reference = reference_of(cell_of(wildcards), CELLS.values())
    return f"{RESULTS}/records/{reference.path.as_posix()}/generate.json"


def tuning_records(wildcards):
    """The record of a cell's tuning, where it is tuned, or of all whose adapters it merges."""
    cell = cell_of(wildcards)
    own = f"{RESULTS}/records/{cell.path.as_posix()}/tune.json"
    return cell.merged or [own] * cell.tuned


def tuning_of(wildcards):
    """The tuned cell of a job's wildcards, as its tuning sees it: nothing of how clips are drawn with the adapter."""
    return places.of_tuning(cell_of(wildcards))


def shipped_adapter(wildcards):
    """The files of the adapter that is shipped for a model, length and method, whatever its settings."""
    folder = Path("benchmark/testbed/adapters", wildcards.model, wildcards.length, wildcards.method)
    return sorted(path.as_posix() for path in folder.glob("*.*"))


def clip_shape(wildcards):
    """The options that state the clips that all methods of a model and length draw with a seed."""
    where = f"{wildcards.model}/{wildcards.length}/seed{wildcards.seed}"
    cell = next(cell for cell in CELLS.values() if cell.inputs.as_posix() == where)
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
    return " ".join(
        [f"--lpips-weights {shlex.quote(str(weights))}"] * bool(weights) + ["--lpips-download"] * bool(download)
    )


def output_error_options():
    """The options that state the masks whose output error is taken, and the dense passes that it is taken in."""
    words = [f"--experiment {CONFIG['experiment']} --length {PROBED} --block {CONFIG['block']}"]
    words += [f"--{name.replace('_', '-')} {count}" for name, count in probed.error_passes(CONFIG, PROBED).items()]
    words += [f"--budget {CONFIG['budget']}"] * (CONFIG["budget"] is not None)
    words.append(f"--methods {','.join(CONFIG['methods'])}")
    words += [
        shlex.quote(f"--set={method}.{knob}={value}")
        for method in CONFIG["methods"]
        for knob, value in CONFIG["knobs"].get(method, {}).items()
    ]
    return " ".join(words)


# What each table and figure reads besides its own source; paper_common.smk adds those of speed and of the testbed's
# variants.
SOURCES = {
    "figure2": [f"{RESULTS}/operations.json"],
    "figure3": [],
    "figure4": [f"{RESULTS}/attention/{model}.npz" for model in CONFIG["models"]],
    "figure5": [],
    "table_error": [f"{RESULTS}/output_error/{model}.json" for model in CONFIG["models"]],
}
# These show an experiment's methods side by side, all in one setting.
if "variants" not in CONFIG:
    for name in ("table1", "table2", "figure6", "figure7"):
        SOURCES[name] = [f"{RESULTS}/records.parquet"]
