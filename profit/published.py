"""The paper's numbers beside this study's: table `published`, one row a published value and what of ours it meets.

`ours` is filled where this study measured the same: a model of the paper's name, the method by its settings and epochs
(METHODS), the benchmark by its name, an average over the same benchmarks; the data are the study's own affair. Then
`difference` is ours - published, with the t interval of ours shifted by the published number (the paper reports none).
Some quantities mean the same on any model: Figure 3's means and p, how three references change Figure 2, how many
thresholds of Figure 4 beat SFT, by how much ProFit's first epoch beats SFT's best (Figure 6), and the mean difference
of ProFit to SFT in a table. There ours stand beside with their model and no difference. Elsewhere `ours` is empty.

No command: written by `profit.tabulate`.
"""

import re
from pathlib import Path
from typing import Any

import pandas as pd

from profit.figures import tables
from profit.files import InputError
from profit.published_figures import epochs, probabilities, several_references, thresholds_above_sft

TABLES = ("table1", "table2", "table3")
# By which settings a method is the paper's. Entropy's share is that of the rule of 80/20 which the paper cites, tau
# that of the authors' script: the paper states neither.
PLAIN = {"tuning": "full", "references": 1, "normaliser": "all", "epochs": 1, "match": None, "stop": 1, "mix": 1}
METHODS = {
    "vanilla": {"objective": "vanilla"},
    "sft": {"objective": "sft", **PLAIN},
    "entropy": {"objective": "entropy", "share": 0.2, **PLAIN},
    "dft": {"objective": "dft", **PLAIN},
    "profit": {"objective": "profit", "tau": 0.1, "direction": "higher", **PLAIN},
}
SUMS = ("average", "difference_vs_vanilla")
COLUMNS = [
    "source",
    "model",
    "method",
    "quantity",
    "unit",
    "relation",
    "published",
    "ours_model",
    "ours_of",
    "ours",
    "low",
    "high",
    "seeds",
    "difference",
    "difference_low",
    "difference_high",
    "published_vs_sft",
    "ours_vs_sft",
    "ours_vs_sft_low",
    "ours_vs_sft_high",
]
Row = dict[str, Any]


def load(folder: Path, name: str) -> pd.DataFrame:
    """A table of results/published; InputError if it is missing."""
    path = folder / f"{name}.csv"
    if not path.is_file():
        raise InputError(f"{path}: not found, expected the paper's numbers")
    return pd.read_csv(path)


def printed(folder: Path) -> pd.DataFrame:
    """Tables 1 to 3 with the column `source`."""
    return pd.concat([load(folder, name).assign(source=name) for name in TABLES], ignore_index=True)


def printed_cells(paper: pd.DataFrame, model: str, names: list[str]) -> pd.DataFrame:
    """Published accuracies of a model by benchmark and method: of the table that shares most benchmarks with `names`.

    Its average only if it is one over the same benchmarks. Empty where the paper has none of them.
    """
    own = paper[(paper["model"] == model) & (paper["benchmark"] != "difference_vs_vanilla")]
    ours = set(names) - set(tables.MEANS)
    shared = own[own["benchmark"].isin(ours)].groupby("source")["benchmark"].nunique()
    if shared.empty:
        return pd.DataFrame()
    own = own[own["source"] == shared.idxmax()]
    cells = own.pivot(index="benchmark", columns="method", values="accuracy")[list(dict.fromkeys(own["method"]))]
    return cells if set(cells.index) - {"average"} == ours else cells.drop(index="average")


def title(table: str) -> str:
    """Name of a table or figure as printed: table1 is Table 1."""
    found = re.fullmatch(r"(table|figure|abstract)(\d*)", table)
    return f"{found[1].capitalize()} {found[2]}".strip() if found else table.replace("_", " ")


def beside(found: dict[str, pd.DataFrame], folder: Path) -> pd.DataFrame:
    """Table `published` from a study's tables runs, evaluations, main and, where there are labels, correlation.

    Accuracies in per cent, differences in points. `ours_of` names our method, annotator or benchmark.
    """
    runs, main = found["runs"], found["main"]
    pairs = [(model, name) for model in tables.models(runs) for name in METHODS]
    methods = {pair: method for pair in pairs if (method := ours_of(runs, *pair))}
    alike = {model: ours_of(runs, model, "profit", ("epochs",)) for model in tables.models(runs)}
    rows: list[Row] = []
    for source, cells in printed(folder).groupby("source"):
        rows += [*table_rows(source, cells, main, methods), *mean_gain(source, cells, main, methods, alike)]
    accuracies = tables.accuracies(found["evaluations"], tables.with_kinds(runs), main)
    ours = {
        "abstract": range_of_gains(load(folder, "table1"), main, methods),
        "figure2": several_references(accuracies),
        "figure3": probabilities(found.get("correlation")),
        "figure4": thresholds_above_sft(accuracies),
        "figure6": (swept := epochs(accuracies)),
        "figure9": swept,
    }
    for row in stated(load(folder, "figures")):
        measured = ours.get(row["source"], {}).get((row["method"], row["quantity"]))
        rows += [row | own for own in measured or [{}]]
    table = pd.DataFrame(rows).reindex(columns=COLUMNS)
    same = (table["model"] == table["ours_model"]) & (table["quantity"] != "test_p")
    same &= ~table["ours_of"].isin(["truth", "agreement"])
    for name, own in (("difference", "ours"), ("difference_low", "low"), ("difference_high", "high")):
        table[name] = (table[own] - table["published"]).where(same)
    return table.astype({"seeds": "Int64"})


def stated(figures: pd.DataFrame) -> list[Row]:
    """What the text states of figures, each with the differences of its values behind it."""
    rows = figures.rename(columns={"value": "published"}).astype(object).where(figures.notna().to_numpy(), None)
    value = figures.set_index(["source", "method", "quantity"])["value"]
    computed = {
        ("figure2", "sft_3ref", "gpqa_diamond_vs_1_reference"): value["figure2", "sft_3ref", "gpqa_diamond"]
        - value["figure2", "sft", "gpqa_diamond"],
        ("figure6", "profit", "epoch_1_vs_best_of_sft"): value["figure6", "profit", "average_at_epoch_1"]
        - value["figure6", "sft", "average_at_best_epoch"],
    }
    found = []
    for source, own in rows.groupby("source", sort=False):
        found += own.to_dict("records")
        for (where, method, quantity), difference in computed.items():
            row = {"source": where, "method": method, "quantity": quantity, "unit": "points", "relation": "computed"}
            found += [row | {"published": difference}] if where == source else []
    return found


def ours_of(runs: pd.DataFrame, model: str, name: str, but: tuple[str, ...] = ()) -> str | None:
    """The first method of the main comparison of `model` that has the settings, `but` some, of the paper's `name`."""
    own = runs[(runs["model"] == model) & (runs["group"] == "main")]
    for key, value in METHODS[name].items():
        own = own if key in but else own[own[key].isna() if value is None else own[key] == value]
    return None if own.empty else str(own["method"].iloc[0])


def table_rows(source: str, cells: pd.DataFrame, main: pd.DataFrame, methods: dict[tuple[str, str], str]) -> list[Row]:
    """One row a printed cell of a table."""
    values = cells.set_index(["model", "method", "benchmark"])["accuracy"]
    asked = set(cells["benchmark"]) - set(SUMS)
    rows = []
    for (model, method, name), value in values.items():
        row = {"source": source, "model": model, "method": method, "quantity": name, "published": value}
        row |= {"unit": "points" if name == "difference_vs_vanilla" else "per cent", "relation": "="}
        if method != "sft" and name != "difference_vs_vanilla":
            row["published_vs_sft"] = value - values[model, "sft", name]
        cell = cell_of(main, model, methods.get((model, method)), name, asked)
        rows.append(row | ({} if cell is None else measured(cell, name)))
    return rows


def cell_of(main: pd.DataFrame, model: str, method: str | None, name: str, asked: set[str]) -> pd.Series | None:
    """The row of table main that holds a printed cell: of an average, one over the same benchmarks."""
    own = main[(main["model"] == model) & (main["method"] == method)]
    for _, rows in own.groupby("table", sort=False):
        rows = rows.set_index("benchmark")
        if name in SUMS and set(rows.index) - set(tables.MEANS) == asked:
            return rows.loc["average"]
        if name in rows.index and name not in SUMS:
            return rows.loc[name]
    return None


def measured(cell: pd.Series, name: str) -> Row:
    """What a row of table main holds, in per cent."""
    keys = ["mean", "low", "high"]
    if name == "difference_vs_vanilla":
        keys = [name, f"{name}_low", f"{name}_high"]
    ours, low, high = (100 * cell[key] for key in keys)
    row = {"ours_model": cell["model"], "ours_of": cell["method"], "ours": ours, "low": low, "high": high}
    if pd.isna(ours):
        return {}
    if name == "difference_vs_vanilla":
        return row
    vs_sft = {"": "difference_vs_sft", "_low": "difference_low", "_high": "difference_high"}
    return row | {"seeds": cell["seeds"]} | {f"ours_vs_sft{end}": 100 * cell[key] for end, key in vs_sft.items()}


def gain(cell: pd.Series | None) -> Row | None:
    """The difference of an average to SFT's, from its row of table main; none without one."""
    if cell is None or pd.isna(cell["difference_vs_sft"]):
        return None
    ours, low, high = (100 * cell[key] for key in ("difference_vs_sft", "difference_low", "difference_high"))
    who = {"ours_model": cell["model"], "ours_of": cell["method"]}
    return who | {"ours": ours, "low": low, "high": high, "seeds": cell["difference_seeds"]}


def mean_gain(
    source: str,
    cells: pd.DataFrame,
    main: pd.DataFrame,
    methods: dict[tuple[str, str], str],
    alike: dict[str, str | None],
) -> list[Row]:
    """ProFit's average - SFT's, mean over the models of a printed table, and ours on the same or on other models."""
    average = cells[cells["benchmark"] == "average"].pivot(index="model", columns="method", values="accuracy")
    row = {"source": source, "model": f"{len(average)} models", "method": "profit", "quantity": "average_vs_sft"}
    row |= {"unit": "points", "published": (average["profit"] - average["sft"]).mean(), "relation": "computed"}
    asked = set(cells["benchmark"]) - set(SUMS)
    same = [gain(cell_of(main, name, methods.get((name, "profit")), "average", asked)) for name in average.index]
    if all(same):
        mean = sum(own["ours"] for own in same) / len(same)
        return [row | {"ours_model": row["model"], "ours_of": same[0]["ours_of"], "ours": mean}]
    own = main[(main["table"] == source) & (main["benchmark"] == "average") & ~main["model"].isin(average.index)]
    own = own[own["method"] == own["model"].map(alike)]
    return [row | ours for _, cell in own.iterrows() if (ours := gain(cell))] or [row]


def range_of_gains(
    cells: pd.DataFrame, main: pd.DataFrame, methods: dict[tuple[str, str], str]
) -> dict[Any, list[Row]]:
    """The smallest and largest difference of averages to SFT, where Table 1's Qwen3 models were all measured."""
    asked = set(cells["benchmark"]) - set(SUMS)
    names = [name for name in tables.models(cells) if name.startswith("Qwen3")]
    found = [gain(cell_of(main, name, methods.get((name, "profit")), "average", asked)) for name in names]
    if not all(found):
        return {}
    found = [own | {"ours_model": "Qwen3", "ours_of": f"{own['ours_of']}, {own['ours_model']}"} for own in found]
    ends = {"smallest": min, "largest": max}
    return {
        ("profit", f"{name}_average_vs_sft"): [end(found, key=lambda own: own["ours"])] for name, end in ends.items()
    }
