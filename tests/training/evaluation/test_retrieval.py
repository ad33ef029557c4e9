from collections.abc import Callable
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from drrgen_training.evaluation.retrieval import (
    Empty,
    PerQuery,
    Search,
    average_precision_at_k,
    find_ranks,
    find_top,
    label_average_precision_at_k,
    label_jaccard_at_k,
    measure_retrieval,
    pick_first,
)
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from drrgen.errors import InputError

RANDOM = np.random.default_rng(0)
KS = (1, 2, 3, 5, 40)  # 40: more than any gallery of these tests has


def make_unit(n: int, e: int = 8) -> np.ndarray:
    x = RANDOM.normal(size=(n, e))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def score(scores: object, **more: object) -> Search:
    """A search whose scores are these, a row for each query."""
    table = np.array(scores, dtype=float)
    return Search(queries=np.eye(len(table)), gallery=table.T.copy(), **more)


def make_tied(seed: int, most: int) -> tuple[Search, dict[str, np.ndarray]]:
    """A search with many ties; some queries exclude a row. Scores are small whole numbers."""
    random = np.random.default_rng(seed)
    n, m, e = random.integers(1, 5), random.integers(2, most + 1), random.integers(1, 3)
    search = Search(
        queries=random.integers(-1, 2, (n, e)).astype(float),
        gallery=random.integers(-1, 2, (m, e)).astype(float),
        exclude=random.integers(-1, m, n) if seed % 2 else None,
    )
    return search, {
        "query_key": random.integers(0, 3, n),
        "gallery_key": random.integers(0, 3, m),
        "query_labels": random.integers(-1, 2, (n, 3)),
        "gallery_labels": np.concatenate([random.integers(-1, 2, (m - 1, 3)), [[1, 0, 1]]]),
    }


def list_allowed(search: Search, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows that a query may find, and their scores."""
    rows = np.arange(len(search.gallery))
    if search.exclude is not None:
        rows = rows[rows != search.exclude[i]]
    return rows, search.gallery[rows] @ search.queries[i]


def average_over_orders(scores: np.ndarray, gains: np.ndarray, measure: Callable) -> np.ndarray:
    """Mean of a measure of sorted gains over all orders of equal scores."""
    every = [np.array(order) for order in permutations(range(len(scores)))]
    return np.mean([measure(gains[o][np.argsort(-scores[o], kind="stable")]) for o in every], 0)


def give_precision(gains: np.ndarray, k: int) -> float:
    """AP@K by its definition."""
    hits = [gains[:i].sum() / i for i in range(1, min(k, len(gains)) + 1) if gains[i - 1]]
    return sum(hits) / min(k, gains.sum()) if gains.sum() else float("nan")


def give_jaccard(a: np.ndarray, b: np.ndarray, none: float) -> float:
    known = (a >= 0) & (b >= 0)
    either = known & ((a == 1) | (b == 1))
    return float((known & (a == 1) & (b == 1)).sum() / either.sum()) if either.any() else none


# Ranks and recall.


def test_perfect_embeddings_find_their_match_first() -> None:
    x, key = make_unit(50), np.arange(50)
    found = measure_retrieval(x, x, query_key=key, gallery_key=key)
    assert found.recall == {1: 1.0, 5: 1.0, 10: 1.0} and found.median_rank == 1
    assert found.chance == pytest.approx({1: 0.02, 5: 0.1, 10: 0.2})
    assert found.chance_rank == 25.5 and found.reciprocal == 1
    assert (found.queries, found.gallery) == (50, 50)


def test_opposite_embeddings_find_their_match_last() -> None:
    x, key = make_unit(50), np.arange(50)
    ranks = find_ranks(Search(queries=-x, gallery=x), query_key=key, gallery_key=key)
    assert (ranks.rank == 50).all()


def test_random_embeddings_do_as_chance_says() -> None:
    """With one match and with four matches of each query."""
    for copies in (1, 4):
        key = np.repeat(np.arange(100), copies)
        rounds = [
            measure_retrieval(make_unit(len(key)), make_unit(len(key)), query_key=key, gallery_key=key)
            for _ in range(12)
        ]  # fmt: skip
        mean = np.mean([r.recall[10] for r in rounds])
        assert mean == pytest.approx(rounds[0].chance[10], rel=0.2)
        mean = np.mean([r.reciprocal for r in rounds])
        assert mean == pytest.approx(rounds[0].chance_reciprocal, rel=0.2)


def test_chance_is_that_of_all_orders() -> None:
    """Two matches among five: first rank 1 to 4 in 4, 3, 2, 1 of 10 pairs of places."""
    key = np.array([0, 0, 1, 2, 3])
    search = score(np.zeros((1, 5)))
    ranks = find_ranks(search, query_key=np.array([0]), gallery_key=key)
    assert ranks.recall((1, 2, 3, 4, 9)).chance[0] == pytest.approx([0.4, 0.7, 0.9, 1, 1])
    assert ranks.summarize().chance_reciprocal == pytest.approx(
        (4 / 1 + 3 / 2 + 2 / 3 + 1 / 4) / 10
    )
    assert ranks.summarize().chance_rank == 2.0


def test_ranks_are_those_of_sorting_by_hand() -> None:
    scores = [[0.9, 0.5, 0.7], [0.1, 0.2, 0.3], [0.5, 0.5, 0.5]]
    key = np.arange(3)
    ranks = find_ranks(score(scores), query_key=key, gallery_key=key)
    assert ranks.rank.tolist() == [1, 2, 2]  # the third is level with both: the middle of three
    assert ranks.recall((1, 2, 3)).values.tolist() == [[1, 1, 1], [0, 1, 1], [0, 1, 1]]
    assert ranks.recall((2,)).mean() == {2: 1.0}


def test_ties_gain_nothing() -> None:
    """All embeddings alike: what chance gives, not first place."""
    x, key = np.ones((21, 4)), np.arange(21)
    found = measure_retrieval(x, x, query_key=key, gallery_key=key, ks=(5,))
    assert found.median_rank == 11 and found.recall[5] == 0


def test_another_match_is_not_in_the_way() -> None:
    ranks = find_ranks(score([[3, 3, 2, 3, 1]]), query_key=np.array([7]),
                       gallery_key=np.array([7, 7, 7, 0, 0]))  # fmt: skip
    assert ranks.rank.tolist() == [1.5] and ranks.matches.tolist() == [3]


def test_exact_and_by_scan_differ_by_the_key_alone() -> None:
    """Two reconstructions of a scan: the other one comes first."""
    search = score([[0.8, 0.9, 0.1], [0.9, 0.8, 0.1], [0, 0, 1]])
    row, study = np.arange(3), np.array([5, 5, 6])
    exact = find_ranks(search, query_key=row, gallery_key=row)
    by_scan = find_ranks(search, query_key=study, gallery_key=study)
    assert exact.recall((1,)).values[:, 0].tolist() == [0, 0, 1]
    assert by_scan.recall((1,)).values[:, 0].tolist() == [1, 1, 1]


def test_a_query_that_excludes_itself_must_find_its_scan() -> None:
    x = np.array([[1.0, 0], [0.6, 0.8], [0.8, 0.6], [0, 1.0]])
    study = np.array([1, 1, 2, 2])
    search = Search(queries=x, gallery=x, exclude=np.arange(4))
    ranks = find_ranks(search, query_key=study, gallery_key=study)
    # 0 sees 2 (.8), 1 (.6), 3 (0); 1 sees 2 (.96), 3 (.8), 0 (.6); 2 sees 1, 0, 3; 3 sees 1, 2, 0.
    assert ranks.rank.tolist() == [2, 3, 3, 2]
    assert ranks.matches.tolist() == [1] * 4 and ranks.among.tolist() == [3] * 4
    assert ranks.recall((1,)).chance[:, 0] == pytest.approx(1 / 3)


def test_a_query_without_a_match_is_told() -> None:
    with pytest.raises(InputError, match="1 of 2 queries have no match"):
        measure_retrieval(
            np.eye(2), np.eye(2), query_key=np.array([0, 5]), gallery_key=np.array([0, 1])
        )
    alone = Search(queries=np.eye(2), gallery=np.eye(2), exclude=np.array([0, -1]))
    for measure in (find_ranks, average_precision_at_k):
        with pytest.raises(InputError, match="1 of 2 queries have no match"):
            measure(alone, query_key=np.arange(2), gallery_key=np.arange(2))


def test_one_row_of_each_scan_is_kept_in_order() -> None:
    assert pick_first(np.array([4, 2, 4, 0, 2])).tolist() == [0, 1, 3]


# Average precision.


def test_average_precision_is_the_sum_by_hand() -> None:
    search = score([[9, 8, 7, 6, 5]])
    found = average_precision_at_k(
        search, query_key=np.array([1]), gallery_key=np.array([1, 0, 1, 0, 1]), ks=KS
    )
    # Hits at 1, 3, 5 with precision 1, 2/3, 3/5; divided by 1, 2, 3, 3, 3.
    assert found.values[0] == pytest.approx(
        [1, 1 / 2, (1 + 2 / 3) / 3, (1 + 2 / 3 + 3 / 5) / 3, (1 + 2 / 3 + 3 / 5) / 3]
    )


def test_average_precision_of_all_is_that_of_scikit_learn() -> None:
    x, y, key = make_unit(40), make_unit(60), np.arange(60) % 7
    found = average_precision_at_k(
        Search(queries=x, gallery=y), query_key=key[:40], gallery_key=key, ks=(60,)
    )
    wanted = [average_precision_score(key == key[i], y @ x[i]) for i in range(40)]
    assert found.values[:, 0] == pytest.approx(wanted, abs=1e-12)


def test_average_precision_of_ties_is_the_mean_over_their_orders() -> None:
    """One item before three that are level, of which one is relevant; K cuts through them."""
    search = score([[9, 5, 5, 5]])
    found = average_precision_at_k(
        search, query_key=np.array([1]), gallery_key=np.array([1, 0, 1, 0]), ks=(1, 2, 3, 4)
    )
    # The second hit is at 2, 3 or 4, each by a third, with precision 2/2, 2/3, 2/4.
    assert found.values[0] == pytest.approx(
        [1, (1 + 1 / 3) / 2, (1 + (1 + 2 / 3) / 3) / 2, (1 + (1 + 2 / 3 + 1 / 2) / 3) / 2]
    )


def test_chance_of_average_precision_is_that_of_all_orders() -> None:
    key = np.array([1, 1, 0, 0, 0])
    found = average_precision_at_k(
        score([[5, 4, 3, 2, 1]]), query_key=np.array([1]), gallery_key=key, ks=KS
    )
    for k, chance in zip(KS, found.chance[0], strict=True):
        every = [give_precision(np.array(order), k) for order in permutations(key)]
        assert chance == pytest.approx(np.mean(every), abs=1e-12)
    assert found.values[0].tolist() == [1.0] * 5


def test_chance_of_average_precision_counts_nothing_behind_the_end() -> None:
    search = score([[1, 1, 1]], exclude=np.array([2]))
    found = average_precision_at_k(
        search, query_key=np.array([1]), gallery_key=np.array([1, 0, 1]), ks=(2, 3, 9)
    )
    assert found.chance[0] == pytest.approx([0.75] * 3)  # at 1 or at 2: (1 + 1/2) / 2
    assert found.values[0] == pytest.approx([0.75] * 3)


def test_relevance_by_labels_is_one_that_both_have() -> None:
    labels = np.array([[1, 1, 0], [0, 1, -1], [-1, 0, 1], [0, 0, 0]])
    search = score([[9, 8, 7, 6]] * 4)
    found = label_average_precision_at_k(
        search, query_labels=labels, gallery_labels=labels, ks=(2,)
    )
    # Row 0 shares with 0 and 1; row 1 likewise; row 2 with itself, third; row 3 with none.
    assert found.values[:3, 0] == pytest.approx([1, 1, 0]) and np.isnan(found.values[3, 0])
    assert np.isnan(found.chance[3, 0])
    assert found.mean() == pytest.approx({2: 2 / 3})


# Jaccard of labels.


def test_jaccard_of_labels_is_the_mean_of_the_first_by_hand() -> None:
    labels = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 1], [0, 0, 0]])
    search = score([[9, 8, 7, 6, 10]])
    found = label_jaccard_at_k(
        search, query_labels=labels[:1], gallery_labels=labels, ks=(1, 2, 3, 4, 9)
    )
    each = [1, 1 / 2, 2 / 3, 0]  # the last row has no finding and is not in the gallery
    assert found.values[0] == pytest.approx([np.mean(each[:k]) for k in (1, 2, 3, 4, 4)])
    assert found.chance[0] == pytest.approx([np.mean(each)] * 5)


def test_a_query_does_not_find_itself_if_it_is_excluded() -> None:
    labels = np.array([[1, 0], [0, 1], [1, 1]])
    x = make_unit(3)
    itself = label_jaccard_at_k(
        Search(queries=x, gallery=x), query_labels=labels, gallery_labels=labels, ks=(1,)
    )
    assert itself.mean() == {1: 1.0}
    search = score([[9, 8, 7], [9, 8, 7], [9, 8, 7]], exclude=np.arange(3))
    others = label_jaccard_at_k(search, query_labels=labels, gallery_labels=labels, ks=(1, 2))
    assert others.values == pytest.approx(np.array([[0, 1 / 4], [0, 1 / 4], [1 / 2, 1 / 2]]))
    assert others.chance == pytest.approx(np.array([[1 / 4] * 2, [1 / 4] * 2, [1 / 2] * 2]))


def test_rows_are_excluded_in_a_gallery_that_others_left() -> None:
    """The first row has no finding and leaves; the row to exclude is still the right one."""
    labels = np.array([[0, 0], [1, 0], [0, 1]])
    search = score([[9, 8, 7]], exclude=np.array([1]))
    found = label_jaccard_at_k(search, query_labels=labels[1:2], gallery_labels=labels, ks=(1,))
    assert found.values.tolist() == [[0]]
    gone = score([[9, 8, 7]], exclude=np.array([0]))
    found = label_jaccard_at_k(gone, query_labels=labels[1:2], gallery_labels=labels, ks=(1, 2))
    assert found.values.tolist() == [[1, 0.5]]


def test_items_without_a_finding_leave_or_agree() -> None:
    labels = np.array([[0, 0], [1, 0], [0, 0]])
    search = score([[9, 8, 7]] * 3)
    given = {"query_labels": labels, "gallery_labels": labels, "ks": (1, 2, 3)}
    left = label_jaccard_at_k(search, **given)
    assert left.values[1].tolist() == [1, 1, 1] and np.isnan(left.values[[0, 2]]).all()
    assert np.isnan(left.chance[[0, 2]]).all() and left.mean() == {1: 1, 2: 1, 3: 1}
    agree = label_jaccard_at_k(search, **given, empty=Empty.AGREE)
    assert agree.values == pytest.approx(np.array([[1, 1 / 2, 2 / 3], [0, 1 / 2, 1 / 3],
                                                   [1, 1 / 2, 2 / 3]]))  # fmt: skip
    with pytest.raises(InputError, match="none of 3 items of the gallery has a positive label"):
        label_jaccard_at_k(search, query_labels=labels, gallery_labels=labels * 0)


def test_a_label_unknown_in_one_does_not_count_for_both() -> None:
    query = np.array([[1, 1, -1]])
    items = np.array([[1, -1, 1], [1, 0, 0], [-1, -1, 1]])
    found = label_jaccard_at_k(
        score([[9, 8, 7]]), query_labels=query, gallery_labels=items, ks=(1, 2, 3)
    )
    # Only the first label is known of both: 1/1. Then 1/2. Then nothing: 0.
    assert found.values[0] == pytest.approx([1, 3 / 4, 1 / 2])


def test_a_lone_query_that_excludes_itself_has_no_value() -> None:
    search = score([[1]], exclude=np.array([0]))
    found = label_jaccard_at_k(search, query_labels=np.array([[1]]), gallery_labels=np.array([[1]]))
    assert np.isnan(found.values).all() and np.isnan(found.mean()[1])


# Examples.


def test_the_best_come_first_and_the_earlier_of_equals() -> None:
    top = find_top(score([[0.5, 0.25, 0.5, 0.75, 0.5], [0, 0, 0, 0, 0]]), 3)
    assert top.rows.tolist() == [[3, 0, 2], [0, 1, 2]]
    assert top.scores.tolist() == [[0.75, 0.5, 0.5], [0, 0, 0]]
    # Level with what is no longer among the first, and with nothing before it.
    assert find_top(score([[0.9, *[0.5] * 5]]), 2).rows.tolist() == [[0, 1]]
    other = find_top(score([[0.5, 0.25, 0.75]], exclude=np.array([2])), 2)
    assert other.rows.tolist() == [[0, 1]]
    for k in (0, 3):
        with pytest.raises(InputError, match="wanted 1 to 2"):
            find_top(score([[1, 2, 3]], exclude=np.array([0])), k)


def test_scores_are_the_cosines() -> None:
    x, y = make_unit(20, 64), make_unit(30, 64)
    top = find_top(Search(queries=x * 100, gallery=y / 8), 30)
    wanted = np.sort(x @ y.T * 100 / 8, axis=1)[:, ::-1]
    assert top.scores == pytest.approx(wanted, abs=12.5e-7)  # one part in ten million of a cosine


# Exactness.


@given(st.integers(0, 10_000))
def test_everything_is_as_sorting_says(seed: int) -> None:
    """Brute force over all orders of equal scores, of which there are many."""
    search, told = make_tied(seed, 5)
    labels = {name: told[name] for name in ("query_labels", "gallery_labels")}
    shared = label_average_precision_at_k(search, **labels, ks=KS)
    agree = label_jaccard_at_k(search, **labels, ks=KS, empty=Empty.AGREE)
    top = find_top(search, int(search.among.min()))
    for i in range(len(search.queries)):
        rows, scores = list_allowed(search, i)
        order = rows[np.argsort(-scores, kind="stable")]
        assert top.rows[i].tolist() == order[: top.rows.shape[1]].tolist()
        gains = ((labels["query_labels"][i] == 1) & (labels["gallery_labels"][rows] == 1)).any(1)
        jaccard = np.array([
            give_jaccard(labels["query_labels"][i], each, 1.0)
            for each in labels["gallery_labels"][rows]
        ])  # fmt: skip
        assert agree.chance[i] == pytest.approx(jaccard.mean(), abs=1e-12)
        wanted = average_over_orders(scores, gains, lambda g: [give_precision(g, k) for k in KS])
        assert shared.values[i] == pytest.approx(wanted, abs=1e-12, nan_ok=True)
        wanted = average_over_orders(scores, jaccard, lambda g: [g[:k].mean() for k in KS])
        assert agree.values[i] == pytest.approx(wanted, abs=1e-12)


@given(st.integers(0, 10_000))
def test_the_rank_is_that_of_counting(seed: int) -> None:
    search, told = make_tied(seed, 30)
    keys = {name: told[name] for name in ("query_key", "gallery_key")}
    allowed = [list_allowed(search, i) for i in range(len(search.queries))]
    hits = [
        keys["gallery_key"][rows] == keys["query_key"][i] for i, (rows, _) in enumerate(allowed)
    ]
    if not all(hit.any() for hit in hits):
        with pytest.raises(InputError, match="no match"):
            find_ranks(search, **keys)
        return
    ranks = find_ranks(search, **keys)
    for i, ((_, scores), hit) in enumerate(zip(allowed, hits, strict=True)):
        best = scores[hit].max()
        wanted = 1 + (scores[~hit] > best).sum() + Fraction(int((scores[~hit] == best).sum()), 2)
        assert ranks.rank[i] == wanted and ranks.matches[i] == hit.sum()


def measure_all(search: Search, told: dict[str, np.ndarray]) -> list[np.ndarray]:
    labels = {name: told[name] for name in ("query_labels", "gallery_labels")}
    keys = {name: told[name] for name in ("query_key", "gallery_key")}
    ranks = find_ranks(search, **keys)
    made: list[PerQuery] = [
        ranks.recall(KS),
        average_precision_at_k(search, **keys, ks=KS),
        label_average_precision_at_k(search, **labels, ks=KS),
        label_jaccard_at_k(search, **labels, ks=KS),
    ]
    return [ranks.rank, *(array for each in made for array in (each.values, each.chance))]


def make_large() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Float32 vectors of which many are equal, and the queries among them."""
    x = make_unit(40, 33).astype(np.float32)[RANDOM.integers(0, 40, 301)]
    labels = RANDOM.integers(-1, 2, (301, 18))
    key = RANDOM.integers(0, 25, 301)
    return {"queries": x, "gallery": x, "exclude": np.arange(301)}, {
        "query_key": key, "gallery_key": key, "query_labels": labels, "gallery_labels": labels
    }  # fmt: skip


def test_the_size_of_a_chunk_changes_no_bit() -> None:
    vectors, told = make_large()
    whole = measure_all(Search(**vectors, chunk=1000), told)
    for chunk in (1, 7, 300):
        search = Search(**vectors, chunk=chunk)
        for a, b in zip(whole, measure_all(search, told), strict=True):
            assert a.tobytes() == b.tobytes()
        assert np.array_equal(find_top(search, 9).rows, find_top(Search(**vectors), 9).rows)


def test_the_order_of_the_rows_changes_no_bit() -> None:
    """Equal vectors stay level wherever they stand in a matrix product."""
    vectors, told = make_large()
    new = RANDOM.permutation(301)
    moved = Search(queries=vectors["queries"][new], gallery=vectors["gallery"][new],
                   exclude=np.arange(301))  # fmt: skip
    told_moved = {name: each[new] for name, each in told.items()}
    for a, b in zip(
        measure_all(Search(**vectors), told), measure_all(moved, told_moved), strict=True
    ):
        assert a[new].tobytes() == b.tobytes()


def test_copies_of_a_vector_are_level() -> None:
    """Long float32 vectors, where a product that rounds would tell copies apart."""
    x = make_unit(1, 768).astype(np.float32)
    search = Search(queries=make_unit(5, 768).astype(np.float32), gallery=np.repeat(x, 1001, 0))
    ranks = find_ranks(search, query_key=np.arange(5), gallery_key=np.arange(1001))
    assert ranks.rank.tolist() == [501] * 5


# What is refused.


@pytest.mark.parametrize("side", ["queries", "gallery"])
def test_vectors_that_are_not_finite_are_refused(side: str) -> None:
    for value in (np.nan, np.inf):
        bad = np.eye(3)
        bad[1, 2] = value
        with pytest.raises(InputError, match=f"{side}: 1 of 3 vectors are NaN or infinite"):
            Search(**{"queries": np.eye(3), "gallery": np.eye(3), side: bad})
    with pytest.raises(InputError, match=f"{side}: 0 of 0 vectors"):
        Search(**{"queries": np.eye(3), "gallery": np.eye(3), side: np.ones((0, 3))})


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"exclude": np.array([0, 3, 1])}, "exclude names rows 0 to 3, wanted"),
        ({"exclude": np.array([0, -2, 1])}, "exclude names rows -2 to 1, wanted"),
        ({"chunk": 0}, "got chunk 0 on device cpu"),
        ({"device": "mps"}, "on device mps, wanted"),
    ],
)
def test_a_search_that_cannot_be_is_refused(given: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        Search(queries=np.eye(3), gallery=np.eye(3), **given)


def test_other_sizes_are_refused() -> None:
    key, labels = np.arange(3), np.ones((3, 2), int)
    search = Search(queries=np.eye(3), gallery=np.eye(3))
    with pytest.raises(InputError, match="queries have 3 dimensions and the gallery 4"):
        Search(queries=np.ones((2, 3)), gallery=np.ones((2, 4)))
    with pytest.raises(InputError, match="gallery_key has 2 rows, wanted 3"):
        find_ranks(search, query_key=key, gallery_key=key[:2])
    with pytest.raises(InputError, match="query_labels has 2 rows, wanted 3"):
        label_jaccard_at_k(search, query_labels=labels[:2], gallery_labels=labels)
    for ks in ((), (0, 1)):
        with pytest.raises(InputError, match=r"ks: got .*, wanted whole numbers from 1"):
            average_precision_at_k(search, query_key=key, gallery_key=key, ks=ks)
