"""The miniature's base model: an ordinary folder, resumed to the same weights, trained by two optimizers as one."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from profit import generate, pretrain
from profit.data import check_tokenizer
from profit.files import InputError, read_json
from profit.miniature.optimizer import MuonAdamW
from profit.miniature.world import Pretraining, World

WORLD = World()
SMALL = Pretraining(
    steps=6, documents_per_step=4, layers=1, hidden=16, intermediate=32, heads=2, kv_heads=1, checkpoints=2
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "data"
    settings = json.dumps({"prompts": 5, "references": 4, "held": 1, "careful": 3})
    generate.main(["--world", "{}", "--data", settings, "--benchmarks", "[]", "--output-folder", str(folder)])
    return folder


def _run(data: Path, folder: Path, settings: Pretraining = SMALL) -> Path:
    options = {"--world": WORLD.model_dump_json(), "--pretraining": settings.model_dump_json(), "--data": str(data),
               "--scratch": str(folder / "scratch"), "--output": str(folder / "model")}  # fmt: skip
    pretrain.main([part for option in options.items() for part in option])
    return folder / "model"


def test_the_folder_is_an_ordinary_one(data: Path, tmp_path: Path):
    folder = _run(data, tmp_path)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    check_tokenizer(tokenizer, folder)
    assert GenerationConfig.from_pretrained(folder).eos_token_id == tokenizer.eos_token_id == model.config.eos_token_id
    assert (folder / "model.safetensors").exists() and not (tmp_path / "scratch").exists()
    assert tokenizer.decode(tokenizer("Then, 5 + 7 = 12 pens.")["input_ids"]) == "Then, 5 + 7 = 12 pens."
    record = read_json(folder / "pretrain.json")
    assert record["provenance"]["tokens"]["pretrained"] > 100 and record["provenance"]["world"]


def test_a_stopped_run_goes_on_to_the_same_weights(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = AutoModelForCausalLM.from_pretrained(_run(data, tmp_path / "whole")).state_dict()
    save = pretrain.Completed.on_save

    def save_then_die(self, args, state, control, **rest):
        save(self, args, state, control, **rest)
        if state.global_step >= 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pretrain.Completed, "on_save", save_then_die)
        with pytest.raises(KeyboardInterrupt):
            _run(data, tmp_path / "stopped")
    assert (tmp_path / "stopped" / "scratch" / "checkpoint-4").exists()
    shutil.rmtree(tmp_path / "stopped" / "scratch" / "checkpoint-2", ignore_errors=True)
    resumed = AutoModelForCausalLM.from_pretrained(_run(data, tmp_path / "stopped")).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_data_of_another_world_is_refused(data: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"world.json: found another world"):
        pretrain.main(["--world", '{"seed": 5}', "--pretraining", SMALL.model_dump_json(), "--data", str(data),
                       "--scratch", str(tmp_path / "s"), "--output", str(tmp_path / "m")])  # fmt: skip


def test_a_context_too_short_for_the_documents_is_refused(data: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"pretraining.context: found 20, expected at least"):
        _run(data, tmp_path, SMALL.model_copy(update={"context": 20}))


def test_the_optimizer_does_what_its_parts_do_alone():
    torch.manual_seed(0)
    one = torch.nn.Sequential(torch.nn.Embedding(7, 4), torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    two = torch.nn.Sequential(torch.nn.Embedding(7, 4), torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    two.load_state_dict(one.state_dict())
    both = MuonAdamW(one, matrix_rate=0.02, rate=0.01, weight_decay=0.1)
    muon = torch.optim.Muon([two[1].weight], lr=0.02, weight_decay=0.1)
    adamw = torch.optim.AdamW(
        [two[0].weight, two[1].bias, *two[2].parameters()], lr=0.01, betas=(0.9, 0.95), weight_decay=0.0
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(both, lambda step: 0.5**step)
    for step in range(3):
        for model, optimizers in ((one, [both]), (two, [muon, adamw])):
            model(torch.arange(7)).square().sum().backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        schedule.step()
        muon.param_groups[0]["lr"], adamw.param_groups[0]["lr"] = 0.02 * 0.5 ** (step + 1), 0.01 * 0.5 ** (step + 1)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b)
