from pathlib import Path

import nibabel as nib
import numpy as np
from ct_files import RAS_FROM_LPS, make_small_torso

from drrgen.io.nifti import write_nifti
from drrgen.io.volumes import read_file
from drrgen.phantoms import make_torso


def test_a_written_volume_is_read_back_voxel_for_voxel(tmp_path: Path) -> None:
    axes = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    for volume in (make_small_torso(), make_torso(spacing_mm=20.0, directions=axes)):
        write_nifti(tmp_path / "ct.nii.gz", volume)
        read = read_file(tmp_path / "ct.nii.gz")
        np.testing.assert_array_equal(read.hu, volume.hu)
        np.testing.assert_allclose(read.patient_from_voxel, volume.patient_from_voxel, atol=1e-3)
        assert read.source is not None
        assert read.source.warnings == ()


def test_another_program_reads_the_same(tmp_path: Path) -> None:
    volume = make_small_torso()
    write_nifti(tmp_path / "ct.nii.gz", volume)
    image = nib.load(tmp_path / "ct.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), volume.hu)
    np.testing.assert_allclose(image.affine, RAS_FROM_LPS @ volume.patient_from_voxel, atol=1e-3)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert image.get_data_dtype() == np.int16


def test_the_same_volume_gives_the_same_bytes(tmp_path: Path) -> None:
    volume = make_small_torso()
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(tmp_path / name, volume)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
