"""Each method at its own best learning rate: planted rates, whose method they are, and what is lacking."""

import pandas as pd
import planted
import pytest

from profit import claims, controls, own_rate
from profit.claim_tables import load_bases

SEEDS = 4
FAST, SLOW = 1e-3, 1e-4
# Accuracy of each method; those that the study lacks are made from the method before the first underline.
ACCURACY = {
    "sft": 0.40, "sft_slow": 0.46, "sft_fast": 0.60, "profit": 0.50, "profit_slow": 0.90, "profit_fast": 0.52,
    "sft_3ref": 0.44, "sft_3ref_slow": 0.45, "entropy": 0.30, "entropy_fast": 0.33, "dft": 0.41, "keep_low": 0.20,
    "keep_low_slow": 0.25,
}  # fmt: skip
# The rates that validation problems chose: neither the best on the benchmarks (SFT) nor that of the study.
CHOSEN = {"sft": SLOW, "profit": FAST, "sft_3ref": SLOW, "entropy": FAST, "dft": 3e-4, "keep_low": SLOW}
BY_HAND = {
    ("ProFit", "SFT"): (0.52 - 0.46, "0.001 and 0.0001"),
    ("ProFit", "SFT on three"): (0.52 - 0.45, "0.001 and 0.0001"),
    ("SFT on three", "SFT"): (0.45 - 0.46, "0.0001 and 0.0001"),
    ("ProFit", "entropy"): (0.52 - 0.33, "0.001 and 0.001"),
    ("ProFit", "DFT"): (0.52 - 0.41, "0.001 and 0.0003"),
    ("SFT", "keep low"): (0.46 - 0.25, "0.0001 and 0.0001"),
}


@pytest.fixture(scope="module")
def study():
    """Tidy tables of all methods at the rates above, with table tune."""
    swept = {}
    for name in ACCURACY.keys() - planted.METHODS.keys():
        method, _, speed = name.rpartition("_")
        swept[name] = planted.METHODS[method] | {"learning_rate": {"fast": FAST, "slow": SLOW}[speed]}
        swept[name] |= {"group": "learning_rate"}
    # At the chosen rates, but not the same methods: their share and threshold are others.
    swept["entropy_0.5"] = swept["entropy_fast"] | {"share": 0.5}
    swept["profit_0.5"] = swept["profit_fast"] | {"tau": 0.5}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planted, "METHODS", {**planted.METHODS, **dict(sorted(swept.items()))})
        tables = planted.make_tables({}, SEEDS)
    found = {name: tables[name] for name in ("runs", "main")}
    accuracy = [ACCURACY.get(name, 0.99) for name in tables["evaluations"]["method"]]
    found["evaluations"] = tables["evaluations"].assign(accuracy=accuracy)
    rows = [
        {"study": planted.STUDY, "model": "mini", "tuned": name, "learning_rate": rate, "chosen": rate == best}
        for name, best in CHOSEN.items()
        for rate in (SLOW, 3e-4, FAST)
    ]
    return {**found, "tune": pd.DataFrame(rows)}


def base_of(folder, tables):
    (base,) = load_bases(planted.write_tables(folder, tables), with_questions=False)
    return base


@pytest.mark.parametrize(("ours", "other"), BY_HAND)
def test_by_hand(ours, other, study, tmp_path):
    (part,) = own_rate.parts(ours, other)(base_of(tmp_path, study))
    expected, rates = BY_HAND[ours, other]
    assert part.name == f"{ours} - {other}, each at its own best rate ({rates})"
    assert part.effect.mean == pytest.approx(expected) and part.effect.seeds == SEEDS


def test_pairs_are_those_of_seeds(study, tmp_path):
    runs = study["evaluations"]
    shift = runs["seed"].where(runs["method"].isin(["sft_slow", "profit_fast"]), 0) * 0.01
    extra = runs["method"].eq("profit_fast") * runs["seed"].eq(2) * 0.04
    moved = runs.assign(accuracy=runs["accuracy"] + shift + extra)
    gone = moved[~(moved["method"].eq("sft_slow") & moved["seed"].eq(0))]
    settings = study["runs"]
    settings = settings[~(settings["method"].eq("sft_slow") & settings["seed"].eq(0))]
    (part,) = own_rate.parts("ProFit", "SFT")(base_of(tmp_path, {**study, "runs": settings, "evaluations": gone}))
    assert part.by_seed.to_dict() == pytest.approx({1: 0.06, 2: 0.10, 3: 0.06})


def test_at_the_rates_of_the_study_it_is_the_claim(study, tmp_path):
    tune = study["tune"].assign(chosen=study["tune"]["learning_rate"] == 3e-4)
    base = base_of(tmp_path, {**study, "tune": tune})
    (part,) = own_rate.parts("ProFit", "SFT")(base)
    (claimed,) = next(claim for claim in claims.CLAIMS if claim.id == "profit_over_sft").estimator(base)
    assert part.by_seed.equals(claimed.by_seed) and part.effect == claimed.effect


def test_what_is_lacking_is_left_out(study, tmp_path):
    def parts(number, **changed):
        return own_rate.parts("ProFit", "SFT")(base_of(tmp_path / str(number), {**study, **changed}))

    tune, names = study["tune"], study["runs"]["method"]
    assert parts(0, tune=tune[tune["tuned"] != "sft"]) == []
    assert parts(1, tune=tune.assign(model="other")) == []
    # SFT was not run at the rate that was chosen for it; another method at that rate does not stand in.
    lacking = {name: study[name][study[name]["method"] != "sft_slow"] for name in ("runs", "evaluations")}
    assert "sft_slow" in set(names) and parts(2, **lacking) == []
    assert len(parts(3)) == 1


def test_a_study_without_the_sweep_reads_no_table_tune(study, tmp_path):
    """It may be of an older form, and nothing was run at its rates."""
    main = study["runs"].assign(group="main")
    tables = {**study, "runs": main, "tune": study["tune"].drop(columns=["study", "tuned"])}
    base = base_of(tmp_path, tables)
    assert "tune" not in base.tables and own_rate.parts("ProFit", "SFT")(base) == []


def test_it_stands_beside_the_claims_that_compare_the_pair(study, tmp_path):
    base = base_of(tmp_path, study)
    for name, pair in {
        "profit_over_sft": ("ProFit", "SFT"),
        "profit_over_three": ("ProFit", "SFT on three"),
        "references_accuracy": ("SFT on three", "SFT"),
        "profit_over_entropy": ("ProFit", "entropy"),
        "profit_over_dft": ("ProFit", "DFT"),
        "keep_low": ("SFT", "keep low"),
    }.items():
        claim = next(claim for claim in claims.CLAIMS if claim.id == name)
        shown = [part for part in claim.controls(base) if "own best rate" in part.name]
        assert [part.effect.mean for part in shown] == [pytest.approx(BY_HAND[pair][0])]
        assert claims.OWN_RATE in claim.control
    names = [part.name for part in controls.of_profit(base)]
    assert {"SFT at learning rate 0.0001 (sft_slow) - SFT", "SFT at learning rate 0.001 (sft_fast) - SFT"} <= set(
        names
    )
