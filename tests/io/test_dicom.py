from pathlib import Path

import numpy as np
import pytest
from dicom_files import write_series

from drrgen.errors import Reason, VolumeError
from drrgen.io.volumes import find_ct, read_ct, read_volume
from drrgen.phantoms import make_torso

POSITION_TOL_MM = 1e-4  # DICOM writes decimal strings


def test_shuffled_slices_of_three_patients_give_three_right_volumes(tmp_path: Path) -> None:
    volumes = {name: make_torso(spacing_mm=8.0, height_mm=160.0 + 8 * len(name)) for name in
               ("a", "bb", "ccc")}  # fmt: skip
    for name, volume in volumes.items():
        write_series(volume, tmp_path / "mixed", name)
    found = find_ct(tmp_path).found
    assert [files.patient for files in found] == ["a", "bb", "ccc"]
    for files in found:
        read, made = read_ct(files), volumes[files.patient or ""]
        assert np.array_equal(read.hu, made.hu)
        assert np.abs(read.patient_from_voxel - made.patient_from_voxel).max() < POSITION_TOL_MM


def test_a_missing_slice_is_refused(tmp_path: Path) -> None:
    write_series(make_torso(spacing_mm=8.0), tmp_path / "ct", "a", skip=7)
    with pytest.raises(VolumeError) as caught:
        read_volume(tmp_path)
    assert caught.value.code is Reason.SLICE_GAP
