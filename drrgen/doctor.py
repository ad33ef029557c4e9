"""What this machine can do, found out by doing it: engines, decoders, room and packages.

An engine is well when it renders a small phantom as the reference does, and the reference is when
it gives a number that a formula gives too. Nothing here is taken from a version number.
"""

import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path

import psutil
import torch

from drrgen.choices import ClusterKind, Engine
from drrgen.geometry.detector import Detector
from drrgen.geometry.pose import make_pose
from drrgen.io.syntaxes import check_syntaxes
from drrgen.phantoms import make_box, make_torso
from drrgen.renderer.render import choose_engine, render

ENGINE_TOL = 1e-4  # of the largest line integral: what engines promise one another
WATER_LINE_INTEGRAL, WATER_TOL = 2.059, 1e-3  # 100 mm of water at 0.02059/mm
MIN_MEMORY_GIB, MIN_DISK_GIB = 4.0, 5.0

_GIB = 2**30
_POD_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_CGROUP = Path("/sys/fs/cgroup")
_UNLIMITED = 2**60


class Health(StrEnum):
    """How something is: well, missing without need, or broken."""

    OK = "ok"
    MISSING = "missing"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        group: ``engine``, ``device``, ``dicom``, ``cluster``, ``package`` or ``machine``.
        name: What was looked at.
        health: How it is.
        detail: What was found.
        remedy: What to do about it; empty when it is well.
    """

    group: str
    name: str
    health: Health
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Everything that was looked at.

    Attributes:
        renders: Whether the engine that ``--engine auto`` takes here renders rightly.
        findings: One entry a thing.
    """

    renders: bool
    findings: tuple[Finding, ...]


def examine() -> Diagnosis:
    """Look at everything; takes some seconds, most of them compiling or loading kernels."""
    engines = [_check_reference(), _check_numba(), _check_triton(), _check_diffdrr()]
    auto, device = choose_engine(Engine.AUTO, "auto")
    renders = any(finding.name == auto.value and finding.health is Health.OK for finding in engines)
    findings = [
        *engines, *_check_devices(), *_check_dicom(), *_check_clusters(), *_check_packages(),
        *_check_machine(),
    ]  # fmt: skip
    chosen = Finding(
        group="engine", name="auto", health=Health.OK if renders else Health.BROKEN,
        detail=f"takes {auto.value} on {device.type}",
        remedy="" if renders else f"see engine {auto.value}; --engine names another one",
    )  # fmt: skip
    return Diagnosis(renders=renders, findings=(chosen, *findings))


def _try(name: str, work: Callable[[], str], remedy: str) -> Finding:
    """Do something; whatever goes wrong is a finding and not an end."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Finding(group="engine", name=name, health=Health.OK, detail=work())
    except Exception as error:  # noqa: BLE001  a machine that is ill raises what it likes
        told = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return Finding(
            group="engine", name=name, health=Health.BROKEN, detail=told, remedy=remedy
        )  # fmt: skip


def _check_reference() -> Finding:
    """Hold the reference against a formula."""

    def work() -> str:
        panel = Detector(sid_mm=1800, pitch_mm=1.0, rows=1, columns=1)
        pose = make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=1600)
        cube = make_box(size_mm=(100, 100, 100), spacing_mm=2.0, hu=0)
        found = render(cube, panel, [pose], engine=Engine.REFERENCE, device="cpu").item()
        _compare(abs(found - WATER_LINE_INTEGRAL), WATER_TOL)
        return f"100 mm of water have a line integral of {found:.3f}"

    return _try(Engine.REFERENCE.value, work, "pip install --force-reinstall torch")


def _compare(difference: float, limit: float) -> None:
    """Raise when a difference is too large, or no number."""
    if not difference <= limit:
        raise ArithmeticError(f"off by {difference:.2g}, wanted at most {limit:g}")


def _render_small(engine: Engine, device: str) -> str:
    """Render a small chest and hold it against the reference."""
    volume = make_torso(spacing_mm=10.0)
    panel = Detector(sid_mm=1800, pitch_mm=10.0, rows=32, columns=48)
    poses = [make_pose(view, isocenter_mm=(0, 0, 0), sod_mm=1600) for view in ("PA", "LL")]
    wanted = render(volume, panel, poses, engine=Engine.REFERENCE, device="cpu")
    found = render(volume, panel, poses, engine=engine, device=device).cpu()
    worst = float((found - wanted).abs().max() / wanted.max())
    _compare(worst, ENGINE_TOL)
    return f"a small chest is within {worst:.1g} of the reference"


def _check_numba() -> Finding:
    """Compile and run the CPU kernel."""
    return _try(
        Engine.NUMBA.value, lambda: _render_small(Engine.NUMBA, "cpu"),
        "pip install --force-reinstall numba; its cache must be writable (NUMBA_CACHE_DIR)",
    )  # fmt: skip


def _check_triton() -> Finding:
    """Compile and run the CUDA kernel, where there is a card."""
    name = Engine.TRITON.value
    if not torch.cuda.is_available():
        return Finding(
            group="engine", name=name, health=Health.MISSING, detail="torch sees no CUDA device",
            remedy="only for machines with an NVIDIA card: install a CUDA build of torch",
        )  # fmt: skip
    if find_spec("triton") is None:
        return Finding(
            group="engine", name=name, health=Health.MISSING, detail="not installed",
            remedy="pip install triton",
        )  # fmt: skip
    return _try(
        name, lambda: _render_small(Engine.TRITON, "cuda"), "pip install --force-reinstall triton"
    )


def _check_diffdrr() -> Finding:
    """Import the engine that wraps diffdrr."""

    def work() -> str:
        import_module("drrgen.renderer._diffdrr")
        import_module("diffdrr.drr")
        return f"diffdrr {metadata.version('diffdrr')} imports"

    return _try(Engine.DIFFDRR.value, work, "pip install 'diffdrr>=0.6,<0.7'")


def _check_devices() -> Iterable[Finding]:
    """Tell torch's build and the cards that it sees."""
    build = torch.version.cuda
    yield Finding(
        group="device", name="torch", health=Health.OK,
        detail=f"{torch.__version__}, {f'CUDA {build}' if build else 'no CUDA'}, "
        f"{torch.get_num_threads()} threads",
    )  # fmt: skip
    yield Finding(group="device", name="cpu", health=Health.OK, detail="always there")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for i in range(count):
        card = torch.cuda.get_device_properties(i)
        yield Finding(
            group="device", name=f"cuda:{i}", health=Health.OK,
            detail=f"{card.name}, {card.total_memory / _GIB:.0f} GiB",
        )  # fmt: skip
    if not count:
        yield Finding(
            group="device", name="cuda", health=Health.MISSING,
            detail="none" if build else "this torch is built without CUDA",
            remedy="check the driver with nvidia-smi" if build else
            "on a machine with an NVIDIA card: install a CUDA build of torch",
        )  # fmt: skip


def _check_dicom() -> Iterable[Finding]:
    """Tell which transfer syntaxes can be decoded."""
    for check in check_syntaxes():
        yield Finding(
            group="dicom", name=check.name,
            health=Health.OK if check.decoder else Health.MISSING,
            detail=f"decoded by {check.decoder}" if check.decoder else f"{check.uid}: no decoder",
            remedy=check.remedy,
        )  # fmt: skip


def _check_clusters() -> Iterable[Finding]:
    """Tell which clusters drrgen can ask for workers from here, beside this machine itself."""
    ways = {
        ClusterKind.SLURM: ("dask_jobqueue", shutil.which("sbatch"), "where sbatch is"),
        ClusterKind.KUBERNETES: ("dask_kubernetes", _find_kubernetes(), "where kubectl works"),
    }
    for kind, (module, way, where) in ways.items():
        if find_spec(module) is None:
            detail, remedy = f"{module} is not installed", f"pip install 'drrgen[{kind}]'"
        elif way is None:
            detail, remedy = "no way to one from here", f"for --cluster {kind}: work {where}"
        else:
            detail, remedy = f"{module} {metadata.version(module.replace('_', '-'))}, {way}", ""
        health = Health.MISSING if remedy else Health.OK
        yield Finding(group="cluster", name=str(kind), health=health, detail=detail, remedy=remedy)


def _find_kubernetes() -> str | None:
    """Find what tells where a Kubernetes is: a configuration, or the token of a pod."""
    named = os.environ.get("KUBECONFIG", "").split(os.pathsep)
    places = [*map(Path, filter(None, named)), Path.home() / ".kube" / "config", _POD_TOKEN]
    return next((str(place) for place in places if place.is_file()), None)


def _check_packages() -> Iterable[Finding]:
    """Tell which packages that drrgen names are missing, for itself and for each extra."""
    groups: dict[str, list[str]] = {"": []}
    for text in metadata.requires("drrgen") or []:
        name = re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0]
        marked = re.search(r"extra\s*==\s*['\"]([^'\"]+)", text)
        groups.setdefault(marked[1] if marked else "", []).append(name)
    for extra, names in groups.items():
        missing = [name for name in names if not _is_installed(name)]
        told = f"missing: {', '.join(missing)}" if missing else f"{len(names)} packages"
        broken = Health.MISSING if extra else Health.BROKEN
        yield Finding(
            group="package", name=f"drrgen[{extra}]" if extra else "drrgen",
            health=broken if missing else Health.OK, detail=told,
            remedy=f"pip install {' '.join(missing)}" if missing else "",
        )  # fmt: skip


def _is_installed(name: str) -> bool:
    """Say whether a distribution is installed."""
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _check_machine() -> Iterable[Finding]:
    """Tell cores, memory and disk, as a container sees them."""
    yield Finding(
        group="machine", name="cores", health=Health.OK,
        detail=f"{count_cores():g} for this process, {os.cpu_count()} in the machine",
    )  # fmt: skip
    memory = find_free_memory() / _GIB
    small = memory < MIN_MEMORY_GIB
    yield Finding(
        group="machine", name="memory", health=Health.MISSING if small else Health.OK,
        detail=f"{memory:.1f} GiB free",
        remedy=f"a large CT takes {MIN_MEMORY_GIB:g} GiB; use --workers 1" if small else "",
    )  # fmt: skip
    for name, folder in (("disk here", Path.cwd()), ("temporary files", tempfile.gettempdir())):
        free = shutil.disk_usage(folder).free / _GIB
        small = free < MIN_DISK_GIB
        yield Finding(
            group="machine", name=name, health=Health.MISSING if small else Health.OK,
            detail=f"{free:.1f} GiB free",
            remedy="make room, or write elsewhere (--out, TMPDIR)" if small else "",
        )  # fmt: skip


def count_cores() -> float:
    """Count the cores that this process may use: by its affinity and its container's quota."""
    usable = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else
                   os.cpu_count() or 1)  # fmt: skip
    quota = _read_words(_CGROUP / "cpu.max") or [
        *_read_words(_CGROUP / "cpu/cpu.cfs_quota_us"),
        *_read_words(_CGROUP / "cpu/cpu.cfs_period_us"),
    ]
    if len(quota) == 2 and all(word.isdigit() for word in quota) and int(quota[1]) > 0:
        usable = min(usable, int(quota[0]) / int(quota[1]))
    return usable


def find_free_memory() -> int:
    """Find how much memory is free in the machine and in this container [bytes]."""
    free = int(psutil.virtual_memory().available)
    pairs = (("memory.max", "memory.current"),
             ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))  # fmt: skip
    for limit, used in pairs:
        words = _read_words(_CGROUP / limit) + _read_words(_CGROUP / used)
        if len(words) == 2 and all(word.isdigit() for word in words) and int(words[0]) < _UNLIMITED:
            free = min(free, max(0, int(words[0]) - int(words[1])))
    return free


def _read_words(path: Path) -> list[str]:
    """Read the words of a small file; none where there is no such file."""
    try:
        return path.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return []
