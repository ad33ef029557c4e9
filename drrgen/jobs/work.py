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
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from drrgen.errors import Reason
from drrgen.io.atomic import digest_file, write_bytes
from drrgen.io.stores import Place
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
    part: int
    status: str
    reason: str
    seconds: float
    host: str


def work(task: Task, job: Job, out: Place) -> Done:
    """Do an item, and keep its outcome in the journal.

    Args:
        task: The work.
        job: What to do it on.
        out: Output folder.

    Raises:
        OSError: The journal cannot be written: the disk is full, say.
    """
    trace = find_trace(out, job.part, job.item.key)
    if isinstance(trace, Path):
        trace.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(trace, f"{os.getpid()}\n".encode(), durable=False)
    return _keep(task, job, out)


def work_isolated(task: Task, job: Job, out: Place, timeout_s: float) -> Done:
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
    trace = find_trace(out, job.part, job.item.key)
    story = trace if isinstance(trace, Path) else _find_story(job, os.getpid())
    if not isinstance(trace, Path):
        write_bytes(trace, f"{os.getpid()}\n".encode())
    story.parent.mkdir(parents=True, exist_ok=True)
    with story.open("w", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n")
        file.flush()
        with _watched(file.fileno(), timeout_s):
            done = _keep(task, job, out)
    if not isinstance(trace, Path):
        story.unlink(missing_ok=True)
    return done


def bury(task: Task, job: Job, out: Place, starved: Collection[int]) -> Done:
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
    outcome = Outcome(
        rows=task.failure(job.item, reason, detail),
        identity=job.item.identity,
        host=platform.node(),
    )
    return _settle(job, outcome, out)


def read_trace(out: Place, job: Job) -> str:
    """Read the trace that an item left; empty when there is none."""
    try:
        trace = find_trace(out, job.part, job.item.key).read_bytes().decode(errors="replace")
    except OSError:
        return ""
    if not isinstance(out, Path) and trace.strip().isdigit():  # a store tells no more than who
        story = _find_story(job, int(trace))
        return story.read_text("utf-8", errors="replace") if story.exists() else trace
    return trace


def _find_story(job: Job, pid: int) -> Path:
    """Name the file on this machine in which a process tells how it died, beside a store."""
    return Path(tempfile.gettempdir()) / f"drrgen-{job.item.key}-{pid}.trace"


def _keep(task: Task, job: Job, out: Place) -> Done:
    """Run the task, digest its files, bring them to a store, and write the outcome."""
    start = time.perf_counter()
    with _find_bench(out) as bench:
        here = task if task.out == bench else cast("Task", replace(cast("Any", task), out=bench))
        rows = here(job.item)
        files = {name: digest_file(bench / name) for name in here.files(rows)}
        if bench is not out:
            for name in files:
                write_bytes(out / name, (bench / name).read_bytes())
    outcome = Outcome(
        rows=rows,
        identity=job.item.identity,
        files=files,
        seconds=round(time.perf_counter() - start, 3),
        host=platform.node(),
    )
    return _settle(job, outcome, out)


@contextmanager
def _find_bench(out: Place) -> Iterator[Path]:
    """Lend a folder on this machine to write to: the output itself, or one that goes to a store."""
    if isinstance(out, Path):
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="drrgen-") as folder:
        yield Path(folder)


def _settle(job: Job, outcome: Outcome, out: Place) -> Done:
    """Write an outcome, and tell the runner."""
    write_outcome(out, job.part, job.item.key, outcome)
    return Done(
        key=job.item.key,
        part=job.part,
        status=outcome.status,
        reason=outcome.reason or "",
        seconds=outcome.seconds,
        host=outcome.host,
    )


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
