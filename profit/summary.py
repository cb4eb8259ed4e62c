"""The tables of a study in words a person reads first: Table 1 and a summary, as Markdown.

Percentages are accuracies times 100; an interval is Student's t over seeds at 95 %; one seed has none ("descriptive").

No command: written by `profit.tabulate`.
"""

import pandas as pd

from profit.gather import RUN


def whole(name: str, tables: dict[str, pd.DataFrame]) -> str:
    """What was run, what it cost and the main numbers, in Markdown."""
    runs, evaluations = tables["runs"], tables["evaluations"]
    trained = runs[runs["steps"].notna()]
    lines = [
        f"# Study {name}",
        "",
        f"World {runs['world'].iloc[0]}. {len(runs)} runs, {len(trained)} of them trained "
        f"({int(trained['steps'].sum())} optimizer steps, {int(trained['tokens_trained'].sum())} target tokens, "
        f"{trained['cpu_seconds'].sum():.0f} CPU seconds); "
        f"{len(evaluations[[*RUN, 'checkpoint']].drop_duplicates())} evaluations.",
        "",
        "| group | runs | seeds |",
        "|---|---|---|",
    ]
    for group, own in runs.groupby("group", sort=False):
        seeds = own.groupby("method")["seed"].nunique()
        note = " (descriptive)" if seeds.max() == 1 else ""
        span = f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()}-{seeds.max()}"
        lines.append(f"| {group} | {len(own)} | {span}{note} |")
    lines += ["", "## Main comparison", "", main_table(tables["main"])]
    if "correlation" in tables:
        lines += ["## Probability and importance", "", *correlation_lines(tables["correlation"]), ""]
    return "\n".join(lines)


def main_table(main: pd.DataFrame) -> str:
    """Table 1 as Markdown, in per cent."""
    lines = []
    for model, own in main.groupby("model", sort=False):
        names = list(dict.fromkeys(own["benchmark"]))
        lines += [f"**{model}**", "", f"| method | {' | '.join(names)} | average, difference to SFT | seeds |"]
        lines.append("|---" * (len(names) + 3) + "|")
        for method, rows in own.groupby("method", sort=False):
            cells = rows.set_index("benchmark")
            shown = [percent(cells.loc[name]) for name in names] + [difference_text(cells.loc["average"])]
            lines.append(f"| {method} | {' | '.join(shown)} | {rows['seeds'].iloc[0]} |")
        lines.append("")
    lines.append(
        "Accuracy in per cent: mean ± half width of the 95 % t interval over seeds. The difference to SFT is in"
    )
    lines.append(
        "points, paired by seed, with its 95 % t interval. learnt: same_length; kept: mean of the other benchmarks."
    )
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
