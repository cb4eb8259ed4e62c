r"""The sources of the study `paper_smoke`, and its run with a judge: the paper's own study in small, no hub, no GPU.

A few seconds of pretraining make three models of 0.1 to 0.2 million parameters in the form in which the hub holds
Qwen3, Llama 3.1 and OLMo-2: configuration, weights and byte-level BPE tokenizer, no chat template. References and
questions stand in the columns of the real ones (tests/paper_smoke_data.py). What comes out means nothing.

    python tests/paper_smoke.py [--sources FOLDER] [--study FILE] [Snakemake's arguments …]
    python tests/paper_smoke.py --only-sources

The first makes the sources unless they are there, starts a judge on this machine (tests/judge_server.py), writes the
study with its port beside the sources and runs Snakemake on it.
"""

import argparse
import importlib
import inspect
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from paper_smoke_data import ANSWERED, answered, write_questions, write_references
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from profit.files import file_hash, read_json, write_folder, write_json

ROOT = Path(__file__).parent.parent
SOURCES = Path("results/paper_smoke/sources")
STUDY = ROOT / "workflow" / "studies" / "paper_smoke.yaml"
JUDGE, KEY = ROOT / "tests" / "judge_server.py", "PAPER_SMOKE_KEY"
PORT = 8399

DOCUMENTED = ("argparse", "calendar", "csv", "datetime", "decimal", "fractions", "json", "random", "statistics")

LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
MARKS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
ONE_DIGIT, THREE_DIGITS = LETTERS + r"\p{N}" + MARKS, LETTERS + r"\p{N}{1,3}" + MARKS
SHAPE = {
    "attention_bias": False, "attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": 64,
    "initializer_range": 0.02, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2,
    "transformers_version": "4.51.0", "use_cache": True,
}  # fmt: skip
# Of each family what its folder on the hub says; tokens are named here and written as their ids.
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3": {
        "digits": ONE_DIGIT, "vocabulary": 700, "rows": 768, "shards": None,
        "tokens": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        "config": {
            **SHAPE, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 32,
            "max_position_embeddings": 1024, "max_window_layers": 2, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
            "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None, "use_sliding_window": False,
            "tie_word_embeddings": True, "torch_dtype": "bfloat16", "bos_token_id": "<|endoftext|>",
            "eos_token_id": "<|endoftext|>",
        },
        "generation": {"bos_token_id": "<|endoftext|>", "do_sample": False, "eos_token_id": "<|endoftext|>",
                       "max_new_tokens": 2048},
        "tokenizer": {"tokenizer_class": "Qwen2Tokenizer", "add_prefix_space": False, "bos_token": None,
                      "clean_up_tokenization_spaces": False, "eos_token": "<|endoftext|>", "errors": "replace",
                      "model_max_length": 131072, "pad_token": "<|endoftext|>", "split_special_tokens": False,
                      "unk_token": None},
    },
    "llama3": {
        "digits": THREE_DIGITS, "vocabulary": 800, "rows": None, "shards": "100KB",
        "tokens": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "config": {
            **SHAPE, "architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 1024,
            "mlp_bias": False, "num_key_value_heads": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-5,
            "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                             "original_max_position_embeddings": 128, "rope_type": "llama3"},
            "rope_theta": 500000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
            "bos_token_id": "<|begin_of_text|>", "eos_token_id": "<|end_of_text|>",
        },
        "generation": {"_from_model_config": True, "bos_token_id": "<|begin_of_text|>", "do_sample": True,
                       "eos_token_id": "<|end_of_text|>", "temperature": 0.6, "top_p": 0.9},
        "tokenizer": {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin_of_text|>",
                      "clean_up_tokenization_spaces": True, "eos_token": "<|end_of_text|>",
                      "model_input_names": ["input_ids", "attention_mask"], "model_max_length": 131072},
    },
    "olmo2": {
        "digits": THREE_DIGITS, "vocabulary": 600, "rows": 640, "shards": None,
        "tokens": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"],
        "config": {
            **SHAPE, "architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2", "max_position_embeddings": 512,
            "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 500000,
            "tie_word_embeddings": False, "torch_dtype": "float32", "eos_token_id": "<|endoftext|>",
            "pad_token_id": "<|pad|>",
        },
        "generation": {"_from_model_config": True, "eos_token_id": "<|endoftext|>", "pad_token_id": "<|pad|>"},
        "tokenizer": {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "bos_token": "<|endoftext|>",
                      "clean_up_tokenization_spaces": False, "eos_token": "<|endoftext|>", "model_max_length": 8192,
                      "pad_token": "<|pad|>", "unk_token": "<|endoftext|>"},
    },
}  # fmt: skip


def text() -> list[str]:
    """Real English with numbers and code: the README, docstrings of Python's own modules, and the references."""
    found = [(ROOT / "README.md").read_text(encoding="utf-8")]
    for name in DOCUMENTED:
        module = importlib.import_module(name)
        members = [value for _, value in sorted(vars(module).items()) if getattr(value, "__module__", "") == name]
        found += [doc for doc in map(inspect.getdoc, [module, *members]) if doc]
    return found + [part[:300] for source in ANSWERED for pair in answered(source) for part in pair]


def make_tokenizer(name: str, texts: list[str]) -> Tokenizer:
    """The family's pipeline, its merges learnt from `texts`, its special tokens behind them."""
    family = FAMILIES[name]
    tokenizer = Tokenizer(models.BPE(ignore_merges=name == "llama3"))
    if name == "qwen3":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(family["digits"]), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=family["vocabulary"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(family["tokens"])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=name != "qwen3")
    if name == "llama3":
        begin = "<|begin_of_text|>"
        template = processors.TemplateProcessing(
            single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=[(begin, tokenizer.token_to_id(begin))]
        )
        tokenizer.post_processor = processors.Sequence([tokenizer.post_processor, template])
    return tokenizer


def write_model(name: str, folder: Path, texts: list[str], steps: int) -> None:
    """A folder as the hub has it, in the form of its time: transformers 4 wrote what is read here."""
    family, tokenizer = FAMILIES[name], make_tokenizer(name, texts)
    ids = {token: tokenizer.token_to_id(token) for token in family["tokens"]}

    def numbered(content: dict[str, Any]) -> dict[str, Any]:
        return {key: ids[value] if key.endswith("token_id") else value for key, value in content.items()}

    folder.mkdir()
    config = {**numbered(family["config"]), "vocab_size": family["rows"] or tokenizer.get_vocab_size()}
    write_json(folder / "config.json", config)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    end = ids[family["tokenizer"]["eos_token"]]
    pretrain(model, [token for entry in tokenizer.encode_batch(texts) for token in (*entry.ids, end)], steps)
    model.to(getattr(torch, config["torch_dtype"])).save_pretrained(folder, max_shard_size=family["shards"] or "1GB")
    # Over what today's transformers wrote beside the weights.
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", numbered(family["generation"]))
    tokenizer.save(str(folder / "tokenizer.json"))
    added = {
        str(number): {"content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                      "special": True}
        for token, number in ids.items()
    }  # fmt: skip
    write_json(folder / "tokenizer_config.json", {**family["tokenizer"], "added_tokens_decoder": added})


def pretrain(model: torch.nn.Module, tokens: list[int], steps: int, rows: int = 8, length: int = 96) -> None:
    """So many steps of AdamW on pieces of the text: enough for probabilities on both sides of a threshold."""
    stream = torch.tensor(tokens)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    for _ in range(steps):
        starts = torch.randint(len(stream) - length, (rows,))
        batch = torch.stack([stream[start : start + length] for start in starts.tolist()])
        model(input_ids=batch, labels=batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def make_sources(folder: Path, steps: int = 120) -> None:
    """Write models, pretrained for so many steps, references and questions, unless this code wrote them before."""
    maker = [file_hash(__file__), file_hash(Path(__file__).with_name("paper_smoke_data.py"))]
    if (folder / "made_by.json").is_file() and read_json(folder / "made_by.json") == maker:
        return
    disable_progress_bar()
    started, texts = time.monotonic(), text()
    with write_folder(folder) as target:
        for name in FAMILIES:
            write_model(name, target / name, texts, steps)
        write_references(target)
        write_questions(target)
        write_json(target / "made_by.json", maker)
    print(f"{folder}: made in {time.monotonic() - started:.0f} s", file=sys.stderr)


@contextmanager
def judge() -> Iterator[int]:
    """A judge's port while the block runs: the study's own if it is free, so that nothing looks changed."""
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        taken = probe.connect_ex(("127.0.0.1", PORT)) == 0
        written = Path(folder) / "port"
        options = {"--port": 0 if taken else PORT, "--port-file": written, "--stall": 3, "--hopeless": 0.05}
        command = [sys.executable, str(JUDGE), *(str(part) for option in options.items() for part in option)]
        server = subprocess.Popen(command)
        try:
            while not written.is_file() or not written.read_text():
                if server.poll() is not None:
                    sys.exit(f"The judge ended with status {server.returncode} before it gave its port.")
                time.sleep(0.05)
            yield int(written.read_text())
        finally:
            server.terminate()
            server.wait()


def run(study: Path, folder: Path, arguments: list[str]) -> int:
    """Run a study on the sources in `folder` with a judge beside it; Snakemake's exit status."""
    with judge() as port:
        content = study.read_text(encoding="utf-8").replace(str(SOURCES), str(folder))
        written = folder.parent / "study.yaml"
        written.write_text(content.replace(f":{PORT}/", f":{port}/"), encoding="utf-8")
        command = [str(Path(sys.executable).parent / "snakemake"), *arguments, "--configfile", str(written)]
        with subprocess.Popen(command, env={**os.environ, KEY: "none"}) as child:
            try:
                return child.wait()
            except KeyboardInterrupt:  # Snakemake gets it too, and ends its jobs first
                return child.wait()
            finally:
                child.terminate()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python tests/paper_smoke.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sources", type=Path, default=SOURCES, help="folder of the sources")
    parser.add_argument("--study", type=Path, default=STUDY, help="a study on these sources")
    parser.add_argument("--only-sources", action="store_true", help="make the sources and run nothing")
    arguments, others = parser.parse_known_args(argv)
    torch.set_num_threads(1)
    make_sources(arguments.sources)
    if not arguments.only_sources:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the judge and Snakemake end with this
        sys.exit(run(arguments.study, arguments.sources, others or ["--cores", "all"]))


if __name__ == "__main__":
    main()
