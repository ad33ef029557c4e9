"""Parts of a manifest on disk: a journal while they grow, a marker once they are whole.

    OUT/manifest/.plan.json               which item belongs to which part
    OUT/manifest/.open/part-N/KEY.json    rows of a finished item, until its part is written
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
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow.parquet as pq

from drrgen.errors import ManifestError
from drrgen.io.atomic import write_bytes
from drrgen.jobs.task import Item, Task
from drrgen.manifest import SCHEMA_VERSION, Row


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


def read_part(out: Path, number: int) -> list[Row] | None:
    """Read the rows of a part; None unless it is whole and as its marker says."""
    stem = out / "manifest" / name_part(number)
    try:
        marker = json.loads(stem.with_suffix(".stats.json").read_text(encoding="utf-8"))
        data = stem.with_suffix(".parquet").read_bytes()
    except (OSError, ValueError):
        return None
    if marker.get("sha256") != hashlib.sha256(data).hexdigest():
        return None
    return list(pq.read_table(io.BytesIO(data)).to_pylist())


def write_part(out: Path, number: int, rows: list[Row], task: Task, ignored: int) -> None:
    """Write a part, then its marker, then drop its journal."""
    stem = out / "manifest" / name_part(number)
    stem.with_suffix(".stats.json").unlink(missing_ok=True)
    buffer = io.BytesIO()
    pq.write_table(task.to_table(rows), buffer, compression="zstd", row_group_size=2**30)
    data = buffer.getvalue()
    write_bytes(stem.with_suffix(".parquet"), data)
    stats = {
        "sha256": hashlib.sha256(data).hexdigest(),
        "rows": len(rows),
        "ignored": ignored,
        "status": Counter(row["status"] for row in rows),
        "reason": Counter(row["reason"] for row in rows if row["reason"]),
        "host": platform.node(),
        "python": platform.python_version(),
    }
    write_bytes(stem.with_suffix(".stats.json"), json.dumps(stats, sort_keys=True).encode())
    shutil.rmtree(_find_journal(out, number), ignore_errors=True)


def write_journal(out: Path, number: int, key: str, rows: list[Row]) -> None:
    """Keep the rows of one finished item."""
    write_bytes(_find_journal(out, number) / f"{key}.json", json.dumps(rows).encode())


def read_journal(out: Path, number: int) -> dict[str, list[Row]]:
    """Read what an interrupted run had finished of a part."""
    found = {}
    for path in sorted(_find_journal(out, number).glob("*.json")):
        try:
            found[path.stem] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            path.unlink()
    return found


def write_summary(out: Path, fingerprint: str, numbers: Sequence[int]) -> None:
    """Write ``manifest.json``: parts, their digests, and totals."""
    parts, status, reason, ignored = [], Counter[str](), Counter[str](), 0
    for number in numbers:
        name = name_part(number)
        stats = json.loads((out / "manifest" / f"{name}.stats.json").read_text(encoding="utf-8"))
        parts.append({"name": f"{name}.parquet", "rows": stats["rows"], "sha256": stats["sha256"]})
        status.update(stats["status"])
        reason.update(stats["reason"])
        ignored += stats["ignored"]
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


def remove_output(out: Path) -> None:
    """Remove what earlier runs wrote, and nothing else."""
    for name in ("manifest", "images"):
        shutil.rmtree(out / name, ignore_errors=True)
    (out / "manifest.json").unlink(missing_ok=True)


def describe_item(item: Item, part: int, digest: str) -> Entry:
    """Remember an item as it is now."""
    return Entry(part=part, n_bytes=item.n_bytes, mtime_ns=item.mtime_ns, digest=digest)


def _find_journal(out: Path, number: int) -> Path:
    """Name the folder of a part's journal."""
    return out / "manifest" / ".open" / name_part(number)
