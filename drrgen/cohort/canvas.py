"""The CT of one scan while findings are drawn into it.

Everything is drawn in the patient's own space with edges a voxel wide, so that a voxel on a border
holds the mean of both sides, as partial volume does.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, UInt8
from numpy.random import Generator
from scipy import ndimage
from torch import Tensor

from drrgen.cohort.base import Base
from drrgen.cohort.grid import Box, Grid, Zyx
from drrgen.cohort.kinds import Side
from drrgen.cohort.shape import Deformation, Shape, deform, make_sampling, sample

Values = Float32[np.ndarray, "z y x"]

SOFT_HU = 60.0  # soft tissue without contrast medium is not denser
PLAIN_SHARE = 0.08  # of the enhancement that is left where none was given
FAT_HU, GLAND_HU, SKIN_HU = -100.0, 30.0, 10.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Drawn:
    """What drawing a finding changed.

    Attributes:
        box: Voxels around it.
        share: How much of every voxel it fills, 0 to 1.
        hu: The voxels with it [HU].
        size_mm: Its diameter [mm]; None where it has none.
    """

    box: Box
    share: Values
    hu: Values
    size_mm: float | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class Canvas:
    """One scan of one patient, free of noise.

    Attributes:
        base: The real CT.
        deformation: From the patient to it.
        sampling: Where every voxel lies in it.
        hu: Hounsfield units so far [HU].
        labels: Structures.
        contrast: Contrast medium was given.
        anchors: Where findings sit in the real CT, by their seed; kept for later scans [mm].
    """

    base: Base
    deformation: Deformation
    sampling: Float[Tensor, "z y x 3"]
    hu: Values
    labels: UInt8[np.ndarray, "z y x"]
    contrast: bool
    anchors: dict[int, Zyx] = field(default_factory=dict)

    @property
    def grid(self) -> Grid:
        """The grid of the scan."""
        return self.deformation.grid

    def look_up(self, name: str, box: Box) -> Values:
        """Look up a smooth distance of the real CT in the patient [mm]."""
        values = torch.from_numpy(self.base.fields[name])
        return sample(values, self.sampling[box]).numpy()

    def make_texture(self, box: Box, length_mm: float, seed: int) -> Values:
        """Make smooth noise of unit variance that moves with the anatomy.

        Args:
            box: Where it is wanted.
            length_mm: Distance between its grains [mm].
            seed: Its seed.
        """
        grid = self.base.grid
        count = [
            max(2, round(n * s / length_mm))
            for n, s in zip(grid.shape, grid.spacing_mm, strict=True)
        ]
        white = np.random.default_rng(seed).standard_normal(count, dtype=np.float32)
        smooth = sample(torch.from_numpy(white), self.sampling[box]).numpy()
        return smooth / np.float32(0.6)  # what interpolation leaves of the standard deviation

    def find_lung(self, side: Side | None, *, box: Box | None = None) -> Bool[np.ndarray, "z y x"]:
        """Find the voxels of one lung or both."""
        wanted = [k for lobe, k in self.base.lobe_numbers.items() if lobe.startswith(side or "")]
        labels = self.labels[box or self.grid.whole]
        return (labels >= min(wanted)) & (labels <= max(wanted))

    def find_any(self, *names: str, box: Box) -> Bool[np.ndarray, "z y x"]:
        """Find the voxels of structures, by the beginning of their names."""
        table = np.zeros(256, dtype=bool)
        table[list(self.base.find(*names))] = True
        return table[self.labels[box]]

    def find_lobe(self, point_mm: Zyx) -> str:
        """Name the lobe at a point; empty outside the lungs."""
        number = int(self.labels[self.grid.to_index(point_mm)])
        names = {k: lobe for lobe, k in self.base.lobe_numbers.items()}
        return names.get(number, "")

    def box_around(self, point_mm: Zyx, radius_mm: float) -> Box | None:
        """Find the box around a ball; None where it misses the CT."""
        return self.grid.find_box(np.array([point_mm]), radius_mm + self.grid.pitch_mm)

    def offsets(self, box: Box, point_mm: Zyx) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the way from a point to the voxels of a box, as open axes [mm]."""
        z, y, x = (
            axis - np.float32(c)
            for axis, c in zip(self.grid.crop(box).axes_mm(), point_mm, strict=True)
        )
        return z, y, x

    def soften(self, depth_mm: Values, width_mm: float | None = None) -> Values:
        """Turn a depth below a surface into the share of the voxel that lies inside."""
        return np.clip(depth_mm / np.float32(width_mm or self.grid.pitch_mm) + 0.5, 0, 1)

    def put(self, drawn: Drawn) -> Values:
        """Take over what was drawn; return the voxels as they were."""
        before = self.hu[drawn.box].copy()
        self.hu[drawn.box] = drawn.hu
        return before

    def candidates(self, chance: Generator, lobe: str, depth_mm: float) -> Iterator[Zyx]:
        """Propose places in a lobe, so deep in the lung, in the patient (z, y, x) [mm].

        Args:
            chance: Source of chance.
            lobe: Clinical name.
            depth_mm: Distance from the pleura, in the real CT [mm].
        """
        inside = (self.base.coarse == self.base.lobe_numbers[lobe]) & (
            self.base.fields["lung"] >= depth_mm
        )
        places = np.flatnonzero(inside)
        grid = self.base.coarse_grid
        for place in chance.choice(places, min(12, places.size), replace=False):
            index = np.array(np.unravel_index(place, inside.shape)) + chance.uniform(-0.5, 0.5, 3)
            z, y, x = (np.array(grid.origin_mm) + index * grid.spacing_mm).tolist()
            yield self.deformation.find_in_patient((z, y, x))

    def remember(self, seed: int, point_mm: Zyx) -> None:
        """Remember where a finding sits, for the patient's later scans."""
        self.anchors.setdefault(seed, self.deformation.find_in_base(point_mm))

    def recall(self, seed: int) -> Zyx | None:
        """Recall where a finding sat at an earlier scan, in this one."""
        anchor = self.anchors.get(seed)
        return None if anchor is None else self.deformation.find_in_patient(anchor)


def make_canvas(base: Base, shape: Shape, *, contrast: bool, anchors: dict[int, Zyx]) -> Canvas:
    """Make a patient without findings, as one scan shows him.

    Args:
        base: The real CT.
        shape: Habitus.
        contrast: Contrast medium is given.
        anchors: Places of findings at earlier scans; added to.
    """
    deformation = deform(base, shape)
    sampling = make_sampling(deformation, base)
    above_air = torch.from_numpy(_set_contrast(base, contrast=contrast) + np.float32(1000))
    canvas = Canvas(
        base=base,
        deformation=deformation,
        sampling=sampling,
        hu=sample(above_air, sampling).numpy() - np.float32(1000),
        labels=sample(torch.from_numpy(base.labels).float(), sampling, nearest=True)
        .to(torch.uint8)
        .numpy(),
        contrast=contrast,
        anchors=anchors,
    )
    if shape.breast_mm > 0:
        _draw_breasts(canvas, shape.breast_mm, shape.rough_seed)
    return canvas


def _set_contrast(base: Base, *, contrast: bool) -> Values:
    """Leave the contrast medium of the real CT, or take it out of all that is no bone."""
    hu = base.hu.astype(np.float32)
    if contrast:
        return hu
    plain = SOFT_HU + np.float32(PLAIN_SHARE) * (hu - SOFT_HU)
    return np.where((hu > SOFT_HU) & ~base.bone, plain, hu).astype(np.float32)


def find_skin_mm(canvas: Canvas, box: Box) -> Float64[np.ndarray, "z x"]:
    """Find where the skin of the front lies in every column of a box [mm]."""
    dense = canvas.hu[box[0], :, box[2]] > -300
    rows = np.where(dense.any(axis=1), dense.argmax(axis=1), dense.shape[1])
    smooth = ndimage.median_filter(rows, 5)
    return canvas.grid.origin_mm[1] + ndimage.gaussian_filter(
        smooth * canvas.grid.spacing_mm[1], 1.5
    )


_BREAST_MM = (55.0, 62.0)  # half height and half width
_BREAST_X_MM, _BREAST_UP_MM = 78.0, 12.0  # from the midline; above the heart's middle


def _draw_breasts(canvas: Canvas, thickness_mm: float, seed: int) -> None:
    """Lay fat and glands on the front of the chest: drawn, for the real CT has none to deform."""
    z_mm, _, x_mm = canvas.grid.axes_mm()
    thickness = np.zeros((canvas.grid.shape[0], canvas.grid.shape[2]))
    heart = canvas.base.landmarks["heart"]
    middle = canvas.base.landmarks["carina"][2]
    for sign in (-1, 1):
        point = (heart[0] + _BREAST_UP_MM, heart[1], middle + sign * _BREAST_X_MM)
        z, _, x = canvas.deformation.find_in_patient(point)
        round_ = ((z_mm[:, 0] - z) / _BREAST_MM[0]) ** 2 + ((x_mm[0] - x) / _BREAST_MM[1]) ** 2
        thickness = np.maximum(thickness, thickness_mm * np.sqrt(np.clip(1 - round_, 0, None)))
    rows = np.flatnonzero(thickness.any(axis=1))
    first, last = int(rows[0]), int(rows[-1]) + 1
    whole = canvas.grid.whole
    box = (slice(first, last), whole[1], whole[2])
    skin = find_skin_mm(canvas, box)
    # Where a column misses the chest, the first thing it meets lies far behind.
    thickness[first:last] *= skin < canvas.deformation.find_in_patient(heart)[1]
    depth = canvas.grid.axes_mm()[1] - (skin - thickness[first:last])[:, None, :]
    old = thickness[first:last][:, None, :]
    share = canvas.soften(np.minimum(depth, old + 4 - depth).astype(np.float32)) * (old > 1)
    gland = np.clip(2 * canvas.make_texture(box, 12.0, seed) - 0.6, 0, 1) * (depth > 6)
    hu = canvas.hu[box]
    inside = np.where(depth < 2.5, SKIN_HU, FAT_HU + gland * (GLAND_HU - FAT_HU))
    # Never over muscle and ribs: only air, skin and fat give way.
    hu += np.where((hu < SOFT_HU) & ~canvas.find_lung(None, box=box), share, 0) * (inside - hu)
