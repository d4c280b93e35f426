# A cell's clips, and what is measured on them. A job's command line states its cell and nothing of the other cells, so
# that another method, metric or length runs what is new and no more. {tuning} is a cell's last folder: its variant, or
# else tuned or untuned.


rule generate:
    input:
        prompts=inputs_of("prompts.json"),
        noise=inputs_of("noise.safetensors"),
        method="methods/{method}.py",
        weights=lambda wildcards: experiments.weights_files(wildcards.model),
        tuning=tuning_records,
    output:
        # The clips are no outputs for Snakemake: it would delete those that are done before a job goes on.
        record=f"{RESULTS}/records/{{model}}/{{length}}/{{method}}/{{tuning}}/generate.json",
    log:
        f"{LOGS}/generate/{{model}}-{{length}}-{{method}}-{{tuning}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/generate/{{model}}-{{length}}-{{method}}-{{tuning}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=0 if SHARED else min(len(GPUS), 1),
        drawing=int(SHARED),
        mem_mb=4000,
    params:
        gpu="--share-gpu" if SHARED else "--one-gpu",
        cell=lambda wildcards: cell_of(wildcards).arguments(),
        inputs=lambda wildcards, input: Path(input.prompts).parent,
        clips=f"{RESULTS}/clips/{{model}}/{{length}}/{{method}}/{{tuning}}",
    shell:
        "OMP_NUM_THREADS={threads} TORCHINDUCTOR_COMPILE_THREADS={threads} python -m benchmark {params.gpu} "
        "generate {params.cell} "
        "--inputs {params.inputs} --out {params.clips} --record {output.record} > {log} 2>&1"


rule measure:
    input:
        reference=reference_record,
        candidate=rules.generate.output.record,
        prompts=inputs_of("prompts.json"),
        metrics=[f"metrics/{name}.py" for name in CONFIG["metrics"]],
        lpips=CONFIG["lpips"]["weights"] or [],
        judge="benchmark/testbed/weights/judge.safetensors" if "vision_reward" in CONFIG["metrics"] else [],
    output:
        record=f"{RESULTS}/records/{{model}}/{{length}}/{{method}}/{{tuning}}/measure.json",
    log:
        f"{LOGS}/measure/{{model}}-{{length}}-{{method}}-{{tuning}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/measure/{{model}}-{{length}}-{{method}}-{{tuning}}.tsv"
    # Where jobs share a GPU, what is drawn is measured first: of a run that is stopped, more cells are whole.
    priority: int(SHARED)
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
    params:
        cell=lambda wildcards: cell_of(wildcards).arguments(),
        inputs=lambda wildcards, input: Path(input.prompts).parent,
        metrics=",".join(CONFIG["metrics"]),
        lpips=lpips_options(),
        vision_reward=vision_reward_options(),
    shell:
        "OMP_NUM_THREADS={threads} python -m benchmark measure {params.cell} --inputs {params.inputs} "
        "--reference {input.reference} --candidate {input.candidate} --metrics {params.metrics} {params.lpips} {params.vision_reward} "
        "--record {output.record} > {log} 2>&1"
