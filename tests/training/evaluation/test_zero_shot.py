import numpy as np
import pytest
from drrgen_training.evaluation.classification import measure_auroc
from drrgen_training.evaluation.prompts import PromptSet
from drrgen_training.evaluation.zero_shot import score_zero_shot

from drrgen.errors import InputError

PROMPTS = PromptSet(presence=("{label} is seen.",), absence=("No {label}.",))
VECTORS = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
SENTENCES = {"A is seen.": np.array([1.0, 0.0]), "No a.": np.array([0.0, 1.0])}


def test_the_score_is_the_softmax_over_the_two_cosines() -> None:
    scores = score_zero_shot(VECTORS, SENTENCES, PROMPTS, ["A"], scale=2.0)["A"]
    for score, vector in zip(scores, VECTORS, strict=True):
        logits = np.exp(2.0 * vector)
        assert score == pytest.approx(logits[0] / logits.sum())
    assert measure_auroc(scores, np.array([1, 0, 0])) == 1.0
    plain = score_zero_shot(VECTORS, SENTENCES, PROMPTS, ["A"])["A"]
    assert (np.argsort(plain) == np.argsort(scores)).all()


def test_an_ensemble_is_the_mean_vector_at_length_one() -> None:
    two = PromptSet(presence=("{label} is seen.", "{label} is here."), absence=("No {label}.",))
    more = SENTENCES | {"A is here.": np.array([0.0, -1.0])}
    scores = score_zero_shot(VECTORS, more, two, ["A"], scale=1.0)["A"]
    present = np.array([1, -1]) / np.sqrt(2)
    logit = VECTORS @ (present - np.array([0, 1]))
    assert scores == pytest.approx(1 / (1 + np.exp(-logit)))


def test_a_sentence_without_a_vector_or_of_another_width_is_told() -> None:
    with pytest.raises(InputError, match=r"1 sentences have no embedding, such as 'B is seen.'"):
        score_zero_shot(VECTORS, SENTENCES, PROMPTS, ["A", "B"])
    wide = {text: np.ones(3) for text in SENTENCES}
    with pytest.raises(InputError, match="vectors of 3 numbers, radiographs of 2"):
        score_zero_shot(VECTORS, wide, PROMPTS, ["A"])
