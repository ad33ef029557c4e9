"""Workers in SLURM's jobs, through dask-jobqueue: as many jobs as the site says, kept at that.

A job whose workers have left, at the end of their time or because it was taken away, is submitted
again; Dask's adaptive scaling does not do that (dask-jobqueue 0.9, issues 691 and 701).
"""

import logging
import math
import shlex
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from distributed import Client
from distributed.security import Security

from drrgen.errors import EngineError
from drrgen.jobs.sites import SlurmSite

log = logging.getLogger(__name__)

INSTALL = "pip install 'drrgen[slurm]'"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS",
                    "NUMBA_NUM_THREADS")  # fmt: skip
RESUBMIT_S = 15.0  # a worker that restarts after a crash is away for a few seconds only
_PLACEHOLDER = "tcp://SCHEDULER:PORT"


def make_job_options(site: SlurmSite) -> dict[str, Any]:
    """Say in dask-jobqueue's words what a job is; what the site leaves open is left to it."""
    threads = max(1, site.cores // site.workers_per_job)
    extra = [f"--lifetime {site.lifetime_s:.0f}s --lifetime-stagger {site.stagger_s:.0f}s"]
    directives = list(site.job_extra_directives)
    if site.gpus:
        extra.append("--resources GPU=1")
        directives.append(f"--gres={site.gres}:{site.gpus}")
    if site.log_directory is not None:
        directives.append(f"--output={site.log_directory}/drrgen-%j.log")
    named = {
        "queue": site.queue, "account": site.account, "interface": site.interface,
        "local_directory": site.local_directory,
        "python": site.python and shlex.quote(site.python),
    }  # fmt: skip
    return {
        "cores": site.workers_per_job,  # of one thread each: an item's clock is its process's
        "processes": site.workers_per_job,
        "job_cpu": site.cores,
        "memory": site.memory,
        "walltime": site.walltime,
        "job_name": "drrgen",
        "worker_extra_args": extra,
        "job_extra_directives": directives,
        "job_directives_skip": list(site.job_directives_skip),
        "job_script_prologue": [
            *(f"export {name}={threads}" for name in THREAD_VARIABLES),
            *site.job_script_prologue,
        ],
        **{key: value for key, value in named.items() if value is not None},
    }


def write_job_script(site: SlurmSite) -> str:
    """Write the script that would be submitted; starts nothing.

    Raises:
        EngineError: dask-jobqueue is not installed.
    """
    _import_jobqueue()
    from dask_jobqueue.slurm import SLURMJob

    script: str = SLURMJob(_PLACEHOLDER, name="drrgen", **make_job_options(site)).job_script()
    return script


def count_jobs(site: SlurmSite, workers: int | None, n_items: int) -> int:
    """Settle how many jobs are worth having.

    Args:
        site: What a job is.
        workers: What the user asked for; None leaves it to the site.
        n_items: Items to do.
    """
    wanted = site.jobs if workers is None else math.ceil(workers / site.workers_per_job)
    return max(1, min(wanted, math.ceil(n_items / site.workers_per_job)))


@contextmanager
def open_slurm(site: SlurmSite, jobs: int) -> Iterator[Client]:
    """Start a scheduler here and submit jobs of workers; cancel them all in the end.

    Args:
        site: What a job is.
        jobs: How many to keep.

    Raises:
        EngineError: No dask-jobqueue, no SLURM here, or SLURM refuses the job.
    """
    _import_jobqueue()
    _check_submission(write_job_script(site))
    from dask_jobqueue.slurm import SLURMCluster

    if site.log_directory is not None:
        Path(site.log_directory).mkdir(parents=True, exist_ok=True)
    with (
        _secured(site) as security,
        SLURMCluster(
            scheduler_options=_make_scheduler_options(site), silence_logs="CRITICAL",
            security=security, **make_job_options(site),
        ) as cluster,
        Client(cluster) as client,
        _kept(cluster, jobs),
    ):  # fmt: skip
        yield client


@contextmanager
def _secured(site: SlurmSite) -> Iterator[Security | None]:
    """Make keys for this run alone, where the nodes find them and no other user can read them."""
    if not site.tls:
        yield None
        return
    try:
        made = Security.temporary().get_tls_config_for_role("worker")
    except ImportError as error:
        raise EngineError("tls in [slurm] needs cryptography; pip install cryptography") from error
    with tempfile.TemporaryDirectory(
        dir=site.shared_directory or Path.cwd(), prefix=".drrgen-tls-"
    ) as folder:
        paths = {name: Path(folder) / f"{name}.pem" for name in ("ca_file", "cert", "key")}
        for name, path in paths.items():
            path.touch(mode=0o600)
            path.write_text(made[name], encoding="ascii")
        ends = {f"tls_{end}_{name}": str(paths[name]) for end in ("scheduler", "worker", "client")
                for name in ("cert", "key")}  # fmt: skip
        yield Security(tls_ca_file=str(paths["ca_file"]), require_encryption=True, **ends)


def _make_scheduler_options(site: SlurmSite) -> dict[str, Any]:
    """Say where the scheduler listens; its dashboard only here, unless the site wants it."""
    options: dict[str, Any] = {"dashboard_address": site.dashboard or "127.0.0.1:0"}
    if site.scheduler_host is not None:
        options["host"] = site.scheduler_host
    if site.scheduler_port is not None:
        options["port"] = site.scheduler_port
    return options


def _import_jobqueue() -> None:
    """Raise EngineError where dask-jobqueue is not installed."""
    try:
        import dask_jobqueue  # noqa: F401  also sets its defaults in Dask's configuration
    except ImportError as error:
        raise EngineError(
            f"--cluster slurm needs dask-jobqueue, which is not installed; {INSTALL}"
        ) from error


def _check_submission(script: str) -> None:
    """Let SLURM look at the job: dask-jobqueue would only log that it was refused."""
    try:
        asked = subprocess.run(
            ["sbatch", "--test-only"], input=script, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise EngineError(
            "--cluster slurm needs sbatch, which is not on this machine; run drrgen on a login "
            "node, or use --cluster tcp://HOST:PORT"
        ) from error
    if asked.returncode != 0:
        told = " ".join(asked.stderr.split())
        raise EngineError(
            f"SLURM refuses the job ({told}); mend [slurm] in the site file, and look at the job "
            "with --dry-run"
        )


@contextmanager
def _kept(cluster: Any, jobs: int) -> Iterator[None]:
    """Submit the jobs, and submit again what has left, until the work is done."""
    done = threading.Event()
    seen: dict[str, int] = {}

    def keep() -> None:
        while not done.wait(RESUBMIT_S):
            # The work goes on with the workers that are there; the next round tries again.
            with suppress(RuntimeError, OSError):
                cluster.sync(_replace_lost, cluster, seen)

    cluster.scale(jobs=jobs)
    keeper = threading.Thread(target=keep, name="drrgen-keep-jobs", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        done.set()
        keeper.join()


async def _replace_lost(cluster: Any, seen: dict[str, int]) -> None:
    """Cancel a job whose workers came and have been away for two rounds, and submit another."""
    names = [str(worker["name"]) for worker in cluster.scheduler_info["workers"].values()]
    for job in list(cluster.workers):
        if any(name == job or name.startswith(f"{job}-") for name in names):
            seen[job] = 0
        elif job in seen:
            seen[job] += 1
        if seen.get(job, 0) >= 2:
            log.warning("the workers of %s have left; another job is submitted", job)
            del seen[job]
            await cluster.workers.pop(job).close()
    cluster.scale(jobs=len(cluster.worker_spec))
