"""What a trained encoder is compared with, each judged by the same code as itself."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Float32

from drrgen.choices import Split
from drrgen.errors import InputError
from drrgen_training.batches import read_shrunk
from drrgen_training.evaluation.embedded import Embedded
from drrgen_training.losses import Modality
from drrgen_training.pictures import Pictures
from drrgen_training.supervised import SupervisedSettings, classify, fit_supervised

CHANCE, PIXELS, SUPERVISED, CT_SIDE = "chance", "pixels", "supervised", "ct"
MEAN_PROJECTION = "mean-projection"
BASELINES = (CHANCE, PIXELS, MEAN_PROJECTION, SUPERVISED, CT_SIDE)
_PIXEL_SIDE = 32  # of the pictures whose pixels are taken as they are
_PARTS = 64  # principal components of pixels, at most


def make_chance(judged: Embedded, seed: int = 0) -> Embedded:
    """Random unit vectors in the place of radiographs: what chance gives, in the same tables."""
    random = np.random.default_rng(seed)
    drawn = random.normal(size=judged.vectors[Modality.CXR].shape).astype(np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return replace(judged, model=CHANCE, vectors={**judged.vectors, Modality.CXR.value: drawn})


def make_ct_side(judged: Embedded) -> Embedded:
    """The CT's own vectors in the place of radiographs: an upper bound, for it sees all three axes.

    Raises:
        InputError: There are no embedded CT.
    """
    if Modality.CT not in judged.vectors:
        raise InputError(
            f"the baseline {CT_SIDE} needs embedded CT, {judged.model} has none; give their folder "
            "with --targets"
        )
    vectors = {k: v for k, v in judged.vectors.items() if k != Modality.CT}
    vectors[Modality.CXR.value] = judged.vectors[Modality.CT]
    return replace(judged, model=CT_SIDE, vectors=vectors)


def make_pixels(judged: Embedded, pictures: Pictures) -> Embedded:
    """Principal components of the pixels, mapped into the common space by ridge regression.

    Components and map are fitted on the train rows alone. The map makes the comparison fair:
    without it pixels would stand in a space that has nothing to do with reports or CT.

    Args:
        judged: The model whose space is mapped into.
        pictures: Of the same rows.

    Raises:
        InputError: There are fewer than two train rows.
    """
    pixels = _read_pixels(pictures, len(judged))
    train = np.flatnonzero(judged.split == Split.TRAIN)
    if len(train) < 2:
        raise InputError(
            f"the baseline {PIXELS} is fitted on train rows, {judged.model} has {len(train)}; "
            "embed all splits"
        )
    middle = pixels[train].mean(0)
    _, _, axes = np.linalg.svd(pixels[train] - middle, full_matrices=False)
    parts = (pixels - middle) @ axes[:_PARTS].T
    mapped = map_into(parts, judged)
    return replace(judged, model=PIXELS, vectors={**judged.vectors, Modality.CXR.value: mapped})


def map_into(features: Float[np.ndarray, "n k"], judged: Embedded) -> Float32[np.ndarray, "n e"]:
    """Map features into a model's space by ridge regression on the train rows.

    Args:
        features: Of each row.
        judged: Whose reports and CT are mapped to: to the middle of both, where a row has both.

    Returns:
        Unit vectors.
    """
    from sklearn.linear_model import RidgeCV

    sides = [judged.vectors[m] for m in (Modality.CT, Modality.REPORT) if m in judged.vectors]
    there = np.stack([np.isfinite(v).all(1) for v in sides]).any(0)
    wanted = np.nanmean(np.stack(sides)[:, there], axis=0)
    train = (judged.split == Split.TRAIN)[there]
    scale = features[there][train].std(0) + 1e-9
    fitted = RidgeCV(alphas=np.logspace(-2, 4, 13)).fit(
        features[there][train] / scale, wanted[train]
    )
    mapped = np.asarray(fitted.predict(features / scale), np.float32)
    return mapped / np.maximum(np.linalg.norm(mapped, axis=1, keepdims=True), 1e-12)


def make_supervised(
    judged: Embedded, pictures: Pictures, settings: SupervisedSettings, device: str = "cpu"
) -> Embedded:
    """The same kind of encoder, trained from scratch on the labels of the train rows.

    Its vectors are its features, for probes; it finds no report and no CT.

    Args:
        judged: Whose rows and labels.
        pictures: Of the same rows.
        settings: How it is trained.
        device: Where.
    """
    rows = np.flatnonzero(judged.split == Split.TRAIN)
    model = fit_supervised(pictures, rows, judged.labels, settings, device)
    scores, features = classify(model, pictures, len(judged), device)
    return replace(
        judged, model=SUPERVISED, vectors={Modality.CXR.value: features}, prompts={},
        findings={name: scores[:, i] for i, name in enumerate(judged.labels)},
    )  # fmt: skip


def _read_pixels(pictures: Pictures, n: int) -> Float32[np.ndarray, "n k"]:
    """Read small pictures as vectors."""
    parts = [seen.flatten(1).numpy() for seen in read_shrunk(pictures, n, _PIXEL_SIDE)]
    return np.concatenate(parts).astype(np.float32) / 255
