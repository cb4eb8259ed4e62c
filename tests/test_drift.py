"""Drift of a run against plain softmaxes and weights, its invariants, adapters, bad input."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_overfit import perturbed

from profit import drift
from profit.data import LABELS, encode, load_annotations, load_references, token_labels
from profit.files import InputError, read_json, read_parquet, write_parquet
from profit.models import load_model, load_tokenizer


@pytest.fixture
def files(model_folder: Path, references_path: Path, annotations_path: Path, tmp_path: Path) -> dict[str, Path]:
    """Inputs of the command; the run is the base with noise on its weights."""
    perturbed(model_folder).save_pretrained(tmp_path / "tuned")
    paths = {"model": model_folder, "tuned": tmp_path / "tuned", "references": references_path}
    return paths | {"annotations": annotations_path, "output": tmp_path / "drift.json"}


def call(files: dict[str, object]) -> dict:
    """Run the command and read its output."""
    drift.main([part for name, value in files.items() for part in (f"--{name}", str(value))])
    return read_json(files["output"])


def expected_parts(files: dict[str, Path], tuned: torch.nn.Module) -> dict[str, list[list[float]]]:
    """Both divergences of every held target by label, an answer at a time, from whole softmaxes in float64."""
    base, tokenizer = load_model(files["model"]), load_tokenizer(files["model"])
    references = load_references(files["references"])
    annotations = load_annotations(files["annotations"], references)
    found: dict[str, list[list[float]]] = {"all": []}
    for row in references[references.held].itertuples():
        item = encode(tokenizer, row.prompt, row.answer)
        ids = torch.tensor([item.input_ids])
        with torch.no_grad():
            p, q = (model(ids).logits[0, item.prompt_length - 1 : -1].double().softmax(-1) for model in (base, tuned))
        both = torch.stack([(p * (p / q).log()).sum(-1), (q * (q / p).log()).sum(-1)], 1).tolist()
        for label, values in zip(
            token_labels(item.spans, annotations[row.prompt_id, row.reference_id]), both, strict=True
        ):
            found["all"].append(values)
            found.setdefault(label, []).append(values)
    return found


def check_parts(parts: dict[str, dict], expected: dict[str, list[list[float]]]) -> None:
    assert parts.keys() == expected.keys() == {"all", *LABELS}
    for part, values in expected.items():
        assert parts[part]["tokens"] == len(values)
        found = [parts[part][name] for name in drift.DIRECTIONS]
        assert found == pytest.approx(np.mean(values, axis=0).tolist(), rel=1e-5)


def test_the_command_is_the_definition_written_out(files: dict[str, Path]) -> None:
    found = call(files)
    check_parts(found["parts"], expected_parts(files, load_model(files["tuned"])))
    assert found["parts"]["all"]["kl_base_run"] != pytest.approx(found["parts"]["all"]["kl_run_base"], rel=0.01)
    before, after = (dict(load_model(files[name]).named_parameters()) for name in ("model", "tuned"))
    change = math.sqrt(sum(((after[name] - value).double() ** 2).sum().item() for name, value in before.items()))
    norm = math.sqrt(sum((value.double() ** 2).sum().item() for value in before.values()))
    assert found["weights"] == pytest.approx({"distance": change, "base": norm, "relative": change / norm})
    assert found["references"] == 10 and found["provenance"]["tokens"]["scored"] == found["parts"]["all"]["tokens"]


def test_an_adapter_counts_as_what_it_adds(files: dict[str, Path]) -> None:
    torch.manual_seed(0)
    adapted = get_peft_model(load_model(files["model"]), LoraConfig(r=2, target_modules=["q_proj", "up_proj"]))
    added = 0.0
    for name, module in adapted.named_modules():
        if hasattr(module, "get_delta_weight"):
            torch.nn.init.normal_(module.lora_B["default"].weight, std=0.5)
            added += module.get_delta_weight("default").double().square().sum().item()
            assert name.endswith(("q_proj", "up_proj"))
    adapted.save_pretrained(files["tuned"].with_name("adapter"))
    found = call(files | {"tuned": files["tuned"].with_name("adapter")})
    check_parts(found["parts"], expected_parts(files, adapted))
    assert found["weights"]["distance"] == pytest.approx(math.sqrt(added), rel=1e-4)


def test_the_base_itself_has_not_drifted(files: dict[str, Path]) -> None:
    found = call(files | {"tuned": files["model"]})
    assert found["weights"]["distance"] == found["weights"]["relative"] == 0 < found["weights"]["base"]
    assert all(part[name] == 0 for part in found["parts"].values() for name in drift.DIRECTIONS)


def test_divergences_are_positive_and_grow_with_the_noise(files: dict[str, Path], tmp_path: Path) -> None:
    perturbed(files["model"], std=0.01).save_pretrained(tmp_path / "near")
    far, near = call(files), call(files | {"tuned": tmp_path / "near"})
    for name in drift.DIRECTIONS:
        assert 0 < near["parts"]["all"][name] < far["parts"]["all"][name]
    assert near["weights"]["relative"] == pytest.approx(far["weights"]["relative"] / 10, rel=1e-3)


def test_a_divergence_by_hand() -> None:
    p, q = (torch.tensor([values], dtype=torch.float64).log() for values in ([0.5, 0.5, 0.0], [0.25, 0.25, 0.5]))
    assert drift.divergence(p, q).item() == pytest.approx(math.log(2))
    assert drift.divergence(q, p).item() == math.inf


def test_batches_and_chunks_change_nothing(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = call(files)["parts"]
    monkeypatch.setattr(drift, "BATCH_TOKENS", 40)
    monkeypatch.setattr(drift, "CHUNK_BYTES", 1000)
    for part, values in call(files)["parts"].items():
        assert values == pytest.approx(whole[part], rel=1e-5)


def test_without_labels_there_is_one_part_and_long_answers_are_cut(files: dict[str, Path]) -> None:
    whole = call(files)["parts"]["all"]
    del files["annotations"]
    assert call(files)["parts"] == {"all": whole}
    assert call(files | {"max-length": 24})["parts"]["all"]["tokens"] < whole["tokens"]


def test_a_compute_block_sets_the_precision_of_the_models_alone(files: dict[str, Path]) -> None:
    exact, half = call(files), call(files | {"compute": json.dumps({"precision": "bfloat16"})})
    assert half["weights"] == exact["weights"]
    assert half["parts"]["all"]["kl_base_run"] == pytest.approx(exact["parts"]["all"]["kl_base_run"], rel=0.2)
    assert half["parts"] != exact["parts"]


def test_bad_input_is_named(files: dict[str, Path], tmp_path: Path) -> None:
    write_parquet(tmp_path / "none.parquet", read_parquet(files["references"]).assign(held=False))
    with pytest.raises(InputError, match="none.parquet: found no held reference"):
        call(files | {"references": tmp_path / "none.parquet"})
    spans = read_parquet(files["annotations"])
    write_parquet(tmp_path / "few.parquet", spans[spans["prompt_id"] != "p003"])
    with pytest.raises(InputError, match="few.parquet: found nothing for prompt 'p003', reference 3, expected spans"):
        call(files | {"annotations": tmp_path / "few.parquet"})
    with pytest.raises(InputError, match="found no config.json"):
        call(files | {"tuned": tmp_path})
    model = load_model(files["model"])
    model.resize_token_embeddings(model.config.vocab_size + 3)
    model.save_pretrained(tmp_path / "wider")
    message = r"wider: model.embed_tokens.weight: found shape \(\d+, 32\), expected \(\d+, 32\) as in"
    with pytest.raises(InputError, match=message):
        call(files | {"tuned": tmp_path / "wider"})
    assert not Path(files["output"]).exists()


def test_the_parts_of_a_label_that_no_token_has_are_null() -> None:
    found = drift.parts_of(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array(["core", "end"]))
    assert found["all"] == {"tokens": 2, "kl_base_run": 2, "kl_run_base": 3}
    assert found["core"] == {"tokens": 1, "kl_base_run": 1, "kl_run_base": 2}
    assert found["fixed"] == {"tokens": 0, "kl_base_run": None, "kl_run_base": None}
    assert list(found) == ["all", *LABELS]
