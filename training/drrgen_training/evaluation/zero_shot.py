"""Findings told by sentences alone."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Float64

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
    ways = find_directions(vectors.shape[1], sentences, prompts, labels, scale)
    exact = vectors.astype(np.float64)
    return {label: 1 / (1 + np.exp(-(exact @ way))) for label, way in ways.items()}


def find_directions(
    width: int,
    sentences: Mapping[str, Float[np.ndarray, " _"]],
    prompts: PromptSet,
    labels: Iterable[str],
    scale: float | None = None,
) -> dict[str, Float64[np.ndarray, " e"]]:
    """Find the direction that tells each finding: ``scale (present - absent)``.

    The logit of ``score_zero_shot`` is the product of a vector with it.

    Args:
        width: Numbers of a vector.
        sentences: As of ``score_zero_shot``, and so are all others.
        prompts: Which sentences.
        labels: Findings.
        scale: Factor of the cosines.

    Raises:
        InputError: A sentence has no vector, or one of another length.
    """
    ways = {}
    for label in labels:
        present, absent = (_average(side, sentences, width) for side in prompts.write(label))
        ways[label] = (scale or 1.0) * (present - absent)
    return ways


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
