"""Joseph's method for CUDA, fused into one kernel over poses and tiles of the picture.

The card holds the volume as int16 and the table from HU to amounts; every sample looks up its four
neighbours and turns them into all materials at once, so no copy in floating point is ever made. The
geometry of a ray (where it enters, which axis it runs along) is settled in float64, exactly as in
the reference; positions along it in float32, which is 1e-4 of a voxel.

A volume that does not fit is streamed in slabs along z. A sample belongs to the slab that holds the
lower of its z neighbours, and a slab carries one slice more than it owns, so that the other
neighbour is there too: the sum over slabs is the same as over the whole.

Importing this module needs Triton, so only ``render`` imports it, once the engine is chosen.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
import triton
import triton.language as tl
from jaxtyping import Float, Float64, Int16, Shaped
from torch import Tensor

from drrgen.errors import EngineError
from drrgen.geometry.detector import Detector
from drrgen.geometry.pose import Pose
from drrgen.physics.materials import Basis
from drrgen.volume import CTVolume

# A program's tile of the picture and its warps. Untuned, for want of a card: one ray a thread takes
# 70 registers, two take over 100 and leave fewer warps to hide the wait for voxels.
TILE_ROWS, TILE_COLUMNS, WARPS = 8, 16, 4
SPARE_BYTES = 2**28  # left free for the CUDA context, compiled code and others on the card
MAX_SLAB_VOXELS = 2**31 - 1  # the kernel counts voxels in int32


def render_triton(
    volume: CTVolume,
    detector: Detector,
    poses: Sequence[Pose],
    basis: Basis,
    device: torch.device,
    memory_bytes: int | None = None,
) -> Float[Tensor, "b m v u"]:
    """Integrate every material along every ray.

    Args:
        volume: The CT.
        detector: The panel.
        poses: Where source and panel stand.
        basis: What a HU value stands for.
        device: A CUDA device; the CPU in Triton's interpreter.
        memory_bytes: What may be used of the card [bytes]; None for all that is free.

    Raises:
        EngineError: Not even two slices fit beside the pictures.
    """
    images = (len(poses), len(basis.names), detector.rows, detector.columns)
    free = _find_free(device) if memory_bytes is None else memory_bytes
    slabs = _cut_slabs(volume.hu.shape, images, free)
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        table = _upload(_pad_table(basis), device)
        geometry = _make_geometry(volume, detector, poses).to(device)
        sums = torch.zeros(images, dtype=torch.float32, device=device)
        for first, last in slabs:
            # The slice after the last is a neighbour of the samples before it.
            slab = _upload(volume.hu[first : last + 1], device)
            _launch(slab, (first, last), volume.hu.shape, table, geometry, sums)
            del slab  # before the next one comes
    return sums


def _find_free(device: torch.device) -> int:
    """Find how much memory a render may take: what the card has free, and what torch keeps."""
    if device.type != "cuda":
        return 2**62  # the interpreter
    free, _ = torch.cuda.mem_get_info(device)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + kept - SPARE_BYTES


def _cut_slabs(
    shape: tuple[int, ...], images: tuple[int, ...], memory_bytes: int
) -> list[tuple[int, int]]:
    """Cut a volume into slabs that fit: the first slice of each, and the one after its last."""
    n_z, plane = shape[0], shape[1] * shape[2]
    room = memory_bytes - 4 * int(np.prod(images))
    slices = min(room // (2 * plane), MAX_SLAB_VOXELS // plane)
    if slices >= n_z:
        return [(0, n_z)]
    if slices < 2:
        raise EngineError(
            f"the pictures take {4 * int(np.prod(images)) / 2**20:.0f} MiB and two slices "
            f"{4 * plane / 2**20:.0f} MiB, and the card has {memory_bytes / 2**20:.0f} MiB free; "
            "render fewer poses or pixels at once, free the card, or use --device cpu"
        )
    return [(z, min(z + slices - 1, n_z)) for z in range(0, n_z, slices - 1)]


def _upload(array: Shaped[np.ndarray, "..."], device: torch.device) -> Shaped[Tensor, "..."]:
    """Copy an array to the card.

    It goes through page-locked memory: the card reads that fastest, and torch does not wrap a
    read-only array.
    """
    kind = torch.from_numpy(np.empty(0, dtype=array.dtype)).dtype
    host = torch.empty(array.shape, dtype=kind, pin_memory=device.type == "cuda")
    np.copyto(host.numpy(), array)
    return host.to(device, non_blocking=True)


def _pad_table(basis: Basis) -> Float[np.ndarray, "m hu"]:
    """Tabulate the amounts, with empty rows up to a power of two."""
    table = basis.tabulate()
    return np.pad(table, ((0, triton.next_power_of_2(len(table)) - len(table)), (0, 0)))


def _make_geometry(
    volume: CTVolume, detector: Detector, poses: Sequence[Pose]
) -> Float64[Tensor, "b 16"]:
    """Carry source and pixels from the patient to the voxel grid, in the order (x, y, z).

    A row holds the source, the way from there to the corner of pixel (0, 0), the steps from pixel
    to pixel along u and along v, and last what the length of a ray follows from.
    """
    voxel_from_patient = torch.from_numpy(volume.voxel_from_patient)
    panel = torch.tensor(
        [*detector.center_uv, detector.pitch_mm, detector.sid_mm], dtype=torch.float64
    )
    rows = []
    for pose in poses:
        voxel_from_camera = voxel_from_patient @ pose.patient_from_camera.detach().cpu()
        voxel_from_pixel = voxel_from_camera @ detector.camera_from_pixel
        source, corner = voxel_from_camera[:3, 3], voxel_from_pixel[:3, 3]
        per_u, per_v = voxel_from_pixel[:3, 0], voxel_from_pixel[:3, 1]
        rows.append(torch.cat([source, corner - source, per_u, per_v, panel]))
    return torch.stack(rows)


def _launch(
    slab: Int16[Tensor, "s y x"],
    owned: tuple[int, int],
    shape: tuple[int, ...],
    table: Float[Tensor, "m hu"],
    geometry: Float64[Tensor, "b 16"],
    sums: Float[Tensor, "b m v u"],
) -> None:
    """Add what one slab holds to the pictures."""
    n_poses, n_materials, rows, columns = sums.shape
    tiles = triton.cdiv(rows, TILE_ROWS) * triton.cdiv(columns, TILE_COLUMNS)
    _integrate[(n_poses * tiles,)](
        slab,
        table,
        geometry,
        sums,
        *shape,
        *owned,
        rows,
        columns,
        n_materials,
        MATERIALS=table.shape[0],
        TILE_V=TILE_ROWS,
        TILE_U=TILE_COLUMNS,
        num_warps=WARPS,
        enable_fp_fusion=True,
    )


@triton.jit
def _integrate(  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0915, PLR0917  a card takes no records
    slab,
    table,
    geometry,
    sums,
    n_z,
    n_y,
    n_x,
    z_first,
    z_last,
    rows,
    columns,
    n_materials,
    MATERIALS: tl.constexpr,  # noqa: N803  Triton's custom for what is compiled in
    TILE_V: tl.constexpr,  # noqa: N803
    TILE_U: tl.constexpr,  # noqa: N803
):
    """Add up one tile of one picture: the samples that lie in slices z_first to z_last."""
    tiles_u = tl.cdiv(columns, TILE_U)
    tiles = tl.cdiv(rows, TILE_V) * tiles_u
    pose, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    # Materials run along the first axis, rays along the second: one layout for all, so that no
    # sample needs the threads to wait for each other.
    lane = tl.arange(0, TILE_V * TILE_U)[None, :]
    v = (tile // tiles_u) * TILE_V + lane // TILE_U
    u = (tile % tiles_u) * TILE_U + lane % TILE_U
    on_panel = (v < rows) & (u < columns)

    place = geometry + pose * 16
    source_x, ray_x = _cast_axis(place, 0, u, v)
    source_y, ray_y = _cast_axis(place, 1, u, v)
    source_z, ray_z = _cast_axis(place, 2, u, v)
    near_x, far_x = _clip_axis(source_x, ray_x, -0.5, n_x - 0.5)
    near_y, far_y = _clip_axis(source_y, ray_y, -0.5, n_y - 0.5)
    near_z, far_z = _clip_axis(source_z, ray_z, -0.5, n_z - 0.5)
    enter = tl.maximum(tl.maximum(near_x, near_y), tl.maximum(near_z, 0.0))
    leave = tl.minimum(tl.minimum(far_x, far_y), tl.minimum(far_z, 1.0))
    # What of it can meet the slab, which reaches a slice further for samples between two slices.
    near_slab, far_slab = _clip_axis(source_z, ray_z, z_first - 1.0, z_last + 1.0)
    begin, end = tl.maximum(enter, near_slab), tl.minimum(leave, far_slab)
    live = on_panel & (enter < leave) & (begin < end)

    # Each ray steps along an axis of its own, so the axes are dealt out ray by ray.
    along_x, along_z = _find_steepest(ray_x, ray_y, ray_z)
    start = _deal(along_x, along_z, source_x, source_y, source_z)
    step = _deal(along_x, along_z, ray_x, ray_y, ray_z)
    n_slices = _deal(along_x, along_z, n_x, n_y, n_z)
    n_rows, n_columns = tl.where(along_z, n_y, n_z), tl.where(along_x, n_y, n_x)
    slice_stride = _deal(along_x, along_z, 1, n_x, n_y * n_x)
    row_stride = tl.where(along_z, n_x, n_y * n_x)
    column_stride = tl.where(along_x, n_x, 1)
    down, right = tl.where(n_rows > 1, row_stride, 0), tl.where(n_columns > 1, column_stride, 0)
    slab_start = z_first * tl.where(along_z, slice_stride, row_stride)

    # From here on a ray is a line over its slices: what it meets, and where it runs.
    low, high = _find_reach(start, step, enter, leave, live)
    first, last = _find_reach(start, step, begin, end, live)
    first = tl.maximum(tl.floor(first + 0.5).to(tl.int32), 0)
    last = tl.minimum(tl.floor(last + 0.5).to(tl.int32), n_slices - 1)
    low, high = low.to(tl.float32), high.to(tl.float32)
    row_zero, row_slope = _find_line(
        start, step, tl.where(along_z, source_y, source_z), tl.where(along_z, ray_y, ray_z)
    )
    column_zero, column_slope = _find_line(
        start, step, tl.where(along_x, source_y, source_x), tl.where(along_x, ray_y, ray_x)
    )

    tile_first = tl.min(tl.where(live, first, 2147483647))
    tile_last = tl.max(tl.where(live, last, -1))
    material = tl.arange(0, MATERIALS)[:, None]
    total = tl.zeros((MATERIALS, TILE_V * TILE_U), dtype=tl.float32)
    for index in range(tile_first, tile_last + 1):
        share = tl.minimum(index + 0.5, high) - tl.maximum(index - 0.5, low)
        row, row_weight = _locate(row_zero + index * row_slope, n_rows)
        column, column_weight = _locate(column_zero + index * column_slope, n_columns)
        z = tl.where(along_z, index, row)
        here = live & (share > 0) & (z >= z_first) & (z < z_last)
        # Beyond 2**31 voxels these wrap around, and what is left within the slab is right again.
        voxel = index * slice_stride + row * row_stride + column * column_stride - slab_start
        a = _look_up(slab, table, voxel, here, material)
        b = _look_up(slab, table, voxel + right, here, material)
        c = _look_up(slab, table, voxel + down, here, material)
        d = _look_up(slab, table, voxel + down + right, here, material)
        upper, lower = a + (b - a) * column_weight, c + (d - c) * column_weight
        total += tl.where(here, share, 0.0) * (upper + (lower - upper) * row_weight)

    # A slice is as thick as the ray is long, from source to pixel, over the slices on that way.
    thickness_mm = (_find_length(place, u, v) / tl.abs(step)).to(tl.float32)
    pixel = (pose * n_materials + material).to(tl.int64) * rows + v
    pixel = pixel * columns + u
    wanted = on_panel & (material < n_materials)
    before = tl.load(sums + pixel, mask=wanted, other=0.0)
    tl.store(sums + pixel, before + total * thickness_mm, mask=wanted)


@triton.jit
def _cast_axis(place, axis, u, v):  # type: ignore[no-untyped-def]
    """Find source and rays along one axis, from a row of the geometry."""
    across = (u.to(tl.float64) + 0.5) * tl.load(place + 6 + axis)
    down = (v.to(tl.float64) + 0.5) * tl.load(place + 9 + axis)
    return tl.load(place + axis), tl.load(place + 3 + axis) + across + down


@triton.jit
def _find_length(place, u, v):  # type: ignore[no-untyped-def]
    """Find the lengths of rays, from source to pixel [mm]."""
    x = (u.to(tl.float64) + 0.5 - tl.load(place + 12)) * tl.load(place + 14)
    y = (v.to(tl.float64) + 0.5 - tl.load(place + 13)) * tl.load(place + 14)
    sid_mm = tl.load(place + 15)
    return tl.sqrt(x * x + y * y + sid_mm * sid_mm)


@triton.jit
def _clip_axis(source, ray, low, high):  # type: ignore[no-untyped-def]
    """Find where rays enter and leave a pair of faces: 0 at the source, 1 at the pixel."""
    still = ray == 0
    safe = tl.where(still, 1.0, ray)
    a, b = (low - source) / safe, (high - source) / safe
    between = (source > low) & (source < high)
    near = tl.where(still, tl.where(between, float("-inf"), float("inf")), tl.minimum(a, b))
    far = tl.where(still, tl.where(between, float("inf"), float("-inf")), tl.maximum(a, b))
    return near, far


@triton.jit
def _find_steepest(ray_x, ray_y, ray_z):  # type: ignore[no-untyped-def]
    """Find which rays run along x and which along z; a tie goes to x, then y, as elsewhere."""
    x, y, z = tl.abs(ray_x), tl.abs(ray_y), tl.abs(ray_z)
    return (x >= y) & (x >= z), (z > x) & (z > y)


@triton.jit
def _deal(along_x, along_z, x, y, z):  # type: ignore[no-untyped-def]
    """Give each ray what belongs to its axis."""
    return tl.where(along_x, x, tl.where(along_z, z, y))


@triton.jit
def _find_reach(start, step, enter, leave, live):  # type: ignore[no-untyped-def]
    """Turn two fractions of the way from source to pixel into positions over the slices."""
    a = start + tl.where(live, enter, 0.0) * step  # dead rays may hold infinite fractions
    b = start + tl.where(live, leave, 0.0) * step
    return tl.minimum(a, b), tl.maximum(a, b)


@triton.jit
def _find_line(start, step, source, ray):  # type: ignore[no-untyped-def]
    """Find where rays run at slice 0, and how far they move to the side in a slice."""
    slope = ray / step
    return (source - start * slope).to(tl.float32), slope.to(tl.float32)


@triton.jit
def _locate(position, count):  # type: ignore[no-untyped-def]
    """Find lower neighbour and weight of the upper; beyond the outermost centres the edge holds."""
    held = tl.maximum(tl.minimum(position, (count - 1).to(tl.float32)), 0.0)
    lower = tl.minimum(held.to(tl.int32), tl.maximum(count - 2, 0))
    return lower, held - lower


@triton.jit
def _look_up(slab, table, voxel, here, material):  # type: ignore[no-untyped-def]
    """Read voxels, and turn their HU into the amount of every material."""
    hu = tl.load(slab + voxel, mask=here, other=0).to(tl.int32) + 32768
    return tl.load(table + material * 65536 + hu)
