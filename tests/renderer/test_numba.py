"""The CPU kernels against the plain reference and against formulas."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from drrgen.choices import View
from drrgen.errors import GeometryError
from drrgen.geometry.detector import Detector
from drrgen.geometry.pose import Pose, make_pose
from drrgen.phantoms import find_ellipsoid_chords, make_ellipsoid, make_grid
from drrgen.physics.materials import Basis
from drrgen.renderer._numba import BLOCK_SLICES, GENERAL_TILE, UPRIGHT_TILE, render_numba
from drrgen.renderer._reference import render_reference
from drrgen.volume import CTVolume

PARITY_TOL = 1e-4  # relative to the largest value; float32 sums in another order
RIGID_TOL = 2e-4  # twice parity: both pictures carry the rounding
FACE_TOL = 1e-6  # float64 geometry, one float32 product
UNIT = Basis(  # amount 1 whatever the HU: the picture is the length of ray inside the grid [mm]
    names=("length",), knots_hu=np.array([0.0]), amounts=np.array([[1.0]])
)
TWO = Basis(
    names=("soft", "bone"),
    knots_hu=np.array([-1000.0, 0.0, 1500.0, 3000.0]),
    amounts=np.array([[0.0, 1.0, 1.1, 1.1], [0.0, 0.0, 0.4, 2.0]]),
)
LINEAR = Basis(
    names=("hu",),
    knots_hu=np.array([-32768.0, 32767.0]),
    amounts=np.array([[-32.768, 32.767]]),
)
PANEL = Detector(sid_mm=1800, pitch_mm=6.0, rows=40, columns=48)
PA = make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=1600)

angles = st.floats(-180, 180, allow_subnormal=False)
turns = st.tuples(angles, angles, angles)


def make_noise(
    shape: tuple[int, int, int] = (17, 23, 19),
    spacing: float | tuple[float, float, float] = 9.0,
    directions: np.ndarray | None = None,
    low: int = -1000,
    high: int = 2000,
) -> CTVolume:
    values = np.random.default_rng(1).integers(low, high, shape, endpoint=True, dtype=np.int16)
    grid = make_grid(shape, spacing, center_mm=(3.0, -5.0, 4.0), directions=directions)
    return CTVolume(hu=values, patient_from_voxel=grid)


def check_parity(
    volume: CTVolume, pose: Pose, *, panel: Detector = PANEL, basis: Basis = TWO
) -> np.ndarray:
    """Compare with the reference, and return the picture."""
    fast = render_numba(volume, panel, [pose], basis)
    plain = render_reference(volume, panel, [pose], basis, torch.device("cpu")).numpy()
    assert np.isfinite(fast).all()
    assert np.abs(fast - plain).max() <= PARITY_TOL * max(np.abs(plain).max(), 1e-30)
    return fast[0]


@given(turn=turns, view=st.sampled_from(list(View)), shift=st.tuples(*[st.floats(-60, 60)] * 3))
def test_any_pose_agrees_with_the_reference(turn: tuple, view: View, shift: tuple) -> None:
    pose = make_pose(view, isocenter_mm=shift, sod_mm=1500, rotation_deg=turn)
    check_parity(make_noise(), pose)


@pytest.mark.parametrize(
    "order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
)
@pytest.mark.parametrize("view", list(View))
def test_any_storage_order_agrees_with_the_reference(order: tuple, view: View) -> None:
    signs = np.diag([-1.0, 1.0, -1.0])
    volume = make_noise(directions=signs[:, list(order)], spacing=(5.0, 8.0, 11.0))
    check_parity(volume, make_pose(view, isocenter_mm=(0, 0, 0), sod_mm=1500))


def test_an_oblique_grid_agrees_with_the_reference() -> None:
    angle = math.radians(20)
    c, s = math.cos(angle), math.sin(angle)
    tilted = np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])
    check_parity(make_noise(directions=tilted), PA)


@pytest.mark.parametrize("turn", [(0, 0, 45), (45, 0, 0), (35, 20, 45)])
def test_rays_may_run_along_different_axes_across_the_detector(turn: tuple) -> None:
    near = make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=250, rotation_deg=turn)
    wide = Detector(sid_mm=400, pitch_mm=10.0, rows=60, columns=70)
    check_parity(make_noise(), near, panel=wide)


def test_an_upright_view_may_be_too_wide_for_the_fast_kernel() -> None:
    near = make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=150)
    # An odd number of columns, so that no ray is a diagonal, which two axes could claim.
    wide = Detector(sid_mm=300, pitch_mm=20.0, rows=40, columns=41)
    check_parity(make_noise(), near, panel=wide)


def test_pictures_larger_than_a_tile_have_no_seams() -> None:
    volume = make_noise((5, 2 * BLOCK_SLICES + 3, 7), spacing=20.0)
    for tile, turn in ((UPRIGHT_TILE, (0, 0, 0)), (GENERAL_TILE, (2, 3, 4))):
        panel = Detector(sid_mm=1800, pitch_mm=0.4, rows=tile[0] + 3, columns=tile[1] + 5)
        pose = make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=1600, rotation_deg=turn)
        check_parity(volume, pose, panel=panel)


@pytest.mark.parametrize("turn", [(0, 0, 0), (3, 4, 5)])
def test_rays_that_miss_are_zero(turn: tuple) -> None:
    beside = make_pose("PA", isocenter_mm=(2000, 0, 0), sod_mm=1600, rotation_deg=turn)
    assert not render_numba(make_noise(), PANEL, [beside], UNIT).any()
    behind = make_pose("PA", isocenter_mm=(0, -3000, 0), sod_mm=1600, rotation_deg=turn)
    assert not render_numba(make_noise(), PANEL, [behind], UNIT).any()


@pytest.mark.parametrize("turn", [(0, 0, 0), (10, 10, 10), (0, 0, 45)])
@pytest.mark.parametrize("sod", [1.0, 30.0, 110.0])
def test_rays_that_start_inside_count_from_the_source(turn: tuple, sod: float) -> None:
    pose = make_pose("LL", isocenter_mm=(3, -5, 4), sod_mm=sod, rotation_deg=turn)
    panel = Detector(sid_mm=sod + 500, pitch_mm=4.0, rows=30, columns=30)
    check_parity(make_noise(), pose, panel=panel)


@pytest.mark.parametrize("turn", [(0, 0, 0), (10, 10, 10)])
def test_rays_that_end_inside_count_to_the_pixel(turn: tuple) -> None:
    pose = make_pose("PA", isocenter_mm=(3, -5, 4), sod_mm=1600, rotation_deg=turn)
    panel = Detector(sid_mm=1600, pitch_mm=6.0, rows=30, columns=30)
    check_parity(make_noise(), pose, panel=panel)


def make_single_ray(source: tuple, direction: tuple, length: float = 1000.0) -> tuple:
    """Make the pose and the one-pixel panel of one ray."""
    beam = np.array(direction) / np.linalg.norm(direction)
    across = np.cross(beam, np.eye(3)[np.abs(beam).argmin()])
    across /= np.linalg.norm(across)
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([across, np.cross(beam, across), beam], axis=1)
    matrix[:3, 3] = source
    panel = Detector(sid_mm=length, pitch_mm=1.0, rows=1, columns=1)
    return Pose(view=View.PA, patient_from_camera=torch.from_numpy(matrix)), panel


def measure_length(source: tuple, direction: tuple, side: float = 100.0) -> float:
    """Find the length of one ray inside a cube around the origin [mm]."""
    shape = (10, 10, 10)
    cube = CTVolume(hu=np.zeros(shape, np.int16), patient_from_voxel=make_grid(shape, side / 10))
    pose, panel = make_single_ray(source, direction)
    return float(render_numba(cube, panel, [pose], UNIT)[0, 0, 0, 0])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("offset", [0.0, 4.999, 49.999, -49.999])
def test_rays_parallel_to_a_face_count_once(axis: int, offset: float) -> None:
    source, direction = np.full(3, offset), np.zeros(3)
    source[axis], direction[axis] = -300.0, 1.0
    assert measure_length(source, direction) == pytest.approx(100.0, rel=FACE_TOL)
    source[(axis + 1) % 3] = 50.001
    assert measure_length(source, direction) == 0.0


@pytest.mark.parametrize("inside_mm", [10.0, 0.1, 0.001])
def test_rays_that_graze_an_edge_count_what_they_cut(inside_mm: float) -> None:
    # At 45 degrees across the edge x = y = 50 mm, so that the corner cut off is a right triangle.
    source = (50 - inside_mm + 300, 50 - inside_mm - 300, 0.0)
    expected = 2 * math.sqrt(2) * inside_mm
    assert measure_length(source, (-1.0, 1.0, 0.0)) == pytest.approx(expected, abs=1e-4)


def test_rays_along_a_diagonal_have_its_length() -> None:
    found = measure_length((-200.0, -200.0, -200.0), (1.0, 1.0, 1.0))
    assert found == pytest.approx(100 * math.sqrt(3), rel=FACE_TOL)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 9, 9), (9, 1, 9), (9, 9, 1), (1, 1, 9), (2, 1, 1)]
)
@pytest.mark.parametrize("turn", [(0, 0, 0), (0, 0, 90), (20, 30, 40)])
def test_volumes_of_one_voxel_or_one_slice(shape: tuple, turn: tuple) -> None:
    volume = make_noise(shape, spacing=25.0)
    pose = make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=1600, rotation_deg=turn)
    assert check_parity(volume, pose, basis=LINEAR).any()


@pytest.mark.parametrize("spacing", [0.3, 1.0, 10.0, (0.3, 0.3, 10.0), (10.0, 0.3, 1.0)])
@pytest.mark.parametrize("turn", [(0, 0, 0), (7, 8, 9)])
def test_spacings_from_a_third_of_a_millimetre_to_ten(spacing: float | tuple, turn: tuple) -> None:
    volume = make_noise(spacing=spacing)
    extent = max(volume.spacing_zyx_mm) * 23
    panel = Detector(sid_mm=1800, pitch_mm=extent / 30, rows=41, columns=41)
    pose = make_pose("PA", isocenter_mm=(3, -5, 4), sod_mm=1600, rotation_deg=turn)
    assert check_parity(volume, pose, panel=panel).any()


@pytest.mark.parametrize("turn", [(0, 0, 0), (7, 8, 9)])
def test_the_extremes_of_int16_are_looked_up(turn: tuple) -> None:
    volume = make_noise(low=-32768, high=32767)
    volume.hu[:2, :2, :2], volume.hu[-2:, -2:, -2:] = -32768, 32767
    pose = make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=1600, rotation_deg=turn)
    check_parity(volume, pose, basis=LINEAR)


@pytest.mark.parametrize("turn", [(0, 0, 0), (10, 10, 10), (0, 0, 45)])
def test_threads_do_not_change_a_bit(turn: tuple) -> None:
    panel = Detector(sid_mm=1800, pitch_mm=1.0, rows=200, columns=260)
    pose = make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=1600, rotation_deg=turn)
    one, two, three = (render_numba(make_noise(), panel, [pose], TWO, threads=n) for n in (1, 2, 3))
    assert one.any()
    assert np.array_equal(one, two)
    assert np.array_equal(one, three)


def test_a_batch_equals_its_elements() -> None:
    poses = [
        make_pose(view, isocenter_mm=(0, 0, 0), sod_mm=1600, rotation_deg=(0, turn, turn))
        for view in View
        for turn in (0, 12)
    ]
    batch = render_numba(make_noise(), PANEL, poses, TWO)
    for pose, image in zip(poses, batch, strict=True):
        assert np.array_equal(render_numba(make_noise(), PANEL, [pose], TWO)[0], image)


def test_a_read_only_volume_is_rendered() -> None:
    volume = make_noise()
    volume.hu.flags.writeable = False
    assert render_numba(volume, PANEL, [PA], UNIT).any()


@given(factor=st.floats(-10, 10), turn=st.sampled_from([(0, 0, 0), (10, 10, 10)]))
def test_the_picture_is_linear_in_the_table(factor: float, turn: tuple) -> None:
    pose = make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=1600, rotation_deg=turn)
    mixed = Basis(
        names=("soft", "bone", "sum"),
        knots_hu=TWO.knots_hu,
        amounts=np.vstack([TWO.amounts, TWO.amounts[0] + factor * TWO.amounts[1]]),
    )
    soft, bone, both = render_numba(make_noise(), PANEL, [pose], mixed)[0]
    largest = np.abs(soft).max() + abs(factor) * np.abs(bone).max()
    assert np.abs(soft + factor * bone - both).max() < PARITY_TOL * largest


@given(turn=turns, shift=st.tuples(*[st.floats(-500, 500)] * 3))
def test_moving_patient_and_camera_together_changes_nothing(turn: tuple, shift: tuple) -> None:
    volume = make_noise()
    pose = make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=1600, rotation_deg=(4, 5, 6))
    motion = np.eye(4)
    turned = make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=1, rotation_deg=turn)
    upright = make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=1)
    motion[:3, :3] = (
        turned.patient_from_camera[:3, :3] @ upright.patient_from_camera[:3, :3].T
    ).numpy()
    motion[:3, 3] = shift
    moved = CTVolume(hu=volume.hu, patient_from_voxel=motion @ volume.patient_from_voxel)
    moved_pose = Pose(
        view=pose.view, patient_from_camera=torch.from_numpy(motion) @ pose.patient_from_camera
    )
    still = render_numba(volume, PANEL, [pose], TWO)
    found = render_numba(moved, PANEL, [moved_pose], TWO)
    assert np.abs(found - still).max() < RIGID_TOL * still.max()


@pytest.mark.parametrize("turn", [(0, 0, 0), (10, 10, 10)])
def test_finer_grids_converge_to_the_formula(turn: tuple) -> None:
    radii = (50.0, 40.0, 60.0)
    pose = make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=1600, rotation_deg=turn)
    exact = find_ellipsoid_chords(PANEL, pose, radii_mm=radii).numpy()
    water = Basis(
        names=("water",), knots_hu=np.array([-1000.0, 0.0]), amounts=np.array([[0.0, 1.0]])
    )
    errors = []
    for spacing in (8.0, 4.0, 2.0):
        shape = (round(140 / spacing),) * 3
        volume = make_ellipsoid(make_grid(shape, spacing), shape, radii_mm=radii)
        found = render_numba(volume, PANEL, [pose], water)[0, 0]
        errors.append(float(np.sqrt(np.mean((found - exact) ** 2))))
    assert errors[0] > 1.7 * errors[1] > 1.7**2 * errors[2]  # first order: the rim is one voxel
    assert errors[-1] < 0.01 * 2 * max(radii)


def test_a_pose_that_is_not_a_number_is_refused() -> None:
    matrix = PA.patient_from_camera.clone()
    matrix[0, 3] = math.nan
    with pytest.raises(GeometryError, match="finite"):
        Pose(view=View.PA, patient_from_camera=matrix)
    with pytest.raises(GeometryError, match="finite"):
        make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=1600, rotation_deg=(0, math.nan, 0))
