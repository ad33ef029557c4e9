"""One picture of one CT: from settings to line integrals and to what the detector sees."""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from drrgen.anatomy.body import add_margin
from drrgen.choices import AcquisitionName, Engine, Pair, View
from drrgen.config import RenderConfig
from drrgen.errors import ConfigError
from drrgen.geometry.detector import Detector
from drrgen.geometry.framing import Box, Frame, frame_view
from drrgen.geometry.pose import Pose, make_pose
from drrgen.physics.acquisitions import ACQUISITIONS, Acquisition, find_acquisition
from drrgen.physics.exposure import Exposure, Panel, expose
from drrgen.physics.materials import DENSITY_G_PER_CM3, make_material_basis
from drrgen.physics.spectrum import (
    AttenuationTable,
    Beam,
    make_beam,
    make_single_energy,
    tabulate,
)
from drrgen.renderer.render import render
from drrgen.volume import CTVolume
from drrgen_pipelines.draws import Draw

DETECTOR_GAP_MM = 10.0  # cover of the detector, and clothes
MIN_SOD_MM = 400.0  # nearer than that the source may stand inside the patient
SOD_MOVED = "sod_moved"

Xyz = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """How a view is taken: a preset, with what the settings override.

    Attributes:
        view: The named view.
        name: The preset.
        acquisition: Its numbers as they are used.
    """

    view: View
    name: AcquisitionName
    acquisition: Acquisition


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Projection:
    """What a CT puts in the way of every ray, and the geometry that says so.

    Attributes:
        areas: Area density of soft tissue and of bone along each ray [g/cm2].
        frame: The detector and its exposed part.
        pose: Where source and detector stand.
        setup: Preset and distances as they were used.
        isocenter_mm: Point that the central ray passes, patient LPS [mm].
        warnings: What was changed by a guess, one word each.
    """

    areas: Float[Tensor, "2 v u"]
    frame: Frame
    pose: Pose
    setup: Setup
    isocenter_mm: Xyz
    warnings: tuple[str, ...]

    @property
    def detector(self) -> Detector:
        """The panel."""
        return self.frame.detector


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shot:
    """What a beam makes of a projection.

    Attributes:
        line_integral: ``-log`` of the primary beam's transmission, free of noise [dimensionless].
        signal: ``-log`` of what the detector sees, scatter, blur and noise included.
        dose_ugy: Dose whose noise it carries [uGy]; None without noise.
    """

    line_integral: Float[Tensor, "v u"]
    signal: Float[Tensor, "v u"]
    dose_ugy: float | None


def find_setup(view: View, config: RenderConfig) -> Setup:
    """Settle preset and distances of a view.

    Args:
        view: The named view.
        config: The settings.

    Raises:
        ConfigError: The source stands too near, or behind the detector.
        PhysicsError: The tables know no such voltage or energy.
    """
    name = config.acquisition or find_acquisition(view)
    if name is AcquisitionName.MEAN_PROJECTION and (config.pairs or config.mask):
        raise ConfigError(
            "acquisition mean-projection has no rays, so no pairs and no mask; leave them out"
        )
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
    acquisition = replace(
        preset,
        sid_mm=sid_mm,
        sod_mm=sod_mm,
        kvp=config.kvp or preset.kvp,
        dose_ugy=config.dose_ugy or preset.dose_ugy,
    )
    setup = Setup(view=view, name=name, acquisition=acquisition)
    _find_beam(acquisition, config.kev)
    return setup


def project(
    volume: CTVolume, body: Box, draw: Draw, *, engine: Engine = Engine.AUTO, device: str = "auto"
) -> Projection:
    """Find what lies along every ray of one picture.

    A patient too thick for the preset is moved away from the detector, with the warning
    ``sod_moved``: otherwise a part of him would stand behind it.

    Args:
        volume: The CT.
        body: Box around the body.
        draw: The picture to take.
        engine: Which engine integrates.
        device: Where it runs.

    Raises:
        ConfigError: Impossible distances.
        GeometryError: The body reaches behind the source, or projects beside the detector.
        EngineError: The engine or the device is not to be had here.
    """
    config, setup = draw.config, find_setup(draw.view, draw.config)
    isocenter = config.isocenter or body.center_mm
    x, y, z = (a + b for a, b in zip(isocenter, draw.shift_mm, strict=True))
    isocenter_mm = (x, y, z)
    field = add_margin(body, volume)
    setup, warnings = _keep_before_detector(setup, field, isocenter_mm, config)
    pose = make_pose(
        draw.view,
        isocenter_mm=isocenter_mm,
        sod_mm=setup.acquisition.sod_mm,
        rotation_deg=config.rotation_deg,
    )
    frame = frame_view(
        field,
        pose,
        sid_mm=setup.acquisition.sid_mm,
        size=config.size,
        framing=config.framing,
        pitch_mm=config.pitch_mm,
    )
    areas = render(
        volume, frame.detector, [pose], basis=make_material_basis(), engine=engine, device=device
    )[0].cpu()
    return Projection(
        areas=areas,
        frame=frame,
        pose=pose,
        setup=setup,
        isocenter_mm=isocenter_mm,
        warnings=warnings,
    )


def shoot(projection: Projection, draw: Draw) -> Shot:
    """Let the beam through.

    Args:
        projection: What lies along every ray.
        draw: Its settings and its seed.
    """
    config, acquisition = draw.config, projection.setup.acquisition
    beam, table = _find_beam(acquisition, config.kev)
    line_integral = table.look_up(*projection.areas)
    exposure = Exposure(
        dose_ugy=acquisition.dose_ugy if config.noise else None,
        quanta_per_ugy_mm2=beam.quanta_per_ugy_mm2,
        scatter=config.scatter,
        grid=acquisition.grid,
        focal_spot_mm=acquisition.focal_spot_mm if config.blur else None,
        detector_blur=config.blur,
        heel=config.heel,
        inverse_square=config.inverse_square,
    )
    panel = Panel(
        pitch_mm=projection.detector.pitch_mm,
        sid_mm=acquisition.sid_mm,
        sod_mm=acquisition.sod_mm,
        center_uv=projection.detector.center_uv,
    )
    chance = torch.Generator().manual_seed(draw.seed)
    signal = expose(line_integral, exposure, panel, generator=chance)
    return Shot(line_integral=line_integral, signal=signal, dose_ugy=exposure.dose_ugy)


def keep_only(projection: Projection, pair: Pair) -> Projection:
    """Leave one material along every ray.

    Args:
        projection: Both materials.
        pair: Bone alone; or soft tissue, which then also fills the space of the bone, as if there
            had never been any.
    """
    soft, bone = projection.areas
    if pair is Pair.BONE:
        areas = torch.stack([torch.zeros_like(soft), bone])
    else:
        filled = DENSITY_G_PER_CM3["water"] / DENSITY_G_PER_CM3["cortical_bone"]
        areas = torch.stack([soft + bone * filled, torch.zeros_like(bone)])
    return replace(projection, areas=areas)


@lru_cache(maxsize=16)
def _find_beam(acquisition: Acquisition, kev: float | None) -> tuple[Beam, AttenuationTable]:
    """Make the beam of an acquisition and its table, once."""
    beam = (
        make_beam(
            acquisition.kvp,
            aluminium_mm=acquisition.aluminium_mm,
            copper_mm=acquisition.copper_mm,
        )
        if kev is None
        else make_single_energy(kev)
    )
    return beam, tabulate(beam)


def _keep_before_detector(
    setup: Setup, field: Box, isocenter_mm: Xyz, config: RenderConfig
) -> tuple[Setup, tuple[str, ...]]:
    """Move a patient who reaches through the detector away from it."""
    pose = make_pose(
        setup.view, isocenter_mm=isocenter_mm, sod_mm=1.0, rotation_deg=config.rotation_deg
    )
    beam = pose.patient_from_camera[:3, 2]
    reach = ((field.corners_mm - torch.tensor(isocenter_mm, dtype=torch.float64)) @ beam).max()
    acquisition = setup.acquisition
    farthest = acquisition.sid_mm - DETECTOR_GAP_MM - float(reach)
    if acquisition.sod_mm <= farthest:
        return setup, ()
    return replace(setup, acquisition=replace(acquisition, sod_mm=farthest)), (SOD_MOVED,)
