# What the base model thinks of every reference token, who calls it core, and how the two go together.
rule score:
    input:
        model=f"{RESULTS}/models/{{model}}",
        tuned=scored_run,
        references=rules.generate.output.references,
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
        mem_mb=4000,
        runtime=30,
        gpu=GPU,
    params:
        code=code("score"),
        tuned=lambda wildcards, input: f"--tuned {input.tuned}" if input.tuned else "",
    message:
        "Score the reference tokens under {wildcards.model}/{wildcards.scored}"
    shell:
        "PROFIT_GPUS={resources.gpu}"
        " python -m profit score --model {input.model} {params.tuned} --references {input.references}"
        " --output {output} > {log} 2>&1"


rule annotate:
    input:
        f"{RESULTS}/data/{{data}}.parquet",
    output:
        f"{RESULTS}/annotations/{{data}}/{{annotator}}.parquet",
    log:
        f"{RESULTS}/logs/annotate/{{data}}/{{annotator}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/annotate/{{data}}/{{annotator}}.jsonl"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        code=code("annotate", lambda wildcards: wildcards.annotator),
    message:
        "Annotate the {wildcards.data} by {wildcards.annotator}"
    shell:
        "python -m profit annotate --annotator {wildcards.annotator} --references {input} --output {output} > {log} 2>&1"


rule correlate:
    input:
        scores=expand(rules.score.output, scored="base", allow_missing=True),
        annotations=expand(rules.annotate.output, data="references", allow_missing=True),
        truth=expand(rules.annotate.output, data="references", annotator="truth"),
    output:
        summary=f"{RESULTS}/correlation/{{model}}/{{annotator}}.json",
        densities=f"{RESULTS}/correlation/{{model}}/{{annotator}}.densities.parquet",
    log:
        f"{RESULTS}/logs/correlate/{{model}}/{{annotator}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/correlate/{{model}}/{{annotator}}.jsonl"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        code=code("correlate"),
        settings=correlation_settings,
    message:
        "Correlate probability under {wildcards.model} with importance by {wildcards.annotator}"
    shell:
        "python -m profit correlate --scores {input.scores} --annotations {input.annotations} --truth {input.truth}"
        " --settings {params.settings:q} --output {output.summary} --densities {output.densities} > {log} 2>&1"


rule overfit:
    input:
        base=f"{RESULTS}/models/{{model}}",
        tuned=rules.train.output.model,
        summary=rules.train.output.summary,
        references=rules.generate.output.references,
        scores=expand(rules.score.output, scored="base", allow_missing=True),
        annotations=expand(rules.annotate.output, data="references", annotator="truth"),
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
        mem_mb=4000,
        runtime=30,
        gpu=GPU,
    params:
        code=code("overfit"),
        run=leaf,
    message:
        "Measure the overfitting of {wildcards.model}/{wildcards.method}, seed {wildcards.seed}"
    shell:
        "PROFIT_GPUS={resources.gpu}"
        " python -m profit overfit --run {params.run:q} --model {input.base} --tuned {input.tuned}"
        " --references {input.references} --base-scores {input.scores} --annotations {input.annotations}"
        " --train {input.summary} --samples {input.samples} --output {output} > {log} 2>&1"
