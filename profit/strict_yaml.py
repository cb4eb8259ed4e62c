"""YAML as a study needs it: duplicate keys are refused, `3e-4` is a number, `no` is a word, positions are kept.

PyYAML follows YAML 1.1, where the later of two equal keys wins silently, `3e-4` is text and `no` is false.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from profit.files import InputError

FLOAT = re.compile(
    r"[-+]?(?:\d[\d_]*\.[\d_]*|\.\d[\d_]*|\d[\d_]*(?=[eE]))(?:[eE][-+]?\d+)?|[-+]?\.(?:inf|Inf)|\.(?:nan|NaN)"
)
INTEGER = re.compile(r"[-+]?\d[\d_]*")
BOOLEAN = re.compile(r"true|True|false|False")


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2 that a study uses."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] in ("null", "merge")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, yaml.Node] = {}
        for key, _ in node.value:
            if key.value in seen:
                first = seen[key.value].start_mark.line + 1
                raise yaml.MarkedYAMLError(
                    problem=f"found the key {key.value!r} a second time, first in line {first}; expected it once",
                    problem_mark=key.start_mark,
                )
            seen[key.value] = key
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("bool", BOOLEAN, "tTfF"),
    ("float", FLOAT, "-+.0123456789"),
    ("int", INTEGER, "-+0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern.pattern})$"), list(_first))


def load_yaml(path: str | Path) -> tuple[Any, yaml.Node]:
    """Return the content of a YAML file and its node tree, in which `line_of` finds positions.

    Raises:
        InputError: the file is missing, not YAML, empty, or holds a key twice.
    """
    try:
        loader = _Loader(Path(path).read_text(encoding="utf-8"))
        node = loader.get_single_node()
        if node is None:
            raise InputError(f"{path}: found an empty file, expected YAML")
        return loader.construct_document(node), node
    except FileNotFoundError:
        raise InputError(f"{path}: not found, expected a YAML file") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{path}:{line}: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: found a file that is not YAML ({error})") from None


def line_of(node: yaml.Node, keys: tuple[str | int, ...]) -> int:
    """Line (from 1) of the deepest node that `keys` reach."""
    line = node.start_mark.line
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            found = [(name, value) for name, value in node.value if name.value == str(key)]
            if not found:
                break
            line, node = found[0][0].start_mark.line, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            line = node.start_mark.line
        else:
            break
    return line + 1
