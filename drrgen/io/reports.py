"""Radiology reports: findings, impression, language; from any table, split where they are one text.

A report is text that people wrote: it may name a patient. It goes into the manifest and nowhere
else.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from drrgen.errors import InputError
from drrgen.io.tables import (
    KeyedTable,
    KeyRule,
    TableRow,
    Values,
    make_keyed,
    read_rows,
    settle_columns,
    take_key,
)

MISSING = frozenset({"", "nan", "none", "null", "na", "n/a", "not given", "not available", "-"})

_CONSTANTS = ("language", "several")
_FINDINGS = ("FINDINGS AND IMPRESSIONS?", "FINDINGS?/IMPRESSIONS?", "FINDINGS?")
_IMPRESSION = ("IMPRESSIONS?", "CONCLUSIONS?")
_OTHERS = ("TECHNIQUES?", "CLINICAL (?:INFORMATION|HISTORY|INDICATION)", "HISTORY", "INDICATIONS?",
           "COMPARISONS?", "EXAM(?:INATION)?", "PROCEDURE", "RECOMMENDATIONS?", "NOTIFICATION",
           "REASON FOR EXAM(?:INATION)?")  # fmt: skip
_WORDS = "|".join((*_FINDINGS, *_IMPRESSION, *_OTHERS))
# At the start of a line or a sentence in any case, elsewhere in capitals only: "other findings: "
# in the middle of a sentence is no heading. A heading may also stand alone on its line.
_HEADING = re.compile(
    rf"(?:^|(?<=[.!?;]\s))[ \t*#_]*(?P<start>(?i:{_WORDS}))[ \t*_]*:[*_]*"
    rf"|(?<![\w])(?P<middle>{_WORDS})[*_]*:[*_]*"
    rf"|^[ \t*#_]*(?P<alone>(?i:{_WORDS}))[ \t*_]*$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a radiologist wrote of one study; None where a section is missing.

    Attributes:
        findings: What is seen.
        impression: What it means.
        language: Code of the language: ``en``.
    """

    findings: str | None = None
    impression: str | None = None
    language: str | None = None

    def __bool__(self) -> bool:
        return self.findings is not None or self.impression is not None

    @property
    def sha256(self) -> str | None:
        """Digest of the text without regard to case, blanks and forms of characters."""
        if not self:
            return None
        texts = [_normalize(self.findings), _normalize(self.impression)]
        return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportColumns:
    """Where a table keeps its reports: for each field the first column of these that is there.

    Attributes:
        key: What the report belongs to.
        findings: Findings.
        impression: Impression.
        text: A report in one text, split at its headings where the two above are empty.
        language_column: Language.
        patient: What names the patient.
        scan: What names the study; its rows are of one patient and one scan.
        language: Language of all reports, where no column tells.
        several: What to do with different reports of one key: ``refuse`` them, or make a row of
            ``each``.
    """

    key: tuple[str, ...]
    findings: tuple[str, ...] = ()
    impression: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    language_column: tuple[str, ...] = ()
    patient: tuple[str, ...] = ()
    scan: tuple[str, ...] = ()
    language: str | None = None
    several: str = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoundReport:
    """A report, and what its row tells beside it.

    Attributes:
        report: The text.
        patient: What names the patient; "" when not told.
        scan: What names the study; "" when not told.
        place: File and row, for messages.
        position: Which row of the table it is, of those that are kept.
    """

    report: Report
    patient: str
    scan: str
    place: str
    position: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReportTable:
    """Reports by their key."""

    table: KeyedTable

    def find(self, key: str) -> list[FoundReport]:
        """Find the reports of a key, each text once."""
        return [self._make(position) for position in self.table.find(key)]

    def _make(self, position: int) -> FoundReport:
        """Make the record of a row."""
        findings, impression, language, patient, scan = self.table.get(position)
        report = Report(
            findings=findings or None, impression=impression or None, language=language or None
        )
        place = self.table.tell_place(position)
        return FoundReport(
            report=report, patient=patient, scan=scan, place=place, position=position
        )


def read_reports(paths: Sequence[Path], columns: ReportColumns, rule: KeyRule) -> ReportTable:
    """Read reports from tables.

    Args:
        paths: Tables, or a folder of Open-i's XML.
        columns: Where they keep what.
        rule: How a key is written, see ``KeyRule``.

    Raises:
        InputError: A table cannot be read, or two rows of a key hold different reports.
    """
    rows = (found for path in paths for found in _read(path, columns, rule))
    names = ("findings", "impression", "language", "patient", "scan")
    several = columns.several == "each"
    return ReportTable(table=make_keyed(rows, names, word="reports", several=several))


def _read(
    path: Path, columns: ReportColumns, rule: KeyRule
) -> Iterator[tuple[TableRow, str, Values]]:
    """Read the reports of one table."""
    wanted = {f.name: getattr(columns, f.name) for f in fields(columns) if f.name not in _CONSTANTS}
    chosen, names = settle_columns(path, wanted)
    if not any(chosen[field] for field in ("findings", "impression", "text")):
        options = [*columns.findings, *columns.impression, *columns.text]
        raise InputError(
            f"{path} has no column of reports; wanted one of {', '.join(options)}, it has "
            f"{', '.join(names[:20])}; see --recipe"
        )
    for row in read_rows(path, list(chosen.values())):
        _, findings, impression, text, language, patient, scan = row.values
        report = make_report(
            findings=findings, impression=impression, text=text,
            language=language or columns.language,
        )  # fmt: skip
        values = (report.findings or "", report.impression or "", report.language or "")
        yield row, take_key(row, rule), (*values, patient, scan)


def make_report(
    *, findings: str = "", impression: str = "", text: str = "", language: str | None = None
) -> Report:
    """Make a report of what a table holds.

    Args:
        findings: Findings; words for "nothing there" count as nothing.
        impression: Impression, likewise.
        text: The report in one text, taken where both are empty.
        language: Code of the language.

    Example:
        >>> make_report(findings="Clear lungs.", impression="Not given.")
        Report(findings='Clear lungs.', impression=None, language=None)
    """
    found = _clean(findings), _clean(impression)
    if found == (None, None):
        found = split_report(text)
    if found == (None, None):
        language = None
    return Report(findings=found[0], impression=found[1], language=language or None)


def split_report(text: str) -> tuple[str | None, str | None]:
    """Split a report into findings and impression, at its headings.

    Headings are words like FINDINGS and IMPRESSION (or CONCLUSION) with a colon, or alone on their
    line. A text without any heading of these two is all findings.

    Args:
        text: The whole report.

    Example:
        >>> split_report("TECHNIQUE: CT. FINDINGS: Clear lungs. IMPRESSION: Normal.")
        ('Clear lungs.', 'Normal.')
    """
    parts: dict[str, list[str]] = {"findings": [], "impression": []}
    headings = list(_HEADING.finditer(text))
    ends = [*(heading.start() for heading in headings[1:]), len(text)]
    known = False
    for heading, end in zip(headings, ends, strict=False):
        section = _name_section(next(filter(None, heading.groups())))
        if section is None:
            continue
        known = True
        content = _clean(text[heading.end() : end])
        if content is not None:
            parts[section].append(content)
    if not known:
        return _clean(text), None
    findings, impression = ("\n".join(parts[section]) or None for section in parts)
    return findings, impression


def _name_section(heading: str) -> str | None:
    """Say which section a heading opens; None for one that is not kept."""
    if re.fullmatch("|".join(_FINDINGS), heading, re.IGNORECASE):
        return "findings"
    return "impression" if re.fullmatch("|".join(_IMPRESSION), heading, re.IGNORECASE) else None


def _clean(text: str) -> str | None:
    """Trim a section; None where it says that there is none."""
    trimmed = text.replace("\r\n", "\n").strip()
    return None if trimmed.rstrip(".").strip().lower() in MISSING else trimmed


def _normalize(text: str | None) -> str:
    """Write a text as another copy of the same one would be written."""
    return " ".join(unicodedata.normalize("NFKC", text or "").casefold().split())
