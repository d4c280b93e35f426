# Speed at the paper's shapes, on one GPU, stage by stage. A stage is a model at a shape; its parts are jobs of their own.
# A job writes each record as soon as it is measured, ends by itself after `limit_s`, and is started again to go on from
# there; what other machines measured and committed it takes over. The records are no outputs for Snakemake: it would delete those that are done before a job goes on.


rule speed_plan:
    input:
        methods_of,
    output:
        f"{RECORDS}/{{model}}/{{shape}}/plan.json",
    log:
        f"{LOGS}/plan/{{model}}-{{shape}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/plan/{{model}}-{{shape}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
    params:
        stage=stage_settings,
        records=lambda wildcards, output: Path(output[0]).parents[2],
        committed=COMMITTED,
    shell:
        "OMP_NUM_THREADS={threads} python -m benchmark latency --stage-json {params.stage:q} --part plan "
        "--out {params.records} --resume-from {params.committed} > {log} 2>&1"


rule speed_measure:
    input:
        methods_of,
        plan=rules.speed_plan.output[0],
    output:
        f"{RESULTS}/stages/{{model}}/{{shape}}/{{part}}.json",
    log:
        f"{LOGS}/{{part}}/{{model}}-{{shape}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{part}}/{{model}}-{{shape}}.tsv"
    retries: 10
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=min(len(GPUS), 1),
        mem_mb=32000,
        runtime=20,
    params:
        stage=stage_settings,
        records=lambda wildcards, input: Path(input.plan).parents[2],
        limit=CONFIG["speed"]["limit_s"],
        committed=COMMITTED,
    shell:
        "python -m benchmark --one-gpu latency --stage-json {params.stage:q} --part {wildcards.part} "
        "--out {params.records} --resume-from {params.committed} --limit-s {params.limit} --summary {output} "
        ">> {log} 2>&1"


rule speed_assemble:
    input:
        measured,
    output:
        f"{RESULTS}/stages/{{model}}/{{shape}}/assemble.json",
    log:
        f"{LOGS}/assemble/{{model}}-{{shape}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/assemble/{{model}}-{{shape}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=2000,
    params:
        stage=stage_settings,
        records=RECORDS,
    shell:
        "OMP_NUM_THREADS={threads} python -m benchmark latency --stage-json {params.stage:q} --part assemble "
        "--out {params.records} --summary {output} > {log} 2>&1"


rule speed_kernels:
    output:
        f"{RESULTS}/kernels/{{model}}-{{shape}}.json",
    log:
        f"{LOGS}/kernels/{{model}}-{{shape}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/kernels/{{model}}-{{shape}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=min(len(GPUS), 1),
        mem_mb=16000,
        runtime=20,
    params:
        options=bench_options,
        # Four kernels at 461,056 tokens, dense attention's backward passes among them, take longer than a job has.
        limit=CONFIG["speed"]["limit_s"],
    shell:
        "python -m benchmark --one-gpu kernels_bench {params.options} --backward --limit-s {params.limit} "
        "--record {output} > {log} 2>&1"


rule speed_audit:
    input:
        [f"{RESULTS}/stages/{name}/assemble.json" for name in STAGES],
    output:
        f"{RESULTS}/stages/audit.json",
    log:
        f"{LOGS}/audit/audit.log",
    benchmark:
        f"{RESULTS}/benchmarks/audit.tsv"
    retries: 10
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=min(len(GPUS), 1),
        mem_mb=32000,
        runtime=20,
    params:
        records=RECORDS,
        limit=CONFIG["speed"]["limit_s"],
    shell:
        "python -m benchmark --one-gpu latency --audit {params.records} --limit-s {params.limit} --summary {output} "
        ">> {log} 2>&1"


rule speed:
    input:
        [f"{RESULTS}/stages/{name}/assemble.json" for name in STAGES],
        [kernels_record(name) for name in STAGES if CONFIG["speed"]["stages"][name].get("kernels")],
        rules.speed_audit.output,


localrules:
    speed,
