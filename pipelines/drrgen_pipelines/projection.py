"""One view of one CT: from settings to line integrals."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from drrgen.anatomy.body import add_margin
from drrgen.choices import AcquisitionName, Engine, View
from drrgen.config import RenderConfig
from drrgen.errors import ConfigError
from drrgen.geometry.detector import Detector
from drrgen.geometry.framing import Box, Frame, frame_view
from drrgen.geometry.pose import make_pose
from drrgen.physics.acquisitions import ACQUISITIONS, find_acquisition
from drrgen.physics.materials import make_attenuation_basis
from drrgen.renderer.render import render
from drrgen.volume import CTVolume

DETECTOR_GAP_MM = 10.0  # cover of the detector, and clothes
MIN_SOD_MM = 400.0  # nearer than that the source may stand inside the patient
SOD_MOVED = "sod_moved"

Xyz = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """How a view is taken: a preset, with what the settings override.

    Attributes:
        view: The named view.
        acquisition: The preset.
        sid_mm: Source to detector [mm].
        sod_mm: Source to isocenter [mm].
    """

    view: View
    acquisition: AcquisitionName
    sid_mm: float
    sod_mm: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Projection:
    """The line integrals of a view, and the geometry that made them.

    Attributes:
        line_integral: Integral of linear attenuation along each ray [dimensionless].
        frame: The detector and its exposed part.
        setup: Preset and distances as they were used.
        isocenter_mm: Point that the central ray passes, patient LPS [mm].
        warnings: What was changed by a guess, one word each.
    """

    line_integral: Float[Tensor, "v u"]
    frame: Frame
    setup: Setup
    isocenter_mm: Xyz
    warnings: tuple[str, ...]

    @property
    def detector(self) -> Detector:
        """The panel."""
        return self.frame.detector


def find_setup(view: View, config: RenderConfig) -> Setup:
    """Settle preset and distances of a view.

    Args:
        view: The named view.
        config: The settings.

    Raises:
        ConfigError: The source stands too near, or behind the detector.
    """
    name = config.acquisition or find_acquisition(view)
    preset = ACQUISITIONS[name]
    sid_mm = config.sid_mm or preset.sid_mm
    # A preset stands for a patient close to the detector: a longer tube distance moves the source.
    sod_mm = config.sod_mm or sid_mm - (preset.sid_mm - preset.sod_mm)
    if not MIN_SOD_MM <= sod_mm <= sid_mm - DETECTOR_GAP_MM:
        raise ConfigError(
            f"sod_mm must lie between {MIN_SOD_MM:g} and sid_mm - {DETECTOR_GAP_MM:g} = "
            f"{sid_mm - DETECTOR_GAP_MM:g} in view {view}, got {sod_mm:g}; set sid_mm and sod_mm "
            "so that the patient stands between source and detector"
        )
    return Setup(view=view, acquisition=name, sid_mm=sid_mm, sod_mm=sod_mm)


def project(
    volume: CTVolume,
    body: Box,
    view: View,
    config: RenderConfig,
    *,
    engine: Engine = Engine.AUTO,
    device: str = "auto",
) -> Projection:
    """Take one view of a CT.

    A patient too thick for the preset is moved away from the detector, with the warning
    ``sod_moved``: otherwise a part of him would stand behind it.

    Args:
        volume: The CT.
        body: Box around the body.
        view: The named view.
        config: The settings.
        engine: Which engine integrates.
        device: Where it runs.

    Raises:
        ConfigError: Impossible distances.
        GeometryError: The body reaches behind the source, or projects beside the detector.
        EngineError: The engine or the device is not to be had here.
    """
    setup = find_setup(view, config)
    isocenter_mm = config.isocenter or body.center_mm
    field = add_margin(body, volume)
    sod_mm = min(setup.sod_mm, setup.sid_mm - DETECTOR_GAP_MM - _find_reach(field, setup, config))
    warnings = (SOD_MOVED,) if sod_mm < setup.sod_mm else ()
    pose = make_pose(
        view, isocenter_mm=isocenter_mm, sod_mm=sod_mm, rotation_deg=config.rotation_deg
    )
    frame = frame_view(
        field,
        pose,
        sid_mm=setup.sid_mm,
        size=config.size,
        framing=config.framing,
        pitch_mm=config.pitch_mm,
    )
    line_integral = render(
        volume,
        frame.detector,
        [pose],
        basis=make_attenuation_basis(config.kev),
        engine=engine,
        device=device,
    )[0, 0].cpu()
    return Projection(
        line_integral=line_integral,
        frame=frame,
        setup=Setup(view=view, acquisition=setup.acquisition, sid_mm=setup.sid_mm, sod_mm=sod_mm),
        isocenter_mm=isocenter_mm,
        warnings=warnings,
    )


def _find_reach(body: Box, setup: Setup, config: RenderConfig) -> float:
    """Find how far the body reaches beyond the isocenter towards the detector [mm]."""
    isocenter = torch.tensor(config.isocenter or body.center_mm, dtype=torch.float64)
    pose = make_pose(
        setup.view, isocenter_mm=isocenter, sod_mm=1.0, rotation_deg=config.rotation_deg
    )
    beam = pose.patient_from_camera[:3, 2]
    return float(((body.corners_mm - isocenter) @ beam).max())
