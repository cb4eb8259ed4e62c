"""Tokens per second of whole training steps: ProFitTrainer beside TRL's SFTTrainer, full and LoRA (rank 16).

A random model in the shape of Qwen3-0.6B, random tokens, all of them targets, the same batches for all; bf16 autocast
on a GPU, fp32 on a CPU (where only smaller shapes make sense). The learning rate is 0, at the same cost, so that the
threshold of ProFit keeps its share of the tokens throughout: of this model, not 0.1, which no token of a random one
reaches. All candidates in turn within each round; a ratio is the median over rounds of the ratio within a round.

    python -m profit.bench_step [--output results/bench/step.json]
"""

import argparse
import gc
import importlib.metadata
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback

from profit.bench import hardware
from profit.bench_heads import installed, threshold
from profit.files import InputError, write_json
from profit.trainer import ProFitTrainer

TUNINGS = ("full", "lora")
SHARE = 0.8
RANK = 16
WARM_UP = 2  # steps of each run that are not timed


@dataclass(frozen=True)
class Shape:
    """Of the model and its batches; the defaults are those of Qwen3-0.6B."""

    vocabulary: int = 151936
    hidden: int = 1024
    layers: int = 28
    heads: int = 16
    kv_heads: int = 8
    head_dim: int = 128
    intermediate: int = 3072
    batch: int = 8
    length: int = 1024
    steps: int = 10


class Clock(TrainerCallback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *arguments: Any, **others: Any) -> None:
        """Note the time, once the GPU is done."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def make_model(shape: Shape, tuning: str) -> PreTrainedModel:
    """A random model, the same on every call."""
    config = Qwen3Config(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, head_dim=shape.head_dim,
        intermediate_size=shape.intermediate, max_position_embeddings=shape.length, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    set_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen3ForCausalLM(config)
    if tuning == "full":
        return model
    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=RANK, target_modules="all-linear"))


def make_data(shape: Shape) -> Dataset:
    """Random sequences for all steps of a run."""
    size = (shape.batch * (shape.steps + WARM_UP), shape.length)
    ids = torch.randint(shape.vocabulary, size, generator=torch.Generator().manual_seed(0))
    columns = {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}
    return Dataset.from_dict({name: column.numpy() for name, column in columns.items()}).with_format("torch")


def collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Rows of one length as a batch."""
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


@torch.no_grad()
def tau_of(shape: Shape, data: Dataset) -> float:
    """The threshold above which SHARE of the targets of one batch lie."""
    model = make_model(shape, "full").eval()
    found = []
    for row in data.select(range(shape.batch)):
        ids = row["input_ids"][None].to(model.device)
        logprobs = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
        found.append(logprobs.gather(1, ids[0, 1:, None])[:, 0])
    return threshold(torch.cat(found), SHARE)


def trainers(tau: float) -> dict[str, Callable[..., Trainer]]:
    """Candidates: functions of the arguments of training, and of model, train_dataset, data_collator and callbacks."""

    def profit_trainer(objective: dict[str, Any]) -> Callable[..., Trainer]:
        def make(arguments: dict[str, Any], **others: Any) -> Trainer:
            return ProFitTrainer(args=TrainingArguments(**arguments), objective=objective, **others)

        return make

    def sft_trainer(arguments: dict[str, Any], **others: Any) -> Trainer:
        from tokenizers import Tokenizer, models
        from trl import SFTConfig, SFTTrainer

        # It wants a tokenizer, which tokenised data never meet.
        core = Tokenizer(models.WordLevel({"<pad>": 0}, unk_token="<pad>"))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<pad>")
        ready = {"dataset_kwargs": {"skip_prepare_dataset": True}, "max_length": None}
        return SFTTrainer(args=SFTConfig(**arguments, **ready), processing_class=tokenizer, **others)

    found = {
        "ours, sft": profit_trainer({"name": "sft"}),
        f"ours, profit {SHARE}": profit_trainer({"name": "profit", "tau": tau}),
    }
    return found | ({"TRL, sft": sft_trainer} if installed("TRL") else {})


def speed(make: Callable[..., Trainer], shape: Shape, tuning: str, data: Dataset) -> float:
    """Tokens per second of one run."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = {
            "output_dir": folder, "per_device_train_batch_size": shape.batch, "max_steps": shape.steps + WARM_UP,
            "learning_rate": 0.0, "lr_scheduler_type": "constant", "bf16": torch.cuda.is_available(),
            "gradient_checkpointing": False, "logging_strategy": "no", "save_strategy": "no", "report_to": [],
            "disable_tqdm": True, "remove_unused_columns": False, "seed": 0,
        }  # fmt: skip
        trainer = make(
            arguments, model=make_model(shape, tuning), train_dataset=data, data_collator=collate, callbacks=[clock]
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    del trainer
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return shape.batch * shape.length * shape.steps / (clock.ends[-1] - clock.ends[WARM_UP - 1])


def measure(shape: Shape, rounds: int) -> list[dict[str, Any]]:
    """One record a tuning and candidate: tokens per second in each round, and the ratio to TRL's with its spread."""
    data = make_data(shape)
    tau = tau_of(shape, data)
    candidates = trainers(tau)
    total, done, records = len(TUNINGS) * rounds * len(candidates), 0, []
    for tuning in TUNINGS:
        speeds: dict[str, list[float]] = {name: [] for name in candidates}
        for _ in range(rounds):
            for name, make in candidates.items():
                speeds[name].append(speed(make, shape, tuning, data))
                done += 1
                print(f"[{done} of {total}] {tuning}, {name}: {speeds[name][-1]:.0f} tokens per second", flush=True)
        for name, found in speeds.items():
            record: dict[str, Any] = {"tuning": tuning, "candidate": name, "tokens_per_second": found}
            record |= {"median": statistics.median(found), "tau": tau if "profit" in name else None}
            if "TRL, sft" in speeds and name != "TRL, sft":
                ratios = [own / other for own, other in zip(found, speeds["TRL, sft"], strict=True)]
                record |= {"ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}
            records.append(record)
    return records


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m profit.bench_step", description="Measure whole training steps.")
    parser.add_argument("--output", default="results/bench/step.json", help="JSON, all measurements")
    for name, default in asdict(Shape()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the CPU; default all cores")
    return parser


def main(argv: list[str] | None = None) -> None:
    arguments = vars(make_parser().parse_args(argv))
    for option, found in arguments.items():
        if option != "output" and found < 1:
            raise InputError(f"--{option.replace('_', '-')}: found {found}, expected at least 1")
    if arguments["heads"] % arguments["kv_heads"]:
        raise InputError(
            f"--kv-heads: found {arguments['kv_heads']}, expected a divisor of --heads = {arguments['heads']}"
        )
    torch.set_num_threads(arguments["threads"])
    shape = Shape(**{name: arguments[name] for name in asdict(Shape())})
    records = measure(shape, arguments["rounds"])
    print(f"\n{'':24}{'tokens per second':>20}   / TRL's SFTTrainer")
    for record in records:
        line = f"{record['tuning'] + ', ' + record['candidate']:24}{record['median']:20.0f}"
        if "ratio" in record:
            line += f"   {record['ratio']:.3f} ({record['ratio_min']:.3f} to {record['ratio_max']:.3f})"
        print(line)
    packages = {"torch": torch.__version__, "transformers": importlib.metadata.version("transformers")}
    if installed("TRL"):
        packages["trl"] = importlib.metadata.version("trl")
    content = {"hardware": hardware("cuda" if torch.cuda.is_available() else "cpu"), "shape": asdict(shape)}
    content |= {"rounds": arguments["rounds"], "threads": arguments["threads"], "versions": packages}
    write_json(arguments["output"], content | {"steps": records})
    print(f"\nWritten: {arguments['output']}")


if __name__ == "__main__":
    main()
