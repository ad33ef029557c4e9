"""A real radiograph, made alike those that are rendered: one grey picture, its view, its size."""

import logging
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from drrgen.choices import ImageFormat
from drrgen.config import RenderConfig
from drrgen.errors import RadiographError, Reason
from drrgen.io.radiographs import read_radiograph
from drrgen.io.stores import stage
from drrgen.manifest import Row
from drrgen_pipelines.study import Study

REAL = "real"
VIEW_CONFLICT, SHRUNK, FEWER_BITS = "view_conflict", "shrunk", "fewer_bits"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TakenOver:
    """A real radiograph, ready to be written.

    Attributes:
        grey: From 0 (black) to 1 (white).
        image_format: PNG of 8 or 16 bits.
        columns: Its columns of the manifest.
        warnings: What was changed or doubted, one word each.
    """

    grey: Float[Tensor, "v u"]
    image_format: ImageFormat
    columns: Row
    warnings: tuple[str, ...]


def take_over(study: Study, config: RenderConfig) -> TakenOver | None:
    """Read a real radiograph as its header says that it is to be shown.

    A picture with a side longer than ``size`` is shrunk to it; a smaller one stays as it is.

    Args:
        study: The radiograph. A view that a table tells stands above that of DICOM.
        config: Size, and whether pictures have 8 or 16 bits.

    Returns:
        The picture, or None where its view is none of those to keep.

    Raises:
        RadiographError: It cannot be read, or nothing tells its view.
        OSError: The file cannot be read.
    """
    with stage(study.paths) as (path,):
        found = read_radiograph(path)
    view = study.view or found.view
    if view is None:
        raise RadiographError(
            Reason.METADATA_MISSING, path, "nothing tells its view, wanted PA, AP, LL or RL",
            remedy="give a metadata table with a column of views, see --recipe",
        )  # fmt: skip
    if study.keep and view not in study.keep:
        log.info("%s: view %s is not kept", study.sample_id, view)
        return None
    warnings: tuple[str, ...] = ()
    if found.view is not None and found.view is not view:
        warnings += (VIEW_CONFLICT,)
    if found.used_bits is not None:
        warnings += (FEWER_BITS,)
    grey, pitch_mm = found.grey, found.pitch_mm
    share = config.size / max(grey.shape)
    if share < 1:
        warnings += (SHRUNK,)
        grey = _shrink(grey, config.size)
        pitch_mm = pitch_mm and pitch_mm / share
    eight = ImageFormat.PNG8 in config.format
    return TakenOver(
        grey=grey,
        image_format=ImageFormat.PNG8 if eight else ImageFormat.PNG16,
        warnings=warnings,
        columns={
            "cxr_kind": REAL,
            "view": view.value,
            "width": grey.shape[1],
            "height": grey.shape[0],
            "pitch_mm": pitch_mm,
        },
    )


def _shrink(grey: Float[Tensor, "v u"], size: int) -> Float[Tensor, "h w"]:
    """Shrink a picture to a long side, each pixel a mean of those it covers."""
    rows, columns = grey.shape
    share = size / max(rows, columns)
    shape = [max(1, round(rows * share)), max(1, round(columns * share))]
    small = torch.nn.functional.interpolate(
        grey[None, None], size=shape, mode="bilinear", antialias=True
    )
    return small[0, 0].clamp(0, 1)
