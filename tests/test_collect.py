"""References from real data: every shape and format, joins, held answers, bad rows by their sentence, real files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from profit import provenance
from profit.collect import collect, main, parse_settings, prompt_id
from profit.data import REFERENCE_COLUMNS, choose_references, encode_all, load_references
from profit.files import InputError, read_json, write_parquet

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="the real data are not shipped with the project")

PAIRS = [
    ("What is 6 times 7?", "It is 42.\n\n    so: 42"),
    ("Schreib é, 漢 und 🙂.", "é 漢 🙂 \\frac{1}{2}"),
    ("Hi", "Hello!"),
]
ROWS = {
    "messages": [
        {"messages": [{"role": "user", "content": p}, {"role": "assistant", "content": a}], "meta": {"effort": "low"}}
        for p, a in PAIRS
    ],
    "sharegpt": [
        {"id": number, "conversations": [{"from": "human", "value": p}, {"from": "gpt", "value": a}], "reward": -1.5,
         "label": {"ability_en": ["math"]}, "langdetect": "en", "source": "Subjective"}
        for number, (p, a) in enumerate(PAIRS)
    ],
    "prompt_response": [{"prompt": p, "response": a, "score": 1} for p, a in PAIRS],
    "question_answer": [{"question": p, "answer": a} for p, a in PAIRS],
}  # fmt: skip


def write(path, rows):
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    elif path.suffix == ".parquet":
        write_parquet(path, pd.DataFrame(rows))
    else:
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return {"file": str(path)}


def collected(*sources, **options):
    return collect(parse_settings(json.dumps({"sources": sources, **options})))


def qa(tmp_path, *pairs, name="qa.jsonl", **options):
    return collected(write(tmp_path / name, [{"question": p, "answer": a} for p, a in pairs]), **options)


def turns(*pairs):
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


@pytest.mark.parametrize("ending", ["json", "jsonl", "parquet"])
@pytest.mark.parametrize("shape", ROWS)
def test_every_shape_in_every_format_gives_the_same_references(tmp_path, shape, ending):
    source = write(tmp_path / f"a.{ending}", ROWS[shape])
    table, report = collected(source)
    assert list(table) == REFERENCE_COLUMNS and table["prompt_id"].is_monotonic_increasing
    assert sorted(zip(table["prompt"], table["answer"], strict=True)) == sorted(PAIRS)
    assert not table["held"].any() and set(table["steps"]) == {0} and table["spans"].isna().all()
    assert report["sources"] == [{"name": source["file"], "shape": shape, "rows": 3, "bad_rows": 0}]
    assert table.equals(collected({**source, "shape": shape})[0])


def test_the_command_writes_what_the_other_rules_read(tmp_path):
    data = json.dumps({"sources": [write(tmp_path / "a.jsonl", ROWS["sharegpt"])]})
    paths = ["--output", str(tmp_path / "out" / "r.parquet"), "--report", str(tmp_path / "out" / "c.json")]
    main(["--data", data, *paths])
    references = load_references(paths[1])
    assert references["prompt"].tolist() == collect(parse_settings(data))[0]["prompt"].tolist()
    assert len(choose_references(references, 1, seed=0)) == 3
    report = read_json(paths[3])
    assert report["world"] == provenance.world_of(paths[1]) == report["provenance"]["world"]
    assert report["characters"]["answer"] == {"mean": pytest.approx(44 / 3), "median": 17, "max": 21}
    assert report["prompts"] == report["references"] == 3 and report["prompts_by_answers"] == {"1": 3}
    assert sorted(os.listdir(tmp_path / "out")) == ["c.json", "r.parquet"]


def test_the_world_is_the_content_and_nothing_else(tmp_path):
    world = qa(tmp_path, *PAIRS)[1]["world"]
    assert qa(tmp_path, *PAIRS[::-1], name="other.json")[1]["world"] == world
    assert qa(tmp_path, *PAIRS[:2], (PAIRS[2][0], "Hello."))[1]["world"] != world


def test_sources_are_joined_by_prompt_and_add_their_answers_in_order(tmp_path):
    first = write(tmp_path / "a.json", ROWS["messages"])
    second = write(
        tmp_path / "b.jsonl", [{"question": "  Hi\r\n", "answer": "Hey."}, {"question": "Hi", "answer": "!"}]
    )
    third = write(tmp_path / "c.parquet", [{"prompt": "Hi", "response": "Hello!"}, {"prompt": "New", "response": "1"}])
    table, report = collected(first, second, third, references=3)
    assert table[["prompt_id", "reference_id", "prompt", "answer"]].values.tolist() == [
        [prompt_id("Hi"), number, "Hi", answer] for number, answer in enumerate(["Hello!", "Hey.", "!"])
    ]
    assert report["dropped"] == {
        "duplicate_answers": 1, "prompts_with_fewer_references": 3, "prompts_beyond_the_most": 0,
        "answers_beyond_references": 0,
    }  # fmt: skip
    assert report["prompts_by_answers"] == {1: 3, 3: 1}
    table, report = collected(first, second, third, references=2, distinct=False)
    assert table["answer"].tolist() == ["Hello!", "Hey."]
    assert report["dropped"]["answers_beyond_references"] == 2 and report["dropped"]["duplicate_answers"] == 0


def test_only_white_space_at_the_edges_is_ignored_unless_runs_are(tmp_path):
    pairs = [("if x:\n    y", "a"), ("if x:\ny", "a  b"), (" if x:\n    y", "a b")]
    table, _ = qa(tmp_path, *pairs)
    assert sorted(table["prompt"]) == ["if x:\n    y", "if x:\ny"]
    table, report = qa(tmp_path, *pairs, white_space="runs", references=2)
    assert table[["prompt", "answer"]].values.tolist() == [["if x:\n    y", "a"], ["if x:\n    y", "a  b"]]
    assert report["dropped"]["duplicate_answers"] == 1
    pairs = [(" Hi\n", "\tHello \n there\n")]
    assert qa(tmp_path, *pairs)[0].iloc[0][["prompt", "answer"]].tolist() == list(pairs[0])
    assert qa(tmp_path, *pairs, strip=True)[0].iloc[0][["prompt", "answer"]].tolist() == ["Hi", "Hello \n there"]


def test_the_first_of_equal_answers_keeps_its_place(tmp_path):
    table, _ = qa(tmp_path, ("q", "A"), ("q", "B"), ("q", "A"), ("q", "C"), references=3)
    assert table["answer"].tolist() == ["A", "B", "C"]


def test_held_answers_follow_seed_and_prompt_alone(tmp_path):
    pairs = [(f"q{number}", f"a{answer}") for number in range(40) for answer in range(4)]
    table, report = qa(tmp_path, *pairs, references=4, held=1)
    assert (table.groupby("prompt_id")["held"].sum() == 1).all() and report["held"] == 40
    assert table[table["held"]]["reference_id"].nunique() == 4
    fewer, _ = qa(tmp_path, *pairs[:80][::-1], references=4, held=1)
    pairs_of = table[table["prompt_id"].isin(fewer["prompt_id"])]
    assert pairs_of["held"].tolist() == fewer["held"].tolist()
    more, _ = qa(tmp_path, *pairs, references=4, held=2)
    assert not (table["held"] & ~more["held"]).any()
    assert not qa(tmp_path, *pairs, references=4, held=1, seed=1)[0]["held"].equals(table["held"])


def test_prompts_are_the_first_of_the_file_or_of_a_permutation(tmp_path):
    pairs = [(f"q{number}", "a") for number in range(50)]
    assert set(qa(tmp_path, *pairs, prompts=5)[0]["prompt"]) == {f"q{number}" for number in range(5)}
    five = set(qa(tmp_path, *pairs, prompts=5, order="seed")[0]["prompt"])
    nine, report = qa(tmp_path, *pairs[::-1], prompts=9, order="seed")
    assert five < set(nine["prompt"]) and report["dropped"]["prompts_beyond_the_most"] == 41
    assert set(qa(tmp_path, *pairs, prompts=5, order="seed", seed=1)[0]["prompt"]) != five
    assert len(qa(tmp_path, *pairs, prompts=500)[0]) == 50


def test_system_messages_and_further_turns_are_dropped_or_put_before_only_when_asked(tmp_path):
    rows = [
        turns(("system", "Be brief."), ("user", "q0"), ("assistant", "a0")),
        turns(("user", "q1"), ("assistant", "a1"), ("user", "more"), ("assistant", "")),
        {**turns(("user", "q2"), ("assistant", "a2")), "system": "Be kind."},
        {**turns(("user", "q3"), ("assistant", "a3")), "system": ""},
    ]
    source = write(tmp_path / "a.jsonl", rows)
    table, report = collected(source, bad_rows=1)
    assert table["prompt"].tolist() == ["q3"] and report["bad_rows"]["by_kind"] == {
        "system message": 2,
        "several turns": 1,
    }
    table, _ = collected(source, system="drop", turns="first")
    assert sorted(zip(table["prompt"], table["answer"], strict=True)) == [(f"q{n}", f"a{n}") for n in range(4)]
    table, _ = collected(source, system="prefix", turns="first")
    assert sorted(table["prompt"]) == ["Be brief.\n\nq0", "Be kind.\n\nq2", "q1", "q3"]


def test_columns_and_keys_of_other_names(tmp_path):
    alpaca = write(tmp_path / "a.json", [{"instruction": "q", "output": "a", "input": ""}])
    with pytest.raises(
        InputError, match=r"a.json: found columns \['instruction', 'output', 'input'\], which fit no shape"
    ):
        collected(alpaca)
    columns = {"prompt": "instruction", "answer": "output"}
    table, _ = collected({**alpaca, "shape": "prompt_response", "columns": columns})
    assert table[["prompt", "answer"]].values.tolist() == [["q", "a"]]
    chat = write(tmp_path / "b.json", [{"conversations": turns(("human", "q"), ("gpt", "a"))["messages"]}])
    table, _ = collected({**chat, "shape": "messages", "columns": {"turns": "conversations"}})
    assert table[["prompt", "answer"]].values.tolist() == [["q", "a"]]
    both = write(tmp_path / "c.json", [{**ROWS["messages"][0], "prompt": "q", "response": "a"}])
    with pytest.raises(
        InputError, match="c.json: .* which fit messages and prompt_response, .*say which with `shape`"
    ):
        collected(both)
    assert collected({**both, "shape": "messages"})[0]["prompt"].tolist() == [PAIRS[0][0]]


BAD = [
    ('{"messages": [', "not JSON", r"found a line that is no JSON \(.*\), expected an object"),
    (b'{"messages": "\xff"}', "not JSON", "found a line that is no JSON .*codec can't decode"),
    ("[1, 2]", "not an object", "found a list, expected an object"),
    ("NaN", "not an object", "found a number, expected an object"),
    ({"massages": []}, "missing key", r"found the keys \['massages'\], expected also 'messages'"),
    ({"messages": [{"role": "user"}]}, "missing key", r"messages, turn 1: found the keys \['role'\], .* 'content'"),
    ({"messages": "Hi"}, "wrong type", "messages: found text, expected a list of turns"),
    ({"messages": ["Hi"]}, "wrong type", "messages, turn 1: found text, expected an object"),
    (turns(("user", "q"), ("assistant", ["a"])), "wrong type", "messages, turn 2: found a list, expected text"),
    (turns(("user", None), ("assistant", "a")), "wrong type", "messages, turn 1: found null, expected text"),
    (turns(("user", "q"), ("assistant", 42)), "wrong type", "messages, turn 2: found a number, expected text"),
    (turns(("user", "q"), ("assistant", float("nan"))), "NaN", "messages, turn 2: found NaN, expected text"),
    (turns(("user", "q"), ("assistant", "")), "empty text", "messages, turn 2: found an empty text, expected text"),
    (turns(("user", " \n"), ("assistant", "a")), "empty text", "messages, turn 1: found white space, expected text"),
    (turns(("user", "q"), ("assistant", "\ud83d")), "not Unicode", "turn 2: found half a character at 0"),
    (turns(("user", "q"), ("tool", "a")), "unknown role", "messages, turn 2: found 'tool', expected one of system,"),
    (turns(("user", "q"), (["x"], "a")), "unknown role", r"messages, turn 2: found \['x'\], expected one of"),
    (turns(), "no user turn first", "found the roles of no turn, expected user first"),
    (turns(("assistant", "a"), ("user", "q")), "no user turn first", "the roles assistant, user, expected user first"),
    (turns(("system", "s"), ("assistant", "a")), "no user turn first", "the roles system, assistant, expected user"),
    (turns(("user", "q")), "no assistant answer", "found the roles user, expected assistant after the first user"),
    (turns(("user", "q"), ("user", "q")), "no assistant answer", "found the roles user, user, expected assistant"),
    (turns(*[("user", "q"), ("assistant", "a")] * 3), "several turns",
     r"found the roles user, assistant, user, assistant, …, expected one exchange \(or set turns to first\)"),
    (turns(("system", "Be brief."), ("user", "q"), ("assistant", "a")), "system message", "found 'Be brief.'"),
    ({**turns(("user", "q"), ("assistant", "a")), "system": 3}, "wrong type", "system message: found a number"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "kind", "sentence"), BAD)
def test_every_bad_row_is_named_by_file_row_and_what_was_found(tmp_path, caplog, row, kind, sentence):
    good = json.dumps(turns(("user", "fine"), ("assistant", "yes"))).encode()
    bad = row if isinstance(row, bytes) else (row if isinstance(row, str) else json.dumps(row)).encode()
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([good, b"", bad, good]) + b"\n")
    table, report = collected({"file": str(path)}, bad_rows=0.5)
    assert table["prompt"].tolist() == ["fine"] and report["rows"] == 3
    assert report["bad_rows"]["count"] == 1 and report["bad_rows"]["by_kind"] == {kind: 1}
    with pytest.raises(
        InputError, match=f"(?s)a.jsonl: found 1 bad rows of 3 .1 {kind}.*a.jsonl: row 3: .*{sentence}"
    ):
        collected({"file": str(path)})
    assert report["bad_rows"]["rows"][0] in caplog.text


def test_bad_rows_of_the_other_formats(tmp_path):
    for ending in ("json", "parquet"):
        source = write(tmp_path / f"a.{ending}", [{"question": "q", "answer": "a"}, {"question": "r", "answer": None}])
        _, report = collected(source, bad_rows=0.5)
        assert report["bad_rows"]["rows"] == [f"{source['file']}: row 2: answer: found null, expected text"]
    write_parquet(tmp_path / "b.parquet", pd.DataFrame({"prompt": ["q", "r"], "response": [float("nan"), 1.0]}))
    with pytest.raises(InputError, match="2 bad rows of 2 .*row 1: response: found"):
        collected({"file": str(tmp_path / "b.parquet")})


def test_the_share_of_bad_rows_decides_source_by_source_and_the_first_twenty_are_logged(tmp_path, caplog):
    rows = [{"question": f"q{number}", "answer": "a" if number % 4 else ""} for number in range(100)]
    source = write(tmp_path / "a.jsonl", rows)
    table, report = collected(source, bad_rows=0.25)
    assert len(table) == 75 and len(report["bad_rows"]["rows"]) == 25
    assert len([record for record in caplog.records if ": row" in record.message]) == 20
    assert "5 more bad rows" in caplog.text
    clean = write(tmp_path / "b.jsonl", [{"question": f"p{number}", "answer": "a"} for number in range(1000)])
    outputs = ["--output", str(tmp_path / "r.parquet"), "--report", str(tmp_path / "c.json")]
    with pytest.raises(InputError, match=r"a.jsonl: found 25 bad rows of 100 \(25 empty text\), .* bad_rows = 0.24"):
        main(["--data", json.dumps({"sources": [clean, source], "bad_rows": 0.24}), *outputs])
    assert not (tmp_path / "r.parquet").exists() and not (tmp_path / "c.json").exists()


def test_truncated_empty_missing_and_foreign_files(tmp_path):
    whole = {ending: tmp_path / f"whole.{ending}" for ending in ("json", "jsonl", "parquet")}
    for ending, path in whole.items():
        write(path, ROWS["sharegpt"] * 20)
        cut = tmp_path / f"cut.{ending}"
        cut.write_bytes(path.read_bytes()[:-30])
        expected = (
            r"cut.jsonl: found 1 bad rows of 60 .*row 60: "
            if ending == "jsonl"
            else f"cut.{ending}: found a truncated"
        )
        with pytest.raises(InputError, match=expected):
            collected({"file": str(cut)})
        cut.write_bytes(b"")
        with pytest.raises(InputError, match=f"cut.{ending}: found (no row|a truncated)"):
            collected({"file": str(cut)})
    for text, expected in [
        ("[]", "no row"),
        ("{\n1", r"no object .*row 1: found a line that is no JSON"),
        ("[3]", "no object"),
    ]:
        (tmp_path / "odd.json").write_text(text)
        with pytest.raises(InputError, match=f"odd.json: found {expected}"):
            collected({"file": str(tmp_path / "odd.json")})
    for name, expected in [("nowhere.json", "nowhere.json: not found"), ("*.arrow", r"\*.arrow: not found"),
                           (".", "found a folder"), ("a.txt", "found the ending '.txt'")]:  # fmt: skip
        (tmp_path / "a.txt").write_text("text")
        with pytest.raises(InputError, match=expected):
            collected({"file": str(tmp_path / name)})


def test_a_glob_reads_its_matches_in_order(tmp_path):
    for name, answer in (("b", "2"), ("a", "1"), ("c", "3")):
        write(tmp_path / f"part-{name}.jsonl", [{"question": "q", "answer": answer}])
    table, report = collected({"file": str(tmp_path / "part-*.jsonl")}, references=3)
    assert table["answer"].tolist() == ["1", "2", "3"] and report["rows"] == 3
    (tmp_path / "part-d.jsonl").write_text("")
    with pytest.raises(InputError, match="part-d.jsonl: found no row"):
        collected({"file": str(tmp_path / "part-*.jsonl")})
    write(tmp_path / "[x].json", [{"question": "q", "answer": "4"}])
    assert collected({"file": str(tmp_path / "[x].json")})[0]["answer"].tolist() == ["4"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ('{"sources": [{"fiel": "a.json"}]}', "--data.sources.0: found 'fiel'.*did you mean 'file'"),
        ('{"sources": [{"file": "a.json"}], "refrences": 3}', "--data: found 'refrences'.*did you mean 'references'"),
        ('{"sources": [{"file": "a.json", "shape": "sharegtp"}]}', "sources.0.shape: .*did you mean 'sharegpt'"),
        ('{"sources": [{"file": "a.json", "shape": "messages", "columns": {"turn": "x"}}]}', "did you mean 'turns'"),
        ('{"sources": [{"file": "a.json", "shape": "messages", "columns": {"answer": "x"}}]}',
         "columns: found 'answer', expected some of .*'turns'"),
        ('{"sources": [{"file": "a.json", "columns": {"answer": "x"}}]}', "columns: .* with shape auto"),
        ('{"sources": [{"file": "a.json", "hub": "b/c"}]}', "expected one of the two"),
        ('{"sources": [{}]}', "expected one of the two"),
        ('{"sources": [{"file": "a.json", "split": "train"}]}', "split: found 'train' with file"),
        ('{"sources": []}', "--data.sources: found .*at least 1 item"),
        ("{}", "--data.sources: not found"),
        ("{", "--data: found no JSON"),
        ('{"sources": [{"file": "a.json"}], "references": 2, "held": 2}', "held: found 2, expected less than .* 2"),
        ('{"sources": [{"file": "a.json"}], "bad_rows": 1.5}', "--data.bad_rows: found 1.5"),
        ('{"sources": [{"file": "a.json"}], "turns": "last"}', "--data.turns: found 'last', expected one of refuse"),
    ],
)  # fmt: skip
def test_mistakes_in_the_data_block_are_named(data, expected):
    with pytest.raises(InputError, match=expected):
        parse_settings(data)


def test_too_few_answers_everywhere_is_an_error(tmp_path):
    with pytest.raises(InputError, match="found at most 1 answers to a prompt, expected references = 2"):
        qa(tmp_path, *PAIRS, references=2)


def test_a_hub_id_offline_ends_in_one_sentence_that_says_what_to_do(tmp_path, capsys):
    data = {"sources": [{"hub": "BAAI/Infinity-Instruct", "revision": "abc", "config": "Gen", "split": "train"}]}
    outputs = ["--output", str(tmp_path / "r.parquet"), "--report", str(tmp_path / "c.json")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "profit", "collect", "--data", json.dumps(data), *outputs],
        env=environment, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("collect: BAAI/Infinity-Instruct@abc: found no such data set")
    assert all(word in lines[0] for word in ("`file` instead of `hub`", "HF_HOME", "HF_TOKEN", "revision"))
    assert not (tmp_path / "r.parquet").exists()


def test_a_hub_source_reads_what_datasets_loads(tmp_path, monkeypatch):
    import datasets

    asked = []
    loaded = datasets.Dataset.from_list(ROWS["sharegpt"])
    monkeypatch.setattr(datasets, "load_dataset", lambda path, **options: asked.append((path, options)) or loaded)
    table, report = collected({"hub": "a/b", "revision": "abc", "config": "Gen"})
    assert asked == [("a/b", {"name": "Gen", "revision": "abc", "split": "train"})]
    assert sorted(table["answer"]) == sorted(answer for _, answer in PAIRS)
    assert report["sources"][0]["name"] == "a/b@abc"


def s1k(*efforts, **options):
    return collected(*({"file": str(SHARED / f"s1k_gptoss20b_{effort}.json")} for effort in efforts), **options)


@real
@pytest.mark.parametrize(("part", "rows"), [("train", 7473), ("test", 1319)])
def test_gsm8k_loads_in_full_and_unchanged(part, rows):
    path = SHARED / f"gsm8k_{part}.jsonl"
    table, report = collected({"file": str(path)})
    assert report["rows"] == len(table) == rows and report["bad_rows"]["count"] == 0
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert dict(zip(table["prompt"], table["answer"], strict=True)) == {
        row["question"]: row["answer"] for row in lines
    }


@real
def test_s1k_joins_to_629_questions_with_three_answers_of_which_626_have_three_distinct():
    counts = {"low": 976, "middle": 963, "high": 654}
    table, report = s1k(*counts, references=3, distinct=False)
    assert [source["rows"] for source in report["sources"]] == list(counts.values())
    assert report["bad_rows"]["count"] == 0 and report["prompts"] == 629 and len(table) == 3 * 629
    assert sum(report["prompts_by_answers"].values()) == 998
    for number, effort in enumerate(counts):
        rows = json.loads((SHARED / f"s1k_gptoss20b_{effort}.json").read_text(encoding="utf-8"))
        texts = {row["messages"][0]["content"]: row["messages"][1]["content"] for row in rows}
        mine = table[table["reference_id"] == number]
        assert all(texts[prompt] == answer for prompt, answer in zip(mine["prompt"], mine["answer"], strict=True))
    distinct, report = s1k(*counts, references=3)
    assert report["prompts"] == 626 and set(distinct["prompt_id"]) < set(table["prompt_id"])
    assert distinct.groupby("prompt_id")["answer"].nunique().eq(3).all()
    # One question stands in each file twice, spaced differently; each time it has three answers of its own.
    runs, report = s1k(*counts, references=3, white_space="runs", distinct=False)
    assert report["prompts"] == 628 and report["prompts_by_answers"][6] == 1


PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Family: template, special tokens (the end token first), digits of a piece, whether text is normalised to NFC.
FAMILIES = {
    "qwen": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        ["<|im_end|>", "<|im_start|>", "<|endoftext|>"], "", True,
    ),
    "llama3": (
        "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' "
        "+ m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        ["<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"], "{1,3}", False,
    ),
    "olmo2": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '<|user|>\n' + m['content'] + '\n' }}"
        "{% else %}{{ '<|assistant|>\n' + m['content'] + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
        ["<|endoftext|>", "<|pad|>"], "{1,3}", False,
    ),
}  # fmt: skip


def train_tokenizer(family, texts):
    """A byte-level BPE tokenizer of 2,000 entries, cut into pieces and wrapped into turns as the family does it."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    template, special, digits, composed = FAMILIES[family]
    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.NFC() if composed else None
    core.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PIECES % digits), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=2000, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    bos = {"llama3": "<|begin_of_text|>", "olmo2": "<|endoftext|>"}.get(family)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=special[0], bos_token=bos, additional_special_tokens=special[1:],
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.chat_template = template
    return tokenizer


def check_targets(tokenizer, table):
    """The tokens before the targets decode to the prompt in its template, the targets to the answer and its end."""
    encoded = encode_all(tokenizer, table["prompt"].tolist(), table["answer"].tolist())
    users = [[{"role": "user", "content": prompt}] for prompt in table["prompt"]]
    heads = tokenizer.apply_chat_template(users, tokenize=False, add_generation_prompt=True)
    decode = tokenizer.backend_tokenizer.decode_batch
    prompts = decode([item.input_ids[: item.prompt_length] for item in encoded], skip_special_tokens=False)
    targets = decode([item.input_ids[item.prompt_length :] for item in encoded], skip_special_tokens=False)
    assert prompts == heads and targets == [answer + tokenizer.eos_token for answer in table["answer"]]
    assert all(prompt in head for prompt, head in zip(table["prompt"], heads, strict=True))
    assert all(len(item.spans) == len(item.input_ids) - item.prompt_length for item in encoded)
    return encoded


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_answer_and_its_end_token_are_targets_for_each_template(tmp_path, family):
    table, _ = qa(tmp_path, *PAIRS, ("A\nB", "Two lines.\n\n- one\n- two"))
    tokenizer = train_tokenizer(family, [*table["prompt"], *table["answer"]])
    check_targets(tokenizer, table)


def test_white_space_that_a_template_trims_is_refused_until_it_is_stripped(tmp_path):
    tokenizer = train_tokenizer("llama3", ["Hello there."])
    edges = ("Hi", "Hello there.\n ")
    with pytest.raises(InputError, match="the answer is not in the text as it stands"):
        check_targets(tokenizer, qa(tmp_path, edges)[0])
    check_targets(tokenizer, qa(tmp_path, edges, strip=True)[0])


@pytest.fixture(scope="module")
def real_texts():
    """The 1,887 answers to the 629 questions, and GSM8K."""
    references, _ = s1k("low", "middle", "high", references=3, distinct=False)
    problems, _ = collected(*({"file": str(SHARED / f"gsm8k_{part}.jsonl")} for part in ("train", "test")))
    assert len(references) == 1887 and len(problems) == 7473 + 1319
    return pd.concat([references, problems], ignore_index=True)


@real
@pytest.mark.parametrize("family", FAMILIES)
def test_all_real_texts_tokenise_without_loss(family, real_texts):
    """Each family takes every third row, so that no text is left out; all rows with all families take 30 s."""
    tokenizer = train_tokenizer(family, real_texts["answer"][::50].tolist())
    encoded = check_targets(tokenizer, real_texts[list(FAMILIES).index(family) :: 3])
    assert sum(len(item.spans) for item in encoded) > 300_000
