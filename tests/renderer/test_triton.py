"""The CUDA kernel: on a card where there is one, else in Triton's interpreter on the CPU."""

import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import Tensor

from drrgen.choices import View
from drrgen.errors import EngineError
from drrgen.geometry.detector import Detector
from drrgen.geometry.pose import Pose, make_pose
from drrgen.phantoms import make_box, make_grid, make_torso
from drrgen.physics.materials import Basis, make_attenuation_basis
from drrgen.renderer._reference import render_reference
from drrgen.volume import CTVolume

if find_spec("triton") is None:
    pytest.skip("triton is not installed: pip install triton", allow_module_level=True)
HAS_CUDA = torch.cuda.is_available()
if not HAS_CUDA:
    os.environ["TRITON_INTERPRET"] = "1"  # before the kernel is imported

from drrgen.renderer import _triton  # noqa: E402  only where triton is installed
from drrgen.renderer._triton import render_triton  # noqa: E402

PARITY_TOL = 1e-4  # relative to the largest value: positions in float32
SLAB_TOL = 1e-6  # relative to the largest value: the same samples, added in another order
DEVICE = torch.device("cuda" if HAS_CUDA else "cpu")
CPU = torch.device("cpu")
PANEL = Detector(sid_mm=1800, pitch_mm=16.0, rows=20, columns=26)
BASIS = make_attenuation_basis(60.0)
BONE_AND_SOFT = Basis(
    names=("soft", "bone", "anything"),
    knots_hu=np.array([-1000.0, 0.0, 200.0, 1500.0]),
    amounts=np.array([[0.0, 0.1, 0.1, 0.0], [0.0, 0.0, 0.05, 0.4], [1.0, 1.0, 1.0, 1.0]]),
)

TURNS = [(0, 0, 0), (5, -10, 12), (20, 5, 45), (3, 80, 0)]


def fast(volume: CTVolume, poses: list[Pose], panel: Detector = PANEL, **options: object) -> Tensor:
    basis = options.pop("basis", BASIS)
    return render_triton(volume, panel, poses, basis, DEVICE, **options).cpu()  # type: ignore[arg-type]


def check_parity(
    volume: CTVolume, poses: list[Pose], panel: Detector = PANEL, basis: Basis = BASIS
) -> None:
    plain = render_reference(volume, panel, poses, basis, CPU)
    error = (fast(volume, poses, panel, basis=basis) - plain).abs().amax(dim=(0, 2, 3))
    assert bool((error <= PARITY_TOL * plain.amax(dim=(0, 2, 3))).all())


@pytest.fixture(autouse=True)
def large_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter works a tile at a time, so it is fast where tiles are few."""
    if not HAS_CUDA:
        monkeypatch.setattr(_triton, "TILE_ROWS", 32)
        monkeypatch.setattr(_triton, "TILE_COLUMNS", 32)


def test_a_panel_may_end_within_a_tile(torso: CTVolume, monkeypatch: pytest.MonkeyPatch) -> None:
    pose = make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=1600, rotation_deg=(5, 5, 20))
    one = fast(torso, [pose])
    monkeypatch.setattr(_triton, "TILE_ROWS", 8)
    monkeypatch.setattr(_triton, "TILE_COLUMNS", 16)
    assert torch.equal(fast(torso, [pose]), one)


@pytest.fixture(scope="module")
def torso() -> CTVolume:
    return make_torso(spacing_mm=20.0, directions=np.diag([-1.0, 1.0, -1.0]))


@pytest.mark.parametrize("view", list(View))
@pytest.mark.parametrize("turn", TURNS)
def test_the_kernel_agrees_with_the_reference(
    torso: CTVolume, view: View, turn: tuple[int, int, int]
) -> None:
    check_parity(torso, [make_pose(view, isocenter_mm=(5, -7, 11), sod_mm=1500, rotation_deg=turn)])


def test_a_batch_and_its_materials_are_rendered_in_one_launch(torso: CTVolume) -> None:
    poses = [
        make_pose(v, isocenter_mm=(0, 0, 0), sod_mm=1600, rotation_deg=t)
        for v, t in zip(View, TURNS, strict=True)
    ]
    check_parity(torso, poses, basis=BONE_AND_SOFT)
    batch = fast(torso, poses, basis=BONE_AND_SOFT)
    singles = [fast(torso, [pose], basis=BONE_AND_SOFT)[0] for pose in poses]
    assert torch.equal(batch, torch.stack(singles))


def test_the_axis_may_change_across_the_panel(torso: CTVolume) -> None:
    wide = Detector(sid_mm=300, pitch_mm=40.0, rows=16, columns=16)
    check_parity(
        torso,
        [make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=250, rotation_deg=(35, 10, 45))],
        wide,
    )


def test_a_source_inside_and_rays_that_miss_agree(torso: CTVolume) -> None:
    wide = Detector(sid_mm=400, pitch_mm=60.0, rows=12, columns=20, principal_uv=(2.0, 3.0))
    check_parity(torso, [make_pose("LL", isocenter_mm=(10, 0, 20), sod_mm=5)], wide)
    away = make_pose("PA", isocenter_mm=(0, -3000, 0), sod_mm=1000)
    assert float(fast(torso, [away]).abs().max()) == 0


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 8), (7, 1, 8), (7, 9, 1), (2, 2, 2)])
@pytest.mark.parametrize("view", ["PA", "LL"])
def test_a_single_voxel_or_slice_agrees(shape: tuple[int, int, int], view: str) -> None:
    hu = np.random.default_rng(1).integers(-1000, 2000, shape).astype(np.int16)
    volume = CTVolume(hu=hu, patient_from_voxel=make_grid(shape, (30.0, 25.0, 20.0)))
    for turn in ((0, 0, 0), (60, 20, 10)):
        pose = make_pose(view, isocenter_mm=(0, 0, 0), sod_mm=1600, rotation_deg=turn)
        check_parity(volume, [pose])


@pytest.mark.parametrize("x", [-100.0, -99.9, 0.0, 99.9])
def test_rays_parallel_to_a_face_or_along_it_agree(x: float) -> None:
    box = make_box(size_mm=(200, 200, 200), spacing_mm=20.0, hu=0)
    panel = Detector(sid_mm=600, pitch_mm=10.0, rows=21, columns=21)
    pose = make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=300)
    matrix = pose.patient_from_camera.clone()
    matrix[0, 3] = x
    if x == -100.0:  # along the face: inside or outside, both are right
        found = fast(box, [Pose(view=View.PA, patient_from_camera=matrix)], panel)
        assert bool(torch.isfinite(found).all())
        return
    check_parity(box, [Pose(view=View.PA, patient_from_camera=matrix)], panel)


def test_the_ends_of_int16_agree() -> None:
    hu = np.random.default_rng(2).choice(np.array([-32768, -1, 32767]), (6, 7, 8)).astype(np.int16)
    volume = CTVolume(hu=hu, patient_from_voxel=make_grid(hu.shape, 25.0))
    check_parity(volume, [make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=1600)])


@pytest.mark.parametrize(
    ("view", "turn", "slices"),
    [
        (View.PA, (0, 0, 0), 2),
        (View.PA, (8, 5, 12), 7),
        (View.LL, (8, 5, 12), 5),
        (View.LL, (60, 30, 10), 4),
        (View.RL, (85, 0, 0), 3),
    ],
)
def test_a_volume_in_slabs_gives_the_same_picture(
    torso: CTVolume, view: View, turn: tuple[int, int, int], slices: int
) -> None:
    poses = [make_pose(view, isocenter_mm=(5, -7, 11), sod_mm=1500, rotation_deg=turn)]
    _, rows, columns = torso.hu.shape
    limit = 4 * PANEL.rows * PANEL.columns + 2 * rows * columns * slices
    whole, parts = fast(torso, poses), fast(torso, poses, memory_bytes=limit)
    assert float((parts - whole).abs().max()) <= SLAB_TOL * float(whole.max())


def test_slabs_own_every_slice_once_and_fit() -> None:
    slabs = _triton._cut_slabs((10, 4, 5), (1, 1, 3, 3), 4 * 9 + 2 * 20 * 4)
    assert slabs == [(0, 3), (3, 6), (6, 9), (9, 10)]
    assert _triton._cut_slabs((10, 4, 5), (1, 1, 3, 3), 2**40) == [(0, 10)]


def test_a_volume_beyond_int32_is_cut() -> None:
    slabs = _triton._cut_slabs((5000, 1024, 1024), (1, 1, 3, 3), 2**50)
    assert [last - first for first, last in slabs] == [2046, 2046, 908]


def test_too_little_memory_says_what_is_needed(torso: CTVolume) -> None:
    pose = make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=1600)
    with pytest.raises(EngineError, match=r"two slices .* MiB free; render fewer poses"):
        fast(torso, [pose], memory_bytes=100)


def test_a_read_only_volume_is_rendered(torso: CTVolume) -> None:
    hu = torso.hu.copy()
    hu.flags.writeable = False
    volume = CTVolume(hu=hu, patient_from_voxel=torso.patient_from_voxel)
    pose = make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=1600)
    assert torch.equal(fast(volume, [pose]), fast(torso, [pose]))


COMPILE = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from drrgen.renderer import _triton as t

types = dict.fromkeys(t._integrate.arg_names, "i32")
types |= {"slab": "*i16", "table": "*fp32", "geometry": "*fp64", "sums": "*fp32"}
for capability, ones in ((75, ()), (80, ("z_first",)), (90, ("n_z", "n_y", "n_x", "z_last"))):
    for materials in (1, 2, 4):
        fixed = {"MATERIALS": materials, "TILE_V": t.TILE_ROWS, "TILE_U": t.TILE_COLUMNS}
        fixed |= dict.fromkeys(ones, 1)
        source = ASTSource(t._integrate, types | dict.fromkeys(fixed, "constexpr"), fixed)
        options = {"num_warps": t.WARPS, "enable_fp_fusion": True}
        kernel = compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        loop = kernel.asm["ttgir"].split("scf.for")[1].split("scf.yield")[0]
        assert kernel.asm["cubin"] and "convert_layout" not in loop
"""


@pytest.mark.slow
def test_the_kernel_compiles_for_cards_and_its_threads_never_wait() -> None:
    """Machine code comes out without a card; Triton takes sizes of 1 for constants."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", COMPILE], env=environment, check=True, timeout=300)


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_CUDA, reason="no CUDA device")
@pytest.mark.parametrize("view", list(View))
@pytest.mark.parametrize("turn", TURNS)
def test_a_large_volume_agrees_on_the_card(view: View, turn: tuple[int, int, int]) -> None:
    volume = make_torso(spacing_mm=1.5)
    panel = Detector(sid_mm=1800, pitch_mm=1.0, rows=300, columns=430)
    poses = [make_pose(view, isocenter_mm=(5, -7, 11), sod_mm=1500, rotation_deg=turn)]
    plain = render_reference(volume, panel, poses, BONE_AND_SOFT, DEVICE)
    found = render_triton(volume, panel, poses, BONE_AND_SOFT, DEVICE)
    limit = found.numel() * 4 + volume.hu.nbytes // 5
    parts = render_triton(volume, panel, poses, BONE_AND_SOFT, DEVICE, memory_bytes=limit)
    for image in (found, parts):
        error = (image - plain).abs().amax(dim=(0, 2, 3))
        assert bool((error <= PARITY_TOL * plain.amax(dim=(0, 2, 3))).all())


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_CUDA, reason="no CUDA device")
def test_auto_takes_the_card() -> None:
    from drrgen.renderer.render import render

    pose = make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=1600)
    assert render(make_torso(spacing_mm=8.0), PANEL, [pose]).device.type == "cuda"
