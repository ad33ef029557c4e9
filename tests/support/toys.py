"""A task whose items do what their payload says; here, so that worker processes can import it."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from drrgen.errors import Reason, Status, status_of
from drrgen.io.atomic import write_bytes
from drrgen.jobs.task import Item
from drrgen.manifest import Row, make_row, to_table


def make_items(**payloads: str) -> list[Item]:
    return [Item(key=k, payload=p, n_bytes=len(p), mtime_ns=1) for k, p in payloads.items()]


@dataclass(frozen=True)
class ToyTask:
    out: Path
    fingerprint: str = "toy"
    log: Path | None = None

    def prepare(self) -> None: ...

    def __call__(self, item: Item) -> list[Row]:
        with ((self.log or self.out) / "calls.log").open("a") as log:
            log.write(f"{item.key}\n")
        match item.payload:
            case "crash":
                ctypes.string_at(0)
            case "hang":
                ctypes.PyDLL(None).sleep(600)  # holds the interpreter, as a broken decoder does
            case "eat":
                eaten = []
                while True:
                    eaten.append(b"x" * 2**24)
            case "ignore":
                return []
            case "refuse" | "fail":
                reason = Reason.NOT_CT if item.payload == "refuse" else Reason.IO_ERROR
                return self.failure(item, reason, "as told")
        write_bytes(self.out / self._name(item.key), item.payload.encode())
        return [make_row(sample_id=item.key, status=Status.OK.value, view="PA", draw=0,
                         ct_sha256=self.digest(item))]  # fmt: skip

    def _name(self, key: str) -> str:
        return f"images/{key}.txt"

    def files(self, rows: Sequence[Row]) -> list[str]:
        return [self._name(row["sample_id"]) for row in rows if row["status"] == Status.OK]

    def failure(self, item: Item, reason: Reason, detail: str) -> list[Row]:
        return [make_row(sample_id=item.key, status=status_of(reason).value, reason=reason.value,
                         detail=detail)]  # fmt: skip

    def to_table(self, rows: Sequence[Row]) -> pa.Table:
        return to_table(rows, fingerprint=self.fingerprint)

    def digest(self, item: Item) -> str:
        return f"digest of {item.payload}"
