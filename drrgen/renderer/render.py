"""One function, several engines: line integrals of a volume as seen from some poses."""

import logging
from collections.abc import Sequence
from importlib.util import find_spec

import torch
from jaxtyping import Float
from torch import Tensor

from drrgen.choices import Engine
from drrgen.errors import EngineError, GeometryError
from drrgen.geometry.detector import Detector
from drrgen.geometry.pose import Pose
from drrgen.physics.materials import Basis, make_attenuation_basis
from drrgen.volume import CTVolume, Matrix4, check_grid

DEFAULT_KEV = 60.0
DIFFERENTIABLE = (Engine.REFERENCE, Engine.DIFFDRR)

LineIntegral = Float[Tensor, "b m v u"]

_log = logging.getLogger(__name__)


def render(
    volume: CTVolume,
    detector: Detector,
    poses: Sequence[Pose],
    *,
    basis: Basis | None = None,
    engine: Engine | str = Engine.AUTO,
    device: str = "auto",
    slab_slices: int = 1,
) -> LineIntegral:
    """Integrate the materials of a CT along the ray to every pixel's centre.

    Joseph's method: one bilinear sample in every slice along the axis the ray runs nearest to,
    with exact lengths at entry and exit. Only what lies between source and pixel counts; outside
    its grid the volume is nothing. Engines agree to 1e-4, save ``diffdrr``, which takes each voxel
    for a block of one value.

    A pose that carries a gradient is differentiated by ``reference`` and ``diffdrr``; ``auto`` then
    takes the reference. What does not fit a card under ``auto`` is rendered on the CPU, with a
    warning in the log.

    Args:
        volume: The CT.
        detector: The panel.
        poses: Where source and panel stand; one picture each.
        basis: What a HU value stands for; None is linear attenuation at 60 keV [1/mm].
        engine: ``numba`` (CPU), ``triton`` (CUDA), ``reference`` or ``diffdrr`` (torch, any
            device), or ``auto``.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``auto``.
        slab_slices: Slices along the beam that are summed before projecting, for previews and many
            views from one side; ``_slabs.sum_slabs`` states the error.

    Returns:
        Line integrals, a picture for every pose b and material m, float32, on the device that made
        them.

    Raises:
        EngineError: The engine or the device is not to be had here, gives no gradient where a pose
            wants one, or ran out of memory.
        GeometryError: There are no poses, or ``slab_slices`` is below 1.

    Source:
        Joseph, IEEE Trans Med Imaging 1(3):192-196, 1982.

    Example:
        A cube of water, 100 mm thick, seen along its middle at 0.02059/mm:

        >>> from drrgen.geometry.pose import make_pose
        >>> from drrgen.phantoms import make_box
        >>> cube = make_box(size_mm=(100, 100, 100), spacing_mm=2.0, hu=0)
        >>> pa = make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=1600)
        >>> panel = Detector(sid_mm=1800, pitch_mm=1.0, rows=1, columns=1)
        >>> round(render(cube, panel, [pa]).item(), 3)
        2.059
    """
    _check_poses(poses)
    basis = basis or make_attenuation_basis(DEFAULT_KEV)
    if slab_slices != 1:
        from drrgen.renderer._slabs import render_slabs

        return render_slabs(
            volume, detector, poses, basis=basis, slices=slab_slices, engine=engine, device=device
        )
    chosen, where = _choose_for_poses(engine, device, poses)
    try:
        return _run(chosen, where, volume, detector, poses, basis)
    except EngineError as error:
        if engine != Engine.AUTO or where.type == "cpu":
            raise
        chosen, cpu = _choose_for_poses(engine, "cpu", poses)
        _log.warning("rendered by engine %s on the CPU instead: %s", chosen, error)
        return _run(chosen, cpu, volume, detector, poses, basis)


def render_amounts(
    amounts: Float[Tensor, "m z y x"],
    detector: Detector,
    poses: Sequence[Pose],
    *,
    patient_from_voxel: Matrix4,
) -> LineIntegral:
    """Integrate a tensor of amounts: ``render`` for what is no CT, with a gradient in the volume.

    A CT holds int16, which carries no gradient. Whoever optimizes a volume, or has one in floating
    point, hands over the amounts that a basis would have made of its HU. The reference integrates
    them on their own device; gradients flow into ``amounts`` and into the poses.

    Args:
        amounts: Amount of every material in every voxel [1/mm, or what the basis is].
        detector: The panel.
        poses: Where source and panel stand; one picture each.
        patient_from_voxel: Voxel index ``(x, y, z, 1)`` to patient LPS [mm].

    Returns:
        Line integrals, in the precision and on the device of ``amounts``.

    Raises:
        GeometryError: There are no poses, the amounts are not four axes of floating point, or the
            grid is not finite, singular or sheared.

    Example:
        The way through a single voxel of 5 mm is the gradient in its amount:

        >>> import numpy as np
        >>> from drrgen.geometry.pose import make_pose
        >>> voxel = torch.ones(1, 1, 1, 1, requires_grad=True)
        >>> pa = make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=1600)
        >>> panel = Detector(sid_mm=1800, pitch_mm=1.0, rows=1, columns=1)
        >>> grid = np.diag([5.0, 5.0, 5.0, 1.0])
        >>> render_amounts(voxel, panel, [pa], patient_from_voxel=grid).sum().backward()
        >>> round(voxel.grad.item(), 3)
        5.0
    """
    from drrgen.renderer._reference import render_reference_amounts

    _check_poses(poses)
    check_grid(patient_from_voxel)
    if amounts.ndim != 4 or 0 in amounts.shape or not amounts.is_floating_point():
        raise GeometryError(
            "amounts must be a non-empty tensor of floating point (material, z, y, x), got "
            f"{amounts.dtype} {tuple(amounts.shape)}"
        )
    return render_reference_amounts(amounts, patient_from_voxel, detector, poses)


def choose_engine(engine: Engine | str, device: str) -> tuple[Engine, torch.device]:
    """Settle which engine runs on which device.

    Args:
        engine: The engine asked for. ``auto`` takes numba on a CPU; on CUDA it takes triton, or the
            reference where Triton is not installed.
        device: The device asked for; ``auto`` is CUDA where torch sees it and the engine can use
            it, else the CPU.

    Raises:
        EngineError: Unknown engine or device, no such device here, no Triton, or an engine asked
            for on a device that it does not run on.
    """
    try:
        wanted = Engine(engine)
        if device == "auto":
            device = "cpu" if wanted is Engine.NUMBA or not torch.cuda.is_available() else "cuda"
        where = torch.device(device)
    except (ValueError, RuntimeError) as error:
        raise EngineError(
            f"engine {engine!r} on device {device!r} is not known; engines: {', '.join(Engine)}; "
            "devices: auto, cpu, cuda, cuda:N"
        ) from error
    if where.type not in ("cpu", "cuda"):
        raise EngineError(f"device {device!r} is not supported; use cpu, cuda or cuda:N")
    if where.type == "cuda":
        _check_cuda(where)
    if wanted is Engine.NUMBA and where.type == "cuda":
        raise EngineError("engine numba runs on the CPU only; use --device cpu")
    if wanted is Engine.TRITON:
        _check_triton(where)
    if wanted is Engine.AUTO and where.type == "cuda":
        return (Engine.TRITON if find_spec("triton") else Engine.REFERENCE), where
    return (Engine.NUMBA if wanted is Engine.AUTO else wanted), where


def _choose_for_poses(
    engine: Engine | str, device: str, poses: Sequence[Pose]
) -> tuple[Engine, torch.device]:
    """Settle engine and device for poses of which one may carry a gradient."""
    chosen, where = choose_engine(engine, device)
    wants_gradient = any(pose.patient_from_camera.requires_grad for pose in poses)
    if chosen in DIFFERENTIABLE or not (wants_gradient and torch.is_grad_enabled()):
        return chosen, where
    if engine != Engine.AUTO:
        raise EngineError(
            f"engine {chosen} gives no gradient, and a pose wants one; use "
            f"{' or '.join(DIFFERENTIABLE)}, or render under torch.no_grad()"
        )
    return Engine.REFERENCE, where


def _run(
    engine: Engine,
    device: torch.device,
    volume: CTVolume,
    detector: Detector,
    poses: Sequence[Pose],
    basis: Basis,
) -> LineIntegral:
    """Let an engine render; only the one that is chosen is imported."""
    try:
        if engine is Engine.NUMBA:
            from drrgen.renderer._numba import render_numba

            return torch.from_numpy(render_numba(volume, detector, poses, basis))
        if engine is Engine.TRITON:
            from drrgen.renderer._triton import render_triton

            return render_triton(volume, detector, poses, basis, device)
        if engine is Engine.DIFFDRR:
            from drrgen.renderer._diffdrr import render_diffdrr

            return render_diffdrr(volume, detector, poses, basis, device)
        from drrgen.renderer._reference import render_reference

        return render_reference(volume, detector, poses, basis, device)
    except torch.cuda.OutOfMemoryError as error:
        pixels = len(poses) * len(basis.names) * detector.rows * detector.columns
        raise EngineError(
            f"engine {engine} ran out of memory on {device}: {str(error).splitlines()[0]} The "
            f"volume takes {volume.hu.nbytes / 2**20:.0f} MiB and the pictures "
            f"{4 * pixels / 2**20:.0f} MiB, besides the engine's own work; render fewer poses or "
            "pixels at once, or use --device cpu"
        ) from error


def _check_poses(poses: Sequence[Pose]) -> None:
    """Raise GeometryError when there is nothing to render."""
    if not poses:
        raise GeometryError("poses is empty; give at least one pose of make_pose")


def _check_cuda(device: torch.device) -> None:
    """Raise EngineError when this machine lacks the CUDA device."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count <= (device.index or 0):
        raise EngineError(
            f"device {device} is not here: torch {torch.__version__} sees {count} CUDA devices; "
            "use --device cpu, or install a CUDA build of torch"
        )


def _check_triton(device: torch.device) -> None:
    """Raise EngineError when Triton is missing, or has no CUDA device to run on."""
    if device.type != "cuda":
        raise EngineError(
            "engine triton needs a CUDA device, and got the CPU; use --engine numba, or a machine "
            "whose torch sees CUDA"
        )
    if find_spec("triton") is None:
        raise EngineError(
            "engine triton needs the package triton, which is not installed; pip install triton, "
            "or use --engine reference"
        )
