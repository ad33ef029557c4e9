"""Intervals over patients, differences of models, and the corrections that many labels ask for.

Rows of one patient are not independent: patients are drawn, and their rows go with them. A resample
is a weight for each row, so nothing is sorted again, and all measures, labels and models see the
same resamples.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, UInt8
from scipy import stats

from drrgen.errors import InputError
from drrgen_training.evaluation.embedded import find_known

LEVEL = 0.95
FEW_PATIENTS = 20  # fewer say little
FEW_POSITIVES = 10  # fewer say little, whatever their interval
_CHUNK = 64  # resamples that are counted at once
_MOST_ROWS = 4_000_000  # numbers in such a chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A percentile interval over resamples.

    Attributes:
        low: Lower end; NaN where no resample defines the number.
        high: Upper end.
        undefined: Resamples in which it is not defined; they are left out.
    """

    low: float
    high: float
    undefined: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A paired difference.

    Attributes:
        low: Lower end of its interval.
        high: Upper end.
        p: Two-sided p-value.
    """

    low: float
    high: float
    p: float


def draw_resamples(
    patient: Int64[np.ndarray, " n"], *, replicates: int = 1000, seed: int = 0
) -> UInt8[np.ndarray, "r n"]:
    """Draw patients with replacement, as many as there are; a patient's rows go together.

    Args:
        patient: Number of each row's patient. Only who shares one counts, not which number it is.
        replicates: How many resamples.
        seed: Seed of the draws.

    Returns:
        How often each row is in each resample.

    Raises:
        InputError: There is one patient, or none.

    Source: Field and Welsh 2007, Bootstrapping clustered data, JRSS B 69:369-390.
    """
    _, first, member = np.unique(patient, return_index=True, return_inverse=True)
    n = len(first)
    if n < 2:
        raise InputError(f"intervals need several patients, got {n}")
    member = np.argsort(np.argsort(first))[member]  # numbered by their first row
    random = np.random.default_rng(seed)
    out = np.empty((replicates, len(patient)), np.uint8)
    for i in range(replicates):
        counts = np.bincount(random.integers(n, size=n), minlength=n)
        out[i] = np.minimum(counts, 255)[member]
    return out


def find_interval(replicates: Float[np.ndarray, " r"], level: float = LEVEL) -> Interval:
    """Find the percentile interval of the resamples that define a number."""
    known = replicates[np.isfinite(replicates)]
    if not len(known):
        return Interval(low=float("nan"), high=float("nan"), undefined=len(replicates))
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(low=float(low), high=float(high), undefined=len(replicates) - len(known))


def find_band(
    replicates: Float[np.ndarray, "r k"], level: float = LEVEL
) -> tuple[Float64[np.ndarray, " k"], Float64[np.ndarray, " k"]]:
    """Find the interval at each point of a curve: its lower and its upper ends."""
    ends = [find_interval(column, level) for column in replicates.T]
    return np.array([each.low for each in ends]), np.array([each.high for each in ends])


def compare_replicates(
    replicates: Float[np.ndarray, " r"], others: Float[np.ndarray, " r"], level: float = LEVEL
) -> Comparison:
    """Compare two models on the same resamples.

    The p-value is twice the smaller share of differences on either side of zero, with one added to
    both counts: it is never zero, and 1 for equal models.

    Args:
        replicates: A number of one model.
        others: The same number of the other.
        level: Of the interval.

    Source: Davison and Hinkley 1997, Bootstrap methods and their application, 4.4.
    """
    difference = replicates - others
    known = difference[np.isfinite(difference)]
    interval = find_interval(difference, level)
    tail = min((known <= 0).sum(), (known >= 0).sum())
    p = min(1.0, 2 * (tail + 1) / (len(known) + 1)) if len(known) else float("nan")
    return Comparison(low=interval.low, high=interval.high, p=p)


def resample_mean(
    values: Float[np.ndarray, "n *k"], weights: UInt8[np.ndarray, "r n"]
) -> Float64[np.ndarray, "r *k"]:
    """Mean of each row's value on each resample; rows of NaN are left out.

    Args:
        values: Such as whether a query found its match among the first K.
        weights: Of ``draw_resamples``.
    """
    flat = values.reshape(len(values), -1).astype(np.float64)
    known = np.isfinite(flat)
    filled = np.where(known, flat, 0.0)
    parts = []
    for part in _list_chunks(weights):
        w = weights[part].astype(np.float64)
        with np.errstate(invalid="ignore"):
            parts.append((w @ filled) / (w @ known))
    return np.concatenate(parts).reshape(len(weights), *values.shape[1:])


def resample_median(
    values: Float[np.ndarray, " n"], weights: UInt8[np.ndarray, "r n"]
) -> Float64[np.ndarray, " r"]:
    """Median of each row's value on each resample: that of the rows, each as often as drawn."""
    order = np.argsort(values, kind="stable")
    ordered = values[order].astype(np.float64)
    parts = []
    for part in _list_chunks(weights):
        counts = weights[part][:, order].cumsum(1, dtype=np.int64)
        total = counts[:, -1]
        lower = (counts >= ((total + 1) // 2)[:, None]).argmax(1)
        upper = (counts >= (total // 2 + 1)[:, None]).argmax(1)
        parts.append((ordered[lower] + ordered[upper]) / 2)
    return np.concatenate(parts)


def resample_auroc(
    scores: Float[np.ndarray, " n"],
    labels: Int64[np.ndarray, " n"],
    weights: UInt8[np.ndarray, "r n"],
) -> Float64[np.ndarray, " r"]:
    """Area under the ROC curve on each resample; NaN where a class is missing.

    Args:
        scores: The higher, the more likely positive.
        labels: 1 and 0; others are left out.
        weights: Of ``draw_resamples``.
    """
    parts = []
    for positive, negative, _ in _count_by_score(scores, labels, weights):
        above = negative.cumsum(1)  # negatives at this score or higher
        total = positive.sum(1), above[:, -1]
        won = (positive * (total[1][:, None] - above + negative / 2)).sum(1)
        with np.errstate(invalid="ignore"):
            parts.append(won / (total[0] * total[1]))
    return np.concatenate(parts)


def resample_auprc(
    scores: Float[np.ndarray, " n"],
    labels: Int64[np.ndarray, " n"],
    weights: UInt8[np.ndarray, "r n"],
) -> Float64[np.ndarray, " r"]:
    """Average precision on each resample; NaN where a class is missing."""
    parts = []
    for positive, negative, _ in _count_by_score(scores, labels, weights):
        hits, told = positive.cumsum(1), (positive + negative).cumsum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.where(told > 0, hits / told, 0.0)
            area = (positive * precision).sum(1) / hits[:, -1]
        parts.append(np.where((told[:, -1] > hits[:, -1]), area, np.nan))
    return np.concatenate(parts)


def resample_curves(
    scores: Float[np.ndarray, " n"],
    labels: Int64[np.ndarray, " n"],
    weights: UInt8[np.ndarray, "r n"],
    grid: Float[np.ndarray, " k"],
) -> tuple[Float64[np.ndarray, "r k"], Float64[np.ndarray, "r k"]]:
    """ROC and precision-recall curves on each resample.

    Args:
        scores: The higher, the more likely positive.
        labels: 1 and 0; others are left out.
        weights: Of ``draw_resamples``.
        grid: From 0 to 1: 1 - specificity of the one, recall of the other.

    Returns:
        Sensitivity at each 1 - specificity, on straight lines between thresholds; and precision
        at each recall, that of the strictest threshold that reaches it. NaN where a class is
        missing.
    """
    roc, pr = [], []
    for positive, negative, _ in _count_by_score(scores, labels, weights):
        hits, false = positive.cumsum(1), negative.cumsum(1)
        for h, f in zip(hits, false, strict=True):
            if h[-1] == 0 or f[-1] == 0:
                roc.append(np.full(len(grid), np.nan))
                pr.append(np.full(len(grid), np.nan))
                continue
            x, y = np.append(0, f / f[-1]), np.append(0, h / h[-1])
            roc.append(np.interp(grid, x, y))
            at = np.minimum(np.searchsorted(h / h[-1], grid - 1e-12), len(h) - 1)
            at = np.maximum(at, (h + f > 0).argmax())
            pr.append(h[at] / (h[at] + f[at]))
    return np.stack(roc), np.stack(pr)


def _count_by_score(
    scores: Float[np.ndarray, " n"],
    labels: Int64[np.ndarray, " n"],
    weights: UInt8[np.ndarray, "r n"],
) -> Iterator[tuple[Float64[np.ndarray, "c s"], Float64[np.ndarray, "c s"], slice]]:
    """Count positives and negatives at each different score, the highest first, by resample."""
    rows = np.flatnonzero(find_known(labels))
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    if not len(rows):
        for part in _list_chunks(weights):
            empty = np.zeros((len(weights[part]), 1))
            yield empty, empty, part
        return
    ordered = scores[rows]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    is_positive: Bool[np.ndarray, " m"] = labels[rows] == 1
    for part in _list_chunks(weights):
        drawn = weights[part][:, rows].astype(np.float64)
        positive = np.add.reduceat(drawn * is_positive, starts, axis=1)
        yield positive, np.add.reduceat(drawn, starts, axis=1) - positive, part


def _list_chunks(weights: UInt8[np.ndarray, "r n"]) -> list[slice]:
    """Cut resamples into parts that fit into memory."""
    size = max(1, min(_CHUNK, _MOST_ROWS // max(1, weights.shape[1])))
    return [slice(i, i + size) for i in range(0, len(weights), size)]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeLong:
    """Two areas under ROC curves of the same rows, compared.

    Attributes:
        auroc: Of one.
        other: Of the other.
        low: Lower end of the interval of their difference.
        high: Upper end.
        z: Difference in standard errors; NaN where that is zero.
        p: Two-sided p-value; 1 for equal areas without a spread.
    """

    auroc: float
    other: float
    low: float
    high: float
    z: float
    p: float


def compare_delong(
    scores: Float[np.ndarray, " n"],
    others: Float[np.ndarray, " n"],
    labels: Int64[np.ndarray, " n"],
    level: float = LEVEL,
) -> DeLong:
    """Compare two areas under ROC curves without resampling.

    It takes rows as independent: give one row a patient.

    Args:
        scores: Of one model; the higher, the more likely positive.
        others: Of the other.
        labels: 1 and 0; others are left out.
        level: Of the interval.

    Source: DeLong et al. 1988, Biometrics 44:837-845; fast ranks by Sun and Xu 2014, IEEE Signal
    Processing Letters 21:1389-1393.
    """
    known = find_known(labels)
    areas, covariance = find_delong(np.stack([scores[known], others[known]]), labels[known])
    difference = float(areas[0] - areas[1])
    spread = float(np.sqrt(max(0.0, covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])))
    if not spread > 1e-12:
        z, p = float("nan"), 1.0 if difference == 0 else float("nan")
    else:
        z = difference / spread
        p = float(2 * stats.norm.sf(abs(z)))
    half = float(stats.norm.isf((1 - level) / 2)) * spread
    return DeLong(auroc=float(areas[0]), other=float(areas[1]), low=difference - half,
                  high=difference + half, z=z, p=p)  # fmt: skip


def find_delong(
    scores: Float[np.ndarray, "m n"], labels: Int64[np.ndarray, " n"]
) -> tuple[Float64[np.ndarray, " m"], Float64[np.ndarray, "m m"]]:
    """Areas under the ROC curves of several models, and their covariance.

    Args:
        scores: A line a model.
        labels: 1 and 0.

    Returns:
        Areas, and covariance; NaN with fewer than two rows of a class.
    """
    positive, negative = scores[:, labels == 1], scores[:, labels == 0]
    m, n = positive.shape[1], negative.shape[1]
    if m < 2 or n < 2:
        return np.full(len(scores), np.nan), np.full((len(scores), len(scores)), np.nan)
    both = np.concatenate([positive, negative], axis=1)
    overall = stats.rankdata(both, axis=1)
    won = (overall[:, :m] - stats.rankdata(positive, axis=1)) / n  # by each positive
    lost = 1 - (overall[:, m:] - stats.rankdata(negative, axis=1)) / m  # by each negative
    return won.mean(1), np.atleast_2d(np.cov(won)) / m + np.atleast_2d(np.cov(lost)) / n


def correct_holm(p: Float[np.ndarray, " k"]) -> Float64[np.ndarray, " k"]:
    """Correct p-values for as many tests as there are; NaN are no tests, and stay.

    Source: Holm 1979, Scandinavian Journal of Statistics 6:65-70.

    Example:
        >>> correct_holm(np.array([0.01, 0.04, 0.03])).round(2).tolist()
        [0.03, 0.06, 0.06]
    """
    out = np.full(len(p), np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    scaled = p[order] * np.arange(len(order), 0, -1)
    out[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return out
