# What figures and tables need besides clips: the operations of the paper's models, the attention maps of the testbed,
# and the error of each mask's attention output.


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
        # The first prompts at the first length that is drawn.
        prompts=f"{RESULTS}/inputs/{{model}}/{PROBED}/seed{SEED}/prompts.json",
        noise=f"{RESULTS}/inputs/{{model}}/{PROBED}/seed{SEED}/noise.safetensors",
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
        gpu=min(len(GPUS), 1),
        mem_mb=4000,
    params:
        inputs=lambda wildcards, input: Path(input.prompts).parent,
        prompts=probed.map_prompts(CONFIG, PROBED),
    shell:
        "OMP_NUM_THREADS={threads} python -m benchmark --one-gpu probe --model {wildcards.model} "
        "--inputs {params.inputs} --prompts {params.prompts} --out {output.maps} > {log} 2>&1"


rule output_error:
    input:
        prompts=rules.probe.input.prompts,
        noise=rules.probe.input.noise,
        methods=[f"methods/{name}.py" for name in CONFIG["methods"]],
        weights=lambda wildcards: experiments.weights_files(wildcards.model),
    output:
        record=f"{RESULTS}/output_error/{{model}}.json",
    log:
        f"{LOGS}/output_error/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/output_error/{{model}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=min(len(GPUS), 1),
        mem_mb=4000,
    params:
        inputs=lambda wildcards, input: Path(input.prompts).parent,
        passes=output_error_options(),
    shell:
        "OMP_NUM_THREADS={threads} python -m benchmark --one-gpu output_error --model {wildcards.model} "
        "--inputs {params.inputs} {params.passes} --record {output.record} > {log} 2>&1"
