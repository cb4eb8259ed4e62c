"""Rule `unseen`: draw prompts of the miniature that no method trains on, and held references to them.

Overfitting asks what a run gained on the references that it learnt from beyond what it gained on others. Held
references of the same prompts share their content; these share the language alone. They are worded by the same
annotators, and their problems are those drawn next after the references' from the same pool
(`profit.miniature.items.draw_unseen`), so that no content (start and operations) occurs in both. The careful answers
of the world's check, on which no method trains, may share contents with either.

The contents of one step decide how many there can be, since every number of steps comes equally often: in the world
of the studies there are 225, so 675 prompts in all (375 unseen beside 300, 75 beside 600). Those of one doubling are
among the 300 already: on problems of one step, the unseen lack the rare operation.

    python -m profit unseen --world JSON --data '{"prompts": 300, "held": 3, "unseen": 60}'
        --references references.parquet --output unseen.parquet
"""

import argparse
import json
import logging

import pandas as pd

from profit import provenance
from profit.data import load_references
from profit.files import InputError, write_parquet
from profit.generate import world_hash
from profit.miniature.items import draw_unseen
from profit.miniature.world import World
from profit.validation import validated

log = logging.getLogger(__name__)


def unseen_references(world: World, data: dict, references: pd.DataFrame) -> pd.DataFrame:
    """`held` references to each of `unseen` prompts, all of them held; the prompts' numbers follow `references`.

    Args:
        data: prompts, held and unseen, as in a study's data block.
        references: those of the same world.

    Returns:
        The columns of references.parquet.

    Raises:
        InputError: another number of prompts in `references` than in `data`, nothing to draw, or too few contents.
    """
    if (found := references.prompt_id.nunique()) != data["prompts"]:
        raise InputError(f"references: found {found} prompts, expected {data['prompts']} as in --data")
    for key in ("held", "unseen"):
        if data[key] < 1:
            raise InputError(f"--data.{key}: found {data[key]}, expected at least 1")
    return pd.DataFrame(draw_unseen(world, data["prompts"], data["unseen"], data["held"])[0])


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m profit unseen", description="Draw references to prompts that no method trains on."
    )
    parser.add_argument("--world", required=True, type=json.loads, help="JSON of the study's world block")
    parser.add_argument("--data", required=True, type=json.loads, help="JSON: prompts, held, unseen")
    parser.add_argument("--references", required=True, help="references.parquet of this world")
    parser.add_argument("--output", required=True, help="Parquet, as references.parquet")
    return parser


def main(argv: list[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = make_parser().parse_args(argv)
    world = validated(World, args.world, "--world")
    if (found := provenance.world_of(args.references)) != (name := world_hash(world)):
        raise InputError(f"{args.references}: found references of world {found}, expected {name}")
    with provenance.job("unseen", {"world": args.world, "data": args.data}, name) as job:
        table = unseen_references(world, args.data, load_references(args.references))
        write_parquet(args.output, table, {"provenance": job.record()})
    log.info("%s: %d references to %d prompts", args.output, len(table), args.data["unseen"])


if __name__ == "__main__":
    main()
