"""What a Hounsfield unit stands for: one table from HU to the materials that the beam meets.

At the energy of the CT, HU are linear in attenuation by definition. At any other energy soft tissue
still follows water, while bone, rich in calcium, follows its own curve. So the table has two
slopes: from air (-1000 HU, nothing) to water (0 HU), and from water towards cortical bone.
"""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from jaxtyping import Float32, Float64
from scipy.interpolate import CubicSpline

from drrgen.errors import PhysicsError

AIR_HU, WATER_HU, METAL_HU = -1000.0, 0.0, 3000.0
CT_KEV = 70.0  # effective energy of a 120 kVp CT beam
SOFT_TISSUE_HU = 100.0  # up to here, dense soft tissue; beyond, bone begins to mix in
DENSITY_G_PER_CM3 = {"water": 1.000, "cortical_bone": 1.920, "aluminium": 2.699, "copper": 8.960}
_INT16 = np.iinfo(np.int16)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Basis:
    """How much of each basis material a HU value stands for: straight lines between knots.

    Below the first and above the last knot the end value holds, so padding is nothing and metal is
    clamped.

    Attributes:
        names: One name a material.
        knots_hu: Rising HU values [HU].
        amounts: Amount at each knot, a row a material [1/mm, or what the basis is].

    Raises:
        PhysicsError: The shapes do not match, a value is not finite, there are no knots, or they
            do not rise.
    """

    names: tuple[str, ...]
    knots_hu: Float64[np.ndarray, "k"]
    amounts: Float64[np.ndarray, "m k"]

    def __post_init__(self) -> None:
        if self.amounts.shape != (len(self.names), self.knots_hu.size) or not self.names:
            raise PhysicsError(
                f"amounts must have a row a name and a column a knot, got {self.amounts.shape} for "
                f"{len(self.names)} names and {self.knots_hu.size} knots"
            )
        if not (np.isfinite(self.knots_hu).all() and np.isfinite(self.amounts).all()):
            raise PhysicsError("the table of a basis must be finite; check its HU and amounts")
        if self.knots_hu.size == 0 or not (np.diff(self.knots_hu) > 0).all():
            raise PhysicsError(
                f"knots_hu must hold at least one value and rise, got {self.knots_hu.tolist()}"
            )

    def tabulate(self) -> Float32[np.ndarray, "m hu"]:
        """Tabulate the amounts for every int16 HU, the first entry being -32768 HU."""
        hu = np.arange(_INT16.min, _INT16.max + 1)
        rows = [np.interp(hu, self.knots_hu, row) for row in self.amounts]
        return np.stack(rows).astype(np.float32)


def find_mass_attenuations(
    material: str, kev: Float64[np.ndarray, "e"]
) -> Float64[np.ndarray, "e"]:
    """Look up the mass attenuation coefficients of a material [cm2/g].

    Between the tabulated energies a cubic spline through the logarithms of both is taken, as XCOM
    does: straight lines there are up to 4 % too high for water at 25 keV, the spline is within
    0.2 % (copper, 1 %).

    Args:
        material: ``water``, ``cortical_bone``, ``aluminium`` or ``copper``; or ``air_absorption``,
            the energy-absorption coefficient of air.
        kev: Photon energies [keV].

    Raises:
        PhysicsError: Unknown material, or an energy outside the table.

    Source:
        Hubbell and Seltzer, NISTIR 5632 (the file in ``physics/tables`` says more); Berger et al.,
        XCOM, NBSIR 87-3597, for the way between the energies.
    """
    table = _read_table()
    if material not in table or material == "kev":
        known = ", ".join(name for name in table if name != "kev")
        raise PhysicsError(f"unknown material {material!r}; known: {known}")
    energies = table["kev"]
    if not (energies[0] <= kev.min() and kev.max() <= energies[-1]):
        raise PhysicsError(
            f"kev must lie between {energies[0]:g} and {energies[-1]:g}, got {kev.min():g} to "
            f"{kev.max():g}"
        )
    return np.exp(_fit_logarithms(material)(np.log(kev)))


def find_mass_attenuation(material: str, kev: float) -> float:
    """Look up one mass attenuation coefficient [cm2/g]; see ``find_mass_attenuations``.

    Args:
        material: The material.
        kev: Photon energy [keV].

    Raises:
        PhysicsError: Unknown material, or an energy outside the table.

    Example:
        >>> find_mass_attenuation("water", 60.0)
        0.2059
    """
    return float(np.round(find_mass_attenuations(material, np.array([float(kev)]))[0], 12))


def find_mu(material: str, kev: float) -> float:
    """Linear attenuation coefficient of a material [1/mm].

    Args:
        material: ``water``, ``cortical_bone``, ``aluminium`` or ``copper``.
        kev: Photon energy [keV].

    Raises:
        PhysicsError: Unknown material, or an energy outside the table.

    Example:
        >>> find_mu("water", 60.0)
        0.02059
    """
    per_cm = find_mass_attenuation(material, kev) * DENSITY_G_PER_CM3[material]
    return round(per_cm / 10, 12)


def make_attenuation_basis(kev: float) -> Basis:
    """Make the table from HU to linear attenuation at one energy [1/mm].

    Two slopes: air to water, water to cortical bone; values above 3000 HU (metal) are clamped.

    Args:
        kev: Energy of the radiograph's beam [keV].

    Raises:
        PhysicsError: The energy is outside the attenuation tables.

    Example:
        >>> basis = make_attenuation_basis(60.0)
        >>> dict(zip(basis.knots_hu.tolist(), basis.amounts[0].tolist()))[0.0]
        0.02059
    """
    water, bone = find_mu("water", kev), find_mu("cortical_bone", kev)
    bone_hu = 1000 * (find_mu("cortical_bone", CT_KEV) / find_mu("water", CT_KEV) - 1)
    metal = water + (bone - water) * METAL_HU / bone_hu
    return Basis(
        names=("mu",),
        knots_hu=np.array([AIR_HU, WATER_HU, METAL_HU]),
        amounts=np.array([[0.0, water, metal]]),
    )


def make_material_basis() -> Basis:
    """Make the table from HU to area densities of soft tissue and cortical bone [g/cm2 per mm].

    Soft tissue is water of the density that its HU tells. Above 100 HU the mixture of dense soft
    tissue and bone is taken that attenuates the CT's beam as the voxel did, so the table is
    continuous, and exact for the CT's own energy. Metal, above 3000 HU, is clamped.

    Example:
        A millimetre of water weighs 0.1 g/cm2:

        >>> basis = make_material_basis()
        >>> round(dict(zip(basis.knots_hu.tolist(), basis.amounts[0].tolist()))[0.0], 6)
        0.1
    """
    soft = 1 + SOFT_TISSUE_HU / 1000
    bone = DENSITY_G_PER_CM3["cortical_bone"]
    bone_hu = 1000 * (find_mu("cortical_bone", CT_KEV) / find_mu("water", CT_KEV) - 1)
    metal = bone * (1000 + METAL_HU) / (1000 + bone_hu)
    return Basis(
        names=("soft_tissue", "bone"),
        knots_hu=np.array([AIR_HU, WATER_HU, SOFT_TISSUE_HU, bone_hu, METAL_HU]),
        amounts=np.array([[0.0, 1.0, soft, 0.0, 0.0], [0.0, 0.0, 0.0, bone, metal]]) / 10,
    )


@cache
def _fit_logarithms(material: str) -> CubicSpline:
    """Lay a spline through the logarithms of a material's coefficients over those of energy."""
    table = _read_table()
    return CubicSpline(np.log(table["kev"]), np.log(table[material]))


@cache
def _read_table() -> dict[str, Float64[np.ndarray, "e"]]:
    """Read the shipped table: column name to values."""
    text = files("drrgen.physics").joinpath("tables/mass_attenuation.csv").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    rows = list(csv.DictReader(lines))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
