"""What is judged: the embeddings that one model made of some radiographs, CT and reports."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, Shaped

from drrgen.choices import View
from drrgen.errors import InputError
from drrgen_training.losses import Modality

UNKNOWN = -1  # value of a label that is uncertain, or that nobody told


def find_known(labels: Int64[np.ndarray, "*shape"]) -> Bool[np.ndarray, "*shape"]:
    """Say which labels are told: 1 or 0, and not anything else."""
    return (labels == 0) | (labels == 1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Embedded:
    """Embeddings of one model: a row for each radiograph, or for each CT without one.

    Attributes:
        model: Name of the model.
        names: Key of each row, the same in every model that is compared.
        patient: Number of the patient; equal in every model that is compared.
        study: Number of the scan; its reconstructions share it, and its report.
        report: Number of the report's text: equal texts are one thing to find. -1 for none.
        split: ``train``, ``dev`` or ``test``.
        vectors: Unit vectors by modality (``cxr``, ``ct``, ``report``); NaN where a row lacks it.
        labels: 1 present, 0 absent, ``UNKNOWN``; by name.
        prompts: Unit vectors of sentences, by the sentence.
        scale: Factor of the cosines that the model was trained with; None where it tells none.
        pictures: File of each row's radiograph; empty where there are none to show.
        texts: Report of each row; empty where there are none to show.
        findings: What a classifier itself says of each row, by label, the higher the more likely.
        people: Pseudonym of each row's patient; empty where there are only numbers.
        views: View of each row's radiograph, empty where it is not told; empty where none is.
    """

    model: str
    names: tuple[str, ...] = field(repr=False)
    patient: Int64[np.ndarray, " n"] = field(repr=False)
    study: Int64[np.ndarray, " n"] = field(repr=False)
    report: Int64[np.ndarray, " n"] = field(repr=False)
    split: Shaped[np.ndarray, " n"] = field(repr=False)
    vectors: Mapping[str, Float32[np.ndarray, "n _"]] = field(repr=False)
    labels: Mapping[str, Int64[np.ndarray, " n"]] = field(repr=False)
    prompts: Mapping[str, Float32[np.ndarray, " _"]] = field(repr=False, default_factory=dict)
    scale: float | None = None
    pictures: tuple[str, ...] = field(repr=False, default=())
    texts: tuple[str, ...] = field(repr=False, default=())
    findings: Mapping[str, Float[np.ndarray, " n"]] = field(repr=False, default_factory=dict)
    people: tuple[str, ...] = field(repr=False, default=())
    views: tuple[str, ...] = field(repr=False, default=())

    def __len__(self) -> int:
        return len(self.names)

    def has(self, modality: str) -> Bool[np.ndarray, " n"]:
        """Say which rows have an embedding of a modality."""
        if modality not in self.vectors:
            return np.zeros(len(self), bool)
        return np.isfinite(self.vectors[modality]).all(1)

    def take(self, chosen: Bool[np.ndarray, " n"] | Int64[np.ndarray, " m"]) -> "Embedded":
        """Take some rows; numbers stay as they are."""
        rows = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        return Embedded(
            model=self.model,
            names=tuple(self.names[i] for i in rows),
            patient=self.patient[rows],
            study=self.study[rows],
            report=self.report[rows],
            split=self.split[rows],
            vectors={name: v[rows] for name, v in self.vectors.items()},
            labels={name: v[rows] for name, v in self.labels.items()},
            prompts=self.prompts,
            scale=self.scale,
            pictures=tuple(self.pictures[i] for i in rows) if self.pictures else (),
            texts=tuple(self.texts[i] for i in rows) if self.texts else (),
            findings={name: v[rows] for name, v in self.findings.items()},
            people=tuple(self.people[i] for i in rows) if self.people else (),
            views=tuple(self.views[i] for i in rows) if self.views else (),
        )

    def choose_view(self, view: View | None = None) -> Bool[np.ndarray, " n"]:
        """Choose the rows of one view of each scan, so that none is judged on another by chance.

        Args:
            view: The view; scans without it are left out. None takes the first that a scan has of
                PA, AP, LL and RL, where it can among the rows that have a radiograph's vector.

        Raises:
            InputError: No row has the view.
        """
        if view is not None:
            kept = np.array([told == view for told in self.views], bool)
            if not kept.any():
                there = ", ".join(sorted({told or "none" for told in self.views})) or "none"
                raise InputError(f"{self.model} has no row of the view {view}, told is {there}")
            return kept
        if len(set(self.views)) < 2:
            return np.ones(len(self), bool)
        order = [*View, ""]
        place = np.array([order.index(told) for told in self.views])
        place += len(order) * ~self.has(Modality.CXR)
        first = np.full(self.study.max() + 1, place.max())
        np.minimum.at(first, self.study, place)
        chosen: Bool[np.ndarray, " n"] = place == first[self.study]
        return chosen
