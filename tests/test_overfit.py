"""Overfitting and diversity against brute force, planted answers and bad input."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model

from profit import overfit, score
from profit.data import choose_references, encode, load_annotations, load_references, token_labels
from profit.files import InputError, read_json, read_parquet, write_json, write_parquet
from profit.models import load_model

RUN = {"model": "tiny", "method": "sft", "seed": 3, "references": 2, "budget": "epochs"}
SAMPLES = pd.DataFrame(
    [
        ("same_length", "q1", 0, "a b c"),
        ("same_length", "q1", 1, "a b d"),
        ("same_length", "q2", 0, "e f"),
        ("same_length", "q2", 1, "e f"),
        ("longer", "q1", 0, "x y z"),
    ],
    columns=["benchmark", "question_id", "sample", "text"],
)


def perturbed(folder: Path, std: float = 0.1) -> torch.nn.Module:
    """The model of a folder with noise on its weights: one that was tuned to something."""
    torch.manual_seed(1)
    model = load_model(folder)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(std * torch.randn_like(weight))
    return model


@pytest.fixture
def files(model_folder: Path, references_path: Path, annotations_path: Path, tmp_path: Path) -> dict[str, Path]:
    """Inputs of the command, the base and a perturbed model."""
    paths = {name: tmp_path / f"{name}.parquet" for name in ("base-scores", "samples")}
    paths |= {"model": model_folder, "tuned": tmp_path / "tuned", "train": tmp_path / "train.json"}
    paths |= {"references": references_path, "annotations": annotations_path}
    score.main(
        ["--model", str(model_folder), "--references", str(references_path), "--output", str(paths["base-scores"])]
    )
    perturbed(model_folder).save_pretrained(paths["tuned"])
    write_parquet(paths["samples"], SAMPLES)
    account = {"tokens": {"trained": 1234}, "cpu_seconds": 5.5, "wall_seconds": 6.0}
    write_json(paths["train"], {"unseen": [], "provenance": account})
    return paths


def call(files: dict[str, Path], **changes: object) -> dict:
    """Run the command and read its output."""
    output = files["train"].with_name("out.json")
    arguments = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    overfit.main([*arguments, "--run", json.dumps(RUN | changes), "--output", str(output)])
    return read_json(output)


def plain_losses(model: torch.nn.Module, files: dict[str, Path], rows: pd.DataFrame) -> dict[str, list[float]]:
    """Losses of every target token of `rows`, one answer at a time, by label and under "all"."""
    tokenizer, annotations = score.load_tokenizer(files["model"]), load_annotations(files["annotations"], rows)
    losses: dict[str, list[float]] = {"all": []}
    for row in rows.itertuples():
        item = encode(tokenizer, row.prompt, row.answer)
        with torch.no_grad():
            logprobs = model(torch.tensor([item.input_ids])).logits[0].double().log_softmax(-1)
        labels = token_labels(item.spans, annotations[row.prompt_id, row.reference_id])
        for place, label in enumerate(labels, item.prompt_length):
            loss = -logprobs[place - 1, item.input_ids[place]].item()
            losses["all"].append(loss)
            losses.setdefault(label, []).append(loss)
    return losses


def expected_parts(tuned: torch.nn.Module, files: dict[str, Path]) -> dict[str, dict[str, float]]:
    """The definition, written out."""
    references = load_references(files["references"])
    sets = {"trained": choose_references(references, 2, 3), "held": references[references.held]}
    models = {"nll": tuned, "base": load_model(files["model"])}
    losses = {
        f"{name}_{kind}": plain_losses(model, files, rows)
        for name, model in models.items()
        for kind, rows in sets.items()
    }
    parts = {}
    for part in ("all", "core", "replaceable"):
        means = {name: float(np.mean(values[part])) for name, values in losses.items()}
        gap = (means["nll_held"] - means["nll_trained"]) - (means["base_held"] - means["base_trained"])
        parts[part] = means | {"overfit": gap}
    return parts


def test_command_is_the_definition_written_out(files: dict[str, Path]) -> None:
    found = call(files)
    expected = expected_parts(load_model(files["tuned"]), files)
    assert found["parts"].keys() == expected.keys()
    for part, values in expected.items():
        assert found["parts"][part] == pytest.approx(values, abs=1e-5)
    assert abs(found["parts"]["all"]["overfit"]) > 1e-3
    assert {key: found[key] for key in RUN} == RUN
    assert (found["tokens_trained"], found["cpu_seconds"], found["wall_seconds"]) == (1234, 5.5, 6.0)
    assert found["provenance"]["tokens"]["scored"] > 0


def test_an_adapter_is_scored_on_its_base(files: dict[str, Path]) -> None:
    torch.manual_seed(0)
    adapted = get_peft_model(load_model(files["model"]), LoraConfig(r=2, target_modules="all-linear"))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    adapted.save_pretrained(files["tuned"].with_name("adapter"))
    found = call(files | {"tuned": files["tuned"].with_name("adapter")})
    for part, values in expected_parts(adapted, files).items():
        assert found["parts"][part] == pytest.approx(values, abs=1e-5)


def test_the_base_itself_has_no_overfit(files: dict[str, Path]) -> None:
    found = call(files | {"tuned": files["model"]})["parts"]
    assert all(values["overfit"] == pytest.approx(0, abs=1e-6) for values in found.values())
    assert found["core"]["nll_held"] != pytest.approx(found["replaceable"]["nll_held"], abs=1e-3)


def test_memorised_references_show(files: dict[str, Path]) -> None:
    """A model trained on one reference a prompt puts it far above the held one."""
    references = load_references(files["references"])
    chosen = choose_references(references, 1, 3)
    tokenizer, model = score.load_tokenizer(files["model"]), load_model(files["model"])
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    examples = [encode(tokenizer, *pair) for pair in zip(chosen.prompt, chosen.answer, strict=True)]
    for _ in range(15):
        for item in examples:
            logits = model(torch.tensor([item.input_ids])).logits[0, item.prompt_length - 1 : -1]
            torch.nn.functional.cross_entropy(logits, torch.tensor(item.input_ids[item.prompt_length :])).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(files["tuned"])
    found = call(files, references=1)["parts"]
    assert found["all"]["nll_trained"] < found["all"]["base_trained"]
    # Held and trained answers differ in their openers, the replaceable part.
    assert found["replaceable"]["overfit"] > 1


def test_parts_by_hand() -> None:
    tuned = np.array([-1.0, -3.0, -2.0, -8.0])
    base = np.array([-1.0, -1.0, -2.0, -3.0])
    held = np.array([False, True, False, True])
    labels = np.array(["core", "core", "end", "replaceable"], dtype=object)
    found = overfit.overfit_parts(tuned, base, held, labels)
    assert found["core"] == {
        "nll_trained": 1, "nll_held": 3, "base_trained": 1, "base_held": 1, "overfit": 2
    }  # fmt: skip
    assert found["all"]["overfit"] == (5.5 - 1.5) - (2 - 1.5)
    assert found["replaceable"]["nll_trained"] is None and found["replaceable"]["overfit"] is None


def test_diversity_by_hand() -> None:
    # Word pairs: ab bc | ab bd | ef | ef: 4 distinct of 6. Distances: q1 1 - 1/3, q2 0.
    answers = SAMPLES[SAMPLES.benchmark == "same_length"]
    found = overfit.diversity(answers.question_id.tolist(), answers.text.tolist())
    assert found == pytest.approx({"distinct_2": 4 / 6, "pair_distance": (2 / 3 + 0) / 2})


def test_diversity_of_three_answers_averages_their_pairs() -> None:
    found = overfit.diversity(["q"] * 3, ["a b", "a b", "c d"])
    assert found["pair_distance"] == pytest.approx(2 / 3)


def test_diversity_without_pairs_is_null() -> None:
    assert overfit.diversity(["q"], ["a"]) == {"distinct_2": None, "pair_distance": None}
    assert overfit.diversity(["q", "q"], ["", "a"])["pair_distance"] == 0


def test_command_reads_the_answers_of_its_benchmark_alone(files: dict[str, Path]) -> None:
    assert call(files)["diversity"]["distinct_2"] == pytest.approx(4 / 6)
    write_parquet(files["samples"], SAMPLES[SAMPLES.benchmark == "longer"])
    with pytest.raises(InputError, match="samples.parquet, column benchmark: found no 'same_length'"):
        call(files)


def test_another_benchmark_can_be_named(files: dict[str, Path]) -> None:
    assert call(files | {"benchmark": "longer"})["diversity"]["distinct_2"] == 1


def test_without_labels_there_is_one_part(files: dict[str, Path]) -> None:
    labelled = call(files)["parts"]
    del files["annotations"]
    assert call(files)["parts"] == {"all": labelled["all"]}


def test_answers_are_cut_as_the_scores_of_the_base_are(files: dict[str, Path]) -> None:
    whole, arguments = call(files), ["--model", "--references"]
    given = [part for name in arguments for part in (name, str(files[name[2:]]))]
    score.main([*given, "--max-length", "24", "--output", str(files["base-scores"])])
    with pytest.raises(InputError, match="base-scores.parquet, prompt p000, .*found no row"):
        call(files)
    found = call(files | {"max-length": 24})
    assert found["provenance"]["tokens"]["scored"] < whole["provenance"]["tokens"]["scored"]
    assert found["parts"]["all"] != whole["parts"]["all"] and found["parts"]["core"]["overfit"] is not None


def test_the_first_references_are_those_that_the_run_trained_on(files: dict[str, Path]) -> None:
    references = load_references(files["references"])
    chosen = overfit.select_references(references, 1, 3, unseen=[], choice="first")
    assert (chosen[~chosen.held].reference_id == 0).all() and chosen.held.sum() == references.prompt_id.nunique()
    assert call(files, references=1)["parts"] != call(files, references=1, choice="first")["parts"]


def test_selection_is_the_runs_own_and_holds_the_held(references_path: Path) -> None:
    references = load_references(references_path)
    chosen = overfit.select_references(references, 2, 3, unseen=[])
    assert chosen.groupby("prompt_id").held.sum().eq(1).all() and len(chosen) == 3 * references.prompt_id.nunique()
    trained = choose_references(references, 2, 3)[["prompt_id", "reference_id"]]
    found = chosen.loc[~chosen.held, ["prompt_id", "reference_id"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, trained)


def test_answers_that_a_short_run_never_reached_count_for_nothing(references_path: Path) -> None:
    references = load_references(references_path)
    trained = choose_references(references, 2, 3)
    chosen = overfit.select_references(references, 2, 3, unseen=[0, 3])
    found = chosen.loc[~chosen.held, ["prompt_id", "reference_id"]].apply(tuple, axis=1)
    gone = trained.loc[[0, 3], ["prompt_id", "reference_id"]].apply(tuple, axis=1)
    assert len(found) == len(trained) - 2 and not set(found) & set(gone)


def test_more_references_than_there_are_is_an_error(files: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="expected 4"):
        call(files, references=4)


def test_without_held_references_there_is_no_overfit(files: dict[str, Path]) -> None:
    frame = load_references(files["references"]).assign(held=False)
    with pytest.raises(InputError, match="found no held reference"):
        overfit.select_references(frame, 2, 3, unseen=[])


@pytest.mark.parametrize(
    ("row", "column", "value", "message"),
    [
        (5, "token_id", 0, "position 5: found token 0, expected token"),
        (5, "position", 900, "position 5: found no row"),
        (5, "logprob", np.nan, "column logprob: found nan"),
    ],
)
def test_scores_of_another_base_are_named(
    files: dict[str, Path], row: int, column: str, value: float, message: str
) -> None:
    scores = read_parquet(files["base-scores"])
    scores = scores[scores.reference_id == 3].reset_index(drop=True)  # the held ones are scored whatever is chosen
    scores.loc[row, column] = value
    others = read_parquet(files["base-scores"])
    write_parquet(files["base-scores"], pd.concat([others[others.reference_id != 3], scores]))
    with pytest.raises(InputError, match=f"base-scores.parquet, prompt p000, reference 3.*{message}"):
        call(files)


def test_a_train_record_without_account_is_named(files: dict[str, Path]) -> None:
    write_json(files["train"], {"unseen": [], "provenance": {"tokens": {}}})
    with pytest.raises(InputError, match="train.json: found no 'trained'"):
        call(files)
    files["train"].write_text('{"provenance": ')
    with pytest.raises(InputError, match="train.json: found a truncated"):
        call(files)


@pytest.mark.parametrize("text", ["{", "[]", '{"model":"m"}'])
def test_a_run_that_is_none_is_an_error(text: str) -> None:
    with pytest.raises(InputError, match="--run: found"):
        overfit.parse_run(text)
