"""What the two models under evaluation share: prompts that fit, a record of every answer, batches kept as they finish.

lm-eval's own classes return the text alone and cut a prompt that is too long with a mere warning. Here every answer's
new tokens and its end are recorded, a prompt that does not fit is an error before anything is generated, and a
finished batch of answers is appended to a file, so that a killed job goes on with the next.

No command: used by profit.lm (backend hf) and profit.vllm_lm (backend vllm).
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from tqdm import tqdm
from transformers import GenerationConfig, PreTrainedTokenizerBase

from profit.files import InputError


@dataclass(frozen=True)
class Generation:
    """One answer: text without special tokens, number of new tokens with the end token, and whether it ended so."""

    text: str
    tokens: int
    ended: bool


class Recording:
    """Beside a class of lm-eval: answers to `generate_until` by `answers`, the last call's in `generations`, in order.

    The subclass sets `ends`, the tokens that end an answer; `kept` is the file of finished batches, None to keep none.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    batch_size: int
    ends: list[int]
    kept: Path | None = None
    generations: list[Generation]

    def at_once(self, max_gen_toks: int) -> int:
        """How many requests of so many new tokens make a batch."""
        return self.batch_size

    def answers(
        self, prompts: list[list[int]], batches: list[list[int]], seed: int, max_gen_toks: int, **decoding: Any
    ) -> Iterator[list[list[int]]]:
        """New tokens of each of a batch's rows (numbers of `prompts`), batch by batch; `seed` and row decide draws."""
        raise NotImplementedError

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The text of a chat as training has it: lm-eval's classes hand some templates further arguments."""
        return chat_text(self.tokenizer, chat_history, add_generation_prompt)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answer the requests of one task; generation_kwargs: temperature, top_p, top_k, max_gen_toks, seed, until.

        Raises:
            InputError: a prompt is too long, or `until` holds stop texts: only an end token or the cap ends an answer.
        """
        task, settings = requests[0].task_name, dict(requests[0].args[1])
        if settings.pop("until"):
            raise InputError(f"{task}/generation_kwargs/until: found stop texts, expected []")
        prompts = encode_requests(requests, self.tokenizer, self.max_length)
        by_length = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
        at_once = self.at_once(settings["max_gen_toks"])
        batches = [by_length[start : start + at_once] for start in range(0, len(prompts), at_once)]
        made = read_batches(self.kept)
        # A batch is asked again as a whole: what stands beside a row moves its numbers by rounding.
        missing = [rows for rows in batches if not made.keys() >= set(rows)]
        found = self.answers(prompts, missing, **settings)
        progress = tqdm(missing, desc=f"{task} batches", initial=len(batches) - len(missing), total=len(batches),
                        disable=disable_tqdm)  # fmt: skip
        for rows, answers in zip(progress, found, strict=True):
            texts = self.tokenizer.batch_decode(answers, skip_special_tokens=True)
            batch = {
                row: Generation(text, len(answer), answer[-1] in self.ends)
                for row, text, answer in zip(rows, texts, answers, strict=True)
            }
            keep_batch(self.kept, batch)
            made |= batch
        self.generations = [made[row] for row in range(len(prompts))]
        return [generation.text for generation in self.generations]


def chat_text(
    tokenizer: PreTrainedTokenizerBase, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
) -> str:
    """The text of a chat by the tokenizer's own template, every special token in it."""
    return tokenizer.apply_chat_template(chat_history, tokenize=False, add_generation_prompt=add_generation_prompt)


def encode_requests(requests: list[Instance], tokenizer: PreTrainedTokenizerBase, context: int) -> list[list[int]]:
    """Tokens of each request's prompt.

    Raises:
        InputError: a prompt leaves less of the `context` than its max_gen_toks.
    """
    # The chat template has already put in every special token.
    prompts = tokenizer([request.args[0] for request in requests], add_special_tokens=False)["input_ids"]
    for request, prompt in zip(requests, prompts, strict=True):
        new = request.args[1]["max_gen_toks"]
        if len(prompt) + new > context:
            raise InputError(
                f"{request.task_name}, item {request.doc.get('id', request.doc_id)}: found a prompt of "
                f"{len(prompt)} tokens and {new} new tokens, expected at most {context} together "
                "(the model's context)"
            )
    return prompts


def end_tokens(settings: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end an answer: those of the model's generation settings, else the tokenizer's end token."""
    configured = settings.eos_token_id
    if configured is None:
        return [tokenizer.eos_token_id]
    return sorted(configured if isinstance(configured, list) else [configured])


def derived_seed(seed: int, name: object) -> int:
    """A seed of 48 bits that depends on nothing but another seed and a name or number."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:6], "big")


def read_batches(path: Path | None) -> dict[int, Generation]:
    """Answers of the finished batches in a file of `keep_batch`, by row; a line that was cut short is passed over."""
    made: dict[int, Generation] = {}
    for line in path.read_text(errors="replace").split("\n") if path and path.is_file() else []:
        with suppress(json.JSONDecodeError):
            made |= {row: Generation(*rest) for row, *rest in json.loads(line)}
    return made


def keep_batch(path: Path | None, batch: dict[int, Generation]) -> None:
    """Append the answers of one batch, by row, to a JSONL file, as one line."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps([[row, *astuple(made)] for row, made in batch.items()])
    with open(path, "a") as file:
        # The line end stands before: so a line that was cut short spoils no other.
        file.write(f"\n{line}")
