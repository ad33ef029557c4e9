"""A trained encoder on anybody's radiographs: findings by sentences, the nearest reports, vectors.

A radiograph becomes the encoder's input as in training: read as its file says that it is to be
shown, made a square of the size that was packed, and shrunk.
"""

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from drrgen.choices import View
from drrgen.errors import DataError, Reason, Status, status_of
from drrgen.io.radiograph_listing import RadiographFile
from drrgen.io.radiographs import Radiograph, read_radiograph
from drrgen.io.stores import stage
from drrgen_training.batches import make_ahead
from drrgen_training.model import find_image_spec
from drrgen_training.pages import encode_grey
from drrgen_training.pictures import make_square, shrink
from drrgen_training.predictor import Neighbour, Predictor

_BATCH = 64
_THUMBNAIL = 240  # pixels
_FAINT = 0.1  # of the range of greys: less has hardly any contrast
_LONG = 4  # times as long as wide: no radiograph of a chest

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """What is told of a file.

    Attributes:
        name: Its path under the folder that was given, with forward slashes.
        reason: Why nothing is told; None where something is.
        detail: The same in words.
        view: The view that the file tells.
        warnings: What may make it wrong.
        embedding: Unit vector; None with a reason.
        scores: Probability of each finding.
        reports: The nearest reports, the nearest first.
        thumbnail: A small picture as a data URI, where one was asked for.
    """

    name: str
    reason: Reason | None = None
    detail: str | None = None
    view: View | None = None
    warnings: tuple[str, ...] = ()
    embedding: Float32[np.ndarray, " e"] | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    reports: tuple[Neighbour, ...] = ()
    thumbnail: str = ""

    @property
    def status(self) -> Status:
        """What became of the file."""
        return Status.OK if self.reason is None else status_of(self.reason)


def predict(
    predictor: Predictor, files: Sequence[RadiographFile], *, thumbnails: int = 0
) -> Iterator[list[Prediction]]:
    """Tell what is found on radiographs, a batch at a time; files are read ahead in a thread.

    Args:
        predictor: The encoder, and what it is asked.
        files: Of ``drrgen.io.radiograph_listing.find_radiographs``.
        thumbnails: Of so many files, from the first, a small picture is kept.

    Yields:
        What is told of the next files, in their order; what cannot be read tells why.
    """
    parts = [range(i, min(i + _BATCH, len(files))) for i in range(0, len(files), _BATCH)]

    def read(part: range) -> list[tuple[Prediction, UInt8[Tensor, "s s"] | None]]:
        return [_read(predictor, files[i], with_thumbnail=i < thumbnails) for i in part]

    for seen in make_ahead(read, parts):
        yield _tell(predictor, seen)


def _tell(
    predictor: Predictor, seen: Sequence[tuple[Prediction, UInt8[Tensor, "s s"] | None]]
) -> list[Prediction]:
    """Embed the pictures of a batch, and tell what is asked of them."""
    squares = [square for _, square in seen if square is not None]
    if not squares:
        return [told for told, _ in seen]
    vectors = _embed(predictor, torch.stack(squares))
    scores = (
        predictor.findings.score(vectors, predictor.tower.scale) if predictor.findings
        else [{} for _ in vectors]
    )  # fmt: skip
    reports = (
        predictor.reports.find(vectors, predictor.n_reports) if predictor.reports
        else [() for _ in vectors]
    )  # fmt: skip
    made = iter(zip(vectors, scores, reports, strict=True))
    return [told if square is None else _add(told, *next(made)) for told, square in seen]


def _add(
    told: Prediction, vector: Float32[np.ndarray, " e"], scores: Mapping[str, float],
    reports: tuple[Neighbour, ...],
) -> Prediction:  # fmt: skip
    """Add what was found."""
    if not np.isfinite(vector).all():
        return dataclasses.replace(
            told, reason=Reason.CRASHED, detail="its embedding is not finite; look at the weights"
        )
    return dataclasses.replace(told, embedding=vector, scores=scores, reports=reports)


@torch.no_grad()
def _embed(
    predictor: Predictor, squares: UInt8[Tensor, "b s s"]
) -> Float32[np.ndarray, "b e"]:  # fmt: skip
    """Embed a batch."""
    size = find_image_spec(predictor.tower).size
    grey = shrink(squares, size).to(predictor.settings.device).float() / 255
    made: Float32[np.ndarray, "b e"] = predictor.tower(grey).float().cpu().numpy()
    return made


def _read(
    predictor: Predictor, file: RadiographFile, *, with_thumbnail: bool
) -> tuple[Prediction, UInt8[Tensor, "s s"] | None]:
    """Read a file into a square; whatever goes wrong is told of this file alone."""
    try:
        with stage([file.path]) as (path,):
            found = read_radiograph(path)
        told = Prediction(
            name=file.name,
            view=found.view,
            warnings=tuple(_list_warnings(predictor, found)),
            thumbnail=encode_grey(found.grey.numpy(), _THUMBNAIL) if with_thumbnail else "",
        )
        return told, make_square(found.grey, predictor.square)
    except DataError as error:
        log.info("%s: %s", file.name, error.detail)
        return _refuse(file, error.code, f"{error.detail}; {error.remedy}"), None
    except OSError as error:
        return _refuse(file, Reason.IO_ERROR, f"it cannot be read: {error.strerror}"), None
    except MemoryError:
        return _refuse(file, Reason.OUT_OF_MEMORY, "it is too large for the memory"), None
    except Exception as error:  # one bad file costs one row
        log.exception("%s: crashed", file.name)
        return _refuse(file, Reason.CRASHED, f"{type(error).__name__}; see the log"), None


def _refuse(file: RadiographFile, reason: Reason, detail: str) -> Prediction:
    """Say that nothing is told of a file."""
    return Prediction(name=file.name, reason=reason, detail=detail)


def _list_warnings(predictor: Predictor, found: Radiograph) -> Iterator[str]:
    """Say what is unlike the pictures of the training."""
    size = find_image_spec(predictor.tower).size
    v, u = found.grey.shape
    views = predictor.views
    if found.view is not None and views and found.view not in views:
        yield f"the view is {found.view}, the training saw {', '.join(views)}"
    if found.is_chest is False:
        yield "the body part is not the chest"
    if found.is_coloured:
        yield "colours: a photograph, or no radiograph"
    if max(v, u) < size:
        yield f"small: {v} x {u} pixels, the encoder sees {size} x {size}"
    if max(v, u) > _LONG * min(v, u):
        yield f"long: {v} x {u} pixels"
    if found.used_bits is not None:
        yield f"16 bits that use {found.used_bits}: white is taken as {2**found.used_bits - 1}"
    low, high = float(found.grey.min()), float(found.grey.max())
    if high - low < _FAINT:
        yield f"hardly any contrast: greys from {low:.2f} to {high:.2f}"
