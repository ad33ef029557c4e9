"""What an evaluation says: numbers with intervals and chance, curves, differences of models."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

SCHEMA_VERSION = 1  # of metrics.json


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One number of one model.

    Attributes:
        model: Whose.
        task: Such as ``cxr to report``, ``zero-shot from cxr``, ``probe of cxr, 10 %``.
        measure: Such as ``recall@10``, ``AUROC``, ``macro AUROC``.
        value: What was found; NaN where it is undefined.
        low: Lower end of the interval over resampled patients; NaN without one.
        high: Upper end.
        chance: What a model that knows nothing gets; NaN where that is not known.
        n: Rows it was measured on.
        label: Finding that it is about; None for all.
        positives: Rows that have the finding; None where that means nothing.
        undefined: Replicates (or, of a mean over findings, findings) in which it is undefined.
        note: Such as ``few positives``; empty for none.
    """

    model: str
    task: str
    measure: str
    value: float
    low: float = float("nan")
    high: float = float("nan")
    chance: float = float("nan")
    n: int
    label: str | None = None
    positives: int | None = None
    undefined: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How two models differ in one number, on the same resampled patients.

    Attributes:
        model: One.
        other: The one that it is compared with.
        task: As of ``Score``.
        measure: Likewise.
        label: Likewise.
        value: Of ``model`` less that of ``other``.
        low: Lower end of the interval.
        high: Upper end.
        p: Two-sided p-value; NaN where it is undefined.
        p_holm: The same, corrected for as many labels as were tested (Holm).
        test: ``bootstrap`` (over patients) or ``delong``.
    """

    model: str
    other: str
    task: str
    measure: str
    value: float
    low: float
    high: float
    p: float
    p_holm: float = float("nan")
    label: str | None = None
    test: str = "bootstrap"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curve:
    """A curve with its band over resampled patients.

    Attributes:
        model: Whose.
        task: As of ``Score``.
        kind: ``roc`` (x: 1 - specificity, y: sensitivity), ``precision-recall`` (x: recall,
            y: precision) or ``recall`` (x: K, y: Recall@K).
        label: Finding; None for retrieval.
        x: Where.
        y: How high.
        low: Lower end of the band.
        high: Upper end.
        chance: Height that chance gives at each x.
    """

    model: str
    task: str
    kind: str
    label: str | None
    x: Float[np.ndarray, " k"] = field(repr=False)
    y: Float[np.ndarray, " k"] = field(repr=False)
    low: Float[np.ndarray, " k"] = field(repr=False)
    high: Float[np.ndarray, " k"] = field(repr=False)
    chance: Float[np.ndarray, " k"] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelPrediction:
    """Scores of one label, a row's each, so that anyone can count again.

    Attributes:
        model: Whose.
        task: Such as ``zero-shot from cxr``.
        label: Finding.
        names: Keys of the rows.
        patient: Numbers of their patients.
        scores: The higher, the more likely present.
        truth: 1, 0, or -1 for unknown.
    """

    model: str
    task: str
    label: str
    names: tuple[str, ...] = field(repr=False)
    patient: Any = field(repr=False)
    scores: Any = field(repr=False)
    truth: Any = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A query radiograph, and what a model found for it.

    Attributes:
        model: Whose.
        task: Such as ``cxr to report``.
        query: Row of the query.
        found: Rows of what was found, the best first.
        scores: Their cosines.
        is_match: Which of them belong to the query.
        rank: Rank of the best match.
    """

    model: str
    task: str
    query: int
    found: tuple[int, ...]
    scores: tuple[float, ...]
    is_match: tuple[bool, ...]
    rank: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All of it.

    Attributes:
        scores: Of every model.
        differences: Of the first model and each other one.
        curves: For the page.
        predictions: For predictions.parquet.
        hits: Examples for the page.
        published: Numbers by the definitions that CT-CLIP and X2CT-CLIP published, with their
            faults, in records of the same kind; their measure begins with ``ctclip`` or ``x2ct``.
        facts: Plain facts of the making: models, rows, patients, replicates, seed, versions.
        warnings: What a reader should know.
    """

    scores: tuple[Score, ...]
    differences: tuple[Difference, ...] = ()
    curves: tuple[Curve, ...] = ()
    predictions: tuple[LabelPrediction, ...] = ()
    hits: tuple[Hit, ...] = ()
    published: tuple[Score, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
