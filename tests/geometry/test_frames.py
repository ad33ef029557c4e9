"""Rotations about fixed axes, in a fixed order, against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drrgen.choices import View
from drrgen.geometry.frames import VIEW_AXES, make_rotation, transform_points

EXACT = 1e-12  # float64 sines and cosines
ANGLE = st.floats(-360, 360)
HALF, ROOT = 0.5, math.sqrt(3) / 2  # sine and cosine of 30 degrees


def turn(angles: tuple[float, float, float], vector: tuple[float, float, float]) -> list[float]:
    rotation = make_rotation(torch.tensor(angles, dtype=torch.float64))
    return (rotation @ torch.tensor(vector, dtype=torch.float64)).tolist()


@pytest.mark.parametrize(
    ("angles", "vector", "expected"),
    [
        ((90, 0, 0), (0, 1, 0), (0, 0, 1)),  # about x: y goes to z
        ((0, 90, 0), (0, 0, 1), (1, 0, 0)),  # about y: z goes to x
        ((0, 0, 90), (1, 0, 0), (0, 1, 0)),  # about z: x goes to y
        ((30, 0, 0), (0, 1, 0), (0, ROOT, HALF)),
        ((0, 30, 0), (0, 0, 1), (HALF, 0, ROOT)),
        ((0, 0, 30), (1, 0, 0), (ROOT, HALF, 0)),
        # Two turns tell the order: x before y takes y to z to x; y first would leave z.
        ((90, 90, 0), (0, 1, 0), (1, 0, 0)),
        # y before z takes z to x to y; z first would leave x.
        ((0, 90, 90), (0, 0, 1), (0, 1, 0)),
        # x before z takes y to z, which stays; z first would give -x.
        ((90, 0, 90), (0, 1, 0), (0, 0, 1)),
        # All three: y to z, to x, to y.
        ((90, 90, 90), (0, 1, 0), (0, 1, 0)),
    ],
)
def test_a_turn_is_right_handed_about_fixed_x_then_y_then_z(
    angles: tuple[float, float, float],
    vector: tuple[float, float, float],
    expected: tuple[float, float, float],
) -> None:
    assert turn(angles, vector) == pytest.approx(expected, abs=EXACT)


@settings(max_examples=30, deadline=None)
@given(ANGLE, ANGLE, ANGLE)
def test_a_turn_never_stretches_or_mirrors(rx: float, ry: float, rz: float) -> None:
    rotation = make_rotation(torch.tensor([rx, ry, rz], dtype=torch.float64)).numpy()
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(3), atol=EXACT)
    assert np.linalg.det(rotation) == pytest.approx(1.0)


def test_a_turn_carries_a_gradient() -> None:
    angles = torch.tensor([10.0, 20.0, 30.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(make_rotation, (angles,))


def test_points_are_turned_and_then_shifted() -> None:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = make_rotation(torch.tensor([0.0, 0.0, 90.0], dtype=torch.float64))
    matrix[:3, 3] = torch.tensor([5.0, 6.0, 7.0])
    points = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 0.0, 2.0]]], dtype=torch.float64)
    expected = torch.tensor([[[5.0, 7.0, 7.0], [5.0, 6.0, 9.0]]], dtype=torch.float64)
    assert torch.allclose(transform_points(matrix, points), expected)


@pytest.mark.parametrize("view", View)
def test_the_axes_of_every_view_are_at_right_angles_and_hang_with_the_head_up(view: View) -> None:
    axes = np.array(VIEW_AXES[view])
    np.testing.assert_array_equal(axes @ axes.T, np.eye(3))
    np.testing.assert_array_equal(axes[1], [0, 0, -1])
