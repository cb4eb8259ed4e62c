"""Style of the sampled answers: what of the references' wording, length and diversity each run has taken over.

Per run and benchmark: mean tokens, share cut off, share ended, distinct_2 and pair_distance (profit.overfit); of `all`
benchmarks the same but the last two, which are of one benchmark alone. In a miniature, whose wordings are known, also

    rare    = share of the recognised wordings that are among the RARE of their slot that the base's order puts last
    adopted = (rare of the run - rare of the base) / (rare of the references - rare of the base)

Half of the twenty wordings of a slot are rare: under the base's Zipf law (exponent 1.2) they make 13.7 % of what it
reads, while annotators, who lean to them, use them about three times as often: neither is near 0 or 1. The base is the
untrained one, on the same benchmark, averaged over its seeds. Sampling as the paper does (top_p 0.8) cuts most of a
tail: the base shows next to none, and a run that had learnt all of the references' style would stay below 1.

A wording counts where it opens a sentence and a comma follows, so one that a cut answer left unfinished does not. The
references (method `references`, seed 0; those that runs may learn from) stand beside the runs; their benchmark is
same_length, whose problems are like theirs. Where no wordings are known, `wordings`, `rare` and `adopted` are empty.

    python -m profit answer_style --settings '{"model": "mini", "runs": [["sft", 0], …], "base": "vanilla"}'
        --evaluations DIR --references P --world world.json --output P
"""

import argparse
import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from profit import gather, provenance
from profit.data import load_references
from profit.files import InputError, read_json, read_parquet, write_parquet
from profit.gather import RUN
from profit.miniature.language import base_style
from profit.miniature.lexicon import SLOTS
from profit.miniature.world import World
from profit.overfit import diversity

log = logging.getLogger(__name__)

RARE = 10
ALL, LIKE_REFERENCES, REFERENCES = "all", "same_length", "references"
MEASURES = ["tokens_mean", "cut", "ended", "distinct_2", "pair_distance", "wordings", "rare", "adopted"]
COLUMNS = [*RUN, "benchmark", "answers", *MEASURES]
SAMPLE = ["benchmark", "question_id", "ended", "tokens", "text"]


def rare_wordings(world: World) -> dict[str, bool] | None:
    """Every wording of the miniature language, and whether it is one of the RARE of its slot that the base uses least.

    None where the base prefers no wording to another (wording_exponent 0).
    """
    if world.wording_exponent == 0:
        return None
    found = {}
    for slot, cumulative in base_style(world).cumulative.items():
        least = set(np.argsort(np.diff(cumulative, prepend=0.0), kind="stable")[:RARE])
        found |= {wording: number in least for number, wording in enumerate(SLOTS[slot])}
    return found


def count_wordings(texts: Iterable[str], rare: dict[str, bool]) -> tuple[int, int]:
    """Wordings that open a sentence of the texts, before a comma, and how many of them are rare."""
    longest_first = "|".join(re.escape(wording) for wording in sorted(rare, key=len, reverse=True))
    opening = re.compile(rf"(?:^|\.)\s*({longest_first})\s*,")
    found = [rare[wording] for text in texts for wording in opening.findall(text)]
    return len(found), sum(found)


def describe(answers: pd.DataFrame, rare: dict[str, bool] | None) -> dict[str, float | None]:
    """The measures of some answers but their diversity and `adopted`.

    Args:
        answers: one row an answer: text; tokens and ended, NaN where unknown.
        rare: as `rare_wordings`; None: no wordings are known.
    """
    wordings, tail = (None, None) if rare is None else count_wordings(answers.text, rare)
    return {
        "answers": len(answers),
        "tokens_mean": answers.tokens.mean(),
        "cut": 1 - answers.ended.mean(),
        "ended": answers.ended.mean(),
        "wordings": wordings,
        "rare": tail / wordings if wordings else None,
    }


def describe_run(samples: pd.DataFrame, rare: dict[str, bool] | None) -> list[dict[str, Any]]:
    """The measures of a run's answers by benchmark, in their order, and of `all`."""
    rows = [
        {"benchmark": name, **describe(own, rare), **diversity(own.question_id.tolist(), own.text.tolist())}
        for name, own in samples.groupby("benchmark", sort=False)
    ]
    return [*rows, {"benchmark": ALL, **describe(samples, rare)}]


def describe_references(references: pd.DataFrame, rare: dict[str, bool] | None) -> dict[str, Any]:
    """The same of the references that runs may learn from; a miniature's have a token a labelled word, and an end."""
    known = references[~references.held].rename(columns={"answer": "text"})
    answers = known.assign(ended=np.nan, tokens=np.nan if rare is None else known.spans.map(len) + 1)
    found = describe(answers, rare) | diversity(known.prompt_id.tolist(), known.text.tolist())
    return {"benchmark": ALL if rare is None else LIKE_REFERENCES, **found}


def adopted(rows: pd.DataFrame, base: str | None) -> pd.Series:
    """How far each row's `rare` has gone from that of method `base` to that of the references, NaN where unknown."""
    before = rows.benchmark.map(rows[rows.method == base].groupby("benchmark").rare.mean())
    shift = rows.loc[rows.method == REFERENCES, "rare"].item() - before
    return (rows.rare - before) / shift.where(shift != 0)


def read_samples(path: Path, world: str) -> pd.DataFrame:
    """The answers of a run; InputError if there are none, or if they were given in another world."""
    gather.provenance(path, world)
    samples = read_parquet(path, SAMPLE)
    if samples.empty:
        raise InputError(f"{path}: found no answers, expected some")
    return samples


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m profit answer_style", description="Describe the style of the answers of a model's runs."
    )
    parser.add_argument(
        "--settings", required=True, type=json.loads,
        help="JSON: model, runs ([method, seed] each), base (the method that is untrained, or null)",
    )  # fmt: skip
    parser.add_argument("--evaluations", required=True, type=Path, help="folder of the evaluations of all models")
    parser.add_argument("--references", required=True, help="references.parquet")
    parser.add_argument("--world", required=True, type=Path, help="world.json of the model's world")
    parser.add_argument("--output", required=True, help="one row a run and benchmark, Parquet")
    return parser


def main(argv: list[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO)
    args = make_parser().parse_args(argv)
    settings, content = args.settings, read_json(args.world)
    world = gather.text(args.world, content, "world")
    rare = rare_wordings(World.model_validate(content["settings"])) if "settings" in content else None
    with provenance.job("answer_style", settings=settings, world=world) as job:
        rows = []
        for method, seed in settings["runs"]:
            run = {"model": settings["model"], "method": method, "seed": seed}
            samples = read_samples(args.evaluations / gather.run_folder(run) / "final" / "samples.parquet", world)
            rows += [run | row for row in describe_run(samples, rare)]
        references = {"model": settings["model"], "method": REFERENCES, "seed": 0}
        rows.append(references | describe_references(load_references(args.references), rare))
        frame = pd.DataFrame(rows).astype(dict.fromkeys(MEASURES[:-1], float))
        frame["adopted"] = adopted(frame, settings["base"])
        write_parquet(args.output, frame[COLUMNS], {"provenance": job.record()})
    log.info("%s: %d rows of %d runs", args.output, len(frame), len(settings["runs"]))


if __name__ == "__main__":
    main()
