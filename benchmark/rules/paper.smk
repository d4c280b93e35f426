# The tables and figures of the paper, each from its file in paper_figures/, and a target of its own for each.


rule table:
    input:
        source="paper_figures/table{number}.py",
        shared=PAPER,
        results=lambda wildcards: SOURCES[f"table{wildcards.number}"],
    output:
        csv=report(f"{TABLES}/table{{number}}.csv", category="Tables", caption="captions/table.rst"),
        markdown=f"{TABLES}/table{{number}}.md",
        latex=f"{TABLES}/table{{number}}.tex",
    log:
        f"{LOGS}/table/table{{number}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/table/table{{number}}.tsv"
    wildcard_constraints:
        number="[0-9]+",
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=2000,
    params:
        results=lambda wildcards, output: Path(output[0]).parent.parent,
        folder=lambda wildcards, output: Path(output.csv).parent,
    shell:
        "OMP_NUM_THREADS={threads} python -m paper_figures table{wildcards.number} "
        "--experiment-folder {params.results} --out {params.folder} > {log} 2>&1"


rule figure:
    input:
        source="paper_figures/figure{number}.py",
        shared=PAPER,
        results=lambda wildcards: SOURCES[f"figure{wildcards.number}"],
    output:
        pdf=f"{FIGURES}/figure{{number}}.pdf",
        png=report(f"{FIGURES}/figure{{number}}.png", category="Figures", caption="captions/figure.rst"),
    log:
        f"{LOGS}/figure/figure{{number}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/figure/figure{{number}}.tsv"
    wildcard_constraints:
        number="[0-9]+",
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
    params:
        results=lambda wildcards, output: Path(output[0]).parent.parent,
        folder=lambda wildcards, output: Path(output.pdf).parent,
    shell:
        "OMP_NUM_THREADS={threads} python -m paper_figures figure{wildcards.number} "
        "--experiment-folder {params.results} --out {params.folder} > {log} 2>&1"


for name in SOURCES:

    rule:
        name:
            name
        input:
            expand(rules.table.output, number=name.removeprefix("table"))
            if name.startswith("table")
            else expand(rules.figure.output, number=name.removeprefix("figure")),


rule tables:
    input:
        expand(rules.table.output, number=[name.removeprefix("table") for name in SOURCES if name.startswith("table")]),


rule figures:
    input:
        expand(
            rules.figure.output, number=[name.removeprefix("figure") for name in SOURCES if name.startswith("figure")]
        ),
