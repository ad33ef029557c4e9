"""A data set as tar shards, for trainers that stream them in the way of WebDataset.

    DIR/train-000000.tar    KEY.png, KEY.json, KEY.txt of one radiograph after the other
    DIR/index.json          the shards, their digests, and totals; written after every shard

Which radiograph goes into which shard follows from the manifest and the sizes of the files alone,
and a shard holds no time, no owner and no name of a machine: the same data set gives the same
bytes. A shard that is there as the index says is kept, so the same command goes on where it was
interrupted.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from re import fullmatch

from drrgen.choices import Split
from drrgen.errors import InputError, ManifestError, Status
from drrgen.io.atomic import PARTIAL_MARK, atomic_path, digest_file, write_bytes
from drrgen.io.stores import Place, lies_within, list_files
from drrgen.manifest import KEY, Row, sort_key
from drrgen_pipelines.rows import find_file, read_parts, read_summary, to_plain

INDEX_NAME = "index.json"
MB = 10**6
_BLOCK = tarfile.BLOCKSIZE
_ENDINGS = {".png", ".dcm", ".npy", ".tif", ".tiff", ".jpg", ".jpeg"}
_SAFE_KEY = r"[A-Za-z0-9_-]{1,90}"  # a dot would end the key for a reader


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One radiograph on its way into a shard.

    Attributes:
        key: Name that its files share.
        picture: The picture file.
        digest: SHA-256 that the manifest's marker has of it.
        n_bytes: Size of the picture [bytes].
        texts: Its other files, by ending.
    """

    key: str
    picture: Place
    digest: str
    n_bytes: int
    texts: Mapping[str, bytes]

    @property
    def size(self) -> int:
        """Bytes it takes in a tar: a header and whole blocks for each file."""
        sizes = [self.n_bytes, *(len(text) for text in self.texts.values())]
        return sum(_BLOCK + -(-n // _BLOCK) * _BLOCK for n in sizes)

    @property
    def fingerprint(self) -> str:
        """What tells this sample from an older one of the same key."""
        told = {ending: hashlib.sha256(text).hexdigest() for ending, text in self.texts.items()}
        return json.dumps([self.key, self.picture.suffix, self.digest, told], sort_keys=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """What the index says of a shard.

    Attributes:
        name: File name.
        split: Split of all its samples.
        samples: How many.
        bytes: Size of the file.
        sha256: Digest of the file.
        plan: Digest of what was to go into it.
    """

    name: str
    split: str
    samples: int
    bytes: int
    sha256: str
    plan: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A shard that is done.

    Attributes:
        shard: The shard.
        is_new: Whether it was written now; else it was there already.
    """

    shard: Shard
    is_new: bool


def export_webdataset(
    out: Place, to: Place, *, splits: Sequence[Split] = tuple(Split), shard_mb: int = 1000
) -> Iterator[Exported]:
    """Write the radiographs of a data set as tar shards, a split after the other.

    One export at a time may write into a folder.

    Args:
        out: Output folder of ``drrgen render``.
        to: Folder of the shards; not the data set's own.
        splits: Which splits; shards of others stay.
        shard_mb: A shard ends before it grows beyond this; a larger sample is one alone [MB].

    Raises:
        InputError: ``to`` is inside the data set, or ``shard_mb`` is not positive.
        ManifestError: No finished manifest, a picture that is gone or changed, or shards of
            another data set in ``to``.
        OSError: A shard cannot be written.
    """
    if shard_mb < 1:
        raise InputError(f"shard_mb must be positive, got {shard_mb}; give megabytes, such as 1000")
    if lies_within(to, out):
        raise InputError(f"{to} is inside the data set {out}; give a folder beside it with --to")
    fingerprint = read_summary(out)["fingerprint"]
    there = _read_index(to, fingerprint)
    done = {name: shard for name, shard in there.items() if shard.split not in splits}
    for split in splits:
        _remove_partials(to, split)
        samples = _read_samples(out, split)
        for number, group in enumerate(_group(samples, shard_mb * MB)):
            name = f"{split}-{number:06d}.tar"
            old = there.get(name)
            plan = _digest_plan(group)
            is_kept = old is not None and old.plan == plan and _is_whole(to / name, old)
            shard = old if old and is_kept else _write_shard(to / name, split, group, plan)
            done[name] = shard
            _write_index(to, fingerprint, {**there, **done}.values(), is_complete=False)
            yield Exported(shard=shard, is_new=not is_kept)
    for name in sorted(there.keys() - done.keys()):  # of an export that needed more shards
        (to / name).unlink(missing_ok=True)
    _write_index(to, fingerprint, done.values(), is_complete=True)


def _remove_partials(to: Place, split: Split) -> None:
    """Remove what a killed export left of shards of a split."""
    for partial in list_files(to, f".{split}-*.tar{PARTIAL_MARK}*"):
        partial.unlink(missing_ok=True)


def _read_samples(out: Place, split: Split) -> Iterator[Sample]:
    """Read the radiographs of a split, in the order of the manifest."""
    for part in read_parts(out):
        for row in sorted(part.rows, key=sort_key):
            if row["status"] == Status.OK and row["split"] == split:
                yield _make_sample(out, row, part.digests)


def _make_sample(out: Place, row: Row, digests: Mapping[str, str]) -> Sample:
    """Find the files of a row, and see that they are there."""
    key = "_".join(str(row[name]) for name in KEY)
    name = row["cxr_path"]
    if name is None or name not in digests:
        raise ManifestError(f"{key}: the manifest has no digest of its picture; run drrgen check")
    path = find_file(out, name)
    if not fullmatch(_SAFE_KEY, key) or PurePosixPath(name).suffix not in _ENDINGS:
        raise ManifestError(
            f"cannot export {key!r} with the picture {name!r}, wanted a key of letters, digits, _ "
            f"and -, and one of {', '.join(sorted(_ENDINGS))}; render the data set again"
        )
    try:
        n_bytes = path.stat().st_size
    except OSError as error:
        raise ManifestError(
            f"{path} is in the manifest and not on disk; run drrgen check, then drrgen render"
        ) from error
    return Sample(key=key, picture=path, digest=digests[name], n_bytes=n_bytes, texts=_tell(row))


def _tell(row: Row) -> dict[str, bytes]:
    """Write the row as JSON, without nulls, and its report as text where it has one."""
    plain = {name: to_plain(value) for name, value in row.items()}
    told = {name: value for name, value in plain.items() if value is not None}
    texts = {".json": json.dumps(told, ensure_ascii=False, allow_nan=False).encode()}
    sections = [row["report_findings"], row["report_impression"]]
    if report := "\n\n".join(section for section in sections if section):
        texts[".txt"] = report.encode()
    return texts


def _group(samples: Iterable[Sample], most_bytes: int) -> Iterator[list[Sample]]:
    """Cut samples into shards."""
    group: list[Sample] = []
    n_bytes = 0
    for sample in samples:
        if group and n_bytes + sample.size > most_bytes:
            yield group
            group, n_bytes = [], 0
        group.append(sample)
        n_bytes += sample.size
    if group:
        yield group


def _digest_plan(group: Iterable[Sample]) -> str:
    """Digest what goes into a shard."""
    return hashlib.sha256("\n".join(each.fingerprint for each in group).encode()).hexdigest()


def _write_shard(path: Place, split: Split, group: Sequence[Sample], plan: str) -> Shard:
    """Write a shard, whole."""
    with atomic_path(path) as partial:
        with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
            for sample in group:
                _add_file(tar, sample.key + sample.picture.suffix, _read_picture(sample))
                for ending, text in sample.texts.items():
                    _add_file(tar, sample.key + ending, text)
        digest, n_bytes = digest_file(partial), partial.stat().st_size
    return Shard(name=path.name, split=split.value, samples=len(group), bytes=n_bytes,
                 sha256=digest, plan=plan)  # fmt: skip


def _read_picture(sample: Sample) -> bytes:
    """Read a picture; raise ManifestError unless it is as it was written."""
    data = sample.picture.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != sample.digest:
        raise ManifestError(
            f"{sample.picture} has the digest {found[:12]}, wanted {sample.digest[:12]} as when it "
            "was written; run drrgen check, and render the data set again"
        )
    return data


def _add_file(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file of nobody, from 1970."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o644
    tar.addfile(entry, io.BytesIO(data))


def _is_whole(path: Place, shard: Shard) -> bool:
    """Say whether a shard is there as the index has it."""
    try:
        return path.stat().st_size == shard.bytes and digest_file(path) == shard.sha256
    except OSError:
        return False


def _read_index(to: Place, fingerprint: str) -> dict[str, Shard]:
    """Read the shards of an earlier export; raise ManifestError for another data set's."""
    path = to / INDEX_NAME
    if not path.exists():
        return {}
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        shards = {each["name"]: Shard(**each) for each in index["shards"]}
        same = index["fingerprint"] == fingerprint
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"{path} is no index of drrgen export; give another --to") from error
    if not same:
        raise ManifestError(
            f"{to} holds shards of a data set of other settings; give another --to, or remove it"
        )
    return {PurePosixPath(name).name: shard for name, shard in shards.items()}


def _write_index(
    to: Place, fingerprint: str, shards: Iterable[Shard], *, is_complete: bool
) -> None:
    """Write the index."""
    listed = sorted(shards, key=lambda shard: shard.name)
    samples = {split.value: sum(s.samples for s in listed if s.split == split) for split in Split}
    index = {
        "fingerprint": fingerprint,
        "is_complete": is_complete,
        "samples": samples,
        "shards": [asdict(shard) for shard in listed],
    }
    write_bytes(to / INDEX_NAME, (json.dumps(index, indent=2) + "\n").encode())
