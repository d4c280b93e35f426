# The report: one page of everything that this experiment's records say. Its code has a folder of its own, for every
# table and figure depends on each module beside it.

REPORT = [
    path.as_posix()
    for kind in ("py", "html", "css", "js")
    for path in sorted(Path("paper_figures/report").glob(f"*.{kind}"))
]


# What the report of Snakemake itself (snakemake --report) says on its first page. The page below is no part of it:
# browsers show nothing beyond 2 MB of a page inside a page.
report: "captions/workflow.rst"


rule report_page:
    input:
        code=REPORT,
        shared=PAPER,
        records=rules.collect.output,
        tables=rules.tables.input,
        figures=rules.figures.input,
    output:
        # Everything is inside the page. Of an experiment whose clips are too large for that they lie in clips/ beside
        # it, which the job empties first.
        page=f"{RESULTS}/report/index.html",
    log:
        f"{LOGS}/report/report.log",
    benchmark:
        f"{RESULTS}/benchmarks/report.tsv"
    conda:
        ENVIRONMENT
    threads: 2
    resources:
        mem_mb=2000,
    params:
        results=lambda wildcards, output: Path(output.page).parent.parent,
        folder=lambda wildcards, output: Path(output.page).parent,
        # The same page for the experiment that was reported last. It is no output, for two experiments that run at
        # the same time would both claim it and Snakemake would let only one of them run.
        front="results/report/index.html",
        speed=f"--speed-folder {SPEED} --speed-config {SPEED_CONFIG}",
        testbed=TESTBED,
        held=list(HELD.values()),
    shell:
        "OMP_NUM_THREADS={threads} python -m paper_figures.report --experiment-folder {params.results} "
        "{params.speed} {params.testbed} --out {params.folder} --front {params.front} > {log} 2>&1"
