# References, problems and base models: a miniature makes them, any other study takes them from the hub and from files.
if study.miniature:

    rule generate:
        output:
            references=REFERENCES,
            careful=f"{DATA}/careful.parquet",
            world=WORLD,
            benchmarks=expand(PROBLEMS, benchmark=EVALUATED, allow_missing=True),
        log:
            f"{RESULTS}/logs/generate/{{world}}.log",
        benchmark:
            f"{RESULTS}/benchmarks/generate/{{world}}.jsonl"
        # What most of the study waits for comes first, that no core waits at the end for a late base.
        priority: 1
        conda:
            "../../environment.yml"
        threads: 1
        resources:
            mem_mb=asked("generate", "mem_mb"),
            runtime=asked("generate", "runtime"),
        params:
            code=code("generate"),
            world=lambda wildcards: canonical_json(study.worlds[wildcards.world].model_dump()),
            data=lambda wildcards: canonical_json(study.data_of(wildcards.world).model_dump(exclude={"unseen"})),
            benchmarks=generated_benchmarks(),
            folder=subpath(output.references, parent=True),
        message:
            "Generate the references and the benchmark problems of world {wildcards.world}"
        shell:
            "python -m profit generate --world {params.world:q} --data {params.data:q}"
            " --benchmarks {params.benchmarks:q} --output-folder {params.folder} > {log} 2>&1"

    rule unseen:
        input:
            REFERENCES,
        output:
            f"{DATA}/unseen.parquet",
        log:
            f"{RESULTS}/logs/unseen/{{world}}.log",
        benchmark:
            f"{RESULTS}/benchmarks/unseen/{{world}}.jsonl"
        conda:
            "../../environment.yml"
        threads: 1
        resources:
            mem_mb=asked("unseen", "mem_mb"),
            runtime=asked("unseen", "runtime"),
        params:
            code=code("unseen"),
            world=lambda wildcards: canonical_json(study.worlds[wildcards.world].model_dump()),
            data=lambda wildcards: canonical_json(
                study.data_of(wildcards.world).model_dump(include={"prompts", "held", "unseen"})
            ),
        message:
            "Generate the unseen prompts of world {wildcards.world}"
        shell:
            "python -m profit unseen --world {params.world:q} --data {params.data:q} --references {input}"
            " --output {output} > {log} 2>&1"

    rule pretrain:
        input:
            of_world(WORLD),
        output:
            directory(MODEL),
        log:
            f"{RESULTS}/logs/pretrain/{{model}}.log",
        benchmark:
            f"{RESULTS}/benchmarks/pretrain/{{model}}.jsonl"
        priority: 1
        conda:
            "../../environment.yml"
        threads: pretraining_threads(len(study.bases), workflow.resource_settings.cores)
        resources:
            mem_mb=asked("pretrain", "mem_mb"),
            runtime=asked("pretrain", "runtime"),
            gpu=asked("pretrain", "gpu"),
        params:
            code=code("pretrain"),
            world=lambda wildcards: canonical_json(study.worlds[study.world_of(wildcards.model)].model_dump()),
            pretraining=lambda wildcards: canonical_json(study.models[wildcards.model].pretraining.model_dump()),
            data=subpath(input[0], parent=True),
            scratch=f"{RESULTS}/scratch/pretrain/{{model}}",
        message:
            "Pretrain the base model {wildcards.model}"
        shell:
            "PROFIT_GPUS={resources.gpu}"
            " python -m profit pretrain --world {params.world:q} --pretraining {params.pretraining:q}"
            " --data {params.data} --scratch {params.scratch} --output {output} > {log} 2>&1"

else:

    # They reach the hub, which the nodes of a cluster often cannot.
    localrules:
        collect,
        fetch,
        questions,

    rule collect:
        input:
            local_sources(study.data.sources),
        output:
            references=expand(REFERENCES, world=study.worlds),
            world=expand(WORLD, world=study.worlds),
        log:
            f"{RESULTS}/logs/collect.log",
        benchmark:
            f"{RESULTS}/benchmarks/collect.jsonl"
        conda:
            "../../environment.yml"
        threads: 1
        resources:
            mem_mb=asked("collect", "mem_mb"),
            runtime=asked("collect", "runtime"),
        params:
            code=code("collect"),
            data=canonical_json(study.data.model_dump()),
        message:
            "Collect the references from their sources"
        shell:
            "python -m profit collect --data {params.data:q} --output {output.references} --report {output.world}"
            " > {log} 2>&1"

    rule fetch:
        input:
            local_model,
        output:
            directory(MODEL),
        log:
            f"{RESULTS}/logs/fetch/{{model}}.log",
        benchmark:
            f"{RESULTS}/benchmarks/fetch/{{model}}.jsonl"
        conda:
            "../../environment.yml"
        threads: 1
        resources:
            mem_mb=asked("fetch", "mem_mb"),
            runtime=asked("fetch", "runtime"),
        params:
            code=code("fetch"),
            model=lambda wildcards: canonical_json(study.models[wildcards.model].fetched),
        message:
            "Fetch the base model {wildcards.model}"
        shell:
            "python -m profit fetch --model {params.model:q} --output {output} > {log} 2>&1"

    rule questions:
        input:
            local_questions,
        output:
            PROBLEMS,
        log:
            f"{RESULTS}/logs/questions/{{world}}/{{benchmark}}.log",
        benchmark:
            f"{RESULTS}/benchmarks/questions/{{world}}/{{benchmark}}.jsonl"
        conda:
            "../../environment.yml"
        threads: 1
        resources:
            mem_mb=asked("questions", "mem_mb"),
            runtime=asked("questions", "runtime"),
        params:
            code=code("questions"),
            asked=questions_options,
        message:
            "Write the questions of {wildcards.benchmark}"
        shell:
            "python -m profit questions {params.asked} --output {output} > {log} 2>&1"
