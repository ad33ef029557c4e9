import numpy as np
from drrgen_training.evaluation.zero_shot import make_prompts, measure_zero_shot


def test_zero_shot_scores_by_the_nearer_prompt() -> None:
    present, absent = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    x = np.array([[0.9, 0.1], [0.2, 0.8], [0.8, 0.3], [0.0, 1.0]])
    labels = {"a": np.array([1, 0, 1, 0]), "none": np.zeros(4, int)}
    found = measure_zero_shot(x, dict.fromkeys(labels, (present, absent)), labels)
    assert found.auroc["a"] == found.macro == 1.0 and np.isnan(found.auroc["none"])
    assert make_prompts("Lung nodule")[1] == "There is no lung nodule."
