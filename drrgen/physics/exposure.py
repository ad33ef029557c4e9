"""What reaches the detector: the beam behind the patient, scatter, blur and noise.

Each effect has a switch, and without any the detector sees exactly what the beam's line integrals
say. Signals are in units of the signal behind nothing.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from drrgen.errors import PhysicsError
from drrgen.physics.blur import blur

SCATTER_SIGMA_MM = 40.0  # at the detector: the air gap and the depth of a chest spread it so far
SCATTER_PER_LINE_INTEGRAL = 1.0
GRID_PRIMARY, GRID_SCATTER = 0.70, 0.10  # what a grid of ratio 10 lets through
# Modulation of 20 % at 2.5 line pairs/mm, as measured of 0.6 mm of caesium iodide (Samei, Medical
# Physics 30:1747-1757, 2003), its pixel included; of a Gaussian that is 50 % at 1.64.
DETECTOR_SIGMA_MM = 0.114
# Noise without light, in quanta a pixel of 0.143 mm: an assumption. It doubles the variance where
# 25 quanta arrive, that is at 0.08 uGy, a thirtieth of the usual dose.
ELECTRONIC_QUANTA = 5.0
PANEL_PITCH_MM = 0.143
# Attenuation by the anode, at right angles to its surface: mu times the depth where photons arise.
ANODE_DEG, ANODE_LINE_INTEGRAL = 12.0, 0.05
BODY_LINE_INTEGRAL = 0.25  # about 12 mm of water: less is air beside the patient
FEW_QUANTA = 30.0  # from here on Poisson's law is taken for a normal one
MIN_SIGNAL = 1e-6  # the darkest that the panel tells from nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """How an exposure is made. What is None or False is left out.

    Attributes:
        dose_ugy: Mean air kerma at the detector behind the body, whose noise is added [uGy].
        quanta_per_ugy_mm2: Quanta of equal weight that carry that noise [1/(uGy mm2)].
        scatter: Whether scattered radiation is added.
        grid: Whether an anti-scatter grid stands before the detector.
        focal_spot_mm: Width of the focal spot [mm]; None for a point.
        detector_blur: Whether the detector spreads its light.
        heel: Whether the beam weakens towards the anode, which lies cranial.
        inverse_square: Whether it weakens with distance and obliquity from the central ray.
    """

    dose_ugy: float | None = None
    quanta_per_ugy_mm2: float = 0.0
    scatter: bool = False
    grid: bool = False
    focal_spot_mm: float | None = None
    detector_blur: bool = False
    heel: bool = False
    inverse_square: bool = False

    def __post_init__(self) -> None:
        for name in ("dose_ugy", "focal_spot_mm"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise PhysicsError(
                    f"{name} must be positive, got {value}; use None to leave it out"
                )
        if self.dose_ugy is not None and not self.quanta_per_ugy_mm2 > 0:
            raise PhysicsError(
                f"quanta_per_ugy_mm2 must be positive for a noisy exposure, got "
                f"{self.quanta_per_ugy_mm2}; take it from the beam"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Where the detector stands, as far as an exposure needs it.

    Attributes:
        pitch_mm: Side of a pixel [mm].
        sid_mm: Source to detector [mm].
        sod_mm: Source to isocenter [mm].
        center_uv: Where the central ray meets the panel [pixels].
    """

    pitch_mm: float
    sid_mm: float
    sod_mm: float
    center_uv: tuple[float, float]


def transmit(line_integral: Float[Tensor, "*batch v u"]) -> Float[Tensor, "*batch v u"]:
    """Turn line integrals into the fraction of the beam that passes.

    Args:
        line_integral: ``p``, of one energy or of a whole beam [dimensionless].

    Returns:
        Transmission ``T = exp(-p)``: 1 where the beam met air, near 0 behind thick bone.

    Source:
        Bushberg et al., The Essential Physics of Medical Imaging, 3rd ed., ch. 3.

    Example:
        50 mm of water at mu = 0.02/mm makes p = 1:

        >>> transmit(torch.tensor([[50 * 0.02]]))
        tensor([[0.3679]])
    """
    return torch.exp(-line_integral)


def expose(
    line_integral: Float[Tensor, "v u"],
    exposure: Exposure,
    panel: Panel,
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "v u"]:
    """Make the exposure that a detector sees, as a logarithm like the line integrals.

    Args:
        line_integral: ``p`` of the beam along each ray [dimensionless].
        exposure: What takes part.
        panel: Where the detector stands.
        generator: Source of the noise. Pass one to make an exposure repeatable.

    Returns:
        ``-log`` of the detector's signal, of which 0 is the open beam; never above 13.8.

    Raises:
        PhysicsError: Line integrals are not finite.
    """
    if not bool(torch.isfinite(line_integral).all()):
        raise PhysicsError("line integrals must be finite; the volume or its table is broken")
    primary = transmit(line_integral)
    if exposure.heel or exposure.inverse_square:
        primary = primary * find_field(exposure, panel, line_integral.shape)
    if exposure.focal_spot_mm is not None:
        primary = blur(primary, find_focal_sigma_mm(exposure, panel) / panel.pitch_mm)
    signal = primary + find_scatter(primary, line_integral, exposure, panel)
    if exposure.dose_ugy is not None:
        signal = _add_noise(signal, line_integral, exposure, panel, generator)
    elif exposure.detector_blur:
        signal = blur(signal, DETECTOR_SIGMA_MM / panel.pitch_mm)
    return -torch.log(signal.clamp(min=MIN_SIGNAL))


def find_scatter(
    primary: Float[Tensor, "v u"],
    line_integral: Float[Tensor, "v u"],
    exposure: Exposure,
    panel: Panel,
) -> Float[Tensor, "v u"]:
    """Estimate the scattered radiation at the detector, in units of the primary.

    What is lost on the way is scattered forward in part: the source of scatter is ``p exp(-p)``,
    spread by a wide Gaussian. Behind an even slab the ratio of scatter to primary is the line
    integral itself; behind a mediastinum, into which the lungs beside it scatter, it comes to
    several times that, some 90 % of all that arrives, as measured. A grid takes six sevenths.
    Beyond the edge of the picture the field is taken to go on.

    Args:
        primary: Unscattered signal.
        line_integral: ``p`` [dimensionless].
        exposure: Whether there is scatter, and a grid.
        panel: Where the detector stands.

    Source:
        Ohnesorge et al., European Radiology 9:563-569, 1999 (the form); Niklason et al., Medical
        Physics 8:677-681, 1981 (ratios in the chest); IEC 60627 (grids).
    """
    if not exposure.scatter:
        return torch.zeros_like(primary)
    passed = GRID_SCATTER / GRID_PRIMARY if exposure.grid else 1.0
    made = SCATTER_PER_LINE_INTEGRAL * passed * primary * line_integral
    return blur(made, SCATTER_SIGMA_MM / panel.pitch_mm)


def find_focal_sigma_mm(exposure: Exposure, panel: Panel) -> float:
    """Find the blur of the focal spot at the detector, for things at the isocenter [mm].

    A spot of width ``f`` casts a penumbra of ``f (m - 1)``; a box of that width is as wide as a
    Gaussian of its standard deviation.

    Args:
        exposure: Its focal spot.
        panel: Where the detector stands.

    Source:
        Bushberg et al., The Essential Physics of Medical Imaging, 3rd ed., ch. 7.
    """
    penumbra_mm = (exposure.focal_spot_mm or 0.0) * (panel.sid_mm / panel.sod_mm - 1)
    return penumbra_mm / math.sqrt(12)


def find_field(exposure: Exposure, panel: Panel, shape: tuple[int, ...]) -> Float[Tensor, "v u"]:
    """Find how the open beam falls off across the detector, 1 on the central ray.

    Args:
        exposure: Which effects take part.
        panel: Where the detector stands.
        shape: Rows and columns.

    Source:
        Bushberg et al., The Essential Physics of Medical Imaging, 3rd ed., ch. 6 (heel effect: the
        photons leave the anode from a small depth, the more obliquely the nearer to its surface);
        SpekPy's air kerma across the field at 125 kV and 3 mm Al for how much.
    """
    v = (torch.arange(shape[0], dtype=torch.float32) + 0.5 - panel.center_uv[1]) * panel.pitch_mm
    u = (torch.arange(shape[1], dtype=torch.float32) + 0.5 - panel.center_uv[0]) * panel.pitch_mm
    field = torch.ones(shape[0], shape[1])
    if exposure.inverse_square:
        # 1/r2 of the distance, and the panel stands aslant to the ray.
        field = (1 + (v[:, None] ** 2 + u[None] ** 2) / panel.sid_mm**2) ** -1.5
    if exposure.heel:
        angle = math.radians(ANODE_DEG) + torch.atan(v / panel.sid_mm)
        oblique = 1 / torch.sin(angle.clamp(min=math.radians(1)))
        on_axis = 1 / math.sin(math.radians(ANODE_DEG))
        field = field * torch.exp(-ANODE_LINE_INTEGRAL * (oblique - on_axis))[:, None]
    return field


def find_quanta(exposure: Exposure, panel: Panel) -> float:
    """Find how many quanta a pixel collects at the stated dose.

    Args:
        exposure: Its dose.
        panel: Its pitch.
    """
    return (exposure.dose_ugy or 0.0) * exposure.quanta_per_ugy_mm2 * panel.pitch_mm**2


def _add_noise(
    signal: Float[Tensor, "v u"],
    line_integral: Float[Tensor, "v u"],
    exposure: Exposure,
    panel: Panel,
    generator: torch.Generator | None,
) -> Float[Tensor, "v u"]:
    """Count quanta, let the detector spread their light, and add the noise of its amplifiers."""
    behind = signal[line_integral > BODY_LINE_INTEGRAL]
    mean = float(behind.mean() if behind.numel() else signal.mean())
    per_signal = find_quanta(exposure, panel) / mean
    quanta = signal * per_signal
    normal = torch.randn(quanta.shape, generator=generator, dtype=quanta.dtype)
    counted = torch.addcmul(quanta, quanta.sqrt(), normal)
    few = quanta < FEW_QUANTA
    if bool(few.any()):
        counted[few] = torch.poisson(quanta[few], generator=generator)
    if exposure.detector_blur:
        counted = blur(counted, DETECTOR_SIGMA_MM / panel.pitch_mm)
    electronic = ELECTRONIC_QUANTA * panel.pitch_mm / PANEL_PITCH_MM  # pixels add in quadrature
    normal = torch.randn(counted.shape, generator=generator, dtype=counted.dtype)
    return torch.add(counted, normal, alpha=electronic) / per_signal
