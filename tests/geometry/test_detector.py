"""The panel: pixel centres, the central ray, and what is refused."""

import math

import pytest
import torch

from drrgen.errors import GeometryError
from drrgen.geometry.detector import MAX_PIXELS, Detector, cut_detector
from drrgen.geometry.frames import transform_points
from drrgen.geometry.pose import make_pose
from drrgen.geometry.rays import find_pixel_centers

EXACT = 1e-9  # float64 and no more than a few operations


def make_panel(**changes: object) -> Detector:
    settings = {"sid_mm": 1800.0, "pitch_mm": 0.5, "rows": 20, "columns": 30, **changes}
    return Detector(**settings)  # type: ignore[arg-type]


def to_camera(panel: Detector, u: float, v: float) -> list[float]:
    point = torch.tensor([u, v, 0.0], dtype=torch.float64)
    return transform_points(panel.camera_from_pixel, point).tolist()


def test_the_central_ray_meets_the_middle_of_the_panel() -> None:
    panel = make_panel()
    assert panel.center_uv == (15.0, 10.0)
    assert to_camera(panel, 15.0, 10.0) == pytest.approx([0.0, 0.0, 1800.0], abs=EXACT)


def test_the_first_pixel_starts_at_the_corner_of_the_panel() -> None:
    assert to_camera(make_panel(), 0.0, 0.0) == pytest.approx([-7.5, -5.0, 1800.0], abs=EXACT)


def test_columns_run_along_x_and_rows_along_y() -> None:
    panel = make_panel()
    assert to_camera(panel, 16.0, 10.0) == pytest.approx([0.5, 0.0, 1800.0], abs=EXACT)
    assert to_camera(panel, 15.0, 11.0) == pytest.approx([0.0, 0.5, 1800.0], abs=EXACT)


def test_the_central_ray_may_be_anywhere_even_at_pixel_zero() -> None:
    panel = make_panel(principal_uv=(0.0, 0.0))
    assert panel.center_uv == (0.0, 0.0)
    assert to_camera(panel, 4.0, 6.0) == pytest.approx([2.0, 3.0, 1800.0], abs=EXACT)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("rows", "columns") for value in (0, -1)),
        *(
            (name, value)
            for name in ("sid_mm", "pitch_mm")
            for value in (0.0, -1.0, math.nan, math.inf)
        ),
    ],
)
def test_a_number_that_is_not_positive_and_finite_is_refused(name: str, value: float) -> None:
    with pytest.raises(GeometryError, match=name):
        make_panel(**{name: value})


def test_an_absurdly_large_panel_is_refused() -> None:
    make_panel(rows=MAX_PIXELS // 2, columns=2)
    with pytest.raises(GeometryError, match="rows x columns"):
        make_panel(rows=MAX_PIXELS // 2 + 1, columns=2)


def test_a_principal_point_that_is_not_finite_is_refused() -> None:
    with pytest.raises(GeometryError, match="principal_uv"):
        make_panel(principal_uv=(math.nan, 3.0))


def test_a_window_of_a_panel_keeps_its_pixels_in_place() -> None:
    whole = Detector(sid_mm=1800, pitch_mm=0.5, rows=60, columns=80, principal_uv=(33.0, 21.0))
    window = cut_detector(whole, slice(10, 30), slice(5, 45))
    pose = make_pose("LL", isocenter_mm=(1, 2, 3), sod_mm=1500, rotation_deg=(3, 5, 7))
    expected = find_pixel_centers(whole, pose)[10:30, 5:45]
    assert torch.allclose(find_pixel_centers(window, pose), expected)
