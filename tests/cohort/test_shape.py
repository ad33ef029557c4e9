from dataclasses import replace

import numpy as np
import pytest
import torch

from drrgen.cohort.base import Base
from drrgen.cohort.canvas import make_canvas
from drrgen.cohort.scan import measure_cardiothoracic_ratio
from drrgen.cohort.shape import (
    Pull,
    Shape,
    deform,
    draw_follow_up,
    draw_shape,
    exponentiate,
    find_jacobian,
    make_sampling,
    make_velocity,
    sample,
)

ROUND_TRIP_MM = 0.35  # trilinear, nodes of 8 mm, 6 squarings
PLAIN = Shape()


def draw(seed: int) -> Shape:
    chance = np.random.default_rng(seed)
    shape = draw_shape(chance, female=seed % 2 == 0, hyperinflated=seed % 3 == 0)
    return replace(shape, heart=0.34 if seed % 4 == 0 else shape.heart)


def test_the_plain_shape_is_the_real_ct(base: Base) -> None:
    canvas = make_canvas(base, PLAIN, contrast=True, anchors={})
    np.testing.assert_allclose(canvas.hu, base.hu, atol=0.5)
    np.testing.assert_array_equal(canvas.labels, base.labels)


@pytest.mark.parametrize("seed", range(6))
def test_no_shape_folds(base: Base, seed: int) -> None:
    deformation = deform(base, draw(seed))
    sampling = make_sampling(deformation, base)
    half = [n * s / 2 for n, s in zip(base.grid.shape, base.grid.spacing_mm, strict=True)]
    inner = sampling[2:-2, ::2, ::2].flip(-1).permute(3, 0, 1, 2)
    mm = inner * torch.tensor(half)[:, None, None, None]
    steps = [s * k for s, k in zip(deformation.grid.spacing_mm, (1, 2, 2), strict=True)]
    rows = torch.gradient(mm, spacing=steps, dim=(1, 2, 3))
    jacobian = torch.linalg.det(torch.stack(rows, dim=1).permute(2, 3, 4, 0, 1))
    assert float(jacobian[2:-2].min()) > 0


@pytest.mark.parametrize("seed", [1, 4])
def test_there_and_back_is_where_one_was(base: Base, seed: int) -> None:
    deformation = deform(base, draw(seed))
    for name in ("heart", "carina", "pocket_left", "dome"):
        point = base.landmarks[name]
        back = deformation.find_in_base(deformation.find_in_patient(point))
        assert back == pytest.approx(point, abs=ROUND_TRIP_MM)


def test_a_constant_velocity_moves_everything_alike(base: Base) -> None:
    nodes = deform(base, PLAIN).nodes
    velocity = torch.zeros((3, *nodes.shape))
    velocity[1] = 5.0
    moved = exponentiate(velocity, nodes)
    assert torch.allclose(moved[1], torch.full(nodes.shape, 5.0), atol=1e-4)
    assert torch.allclose(find_jacobian(moved, nodes), torch.ones(nodes.shape), atol=1e-4)


def test_a_pull_scales_by_the_exponential_of_its_rate(base: Base) -> None:
    nodes = deform(base, PLAIN).nodes
    pull = Pull(center_mm=nodes.center_mm, reach_mm=1000.0, rate=0.2)
    still = replace(PLAIN, pulls=(pull,))
    z, y, x = nodes.axes_mm()
    moved = exponentiate(make_velocity(base, still, nodes), nodes)
    middle = tuple(n // 2 for n in nodes.shape)
    growth = find_jacobian(moved, nodes)[middle]
    assert float(growth) == pytest.approx(np.exp(3 * 0.2), rel=0.05)
    del z, y, x


def test_a_large_heart_measures_large(base: Base) -> None:
    ratios = [
        measure_cardiothoracic_ratio(
            make_canvas(base, replace(PLAIN, heart=rate), contrast=False, anchors={})
        )
        for rate in (-0.3, 0.0, 0.3)
    ]
    assert ratios == sorted(ratios)
    assert ratios[2] > ratios[0] + 0.1


def test_a_larger_patient_fits_into_his_field_of_view(base: Base) -> None:
    shape = replace(PLAIN, scale=(1.0, 1.2, 1.15), fat_mm=20.0)
    canvas = make_canvas(base, shape, contrast=False, anchors={})
    rim = canvas.hu[55:85, [0, 1, -2, -1]]
    assert rim.max() < -900
    _, y, x = canvas.grid.spacing_mm
    assert x == pytest.approx(y)
    assert y > base.grid.spacing_mm[1] * 1.15


def test_at_follow_up_the_patient_is_the_same_but_for_his_breath() -> None:
    shape = draw(1)
    later = draw_follow_up(shape, np.random.default_rng(0))
    assert replace(later, breath_mm=shape.breath_mm) == shape


def test_beyond_the_real_ct_is_air(base: Base) -> None:
    sampling = torch.full((1, 1, 1, 3), 3.0)
    assert float(sample(torch.ones(base.grid.shape), sampling)) == 0
