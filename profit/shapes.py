"""The data block of a study with real references, and the way from one row of a source to a prompt and its answer.

The paper trains on 2,000 conversations of Infinity-Instruct (paper §5.1), a `sharegpt` file; others keep `messages`,
or one column for the prompt and one for the answer. A row that cannot be read raises `BadRow`; nothing is repaired.

No command: used by profit.collect. Imports pydantic alone, so that a study file can be checked at once.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from profit.files import InputError
from profit.methods import Count, Seed, Some
from profit.miniature.world import Share, Strict

# Names of the columns, and of the keys of a turn, that each shape reads; `columns` of a source replaces them.
SHAPES: dict[str, dict[str, str]] = {
    "messages": {"turns": "messages", "role": "role", "content": "content"},
    "sharegpt": {"turns": "conversations", "role": "from", "content": "value"},
    "prompt_response": {"prompt": "prompt", "answer": "response"},
    "question_answer": {"prompt": "question", "answer": "answer"},
}
ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
JSON_TYPES = {type(None): "null", bool: "true or false", int: "a number", float: "a number", str: "text",
              list: "a list", dict: "an object"}  # fmt: skip

ShapeName = Literal["messages", "sharegpt", "prompt_response", "question_answer"]
ColumnName = Literal["turns", "role", "content", "prompt", "answer", "system"]


class Source(Strict):
    """Rows of local files or of a data set on the hub, all of one shape."""

    file: str | None = Field(None, description="JSON list, JSONL or Parquet; a glob reads its matches in sorted order")
    hub: str | None = Field(None, description="id of a data set on the hub")
    revision: str | None = Field(None, description="commit of the data set; left out, its newest state is taken")
    config: str | None = Field(None, description="configuration of the data set")
    split: str | None = Field(None, description="split of the data set; default: train")
    shape: Literal["auto", ShapeName] = Field("auto", description="auto: from the columns of the first rows")
    columns: dict[ColumnName, str] = Field({}, description="names that differ from the shape's own")

    @property
    def name(self) -> str:
        """What messages call this source."""
        return self.file or f"{self.hub}@{self.revision or 'newest'}"

    @model_validator(mode="after")
    def _coherent(self) -> "Source":
        if (self.file is None) == (self.hub is None):
            raise ValueError(f"found file {self.file!r} and hub {self.hub!r}, expected one of the two")
        given = [key for key in ("revision", "config", "split") if getattr(self, key) is not None]
        if self.file is not None and given:
            raise ValueError(f"{given[0]}: found {getattr(self, given[0])!r} with file, expected it with hub alone")
        if self.columns and self.shape == "auto":
            raise ValueError(f"columns: found {self.columns} with shape auto, expected a shape of {list(SHAPES)}")
        foreign = [key for key in self.columns if key not in (*SHAPES.get(self.shape, ()), "system")]
        if foreign:
            expected = [*SHAPES[self.shape], "system"]
            raise ValueError(f"columns: found {foreign[0]!r}, expected some of {expected} with shape {self.shape}")
        return self


class References(Strict):
    """So many answers a prompt, some of them held: never trained on."""

    references: Count
    held: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _some_are_trained(self) -> "References":
        if self.held >= self.references:
            raise ValueError(f"held: found {self.held}, expected less than references = {self.references}")
        return self


class Collected(References):
    """References from real data: the sources, joined by prompt, and what is done with what they hold."""

    sources: Some[Source]
    system: Literal["refuse", "drop", "prefix"] = Field(
        "refuse",
        description="a row with a system message is bad, loses it, or has it before the prompt with an empty line "
        "between; refuse, because the answer may depend on it and no method here trains on a system message",
    )
    turns: Literal["refuse", "first"] = Field(
        "refuse",
        description="a row with more than one exchange is bad or gives its first; refuse, because the rest is lost",
    )
    white_space: Literal["edges", "runs"] = Field(
        "edges",
        description="what does not make two texts differ: white space at their edges and the kind of line end, or "
        "any run of white space; edges, because inside a text it may carry meaning (code)",
    )
    strip: bool = Field(
        False, description="remove white space at the edges of prompts and answers, which some chat templates do too"
    )
    distinct: bool = Field(
        True, description="drop an answer that equals an earlier one of its prompt: twice the same adds nothing new"
    )
    references: Count = Field(
        1, description="answers a prompt must have: prompts with fewer are dropped, of more the first are taken"
    )
    held: Annotated[int, Field(ge=0)] = Field(
        0, description="how many of them are never trained on; 0, because only analyses of overfitting need some"
    )
    choice: Literal["seed", "first"] = Field(
        "seed",
        description="which references a run of K trains on: K of each prompt drawn by its seed, since they are "
        "exchangeable, or the first K in the order of the sources",
    )
    prompts: Count | None = Field(None, description="most prompts to take; default: all")
    order: Literal["file", "seed"] = Field(
        "file", description="which prompts are taken: the first, which anyone can check, or the first of a permutation"
    )
    seed: Seed = Field(0, description="of the permutation and of the choice of held answers")
    bad_rows: Share = Field(
        0.01, description="largest share of bad rows in a source; above it the source is damaged or of another shape"
    )


class BadRow(Exception):
    """A row that gives no reference: its `kind`, by which bad rows are counted, and "found …, expected …"."""

    def __init__(self, kind: str, sentence: str) -> None:
        super().__init__(sentence)
        self.kind = kind


def columns_of(source: Source, first: Sequence[Any]) -> tuple[str, dict[str, str]]:
    """The shape of a source and the names of its columns; `first` are rows of it, which decide where it says auto.

    Raises:
        InputError: the columns of the first rows fit no shape, or more than one.
    """
    shape = source.shape
    if shape == "auto":
        found = dict.fromkeys(str(key) for row in first if isinstance(row, dict) for key in row)
        if not found:
            raise InputError(
                f"{source.name}: found no object in the first rows (row 1: {str(first[0])[:120]}), expected one a row"
            )
        fitting = [name for name, names in SHAPES.items() if _columns(names) <= set(found)]
        if len(fitting) != 1:
            known = "; ".join(f"{name}: {', '.join(sorted(_columns(names)))}" for name, names in SHAPES.items())
            raise InputError(
                f"{source.name}: found columns {list(found)}, which fit {' and '.join(fitting) or 'no shape'}, "
                f"expected those of one shape ({known}); say which with `shape`, and other names with `columns`"
            )
        shape = fitting[0]
    return shape, {"system": "system", **SHAPES[shape], **source.columns}


def exchange(row: Any, names: dict[str, str], settings: Collected) -> tuple[str, str]:
    """The user's message and the answer of a row, character for character unless `settings` say otherwise.

    names: as `columns_of` gives them.

    Raises:
        BadRow: the row holds no such pair, or more than `settings` admit.
    """
    if isinstance(row, BadRow):
        raise row
    if not isinstance(row, dict):
        raise BadRow("not an object", f"found {_type(row)}, expected an object")
    systems = [row[names["system"]]] if row.get(names["system"]) is not None else []
    if "turns" in names:
        before, prompt, answer = _first_exchange(row, names, settings.turns)
        systems += before
    else:
        prompt, answer = (_text(_value(row, names[key]), names[key]) for key in ("prompt", "answer"))
    # Many files give every row a system message and leave most empty.
    systems = [_text(text, "system message") for text in systems if not isinstance(text, str) or text.strip()]
    if systems and settings.system == "refuse":
        raise BadRow("system message", f"found {_short(systems[0])}, expected none (or set system to drop or prefix)")
    if systems and settings.system == "prefix":
        prompt = "\n\n".join([*systems, prompt])
    return (prompt.strip(), answer.strip()) if settings.strip else (prompt, answer)


def same(text: str, white_space: str) -> str:
    """What two texts have in common that count as the same: `white_space` as in `Collected`."""
    if white_space == "runs":
        return " ".join(text.split())
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def _first_exchange(row: dict, names: dict[str, str], several: str) -> tuple[list[Any], str, str]:
    """The system message, if any, and the first two turns after it."""
    turns = _value(row, names["turns"])
    if not isinstance(turns, list):
        raise BadRow("wrong type", f"{names['turns']}: found {_type(turns)}, expected a list of turns")
    roles, contents = [], []
    for number, turn in enumerate(turns, start=1):
        where = f"{names['turns']}, turn {number}"
        if not isinstance(turn, dict):
            raise BadRow("wrong type", f"{where}: found {_type(turn)}, expected an object")
        role, content = (_value(turn, names[key], f"{where}: ") for key in ("role", "content"))
        if not isinstance(role, str) or role not in ROLES:
            raise BadRow("unknown role", f"{where}: found {_short(role)}, expected one of {', '.join(ROLES)}")
        roles.append(ROLES[role])
        contents.append(content)
    start = int(roles[:1] == ["system"])
    exchanged = f"found the roles {', '.join(roles[:4]) or 'of no turn'}{', …' if len(roles) > 4 else ''}, expected"
    if roles[start : start + 1] != ["user"]:
        raise BadRow("no user turn first", f"{exchanged} user first")
    if roles[start + 1 : start + 2] != ["assistant"]:
        raise BadRow("no assistant answer", f"{exchanged} assistant after the first user")
    if len(roles) > start + 2 and several == "refuse":
        raise BadRow("several turns", f"{exchanged} one exchange (or set turns to first)")
    prompt, answer = (_text(contents[place], f"{names['turns']}, turn {place + 1}") for place in (start, start + 1))
    return contents[:start], prompt, answer


def _value(content: dict, key: str, where: str = "") -> Any:
    if key not in content:
        raise BadRow("missing key", f"{where}found the keys {list(content)}, expected also {key!r}")
    return content[key]


def _text(value: Any, where: str) -> str:
    if isinstance(value, float) and math.isnan(value):
        raise BadRow("NaN", f"{where}: found NaN, expected text")
    if not isinstance(value, str):
        raise BadRow("wrong type", f"{where}: found {_type(value)}, expected text")
    if not value.strip():
        raise BadRow("empty text", f"{where}: found {'white space' if value else 'an empty text'}, expected text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRow("not Unicode", f"{where}: found half a character at {error.start}, expected Unicode") from None
    return value


def _columns(names: dict[str, str]) -> set[str]:
    return {name for key, name in names.items() if key not in ("role", "content")}


def _type(value: Any) -> str:
    return JSON_TYPES.get(type(value), type(value).__name__)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
