"""Rule `pretrain`: make the miniature's base model and save it as an ordinary Hugging Face folder.

A Llama-style model (tied embeddings, grouped queries, rotary positions) reads documents of the pretraining pool once.
It learns from whole plain documents and from the answers of chats: the amounts of a prompt cannot be foreseen, and
learning from them would be noise.

    python -m profit.pretrain --world '{}' --pretraining '{"steps": 1000}' --data results/miniature/data \\
        --scratch results/miniature/scratch/pretrain --output results/miniature/models/mini
"""

import argparse
import json
import logging
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

from profit import provenance
from profit.checkpoints import Completed, claim, last_complete
from profit.files import InputError, read_json, write_folder, write_json
from profit.logits import IGNORED
from profit.miniature.documents import pretraining_documents
from profit.miniature.language import base_style
from profit.miniature.optimizer import MuonAdamW
from profit.miniature.tokenizer import ASSISTANT, build_tokenizer
from profit.miniature.world import Pretraining, World
from profit.validation import validated

log = logging.getLogger(__name__)


def build_model(tokenizer: PreTrainedTokenizerFast, settings: Pretraining) -> LlamaForCausalLM:
    """The base with random weights, drawn from the settings' seed."""
    set_seed(settings.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=settings.intermediate,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv_heads,
        max_position_embeddings=settings.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model


def pretrain(
    world: World, settings: Pretraining, scratch: Path
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast, int]:
    """Train the base from nothing; returns model, tokenizer and the number of tokens read.

    A killed run goes on from its last complete checkpoint in `scratch`, to the same weights.
    """
    tokenizer = build_tokenizer(world.largest)
    count = settings.steps * settings.documents_per_step
    documents = pretraining_documents(world, base_style(world), count, settings.seed)
    rows = tokenizer(documents, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    if max(map(len, rows)) > settings.context:
        raise InputError(f"pretraining.context: found {settings.context}, expected at least {max(map(len, rows))}")
    model = build_model(tokenizer, settings)
    log.info("%d documents, %d tokens, %d parameters", count, sum(map(len, rows)), model.num_parameters())
    arguments = TrainingArguments(
        output_dir=str(scratch),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.documents_per_step,
        train_sampling_strategy="group_by_length",  # hardly any padding
        lr_scheduler_type="warmup_stable_decay",
        warmup_steps=round(settings.warmup * settings.steps),
        lr_scheduler_kwargs={"num_decay_steps": round(settings.decay * settings.steps), "decay_type": "linear"},
        max_grad_norm=1.0,
        seed=settings.seed,
        logging_steps=50,
        save_strategy="steps" if settings.checkpoints else "no",
        save_steps=ceil(settings.steps / (settings.checkpoints + 1)),
        save_total_limit=2,
        remove_unused_columns=False,
        report_to=[],
        dataloader_pin_memory=False,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=[_example(row, tokenizer.convert_tokens_to_ids(ASSISTANT)) for row in rows],
        data_collator=partial(_collate, pad=tokenizer.pad_token_id),
        optimizers=(
            MuonAdamW(model, settings.matrix_learning_rate, settings.learning_rate, settings.weight_decay),
            None,
        ),
        callbacks=[Completed()],
    )
    trainer.train(resume_from_checkpoint=last_complete(scratch, settings.steps))
    return model, tokenizer, sum(map(len, rows))


def _example(row: list[int], assistant: int) -> dict[str, Any]:
    start = row.index(assistant) + 1 if assistant in row else 0
    return {"input_ids": row, "labels": [IGNORED] * start + row[start:], "length": len(row)}


def _collate(examples: list[dict[str, Any]], pad: int) -> dict[str, Tensor]:
    """Padded on the right, where a causal model never looks, so that no mask is needed."""
    return {
        key: pad_sequence([torch.tensor(example[key]) for example in examples], batch_first=True, padding_value=value)
        for key, value in (("input_ids", pad), ("labels", IGNORED))
    }


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m profit.pretrain", description=__doc__.splitlines()[0])
    parser.add_argument("--world", required=True, type=json.loads, help="JSON of the study's world block")
    parser.add_argument("--pretraining", required=True, type=json.loads, help="JSON of the model's pretraining block")
    parser.add_argument("--data", required=True, type=Path, help="folder made by `generate`")
    parser.add_argument("--scratch", required=True, type=Path, help="folder for checkpoints")
    parser.add_argument("--output", required=True, type=Path, help="model folder to write")
    return parser


def main(argv: list[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = make_parser().parse_args(argv)
    world = validated(World, arguments.world, "--world")
    settings = validated(Pretraining, arguments.pretraining, "--pretraining")
    manifest = read_json(arguments.data / "world.json")
    if manifest["settings"] != json.loads(world.model_dump_json()):
        raise InputError(f"{arguments.data / 'world.json'}: found another world than --world, expected the same")
    with provenance.job("pretrain", settings.model_dump(), manifest["world"]) as job:
        fingerprint = {"world": manifest["world"], "pretraining": settings.model_dump(), "code": job.record()["code"]}
        with claim(arguments.scratch, fingerprint) as scratch:
            model, tokenizer, tokens = pretrain(world, settings, scratch)
        job.tokens(tokens, "pretrained")
        with write_folder(arguments.output) as folder:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            write_json(folder / "pretrain.json", {"parameters": model.num_parameters(), "provenance": job.record()})


if __name__ == "__main__":
    main()
