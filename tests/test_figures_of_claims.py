"""Figures claims and account, of hand-made and planted tables; what all figures must be is in test_figures."""

from pathlib import Path

import numpy as np
import pandas as pd
import planted
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from PIL import Image
from test_figures import build, check_texts, texts, words

from profit import account, claims, draw
from profit.figures import account as account_figure
from profit.figures import claims as claims_figure
from profit.figures import tables
from profit.files import write_parquet

PUBLISHED = Path(__file__).resolve().parent.parent / "results" / "published"
KEYS = {"model": "mini", "family": "rest", "unit": "accuracy", "counted": "seeds", "smallest": 0.05, "adjusted": 0.001}
KEYS |= {"over_bases": "", "published_value": np.nan, "zero": 0.0, "p": 0.001, "seeds": 10, "part": "average"}


def drawn(folder: Path, *rows: dict, **others: pd.DataFrame) -> Figure:
    """Figure claims of a table whose rows have the values of KEYS where they name none."""
    table = pd.DataFrame([{**KEYS, "claim": row["sentence"], "verdict": "replicated", **row} for row in rows])
    write_parquet(folder / "claims.parquet", table)
    figure = build("claims", folder)
    FigureCanvasAgg(figure).draw()
    check_texts(figure)
    return figure


def marks(figure: Figure, panel: int = 0) -> list[tuple[str, str, float]]:
    """Marker, colour and place on the axis of each point, from the top."""
    lines = [line for line in figure.axes[panel].lines if line.get_marker() != "None" and len(line.get_xdata())]
    found = [(line.get_marker(), to_hex(line.get_color()).upper(), line) for line in lines]
    found.sort(key=lambda mark: float(mark[2].get_ydata()[0]))
    return [(marker, colour, float(value)) for marker, colour, line in found for value in line.get_xdata()]


def test_an_effect_is_shown_over_its_smallest_of_interest_and_a_margin_over_the_margin(tmp_path: Path) -> None:
    figure = drawn(
        tmp_path,
        {"sentence": "A", "family": "first", "mean": 0.03, "low": 0.02, "high": 0.04, "published_value": 0.045},
        {"sentence": "B", "mean": 0.3, "low": 0.2, "high": 0.4, "smallest": 0.1, "unit": "share"},
        {"sentence": "C", "mean": 0.04, "low": 0.01, "high": 0.07, "smallest": 0.0, "unit": "ratio", "zero": 1.05},
        {"sentence": "D", "mean": -0.1, "low": -0.1, "high": -0.1, "smallest": 0.0, "unit": "exceptions", "seeds": 60},
    )
    green = claims_figure.LOOK["replicated"][1]
    found = [mark for mark in marks(figure) if mark[0] == "o"]
    assert [value for *_, value in found] == pytest.approx([0.6, 3.0]) and {mark[1] for mark in found} == {green}
    assert [value for marker, _, value in marks(figure) if marker == "D"] == pytest.approx([0.9])
    assert [value for *_, value in marks(figure, 1)] == pytest.approx([0.8, -0.1])
    spans = [line.get_xdata() for line in figure.axes[0].lines if line.get_linewidth() == 1.2]
    assert [list(span) for span in spans] == [pytest.approx([0.4, 0.8]), pytest.approx([2.0, 4.0])]
    said = words(figure)
    assert "6 of 60 tokens break it" in said and "Second family, against a margin" in said
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["First family", "A", "Second family", "B"]


def test_a_claim_in_parts_is_shown_by_its_weakest(tmp_path: Path) -> None:
    parts = {"a": (0.1, 0.001), "same_length": (0.02, 0.2), "b": (0.01, 0.1)}
    rows = [{"part": name, "mean": mean, "low": 0.0, "high": 0.12, "p": p} for name, (mean, p) in parts.items()]
    figure = drawn(tmp_path, *({"sentence": "Each", **row} for row in rows))
    assert [value for marker, _, value in marks(figure) if marker == "o"] == pytest.approx([0.4])
    assert sorted(value for marker, _, value in marks(figure) if marker == "|") == pytest.approx([0.2, 2.0])
    assert "10 seeds\nweakest: Same length" in words(figure)


def test_each_verdict_has_a_mark_and_a_colour_of_its_own(tmp_path: Path) -> None:
    few = {"mean": 0.03, "low": 0.01, "high": 0.04}
    rows = {
        "replicated": few,
        "not replicated: above 0, but too small": few | {"verdict": "not replicated"},
        "not replicated": few | {"verdict": "not replicated", "adjusted": 0.2},
        "not replicated: the opposite": {"mean": -0.1, "low": -0.2, "high": -0.01, "verdict": "not replicated"},
        "inconclusive": few | {"verdict": "inconclusive", "adjusted": 0.2},
        "descriptive": {"mean": 0.03, "low": np.nan, "high": np.nan, "verdict": "descriptive", "adjusted": np.nan},
        "by construction": few | {"verdict": "by construction", "adjusted": np.nan},
    }
    figure = drawn(tmp_path, *({"sentence": f"Claim {word}", **row} for word, row in rows.items()))
    assert [(marker, colour) for marker, colour, _ in marks(figure)] == list(claims_figure.LOOK.values())
    assert set(rows) == set(claims_figure.LOOK) and len(set(dict(claims_figure.LOOK.values()))) == len(rows)
    assert len({colour for _, colour in claims_figure.LOOK.values()}) == len(rows)
    assert [text.get_text() for text in figure.legends[0].get_texts()][:-2] == list(rows)


def test_each_base_has_a_mark_and_they_may_disagree(tmp_path: Path) -> None:
    bases = ("mini", "Qwen3-4B-Base", "third")
    study = planted.make_tables({"profit": 0.2}, models=bases)
    found = study["evaluations"]
    worse = (found["model"] == "third") & (found["method"] == "profit")
    study["evaluations"] = found.assign(accuracy=found["accuracy"].mask(worse, 0.1))
    folder = planted.write_tables(tmp_path / "tables", study)
    claims.main(
        ["--tables", str(folder), "--published", str(PUBLISHED), "--output", str(tmp_path / "claims.json"),
         "--output-folder", str(folder), "--without-questions"]
    )  # fmt: skip
    figure = build("claims", folder)
    FigureCanvasAgg(figure).draw()
    check_texts(figure)
    first = [mark for mark in marks(figure) if mark[0] in ("o", "<")][:3]
    assert [mark[0] for mark in first] == ["o", "o", "<"] and first[0][2] > 2 > 0 > first[2][2]
    said = words(figure)
    assert "10 seeds\ndepends on base" in said and f"Bases, from the top of a row: {', '.join(bases)}." in said
    # The paper's own base has its own number, the others the mean.
    place = [line for line in figure.axes[0].lines if line.get_marker() == "D" and line.get_ydata()[0] < 1.5]
    assert sorted(float(line.get_xdata()[0]) for line in place) == pytest.approx([0.89, 2.18], abs=0.01)


def test_what_was_not_measured_is_named(tmp_path: Path) -> None:
    lacking = {"sentence": "B happens", "verdict": "not measured", **dict.fromkeys(["mean", "low", "high", "zero"])}
    measured = {"sentence": "A", "mean": 0.03, "low": 0.02, "high": 0.04}
    figure = drawn(tmp_path, measured, lacking)
    assert "Not measured: B happens." in words(figure)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["Second family", "A"]
    figure = drawn(tmp_path, lacking)
    assert not figure.axes and "Not measured: B happens." in words(figure)


def test_the_picture_keeps_the_colours_of_the_verdicts(tmp_path: Path) -> None:
    few = {"mean": 0.03, "low": 0.01, "high": 0.04}
    drawn(tmp_path, {"sentence": "A", **few}, {"sentence": "B", "verdict": "inconclusive", **few})
    draw.draw("claims", tmp_path, PUBLISHED, tmp_path / "f.pdf", tmp_path / "f.png")
    picture = Image.open(tmp_path / "f.png")
    assert picture.mode == "P" and picture.info["dpi"] == pytest.approx((200, 200), abs=0.1)
    found = {colour for _, colour in picture.convert("RGB").getcolors()}
    for word in ("replicated", "inconclusive"):
        wanted = np.array(to_rgb(claims_figure.LOOK[word][1])) * 255
        assert min(np.abs(np.array(colour) - wanted).max() for colour in found) <= 2


# Figure account


def cells(seeds: int = 3) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables account and runs of two methods; the second's core tokens rise in some seeds and fall in others."""
    rows, runs = [], []
    for name, size in (("sft", 0.4), ("profit", 0.2)):
        for seed in range(seeds):
            key = {"model": "mini", "method": name, "seed": seed}
            unsure = (-1) ** seed * 0.3 if name == "profit" else 0.01 * seed
            for part in ("trained", "held"):
                shown = {"held": 1, "trained": 100}[part]
                for label, change, tokens in (("core", size + unsure, 30), ("replaceable", -size, 70)):
                    for low, high, share in ((0.0, 1.0, 1.0), (0.0, 0.1, 0.6), (0.1, 1.0, 0.4)):
                        row = {**key, "set": part, "label": label, "low": low, "high": high, "raised": 0.25}
                        rows.append({**row, "tokens": tokens * share, "change": shown * change})
                rows.append({**rows[-1], "label": "all", "low": 0.0, "high": 1.0, "tokens": 100, "change": 0.0})
            settings = dict.fromkeys(["budget", "rank", *tables.CHANGES, "direction"])
            settings |= {"group": "main", "objective": name, "tau": 0.1, "normaliser": "all", "tuning": "full"}
            settings |= {"references": 1, "learning_rate": 1e-4, "epochs": 3, "stop": 1.0, "mix": 1.0}
            runs.append(key | settings | ({"direction": "higher"} if name == "profit" else {}))
    return pd.DataFrame(rows), pd.DataFrame(runs)


def draw_account(folder: Path, seeds: int = 3) -> Figure:
    for name, frame in zip(("account", "runs"), cells(seeds), strict=True):
        write_parquet(folder / f"{name}.parquet", frame)
    figure = build("account", folder)
    FigureCanvasAgg(figure).draw()
    check_texts(figure)
    return figure


def test_a_cell_is_the_mean_over_seeds_on_held_references(tmp_path: Path) -> None:
    figure = draw_account(tmp_path)
    sft, profit = (axes for axes in figure.axes if axes.get_title("left") in ("SFT", "ProFit (τ 0.1)"))
    printed = {
        axes: [text.get_text() for text in axes.texts if text.get_text()[0] in "+−0" and "%" not in text.get_text()]
        for axes in (sft, profit)
    }
    assert printed[sft] == ["+0.41"] * 3 + ["−0.40"] * 3 and printed[profit] == ["+0.30"] * 3 + ["−0.20"] * 3
    small = [text.get_text() for text in sft.texts if "%" in text.get_text()]
    assert small == [f"{share:.1f} %\n↑25 %" for share in (30, 18, 12, 70, 42, 28)]
    greys = {
        axes: [text.get_color() for text in axes.texts if text.get_text() == said] for axes, said in
        ((sft, "+0.41"), (profit, "+0.30"))
    }  # fmt: skip
    assert set(greys[profit]) <= set(account_figure.GREY.values()) and not set(greys[sft]) & set(greys[profit])
    colours = {axes: [patch.get_facecolor() for patch in axes.patches] for axes in (sft, profit)}
    assert colours[sft][0][2] > colours[sft][0][0] and colours[sft][3][0] > colours[sft][3][2]  # blue up, red down
    assert colours[sft][3] != colours[profit][3]
    assert "Mean of 3 seeds" in words(figure).replace("\n", " ")


def test_a_cell_of_few_tokens_has_no_colour(tmp_path: Path) -> None:
    table, runs = cells()
    rare = (table["label"] == "core") & (table["low"] == 0) & (table["high"] < 1)
    write_parquet(tmp_path / "account.parquet", table.assign(tokens=table["tokens"].mask(rare, 0.05)))
    write_parquet(tmp_path / "runs.parquet", runs)
    axes = build("account", tmp_path).axes[0]
    assert [patch.get_facecolor()[:3] == (1, 1, 1) for patch in axes.patches].count(True) == 1
    assert sum("<0.1 %" in text.get_text() for text in axes.texts) == 1


def test_the_threshold_of_raised_tokens_is_the_account_s(tmp_path: Path) -> None:
    assert account_figure.RAISED == account.THRESHOLD
    said = " ".join(words(draw_account(tmp_path, seeds=1)).split())
    assert f"rose by more than {account.THRESHOLD:g} nats" in said and "One seed, descriptive" in said
    assert not {text.get_color() for text in texts(build("account", tmp_path))} & set(account_figure.GREY.values())
