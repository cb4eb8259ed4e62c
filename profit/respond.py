"""Further answers to the prompts of a data set, by a model behind an OpenAI-compatible endpoint (paper Figure 2).

The paper trains on three answers a prompt and publishes one; whose the others are it does not say. This command has
any model answer, one behind a local vLLM or llama.cpp server too, and writes one file that joins its data set as a
further source of profit.collect: a row an answer, {"prompt", "response", "number", "model", "finish"}, those of a
prompt together and numbered from 1. A command by hand, before a study: no rule, since no two runs answer alike.

The prompts are those that profit.collect reads from the same data block. Each is asked anew for each answer, one
answer after another, since collect drops one that equals another: it is asked for again, at most `repairs` times, and
only what came before can be compared with. Different prompts are asked side by side. An answer counts if the model
ended it (finish "stop"): one that was cut at the token limit teaches no end, an empty one nothing. At most the share
`failures` of all answers may be missing. The text stays as it came: what a model thinks aloud before it answers is a
part of it, unless the server takes it out.

Answers are cached by prompt, system text, model, temperature and number; not by `max_tokens`, so that a second run
with a higher limit asks for those alone that were cut. The cost is estimated as profit.asking says; an answer is taken
to be as long as the mean of those that its prompt has, and no longer than `max_tokens`.

    python -m profit respond --data '{"sources": [{"file": "data/shadow_2k.parquet"}]}'
        --model '{"model": "…", "base_url": "http://localhost:8000/v1", "temperature": 0.7}' --answers 2
        --cache data/shadow_2k_further --output data/shadow_2k_further.jsonl
"""

import argparse
import glob
import hashlib
import json
import logging
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Field

from profit import asking, collect
from profit.chat import Endpoint, Reply
from profit.endpoint_settings import EndpointSettings
from profit.files import InputError, atomic_path, canonical_json
from profit.shapes import Collected, same

log = logging.getLogger(__name__)

WORDING = asking.Wording("model", given="given", missing="that cannot be used")
EQUAL = "found an answer that equals another to its prompt, expected a new one"
ENDINGS = (".jsonl", ".ndjson")


class Respondent(EndpointSettings):
    """The JSON of --model: whom to ask, at what price (per million tokens, None: unknown), and how patiently."""

    timeout: float = Field(600.0, gt=0, allow_inf_nan=False)  # an answer may have thousands of tokens
    temperature: float | None = Field(None, ge=0, allow_inf_nan=False)  # None: the endpoint's own
    max_tokens: int | None = Field(None, ge=1)
    system: str | None = Field(None, min_length=1)

    def messages(self, prompt: str) -> list[dict[str, str]]:
        """The chat that asks a prompt."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": prompt}]


class Answer(asking.Answered):
    """What the cache keeps of one answer; `text` is None if no reply could be used."""

    text: str | None
    finish: str

    @property
    def failed(self) -> bool:
        return self.text is None


@dataclass(frozen=True)
class Prompt:
    """A prompt, the answers of the data set, the places of the further ones in order, and those that are there."""

    name: str
    text: str
    references: list[str]
    places: list[Path]
    kept: dict[Path, Answer]

    @property
    def missing(self) -> list[Path]:
        """Places of the answers to ask for."""
        return [place for place in self.places if place not in self.kept]


def prompts_of(
    references: pd.DataFrame, data: Collected, settings: Respondent, answers: int, cache: str | Path
) -> list[Prompt]:
    """The prompts of `references` in order, with what the cache has; an answer that equals another counts as none."""
    prompts = []
    for name, group in references.groupby("prompt_id", sort=False):
        text, own = group.prompt.iloc[0], group.answer.tolist()
        places = [cache_path(cache, settings, text, number) for number in range(1, answers + 1)]
        known, kept = {same(answer, data.white_space) for answer in own}, {}
        for place in places:
            answer = asking.read_kept(place, Answer)
            if answer and not (data.distinct and same(answer.text, data.white_space) in known):
                kept[place] = answer
                known.add(same(answer.text, data.white_space))
        prompts.append(Prompt(name, text, own, places, kept))
    return prompts


def cache_path(cache: str | Path, settings: Respondent, prompt: str, number: int) -> Path:
    """Place of an answer: hash of what makes it one to this prompt, not of how long it may be."""
    key = canonical_json([settings.model, settings.temperature, settings.system, prompt, number])
    return Path(cache) / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def estimate(prompts: list[Prompt], settings: Respondent) -> tuple[int, int]:
    """Tokens sent and answered, if each missing answer is asked for once; the rule stands above."""
    sent = answered = 0
    for prompt in prompts:
        length = math.ceil(statistics.fmean(map(len, prompt.references)) / asking.CHARACTERS_PER_TOKEN)
        sent += len(prompt.missing) * asking.tokens_of(settings.messages(prompt.text))
        answered += len(prompt.missing) * min(length, settings.max_tokens or length)
    return sent, answered


def ask(endpoint: Endpoint, settings: Respondent, data: Collected, prompt: Prompt) -> Iterator[tuple[Path, Answer]]:
    """The missing answers to a prompt, each with its place as it comes."""
    texts = [*prompt.references, *(answer.text for answer in prompt.kept.values())]
    known = {same(text, data.white_space) for text in texts} if data.distinct else set()

    def read(reply: Reply) -> Reply:
        if not reply.text.strip():
            raise asking.Useless(f"found no text (the reply ended with {reply.finish!r}), expected an answer")
        if reply.finish != "stop":
            raise asking.Useless(f"found an answer that ended with {reply.finish!r}, expected 'stop'")
        if reply.quoted:
            raise asking.Useless("found the key in the answer, expected none")
        try:
            reply.text.encode()
        except UnicodeEncodeError:
            raise asking.Useless("found half a character in the answer, expected Unicode") from None
        if same(reply.text, data.white_space) in known:
            raise ValueError(EQUAL)
        return reply

    for place in prompt.missing:
        reply, spent = asking.ask_until(endpoint, settings.messages(prompt.text), read, settings.repairs)
        text, finish = (reply.text, reply.finish) if reply else (None, "")
        if text and data.distinct:
            known.add(same(text, data.white_space))
        yield place, Answer(model=settings.model, text=text, finish=finish, **spent)


def respond(
    references: pd.DataFrame, data: Collected, settings: Respondent, answers: int, cache: str | Path
) -> list[dict[str, Any]]:
    """Further answers to every prompt.

    Args:
        references: columns prompt_id, prompt, answer, as profit.collect makes them of `data`.
        answers: how many to each prompt.
        cache: folder of the answers.

    Returns:
        Rows with prompt, response, number, model and finish, in the order of `references`; none for a failed answer.

    Raises:
        InputError: no key, an estimate above the budget, or as profit.asking.ask_each.
    """
    prompts = prompts_of(references, data, settings, answers, cache)
    names = {
        place: f"prompt {prompt.name}, answer {number}"
        for prompt in prompts
        for number, place in enumerate(prompt.places, start=1)
    }
    found = {place: answer for prompt in prompts for place, answer in prompt.kept.items()}
    cached, todo = len(found), [prompt for prompt in prompts if prompt.missing]
    calls = len(names) - cached
    asking.announce(settings, WORDING, len(names), len(prompts), cached, calls, *estimate(todo, settings))
    if todo:
        endpoint = asking.connect(settings, temperature=settings.temperature, max_tokens=settings.max_tokens)

        def asked(endpoint: Endpoint, prompt: Prompt) -> Iterator[tuple[Path, Answer]]:
            yield from ask(endpoint, settings, data, prompt)

        found |= asking.ask_each(endpoint, settings, WORDING, todo, asked, names, cached)
    asking.conclude(settings, WORDING, [found[place] for place in names], cached)
    for place, name in names.items():
        if found[place].failed:
            log.warning("%s: %s", name, " | ".join(found[place].faults))
    equal = sum(answer.faults.count(EQUAL) for answer in found.values())
    log.info("model: %d replies equalled another answer to their prompt", equal)
    return [
        {"prompt": prompt.text, "response": answer.text, "number": number, "model": answer.model,
         "finish": answer.finish}
        for prompt in prompts
        for number, answer in enumerate((found[place] for place in prompt.places), start=1)
        if not answer.failed
    ]  # fmt: skip


def parse_settings(text: str, answers: int) -> Respondent:
    """Read the JSON of --model; InputError names each wrong key, without values that may be secret."""
    settings = asking.parse(Respondent, text, "--model")
    if answers < 1:
        raise InputError(f"--answers: found {answers}, expected at least 1")
    if answers > 1 and settings.temperature == 0:
        expected = "expected above 0: the same answer would come each time"
        raise InputError(f"--model.temperature: found 0 with --answers {answers}, {expected}")
    return settings


def check_places(output: str, cache: str, data: Collected) -> None:
    """InputError if the output is no JSONL file or would replace a source, or if the cache is no folder."""
    path = Path(output)
    if path.suffix not in ENDINGS or path.is_dir():
        raise InputError(f"--output: found {output}, expected a file with one of the endings {', '.join(ENDINGS)}")
    files = [file for source in data.sources if source.file for file in glob.glob(source.file, recursive=True)]
    if path.exists() and any(path.samefile(file) for file in files):
        raise InputError(f"--output: found {output}, a file of the sources, expected another")
    if Path(cache).exists() and not Path(cache).is_dir():
        raise InputError(f"--cache: found {cache}, a file, expected a folder")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m profit respond", description="Further answers to the prompts of a data set, by a model."
    )
    parser.add_argument("--data", required=True, help="JSON of a study's data block (profit.shapes.Collected)")
    parser.add_argument("--model", required=True, help="JSON: model, base_url, … (profit.respond.Respondent)")
    parser.add_argument("--answers", type=int, required=True, help="further answers to each prompt")
    parser.add_argument("--cache", required=True, help="folder of the answers; a second run asks only for the rest")
    parser.add_argument("--output", required=True, help="JSONL: a further source for the data block")
    return parser


def main(argv: list[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = make_parser().parse_args(argv)
    data, settings = collect.parse_settings(args.data), parse_settings(args.model, args.answers)
    check_places(args.output, args.cache, data)
    references, _ = collect.collect(data)
    rows = respond(references, data, settings, args.answers, args.cache)
    with atomic_path(args.output) as temporary:
        temporary.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
    prompts = len({row["prompt"] for row in rows})
    log.info("%s: %d answers to %d of %d prompts", args.output, len(rows), prompts, references.prompt_id.nunique())


if __name__ == "__main__":
    main()
