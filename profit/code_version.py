"""Hash of the code that a rule runs, so that an edit reruns what it can change and nothing else.

Snakemake does not track a package behind `python -m profit.train`. The hash covers the syntax trees, docstrings
dropped, of the definitions reachable from `profit.<rule>.main`: functions, classes, constants and module-level
statements of this package, and which third-party names they import. Comments and layout are not in a syntax tree.

A dict named in `SWITCHES` maps a setting to the code that serves it, or to its defaults; only the chosen entry is
followed, so that an edit of one objective, or a new one, leaves the runs of all others alone. `SETTINGS`, whose keys
are no choices, only says what is valid, so nothing of it is followed. `python -m profit.code_version train profit`
shows what is covered.

Blind spots: imports by name at run time, data files (they are inputs of the rules), versions of third-party packages.
"""

import ast
import contextlib
import hashlib
import os
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from profit.__main__ import SOCKET
from profit.files import atomic_path

PACKAGE = Path(__file__).parent
SWITCHES = ("OBJECTIVES", "ANNOTATORS", "OBJECTIVE_SETTINGS", "SETTINGS")

# No number depends on how a job keeps its account, nor on how this hash is made.
LEFT_OUT = ("profit.provenance", "profit.code_version")


@dataclass
class Module:
    """Top level of one module: its definitions, what its imported names mean, and its other statements."""

    definitions: dict[str, ast.stmt] = field(default_factory=dict)
    imports: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    statements: list[ast.stmt] = field(default_factory=list)


@cache
def code_version(rule: str, choice: str | None = None, entry: str = "main") -> str:
    """Return 12 hexadecimal digits that change when code reachable from `profit.<rule>.<entry>` changes.

    `choice` is the key to follow in the dicts of `SWITCHES` (the objective of a run); with None
    such a dict is followed not at all. Jobs of one fork server share what they found.
    """
    shared = _shared(f"{rule} {choice} {entry}")
    if shared is not None and shared.is_file():
        return shared.read_text()
    covered = reachable(f"profit.{rule}", entry, choice)
    text = "\n".join(f"{name} {tree}" for name, tree in sorted(covered.items()))
    version = hashlib.sha256(text.encode()).hexdigest()[:12]
    if shared is not None:
        with contextlib.suppress(OSError), atomic_path(shared) as temporary:
            temporary.write_text(version)
    return version


def _shared(asked: str) -> Path | None:
    """Where the folder of the fork server, gone with it, holds the answer for the code as it stands at this moment."""
    if SOCKET not in os.environ or not Path(os.environ[SOCKET]).parent.is_dir():
        return None
    sources = b"".join(str(path).encode() + path.read_bytes() for path in sorted(PACKAGE.rglob("*.py")))
    return Path(os.environ[SOCKET]).with_name(f"code.{hashlib.sha256(asked.encode() + sources).hexdigest()}")


def reachable(module: str, name: str, choice: str | None) -> dict[str, str]:
    """Return {"module:name": dumped syntax tree} of every definition that `module:name` can reach."""
    covered: dict[str, str] = {}
    todo = [(module, name)]
    while todo:
        module, name = todo.pop()
        label = f"{module}:{name}"
        if label in covered or module in LEFT_OUT:
            continue
        parsed = parse(module)
        if parsed is None:
            covered[label] = "not of this package"
            continue
        if name == "*":
            covered[label] = ""
            todo += [(module, other) for other in parsed.definitions]
            continue
        node: ast.AST | None = parsed.definitions.get(name)
        if node is None:
            covered[label] = f"{parsed.imports.get(name)}"
            todo += [_target(*parsed.imports[name])] if name in parsed.imports else []
            continue
        if name in SWITCHES:
            node = _entry(node, choice)
        covered[label] = "" if node is None else _dumped(node)
        todo += _used(node, module) if node is not None else []
        for number, statement in enumerate(parsed.statements):
            covered[f"{module}:{number}"] = ast.dump(statement)
            todo += _used(statement, module)
    return covered


@cache
def parse(module: str) -> Module | None:
    """Read the top level of a module of this package; None for a name that is no such module."""
    path = _source(module)
    if path is None:
        return None
    parsed = Module()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            parsed.imports.update(_imported(node))
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            parsed.definitions[node.name] = node
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [leaf.id for target in targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name)]
            parsed.definitions.update(dict.fromkeys(names, node))
        elif not (_is_docstring(node) or _is_main_guard(node)):
            parsed.statements.append(node)
    return parsed


@cache
def _dumped(node: ast.AST) -> str:
    return ast.dump(_without_docstrings(node))


@cache
def _used(node: ast.AST, module: str) -> tuple[tuple[str, str], ...]:
    """(module, name) pairs of this package that a tree mentions; local names may add too many, never too few."""
    parsed = parse(module) or Module()
    imports = dict(parsed.imports)
    for inner in ast.walk(node):
        if isinstance(inner, (ast.Import, ast.ImportFrom)):
            imports.update(_imported(inner))
    found = []
    chained: set[int] = set()
    for inner in ast.walk(node):
        chain = _chain(inner) if isinstance(inner, ast.Attribute) and id(inner) not in chained else None
        if chain and chain[0] in imports:
            chained.update(id(part) for part in ast.walk(inner))
            found.append(_follow(imports[chain[0]], chain[1:]))
        elif isinstance(inner, ast.Name) and id(inner) not in chained:
            if inner.id in imports:
                found.append(_follow(imports[inner.id], []))
                found.append((module, inner.id))
            elif inner.id in parsed.definitions:
                found.append((module, inner.id))
    return tuple(found)


def _follow(target: tuple[str, str | None], attributes: list[str]) -> tuple[str, str]:
    """The definition behind an imported name and the attributes read from it."""
    module, name = _target(*target)
    while name == "*" and attributes:
        if _source(f"{module}.{attributes[0]}") is not None:
            module, attributes = f"{module}.{attributes[0]}", attributes[1:]
        else:
            name = attributes[0]
    return module, name


def _target(module: str, name: str | None) -> tuple[str, str]:
    if name is None:
        return module, "*"
    return (f"{module}.{name}", "*") if _source(f"{module}.{name}") else (module, name)


def _imported(node: ast.Import | ast.ImportFrom) -> dict[str, tuple[str, str | None]]:
    """What each name bound by an import statement stands for: (module, None) or (module, name in it)."""
    if isinstance(node, ast.ImportFrom):
        return {alias.asname or alias.name: (node.module or "", alias.name) for alias in node.names}
    return {
        alias.asname or alias.name.partition(".")[0]: (
            alias.name if alias.asname else alias.name.partition(".")[0],
            None,
        )
        for alias in node.names
    }


def _entry(node: ast.AST, choice: str | None) -> ast.AST | None:
    """The value under `choice` in the dict that `node` assigns."""
    value = getattr(node, "value", None)
    if not isinstance(value, ast.Dict):
        raise TypeError(f"{ast.unparse(node)[:60]} … must be written as a dict with constant keys")
    for key, entry in zip(value.keys, value.values, strict=True):
        if isinstance(key, ast.Constant) and key.value == choice:
            return entry
    return None


def _chain(node: ast.AST) -> list[str] | None:
    """["a", "b", "c"] for the expression a.b.c, else None."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return [node.id, *names] if isinstance(node, ast.Name) else None


def _without_docstrings(node: ast.AST) -> ast.AST:
    """The same without what only people read: docstrings, and descriptions of settings."""
    for inner in ast.walk(node):
        if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and _is_docstring(inner.body[0]):
            inner.body = inner.body[1:] or [ast.Pass()]
        elif isinstance(inner, ast.Call):
            inner.keywords = [keyword for keyword in inner.keywords if keyword.arg != "description"]
    return node


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_main_guard(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "__name__" in ast.dump(node.test)


def _source(module: str) -> Path | None:
    """File of a module of this package, None if there is none."""
    first, *rest = module.split(".")
    if first != "profit":
        return None
    base = PACKAGE.joinpath(*rest)
    for path in (base.with_suffix(".py") if rest else base / "__init__.py", base / "__init__.py"):
        if path.is_file():
            return path
    return None


def main(argv: list[str] | None = None) -> None:
    """Print the hash and the definitions that it covers."""
    rule, *choice = sys.argv[1:] if argv is None else argv
    covered = reachable(f"profit.{rule}", "main", choice[0] if choice else None)
    print(code_version(rule, choice[0] if choice else None), *sorted(covered), sep="\n")


if __name__ == "__main__":
    main()
