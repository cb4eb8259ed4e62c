"""The paper's study in small: bases as the hub holds them, data in the real columns, and all rules on them."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from paper_smoke import FAMILIES, SOURCES, STUDY, make_sources
from paper_smoke_data import ANSWERED, LONG, story
from safetensors import safe_open
from test_workflow import copy_repository, tool
from tokenizers import Tokenizer
from transformers import GenerationConfig

from profit import fetch
from profit.answers import score
from profit.collect import collect
from profit.data import encode_all
from profit.files import InputError, read_json, read_parquet
from profit.models import load_tokenizer, load_weights
from profit.protocol import BENCHMARKS
from profit.questions import make_items
from profit.shapes import Collected, Source
from profit.strict_yaml import load_yaml
from profit.study import load_study

ROOT = Path(__file__).parent.parent
REAL = ROOT.parent / "shared" / "data"
NAMES = {"qwen3": "Qwen3-tiny", "llama3": "Llama-3.1-tiny", "olmo2": "OLMo-2-tiny"}
# What stands around a prompt, and what ends an answer; the stops are all tokens that end a sampled one.
AROUND = {
    "qwen3": ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"),
    "llama3": ("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n",
               "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"),
    "olmo2": ("<|endoftext|><|user|>\n", "\n<|assistant|>\n"),
}  # fmt: skip
END = {"qwen3": "<|im_end|>", "llama3": "<|eot_id|>", "olmo2": "<|endoftext|>"}
STOPS = {"qwen3": {"<|im_end|>", "<|endoftext|>"}, "llama3": {"<|eot_id|>", "<|end_of_text|>"},
         "olmo2": {"<|endoftext|>"}}  # fmt: skip
TEXTS = [
    "It is 1,200 – not 1200!",
    " leading and trailing \n",
    "x = 3\n\n\n  indented\t12345678",
    "日本語 🙂 café",
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources, their models hardly trained."""
    folder = tmp_path_factory.mktemp("paper_smoke") / "sources"
    make_sources(folder, steps=10)
    return folder


@pytest.fixture(scope="module")
def fetched(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each family's base, as rule fetch writes it for the study."""
    study, folder = load_study(STUDY), tmp_path_factory.mktemp("models")
    for family, name in NAMES.items():
        changes = {"source": str(sources / family), "chat_template": str(ROOT / study.models[name].chat_template)}
        fetch.fetch(study.models[name].model_copy(update=changes), folder / family)
    return {family: folder / family for family in NAMES}


# Bases


@pytest.mark.parametrize("family", FAMILIES)
def test_a_base_has_the_form_of_its_family(sources: Path, fetched: dict[str, Path], family: str) -> None:
    config = read_json(sources / family / "config.json")
    model = load_weights(fetched[family])
    assert [type(model).__name__] == config["architectures"] and 1e5 < model.num_parameters() < 3e5
    tied = model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert tied == config["tie_word_embeddings"] == (family == "qwen3")
    assert len(load_tokenizer(fetched[family])) <= model.lm_head.weight.shape[0] == config["vocab_size"]
    files = sorted((sources / family).glob("*.safetensors"))
    assert (len(files) > 1) == (family == "llama3") == (sources / family / "model.safetensors.index.json").is_file()
    for file in files:
        with safe_open(file, "pt") as weights:
            found = {weights.get_tensor(name).dtype for name in weights.keys()}  # noqa: SIM118
        assert found == {getattr(torch, config["torch_dtype"])}
    norms = {name for name, _ in model.named_parameters() if "layers.0" in name and "norm" in name}
    assert any("q_norm" in name for name in norms) == (family != "llama3")
    assert any("post_feedforward" in name for name in norms) == (family == "olmo2")
    assert model.config.rope_parameters["rope_type"] == ("llama3" if family == "llama3" else "default")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fetched_tokenizer_is_that_of_the_source(sources: Path, fetched: dict[str, Path], family: str) -> None:
    raw, loaded = Tokenizer.from_file(str(sources / family / "tokenizer.json")), load_tokenizer(fetched[family])
    for text in [*TEXTS, "".join(AROUND[family])]:
        found = loaded(text, add_special_tokens=False, return_offsets_mapping=True)
        expected = raw.encode(text, add_special_tokens=False)
        assert found["input_ids"] == expected.ids and found["offset_mapping"] == expected.offsets
        assert loaded.decode(found["input_ids"]) == text
    digits = [raw.decode([token]) for token in raw.encode("2026", add_special_tokens=False).ids]
    assert len(digits) == 4 if family == "qwen3" else len(digits) <= 4
    begins = loaded("A")["input_ids"][0] == loaded.bos_token_id
    assert begins == (family == "llama3")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_prompt_mask_is_exact(fetched: dict[str, Path], family: str) -> None:
    tokenizer, (before, after) = load_tokenizer(fetched[family]), AROUND[family]
    prompts = [story(number)["prompt"] for number in range(9)] + TEXTS
    answers = TEXTS + [f"{number} apples" for number in range(9)]
    for prompt, answer, found in zip(prompts, answers, encode_all(tokenizer, prompts, answers), strict=True):
        head, targets = found.input_ids[: found.prompt_length], found.input_ids[found.prompt_length :]
        assert tokenizer.decode(head) == before + prompt + after
        assert head == tokenizer(before + prompt + after, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(targets) == answer + END[family]
        assert targets[-1] == tokenizer.convert_tokens_to_ids(END[family]) and len(found.spans) == len(targets)
        covered = {place for start, end in found.spans[:-1] for place in range(start, end)}
        assert {place for place, letter in enumerate(answer) if not letter.isspace()} <= covered


@pytest.mark.parametrize("family", FAMILIES)
def test_every_end_stops_an_answer(fetched: dict[str, Path], family: str) -> None:
    tokenizer = load_tokenizer(fetched[family])
    stops = GenerationConfig.from_pretrained(fetched[family]).eos_token_id
    assert STOPS[family] <= set(tokenizer.convert_ids_to_tokens(stops)) and tokenizer.eos_token == END[family]


@pytest.mark.parametrize(
    ("family", "left_out", "message"),
    [
        ("qwen3", "chat_template", "found a tokenizer without a chat template"),
        ("llama3", "chat_template", "found a tokenizer without a chat template"),
        ("olmo2", "chat_template", "found a tokenizer without a chat template"),
        ("qwen3", "end_token", "found no end token after the answer.*found the end token '<.endoftext.>'"),
        ("llama3", "end_token", "found no end token after the answer.*found the end token '<.end_of_text.>'"),
    ],
)
def test_what_the_study_must_say_of_a_base(sources: Path, tmp_path: Path, family, left_out, message) -> None:
    model = load_study(STUDY).models[NAMES[family]]
    changes = {"source": str(sources / family), "chat_template": str(ROOT / model.chat_template), left_out: None}
    with pytest.raises(InputError, match=message):
        fetch.fetch(model.model_copy(update=changes), tmp_path / "out")


# Data


def collected(files: list[Path], **settings):
    return collect(Collected(sources=[Source(file=str(file)) for file in files], **settings))


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_rows_of_infinity_instruct(sources: Path, ending: str) -> None:
    file = sources / f"infinity.{ending}"
    table, report = collected([file], bad_rows=0.15)
    assert report["sources"] == [{"name": str(file), "shape": "sharegpt", "rows": 32, "bad_rows": 4}]
    kinds = ["empty text", "no assistant answer", "several turns", "system message"]
    assert report["bad_rows"]["by_kind"] == dict.fromkeys(kinds, 1)
    assert set(table["prompt"]) == {story(number)["prompt"] for number in range(28)} and len(table) == 28
    more, report = collected([file], bad_rows=0.15, turns="first", system="drop")
    assert len(more) == 30 and set(report["bad_rows"]["by_kind"]) == {"empty text", "no assistant answer"}
    with pytest.raises(InputError, match="found 4 bad rows of 32"):
        collected([file])


def test_rows_of_s1k_join_by_prompt(sources: Path) -> None:
    files = [sources / f"s1k_{effort}.json" for effort in ("low", "middle", "high")]
    table, report = collected(files, references=3, held=1)
    # Of 36 prompts two lack the middle answer, four the high one; one row comes twice and one pair is alike.
    assert report["prompts"] == 29 and report["references"] == 87 and report["held"] == 29
    assert report["prompts_by_answers"] == {3: 29, 2: 7} and report["dropped"]["duplicate_answers"] == 2
    first = table[table["prompt"] == story(0)["prompt"]].sort_values("reference_id")["answer"].tolist()
    assert first[0].startswith("40 + 3 = 43, so") and "\\boxed{43}" in first[1] and first[2].startswith("First, note")
    assert collected(files, references=3, distinct=False)[1]["prompts"] == 30


def test_the_study_collects_all_four_sources(sources: Path) -> None:
    settings = load_study(STUDY).data
    files = [sources / Path(source.file).name for source in settings.sources]
    table, report = collected(files, **settings.model_dump(exclude={"sources"}))
    assert report["prompts"] == 29 and report["prompts_by_answers"] == {4: 28, 3: 1, 2: 7}
    assert report["bad_rows"]["count"] == 4 and report["dropped"]["answers_beyond_references"] == 28
    assert table["answer"].str.len().max() > 2000 and set(ANSWERED) == {"infinity", "low", "middle", "high"}
    assert sum(answer[0] == "\n" for answer in table["answer"]) == 1
    longest = table.loc[table["answer"].str.len().idxmax()]
    assert longest["prompt"] == story(LONG)["prompt"] and longest["reference_id"] == 0


SPOKEN = {
    "gsm8k": ["60 pages", "It is 1,200.", "27"],
    "gsm8k_official": ["60 pages", "It is 1200.", "27"],
    "math_500": [r"\boxed{1.5}", r"\boxed{7}", r"\boxed{4}"],
    "aime_2024": [r"\boxed{34}", r"\boxed{21}", r"\boxed{5}"],
    "ifeval": ["The Rhine; the Po; the Nile.", "The *blue* sea is *deep*.", "<<Night>>\nThe moon."],
}


def test_questions_in_the_real_columns(sources: Path) -> None:
    benchmarks = load_study(STUDY).benchmarks
    assert {"gpqa_diamond", *SPOKEN} == set(benchmarks) <= set(BENCHMARKS)
    for name, benchmark in benchmarks.items():
        options = json.loads(json.dumps(benchmark.options).replace(str(SOURCES), str(sources)))
        items = make_items(name, Source(file=str(sources / Path(benchmark.source.file).name)), options)
        examples, asked = items[:-3], items[-3:]
        assert len(asked) == benchmark.questions == 3 and len(examples) == 4 * (name == "gsm8k_official")
        spoken = SPOKEN.get(name) or [f"ANSWER: {item['answer']}" for item in asked]
        assert all(score(item, text)[0] for item, text in zip(asked, spoken, strict=True)), name
        assert not any(score(item, "I do, not know")[0] for item in asked), name


# The real files, where they are


def real(name: str) -> Path:
    if not (REAL / name).is_file():
        pytest.skip(f"no ../shared/data/{name}")
    return REAL / name


@pytest.fixture(scope="module")
def s1k():
    return collected([real(f"s1k_gptoss20b_{effort}.json") for effort in ("low", "middle", "high")], references=3,
                     distinct=False)  # fmt: skip


def test_real_s1k_joins(s1k) -> None:
    table, report = s1k
    assert [source["rows"] for source in report["sources"]] == [976, 963, 654]
    assert report["prompts"] == 629 and len(table) == 1887 and report["bad_rows"]["count"] == 0


def test_real_gsm8k_is_read(sources: Path) -> None:
    table, report = collected([real("gsm8k_train.jsonl")])
    assert report["sources"][0] | {"name": ""} == {"name": "", "shape": "question_answer", "rows": 7473, "bad_rows": 0}
    assert report["rows"] - report["dropped"]["duplicate_answers"] == sum(
        int(count) * prompts for count, prompts in report["prompts_by_answers"].items()
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_real_texts_lose_nothing(fetched: dict[str, Path], family: str, s1k) -> None:
    gsm8k = [json.loads(line) for line in real("gsm8k_test.jsonl").read_text().splitlines()[:100]]
    pairs = s1k[0].iloc[::19][["prompt", "answer"]].values.tolist()
    pairs += [[row["question"], row["answer"]] for row in gsm8k]
    tokenizer, (before, after) = load_tokenizer(fetched[family]), AROUND[family]
    for (prompt, answer), found in zip(pairs, encode_all(tokenizer, *zip(*pairs, strict=True)), strict=True):
        assert tokenizer.decode(found.input_ids[: found.prompt_length]) == before + prompt + after
        assert tokenizer.decode(found.input_ids[found.prompt_length :]) == answer + END[family]


# The study


def reduced(folder: Path) -> Path:
    """The study file with two models, three methods and two benchmarks, on the same sources."""
    study, _ = load_yaml(STUDY)
    study["models"] = {name: study["models"][name] for name in ("Qwen3-tiny", "OLMo-2-tiny")}
    study["methods"] = {name: study["methods"][name] | {"seeds": 1} for name in ("vanilla", "sft", "profit")}
    study["benchmarks"] = {name: study["benchmarks"][name] for name in ("gsm8k", "ifeval")}
    study["sweeps"], study["tables"] = {}, {"table1": {}}
    (folder / "reduced.yaml").write_text(json.dumps(study))
    return folder / "reduced.yaml"


@pytest.fixture(scope="module")
def finished(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository in which the reduced study has been run, twice."""
    folder = tmp_path_factory.mktemp("finished")
    copy_repository(folder)
    script, given = ROOT / "tests" / "paper_smoke.py", ["--sources", sources, "--study", reduced(folder)]
    for number in (1, 2):
        done = tool("python", script, *given, "--cores", "2", folder=folder)
        (folder / f"output{number}.txt").write_text(done.stdout + done.stderr)
    return folder


def test_the_study_makes_everything(finished: Path) -> None:
    results = finished / "results" / "paper_smoke"
    main = pd.read_csv(results / "tables" / "main.csv")
    assert set(main["model"]) == {"Qwen3-tiny", "OLMo-2-tiny"} and set(main["method"]) == {"vanilla", "sft", "profit"}
    assert (results / "report.html").stat().st_size > 1000
    assert len(list((finished / "figures" / "paper_smoke").glob("*.png"))) == 5
    text = (finished / "output1.txt").read_text()
    assert re.search(r"\[\d+ of \d+ jobs done, about .* left\] running: train", text) and "Traceback" not in text
    assert "Nothing to be done" in (finished / "output2.txt").read_text()


def test_the_study_trains_and_asks_as_it_says(finished: Path) -> None:
    results = finished / "results" / "paper_smoke"
    for model in ("Qwen3-tiny", "OLMo-2-tiny"):
        for method in ("sft", "profit"):
            summary = read_json(results / "runs" / model / method / "seed0" / "train.json")
            assert (summary["examples"], summary["steps"], summary["truncated"]) == (29, 4, 1)
            assert summary["kept"] == 1 if method == "sft" else summary["kept"] < 1
            samples = read_parquet(results / "evaluations" / model / method / "seed0" / "final" / "samples.parquet")
            assert samples.groupby("benchmark").size().to_dict() == {"gsm8k": 6, "ifeval": 3}
            assert samples["tokens"].max() <= (16 if model == "OLMo-2-tiny" else 32)


def test_two_annotators_labelled_the_references(finished: Path) -> None:
    results = finished / "results" / "paper_smoke"
    labelled = {name: read_parquet(results / "annotations" / "shared" / "references" / f"{name}.parquet")
                for name in ("agreement", "llm")}  # fmt: skip
    assert labelled["agreement"]["prompt_id"].nunique() == 29 and labelled["llm"]["prompt_id"].nunique() == 12
    assert all(set(table["label"]) == {"core", "replaceable"} for table in labelled.values())
    answers = {"agreement": 87, "llm": labelled["llm"].groupby(["prompt_id", "reference_id"]).ngroups}
    # To some of 36 questions the judge never gives a usable reply; the study admits a quarter.
    assert 27 <= answers["llm"] <= 36
    assert read_json(results / "agreement" / "shared.json")["answers"] == answers["llm"]
    for model in ("Qwen3-tiny", "OLMo-2-tiny"):
        for name, expected in answers.items():
            found = read_json(results / "correlation" / model / f"{name}.json")
            assert found["answers"] == expected and found["answers"] + found["answers_without_labels"] == 87
