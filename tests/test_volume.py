"""The one form of a CT: what its matrix says, and what it must not be."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from drrgen.errors import GeometryError
from drrgen.phantoms import find_voxel_centers, make_grid
from drrgen.volume import CTVolume, anatomical_letters, check_grid

EXACT_MM = 1e-9  # float64 at some hundred millimetres
SPACING = (0.7, 0.9, 2.5)
SHAPE = (3, 4, 5)
TURN = st.tuples(*[st.floats(-180, 180)] * 3)


def make_volume(turn: tuple[float, float, float] = (0, 0, 0)) -> CTVolume:
    directions = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    grid = make_grid(SHAPE, SPACING, center_mm=(10, -20, 300), directions=directions)
    return CTVolume(hu=np.zeros(SHAPE, np.int16), patient_from_voxel=grid)


@given(turn=TURN)
def test_spacing_is_that_of_the_array_axes_however_the_grid_lies(
    turn: tuple[float, float, float],
) -> None:
    assert make_volume(turn).spacing_zyx_mm == pytest.approx(SPACING[::-1])


@given(turn=TURN)
def test_voxel_to_patient_and_back_changes_nothing(turn: tuple[float, float, float]) -> None:
    volume = make_volume(turn)
    both = volume.voxel_from_patient @ volume.patient_from_voxel
    assert np.allclose(both, np.eye(4), atol=EXACT_MM)


@given(turn=TURN)
def test_the_corners_lie_half_a_voxel_beyond_the_outermost_centres(
    turn: tuple[float, float, float],
) -> None:
    volume = make_volume(turn)
    assert volume.corners_mm.shape == (8, 3)
    assert np.allclose(volume.corners_mm.mean(0), (10, -20, 300), atol=EXACT_MM)
    half = np.array(SPACING) * SHAPE[::-1] / 2
    reach = np.linalg.norm(volume.corners_mm - (10, -20, 300), axis=1)
    assert np.allclose(reach, math.hypot(*half), atol=EXACT_MM)


def test_voxel_centres_are_where_the_matrix_says() -> None:
    volume = make_volume((10, 20, 30))
    centers = find_voxel_centers(SHAPE, volume.patient_from_voxel)
    wanted = (volume.patient_from_voxel @ [4, 2, 1, 1])[:3]
    assert np.allclose(centers[1, 2, 4], wanted, atol=EXACT_MM)


@pytest.mark.parametrize(
    ("columns", "letters"),
    [
        (np.eye(3), "LPS"),
        (np.diag([-1.0, -1.0, 1.0]), "RAS"),
        (np.eye(3)[:, [1, 2, 0]], "PSL"),
        (Rotation.from_euler("z", 40, degrees=True).as_matrix(), "LPS"),
        (Rotation.from_euler("z", 50, degrees=True).as_matrix(), "PRS"),
    ],
)
def test_axes_are_named_by_where_they_run_to(columns: np.ndarray, letters: str) -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = columns * SPACING
    assert anatomical_letters(matrix) == letters
    volume = CTVolume(hu=np.zeros(SHAPE, np.int16), patient_from_voxel=matrix)
    assert volume.orientation == letters


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.__setitem__((0, 3), np.nan), "finite"),
        (lambda m: m.__setitem__((1, 1), np.inf), "finite"),
        (lambda m: m.__setitem__((slice(None), 2), 0.0), "positive"),
        (lambda m: m.__setitem__((1, 2), 0.5), "right angles"),
    ],
)
def test_a_grid_that_is_no_grid_is_refused(change: object, words: str) -> None:
    matrix = make_grid(SHAPE, SPACING)
    change(matrix)  # type: ignore[operator]
    with pytest.raises(GeometryError, match=words):
        check_grid(matrix)


def test_an_array_that_is_not_contiguous_or_empty_is_refused() -> None:
    grid = make_grid(SHAPE, SPACING)
    with pytest.raises(GeometryError, match="contiguous"):
        CTVolume(hu=np.zeros(SHAPE[::-1], np.int16).T, patient_from_voxel=grid)
    with pytest.raises(GeometryError, match="non-empty"):
        CTVolume(hu=np.zeros((3, 0, 5), np.int16), patient_from_voxel=grid)
