"""Labels of one data set told in those of another: files that say which are made of which.

A file has a table ``labels``: each label of the external data, and the labels of the model (those
of CT-RATE) that it is made of. A score is the largest of theirs; a truth is the or of theirs.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from drrgen.config import check_known, read_toml
from drrgen.errors import ConfigError, InputError
from drrgen_training.evaluation.embedded import UNKNOWN, find_known
from drrgen_training.shipped import find_shipped, is_list_of_words


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelMapping:
    """How labels are mapped.

    Attributes:
        about: Which data set, and how many labels.
        labels: Of each external label those of the model that it is made of.
    """

    about: str
    labels: Mapping[str, tuple[str, ...]]

    @property
    def sources(self) -> list[str]:
        """Labels of the model that are needed, each once."""
        return list(dict.fromkeys(name for names in self.labels.values() for name in names))

    def map_scores(
        self, scores: Mapping[str, Float[np.ndarray, " n"]]
    ) -> dict[str, Float[np.ndarray, " n"]]:
        """Map what a model says: the largest score of those that a label is made of.

        Args:
            scores: Of the labels of CT-RATE; or of those of the external data, which stay.

        Raises:
            InputError: A label is neither there, nor all that it is made of.
        """
        own = {name for name, sources in self.labels.items() if not set(sources) <= set(scores)}
        self._check(scores, stay=own & set(scores))
        return {
            name: scores[name] if name in own else np.max([scores[s] for s in sources], axis=0)
            for name, sources in self.labels.items()
        }

    def map_truth(
        self, truth: Mapping[str, Int64[np.ndarray, " n"]]
    ) -> dict[str, Int64[np.ndarray, " n"]]:
        """Map what is true: a label that is there stays, others are joined by or of theirs.

        One present makes it present; without one, an unknown makes it unknown.

        Args:
            truth: Labels of the external data, or those of CT-RATE.

        Raises:
            InputError: A label is neither there, nor all that it is made of.
        """
        self._check(truth, stay=set(truth))
        return {
            name: truth[name] if name in truth else join_labels([truth[s] for s in sources])
            for name, sources in self.labels.items()
        }

    def _check(self, there: Mapping[str, Any], stay: Set[str]) -> None:
        """Refuse what lacks a label that one is made of, but for those that stay as they are."""
        missing = list(dict.fromkeys(
            source for name, sources in self.labels.items() if name not in stay
            for source in sources if source not in there
        ))  # fmt: skip
        if missing:
            raise InputError(
                f"the mapping to {self.about} needs {', '.join(missing)}; there is "
                f"{', '.join(there) or 'no label'}"
            )


def join_labels(labels: list[Int64[np.ndarray, " n"]]) -> Int64[np.ndarray, " n"]:
    """Join labels by or, with three values: 1, 0, and anything else for unknown."""
    stacked = np.stack(labels)
    is_known = find_known(stacked)
    joined = np.where((stacked == 1).any(0), 1, np.where(is_known.all(0), 0, UNKNOWN))
    return joined.astype(np.int64)


def read_mapping(name: str) -> LabelMapping:
    """Read a mapping.

    Args:
        name: One that is shipped (``ct-rate``, ``mimic-ct``, ``rad-chestct-15``, ``-9``, ``-16``),
            or a file's, FILE.toml.

    Raises:
        ConfigError: There is none, or it is no mapping.
    """
    return read_toml(find_shipped("mappings", name), _make_mapping, "mapping")


def _make_mapping(table: dict[str, Any]) -> LabelMapping:
    """Build a mapping from a file's table."""
    check_known(table, ("about", "labels"), "key")
    labels = table.get("labels")
    if not isinstance(labels, dict) or not labels:
        raise ConfigError(f"labels: got {labels!r}, wanted a table of labels")
    for name, sources in labels.items():
        if not is_list_of_words(sources):
            raise ConfigError(f"labels.{name}: got {sources!r}, wanted a list of labels")
    return LabelMapping(
        about=str(table.get("about", "external data")),
        labels={name: tuple(sources) for name, sources in labels.items()},
    )
