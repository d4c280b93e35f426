# The checked configuration of a speed experiment, and the names that its rules share. Nothing here is a rule.

import json
import logging
import os
import sys
from pathlib import Path

from benchmark import again
from benchmark import config as experiments
from benchmark import gpus
from benchmark import processes
from benchmark.speed import settings as speed

logging.getLogger("benchmark").setLevel(logging.INFO)
logging.getLogger("benchmark").addHandler(logging.StreamHandler())
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
os.environ.update(PATH=PATH)

try:
    CONFIG = experiments.check_speed(experiments.from_words(config))
    STAGES = speed.stages(config)
    GPUS = gpus.visible()
except ValueError as error:
    where = ", ".join(map(os.path.relpath, workflow.configfiles))
    print(f"{where}: {error}", file=sys.stderr)
    sys.exit(2)

RESULTS = f"results/{CONFIG['experiment']}"
LOGS = f"logs/{CONFIG['experiment']}"
RECORDS = f"{RESULTS}/records"
# What other machines have measured and committed is taken over, and not measured again.
COMMITTED = f"results/reference/{CONFIG['experiment']}/records"
ENVIRONMENT = "../../envs/cuda.yaml" if GPUS else "../../envs/cpu.yaml"


def kernels_record(name):
    """Where the record of the kernels at a stage's shape is."""
    return f"{RESULTS}/kernels/{'-'.join(name.split('/'))}.json"


shell.prefix(processes.prefix())
# What another process on the GPU disturbed is measured again, if this run measures anything at all.
if workflow.is_main_process:
    HOLD = processes.hold(
        Path(".snakemake"),
        Path("results"),
        cluster=bool(workflow.resource_settings.nodes),
        alone=lambda: again.remove_transient(Path(RESULTS), sys.argv, [Path(kernels_record(name)) for name in STAGES]),
    )


wildcard_constraints:
    model="|".join(sorted({name.partition("/")[0] for name in STAGES})),
    shape="|".join(sorted({name.partition("/")[2] for name in STAGES})),
    part="parts|profile|whole|ends|training|run",


def stage_settings(wildcards):
    """One stage of the configuration as JSON: all that a job has to know, and nothing of the other stages."""
    name = f"{wildcards.model}/{wildcards.shape}"
    own = CONFIG["speed"] | {"stages": {name: CONFIG["speed"]["stages"][name]}}
    return json.dumps({"experiment": CONFIG["experiment"], "speed": own}, sort_keys=True)


def methods_of(wildcards):
    """The files of a stage's methods: where one is changed, its cells are planned and measured again."""
    cells = STAGES[f"{wildcards.model}/{wildcards.shape}"].cells
    return list(dict.fromkeys(f"methods/{cell.method}.py" for cell in cells))


def measured(wildcards):
    """What a stage's records are put together from; tuning is held against whole steps at the model's other shapes.

    Those shapes have the check of the fused blocks' rounding as well, which is among their parts.
    """
    name = f"{wildcards.model}/{wildcards.shape}"
    others = [other for other in STAGES if other.partition("/")[0] == wildcards.model and STAGES[other].training_whole]
    found = [f"{RESULTS}/stages/{name}/{part}.json" for part in STAGES[name].measured]
    others = [other for other in others if other != name]
    return found + expand(f"{RESULTS}/stages/{{other}}/{{part}}.json", other=others, part=["parts", "training"])


def bench_options(wildcards):
    """The shape, methods and published knobs whose kernels are timed."""
    name = f"{wildcards.model}/{wildcards.shape}"
    settings = CONFIG["speed"]["stages"][name]
    cell = STAGES[name].cells[0]
    words = [f"--model {cell.model} --frames {cell.frames} --height {cell.height} --width {cell.width}"]
    words.append(f"--block {cell.block} --methods {','.join(settings['kernels'])}")
    for method in settings["kernels"]:
        knobs = (settings.get("authors") or {}).get(method, {})
        words += [f"--set {method}.{key}={value}" for key, value in knobs.items() if key not in ("mixture", "flags")]
    return " ".join(words)
