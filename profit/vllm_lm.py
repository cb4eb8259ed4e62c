"""Backend vllm: lm-eval's VLLM, its answers recorded; imported only where it is asked for (`pip install vllm`).

vLLM shares prompts and runs answers of any length beside each other, which long answers of large models need. Every
request has a seed of its own, made of the benchmark's seed and the request's number: the runs of one seed share their
random numbers here too, in vLLM's own way of drawing. They are not those of backend hf, so a study keeps to one.

The scheduler runs in this process (VLLM_ENABLE_V1_MULTIPROCESSING=0, unless the environment says otherwise), which
makes it deterministic; numbers still belong to one version of vLLM and one kind of GPU.

No command: used by the rule `evaluate`.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lm_eval.models.vllm_causallms import VLLM
from transformers import GenerationConfig, PreTrainedTokenizerBase
from vllm import SamplingParams

from profit.bases import Compute
from profit.recording import Recording, derived_seed, end_tokens

# At most so many new tokens are asked at once and kept together: 1,024 answers of 8,192, 256 of 32,768.
TOKENS_AT_ONCE = 2**23


class RecordingVLLM(Recording, VLLM):
    """VLLM on the weights in `folder`, for texts of at most `context` tokens.

    `tokenizer` and the folder's generation settings say what ends an answer, as with backend hf.
    """

    def __init__(
        self, folder: Path, tokenizer: PreTrainedTokenizerBase, batch_size: int, context: int, compute: Compute
    ) -> None:
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        super().__init__(
            pretrained=str(folder), tokenizer=tokenizer.name_or_path, dtype=compute.precision, max_model_len=context,
            tensor_parallel_size=compute.evaluation_gpus, batch_size=batch_size,
        )  # fmt: skip
        self.tokenizer = tokenizer
        stated = (folder / "generation_config.json").is_file()
        settings = (
            GenerationConfig.from_pretrained(folder) if stated else GenerationConfig.from_model_config(self._config)
        )
        self.ends = end_tokens(settings, tokenizer)

    def at_once(self, max_gen_toks: int) -> int:
        """As `Recording.at_once`; vLLM itself says how many it runs beside each other, so many must be waiting."""
        return max(self.batch_size, TOKENS_AT_ONCE // max_gen_toks)

    def answers(
        self, prompts: list[list[int]], batches: list[list[int]], seed: int, max_gen_toks: int, **decoding: Any
    ) -> Iterator[list[list[int]]]:
        """As `Recording.answers`; decoding: do_sample, temperature, top_p, top_k.

        Raises:
            RuntimeError: vLLM gave a request up.
        """
        settings = sampling_settings(**decoding) | {
            "max_tokens": max_gen_toks, "stop_token_ids": self.ends, "ignore_eos": True,
        }  # fmt: skip
        for rows in batches:
            each = [SamplingParams(seed=derived_seed(seed, row), **settings) for row in rows]
            outputs = self._model_generate([prompts[row] for row in rows], generate=True, sampling_params=each)
            found = [output.outputs[0] for output in outputs]
            for row, answer in zip(rows, found, strict=True):
                if answer.finish_reason not in ("stop", "length"):
                    raise RuntimeError(f"request {row}: vLLM ended it with {answer.finish_reason!r}")
            yield [list(answer.token_ids) for answer in found]


def sampling_settings(do_sample: bool, temperature: float, top_p: float, top_k: int) -> dict[str, Any]:
    """Decoding as SamplingParams takes it, whose top_k for all tokens depends on the version: it is left out."""
    drawn = {"temperature": temperature if do_sample else 0.0, "top_p": top_p, "detokenize": False}
    return drawn | ({"top_k": top_k} if top_k else {})
