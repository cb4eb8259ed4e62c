"""Labels of words by a large model: a judge behind an OpenAI-compatible endpoint (paper §4.1, Figure 3).

The paper had Gemini-3-Pro label the tokens of several reference answers to a question as core or trivial; its prompt,
data and checks are unknown. The prompt here is ours (profit.judge_prompt); its text is stored beside the labels.

One call labels one answer. It shows the question and all references of the prompt, since what varies between accepted
answers is what may be replaced, and then this answer cut into numbered words (annotate.WORD). One answer a call, not
one prompt: a bad reply costs one answer, replies stay short enough to count right, and the cache holds answers; the
shared part stands first, so that endpoints that cache prefixes bill it about once a prompt. Labels come back as lists
of numbers, {"core": [1, 2], "replaceable": [3]}: the shortest form that names every word once, so that a word left
out, named twice or invented shows. A reply with such a fault is shown to the judge again with the fault named.

Answers are cached by model, prompt text and content, one JSON file each. Whoever starts again is asked for the rest
alone; answers without labels (at most the share `failures`) are asked for again, and have no span in the table.

No command: used by profit.annotate, `--annotator llm`. Calls, tokens and cost are estimated before the first call: a
token for every 3 characters sent (plain English has 4; numbers have fewer), 3 for every word labelled and 20 more a
reply. Retries, repairs and what a model thinks unseen come on top; a run that has spent its budget stops.
"""

import hashlib
import json
import logging
import math
import os
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from profit.annotate import repeat_keys
from profit.chat import Endpoint, Unanswered, send
from profit.files import InputError, canonical_json, read_json, write_json
from profit.judge_prompt import REPAIR, Question, prompt_hash, prompt_text, read_labels, schema
from profit.judge_settings import Judge
from profit.validation import validated

log = logging.getLogger(__name__)

CHARACTERS_PER_TOKEN, TOKENS_PER_WORD, TOKENS_PER_REPLY = 3, 3, 20


def parse_settings(text: str | None) -> Judge:
    """Read the JSON of --judge; InputError names each wrong key, without values that may be secret."""
    try:
        content = json.loads(text or "")
    except json.JSONDecodeError:
        expected = f"a JSON object with keys of {list(Judge.model_fields)}"
        raise InputError(f"--judge: found {'no JSON' if text else 'nothing'}, expected {expected}") from None
    return validated(Judge, content, "--judge")


class Answered(BaseModel):
    """What the cache keeps of one answer; `labels` is None if every reply had a fault."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    prompt: str
    labels: list[str] | None
    faults: list[str]
    structured: bool
    calls: int
    retries: int
    prompt_tokens: int
    answer_tokens: int


def ask(endpoint: Endpoint, settings: Judge, question: Question) -> Answered:
    """Ask for the labels of one answer, again with the fault named while the reply has one."""
    first = question.messages(settings.labels)
    messages, words, faults = first, len(question.spans), []
    labels, counts = None, np.zeros(4, dtype=int)
    while labels is None and len(faults) <= settings.repairs:
        try:
            reply = send(endpoint, messages, schema(settings.labels))
        except Unanswered as error:
            counts += (error.retries + 1, error.retries, 0, 0)
            faults.append(str(error))
            break
        counts += (reply.retries + 1, reply.retries, reply.prompt_tokens, reply.answer_tokens)
        try:
            labels = read_labels(reply.text, words, settings.labels)
        except ValueError as error:
            fault = f"{error} (the reply ended with {reply.finish!r})" if reply.finish != "stop" else str(error)
            faults.append(fault)
            repair = {"role": "user", "content": REPAIR.format(fault=fault, last=words)}
            messages = [*first, {"role": "assistant", "content": reply.text or "(nothing)"}, repair]
    calls, retries, prompt_tokens, answer_tokens = counts.tolist()
    return Answered(
        model=settings.model, prompt=prompt_hash(settings.labels), labels=labels, faults=faults,
        structured=endpoint.structured, calls=calls, retries=retries, prompt_tokens=prompt_tokens,
        answer_tokens=answer_tokens,
    )  # fmt: skip


def cache_path(cache: str | Path, settings: Judge, question: Question) -> Path:
    """Place of an answer: hash of model, prompt version, temperature and all that the request shows."""
    content = [settings.model, prompt_hash(settings.labels), settings.temperature, question.question]
    key = canonical_json([*content, list(question.answers), question.answers[question.number]])
    return Path(cache) / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def read_cache(path: Path, question: Question, labels: list[str]) -> Answered | None:
    """The cached labels, or None where there are none; a damaged file counts as none."""
    if not path.exists():
        return None
    try:
        answered = Answered(**read_json(path))
        fits = answered.labels is None or len(answered.labels) == len(question.spans)
        if not fits or not set(answered.labels or ()) <= set(labels):
            raise ValueError("labels that do not fit the answer")
    except (InputError, TypeError, ValueError) as error:
        log.warning("%s: found a damaged cache file (%s); asked again", path.name, str(error).splitlines()[0])
        return None
    return answered if answered.labels is not None else None


def sampled(references: pd.DataFrame, settings: Judge) -> pd.DataFrame:
    """References of `settings.sample` prompts, in order; a larger sample contains the smaller ones of its seed."""
    prompts = references.prompt_id.unique()
    keys = {name: hashlib.sha256(f"{settings.seed} {name}".encode()).digest() for name in prompts}
    chosen = sorted(prompts, key=keys.__getitem__)[: settings.sample]
    return references[references.prompt_id.isin(chosen)].reset_index(drop=True)


def estimate(questions: list[Question], settings: Judge) -> tuple[int, int, float | None]:
    """Tokens sent, tokens labelled and their price, if each question is asked once; the rule stands above."""
    sent = [sum(len(part["content"]) for part in question.messages(settings.labels)) for question in questions]
    prompt_tokens = sum(math.ceil(characters / CHARACTERS_PER_TOKEN) for characters in sent)
    words = sum(len(question.spans) for question in questions)
    answer_tokens = words * TOKENS_PER_WORD + len(questions) * TOKENS_PER_REPLY
    return prompt_tokens, answer_tokens, settings.cost(prompt_tokens, answer_tokens)


def connect(settings: Judge) -> Endpoint:
    """The endpoint of the settings; InputError without the key in the environment."""
    key = os.environ.get(settings.key_variable, "").strip()
    if not key:
        raise InputError(
            f"environment variable {settings.key_variable}: found nothing, expected the key for model "
            f"{settings.model!r} (any text where the endpoint needs none); nothing was asked"
        )
    options = {} if settings.temperature is None else {"temperature": settings.temperature}
    return Endpoint(
        settings.base_url, settings.model, key, settings.timeout, settings.retries, settings.backoff, options
    )  # fmt: skip


def ask_all(
    endpoint: Endpoint, settings: Judge, todo: dict[Path, Question], names: dict[Path, str], allowed: int
) -> dict[Path, Answered]:
    """Ask all questions, `settings.concurrency` at a time, and cache each reply as it comes.

    Raises:
        InputError: as profit.chat.send; more than `allowed` answers without labels; the budget is spent.
    """

    def work(path: Path) -> tuple[Path, Answered]:
        try:
            answered = ask(endpoint, settings, todo[path])
        except InputError:
            endpoint.stop.set()
            raise
        write_json(path, answered.model_dump())
        return path, answered

    done: dict[Path, Answered] = {}
    failed: list[str] = []
    spent = np.zeros(2, dtype=int)
    with ThreadPoolExecutor(settings.concurrency) as pool, tqdm(
        total=len(todo), desc="judge", unit="answer", mininterval=2
    ) as progress:  # fmt: skip
        try:
            for future in as_completed([pool.submit(work, path) for path in todo]):
                try:
                    path, answered = future.result()
                except CancelledError:  # by the error of another thread, which comes too
                    continue
                done[path] = answered
                progress.update()
                spent += (answered.prompt_tokens, answered.answer_tokens)
                if answered.labels is None:
                    failed.append(f"{names[path]}: {' | '.join(answered.faults)}")
                if len(failed) > allowed:
                    raise InputError(
                        f"judge {settings.model!r}: found {len(failed)} of {len(names)} answers without labels, "
                        f"expected at most {allowed} (failures = {settings.failures:g}); all others so far are kept, "
                        f"and these are asked again by the next run: {'; '.join(sorted(failed))}"
                    )
                cost = settings.cost(*spent.tolist())
                if settings.budget is not None and cost > settings.budget and len(done) < len(todo):
                    raise InputError(
                        f"judge {settings.model!r}: found {cost:.4g} spent with {len(done)} of {len(todo)} answers "
                        f"labelled, expected at most the budget of {settings.budget:g} (repairs, or tokens that the "
                        f"model thinks unseen); what is answered is kept"
                    )
        except BaseException:
            endpoint.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return done


def judge_spans(references: pd.DataFrame, judge: str | None, cache: str | None) -> pd.DataFrame:
    """Label each word of each answer as the judge does.

    Args:
        references: columns prompt_id, reference_id, prompt, answer.
        judge: JSON of `Judge`.
        cache: folder of the cached answers.

    Returns:
        As annotate.agreement_spans; `attrs` holds the settings without the address, and under "judge" the account:
        calls, retries, tokens, cost (of all these labels, whichever run asked) and failures.

    Raises:
        InputError: wrong settings, no key, an estimate above the budget, or as `ask_all`.
    """
    settings = parse_settings(judge)
    if cache is None:
        raise InputError("--cache: found nothing, expected a folder for the judge's answers")
    references = sampled(references, settings)
    answers = references.groupby("prompt_id").answer.agg(tuple)
    questions = [
        Question(row.prompt, answers[row.prompt_id], number)
        for row, number in zip(references.itertuples(), references.groupby("prompt_id").cumcount(), strict=True)
    ]
    paths = [cache_path(cache, settings, question) for question in questions]
    names, first = {}, {}
    for path, question, row in zip(paths, questions, references.itertuples(), strict=True):
        names.setdefault(path, f"prompt {row.prompt_id}, reference {row.reference_id}")
        first.setdefault(path, question)
    found = {path: read_cache(path, question, settings.labels) for path, question in first.items()}
    answered = {path: entry for path, entry in found.items() if entry is not None}
    todo = {path: first[path] for path in names if path not in answered}
    prompt_tokens, answer_tokens, cost = estimate(list(todo.values()), settings)
    log.info(
        "judge %s at %s: %d answers of %d prompts, %d cached; %d calls, about %d tokens sent and %d labelled, cost %s",
        settings.model, urlsplit(settings.base_url).hostname, len(questions), references.prompt_id.nunique(),
        len(answered), len(todo), prompt_tokens, answer_tokens, "unknown" if cost is None else f"about {cost:.4g}",
    )  # fmt: skip
    if settings.budget is not None and cost > settings.budget:
        raise InputError(
            f"judge {settings.model!r}: found an estimated cost of {cost:.4g}, expected at most the budget of "
            f"{settings.budget:g}; nothing was asked"
        )
    cached = len(answered)
    if todo:
        allowed = math.floor(settings.failures * len(names))
        answered |= ask_all(connect(settings), settings, todo, names, allowed)
    labels = [answered[path].labels or [] for path in paths]
    spans = [question.spans if own else [] for question, own in zip(questions, labels, strict=True)]
    table = repeat_keys(references, [len(own) for own in spans])
    table[["start", "end"]] = np.array([span for own in spans for span in own], dtype=np.int32).reshape(-1, 2)
    table["label"] = [label for own in labels for label in own]
    table.attrs = {"settings": {"judge": settings.record()}, "judge": account(settings, answered, names, cached)}
    return table


def account(settings: Judge, answered: dict[Path, Answered], names: dict[Path, str], cached: int) -> dict[str, Any]:
    """What was asked and paid for these labels, what failed, and the text of the prompt."""
    entries = [answered[path] for path in names]
    total = {
        key: sum(getattr(entry, key) for entry in entries)
        for key in ("calls", "retries", "prompt_tokens", "answer_tokens")
    }
    # An endpoint that counts no tokens does not work for nothing.
    cost = settings.cost(total["prompt_tokens"], total["answer_tokens"]) if total["answer_tokens"] else None
    failures = {names[path]: answered[path].faults for path in names if answered[path].labels is None}
    log.info(
        "judge: %d labelled (%d from the cache), %d failed, %d retries, %d tokens sent and %d answered, cost %s",
        len(entries) - len(failures), cached, len(failures), total["retries"], total["prompt_tokens"],
        total["answer_tokens"], "unknown" if cost is None else f"{cost:.4g}",
    )  # fmt: skip
    return {
        "model": settings.model,
        "host": urlsplit(settings.base_url).hostname,
        "prompt_hash": prompt_hash(settings.labels),
        "prompt": prompt_text(settings.labels),
        **total,
        "cost": cost,
        "answers": len(entries),
        "cached": cached,
        "repaired": sum(bool(entry.faults) and entry.labels is not None for entry in entries),
        "unstructured": sum(not entry.structured for entry in entries),
        "failures": failures,
    }
