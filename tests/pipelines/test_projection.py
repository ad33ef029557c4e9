"""The whole chain, from HU to what the detector sees, against formulas and measured chests."""

import math
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
import torch
from ct_files import write_ct
from drrgen_pipelines import task
from drrgen_pipelines.draws import Draw
from drrgen_pipelines.projection import Projection, find_setup, project, shoot
from torch import Tensor
from typer.testing import CliRunner

from drrgen.anatomy.body import find_body
from drrgen.choices import View
from drrgen.cli import app
from drrgen.config import RenderConfig
from drrgen.geometry.framing import Box
from drrgen.phantoms import find_voxel_centers, make_grid, make_torso
from drrgen.physics.display import to_radiograph
from drrgen.physics.exposure import Exposure, Panel, find_scatter, transmit
from drrgen.physics.materials import CT_KEV, find_mass_attenuations, find_mu
from drrgen.physics.spectrum import make_beam
from drrgen.volume import AIR_HU, CTVolume

ROD_TOL = 0.01  # of the contrast: 1 mm voxels, rays that meet the faces aslant, whole HU
BARE = {"noise": False, "scatter": False, "blur": False}


def make_draw(view: View = View.PA, **settings: object) -> Draw:
    config = RenderConfig(**{"size": 128, "view": (view,), **settings})  # type: ignore[arg-type]
    return Draw(view=view, number=0, seed=0, config=config)


def make_rod(water_mm: float, bone_mm: float) -> CTVolume:
    """A slab of water, and behind its middle a block of cortical bone."""
    shape = (100, round(water_mm + bone_mm) + 20, 120)
    grid = make_grid(shape, 1.0)
    hu = np.full(shape, AIR_HU, np.int16)
    hu[:, 10 : 10 + round(water_mm)] = 0
    bone_hu = round(1000 * (find_mu("cortical_bone", CT_KEV) / find_mu("water", CT_KEV) - 1))
    hu[35:65, 10 + round(water_mm) : 10 + round(water_mm + bone_mm), 45:75] = bone_hu
    return CTVolume(hu=hu, patient_from_voxel=grid)


@pytest.mark.parametrize("kvp", [60.0, 90.0, 125.0])
@pytest.mark.parametrize(("water_mm", "bone_mm"), [(50, 10), (200, 20)])
def test_a_bone_rod_behind_water_has_the_contrast_of_the_formula(
    kvp: float, water_mm: float, bone_mm: float
) -> None:
    draw = make_draw(kvp=kvp, **BARE)
    volume = make_rod(water_mm, bone_mm)
    box = Box(low_mm=(-50, -100, -40), high_mm=(50, 100, 40))
    projection = project(volume, box, draw)
    signal = shoot(projection, draw).signal
    v, u = (round(c) for c in reversed(projection.detector.center_uv))
    behind, beside = float(signal[v, u]), float(signal[v, u + 45])
    beam = make_beam(kvp, aluminium_mm=3.0)
    weight = beam.photons * beam.kev * beam.stopped
    water = find_mass_attenuations("water", beam.kev) * water_mm / 10
    bone = find_mass_attenuations("cortical_bone", beam.kev) * 1.92 * bone_mm / 10
    through_both = (weight * np.exp(-water - bone)).sum()
    through_water = (weight * np.exp(-water)).sum()
    assert behind - beside == pytest.approx(-math.log(through_both / through_water), rel=ROD_TOL)


def find_regions(projection: Projection, volume: CTVolume) -> tuple[Tensor, Tensor]:
    """Pixels behind the middle of a lung and behind the spine, in PA."""
    detector = projection.detector
    pitch_mm = detector.pitch_mm / (1800 / 1630)  # at the isocenter
    v = (torch.arange(detector.rows) + 0.5 - detector.center_uv[1]) * pitch_mm
    u = (torch.arange(detector.columns) + 0.5 - detector.center_uv[0]) * pitch_mm
    middle = v[:, None].abs() < 50
    return middle & ((u[None].abs() - 90).abs() < 15), middle & (u[None].abs() < 12)


def test_scatter_in_a_chest_is_what_was_measured() -> None:
    """Niklason et al., Medical Physics 8:677-681, 1981: some 90 % of what reaches the mediastinum
    is scatter without a grid, and with one of 12:1 less than half of the contrast is left.
    """
    volume = make_torso(spacing_mm=4.0)
    draw = make_draw(**BARE)
    projection = project(volume, find_body(volume).box, draw)
    line_integral = shoot(projection, draw).line_integral
    lung, mediastinum = find_regions(projection, volume)
    panel = Panel(
        pitch_mm=projection.detector.pitch_mm, sid_mm=1800, sod_mm=1630, center_uv=(64, 64)
    )
    primary = transmit(line_integral)
    shares = {}
    for grid in (False, True):
        scatter = find_scatter(primary, line_integral, Exposure(scatter=True, grid=grid), panel)
        share = scatter / (scatter + primary)
        shares[grid] = float(share[lung].mean()), float(share[mediastinum].mean())
    assert 0.4 < shares[False][0] < 0.7
    assert 0.85 < shares[False][1] < 0.96
    assert 0.4 < shares[True][1] < 0.75


@pytest.mark.parametrize("view", [View.PA, View.AP, View.LL])
def test_nothing_in_a_chest_is_clipped(view: View) -> None:
    volume = make_torso(spacing_mm=4.0)
    draw = make_draw(view, size=256)
    projection = project(volume, find_body(volume).box, draw)
    shot = shoot(projection, draw)
    grey = to_radiograph(shot.signal, exposed_xywh=projection.frame.exposed_xywh)
    # Lungs and mediastinum: the rim along the skin fades into the black beside it.
    beside = (shot.line_integral < 1.0).float()[None]
    body = torch.nn.functional.max_pool2d(beside, 31, 1, 15)[0] == 0
    assert float(body.float().mean()) > 0.3
    assert float((grey[body] < 0.01).float().mean()) < 0.01
    assert float((grey[body] > 0.99).float().mean()) < 0.01


def test_the_same_draw_gives_the_same_signal() -> None:
    volume = make_torso(spacing_mm=6.0)
    box = find_body(volume).box
    draw = make_draw()
    first, second = (shoot(project(volume, box, draw), draw).signal for _ in range(2))
    assert torch.equal(first, second)


def test_switches_that_are_off_leave_the_line_integral() -> None:
    volume = make_torso(spacing_mm=6.0)
    draw = make_draw(**BARE)
    shot = shoot(project(volume, find_body(volume).box, draw), draw)
    assert torch.allclose(shot.signal, shot.line_integral, atol=1e-5)
    assert shot.dose_ugy is None


def test_a_thick_patient_is_moved_away_from_the_detector() -> None:
    volume = make_torso(spacing_mm=6.0)
    box = Box(low_mm=(-170, -300, -100), high_mm=(170, 300, 100))
    hu = np.pad(volume.hu, ((0, 0), (60, 60), (0, 0)), constant_values=AIR_HU)
    shape = hu.shape
    big = CTVolume(hu=hu, patient_from_voxel=make_grid(shape, 6.0))
    assert find_voxel_centers(shape, big.patient_from_voxel)[..., 1].max() > 300
    projection = project(big, box, make_draw())
    assert projection.warnings == ("sod_moved",)
    assert (
        projection.setup.acquisition.sod_mm < find_setup(View.PA, RenderConfig()).acquisition.sod_mm
    )


def test_a_blank_picture_is_a_failed_row_and_never_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A chest that spans less than this is none; so a torso passes for a blank picture.
    monkeypatch.setattr(task, "BLANK_RANGE", 100.0)
    torso = make_torso(spacing_mm=6.0)
    write_ct(torso, tmp_path / "ct.nii.gz")
    (tmp_path / "salt.txt").write_text("a salt for tests only, long enough\n")
    out = tmp_path / "out"
    words = ("render", "--ct-dir", tmp_path / "ct.nii.gz", "--out", out, "--view", "PA", "--size", 64,
             "--salt-file", tmp_path / "salt.txt", "--isocenter", 0, 0, 0)  # fmt: skip
    result = CliRunner().invoke(app, [str(word) for word in words])
    rows = ds.dataset(sorted((out / "manifest").glob("*.parquet"))).to_table().to_pylist()
    assert [(r["status"], r["reason"]) for r in rows] == [("failed", "render_blank")]
    assert result.exit_code == 3
    assert not list(out.rglob("images/**/*.png"))
