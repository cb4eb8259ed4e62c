# Helpers of the rules: the study, where its files stand, and what each job is told.
import hashlib
import os
import re
import shlex
from glob import glob
from pathlib import Path

from snakemake.exceptions import WorkflowError

from profit import outputs, progress
from profit.bases import WANTED
from profit.code_version import code_version
from profit.files import InputError, canonical_json
from profit.forkserver import prepare_environment
from profit.lease import asks_for_gpus
from profit.outputs import compared, figures_of, files_of, tables_of
from profit.runs import benchmarks_of, listed, looked_at, runs_of, study_runs, timed_runs, tune_runs
from profit.resources import pretraining_threads, resources_of
from profit.settings import STORED_SCORES, copies_steps
from profit.study import load_study

prepare_environment(workflow.basedir)
GPU = int(asks_for_gpus(workflow))

if len(workflow.configfiles) > 1 or workflow.config_settings.config:
    raise WorkflowError("A study is one file: give one --configfile and no --config; settings stand in the file.")
STUDY_FILE = os.path.relpath(workflow.configfiles[0])
try:
    study = load_study(STUDY_FILE)
    RUNS = runs_of(study)
except InputError as error:
    raise WorkflowError(str(error))

ROOT = "" if Path.cwd() == Path(workflow.basedir) else f"{os.path.relpath(workflow.basedir)}/"
BEGUN = {}
RESULTS = f"results/{study.name}"
DATA = f"{RESULTS}/data/{{world}}"
REFERENCES = f"{DATA}/references.parquet"
WORLD = f"{DATA}/world.json"
PROBLEMS = f"{DATA}/benchmarks/{{benchmark}}.json"
ANNOTATIONS = f"{RESULTS}/annotations/{{world}}/{{data}}/{{annotator}}.parquet"
MODEL = f"{RESULTS}/models/{{model}}"
# Whose tokens are accounted for, and the folders of their scores: the references, and those of unseen prompts.
ACCOUNTED = {"references": "", "unseen": "unseen/"} if study.unseen else {"references": ""}
STUDY_RUNS = study_runs(RUNS)
TUNE_RUNS = tune_runs(RUNS)
TIMED_RUNS = timed_runs(study, STUDY_RUNS)
OVERFIT_RUNS = [run for run in STUDY_RUNS if "overfitting" in run.groups]
EVALUATED = {
    **study.benchmarks,
    **({"validation": study.tune.validation} if study.tune else {}),
}

ANNOTATORS = study.analysis.annotators
COMPARED = compared(ANNOTATORS)
TABLES = tables_of(study)
# Which learning rate is each method's own; without that sweep it is a target by itself.
TUNE_TABLE = [f"{RESULTS}/tables/tune.parquet"] if study.sweeps.learning_rate else []
FIGURES = [f"figures/{study.name}/{figure}.{kind}" for figure in figures_of(study) for kind in ("pdf", "png")]
PUBLISHED = sorted(map(str, Path(f"{ROOT}results/published").glob("*.csv")))


wildcard_constraints:
    model="|".join(map(re.escape, study.models)),
    world="|".join(map(re.escape, study.worlds)),
    method="|".join(re.escape(method) for method in sorted({run.leaf["method"] for run in RUNS.values()})),
    benchmark="|".join(EVALUATED),
    seed=r"\d+",
    checkpoint=r"final|epoch\d+",
    data="references|careful|unseen",
    annotator="|".join(ANNOTATORS) or "none",
    scored=r"(unseen/)?(base|\w[\w.]*_seed\d+)",
    figure="|".join(outputs.FIGURES),
    tables_of=f"{study.name}|reference",


def run_of(wildcards):
    """The run that model, method and seed name."""
    return RUNS[wildcards.model, wildcards.method, int(wildcards.seed)]


def leaf(wildcards):
    """All settings of a run, defaults filled: what a change of reruns it."""
    return run_of(wildcards).json


def of_world(pattern, **keys):
    """A file of the world that a job's model lives in."""
    return lambda wildcards: expand(pattern, world=study.world_of(wildcards.model), **keys)


def base(wildcards):
    """The folder of a model's base."""
    return MODEL.format(model=study.base_of(wildcards.model))


def run_folder(stage, run):
    model, method, seed = run.key
    return f"{RESULTS}/{stage}/{model}/{method}/seed{seed}"


def code(rule, choice=None):
    return lambda wildcards: code_version(rule, choice(wildcards) if choice else None)


def asked(rule, resource):
    """What a job of a rule asks for (profit.resources); GPUs only where they are asked for at all."""

    def amount(wildcards):
        model, annotator = (wildcards.get(key) for key in ("model", "annotator"))
        run = run_of(wildcards) if wildcards.get("seed") else None
        found = resources_of(study, rule, model, run, annotator)[resource]
        return found * GPU if resource == "gpu" else found

    return amount


def objective_of(wildcards):
    return run_of(wildcards).leaf["objective"]["name"]


def generated_benchmarks():
    """What the world is told about the benchmarks it makes problems for."""
    keys = {"questions", "max_new_tokens", "tight_tokens"}
    return canonical_json([{"name": name, **item.model_dump(include=keys)} for name, item in EVALUATED.items()])


def present(files):
    """Those of some files that are there: a change of one reruns its rule, and its rule says what it lacks."""
    return sorted(path for pattern in files if pattern for path in glob(str(pattern), recursive=True))


def local_sources(sources):
    return present(source.file for source in sources)


def local_model(wildcards):
    """Files of a local model folder, and the chat template that goes with it."""
    model = study.models[wildcards.model]
    return present([*(f"{model.source}/{pattern}" for pattern in WANTED), model.template])


def local_questions(wildcards):
    item = EVALUATED[wildcards.benchmark]
    return present([item.source.file, item.options.get("train", {}).get("file")])


def questions_options(wildcards):
    """Protocol, source and options of a benchmark, and how many questions the study expects."""
    item = EVALUATED[wildcards.benchmark]
    source, options = canonical_json(item.source.model_dump(exclude_defaults=True)), canonical_json(item.options)
    return shlex.join(
        ["--benchmark", item.protocol or wildcards.benchmark, "--source", source, "--options", options]
        + ["--expected", str(item.questions)]
    )


def compute_option(rule):
    """--compute of a model that says how it is held and run, as far as it concerns a rule."""

    def option(wildcards):
        compute = study.compute_of(wildcards.model).of(rule)
        return f"--compute {shlex.quote(canonical_json(compute))}" if compute else ""

    return option


def processes(wildcards):
    """Of one training."""
    return study.compute_of(wildcards.model).processes


def length_option(wildcards):
    """Real answers are cut where training cuts them; those of a miniature are short."""
    return "" if study.miniature else f"--max-length {study.training.max_length}"


def decoding(wildcards):
    return canonical_json(study.decoding_of(wildcards.model).model_dump())


def evaluated_benchmarks(wildcards):
    """Names, tasks and limits of the benchmarks of a run, with the files of their items."""
    world = study.world_of(wildcards.model)
    return canonical_json(
        [
            {"name": name, "items": PROBLEMS.format(world=world, benchmark=name), "tight_tokens": item.tight}
            | item.model_dump(include={"task", "samples", "max_new_tokens"})
            for name, item in benchmarks_of(study, run_of(wildcards)).items()
        ]
    )


def task_files(names):
    """Task YAMLs with those that they include."""
    files = [f"{ROOT}workflow/benchmarks/{name}.yaml" for name in names]
    for file in files:
        found = re.findall(r"^include: (\S+)", Path(file).read_text(), re.MULTILINE)
        files += [path for name in found if (path := f"{ROOT}workflow/benchmarks/{name}") not in files]
    return sorted(files)


def correlation_settings(wildcards):
    """Whose scores and labels are compared, and how often prompts are resampled."""
    settings = study.analysis.model_dump(include={"taus", "resamples", "bootstrap", "seed"})
    return canonical_json({"model": wildcards.model, "annotator": wildcards.annotator, **settings})


def evaluation_inputs(wildcards):
    """Base, items and task files of an evaluation, and the trained model where there is one."""
    run = run_of(wildcards)
    benchmarks = benchmarks_of(study, run)
    found = {
        "base": base(wildcards),
        "world": of_world(WORLD)(wildcards),
        "problems": of_world(PROBLEMS, benchmark=list(benchmarks))(wildcards),
        "tasks": task_files({item.task for item in benchmarks.values()}),
    }
    return {**found, "tuned": f"{run_folder('runs', run)}/model"} if run.trained else found


def tuned_option(wildcards):
    """--tuned with the folder of the checkpoint; nothing for the base itself."""
    run = run_of(wildcards)
    if not run.trained:
        return ""
    folder = Path(run_folder("runs", run), "model")
    return f"--tuned {folder if wildcards.checkpoint == 'final' else folder / wildcards.checkpoint}"


def data_of(wildcards):
    """The table of answers that the run trains on: references, or careful in the check of the world."""
    return run_of(wildcards).leaf["data"]


def scored_references(wildcards):
    """The references whose scores are wanted: those of the world's prompts, or of its unseen ones."""
    return of_world(f"{DATA}/unseen.parquet" if wildcards.scored.startswith("unseen/") else REFERENCES)(wildcards)


def scored_run(wildcards):
    """The model of the run whose scores are wanted; nothing for the base itself."""
    scored = wildcards.scored.removeprefix("unseen/")
    if scored == "base":
        return []
    method, _, seed = scored.rpartition("_seed")
    return f"{run_folder('runs', RUNS[wildcards.model, method, int(seed)])}/model"


def paired_steps(wildcards):
    """The step log of the run with the same model and seed whose kept share is copied."""
    leaf = run_of(wildcards).leaf
    if not copies_steps(leaf):
        return []
    return f"{run_folder('runs', RUNS[wildcards.model, leaf['paired_with'], int(wildcards.seed)])}/steps.parquet"


def stored_scores(wildcards):
    """The scores of the references that the objective compares with: those of the base, or of the paired run."""
    leaf = run_of(wildcards).leaf
    whose = STORED_SCORES.get(leaf["objective"]["name"])
    if whose is None:
        return []
    scored = f"{leaf['paired_with']}_seed{wildcards.seed}" if whose == "pair" else "base"
    return f"{RESULTS}/scores/{wildcards.model}/{scored}.parquet"


def other_runs_options(wildcards, input):
    """--paired and --scores, where the run has them."""
    given = {"--paired": input.paired, "--scores": input.scores}
    return " ".join(f"{option} {path}" for option, path in given.items() if path)


def trained_files(runs):
    """Summary and step log of every trained run."""
    folders = [run_folder("runs", run) for run in runs if run.trained]
    return [f"{folder}/{name}" for folder in folders for name in ("train.json", "steps.parquet")]


def evaluations(runs):
    """Every evaluation of some runs."""
    return [f"{run_folder('evaluations', run)}/{name}/summary.json" for run in runs for name in run.checkpoints]


def trained_labels(wildcards):
    """The true labels, which a training counts what it keeps by; others would retrain everything when they change."""
    return labels_of(wildcards) if study.miniature else []


def labels_of(wildcards):
    """The labels of a run's references, where an annotator gives them to all answers."""
    if study.labels is None:
        return []
    return of_world(ANNOTATIONS, data=data_of(wildcards), annotator=study.labels)(wildcards)


def labels_option(wildcards, input):
    return f"--annotations {input.annotations}" if input.annotations else ""


def judge_options(wildcards):
    """Whom the annotator llm asks, and where its answers are kept."""
    if wildcards.annotator != "llm":
        return ""
    judge = shlex.quote(canonical_json(study.analysis.judge.model_dump()))
    return f"--judge {judge} --cache {RESULTS}/scratch/annotate/{wildcards.world}/{wildcards.data}/llm"


def gradient_settings(wildcards):
    """How much of the references the check of Theorem 1 takes."""
    analysis = study.analysis
    return canonical_json(analysis.gradients.model_dump() | {"bootstrap": analysis.bootstrap, "seed": analysis.seed})


def looked_at_files(what, kinds):
    """Results of the analysis (account, drift) of every run whose method it names."""
    runs = [run for run in STUDY_RUNS if looked_at(study, run, what)]
    return [f"{run_folder(what, run)}.{kind}" for run in runs for kind in kinds]


def styled_runs(model):
    """The runs of a model whose answers are described."""
    return [run for run in STUDY_RUNS if run.leaf["model"] == model and looked_at(study, run, "answer_style")]


def styled_samples(wildcards):
    return [f"{run_folder('evaluations', run)}/final/samples.parquet" for run in styled_runs(wildcards.model)]


def timing_code(wildcards):
    objectives = {run.leaf["objective"]["name"] for run in TIMED_RUNS[wildcards.model].values()}
    return " ".join(code_version("timing", objective) for objective in sorted(objectives))


def timed_leaves(wildcards):
    """All settings of a run of each method that is timed."""
    return canonical_json({method: run.leaf for method, run in TIMED_RUNS[wildcards.model].items()})


def style_settings(wildcards):
    """Methods and seeds of the described runs, and which method is the base itself."""
    runs = styled_runs(wildcards.model)
    base = next((run.leaf["method"] for run in runs if not run.trained), None)
    pairs = [[run.leaf["method"], run.leaf["seed"]] for run in runs]
    return canonical_json({"model": wildcards.model, "runs": pairs, "base": base})


def figured(runs):
    """What tables and figures are made of, so that a change of it makes them anew; too long for a command line."""
    return hashlib.sha256(canonical_json(listed(study, runs)).encode()).hexdigest()


def figure_code(wildcards):
    return f"{code_version('draw')} {code_version(f'figures.{wildcards.figure}', entry='draw')}"


def table_files(wildcards):
    """The tables a figure may read: those of this study, or the shipped ones, which no rule makes."""
    if wildcards.tables_of == "reference":
        return sorted(str(path) for path in Path(f"{ROOT}results/reference/tables").glob("*.parquet"))
    if wildcards.figure == "claims":
        return [f"{RESULTS}/tables/claims.parquet"]
    return [f"{RESULTS}/tables/{name}.parquet" for name in TABLES] + TUNE_TABLE


def table_folder(wildcards):
    if wildcards.tables_of == "reference":
        return f"{ROOT}results/reference/tables"
    return f"{RESULTS}/tables"
