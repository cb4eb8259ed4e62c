"""The code hash changes with code that a rule can reach, and with nothing else."""

import textwrap

import pytest

from profit import code_version as module
from profit.__main__ import SOCKET
from profit.code_version import code_version, reachable

FILES = {
    "__init__.py": "",
    "train.py": '''
        """Train."""
        import numpy as np
        from profit import tools
        from profit.objectives import OBJECTIVES
        from profit.tools import helper as help_me

        LIMIT = 3
        KEY = dict(gt=LIMIT, description="what it means")

        def main(argv=None):
            """Docstring."""
            # a comment
            from profit.late import lazy
            return OBJECTIVES["x"], KEY, help_me(LIMIT), tools.used(), lazy(), np.log(1)

        def unused():
            return 1

        if __name__ == "__main__":
            main()
        ''',
    "tools.py": """
        from math import log
        STEP = 1
        def helper(n):
            return inner(n)
        def inner(n):
            return n + STEP
        def used():
            return log(2)
        def other():
            return 0
        """,
    "late.py": "def lazy():\n    return 1\n",
    "objectives.py": """
        def sft(p):
            return 1
        def profit(p):
            return shared(p)
        def shared(p):
            return p
        OBJECTIVES = {"sft": sft, "profit": (profit, "equation")}
        """,
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).write_text(textwrap.dedent(text).lstrip())
    monkeypatch.setattr(module, "PACKAGE", tmp_path)

    def edit(name, old, new):
        text = (tmp_path / name).read_text()
        assert old in text
        (tmp_path / name).write_text(text.replace(old, new))
        forget()

    forget()
    yield edit
    forget()


def forget():
    module.parse.cache_clear()
    module.code_version.cache_clear()


def test_jobs_of_one_server_share_what_they_found_of_the_code_as_it_stands(package, tmp_path, monkeypatch):
    alone = code_version("train", "profit")
    folder = tmp_path / "server"
    folder.mkdir()
    monkeypatch.setenv(SOCKET, str(folder / "socket"))
    forget()
    assert code_version("train", "profit") == alone
    (file,) = folder.iterdir()
    assert file.read_text() == alone
    file.write_text("found by another")
    forget()
    assert code_version("train", "profit") == "found by another" != code_version("train", "sft")
    package("tools.py", "n + STEP", "n - STEP")
    assert code_version("train", "profit") not in (alone, "found by another")
    monkeypatch.setenv(SOCKET, str(tmp_path / "gone" / "socket"))
    package("tools.py", "n - STEP", "n + STEP")
    assert code_version("train", "profit") == alone and not (tmp_path / "gone").exists()


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("train.py", "# a comment", "# another comment, much longer"),
        ("train.py", '"""Docstring."""', '"""Another."""'),
        ("train.py", '"""Train."""', '"""Another."""\n\n\n'),
        ("train.py", 'description="what it means"', 'description="what it means, in other words"'),
        ("train.py", "return 1\n", "return 2\n"),
        ("tools.py", "def other():\n    return 0", "def other():\n    return 1"),
        ("tools.py", "return log(2)", "return (log(\n        2))"),
        ("objectives.py", "def sft(p):\n    return 1", "def sft(p):\n    return 2"),
        ("objectives.py", '"sft": sft, ', '"sft": sft, "new": max, '),
    ],
)
def test_what_cannot_matter_changes_nothing(package, name, old, new):
    before = code_version("train", "profit")
    package(name, old, new)
    assert code_version("train", "profit") == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("train.py", "LIMIT = 3", "LIMIT = 4"),
        ("train.py", "gt=LIMIT", "ge=LIMIT"),
        ("train.py", "np.log(1)", "np.log(2)"),
        ("train.py", "import numpy as np", "import math as np"),
        ("train.py", "LIMIT = 3", "LIMIT = 3\nprint(LIMIT)"),
        ("tools.py", "n + STEP", "n - STEP"),
        ("tools.py", "STEP = 1", "STEP = 2"),
        ("tools.py", "from math import log", "from math import log2 as log"),
        ("tools.py", "return log(2)", "return log(3)"),
        ("late.py", "return 1", "return 2"),
        ("objectives.py", "return p\n", "return -p\n"),
        ("objectives.py", '"equation"', '"other"'),
    ],
)
def test_what_can_matter_changes_the_hash(package, name, old, new):
    before = code_version("train", "profit")
    package(name, old, new)
    assert code_version("train", "profit") != before


def test_an_edited_objective_changes_its_own_hash_only(package):
    before = {name: code_version("train", name) for name in ("sft", "profit")}
    package("objectives.py", "return p\n", "return -p\n")
    assert code_version("train", "sft") == before["sft"]
    assert code_version("train", "profit") != before["profit"]


def test_an_imported_module_used_whole_counts_whole(package):
    package("train.py", "tools.used()", "vars(tools)")
    before = code_version("train")
    package("tools.py", "return 0", "return 1")
    assert code_version("train") != before


def test_a_switch_that_is_no_literal_dict_is_refused(package):
    package("objectives.py", "OBJECTIVES = {", "OBJECTIVES = dict() or {")
    with pytest.raises(TypeError, match="dict with constant keys"):
        code_version("train", "sft")


def test_the_real_rules_reach_what_they_run():
    train = set(reachable("profit.train", "main", "profit"))
    assert {"profit.train:main", "profit.files:write_folder", "profit.objectives:profit"} <= train
    assert not {"profit.objectives:dft", "profit.objectives:entropy"} & train
    assert not any(name.startswith(("profit.provenance", "profit.tabulate", "profit.study")) for name in train)
    assert code_version("train", "sft") != code_version("train", "dft")
    assert "profit.evaluate:main" in reachable("profit.evaluate", "main", None)


def test_the_command_lists_what_is_covered(capsys):
    module.main(["train", "dft"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == code_version("train", "dft") and "profit.objectives:dft" in lines
