"""A damaged or incomplete folder of a model, tokenizer or adapter is named, by the loaders and by the rules."""

import hashlib
import json
import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from profit import evaluate, models, overfit, score
from profit.files import InputError, canonical_json, write_json, write_parquet


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the model to damage."""
    return shutil.copytree(model_folder, tmp_path / "bad")


@pytest.fixture
def adapter(model_folder: Path, tmp_path: Path) -> Path:
    """An adapter of the model, rank 2."""
    settings = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    path = tmp_path / "adapter"
    get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder), settings).save_pretrained(path)
    return path


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change(**settings: object) -> Callable[[Path], None]:
    return lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def drop_tensor(path: Path) -> None:
    tensors = load_file(path)
    del tensors[sorted(tensors)[3]]
    save_file(tensors, path, metadata={"format": "pt"})


WEIGHTS = [
    ("config.json", remove, "found no config.json, expected a Hugging Face model folder"),
    ("config.json", cut, "found weights that do not load .*not a valid JSON"),
    ("config.json", change(model_type="foo"), "found weights that do not load .*foo"),
    ("config.json", change(intermediate_size=48), "found weights that do not load"),
    ("model.safetensors", remove, "found weights that do not load .*no file named model.safetensors"),
    ("model.safetensors", cut, "found weights that do not load .*expected a whole model folder"),
    ("model.safetensors", drop_tensor, r"found weights without model\.layers\.0\.\S+ \(1 missing\), expected all"),
    ("generation_config.json", cut, "found a generation_config.json that does not load"),
]


@pytest.mark.parametrize(("file", "damage", "message"), WEIGHTS)
def test_damaged_weights_are_named(folder: Path, file: str, damage: Callable, message: str) -> None:
    damage(folder / file)
    for load in (models.load_model, models.load_weights):
        with pytest.raises(InputError, match=f"(?s)bad: {message}"):
            load(folder)


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("config.json", remove, "found no config.json"),
        ("tokenizer.json", remove, "found no tokenizer.json, expected a fast tokenizer"),
        ("tokenizer_config.json", remove, "found no tokenizer_config.json, expected a fast tokenizer"),
        ("tokenizer.json", cut, "found a tokenizer that does not load"),
        ("tokenizer.json", change(model={"type": "foo"}), "found a tokenizer that does not load"),
        ("tokenizer_config.json", cut, "found a tokenizer that does not load"),
        ("tokenizer_config.json", change(eos_token=None), "found a tokenizer without an end token"),
        ("chat_template.jinja", remove, "found a tokenizer without a chat template"),
    ],
)
def test_a_damaged_tokenizer_is_named(folder: Path, file: str, damage: Callable, message: str) -> None:
    damage(folder / file)
    with pytest.raises(InputError, match=f"(?s)bad: {message}"):
        models.load_tokenizer(folder)


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("adapter_config.json", remove, "found no adapter_config.json, expected a peft adapter folder"),
        ("adapter_model.safetensors", remove, "found no adapter_model.safetensors, expected a peft adapter folder"),
        ("adapter_config.json", cut, "found an adapter that does not load"),
        ("adapter_model.safetensors", cut, "found an adapter that does not load"),
        ("adapter_config.json", change(r=4), "found an adapter that does not load .*size mismatch"),
        ("adapter_config.json", change(target_modules=["foo"]), "found an adapter that does not load .*foo"),
        ("adapter_model.safetensors", drop_tensor, "found an adapter that does not load .*missing adapter keys"),
    ],
)
def test_a_damaged_adapter_is_named(
    model_folder: Path, adapter: Path, file: str, damage: Callable, message: str
) -> None:
    damage(adapter / file)
    with pytest.raises(InputError, match=f"(?s)adapter: {message}"):
        models.load_model(model_folder, adapter)


def test_context_length_is_that_of_the_configuration(folder: Path) -> None:
    assert models.context_length(folder) == 64
    cut(folder / "config.json")
    with pytest.raises(InputError, match="bad: found a configuration that does not load"):
        models.context_length(folder)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    for load in (models.load_tokenizer, models.load_model, models.context_length):
        with pytest.raises(InputError, match="none: found no config.json"):
            load(tmp_path / "none")


def test_whole_folders_load_as_transformers_and_peft_load_them(model_folder: Path, adapter: Path) -> None:
    plain = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).state_dict()
    for load in (models.load_weights, models.load_model):
        model = load(model_folder)
        assert not model.training and model.dtype == torch.float32
        assert all(torch.equal(value.cpu(), plain[name]) for name, value in model.state_dict().items())
    tensors = load_file(adapter / "adapter_model.safetensors")
    adapted = {
        name.replace(".default.", "."): value.cpu()
        for name, value in models.load_model(model_folder, adapter).state_dict().items()
    }
    assert tensors and all(torch.equal(adapted[name], value) for name, value in tensors.items())


def test_compute_decides_precision_and_attention(model_folder: Path, adapter: Path) -> None:
    compute = models.parse_compute('{"precision": "bfloat16", "attention": "eager"}')
    base = models.load_run(model_folder, None, compute)
    assert base.dtype == torch.bfloat16 and base.config._attn_implementation == "eager"
    # What trains stays in float32, and so does an adapter.
    assert models.load_weights(model_folder, compute).dtype == torch.float32
    kinds = {name: value.dtype for name, value in models.load_run(model_folder, adapter, compute).named_parameters()}
    for name, kind in kinds.items():
        assert kind == (torch.float32 if "lora_" in name else torch.bfloat16), name
    assert models.load_run(model_folder, model_folder, compute).dtype == torch.bfloat16
    plain = models.load_run(model_folder, adapter)
    assert {value.dtype for value in plain.parameters()} == {torch.float32}
    assert plain.get_base_model().config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "--compute: found '{' .*expected JSON"),
        ("[]", "--compute: found"),
        ('{"precision": "float16"}', "--compute.precision: found 'float16', expected one of float32, bfloat16"),
        ('{"processes": 0}', "--compute.processes: found 0"),
        ('{"gpus": 2}', "--compute: found 'gpus', expected one of precision"),
    ],
)
def test_a_wrong_block_of_compute_is_named(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        models.parse_compute(text)


def test_linked_weights_are_known_by_the_name_of_what_they_link_to(folder: Path, tmp_path: Path) -> None:
    before = models.weights_hash(folder)
    (folder / "source.json").write_text('{"provenance": {"started": "today"}}')
    assert models.weights_hash(folder) == before
    (folder / "source.json").unlink()
    assert before.keys() == {file.name for file in folder.iterdir()}
    weights, stored = folder / "model.safetensors", hashlib.sha256((folder / "model.safetensors").read_bytes())
    blob = tmp_path / stored.hexdigest()
    weights.rename(blob)
    weights.symlink_to(blob)
    assert models.weights_hash(folder) == before
    # Not read: what is written into it is not seen. A link to a file of another name is.
    blob.write_bytes(b"other")
    assert models.weights_hash(folder) == before
    weights.unlink()
    weights.symlink_to(blob.rename(tmp_path / "blob"))
    assert models.weights_hash(folder) != before


def test_padding_is_the_pad_token_or_the_end_token(model_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    assert models.pad_token(tokenizer) == tokenizer.convert_tokens_to_ids("<pad>")
    tokenizer.pad_token = None
    assert models.pad_token(tokenizer) == tokenizer.convert_tokens_to_ids("<end>")


def test_score_names_a_damaged_model(folder: Path, references_path: Path, tmp_path: Path) -> None:
    cut(folder / "model.safetensors")
    with pytest.raises(InputError, match="bad: found weights that do not load"):
        score.main(["--model", str(folder), "--references", str(references_path), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["whole", "adapter"])
def test_evaluate_names_a_damaged_run(model_folder: Path, folder: Path, adapter: Path, kind: str) -> None:
    tuned, file = (folder, "model.safetensors") if kind == "whole" else (adapter, "adapter_model.safetensors")
    cut(tuned / file)
    with pytest.raises(InputError, match=f"{tuned.name}: found .* not load"):
        evaluate.load_merged(Namespace(model=str(model_folder), tuned=str(tuned), compute=models.PLAIN))


def test_overfit_names_a_damaged_run(
    model_folder: Path, folder: Path, references_path: Path, annotations_path: Path, tmp_path: Path
) -> None:
    files = {"model": model_folder, "tuned": folder, "references": references_path, "annotations": annotations_path}
    files |= {"base-scores": tmp_path / "scores", "train": tmp_path / "train.json", "samples": tmp_path / "samples"}
    files |= {"output": tmp_path / "out"}
    score.main(
        ["--model", str(model_folder), "--references", str(references_path), "--output", str(tmp_path / "scores")]
    )
    write_json(
        files["train"],
        {"unseen": [], "provenance": {"tokens": {"trained": 1}, "cpu_seconds": 1.0, "wall_seconds": 1.0}},
    )
    columns = {"benchmark": ["same_length"], "question_id": ["q"], "text": ["a b"]}
    write_parquet(files["samples"], pd.DataFrame(columns))
    run = {"model": "tiny", "method": "sft", "seed": 0, "references": 1, "budget": "epochs"}
    cut(folder / "model.safetensors")
    with pytest.raises(InputError, match="bad: found weights that do not load"):
        overfit.main(
            ["--run", canonical_json(run), *(part for key, path in files.items() for part in (f"--{key}", str(path)))]
        )
    assert not files["output"].exists()
