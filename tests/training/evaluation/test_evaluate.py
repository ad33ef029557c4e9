from dataclasses import replace

import numpy as np
import pytest
from drrgen_training.evaluation.bench import EvaluateSettings
from drrgen_training.evaluation.embedded import Embedded
from drrgen_training.evaluation.evaluate import evaluate
from judged import make_model

from drrgen.choices import View
from drrgen.errors import ConfigError, InputError

QUICK = EvaluateSettings(replicates=50, fractions=(0.5, 1.0), shots=(2,), seeds=2, ks=(1, 5))


def find(found, model: str, task: str, measure: str, label: str | None = None):
    (score,) = [s for s in found.scores if
                (s.model, s.task, s.measure, s.label) == (model, task, measure, label)]  # fmt: skip
    return score


def test_a_good_model_gets_good_numbers_and_noise_gets_those_of_chance() -> None:
    good, bad = make_model(), make_model("noise", noise=30.0, seed=5)
    found, test = evaluate([good, bad], QUICK)
    assert set(test.split) == {"test"} and len(test) == 36
    assert find(found, "good", "cxr to report", "recall@1").value == 1.0
    assert find(found, "noise", "cxr to report", "recall@5").value < 0.5
    area = find(found, "good", "zero-shot from cxr", "AUROC", "Cyst")
    assert area.value == 1.0 and area.chance == 0.5 and area.n == 36
    noise = find(found, "noise", "zero-shot from cxr", "macro AUROC")
    assert noise.low <= noise.value <= noise.high and noise.value < 0.9
    assert find(found, "good", "probe of cxr, 100 %", "macro AUROC").value == 1.0
    assert find(found, "good", "zero-shot from cxr", "accuracy", "Cyst").value > 0.9
    (difference,) = [d for d in found.differences if
                     (d.task, d.measure) == ("cxr to report", "recall@5")]  # fmt: skip
    assert difference.low > 0 and (difference.model, difference.other) == ("good", "noise")
    delong = [d for d in found.differences if d.test == "delong"]
    assert delong and all(d.label == "Cyst" and d.p_holm >= d.p for d in delong)
    assert {c.kind for c in found.curves} == {"roc", "precision-recall", "recall"}
    assert len(found.predictions[0].scores) == 36 and found.hits
    faulty = {s.measure for s in found.published}
    assert {"ctclip MAP@10", "x2ct Recall@5"} <= faulty and all(s.note for s in found.published)


def test_a_model_beside_itself_differs_by_nothing() -> None:
    found, _ = evaluate([make_model("a"), make_model("b")], QUICK)
    assert all(d.value == 0 and d.p == 1 for d in found.differences if np.isfinite(d.low))


@pytest.mark.parametrize("probe", ["adamw", "adamw-text"])
def test_a_head_is_judged_as_the_other_probe_is(probe: str) -> None:
    found, _ = evaluate([make_model()], replace(QUICK, probe=probe))
    assert find(found, "good", "probe of cxr, 100 %", "macro AUROC").value == 1.0
    assert find(found, "good", "probe of cxr, 2 shots", "macro AUROC").value > 0.8
    assert found.facts["probe"] == probe


def test_a_head_that_starts_from_sentences_needs_some() -> None:
    with pytest.raises(InputError, match="no embedded sentences, which the probe adamw-text"):
        evaluate([replace(make_model(), prompts={})], replace(QUICK, probe="adamw-text"))
    with pytest.raises(ConfigError, match="probe: got mlp, wanted logistic, adamw, adamw-text"):
        EvaluateSettings(probe="mlp")


def test_reconstructions_are_one_in_the_plain_numbers_and_told_apart_in_others() -> None:
    one = make_model()
    twice = one.take(np.repeat(np.arange(90), 2))
    twice = replace(twice, names=tuple(f"{n}-{i}" for i, n in enumerate(twice.names)))
    found, test = evaluate([twice], replace(QUICK, probes=False))
    assert len(test) == 36 and found.facts["rows"] == 72
    assert find(found, "good", "cxr to ct", "recall@1").value == 1.0
    exact = find(found, "good", "cxr to ct, exact", "recall@1").value
    assert exact == 0.0  # two equal rows are level: each is half a place behind the other
    assert find(found, "good", "cxr to ct, by scan", "recall@1").value == 1.0


def test_a_patient_in_train_and_test_is_refused() -> None:
    model = make_model()
    leaked = replace(model, patient=np.where(np.arange(90) == 89, 0, model.patient))
    with pytest.raises(InputError, match="1 patients are in the train rows and in the test rows"):
        evaluate([leaked], QUICK)
    leaked = replace(model, patient=np.where(np.arange(90) == 89, 46, model.patient))
    with pytest.raises(InputError, match="1 patients are in the dev rows, which choose"):
        evaluate([leaked], replace(QUICK, probes=False))


def test_a_model_without_labels_is_judged_by_what_it_finds() -> None:
    found, _ = evaluate([replace(make_model(), labels={})], QUICK)
    assert find(found, "good", "cxr to report", "recall@1").value == 1.0
    assert found.warnings == ("good: no labels, so only retrieval",)
    assert not any(s.measure.endswith("AUROC") for s in found.scores)


def test_train_rows_that_lack_a_modality_cost_the_probes_of_that_one_alone() -> None:
    model = make_model()
    ct = np.where((model.split == "test")[:, None], model.vectors["ct"], np.nan)
    found, _ = evaluate([replace(model, vectors=model.vectors | {"ct": ct})], QUICK)
    assert find(found, "good", "probe of cxr, 100 %", "macro AUROC").value == 1.0
    assert "good: no train rows with ct, so no probes of it" in found.warnings
    assert not any(s.task.startswith("probe of ct") for s in found.scores)


def test_dev_rows_without_a_vector_choose_no_threshold() -> None:
    """Of those with the finding one has a vector: its score is the threshold, and a high one."""
    model = make_model()
    has = np.flatnonzero((model.split == "dev") & (model.labels["Cyst"] == 1))
    best = has[np.argmax(model.vectors["cxr"][has, 0])]
    lacking = np.isin(np.arange(len(model)), has[has != best])
    whole = replace(model, split=np.where(lacking, "other", model.split))
    cxr = np.where(lacking[:, None], np.float32(np.nan), model.vectors["cxr"])
    scores = [
        find(evaluate([each], replace(QUICK, probes=False))[0], "good", "zero-shot from cxr", "F1",
             "Cyst").value for each in (whole, replace(model, vectors=model.vectors | {"cxr": cxr}))
    ]  # fmt: skip
    assert scores[0] == scores[1] < 0.9


def test_what_cannot_be_judged_is_told() -> None:
    model = make_model()
    with pytest.raises(InputError, match="has 0 rows of the split test"):
        evaluate([model.take(model.split == "train")], QUICK)
    with pytest.raises(ConfigError, match="split: got other, wanted test, dev, all"):
        EvaluateSettings(split="other")
    other = replace(model, model="b", labels={"Cyst": 1 - model.labels["Cyst"]})
    with pytest.raises(InputError, match="disagree about the same rows in the label Cyst"):
        evaluate([model, other], QUICK)
    with pytest.raises(InputError, match="share 0 rows"):
        evaluate([model, replace(other, names=tuple(f"x{i}" for i in range(90)))], QUICK)
    with pytest.raises(InputError, match="two models are called good"):
        evaluate([model, model], QUICK)


def test_what_lacks_a_vector_is_told_and_not_taken_for_a_vector_of_zeros() -> None:
    model, dev = make_model(), np.arange(90) == 46
    model = replace(model, labels={"Cyst": np.where(dev, 1, model.labels["Cyst"])})
    lost = replace(model, vectors=drop(model, "cxr", dev))
    without = model.take(~dev)
    tables = [
        {(s.task, s.measure): s.value for s in evaluate([each], QUICK)[0].scores
         if s.task == "zero-shot from cxr"}
        for each in (lost, without)
    ]  # fmt: skip
    assert tables[0] == tables[1] and tables[0]
    gap = replace(model, vectors=drop(model, "cxr", np.arange(90) == 80))
    found, _ = evaluate([gap], QUICK)
    assert "good: 1 of 36 test scans have no cxr, so no findings are told from it" in found.warnings
    assert not any("from cxr" in s.task or "of cxr" in s.task for s in found.scores)


def test_models_with_other_galleries_are_not_compared() -> None:
    model = make_model()
    other = make_model("half", seed=1)
    other = replace(other, vectors=drop(other, "ct", np.arange(90) >= 70))
    found, _ = evaluate([model, other], replace(QUICK, probes=False))
    tasks = {d.task for d in found.differences}
    assert "cxr to report" in tasks and not any(" ct" in f" {task}" for task in tasks)
    assert any("half has ct in other rows" in warning for warning in found.warnings)


def test_rows_that_nothing_is_judged_on_are_told() -> None:
    model = make_model()
    odd = replace(model, split=np.where(np.arange(90) == 89, "tset", model.split))
    found, _ = evaluate([odd, replace(odd, model="b").take(np.arange(88))], QUICK)
    assert "2 rows of good are not in all models, and left out" in found.warnings
    found, _ = evaluate([odd], QUICK)
    assert "1 rows are of other splits (tset), and left out" in found.warnings


def test_without_labels_or_a_positive_one_there_is_retrieval_alone() -> None:
    for labels in ({}, {"Cyst": np.zeros(90, np.int64)}, {"Cyst": np.full(90, -1)}):
        found, _ = evaluate([replace(make_model(), labels=labels)], QUICK)
        assert find(found, "good", "cxr to report", "recall@1").value == 1.0
        assert not any("Jaccard" in s.measure for s in found.scores)
        assert all(np.isnan(s.value) for s in found.scores if s.measure == "macro AUROC")


def test_a_probe_that_was_never_fitted_decides_nothing() -> None:
    model = make_model()
    one_class = np.where(model.split == "test", model.labels["Cyst"], 0)
    found, _ = evaluate([replace(model, labels={"Cyst": one_class})], QUICK)
    task = "probe of cxr, 100 %"
    told = {s.measure: s.value for s in found.scores if s.task == task}
    assert {"AUROC", "F1", "accuracy", "specificity", "macro accuracy", "CRG"} <= told.keys()
    assert all(np.isnan(value) for value in told.values())


def drop(model: Embedded, modality: str, rows: np.ndarray) -> dict:
    """The vectors of a model, some of them lost."""
    lost = np.where(rows[:, None], np.nan, model.vectors[modality]).astype(np.float32)
    return {**model.vectors, modality: lost}


def test_radiographs_are_judged_by_one_view_and_the_others_are_named() -> None:
    good, noise = make_model(), make_model(noise=30.0)
    names = [f"{name}_{view}" for name in good.names for view in ("LL", "PA")]
    both = replace(
        good.take(np.repeat(np.arange(len(good)), 2)), names=tuple(names),
        views=("LL", "PA") * len(good),
        vectors={m: np.stack([noise.vectors[m], v], axis=1).reshape(-1, v.shape[1])
                 for m, v in good.vectors.items()},
    )  # fmt: skip
    alone, _ = evaluate([good], QUICK)
    found, test = evaluate([both], QUICK)
    assert set(test.views) == {"PA"} and found.facts["views"] == {"PA": len(test)}
    assert [s.value for s in found.scores] == pytest.approx(
        [s.value for s in alone.scores], nan_ok=True
    )
    assert any("90 LL left out; see --view" in warning for warning in found.warnings)
    lateral, test = evaluate([both], replace(QUICK, view=View.LL))
    assert set(test.views) == {"LL"} and not any("--view" in w for w in alone.warnings)
    assert (
        find(lateral, "good", "cxr to ct", "recall@1").value
        < 0.5
        < find(found, "good", "cxr to ct", "recall@1").value
    )


def test_what_only_hangs_on_vectors_of_the_first_model_is_not_judged_again() -> None:
    first = make_model()
    other = replace(make_model("other", noise=30.0), prompts=first.prompts)
    other = replace(other, vectors=other.vectors | {m: first.vectors[m] for m in ("ct", "report")})
    found, _ = evaluate([first, other], QUICK)
    tasks = {name: {s.task for s in found.scores if s.model == name} for name in ("good", "other")}
    assert tasks["good"] - tasks["other"] >= {"ct to report", "report to ct", "zero-shot from ct"}
    assert {"cxr to ct", "ct to cxr", "zero-shot from cxr", "cxr to cxr"} <= tasks["other"]
    assert found.facts["shared"] == {"other": ["ct", "prompts", "report"]}
    own = replace(other, prompts={text: -v for text, v in first.prompts.items()})
    again, _ = evaluate([first, own], QUICK)
    assert any(s.model == "other" and s.task == "zero-shot from ct" for s in again.scores)


def test_few_patients_are_told() -> None:
    few = make_model(n=30)
    found, _ = evaluate([few], QUICK)
    assert any("only 12 patients are judged" in warning for warning in found.warnings)


def test_all_models_are_judged_on_the_views_that_one_of_them_tells() -> None:
    model = make_model()
    both = replace(
        model,
        study=np.arange(90) // 2,
        patient=np.arange(90) // 2,
        report=np.arange(90) // 2,
        split=np.where(np.arange(90) < 44, "train", "test"),
    )
    told = replace(both, views=("LL", "PA") * 45)
    untold = replace(both, model="untold", vectors=make_model(seed=1).vectors)
    for models in ([told, untold], [untold, told]):
        found, test = evaluate(models, replace(QUICK, probes=False))
        assert set(test.views) == {"PA"} and found.facts["views"] == {"PA": 23}
        assert {s.n for s in found.scores if s.task == "cxr to ct"} == {23}
    other = replace(told, model="other", views=("PA", "LL") * 45)
    with pytest.raises(InputError, match="disagree about the same rows in views"):
        evaluate([told, other], QUICK)


def test_probes_and_thresholds_that_other_rows_make_are_judged_again() -> None:
    first = make_model()
    rows = {"train": first.split == "train", "dev": first.split == "dev"}
    for split, task in (("train", "probe of ct, 100 %"), ("dev", "zero-shot from ct")):
        ct = np.where(rows[split][:, None], first.vectors["ct"][::-1], first.vectors["ct"])
        cxr = make_model(seed=1).vectors["cxr"]
        other = replace(first, model="other", vectors=first.vectors | {"ct": ct, "cxr": cxr})
        found, _ = evaluate([first, other], QUICK)
        assert any(s.model == "other" and s.task == task for s in found.scores)


def test_a_head_that_starts_from_other_sentences_is_judged_again() -> None:
    first = make_model()
    other = replace(
        first,
        model="other",
        prompts={text: -v for text, v in first.prompts.items()},
        vectors=first.vectors | {"cxr": make_model(seed=1).vectors["cxr"]},
    )
    task = "probe of ct, 100 %"
    for kind, told in (("adamw", {"good"}), ("adamw-text", {"good", "other"})):
        found, _ = evaluate([first, other], replace(QUICK, probe=kind))
        assert {s.model for s in found.scores if s.task == task} == told


def test_a_head_from_sentences_is_another_one_than_from_zero() -> None:
    found = {
        kind: evaluate(
            [make_model(noise=3.0)], replace(QUICK, probe=kind, shots=(), fractions=(1.0,))
        )[0]
        for kind in ("adamw", "adamw-text")
    }
    values = {
        kind: [s.value for s in each.scores if s.task.startswith("probe of cxr")]
        for kind, each in found.items()
    }
    assert values["adamw"] != values["adamw-text"]


def test_a_classifier_that_lacks_a_label_is_judged_on_the_others() -> None:
    model = make_model()
    told = replace(model, model="told", findings={"Cyst": model.labels["Cyst"] * 0.5})
    labels = model.labels | {"Mass": 1 - model.labels["Cyst"]}
    found, _ = evaluate([replace(told, labels=labels, prompts={})], replace(QUICK, probes=False))
    assert {s.label for s in found.scores if s.task == "classifier" and s.label} == {"Cyst"}
