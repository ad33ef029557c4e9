"""What belongs together, what is left aside, and which CT of a study is the best."""

import os
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import Plan, check_field, write_slices
from pydicom.dataset import Dataset

from drrgen.errors import InputError, Reason, VolumeError
from drrgen.io.dicom_header import (
    READERS,
    Skip,
    SliceHeader,
    read_header,
    read_headers,
    take_values,
)
from drrgen.io.dicom_series import find_reason_of_rank, name_kernel
from drrgen.io.listing import CTFiles
from drrgen.io.volumes import choose_series, find_ct, read_ct, read_volume

AXIAL = np.eye(3)
SHORT = [2.0 * k for k in range(12)]
TALL = [2.0 * k for k in range(80)]


def make_series(
    uid: str, places: list[float] | None = None, plan: Plan | None = None, **tags: object
) -> Iterator[Dataset]:
    """Make a series of the one study."""
    for mm in places or SHORT:
        d = (plan or Plan(axes=AXIAL)).make(mm, **tags)
        d.StudyInstanceUID, d.SeriesInstanceUID = "1.2.3", uid
        yield d


def choose_best(folder: Path) -> CTFiles:
    chosen, _ = choose_series(find_ct(folder).found, "best")
    assert len(chosen) == 1
    return chosen[0]


def check_refused(folder: Path, reason: Reason) -> None:
    with pytest.raises(VolumeError) as caught:
        read_volume(folder)
    assert caught.value.code is reason


@pytest.mark.hazard(1, "series in one folder are told apart by their tags, not by file names")
def test_series_that_share_a_folder_are_told_apart(tmp_path: Path) -> None:
    write_slices(tmp_path, [*make_series("1.2.3.8"), *make_series("1.2.3.7", plan=Plan())])
    found = find_ct(tmp_path).found
    assert [entry.name for entry in found] == ["1.2.3.7", "1.2.3.8"]
    for entry in found:
        assert not check_field(read_ct(entry)).any()


@pytest.mark.hazard(1, "the slices of one series may lie in many folders")
def test_a_series_spread_over_folders_is_one(tmp_path: Path) -> None:
    for k, d in enumerate(make_series("1.2.3.8")):
        write_slices(tmp_path / f"{k % 3}", [d], first=k)
    assert not check_field(read_volume(tmp_path)).any()


# Two series of a study, the better one second; the UID alone would choose the first.
CHOICES = {
    "tall": ({"places": SHORT, "SliceThickness": 1}, {"places": TALL[:76], "SliceThickness": 2}),
    "axial": ({"plan": Plan(axes=AXIAL[:, [1, 2, 0]]), "places": TALL}, {"places": TALL[:76]}),
    "original": ({"ImageType": ["DERIVED", "PRIMARY"], "places": TALL}, {"places": TALL[:76]}),
    "most slices": ({"places": TALL[:76], "SliceThickness": 1}, {"places": TALL}),
    "thinnest": ({"SliceThickness": 5}, {"SliceThickness": 2}),
    "soft kernel": ({"ConvolutionKernel": "B70f"}, {"ConvolutionKernel": "B30f"}),
    "soft rather than unknown": ({"ConvolutionKernel": "?"}, {"ConvolutionKernel": "SOFT"}),
}
WHY = ["under 150 mm high", "not axial", "derived", "fewer slices", "thicker slices",
       "sharper kernel", "sharper kernel"]  # fmt: skip


@pytest.mark.hazard(1, "the best of a study is chosen by a stated rule, ties by UID")
@pytest.mark.hazard(36, "of two kernels of one scan the soft one is chosen")
@pytest.mark.parametrize(
    ("tags", "why"), list(zip(CHOICES.values(), WHY, strict=True)), ids=CHOICES
)
def test_the_better_series_is_chosen(tags: tuple[dict, dict], why: str, tmp_path: Path) -> None:
    one, two = (list(make_series(f"1.2.3.{k}", **t)) for k, t in enumerate(tags))
    write_slices(tmp_path, [*one, *two])
    best = choose_best(tmp_path)
    assert best.name == "1.2.3.1"
    (loser,) = (entry for entry in find_ct(tmp_path).found if entry.name != best.name)
    assert find_reason_of_rank(loser, best) == why


@pytest.mark.hazard(1, "equals are told apart by UID; --series takes a UID or all")
def test_equals_are_told_apart_by_uid(tmp_path: Path) -> None:
    write_slices(tmp_path, [*make_series("1.2.3.9"), *make_series("1.2.3.10")])
    assert choose_best(tmp_path).name == "1.2.3.10"
    found = find_ct(tmp_path).found
    assert [e.name for e in choose_series(found, "1.2.3.9")[0]] == ["1.2.3.9"]
    assert len(choose_series(found, "all")[0]) == 2
    with pytest.raises(InputError):
        choose_series(found, "1.2.3.11")


@pytest.mark.hazard(1, "parts of a series that differ in matrix or spacing are CT of their own")
@pytest.mark.parametrize(
    "plan", [Plan(axes=AXIAL, shape=(9, 9)), Plan(axes=AXIAL, spacing_mm=(1, 1))]
)
def test_parts_of_a_series_are_ct_of_their_own(plan: Plan, tmp_path: Path) -> None:
    write_slices(tmp_path, [*make_series("1.2.3.9"), *make_series("1.2.3.9", SHORT[:6], plan)])
    found = find_ct(tmp_path).found
    assert [(entry.name, len(entry.paths)) for entry in found] == [
        ("1.2.3.9", 12),
        ("1.2.3.9#2", 6),
    ]
    assert [len(read_ct(entry).hu) for entry in found] == [12, 6]
    assert choose_series(found, "1.2.3.9")[0] == [found[0]]
    assert choose_series(found, "1.2.3.9#2")[0] == [found[1]]


PHASES = {
    "acquisition": ({"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}),
    "temporal position": ({"TemporalPositionIdentifier": 1}, {"TemporalPositionIdentifier": 10}),
    "time": ({"ContentTime": "101010"}, {"ContentTime": "101011.5"}),
    "heart, 75 % after 40 %": ({"NominalPercentageOfCardiacPhase": 75.0},
                               {"NominalPercentageOfCardiacPhase": 40.0}),
}  # fmt: skip


@pytest.mark.hazard(7, "phases are told apart; the first, or that nearest 75 %: `phase_chosen`")
@pytest.mark.parametrize(("chosen", "other"), PHASES.values(), ids=PHASES)
def test_phases_are_told_apart_and_one_is_chosen(
    chosen: dict[str, object], other: dict[str, object], tmp_path: Path
) -> None:
    later = make_series("1.2.3.9", RescaleIntercept=-900, **other)
    write_slices(tmp_path, [*later, *make_series("1.2.3.9", **chosen)])
    assert len(find_ct(tmp_path).found) == 2
    volume = read_ct(choose_best(tmp_path))
    assert not check_field(volume).any()
    assert volume.source is not None and volume.source.warnings == ("phase_chosen",)


@pytest.mark.hazard(7, "an acquisition number a slice is no phase")
def test_a_number_of_each_slice_splits_nothing(tmp_path: Path) -> None:
    slices = list(make_series("1.2.3.9"))
    for k, d in enumerate(slices):
        d.AcquisitionNumber = k
    write_slices(tmp_path, slices)
    assert not check_field(read_volume(tmp_path)).any()


@pytest.mark.hazard(2, "localizers are left aside and counted; a study of nothing else is refused")
def test_localizers_are_left_aside_or_refused_by_name(tmp_path: Path) -> None:
    scouts = make_series("1.2.3.9", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_slices(tmp_path / "scouts", scouts)
    check_refused(tmp_path, Reason.LOCALIZER_ONLY)
    write_slices(tmp_path / "ct", make_series("1.2.3.8"))
    listing = find_ct(tmp_path)
    assert listing.ignored == {"localizer": 12}
    assert not check_field(read_ct(listing.found[0])).any()


@pytest.mark.hazard(2, "a series of one or two slices is refused")
def test_a_series_of_two_slices_is_refused(tmp_path: Path) -> None:
    write_slices(tmp_path, make_series("1.2.3.9", SHORT[:2]))
    check_refused(tmp_path, Reason.TOO_FEW_SLICES)


@pytest.mark.hazard(25, "other modalities and objects are left aside and counted")
@pytest.mark.parametrize(
    ("tags", "word"),
    [({"Modality": "PT"}, "not_ct"), ({"Modality": "MR"}, "not_ct"),
     ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "secondary"),
     ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.67"}, "secondary")],
)  # fmt: skip
def test_what_is_no_ct_is_counted(tags: dict[str, object], word: str, tmp_path: Path) -> None:
    write_slices(tmp_path, make_series("1.2.3.9"))
    write_slices(tmp_path / "others", make_series("1.2.3.9", **tags))
    listing = find_ct(tmp_path)
    assert listing.ignored == {word: 12}
    assert len(listing.found[0].paths) == 12


@pytest.mark.hazard(24, "an empty or broken file among the slices: refused, never dropped")
@pytest.mark.parametrize("length", [0, 140, 300])
def test_a_broken_file_among_the_slices_is_not_passed_over(length: int, tmp_path: Path) -> None:
    write_slices(tmp_path, make_series("1.2.3.9"))
    path = tmp_path / "3.dcm"
    path.write_bytes(path.read_bytes()[:length])
    check_refused(tmp_path, Reason.UNREADABLE_SLICE)


@pytest.mark.hazard(24, "beside several series a broken file is said: `broken_files_beside`")
def test_a_broken_file_beside_several_series_is_said(tmp_path: Path) -> None:
    lost = [mm for mm in SHORT if mm != 10.0]
    write_slices(tmp_path, [*make_series("1.2.3.8"), *make_series("1.2.3.9", lost)])
    (tmp_path / "x.dcm").touch()
    whole, gap = find_ct(tmp_path).found
    source = read_ct(whole).source
    assert source is not None and source.warnings == ("broken_files_beside",)
    with pytest.raises(VolumeError) as caught:  # its slice may be the broken one
        read_ct(gap)
    assert caught.value.code is Reason.UNREADABLE_SLICE


@pytest.mark.hazard(24, "a slice cut within its pixels is refused")
def test_a_slice_cut_within_its_pixels_is_refused(tmp_path: Path) -> None:
    write_slices(tmp_path, make_series("1.2.3.9"))
    path = tmp_path / "3.dcm"
    path.write_bytes(path.read_bytes()[:-40])
    check_refused(tmp_path, Reason.UNREADABLE_SLICE)


def test_a_marker_of_another_name_is_no_broken_slice(tmp_path: Path) -> None:
    write_slices(tmp_path, make_series("1.2.3.9"))
    (tmp_path / "DONE.txt").touch()
    assert not check_field(read_volume(tmp_path)).any()


def test_the_scanner_and_pydicom_give_the_same_header(tmp_path: Path) -> None:
    """What the scanner cannot read is read by pydicom: a nested sequence of unknown length."""
    plain = next(make_series("1.2.3.9", AcquisitionNumber=3, ConvolutionKernel=["I41s", "3"]))
    write_slices(tmp_path / "a", [plain])
    item = Dataset()
    item.PatientID, item.Rows = "nested", 7
    plain.ReferencedImageSequence = [item]
    plain["ReferencedImageSequence"].is_undefined_length = True
    write_slices(tmp_path / "b", [plain])
    one, two = read_header(tmp_path / "a" / "0.dcm"), read_header(tmp_path / "b" / "0.dcm")
    assert isinstance(one, SliceHeader) and isinstance(two, SliceHeader)
    for name in SliceHeader.__slots__:
        if name not in ("path", "n_bytes", "mtime_ns", "start"):
            assert getattr(one, name) == getattr(two, name), name
    assert one.kernel == "I41s\\3"
    assert take_values(pydicom.dcmread(tmp_path / "a" / "0.dcm"))["Rows"] == 12


def test_a_pipe_and_a_file_without_access_do_not_stop_the_search(tmp_path: Path) -> None:
    write_slices(tmp_path, make_series("1.2.3.9"))
    os.mkfifo(tmp_path / "pipe")
    assert read_header(tmp_path / "pipe") is Skip.NOT_DICOM
    assert read_header(tmp_path) is Skip.NOT_DICOM
    assert read_header(tmp_path / "gone") is Skip.NO_ACCESS
    assert find_ct(tmp_path).ignored == {"not_file": 1}


def test_the_search_tells_how_far_it_is(tmp_path: Path) -> None:
    write_slices(tmp_path, make_series("1.2.3.9"))
    told: list[tuple[int, int]] = []
    find_ct(tmp_path, progress=lambda done, total: told.append((done, total)))
    assert told[0] == (0, 12) and told[-1] == (12, 12)
    assert len(list(read_headers(sorted(tmp_path.iterdir())))) == 12
    assert READERS > 1


@pytest.mark.parametrize(
    ("text", "known"),
    [("B30f", True), ("I41s\\3", True), ("Br40d", True), ("STANDARD", True), ("BONEPLUS", True),
     ("FC13", True), ("FC13-H", True), ("YA", True), ("DOE^JANE", False), ("Jane", False), ("", False)],
)  # fmt: skip
def test_only_names_of_kernels_are_handed_on(text: str, known: bool) -> None:
    assert (name_kernel(text) is not None) is known


SEARCH = """
import resource, sys, time
from drrgen.io.volumes import find_ct
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
found = find_ct(sys.argv[1]).found
seconds = time.perf_counter() - start
kept = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(len(found), sum(len(entry.paths) for entry in found), seconds, kept)
"""


@pytest.mark.slow
@pytest.mark.hazard(1, "a large tree is searched by headers alone, and little is kept of each file")
def test_a_tree_of_20000_files_is_searched_fast_and_in_little_memory(tmp_path: Path) -> None:
    """In a process of its own, where no hints are checked."""
    blobs = []
    for d in make_series("1.2.3.99999", TALL):
        buffer = BytesIO()
        d.save_as(buffer, enforce_file_format=True)
        blobs.append(buffer.getvalue())
    for k in range(250):
        folder = tmp_path / f"{k % 16}" / f"{k}"
        folder.mkdir(parents=True)
        for name, blob in enumerate(blobs):
            own = blob.replace(b"1.2.3.99999", f"1.2.3.{10000 + k}".encode())
            (folder / f"{name}").write_bytes(own)
    command = [sys.executable, "-c", SEARCH, str(tmp_path)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert said[:2] == ["250", "20000"]
    assert float(said[2]) < 60
    assert int(said[3]) < 4 * 20_000  # kB
