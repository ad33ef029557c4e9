"""Real radiographs: taken over as they are to be shown, with the view that somebody tells."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from cohorts import write_radiograph_dicom
from drrgen_pipelines.discover import find_studies
from drrgen_pipelines.sources import Sources
from drrgen_pipelines.study import Study
from drrgen_pipelines.task import RenderTask, make_item
from PIL import Image

from drrgen.choices import ImageFormat, View
from drrgen.config import RenderConfig
from drrgen.io.radiographs import read_radiograph
from drrgen.manifest import Row

SMALL = RenderConfig(size=64)


def find(path: Path) -> Study:
    (study,) = find_studies(Sources(cxr=path), dataset="toy", salt=b"a salt for tests only").studies
    return study


def take(study: Study, out: Path, render: RenderConfig = SMALL) -> list[Row]:
    task = RenderTask(out=out, render=render)
    rows = task(make_item(study))
    assert all((out / name).is_file() for name in task.files(rows))
    return rows


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_radiograph_dicom(tmp_path / "in" / "a.dcm", "PA")
    return tmp_path / "in" / "a.dcm"


def test_a_radiograph_becomes_a_row_without_a_ct(file: Path, tmp_path: Path) -> None:
    (row,) = take(find(file), tmp_path / "out")
    assert (row["status"], row["cxr_kind"], row["view"], row["draw"]) == ("ok", "real", "PA", 0)
    assert row["warnings"] == ["no_ct"]
    for column in (
        "ct_ref",
        "ct_format",
        "ct_sha256",
        "exposed_xywh",
        "sid_mm",
        "acquisition",
        "hu_p50",
    ):
        assert row[column] is None
    there = read_radiograph(tmp_path / "out" / row["cxr_path"])
    assert torch.equal(there.grey, read_radiograph(file).grey)  # 16 bits, and nothing lost
    assert (row["width"], row["height"], row["pitch_mm"]) == (40, 48, 0.2)


@pytest.mark.hazard(19, "a real radiograph: inverted")
def test_monochrome1_is_inverted(file: Path, tmp_path: Path) -> None:
    (row,) = take(find(file), tmp_path / "out")
    d = pydicom.dcmread(file)
    d.PhotometricInterpretation = "MONOCHROME1"
    d.save_as(file)
    (turned,) = take(find(file), tmp_path / "out1")
    pictures = [
        read_radiograph(p).grey
        for p in (tmp_path / "out" / row["cxr_path"], tmp_path / "out1" / turned["cxr_path"])
    ]
    assert torch.allclose(pictures[0], 1 - pictures[1], atol=1e-4)


@pytest.mark.hazard(
    18, "a real radiograph of 12 bits in a file of 16: spread, and said: `fewer_bits`"
)
def test_twelve_bits_in_sixteen_are_spread(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    stored = np.linspace(0, 4095, 40 * 48).astype(np.uint16).reshape(48, 40)
    Image.fromarray(stored).save(tmp_path / "in" / "a.png")
    (row,) = take(replace(find(tmp_path / "in" / "a.png"), view=View.PA), tmp_path / "out")
    assert row["warnings"] == ["no_ct", "fewer_bits"]
    there = read_radiograph(tmp_path / "out" / row["cxr_path"])
    assert np.allclose(there.grey, stored / 4095, atol=1e-4)


def test_a_large_radiograph_is_shrunk_to_the_size_with_its_pitch(
    file: Path, tmp_path: Path
) -> None:
    (row,) = take(find(file), tmp_path / "out", replace(SMALL, size=24, format=(ImageFormat.PNG8,)))
    assert (row["width"], row["height"]) == (20, 24) and row["pitch_mm"] == pytest.approx(0.4)
    assert "shrunk" in row["warnings"]
    small = read_radiograph(tmp_path / "out" / row["cxr_path"]).grey
    assert abs(float(small.mean() - read_radiograph(file).grey.mean())) < 0.02


def test_formats_that_tell_of_rays_give_a_png(file: Path, tmp_path: Path) -> None:
    (row,) = take(
        find(file), tmp_path / "out", replace(SMALL, format=(ImageFormat.NPY, ImageFormat.DICOM))
    )
    assert row["cxr_path"].endswith("_PA_0.png") and row["line_integral_path"] is None


def test_the_view_of_a_table_stands_above_that_of_dicom(file: Path, tmp_path: Path) -> None:
    (row,) = take(replace(find(file), view=View.AP), tmp_path / "out")
    assert row["view"] == "AP" and row["warnings"] == ["no_ct", "view_conflict"]


def test_a_view_that_is_not_kept_gives_no_row(file: Path, tmp_path: Path) -> None:
    assert take(replace(find(file), keep=(View.LL,)), tmp_path / "out") == []


@pytest.mark.parametrize(("name", "reason"), [("a.png", "metadata_missing"), ("b.png", "truncated_file"),
                                              ("c.dcm", "not_radiograph")])  # fmt: skip
def test_what_cannot_be_taken_over_is_a_refused_row(name: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "in" / name
    path.parent.mkdir()
    if name == "a.png":
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(path)
    elif name == "b.png":
        path.write_bytes(b"\x89PNG")
    else:
        write_radiograph_dicom(path, "PA")
        d = pydicom.dcmread(path)
        d.PresentationIntentType = "FOR PROCESSING"
        d.save_as(path)
    (row,) = take(find(path), tmp_path / "out")
    assert (row["status"], row["reason"], row["view"]) == ("refused", reason, None)
    assert row["warnings"] == ["no_ct"]
