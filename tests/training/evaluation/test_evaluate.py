from dataclasses import replace

import numpy as np
import pytest
from drrgen_training.evaluation.evaluate import EvaluateSettings, evaluate
from judged import make_model

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
        evaluate([model, replace(model, names=tuple(f"x{i}" for i in range(90)))], QUICK)
