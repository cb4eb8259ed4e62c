"""Every figure drawn from made-up tables: what it shows, that nothing is clipped or printed over, and equal bytes."""

import importlib
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic_results as made
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from profit import claims, draw, tabulate
from profit.figures import style, tables
from profit.files import InputError, write_parquet

# The map of cells has a table and tests of its own.
FIGURES = [name for name in draw.FIGURES if name != "phase"]
MODELS = ["Qwen3-0.6B-Base", "Qwen3-4B-Base", "OLMo-2-7B", "Qwen2.5-0.5B-Instruct"]
# What needs labels, or a sweep that real models cannot have.
NOT_BARE = {"fig3_probability", "fig11_coloured", "learning_rate"}
PUBLISHED = Path(__file__).resolve().parent.parent / "results" / "published"


def tabulated(folder: Path, study: dict[str, Any], questions: int = 10) -> Path:
    made.write_results(folder, study, questions=questions)
    tables = tabulate.tabulate(folder, PUBLISHED, made.listed_study(study))
    for name, frame in tables.items():
        write_parquet(folder / "tables" / f"{name}.parquet", frame)
    judge = ["--tables", str(folder / "tables"), "--output-folder", str(folder / "tables")]
    claims.main([*judge, "--published", str(PUBLISHED), "--output", str(folder / "claims.json")])
    if "tune" in study:
        made.write_results(folder / "tune", study, questions=questions, tune=True)
        tune = tabulate.tune_table(folder / "tune", made.listed_study(study, tune=True))
        write_parquet(folder / "tables" / "tune.parquet", tune)
    return folder / "tables"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of a whole study."""
    return tabulated(tmp_path_factory.mktemp("whole"), made.rated_study(made.full_study(seeds=5), 3))


@pytest.fixture(scope="module")
def one_seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of a study as small as the smoke one: one seed, few methods, a sweep of each kind."""
    return tabulated(tmp_path_factory.mktemp("one"), made.rated_study(made.one_seed_study(), 1), questions=4)


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of a study with the paper's models, tables and sweeps, of some models alone."""
    study = made.paper_study(2, MODELS)
    judge = {"model": "judge", "base_url": "https://example.org/v1"}
    study["analysis"] = {"annotators": ["agreement", "llm"], "judge": judge, "gradients": {}}
    study["analysis"] |= {"drift": ["sft", "profit"], "account": ["sft", "profit"]}
    study["analysis"]["answer_style"] = ["vanilla", "sft", "profit"]
    return tabulated(tmp_path_factory.mktemp("paper"), study, questions=4)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same at one seed without labels, without vanilla, and with SFT alone on most models."""
    study = made.paper_study(1, MODELS[:2])
    study["analysis"] = {"annotators": [], "gradients": {}, "drift": ["sft", "profit"]}
    study["tables"] = {"general": {"benchmarks": made.GENERAL}, "table1": {"benchmarks": made.REASONING}}
    del study["methods"]["vanilla"]
    for name in ("entropy", "dft", "profit", "profit_0.5", "keep_low"):
        study["methods"][name]["models"] = [made.QWEN[1]]
    study["sweeps"]["epochs"]["models"] = [made.QWEN[1]]
    study["analysis"]["answer_style"] = ["sft", "profit"]
    study["analysis"]["account"] = ["sft"]
    return tabulated(tmp_path_factory.mktemp("bare"), study, questions=4)


@pytest.fixture(scope="module")
def drawn(folder: Path) -> dict[str, Figure]:
    """All figures of the whole study, laid out."""
    return {name: lay_out(name, folder) for name in FIGURES}


def build(name: str, folder: Path) -> Figure:
    style.apply()
    return importlib.import_module(f"profit.figures.{name}").draw(folder, PUBLISHED)


def lay_out(name: str, folder: Path) -> Figure:
    figure = build(name, folder)
    FigureCanvasAgg(figure).draw()
    return figure


def texts(figure: Figure) -> list[Text]:
    """Texts that are printed."""
    found = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    hidden = [
        axis for axes in figure.findobj(lambda artist: hasattr(artist, "xaxis")) for axis in (axes.xaxis, axes.yaxis)
    ]
    unseen = {id(text) for axis in hidden for text in axis.findobj(Text) if not shown(text, axis)}
    return [text for text in found if id(text) not in unseen]


def shown(text: Text, axis: Any) -> bool:
    """Whether a text of an axis is drawn: not one of a tick beyond the limits or of axes switched off."""
    if not axis.axes.axison:
        return False
    ticks = {id(label): tick for tick in axis.get_major_ticks() for label in (tick.label1, tick.label2)}
    tick = ticks.get(id(text))
    low, high = sorted(axis.get_view_interval())
    return tick is None or (low - 1e-9 <= tick.get_loc() <= high + 1e-9)


def words(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in texts(figure))


def check_texts(figure: Figure) -> None:
    """No text is too small, leaves the page or is printed over another."""
    page, boxes = figure.bbox, []
    for text in texts(figure):
        assert text.get_fontsize() >= style.SMALL, text
        box = text.get_window_extent()
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= page.x1 + 1 and box.y1 <= page.y1 + 1
        assert inside, f"{text.get_text()!r} leaves the page: {box}"
        boxes.append((text.get_text(), box.padded(-1)))
    for (first, a), (second, b) in itertools.combinations(boxes, 2):
        assert not a.overlaps(b), f"{first!r} is printed over {second!r}"


@pytest.mark.parametrize("name", FIGURES)
def test_text_is_readable_inside_the_page_and_apart(name: str, drawn: dict[str, Figure]) -> None:
    width, height = drawn[name].get_size_inches()
    assert width in (style.COLUMN, style.PAGE) and height < 9
    check_texts(drawn[name])


@pytest.mark.parametrize("name", [name for name in FIGURES if name != "learning_rate"])
def test_the_paper_s_own_study_is_readable(name: str, paper: Path) -> None:
    figure = lay_out(name, paper)
    check_texts(figure)
    swept = {
        "claims": [],  # its bases share the rows
        "fig2_multi_reference": made.QWEN[1:2],
        "fig4_threshold": made.QWEN[1:2],
        "fig5_lora_rank": made.QWEN[1:2],
        "fig6_epochs": made.QWEN[:2],
    }
    named = [line for line in words(figure).split("\n") if line in MODELS]
    assert set(named) == set(swept.get(name, MODELS))


@pytest.mark.parametrize("name", sorted(set(FIGURES) - NOT_BARE))
def test_a_study_without_labels_vanilla_and_most_methods_is_drawn(name: str, bare: Path) -> None:
    figure = lay_out(name, bare)
    check_texts(figure)
    said = words(figure)
    if name == "kept_share":
        assert "no labels" in said and "Core tokens" not in said
    if name == "fig2_multi_reference":
        assert "Overfit, all tokens" in said and "MMLU-Pro\nhistory" in said
    if name == "fig6_epochs":
        assert "Vanilla" not in said
    if name == "gradient_share":
        assert "Core" not in said
    if name == "answer_style":
        assert "Tokens an answer" in said and not any(word in said for word in ("Rare", "Dashed", "dotted"))


@pytest.mark.parametrize("name", ["fig4_threshold", "fig11_coloured"])
def test_files_are_written_and_equal_the_second_time(name: str, folder: Path, tmp_path: Path) -> None:
    contents = []
    for attempt in ("first", "second"):
        pdf, png = tmp_path / attempt / "f.pdf", tmp_path / attempt / "f.png"
        arguments = ["--figure", name, "--tables", str(folder), "--published", str(PUBLISHED)]
        draw.main([*arguments, "--output-pdf", str(pdf), "--output-png", str(png)])
        contents.append((pdf.read_bytes(), png.read_bytes()))
    assert contents[0] == contents[1]
    assert contents[0][0].startswith(b"%PDF") and contents[0][1].startswith(b"\x89PNG")
    assert b"CreationDate" not in contents[0][0]


@pytest.mark.parametrize("name", FIGURES)
def test_one_seed_is_called_descriptive_and_has_no_interval(name: str, one_seed: Path) -> None:
    said = words(build(name, one_seed)).lower()
    if name in ("fig3_probability", "fig11_coloured", "gradient_share"):  # no seeds in them
        return
    assert "descriptive" in said
    if name not in ("table1_main", "claims"):  # those over prompts
        assert "interval" not in said


def test_sweeps_of_one_seed_and_the_number_of_seeds_are_named(drawn: dict[str, Figure]) -> None:
    for name in ("fig4_threshold", "fig5_lora_rank", "fig6_epochs"):
        assert "one seed, descriptive" in words(drawn[name]).lower()
    assert "mean of 3-5 seeds" in words(drawn["fig2_multi_reference"])
    assert "Overfit: mean of 3 seeds" in words(drawn["fig2_multi_reference"])
    assert "Mean of 3-5 seeds, bands: 95 % t interval" in words(drawn["kept_share"])
    assert "Labels: truth" in words(drawn["kept_share"])


def test_bars_of_figure_2_are_the_means_of_table_main(drawn: dict[str, Figure], folder: Path) -> None:
    main = pd.read_parquet(folder / "main.parquet").set_index(["method", "benchmark"])["mean"]
    axes = drawn["fig2_multi_reference"].axes[0]
    names = [*made.BENCHMARKS, "average"]
    for bars, method in zip(axes.containers[::2], ["vanilla", "sft", "sft_3ref", "profit"], strict=True):
        heights = [bar.get_height() for bar in bars]
        assert heights == pytest.approx([100 * main[method, name] for name in names])


def test_figure_2_shows_published_values_only_where_there_are_some(drawn: dict[str, Figure]) -> None:
    paper = next(axes for axes in drawn["fig2_multi_reference"].axes if axes.get_title("left").startswith("Published"))
    heights = np.array([[bar.get_height() for bar in bars] for bars in paper.containers])
    assert heights[1].tolist() == [55.43, 74.80, 34.15, 11.25, 31.33, 41.39]
    assert np.isnan(heights[2]).tolist() == [True, True, False, True, True, True] and heights[2][2] == 33.5
    assert not any(bar.get_fill() for bars in paper.containers for bar in bars)


def test_figure_2_tells_the_arms_of_the_overfitting_apart(drawn: dict[str, Figure], tmp_path: Path) -> None:
    folder = tabulated(tmp_path, made.arms_study(), questions=4)
    figure = lay_out("fig2_multi_reference", folder)
    check_texts(figure)
    overfit = pd.read_parquet(folder / "overfit.parquet").query("part == 'core'")
    mean = overfit.groupby(["model", "method"])["overfit"].mean()
    axes = next(axes for axes in figure.axes if axes.get_title("left") == "Overfit, core tokens")
    lines = {line.get_label(): line for line in axes.lines}
    one = ("mini", "sft")
    expected = {
        "K references, equal steps": [one, ("mini", "sft_2ref_steps"), ("mini", "sft_3ref_steps")],
        "K references, equal epochs": [one, ("mini", "sft_2ref"), ("mini", "sft_3ref")],
        "1 reference, K× as long": [one, ("mini", "sft_1ref_2x"), ("mini", "sft_1ref_3x")],
        "1 reference, K× the prompts": [("more", "sft")],
    }
    assert list(lines) == list(expected)
    for name, runs in expected.items():
        assert lines[name].get_ydata() == pytest.approx(mean[runs].to_numpy())
        assert np.round(lines[name].get_xdata()).tolist() == ([1, 2, 3] if len(runs) > 1 else [2])
    assert lines["1 reference, K× the prompts"].get_linestyle() == "None"
    assert not any("1 reference" in words(drawn[name]) for name in drawn)
    # An arm is no base: no other figure has a block of it.
    for name in ("table1_main", "kept_share", "fig3_probability", "fig11_coloured", "gradient_share"):
        assert "mini" not in words(build(name, folder)).split("\n"), name


def test_table_1_prints_the_paper_s_row_below_the_same_model_and_method(paper: Path) -> None:
    lines: dict[float, list[Text]] = {}
    for text in texts(lay_out("table1_main", paper)):
        lines.setdefault(round(text.get_position()[1], 3), []).append(text)
    rows = [sorted(lines[y], key=lambda text: text.get_position()[0]) for y in sorted(lines)]
    printed = [[text.get_text() for text in row] for row in rows]
    start = printed.index(["Table 3"])
    model = printed.index(["Qwen3-4B-Base"], start)
    place = next(number for number in range(model, len(printed)) if printed[number][0] == "ProFit (τ 0.1)")
    assert printed[place + 1] == ["ProFit (paper)", "1", "72.2", "91.2", "80.8", "44.6", "61.0", "70.0", "−0.9"]
    assert {text.get_color() for text in rows[place + 1]} == {"#555555"}
    # OLMo has no DFT here: the paper's row stands alone.
    model = printed.index(["OLMo-2-7B"])
    named = [row[0] for row in printed[model + 1 : printed.index(["Table 2"])]]
    assert named[-1] == "DFT (paper)" and "DFT" not in named and named.count("SFT (paper)") == 1


def test_figure_6_marks_the_published_values_on_the_paper_s_benchmarks(drawn: dict[str, Figure], paper: Path) -> None:
    axes = lay_out("fig6_epochs", paper).axes[0]
    triangle = next(line for line in axes.lines if line.get_marker() == "v")
    assert (list(triangle.get_xdata()), list(triangle.get_ydata())) == ([1], [60.1])
    assert [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == ":"] == [54.9]
    assert not any(line.get_marker() == "v" for line in drawn["fig6_epochs"].axes[0].lines)


def test_figures_average_over_the_first_table_of_a_model(paper: Path) -> None:
    found = pd.read_parquet(paper / "evaluations.parquet").query("method == 'profit' and seed == 0")
    found = found[(found["model"] == "Qwen3-4B-Base") & found["benchmark"].isin(made.REASONING)]
    axes = lay_out("fig4_threshold", paper).axes[0]
    line = next(line for line in axes.lines if line.get_label() == "Average")
    assert line.get_ydata()[0] == pytest.approx(100 * found["accuracy"].mean())
    names = [line.get_label() for line in axes.lines if not line.get_label().startswith("_")]
    assert names == ["GPQA-D", "GSM8K", "MATH-500", "AIME'24", "IFEval", "Average"]


def test_figure_11_prints_formulas_and_long_texts(folder: Path, tmp_path: Path) -> None:
    tokens = pd.read_parquet(folder / "coloured.parquet")
    tokens["prompt"] = "Find $x^2$ for \\frac{a$ and\n" + "so on " * 400
    long = pd.concat([tokens.assign(position=tokens["position"] + 100 * k) for k in range(30)], ignore_index=True)
    write_parquet(tmp_path / "coloured.parquet", long.replace({"token": {"gather": "$y_$", "Mia": "↵"}}))
    figure = lay_out("fig11_coloured", tmp_path)
    check_texts(figure)
    said = words(figure)
    assert "Find $x^2$ for" in said and "$y_$" in said and " …" in said and "its first 12 lines" in said
    assert figure.get_size_inches()[1] < 5


def test_figure_4_rests_on_the_seeds_that_every_threshold_has(drawn: dict[str, Figure], folder: Path) -> None:
    found = pd.read_parquet(folder / "evaluations.parquet")
    first = found[(found["method"] == "profit") & (found["seed"] == 0) & (found["benchmark"] == "longer")]
    axes = drawn["fig4_threshold"].axes[0]
    line = next(line for line in axes.lines if line.get_label() == "Longer")
    assert list(line.get_xdata()) == [0.1, 0.3, 0.5, 0.7, 0.9]
    assert line.get_ydata()[0] == pytest.approx(100 * first["accuracy"].item())
    sft = found[(found["method"] == "sft") & (found["seed"] == 0) & (found["benchmark"] == "longer")]
    dashed = [line for line in axes.lines if line.get_linestyle() == "--" and line.get_color() == "#E69F00"]
    assert dashed[0].get_ydata()[0] == pytest.approx(100 * sft["accuracy"].item())


def test_one_colour_a_method_in_every_figure(drawn: dict[str, Figure]) -> None:
    assert len(set(style.COLOURS.values())) == len(style.COLOURS) == len(set(style.MARKERS.values()))
    seen: dict[str, set[str]] = {}
    for name in ("fig5_lora_rank", "fig6_epochs", "kept_share"):
        for axes in drawn[name].axes:
            for line in axes.lines:
                seen.setdefault(str(line.get_label()).split(" (")[0], set()).add(to_hex(line.get_color()).upper())
    for kind in ("sft", "profit", "keep_low", "entropy"):
        assert seen[style.LABELS[kind]] == {style.COLOURS[kind]}


def test_table_1_prints_bold_only_what_is_highest_and_surely_above_sft(folder: Path, tmp_path: Path) -> None:
    main = pd.read_parquet(folder / "main.parquet")
    chosen = main["method"].eq("dft") & main["benchmark"].isin(["longer", "choice"])
    main.loc[chosen, ["mean", "low", "high"]] = [0.991, 0.985, 0.997]
    main.loc[chosen, "difference_low"] = np.where(main.loc[chosen, "benchmark"] == "longer", 0.01, -0.01)
    main.loc[~chosen, "difference_low"] = -0.02
    write_parquet(tmp_path / "main.parquet", main)
    write_parquet(tmp_path / "runs.parquet", pd.read_parquet(folder / "runs.parquet"))
    figure = build("table1_main", tmp_path)
    bold = [text.get_text() for text in texts(figure) if text.get_fontweight() == "bold"]
    assert sorted(bold) == ["99.1", "kept", "learnt"]
    assert sum(text.get_text() == "99.1" for text in texts(figure)) == 2


def test_figure_3_prints_the_summary(drawn: dict[str, Figure], folder: Path) -> None:
    row = pd.read_parquet(folder / "correlation.parquet").iloc[0]
    title = drawn["fig3_probability"].axes[0].get_title("left")
    assert f"core {row['probability_core_mean']:.3f}, replaceable {row['probability_replaceable_mean']:.3f}" in title
    assert f"AUC {row['effect_auc']:.3f}" in title
    hollow = [line.get_xdata()[0] for line in drawn["fig3_probability"].axes[0].lines if line.get_marker() == "v"]
    assert hollow == [0.768, 0.485]


def test_bars_of_gradient_share_are_those_of_table_gradients(drawn: dict[str, Figure], folder: Path) -> None:
    groups = pd.read_parquet(folder / "gradients.parquet").query("not (low == 0 and high == 1)")
    axes = drawn["gradient_share"].axes[0]
    bars = [[bar.get_height() for bar in container] for container in axes.containers]
    for place, column in ((0, "token_share"), (3, "share")):
        values = 100 * groups.pivot(index="low", columns="label", values=column)
        assert bars[place] == pytest.approx(values["core"].tolist())
        assert bars[place + 1] == pytest.approx(values["replaceable"].tolist())
        assert np.sum(bars[place : place + 3], axis=0) == pytest.approx(values["all"].tolist())
        # Each bar starts where the one below ends, on its own side of zero.
        for container in axes.containers[place : place + 3]:
            for number, bar in enumerate(container):
                below = [own[number] for own in axes.containers[place : axes.containers.index(container)]]
                same = [each.get_height() for each in below if each.get_height() * bar.get_height() > 0]
                assert bar.get_y() == pytest.approx(sum(same))
    (points,) = [line for line in axes.lines if line.get_marker() == "o"]
    whole = groups.query("label == 'all'")
    assert points.get_ydata() == pytest.approx(100 * whole["share"].to_numpy())
    assert f"×{whole['ratio'].iloc[0]:.2g}" in words(drawn["gradient_share"])


def test_lines_of_learning_rate_are_the_means_at_each_rate_ringed_where_tune_chose(
    drawn: dict[str, Figure], folder: Path
) -> None:
    found, tune = (pd.read_parquet(folder / f"{name}.parquet") for name in ("evaluations", "tune"))
    found = found[(found["checkpoint"] == "final") & (found["seed"] < 3)]
    wide = 100 * found.pivot_table(index="method", columns="benchmark", values="accuracy")
    expected = {"Average": wide.mean(axis=1), "Learnt": wide["same_length"]}
    expected["Kept"] = wide.drop(columns="same_length").mean(axis=1)
    best = tune[tune["chosen"]].groupby("tuned")["learning_rate"].first()
    rates = [3e-5, 1e-4, 3e-4]
    panels = {axes.get_title("left"): axes for axes in drawn["learning_rate"].axes}
    assert list(panels) == list(expected)
    for title, axes in panels.items():
        lines = {line.get_label(): line for line in axes.lines}
        rings = [(line.get_color(), *line.get_ydata()) for line in axes.lines if line.get_markersize() > 6]
        assert len(rings) == 3
        for label, method in (("SFT", "sft"), ("SFT, 3 references", "sft_3ref"), ("ProFit (τ 0.1)", "profit")):
            names = [f"{method}_lr3e-05", method, f"{method}_lr0.0003"]
            assert lines[label].get_ydata() == pytest.approx(expected[title][names].to_numpy())
            assert lines[label].get_xdata() == pytest.approx(rates, rel=0.1)
            chosen = expected[title][names[rates.index(best[method])]]
            assert (lines[label].get_color(), pytest.approx(chosen)) in rings
        assert lines["Vanilla"].get_ydata()[0] == pytest.approx(expected[title]["vanilla"])
        assert [text.get_text() for text in axes.get_xticklabels()] == ["3e-5", "1e-4", "3e-4"]


def test_points_of_answer_style_are_those_of_its_table(drawn: dict[str, Figure], folder: Path) -> None:
    found = pd.read_parquet(folder / "answer_style.parquet")
    runs = found[found["method"] != "references"]
    panels = drawn["answer_style"].axes
    assert [text.get_text() for text in panels[0].get_yticklabels()] == ["Vanilla", "SFT", "ProFit (τ 0.1)"]
    values = [100 * runs[runs["benchmark"] == "all"].groupby("method")["rare"].mean()]
    means = runs[runs["benchmark"] != "all"].groupby("method")[["tokens_mean", "cut", "pair_distance"]].mean()
    values += [means["tokens_mean"], 100 * means["cut"], means["pair_distance"]]
    for axes, expected in zip(panels, values, strict=True):
        points = {line.get_ydata()[0]: line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 1}
        assert points == pytest.approx(dict(enumerate(expected[["vanilla", "sft", "profit"]])))
        dashed = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"]
        assert dashed == [pytest.approx(expected["vanilla"])]
    dotted = [line.get_xdata()[0] for axes in panels for line in axes.lines if line.get_linestyle() == ":"]
    assert dotted == [pytest.approx(100 * found.loc[found["method"] == "references", "rare"].item())]


def test_controls_stand_in_table_1_alone_under_names_of_their_own(tmp_path: Path) -> None:
    folder = tabulated(tmp_path, made.controlled_study(), questions=4)
    figure = lay_out("table1_main", folder)
    check_texts(figure)
    said = " ".join(words(figure).split())
    for name in (
        "SFT (update norm of ProFit)", "SFT, stopped at 0.5", "SFT, mixed 0.5", "Random mask (fixed)",
        "ProFit (base's mask)", "Core mask", "Replaceable mask", "profit stopped",
    ):  # fmt: skip
        assert said.count(name) == 1
    runs = tables.load_runs(folder).drop_duplicates("method").set_index("method")["kind"]
    assert runs["sft"] == "sft" and runs["profit"] == "profit" and runs["profit_stopped"] == "profit_stopped"
    assert set(tables.CONTROLS) <= set(runs) and set(tables.KINDS) <= set(style.LABELS) == set(style.COLOURS)
    for name in ("fig2_multi_reference", "fig4_threshold", "fig5_lora_rank", "fig6_epochs", "kept_share"):
        said = words(lay_out(name, folder))
        assert not any(
            word in said.lower() for word in ("stopped", "mixed", "update norm", "fixed)", "base's", "mask)")
        )
    # Full tuning in Figure 5 is plain SFT.
    found = pd.read_parquet(folder / "evaluations.parquet").query("method == 'sft' and seed == 0")
    levels = [line.get_ydata()[0] for line in lay_out("fig5_lora_rank", folder).axes[0].lines]
    assert any(level == pytest.approx(100 * found["accuracy"].mean()) for level in levels)


def test_methods_of_one_name_are_told_apart_by_their_rate_or_their_own_name() -> None:
    rows = {
        "sft": ("sft", 3e-4), "sft_slow": ("sft", 1e-4), "sft_slow_again": ("sft", 1e-4), "sft_other": ("sft", 3e-4),
        "profit": ("profit", 1e-4), "mine_2": ("mine", 1e-4),
    }  # fmt: skip
    runs = [
        pd.Series({"method": name, "kind": kind, "learning_rate": rate, "tau": 0.1, "references": 1, "stop": 1.0,
                   "mix": 1.0, "paired_with": None})
        for name, (kind, rate) in rows.items()
    ]  # fmt: skip
    assert style.labels(runs, tau=True) == [
        "SFT", "SFT at 1e-4", "sft slow again", "sft other", "ProFit (τ 0.1)", "mine 2",
    ]  # fmt: skip


def test_several_models_get_a_block_each(drawn: dict[str, Figure], folder: Path, tmp_path: Path) -> None:
    for path in folder.glob("*.parquet"):
        frame = pd.read_parquet(path)
        # The other is a base of its own.
        changes = dict.fromkeys({"model", "base"} & set(frame), "other")
        write_parquet(tmp_path / path.name, pd.concat([frame, frame.assign(**changes)], ignore_index=True))
    for name in FIGURES:
        figure = build(name, tmp_path)
        if name == "claims":  # its bases share the rows
            continue
        assert {"mini", "other"} <= set(words(figure).split("\n")), name
        assert figure.get_size_inches()[1] > 1.5 * drawn[name].get_size_inches()[1]


@pytest.mark.parametrize(
    ("name", "table"),
    [("fig4_threshold", "evaluations"), ("fig3_probability", "densities"), ("kept_share", "steps")],
)
def test_missing_tables_and_columns_are_named(name: str, table: str, folder: Path, tmp_path: Path) -> None:
    for path in folder.glob("*.parquet"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    frame = pd.read_parquet(tmp_path / f"{table}.parquet")
    outputs = tmp_path / "f.pdf", tmp_path / "f.png"
    write_parquet(tmp_path / f"{table}.parquet", frame.drop(columns="model"))
    with pytest.raises(InputError, match=f"{table}.parquet.*model"):
        draw.draw(name, tmp_path, PUBLISHED, *outputs)
    write_parquet(tmp_path / f"{table}.parquet", frame.head(0))
    with pytest.raises(InputError, match=f"{table}.parquet.*no rows"):
        draw.draw(name, tmp_path, PUBLISHED, *outputs)
    (tmp_path / f"{table}.parquet").unlink()
    with pytest.raises(InputError, match=f"{table}.parquet.*not found"):
        draw.draw(name, tmp_path, PUBLISHED, *outputs)
    assert not any(path.exists() for path in outputs)


def test_a_study_without_sweeps_is_told_so(folder: Path, tmp_path: Path) -> None:
    runs = pd.read_parquet(folder / "runs.parquet")
    found = pd.read_parquet(folder / "evaluations.parquet")
    plain = runs[runs["group"].eq("main") & ~runs["objective"].eq("profit")]
    write_parquet(tmp_path / "runs.parquet", plain)
    write_parquet(tmp_path / "evaluations.parquet", found[found["method"].isin(plain["method"])])
    write_parquet(tmp_path / "main.parquet", pd.read_parquet(folder / "main.parquet"))
    for name in ("fig4_threshold", "fig5_lora_rank", "fig6_epochs"):
        with pytest.raises(InputError, match="table runs: found no"):
            draw.draw(name, tmp_path, PUBLISHED, tmp_path / "f.pdf", tmp_path / "f.png")


def test_only_the_module_of_the_figure_is_imported(folder: Path, tmp_path: Path) -> None:
    arguments = ["--figure", "fig5_lora_rank", "--tables", str(folder), "--published", str(PUBLISHED)]
    arguments += ["--output-pdf", str(tmp_path / "f.pdf"), "--output-png", str(tmp_path / "f.png")]
    script = f"import sys; from profit.draw import main; main({arguments!r}); print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PUBLISHED.parents[1]
    )
    loaded = done.stdout.split()
    figures = [
        name
        for name in loaded
        if name.startswith(("profit.figures.fig", "profit.figures.kept", "profit.figures.table1"))
    ]
    assert figures == ["profit.figures.fig5_lora_rank"]
    assert not {"matplotlib.pyplot", "torch", "transformers"} & set(loaded)


def test_figure_2_without_a_table_of_overfit(folder: Path, tmp_path: Path) -> None:
    for path in folder.glob("*.parquet"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "overfit.parquet").unlink()
    figure = lay_out("fig2_multi_reference", tmp_path)
    check_texts(figure)
    assert [axes.get_title("left") for axes in figure.axes] == [
        "Accuracy by benchmark, this study",
        "Published, Qwen3-4B-Base",
    ]
    assert "Overfit" not in words(figure) and figure.axes[0].get_xlim() == figure.axes[1].get_xlim()
