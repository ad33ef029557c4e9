from dataclasses import replace

import numpy as np
import pytest
from drrgen_training.evaluation.classification import measure_auroc
from drrgen_training.evaluation.embedded import Embedded
from drrgen_training.evaluation.probe import (
    ProbeKind,
    draw_fraction,
    draw_shots,
    fit_probe,
    list_draws,
    run_probes,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from drrgen.errors import InputError


def make_embedded(n: int = 200, seed: int = 0, noise: float = 0.2, patient: int = 0) -> Embedded:
    """Vectors that tell a label; two rows a patient."""
    random = np.random.default_rng(seed)
    label = random.integers(0, 2, n // 2).repeat(2)
    x = np.stack([2.0 * label - 1, np.ones(n)], axis=1) + noise * random.normal(size=(n, 2))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    who = patient + np.arange(n) // 2
    return Embedded(
        model="m", names=tuple(f"{patient}-{i}" for i in range(n)), patient=who, study=who,
        report=who, split=np.full(n, "train"), vectors={"cxr": x.astype(np.float32)},
        labels={"A": label, "none": np.zeros(n, int)},
    )  # fmt: skip


def test_a_label_that_vectors_tell_is_told_and_one_without_positives_is_nan() -> None:
    train, test = make_embedded(), make_embedded(seed=1, patient=1000)
    (probe,) = run_probes(train, test, "cxr", fractions=[1.0], shots=[], seeds=3)
    assert probe.name == "100 %" and probe.patients == 100
    assert measure_auroc(probe.scores["A"], test.labels["A"]) == 1.0
    assert np.isnan(probe.scores["none"]).all()


@pytest.mark.parametrize("kind", [ProbeKind.ADAMW, ProbeKind.ADAMW_TEXT])
def test_a_head_is_a_probe_with_the_same_draws(kind: ProbeKind) -> None:
    train, test = make_embedded(), make_embedded(seed=1, patient=1000)
    given = {"fractions": [0.1, 1.0], "shots": [2], "seeds": 2}
    usual = list(run_probes(train, test, "cxr", **given))
    heads, again = (list(run_probes(train, test, "cxr", **given, kind=kind)) for _ in range(2))
    assert [(p.name, p.seed, p.patients) for p in heads] == [
        (p.name, p.seed, p.patients) for p in usual
    ]
    for probe, same, other in zip(heads, again, usual, strict=True):
        assert (probe.scores["A"] == same.scores["A"]).all()
        assert (probe.scores["A"] != other.scores["A"]).any()
        assert measure_auroc(probe.scores["A"], test.labels["A"]) == 1.0
        assert np.isnan(probe.scores["none"]).all()


def test_a_head_starts_where_it_is_told() -> None:
    """So few rows and so steep a start that its sign stays; without one it is the other."""
    train, test = make_embedded(), make_embedded(seed=1, patient=1000)
    turned = replace(train, labels={"A": 1 - train.labels["A"]})
    given = {"fractions": [1.0], "shots": [], "kind": ProbeKind.ADAMW_TEXT}
    start = {"A": np.array([50.0, 0.0])}
    (steep,) = run_probes(turned, test, "cxr", **given, starts=start)
    (plain,) = run_probes(turned, test, "cxr", **given)
    assert measure_auroc(steep.scores["A"], test.labels["A"]) == 1.0
    assert measure_auroc(plain.scores["A"], test.labels["A"]) == 0.0


def test_patients_that_are_tested_are_refused() -> None:
    train = make_embedded()
    test = make_embedded(seed=1, patient=95)
    with pytest.raises(InputError, match="5 patients are in the train rows and in the test rows"):
        list(run_probes(train, test, "cxr"))
    with pytest.raises(InputError, match="0 train rows and 200 test rows"):
        list(run_probes(train.take(np.zeros(200, bool)), make_embedded(patient=1000), "cxr"))


@given(st.integers(2, 60), st.floats(0.01, 1.0), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_a_share_of_patients_is_drawn_whole_and_lies_in_larger_shares(
    patients: int, fraction: float, seed: int
) -> None:
    patient = np.random.default_rng(seed).integers(0, patients, 150)
    rows = draw_fraction(patient, fraction, seed)
    drawn = set(patient[rows])
    assert len(drawn) == max(1, round(fraction * len(set(patient))))
    assert set(rows) == {i for i, who in enumerate(patient) if who in drawn}
    assert drawn <= set(patient[draw_fraction(patient, min(1.0, 2 * fraction), seed)])


@given(st.integers(1, 8), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_shots_are_so_many_patients_with_the_finding(shots: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    patient = np.arange(120) // 2
    labels = random.choice([-1, 0, 1], 120, p=[0.2, 0.6, 0.2])
    rows = draw_shots(patient, labels, shots, seed)
    drawn = np.unique(patient[rows])
    assert np.isin(drawn, patient[labels == 1]).sum() == shots
    assert len(rows) == 2 * len(drawn)  # with both rows of each
    assert len(draw_shots(patient, np.zeros(120, int), shots, seed)) == 0


def test_draws_differ_by_seed_and_are_the_same_again() -> None:
    train = make_embedded()
    draws = list(list_draws(train, fractions=[0.1, 1.0], shots=[2], seeds=3))
    assert [d.name for d in draws] == ["10 %"] * 3 + ["100 %"] + ["2 shots"] * 3
    assert len({tuple(d.rows["A"]) for d in draws[:3]}) == 3
    again = list(list_draws(train, fractions=[0.1, 1.0], shots=[2], seeds=3))
    assert all((a.rows["A"] == b.rows["A"]).all() for a, b in zip(draws, again, strict=True))


def test_few_rows_are_fitted_as_another_optimiser_fits_them() -> None:
    embedded = make_embedded(40, noise=1.5)
    x, y = embedded.vectors["cxr"].astype(float), embedded.labels["A"]

    def loss(w: np.ndarray) -> float:
        logit = x @ w[:2] + w[2]
        return float(10 * np.logaddexp(0, -(2 * y - 1) * logit).sum() + w[:2] @ w[:2] / 2)

    w = minimize(loss, np.zeros(3), tol=1e-12).x
    scores = fit_probe(x, y, embedded.patient, x)
    assert scores == pytest.approx(1 / (1 + np.exp(-(x @ w[:2] + w[2]))), abs=1e-3)


def test_unknown_labels_are_left_out() -> None:
    train, test = make_embedded(), make_embedded(seed=1, patient=1000)
    wrong = np.where(np.arange(200) < 100, -1, train.labels["A"])
    half = replace(train, labels={"A": wrong})
    (found,) = run_probes(half, test, "cxr", fractions=[1.0], shots=[])
    (same,) = run_probes(
        half.take(wrong >= 0), test, "cxr", fractions=[1.0], shots=[]
    )  # fmt: skip
    assert (found.scores["A"] == same.scores["A"]).all()
