"""Joseph's method for the CPU, straight from int16, in two compiled kernels.

Both cut the picture into tiles, and take a tile's rays through the volume slice by slice: the part
of a slice that the tile can see is copied out of the volume, looked up in the table of a material,
and interpolated by loops that run along memory, so that they vectorise.

Upright views, whose detector is parallel to a face of the grid, take the fast kernel. There, the
map from detector to slice is a scaling and a shift, one for rows and one for columns. So a slice is
resampled along its columns first, once for every *voxel* row, with indices and weights that all
rows share, and the result is then blended for every *pixel* row. All other poses take the general
kernel, which sorts the rays of a tile by the axis they run along, and samples ray by ray.

Tiles have a fixed size and never depend on another, so the picture does not depend on the number of
threads.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float32, Float64
from numba import config, njit

from drrgen.geometry.detector import Detector
from drrgen.geometry.pose import Pose
from drrgen.physics.materials import Basis
from drrgen.volume import CTVolume

# A tile's buffers are to stay in the second-level cache. Upright tiles are wide, to share indices;
# general ones are compact, because a tilted tile touches a slice's rows over its whole width.
UPRIGHT_TILE, GENERAL_TILE = (64, 512), (64, 128)  # rows, columns
BLOCK_SLICES = 8  # slices copied at once: neighbours in memory, where rows of a slice are not
CHUNK = 512  # rays sampled at once in the general kernel
SQUARE = 32  # int16 in a cache line of 64 bytes: side of the squares that are transposed
ALIGNMENT_TOL = 1e-9  # how far from a face, as a sine, a detector still counts as parallel
ROUNDING = 0.01  # what a position in float32 may be off, with room to spare [voxels]

F32, F64 = npt.NDArray[np.float32], npt.NDArray[np.float64]
_Tile = tuple[int, int, int, int]  # first row, last row, first column, last column; last exclusive
_Kernel = Callable[[Any, F32, F32, _Tile], None]


def compile_kernel(function: Any) -> Any:
    """Compile a kernel, and keep the machine code on disk where there is a place for it."""
    options = {"nogil": True, "fastmath": {"contract"}}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return njit(**options)(function)


def render_numba(
    volume: CTVolume,
    detector: Detector,
    poses: Sequence[Pose],
    basis: Basis,
    threads: int | None = None,
) -> Float32[np.ndarray, "b m v u"]:
    """Integrate every material along every ray.

    Threads are as many as NUMBA_NUM_THREADS says, by default the processors of this process.
    """
    # Unsigned HU index the table without a test for negative numbers.
    table = np.ascontiguousarray(np.roll(basis.tabulate(), 32768, axis=1))
    hu = volume.hu.view(np.uint16).reshape(-1).view()
    hu.flags.writeable = False  # one compiled form for volumes read from a buffer and others
    images = np.zeros(
        (len(poses), len(basis.names), detector.rows, detector.columns), dtype=np.float32
    )
    work: list[tuple[_Kernel, F32, _Tile]] = []
    for pose, image in zip(poses, images, strict=True):
        kernel, tiles = _plan(_make_rays(volume, detector, pose))
        work += [(kernel, image, tile) for tile in tiles]
    with ThreadPoolExecutor(threads or config.NUMBA_NUM_THREADS) as pool:
        for _ in pool.map(lambda job: job[0](hu, table, job[1], job[2]), work):
            pass  # an error in a thread is raised here
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


def _plan(rays: _Rays) -> tuple[_Kernel, list[_Tile]]:
    """Choose the kernel for a view, and cut the picture into its tiles."""
    upright = _make_upright_kernel(rays)
    if upright:
        return upright, _cut(rays.size, UPRIGHT_TILE)
    return _make_general_kernel(rays), _cut(rays.size, GENERAL_TILE)


def _cut(size: tuple[int, int], tile: tuple[int, int]) -> list[_Tile]:
    """Cut a picture into tiles."""
    return [
        (v, min(v + tile[0], size[0]), u, min(u + tile[1], size[1]))
        for v in range(0, size[0], tile[0])
        for u in range(0, size[1], tile[1])
    ]


def _make_general_kernel(rays: _Rays) -> _Kernel:
    """Bind the general kernel to the rays of a view."""
    geometry = np.stack([rays.source, rays.corner, rays.per_u, rays.per_v])

    def kernel(hu: Any, table: F32, image: F32, tile: _Tile) -> None:
        _integrate_general(hu, rays.shape, table, geometry, rays.panel, image, tile)

    return kernel


def _make_upright_kernel(rays: _Rays) -> _Kernel | None:
    """Bind the fast kernel to the rays of a view; None where it does not apply.

    It applies when rows and columns of the detector each run along one axis of the grid, and every
    ray is steepest along the third axis.
    """
    u_axis, v_axis = int(np.abs(rays.per_u).argmax()), int(np.abs(rays.per_v).argmax())
    s_axis = 3 - u_axis - v_axis
    # Where rows of the grid run down the detector (axis 2 along v), slices would be transposed
    # whole, which costs more than it saves.
    if v_axis in (u_axis, 2):
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

    def kernel(hu: Any, table: F32, image: F32, tile: _Tile) -> None:
        _integrate_upright(hu, strides, shape, table, lines, rays.panel, image, tile)

    return kernel


@compile_kernel
def _integrate_upright(  # noqa: C901  one kernel: the loops share a dozen buffers
    hu: Any,
    strides: Any,
    shape: Any,
    table: F32,
    lines: Float64[np.ndarray, "3 3"],
    panel: F64,
    image: F32,
    tile: _Tile,
) -> None:
    """Add up one tile of an upright view; axes are in the order (v, slice, u)."""
    n_v, n_s, n_u = shape
    v_first, v_last, u_first, u_last = tile
    rows, columns = v_last - v_first, u_last - u_first
    v_line, s_line, u_line = lines
    v_clip, u_clip = (
        _clip_lines(v_line, n_v, v_first, rows),
        _clip_lines(u_line, n_u, u_first, columns),
    )
    v_span = _find_span(v_line, s_line, n_s, v_first, rows, n_v)
    u_span = _find_span(u_line, s_line, n_s, u_first, columns, n_u)
    height, width = v_span[1] - v_span[0] + 1, u_span[1] - u_span[0] + 1
    half = 0.5 / abs(s_line[1])
    block = np.empty((BLOCK_SLICES, height, width), dtype=np.uint16)
    strip = np.empty(width, dtype=np.float32)
    resampled = np.empty((height, columns), dtype=np.float32)
    index, weight = np.empty(columns, dtype=np.uint32), np.empty(columns, dtype=np.float32)
    for s in range(n_s):
        if s % BLOCK_SLICES == 0:
            _copy(hu, strides, (s, min(s + BLOCK_SLICES, n_s)), v_span, u_span, block)
        t = (s - s_line[0]) / s_line[1]
        enter, leave = max(t - half, 0.0), min(t + half, 1.0)
        u_part, u_full = _find_ranges(u_clip, enter, leave)
        v_part, v_full = _find_ranges(v_clip, enter, leave)
        if enter >= leave or u_part[0] >= u_part[1] or v_part[0] >= v_part[1]:
            continue
        _locate(u_line, t, u_first, n_u, u_span[0], u_part, index, weight)
        low = _find_position(v_line, t, v_first + v_part[0], n_v)
        high = _find_position(v_line, t, v_first + v_part[1] - 1, n_v)
        # At the last row the one above it is read too, with weight 0, so it must hold a number.
        first = min(int(min(low, high)), max(n_v - 2, 0)) - v_span[0]
        last = int(min(np.floor(max(low, high)) + 1, n_v - 1)) - v_span[0]
        edge = index[u_part[0]], index[u_part[1] - 1]
        left, right = min(edge), min(max(edge) + 2, width)
        for m in range(table.shape[0]):
            for row in range(first, last + 1):
                values = block[s % BLOCK_SLICES, row]
                _look_up(values[left:right], table[m], strip[left:right])
                _resample(strip, index, weight, u_part, n_u, resampled[row])
            for v in range(v_part[0], v_part[1]):
                position = _find_position(v_line, t, v_first + v, n_v)
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


@compile_kernel
def _clip_lines(line: F64, count: int, first: int, n: int) -> F64:
    """Find where the ray of each pixel enters and leaves the grid sideways (0 source, 1 pixel)."""
    clip = np.empty((2, n))
    for k in range(n):
        direction = line[1] + (first + k + 0.5) * line[2]
        clip[0, k], clip[1, k] = _clip_axis(line[0], direction, count)
    return clip


@compile_kernel
def _find_span(
    line: F64, s_line: F64, slices: int, first: int, n: int, count: int
) -> tuple[int, int]:
    """Find the voxel rows (or columns) that a tile can need in any slice: first and last."""
    low, high = count - 1, 0
    # A slab that holds the source or the detector has its centre up to half a slab beyond them.
    half = 0.5 / abs(s_line[1])
    for s in (-0.5, slices - 0.5):
        t = max(min((s - s_line[0]) / s_line[1], 1.0 + half), -half)
        for k in (0, n - 1):
            position = _find_position(line, t, first + k, count)
            low, high = min(low, int(position)), max(high, min(int(position) + 1, count - 1))
    return min(low, max(count - 2, 0)), high


@compile_kernel
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


@compile_kernel
def _find_position(line: F64, t: float, pixel: int, count: int) -> float:
    """Find the position of a pixel's ray along an axis, held inside the outermost centres."""
    position = line[0] + t * (line[1] + (pixel + 0.5) * line[2])
    return max(min(position, count - 1.0), 0.0)


@compile_kernel
def _locate(
    line: F64,
    t: float,
    first: int,
    count: int,
    origin: int,
    part: tuple[int, int],
    index: Any,
    weight: F32,
) -> None:
    """Find left neighbour, counted from an origin, and weight of every pixel column in a slice."""
    for k in range(part[0], part[1]):
        position = _find_position(line, t, first + k, count)
        left = min(int(position), max(count - 2, 0))
        index[k] = left - origin
        weight[k] = position - left


@compile_kernel
def _resample(
    strip: F32, index: Any, weight: F32, part: tuple[int, int], count: int, out: F32
) -> None:
    """Interpolate a row of the slice at every pixel column."""
    step = np.uint32(1 if count > 1 else 0)
    index, weight, out = index[part[0] : part[1]], weight[part[0] : part[1]], out[part[0] : part[1]]
    for u in range(out.size):
        a, b = strip[index[u]], strip[index[u] + step]
        out[u] = a + (b - a) * weight[u]


@compile_kernel
def _blend(a: F32, b: F32, fraction: float, share: float, first: int, last: int, out: F32) -> None:
    """Add two resampled rows, blended, to a row of the picture."""
    a, b, out = a[first:last], b[first:last], out[first:last]
    weight_a, weight_b = np.float32(share * (1 - fraction)), np.float32(share * fraction)
    for u in range(out.size):
        out[u] += a[u] * weight_a + b[u] * weight_b


@compile_kernel
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


@compile_kernel
def _integrate_general(
    hu: Any,
    shape: Any,
    table: F32,
    geometry: Float64[np.ndarray, "4 3"],
    panel: F64,
    image: F32,
    tile: _Tile,
) -> None:
    """Add up one tile of any view; axes are in the order of the array (z, y, x)."""
    strides = np.array([shape[1] * shape[2], shape[2], 1])
    size = (tile[1] - tile[0]) * (tile[3] - tile[2])
    lines, pixels = np.empty((7, size), dtype=np.float32), np.empty((2, size), dtype=np.int32)
    for axis in range(3):
        order = np.array([1 if axis == 0 else 0, axis, 1 if axis == 2 else 2])
        n, origin = _trace(geometry, shape, order, panel, tile, lines, pixels)
        if n == 0:
            continue
        sums = _sum_slices(hu, strides[order], shape[order], table, lines, n, origin)
        for m in range(table.shape[0]):
            for k in range(n):
                image[m, pixels[0, k], pixels[1, k]] = sums[m, k] * lines[6, k]


@compile_kernel
def _trace(
    geometry: F64, shape: Any, order: Any, panel: F64, tile: _Tile, lines: F32, pixels: Any
) -> tuple[int, Any]:
    """List the rays of a tile that run along one axis and meet the grid; count them.

    The axes come in the ``order`` (row, slice, column). A line holds the row in the middle slice
    and the rows per slice, the column and the columns per slice, the slices at which the ray enters
    and leaves the grid, and its length per slice [mm]; all counted from an origin near the tile's
    first ray, so that float32 is fine enough.
    """
    source = geometry[0]
    ray, origin = np.empty(3), np.zeros(3)
    r, s, c = order
    n = 0
    for v in range(tile[0], tile[1]):
        for u in range(tile[2], tile[3]):
            for k in range(3):
                pixel = geometry[1, k] + (u + 0.5) * geometry[2, k] + (v + 0.5) * geometry[3, k]
                ray[k] = pixel - source[k]
            if _find_steepest(ray) != s:
                continue
            enter, leave = 0.0, 1.0
            for k in range(3):
                near, far = _clip_axis(source[k], ray[k], shape[k])
                enter, leave = max(enter, near), min(leave, far)
            if leave <= enter:
                continue
            middle = shape[s] // 2
            slope_r, slope_c = ray[r] / ray[s], ray[c] / ray[s]
            row = source[r] + (middle - source[s]) * slope_r
            column = source[c] + (middle - source[s]) * slope_c
            if n == 0:
                origin[0], origin[1], origin[2] = np.floor(row), middle, np.floor(column)
            ends = source[s] + enter * ray[s], source[s] + leave * ray[s]
            lines[0, n], lines[1, n] = row - origin[0], slope_r
            lines[2, n], lines[3, n] = column - origin[2], slope_c
            lines[4, n], lines[5, n] = min(ends) - middle, max(ends) - middle
            lines[6, n] = _find_length(panel, u, v) / abs(ray[s])
            pixels[0, n], pixels[1, n] = v, u
            n += 1
    return n, origin


@compile_kernel
def _find_steepest(ray: F64) -> int:
    """Find the axis a ray runs nearest to; a tie goes to x, then y, as in the reference."""
    steepest = 2
    for axis in (1, 0):
        if abs(ray[axis]) > abs(ray[steepest]):
            steepest = axis
    return steepest


@compile_kernel
def _sum_slices(
    hu: Any, strides: Any, shape: Any, table: F32, lines: F32, n: int, origin: F64
) -> Float32[np.ndarray, "m n"]:
    """Sum every ray over the slices; axes are in the order (row, slice, column)."""
    sums = np.zeros((table.shape[0], n), dtype=np.float32)
    # Rays of a tile touch a window of a slice. It moves and grows evenly from the first slice to
    # the last: a ray's place is linear in the slice, so no ray leaves the window in between.
    first = max(int(np.floor(lines[4, :n].min() + origin[1] + 0.5)), 0)
    last = min(int(np.ceil(lines[5, :n].max() + origin[1] - 0.5)), shape[1] - 1)
    near, far = _find_extent(lines, n, first - origin[1]), _find_extent(lines, n, last - origin[1])
    rows, columns = _find_window(near, far, origin, shape)
    pitch = columns[1] - columns[0] + 2  # one to spare: read with weight 0 at the right edge
    height = rows[1] - rows[0] + 1
    block = np.empty((BLOCK_SLICES, height, pitch - 1), dtype=np.uint16)
    patch = np.zeros((table.shape[0], (height + 1) * pitch), dtype=np.float32)
    index, weights = np.empty(CHUNK, dtype=np.int32), np.empty((3, CHUNK), dtype=np.float32)
    for begin in range(first, last + 1, BLOCK_SLICES):
        end = min(begin + BLOCK_SLICES, last + 1)
        step = (far - near) / max(last - first, 1)
        window = near + (begin - first) * step, near + (end - 1 - first) * step
        rows, columns = _find_window(window[0], window[1], origin, shape)
        _copy(hu, strides, (begin, end), rows, columns, block)
        corner = np.array([rows[0] - origin[0], columns[0] - origin[2]])
        limit = np.array([rows[1] - rows[0], columns[1] - columns[0]])
        for s in range(begin, end):
            for m in range(table.shape[0]):
                for row in range(limit[0] + 1):
                    out = patch[m, row * pitch : row * pitch + limit[1] + 1]
                    _look_up(block[s - begin, row], table[m], out)
            for k in range(0, n, CHUNK):
                part = k, min(k + CHUNK, n)
                _place(lines, part, s - origin[1], corner, limit, pitch, index, weights)
                for m in range(table.shape[0]):
                    _sample(patch[m], pitch, index, weights, sums[m, part[0] : part[1]])
    return sums


@compile_kernel
def _find_extent(lines: F32, n: int, s: float) -> F64:
    """Find the smallest and largest row and column of rays in a slice, from the origin."""
    extent = np.array([np.inf, -np.inf, np.inf, -np.inf])
    for k in range(n):
        row, column = lines[0, k] + s * lines[1, k], lines[2, k] + s * lines[3, k]
        extent[0], extent[1] = min(extent[0], row), max(extent[1], row)
        extent[2], extent[3] = min(extent[2], column), max(extent[3], column)
    return extent


@compile_kernel
def _find_window(
    a: F64, b: F64, origin: F64, shape: Any
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Find the voxels that two extents and all between them need: first, last row and column."""
    rows = (
        _hold(min(a[0], b[0]) + origin[0] - ROUNDING, shape[0]),
        _hold(max(a[1], b[1]) + origin[0] + ROUNDING + 1, shape[0]),
    )
    columns = (
        _hold(min(a[2], b[2]) + origin[2] - ROUNDING, shape[2]),
        _hold(max(a[3], b[3]) + origin[2] + ROUNDING + 1, shape[2]),
    )
    return rows, columns


@compile_kernel
def _hold(position: float, count: int) -> int:
    """Round a position down to a voxel, held inside the grid."""
    return int(min(max(position, 0.0), count - 1.0))


@compile_kernel
def _place(
    lines: F32,
    part: tuple[int, int],
    depth: float,
    corner: F64,
    limit: Any,
    pitch: int,
    index: Any,
    weights: F32,
) -> None:
    """Find where rays pierce a slice: neighbour in the patch, weights, and share of the slice."""
    a, b = part
    row, row_slope, column = lines[0, a:b], lines[1, a:b], lines[2, a:b]
    column_slope, enter, leave = lines[3, a:b], lines[4, a:b], lines[5, a:b]
    n = b - a
    down, right, share, index = weights[0, :n], weights[1, :n], weights[2, :n], index[:n]
    # In float32 throughout: one float64 would halve the width of the vectors.
    zero, s = np.float32(0), np.float32(depth)
    low, high = np.float32(depth - 0.5), np.float32(depth + 0.5)
    top, left = np.float32(corner[0]), np.float32(corner[1])
    bottom, end = np.float32(limit[0]), np.float32(limit[1])
    pitch = np.int32(pitch)
    for k in range(index.size):
        r = min(max(row[k] + s * row_slope[k] - top, zero), bottom)
        c = min(max(column[k] + s * column_slope[k] - left, zero), end)
        i, j = np.int32(r), np.int32(c)
        index[k] = i * pitch + j
        down[k], right[k] = r - np.float32(i), c - np.float32(j)
        share[k] = max(min(high, leave[k]) - max(low, enter[k]), zero)


@compile_kernel
def _sample(patch: F32, pitch: int, index: Any, weights: F32, sums: F32) -> None:
    """Add a bilinear sample to every ray."""
    n = sums.size
    down, right, share, index = weights[0, :n], weights[1, :n], weights[2, :n], index[:n]
    one, pitch = np.uint32(1), np.uint32(pitch)
    for k in range(n):
        i = np.uint32(index[k])
        j = i + pitch
        a, b = patch[i], patch[j]
        upper = a + (patch[i + one] - a) * right[k]
        lower = b + (patch[j + one] - b) * right[k]
        sums[k] += share[k] * (upper + (lower - upper) * down[k])


@compile_kernel
def _copy(
    hu: Any,
    strides: Any,
    slices: tuple[int, int],
    rows: tuple[int, int],
    columns: tuple[int, int],
    block: Any,
) -> None:
    """Copy a window (first and last row and column) of some slices (last exclusive).

    A copy keeps many cache lines in flight, where looking up at once would wait for each. Where
    columns do not lie side by side in memory they do in the copy; they go over in squares, so that
    a cache line is read once.
    """
    width = columns[1] + 1 - columns[0] if strides[2] == 1 else SQUARE
    for row in range(rows[0], rows[1] + 1):
        for c in range(columns[0], columns[1] + 1, width):
            for s in range(slices[0], slices[1]):
                start = row * strides[0] + s * strides[1] + c * strides[2]
                at = c - columns[0]
                out = block[
                    s - slices[0], row - rows[0], at : min(at + width, columns[1] + 1 - columns[0])
                ]
                if strides[2] == 1:
                    values = hu[start : start + out.size]
                    for k in range(out.size):
                        out[k] = values[k]
                else:
                    for k in range(out.size):
                        out[k] = hu[start + k * strides[2]]


@compile_kernel
def _look_up(values: Any, table: F32, out: F32) -> None:
    """Turn a row of HU into the amount of a material."""
    for k in range(out.size):
        out[k] = table[values[k]]


@compile_kernel
def _clip_axis(source: float, direction: float, count: int) -> tuple[float, float]:
    """Find where a ray enters and leaves one pair of faces."""
    if direction == 0:
        if -0.5 < source < count - 0.5:
            return -np.inf, np.inf
        return np.inf, -np.inf
    a, b = (-0.5 - source) / direction, (count - 0.5 - source) / direction
    return min(a, b), max(a, b)


@compile_kernel
def _find_length(panel: F64, u: int, v: int) -> float:
    """Length of a pixel's ray, from source to detector [mm]."""
    x, y = (u + 0.5 - panel[0]) * panel[2], (v + 0.5 - panel[1]) * panel[2]
    return float(np.sqrt(x * x + y * y + panel[3] * panel[3]))
