"""Beer-Lambert, and back."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drrgen.physics.exposure import transmit

FLOAT32 = 1e-6  # relative


def test_air_lets_everything_through() -> None:
    assert transmit(torch.zeros(2, 3)).tolist() == [[1.0] * 3] * 2


def test_a_half_value_layer_lets_half_through() -> None:
    layers = torch.tensor([[1.0, 2.0, 3.0]]) * math.log(2)
    assert transmit(layers).tolist()[0] == pytest.approx([0.5, 0.25, 0.125], rel=FLOAT32)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 12), min_size=1, max_size=8))
def test_the_logarithm_gives_the_line_integral_back(values: list[float]) -> None:
    line_integral = torch.tensor([values], dtype=torch.float64)
    back = -torch.log(transmit(line_integral))
    assert torch.allclose(back, line_integral, atol=1e-12)


def test_a_batch_keeps_its_shape_and_type() -> None:
    transmission = transmit(torch.ones(2, 1, 3, 4))
    assert transmission.shape == (2, 1, 3, 4)
    assert transmission.dtype == torch.float32
