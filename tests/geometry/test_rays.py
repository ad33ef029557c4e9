"""Beads: where a point of the patient appears on the picture as it hangs.

The expected places come from the similar triangles of a point source, worked out here per view in
the words of radiology, and from nothing in the package.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drrgen.choices import View
from drrgen.errors import GeometryError
from drrgen.geometry.detector import Detector
from drrgen.geometry.frames import make_rotation
from drrgen.geometry.pose import Pose, make_pose
from drrgen.geometry.rays import find_pixel_centers, project_points

VIEWS = ["PA", "AP", "LL", "RL"]
SOD, SID, PITCH = 1600.0, 1800.0, 0.4
ISOCENTER = (15.0, -25.0, 140.0)
PANEL = Detector(sid_mm=SID, pitch_mm=PITCH, rows=500, columns=400)
EXACT_PX = 1e-6  # float64, at distances of some metres

# Offset from the isocenter (left, posterior, cranial) -> (to the viewer's right, down, distance
# from the source) [mm].
Triangle = Callable[[float, float, float], tuple[float, float, float]]
TRIANGLES: dict[str, Triangle] = {
    "PA": lambda left, back, up: (left, -up, SOD - back),
    "AP": lambda left, back, up: (left, -up, SOD + back),
    "LL": lambda left, back, up: (back, -up, SOD + left),
    "RL": lambda left, back, up: (-back, -up, SOD - left),
}


def see(view: str, left: float, back: float, up: float) -> list[float]:
    pose = make_pose(view, isocenter_mm=ISOCENTER, sod_mm=SOD)
    point = torch.tensor(ISOCENTER, dtype=torch.float64) + torch.tensor(
        [left, back, up], dtype=torch.float64
    )
    return project_points(point, PANEL, pose).tolist()


@pytest.mark.parametrize("view", VIEWS)
def test_the_isocenter_appears_in_the_middle(view: str) -> None:
    assert see(view, 0, 0, 0) == pytest.approx([200, 250], abs=EXACT_PX)


@pytest.mark.parametrize("view", VIEWS)
def test_what_is_cranial_appears_above(view: str) -> None:
    assert see(view, 0, 0, 40)[1] < 250 < see(view, 0, 0, -40)[1]


@pytest.mark.parametrize("view", ["PA", "AP"])
def test_the_patients_left_appears_on_the_viewers_right_in_pa_and_ap(view: str) -> None:
    assert see(view, 40, 0, 0)[0] > 200 > see(view, -40, 0, 0)[0]


def test_the_spine_appears_on_the_right_in_ll_and_on_the_left_in_rl() -> None:
    assert see("LL", 0, 40, 0)[0] > 200 > see("LL", 0, -40, 0)[0]
    assert see("RL", 0, 40, 0)[0] < 200 < see("RL", 0, -40, 0)[0]


@pytest.mark.parametrize(
    ("view", "nearer_the_detector", "nearer_the_source"),
    [
        ("PA", (0, -80, 50), (0, 80, 50)),  # the chest is at the detector
        ("AP", (0, 80, 50), (0, -80, 50)),  # the back is at the detector
        ("LL", (80, 0, 50), (-80, 0, 50)),  # the left side is at the detector
        ("RL", (-80, 0, 50), (80, 0, 50)),
    ],
)
def test_what_is_nearer_the_source_is_magnified_more(
    view: str, nearer_the_detector: tuple[float, ...], nearer_the_source: tuple[float, ...]
) -> None:
    near = 250 - see(view, *nearer_the_detector)[1]
    far = 250 - see(view, *nearer_the_source)[1]
    assert near == pytest.approx(50 * SID / (SOD + 80) / PITCH, abs=EXACT_PX)
    assert far == pytest.approx(50 * SID / (SOD - 80) / PITCH, abs=EXACT_PX)


@pytest.mark.parametrize("view", VIEWS)
@settings(max_examples=25, deadline=None)
@given(left=st.floats(-200, 200), back=st.floats(-150, 150), up=st.floats(-200, 200))
def test_a_bead_appears_where_similar_triangles_say(
    view: str, left: float, back: float, up: float
) -> None:
    right, down, depth = TRIANGLES[view](left, back, up)
    expected = (200 + right * SID / depth / PITCH, 250 + down * SID / depth / PITCH)
    assert see(view, left, back, up) == pytest.approx(expected, abs=EXACT_PX)


def test_the_ray_of_a_pixel_ends_at_its_centre_half_a_pixel_inside() -> None:
    pose = make_pose("PA", isocenter_mm=(0.0, 0.0, 0.0), sod_mm=SOD)
    panel = Detector(sid_mm=SID, pitch_mm=2.0, rows=3, columns=5)
    centers = find_pixel_centers(panel, pose)
    assert centers.shape == (3, 5, 3)
    # PA: the panel stands 200 mm before the isocenter; u to the left, v down.
    expected = [(0.5 - 2.5) * 2.0, SOD - SID, -(0.5 - 1.5) * 2.0]
    assert centers[0, 0].tolist() == pytest.approx(expected, abs=EXACT_PX)
    assert centers[1, 2].tolist() == pytest.approx([0, SOD - SID, 0], abs=EXACT_PX)


@settings(max_examples=25, deadline=None)
@given(
    view=st.sampled_from(VIEWS),
    turn=st.tuples(*[st.floats(-180, 180)] * 3),
    principal=st.tuples(st.floats(-50, 50), st.floats(-50, 50)),
)
def test_projecting_the_centres_of_pixels_gives_their_coordinates_back(
    view: str, turn: tuple[float, float, float], principal: tuple[float, float]
) -> None:
    pose = make_pose(view, isocenter_mm=ISOCENTER, sod_mm=SOD, rotation_deg=turn)
    panel = Detector(sid_mm=SID, pitch_mm=1.5, rows=4, columns=6, principal_uv=principal)
    pixels = project_points(find_pixel_centers(panel, pose), panel, pose)
    u, v = np.meshgrid(np.arange(6) + 0.5, np.arange(4) + 0.5)
    np.testing.assert_allclose(pixels.numpy(), np.stack([u, v], -1), atol=EXACT_PX)


@settings(max_examples=25, deadline=None)
@given(
    view=st.sampled_from(VIEWS),
    turn=st.tuples(*[st.floats(-180, 180)] * 3),
    shift=st.tuples(*[st.floats(-500, 500)] * 3),
)
def test_moving_patient_and_camera_together_changes_nothing(
    view: str, turn: tuple[float, float, float], shift: tuple[float, float, float]
) -> None:
    move = torch.eye(4, dtype=torch.float64)
    move[:3, :3] = make_rotation(torch.tensor(turn, dtype=torch.float64))
    move[:3, 3] = torch.tensor(shift, dtype=torch.float64)
    pose = make_pose(view, isocenter_mm=ISOCENTER, sod_mm=SOD)
    moved = Pose(view=pose.view, patient_from_camera=move @ pose.patient_from_camera)
    points = torch.tensor([[0.0, 0.0, 0.0], [90.0, -60.0, 200.0]], dtype=torch.float64)
    moved_points = points @ move[:3, :3].T + move[:3, 3]
    before, after = project_points(points, PANEL, pose), project_points(moved_points, PANEL, moved)
    assert torch.allclose(before, after, atol=EXACT_PX)


def test_turning_the_assembly_one_way_is_turning_the_patient_the_other() -> None:
    turned = make_pose(
        "PA", isocenter_mm=(0.0, 0.0, 0.0), sod_mm=SOD, rotation_deg=(0.0, 0.0, 20.0)
    )
    upright = make_pose("PA", isocenter_mm=(0.0, 0.0, 0.0), sod_mm=SOD)
    bead = torch.tensor([50.0, -30.0, 10.0], dtype=torch.float64)
    angle = math.radians(-20)  # about z, right-handed
    x = math.cos(angle) * 50 - math.sin(angle) * -30
    y = math.sin(angle) * 50 + math.cos(angle) * -30
    patient_turned = torch.tensor([x, y, 10.0], dtype=torch.float64)
    seen = project_points(bead, PANEL, turned).tolist()
    assert seen == pytest.approx(project_points(patient_turned, PANEL, upright).tolist())


@pytest.mark.parametrize("view", View)
def test_a_point_at_or_behind_the_source_is_refused(view: View) -> None:
    pose = make_pose(view, isocenter_mm=(0.0, 0.0, 0.0), sod_mm=100.0)
    beam = pose.patient_from_camera[:3, 2]
    for depth in (0.0, -1.0):
        with pytest.raises(GeometryError, match="source"):
            project_points(pose.source_mm + depth * beam, PANEL, pose)
