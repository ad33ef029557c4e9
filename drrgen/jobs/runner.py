"""Run a task over many items, and go on where an earlier run stopped.

A handful of items is done in this process, more in worker processes. What is finished is
journalled at once, so that a kill at any moment costs the items in flight and nothing else. Parts
are taken one after the other, so that no more than the parts in work are in memory.
"""

from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Set
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drrgen.errors import ManifestError, Status
from drrgen.io.atomic import remove_partials
from drrgen.io.stores import Place, is_private, list_files, list_names
from drrgen.jobs.events import EventLog, log_events
from drrgen.jobs.locks import lock_shard, lock_whole
from drrgen.jobs.plan import (
    PART_ITEMS,
    find_plan,
    read_head,
    read_identities,
    read_items,
    remove_plan,
    write_plan,
)
from drrgen.jobs.shards import (
    check_ours,
    find_journal,
    find_numbers,
    read_marker,
    read_outcomes,
    read_stats,
    remove_output,
    write_part,
    write_stats,
    write_summary,
)
from drrgen.jobs.sites import Cluster
from drrgen.jobs.task import Identity, Item, Task
from drrgen.jobs.work import Done, Job, work

HANDFUL = 4  # starting workers takes longer than doing so few
TIMEOUT_S = 1800.0  # of an item in a worker, when nothing else is said


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run has come: items, not rows.

    Attributes:
        done: Done by this run.
        total: What this run has to do.
        kept: What was there already.
        refused: Refused, of those done.
        failed: Failed, of those done.
    """

    done: int
    total: int
    kept: int
    refused: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """With what the work is done, which changes no result.

    Attributes:
        workers: Processes; None takes as many as cores and memory allow, and none for a handful; 0
            does all in this process, which a crash or a hang then ends.
        timeout_s: Time limit of an item [s]; None is half an hour in a worker, and none here.
        retry_refused: Also try again what was refused.
        cluster: Where the workers are; None is this machine.
    """

    workers: int | None = None
    timeout_s: float | None = None
    retry_refused: bool = False
    cluster: Cluster | None = None

    @property
    def is_plain(self) -> bool:
        """Whether nothing asks for workers."""
        return self.workers is None and self.timeout_s is None and self.cluster is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a run would do.

    Attributes:
        todo: Items to do: new, changed, failed before, or lost with a file or a broken part.
        kept: Items that are there already.
        todo_bytes: Size of the inputs of those to do [bytes].
    """

    todo: int
    kept: int
    todo_bytes: int


def forecast(task: Task, items: Iterable[Item], out: Place, *, overwrite: bool = False) -> Forecast:
    """Find how much is to be done; writes nothing.

    Raises:
        ManifestError: The output was made with other settings, and is not to be overwritten.
    """
    records: dict[str, dict[str, Any]] = {}
    if not overwrite:
        check_settings(task, out)
        for part in find_numbers(out):
            records |= _read_records(out, part, read_marker(out, part))
    todo = kept = todo_bytes = 0
    for item in items:
        if _is_settled(item.key, item.identity, records, retry_refused=False) or (
            _is_touched(item, records) and records[item.key]["digest"] == task.digest(item)
        ):
            kept += 1
        else:
            todo += 1
            todo_bytes += item.n_bytes
    return Forecast(todo=todo, kept=kept, todo_bytes=todo_bytes)


def plan(
    task: Task,
    items: Iterable[Item],
    out: Place,
    *,
    part_size: int = PART_ITEMS,
    overwrite: bool = False,
    keep_others: bool = False,
) -> None:
    """Write down what is to be done, for this process or for shards on other machines.

    Args:
        task: The work.
        items: All items, taken one by one; rows of items that are gone are kept.
        out: Output folder.
        part_size: Items in one new part of the manifest.
        overwrite: Start anew.
        keep_others: These are additions; items that are not among them stay in the plan.

    Raises:
        ManifestError: Other settings, a broken plan, or another drrgen writes there now.
        OSError: The plan cannot be written.
    """
    with lock_whole(out):
        _plan(task, items, out, part_size, overwrite=overwrite, keep_others=keep_others)


def run(
    task: Task,
    items: Iterable[Item],
    out: Place,
    *,
    part_size: int = PART_ITEMS,
    overwrite: bool = False,
    keep_others: bool = False,
    means: Means | None = None,
) -> Iterator[Progress]:
    """Plan, do what is left to do, and write the summary.

    Args:
        task: The work.
        items: All items, done or not, taken one by one; rows of items that are gone are kept.
        out: Output folder.
        part_size: Items in one new part of the manifest.
        overwrite: Start anew.
        keep_others: These are additions; items that are not among them stay in the plan.
        means: Processes and time limit.

    Yields:
        How far it has come: once before the first item, then after every item.

    Raises:
        ManifestError: Other settings, a broken plan, or another drrgen writes there now.
        OSError: The output cannot be written; nothing half written stays.
    """
    with lock_whole(out):
        _plan(task, items, out, part_size, overwrite=overwrite, keep_others=keep_others)
        remove_partials(out)
        yield from _run_parts(task, out, list(range(_count_parts(out))), means or Means())
        _summarise(task, out)


def run_shard(
    task: Task, out: Place, index: int, count: int, means: Means | None = None
) -> Iterator[Progress]:
    """Do one share of what was planned; other machines may do the others at the same time.

    Args:
        task: The work.
        out: Output folder.
        index: Which share, from 0.
        count: Of how many.
        means: Processes and time limit.

    Yields:
        How far it has come, as ``run`` does.

    Raises:
        ManifestError: No plan, other settings, or another drrgen does this share now.
        OSError: The output cannot be written.
    """
    _count_parts(out)
    with lock_shard(out, index, count):
        check_settings(task, out)
        parts = list(range(index, _count_parts(out), count))
        yield from _run_parts(task, out, parts, means or Means())


def merge(task: Task, out: Place) -> None:
    """Write the summary of an output whose shards are all done.

    Raises:
        ManifestError: A part is missing, or another drrgen writes there now.
    """
    with lock_whole(out):
        remove_partials(out)
        _summarise(task, out)


def check_settings(task: Task, out: Place) -> None:
    """Refuse to mix settings.

    Raises:
        ManifestError: The output was made with others.
    """
    head = read_head(out)
    stats = next((s for n in find_numbers(out)[:1] if (s := read_stats(out, n))), None)
    known = head.fingerprint if head else stats["fingerprint"] if stats else task.fingerprint
    if known != task.fingerprint:
        raise ManifestError(
            f"{out} was made with other settings (fingerprint {known}, now {task.fingerprint}); "
            "use --overwrite to start anew, or another output folder"
        )


def _plan(
    task: Task, items: Iterable[Item], out: Place, part_size: int, *, overwrite: bool,
    keep_others: bool,
) -> None:  # fmt: skip
    """Write the plan; the output is locked."""
    if overwrite:
        if read_head(out) is None:
            check_ours(out)
        remove_plan(out)
        remove_output(out)
    check_settings(task, out)
    homes = {} if read_head(out) else {part: _find_homes(out, part) for part in find_numbers(out)}
    write_plan(
        out,
        _list_additions(task, items, out) if keep_others else items,
        fingerprint=task.fingerprint,
        part_size=part_size,
        homes=homes,
        keep_others=keep_others,
    )


def _find_homes(out: Place, part: int) -> dict[str, Identity]:
    """Read from its marker what belongs to a part."""
    items = (read_stats(out, part) or {"items": {}})["items"]
    return {key: tuple(record["identity"]) for key, record in items.items()}


def _list_additions(task: Task, items: Iterable[Item], out: Place) -> Iterator[Item]:
    """List what is not there yet, for what is there stays as it is.

    Raises:
        ManifestError: An item has the key of one that is there, and is another.
    """
    records: dict[str, dict[str, Any]] = {}
    planned: dict[str, Identity] = {}
    head = read_head(out)
    for part in {*find_numbers(out), *range(head.parts if head else 0)}:
        records |= _read_records(out, part, read_marker(out, part))
    for part in range(head.parts if head else 0):
        planned |= {key: identity for key, (identity, _) in read_identities(out, part).items()}
    for item in items:
        record = records.get(item.key)
        there = record["identity"] if record else planned.get(item.key)
        if there is None:
            yield item
        elif list(there[:2]) != list(item.identity[:2]) and (
            not record or not record["digest"] or task.digest(item) != record["digest"]
        ):
            raise ManifestError(
                f"{item.key} is there already, and what is to be added is another of the same "
                "name; rename it, or change what is there with the command that made it"
            )
        elif not record or record["status"] == Status.FAILED:
            yield item


def _count_parts(out: Place) -> int:
    """Read how many parts were planned."""
    head = read_head(out)
    if head is None:
        raise ManifestError(
            f"there is no plan for {out} in {find_plan(out)}; make one with drrgen plan"
        )
    return head.parts


def _summarise(task: Task, out: Place) -> None:
    """Write ``manifest.json`` over all parts that hold anything."""
    parts = [part for part in range(_count_parts(out)) if _holds_anything(out, part)]
    write_summary(out, task.fingerprint, parts)


def _holds_anything(out: Place, part: int) -> bool:
    """Say whether a part is there, or should be."""
    return read_stats(out, part) is not None or any(
        listed for _, listed in read_identities(out, part).values()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Survey:
    """What is to be done in the parts of a run.

    Attributes:
        todo: Keys to do, by part.
        suspects: Keys that were in work when a former run died.
        kept: How many items are there already.
        unwritten: Parts whose items are all done, and which are not written yet.
    """

    todo: dict[int, set[str]] = field(default_factory=dict)
    suspects: set[str] = field(default_factory=set)
    kept: int = 0
    unwritten: tuple[int, ...] = ()


def _run_parts(task: Task, out: Place, parts: list[int], means: Means) -> Iterator[Progress]:
    """Do what is left in some parts, and write a part when the last of its items is done."""
    survey = _survey(task, out, parts, means)
    status = Counter[str]()
    total = sum(map(len, survey.todo.values()))

    def tell() -> Progress:
        return Progress(
            done=status.total(),
            total=total,
            kept=survey.kept,
            refused=status[Status.REFUSED],
            failed=status[Status.FAILED],
        )

    with log_events(out) as events:
        yield tell()
        for part in survey.unwritten:
            _finish(task, out, part, events)
        left = {part: len(keys) for part, keys in survey.todo.items()}
        with closing(_do(task, survey, out, means, total)) as finished:
            for done in finished:
                status[done.status] += 1
                events.tell(
                    "item", key=done.key, status=done.status, reason=done.reason,
                    seconds=done.seconds, host=done.host,
                )  # fmt: skip
                left[done.part] -= 1
                if left[done.part] == 0:
                    _finish(task, out, done.part, events)
                yield tell()


def _finish(task: Task, out: Place, part: int, events: EventLog) -> None:
    """Write a part whose items are all done."""
    planned = read_identities(out, part)
    outcomes = read_outcomes(out, part)  # some perhaps of a plan that was lost
    write_part(out, part, {key: o for key, o in outcomes.items() if key in planned}, task)
    events.tell("part", part=part)


def _survey(task: Task, out: Place, parts: list[int], means: Means) -> _Survey:
    """Find what is to be done; remember of touched inputs that they have not changed."""
    todo: dict[int, set[str]] = {}
    suspects: set[str] = set()
    kept, unwritten = 0, []
    there = None if isinstance(out, Path) else _list_images(out)
    for part in parts:
        marker = read_marker(out, part)
        records = _read_records(out, part, marker, there)
        planned = {
            key: identity
            for key, (identity, listed) in read_identities(out, part).items()
            if listed
        }
        open_keys = {
            key
            for key, identity in planned.items()
            if not _is_settled(key, identity, records, retry_refused=means.retry_refused)
        }
        open_keys -= _settle_touched(task, out, part, open_keys, marker, records)
        kept += len(planned) - len(open_keys)
        if open_keys:
            todo[part] = open_keys
            traces = list_files(find_journal(out, part), "*.trace")
            suspects |= {path.stem for path in traces} & open_keys
        elif _has_journal(out, part) or (planned and marker is None):
            unwritten.append(part)
    return _Survey(todo=todo, suspects=suspects, kept=kept, unwritten=tuple(unwritten))


def _has_journal(out: Place, part: int) -> bool:
    """Say whether a part has outcomes that it does not hold yet."""
    return bool(list_files(find_journal(out, part), "*.json"))


def _list_images(out: Place) -> set[str]:
    """List all pictures of a store at once, for asking one by one takes too long."""
    return {f"images/{name}" for name in list_names(out / "images")}


def _read_records(
    out: Place, part: int, marker: dict[str, Any] | None, there: Set[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Read what became of the items of a part, by key; those that lost a file are left out."""
    records: dict[str, dict[str, Any]] = dict((marker or {"items": {}})["items"])
    records |= {key: outcome.stats for key, outcome in read_outcomes(out, part).items()}

    def is_there(name: str) -> bool:
        return (out / name).is_file() if there is None else name in there

    return {key: record for key, record in records.items() if all(map(is_there, record["files"]))}


def _is_settled(
    key: str, identity: Identity, records: dict[str, dict[str, Any]], *, retry_refused: bool
) -> bool:
    """Say whether an item is done, as it is now, and needs no second try."""
    record = records.get(key)
    if record is None or tuple(record["identity"]) != identity:
        return False
    again = {Status.FAILED, Status.REFUSED} if retry_refused else {Status.FAILED}
    return record["status"] not in again


def _is_touched(item: Item, records: dict[str, dict[str, Any]]) -> bool:
    """Say whether only size or time of an input have changed, so that its content decides."""
    record = records.get(item.key)
    return (
        record is not None
        and record["status"] != Status.FAILED
        and record["digest"] != ""
        and record["identity"][2] == item.facts
        and tuple(record["identity"]) != item.identity
    )


def _settle_touched(
    task: Task, out: Place, part: int, keys: Set[str], marker: dict[str, Any] | None,
    records: dict[str, dict[str, Any]],
) -> set[str]:  # fmt: skip
    """Find inputs that were touched and have not changed; let the marker know them as they are."""
    if marker is None or not keys & records.keys():
        return set()
    touched = [item for item in read_items(out, part, keys) if _is_touched(item, records)]
    same = [item for item in touched if task.digest(item) == records[item.key]["digest"]]
    for item in same:
        if item.key in marker["items"]:
            marker["items"][item.key]["identity"] = list(item.identity)
    if same:
        write_stats(out, part, marker)
    return {item.key for item in same if item.key in marker["items"]}


def _do(
    task: Task, survey: _Survey, out: Place, means: Means, total: int
) -> Generator[Done, None, None]:
    """Do the items here or in workers, part by part as far as it goes."""
    if total == 0:
        return
    handful = total <= HANDFUL and means.is_plain and not survey.suspects
    if handful or means.workers == 0 or is_private(out):
        task.prepare()
        for job in _list_jobs(out, survey.todo):
            yield work(task, job, out)
        return
    from drrgen.jobs.cluster import open_cluster, work_on_cluster

    suspects = {part: keys & survey.suspects for part, keys in survey.todo.items()}
    trusted = {part: keys - survey.suspects for part, keys in survey.todo.items()}
    with open_cluster(task, means.cluster or Cluster(), means.workers, total) as fleet:
        yield from work_on_cluster(
            fleet,
            task,
            _list_jobs(out, trusted),
            out,
            timeout_s=means.timeout_s or TIMEOUT_S,
            suspects=list(_list_jobs(out, suspects)),
        )


def _list_jobs(out: Place, todo: dict[int, set[str]]) -> Iterator[Job]:
    """Read the items to do, one part at a time."""
    for part, keys in sorted(todo.items()):
        for item in read_items(out, part, keys) if keys else ():
            yield Job(item=item, part=part)
