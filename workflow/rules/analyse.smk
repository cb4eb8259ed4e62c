# What the base model thinks of every reference token, who calls it core, and how the two go together.
rule score:
    input:
        model=base,
        tuned=scored_run,
        references=scored_references,
    output:
        f"{RESULTS}/scores/{{model}}/{{scored}}.parquet",
    log:
        f"{RESULTS}/logs/score/{{model}}/{{scored}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/score/{{model}}/{{scored}}.jsonl"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=asked("score", "mem_mb"),
        runtime=asked("score", "runtime"),
        gpu=asked("score", "gpu"),
    params:
        code=code("score"),
        tuned=lambda wildcards, input: f"--tuned {input.tuned}" if input.tuned else "",
        compute=compute_option("score"),
        length=length_option,
    message:
        "Score the reference tokens under {wildcards.model}/{wildcards.scored}"
    shell:
        "PROFIT_GPUS={resources.gpu}"
        " python -m profit score --model {input.model} {params.tuned} --references {input.references}"
        " {params.compute} {params.length} --output {output} > {log} 2>&1"


rule annotate:
    input:
        f"{DATA}/{{data}}.parquet",
    output:
        ANNOTATIONS,
    log:
        f"{RESULTS}/logs/annotate/{{world}}/{{data}}/{{annotator}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/annotate/{{world}}/{{data}}/{{annotator}}.jsonl"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=asked("annotate", "mem_mb"),
        runtime=asked("annotate", "runtime"),
    params:
        code=code("annotate", lambda wildcards: wildcards.annotator),
        judge=judge_options,
    message:
        "Annotate the {wildcards.data} by {wildcards.annotator}"
    shell:
        "python -m profit annotate --annotator {wildcards.annotator} {params.judge} --references {input} --output {output}"
        " > {log} 2>&1"


rule agreement:
    input:
        references=REFERENCES,
        annotations=expand(ANNOTATIONS, data="references", annotator=COMPARED, allow_missing=True),
    output:
        f"{RESULTS}/agreement/{{world}}.json",
    log:
        f"{RESULTS}/logs/agreement/{{world}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/agreement/{{world}}.jsonl"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=asked("agreement", "mem_mb"),
        runtime=asked("agreement", "runtime"),
    params:
        code=code("agreement"),
        names=COMPARED,
    message:
        "Compare the labels of {params.names}"
    shell:
        "python -m profit agreement --first {input.annotations[0]} --second {input.annotations[1]}"
        " --names {params.names} --references {input.references} --output {output} > {log} 2>&1"


rule correlate:
    input:
        scores=expand(rules.score.output, scored="base", allow_missing=True),
        annotations=lambda wildcards: of_world(ANNOTATIONS, data="references", annotator=wildcards.annotator)(
            wildcards
        ),
        truth=of_world(ANNOTATIONS, data="references", annotator=["truth"] if study.labels == "truth" else []),
    output:
        summary=f"{RESULTS}/correlation/{{model}}/{{annotator}}.json",
        densities=f"{RESULTS}/correlation/{{model}}/{{annotator}}.densities.parquet",
        prompts=f"{RESULTS}/correlation/{{model}}/{{annotator}}.prompts.parquet",
    log:
        f"{RESULTS}/logs/correlate/{{model}}/{{annotator}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/correlate/{{model}}/{{annotator}}.jsonl"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=asked("correlate", "mem_mb"),
        runtime=asked("correlate", "runtime"),
    params:
        code=code("correlate"),
        settings=correlation_settings,
        truth=lambda wildcards, input: f"--truth {input.truth}" if input.truth else "",
    message:
        "Correlate probability under {wildcards.model} with importance by {wildcards.annotator}"
    shell:
        "python -m profit correlate --scores {input.scores} --annotations {input.annotations} {params.truth}"
        " --settings {params.settings:q} --output {output.summary} --densities {output.densities}"
        " --prompts {output.prompts} > {log} 2>&1"


rule overfit:
    input:
        base=base,
        tuned=rules.train.output.model,
        summary=rules.train.output.summary,
        references=of_world(REFERENCES),
        scores=expand(rules.score.output, scored="base", allow_missing=True),
        annotations=labels_of,
        samples=f"{RESULTS}/evaluations/{{model}}/{{method}}/seed{{seed}}/final/samples.parquet",
    output:
        f"{RESULTS}/overfit/{{model}}/{{method}}/seed{{seed}}.json",
    log:
        f"{RESULTS}/logs/overfit/{{model}}/{{method}}/seed{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/overfit/{{model}}/{{method}}/seed{{seed}}.jsonl"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=asked("overfit", "mem_mb"),
        runtime=asked("overfit", "runtime"),
        gpu=asked("overfit", "gpu"),
    params:
        code=code("overfit"),
        run=leaf,
        compute=compute_option("overfit"),
        length=length_option,
        labels=labels_option,
        diversity=lambda wildcards: study.sweeps.overfitting.benchmark,
    message:
        "Measure the overfitting of {wildcards.model}/{wildcards.method}, seed {wildcards.seed}"
    shell:
        "PROFIT_GPUS={resources.gpu}"
        " python -m profit overfit --run {params.run:q} --model {input.base} --tuned {input.tuned}"
        " --references {input.references} --base-scores {input.scores} {params.labels}"
        " {params.compute} {params.length} --train {input.summary} --samples {input.samples}"
        " --benchmark {params.diversity} --output {output} > {log} 2>&1"
