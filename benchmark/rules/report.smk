# The report: one page of everything that this experiment's records say. Its code has a folder of its own, for every
# table and figure depends on each module beside it.

REPORT = [
    path.as_posix()
    for kind in ("py", "html", "css", "js")
    for path in sorted(Path("paper_figures/report").glob(f"*.{kind}"))
]


rule report_page:
    input:
        code=REPORT,
        shared=PAPER,
        records=rules.collect.output,
        tables=rules.tables.input,
        figures=rules.figures.input,
    output:
        page=f"{RESULTS}/report/index.html",
        # Sheets of cells that are no more go with the folder, which Snakemake empties before the job.
        clips=directory(f"{RESULTS}/report/clips"),
    log:
        f"{LOGS}/report/report.log",
    benchmark:
        f"{RESULTS}/benchmarks/report.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=2000,
    params:
        results=lambda wildcards, output: Path(output.page).parent.parent,
        folder=lambda wildcards, output: Path(output.page).parent,
        # The same page for the experiment that was reported last. It is no output, for two experiments that run at
        # the same time would both claim it and Snakemake would let only one of them run.
        front="results/report/index.html",
    shell:
        "OMP_NUM_THREADS={threads} python -m paper_figures.report --experiment-folder {params.results} "
        "--out {params.folder} --front {params.front} > {log} 2>&1"
