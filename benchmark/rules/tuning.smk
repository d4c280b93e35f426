# The adapters of tuned cells. Where one is shipped for exactly a cell's settings its record is taken over and nothing is
# trained. A tuning's command line states what decides the adapter and nothing of how clips are drawn with it.


rule tune:
    input:
        method="methods/{method}.py",
        weights=lambda wildcards: experiments.weights_files(wildcards.model),
        shipped=shipped_adapter,
        start=lambda wildcards: cell_of(wildcards).start or [],
    output:
        # The adapter is no output for Snakemake: it would delete the state that a stopped tuning goes on from.
        record=f"{RESULTS}/records/{{model}}/{{length}}/{{method}}/{{tuning}}/tune.json",
    log:
        f"{LOGS}/tune/{{model}}-{{length}}-{{method}}-{{tuning}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/tune/{{model}}-{{length}}-{{method}}-{{tuning}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        tuning=min(len(GPUS), 1),
        mem_mb=8000,
    params:
        cell=lambda wildcards: tuning_of(wildcards).arguments(),
        folder=lambda wildcards: places.folder_of(cell_of(wildcards)).as_posix(),
        shipped="--shipped-only" if (CONFIG.get("tuned") or {}).get("shipped_only") else "",
    shell:
        "OMP_NUM_THREADS={threads} TORCHINDUCTOR_COMPILE_THREADS={threads} python -m benchmark --one-gpu tune {params.cell} {params.shipped} "
        "--out {params.folder} --record {output.record} > {log} 2>&1"
