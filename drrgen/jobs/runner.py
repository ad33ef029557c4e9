"""Run a task over many items, and go on where an earlier run stopped.

One item after the other in this process. What is finished is journalled at once, so that a kill at
any moment costs the item in flight and nothing else.
"""

import fcntl
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from drrgen.errors import ManifestError, Status
from drrgen.io.atomic import remove_partials
from drrgen.jobs.shards import (
    Entry,
    describe_item,
    read_journal,
    read_part,
    read_plan,
    remove_output,
    write_journal,
    write_part,
    write_plan,
    write_summary,
)
from drrgen.jobs.task import Item, Task
from drrgen.manifest import Row


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
        todo: Items to do: new, changed, failed before, or lost with a broken part.
        kept: How many are there already.
    """

    todo: tuple[Item, ...]
    kept: int


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
    done = _find_done(out, entries)
    todo = tuple(item for item in items if not _is_done(item, entries, done, task))
    return Plan(todo=todo, kept=len(items) - len(todo))


def run(
    task: Task,
    items: Sequence[Item],
    out: Path,
    *,
    part_size: int = 64,
    overwrite: bool = False,
    threads: int | None = None,
) -> Iterator[Progress]:
    """Do what is left to do, part by part.

    Args:
        task: The work.
        items: All items, done or not; rows of items that are gone are kept.
        out: Output folder.
        part_size: Items in one part of the manifest.
        overwrite: Start anew.
        threads: Threads that the task may use; None for all cores.

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
        if plan.todo:
            task.prepare(threads or os.cpu_count() or 1)
        yield from _run_parts(task, plan, out, entries)
        write_plan(out, task.fingerprint, entries)
        write_summary(out, task.fingerprint, sorted({e.part for e in entries.values()}))


def _run_parts(task: Task, plan: Plan, out: Path, entries: dict[str, Entry]) -> Iterator[Progress]:
    """Do the items of each part that has any, then write the part."""
    by_part: dict[int, list[Item]] = defaultdict(list)
    for item in plan.todo:
        by_part[entries[item.key].part].append(item)
    done = refused = failed = 0
    for part, items in sorted(by_part.items()):
        todo = {item.key for item in items}
        rows = {
            key: rs for key, rs in _group(read_part(out, part) or []).items() if key not in todo
        }
        rows |= {k: rs for k, rs in read_journal(out, part).items() if k not in todo}
        for item in items:
            rows[item.key] = task(item)
            write_journal(out, part, item.key, rows[item.key])
            digest = next((r["ct_sha256"] or "" for r in rows[item.key]), "")
            entries[item.key] = describe_item(item, part, digest)
            status = {row["status"] for row in rows[item.key]}
            refused += Status.REFUSED in status
            failed += Status.FAILED in status
            done += 1
            yield Progress(done=done, total=len(plan.todo), refused=refused, failed=failed)
        ignored = sum(not rs for rs in rows.values())
        write_part(out, part, [row for rs in rows.values() for row in rs], task, ignored)


def _group(rows: list[Row]) -> dict[str, list[Row]]:
    """Group rows by item."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["sample_id"]].append(row)
    return groups


def _find_done(out: Path, entries: dict[str, Entry]) -> dict[str, bool]:
    """Find the items that have rows, and whether any of them failed; parts before journals."""
    done: dict[str, bool] = {}
    for part in sorted({entry.part for entry in entries.values()}):
        whole = read_part(out, part)
        members = {key for key, entry in entries.items() if entry.part == part}
        rows = _group(whole or []) | read_journal(out, part)
        known = members if whole is not None else members & rows.keys()
        for key in known:
            done[key] = any(row["status"] == Status.FAILED for row in rows.get(key, []))
    return done


def _is_done(item: Item, entries: dict[str, Entry], done: dict[str, bool], task: Task) -> bool:
    """Say whether an item needs no work: its rows are there, and its input is what it was."""
    if done.get(item.key, True):
        return False
    entry = entries[item.key]
    same = (entry.n_bytes, entry.mtime_ns) == (item.n_bytes, item.mtime_ns)
    return same or (entry.digest != "" and entry.digest == task.digest(item))


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
