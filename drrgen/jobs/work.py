"""One item in one process: do it, keep what became of it, and leave a trace if the process dies.

While an item is in work its trace stands in the journal. A process that dies leaves it behind, with
the number of the process and, from a worker, where it was when it crashed or ran out of time. So
the study that takes a process down is known by name.
"""

import faulthandler
import logging
import os
import platform
import re
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from drrgen.errors import Reason
from drrgen.io.atomic import digest_file
from drrgen.jobs.shards import Outcome, find_trace, write_outcome
from drrgen.jobs.task import Item, Task

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """An item, and the part of the manifest that it belongs to."""

    item: Item
    part: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What the runner hears of a finished item; its rows are in the journal."""

    key: str
    status: str
    input_digest: str


def work(task: Task, job: Job, out: Path) -> Done:
    """Do an item, and keep its outcome in the journal.

    Args:
        task: The work.
        job: What to do it on.
        out: Output folder.

    Raises:
        OSError: The journal cannot be written: the disk is full, say.
    """
    trace = find_trace(out, job.part, job.item.key)
    trace.parent.mkdir(parents=True, exist_ok=True)
    trace.write_text(f"{os.getpid()}\n", encoding="utf-8")
    return _keep(task, job, out)


def work_isolated(task: Task, job: Job, out: Path, timeout_s: float) -> Done:
    """Do an item in a process that may be lost: a hang ends it, a crash is written down.

    The clock is C code that needs no cooperation, so it also ends a decoder that hangs.

    Args:
        task: The work.
        job: What to do it on.
        out: Output folder.
        timeout_s: Time after which this process ends itself [s].

    Raises:
        OSError: The journal cannot be written.
    """
    path = find_trace(out, job.part, job.item.key)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as trace:
        trace.write(f"{os.getpid()}\n")
        trace.flush()
        with _watched(trace.fileno(), timeout_s):
            return _keep(task, job, out)


def bury(task: Task, job: Job, out: Path, starved: Collection[int]) -> Done:
    """Write down that an item took its process with it.

    Args:
        task: The work.
        job: The item that was in work, alone, when the process died.
        out: Output folder.
        starved: Numbers of the processes that were ended for want of memory.

    Raises:
        OSError: The journal cannot be written.
    """
    trace = read_trace(out, job)
    pid, _, story = trace.partition("\n")
    if story:
        log.error("%s: its process ended:\n%s", job.item.key, story)
    reason, detail = _explain(story, out_of_memory=pid.isdigit() and int(pid) in starved)
    outcome = Outcome(rows=task.failure(job.item, reason, detail), host=platform.node())
    write_outcome(out, job.part, job.item.key, outcome)
    return Done(key=job.item.key, status=outcome.status, input_digest="")


def read_trace(out: Path, job: Job) -> str:
    """Read the trace that an item left; empty when there is none."""
    try:
        return find_trace(out, job.part, job.item.key).read_text("utf-8", errors="replace")
    except OSError:
        return ""


def _keep(task: Task, job: Job, out: Path) -> Done:
    """Run the task, digest its files, and write the outcome."""
    start = time.perf_counter()
    rows = task(job.item)
    files = {name: digest_file(out / name) for name in task.files(rows)}
    outcome = Outcome(
        rows=rows,
        files=files,
        seconds=round(time.perf_counter() - start, 3),
        host=platform.node(),
    )
    write_outcome(out, job.part, job.item.key, outcome)
    return Done(key=job.item.key, status=outcome.status, input_digest=outcome.input_digest)


@contextmanager
def _watched(trace: int, timeout_s: float) -> Iterator[None]:
    """Let a crash or a hang write where it was into the trace."""
    faulthandler.enable(trace)
    faulthandler.dump_traceback_later(timeout_s, exit=True, file=trace)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        faulthandler.disable()


def _explain(story: str, *, out_of_memory: bool) -> tuple[Reason, str]:
    """Tell from a trace why a process died; without its paths, for it goes into the manifest."""
    if story.startswith("Timeout"):
        return Reason.TIMEOUT, "took longer than --timeout-s allows; raise it, or look at the CT"
    if out_of_memory:
        return Reason.OUT_OF_MEMORY, "needs more memory than a worker has; use fewer workers"
    fatal = re.match(r"Fatal Python error: ([\w ]+)", story)
    how = fatal[1] if fatal else "killed, perhaps for want of memory"
    return Reason.CRASHED, f"its process died ({how}); the log has the traceback"
