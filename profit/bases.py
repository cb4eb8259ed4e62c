"""The blocks of a study that say what a base model is, how it is run and how it answers.

`source: miniature` is pretrained by the study itself; any other source is an id of the hub or a local folder, with the
template and the end token of its chats stated, because what a base lacks or leaves open is never guessed.

No command: used by profit.study, whose `check` reads these blocks. Imports pydantic alone.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from profit.methods import Count, ModelName, Name, Positive, Some
from profit.miniature.world import Pretraining, Strict
from profit.validation import either

ROOT = Path(__file__).resolve().parent.parent
# Files of a model's folder that are taken: from the hub, and as what a local one is known by.
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
WANTED = (*WEIGHTS, "config.json", "generation_config.json", "tokenizer*", "*.jinja", "special_tokens_map.json",
          "vocab.json", "merges.txt", "added_tokens.json")  # fmt: skip


class Decoding(Strict):
    """Sampling of answers, the paper's by default (App. B); the batch size moves numbers by rounding alone."""

    temperature: Positive = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.8
    top_k: int = Field(20, ge=0, description="0: all tokens")
    batch_size: Count = 100


class Compute(Strict):
    """How a model is held and run; beside rounding, only the precision and who samples (backend) move a number."""

    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="bfloat16: trained weights stay in float32 and compute in bfloat16 (autocast), frozen ones and "
        "those that only score or answer are bfloat16 themselves",
    )
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    gradient_checkpointing: bool = Field(False, description="a third more time for much less memory")
    processes: Count = Field(1, description="of one training: as many GPUs, weights sharded among them (FSDP)")
    micro_batch_size: Count | None = Field(None, description="answers at once on a GPU; default: that of training")
    backend: Literal["hf", "vllm"] = Field("hf", description="who samples the answers to benchmarks")
    evaluation_gpus: Count = Field(1, description="of one evaluation with vllm (tensor parallel)")

    def of(self, rule: str) -> dict[str, Any]:
        """What a job of a rule is told, defaults left out: a change of the rest leaves its results alone."""
        told = {"train": {"gradient_checkpointing", "processes"}, "evaluate": {"backend", "evaluation_gpus"}}
        told["timing"] = {"gradient_checkpointing"}
        attention = {"attention"} if rule != "evaluate" or self.backend == "hf" else set()
        return self.model_dump(include={"precision"} | attention | told.get(rule, set()), exclude_defaults=True)

    @model_validator(mode="after")
    def _goes_together(self) -> "Compute":
        if self.attention == "flash_attention_2" and self.precision == "float32":
            raise ValueError("attention: found flash_attention_2, expected sdpa or eager with precision float32")
        if self.evaluation_gpus > 1 and self.backend == "hf":
            raise ValueError(f"evaluation_gpus: found {self.evaluation_gpus}, expected 1 with backend hf")
        return self


class Miniature(Strict):
    """A base model that the study pretrains itself, on the documents of its world."""

    source: Literal["miniature"] = "miniature"
    pretraining: Pretraining = Pretraining()
    world: dict[str, Any] = Field({}, description="what differs from the study's world")
    prompts: Count | None = Field(None, description="of its references; default: as many as data says")
    like: ModelName | None = Field(None, description="model whose base it is, met by references of its own")
    methods: Some[Name] | None = Field(None, description="the only ones that are run on it; default: all")

    @model_validator(mode="after")
    def _pretrained_once(self) -> "Miniature":
        if self.like is not None and "pretraining" in self.model_fields_set:
            raise ValueError(f"pretraining: found it with like {self.like}, which is pretrained already")
        return self


class HubModel(Strict):
    """Where a base model comes from, what its tokenizer is to be, and how it is run."""

    source: str = Field(min_length=1, description="id of the hub, or a local folder")
    revision: str | None = Field(None, description="commit, tag or branch of the hub; `python -m profit.study pin`")
    chat_template: str | None = Field(None, description="path of a Jinja file; default: the tokenizer's own")
    end_token: str | None = Field(None, description="token that ends an answer; default: the tokenizer's own")
    stop_tokens: list[str] = Field([], description="further tokens that end an answer when it is sampled")
    stop: Literal["all", "own"] = Field(
        "all",
        description="all: the end token, those of the source's generation settings and stop_tokens end a sampled "
        "answer; own: those of the source alone, as in the paper's code, where answers may run on",
    )
    max_new_tokens: Count | None = Field(
        None, description="most of them in an answer, whatever a benchmark allows, where the context is short"
    )
    parameters: Positive | None = Field(None, description="billions of them, for predictions of time and memory")
    compute: Compute = Compute()
    decoding: Decoding | None = Field(None, description="default: that of the study")

    @property
    def template(self) -> Path | None:
        """The file of the chat template, as seen from the working folder or else from the suite's own."""
        if self.chat_template is None:
            return None
        path = Path(self.chat_template)
        return path if path.is_file() else ROOT / path

    @model_validator(mode="after")
    def _template_exists(self) -> "HubModel":
        if self.template is not None and not self.template.is_file():
            raise ValueError(f"chat_template: found no file {self.chat_template}, expected a Jinja template")
        return self

    @model_validator(mode="after")
    def _stops_are_used(self) -> "HubModel":
        if self.stop == "own" and self.stop_tokens:
            raise ValueError(f"stop_tokens: found {self.stop_tokens}, expected none with stop own")
        return self

    @property
    def fetched(self) -> dict[str, Any]:
        """What decides the folder that rule `fetch` writes."""
        return self.model_dump(include={"source", "revision", "chat_template", "end_token", "stop_tokens", "stop"})


def _class_of(content: Any) -> type[Strict]:
    if not isinstance(content, dict):
        return Miniature
    own = content.get("source", "miniature") == "miniature" or "pretraining" in content
    return Miniature if own else HubModel


Base = either(_class_of, Miniature, HubModel)
