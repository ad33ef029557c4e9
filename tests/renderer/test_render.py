import numpy as np
import pytest
import torch

from drrgen.choices import Engine, View
from drrgen.geometry.detector import Detector
from drrgen.geometry.pose import make_pose
from drrgen.phantoms import find_ellipsoid_chords, make_box, make_ellipsoid, make_grid, make_torso
from drrgen.physics.materials import find_mu
from drrgen.renderer.render import render

MU = find_mu("water", 60.0)
PARITY_TOL = 1e-4  # relative to the largest value; float32 sums in another order
SAMPLING_TOL = 0.02  # of the diameter: a soft rim of one 2 mm voxel on 120 mm
PANEL = Detector(sid_mm=1800, pitch_mm=5.0, rows=32, columns=40)


@pytest.mark.parametrize("engine", [Engine.NUMBA, Engine.REFERENCE])
def test_a_slab_is_its_thickness_over_the_cosine(engine: Engine) -> None:
    slab = make_box(size_mm=(400, 100, 400), spacing_mm=4.0, hu=0)
    pose = make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=1600)
    panel = Detector(sid_mm=1800, pitch_mm=10.0, rows=21, columns=21)
    offset = (torch.arange(21) - 10) * 10.0
    along = torch.sqrt(offset[:, None] ** 2 + offset[None] ** 2 + 1800**2)
    expected = MU * 100 * along / 1800
    found = render(slab, panel, [pose], engine=engine)[0, 0]
    assert torch.allclose(found, expected, rtol=PARITY_TOL)


@pytest.mark.parametrize("view", list(View))
@pytest.mark.parametrize("turn", [(0, 0, 0), (5, -10, 45)])
def test_an_ellipsoid_is_its_chord_in_every_view(view: View, turn: tuple[int, int, int]) -> None:
    radii = (60.0, 45.0, 50.0)
    grid = make_grid((80, 80, 80), 2.0)
    volume = make_ellipsoid(grid, (80, 80, 80), radii_mm=radii)
    pose = make_pose(view, isocenter_mm=(0, 0, 0), sod_mm=1600, rotation_deg=turn)
    expected = MU * find_ellipsoid_chords(PANEL, pose, radii_mm=radii)
    error = render(volume, PANEL, [pose])[0, 0] - expected
    assert float(error.square().mean().sqrt()) < SAMPLING_TOL * MU * 120


@pytest.mark.parametrize("view", list(View))
@pytest.mark.parametrize("turn", [(0, 0, 0), (0, 0, 10), (20, 5, 45), (3, 80, 0)])
def test_the_fast_kernel_agrees_with_the_reference(view: View, turn: tuple[int, int, int]) -> None:
    volume = make_torso(spacing_mm=6.0, directions=np.diag([-1.0, 1.0, -1.0]))
    pose = make_pose(view, isocenter_mm=(5, -7, 11), sod_mm=1500, rotation_deg=turn)
    fast = render(volume, PANEL, [pose], engine="numba")
    plain = render(volume, PANEL, [pose], engine="reference")
    assert float((fast - plain).abs().max()) < PARITY_TOL * float(plain.max())
