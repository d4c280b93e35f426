# A testbed, or the testbeds' judge of vision reward, trained anew. No table asks for it: the weights that clips are
# drawn and judged with are committed, and only `python -m benchmark publish` puts others into their place. A testbed's
# weights, in one file or in shards with an index, lie beside the record, which names them.
#
#   snakemake results/quick/training/testbed-nano.training.json
#   snakemake results/quick/training/judge.training.json


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


rule train_judge:
    output:
        record=f"{RESULTS}/training/judge.training.json",
        weights=f"{RESULTS}/training/judge.safetensors",
    log:
        f"{LOGS}/train/judge.log",
    benchmark:
        f"{RESULTS}/benchmarks/train/judge.tsv"
    conda:
        ENVIRONMENT
    threads: 2
    resources:
        mem_mb=8000,
    params:
        folder=lambda wildcards, output: Path(output.record).parent,
    shell:
        "OMP_NUM_THREADS={threads} python -m benchmark train_judge --out {params.folder} > {log} 2>&1"
