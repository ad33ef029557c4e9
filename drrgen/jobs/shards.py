"""Parts of a manifest on disk: a journal while they grow, a marker once they are whole.

    OUT/manifest/.plan.json               which item belongs to which part
    OUT/manifest/.open/part-N/KEY.trace   the item is in work, or its process died in it
    OUT/manifest/.open/part-N/KEY.json    outcome of a finished item, until its part is written
    OUT/manifest/part-N.parquet           the rows of a part
    OUT/manifest/part-N.stats.json        written last: the part is whole
    OUT/manifest.json                     the list of parts, and totals; nothing that varies by run

Readers trust markers only.
"""

import hashlib
import io
import json
import platform
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from drrgen.errors import ManifestError, Status
from drrgen.io.atomic import digest_file, write_bytes
from drrgen.jobs.task import Item, Task
from drrgen.manifest import SCHEMA_VERSION, Row

IGNORED = "ignored"  # status of an item that turned out to be no work


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the plan remembers of an item.

    Attributes:
        part: Number of its part.
        n_bytes: Size of the input when it was done [bytes].
        mtime_ns: Its time then [ns since 1970].
        digest: Digest of its content then; empty when unknown.
    """

    part: int
    n_bytes: int
    mtime_ns: int
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of an item.

    Attributes:
        rows: Its rows; none for an item that is no work after all.
        files: SHA-256 of each file that was written, by its path under the output folder.
        seconds: How long it took [s].
        host: Machine it was done on.
    """

    rows: list[Row]
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
    def input_digest(self) -> str:
        """Digest of the input, where the rows tell one."""
        return next((row.get("ct_sha256") or "" for row in self.rows), "")

    @property
    def stats(self) -> dict[str, Any]:
        """What the marker of a part keeps of it."""
        return {"status": self.status, "files": self.files, "seconds": self.seconds,
                "host": self.host}  # fmt: skip


def name_part(number: int) -> str:
    """Name a part."""
    return f"part-{number:05d}"


def read_plan(out: Path) -> tuple[str | None, dict[str, Entry]]:
    """Read the fingerprint and the entries of an output; None and nothing for a new one."""
    path = out / "manifest" / ".plan.json"
    if not path.exists():
        return None, {}
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        return plan["fingerprint"], {key: Entry(**e) for key, e in plan["entries"].items()}
    except (ValueError, KeyError, TypeError) as error:
        raise ManifestError(
            f"{path} is broken; start anew with --overwrite, or use another output folder"
        ) from error


def write_plan(out: Path, fingerprint: str, entries: Mapping[str, Entry]) -> None:
    """Write the plan."""
    plan = {"fingerprint": fingerprint, "entries": {k: asdict(e) for k, e in entries.items()}}
    write_bytes(out / "manifest" / ".plan.json", json.dumps(plan, sort_keys=True).encode())


def read_marker(out: Path, number: int) -> dict[str, Any] | None:
    """Read the marker of a part; None unless the part is whole and as the marker says."""
    stem = out / "manifest" / name_part(number)
    try:
        marker: dict[str, Any] = json.loads(stem.with_suffix(".stats.json").read_text("utf-8"))
        found = digest_file(stem.with_suffix(".parquet"))
    except (OSError, ValueError):
        return None
    return marker if marker.get("sha256") == found else None


def write_part(out: Path, number: int, fresh: Mapping[str, Outcome], task: Task) -> None:
    """Write a part, then its marker, then drop its journal.

    Args:
        out: Output folder.
        number: Which part.
        fresh: Outcomes to put in; other items keep what the part held of them.
        task: Makes the table.
    """
    stem = out / "manifest" / name_part(number)
    rows = [row for outcome in fresh.values() for row in outcome.rows]
    items = {key: outcome.stats for key, outcome in fresh.items()}
    if (marker := read_marker(out, number)) is not None:
        old = {key: item for key, item in marker["items"].items() if key not in fresh}
        items |= old
        if old:
            table = pq.read_table(stem.with_suffix(".parquet")).to_pylist()
            rows += [row for row in table if row["sample_id"] in old]
    buffer = io.BytesIO()
    pq.write_table(task.to_table(rows), buffer, compression="zstd", row_group_size=2**30)
    data = buffer.getvalue()
    stats = {
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
    # Without its marker the old part is no part; the journal still holds what is fresh.
    stem.with_suffix(".stats.json").unlink(missing_ok=True)
    write_bytes(stem.with_suffix(".parquet"), data)
    write_bytes(stem.with_suffix(".stats.json"), json.dumps(stats, sort_keys=True).encode())
    shutil.rmtree(find_journal(out, number), ignore_errors=True)


def write_outcome(out: Path, number: int, key: str, outcome: Outcome) -> None:
    """Keep the outcome of a finished item; it is in work no longer."""
    journal = find_journal(out, number)
    write_bytes(journal / f"{key}.json", json.dumps(asdict(outcome)).encode())
    (journal / f"{key}.trace").unlink(missing_ok=True)


def read_outcomes(out: Path, number: int) -> dict[str, Outcome]:
    """Read what is finished of a part that is not whole yet."""
    found = {}
    for path in sorted(find_journal(out, number).glob("*.json")):
        try:
            found[path.stem] = Outcome(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            path.unlink()
    return found


def find_trace(out: Path, number: int, key: str) -> Path:
    """Name the file that stands while an item is in work, and tells how its process died."""
    return find_journal(out, number) / f"{key}.trace"


def find_journal(out: Path, number: int) -> Path:
    """Name the folder of a part's journal."""
    return out / "manifest" / ".open" / name_part(number)


def write_summary(out: Path, fingerprint: str, numbers: Sequence[int]) -> None:
    """Write ``manifest.json``: parts, their digests, and totals."""
    parts, status, reason, ignored = [], Counter[str](), Counter[str](), 0
    for number in numbers:
        name = name_part(number)
        stats = json.loads((out / "manifest" / f"{name}.stats.json").read_text(encoding="utf-8"))
        parts.append({"name": f"{name}.parquet", "rows": stats["rows"], "sha256": stats["sha256"]})
        status.update(stats["status"])
        reason.update(stats["reason"])
        ignored += sum(item["status"] == IGNORED for item in stats["items"].values())
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
    with suppress(OSError):
        (out / "manifest" / ".open").rmdir()


def remove_output(out: Path) -> None:
    """Remove what earlier runs wrote, and nothing else."""
    for name in ("manifest", "images"):
        shutil.rmtree(out / name, ignore_errors=True)
    (out / "manifest.json").unlink(missing_ok=True)


def describe_item(item: Item, part: int, digest: str) -> Entry:
    """Remember an item as it is now."""
    return Entry(part=part, n_bytes=item.n_bytes, mtime_ns=item.mtime_ns, digest=digest)
