"""Where the workers are, and what a site asks of its users: one TOML file, one record a section.

    [slurm]
    queue = "gpu"
    gpus = 1

A site says how jobs are asked for, never what is rendered: no setting here touches a pixel.
"""

import dataclasses
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dask.utils import parse_bytes

from drrgen.choices import ClusterKind
from drrgen.config import RunConfig, check_known, check_value, make_record, read_toml, setting
from drrgen.errors import ConfigError

MIN_WORKER_BYTES = 10**9  # the smallest CT, torch and numba
MIN_WALLTIME_S = 300.0
STAGGER_SHARE, MAX_STAGGER_S = 0.05, 300.0
_UNITS: tuple[int, ...] = (3600, 60, 1)  # hours, minutes, seconds
_EVICTED_TRIES = 5  # alone; an item that ends its own process leaves a story, and is not tried so


def _check_line(record: object, *keys: str) -> None:
    """Raise ConfigError for text that would be more than one line of a script."""
    for key in keys:
        value = getattr(record, key)
        lines = value if isinstance(value, tuple) else (value or "x",)
        good = all(line.strip() and "\n" not in line for line in lines)
        check_value(good, key, value, "one line of text")


def _check_counts(record: object, *keys: str, least: int = 1) -> None:
    """Raise ConfigError for a count that is too small; None is no count."""
    for key in keys:
        value = getattr(record, key)
        check_value(value is None or value >= least, key, value, f"{least} or more")


def _check_memory(text: str, workers: int) -> None:
    """Raise ConfigError for memory that is no size, or too small for its workers."""
    try:
        found = parse_bytes(text)
    except ValueError as error:
        raise ConfigError(f"memory: got {text!r}, wanted a size such as 16GB or 16Gi") from error
    wanted = f"at least 1 GB for each of {workers} workers"
    check_value(found >= workers * MIN_WORKER_BYTES, "memory", text, wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmSite:
    """How jobs of workers are asked of SLURM; what is not said here is as dask-jobqueue has it.

    Raises:
        ConfigError: A value is impossible; the message names the key.
    """

    jobs: int = setting(4, "jobs to submit; as many are kept running until the work is done")
    queue: str | None = setting(None, "partition")
    account: str | None = setting(None, "whom to charge")
    walltime: str = setting("04:00:00", "time limit of a job, as sbatch takes it")
    cores: int = setting(4, "cores of a job")
    memory: str = setting("16GB", "memory of a job, shared by its workers")
    processes: int | None = setting(
        None, "workers of a job; without it one a card, else one a core"
    )
    gpus: int = setting(0, "cards of a job")
    gres: str = setting("gpu", "what the site calls a card, as in --gres=gpu:a100:1")
    job_extra_directives: tuple[str, ...] = setting(
        (), "more #SBATCH lines, such as --constraint=x"
    )
    job_directives_skip: tuple[str, ...] = setting((), "#SBATCH lines to leave out, such as --mem")
    job_script_prologue: tuple[str, ...] = setting(
        (), "shell before the worker starts: module load, source venv/bin/activate"
    )
    python: str | None = setting(None, "interpreter on the nodes; without it the one that submits")
    interface: str | None = setting(None, "network interface of scheduler and workers, such as ib0")
    scheduler_host: str | None = setting(None, "address under which workers find this machine")
    scheduler_port: int | None = setting(None, "port of the scheduler; without it a free one")
    dashboard: str | None = setting(None, "address of Dask's dashboard, such as :8787")
    tls: bool = setting(False, "encrypt, and let nobody else in; needs the package cryptography")
    shared_directory: str | None = setting(
        None, "folder that all nodes see, for the keys of tls; without it the current one"
    )
    local_directory: str | None = setting(None, "folder of a node for the worker's own files")
    log_directory: str | None = setting(None, "folder for the output of the jobs")
    preemptible: bool = setting(False, "jobs may be ended at any time, and blame no study")

    def __post_init__(self) -> None:
        _check_counts(self, "jobs", "cores", "processes", "scheduler_port")
        _check_counts(self, "gpus", least=0)
        _check_line(self, "queue", "account", "gres", "python", "interface", "scheduler_host")
        _check_line(self, "dashboard", "shared_directory", "local_directory", "log_directory")
        _check_line(self, "job_extra_directives", "job_directives_skip", "job_script_prologue")
        _check_memory(self.memory, self.workers_per_job)
        wanted = "5 minutes or more, as HH:MM:SS, D-HH:MM:SS or minutes"
        check_value(self.walltime_s >= MIN_WALLTIME_S, "walltime", self.walltime, wanted)

    @property
    def workers_per_job(self) -> int:
        """How many CT a job has in work at a time."""
        return self.processes or self.gpus or self.cores

    @property
    def walltime_s(self) -> float:
        """Time limit of a job [s]; 0 when it cannot be read."""
        return read_walltime(self.walltime)

    @property
    def stagger_s(self) -> float:
        """How far the ends of workers are spread, so that not all leave at once [s]."""
        return min(MAX_STAGGER_S, STAGGER_SHARE * self.walltime_s)

    @property
    def lifetime_s(self) -> float:
        """When a worker leaves by itself: with the spread well inside the time limit [s]."""
        return self.walltime_s - self.stagger_s - max(60.0, self.stagger_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesSite:
    """How pods of workers are asked of the Dask operator.

    Raises:
        ConfigError: A value is impossible; the message names the key.
    """

    workers: int = setting(4, "pods of one worker each")
    image: str = setting("drrgen:cpu", "container image: see docker/")
    namespace: str | None = setting(None, "namespace; without it the one of your context")
    name: str = setting("drrgen", "name of the cluster, and of its pods")
    cores: float = setting(1.0, "cores of a worker")
    memory: str = setting("4Gi", "memory of a worker, and its limit")
    gpus: int = setting(0, "cards of a worker: 0 or 1")
    claim: str | None = setting(None, "PersistentVolumeClaim that holds CT and output")
    mount: str = setting("/data", "where the claim is mounted")
    secret: str | None = setting(None, "Secret whose keys become environment variables: AWS_...")
    service_account: str | None = setting(None, "account of the pods")
    node_selector: tuple[str, ...] = setting((), "labels of the nodes to take, as key=value")
    tolerations: tuple[str, ...] = setting((), "taints to put up with, as key=value")
    manifest: str | None = setting(None, "a DaskCluster of your own, as YAML, instead of ours")
    preemptible: bool = setting(False, "pods may be ended at any time, and blame no study")

    def __post_init__(self) -> None:
        _check_counts(self, "workers")
        check_value(self.gpus in (0, 1), "gpus", self.gpus, "0 or 1: a worker uses one card")
        check_value(0 < self.cores <= 1024, "cores", self.cores, "a number of cores above 0")
        _check_memory(self.memory, 1)
        good = re.fullmatch(r"[a-z]([a-z0-9-]{0,40}[a-z0-9])?", self.name) is not None
        check_value(good, "name", self.name, "small letters, digits and -, at most 42")
        check_value(self.mount.startswith("/"), "mount", self.mount, "an absolute path")
        for key in ("node_selector", "tolerations"):
            value = getattr(self, key)
            check_value(all("=" in pair for pair in value), key, value, "pairs as key=value")


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaSite:
    """Which cards of this machine do the work: one worker each."""

    devices: tuple[int, ...] | None = setting(None, "numbers of the cards; without it all")
    memory: str | None = setting(None, "memory of a worker; without it its share of the machine")

    def __post_init__(self) -> None:
        good = self.devices is None or (self.devices and min(self.devices) >= 0)
        check_value(bool(good), "devices", self.devices, "numbers from 0, as nvidia-smi has them")
        if self.memory is not None:
            _check_memory(self.memory, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpSite:
    """How to join a scheduler that somebody else has started."""

    gpu: bool = setting(False, "the workers have --resources GPU=1, and only they do the work")
    tls_ca_file: str | None = setting(None, "certificate of the authority, for tls://")
    tls_cert: str | None = setting(None, "your certificate, for tls://")
    tls_key: str | None = setting(None, "your key, for tls://")
    patience_s: float = setting(30.0, "how long to try to reach the scheduler [s]")
    preemptible: bool = setting(False, "workers may be ended at any time, and blame no study")

    def __post_init__(self) -> None:
        check_value(self.patience_s > 0, "patience_s", self.patience_s, "a positive number")


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A whole site file: one record a section."""

    slurm: SlurmSite = field(default_factory=SlurmSite)
    kubernetes: KubernetesSite = field(default_factory=KubernetesSite)
    cuda: CudaSite = field(default_factory=CudaSite)
    tcp: TcpSite = field(default_factory=TcpSite)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Where the workers are.

    Attributes:
        kind: What has to be asked for them.
        address: The scheduler to join; None when drrgen starts its own.
        site: What the site asks.
    """

    kind: ClusterKind = ClusterKind.LOCAL
    address: str | None = None
    site: Site = field(default_factory=Site)

    @property
    def tries(self) -> int:
        """How often an item that vanished with its process is tried alone before it is blamed."""
        section = getattr(self.site, self.kind, None)
        return _EVICTED_TRIES if getattr(section, "preemptible", False) else 1


def make_cluster(word: str, site: Site | None = None) -> Cluster:
    """Read ``--cluster``: a kind of cluster, or the address of a scheduler.

    Args:
        word: local, slurm, kubernetes, cuda, or tcp://HOST:PORT or tls://HOST:PORT.
        site: What the site asks; None is the defaults.

    Raises:
        ConfigError: It is neither.

    Example:
        >>> make_cluster("tcp://login1:8786").kind.value
        'tcp'
    """
    RunConfig(cluster=word)
    where = site or Site()
    if "://" in word:
        return Cluster(kind=ClusterKind.TCP, address=word, site=where)
    return Cluster(kind=ClusterKind(word), site=where)


def read_cluster(run: RunConfig) -> Cluster:
    """Find where the workers are, by the settings of a run.

    Raises:
        ConfigError: The site file cannot be read, or does not fit.
    """
    site = read_site(Path(run.site)) if run.site is not None else None
    return make_cluster(run.cluster, site)


def read_site(path: Path) -> Site:
    """Read a site file; what it does not name keeps its default.

    Raises:
        ConfigError: No such file, not TOML, an unknown key or an impossible value.
    """
    return read_toml(path, make_site, "site file")


def make_site(data: Mapping[str, Any]) -> Site:
    """Build a site from the tables of a TOML file.

    Raises:
        ConfigError: An unknown section or key, a wrong type or an impossible value.
    """
    sections = {f.name: typing.cast(type, f.type) for f in dataclasses.fields(Site)}
    check_known(data, sections, "section")
    return Site(**{name: make_record(sections[name], table) for name, table in data.items()})


def read_walltime(text: str) -> float:
    """Turn SLURM's way of writing a time into seconds; 0 when it is none.

    Source:
        sbatch(1), ``--time``: minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS.

    Example:
        >>> read_walltime("1-06:30"), read_walltime("04:00:00"), read_walltime("90")
        (109800.0, 14400.0, 5400.0)
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if found is None:
        return 0.0
    days, *parts = found.groups()
    numbers = [int(part) for part in parts if part is not None]
    if days is not None:
        units = _UNITS  # the first number is hours
    elif len(numbers) == 1:
        units = _UNITS[1:2]  # minutes
    else:
        units = _UNITS[-len(numbers) :]  # the last one is seconds
    clock = sum(number * unit for number, unit in zip(numbers, units, strict=False))
    return float(int(days or 0) * 86400 + clock)
