"""Commits in study files: every id of the hub, both styles of YAML, comments and layout kept, nothing half done."""

import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import OfflineModeIsEnabled

from profit import pin
from profit.files import InputError
from profit.study import load_study, main

PINNED = "0123456789abcdef0123456789abcdef01234567"
STUDY = """\
# A study.
name: pins   # its name

models:
  # A base in block style,
  First-Base:
    source: owner/first  # the id
    revision: main  # what is newest
    end_token: <|end|>
  Second-Base: {source: "owner/second", end_token: <|end|>}   # one in a line,
  Third-Base:
    end_token: <|end|>
    compute: {precision: bfloat16}
    source: owner/third # with nothing behind,
  Fourth-Base: {source: owner/fourth, revision: PINNED}
  Fifth-Base: {source: FOLDER}
  Sixth-Base: {revision: , source: owner/sixth}

data:
  sources:
    - hub: owner/data

      split: train
    - {file: local.jsonl}

methods: {sft: {objective: sft}}

benchmarks:
  gsm8k: {task: paper_gsm8k, max_new_tokens: 9,
          source: &test {hub: owner/gsm8k, config: main, split: test, revision: v1}}
  gsm8k_official:
    task: paper_gsm8k_official
    max_new_tokens: 9
    source: *test
    options: {train: {hub: owner/gsm8k, config: main, split: train, revision: 'v1'}}

analysis: {annotators: []}
"""


def commit(kind: str, name: str, revision: str | None) -> str:
    return hashlib.sha1(f"{kind} {name} {revision}".encode()).hexdigest()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str | None]]:
    """What was asked of the hub, whose commits are `commit`."""
    questions = []

    def answer(kind):
        def info(self, name, revision=None):
            questions.append((kind, name, revision))
            return SimpleNamespace(sha=commit(kind, name, revision))

        return info

    api = type("Api", (), {"model_info": answer("model"), "dataset_info": answer("dataset")})
    monkeypatch.setattr(pin, "HfApi", api)
    return questions


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "pins.yaml"
    path.write_text(STUDY.replace("PINNED", PINNED).replace("FOLDER", str(tmp_path)))
    return path


def expected(text: str) -> str:
    first, second, third = (commit("model", f"owner/{name}", None) for name in ("first", "second", "third"))
    for old, new in (
        ("revision: main  # what", f"revision: {commit('model', 'owner/first', 'main')}  # what"),
        ('"owner/second",', f'"owner/second", revision: {second},'),
        (
            "    source: owner/third # with nothing behind,\n",
            f"    source: owner/third # with nothing behind,\n    revision: {third}\n",
        ),
        ("{revision: ,", f"{{revision: {commit('model', 'owner/sixth', None)} ,"),
        (
            "    - hub: owner/data\n",
            f"    - hub: owner/data\n      revision: {commit('dataset', 'owner/data', None)}\n",
        ),
        ("revision: v1}}", f"revision: {commit('dataset', 'owner/gsm8k', 'v1')}}}}}"),
        ("revision: 'v1'", f"revision: {commit('dataset', 'owner/gsm8k', 'v1')}"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def test_every_id_gets_its_commit_and_all_else_stays(study, asked, capsys) -> None:
    before = study.read_text()
    main(["pin", str(study)])
    assert study.read_text() == expected(before)
    said = capsys.readouterr().out
    assert f"models.First-Base: model 'owner/first', revision main: {commit('model', 'owner/first', 'main')}" in said
    assert f"{study}: 8 commits written" in said
    assert sorted(asked, key=str) == sorted(set(asked), key=str), "an id was asked for twice"
    assert not {("model", "owner/fourth", PINNED), ("model", "owner/fourth", None)} & set(asked)
    found = load_study(study)
    assert all(len(model.revision) == 40 for name, model in found.models.items() if name != "Fifth-Base")
    assert found.benchmarks["gsm8k_official"].options["train"]["revision"] == commit("dataset", "owner/gsm8k", "v1")


def test_a_second_time_nothing_is_asked_or_changed(study, asked, capsys) -> None:
    pin.pin([study])
    text, times = study.read_text(), study.stat().st_mtime_ns
    asked.clear()
    capsys.readouterr()
    pin.pin([study])
    assert (study.read_text(), study.stat().st_mtime_ns, asked) == (text, times, [])
    assert capsys.readouterr().out == f"{study}: 0 commits written\n"


def test_update_takes_the_newest_of_pinned_entries_too(study, asked) -> None:
    pin.pin([study])
    pin.pin([study], update=True)
    models = load_study(study).models
    assert models["Fourth-Base"].revision == commit("model", "owner/fourth", None)
    assert models["First-Base"].revision == commit("model", "owner/first", None)
    assert models["Fifth-Base"].revision is None


def test_a_commit_of_digits_stays_text(study, asked, monkeypatch) -> None:
    for digits in ("1" * 40, "12e3" + "4" * 36):
        monkeypatch.setattr(pin, "commit_of", lambda *_, digits=digits: digits)
        pin.pin([study], update=True)
        assert load_study(study).models["Second-Base"].revision == digits


def test_line_ends_and_rights_stay(study, asked) -> None:
    study.write_bytes(study.read_bytes().replace(b"\n", b"\r\n"))
    study.chmod(0o640)
    text = study.read_text()
    pin.pin([study])
    assert study.read_bytes() == expected(text).replace("\n", "\r\n").encode()
    assert study.stat().st_mode & 0o777 == 0o640


def test_a_file_without_a_last_line_end_and_a_merged_block(study, asked) -> None:
    base = "models:\n  A: &a {source: owner/a, revision: main}\n  B: {<<: *a, source: owner/b}\n  C: {<<: *a}"
    rest = STUDY[STUDY.index("methods") : STUDY.index("benchmarks")]
    problems = (
        "benchmarks: {gsm8k: {task: paper_gsm8k, max_new_tokens: 9, source: {file: x}}}\nanalysis: {annotators: []}"
    )
    study.write_text(f"name: pins\n{rest}{problems}\ndata: {{sources: [file: x]}}\n{base}")
    pin.pin([study])
    commits = {name: model.revision for name, model in load_study(study).models.items()}
    first, second = (commit("model", f"owner/{name}", "main") for name in "ab")
    assert commits == {"A": first, "B": second, "C": first}
    study.write_text(study.read_text().replace("C: {<<: *a}", "C: {<<: *a, revision: main}"))
    pin.pin([study])
    assert load_study(study).models["C"].revision == first


def test_without_the_hub_nothing_is_written(study, monkeypatch, capsys) -> None:
    before = study.read_text()

    def offline(*_, **__):
        raise OfflineModeIsEnabled("offline")

    monkeypatch.setattr(pin, "HfApi", lambda: SimpleNamespace(model_info=offline, dataset_info=offline))
    with pytest.raises(SystemExit, match="models.First-Base: model 'owner/first', revision main: has a commit that"):
        main(["pin", str(study)])
    assert study.read_text() == before and list(study.parent.iterdir()) == [study]


def test_a_study_with_mistakes_is_left_as_it_is(study, asked) -> None:
    study.write_text(study.read_text().replace("objective: sft", "objective: stf"))
    before = study.read_text()
    with pytest.raises(InputError, match="methods.sft.objective: found 'stf'"):
        pin.pin([study])
    assert study.read_text() == before and not asked
