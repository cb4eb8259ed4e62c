"""Further answers from a local server: into collect, after a kill; failures, equal answers, budget, bad input."""

import json
import logging
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import judge_server
import pandas as pd
import pytest
from judge_server import Server, plain_answer, serving
from test_paper_study import REFERENCES, option

from profit import chat, collect, respond
from profit.data import choose_references
from profit.files import InputError, read_json, write_json, write_parquet

KEY = "sk-test-0123456789abcdef"
PROMPTS = ["What is 6 times 7?", "Schreib é, 漢 und 🙂.", "Say\n\nhi ", "Why is the sky blue?"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as server:
        yield server


def data_block(tmp_path: Path, prompts: list[str] = PROMPTS, **options: Any) -> dict[str, Any]:
    """A data block with one source, whose answers are known."""
    rows = [{"question": prompt, "answer": f"Known {number}."} for number, prompt in enumerate(prompts)]
    write_json(tmp_path / "known.json", rows)
    return {"sources": [{"file": str(tmp_path / "known.json")}], **options}


def command(server: Server, tmp_path: Path, data: dict[str, Any], answers: int = 2, **changes: Any) -> list[str]:
    """The command line, with tiny waits."""
    small = {"model": "large", "base_url": server.address, "backoff": 0.001, "timeout": 10.0, "temperature": 0.7}
    return [
        "--data", json.dumps(data), "--model", json.dumps(small | changes), "--answers", str(answers),
        "--cache", str(tmp_path / "cache"), "--output", str(tmp_path / "further.jsonl"),
    ]  # fmt: skip


def asked(server: Server, tmp_path: Path, data: dict[str, Any] | None = None, **changes: Any) -> list[dict[str, Any]]:
    """Run the command and read what it wrote."""
    respond.main(command(server, tmp_path, data or data_block(tmp_path), **changes))
    return [json.loads(line) for line in (tmp_path / "further.jsonl").read_bytes().splitlines()]


def shown(server: Server) -> list[str]:
    """The prompts in the order they came."""
    return [request["messages"][-1]["content"] for request in server.requests]


def completion(text: str | None, finish: str = "stop", tokens: int = 10) -> tuple[int, str]:
    """An entry of the server's script: a reply with this text and end."""
    usage = {"prompt_tokens": 100, "completion_tokens": tokens}
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
    return 200, json.dumps({"choices": [choice], "usage": usage})


def test_the_answers_join_their_data_set(server: Server, tmp_path: Path) -> None:
    data = data_block(tmp_path)
    rows = asked(server, tmp_path, data, concurrency=8)
    table, _ = collect.collect(collect.parse_settings(json.dumps(data)))
    assert [(row["prompt"], row["number"]) for row in rows] == [(p, n) for p in table.prompt for n in (1, 2)]
    assert rows == [
        {"prompt": row["prompt"], "response": plain_answer(row["prompt"], row["number"] - 1), "number": row["number"],
         "model": "large", "finish": "stop"}
        for row in rows
    ]  # fmt: skip
    assert sorted(shown(server)) == sorted(PROMPTS * 2) and set(server.keys) == {f"Bearer {KEY}"}
    for request in server.requests:
        assert set(request) == {"model", "messages", "temperature"} and len(request["messages"]) == 1
        assert (request["model"], request["temperature"]) == ("large", 0.7)
    joined = {"sources": [*data["sources"], {"file": str(tmp_path / "further.jsonl")}], "references": 3}
    found, report = collect.collect(collect.parse_settings(json.dumps(joined)))
    assert report["bad_rows"]["count"] == 0 and report["dropped"]["duplicate_answers"] == 0
    assert [source["shape"] for source in report["sources"]] == ["question_answer", "prompt_response"]
    assert (
        found[["prompt_id", "prompt"]].drop_duplicates().values.tolist()
        == table[["prompt_id", "prompt"]].values.tolist()
    )
    for prompt, group in found.groupby("prompt"):
        known = f"Known {PROMPTS.index(prompt)}."
        assert group.answer.tolist() == [known, plain_answer(prompt, 0), plain_answer(prompt, 1)]
    assert choose_references(found, 1, 0, "first").answer.tolist() == table.answer.tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "further.jsonl", "known.json"]


def test_the_command_of_the_study_makes_its_three_references(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [line.removeprefix("#").strip() for line in REFERENCES.read_text().splitlines() if line.startswith("#")]
    text = re.search(r"python -m profit respond (.*?\.jsonl)", " ".join(lines))[1]
    monkeypatch.chdir(tmp_path)
    rows = [{"conversations": [{"from": "human", "value": p}, {"from": "gpt", "value": "Known."}]} for p in PROMPTS]
    Path("data").mkdir()
    write_parquet("data/shadow_2k.parquet", pd.DataFrame(rows))
    respond.main(shlex.split(text.replace("http://localhost:8000/v1", server.address)))
    assert server.requests[0]["max_tokens"] == 8192
    block = option(REFERENCES, tmp_path, "data:")["data"]
    table, report = collect.collect(collect.Collected.model_validate(block))
    assert len(table) == 3 * len(PROMPTS) and report["prompts_by_answers"] == {3: len(PROMPTS)}
    assert choose_references(table, 1, 0, block["choice"]).answer.tolist() == ["Known."] * len(PROMPTS)


def test_system_text_and_token_limit_are_sent(server: Server, tmp_path: Path) -> None:
    asked(server, tmp_path, answers=1, system="Be brief.", max_tokens=7, temperature=None)
    for request in server.requests:
        assert request["messages"][0] == {"role": "system", "content": "Be brief."} and len(request["messages"]) == 2
        assert request["max_tokens"] == 7 and "temperature" not in request


def test_a_killed_run_resumes_where_it_was(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = data_block(tmp_path)
    server.script = [None] * 3 + ["stall"]
    line = command(server, tmp_path, data, concurrency=1)
    child = subprocess.Popen([sys.executable, "-m", "profit", "respond", *line], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while len(server.requests) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL and len(server.requests) == 4
    assert not (tmp_path / "further.jsonl").exists()
    rows = asked(server, tmp_path, data, concurrency=1)
    assert len(rows) == 8 and len({row["response"] for row in rows}) == 8
    assert [rows[at]["response"] for at in range(3)] == [plain_answer(rows[at]["prompt"], at % 2) for at in range(3)]
    assert shown(server) == [row["prompt"] for row in rows[:4]] + [row["prompt"] for row in rows[3:]]
    before = (tmp_path / "further.jsonl").read_bytes()
    monkeypatch.delenv("OPENAI_API_KEY")
    asked(server, tmp_path, data, prompt_price=1.0, answer_price=1.0, budget=0.0)
    assert len(server.requests) == 9 and (tmp_path / "further.jsonl").read_bytes() == before


def test_more_answers_ask_for_the_rest_alone(server: Server, tmp_path: Path) -> None:
    first = asked(server, tmp_path, answers=1, max_tokens=5)
    rows = asked(server, tmp_path, answers=3, max_tokens=9, concurrency=2, timeout=9.0)
    assert len(server.requests) == 12 and [row for row in rows if row["number"] == 1] == first
    for change in ({"model": "larger"}, {"temperature": 0.8}, {"system": "Hm."}):
        before = len(server.requests)
        asked(server, tmp_path, answers=1, **change)
        assert len(server.requests) == before + 4


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (completion("A half", "length"), "found an answer that ended with 'length', expected 'stop'"),
        (completion("A half", "content_filter"), "found an answer that ended with 'content_filter'"),
        (completion(" \n"), r"found no text \(the reply ended with 'stop'\), expected an answer"),
        (completion(None, "tool_calls"), r"found no text \(the reply ended with 'tool_calls'\)"),
        ((200, "<html>busy</html>"), r"found no text \(the reply ended with 'no chat completion'\)"),
        (completion(f"It is {KEY}."), "found the key in the answer, expected none"),
        (completion("\ud83d"), "found half a character in the answer, expected Unicode"),
        ((400, '{"error": {"message": "too long"}}'), "HTTP 400, .*too long"),
    ],
)
def test_an_answer_that_teaches_nothing_is_a_failure_that_the_next_run_asks_again(
    server: Server, tmp_path: Path, entry: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = data_block(tmp_path, PROMPTS[:2])
    server.script = [entry]
    with pytest.raises(
        InputError, match=rf"model 'large': found 1 of 4 answers that cannot be used.*{reason}"
    ) as caught:
        asked(server, tmp_path, data, concurrency=1)
    assert not (tmp_path / "further.jsonl").exists() and KEY not in str(caught.value) + caplog.text
    assert not any(KEY.encode() in path.read_bytes() for path in (tmp_path / "cache").iterdir())
    server.script = [entry]
    rows = asked(server, tmp_path, data, concurrency=1, failures=0.25)
    assert [row["number"] for row in rows] == [2, 1, 2] and re.search(rf"prompt p\w+, answer 1: {reason}", caplog.text)
    assert len(asked(server, tmp_path, data)) == 4


def test_a_prompt_without_all_its_answers_is_dropped_by_collect(server: Server, tmp_path: Path) -> None:
    data = data_block(tmp_path)
    server.script = [None, completion("A half", "length")]
    assert len(asked(server, tmp_path, data, concurrency=1, failures=0.2)) == 7
    joined = {"sources": [*data["sources"], {"file": str(tmp_path / "further.jsonl")}], "references": 3}
    table, report = collect.collect(collect.parse_settings(json.dumps(joined)))
    assert table.prompt_id.nunique() == 3 and report["dropped"]["prompts_with_fewer_references"] == 1


def test_an_equal_answer_is_asked_again(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    data = data_block(tmp_path, PROMPTS[:1])
    server.script = ["Known 0.\r\n", "One.", " One.\n", "Two."]
    assert [row["response"] for row in asked(server, tmp_path, data)] == ["One.", "Two."]
    assert [request["messages"] for request in server.requests] == [[{"role": "user", "content": PROMPTS[0]}]] * 4
    assert "model: 2 replies equalled another answer to their prompt" in caplog.text
    # The data set has another answer now, that of number 1, which is asked for anew and may not equal number 2 either.
    write_json(tmp_path / "known.json", [{"question": PROMPTS[0], "answer": "One."}])
    server.script = ["Two.", "Three."]
    assert [row["response"] for row in asked(server, tmp_path, data)] == ["Three.", "Two."]
    assert len(server.requests) == 6


def test_an_answer_that_stays_equal_is_a_failure(server: Server, tmp_path: Path) -> None:
    server.always = "Yes."
    data = data_block(tmp_path, PROMPTS[:1])
    with pytest.raises(
        InputError, match="found 1 of 2 answers .*answer 2: (found an answer that equals [^|]*[|]? ?){4}$"
    ):
        asked(server, tmp_path, data, repairs=3)
    assert len(server.requests) == 5
    rows = asked(server, tmp_path, data | {"distinct": False})
    assert [row["response"] for row in rows] == ["Yes.", "Yes."] and len(server.requests) == 6


def test_white_space_makes_answers_differ_as_the_data_block_says(server: Server, tmp_path: Path) -> None:
    server.script = ["a  b", "a b", "c"]
    data = data_block(tmp_path, PROMPTS[:1], white_space="runs")
    assert [row["response"] for row in asked(server, tmp_path, data)] == ["a  b", "c"]
    assert [row["response"] for row in asked(server, tmp_path, data | {"white_space": "edges"})] == ["a  b", "c"]


def test_troubles_change_nothing_at_any_concurrency(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def trouble(request: judge_server.Request, seen: int) -> Any:
        act = judge_server.trouble(request, seen, hopeless=0.1)
        return "drop" if act == "stall" else act

    found = []
    for concurrency in (1, 12):
        (tmp_path / str(concurrency)).mkdir()
        data = data_block(tmp_path / str(concurrency), [f"Question {number}?" for number in range(40)])
        with serving(troubles=trouble) as server:
            found.append(asked(server, tmp_path / str(concurrency), data, concurrency=concurrency, failures=0.2))
            assert len(server.requests) > 90
    assert found[0] == found[1] and 60 < len(found[0]) < 80


def test_the_estimate_by_hand_is_logged_first(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    data = data_block(tmp_path, PROMPTS[:1])
    prices = {"prompt_price": 2.0, "answer_price": 10.0, "budget": 1.0}
    asked(server, tmp_path, data, system="Be brief.", **prices)
    sent, answered = 2 * 9, 2 * 3  # a third of 9 + 18 and of 8 characters
    cost = f"{(sent * 2 + answered * 10) / 1e6:.4g}"
    expected = "model large at 127.0.0.1: 2 answers of 1 prompts, 0 cached; 2 calls, about"
    assert caplog.messages[0] == f"{expected} {sent} tokens sent and {answered} given, cost about {cost}"
    assert "model: 2 given (0 from the cache), 0 failed, 0 retries, 200 tokens sent and 20 answered, cost 0.0006" in (
        caplog.messages
    )
    caplog.clear()
    asked(server, tmp_path, data, max_tokens=1, **prices)
    assert "about 12 tokens sent and 2 given" in caplog.messages[0]


def test_an_estimate_above_the_budget_does_not_start(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found an estimated cost of .*the budget of 1e-06; nothing was asked"):
        asked(server, tmp_path, prompt_price=1.0, answer_price=1.0, budget=1e-6)
    assert not server.requests and not (tmp_path / "cache").exists()


def test_a_run_that_costs_more_than_its_estimate_stops_and_keeps_what_it_paid_for(
    server: Server, tmp_path: Path
) -> None:
    server.script = [completion(f"Answer {number}.", tokens=1_000_000) for number in range(8)]
    prices = {"prompt_price": 0.0, "answer_price": 1.0, "concurrency": 1}
    with pytest.raises(InputError, match="found 4 spent with 4 of 8 answers given.*budget of 2.5"):
        asked(server, tmp_path, budget=2.5, **prices)
    kept = len(list((tmp_path / "cache").iterdir()))
    assert 4 <= kept <= len(server.requests) < 8 and not (tmp_path / "further.jsonl").exists()
    server.script = []
    assert len(asked(server, tmp_path, budget=2.5, **prices)) == 8
    server.script = [completion("Dear.", tokens=9_000_000)]  # nothing is left to save
    assert len(asked(server, tmp_path, data_block(tmp_path, ["New?"]), answers=1, budget=2.5, **prices)) == 1


def test_what_would_meet_every_question_stops_at_once(server: Server, tmp_path: Path) -> None:
    server.always = (401, f"no, {KEY}")
    with pytest.raises(
        InputError, match="model 'large', key of 127.0.0.1: found HTTP 401, expected a valid"
    ) as caught:
        asked(server, tmp_path, concurrency=1)
    assert len(server.requests) == 1 and KEY not in str(caught.value) and not (tmp_path / "cache").exists()


def test_a_placeholder_for_a_key_may_be_a_word_of_an_answer(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
    server.always = "The set is EMPTY."
    rows = asked(server, tmp_path, data_block(tmp_path, PROMPTS[:1]), answers=1)
    assert rows[0]["response"] == "The set is EMPTY."
    endpoint = chat.Endpoint(server.address, "large", KEY, 5.0, 0, 0.0)
    assert endpoint.clean(f"a {KEY} b") == "a [key] b"


def test_a_damaged_cache_file_is_asked_again(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = data_block(tmp_path, PROMPTS[:1])
    asked(server, tmp_path, data, answers=1)
    (place,) = (tmp_path / "cache").iterdir()
    assert read_json(place)["text"] == plain_answer(PROMPTS[0], 0)
    place.write_text(place.read_text()[:-30])
    assert asked(server, tmp_path, data, answers=1)[0]["response"] == plain_answer(PROMPTS[0], 1)
    assert "found a damaged cache file" in caplog.text


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"answers": 0}, "--answers: found 0, expected at least 1"),
        ({"temperature": 0.0}, "--model.temperature: found 0 with --answers 2, expected above 0"),
        ({"max_tokens": 0}, "--model.max_tokens: found 0, expected"),
        ({"system": ""}, "--model.system: found '', expected"),
        ({"labels": 3}, "--model: found 'labels', expected one of model, base_url, .*, system"),
        ({"base_url": f"http://me:{KEY}@h/v1"}, "--model.base_url: found something else"),
        ({"budget": 1.0}, "--model.budget: found one without prompt_price and answer_price"),
        ({"key_variable": "NO_SUCH_KEY"}, "environment variable NO_SUCH_KEY: found nothing, expected the key"),
    ],
)
def test_wrong_settings_are_named_before_any_call(
    server: Server, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=f"^{sentence}") as caught:
        asked(server, tmp_path, **changes)
    assert KEY not in str(caught.value)
    assert not server.requests and sorted(path.name for path in tmp_path.iterdir()) == ["known.json"]


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--data", "{", "--data: found no JSON"),
        ("--data", '{"sources": []}', "--data.sources: found"),
        ("--data", '{"sources": [{"file": "none.jsonl"}]}', "none.jsonl: not found"),
        ("--model", "", "--model: found nothing, expected a JSON object with keys of .*'max_tokens'"),
        (
            "--output",
            "further.parquet",
            "--output: found further.parquet, expected a file with one of the endings .jsonl",
        ),
        ("--output", "folder.jsonl", "--output: found folder.jsonl, expected a file"),
        ("--output", "known.jsonl", "--output: found known.jsonl, a file of the sources, expected another"),
        ("--cache", "known.jsonl", "--cache: found known.jsonl, a file, expected a folder"),
    ],
)
def test_a_wrong_command_line_is_named_before_any_call(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, value: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.jsonl").mkdir()
    Path("known.jsonl").write_text('{"question": "What?", "answer": "That."}\n')
    line = command(server, tmp_path, {"sources": [{"file": "*.jsonl"}]})
    line[line.index(option) + 1] = value
    with pytest.raises(InputError, match=f"^{sentence}"):
        respond.main(line)
    assert not server.requests and sorted(path.name for path in tmp_path.iterdir()) == ["folder.jsonl", "known.jsonl"]


def test_a_data_set_without_prompts_is_named(server: Server, tmp_path: Path) -> None:
    write_json(tmp_path / "known.json", [])
    with pytest.raises(InputError, match="known.json: found no row, expected at least one"):
        asked(server, tmp_path, {"sources": [{"file": str(tmp_path / "known.json")}]})
    assert not server.requests
