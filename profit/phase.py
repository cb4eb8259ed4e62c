"""Where does a method beat SFT? A map by skill of the base, style and novelty of the references, and learning rate.

Bases that meet references of several kinds (`like` in a study) make the map. Each cell, a model at a learning rate,
has the difference to SFT at the same rate, paired by seed, with a 95 % t interval and its p. Many cells are looked at,
and one in twenty would seem sure by chance: the sign of a cell is called sure where its p, adjusted over all cells of
its method and benchmark, keeps the false discovery rate at 5 % (Benjamini and Hochberg 1995). The mean over all kinds
of references that a base meets, by seed, is a cell of its own, adjusted among its like: a lead that is too small to be
sure of one kind may be sure of all together.

No command: used by profit.tabulate.
"""

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from profit.figures import tables
from profit.statistics import paired_difference

LEVEL = 0.05
REFERENCES = ["wording_lean", "rare_in_references"]
MEASURED = ["skill", "core_low", "low_core", "replaceable_probability"]
# What a run has in common with that of SFT it is compared with.
PAIR = ["model", "seed", "benchmark", "learning_rate", "tuning", "rank", "epochs"]
SETTING = ["method", "kind", "learning_rate", "benchmark"]
CELL = ["model", *SETTING]
ALL = "all"  # in place of a model: the mean over the kinds of references that the base meets
COMPARED = ["accuracy", "sft", "difference", "low", "high", "p", "seeds"]
COLUMNS = [*CELL, "base", "pretraining_steps", *REFERENCES, *MEASURED, "vanilla", *COMPARED, "q", "sign"]


def phase_table(found: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One row a model, method, learning rate and mean of benchmarks (average, learnt, kept); shares and means in 0-1.

    Args:
        found: tables models, runs, evaluations, main and prompts.

    Returns:
        COLUMNS, of the models whose base meets references of several kinds and of the methods of group main that have
        SFT at their rate. `method` is what the study calls the method at the first of its rates; `skill` the base's
        accuracy on the same_length problems of the model's world; `core_low` the share of core tokens with p <= 0.1
        under the base, `low_core` the share of core among the core and replaceable tokens with p <= 0.1; `vanilla` the
        base's accuracy; `accuracy` and `sft` are means over the seeds that both have; `q` is the adjusted p, and
        `sign` above or below where q <= LEVEL, else unsure. Rows of model ALL are means over a base's models, and have
        neither references nor what is measured of them.
    """
    models = placed(found)
    runs = tables.with_kinds(found["runs"][found["runs"]["group"] == "main"])
    final = tables.accuracies(found["evaluations"], runs, found["main"])
    final = tables.with_means(final[(final["checkpoint"] == "final") & final["model"].isin(models["model"])])
    final = final[final["benchmark"].isin(tables.MEANS)].assign(accuracy=final["accuracy"] / 100)
    settings = [name for name in runs if name not in (*tables.RUN_KEYS, "group", "learning_rate", "paired_with")]
    final["method"] = final.groupby(settings, dropna=False, sort=False)["method"].transform("first")
    vanilla = final[final["kind"] == "vanilla"].groupby(["model", "benchmark"])["accuracy"].mean().rename("vanilla")
    sft = final[final["kind"] == "sft"].drop_duplicates(PAIR).set_index(PAIR)["accuracy"].rename("sft")
    pairs = final[~final["kind"].isin(["vanilla", "sft"])].merge(sft.reset_index(), on=PAIR)
    cells = compared(pairs, CELL).merge(models, on="model")
    cells = cells.merge(vanilla.reset_index(), "left", ["model", "benchmark"])
    whole = compared(over_references(pairs, models), ["base", *SETTING]).assign(model=ALL)
    whole = whole.merge(models.drop_duplicates("base")[["base", "pretraining_steps"]], on="base")
    whole = whole.merge(cells.groupby(["base", "benchmark"])["vanilla"].mean().reset_index(), on=["base", "benchmark"])
    return pd.concat([signed(rows).reindex(columns=COLUMNS) for rows in (cells, whole)], ignore_index=True)


def compared(pairs: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """COMPARED of each group of runs beside SFT's, which are paired by seed."""
    rows = [
        (*key, own["accuracy"].mean(), own["sft"].mean(), *paired_difference(own["accuracy"], own["sft"]), len(own))
        for key, own in pairs.groupby(by, sort=False)
    ]
    return pd.DataFrame(rows, columns=[*by, *COMPARED])


def over_references(pairs: pd.DataFrame, models: pd.DataFrame) -> pd.DataFrame:
    """Mean over the models of a base by seed, of the seeds that all of its models have."""
    groups = pairs.merge(models[["model", "base"]], on="model").groupby(["base", *SETTING, "seed"], sort=False)
    means = groups[["accuracy", "sft"]].mean().assign(models=groups.size()).reset_index()
    return means[means["models"] == means["base"].map(models["base"].value_counts())]


def placed(found: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Table models with MEASURED, of the models whose base meets references of several kinds."""
    models = found["models"]
    met = models.drop_duplicates(["base", *REFERENCES])["base"].value_counts()
    models = models[models["base"].map(met) > 1]
    vanilla = found["runs"].loc[found["runs"]["objective"] == "vanilla", tables.RUN_KEYS]
    answered = found["evaluations"].merge(vanilla, on=tables.RUN_KEYS)
    prompts = found["prompts"][found["prompts"]["annotator"] == "truth"]
    sums = prompts.groupby(["model", "label"])[["tokens", "low", "probability_sum"]].sum().unstack("label")
    core, replaceable = (sums.xs(label, axis=1, level="label") for label in ("core", "replaceable"))
    measured = {
        "skill": answered[answered["benchmark"] == tables.LEARNT].groupby("model")["accuracy"].mean(),
        "core_low": core["low"] / core["tokens"],
        "low_core": core["low"] / (core["low"] + replaceable["low"]),
        "replaceable_probability": replaceable["probability_sum"] / replaceable["tokens"],
    }
    return models.assign(**{name: models["model"].map(values) for name, values in measured.items()})


def signed(cells: pd.DataFrame) -> pd.DataFrame:
    """Add `q`, p adjusted over the cells of a method and benchmark, and `sign`; one seed has no p and no sure sign."""
    known = cells[cells["p"].notna()].groupby(["method", "benchmark"])["p"]
    q = known.transform(lambda p: false_discovery_control(p.to_numpy())).reindex(cells.index)
    sign = np.where(cells["difference"] > 0, "above", "below")
    return cells.assign(q=q, sign=np.where(q <= LEVEL, sign, "unsure"))
