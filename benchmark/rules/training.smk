# A testbed trained anew. No table asks for it: the weights that clips are drawn with are committed, and only
# `python -m benchmark publish` puts others into their place. The weights, in one file or in shards with an index, lie
# beside the record, which names them.
#
#   snakemake results/quick/training/testbed-nano.training.json


rule train:
    output:
        record=f"{RESULTS}/training/{{model}}.training.json",
        samples=f"{RESULTS}/training/{{model}}.samples.png",
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
        folder=lambda wildcards, output: Path(output.record).parent,
    shell:
        "OMP_NUM_THREADS={threads} python -m benchmark --one-gpu train --model {wildcards.model} "
        "--out {params.folder} --evaluate 64 --samples 6 > {log} 2>&1"
