# What lies behind the accuracies: whose gradient a batch follows, which tokens a run moved, how far it went from its base,
# in whose style it answers.
rule gradients:
    input:
        model=base,
        references=of_world(REFERENCES),
        annotations=lambda wildcards: of_world(ANNOTATIONS, data="references", annotator=study.labels or [])(wildcards),
    output:
        summary=f"{RESULTS}/gradients/{{model}}.json",
        tokens=f"{RESULTS}/gradients/{{model}}.parquet",
    log:
        f"{RESULTS}/logs/gradients/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/gradients/{{model}}.jsonl"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=asked("gradients", "mem_mb"),
        runtime=asked("gradients", "runtime"),
        gpu=asked("gradients", "gpu"),
    params:
        code=code("gradients"),
        labels=labels_option,
        settings=gradient_settings,
    message:
        "Check Theorem 1 on {wildcards.model}"
    shell:
        "PROFIT_GPUS={resources.gpu}"
        " python -m profit gradients --model {input.model} --references {input.references} {params.labels}"
        " --settings {params.settings:q} --output {output.summary} --tokens-output {output.tokens} > {log} 2>&1"


rule account:
    input:
        references=of_world(f"{DATA}/{{data}}.parquet", data=ACCOUNTED),
        annotations=of_world(ANNOTATIONS, data=ACCOUNTED, annotator=study.labels or []),
        base=[f"{RESULTS}/scores/{{model}}/{folder}base.parquet" for folder in ACCOUNTED.values()],
        scores=[f"{RESULTS}/scores/{{model}}/{folder}{{method}}_seed{{seed}}.parquet" for folder in ACCOUNTED.values()],
        summary=rules.train.output.summary,
    output:
        summary=f"{RESULTS}/account/{{model}}/{{method}}/seed{{seed}}.json",
        cells=f"{RESULTS}/account/{{model}}/{{method}}/seed{{seed}}.parquet",
    log:
        f"{RESULTS}/logs/account/{{model}}/{{method}}/seed{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/account/{{model}}/{{method}}/seed{{seed}}.jsonl"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=asked("account", "mem_mb"),
        runtime=asked("account", "runtime"),
    params:
        code=code("account"),
        run=leaf,
        labels=labels_option,
    message:
        "Account for the tokens that {wildcards.model}/{wildcards.method}, seed {wildcards.seed}, moved"
    shell:
        "python -m profit account --run {params.run:q} --train {input.summary} --base-scores {input.base}"
        " --scores {input.scores} --references {input.references} {params.labels} --output {output.summary}"
        " --cells {output.cells} > {log} 2>&1"


rule drift:
    input:
        model=base,
        tuned=rules.train.output.model,
        references=of_world(REFERENCES),
        annotations=labels_of,
    output:
        f"{RESULTS}/drift/{{model}}/{{method}}/seed{{seed}}.json",
    log:
        f"{RESULTS}/logs/drift/{{model}}/{{method}}/seed{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/drift/{{model}}/{{method}}/seed{{seed}}.jsonl"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=asked("drift", "mem_mb"),
        runtime=asked("drift", "runtime"),
        gpu=asked("drift", "gpu"),
    params:
        code=code("drift"),
        labels=labels_option,
        compute=compute_option("drift"),
        length=length_option,
    message:
        "Measure the drift of {wildcards.model}/{wildcards.method}, seed {wildcards.seed}"
    shell:
        "PROFIT_GPUS={resources.gpu}"
        " python -m profit drift --model {input.model} --tuned {input.tuned} --references {input.references}"
        " {params.labels} {params.compute} {params.length} --output {output} > {log} 2>&1"


rule answer_style:
    input:
        samples=styled_samples,
        references=of_world(REFERENCES),
        world=of_world(WORLD),
    output:
        f"{RESULTS}/answer_style/{{model}}.parquet",
    log:
        f"{RESULTS}/logs/answer_style/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/answer_style/{{model}}.jsonl"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=asked("answer_style", "mem_mb"),
        runtime=asked("answer_style", "runtime"),
    params:
        code=code("answer_style"),
        settings=style_settings,
        evaluations=f"{RESULTS}/evaluations",
    message:
        "Describe the style of the answers of {wildcards.model}"
    shell:
        "python -m profit answer_style --settings {params.settings:q} --evaluations {params.evaluations}"
        " --references {input.references} --world {input.world} --output {output} > {log} 2>&1"


# In turn on one core, whatever else runs: minutes apart, a machine whose speed wanders would decide.
rule timing:
    input:
        model=base,
        references=of_world(REFERENCES),
    output:
        f"{RESULTS}/timing/{{model}}.parquet",
    log:
        f"{RESULTS}/logs/timing/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/timing/{{model}}.jsonl"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=asked("timing", "mem_mb"),
        runtime=asked("timing", "runtime"),
        gpu=asked("timing", "gpu"),
    params:
        code=timing_code,
        runs=timed_leaves,
        seeds=study.analysis.timing.seeds if TIMED_RUNS else None,
        steps=study.analysis.timing.steps if TIMED_RUNS else None,
        compute=compute_option("timing"),
        scratch=f"{RESULTS}/scratch/timing/{{model}}",
    message:
        "Time the methods on {wildcards.model}"
    shell:
        "PROFIT_GPUS={resources.gpu}"
        " python -m profit timing --runs {params.runs:q} --seeds {params.seeds} --steps {params.steps}"
        " --model {input.model} --references {input.references} {params.compute} --scratch {params.scratch}"
        " --output {output} > {log} 2>&1"
