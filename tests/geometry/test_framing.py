"""What the picture covers. The promise is checked ray by ray, with a ray-box test of its own."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drrgen.choices import Framing
from drrgen.errors import GeometryError
from drrgen.geometry.detector import Detector
from drrgen.geometry.framing import FIXED_SIDE_MM, Box, Frame, find_field, frame_view
from drrgen.geometry.pose import Pose, make_pose
from drrgen.geometry.rays import find_pixel_centers, project_points

VIEWS = ["PA", "AP", "LL", "RL"]
BODY = Box(low_mm=(-180.0, -120.0, -150.0), high_mm=(170.0, 110.0, 160.0))
SID, SOD = 1800.0, 1500.0
TOL_MM = 1e-6  # float64, at distances of some metres
ONE_PIXEL = 1.0  # the exposed field is in whole pixels


def pose_for(view: str, rotation: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Pose:
    return make_pose(view, isocenter_mm=BODY.center_mm, sod_mm=SOD, rotation_deg=rotation)


def frame(pose: Pose, **changes: object) -> Frame:
    return frame_view(BODY, pose, **{"sid_mm": SID, "size": 256, **changes})  # type: ignore[arg-type]


def find_heights_inside(frame: Frame, pose: Pose, row: int) -> np.ndarray:
    """Sample z wherever the rays of a row are inside the body's x and y extent [mm]."""
    centers = find_pixel_centers(frame.detector, pose)[row].numpy()
    left, _, width, _ = frame.exposed_xywh
    source = pose.source_mm.numpy()
    share = np.linspace(0.5, 1, 2001)[:, None, None]
    points = source + share * (centers[left : left + width] - source)
    low, high = np.array(BODY.low_mm[:2]), np.array(BODY.high_mm[:2])
    inside = ((points[..., :2] > low) & (points[..., :2] < high)).all(-1)
    return points[..., 2][inside]


@settings(max_examples=12, deadline=None)
@given(
    view=st.sampled_from(VIEWS),
    turn=st.tuples(st.floats(-8, 8), st.floats(-8, 8), st.floats(-45, 45)),
    size=st.integers(16, 80),
)
def test_every_ray_of_a_collimated_picture_stays_between_the_ends_of_the_ct(
    view: str, turn: tuple[float, float, float], size: int
) -> None:
    pose = pose_for(view, turn)
    framed = frame(pose, size=size)
    _, top, _, height = framed.exposed_xywh
    for row in (top, top + height // 2, top + height - 1):
        heights = find_heights_inside(framed, pose, row)
        assert heights.size > 0
        assert heights.min() >= BODY.low_mm[2] - TOL_MM
        assert heights.max() <= BODY.high_mm[2] + TOL_MM


@pytest.mark.parametrize("view", VIEWS)
def test_a_collimated_picture_wastes_no_row(view: str) -> None:
    """One row further out, some ray would leave the body through its upper or lower end."""
    pose = pose_for(view)
    framed = frame(pose)
    panel = framed.detector
    bigger = Detector(
        sid_mm=SID,
        pitch_mm=panel.pitch_mm,
        rows=panel.rows + 4,
        columns=panel.columns,
        principal_uv=(panel.center_uv[0], panel.center_uv[1] + 2),
    )
    wide = Frame(detector=bigger, exposed_xywh=framed.exposed_xywh)
    assert find_heights_inside(wide, pose, 0).max() > BODY.high_mm[2]
    assert find_heights_inside(wide, pose, bigger.rows - 1).min() < BODY.low_mm[2]


@settings(max_examples=25, deadline=None)
@given(
    view=st.sampled_from(VIEWS),
    turn=st.tuples(*[st.floats(-20, 20)] * 3),
    size=st.integers(16, 2000),
)
def test_the_whole_body_is_shown_from_side_to_side(
    view: str, turn: tuple[float, float, float], size: int
) -> None:
    pose = pose_for(view, turn)
    framed = frame(pose, size=size)
    u = project_points(BODY.corners_mm, framed.detector, pose)[:, 0]
    left, _, width, _ = framed.exposed_xywh
    assert float(u.min()) == pytest.approx(left, abs=ONE_PIXEL)
    assert float(u.max()) == pytest.approx(left + width, abs=ONE_PIXEL)


@settings(max_examples=25, deadline=None)
@given(
    view=st.sampled_from(VIEWS),
    turn=st.tuples(*[st.floats(-30, 30)] * 3),
    size=st.integers(16, 2000),
    framing=st.sampled_from(Framing),
    pitch=st.none() | st.floats(0.3, 3.0),
)
def test_the_exposed_rectangle_lies_inside_the_picture_and_the_long_side_is_the_size(
    view: str,
    turn: tuple[float, float, float],
    size: int,
    framing: Framing,
    pitch: float | None,
) -> None:
    framed = frame(pose_for(view, turn), size=size, framing=framing, pitch_mm=pitch)
    panel = framed.detector
    left, top, width, height = framed.exposed_xywh
    assert max(panel.rows, panel.columns) == size
    assert left >= 0 and top >= 0 and width > 0 and height > 0
    assert left + width <= panel.columns and top + height <= panel.rows


@pytest.mark.parametrize("view", VIEWS)
def test_by_default_the_exposed_field_fills_the_picture_at_an_equal_pitch(view: str) -> None:
    pose = pose_for(view)
    framed = frame(pose, size=1000)
    panel = framed.detector
    assert framed.exposed_xywh == (0, 0, panel.columns, panel.rows)
    left, top, right, bottom = find_field(BODY, pose, sid_mm=SID)
    assert panel.columns * panel.pitch_mm == pytest.approx(right - left, abs=panel.pitch_mm)
    assert panel.rows * panel.pitch_mm == pytest.approx(bottom - top, abs=panel.pitch_mm)


def test_the_field_of_a_pa_view_is_what_similar_triangles_say() -> None:
    """Sides at the back, nearest the source, show widest; ends at the chest, farthest, show least."""
    half_width, half_depth, half_height = 175.0, 115.0, 155.0  # about the middle of the box
    side = half_width * SID / (SOD - half_depth)
    end = half_height * SID / (SOD + half_depth)
    field = find_field(BODY, pose_for("PA"), sid_mm=SID)
    assert field == pytest.approx((-side, -end, side, end), abs=TOL_MM)


def test_a_source_above_the_body_keeps_both_ends_inside() -> None:
    pose = make_pose("PA", isocenter_mm=(0.0, 0.0, 400.0), sod_mm=SOD)
    framed = frame(pose, size=64)
    for row in (0, framed.detector.rows - 1):
        heights = find_heights_inside(framed, pose, row)
        assert BODY.low_mm[2] - TOL_MM <= heights.min()
        assert heights.max() <= BODY.high_mm[2] + TOL_MM


def test_a_beam_from_above_the_head_takes_in_everything() -> None:
    pose = pose_for("PA", (90.0, 0.0, 0.0))
    field = find_field(BODY, pose, sid_mm=SID)
    unit = Detector(sid_mm=SID, pitch_mm=1.0, rows=1, columns=1, principal_uv=(0.0, 0.0))
    corners = project_points(BODY.corners_mm, unit, pose)
    expected = torch.cat([corners.min(0).values, corners.max(0).values]).tolist()
    assert field == pytest.approx(expected)


def test_a_fixed_detector_is_a_square_of_430_mm_around_the_central_ray() -> None:
    assert FIXED_SIDE_MM == 430.0
    framed = frame(pose_for("PA"), size=512, framing=Framing.FIXED)
    panel = framed.detector
    assert (panel.rows, panel.columns) == (512, 512)
    assert panel.pitch_mm == pytest.approx(430.0 / 512)
    assert panel.center_uv == (256.0, 256.0)
    left, top, width, height = framed.exposed_xywh
    # The body is wider than long: the field is open from side to side, and shut above and below.
    side, end = 175.0 * SID / (SOD - 115.0), 155.0 * SID / (SOD + 115.0)
    for (low, length), half in (((left, width), side), ((top, height), end)):
        assert low == max(0, round(256 - half / panel.pitch_mm))
        assert low + length == min(512, round(256 + half / panel.pitch_mm))


def test_a_fixed_detector_crops_a_body_that_is_too_wide() -> None:
    wide = Box(low_mm=(-400.0, -100.0, -400.0), high_mm=(400.0, 100.0, 400.0))
    pose = make_pose("PA", isocenter_mm=wide.center_mm, sod_mm=SOD)
    framed = frame_view(wide, pose, sid_mm=SID, size=100, framing=Framing.FIXED)
    assert framed.exposed_xywh == (0, 0, 100, 100)


@pytest.mark.parametrize("framing", Framing)
def test_a_given_pitch_is_kept(framing: Framing) -> None:
    framed = frame(pose_for("LL"), framing=framing, pitch_mm=0.7)
    assert framed.detector.pitch_mm == 0.7


def test_a_coarse_pitch_leaves_a_border_that_is_not_exposed() -> None:
    pose = pose_for("PA")
    filled = frame(pose, size=256)
    coarse = frame(pose, size=256, pitch_mm=2 * filled.detector.pitch_mm)
    _, _, width, height = coarse.exposed_xywh
    assert width == pytest.approx(filled.detector.columns / 2, abs=ONE_PIXEL)
    assert height == pytest.approx(filled.detector.rows / 2, abs=ONE_PIXEL)


@pytest.mark.parametrize("framing", Framing)
@pytest.mark.parametrize(
    "changes", [{"pitch_mm": 0.0}, {"pitch_mm": -1.0}, {"pitch_mm": math.nan}, {"size": 0}]
)
def test_a_pitch_or_size_that_is_not_positive_is_refused(
    framing: Framing, changes: dict[str, float]
) -> None:
    with pytest.raises(GeometryError, match=next(iter(changes))):
        frame(pose_for("PA"), framing=framing, **changes)


def test_a_body_that_reaches_behind_the_detector_is_refused() -> None:
    with pytest.raises(GeometryError, match="behind the detector"):
        frame(pose_for("PA"), sid_mm=SOD + 100.0)  # the chest lies 115 mm beyond the isocenter


def test_a_body_that_reaches_behind_the_source_is_refused() -> None:
    pose = make_pose("PA", isocenter_mm=BODY.center_mm, sod_mm=100.0)
    with pytest.raises(GeometryError, match="source"):
        frame(pose)


def test_a_body_that_projects_beside_a_fixed_detector_is_refused() -> None:
    pose = make_pose("PA", isocenter_mm=(900.0, 0.0, 0.0), sod_mm=SOD)
    with pytest.raises(GeometryError, match="beside the detector"):
        frame(pose, framing=Framing.FIXED)


def test_a_box_knows_its_middle_and_its_corners() -> None:
    assert BODY.center_mm == (-5.0, -5.0, 5.0)
    corners = {tuple(corner) for corner in BODY.corners_mm.tolist()}
    assert len(corners) == 8
    assert (-180.0, 110.0, -150.0) in corners
