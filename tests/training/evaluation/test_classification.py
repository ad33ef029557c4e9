import numpy as np
import pytest
from drrgen_training.evaluation.classification import (
    choose_threshold,
    confuse_labels,
    count_decisions,
    measure_auprc,
    measure_auroc,
    measure_crg,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

SCORES = hnp.arrays(np.float64, 40, elements=st.integers(-4, 4).map(lambda x: x / 4))
LABELS = hnp.arrays(np.int64, 40, elements=st.integers(-1, 1))


@given(SCORES, LABELS, st.sampled_from([-0.5, 0.0, 0.25, 2.0]))
@settings(max_examples=80, deadline=None)
def test_all_is_as_scikit_learn_has_it_where_both_define_it(
    scores: np.ndarray, labels: np.ndarray, threshold: float
) -> None:
    known = labels >= 0
    truth, told = labels[known], scores[known] >= threshold
    found = {k: v[0] for k, v in count_decisions(scores, labels, threshold).measures.items()}
    if len(set(truth)) < 2:
        assert np.isnan(measure_auroc(scores, labels)) and np.isnan(measure_auprc(scores, labels))
        return
    area, precision = measure_auroc(scores, labels), measure_auprc(scores, labels)
    assert area == pytest.approx(roc_auc_score(truth, scores[known]), abs=1e-12)
    assert precision == pytest.approx(average_precision_score(truth, scores[known]), abs=1e-12)
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, told), abs=1e-12)
    assert found["F1"] == pytest.approx(f1_score(truth, told), abs=1e-12)
    assert found["sensitivity"] == pytest.approx(recall_score(truth, told), abs=1e-12)
    assert found["specificity"] == pytest.approx(recall_score(1 - truth, ~told), abs=1e-12)
    if told.any():
        assert found["precision"] == pytest.approx(precision_score(truth, told), abs=1e-12)
    else:
        assert np.isnan(found["precision"])


def test_a_score_turned_round_gets_the_rest_of_the_area() -> None:
    scores, labels = np.array([0.1, 0.4, 0.4, 0.8]), np.array([0, 1, 0, 1])
    assert measure_auroc(scores, labels) == 0.875  # three pairs won, one level
    assert measure_auroc(-scores, labels) == 0.125
    assert measure_auroc(np.ones(4), labels) == 0.5


def test_counts_on_resamples_are_those_of_repeated_rows() -> None:
    scores, labels = np.array([0.9, 0.2, 0.7, 0.1, 0.6]), np.array([1, 1, 0, 0, -1])
    found = count_decisions(
        scores, labels, 0.5, np.array([[1, 1, 1, 1, 9], [2, 0, 3, 1, 0]], np.uint8)
    )
    assert [found.hits.tolist(), found.false_alarms.tolist()] == [[1, 2], [1, 3]]
    assert [found.misses.tolist(), found.rejections.tolist()] == [[1, 0], [1, 1]]
    assert found.measures["F1"].tolist() == [0.5, pytest.approx(4 / 7)]


def test_the_threshold_is_that_of_the_largest_sum_of_sensitivity_and_specificity() -> None:
    scores, labels = np.array([0.1, 0.3, 0.4, 0.8, 0.9]), np.array([0, 0, 1, 0, 1])
    assert choose_threshold(scores, labels) == 0.4  # 1 + 2/3; at 0.9 it is 1/2 + 1
    assert np.isnan(choose_threshold(scores, np.ones(5, int)))


def test_crg_by_hand() -> None:
    """Eight decisions, two positives: U = 3, a hit gains 1.5, a false alarm costs 1."""
    labels = np.array([[1, 0], [0, 1], [0, 0], [0, 0]])
    assert measure_crg(labels, labels) == 1.0  # s = 3: 3 / (6 - 3)
    assert measure_crg(labels, np.zeros_like(labels)) == pytest.approx(3 / 9)  # s = -3
    one = np.array([[1, 1], [0, 0], [0, 0], [0, 0]])  # s = 1.5 - 1.5 - 1
    assert measure_crg(labels, one) == pytest.approx(3 / 7)
    assert np.isnan(measure_crg(np.zeros((2, 2), int), labels[:2]))


def test_labels_are_confused_by_line_and_column() -> None:
    labels = {"a": np.array([1, 1, 0, 0]), "b": np.array([0, 0, 1, -1])}
    told = {"a": np.array([1, 0, 1, 0]), "b": np.array([0, 0, 1, 1])}
    assert confuse_labels(told, labels).tolist() == [[0.5, 0.0], [1.0, 1.0]]
    assert np.isnan(confuse_labels(told, {"c": np.zeros(4, int)})).all()
