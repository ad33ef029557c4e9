"""One function, several engines: line integrals of a volume as seen from some poses."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from drrgen.choices import Engine
from drrgen.errors import EngineError, GeometryError
from drrgen.geometry.detector import Detector
from drrgen.geometry.pose import Pose
from drrgen.physics.materials import Basis, make_attenuation_basis
from drrgen.volume import CTVolume

DEFAULT_KEV = 60.0

LineIntegral = Float[Tensor, "b m v u"]


def render(
    volume: CTVolume,
    detector: Detector,
    poses: Sequence[Pose],
    *,
    basis: Basis | None = None,
    engine: Engine | str = Engine.AUTO,
    device: str = "auto",
) -> LineIntegral:
    """Integrate the materials of a CT along the ray to every pixel's centre.

    Joseph's method: one bilinear sample in every slice along the axis the ray runs nearest to,
    with exact lengths at entry and exit. Only what lies between source and pixel counts; outside
    its grid the volume is nothing. Engines agree to 1e-4.

    Args:
        volume: The CT.
        detector: The panel.
        poses: Where source and panel stand; one picture each.
        basis: What a HU value stands for; None is linear attenuation at 60 keV [1/mm].
        engine: ``numba`` (CPU), ``reference`` (torch, any device), or ``auto``.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``auto``.

    Returns:
        Line integrals, a picture for every pose b and material m, float32.

    Raises:
        EngineError: The engine or the device is not to be had here.
        GeometryError: There are no poses.

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
    if not poses:
        raise GeometryError("poses is empty; give at least one pose of make_pose")
    basis = basis or make_attenuation_basis(DEFAULT_KEV)
    chosen, where = choose_engine(engine, device)
    if chosen is Engine.NUMBA:
        from drrgen.renderer._numba import render_numba

        return torch.from_numpy(render_numba(volume, detector, poses, basis))
    from drrgen.renderer._reference import render_reference

    return render_reference(volume, detector, poses, basis, where)


def choose_engine(engine: Engine | str, device: str) -> tuple[Engine, torch.device]:
    """Settle which engine runs on which device.

    Args:
        engine: The engine asked for; ``auto`` takes numba on a CPU and the reference on CUDA.
        device: The device asked for; ``auto`` is the CPU.

    Raises:
        EngineError: Unknown engine or device, no such device here, or numba asked for on CUDA.
    """
    try:
        wanted = Engine(engine)
        where = torch.device("cpu" if device == "auto" else device)
    except (ValueError, RuntimeError) as error:
        raise EngineError(
            f"engine {engine!r} on device {device!r} is not known; engines: {', '.join(Engine)}; "
            "devices: auto, cpu, cuda, cuda:N"
        ) from error
    if where.type not in ("cpu", "cuda"):
        raise EngineError(f"device {device!r} is not supported; use cpu, cuda or cuda:N")
    if where.type == "cuda":
        _check_cuda(where)
        if wanted is Engine.NUMBA:
            raise EngineError("engine numba runs on the CPU only; use --device cpu")
    if wanted is Engine.AUTO:
        wanted = Engine.NUMBA if where.type == "cpu" else Engine.REFERENCE
    return wanted, where


def _check_cuda(device: torch.device) -> None:
    """Raise EngineError when this machine lacks the CUDA device."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count <= (device.index or 0):
        raise EngineError(
            f"device {device} is not here: torch {torch.__version__} sees {count} CUDA devices; "
            "use --device cpu, or install a CUDA build of torch"
        )
