"""How a virtual patient is built: scales, and a smooth deformation that never folds.

The deformation is the exponential of a stationary velocity field, by scaling and squaring, so it
has an inverse, the exponential of the negative field. It is worked out on a coarse grid of about
8 mm, on which its Jacobian determinant is checked.

Source: Arsigny et al., A log-Euclidean framework for statistics on diffeomorphisms, MICCAI 2006;
Ashburner, NeuroImage 38:95-113, 2007.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy.random import Generator
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from drrgen.cohort.base import Base
from drrgen.cohort.grid import Grid, Zyx

NODE_MM = 8.0
SQUARINGS = 6
MIN_JACOBIAN = 0.15  # of a lobe that collapses; a fold is 0 or less
_ROUGH_MM = 35.0  # correlation length of the random part
_PLEURA_TO_RIB_MM, _WALL_MM = 8.0, 45.0  # where fat begins, and over which way it grows
_HEART_MM = 62.0  # reach of the change of the heart
_END_MM = 40.0  # near its ends the CT is neither stretched nor pressed along z
_KYPHOSIS_MM = 160.0  # half the height of the thoracic spine


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """A part that grows or shrinks about a point.

    Attributes:
        center_mm: In the real CT, LPS (z, y, x) [mm].
        reach_mm: Standard deviation of its influence [mm].
        rate: Logarithm of the scale at its middle; negative shrinks.
    """

    center_mm: Zyx
    reach_mm: float
    rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Habitus of a patient at one scan.

    Attributes:
        scale: Size of the trunk against the real CT's, along z, y, x.
        breath_mm: How far the diaphragm is lower than in the real CT [mm].
        kyphosis_mm: How far apex and base lean forward against the middle [mm].
        scoliosis_mm: Sideways bend of the spine [mm].
        heart: Logarithm of the heart's scale.
        fat_mm: How much thicker the chest wall and the abdomen are [mm].
        rough_mm: Standard deviation of the random part [mm].
        rough_seed: Its seed; the same for all scans of a patient.
        breast_mm: Thickness of the breasts [mm]; 0 for none.
        pulls: Lobes that collapse.
    """

    scale: Zyx = (1.0, 1.0, 1.0)
    breath_mm: float = 0.0
    kyphosis_mm: float = 0.0
    scoliosis_mm: float = 0.0
    heart: float = 0.0
    fat_mm: float = 0.0
    rough_mm: float = 0.0
    rough_seed: int = 0
    breast_mm: float = 0.0
    pulls: tuple[Pull, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Deformation:
    """From the patient to the real CT and back.

    Attributes:
        grid: The patient's CT.
        nodes: Coarse grid, before the trunk is scaled.
        middle_mm: Point about which the trunk is scaled [mm].
        scale: Scale along z, y, x.
        to_base: Displacement from the unscaled patient to the real CT, at the nodes [mm].
        to_patient: Displacement the other way [mm].
    """

    grid: Grid
    nodes: Grid
    middle_mm: Zyx
    scale: Zyx
    to_base: Float[Tensor, "3 nz ny nx"]
    to_patient: Float[Tensor, "3 nz ny nx"]

    def find_in_patient(self, point_mm: Zyx) -> Zyx:
        """Carry a point of the real CT to the patient, LPS (z, y, x) [mm]."""
        point = np.array(point_mm)
        moved = point + self._sample(self.to_patient, point)
        z, y, x = (np.array(self.middle_mm) + (moved - self.middle_mm) * self.scale).tolist()
        return z, y, x

    def find_in_base(self, point_mm: Zyx) -> Zyx:
        """Carry a point of the patient to the real CT, LPS (z, y, x) [mm]."""
        point = np.array(self.middle_mm) + (np.array(point_mm) - self.middle_mm) / self.scale
        z, y, x = (point + self._sample(self.to_base, point)).tolist()
        return z, y, x

    def _sample(self, field: Float[Tensor, "3 a b c"], point: np.ndarray) -> np.ndarray:
        """Interpolate a displacement at a point."""
        index = (point - np.array(self.nodes.origin_mm)) / np.array(self.nodes.spacing_mm)
        return np.array([
            ndimage.map_coordinates(each.numpy(), index[:, None], order=1, mode="nearest")[0]
            for each in field
        ])  # fmt: skip


def draw_shape(chance: Generator, *, female: bool, hyperinflated: bool) -> Shape:
    """Draw the habitus of a patient.

    Args:
        chance: Source of chance.
        female: Smaller on average, with breasts.
        hyperinflated: With a low diaphragm, as emphysema has.
    """
    stature = chance.normal(0.95 if female else 1.0, 0.04)
    girth = chance.normal(1.0, 0.08)
    low = chance.normal(10, 5) if hyperinflated else chance.normal(-3, 8)
    return Shape(
        scale=(
            float(np.clip(stature, 0.85, 1.12)),
            float(np.clip(stature * girth * chance.normal(1.0, 0.05), 0.8, 1.25)),
            float(np.clip(stature * girth, 0.85, 1.2)),
        ),
        breath_mm=float(np.clip(low, -18, 20)),
        kyphosis_mm=float(np.clip(chance.gamma(2.0, 4.0) - 4, -4, 24)),
        scoliosis_mm=float(np.clip(chance.normal(0, 3), -10, 10)),
        heart=float(np.clip(chance.normal(-0.23, 0.04), -0.34, -0.14)),  # the real one is wide
        fat_mm=float(np.clip(chance.normal(4, 12), -12, 34)),
        rough_mm=float(chance.uniform(2.5, 5.5)),
        rough_seed=int(chance.integers(2**31)),
        breast_mm=float(np.clip(chance.normal(26, 9), 10, 50)) if female else 0.0,
    )


def draw_follow_up(shape: Shape, chance: Generator) -> Shape:
    """Draw how the same patient lies and breathes at a later scan."""
    return replace(shape, breath_mm=shape.breath_mm + float(np.clip(chance.normal(0, 3), -6, 6)))


def make_patient_grid(base: Base, shape: Shape) -> Grid:
    """Make the grid of a patient's CT: as many voxels, square, the field of view fits the trunk."""
    z, y, x = base.grid.spacing_mm
    trunk_mm = x * base.grid.shape[2]
    side = max(shape.scale[1], shape.scale[2]) * (1 + 2 * max(shape.fat_mm, 0) / trunk_mm)
    spacing = (z * shape.scale[0], y * side, x * side)
    center = base.grid.center_mm
    o_z, o_y, o_x = (
        c - s * (n - 1) / 2 for c, s, n in zip(center, spacing, base.grid.shape, strict=True)
    )
    return Grid(shape=base.grid.shape, spacing_mm=spacing, origin_mm=(o_z, o_y, o_x))


def deform(base: Base, shape: Shape) -> Deformation:
    """Work out the deformation of a patient.

    A field so rough that it would fold is halved until it does not.

    Args:
        base: The real CT.
        shape: Habitus.
    """
    grid = make_patient_grid(base, shape)
    nodes = _make_nodes(grid, base, shape)
    velocity = make_velocity(base, shape, nodes)
    to_base = exponentiate(-velocity, nodes)
    while float(find_jacobian(to_base, nodes).min()) < MIN_JACOBIAN:
        velocity = velocity / 2
        to_base = exponentiate(-velocity, nodes)
    return Deformation(
        grid=grid,
        nodes=nodes,
        middle_mm=base.grid.center_mm,
        scale=shape.scale,
        to_base=to_base,
        to_patient=exponentiate(velocity, nodes),
    )


def _make_nodes(grid: Grid, base: Base, shape: Shape) -> Grid:
    """Lay nodes over the unscaled patient, from the first to the last voxel."""
    center = np.array(base.grid.center_mm)
    extent = (np.array(grid.shape) - 1) * grid.spacing_mm / shape.scale
    count = np.ceil(extent / NODE_MM).astype(int) + 1
    n_z, n_y, n_x = count.tolist()
    s_z, s_y, s_x = (extent / (count - 1)).tolist()
    o_z, o_y, o_x = (center - extent / 2).tolist()
    return Grid(shape=(n_z, n_y, n_x), spacing_mm=(s_z, s_y, s_x), origin_mm=(o_z, o_y, o_x))


def make_velocity(base: Base, shape: Shape, nodes: Grid) -> Float[Tensor, "3 z y x"]:
    """Make the velocity field that turns the real CT into the patient [mm].

    Args:
        base: Where organs are.
        shape: Habitus.
        nodes: Where it is wanted.
    """
    z, y, x = nodes.axes_mm()
    velocity = _make_rough(shape, nodes)
    heart = Pull(center_mm=base.landmarks["heart"], reach_mm=_HEART_MM, rate=shape.heart)
    for pull in (heart, *shape.pulls):
        velocity += _make_pull(pull, nodes)
    velocity[1:] += shape.fat_mm * _make_outward(base, nodes)
    along = (z - base.landmarks["heart"][0]) / _KYPHOSIS_MM
    bend = np.clip(along, -1.2, 1.2)
    velocity[1] += -shape.kyphosis_mm * bend**2
    velocity[2] += shape.scoliosis_mm * np.cos(2.5 * bend)
    # The diaphragm takes the abdomen along; the apices stay.
    dome = base.landmarks["dome"][0]
    velocity[0] += -shape.breath_mm * np.exp(-(((z - dome + 20) / 75) ** 2)) + 0 * (y + x)
    # The first and last slice stay: nothing is known beyond them.
    end = np.minimum(z - nodes.axes_mm()[0].min(), nodes.axes_mm()[0].max() - z)
    velocity[0] *= np.clip(end / _END_MM, 0, 1)
    return torch.from_numpy(velocity.astype(np.float32))


def _make_pull(pull: Pull, nodes: Grid) -> Float64[np.ndarray, "3 z y x"]:
    """Make the velocity of a part that grows or shrinks."""
    offset = [axis - c for axis, c in zip(nodes.axes_mm(), pull.center_mm, strict=True)]
    square = sum(each.astype(float) ** 2 for each in offset)
    influence = pull.rate * np.exp(-square / (2 * pull.reach_mm**2))
    return np.stack([each * influence for each in offset])


def _make_outward(base: Base, nodes: Grid) -> Float64[np.ndarray, "2 z y x"]:
    """Make the direction, along y and x, in which fat pushes the skin: none inside the ribs."""
    grid = base.coarse_grid
    index = [
        (axis - o) / s
        for axis, o, s in zip(nodes.axes_mm(), grid.origin_mm, grid.spacing_mm, strict=True)
    ]
    where = np.stack(np.broadcast_arrays(*index))
    beyond = -ndimage.map_coordinates(base.fields["lung"], where, order=1, mode="nearest")
    outside = np.clip((beyond - _PLEURA_TO_RIB_MM) / _WALL_MM, 0, 1)
    _, y, x = nodes.axes_mm()
    middle = base.landmarks["carina"]
    radius = np.array(grid.shape[1:]) * grid.spacing_mm[1:] / 2
    return np.stack([
        outside * np.clip((y - middle[1]) / (0.6 * radius[0]), -1, 1),
        outside * np.clip((x - middle[2]) / (0.9 * radius[1]), -1, 1),
    ])  # fmt: skip


def _make_rough(shape: Shape, nodes: Grid) -> Float64[np.ndarray, "3 z y x"]:
    """Make the random part: smooth noise of a given standard deviation."""
    white = np.random.default_rng(shape.rough_seed).standard_normal((3, *nodes.shape))
    sigma = (0, *(_ROUGH_MM / np.array(nodes.spacing_mm)))
    smooth: np.ndarray = ndimage.gaussian_filter(white, sigma, mode="nearest")
    spread = smooth.std(axis=(1, 2, 3), keepdims=True)
    return smooth / np.maximum(spread, 1e-9) * shape.rough_mm


def exponentiate(velocity: Float[Tensor, "3 z y x"], nodes: Grid) -> Float[Tensor, "3 z y x"]:
    """Integrate a stationary velocity field over unit time by scaling and squaring.

    Args:
        velocity: Along z, y, x at the nodes [mm].
        nodes: The coarse grid.

    Returns:
        Displacement [mm].
    """
    to_unit = _to_unit(nodes)
    identity = _identity(nodes)
    moved = velocity / 2**SQUARINGS
    for _ in range(SQUARINGS):
        where = identity + (moved * to_unit).flip(0).permute(1, 2, 3, 0)
        moved = moved + _look_up(moved, where)
    return moved


def find_jacobian(displacement: Float[Tensor, "3 z y x"], nodes: Grid) -> Float[Tensor, "z y x"]:
    """Find the Jacobian determinant of a displacement: local change of volume.

    Args:
        displacement: Along z, y, x [mm].
        nodes: Its grid.
    """
    rows = torch.gradient(displacement, spacing=nodes.spacing_mm, dim=(1, 2, 3))
    matrix = torch.stack(rows, dim=1).permute(2, 3, 4, 0, 1)
    return torch.linalg.det(matrix + torch.eye(3))


def make_sampling(deformation: Deformation, base: Base) -> Float[Tensor, "z y x 3"]:
    """Make the sampling positions of every voxel in the real CT, as ``grid_sample`` wants them.

    They run from -1 to 1 between the outer faces of the real CT, so they serve every array of that
    extent, whatever its size.

    Args:
        deformation: The patient's.
        base: The real CT.
    """
    grid = deformation.grid
    moved = functional.interpolate(
        deformation.to_base[None], size=grid.shape, mode="trilinear", align_corners=True
    )[0]
    half = [n * s / 2 for n, s in zip(base.grid.shape, base.grid.spacing_mm, strict=True)]
    sampling = torch.empty((*grid.shape, 3))
    for i, (axis, middle) in enumerate(zip(grid.axes_mm(), base.grid.center_mm, strict=True)):
        unscaled = (torch.from_numpy(axis) - middle) / deformation.scale[i]
        sampling[..., 2 - i] = (unscaled + moved[i]) / half[i]
    end = 1 - 1 / base.grid.shape[0]  # the centre of the last slice, which rounding may pass
    sampling[..., 2].clamp_(-end, end)
    return sampling


def sample(
    values: Float[Tensor, "a b c"], sampling: Float[Tensor, "z y x 3"], *, nearest: bool = False
) -> Float[Tensor, "z y x"]:
    """Sample an array of the real CT's extent; 0 outside.

    Args:
        values: The array.
        sampling: Positions of ``make_sampling``.
        nearest: Take the nearest voxel instead of interpolating.
    """
    return functional.grid_sample(
        values[None, None],
        sampling[None],
        mode="nearest" if nearest else "bilinear",
        padding_mode="zeros",
        align_corners=False,
    )[0, 0]


def _to_unit(nodes: Grid) -> Float[Tensor, "3 1 1 1"]:
    """Find the factor from millimetres to the -1 to 1 between the outermost nodes."""
    span = (np.array(nodes.shape) - 1) * np.array(nodes.spacing_mm)
    return torch.tensor(2 / span, dtype=torch.float32)[:, None, None, None]


def _identity(nodes: Grid) -> Float[Tensor, "z y x 3"]:
    """Make the positions of the nodes themselves."""
    z, y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in nodes.shape), indexing="ij")
    return torch.stack([x, y, z], dim=-1)


def _look_up(
    field: Float[Tensor, "3 z y x"], where: Float[Tensor, "z y x 3"]
) -> Float[Tensor, "3 z y x"]:
    """Interpolate a field at moved nodes; beyond the grid its rim holds."""
    return functional.grid_sample(
        field[None], where[None], mode="bilinear", padding_mode="border", align_corners=True
    )[0]
