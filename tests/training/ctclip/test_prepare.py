import numpy as np
import pytest
from drrgen_training.ctclip.prepare import prepare_volume, to_lps

from drrgen.volume import CTVolume


def make_volume(shape: tuple[int, int, int], spacing_xyz: tuple[float, float, float]) -> CTVolume:
    """HU that rise along x by 1, y by 10 and z by 100 a voxel, from -1000."""
    z, y, x = np.indices(shape)
    hu = (-1000 + x + 10 * y + 100 * z).astype(np.int16)
    return CTVolume(hu=hu, patient_from_voxel=np.diag([*spacing_xyz, 1.0]))


def test_a_volume_of_the_target_spacing_is_padded_with_air_around_the_middle() -> None:
    volume = make_volume((3, 4, 5), (0.75, 0.75, 1.5))
    made = prepare_volume(volume, (6, 8, 7))
    assert made.shape == (1, 6, 8, 7)
    inside = made[0, 1:4, 1:6, 1:5]  # odd padding of z, x and y goes to the end
    np.testing.assert_allclose(inside.numpy(), volume.hu.transpose(0, 2, 1) / 1000, atol=1e-6)
    made[0, 1:4, 1:6, 1:5] = -1
    assert (made == -1).all()


def test_a_larger_volume_is_cropped_around_the_middle() -> None:
    volume = make_volume((6, 8, 9), (0.75, 0.75, 1.5))
    made = prepare_volume(volume, (2, 3, 4))
    wanted = volume.hu[2:4, 2:6, 3:6].transpose(0, 2, 1) / 1000
    np.testing.assert_allclose(made[0].numpy(), wanted, atol=1e-6)


def test_spacing_is_brought_to_the_target() -> None:
    """Twice the spacing is twice the voxels; 3 voxels of 1 mm make 2 of 1.5."""
    volume = make_volume((3, 4, 5), (1.5, 1.5, 1.0))
    made = prepare_volume(volume, (2, 10, 8))
    assert (made > -1).all() or made.min() >= -1
    assert made[0, :, :, 0].min() == pytest.approx(-1, abs=0.2)
    assert prepare_volume(volume, (4, 10, 8))[0, 3].max() == -1  # padding: only 2 slices are there


def test_hu_beyond_a_thousand_are_clipped_before_resampling() -> None:
    hu = np.full((2, 2, 2), 3000, np.int16)
    hu[0] = -2000
    made = prepare_volume(
        CTVolume(hu=hu, patient_from_voxel=np.diag([0.75, 0.75, 0.75, 1])), (1, 2, 2)
    )
    assert made.flatten().tolist() == [0.0] * 4  # the mean of -1000 and 1000, not of -2000 and 3000


@pytest.mark.parametrize("flip", [(1, 1, 1), (-1, 1, -1), (1, -1, -1)])
def test_any_orientation_is_turned_to_left_posterior_superior(flip: tuple[int, int, int]) -> None:
    plain = make_volume((3, 4, 5), (0.5, 0.75, 1.5))
    hu = np.ascontiguousarray(
        plain.hu[:: flip[2], :: flip[1], :: flip[0]].transpose(2, 0, 1)
    )  # x z y
    matrix = np.eye(4)  # columns: index of the last axis (y), the middle one (z), the first (x)
    matrix[:3, :3] = np.array(
        [[0, 0, 0.5 * flip[0]], [0.75 * flip[1], 0, 0], [0, 1.5 * flip[2], 0]]
    )
    turned, spacing = to_lps(CTVolume(hu=hu, patient_from_voxel=matrix))
    np.testing.assert_array_equal(turned, plain.hu)
    assert spacing == pytest.approx((1.5, 0.75, 0.5))
