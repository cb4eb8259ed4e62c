"""What pydantic says about a block of settings, as sentences: key path, what was found, what was expected.

No command: used by profit.study, and by every rule that takes such a block on its command line.
"""

import difflib
import re
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, Discriminator, Tag, ValidationError

from profit.files import InputError

Block = TypeVar("Block", bound=BaseModel)
Keys = tuple[str | int, ...]


def validated(schema: type[Block], content: Any, where: str) -> Block:
    """The block that `content` describes, lists standing for tuples as JSON writes them.

    Raises:
        InputError: one line an error, "<where>.key.path: found …, expected …".
    """
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, (where, *keys)))}: {what}" for keys, what in sentences(schema, error)]
        raise InputError("\n".join(dict.fromkeys(lines))) from None


def sentences(schema: type[BaseModel], error: ValidationError) -> Iterator[tuple[Keys, str]]:
    """(key path, "found …, expected …") of each error in a block of `schema`."""
    for item in error.errors():
        yield _sentence(schema, item)


def unknown(found: Any, allowed: Any) -> str:
    """A sentence that names what was found, the nearest allowed name, and all allowed names."""
    names = [str(name) for name in allowed]
    near = difflib.get_close_matches(str(found), names, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"found {_shown(str(found))}, expected one of {', '.join(names)}{hint}"


def _shown(found: Any) -> str:
    """What was found, without user and password of an address in it."""
    return re.sub(r"//[^/\s'\"]*@", "//…@", repr(found))


def either(choose: Any, *blocks: type[BaseModel]) -> Any:
    """The type of a key that holds one of several blocks; `choose` gives the class for some content."""
    tagged = tuple(Annotated[block, Tag(_tag(block))] for block in blocks)
    return Annotated[Union[tagged], Discriminator(lambda content: _tag(_class_of(choose, content)))]  # noqa: UP007


def _class_of(choose: Any, content: Any) -> type[BaseModel]:
    return type(content) if isinstance(content, BaseModel) else choose(content)


def _tag(block: type[BaseModel]) -> str:
    return f"<{block.__name__}>"


def _sentence(schema: type[BaseModel], error: Any) -> tuple[Keys, str]:
    path = [key for key in error["loc"] if key != "[key]" and not str(key).startswith(("list[", "constrained"))]
    keys = tuple(key for key in path if not _is_tag(key))
    what = error["msg"].removeprefix("Value error, ")
    kind = error["type"]
    if kind == "value_error":
        inner, colon, rest = what.partition(": ")
        keys, what = ((*keys, *inner.split(".")), rest) if colon and " " not in inner else (keys, what)
    elif kind == "extra_forbidden":
        what = unknown(keys[-1], _names(_schema_at(schema, path[:-1])))
        keys = keys[:-1]
    elif kind == "literal_error":
        allowed = error["ctx"]["expected"].replace(" or ", ", ").split(",")
        what = unknown(error["input"], [part.strip("' ") for part in allowed])
    elif kind == "missing":
        what = f"not found, expected among the keys {_names(_schema_at(schema, path[:-1]))}"
    else:
        what = f"found {_shown(error['input'])}, expected: {what[0].lower()}{what[1:]}"
    return keys, what


def _is_tag(key: Any) -> bool:
    return str(key).startswith("<")


def _names(schema: type[BaseModel] | None) -> list[str]:
    return list(schema.model_fields) if schema is not None else []


def _schema_at(schema: Any, path: list[Any]) -> type[BaseModel] | None:
    """The block of the schema that a path of pydantic's leads to, tags of `either` included."""
    for key in path:
        if _is_tag(key):
            schema = next(block for block in _blocks(schema) if _tag(block) == key)
        elif _is_block(schema):
            schema = schema.model_fields[key].annotation
        else:
            schema = _blocks(schema)[0] if _blocks(schema) and get_origin(schema) is None else get_args(schema)[-1]
        if not _is_block(schema) and get_origin(schema) in (Union, UnionType):
            blocks = [part for part in get_args(schema) if _is_block(part)]
            schema = blocks[0] if len(blocks) == 1 else schema
    return schema if _is_block(schema) else None


def _blocks(schema: Any) -> list[type[BaseModel]]:
    """The blocks that a type names, however deep."""
    if _is_block(schema):
        return [schema]
    return [block for part in get_args(schema) for block in _blocks(part)]


def _is_block(schema: Any) -> bool:
    return isinstance(schema, type) and issubclass(schema, BaseModel)
