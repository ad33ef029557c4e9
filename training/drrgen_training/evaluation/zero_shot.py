"""Findings told by sentences alone."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from drrgen.errors import InputError
from drrgen_training.evaluation.prompts import PromptSet


def score_zero_shot(
    vectors: Float[np.ndarray, "n e"],
    sentences: Mapping[str, Float[np.ndarray, " _"]],
    prompts: PromptSet,
    labels: Iterable[str],
    scale: float | None = None,
) -> dict[str, Float[np.ndarray, " n"]]:
    """Score findings by how much nearer a vector is to presence than to absence.

    It is the softmax over the two cosines, ``1 / (1 + exp(-scale (present - absent)))``; of several
    sentences a side the mean vector is taken, at length one. The order of rows, and so AUROC,
    does not hang on the scale.

    Args:
        vectors: Unit vectors of radiographs or CT.
        sentences: Unit vectors of all sentences.
        prompts: Which sentences.
        labels: Findings.
        scale: Factor of the cosines that the model was trained with; 1 for None.

    Returns:
        Probability of presence, by label.

    Raises:
        InputError: A sentence has no vector, or one of another length.
    """
    scores = {}
    for label in labels:
        present, absent = (
            _average(side, sentences, vectors.shape[1]) for side in prompts.write(label)
        )
        scores[label] = _softmax(vectors, present, absent, scale or 1.0)
    return scores


def _softmax(
    vectors: Float[np.ndarray, "n e"],
    present: Float[np.ndarray, " e"],
    absent: Float[np.ndarray, " e"],
    scale: float,
) -> Float[np.ndarray, " n"]:
    """Softmax over two cosines, the share of the first."""
    return 1 / (1 + np.exp(-scale * (vectors.astype(np.float64) @ (present - absent))))


def _average(
    side: Sequence[str], sentences: Mapping[str, Float[np.ndarray, " _"]], width: int
) -> Float[np.ndarray, " e"]:
    """Average the vectors of a side, and bring the mean to length one."""
    missing = [sentence for sentence in side if sentence not in sentences]
    if missing:
        raise InputError(
            f"{len(missing)} sentences have no embedding, such as {missing[0]!r}; embed them with "
            "the model's own report encoder"
        )
    mean = np.mean([sentences[sentence].astype(np.float64) for sentence in side], axis=0)
    if mean.shape != (width,):
        raise InputError(
            f"sentences have vectors of {mean.size} numbers, radiographs of {width}; embed both "
            "into one space"
        )
    return mean / max(float(np.linalg.norm(mean)), 1e-12)
