# The whole study: `snakemake --cores all`, or another one with `--configfile workflow/studies/smoke.yaml`.
# Targets: all (default), figures (the shipped results, no training), tune (choice of the learning rate), report.
from snakemake.utils import min_version

min_version("9.25")


# --configfile would otherwise be merged into the default study.
if not workflow.configfiles:

    configfile: f"{workflow.basedir}/workflow/studies/miniature.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"


onstart:
    BEGUN.update(progress.begin(workflow, study))


onsuccess:
    progress.end(BEGUN, RESULTS)


rule all:
    input:
        FIGURES,
        expand(f"{RESULTS}/tables/{{file}}", file=files_of([*TABLES, "claims", "power"])),
        f"{RESULTS}/tables/claims.md",
        f"{RESULTS}/report.html",


include: "workflow/rules/prepare.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/analyse.smk"
include: "workflow/rules/audit.smk"
include: "workflow/rules/figures.smk"
