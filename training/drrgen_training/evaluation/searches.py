"""How a model finds one modality by another: numbers with intervals, curves, examples."""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import permutations

import numpy as np
from jaxtyping import Int64, UInt8

from drrgen_training.evaluation.embedded import Embedded
from drrgen_training.evaluation.measured import Measured, make_measured
from drrgen_training.evaluation.results import Curve, Hit, Score
from drrgen_training.evaluation.retrieval import (
    PerQuery,
    Ranks,
    Search,
    average_precision_at_k,
    find_ranks,
    find_top,
    label_average_precision_at_k,
    label_jaccard_at_k,
    pick_first,
)
from drrgen_training.evaluation.statistics import find_band, resample_mean, resample_median
from drrgen_training.losses import Modality

KS = (1, 5, 10, 50, 100)
_CURVE_POINTS = 24
_EXAMPLES = 6
_SHOWN = 3  # of what a query found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Direction:
    """One modality looks for another, among rows that have both.

    Attributes:
        task: Its name.
        rows: Rows of the test that have both.
        search: Queries and gallery.
        key: What a query is to find: its report's text, or its scan.
    """

    task: str
    rows: Int64[np.ndarray, " n"] = field(repr=False)
    search: Search = field(repr=False)
    key: Int64[np.ndarray, " n"] = field(repr=False)


def list_directions(
    test: Embedded, device: str = "cpu", known: Set[str] = frozenset()
) -> Iterator[Direction]:
    """List all ways between the modalities that a model has in one space.

    Args:
        test: Test rows; one of each scan, for plain numbers.
        device: Where to compute.
        known: Modalities between which nothing is looked for, such as those of another model.
    """
    names = [m.value for m in Modality if m in test.vectors]
    for a, b in permutations(names, 2):
        rows = np.flatnonzero(test.has(a) & test.has(b))
        if Modality.REPORT in (a, b):
            rows = rows[test.report[rows] >= 0]
        same = test.vectors[a].shape[1] == test.vectors[b].shape[1]
        if len(rows) < 2 or not same or {a, b} <= known:
            continue
        key = test.report if Modality.REPORT in (a, b) else test.study
        search = Search(queries=test.vectors[a][rows], gallery=test.vectors[b][rows], device=device)
        yield Direction(task=f"{a} to {b}", rows=rows, search=search, key=key[rows])


def rank_matches(way: Direction) -> Ranks:
    """Find where each query of a direction finds what belongs to it."""
    return find_ranks(way.search, query_key=way.key, gallery_key=way.key)


def measure_search(
    test: Embedded,
    way: Direction,
    ranks: Ranks,
    weights: UInt8[np.ndarray, "r n"],
    ks: Sequence[int],
) -> Iterator[Measured]:
    """Measure one direction: Recall@K, median rank, mAP@K, label Jaccard@K.

    Queries are resampled by patient, the gallery stays.

    Args:
        test: The test rows.
        way: The direction.
        ranks: Of ``rank_matches``.
        weights: Resamples of all test rows.
        ks: As far as the gallery reaches.
    """
    ks = tuple(k for k in ks if k <= len(way.rows)) or (1,)
    drawn = weights[:, way.rows]
    yield from _measure_at_k(test, way, drawn, "recall", ranks.recall(ks))
    yield _measure_rank(test, way, drawn, ranks)
    precision = average_precision_at_k(way.search, query_key=way.key, gallery_key=way.key, ks=ks)
    yield from _measure_at_k(test, way, drawn, "mAP", precision)
    if ((labels := stack_labels(test)[way.rows]) == 1).any():
        jaccard = label_jaccard_at_k(way.search, query_labels=labels, gallery_labels=labels, ks=ks)
        yield from _measure_at_k(test, way, drawn, "label Jaccard", jaccard)


def measure_same(
    test: Embedded, weights: UInt8[np.ndarray, "r n"], ks: Sequence[int], device: str
) -> Iterator[Measured]:
    """Measure how radiographs find others with the same findings; itself is not in the gallery."""
    rows = np.flatnonzero(test.has(Modality.CXR))
    labels = stack_labels(test)[rows]
    ks = tuple(k for k in ks if k < len(rows))
    if not labels.shape[1] or not ks or not (labels == 1).any():
        return
    vectors = test.vectors[Modality.CXR][rows]
    search = Search(queries=vectors, gallery=vectors, exclude=np.arange(len(rows)), device=device)
    way = Direction(task="cxr to cxr", rows=rows, search=search, key=test.study[rows])
    drawn = weights[:, rows]
    for name, found in (
        ("label mAP", label_average_precision_at_k(
            search, query_labels=labels, gallery_labels=labels, ks=ks)),
        ("label Jaccard", label_jaccard_at_k(
            search, query_labels=labels, gallery_labels=labels, ks=ks)),
    ):  # fmt: skip
        yield from _measure_at_k(test, way, drawn, name, found)


def measure_reconstructions(
    whole: Embedded, weights: UInt8[np.ndarray, "r n"], ks: Sequence[int], device: str,
    known: Set[str],
) -> Iterator[Measured]:  # fmt: skip
    """Measure Recall@K with all rows in the gallery: exact, and by scan.

    Several reconstructions of a scan share its report. Exact counts the very row alone, by scan
    any row of the scan. Nothing is said where every scan has one row.

    Args:
        whole: All test rows.
        weights: Resamples of them.
        ks: As far as the gallery reaches.
        device: Where to compute.
        known: As of ``list_directions``.
    """
    if len(pick_first(whole.study)) == len(whole):
        return
    for way in list_directions(whole, device, known):
        for name, key in (("exact", np.arange(len(way.rows))), ("by scan", whole.study[way.rows])):
            ranks = find_ranks(way.search, query_key=key, gallery_key=key)
            kept = tuple(k for k in ks if k <= len(way.rows))
            yield from _measure_at_k(
                whole, way, weights[:, way.rows], "recall", ranks.recall(kept), f", {name}"
            )


def _measure_at_k(
    test: Embedded, way: Direction, drawn: UInt8[np.ndarray, "r n"], name: str, found: PerQuery,
    ending: str = "",
) -> Iterator[Measured]:  # fmt: skip
    """Make a number of each K."""
    replicates = resample_mean(found.values, drawn)
    value, chance = found.mean(), found.mean_chance()
    for i, k in enumerate(found.ks):
        yield make_measured(
            lambda k=k, **ends: Score(
                model=test.model, task=f"{way.task}{ending}", measure=f"{name}@{k}",
                value=value[k], chance=chance[k], n=len(way.rows), **ends,
            ), replicates[:, i],
        )  # fmt: skip


def _measure_rank(
    test: Embedded, way: Direction, drawn: UInt8[np.ndarray, "r n"], ranks: Ranks
) -> Measured:
    """Make the number of the median rank."""
    told = ranks.summarize()
    return make_measured(
        lambda **ends: Score(
            model=test.model, task=way.task, measure="median rank", value=told.median_rank,
            chance=told.chance_rank, n=len(way.rows), **ends,
        ), resample_median(ranks.rank, drawn),
    )  # fmt: skip


def draw_recall(
    test: Embedded, way: Direction, ranks: Ranks, weights: UInt8[np.ndarray, "r n"]
) -> Curve:
    """Draw Recall@K over K, with its band."""
    n = len(way.rows)
    ks = np.unique(np.round(np.geomspace(1, n, _CURVE_POINTS)).astype(int))
    found = ranks.recall(ks.tolist())
    low, high = find_band(resample_mean(found.values, weights[:, way.rows]))
    return Curve(
        model=test.model, task=way.task, kind="recall", label=None, x=ks.astype(float),
        y=found.values.mean(0), low=low, high=high, chance=found.chance.mean(0),
    )  # fmt: skip


def pick_hits(test: Embedded, way: Direction, ranks: Ranks) -> Iterator[Hit]:
    """Pick examples from the best query to the worst, evenly by rank: nothing is chosen by eye."""
    order = np.argsort(ranks.rank, kind="stable")
    picked = order[np.unique(np.linspace(0, len(order) - 1, _EXAMPLES).round().astype(int))]
    search = replace(way.search, queries=way.search.queries[picked])
    top = find_top(search, min(_SHOWN, len(order)))
    for i, query in enumerate(picked.tolist()):
        found = top.rows[i]
        yield Hit(
            model=test.model, task=way.task, query=int(way.rows[query]),
            found=tuple(way.rows[found].tolist()), scores=tuple(top.scores[i].tolist()),
            is_match=tuple((way.key[found] == way.key[query]).tolist()),
            rank=float(ranks.rank[query]),
        )  # fmt: skip


def stack_labels(test: Embedded) -> Int64[np.ndarray, "n l"]:
    """Labels as a matrix."""
    empty = np.zeros((len(test), 0), np.int64)
    return np.stack(list(test.labels.values()), axis=1) if test.labels else empty
