"""Enhanced multi-frame CT: geometry and rescale of every frame are its own."""

from pathlib import Path

import pytest
from dicom_files import Plan, Storage, check_field, make_enhanced, write_slices
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from drrgen.errors import Reason, VolumeError
from drrgen.io.volumes import find_ct, read_volume

PLACES = [4.0, 0.0, 2.0, 8.0, 6.0]  # frames may come in any order


def check_refused(folder: Path, reason: Reason) -> None:
    with pytest.raises(VolumeError) as caught:
        read_volume(folder)
    assert caught.value.code is reason


STORAGES = {
    "plain": Storage(),
    "12 bits": Storage(bits=12),
    "implicit": Storage(syntax=ImplicitVRLittleEndian),
    "big-endian": Storage(syntax=ExplicitVRBigEndian),
    "RLE": Storage(syntax=RLELossless),
}


@pytest.mark.hazard(23, "enhanced multi-frame CT is read by its functional groups")
@pytest.mark.parametrize("storage", STORAGES.values(), ids=STORAGES)
@pytest.mark.parametrize("shared", [False, True])
def test_an_enhanced_ct_gives_the_field(storage: Storage, shared: bool, tmp_path: Path) -> None:
    slices = [Plan(storage=storage).make(mm, SliceThickness=2) for mm in PLACES]
    write_slices(tmp_path, [make_enhanced(slices, shared=shared)])
    volume = read_volume(tmp_path)
    assert not check_field(volume).any()
    assert volume.source is not None and volume.source.warnings == ()
    assert volume.source.slice_thickness_mm == 2


@pytest.mark.hazard(23, "each frame of an enhanced CT has a rescale of its own")
def test_the_rescale_of_each_frame_is_its_own(tmp_path: Path) -> None:
    slices = [Plan(storage=Storage(intercept=-1000 - k)).make(mm) for k, mm in enumerate(PLACES)]
    write_slices(tmp_path, [make_enhanced(slices)])
    assert not check_field(read_volume(tmp_path)).any()


@pytest.mark.hazard(6, "a tilted enhanced CT is straightened too: `tilt_regridded`")
def test_a_tilted_enhanced_ct_is_straightened(tmp_path: Path) -> None:
    plan = Plan(lean=(0.0, 0.2), shape=(40, 30))
    write_slices(tmp_path, [make_enhanced([plan.make(mm) for mm in PLACES], shared=True)])
    volume = read_volume(tmp_path)
    check_field(volume)
    assert volume.source is not None and volume.source.warnings == ("tilt_regridded",)


@pytest.mark.hazard(7, "of the phases of an enhanced CT the first is taken: `phase_chosen`")
def test_the_first_phase_of_an_enhanced_ct_is_taken(tmp_path: Path) -> None:
    slices = []
    for phase in (2, 1):
        for mm in PLACES:
            d = Plan(storage=Storage(intercept=-1024)).make(mm)
            d.RescaleIntercept = -1024 + 100 * (phase - 1)
            d.add_new("TemporalPositionIndex", "UL", phase)
            slices.append(d)
    write_slices(tmp_path, [make_enhanced(slices)])
    volume = read_volume(tmp_path)
    assert not check_field(volume).any()
    assert volume.source is not None and volume.source.warnings == ("phase_chosen",)


@pytest.mark.hazard(23, "an enhanced CT that lacks its functional groups is refused")
@pytest.mark.parametrize("keep", [0, 3])
def test_missing_functional_groups_are_refused(keep: int, tmp_path: Path) -> None:
    d = make_enhanced([Plan().make(mm) for mm in PLACES])
    d.PerFrameFunctionalGroupsSequence = list(d.PerFrameFunctionalGroupsSequence)[:keep]
    write_slices(tmp_path, [d])
    check_refused(tmp_path, Reason.ENHANCED_UNSUPPORTED)


@pytest.mark.hazard(23, "frames that are a map or a projection are refused")
def test_frames_that_are_no_volume_are_refused(tmp_path: Path) -> None:
    d = make_enhanced([Plan().make(mm) for mm in PLACES])
    d.VolumetricProperties = "DISTORTED"
    write_slices(tmp_path, [d])
    check_refused(tmp_path, Reason.ENHANCED_UNSUPPORTED)


@pytest.mark.hazard(23, "frames without a place, or of several orientations, are refused")
@pytest.mark.parametrize(
    ("sequence", "reason"),
    [("PlanePositionSequence", Reason.NO_POSITION),
     ("PlaneOrientationSequence", Reason.NO_ORIENTATION)],
)  # fmt: skip
def test_frames_without_a_place_are_refused(sequence: str, reason: Reason, tmp_path: Path) -> None:
    d = make_enhanced([Plan().make(mm) for mm in PLACES])
    delattr(d.PerFrameFunctionalGroupsSequence[2], sequence)
    write_slices(tmp_path, [d])
    check_refused(tmp_path, reason)


@pytest.mark.hazard(24, "an enhanced CT that ends too early is refused")
def test_a_cut_enhanced_ct_is_refused(tmp_path: Path) -> None:
    write_slices(tmp_path, [make_enhanced([Plan().make(mm) for mm in PLACES])])
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-40])
    check_refused(tmp_path, Reason.UNREADABLE_SLICE)


@pytest.mark.hazard(23, "several multi-frame volumes of one series are CT of their own")
def test_two_enhanced_files_are_two_ct(tmp_path: Path) -> None:
    files = [make_enhanced([Plan().make(mm + off) for mm in PLACES]) for off in (0.0, 50.0)]
    write_slices(tmp_path, files)
    found = find_ct(tmp_path).found
    assert [entry.name for entry in found] == ["1.2.3.1", "1.2.3.1#2"]


@pytest.mark.hazard(23, "several frames in an object of single slices are refused")
def test_frames_in_an_object_of_single_slices_are_refused(tmp_path: Path) -> None:
    write_slices(tmp_path, [Plan().make(mm, NumberOfFrames=2) for mm in sorted(PLACES)])
    check_refused(tmp_path, Reason.ENHANCED_UNSUPPORTED)
