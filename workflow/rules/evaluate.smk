# Answers to the benchmarks, by lm-eval; the choice of learning rates rests on them too.
rule evaluate:
    input:
        unpack(evaluation_inputs),
    output:
        summary=f"{RESULTS}/evaluations/{{model}}/{{method}}/seed{{seed}}/{{checkpoint}}/summary.json",
        samples=f"{RESULTS}/evaluations/{{model}}/{{method}}/seed{{seed}}/{{checkpoint}}/samples.parquet",
        lm_eval=f"{RESULTS}/evaluations/{{model}}/{{method}}/seed{{seed}}/{{checkpoint}}/lm_eval.json",
    log:
        f"{RESULTS}/logs/evaluate/{{model}}/{{method}}/seed{{seed}}/{{checkpoint}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate/{{model}}/{{method}}/seed{{seed}}/{{checkpoint}}.jsonl"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=asked("evaluate", "mem_mb"),
        runtime=asked("evaluate", "runtime"),
        gpu=asked("evaluate", "gpu"),
    params:
        code=code("evaluate"),
        run=leaf,
        tuned=tuned_option,
        benchmarks=evaluated_benchmarks,
        decoding=decoding,
        compute=compute_option("evaluate"),
        tasks=f"{ROOT}workflow/benchmarks",
        scratch=f"{RESULTS}/scratch/evaluate/{{model}}/{{method}}/seed{{seed}}/{{checkpoint}}",
    message:
        "Evaluate {wildcards.model}/{wildcards.method}, seed {wildcards.seed}, {wildcards.checkpoint}"
    shell:
        "PROFIT_GPUS={resources.gpu}"
        " python -m profit evaluate --run {params.run:q} --model {input.base} {params.tuned}"
        " --benchmarks {params.benchmarks:q} --decoding {params.decoding:q} {params.compute} --tasks {params.tasks} --world {input.world}"
        " --checkpoint {wildcards.checkpoint} --scratch {params.scratch} --output-summary {output.summary}"
        " --output-samples {output.samples} --output-lm-eval {output.lm_eval} > {log} 2>&1"


rule tune:
    input:
        worlds=expand(WORLD, world=study.worlds),
        runs=trained_files(TUNE_RUNS),
        evaluations=evaluations(TUNE_RUNS),
        published=PUBLISHED,
    output:
        multiext(f"{RESULTS}/tables/tune", ".csv", ".parquet"),
    log:
        f"{RESULTS}/logs/tune.log",
    benchmark:
        f"{RESULTS}/benchmarks/tune.jsonl"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=asked("tune", "mem_mb"),
        runtime=asked("tune", "runtime"),
    params:
        code=code("tabulate"),
        listed=figured(TUNE_RUNS),
        study=STUDY_FILE,
        results=lambda wildcards, input: Path(input.worlds[0]).parents[2],
        published=lambda wildcards, input: Path(input.published[0]).parent,
        folder=subpath(output[0], parent=True),
    message:
        "Choose learning rates by the validation problems"
    shell:
        "python -m profit tabulate --tune --study {params.study} --results {params.results} --published {params.published}"
        " --output-folder {params.folder} > {log} 2>&1"
