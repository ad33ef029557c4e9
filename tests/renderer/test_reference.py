import runpy
from collections.abc import Iterator
from inspect import unwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from drrgen.choices import View
from drrgen.errors import GeometryError
from drrgen.geometry.detector import Detector
from drrgen.geometry.frames import make_rotation
from drrgen.geometry.pose import Pose, make_pose
from drrgen.phantoms import make_box, make_grid, make_torso
from drrgen.physics.materials import Basis, find_mu, make_attenuation_basis
from drrgen.renderer.render import render, render_amounts
from drrgen.volume import CTVolume

EXAMPLE = Path(__file__).parents[2] / "examples" / "recover_pose.py"
MU = find_mu("water", 60.0)
FLOAT32_TOL = 1e-6  # of the largest value: the picture is rounded to float32
SMALL = Detector(sid_mm=200, pitch_mm=9.0, rows=3, columns=4)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small are slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def look(volume: CTVolume, pose: Pose, panel: Detector, basis: Basis | None = None) -> Tensor:
    return render(volume, panel, [pose], basis=basis, engine="reference", device="cpu")[0]


def camera_at(source: tuple[float, float, float], towards: str = "PA") -> Pose:
    """Place the source of an upright view; the isocenter is one millimetre further on."""
    pose = make_pose(towards, isocenter_mm=(0, 0, 0), sod_mm=1)
    matrix = pose.patient_from_camera.clone()
    matrix[:3, 3] = torch.tensor(source, dtype=torch.float64)
    return Pose(view=pose.view, patient_from_camera=matrix)


def small_case() -> tuple[Tensor, np.ndarray]:
    amounts = torch.rand(
        2, 4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(7)
    )
    return amounts, make_grid((4, 5, 6), (5.0, 6.0, 7.0), directions=np.diag([-1.0, 1.0, -1.0]))


@pytest.mark.parametrize("view", ["PA", "LL"])
def test_the_gradient_in_the_pose_is_right(view: str) -> None:
    amounts, grid = small_case()

    def picture(rotation: Tensor, isocenter: Tensor) -> Tensor:
        pose = make_pose(view, isocenter_mm=isocenter, sod_mm=150, rotation_deg=rotation)
        return render_amounts(amounts, SMALL, [pose], patient_from_voxel=grid)

    rotation = torch.tensor([3.1, -4.3, 32.0], dtype=torch.float64, requires_grad=True)
    isocenter = torch.tensor([0.7, -0.4, 1.3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(picture, (rotation, isocenter))


def test_the_gradient_in_the_volume_is_right() -> None:
    amounts, grid = small_case()
    poses = [make_pose(v, isocenter_mm=(0, 0, 0), sod_mm=150) for v in ("PA", "RL")]
    amounts.requires_grad_()

    def picture(amounts: Tensor) -> Tensor:
        return render_amounts(amounts, SMALL, poses, patient_from_voxel=grid)

    assert torch.autograd.gradcheck(picture, (amounts,))


def test_the_gradient_in_the_volume_is_the_way_through_each_voxel() -> None:
    amounts = torch.zeros(1, 3, 3, 3, requires_grad=True)
    pose = make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=1600)
    panel = Detector(sid_mm=1800, pitch_mm=1.0, rows=1, columns=1)
    grid = make_grid((3, 3, 3), 2.0)
    render_amounts(amounts, panel, [pose], patient_from_voxel=grid).sum().backward()
    assert amounts.grad is not None
    expected = torch.zeros(1, 3, 3, 3)
    expected[0, 1, :, 1] = 2.0  # the middle ray runs 2 mm through each voxel of the middle column
    assert torch.allclose(amounts.grad, expected, atol=FLOAT32_TOL)


def test_amounts_and_hu_give_the_same_picture() -> None:
    volume, basis = make_torso(spacing_mm=20.0), make_attenuation_basis(60.0)
    poses = [make_pose("LL", isocenter_mm=(0, 0, 0), sod_mm=1600, rotation_deg=(5, 3, 40))]
    panel = Detector(sid_mm=1800, pitch_mm=20.0, rows=12, columns=12)
    amounts = torch.from_numpy(basis.tabulate()[:, volume.hu.astype(int) + 32768])
    found = render_amounts(amounts, panel, poses, patient_from_voxel=volume.patient_from_voxel)
    expected = render(volume, panel, poses, basis=basis, engine="reference", device="cpu")
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "amounts", [torch.zeros(3, 3, 3), torch.zeros(1, 3, 0, 3), torch.zeros(1, 3, 3, 3).long()]
)
def test_amounts_that_are_no_volume_are_refused(amounts: Tensor) -> None:
    pose = make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=150)
    with pytest.raises(GeometryError, match="amounts must be"):
        # Without the check of hints, which tests lay over it and users do not have.
        unwrap(render_amounts)(amounts, SMALL, [pose], patient_from_voxel=np.eye(4))


def test_the_example_recovers_the_pose() -> None:
    example = runpy.run_path(str(EXAMPLE))
    turn, shift = torch.tensor([4.0, -3.0, 5.0]).double(), torch.tensor([8.0, -6.0, 10.0]).double()
    found_turn, found_shift = example["recover_pose"](example["take_picture"](turn, shift))
    assert float((found_turn - turn).abs().max()) < 0.01  # degrees
    assert float((found_shift - shift).abs().max()) < 0.05  # mm


@given(
    turn=st.tuples(*[st.floats(-180, 180)] * 3),
    shift=st.tuples(*[st.floats(-300, 300)] * 3),
    view=st.sampled_from(list(View)),
)
def test_moving_patient_and_camera_together_changes_nothing(
    turn: tuple[float, ...], shift: tuple[float, ...], view: View
) -> None:
    volume = make_torso(spacing_mm=40.0)
    pose = make_pose(view, isocenter_mm=(3, -5, 7), sod_mm=1500, rotation_deg=(4, -3, 17))
    motion = torch.eye(4, dtype=torch.float64)
    motion[:3, :3] = make_rotation(torch.tensor(turn, dtype=torch.float64))
    motion[:3, 3] = torch.tensor(shift, dtype=torch.float64)
    moved = CTVolume(hu=volume.hu, patient_from_voxel=motion.numpy() @ volume.patient_from_voxel)
    moved_pose = Pose(view=view, patient_from_camera=motion @ pose.patient_from_camera)
    panel = Detector(sid_mm=1800, pitch_mm=60.0, rows=5, columns=6)
    still = look(volume, pose, panel)
    found = look(moved, moved_pose, panel)
    assert float((found - still).abs().max()) < FLOAT32_TOL * float(still.max())


def test_rays_that_miss_are_zero() -> None:
    box = make_box(size_mm=(10, 10, 10), spacing_mm=2.0, hu=0)
    panel = Detector(sid_mm=300, pitch_mm=1.0, rows=2, columns=2)
    assert float(look(box, camera_at((100, 200, 0)), panel).abs().max()) == 0
    assert float(look(box, camera_at((0, -200, 0)), panel).abs().max()) == 0  # looks away from it
    near = Detector(sid_mm=100, pitch_mm=1.0, rows=2, columns=2)
    assert float(look(box, camera_at((0, 200, 0)), near).abs().max()) == 0  # ends before it


def test_a_ray_that_starts_inside_counts_from_there() -> None:
    box = make_box(size_mm=(40, 40, 40), spacing_mm=2.0, hu=0)
    panel = Detector(sid_mm=300, pitch_mm=1e-3, rows=1, columns=1)
    assert look(box, camera_at((0, 7, 0)), panel).item() == pytest.approx(MU * 27)


def test_a_ray_that_ends_inside_counts_up_to_there() -> None:
    box = make_box(size_mm=(40, 40, 40), spacing_mm=2.0, hu=0)
    panel = Detector(sid_mm=103, pitch_mm=1e-3, rows=1, columns=1)
    assert look(box, camera_at((0, 100, 0)), panel).item() == pytest.approx(MU * 23)


@pytest.mark.parametrize(("x", "share"), [(19.99, 1.0), (20.01, 0.0)])
def test_a_ray_parallel_to_a_face_is_inside_or_outside(x: float, share: float) -> None:
    box = make_box(size_mm=(40, 40, 40), spacing_mm=2.0, hu=0)
    panel = Detector(sid_mm=300, pitch_mm=1.0, rows=1, columns=1)
    found = look(box, camera_at((x, 100, 0)), panel).item()
    assert found == pytest.approx(share * MU * 40)


def test_a_ray_along_an_edge_is_finite() -> None:
    box = make_box(size_mm=(40, 40, 40), spacing_mm=2.0, hu=0)
    panel = Detector(sid_mm=300, pitch_mm=1.0, rows=1, columns=1)
    found = look(box, camera_at((20, 100, 20)), panel).item()
    assert 0 <= found <= MU * 40 * (1 + FLOAT32_TOL)


def test_a_ray_across_a_corner_is_cut_where_it_enters_and_leaves() -> None:
    box = make_box(size_mm=(40, 40, 40), spacing_mm=2.0, hu=0)
    pose = make_pose("PA", isocenter_mm=(19, 0, 0), sod_mm=500, rotation_deg=(0, 0, 45))
    panel = Detector(sid_mm=1000, pitch_mm=1e-3, rows=1, columns=1)
    # At 45 degrees a line 19 mm beside the middle cuts off a corner: 2 (20 sqrt 2 - 19 / sqrt 2).
    expected = MU * 2 * (20 * 2**0.5 - 19 / 2**0.5)
    assert look(box, pose, panel).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 20, 20), (20, 1, 20), (20, 20, 1)])
@pytest.mark.parametrize("view", list(View))
def test_a_single_voxel_or_slice_is_as_thick_as_it_is(
    shape: tuple[int, int, int], view: View
) -> None:
    hu = np.zeros(shape, dtype=np.int16)
    volume = CTVolume(hu=hu, patient_from_voxel=make_grid(shape, (3.0, 5.0, 7.0)))
    pose = make_pose(view, isocenter_mm=(0, 0, 0), sod_mm=1600)
    panel = Detector(sid_mm=1800, pitch_mm=1e-3, rows=1, columns=1)
    along = 5.0 * shape[1] if view in (View.PA, View.AP) else 3.0 * shape[2]
    assert look(volume, pose, panel).item() == pytest.approx(MU * along)


@pytest.mark.parametrize("hu", [-32768, -1001, 32767])
def test_the_ends_of_int16_take_the_ends_of_the_table(hu: int) -> None:
    box = make_box(size_mm=(10, 10, 10), spacing_mm=2.0, hu=hu)
    basis = Basis(
        names=("a",), knots_hu=np.array([-1000.0, 3000.0]), amounts=np.array([[0.25, 2.0]])
    )
    panel = Detector(sid_mm=1800, pitch_mm=1e-3, rows=1, columns=1)
    pose = make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=1600)
    expected = 10 * (0.25 if hu < 0 else 2.0)
    assert look(box, pose, panel, basis).item() == pytest.approx(expected)


def test_a_pose_that_is_not_a_number_is_refused() -> None:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[0, 3] = torch.nan
    with pytest.raises(GeometryError, match="finite"):
        Pose(view=View.PA, patient_from_camera=matrix)


def test_finer_voxels_come_nearer_to_each_other() -> None:
    panel = Detector(sid_mm=1800, pitch_mm=20.0, rows=12, columns=16)
    pose = make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=1600, rotation_deg=(3, 5, 20))
    coarse, middle, fine = (look(make_torso(spacing_mm=s), pose, panel) for s in (32.0, 16.0, 8.0))
    assert float((middle - fine).square().mean()) < 0.5 * float((coarse - fine).square().mean())


@pytest.mark.parametrize("spacing_mm", [0.3, 1.0, 10.0])
def test_thickness_does_not_depend_on_the_voxels(spacing_mm: float) -> None:
    box = make_box(size_mm=(30, 30, 30), spacing_mm=spacing_mm, hu=0)
    panel = Detector(sid_mm=1800, pitch_mm=1e-3, rows=1, columns=1)
    pose = make_pose("LL", isocenter_mm=(0, 0, 0), sod_mm=1600)
    assert look(box, pose, panel).item() == pytest.approx(MU * 30)


@given(factor=st.floats(-3, 3), seed=st.integers(0, 1000))
def test_the_picture_is_linear_in_the_amounts(factor: float, seed: int) -> None:
    chance = torch.Generator().manual_seed(seed)
    a, b = torch.rand(2, 1, 4, 5, 6, dtype=torch.float64, generator=chance)
    pose = make_pose("RL", isocenter_mm=(1, 2, 3), sod_mm=150, rotation_deg=(10, 20, 30))
    grid = make_grid((4, 5, 6), (5.0, 6.0, 7.0))

    def picture(amounts: Tensor) -> Tensor:
        return render_amounts(amounts, SMALL, [pose], patient_from_voxel=grid)

    assert torch.allclose(picture(a + factor * b), picture(a) + factor * picture(b))
