from pathlib import Path

import numpy as np
import pytest

from drrgen.cohort import base as module
from drrgen.cohort.base import (
    BLOOD_HU,
    LOBES,
    Base,
    find_cache_folder,
    find_source,
    read_base,
)
from drrgen.errors import InputError
from drrgen.io.volumes import read_file

MASS_MM = (-117.5, 87.6, 55.6)  # of the real patient: z, y, x


def test_the_real_patients_own_mass_is_gone(base: Base) -> None:
    z, y, x = base.grid.to_index(MASS_MM)
    around = base.hu[z - 4 : z + 5, y - 4 : y + 5, x - 4 : x + 5]
    assert np.median(around) < -750
    assert (around > -300).mean() < 0.05


def test_the_mass_was_where_it_is_looked_for() -> None:
    volume = read_file(find_source()[0])
    z, y, x = MASS_MM
    index = np.rint(volume.voxel_from_patient @ [x, y, z, 1])[:3].astype(int)
    assert volume.hu[tuple(index[::-1])] > -100


def test_no_vessel_is_calcified_and_no_vein_is_as_dense_as_metal(base: Base) -> None:
    vessels = np.isin(base.labels, base.find("aorta", "heart", "superior_vena", "brachio"))
    assert base.hu[vessels].max() < BLOOD_HU + 160
    assert base.hu.max() <= 1250


def test_the_patients_left_is_at_high_x(base: Base) -> None:
    assert base.landmarks["heart"][2] > base.landmarks["superior_vena_cava"][2]
    left, right = (base.landmarks[LOBES[f"{side} lower lobe"]][2] for side in ("left", "right"))
    assert left > right + 80
    assert base.landmarks["lung_top"][0] > base.landmarks["lung_bottom"][0] + 200


def test_the_table_is_gone(base: Base) -> None:
    spine = base.landmarks["carina"][1]
    behind = base.grid.axes_mm()[1].ravel() > spine + 122
    assert behind.sum() > 10
    assert base.hu[:, behind].max() < 0  # cushions, no table


@pytest.mark.slow
def test_the_coarse_grid_covers_what_the_fine_one_does(base: Base, cohort_cache: Path) -> None:
    fine = read_base(192, cohort_cache)
    read_base.cache_clear()
    for grid in (fine.grid, fine.coarse_grid, base.coarse_grid):
        z, y, x = grid.center_mm
        assert (z, y, x) == pytest.approx(base.grid.center_mm, abs=1e-3)
    assert fine.coarse_grid.spacing_mm == pytest.approx(base.grid.spacing_mm)
    assert fine.hu.mean() == pytest.approx(base.hu.mean(), abs=2)


def test_it_is_made_once(base: Base, cohort_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_base.cache_clear()
    monkeypatch.setattr(module, "_make_arrays", None)
    again = read_base(128, cohort_cache)
    np.testing.assert_array_equal(again.hu, base.hu)
    assert not list(cohort_cache.glob("*partial*"))


def test_without_the_real_ct_one_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="pip install"):
        find_source()


def test_the_cache_lies_where_the_system_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert find_cache_folder() == Path("/somewhere/drrgen")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert find_cache_folder() == Path.home() / ".cache" / "drrgen"
    monkeypatch.setattr("sys.platform", "darwin")
    assert "Caches" in str(find_cache_folder())
