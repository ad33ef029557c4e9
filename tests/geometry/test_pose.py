"""Where source and panel stand in each view, and after a turn."""

import math

import numpy as np
import pytest
import torch

from drrgen.choices import View
from drrgen.errors import GeometryError
from drrgen.geometry.pose import Pose, make_pose

ISOCENTER = (12.0, -30.0, 85.0)
SOD = 1600.0
EXACT = 1e-9  # float64 at distances of some metres [mm]

# Radiology's words in LPS: where the source stands as seen from the isocenter.
SOURCE_SIDE = {
    "PA": (0, 1, 0),  # behind the back
    "AP": (0, -1, 0),  # before the chest
    "LL": (-1, 0, 0),  # at the right side, so that the left is at the detector
    "RL": (1, 0, 0),  # at the left side
}


def place(view: str, rotation: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> np.ndarray:
    pose = make_pose(view, isocenter_mm=ISOCENTER, sod_mm=SOD, rotation_deg=rotation)
    return pose.source_mm.numpy() - np.array(ISOCENTER)


@pytest.mark.parametrize(("view", "side"), SOURCE_SIDE.items())
def test_the_source_stands_on_the_side_the_beam_enters(
    view: str, side: tuple[int, int, int]
) -> None:
    np.testing.assert_allclose(place(view), SOD * np.array(side), atol=EXACT)


@pytest.mark.parametrize("word", ["LAT", "lat", "LL", "ll"])
def test_lat_is_another_word_for_ll(word: str) -> None:
    pose = make_pose(word, isocenter_mm=ISOCENTER, sod_mm=SOD)
    assert pose.view is View.LL


@pytest.mark.parametrize(
    ("view", "rotation", "side"),
    [
        ("PA", (90.0, 0.0, 0.0), (0, 0, 1)),  # from the back to above the head
        ("PA", (0.0, 90.0, 0.0), (0, 1, 0)),  # about its own axis: it stays
        ("PA", (0.0, 0.0, 90.0), (-1, 0, 0)),  # from the back to the patient's right
        ("PA", (90.0, 90.0, 0.0), (1, 0, 0)),  # back, above, left
        ("LL", (0.0, 90.0, 0.0), (0, 0, 1)),  # from the right to above
        ("AP", (0.0, 0.0, 90.0), (1, 0, 0)),  # from the front to the left
        ("PA", (30.0, 0.0, 0.0), (0, math.sqrt(3) / 2, 0.5)),
        ("PA", (0.0, 0.0, 30.0), (-0.5, math.sqrt(3) / 2, 0)),
    ],
)
def test_a_rotation_carries_the_source_about_the_isocenter(
    view: str, rotation: tuple[float, float, float], side: tuple[float, float, float]
) -> None:
    np.testing.assert_allclose(place(view, rotation), SOD * np.array(side), atol=EXACT)


def test_a_pa_view_turned_a_quarter_about_z_is_the_left_lateral() -> None:
    turned = make_pose("PA", isocenter_mm=ISOCENTER, sod_mm=SOD, rotation_deg=(0.0, 0.0, 90.0))
    lateral = make_pose("LL", isocenter_mm=ISOCENTER, sod_mm=SOD)
    assert torch.allclose(turned.patient_from_camera, lateral.patient_from_camera)
    assert turned.view is View.PA


@pytest.mark.parametrize("view", SOURCE_SIDE)
def test_the_central_ray_passes_the_isocenter_at_sod(view: str) -> None:
    pose = make_pose(view, isocenter_mm=ISOCENTER, sod_mm=SOD, rotation_deg=(11.0, -22.0, 33.0))
    along = pose.source_mm + SOD * pose.patient_from_camera[:3, 2]
    np.testing.assert_allclose(along.numpy(), ISOCENTER, atol=EXACT)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"view": "LPO"}, "view"),
        ({"view": ""}, "view"),
        ({"sod_mm": 0.0}, "sod_mm"),
        ({"sod_mm": -5.0}, "sod_mm"),
        ({"sod_mm": math.nan}, "sod_mm"),
        ({"sod_mm": math.inf}, "sod_mm"),
        ({"isocenter_mm": (0.0, 0.0)}, "isocenter_mm"),
        ({"isocenter_mm": (0.0, 0.0, math.nan)}, "isocenter_mm"),
        ({"rotation_deg": (0.0, math.inf, 0.0)}, "rotation_deg"),
        ({"rotation_deg": (0.0,)}, "rotation_deg"),
    ],
)
def test_an_impossible_pose_is_refused_by_name(changes: dict[str, object], word: str) -> None:
    settings = {"view": "PA", "isocenter_mm": (0.0, 0.0, 0.0), "sod_mm": SOD, **changes}
    with pytest.raises(GeometryError, match=word):
        make_pose(settings.pop("view"), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("fault", ["stretched", "sheared", "not finite"])
def test_a_matrix_that_is_no_pose_is_refused(fault: str) -> None:
    matrix = torch.eye(4, dtype=torch.float64)
    if fault == "stretched":
        matrix[0, 0] = 1.01
    elif fault == "sheared":
        matrix[0, 1] = 0.01
    else:
        matrix[2, 3] = torch.nan
    with pytest.raises(GeometryError, match="pose"):
        Pose(view=View.PA, patient_from_camera=matrix)


def test_isocenter_and_rotation_carry_their_gradient_into_the_pose() -> None:
    isocenter = torch.tensor(ISOCENTER, dtype=torch.float64, requires_grad=True)
    rotation = torch.tensor([5.0, -7.0, 9.0], dtype=torch.float64, requires_grad=True)

    def matrix(where: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
        pose = make_pose("LL", isocenter_mm=where, sod_mm=SOD, rotation_deg=turn)
        return pose.patient_from_camera

    assert torch.autograd.gradcheck(matrix, (isocenter, rotation))
