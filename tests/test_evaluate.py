"""Sampling against transformers' own generate and warpers; the rule from items to summary, resume and errors."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import LlamaForCausalLM, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from profit import evaluate, lm, recording
from profit.bases import Decoding
from profit.data import encode, encode_all
from profit.files import InputError, canonical_json, read_json, read_parquet
from profit.models import load_model, load_tokenizer

WORDS = ["Mia", "Tom", "has", "apples", "coins", "How", "many", "+", "?"]
DECODING = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "batch_size": 16}


def random_prompts(count: int, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(5, 40, rng.integers(3, 15)).tolist() for _ in range(count)]


def test_greedy_answers_are_those_of_transformers(model_folder: Path) -> None:
    model, new = load_model(model_folder), 20
    prompts = random_prompts(12)
    prompts += prompts[:3]
    free = [model.generate(torch.tensor([p]), do_sample=False, max_new_tokens=new, eos_token_id=-1) for p in prompts]
    # An untrained model seldom ends: take as end tokens two that its answers do contain.
    counts = pd.Series(
        [token for p, ids in zip(prompts, free, strict=True) for token in set(ids[0, len(p) :].tolist())]
    )
    ends = [int(token) for token in counts.value_counts().index[2:4]]
    expected = []
    for prompt in prompts:
        ids = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=new, eos_token_id=ends)
        expected.append(ids[0, len(prompt) :].tolist())
    found = lm.sample(model, prompts, torch.zeros(len(prompts), new), ends, do_sample=False)
    assert found == expected
    ended = [answer[-1] in ends for answer in found]
    assert any(ended) and not all(ended) and len({len(answer) for answer in found}) > 3


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(0.7, 20, 0.8), (1.0, 0, 0.5), (1.3, 5, 1.0), (0.2, 40, 0.01)]
)
def test_draws_follow_the_warpers_of_transformers(temperature: float, top_k: int, top_p: float) -> None:
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(1)) * 2
    warped = TemperatureLogitsWarper(temperature)(None, logits)
    warped = TopKLogitsWarper(top_k)(None, warped) if top_k else warped
    expected = TopPLogitsWarper(top_p)(None, warped).softmax(-1)
    grid = (torch.arange(20_000) + 0.5) / 20_000
    for row, shares in zip(logits, expected, strict=True):
        drawn = lm.draw(row.expand(len(grid), -1), grid, temperature, top_k, top_p)
        torch.testing.assert_close(torch.bincount(drawn, minlength=50) / len(grid), shares, atol=2e-4, rtol=0)


def test_a_draw_is_in_range_at_the_edges() -> None:
    uniforms = torch.tensor([0.0, 1 - 2**-24])
    logits = torch.zeros(2, 7)
    assert lm.draw(logits, uniforms, 1.0, 0, 1.0).tolist()[0] in range(7)
    assert lm.draw(logits, uniforms, 1.0, 100, 1.0).tolist()[1] in range(7)
    peaked = torch.tensor([[30.0] + [0.0] * 6] * 2)
    assert lm.draw(peaked, uniforms, 0.7, 5, 0.8).tolist() == [0, 0]


def test_draws_do_not_depend_on_the_batch(model_folder: Path) -> None:
    model, prompts = load_model(model_folder), random_prompts(20, seed=1)
    uniforms = torch.rand(20, 25, generator=torch.Generator().manual_seed(3))
    settings = {"temperature": 0.7, "top_k": 20, "top_p": 0.8}
    whole = lm.sample(model, prompts, uniforms, [1, 9, 11], **settings)
    for size in (1, 7):
        parts = [
            answer
            for start in range(0, 20, size)
            for answer in lm.sample(
                model, prompts[start : start + size], uniforms[start : start + size], [1, 9, 11], **settings
            )
        ]
        assert parts == whole
    assert lm.sample(model, prompts, uniforms.flip(0), [1, 9, 11], **settings) != whole


def test_equal_prompts_are_read_once(model_folder: Path) -> None:
    model, prompts = load_model(model_folder), random_prompts(3)
    shapes = []
    model.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    lm.sample(model, [prompt for prompt in prompts for _ in range(8)], torch.rand(24, 2), [], top_k=5)
    assert shapes == [(3, max(map(len, prompts))), (24, 1)]


def items(name: str, count: int) -> list[dict]:
    """Questions whose check some answers of an untrained model pass and some do not."""
    rng = np.random.default_rng(len(name))
    return [
        {
            "id": f"{name}{i}", "prompt": " ".join(rng.choice(WORDS, rng.integers(3, 9))), "answer": "", "steps": 1,
            "kind": "format", "checks": [{"kind": "no_word", "text": str(rng.choice(WORDS[:5]))}],
        }
        for i in range(count)
    ]  # fmt: skip


@pytest.fixture
def job(model_folder: Path, tmp_path: Path):
    """Two small benchmarks; call it to run the rule with some arguments changed, and read its outputs."""
    for name, count in (("format", 12), ("same_length", 7)):
        (tmp_path / f"{name}.json").write_text(json.dumps(items(name, count)))
    blocks = [
        {
            "name": name, "task": f"mini_{name}", "items": str(tmp_path / f"{name}.json"), "samples": samples,
            "max_new_tokens": 30, "tight_tokens": 20,
        }
        for name, samples in (("format", 3), ("same_length", 2))
    ]  # fmt: skip

    def run(benchmarks: list[dict] = blocks, seed: int = 0, decoding: dict = DECODING, **folders) -> Path:
        output = tmp_path / "evaluation"
        files = {"summary": "summary.json", "samples": "samples.parquet", "lm-eval": "lm_eval.json"}
        outputs = {f"output-{key}": output / name for key, name in files.items()}
        arguments = {"scratch": tmp_path / "scratch", "model": model_folder, **outputs, **folders}
        evaluate.main(
            ["--run", canonical_json({"model": "tiny", "method": "sft", "seed": seed})]
            + ["--benchmarks", canonical_json(benchmarks), "--decoding", canonical_json(decoding)]
            + [part for key, value in arguments.items() for part in (f"--{key}", str(value))]
        )
        return output

    run.blocks = blocks
    return run


def samples_of(output: Path, benchmark: str | None = None) -> pd.DataFrame:
    frame = read_parquet(output / "samples.parquet")
    return frame if benchmark is None else frame[frame["benchmark"] == benchmark].reset_index(drop=True)


def test_summary_samples_and_lm_evals_own_file_agree(job, model_folder: Path) -> None:
    output = job()
    frame, summary, kept = samples_of(output), read_json(output / "summary.json"), read_json(output / "lm_eval.json")
    assert list(frame) == ["benchmark", "question_id", "sample", "correct", "ended", "parsed", "tokens", "text"]
    assert frame.groupby("benchmark").size().to_dict() == {"format": 36, "same_length": 14}
    tokenizer = load_tokenizer(model_folder)
    for block in job.blocks:
        name, rows = block["name"], samples_of(output, block["name"])
        found = summary["benchmarks"][name]
        asked = {item["id"]: item for item in items(name, found["questions"])}
        assert set(rows["question_id"]) == set(asked)
        # An answer is free of the word it must not write, and not empty: by hand, without the scorer.
        by_hand = [
            bool(text.strip()) and asked[question]["checks"][0]["text"].lower() not in text.lower().split()
            for question, text in zip(rows["question_id"], rows["text"], strict=True)
        ]
        assert rows["correct"].tolist() == by_hand and 0 < sum(by_hand) < len(by_hand)
        assert found["accuracy"] == pytest.approx(np.mean(by_hand))
        assert found["accuracy"] == pytest.approx(kept[name]["results"][block["task"]]["accuracy,all_samples"])
        assert found["accuracy_tight"] == pytest.approx((rows["correct"] & (rows["tokens"] <= 20)).mean())
        assert found["accuracy_ended"] == pytest.approx(rows["correct"][rows["ended"]].mean())
        assert found["ended"] + found["cut"] == pytest.approx(1) and found["ended"] == pytest.approx(
            rows["ended"].mean()
        )
        assert found["samples"] == block["samples"] and found["tokens_mean"] == pytest.approx(rows["tokens"].mean())
        cut = ~rows["ended"]
        assert (rows["tokens"][cut] == 30).all() and (rows["tokens"] <= 30).all() and 0 < cut.sum() < len(rows)
        # The text lacks the end token, which the count includes; special tokens and the unknown word leave no text.
        words = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in rows["text"]]
        assert all(rows["tokens"] - rows["ended"] >= words) and (rows["tokens"] - rows["ended"] == words).mean() > 0.5
    assert summary["provenance"]["tokens"] == {"generated": int(frame["tokens"].sum())}
    listed = kept["format"]["samples"]["mini_format"]
    assert [text for row in listed for text in row["resps"][0]] == samples_of(output, "format")["text"].tolist()
    assert [row["doc"]["id"] for row in listed for _ in range(3)] == samples_of(output, "format")[
        "question_id"
    ].tolist()


def test_samples_depend_on_seed_and_benchmark_alone(job, tmp_path: Path) -> None:
    first = samples_of(job())
    pd.testing.assert_frame_equal(samples_of(job(scratch=tmp_path / "again")), first)
    alone = samples_of(job(job.blocks[1:], scratch=tmp_path / "alone"))
    pd.testing.assert_frame_equal(alone, first[first["benchmark"] == "same_length"].reset_index(drop=True))
    other = samples_of(job(seed=1))
    assert (other["text"] != first["text"]).mean() > 0.5
    by_sample = first[first["benchmark"] == "format"].groupby("question_id")["text"].nunique()
    assert (by_sample > 1).all()


def test_finished_benchmarks_are_kept_and_stale_ones_removed(job, tmp_path: Path, monkeypatch) -> None:
    made = []
    original = evaluate.run_benchmark

    def counted(model, task, benchmark):
        if len(made) == stop:
            raise KeyboardInterrupt
        made.append(benchmark["name"])
        return original(model, task, benchmark)

    monkeypatch.setattr(evaluate, "run_benchmark", counted)
    stop = 1
    with pytest.raises(KeyboardInterrupt):
        job()
    assert made == ["format"] and not (tmp_path / "evaluation").exists()
    stop = 100
    whole = samples_of(job())
    assert made == ["format", "same_length"]
    job()
    assert made == ["format", "same_length"]
    pd.testing.assert_frame_equal(samples_of(job(scratch=tmp_path / "undisturbed")), whole)
    made.clear()
    job([job.blocks[0], {**job.blocks[1], "samples": 1}])
    assert made == ["same_length"] and len(list((tmp_path / "scratch").iterdir())) == 2
    made.clear()
    job(decoding={**DECODING, "temperature": 1.0})
    assert made == ["format", "same_length"]
    made.clear()
    changed = items("format", 12)
    changed[0]["prompt"] += " ?"
    Path(job.blocks[0]["items"]).write_text(json.dumps(changed))
    job(decoding={**DECODING, "temperature": 1.0})
    assert made == ["format"]


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """The size of every batch that is sampled."""
    sizes = []
    original = lm.sample

    def counted(model, prompts, *settings, **decoding):
        sizes.append(len(prompts))
        return original(model, prompts, *settings, **decoding)

    monkeypatch.setattr(lm, "sample", counted)
    return sizes


def test_a_killed_benchmark_goes_on_with_the_next_batch(job, tmp_path: Path, monkeypatch, asked: list[int]) -> None:
    whole = samples_of(job(scratch=tmp_path / "undisturbed"))
    assert asked == [16, 16, 4, 14]
    asked.clear()
    original = recording.keep_batch

    def killed(path, batch):
        if len(asked) > 1:
            with open(path, "a") as file:
                file.write('\n[[3, "cut short", 7, tr')
            raise KeyboardInterrupt
        original(path, batch)

    monkeypatch.setattr(recording, "keep_batch", killed)
    with pytest.raises(KeyboardInterrupt):
        job()
    monkeypatch.setattr(recording, "keep_batch", original)
    assert [path.suffix for path in (tmp_path / "scratch").iterdir()] == [".jsonl"]
    asked.clear()
    pd.testing.assert_frame_equal(samples_of(job()), whole)
    assert asked == [16, 4, 14]
    assert {path.suffix for path in (tmp_path / "scratch").iterdir()} == {".json"}


@pytest.mark.parametrize("batch_size", [16, 15])
def test_batches_of_the_same_settings_alone_are_taken(job, tmp_path: Path, monkeypatch, batch_size: int) -> None:
    original = recording.keep_batch

    def killed(path, batch):
        original(path, {row: recording.Generation("kept", 1, True) for row in range(36)})
        raise KeyboardInterrupt

    monkeypatch.setattr(recording, "keep_batch", killed)
    with pytest.raises(KeyboardInterrupt):
        job()
    monkeypatch.setattr(recording, "keep_batch", original)
    [file] = (tmp_path / "scratch").iterdir()
    texts = samples_of(job(decoding={**DECODING, "batch_size": batch_size}), "format")["text"]
    assert (texts == "kept").all() if batch_size == 16 else (texts != "kept").all()
    assert not file.exists()


def test_kept_batches_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "new" / "batches.jsonl"
    batches = [
        {4: recording.Generation("Ü\n\u2028\ud7ff", 3, True)},
        {0: recording.Generation("", 1, False), 2: recording.Generation('"}]', 2, True)},
    ]
    for batch in batches:
        recording.keep_batch(path, batch)
    assert recording.read_batches(path) == batches[0] | batches[1]
    text = path.read_text()
    for length in range(len(text)):
        path.write_text(text[:length])
        recording.keep_batch(path, {9: recording.Generation("after", 5, True)})
        found = recording.read_batches(path)
        assert found.pop(9).text == "after" and found.items() <= (batches[0] | batches[1]).items()
        assert len(found) == (length >= text.index("\n", 1))
    assert recording.read_batches(tmp_path / "none") == recording.read_batches(None) == {}


def test_decoding_reaches_every_draw(job, monkeypatch) -> None:
    """With top_k = 0 all tokens may be drawn: of 60 about equal ones the last at times, of 20 never."""
    ranks = []
    original = lm.draw

    def ranked(logits, *settings):
        tokens = original(torch.zeros_like(logits), *settings)
        ranks.extend(tokens.tolist())
        assert settings[1:] == (0.5, top_k, 0.999)
        return tokens

    monkeypatch.setattr(lm, "draw", ranked)
    seen = {}
    for top_k in (20, 0):
        ranks.clear()
        job(decoding={"temperature": 0.5, "top_p": 0.999, "top_k": top_k, "batch_size": 16})
        seen[top_k] = len(set(ranks))
    assert seen[20] == 20 and seen[0] > 40


@pytest.mark.parametrize(
    ("option", "content", "message"),
    [
        ("decoding", {"temperature": 0}, "--decoding.temperature: found 0, expected: input should be greater than 0"),
        ("decoding", {"top_n": 3}, "--decoding: found 'top_n', expected one of temperature, top_p, top_k, batch_size"),
        ("compute", {"backend": "hg"}, "--compute.backend: found 'hg', expected one of hf, vllm; did you mean 'hf'?"),
        ("compute", {"evaluation_gpus": 2}, "--compute.evaluation_gpus: found 2, expected 1 with backend hf"),
    ],
)
def test_bad_settings_are_refused(job, no_generation, option: str, content: dict, message: str) -> None:
    with pytest.raises(InputError) as error:
        job(**({"decoding": content} if option == "decoding" else {"compute": canonical_json(content)}))
    assert message in str(error.value)


def test_a_model_is_held_as_compute_says(job, tmp_path: Path, monkeypatch) -> None:
    held = []
    original = lm.sample

    def seen(model, *settings, **decoding):
        held.append((model.dtype, model.config._attn_implementation))
        return original(model, *settings, **decoding)

    monkeypatch.setattr(lm, "sample", seen)
    texts = {}
    for name, compute in {
        "plain": {}, "bf16": {"precision": "bfloat16"}, "eager": {"attention": "eager"},
        "unlike": {"gradient_checkpointing": True},
    }.items():  # fmt: skip
        held.clear()
        texts[name] = samples_of(job(compute=canonical_json(compute), scratch=tmp_path / name))["text"]
        dtype = torch.bfloat16 if name == "bf16" else torch.float32
        assert set(held) == {(dtype, "eager" if name == "eager" else "sdpa")}
    assert texts["unlike"].equals(texts["plain"]) and (texts["eager"] == texts["plain"]).mean() > 0.9
    assert (texts["bf16"] != texts["plain"]).any()
    settings = read_json(tmp_path / "evaluation" / "summary.json")["provenance"]["settings"]
    assert settings["compute"]["backend"] == "hf" and settings["compute"]["gradient_checkpointing"]


def test_tuned_folders_and_adapters_are_evaluated_in_place_of_the_base(
    job, model_folder: Path, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    settings = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    tuned = get_peft_model(LlamaForCausalLM.from_pretrained(model_folder), settings)
    tuned.save_pretrained(tmp_path / "adapter")
    shutil.copytree(model_folder, tmp_path / "merged")
    tuned.merge_and_unload().save_pretrained(tmp_path / "merged")
    base = samples_of(job())
    adapter = samples_of(job(tuned=tmp_path / "adapter"))
    merged = samples_of(job(tuned=tmp_path / "merged"))
    pd.testing.assert_frame_equal(adapter, merged)
    assert (adapter["text"] != base["text"]).mean() > 0.5


@pytest.mark.parametrize("task", sorted(path.stem for path in evaluate.TASKS.glob("mini_*.yaml")))
def test_every_task_of_the_study_loads(task: str, tmp_path: Path) -> None:
    path = tmp_path / "items.json"
    path.write_text(json.dumps(items("x", 2)))
    block = {"name": "x", "task": task, "items": path, "samples": 5, "max_new_tokens": 9}
    loaded = evaluate.load_task(evaluate.TASKS, block, Decoding(**DECODING), seed=0)
    assert loaded.task_name == task and loaded.config.repeats == 5 and len(loaded.eval_docs) == 2
    assert loaded.config.generation_kwargs["max_gen_toks"] == 9 and loaded.config.generation_kwargs["top_k"] == 20


def write_task(folder: Path, text: str) -> Path:
    folder.mkdir()
    shutil.copy(evaluate.TASKS / "_base.yaml", folder)
    (folder / "mini_format.yaml").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("include: _base.yaml\ntask: mini_format\nmetric_list: [", "lm-eval rejects it"),
        ("include: _base.yaml\n", "lm-eval rejects it"),
        ("include: _base.yaml\ntask: mini_format\noutput_type: guess\n", "lm-eval rejects it: ValueError"),
        ("include: _base.yaml\ntask: mini_format\ntest_splt: test\n", "lm-eval rejects it: TypeError"),
        (
            "include: _base.yaml\ntask: mini_format\nprocess_results: !function profit.scoring.score\n",
            "process_results",
        ),
        (
            "include: _base.yaml\ntask: mini_format\nprocess_results: !function profit.answers.process_results\n",
            "expected both of profit.scoring or both of profit.answers",
        ),
    ],
)
def test_a_bad_task_is_refused(job, tmp_path: Path, no_generation, text: str, message: str) -> None:
    with pytest.raises(InputError, match=r"mini_format\.yaml") as error:
        job(tasks=write_task(tmp_path / "tasks", text))
    assert message in str(error.value)


@pytest.fixture
def no_generation(monkeypatch) -> None:
    monkeypatch.setattr(lm, "sample", lambda *_, **__: pytest.fail("something was generated"))


def test_bad_benchmarks_are_refused(job, no_generation) -> None:
    first, second = job.blocks
    with pytest.raises(InputError, match="same_length/task: found 'mini_some', expected one of .*mini_longest"):
        job([first, {**second, "task": "mini_some"}])
    path = Path(second["items"])
    whole = path.read_text()
    for content, message in ((whole[:50], "truncated"), ("[]", "no items"), ('[{"id": "a"}]', "item 0/prompt")):
        path.write_text(content)
        with pytest.raises(InputError, match=rf"same_length\.json.*{message}"):
            job()
    path.unlink()
    with pytest.raises(InputError, match=r"same_length\.json: not found"):
        job()


def test_a_prompt_that_leaves_no_room_is_refused(job, no_generation) -> None:
    path = Path(job.blocks[1]["items"])
    listed = items("same_length", 7)
    listed[4]["prompt"] = " ".join(["Mia"] * 33)
    path.write_text(json.dumps(listed))
    expected = (
        "mini_same_length, item same_length4: found a prompt of 35 tokens and 30 new tokens, expected at most 64"
    )
    with pytest.raises(InputError, match=expected):
        job()


@pytest.mark.parametrize(
    ("file", "key", "message"),
    [
        ("chat_template.jinja", None, "without a chat template"),
        ("tokenizer_config.json", "eos_token", "without an end token"),
        ("config.json", None, "no config.json"),
    ],
)
def test_a_bad_model_folder_is_refused(
    job, model_folder: Path, tmp_path: Path, no_generation, file: str, key: str | None, message: str
) -> None:
    folder = tmp_path / "bad"
    shutil.copytree(model_folder, folder)
    if key is None:
        (folder / file).unlink()
    else:
        content = json.loads((folder / file).read_text())
        del content[key]
        (folder / file).write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"bad.*{message}"):
        job(tuned=folder)


def test_a_chat_has_one_token_at_its_beginning(model_folder: Path, tmp_path: Path) -> None:
    """Llama's tokenizer puts one before every text, and so does its template."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = load_tokenizer(model_folder)
    bos = tokenizer.convert_tokens_to_ids("<pad>")
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="<pad> $A", special_tokens=[("<pad>", bos)])
    tokenizer.chat_template = "<pad>" + tokenizer.chat_template
    assert tokenizer("Mia has")["input_ids"][0] == bos
    question = "Mia has 3 apples . How many ?"
    text = recording.chat_text(tokenizer, [{"role": "user", "content": question}])
    request = SimpleNamespace(args=(text, {"max_gen_toks": 5}), task_name="t", doc={}, doc_id=0)
    [prompt] = recording.encode_requests([request], tokenizer, 64)
    assert prompt.count(bos) == 1 and prompt[0] == bos
    trained = encode(tokenizer, question, "The answer is 3 .")
    assert prompt == trained.input_ids[: trained.prompt_length]


# Templates as those of models that think: an answer is preceded by a block that is empty where there is no thought.
THINKING = (
    "{% for message in messages %}{% if message['role'] == 'user' %}<user>{{ message['content'] }}"
    "{% else %}<assistant>TRAINED{{ message['content'] }}<end>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>ASKED{% endif %}"
)


def test_training_and_evaluation_begin_an_answer_alike(model_folder: Path) -> None:
    tokenizer = load_tokenizer(model_folder)
    block = "<pad>Look :<pad>"
    for trained, asked in ((block, block), (block, ""), ("", "")):
        tokenizer.chat_template = THINKING.replace("TRAINED", trained).replace("ASKED", asked)
        [example] = encode_all(tokenizer, ["Mia has 3"], ["has 3 ."])
        prompt = tokenizer(recording.chat_text(tokenizer, [{"role": "user", "content": "Mia has 3"}]))["input_ids"]
        assert example.input_ids[: example.prompt_length] == prompt
        answer = tokenizer.decode(example.input_ids[example.prompt_length :], skip_special_tokens=True)
        # What the template writes and evaluation does not is learnt, and written by the model itself.
        assert answer.split() == [*(["Look", ":"] if trained != asked else []), "has", "3", "."]
    for trained, asked in (("", block), (block, "So far ,")):
        tokenizer.chat_template = THINKING.replace("TRAINED", trained).replace("ASKED", asked)
        with pytest.raises(InputError, match="do not begin with the prompt's"):
            encode_all(tokenizer, ["Mia has 3"], ["has 3 ."])
