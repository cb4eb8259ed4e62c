r"""Answers written by hand for every kind of benchmark, with what a reader would say of them."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from profit import verifiers
from profit.answers import FIELDS, check_items, load_items, process_results, score
from profit.files import InputError, write_json
from profit.verifiers import boxed, equal, runs

# What makes an item that is correct, wrong, or no answer at all.
RIGHT, WRONG, NOTHING = (True, True), (False, True), (False, False)
LETTER = {"kind": "letter", "answer": "C", "options": 4, "take": "first", "reading": "official"}
NUMBER = {"kind": "number", "answer": "1200", "commas": True}

EQUAL = [
    (r"\frac{1}{2}", r"\frac{1}{2}"), (r"\frac{1}{2}", r"\dfrac{1}{2}"), (r"\frac{1}{2}", r"\tfrac12"),
    (r"\frac{1}{2}", "1/2"), (r"\frac{1}{2}", "0.5"), (r"\frac{1}{2}", r"\frac{2}{4}"),
    (r"-\frac{1}{3}", r"\frac{-1}{3}"), (r"2\frac{1}{2}", "2.5"), (r"\frac{3}{4}", r"75\%"), (r"25\%", "25"),
    (r"25\%", "0.25"), ("18.90", r"\$18.9"), ("5", r"5\text{ cm}"), ("5", r"5 \, \text{meters}"),
    ("5", r"5\mathrm{~kg}"), (r"5\text{ cm}", "5"), (r"90^\circ", "90"), ("90", r"90^{\circ}"),
    ("90", r"90\text{ degrees}"), ("[0,1)", r"\left[0, 1\right)"), (r"(-\infty,2]", r"\left(-\infty, 2\right]"),
    (r"(-\infty, 2] \cup [3,\infty)", r"[3,\infty)\cup(-\infty,2]"), ("(2,3)", r"\left( 2, 3 \right)"),
    (r"\{1,2,3\}", r"\{3, 2, 1\}"), ("1,2", "2, 1"), ("1200", "1,200"), ("1200", "1{,}200"), ("1200", r"1\,200"),
    ("1200", r"1,\!200"), (r"11,\! 111,\! 100", "11111100"), (r"2\sqrt{3}", r"\sqrt{12}"), (r"\sqrt{2}", r"\sqrt2"),
    ("x^2+2x+1", "(x+1)^2"), ("5", "x = 5"), ("y=2x+1", "y = 1 + 2x"), (r"x \le 3", r"x \leq 3"),
    (r"\text{Evelyn}", "Evelyn"), (r"\text{(C)}", "C"), ("6-5i", "-5i + 6"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"), ("2^{10}", "1024"),
    (r"3\pm\sqrt{2}", r"3+\sqrt{2}, 3-\sqrt{2}"), ("204", "204."), ("033", "33"), ("33", "033"), ("204", "204.0"),
    (r"(3, \frac{\pi}{2})", r"\left( 3, \frac{\pi}{2} \right)"),
]  # fmt: skip
UNEQUAL = [
    (r"\frac{1}{2}", "2"), (r"\frac{1}{3}", "0.33"), (r"25\%", r"2.5\%"), ("5", r"6\text{ cm}"), ("[0,1)", "[0,1]"),
    ("(2,3)", "(3,2)"), ("1,2", "1"), (r"\{1,2\}", r"\{1,2,3\}"), ("1200", "1.200"), ("1200", "12,00"),
    (r"\sqrt{2}", "1.41"), (r"\pi", "3.14"), ("x^2+2x+1", "(x-1)^2"), ("5", "x = 6"), (r"x \le 3", r"x \geq 3"),
    (r"\text{Evelyn}", r"\text{Angela}"), (r"\text{even}", r"\text{odd}"), ("6-5i", "6+5i"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"), ("204", "-204"),
    ("12", r"\text{twelve}"), (r"\infty", r"-\infty"), ("5", r"\frac{5}{"), ("5", "?"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("gold", "found", "same"), [(*pair, True) for pair in EQUAL] + [(*pair, False) for pair in UNEQUAL]
)
def test_mathematics(gold: str, found: str, same: bool) -> None:
    assert equal(gold, found) is same


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"So the answer is \boxed{7}.", RIGHT),
        (r"$$\boxed{\;7\;}$$ as was to be shown", RIGHT),
        (r"First \boxed{5}, no: \boxed{7}", RIGHT),
        (r"First \boxed{7}, no: \boxed{5}", WRONG),
        (r"\boxed{\boxed{7}}", RIGHT),
        (r"\boxed 7", RIGHT),
        (r"It is $\boxed7$.", RIGHT),
        (r"\fbox{7}", RIGHT),
        (r"\boxed {\frac{14}{2}}", RIGHT),
        (r"\boxed{\text{no}}", WRONG),
        ("The answer is 7.", NOTHING),
        ("$7$", NOTHING),
        ("", NOTHING),
        (r"\boxed{}", NOTHING),
        (r"Cut: \boxed{7", NOTHING),
        (r"\boxed{7} and once more, cut: \boxed{\frac{14}{", NOTHING),
    ],
)
def test_the_last_box_counts(text: str, expected: tuple[bool, bool]) -> None:
    assert score({"kind": "math", "answer": "7"}, text) == expected


def test_a_box_holds_braces_of_its_own() -> None:
    assert boxed(r"\boxed{\{1, \frac{2}{3}\}} and {more}") == r"\{1, \frac{2}{3}\}"
    assert boxed(r"\boxed{a \} b}") == r"a \} b"
    assert boxed(r"\boxed{x \\ }") == r"x \\"


def stop_worker() -> None:
    """The next comparison starts another, with the limit that holds then."""
    worker = verifiers._worker
    verifiers._drop()
    equal.cache_clear()
    if worker is not None:
        worker.wait(timeout=20)


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(verifiers, "EQUAL_SECONDS", 0.3)
    stop_worker()
    yield
    stop_worker()


@pytest.mark.parametrize("endless", ["9^{9^{9^{9}}}", "9^9^9^9", "10000000000!", "(" * 3000 + "1" + ")" * 3000])
def test_endless_comparisons_are_wrong_and_leave_no_process(short, endless: str) -> None:
    before = time.monotonic()
    assert not equal("9", endless)
    assert time.monotonic() - before < 20
    assert equal("3", r"\frac{6}{2}")
    living = [child for child in psutil.Process().children() if "serve" in " ".join(child.cmdline())]
    assert [child.pid for child in living] == [verifiers._worker.pid]


def test_mathematics_in_threads_and_forked_children() -> None:
    found = []
    golds = [str(number) for number in range(20, 28)]
    threads = [
        threading.Thread(target=lambda gold=gold: found.append(equal(gold, rf"\frac{{{2 * int(gold)}}}{{2}}")))
        for gold in golds
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8
    parents = verifiers._worker.pid
    child = os.fork()
    if child == 0:
        right = equal("1", r"\frac{71}{71}") and not equal("2", r"\frac{71}{71}")
        os._exit(0 if right and verifiers._worker.pid != parents else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert equal("1", r"\frac{73}{73}") and verifiers._worker.pid == parents


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_the_checking_process_ends_with_its_parent(end: str) -> None:
    code = (
        "import os; from profit import verifiers; assert verifiers.equal('1', '2/2'); "
        f"os.write(1, str(verifiers._worker.pid).encode()); {end}"
    )
    run = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent)
    deadline = time.monotonic() + 20
    while psutil.pid_exists(int(run.stdout)) and psutil.Process(int(run.stdout)).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("text", "official", "tolerant"),
    [
        ("Because of entropy.\nANSWER: C", RIGHT, RIGHT),
        ("ANSWER:C", RIGHT, RIGHT),
        ("Answer: C.", RIGHT, RIGHT),
        ("**ANSWER: C**", RIGHT, RIGHT),
        ("ANSWER :\n C", RIGHT, RIGHT),
        ("ANSWER: B", WRONG, WRONG),
        ("ANSWER: C\nANSWER: B", RIGHT, RIGHT),
        ("ANSWER: B\nANSWER: C", WRONG, WRONG),
        ("ANSWER: c", WRONG, RIGHT),
        ("answer: c", WRONG, RIGHT),
        ("ANSWER: **C**", NOTHING, RIGHT),
        ("**Answer:** C", NOTHING, RIGHT),
        ("ANSWER: (C)", NOTHING, RIGHT),
        ("ANSWER: 'C'", NOTHING, RIGHT),
        (r"ANSWER: $\boxed{\text{C}}$", NOTHING, RIGHT),
        ("ANSWER: C) because it is hot", RIGHT, RIGHT),
        ("ANSWER: Copper", RIGHT, NOTHING),
        ("ANSWER: Both. ANSWER: C", WRONG, RIGHT),
        ("ANSWER: E", NOTHING, NOTHING),
        ("ANSWER: E\nANSWER: C", RIGHT, RIGHT),
        ("ANSWER: $LETTER", NOTHING, NOTHING),
        ("The answer is C.", NOTHING, NOTHING),
        ("C", NOTHING, NOTHING),
        ("", NOTHING, NOTHING),
    ],
)
def test_letters(text: str, official: tuple[bool, bool], tolerant: tuple[bool, bool]) -> None:
    assert score(LETTER, text) == official
    assert score({**LETTER, "reading": "tolerant"}, text) == tolerant


def test_the_last_letter_by_option_and_more_than_four() -> None:
    text = "ANSWER: B\nNo.\nANSWER: C"
    assert score(LETTER, text) == WRONG and score({**LETTER, "take": "last"}, text) == RIGHT
    ten = {**LETTER, "options": 10, "answer": "J"}
    assert score(ten, "ANSWER: J") == RIGHT and score(ten, "ANSWER: K") == NOTHING


@pytest.mark.parametrize(
    ("text", "commas", "official"),
    [
        ("The answer is 1200", RIGHT, RIGHT),
        ("The answer is 1200.", RIGHT, RIGHT),
        ("So 3 * 400 = $1200.", RIGHT, RIGHT),
        ("#### 1200", RIGHT, RIGHT),
        ("1200.00", RIGHT, RIGHT),
        ("The answer is 1,200.", RIGHT, WRONG),
        ("It costs $1,200.00 in all", RIGHT, WRONG),
        ("The answer is 1,200,000", WRONG, WRONG),
        ("12,00", WRONG, WRONG),
        ("The answer is -1200", WRONG, WRONG),
        ("The answer is 1200 for 3 boxes", WRONG, WRONG),
        ("1200\n\nQuestion: How many are 2 and 3?\nAnswer: 5", RIGHT, RIGHT),
        ("1,200\nQuestion: 7", RIGHT, WRONG),
        ("Question: 1200", NOTHING, NOTHING),
        ("No number.", NOTHING, NOTHING),
        ("", NOTHING, NOTHING),
    ],
)
def test_numbers(text: str, commas: tuple[bool, bool], official: tuple[bool, bool]) -> None:
    assert score(NUMBER, text) == commas
    assert score({**NUMBER, "commas": False}, text) == official


# Each of IFEval's 25 instructions: its arguments, an answer that follows it and one that does not.
INSTRUCTIONS = {
    "keywords:existence": ({"keywords": ["river", "stone"]}, "A stone in the river.", "A stone in the lake."),
    "keywords:frequency": ({"keyword": "sea", "frequency": 2, "relation": "at least"}, "Sea and sea.", "Only a sea."),
    "keywords:forbidden_words": ({"forbidden_words": ["blue"]}, "A red sky.", "A blue sky."),
    "keywords:letter_frequency": (
        {"letter": "z", "let_frequency": 3, "let_relation": "at least"}, "Pizza zone", "Pizza",
    ),
    "language:response_language": (
        {"language": "de"}, "Das Wetter ist heute schön und die Kinder spielen im Garten.",
        "The weather is fine today and the children play in the garden.",
    ),
    "length_constraints:number_sentences": (
        {"num_sentences": 3, "relation": "less than"}, "We walk. We rest.", "We walk. We rest. We sleep.",
    ),
    "length_constraints:number_paragraphs": ({"num_paragraphs": 2}, "One.\n***\nTwo.", "One.\n\nTwo."),
    "length_constraints:number_words": ({"num_words": 4, "relation": "at least"}, "We walk by day", "We walk"),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "later"}, "First this.\n\nLater that.",
        "First this.\n\nThen later.",
    ),
    "detectable_content:number_placeholders": ({"num_placeholders": 2}, "Dear [name], [city]", "Dear [name]"),
    "detectable_content:postscript": ({"postscript_marker": "P.S."}, "Yours.\nP.S. Write soon.", "Yours. Write soon."),
    "detectable_format:number_bullet_lists": ({"num_bullets": 2}, "* one\n* two", "* one\n* two\n* three"),
    "detectable_format:constrained_response": ({}, "My answer is yes.", "Yes."),
    "detectable_format:number_highlighted_sections": ({"num_highlights": 2}, "*one* and *two*", "*one* and two"),
    "detectable_format:multiple_sections": (
        {"section_spliter": "Part", "num_sections": 2}, "Part 1\nThis.\nPart 2\nThat.", "Part 1\nThis and that.",
    ),
    "detectable_format:json_format": ({}, '```json\n{"a": 1}\n```', "{a: 1}"),
    "detectable_format:title": ({}, "<<Rain>>\nIt rains.", "Rain\nIt rains."),
    "combination:two_responses": ({}, "Tea.\n******\nMilk.", "Tea. Or milk."),
    "combination:repeat_prompt": ({"prompt_to_repeat": "Name a bird."}, "Name a bird. A crow.", "A crow."),
    "startend:end_checker": ({"end_phrase": "That is all."}, "A crow. That is all.", "That is all. A crow."),
    "startend:quotation": ({}, '"A crow."', 'A "crow".'),
    "change_case:capital_word_frequency": (
        {"capital_frequency": 2, "capital_relation": "at least"}, "RAIN and SNOW", "RAIN and snow",
    ),
    "change_case:english_capital": ({}, "THE WEATHER IS FINE TODAY.", "THE WEATHER IS fine TODAY."),
    "change_case:english_lowercase": ({}, "the weather is fine today.", "The weather is fine today."),
    "punctuation:no_comma": ({}, "Rain and snow.", "Rain, snow."),
}  # fmt: skip


@pytest.fixture
def sentences(tmp_path: Path, monkeypatch):
    """Data for splitting sentences, made here: nothing learnt, every full stop ends one."""
    import nltk
    from nltk.tokenize.punkt import PunktParameters, save_punkt_params

    folder = tmp_path / "tokenizers" / "punkt_tab" / "english"
    folder.mkdir(parents=True)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    save_punkt_params(PunktParameters(), str(folder))
    verifiers._has_sentences.cache_clear()
    yield
    verifiers._has_sentences.cache_clear()


def instructed(*names: str) -> dict:
    arguments = [INSTRUCTIONS[name][0] for name in names]
    shared = {"id": "i", "prompt": "Name a bird.", "answer": "", "kind": "instructions"}
    return {**shared, "instruction_id_list": list(names), "kwargs": arguments}


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_instructions(sentences, name: str) -> None:
    item, (_, followed, violated) = instructed(name), INSTRUCTIONS[name]
    assert check_items([item], "items") == [item]
    assert score(item, followed) == RIGHT
    assert score(item, violated) == WRONG
    assert score(item, " ") == NOTHING


def test_every_instruction_counts_and_loose_forgives_the_edges() -> None:
    item = instructed("punctuation:no_comma", "startend:end_checker")
    assert score(item, "A crow. That is all.") == RIGHT
    assert score(item, "A crow, yes. That is all.") == WRONG
    texts = ["Sure, here it is:\nA crow. That is all.", "A crow, yes. That is all.", "A crow. That is all."]
    assert process_results(item, [texts]) == {
        "accuracy": [0.0, 0.0, 1.0], "parsed": [1.0, 1.0, 1.0], "loose": [1.0, 0.0, 1.0],
    }  # fmt: skip


def test_the_language_of_a_text_is_always_the_same() -> None:
    item = instructed("language:response_language")
    assert len({score(item, "Die Tea room in Berlin is open, aber nicht heute") for _ in range(20)}) == 1


def test_without_data_for_sentences_the_message_says_what_to_do(monkeypatch, tmp_path: Path) -> None:
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    verifiers._has_sentences.cache_clear()
    with pytest.raises(InputError, match=r"items: item 0: found no data punkt_tab .*nltk.downloader.*NLTK_DATA"):
        check_items([instructed("length_constraints:number_sentences")], "items")
    assert check_items([instructed("punctuation:no_comma")], "items")
    verifiers._has_sentences.cache_clear()


CODE = {
    "id": "c", "prompt": "Write it.", "answer": "    return a + b\n", "kind": "code", "seconds": 10,
    "entry_point": "add",
    "program": 'import math\n\n\ndef add(a, b):\n    """Return the sum."""\n',
    "test": "def check(candidate):\n    assert candidate(2, 3) == 5\n    assert candidate(math.pi, 0) == math.pi\n",
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("    return a + b", RIGHT),
        ("def add(a, b):\n    return a + b\n", RIGHT),
        ("Here it is:\n```python\ndef add(a, b):\n    return a + b\n```\nIt adds.", RIGHT),
        ("```\ndef add(a, b):\n    return a + b", RIGHT),
        ("```python\ndef add(a, b):\n    return a + b\n```\n```python\nadd = None\n```", RIGHT),
        ("    return a - b", WRONG),
        ("    pass", WRONG),
        ("    raise SystemExit(0)", WRONG),
        ("    pass\nimport os\nos._exit(0)", WRONG),
        ("    return [0] * 10**10", WRONG),
        ("Add the two numbers.", NOTHING),
        ("```python\nreturn a + b\n```\n", WRONG),
        ("    return a +", NOTHING),
        ("    return '\0'", NOTHING),
    ],
)
def test_code(monkeypatch, text: str, expected: tuple[bool, bool]) -> None:
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")
    assert score(CODE, text) == expected


@pytest.mark.parametrize("text", ["    while True: pass", "    import time\n    time.sleep(60)"])
def test_endless_code_is_wrong(monkeypatch, text: str) -> None:
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")
    before = time.monotonic()
    assert score({**CODE, "seconds": 1}, text) == WRONG
    assert time.monotonic() - before < 10


def test_a_program_leaves_nothing_and_knows_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert runs("import os\nassert 'HF_TOKEN' not in os.environ", 5)
    here = tmp_path / "pid"
    child = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'])"
    command = f"import subprocess, sys\nopen({str(here)!r}, 'w').write(str({child}.pid))"
    assert runs(command, 5)
    time.sleep(0.2)
    left = int(here.read_text())
    assert not psutil.pid_exists(left) or psutil.Process(left).status() == psutil.STATUS_ZOMBIE
    assert runs("open('left', 'w').write('x')", 5) and not Path("left").exists()


def test_code_is_run_with_leave_alone(monkeypatch, tmp_path: Path) -> None:
    path = tmp_path / "items.json"
    write_json(path, [CODE])
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
    monkeypatch.setattr(verifiers.subprocess, "Popen", lambda *_, **__: pytest.fail("something ran"))
    with pytest.raises(InputError, match=r"items\.json: .*expected HF_ALLOW_CODE_EVAL=1"):
        load_items(path)
    with pytest.raises(InputError, match="HF_ALLOW_CODE_EVAL=1"):
        score(CODE, "    return a + b")


def whole(form: str, **changes) -> dict:
    items = {
        "letter": LETTER, "number": NUMBER, "math": {"kind": "math", "answer": "7"}, "code": CODE,
        "instructions": instructed("punctuation:no_comma"), "example": {"kind": "example", "answer": "7"},
    }  # fmt: skip
    return {**items[form], "id": form, "prompt": "?", **changes}


def test_items_of_every_kind_reach_lm_eval(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")
    items = [whole(kind) for kind in FIELDS] + [{**instructed("keywords:existence"), "id": "more"}]
    write_json(tmp_path / "items.json", items)
    loaded = load_items(items=tmp_path / "items.json", version=1.0)
    assert [row["id"] for row in loaded["fewshot"]] == ["example"]
    assert [row["id"] for row in loaded["test"]] == [item["id"] for item in items if item["kind"] != "example"]
    # Arrow gives every item the arguments of all, empty; the checks must not mind.
    rows = {row["id"]: row for row in loaded["test"]}
    assert score(rows["more"], "A stone in the river.") == RIGHT
    assert score(rows["instructions"], "No, no.") == WRONG
    assert score(rows["code"], CODE["answer"]) == RIGHT


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "found no items"),
        ({"id": "n"}, "found dict, expected a list"),
        (["n"], "item 0: found str"),
        ([whole("math", answer=7)], "item 0/answer: found 7, expected a text"),
        ([whole("math", prompt=" ")], "item 0/prompt"),
        ([whole("math", answer=" ")], "item 0/answer: found ' '"),
        ([whole("math"), whole("math")], "item 1/id: found 'math' twice"),
        ([whole("math", kind="proof")], "item 0/kind: found 'proof', expected one of letter, number"),
        ([whole("letter", answer="E")], "item 0/answer: found 'E', expected one of ABCD"),
        ([whole("letter", answer="AB")], "item 0/answer: found 'AB'"),
        ([whole("letter", options=None)], "item 0/options: found None, expected a int"),
        ([whole("letter", take="middle")], "item 0/take: found 'middle', expected one of first, last"),
        ([whole("letter", reading="lax")], "item 0/reading: found 'lax'"),
        ([whole("number", answer="1,200")], "item 0/answer: found '1,200', expected a number"),
        ([whole("number", commas=1)], "item 0/commas: found 1, expected a bool"),
        ([whole("code", test=None)], "item 0/test: found None"),
        ([whole("instructions", kwargs=[])], "item 0/kwargs: found 0 for 1 instructions"),
        ([whole("instructions", instruction_id_list=["rhyme"])], "item 0: found instruction 'rhyme'"),
        ([whole("instructions", kwargs=[{"words": 3}])], "item 0/kwargs: found {'words': 3}"),
        (
            [whole("instructions", instruction_id_list=["keywords:existence"])],
            "item 0/kwargs: found {} for keywords:existence, expected also keywords",
        ),
        ([whole("example")], "found examples alone"),
    ],
)
def test_bad_items_are_refused(tmp_path: Path, content, message: str) -> None:
    path = tmp_path / "items.json"
    write_json(path, content)
    with pytest.raises(InputError, match=r"items\.json") as error:
        load_items(path)
    assert message in str(error.value)
