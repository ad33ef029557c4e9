"""How well scores tell who has a finding; labels besides 1 and 0 are unknown, and left out."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64, UInt8

from drrgen_training.evaluation.statistics import resample_auprc, resample_auroc


def measure_auroc(scores: Float[np.ndarray, " n"], labels: Int64[np.ndarray, " n"]) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative; NaN for none.

    Args:
        scores: The higher, the more likely positive.
        labels: 1 and 0; others (uncertain, unknown) are left out.

    Example:
        >>> measure_auroc(np.array([0.1, 0.9, 0.8]), np.array([0, 1, 0]))
        1.0
    """
    return float(resample_auroc(scores, labels, _once(labels))[0])


def measure_auprc(scores: Float[np.ndarray, " n"], labels: Int64[np.ndarray, " n"]) -> float:
    """Average precision: the mean of the precision at each positive; NaN without both classes.

    Args:
        scores: The higher, the more likely positive.
        labels: 1 and 0; others are left out.

    Example:
        >>> measure_auprc(np.array([0.1, 0.9, 0.8]), np.array([0, 1, 0]))
        1.0
    """
    return float(resample_auprc(scores, labels, _once(labels))[0])


def _once(labels: Int64[np.ndarray, " n"]) -> UInt8[np.ndarray, "1 n"]:
    """Take every row once."""
    return np.ones((1, len(labels)), np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """Counts of decisions, on one or many resamples.

    Attributes:
        hits: Present, and told so.
        false_alarms: Absent, and told to be present.
        misses: Present, and told to be absent.
        rejections: Absent, and told so.
    """

    hits: Float64[np.ndarray, " r"]
    false_alarms: Float64[np.ndarray, " r"]
    misses: Float64[np.ndarray, " r"]
    rejections: Float64[np.ndarray, " r"]

    @property
    def measures(self) -> dict[str, Float64[np.ndarray, " r"]]:
        """All that follows from the counts, by name; NaN where nothing is to be divided by."""
        total = self.hits + self.false_alarms + self.misses + self.rejections
        return {
            "F1": _divide(2 * self.hits, 2 * self.hits + self.false_alarms + self.misses),
            "accuracy": _divide(self.hits + self.rejections, total),
            "precision": _divide(self.hits, self.hits + self.false_alarms),
            "sensitivity": _divide(self.hits, self.hits + self.misses),
            "specificity": _divide(self.rejections, self.rejections + self.false_alarms),
        }


def count_decisions(
    scores: Float[np.ndarray, " n"],
    labels: Int64[np.ndarray, " n"],
    threshold: float,
    weights: UInt8[np.ndarray, "r n"] | None = None,
) -> Decisions:
    """Count what a threshold decides: a score at it or above says present.

    Args:
        scores: The higher, the more likely positive.
        labels: 1 and 0; others are left out.
        threshold: Chosen on other patients, or fixed.
        weights: Resamples; without them every row counts once.
    """
    drawn = _once(labels) if weights is None else weights
    told = scores >= threshold
    groups = [
        (labels == 1) & told,
        (labels == 0) & told,
        (labels == 1) & ~told,
        (labels == 0) & ~told,
    ]
    counts = [drawn[:, group].sum(1, dtype=np.float64) for group in groups]
    return Decisions(hits=counts[0], false_alarms=counts[1], misses=counts[2], rejections=counts[3])


def choose_threshold(scores: Float[np.ndarray, " n"], labels: Int64[np.ndarray, " n"]) -> float:
    """Choose the threshold with the largest sum of sensitivity and specificity, on dev patients.

    Returns:
        The threshold, the lowest of equal ones; NaN without both classes.

    Source: Youden 1950, Index for rating diagnostic tests, Cancer 3:32-35.
    """
    positive, negative = np.sort(scores[labels == 1]), np.sort(scores[labels == 0])
    if not len(positive) or not len(negative):
        return float("nan")
    values = np.unique(np.concatenate([positive, negative]))
    sensitivity = 1 - np.searchsorted(positive, values) / len(positive)
    specificity = np.searchsorted(negative, values) / len(negative)
    return float(values[np.argmax(sensitivity + specificity)])


def measure_crg(labels: Int64[np.ndarray, "n l"], told: Int64[np.ndarray, "n l"]) -> float:
    """Score of the VLM3D challenge, which weighs hits by how rare findings are; 1 is perfect.

    With X label decisions in all and A positives, a hit gains ``r = (X - A) / 2A``, a miss costs
    as much and a false alarm costs 1; with ``U = (X - A) / 2`` the score is ``U / (2U - s)``.

    Args:
        labels: 1 and 0.
        told: 1 where the finding was said to be present.

    Returns:
        The score; NaN where all or none of the labels are positive.
    """
    decisions, positives = labels.size, int((labels == 1).sum())
    if positives in (0, decisions):
        return float("nan")
    best = (decisions - positives) / 2
    gain = best / positives
    hits = int(((labels == 1) & (told == 1)).sum())
    false_alarms = int(((labels == 0) & (told == 1)).sum())
    score = gain * hits - gain * (positives - hits) - false_alarms
    return best / (2 * best - score)


def confuse_labels(
    told: Mapping[str, Int64[np.ndarray, " n"]], labels: Mapping[str, Int64[np.ndarray, " n"]]
) -> Float64[np.ndarray, "l k"]:
    """How often each finding (column) is told in rows that have another one (line); NaN for none.

    Args:
        told: 1 where a finding was said to be present, by label.
        labels: What is true, by label, in the same order.
    """
    return np.array([
        [_share(told[column][labels[line] == 1] == 1) for column in told] for line in labels
    ])  # fmt: skip


def _share(values: np.ndarray) -> float:
    """Share of true values; NaN of none."""
    return float(values.mean()) if len(values) else float("nan")


def _divide(
    a: Float64[np.ndarray, " r"], b: Float64[np.ndarray, " r"]
) -> Float64[np.ndarray, " r"]:
    """Divide; NaN by zero."""
    return np.divide(a, b, out=np.full(len(a), np.nan), where=b > 0)
