from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
from ct_files import write_ct
from PIL import Image
from typer.testing import CliRunner

from drrgen.cli import app
from drrgen.manifest import Row
from drrgen.phantoms import make_torso
from drrgen.volume import CTVolume

runner = CliRunner()
SALT = "a salt for tests only, long enough\n"


def write(volume: CTVolume, values: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_ct(volume, path, values)


@pytest.fixture(scope="module")
def torso() -> CTVolume:
    return make_torso(spacing_mm=4.0, height_mm=240.0)


@pytest.fixture
def folder(torso: CTVolume, tmp_path: Path) -> Path:
    write(torso, torso.hu, tmp_path / "ct" / "a.nii.gz")
    (tmp_path / "salt.txt").write_text(SALT)
    return tmp_path


def render(folder: Path, *more: object, code: int = 0) -> list[Row]:
    arguments = ["render", "--ct-dir", folder / "ct", "--out", folder / "out", "--size", 128,
                 "--salt-file", folder / "salt.txt", *more]  # fmt: skip
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    parts = sorted((folder / "out" / "manifest").glob("*.parquet"))
    return ds.dataset(parts).to_table().to_pylist() if parts else []


def read_grey(folder: Path, name: str) -> np.ndarray:
    with Image.open(folder / "out" / name) as image:
        return np.asarray(image, dtype=float)


def test_a_label_map_gives_thickness_and_silhouettes_under_their_names(
    folder: Path, torso: CTVolume
) -> None:
    labels = np.where(torso.hu == 60, 5, 0) + np.where(torso.hu == 45, 51, 0)  # liver and heart
    write(torso, labels.astype(np.uint8), folder / "masks" / "a.nii.gz")
    (folder / "masks" / "structures.csv").write_text("id,structure\n5,liver\n51,heart\n")
    (row,) = render(folder, "--mask", folder / "masks", "--view", "PA")
    with np.load(folder / "out" / row["mask_path"]) as found:
        names, thickness = found["names"].tolist(), found["thickness_mm"].astype(float)
        bits = np.unpackbits(found["silhouettes"], axis=2, count=row["width"])
    assert names == ["liver", "heart"]
    assert thickness.shape == bits.shape == (2, row["height"], row["width"])
    middle = {
        name: np.argwhere(plane).mean(axis=0) for name, plane in zip(names, bits, strict=True)
    }
    assert middle["heart"][1] > row["width"] / 2 > middle["liver"][1]
    assert middle["heart"][0] < middle["liver"][0]
    assert 75 < thickness[1].max() < 95  # the heart is 90 mm deep, less its soft rim


def test_a_folder_of_binary_masks_is_one_label_map(folder: Path, torso: CTVolume) -> None:
    for name, hu in (("liver", 60), ("heart", 45)):
        path = folder / "masks" / "a" / f"{name}.nii.gz"
        write(torso, (torso.hu == hu).astype(np.uint8), path)
    (row,) = render(folder, "--mask", folder / "masks", "--view", "PA")
    with np.load(folder / "out" / row["mask_path"]) as found:
        assert found["names"].tolist() == ["heart", "liver"]


def test_a_label_map_of_another_ct_or_none_costs_a_warning_and_no_picture(
    folder: Path, torso: CTVolume
) -> None:
    (folder / "masks").mkdir()
    (row,) = render(folder, "--mask", folder / "masks", "--view", "PA")
    assert (row["status"], row["mask_path"]) == ("ok", None)
    assert "no_mask" in row["warnings"]
    matrix = torso.patient_from_voxel.copy()
    matrix[:3, 3] += 500
    moved = CTVolume(hu=torso.hu, patient_from_voxel=matrix)
    write(moved, (torso.hu == 60).astype(np.uint8), folder / "masks" / "a.nii.gz")
    (row,) = render(folder, "--mask", folder / "masks", "--view", "PA", "--overwrite")
    assert "mask_mismatch" in row["warnings"]


def test_bone_and_soft_tissue_alone_lie_on_the_pixels_of_the_whole(folder: Path) -> None:
    (row,) = render(folder, "--pairs", "bone,soft", "--view", "PA")
    whole, bone, soft = (
        read_grey(folder, row[column]) for column in ("cxr_path", "bone_path", "soft_path")
    )
    assert whole.shape == bone.shape == soft.shape
    middle = slice(row["width"] // 2 - 3, row["width"] // 2 + 4)
    beside = slice(row["width"] // 2 + 16, row["width"] // 2 + 24)
    rows = slice(10, row["height"] // 4)
    assert bone[rows, middle].mean() > 4 * bone[rows, beside].mean()
    # The spine is 40 mm of bone in 220 mm of trunk: it leaves the soft picture and not the whole.
    step = [
        picture[rows, middle].mean() - picture[rows, beside].mean() for picture in (whole, soft)
    ]
    assert step[1] < step[0]


def test_the_baseline_has_no_rays_and_says_so(folder: Path) -> None:
    (row,) = render(folder, "--acquisition", "mean-projection", "--view", "PA")
    assert (row["pitch_mm"], row["display"]) == (1.0, "linear")
    assert row["sid_mm"] is row["kvp"] is row["dose_ugy"] is row["isocenter_mm"] is None
    assert (row["height"], row["width"]) == (240, 400)
    grey = read_grey(folder, row["cxr_path"])
    assert (grey.min(), grey.max()) == (0, 65535)
    render(folder, "--acquisition", "mean-projection", "--pairs", "bone", "--overwrite", code=2)
