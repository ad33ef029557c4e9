"""Numbers by the definitions that CT-CLIP and X2CT-CLIP published, with their faults.

They are here so that a number can be held against a published one. The right ones are in
``retrieval`` and ``classification``; where they differ, the docstring says by what, and ``FAULTS``
says it in a sentence for the page.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from sklearn import metrics

from drrgen.errors import InputError
from drrgen_training.evaluation.retrieval import Search, check_ks, check_rows, find_top

MAP_KS = (1, 5, 10, 50, 100)
RECALL_KS = (5, 10, 50, 100)
AVERAGES = ("micro", "macro", "weighted")

Version = Literal["earlier", "later"]  # of X2CT-CLIP's scripts; which made its table is unknown


class Compat(StrEnum):
    """Whose definitions."""

    CTCLIP = "ctclip"
    X2CT = "x2ct"


FAULTS = {
    (Compat.CTCLIP, "MAP"): (
        "not average precision but the mean Jaccard overlap of labels; each value is also "
        "averaged with those of all smaller K, and a query finds itself"
    ),
    (Compat.CTCLIP, "Recall"): (
        "only the query's own row is a hit, so equal reports of one scan are ordered by row"
    ),
    (Compat.CTCLIP, "classification"): (
        "the threshold of each label is fitted on the data it is tested on; F1 is weighted by "
        "class; the bootstrap draws nothing anew, so its interval has no width"
    ),
    (Compat.X2CT, "MAP"): (
        "not average precision but the mean Jaccard overlap of labels; a query finds itself"
    ),
    (Compat.X2CT, "Recall"): (
        "only the query's own row is a hit, so equal reports of one scan are ordered by row"
    ),
    (Compat.X2CT, "Recall, later"): (
        "every item stands in the ranking twice, so K counts as half of K, rounded up"
    ),
    (Compat.X2CT, "classification"): (
        "micro averages pool labels of different prevalence, which rewards knowing the prevalence"
    ),
    (Compat.X2CT, "classification, later"): (
        "the averaged ROC-AUC is overwritten by that of the last label"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One number by a published definition.

    Attributes:
        compat: Whose definition.
        measure: Name it was published under, such as ``MAP@10``.
        value: What it gives.
        fault: What is wrong with it.
        low: Lower end of the published interval; NaN where there is none.
        high: Upper end.
    """

    compat: Compat
    measure: str
    value: float
    fault: str
    low: float = math.nan
    high: float = math.nan


def publish_retrieval(
    compat: Compat,
    queries: Float[np.ndarray, "n e"],
    gallery: Float[np.ndarray, "n e"],
    labels: Int64[np.ndarray, "n l"] | None = None,
) -> tuple[Published, ...]:
    """Measure retrieval between the same rows in two modalities, or in one, as published.

    Args:
        compat: Whose definitions.
        queries: Unit vectors; row i is to find row i.
        gallery: Unit vectors of the same rows.
        labels: 1 and 0, for MAP@K; None leaves it out.

    Returns:
        ``MAP@K`` and ``Recall@K``; of X2CT-CLIP also ``Recall@K, later``.

    Raises:
        InputError: As of ``measure_ctclip_map`` and ``measure_recall``.
    """
    told: list[tuple[str, dict[str, float]]] = []
    if labels is not None:
        measure = measure_ctclip_map if compat == Compat.CTCLIP else measure_x2ct_map
        told.append(("MAP", measure(queries, gallery, query_labels=labels, gallery_labels=labels)))
    told.append(("Recall", measure_recall(queries, gallery)))
    if compat == Compat.X2CT:
        told.append(("Recall, later", measure_x2ct_recall(queries, gallery, version="later")))
    return _publish(compat, told)


def publish_classification(
    compat: Compat,
    probabilities: Float[np.ndarray, "n l"],
    labels: Int64[np.ndarray, "n l"],
) -> tuple[Published, ...]:
    """Measure how probabilities tell findings, as published.

    Args:
        compat: Whose definitions.
        probabilities: Of presence, 0 to 1.
        labels: 1 and 0.

    Returns:
        Of CT-CLIP ``AUROC``, ``Accuracy``, ``Precision``, ``F1`` with its interval; of X2CT-CLIP
        ``macro Precision`` and so on, and ``macro ROC-AUC, later``, for each average.

    Raises:
        InputError: As of ``measure_ctclip_classification`` and ``measure_x2ct_probe``.
    """
    if compat == Compat.CTCLIP:
        values = measure_ctclip_classification(probabilities, labels)
        ends = bootstrap_ctclip(values)
        fault = FAULTS[compat, "classification"]
        return tuple(
            Published(compat=compat, measure=name, value=value, fault=fault,
                      low=ends[name][0], high=ends[name][1])
            for name, value in values.items()
        )  # fmt: skip
    later = measure_x2ct_probe(probabilities, labels, version="later")
    overwritten = {name: later[name] for name in later if name.endswith("ROC-AUC")}
    earlier = measure_x2ct_probe(probabilities, labels)
    return _publish(compat, [("classification", earlier), ("classification, later", overwritten)])


# Retrieval.


def measure_ctclip_map(
    queries: Float[np.ndarray, "n _"],
    gallery: Float[np.ndarray, "m _"],
    *,
    query_labels: Int64[np.ndarray, "n l"],
    gallery_labels: Int64[np.ndarray, "m l"],
    ks: Sequence[int] = MAP_KS,
) -> dict[str, float]:
    """CT-CLIP's ``MAP@K``.

    As ``measure_x2ct_map``, with one more fault: the list of values is begun before the loop over
    K and never emptied, so each number is the mean over this K and all smaller ones. Since a
    query finds itself, K = 1 gives 1 for each query with a finding, and that 1 is carried into
    all later numbers.

    Args:
        queries: As of ``measure_x2ct_map``.
        gallery: Likewise.
        query_labels: Likewise.
        gallery_labels: Likewise.
        ks: The K, from the smallest.

    Raises:
        InputError: As of ``measure_x2ct_map``, or the K do not rise.
    """
    if list(ks) != sorted(ks):
        raise InputError(f"ks: got {tuple(ks)}, wanted them to rise; each carries those before it")
    each = measure_x2ct_map(
        queries, gallery, query_labels=query_labels, gallery_labels=gallery_labels, ks=ks
    )
    values = list(each.values())
    return {name: float(np.mean(values[: i + 1])) for i, name in enumerate(each)}


def measure_x2ct_map(
    queries: Float[np.ndarray, "n _"],
    gallery: Float[np.ndarray, "m _"],
    *,
    query_labels: Int64[np.ndarray, "n l"],
    gallery_labels: Int64[np.ndarray, "m l"],
    ks: Sequence[int] = MAP_KS,
) -> dict[str, float]:
    """X2CT-CLIP's ``MAP@K``, which is not average precision.

    For each query it is the mean over the first K items of ``|A and B| / |A or B|`` of positive
    labels, and then the mean over queries. Items without a positive label leave the gallery, but
    queries without one stay and count 0, which lowers it. A query of the same modality finds
    itself, and other reconstructions of its scan with the same labels, which raises it.

    Args:
        queries: Unit vectors.
        gallery: Unit vectors.
        query_labels: 1 and 0.
        gallery_labels: 1 and 0.
        ks: The K; of a smaller gallery, all of it.

    Raises:
        InputError: A K is less than 1, a label is neither 0 nor 1, there are not as many labels
            as vectors, no item has a positive label, or as of ``Search``.
    """
    ks = check_ks(ks)
    check_rows("query_labels", query_labels, len(queries))
    check_rows("gallery_labels", gallery_labels, len(gallery))
    _check_binary(query_labels)
    _check_binary(gallery_labels)
    kept = (gallery_labels == 1).any(1)
    if not kept.any():
        raise InputError(f"none of {len(kept)} items has a positive label, wanted some")
    items = gallery_labels[kept] == 1
    search = Search(queries=queries, gallery=gallery[kept])
    rows = find_top(search, min(max(ks), len(items))).rows
    overlap = np.stack([_overlap(query_labels == 1, items[column]) for column in rows.T], 1)
    return {f"MAP@{k}": float(overlap[:, :k].mean()) for k in ks}


def measure_recall(
    queries: Float[np.ndarray, "n _"],
    gallery: Float[np.ndarray, "m _"],
    *,
    ks: Sequence[int] = RECALL_KS,
) -> dict[str, float]:
    """``Recall@K`` of CT-CLIP, and of the earlier version of X2CT-CLIP.

    Only the query's own row is a hit. Equal scores keep the order of the rows, so of several rows
    with one report the first is found and the others are missed: less than the truth.

    Args:
        queries: Unit vectors.
        gallery: Unit vectors of the same rows.
        ks: The K.

    Raises:
        InputError: A K is less than 1, the sides differ in length, or as of ``Search``.
    """
    return _recall(queries, gallery, ks, copies=1)


def measure_x2ct_recall(
    queries: Float[np.ndarray, "n _"],
    gallery: Float[np.ndarray, "m _"],
    *,
    version: Version,
    ks: Sequence[int] = RECALL_KS,
) -> dict[str, float]:
    """X2CT-CLIP's ``Recall@K``.

    The earlier version is ``measure_recall``. In the later one the loop over items stands there
    twice, so every item is in the ranking twice: K holds K / 2 items, rounded up (5, 10, 50, 100
    act as 3, 5, 25, 50), and recall is too low.

    Args:
        queries: As of ``measure_recall``.
        gallery: Likewise.
        version: Of the published script.
        ks: The K.

    Raises:
        InputError: As of ``measure_recall``.
    """
    return _recall(queries, gallery, ks, copies=1 if version == "earlier" else 2)


def _recall(
    queries: Float[np.ndarray, "n _"],
    gallery: Float[np.ndarray, "m _"],
    ks: Sequence[int],
    *,
    copies: int,
) -> dict[str, float]:
    """Recall@K of the query's own row, where every item stands in the ranking so many times.

    Each copy of what scores higher is in its way, of what scores the same the first one of each
    earlier row: copies follow the whole list of items.
    """
    ks = check_ks(ks)
    check_rows("gallery", gallery, len(queries))
    place = np.empty(len(queries), np.int64)
    for part, scores in Search(queries=queries, gallery=gallery).score():
        row = torch.arange(part.start, part.start + len(scores), device=scores.device)[:, None]
        own = scores.gather(1, row)
        ahead = (scores > own).sum(1)
        level = ((scores == own) & (torch.arange(scores.shape[1], device=row.device) < row)).sum(1)
        place[part] = (1 + copies * ahead + level).cpu().numpy()
    return {f"Recall@{k}": float((place <= k).mean()) for k in ks}


# Classification.


def measure_ctclip_classification(
    probabilities: Float[np.ndarray, "n l"], labels: Int64[np.ndarray, "n l"]
) -> dict[str, float]:
    """CT-CLIP's numbers of findings: the plain mean over labels of ``measure_ctclip_label``.

    Raises:
        InputError: As of ``measure_ctclip_label``.
    """
    each = [measure_ctclip_label(probabilities[:, i], labels[:, i]) for i in range(labels.shape[1])]
    names = ("AUROC", "Accuracy", "Precision", "F1")
    return {name: float(np.mean([label[name] for label in each])) for name in names}


def measure_ctclip_label(
    probabilities: Float[np.ndarray, " n"], labels: Int64[np.ndarray, " n"]
) -> dict[str, float]:
    """CT-CLIP's numbers of one label.

    The threshold is the one of 100 from 0 to 1 whose point of the ROC curve is nearest to
    (0, 1), the last of equals; a probability above it is positive. It is fitted on the very data
    that it is tested on, which raises all but AUROC. F1 is the mean of both classes' F1 by their
    share of rows, so that of a rare finding is nearly the F1 of its absence.

    Args:
        probabilities: Of presence, 0 to 1.
        labels: 1 and 0.

    Returns:
        ``AUROC``, ``Threshold``, ``Accuracy``, ``Precision``, ``F1``.

    Raises:
        InputError: A label is neither 0 nor 1, there is one class only, or a probability is not
            from 0 to 1.
    """
    _check_classes(probabilities[:, None], labels[:, None])
    threshold = find_corner_threshold(probabilities, labels)
    told = (probabilities > threshold).astype(np.int64)
    return {
        "AUROC": float(metrics.roc_auc_score(labels, probabilities)),
        "Threshold": threshold,
        "Accuracy": float(metrics.accuracy_score(labels, told)),
        "Precision": float(metrics.precision_score(labels, told, zero_division=0)),
        "F1": float(metrics.f1_score(labels, told, average="weighted", zero_division=0)),
    }


def find_corner_threshold(
    probabilities: Float[np.ndarray, " n"], labels: Int64[np.ndarray, " n"]
) -> float:
    """Find CT-CLIP's threshold: nearest to sensitivity and specificity 1, the last of equals."""
    grid = np.linspace(0, 1, 100)
    above = probabilities[None] > grid[:, None]
    missed = 1 - above[:, labels == 1].mean(1)
    false = above[:, labels == 0].mean(1)
    distance = np.sqrt(missed**2 + false**2)
    return float(grid[np.flatnonzero(distance == distance.min())[-1]])


def bootstrap_ctclip(values: dict[str, float]) -> dict[str, tuple[float, float]]:
    """CT-CLIP's bootstrap interval of each number, which has no width.

    Its script draws rows and then measures all rows instead of those drawn: each replicate is the
    number itself, and so is each percentile. It says nothing of how sure the number is.
    """
    return {name: (value, value) for name, value in values.items()}


def measure_x2ct_zero_shot(
    present: Float[np.ndarray, "n l"],
    absent: Float[np.ndarray, "n l"],
    labels: Int64[np.ndarray, "n l"],
    *,
    version: Version = "earlier",
) -> dict[str, float]:
    """X2CT-CLIP's numbers of findings told by two prompts each.

    The probability is the softmax of the two scores; a finding is present if that of presence is
    the larger. Whether prompts are well balanced thus decides on precision, recall and F1.

    Args:
        present: Score of the prompt that says it is there.
        absent: Score of the other.
        labels: 1 and 0.
        version: As of ``measure_x2ct_probe``.

    Returns:
        As of ``measure_x2ct_probe``.

    Raises:
        InputError: As of ``measure_x2ct_probe``.
    """
    probabilities = (1 + np.tanh((present - absent) / 2)) / 2
    return _measure_x2ct(probabilities, present > absent, labels, version)


def measure_x2ct_probe(
    probabilities: Float[np.ndarray, "n l"],
    labels: Int64[np.ndarray, "n l"],
    *,
    version: Version = "earlier",
) -> dict[str, float]:
    """X2CT-CLIP's numbers of findings told by probabilities; above 0.5 is present.

    ``micro`` pools all labels, which rewards knowing which are frequent. In the later version the
    loop over labels reuses the variable of the averaged ROC-AUC: what is saved is the ROC-AUC of
    the last label, whatever the average. PR-AUC is not touched.

    Args:
        probabilities: Of presence, 0 to 1.
        labels: 1 and 0.
        version: Of the published script.

    Returns:
        ``Precision``, ``Recall``, ``F1``, ``ROC-AUC`` and ``PR-AUC`` (average precision) by
        ``micro``, ``macro`` and ``weighted`` average, such as ``macro PR-AUC``.

    Raises:
        InputError: A label is neither 0 nor 1, a label has one class only, there are fewer than
            two labels, or a probability is not from 0 to 1.
    """
    return _measure_x2ct(probabilities, probabilities > 0.5, labels, version)


def flatten_micro(
    probabilities: Float[np.ndarray, "n l"], labels: Int64[np.ndarray, "n l"]
) -> tuple[Float[np.ndarray, " nl"], Int64[np.ndarray, " nl"]]:
    """Flatten to what X2CT-CLIP gives to DeLong's test: all labels of all rows in one list.

    It takes the labels of a patient, and the reconstructions of a scan, for independent, which
    they are not: p-values are too small. Nor does it correct for the number of comparisons.

    Example:
        >>> flatten_micro(np.array([[0.1, 0.2], [0.3, 0.4]]), np.array([[0, 1], [1, 0]]))[1]
        array([0, 1, 1, 0])
    """
    return probabilities.ravel(), labels.ravel()


def _measure_x2ct(
    probabilities: Float[np.ndarray, "n l"],
    told: Bool[np.ndarray, "n l"],
    labels: Int64[np.ndarray, "n l"],
    version: Version,
) -> dict[str, float]:
    """Average scikit-learn's measures in three ways."""
    if labels.shape[1] < 2:
        raise InputError(f"got {labels.shape[1]} labels, wanted two or more to average over")
    _check_classes(probabilities, labels)
    found: dict[str, float] = {}
    for average in AVERAGES:
        precision, recall, f1, _ = metrics.precision_recall_fscore_support(
            labels, told, average=average, zero_division=0
        )
        auc = metrics.roc_auc_score(labels, probabilities, average=average)
        if version == "later":
            auc = metrics.roc_auc_score(labels[:, -1], probabilities[:, -1])
        area = metrics.average_precision_score(labels, probabilities, average=average)
        values = (precision, recall, f1, auc, area)
        for name, value in zip(
            ("Precision", "Recall", "F1", "ROC-AUC", "PR-AUC"), values, strict=True
        ):
            found[f"{average} {name}"] = float(value)
    return found


def _publish(compat: Compat, told: Sequence[tuple[str, dict[str, float]]]) -> tuple[Published, ...]:
    """Name the fault of each number."""
    return tuple(
        Published(
            compat=compat,
            measure=f"{name}, later" if kind.endswith(", later") else name,
            value=value,
            fault=FAULTS[compat, kind],
        )
        for kind, values in told
        for name, value in values.items()
    )


def _overlap(a: Bool[np.ndarray, "n l"], b: Bool[np.ndarray, "n l"]) -> Float[np.ndarray, " n"]:
    """``|A and B| / |A or B|``, row by row; B is never empty."""
    return (a & b).sum(1) / (a | b).sum(1)


def _check_binary(labels: Int64[np.ndarray, "n l"]) -> None:
    """Refuse labels that the published scripts do not know."""
    other = np.setdiff1d(labels, [0, 1])
    if other.size:
        raise InputError(
            f"labels: got {other.tolist()}, wanted 0 and 1; the published definitions know no "
            "unknown labels, so leave out such rows or labels"
        )


def _check_classes(
    probabilities: Float[np.ndarray, "n l"], labels: Int64[np.ndarray, "n l"]
) -> None:
    """Refuse what has no ROC curve."""
    _check_binary(labels)
    lone = np.flatnonzero(~((labels == 1).any(0) & (labels == 0).any(0)))
    if lone.size:
        raise InputError(
            f"labels {lone.tolist()} have one class only, wanted both; leave those labels out"
        )
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise InputError(
            f"probabilities: got {probabilities.min()} to {probabilities.max()}, wanted 0 to 1"
        )
