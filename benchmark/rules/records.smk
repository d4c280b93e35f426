# All records of the experiment in one tidy table; records that may not stand side by side are refused here. The same of
# the quality experiments' committed records.


rule collect:
    input:
        generated=records("generate"),
        measured=records("measure"),
        tuned=records("tune"),
    output:
        parquet=f"{RESULTS}/records.parquet",
        csv=report(f"{RESULTS}/records.csv", category="Records", caption="captions/records.rst"),
    log:
        f"{LOGS}/collect/collect.log",
    benchmark:
        f"{RESULTS}/benchmarks/collect.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=2000,
    params:
        experiment=CONFIG["experiment"],
    shell:
        "OMP_NUM_THREADS={threads} python -m benchmark collect --experiment {params.experiment} --records {input} "
        "--out-parquet {output.parquet} --out-csv {output.csv} > {log} 2>&1"


rule collect_committed:
    output:
        f"{RESULTS}/reference/testbed.parquet",
    log:
        f"{LOGS}/collect/testbed.log",
    benchmark:
        f"{RESULTS}/benchmarks/collect_committed.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=2000,
    params:
        experiment=Path(COMMITTED).name,
        results=Path(COMMITTED).parent,
        held=committed(COMMITTED),
    shell:
        "OMP_NUM_THREADS={threads} python -m benchmark collect --experiment {params.experiment} "
        "--results {params.results} --out-parquet {output} > {log} 2>&1"
