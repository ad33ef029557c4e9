"""How models are judged, and on which rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from drrgen.choices import Split, View
from drrgen.errors import ConfigError, InputError
from drrgen_training.evaluation.embedded import Embedded
from drrgen_training.evaluation.mappings import read_mapping
from drrgen_training.evaluation.probe import (
    FRACTIONS,
    SHOTS,
    ProbeKind,
)
from drrgen_training.evaluation.retrieval import pick_first
from drrgen_training.evaluation.searches import (
    KS,
)

ALL = "all"  # in the place of a split: every row is judged
SENTENCES = "prompts"  # beside modalities: their vectors, and the scale of the cosines
_SPLITS = (Split.TEST.value, Split.DEV.value, ALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateSettings:
    """How models are judged.

    Attributes:
        split: Whose rows: ``test``, ``dev`` or ``all``.
        prompts: Set of sentences, see ``evaluation.prompts``.
        mapping: Labels of external data, see ``evaluation.mappings``.
        ks: Of Recall@K and the like.
        probes: Whether probes are trained.
        probe: Which, see ``evaluation.probe.ProbeKind``.
        fractions: Shares of the train patients that probes see.
        shots: Numbers of positives that probes see.
        seeds: Draws of each share.
        replicates: Resamples of the patients.
        seed: Seed of what is drawn.
        device: Where vectors are compared.
        view: View of the radiographs, one a scan; None takes of each scan the first that it has of
            PA, AP, LL and RL.
        external: Whether probes learn from another data set than ``split`` is of; in what is judged
            the two are joined, and the rows of ``split`` are the ``test`` rows.

    Raises:
        ConfigError: No such split or probe, or numbers that cannot be.
    """

    split: str = Split.TEST.value
    prompts: str = "x2ct"
    mapping: str | None = None
    ks: tuple[int, ...] = KS
    probes: bool = True
    probe: str = ProbeKind.LOGISTIC.value
    fractions: tuple[float, ...] = FRACTIONS
    shots: tuple[int, ...] = SHOTS
    seeds: int = 5
    replicates: int = 1000
    seed: int = 0
    device: str = "cpu"
    external: bool = False
    view: View | None = None

    def __post_init__(self) -> None:
        if self.split not in _SPLITS:
            raise ConfigError(f"split: got {self.split}, wanted {', '.join(_SPLITS)}")
        if self.probe not in set(ProbeKind):
            raise ConfigError(f"probe: got {self.probe}, wanted {', '.join(ProbeKind)}")
        if self.replicates < 2 or self.seeds < 1:
            raise ConfigError(
                f"got {self.replicates} replicates and {self.seeds} seeds, wanted 2 and 1 or more"
            )

    @property
    def judged(self) -> str:
        """Split of the rows to judge in what is judged, or ``all``."""
        return Split.TEST.value if self.external else self.split

    def choose_labels(self, judged: Embedded) -> list[str]:
        """Choose the labels that sentences are about: those of the data, or of the mapping."""
        return list(judged.labels) if self.mapping is None else read_mapping(self.mapping).sources

    def map_labels(self, model: Embedded) -> Embedded:
        """Tell the labels of the rows in those of the mapping; done twice it changes nothing.

        Raises:
            ConfigError: No such mapping.
            InputError: The rows lack a label.
        """
        if self.mapping is None:
            return model
        return replace(model, labels=read_mapping(self.mapping).map_truth(model.labels))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bench:
    """The rows that one model is judged on.

    Attributes:
        test: One row of each scan.
        whole: All test rows.
        train: Rows that probes learn from.
        dev: Rows that thresholds are chosen on.
    """

    test: Embedded
    whole: Embedded
    train: Embedded
    dev: Embedded


def make_bench(model: Embedded, settings: EvaluateSettings) -> Bench:
    """Sort the rows of a model by what they are for.

    Raises:
        ConfigError: No such mapping.
        InputError: Too few rows to judge, or a patient in dev and test.
    """
    model, split = settings.map_labels(model), settings.judged
    every = split == ALL
    whole = model if every else model.take(model.split == split)
    if len(whole) < 2:
        counts = dict(zip(*np.unique(model.split, return_counts=True), strict=True))
        shown = ", ".join(f"{n} {name}" for name, n in counts.items()) or "none"
        of_view = f" of the view {settings.view}" if settings.view else ""
        raise InputError(
            f"{model.model} has {len(whole)} rows{of_view} of the split {settings.split} (there "
            f"are {shown}), wanted more; give another --split{' or --view' if of_view else ''}"
        )
    held = Split.DEV if split == Split.TEST else None
    learnt = (Split.TRAIN,) if split == Split.DEV else (Split.TRAIN, Split.DEV)
    none = np.zeros(len(model), bool)
    dev = model.take(none if held is None else model.split == held)
    if both := len(np.intersect1d(dev.patient, whole.patient)):
        raise InputError(
            f"{both} patients are in the dev rows, which choose thresholds, and in the test rows "
            f"of {model.model}; split by patient"
        )
    return Bench(
        test=whole.take(pick_first(whole.study)), whole=whole, dev=dev,
        train=model.take(none if every else np.isin(model.split, learnt)),
    )  # fmt: skip


def find_shared(first: Embedded, other: Embedded) -> frozenset[str]:
    """Find of what another model has the very vectors of the first one: modalities, sentences.

    Where it has all of them nothing is left to judge it by: then none counts.

    Args:
        first: All rows, for probes and thresholds hang on those of train and dev.
        other: The same rows of another model.
    """
    shared = _list_equal(first.vectors, other.vectors)
    if shared == other.vectors.keys():
        return frozenset()
    sentences = _list_equal(first.prompts, other.prompts)
    is_one = first.scale == other.scale and (
        first.prompts.keys() == other.prompts.keys() == sentences
    )
    return frozenset(shared | {SENTENCES} if is_one else shared)


def _list_equal(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> set[str]:
    """List the names under which both have the same numbers."""
    both = a.keys() & b.keys()
    return {name for name in both if np.array_equal(a[name], b[name], equal_nan=True)}


def find_unlike(benches: Sequence[Bench]) -> dict[str, set[str]]:
    """Find the modalities that another model has in other rows than the first one.

    Numbers of different galleries are no pair.
    """
    first, *others = (bench.whole for bench in benches)
    return {
        other.model: {
            name for name in first.vectors.keys() & other.vectors.keys()
            if (first.has(name) != other.has(name)).any()
        } for other in others
    }  # fmt: skip
