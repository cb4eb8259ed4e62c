"""The rule fetch: hub-format folders with the study's template and end token; what is missing is named."""

import json
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from conftest import CHAT_TEMPLATE
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from profit import fetch, pin
from profit.data import encode
from profit.files import InputError
from profit.models import load_tokenizer, load_weights
from profit.recording import end_tokens


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


class Hub(BaseHTTPRequestHandler):
    """A hub that has nothing, and says so as the real one does: the name of a model is why."""

    def do_GET(self) -> None:
        name = next((part for part in self.path.split("/") if part in ERRORS), "broken")
        self.send_response(ERRORS[name][0])
        self.send_header("X-Error-Code", ERRORS[name][1])
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


ERRORS = {
    "gated": (403, "GatedRepo", "is gated: accept its terms on the hub, then set HF_TOKEN"),
    "missing": (404, "RepoNotFound", "is not on the hub, or is private or gated: check the id, accept its terms, set"),
    "branch": (404, "RevisionNotFound", "has no such revision: check the commit, tag or branch"),
    "refused": (418, "", "cannot be had .*418.*: try again later, or set HF_TOKEN"),
    "broken": (400, "", ""),
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", [name for name in ERRORS if name != "broken"])
def test_what_the_hub_refuses_is_one_sentence_here_and_in_pin(hub, tmp_path, name) -> None:
    with pytest.raises(InputError, match=f"^model source 'owner/{name}', revision main: {ERRORS[name][2]}") as raised:
        run(tmp_path, source=f"owner/{name}", revision="main")
    assert "\n" not in str(raised.value) and raised.value.__cause__ is None
    entry = pin.Entry(("models", "M"), "source", "model", f"owner/{name}", "main")
    with pytest.raises(InputError, match=f"^models.M: model 'owner/{name}', revision main: {ERRORS[name][2]}"):
        pin.commit_of(entry, "main")


def test_a_hub_that_does_not_answer_is_out_of_reach(hub, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="revision main: is not in the cache and the hub cannot be reached"):
        run(tmp_path, source="owner/name", revision="main")
    with pytest.raises(InputError, match="revision newest: has a commit that only the hub knows"):
        pin.commit_of(pin.Entry(("models", "M"), "source", "model", "owner/name", None), None)


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


def test_only_the_source_s_own_tokens_may_end_an_answer(bare, template, tmp_path) -> None:
    options = {"chat_template": str(template), "end_token": "<end>", "stop": "own"}
    own = GenerationConfig.from_pretrained(bare)
    own.eos_token_id = None
    own.save_pretrained(bare)
    with pytest.raises(InputError, match="found no eos_token_id, expected one with stop own"):
        fetch.fetch(fetch.HubModel(source=str(bare), **options), tmp_path / "none")
    own.eos_token_id = 1
    own.save_pretrained(bare)
    fetch.fetch(fetch.HubModel(source=str(bare), **options), tmp_path / "out")
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == [1]
    assert load_tokenizer(tmp_path / "out").eos_token == "<end>"
    assert end_tokens(GenerationConfig.from_pretrained(tmp_path / "out"), load_tokenizer(tmp_path / "out")) == [1]
    with pytest.raises(ValueError, match="expected none with stop own"):
        fetch.HubModel(source=str(bare), stop_tokens=["<user>"], **options)
