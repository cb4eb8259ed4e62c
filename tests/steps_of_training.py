"""Three steps of training in float64 for every objective, in one process or several; started by test_invariance.py.

    python tests/steps_of_training.py OUTPUT BATCH_SIZE ACCUMULATION

writes losses, gradient norms, parameters and the loss of an evaluation of every case. Several processes find
each other by torch's environment variables (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT).
"""

import sys
import tempfile

import torch
from torch.utils.data import SequentialSampler
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

from profit.logits import IGNORED
from profit.objectives import OBJECTIVES
from profit.trainer import ProFitTrainer

SIZE, STEPS = 61, 3
# Thresholds at which a model that knows nothing has tokens on both sides.
SETTINGS = {
    "profit": {"tau": 0.015}, "power": {"tau": 0.01}, "random": {"share": 0.4}, "psft": {"clip_high": 0.05},
    "truth": {"keep": "replaceable"},
}  # fmt: skip
CASES = [
    {"name": name, "normaliser": normaliser} | SETTINGS.get(name, {})
    for name in OBJECTIVES
    for normaliser in ("all", "kept")
] + [
    {"name": "profit", "tau": 0.015, "direction": "lower"},
    {"name": "profit", "tau": 0.01, "direction": "middle", "tau_high": 0.02},
    {"name": "random", "share": 0.4, "redraw": "never", "normaliser": "kept"},
]


def tiny_model(seed=0):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=SIZE, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, initializer_range=0.4, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config).double()


def examples(count=24):
    """Prompts and answers of many lengths; one answer is empty, as a limit on the length may leave it."""
    generator = torch.Generator().manual_seed(7)
    found = []
    for number in range(count):
        prompt, answer = torch.randint(2, 6, (), generator=generator), torch.randint(1, 12, (), generator=generator)
        ids = torch.randint(0, SIZE, (int(prompt + answer),), generator=generator)
        labels = ids.clone()
        labels[: len(ids) if number == 5 else prompt] = IGNORED
        reference = -torch.rand(len(ids), generator=generator, dtype=torch.float64) * 6
        roles = torch.where(labels == IGNORED, IGNORED, ids % 4)
        row = {"input_ids": ids, "labels": labels, "reference_logprob": reference, "roles": roles}
        found.append({**row, "number": number})
    return found


def collate(rows, left=False):
    """A padded batch."""
    length = max(len(row["input_ids"]) for row in rows)
    batch = {
        "input_ids": torch.zeros(len(rows), length, dtype=torch.long),
        "labels": torch.full((len(rows), length), IGNORED),
        "attention_mask": torch.zeros(len(rows), length, dtype=torch.long),
        "reference_logprob": torch.zeros(len(rows), length, dtype=torch.float64),
        "roles": torch.full((len(rows), length), IGNORED),
    }
    for i, row in enumerate(rows):
        size = len(row["input_ids"])
        place = slice(length - size, length) if left else slice(0, size)
        for name in {"input_ids", "labels", "reference_logprob", "roles"} & set(row):
            batch[name][i, place] = row[name]
        batch["attention_mask"][i, place] = 1
    return batch


def numbered(rows):
    """A padded batch that says which examples are in it."""
    return collate(rows) | {"example": torch.tensor([row["number"] for row in rows])}


class Recorder(ProFitTrainer):
    """Keeps what every step logs, and takes the examples in their order."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.logged = []

    def _get_train_sampler(self, *_):
        return SequentialSampler(self.train_dataset)

    def log(self, logs, *_):
        super().log(logs)
        self.logged.append(logs)


def train(objective, batch_size, accumulation, collator=collate, dtype=torch.float64, **options):
    """Losses, gradient norms and other logs of each step; loss of an evaluation and parameters at the end."""
    needs = OBJECTIVES[objective["name"]].needs
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, max_steps=STEPS, per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation, learning_rate=0.01, logging_steps=1, report_to=[],
            save_strategy="no", use_cpu=True, disable_tqdm=True, remove_unused_columns=False, max_grad_norm=1.0,
            per_device_eval_batch_size=3, **options,
        )  # fmt: skip
        trainer = Recorder(
            model=tiny_model().to(dtype), args=arguments, train_dataset=examples(),
            data_collator=numbered if objective.get("redraw") == "never" else collator,
            objective=objective, reference_model=tiny_model(1).to(dtype) if "reference_logits" in needs else None,
        )  # fmt: skip
        trainer.train()
        # Ten examples in batches of three: several processes fill the last up with examples seen before.
        evaluated = trainer.evaluate(examples(10))["eval_loss"]
    logged = [row for row in trainer.logged if "grad_norm" in row]
    names = ("loss", "grad_norm", "kept", "cross_entropy", "weight_mean")
    parameters = torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])
    found = {name: torch.tensor([row[name] for row in logged], dtype=torch.float64) for name in names}
    if OBJECTIVES[objective["name"]].scope != "batch":
        found["evaluated"] = torch.tensor(evaluated, dtype=torch.float64)
    return found | {"parameters": parameters}


def main():
    output, batch_size, accumulation = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    found = [train(case, batch_size, accumulation) for case in CASES]
    if int(torch.distributed.get_rank() if torch.distributed.is_initialized() else 0) == 0:
        torch.save(found, output)


if __name__ == "__main__":
    main()
