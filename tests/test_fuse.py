"""Fused models of many families against their own loss and gradients; compilation, checkpointing, what is refused."""

import copy
import inspect
import subprocess
import sys
from types import MethodType

import pytest
import torch
import torch._dynamo.testing
from peft import LoraConfig, get_peft_model
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPTJConfig,
    GPTJForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaModel,
    Olmo2Config,
    Olmo2ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

import profit
from profit.fuse import fuse_head, lm_head
from profit.head import token_loss

SIZE = 53
SHAPE = {
    "vocab_size": SIZE, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 32, "initializer_range": 0.3,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "llama tied": (LlamaForCausalLM, LlamaConfig, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {}),
    "olmo2": (Olmo2ForCausalLM, Olmo2Config, {}),
    "gemma2": (Gemma2ForCausalLM, Gemma2Config, {"final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8}),
    "cohere": (CohereForCausalLM, CohereConfig, {"logit_scale": 0.4}),
    "granite": (GraniteForCausalLM, GraniteConfig, {"logits_scaling": 3.0}),
    "phi": (PhiForCausalLM, PhiConfig, {"num_key_value_heads": 2}),
    "gptj": (
        GPTJForCausalLM,
        GPTJConfig,
        {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": 24, "n_positions": 32, "rotary_dim": 4},
    ),
    "qwen3 moe": (
        Qwen3MoeForCausalLM,
        Qwen3MoeConfig,
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 8,
            "experts_implementation": "eager",
        },
    ),
}
CLOSE = {"rtol": 1e-9, "atol": 1e-10}


def make(family, dtype=torch.float64, **more):
    torch.manual_seed(0)
    kind, config, changes = FAMILIES[family]
    shape = {key: value for key, value in SHAPE.items() if not (family == "gptj" and key.startswith("num_"))}
    model = kind(config(**shape | changes | more, attn_implementation="eager")).to(dtype)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model


@pytest.fixture()
def batch():
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, SIZE, (3, 9), generator=generator)
    labels = ids.clone()
    labels[:, :3] = labels[1, 6:] = -100
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def fused_loss(model, batch, objective=None):
    inputs = {key: value for key, value in batch.items() if key != "labels"}

    def head(hidden, lm_head):
        return token_loss(hidden[:, :-1], lm_head, batch["labels"][:, 1:], objective or {"name": "sft"}).loss

    return model(**inputs, use_cache=False, token_head=head)


def own_loss(model, batch):
    """The model's own loss, which rounds its logits to fp32, and the same of logits that are not rounded."""
    out = model(**batch, use_cache=False)
    exact = torch.nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
    assert out.loss.item() == pytest.approx(exact.item(), rel=1e-6)
    return exact


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}


def check_same(model, batch):
    expected = own_loss(model, batch)
    wanted = gradients(model, expected)
    fuse_head(model)
    found = fused_loss(model, batch)
    torch.testing.assert_close(found, expected, **CLOSE)
    torch.testing.assert_close(gradients(model, found), wanted, **CLOSE)
    return wanted


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_all_gradients_are_those_of_the_model_itself(family, batch):
    model = make(family)
    wanted = check_same(model, batch)
    assert len(wanted) == len(list(model.parameters())) and wanted.keys() == dict(model.named_parameters()).keys()


@pytest.mark.parametrize(("family", "expected"), [("phi", True), ("gptj", True), ("llama", False)])
def test_the_bias_of_a_head_is_found(family, expected):
    head = lm_head(make(family))
    assert (head.bias is not None) == expected and (not expected or head.bias.abs().min() > 0)


def test_scales_and_caps_are_found():
    assert [lm_head(make(family)).scale for family in ("llama", "cohere", "granite")] == [1.0, 0.4, 1 / 3]
    assert [lm_head(make(family)).softcap for family in ("llama", "gemma2")] == [None, 3.0]


class Multiplied(LlamaForCausalLM):
    """As Muse multiplies its logits."""

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.logits = out.logits * self.config.output_multiplier
        return out


def test_scales_of_rarer_models(batch):
    model = unlike(Multiplied, LlamaConfig)
    model.config.output_multiplier = 0.3
    fuse_head(model)
    assert lm_head(model).scale == 0.3
    hyperclovax = pytest.importorskip("transformers.models.hyperclovax")
    config = hyperclovax.HyperCLOVAXConfig(**SHAPE | {"logits_scaling": 0.3})
    model = hyperclovax.HyperCLOVAXForCausalLM(config).double()
    check_same(model, batch)
    assert lm_head(model).scale == 0.3


@pytest.mark.parametrize("family", ["llama", "llama tied", "gemma2"])
def test_gradient_checkpointing_changes_nothing(family, batch):
    model = make(family)
    wanted = gradients(model, own_loss(model, batch))
    fuse_head(model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    assert model.is_gradient_checkpointing
    torch.testing.assert_close(gradients(model, fused_loss(model, batch)), wanted, **CLOSE)


@pytest.mark.parametrize("what", ["backbone", "model"])
def test_compilation_changes_nothing(what, batch):
    torch._dynamo.reset()
    model = make("llama tied", num_hidden_layers=1)
    wanted = gradients(model, own_loss(model, batch))
    fuse_head(model)
    compiled, backend = model, torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    if what == "backbone":
        model.model.compile(backend=backend)
    else:
        compiled = torch.compile(model, backend=backend)
    torch.testing.assert_close(gradients(model, fused_loss(compiled, batch)), wanted, **CLOSE)
    assert backend.frame_count


def test_a_compiled_model_is_compiled_once(batch):
    torch._dynamo.reset()
    model, backend = make("llama", num_hidden_layers=1), torch._dynamo.testing.CompileCounter()
    fuse_head(model)
    compiled, counts = torch.compile(model, backend=backend), []
    for count in (3, 5, 8, 13):

        def head(hidden, head, count=count):
            return token_loss(hidden[:, :-1], head, batch["labels"][:, 1:], {"name": "sft"}, count=count).loss

        found = [part(batch["input_ids"], use_cache=False, token_head=head).item() for part in (compiled, model)]
        assert found[0] == pytest.approx(found[1])
        counts.append(backend.frame_count)
    assert len(set(counts)) == 1


def test_sixteen_bit_autocast(batch):
    model = make("llama", torch.float32)
    expected = own_loss(model, batch).item()
    fuse_head(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = fused_loss(model, batch)
    found = gradients(model, loss)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(expected, rel=0.01)
    assert loss.item() != pytest.approx(expected, rel=1e-6)
    for name, parameter in model.named_parameters():
        assert found[name].dtype == parameter.dtype and found[name].isfinite().all() and found[name].norm() > 0


@pytest.mark.parametrize("family", ["llama", "llama tied"])
def test_adapters_have_the_gradients_of_the_model_itself(family, batch):
    model = get_peft_model(make(family), LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "up_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    wanted = check_same(model.double(), batch)
    assert len(wanted) == 8 and all("lora" in name and value.norm() > 0 for name, value in wanted.items())


def test_everything_else_stays_as_it_was(batch):
    model = make("llama")
    model.generation_config.pad_token_id = 0
    inputs = {"input_ids": batch["input_ids"], "attention_mask": torch.ones_like(batch["input_ids"])}
    logits, text = model(**inputs).logits, model.generate(**inputs, max_new_tokens=4, do_sample=False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    signature = inspect.signature(model.forward)
    model.train()
    model.model.layers[0].eval()
    fuse_head(model)
    assert model.training and not model.model.layers[0].training
    model.eval()
    assert model(**inputs).logits.equal(logits) and inspect.signature(model.forward) == signature
    assert model.generate(**inputs, max_new_tokens=4, do_sample=False).equal(text)
    assert own_loss(model, batch).item() == own_loss(make("llama"), batch).item()
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)


def test_fusing_twice_is_fusing_once(batch):
    model = make("llama")
    fuse_head(model)
    forward = model.forward
    fuse_head(model)
    assert model.forward == forward
    peft = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    fuse_head(peft)
    assert model.forward == forward


def test_a_copy_of_a_fused_model_uses_its_own_weights(batch):
    model = make("llama")
    fuse_head(model)
    other = copy.deepcopy(model)
    before, logits = fused_loss(model, batch).item(), model(batch["input_ids"]).logits
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    assert fused_loss(model, batch).item() == before and model(batch["input_ids"]).logits.equal(logits)
    found = fused_loss(other, batch)
    torch.testing.assert_close(found, own_loss(other, batch), **CLOSE)
    assert abs(found.item() - before) > 0.01 and not other(batch["input_ids"]).logits.equal(logits)
    assert gradients(other, found) and all(parameter.grad is None for parameter in model.parameters())


class Cooler(LlamaForCausalLM):
    """Divides its logits by what no configuration names."""

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.logits = out.logits / 0.7
        return out


def adapted(**options):
    return get_peft_model(make("llama"), LoraConfig(task_type="CAUSAL_LM", r=2, **options))


def unlike(kind, config):
    return kind(config(**SHAPE | {"num_labels": 2})).double()


def flattened(model):
    model.lm_head.weight = torch.nn.Parameter(torch.empty(0))
    return model


REFUSED = {
    "adapter on the head": (
        lambda: adapted(target_modules=["q_proj", "lm_head"]),
        "LlamaForCausalLM: found an LM head of type peft.tuners.lora.layer.Linear, expected torch.nn.Linear .* targ",
    ),
    "trained copy of the head": (
        lambda: adapted(target_modules=["q_proj"], modules_to_save=["lm_head"]),
        "found an LM head of type peft.*ModulesToSaveWrapper, .* modules_to_save",
    ),
    "more done to the logits": (
        lambda: unlike(Cooler, LlamaConfig),
        r"Cooler: found logits up to \d\S* away from those .* expected the same: its forward does more",
    ),
    "no LM head": (lambda: unlike(LlamaModel, LlamaConfig), "LlamaModel: found no LM head, expected torch.nn.Linear"),
    "another head": (lambda: unlike(LlamaForSequenceClassification, LlamaConfig), "found no LM head"),
    "a sharded weight": (
        lambda: flattened(make("llama")),
        r"found an LM-head weight of shape \(0,\), expected a matrix: fuse the head before FSDP1 or ZeRO shards it",
    ),
    "no transformer": (lambda: torch.nn.Linear(3, 4), "Linear: found no LM head"),
    "encoder and decoder": (
        lambda: BartForConditionalGeneration(
            BartConfig(vocab_size=SIZE, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=8,
                       decoder_ffn_dim=8, encoder_attention_heads=2, decoder_attention_heads=2)
        ),
        "BartForConditionalGeneration: found no backbone of its own, expected a causal language model",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("build", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_stays_as_it_was(build, message, batch):
    model = build()
    inside = model.get_base_model() if hasattr(model, "get_base_model") else model
    attributes, forward = set(inside.__dict__), inside.forward
    with pytest.raises(ValueError, match=message):
        fuse_head(model)
    assert set(inside.__dict__) == attributes and inside.forward == forward
    assert model.training


def test_a_forward_set_on_the_model_is_put_back(batch):
    model = unlike(Cooler, LlamaConfig)
    logits = model(batch["input_ids"]).logits
    mine = MethodType(Cooler.forward, model)
    model.forward = mine
    with pytest.raises(ValueError, match="its forward does more"):
        fuse_head(model)
    assert model.__dict__["forward"] is mine and model(batch["input_ids"]).logits.equal(logits)


def imported_by(code):
    """Which of the heavy packages `code` imports, in a fresh interpreter."""
    report = "import sys; print(*sorted({'torch', 'transformers', 'numpy', 'peft'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_package_imports_what_is_asked_for_and_no_more():
    assert imported_by("import profit; assert 'token_loss' in dir(profit)") == set()
    loss = imported_by("from profit import LMHead, OBJECTIVES, check_objective, token_loss, token_statistics")
    assert "torch" in loss and "transformers" not in loss
    assert profit.fuse_head is fuse_head and set(profit.__all__) <= set(dir(profit))
    assert issubclass(profit.ProFitTrainer, profit.ObjectiveMixin)
    with pytest.raises(AttributeError, match="module 'profit' has no attribute 'nothing'"):
        profit.nothing  # noqa: B018
