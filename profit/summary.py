"""The tables of a study in words a person reads first: its main tables, the paper's numbers beside, and a summary.

Percentages are accuracies times 100; an interval is Student's t over seeds at 95 %; one seed has none ("descriptive").

No command: written by `profit.tabulate`.
"""

from typing import Any

import pandas as pd

from profit.gather import RUN
from profit.published import TABLES, title

MAIN = ["table", "model", "method", "benchmark", "mean", "low", "high", "seeds"]
MAIN += ["difference_vs_sft", "difference_low", "difference_high"]


def whole(name: str, tables: dict[str, pd.DataFrame]) -> str:
    """What was run, what it cost and the main numbers, in Markdown."""
    runs, evaluations = tables["runs"], tables["evaluations"]
    trained = runs[runs["steps"].notna()]
    lines = [
        f"# Study {name}",
        "",
        f"World {', '.join(dict.fromkeys(runs['world']))}. {len(runs)} runs, {len(trained)} of them trained "
        f"({int(trained['steps'].sum())} optimizer steps, {int(trained['tokens_trained'].sum())} target tokens, "
        f"{trained['cpu_seconds'].sum():.0f} CPU seconds); "
        f"{len(evaluations[[*RUN, 'checkpoint']].drop_duplicates())} evaluations.",
        "",
        "| group | runs | seeds |",
        "|---|---|---|",
    ]
    for group, own in runs.groupby("group", sort=False):
        seeds = own.groupby(["model", "method"])["seed"].nunique()
        note = " (descriptive)" if seeds.max() == 1 else ""
        span = f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()}-{seeds.max()}"
        lines.append(f"| {group} | {len(own)} | {span}{note} |")
    if "world" in tables:
        lines += ["", "## World", "", *world_lines(tables["world"])]
    lines += ["", "## Main comparison", "", main_tables(tables["main"])]
    if "correlation" in tables:
        lines += ["## Probability and importance", "", *correlation_lines(tables["correlation"]), ""]
    if "agreement" in tables:
        lines += [agreement_line(tables["agreement"]), ""]
    lines += ["## The paper's numbers beside ours", "", published_numbers(tables["published"])]
    return "\n".join(lines)


def world_lines(world: pd.DataFrame) -> list[str]:
    """How many of the rules of its world hold for each base, and which do not."""
    lines = ["Rules that a world is set by (`profit/world_rules.py`), of the base alone; numbers: table `world`.", ""]
    for model, own in world.groupby("model", sort=False):
        broken = "; ".join(map(broken_rule, own[~own["holds"]].to_dict("records")))
        lines.append(f"* {model}: {own['holds'].sum()} of {len(own)} hold{f', not {broken}' if broken else ''}.")
    return lines


def broken_rule(row: dict[str, Any]) -> str:
    """A rule that does not hold, with what was found and what it allows."""
    limits = f"at least {row['low']:g}" if pd.isna(row["high"]) else f"{row['low']:g} to {row['high']:g}"
    return f"{row['rule']}: {row['found']:.3g} (rule: {limits})"


def main_tables(main: pd.DataFrame) -> str:
    """The tables of results as Markdown, one below the other, in per cent."""
    lines, several = [], main["table"].nunique() > 1
    for (table, model), own in main.groupby(["table", "model"], sort=False):
        names = list(dict.fromkeys(own["benchmark"]))
        heading = f"{title(str(table))}, {model}" if several else model
        lines += [f"**{heading}**", "", f"| method | {' | '.join(names)} | average, difference to SFT | seeds |"]
        lines.append("|---" * (len(names) + 3) + "|")
        for method, rows in own.groupby("method", sort=False):
            cells = rows.set_index("benchmark")
            shown = [percent(cells.loc[name]) for name in names] + [difference_text(cells.loc["average"])]
            lines.append(f"| {method} | {' | '.join(shown)} | {rows['seeds'].iloc[0]} |")
        lines.append("")
    lines.append(
        "Accuracy in per cent: mean ± half width of the 95 % t interval over seeds. The difference to SFT is in"
    )
    learnt = " learnt: same_length; kept: mean of the other benchmarks." if "learnt" in set(main["benchmark"]) else ""
    lines.append(f"points, paired by seed, with its 95 % t interval.{learnt}")
    return "\n".join(lines) + "\n"


def percent(cell: pd.Series) -> str:
    """A mean in per cent with half the width of its interval; one seed is called descriptive."""
    if cell["seeds"] == 1:
        return f"{100 * cell['mean']:.1f} (descriptive)"
    return f"{100 * cell['mean']:.1f} ± {100 * (cell['high'] - cell['mean']):.1f}"


def difference_text(cell: pd.Series) -> str:
    """A paired difference in points with its interval; empty for SFT itself."""
    if pd.isna(cell["difference_vs_sft"]):
        return ""
    text = f"{100 * cell['difference_vs_sft']:+.1f}"
    if pd.isna(cell["difference_low"]):
        return f"{text} (one seed, descriptive)"
    return f"{text} [{100 * cell['difference_low']:+.1f}, {100 * cell['difference_high']:+.1f}]"


def correlation_lines(correlation: pd.DataFrame) -> list[str]:
    """Means, AUC and test of each model and annotator as a Markdown table."""
    lines = ["| model | annotator | mean core | mean replaceable | AUC | d | p |", "|---|---|---|---|---|---|---|"]
    for row in correlation.to_dict("records"):
        lines.append(
            f"| {row['model']} | {row['annotator']} | {row['probability_core_mean']:.3f} | "
            f"{row['probability_replaceable_mean']:.3f} | {row['effect_auc']:.3f} | {row['effect_cohens_d']:.2f} | "
            f"{row['test_p']:.2g} |"
        )
    return lines


def agreement_line(agreement: pd.DataFrame) -> str:
    """How well two annotators agree, in a sentence."""
    parts = []
    for row in agreement.to_dict("records"):
        values = [
            f"{name} {row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"
            for name in ("accuracy", "kappa")
            if pd.notna(row[name])
        ]
        parts.append(f"{row['part'].replace('_', ' ')}: {', '.join(values) or 'undefined'}")
    first = agreement.iloc[0]
    return (
        f"Agreement of {first['first']} with {first['second']} on the {first['unit']}s of {first['answers']} answers "
        f"(95 % bootstrap interval over prompts). {'; '.join(parts).capitalize()}."
    )


def published_numbers(published: pd.DataFrame) -> str:
    """Table published as Markdown: the printed models with a measured cell, then the other values, then the rest."""
    lines, cells = [], published["source"].isin(TABLES) & (published["relation"] == "=")
    measured = published["ours"].notna()
    for source in dict.fromkeys(published.loc[cells & measured, "source"]):
        lines += [f"**{title(source)}**: published / ours, in per cent", ""]
        own = published[cells & (published["source"] == source)]
        lines += [*cell_lines(own[own["model"].isin(own.loc[own["ours"].notna(), "model"])]), ""]
    others = published[~cells & published["source"].isin(published.loc[~cells & measured, "source"])]
    # Where the paper's own model was measured, the other models stand in the table alone.
    own = others["model"] == others["ours_model"]
    elsewhere = others["source"].isin(others.loc[own, "source"]) & others["model"].notna() & others["ours"].notna()
    others = others[own | ~elsewhere]
    if len(others):
        lines += ["| of | quantity | published | ours | ours - published |", "|---" * 5 + "|"]
        lines += [*map(quantity_line, others.to_dict("records")), ""]
    rest = [
        source for source in dict.fromkeys(published["source"]) if source not in set(published.loc[measured, "source"])
    ]
    if rest:
        lines += [f"Nothing measured here of: {', '.join(map(title, rest))} (numbers: results/published).", ""]
    lines.append(
        "Ours: mean ± half width of the 95 % interval (t over seeds; of probabilities: bootstrap over prompts); "
        "– where this study has nothing of the kind."
    )
    lines.append(
        "A difference stands only where model, method and benchmark are the paper's, with the interval of ours. "
        "Every number: table `published`."
    )
    return "\n".join(lines) + "\n"


def cell_lines(cells: pd.DataFrame) -> list[str]:
    """A printed table as Markdown, a line a model and method."""
    names = [name for name in dict.fromkeys(cells["quantity"]) if name != "difference_vs_vanilla"]
    lines = [
        f"| model | method | {' | '.join(names)} | average, ours - published | average to SFT |",
        "|---" * (len(names) + 4) + "|",
    ]
    for (model, method), rows in cells.groupby(["model", "method"], sort=False):
        cell = rows.set_index("quantity")
        average = cell.loc["average"]
        shown = [f"{cell.loc[name, 'published']:.2f} / {plus_minus(cell.loc[name])}" for name in names]
        shown.append(change(*average[["difference", "difference_low", "difference_high"]]))
        vs_sft = change(*average[["ours_vs_sft", "ours_vs_sft_low", "ours_vs_sft_high"]])
        shown.append("" if method == "sft" else f"{average['published_vs_sft']:+.2f} / {vs_sft}")
        lines.append(f"| {model} | {method} | {' | '.join(shown)} |")
    return lines


def quantity_line(row: dict[str, Any]) -> str:
    """A published value that is no cell of a table, beside ours."""
    of = ", ".join([title(row["source"]), *(row[key] for key in ("model", "method") if isinstance(row[key], str))])
    relation = row["relation"] if row["relation"] in "≈<>" else ""
    ours = plus_minus(row)
    if isinstance(row["ours_model"], str):
        names = [name for name in (row["ours_model"], row["ours_of"]) if name]
        ours += f" ({', '.join(names)})"
    difference = change(*(row[key] for key in ("difference", "difference_low", "difference_high")))
    unit = "" if row["unit"] == "probability" else f" ({row['unit']})"
    what = row["quantity"].replace("_", " ") + unit
    return f"| {of} | {what} | {relation}{row['published']:.4g} | {ours} | {difference} |"


def plus_minus(row: Any) -> str:
    """Ours with half the width of its interval; a dash where nothing was measured."""
    if pd.isna(row["ours"]):
        return "–"
    small = row["unit"] == "probability"
    number = f"{row['ours']:.3g}" if small else f"{row['ours']:.1f}"
    if pd.isna(row["low"]):
        return number
    half = (row["high"] - row["low"]) / 2
    return f"{number} ± {half:.2g}" if small else f"{number} ± {half:.1f}"


def change(value: float, low: float, high: float) -> str:
    """A difference with its interval, where there is one; a dash where there is no difference."""
    if pd.isna(value):
        return "–"
    digits = 1 if abs(value) >= 0.05 else 3
    text = f"{value:+.{digits}f}"
    return text if pd.isna(low) else f"{text} [{low:+.{digits}f}, {high:+.{digits}f}]"
