"""Rows in each data set's own columns become items, and every task of the paper answers them through lm-eval."""

import csv
import json
from pathlib import Path

import pandas as pd
import pytest
from conftest import CHAT_TEMPLATE

from profit import evaluate, lm, questions
from profit.answers import score
from profit.files import InputError, canonical_json, read_json, read_parquet
from profit.protocol import BENCHMARKS, EXAMPLES
from profit.questions import make_items
from profit.shapes import Source
from profit.validation import validated


def read_source(block):
    return validated(Source, block, "source")


TASKS = Path(__file__).parent.parent / "workflow" / "benchmarks"
GSM8K = Path(__file__).parent.parent.parent / "shared" / "data"

GPQA = {
    "Record ID": "rec1", "Question": "Which gas is lightest?\n", "Subdomain": "x", "Correct Answer": "Hydrogen",
    "Incorrect Answer 1": "Helium", "Incorrect Answer 2": "Neon, cold", "Incorrect Answer 3": "Argon\n",
}  # fmt: skip
APPLES = {"question": "Mia has 2 bags of 600 apples. How many?", "answer": "2*600=<<2*600=1200>>1,200\n#### 1,200"}
ROWS = {
    "gpqa_diamond": GPQA,
    "gsm8k": APPLES,
    "gsm8k_official": APPLES,
    "math_500": {"problem": "Half of 3?", "solution": r"\boxed{\frac{3}{2}}", "answer": r"\frac{3}{2}", "subject": "x",
                 "level": 1, "unique_id": "test/algebra/1.json"},
    "aime_2024": {"id": 60, "problem": "How many?", "solution": "…", "answer": "025", "url": "…", "year": "2024"},
    "ifeval": {"key": 1000, "prompt": "Name birds. No commas, two of them marked.",
               "kwargs": [{}, {"num_highlights": 2}],
               "instruction_id_list": ["punctuation:no_comma", "detectable_format:number_highlighted_sections"]},
    "hellaswag": {"ind": 4, "activity_label": "Cooking", "ctx": "She cracks an egg and", "label": "2",
                  "endings": ["sings.", "leaves.", "fries it.", "sleeps."]},
    "arc_challenge": {"id": "Mercury_1", "question": "What is ice?", "answerKey": "2",
                      "choices": {"text": ["Gas", "Water", "Sand", "Salt"], "label": ["1", "2", "3", "4"]}},
    "mmlu_pro_history": {"question_id": 5, "question": "Who first?", "options": list("klmnopqrst"), "answer": "J",
                         "answer_index": 9, "category": "history"},
    "mmlu_pro_chemistry": {"question_id": 6, "question": "Which acid?", "options": ["HCl", "NaCl", "KCl"],
                           "answer": "A", "answer_index": 0, "category": "chemistry"},
    "humaneval": {"task_id": "HumanEval/0", "prompt": "def one():\n    \"\"\"Return 1.\"\"\"\n", "entry_point": "one",
                  "canonical_solution": "    return 1\n",
                  "test": "def check(candidate):\n    assert candidate() == 1\n"},
}  # fmt: skip
# An answer that is right and one that is wrong, by reading the rows above.
SPOKEN = {
    "gpqa_diamond": ("ANSWER: {letter}", "ANSWER: E"),
    "gsm8k": ("It is $1,200.", "It is 1,201."),
    "gsm8k_official": ("The answer is 1200\nQuestion: 7", "The answer is 1201"),
    "math_500": (r"\boxed{1.5}", r"\boxed{2}"),
    "aime_2024": (r"\boxed{25}", r"\boxed{52}"),
    "ifeval": ("A *crow* and a *jay*.", "A *crow*, a *jay*."),
    "hellaswag": ("ANSWER: C", "ANSWER: B"),
    "arc_challenge": ("ANSWER: B", "ANSWER: A"),
    "mmlu_pro_history": ("ANSWER: J", "ANSWER: I"),
    "mmlu_pro_chemistry": ("ANSWER: A", "ANSWER: B"),
    "humaneval": ("```python\ndef one():\n    return 1\n```", "    return 2"),
}


def write_rows(folder: Path, rows: list[dict], suffix: str = ".jsonl", name: str = "rows") -> Path:
    path = folder / f"{name}{suffix}"
    if suffix == ".csv":
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    elif suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def train(tmp_path: Path) -> dict:
    """GSM8K's train split, so far as it is shown: the four openings among others, in another order."""
    rows = [{"question": f"{opening} …, how many?", "answer": f"1+1=<<1+1=2>>2\nSo {number}.\n#### {number}"}
            for number, opening in enumerate(EXAMPLES, start=1)]  # fmt: skip
    return {"file": str(write_rows(tmp_path, [APPLES, *reversed(rows)], name="train"))}


def options_of(name: str, train: dict) -> dict:
    return {"train": train} if name == "gsm8k_official" else {}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_rows_become_questions(tmp_path: Path, name: str, train: dict, monkeypatch) -> None:
    path, output = write_rows(tmp_path, [ROWS[name]]), tmp_path / "items.json"
    questions.main([
        "--benchmark", name, "--source", json.dumps({"file": str(path)}), "--output", str(output),
        "--options", json.dumps(options_of(name, train)),
    ])  # fmt: skip
    item = read_json(output)[-1]
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")
    right, wrong = (text.format(letter=item["answer"]) if "{letter}" in text else text for text in SPOKEN[name])
    assert score(item, right) == (True, True)
    assert not score(item, wrong)[0]
    row = ROWS[name]
    for key in ("question", "problem", "ctx", "Question"):
        assert row.get(key, "").strip() in item["prompt"]
    offered = row.get("endings") or row.get("options") or row.get("choices", {}).get("text") or []
    for letter, option in zip("ABCDEFGHIJ", offered, strict=False):
        assert f"\n{letter}) {option}" in item["prompt"]
    assert ("ANSWER: X" in item["prompt"]) == (item["kind"] == "letter")
    assert (r"\boxed{}" in item["prompt"]) == (item["kind"] == "math")
    if name == "ifeval":
        assert item["prompt"] == row["prompt"]
    own = {"gpqa_diamond": "rec1", "math_500": "test/algebra/1.json", "aime_2024": "60", "ifeval": "1000",
           "arc_challenge": "Mercury_1", "mmlu_pro_history": "5", "humaneval": "HumanEval/0"}  # fmt: skip
    assert item["id"] == own.get(name, item["id"])


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("gpqa_diamond", ".csv")]
    + [(name, suffix) for name in ("gpqa_diamond", "arc_challenge", "ifeval") for suffix in (".json", ".parquet")],
)
def test_every_kind_of_file_gives_the_same_items(tmp_path: Path, name: str, suffix: str) -> None:
    rows = [ROWS[name], {**ROWS[name], BENCHMARKS[name].name: "2"}]
    if name == "ifeval":
        rows = [{**row, "key": str(row["key"])} for row in rows]
    expected = make_items(name, read_source({"file": str(write_rows(tmp_path, rows))}), {})
    assert len(expected) == 2
    assert make_items(name, read_source({"file": str(write_rows(tmp_path, rows, suffix))}), {}) == expected


def gpqa_items(tmp_path: Path, **options) -> list[dict]:
    rows = [{**GPQA, "Record ID": f"rec{i}", "Question": f"Question {i}?"} for i in range(200)]
    return make_items("gpqa_diamond", read_source({"file": str(write_rows(tmp_path, rows))}), options)


def shown(item: dict) -> list[str]:
    """The four options of a prompt, by their letters."""
    lines = item["prompt"].splitlines()[-4:]
    assert [line[:3] for line in lines] == ["A) ", "B) ", "C) ", "D) "]
    return [line[3:] for line in lines]


def test_the_answer_follows_its_option(tmp_path: Path) -> None:
    items = gpqa_items(tmp_path)
    assert items == gpqa_items(tmp_path)
    for item in items:
        assert sorted(shown(item)) == ["Argon", "Helium", "Hydrogen", "Neon, cold"]
        assert shown(item)["ABCD".index(item["answer"])] == "Hydrogen"
    counts = pd.Series([item["answer"] for item in items]).value_counts()
    # Four standard deviations of a share of a quarter among 200.
    assert sorted(counts.index) == list("ABCD") and counts.between(26, 74).all()
    assert len({tuple(shown(item)) for item in items}) == 24
    other = gpqa_items(tmp_path, seed=1)
    assert 0.1 < sum(a["answer"] == b["answer"] for a, b in zip(items, other, strict=True)) / 200 < 0.4


def test_a_question_keeps_its_order_whatever_stands_beside_it(tmp_path: Path) -> None:
    rows = [{**GPQA, "Record ID": f"rec{i}", "Question": f"Question {i}?"} for i in range(200)][150:]
    part = make_items("gpqa_diamond", read_source({"file": str(write_rows(tmp_path, rows))}), {})
    assert [item["answer"] for item in part] == [item["answer"] for item in gpqa_items(tmp_path)[150:]]


def test_the_published_order_turns_by_one_a_row(tmp_path: Path) -> None:
    items = gpqa_items(tmp_path, order="circular")
    assert shown(items[0]) == ["Helium", "Neon, cold", "Argon", "Hydrogen"]
    assert "".join(item["answer"] for item in items[:8]) == "DCBADCBA"


def test_other_questions_are_left_out(tmp_path: Path) -> None:
    rows = [{**ROWS["mmlu_pro_history"], "question_id": i, "category": c} for i, c in enumerate(["law", "history"])]
    source = read_source({"file": str(write_rows(tmp_path, rows))})
    assert [item["id"] for item in make_items("mmlu_pro_history", source, {})] == ["1"]
    with pytest.raises(InputError, match=r"rows\.jsonl: found no question of mmlu_pro_chemistry"):
        make_items("mmlu_pro_chemistry", source, {})
    three = {"text": ["Gas", "Water", "Sand"], "label": list("ABC")}
    rows = [ROWS["arc_challenge"], {**ROWS["arc_challenge"], "id": "t", "choices": three, "answerKey": "C"}]
    source = read_source({"file": str(write_rows(tmp_path, rows))})
    assert [item["id"] for item in make_items("arc_challenge", source, {})] == ["Mercury_1"]
    found = make_items("arc_challenge", source, {"choices": 0})
    assert [(item["id"], item["answer"], item["options"]) for item in found] == [("Mercury_1", "B", 4), ("t", "C", 3)]


BAD = [
    ("gpqa_diamond", {"Correct Answer": None}, "Correct Answer: found None, expected a text"),
    ("gpqa_diamond", {"Question": " "}, "Question: found ' ', expected a text"),
    ("gsm8k", {"answer": "It is 7."}, "answer: found 'It is 7.', expected a number behind ####"),
    ("gsm8k", {"answer": "#### seven"}, "expected a number behind ####"),
    ("gsm8k", {"question": ["?"]}, "question: found ['?'], expected a text"),
    ("math_500", {"answer": None}, "answer: found None"),
    ("aime_2024", {"answer": True}, "answer: found True"),
    ("ifeval", {"kwargs": "[]"}, "kwargs: found '[]', expected a list"),
    ("ifeval", {"kwargs": ["x"]}, "kwargs: found ['x'], expected a list of objects"),
    ("hellaswag", {"label": ""}, "label: found '', expected a text"),
    ("hellaswag", {"label": "4"}, "label: found '4', expected one of 0, 1, 2, 3"),
    ("hellaswag", {"endings": ["a", "b", 3, "d"]}, "expected texts"),
    ("arc_challenge", {"answerKey": "E"}, "answerKey: found 'E', expected one of 1, 2, 3, 4"),
    ("arc_challenge", {"choices": {"text": ["a"]}}, "expected as many texts as labels"),
    ("mmlu_pro_history", {"answer": "K"}, "answer: found 'K'"),
    ("humaneval", {"test": None}, "test: found None"),
]


@pytest.mark.parametrize(("name", "change", "message"), BAD)
def test_a_bad_row_is_named(tmp_path: Path, name: str, change: dict, message: str) -> None:
    path = write_rows(tmp_path, [ROWS[name], {**ROWS[name], **change}])
    with pytest.raises(InputError) as error:
        make_items(name, read_source({"file": str(path)}), {})
    assert f"{path}: row 2" in str(error.value) and message in str(error.value)


def test_bad_files_are_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path, [APPLES])
    source = read_source({"file": str(path)})
    path.write_text(path.read_text() + '{"question": "cut')
    with pytest.raises(InputError, match=r"rows\.jsonl: row 2: found a line that is no JSON"):
        make_items("gsm8k", source, {})
    path.write_text('"text"\n')
    with pytest.raises(InputError, match=r"row 1: found 'text', expected an object"):
        make_items("gsm8k", source, {})
    with pytest.raises(InputError, match=r"none\.csv: not found, expected a CSV file"):
        make_items("gsm8k", read_source({"file": str(tmp_path / "none.csv")}), {})
    with pytest.raises(InputError, match=r"none\.jsonl: not found, expected a file or a glob"):
        make_items("gsm8k", read_source({"file": str(tmp_path / "none.jsonl")}), {})
    path = write_rows(tmp_path, [ROWS["aime_2024"], ROWS["aime_2024"]])
    with pytest.raises(InputError, match=r"rows\.jsonl: item 1/id: found '60' twice"):
        make_items("aime_2024", read_source({"file": str(path)}), {})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gpqa_diamond", {"sed": 1}, "gpqa_diamond: options: found 'sed', expected some of ['seed', 'order', 'take'"),
        ("gpqa_diamond", {"seed": "1"}, "gpqa_diamond: options.seed: found '1', expected a int"),
        ("gpqa_diamond", {"take": "any"}, "options.take: found 'any', expected one of ('first', 'last')"),
        ("gsm8k", {"commas": 1}, "options.commas: found 1, expected a bool"),
        ("math_500", {"take": "last"}, "options: found 'take', expected some of []"),
        ("gsm8k_official", {}, "options/train: found nothing, expected the source of the train split"),
    ],
)
def test_bad_options_are_refused(tmp_path: Path, name: str, options: dict, message: str) -> None:
    source = read_source({"file": str(write_rows(tmp_path, [ROWS[name]]))})
    with pytest.raises(InputError) as error:
        make_items(name, source, options)
    assert message in str(error.value)


def test_examples_that_the_train_split_lacks_are_named(tmp_path: Path, train: dict) -> None:
    source = read_source({"file": str(write_rows(tmp_path, [APPLES]))})
    with pytest.raises(
        InputError, match=r"options/examples: found no question of .*train\.jsonl that begins 'Nobody'"
    ):
        make_items("gsm8k_official", source, {"train": train, "examples": ["Nobody"]})
    bad = write_rows(tmp_path, [{**APPLES, "answer": "no number"}], name="bad")
    with pytest.raises(InputError, match=r"bad\.jsonl: row 1: answer: found 'no number'"):
        make_items("gsm8k_official", source, {"train": {"file": str(bad)}, "examples": ["Mia"]})


@pytest.mark.parametrize("hub", ["Idavidrein/gpqa", "no/such"])
def test_a_hub_that_cannot_be_reached_is_one_message(tmp_path: Path, hub: str, monkeypatch) -> None:
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    source = read_source({"hub": hub, "config": "gpqa_diamond", "split": "train"})
    with pytest.raises(InputError) as error:
        make_items("gpqa_diamond", source, {})
    assert all(word in str(error.value) for word in (hub, "local copy", "HF_HOME", "HF_TOKEN"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "shown"), [("gsm8k", 0), ("gsm8k_official", 4)])
def test_the_number_of_questions_is_checked(tmp_path: Path, train: dict, name: str, shown: int) -> None:
    path, output = write_rows(tmp_path, [APPLES] * 3), tmp_path / "items.json"
    command = ["--benchmark", name, "--source", json.dumps({"file": str(path)}), "--output", str(output)]
    command += ["--options", json.dumps(options_of(name, train)), "--expected"]
    with pytest.raises(
        InputError, match=rf"rows\.jsonl: found 3 questions of {name}, expected 4: another data set or"
    ):
        questions.main([*command, "4"])
    assert not output.exists()
    questions.main([*command, "3"])
    assert len(read_json(output)) == 3 + shown


def test_bad_sources_are_refused() -> None:
    with pytest.raises(InputError, match="source/split: found none, expected the split of openai/gsm8k"):
        make_items("gsm8k", read_source({"hub": "openai/gsm8k", "config": "main"}), {})
    for block in ({"path": "x"}, {}, {"file": "a", "hub": "b"}, []):
        with pytest.raises(InputError, match="source"):
            read_source(block)


def load(name: str, tmp_path: Path, train: dict):
    """The task YAML as lm-eval alone loads it, on the items of one row, and the item."""
    from lm_eval.tasks import TaskManager

    output = tmp_path / f"{name}.json"
    source = read_source({"file": str(write_rows(tmp_path, [ROWS[name]]))})
    items = make_items(name, source, options_of(name, train))
    output.write_text(json.dumps(items))
    manager = TaskManager(include_path=TASKS, include_defaults=False, metadata={"items": str(output)})
    return manager.load([f"paper_{name}"])["tasks"][f"paper_{name}"], items[-1]


SAMPLES = {"aime_2024": 32, "hellaswag": 1, "arc_challenge": 1, "mmlu_pro_history": 1, "mmlu_pro_chemistry": 1}
CAPS = {"aime_2024": 32768, "gsm8k_official": 512}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_task_answers_its_questions(name: str, tmp_path: Path, train: dict, monkeypatch) -> None:
    import lm_eval
    from lm_eval.api.model import LM

    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")
    task, item = load(name, tmp_path, train)
    samples = SAMPLES.get(name, 8)
    texts = [text.replace("{letter}", item["answer"]) for text in SPOKEN[name]]

    class Spoken(LM):
        """One right answer, the rest wrong."""

        asked: list = []

        def generate_until(self, requests, disable_tqdm=False):
            self.asked += requests
            return [texts[min(number, 1)] for number in range(len(requests))]

        def apply_chat_template(self, chat_history, add_generation_prompt=True):
            return json.dumps(chat_history)

        loglikelihood = loglikelihood_rolling = tokenizer_name = None

    lm = Spoken()
    results = lm_eval.evaluate(
        lm, {"tasks": {task.task_name: task}}, bootstrap_iters=0, apply_chat_template=True, fewshot_as_multiturn=True
    )
    found = results["results"][f"paper_{name}"]
    assert found["accuracy,all_samples"] == pytest.approx(1 / samples)
    assert ("loose,all_samples" in found) == (name == "ifeval")
    asked = results["samples"][f"paper_{name}"]
    assert [len(row["accuracy"]) for row in asked] == [samples] and asked[0]["doc"]["id"] == item["id"]
    settings = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "until": []}
    assert lm.asked[0].args[1] == {**settings, "max_gen_toks": CAPS.get(name, 8192)}
    turns = json.loads(lm.asked[0].args[0])
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * (4 * (name == "gsm8k_official")) + ["user"]
    assert turns[-1]["content"] == item["prompt"]
    for number, opening in enumerate(EXAMPLES if len(turns) > 1 else [], start=1):
        question, answer = turns[2 * number - 2 : 2 * number]
        assert question["content"] == f"Question: {opening} …, how many?\nThink step by step.\nAnswer:"
        assert answer["content"].strip() == f"1+1=2\nSo {number}.\nThe answer is {number}"


@pytest.fixture(scope="module")
def speller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that can write any ASCII text, letter by letter."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = [
        "<pad>",
        "<end>",
        "<user>",
        "<assistant>",
        "?",
        *"\n",
        *map(chr, range(32, 63)),
        *map(chr, range(64, 127)),
    ]
    core = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(letters)}, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="?", pad_token="<pad>", eos_token="<end>", padding_side="left",
        additional_special_tokens=["<user>", "<assistant>"], clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.chat_template = CHAT_TEMPLATE
    ends = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
    config = LlamaConfig(
        vocab_size=len(letters), hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
        max_position_embeddings=40_000, initializer_range=0.3, **ends,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(**ends)
    folder = tmp_path_factory.mktemp("models") / "speller"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def answer_benchmark(name: str, model: Path, tmp_path: Path, train: dict, **changes) -> Path:
    """Rows of a benchmark through the rules questions and evaluate."""
    items, output = tmp_path / "items.json", tmp_path / "evaluation"
    rows = [ROWS[name], {**ROWS[name], BENCHMARKS[name].name: "2"} if BENCHMARKS[name].name else ROWS[name]]
    questions.main(
        ["--benchmark", name, "--source", json.dumps({"file": str(write_rows(tmp_path, rows))}), "--expected", "2"]
        + ["--options", json.dumps(options_of(name, train)), "--output", str(items)]
    )
    block = {
        "name": name, "task": f"paper_{name}", "items": str(items), "samples": 3, "max_new_tokens": 40,
        "tight_tokens": 40, **changes,
    }  # fmt: skip
    files = {"summary": "summary.json", "samples": "samples.parquet", "lm-eval": "lm_eval.json"}
    evaluate.main(
        ["--run", canonical_json({"model": "speller", "method": "vanilla", "seed": 0}), "--model", str(model)]
        + ["--benchmarks", canonical_json([block]), "--decoding", "{}", "--scratch", str(tmp_path / "scratch")]
        + [part for key, file in files.items() for part in (f"--output-{key}", str(output / file))]
    )
    return output


NOT_PARSED = {"ifeval": "  ", "humaneval": "No code here."}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_through_the_rule(name: str, speller: Path, tmp_path: Path, train: dict, monkeypatch) -> None:
    """Three samples a question: a right answer, one cut short that holds no answer, and a wrong one."""
    from transformers import AutoTokenizer

    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")
    tokenizer = AutoTokenizer.from_pretrained(speller)
    asked = []

    def spoken(model, prompts, uniforms, ends, **decoding):
        assert uniforms.shape == (6, 40) and ends == [1]
        assert decoding == {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20}
        items = [item for item in read_json(tmp_path / "items.json") if item["kind"] != "example"]
        asked.extend(tokenizer.batch_decode(prompts))
        answers = []
        for item in items:
            right, wrong = (text.replace("{letter}", item["answer"]) for text in SPOKEN[name])
            texts = (f"{right}<end>", NOT_PARSED.get(name, "Nothing."), f"{wrong}<end>")
            answers += tokenizer(list(texts))["input_ids"]
        return answers

    monkeypatch.setattr(lm, "sample", spoken)
    output = answer_benchmark(name, speller, tmp_path, train)
    rows = read_parquet(output / "samples.parquet")
    assert rows["correct"].tolist() == [True, False, False] * 2
    assert rows["ended"].tolist() == [True, False, True] * 2
    # The wrong letter of gpqa_diamond is none of the options.
    assert rows["parsed"].tolist() == [True, False, name != "gpqa_diamond"] * 2
    assert rows["sample"].tolist() == [0, 1, 2] * 2 and rows["question_id"].nunique() == 2
    summary = read_json(output / "summary.json")["benchmarks"][name]
    assert summary["accuracy"] == pytest.approx(1 / 3) and summary["ended"] == pytest.approx(2 / 3)
    assert summary["parsed"] == pytest.approx(rows["parsed"].mean())
    kept = read_json(output / "lm_eval.json")[name]
    assert ("loose" in kept["samples"][f"paper_{name}"][0]) == (name == "ifeval") and "loose" not in rows
    shown = 4 * (name == "gsm8k_official")
    assert all(text.count("<user>") == shown + 1 and text.count("<end>") == shown for text in asked)
    for number, opening in enumerate(EXAMPLES if shown else [], start=1):
        turn = f"<user>Question: {opening}"
        assert asked[0].split("<end>")[number - 1].lstrip().startswith(turn)


@pytest.mark.parametrize("name", ["gsm8k_official", "mmlu_pro_history"])
def test_a_model_answers_through_the_rule(name: str, speller: Path, tmp_path: Path, train: dict) -> None:
    output = answer_benchmark(name, speller, tmp_path, train, max_new_tokens=12)
    rows = read_parquet(output / "samples.parquet")
    assert len(rows) == 6 and rows["tokens"].between(1, 12).all() and rows["text"].nunique() == 6
    assert (rows["text"].str.len() <= rows["tokens"] - rows["ended"]).all() and rows["text"].str.len().max() == 12


def test_without_leave_no_model_is_loaded(speller: Path, tmp_path: Path, train: dict, monkeypatch) -> None:
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
    monkeypatch.setattr(evaluate, "load_lm", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(
        InputError, match=r"items\.json: found code that a model writes .*expected HF_ALLOW_CODE_EVAL=1"
    ):
        answer_benchmark("humaneval", speller, tmp_path, train)


def test_no_task_is_without_a_benchmark() -> None:
    assert {path.stem for path in TASKS.glob("paper_*.yaml")} == {f"paper_{name}" for name in BENCHMARKS}


@pytest.mark.skipif(not (GSM8K / "gsm8k_test.jsonl").is_file(), reason="no ../shared/data/gsm8k_test.jsonl")
def test_gsm8k_whole() -> None:
    test, train = ({"file": str(GSM8K / f"gsm8k_{split}.jsonl")} for split in ("test", "train"))
    solutions = [json.loads(line)["answer"] for line in (GSM8K / "gsm8k_test.jsonl").read_text().splitlines()]
    items = make_items("gsm8k", read_source(test), {})
    assert len(items) == 1319
    assert all(score(item, text) == (True, True) for item, text in zip(items, solutions, strict=True))
    official = make_items("gsm8k_official", read_source(test), {"train": train})
    assert [item["kind"] for item in official] == ["example"] * 4 + ["number"] * 1319
    # The published reading loses the solutions whose last number has a comma, and no other.
    lost = [not score(item, text)[0] for item, text in zip(official[4:], solutions, strict=True)]
    assert lost == ["," in text.rpartition("####")[2] for text in solutions] and sum(lost) == 14
    numbers = ["4", "201", "140", "146"]
    assert all(score({**items[0], "answer": n}, e["answer"])[0] for n, e in zip(numbers, official[:4], strict=True))
    assert not any("<<" in item["answer"] for item in official[:4])
