import numpy as np
import pytest
from drrgen_training.evaluation.classification import measure_auroc
from drrgen_training.evaluation.statistics import (
    compare_delong,
    compare_replicates,
    correct_holm,
    draw_resamples,
    find_delong,
    find_interval,
    resample_auprc,
    resample_auroc,
    resample_curves,
    resample_mean,
    resample_median,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from MLstatkit import Delong_test
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from drrgen.errors import InputError


def make_case(n: int = 120, levels: int = 9, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, n)
    return np.round(random.normal(size=n) + labels, 1) if levels > 8 else random.integers(
        0, levels, n
    ).astype(float), labels  # fmt: skip


def test_rows_of_a_patient_are_drawn_together_and_patients_with_replacement() -> None:
    patient = np.array([5, 5, 9, 2, 2, 2, 7])
    weights = draw_resamples(patient, replicates=400, seed=3)
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 3] == weights[:, 5]).all()
    assert (weights[:, [0, 2, 3, 6]].sum(1) == 4).all()  # as many patients as there are
    assert weights[:, 0].mean() == pytest.approx(1, abs=0.2) and weights.max() >= 3
    assert (weights == draw_resamples(patient * 7 + 1, replicates=400, seed=3)).all()
    assert (weights != draw_resamples(patient, replicates=400, seed=4)).any()
    with pytest.raises(InputError, match="several patients, got 1"):
        draw_resamples(np.zeros(4, int))


@given(
    hnp.arrays(np.float64, 30, elements=st.integers(0, 6).map(float)),
    hnp.arrays(np.int64, 30, elements=st.integers(-1, 1)),
    st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_replicates_are_those_of_scikit_learn_with_the_weights(
    scores: np.ndarray, labels: np.ndarray, seed: int
) -> None:
    weights = draw_resamples(np.arange(30) // 2, replicates=5, seed=seed)
    area, precision = (
        resample_auroc(scores, labels, weights),
        resample_auprc(scores, labels, weights),
    )
    for i, w in enumerate(weights):
        rows = (labels >= 0) & (w > 0)
        if len(set(labels[rows])) < 2:
            assert np.isnan(area[i]) and np.isnan(precision[i])
            continue
        told = labels[rows], scores[rows]
        assert area[i] == pytest.approx(roc_auc_score(*told, sample_weight=w[rows]), abs=1e-12)
        expected = average_precision_score(*told, sample_weight=w[rows])
        assert precision[i] == pytest.approx(expected, abs=1e-12)


def test_chunks_of_resamples_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, labels = make_case()
    weights = draw_resamples(np.arange(120), replicates=50)
    whole = resample_auroc(scores, labels, weights), resample_median(scores, weights)
    monkeypatch.setattr("drrgen_training.evaluation.statistics._CHUNK", 7)
    assert (resample_auroc(scores, labels, weights) == whole[0]).all()
    assert (resample_median(scores, weights) == whole[1]).all()


def test_means_and_medians_are_those_of_the_rows_repeated() -> None:
    random = np.random.default_rng(1)
    values = random.integers(1, 9, 41).astype(float)
    values[3] = np.nan
    weights = draw_resamples(np.arange(41), replicates=20)
    means, medians = resample_mean(values, weights), resample_median(values[4:], weights[:, 4:])
    for i, w in enumerate(weights):
        assert means[i] == pytest.approx(np.nanmean(np.repeat(values, w)), abs=1e-12)
        assert medians[i] == np.median(np.repeat(values[4:], w[4:]))
    both = resample_mean(np.stack([values, values + 1], axis=1), weights)
    assert both.shape == (20, 2) and both[:, 1] == pytest.approx(means + 1)


def test_curves_go_through_the_points_of_scikit_learn() -> None:
    scores, labels = make_case(levels=5)
    grid = np.linspace(0, 1, 21)
    roc, pr = resample_curves(scores, labels, np.ones((1, 120), np.uint8), grid)
    x, y, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert roc[0] == pytest.approx(np.interp(grid, x, y)) and roc[0, -1] == 1
    assert pr[0, -1] == pytest.approx(labels.mean(), abs=0.2)  # all are told at the last threshold
    for recall, precision in zip(grid, pr[0], strict=True):
        reached = next(t for t in np.unique(scores)[::-1] if
                   (scores >= t)[labels == 1].mean() >= recall - 1e-9)  # fmt: skip
        assert precision == pytest.approx(labels[scores >= reached].mean())


def test_an_interval_leaves_out_what_is_undefined_and_counts_it() -> None:
    found = find_interval(np.append(np.linspace(0, 1, 101), [np.nan] * 9))
    assert (found.low, found.high) == pytest.approx((0.025, 0.975)) and found.undefined == 9
    none = find_interval(np.full(5, np.nan))
    assert np.isnan(none.low) and none.undefined == 5


def test_a_model_does_not_differ_from_itself() -> None:
    scores, labels = make_case()
    weights = draw_resamples(np.arange(120), replicates=200)
    mine = resample_auroc(scores, labels, weights)
    found = compare_replicates(mine, mine)
    assert (found.low, found.high, found.p) == (0.0, 0.0, 1.0)
    better = compare_replicates(mine, mine - 0.1)
    assert better.low == pytest.approx(0.1) and better.p == pytest.approx(2 / 201)


def draw_clustered(seed: int, patients: int = 40, rows: int = 6) -> tuple[np.ndarray, ...]:
    """Rows of a patient share their label and most of their score."""
    random = np.random.default_rng(seed)
    label = random.integers(0, 2, patients)
    score = 0.8 * label + random.normal(size=patients)
    patient = np.repeat(np.arange(patients), rows)
    return score[patient] + 0.1 * random.normal(size=len(patient)), label[patient], patient


def test_intervals_over_patients_hold_the_truth_as_often_as_they_say() -> None:
    """And those over rows do not: this is what a resampling that ignores patients gets wrong."""
    truth = measure_auroc(*draw_clustered(0, patients=20000, rows=1)[:2])
    held = {"patients": 0, "rows": 0}
    rounds = 150
    for seed in range(1, rounds + 1):
        scores, labels, patient = draw_clustered(seed)
        for name, who in (("patients", patient), ("rows", np.arange(len(patient)))):
            weights = draw_resamples(who, replicates=200, seed=seed)
            found = find_interval(resample_auroc(scores, labels, weights))
            held[name] += found.low <= truth <= found.high
    assert held["patients"] / rounds > 0.88
    assert held["rows"] / rounds < 0.7


def brute_delong(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By all pairs, as DeLong et al. wrote it."""
    pos, neg = scores[:, labels == 1], scores[:, labels == 0]
    psi = (pos[:, :, None] > neg[:, None]) + 0.5 * (pos[:, :, None] == neg[:, None])
    v10, v01 = psi.mean(2), psi.mean(1)
    return psi.mean((1, 2)), np.cov(v10) / pos.shape[1] + np.cov(v01) / neg.shape[1]


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_fast_delong_is_that_over_all_pairs(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = np.append([0, 0, 1, 1], random.integers(0, 2, 20))
    scores = random.integers(0, 7, (2, 24)).astype(float)
    areas, covariance = find_delong(scores, labels)
    expected = brute_delong(scores, labels)
    assert areas == pytest.approx(expected[0], abs=1e-12)
    assert covariance == pytest.approx(expected[1], abs=1e-12)
    assert areas[0] == pytest.approx(roc_auc_score(labels, scores[0]), abs=1e-12)


def test_delong_agrees_with_mlstatkit() -> None:
    scores, labels = make_case(levels=9)
    others = scores + np.random.default_rng(5).normal(size=120)
    found = compare_delong(scores, others, labels)
    z, p, *_ = Delong_test(labels, scores, others)
    assert abs(found.z) == pytest.approx(abs(z), rel=1e-6) and found.p == pytest.approx(p, rel=1e-6)
    assert found.auroc - found.other == pytest.approx((found.low + found.high) / 2)
    same = compare_delong(scores, scores, labels)
    assert same.p == 1.0 and np.isnan(same.z)
    few = compare_delong(scores[:3], others[:3], np.array([1, 0, 0]))
    assert np.isnan(few.p)


def test_holm_by_hand() -> None:
    p = np.array([0.01, np.nan, 0.04, 0.03, 0.5])
    # in order: 0.01 x 4, 0.03 x 3, 0.04 x 2 (but no less than the one before), 0.5 x 1
    assert correct_holm(p)[[0, 3, 2, 4]].tolist() == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert np.isnan(correct_holm(p)[1])
    assert correct_holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]
