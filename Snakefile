# The whole study: `snakemake --cores all`, or another one with `--configfile workflow/studies/smoke.yaml`.
# Targets: all (default), audit and phase (the studies of these names), figures (the shipped results, no training),
# tune (choice of learning rates), report.
import sys

from snakemake.utils import min_version

min_version("9.25")


# --configfile would otherwise be merged into the default study.
if not workflow.configfiles:
    STUDY = next((name for name in ("audit", "phase") if name in sys.argv), "miniature")

    configfile: f"{workflow.basedir}/workflow/studies/{STUDY}.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"


onstart:
    BEGUN.update(progress.begin(workflow, study))


onsuccess:
    progress.end(BEGUN, RESULTS)
    progress.let_go()


onerror:
    progress.let_go()


rule all:
    input:
        FIGURES,
        expand(f"{RESULTS}/tables/{{file}}", file=files_of([*TABLES, "claims", "power"])),
        TUNE_TABLE,
        f"{RESULTS}/tables/claims.md",
        f"{RESULTS}/report.html",


if study.name in ("audit", "phase"):

    rule:
        name:
            study.name
        input:
            rules.all.input,


include: "workflow/rules/prepare.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/analyse.smk"
include: "workflow/rules/audit.smk"
include: "workflow/rules/figures.smk"
