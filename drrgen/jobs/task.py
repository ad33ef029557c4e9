"""What the runner needs to know of a piece of work, and no more."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from drrgen.errors import Reason
from drrgen.manifest import Row

Identity = tuple[int, int, str]  # size, time and facts: what tells a change without reading


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One unit of work.

    Attributes:
        key: Stable name, safe in a file name.
        payload: What the task works on: plain types that JSON knows, for it is kept in the plan.
        n_bytes: Size of the input [bytes].
        mtime_ns: Time of its youngest change [ns since 1970].
        facts: Digest of what else goes into the result; when it changes the item is done again.
    """

    key: str
    payload: Any
    n_bytes: int
    mtime_ns: int
    facts: str = ""

    @property
    def identity(self) -> Identity:
        """What a listing knows of it."""
        return self.n_bytes, self.mtime_ns, self.facts


@runtime_checkable
class Task(Protocol):
    """A pure function over items, and what belongs to it; it turns its errors into rows.

    It travels to other processes, so it is small and can be pickled. It is a dataclass, whose field
    ``out`` the runner sets to the folder on this machine that it shall write to.
    """

    @property
    def out(self) -> Path:
        """Folder that it writes to."""

    @property
    def fingerprint(self) -> str:
        """Digest of all settings that touch the result."""

    def prepare(self) -> None:
        """Get ready, once in every process."""

    def __call__(self, item: Item) -> list[Row]:
        """Do one item; no rows when it is no work after all."""

    def files(self, rows: Sequence[Row]) -> list[str]:
        """Name the files that were written for some rows, under the output folder."""

    def failure(self, item: Item, reason: Reason, detail: str) -> list[Row]:
        """Make the rows of an item whose process died or took too long."""

    def to_table(self, rows: Sequence[Row]) -> pa.Table:
        """Turn rows into a table, in their final order."""

    def digest(self, item: Item) -> str:
        """Digest the content of an item's input; empty when it cannot be read."""
