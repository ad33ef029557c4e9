import numpy as np
import pytest
from drrgen_training.evaluation.classification import measure_auroc
from sklearn.metrics import roc_auc_score

RANDOM = np.random.default_rng(0)


def test_auroc_is_that_of_scikit_learn_with_ties_and_unknowns() -> None:
    scores = RANDOM.integers(0, 6, 200).astype(float)
    labels = RANDOM.integers(0, 2, 200)
    assert measure_auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))
    unknown = labels.copy()
    unknown[::3] = -1
    known = unknown >= 0
    assert measure_auroc(scores, unknown) == pytest.approx(
        roc_auc_score(labels[known], scores[known])
    )
    assert np.isnan(measure_auroc(scores, np.zeros(200, int)))
