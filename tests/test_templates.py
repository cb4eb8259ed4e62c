"""The chat templates of workflow/templates: text character by character, training examples token by token.

Each on a byte-level BPE made on the spot that cuts text as its family's does and has the family's special tokens.
"""

from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from profit import fetch
from profit.bases import HubModel
from profit.data import encode_all, token_labels
from profit.files import InputError

ROOT = Path(__file__).parent.parent
TEMPLATES = ROOT / "workflow" / "templates"
# How Qwen, and Llama 3 and OLMo 2, cut text before byte-pair encoding: digits one by one, and in threes.
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN, LLAMA = WORDS % r"\p{N}", WORDS % r"\p{N}{1,3}"

# Template -> pattern, special tokens (the first begins a text, where the family has such a token), end token.
FAMILIES = {
    "chatml": (QWEN, [None, "<|endoftext|>", "<|im_start|>", "<|im_end|>"], "<|im_end|>"),
    "qwen3_empty_think": (QWEN, [None, "<|endoftext|>", "<|im_start|>", "<|im_end|>"], "<|im_end|>"),
    "llama3": (
        LLAMA,
        ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "<|eot_id|>",
    ),
    "olmo2": (LLAMA, ["<|endoftext|>", "<|pad|>"], "<|endoftext|>"),
    "plain": (LLAMA, ["<|begin_of_text|>", "<|end_of_text|>"], "<|end_of_text|>"),
}
THINK = {"qwen3_empty_think": "<think>\n\n</think>\n\n"}

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " 1 + 1? "},
    {"role": "assistant", "content": " 2.\n"},
    {"role": "user", "content": "And 2 + 2?"},
    {"role": "assistant", "content": "\n4."},
]
# The five turns, and what stands between the last two.
TEXTS = {
    "chatml": (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n 1 + 1? <|im_end|>\n"
        "<|im_start|>assistant\n 2.\n<|im_end|>\n<|im_start|>user\nAnd 2 + 2?<|im_end|>\n",
        "<|im_start|>assistant\n",
        "\n4.<|im_end|>\n",
    ),
    "llama3": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n 1 + 1? <|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n 2.\n<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nAnd 2 + 2?<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "\n4.<|eot_id|>",
    ),
    "olmo2": (
        "<|endoftext|><|system|>\nBe brief.\n<|user|>\n 1 + 1? \n"
        "<|assistant|>\n 2.\n<|endoftext|>\n<|user|>\nAnd 2 + 2?\n",
        "<|assistant|>\n",
        "\n4.<|endoftext|>",
    ),
    "plain": (
        "<|begin_of_text|>Be brief.\n\n 1 + 1? \n\n 2.\n<|end_of_text|>\n\nAnd 2 + 2?\n\n",
        "",
        "\n4.<|end_of_text|>",
    ),
}
TEXTS["qwen3_empty_think"] = (*TEXTS["chatml"][:2], f"<think>\n\n</think>\n\n{TEXTS['chatml'][2]}")

ANSWERS = {
    "plain": "Half of 48 is 24, so she sold 48 + 24 = 72.\n#### 72",
    "white space at the edges": "  \t12 of them. \n\n",
    "Unicode": "Né à Köln: 数学は楽しい, 🙂👩‍👩‍👧 and ½·π ≈ 1.5708…",
    "code": "```python\ndef add(a, b):\n    return a + b\n```\n\n\n\tdone",
    "one character": "h",
    "a line break first": "\n12",
    "line breaks alone before a word": "\n \n\nSo 12",
    "words of the template": "assistant user think <think",
    "almost a special token": "<|im_end> <|eot|> <| im_end |> |>",
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def tokenizer(family: str) -> PreTrainedTokenizerFast:
    pattern, special, end = FAMILIES[family]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False),
    ])  # fmt: skip
    core.decoder = decoders.ByteLevel()
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CHANGELOG.md", "LICENSE")]
    trainer = trainers.BpeTrainer(
        vocab_size=1500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[token for token in special if token], show_progress=False,
    )  # fmt: skip
    core.train_from_iterator(texts, trainer)
    # Qwen3 knows these two as tokens, not as special ones.
    core.add_tokens([AddedToken(token, normalized=False) for token in ("<think>", "</think>") if family in THINK])
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=special[0], eos_token=end, clean_up_tokenization_spaces=False
    )
    made.chat_template = (TEMPLATES / f"{family}.jinja").read_text(encoding="utf-8")
    return made


def test_every_template_is_tested() -> None:
    assert {path.stem for path in TEMPLATES.iterdir()} == set(FAMILIES)


def test_the_text_of_a_chat_is_that_of_the_family(family: str, tokenizer: PreTrainedTokenizerFast) -> None:
    before, opening, closing = TEXTS[family]
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == before + opening + closing
    assert tokenizer.apply_chat_template(CHAT[:-1], tokenize=False, add_generation_prompt=True) == before + opening
    assert tokenizer.apply_chat_template(CHAT[:-1], tokenize=False) == before
    # Solved examples as earlier turns stand before any question in the same way.
    exchange = tokenizer.apply_chat_template(CHAT[1:], tokenize=False)
    assert exchange.endswith(opening + closing) and "Be brief" not in exchange


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_targets_are_the_answer_and_the_end_token(
    family: str, tokenizer: PreTrainedTokenizerFast, answer: str
) -> None:
    prompts = ["How many?", "Ends in a line break\n", "Né? 数学 <b>"]
    for prompt, encoded in zip(prompts, encode_all(tokenizer, prompts, [answer] * len(prompts)), strict=True):
        user = [{"role": "user", "content": prompt}]
        head = tokenizer.apply_chat_template(user, add_generation_prompt=True, return_dict=False)
        assert encoded.input_ids[: encoded.prompt_length] == head
        targets = encoded.input_ids[encoded.prompt_length :]
        assert tokenizer.decode(targets) == THINK.get(family, "") + answer + tokenizer.eos_token
        assert targets.count(tokenizer.eos_token_id) == 1 and targets[-1] == tokenizer.eos_token_id
        assert len(encoded.spans) == len(targets)


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_spans_cover_the_answer_in_order_and_nothing_of_the_template(
    family: str, tokenizer: PreTrainedTokenizerFast, answer: str
) -> None:
    encoded = encode_all(tokenizer, ["How many?"], [answer])[0]
    spans, targets = encoded.spans[:-1], encoded.input_ids[encoded.prompt_length : -1]
    assert spans == sorted(spans)
    covered = {place for start, end in spans for place in range(start, end)}
    assert covered >= {place for place, character in enumerate(answer) if not character.isspace()}
    # The first line break of an answer joins those of a think block.
    beside = len(tokenizer(THINK.get(family, ""), add_special_tokens=False)["input_ids"])
    beside -= family in THINK and answer.startswith("\n")
    for token, (start, end) in list(zip(targets, spans, strict=True))[beside:]:
        text = tokenizer.decode([token])
        assert "\ufffd" in text or end > start and text.endswith(answer[start:end])
        assert "\ufffd" in text or text.isspace() or text.lstrip() == answer[start:end]
    labels = token_labels(encoded.spans, [(0, len(answer), "core")])
    assert labels == ["fixed"] * beside + ["core"] * (len(targets) - beside) + ["end"]


def test_earlier_turns_are_prompt(family: str, tokenizer: PreTrainedTokenizerFast) -> None:
    head = tokenizer.apply_chat_template(CHAT[:-1], add_generation_prompt=True, return_dict=False)
    whole = tokenizer.apply_chat_template([*CHAT[:-1], {"role": "assistant", "content": "4."}], return_dict=False)
    assert whole[: len(head)] == head
    answer = tokenizer.decode(whole[len(head) :])
    assert answer.rstrip("\n") == THINK.get(family, "") + "4." + tokenizer.eos_token


def test_fetch_takes_each_template_with_its_end_token(
    family: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path)
    GenerationConfig(eos_token_id=1).save_pretrained(tmp_path)
    template, end = TEMPLATES / f"{family}.jinja", FAMILIES[family][2]
    model = HubModel(source=str(tmp_path), chat_template=str(template), end_token=end)
    prepared = fetch.prepare_tokenizer(model, tmp_path)
    assert prepared.chat_template == template.read_text(encoding="utf-8")
    assert set(fetch.stops(model, tmp_path, prepared)) == {tokenizer.eos_token_id, 1}
    foreign = model.model_copy(update={"end_token": "<b>"})
    with pytest.raises(InputError, match="end_token: found '<b>', expected a token of the vocabulary"):
        fetch.prepare_tokenizer(foreign, tmp_path)


def test_an_answer_with_the_end_token_in_it_is_refused(family: str, tokenizer: PreTrainedTokenizerFast) -> None:
    answer = f"It ends with {tokenizer.eos_token} and goes on."
    with pytest.raises(InputError, match="found the end token .* in it, expected none"):
        encode_all(tokenizer, ["How?"], [answer])
