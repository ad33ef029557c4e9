"""Parts of a manifest on disk: a journal while they grow, a marker once they are whole.

    OUT/manifest/.open/part-N/KEY.trace   the item is in work, or its process died in it
    OUT/manifest/.open/part-N/KEY.json    outcome of a finished item, until its part is written
    OUT/manifest/part-N.parquet           the rows of a part
    OUT/manifest/part-N.stats.json        written last: the part is whole
    OUT/manifest.json                     the list of parts, and totals; nothing that varies by run

Readers trust markers only. The plan, which says who belongs to which part, is ``jobs.plan``.
"""

import hashlib
import io
import json
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from dataclasses import fields as fields_of
from importlib.metadata import version
from pathlib import Path
from re import fullmatch
from types import UnionType
from typing import Any

import pyarrow.parquet as pq

from drrgen.errors import ManifestError, Status
from drrgen.io.atomic import digest_file, write_bytes
from drrgen.io.stores import Place, list_files, remove_tree
from drrgen.jobs.task import Identity, Task
from drrgen.manifest import SCHEMA_VERSION, Row

_PREFIX, _MARKER = "part-", ".stats.json"
_STATS = {
    "fingerprint": str, "sha256": str, "rows": int, "status": dict, "reason": dict, "items": dict,
}  # fmt: skip
_RECORD = {
    "status": str, "identity": list, "digest": str, "files": dict, "seconds": int | float,
    "host": str,
}  # fmt: skip
_OUTCOME = {"rows": list, "identity": list, "files": dict, "seconds": int | float, "host": str}
_FOLDERS = ("images", "gallery", "manifest")
IGNORED = "ignored"  # status of an item that turned out to be no work


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of an item.

    Attributes:
        rows: Its rows; none for an item that is no work after all.
        identity: What a listing knew of it then.
        files: SHA-256 of each file that was written, by its path under the output folder.
        seconds: How long it took [s].
        host: Machine it was done on.
    """

    rows: list[Row]
    identity: Identity
    files: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    host: str = ""

    @property
    def status(self) -> str:
        """The worst status among the rows."""
        found = {row["status"] for row in self.rows}
        order = (Status.FAILED, Status.REFUSED, Status.OK)
        return next((status.value for status in order if status in found), IGNORED)

    @property
    def reason(self) -> str | None:
        """Why there is no result, where its rows say so."""
        return next((row["reason"] for row in self.rows if row["reason"]), None)

    @property
    def stats(self) -> dict[str, Any]:
        """What the marker of a part keeps of it."""
        return {
            "status": self.status,
            "reason": self.reason,
            "identity": list(self.identity),
            "digest": next((row.get("ct_sha256") or "" for row in self.rows), ""),
            "files": self.files,
            "seconds": self.seconds,
            "host": self.host,
        }


def name_part(number: int) -> str:
    """Name a part."""
    return f"{_PREFIX}{number:05d}"


def find_numbers(out: Place) -> list[int]:
    """Find the numbers of all parts that have a marker."""
    names = [path.name for path in list_files(out / "manifest", f"{_PREFIX}*{_MARKER}")]
    numbers = [name.removeprefix(_PREFIX).removesuffix(_MARKER) for name in names]
    return sorted(int(number) for number in numbers if fullmatch("[0-9]{5,9}", number))


def read_stats(out: Place, number: int) -> dict[str, Any] | None:
    """Read the marker of a part as it stands; None where there is none that can be read."""
    return read_stats_file(out / "manifest" / f"{name_part(number)}{_MARKER}")


def read_stats_file(path: Place) -> dict[str, Any] | None:
    """Read a marker by its name; None where it is no marker."""
    try:
        stats: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    if not holds(stats, _STATS) or not all(holds(x, _RECORD) for x in stats["items"].values()):
        return None
    return stats if all(len(x["identity"]) == 3 for x in stats["items"].values()) else None


def holds(value: object, kinds: Mapping[str, type | UnionType]) -> bool:
    """Say whether what was read of JSON is an object with some fields of these kinds."""
    return isinstance(value, dict) and all(
        isinstance(value.get(name), kind) for name, kind in kinds.items()
    )


def read_marker(out: Place, number: int) -> dict[str, Any] | None:
    """Read the marker of a part; None unless the part is whole and as the marker says."""
    marker = read_stats(out, number)
    try:
        found = digest_file(out / "manifest" / f"{name_part(number)}.parquet")
    except OSError:
        return None
    return marker if marker is not None and marker["sha256"] == found else None


def write_stats(out: Place, number: int, stats: Mapping[str, Any]) -> None:
    """Write the marker of a part."""
    path = out / "manifest" / f"{name_part(number)}{_MARKER}"
    write_bytes(path, json.dumps(stats, sort_keys=True).encode())


def write_part(out: Place, number: int, fresh: Mapping[str, Outcome], task: Task) -> None:
    """Write a part, then its marker, then drop its journal.

    Args:
        out: Output folder.
        number: Which part.
        fresh: Outcomes to put in; other items keep what the part held of them.
        task: Makes the table.
    """
    path = out / "manifest" / f"{name_part(number)}.parquet"
    rows = [row for outcome in fresh.values() for row in outcome.rows]
    items = {key: outcome.stats for key, outcome in fresh.items()}
    if (marker := read_marker(out, number)) is not None:
        old = {key: item for key, item in marker["items"].items() if key not in fresh}
        _remove_stale(out, marker["items"], fresh)
        items |= old
        kept = _read_outcomes_of(path, old) if old else {}
        for key, outcome in kept.items():  # their input may be gone: the journal holds all now
            write_outcome(out, number, key, outcome)
            rows += outcome.rows
    buffer = io.BytesIO()
    pq.write_table(task.to_table(rows), buffer, compression="zstd", row_group_size=2**30)
    data = buffer.getvalue()
    stats = {
        "fingerprint": task.fingerprint,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "rows": len(rows),
        "status": Counter(row["status"] for row in rows),
        "reason": Counter(row["reason"] for row in rows if row["reason"]),
        "items": items,
        "seconds": sum(item["seconds"] for item in items.values()),
        "drrgen": version("drrgen"),
        "python": platform.python_version(),
    }
    # Without its marker the old part is no part; the journal holds all that it held.
    path.with_name(f"{name_part(number)}{_MARKER}").unlink(missing_ok=True)
    write_bytes(path, data)
    write_stats(out, number, stats)
    remove_tree(find_journal(out, number))


def _read_outcomes_of(path: Place, items: Mapping[str, Any]) -> dict[str, Outcome]:
    """Read from a part, as its marker tells of them, what became of some items."""
    rows: dict[str, list[Row]] = {key: [] for key in items}
    for row in pq.read_table(io.BytesIO(path.read_bytes())).to_pylist():
        if row["sample_id"] in rows:
            rows[row["sample_id"]].append(row)
    return {
        key: Outcome(
            rows=rows[key],
            identity=tuple(item["identity"]),
            files=item["files"],
            seconds=item["seconds"],
            host=item["host"],
        )
        for key, item in items.items()
    }


def _remove_stale(out: Place, before: Mapping[str, Any], fresh: Mapping[str, Outcome]) -> None:
    """Remove files that an item had and has no longer."""
    for key in before.keys() & fresh.keys():
        for name in before[key]["files"].keys() - fresh[key].files.keys():
            (out / name).unlink(missing_ok=True)


def write_outcome(out: Place, number: int, key: str, outcome: Outcome) -> None:
    """Keep the outcome of a finished item; it is in work no longer."""
    journal = find_journal(out, number)
    # What a loss of power leaves of it is found broken, and the item done again.
    write_bytes(journal / f"{key}.json", json.dumps(asdict(outcome)).encode(), durable=False)
    (journal / f"{key}.trace").unlink(missing_ok=True)


def read_outcomes(out: Place, number: int) -> dict[str, Outcome]:
    """Read what is finished of a part that is not whole yet; a broken outcome is none."""
    found = {}
    for path in list_files(find_journal(out, number), "*.json"):
        with suppress(OSError, ValueError):  # gone, if another one has just written the part
            fields = json.loads(path.read_bytes())
            if _is_outcome(fields):
                found[path.stem] = Outcome(**fields | {"identity": tuple(fields["identity"])})
    return found


def _is_outcome(fields: Any) -> bool:
    """Say whether what a journal holds is what ``write_outcome`` wrote."""
    names = {field.name for field in fields_of(Outcome)}
    return (
        holds(fields, _OUTCOME)
        and fields.keys() == names
        and len(fields["identity"]) == 3
        and all(holds(row, {"sample_id": str, "status": str}) for row in fields["rows"])
    )


def find_trace(out: Place, number: int, key: str) -> Place:
    """Name the file that stands while an item is in work, and tells how its process died."""
    return find_journal(out, number) / f"{key}.trace"


def find_journal(out: Place, number: int) -> Place:
    """Name the folder of a part's journal."""
    return out / "manifest" / ".open" / name_part(number)


def write_summary(out: Place, fingerprint: str, numbers: Sequence[int]) -> None:
    """Write ``manifest.json``: parts, their digests, and totals.

    Raises:
        ManifestError: A part is not whole, or was made with other settings.
    """
    parts, status, reason, ignored = [], Counter[str](), Counter[str](), 0
    missing = []
    for number in numbers:
        stats = read_stats(out, number)
        if stats is None:
            missing.append(name_part(number))
            continue
        if stats["fingerprint"] != fingerprint:
            raise ManifestError(
                f"{name_part(number)} in {out} was made with the settings "
                f"{stats['fingerprint']}, wanted {fingerprint}; run its shard again"
            )
        name = f"{name_part(number)}.parquet"
        parts.append({"name": name, "rows": stats["rows"], "sha256": stats["sha256"]})
        status.update(stats["status"])
        reason.update(stats["reason"])
        ignored += sum(item["status"] == IGNORED for item in stats["items"].values())
    if missing:
        raise ManifestError(
            f"{len(missing)} of {len(numbers)} parts of {out} are not finished, {missing[0]} the "
            "first of them; run the shards that are left, then merge"
        )
    summary = {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": fingerprint,
        "parts": parts,
        "status": status,
        "reason": reason,
        "ignored": ignored,
    }
    text = json.dumps(summary, sort_keys=True, indent=2) + "\n"
    write_bytes(out / "manifest.json", text.encode())
    if isinstance(out, Path):
        with suppress(OSError):
            (out / "manifest" / ".open").rmdir()


def check_ours(out: Place) -> None:
    """See that what starting anew takes away was made by drrgen.

    Raises:
        ManifestError: There are such folders, and nothing says that they are drrgen's.
    """
    there = [name for name in _FOLDERS if (out / name).exists()]
    ours = list_files(out / "manifest", f"{_PREFIX}*") or (out / "manifest" / ".open").exists()
    if there and not ours and not (out / "manifest.json").exists():
        raise ManifestError(
            f"{out} holds {' and '.join(there)}, and no data set of drrgen that --overwrite could "
            "take away; give another output folder, or leave --overwrite out"
        )


def remove_output(out: Place) -> None:
    """Remove what earlier runs wrote, and nothing else; what says that it is ours goes last."""
    for name in ("manifest.json", "recipe.toml", "contact-sheet.png"):
        (out / name).unlink(missing_ok=True)
    for name in _FOLDERS:
        remove_tree(out / name)
