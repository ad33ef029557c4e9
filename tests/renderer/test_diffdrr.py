import numpy as np
import pytest
import torch
from torch import Tensor

from drrgen.choices import View
from drrgen.geometry.detector import Detector
from drrgen.geometry.pose import Pose, make_pose
from drrgen.phantoms import make_box, make_torso
from drrgen.physics.materials import Basis, find_mu
from drrgen.renderer.render import render
from drrgen.volume import CTVolume

MU = find_mu("water", 60.0)
# Root mean square, relative to the largest value. Siddon takes a voxel for a block where Joseph
# blends between centres, so they differ at edges, in proportion to the voxel: 0.019 at 10 mm, 0.011
# at 5 mm, 0.005 at 2.5 mm. Shifting the picture by a quarter of a pixel makes 0.026 or more.
BLOCK_TOL = 0.015
FLOAT32_TOL = 2e-4  # relative: it orders crossings of up to 2000 mm in float32
# Off centre, not square, and an odd number of rows: a mistaken sign or half pixel would show.
PANEL = Detector(sid_mm=1800, pitch_mm=12.0, rows=23, columns=34, principal_uv=(15.0, 12.5))


def compare(volume: CTVolume, pose: Pose, panel: Detector = PANEL) -> tuple[Tensor, Tensor]:
    theirs = render(volume, panel, [pose], engine="diffdrr", device="cpu")[0, 0]
    ours = render(volume, panel, [pose], engine="reference", device="cpu")[0, 0]
    return theirs, ours


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean().sqrt() / b.max())


@pytest.mark.parametrize("view", list(View))
@pytest.mark.parametrize("turn", [(0, 0, 0), (12, -9, 25)])
def test_their_picture_is_ours(view: View, turn: tuple[int, int, int]) -> None:
    volume = make_torso(spacing_mm=5.0, directions=np.diag([-1.0, 1.0, -1.0]))
    pose = make_pose(view, isocenter_mm=(5, -7, 11), sod_mm=1500, rotation_deg=turn)
    theirs, ours = compare(volume, pose)
    assert difference(theirs, ours) < BLOCK_TOL
    for wrong in (ours.flip(0), ours.flip(1), ours.roll(1, 0), ours.roll(1, 1)):
        assert difference(theirs, wrong) > 4 * BLOCK_TOL


def test_a_slab_is_its_thickness_over_the_cosine() -> None:
    slab = make_box(size_mm=(400, 100, 400), spacing_mm=10.0, hu=0)
    theirs, ours = compare(slab, make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=1600))
    assert torch.allclose(theirs, ours, rtol=FLOAT32_TOL)


def test_a_panel_in_patches_gives_the_same_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    from drrgen.renderer import _diffdrr

    volume = make_torso(spacing_mm=20.0)
    pose = make_pose("LL", isocenter_mm=(0, 0, 0), sod_mm=1600)
    whole, _ = compare(volume, pose)
    monkeypatch.setattr(_diffdrr, "CROSSINGS_AT_ONCE", 10_000)
    parts, _ = compare(volume, pose)
    assert torch.allclose(parts, whole)


def test_only_what_lies_between_source_and_panel_counts() -> None:
    box = make_box(size_mm=(200, 200, 200), spacing_mm=10.0, hu=0)
    panel = Detector(sid_mm=120, pitch_mm=0.01, rows=1, columns=1)
    pose = make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=60)
    theirs, ours = compare(box, pose, panel)
    assert ours.item() == pytest.approx(MU * 120)
    assert theirs.item() == pytest.approx(MU * 120, rel=1e-3)


def test_rays_that_miss_are_zero() -> None:
    box = make_box(size_mm=(100, 100, 100), spacing_mm=10.0, hu=0)
    theirs, _ = compare(box, make_pose("PA", isocenter_mm=(900, 0, 0), sod_mm=1600))
    assert float(theirs.abs().max()) == 0


@pytest.mark.parametrize("size", [(10, 10, 10), (10, 200, 300), (300, 10, 200), (300, 200, 10)])
def test_a_single_voxel_or_slice_is_rendered(size: tuple[int, int, int]) -> None:
    box = make_box(size_mm=size, spacing_mm=10.0, hu=0)
    panel = Detector(sid_mm=1800, pitch_mm=0.1, rows=2, columns=2)
    theirs, ours = compare(box, make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=1600), panel)
    assert torch.allclose(theirs, ours, rtol=1e-3)


def test_a_batch_of_materials_is_its_elements() -> None:
    volume = make_torso(spacing_mm=20.0)
    basis = Basis(
        names=("soft", "bone"),
        knots_hu=np.array([-1000.0, 0.0, 1000.0]),
        amounts=np.array([[0.0, 1.0, 0.5], [0.0, 0.0, 1.0]]),
    )
    poses = [make_pose(v, isocenter_mm=(0, 0, 0), sod_mm=1600) for v in ("PA", "LL")]
    batch = render(volume, PANEL, poses, basis=basis, engine="diffdrr", device="cpu")
    assert batch.shape == (2, 2, PANEL.rows, PANEL.columns)
    bone = Basis(names=("bone",), knots_hu=basis.knots_hu, amounts=basis.amounts[1:])
    single = render(volume, PANEL, poses[1:], basis=bone, engine="diffdrr", device="cpu")
    assert torch.equal(batch[1, 1], single[0, 0])


def test_its_gradient_in_the_pose_is_that_of_the_reference() -> None:
    volume = make_torso(spacing_mm=10.0)
    gradients = []
    for engine in ("diffdrr", "reference"):
        shift = torch.tensor([3.0, 0.0, -4.0], dtype=torch.float64, requires_grad=True)
        pose = make_pose("PA", isocenter_mm=shift, sod_mm=1600, rotation_deg=(3, 2, 10))
        image = render(volume, PANEL, [pose], engine=engine, device="cpu")
        image.square().mean().backward()
        assert shift.grad is not None
        gradients.append(shift.grad)
    assert torch.cosine_similarity(*gradients, dim=0) > 0.95
