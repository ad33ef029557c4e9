import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from ct_files import write_ct
from PIL import Image
from typer.testing import CliRunner

from drrgen.cli import app
from drrgen.io.radiographs import read_radiograph
from drrgen.manifest import read_rows
from drrgen.phantoms import make_torso

VIEWS = ("PA", "AP", "LL", "RL")


def render(folder: Path, name: str, *more: str) -> Path:
    (folder / "salt.txt").write_text("a salt for tests only, long enough\n")
    words = ["render", "--ct-dir", folder / "ct.nii.gz", "--out", folder / name, "--salt-file",
             folder / "salt.txt", "--size", "64", "-q", *more]  # fmt: skip
    for view in VIEWS:
        words += ["--view", view]
    result = CliRunner().invoke(app, [str(w) for w in words])
    assert result.exit_code == 0, result.output
    return folder / name


@pytest.fixture
def folder_with_ct(tmp_path: Path) -> Path:
    volume = make_torso(spacing_mm=8.0, height_mm=200.0)
    write_ct(volume, tmp_path / "ct.nii.gz")
    return tmp_path


@pytest.mark.parametrize("framing", ["collimated", "fixed"])
def test_a_data_set_as_dicom_is_that_of_png_and_valid(folder_with_ct: Path, framing: str) -> None:
    words = ("--format", "dicom", "--format", "png16", "--framing", framing)
    out = render(folder_with_ct, "out", *words)
    rows = [row for part in (out / "manifest").glob("*.parquet") for row in read_rows(part)]
    assert {row["view"] for row in rows} == set(VIEWS)
    studies = set()
    for row in rows:
        path = out / row["cxr_path"]
        assert path.suffix == ".dcm"
        dataset = pydicom.dcmread(path)
        studies.add(dataset.StudyInstanceUID)
        with Image.open(path.with_suffix(".png")) as png:
            assert (dataset.pixel_array == np.asarray(png).astype(np.uint16)).all()
        back = read_radiograph(path)
        assert (back.view, list(back.exposed_xywh or ())) == (row["view"], row["exposed_xywh"])
        assert dataset.DistanceSourceToPatient == pytest.approx(row["sod_mm"])
        assert dataset.PatientID == row["patient_id"]
        if shutil.which("dciodvfy"):
            said = subprocess.run(
                ["dciodvfy", str(path)], capture_output=True, text=True, check=False
            )
            assert "Error" not in said.stderr
    assert len(studies) == 1
    again = render(folder_with_ct, "again", *words)
    for path in out.rglob("*.dcm"):
        assert path.read_bytes() == (again / path.relative_to(out)).read_bytes()
