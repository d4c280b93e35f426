# What figures need besides clips: the operations of the paper's models, and the attention maps of the testbed.


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
        "OMP_NUM_THREADS={threads} python -m benchmark sweep --experiment {params.experiment} --out {output} > {log} 2>&1"


rule probe:
    input:
        # The clip of the first prompt at the experiment's first length.
        prompts=f"{RESULTS}/inputs/{{model}}/{LENGTHS[0]}/prompts.json",
        noise=f"{RESULTS}/inputs/{{model}}/{LENGTHS[0]}/noise.safetensors",
        weights=lambda wildcards: experiments.weights_files(wildcards.model),
    output:
        maps=f"{RESULTS}/attention/{{model}}.npz",
        record=f"{RESULTS}/attention/{{model}}.json",
    log:
        f"{LOGS}/probe/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/probe/{{model}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
    params:
        inputs=lambda wildcards, input: Path(input.prompts).parent,
    shell:
        "OMP_NUM_THREADS={threads} python -m benchmark probe --model {wildcards.model} --inputs {params.inputs} "
        "--out {output.maps} > {log} 2>&1"
