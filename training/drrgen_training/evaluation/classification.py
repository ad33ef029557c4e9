"""How well scores tell who has a finding."""

import numpy as np
from jaxtyping import Float, Int64


def measure_auroc(scores: Float[np.ndarray, " n"], labels: Int64[np.ndarray, " n"]) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative; NaN for none.

    Args:
        scores: The higher, the more likely positive.
        labels: 1 and 0; others (uncertain, unknown) are left out.

    Example:
        >>> measure_auroc(np.array([0.1, 0.9, 0.8]), np.array([0, 1, 0]))
        1.0
    """
    positive, negative = scores[labels == 1], scores[labels == 0]
    if len(positive) == 0 or len(negative) == 0:
        return float("nan")
    order = np.sort(negative)
    below = np.searchsorted(order, positive, "left")
    level = np.searchsorted(order, positive, "right") - below
    return float((below + level / 2).mean() / len(negative))
