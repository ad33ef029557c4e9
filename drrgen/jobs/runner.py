"""Run a task over many items, and go on where an earlier run stopped.

A handful of items is done in this process, more in worker processes. What is finished is
journalled at once, so that a kill at any moment costs the items in flight and nothing else.
"""

import fcntl
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from drrgen.errors import ManifestError, Status
from drrgen.io.atomic import remove_partials
from drrgen.jobs.shards import (
    Entry,
    describe_item,
    read_marker,
    read_outcomes,
    read_plan,
    remove_output,
    write_part,
    write_plan,
    write_summary,
)
from drrgen.jobs.task import Item, Task
from drrgen.jobs.work import Done, Job, read_trace, work

HANDFUL = 4  # starting workers takes longer than doing so few
TIMEOUT_S = 1800.0  # of an item in a worker, when nothing else is said


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run has come: items, not rows."""

    done: int
    total: int
    refused: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run would do.

    Attributes:
        todo: Items to do: new, changed, failed before, or lost with a file or a broken part.
        kept: Items that are there already.
    """

    todo: tuple[Item, ...]
    kept: tuple[Item, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """With what the work is done, which changes no result.

    Attributes:
        workers: Processes; None takes as many as cores and memory allow, and none for a handful.
        timeout_s: Time limit of an item [s]; None is half an hour in a worker, and none here.
    """

    workers: int | None = None
    timeout_s: float | None = None


def make_plan(task: Task, items: Sequence[Item], out: Path, *, overwrite: bool = False) -> Plan:
    """Find what is to be done; writes nothing.

    Raises:
        ManifestError: The output was made with other settings, and is not to be overwritten.
    """
    fingerprint, entries = (None, {}) if overwrite else read_plan(out)
    if fingerprint not in (None, task.fingerprint):
        raise ManifestError(
            f"{out} was made with other settings (fingerprint {fingerprint}, now "
            f"{task.fingerprint}); use --overwrite to start anew, or another output folder"
        )
    finished = _find_finished(out, entries)
    kept = tuple(
        item
        for item in items
        if item.key in finished and _is_unchanged(item, entries[item.key], task)
    )
    settled = {item.key for item in kept}
    return Plan(todo=tuple(item for item in items if item.key not in settled), kept=kept)


def run(
    task: Task,
    items: Sequence[Item],
    out: Path,
    *,
    part_size: int = 64,
    overwrite: bool = False,
    means: Means | None = None,
) -> Iterator[Progress]:
    """Do what is left to do, and write every part as soon as its items are done.

    Args:
        task: The work.
        items: All items, done or not; rows of items that are gone are kept.
        out: Output folder.
        part_size: Items in one part of the manifest.
        overwrite: Start anew.
        means: Processes and time limit.

    Raises:
        ManifestError: Other settings, or another drrgen writes there now.
        OSError: The output cannot be written; nothing half written stays.
    """
    out.mkdir(parents=True, exist_ok=True)
    with _lock(out):
        plan = make_plan(task, items, out, overwrite=overwrite)
        if overwrite:
            remove_output(out)
        remove_partials(out)
        _, entries = read_plan(out)
        _assign(plan.todo, entries, part_size)
        write_plan(out, task.fingerprint, entries)
        jobs = [Job(item=item, part=entries[item.key].part) for item in plan.todo]
        yield from _run_jobs(task, jobs, out, entries, means or Means())
        for item in plan.kept:  # touched, but the same: not to be digested again
            entry = entries[item.key]
            entries[item.key] = describe_item(item, entry.part, entry.digest)
        write_plan(out, task.fingerprint, entries)
        write_summary(out, task.fingerprint, sorted({e.part for e in entries.values()}))


def _run_jobs(
    task: Task, jobs: Sequence[Job], out: Path, entries: dict[str, Entry], means: Means
) -> Iterator[Progress]:
    """Do the jobs, and write a part when the last of its jobs is done."""
    by_key = {job.item.key: job for job in jobs}
    left = Counter(job.part for job in jobs)
    # A run that was killed may have finished items of a part and not the part.
    for part in {entry.part for entry in entries.values()} - left.keys():
        if read_marker(out, part) is None:
            write_part(out, part, read_outcomes(out, part), task)
    status = Counter[str]()
    for done in _do(task, jobs, out, means):
        job = by_key[done.key]
        entries[done.key] = describe_item(job.item, job.part, done.input_digest)
        status[done.status] += 1
        left[job.part] -= 1
        if left[job.part] == 0:
            write_part(out, job.part, read_outcomes(out, job.part), task)
        yield Progress(
            done=status.total(),
            total=len(jobs),
            refused=status[Status.REFUSED],
            failed=status[Status.FAILED],
        )


def _do(task: Task, jobs: Sequence[Job], out: Path, means: Means) -> Iterator[Done]:
    """Do the jobs here or in workers, part by part as far as it goes."""
    order = sorted(jobs, key=lambda job: (job.part, job.item.key))
    suspects = [job for job in order if read_trace(out, job)]
    alone = means == Means() and len(order) <= HANDFUL and not suspects
    if not order:
        return
    if alone:
        task.prepare()
        for job in order:
            yield work(task, job, out)
        return
    from drrgen.jobs.cluster import count_workers, open_cluster, work_on_cluster

    trusted = [job for job in order if job not in suspects]
    with open_cluster(task, count_workers(len(order), means.workers)) as client:
        yield from work_on_cluster(
            client, task, trusted, out, timeout_s=means.timeout_s or TIMEOUT_S, suspects=suspects
        )


def _find_finished(out: Path, entries: dict[str, Entry]) -> set[str]:
    """Find the items that are done and need no second try: neither failed nor without a file."""
    members: dict[int, list[str]] = defaultdict(list)
    for key, entry in entries.items():
        members[entry.part].append(key)
    finished = set()
    for part, keys in members.items():
        marker = read_marker(out, part) or {"items": {}}
        journal = {key: outcome.stats for key, outcome in read_outcomes(out, part).items()}
        items = marker["items"] | journal
        for key in items.keys() & set(keys):
            item = items[key]
            whole = all((out / name).is_file() for name in item["files"])
            if item["status"] != Status.FAILED and whole:
                finished.add(key)
    return finished


def _is_unchanged(item: Item, entry: Entry, task: Task) -> bool:
    """Say whether an item's input is what it was: by size and time, else by its content."""
    if (entry.n_bytes, entry.mtime_ns) == (item.n_bytes, item.mtime_ns):
        return True
    return entry.digest != "" and entry.digest == task.digest(item)


def _assign(items: Sequence[Item], entries: dict[str, Entry], part_size: int) -> None:
    """Give new items a part: always a new one, so that old parts do not move."""
    fresh = sorted((item for item in items if item.key not in entries), key=lambda item: item.key)
    first = max((entry.part for entry in entries.values()), default=-1) + 1
    for i, item in enumerate(fresh):
        entries[item.key] = describe_item(item, first + i // part_size, "")


@contextmanager
def _lock(out: Path) -> Iterator[None]:
    """Keep a second drrgen out of this output."""
    with (out / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ManifestError(
                f"another drrgen is writing to {out}; wait for it, or use another output folder"
            ) from error
        yield
