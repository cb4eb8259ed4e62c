"""One step of a hand-written loop on a model that DDP or FSDP spreads over processes; started by test_sharded.py.

    python tests/sharded.py OUTPUT

writes loss and gradients of every case. The gradients are read off a step of plain SGD with rate 1, so that all ways
of sharding are read alike.
"""

import sys
from itertools import product

import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.nn.parallel import DistributedDataParallel
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from profit import fuse_head, token_loss

SIZE, ROWS = 61, 4
OBJECTIVES = [{"name": "sft"}, {"name": "profit", "tau": 0.015}]
WAYS = ["ddp", "fsdp1", "fsdp1 flat", "fsdp2", "fsdp2 head apart"]
CASES = [
    case
    for case in product(WAYS, ["tied", "untied"], ["full", "lora"], range(len(OBJECTIVES)))
    # One flat parameter cannot be trained in part, and one that is tied cannot be sharded apart.
    if (case[0], case[2]) != ("fsdp1 flat", "lora") and case[:2] != ("fsdp2 head apart", "tied")
]


def build(tied, tuning):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=SIZE, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, initializer_range=0.4, tie_word_embeddings=tied == "tied", bos_token_id=None,
        eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    if tuning == "lora":
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "up_proj"]))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
    return model.double()


def data():
    """Four rows; the processes' halves have different numbers of target tokens."""
    ids = torch.randint(0, SIZE, (ROWS, 12), generator=torch.Generator().manual_seed(3))
    labels = ids.clone()
    labels[:, :3] = labels[3, 5:] = -100
    return ids, labels


def wrap(model, way):
    layers = [module for module in model.modules() if isinstance(module, LlamaDecoderLayer)]
    if way == "ddp":
        return DistributedDataParallel(model)
    if way.startswith("fsdp1"):
        return FullyShardedDataParallel(
            model, auto_wrap_policy=ModuleWrapPolicy({LlamaDecoderLayer}), use_orig_params=way == "fsdp1",
            device_id=torch.device("cpu"),
        )  # fmt: skip
    for layer in [*layers, *([model.get_output_embeddings()] if way == "fsdp2 head apart" else [])]:
        fully_shard(layer)
    return fully_shard(model)


def whole_parameters(model, way):
    """Copies of all parameters, each as it was before it was sharded, by the name of the plain model."""
    if way.startswith("fsdp1"):
        with FullyShardedDataParallel.summon_full_params(model, writeback=False):
            found = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    else:
        named = {name: parameter.detach() for name, parameter in model.named_parameters()}
        found = {name: p.full_tensor() if way.startswith("fsdp2") else p.clone() for name, p in named.items()}
    return {name.replace("_fsdp_wrapped_module.", "").removeprefix("module."): value for name, value in found.items()}


def step(way, tied, tuning, objective, rank=0, processes=1):
    """Loss (the mean over all target tokens) and gradients by name."""
    model = build(tied, tuning)
    fuse_head(model)
    wrapped = model if way == "plain" else wrap(model, way)
    ids, labels = data()
    own = slice(rank * ROWS // processes, (rank + 1) * ROWS // processes)
    targets, count = labels[own, 1:], int((labels[:, 1:] != -100).sum())

    def head(hidden, lm_head):
        return token_loss(hidden[:, :-1], lm_head, targets, objective, count=count)

    before = whole_parameters(wrapped, way)
    optimizer = torch.optim.SGD([p for p in wrapped.parameters() if p.requires_grad], lr=1.0)
    loss = wrapped(input_ids=ids[own], use_cache=False, token_head=head).loss
    # Gradients are averaged over processes, while `count` is that of all of them.
    (loss * processes).backward()
    optimizer.step()
    after = whole_parameters(wrapped, way)
    total = loss.detach()
    if processes > 1:
        dist.all_reduce(total)
    return {"loss": total, "gradients": {name: value - after[name] for name, value in before.items()}}


def main():
    dist.init_process_group("gloo")
    rank, processes = dist.get_rank(), dist.get_world_size()
    found = [step(*case[:3], OBJECTIVES[case[3]], rank, processes) for case in CASES]
    if not rank:
        torch.save(found, sys.argv[1])
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
