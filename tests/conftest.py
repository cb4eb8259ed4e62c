"""Shared fixtures: a tiny model saved as an ordinary Hugging Face folder, and references that it can read."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path  # noqa: E402

import pandas as pd  # noqa: E402
import pytest  # noqa: E402

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}<user>{{ message['content'] }}"
    "{% else %}<assistant>{{ message['content'] }}<end>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
NAMES, THINGS = ["Mia", "Tom", "Ana", "Ben"], ["apples", "coins", "books"]
OPENERS = ["First ,", "Well ,", "To begin ,", "Now ,", "Clearly ,", "Here ,", "So far ,", "Look :"]
PROMPTS, REFERENCES = 10, 4


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama-style model of about 20 thousand parameters with a word-level tokenizer, context of 64 tokens."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    texts = " ".join([*NAMES, *THINGS, *OPENERS, "has gets How many ? + = . The answer is", *map(str, range(40))])
    words = ["<pad>", "<end>", "<unknown>", "<user>", "<assistant>", *("▁" + w for w in sorted(set(texts.split())))]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unknown>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unknown>", pad_token="<pad>", eos_token="<end>", padding_side="left",
        additional_special_tokens=["<user>", "<assistant>"], clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.chat_template = CHAT_TEMPLATE
    torch.manual_seed(0)
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, tie_word_embeddings=True, initializer_range=0.3, **ends,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(**ends)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def references_frame() -> pd.DataFrame:
    """10 prompts with 4 references each, the last held: an opener (replaceable), an equation (core), full stops."""
    rows = []
    for p in range(PROMPTS):
        name, thing, a, b = NAMES[p % 4], THINGS[p % 3], 3 + p, 1 + p % 5
        for r in range(REFERENCES):
            spans, answer = [], ""
            for text, label in [
                (OPENERS[(p + r) % 8], "replaceable"), (f"{a} + {b} = {a + b}", "core"), (".", "fixed"),
                ("The answer is", "fixed"), (f"{a + b}", "core"), (".", "fixed"),
            ]:  # fmt: skip
                answer += " " if answer else ""
                spans.append({"start": len(answer), "end": len(answer) + len(text), "label": label})
                answer += text
            prompt = f"{name} has {a} {thing} . {name} gets {b} . How many ?"
            rows.append((f"p{p:03d}", r, prompt, answer, r == REFERENCES - 1, 1, spans))
    return pd.DataFrame(rows, columns=["prompt_id", "reference_id", "prompt", "answer", "held", "steps", "spans"])


@pytest.fixture(scope="session")
def references_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """references.parquet of `references_frame`."""
    from profit.files import write_parquet

    path = tmp_path_factory.mktemp("data") / "references.parquet"
    write_parquet(path, references_frame())
    return path


@pytest.fixture(scope="session")
def annotations_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """annotations/truth.parquet of `references_frame`."""
    from profit.files import write_parquet

    rows = [
        (row.prompt_id, row.reference_id, span["start"], span["end"], span["label"])
        for row in references_frame().itertuples()
        for span in row.spans
    ]
    path = tmp_path_factory.mktemp("annotations") / "truth.parquet"
    write_parquet(path, pd.DataFrame(rows, columns=["prompt_id", "reference_id", "start", "end", "label"]))
    return path
