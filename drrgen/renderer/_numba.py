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

TILE_ROWS, TILE_COLUMNS = 64, 512
BLOCK_SLICES = 16
CHUNK = 512
GENERAL_TILE = (64, 128)
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
            kernel = _make_upright_kernel(rays)
            tiles = _cut(detector.rows, detector.columns)
            if kernel is None:
                kernel = _make_general_kernel(rays)
                th, tw = GENERAL_TILE
                tiles = [(v, min(v + th, detector.rows), u, min(u + tw, detector.columns)) for v in range(0, detector.rows, th) for u in range(0, detector.columns, tw)]
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
        for u_first in range(0, block.shape[2], 32):
            for s in range(first, last):
                out = block[s - first, row - v_span[0], u_first : u_first + 32]
                start = row * strides[0] + u_first * strides[2] + s * strides[1]
                for u in range(out.size):
                    out[u] = hu[start + u * strides[2]]


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
    """Add up one tile of any view; axes are in the order of the array (z, y, x)."""
    strides = (shape[1] * shape[2], shape[2], 1)
    size = (v_last - v_first) * (u_last - u_first)
    lines = np.empty((7, size), dtype=np.float32)
    pixels = np.empty((2, size), dtype=np.int32)
    for axis in range(3):
        r_axis, c_axis = (1 if axis == 0 else 0), (1 if axis == 2 else 2)
        axes = (r_axis, axis, c_axis)
        order = np.array([shape[r_axis], shape[axis], shape[c_axis]])
        steps = np.array([strides[r_axis], strides[axis], strides[c_axis]])
        middle = 0.5 * shape[axis]
        n, origin = _trace(geometry, shape, axes, panel, (v_first, v_last, u_first, u_last), lines, pixels)
        if n == 0:
            continue
        sums = _walk(hu, steps, order, table, lines, n, origin)
        for m in range(table.shape[0]):
            for k in range(n):
                image[m, pixels[0, k], pixels[1, k]] = sums[m, k] * lines[6, k]


@_compile
def _trace(geometry: Any, shape: Any, axes: Any, panel: F64, tile: Any, lines: F32, pixels: Any) -> Any:
    """List the rays of a tile that run along one axis and meet the grid."""
    source = geometry[0]
    v_first, v_last, u_first, u_last = tile
    r_axis, axis, c_axis = axes
    middle = shape[axis] // 2
    origin = np.zeros(3)
    n = 0
    for v in range(v_first, v_last):
        for u in range(u_first, u_last):
            z = geometry[1, 0] + (u + 0.5) * geometry[2, 0] + (v + 0.5) * geometry[3, 0] - source[0]
            y = geometry[1, 1] + (u + 0.5) * geometry[2, 1] + (v + 0.5) * geometry[3, 1] - source[1]
            x = geometry[1, 2] + (u + 0.5) * geometry[2, 2] + (v + 0.5) * geometry[3, 2] - source[2]
            ray = (z, y, x)
            steepest = 2
            if abs(y) > abs(x):
                steepest = 1
            if abs(z) > abs(ray[steepest]):
                steepest = 0
            if steepest != axis:
                continue
            enter, leave = 0.0, 1.0
            for k in range(3):
                near, far = _clip_axis(source[k], ray[k], shape[k])
                enter, leave = max(enter, near), min(leave, far)
            if leave <= enter:
                continue
            slope_r, slope_c = ray[r_axis] / ray[axis], ray[c_axis] / ray[axis]
            row = source[r_axis] + (middle - source[axis]) * slope_r
            column = source[c_axis] + (middle - source[axis]) * slope_c
            if n == 0:
                origin[0], origin[1], origin[2] = np.floor(row), middle, np.floor(column)
            ends = source[axis] + enter * ray[axis], source[axis] + leave * ray[axis]
            lines[0, n], lines[1, n] = row - origin[0], slope_r
            lines[2, n], lines[3, n] = column - origin[2], slope_c
            lines[4, n], lines[5, n] = min(ends) - middle, max(ends) - middle
            lines[6, n] = _find_length(panel, u, v) / abs(ray[axis])
            pixels[0, n], pixels[1, n] = v, u
            n += 1
    return n, origin


@_compile
def _find_box(lines: F32, n: int, s: float) -> Any:
    """Find the rows and columns that rays touch in a slice."""
    s = np.float32(s)
    low_r, high_r = np.float32(np.inf), np.float32(-np.inf)
    low_c, high_c = low_r, high_r
    for k in range(n):
        row, column = lines[0, k] + s * lines[1, k], lines[2, k] + s * lines[3, k]
        low_r, high_r = min(low_r, row), max(high_r, row)
        low_c, high_c = min(low_c, column), max(high_c, column)
    return np.array([low_r, high_r, low_c, high_c]).astype(np.float64)


@_compile
def _hold(value: float, count: int) -> int:
    return int(min(max(value, 0.0), count - 1.0))

@_compile
def _walk(hu: Any, strides: Any, shape: Any, table: F32, lines: F32, n: int, origin: Any) -> F32:
    """Sum rays over the slices; axes are in the order (row, slice, column)."""
    n_r, n_s, n_c = shape
    materials = table.shape[0]
    sums = np.zeros((materials, n), dtype=np.float32)
    first = max(int(np.floor(lines[4, :n].min() + origin[1] + 0.5)), 0)
    last = min(int(np.ceil(lines[5, :n].max() + origin[1] - 0.5)), n_s - 1)
    if last < first: return sums
    box_a = _find_box(lines, n, first - origin[1])
    box_b = _find_box(lines, n, last - origin[1])
    r_low = _hold(min(box_a[0], box_b[0]) + origin[0] - 0.01, n_r)
    r_high = _hold(max(box_a[1], box_b[1]) + origin[0] + 1.01, n_r)
    c_low = _hold(min(box_a[2], box_b[2]) + origin[2] - 0.01, n_c)
    c_high = _hold(max(box_a[3], box_b[3]) + origin[2] + 1.01, n_c)
    pitch = c_high - c_low + 2
    patch = np.zeros((r_high - r_low + 2) * pitch, dtype=np.float32)
    block = np.empty((BLOCK_SLICES if strides[2] != 1 else 0, r_high - r_low + 1, c_high - c_low + 1), dtype=np.uint16)
    index = np.empty(CHUNK, dtype=np.int32)
    down, right, share = np.empty(CHUNK, dtype=np.float32), np.empty(CHUNK, dtype=np.float32), np.empty(CHUNK, dtype=np.float32)
    chunks = (n + CHUNK - 1) // CHUNK
    active = np.empty((2, chunks), dtype=np.float32)
    for c in range(chunks):
        active[0, c] = lines[4, c * CHUNK : min((c + 1) * CHUNK, n)].min()
        active[1, c] = lines[5, c * CHUNK : min((c + 1) * CHUNK, n)].max()
    for s in range(first, last + 1):
        part = (s - first) / max(last - first, 1)
        box = box_a + part * (box_b - box_a)
        r0, r1 = _hold(box[0] + origin[0] - 0.01, n_r), _hold(box[1] + origin[0] + 1.01, n_r)
        c0, c1 = _hold(box[2] + origin[2] - 0.01, n_c), _hold(box[3] + origin[2] + 1.01, n_c)
        depth = s - origin[1]
        if strides[2] != 1 and (s - first) % BLOCK_SLICES == 0:
            stop = min(s + BLOCK_SLICES, last + 1)
            part = (stop - 1 - first) / max(last - first, 1)
            end = box_a + part * (box_b - box_a)
            q0, q1 = min(r0, _hold(end[0] + origin[0] - 0.01, n_r)), max(r1, _hold(end[1] + origin[0] + 1.01, n_r))
            p0, p1 = min(c0, _hold(end[2] + origin[2] - 0.01, n_c)), max(c1, _hold(end[3] + origin[2] + 1.01, n_c))
            for row in range(q0, q1 + 1):
                for k in range(p0, p1 + 1, 32):
                    for d in range(s, stop):
                        for j in range(k, min(k + 32, p1 + 1)):
                            block[d - s, row - r_low, j - c_low] = hu[row * strides[0] + d * strides[1] + j * strides[2]]
        for m in range(materials):
            for row in range(r0, r1 + 1):
                at = (row - r0) * pitch
                if strides[2] == 1:
                    start = row * strides[0] + s * strides[1]
                    _look_up(hu[start + c0 : start + c1 + 1], table[m], 0, c1 - c0, patch[at : at + pitch])
                else:
                    _look_up(block[(s - first) % BLOCK_SLICES, row - r_low, c0 - c_low : c1 - c_low + 1], table[m], 0, c1 - c0, patch[at : at + pitch])
            for c in range(chunks):
                if active[0, c] > depth + 0.5 or active[1, c] < depth - 0.5:
                    continue
                a, b = c * CHUNK, min((c + 1) * CHUNK, n)
                _place(lines, a, b, depth, (r0 - origin[0], r1 - origin[0]), (c0 - origin[2], c1 - origin[2]), pitch, index, down, right, share)
                _sample(patch, pitch, index, down, right, share, sums[m, a:b])
    return sums


@_compile
def _place(lines: F32, a: int, b: int, depth: float, rows: Any, columns: Any, pitch: int, index: Any, down: F32, right: F32, share: F32) -> None:
    """Find the rays' positions in a patch."""
    s, zero = np.float32(depth), np.float32(0)
    low, high = np.float32(depth - 0.5), np.float32(depth + 0.5)
    r0, c0 = np.float32(rows[0]), np.float32(columns[0])
    r1, c1 = np.float32(rows[1] - rows[0]), np.float32(columns[1] - columns[0])
    pitch = np.int32(pitch)
    row, row_slope, column = lines[0, a:b], lines[1, a:b], lines[2, a:b]
    column_slope, enter, leave = lines[3, a:b], lines[4, a:b], lines[5, a:b]
    n = b - a
    index, down, right, share = index[:n], down[:n], right[:n], share[:n]
    for k in range(n):
        r = min(max(row[k] + s * row_slope[k] - r0, zero), r1)
        c = min(max(column[k] + s * column_slope[k] - c0, zero), c1)
        i, j = np.int32(r), np.int32(c)
        index[k] = i * pitch + j
        down[k], right[k] = r - np.float32(i), c - np.float32(j)
        share[k] = max(min(high, leave[k]) - max(low, enter[k]), zero)


@_compile
def _sample(patch: F32, pitch: int, index: Any, down: F32, right: F32, share: F32, sums: F32) -> None:
    """Add a bilinear sample to every ray."""
    one, pitch = np.uint32(1), np.uint32(pitch)
    n = sums.size
    index, down, right, share = index[:n], down[:n], right[:n], share[:n]
    for k in range(n):
        i = np.uint32(index[k])
        j = i + pitch
        a, c = patch[i], patch[j]
        upper = a + (patch[i + one] - a) * right[k]
        lower = c + (patch[j + one] - c) * right[k]
        sums[k] += share[k] * (upper + (lower - upper) * down[k])
