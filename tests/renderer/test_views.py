"""Beads seen through the whole renderer: where a voxel of the CT ends up on the hung picture.

The expected places are worked out here, from the similar triangles of a point source and in the
words of radiology; nothing of the package's own geometry is asked.
"""

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from drrgen.choices import View
from drrgen.geometry.detector import Detector
from drrgen.geometry.frames import VIEW_AXES
from drrgen.geometry.pose import make_pose
from drrgen.phantoms import find_ellipsoid_chords, make_bead, make_ellipsoid, make_grid
from drrgen.physics.materials import find_mu
from drrgen.renderer.render import render
from drrgen.volume import CTVolume

VIEWS = ["PA", "AP", "LL", "RL"]
SID, SOD, PITCH, SIDE = 1100.0, 900.0, 1.5, 200
ISOCENTER = (15.0, -25.0, 140.0)
PANEL = Detector(sid_mm=SID, pitch_mm=PITCH, rows=SIDE, columns=SIDE)
BEAD = (45.0, 60.0, 30.0)  # left of, behind and above the isocenter [mm]
TILT = (7.0, -4.0, 12.0)
SPACING_XYZ = (0.7, 0.9, 2.5)

PLACE_TOL_PX = 0.1  # the spec's; sampling of a Gaussian of 1.6 voxels moves its middle less
MAGNIFICATION_TOL = 2e-3  # relative: 0.1 pixel over the 50 pixels between two beads
CHORD_TOL_MM = 1.25  # half a slice of 2.5 mm, somewhere in which the surface lies
VOLUME_TOL = 0.005  # relative: a soft rim keeps the volume of a sphere, its voxels nearly so

# Offset from the isocenter (left, behind, above) -> (to the viewer's right, down, depth) [mm].
Triangle = Callable[[float, float, float], tuple[float, float, float]]
TRIANGLES: dict[str, Triangle] = {
    "PA": lambda left, back, up: (left, -up, SOD - back),
    "AP": lambda left, back, up: (left, -up, SOD + back),
    "LL": lambda left, back, up: (back, -up, SOD + left),
    "RL": lambda left, back, up: (-back, -up, SOD - left),
}

OBLIQUE = Rotation.from_euler("xyz", [20, -35, 50], degrees=True).as_matrix()
DIRECTIONS = {
    "axial LPS": np.eye(3),
    "as NIfTI stores it": np.diag([-1.0, 1.0, -1.0]),
    "sagittal slices": np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]),
    "coronal slices": np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]),
    "oblique": OBLIQUE,
    "oblique and mirrored": OBLIQUE @ np.diag([1.0, -1.0, 1.0]),
}


def expect(
    view: str, offset: tuple[float, ...], rotation_deg: tuple[float, ...] = (0, 0, 0)
) -> tuple[float, float]:
    """Turning the assembly about the isocenter is turning the patient back."""
    turned = Rotation.from_euler("xyz", rotation_deg, degrees=True).inv().apply(offset)
    right, down, depth = TRIANGLES[view](*turned)
    return SIDE / 2 + right * SID / depth / PITCH, SIDE / 2 + down * SID / depth / PITCH


def place(offset: tuple[float, ...]) -> tuple[float, float, float]:
    x, y, z = (a + b for a, b in zip(ISOCENTER, offset, strict=True))
    return x, y, z


def put_bead(offset: tuple[float, ...], directions: str = "axial LPS") -> CTVolume:
    """A bead between the voxels of a small grid around it."""
    center = place(offset)
    extent_mm = 36.0
    x, y, z = (round(extent_mm / mm) for mm in SPACING_XYZ)
    x_mm, y_mm, z_mm = (a + b for a, b in zip(center, (0.23, -0.4, 0.9), strict=True))
    grid = make_grid((z, y, x), SPACING_XYZ, center_mm=(x_mm, y_mm, z_mm),
                     directions=DIRECTIONS[directions])  # fmt: skip
    return make_bead(grid, (z, y, x), center_mm=center)


def find_middle(picture: torch.Tensor) -> tuple[float, float]:
    """Centre of gravity [pixels]; pixel (0, 0) has its centre at (0.5, 0.5)."""
    v, u = (torch.arange(n) + 0.5 for n in picture.shape)
    total = float(picture.sum())
    return float((picture.sum(0) * u).sum()) / total, float((picture.sum(1) * v).sum()) / total


def see(
    volume: CTVolume, view: str, rotation_deg: tuple[float, ...] = (0, 0, 0)
) -> tuple[float, float]:
    pose = make_pose(view, isocenter_mm=ISOCENTER, sod_mm=SOD, rotation_deg=rotation_deg)
    return find_middle(render(volume, PANEL, [pose], engine="numba")[0, 0])


def see_bead(
    view: str, left: float = 0.0, back: float = 0.0, up: float = 0.0
) -> tuple[float, float]:
    return see(put_bead((left, back, up)), view)


@pytest.mark.parametrize("view", ["PA", "AP"])
def test_a_bead_on_the_patients_left_lands_on_the_viewers_right(view: str) -> None:
    assert see_bead(view, left=50)[0] > SIDE / 2 > see_bead(view, left=-50)[0]


def test_a_bead_at_the_spine_lands_on_the_viewers_right_in_ll_and_on_the_left_in_rl() -> None:
    assert see_bead("LL", back=50)[0] > SIDE / 2 > see_bead("LL", back=-50)[0]
    assert see_bead("RL", back=50)[0] < SIDE / 2 < see_bead("RL", back=-50)[0]


@pytest.mark.parametrize("view", VIEWS)
def test_a_cranial_bead_lands_near_row_0(view: str) -> None:
    assert see_bead(view, up=80)[1] < SIDE / 4
    assert see_bead(view, up=-80)[1] > 3 * SIDE / 4


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("directions", DIRECTIONS)
@pytest.mark.parametrize("rotation_deg", [(0, 0, 0), TILT])
def test_a_bead_lands_within_a_tenth_of_a_pixel_however_the_ct_is_stored(
    view: str, directions: str, rotation_deg: tuple[float, ...]
) -> None:
    found = see(put_bead(BEAD, directions), view, rotation_deg)
    assert found == pytest.approx(expect(view, BEAD, rotation_deg), abs=PLACE_TOL_PX)


@pytest.mark.parametrize("view", VIEWS)
def test_the_reference_puts_a_bead_at_the_same_place(view: str) -> None:
    u, v = expect(view, BEAD, TILT)
    left, top, side = round(u) - 20, round(v) - 20, 40  # a window is enough, and quick
    window = Detector(sid_mm=SID, pitch_mm=PITCH, rows=side, columns=side,
                      principal_uv=(SIDE / 2 - left, SIDE / 2 - top))  # fmt: skip
    pose = make_pose(view, isocenter_mm=ISOCENTER, sod_mm=SOD, rotation_deg=TILT)
    volume = put_bead(BEAD, "oblique and mirrored")
    found = find_middle(render(volume, window, [pose], engine="reference")[0, 0])
    assert (found[0] + left, found[1] + top) == pytest.approx((u, v), abs=PLACE_TOL_PX)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("depth_mm", [-60.0, 0.0, 60.0])
def test_two_beads_are_as_far_apart_as_their_magnification_says(view: str, depth_mm: float) -> None:
    """Distances grow by SID over the distance from the source; depth counts towards the detector."""
    beam = {"PA": (0, -1, 0), "AP": (0, 1, 0), "LL": (1, 0, 0), "RL": (-1, 0, 0)}[view]
    x, y, z = (depth_mm * part for part in beam)
    upper, lower = see_bead(view, x, y, z + 30), see_bead(view, x, y, z - 30)
    expected = 60 * SID / (SOD + depth_mm) / PITCH
    assert lower[1] - upper[1] == pytest.approx(expected, rel=MAGNIFICATION_TOL)


@pytest.mark.parametrize("view", VIEWS)
def test_a_bead_tells_its_view_from_the_three_others(view: str) -> None:
    u, v = see(put_bead(BEAD), view)
    misses = {other: np.hypot(u - x, v - y) for other in VIEWS for x, y in [expect(other, BEAD)]}
    assert misses.pop(view) < PLACE_TOL_PX * np.sqrt(2)
    assert min(misses.values()) > 50 * PLACE_TOL_PX


@pytest.mark.parametrize(("first", "second"), [*combinations(VIEWS, 2)])
def test_swapping_two_views_would_be_seen(
    first: str, second: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bead above is worth something only if this mistake moves it."""
    a, b = View(first), View(second)
    swapped = VIEW_AXES[a], VIEW_AXES[b]
    monkeypatch.setitem(VIEW_AXES, b, swapped[0])
    monkeypatch.setitem(VIEW_AXES, a, swapped[1])
    for view in (first, second):
        u, v = see(put_bead(BEAD), view)
        x, y = expect(view, BEAD)
        assert np.hypot(u - x, v - y) > 50 * PLACE_TOL_PX


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("directions", ["axial LPS", "sagittal slices", "oblique"])
def test_a_sphere_is_its_chord_whatever_the_voxels(view: str, directions: str) -> None:
    radius, mu = 40.0, find_mu("water", 60.0)
    shape = (40, 110, 140)
    grid = make_grid(shape, SPACING_XYZ, center_mm=ISOCENTER, directions=DIRECTIONS[directions])
    sphere = make_ellipsoid(grid, shape, center_mm=ISOCENTER, radii_mm=(radius,) * 3)
    pose = make_pose(view, isocenter_mm=ISOCENTER, sod_mm=SOD, rotation_deg=TILT)
    found = render(sphere, PANEL, [pose])[0, 0]
    # Distance of each ray from the middle of the sphere, which the central ray passes.
    at = (torch.arange(SIDE) + 0.5 - SIDE / 2) * PITCH
    off_axis = at[:, None] ** 2 + at[None] ** 2
    b_squared = SOD**2 * off_axis / (off_axis + SID**2)
    expected = 2 * mu * torch.sqrt((radius**2 - b_squared).clamp(min=0))
    exact = mu * find_ellipsoid_chords(PANEL, pose, center_mm=ISOCENTER, radii_mm=(radius,) * 3)
    assert torch.allclose(expected, exact.float(), atol=1e-3)  # float32 here, float64 there
    inside = b_squared < (0.8 * radius) ** 2
    assert float((found - expected)[inside].abs().max()) < CHORD_TOL_MM * mu
    assert float(found.sum()) == pytest.approx(float(expected.sum()), rel=VOLUME_TOL)
