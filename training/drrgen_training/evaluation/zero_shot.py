"""Findings told by prompts alone."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from drrgen_training.evaluation.classification import measure_auroc


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroShot:
    """How prompts alone tell findings; chance is 0.5.

    Attributes:
        auroc: By label; NaN where one class is missing.
        macro: Mean over the labels that have both classes.
    """

    auroc: dict[str, float]
    macro: float


def make_prompts(label: str) -> tuple[str, str]:
    """Make the prompts of presence and absence that CT-CLIP and X2CT-CLIP train and look with.

    Example:
        >>> make_prompts("Pleural effusion")
        ('There is pleural effusion.', 'There is no pleural effusion.')
    """
    return f"There is {label.lower()}.", f"There is no {label.lower()}."


def measure_zero_shot(
    embeddings: Float[np.ndarray, "n e"],
    prompts: Mapping[str, tuple[Float[np.ndarray, " e"], Float[np.ndarray, " e"]]],
    labels: Mapping[str, Int64[np.ndarray, " n"]],
) -> ZeroShot:
    """Score each label by how much nearer an embedding is to presence than to absence.

    Args:
        embeddings: Unit vectors of radiographs or CT.
        prompts: Unit vectors of presence and absence, by label.
        labels: 1, 0, or anything else for unknown, by label.
    """
    auroc = {
        name: measure_auroc(embeddings @ (present - absent), labels[name])
        for name, (present, absent) in prompts.items()
    }
    known = [value for value in auroc.values() if np.isfinite(value)]
    return ZeroShot(auroc=auroc, macro=float(np.mean(known)) if known else float("nan"))
