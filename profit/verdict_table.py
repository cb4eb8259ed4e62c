"""The verdict table in Markdown: claims beside the paper's numbers, then the power of the study, then how each is
judged.

"Ours" is the part of a claim that is furthest from being shown (the largest p, without p the smallest effect), with
its 95 % interval: t over seeds, or the bootstrap over prompts.

No command: used by `profit.claims`.
"""

from collections.abc import Sequence
from typing import Any

from profit.power import MOST_SEEDS
from profit.verdicts import LEVEL

Record = dict[str, Any]
# Factor, digits, sign shown, and what follows.
UNITS = {
    "accuracy": (100, 1, "+", " points"),
    "probability": (1, 3, "+", ""),
    "share": (1, 2, "", ""),
    "ratio": (1, 2, "", " times"),
    "exceptions": (1, 3, "", ""),
}
RULE = (
    "A verdict is about the mean of paired differences, oriented along the paper's direction. *Not replicated*: the "
    "one-sided 95 % upper bound lies below the smallest effect of interest. *Replicated*: otherwise, and p < 0.05 "
    "against 0 (one-sided t over seeds) after Holm's correction within the claim's family. *Inconclusive*: neither. "
    "*Descriptive*: fewer than five seeds. *By construction*: the world was made so. A claim about each of several "
    "parts needs all of them, and one may refute it; it is shown by its weakest."
)


COLLAPSES = "where one run in ten loses half of its accuracy"
SEEDS_COLLAPSE = "where one seed in ten does, in all methods"


def whole(content: dict[str, Any]) -> str:
    """claims.md of a study, from the content of its claims.json."""
    records = content["claims"]
    bases = list(dict.fromkeys(row["base"] for row in records))
    lines = [f"# Verdicts of study {content['study']}", ""]
    if len(bases) > 1:
        lines += [*over_bases(content, bases), ""]
    for base in bases:
        own = [row for row in records if row["base"] == base]
        lines += [f"## {base}", ""] if len(bases) > 1 else []
        lines += [*verdicts(own, "" if len(bases) > 1 else f" for this base ({base})"), ""]
    lines += [RULE, "", "## Power", "", *power_lines(content), "", "## How each claim is judged", ""]
    for name in dict.fromkeys(row["id"] for row in records):
        lines += details([row for row in records if row["id"] == name])
    return "\n".join(lines).rstrip() + "\n"


def with_power(main_tables: str, content: dict[str, Any]) -> str:
    """table1_main.md of a study: its main tables, and below them what differences it could find."""
    return "\n".join([main_tables, "## Power", "", *power_lines(content)]) + "\n"


def over_bases(content: dict[str, Any], bases: Sequence[str]) -> list[str]:
    """The verdict of each claim over all bases, and on how many it is which."""
    lines = [f"| claim | verdict over {len(bases)} bases | of them |", "|---|---|---|"]
    for name, word in content["over_bases"].items():
        own = [row for row in content["claims"] if row["id"] == name]
        words = [row["verdict"] for row in own]
        counts = ", ".join(f"{words.count(found)} {found}" for found in dict.fromkeys(words))
        lines.append(f"| {own[0]['sentence']} | {word} | {counts} |")
    return lines


def verdicts(records: Sequence[Record], where: str) -> list[str]:
    """One line a claim of one base."""
    lines = [f"| claim | paper | ours | on | verdict{where} | figure |", "|---" * 6 + "|"]
    for row in records:
        cells = [row["sentence"], row["published"], ours(row), rests_on(row), verdict(row), row["figure"] or ""]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def verdict(row: Record) -> str:
    """The verdict, and where the claim is refuted, whether there is an effect nevertheless, or the opposite one."""
    if row["verdict"] != "not replicated":
        return row["verdict"]
    if row["smallest"] > 0 and all(part["high"] < 0 for part in row["parts"]):
        return "not replicated: the opposite"
    return "not replicated: above 0, but too small" if row["adjusted"] < LEVEL else "not replicated"


def ours(row: Record) -> str:
    """The weakest part of a claim; nothing where it was not measured."""
    parts = row["parts"]
    if not parts:
        return ""
    if row["unit"] == "exceptions":
        return f"{round(-parts[0]['mean'] * parts[0]['seeds'])} of {parts[0]['seeds']} tokens break it"
    part = weakest(parts)
    text = shown(part, row["unit"])
    return text if len(parts) == 1 else f"{part['name']}: {text} (weakest of {len(parts)})"


def weakest(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The part that is furthest from being shown: of the largest p, where one has none of the smallest effect."""
    known = all(part["p"] == part["p"] for part in parts)
    return max(parts, key=lambda part: (part["p"], -part["mean"]) if known else -part["mean"])


def shown(part: dict[str, Any], unit: str) -> str:
    """A value with its interval, if it has one."""
    factor, digits, sign, name = UNITS[unit]
    value, low, high = (f"{factor * part['shown'][key]:{sign}.{digits}f}" for key in ("value", "low", "high"))
    return f"{value}{name}" if "nan" in low else f"{value} [{low}, {high}]{name}"


def rests_on(row: Record) -> str:
    """How many seeds, prompts or tokens the effect rests on, over its parts."""
    counts = sorted({part["seeds"] for part in row["parts"]})
    if not counts:
        return ""
    span = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"
    return f"{span} {row['counted'].removesuffix('s') if counts == [1] else row['counted']}"


def power_lines(content: dict[str, Any]) -> list[str]:
    """What the study could find, and what would find less."""
    lines, sentences = [], {row["id"]: row["sentence"] for row in content["claims"]}
    several = len(content["collapsed"]) > 1
    for base, name in dict.fromkeys((row["model"], row["claim"]) for row in content["power"]):
        own = [row for row in content["power"] if (row["model"], row["claim"]) == (base, name)]
        size, at = own[0], f" ({base})" if several else ""
        of_seeds, of_rest = size["variance_seed"], size["variance_rest"] / size["questions"]
        noise = f"{100 * of_seeds / (of_seeds + of_rest):.0f} %" if of_seeds + of_rest else "nothing"
        transfer = (size["variance_question"] / size["questions"]) ** 0.5
        lines.append(
            f"{sentences[name]}{at}: {size['seeds']} seeds and {size['questions']} questions find a difference of "
            f"{100 * size['least_effect']:.1f} points with probability 0.8 (one-sided t at {size['level']:g}, the "
            f"first step of Holm's correction). Of the variance of a run's difference {noise} lies between seeds, the "
            f"rest in how single questions fall out; other questions of the same kinds would move all seeds alike, by "
            f"{100 * transfer:.1f} points (standard deviation). To find"
        )
        lines += [f"* {needed(row)}" for row in own]
        most = own[-1]
        both = seeds(most["seeds_if_collapsed"]), seeds(most["seeds_if_seeds_collapsed"])
        lines += [f"* {100 * most['effect']:g} points {COLLAPSES}: {both[0]}; {SEEDS_COLLAPSE}: {both[1]}", ""]
    if not content["power"]:
        lines += ["Unknown: it needs table questions, and two seeds of ProFit and SFT.", ""]
    fallen = [f"{base}/{run}" for base, runs in content["collapsed"].items() for run in runs]
    lines.append(f"Collapsed runs (below half the median of their method; they count): {', '.join(fallen) or 'none'}.")
    return lines


def needed(row: Record) -> str:
    """What finds an effect."""
    effect = f"{100 * row['effect']:g} {'point' if row['effect'] == 0.01 else 'points'}"
    asked = f"{row['questions_needed']} questions" if row["questions_needed"] else "no number of questions"
    return f"{effect}: {seeds(row['seeds_needed'])} on these questions, or {asked} on these seeds"


def seeds(count: int | None) -> str:
    """A number of seeds."""
    return f"{count} seeds" if count else f"more than {MOST_SEEDS} seeds"


def details(rows: Sequence[Record]) -> list[str]:
    """How a claim is judged, then of each base its parts and controls."""
    claim = rows[0]
    lines = [f"**{claim['sentence']}** ({claim['place']})", "", f"* Effect: {claim['estimator']}."]
    lines += [f"* Smallest of interest: {claim['reason']}.", f"* Control: {claim['control']}."]
    for row in rows:
        lines.append(f"* {row['base']}: {verdict(row)}{''.join(f'. {text}' for text in found(row))}.")
    return [*lines, ""]


def found(row: Record) -> list[str]:
    """What was found on one base, in sentences."""
    sentences = []
    if row["p"] is not None and row["p"] == row["p"]:
        corrected = "" if row["adjusted"] is None else f", {row['adjusted']:.2g} corrected (family: {row['family']})"
        sentences.append(f"p = {row['p']:.2g}{corrected}")
    if len(row["parts"]) > 1:
        sentences.append(f"Parts: {listed(row['parts'], row['unit'])}")
    if row["controls"]:
        sentences.append(f"Beside it: {listed(row['controls'], row['unit'])}")
    if row["stability"]:
        sentences.append(f"In three disjoint sets of the seeds: {', '.join(row['stability'])}")
    return sentences + ([row["note"]] if row["note"] else [])


def listed(parts: Sequence[dict[str, Any]], unit: str) -> str:
    """Parts with their intervals."""
    return "; ".join(f"{part['name']} {shown(part, part['unit'] or unit)}" for part in parts)
