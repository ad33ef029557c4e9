"""The plan of an output: every item that is to be done, and the part of the manifest it belongs to.

    OUT.private/plan/part-N.parquet   the items of a part, in the order in which they were found
    OUT.private/plan/plan.json        written last: how many parts, the fingerprint of the settings

It lies beside the output and not in it, for it tells where clinical data lie. A part, once planned,
keeps its number and its members; new items come into new parts. So machines that share nothing but
these files agree on who does what, and old parts never move.
"""

import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from drrgen.errors import InputError, ManifestError
from drrgen.io.atomic import write_bytes
from drrgen.io.stores import Place, remove_tree
from drrgen.jobs.task import Identity, Item

PART_ITEMS = 64  # of a small output; a part is the unit of writing, not of work
MOST_PARTS = 1000
_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("n_bytes", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("facts", pa.string()),
        ("listed", pa.bool_()),
        ("payload", pa.string()),
        ("payload_digest", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanHead:
    """What ``plan.json`` says.

    Attributes:
        fingerprint: Digest of the settings.
        parts: How many parts there are.
        items: How many items they hold.
    """

    fingerprint: str
    parts: int
    items: int


def choose_part_size(n_items: int) -> int:
    """Settle how many items a part holds: few in a small output, and never too many files."""
    return max(PART_ITEMS, -(-n_items // MOST_PARTS))


def write_plan(
    out: Place,
    items: Iterable[Item],
    *,
    fingerprint: str,
    part_size: int,
    homes: Mapping[int, Mapping[str, Identity]],
    keep_others: bool = False,
) -> PlanHead:
    """Plan items: known ones stay in their part, new ones come into new parts.

    Args:
        out: Output folder.
        items: All items, or those to add; taken one by one, in the order that new parts get.
        fingerprint: Digest of the settings.
        part_size: Items in a new part.
        homes: Items that are done already, by part and key: what rebuilds a plan that was lost.
        keep_others: Items that are not among these stay listed.

    Raises:
        ManifestError: The plan is broken, or two items have one key.
    """
    make_private(out)
    planner = _Planner(out, read_head(out), part_size, homes)
    for item in items:
        planner.add(item)
    planner.finish(keep_others=keep_others)
    head = PlanHead(fingerprint=fingerprint, parts=planner.parts, items=planner.count)
    text = json.dumps(asdict(head), sort_keys=True) + "\n"
    write_bytes(find_plan(out) / "plan.json", text.encode())
    return head


class _Known(NamedTuple):
    """What a plan says of an item; the digest is of its payload, which tells where it lies."""

    identity: Identity
    listed: bool
    digest: str


class _Planner:
    """Sorts items into parts, one at a time; holds of each no more than its identity."""

    def __init__(
        self,
        out: Place,
        head: PlanHead | None,
        part_size: int,
        homes: Mapping[int, Mapping[str, Identity]],
    ) -> None:
        self.out, self.part_size = out, part_size
        if head is None:
            remove_plan(out)  # what a killed planning left
            _write_homes(out, homes)
        self.parts = head.parts if head else max(homes, default=-1) + 1
        self.known = {
            key: (part, known)
            for part in range(self.parts)
            for key, known in _read_known(out, part).items()
        }
        self.changed: dict[int, dict[str, Item]] = defaultdict(dict)
        self.fresh: list[Item] = []
        self.seen: set[str] = set()

    @property
    def count(self) -> int:
        """How many items the plan holds."""
        return len(self.seen | self.known.keys())

    def add(self, item: Item) -> None:
        """Find the part of an item."""
        if item.key in self.seen:
            raise ManifestError(f"two items have the key {item.key}; is one CT there twice?")
        self.seen.add(item.key)
        if item.key in self.known:
            part, known = self.known[item.key]
            if known != _Known(item.identity, True, digest_facts(item.payload)):
                self.changed[part][item.key] = item
        else:
            self.fresh.append(item)
            if len(self.fresh) == self.part_size:
                self._write_fresh()

    def finish(self, *, keep_others: bool) -> None:
        """Write what is not written yet."""
        if self.fresh:
            self._write_fresh()
        unlisted: dict[int, set[str]] = defaultdict(set)
        if not keep_others:
            for key, (part, known) in self.known.items():
                if known.listed and key not in self.seen:
                    unlisted[part].add(key)
        for part in sorted(self.changed.keys() | unlisted.keys()):
            _update(self.out, part, self.changed[part], unlisted[part])

    def _write_fresh(self) -> None:
        """Write a new part."""
        _write(self.out, self.parts, [(item, True) for item in self.fresh])
        self.parts += 1
        self.fresh = []


def find_private(out: Place) -> Place:
    """Name the folder beside an output that holds what must not be shared.

    Raises:
        InputError: The output is the root of a store or of a disk.
    """
    whole = out.resolve() if isinstance(out, Path) and ".." in out.parts else out.absolute()
    if not whole.name:
        raise InputError(
            f"{out} has nothing beside it, and what must not be shared lies beside an output; give "
            "a folder in it"
        )
    return whole.parent / f"{whole.name}.private"


def make_private(out: Place) -> None:
    """Make that folder, for its owner only; a store knows no such thing."""
    private = find_private(out)
    if isinstance(private, Path):
        private.mkdir(parents=True, exist_ok=True, mode=0o700)


def find_plan(out: Place) -> Place:
    """Name the folder of an output's plan."""
    return find_private(out) / "plan"


def read_head(out: Place) -> PlanHead | None:
    """Read what was planned; None for an output without a plan.

    Raises:
        ManifestError: The plan is broken.
    """
    path = find_plan(out) / "plan.json"
    try:
        head = PlanHead(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise _broken(path) from error
    if not (isinstance(head.fingerprint, str) and isinstance(head.parts, int)):
        raise _broken(path)
    return head


def read_identities(out: Place, part: int) -> dict[str, tuple[Identity, bool]]:
    """Read of every item of a part what tells a change, and whether the last listing found it.

    Raises:
        ManifestError: The part is broken.
    """
    rows = _read(out, part, ["key", "n_bytes", "mtime_ns", "facts", "listed"])
    return {row["key"]: (_find_identity(row), row["listed"]) for row in rows}


def read_items(out: Place, part: int, keys: Set[str]) -> list[Item]:
    """Read some items of a part.

    Raises:
        ManifestError: The part is broken.
    """
    return [_make_item(row) for row in _read(out, part, None) if row["key"] in keys]


def remove_plan(out: Place) -> None:
    """Remove the plan of an output."""
    remove_tree(find_plan(out))


def digest_facts(facts: object) -> str:
    """Digest what JSON can say, in twelve hexadecimal digits."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def _read_known(out: Place, part: int) -> dict[str, _Known]:
    """Read what the plan says of the items of a part."""
    rows = _read(out, part, [name for name in _SCHEMA.names if name != "payload"])
    return {
        row["key"]: _Known(_find_identity(row), row["listed"], row["payload_digest"])
        for row in rows
    }


def _write_homes(out: Place, homes: Mapping[int, Mapping[str, Identity]]) -> None:
    """Write the parts of a plan that was lost, as far as is known what was done."""
    for part in range(max(homes, default=-1) + 1):
        members = homes.get(part, {})
        items = [
            Item(key=key, payload=None, n_bytes=n_bytes, mtime_ns=mtime_ns, facts=facts)
            for key, (n_bytes, mtime_ns, facts) in members.items()
        ]
        _write(out, part, [(item, False) for item in items])


def _write(out: Place, part: int, items: Iterable[tuple[Item, bool]]) -> None:
    """Write the items of a part, each with whether it is listed now."""
    rows = [
        {
            "key": item.key,
            "n_bytes": item.n_bytes,
            "mtime_ns": item.mtime_ns,
            "facts": item.facts,
            "listed": listed,
            "payload": json.dumps(item.payload),
            "payload_digest": digest_facts(item.payload),
        }
        for item, listed in items
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), buffer, compression="zstd")
    write_bytes(_name(out, part), buffer.getvalue())


def _update(out: Place, part: int, changed: Mapping[str, Item], unlisted: Set[str]) -> None:
    """Write a part anew, with the items that changed and those no longer listed."""
    rows = []
    for row in _read(out, part, None):
        key = row["key"]
        listed = key in changed or (row["listed"] and key not in unlisted)
        rows.append((changed.get(key) or _make_item(row), listed))
    _write(out, part, rows)


def _read(out: Place, part: int, columns: list[str] | None) -> Iterator[dict[str, Any]]:
    """Read the rows of a part."""
    path = _name(out, part)
    names = columns or _SCHEMA.names
    try:
        table = pq.read_table(io.BytesIO(path.read_bytes()), columns=names).select(names)
        table = table.cast(pa.schema([_SCHEMA.field(name) for name in names]))
    except (OSError, KeyError, pa.ArrowException) as error:
        raise _broken(path) from error
    yield from table.to_pylist()


def _find_identity(row: Mapping[str, Any]) -> Identity:
    """Take from a row what tells a change of its item."""
    return row["n_bytes"], row["mtime_ns"], row["facts"]


def _make_item(row: dict[str, Any]) -> Item:
    """Make an item of a row."""
    fields = {name: row[name] for name in ("key", "n_bytes", "mtime_ns", "facts")}
    return Item(payload=json.loads(row["payload"]), **fields)


def _name(out: Place, part: int) -> Place:
    """Name the file of a part."""
    return find_plan(out) / f"part-{part:05d}.parquet"


def _broken(path: Place) -> ManifestError:
    """Say that the plan cannot be read."""
    return ManifestError(
        f"{path} is broken; remove its folder and run the same command again: what is finished "
        "is kept"
    )
