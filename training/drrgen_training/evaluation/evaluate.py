"""Judge models on the same held-out patients: everything that ``drrgen evaluate`` says."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from drrgen.choices import Split
from drrgen.errors import InputError
from drrgen_training.evaluation.bench import (
    ALL,
    Bench,
    EvaluateSettings,
    find_shared,
    find_unlike,
    make_bench,
)
from drrgen_training.evaluation.embedded import Embedded, find_known
from drrgen_training.evaluation.findings import (
    Told,
    confuse,
    draw_curves,
    list_predictions,
    measure_findings,
)
from drrgen_training.evaluation.measured import Measured, list_differences
from drrgen_training.evaluation.published import (
    Compat,
    Published,
    publish_classification,
    publish_retrieval,
)
from drrgen_training.evaluation.results import (
    Curve,
    Difference,
    Evaluation,
    Hit,
    LabelPrediction,
    Score,
)
from drrgen_training.evaluation.retrieval import pick_first
from drrgen_training.evaluation.searches import (
    Direction,
    draw_recall,
    list_directions,
    measure_reconstructions,
    measure_same,
    measure_search,
    pick_hits,
    rank_matches,
    stack_labels,
)
from drrgen_training.evaluation.statistics import (
    FEW_PATIENTS,
    FEW_POSITIVES,
    compare_delong,
    correct_holm,
    draw_resamples,
)
from drrgen_training.evaluation.tables import align
from drrgen_training.evaluation.told import list_told
from drrgen_training.losses import Modality


@dataclass(slots=True, kw_only=True)
class Judgement:
    """What is found about one model."""

    measured: list[Measured] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    predictions: list[LabelPrediction] = field(default_factory=list)
    hits: list[Hit] = field(default_factory=list)
    published: list[Score] = field(default_factory=list)
    confusion: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)


def evaluate(models: Sequence[Embedded], settings: EvaluateSettings) -> tuple[Evaluation, Embedded]:
    """Judge models, and compare the first one with each other.

    Args:
        models: Embeddings of the same radiographs.
        settings: How.

    Returns:
        All that was found, and the test rows that examples name.

    Raises:
        ConfigError: No such prompts or mapping.
        InputError: Models of other rows or of one name, too few patients, or a patient in train
            and test.
    """
    _check_names(models)
    aligned = align(models)
    chosen = aligned[0].choose_view(settings.view)
    kept = [model.take(chosen) for model in aligned]
    benches = [make_bench(model, settings) for model in kept]
    test, whole = benches[0].test, benches[0].whole
    of_all = draw_resamples(whole.patient, replicates=settings.replicates, seed=settings.seed)
    weights = of_all[:, pick_first(whole.study)]
    shared = {model.model: find_shared(kept[0], model) for model in kept[1:]}
    found = {
        name: _judge(b, settings, weights, of_all, shared.get(name, frozenset()))
        for b in benches for name in [b.test.model]
    }  # fmt: skip
    measured = {name: each.measured for name, each in found.items()}
    unlike = find_unlike(benches)
    differences = [
        *(d for d in list_differences(list(found), measured)
          if not unlike[d.other] & set(d.task.split(",")[0].split())),
        *_compare_labels(benches, found, test.patient),
    ]  # fmt: skip
    confusion = {name: each.confusion for name, each in found.items() if each.confusion}
    return Evaluation(
        scores=tuple(m.score for each in found.values() for m in each.measured),
        differences=tuple(differences),
        curves=tuple(c for each in found.values() for c in each.curves),
        predictions=tuple(p for each in found.values() for p in each.predictions),
        hits=tuple(h for each in found.values() for h in each.hits),
        published=tuple(p for each in found.values() for p in each.published),
        facts=_describe(benches, settings) | {
            "confusion": confusion, "shared": {name: sorted(of) for name, of in shared.items()},
        },
        warnings=tuple(dict.fromkeys([
            *_warn(test, found), *_warn_of_rows(models, aligned[0], chosen, settings),
            *_warn_of_unlike(unlike),
        ])),
    ), test  # fmt: skip


def _check_names(models: Sequence[Embedded]) -> None:
    """Refuse two models of one name: their numbers could not be told apart."""
    names = [model.model for model in models]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"two models are called {', '.join(twice)}; name them, NAME=FOLDER")


def _judge(
    bench: Bench,
    settings: EvaluateSettings,
    weights: UInt8[np.ndarray, "r n"],
    of_all: UInt8[np.ndarray, "r m"],
    known: Set[str],
) -> Judgement:
    """Judge one model, but for what only hangs on modalities that another was judged on."""
    test, made = bench.test, Judgement()
    for way in list_directions(test, settings.device, known):
        ranks = rank_matches(way)
        made.measured += measure_search(test, way, ranks, weights, settings.ks)
        made.curves.append(draw_recall(test, way, ranks, weights))
        made.published += _publish_search(test, way)
        if way.task.startswith(Modality.CXR):
            made.hits += pick_hits(test, way, ranks)
    if Modality.CXR not in known:
        made.measured += measure_same(test, weights, settings.ks, settings.device)
    made.measured += measure_reconstructions(
        bench.whole, of_all, settings.ks, settings.device, known
    )
    for told in list_told(bench, settings, known, made.warnings):
        made.told.append(told)
        made.measured += measure_findings(test, told, weights)
        if len(told.scores) == 1:
            made.published += _publish_findings(test, told)
            made.predictions += list_predictions(test, told)
            made.curves += draw_curves(test, told, weights)
            made.confusion = made.confusion or confuse(test, told)
    return made


def _publish_search(test: Embedded, way: Direction) -> Iterator[Score]:
    """Tell a direction by the published definitions, where enough of the labels are known."""
    labels = stack_labels(test)[way.rows]
    known = labels[:, find_known(labels).all(0)]
    told = known if known.shape[1] and (known == 1).any() else None
    for compat in Compat:
        yield from _list_published(test, way.task, len(way.rows), publish_retrieval(
            compat, way.search.queries, way.search.gallery, told
        ))  # fmt: skip


def _publish_findings(test: Embedded, told: Told) -> Iterator[Score]:
    """Tell findings by the published definitions, of labels that are known and of both kinds."""
    kept = [
        name for name in told.labels
        if set(np.unique(test.labels[name])) == {0, 1} and np.isfinite(told.scores[0][name]).all()
    ]  # fmt: skip
    if len(kept) < 2:  # the published averages are over several
        return
    scores = np.stack([told.scores[0][name] for name in kept], axis=1).astype(np.float64)
    truth = np.stack([test.labels[name] for name in kept], axis=1)
    for compat in Compat:
        found = publish_classification(compat, scores, truth)
        yield from _list_published(test, told.task, len(test), found)


def _list_published(
    test: Embedded, task: str, n: int, found: Sequence[Published]
) -> Iterator[Score]:
    """Make scores of published numbers; their note says what is wrong with them."""
    for each in found:
        yield Score(
            model=test.model, task=task, measure=f"{each.compat} {each.measure}", value=each.value,
            low=each.low, high=each.high, n=n, note=each.fault,
        )  # fmt: skip


def _compare_labels(
    benches: Sequence[Bench], found: Mapping[str, Judgement], patient: Int64[np.ndarray, " n"]
) -> Iterator[Difference]:
    """Compare the first model with each other, label by label (DeLong), corrected by Holm.

    DeLong takes rows as independent, so one row of each patient is taken.
    """
    rows = pick_first(patient)
    first, *others = benches
    for other in others:
        theirs = {told.task: told for told in found[other.test.model].told}
        for told in found[first.test.model].told:
            against = theirs.get(told.task)
            if against is not None and len(told.scores) == len(against.scores) == 1:
                yield from _compare_task(first.test, other.test, told, against, rows)


def _compare_task(
    mine: Embedded, other: Embedded, told: Told, against: Told, rows: Int64[np.ndarray, " m"]
) -> Iterator[Difference]:
    """Compare two models in one task."""
    labels = [
        name for name in told.labels
        if name in against.scores[0] and np.isfinite(told.scores[0][name]).all()
        and np.isfinite(against.scores[0][name]).all()
    ]  # fmt: skip
    tests = [
        compare_delong(told.scores[0][x][rows], against.scores[0][x][rows], mine.labels[x][rows])
        for x in labels
    ]
    corrected = correct_holm(np.array([t.p for t in tests]))
    for label, t, p_holm in zip(labels, tests, corrected.tolist(), strict=True):
        yield Difference(
            model=mine.model, other=other.model, task=told.task, measure="AUROC", label=label,
            value=t.auroc - t.other, low=t.low, high=t.high, p=t.p, p_holm=p_holm, test="delong",
        )  # fmt: skip


def _describe(benches: Sequence[Bench], settings: EvaluateSettings) -> dict[str, Any]:
    """Say what the numbers were made of."""
    test = benches[0].test
    return {
        "models": [bench.test.model for bench in benches],
        "scans": len(test),
        "rows": len(benches[0].whole),
        "patients": len(np.unique(test.patient)),
        "views": dict(Counter(view for view in test.views if view)),
        "train_patients": len(np.unique(benches[0].train.patient)),
        "labels": list(test.labels),
        "positives": {name: int((told == 1).sum()) for name, told in test.labels.items()},
        "split": settings.split,
        "external": settings.external,
        "prompts": settings.prompts,
        "mapping": settings.mapping,
        "replicates": settings.replicates,
        "seed": settings.seed,
        "probe": settings.probe if settings.probes else None,
        "probe_draws": settings.seeds if settings.probes else 0,
        "drrgen_version": version("drrgen"),
    }


def _warn(test: Embedded, found: Mapping[str, Judgement]) -> Iterator[str]:
    """Say what a reader should know."""
    n = len(np.unique(test.patient))
    if n < FEW_PATIENTS:
        yield f"only {n} patients are judged: the numbers and their intervals say little"
    few = [name for name, told in test.labels.items() if (told == 1).sum() < FEW_POSITIVES]
    if few:
        yield f"fewer than {FEW_POSITIVES} test scans have {', '.join(few)}"
    for each in found.values():
        yield from each.warnings


def _warn_of_rows(
    models: Sequence[Embedded],
    shared: Embedded,
    chosen: Bool[np.ndarray, " n"],
    settings: EvaluateSettings,
) -> Iterator[str]:
    """Say which rows nothing is judged on."""
    for model in models:
        if lost := len(model) - len(shared):
            yield f"{lost} rows of {model.model} are not in all models, and left out"
    if not chosen.all():
        there = Counter(shared.take(~chosen).views)
        words = ", ".join(f"{n} {view or 'of no view'}" for view, n in sorted(there.items()))
        yield f"one view of each scan is judged, and {words} left out; see --view"
    kept = shared.take(chosen)
    other = ~np.isin(kept.split, list(Split))
    if settings.split != ALL and other.any():
        words = ", ".join(sorted(set(kept.split[other].tolist())))
        yield f"{int(other.sum())} rows are of other splits ({words}), and left out"


def _warn_of_unlike(unlike: Mapping[str, set[str]]) -> Iterator[str]:
    """Say what cannot be compared."""
    for model, names in unlike.items():
        if names:
            yield (f"{model} has {', '.join(sorted(names))} in other rows than the first model: "
                   "their retrieval is not compared")  # fmt: skip
