"""Token objectives against plain loops, finite differences and one another; their invariants, bad settings."""

import ast
import math
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from profit import code_version, objectives
from profit.code_version import reachable
from profit.data import LABELS
from profit.objectives import OBJECTIVES, ROLES, TokenStatistics, check_objective, logits_loss, main, token_terms
from profit.settings import OBJECTIVE_SETTINGS, SETTINGS

N, V, TARGET = 40, 12, 3
OF_LOGITS = [name for name, objective in OBJECTIVES.items() if objective.form == "logits"]
OF_TOKENS = [name for name in OBJECTIVES if name not in OF_LOGITS]


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


@pytest.fixture()
def logits():
    return normal(0, N, V)


@pytest.fixture()
def reference_logits():
    return normal(1, N, V)


@pytest.fixture()
def targets():
    return torch.randint(V, (N,), generator=torch.Generator().manual_seed(2))


def statistics(logits, reference_logits, **changes):
    """All statistics of the target TARGET in each row, from full logits."""
    logprobs = logits.log_softmax(-1)
    top = logprobs.topk(5).values.log_softmax(-1)
    given = {
        "logprob": logprobs[:, TARGET],
        "entropy": -(logprobs.exp() * logprobs).sum(-1),
        "top_entropy": -(top.exp() * top).sum(-1),
        "reference": reference_logits.log_softmax(-1)[:, TARGET],
        "draw": torch.rand(len(logits), generator=torch.Generator().manual_seed(1), dtype=torch.float64),
        "sequence": torch.arange(len(logits)) // 7,
        "share": 0.3,
        "role": torch.arange(len(logits)) * 7 % 4,
    }
    return TokenStatistics(**given | changes)


@pytest.fixture()
def tokens(logits, reference_logits):
    return statistics(logits, reference_logits)


def weights(name, tokens, **settings):
    return token_terms({"name": name, **settings}, tokens)[0]


def highest(values, count):
    chosen = sorted(range(len(values)), key=lambda t: -values[t])[:count]
    return [float(t in chosen) for t in range(len(values))]


def expected_terms(name, settings, tokens):
    """(weights, losses) of an objective on tokens, in Python's own numbers and written from the papers."""
    l = [-value for value in tokens.logprob.tolist()]  # noqa: E741
    p = [math.exp(-value) for value in l]
    ref = tokens.reference.tolist()
    weight = {
        "sft": lambda: [1.0 for _ in p],
        "profit": lambda: [masked(value) for value in p],
        "profit_fixed": lambda: [masked(math.exp(value)) for value in ref],
        "truth": lambda: [1.0 * ((t * 7 % 4 == 1) == (settings["keep"] == "replaceable")) for t in range(N)],
        "random": lambda: highest([-u for u in tokens.draw.tolist()], round(N * share()))
        if settings["redraw"] == "step" else [1.0 * (u < share()) for u in tokens.draw.tolist()],
        "dft": lambda: p,
        "entropy": lambda: highest(tokens.entropy.tolist(), round(N * settings["share"])),
        "eaft": lambda: [(h / settings["divisor"]) ** settings["alpha"] for h in tokens.top_entropy.tolist()],
        "infosft": lambda: [
            value * max(0.0, 1 - math.log(value / (1 - value)) / math.log(settings["cap"] / (1 - settings["cap"])))
            for value in p
        ],
        "excess": lambda: highest([l[t] + ref[t] for t in range(N)], round(N * settings["share"])),
        "iw_sft": lambda: [
            min(settings["clip"], math.exp(settings["temperature"] * sum(ratios) / len(ratios)))
            for t in range(N)
            for ratios in [[-l[s] - ref[s] for s in range(N) if s // 7 == t // 7]]
        ],
        "power": lambda: [kept(value) * value ** settings["alpha"] for value in p],
        "focal": lambda: [
            (1 - p[t]) ** settings["gamma"]
            + settings["gamma"] * (1 - p[t]) ** (settings["gamma"] - 1) * p[t] * l[t]
            for t in range(N)
        ],
        "psft": lambda: [ratio(t) * (ratio(t) < 1 + settings["clip_high"]) for t in range(N)],
    }  # fmt: skip

    def masked(value):
        sides = {"higher": 1.0 * (value > settings["tau"]), "lower": 1.0 * (value <= settings["tau"])}
        return sides.get(settings["direction"], 1.0 * (settings["tau"] < value <= settings["tau_high"]))

    def share():
        return settings["share"] or tokens.share

    def kept(value):
        return (value > settings["tau"]) == (settings["direction"] == "higher")

    def ratio(t):
        return math.exp(-l[t] - ref[t])

    loss = {
        "power": lambda: [kept(value) * (1 - value ** settings["alpha"]) / settings["alpha"] for value in p],
        "focal": lambda: [(1 - p[t]) ** settings["gamma"] * l[t] for t in range(N)],
        "psft": lambda: [
            -min(ratio(t), max(1 - settings["clip_low"], min(1 + settings["clip_high"], ratio(t)))) for t in range(N)
        ],
    }
    found = weight[name]()
    return found, loss[name]() if name in loss else [w * value for w, value in zip(found, l, strict=True)]


def expected_loss(name, settings, z, y, z_ref):
    """The loss of one token from lists of logits."""

    def softmax(values):
        total = sum(math.exp(value) for value in values)
        return [math.exp(value) / total for value in values]

    p, ref = softmax(z), softmax(z_ref)
    if name == "label_smoothing":
        spread = [(v == y) * (1 - settings["epsilon"]) + settings["epsilon"] / V for v in range(V)]
        return -sum(spread[v] * math.log(p[v]) for v in range(V))
    if name == "asft":
        divergence = sum(ref[v] * math.log(ref[v] / p[v]) for v in range(V))
        return -p[y] * math.log(p[y]) + settings["kl_weight"] * divergence
    if name == "gift":
        q = softmax([math.log(ref[v]) + settings["beta"] * (v == y) for v in range(V)])
        return -sum(q[v] * math.log(p[v]) for v in range(V))
    q = softmax([value / settings["beta"] for value in z])
    h = [1 if settings["gap"] == "linear" else 1 / (1 + math.exp(-0.01 * (z[v] - z[y]))) for v in range(V)]
    return -sum(q[v] * h[v] * (z[y] - z[v]) for v in range(V))


VARIANTS = [
    ("profit", {"tau": 0.4, "direction": "lower"}),
    ("profit", {"tau": 0.02, "direction": "middle", "tau_high": 0.5}),
    ("profit_fixed", {"tau": 0.4, "direction": "lower"}),
    ("profit_fixed", {"tau": 0.02, "direction": "middle", "tau_high": 0.5}),
    ("truth", {"keep": "replaceable"}),
    ("random", {"share": 0.55}),
    ("random", {"share": 0.55, "redraw": "never"}),
    ("random", {"redraw": "never"}),
    ("power", {"alpha": 0.3, "tau": 0.05}),
    ("power", {"alpha": 10, "tau": 0.1, "direction": "lower"}),
    ("entropy", {"share": 0.5}),
    ("eaft", {"alpha": 0.5, "divisor": 1}),
    ("infosft", {"cap": 0.6}),
    ("focal", {"gamma": 0.5}),
    ("iw_sft", {"temperature": 0.4, "clip": 2}),
    ("psft", {"clip_low": 0.1, "clip_high": 2}),
    ("excess", {"share": 0.1}),
]


@pytest.mark.parametrize(("name", "settings"), [(name, {}) for name in OF_TOKENS] + VARIANTS)
def test_each_weight_and_loss_is_its_equation(tokens, name, settings):
    expected = expected_terms(name, OBJECTIVE_SETTINGS[name] | settings, tokens)
    found = token_terms({"name": name, **settings}, tokens)
    assert expected[0] != [0.0] * N
    for value, wanted in zip(found, expected, strict=True):
        assert value.dtype == torch.float64 and not value.requires_grad
        torch.testing.assert_close(value, torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize(
    ("name", "settings"),
    [(name, {}) for name in OF_LOGITS] + [("gem", {"gap": "linear", "beta": 0.4}), ("gift", {"beta": 2})],
)
def test_each_loss_of_logits_is_its_equation(logits, targets, reference_logits, name, settings):
    objective = {"name": name, **settings}
    found = logits_loss(objective, logits, targets, reference_logits)
    settings = OBJECTIVE_SETTINGS[name] | settings
    rows = zip(logits.tolist(), targets.tolist(), reference_logits.tolist(), strict=True)
    expected = [expected_loss(name, settings, z, y, z_ref) for z, y, z_ref in rows]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("name", ["label_smoothing", "gift"])
def test_gradients_of_losses_of_logits_agree_with_finite_differences(logits, targets, reference_logits, name):
    leaf, fixed = logits[:6].clone().requires_grad_(), reference_logits[:6].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: logits_loss({"name": name}, z, targets[:6], fixed), leaf)
    logits_loss({"name": name}, leaf, targets[:6], fixed).sum().backward()
    assert fixed.grad is None


@pytest.mark.parametrize("name", ["asft", "gem"])
def test_gradients_of_losses_with_fixed_factors_agree_with_finite_differences(logits, targets, reference_logits, name):
    """Finite differences of the loss whose fixed factors are put in as constants."""
    logits, targets, reference_logits = logits[:6], targets[:6], reference_logits[:6]
    rows, reference = torch.arange(6), reference_logits.softmax(-1)
    p = logits.softmax(-1)[rows, targets]
    q = (logits / 0.7).softmax(-1) * torch.sigmoid(0.01 * (logits - logits[rows, targets][:, None]))

    def frozen(z):
        if name == "gem":
            return (q * (z - z[rows, targets][:, None])).sum(-1)
        logprobs = z.log_softmax(-1)
        return -p * logprobs[rows, targets] - 0.1 * (reference * logprobs).sum(-1)

    leaf, own = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    assert torch.autograd.gradcheck(frozen, leaf)
    frozen(leaf).sum().backward()
    logits_loss({"name": name}, own, targets, reference_logits).sum().backward()
    torch.testing.assert_close(own.grad, leaf.grad)


@pytest.mark.parametrize("name", ["power", "focal", "psft"])
def test_the_weight_of_a_differentiated_loss_is_its_slope_by_finite_differences(logits, reference_logits, name):
    reference = reference_logits.log_softmax(-1)[:, TARGET]

    class Loss(torch.autograd.Function):
        """The loss of token_terms with its weight as gradient, so that gradcheck tests the two against each other."""

        @staticmethod
        def forward(ctx, logprob):
            weight, loss = token_terms({"name": name}, TokenStatistics(logprob, reference=reference))
            ctx.save_for_backward(weight)
            return loss

        @staticmethod
        def backward(ctx, above):
            return -above * ctx.saved_tensors[0]

    leaf = logits.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: Loss.apply(z.log_softmax(-1)[:, TARGET]), leaf)


def test_settings_left_out_take_the_defaults(tokens):
    full = {"tau": 0.1, "direction": "higher", "tau_high": 0.9, "normaliser": "all"}
    assert weights("profit", tokens).equal(weights("profit", tokens, **full))
    assert weights("entropy", tokens).sum() == 8


def test_both_directions_share_out_the_tokens(tokens):
    for tau in (0.0, 0.1, 0.5, 0.9, 1.0):
        for name in ("profit", "power"):
            higher, lower = (
                token_terms({"name": name, "tau": tau, "direction": direction}, tokens)[1]
                for direction in ("higher", "lower")
            )
            assert not (higher * lower).any()
            assert (higher + lower).equal(token_terms({"name": name, "tau": 0.0}, tokens)[1])
    assert weights("profit", tokens, tau=1.0).sum() == 0


def test_the_middle_is_one_threshold_less_the_other(tokens):
    for tau, tau_high in ((0.0, 1.0), (0.0, 0.3), (0.05, 0.3), (0.3, 1.0)):
        middle = weights("profit", tokens, tau=tau, tau_high=tau_high, direction="middle")
        assert middle.equal(weights("profit", tokens, tau=tau) - weights("profit", tokens, tau=tau_high))


def test_the_fixed_mask_is_that_of_profit_where_the_model_is_its_base(tokens):
    at_base = statistics(normal(0, N, V), normal(0, N, V))
    for settings in ({}, {"tau": 0.4, "direction": "lower"}, {"tau": 0.1, "direction": "middle", "tau_high": 0.6}):
        assert weights("profit_fixed", at_base, **settings).equal(weights("profit", at_base, **settings))
    assert not weights("profit_fixed", tokens).equal(weights("profit", tokens))


def test_the_masks_of_the_truth_are_complements_and_know_the_labels_of_the_data(tokens):
    assert ROLES == LABELS
    core, replaceable = (weights("truth", tokens, keep=keep) for keep in ("core", "replaceable"))
    assert (core + replaceable).equal(weights("sft", tokens))
    for role, name in enumerate(ROLES):
        assert replaceable[tokens.role == role].unique().tolist() == [float(name == "replaceable")]


def test_a_token_that_draws_once_and_is_masked_stays_masked_at_lower_shares(logits, reference_logits):
    def kept(share, part=slice(None)):
        drawn = torch.rand(N, generator=torch.Generator().manual_seed(1), dtype=torch.float64)[part]
        tokens = statistics(logits[part], reference_logits[part], draw=drawn, share=share)
        return weights("random", tokens, redraw="never").bool()

    masks = [kept(share) for share in (0.0, 0.2, 0.55, 0.8, 1.0)]
    assert not masks[0].any() and masks[-1].all() and 0 < masks[1].sum() < masks[2].sum() < masks[3].sum() < N
    assert all((low & ~high).sum() == 0 for low, high in zip(masks, masks[1:], strict=False))
    # Whatever other tokens are in the step.
    assert kept(0.55, slice(11)).equal(masks[2][:11])


def test_tau_zero_is_sft_also_where_the_probability_underflows():
    tokens = TokenStatistics(torch.tensor([-200.0, -1.0, 0.0]))
    assert tokens.logprob.exp()[0] == 0
    assert weights("profit", tokens, tau=0.0).tolist() == weights("sft", tokens).tolist() == [1, 1, 1]
    assert weights("profit", tokens, tau=0.0, direction="lower").sum() == 0


def test_the_mask_is_strict_at_tau():
    at = TokenStatistics(torch.tensor([0.5]).log())
    assert weights("profit", at, tau=0.5).item() == 0
    assert weights("profit", at, tau=0.5, direction="lower").item() == 1
    assert weights("profit", at, tau=0.5, tau_high=0.6, direction="middle").item() == 0
    assert weights("profit", at, tau=0.4, tau_high=0.5, direction="middle").item() == 1


def gradient(loss, logits):
    leaf = logits.clone().requires_grad_()
    loss(leaf).sum().backward()
    return leaf.grad


def test_the_gradient_of_dft_is_that_of_minus_the_probability(logits):
    expected = gradient(lambda z: -z.softmax(-1)[:, TARGET], logits)
    for name in ("dft", "power"):
        fixed = weights(name, TokenStatistics(logits.log_softmax(-1)[:, TARGET]))
        torch.testing.assert_close(gradient(lambda z, w=fixed: -w * z.log_softmax(-1)[:, TARGET], logits), expected)


def test_the_power_family_goes_to_sft(tokens):
    for found, expected in zip(
        token_terms({"name": "power", "alpha": 1e-9}, tokens), token_terms({"name": "sft"}, tokens), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_infosft_weighs_nothing_from_the_cap_on():
    for cap in (0.6, 0.93):
        p = torch.linspace(0.01, 1, 400, dtype=torch.float64)
        weight = weights("infosft", TokenStatistics(torch.cat([p, p.new_tensor([cap])]).log()), cap=cap)
        assert (weight[:-1] > 0).equal(p < cap) and weight[-1] == 0


def test_the_published_scalings_of_eaft_differ_by_a_constant(tokens):
    for alpha in (0.5, 1.0, 2.0):
        ours, other = (weights("eaft", tokens, alpha=alpha, divisor=divisor) for divisor in (3.0, 1.0))
        torch.testing.assert_close(other, ours * 3**alpha)


def test_gift_with_a_large_beta_is_sft(logits, targets, reference_logits):
    found = logits_loss({"name": "gift", "beta": 1e4}, logits, targets, reference_logits)
    torch.testing.assert_close(found, cross_entropy(logits, targets, reduction="none"))


def test_asft_without_its_divergence_is_dft(logits, reference_logits):
    targets = torch.full((N,), TARGET)
    objective = {"name": "asft", "kl_weight": 0.0}
    weight, loss = token_terms({"name": "dft"}, statistics(logits, reference_logits))
    torch.testing.assert_close(logits_loss(objective, logits, targets, reference_logits), loss)
    torch.testing.assert_close(
        gradient(lambda z: logits_loss(objective, z, targets, reference_logits), logits),
        gradient(lambda z: weight * cross_entropy(z, targets, reduction="none"), logits),
    )


def test_the_gradient_of_linear_gem_is_its_sharpened_distribution_less_the_target(logits, targets):
    found = gradient(lambda z: logits_loss({"name": "gem", "gap": "linear", "beta": 0.5}, z, targets), logits)
    expected = (logits / 0.5).softmax(-1)
    expected[torch.arange(N), targets] -= 1
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.7])
def test_label_smoothing_is_that_of_torch(logits, targets, epsilon):
    found = logits_loss({"name": "label_smoothing", "epsilon": epsilon}, logits, targets)
    torch.testing.assert_close(found, cross_entropy(logits, targets, reduction="none", label_smoothing=epsilon))


def test_psft_is_sft_at_its_reference_and_nothing_beyond_the_clip():
    reference = torch.full((5,), -2.0, dtype=torch.float64)
    ratio = torch.tensor([1.0, 1.27, 1.29, 0.5, 1e30], dtype=torch.float64)
    weight = weights("psft", TokenStatistics(reference + ratio.log(), reference=reference))
    torch.testing.assert_close(weight, torch.tensor([1, 1.27, 0, 0.5, 0], dtype=torch.float64))


def test_iw_sft_at_its_reference_is_sft_and_weighs_whole_sequences(tokens):
    assert weights("iw_sft", statistics(normal(0, N, V), normal(0, N, V))).equal(torch.ones(N, dtype=torch.float64))
    weight = weights("iw_sft", tokens)
    assert len(weight.unique()) == len(tokens.sequence.unique())
    order = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    shuffled = {key: getattr(tokens, key)[order] for key in ("logprob", "reference", "sequence")}
    torch.testing.assert_close(weights("iw_sft", TokenStatistics(**shuffled)), weight[order])


@pytest.mark.parametrize("name", ["random", "entropy", "excess"])
@pytest.mark.parametrize("share", [0.013, 0.5, 1.0])
def test_selections_keep_exactly_their_share_and_the_first_among_equals(tokens, name, share):
    assert weights(name, tokens, share=share).sum() == round(N * share)
    zeros = torch.zeros(N, dtype=torch.float64)
    equal = TokenStatistics(zeros - 1, entropy=zeros, reference=zeros, draw=zeros)
    assert weights(name, equal, share=share).tolist() == [float(t < round(N * share)) for t in range(N)]


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_random_mask_without_a_share_takes_that_of_its_pair(logits, reference_logits, share):
    tokens = statistics(logits, reference_logits, share=share)
    assert weights("random", tokens).sum() == round(N * share)
    assert weights("random", tokens, share=0.8).sum() == 32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [0.0, -100.0, 100.0, 199.0])
@pytest.mark.parametrize("name", OF_TOKENS)
def test_weights_and_losses_are_finite_at_the_ends(name, gap, dtype):
    logprob = torch.tensor([-200.0, -1e-7, 0.0], dtype=dtype)
    zeros = torch.zeros(3, dtype=dtype)
    which = torch.tensor([0, 0, 1])
    tokens = TokenStatistics(logprob, zeros, zeros, logprob - gap, zeros.double(), which, 0.5, which)
    settings = [{}, {"gamma": 0.0}, {"gamma": 0.5}] if name == "focal" else [{}]
    for objective in settings:
        for value in token_terms({"name": name, **objective}, tokens):
            assert value.dtype == dtype and value.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", OF_LOGITS)
def test_losses_of_logits_are_finite_at_the_ends(name, dtype):
    logits = torch.tensor([[0.0, 200, 0], [200, 0, 0], [-1e-7, -16, -16], [0, 0, 0]], dtype=dtype, requires_grad=True)
    for reference in (logits, logits.flip(0), -logits):
        loss = logits_loss({"name": name}, logits, torch.zeros(4, dtype=torch.int64), reference)
        assert loss.isfinite().all() and torch.autograd.grad(loss.sum(), logits)[0].isfinite().all()


@pytest.mark.parametrize("name", OF_TOKENS)
def test_no_tokens_give_no_weights(name):
    none = torch.zeros(0)
    tokens = TokenStatistics(none, none, none, none, none.double(), none.long(), 0.5, none.long())
    assert [value.shape for value in token_terms({"name": name}, tokens)] == [(0,), (0,)]


def test_terms_carry_no_gradient_and_leave_the_statistics_alone(logits, reference_logits):
    tokens = statistics(logits.requires_grad_(), reference_logits)
    for name in OF_TOKENS:
        assert not any(value.requires_grad for value in token_terms({"name": name}, tokens))
    with torch.no_grad():
        assert token_terms({"name": "focal"}, tokens)[0].count_nonzero() == N
    plain = TokenStatistics(torch.tensor([-1.0]))
    token_terms({"name": "focal"}, plain)
    assert not plain.logprob.requires_grad


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("entropy", "objective entropy: found no entropy of the tokens"),
        ("eaft", "objective eaft: found no top_entropy of the tokens"),
        ("psft", "objective psft: found no reference of the tokens"),
        ("excess", "objective excess: found no reference of the tokens"),
        ("random", "objective random: found no share of the tokens"),
        ("truth", "objective truth: found no role of the tokens"),
        ("profit_fixed", "objective profit_fixed: found no reference of the tokens"),
        ("iw_sft", "objective iw_sft: found no sequence of the tokens"),
        ("gem", "objective gem: found statistics of tokens, expected logits"),
    ],
)
def test_statistics_that_lack_what_the_objective_needs_are_refused(name, message):
    zeros = torch.zeros(2)
    given = {"reference": zeros} if name == "iw_sft" else {"draw": zeros}
    with pytest.raises(ValueError, match=message):
        token_terms({"name": name}, TokenStatistics(zeros, **given))


def test_logits_that_lack_what_the_objective_needs_are_refused(logits, targets):
    for name in ("asft", "gift"):
        with pytest.raises(ValueError, match=f"objective {name}: found no reference_logits"):
            logits_loss({"name": name}, logits, targets)
    with pytest.raises(ValueError, match="objective sft: found logits, expected statistics of tokens"):
        logits_loss({"name": "sft"}, logits, targets)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ({"name": "proft"}, "found 'proft', expected one of sft, profit"),
        ({"name": "none"}, "found 'none', expected one of sft, profit"),
        ({"name": "sft", "tau": 0.1}, "found key 'tau', expected only .'normaliser'"),
        ({"name": "profit", "tau": 1.5}, "tau: found 1.5, expected a number from 0 to 1"),
        ({"name": "profit", "tau": float("nan")}, "tau: found nan"),
        ({"name": "profit", "tau": "0.1"}, "tau: found '0.1'"),
        ({"name": "profit", "tau": True}, "tau: found True"),
        ({"name": "profit", "tau": None}, "tau: found None"),
        ({"name": "profit", "direction": "None"}, "direction: found 'None', expected higher, lower or middle"),
        ({"name": "profit", "direction": ["higher"]}, r"direction: found \['higher'\]"),
        ({"name": "profit", "direction": "middle", "tau": 0.9}, "tau: found 0.9, expected less than tau_high = 0.9"),
        ({"name": "power", "direction": "middle"}, "direction: found 'middle', expected higher or lower with power"),
        ({"name": "power", "alpha": 0}, "alpha: found 0, expected a number above 0"),
        ({"name": "entropy", "share": -0.2}, "share: found -0.2, expected a number above 0 and at most 1"),
        ({"name": "random", "share": 0}, "share: found 0"),
        ({"name": "random", "redraw": "always"}, "redraw: found 'always', expected step or never"),
        ({"name": "truth", "keep": "fixed"}, "keep: found 'fixed', expected core or replaceable"),
        (
            {"name": "profit_fixed", "direction": "middle", "tau": 0.9},
            "tau: found 0.9, expected less than tau_high = 0.9",
        ),
        ({"name": "eaft", "divisor": 0.0}, "divisor: found 0.0"),
        ({"name": "infosft", "cap": 0.5}, "cap: found 0.5, expected a number above 0.5 and below 1"),
        ({"name": "infosft", "cap": 1.0}, "cap: found 1.0"),
        ({"name": "focal", "gamma": -1}, "gamma: found -1, expected a number of at least 0"),
        ({"name": "label_smoothing", "epsilon": 1}, "epsilon: found 1, expected a number of at least 0 and below 1"),
        ({"name": "asft", "kl_weight": float("inf")}, "kl_weight: found inf"),
        ({"name": "gift", "beta": 0}, "beta: found 0"),
        ({"name": "gem", "gap": "sigmoid"}, "gap: found 'sigmoid', expected linear or logsigmoid"),
        ({"name": "iw_sft", "clip": 0}, "clip: found 0"),
        ({"name": "iw_sft", "temperature": -1}, "temperature: found -1"),
        ({"name": "psft", "clip_low": 1}, "clip_low: found 1"),
        ({"name": "psft", "clip_high": -0.1}, "clip_high: found -0.1"),
        ({"name": "dft", "normaliser": "mean"}, "normaliser: found 'mean', expected all or kept"),
    ],
)
def test_wrong_settings_are_refused(objective, message):
    with pytest.raises(ValueError, match=message):
        check_objective(objective)


def test_objectives_and_settings_have_the_same_names_and_valid_defaults():
    assert ["none", *OBJECTIVES] == list(OBJECTIVE_SETTINGS)
    assert {key for settings in OBJECTIVE_SETTINGS.values() for key in settings} == set(SETTINGS)
    for name, objective in OBJECTIVES.items():
        check_objective({"name": name, **OBJECTIVE_SETTINGS[name]})
        fields = {"reference_logits"} if objective.form == "logits" else set(TokenStatistics.__dataclass_fields__)
        assert set(objective.needs) <= fields and objective.scope in ("token", "sequence", "batch")


def test_what_needs_the_whole_step():
    whole = {name for name in OBJECTIVES if objectives.needs_whole_step({"name": name})}
    assert whole == {"random", "entropy", "excess"}
    assert objectives.needs_whole_step({"name": "sft", "normaliser": "kept"})


def test_main_prints_every_objective(capsys):
    main()
    printed = capsys.readouterr().out
    for name, objective in OBJECTIVES.items():
        assert f"{name}\n" in printed and objective.equation in printed and objective.citation in printed
        assert all(f"{key} {value}" in printed for key, value in OBJECTIVE_SETTINGS[name].items())
    assert "NEFTune (arXiv 2310.05914)" in printed


def test_torch_is_all_it_needs():
    imported = set()
    for module in ("objectives", "settings", "tokens", "draws"):
        for node in ast.walk(ast.parse(Path(objectives.__file__).with_name(f"{module}.py").read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module)
    foreign = {name for name in imported if name.partition(".")[0] not in sys.stdlib_module_names}
    assert foreign <= {"torch", "profit.settings", "profit.tokens"}


def test_the_code_of_one_objective_is_covered_by_its_own_runs_alone():
    """Else an edit of one objective would train the runs of the others again."""
    functions = {name: f"profit.objectives:{objective.function.__name__}" for name, objective in OBJECTIVES.items()}
    for chosen in OBJECTIVES:
        covered = reachable("profit.train", "main", chosen)
        assert [name for name, function in functions.items() if function in covered] == [chosen]


def test_a_new_objective_with_a_new_setting_reruns_no_other(tmp_path, monkeypatch):
    shutil.copytree(code_version.PACKAGE, tmp_path / "profit", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code_version, "PACKAGE", tmp_path / "profit")

    def versions():
        for cached in (code_version.parse, code_version.code_version):
            cached.cache_clear()
        return {name: code_version.code_version("train", name) for name in OBJECTIVES}

    def edit(name, old, new):
        path = tmp_path / "profit" / name
        assert path.read_text().count(old) == 1
        path.write_text(path.read_text().replace(old, new))

    before = versions()
    edit("objectives.py", "\ndef keep_first(", "\ndef novel(tokens, height):\n    return tokens\n\n\ndef keep_first(")
    edit(
        "objectives.py",
        '    "sft": Objective(',
        '    "novel": Objective("weight", novel, "", ""),\n    "sft": Objective(',
    )
    edit("settings.py", '    "sft": {},', '    "novel": {"height": 1.0},\n    "sft": {},')
    edit("settings.py", '    "gamma": Setting(', '    "height": Setting("novel"),\n    "gamma": Setting(')
    assert versions() == before
    edit("settings.py", '"gamma": 2.0', '"gamma": 2.5')
    changed = versions()
    assert [name for name in OBJECTIVES if changed[name] != before[name]] == ["focal"]
    monkeypatch.undo()
    versions()
