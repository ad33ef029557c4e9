"""Arrays of bytes, one an item, packed once and then read without decoding anything.

PACK/KIND-00000.npy     bytes [n, ...], to be mapped into memory
PACK/KIND-00000.json    the shard is whole: a digest of what went into it
PACK/KIND.parquet       name, digest of the source, shard and place of each item
PACK/KIND.json          written last: settings, and how much there is
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64, UInt8

from drrgen.errors import ManifestError
from drrgen.io.atomic import PARTIAL_MARK, atomic_path, write_bytes

SHARD_VERSION = 1  # of the layout
SHARD_BYTES = 2**28
_BLOCK = 64  # items in work at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What is to be packed.

    Attributes:
        kind: Word that names its files.
        names: Of each item.
        digests: Of each item's source; a changed one is packed again.
        shape: Of an item's array.
        read: Makes the array of an item, by its number.
        settings: What decides the bytes besides the source; plain types that JSON knows.
    """

    kind: str
    names: Sequence[str]
    digests: Sequence[str]
    shape: tuple[int, ...]
    read: Callable[[int], UInt8[np.ndarray, "..."]]
    settings: Mapping[str, Any]

    def digest_plan(self, part: range) -> str:
        """Digest what is to go into a shard."""
        told = [[self.names[i], self.digests[i]] for i in part]
        text = json.dumps([SHARD_VERSION, self.shape, dict(self.settings), told], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """How far a packing has come, in items."""

    done: int
    total: int
    kept: int


def write_shards(content: Content, to: Path, *, shard_bytes: int = SHARD_BYTES) -> Iterator[Packed]:
    """Pack all items, shard by shard; shards that are there are kept.

    Args:
        content: What to pack.
        to: Folder.
        shard_bytes: Size of a shard [bytes].

    Yields:
        How far it has come.

    Raises:
        ManifestError: ``to`` holds a pack of other settings.
        OSError: Something cannot be written.
    """
    _check_settings(to, content)
    for partial in to.glob(f".{content.kind}*{PARTIAL_MARK}*"):
        partial.unlink(missing_ok=True)
    total, per_shard = len(content.names), max(1, shard_bytes // math.prod(content.shape))
    parts = [range(s, min(s + per_shard, total)) for s in range(0, total, per_shard)]
    done = kept = 0
    for number, part in enumerate(parts):
        path = to / f"{_name_shard(content.kind, number)}.npy"
        if _is_whole(path, plan := content.digest_plan(part)):
            kept += len(part)
            yield Packed(done=done, total=total, kept=kept)
            continue
        for n in _write_shard(path, content, part, plan):
            yield Packed(done=done + n, total=total, kept=kept)
        done += len(part)
    _write_index(to, content, per_shard)
    head = {
        "settings": dict(content.settings),
        "shape": content.shape,
        "items": total,
        "shards": len(parts),
        "version": SHARD_VERSION,
    }
    write_bytes(_find_head(to, content.kind), (json.dumps(head, indent=2) + "\n").encode())
    for stale in to.glob(f"{content.kind}-*"):  # of a pack that needed more shards
        if int(stale.stem.rsplit("-", 1)[1]) >= len(parts):
            stale.unlink()


class ShardReader:
    """Reads packed arrays: a copy out of memory-mapped files.

    Args:
        folder: What ``write_shards`` wrote.
        kind: Of what.
        names: Items that will be read, by their place here; they may be a part of those packed.
        digests: Of their sources.

    Raises:
        ManifestError: No finished pack, a damaged one, or one without some of the items.
    """

    def __init__(
        self, folder: Path, kind: str, names: Sequence[str], digests: Sequence[str]
    ) -> None:
        try:
            head = read_head(folder, kind)
            self.settings: dict[str, Any] = head["settings"]
            self.shape = tuple(head["shape"])
            index = pq.read_table(folder / f"{kind}.parquet").to_pydict()
            where = zip(index["name"], index["digest"], index["shard"], index["place"], strict=True)
            known = {(name, digest): (shard, place) for name, digest, shard, place in where}
            self._shards = [
                np.load(folder / f"{_name_shard(kind, n)}.npy", mmap_mode="r")
                for n in range(head["shards"])
            ]
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise ManifestError(
                f"{folder} is not as drrgen pack wrote it: its {kind} are damaged "
                f"({type(error).__name__}); remove it and run drrgen pack again"
            ) from error
        lacking = [each for each in zip(names, digests, strict=True) if each not in known]
        if lacking:
            raise ManifestError(
                f"{folder} lacks {len(lacking)} of {len(names)} {kind}, or has older ones, such as "
                f"{lacking[0][0]}; run drrgen pack again, which adds them"
            )
        self._where = np.array([known[each] for each in zip(names, digests, strict=True)])

    def read(self, rows: Int64[np.ndarray, " b"]) -> UInt8[np.ndarray, "b ..."]:
        """Read some items."""
        out = np.empty((len(rows), *self.shape), np.uint8)
        for i, (shard, place) in enumerate(self._where[rows]):
            out[i] = self._shards[shard][place]
        return out


def read_head(folder: Path, kind: str) -> dict[str, Any]:
    """Read what a pack says of itself.

    Raises:
        ManifestError: There is no finished pack of this version.
    """
    try:
        head: dict[str, Any] = json.loads(_find_head(folder, kind).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ManifestError(
            f"{folder} holds no finished pack of {kind}; run drrgen pack first"
        ) from error
    version = head.get("version") if isinstance(head, dict) else None
    if version != SHARD_VERSION:
        raise ManifestError(
            f"{folder} is a pack of version {version}, wanted {SHARD_VERSION}; remove "
            "it and run drrgen pack again"
        )
    return head


def _find_head(folder: Path, kind: str) -> Path:
    """Name the file that says what a pack is."""
    return folder / f"{kind}.json"


def _check_settings(to: Path, content: Content) -> None:
    """Refuse to mix settings; a pack that is not finished has none to mix."""
    if not _find_head(to, content.kind).is_file():
        return
    found = read_head(to, content.kind)["settings"]
    if found != dict(content.settings):
        raise ManifestError(
            f"{to} is a pack of {content.kind} of the settings {found}, now "
            f"{dict(content.settings)}; give another folder, or remove it"
        )


def _name_shard(kind: str, number: int) -> str:
    """Name a shard."""
    return f"{kind}-{number:05d}"


def _is_whole(path: Path, plan: str) -> bool:
    """Say whether a shard is there, and of this plan."""
    try:
        marker = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return bool(marker["plan"] == plan and marker["bytes"] == path.stat().st_size)
    except (OSError, ValueError, KeyError):
        return False


def _write_shard(path: Path, content: Content, part: range, plan: str) -> Iterator[int]:
    """Write a shard, then its marker; tell how many items are done."""
    path.with_suffix(".json").unlink(missing_ok=True)
    with atomic_path(path) as partial, ThreadPoolExecutor(os.cpu_count()) as pool:
        shard = np.lib.format.open_memmap(
            partial, mode="w+", dtype=np.uint8, shape=(len(part), *content.shape)
        )
        for start in range(0, len(part), _BLOCK):
            block = part[start : start + _BLOCK]
            for i, made in enumerate(pool.map(content.read, block), start=start):
                shard[i] = made
            yield start + len(block)
        shard.flush()
        del shard
    marker = {"plan": plan, "bytes": path.stat().st_size, "items": len(part)}
    write_bytes(path.with_suffix(".json"), json.dumps(marker).encode())


def _write_index(to: Path, content: Content, per_shard: int) -> None:
    """Write where each item is."""
    numbers = range(len(content.names))
    table = pa.table(
        {
            "name": list(content.names),
            "digest": list(content.digests),
            "shard": [i // per_shard for i in numbers],
            "place": [i % per_shard for i in numbers],
        }
    )
    with atomic_path(to / f"{content.kind}.parquet") as partial:
        pq.write_table(table, partial, compression="zstd")
