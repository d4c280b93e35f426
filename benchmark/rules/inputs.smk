# What all methods of a model and length share: the prompts of a seed, and the noise that every clip starts from.


rule inputs:
    output:
        prompts=f"{RESULTS}/inputs/{{model}}/{{length}}/seed{{seed}}/prompts.json",
        noise=f"{RESULTS}/inputs/{{model}}/{{length}}/seed{{seed}}/noise.safetensors",
    log:
        f"{LOGS}/inputs/{{model}}-{{length}}-seed{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/inputs/{{model}}-{{length}}-seed{{seed}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=2000,
    params:
        shape=clip_shape,
        folder=lambda wildcards, output: Path(output.prompts).parent,
    shell:
        "OMP_NUM_THREADS={threads} python -m benchmark inputs {params.shape} --out {params.folder} > {log} 2>&1"
