"""Where Dask lives: many processes do the items, and losing one costs the study that it was at."""

import logging
import os
import platform
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from queue import Empty, Queue
from typing import Any
from uuid import uuid4

import dask
from dask.system import CPU_COUNT
from distributed import CancelledError, Client, LocalCluster, WorkerPlugin
from distributed.scheduler import KilledWorker
from distributed.security import Security
from distributed.system import MEMORY_LIMIT

from drrgen.choices import ClusterKind
from drrgen.errors import EngineError
from drrgen.io.stores import Place
from drrgen.jobs.cuda import find_cards, open_cuda
from drrgen.jobs.kubernetes import open_kubernetes, write_manifest
from drrgen.jobs.sites import Cluster, TcpSite
from drrgen.jobs.slurm import THREAD_VARIABLES, count_jobs, open_slurm, write_job_script
from drrgen.jobs.task import Task
from drrgen.jobs.work import Done, Job, bury, read_trace, work_isolated

log = logging.getLogger(__name__)

WORKER_BYTES = 2 * 2**30  # a CT of 512 x 512 x 600, packed and unpacked, beside torch and numba
MEMORY_SHARE = 0.9  # of the machine's memory; the rest is for the driver and the page cache
QUEUED_PER_WORKER = 2  # one in work, one at hand
REFRESH_S = 1.0  # workers come and go meanwhile
LONELY_S = 120.0  # without a worker, until that is said
STARTS = 3  # of workers on this machine, while processes are lost
REGISTRATIONS = 5  # of a plugin, while workers die
EVICTIONS = 5  # that Dask forgives an item of a fleet whose machines may be taken away
LOGGERS = ("drrgen", "drrgen_pipelines", "drrgen_training")
_STARVED = "worker-restart-memory"  # the topic on which Dask tells that it ended a process
_ONE_ITEM = threading.Lock()  # a process does one at a time: its crash and its clock are its item's


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Workers that are ready for a task, or will be when they come.

    Attributes:
        client: The way to them.
        resources: What an item takes of a worker, in Dask's words.
        tries: How often an item is tried alone when its process vanished without a story.
        together: Whether items that are tried alone may be so on several machines at once.
    """

    client: Client
    resources: dict[str, float] = field(default_factory=dict)
    tries: int = 1
    together: bool = False


class _Prepare(WorkerPlugin):
    """Gets a worker ready before its first item, whenever it comes."""

    def __init__(self, task: Task, *, ours: bool, gpus: int) -> None:
        self.name = f"drrgen-prepare-{uuid4().hex[:8]}"
        self.task = task
        self.ours = ours
        self.gpus = gpus

    def setup(self, worker: Any) -> None:
        """Take a card, load and compile what the task needs; leave Ctrl-C to the driver."""
        if self.ours and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        if self.gpus > 1:
            cards = os.environ.get("CUDA_VISIBLE_DEVICES", "")
            os.environ["CUDA_VISIBLE_DEVICES"] = choose_card(str(worker.name), cards, self.gpus)
        self.task.prepare()


def choose_card(worker: str, visible: str, gpus: int) -> str:
    """Give each worker of a job with several cards one of them, by the number that ends its name.

    Args:
        worker: Its name.
        visible: The job's cards, as CUDA_VISIBLE_DEVICES has them; empty for all.
        gpus: How many cards a job has.

    Example:
        >>> choose_card("job-7-1", "4,6", 2)
        '6'
    """
    cards = [card for card in visible.split(",") if card] or [str(i) for i in range(gpus)]
    _, _, number = worker.rpartition("-")
    return cards[int(number) % len(cards) if number.isdigit() else 0]


def count_workers(items: int, wanted: int | None = None) -> int:
    """Settle how many processes are worth having: by cores, memory and items.

    Args:
        items: Items to do.
        wanted: What the user asked for; None leaves it to the machine.
    """
    by_memory = int(MEMORY_LIMIT * MEMORY_SHARE / WORKER_BYTES)
    return max(1, min(wanted or min(CPU_COUNT, by_memory), items))


def describe_cluster(cluster: Cluster, workers: int | None = None) -> str:
    """Write what would be submitted: a job's script, or a manifest; empty where nothing is.

    Args:
        cluster: Where the workers would be.
        workers: How many the user asked for.

    Raises:
        EngineError: What it takes to write it is not installed.
        ConfigError: The site's own manifest cannot be read.
    """
    match cluster.kind:
        case ClusterKind.SLURM:
            return write_job_script(cluster.site.slurm)
        case ClusterKind.KUBERNETES:
            site = cluster.site.kubernetes
            return write_manifest(site, workers or site.workers)
    return ""


@contextmanager
def open_cluster(
    task: Task, cluster: Cluster, workers: int | None = None, n_items: int = 2**31
) -> Iterator[Fleet]:
    """Start or join workers that are ready for the task; end them in the end, if they are ours.

    Args:
        task: What they will do.
        cluster: Where they are.
        workers: How many the user asked for; None leaves it to the machine or the site.
        n_items: Items to do, for no more workers than that are started.

    Raises:
        EngineError: There is no such cluster to be had from here, or its workers cannot do the
            task.
        ConfigError: The site file does not fit.
    """
    local = cluster.kind is ClusterKind.LOCAL
    settings = {
        # An item on a lost worker is tried again by us, alone, so that the culprit is known.
        "distributed.scheduler.allowed-failures": EVICTIONS if cluster.tries > 1 else 0,
        # Here a worker's end is noticed at once, and one that is only busy must not be given up.
        **({"distributed.scheduler.worker-ttl": None} if local else {}),
    }
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(settings))
        client = stack.enter_context(_open(cluster, workers, n_items))
        stack.enter_context(_equipped(client, task, cluster))
        yield Fleet(
            client=client,
            resources=_find_resources(cluster),
            tries=cluster.tries,
            together=not local,
        )


def work_on_cluster(
    fleet: Fleet, task: Task, jobs: Iterable[Job], out: Place, *, timeout_s: float,
    suspects: Sequence[Job] = (),
) -> Iterator[Done]:  # fmt: skip
    """Do items on the workers, in any order.

    An item whose worker died may only have been beside the cause. So it is tried once more, after
    all others and alone; an item that takes a worker down then is the culprit. Where machines may
    be taken away it is tried several times, unless it leaves the story of a crash.

    Args:
        fleet: The workers; more may come and some may leave.
        task: The work.
        jobs: What to do; taken only as fast as it is done.
        out: Output folder, which the workers see too.
        timeout_s: Time limit of an item [s].
        suspects: Items that were in work when a former run died: done last, each alone.

    Raises:
        OSError: A worker cannot write the journal, or does not see the output folder.
        EngineError: The scheduler has gone.
    """
    lost: list[Job] = []
    doing = _Doing(fleet=fleet, task=task, out=out, timeout_s=timeout_s)
    with _told_when_the_scheduler_goes(fleet.client):
        for job, future in _submit_windowed(doing, jobs, QUEUED_PER_WORKER):
            try:
                yield future.result()
            except KilledWorker:
                lost.append(job)
        yield from _try_alone(doing, [*lost, *suspects])


@contextmanager
def _told_when_the_scheduler_goes(client: Client) -> Iterator[None]:
    """Turn what Dask raises without its scheduler into words."""
    try:
        yield
    except (OSError, CancelledError) as error:
        if client.status == "running":
            raise
        raise EngineError(
            "the scheduler of the workers has gone; the same command goes on where this one stopped"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Doing:
    """What is the same for every item of a run."""

    fleet: Fleet
    task: Task
    out: Place
    timeout_s: float


def _try_alone(doing: _Doing, suspects: Sequence[Job]) -> Iterator[Done]:
    """Try items with no other beside them, and blame those that end their process again."""
    tries = Counter[str]()
    while suspects:
        again = []
        for job, future in _submit_windowed(doing, suspects, 1 if doing.fleet.together else None):
            try:
                yield future.result()
            except KilledWorker as error:
                tries[job.item.key] += 1
                starved = _find_starved(doing.fleet.client, error)
                told = _tells_why(read_trace(doing.out, job), starved)
                if told or tries[job.item.key] >= doing.fleet.tries:
                    yield bury(doing.task, job, doing.out, starved=starved)
                else:
                    again.append(job)
        suspects = again


def _tells_why(trace: str, starved: set[int]) -> bool:
    """Say whether a process left a reason for its end: a crash, a time-out, too much memory."""
    pid, _, story = trace.partition("\n")
    return bool(story) or (pid.isdigit() and int(pid) in starved)


def _find_starved(client: Client, error: KilledWorker) -> set[int]:
    """Number the processes of a lost worker's machine that were ended for want of memory."""
    host = _find_host(error.last_worker.address)
    events = [event for _, event in client.get_events(_STARVED)]
    return {event["pid"] for event in events if _find_host(event["worker"]) == host}


def _find_host(address: str) -> str:
    """Take the port off an address."""
    return address.rpartition(":")[0]


def _submit_windowed(
    doing: _Doing, jobs: Iterable[Job], per_worker: int | None
) -> Iterator[tuple[Job, Any]]:
    """Keep the workers busy without handing them everything at once; yield what is finished.

    Args:
        doing: The work.
        jobs: What to do it on.
        per_worker: Items at a worker; None is one item at all.
    """
    waiting = iter(jobs)
    flying: dict[str, tuple[Job, Any]] = {}
    finished: Queue[Any] = Queue()
    roll = _Roll(doing.fleet.client)
    while True:
        window = per_worker * roll.count() if per_worker is not None else 1
        for job in islice(waiting, max(0, window - len(flying))):
            future = _submit(doing, job)
            flying[future.key] = job, future
            future.add_done_callback(finished.put)
        if not flying:
            return
        with suppress(Empty):
            future = finished.get(timeout=REFRESH_S)
            job, _ = flying.pop(future.key)
            yield job, future


class _Roll:
    """Counts the workers, once in a while; says so when there is none for long."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._count = 0
        self._asked = -REFRESH_S
        self._alone_since = time.monotonic()

    def count(self) -> int:
        """Count the workers; at least 1, for the first items wait for the first worker."""
        now = time.monotonic()
        if now - self._asked >= REFRESH_S:
            self._count, self._asked = len(self._client.nthreads()), now
        if self._count:
            self._alone_since = now
        elif now - self._alone_since > LONELY_S:
            self._alone_since = now
            log.warning("no worker has come for %.0f s; look at the queue of the cluster", LONELY_S)
        return max(1, self._count)


def _submit(doing: _Doing, job: Job) -> Any:
    """Hand one item to the workers."""
    fleet = doing.fleet
    key = f"{job.item.key}-{uuid4().hex[:8]}"  # Dask would take a known key's old result
    return fleet.client.submit(
        _work, doing.task, job, doing.out, doing.timeout_s,
        key=key, pure=False, resources=fleet.resources or None,
    )  # fmt: skip


def _work(task: Task, job: Job, out: Place, timeout_s: float) -> Done:
    """Do an item in a worker."""
    if isinstance(out, Path) and not out.is_dir():
        raise FileNotFoundError(
            f"the worker on {platform.node()} does not see the output folder {out}; put it where "
            "all machines see it under the same name, or into an object store"
        )
    with _ONE_ITEM:
        return work_isolated(task, job, out, timeout_s)


@contextmanager
def _equipped(client: Client, task: Task, cluster: Cluster) -> Iterator[None]:
    """Get the workers ready, also those that come later; take all back where they are not ours."""
    ours = cluster.kind is not ClusterKind.TCP
    gpus = cluster.site.slurm.gpus if cluster.kind is ClusterKind.SLURM else 0
    prepare = _Prepare(task, ours=ours, gpus=gpus)
    try:
        _insist(lambda: client.register_plugin(prepare))
    except ImportError as error:
        raise EngineError(
            f"the workers of this cluster cannot import {error.name}; install the "
            "same drrgen for them as here"
        ) from error
    for name in LOGGERS:
        _insist(lambda name=name: client.forward_logging(name))  # type: ignore[misc]
    try:
        yield
    finally:
        if not ours and client.status == "running":
            try:
                for name in LOGGERS:
                    _insist(lambda name=name: client.unforward_logging(name))  # type: ignore[misc]
                _insist(lambda: client.unregister_worker_plugin(prepare.name))
            except Exception:
                if client.status == "running":
                    raise
                log.info("the scheduler has gone; there is nothing to take back from its workers")


def _insist(hand_out: Callable[[], object]) -> None:
    """Hand something to all workers, or take it back; one that dies meanwhile comes again."""
    for left in reversed(range(REGISTRATIONS)):
        try:
            hand_out()
        except OSError:
            if not left:
                raise
            log.info("a worker was lost while it got ready")
            time.sleep(REFRESH_S)
        else:
            return


def _find_resources(cluster: Cluster) -> dict[str, float]:
    """Say what an item takes of a worker: a whole card where the workers have one each."""
    site = cluster.site
    cards = {
        ClusterKind.SLURM: bool(site.slurm.gpus),
        ClusterKind.KUBERNETES: bool(site.kubernetes.gpus),
        ClusterKind.CUDA: True,
        ClusterKind.TCP: site.tcp.gpu,
    }
    return {"GPU": 1} if cards.get(cluster.kind, False) else {}


@contextmanager
def _open(cluster: Cluster, workers: int | None, n_items: int) -> Iterator[Client]:
    """Start or join workers."""
    site = cluster.site
    match cluster.kind:
        case ClusterKind.SLURM:
            opened = open_slurm(site.slurm, count_jobs(site.slurm, workers, n_items))
        case ClusterKind.KUBERNETES:
            pods = min(workers or site.kubernetes.workers, n_items)
            opened = open_kubernetes(site.kubernetes, max(1, pods))
        case ClusterKind.CUDA:
            cards = find_cards(site.cuda)
            opened = open_cuda(site.cuda, cards[: max(1, min(workers or len(cards), n_items))])
        case ClusterKind.TCP:
            opened = _open_tcp(str(cluster.address), site.tcp)
        case _:
            opened = _open_local(count_workers(n_items, workers))
    with opened as client:
        yield client


@contextmanager
def _open_local(workers: int) -> Iterator[Client]:
    """Start worker processes on this machine."""
    threads = str(max(1, CPU_COUNT // workers))
    environment = dict.fromkeys(THREAD_VARIABLES, threads)
    with (
        dask.config.set({"distributed.nanny.pre-spawn-environ": environment}),
        _start_local(workers) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _start_local(workers: int) -> Any:
    """Start a cluster; once more where a process was lost before it was up."""
    start = partial(
        LocalCluster,
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        memory_limit=int(MEMORY_LIMIT * MEMORY_SHARE / workers),
        dashboard_address="127.0.0.1:0",  # any free port; without one it takes 8787
        silence_logs="CRITICAL",  # lost workers are told by us, once, with the study's name
    )
    for _ in range(STARTS - 1):
        with suppress(RuntimeError):
            return start()
        log.info("a worker was lost while it started")
    try:
        return start()
    except RuntimeError as error:
        raise EngineError(
            f"cannot start {workers} worker processes here ({error}); look for what ends them, "
            "such as too little memory, or use --workers 0"
        ) from error


@contextmanager
def _open_tcp(address: str, site: TcpSite) -> Iterator[Client]:
    """Join a scheduler that somebody else has started."""
    security = Security(
        tls_ca_file=site.tls_ca_file, tls_client_cert=site.tls_cert, tls_client_key=site.tls_key,
        require_encryption=address.startswith("tls://"),
    )  # fmt: skip
    try:
        client = Client(address, security=security, timeout=site.patience_s)
    except (OSError, ValueError, TypeError) as error:
        raise EngineError(
            f"no Dask scheduler answers at {address} ({error}); start one there with dask "
            "scheduler, or give its address to --cluster"
        ) from error
    with client:
        yield client
