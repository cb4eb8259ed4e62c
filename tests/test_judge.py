"""The judge against a local server that answers well, badly, late or not at all."""

import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import judge_server
import pandas as pd
import pytest
from judge_server import Server, opinion, serving

from profit import agreement, annotate, chat, judge, judge_prompt
from profit.correlate import label_tokens
from profit.data import load_references
from profit.files import InputError, canonical_json, read_json, read_parquet, read_parquet_metadata
from profit.study import Study, load_study

KEY = "sk-test-0123456789abcdef"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as server:
        yield server


def settings(server: Server, **changes: Any) -> str:
    """JSON of --judge with tiny waits."""
    small = {"model": "large", "base_url": server.address, "backoff": 0.001, "timeout": 10.0}
    return json.dumps(small | changes)


def frame_of(**answers: list[str]) -> pd.DataFrame:
    """References by prompt."""
    rows = [
        (prompt, number, f"What about {prompt}?", answer, False, 1, None)
        for prompt, own in answers.items()
        for number, answer in enumerate(own)
    ]
    return pd.DataFrame(rows, columns="prompt_id reference_id prompt answer held steps spans".split())


TWO = {"a": ["Well, 3 + 4 = 7.", "So 3 + 4 = 7 nuts."], "b": ["It's 12."]}


def expected(references: pd.DataFrame) -> list[tuple[str, int, int, int, str]]:
    """Rows of the table if all goes well."""
    answers = references.groupby("prompt_id").answer.agg(list)
    return [
        (row.prompt_id, row.reference_id, *match.span(), opinion(match.group(), answers[row.prompt_id], number))
        for row, number in zip(references.itertuples(), references.groupby("prompt_id").cumcount(), strict=True)
        for match in annotate.WORD.finditer(row.answer)
    ]


def rows(table: pd.DataFrame) -> list[tuple]:
    return list(table.itertuples(index=False, name=None))


def test_labels_come_back_by_number_as_spans(server: Server, tmp_path: Path) -> None:
    references = frame_of(**TWO)
    table = judge.judge_spans(references, settings(server, temperature=0.0), str(tmp_path))
    assert rows(table) == expected(references)
    assert list(table) == ["prompt_id", "reference_id", "start", "end", "label"]
    assert (table.start.dtype, table.end.dtype) == ("int32", "int32")
    assert len(server.requests) == 3 and set(server.keys) == {f"Bearer {KEY}"}
    for request in server.requests:
        form = request["response_format"]["json_schema"]
        assert form["strict"] and form["schema"]["required"] == ["core", "replaceable"]
        assert request["model"] == "large" and request["temperature"] == 0
    shown = [request["messages"][1]["content"] for request in server.requests]
    assert sum("Well, 3 + 4" in text and "So 3 + 4" in text for text in shown) == 2
    account = table.attrs["judge"]
    assert (account["calls"], account["retries"], account["answers"], account["cached"]) == (3, 0, 3, 0)
    assert (account["prompt_tokens"], account["answer_tokens"], account["cost"]) == (300, 30, None)


def test_the_third_label_is_asked_for_on_request(server: Server, tmp_path: Path) -> None:
    server.always = '{"core": [2], "replaceable": [1], "fixed": [3]}'
    table = judge.judge_spans(frame_of(b=["It's 12."]), settings(server, fixed=True), str(tmp_path))
    assert table.label.tolist() == ["replaceable", "core", "fixed"]
    assert "- fixed:" in server.requests[0]["messages"][0]["content"]
    assert "fixed" not in judge_prompt.instructions(["core", "replaceable"])


def test_an_endpoint_without_structured_output_is_asked_for_plain_json(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.script = [(400, '{"error": {"message": "Unknown parameter: response_format", "code": null}}')]
    references = frame_of(**TWO)
    table = judge.judge_spans(references, settings(server, concurrency=1), str(tmp_path))
    assert rows(table) == expected(references)
    assert ["response_format" in request for request in server.requests] == [True, False, False, False]
    assert caplog.text.count("127.0.0.1 rejects response_format") == 1
    assert table.attrs["judge"]["unstructured"] == 3 and table.attrs["judge"]["retries"] == 0


@pytest.mark.parametrize(
    "trouble",
    [
        [(500, "oh"), (503, "<html>")],
        [(429, '{"error": {"message": "slow down"}}', {"Retry-After": "0.02"}), (502, "")],
        ["drop", (408, "")],
        ["cut", "drop"],
    ],
)
def test_what_passes_is_tried_again(server: Server, tmp_path: Path, trouble: list[Any]) -> None:
    server.script = list(trouble)
    references = frame_of(**TWO)
    table = judge.judge_spans(references, settings(server, concurrency=1), str(tmp_path))
    assert rows(table) == expected(references)
    assert table.attrs["judge"]["retries"] == 2 and table.attrs["judge"]["calls"] == len(server.requests) == 5


def test_a_reply_that_does_not_come_is_not_waited_for(server: Server, tmp_path: Path) -> None:
    server.script = ["stall"]
    started = time.monotonic()
    table = judge.judge_spans(frame_of(**TWO), settings(server, timeout=0.3, concurrency=1), str(tmp_path))
    assert 0.3 < time.monotonic() - started < 5 and table.attrs["judge"]["retries"] == 1


def test_trouble_that_lasts_is_a_failure_with_its_reason(server: Server, tmp_path: Path) -> None:
    server.always = (503, "")
    with pytest.raises(
        InputError, match="1 of 1 answers without labels.*prompt b, reference 0: HTTP 503, after 2 ret"
    ):
        judge.judge_spans(frame_of(b=["It's 12."]), settings(server, retries=2), str(tmp_path))
    assert len(server.requests) == 3


def test_no_server_at_all_is_named(server: Server, tmp_path: Path) -> None:
    nowhere = settings(server, base_url="http://127.0.0.1:9/v1", retries=1)
    with pytest.raises(InputError, match="prompt b, reference 0: no connection.*after 1 retries"):
        judge.judge_spans(frame_of(b=["It's 12."]), nowhere, str(tmp_path))


def test_retry_after_is_the_least_wait(server: Server, tmp_path: Path) -> None:
    server.script = [(429, "", {"Retry-After": "0.4"})]
    started = time.monotonic()
    judge.judge_spans(frame_of(b=["It's 12."]), settings(server), str(tmp_path))
    assert time.monotonic() - started >= 0.4


def test_a_wait_of_hours_stops(server: Server, tmp_path: Path) -> None:
    server.script = [(429, "", {"Retry-After": "7200"})]
    with pytest.raises(InputError, match="HTTP 429, to wait 7200 s, expected at most 600"):
        judge.judge_spans(frame_of(b=["It's 12."]), settings(server), str(tmp_path))


def test_retry_after_reads_seconds_and_dates() -> None:
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 100))
    assert 90 < chat.retry_after({"retry-after": date}) <= 100
    found = [chat.retry_after({"retry-after": text}) for text in ("2.5", "-3", "soon", "nan", "")]
    assert found == [2.5, 0, 0, 0, 0] and chat.retry_after({}) == 0


def test_backoff_doubles_with_jitter(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    waits: list[float] = []
    endpoint = chat.Endpoint(server.address, "large", KEY, 5.0, retries=8, backoff=1.0)
    monkeypatch.setattr(endpoint.stop, "wait", waits.append)
    server.always = (500, "")
    with pytest.raises(chat.Unanswered):
        chat.send(endpoint, [{"role": "user", "content": "?"}], {"name": "labels", "schema": {}})
    assert len(waits) == 8
    assert all(top / 2 <= wait <= top for wait, top in zip(waits, (1, 2, 4, 8, 16, 32, 60, 60), strict=True))


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        ("I think it is fine.", "found no JSON object"),
        ("", "found no JSON object"),
        ('{"core": [2], "replaceable": [1]}', "found words without a label: 3"),
        ('{"core": [2, 4, 0], "replaceable": [1, 3]}', "found numbers that no word has: 0, 4"),
        ('{"core": [2, 2], "replaceable": [1, 3]}', "found words labelled twice: 2"),
        ('{"core": [2], "replaceable": [1, 2, 3]}', "found words labelled twice: 2"),
        ('{"core": [2], "essential": [1, 3]}', "found unknown labels essential"),
        ('{"core": [2], "fixed": [1, 3]}', "found unknown labels fixed"),
        ('{"core": ["12"], "replaceable": [1, 3]}', "found something else than whole numbers under 'core'"),
        ('{"core": true, "replaceable": [1, 2, 3]}', "found something else than whole numbers under 'core'"),
    ],
)
def test_a_bad_reply_is_asked_again_with_its_fault(server: Server, tmp_path: Path, bad: str, fault: str) -> None:
    server.script = [bad]
    table = judge.judge_spans(frame_of(b=["It's 12."]), settings(server), str(tmp_path))
    assert table.label.tolist() == ["replaceable", "core", "replaceable"]
    first, second = (request["messages"] for request in server.requests)
    assert second[:2] == first and second[2] == {"role": "assistant", "content": bad or "(nothing)"}
    assert fault in second[3]["content"] and "words 1 to 3" in second[3]["content"]
    assert table.attrs["judge"]["repaired"] == 1 and table.attrs["judge"]["calls"] == 2


@pytest.mark.parametrize("body", ["<html>busy</html>", "{}", "[]", '{"choices": []}', '{"choices": [{"message": 3}]}'])
def test_a_reply_that_is_no_chat_completion_is_asked_again(server: Server, tmp_path: Path, body: str) -> None:
    server.script = [(200, body)]
    references = frame_of(**TWO)
    assert rows(judge.judge_spans(references, settings(server), str(tmp_path))) == expected(references)
    assert any("ended with 'no chat completion'" in request["messages"][-1]["content"] for request in server.requests)


def test_text_around_the_json_is_passed_over() -> None:
    text = 'Here:\n```json\n{"core": [1],\n "replaceable": [2]}\n```\nDone.'
    assert judge_prompt.read_labels(text, 2, ["core", "replaceable"]) == ["core", "replaceable"]
    with pytest.raises(ValueError, match="1, 2, .* 20 and 5 more"):
        judge_prompt.read_labels('{"core": []}', 25, ["core"])
    with pytest.raises(ValueError, match="no JSON object"):
        judge_prompt.read_labels('{"core": ' + "[" * 100_000 + "}", 2, ["core"])


def test_endless_nonsense_is_a_failure_that_the_next_run_asks_again(server: Server, tmp_path: Path) -> None:
    server.always = "nonsense"
    references = frame_of(b=["It's 12."])
    with pytest.raises(InputError, match="found 1 of 1 answers without labels, expected at most 0.*prompt b, refe"):
        judge.judge_spans(references, settings(server, repairs=3), str(tmp_path))
    assert len(server.requests) == 4
    (kept,) = tmp_path.iterdir()
    assert read_json(kept)["labels"] is None and len(read_json(kept)["faults"]) == 4
    server.always = None
    assert rows(judge.judge_spans(references, settings(server), str(tmp_path))) == expected(references)


def test_a_stated_share_may_fail(server: Server, tmp_path: Path) -> None:
    server.script = ["nonsense"] * 3
    references = frame_of(**TWO)
    table = judge.judge_spans(references, settings(server, failures=0.34, concurrency=1), str(tmp_path))
    assert rows(table) == [row for row in expected(references) if row[:2] != ("a", 0)]
    assert list(table.attrs["judge"]["failures"]) == ["prompt a, reference 0"]


def test_a_question_that_is_refused_alone_fails_alone(server: Server, tmp_path: Path) -> None:
    server.script = [(400, '{"error": {"message": "maximum context length is 8", "code": null}}')]
    table = judge.judge_spans(frame_of(**TWO), settings(server, failures=0.34, concurrency=1), str(tmp_path))
    (faults,) = table.attrs["judge"]["failures"].values()
    assert "HTTP 400" in faults[0] and "maximum context length" in faults[0] and len(server.requests) == 3


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        ((401, f'{{"error": {{"message": "Incorrect API key: {KEY}"}}}}'), "found HTTP 401, expected a valid key"),
        ((403, f"no, {KEY}"), "found HTTP 403, expected a valid key"),
        ((404, f'{{"error": {{"message": "no model large for {KEY}"}}}}'), "found HTTP 404.*expected a known model"),
        ((400, '{"error": {"code": "model_not_found", "message": "?"}}'), "found HTTP 400.*expected a known model"),
        ((429, '{"error": {"code": "insufficient_quota"}}'), "found HTTP 429.*an account with quota left"),
        ((405, ""), "found HTTP 405.*expected an endpoint for chat completions"),
    ],
)
def test_what_would_meet_every_question_stops_at_once(
    server: Server, tmp_path: Path, act: tuple, sentence: str
) -> None:
    server.always = act
    with pytest.raises(InputError, match=f"model 'large', key of 127.0.0.1: {sentence}") as caught:
        judge.judge_spans(frame_of(**TWO), settings(server, concurrency=1), str(tmp_path))
    assert len(server.requests) == 1 and KEY not in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_one_permanent_error_stops_all_threads(server: Server, references_path: Path, tmp_path: Path) -> None:
    server.always, server.delay = (401, ""), 0.02
    with pytest.raises(InputError, match="found HTTP 401"):
        judge.judge_spans(load_references(references_path), settings(server, concurrency=8), str(tmp_path))
    assert len(server.requests) <= 8 and not list(tmp_path.iterdir())


def test_without_counts_of_tokens_the_cost_is_unknown(server: Server, tmp_path: Path) -> None:
    message = {"role": "assistant", "content": '{"core": [2], "replaceable": [1, 3]}'}
    server.always = (200, json.dumps({"choices": [{"finish_reason": "stop", "message": message}]}))
    priced = settings(server, prompt_price=1.0, answer_price=1.0)
    account = judge.judge_spans(frame_of(b=["It's 12."]), priced, str(tmp_path)).attrs["judge"]
    assert (account["answer_tokens"], account["cost"]) == (0, None)


def test_a_missing_key_is_an_error_before_any_call(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", " ")
    with pytest.raises(InputError, match="environment variable JUDGE_KEY: found nothing, expected the key"):
        judge.judge_spans(frame_of(**TWO), settings(server, key_variable="JUDGE_KEY"), str(tmp_path))
    assert not server.requests and not list(tmp_path.iterdir())


def test_the_cache_answers_without_calls_and_without_key(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    references = frame_of(**TWO)
    first = judge.judge_spans(references, settings(server), str(tmp_path))
    monkeypatch.delenv("OPENAI_API_KEY")
    again = judge.judge_spans(
        references, settings(server, concurrency=1, budget=0, prompt_price=1, answer_price=2), str(tmp_path)
    )
    pd.testing.assert_frame_equal(first, again)
    assert len(server.requests) == 3
    assert again.attrs["judge"]["cached"] == 3 and again.attrs["judge"]["cost"] == pytest.approx(360e-6)


def test_the_cache_is_keyed_by_model_prompt_and_content(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(frame: pd.DataFrame, **changes: Any) -> int:
        before = len(server.requests)
        judge.judge_spans(frame, settings(server, **changes), str(tmp_path))
        return len(server.requests) - before

    assert asked(frame_of(**TWO)) == 3
    assert asked(frame_of(**TWO), timeout=9.0, seed=5, prompt_price=1.0) == 0
    assert asked(frame_of(**TWO), model="larger") == 3
    # The other answers of a prompt are part of the request.
    assert asked(frame_of(**TWO | {"a": ["Well, 3 + 4 = 7.", "So 3 + 4 = 7 figs."]})) == 2
    assert asked(frame_of(c=TWO["a"])) == 2  # the question has changed
    monkeypatch.setattr(judge_prompt, "REPAIR", judge_prompt.REPAIR + " Please. {fault}{last}")
    assert asked(frame_of(**TWO)) == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-30]),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text(path.read_text().replace('"core",', "")),
        lambda path: path.write_text(path.read_text().replace('"core",', '"vital",')),
        lambda path: path.write_bytes(b"\xff\xfe"),
    ],
)
def test_a_damaged_cache_file_is_asked_again(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Any
) -> None:
    references = frame_of(a=TWO["a"][:1])
    judge.judge_spans(references, settings(server), str(tmp_path))
    (path,) = tmp_path.iterdir()
    damage(path)
    assert rows(judge.judge_spans(references, settings(server), str(tmp_path))) == expected(references)
    assert len(server.requests) == 2 and "found a damaged cache file" in caplog.text


def test_equal_answers_to_a_prompt_are_asked_once(server: Server, tmp_path: Path) -> None:
    references = frame_of(a=["It's 12."] * 3)
    assert rows(judge.judge_spans(references, settings(server), str(tmp_path))) == expected(references)
    assert len(server.requests) == 1


def test_a_killed_run_resumes_where_it_was(server: Server, tmp_path: Path) -> None:
    references = frame_of(**{name: ["It's 12.", f"{name} is 7."] for name in "abcd"})
    server.script = [None] * 3 + ["stall"]
    arguments = (references, settings(server, concurrency=1), str(tmp_path))
    child = multiprocessing.get_context("fork").Process(target=judge.judge_spans, args=arguments)
    child.start()
    deadline = time.monotonic() + 20
    while len(server.requests) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert child.exitcode == -signal.SIGKILL and len(server.requests) == 4
    table = judge.judge_spans(*arguments)
    assert rows(table) == expected(references) and table.attrs["judge"]["cached"] == 3
    shown = [request["messages"][1]["content"] for request in server.requests]
    assert len(shown) == 9 and not set(shown[:3]) & set(shown[4:]) and len(set(shown)) == 8


def test_the_order_of_replies_changes_nothing(server: Server, references_path: Path, tmp_path: Path) -> None:
    references = load_references(references_path)
    server.script = ["nonsense", (500, ""), None, "drop"]
    one = judge.judge_spans(references, settings(server, concurrency=1), str(tmp_path / "one"))
    server.delay = 0.02
    many = judge.judge_spans(references, settings(server, concurrency=16), str(tmp_path / "many"))
    pd.testing.assert_frame_equal(one, many)
    assert rows(many) == expected(references)
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == sorted(
        path.name for path in (tmp_path / "many").iterdir()
    )


def test_troubles_that_follow_from_the_question_leave_the_labels_alone(
    references_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    references = load_references(references_path)
    found = []
    for concurrency in (1, 16):
        with serving(stall=0.8, troubles=partial(judge_server.trouble, hopeless=0.05)) as server:
            options = settings(server, timeout=0.5, concurrency=concurrency, failures=0.2)
            found.append(judge.judge_spans(references, options, str(tmp_path / str(concurrency))))
    one, many = found
    accounts = [table.attrs.pop("judge") for table in found]
    assert all(account["retries"] > 3 and account["repaired"] > 1 for account in accounts)
    pd.testing.assert_frame_equal(one, many)
    left_out = accounts[0]["failures"]
    assert 0 < len(left_out) < 8 and left_out == accounts[1]["failures"]
    assert rows(one) == [row for row in expected(references) if f"prompt {row[0]}, reference {row[1]}" not in left_out]


def test_the_judge_as_a_program(references_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    port = tmp_path / "port"
    command = [sys.executable, judge_server.__file__, "--port", "0", "--port-file", str(port), "--stall", "1"]
    program = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 20
        while not port.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        address = f"http://127.0.0.1:{int(port.read_text())}/v1"
        options = json.dumps({"model": "m", "base_url": address, "timeout": 0.5, "backoff": 0.01})
        references = load_references(references_path)
        table = judge.judge_spans(references, options, str(tmp_path / "cache"))
        assert rows(table) == expected(references) and table.attrs["judge"]["retries"] > 3
        assert program.poll() is None
    finally:
        program.kill()
        program.wait()


def test_the_estimate_by_hand_is_logged_first(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    priced = settings(server, prompt_price=2.0, answer_price=10.0, budget=1.0)
    judge.judge_spans(frame_of(b=["It's 12."]), priced, str(tmp_path))
    characters = sum(len(message["content"]) for message in server.requests[0]["messages"])
    sent, labelled = -(-characters // 3), 3 * 3 + 20
    cost = f"{(sent * 2 + labelled * 10) / 1e6:.4g}"
    first = caplog.messages[0]
    assert f"1 calls, about {sent} tokens sent and {labelled} labelled, cost about {cost}" in first
    assert caplog.messages[-1].endswith("100 tokens sent and 10 answered, cost 0.0003")


def test_an_estimate_above_the_budget_does_not_start(server: Server, tmp_path: Path) -> None:
    priced = settings(server, prompt_price=2.0, answer_price=10.0, budget=0.0001)
    with pytest.raises(InputError, match="found an estimated cost of 0.00.*the budget of 0.0001; nothing was asked"):
        judge.judge_spans(frame_of(**TWO), priced, str(tmp_path))
    assert not server.requests


def test_a_run_that_costs_more_than_its_estimate_stops(server: Server, tmp_path: Path) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 1_000_000}
    message = {"role": "assistant", "content": '{"core": [2], "replaceable": [1, 3]}'}
    server.always = (200, json.dumps({"choices": [{"finish_reason": "stop", "message": message}], "usage": usage}))
    references = frame_of(**{name: ["It's 12."] for name in "abcdef"})
    priced = settings(server, prompt_price=0.0, answer_price=1.0, budget=1.5, concurrency=1)
    with pytest.raises(InputError, match="found 2 spent with 2 of 6 answers labelled.*budget of 1.5"):
        judge.judge_spans(references, priced, str(tmp_path))
    assert 2 <= len(list(tmp_path.iterdir())) <= len(server.requests) < 6


def test_a_sample_is_of_prompts_and_nested() -> None:
    references = frame_of(**{f"p{number}": ["x", "y"] for number in range(20)})

    def prompts(**changes: Any) -> set[str]:
        chosen = judge.Judge(model="m", base_url="http://h/v1", **changes)
        sample = judge.sampled(references, chosen)
        assert list(sample.prompt_id) == [name for name in references.prompt_id if name in set(sample.prompt_id)]
        return set(sample.prompt_id)

    assert len(prompts(sample=5)) == 5 and prompts(sample=5) < prompts(sample=9) and len(prompts()) == 20
    assert prompts(sample=5) != prompts(sample=5, seed=1)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "found nothing, expected a JSON object with keys of .*'model', 'base_url'"),
        ("{", "found no JSON, expected"),
        ("[1]", "found list, expected a mapping with keys of .*'model', 'base_url'"),
        (json.dumps(f"https://me:{KEY}@host/v1"), "found str, expected a mapping"),
        ({"model": None}, r"model: found None, expected: input should be a valid string"),
        ({"concurrency": 0}, "concurrency: found 0, expected: input should be greater than or equal to 1"),
        ({"concurrency": "4"}, "concurrency: found '4', expected: input should be a valid integer"),
        ({"sample": 0}, "sample: found 0"),
        ({"timeout": -1}, "timeout: found -1"),
        ({"timeout": True}, "timeout: found True"),
        ({"failures": 1.5}, "failures: found 1.5"),
        ({"budget": 1}, "budget: found one without prompt_price and answer_price"),
        ({"retrys": 3}, "found 'retrys', expected one of model, .*; did you mean 'retries'"),
        ({"api_key": KEY}, "found 'api_key', expected one of model"),
        ({"key_variable": KEY}, "key_variable: found something else .*the name of an environment variable"),
        ({"key_variable": [KEY]}, "key_variable: found something else"),
        ({"base_url": f"https://me:{KEY}@host/v1"}, r"base_url: found something else .*http\(s\)://host"),
        ({"base_url": f"https://host/v1?key={KEY}"}, "base_url: found something else"),
        ({"base_url": f"https://host:{KEY}/v1"}, "base_url: found something else"),
        ({"base_url": [f"https://me:{KEY}@host/v1"]}, "base_url: found something else"),
        ({"base_url": "host/v1"}, "base_url: found something else"),
    ],
)
def test_wrong_settings_are_named_and_secrets_are_not_repeated(text: Any, sentence: str) -> None:
    if isinstance(text, dict):
        text = json.dumps({"model": "m", "base_url": "http://h/v1"} | text)
    with pytest.raises(InputError, match=rf"^--judge(: |\.){sentence}") as caught:
        judge.parse_settings(text)
    assert KEY not in str(caught.value) and caught.value.__cause__ is None


def test_every_missing_setting_is_named() -> None:
    with pytest.raises(InputError, match="^--judge.model: not found, .*\n--judge.base_url: not found, expected among"):
        judge.parse_settings("{}")


STUDY = """name: judged
models:
  some: {{source: /models/some, chat_template: workflow/templates/chatml.jinja, end_token: <|im_end|>}}
data: {{sources: [{{file: some.jsonl}}], references: 3}}
methods: {{sft: {{objective: sft}}}}
benchmarks: {{gsm8k: {{task: paper_gsm8k, max_new_tokens: 512, source: {{file: test.jsonl}}}}}}
analysis:
  annotators: [agreement, llm]
  judge:
    model: large
    {line}
"""


def study_of(tmp_path: Path, line: str = "base_url: https://host/v1") -> Study:
    """A study of real data with this line in the block of its judge."""
    (tmp_path / "judged.yaml").write_text(STUDY.format(line=line))
    return load_study(tmp_path / "judged.yaml")


def test_a_study_describes_its_judge(tmp_path: Path) -> None:
    prices = "base_url: https://host/v1\n    prompt_price: 1\n    answer_price: 3\n    budget: 20\n    timeout: 90"
    study = study_of(tmp_path, prices)
    assert study.analysis.annotators == ["agreement", "llm"] and study.labels == "agreement"
    found = study.analysis.judge
    assert (found.prompt_price, found.budget, found.timeout) == (1.0, 20.0, 90.0)
    assert all(type(value) is float for value in (found.prompt_price, found.budget, found.timeout))
    # What a rule hands to the command is what the study says.
    assert judge.parse_settings(canonical_json(found.model_dump())) == found


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("base_url: host/v1", "11: analysis.judge.base_url: found something else"),
        (f"base_url: https://me:{KEY}@host/v1", "11: analysis.judge.base_url: found something else"),
        (f"base_url: [https://me:{KEY}@host/v1]", "11: analysis.judge.base_url: found something else"),
        (f"base_url: http://h\n    key_variable: {KEY}", "12: analysis.judge.key_variable: found something else"),
        (f"base_url: http://h\n    api_key: {KEY}", "9: analysis.judge: found 'api_key', expected one of model"),
        ("base_url: http://h\n    retrys: 3", "9: analysis.judge: found 'retrys', .*did you mean 'retries'"),
        ("base_url: http://h\n    budget: 3", "12: analysis.judge.budget: found one without prompt_price"),
        (
            "base_url: http://h\n    failures: 2",
            "12: analysis.judge.failures: found 2, expected: input should be less",
        ),
        ("timeout: 3", "9: analysis.judge.base_url: not found, expected among"),
    ],
)
def test_a_study_with_a_wrong_judge_is_refused_without_its_secrets(tmp_path: Path, line: str, place: str) -> None:
    with pytest.raises(InputError, match=rf"judged.yaml:{place}") as caught:
        study_of(tmp_path, line)
    assert KEY not in str(caught.value)


def test_a_judge_that_is_no_mapping_is_refused_without_its_secrets(tmp_path: Path) -> None:
    path = tmp_path / "judged.yaml"
    path.write_text(STUDY.format(line="").partition("  judge:")[0] + f"  judge: https://me:{KEY}@host/v1\n")
    with pytest.raises(InputError, match="judged.yaml:9: analysis.judge: found str, expected a mapping") as caught:
        load_study(path)
    assert KEY not in str(caught.value)


def test_the_command_from_end_to_end(
    server: Server, references_path: Path, annotations_path: Path, tmp_path: Path,
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    quoting = (429, f'{{"error": {{"message": "wait, {KEY}"}}}}')
    server.script = [f"no JSON, {KEY}", quoting, f'{{"{KEY}": [1]}}', "drop"]
    output, report = tmp_path / "llm.parquet", tmp_path / "agreement.json"
    annotate.main([
        "--annotator", "llm", "--references", str(references_path), "--output", str(output),
        "--judge", settings(server, prompt_price=1.0, answer_price=2.0, sample=6), "--cache", str(tmp_path / "cache"),
    ])  # fmt: skip
    agreement.main([
        "--first", str(output), "--second", str(annotations_path), "--references", str(references_path),
        "--names", "llm", "truth", "--output", str(report),
    ])  # fmt: skip
    references = load_references(references_path)
    table = read_parquet(output, ["prompt_id", "reference_id", "start", "end", "label"])
    sample = references[references.prompt_id.isin(table.prompt_id)]
    assert sample.prompt_id.nunique() == 6 and rows(table) == expected(sample)
    metadata = read_parquet_metadata(output)
    used, account = metadata["provenance"]["settings"]["judge"], metadata["judge"]
    assert used["host"] == account["host"] == "127.0.0.1" and "base_url" not in used and used["model"] == "large"
    assert account["prompt_hash"] == judge_prompt.prompt_hash(["core", "replaceable"]) and account["retries"] == 2
    assert account["prompt"].startswith("You judge what each word") and account["failures"] == {}
    assert account["calls"] == len(server.requests) == 24 + 4
    assert account["cost"] == pytest.approx((account["prompt_tokens"] + 2 * account["answer_tokens"]) / 1e6)
    found = read_json(report)
    assert (found["answers"], found["answers_of_second_alone"], found["all"]["prompts"]) == (24, 16, 6)
    said = [row[4] for row in expected(sample)]
    assert {name: sum(found["confusion"][name].values()) for name in found["confusion"]} == {
        name: said.count(name) for name in ("core", "replaceable", "fixed", "end")
    }
    # The fixture: equations and the last number core, openers replaceable, "The answer is" and stops fixed.
    assert found["confusion"]["core"]["core"] > 0 == found["confusion"]["replaceable"]["core"]
    printed = capfd.readouterr()
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(kept) == 24 + 2 and not any(KEY.encode() in content for content in kept)
    assert KEY not in caplog.text + printed.out + printed.err
    assert not any(server.address.encode() in content for content in kept)


@pytest.mark.parametrize("missing", ["--judge", "--cache"])
def test_the_command_needs_judge_and_cache(
    server: Server, references_path: Path, tmp_path: Path, missing: str
) -> None:
    options = {"--judge": settings(server), "--cache": str(tmp_path / "cache")}
    del options[missing]
    given = [part for pair in options.items() for part in pair]
    command = ["--annotator", "llm", "--references", str(references_path), "--output", str(tmp_path / "out"), *given]
    with pytest.raises(InputError, match=f"{missing}: found nothing"):
        annotate.main(command)
    assert not server.requests and not (tmp_path / "out").exists()


def test_labels_carry_over_to_tokens_that_split_words(server: Server, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    answer = "Therefore 1234 + 5 = 1239 marbles."
    references = frame_of(a=[answer])
    spans = judge.judge_spans(references, settings(server), str(tmp_path))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(
        ["There 12 34 marb les fore"],
        trainers.BpeTrainer(vocab_size=280, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()),
    )
    offsets = [offset for offset in tokenizer.encode(answer).offsets if answer[slice(*offset)].strip()]
    starts = [end - len(answer[start:end].lstrip()) for start, end in offsets]
    tokens = pd.DataFrame({"prompt_id": "a", "reference_id": 0, "start": starts, "end": [end for _, end in offsets]})
    labels = label_tokens(tokens, spans)
    assert len(tokens) > len(spans)
    for start, label in zip(starts, labels, strict=True):
        word = next(match.group() for match in annotate.WORD.finditer(answer) if match.start() <= start < match.end())
        assert label == opinion(word, [answer], 0)
