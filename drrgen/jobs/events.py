"""A log for machines: one JSON object a line, for whoever watches a run on a cluster.

    OUT.private/events/<start>-<host>-<pid>.jsonl

Each has ``time`` [s since 1970] and ``event``: ``start``, ``item`` (key, status, seconds, host),
``part``, ``end``. In a store, which cannot append, the log comes in numbered pieces.
"""

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from drrgen.io.atomic import write_bytes
from drrgen.io.stores import Place, list_files
from drrgen.jobs.plan import find_private
from drrgen.jobs.shards import holds

_EVENT = {"time": int | float, "event": str}
_ITEM = {"key": str, "status": str, "host": str}
PIECE_S = 30.0  # how much time a piece in a store covers


class EventLog:
    """Writes events; see the module."""

    def __init__(self, out: Place) -> None:
        started = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self.folder = find_private(out) / "events"
        self.name = f"{started}-{platform.node()}-{os.getpid()}"
        self.waiting: list[str] = []
        self.written = time.monotonic()
        self.pieces = 0

    def tell(self, event: str, **facts: Any) -> None:
        """Write an event."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **facts})
        if isinstance(self.folder, Path):
            with (self.folder / f"{self.name}.jsonl").open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            return
        self.waiting.append(line)
        if time.monotonic() - self.written > PIECE_S:
            self.flush()

    def flush(self) -> None:
        """Write what a store has not got yet."""
        if self.waiting:
            text = "\n".join(self.waiting) + "\n"
            write_bytes(self.folder / f"{self.name}.{self.pieces:05d}.jsonl", text.encode())
        self.waiting, self.written = [], time.monotonic()
        self.pieces += 1


@contextmanager
def log_events(out: Place) -> Iterator[EventLog]:
    """Open the log of a run, and close it however the run ends."""
    log = EventLog(out)
    if isinstance(log.folder, Path):
        log.folder.mkdir(parents=True, exist_ok=True)
    log.tell("start")
    try:
        yield log
    finally:
        log.tell("end")
        log.flush()


def read_events(out: Place) -> Iterator[dict[str, Any]]:
    """Read all events of an output, run by run; a line that is broken is passed over."""
    folder = find_private(out) / "events"
    for path in list_files(folder, "*.jsonl"):
        for line in path.read_bytes().splitlines():
            with suppress(ValueError):
                event = json.loads(line)
                if holds(event, _EVENT) and (event["event"] != "item" or holds(event, _ITEM)):
                    yield event
