"""The effect that each claim is judged by, from the tidy tables of one model: paired by seed, or resampled by prompts.

An estimator takes a `Base` and returns the claim's parts; `NotMeasured` says what the study lacks for it. A part is an
effect oriented along the paper's direction: above zero agrees with it. Accuracies are shares in 0-1, averaged over the
samples and questions of a run; `average` is the mean over the benchmarks of the model's first table. Methods are found
by their settings, never by name. SFT is the first of the study on one reference; what is compared with it has the same
tuning, learning rate and epochs unless the estimator says otherwise, and of several such methods the first counts.

No command: used by `profit.claims`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from profit.figures import tables
from profit.statistics import bootstrap_ratio, bootstrap_weights
from profit.verdicts import Effect, effect, resampled

ALIKE = ("tuning", "rank", "references", "budget", "learning_rate", "epochs")
# Settings that make another method of an objective, and their value (or none) where they do not.
EXTRAS = {"match": None, "stop": 1.0, "mix": 1.0}
LOW = 0.1
SEVERAL = 3
MARGIN = 0.1
RATIO = 1.05
RESAMPLES = 2_000


class NotMeasured(Exception):
    """The study lacks what a claim needs; the message says what."""


@dataclass(frozen=True)
class Part:
    """An effect with its name; `by_seed`, the paired differences, where seeds are its unit.

    A reader is shown zero + sign x effect: a ratio, say, where the effect is its distance to a margin. unit: of this
    part, a key of verdict_table.UNITS, where it is not the claim's.
    """

    name: str
    effect: Effect
    by_seed: pd.Series | None = None
    zero: float = 0.0
    sign: int = 1
    unit: str | None = None


@dataclass(frozen=True)
class Base:
    """The tidy tables of one model.

    accuracies: one row a run, checkpoint and benchmark, with the run's settings, `kind` and `accuracy` (0-1);
    general: the same of the model's further tables, if any; tables: every other table there is, by name; more: the
    same base met by another number of prompts (figures.tables.arms), by how many times as many.
    """

    model: str
    accuracies: pd.DataFrame
    general: pd.DataFrame
    tables: dict[str, pd.DataFrame]
    more: dict[float, "Base"] = field(default_factory=dict)

    def table(self, name: str) -> pd.DataFrame:
        """The model's rows of a table; NotMeasured without any."""
        if name not in self.tables:
            raise NotMeasured(f"the study has no table {name}")
        if self.tables[name].empty:
            raise NotMeasured(f"table {name} has no row of {self.model}")
        return self.tables[name]

    def of(self, runs: pd.DataFrame) -> "Base":
        """The model, this one or one of `more`, whose runs these are."""
        return next((own for own in self.more.values() if own.model == runs["model"].iloc[0]), self)

    @cached_property
    def final(self) -> pd.DataFrame:
        """The last checkpoints of methods that are their objective alone."""
        return plain(self.accuracies[self.accuracies["checkpoint"] == "final"])

    @cached_property
    def sft(self) -> pd.DataFrame:
        """SFT on one reference; NotMeasured without it."""
        return first(self.final[self.final["kind"] == "sft"], "SFT on one reference")


Estimator = Callable[[Base], list[Part]]


def plain(runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of methods that are their objective alone."""
    return runs[np.logical_and.reduce([~changed(runs, key) for key in EXTRAS])]


def changed(runs: pd.DataFrame, key: str) -> pd.Series:
    """Whether a run has one of EXTRAS; shape (runs,)."""
    return runs[key].notna() & (runs[key] != EXTRAS[key])


def alike(runs: pd.DataFrame, to: pd.DataFrame, **but: object) -> pd.DataFrame:
    """The rows that differ from the first row of `to` in no setting but the objective and what `but` says."""
    wanted = to.iloc[0][list(ALIKE)].to_dict() | but
    same = [runs[key].isna() if pd.isna(value) else runs[key] == value for key, value in wanted.items()]
    return runs[np.logical_and.reduce(same)]


def first(runs: pd.DataFrame, what: str) -> pd.DataFrame:
    """The rows of the first method; NotMeasured if there is none."""
    if runs.empty:
        raise NotMeasured(f"the study has no {what}")
    return runs[runs["method"] == runs["method"].iloc[0]]


def method(base: Base, kind: str, **settings: object) -> pd.DataFrame:
    """The method of a kind with these settings, else alike to SFT and with its normaliser."""
    runs = alike(base.final, base.sft, **{key: value for key, value in settings.items() if key in ALIKE})
    for key, value in {"kind": kind, "normaliser": "all", **settings}.items():
        runs = runs[runs[key] == value] if key not in ALIKE else runs
    of = ", ".join(f"{key} {value}" for key, value in settings.items())
    return first(runs, f"{kind.replace('_', ' ')} beside SFT" + (f" ({of})" if of else ""))


def three(base: Base, budget: str = "epochs") -> pd.DataFrame:
    """SFT on SEVERAL references."""
    return method(base, "sft_multi", references=SEVERAL, budget=budget)


def vanilla(base: Base) -> pd.DataFrame:
    """The base itself."""
    return first(base.final[base.final["kind"] == "vanilla"], "run of the base itself")


def difference(name: str, ours: pd.Series, other: pd.Series) -> Part:
    """The part `name`: values by seed less others, on their common seeds."""
    both = pd.concat({"ours": ours, "other": other}, axis=1, join="inner")
    if both.empty:
        raise NotMeasured(f"{name}: the two have no seed in common")
    return of_seeds(name, both["ours"] - both["other"])


def of_seeds(name: str, values: pd.Series, zero: float = 0.0, sign: int = 1, unit: str | None = None) -> Part:
    """The part that values indexed by seed make."""
    return Part(name, effect(values.to_numpy()), values, zero, sign, unit)


def compare(name: str, ours: pd.DataFrame, other: pd.DataFrame, benchmark: str = "average") -> Part:
    """The difference of two methods' accuracies on a benchmark, paired by seed."""
    values = (runs[runs["benchmark"] == benchmark].set_index("seed")["accuracy"] for runs in (ours, other))
    return difference(name, *values)


def profit_over(other: Callable[[Base], pd.DataFrame]) -> Estimator:
    """ProFit on one reference against another method, on average."""
    return lambda base: [compare("average", method(base, "profit"), other(base))]


def on_each(base: Base) -> list[Part]:
    """ProFit against SFT on each benchmark."""
    ours, other = method(base, "profit"), base.sft
    return [compare(name, ours, other, name) for name in tables.benchmarks(ours) if name != "average"]


def thresholds(kind: str, sign: int) -> Estimator:
    """A kind of mask at each tau against SFT, on average, times `sign`."""

    def parts(base: Base) -> list[Part]:
        other, runs = base.sft, alike(base.final, base.sft)
        swept = runs[(runs["kind"] == kind) & (runs["normaliser"] == "all")]
        if swept["tau"].nunique() < 2:
            raise NotMeasured(f"the study has {kind.replace('_', ' ')} at {swept['tau'].nunique()} thresholds")
        pairs = [(f"tau {tau:g}", first(own, "run")) for tau, own in swept.groupby("tau")]
        return [compare(name, *((own, other) if sign > 0 else (other, own))) for name, own in pairs]

    return parts


def keep_low(base: Base) -> list[Part]:
    """SFT against keeping the improbable tokens, on average; the threshold is ProFit's."""
    return [compare("average", base.sft, method(base, "keep_low", tau=method(base, "profit")["tau"].iloc[0]))]


def ranks(base: Base) -> list[Part]:
    """ProFit against SFT at each LoRA rank, on average."""
    runs = base.final
    runs = runs[(runs["tuning"] == "lora") & (runs["references"] == 1)]
    ours, other = (runs[runs["kind"] == kind] for kind in ("profit", "sft"))
    parts = []
    for rank, own in ours[ours["normaliser"] == "all"].groupby("rank"):
        own = first(own, "run")
        beside = alike(other, own)
        parts += [compare(f"rank {rank:g}", own, first(beside, "run"))] if len(beside) else []
    return parts or not_measured("the study has no ProFit beside SFT by LoRA")


def epochs(base: Base) -> list[Part]:
    """ProFit against SFT after each epoch of a run over several, on average."""
    runs = plain(base.accuracies[base.accuracies["checkpoint"] != "final"])
    ours, other = (runs[runs["kind"] == kind] for kind in ("profit", "sft"))
    ours = first(ours[ours["tau"] == method(base, "profit")["tau"].iloc[0]], "ProFit evaluated after each epoch")
    other = first(alike(other, ours), "SFT evaluated after each epoch")
    common = sorted(set(ours["epoch"]) & set(other["epoch"]))
    return [compare(f"epoch {at}", ours[ours["epoch"] == at], other[other["epoch"] == at]) for at in common]


def general(base: Base) -> list[Part]:
    """ProFit against SFT on the average of the model's further tables."""
    if base.general.empty:
        raise NotMeasured("the model has no second table of benchmarks")
    names = [runs["method"].iloc[0] for runs in (method(base, "profit"), base.sft)]
    return [compare("average", *(base.general[base.general["method"] == name] for name in names))]


def several_accuracy(base: Base) -> list[Part]:
    """SFT on several references against one, on average, at equal epochs."""
    return [compare("average", three(base), base.sft)]


def seconds(base: Base, name: str) -> pd.Series:
    """Seconds of the runs of a method by seed: those of the processor, or, where there is a GPU, of the clock."""
    own = base.table("runs")
    own = own[own["method"] == name].set_index("seed")
    on_gpu = "device" in own and own["device"].str.startswith("cuda", na=False).any()
    return own["wall_seconds" if on_gpu else "cpu_seconds"]


def cost_ratio(base: Base, ours: pd.DataFrame, other: pd.DataFrame) -> pd.Series:
    """Seconds of training of one method over another's, by seed.

    Where steps of both were timed in turn (profit.timing), those of a step times the steps of a run; else of whole
    runs, which were trained at other times.
    """
    names, timed = [runs["method"].iloc[0] for runs in (ours, other)], base.tables.get("timing")
    if timed is not None and set(names) <= set(timed["method"]):
        steps = base.table("runs").groupby("method")["steps"].first()
        each = [timed[timed["method"] == name].set_index("seed")["seconds"] * steps[name] for name in names]
    else:
        each = [seconds(base, name) for name in names]
    ratio = (each[0] / each[1]).dropna()
    return ratio if len(ratio) else not_measured("the two have no seed in common")


def several_cost(base: Base) -> list[Part]:
    """Distances of the cost of several references, over their number, to 1 - MARGIN and 1 + MARGIN."""
    ratio = cost_ratio(base, three(base), base.sft) / SEVERAL
    low, high = 1 - MARGIN, 1 + MARGIN
    return [of_seeds("at least", ratio - low, low), of_seeds("at most", high - ratio, high, -1)]


def cost(base: Base) -> list[Part]:
    """Distance of the cost of ProFit, over SFT's, to RATIO."""
    return [of_seeds("seconds", RATIO - cost_ratio(base, method(base, "profit"), base.sft), RATIO, -1)]


def overfits(base: Base, runs: pd.DataFrame, part: str, against: str = "held") -> pd.Series:
    """Overfitting by seed, nats a token: trained references against `held` ones of the same prompts, or `new` ones."""
    name, base = runs["method"].iloc[0], base.of(runs)
    if against == "held" and "overfit" in base.tables:
        own = base.tables["overfit"]
        own = own[(own["method"] == name) & (own["part"] == part)]
        if len(own):
            return own.set_index("seed")["overfit"]
    own = base.table("account")
    own = own[(own["method"] == name) & (own["label"] == part) & (own["low"] == 0) & (own["high"] == 1)]
    change = own.pivot(index="seed", columns="set", values="change")
    if not {"trained", against} <= set(change):
        raise NotMeasured(f"the study has no overfitting of {name} against {against} references, {part} part")
    return (change["trained"] - change[against]).dropna()


def less_overfit(
    base: Base, ours: pd.DataFrame, part: str, against: str = "held", than: pd.DataFrame | None = None
) -> Part:
    """By how much a method overfits less than SFT on one reference (`than`), as a share of SFT's mean overfitting."""
    own, other = (overfits(base, runs, part, against) for runs in (ours, base.sft if than is None else than))
    if not other.mean() > 0:
        raise NotMeasured(f"SFT on one reference does not overfit here ({part}: {other.mean():+.4f} nats a token)")
    return difference(part, -own / other.mean(), -other / other.mean())


def several_overfit(base: Base) -> list[Part]:
    """SFT on several references overfits less than on one, core and replaceable tokens apart."""
    return [less_overfit(base, three(base), part) for part in ("core", "replaceable")]


def profit_overfit(base: Base) -> list[Part]:
    """ProFit overfits less than SFT on core tokens; on the others a mask does so by construction."""
    return [less_overfit(base, method(base, "profit"), "core")]


def annotators(base: Base) -> list[str]:
    """Annotators of table prompts, the study's own first."""
    names = list(dict.fromkeys(base.table("prompts")["annotator"]))
    own = base.table("runs")["labels"].iloc[0]
    return sorted(names, key=lambda name: name != own)


def by_prompt(base: Base, annotator: str, column: str) -> tuple[pd.DataFrame, np.ndarray]:
    """A column of table prompts by prompt and label, shape (prompts, 2), with bootstrap weights of the prompts."""
    own = base.table("prompts")
    own = own[own["annotator"] == annotator].pivot(index="prompt_id", columns="label", values=column)
    lacking = {"core", "replaceable"} - set(own)
    if lacking:
        raise NotMeasured(f"annotator {annotator} calls no token {' or '.join(sorted(lacking))}")
    return own.fillna(0), bootstrap_weights(len(own), RESAMPLES, 0)


def core_more_probable(base: Base, annotator: str | None = None) -> list[Part]:
    """Mean probability of core tokens less that of replaceable ones; prompts are resampled."""
    name = annotator or annotators(base)[0]
    sums, weights = by_prompt(base, name, "probability_sum")
    tokens, _ = by_prompt(base, name, "tokens")
    means = sums.sum() / tokens.sum()
    draws = [bootstrap_ratio(sums[label], tokens[label], weights) for label in ("core", "replaceable")]
    return [Part(name, resampled(means["core"] - means["replaceable"], draws[0] - draws[1], len(tokens)))]


def low_are_trivial(base: Base, annotator: str | None = None) -> list[Part]:
    """Share of replaceable tokens among the core and replaceable ones up to LOW, less one half."""
    name = annotator or annotators(base)[0]
    low, weights = by_prompt(base, name, "low")
    both = low.sum(axis=1)
    if both.sum() == 0:
        raise NotMeasured(f"no core or replaceable token has a probability up to {LOW}")
    draws = bootstrap_ratio(low["replaceable"], both, weights) - 0.5
    share = low["replaceable"].sum() / both.sum()
    return [Part(name, resampled(share - 0.5, draws[np.isfinite(draws)], len(low)), zero=0.5)]


def norm_bound(base: Base) -> list[Part]:
    """Share of the checked tokens whose gradient is shorter than Theorem 1 allows, below zero; no sampling error.

    Its p is 0 where every token obeys the bound, else 1.
    """
    row = base.table("theorem").iloc[0]
    broken = -float(row["violations"] / row["tokens"])
    surely = 0.0 if row["violations"] == row["undecided"] == 0 else 1.0
    return [Part("tokens", Effect(broken, broken, broken, surely, broken, int(row["tokens"])))]


def gradient_ratios(base: Base) -> list[Part]:
    """Share of each bin of probability in the batch gradient over that of the tokens, less 1, from low to high."""
    own = base.table("gradient_prompts")
    shares = own.pivot(index="prompt_id", columns=["low", "high"], values="share").fillna(0).sort_index(axis=1)
    tokens = own.pivot(index="prompt_id", columns=["low", "high"], values="tokens").fillna(0).sort_index(axis=1)
    weights, parts = bootstrap_weights(len(shares), RESAMPLES, 0), []
    for low, high in shares:
        if tokens[low, high].sum() == 0:
            continue
        with np.errstate(invalid="ignore", divide="ignore"):
            of_shares, of_tokens = (
                bootstrap_ratio(values[low, high], values.sum(axis=1), weights) for values in (shares, tokens)
            )
            draws = of_shares / of_tokens - 1
        ratio = shares[low, high].sum() / shares.to_numpy().sum() * tokens.to_numpy().sum() / tokens[low, high].sum()
        found = resampled(ratio - 1, draws[np.isfinite(draws)], len(shares))
        parts.append(Part(f"[{low:g}, {high:g})", found, zero=1.0))
    return parts


def lowest_bin(base: Base) -> list[Part]:
    """The ratio of the bin of the least probable tokens."""
    found = [part for part in gradient_ratios(base) if part.name.startswith("[0,")]
    return found or not_measured("no token of the batch has so low a probability")


def not_measured(reason: str) -> list[Part]:
    """Raise NotMeasured where an expression is wanted."""
    raise NotMeasured(reason)


def reinforcement(base: Base) -> list[Part]:
    """Nothing: no model is trained by reinforcement learning here."""
    raise NotMeasured("no model is trained by reinforcement learning here")
