"""The beam: which photons leave the tube, and what the detector makes of those that arrive.

A polyenergetic beam does not know one attenuation coefficient. But what reaches the detector
depends on two numbers a ray alone, the area densities of soft tissue and bone, so it is tabulated
once for a beam and looked up for every pixel.
"""

import csv
import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional

from drrgen.errors import PhysicsError
from drrgen.physics.materials import DENSITY_G_PER_CM3, find_mass_attenuations

KEV_TO_JOULE = 1.602176634e-16
PATIENT_CM = 20.0  # water that hardens the beam which the detector's dose is stated for
# The least that a tube up to 70 kV may have (NCRP Report 102); the table below would not hold a
# softer beam.
MIN_ALUMINIUM_MM = 1.5
# Noise of the scintillator's light. With it the detector has a detective quantum efficiency of 0.71
# behind RQA 5, without it 0.83; measured were 0.70 (Spahn et al., Investigative Radiology
# 35:260-266, 2000, a panel of 0.143 mm) and 0.78 (Samei, Medical Physics 30:1747-1757, 2003).
LIGHT_SWANK = 0.85
_STEP_KVP = 5
# The table of line integrals: bilinear between these steps it is wrong by less than 0.1 %.
_WATER_STEP, _WATER_MAX = 0.25, 100.0  # [g/cm2]
_BONE_STEP, _BONE_MAX = 0.05, 40.0

Energies = Float64[np.ndarray, "e"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Beam:
    """Photons as they leave the filters, and how many of each the detector stops.

    Attributes:
        kev: Photon energies [keV].
        photons: Photons at each energy, in any unit.
        stopped: Share of arriving photons that the detector stops; each leaves its energy there.
    """

    kev: Energies
    photons: Energies
    stopped: Energies

    @property
    def signal(self) -> Energies:
        """Mean signal of one arriving photon [keV]."""
        return self.kev * self.stopped

    @property
    def mean_kev(self) -> float:
        """Mean energy of the photons [keV]."""
        return float((self.photons * self.kev).sum() / self.photons.sum())

    def kerma(self, *, aluminium_mm: float = 0.0) -> float:
        """Air kerma behind some aluminium, in units that fit only each other."""
        photons = self.photons * _transmit("aluminium", self.kev, aluminium_mm / 10)
        return float(
            (photons * self.kev * find_mass_attenuations("air_absorption", self.kev)).sum()
        )

    @property
    def half_value_layer_mm(self) -> float:
        """Aluminium that halves the air kerma [mm]."""
        low, high = 0.0, 50.0
        for _ in range(60):
            middle = (low + high) / 2
            thin = self.kerma(aluminium_mm=middle) > self.kerma() / 2
            low, high = (middle, high) if thin else (low, middle)
        return low

    @property
    def quanta_per_ugy_mm2(self) -> float:
        """Photons of equal weight that carry the noise of 1 uGy behind a patient [1/(uGy mm2)].

        The detector counts only photons that it stops, and weighs them by their energy, so its
        noise is that of fewer photons than it stops; the scintillator's light takes another share.

        Source:
            Swank, Journal of Applied Physics 44:4199-4203, 1973: the square of the first moment of
            the absorbed energies over the second.
        """
        photons = self.photons * _transmit("water", self.kev, PATIENT_CM)
        per_g = find_mass_attenuations("air_absorption", self.kev)
        gray = (photons * self.kev * per_g).sum() * KEV_TO_JOULE * 1000  # of photons/cm2
        stopped = photons * self.stopped
        first, second = (stopped * self.kev).sum(), (stopped * self.kev**2).sum()
        equal = LIGHT_SWANK * first**2 / second if second > 0 else 0.0
        return float(equal / (gray * 1e6) / 100)


def make_beam(kvp: float, *, aluminium_mm: float, copper_mm: float = 0.0) -> Beam:
    """Make a filtered tungsten spectrum, seen by a caesium iodide detector.

    Args:
        kvp: Tube voltage [kV].
        aluminium_mm: Total filtration, aluminium [mm].
        copper_mm: Added copper [mm].

    Raises:
        PhysicsError: The voltage is outside the tables, or a filter is thinner than a tube's own or
            absurdly thick.

    Source:
        ``physics/tables``: SpekPy for the spectra, xraydb for the detector, NIST for the filters.

    Example:
        >>> round(make_beam(120, aluminium_mm=2.5).half_value_layer_mm, 1)
        4.2
    """
    if not (MIN_ALUMINIUM_MM <= aluminium_mm <= 50 and 0 <= copper_mm <= 5):
        raise PhysicsError(
            f"filters must be {MIN_ALUMINIUM_MM:g} to 50 mm of aluminium and 0 to 5 mm of copper, "
            f"got {aluminium_mm} and {copper_mm}"
        )
    kev, photons = _find_spectrum(kvp)
    photons = photons * _transmit("aluminium", kev, aluminium_mm / 10)
    photons = photons * _transmit("copper", kev, copper_mm / 10)
    return Beam(kev=kev, photons=photons, stopped=_read("detector")["stopped"])


def make_single_energy(kev: float) -> Beam:
    """Make a beam of one energy, of which the detector stops all, for comparison with formulas.

    Args:
        kev: Photon energy [keV].

    Raises:
        PhysicsError: The energy is outside the attenuation tables.
    """
    find_mass_attenuations("water", np.array([kev]))
    one = np.array([1.0])
    return Beam(kev=np.array([float(kev)]), photons=one, stopped=one)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttenuationTable:
    """What a beam leaves behind soft tissue and bone, tabulated.

    Attributes:
        line_integral: ``-log`` of the transmitted share of the signal, by bone and water.
    """

    line_integral: Float[Tensor, "bone water"]

    def look_up(
        self, water: Float[Tensor, "v u"], bone: Float[Tensor, "v u"]
    ) -> Float[Tensor, "v u"]:
        """Interpolate; beyond 100 g/cm2 of tissue or 40 g/cm2 of bone the end value holds.

        Args:
            water: Area density of soft tissue [g/cm2].
            bone: Area density of cortical bone [g/cm2].
        """
        at = torch.stack([water * (2 / _WATER_MAX) - 1, bone * (2 / _BONE_MAX) - 1], dim=-1)
        found = functional.grid_sample(
            self.line_integral[None, None], at[None], align_corners=True, padding_mode="border"
        )
        return found[0, 0]


def tabulate(beam: Beam) -> AttenuationTable:
    """Tabulate a beam, once for all its pictures.

    Args:
        beam: The beam.
    """
    water = np.linspace(0, _WATER_MAX, round(_WATER_MAX / _WATER_STEP) + 1)
    bone = np.linspace(0, _BONE_MAX, round(_BONE_MAX / _BONE_STEP) + 1)
    weight = beam.photons * beam.signal
    behind_water = np.exp(-np.outer(water, find_mass_attenuations("water", beam.kev)))
    behind_bone = np.exp(-np.outer(bone, find_mass_attenuations("cortical_bone", beam.kev)))
    share = (behind_bone * (weight / weight.sum())) @ behind_water.T
    return AttenuationTable(line_integral=torch.from_numpy(-np.log(share)).to(torch.float32))


def _transmit(material: str, kev: Energies, thickness_cm: float) -> Energies:
    """Share of photons that pass a filter."""
    per_cm = find_mass_attenuations(material, kev) * DENSITY_G_PER_CM3[material]
    share: Energies = np.exp(-per_cm * thickness_cm)
    return share


def _find_spectrum(kvp: float) -> tuple[Energies, Energies]:
    """Interpolate the tabulated spectra, each stretched to the voltage asked for."""
    table = _read("spectra")
    known = [int(name[3:]) for name in table if name.startswith("kvp")]
    if not (known[0] <= kvp <= known[-1] and math.isfinite(kvp)):
        raise PhysicsError(f"kvp must lie between {known[0]} and {known[-1]}, got {kvp:g}")
    kev = table["kev"]
    lower = min(int(kvp // _STEP_KVP * _STEP_KVP), known[-1] - _STEP_KVP)
    share = (kvp - lower) / _STEP_KVP
    photons = np.zeros_like(kev)
    for known_kvp, weight in ((lower, 1 - share), (lower + _STEP_KVP, share)):
        stretched = np.interp(kev * known_kvp / kvp, kev, table[f"kvp{known_kvp}"], right=0.0)
        photons += weight * stretched * known_kvp / kvp
    return kev, photons


@cache
def _read(name: str) -> dict[str, Energies]:
    """Read a shipped table: column name to values."""
    text = files("drrgen.physics").joinpath(f"tables/{name}.csv").read_text("utf-8")
    rows = list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))
    return {key: np.array([float(row[key]) for row in rows]) for key in rows[0]}
