"""Backend vllm on a stand-in for the package: what reaches it, and what is recorded of its answers."""

import importlib
import json
import os
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from profit import evaluate
from profit.files import InputError, canonical_json, read_json, read_parquet
from profit.models import load_tokenizer
from profit.recording import derived_seed

# As much of vLLM as lm-eval's class imports. Its answers are the prompt backwards: an answer of a request with an even
# seed ends with the first end token, the other goes on with a full stop up to the cap.
PACKAGE = {
    "__init__.py": """
from types import SimpleNamespace
from safetensors.torch import load_file

class SamplingParams:
    def __init__(self, **settings):
        # Versions before 0.9 took -1 for all tokens and refused 0; later ones take both.
        assert settings.get("top_k", 1) > 0
        self.__dict__.update(settings)

class TokensPrompt(dict):
    pass

class LLM:
    made, asked, reason = [], [], None

    def __init__(self, **settings):
        self.llm_engine = SimpleNamespace(model_config=None)
        LLM.made.append({**settings, "weights": load_file(f"{settings['model']}/model.safetensors")})

    def generate(self, prompts, sampling_params, use_tqdm, lora_request):
        assert lora_request is None
        LLM.asked.append([(prompt["prompt_token_ids"], each) for prompt, each in zip(prompts, sampling_params)])
        return [SimpleNamespace(outputs=[self.answer(*pair)]) for pair in LLM.asked[-1]]

    def answer(self, prompt, settings):
        ends = settings.seed % 2 == 0
        tokens = prompt[:0:-1][: settings.max_tokens - 1] + [settings.stop_token_ids[0]]
        if not ends:
            tokens = tokens[:-1] + [9] * (settings.max_tokens - len(tokens) + 1)
        reason = LLM.reason or ("stop" if ends else "length")
        return SimpleNamespace(token_ids=tuple(tokens), finish_reason=reason, text="not asked for")
""",
    "lora/__init__.py": "",
    "lora/request.py": "class LoRARequest: pass",
    "renderers/__init__.py": "",
    "renderers/hf.py": "def resolve_chat_template(**_): return 'another template'",
    "tokenizers.py": """
from transformers import AutoTokenizer
def get_tokenizer(name, tokenizer_mode, trust_remote_code, revision):
    return AutoTokenizer.from_pretrained(name)
""",
}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory):
    """The stand-in as an installed package; lm-eval registers the class that it makes of it once a process."""
    site = tmp_path_factory.mktemp("site")
    for name, content in PACKAGE.items():
        path = site / "vllm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (site / "vllm-0.20.0.dist-info").mkdir()
    (site / "vllm-0.20.0.dist-info" / "METADATA").write_text("Name: vllm\nVersion: 0.20.0\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        yield importlib.import_module("vllm")
        for name in [name for name in sys.modules if name == "vllm" or name.startswith("vllm.")]:
            del sys.modules[name]


@pytest.fixture
def vllm(package, monkeypatch):
    """The class behind every model of the stand-in: what it was made with, and what it was asked."""
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING")
    package.LLM.made.clear()
    package.LLM.asked.clear()
    monkeypatch.setattr(importlib.import_module("profit.vllm_lm"), "TOKENS_AT_ONCE", 48)
    return package.LLM


WORDS = "Mia Tom Ana Ben has gets apples coins".split()


@pytest.fixture
def job(model_folder: Path, tmp_path: Path):
    """A benchmark of five prompts, the longest first; call it to run the rule and read its samples."""
    items = [
        {"id": f"q{i}", "prompt": " ".join(WORDS[i:]), "answer": "", "steps": 1, "kind": "format",
         "checks": [{"kind": "no_word", "text": "Ben"}]}
        for i in range(5)
    ]  # fmt: skip
    (tmp_path / "items.json").write_text(json.dumps(items))
    block = {
        "name": "format", "task": "mini_format", "items": str(tmp_path / "items.json"), "samples": 3,
        "max_new_tokens": 12, "tight_tokens": 12,
    }  # fmt: skip

    def run(seed: int = 0, compute: dict | None = None, decoding: dict | None = None, **changes) -> pd.DataFrame:
        output = tmp_path / "evaluation"
        files = {"summary": "summary.json", "samples": "samples.parquet", "lm-eval": "lm_eval.json"}
        outputs = {f"output-{key}": output / name for key, name in files.items()}
        limits = {key: changes.pop(key) for key in ("max_new_tokens",) if key in changes}
        arguments = {"scratch": tmp_path / "scratch", "model": model_folder, **outputs, **changes}
        evaluate.main(
            ["--run", canonical_json({"model": "tiny", "method": "sft", "seed": seed})]
            + ["--benchmarks", canonical_json([block | limits]), "--decoding", canonical_json(decoding or {})]
            + ["--compute", canonical_json({"backend": "vllm", **(compute or {})})]
            + [part for key, value in arguments.items() for part in (f"--{key}", str(value))]
        )
        return read_parquet(output / "samples.parquet")

    return run


def expected_rows(model_folder: Path, seed: int) -> list[tuple[str, int, str, int, bool]]:
    """Question, sample, text, tokens and end of every answer, from the words of its prompt."""
    rows = []
    for question in range(5):
        for sample in range(3):
            ends = derived_seed(derived_seed(seed, "format"), 3 * question + sample) % 2 == 0
            words = WORDS[question:][::-1]
            tokens = len(words) + 2 if ends else 12
            filler = load_tokenizer(model_folder).convert_ids_to_tokens(9).removeprefix("▁")
            text = " ".join(words if ends else words + [filler] * (12 - len(words) - 1))
            rows.append((f"q{question}", sample, text, tokens, ends))
    return rows


def test_answers_are_recorded_in_the_order_of_the_questions(vllm, job, model_folder: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        found = job(seed, decoding={"batch_size": 2})
        columns = ["question_id", "sample", "text", "tokens", "ended"]
        expected = pd.DataFrame(expected_rows(model_folder, seed), columns=columns)
        expected["text"] = expected["text"].str.split()
        rows = found[columns].assign(text=found["text"].str.split())
        pd.testing.assert_frame_equal(rows, expected, check_dtype=False)
        assert found["ended"].nunique() == 2
    # Shortest prompts first, four at once, with twelve new tokens each.
    assert [len(batch) for batch in vllm.asked] == [4, 4, 4, 3] * 2
    lengths = [len(prompt) for batch in vllm.asked[:4] for prompt, _ in batch]
    assert lengths == sorted(lengths)
    kept = read_json(tmp_path / "evaluation" / "lm_eval.json")["format"]["samples"]["mini_format"]
    assert [text for row in kept for text in row["resps"][0]] == found["text"].tolist()


def test_what_reaches_vllm(vllm, job, model_folder: Path) -> None:
    decoding = {"temperature": 0.6, "top_p": 0.9, "top_k": 7}
    job(compute={"precision": "bfloat16", "evaluation_gpus": 2}, decoding=decoding)
    [made] = vllm.made
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    # The longest prompt has eight words between the marks of user and assistant.
    settings = {"model": str(model_folder), "tokenizer": str(model_folder), "dtype": "bfloat16", "max_model_len": 22,
                "tensor_parallel_size": 2, "enable_lora": False, "quantization": None}  # fmt: skip
    assert {key: made[key] for key in settings} == settings
    [batch] = vllm.asked
    for _, each in batch:
        given = {key: value for key, value in vars(each).items() if key != "seed"}
        assert given == {**decoding, "max_tokens": 12, "stop_token_ids": [1], "ignore_eos": True, "detokenize": False}
    tokenizer = load_tokenizer(model_folder)
    prompts = sorted(tokenizer.decode(prompt) for prompt, _ in batch)
    assert prompts[0].replace("> ", ">").replace(" <", "<") == f"<user>{' '.join(WORDS[2:])}<assistant>"
    seeds = {tuple(prompt): [] for prompt, _ in batch}
    for prompt, each in batch:
        seeds[tuple(prompt)].append(each.seed)
    assert len({seed for own in seeds.values() for seed in own}) == 15
    vllm.asked.clear()
    job(decoding={**decoding, "top_k": 0})
    assert all(not hasattr(each, "top_k") for _, each in vllm.asked[0])


def test_runs_of_a_seed_share_their_seeds(vllm, job, model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(model_folder, tmp_path / "tuned")
    for seed, changes in ((0, {}), (0, {"tuned": tmp_path / "tuned"}), (1, {})):
        job(seed, scratch=tmp_path / f"scratch{len(vllm.made)}", **changes)
    base, tuned, other = ([each.seed for _, each in batch] for batch in vllm.asked)
    assert base == tuned and not set(base) & set(other)
    assert [made["model"] for made in vllm.made] == [str(model_folder), str(tmp_path / "tuned"), str(model_folder)]


def test_every_end_token_of_the_model_folder_stops(vllm, job, model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two_ends"
    shutil.copytree(model_folder, folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 1, 5]}')
    job(model=folder)
    (folder / "generation_config.json").unlink()
    job(model=folder)
    assert [batch[0][1].stop_token_ids for batch in vllm.asked] == [[1, 5, 7], [1]]


def test_an_adapter_is_merged_into_a_folder_that_does_not_stay(vllm, job, model_folder: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    settings = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder), settings)
    tuned.save_pretrained(tmp_path / "adapter")
    tuned.merge_and_unload().save_pretrained(tmp_path / "merged")
    job(tuned=tmp_path / "adapter")
    job(tuned=tmp_path / "adapter", compute={"precision": "bfloat16"})
    made, halved = vllm.made
    assert made["tokenizer"] == str(model_folder) and not made["enable_lora"]
    expected = load_file(tmp_path / "merged" / "model.safetensors")
    assert made["weights"].keys() == expected.keys()
    assert all(torch.equal(made["weights"][name], tensor) for name, tensor in expected.items())
    for name, tensor in expected.items():
        assert halved["weights"][name].dtype == torch.bfloat16
        torch.testing.assert_close(halved["weights"][name].float(), tensor, rtol=2**-7, atol=1e-3)
    base = load_file(model_folder / "model.safetensors")
    assert any(not torch.equal(base[name], tensor) for name, tensor in expected.items())
    assert {path.suffix for path in (tmp_path / "scratch").iterdir()} == {".json"}


def test_a_killed_benchmark_goes_on_with_the_next_batch(vllm, job, tmp_path: Path, monkeypatch) -> None:
    whole = job(decoding={"batch_size": 2}, scratch=tmp_path / "undisturbed")
    batches = list(vllm.asked)
    vllm.asked.clear()
    monkeypatch.setattr(vllm, "reason", "abort")
    with pytest.raises(RuntimeError, match=r"request \d+: vLLM ended it with 'abort'"):
        job(decoding={"batch_size": 2})
    assert len(vllm.asked) == 1
    monkeypatch.setattr(vllm, "reason", None)
    original = vllm.generate

    def killed(*arguments, **settings):
        if len(vllm.asked) == 3:
            raise KeyboardInterrupt
        return original(*arguments, **settings)

    monkeypatch.setattr(vllm, "generate", killed)
    with pytest.raises(KeyboardInterrupt):
        job(decoding={"batch_size": 2})
    monkeypatch.setattr(vllm, "generate", original)
    vllm.asked.clear()
    pd.testing.assert_frame_equal(job(decoding={"batch_size": 2}), whole)
    assert [[prompt for prompt, _ in batch] for batch in vllm.asked] == [
        [prompt for prompt, _ in batch] for batch in batches[2:]
    ]
    vllm.made.clear()
    job(decoding={"batch_size": 2})
    assert not vllm.made


def test_a_prompt_that_leaves_no_room_is_refused(vllm, job) -> None:
    with pytest.raises(
        InputError, match="item q0: found a prompt of 10 tokens and 60 new tokens, expected at most 64"
    ):
        job(max_new_tokens=60)
    assert not vllm.made


def test_without_the_package_the_message_says_what_to_install(job, monkeypatch) -> None:
    monkeypatch.setattr(evaluate, "find_spec", lambda name: None)
    monkeypatch.setattr(evaluate, "load_task", lambda *_: pytest.fail("a task was loaded"))
    with pytest.raises(InputError, match="--compute/backend: found no vllm installed"):
        job()


def test_the_backend_is_part_of_the_fingerprint(vllm, job, tmp_path: Path) -> None:
    job()
    before = {path.name for path in (tmp_path / "scratch").iterdir()}
    for compute in ({"backend": "hf"}, {"precision": "bfloat16"}, {"evaluation_gpus": 2}):
        job(compute=compute)
        assert {path.name for path in (tmp_path / "scratch").iterdir()}.isdisjoint(before)
    job(compute={"gradient_checkpointing": True, "processes": 4})
    assert {path.name for path in (tmp_path / "scratch").iterdir()} == before
