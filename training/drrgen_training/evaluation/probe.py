"""Linear probes on frozen embeddings, with all train patients, some, or a few positives.

Patients are drawn, never rows, and no patient of the test is among them. Vectors have length one
and go in as they are. A label at a time: logistic regression with an L2 penalty (scikit-learn), or
the head of ``head``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from drrgen.errors import InputError
from drrgen_training.evaluation.classification import measure_auroc
from drrgen_training.evaluation.embedded import Embedded, find_known
from drrgen_training.evaluation.head import fit_head

FRACTIONS = (0.01, 0.025, 0.05, 0.1, 1.0)
SHOTS = (1, 2, 4, 8, 16)
_PENALTIES = (1.0, 10.0, 100.0)  # C of unit vectors, that is little to some penalty
_FEW = 10.0  # C where there are too few to choose by
_HELD_OUT = 0.2  # share of the drawn patients that choose C, or the epoch
_ENOUGH = 50  # patients, from which on it is chosen
_ITERATIONS = 1000


class ProbeKind(StrEnum):
    """What is fitted."""

    LOGISTIC = "logistic"
    ADAMW = "adamw"
    ADAMW_TEXT = "adamw-text"  # from sentences on, as zero-shot takes them


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """Train rows that a probe may see.

    Attributes:
        name: Such as ``10 %`` or ``4 shots``.
        seed: Seed of the draw.
        rows: Of each label; the same of all of them, but for shots.
    """

    name: str
    seed: int
    rows: Mapping[str, Int64[np.ndarray, " m"]] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Probe:
    """What a probe says of the test rows.

    Attributes:
        name: Of the draw.
        seed: Of the draw.
        scores: Probabilities by label; NaN where one class was not drawn.
        patients: How many were drawn (of shots: the mean over labels).
    """

    name: str
    seed: int
    scores: Mapping[str, Float64[np.ndarray, " n"]] = field(repr=False)
    patients: float


def draw_fraction(
    patient: Int64[np.ndarray, " n"], fraction: float, seed: int
) -> Int64[np.ndarray, " m"]:
    """Draw a share of the patients, at least one; return all their rows.

    Draws of one seed lie in each other: the patients of 1 % are among those of 10 %.
    """
    who = np.unique(patient)
    order = np.random.default_rng(seed).permutation(who)
    chosen = order[: max(1, round(fraction * len(who)))]
    return np.flatnonzero(np.isin(patient, chosen))


def draw_shots(
    patient: Int64[np.ndarray, " n"], labels: Int64[np.ndarray, " n"], shots: int, seed: int
) -> Int64[np.ndarray, " m"]:
    """Draw patients in random order until so many have the finding; all their rows.

    Those without it come along as often as they come: no balance that nature does not have. A
    patient has the finding if one of the rows has.
    """
    known = find_known(labels)
    order = np.random.default_rng(seed).permutation(np.unique(patient[known]))
    has = np.isin(order, patient[labels == 1])
    enough = np.flatnonzero(np.cumsum(has) == shots)
    if not len(enough):
        return np.zeros(0, np.int64)
    return np.flatnonzero(np.isin(patient, order[: enough[0] + 1]))


def list_draws(
    train: Embedded, *, fractions: Sequence[float], shots: Sequence[int], seeds: int
) -> Iterator[Draw]:
    """List the draws of some train rows; all rows are drawn once, not by seed.

    Args:
        train: Train rows.
        fractions: Of the patients.
        shots: Patients that have the finding.
        seeds: Draws of each.
    """
    for fraction in fractions:
        for seed in range(1 if fraction >= 1 else seeds):
            rows = draw_fraction(train.patient, fraction, seed)
            yield Draw(name=f"{100 * fraction:g} %", seed=seed, rows=dict.fromkeys(
                train.labels, rows))  # fmt: skip
    for n in shots:
        for seed in range(seeds):
            yield Draw(name=f"{n} shots", seed=seed, rows={
                name: draw_shots(train.patient, told, n, seed)
                for name, told in train.labels.items()
            })  # fmt: skip


def run_probes(
    train: Embedded,
    test: Embedded,
    modality: str,
    *,
    fractions: Sequence[float] = FRACTIONS,
    shots: Sequence[int] = SHOTS,
    seeds: int = 5,
    kind: ProbeKind = ProbeKind.LOGISTIC,
    starts: Mapping[str, Float64[np.ndarray, " _"]] | None = None,
) -> Iterator[Probe]:
    """Train probes on some rows, and score others.

    Args:
        train: Rows to draw from.
        test: Rows to score; all have a vector.
        modality: Whose vectors.
        fractions: Of the patients.
        shots: Patients that have the finding.
        seeds: Draws of each.
        kind: What is fitted.
        starts: Weights of a head before its first step, by label; zero without.

    Raises:
        InputError: There are no train or no test rows, or a patient is in both.
    """
    train = train.take(train.has(modality))
    check_apart(train, test)
    seen = test.vectors[modality].astype(np.float64)
    learnt = train.vectors[modality].astype(np.float64)
    for draw in list_draws(train, fractions=fractions, shots=shots, seeds=seeds):
        scores = {
            name: fit_probe(
                learnt[rows],
                train.labels[name][rows],
                train.patient[rows],
                seen,
                kind=kind,
                start=(starts or {}).get(name),
                seed=draw.seed,
            )
            for name, rows in draw.rows.items()
        }
        counts = [len(np.unique(train.patient[rows])) for rows in draw.rows.values()]
        yield Probe(name=draw.name, seed=draw.seed, scores=scores, patients=float(np.mean(counts)))


def check_apart(train: Embedded, test: Embedded) -> None:
    """Refuse to learn from patients that are tested.

    Raises:
        InputError: There are no train or no test rows, or a patient is in both.
    """
    both = np.intersect1d(train.patient, test.patient)
    if len(both):
        raise InputError(
            f"{len(both)} patients are in the train rows and in the test rows of {test.model}; "
            "split by patient"
        )
    if not len(train) or not len(test):
        raise InputError(
            f"{test.model} has {len(train)} train rows and {len(test)} test rows; probes need "
            "both: embed all splits, or go without them (--no-probes)"
        )


def fit_probe(
    vectors: Float[np.ndarray, "m e"],
    labels: Int64[np.ndarray, " m"],
    patient: Int64[np.ndarray, " m"],
    seen: Float[np.ndarray, "n e"],
    *,
    kind: ProbeKind = ProbeKind.LOGISTIC,
    start: Float64[np.ndarray, " e"] | None = None,
    seed: int = 0,
) -> Float64[np.ndarray, " n"]:
    """Fit one label, and score other rows.

    Where enough patients have been drawn, a fifth of them choose the penalty, and then all are
    fitted; or they choose the epoch of a head.

    Args:
        vectors: Of the drawn rows.
        labels: 1 and 0; others are left out.
        patient: Of the drawn rows.
        seen: Vectors to score.
        kind: What is fitted.
        start: Weights of a head before its first step.
        seed: Seed of a head's batches.

    Returns:
        Probabilities; NaN where the drawn rows have one class only.
    """
    known = find_known(labels)
    x, y, who = vectors[known], labels[known], patient[known]
    if len(np.unique(y)) < 2:
        return np.full(len(seen), np.nan)
    is_held = _hold_out(y, who)
    if kind != ProbeKind.LOGISTIC:
        return fit_head(x, y, is_held, seen, start=start, seed=seed)
    return _fit(x, y, _choose_penalty(x, y, is_held), seen)


def _hold_out(y: Int64[np.ndarray, " m"], who: Int64[np.ndarray, " m"]) -> Bool[np.ndarray, " m"]:
    """Hold out rows of a fifth of the patients; none where there are not enough of both classes."""
    patients = np.unique(who)
    none = np.zeros(len(y), bool)
    if len(patients) < _ENOUGH:
        return none
    held = np.random.default_rng(0).permutation(patients)[: round(_HELD_OUT * len(patients))]
    is_held: Bool[np.ndarray, " m"] = np.isin(who, held)
    both = min(len(np.unique(y[is_held])), len(np.unique(y[~is_held]))) == 2
    return is_held if both else none


def _choose_penalty(
    x: Float[np.ndarray, "m e"], y: Int64[np.ndarray, " m"], is_held: Bool[np.ndarray, " m"]
) -> float:
    """Choose C by the AUROC of the rows that are held out."""
    if not is_held.any():
        return _FEW
    areas = [
        measure_auroc(_fit(x[~is_held], y[~is_held], c, x[is_held]), y[is_held]) for c in _PENALTIES
    ]
    return _PENALTIES[int(np.argmax(areas))]


def _fit(
    x: Float[np.ndarray, "m e"], y: Int64[np.ndarray, " m"], c: float,
    seen: Float[np.ndarray, "n e"],
) -> Float64[np.ndarray, " n"]:  # fmt: skip
    """Fit a logistic regression, and score."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=c, max_iter=_ITERATIONS).fit(x, y)
    return np.asarray(model.predict_proba(seen)[:, 1])
