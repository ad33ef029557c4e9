"""One CT in several files of several formats is one picture, to the last bit."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
import SimpleITK as sitk
from dicom_files import write_series
from typer.testing import CliRunner

from drrgen.cli import app
from drrgen.manifest import Row
from drrgen.phantoms import make_torso
from drrgen.volume import CTVolume

SPACING_MM = 5.0
HEIGHTS_MM = {"a": 160.0, "bb": 180.0, "ccc": 200.0}  # patients told apart by their size


@pytest.fixture(scope="module")
def volumes() -> dict[str, CTVolume]:
    return {
        name: make_torso(spacing_mm=SPACING_MM, height_mm=height)
        for name, height in HEIGHTS_MM.items()
    }


def write_image(volume: CTVolume, path: Path) -> None:
    matrix, spacing = volume.patient_from_voxel, volume.spacing_zyx_mm[::-1]
    image = sitk.GetImageFromArray(volume.hu)
    image.SetSpacing(spacing)
    image.SetOrigin(matrix[:3, 3].tolist())
    image.SetDirection((matrix[:3, :3] / spacing).ravel().tolist())
    sitk.WriteImage(image, str(path))


def render(ct: Path, out: Path) -> list[Row]:
    salt = out.with_suffix(".salt")
    salt.write_text("a salt for tests only, long enough\n")
    result = CliRunner().invoke(
        app,
        ["render", "--ct-dir", str(ct), "--out", str(out), "--salt-file", str(salt),
         "--size", "96", "--view", "PA", "--view", "LL", "-q"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return ds.dataset(sorted((out / "manifest").glob("*.parquet"))).to_table().to_pylist()


def find_digests(rows: list[Row]) -> dict[tuple[int, str], str]:
    """Digest of the decoded pixels, by number of slices and view."""
    return {(row["shape_zyx"][0], row["view"]): row["cxr_sha256"] for row in rows}


@pytest.fixture(scope="module")
def from_nifti(
    volumes: dict[str, CTVolume], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[int, str], str]:
    folder = tmp_path_factory.mktemp("nifti")
    (folder / "ct").mkdir()
    for name, volume in volumes.items():
        write_image(volume, folder / "ct" / f"{name}.nii.gz")
    digests = find_digests(render(folder / "ct", folder / "out"))
    assert len(digests) == len(set(digests.values())) == 2 * len(HEIGHTS_MM)
    return digests


def test_three_shuffled_dicom_patients_in_one_folder_give_the_pixels_of_their_nifti(
    volumes: dict[str, CTVolume], from_nifti: dict[tuple[int, str], str], tmp_path: Path
) -> None:
    for name, volume in volumes.items():
        write_series(volume, tmp_path / "ct", name)
    rows = render(tmp_path / "ct", tmp_path / "out")
    assert find_digests(rows) == from_nifti
    assert len({row["patient_id"] for row in rows}) == len(HEIGHTS_MM)


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha", ".mhd"])
def test_the_other_formats_give_the_same_pixels(
    volumes: dict[str, CTVolume],
    from_nifti: dict[tuple[int, str], str],
    suffix: str,
    tmp_path: Path,
) -> None:
    (tmp_path / "ct").mkdir()
    write_image(volumes["a"], tmp_path / "ct" / f"ct{suffix}")
    found = find_digests(render(tmp_path / "ct", tmp_path / "out"))
    assert found == {key: from_nifti[key] for key in found}
    assert len(found) == 2


@pytest.mark.parametrize("flips", [(-1, 1, 1), (1, -1, 1), (1, 1, -1), (-1, -1, -1)])
def test_how_the_axes_are_stored_changes_no_pixel_by_more_than_rounding(
    flips: tuple[int, int, int], volumes: dict[str, CTVolume], tmp_path: Path
) -> None:
    """The same body stored from right to left, or from head to foot."""
    mirrored = make_torso(
        spacing_mm=SPACING_MM, height_mm=HEIGHTS_MM["a"], directions=np.diag(np.array(flips, float))
    )
    pictures = []
    for name, volume in (("plain", volumes["a"]), ("mirrored", mirrored)):
        write_image(volume, tmp_path / f"{name}.nii")
        render(tmp_path / f"{name}.nii", tmp_path / name)
        files = sorted((tmp_path / name / "images").rglob("*.png"))
        pictures.append([sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in files])
    for plain, other in zip(*pictures, strict=True):
        assert plain.shape == other.shape
        # One grey level of 8 bits, in 16: float32 sums in another order.
        assert np.abs(plain.astype(int) - other.astype(int)).max() <= 257


def test_a_ct_beside_its_compressed_namesake_is_read_with_its_own_pixels(
    volumes: dict[str, CTVolume], from_nifti: dict[tuple[int, str], str], tmp_path: Path
) -> None:
    (tmp_path / "ct").mkdir()
    write_image(volumes["a"], tmp_path / "ct" / "ct.nii")
    write_image(volumes["bb"], tmp_path / "b.nii.gz")
    shutil.move(tmp_path / "b.nii.gz", tmp_path / "ct" / "ct.nii.gz")
    found = find_digests(render(tmp_path / "ct", tmp_path / "out"))
    assert found == {key: from_nifti[key] for key in found}
    assert len(found) == 4
