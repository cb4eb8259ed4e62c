"""Token objectives: the loss of each target token of supervised fine-tuning, ProFit's and its relatives'.

loss = (1 / N) sum_t loss_t over the target tokens of an optimizer step. Notation: p is the probability that the model
being trained gives to target token y, l = -log p, z are its logits, v runs over the vocabulary, ref is a fixed
reference model. N is the number of all target tokens of the step (normaliser `all`: ProFit, arXiv 2601.09195 Eq. 5, as
its code counts) or of those with a weight above zero (`kept`).

Most need a few numbers a token, so any head that yields those can serve them: of form `weight` (loss_t = w_t l_t, w_t
detached) or `loss` (differentiated through log p_t, so that w_t = -dloss_t / dlog p_t). Form `logits` needs the whole
vocabulary. Thresholds are compared as log-probabilities, where no probability underflows. Torch alone is needed.

    python -m profit.objectives     prints the objectives with settings, equation and source
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from profit.settings import OBJECTIVE_SETTINGS, SETTINGS, conflict
from profit.tokens import ROLES, TOP, TokenStatistics


@dataclass(frozen=True)
class Objective:
    """An objective; its settings and their defaults are in profit.settings.OBJECTIVE_SETTINGS.

    `function`, by `form`: `weight`, function(tokens, **settings) gives weights (n,); `loss`, the same gives losses
    (n,) to be differentiated through tokens.logprob; `logits`, function(logits (n, V), targets (n,), reference_logits
    (n, V) or None, **settings) gives losses (n,) to be differentiated through logits. `needs` names fields of
    TokenStatistics beyond logprob (`share` only where the settings state none), or `reference_logits`. `scope` says
    which tokens a loss depends on, and so must be given together: its own `token`, all target tokens of its
    `sequence`, or of the `batch`, the whole optimizer step.
    """

    form: str
    function: Callable[..., Tensor]
    equation: str
    citation: str
    needs: tuple[str, ...] = ()
    scope: str = "token"


def sft(tokens: TokenStatistics) -> Tensor:
    """Plain cross-entropy."""
    return torch.ones_like(tokens.logprob)


def profit(tokens: TokenStatistics, tau: float, direction: str, tau_high: float) -> Tensor:
    """ProFit's mask: keep tokens above tau (`higher`), the rest (`lower`), or those above tau but not above tau_high.

    So `middle` is `higher` at tau less `higher` at tau_high, which itself is kept.
    """
    return _masked(tokens.logprob, tau, direction, tau_high)


def profit_fixed(tokens: TokenStatistics, tau: float, direction: str, tau_high: float) -> Tensor:
    """ProFit's mask by the stored probability, which no training moves."""
    return _masked(tokens.reference, tau, direction, tau_high)


def truth(tokens: TokenStatistics, keep: str) -> Tensor:
    """Keep the replaceable tokens alone, or (`core`) all others: core, fixed and end tokens."""
    replaceable = tokens.role == ROLES.index("replaceable")
    return (replaceable if keep == "replaceable" else ~replaceable).to(tokens.logprob)


def random(tokens: TokenStatistics, share: float | None, redraw: str) -> Tensor:
    """Keep the stated share, or as many tokens as the paired run did in this step, whatever their probability.

    Where draws stay (`never`) they are compared with the share itself: a token masked at one is masked at all lower.
    """
    share = tokens.share if share is None else share
    if redraw == "never":
        return (tokens.draw < share).to(tokens.logprob)
    return keep_first(tokens.draw.argsort(stable=True), share)


def dft(tokens: TokenStatistics) -> Tensor:
    """The probability itself; the gradient is that of -p."""
    return tokens.logprob.exp()


def power(tokens: TokenStatistics, alpha: float, tau: float, direction: str) -> Tensor:
    """(1 - p^alpha) / alpha of the kept tokens: SFT as alpha goes to 0, DFT's gradient at 1."""
    kept = _kept(tokens.logprob.detach(), tau, direction)
    return kept * -torch.expm1(alpha * tokens.logprob) / alpha


def high_entropy(tokens: TokenStatistics, share: float) -> Tensor:
    """Keep the round(share n) tokens where the model's distribution has the highest entropy."""
    return keep_first(tokens.entropy.argsort(descending=True, stable=True), share)


def eaft(tokens: TokenStatistics, alpha: float, divisor: float) -> Tensor:
    """The entropy of the TOP likeliest tokens, about 1 where they are equally likely (divisor ln TOP)."""
    return (tokens.top_entropy.clamp(min=0) / divisor) ** alpha


def infosft(tokens: TokenStatistics, cap: float) -> Tensor:
    """The probability, less the more of the way its logit is to that of cap; 0 from cap on."""
    logit = tokens.logprob - torch.log(-torch.expm1(tokens.logprob.clamp(max=0)))
    weight = tokens.logprob.exp() * torch.relu(1 - logit / (math.log(cap) - math.log1p(-cap)))
    return weight.masked_fill(tokens.logprob >= math.log(cap), 0.0)


def focal(tokens: TokenStatistics, gamma: float) -> Tensor:
    """Cross-entropy times (1 - p)^gamma, differentiated whole."""
    # The floor keeps the gradient finite at p = 1, where (1 - p)^(gamma - 1) is infinite for gamma below 1.
    rest = (-torch.expm1(tokens.logprob)).clamp(min=1e-30)
    return rest**gamma * -tokens.logprob


def label_smoothing(logits: Tensor, targets: Tensor, reference_logits: Tensor | None, epsilon: float) -> Tensor:
    """Cross-entropy with a target of which epsilon is spread evenly over the vocabulary."""
    logprobs = logits.log_softmax(-1)
    return -(1 - epsilon) * _at(logprobs, targets) - epsilon * logprobs.mean(-1)


def asft(logits: Tensor, targets: Tensor, reference_logits: Tensor, kl_weight: float) -> Tensor:
    """DFT plus the divergence of the trained model from the reference model."""
    logprobs, reference = logits.log_softmax(-1), reference_logits.log_softmax(-1)
    logprob = _at(logprobs, targets)
    divergence = (reference.exp() * (reference - logprobs)).sum(-1)
    return kl_weight * divergence - logprob.detach().exp() * logprob


def gift(logits: Tensor, targets: Tensor, reference_logits: Tensor, beta: float) -> Tensor:
    """Cross-entropy with the reference model's distribution, its target raised by beta, as the target."""
    raised = reference_logits.log_softmax(-1).scatter_add(
        -1, targets[:, None], reference_logits.new_full((len(targets), 1), beta)
    )
    return -(raised.softmax(-1) * logits.log_softmax(-1)).sum(-1)


def gem(logits: Tensor, targets: Tensor, reference_logits: Tensor | None, beta: float, gap: str) -> Tensor:
    """Raise the target's logit over those of the model's own sharpened distribution, which is held fixed."""
    ahead = logits - _at(logits, targets)[:, None]
    fixed = (logits.detach() / beta).softmax(-1)
    if gap == "logsigmoid":
        fixed = fixed * torch.sigmoid(0.01 * ahead.detach())
    return (fixed * ahead).sum(-1)


def iw_sft(tokens: TokenStatistics, temperature: float, clip: float) -> Tensor:
    """One importance weight a sequence: its mean probability ratio to the reference model, clipped."""
    counts = torch.bincount(tokens.sequence)
    ratios = tokens.logprob.new_zeros(len(counts)).index_add(0, tokens.sequence, tokens.logprob - tokens.reference)
    return (temperature * ratios / counts.clamp(min=1)).exp().clamp(max=clip)[tokens.sequence]


def psft(tokens: TokenStatistics, clip_low: float, clip_high: float) -> Tensor:
    """PPO's clipped ratio with every advantage 1: a token stops training once its ratio exceeds 1 + clip_high."""
    # Far beyond any clip, yet finite in fp32: an infinite ratio would make its zero gradient NaN.
    ratio = (tokens.logprob - tokens.reference).clamp(max=80).exp()
    return -torch.minimum(ratio, ratio.clamp(1 - clip_low, 1 + clip_high))


def excess(tokens: TokenStatistics, share: float) -> Tensor:
    """Keep the round(share n) tokens whose loss exceeds that of the reference model by most."""
    return keep_first((tokens.reference - tokens.logprob).argsort(descending=True, stable=True), share)


def keep_first(order: Tensor, share: float) -> Tensor:
    """Weight 1 for the first round(share n) of `order`, token indices (n,), and 0 for the rest."""
    weight = torch.zeros(order.shape, device=order.device)
    weight[order[: round(share * order.numel())]] = 1.0
    return weight


def _above(logprob: Tensor, tau: float) -> Tensor:
    """Whether p > tau; with tau = 0 every token, also one whose probability underflows."""
    return logprob > (math.log(tau) if tau else -math.inf)


def _kept(logprob: Tensor, tau: float, direction: str) -> Tensor:
    """1 for the tokens above tau (`higher`) or for all others (`lower`), else 0."""
    above = _above(logprob, tau)
    return (above if direction == "higher" else ~above).to(logprob)


def _masked(logprob: Tensor, tau: float, direction: str, tau_high: float) -> Tensor:
    """1 for the tokens above tau (`higher`), for all others (`lower`) or for those from tau to tau_high, else 0."""
    if direction == "middle":
        return (_above(logprob, tau) & ~_above(logprob, tau_high)).to(logprob)
    return _kept(logprob, tau, direction)


def _at(values: Tensor, targets: Tensor) -> Tensor:
    """The value (n,) of each row of `values` (n, V) at its target."""
    return values.gather(-1, targets[:, None]).squeeze(-1)


OBJECTIVES: dict[str, Objective] = {
    "sft": Objective("weight", sft, "w = 1", "negative log-likelihood"),
    "profit": Objective(
        "weight",
        profit,
        "w = 1[p > tau] (higher), 1[p <= tau] (lower) or 1[tau < p <= tau_high] (middle)",
        "ProFit, arXiv 2601.09195, Eq. 4",
    ),
    "profit_fixed": Objective(
        "weight",
        profit_fixed,
        "w = 1[p_ref > tau] (higher), 1[p_ref <= tau] (lower) or 1[tau < p_ref <= tau_high] (middle), ref the base",
        "control of this suite (ProFit's mask as it is before training, held fixed)",
        needs=("reference",),
    ),
    "truth": Objective(
        "weight",
        truth,
        "w = 1[core, fixed or end token] (core) or 1[replaceable token] (replaceable), by the labels of the data",
        "control of this suite (the mask that the probability stands in for; a reference, not a bound)",
        needs=("role",),
    ),
    "random": Objective(
        "weight",
        random,
        "w = 1[u among the lowest round(share N)] (redraw step) or 1[u < share] (never: one u a token for the run), "
        "u uniform; share as stated, else that of the paired run's step",
        "control of this suite (ProFit's code drops the stated share; here it is kept)",
        needs=("draw", "share"),
        scope="batch",
    ),
    "dft": Objective("weight", dft, "w = p", "DFT, arXiv 2508.05629"),
    "power": Objective(
        "loss",
        power,
        "loss = 1[p > tau] (1 - p^alpha) / alpha (higher), with 1[p <= tau] (lower)",
        "Beyond Log Likelihood, arXiv 2510.00526 (which divides thresholded forms by the kept tokens)",
    ),
    "entropy": Objective(
        "weight",
        high_entropy,
        "w = 1[H among the highest round(share N)], H = -sum_v p_v log p_v",
        "high-entropy tokens, arXiv 2506.01939 (share 0.2); a baseline of ProFit, whose ratio is not given",
        needs=("entropy",),
        scope="batch",
    ),
    "eaft": Objective(
        "weight",
        eaft,
        f"w = (H_top / divisor)^alpha, H_top the entropy of the {TOP} largest probabilities renormalised",
        "EAFT, arXiv 2601.02151 (divisor 3 ~ ln 20 as in LLaMA-Factory; 1 gives axolotl's)",
        needs=("top_entropy",),
    ),
    "infosft": Objective(
        "weight",
        infosft,
        "w = p max(0, 1 - logit(p) / logit(cap)), logit(p) = log(p / (1 - p))",
        "InfoSFT, arXiv 2605.14967",
    ),
    "focal": Objective("loss", focal, "loss = (1 - p)^gamma l", "focal loss, arXiv 1708.02002"),
    "label_smoothing": Objective(
        "logits",
        label_smoothing,
        "loss = (1 - epsilon) l - epsilon mean_v log p_v",
        "label smoothing, arXiv 1512.00567, Section 7",
    ),
    "asft": Objective(
        "logits",
        asft,
        "loss = sg(p) l + kl_weight sum_v p_ref,v log(p_ref,v / p_v), ref the base model",
        "ASFT, arXiv 2509.23753 (direction of the divergence as in its code)",
        needs=("reference_logits",),
    ),
    "gift": Objective(
        "logits",
        gift,
        "loss = -sum_v q_v log p_v, q = softmax(log p_ref + beta 1[v = y]), ref the base model",
        "GIFT, arXiv 2601.09233",
        needs=("reference_logits",),
    ),
    "gem": Objective(
        "logits",
        gem,
        "loss = sum_v q_v h_v (z_v - z_y), q = sg softmax(z / beta), h = 1 (linear) or sg sigmoid(0.01 (z_v - z_y))",
        "GEM, arXiv 2408.16673 (q, h and the scale 0.01 as in its code)",
    ),
    "iw_sft": Objective(
        "weight",
        iw_sft,
        "w = min(clip, exp(temperature mean_t(log p_t - log p_ref,t))), mean over the sequence, ref the base model",
        "iw-SFT, arXiv 2507.12856 (the branch over whole sequences of its code)",
        needs=("reference", "sequence"),
        scope="sequence",
    ),
    "psft": Objective(
        "loss",
        psft,
        "loss = -min(r, clip(r, 1 - clip_low, 1 + clip_high)), r = p / p_ref, p_ref stored and fixed",
        "PSFT, arXiv 2508.17784 (the stored reference stands for its old policy, which PSFT renews as it trains; its "
        "dual clip acts on negative advantages alone, of which there are none)",
        needs=("reference",),
    ),
    "excess": Objective(
        "weight",
        excess,
        "w = 1[l - l_ref among the highest round(share N)], ref the paired run",
        "Rho-1, arXiv 2404.07965; Token Cleaning, arXiv 2502.01968 (share 0.6, there ranked once, over all data)",
        needs=("reference",),
        scope="batch",
    ),
}


def token_terms(objective: dict[str, Any], tokens: TokenStatistics) -> tuple[Tensor, Tensor]:
    """Weight -dloss/dlogprob and loss of each token, both (n,), detached, in the dtype of logprob.

    `objective` is {"name": …, its settings, "normaliser": …}, as `check_objective` admits; a setting left out
    takes its default. For scope `sequence` and `batch` the tokens must be all those that it names.

    Raises:
        ValueError: an objective of form logits, or statistics that lack what it needs.
    """
    chosen, settings = _chosen(objective)
    name, logprob = objective["name"], tokens.logprob.detach()
    if chosen.form == "logits":
        raise ValueError(
            f"objective {name}: found statistics of tokens, expected logits: it needs the whole vocabulary"
        )
    for field in chosen.needs:
        if getattr(tokens, field) is None and settings.get(field) is None:
            raise ValueError(f"objective {name}: found no {field} of the tokens, expected one: the objective needs it")
    if chosen.form == "weight":
        with torch.no_grad():
            weight = chosen.function(replace(tokens, logprob=logprob), **settings).to(logprob)
            return weight, weight * -logprob
    with torch.enable_grad():
        leaf = logprob.requires_grad_()
        loss = chosen.function(replace(tokens, logprob=leaf), **settings)
        (slope,) = torch.autograd.grad(loss.sum(), leaf)
    return -slope, loss.detach()


def logits_loss(
    objective: dict[str, Any], logits: Tensor, targets: Tensor, reference_logits: Tensor | None = None
) -> Tensor:
    """Loss (n,), differentiable in `logits` (n, V); `targets` int64 (n,); `reference_logits` (n, V) are held fixed.

    Raises:
        ValueError: an objective of another form, or no reference_logits where it needs them.
    """
    chosen, settings = _chosen(objective)
    if chosen.form != "logits":
        raise ValueError(f"objective {objective['name']}: found logits, expected statistics of tokens (token_terms)")
    if chosen.needs and reference_logits is None:
        raise ValueError(f"objective {objective['name']}: found no reference_logits, expected those of the base model")
    fixed = None if reference_logits is None else reference_logits.detach()
    return chosen.function(logits, targets, fixed, **settings)


def _chosen(objective: dict[str, Any]) -> tuple[Objective, dict[str, Any]]:
    """The objective and all its settings."""
    defaults = OBJECTIVE_SETTINGS[objective["name"]]
    return OBJECTIVES[objective["name"]], {key: objective.get(key, default) for key, default in defaults.items()}


def check_objective(objective: dict[str, Any]) -> None:
    """Raise ValueError for an unknown name, setting or normaliser, a value out of its range, or settings at odds."""
    name = objective.get("name")
    if name not in OBJECTIVES:
        raise ValueError(f"objective: found {name!r}, expected one of {', '.join(OBJECTIVES)}")
    defaults = OBJECTIVE_SETTINGS[name]
    unknown = sorted(set(objective) - {"name", "normaliser", *defaults})
    if unknown:
        raise ValueError(f"objective {name}: found key {unknown[0]!r}, expected only {[*defaults, 'normaliser']}")
    if objective.get("normaliser", "all") not in ("all", "kept"):
        raise ValueError(f"objective {name}: normaliser: found {objective['normaliser']!r}, expected all or kept")
    for key, default in defaults.items():
        value = objective.get(key, default)
        if not (SETTINGS[key].admits(value) or value is default is None):
            raise ValueError(f"objective {name}: {key}: found {value!r}, expected {SETTINGS[key].expected}")
    if wrong := conflict(name, objective):
        raise ValueError(f"objective {name}: {': '.join(wrong)}")


def needs_whole_step(objective: dict[str, Any]) -> bool:
    """Whether a weight or the normaliser depends on all target tokens of the optimizer step."""
    return OBJECTIVES[objective["name"]].scope == "batch" or objective.get("normaliser", "all") == "kept"


def main() -> None:
    """Print every objective."""
    for name, objective in OBJECTIVES.items():
        settings = ", ".join(f"{key} {value}" for key, value in OBJECTIVE_SETTINGS[name].items()) or "none"
        needs = ", ".join(("logits" if objective.form == "logits" else "logprob", *objective.needs))
        print(f"{name}\n    {objective.equation}\n    settings: {settings}")
        print(f"    form {objective.form}; scope {objective.scope}; needs {needs}\n    {objective.citation}\n")
    print("NEFTune (arXiv 2310.05914), noise on the embeddings, is a setting of training (neftune), not an objective.")


if __name__ == "__main__":
    main()
