"""A number, and the same number on every resample of the patients."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from drrgen_training.evaluation.results import Difference, Score
from drrgen_training.evaluation.statistics import compare_replicates, find_interval


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """A score with its replicates, which pair with those of another model.

    Attributes:
        score: The number.
        replicates: The same on each resample; NaN where it is undefined.
    """

    score: Score
    replicates: Float[np.ndarray, " r"]

    @property
    def key(self) -> tuple[str, str, str | None]:
        """What it measures, whatever the model."""
        return self.score.task, self.score.measure, self.score.label


def make_measured(
    make: Callable[..., Score], replicates: Float[np.ndarray, " r"], undefined: int | None = None
) -> Measured:
    """Make a score with its interval.

    Args:
        make: Makes the score from ``low``, ``high`` and ``undefined``.
        replicates: On each resample.
        undefined: Counted instead of undefined replicates, such as findings left out of a mean.
    """
    interval = find_interval(replicates)
    counted = interval.undefined if undefined is None else undefined
    return Measured(
        score=make(low=interval.low, high=interval.high, undefined=counted), replicates=replicates
    )


def list_differences(
    models: Sequence[str], measured: Mapping[str, Sequence[Measured]]
) -> Iterator[Difference]:
    """Compare the first model with each other one, number by number, on the same resamples.

    Args:
        models: Names, the first one is compared with the others.
        measured: All numbers, by model.
    """
    first, *others = models
    for other in others:
        theirs = {each.key: each for each in measured[other]}
        for mine in measured[first]:
            if (against := theirs.get(mine.key)) is None:
                continue
            found = compare_replicates(mine.replicates, against.replicates)
            yield Difference(
                model=first, other=other, task=mine.score.task, measure=mine.score.measure,
                label=mine.score.label, value=mine.score.value - against.score.value,
                low=found.low, high=found.high, p=found.p,
            )  # fmt: skip
