"""Where slices lie: HU are linear in the patient's space, so that every error of place shows."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_files import Plan, check_field, write_slices

from drrgen.errors import Reason, VolumeError
from drrgen.io.dicom_grid import find_repeats
from drrgen.io.volumes import find_ct, read_volume
from drrgen.volume import CTVolume

PLAN = Plan()
EVERY_2_MM = [2.0 * k for k in range(12)]


def read(folder: Path, *warnings: str) -> CTVolume:
    """Read a series, and check what was said of it."""
    volume = read_volume(folder)
    assert volume.source is not None and volume.source.warnings == warnings
    return volume


def check_refused(folder: Path, reason: Reason, words: str = ".") -> None:
    with pytest.raises(VolumeError, match=words) as caught:
        read_volume(folder)
    assert caught.value.code is reason


@pytest.mark.hazard(10, "our own matrix; where SimpleITK's is right it is the same")
def test_the_matrix_is_that_of_the_other_reader_on_an_oblique_series(tmp_path: Path) -> None:
    write_slices(tmp_path, [PLAN.make(mm) for mm in EVERY_2_MM])
    volume = read(tmp_path)
    assert not check_field(volume).any()
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    directions = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    assert np.allclose(volume.patient_from_voxel[:3, :3], directions, atol=1e-5)
    assert np.allclose(volume.patient_from_voxel[:3, 3], image.GetOrigin(), atol=1e-5)
    assert np.array_equal(volume.hu, sitk.GetArrayFromImage(image))


@pytest.mark.hazard(12, "axes are told by the matrix: any order and sign of them keeps its place")
@pytest.mark.parametrize("axes", [np.eye(3)[[1, 2, 0]], np.diag([-1.0, -1.0, 1.0])])
def test_axes_of_any_order_and_sign_keep_their_place(axes: np.ndarray, tmp_path: Path) -> None:
    write_slices(tmp_path, [Plan(axes=axes).make(mm) for mm in EVERY_2_MM])
    assert not check_field(read(tmp_path)).any()


@pytest.mark.hazard(8, "any single orientation is accepted, with its whole matrix")
@pytest.mark.parametrize("order", [(1, 2, 0), (0, 2, 1)], ids=["sagittal", "coronal"])
def test_a_reformat_is_read_where_it_lies(order: tuple[int, ...], tmp_path: Path) -> None:
    axes = np.eye(3)[:, list(order)]
    axes[:, 2] = np.cross(axes[:, 0], axes[:, 1])
    write_slices(tmp_path, [Plan(axes=axes).make(mm) for mm in EVERY_2_MM])
    assert not check_field(read(tmp_path)).any()


@pytest.mark.hazard(3, "gaps of one or two whole slices are filled: `slices_interpolated`")
@pytest.mark.parametrize("lost", [{5}, {5, 6}, {3, 7, 8}])
def test_few_missing_slices_are_interpolated(lost: set[int], tmp_path: Path) -> None:
    write_slices(tmp_path, [PLAN.make(mm) for k, mm in enumerate(EVERY_2_MM) if k not in lost])
    volume = read(tmp_path, "slices_interpolated")
    assert len(volume.hu) == len(EVERY_2_MM)
    assert not check_field(volume).any()


@pytest.mark.hazard(3, "larger gaps are refused, with both distances")
def test_a_large_gap_is_refused_with_both_distances(tmp_path: Path) -> None:
    places = [*range(0, 80, 2), *range(100, 180, 2)]
    write_slices(tmp_path, [PLAN.make(float(mm)) for mm in places])
    check_refused(tmp_path, Reason.SLICE_GAP, r"22\.000 mm apart where most are 2\.000")


@pytest.mark.hazard(3, "a gap of three small slices is no change of spacing")
def test_three_lost_slices_of_a_fine_series_are_refused(tmp_path: Path) -> None:
    places = [mm for mm in range(60) if mm not in (30, 31, 32)]
    write_slices(tmp_path, [PLAN.make(float(mm)) for mm in places])
    check_refused(tmp_path, Reason.SLICE_GAP, r"4\.000 mm apart where most are 1\.000")


@pytest.mark.hazard(5, "changing spacing is resampled from true positions: `spacing_resampled`")
@pytest.mark.parametrize(
    "places",
    [[*np.arange(0, 20, 1.0), *np.arange(20, 60, 2.5)], np.cumsum(1 + 0.5 * np.sin(range(40)))],
    ids=["two spacings", "every gap another"],
)
def test_changing_spacing_is_resampled(places: list[float], tmp_path: Path) -> None:
    write_slices(tmp_path, [PLAN.make(float(mm)) for mm in places])
    volume = read(tmp_path, "spacing_resampled")
    assert not check_field(volume).any()
    height = volume.spacing_zyx_mm[0] * (len(volume.hu) - 1)
    assert height == pytest.approx(places[-1] - places[0])


@pytest.mark.hazard(5, "changing spacing with gaps over 5 mm is refused")
def test_changing_spacing_with_wide_gaps_is_refused(tmp_path: Path) -> None:
    places = [*np.arange(0, 20, 2.0), *np.arange(20, 60, 6.5)]
    write_slices(tmp_path, [PLAN.make(float(mm)) for mm in places])
    check_refused(tmp_path, Reason.SLICE_GAP)


@pytest.mark.hazard(5, "positions rounded to 0.01 mm are even; a small error that adds up is not")
@pytest.mark.parametrize(
    ("step", "growth", "words"), [(0.625, 0.0, ()), (2.5, 0.001, ("spacing_resampled",))]
)
def test_rounding_is_told_from_a_growing_step(
    step: float, growth: float, words: tuple[str, ...], tmp_path: Path
) -> None:
    plan = Plan(axes=np.eye(3), start_mm=(0, 0, 0))
    write_slices(tmp_path, [plan.make(round(step * k + growth * k * k, 2)) for k in range(40)])
    assert not check_field(read(tmp_path, *words)).any()


@pytest.mark.hazard(
    6, "a tilted stack is straightened, with air around: `tilt_regridded`, tilt_deg"
)
@pytest.mark.parametrize("lean_deg", [(0, 15), (0, -15), (20, 0), (12, -7), (0, 1.0)])
def test_a_tilted_stack_is_straightened(lean_deg: tuple[float, float], tmp_path: Path) -> None:
    lean = tuple(float(np.tan(np.radians(deg))) for deg in lean_deg)
    plan = Plan(lean=(lean[0], lean[1]), shape=(40, 30))
    write_slices(tmp_path, [plan.make(mm) for mm in EVERY_2_MM])
    volume = read(tmp_path, "tilt_regridded")
    padding = check_field(volume)
    # Every slice keeps its pixels but for one row and column that only half a neighbour covers.
    assert (~padding).sum() >= len(EVERY_2_MM) * 39 * 29
    wanted = np.degrees(np.arctan(np.hypot(*lean)))
    assert volume.source is not None
    assert volume.source.tilt_deg == pytest.approx(wanted, abs=0.01)


@pytest.mark.hazard(6, "a stack along z with turned axes is a tilt too")
def test_a_tilt_told_by_the_orientation_is_straightened(tmp_path: Path) -> None:
    angle = np.radians(15)
    axes = np.array(
        [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    )
    plan = Plan(
        axes=axes, lean=(0, float(np.tan(angle))), shape=(40, 30)
    )  # the table moves along z
    slices = [plan.make(mm) for mm in EVERY_2_MM]
    assert slices[0].ImagePositionPatient[:2] == slices[-1].ImagePositionPatient[:2]
    write_slices(tmp_path, slices)
    volume = read(tmp_path, "tilt_regridded")
    check_field(volume)
    assert volume.source is not None and volume.source.tilt_deg == pytest.approx(15, abs=0.01)


@pytest.mark.hazard(6, "a tilted stack with a lost slice is straightened and filled")
def test_a_tilt_and_a_gap_are_both_repaired(tmp_path: Path) -> None:
    plan = Plan(lean=(0, 0.2), shape=(40, 30))
    write_slices(tmp_path, [plan.make(mm) for mm in EVERY_2_MM if mm != 10.0])
    volume = read(tmp_path, "slices_interpolated", "tilt_regridded")
    inside = volume.hu[:, 8:38, 2:-2]  # away from the rims, where air lies beside the body
    assert (inside != -1024).all()
    shifted = volume.patient_from_voxel.copy()
    shifted[:3, 3] += volume.patient_from_voxel[:3, :3] @ np.array([2, 8, 0])
    check_field(CTVolume(hu=np.ascontiguousarray(inside), patient_from_voxel=shifted))


@pytest.mark.hazard(6, "a stack that leans more than a gantry can is refused")
def test_a_stack_that_lies_down_is_refused(tmp_path: Path) -> None:
    plan = Plan(lean=(0, 1.5))
    write_slices(tmp_path, [plan.make(mm) for mm in EVERY_2_MM])
    check_refused(tmp_path, Reason.TILT_REFUSED)


@pytest.mark.hazard(9, "no position, no order: never by InstanceNumber, never a default")
@pytest.mark.parametrize("every", [1, 5])
@pytest.mark.parametrize(
    ("tag", "reason"),
    [
        ("ImagePositionPatient", Reason.NO_POSITION),
        ("ImageOrientationPatient", Reason.NO_ORIENTATION),
    ],
)
def test_slices_without_a_place_are_refused(
    tag: str, reason: Reason, every: int, tmp_path: Path
) -> None:
    tags = [{tag: None} if k % every == 0 else {} for k in range(len(EVERY_2_MM))]
    slices = [PLAN.make(mm, InstanceNumber=k + 1, SliceThickness=2, **tags[k])
              for k, mm in enumerate(EVERY_2_MM)]  # fmt: skip
    write_slices(tmp_path, slices)
    check_refused(tmp_path, reason)


@pytest.mark.hazard(9, "SliceThickness is never the spacing")
def test_the_thickness_is_not_the_spacing(tmp_path: Path) -> None:
    write_slices(tmp_path, [PLAN.make(0.6 * k, SliceThickness=0.8, SpacingBetweenSlices=0.8)
                            for k in range(12)])  # fmt: skip
    volume = read(tmp_path)
    assert volume.spacing_zyx_mm == pytest.approx((0.6, 0.8, 0.7))
    assert volume.source is not None and volume.source.slice_thickness_mm == pytest.approx(0.8)
    check_field(volume)


@pytest.mark.hazard(4, "identical slices at one place: one is dropped, `duplicates_dropped`")
def test_identical_duplicates_are_dropped(tmp_path: Path) -> None:
    slices = [PLAN.make(mm) for mm in [*EVERY_2_MM, 4.0, 6.0, 6.0]]
    write_slices(tmp_path, slices)
    volume = read(tmp_path, "duplicates_dropped")
    assert len(volume.hu) == len(EVERY_2_MM)
    assert not check_field(volume).any()


@pytest.mark.hazard(4, "different slices at one place, which no tag tells apart, are refused")
def test_different_slices_at_one_place_are_refused(tmp_path: Path) -> None:
    odd = PLAN.make(4.0)
    odd.PixelData = bytes(len(odd.PixelData))
    odd["PixelData"].VR = "OW"
    write_slices(tmp_path, [*[PLAN.make(mm) for mm in EVERY_2_MM], odd])
    check_refused(tmp_path, Reason.DUPLICATE_POSITIONS)


@pytest.mark.hazard(7, "phases that no tag tells apart are refused")
def test_two_phases_without_a_tag_are_refused(tmp_path: Path) -> None:
    second = [PLAN.make(mm, RescaleIntercept=-1000) for mm in EVERY_2_MM]
    write_slices(tmp_path, [*[PLAN.make(mm) for mm in EVERY_2_MM], *second])
    check_refused(tmp_path, Reason.MULTI_PHASE)


def test_repeats_are_found_in_any_order() -> None:
    assert find_repeats(np.array([3.0, 1.0, 3.001, 2.0, 1.0])) == [[1, 4], [0, 2]]


@pytest.mark.hazard(2, "a stray slice of another orientation is left aside: `stray_orientation`")
def test_a_scout_that_does_not_say_so_is_left_aside(tmp_path: Path) -> None:
    scout = Plan(axes=np.eye(3)[:, [0, 2, 1]]).make(0.0)
    write_slices(tmp_path, [*[PLAN.make(mm) for mm in EVERY_2_MM], scout])
    assert find_ct(tmp_path).ignored == {"stray_slice": 1}
    assert not check_field(read(tmp_path, "stray_orientation")).any()


@pytest.mark.hazard(3, "a gap is not filled where its slice is there and contradicts the others")
@pytest.mark.parametrize(
    ("tags", "reason"),
    [({"PixelSpacing": [0.5, 0.5]}, Reason.PIXEL_MISMATCH),
     ({"ImageOrientationPatient": [1, 0, 0, 0, 0, 1]}, Reason.MIXED_ORIENTATION)],
)  # fmt: skip
def test_a_slice_that_contradicts_the_others_is_not_replaced(
    tags: dict[str, object], reason: Reason, tmp_path: Path
) -> None:
    write_slices(tmp_path, [PLAN.make(mm, **(tags if mm == 8.0 else {})) for mm in EVERY_2_MM])
    check_refused(tmp_path, reason)
