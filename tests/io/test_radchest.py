"""RAD-ChestCT: what its pipeline leaves in a volume, and archives that are none."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from ct_files import make_small_torso

from drrgen.errors import Reason, VolumeError
from drrgen.io.hounsfield import check_hounsfield
from drrgen.io.radchest import RIM_TO_AIR
from drrgen.io.volumes import read_file, read_volume
from drrgen.volume import AIR_HU


@pytest.fixture
def clipped() -> np.ndarray:
    """A chest as the data set's pipeline stores it: from head to foot, clipped, with a bone."""
    hu = np.clip(make_small_torso().hu[::-1], -1000, 1000)
    hu = np.repeat(np.repeat(np.repeat(hu, 2, 0), 2, 1), 2, 2)
    hu[:, 30:33, 32:35] = 1000
    return hu.copy()


def write(path: Path, **arrays: np.ndarray) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def check_refused(path: Path, reason: Reason) -> VolumeError:
    with pytest.raises(VolumeError) as caught:
        read_file(path)
    assert caught.value.code is reason
    return caught.value


@pytest.mark.hazard(34, "slices from head to foot, 0.8 mm; HU clipped at 1000: hu_clipped")
def test_a_volume_lies_as_the_data_set_says(clipped: np.ndarray, tmp_path: Path) -> None:
    volume = read_volume(write(tmp_path / "a.npz", ct=clipped))
    assert np.array_equal(volume.hu, clipped)
    assert np.array_equal(volume.patient_from_voxel, np.diag([0.8, 0.8, -0.8, 1]))
    assert volume.source is not None and volume.source.warnings == ("hu_clipped",)
    check_hounsfield(volume.hu)
    # The torso's heart is on the left (+x) and its spine behind (+y).
    to_patient = volume.patient_from_voxel[:3, :3]
    assert (to_patient @ [1, 0, 0])[0] > 0 and (to_patient @ [0, 1, 0])[1] > 0


@pytest.mark.hazard(34, "planes filled with 8 or 9 by the resampler: air, with a warning")
@pytest.mark.parametrize("value", [8, 9])
@pytest.mark.parametrize(
    "planes", [np.s_[-1:], np.s_[:2], np.s_[:, -1:], np.s_[:, :, -3:]], ids=str
)
def test_the_rim_is_air(value: int, planes: object, clipped: np.ndarray, tmp_path: Path) -> None:
    spoiled = clipped.copy()
    spoiled[planes] = value  # type: ignore[index]
    volume = read_volume(write(tmp_path / "a.npz", ct=spoiled))
    wanted = clipped.copy()
    wanted[planes] = AIR_HU  # type: ignore[index]
    assert np.array_equal(volume.hu, wanted)
    assert volume.source is not None and RIM_TO_AIR in volume.source.warnings


def test_a_missing_array_is_named(tmp_path: Path) -> None:
    found = check_refused(write(tmp_path / "a.npz", image=np.zeros((3, 3, 3)), spacing=np.ones(3)),
                          Reason.METADATA_MISSING)  # fmt: skip
    assert "found arrays image, spacing, wanted one named ct" in found.detail


class Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("opened"),)


def test_a_pickle_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "a.npz", ct=np.array([Trap()] * 30, dtype=object).reshape(3, 2, 5))
    check_refused(path, Reason.TRUNCATED_FILE)
    assert not Path("opened").exists()


def write_member(path: Path, shape: tuple[int, ...], kind: str, data: bytes) -> Path:
    """Write an archive whose array announces what it likes."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"shape": shape, "fortran_order": False, "descr": kind}
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ct.npy", head.getvalue() + data)
    return path


@pytest.mark.parametrize(
    ("shape", "kind", "size", "reason"),
    [
        ((3, 2**30, 2**30), "<i2", 10, Reason.NO_IMAGE),
        ((3, 4, 5), "<i2", 119, Reason.TRUNCATED_FILE),
        ((3, 4, 5), "<i2", 2**16, Reason.TRUNCATED_FILE),
        ((3, 0, 5), "<i2", 0, Reason.NOT_CT),
        ((2, 4, 5), "<i2", 80, Reason.TOO_FEW_SLICES),
        ((3, 4, 5), "<U9", 60 * 36, Reason.NOT_CT),
        ((3, 4, 5, 2), "<i2", 240, Reason.NOT_CT),
    ],
)
def test_an_array_that_is_no_ct_is_refused(
    shape: tuple[int, ...], kind: str, size: int, reason: Reason, tmp_path: Path
) -> None:
    check_refused(write_member(tmp_path / "a.npz", shape, kind, bytes(size)), reason)


@pytest.mark.hazard(24, "truncated anywhere: refused")
def test_an_archive_cut_anywhere_is_refused(clipped: np.ndarray, tmp_path: Path) -> None:
    data = write(tmp_path / "a.npz", ct=clipped).read_bytes()
    for length in np.linspace(0, len(data) - 1, 40).astype(int):
        (tmp_path / "b.npz").write_bytes(data[:length])
        check_refused(tmp_path / "b.npz", Reason.TRUNCATED_FILE)
