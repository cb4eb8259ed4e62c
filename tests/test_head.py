"""The fused head against full logits and autograd in float64: loss, gradients, memory, work, precision, bad input."""

import math
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from profit.head import token_loss
from profit.logits import LMHead, make_logits, token_statistics
from profit.objectives import OBJECTIVES, TOP, TokenStatistics, logits_loss, token_terms

SIZE, WIDTH, ROWS, LENGTH = 37, 8, 3, 7
HEADS = {
    "plain": {},
    "bias": {"bias": True},
    "scaled": {"scale": 0.6},
    "capped": {"softcap": 2.0},
    "all": {"bias": True, "scale": 1.7, "softcap": 3.0},
}


@pytest.fixture()
def world():
    """Hidden states (3, 7, 8), weight (37, 8), bias, targets with ignored ones, and another model; float64."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    targets = torch.randint(0, SIZE, (ROWS, LENGTH), generator=generator)
    targets[0, :2] = targets[1, 4:] = -100
    kept = (targets != -100).flatten()
    hidden = normal(ROWS, LENGTH, WIDTH)
    weight = normal(SIZE, WIDTH)
    # Half of the targets are likely ones, so that thresholds have two sides.
    for place in range(0, ROWS * LENGTH, 2):
        if targets.flatten()[place] >= 0:
            hidden.view(-1, WIDTH)[place] += 1.5 * weight[targets.flatten()[place]]
    return {
        "hidden": hidden,
        "weight": weight,
        "bias": normal(SIZE),
        "targets": targets,
        "rows": kept,
        "known": TokenStatistics(
            logprob=None,
            reference=-normal(int(kept.sum())).abs() * 2,
            draw=torch.rand(int(kept.sum()), generator=generator, dtype=torch.float64),
            sequence=torch.arange(ROWS)[:, None].expand(ROWS, LENGTH).flatten()[kept],
            share=0.4,
            role=torch.randint(0, 4, (int(kept.sum()),), generator=torch.Generator().manual_seed(1)),
        ),
        "other": (normal(ROWS, LENGTH, 5), LMHead(normal(SIZE, 5))),
    }


def flop_counter():
    """torch's, which does not know the product that is added in place."""
    in_place = {torch.ops.aten.addmm_: lambda total, one, other, **_: 2 * one[0] * one[1] * other[1]}
    return FlopCounterMode(display=False, custom_mapping=in_place)


def tensors(world, bias, dtype=torch.float64):
    """Leaves: hidden, weight and bias (None unless wanted)."""
    leaves = [world["hidden"], world["weight"], world["bias"] if bias else None]
    return [None if leaf is None else leaf.to(dtype, copy=True).requires_grad_() for leaf in leaves]


def by_full_logits(world, objective, head, hidden, count=None):
    """Loss by all logits at once and autograd, N as the normaliser says."""
    rows, known = world["rows"], world["known"]
    logits = hidden.flatten(0, 1)[rows] @ head.weight.T + (0 if head.bias is None else head.bias)
    logits = logits * head.scale
    if head.softcap:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    targets = world["targets"].flatten()[rows]
    logprobs = logits.log_softmax(-1)
    logprob = logprobs.gather(1, targets[:, None])[:, 0]
    chosen = OBJECTIVES[objective["name"]]
    if chosen.form == "logits":
        other = None
        if "reference_logits" in chosen.needs:
            states, other_head = world["other"]
            other = (states.flatten(0, 1)[rows] @ other_head.weight.T).detach()
        return logits_loss(objective, logits, targets, other).sum() / len(targets), torch.ones_like(logprob)
    entropy = -(logprobs.exp() * logprobs).sum(-1).detach()
    largest = logprobs.exp().topk(TOP).values.detach()
    largest = largest / largest.sum(-1, keepdim=True)
    top_entropy = -(largest * largest.log()).sum(-1)
    tokens = replace(known, logprob=logprob.detach(), entropy=entropy, top_entropy=top_entropy)
    weight, value = token_terms(objective, tokens)
    # The loss has the value of the objective and the gradient that its weight says.
    loss = (-weight * logprob).sum() + (value + weight * logprob.detach()).sum()
    if count is None:
        count = len(targets) if objective.get("normaliser") != "kept" else max(int((weight > 0).sum()), 1)
    return loss / count, weight


def gradients(loss, leaves):
    loss.backward()
    return [None if leaf is None else leaf.grad for leaf in leaves]


def check_equal(world, objective, head_options, chunk_bytes, tolerance=1e-10):
    bias = head_options.get("bias", False)
    options = {key: value for key, value in head_options.items() if key != "bias"}
    leaves = tensors(world, bias)
    expected, weight = by_full_logits(world, objective, LMHead(leaves[1], leaves[2], **options), leaves[0])
    wanted = gradients(expected, leaves)
    leaves = tensors(world, bias)
    other = world["other"] if "reference_logits" in OBJECTIVES[objective["name"]].needs else None
    found = token_loss(
        leaves[0], LMHead(leaves[1], leaves[2], **options), world["targets"], objective,
        known=world["known"], reference=other, chunk_bytes=chunk_bytes,
    )  # fmt: skip
    close = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(found.loss, expected.detach(), **close)
    torch.testing.assert_close(found.weight, weight.detach(), **close)
    for own, reference in zip(gradients(found.loss, leaves), wanted, strict=True):
        torch.testing.assert_close(own, reference, **close)
    return found


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("normaliser", ["all", "kept"])
@pytest.mark.parametrize(("chunk", "block"), [(1, 1), (5, 2), (1000, 3), (1000, 1000)])
def test_loss_and_gradients_are_those_of_full_logits(world, monkeypatch, name, normaliser, chunk, block):
    monkeypatch.setattr("profit.logits.BLOCK_BYTES", block * SIZE * 8)
    check_equal(world, {"name": name, "normaliser": normaliser}, {}, chunk * SIZE * 8)


@pytest.mark.parametrize("name", ["profit", "dft", "entropy", "label_smoothing"])
@pytest.mark.parametrize("head", HEADS)
def test_bias_scale_and_soft_cap(world, name, head):
    check_equal(world, {"name": name}, HEADS[head], 5 * SIZE * 8)


def test_the_mask_has_two_sides_in_these_tests(world):
    found = check_equal(world, {"name": "profit", "tau": 0.1}, {}, 1000)
    assert 0.2 < found.weight.mean() < 0.8
    assert check_equal(world, {"name": "entropy", "share": 0.25}, {}, 1000).weight.sum() == round(0.25 * 16)


@pytest.mark.parametrize("objective", ["sft", "profit", "dft", "eaft"])
def test_single_precision_is_within_a_millionth_of_double(objective):
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(300, 64, generator=generator) * 2
    weight = torch.randn(5000, 64, generator=generator) * 0.3
    targets = torch.randint(0, 5000, (300,), generator=generator)
    hidden += weight[targets] * torch.rand(300, 1, generator=generator) * 4
    found = {}
    for dtype in (torch.float64, torch.float32):
        leaves = [leaf.to(dtype, copy=True).requires_grad_() for leaf in (hidden, weight)]
        out = token_loss(leaves[0], LMHead(leaves[1]), targets, {"name": objective}, chunk_bytes=50 * 5000 * 4)
        out.loss.backward()
        found[dtype] = [out.loss.detach().double(), *(leaf.grad.double() for leaf in leaves)]
    exact, single = found.values()
    for tolerance, one, other in zip((1e-6, 1e-5, 1e-5), exact, single, strict=True):
        assert (one - other).norm() <= tolerance * one.norm()


def test_sixteen_bit_models_have_the_probabilities_of_fp32_logits(world):
    hidden, weight = world["hidden"].bfloat16(), world["weight"].bfloat16()
    leaves = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    out = token_loss(leaves[0], LMHead(leaves[1]), world["targets"], {"name": "sft"}, chunk_bytes=1000)
    exact = [hidden.double().requires_grad_(), weight.double().requires_grad_()]
    expected, _ = by_full_logits(world, {"name": "sft"}, LMHead(exact[1]), exact[0])
    assert out.loss.dtype == torch.float32
    assert out.loss.item() == pytest.approx(expected.item(), rel=1e-6)
    out.loss.backward()
    expected.backward()
    for own, reference in zip(leaves, exact, strict=True):
        assert own.grad.dtype == torch.bfloat16
        assert (own.grad.double() - reference.grad).norm() < 2**-8 * reference.grad.norm()


def test_wide_vocabularies_are_widened_in_tiles(world, monkeypatch):
    monkeypatch.setattr("profit.logits.TILE", 10)
    test_sixteen_bit_models_have_the_probabilities_of_fp32_logits(world)


def test_a_frozen_head_gets_no_gradient_and_costs_none(world):
    flops = {}
    for frozen in (True, False):
        hidden, weight, _ = tensors(world, False)
        weight.requires_grad_(not frozen)
        with flop_counter() as counter:
            token_loss(hidden, LMHead(weight), world["targets"], {"name": "sft"}).loss.backward()
        flops[frozen] = counter.get_total_flops()
        assert (weight.grad is None) == frozen
        assert hidden.grad.norm() > 0
    assert flops[True] / flops[False] == pytest.approx(2 / 3)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_tokens_without_weight_cost_no_backward(share):
    hidden, weight = torch.randn(40, WIDTH, requires_grad=True), torch.randn(SIZE, WIDTH, requires_grad=True)
    targets = torch.arange(40) % SIZE
    tau = token_statistics(hidden, LMHead(weight), targets)["logprob"].exp().double().quantile(1 - share).item()
    tau = {0.0: 1.0, 1.0: 0.0}.get(share, tau)
    with flop_counter() as counter:
        out = token_loss(hidden, LMHead(weight), targets, {"name": "profit", "tau": tau})
        out.loss.backward()
    assert out.weight.mean().item() == pytest.approx(share)
    assert counter.get_total_flops() == pytest.approx(2 * 40 * SIZE * WIDTH * (1 + 2 * share))


class Largest(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation gives."""

    found = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.found = max(self.found, tensor.numel())
        return out


def test_no_tensor_grows_with_tokens_times_vocabulary(monkeypatch):
    monkeypatch.setattr("profit.head.CHUNK_BYTES", 64 * 500 * 4)
    monkeypatch.setattr("profit.head.NARROW_BYTES", 32 * 500 * 4)
    for count in (128, 512):
        hidden, weight = torch.randn(count, 4, requires_grad=True), torch.randn(500, 4, requires_grad=True)
        # The second call finds a gradient of the weight, beside which it makes another.
        for rows in (64, 32):
            with Largest() as largest:
                token_loss(hidden, LMHead(weight), torch.arange(count) % 500, {"name": "dft"}).loss.backward()
            assert largest.found == rows * 500


@pytest.mark.parametrize(("count", "rows"), [(100, [64, 36]), (130, [64, 64, 2]), (200, [64, 64, 64, 8]), (10, [10])])
def test_chunks_are_as_even_as_products_like(monkeypatch, count, rows):
    seen = []

    def noted(states, *others):
        seen.append(len(states))
        return make_logits(states, *others)

    monkeypatch.setattr("profit.logits.make_logits", noted)
    targets = torch.zeros(count, dtype=torch.int64)
    token_statistics(torch.randn(count, 4), LMHead(torch.randn(500, 4)), targets, chunk_bytes=64 * 500 * 4)
    assert seen == rows


def test_a_mask_that_keeps_nothing_gives_zero(world):
    for normaliser in ("all", "kept"):
        leaves = tensors(world, True)
        head = LMHead(leaves[1], leaves[2])
        out = token_loss(leaves[0], head, world["targets"], {"name": "profit", "tau": 1.0, "normaliser": normaliser})
        out.loss.backward()
        assert out.loss.item() == 0
        assert all(leaf.grad.eq(0).all() for leaf in leaves)


def test_a_piece_without_targets_gives_zero_when_the_step_has_some(world):
    leaves = tensors(world, False)
    ignored = torch.full_like(world["targets"], -100)
    out = token_loss(leaves[0], LMHead(leaves[1]), ignored, {"name": "sft"}, count=10)
    out.loss.backward()
    assert out.loss.item() == 0 and leaves[0].grad.eq(0).all() and leaves[1].grad.eq(0).all()


def test_pieces_add_up_to_the_whole(world):
    whole = tensors(world, False)
    token_loss(whole[0], LMHead(whole[1]), world["targets"], {"name": "dft"}).loss.backward()
    parts = tensors(world, False)
    for row in range(ROWS):
        piece = slice(row, row + 1)
        count = torch.tensor(int(world["rows"].sum()))
        token_loss(
            parts[0][piece], LMHead(parts[1]), world["targets"][piece], {"name": "dft"}, count=count
        ).loss.backward()
    for one, other in zip(whole[:2], parts[:2], strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_the_loss_may_be_scaled_and_weights_may_be_tied(world):
    weight = world["weight"].clone().requires_grad_()
    ids = torch.arange(ROWS * LENGTH).view(ROWS, LENGTH) % SIZE
    (3 * token_loss(weight[ids], LMHead(weight), world["targets"], {"name": "sft"}).loss).backward()
    other = world["weight"].clone().requires_grad_()
    expected, _ = by_full_logits(world, {"name": "sft"}, LMHead(other), other[ids])
    (3 * expected).backward()
    torch.testing.assert_close(weight.grad, other.grad)


def test_a_second_backward_is_refused(world):
    hidden, weight, _ = tensors(world, False)
    loss = token_loss(hidden, LMHead(weight), world["targets"], {"name": "sft"}).loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="found a second backward, expected one"):
        loss.backward()


def test_without_gradients_the_loss_is_the_same(world):
    hidden, weight, _ = tensors(world, False)
    arguments = (hidden, LMHead(weight), world["targets"], {"name": "entropy"})
    loss = token_loss(*arguments).loss
    with torch.no_grad(), flop_counter() as counter:
        again = token_loss(*arguments).loss
    assert again.item() == loss.item() and not again.requires_grad
    assert counter.get_total_flops() == 2 * 16 * SIZE * WIDTH


def test_statistics_are_those_of_full_logits(world):
    head = LMHead(world["weight"], world["bias"], 1.3, 4.0)
    found = token_statistics(world["hidden"], head, world["targets"], ("entropy", "rank", "top_entropy"), 5 * SIZE * 8)
    logits = make_logits(world["hidden"].flatten(0, 1)[world["rows"]], head)
    for i, (row, target) in enumerate(zip(logits.tolist(), world["targets"].flatten()[world["rows"]], strict=True)):
        total = sum(math.exp(z) for z in row)
        p = [math.exp(z) / total for z in row]
        top = sorted(p)[-TOP:]
        assert found["logprob"][i].item() == pytest.approx(math.log(p[target]))
        assert found["entropy"][i].item() == pytest.approx(-sum(q * math.log(q) for q in p))
        assert found["top_entropy"][i].item() == pytest.approx(
            -sum(q / sum(top) * math.log(q / sum(top)) for q in top)
        )
        assert found["rank"][i].item() == sum(z > row[target] for z in row)


def test_the_head_stays_outside_compiled_graphs(world):
    hidden, weight, _ = tensors(world, False)

    @torch.compile(backend="eager")
    def step(hidden, weight, targets):
        return token_loss(hidden * 2, LMHead(weight), targets, {"name": "profit"}).loss

    plain = token_loss(hidden * 2, LMHead(weight), world["targets"], {"name": "profit"}).loss
    assert step(hidden, weight, world["targets"]).item() == plain.item()


def broken(world, **changes):
    parts = {key: world[key] for key in ("hidden", "weight", "bias", "targets")} | {"objective": {"name": "sft"}}
    parts |= {key: value for key, value in changes.items() if key in parts}
    others = {key: value for key, value in changes.items() if key not in parts}
    return token_loss(
        parts["hidden"], LMHead(parts["weight"], parts["bias"]), parts["targets"], parts["objective"], **others
    )


def changed(tensor, place, value):
    tensor = tensor.clone()
    tensor[place] = value
    return tensor


BAD = {
    "label beyond the vocabulary": (
        lambda w: {"targets": changed(w["targets"], (2, 3), SIZE)},
        r"targets\[2, 3\]: found 37, expected -100 or a token from 0 to 36",
    ),
    "negative label": (
        lambda w: {"targets": changed(w["targets"], (1, 0), -1)},
        r"targets\[1, 0\]: found -1, expected -100 or a token",
    ),
    "no target": (
        lambda w: {"targets": torch.full_like(w["targets"], -100)},
        r"targets: found 21 labels, all ignored \(-100\), expected a target",
    ),
    "length": (
        lambda w: {"targets": w["targets"][:, 1:]},
        r"hidden: found shape \(3, 7, 8\), expected \(3, 6, 8\)",
    ),
    "width": (
        lambda w: {"hidden": w["hidden"][..., :5]},
        r"hidden: found shape \(3, 7, 5\), expected \(3, 7, 8\)",
    ),
    "bias": (
        lambda w: {"bias": w["bias"][1:]},
        r"bias: found shape \(36,\), expected \(37,\)",
    ),
    "NaN": (
        lambda w: {"hidden": changed(w["hidden"], (2, 5, 1), math.nan)},
        r"hidden states\[2, 5\]: found NaN or infinite values \(1 of 16 target tokens\)",
    ),
    "infinite": (
        lambda w: {"hidden": changed(w["hidden"], (0, 3, 1), math.inf)},
        r"hidden states\[0, 3\]: found NaN or infinite",
    ),
    "NaN in the weight": (
        lambda w: {"weight": changed(w["weight"], (2, 1), math.nan)},
        r"logits\[0, 2\]: found NaN or infinite values \(16 of 16",
    ),
    "tau": (
        lambda w: {"objective": {"name": "profit", "tau": 1.5}},
        "objective profit: tau: found 1.5, expected a number from 0 to 1",
    ),
    "no stored scores": (
        lambda w: {"objective": {"name": "excess"}},
        "objective excess: found no known.reference, expected one value a target token",
    ),
    "no other model": (
        lambda w: {"objective": {"name": "asft"}},
        "objective asft: found no reference, expected hidden states and LM head",
    ),
    "too few stored scores": (
        lambda w: {"objective": {"name": "iw_sft"}, "known": TokenStatistics(None, reference=torch.zeros(4))},
        r"reference: found shape \(4,\), expected \(16,\)",
    ),
    "count": (lambda w: {"count": 0}, "count: found 0, expected the positive number"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named(world, change, message):
    with pytest.raises(ValueError, match=message):
        broken(world, **change(world))


def test_given_weights_belong_to_objectives_of_the_whole_step(world):
    weight = torch.ones(16)
    with pytest.raises(ValueError, match="weight: found weights for sft, expected none"):
        token_loss(world["hidden"], LMHead(world["weight"]), world["targets"], {"name": "sft"}, weight=weight)
    given = token_loss(
        world["hidden"], LMHead(world["weight"]), world["targets"], {"name": "random"}, weight=weight, count=16
    )
    plain = token_loss(world["hidden"], LMHead(world["weight"]), world["targets"], {"name": "sft"})
    assert given.loss.item() == pytest.approx(plain.loss.item())
