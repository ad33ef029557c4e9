"""How scores tell findings: each label and their mean, with intervals, curves and predictions."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, UInt8

from drrgen_training.evaluation.classification import (
    choose_threshold,
    confuse_labels,
    count_decisions,
    measure_auprc,
    measure_auroc,
    measure_crg,
)
from drrgen_training.evaluation.embedded import Embedded, find_known
from drrgen_training.evaluation.measured import Measured, make_measured
from drrgen_training.evaluation.results import Curve, LabelPrediction, Score
from drrgen_training.evaluation.statistics import (
    FEW_POSITIVES,
    find_band,
    resample_auprc,
    resample_auroc,
    resample_curves,
)

_GRID = np.linspace(0, 1, 51)
_DECIDED = ("F1", "accuracy", "precision", "sensitivity", "specificity")
_HALF = 0.5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Told:
    """What a model says of the findings of the test rows.

    Attributes:
        task: Such as ``zero-shot from cxr``.
        scores: The higher, the more likely present, by label; one list a draw of a probe.
        thresholds: From which score on a finding is told, by label; 0.5 where none was chosen.
    """

    task: str
    scores: tuple[Mapping[str, Float[np.ndarray, " n"]], ...] = field(repr=False)
    thresholds: Mapping[str, float] = field(repr=False, default_factory=dict)

    @property
    def labels(self) -> list[str]:
        """Names of the findings."""
        return list(self.scores[0])


def choose_thresholds(
    scores: Mapping[str, Float[np.ndarray, " n"]], truth: Mapping[str, Int64[np.ndarray, " n"]]
) -> dict[str, float]:
    """Choose thresholds on dev rows, where both classes are there; none for the other labels."""
    chosen = {name: choose_threshold(each, truth[name]) for name, each in scores.items()}
    return {name: value for name, value in chosen.items() if np.isfinite(value)}


def measure_findings(
    test: Embedded, told: Told, weights: UInt8[np.ndarray, "r n"]
) -> Iterator[Measured]:
    """Measure each label, and the mean over labels.

    Of several draws the mean is taken, in every resample too. A mean over labels takes those that
    are defined, in each resample anew; how many are not at all stands in ``undefined``.

    Args:
        test: The test rows, with the truth.
        told: What is said of them.
        weights: Resamples.
    """
    areas: list[Measured] = []
    precisions: list[Measured] = []
    for label in told.labels:
        truth = test.labels[label]
        for measure, point, resample, kept in (
            ("AUROC", measure_auroc, resample_auroc, areas),
            ("AUPRC", measure_auprc, resample_auprc, precisions),
        ):
            draws = [each[label] for each in told.scores if np.isfinite(each[label]).all()]
            values = [point(draw, truth) for draw in draws]
            replicates = np.mean(
                [resample(draw, truth, weights) for draw in draws], axis=0
            ) if draws else np.full(len(weights), np.nan)  # fmt: skip
            value = float(np.mean(values)) if values else float("nan")
            made = make_measured(_score(test, told, measure, value, label), replicates)
            kept.append(made)
            yield made
    yield _average(test, told, "macro AUROC", areas, 0.5)
    yield _average(test, told, "macro AUPRC", precisions, None)
    if len(told.scores) == 1:
        yield from _measure_decisions(test, told, weights)


def _score(
    test: Embedded, told: Told, measure: str, value: float, label: str
) -> Callable[..., Score]:
    """Prepare a score that lacks its interval."""
    truth = test.labels[label]
    positives = int((truth == 1).sum())
    known = int(find_known(truth).sum())
    chance = {"AUROC": 0.5, "AUPRC": positives / known if known else float("nan")}

    def make(**ends: Any) -> Score:
        return Score(
            model=test.model, task=told.task, measure=measure, value=value,
            chance=chance.get(measure, float("nan")), n=known,
            label=label, positives=positives,
            note="few positives" if positives < FEW_POSITIVES else "", **ends,
        )  # fmt: skip

    return make


def _average(
    test: Embedded, told: Told, measure: str, parts: list[Measured], chance: float | None
) -> Measured:
    """Average over the labels that are defined."""
    values = np.array([each.score.value for each in parts])
    known = np.isfinite(values)
    stacked = np.stack([each.replicates for each in parts])[known]
    is_defined = np.isfinite(stacked).any(0) if len(stacked) else np.zeros(0, bool)
    replicates = np.full(parts[0].replicates.shape, np.nan)
    if len(stacked):
        replicates[is_defined] = np.nanmean(stacked[:, is_defined], axis=0)
    each = [part.score.chance for part, there in zip(parts, known, strict=True) if there]
    value = float(values[known].mean()) if known.any() else float("nan")
    mean_chance = chance if chance is not None else float(np.mean(each)) if each else float("nan")
    return make_measured(
        lambda **ends: Score(
            model=test.model, task=told.task, measure=measure, value=value, chance=mean_chance,
            n=len(test), note=f"over {int(known.sum())} of {len(parts)} labels", **ends,
        ), replicates, undefined=int((~known).sum()),
    )  # fmt: skip


def _measure_decisions(
    test: Embedded, told: Told, weights: UInt8[np.ndarray, "r n"]
) -> Iterator[Measured]:
    """Measure what thresholds decide."""
    parts: dict[str, list[Measured]] = {measure: [] for measure in _DECIDED}
    for label in told.labels:
        scores, threshold = told.scores[0][label], told.thresholds.get(label, _HALF)
        once = count_decisions(scores, test.labels[label], threshold).measures
        drawn = count_decisions(scores, test.labels[label], threshold, weights).measures
        if not np.isfinite(scores).all():  # nothing was told, and that is no "absent"
            once, drawn = _undefine(once), _undefine(drawn)
        for measure in _DECIDED:
            made = make_measured(
                _score(test, told, measure, float(once[measure][0]), label), drawn[measure]
            )
            parts[measure].append(made)
            yield made
    for measure in ("F1", "accuracy"):
        yield _average(test, told, f"macro {measure}", parts[measure], float("nan"))
    said, truth = decide(told), {name: test.labels[name] for name in told.labels}
    whole = np.stack(list(truth.values()), axis=1)
    known = find_known(whole).all(1)
    is_told = all(np.isfinite(told.scores[0][name]).all() for name in told.labels)
    value = float("nan")
    if is_told:
        value = measure_crg(whole[known], np.stack(list(said.values()), axis=1)[known])
    yield Measured(
        score=Score(model=test.model, task=told.task, measure="CRG", value=value,
                    n=int(known.sum())),
        replicates=np.full(len(weights), np.nan),
    )  # fmt: skip


def _undefine(
    measures: Mapping[str, Float[np.ndarray, " r"]],
) -> dict[str, Float[np.ndarray, " r"]]:
    """Leave no number in some measures."""
    return {name: np.full_like(each, np.nan) for name, each in measures.items()}


def decide(told: Told) -> dict[str, Int64[np.ndarray, " n"]]:
    """Tell findings by their thresholds."""
    return {
        label: (told.scores[0][label] >= told.thresholds.get(label, _HALF)).astype(np.int64)
        for label in told.labels
    }


def confuse(test: Embedded, told: Told) -> dict[str, Any]:
    """Make the table of which finding is told where another one is, as plain types."""
    shares = confuse_labels(decide(told), {name: test.labels[name] for name in told.labels})
    shares[:, [not np.isfinite(told.scores[0][name]).all() for name in told.labels]] = np.nan
    return {"task": told.task, "labels": told.labels, "shares": [
        [None if np.isnan(x) else round(float(x), 4) for x in line] for line in shares
    ]}  # fmt: skip


def draw_curves(test: Embedded, told: Told, weights: UInt8[np.ndarray, "r n"]) -> Iterator[Curve]:
    """Draw ROC and precision-recall curves of each label that has both classes."""
    once = np.ones((1, len(test)), np.uint8)
    for label in told.labels:
        scores, truth = told.scores[0][label], test.labels[label]
        known = truth[find_known(truth)]
        if len(np.unique(known)) < 2 or not np.isfinite(scores).all():
            continue
        lines = resample_curves(scores, truth, once, _GRID)
        bands = resample_curves(scores, truth, weights, _GRID)
        chances = _GRID, np.full(len(_GRID), float(known.mean()))
        for kind, line, band, chance in zip(
            ("roc", "precision-recall"), lines, bands, chances, strict=True
        ):
            low, high = find_band(band)
            yield Curve(
                model=test.model, task=told.task, kind=kind, label=label, x=_GRID, y=line[0],
                low=low, high=high, chance=chance,
            )  # fmt: skip


def list_predictions(test: Embedded, told: Told) -> Iterator[LabelPrediction]:
    """List the scores, so that anyone can count again."""
    for label in told.labels:
        yield LabelPrediction(
            model=test.model, task=told.task, label=label, names=test.names, patient=test.patient,
            scores=told.scores[0][label], truth=test.labels[label],
        )  # fmt: skip
