# The world's problems and references, and the base model.
rule generate:
    output:
        references=f"{RESULTS}/data/references.parquet",
        careful=f"{RESULTS}/data/careful.parquet",
        world=f"{RESULTS}/data/world.json",
        benchmarks=expand(f"{RESULTS}/data/benchmarks/{{name}}.json", name=EVALUATED),
    log:
        f"{RESULTS}/logs/generate.log",
    benchmark:
        f"{RESULTS}/benchmarks/generate.jsonl"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        code=code("generate"),
        world=canonical_json(study.world.model_dump()),
        data=canonical_json(study.data.model_dump()),
        benchmarks=generated_benchmarks(),
        folder=subpath(output.references, parent=True),
    message:
        "Generate the references and the benchmark problems of the world"
    shell:
        "python -m profit generate --world {params.world:q} --data {params.data:q}"
        " --benchmarks {params.benchmarks:q} --output-folder {params.folder} > {log} 2>&1"


rule pretrain:
    input:
        rules.generate.output.world,
    output:
        directory(f"{RESULTS}/models/{{model}}"),
    log:
        f"{RESULTS}/logs/pretrain/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/pretrain/{{model}}.jsonl"
    conda:
        "../../environment.yml"
    threads: 2
    resources:
        mem_mb=4000,
        runtime=60,
        gpu=GPU,
    params:
        code=code("pretrain"),
        world=rules.generate.params.world,
        pretraining=lambda wildcards: canonical_json(study.models[wildcards.model].pretraining.model_dump()),
        data=subpath(input[0], parent=True),
        scratch=f"{RESULTS}/scratch/pretrain/{{model}}",
    message:
        "Pretrain the base model {wildcards.model}"
    shell:
        "PROFIT_GPUS={resources.gpu}"
        " python -m profit pretrain --world {params.world:q} --pretraining {params.pretraining:q}"
        " --data {params.data} --scratch {params.scratch} --output {output} > {log} 2>&1"
