"""The engines that are compared, each set up as its authors would, on the same linear attenuation.

A peer is a function of the volume that prepares what its package needs and returns the function
that renders a case. Imports are inside: a peer that is not installed is skipped.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _scene import SID_MM, SOD_MM, WATER, Case

from drrgen.renderer.render import render
from drrgen.volume import CTVolume

Run = Callable[[Case], np.ndarray]


def prepare_drrgen(volume: CTVolume) -> Run:
    """Straight from int16; nothing to prepare."""

    def run(case: Case) -> np.ndarray:
        image = render(volume, case.detector, [case.pose], basis=case.basis, engine="numba")
        return image[0, 0].numpy()

    return run


def to_mu(volume: CTVolume) -> np.ndarray:
    """Turn HU into the attenuation that every engine integrates [1/mm]."""
    return WATER.tabulate()[0][volume.hu.astype(np.int32) + 32768]


def prepare_rtk(volume: CTVolume) -> Run:
    """Joseph of RTK; its z axis points from isocenter to source, so PA turns the volume."""
    import itk
    from itk import RTK as rtk  # noqa: N811

    kind = itk.Image[itk.F, 3]
    image = itk.image_view_from_array(to_mu(volume))
    rtk_from_patient = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    spacing = np.linalg.norm(volume.patient_from_voxel[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin((rtk_from_patient @ volume.patient_from_voxel[:3, 3]).tolist())
    directions = rtk_from_patient @ (volume.patient_from_voxel[:3, :3] / spacing)
    image.SetDirection(itk.matrix_from_array(directions))
    geometry = rtk.ThreeDCircularProjectionGeometry.New()
    geometry.AddProjection(SOD_MM, SID_MM, 0.0)

    def run(case: Case) -> np.ndarray:
        panel = case.detector
        blank = rtk.ConstantImageSource[kind].New()
        blank.SetSize([panel.columns, panel.rows, 1])
        blank.SetSpacing([panel.pitch_mm, panel.pitch_mm, 1.0])
        first = [-(n - 1) / 2 * panel.pitch_mm for n in (panel.columns, panel.rows)]
        blank.SetOrigin([*first, 0.0])
        joseph = rtk.JosephForwardProjectionImageFilter[kind, kind].New()
        joseph.SetInput(0, blank.GetOutput())
        joseph.SetInput(1, image)
        joseph.SetGeometry(geometry)
        joseph.Update()
        return itk.array_from_image(joseph.GetOutput())[0]

    return run


def prepare_plastimatch(volume: CTVolume) -> Run:
    """Exact (Siddon) of the plastimatch program: a process that reads a file and writes one."""
    import SimpleITK as sitk  # noqa: N813

    program = shutil.which("plastimatch")
    if program is None:
        raise ModuleNotFoundError("no program plastimatch on the PATH (Debian: plastimatch)")
    folder = Path(tempfile.mkdtemp())
    image = sitk.GetImageFromArray(10 * to_mu(volume))  # it takes 1/cm
    image.SetSpacing(np.linalg.norm(volume.patient_from_voxel[:3, :3], axis=0).tolist())
    image.SetOrigin(volume.patient_from_voxel[:3, 3].tolist())
    sitk.WriteImage(image, folder / "mu.mha")

    def run(case: Case) -> np.ndarray:
        panel = case.detector
        side = panel.rows * panel.pitch_mm
        options = {
            "--algorithm": "exact",
            "--hu-conversion": "none",
            "--output-format": "pfm",
            "--dim": f"{panel.rows} {panel.columns}",
            "--detector-size": f"{side} {side}",
            "--image-center": f"{(panel.rows - 1) / 2} {(panel.columns - 1) / 2}",
            "--isocenter": "0 0 0",
            "--nrm": "0 1 0",  # from the detector to the source: PA
            "--vup": "0 0 1",
            "--sad": f"{SOD_MM}",
            "--sid": f"{SID_MM}",
            "--output": str(folder / "out"),
        }
        words = [word for pair in options.items() for word in pair]
        subprocess.run(
            [program, "drr", *words, str(folder / "mu.mha")], check=True, capture_output=True
        )
        data = next(folder.glob("out*.pfm")).read_bytes()
        pixels = np.frombuffer(data[-4 * panel.rows * panel.columns :], dtype="<f4")
        return pixels.reshape(panel.rows, panel.columns)[:, ::-1]

    return run


def _prepare_diffdrr(volume: CTVolume, renderer: str, patch_size: int) -> Run:
    from diffdrr.drr import DRR
    from diffdrr.pose import RigidTransform
    from torchio import ScalarImage, Subject

    mu = torch.from_numpy(to_mu(volume)).permute(2, 1, 0)[None]
    subject = Subject(
        volume=ScalarImage(tensor=mu, affine=volume.patient_from_voxel),
        density=ScalarImage(tensor=mu, affine=volume.patient_from_voxel),
        reorient=torch.eye(4),
        mask=None,
    )
    flip = torch.diag(torch.tensor([1.0, -1.0, 1.0, 1.0], dtype=torch.float64))  # its y points up

    def run(case: Case) -> np.ndarray:
        panel = case.detector
        module = DRR(
            subject,
            sdd=panel.sid_mm,
            height=panel.rows,
            delx=panel.pitch_mm,
            renderer=renderer,
            reverse_x_axis=False,
            patch_size=patch_size,
        )
        pose = RigidTransform((case.pose.patient_from_camera @ flip)[None].to(torch.float32))
        with torch.no_grad():
            return module(pose)[0, 0].numpy()

    return run


def prepare_diffdrr_trilinear(volume: CTVolume) -> Run:
    """Trilinear of diffdrr with its default of 500 points a ray; in patches, to save memory."""
    return _prepare_diffdrr(volume, "trilinear", 128)


def prepare_diffdrr_siddon(volume: CTVolume) -> Run:
    """Siddon of diffdrr, its default; in patches, because a whole picture needs over 24 GiB."""
    return _prepare_diffdrr(volume, "siddon", 64)


def prepare_nanodrr(volume: CTVolume) -> Run:
    """The torch backend of nanodrr with its default of 500 samples a ray."""
    from nanodrr.camera import make_k_inv
    from nanodrr.data import Subject
    from nanodrr.drr import render as nanodrr_render
    from torchio import ScalarImage

    mu = torch.from_numpy(to_mu(volume)).permute(2, 1, 0)[None]
    image = ScalarImage(tensor=mu, affine=volume.patient_from_voxel)
    subject = Subject.from_images(image, convert_to_mu=False)

    def run(case: Case) -> np.ndarray:
        panel = case.detector
        pitch, sid = panel.pitch_mm, panel.sid_mm
        k_inv = make_k_inv(sid, pitch, pitch, 0.0, 0.0, panel.rows, panel.columns)
        pose = case.pose.patient_from_camera[None].to(torch.float32)
        with torch.no_grad():
            picture = nanodrr_render(
                subject, k_inv, pose, torch.tensor([sid]), panel.rows, panel.columns
            )
        return picture[0, 0].numpy()

    return run


def prepare_mean_projection(volume: CTVolume) -> Run:
    """What X2CT-CLIP trained on: clip to +-1000 HU, 1 mm, mean along AP. No line integral."""
    old = np.array(volume.hu.shape) * volume.spacing_zyx_mm

    def run(_: Case) -> np.ndarray:
        hu = torch.from_numpy(volume.hu).to(torch.float32).clamp(-1000, 1000)
        size = [int(n) for n in np.floor(old)]
        resampled = torch.nn.functional.interpolate(hu[None, None], size=size, mode="trilinear")
        return resampled[0, 0].mean(dim=1).numpy()

    return run


PEERS = {
    "drrgen numba": prepare_drrgen,
    "itk-rtk Joseph": prepare_rtk,
    "plastimatch exact": prepare_plastimatch,
    "diffdrr trilinear": prepare_diffdrr_trilinear,
    "diffdrr Siddon": prepare_diffdrr_siddon,
    "nanodrr torch": prepare_nanodrr,
    "mean projection": prepare_mean_projection,
}
