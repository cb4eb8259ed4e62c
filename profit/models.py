"""Loading of model, adapter and tokenizer folders, for every rule that takes one; a damaged folder is an InputError.

transformers and peft give errors of many kinds for a damaged folder, and for an incomplete one only a warning: weights
that are not there start at random. Here both end with a message that names the folder.

No command: used by the rules `score`, `train`, `evaluate` and `overfit`.
"""

import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from profit.bases import Compute
from profit.data import check_tokenizer
from profit.files import InputError, file_hash
from profit.validation import validated

PLAIN = Compute()


def parse_compute(text: str) -> Compute:
    """How a model is held and run, from the JSON of --compute; InputError for what is no such block."""
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"--compute: found {text!r} ({error}), expected JSON") from None
    return validated(Compute, content, "--compute")


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder.

    Raises:
        InputError: no model folder, a tokenizer that is missing, does not load or is refused by `check_tokenizer`.
    """
    _expect_file(folder, "config.json", "a Hugging Face model folder")
    # Without these files some classes make up an empty vocabulary or another end token.
    for name in ("tokenizer.json", "tokenizer_config.json"):
        _expect_file(folder, name, "a fast tokenizer beside the model")
    with _loading(folder, "a tokenizer that does not load"):
        tokenizer = AutoTokenizer.from_pretrained(folder)
    check_tokenizer(tokenizer, folder)
    return tokenizer


def context_length(folder: str | Path) -> int:
    """Most tokens of a text that the model in `folder` takes; InputError if its configuration does not say."""
    _expect_file(folder, "config.json", "a Hugging Face model folder")
    with _loading(folder, "a configuration that does not load"):
        return AutoConfig.from_pretrained(folder).max_position_embeddings


def load_weights(folder: str | Path, compute: Compute = PLAIN, frozen: bool = False) -> PreTrainedModel:
    """Load a model folder on the CPU, dropout off: in float32, or in the precision of `compute` if it stays `frozen`.

    Raises:
        InputError: no model folder, or weights that are missing, incomplete, damaged or of other shapes.
    """
    _expect_file(folder, "config.json", "a Hugging Face model folder")
    # Its end tokens count; transformers passes over one that does not parse.
    if (Path(folder) / "generation_config.json").is_file():
        with _loading(folder, "a generation_config.json that does not load"):
            GenerationConfig.from_pretrained(folder)
    # What transformers takes by itself is sdpa, or eager for a model that has none.
    attention = None if compute.attention == "sdpa" else compute.attention
    with _loading(folder, "weights that do not load"):
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, compute.precision) if frozen else torch.float32,
            attn_implementation=attention,
            output_loading_info=True,
        )
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise InputError(
            f"{folder}: found weights without {missing[0]} ({len(missing)} missing), expected all of the model"
        )
    return model


def load_model(
    folder: str | Path, adapter: str | Path | None = None, compute: Compute = PLAIN
) -> PreTrainedModel | PeftModel:
    """Load a model folder as `compute` says, with a float32 peft adapter on top, on the GPU where there is one.

    Dropout is off.

    Raises:
        InputError: as `load_weights`, or an adapter folder that is missing, incomplete or made for another model.
    """
    model = load_weights(folder, compute, frozen=True)
    if adapter is not None:
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            _expect_file(adapter, name, "a peft adapter folder")
        with _loading(adapter, "an adapter that does not load"), warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            model = PeftModel.from_pretrained(model, adapter)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def load_run(base: str | Path, tuned: str | Path | None, compute: Compute = PLAIN) -> PreTrainedModel | PeftModel:
    """Load the base model, or the run `tuned` from it: a whole model folder or a peft adapter; as `load_model`."""
    if tuned is None:
        return load_model(base, compute=compute)
    is_adapter = (Path(tuned) / "adapter_config.json").is_file()
    return load_model(base, tuned, compute) if is_adapter else load_model(tuned, compute=compute)


def weights_hash(folder: str | Path) -> dict[str, str]:
    """First 16 hexadecimal digits of the SHA-256 of every file in a model folder, by name.

    Weights linked from a cache of the hub, where files are called by their SHA-256, are not read.
    """
    found = {}
    # Where a folder came from and when (source.json) is no part of the model.
    for file in sorted(file for file in Path(folder).iterdir() if file.is_file() and file.name != "source.json"):
        stored = file.resolve().name
        known = file.is_symlink() and re.fullmatch("[0-9a-f]{64}", stored)
        found[file.name] = stored[:16] if known else file_hash(file)
    return found


def pad_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Any token serves: what lies to the right of a text is neither seen nor trained on."""
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def _expect_file(folder: str | Path, name: str, expected: str) -> None:
    if not (Path(folder) / name).is_file():
        raise InputError(f"{folder}: found no {name}, expected {expected}")


@contextmanager
def _loading(folder: str | Path, found: str) -> Iterator[None]:
    """Whatever a library raises while it reads `folder` becomes an InputError."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{folder}: found {found} ({reason}), expected a whole model folder") from error
