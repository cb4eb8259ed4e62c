"""Rule `generate`: draw the miniature's references and benchmark items, and prove that they are disjoint.

    python -m profit.generate --world '{}' --data '{"prompts": 300, "references": 8, "held": 3, "careful": 1000}' \\
        --benchmarks '[{"name": "same_length", "questions": 100, "max_new_tokens": 162, "tight_tokens": 54}]' \\
        --output-folder results/miniature/data
"""

import argparse
import hashlib
import json
import logging

import pandas as pd

from profit import provenance
from profit.files import InputError, canonical_json, write_folder, write_json, write_parquet
from profit.miniature.items import ITEM_SETS, check_disjoint, draw_careful, draw_items, draw_references, longest_answer
from profit.miniature.world import World
from profit.validation import validated

log = logging.getLogger(__name__)


def world_hash(world: World) -> str:
    """16 hexadecimal digits that every result of this world carries."""
    return hashlib.sha256(canonical_json(world.model_dump()).encode()).hexdigest()[:16]


def check_caps(world: World, benchmark: dict) -> int:
    """The tokens of the longest valid answer, once the benchmark's caps are seen to leave room for it.

    Raises:
        InputError: `tight_tokens` would cut a valid answer, or `max_new_tokens` is not three times as long.
    """
    longest = longest_answer(world, benchmark["name"])
    for key, least in (("tight_tokens", longest), ("max_new_tokens", 3 * longest)):
        if benchmark[key] < least:
            raise InputError(
                f"benchmarks.{benchmark['name']}.{key}: found {benchmark[key]}, expected at least {least}"
                f" (the longest valid answer has {longest} tokens)"
            )
    return longest


def generate(
    world: World, data: dict, benchmarks: list[dict]
) -> tuple[dict[str, pd.DataFrame], dict[str, list[dict]], dict]:
    """References and careful answers (one row a prompt × reference), items by benchmark, and the world's manifest."""
    longest = {benchmark["name"]: check_caps(world, benchmark) for benchmark in benchmarks}
    rows, problems = draw_references(world, data["prompts"], data["references"], data["held"])
    careful_rows, careful_problems = draw_careful(world, data["careful"], avoid=problems)
    items, pools = {}, {"tuning": problems + careful_problems, "validation": [], "test": []}
    for benchmark in benchmarks:
        name = benchmark["name"]
        items[name], drawn = draw_items(world, name, benchmark["questions"])
        pools[ITEM_SETS[name].pool] += drawn
    check_disjoint(pools)
    manifest = {
        "world": world_hash(world),
        "settings": world.model_dump(),
        "prompts": data["prompts"],
        "references": len(rows),
        "careful": len(careful_rows),
        "items": {name: len(listed) for name, listed in items.items()},
        "longest_answer_tokens": longest,
    }
    tables = {"references": pd.DataFrame(rows), "careful": pd.DataFrame(careful_rows, columns=list(rows[0]))}
    return tables, items, manifest


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m profit.generate", description=__doc__.splitlines()[0])
    parser.add_argument("--world", required=True, type=json.loads, help="JSON of the study's world block")
    parser.add_argument("--data", required=True, type=json.loads, help="JSON of the study's data block")
    parser.add_argument("--benchmarks", required=True, type=json.loads, help="JSON list of benchmark blocks")
    parser.add_argument("--output-folder", required=True, help="folder for references, benchmarks and manifest")
    return parser


def main(argv: list[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = make_parser().parse_args(argv)
    world = validated(World, arguments.world, "--world")
    with provenance.job("generate", {"world": arguments.world, "data": arguments.data}, world_hash(world)) as job:
        tables, items, manifest = generate(world, arguments.data, arguments.benchmarks)
        with write_folder(arguments.output_folder) as folder:
            for name, table in tables.items():
                write_parquet(folder / f"{name}.parquet", table, {"provenance": job.record()})
            for name, listed in items.items():
                write_json(folder / "benchmarks" / f"{name}.json", listed)
            write_json(folder / "world.json", {**manifest, "provenance": job.record()})
    log.info("%d references to %d prompts; items: %s", manifest["references"], manifest["prompts"], manifest["items"])


if __name__ == "__main__":
    main()
