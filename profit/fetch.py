"""A model of the hub or of a local folder as the base of a study: its weights, with template and end token as stated.

What a base model lacks or leaves open is stated by the study, never guessed: a chat template (the base tokenizers of
Llama and OLMo have none, and a trainer that goes on without one trains no end token), the token that ends an answer
(Qwen3's base names one that its template never writes), further tokens that stop an answer when it is sampled. The
folder that comes out is an ordinary Hugging Face folder, its weights links to the source: nothing is stored twice.

    python -m profit fetch --model '{"source": "Qwen/Qwen3-0.6B-Base", "revision": "…", "end_token": "<|im_end|>"}' \\
        --output results/S/models/M
"""

import argparse
import json
import logging
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from profit import provenance
from profit.bases import WANTED, WEIGHTS, HubModel
from profit.data import check_tokenizer, encode
from profit.files import InputError, read_json, write_folder, write_json
from profit.hub import HUB_ERRORS, reason
from profit.validation import validated

log = logging.getLogger(__name__)

UNREACHABLE = (
    "is not in the cache and the hub cannot be reached: connect, or fill the cache elsewhere and set HF_HOME, or "
    "write the path of a local folder"
)


def find_model(model: HubModel) -> Path:
    """The folder of the model's files, downloaded unless it is local or in the cache.

    Raises:
        InputError: a hub id that cannot be had, with what to do about it; a folder without configuration or with some
            of its weights missing.
    """
    folder = Path(model.source)
    if not folder.is_dir():
        folder = _download(model)
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: found no config.json, expected a Hugging Face model folder")
    index = folder / "model.safetensors.index.json"
    shards = sorted(set(read_json(index)["weight_map"].values())) if index.is_file() else ["model.safetensors"]
    for shard in shards:
        if not (folder / shard).is_file():
            raise InputError(f"{folder}: found no {shard}, expected weights as safetensors ({len(shards)} files)")
    return folder


def _download(model: HubModel) -> Path:
    try:
        return Path(snapshot_download(model.source, revision=model.revision, allow_patterns=list(WANTED)))
    except HUB_ERRORS as error:
        why = reason(error, UNREACHABLE)
    raise InputError(f"model source {model.source!r}, revision {model.revision or 'newest'}: {why}")


def prepare_tokenizer(model: HubModel, folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of `folder` with the template and end token of the study.

    Raises:
        InputError: a missing template, end or stop token that the study does not give or the vocabulary does not have,
            or a template that does not write the end token after an answer.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        raise InputError(f"{folder}: found a tokenizer that does not load ({error}), expected a fast one") from error
    if model.template is not None:
        tokenizer.chat_template = model.template.read_text(encoding="utf-8")
    if model.end_token is not None:
        _token_id(tokenizer, "end_token", model.end_token)
        tokenizer.eos_token = model.end_token
    check_tokenizer(tokenizer, folder)
    try:
        encode(tokenizer, "A question?", "An answer.")
    except InputError as error:
        raise InputError(
            f"{model.source}: {error}; found the end token {tokenizer.eos_token!r}, expected a chat_template and an "
            "end_token that go together"
        ) from None
    return tokenizer


def stops(model: HubModel, folder: Path, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the tokens that end a sampled answer: the end token, the model's generation settings', the study's.

    Raises:
        InputError: a stop token that the vocabulary does not have, or none of the source where only its own are to be.
    """
    own: Any = []
    if (folder / "generation_config.json").is_file():
        own = GenerationConfig.from_pretrained(folder).eos_token_id
    own = own if isinstance(own, list) else [] if own is None else [own]
    if model.stop == "own":
        if not own:
            raise InputError(f"{folder}/generation_config.json: found no eos_token_id, expected one with stop own")
        return own
    named = [_token_id(tokenizer, "stop_tokens", token) for token in model.stop_tokens]
    return list(dict.fromkeys([tokenizer.eos_token_id, *own, *named]))


def _token_id(tokenizer: PreTrainedTokenizerBase, key: str, token: str) -> int:
    found = tokenizer.get_vocab().get(token)
    if found is None:
        raise InputError(f"{key}: found {token!r}, expected a token of the vocabulary of {tokenizer.name_or_path}")
    return found


def fetch(model: HubModel, output: str | Path) -> None:
    """Write the folder of the base model; errors as `find_model` and `prepare_tokenizer`."""
    with provenance.job("fetch", settings=model.fetched) as job:
        folder = find_model(model)
        tokenizer = prepare_tokenizer(model, folder)
        ends = stops(model, folder, tokenizer)
        with write_folder(output) as target:
            shutil.copyfile(folder / "config.json", target / "config.json")
            for pattern in WEIGHTS:
                for file in folder.glob(pattern):
                    (target / file.name).symlink_to(file.resolve())
            tokenizer.save_pretrained(target)
            settings = GenerationConfig.from_pretrained(folder) if _has_settings(folder) else GenerationConfig()
            settings.eos_token_id = ends
            settings.save_pretrained(target)
            commit = folder.name if folder.parent.name == "snapshots" else None
            write_json(target / "source.json", {**model.fetched, "commit": commit, "provenance": job.record()})
    log.info("%s: %s, commit %s, answers end with %s", output, model.source, commit, tokenizer.eos_token)


def _has_settings(folder: Path) -> bool:
    return (folder / "generation_config.json").is_file()


def make_parser() -> argparse.ArgumentParser:
    """The command line of this rule."""
    parser = argparse.ArgumentParser(prog="python -m profit fetch", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=json.loads, required=True, help="source and tokenizer options as JSON")
    parser.add_argument("--output", required=True, help="folder of the base model")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the rule."""
    logging.basicConfig(level=logging.INFO)
    arguments = make_parser().parse_args(argv)
    fetch(validated(HubModel, arguments.model, "--model"), arguments.output)


if __name__ == "__main__":
    main()
