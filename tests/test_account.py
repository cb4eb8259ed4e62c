"""The account of a run against frames made by hand, its definition in a plain loop, and bad input."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from profit import account
from profit.correlate import BIN_EDGES
from profit.data import choose_references, load_annotations, load_references, token_labels
from profit.files import InputError, read_json, read_parquet, read_parquet_metadata, write_json, write_parquet
from profit.score import score_frame

RUN = {"model": "tiny", "method": "sft", "seed": 3, "references": 2, "budget": "epochs"}


def token(name: str, label: str | None, before: float, after: float, prompt: str = "a") -> tuple:
    return (name, prompt, label, np.log(before), np.log(after))


def frame(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["set", "prompt_id", "label", "before", "after"])


def cell(cells: pd.DataFrame, name: str, label: str, low: float, high: float) -> pd.Series:
    return cells[(cells.set == name) & (cells.label == label) & (cells.low == low) & (cells.high == high)].iloc[0]


def test_cells_by_hand() -> None:
    cells = account.make_cells(
        frame(
            token("held", "core", 0.05, 0.2),
            token("held", "core", 0.05, 0.05 * np.exp(0.005)),
            token("held", "replaceable", 0.05, 0.02, prompt="b"),
            token("held", "end", 0.95, 0.95 * np.exp(-0.02)),
            token("trained", "core", 0.3, 0.6),
        )
    )
    low = cell(cells, "held", "all", 0.0, 0.1)
    assert low.tokens == 3
    assert low.change == pytest.approx((np.log(4) + 0.005 + np.log(0.4)) / 3)
    assert (low.raised, low.lowered) == pytest.approx((1 / 3, 1 / 3))  # 0.005 nats is within the threshold
    assert low.probability_before == pytest.approx(0.05)
    assert low.probability_after == pytest.approx((0.2 + 0.05 * np.exp(0.005) + 0.02) / 3)
    assert cell(cells, "held", "core", 0.0, 0.1).change == pytest.approx((np.log(4) + 0.005) / 2)
    assert cell(cells, "held", "end", 0.9, 1.0).lowered == 1
    # A token belongs to the bin of the base's probability, wherever it went, and a bin holds its lower edge.
    assert cell(cells, "trained", "core", 0.3, 0.5).change == pytest.approx(np.log(2))
    assert cell(cells, "trained", "all", 0.1, 0.3).tokens == 0
    assert np.isnan(cell(cells, "trained", "all", 0.1, 0.3).change)
    assert set(cells.set) == {"trained", "held"} and len(cells) == 2 * 5 * len(BIN_EDGES)


def test_labels_and_bins_add_up() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(["core", "replaceable", "fixed", "end"], 400)
    prompts = rng.choice([f"p{i}" for i in range(20)], 400)
    before, after = rng.uniform(0.001, 1, (2, 400))
    names = rng.choice(account.SETS, 400)
    tokens = frame(*map(token, names, labels, before, after, prompts))
    cells = account.make_cells(tokens).fillna({"change": 0})
    cells["sum"] = cells.tokens * cells.change
    is_whole = (cells.low == 0) & (cells.high == 1)
    columns = ["tokens", "sum"]
    for name, own in tokens.groupby("set"):
        whole = cells[is_whole & (cells.set == name)].set_index("label")
        assert whole.tokens["all"] == len(own)
        assert whole.change["all"] == pytest.approx((own.after - own.before).mean())
        assert whole[columns].drop("all").sum().tolist() == pytest.approx(whole.loc["all", columns].tolist())
        by_bin = cells[~is_whole & (cells.set == name)].groupby("label")[columns].sum()
        assert by_bin.loc[whole.index].to_numpy() == pytest.approx(whole[columns].to_numpy())


def test_the_interval_is_of_prompts_not_of_tokens() -> None:
    """A hundred tokens of either of two prompts: each resample is one, the other or both."""
    rows = [token("held", "core", 0.5, 0.9, "a"), token("held", "core", 0.5, 0.4, "b")] * 100
    whole = cell(account.make_cells(frame(*rows)), "held", "all", 0.0, 1.0)
    assert (whole.change_low, whole.change_high) == pytest.approx((np.log(0.8), np.log(1.8)))


def test_without_labels_there_is_one_group() -> None:
    cells = account.make_cells(frame(token("held", None, 0.5, 0.6)))
    assert set(cells.label) == {"all"}


def references_with_new(path: Path) -> pd.DataFrame:
    """The references, and those of two prompts more of which all are held."""
    references = load_references(path)
    new = references[references.prompt_id.isin(["p000", "p001"])].assign(held=True)
    return pd.concat([references, new.assign(prompt_id="new" + new.prompt_id)], ignore_index=True)


def test_sets_are_those_of_the_run(references_path: Path) -> None:
    references = references_with_new(references_path)
    sets = account.assign_sets(references, RUN, unseen=[])
    keys = {name: set(own[["prompt_id", "reference_id"]].itertuples(index=False)) for name, own in sets.groupby("set")}
    trained = choose_references(load_references(references_path), 2, 3)[["prompt_id", "reference_id"]]
    assert keys["trained"] == set(trained.itertuples(index=False))
    assert {number for _, number in keys["held"]} == {3} and len(keys["held"]) == 10
    assert {prompt for prompt, _ in keys["new"]} == {"newp000", "newp001"} and len(keys["new"]) == 8
    first = account.assign_sets(references, RUN | {"choice": "first"}, unseen=[])
    assert set(first[first.set == "trained"].reference_id) == {0, 1}


def test_prompts_that_a_short_run_never_reached_count_for_nothing(references_path: Path) -> None:
    references = load_references(references_path)
    whole = account.assign_sets(references, RUN, unseen=[])
    short = account.assign_sets(references, RUN, unseen=[0, 1, 5])
    assert (short.set == "trained").sum() == (whole.set == "trained").sum() - 3
    assert "p000" not in set(short.prompt_id) and "p002" in set(short[short.set == "held"].prompt_id)


@pytest.fixture
def files(model_folder: Path, references_path: Path, annotations_path: Path, tmp_path: Path) -> dict[str, Path]:
    """Inputs of the command: scores of the base, and those of a run that are the same plus noise."""
    from profit.models import load_model, load_tokenizer

    paths = {name: tmp_path / f"{name}.parquet" for name in ("base-scores", "scores")}
    frame = load_references(references_path)
    base = score_frame(load_model(model_folder), load_tokenizer(model_folder), frame)
    noise = np.random.default_rng(0).normal(0, 0.3, len(base))
    write_parquet(paths["base-scores"], base)
    write_parquet(paths["scores"], base.assign(logprob=np.minimum(base.logprob + noise, 0).astype(np.float32)))
    return paths | {"references": references_path, "annotations": annotations_path}


def call(files: dict[str, Path | list[Path]], **changes: object) -> tuple[dict, pd.DataFrame]:
    """Run the command; its summary and its cells."""
    paths = {name: path if isinstance(path, list) else [path] for name, path in files.items()}
    outputs = {name: paths["scores"][0].with_name(f"out.{name}") for name in ("json", "parquet")}
    arguments = [part for name, listed in paths.items() for part in (f"--{name}", *map(str, listed))]
    run = ["--run", json.dumps(RUN | changes)]
    account.main([*arguments, *run, "--output", str(outputs["json"]), "--cells", str(outputs["parquet"])])
    return read_json(outputs["json"]), read_parquet(outputs["parquet"])


def test_command_is_the_definition_in_a_plain_loop(files: dict[str, Path]) -> None:
    summary, cells = call(files)
    references = load_references(files["references"])
    annotations = load_annotations(files["annotations"], references)
    keys = ["prompt_id", "reference_id"]
    trained = set(choose_references(references, 2, 3)[keys].itertuples(index=False, name=None))
    scores, base = read_parquet(files["scores"]), read_parquet(files["base-scores"])
    groups: dict[tuple, list] = {}
    for (key, own), (_, before) in zip(scores.groupby(keys), base.groupby(keys), strict=True):
        name = "trained" if key in trained else "held" if key[1] == 3 else None
        labels = token_labels(list(zip(own.start, own.end, strict=True)), annotations[key])
        for label, new, old in zip(labels, own.logprob, before.logprob, strict=True):
            number = sum(np.exp(float(old)) >= edge for edge in BIN_EDGES[1:-1])
            for part in (label, "all"):
                for low, high in ((0.0, 1.0), BIN_EDGES[number : number + 2]):
                    groups.setdefault((name, part, low, high), []).append(float(new) - float(old))
    found = cells[cells.tokens > 0].set_index(["set", "label", "low", "high"])
    expected = {key: values for key, values in groups.items() if key[0]}
    assert set(found.index) == expected.keys()
    for key, values in expected.items():
        changes = np.array(values)
        assert found.tokens[key] == len(changes)
        assert found.change[key] == pytest.approx(changes.mean(), abs=1e-6)
        assert found.raised[key] == pytest.approx((changes > 0.01).mean())
        assert found.lowered[key] == pytest.approx((changes < -0.01).mean())
    assert summary["answers"] == {"trained": 20, "held": 10}
    for name in ("trained", "held"):
        loss = -np.mean(groups[name, "all", 0.0, 1.0])
        assert summary["mean_loss_change"][name] == pytest.approx(loss, abs=1e-6)
    assert {key: summary[key] for key in RUN} == RUN and (cells.method == "sft").all() and (cells.seed == 3).all()
    assert len(summary["cells"]) == 2 * 5 and summary["threshold"] == 0.01
    assert read_parquet_metadata(files["scores"].with_name("out.parquet"))["provenance"]["rule"] == "account"


def test_a_run_that_is_its_base_changed_nothing(files: dict[str, Path]) -> None:
    summary, cells = call(files | {"scores": files["base-scores"]})
    assert summary["mean_loss_change"] == {"trained": 0, "held": 0}
    assert (cells[cells.tokens > 0][["change", "change_low", "change_high", "raised", "lowered"]] == 0).all(axis=None)


@pytest.fixture
def unseen(files: dict[str, Path], tmp_path: Path) -> dict[str, list[Path]]:
    """The inputs, each with a file of two unseen prompts beside it; the run makes their tokens less likely by half."""
    frames = {name: read_parquet(path) for name, path in files.items()}
    frames["scores"] = frames["base-scores"].assign(logprob=frames["base-scores"].logprob + np.float32(np.log(0.5)))
    frames["references"] = frames["references"].assign(held=True)
    for name, frame in frames.items():
        own = frame[frame.prompt_id.isin(["p000", "p001"]) & (frame.reference_id < 3)]
        write_parquet(tmp_path / f"unseen_{name}.parquet", own.assign(prompt_id="new_" + own.prompt_id))
    return {name: [path, tmp_path / f"unseen_{name}.parquet"] for name, path in files.items()}


def test_unseen_prompts_are_a_set_of_their_own(files: dict[str, Path], unseen: dict[str, list[Path]]) -> None:
    (before, known), (after, cells) = call(files), call(unseen)
    pd.testing.assert_frame_equal(cells[cells.set != "new"].reset_index(drop=True), known)
    assert after["answers"] == before["answers"] | {"new": 6}
    assert after["mean_loss_change"] == before["mean_loss_change"] | {"new": pytest.approx(np.log(2))}
    new = cells[(cells.set == "new") & (cells.tokens > 0)]
    assert (new.change + np.log(2)).abs().max() < 1e-6 and (new.lowered == 1).all() and (new.raised == 0).all()
    whole = new[(new.low == 0) & (new.high == 1)].set_index("label").tokens
    frame, spans = read_parquet(unseen["base-scores"][1]), load_references(unseen["references"][1]).set_index(
        ["prompt_id", "reference_id"]
    ).spans  # fmt: skip
    labels = [
        label
        for key, own in frame.groupby(["prompt_id", "reference_id"])
        for label in token_labels(list(zip(own.start, own.end, strict=True)), spans[key])
    ]
    assert whole.drop("all").to_dict() == {label: labels.count(label) for label in set(labels)}
    assert whole["all"] == len(labels) == len(frame)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda frame: frame.assign(held=frame.reference_id > 0), "found prompt new_p000 with a reference not held"),
        (lambda frame: frame.assign(prompt_id="p003"), "found prompt p003 that stands in a file before it"),
        (lambda frame: frame.assign(prompt_id=frame.prompt_id + "_"), "scores.parquet.*no score of prompt new_p000_"),
    ],
    ids=["not held", "known", "not scored"],
)
def test_files_that_are_not_of_unseen_prompts_are_named(unseen: dict[str, list[Path]], change, expected: str) -> None:
    path = unseen["references"][1]
    frame = change(read_parquet(path)).drop_duplicates(["prompt_id", "reference_id"])
    write_parquet(path, frame)
    with pytest.raises(InputError, match=expected):
        call(unseen)


def test_unseen_prompts_of_another_world_are_refused(unseen: dict[str, list[Path]]) -> None:
    write_parquet(unseen["references"][1], read_parquet(unseen["references"][1]), {"provenance": {"world": "other"}})
    with pytest.raises(InputError, match="unseen_references.parquet: found references of world other, expected None"):
        call(unseen)


def test_answers_never_reached_are_read_from_train_json(files: dict[str, Path], tmp_path: Path) -> None:
    made = {"tokens": {"trained": 9}, "cpu_seconds": 1.0, "wall_seconds": 1.0}
    write_json(tmp_path / "train.json", {"unseen": [0, 2], "provenance": made})
    assert call(files | {"train": tmp_path / "train.json"})[0]["answers"] == {"trained": 18, "held": 10}


def test_a_reference_that_is_not_scored_is_named(files: dict[str, Path]) -> None:
    scores = read_parquet(files["scores"])
    write_parquet(files["scores"], scores[(scores.prompt_id != "p004") | (scores.reference_id != 3)])
    with pytest.raises(InputError, match=r"scores.parquet: found no score of prompt p004, reference 3 \(held; 1 "):
        call(files)


def test_base_scores_of_another_tokenizer_are_named(files: dict[str, Path]) -> None:
    base = read_parquet(files["base-scores"])
    write_parquet(files["base-scores"], base.assign(token_id=base.token_id + 1))
    with pytest.raises(InputError, match="base-scores.parquet, prompt p000.*found token"):
        call(files)


def test_without_held_references_there_is_no_account(references_path: Path) -> None:
    references = load_references(references_path).assign(held=False)
    with pytest.raises(InputError, match="found no held reference"):
        account.assign_sets(references, RUN, unseen=[])


def test_more_references_than_there_are_is_an_error(files: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="expected 4"):
        call(files, references=4)
