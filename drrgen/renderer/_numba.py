"""Joseph's method for the CPU, straight from int16, in two compiled kernels.

Upright views, whose detector is parallel to a face of the grid, take the fast kernel. There, the
map from detector to slice is a scaling and a shift, one for rows and one for columns. So a slice is
resampled along its columns first, once for every *voxel* row, with indices and weights that all
rows share, and the result is then blended for every *pixel* row: contiguous, vectorised, and
without a copy of the volume. All other poses take the general kernel, ray by ray.

Work is cut into tiles of fixed size and handed to threads; a tile never depends on another, so the
picture does not depend on the number of threads.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float32, Float64
from numba import njit

from drrgen.geometry.detector import Detector
from drrgen.geometry.pose import Pose
from drrgen.physics.materials import Basis
from drrgen.volume import CTVolume

TILE_ROWS, TILE_COLUMNS = 64, 512  # a tile's buffers stay in the second-level cache
BLOCK_SLICES = 16  # slices copied at once where their columns are not contiguous in memory
ALIGNMENT_TOL = 1e-9  # how far from a face, as a sine, a detector still counts as parallel

F32, F64 = npt.NDArray[np.float32], npt.NDArray[np.float64]

_compile = njit(nogil=True, cache=True, fastmath={"contract"})


def render_numba(
    volume: CTVolume,
    detector: Detector,
    poses: Sequence[Pose],
    basis: Basis,
    threads: int | None = None,
) -> Float32[np.ndarray, "b m v u"]:
    """Integrate every material along every ray."""
    # Unsigned HU index the table without a test for negative numbers.
    table = np.ascontiguousarray(np.roll(basis.tabulate(), 32768, axis=1))
    hu = volume.hu.view(np.uint16).reshape(-1).view()
    hu.flags.writeable = False  # one compiled form for volumes read from a buffer and others
    images = np.zeros(
        (len(poses), len(basis.names), detector.rows, detector.columns), dtype=np.float32
    )
    with ThreadPoolExecutor(threads or len(os.sched_getaffinity(0))) as pool:
        for pose, image in zip(poses, images, strict=True):
            rays = _make_rays(volume, detector, pose)
            kernel = _make_upright_kernel(rays) or _make_general_kernel(rays)
            tiles = _cut(detector.rows, detector.columns)
            list(pool.map(lambda tile, k=kernel, i=image: k(hu, table, i, tile), tiles))
    return images


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rays:
    """The rays of one view in voxel coordinates, in the order of the array: (z, y, x).

    The pixel (u, v) lies at ``corner + (u + 0.5) * per_u + (v + 0.5) * per_v``.
    """

    shape: npt.NDArray[np.int64]
    source: F64
    corner: F64
    per_u: F64
    per_v: F64
    panel: F64  # center u, center v, pitch_mm, sid_mm: the length of a ray
    size: tuple[int, int]  # rows, columns


def _make_rays(volume: CTVolume, detector: Detector, pose: Pose) -> _Rays:
    """Carry source and pixels from the patient to the voxel grid."""
    patient_from_camera = pose.patient_from_camera.detach().cpu().numpy()
    voxel_from_camera = volume.voxel_from_patient @ patient_from_camera
    voxel_from_pixel = voxel_from_camera @ detector.camera_from_pixel.numpy()
    return _Rays(
        shape=np.array(volume.hu.shape, dtype=np.int64),
        source=voxel_from_camera[2::-1, 3].copy(),
        corner=voxel_from_pixel[2::-1, 3].copy(),
        per_u=voxel_from_pixel[2::-1, 0].copy(),
        per_v=voxel_from_pixel[2::-1, 1].copy(),
        panel=np.array([*detector.center_uv, detector.pitch_mm, detector.sid_mm]),
        size=(detector.rows, detector.columns),
    )


_Kernel = Callable[[Any, F32, F32, tuple[int, int, int, int]], None]


def _make_general_kernel(rays: _Rays) -> _Kernel:
    """Bind the general kernel to the rays of a view."""
    geometry = np.stack([rays.source, rays.corner, rays.per_u, rays.per_v])

    def kernel(hu: Any, table: F32, image: F32, tile: tuple[int, int, int, int]) -> None:
        _integrate_general(hu, rays.shape, table, geometry, rays.panel, image, *tile)

    return kernel


def _make_upright_kernel(rays: _Rays) -> _Kernel | None:
    """Bind the fast kernel to the rays of a view; None where it does not apply.

    It applies when rows and columns of the detector each run along one axis of the grid, and every
    ray is steepest along the third axis.
    """
    u_axis, v_axis = int(np.abs(rays.per_u).argmax()), int(np.abs(rays.per_v).argmax())
    s_axis = 3 - u_axis - v_axis
    if u_axis == v_axis:
        return None
    for step, axis in ((rays.per_u, u_axis), (rays.per_v, v_axis)):
        if np.abs(np.delete(step, axis)).max() > ALIGNMENT_TOL * abs(step[axis]):
            return None
    depth = rays.corner[s_axis] - rays.source[s_axis]
    rows, columns = rays.size
    for step, axis, count in ((rays.per_u, u_axis, columns), (rays.per_v, v_axis, rows)):
        first = rays.corner[axis] - rays.source[axis]
        if max(abs(first), abs(first + count * step[axis])) >= abs(depth):
            return None
    order = (v_axis, s_axis, u_axis)
    strides = np.array([rays.shape[1] * rays.shape[2], rays.shape[2], 1])[list(order)]
    shape = rays.shape[list(order)]
    lines = np.array(
        [
            [rays.source[v_axis], rays.corner[v_axis] - rays.source[v_axis], rays.per_v[v_axis]],
            [rays.source[s_axis], depth, 0.0],
            [rays.source[u_axis], rays.corner[u_axis] - rays.source[u_axis], rays.per_u[u_axis]],
        ]
    )

    def kernel(hu: Any, table: F32, image: F32, tile: tuple[int, int, int, int]) -> None:
        _integrate_upright(hu, strides, shape, table, lines, rays.panel, image, *tile)

    return kernel


def _cut(rows: int, columns: int) -> list[tuple[int, int, int, int]]:
    """Cut a picture into tiles: first row, last row, first column, last column."""
    return [
        (v, min(v + TILE_ROWS, rows), u, min(u + TILE_COLUMNS, columns))
        for v in range(0, rows, TILE_ROWS)
        for u in range(0, columns, TILE_COLUMNS)
    ]


@_compile
def _integrate_upright(  # noqa: C901  one kernel: calls in its inner loop cost
    hu: Any,
    strides: Any,
    shape: Any,
    table: F32,
    lines: Float64[np.ndarray, "3 3"],
    panel: F64,
    image: F32,
    v_first: int,
    v_last: int,
    u_first: int,
    u_last: int,
) -> None:
    """Add up one tile of an upright view; axes are in the order (v, slice, u)."""
    n_v, n_s, n_u = shape
    rows, columns = v_last - v_first, u_last - u_first
    v_line, u_line = lines[0], lines[2]
    v_clip = _clip_lines(v_line, n_v, v_first, rows)
    u_clip = _clip_lines(u_line, n_u, u_first, columns)
    v_span = _find_span(v_line, lines[1], n_s, v_first, rows, n_v)
    height = v_span[1] - v_span[0] + 1
    half = 0.5 / abs(lines[1, 1])
    block = np.empty((BLOCK_SLICES, height, n_u), dtype=np.uint16)
    strip = np.empty(n_u, dtype=np.float32)
    resampled = np.empty((height, columns), dtype=np.float32)
    index, weight = np.empty(columns, dtype=np.uint32), np.empty(columns, dtype=np.float32)
    for s in range(n_s):
        if strides[2] != 1 and s % BLOCK_SLICES == 0:
            _copy_block(hu, strides, v_span, s, min(s + BLOCK_SLICES, n_s), block)
        t = (s - lines[1, 0]) / lines[1, 1]
        enter, leave = max(t - half, 0.0), min(t + half, 1.0)
        u_part, u_full = _find_ranges(u_clip, enter, leave)
        v_part, v_full = _find_ranges(v_clip, enter, leave)
        if enter >= leave or u_part[0] >= u_part[1] or v_part[0] >= v_part[1]:
            continue
        _locate(u_line, t, u_first, n_u, u_part, index, weight)
        low = _find_row(v_line, t, v_first + v_part[0], n_v)
        high = _find_row(v_line, t, v_first + v_part[1] - 1, n_v)
        # At the last row the one above it is read too, with weight 0, so it must hold a number.
        first = min(int(min(low, high)), max(n_v - 2, 0))
        last = int(min(np.floor(max(low, high)) + 1, n_v - 1))
        edge = index[u_part[0]], index[u_part[1] - 1]
        left, right = min(edge), min(max(edge) + 1, n_u - 1)
        for m in range(table.shape[0]):
            for row in range(first, last + 1):
                if strides[2] == 1:
                    start = row * strides[0] + s * strides[1]
                    _look_up(hu[start : start + n_u], table[m], left, right, strip)
                else:
                    _look_up(block[s % BLOCK_SLICES, row - v_span[0]], table[m], left, right, strip)
                _resample(strip, index, weight, u_part, n_u, resampled[row - v_span[0]])
            for v in range(v_part[0], v_part[1]):
                position = _find_row(v_line, t, v_first + v, n_v)
                upper = min(int(position), max(n_v - 2, 0))
                lower = min(upper + 1, n_v - 1)
                fraction = position - upper
                a, b = resampled[upper - v_span[0]], resampled[lower - v_span[0]]
                out = image[m, v_first + v, u_first:u_last]
                begin, end = u_part[0], u_part[0]  # of the columns that count in full
                if v_full[0] <= v < v_full[1] and u_full[0] < u_full[1]:
                    begin, end = u_full
                _blend(a, b, fraction, leave - enter, begin, end, out)
                into, out_of = max(enter, v_clip[0, v]), min(leave, v_clip[1, v])
                _blend_part(a, b, fraction, into, out_of, u_clip, u_part[0], begin, out)
                _blend_part(a, b, fraction, into, out_of, u_clip, end, u_part[1], out)
    for m in range(table.shape[0]):
        for v in range(v_first, v_last):
            for u in range(u_first, u_last):
                image[m, v, u] *= _find_length(panel, u, v)


@_compile
def _clip_lines(line: F64, count: int, first: int, n: int) -> F64:
    """Find where the ray of each pixel enters and leaves the grid sideways (0 source, 1 pixel)."""
    clip = np.empty((2, n))
    for k in range(n):
        direction = line[1] + (first + k + 0.5) * line[2]
        clip[0, k], clip[1, k] = _clip_axis(line[0], direction, count)
    return clip


@_compile
def _clip_axis(source: float, direction: float, count: int) -> tuple[float, float]:
    """Find where a ray enters and leaves one pair of faces."""
    if direction == 0:
        if -0.5 < source < count - 0.5:
            return -np.inf, np.inf
        return np.inf, -np.inf
    a, b = (-0.5 - source) / direction, (count - 0.5 - source) / direction
    return min(a, b), max(a, b)


@_compile
def _find_span(
    line: F64, s_line: F64, slices: int, first: int, n: int, count: int
) -> tuple[int, int]:
    """Find the voxel rows that a tile can need in any slice: first and last."""
    low, high = count - 1, 0
    # A slab that holds the source or the detector has its centre up to half a slab beyond them.
    half = 0.5 / abs(s_line[1])
    for s in (-0.5, slices - 0.5):
        t = max(min((s - s_line[0]) / s_line[1], 1.0 + half), -half)
        for k in (0, n - 1):
            position = _find_row(line, t, first + k, count)
            low, high = min(low, int(position)), max(high, min(int(position) + 1, count - 1))
    return min(low, max(count - 2, 0)), high


@_compile
def _find_ranges(clip: F64, enter: float, leave: float) -> tuple[tuple[int, int], tuple[int, int]]:
    """Find which pixels pass a slab inside the grid: at least partly, and on their whole way."""
    n = clip.shape[1]
    part_first, part_last, full_first, full_last = n, 0, n, 0
    for k in range(n):
        if clip[0, k] < leave and clip[1, k] > enter:
            part_first, part_last = min(part_first, k), k + 1
            if clip[0, k] <= enter and clip[1, k] >= leave:
                full_first, full_last = min(full_first, k), k + 1
    return (part_first, part_last), (full_first, full_last)


@_compile
def _find_row(line: F64, t: float, pixel: int, count: int) -> float:
    """Find the position of a pixel's ray along an axis, held inside the outermost centres."""
    position = line[0] + t * (line[1] + (pixel + 0.5) * line[2])
    return max(min(position, count - 1.0), 0.0)


@_compile
def _locate(
    line: F64, t: float, first: int, count: int, part: tuple[int, int], index: Any, weight: F32
) -> None:
    """Find left neighbour and weight of every pixel column in a slice."""
    for k in range(part[0], part[1]):
        position = _find_row(line, t, first + k, count)
        left = min(int(position), max(count - 2, 0))
        index[k] = left
        weight[k] = position - left


@_compile
def _copy_block(
    hu: Any, strides: Any, v_span: tuple[int, int], first: int, last: int, block: Any
) -> None:
    """Copy some slices so that their columns lie side by side in memory."""
    for row in range(v_span[0], v_span[1] + 1):
        for u in range(block.shape[2]):
            start = row * strides[0] + u * strides[2]
            for s in range(first, last):
                block[s - first, row - v_span[0], u] = hu[start + s * strides[1]]


@_compile
def _look_up(values: Any, table: F32, left: int, right: int, strip: F32) -> None:
    """Turn a row of HU into the amount of a material."""
    # Slices start at 0, so the compiler knows that no index is negative, and vectorises.
    values, strip = values[left : right + 1], strip[left : right + 1]
    for u in range(strip.size):
        strip[u] = table[values[u]]


@_compile
def _resample(
    strip: F32, index: Any, weight: F32, part: tuple[int, int], count: int, out: F32
) -> None:
    """Interpolate a row of the slice at every pixel column."""
    step = np.uint32(1 if count > 1 else 0)
    index, weight, out = index[part[0] : part[1]], weight[part[0] : part[1]], out[part[0] : part[1]]
    for u in range(out.size):
        a, b = strip[index[u]], strip[index[u] + step]
        out[u] = a + (b - a) * weight[u]


@_compile
def _blend(a: F32, b: F32, fraction: float, share: float, first: int, last: int, out: F32) -> None:
    """Add two resampled rows, blended, to a row of the picture."""
    a, b, out = a[first:last], b[first:last], out[first:last]
    weight_a, weight_b = np.float32(share * (1 - fraction)), np.float32(share * fraction)
    for u in range(out.size):
        out[u] += a[u] * weight_a + b[u] * weight_b


@_compile
def _blend_part(
    a: F32,
    b: F32,
    fraction: float,
    enter: float,
    leave: float,
    u_clip: F64,
    first: int,
    last: int,
    out: F32,
) -> None:
    """The same where rays enter or leave the grid inside the slab: count what is inside."""
    for u in range(first, last):
        share = min(leave, u_clip[1, u]) - max(enter, u_clip[0, u])
        if share > 0:
            out[u] += np.float32(share) * (a[u] + (b[u] - a[u]) * np.float32(fraction))


@_compile
def _find_length(panel: F64, u: int, v: int) -> float:
    """Length of a pixel's ray, from source to detector [mm]."""
    x, y = (u + 0.5 - panel[0]) * panel[2], (v + 0.5 - panel[1]) * panel[2]
    return float(np.sqrt(x * x + y * y + panel[3] * panel[3]))


@_compile
def _integrate_general(
    hu: Any,
    shape: Any,
    table: F32,
    geometry: Float64[np.ndarray, "4 3"],
    panel: F64,
    image: F32,
    v_first: int,
    v_last: int,
    u_first: int,
    u_last: int,
) -> None:
    """Add up one tile of any view, ray by ray; axes are in the order of the array (z, y, x)."""
    strides = (shape[1] * shape[2], shape[2], 1)
    source = geometry[0]
    for v in range(v_first, v_last):
        for u in range(u_first, u_last):
            ray = geometry[1] + (u + 0.5) * geometry[2] + (v + 0.5) * geometry[3] - source
            axis = 2  # the tie goes to x, then y, as in the reference
            for other in (1, 0):
                if abs(ray[other]) > abs(ray[axis]):
                    axis = other
            r_axis, c_axis = (1 if axis == 0 else 0), (1 if axis == 2 else 2)
            enter, leave = 0.0, 1.0
            for k in range(3):
                near, far = _clip_axis(source[k], ray[k], shape[k])
                enter, leave = max(enter, near), min(leave, far)
            if leave <= enter:
                continue
            ends = source[axis] + enter * ray[axis], source[axis] + leave * ray[axis]
            first = max(int(np.floor(min(ends) + 0.5)), 0)
            last = min(int(np.floor(max(ends) + 0.5)), shape[axis] - 1)
            half = 0.5 / abs(ray[axis])
            length = _find_length(panel, u, v)
            for s in range(first, last + 1):
                t = (s - source[axis]) / ray[axis]
                inside = min(t + half, leave) - max(t - half, enter)
                if inside <= 0:
                    continue
                row = max(min(source[r_axis] + t * ray[r_axis], shape[r_axis] - 1.0), 0.0)
                column = max(min(source[c_axis] + t * ray[c_axis], shape[c_axis] - 1.0), 0.0)
                r0 = min(int(row), max(shape[r_axis] - 2, 0))
                c0 = min(int(column), max(shape[c_axis] - 2, 0))
                base = s * strides[axis] + r0 * strides[r_axis] + c0 * strides[c_axis]
                down = strides[r_axis] if shape[r_axis] > 1 else 0
                right = strides[c_axis] if shape[c_axis] > 1 else 0
                wr, wc = np.float32(row - r0), np.float32(column - c0)
                share = np.float32(inside * length)
                for m in range(table.shape[0]):
                    a, b = table[m, hu[base]], table[m, hu[base + right]]
                    c, d = table[m, hu[base + down]], table[m, hu[base + down + right]]
                    upper, lower = a + (b - a) * wc, c + (d - c) * wc
                    image[m, v, u] += share * (upper + (lower - upper) * wr)
