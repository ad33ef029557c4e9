import math
from collections.abc import Callable

import numpy as np
import pytest
from drrgen_training.evaluation.classification import measure_auroc
from drrgen_training.evaluation.published import (
    AVERAGES,
    FAULTS,
    Compat,
    bootstrap_ctclip,
    find_corner_threshold,
    flatten_micro,
    measure_ctclip_classification,
    measure_ctclip_label,
    measure_ctclip_map,
    measure_recall,
    measure_x2ct_map,
    measure_x2ct_probe,
    measure_x2ct_recall,
    measure_x2ct_zero_shot,
    publish_classification,
    publish_retrieval,
)
from drrgen_training.evaluation.retrieval import (
    Search,
    find_ranks,
    label_average_precision_at_k,
    label_jaccard_at_k,
)

from drrgen.errors import InputError

# Four rows. Each finds itself first, then the others in the order of the columns' scores.
SCORES = np.array(
    [
        [9, 3, 2, 1],  # finds 0, 1, 2, 3
        [1, 9, 2, 3],  # finds 1, 3, 2, 0
        [3, 1, 9, 2],  # finds 2, 0, 3, 1
        [3, 2, 1, 9],  # finds 3, 0, 1, 2
    ],
    dtype=float,
)
LABELS = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]])
EYE = np.eye(4)
# Row 3 has no finding and is not in the gallery. Overlaps with what is found of rows 0, 1, 2:
#   0: itself 1, row 1 1/2, row 2 0      1: itself 1, row 2 0, row 0 1/2
#   2: itself 1, row 0 0, row 1 0        3: nothing in common with any: 0, 0, 0
FIRST = (1 + 1 + 1 + 0) / 4
SECOND = (3 / 4 + 1 / 2 + 1 / 2 + 0) / 4
THIRD = (1 / 2 + 1 / 2 + 1 / 3 + 0) / 4


def test_map_of_x2ct_is_the_overlap_of_labels_with_the_query_in_the_gallery() -> None:
    found = measure_x2ct_map(
        EYE, SCORES.T.copy(), query_labels=LABELS, gallery_labels=LABELS, ks=(1, 2, 3, 50)
    )
    assert found == pytest.approx({"MAP@1": FIRST, "MAP@2": SECOND, "MAP@3": THIRD,
                                   "MAP@50": THIRD})  # fmt: skip


def test_map_of_ctclip_carries_the_smaller_k_along() -> None:
    found = measure_ctclip_map(
        EYE, SCORES.T.copy(), query_labels=LABELS, gallery_labels=LABELS, ks=(1, 2, 3)
    )
    assert found == pytest.approx(
        {"MAP@1": FIRST, "MAP@2": (FIRST + SECOND) / 2, "MAP@3": (FIRST + SECOND + THIRD) / 3}
    )
    assert found["MAP@3"] > THIRD
    with pytest.raises(InputError, match="wanted them to rise"):
        measure_ctclip_map(
            EYE, SCORES.T.copy(), query_labels=LABELS, gallery_labels=LABELS, ks=(2, 1)
        )


def test_the_right_numbers_are_others() -> None:
    """Itself excluded, and the query without a finding left out of the mean."""
    search = Search(queries=EYE, gallery=SCORES.T.copy(), exclude=np.arange(4))
    given = {"query_labels": LABELS, "gallery_labels": LABELS, "ks": (1, 2)}
    # The first of others: row 1 (1/2), row 2 (0), row 0 (0).
    assert label_jaccard_at_k(search, **given).mean() == pytest.approx(
        {1: 1 / 6, 2: (1 / 4 + 1 / 4 + 0) / 3}
    )
    # Rows 0 and 1 share a label: 0 finds 1 first; 1 finds 0 last, of three.
    assert label_average_precision_at_k(search, **given).mean() == pytest.approx({1: 0.5, 2: 0.5})


def test_equal_scores_keep_the_order_of_rows_in_published_numbers() -> None:
    """All alike: the first row of the gallery, always."""
    same = np.ones((3, 2))
    labels = np.array([[0, 0], [1, 0], [0, 1]])
    found = measure_x2ct_map(same, same, query_labels=labels, gallery_labels=labels, ks=(1,))
    assert found == pytest.approx({"MAP@1": 1 / 3})  # row 1 with itself; 0 and 2 with row 1: none
    assert measure_recall(same, same, ks=(1, 2)) == pytest.approx(
        {"Recall@1": 1 / 3, "Recall@2": 2 / 3}
    )


def test_recall_counts_the_own_row_alone() -> None:
    """Rows 0 and 1 are of one scan with one report: the second is never first."""
    scores = np.array([[5, 5, 1, 0], [5, 5, 0, 1], [3, 4, 2, 1], [3, 2, 1, 4]], dtype=float)
    found = measure_recall(EYE, scores.T.copy(), ks=(1, 2, 3, 100))
    assert found == {"Recall@1": 0.5, "Recall@2": 0.75, "Recall@3": 1.0, "Recall@100": 1.0}
    study = np.array([0, 0, 1, 2])
    right = find_ranks(Search(queries=EYE, gallery=scores.T.copy()), query_key=study,
                       gallery_key=study).recall((1, 2, 3))  # fmt: skip
    assert right.mean() == {1: 0.75, 2: 0.75, 3: 1.0}


def test_in_the_later_recall_of_x2ct_k_acts_as_half_of_it() -> None:
    """120 rows, of which row i is found at place i + 1."""
    n = 120
    place = np.array([[(j - i) % n if j != i else 0 for j in range(n)] for i in range(n)])
    for i in range(n):  # swap the own row, first so far, with the one at place i
        other = np.flatnonzero(place[i] == i)[0]
        place[i, [i, other]] = place[i, [other, i]]
    queries, gallery = np.eye(n), -place.T.astype(float)
    earlier = measure_x2ct_recall(queries, gallery, version="earlier")
    later = measure_x2ct_recall(
        queries, gallery, version="later", ks=(1, 2, 3, 5, 10, 50, 100, 999)
    )
    assert earlier == measure_recall(queries, gallery)
    assert earlier == pytest.approx({f"Recall@{k}": k / n for k in (5, 10, 50, 100)})
    acts = {1: 1, 2: 1, 3: 2, 5: 3, 10: 5, 50: 25, 100: 50, 999: 120}
    assert later == pytest.approx({f"Recall@{k}": half / n for k, half in acts.items()})


def test_the_later_list_of_x2ct_holds_ties_in_the_order_it_was_made() -> None:
    """Items 0 and 1 are level: the list is 0, 1, 0, 1, so the second is found at 2, not at 3."""
    same = np.ones((2, 2))
    found = measure_x2ct_recall(same, same, version="later", ks=(1, 2))
    assert found == {"Recall@1": 0.5, "Recall@2": 1.0}


# Classification.

# Sorted: 0.1 - | 0.2 + | 0.3 - | 0.6 + | 0.8 - | 0.9 +
PROBABILITIES = np.array([0.1, 0.2, 0.3, 0.6, 0.8, 0.9])
TRUTH = np.array([0, 1, 0, 1, 0, 1])


def test_ctclip_numbers_of_a_label_by_hand() -> None:
    found = measure_ctclip_label(PROBABILITIES, TRUTH)
    # Pairs won: 0.2 beats 1, 0.6 beats 2, 0.9 beats 3, of 9.
    assert found["AUROC"] == pytest.approx(6 / 9)
    # Below 0.6: sensitivity 2/3 and false 1/3, nearest. The last of the grid below 0.6 is 59/99.
    assert found["Threshold"] == pytest.approx(59 / 99)
    assert found["Accuracy"] == pytest.approx(4 / 6)
    assert found["Precision"] == pytest.approx(2 / 3)
    assert found["F1"] == pytest.approx(2 / 3)


def test_ctclip_f1_is_weighted_by_class_and_not_that_of_the_finding() -> None:
    """One positive of ten, and two told: the positive and one more."""
    truth = np.array([1, *[0] * 9])
    probabilities = np.array([0.7, 0.9, *[0.1] * 8])
    found = measure_ctclip_label(probabilities, truth)
    positive, negative = 2 * 1 / (2 * 1 + 1), 2 * 8 / (2 * 8 + 1)
    assert found["F1"] == pytest.approx(0.1 * positive + 0.9 * negative) != pytest.approx(positive)
    assert found["Precision"] == 0.5 and found["Accuracy"] == 0.9
    assert found["Threshold"] == pytest.approx(69 / 99)  # the last below 0.7


def test_the_corner_threshold_takes_the_last_of_equals_and_what_is_above_it() -> None:
    """Perfect between 0.4 and 0.6."""
    truth = np.array([0, 0, 1, 1])
    assert find_corner_threshold(np.array([0.1, 0.4, 0.6, 0.9]), truth) == pytest.approx(59 / 99)
    # A probability that is the threshold is not above it: 1 can never be the threshold here.
    assert find_corner_threshold(np.array([0.0, 0.0, 1.0, 1.0]), truth) == pytest.approx(98 / 99)
    assert find_corner_threshold(np.array([0.0, 0.0, 0.0, 1.0]), truth) == pytest.approx(98 / 99)


def test_the_threshold_fitted_on_the_test_data_flatters() -> None:
    """Probabilities that say nothing: the fitted accuracy is above that of any fixed threshold."""
    random = np.random.default_rng(3)
    truth = np.arange(40) % 2
    gains = []
    for _ in range(20):
        probabilities = random.random(40)
        fixed = ((probabilities > 0.5) == truth).mean()
        gains.append(measure_ctclip_label(probabilities, truth)["Accuracy"] - fixed)
    assert np.mean(gains) > 0.03


def test_ctclip_numbers_are_the_plain_mean_over_labels() -> None:
    both = np.stack([PROBABILITIES, 1 - PROBABILITIES], 1)
    truth = np.stack([TRUTH, TRUTH], 1)
    found = measure_ctclip_classification(both, truth)
    a, b = (measure_ctclip_label(both[:, i], TRUTH) for i in (0, 1))
    assert found == pytest.approx(
        {name: (a[name] + b[name]) / 2 for name in ("AUROC", "Accuracy", "Precision", "F1")}
    )
    assert found["AUROC"] == pytest.approx((6 / 9 + 3 / 9) / 2)


def test_the_interval_of_ctclip_has_no_width() -> None:
    assert bootstrap_ctclip({"AUROC": 0.7, "F1": 0.2}) == {"AUROC": (0.7, 0.7), "F1": (0.2, 0.2)}


def test_a_probability_that_is_ctclip_s_threshold_is_absent() -> None:
    """The last of the grid below 0.9 is 89/99; an absent row is there exactly."""
    level = float(np.linspace(0, 1, 100)[89])
    found = measure_ctclip_label(np.array([level, 0.9]), np.array([0, 1]))
    assert (found["Threshold"], found["Accuracy"]) == (level, 1.0)


def test_where_ctclip_tells_nothing_its_precision_is_zero() -> None:
    """All above or none: one class is wrong either way, and the last threshold is taken.

    F1 of presence is 0; of absence 2 * 1 / (2 * 1 + 1), and half of the rows are absent.
    """
    found = measure_ctclip_label(np.array([0.2, 0.8]), np.array([1, 0]))
    assert found == pytest.approx(
        {"AUROC": 0.0, "Threshold": 1.0, "Accuracy": 0.5, "Precision": 0.0, "F1": 2 / 3 / 2}
    )


def test_ctclip_mean_over_three_labels_is_no_median() -> None:
    """AUROC of 1, 1 and 0: the mean is 2/3."""
    truth = np.array([[0, 0, 1], [1, 1, 0]])
    found = measure_ctclip_classification(np.array([[0.2] * 3, [0.8] * 3]), truth)
    assert found["AUROC"] == pytest.approx(2 / 3)
    # Of the first two all is right; of the last nothing is told, as above.
    assert found["Accuracy"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert found["Precision"] == pytest.approx((1 + 1 + 0) / 3)
    assert found["F1"] == pytest.approx((1 + 1 + 1 / 3) / 3)


# Three labels of four rows; more than 0.5 is present.
MANY = np.array([[0.9, 0.2, 0.7], [0.8, 0.6, 0.6], [0.4, 0.3, 0.1], [0.1, 0.7, 0.9]])
MANY_TRUTH = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1]])
# Label 0: told 1 1 0 0: 1 right, 1 false, 1 missed. Pairs: .9 beats 2, .4 beats 1, of 4.
# Label 1: told 0 1 0 1: 1 right, 1 false, 0 missed. Pairs: .6 beats 2 of 3.
# Label 2: told 1 1 0 1: 2 right, 1 false, 0 missed. Pairs: .7 and .9 beat 2 each, of 4.
PRECISION, RECALL = np.array([1 / 2, 1 / 2, 2 / 3]), np.array([1 / 2, 1, 1])
F1 = np.array([1 / 2, 2 / 3, 4 / 5])
AUC = np.array([3 / 4, 2 / 3, 1])
# Precision at each hit: label 0 at 1 and 3; label 1 at 2; label 2 at 1 and 2.
AREA = np.array([(1 + 2 / 3) / 2, 1 / 2, 1])
SUPPORT = np.array([2, 1, 2]) / 5


def test_x2ct_numbers_of_many_labels_by_hand() -> None:
    found = measure_x2ct_probe(MANY, MANY_TRUTH)
    each = {"Precision": PRECISION, "Recall": RECALL, "F1": F1, "ROC-AUC": AUC, "PR-AUC": AREA}
    for name, values in each.items():
        assert found[f"macro {name}"] == pytest.approx(values.mean())
        assert found[f"weighted {name}"] == pytest.approx(values @ SUPPORT)
    # Pooled: 4 right of 7 told and of 5 that are there.
    assert found["micro Precision"] == pytest.approx(4 / 7)
    assert found["micro Recall"] == pytest.approx(4 / 5)
    assert found["micro F1"] == pytest.approx(2 * 4 / (7 + 5))
    # Pooled and sorted: .9+ .9+ .8- .7+ .7- .6+ .6- .4+ .3- .2- .1- .1-; 7 absent.
    # Pairs won: 7, 7, 5.5, 4.5, 4 of 7 each.
    assert found["micro ROC-AUC"] == pytest.approx((7 + 7 + 5.5 + 4.5 + 4) / 35)
    # Precision behind each run of equals: 2/2 (two hits), 3/5, 4/7, 5/8.
    assert found["micro PR-AUC"] == pytest.approx((2 * 1 + 3 / 5 + 4 / 7 + 5 / 8) / 5)


def test_the_later_auc_of_x2ct_is_that_of_the_last_label() -> None:
    earlier = measure_x2ct_probe(MANY, MANY_TRUTH, version="earlier")
    later = measure_x2ct_probe(MANY, MANY_TRUTH, version="later")
    for average in AVERAGES:
        assert later[f"{average} ROC-AUC"] == 1.0 != earlier[f"{average} ROC-AUC"]
    rest = [name for name in earlier if not name.endswith("ROC-AUC")]
    assert len(rest) == 12 and all(earlier[name] == later[name] for name in rest)
    turned = measure_x2ct_probe(MANY[:, ::-1], MANY_TRUTH[:, ::-1], version="later")
    assert turned["macro ROC-AUC"] == 3 / 4


def test_x2ct_tells_what_is_above_one_half_and_nothing_told_is_no_precision() -> None:
    """Label 0: one half is absent, so nothing is told. Label 1: all is right."""
    found = measure_x2ct_probe(
        np.array([[0.5, 0.9], [0.2, 0.1], [0.1, 0.1]]), np.array([[1, 1], [0, 0], [0, 0]])
    )
    for name in ("Precision", "Recall", "F1"):
        assert found[f"macro {name}"] == (0 + 1) / 2
    # Pooled: 1 right of 1 told and of 2 that are there.
    assert (found["micro Precision"], found["micro Recall"]) == (1, 1 / 2)
    assert found["micro F1"] == pytest.approx(2 / 3)


def test_zero_shot_of_x2ct_takes_the_larger_of_two_prompts() -> None:
    """A softmax of two scores that differ by log(p / (1 - p)) is p."""
    absent = np.random.default_rng(0).normal(size=MANY.shape)
    present = absent + np.log(MANY / (1 - MANY))
    for version in ("earlier", "later"):
        found = measure_x2ct_zero_shot(present, absent, MANY_TRUTH, version=version)
        # Macro, for micro meets ties that the logarithm breaks.
        wanted = measure_x2ct_probe(MANY, MANY_TRUTH, version=version)
        for name in ("Precision", "Recall", "F1", "ROC-AUC", "PR-AUC"):
            assert found[f"macro {name}"] == pytest.approx(wanted[f"macro {name}"])


def test_zero_shot_of_equal_prompts_is_absent() -> None:
    level = np.zeros((2, 2))
    found = measure_x2ct_zero_shot(level, level, np.array([[1, 0], [0, 1]]))
    assert found["micro Recall"] == 0.0 and found["macro ROC-AUC"] == 0.5


def test_micro_auc_rewards_prevalence_without_any_skill() -> None:
    """The same probability for all rows, that of the label: each label's AUROC is 0.5."""
    truth = np.array([[1, 0]] * 8 + [[0, 0], [0, 1]])
    prevalence = np.repeat(truth.mean(0)[None], 10, 0)
    found = measure_x2ct_probe(prevalence, truth)
    assert found["macro ROC-AUC"] == 0.5
    # Pooled: 9 present (8 at .8, 1 at .1), 11 absent (2 at .8, 9 at .1).
    assert found["micro ROC-AUC"] == pytest.approx((8 * (9 + 2 / 2) + 1 * 9 / 2) / 99)
    scores, labels = flatten_micro(prevalence, truth)
    assert measure_auroc(scores, labels) == pytest.approx(found["micro ROC-AUC"])


def test_the_list_for_delong_goes_row_by_row() -> None:
    probabilities = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    scores, labels = flatten_micro(probabilities, np.array([[0, 1, 1], [0, 0, 1]]))
    assert scores.tolist() == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6] and labels.tolist() == [
        0,
        1,
        1,
        0,
        0,
        1,
    ]


# As a whole.


def test_what_is_published_goes_from_queries_to_gallery() -> None:
    """12 rows. Query i finds row 0, then 1 and so on, but for query 0: it finds row 0 last.

    Recall@5: rows 1 to 4 are among the first five of their queries, so 4 of 12; as half of 5,
    rounded up, K is 3: rows 1 and 2. The other way each finds the last row first, then the one
    before it and so on: the last 5 of 12.
    """
    n = 12
    nearness = np.arange(n, 0, -1.0) + np.arange(n)[:, None] / 100
    nearness[0, 0] = 0
    queries, gallery = np.eye(n), nearness.T.copy()
    labels = np.eye(n, dtype=np.int64)
    labels[:, 0] |= np.arange(n) < 3
    found = {e.measure: e.value for e in publish_retrieval(Compat.X2CT, queries, gallery, labels)}
    assert found["Recall@5"] == pytest.approx(4 / 12)
    assert found["Recall@5, later"] == pytest.approx(2 / 12)
    assert found["Recall@10"] == pytest.approx(9 / 12)
    assert found["Recall@10, later"] == pytest.approx(4 / 12)
    # Labels: rows 0, 1, 2 have label 0, rows 1 and 2 also one of their own. All queries find row 0
    # first, but query 0 finds row 1: overlaps 1/2 of query 0, 1/2 of 1 and 2, 0 of the rest.
    assert found["MAP@1"] == pytest.approx((1 / 2 + 1 / 2 + 1 / 2) / 12)
    ctclip = {
        e.measure: e.value for e in publish_retrieval(Compat.CTCLIP, queries, gallery, labels)
    }
    assert ctclip["Recall@5"] == found["Recall@5"] and ctclip["MAP@1"] == found["MAP@1"]
    assert ctclip["MAP@5"] == pytest.approx((found["MAP@1"] + found["MAP@5"]) / 2)
    back = {e.measure: e.value for e in publish_retrieval(Compat.X2CT, gallery, queries, labels)}
    assert back["Recall@5"] == pytest.approx(5 / 12)
    assert back["MAP@1"] == pytest.approx(1 / 12)  # the last row with itself


def test_each_published_number_tells_its_fault() -> None:
    x = np.random.default_rng(1).normal(size=(30, 4))
    labels = (x[:, :3] > 0).astype(np.int64)
    probabilities = 1 / (1 + np.exp(-x[:, :3] + x[:, [3]]))
    ctclip = publish_retrieval(Compat.CTCLIP, x, x, labels)
    x2ct = publish_retrieval(Compat.X2CT, x, x, labels)
    assert {"MAP@1", "MAP@100", "Recall@5"} <= {each.measure for each in ctclip}
    names = [each.measure for each in x2ct]
    assert "Recall@10, later" in names and len(set(names)) == len(names) == 13
    by_name = {each.measure: each for each in (*ctclip, *x2ct)}
    assert by_name["Recall@5, later"].fault == FAULTS[Compat.X2CT, "Recall, later"]
    assert math.isnan(by_name["MAP@10"].low)
    mine = {each.measure: each.value for each in ctclip}
    theirs = {each.measure: each.value for each in x2ct}
    assert mine["MAP@50"] > theirs["MAP@50"]  # the 1 of K = 1 is carried along
    assert not any("MAP" in each.measure for each in publish_retrieval(Compat.X2CT, x, x))
    found = publish_classification(Compat.CTCLIP, probabilities, labels)
    assert [each.measure for each in found] == ["AUROC", "Accuracy", "Precision", "F1"]
    assert all(each.low == each.value == each.high for each in found)
    found = publish_classification(Compat.X2CT, probabilities, labels)
    values = {each.measure: each.value for each in found}
    assert len(values) == len(found) == 18
    last = measure_auroc(probabilities[:, -1], labels[:, -1])
    assert values["macro ROC-AUC, later"] == pytest.approx(last)
    assert values["macro ROC-AUC"] != pytest.approx(last)
    assert all(each.fault for each in (*ctclip, *x2ct, *found))


def use_map(labels: np.ndarray) -> None:
    measure_x2ct_map(np.eye(2), np.eye(2), query_labels=labels, gallery_labels=labels)


def use_map_of_queries(labels: np.ndarray) -> None:
    measure_x2ct_map(np.eye(2), np.eye(2), query_labels=labels, gallery_labels=np.eye(2, dtype=int))


def use_map_of_gallery(labels: np.ndarray) -> None:
    measure_x2ct_map(np.eye(2), np.eye(2), query_labels=np.eye(2, dtype=int), gallery_labels=labels)


def use_probe(labels: np.ndarray) -> None:
    measure_x2ct_probe(np.full(labels.shape, 0.5), labels)


def use_ctclip(labels: np.ndarray) -> None:
    measure_ctclip_classification(np.full(labels.shape, 0.5), labels)


@pytest.mark.parametrize(
    ("use", "labels", "match"),
    [
        (use_map, [[1, -1], [0, 1]], r"got \[-1\], wanted 0 and 1"),
        (use_map_of_queries, [[1, -1], [0, 1]], r"got \[-1\], wanted 0 and 1"),
        (use_map_of_gallery, [[1, 2], [0, 1]], r"got \[2\], wanted 0 and 1"),
        (use_map, [[0, 0], [0, 0]], "none of 2 items has a positive label"),
        (use_probe, [[1, -1], [0, 1]], r"got \[-1\], wanted 0 and 1"),
        (use_probe, [[1, 0], [0, 0]], r"labels \[1\] have one class only"),
        (use_probe, [[1], [0]], "got 1 labels, wanted two or more"),
        (use_ctclip, [[1, 1], [0, 1]], r"labels \[0\] have one class only"),
    ],
)
def test_what_the_published_definitions_do_not_know_is_refused(
    use: Callable[[np.ndarray], None], labels: list[list[int]], match: str
) -> None:
    with pytest.raises(InputError, match=match):
        use(np.array(labels))


def test_scores_that_are_no_probabilities_are_refused() -> None:
    for value in (1.5, -0.5, np.nan):
        bad = np.array([value, 0.2])
        with pytest.raises(InputError, match="wanted 0 to 1"):
            measure_ctclip_label(bad, np.array([0, 1]))
    with pytest.raises(InputError, match="gallery has 3 rows, wanted 2"):
        measure_recall(np.ones((2, 2)), np.ones((3, 2)))


def test_of_level_items_the_earlier_row_is_found() -> None:
    # Rows 0 and 1 are one picture. Query 0 finds both level, itself first: a hit. Query 1 looks
    # the other way and finds row 2; so does query 2.
    gallery = np.array([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]], np.float32)
    queries = np.array([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]], np.float32)
    assert measure_recall(queries, gallery, ks=(1,)) == {"Recall@1": pytest.approx(2 / 3)}
    # Query 1 has row 2 and its copy ahead, then row 0 level: it stands at 3 + 1.
    later = measure_x2ct_recall(queries, gallery, version="later", ks=(3, 4))
    assert later == {"Recall@3": pytest.approx(2 / 3), "Recall@4": 1.0}
