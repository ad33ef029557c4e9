"""Is a data set whole, true, and without leakage between its splits?

Every check takes the whole manifest as one pandas frame and answers with findings; none changes
anything. An error means that the data must not be trained on as it is; a warning is worth a look.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from drrgen.choices import Split, View
from drrgen.errors import ManifestError, Reason, Status, status_of
from drrgen.io.atomic import digest_file
from drrgen.io.stores import Place, list_files, list_names
from drrgen.jobs.shards import read_stats_file
from drrgen.manifest import KEY, SCHEMA
from drrgen_pipelines.rows import read_summary

EXAMPLES = 5
PATH_COLUMNS = ("cxr_path", "mask_path", "bone_path", "soft_path", "line_integral_path")
_READERS = 8  # threads that read files; hashing lets others run


class Severity(StrEnum):
    """Whether a finding spoils the data set."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        severity: Whether it spoils the data set.
        code: Stable word.
        count: How often.
        text: What is wrong, in a sentence.
        examples: Where, at most five.
    """

    severity: Severity
    code: str
    count: int
    text: str
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a check looked at and found.

    Attributes:
        rows: Rows of the manifest.
        files: Files whose content was read.
        findings: What is wrong, errors first.
    """

    rows: int
    files: int
    findings: tuple[Finding, ...]

    @property
    def is_sound(self) -> bool:
        """Whether there is no error; warnings do not count."""
        return all(finding.severity is not Severity.ERROR for finding in self.findings)

    def to_json(self) -> str:
        """Write it all as JSON."""
        return json.dumps(asdict(self) | {"is_sound": self.is_sound}, indent=2)


def check_dataset(out: Place, *, contents: bool = True) -> Checked:
    """Check a data set.

    Args:
        out: Output folder of ``drrgen render``.
        contents: Read every file and compare its digest; else only look whether it is there.

    Raises:
        ManifestError: There is no manifest at all, or no part of it can be read.
    """
    parts, findings = _check_parts(out)
    tables = [table for table, _ in parts.values()]
    if not tables:
        raise ManifestError(f"{out} holds no readable part of a manifest; run drrgen render first")
    frame = pa.concat_tables(tables).to_pandas()
    digests = {name: digest for _, files in parts.values() for name, digest in files.items()}
    for check in (_check_keys, _check_rows, _check_ranges, _check_splits, _check_paths):
        findings += check(frame)
    findings += _check_files(out, frame, digests, contents=contents)
    findings.sort(key=lambda finding: (finding.severity, finding.code))
    return Checked(rows=len(frame), files=len(digests) if contents else 0, findings=tuple(findings))


def _find(severity: Severity, code: str, text: str, where: Iterable[object]) -> list[Finding]:
    """Make a finding of places; none when there are none."""
    places = [str(place) for place in where]
    if not places:
        return []
    return [
        Finding(
            severity=severity,
            code=code,
            count=len(places),
            text=text,
            examples=tuple(places[:EXAMPLES]),
        )
    ]


def _check_parts(out: Place) -> tuple[dict[str, tuple[pa.Table, dict[str, str]]], list[Finding]]:
    """Read the parts that can be read, with the digests of their files."""
    listed = {part["name"]: part["sha256"] for part in read_summary(out)["parts"]}
    on_disk = {path.name for path in list_files(out / "manifest", "*.parquet")}
    findings = _find(
        Severity.ERROR, "part_missing", "parts in manifest.json that are not there",
        sorted(listed.keys() - on_disk),
    )  # fmt: skip
    findings += _find(
        Severity.ERROR, "part_unlisted", "parts that manifest.json does not know",
        sorted(on_disk - listed.keys()),
    )  # fmt: skip
    parts, broken, foreign = {}, [], []
    for name in sorted(listed.keys() & on_disk):
        path = out / "manifest" / name
        marker = read_stats_file(path.with_suffix(".stats.json"))
        if marker is None or not marker["sha256"] == listed[name] == digest_file(path):
            broken.append(name)
            continue
        with path.open("rb") as file:
            table = pq.read_table(file)
        if not table.schema.equals(SCHEMA):
            foreign.append(name)
            continue
        files = {n: d for item in marker["items"].values() for n, d in item["files"].items()}
        parts[name] = table, files
    findings += _find(
        Severity.ERROR, "part_broken", "parts that are not as their marker says", broken
    )
    findings += _find(Severity.ERROR, "schema_mismatch", "parts of another schema", foreign)
    return parts, findings


def _name(frame: pd.DataFrame) -> Iterator[str]:
    """Name rows by their key."""
    for sample, view, draw in frame[list(KEY)].itertuples(index=False):
        yield f"{sample} {view or '-'} {draw}"


def _check_keys(frame: pd.DataFrame) -> list[Finding]:
    """No two rows share a key."""
    twice = frame[frame.duplicated(list(KEY), keep=False)]
    return _find(
        Severity.ERROR, "duplicate_key", "rows that share sample, view and draw", _name(twice)
    )


def _check_rows(frame: pd.DataFrame) -> list[Finding]:
    """A row with a picture is complete, and one without says why."""
    good = frame["status"] == Status.OK
    complete = (
        frame[["view", "cxr_path", "cxr_sha256", "width", "height", "split"]].notna().all(axis=1)
    )
    telling = frame["reason"].notna() & frame["view"].isna() & frame["cxr_path"].isna()
    fitting = frame.apply(_fits, axis=1) if not good.all() else pd.Series(True, index=frame.index)
    words = good & frame["view"].isin(list(View)) | ~good
    bad = frame[~(good & complete & words | ~good & telling & fitting)]
    return _find(
        Severity.ERROR, "row_inconsistent", "rows whose columns contradict their status", _name(bad)
    )


def _fits(row: pd.Series) -> bool:
    """Say whether status and reason belong together."""
    if row["status"] == Status.OK:
        return True
    known = row["reason"] in set(Reason)
    return known and row["status"] == status_of(Reason(row["reason"]))


def _check_ranges(frame: pd.DataFrame) -> list[Finding]:
    """Numbers lie where they can."""
    good = frame[frame["status"] == Status.OK]
    rules: dict[str, pd.Series] = {
        # Nobody need know the pitch of a real radiograph.
        "pitch_mm": ~(good["pitch_mm"] > 0)
        & (good["cxr_kind"].ne("real") | good["pitch_mm"].notna()),
        "sod_mm": good["sod_mm"] >= good["sid_mm"],
        "width": ~(good["width"] > 0) | ~(good["height"] > 0),
        "hu_p50": (good["hu_p01"] > good["hu_p50"]) | (good["hu_p50"] > good["hu_p99"]),
        "exposed_xywh": _lies_outside(good),
    }
    findings = []
    for column, wrong in rules.items():
        text = f"rows whose {column} is impossible"
        findings += _find(Severity.ERROR, f"range_{column}", text, _name(good[wrong.fillna(False)]))
    return findings


def _lies_outside(good: pd.DataFrame) -> pd.Series:
    """Say of which rows the exposed rectangle reaches beyond the picture."""
    boxes = good[["exposed_xywh", "width", "height"]].itertuples(index=False)
    outside = [
        box is not None and (min(box) < 0 or box[0] + box[2] > width or box[1] + box[3] > height)
        for box, width, height in boxes
    ]
    return pd.Series(outside, index=good.index, dtype=bool)


def _check_splits(frame: pd.DataFrame) -> list[Finding]:
    """No patient and no CT is in two splits; the same report may be, and is counted."""
    findings = _find(
        Severity.ERROR, "split_unknown", "rows whose split is none of ours",
        _name(frame[~frame["split"].isin(list(Split))]),
    )  # fmt: skip
    rules = (
        (
            Severity.ERROR,
            "patient_leak",
            "patients in more than one split",
            ["dataset", "patient_id"],
        ),
        (Severity.ERROR, "ct_leak", "CT in more than one split", ["ct_sha256"]),
        (Severity.WARNING, "report_leak", "report texts in more than one split", ["report_sha256"]),
    )
    for severity, code, text, columns in rules:
        known = frame.dropna(subset=columns)
        splits = known.groupby(columns)["split"].nunique()
        leaking = splits[splits > 1].index
        findings += _find(severity, code, text, (_last(key) for key in leaking))
    return findings


def _last(key: object) -> object:
    """Take the name out of a grouping key."""
    return key[-1] if isinstance(key, tuple) else key


def _check_paths(frame: pd.DataFrame) -> list[Finding]:
    """Paths stay inside the output folder."""
    paths = pd.concat([frame[column].dropna() for column in PATH_COLUMNS])
    wild = [path for path in paths if PurePosixPath(path).is_absolute() or ".." in path.split("/")]
    return _find(Severity.ERROR, "path_escapes", "paths that leave the output folder", wild)


def _check_files(
    out: Place, frame: pd.DataFrame, digests: dict[str, str], *, contents: bool
) -> list[Finding]:
    """Every file is there, as it was written, and no other."""
    named = set(pd.concat([frame[column].dropna() for column in PATH_COLUMNS]))
    safe = {name for name in digests.keys() | named if ".." not in name.split("/")}
    look: Callable[[str], str | None] = _digest(out) if contents else _exists(out)
    with ThreadPoolExecutor(_READERS) as pool:
        found = dict(zip(sorted(safe), pool.map(look, sorted(safe)), strict=True))
    gone = [name for name, digest in found.items() if digest is None]
    changed = [
        name
        for name, digest in found.items()
        if contents and digest is not None and digests.get(name) not in (None, digest)
    ]
    there = {f"images/{name}" for name in list_names(out / "images")}
    return [
        *_find(Severity.ERROR, "file_missing", "files that are not there", gone),
        *_find(Severity.ERROR, "file_changed", "files that are not as they were written", changed),
        *_find(Severity.WARNING, "file_unknown", "files that no row names", sorted(there - safe)),
    ]


def _digest(out: Place) -> Callable[[str], str | None]:
    """Digest files under a folder; None for one that cannot be read."""

    def digest(name: str) -> str | None:
        try:
            return digest_file(out / name)
        except OSError:
            return None

    return digest


def _exists(out: Place) -> Callable[[str], str | None]:
    """Answer something for files that are there, and None for others."""
    if isinstance(out, Path):
        return lambda name: "there" if (out / name).is_file() else None
    there = list_names(out)  # asking a store for one after the other takes too long
    return lambda name: "there" if name in there else None
