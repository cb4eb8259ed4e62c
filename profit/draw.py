"""Draw one figure from tidy tables, as PDF and as PNG (200 dots an inch, 256 colours); equal tables give equal bytes.

Figures are made without pyplot, so the file format alone picks matplotlib's renderer (Agg for PNG): no display needed.

python -m profit.draw --figure fig4_threshold --tables results/miniature/tables --published results/published \
    --output-pdf figures/miniature/fig4_threshold.pdf --output-png figures/miniature/fig4_threshold.png
"""

import argparse
import importlib
import logging
from pathlib import Path

from PIL import Image

from profit.figures import style
from profit.files import InputError, atomic_path

FIGURES = {
    "claims": "the claims with intervals and verdicts",
    "fig2_multi_reference": "accuracy with one and several references, overfit",
    "fig3_probability": "probability of core and replaceable tokens",
    "fig4_threshold": "accuracy by threshold",
    "fig5_lora_rank": "accuracy by LoRA rank",
    "fig6_epochs": "accuracy by epoch",
    "learning_rate": "accuracy by learning rate",
    "fig11_coloured": "an answer coloured by probability",
    "table1_main": "the main comparison",
    "kept_share": "share of tokens kept over training",
    "account": "change of held tokens by label and probability",
    "gradient_share": "share of the gradient by probability",
    "phase": "where ProFit beats SFT: skill, references, learning rate",
    "drift": "accuracy by drift from the base",
    "answer_style": "wording, length and diversity of the sampled answers",
}


def main(argv: list[str] | None = None) -> None:
    """Draw the figure that the command line names."""
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("fontTools").setLevel(logging.WARNING)
    arguments = make_parser().parse_args(argv)
    draw(arguments.figure, arguments.tables, arguments.published, arguments.output_pdf, arguments.output_png)


def make_parser() -> argparse.ArgumentParser:
    """The command line of this rule."""
    parser = argparse.ArgumentParser(prog="profit.draw", description="Draw one figure from tidy tables.")
    shown = "; ".join(f"{name}: {what}" for name, what in FIGURES.items())
    parser.add_argument("--figure", required=True, choices=FIGURES, metavar="FIGURE", help=shown)
    parser.add_argument("--tables", required=True, type=Path, help="folder of the study's tidy tables (Parquet)")
    parser.add_argument("--published", required=True, type=Path, help="folder of the paper's numbers (CSV)")
    parser.add_argument("--output-pdf", required=True, type=Path)
    parser.add_argument("--output-png", required=True, type=Path)
    return parser


def draw(figure: str, tables: Path, published: Path, output_pdf: Path, output_png: Path) -> None:
    """Write one figure of FIGURES to both files.

    Raises:
        InputError: a table is missing, damaged, lacks a column or has nothing to draw.
    """
    for folder in (tables, published):
        if not folder.is_dir():
            raise InputError(f"{folder}: not found, expected a folder of tables")
    style.apply()
    drawn = importlib.import_module(f"profit.figures.{figure}").draw(tables, published)
    # Dates and versions in the files would make equal figures unequal.
    with atomic_path(output_pdf) as temporary:
        drawn.savefig(temporary, format="pdf", metadata={"CreationDate": None, "Producer": None, "Creator": None})
    with atomic_path(output_png) as temporary:
        drawn.savefig(temporary, format="png", metadata={"Software": None})
        # A palette makes the file a third as large; of Pillow's ways this one keeps a colour that few points have.
        palette = {"colors": 256, "method": Image.Quantize.MAXCOVERAGE, "dither": Image.Dither.NONE}
        picture = Image.open(temporary).convert("RGB").quantize(**palette)
        picture.save(temporary, format="png", optimize=True, dpi=(200, 200))


if __name__ == "__main__":
    main()
