"""A trained encoder on test patients: retrieval in all directions, zero-shot findings, and chance.

Patients of the test split were seen by no stage of training, nor by the choice of weights.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64

from drrgen.choices import Split
from drrgen.errors import InputError
from drrgen_training.evaluation.retrieval import measure_retrieval
from drrgen_training.evaluation.zero_shot import make_prompts, measure_zero_shot
from drrgen_training.losses import Modality
from drrgen_training.model import Tower, load_run
from drrgen_training.pictures import Pictures, shrink
from drrgen_training.samples import Samples, plan_epoch
from drrgen_training.settings import KeyKind
from drrgen_training.targets import Targets

LEAST_POSITIVES = 5  # of a label in the test split; with fewer its AUROC says nothing
_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One number, and what chance would give.

    Attributes:
        task: Such as ``cxr to report``, or ``zero-shot from cxr``.
        measure: Such as ``recall@10``.
        value: What was found.
        chance: What a random order gives.
        n: Studies it was measured on.
    """

    task: str
    measure: str
    value: float
    chance: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeldOut:
    """Embeddings of test studies, a row each.

    Attributes:
        vectors: Unit vectors, by modality.
        report: Number of each study's text: equal texts are one thing to find.
        labels: 1, 0, or -1 for unknown, by label.
    """

    vectors: Mapping[str, Float[np.ndarray, "n e"]]
    report: Int64[np.ndarray, " n"]
    labels: Mapping[str, Int64[np.ndarray, " n"]]


def embed_test(
    samples: Samples, pictures: Pictures, run: Path, targets: Mapping[str, Targets]
) -> HeldOut:
    """Embed one radiograph of each test study, and take the cached embeddings of the others.

    Args:
        samples: All samples of the data set.
        pictures: Of the same samples.
        run: Training of the radiograph encoder.
        targets: Cached embeddings of CT and reports.

    Raises:
        InputError: There are no test studies that have all three.
    """
    split = np.array([row["split"] for row in samples.rows])
    places = np.flatnonzero(split == Split.TEST)
    test = samples.take(places)
    names = {Modality.CT: [row["sample_id"] for row in test.rows],
             Modality.REPORT: [row["text"] for row in test.rows]}  # fmt: skip
    found = {name: targets[name].find(names[name]) for name in names}
    is_whole = (found[Modality.CT] >= 0) & (found[Modality.REPORT] >= 0)
    if is_whole.sum() < 2:
        raise InputError(
            f"{samples.root} has {int(is_whole.sum())} test radiographs with embedded CT and "
            "report, wanted more; see the split column, and embed the whole data set"
        )
    whole = test.take(is_whole)
    rows = np.sort(np.concatenate(
        plan_epoch(whole, key=KeyKind.STUDY, batch=_BATCH, seed=0, epoch=0, drop_rest=False)
    ))  # fmt: skip
    chosen = np.flatnonzero(is_whole)[rows]
    vectors: dict[str, np.ndarray] = {
        name.value: targets[name].take(found[name][chosen]).numpy() for name in names
    }
    tower = load_run(run, Modality.CXR).eval()
    vectors[Modality.CXR] = _embed_pictures(tower, pictures, places[chosen])
    kept = test.take(chosen)
    return HeldOut(vectors=vectors, report=kept.report, labels=_read_labels(kept))


@torch.no_grad()
def _embed_pictures(
    tower: Tower, pictures: Pictures, rows: Int64[np.ndarray, " n"]
) -> Float[np.ndarray, "n e"]:
    """Embed radiographs."""
    size: int = tower.encoder.spec.size  # type: ignore[assignment]
    parts = [
        tower(shrink(pictures.read(rows[i : i + _BATCH]), size).float() / 255)
        for i in range(0, len(rows), _BATCH)
    ]
    return torch.cat(parts).numpy()


def _read_labels(samples: Samples) -> dict[str, Int64[np.ndarray, " n"]]:
    """Read the labels of each row; -1 where one is not told."""
    told = [{each["name"]: each["value"] for each in row["labels"] or ()} for row in samples.rows]
    names = sorted({name for labels in told for name in labels})
    return {name: np.array([labels.get(name, -1) for labels in told]) for name in names}


def measure_test(test: HeldOut, report_tower: Tower) -> Iterator[Line]:
    """Measure all directions, and the findings that enough studies have.

    Args:
        test: Of ``embed_test``.
        report_tower: Encoder of prompts, that of the report embeddings.

    Yields:
        A line for each number.
    """
    n = len(test.report)
    studies = np.arange(n)
    for a, b in (("cxr", "report"), ("report", "cxr"), ("cxr", "ct"), ("ct", "cxr"),
                 ("ct", "report"), ("report", "ct")):  # fmt: skip
        key = test.report if "report" in (a, b) else studies
        found = measure_retrieval(
            test.vectors[a], test.vectors[b], query_key=key, gallery_key=key, ks=(1, 10)
        )
        task = f"{a} to {b}"
        for k, value in found.recall.items():
            yield Line(task=task, measure=f"recall@{k}", value=value, chance=found.chance[k], n=n)
        yield Line(task=task, measure="median rank", value=found.median_rank,
                   chance=found.chance_rank, n=n)  # fmt: skip
    labels = {
        name: values for name, values in test.labels.items()
        if min((values == 1).sum(), (values == 0).sum()) >= LEAST_POSITIVES
    }  # fmt: skip
    prompts = {name: embed_prompts(report_tower, name) for name in labels}
    for side in ("cxr", "ct"):
        zero_shot = measure_zero_shot(test.vectors[side], prompts, labels)
        task = f"zero-shot from {side}"
        yield Line(task=task, measure="macro AUROC", value=zero_shot.macro, chance=0.5, n=n)
        for name, value in zero_shot.auroc.items():
            yield Line(task=task, measure=f"AUROC {name}", value=value, chance=0.5, n=n)


@torch.no_grad()
def embed_prompts(
    tower: Tower, label: str
) -> tuple[Float[np.ndarray, " e"], Float[np.ndarray, " e"]]:
    """Embed the prompts of presence and absence of a label."""
    present, absent = tower.eval()(list(make_prompts(label)))
    return present.numpy(), absent.numpy()
