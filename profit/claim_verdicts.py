"""From a model's tables to the verdicts on claims: records, as results/<study>/claims.json holds them, and table rows.

Each model (base) is judged for itself, by the rule of profit.verdicts. A run that collapses stays in. Beside a
verdict, for information, stand the verdicts of three disjoint sets of its seeds, in order, where each has THIRD or
more.

No command: used by `profit.claims`, which lists the claims.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from profit.claims_published import Paper, Sentence
from profit.estimators import Base, Estimator, NotMeasured, Part, of_seeds
from profit.verdicts import MINIMUM, Finding, adjusted, over_bases, verdicts

FIRST, REST = "first", "rest"
ENOUGH = 10
THIRD = 3
JUDGED = ("replicated", "not replicated", "inconclusive")
POINTS = "5 points, half of the paper's largest gain over SFT"


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper and how it is judged.

    unit: of the parts, a key of verdict_table.UNITS; counted: what an effect rests on; calibrated: a world made for a
    study fixes the outcome; profit.claims_published says what the paper gives in numbers.
    """

    id: str
    sentence: str
    place: str
    estimator: Estimator
    how: str
    control: str
    published: Sentence
    figure: str | None
    smallest: float = 0.05
    reason: str = POINTS
    unit: str = "accuracy"
    family: str = REST
    controls: Callable[[Base], list[Part]] = lambda base: []
    counted: str = "seeds"
    calibrated: bool = False
    note: str = ""


def judge(claims: Sequence[Claim], base: Base, numbers: Paper) -> list[dict[str, Any]]:
    """One record a claim of one model, as results/<study>/claims.json holds it."""
    parts: dict[str, list[Part]] = {}
    reasons: dict[str, str] = {}
    for claim in claims:
        try:
            parts[claim.id] = claim.estimator(base)
        except NotMeasured as reason:
            reasons[claim.id] = str(reason)
    made = bool((base.table("runs")["labels"] == "truth").any())
    found = findings(claims, parts, made)
    words, corrected, thirds = verdicts(found), adjusted(found), stability(claims, parts, made)
    records = []
    for claim in claims:
        measured = claim.id in parts
        own, verdict = parts.get(claim.id, []), words.get(claim.id, "not measured")
        text, value = claim.published(numbers, base.model)
        records.append(
            {
                "id": claim.id,
                "base": base.model,
                "sentence": claim.sentence,
                "place": claim.place,
                "family": claim.family,
                "estimator": claim.how,
                "control": claim.control,
                "unit": claim.unit,
                "counted": claim.counted,
                "smallest": claim.smallest,
                "reason": claim.reason,
                "published": text,
                "published_value": value,
                "figure": claim.figure,
                "parts": [part_record(part) for part in own],
                "p": found[claim.id].p if measured else None,
                "adjusted": corrected.get(claim.id),
                "verdict": verdict,
                "stability": thirds.get(claim.id),
                "controls": [part_record(part) for part in claim.controls(base)] if measured else [],
                "note": ". ".join(filter(None, [claim.note, remark(claim, own, reasons.get(claim.id))])),
            }
        )
    return records


def findings(claims: Sequence[Claim], parts: Mapping[str, list[Part]], made: bool) -> dict[str, Finding]:
    """The claims that were measured, as the verdict rule takes them; `made`: the world was made for the study."""
    entries = {claim.id: claim for claim in claims}
    return {
        name: Finding(
            [part.effect for part in own],
            entries[name].smallest,
            entries[name].family,
            made and entries[name].calibrated,
        )
        for name, own in parts.items()
    }


def stability(claims: Sequence[Claim], parts: Mapping[str, list[Part]], made: bool) -> dict[str, list[str]]:
    """The verdicts of each third of the seeds, of the claims whose parts have THIRD or more in each."""
    chosen = {
        name: own
        for name, own in parts.items()
        if all(part.by_seed is not None and len(part.by_seed) >= 3 * THIRD for part in own)
    }
    found: dict[str, list[str]] = {name: [] for name in chosen}
    for third in range(3):
        own = {name: [third_of(part, third) for part in every] for name, every in chosen.items()}
        for name, word in verdicts(findings(claims, own, made), THIRD).items():
            found[name].append(word)
    return found


def third_of(part: Part, number: int) -> Part:
    """A part on the first, second or last third of its seeds."""
    seeds = part.by_seed.sort_index()
    size = len(seeds)
    bounds = [size * number // 3, size * (number + 1) // 3]
    return of_seeds(part.name, seeds.iloc[slice(*bounds)], part.zero, part.sign, part.unit)


def remark(claim: Claim, parts: Sequence[Part], reason: str | None) -> str:
    """What a reader must know of the data behind a verdict."""
    if reason:
        return f"{reason[0].upper()}{reason[1:]}"
    seeds = min(part.effect.seeds for part in parts)
    few = f"{seeds} {'seed' if seeds == 1 else 'seeds'}"
    if claim.counted == "seeds" and seeds < MINIMUM:
        return f"A part has {few}; a verdict needs {MINIMUM}"
    if claim.family == FIRST and seeds < ENOUGH:
        return f"On {few}; this comparison should have {ENOUGH}"
    return ""


def part_record(part: Part) -> dict[str, Any]:
    """A part of a claim; `shown` is what a reader sees of its effect, in the claim's unit where `unit` is None."""
    ends = sorted(part.zero + part.sign * end for end in (part.effect.low, part.effect.high))
    shown = {"value": part.zero + part.sign * part.effect.mean, "low": ends[0], "high": ends[1]}
    return {"name": part.name, **asdict(part.effect), "zero": part.zero, "shown": shown, "unit": part.unit}


def collapsed(base: Base) -> list[str]:
    """Runs whose average lies below half the median of their method; they count like any other."""
    runs = base.accuracies[(base.accuracies["benchmark"] == "average") & (base.accuracies["checkpoint"] == "final")]
    low = runs[runs["accuracy"] < runs.groupby("method")["accuracy"].transform("median") / 2]
    return [f"{row['method']}, seed {row['seed']}" for _, row in low.iterrows()]


def over_all(claims: Sequence[Claim], records: Sequence[dict[str, Any]]) -> dict[str, str]:
    """One word a claim over the bases where it has a verdict; where it has none on any, what it has."""
    found = {}
    for claim in claims:
        words = {row["base"]: row["verdict"] for row in records if row["id"] == claim.id}
        known = {base: word for base, word in words.items() if word in JUDGED}
        measured = {base: word for base, word in words.items() if word != "not measured"}
        found[claim.id] = over_bases(known or measured or words)
    return found


def claim_rows(records: Sequence[dict[str, Any]], over_bases: Mapping[str, str]) -> pd.DataFrame:
    """Table claims: one row a model, claim and part; a claim that was not measured has one without numbers.

    mean is the effect: the distance to `zero` of what a reader of claims.md is shown; over_bases as `over_all` has it.
    """
    keys = ["id", "sentence", "family", "unit", "counted", "smallest", "adjusted", "verdict"]
    keys += ["published", "published_value", "figure"]
    numbers = ["zero", "mean", "low", "high", "p", "upper", "seeds"]
    rows = [
        {
            "model": row["base"],
            **{key: row[key] for key in keys},
            "over_bases": over_bases[row["id"]],
            "part": part["name"],
            **{n: part[n] for n in numbers},
        }
        for row in records
        for part in row["parts"] or [dict.fromkeys(["name", *numbers])]
    ]
    kinds = {"adjusted": float, "published_value": float, **dict.fromkeys(numbers[:-1], float), "seeds": "Int64"}
    return pd.DataFrame(rows).rename(columns={"id": "claim"}).astype(kinds)
