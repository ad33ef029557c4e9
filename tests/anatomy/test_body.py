"""The patient is kept bit for bit, and what he lies on goes."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from drrgen_pipelines.draws import Draw
from drrgen_pipelines.projection import project, shoot
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from drrgen.anatomy.body import Body, add_margin, find_body, remove_surroundings
from drrgen.choices import View
from drrgen.config import RenderConfig
from drrgen.errors import Reason, VolumeError
from drrgen.geometry.framing import Box
from drrgen.phantoms import draw_ellipsoid, find_voxel_centers, make_grid, make_torso
from drrgen.volume import AIR_HU, CTVolume

SKIN_HU = -990  # from here on a voxel holds some of the patient
DENSE_HU = -300
TABLE_LEFT_ML = 35.0  # where a shell is pressed into the skin, the cell beside the skin keeps it
VOLUME_TOL = 0.15  # of the removed volume, which is counted on the coarse grid
BOX_TOL_MM = 6.0  # one coarse cell and a voxel
# Of a line integral. A cell of cushion stays beside the skin, 6 mm of 12 % of water, which rays in PA
# meet once and lateral ones along the back.
PICTURE_TOL = {View.PA: 0.06, View.LL: 0.15}

Xyz = tuple[float, float, float]


@dataclass(frozen=True)
class Scene:
    """A patient on a table, the patient alone, and where what is to go lies."""

    volume: CTVolume
    patient: np.ndarray
    foreign: np.ndarray

    @property
    def voxel_ml(self) -> float:
        return float(np.prod(self.volume.spacing_zyx_mm)) / 1000

    @property
    def dense_foreign(self) -> np.ndarray:
        return self.foreign & (self.volume.hu > DENSE_HU)


def make_scene(
    spacing_mm: float | Xyz = 4.0,
    *,
    gap_mm: float = 5.0,
    arms: bool = True,
    arm_drop_mm: float = -60.0,
    closed: bool = True,
    directions: np.ndarray | None = None,
    height_mm: float = 120.0,
) -> Scene:
    """Draw a torso with breasts and arms on a curved table with foam, a cushion and a blanket."""
    axes = np.eye(3) if directions is None else directions
    spacing = np.broadcast_to(np.asarray(spacing_mm, dtype=float), 3)
    extent = np.abs(axes.T) @ np.array([520.0, 420.0, height_mm])
    nx, ny, nz = (max(1, round(float(e / s))) for e, s in zip(extent, spacing, strict=True))
    grid = make_grid((nz, ny, nx), tuple(spacing), center_mm=(0.0, 40.0, 0.0), directions=axes)  # type: ignore[arg-type]
    hu = np.full((nz, ny, nx), AIR_HU, dtype=np.int16)
    for center, radii, value in (
        ((0, 0, 0), (170, 110, 400), 40),
        ((75, 5, 15), (62, 82, 125), -850),
        ((-75, 5, 15), (62, 82, 125), -850),
        ((30, -30, -35), (55, 45, 60), 45),
        ((0, 75, 0), (20, 22, 400), 450),
    ):
        draw_ellipsoid(hu, grid, center_mm=center, radii_mm=radii, inside_hu=value)
    x, y, z = np.moveaxis(find_voxel_centers(hu.shape, grid), -1, 0)
    for side in (-1, 1):
        breast = ((x - side * 80) / 60) ** 2 + ((y + 100) / 55) ** 2 + (z / 70) ** 2 < 1
        hu[breast & (hu < DENSE_HU) & (y < -50)] = -60
        if arms:
            hu[(x - side * 213) ** 2 + (y - 75 - arm_drop_mm) ** 2 < 37**2] = 40
    patient = hu.copy()
    # Millimetres behind the upper face of the table, which rises to the sides.
    depth = y - (115 + gap_mm - 20 * (x / 260) ** 2)
    wide = np.abs(x) < 230
    shell = wide & (((depth >= 0) & (depth < 3)) | ((depth >= 45) & (depth < 48)))
    if closed:
        shell |= wide & (np.abs(x) >= 226) & (depth >= 0) & (depth < 48)
    foam = wide & (depth >= 3) & (depth < 45)
    cushion = (np.abs(x) < 200) & (depth < 0) & (depth >= -20) & (y > 80)
    skin = np.sqrt((x / 170) ** 2 + (y / 110) ** 2)
    blanket = (skin >= 1.02) & (skin < 1.06) & (y < -60)
    foreign = np.zeros(hu.shape, dtype=bool)
    for part, value in (
        (foam & ~shell, -930),
        (shell, 150),
        (cushion & ~shell, -880),
        (blanket, -650),
    ):
        free = part & (hu == AIR_HU)
        hu[free] = value
        foreign |= free
    return Scene(CTVolume(hu=hu, patient_from_voxel=grid), patient, foreign)


def clean(scene: Scene) -> tuple[Body, CTVolume]:
    before = scene.volume.hu.copy()
    body = find_body(scene.volume)
    cleaned = remove_surroundings(scene.volume, body)
    assert (scene.volume.hu == before).all(), "the CT itself must not change"
    return body, cleaned


def check_clean(scene: Scene) -> Body:
    """The patient is untouched, and the table is gone."""
    body, cleaned = clean(scene)
    patient = scene.patient > SKIN_HU
    assert (cleaned.hu[patient] == scene.volume.hu[patient]).all()
    changed = cleaned.hu != scene.volume.hu
    assert (cleaned.hu[changed] == AIR_HU).all()
    left_ml = np.count_nonzero(scene.dense_foreign & (cleaned.hu != AIR_HU)) * scene.voxel_ml
    assert left_ml <= TABLE_LEFT_ML
    return body


@pytest.mark.parametrize("gap_mm", [-25.0, -15.0, 0.0, 5.0, 30.0])
@pytest.mark.parametrize("closed", [True, False])
def test_the_table_goes_and_the_patient_stays_bit_for_bit(gap_mm: float, closed: bool) -> None:
    """From a table pressed into the back to one a cushion's height away; open and closed shells."""
    check_clean(make_scene(gap_mm=gap_mm, closed=closed))


def test_the_removed_volume_is_that_of_what_is_dense_beside_the_patient() -> None:
    scene = make_scene(3.0)
    wanted_ml = np.count_nonzero(scene.dense_foreign) * scene.voxel_ml
    assert check_clean(scene).beside_ml == pytest.approx(wanted_ml, rel=VOLUME_TOL)


@pytest.mark.parametrize(
    "spacing_mm", [(1.5, 1.5, 10.0), (1.0, 1.0, 5.0), (4.0, 4.0, 4.0), (6.0, 6.0, 6.0)]
)
def test_thick_slices_and_coarse_grids_lose_nothing(spacing_mm: Xyz) -> None:
    check_clean(make_scene(spacing_mm, height_mm=80.0))


@pytest.mark.parametrize("arm_drop_mm", [-60.0, 0.0, 15.0])
def test_arms_beside_the_trunk_are_kept_also_where_they_hang_lower(arm_drop_mm: float) -> None:
    scene = make_scene(arm_drop_mm=arm_drop_mm, gap_mm=22.0)
    body = check_clean(scene)
    assert body.box.low_mm[0] == pytest.approx(-250, abs=10 + BOX_TOL_MM)
    assert body.box.high_mm[0] == pytest.approx(250, abs=10 + BOX_TOL_MM)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (1, 0, 2)])
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, -1, 1), (-1, 1, -1)])
def test_the_direction_of_storage_makes_no_difference(order: Xyz, flips: Xyz) -> None:
    directions = np.eye(3)[:, list(order)] * np.array(flips)
    check_clean(make_scene(4.0, directions=directions))


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_an_oblique_scan_makes_no_difference(axis: str) -> None:
    directions = Rotation.from_euler(axis, 15, degrees=True).as_matrix()
    check_clean(make_scene(4.0, directions=directions))


def test_the_box_is_around_the_patient_and_not_around_the_table() -> None:
    body = find_body(make_scene(3.0, arms=False).volume)
    assert body.box.low_mm[:2] == pytest.approx((-170, -155), abs=BOX_TOL_MM)
    assert body.box.high_mm[:2] == pytest.approx((170, 110), abs=BOX_TOL_MM)
    # The trunk is cut by the end of the CT, and there the box ends exactly.
    assert (body.box.low_mm[2], body.box.high_mm[2]) == pytest.approx((-60, 60))


def test_lungs_behind_a_thin_chest_wall_are_kept() -> None:
    """A way of 4 mm from the lung through the wall to the air: a drain, or noise."""
    scene = make_scene(3.0, arms=False)
    x, y, z = np.moveaxis(
        find_voxel_centers(scene.patient.shape, scene.volume.patient_from_voxel), -1, 0
    )
    way = (np.abs(y - 5) < 3) & (x > 100) & (np.abs(z) < 40) & (scene.patient > SKIN_HU)
    scene.volume.hu[way] = -900
    lung = (scene.patient < -700) & (scene.patient > SKIN_HU)
    _, cleaned = clean(scene)
    # Beside the opening the thin wall is lost in a few cells, and what it bounds.
    assert (cleaned.hu[lung] == scene.volume.hu[lung]).mean() > 0.95


def test_most_of_a_lung_that_the_field_of_view_cuts_open_is_kept() -> None:
    scene = make_scene(arms=False)
    x, y, _ = np.moveaxis(
        find_voxel_centers(scene.patient.shape, scene.volume.patient_from_voxel), -1, 0
    )
    beyond = x**2 + y**2 > 130**2
    scene.volume.hu[beyond] = -2000
    lung = (scene.patient < -700) & (scene.patient > SKIN_HU) & ~beyond
    _, cleaned = clean(scene)
    assert (cleaned.hu[lung] == scene.volume.hu[lung]).mean() > 0.75


@settings(max_examples=12, phases=[Phase.explicit, Phase.generate])
@given(st.floats(3.5, 6), st.floats(3, 12), st.floats(-20, 30), st.booleans())
def test_any_voxel_size_keeps_the_patient(
    dxy: float, dz: float, gap_mm: float, closed: bool
) -> None:
    scene = make_scene((dxy, dxy, dz), gap_mm=gap_mm, closed=closed)
    _, cleaned = clean(scene)
    # A voxel that the skin only grazes may be farther from the next dense one than a cell.
    patient = scene.patient > DENSE_HU
    assert (cleaned.hu[patient] == scene.volume.hu[patient]).all()
    lung = scene.patient == -850  # and not the skin's soft rim, which passes through the same HU
    assert (cleaned.hu[lung] == scene.volume.hu[lung]).mean() > 0.999


@pytest.mark.parametrize("hu", [AIR_HU, -500, -2000])
def test_a_volume_without_a_body_is_refused(hu: int) -> None:
    empty = CTVolume(
        hu=np.full((30, 40, 50), hu, np.int16), patient_from_voxel=make_grid((30, 40, 50), 4.0)
    )
    with pytest.raises(VolumeError) as caught:
        find_body(empty)
    assert caught.value.code == Reason.EMPTY_BODY


def test_a_thing_smaller_than_a_body_part_is_refused() -> None:
    hu = np.full((40, 40, 40), AIR_HU, np.int16)
    hu[15:20, 15:20, 15:20] = 40  # 8 ml
    with pytest.raises(VolumeError):
        find_body(CTVolume(hu=hu, patient_from_voxel=make_grid((40, 40, 40), 4.0)))


@pytest.mark.parametrize("slices", [1, 2, 3])
def test_a_few_slices_are_enough_for_a_body(slices: int) -> None:
    whole = make_torso(spacing_mm=3.0, height_mm=60.0)
    few = CTVolume(hu=whole.hu[:slices].copy(), patient_from_voxel=whole.patient_from_voxel)
    body = find_body(few)
    assert body.box.high_mm[0] - body.box.low_mm[0] == pytest.approx(340, abs=2 * BOX_TOL_MM)


def test_without_a_table_nothing_changes_but_stray_values_of_air() -> None:
    torso = make_torso(spacing_mm=3.0)
    cleaned = remove_surroundings(torso, find_body(torso))
    assert (cleaned.hu == torso.hu).all()
    assert find_body(torso).beside_ml < 5


def test_the_margin_is_a_finger_wide_and_stays_inside_the_ct() -> None:
    torso = make_torso(spacing_mm=4.0, height_mm=200.0)
    box = Box(low_mm=(-50, -50, -99), high_mm=(50, 50, 99))
    wider = add_margin(box, torso)
    assert wider.low_mm == pytest.approx((-60, -60, -100))
    assert wider.high_mm == pytest.approx((60, 60, 100))


def test_the_picture_with_a_table_is_the_picture_without_one() -> None:
    scene = make_scene(3.0)
    alone = CTVolume(hu=scene.patient, patient_from_voxel=scene.volume.patient_from_voxel)
    body, cleaned = clean(scene)
    config = RenderConfig(size=128, noise=False, scatter=False, blur=False)
    for view, tolerance in PICTURE_TOL.items():
        draw = Draw(view=view, number=0, seed=0, config=config)
        with_table, without = (
            shoot(project(volume, body.box, draw), draw).signal for volume in (cleaned, alone)
        )
        # Through the patient: rays beside him meet what is left of the cushion lengthwise.
        off = (with_table - without).abs()[without > 1]
        assert float(off.median()) < 0.04
        assert float(torch.quantile(off, 0.95)) < tolerance
        raw = shoot(project(scene.volume, body.box, draw), draw).signal - without
        assert float(raw.max()) > 2 * tolerance, "the table would have been seen"
