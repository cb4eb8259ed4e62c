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

No command: used by profit.annotate, `--annotator llm`. Calls, tokens and cost are estimated before the first call as
profit.asking says: what is sent, 3 tokens for every word labelled and 20 more a reply.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from profit import asking
from profit.annotate import repeat_keys
from profit.chat import Endpoint, Reply
from profit.files import InputError, canonical_json
from profit.judge_prompt import REPAIR, Question, prompt_hash, prompt_text, read_labels, schema
from profit.judge_settings import Judge

TOKENS_PER_WORD, TOKENS_PER_REPLY = 3, 20
WORDING = asking.Wording("judge", given="labelled", missing="without labels")


def parse_settings(text: str | None) -> Judge:
    """Read the JSON of --judge; InputError names each wrong key, without values that may be secret."""
    return asking.parse(Judge, text, "--judge")


class Answered(asking.Answered):
    """What the cache keeps of one answer; `labels` is None if every reply had a fault."""

    prompt: str
    labels: list[str] | None
    structured: bool

    @property
    def failed(self) -> bool:
        return self.labels is None


def ask(endpoint: Endpoint, settings: Judge, question: Question) -> Answered:
    """Ask for the labels of one answer, again with the fault named while the reply has one."""
    first, words = question.messages(settings.labels), len(question.spans)

    def read(reply: Reply) -> list[str]:
        try:
            return read_labels(reply.text, words, settings.labels)
        except ValueError as error:
            ended = f" (the reply ended with {reply.finish!r})" if reply.finish != "stop" else ""
            raise ValueError(f"{error}{ended}") from None

    def repair(reply: Reply, fault: str) -> list[dict[str, str]]:
        said = {"role": "assistant", "content": reply.text or "(nothing)"}
        return [*first, said, {"role": "user", "content": REPAIR.format(fault=fault, last=words)}]

    labels, spent = asking.ask_until(endpoint, first, read, settings.repairs, schema(settings.labels), repair)
    version, structured = prompt_hash(settings.labels), endpoint.structured
    return Answered(model=settings.model, prompt=version, labels=labels, structured=structured, **spent)


def cache_path(cache: str | Path, settings: Judge, question: Question) -> Path:
    """Place of an answer: hash of model, prompt version, temperature and all that the request shows."""
    content = [settings.model, prompt_hash(settings.labels), settings.temperature, question.question]
    key = canonical_json([*content, list(question.answers), question.answers[question.number]])
    return Path(cache) / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def read_cache(path: Path, question: Question, labels: list[str]) -> Answered | None:
    """The cached labels, or None where there are none; a damaged file counts as none."""

    def check(answered: Answered) -> None:
        if len(answered.labels) != len(question.spans) or not set(answered.labels) <= set(labels):
            raise ValueError("labels that do not fit the answer")

    return asking.read_kept(path, Answered, check)


def sampled(references: pd.DataFrame, settings: Judge) -> pd.DataFrame:
    """References of `settings.sample` prompts, in order; a larger sample contains the smaller ones of its seed."""
    prompts = references.prompt_id.unique()
    keys = {name: hashlib.sha256(f"{settings.seed} {name}".encode()).digest() for name in prompts}
    chosen = sorted(prompts, key=keys.__getitem__)[: settings.sample]
    return references[references.prompt_id.isin(chosen)].reset_index(drop=True)


def estimate(questions: list[Question], settings: Judge) -> tuple[int, int]:
    """Tokens sent and tokens labelled, if each question is asked once; the rule stands above."""
    prompt_tokens = sum(asking.tokens_of(question.messages(settings.labels)) for question in questions)
    words = sum(len(question.spans) for question in questions)
    return prompt_tokens, words * TOKENS_PER_WORD + len(questions) * TOKENS_PER_REPLY


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
        InputError: wrong settings, no key, an estimate above the budget, or as profit.asking.ask_each.
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
    todo = [(path, first[path]) for path in names if path not in answered]
    cached, prompts = len(answered), references.prompt_id.nunique()
    tokens = estimate([question for _, question in todo], settings)
    asking.announce(settings, WORDING, len(questions), prompts, cached, len(todo), *tokens)
    if todo:

        def asked(endpoint: Endpoint, item: tuple[Path, Question]) -> Iterator[tuple[Path, Answered]]:
            yield item[0], ask(endpoint, settings, item[1])

        endpoint = asking.connect(settings, temperature=settings.temperature)
        answered |= asking.ask_each(endpoint, settings, WORDING, todo, asked, names, cached)
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
    total = asking.conclude(settings, WORDING, entries, cached)
    return {
        "model": settings.model,
        "host": settings.host,
        "prompt_hash": prompt_hash(settings.labels),
        "prompt": prompt_text(settings.labels),
        **total,
        "answers": len(entries),
        "cached": cached,
        "repaired": sum(bool(entry.faults) and entry.labels is not None for entry in entries),
        "unstructured": sum(not entry.structured for entry in entries),
        "failures": {names[path]: answered[path].faults for path in names if answered[path].failed},
    }
