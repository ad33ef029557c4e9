"""Nothing of the patient gets out: every text tag is planted, every byte of the output searched."""

import json
import logging
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from ct_files import write_ct
from dicom_files import make_slice
from PIL import Image
from pydicom import dcmread
from pydicom.datadict import DicomDictionary, dictionary_keyword
from pydicom.dataset import Dataset
from typer.testing import CliRunner

from drrgen.cli import app
from drrgen.phantoms import make_torso

runner = CliRunner()
SECRET = "ZQSECRET"
DATE, TIME, AGE = "19470313", "031347", "077Y"
UID = "1.2.840.77777.4711.9"
TEXT = {"AE", "LO", "LT", "SH", "ST", "UC", "UR", "UT", "PN"}
PLANTS = {**dict.fromkeys(TEXT, SECRET), "PN": f"{SECRET}^JANE", "CS": SECRET, "DA": DATE,
          "DT": DATE + TIME, "AS": AGE}  # fmt: skip
KEPT_CODES = {"Modality", "ImageType", "PhotometricInterpretation", "LossyImageCompression",
              "RescaleType", "SpecificCharacterSet", "VolumetricProperties"}  # fmt: skip
FORBIDDEN = [SECRET, "JANE", DATE, UID, AGE]


def plant(d: Dataset) -> Dataset:
    """Fill every text tag of the dictionary, and a private block, with what must not get out."""
    for tag, (vr, _, _, retired, keyword) in DicomDictionary.items():
        group = tag >> 16
        if (
            vr in PLANTS
            and keyword
            and keyword not in KEPT_CODES
            and not retired
            and 8 <= group < 0x7FE0
        ):
            d.add_new(tag, vr, PLANTS[vr])
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(d, keyword, f"{UID}.{len(keyword)}")
    block = d.private_block(0x0019, f"{SECRET} MAKER", create=True)
    for offset, vr in enumerate(("LO", "PN", "DA", "UT")):
        block.add_new(offset, vr, PLANTS[vr])
    item = Dataset()
    item.PatientName, item.StudyDate = f"{SECRET}^NESTED", DATE
    d.ReferencedStudySequence = [item]
    assert dictionary_keyword(0x00100010) in d
    return d


def find_text(path: Path) -> Iterator[str]:
    """Give all that a file says: its bytes, its decoded rows, the text in a picture."""
    data = path.read_bytes()
    yield data.decode("latin-1")
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        yield json.dumps(table.to_pylist(), default=str)
        yield str(table.schema.metadata)
    elif path.suffix == ".png":
        with Image.open(path) as image:
            yield str({**image.info, **getattr(image, "text", {})})
    elif path.suffix in (".gz", ".zz"):
        yield zlib.decompress(data, 47).decode("latin-1")


def search(folder: Path) -> list[tuple[str, str]]:
    """Find whatever is forbidden, in the names and contents of all files."""
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        texts = [name, *find_text(path)]
        found += [(name, word) for word in FORBIDDEN if any(word in text for text in texts)]
    return found


@pytest.fixture(autouse=True)
def _close_log() -> Iterator[None]:
    """Close the log file that a command leaves open for the rest of its process."""
    yield
    for handler in logging.getLogger("drrgen").handlers:
        handler.close()


def render(folder: Path, out: Path, *more: str) -> Any:
    salt = out.parent / "salt.txt"
    salt.write_text("a salt for tests only, long enough\n")
    return runner.invoke(
        app, ["render", "--ct-dir", str(folder), "--out", str(out / "cxr"), "--salt-file", str(salt),
              "--size", "64", "--log-file", str(out / "log" / "run.log"), *more],
    )  # fmt: skip


def write_planted(folder: Path, skip: tuple[int, ...] = ()) -> None:
    """Write a series whose folder and file names tell of the patient too."""
    volume = make_torso(spacing_mm=8.0, height_mm=200.0)
    place = folder / f"{SECRET}_JANE_{DATE}"
    place.mkdir(parents=True)
    for z in range(len(volume.hu)):
        if z not in skip:
            d = plant(make_slice(volume, z, SECRET))
            d.ConvolutionKernel, d.PatientID = f"{SECRET} KERNEL", f"{SECRET}-ID"
            d.save_as(place / f"JANE{z}.dcm", enforce_file_format=True)


@pytest.mark.hazard(32, "no name, date or identifier of any tag gets into rows, pictures or logs")
@pytest.mark.hazard(33, "no date is kept at all")
def test_nothing_of_a_planted_series_gets_out(tmp_path: Path) -> None:
    write_planted(tmp_path / "ct")
    out = tmp_path / "out"
    result = render(tmp_path / "ct", out, "--format", "png16", "--format", "npy", "-vv")
    assert result.exit_code == 0, result.output
    rows = [
        r
        for p in (out / "cxr" / "manifest").glob("*.parquet")
        for r in pq.read_table(p).to_pylist()
    ]
    assert [row["status"] for row in rows] == ["ok", "ok"]
    assert rows[0]["kernel"] is None
    assert (out / "log" / "run.log").exists()
    private = out / "cxr.private"
    assert any(SECRET in text for path in private.rglob("*.parquet") for text in find_text(path))
    assert private.stat().st_mode & 0o777 == 0o700
    shutil.rmtree(private)  # it lies beside the output, and is meant to know
    assert search(out) == []


@pytest.mark.hazard(32, "nor does the row of a series that is refused say more")
def test_nothing_of_a_refused_series_gets_out(tmp_path: Path) -> None:
    write_planted(tmp_path / "ct", skip=(10, 11, 12, 13))
    out = tmp_path / "out"
    assert render(tmp_path / "ct", out).exit_code == 3
    rows = [
        r
        for p in (out / "cxr" / "manifest").glob("*.parquet")
        for r in pq.read_table(p).to_pylist()
    ]
    assert [row["reason"] for row in rows] == ["slice_gap"]
    shutil.rmtree(out / "cxr.private")
    assert search(out) == []


def test_the_uid_of_a_series_that_was_chosen_does_not_get_out(tmp_path: Path) -> None:
    write_planted(tmp_path / "ct")
    uid = dcmread(next((tmp_path / "ct").rglob("JANE0.dcm"))).SeriesInstanceUID
    out = tmp_path / "out"
    for _ in range(2):
        assert render(tmp_path / "ct", out, "--series", uid).exit_code == 0
    more = tmp_path / "more"
    write_ct(make_torso(spacing_mm=8.0, height_mm=200.0), more.with_suffix(".nii.gz"))
    words = [
        "append",
        out / "cxr",
        "--ct-dir",
        f"{more}.nii.gz",
        "--salt-file",
        tmp_path / "salt.txt",
    ]
    assert runner.invoke(app, [str(word) for word in words]).exit_code == 0
    shutil.rmtree(out / "cxr.private")
    texts = [text for path in out.rglob("*") if path.is_file() for text in find_text(path)]
    assert not any(uid in text for text in texts)
