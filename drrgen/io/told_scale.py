"""CT whose scale and spacing a table tells beside the file, as CT-RATE's metadata does.

The first files of CT-RATE hold stored values under a blank header, the fixed ones hold HU; the
table is the same for both. So each file is judged by its histogram: header and table are both
tried, and the one that gives HU is taken. A table is never applied on top of a header.

Source: Hamamci et al., arXiv 2403.17834 (CT-RATE).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from drrgen.choices import CTFormat, HuSource
from drrgen.errors import Reason, VolumeError
from drrgen.io.grids import BLANK_GRID
from drrgen.io.hounsfield import HuScale, clean_hu, judge_hounsfield, to_hu
from drrgen.io.listing import CTFiles
from drrgen.io.nifti import NiftiContent, read_content
from drrgen.io.volumes import read_ct
from drrgen.volume import CTSource, CTVolume, Matrix4

SPACING_FROM_CSV = "spacing_from_csv"
ORIENTATION_ASSUMED = "orientation_assumed"
CSV_SPACING_MISSING = "csv_spacing_missing"
CSV_SCALE_MISSING = "csv_scale_missing"
SPACING_TOL = 0.01  # of the spacing: tables round to four digits
_GLANCE_SLICES = 24
_SAME_HU = 2.0  # two scales that differ by less are one, rounded

Scale = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldScale:
    """What a table tells of one CT; None where it tells nothing, or no number.

    Attributes:
        slope: RescaleSlope [HU].
        intercept: RescaleIntercept [HU].
        spacing_xyz_mm: Distances between voxel centres [mm].
    """

    slope: float | None = None
    intercept: float | None = None
    spacing_xyz_mm: tuple[float, float, float] | None = None

    @property
    def scale(self) -> Scale | None:
        """Slope and intercept, where both are told."""
        if self.slope is None or self.intercept is None:
            return None
        return self.slope, self.intercept

    def to_dict(self) -> dict[str, str | list[str] | None]:
        """Describe it in text, exactly."""
        numbers = {name: None if x is None else repr(x) for name, x in asdict(self).items()}
        spacing = self.spacing_xyz_mm
        return {**numbers, "spacing_xyz_mm": spacing and list(map(repr, spacing))}

    @classmethod
    def from_dict(cls, data: Mapping[str, str | list[str] | None]) -> "ToldScale":
        """Read what ``to_dict`` wrote."""
        numbers = [_to_float(data[name]) for name in ("slope", "intercept")]
        spacing = data["spacing_xyz_mm"]
        x, y, z = map(float, spacing) if spacing else (0.0, 0.0, 0.0)
        return cls(
            slope=numbers[0], intercept=numbers[1], spacing_xyz_mm=(x, y, z) if spacing else None
        )


def parse_told_scale(slope: str, intercept: str, xy_spacing: str, z_spacing: str) -> ToldScale:
    """Read the cells of a table; what is no number is not told.

    Args:
        slope: RescaleSlope.
        intercept: RescaleIntercept.
        xy_spacing: One number, or two as in ``[0.7, 0.7]`` [mm].
        z_spacing: Distance between slices [mm].

    Example:
        >>> parse_told_scale("1.0", "-8192.0", "[0.7, 0.7]", "1.5").spacing_xyz_mm
        (0.7, 0.7, 1.5)
        >>> parse_told_scale("1", "-1024", "nan", "1.5").spacing_xyz_mm is None
        True
    """
    found = _read_spacings(xy_spacing)
    z = _read_spacings(z_spacing)
    told = (*(found * 2)[:2], *z) if len(found) in (1, 2) and len(z) == 1 else None
    factor = _to_float(slope)
    return ToldScale(
        slope=factor or None,  # 0 is no scale
        intercept=_to_float(intercept),
        spacing_xyz_mm=told,  # type: ignore[arg-type]
    )


def _read_spacings(text: str) -> tuple[float, ...]:
    """Read one or more positive numbers; none where one is no such number."""
    words = re.split(r"[,;\s]+", text.strip("[]() "))
    numbers = [_to_float(word) for word in words]
    return tuple(x for x in numbers if x is not None and x > 0) if all(numbers) else ()


def _to_float(text: object) -> float | None:
    """Read a finite number; None where there is none."""
    try:
        number = float(str(text))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def read_told(files: CTFiles, told: ToldScale) -> CTVolume:
    """Read a CT that a table tells the scale and spacing of; other formats than NIfTI as usual.

    Args:
        files: One file.
        told: What the table tells of it.

    Raises:
        VolumeError: ``hu_double_rescaled``, header and table give different HU and both could be;
            ``spacing_conflict``, they differ by more than 1 %; ``metadata_missing``, neither
            tells the spacing; else as ``read_nifti``.
        OSError: The file cannot be read.
    """
    if files.ct_format is not CTFormat.NIFTI:
        return read_ct(files)
    path = files.here[0]
    content = read_content(path)
    grid, words = _settle_grid(content, told, path)
    scale, hu_source = _choose_scale(content, told, path)
    if told.scale is None:
        words += (CSV_SCALE_MISSING,)
    hu, hu_words = to_hu(content.stored, slope=scale[0], intercept=scale[1])
    source = CTSource(
        ct_format=CTFormat.NIFTI,
        hu_source=hu_source,
        n_bytes=content.n_bytes,
        sha256=content.sha256,
        warnings=content.warnings + words + hu_words + clean_hu(hu),
    )
    return CTVolume(hu=hu, patient_from_voxel=grid, source=source)


def _choose_scale(content: NiftiContent, told: ToldScale, path: Path) -> tuple[Scale, HuSource]:
    """Choose between the scale of the header and that of the table, by the histogram of each."""
    header = (content.slope, content.intercept)
    if told.scale is None or _are_same(content, header, told.scale):
        return header, HuSource.HEADER
    by_header, by_table = (_gives_hu(content, scale) for scale in (header, told.scale))
    if by_header and by_table:
        raise VolumeError(
            Reason.HU_DOUBLE_RESCALED, path,
            f"the header's scale {header} and the table's {told.scale} differ, and both give "
            "values that could be HU, wanted one of them",
            remedy="take RescaleSlope and RescaleIntercept of this file out of the table, or "
            "write the file again from its source",
        )  # fmt: skip
    if by_table:
        return told.scale, HuSource.CSV
    return header, HuSource.HEADER  # neither: what is wrong is told when the HU are checked


def _are_same(content: NiftiContent, one: Scale, other: Scale) -> bool:
    """Say whether two scales give the same HU all over the values there are."""
    ends = np.array([content.stored.min(), content.stored.max()], dtype=float)
    first, second = (ends * slope + intercept for slope, intercept in (one, other))
    return bool((np.abs(first - second) < _SAME_HU).all())


def _gives_hu(content: NiftiContent, scale: Scale) -> bool:
    """Say whether a scale gives HU, by slices spread over the volume."""
    step = max(1, len(content.stored) // _GLANCE_SLICES)
    hu, _ = to_hu(content.stored[::step], slope=scale[0], intercept=scale[1])
    return judge_hounsfield(hu).scale is HuScale.HU


def _settle_grid(
    content: NiftiContent, told: ToldScale, path: Path
) -> tuple[Matrix4, tuple[str, ...]]:
    """Take the grid of the header, or make one of the table's spacing where that is blank."""
    grid = content.patient_from_voxel
    if grid is None or BLANK_GRID in content.warnings:
        if told.spacing_xyz_mm is None:
            raise VolumeError(
                Reason.METADATA_MISSING, path,
                "neither header nor table tells the distance between voxels",
                remedy="complete its row in the metadata table",
            )  # fmt: skip
        # As the fixed files of CT-RATE lie: x to the left, y to the back, z to the head.
        return np.diag([*told.spacing_xyz_mm, 1.0]), (SPACING_FROM_CSV, ORIENTATION_ASSUMED)
    if told.spacing_xyz_mm is None:
        return grid, (CSV_SPACING_MISSING,)
    found = np.linalg.norm(grid[:3, :3], axis=0)
    wanted = np.array(told.spacing_xyz_mm)
    if (np.abs(found - wanted) > SPACING_TOL * wanted).any():
        shown = ", ".join(f"{mm:.4g}" for mm in found)
        raise VolumeError(
            Reason.SPACING_CONFLICT, path,
            f"found a spacing of {shown} mm in the header, and "
            f"{', '.join(f'{mm:.4g}' for mm in wanted)} mm in the table, wanted the same",
            remedy="correct the table or the file; drrgen cannot know which is right",
        )  # fmt: skip
    return grid, ()
