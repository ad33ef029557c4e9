"""CT files of every format but DICOM, written for tests: a torso, and bytes to spoil."""

from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from drrgen.phantoms import make_torso
from drrgen.volume import CTVolume

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def make_small_torso() -> CTVolume:
    """A chest of a few thousand voxels, with noise, so that its histogram is a CT's."""
    torso = make_torso(spacing_mm=12.0, height_mm=144.0)
    noise = np.random.default_rng(0).normal(0, 12, torso.hu.shape)
    hu = np.clip(torso.hu + noise, -1024, 3071).astype(np.int16)
    return CTVolume(hu=hu, patient_from_voxel=torso.patient_from_voxel)


def to_nifti(volume: CTVolume, hu: np.ndarray | None = None) -> nib.Nifti1Image:
    """Make a NIfTI of a volume, with other values if given."""
    values = (volume.hu if hu is None else hu).transpose(2, 1, 0)
    affine = RAS_FROM_LPS @ volume.patient_from_voxel
    image = nib.Nifti1Image(values, affine, dtype=values.dtype)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm")
    return image


def write_ct(volume: CTVolume, path: Path, hu: np.ndarray | None = None) -> None:
    """Write a volume in the format of the ending, with other values if given."""
    values = volume.hu if hu is None else hu
    if path.suffix == ".npz":
        np.savez_compressed(path, ct=values)
    elif ".nii" in path.suffixes:
        to_nifti(volume, hu).to_filename(path)
    else:
        image = sitk.GetImageFromArray(values)
        spacing = volume.spacing_zyx_mm[::-1]
        image.SetSpacing(spacing)
        image.SetOrigin(volume.patient_from_voxel[:3, 3].tolist())
        image.SetDirection((volume.patient_from_voxel[:3, :3] / spacing).ravel().tolist())
        sitk.WriteImage(image, str(path))


def patch_bytes(path: Path, at: int, data: bytes) -> None:
    """Overwrite bytes of a file."""
    whole = bytearray(path.read_bytes())
    whole[at : at + len(data)] = data
    path.write_bytes(whole)
