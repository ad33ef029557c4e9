"""Slabs of summed slices against the full volume, and against the error they state."""

import numpy as np
import pytest

from drrgen.errors import GeometryError
from drrgen.geometry.detector import Detector
from drrgen.geometry.pose import Pose, make_pose
from drrgen.phantoms import make_torso
from drrgen.physics.materials import Basis, make_attenuation_basis
from drrgen.renderer._slabs import find_beam_axis, sum_slabs
from drrgen.renderer.render import render
from drrgen.volume import CTVolume

ROUNDING = 1e-4  # int16 levels and float32 sums, relative to the largest value
PANEL = Detector(sid_mm=1800, pitch_mm=6.0, rows=40, columns=48)
WATER = make_attenuation_basis(60.0)
TWO = Basis(
    names=("soft", "bone"),
    knots_hu=np.array([-1000.0, 0.0, 1500.0]),
    amounts=np.array([[0.0, 1.0, 1.1], [0.0, 0.0, 0.4]]),
)


def find_bound(volume: CTVolume, pose: Pose, axis: int, slices: int) -> float:
    """Evaluate the bound that ``sum_slabs`` states, for the worst ray of a panel."""
    amount = WATER.tabulate()[0][volume.hu.astype(np.int32) + 32768]
    corners = np.array([[u, v, 0.0, 1.0] for u in (0, PANEL.columns) for v in (0, PANEL.rows)])
    camera = corners @ PANEL.camera_from_pixel.numpy().T
    rays = camera[:, :3] @ pose.patient_from_camera[:3, :3].numpy().T
    moves = np.abs(rays @ volume.voxel_from_patient[:3, :3].T)[:, ::-1]
    moves /= moves[:, [axis]]
    sideways = 0.0
    for other in {0, 1, 2} - {axis}:
        sideways += moves[:, other].max() * np.abs(np.diff(amount, axis=other)).max()
    spacing = volume.spacing_zyx_mm[axis]
    slant = np.sqrt((moves**2).sum(axis=1)).max()
    length = volume.hu.shape[axis] * spacing * slant
    return float(length * (slices - 1) / 2 * sideways)


@pytest.mark.parametrize("view", ["PA", "LL"])
@pytest.mark.parametrize("turn", [(0, 0, 0), (4, 3, 5)])
@pytest.mark.parametrize("slices", [2, 4])
def test_the_error_stays_inside_the_stated_bound(view: str, turn: tuple, slices: int) -> None:
    volume = make_torso(spacing_mm=4.0, height_mm=160.0)
    pose = make_pose(view, isocenter_mm=(0, 0, 0), sod_mm=1600, rotation_deg=turn)
    full = render(volume, PANEL, [pose])
    thin = render(volume, PANEL, [pose], slab_slices=slices)
    bound = find_bound(volume, pose, find_beam_axis(volume, pose), slices)
    error = (full - thin).abs()
    assert 0 < float(error.max()) <= bound
    # The bound is for the worst case; what is seen is far smaller.
    assert float(error.square().mean().sqrt()) < 0.02 * float(full.max())


def test_parallel_slabs_sum_to_the_whole() -> None:
    volume = make_torso(spacing_mm=8.0)
    far = make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=1e6)
    panel = Detector(sid_mm=1.001e6, pitch_mm=8.0, rows=20, columns=40)
    for slices in (1, 3, 7, 1000):  # 1000: one slab, as thick as the volume
        for basis in (WATER, TWO):
            full = render(volume, panel, [far], basis=basis)
            thin = render(volume, panel, [far], basis=basis, slab_slices=slices)
            assert float((full - thin).abs().max()) < 0.002 * float(full.max())


def test_a_slab_is_the_mean_of_its_slices() -> None:
    volume = make_torso(spacing_mm=20.0)
    amount = WATER.tabulate()[0][volume.hu.astype(np.int32) + 32768]
    for axis in range(3):
        ((thin, scale),) = sum_slabs(volume, WATER, axis=axis, slices=2)
        found = np.interp(thin.hu, scale.knots_hu, scale.amounts[0])
        whole = amount.take(range(2 * (amount.shape[axis] // 2)), axis=axis)
        pairs = np.moveaxis(whole, axis, 0)
        expected = np.moveaxis((pairs[::2] + pairs[1::2]) / 2, 0, axis)
        kept = found.take(range(expected.shape[axis]), axis=axis)
        assert np.abs(kept - expected).max() < ROUNDING * amount.max()


def test_views_from_several_sides_keep_their_order() -> None:
    volume = make_torso(spacing_mm=10.0)
    poses = [make_pose(v, isocenter_mm=(0, 0, 0), sod_mm=1600) for v in ("LL", "PA", "RL", "AP")]
    batch = render(volume, PANEL, poses, slab_slices=3)
    for pose, image in zip(poses, batch, strict=True):
        assert bool((render(volume, PANEL, [pose], slab_slices=3)[0] == image).all())


def test_a_slab_of_nothing_is_refused() -> None:
    pose = make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=1600)
    with pytest.raises(GeometryError, match="slab_slices"):
        render(make_torso(spacing_mm=20.0), PANEL, [pose], slab_slices=0)
