"""One finished picture, before it is written: what it shows, and every number that made it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from drrgen.anatomy.body import Body
from drrgen.choices import AcquisitionName, Display, Pair
from drrgen.config import RunConfig
from drrgen.geometry.detector import Detector
from drrgen.geometry.framing import Frame
from drrgen.manifest import Row
from drrgen.physics.display import to_radiograph
from drrgen.physics.materials import Basis
from drrgen.renderer.mean_projection import PIXEL_MM, project_mean
from drrgen.renderer.render import render
from drrgen.structures import Structure
from drrgen.volume import CTVolume
from drrgen_pipelines.draws import Draw
from drrgen_pipelines.projection import Projection, Shot, find_setup, keep_only, project, shoot

_INSIDE = Basis(
    names=("inside",), knots_hu=np.array([0.0, 1.0]), amounts=np.array([[0.0, 1.0]])
)  # a millimetre inside counts as a millimetre


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """A picture and what belongs to it.

    Attributes:
        draw: What was asked for.
        grey: Display image, 0 black to 1 white.
        line_integral: ``-log`` of the primary beam's transmission; mean HU for the baseline
            ``mean-projection``.
        pitch_mm: Side of a pixel, at the detector [mm].
        facts: Its columns of the manifest.
        projection: Rays and geometry; None for the baseline, which has no rays.
        warnings: What was changed by a guess, one word each.
    """

    draw: Draw
    grey: Float[Tensor, "v u"]
    line_integral: Float[Tensor, "v u"]
    pitch_mm: float
    facts: Row
    projection: Projection | None
    warnings: tuple[str, ...] = ()


def take_picture(
    whole: CTVolume, cleared: CTVolume, body: Body, draw: Draw, run: RunConfig
) -> Picture:
    """Take one picture of a CT.

    Args:
        whole: The CT as it was read, which the baseline shows.
        cleared: The CT without its surroundings.
        body: The patient in it.
        draw: The picture to take.
        run: Engine and device.

    Raises:
        ConfigError: Impossible distances.
        GeometryError: The body reaches behind the source, or projects beside the detector.
        EngineError: The engine or the device is not to be had here.
    """
    if find_setup(draw.view, draw.config).name is AcquisitionName.MEAN_PROJECTION:
        return _take_mean(whole, draw)
    projection = project(cleared, body.box, draw, engine=run.engine, device=run.device)
    shot = shoot(projection, draw)
    return Picture(
        draw=draw,
        grey=_show(shot, projection, draw),
        line_integral=shot.line_integral,
        pitch_mm=projection.detector.pitch_mm,
        facts=_describe(projection, shot, draw),
        projection=projection,
        warnings=projection.warnings,
    )


def show_pair(picture: Picture, pair: Pair) -> Float[Tensor, "v u"]:
    """Show bone alone or soft tissue alone, pixel for pixel like the whole picture.

    Args:
        picture: The whole picture, with its rays.
        pair: Which part. Without bone, the space of the bone is filled with soft tissue.
    """
    projection = picture.projection
    if projection is None:
        raise ValueError("the baseline has no rays; find_setup refuses pairs of it")
    part = keep_only(projection, pair)
    return _show(shoot(part, picture.draw), part, picture.draw)


def project_structures(
    structures: Sequence[Structure], projection: Projection, run: RunConfig
) -> Float32[np.ndarray, "n v u"]:
    """Find how much of each structure every ray passes [mm].

    Args:
        structures: What to project, each on its own grid in the patient.
        projection: The rays.
        run: Engine and device.
    """
    thickness = np.empty(
        (len(structures), projection.detector.rows, projection.detector.columns), np.float32
    )
    for k, structure in enumerate(structures):
        thickness[k] = render(
            structure.volume, projection.detector, [projection.pose], basis=_INSIDE,
            engine=run.engine, device=run.device,
        )[0, 0].cpu()  # fmt: skip
    return thickness


def _show(shot: Shot, projection: Projection, draw: Draw) -> Float[Tensor, "v u"]:
    """Turn a signal into a display image."""
    return to_radiograph(
        shot.signal,
        display=draw.config.display,
        exposed_xywh=projection.frame.exposed_xywh,
        brightness=draw.config.brightness,
        contrast=draw.config.contrast,
    )


def _describe(projection: Projection, shot: Shot, draw: Draw) -> Row:
    """Fill the columns of a radiograph that has rays."""
    acquisition = projection.setup.acquisition
    return _describe_frame(projection.frame, draw) | {
        "sid_mm": acquisition.sid_mm,
        "sod_mm": acquisition.sod_mm,
        "isocenter_mm": list(projection.isocenter_mm),
        "rotation_deg": list(draw.config.rotation_deg),
        "acquisition": projection.setup.name.value,
        "display": draw.config.display.value,
        "kvp": acquisition.kvp if draw.config.kev is None else None,
        "dose_ugy": shot.dose_ugy,
        "seed": draw.seed if shot.dose_ugy is not None or draw.number else None,
    }


def _describe_frame(frame: Frame, draw: Draw) -> Row:
    """Fill the columns of any radiograph."""
    return {
        "cxr_kind": "rendered",
        "view": draw.view.value,
        "draw": draw.number,
        "width": frame.detector.columns,
        "height": frame.detector.rows,
        "exposed_xywh": list(frame.exposed_xywh),
        "pitch_mm": frame.detector.pitch_mm,
    }


def _take_mean(volume: CTVolume, draw: Draw) -> Picture:
    """Take the baseline: mean HU, shown from the smallest to the largest value."""
    mean_hu = project_mean(volume, draw.view)
    low, high = mean_hu.min(), mean_hu.max()
    rows, columns = mean_hu.shape
    detector = Detector(sid_mm=1.0, pitch_mm=PIXEL_MM, rows=rows, columns=columns)
    frame = Frame(detector=detector, exposed_xywh=(0, 0, columns, rows))
    return Picture(
        draw=draw,
        grey=(mean_hu - low) / torch.clamp(high - low, min=1e-6),
        line_integral=mean_hu,
        pitch_mm=PIXEL_MM,
        facts=_describe_frame(frame, draw)
        | {
            "acquisition": AcquisitionName.MEAN_PROJECTION.value,
            "display": Display.LINEAR.value,
        },
        projection=None,
    )
