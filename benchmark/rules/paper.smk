# The tables and figures of the paper, each from its file in paper_figures/, and a target of its own for each. Those of
# speed and of the testbed's variants are of this experiment's own records where it has any, else of the committed ones.


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
        folders=folders_of,
        held=held_by,
    shell:
        "OMP_NUM_THREADS={threads} python -m paper_figures {wildcards.name} --experiment-folder {params.results} "
        "{params.folders} --out {params.folder} > {log} 2>&1"


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
        folders=folders_of,
        held=held_by,
    shell:
        "OMP_NUM_THREADS={threads} python -m paper_figures {wildcards.name} --experiment-folder {params.results} "
        "{params.folders} --out {params.folder} > {log} 2>&1"


# An ablation is both: a table, and a figure with the paper's curve beside it.
rule ablation:
    input:
        source="paper_figures/{name}.py",
        shared=PAPER,
        results=lambda wildcards: SOURCES[wildcards.name],
    output:
        csv=report(f"{TABLES}/{{name}}.csv", category="Tables", caption="captions/table.rst"),
        markdown=f"{TABLES}/{{name}}.md",
        latex=f"{TABLES}/{{name}}.tex",
        pdf=f"{FIGURES}/{{name}}.pdf",
        png=report(f"{FIGURES}/{{name}}.png", category="Figures", caption="captions/figure.rst"),
    log:
        f"{LOGS}/ablation/{{name}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/ablation/{{name}}.tsv"
    wildcard_constraints:
        name="|".join([name for name in SOURCES if name.startswith("ablation")] or ["none"]),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
    params:
        folder=lambda wildcards, output: Path(output.csv).parent,
        pictures=lambda wildcards, output: Path(output.pdf).parent,
        folders=folders_of,
        held=held_by,
    shell:
        "OMP_NUM_THREADS={threads} python -m paper_figures {wildcards.name} {params.folders} --out {params.folder} "
        "--pictures {params.pictures} > {log} 2>&1"


MADE_BY = {
    name: rules.table if name.startswith("table") else rules.figure if name.startswith("figure") else rules.ablation
    for name in SOURCES
}
for name, made_by in MADE_BY.items():

    rule:
        name:
            name
        input:
            expand(made_by.output, name=name),


rule tables:
    input:
        [
            expand(made_by.output, name=name)
            for name, made_by in MADE_BY.items()
            if not name.startswith("figure") and name not in LEFT_OUT
        ],


rule figures:
    input:
        [
            expand(made_by.output, name=name)
            for name, made_by in MADE_BY.items()
            if not name.startswith("table") and name not in LEFT_OUT
        ],


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
