"""One question to an OpenAI-compatible endpoint: sent, sent again where that can help, and its reply read.

Three kinds of failure. What passes (time-out, dropped connection, HTTP 408, 409, 429, 5xx) is tried again after
backoff * 2^n seconds, n = 0, 1, …, at most a minute, times a random factor in [0.5, 1], so that parallel questions do
not come back together; a server's Retry-After is the least wait. What concerns this one question (HTTP 400, 413 or
422: too long, filtered) and what did not pass in time is `Unanswered`, for the caller to count. Anything else (key,
address, model, quota) would meet every question and is an InputError at once.

The client library's own retries are off: its first delay is fixed, and it gives up on a Retry-After above two minutes.
An endpoint that rejects `response_format` is asked without it from then on. The key is sent in the header alone; it is
cut out of every text that comes back, since endpoints quote it in errors. A placeholder for endpoints that need no key
("EMPTY", "none") is no secret, and may be a word of an answer: one shorter than SECRET stays.

No command: used by profit.asking.
"""

import email.utils
import json
import logging
import random
import threading
import time
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import openai

from profit.files import InputError

log = logging.getLogger(__name__)

PASSING = (408, 409, 429)
OF_THE_QUESTION = (400, 413, 422)
LONGEST_BACKOFF, LONGEST_WAIT = 60.0, 600.0
SECRET = 8
# What endpoints name when they know no structured output.
STRUCTURE = ("response_format", "json_schema", "structured output", "guided")


class Unanswered(Exception):
    """The endpoint does not answer this question; it may answer others."""

    def __init__(self, reason: str, retries: int) -> None:
        super().__init__(reason)
        self.retries = retries


@dataclass(frozen=True)
class Reply:
    """Text of a reply ("" if there is none), why it ended, its tokens as the endpoint counts them, and retries.

    quoted: the key stood in the text.
    """

    text: str
    finish: str
    prompt_tokens: int
    answer_tokens: int
    retries: int
    quoted: bool = False


@dataclass
class Endpoint:
    """Where questions go, and what all threads share: `structured` ends with the first rejection, `stop` ends waits.

    options: what each request carries beside model and messages. backoff: seconds before the first retry.
    """

    base_url: str
    model: str
    key: str = field(repr=False)
    timeout: float
    retries: int
    backoff: float
    options: dict[str, Any] = field(default_factory=dict)
    structured: bool = True
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.client = openai.OpenAI(base_url=self.base_url, api_key=self.key, timeout=self.timeout, max_retries=0)
        logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs a line with the address for every request

    @property
    def host(self) -> str:
        """Host of the address, without path or port."""
        return urlsplit(self.base_url).hostname or ""

    def clean(self, text: str) -> str:
        """`text` without the key."""
        return text.replace(self.key, "[key]") if len(self.key) >= SECRET else text


def send(endpoint: Endpoint, messages: list[dict[str, str]], schema: dict[str, Any] | None = None) -> Reply:
    """Ask once, with retries.

    Args:
        messages: of the chat, each with role and content.
        schema: of a JSON answer, as `response_format` wants it (name, schema, strict); None: the answer is plain text.

    Raises:
        Unanswered: refused for what this question is, or still failing after `endpoint.retries` retries.
        InputError: key, address, model or quota is wrong, or the endpoint asks for a wait above LONGEST_WAIT.
        CancelledError: `endpoint.stop` was set.
    """
    retries = 0
    while True:
        if endpoint.stop.is_set():
            raise CancelledError
        structured = schema is not None and endpoint.structured
        form = {"response_format": {"type": "json_schema", "json_schema": schema}} if structured else {}
        create = endpoint.client.chat.completions.with_raw_response.create
        wait = 0.0
        try:
            raw = create(model=endpoint.model, messages=messages, **form, **endpoint.options)
            return read(endpoint, raw.http_response.text, retries)
        except openai.APIStatusError as error:
            status, said = error.status_code, endpoint.clean(error.response.text)
            if structured and status in OF_THE_QUESTION and any(name in said.lower() for name in STRUCTURE):
                if endpoint.structured:
                    log.warning("%s rejects response_format: from here on plain JSON is asked for", endpoint.host)
                endpoint.structured = False
                continue
            reason = judged(endpoint, status, said, error.code, error.param, retries)
            wait = retry_after(error.response.headers)
        except openai.APITimeoutError:
            reason = f"no reply within {endpoint.timeout:g} s"
        except openai.APIConnectionError as error:
            reason = endpoint.clean(f"no connection ({type(error.__cause__).__name__}: {error.__cause__})")
        if retries == endpoint.retries:
            raise Unanswered(f"{reason}, after {retries} retries", retries) from None
        if wait > LONGEST_WAIT:
            raise InputError(
                f"{endpoint.host}: found {reason}, to wait {wait:.0f} s, expected at most {LONGEST_WAIT:.0f}; what is "
                f"answered is kept, run again later"
            )
        delay = min(endpoint.backoff * 2**retries, LONGEST_BACKOFF) * random.uniform(0.5, 1)
        log.info("%s: %s; again in %.1f s", endpoint.host, reason, max(wait, delay))
        endpoint.stop.wait(max(wait, delay))
        retries += 1


def judged(endpoint: Endpoint, status: int, said: str, code: str | None, param: str | None, retries: int) -> str:
    """Name an HTTP error that passes; Unanswered or InputError for one that does not."""
    about = f"model {endpoint.model!r}, key of {endpoint.host}"
    if status in (401, 403):  # its text often quotes a part of the key
        raise InputError(f"{about}: found HTTP {status}, expected a valid key with access to this model") from None
    quoted = f"HTTP {status}, {' '.join(said.split())[:300]!r}"
    if status == 404 or code == "model_not_found" or param == "model":
        raise InputError(f"{about}: found {quoted}, expected a known model below base_url") from None
    if code == "insufficient_quota":
        raise InputError(f"{about}: found {quoted}, expected an account with quota left") from None
    if status in OF_THE_QUESTION:
        raise Unanswered(quoted, retries) from None
    if status in PASSING or status >= 500:
        return f"HTTP {status}"
    raise InputError(f"{about}: found {quoted}, expected an endpoint for chat completions") from None


def retry_after(headers: Any) -> float:
    """Seconds that a Retry-After header (seconds or an HTTP date, RFC 9110) asks to wait; 0 without a readable one."""
    text = headers.get("retry-after", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


def read(endpoint: Endpoint, body: str, retries: int) -> Reply:
    """The first choice of a reply; whatever has another form is a reply without text."""
    try:
        content = json.loads(body)
        choice = content["choices"][0]
        text, finish = choice["message"].get("content"), choice.get("finish_reason")
    except (json.JSONDecodeError, TypeError, KeyError, IndexError, AttributeError):
        return Reply("", "no chat completion", 0, 0, retries)
    usage = content.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    tokens = [counts.get(name) for name in ("prompt_tokens", "completion_tokens")]
    text = text if isinstance(text, str) else ""
    return Reply(
        endpoint.clean(text), endpoint.clean(str(finish)),
        *(count if isinstance(count, int) and count >= 0 else 0 for count in tokens), retries,
        quoted=endpoint.clean(text) != text,
    )  # fmt: skip
