# A testbed trained anew. No table asks for it: the weights that clips are drawn with are committed, and only
# `python -m benchmark publish` puts others into their place.
#
#   snakemake results/quick/training/testbed-nano.safetensors


rule train:
    output:
        weights=f"{RESULTS}/training/{{model}}.safetensors",
        record=f"{RESULTS}/training/{{model}}.training.json",
    log:
        f"{LOGS}/train/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train/{{model}}.tsv"
    conda:
        ENVIRONMENT
    threads: 4
    resources:
        gpu=1,
        mem_mb=16000,
    params:
        folder=lambda wildcards, output: Path(output.weights).parent,
    shell:
        "OMP_NUM_THREADS={threads} python -m benchmark --one-gpu train --model {wildcards.model} "
        "--out {params.folder} > {log} 2>&1"
