"""Rule `claims`: the claims of the paper, one entry each, judged from the tidy tables of a study.

A claim is a sentence of the paper with its place, an estimator (profit.estimators), controls (profit.controls), and
the smallest effect that would matter, with the reason. The verdict's rule is profit.verdicts, with two families:
{ProFit above SFT on average, ProFit on one reference above SFT on three}, and the rest. What the calibration of a made
world fixes has no verdict but `by construction`; what a study lacks is listed as `not measured`.

Written: claims.json, one record a claim and model; tables claims (one row a part) and power; claims.md, which a person
reads first; table1_main.md, the main tables and below them what differences the study could find.

    python -m profit claims --tables results/miniature/tables --published results/published
        --output results/miniature/claims.json --output-folder results/miniature/tables
"""

import argparse
import logging
from pathlib import Path

from profit import claims_published as paper
from profit import controls, estimators, own_rate, provenance, summary, verdict_table
from profit.claim_power import power_table, study_power
from profit.claim_tables import load_bases
from profit.claim_verdicts import FIRST, Claim, claim_rows, collapsed, judge, over_all
from profit.files import atomic_path, read_parquet, write_csv, write_json, write_parquet

log = logging.getLogger(__name__)

NONE = "0, since the margin says what would be too much"
ON_AVERAGE = "mean accuracy over the benchmarks"
OWN_RATE = "each at its own best learning rate"
CLAIMS = (
    Claim(
        "profit_over_sft",
        "ProFit beats SFT on average",
        "Table 1",
        estimators.profit_over(lambda base: base.sft),
        f"{ON_AVERAGE}: ProFit - SFT",
        "masks that keep as many tokens without looking at their probability; SFT in ProFit's update norm, at other "
        f"learning rates, or as far from the base as ProFit: a masked sum is also a smaller step; {OWN_RATE}",
        paper.lead("sft"),
        "table1_main",
        family=FIRST,
        controls=controls.of_profit,
    ),
    Claim(
        "profit_over_three",
        "ProFit on one reference beats SFT on three",
        "§3.2, Figure 2",
        estimators.profit_over(estimators.three),
        f"{ON_AVERAGE}: ProFit on one reference - SFT on three, equal epochs",
        f"SFT on other numbers of references, at equal steps, and on one for as many steps; {OWN_RATE}",
        paper.profit_over_three,
        "fig2_multi_reference",
        family=FIRST,
        controls=controls.of_three,
    ),
    Claim(
        "profit_over_sft_each",
        "ProFit beats SFT on each benchmark",
        "Table 1",
        estimators.on_each,
        "accuracy on each benchmark: ProFit - SFT",
        "those of the average",
        paper.on_each,
        "table1_main",
    ),
    Claim(
        "profit_over_entropy",
        "ProFit beats entropy-based tuning",
        "Table 1",
        estimators.profit_over(lambda base: estimators.method(base, "entropy")),
        f"{ON_AVERAGE}: ProFit - Entropy",
        OWN_RATE,
        paper.lead("entropy", tables=("table1",)),
        "table1_main",
        controls=own_rate.parts("ProFit", "entropy"),
    ),
    Claim(
        "profit_over_dft",
        "ProFit beats DFT",
        "Table 1",
        estimators.profit_over(lambda base: estimators.method(base, "dft")),
        f"{ON_AVERAGE}: ProFit - DFT",
        OWN_RATE,
        paper.lead("dft"),
        "table1_main",
        controls=own_rate.parts("ProFit", "DFT"),
    ),
    Claim(
        "profit_over_base",
        "ProFit improves on the base",
        "Table 1",
        estimators.profit_over(estimators.vanilla),
        f"{ON_AVERAGE}: ProFit - the base itself",
        "SFT - the base",
        paper.lead("vanilla"),
        "table1_main",
        controls=controls.of_base,
    ),
    Claim(
        "keep_high",
        "Keeping p > tau beats SFT at every tau",
        "§6.1, Figure 4",
        estimators.thresholds("profit", 1),
        f"{ON_AVERAGE} at each tau: ProFit - SFT",
        "those of ProFit on average",
        paper.thresholds("profit"),
        "fig4_threshold",
    ),
    Claim(
        "keep_low",
        "Keeping p <= tau falls below SFT",
        "§6.1, Figure 4",
        estimators.keep_low,
        f"{ON_AVERAGE}: SFT - keep low, at ProFit's tau",
        f"the other thresholds; {OWN_RATE}",
        paper.thresholds("keep_low"),
        "fig4_threshold",
        controls=controls.of_keep_low,
    ),
    Claim(
        "lora_ranks",
        "ProFit beats SFT at every LoRA rank",
        "§6.2, Figure 5",
        estimators.ranks,
        f"{ON_AVERAGE} at each rank: ProFit - SFT, both by LoRA",
        "none",
        paper.unstated,
        "fig5_lora_rank",
    ),
    Claim(
        "epochs",
        "ProFit beats SFT at every epoch",
        "§6.3, Figure 6",
        estimators.epochs,
        f"{ON_AVERAGE} after each epoch: ProFit - SFT",
        "none",
        paper.epochs,
        "fig6_epochs",
    ),
    Claim(
        "general_tasks",
        "ProFit beats SFT on general tasks",
        "§6.6, Table 3",
        estimators.general,
        "mean accuracy over the benchmarks of the model's second table: ProFit - SFT",
        "none",
        paper.lead("sft", tables=("table3",)),
        "table1_main",
        note="The paper's own 4B model falls",
    ),
    Claim(
        "cost",
        "ProFit costs no more than SFT",
        "Figure 1",
        estimators.cost,
        f"seconds of training over SFT's, by steps trained in turn (whole runs where a study times none); at most "
        f"{estimators.RATIO} (non-inferiority)",
        "whole runs, trained one after another: seconds of the processor and of the clock, peak memory",
        paper.unstated,
        None,
        0.0,
        NONE,
        "ratio",
        controls=controls.of_cost,
    ),
    Claim(
        "profit_overfits_less",
        "ProFit overfits less than SFT",
        "Abstract",
        estimators.profit_overfit,
        "overfitting [NLL(held) - NLL(trained)] of the references less the base's own, core tokens: fall as a share "
        "of SFT's",
        "against unseen prompts; the other objectives; all on core tokens alone, since a mask that hides replaceable "
        "ones fits them less anyway",
        paper.unstated,
        "fig2_multi_reference",
        0.1,
        "a tenth of SFT's overfitting",
        "share",
        controls=controls.of_profit_overfit,
    ),
    Claim(
        "references_overfit",
        "Several references reduce overfitting",
        "Abstract, §3.2",
        estimators.several_overfit,
        "overfitting [NLL(held) - NLL(trained)] of the references less the base's own, core and replaceable tokens "
        "apart: fall from one to three references at equal epochs, as a share of that on one",
        "equal steps, other numbers of references, one for as many steps (longer, or more prompts), against unseen "
        "prompts",
        paper.unstated,
        "fig2_multi_reference",
        0.1,
        "a tenth of the overfitting on one reference",
        "share",
        controls=controls.of_several_overfit,
    ),
    Claim(
        "references_accuracy",
        "Several references improve accuracy",
        "§3.2, Figure 2",
        estimators.several_accuracy,
        f"{ON_AVERAGE}: SFT on three references - on one, equal epochs",
        f"equal steps, other numbers of references, one for as many steps (longer, or more prompts); {OWN_RATE}",
        paper.three_references,
        "fig2_multi_reference",
        controls=controls.of_several_accuracy,
        note="The paper's own number falls",
    ),
    Claim(
        "references_cost",
        "K references cost K times as much",
        "Abstract, §3.2",
        estimators.several_cost,
        f"seconds of training on three references over those on one, over three, by steps trained in turn (whole runs "
        f"where a study times none); {1 - estimators.MARGIN:g} to {1 + estimators.MARGIN:g} (equivalence)",
        "none; what the answers themselves cost is not counted",
        paper.unstated,
        None,
        0.0,
        NONE,
        "ratio",
    ),
    Claim(
        "core_more_probable",
        "Core tokens are more probable than trivial ones",
        "§4.1, Figure 3",
        estimators.core_more_probable,
        "mean probability under the base, core - replaceable",
        "labels of another annotator",
        paper.core,
        "fig3_probability",
        0.05,
        "0.05, a sixth of the paper's difference",
        "probability",
        controls=controls.of_core,
        counted="prompts",
        calibrated=True,
    ),
    Claim(
        "low_are_trivial",
        "Low-probability tokens are mostly trivial",
        "§4.1, Figure 3",
        estimators.low_are_trivial,
        f"share of replaceable tokens among the core and replaceable ones up to {estimators.LOW}, against one half",
        "labels of another annotator",
        paper.unstated,
        "fig3_probability",
        0.05,
        "0.05 above the half that `mostly` starts at",
        "share",
        controls=controls.of_low,
        counted="prompts",
        calibrated=True,
    ),
    Claim(
        "theorem_bound",
        "The gradient of a token is no shorter than gamma (1 - p)",
        "§4.2, Theorem 1 (i)",
        estimators.norm_bound,
        "norm of the gradient of single tokens against the bound; one token below it refutes",
        "the head factor, gamma's largest value, is known exactly (profit.jacobian)",
        paper.unstated,
        None,
        0.0,
        "0, since a theorem has no exception",
        "exceptions",
        counted="tokens",
    ),
    Claim(
        "theorem_share",
        "Improbable tokens dominate the gradient",
        "§4.2, Theorem 1 (ii)",
        estimators.lowest_bin,
        f"share of the tokens below {estimators.LOW} in the batch gradient, <g, G> / |G|^2, over that of the tokens",
        "the other bins of probability",
        paper.unstated,
        "gradient_share",
        1.0,
        "twice their share, less is no dominance",
        "ratio",
        controls=controls.of_gradients,
        counted="prompts",
    ),
    Claim(
        "reinforcement",
        "ProFit is the better start of reinforcement learning",
        "§6.4, Figure 7",
        estimators.reinforcement,
        "none",
        "none; the paper compares with no start from SFT",
        paper.reinforcement,
        None,
    ),
)


def make_parser() -> argparse.ArgumentParser:
    """The command line of this rule."""
    parser = argparse.ArgumentParser(prog="python -m profit claims", description="Judge the claims of the paper.")
    parser.add_argument("--tables", required=True, type=Path, help="results/<study>/tables")
    parser.add_argument("--published", required=True, type=Path, help="folder of the paper's numbers (CSV)")
    parser.add_argument("--output", required=True, type=Path, help="claims.json")
    parser.add_argument("--output-folder", required=True, type=Path, help="where tables and both texts go")
    parser.add_argument(
        "--without-questions", action="store_true", help="judge tables that lack questions; their power stays unknown"
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    """Judge the claims from the tables that the command line names."""
    logging.basicConfig(level=logging.INFO)
    args = make_parser().parse_args(argv)
    bases, numbers = load_bases(args.tables, not args.without_questions), paper.load(args.published)
    study, world = (bases[0].table("runs")[column].iloc[0] for column in ("study", "world"))
    with provenance.job("claims", settings={"study": study}, world=world) as job:
        records = [record for base in bases for record in judge(CLAIMS, base, numbers)]
        rows = [] if args.without_questions else [row for base in bases for row in study_power(base)]
        fallen = {base.model: collapsed(base) for base in bases}
        content = {
            "study": study,
            "over_bases": over_all(CLAIMS, records),
            "claims": records,
            "power": rows,
            "collapsed": fallen,
        }
        for name, frame in {"claims": claim_rows(records, content["over_bases"]), "power": power_table(rows)}.items():
            frame = frame.assign(study=study)
            frame = frame[["study", *frame.columns.drop("study")]]
            write_csv(args.output_folder / f"{name}.csv", frame)
            write_parquet(args.output_folder / f"{name}.parquet", frame)
        main_tables = summary.main_tables(read_parquet(args.tables / "main.parquet", summary.MAIN))
        texts = {"claims": verdict_table.whole(content), "table1_main": verdict_table.with_power(main_tables, content)}
        for name, text in texts.items():
            with atomic_path(args.output_folder / f"{name}.md") as temporary:
                temporary.write_text(text, encoding="utf-8")
        write_json(args.output, {**content, "provenance": job.record()})
    log.info("%s: %s", args.output, content["over_bases"])


if __name__ == "__main__":
    main()
