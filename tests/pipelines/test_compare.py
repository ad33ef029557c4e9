import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from drrgen_pipelines.compare import Line, compare, describe
from drrgen_pipelines.looks import (
    WIDTH_PX,
    Measure,
    find_regions,
    find_threshold,
    fit_slope,
    measure_look,
    prepare,
    scale,
)
from PIL import Image
from typer.testing import CliRunner

from drrgen.choices import View
from drrgen.cli import app
from drrgen.errors import InputError
from drrgen.io.dicom_radiographs import DicomFacts
from drrgen.io.radiographs import Radiograph, write_radiograph

SLOPE_TOL = (
    0.12  # few components in the lowest rings: 0.09 among fields, 0.03 of bias by the logarithm
)
GREY_TOL = 2 / 65535  # two pictures of 16 bits
RIB_TOL = 0.05  # the blur inside a region bends near its edge
EDGE_TOL = 0.03  # smoothing and opening round the edges of a drawn chest
ALL_TOL = 1e-9  # the same numbers, added in the same order
SIDE = 256

runner = CliRunner()


def make_noise(slope: float, seed: int = 1) -> np.ndarray:
    """A field whose power falls as frequency to the slope, of mean 1/2 and deviation 1/16."""
    white = np.random.default_rng(seed).normal(size=(SIDE, SIDE))
    radius = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)[None, :])
    radius[0, 0] = radius[0, 1]
    field = np.fft.ifft2(np.fft.fft2(white) * radius ** (slope / 2)).real
    return 0.5 + (field - field.mean()) / field.std() / 16


def make_chest(lung: float = 0.3, tissue: float = 0.8) -> np.ndarray:
    """A body of tissue 0.8 wide and as high as the picture, two lungs 0.2 wide and 0.5 high."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    chest = np.where(np.abs(x - 0.5) < 0.4, tissue, 0.0)
    for middle in (0.3, 0.7):
        inside = (np.abs(x - middle) < 0.1) & (np.abs(y - 0.5) < 0.25)
        chest = np.where(inside, lung, chest)
    return chest


def write(path: Path, grey: np.ndarray, view: str | None = "PA") -> Path:
    settings = {"drrgen:view": view} if view else {}
    write_radiograph(path, torch.from_numpy(grey), settings=settings)
    return path


def find_line(lines: tuple[Line, ...], name: str) -> Line:
    (line,) = [line for line in lines if line.name == name]
    return line


@pytest.mark.parametrize("slope", [0.0, -2.0, -3.0])
def test_a_field_has_the_slope_it_was_made_with(slope: float) -> None:
    # A radius to the slope / 2 in amplitude is one to the slope in power.
    found = [
        measure_look(make_noise(slope, seed)).measures[Measure.SPECTRUM_SLOPE] for seed in range(4)
    ]
    assert np.mean(found) == pytest.approx(slope, abs=SLOPE_TOL)  # type: ignore[arg-type]


def test_a_fitted_slope_is_that_of_the_line() -> None:
    frequencies = np.geomspace(1, 100, 20)
    assert fit_slope(frequencies, 1 - 2.5 * np.log10(frequencies)) == -2.5


def test_the_spectrum_does_not_depend_on_the_window() -> None:
    narrow, wide = make_noise(-2.0), 0.5 + 3 * (make_noise(-2.0) - 0.5)
    assert measure_look(narrow).log_power == pytest.approx(measure_look(wide).log_power)


def test_the_threshold_lies_between_two_greys() -> None:
    grey = np.array([[0.1, 0.1, 0.9, 0.9]])
    assert find_threshold(grey) == pytest.approx(0.5, abs=1 / 256)


def test_body_lungs_and_contrast_of_a_drawn_chest_are_known() -> None:
    measures = measure_look(make_chest()).measures
    # The grey range is that from lung to tissue, so the contrast is all of it.
    assert measures[Measure.GREY_RANGE] == pytest.approx(0.5)
    assert measures[Measure.LUNG_CONTRAST] == pytest.approx(1.0)
    assert measures[Measure.BODY_SHARE] == pytest.approx(0.8, abs=EDGE_TOL)
    assert measures[Measure.LUNG_WIDTH] == pytest.approx(0.6 / 0.8, abs=EDGE_TOL)
    assert measures[Measure.LUNG_HEIGHT] == pytest.approx(0.5, abs=EDGE_TOL)
    # A fifth of the body is lung, at 0.3, the rest tissue, at 0.8: 0.2 / 0.8 of it.
    assert measures[Measure.BODY_GREY] == pytest.approx(0.8 - 0.5 * 0.2 / 0.8, abs=EDGE_TOL)


def test_ribs_of_a_known_height_give_a_known_contrast() -> None:
    chest = make_chest()
    lungs = chest == 0.3
    period = 0.02 * SIDE
    wave = 0.05 * np.sin(2 * np.pi * np.arange(SIDE) / period)[:, None]
    measures = measure_look(np.where(lungs, chest + wave, chest)).measures
    # The 5th and 95th percentiles take in a part of the wave, so the range is taken as measured.
    # A wave of period t keeps exp(-2 (pi s / t)^2) of its height behind a blur of width s.
    kept = np.exp(-2 * (np.pi * 0.003 / 0.02) ** 2) - np.exp(-2 * np.pi**2)
    ribs = measures[Measure.RIB_CONTRAST] * measures[Measure.GREY_RANGE]  # type: ignore[operator]
    assert ribs == pytest.approx(kept * 0.05 / np.sqrt(2), rel=RIB_TOL)


def test_a_thin_leak_does_not_turn_a_lung_into_air() -> None:
    leaking = make_chest()
    leaking[SIDE // 2, : SIDE // 3] = 0.0
    assert (find_regions(leaking).lungs ^ find_regions(make_chest()).lungs).mean() < EDGE_TOL


def test_a_picture_without_lungs_has_no_lung_measures() -> None:
    measures = measure_look(np.full((40, 40), 0.5)).measures
    assert measures[Measure.LUNG_CONTRAST] is None
    assert measures[Measure.BODY_GREY] == 0.5
    assert measures[Measure.GREY_RANGE] == 0


def test_a_picture_is_cut_to_its_exposed_field_and_scaled() -> None:
    grey = torch.zeros((60, 80))
    grey[10:50, 20:60] = 0.5
    radiograph = Radiograph(grey=grey, exposed_xywh=(20, 10, 40, 40))
    cut = prepare(radiograph)
    assert cut.shape == (40, 40) and (cut == 0.5).all()
    assert scale(cut, 20) == pytest.approx(np.full((20, 20), 0.5))
    wide = Radiograph(grey=torch.full((30, 3 * WIDTH_PX), 0.5))
    assert prepare(wide).shape == (10, WIDTH_PX)


def test_identical_folders_differ_by_nothing(tmp_path: Path) -> None:
    for i in range(2):
        write(tmp_path / "a" / f"{i}.png", make_chest(lung=0.2 + 0.1 * i) + 0.01 * make_noise(0, i))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (found,) = compare(tmp_path / "a", tmp_path / "b").views
    assert (found.view, found.n_real, found.n_synthetic) == (View.PA, 2, 2)
    assert [line.difference for line in found.lines] == pytest.approx([0] * 12, abs=ALL_TOL)
    spread = find_line(found.lines, "lung_contrast")
    assert spread.real_sd == spread.synthetic_sd and spread.real_sd is not None


def test_a_shifted_histogram_gives_the_shift_and_the_same_shape(tmp_path: Path) -> None:
    noise = make_noise(-2.0)
    write(tmp_path / "a.png", noise)
    write(tmp_path / "b.png", noise + 0.1)
    (found,) = compare(tmp_path / "a.png", tmp_path / "b.png").views
    assert find_line(found.lines, "histogram_distance").difference == pytest.approx(
        0.1, abs=GREY_TOL
    )
    assert find_line(found.lines, "body_grey").difference == pytest.approx(0.1, abs=GREY_TOL)
    assert find_line(found.lines, "shape_distance").difference == pytest.approx(0, abs=1e-3)
    assert find_line(found.lines, "spectrum_distance").difference == pytest.approx(0, abs=1e-3)


def test_only_chests_of_the_same_view_are_held_against_each_other(tmp_path: Path) -> None:
    real, synthetic = tmp_path / "real", tmp_path / "synthetic"
    write(real / "pa.png", make_chest())
    write(real / "ll.png", make_chest(), "LL")
    write(real / "untold.png", make_chest(), None)
    (real / "broken.png").write_bytes(b"no picture")
    (real / "notes.txt").write_text("no picture")
    facts = DicomFacts(patient_id="1", study_id="2", sample_id="3", view="PA", draw=0,
                       pitch_mm=1.0, sid_mm=1800.0, sod_mm=1600.0)  # fmt: skip
    leg = torch.from_numpy(make_chest())
    write_radiograph(real / "leg.dcm", leg, facts=facts)
    (real / "leg.dcm").write_bytes((real / "leg.dcm").read_bytes().replace(b"CHEST ", b"LEG   "))
    write(synthetic / "pa.png", make_chest())
    found = compare(real, synthetic)
    assert [(v.view, v.n_real, v.n_synthetic) for v in found.views] == [(View.PA, 1, 1)]
    assert found.left_aside == {
        "real, no LL to hold against": 1, "real, view not told": 1, "real, truncated_file": 1,
        "real, not a chest": 1,
    }  # fmt: skip
    told = compare(real, synthetic, view=View.PA)
    assert (told.views[0].n_real, told.left_aside["real, another view"]) == (2, 1)


def test_no_view_in_common_and_a_missing_folder_are_the_callers_mistake(tmp_path: Path) -> None:
    write(tmp_path / "a.png", make_chest())
    write(tmp_path / "b.png", make_chest(), "LL")
    with pytest.raises(InputError, match="no view in common"):
        compare(tmp_path / "a.png", tmp_path / "b.png")
    with pytest.raises(InputError, match="there is no"):
        compare(tmp_path / "a.png", tmp_path / "missing")


def test_a_limit_is_spread_over_the_folder(tmp_path: Path) -> None:
    for i in range(9):
        write(tmp_path / "a" / f"{i}.png", make_chest())
    (found,) = compare(tmp_path / "a", tmp_path / "a", limit=3).views
    assert (found.n_real, found.n_synthetic) == (3, 3)


def test_the_command_prints_a_table_or_json_and_writes_the_picture(tmp_path: Path) -> None:
    a = write(tmp_path / "a.png", make_chest())
    b = write(tmp_path / "b.png", make_chest(lung=0.2))
    words = ["compare", "--real", str(a), "--synthetic", str(b)]
    table = runner.invoke(app, words)
    assert table.exit_code == 0 and "lung_contrast" in table.output
    out = tmp_path / "out"
    printed = runner.invoke(app, [*words, "--json", "--out", str(out)])
    told = json.loads(printed.stdout)
    assert told == describe(compare(a, b)) == json.loads((out / "compare.json").read_text())
    assert all(m["meaning"] and m["unit"] for m in told["views"][0]["measures"])
    with Image.open(out / "compare.png") as picture:
        assert picture.size[0] > picture.size[1] > 400
    assert runner.invoke(app, ["compare", "--real", str(a), "--synthetic", "no"]).exit_code == 2


def test_a_view_may_be_called_lat(tmp_path: Path) -> None:
    a = write(tmp_path / "a.png", make_chest(), None)
    words = ["compare", "--real", str(a), "--synthetic", str(a), "--view", "LAT", "--json"]
    assert json.loads(runner.invoke(app, words).stdout)["views"][0]["view"] == "LL"
