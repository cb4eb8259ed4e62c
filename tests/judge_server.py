"""A model that runs here: an OpenAI-compatible endpoint that judges words or answers questions, and has troubles.

Asked to judge, it calls a word core if it holds a digit, is + or =, or stands in most of the other references of its
prompt; else replaceable. It answers any other question with words that follow from its text and from how often it was
asked. Tests order troubles one by one (`script`, `always`). As a program, troubles follow from the text of a question
and from how often it was asked, whatever else is asked before or beside it, so that a study gets the same at any
concurrency.

    python tests/judge_server.py --port 0 --port-file PORT [--stall 5] [--hopeless 0.02]

serves until it is killed, at http://127.0.0.1:PORT/v1; the file is written when it listens.
"""

import argparse
import hashlib
import json
import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

WORDS_OF = re.compile(r"\n\nWords of answer \[(\d+)\]:\n")
REFERENCES = "\n\nReference answers:\n"
WORD = re.compile(r"\d+(?:[.,]\d+)*|\w+(?:['’]\w+)*|[^\w\s]")

Request = dict[str, Any]
# What a question meets when it is asked first, again, …, by its text, which makes it one of 32 kinds.
TROUBLES: dict[int, list[Any]] = {
    **dict.fromkeys((0, 1), [(500, "oh")]),
    2: [(503, "<html>busy</html>"), (502, "")],
    **dict.fromkeys((3, 4), [(429, '{"error": {"message": "slow down"}}', {"Retry-After": "0.2"})]),
    **dict.fromkeys((5, 6), ["I think that it is fine."]),
    7: ['{"core": [1], "replaceable": []}', '{"essential": [1]}'],
    8: ["drop", "cut"],
    9: ["stall"],
    10: ["stall", "stall"],
}


def opinion(word: str, answers: Sequence[str], number: int) -> str:
    """The label of a word of answer `number` (from 0) of `answers`."""
    others = [words_of(answer) for place, answer in enumerate(answers) if place != number]
    agreed = 2 * sum(word.casefold() in words for words in others) > len(others)
    return "core" if agreed or word in "+=" or any(letter.isdigit() for letter in word) else "replaceable"


@lru_cache(maxsize=4096)
def words_of(answer: str) -> frozenset[str]:
    """The words and marks of an answer, in small letters."""
    return frozenset(word.casefold() for word in WORD.findall(answer))


def question_of(request: Request) -> str:
    """What the user says first."""
    return next(message["content"] for message in request["messages"] if message["role"] == "user")


def plain_answer(question: str, number: int) -> str:
    """The answer to a question that is no judge's, asked for the time `number` (from 0)."""
    digits = hashlib.sha256(f"{number} {question}".encode()).hexdigest()
    return f"Answer {number + 1} to “{question[:20]}”:\n\n" + " ".join(digits[at : at + 4] for at in range(0, 40, 4))


def right_reply(request: Request, seen: int) -> str:
    """A valid reply to a request that came `seen` times before: to a judge's, the numbers of the words by label."""
    content = question_of(request)
    if not WORDS_OF.search(content):
        return plain_answer(content, seen)
    last = list(WORDS_OF.finditer(content))[-1]
    # A line [2] within the first answer would be taken for the beginning of the second.
    answers = re.split(r"(?:^|\n\n)\[\d+\]\n", content[: last.start()].partition(REFERENCES)[2])[1:]
    found: dict[str, list[int]] = {"core": [], "replaceable": []}
    for line in content[last.end() :].split("\n"):
        place, word = line.split(" ", 1)
        found[opinion(word, answers, int(last[1]) - 1)].append(int(place))
    return json.dumps(found)


def trouble(request: Request, seen: int, hopeless: float = 0.0) -> Any:
    """What to do with a question that was asked `seen` times before; None: answer well.

    hopeless: share of questions that get nonsense however often they are asked.
    """
    number = int(hashlib.sha256(question_of(request).encode()).hexdigest()[:12], 16)
    if (number >> 8) % 10_000 < hopeless * 10_000:
        return "I cannot say."
    return dict(enumerate(TROUBLES.get(number % 32, []))).get(seen)


class Server(ThreadingHTTPServer):
    """Speaks the chat-completions format. `script` holds what to do with the next requests, then `always`.

    An entry is "stall", "drop", "cut" (within the reply), a text to reply, or (status, body, headers); None: as
    `troubles`, which gets the request and how often its question came before, or else well.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, port: int = 0, stall: float = 20.0, troubles: Callable[[Request, int], Any] | None = None
    ) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.stall, self.troubles = stall, troubles
        self.script: list[Any] = []
        self.always: Any = None
        self.delay = 0.0
        self.requests: list[Request] = []
        self.keys: list[str] = []
        self.asked: Counter[str] = Counter()
        self.released = threading.Event()
        self.guard = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def act_on(self, request: Request, key: str) -> Any:
        """Note a request and say what to do with it."""
        with self.guard:
            self.requests.append(request)
            self.keys.append(key)
            question = question_of(request)
            seen = self.asked[question]
            self.asked[question] += 1
            act = self.script.pop(0) if self.script else self.always
        act = self.troubles(request, seen) if act is None and self.troubles else act
        return right_reply(request, seen) if act is None else act

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        act = self.server.act_on(request, self.headers["Authorization"])
        time.sleep(random.random() * self.server.delay)
        if act == "stall":
            self.server.released.wait(self.server.stall)
        elif act == "drop":
            self.connection.close()
        elif act == "cut":
            self.reply(200, '{"choices": [', {"Content-Length": "1000"})
            self.connection.close()
        elif isinstance(act, tuple):
            self.reply(*act)
        else:
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": act}}
            usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
            content = {"id": "1", "object": "chat.completion", "created": 0, "model": request["model"]}
            self.reply(200, json.dumps({**content, "choices": [choice], "usage": usage}))

    def reply(self, status: int, body: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        usual = {"Content-Type": "application/json", "Content-Length": str(len(body.encode()))}
        for name, value in (usual | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args: Any) -> None:
        """Silence."""


@contextmanager
def serving(**options: Any) -> Iterator[Server]:
    """A server in a thread of this process; options as `Server`."""
    server = Server(**options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def main(argv: list[str] | None = None) -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--port-file", type=Path, required=True, help="where the port is written")
    parser.add_argument("--stall", type=float, default=5.0, help="seconds of a stall: more than the client's timeout")
    parser.add_argument("--hopeless", type=float, default=0.0, help="share of questions that never get a usable reply")
    args = parser.parse_args(argv)
    server = Server(args.port, args.stall, partial(trouble, hopeless=args.hopeless))
    temporary = args.port_file.with_name(f".{args.port_file.name}.part")
    temporary.write_text(f"{server.server_port}\n")
    os.replace(temporary, args.port_file)
    server.serve_forever()


if __name__ == "__main__":
    main()
