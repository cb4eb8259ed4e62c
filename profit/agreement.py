"""Agreement of two annotators: accuracy, Cohen's kappa (Cohen 1960) and confusion, with intervals over prompts.

Words of one prompt are not independent, so the bootstrap draws whole prompts: one confusion table a prompt is enough
for every resample. The paper reports no agreement of its annotator with another (§4.1).

No command: used by profit.annotate, `--compare`.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from profit.data import LABELS
from profit.statistics import bootstrap_weights, percentile_interval


def compare_labels(
    first: NDArray, second: NDArray, prompts: NDArray, resamples: int = 2_000, seed: int = 0
) -> dict[str, Any]:
    """Agreement of two annotators on the same words (or tokens, or characters), with intervals over prompts.

    Args:
        first, second: labels, shapes (n,).
        prompts: prompt of each, shape (n,).

    Returns:
        `all` and `core_and_replaceable` (what neither calls fixed or end): counts, and accuracy and kappa with 95 %
        percentile bootstrap intervals of whole prompts (None where undefined); `confusion`: counts by the first's
        label, then the second's.

    Raises:
        ValueError: shapes differ or are empty, or a label is none of LABELS.
    """
    numbers = [pd.Index(LABELS).get_indexer(np.asarray(labels)) for labels in (first, second)]
    if not len(numbers[0]) == len(numbers[1]) == len(prompts) > 0:
        raise ValueError(
            f"labels: found {[*map(len, numbers), len(prompts)]} of them, expected as many each, and some"
        )
    if min(found.min() for found in numbers) < 0:
        raise ValueError(f"labels: found one that is none of {', '.join(LABELS)}")
    names, prompt = np.unique(prompts, return_inverse=True)
    size = len(LABELS)
    cells = np.ravel_multi_index((prompt, *numbers), (len(names), size, size))
    tables = np.bincount(cells, minlength=len(names) * size**2).reshape(len(names), size, size)
    weights = bootstrap_weights(len(names), resamples, seed)
    return {
        "all": table_agreement(tables, weights),
        "core_and_replaceable": table_agreement(tables[:, :2, :2], weights),
        "confusion": {
            label: dict(zip(LABELS, counts, strict=True))
            for label, counts in zip(LABELS, tables.sum(axis=0).tolist(), strict=True)
        },
    }


def table_agreement(tables: NDArray[np.int64], weights: NDArray[np.float64]) -> dict[str, Any]:
    """Accuracy and kappa of tables (prompts, labels, labels), and intervals by weights (resamples, prompts)."""
    draws = (weights @ tables.reshape(len(tables), -1)).reshape(-1, *tables.shape[1:])
    ratios = accuracy_and_kappa(tables.sum(axis=0, keepdims=True))
    found = {"units": int(tables.sum()), "prompts": int((tables.sum(axis=(1, 2)) > 0).sum())}
    for name, value, drawn in zip(("accuracy", "kappa"), ratios, accuracy_and_kappa(draws), strict=True):
        defined = np.isfinite(value).all() and np.isfinite(drawn).any()
        low, high = percentile_interval(drawn) if defined else (None, None)
        found[name] = {"value": float(value[0]) if defined else None, "low": low, "high": high}
    return found


def accuracy_and_kappa(tables: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Accuracy and Cohen's kappa of each confusion table, shape (tables, labels, labels); NaN where undefined."""
    with np.errstate(invalid="ignore", divide="ignore"):
        total = tables.sum(axis=(1, 2))
        observed = np.trace(tables, axis1=1, axis2=2) / total
        chance = (tables.sum(axis=1) * tables.sum(axis=2)).sum(axis=1) / total**2
        return observed, np.where(chance < 1, (observed - chance) / (1 - chance), np.nan)
