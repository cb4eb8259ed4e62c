"""The rule fetch: hub-format folders with the study's template and end token; what is missing is named."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import CHAT_TEMPLATE
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from profit import fetch
from profit.data import encode
from profit.files import InputError
from profit.models import load_tokenizer, load_weights


@pytest.fixture
def bare(model_folder: Path, tmp_path: Path) -> Path:
    """The model as a base often comes: no chat template, and an end token that no template writes."""
    folder = shutil.copytree(model_folder, tmp_path / "bare")
    (folder / "chat_template.jinja").unlink()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = "<pad>"
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "chat.jinja"
    path.write_text(CHAT_TEMPLATE)
    return path


def run(tmp_path: Path, **model: object) -> Path:
    fetch.main(
        ["--model", json.dumps({key: str(value) for key, value in model.items()}), "--output", str(tmp_path / "out")]
    )
    return tmp_path / "out"


def test_the_folder_has_the_weights_and_the_stated_tokenizer(bare: Path, template: Path, tmp_path: Path) -> None:
    out = run(tmp_path, source=bare, chat_template=template, end_token="<end>")
    tokenizer = load_tokenizer(out)
    assert (tokenizer.eos_token, tokenizer.chat_template) == ("<end>", CHAT_TEMPLATE)
    encoded = encode(tokenizer, "How many ?", "The answer is 3 .")
    assert encoded.input_ids[-1] == tokenizer.convert_tokens_to_ids("<end>")
    before = AutoModelForCausalLM.from_pretrained(bare).state_dict()
    after = load_weights(out).state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert (out / "model.safetensors").is_symlink()
    record = json.loads((out / "source.json").read_text())
    assert record["source"] == str(bare) and record["provenance"]["rule"] == "fetch"


def test_answers_stop_at_the_models_own_end_and_at_the_stated_tokens(
    bare: Path, template: Path, tmp_path: Path
) -> None:
    own = GenerationConfig.from_pretrained(bare)
    own.eos_token_id = [2, 1]
    own.save_pretrained(bare)
    model = fetch.HubModel(source=str(bare), chat_template=str(template), end_token="<end>", stop_tokens=["<user>"])
    fetch.fetch(model, tmp_path / "out")
    tokenizer = load_tokenizer(tmp_path / "out")
    expected = [tokenizer.convert_tokens_to_ids(token) for token in ("<end>", "<unknown>", "<user>")]
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == expected


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"end_token": "<end>"}, "found a tokenizer without a chat template"),
        ({"chat_template": "TEMPLATE"}, "found no end token after the answer.*found the end token '<pad>'"),
        (
            {"chat_template": "TEMPLATE", "end_token": "<stop>"},
            "end_token: found '<stop>', expected a token of the voc",
        ),
        ({"chat_template": "no.jinja"}, "chat_template: found no file no.jinja"),
    ],
)
def test_what_a_tokenizer_lacks_is_never_made_up(bare, template, tmp_path, model, message) -> None:
    model = {key: template if value == "TEMPLATE" else value for key, value in model.items()}
    with pytest.raises(InputError, match=message):
        run(tmp_path, source=bare, **model)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "Qwen/Qwen3-0.6B-Base",
            "'Qwen/Qwen3-0.6B-Base', revision main: is not in the cache and the hub cannot be reached",
        ),
        ("no//where/at/all", "is neither a folder nor an id of the hub"),
    ],
)
def test_a_hub_id_that_cannot_be_had_says_what_to_do(tmp_path, monkeypatch, source, message) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=message) as raised:
        run(tmp_path, source=source, revision="main")
    assert raised.value.__cause__ is None or "Traceback" not in str(raised.value)


def test_a_missing_shard_is_named(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    shutil.copytree(model_folder, folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    out = run(tmp_path, source=folder)
    assert load_weights(out).state_dict().keys() == model.state_dict().keys()
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(InputError, match=f"found no {shard.name}, expected weights"):
        run(tmp_path, source=folder)


def test_unknown_options_are_refused(tmp_path: Path, model_folder: Path) -> None:
    with pytest.raises(InputError, match="--model: found .endtoken., expected one of source"):
        run(tmp_path, source=model_folder, endtoken="<end>")
