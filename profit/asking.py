"""Many questions to one endpoint: their cost first, so many at a time, every answer kept as it comes.

An answer is one JSON file in a folder, the cache. Whoever starts again is asked for the rest alone; what failed (at
most the share `failures` of the answers) is asked for again. Before the first call the cost is estimated, a token for
every 3 characters sent (plain English has 4; numbers have fewer); retries, repairs and what a model thinks unseen come
on top, so that a run that has spent its budget stops too.

No command: used by profit.judge and profit.respond.
"""

import json
import logging
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from profit.chat import Endpoint, Reply, Unanswered, send
from profit.endpoint_settings import EndpointSettings
from profit.files import InputError, read_json, write_json
from profit.validation import validated

log = logging.getLogger(__name__)

CHARACTERS_PER_TOKEN = 3

Messages = list[dict[str, str]]


class Answered(BaseModel):
    """What the cache keeps of one answer, beside what was read from it; `faults` of all replies that had one."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    faults: list[str]
    calls: int
    retries: int
    prompt_tokens: int
    answer_tokens: int

    @property
    def failed(self) -> bool:
        """Whether every reply had a fault."""
        raise NotImplementedError


Settings, Kept = TypeVar("Settings", bound=EndpointSettings), TypeVar("Kept", bound=Answered)
Item, Value = TypeVar("Item"), TypeVar("Value")


@dataclass(frozen=True)
class Wording:
    """How messages call who asks, an answer that came ("labelled") and one that did not ("without labels")."""

    asker: str
    given: str
    missing: str


class Useless(ValueError):
    """A reply that cannot be used, and that would come again."""


def parse(schema: type[Settings], text: str | None, option: str) -> Settings:
    """Read the JSON of `option`; InputError names each wrong key, without values that may be secret."""
    try:
        content = json.loads(text or "")
    except json.JSONDecodeError:
        expected = f"a JSON object with keys of {list(schema.model_fields)}"
        raise InputError(f"{option}: found {'no JSON' if text else 'nothing'}, expected {expected}") from None
    return validated(schema, content, option)


def connect(settings: EndpointSettings, **options: Any) -> Endpoint:
    """The endpoint of the settings; options: of each request, None: the endpoint's own.

    Raises:
        InputError: no key in the environment.
    """
    key = os.environ.get(settings.key_variable, "").strip()
    if not key:
        raise InputError(
            f"environment variable {settings.key_variable}: found nothing, expected the key for model "
            f"{settings.model!r} (any text where the endpoint needs none); nothing was asked"
        )
    given = {name: value for name, value in options.items() if value is not None}
    return Endpoint(
        settings.base_url, settings.model, key, settings.timeout, settings.retries, settings.backoff, given
    )  # fmt: skip


def tokens_of(messages: Messages) -> int:
    """Tokens of a chat by the rule above."""
    return math.ceil(sum(len(message["content"]) for message in messages) / CHARACTERS_PER_TOKEN)


def announce(
    settings: EndpointSettings, wording: Wording, answers: int, prompts: int, cached: int, calls: int,
    prompt_tokens: int, answer_tokens: int,
) -> None:  # fmt: skip
    """Log what will be asked, if each question is asked once, and its cost; InputError if that exceeds the budget."""
    cost = settings.cost(prompt_tokens, answer_tokens)
    log.info(
        "%s %s at %s: %d answers of %d prompts, %d cached; %d calls, about %d tokens sent and %d %s, cost %s",
        wording.asker, settings.model, settings.host, answers, prompts, cached, calls, prompt_tokens, answer_tokens,
        wording.given, "unknown" if cost is None else f"about {cost:.4g}",
    )  # fmt: skip
    if settings.budget is not None and cost > settings.budget:
        raise InputError(
            f"{wording.asker} {settings.model!r}: found an estimated cost of {cost:.4g}, expected at most the budget "
            f"of {settings.budget:g}; nothing was asked"
        )


def ask_until(
    endpoint: Endpoint,
    messages: Messages,
    read: Callable[[Reply], Value],
    repairs: int,
    schema: dict[str, Any] | None = None,
    repair: Callable[[Reply, str], Messages] | None = None,
) -> tuple[Value | None, dict[str, Any]]:
    """Ask until `read` accepts a reply, at most 1 + `repairs` times.

    Args:
        read: what a reply says; ValueError: asked again, Useless: not.
        schema: as profit.chat.send.
        repair: messages to ask with after a reply and its fault; None: the same.

    Returns:
        What the reply says, None if none could be used; faults, calls, retries and tokens, as in `Answered`.

    Raises:
        InputError, CancelledError: as profit.chat.send.
    """
    value, shown, faults = None, messages, []
    calls = retries = prompt_tokens = answer_tokens = 0
    while value is None and len(faults) <= repairs:
        try:
            reply = send(endpoint, shown, schema)
        except Unanswered as error:
            calls, retries = calls + error.retries + 1, retries + error.retries
            faults.append(str(error))
            break
        calls, retries = calls + reply.retries + 1, retries + reply.retries
        prompt_tokens, answer_tokens = prompt_tokens + reply.prompt_tokens, answer_tokens + reply.answer_tokens
        try:
            value = read(reply)
        except ValueError as error:
            faults.append(str(error))
            if isinstance(error, Useless):
                break
            shown = repair(reply, str(error)) if repair else messages
    return value, {
        "faults": faults, "calls": calls, "retries": retries, "prompt_tokens": prompt_tokens,
        "answer_tokens": answer_tokens,
    }  # fmt: skip


def read_kept(path: Path, form: type[Kept], check: Callable[[Kept], None] | None = None) -> Kept | None:
    """The answer in the cache, or None where there is none; a damaged file, and a failure, count as none.

    check: raises ValueError for an answer that is to something else.
    """
    if not path.exists():
        return None
    try:
        kept = form(**read_json(path))
        if check and not kept.failed:
            check(kept)
    except (InputError, TypeError, ValueError) as error:
        log.warning("%s: found a damaged cache file (%s); asked again", path.name, str(error).splitlines()[0])
        return None
    return None if kept.failed else kept


def ask_each(
    endpoint: Endpoint,
    settings: EndpointSettings,
    wording: Wording,
    items: list[Item],
    ask: Callable[[Endpoint, Item], Iterator[tuple[Path, Kept]]],
    names: dict[Path, str],
    cached: int,
) -> dict[Path, Kept]:
    """Ask for all answers, `settings.concurrency` items at a time, and cache each answer as it comes.

    Args:
        items: what to ask for.
        ask: the answers of an item, one or several in turn, each with its place in the cache.
        names: place -> name of every answer that is wanted; `cached` of them are there.

    Raises:
        InputError: as profit.chat.send; more answers failed than `settings.failures` allows; the budget is spent.
    """

    def work(item: Item) -> dict[Path, Kept]:
        answers = {}
        try:
            for path, answered in ask(endpoint, item):
                write_json(path, answered.model_dump())
                answers[path] = answered
        except InputError:
            endpoint.stop.set()
            raise
        return answers

    asker, allowed = f"{wording.asker} {settings.model!r}", math.floor(settings.failures * len(names))
    wanted, spent = len(names) - cached, [0, 0]
    done: dict[Path, Kept] = {}
    failed: list[str] = []
    with ThreadPoolExecutor(settings.concurrency) as pool, tqdm(
        total=wanted, desc=wording.asker, unit="answer", mininterval=2
    ) as progress:  # fmt: skip
        try:
            for future in as_completed([pool.submit(work, item) for item in items]):
                try:
                    answers = future.result()
                except CancelledError:  # by the error of another thread, which comes too
                    continue
                done |= answers
                progress.update(len(answers))
                failed += [f"{names[path]}: {' | '.join(own.faults)}" for path, own in answers.items() if own.failed]
                if len(failed) > allowed:
                    raise InputError(
                        f"{asker}: found {len(failed)} of {len(names)} answers {wording.missing}, expected at most "
                        f"{allowed} (failures = {settings.failures:g}); all others so far are kept, and these are "
                        f"asked again by the next run: {'; '.join(sorted(failed))}"
                    )
                for answered in answers.values():
                    spent = [spent[0] + answered.prompt_tokens, spent[1] + answered.answer_tokens]
                cost = settings.cost(*spent)
                if settings.budget is not None and cost > settings.budget and len(done) < wanted:
                    raise InputError(
                        f"{asker}: found {cost:.4g} spent with {len(done)} of {wanted} answers {wording.given}, "
                        f"expected at most the budget of {settings.budget:g} (repairs, or tokens that the model "
                        f"thinks unseen); what is answered is kept"
                    )
        except BaseException:
            endpoint.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return done


def conclude(settings: EndpointSettings, wording: Wording, answers: list[Kept], cached: int) -> dict[str, Any]:
    """Log and return what all answers took: calls, retries, tokens, and their cost, None where that is unknown.

    cached: how many of them were there before.
    """
    total: dict[str, Any] = {
        key: sum(getattr(answered, key) for answered in answers)
        for key in ("calls", "retries", "prompt_tokens", "answer_tokens")
    }
    # An endpoint that counts no tokens does not work for nothing.
    cost = settings.cost(total["prompt_tokens"], total["answer_tokens"]) if total["answer_tokens"] else None
    failed = sum(answered.failed for answered in answers)
    log.info(
        "%s: %d %s (%d from the cache), %d failed, %d retries, %d tokens sent and %d answered, cost %s",
        wording.asker, len(answers) - failed, wording.given, cached, failed, total["retries"], total["prompt_tokens"],
        total["answer_tokens"], "unknown" if cost is None else f"{cost:.4g}",
    )  # fmt: skip
    return {**total, "cost": cost}
