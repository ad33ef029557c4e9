"""From a training and a manifest to what is judged: embeddings of all radiographs, CT, reports."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64

from drrgen.errors import InputError, ManifestError
from drrgen_training.batches import read_shrunk
from drrgen_training.evaluation.embedded import UNKNOWN, Embedded
from drrgen_training.losses import Modality
from drrgen_training.model import Tower, find_image_spec
from drrgen_training.pictures import Pictures, find_picture
from drrgen_training.samples import Samples, name_picture
from drrgen_training.targets import Targets, identify, load_tower

_BATCH = 64


def embed_run(
    samples: Samples,
    pictures: Pictures,
    tower: Tower,
    targets: Mapping[str, Targets],
    *,
    model: str = "drrgen",
    device: str = "cpu",
) -> Embedded:
    """Embed every radiograph with a trained encoder; CT and reports have theirs already.

    Args:
        samples: Radiographs of a data set.
        pictures: Of the same samples.
        tower: Of radiographs, of a training.
        targets: Cached embeddings by modality, those that it was trained on.
        model: What it is called.
        device: Where the encoder runs.

    Raises:
        InputError: The tower makes vectors of another width than the targets have, or some that
            are not finite.
    """
    tower = tower.eval().to(device)
    for name, target in targets.items():
        if target.provenance.dim != tower.dim:
            raise InputError(
                f"{model} makes vectors of {tower.dim} numbers, the {name} targets have "
                f"{target.provenance.dim}; give the targets that it was trained on"
            )
    seen = np.concatenate(list(embed_pictures(tower, pictures, len(samples), device)))
    bad = int((~np.isfinite(seen)).any(1).sum())
    if bad:
        raise InputError(
            f"{model} makes vectors that are not finite of {bad} of {len(seen)} radiographs; look "
            "at its training"
        )
    return describe(samples, {Modality.CXR: seen} | find_targets(samples, targets), model=model,
                    scale=tower.scale)  # fmt: skip


def find_targets(
    samples: Samples, targets: Mapping[str, Targets]
) -> dict[str, Float32[np.ndarray, "n e"]]:
    """Take the cached embedding of each row; NaN where there is none."""
    names = {Modality.CT.value: [row["sample_id"] for row in samples.rows],
             Modality.REPORT.value: [row["text"] for row in samples.rows]}  # fmt: skip
    found = {}
    for name, target in targets.items():
        if name in names:
            rows = target.find(names[name])
            vectors = target.take(rows).numpy()
            vectors[rows < 0] = np.nan
            found[name] = vectors
    return found


def describe(
    samples: Samples,
    vectors: Mapping[str, Float32[np.ndarray, "n _"]],
    *,
    model: str,
    scale: float | None = None,
) -> Embedded:
    """Say whose the rows of some embeddings are.

    Args:
        samples: Radiographs, a row each.
        vectors: Unit vectors by modality.
        model: What it is called.
        scale: Factor of its cosines.
    """
    return Embedded(
        model=model,
        names=tuple(name_picture(row) for row in samples.rows),
        patient=samples.patient,
        study=samples.study,
        report=samples.report,
        split=np.array([row["split"] for row in samples.rows], dtype=str),
        vectors={str(name): each for name, each in vectors.items()},
        labels=read_labels(samples),
        scale=scale,
        pictures=tuple(str(find_picture(samples, row)) for row in samples.rows),
        texts=tuple(samples.texts[n] if n >= 0 else "" for n in samples.report.tolist()),
        views=tuple(str(row["view"] or "") for row in samples.rows),
        people=tuple(str(row["patient_id"] or row["sample_id"]) for row in samples.rows),
    )


def embed_pictures(
    tower: Tower, pictures: Pictures, n: int, device: str = "cpu"
) -> Iterator[Float32[np.ndarray, "b e"]]:
    """Embed the first N pictures, a batch at a time."""
    size = find_image_spec(tower).size
    for seen in read_shrunk(pictures, n, size):
        with torch.no_grad():
            made = tower(seen.to(device).float() / 255).float()
        yield made.cpu().numpy()


def read_labels(samples: Samples) -> dict[str, Int64[np.ndarray, " n"]]:
    """Read the labels of each row; ``UNKNOWN`` where one is not told."""
    told = [{each["name"]: each["value"] for each in row["labels"] or ()} for row in samples.rows]
    names = sorted({name for labels in told for name in labels})
    return {
        name: np.array([labels.get(name, UNKNOWN) for labels in told], dtype=np.int64)
        for name in names
    }


def find_report_tower(targets: Mapping[str, Targets], name: str | None = None) -> Any:
    """Load the encoder of prompts: the one that made the embeddings of reports.

    Args:
        targets: Cached embeddings by modality.
        name: Of the encoder, where it lies elsewhere now; None takes the name in the targets.

    Raises:
        InputError: There are no embedded reports, or the encoder is not where it was.
        ManifestError: The encoder is not the one that made them.
    """
    target = targets.get(Modality.REPORT)
    if target is None:
        raise InputError(
            "prompts need the encoder of reports, and no targets are of reports; give their "
            "folder with --targets"
        )
    told = target.provenance
    wanted = name or told.encoder
    if told.template is None:
        raise ManifestError("the report targets tell no template; embed the reports again")
    made = identify(Modality.REPORT, wanted, told.template)
    if made.encoder_id != told.encoder_id:
        raise ManifestError(
            f"{wanted} is the encoder {made.encoder_id}, the reports were embedded by "
            f"{told.encoder_id}; name that one with --report-encoder"
        )
    return load_tower(Modality.REPORT, wanted, "cpu")


@torch.no_grad()
def embed_sentences(tower: Tower, sentences: Sequence[str]) -> dict[str, Float32[np.ndarray, " e"]]:
    """Embed sentences, each once."""
    wanted = list(dict.fromkeys(sentences))
    parts = [tower(wanted[i : i + _BATCH]).numpy() for i in range(0, len(wanted), _BATCH)]
    return dict(zip(wanted, np.concatenate(parts), strict=True)) if wanted else {}
