"""Where Dask lives: many processes do the items, and losing one costs the study that it was at."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any
from uuid import uuid4

import dask
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster, WorkerPlugin, as_completed
from distributed.scheduler import KilledWorker
from distributed.system import MEMORY_LIMIT

from drrgen.io.stores import Place
from drrgen.jobs.task import Task
from drrgen.jobs.work import Done, Job, bury, work_isolated

WORKER_BYTES = 2 * 2**30  # a CT of 512 x 512 x 600, packed and unpacked, beside torch and numba
MEMORY_SHARE = 0.9  # of the machine's memory; the rest is for the driver and the page cache
QUEUED_PER_WORKER = 2  # one in work, one at hand
_STARVED = "worker-restart-memory"  # the topic on which Dask tells that it ended a process
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS",
                     "NUMBA_NUM_THREADS")  # fmt: skip


class _Prepare(WorkerPlugin):
    """Gets a worker ready before its first item."""

    name = "drrgen-prepare"

    def __init__(self, task: Task) -> None:
        self.task = task

    def setup(self, worker: Any) -> None:  # noqa: ARG002  the signature is Dask's
        """Load and compile what the task needs; leave Ctrl-C to the driver."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.task.prepare()


def count_workers(items: int, wanted: int | None = None) -> int:
    """Settle how many processes are worth having: by cores, memory and items.

    Args:
        items: Items to do.
        wanted: What the user asked for; None leaves it to the machine.
    """
    by_memory = int(MEMORY_LIMIT * MEMORY_SHARE / WORKER_BYTES)
    return max(1, min(wanted or min(CPU_COUNT, by_memory), items))


@contextmanager
def open_cluster(task: Task, workers: int) -> Iterator[Client]:
    """Start worker processes on this machine, ready for the task; end them all in the end.

    Args:
        task: What they will do.
        workers: How many processes.
    """
    threads = str(max(1, CPU_COUNT // workers))
    settings = {
        # An item on a lost worker is tried again by us, alone, so that the culprit is known.
        "distributed.scheduler.allowed-failures": 0,
        "distributed.nanny.pre-spawn-environ": dict.fromkeys(_THREAD_VARIABLES, threads),
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=int(MEMORY_LIMIT * MEMORY_SHARE / workers),
            dashboard_address=None,
            silence_logs="CRITICAL",  # lost workers are told by us, once, with the study's name
        ) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(_Prepare(task))
        client.forward_logging("drrgen")
        client.forward_logging("drrgen_pipelines")
        client.forward_logging("drrgen_training")
        yield client


def work_on_cluster(
    client: Client, task: Task, jobs: Iterator[Job], out: Place, *, timeout_s: float,
    suspects: Sequence[Job] = (),
) -> Iterator[Done]:  # fmt: skip
    """Do items on the workers, in any order.

    An item whose worker died may only have been beside the cause. So it is tried once more, after
    all others and alone; an item that takes a worker down then is the culprit.

    Args:
        client: The cluster.
        task: The work.
        jobs: What to do.
        out: Output folder.
        timeout_s: Time limit of an item [s].
        suspects: Items that were in work when a former run died: done last, each alone.

    Raises:
        OSError: A worker cannot write the journal.
    """
    lost: list[Job] = []
    for job, future in _submit_windowed(client, task, jobs, out, timeout_s):
        try:
            yield future.result()
        except KilledWorker:
            lost.append(job)
    for job in [*lost, *suspects]:
        try:
            yield _submit(client, task, job, out, timeout_s).result()
        except KilledWorker:
            events = client.get_events(_STARVED)
            yield bury(task, job, out, starved={event["pid"] for _, event in events})


def _submit_windowed(
    client: Client, task: Task, jobs: Iterator[Job], out: Place, timeout_s: float
) -> Iterator[tuple[Job, Any]]:
    """Keep the workers busy without handing them everything at once; yield what is finished."""
    flying: dict[str, Job] = {}
    finished = as_completed()

    def launch(n: int) -> None:
        for job in islice(jobs, n):
            future = _submit(client, task, job, out, timeout_s)
            flying[future.key] = job
            finished.add(future)

    launch(QUEUED_PER_WORKER * len(client.nthreads()))
    for future in finished:
        launch(1)
        yield flying.pop(future.key), future


def _submit(client: Client, task: Task, job: Job, out: Place, timeout_s: float) -> Any:
    """Hand one item to the workers."""
    key = f"{job.item.key}-{uuid4().hex[:8]}"  # Dask would take a known key's old result
    return client.submit(work_isolated, task, job, out, timeout_s, key=key, pure=False)
