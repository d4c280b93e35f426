# The tables and figures of the paper, each from its file in paper_figures/, and a target of its own for each. Those of
# speed are of this experiment's own records where it times anything, else of the records that are committed.

import hashlib
import os
import re
from pathlib import Path

# What all tables and figures are made with.
PAPER = [
    path.as_posix()
    for path in (*sorted(Path("paper_figures").glob("*.py")), *sorted(Path("paper_figures/published").glob("*.csv")))
    if not re.fullmatch(r"(table|figure)(\d+(_speed)?|_[a-z]+)\.py", path.name)
]
SPEED_HELD = hashlib.sha256()
if "speed" in config:
    TABLES, FIGURES = f"{RESULTS}/tables", f"{RESULTS}/figures"
    SPEED, SPEED_CONFIG = RESULTS, os.path.relpath(workflow.configfiles[0])
    SPEED_RECORDS = [*rules.speed.input]
    SOURCES = {"figure2": [f"{RESULTS}/operations.json"]}
else:
    SPEED, SPEED_CONFIG = "results/reference/h100", "config/h100.yaml"
    SPEED_RECORDS = []
    # Hundreds of files, which as inputs would fill the log of each job; what they hold is a parameter instead.
    for path in sorted(Path(SPEED).rglob("*.json")):
        SPEED_HELD.update(path.as_posix().encode() + path.read_bytes())
for name in ("table1_speed", "table2_speed", "table_kernels", "figure2", "figure_speedup", "figure_scaling"):
    SOURCES[name] = [*SOURCES.get(name, []), SPEED_CONFIG, "paper_figures/table2_speed.py", *SPEED_RECORDS]


rule table:
    input:
        source="paper_figures/{name}.py",
        shared=PAPER,
        results=lambda wildcards: SOURCES[wildcards.name],
    output:
        csv=report(f"{TABLES}/{{name}}.csv", category="Tables", caption="captions/table.rst"),
        markdown=f"{TABLES}/{{name}}.md",
        latex=f"{TABLES}/{{name}}.tex",
    log:
        f"{LOGS}/table/{{name}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/table/{{name}}.tsv"
    wildcard_constraints:
        name="|".join(name for name in SOURCES if name.startswith("table")),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=2000,
    params:
        results=lambda wildcards, output: Path(output[0]).parent.parent,
        folder=lambda wildcards, output: Path(output.csv).parent,
        speed=f"--speed-folder {SPEED} --speed-config {SPEED_CONFIG}",
        held=SPEED_HELD.hexdigest(),
    shell:
        "OMP_NUM_THREADS={threads} python -m paper_figures {wildcards.name} --experiment-folder {params.results} "
        "{params.speed} --out {params.folder} > {log} 2>&1"


rule figure:
    input:
        source="paper_figures/{name}.py",
        shared=PAPER,
        results=lambda wildcards: SOURCES[wildcards.name],
    output:
        pdf=f"{FIGURES}/{{name}}.pdf",
        png=report(f"{FIGURES}/{{name}}.png", category="Figures", caption="captions/figure.rst"),
    log:
        f"{LOGS}/figure/{{name}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/figure/{{name}}.tsv"
    wildcard_constraints:
        name="|".join(name for name in SOURCES if name.startswith("figure")),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
    params:
        results=lambda wildcards, output: Path(output[0]).parent.parent,
        folder=lambda wildcards, output: Path(output.pdf).parent,
        speed=f"--speed-folder {SPEED} --speed-config {SPEED_CONFIG}",
        held=SPEED_HELD.hexdigest(),
    shell:
        "OMP_NUM_THREADS={threads} python -m paper_figures {wildcards.name} --experiment-folder {params.results} "
        "{params.speed} --out {params.folder} > {log} 2>&1"


for name in SOURCES:

    rule:
        name:
            name
        input:
            expand(rules.table.output if name.startswith("table") else rules.figure.output, name=name),


rule tables:
    input:
        expand(rules.table.output, name=[name for name in SOURCES if name.startswith("table")]),


rule figures:
    input:
        expand(rules.figure.output, name=[name for name in SOURCES if name.startswith("figure")]),


if "speed" in config:

    # The operations of Figure 2; an experiment with clips has a rule of its own for them.
    rule operations:
        output:
            f"{RESULTS}/operations.json",
        log:
            f"{LOGS}/operations/operations.log",
        benchmark:
            f"{RESULTS}/benchmarks/operations.tsv"
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=2000,
        params:
            experiment=CONFIG["experiment"],
        shell:
            "OMP_NUM_THREADS={threads} python -m benchmark sweep --experiment {params.experiment} "
            "--models hunyuanvideo --out {output} > {log} 2>&1"
