"""ProFit beside SFT at equal drift: by hand, on planted curves, what is left out or lacking, and its figure."""

import json
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import planted
import pytest
from scipy import stats

from profit import claims, controls, equal_drift
from profit.claim_tables import load_bases
from profit.equal_drift import read_off
from profit.estimators import NotMeasured
from profit.figures import drift as drift_figure
from profit.figures import style

PUBLISHED = Path(__file__).parents[1] / "results/published"
SEEDS = range(5)
# Drift and accuracy of each method, on the seeds 0 to 4.
HAND = {
    "vanilla": (None, 0.30),
    "sft": (0.10, 0.40),
    "sft_slow": (0.02, 0.50),
    "sft_early": (0.05, 0.44),
    "sft_mixed": (0.04, 0.36),
    "sft_fast": (0.20, 0.20),
    "profit": (0.06, 0.48),
    # No members of a path: a mask, other updates, more references.
    "random": (0.07, 0.80),
    "sft_matched": (0.06, 0.80),
    "sft_3ref": (0.06, 0.80),
}
BY_HAND = {"learning rate": 0.48 - 0.45, "stopping": 0.48 - 0.432, "mixing": 0.48 - (0.36 + 0.04 / 3)}
MORE = {"sft_mixed": {"mix": 0.5}, "sft_fast": {"learning_rate": 1e-3}}


@pytest.fixture(scope="module")
def study():
    """Tidy tables without drift, every method on five seeds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planted, "METHODS", planted.METHODS | MORE)
        tables = planted.make_tables({}, 5)
    return {name: tables[name] for name in ("runs", "evaluations", "main")}


def made(study, values):
    """The tables of the methods in `values`: by method and seed its drift (None: not measured) and its accuracy.

    A method's value may be one pair for all SEEDS, or a pair by seed.
    """
    by_seed = {
        (method, seed): pair
        for method, pairs in values.items()
        for seed, pair in (pairs if isinstance(pairs, dict) else dict.fromkeys(SEEDS, pairs)).items()
    }
    kept = {}
    for name in ("runs", "evaluations"):
        keys = list(zip(study[name]["method"], study[name]["seed"], strict=True))
        kept[name] = study[name][[key in by_seed for key in keys]]
    accuracy = [
        by_seed[key][1] for key in zip(kept["evaluations"]["method"], kept["evaluations"]["seed"], strict=True)
    ]
    kept["evaluations"] = kept["evaluations"].assign(accuracy=accuracy)
    rows = [
        {"study": planted.STUDY, "model": "mini", "method": method, "seed": seed, "part": part}
        | {"kl_base_run": drift if part == "all" else 100 * drift}
        for (method, seed), (drift, _) in by_seed.items()
        for part in ("core", "all")
        if drift is not None
    ]
    return {**kept, "main": study["main"], "drift": pd.DataFrame(rows)}


def base_of(folder, tables):
    (base,) = load_bases(planted.write_tables(folder, tables), with_questions=False)
    return base


def parts_of(folder, tables):
    """The parts by name."""
    return {part.name: part for part in equal_drift.parts(base_of(folder, tables))}


def name_of(path, notes=""):
    return f"ProFit - SFT at equal drift, by {path}{notes}"


def test_by_hand(study, tmp_path):
    found = parts_of(tmp_path, made(study, HAND))
    assert list(found) == ["drift of ProFit, over SFT's", *map(name_of, BY_HAND)]
    for path, expected in BY_HAND.items():
        assert found[name_of(path)].effect.mean == pytest.approx(expected)
        assert found[name_of(path)].effect.seeds == 5
    part = found["drift of ProFit, over SFT's"]
    assert (part.zero + part.effect.mean, part.unit) == (pytest.approx(0.6), "ratio")


def test_differences_are_paired_by_seed(study, tmp_path):
    """Each seed has its own path; an interval is that of the differences."""
    rng, values = np.random.default_rng(0), {}
    for method, (drift, accuracy) in HAND.items():
        shifts = rng.uniform(0.8, 1.2, size=(5, 2))
        values[method] = {s: (drift and drift * shifts[s, 0], accuracy * shifts[s, 1]) for s in SEEDS}
    values["sft"][7] = values["profit"][8] = (0.1, 0.8)  # seeds that the others lack
    runs, evaluations = (study[name] for name in ("runs", "evaluations"))
    more = {name: [frame] for name, frame in (("runs", runs), ("evaluations", evaluations))}
    for method, seed in (("sft", 7), ("profit", 8)):
        for frames in more.values():
            own = frames[0]
            frames.append(own[(own["method"] == method) & (own["seed"] == 0)].assign(seed=seed))
    larger = {**study, **{name: pd.concat(frames) for name, frames in more.items()}}
    part = parts_of(tmp_path, made(larger, values))[name_of("learning rate")]
    expected = []
    for seed in SEEDS:
        way = sorted([(0, values["vanilla"][seed][1]), values["sft_slow"][seed], values["sft"][seed]])
        place = values["profit"][seed][0]
        (a, low), (b, high) = next(pair for pair in zip(way, way[1:], strict=False) if place <= pair[1][0])
        expected.append(values["profit"][seed][1] - (low + (high - low) * (place - a) / (b - a)))
    assert part.by_seed.tolist() == pytest.approx(expected) and part.by_seed.index.tolist() == list(SEEDS)
    interval = stats.ttest_1samp(expected, 0).confidence_interval()
    assert (part.effect.low, part.effect.high) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize(
    ("at", "expected"), [(0.0, 0.3), (0.05, 0.4), (0.1, 0.5), (0.15, 0.45), (0.3, 0.3), (0.31, np.nan)]
)
def test_lines_between_points_in_order_of_drift_and_none_beyond(at, expected):
    assert read_off([(0.0, 0.3), (0.3, 0.3), (0.1, 0.5)], at) == pytest.approx(expected, nan_ok=True)


def test_sft_at_a_higher_rate_may_go_further(study, tmp_path):
    found = parts_of(tmp_path, made(study, HAND | {"profit": (0.15, 0.48)}))
    assert list(found) == ["drift of ProFit, over SFT's", name_of("learning rate")]
    assert found[name_of("learning rate")].effect.mean == pytest.approx(0.48 - 0.30)


def test_seeds_beyond_the_path_are_left_out_and_counted(study, tmp_path):
    ours = dict.fromkeys(SEEDS, HAND["profit"]) | {1: (0.2, 0.99), 3: (0.101, 0.99)}
    found = parts_of(tmp_path / "some", made(study, HAND | {"profit": ours}))
    part = found[name_of("stopping", " (2 of 5 seeds left out, ProFit beyond the path)")]
    assert part.by_seed.index.tolist() == [0, 2, 4] and part.effect.mean == pytest.approx(BY_HAND["stopping"])
    assert found["drift of ProFit, over SFT's"].effect.seeds == 5
    assert set(parts_of(tmp_path / "all", made(study, HAND | {"profit": (0.21, 0.99)}))) == {
        "drift of ProFit, over SFT's"
    }


def test_the_base_s_mean_stands_for_seeds_that_it_lacks(study, tmp_path):
    near = HAND | {"profit": (0.01, 0.48), "vanilla": {0: (None, 0.2), 1: (None, 0.3), 2: (None, 0.1)}}
    found = parts_of(tmp_path, made(study, near))
    part = found[name_of("learning rate", " (2 of 5 seeds with the base's mean)")]
    # Half way between the base and SFT at the lower rate, 0.50.
    assert part.by_seed.tolist() == pytest.approx([0.13, 0.08, 0.18, 0.13, 0.13])


def test_two_members_of_one_path(study, tmp_path):
    runs = study["runs"]
    second = runs["method"].eq("sft_fast")
    lower = {**study, "runs": runs.assign(learning_rate=runs["learning_rate"].mask(second, 2e-4))}
    values = HAND | {"sft_fast": (0.08, 0.42)}
    part = parts_of(tmp_path / "both", made(lower, values))[name_of("learning rate")]
    assert part.effect.mean == pytest.approx(0.48 - (0.50 - 0.08 * 4 / 6))
    # A seed that one member lacks has no whole path.
    values["sft_fast"] = dict.fromkeys([0, 1, 2], (0.08, 0.42))
    part = parts_of(tmp_path / "few", made(lower, values))[name_of("learning rate")]
    assert part.by_seed.index.tolist() == [0, 1, 2]


def curve(drift):
    """Accuracy rises as the references are learnt, and falls as what the base knew is lost."""
    return 0.3 + 4 * drift - 30 * drift**2


@pytest.mark.parametrize("planted_difference", [0.0, 0.06])
def test_planted_differences_are_found(study, tmp_path, planted_difference):
    rng, middle = np.random.default_rng(3), {"vanilla": 0.0, "sft": 0.12, "profit": 0.07}
    values = {}
    for method, drift in (middle | {"sft_slow": 0.065, "sft_early": 0.075, "sft_mixed": 0.068}).items():
        drifts = drift * rng.uniform(0.95, 1.05, 5)
        accuracies = curve(drifts) + rng.normal(0, 0.004, 5) + planted_difference * (method == "profit")
        values[method] = {
            s: (None if method == "vanilla" else x, y) for s, x, y in zip(SEEDS, drifts, accuracies, strict=True)
        }
    found = parts_of(tmp_path, made(study, values))
    for path in ("learning rate", "stopping", "mixing"):
        effect = found[name_of(path)].effect
        # A straight line from a to b lies 30 (drift - a) (b - drift) below this curve: less than 0.02 here.
        assert effect.mean == pytest.approx(planted_difference, abs=0.02)
        assert (effect.low > 0.03) == (planted_difference > 0)
    # At unequal drift SFT looks worse than ProFit although both lie on one curve.
    ours, sft = (np.mean([pair[1] for pair in values[name].values()]) for name in ("profit", "sft"))
    assert ours - sft > planted_difference + 0.05


def test_what_a_study_lacks(study, tmp_path):
    tables = made(study, HAND)
    with pytest.raises(NotMeasured, match="the study has no table drift"):
        parts_of(tmp_path / "none", {name: rows for name, rows in tables.items() if name != "drift"})
    drift = tables["drift"]
    for method, expected in (("sft", "table drift has no run of sft"), ("profit", "table drift has no run of profit")):
        with pytest.raises(NotMeasured, match=expected):
            parts_of(tmp_path / method, {**tables, "drift": drift[drift["method"] != method]})
    unmeasured = {**tables, "drift": drift[~drift["method"].isin(["sft_slow", "sft_fast", "sft_mixed"])]}
    assert list(parts_of(tmp_path / "rate", unmeasured)) == ["drift of ProFit, over SFT's", name_of("stopping")]
    without = made(study, {name: value for name, value in HAND.items() if name != "vanilla"})
    assert list(parts_of(tmp_path / "base", without)) == ["drift of ProFit, over SFT's"]
    still = parts_of(tmp_path / "still", made(study, HAND | {"sft": (0.0, 0.4), "sft_slow": (0.0, 0.4)}))
    assert "drift of ProFit, over SFT's" not in still


def test_it_stands_beside_the_first_claim(study, tmp_path):
    tables = made(study, HAND)
    names = [part.name for part in controls.of_profit(base_of(tmp_path / "tables", tables))]
    assert names[-4:] == ["drift of ProFit, over SFT's", *map(name_of, BY_HAND)]
    out = tmp_path / "out"
    claims.main(
        ["--tables", str(tmp_path / "tables"), "--published", str(PUBLISHED), "--output", str(out / "claims.json"),
         "--output-folder", str(out), "--without-questions"]
    )  # fmt: skip
    text = (out / "claims.md").read_text()
    assert "drift of ProFit, over SFT's 0.60 [0.60, 0.60] times" in text
    assert f"{name_of('stopping')} +4.8 [+4.8, +4.8] points" in text
    (row,) = [row for row in json.loads((out / "claims.json").read_text())["claims"] if row["id"] == "profit_over_sft"]
    assert [part["unit"] for part in row["controls"][-4:]] == ["ratio", None, None, None]
    bare = {name: rows for name, rows in tables.items() if name != "drift"}
    names = [part.name for part in controls.of_profit(base_of(tmp_path / "bare", bare))]
    assert names and not any("drift" in name for name in names)


def pictured(folder, tables):
    """The axes of the figure, the handle and data of each of its lines by name, and the words of the footnote."""
    runs = tables["runs"].assign(paired_with="profit", share=np.nan)
    figure = drift_figure.draw(planted.write_tables(folder, {**tables, "runs": runs}), PUBLISHED)
    (axes,) = figure.axes
    return axes, {line.get_label(): line for line in axes.lines}, figure.get_supxlabel()


def test_the_figure_has_a_point_a_method_and_three_lines(study, tmp_path):
    values = HAND | {"sft": {seed: (0.1 + 0.01 * (seed - 2), 0.4 + 0.02 * (seed - 2)) for seed in SEEDS}}
    del values["sft_3ref"]
    axes, lines, said = pictured(tmp_path, made(study, values))
    names = {
        "Vanilla": "vanilla", "SFT": "sft", "SFT at 1e-4": "sft_slow", "SFT at 1e-3": "sft_fast",
        "SFT (update norm of ProFit)": "sft_matched", "SFT, stopped at 0.5": "sft_early",
        "SFT, mixed 0.5": "sft_mixed", "Random mask": "random", "ProFit": "profit",
    }  # fmt: skip
    shown = {name: line for name, line in lines.items() if not name.startswith("_")}
    assert set(shown) == set(names)
    for name, method in names.items():
        place, accuracy = HAND[method]
        found = np.ravel([shown[name].get_xdata(), shown[name].get_ydata()])
        assert found == pytest.approx([place or 0, 100 * accuracy])
    looks = {(line.get_color(), line.get_marker(), line.get_fillstyle()) for line in shown.values()}
    assert len(looks) == len(shown)
    ways = sorted(list(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) > 1)
    for way, expected in zip(ways, ([0, 0.02, 0.1, 0.2], [0, 0.04, 0.1], [0, 0.05, 0.1]), strict=True):
        assert way == pytest.approx(expected)
    # SFT's intervals over its five seeds, both ways.
    half = stats.t.ppf(0.975, 4) * np.std([-2, -1, 0, 1, 2], ddof=1) / 5**0.5
    ends = [segment for bars in axes.collections for segment in bars.get_segments()]
    for expected in ([[0.1 - 0.01 * half, 40], [0.1 + 0.01 * half, 40]], [[0.1, 40 - 2 * half], [0.1, 40 + 2 * half]]):
        assert any(np.allclose(segment, expected) for segment in ends)
    for words in ("other learning rates", "stopped early", "mixed", "5 seeds, bars: 95 % t interval"):
        assert words in " ".join(said.split())


def test_the_figure_without_paths_or_base(study, tmp_path):
    axes, lines, said = pictured(tmp_path, made(study, {name: HAND[name] for name in ("sft", "profit")}))
    assert set(lines) == {"SFT", "ProFit"} and "Lines" not in said
    assert [style.colour(kind) for kind in ("sft", "profit")] == [
        lines[name].get_color() for name in ("SFT", "ProFit")
    ]


def test_a_method_looks_the_same_on_every_base(study, tmp_path):
    """On a base that lacks one of the slower rates; one legend names the methods of both, each base has equal room."""
    bases = {"mini": HAND, "other": {name: pair for name, pair in HAND.items() if name != "sft_slow"}}
    frames = [
        {name: rows.assign(model=model) for name, rows in made(study, values).items() if name != "main"}
        for model, values in bases.items()
    ]
    tables = {name: pd.concat([frame[name] for frame in frames]) for name in frames[0]}
    runs = tables["runs"].assign(paired_with="profit", share=np.nan)
    folder = planted.write_tables(tmp_path, {**tables, "runs": runs, "main": study["main"]})
    with matplotlib.rc_context():
        style.apply()
        figure = drift_figure.draw(folder, PUBLISHED)
    looks = [
        {line.get_label(): (line.get_color(), line.get_marker(), line.get_fillstyle()) for line in axes.lines}
        for axes in figure.axes
    ]
    named = [{name: look for name, look in own.items() if not name.startswith("_")} for own in looks]
    assert named[1] == {name: look for name, look in named[0].items() if name != "SFT at 1e-4"}
    assert [len(block.legends) for block in figure.subfigs] == [0, 1, 0, 0]
    figure.draw_without_rendering()
    first, second = (axes.get_window_extent().height for axes in figure.axes)
    assert first == pytest.approx(second, rel=0.15)
