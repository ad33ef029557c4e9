"""``drrgen info``: every file gets a volume or a reason, every series its fate."""

import json
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from dicom_files import Plan, write_series, write_slices
from drrgen_pipelines.info import describe_path
from drrgen_pipelines.preview import GAP_PX, TILE_PX, write_preview
from PIL import Image
from typer.testing import CliRunner

from drrgen.cli import app
from drrgen.errors import InputError, Reason
from drrgen.phantoms import make_torso
from drrgen.volume import CTVolume

runner = CliRunner()
PYDICOM = Path(pydicom.data.__file__).parent
FILES = sorted(p for p in PYDICOM.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
REASONS = {reason.value for reason in Reason}


def say_outcome(path: Path) -> str:
    """Say what became of a path: volumes, reasons, or why there is no CT."""
    try:
        facts = describe_path(path, all_series=True)
    except InputError as error:
        if "looked at" not in str(error):
            raise
        return "no CT"
    for ct in facts["ct"]:
        assert ct.get("refused") in REASONS or ct["shape_zyx"]
        assert ct["fate"] == "chosen" or ct["fate"].startswith("left aside: ")
    return "described"


@pytest.mark.hazard(25, "pydicom's own 200 files: every one a volume or a reason, never a crash")
def test_every_file_of_pydicom_gets_a_volume_or_a_reason() -> None:
    outcomes = {path: say_outcome(path) for path in FILES}
    assert len(outcomes) > 150
    assert list(outcomes.values()).count("described") > 10


def test_all_files_of_pydicom_at_once_get_a_volume_or_a_reason() -> None:
    result = runner.invoke(app, ["info", str(PYDICOM), "--all", "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert len(facts["ct"]) > 5
    assert facts["ignored"]["not_ct"] > 50


def test_every_series_is_shown_with_its_fate(tmp_path: Path) -> None:
    write_series(make_torso(spacing_mm=8.0), tmp_path, "a")
    for k, d in enumerate(Plan(axes=np.eye(3)).make(2.0 * k) for k in range(5)):
        d.SeriesInstanceUID = "1.2.3.1.9"
        write_slices(tmp_path / "other", [d], first=k)
    best = describe_path(tmp_path)
    assert [ct["fate"] for ct in best["ct"]] == ["chosen"]
    assert best["ignored"] == {"other_series": 1}
    every = {ct["name"]: ct for ct in describe_path(tmp_path, all_series=True)["ct"]}
    assert every["1.2.3.1"]["fate"] == "chosen"
    assert every["1.2.3.1.9"]["fate"] == "left aside: under 150 mm high"
    assert every["1.2.3.1.9"]["refused"] == "coverage_short"
    said = runner.invoke(app, ["info", str(tmp_path), "--all"], env={"COLUMNS": "300"})
    assert said.exit_code == 0
    assert "left aside: under 150 mm high" in said.stdout


@pytest.mark.hazard(30, "a CT under 150 mm high is refused: info says so before anything is made")
def test_info_says_what_render_would_refuse(tmp_path: Path) -> None:
    write_series(make_torso(spacing_mm=8.0, height_mm=120.0), tmp_path, "a")
    (ct,) = describe_path(tmp_path)["ct"]
    assert ct["refused"] == Reason.COVERAGE_SHORT


def test_the_preview_shows_three_slices_and_a_projection(tmp_path: Path) -> None:
    write_series(make_torso(spacing_mm=8.0), tmp_path / "ct", "a")
    path = tmp_path / "look.png"
    result = runner.invoke(app, ["info", str(tmp_path / "ct"), "--preview", str(path)])
    assert result.exit_code == 0, result.output
    picture = np.asarray(Image.open(path))
    assert picture.shape == (TILE_PX + 2 * GAP_PX, 4 * (TILE_PX + GAP_PX) + GAP_PX)
    tiles = [
        picture[GAP_PX:-GAP_PX, GAP_PX + i * (TILE_PX + GAP_PX) :][:, :TILE_PX] for i in range(4)
    ]
    assert all(tile.std() > 20 for tile in tiles)


def test_the_preview_of_any_storage_is_the_same(tmp_path: Path) -> None:
    """Heart to the viewer's right, spine behind, liver below: however the voxels lie in memory."""
    plain = make_torso(spacing_mm=8.0)
    turned = make_torso(spacing_mm=8.0, directions=np.array([[0, 0, -1.0], [1, 0, 0], [0, -1, 0]]))
    for name, volume in (("a", plain), ("b", turned)):
        write_preview(volume, tmp_path / name)
    a, b = (np.asarray(Image.open(tmp_path / name)).astype(int) for name in "ab")
    assert np.abs(a - b).mean() < 1
    coronal = a[GAP_PX:-GAP_PX, TILE_PX + 2 * GAP_PX :][:, :TILE_PX]
    left, right = coronal[:, : TILE_PX // 2], coronal[:, TILE_PX // 2 :]
    rows = slice(TILE_PX // 3, TILE_PX // 2)
    assert right[rows].mean() != pytest.approx(left[rows].mean(), abs=1)


def test_a_preview_of_nothing_is_said(tmp_path: Path) -> None:
    write_series(make_torso(spacing_mm=8.0, height_mm=120.0), tmp_path, "a")
    result = runner.invoke(app, ["info", str(tmp_path), "--preview", str(tmp_path / "x.png")])
    assert result.exit_code == 2
    assert not (tmp_path / "x.png").exists()


def test_an_oblique_grid_can_be_previewed(tmp_path: Path) -> None:
    half = np.sqrt(0.5)
    matrix = np.eye(4)
    matrix[:3, :3] = [[half, -half, 0], [half, half, 0], [0, 0, 1]]
    hu = np.zeros((4, 5, 6), np.int16)
    write_preview(CTVolume(hu=hu, patient_from_voxel=matrix), tmp_path / "x.png")
    assert (tmp_path / "x.png").exists()
