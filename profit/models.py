"""Loading of model, adapter and tokenizer folders, for every rule that takes one; a damaged folder is an InputError.

transformers and peft give errors of many kinds for a damaged folder, and for an incomplete one only a warning: weights
that are not there start at random. Here both end with a message that names the folder.

No command: used by the rules `score`, `train`, `evaluate` and `overfit`.
"""

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

from profit.data import check_tokenizer
from profit.files import InputError


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


def load_weights(folder: str | Path) -> PreTrainedModel:
    """Load a model folder in float32 on the CPU, dropout off.

    Raises:
        InputError: no model folder, or weights that are missing, incomplete, damaged or of other shapes.
    """
    _expect_file(folder, "config.json", "a Hugging Face model folder")
    # Its end tokens count; transformers passes over one that does not parse.
    if (Path(folder) / "generation_config.json").is_file():
        with _loading(folder, "a generation_config.json that does not load"):
            GenerationConfig.from_pretrained(folder)
    with _loading(folder, "weights that do not load"):
        model, found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise InputError(
            f"{folder}: found weights without {missing[0]} ({len(missing)} missing), expected all of the model"
        )
    return model


def load_model(folder: str | Path, adapter: str | Path | None = None) -> PreTrainedModel | PeftModel:
    """Load a model folder in float32, with a peft adapter on top, on the GPU where there is one; dropout off.

    Raises:
        InputError: as `load_weights`, or an adapter folder that is missing, incomplete or made for another model.
    """
    model = load_weights(folder)
    if adapter is not None:
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            _expect_file(adapter, name, "a peft adapter folder")
        with _loading(adapter, "an adapter that does not load"), warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            model = PeftModel.from_pretrained(model, adapter)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def load_run(base: str | Path, tuned: str | Path | None) -> PreTrainedModel | PeftModel:
    """Load the base model, or the run `tuned` from it: a whole model folder or a peft adapter; as `load_model`."""
    if tuned is None:
        return load_model(base)
    is_adapter = (Path(tuned) / "adapter_config.json").is_file()
    return load_model(base, tuned) if is_adapter else load_model(tuned)


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
