# Tidy tables, figures, report.
rule tabulate:
    input:
        worlds=expand(WORLD, world=study.worlds),
        references=expand(REFERENCES, world=study.worlds),
        scores=expand(rules.score.output, model=study.models if ANNOTATORS else [], scored="base"),
        annotations=expand(ANNOTATIONS, world=study.worlds, data="references", annotator=ANNOTATORS),
        correlation=expand(rules.correlate.output, model=study.models, annotator=ANNOTATORS),
        agreement=expand(rules.agreement.output, world=study.worlds if COMPARED else []),
        runs=trained_files(STUDY_RUNS),
        evaluations=evaluations(STUDY_RUNS),
        published=PUBLISHED,
        gradients=expand(rules.gradients.output, model=study.models if study.analysis.gradients else []),
        account=looked_at_files("account", ["json", "parquet"]),
        drift=looked_at_files("drift", ["json"]),
        timing=expand(rules.timing.output, model=TIMED_RUNS),
        answer_style=expand(rules.answer_style.output, model=filter(styled_runs, study.models)),
        overfit=[f"{run_folder('overfit', run)}.json" for run in OVERFIT_RUNS],
    output:
        expand(f"{RESULTS}/tables/{{file}}", file=files_of(TABLES)),
        report(
            f"{RESULTS}/tables/published.md",
            caption="../report/published.rst",
            category="Tables",
            labels={"table": "The paper's numbers beside ours"},
        ),
        f"{RESULTS}/tables/summary.md",
    log:
        f"{RESULTS}/logs/tabulate.log",
    benchmark:
        f"{RESULTS}/benchmarks/tabulate.jsonl"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=asked("tabulate", "mem_mb"),
        runtime=asked("tabulate", "runtime"),
    params:
        code=code("tabulate"),
        listed=figured(STUDY_RUNS),
        study=STUDY_FILE,
        published=lambda wildcards, input: Path(input.published[0]).parent,
        results=lambda wildcards, input: Path(input.worlds[0]).parents[2],
        folder=subpath(output[0], parent=True),
    message:
        "Gather the results in tidy tables"
    shell:
        "python -m profit tabulate --study {params.study} --results {params.results} --published {params.published}"
        " --output-folder {params.folder} > {log} 2>&1"


rule draw:
    input:
        tables=table_files,
        published=PUBLISHED,
    output:
        pdf="figures/{tables_of}/{figure}.pdf",
        png=report(
            "figures/{tables_of}/{figure}.png",
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{figure}", "study": "{tables_of}"},
        ),
    log:
        "results/{tables_of}/logs/draw/{figure}.log",
    benchmark:
        "results/{tables_of}/benchmarks/draw/{figure}.jsonl"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=asked("draw", "mem_mb"),
        runtime=asked("draw", "runtime"),
    params:
        code=figure_code,
        tables=table_folder,
        published=lambda wildcards, input: Path(input.published[0]).parent,
    message:
        "Draw {wildcards.figure} of {wildcards.tables_of}"
    shell:
        "python -m profit draw --figure {wildcards.figure} --tables {params.tables} --published {params.published}"
        " --output-pdf {output.pdf} --output-png {output.png} > {log} 2>&1"


rule claims:
    input:
        tables=[path for path in rules.tabulate.output if path.endswith(".parquet")],
        tune=TUNE_TABLE,
        published=PUBLISHED,
    output:
        expand(f"{RESULTS}/tables/{{file}}", file=files_of(["claims", "power"])),
        report(
            f"{RESULTS}/tables/claims.md",
            caption="../report/claims.rst",
            category="Claims",
            labels={"table": "Verdicts"},
        ),
        report(
            f"{RESULTS}/tables/table1_main.md",
            caption="../report/table1_main.rst",
            category="Tables",
            labels={"table": "Table 1"},
        ),
        summary=f"{RESULTS}/claims.json",
    log:
        f"{RESULTS}/logs/claims.log",
    benchmark:
        f"{RESULTS}/benchmarks/claims.jsonl"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=asked("claims", "mem_mb"),
        runtime=asked("claims", "runtime"),
    params:
        code=code("claims"),
        tables=subpath(output[0], parent=True),
        published=lambda wildcards, input: Path(input.published[0]).parent,
    message:
        "Judge the claims of the paper"
    shell:
        "python -m profit claims --tables {params.tables} --published {params.published} --output {output.summary}"
        " --output-folder {params.tables} > {log} 2>&1"


rule figures:
    input:
        expand(
            "figures/reference/{figure}.{kind}",
            figure=figures_of(load_study(f"{ROOT}workflow/studies/miniature.yaml")),
            kind=["pdf", "png"],
        ),
    message:
        "The figures of the shipped results"


rule report:
    input:
        figures=FIGURES,
        tables=rules.tabulate.output,
        claims=rules.claims.output,
    output:
        f"{RESULTS}/report.html",
    log:
        f"{RESULTS}/logs/report.log",
    benchmark:
        f"{RESULTS}/benchmarks/report.jsonl"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=asked("report", "mem_mb"),
        runtime=asked("report", "runtime"),
    params:
        snakefile=f"{ROOT}Snakefile",
        stylesheet=f"{ROOT}workflow/report/report.css",
        study=STUDY_FILE,
    message:
        "Write the report"
    shell:
        "env -u SNAKEMAKE_PROFILE snakemake {input.figures} {input.tables} {input.claims} --snakefile {params.snakefile}"
        " --configfile {params.study} --report {output} --report-stylesheet {params.stylesheet} --nolock > {log} 2>&1"
