"""Judge models on the same held-out patients: everything that ``drrgen evaluate`` says."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from drrgen.choices import Split, View
from drrgen.errors import ConfigError, InputError
from drrgen_training.evaluation.embedded import Embedded, find_known
from drrgen_training.evaluation.findings import (
    Told,
    choose_thresholds,
    confuse,
    draw_curves,
    list_predictions,
    measure_findings,
)
from drrgen_training.evaluation.mappings import read_mapping
from drrgen_training.evaluation.measured import Measured, list_differences
from drrgen_training.evaluation.probe import (
    FRACTIONS,
    SHOTS,
    ProbeKind,
    check_apart,
    run_probes,
)
from drrgen_training.evaluation.prompts import read_prompts
from drrgen_training.evaluation.published import (
    Compat,
    Published,
    publish_classification,
    publish_retrieval,
)
from drrgen_training.evaluation.results import Curve, Difference, Evaluation, Hit, Prediction, Score
from drrgen_training.evaluation.retrieval import pick_first
from drrgen_training.evaluation.searches import (
    KS,
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
from drrgen_training.evaluation.zero_shot import find_directions, score_zero_shot
from drrgen_training.losses import Modality

ALL = "all"  # in the place of a split: every row is judged
CLASSIFIER, ZERO_SHOT, PROBE = "classifier", "zero-shot from", "probe of"
_PROMPTS = "prompts"
_SPLITS = (Split.TEST.value, Split.DEV.value, ALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateSettings:
    """How models are judged.

    Attributes:
        split: Whose rows: ``test``, ``dev`` or ``all``.
        prompts: Set of sentences, see ``evaluation.prompts``.
        mapping: Labels of external data, see ``evaluation.mappings``.
        ks: Of Recall@K and the like.
        probes: Whether probes are trained.
        probe: Which, see ``evaluation.probe.ProbeKind``.
        fractions: Shares of the train patients that probes see.
        shots: Numbers of positives that probes see.
        seeds: Draws of each share.
        replicates: Resamples of the patients.
        seed: Seed of what is drawn.
        device: Where vectors are compared.
        view: View of the radiographs, one a scan; None takes of each scan the first that it has of
            PA, AP, LL and RL.
        external: Whether probes learn from another data set than ``split`` is of; in what is judged
            the two are joined, and the rows of ``split`` are the ``test`` rows.

    Raises:
        ConfigError: No such split or probe, or numbers that cannot be.
    """

    split: str = Split.TEST.value
    prompts: str = "x2ct"
    mapping: str | None = None
    ks: tuple[int, ...] = KS
    probes: bool = True
    probe: str = ProbeKind.LOGISTIC.value
    fractions: tuple[float, ...] = FRACTIONS
    shots: tuple[int, ...] = SHOTS
    seeds: int = 5
    replicates: int = 1000
    seed: int = 0
    device: str = "cpu"
    external: bool = False
    view: View | None = None

    def __post_init__(self) -> None:
        if self.split not in _SPLITS:
            raise ConfigError(f"split: got {self.split}, wanted {', '.join(_SPLITS)}")
        if self.probe not in set(ProbeKind):
            raise ConfigError(f"probe: got {self.probe}, wanted {', '.join(ProbeKind)}")
        if self.replicates < 2 or self.seeds < 1:
            raise ConfigError(
                f"got {self.replicates} replicates and {self.seeds} seeds, wanted 2 and 1 or more"
            )

    @property
    def judged(self) -> str:
        """Split of the rows to judge in what is judged, or ``all``."""
        return Split.TEST.value if self.external else self.split

    def choose_labels(self, judged: Embedded) -> list[str]:
        """Choose the labels that sentences are about: those of the data, or of the mapping."""
        return list(judged.labels) if self.mapping is None else read_mapping(self.mapping).sources

    def map_labels(self, model: Embedded) -> Embedded:
        """Tell the labels of the rows in those of the mapping; done twice it changes nothing.

        Raises:
            ConfigError: No such mapping.
            InputError: The rows lack a label.
        """
        if self.mapping is None:
            return model
        return replace(model, labels=read_mapping(self.mapping).map_truth(model.labels))


@dataclass(slots=True, kw_only=True)
class Judgement:
    """What is found about one model."""

    measured: list[Measured] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)
    hits: list[Hit] = field(default_factory=list)
    published: list[Score] = field(default_factory=list)
    confusion: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bench:
    """The rows that one model is judged on.

    Attributes:
        test: One row of each scan.
        whole: All test rows.
        train: Rows that probes learn from.
        dev: Rows that thresholds are chosen on.
    """

    test: Embedded
    whole: Embedded
    train: Embedded
    dev: Embedded


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
    benches = [_make_bench(model, settings) for model in aligned]
    test, whole = benches[0].test, benches[0].whole
    of_all = draw_resamples(whole.patient, replicates=settings.replicates, seed=settings.seed)
    weights = of_all[:, pick_first(whole.study)]
    shared = {b.test.model: _find_shared(benches[0], b) for b in benches[1:]}
    found = {
        name: _judge(b, settings, weights, of_all, shared.get(name, frozenset()))
        for b in benches for name in [b.test.model]
    }  # fmt: skip
    measured = {name: each.measured for name, each in found.items()}
    unlike = _find_unlike(benches)
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
            *_warn(test, found), *_warn_of_rows(models, aligned[0], settings),
            *_warn_of_unlike(unlike),
        ])),
    ), test  # fmt: skip


def _check_names(models: Sequence[Embedded]) -> None:
    """Refuse two models of one name: their numbers could not be told apart."""
    names = [model.model for model in models]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"two models are called {', '.join(twice)}; name them, NAME=FOLDER")


def _find_shared(first: Bench, other: Bench) -> frozenset[str]:
    """Find of what another model has the very vectors of the first one: modalities, prompts.

    Where it has all of them nothing is left to judge it by: then none counts.
    """
    a, b = first.whole, other.whole
    shared = _list_equal(a.vectors, b.vectors)
    if shared == b.vectors.keys():
        return frozenset()
    is_one = a.scale == b.scale and set(a.prompts) == set(b.prompts) == _list_equal(
        a.prompts, b.prompts
    )  # fmt: skip
    return frozenset(shared | {_PROMPTS} if is_one else shared)


def _list_equal(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> set[str]:
    """List the names under which both have the same numbers."""
    both = a.keys() & b.keys()
    return {name for name in both if np.array_equal(a[name], b[name], equal_nan=True)}


def _find_unlike(benches: Sequence[Bench]) -> dict[str, set[str]]:
    """Find the modalities that another model has in other rows than the first one.

    Numbers of different galleries are no pair.
    """
    first, *others = (bench.whole for bench in benches)
    return {
        other.model: {
            name for name in first.vectors.keys() & other.vectors.keys()
            if (first.has(name) != other.has(name)).any()
        } for other in others
    }  # fmt: skip


def _make_bench(model: Embedded, settings: EvaluateSettings) -> Bench:
    """Sort the rows of a model by what they are for."""
    model, split = settings.map_labels(model).keep_view(settings.view), settings.judged
    every = split == ALL
    whole = model if every else model.take(model.split == split)
    if len(whole) < 2:
        counts = dict(zip(*np.unique(model.split, return_counts=True), strict=True))
        shown = ", ".join(f"{n} {name}" for name, n in counts.items()) or "none"
        raise InputError(
            f"{model.model} has {len(whole)} rows of the split {settings.split} (there are "
            f"{shown}), wanted more; give another --split"
        )
    held = Split.DEV if split == Split.TEST else None
    learnt = (Split.TRAIN,) if split == Split.DEV else (Split.TRAIN, Split.DEV)
    none = np.zeros(len(model), bool)
    dev = model.take(none if held is None else model.split == held)
    if both := len(np.intersect1d(dev.patient, whole.patient)):
        raise InputError(
            f"{both} patients are in the dev rows, which choose thresholds, and in the test rows "
            f"of {model.model}; split by patient"
        )
    return Bench(
        test=whole.take(pick_first(whole.study)), whole=whole, dev=dev,
        train=model.take(none if every else np.isin(model.split, learnt)),
    )  # fmt: skip


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
    for told in _list_told(bench, settings, known, made.warnings):
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


def _list_told(
    bench: Bench, settings: EvaluateSettings, known: Set[str], warnings: list[str]
) -> Iterator[Told]:
    """List all ways in which a model tells findings."""
    test = bench.test
    if not test.labels:
        warnings.append(f"{test.model}: no labels, so only retrieval")
        return
    sides = _find_sides(test, warnings)
    if test.findings:
        yield _map(test, bench.dev, settings, CLASSIFIER, (test.findings, bench.dev.findings))
    if test.prompts:
        for side in sides:
            if {side, _PROMPTS} <= known:
                continue
            dev = bench.dev.take(bench.dev.has(side))
            told = tuple(_score_prompts(rows, side, settings) for rows in (test, dev))
            yield _map(test, dev, settings, f"{ZERO_SHOT} {side}", told)
    if settings.probes:
        others = [side for side in sides if side not in known]
        yield from _list_probes(bench, others, settings, warnings)


def _find_sides(test: Embedded, warnings: list[str]) -> list[Modality]:
    """Find what findings are told from: what all test rows have."""
    sides = [side for side in (Modality.CXR, Modality.CT) if side in test.vectors]
    lacking = {side: int((~test.has(side)).sum()) for side in sides}
    warnings += [
        f"{test.model}: {n} of {len(test)} test scans have no {side}, so no findings are told from "
        "it" for side, n in lacking.items() if n
    ]  # fmt: skip
    return [side for side in sides if not lacking[side]]


def _list_probes(
    bench: Bench, sides: Sequence[Modality], settings: EvaluateSettings, warnings: list[str]
) -> Iterator[Told]:
    """Train probes on each modality that some train row has."""
    test = bench.test
    if not len(bench.train):
        warnings.append(f"{test.model}: no train rows, so no probes")
        return
    check_apart(bench.train, bench.whole)
    for side in sides:
        if not bench.train.has(side).any():
            warnings.append(f"{test.model}: no train rows with {side}, so no probes of it")
        else:
            yield from _probe(bench, side, settings)


def _score_prompts(
    rows: Embedded, side: Modality, settings: EvaluateSettings
) -> dict[str, np.ndarray]:
    """Score the rows by sentences."""
    if not len(rows):
        return {}
    return score_zero_shot(
        rows.vectors[side], rows.prompts, read_prompts(settings.prompts),
        settings.choose_labels(rows), rows.scale,
    )  # fmt: skip


def _map(
    test: Embedded,
    dev: Embedded,
    settings: EvaluateSettings,
    task: str,
    told: tuple[Mapping[str, np.ndarray], ...],
) -> Told:
    """Map scores of both to the labels of external data, and choose thresholds on dev rows."""
    scores, on_dev = told
    if settings.mapping is not None:
        mapping = read_mapping(settings.mapping)
        scores = mapping.map_scores(scores)
        on_dev = mapping.map_scores(on_dev) if on_dev else {}
    thresholds = choose_thresholds(on_dev, dev.labels) if on_dev else {}
    return Told(task=task, scores=({name: scores[name] for name in test.labels},),
                thresholds=thresholds)  # fmt: skip


def _probe(bench: Bench, side: Modality, settings: EvaluateSettings) -> Iterator[Told]:
    """Train probes; the draws of a share are one thing that is told."""
    draws: dict[str, list[Mapping[str, np.ndarray]]] = {}
    for probe in run_probes(
        bench.train, bench.test, side, fractions=settings.fractions, shots=settings.shots,
        seeds=settings.seeds, kind=ProbeKind(settings.probe),
        starts=_find_starts(bench.test, side, settings),
    ):  # fmt: skip
        draws.setdefault(probe.name, []).append(probe.scores)
    for name, scores in draws.items():
        yield Told(task=f"{PROBE} {side}, {name}", scores=tuple(scores))


def _find_starts(
    test: Embedded, side: Modality, settings: EvaluateSettings
) -> dict[str, np.ndarray] | None:
    """Find where heads start that start from sentences; of several parts, at their mean."""
    if settings.probe != ProbeKind.ADAMW_TEXT:
        return None
    if not test.prompts:
        raise InputError(
            f"{test.model} has no embedded sentences, which the probe {settings.probe} starts "
            "from; give the report targets, or another --probe"
        )
    ways = find_directions(
        test.vectors[side].shape[1], test.prompts, read_prompts(settings.prompts),
        settings.choose_labels(test), test.scale,
    )  # fmt: skip
    if settings.mapping is None:
        return ways
    parts = read_mapping(settings.mapping).labels
    return {name: np.mean([ways[part] for part in each], axis=0) for name, each in parts.items()}


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
    models: Sequence[Embedded], kept: Embedded, settings: EvaluateSettings
) -> Iterator[str]:
    """Say which rows nothing is judged on."""
    for model in models:
        if lost := len(model) - len(kept):
            yield f"{lost} rows of {model.model} are not in all models, and left out"
    judged = kept.keep_view(settings.view)
    if len(judged) < len(kept):
        there = Counter(kept.views) - Counter(judged.views)
        words = ", ".join(f"{n} {view or 'of no view'}" for view, n in sorted(there.items()))
        yield f"one view of each scan is judged, and {words} left out; see --view"
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
