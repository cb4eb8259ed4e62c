# One run is one job.
rule train:
    input:
        model=base,
        references=lambda wildcards: of_world(f"{DATA}/{data_of(wildcards)}.parquet")(wildcards),
        annotations=trained_labels,
        paired=paired_steps,
        scores=stored_scores,
    output:
        model=directory(f"{RESULTS}/runs/{{model}}/{{method}}/seed{{seed}}/model"),
        steps=f"{RESULTS}/runs/{{model}}/{{method}}/seed{{seed}}/steps.parquet",
        summary=f"{RESULTS}/runs/{{model}}/{{method}}/seed{{seed}}/train.json",
    log:
        f"{RESULTS}/logs/train/{{model}}/{{method}}/seed{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train/{{model}}/{{method}}/seed{{seed}}.jsonl"
    conda:
        "../../environment.yml"
    threads: processes
    resources:
        mem_mb=asked("train", "mem_mb"),
        runtime=asked("train", "runtime"),
        gpu=asked("train", "gpu"),
    params:
        code=code("train", objective_of),
        run=leaf,
        other_runs=other_runs_options,
        labels=labels_option,
        compute=compute_option("train"),
        scratch=f"{RESULTS}/scratch/train/{{model}}/{{method}}/seed{{seed}}",
    message:
        "Train {wildcards.model}/{wildcards.method}, seed {wildcards.seed}"
    shell:
        "PROFIT_GPUS={resources.gpu}"
        " python -m profit train --run {params.run:q} --model {input.model} --references {input.references}"
        " {params.labels} {params.other_runs} {params.compute} --scratch {params.scratch}"
        " --output-model {output.model} --output-steps {output.steps} --output-summary {output.summary} > {log} 2>&1"
