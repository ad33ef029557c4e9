"""The look: what is black, what is white, and what the same patient keeps from picture to picture."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from drrgen.choices import Display
from drrgen.errors import PhysicsError
from drrgen.physics.display import BODY_LINE_INTEGRAL, LINEAR_WHITE, to_radiograph

FLOAT32 = 1e-6
GREY_TOL = 0.01  # the quantile of a grid of pixels is not one of its pixels
SCALE_TOL = 1e-4  # float32 through blurs and a sigmoid
DISPLAYS = ["chest", "linear"]

pictures = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    elements=st.floats(0, 20, width=32),
)


def make_chest(scale: float = 1.0) -> torch.Tensor:
    """Two lungs, a mediastinum and some ribs, in a body with air around it."""
    v, u = torch.meshgrid(torch.linspace(-1, 1, 120), torch.linspace(-1, 1, 100), indexing="ij")
    body = ((u / 0.85) ** 2 + (v / 0.95) ** 2 < 1).float()
    lungs = (((u.abs() - 0.4) / 0.25) ** 2 + (v / 0.6) ** 2 < 1).float()
    ribs = (torch.sin(20 * v) > 0.6).float() * 0.4
    return scale * body * (5.0 - 3.2 * lungs + ribs + 0.5 * v)


@pytest.mark.parametrize("display", DISPLAYS)
def test_air_is_black(display: str) -> None:
    assert (to_radiograph(torch.zeros(9, 7), display=display) == 0).all()
    chest = make_chest()
    assert (to_radiograph(chest, display=display)[chest == 0] == 0).all()


def test_a_field_with_no_body_in_it_is_black() -> None:
    thin = torch.full((8, 8), BODY_LINE_INTEGRAL)
    assert (to_radiograph(thin) == 0).all()


def test_linear_is_in_proportion_up_to_white() -> None:
    values = torch.tensor([[-1.0, 0.0, 3.0, 6.0, LINEAR_WHITE, 100.0]])
    found = to_radiograph(values, display=Display.LINEAR)
    assert found.tolist()[0] == pytest.approx([0, 0, 0.25, 0.5, 1, 1], abs=FLOAT32)


@given(values=pictures)
def test_linear_never_makes_the_denser_darker(values: np.ndarray) -> None:
    grey = to_radiograph(torch.from_numpy(values), display="linear").numpy()
    order = np.argsort(values, axis=None)
    assert (np.diff(grey.ravel()[order]) >= 0).all()


@given(values=pictures)
def test_any_picture_becomes_grey_between_0_and_1_of_its_own_size(values: np.ndarray) -> None:
    for display in DISPLAYS:
        grey = to_radiograph(torch.from_numpy(values), display=display)
        assert grey.shape == values.shape
        assert grey.dtype == torch.float32
        assert float(grey.min()) >= 0 and float(grey.max()) <= 1


def test_the_chest_look_pins_the_12th_and_97th_percentile_of_the_body() -> None:
    chest = make_chest()
    inside = to_radiograph(chest)[chest > BODY_LINE_INTEGRAL]
    low, high = torch.quantile(inside, torch.tensor([0.12, 0.97])).tolist()
    assert low == pytest.approx(0.18, abs=GREY_TOL)
    assert high == pytest.approx(0.90, abs=GREY_TOL)


@pytest.mark.parametrize("scale", [0.7, 1.3, 2.0])
def test_a_thicker_patient_looks_the_same(scale: float) -> None:
    """Where the whole body stays body, a factor on all line integrals is only exposure."""
    plain, scaled = to_radiograph(make_chest()), to_radiograph(make_chest(scale))
    assert torch.allclose(plain, scaled, atol=SCALE_TOL)


def test_lungs_are_darker_than_the_mediastinum_and_ribs_lighter_than_the_lung_between() -> None:
    grey = to_radiograph(make_chest())
    assert float(grey[60, 30]) < float(grey[60, 50])
    v = torch.linspace(-1, 1, 120)
    rib = torch.sin(20 * v) > 0.6
    column, middle = grey[:, 30], v.abs() < 0.4
    assert float(column[rib & middle].mean()) > float(column[~rib & middle].mean()) + 0.05


def test_a_body_of_one_thickness_is_mid_grey() -> None:
    body = torch.zeros(20, 20)
    body[5:15, 5:15] = 4.0
    flat = to_radiograph(torch.full((20, 20), 4.0))
    assert torch.allclose(flat, torch.full((20, 20), 0.5), atol=SCALE_TOL)
    grey = to_radiograph(body)
    assert (grey[body == 0] == 0).all()
    assert (grey[7:13, 7:13] > 0).all()


@pytest.mark.parametrize("display", DISPLAYS)
def test_outside_the_collimator_it_is_black_whatever_is_there(display: str) -> None:
    chest = make_chest()
    grey = to_radiograph(chest, display=display, exposed_xywh=(20, 30, 50, 60))
    outside = torch.ones_like(chest, dtype=torch.bool)
    outside[30:90, 20:70] = False
    assert (grey[outside] == 0).all()
    alone = to_radiograph(chest[30:90, 20:70].clone(), display=display)
    assert torch.equal(grey[30:90, 20:70], alone)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_line_integral_that_is_not_finite_is_refused(value: float) -> None:
    broken = make_chest()
    broken[3, 4] = value
    with pytest.raises(PhysicsError, match="finite"):
        to_radiograph(broken)


def test_an_unknown_display_and_an_empty_field_are_refused() -> None:
    with pytest.raises(PhysicsError, match="chest or linear, got 'bone'"):
        to_radiograph(make_chest(), display="bone")
    for exposed in ((0, 0, 0, 5), (200, 0, 5, 5)):
        with pytest.raises(PhysicsError, match="empty"):
            to_radiograph(make_chest(), exposed_xywh=exposed)


def test_the_input_is_left_as_it_was() -> None:
    chest = make_chest()
    copy = chest.clone()
    for display in DISPLAYS:
        to_radiograph(chest, display=display)
    assert torch.equal(chest, copy)
