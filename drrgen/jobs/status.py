"""How a run stands, from what it has written: on this machine, on a cluster, or stopped."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from drrgen.errors import ManifestError
from drrgen.io.stores import Place, list_files
from drrgen.jobs.events import read_events
from drrgen.jobs.locks import is_locked
from drrgen.jobs.plan import find_plan, read_head, read_identities
from drrgen.jobs.shards import find_journal, read_outcomes, read_stats

RECENT_S = 600.0  # the time over which the rate is taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How an output stands, in items.

    Attributes:
        planned: Items of the plan whose input was there when it was written.
        done: How many have each status; ``failed`` ones are tried again by the next run.
        reasons: How often each reason was given in what is finished.
        in_work: Items in work, or in work when their process died.
        parts: Parts that are written.
        parts_planned: Parts of the plan.
        running: Whether a drrgen writes there now.
        hosts: Items done lately, by machine.
        per_hour: Items done in an hour, at the pace of the last minutes; None without any.
        seconds_left: Time that the rest takes at that pace [s]; None without a pace.
        last_event: Time of the last event [s since 1970]; None without any.
    """

    planned: int
    done: dict[str, int]
    reasons: dict[str, int]
    in_work: int
    parts: int
    parts_planned: int
    running: bool
    hosts: dict[str, int]
    per_hour: float | None
    seconds_left: float | None
    last_event: float | None

    @property
    def left(self) -> int:
        """Items that are not done."""
        return self.planned - sum(self.done.values())


def read_standing(out: Place) -> Standing:
    """Read how an output stands; changes nothing, and may be asked while it grows.

    Raises:
        ManifestError: Nothing was planned there.
    """
    head = read_head(out)
    if head is None:
        raise ManifestError(f"there is no plan for {out} in {find_plan(out)}; nothing was begun")
    done, reasons = Counter[str](), Counter[str]()
    in_work = parts = n_planned = 0
    for part in range(head.parts):
        planned = {key for key, (_, listed) in read_identities(out, part).items() if listed}
        n_planned += len(planned)
        stats = read_stats(out, part)
        parts += stats is not None
        records = _read_records(out, part, stats)
        done.update(status for key, (status, _) in records.items() if key in planned)
        reasons.update(why for key, (_, why) in records.items() if key in planned and why)
        in_work += len(list_files(find_journal(out, part), "*.trace"))
    pace = _find_pace(read_events(out))
    left = n_planned - sum(done.values())
    return Standing(
        planned=n_planned,
        done=dict(done),
        reasons=dict(reasons),
        in_work=in_work,
        parts=parts,
        parts_planned=head.parts,
        running=is_locked(out),
        hosts=pace.hosts,
        per_hour=pace.per_s * 3600 if pace.per_s else None,
        seconds_left=left / pace.per_s if pace.per_s else None,
        last_event=pace.last,
    )


def _read_records(
    out: Place, part: int, stats: dict[str, Any] | None
) -> dict[str, tuple[str, str | None]]:
    """Read status and reason of what is done in a part, by key."""
    items = (stats or {"items": {}})["items"]
    records = {key: (item["status"], item["reason"]) for key, item in items.items()}
    fresh = read_outcomes(out, part)
    return records | {key: (o.status, o.reason) for key, o in fresh.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pace:
    """How fast it went lately."""

    per_s: float
    hosts: dict[str, int]
    last: float | None


def _find_pace(events: Iterator[dict[str, Any]]) -> _Pace:
    """Take the pace of the last minutes from the events of items, of all machines together."""
    times: list[tuple[float, str]] = []
    last = None
    for event in events:
        last = max(last or 0.0, event["time"])
        if event["event"] == "item":
            times.append((event["time"], event["host"]))
    recent = [entry for entry in times if last is not None and entry[0] > last - RECENT_S]
    span = max(at for at, _ in recent) - min(at for at, _ in recent) if recent else 0.0
    return _Pace(
        per_s=(len(recent) - 1) / span if span > 0 else 0.0,
        hosts=dict(Counter(host for _, host in recent)),
        last=last,
    )
