"""The commits of a study's models and data sets, written into its file: what is pinned stays the same for good.

Asked for is what the file has no commit for; the revision that it names, or the newest state. Comments, order and
layout stay as they are: only the text of `revision` changes, or is put behind the id.

    python -m profit.study pin workflow/studies/paper.yaml
    python -m profit.study pin --update workflow/studies/paper.yaml    # the newest state of all, pinned ones included
"""

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from huggingface_hub import HfApi

from profit.bases import HubModel
from profit.files import InputError, atomic_path
from profit.hub import HUB_ERRORS, reason
from profit.shapes import Collected
from profit.strict_yaml import load_yaml
from profit.study import Study, load_study

COMMIT = re.compile(r"[0-9a-f]{40}")
UNREACHABLE = "has a commit that only the hub knows, which cannot be reached: connect, or write the commit by hand"

Edit = tuple[int, int, str]


@dataclass(frozen=True)
class Entry:
    """An id of the hub in a study: the keys of its block, the key and kind of the id, and the revision named there."""

    keys: tuple[str | int, ...]
    key: Literal["source", "hub"]
    kind: Literal["model", "dataset"]
    id: str
    revision: str | None

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{'.'.join(map(str, self.keys))}: {self.kind} {self.id!r}, revision {self.revision or 'newest'}:"


def pin(files: Sequence[str | Path], update: bool = False) -> None:
    """Write the commits into study files and print what changed; with `update` pinned entries take the newest ones.

    Raises:
        InputError: a study with mistakes, or a commit that cannot be had; the file is left as it was.
    """
    commits: dict[tuple[str, str, str | None], str] = {}
    for file in files:
        entries = [entry for entry in entries_of(load_study(file)) if update or not pinned(entry)]
        changed = []
        for entry in entries:
            asked = (entry.kind, entry.id, None if update else entry.revision)
            if asked not in commits:
                commits[asked] = commit_of(entry, asked[-1])
            if commits[asked] != entry.revision:
                changed.append((entry, commits[asked]))
        write(Path(file), changed)
        for entry, commit in changed:
            print(f"{file}: {entry.name} {commit}")
        print(f"{file}: {len(changed)} commits written")


def entries_of(study: Study) -> Iterator[Entry]:
    """Every id of the hub in a study, in its order; a local folder or file is none."""
    for name, model in study.models.items():
        if isinstance(model, HubModel) and not Path(model.source).is_dir():
            yield Entry(("models", name), "source", "model", model.source, model.revision)
    sources = study.data.sources if isinstance(study.data, Collected) else []
    found = [(("data", "sources", number), source.model_dump()) for number, source in enumerate(sources)]
    for name, item in study.benchmarks.items():
        found.append((("benchmarks", name, "source"), item.source.model_dump() if item.source else {}))
        found.append((("benchmarks", name, "options", "train"), item.options.get("train", {})))
    for keys, source in found:
        if source.get("hub"):
            yield Entry(keys, "hub", "dataset", source["hub"], source.get("revision"))


def pinned(entry: Entry) -> bool:
    """Whether its revision is a whole commit."""
    return COMMIT.fullmatch(entry.revision or "") is not None


def commit_of(entry: Entry, revision: str | None) -> str:
    """The commit that the hub's `revision` (None: newest) of an entry is; InputError where it cannot be had."""
    info = HfApi().model_info if entry.kind == "model" else HfApi().dataset_info
    try:
        return info(entry.id, revision=revision).sha
    except HUB_ERRORS as error:
        raise InputError(f"{entry.name} {reason(error, UNREACHABLE)}") from None


def write(path: Path, changed: Sequence[tuple[Entry, str]]) -> None:
    """Write commits into a study file; InputError, and nothing written, if one cannot be put into its block."""
    if not changed:
        return
    _, node = load_yaml(path)
    with open(path, encoding="utf-8", newline="") as file:
        ends = "\r\n" if "\r\n" in file.read() else "\n"
    text = path.read_text(encoding="utf-8")
    edits = {edit(block_of(node, entry.keys), text, entry.key, commit) for entry, commit in changed}
    # From the end on, so that the places before an edit stay true; an alias is the block that it stands for.
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline=ends)
        shutil.copymode(path, temporary)
        found = {entry.keys: entry.revision for entry in entries_of(load_study(temporary))}
        for entry, commit in changed:
            if found[entry.keys] != commit:
                raise InputError(f"{path}: {entry.name} found its block merged from others, expected one of its own")


def block_of(node: yaml.Node, keys: Sequence[str | int]) -> yaml.MappingNode:
    """The block that `keys` lead to."""
    for key in keys:
        node = node.value[key] if isinstance(key, int) else {name.value: value for name, value in node.value}[key]
    return node


def edit(block: yaml.MappingNode, text: str, key: str, commit: str) -> Edit:
    """(start, end, new text) that give a block its commit; what is merged into it from elsewhere is left alone."""
    first, last = block.start_mark.index, block.end_mark.index
    own = {name.value: (name, value) for name, value in block.value if first <= name.start_mark.index < last}
    # Digits alone, with or without an e, would be a number.
    commit = commit if set(commit) & set("abcdf") else f'"{commit}"'
    if "revision" in own:
        start, end = (mark.index for mark in (own["revision"][1].start_mark, own["revision"][1].end_mark))
        return start, end, commit if end > start else f" {commit}"
    if key not in own:
        return last, last, ""
    name, value = own[key]
    if block.flow_style:
        return value.end_mark.index, value.end_mark.index, f", revision: {commit}"
    end = text.find("\n", value.end_mark.index)
    end = len(text) if end < 0 else end
    return end, end, f"\n{' ' * name.start_mark.column}revision: {commit}"
