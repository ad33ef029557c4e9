import numpy as np
import pytest
import torch
from torch.nn import functional

from drrgen.choices import View
from drrgen.phantoms import make_box, make_torso
from drrgen.renderer.mean_projection import project_mean

SUM_TOL_HU = 1e-2  # float32 sums of a thousand HU in another order


def test_the_mean_is_that_of_the_published_recipe() -> None:
    volume = make_torso(spacing_mm=3.3)
    clipped = torch.from_numpy(volume.hu).float().clamp(-1000, 1000)[None, None]
    size = [int(n * mm) for n, mm in zip(volume.hu.shape, volume.spacing_zyx_mm, strict=True)]
    resampled = functional.interpolate(clipped, size=size, mode="trilinear", align_corners=False)
    expected = resampled[0, 0].mean(dim=1).flip(0)  # row 0 cranial, column 0 the patient's right
    found = project_mean(volume, View.PA)
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) < SUM_TOL_HU


@pytest.mark.parametrize("view", list(View))
@pytest.mark.parametrize("order", [(2, 0, 1), (1, 2, 0)])
def test_how_the_ct_is_stored_changes_nothing(view: View, order: tuple[int, ...]) -> None:
    directions = np.diag([-1.0, 1.0, -1.0])[:, order]
    plain = project_mean(make_torso(spacing_mm=4.0), view)
    stored = project_mean(make_torso(spacing_mm=4.0, directions=directions), view)
    assert float((plain - stored).abs().max()) < SUM_TOL_HU


@pytest.mark.parametrize(
    ("view", "right"),
    [(View.PA, True), (View.AP, True), (View.LL, True), (View.RL, False)],
)
def test_a_voxel_that_is_left_posterior_and_cranial_hangs_where_it_belongs(
    view: View, right: bool
) -> None:
    volume = make_box((40, 40, 40), 4.0, hu=-1000)
    volume.hu[8, 8, 8] = 1000
    row, column = divmod(int(project_mean(volume, view).argmax()), 40)
    assert row < 20
    assert (column > 20) is right
