"""Pictures for training: squares of bytes, from a pack or from files, and how they are varied."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional

from drrgen.errors import InputError, ManifestError
from drrgen.io.radiographs import read_radiograph
from drrgen_training.samples import Samples, name_picture
from drrgen_training.shards import Content, ShardReader

PICTURE_VERSION = 1  # rises whenever a packed byte would change
KIND = "pictures"


class Fit(StrEnum):
    """How a picture that is no square becomes one."""

    PAD = "pad"  # all of it, black beside it
    CROP = "crop"  # its middle


@dataclass(frozen=True, slots=True, kw_only=True)
class PackSettings:
    """How pictures are packed.

    Raises:
        InputError: An impossible size.
    """

    size: int = 256
    fit: Fit = Fit.PAD

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 4096:
            raise InputError(f"size: got {self.size}, wanted 16 to 4096 pixels")


@runtime_checkable
class Pictures(Protocol):
    """Where pictures come from."""

    settings: PackSettings

    def read(self, rows: Int64[np.ndarray, " b"]) -> UInt8[Tensor, "b s s"]:
        """Read some pictures, by the rows of the samples."""


def make_square(grey: Float[Tensor, "v u"], settings: PackSettings) -> UInt8[Tensor, "s s"]:
    """Shrink a picture into a square, without moire, and round it to bytes.

    Args:
        grey: 0 to 1.
        settings: Size, and what becomes of the rest.
    """
    v, u = grey.shape
    if settings.fit is Fit.CROP:
        side = min(v, u)
        top, left = (v - side) // 2, (u - side) // 2
        grey = grey[top : top + side, left : left + side]
        v = u = side
    scale = settings.size / max(v, u)
    size = [max(1, round(v * scale)), max(1, round(u * scale))]
    small = functional.interpolate(
        grey[None, None], size=size, mode="bilinear", antialias=True, align_corners=False
    )[0, 0]
    out = torch.zeros(settings.size, settings.size, dtype=torch.uint8)
    top, left = (settings.size - size[0]) // 2, (settings.size - size[1]) // 2
    out[top : top + size[0], left : left + size[1]] = (small * 255).round().clamp(0, 255).byte()
    return out


class PictureFiles:
    """Reads the manifest's own files, decoding each one every time.

    Args:
        samples: Whose pictures.
        settings: The square they become.
    """

    def __init__(self, samples: Samples, settings: PackSettings) -> None:
        self.settings = settings
        self._paths = [find_picture(samples, row) for row in samples.rows]

    def read(self, rows: Int64[np.ndarray, " b"]) -> UInt8[Tensor, "b s s"]:
        """Read some pictures."""
        return torch.stack([self._read(self._paths[i]) for i in rows])

    def _read(self, path: Path) -> UInt8[Tensor, "s s"]:
        """Read one."""
        return make_square(read_radiograph(path).grey, self.settings)


class PicturePack:
    """Reads a pack: a copy out of memory-mapped files.

    Args:
        folder: Folder of the pack.
        samples: Whose pictures; they may be a part of those that are packed.

    Raises:
        ManifestError: No finished pack, or one without some of the pictures.
    """

    def __init__(self, folder: Path, samples: Samples) -> None:
        self._shards = ShardReader(folder, KIND, _name_all(samples), _digest_all(samples))
        told = self._shards.settings
        self.settings = PackSettings(size=told["size"], fit=Fit(told["fit"]))

    def read(self, rows: Int64[np.ndarray, " b"]) -> UInt8[Tensor, "b s s"]:
        """Read some pictures."""
        return torch.from_numpy(self._shards.read(rows))


def open_pictures(samples: Samples, pack: Path | None, size: int) -> Pictures:
    """Open a pack, or the files themselves where there is none.

    Args:
        samples: Whose pictures.
        pack: Folder of a pack.
        size: Size at which files are read, if they are.
    """
    if pack is not None:
        return PicturePack(pack, samples)
    return PictureFiles(samples, PackSettings(size=size))


def describe_pictures(samples: Samples, settings: PackSettings) -> Content:
    """Describe all pictures of samples, to be packed.

    Args:
        samples: Whose pictures.
        settings: The square they become.
    """
    files = PictureFiles(samples, settings)
    return Content(
        kind=KIND,
        names=_name_all(samples),
        digests=_digest_all(samples),
        shape=(settings.size, settings.size),
        read=lambda i: files.read(np.array([i]))[0].numpy(),
        settings={"size": settings.size, "fit": settings.fit.value, "version": PICTURE_VERSION},
    )


def find_picture(samples: Samples, row: dict[str, Any]) -> Path:
    """Find the picture that a row names, without leaving the data set's folder.

    Raises:
        ManifestError: Its path leads out of it.
    """
    name = row["cxr_path"]
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or ".." in name.split("/"):
        raise ManifestError(
            f"the manifest of {samples.root} names {name!r}, wanted a path under its own folder; "
            "see drrgen check"
        )
    return samples.root / name


def _name_all(samples: Samples) -> list[str]:
    """Name all radiographs."""
    return [name_picture(row) for row in samples.rows]


def _digest_all(samples: Samples) -> list[str]:
    """Digests of all radiographs."""
    return [row["cxr_sha256"] or "" for row in samples.rows]


def augment(
    pictures: UInt8[Tensor, "b s s"],
    size: int,
    *,
    crop: float,
    brightness: float,
    contrast: float,
    generator: torch.Generator,
) -> UInt8[Tensor, "b v v"]:
    """Crop at random, resample, change brightness and contrast: the whole batch at once, on bytes.

    Nothing is flipped: left and right mean something in a chest.

    Args:
        pictures: A batch.
        size: Rows and columns of the result [pixels].
        crop: Up to this share of a side is cut off.
        brightness: Shift, up to so much either way, of the range.
        contrast: Steepness around the middle grey, up to this share either way.
        generator: Source of chance.
    """
    b = len(pictures)
    u = torch.rand(b, 5, generator=generator)
    side = 1 - crop * u[:, 0]
    middle = (1 - side)[:, None] * (2 * u[:, 1:3] - 1)  # of the crop, in [-1, 1]
    steep = 1 + contrast * (2 * u[:, 3] - 1)
    shift = brightness * (2 * u[:, 4] - 1)
    theta = torch.zeros(b, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, :, 2] = middle
    grid = functional.affine_grid(theta, [b, 1, size, size], align_corners=False)
    seen = functional.grid_sample(
        pictures[:, None].float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )[:, 0]
    middle_grey = 127.5
    seen = (seen - middle_grey) * steep[:, None, None] + middle_grey + 255 * shift[:, None, None]
    return seen.round_().clamp_(0, 255).byte()


def shrink(pictures: UInt8[Tensor, "b s s"], size: int) -> UInt8[Tensor, "b v v"]:
    """Resample a batch to the size that an encoder wants, without chance."""
    if pictures.shape[-1] == size:
        return pictures
    seen = functional.interpolate(
        pictures[:, None].float(), size=(size, size), mode="bilinear", antialias=True
    )
    return seen[:, 0].round().clamp(0, 255).byte()
